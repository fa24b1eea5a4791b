//! Properties of MQTT 5 as they stand in a packet.
//!
//! A decoded [`Properties`] is valid as a whole: every property known, in its place, in range,
//! there once (but User Property, and Subscription Identifier in PUBLISH). Its accessors walk the
//! encoded bytes: there are few, and nothing is allocated. Read MQTT 5 section 2.2.2 first.

use super::codec::Full;
use super::reader::Reader;
use super::writer::{Sink, Writer};
use super::{Fault, Malformed};
use core::fmt;

pub use super::property::{Context, Property, PropertyId, Variable};

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
        Self::check_as(context, bytes, context.is_passed_on())
    }

    /// The same; `careful`: without what is unwelcome in text.
    #[inline]
    pub(super) fn check_as(
        context: Context,
        bytes: &'a [u8],
        careful: bool,
    ) -> Result<Self, Fault> {
        if !bytes.is_empty() {
            check_each(context, bytes, careful)?;
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
fn check_each(context: Context, bytes: &[u8], careful: bool) -> Result<(), Fault> {
    let mut reader = Reader::careful(bytes, careful);
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
        match property.check_value() {
            Err(Fault::ResponseTopicInvalid) if !careful => {}
            checked => checked?,
        }
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
#[derive(Clone)]
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

// One that nobody calls is not there: `tests/tidy.rs` looks.
accessors! {
    message_expiry -> u32: Property::MessageExpiry(v) => v;
    /// The first one; a PUBLISH may carry several.
    subscription_id -> u32: Property::SubscriptionIdentifier(Variable(v)) => v;
    session_expiry -> u32: Property::SessionExpiry(v) => v;
    authentication_method -> &'a str: Property::AuthenticationMethod(v) => v;
    request_problem_information -> bool: Property::RequestProblemInformation(v) => v;
    will_delay -> u32: Property::WillDelay(v) => v;
    server_reference -> &'a str: Property::ServerReference(v) => v;
    reason_string -> &'a str: Property::ReasonString(v) => v;
    receive_maximum -> u16: Property::ReceiveMaximum(v) => v;
    topic_alias_maximum -> u16: Property::TopicAliasMaximum(v) => v;
    topic_alias -> u16: Property::TopicAlias(v) => v;
    maximum_packet_size -> u32: Property::MaximumPacketSize(v) => v;
}

/// Copies only the properties of one kind; how many bytes they are.
pub fn copy_only(props: Properties<'_>, id: PropertyId, out: &mut [u8]) -> Result<usize, Full> {
    let mut writer = Writer::new(out);
    for property in props.iter().filter(|property| property.id() == id) {
        property.encode(&mut writer)?;
    }
    Ok(writer.into_bytes().len())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(context: Context, bytes: &[u8]) -> Option<Fault> {
        Properties::new(context, bytes).err().map(|malformed| malformed.fault)
    }

    #[test]
    fn identifiers_are_those_of_the_table() {
        assert_eq!(PropertyId::ALL.len(), 27);
        for id in PropertyId::ALL {
            assert!(id.as_u8() < 64, "the set of seen identifiers has 64 bits");
            assert_eq!(PropertyId::from_u8(id.as_u8()), Some(*id));
        }
        for unknown in [0x00, 0x04, 0x0A, 0x0C, 0x10, 0x14, 0x1B, 0x1D, 0x20, 0x2B, 0x7F, 0x80] {
            assert_eq!(PropertyId::from_u8(unknown), None);
            assert_eq!(fault(Context::Publish, &[unknown, 0]), Some(Fault::PropertyUnknown));
        }
    }

    #[test]
    fn counts_of_allowed_properties_are_those_of_the_sections() {
        let count = |context| PropertyId::ALL.iter().filter(|id| id.is_allowed(context)).count();
        let expected = [9, 7, 17, 8, 2, 2, 2, 2, 2, 2, 1, 2, 4, 4];
        assert_eq!(Context::ALL.map(count), expected);
    }

    #[test]
    fn values_out_of_range_are_refused_and_the_nearest_accepted() {
        let cases: [(Context, &[u8], &[u8], Fault); 9] = [
            (Context::Connect, b"\x21\0\x01", b"\x21\0\0", Fault::PropertyValueInvalid),
            (Context::Connect, b"\x27\0\0\0\x01", b"\x27\0\0\0\0", Fault::PropertyValueInvalid),
            (Context::Connect, b"\x17\x01", b"\x17\x02", Fault::PropertyValueInvalid),
            (Context::Connect, b"\x19\x00", b"\x19\xFF", Fault::PropertyValueInvalid),
            (Context::Connack, b"\x24\x01", b"\x24\x02", Fault::PropertyValueInvalid),
            (Context::Connack, b"\x25\x01", b"\x25\x02", Fault::PropertyValueInvalid),
            (Context::Subscribe, b"\x0B\x01", b"\x0B\x00", Fault::PropertyValueInvalid),
            (Context::Publish, b"\x01\x01", b"\x01\x02", Fault::PropertyValueInvalid),
            (Context::Publish, b"\x23\0\x01", b"\x23\0\0", Fault::TopicAliasZero),
        ];
        for (context, valid, invalid, expected) in cases {
            assert_eq!(fault(context, valid), None, "{valid:02x?}");
            assert_eq!(fault(context, invalid), Some(expected), "{invalid:02x?}");
        }
    }

    #[test]
    fn only_user_properties_and_identifiers_of_publish_come_twice() {
        let user = b"\x26\0\x01k\0\x01v\x26\0\x01k\0\x01w";
        assert_eq!(fault(Context::Publish, user), None);
        assert_eq!(fault(Context::Publish, b"\x0B\x01\x0B\x02"), None);
        let twice = Some(Fault::PropertyDuplicate);
        assert_eq!(fault(Context::Subscribe, b"\x0B\x01\x0B\x02"), twice);
        assert_eq!(fault(Context::Publish, b"\x01\x01\x01\x01"), twice);
        assert_eq!(fault(Context::Connect, b"\x22\0\x01\x26\0\0\0\0\x22\0\x01"), twice);
    }

    #[test]
    fn authentication_data_needs_its_method_in_either_order() {
        let (method, data) = (&b"\x15\0\x01m"[..], &b"\x16\0\x01d"[..]);
        assert_eq!(fault(Context::Connect, method), None);
        assert_eq!(fault(Context::Connect, data), Some(Fault::AuthMethodMissing));
        assert_eq!(fault(Context::Connect, &[data, method].concat()), None);
    }

    #[test]
    fn strings_inside_are_checked() {
        assert_eq!(fault(Context::Publish, b"\x03\0\x01\0"), Some(Fault::NulInString));
        assert_eq!(fault(Context::Publish, b"\x03\0\x01\xFF"), Some(Fault::Utf8Invalid));
        assert_eq!(fault(Context::Publish, b"\x26\0\x01k\0\x02v"), Some(Fault::Truncated));
        assert_eq!(fault(Context::Publish, b"\x26\0\x01k"), Some(Fault::Truncated));
    }

    #[test]
    fn copying_without_some_keeps_the_order_of_the_rest() {
        let list = [
            Property::UserProperty(("a", "1")),
            Property::TopicAlias(3),
            Property::MessageExpiry(60),
            Property::UserProperty(("b", "2")),
        ];
        let (mut buffer, mut out) = ([0; 64], [0; 64]);
        let props = Properties::write(&list, &mut buffer).expect("fits");
        let drop = [PropertyId::TopicAlias, PropertyId::MessageExpiry];
        let len = copy_without(props, &drop, &mut out).expect("fits");
        let kept = Properties::new(Context::Publish, &out[..len]).expect("valid");
        assert!(kept.iter().eq([list[0], list[3]]));
        assert_eq!(copy_without(props, &drop, &mut out[..len - 1]), Err(Full));
        let bytes: usize = list.iter().map(|p| p.encoded_len().expect("short")).sum();
        assert_eq!(bytes, props.as_bytes().len());
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk() {
        let broken = Properties::from_encoded(b"\x01\x01\x7F\x01\x01");
        assert_eq!(broken.iter().count(), 1);
        assert_eq!(copy_without(broken, &[], &mut [0; 8]), Ok(2));
    }

    #[test]
    fn values_too_long_for_the_wire_are_full() {
        let long = "x".repeat(65_536);
        assert_eq!(Property::ContentType(&long).encoded_len(), Err(Full));
        assert_eq!(Property::SubscriptionIdentifier(Variable(1 << 28)).encoded_len(), Err(Full));
    }
}
