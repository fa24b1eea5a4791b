//! The packets, borrowed from the bytes they were decoded from.
//!
//! The same types go into the encoder. Fields that a version does not have are empty after
//! decoding and left out by the encoder.

use super::reader::Reader;
use super::{PacketId, Properties, Qos, Reason, Version};
use core::fmt;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    Connack(Connack<'a>),
    Publish(Publish<'a>),
    Puback(Ack<'a>),
    Pubrec(Ack<'a>),
    Pubrel(Ack<'a>),
    Pubcomp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    Suback(Suback<'a>),
    Unsubscribe(Unsubscribe<'a>),
    /// Before MQTT 5 it has no codes.
    Unsuback(Suback<'a>),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect<'a>),
    /// MQTT 5 only.
    Auth(Disconnect<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connect<'a> {
    pub version: Version,
    /// Bit 0x80 of the protocol level, 3.1 and 3.1.1 only: the client is a bridge and wants
    /// neither its own messages back nor the retain flag cleared.
    pub bridge: bool,
    pub clean_start: bool,
    /// Seconds; 0 = none.
    pub keepalive: u16,
    /// May be empty: whether that is allowed is the server's decision.
    pub client_id: &'a str,
    pub will: Option<Will<'a>>,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub properties: Properties<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: Qos,
    pub retain: bool,
    pub properties: Properties<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Connack<'a> {
    /// Always `false` in 3.1.
    pub session_present: bool,
    /// Return code of 3.1 and 3.1.1, reason code of 5; 0 = accepted.
    pub code: u8,
    pub properties: Properties<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty only in MQTT 5 and with a Topic Alias.
    pub topic: &'a str,
    /// `Some` exactly when `qos` is not 0.
    pub packet_id: Option<PacketId>,
    pub properties: Properties<'a>,
    pub payload: &'a [u8],
    /// Bytes of the payload that are still to come; 0 for a whole packet.
    pub missing: usize,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ack<'a> {
    pub packet_id: PacketId,
    pub reason: Reason,
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without properties.
    pub const fn new(packet_id: PacketId, reason: Reason) -> Self {
        Self { packet_id, reason, properties: Properties::EMPTY }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subscribe<'a> {
    pub packet_id: PacketId,
    pub properties: Properties<'a>,
    /// At least one, all valid.
    pub filters: Filters<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    pub packet_id: PacketId,
    pub properties: Properties<'a>,
    /// At least one, all valid; the options are the default.
    pub filters: Filters<'a>,
}

/// SUBACK, and UNSUBACK.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suback<'a> {
    pub packet_id: PacketId,
    pub properties: Properties<'a>,
    /// One a filter, in their order.
    pub codes: &'a [u8],
}

/// DISCONNECT, and AUTH.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    pub reason: Reason,
    pub properties: Properties<'a>,
}

/// What a subscriber asks for beside the filter. Before MQTT 5 only the QoS is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// 0 = send retained messages, 1 = only if the subscription is new, 2 = never.
    pub retain_handling: u8,
}

impl SubscribeOptions {
    /// The options byte of MQTT 5 (3.8.3.1).
    pub(super) fn to_byte(self) -> u8 {
        self.qos.as_u8()
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling & 3) << 4
    }

    /// Reads the fields; the caller has refused reserved bits and values.
    pub(super) fn from_byte(byte: u8) -> Self {
        Self {
            qos: Qos::from_u8(byte & 3).unwrap_or_default(),
            no_local: byte & 0x04 != 0,
            retain_as_published: byte & 0x08 != 0,
            retain_handling: (byte >> 4) & 3,
        }
    }
}

/// The filters of a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy)]
pub struct Filters<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Wire form, already validated. `options`: an options byte follows each filter.
    Encoded {
        bytes: &'a [u8],
        options: bool,
        count: usize,
    },
    List(&'a [(&'a str, SubscribeOptions)]),
}

impl<'a> Filters<'a> {
    /// Filters to be sent. They are trusted to be valid and at least one.
    pub const fn from_list(list: &'a [(&'a str, SubscribeOptions)]) -> Self {
        Self(Source::List(list))
    }

    pub(super) const fn from_encoded(bytes: &'a [u8], options: bool, count: usize) -> Self {
        Self(Source::Encoded { bytes, options, count })
    }

    pub const fn len(&self) -> usize {
        match self.0 {
            Source::Encoded { count, .. } => count,
            Source::List(list) => list.len(),
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> FiltersIter<'a> {
        FiltersIter(self.0)
    }
}

impl<'a> IntoIterator for Filters<'a> {
    type Item = (&'a str, SubscribeOptions);
    type IntoIter = FiltersIter<'a>;

    fn into_iter(self) -> FiltersIter<'a> {
        self.iter()
    }
}

impl PartialEq for Filters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Walks the filters in their order.
#[derive(Clone)]
pub struct FiltersIter<'a>(Source<'a>);

impl<'a> Iterator for FiltersIter<'a> {
    type Item = (&'a str, SubscribeOptions);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::List(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
            Source::Encoded { bytes, options, .. } => {
                let mut reader = Reader::new(bytes);
                let filter = reader.string().ok()?;
                let byte = if *options { reader.u8().ok()? } else { 0 };
                *bytes = reader.rest();
                Some((filter, SubscribeOptions::from_byte(byte)))
            }
        }
    }
}
