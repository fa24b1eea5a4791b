//! One property of MQTT 5: the table of identifier, type, and the packets that may carry it.
//! Read MQTT 5 section 2.2.2 first.

use super::Fault;
use super::reader::Reader;
use super::text::Place;
use super::writer::{Counter, Full, Sink, Writer};

/// Where properties stand; the will has its own inside CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    Connect,
    Will,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Disconnect,
    Auth,
}

impl Context {
    #[cfg(test)]
    pub(super) const ALL: [Self; 14] = [
        Self::Connect,
        Self::Will,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Disconnect,
        Self::Auth,
    ];

    /// Are they passed on to others?
    pub(super) const fn is_passed_on(self) -> bool {
        matches!(self, Self::Will | Self::Publish)
    }

    const fn bit(self) -> u16 {
        match self {
            Self::Connect => 1,
            Self::Will => 1 << 1,
            Self::Connack => 1 << 2,
            Self::Publish => 1 << 3,
            Self::Puback => 1 << 4,
            Self::Pubrec => 1 << 5,
            Self::Pubrel => 1 << 6,
            Self::Pubcomp => 1 << 7,
            Self::Subscribe => 1 << 8,
            Self::Suback => 1 << 9,
            Self::Unsubscribe => 1 << 10,
            Self::Unsuback => 1 << 11,
            Self::Disconnect => 1 << 12,
            Self::Auth => 1 << 13,
        }
    }
}

/// What a property's value is on the wire.
trait Wire<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault>;
    fn write(self, sink: &mut impl Sink) -> Result<(), Full>;
}

impl Wire<'_> for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::PropertyValueInvalid),
        }
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.u8(u8::from(self))
    }
}

impl Wire<'_> for u8 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.u8()
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.u8(self)
    }
}

impl Wire<'_> for u16 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.u16()
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.u16(self)
    }
}

impl Wire<'_> for u32 {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.u32()
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.u32(self)
    }
}

/// A variable byte integer (1.5.5): at most 268 435 455.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable(pub u32);

impl Wire<'_> for Variable {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.variable().map(Self)
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.variable(usize::try_from(self.0).map_err(|_| Full)?)
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        reader.binary()
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.binary(self)
    }
}

impl<'a> Wire<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        reader.string()
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.string(self)
    }
}

impl<'a> Wire<'a> for (&'a str, &'a str) {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        Ok((reader.string()?, reader.string()?))
    }

    fn write(self, sink: &mut impl Sink) -> Result<(), Full> {
        sink.string(self.0)?;
        sink.string(self.1)
    }
}

macro_rules! properties {
    ($($(#[$doc:meta])* $name:ident = $id:literal $kind:ty: $($context:ident)+;)*) => {
        /// Which property (2.2.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PropertyId { $($(#[$doc])* $name,)* }

        impl PropertyId {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The identifier on the wire: one byte, all are below 0x80.
            pub const fn as_u8(self) -> u8 {
                match self { $(Self::$name => $id,)* }
            }

            /// `None` for an identifier that does not exist.
            pub const fn from_u8(raw: u8) -> Option<Self> {
                match raw { $($id => Some(Self::$name),)* _ => None }
            }

            /// Whether this property may stand there.
            pub const fn is_allowed(self, context: Context) -> bool {
                let mask = match self {
                    $(Self::$name => $(Context::$context.bit())|+,)*
                };
                mask & context.bit() != 0
            }
        }

        /// A property with its value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Property<'a> { $($(#[$doc])* $name($kind),)* }

        impl<'a> Property<'a> {
            pub const fn id(&self) -> PropertyId {
                match self { $(Self::$name(_) => PropertyId::$name,)* }
            }

            /// Reads one property, identifier first.
            pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
                let id = PropertyId::from_u8(reader.u8()?).ok_or(Fault::PropertyUnknown)?;
                let value = match id {
                    $(PropertyId::$name => Wire::read(reader).map(Self::$name),)*
                };
                value.map_err(|fault| fault.at(Place::Property(id)))
            }

            fn write(&self, sink: &mut impl Sink) -> Result<(), Full> {
                sink.u8(self.id().as_u8())?;
                match *self { $(Self::$name(value) => value.write(sink),)* }
            }
        }
    };
}

properties! {
    /// Whether the payload is UTF-8.
    PayloadFormat = 0x01 bool: Publish Will;
    /// Seconds.
    MessageExpiry = 0x02 u32: Publish Will;
    ContentType = 0x03 &'a str: Publish Will;
    /// A topic name.
    ResponseTopic = 0x08 &'a str: Publish Will;
    CorrelationData = 0x09 &'a [u8]: Publish Will;
    /// Not 0.
    SubscriptionIdentifier = 0x0B Variable: Publish Subscribe;
    /// Seconds; all ones = never.
    SessionExpiry = 0x11 u32: Connect Connack Disconnect;
    AssignedClientId = 0x12 &'a str: Connack;
    /// Seconds.
    ServerKeepalive = 0x13 u16: Connack;
    AuthenticationMethod = 0x15 &'a str: Connect Connack Auth;
    AuthenticationData = 0x16 &'a [u8]: Connect Connack Auth;
    RequestProblemInformation = 0x17 bool: Connect;
    /// Seconds.
    WillDelay = 0x18 u32: Will;
    RequestResponseInformation = 0x19 bool: Connect;
    ResponseInformation = 0x1A &'a str: Connack;
    ServerReference = 0x1C &'a str: Connack Disconnect;
    ReasonString = 0x1F &'a str:
        Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth;
    /// Not 0.
    ReceiveMaximum = 0x21 u16: Connect Connack;
    TopicAliasMaximum = 0x22 u16: Connect Connack;
    /// Not 0.
    TopicAlias = 0x23 u16: Publish;
    /// 0 or 1.
    MaximumQos = 0x24 u8: Connack;
    RetainAvailable = 0x25 bool: Connack;
    UserProperty = 0x26 (&'a str, &'a str):
        Connect Will Connack Publish Puback Pubrec Pubrel Pubcomp Subscribe Suback Unsubscribe
        Unsuback Disconnect Auth;
    /// Bytes, not 0.
    MaximumPacketSize = 0x27 u32: Connect Connack;
    WildcardAvailable = 0x28 bool: Connack;
    SubscriptionIdsAvailable = 0x29 bool: Connack;
    SharedAvailable = 0x2A bool: Connack;
}

impl Property<'_> {
    /// Bytes of the encoded property, its identifier included.
    ///
    /// # Errors
    /// [`Full`] when a value is too long for its 16-bit length.
    pub fn encoded_len(&self) -> Result<usize, Full> {
        let mut counter = Counter::default();
        self.write(&mut counter)?;
        Ok(counter.0)
    }

    pub fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        self.write(writer)
    }

    /// Values that the type alone does not rule out.
    pub(super) fn check_value(&self) -> Result<(), Fault> {
        match *self {
            Self::ReceiveMaximum(0)
            | Self::MaximumPacketSize(0)
            | Self::SubscriptionIdentifier(Variable(0))
            | Self::MaximumQos(2..) => Err(Fault::PropertyValueInvalid),
            Self::TopicAlias(0) => Err(Fault::TopicAliasZero),
            Self::ResponseTopic(topic) if topic.is_empty() || topic.contains(['+', '#']) => {
                Err(Fault::ResponseTopicInvalid)
            }
            _ => Ok(()),
        }
    }
}
