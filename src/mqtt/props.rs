//! Properties of MQTT 5: one table says identifier, type, and the packets that may carry each.
//!
//! A decoded [`Properties`] is valid as a whole: every property known, in its place, in range,
//! there once (but User Property, and Subscription Identifier in PUBLISH). Its accessors walk the
//! encoded bytes: there are few, and nothing is allocated. Read MQTT 5 section 2.2.2 first.

use super::codec::Full;
use super::reader::Reader;
use super::writer::{Counter, Sink, Writer};
use super::{Fault, Malformed};
use core::fmt;

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
            fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
                let id = PropertyId::from_u8(reader.u8()?).ok_or(Fault::PropertyUnknown)?;
                Ok(match id {
                    $(PropertyId::$name => Self::$name(Wire::read(reader)?),)*
                })
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
    fn check_value(&self) -> Result<(), Fault> {
        match *self {
            Self::ReceiveMaximum(0)
            | Self::MaximumPacketSize(0)
            | Self::SubscriptionIdentifier(Variable(0))
            | Self::MaximumQos(2..) => Err(Fault::PropertyValueInvalid),
            Self::TopicAlias(0) => Err(Fault::TopicAliasZero),
            Self::ResponseTopic("") => Err(Fault::TopicEmpty),
            Self::ResponseTopic(topic) if topic.bytes().any(|b| matches!(b, b'+' | b'#')) => {
                Err(Fault::TopicWildcard)
            }
            _ => Ok(()),
        }
    }
}

/// Encoded properties without their length.
#[derive(Clone, Copy, Default)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    pub const EMPTY: Self = Self(&[]);

    /// Validates encoded properties (without their length) for their place.
    pub fn new(context: Context, bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self::check(context, bytes)?)
    }

    /// Properties this program encoded itself, or took from [`Properties::as_bytes`]. Not checked:
    /// iteration ends at what it cannot read.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Encodes `list` into `out`.
    pub fn write(list: &[Property<'_>], out: &'a mut [u8]) -> Result<Self, Full> {
        let mut writer = Writer::new(out);
        for property in list {
            property.encode(&mut writer)?;
        }
        Ok(Self(writer.into_bytes()))
    }

    #[inline]
    pub(super) fn check(context: Context, bytes: &'a [u8]) -> Result<Self, Fault> {
        if !bytes.is_empty() {
            check_each(context, bytes)?;
        }
        Ok(Self(bytes))
    }

    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every property, in the order of the wire.
    pub fn iter(&self) -> PropertiesIter<'a> {
        PropertiesIter(Reader::new(self.0))
    }
}

/// One pass over all of them.
fn check_each(context: Context, bytes: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    // A bit an identifier: all are below 64.
    let mut seen = 0_u64;
    while !reader.is_empty() {
        let property = Property::read(&mut reader)?;
        let id = property.id();
        if !id.is_allowed(context) {
            return Err(Fault::PropertyMisplaced);
        }
        let repeats = match id {
            PropertyId::UserProperty => true,
            PropertyId::SubscriptionIdentifier => context == Context::Publish,
            _ => false,
        };
        let bit = bit(id);
        if seen & bit != 0 && !repeats {
            return Err(Fault::PropertyDuplicate);
        }
        seen |= bit;
        property.check_value()?;
    }
    let data = seen & bit(PropertyId::AuthenticationData) != 0;
    if data && seen & bit(PropertyId::AuthenticationMethod) == 0 {
        return Err(Fault::AuthMethodMissing);
    }
    Ok(())
}

fn bit(id: PropertyId) -> u64 {
    1 << id.as_u8()
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Properties<'_> {}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertiesIter<'a>;

    fn into_iter(self) -> PropertiesIter<'a> {
        self.iter()
    }
}

/// Walks the properties in the order of the wire.
pub struct PropertiesIter<'a>(Reader<'a>);

impl<'a> Iterator for PropertiesIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let property = Property::read(&mut self.0).ok();
        if property.is_none() {
            self.0 = Reader::new(&[]);
        }
        property
    }
}

macro_rules! accessors {
    ($($(#[$doc:meta])* $name:ident -> $kind:ty: $pattern:pat => $value:expr;)*) => {
        impl<'a> Properties<'a> {
            $($(#[$doc])* pub fn $name(&self) -> Option<$kind> {
                self.iter().find_map(|property| match property {
                    $pattern => Some($value),
                    _ => None,
                })
            })*
        }
    };
}

accessors! {
    payload_format -> bool: Property::PayloadFormat(v) => v;
    message_expiry -> u32: Property::MessageExpiry(v) => v;
    content_type -> &'a str: Property::ContentType(v) => v;
    response_topic -> &'a str: Property::ResponseTopic(v) => v;
    correlation_data -> &'a [u8]: Property::CorrelationData(v) => v;
    /// The first one; a PUBLISH may carry several.
    subscription_id -> u32: Property::SubscriptionIdentifier(Variable(v)) => v;
    session_expiry -> u32: Property::SessionExpiry(v) => v;
    assigned_client_id -> &'a str: Property::AssignedClientId(v) => v;
    server_keepalive -> u16: Property::ServerKeepalive(v) => v;
    authentication_method -> &'a str: Property::AuthenticationMethod(v) => v;
    authentication_data -> &'a [u8]: Property::AuthenticationData(v) => v;
    request_problem_information -> bool: Property::RequestProblemInformation(v) => v;
    will_delay -> u32: Property::WillDelay(v) => v;
    request_response_information -> bool: Property::RequestResponseInformation(v) => v;
    response_information -> &'a str: Property::ResponseInformation(v) => v;
    server_reference -> &'a str: Property::ServerReference(v) => v;
    reason_string -> &'a str: Property::ReasonString(v) => v;
    receive_maximum -> u16: Property::ReceiveMaximum(v) => v;
    topic_alias_maximum -> u16: Property::TopicAliasMaximum(v) => v;
    topic_alias -> u16: Property::TopicAlias(v) => v;
    maximum_qos -> u8: Property::MaximumQos(v) => v;
    retain_available -> bool: Property::RetainAvailable(v) => v;
    maximum_packet_size -> u32: Property::MaximumPacketSize(v) => v;
    wildcard_available -> bool: Property::WildcardAvailable(v) => v;
    subscription_ids_available -> bool: Property::SubscriptionIdsAvailable(v) => v;
    shared_available -> bool: Property::SharedAvailable(v) => v;
}

/// Copies the encoded properties to `out`, all but those in `drop`, order kept. Returns the bytes
/// written.
pub fn copy_without(
    props: Properties<'_>,
    drop: &[PropertyId],
    out: &mut [u8],
) -> Result<usize, Full> {
    let mut writer = Writer::new(out);
    let mut reader = Reader::new(props.0);
    while !reader.is_empty() {
        let before = reader.rest();
        let Ok(property) = Property::read(&mut reader) else { break };
        if !drop.contains(&property.id()) {
            let (raw, _) = before.split_at(before.len() - reader.rest().len());
            writer.bytes(raw)?;
        }
    }
    Ok(writer.len())
}
