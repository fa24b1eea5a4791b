//! MQTT 3.1, 3.1.1 and 5 on the wire: one decoder, one encoder, the version a parameter.
//!
//! Decoding borrows from the read buffer and allocates nothing. What decodes is valid: strings are
//! UTF-8 without U+0000, topics and filters obey the wildcard rules, what is passed on to others
//! has no characters they would close over ([`text`]), identifiers are not zero, every property is
//! known, in its place, in range and there once. What the encoder is given by this program is
//! trusted as far as [`codec`] says.
//!
//! Knows no session and no direction: that a client may not send SUBACK, or a Subscription
//! Identifier in PUBLISH, is the receiver's business, and so are client id rules.
//!
//! Read MQTT 5 sections 1.5, 2 and 3 first; 3.1.1 where versions differ.

pub mod codec;
mod decode;
#[cfg(test)]
mod faults;
mod frame;
mod mapping;
mod overlap;
mod packet;
mod partial;
mod property;
pub mod props;
mod reader;
mod reason;
#[cfg(test)]
mod roundtrip;
pub mod text;
pub mod topic;
mod writer;

pub use self::codec::{
    Full, PUBLISH_HEAD_OVERHEAD_MAX, PublishHead, encode, encode_publish_head, publish_bytes,
};
pub use self::decode::{decode, refused_connect, refused_publish};
pub use self::frame::{Frame, PACKET_BYTES_MAX, REMAINING_LENGTH_MAX, frame};
pub use self::packet::{
    Ack, Connack, Connect, Disconnect, Filters, Packet, Publish, Suback, Subscribe,
    SubscribeOptions, Unsubscribe, Will,
};
pub use self::partial::{Partial, partial};
pub use self::props::{Context, Properties, Property, PropertyId};
pub use self::reason::{Fault, Malformed, Reason};
pub use self::writer::Writer;
pub use crate::vocab::PacketId;

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 3.1: protocol name `MQIsdp`.
    V31,
    /// 3.1.1.
    V311,
    V5,
}

impl Version {
    /// The protocol level in CONNECT: 3, 4 or 5.
    pub const fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    #[default]
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl Qos {
    /// `None` for anything but 0, 1 and 2.
    #[inline]
    pub const fn from_u8(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    #[inline]
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}
