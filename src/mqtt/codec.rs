//! Encoding: whole packets, and the head of a PUBLISH whose payload, and the properties that are
//! passed on with it, lie elsewhere.
//!
//! Trusts this program for what the wire could not say either way (topics, filters, properties are
//! not validated again) and asserts what would corrupt the stream. What a version does not have is
//! left out: properties, reasons and subscription options before MQTT 5, codes of UNSUBACK.

use super::packet::{Ack, Connect, Disconnect, Filters, Packet, Publish, Suback, Will};
use super::writer::{Counter, Sink, Writer};
use super::{PacketId, Properties, Qos, Reason, Version};

pub use super::writer::Full;

/// Bytes of a PUBLISH head without topic and properties: type, remaining length, topic length,
/// packet identifier, property length.
pub const PUBLISH_HEAD_OVERHEAD_MAX: usize = 1 + 4 + 2 + 2 + 4;

/// Everything of a PUBLISH before what is passed on as it came: properties and payload.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// Left out at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    pub topic: &'a str,
    /// `Some` when `qos` is not 0; ignored at QoS 0.
    pub packet_id: Option<PacketId>,
    /// MQTT 5: encoded properties of this hop. Ignored before.
    pub properties: &'a [u8],
    /// MQTT 5: bytes of the encoded properties that the caller writes behind the head, before the
    /// payload. Nothing of them may be written before MQTT 5.
    pub passed_on_bytes: usize,
    pub payload_bytes: usize,
}

impl PublishHead<'_> {
    #[inline]
    fn properties_bytes(&self) -> usize {
        self.properties.len() + self.passed_on_bytes
    }

    /// The id on the wire.
    ///
    /// # Panics
    /// When a QoS 1 or 2 message has none: it could never be acknowledged.
    #[inline]
    fn wire_id(&self) -> Option<PacketId> {
        if self.qos == Qos::AtMostOnce {
            return None;
        }
        assert!(self.packet_id.is_some(), "PUBLISH above QoS 0 without a packet identifier");
        self.packet_id
    }

    /// The remaining length.
    #[inline]
    fn remaining(&self, version: Version) -> usize {
        let id_bytes = if self.qos == Qos::AtMostOnce { 0 } else { 2 };
        let properties_bytes = match version {
            Version::V31 | Version::V311 => 0,
            Version::V5 => {
                let bytes = self.properties_bytes();
                length_bytes(bytes) + bytes
            }
        };
        2 + self.topic.len() + id_bytes + properties_bytes + self.payload_bytes
    }
}

/// Bytes of the variable byte integer; 4 for what cannot be said.
#[inline]
fn length_bytes(value: usize) -> usize {
    u32::try_from(value).map_or(4, super::reader::variable_bytes)
}

/// Size of the whole packet, all that follows the head included.
#[inline]
pub fn publish_bytes(version: Version, head: &PublishHead<'_>) -> usize {
    let remaining = head.remaining(version);
    1 + length_bytes(remaining) + remaining
}

/// Writes everything before what is passed on; returns the bytes written.
///
/// # Errors
/// [`Full`]: `out` is too small, or the packet larger than MQTT can say.
///
/// # Panics
/// When `qos` is not 0 and there is no packet identifier.
#[inline]
pub fn encode_publish_head(
    version: Version,
    head: &PublishHead<'_>,
    out: &mut [u8],
) -> Result<usize, Full> {
    let id = head.wire_id();
    let dup = head.dup && id.is_some();
    let first = 0x30 | u8::from(dup) << 3 | head.qos.as_u8() << 1 | u8::from(head.retain);
    let topic_bytes = u16::try_from(head.topic.len()).map_err(|_| Full)?;

    let mut writer = Writer::new(out);
    writer.u8(first)?;
    writer.variable(head.remaining(version))?;
    writer.u16(topic_bytes)?;
    writer.bytes(head.topic.as_bytes())?;
    if let Some(id) = id {
        writer.u16(id.raw())?;
    }
    if version == Version::V5 {
        writer.variable(head.properties_bytes())?;
        if !head.properties.is_empty() {
            writer.bytes(head.properties)?;
        }
    }
    Ok(writer.len())
}

/// Writes a whole packet; returns the bytes written. CONNECT goes out in the version it names
/// itself. AUTH does not exist before MQTT 5: there nothing is written.
///
/// # Panics
/// When a PUBLISH above QoS 0 has no packet identifier.
pub fn encode(version: Version, packet: &Packet<'_>, out: &mut [u8]) -> Result<usize, Full> {
    match packet {
        Packet::Publish(publish) => encode_publish(version, publish, out),
        Packet::Connect(connect) => whole(0x10, Body::Connect(connect), connect.version, out),
        Packet::Connack(connack) => whole(0x20, Body::Connack(connack), version, out),
        Packet::Puback(ack) => encode_ack(0x40, ack, version, out),
        Packet::Pubrec(ack) => encode_ack(0x50, ack, version, out),
        Packet::Pubrel(ack) => encode_ack(0x62, ack, version, out),
        Packet::Pubcomp(ack) => encode_ack(0x70, ack, version, out),
        Packet::Subscribe(packet) => {
            let body = Body::Filters(packet.packet_id, packet.properties, packet.filters, true);
            whole(0x82, body, version, out)
        }
        Packet::Suback(suback) => whole(0x90, Body::Codes(suback), version, out),
        Packet::Unsubscribe(packet) => {
            let body = Body::Filters(packet.packet_id, packet.properties, packet.filters, false);
            whole(0xA2, body, version, out)
        }
        Packet::Unsuback(unsuback) if version == Version::V5 => {
            whole(0xB0, Body::Codes(unsuback), version, out)
        }
        Packet::Unsuback(unsuback) => {
            encode_ack(0xB0, &Ack::new(unsuback.packet_id, Reason::SUCCESS), version, out)
        }
        Packet::Pingreq => bytes(&[0xC0, 0], out),
        Packet::Pingresp => bytes(&[0xD0, 0], out),
        Packet::Disconnect(_) if version != Version::V5 => bytes(&[0xE0, 0], out),
        Packet::Disconnect(disconnect) => whole(0xE0, Body::Disconnect(disconnect), version, out),
        Packet::Auth(_) if version != Version::V5 => Ok(0),
        Packet::Auth(auth) => whole(0xF0, Body::Auth(auth), version, out),
    }
}

fn bytes(packet: &[u8], out: &mut [u8]) -> Result<usize, Full> {
    out.get_mut(..packet.len()).ok_or(Full)?.copy_from_slice(packet);
    Ok(packet.len())
}

fn encode_publish(version: Version, publish: &Publish<'_>, out: &mut [u8]) -> Result<usize, Full> {
    let head = PublishHead {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        packet_id: publish.packet_id,
        properties: publish.properties.as_bytes(),
        passed_on_bytes: 0,
        payload_bytes: publish.payload.len(),
    };
    let head_bytes = encode_publish_head(version, &head, out)?;
    let (_, rest) = out.split_at_mut(head_bytes);
    Ok(head_bytes + bytes(publish.payload, rest)?)
}

/// The four acknowledgements; nearly all of them are four bytes.
#[inline]
fn encode_ack(first: u8, ack: &Ack<'_>, version: Version, out: &mut [u8]) -> Result<usize, Full> {
    let plain = ack.reason == Reason::SUCCESS && ack.properties.is_empty();
    if version != Version::V5 || plain {
        let [high, low] = ack.packet_id.raw().to_be_bytes();
        return bytes(&[first, 2, high, low], out);
    }
    whole(first, Body::Ack(ack), version, out)
}

/// What stands behind the fixed header.
#[derive(Clone, Copy)]
enum Body<'p> {
    Connect(&'p Connect<'p>),
    Connack(&'p super::Connack<'p>),
    Ack(&'p Ack<'p>),
    /// The flag: with options.
    Filters(PacketId, Properties<'p>, Filters<'p>, bool),
    Codes(&'p Suback<'p>),
    Disconnect(&'p Disconnect<'p>),
    Auth(&'p Disconnect<'p>),
}

/// Fixed header and body.
fn whole(first: u8, body: Body<'_>, version: Version, out: &mut [u8]) -> Result<usize, Full> {
    let mut counter = Counter::default();
    body.write(version, &mut counter)?;
    let mut writer = Writer::new(out);
    writer.u8(first)?;
    writer.variable(counter.0)?;
    body.write(version, &mut writer)?;
    Ok(writer.len())
}

impl Body<'_> {
    fn write(self, version: Version, sink: &mut impl Sink) -> Result<(), Full> {
        match self {
            Self::Connect(connect) => write_connect(connect, sink),
            Self::Connack(connack) => {
                let present = connack.session_present && version != Version::V31;
                sink.u8(u8::from(present))?;
                sink.u8(connack.code)?;
                write_properties(version, connack.properties, sink)
            }
            Self::Ack(ack) => {
                sink.u16(ack.packet_id.raw())?;
                write_reason(ack.reason, ack.properties, sink)
            }
            Self::Filters(packet_id, properties, filters, options) => {
                sink.u16(packet_id.raw())?;
                write_properties(version, properties, sink)?;
                for (filter, asked) in filters.iter() {
                    sink.string(filter)?;
                    if options {
                        let only_qos = if version == Version::V5 { 0xFF } else { 0x03 };
                        sink.u8(asked.to_byte() & only_qos)?;
                    }
                }
                Ok(())
            }
            Self::Codes(suback) => {
                sink.u16(suback.packet_id.raw())?;
                write_properties(version, suback.properties, sink)?;
                sink.bytes(suback.codes)
            }
            Self::Disconnect(disconnect) => {
                if disconnect.reason == Reason::SUCCESS && disconnect.properties.is_empty() {
                    return Ok(());
                }
                write_reason(disconnect.reason, disconnect.properties, sink)
            }
            Self::Auth(auth) => {
                if auth.reason == Reason::SUCCESS && auth.properties.is_empty() {
                    return Ok(());
                }
                sink.u8(auth.reason.0)?;
                sink.sized(auth.properties.as_bytes())
            }
        }
    }
}

/// A reason, and properties when there are any.
fn write_reason(
    reason: Reason,
    properties: Properties<'_>,
    sink: &mut impl Sink,
) -> Result<(), Full> {
    sink.u8(reason.0)?;
    if properties.is_empty() { Ok(()) } else { sink.sized(properties.as_bytes()) }
}

/// Properties with their length; nothing before MQTT 5.
fn write_properties(
    version: Version,
    properties: Properties<'_>,
    sink: &mut impl Sink,
) -> Result<(), Full> {
    if version == Version::V5 { sink.sized(properties.as_bytes()) } else { Ok(()) }
}

fn write_connect(connect: &Connect<'_>, sink: &mut impl Sink) -> Result<(), Full> {
    let version = connect.version;
    sink.string(if version == Version::V31 { "MQIsdp" } else { "MQTT" })?;
    let bridge = connect.bridge && version != Version::V5;
    sink.u8(version.level() | u8::from(bridge) << 7)?;
    let will_flags = connect
        .will
        .as_ref()
        .map_or(0, |will| 0x04 | will.qos.as_u8() << 3 | u8::from(will.retain) << 5);
    let flags = will_flags
        | u8::from(connect.clean_start) << 1
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7;
    sink.u8(flags)?;
    sink.u16(connect.keepalive)?;
    write_properties(version, connect.properties, sink)?;
    sink.string(connect.client_id)?;
    if let Some(will) = &connect.will {
        write_will(version, will, sink)?;
    }
    if let Some(username) = connect.username {
        sink.string(username)?;
    }
    if let Some(password) = connect.password {
        sink.binary(password)?;
    }
    Ok(())
}

fn write_will(version: Version, will: &Will<'_>, sink: &mut impl Sink) -> Result<(), Full> {
    write_properties(version, will.properties, sink)?;
    sink.string(will.topic)?;
    sink.binary(will.payload)
}
