//! Decoding: one whole packet from its bytes, everything checked, nothing copied.
//!
//! Strict in all versions, but for what MQTT 3.1 itself leaves open: there DUP may be set on
//! PUBREL, SUBSCRIBE and UNSUBSCRIBE, unused bits of CONNECT and CONNACK mean nothing, and a user
//! name or password that is announced may be missing. Read MQTT 5 section 3 first.

use super::frame::check_first_byte;
use super::packet::{
    Ack, Connack, Connect, Disconnect, Filters, Packet, Publish, Suback, Subscribe,
    SubscribeOptions, Unsubscribe, Will,
};
use super::reader::{Reader, Variable, variable, variable_bytes};
use super::text::Place;
use super::{Context, Fault, Malformed, PacketId, Properties, Qos, Reason, Version, topic};

/// Decodes exactly one whole packet (see `frame`). `version` is that of the connection; CONNECT
/// says its own, and `version` is ignored for it.
#[inline]
pub fn decode(version: Version, bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let Some((&first, after_first)) = bytes.split_first() else {
        return Err(Fault::Truncated.into());
    };
    check_first_byte(first)?;
    let (remaining, length_bytes) = match variable(after_first) {
        Variable::Value { value, bytes } => (value, bytes),
        Variable::Unfinished => return Err(Fault::Truncated.into()),
        Variable::TooLong => return Err(Fault::RemainingLengthTooLong.into()),
    };
    let minimal = length_bytes == variable_bytes(remaining);
    let (_, body) = after_first.split_at(length_bytes);
    match usize::try_from(remaining) {
        Ok(remaining) if remaining == body.len() => {}
        Ok(remaining) if remaining < body.len() => return Err(Fault::TrailingBytes.into()),
        _ => return Err(Fault::Truncated.into()),
    }
    if first >> 4 == 3 {
        if !minimal && version == Version::V5 {
            return Err(Fault::LengthNotMinimal.into());
        }
        return publish(version, first, Reader::careful(body, true));
    }
    other(version, first, minimal, body)
}

/// A PUBLISH that [`decode`] has refused for its text alone ([`Fault::Character`],
/// [`Fault::ResponseTopicInvalid`]), so that it can be answered. It must not be passed on. `None`:
/// there is more that is wrong with it, and the connection is to be closed for that.
#[cold]
#[inline(never)]
pub fn refused_publish(version: Version, bytes: &[u8]) -> Option<Publish<'_>> {
    let (&first, after_first) = bytes.split_first()?;
    let Variable::Value { bytes: length_bytes, .. } = variable(after_first) else { return None };
    let (_, body) = after_first.split_at(length_bytes);
    match publish(version, first, Reader::careful(body, false)) {
        Ok(Packet::Publish(publish)) if first >> 4 == 3 => Some(publish),
        _ => None,
    }
}

/// A CONNECT that [`decode`] has refused for its text alone, so that it can be answered.
pub fn refused_connect(bytes: &[u8]) -> Option<Connect<'_>> {
    let (_, after_first) = bytes.split_first()?;
    let Variable::Value { bytes: length_bytes, .. } = variable(after_first) else { return None };
    let (_, body) = after_first.split_at(length_bytes);
    connect(&mut Reader::new(body)).ok()
}

/// Everything but PUBLISH. Not inlined, so that PUBLISH pays nothing for it.
#[inline(never)]
fn other(version: Version, first: u8, minimal: bool, body: &[u8]) -> Result<Packet<'_>, Malformed> {
    let reader = &mut Reader::new(body);
    let kind = first >> 4;
    if kind == 1 {
        reader.set_careful(true);
        let connect = connect(reader)?;
        if !minimal && connect.version == Version::V5 {
            return Err(Fault::LengthNotMinimal.into());
        }
        return Ok(Packet::Connect(connect));
    }
    if !minimal && version == Version::V5 {
        return Err(Fault::LengthNotMinimal.into());
    }
    // DUP on a packet sent again: a notion of 3.1 only (`check_first_byte` let it pass).
    if first & 0x08 != 0 && matches!(kind, 6 | 8 | 10) && version != Version::V31 {
        return Err(Fault::FlagsReserved.into());
    }
    // Nearly all acknowledgements are just an identifier, in every version.
    if let ([high, low], 4..=7) = (body, kind) {
        let id = PacketId::new(u16::from_be_bytes([*high, *low])).ok_or(Fault::PacketIdZero)?;
        let ack = Ack::new(id, Reason::SUCCESS);
        return Ok(match kind {
            4 => Packet::Puback(ack),
            5 => Packet::Pubrec(ack),
            6 => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        });
    }
    Ok(match kind {
        2 => Packet::Connack(connack(version, reader)?),
        4 => Packet::Puback(ack(version, Context::Puback, reader)?),
        5 => Packet::Pubrec(ack(version, Context::Pubrec, reader)?),
        6 => Packet::Pubrel(ack(version, Context::Pubrel, reader)?),
        7 => Packet::Pubcomp(ack(version, Context::Pubcomp, reader)?),
        8 => {
            let packet_id = reader.packet_id()?;
            let properties = properties(version, Context::Subscribe, reader)?;
            let filters = filters(version, true, reader)?;
            Packet::Subscribe(Subscribe { packet_id, properties, filters })
        }
        9 => Packet::Suback(suback(version, reader)?),
        10 => {
            let packet_id = reader.packet_id()?;
            let properties = properties(version, Context::Unsubscribe, reader)?;
            let filters = filters(version, false, reader)?;
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters })
        }
        11 => Packet::Unsuback(unsuback(version, reader)?),
        12 => {
            reader.finish()?;
            Packet::Pingreq
        }
        13 => {
            reader.finish()?;
            Packet::Pingresp
        }
        14 => Packet::Disconnect(disconnect(version, reader)?),
        15 => Packet::Auth(auth(version, reader)?),
        // 0 was refused with the first byte, 1 and 3 are decoded elsewhere.
        _ => return Err(Fault::PacketTypeReserved.into()),
    })
}

/// The properties with their length; none before MQTT 5.
#[inline(always)]
fn properties<'a>(
    version: Version,
    context: Context,
    reader: &mut Reader<'a>,
) -> Result<Properties<'a>, Fault> {
    if version != Version::V5 {
        return Ok(Properties::EMPTY);
    }
    let careful = context.is_passed_on() && reader.is_careful();
    Properties::check_as(context, reader.sized()?, careful)
}

// Built in its place: a copy of the packet would cost more than the decoding.
#[inline(always)]
pub(super) fn publish<'a>(
    version: Version,
    first: u8,
    mut reader: Reader<'a>,
) -> Result<Packet<'a>, Malformed> {
    let qos = Qos::from_u8((first >> 1) & 3).ok_or(Fault::QosInvalid)?;
    let topic = reader.topic()?;
    let packet_id = match qos {
        Qos::AtMostOnce => None,
        Qos::AtLeastOnce | Qos::ExactlyOnce => Some(reader.packet_id()?),
    };
    let properties = properties(version, Context::Publish, &mut reader)?;
    if topic.is_empty() && properties.topic_alias().is_none() {
        return Err(Fault::TopicEmpty.into());
    }
    Ok(Packet::Publish(Publish {
        dup: first & 0x08 != 0,
        qos,
        retain: first & 0x01 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
        missing: 0,
    }))
}

/// Version and bridge bit from protocol name and level (3.1.2.1, 3.1.2.2).
fn protocol(reader: &mut Reader<'_>) -> Result<(Version, bool), Fault> {
    let name = reader.binary()?;
    let level = reader.u8()?;
    match (name, level) {
        (b"MQTT", 5) => Ok((Version::V5, false)),
        (b"MQTT", 4) => Ok((Version::V311, false)),
        (b"MQTT", 0x84) => Ok((Version::V311, true)),
        (b"MQIsdp", 3) => Ok((Version::V31, false)),
        (b"MQIsdp", 0x83) => Ok((Version::V31, true)),
        // A client of 5 or later reads the CONNACK of 5, an older one the CONNACK without
        // properties.
        (_, level) if level & 0x7F >= 5 => Err(Fault::UnsupportedVersion { answer: Version::V5 }),
        _ => Err(Fault::UnsupportedVersion { answer: Version::V311 }),
    }
}

fn connect<'a>(reader: &mut Reader<'a>) -> Result<Connect<'a>, Fault> {
    let (version, bridge) = protocol(reader)?;
    let flags = reader.u8()?;
    if flags & 0x01 != 0 && version != Version::V31 {
        return Err(Fault::ConnectFlagReserved);
    }
    let has_will = flags & 0x04 != 0;
    if !has_will && flags & 0x38 != 0 && version != Version::V31 {
        return Err(Fault::WillFlagsWithoutWill);
    }
    let has_username = flags & 0x80 != 0;
    let has_password = flags & 0x40 != 0;
    if has_password && !has_username && version != Version::V5 {
        return Err(Fault::PasswordWithoutUsername);
    }
    let keepalive = reader.u16()?;
    let properties = properties(version, Context::Connect, reader)?;
    let client_id = reader.string().map_err(|fault| fault.at(Place::ClientId))?;
    let will = if has_will { Some(will(version, flags, reader)?) } else { None };
    // 3.1: the remaining length takes precedence over these flags.
    let cut_short = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
    let username = if has_username && !cut_short(reader) {
        Some(reader.string().map_err(|fault| fault.at(Place::UserName))?)
    } else {
        None
    };
    let password = if has_password && !cut_short(reader) { Some(reader.binary()?) } else { None };
    reader.finish()?;
    Ok(Connect {
        version,
        bridge,
        clean_start: flags & 0x02 != 0,
        keepalive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn will<'a>(version: Version, flags: u8, reader: &mut Reader<'a>) -> Result<Will<'a>, Fault> {
    let qos = Qos::from_u8((flags >> 3) & 3).ok_or(Fault::QosInvalid)?;
    let properties = properties(version, Context::Will, reader)?;
    let topic = reader.topic().map_err(|fault| fault.at(Place::WillTopic))?;
    if topic.is_empty() {
        return Err(Fault::TopicEmpty);
    }
    let payload = reader.binary()?;
    Ok(Will { topic, payload, qos, retain: flags & 0x20 != 0, properties })
}

fn connack<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Connack<'a>, Fault> {
    let flags = reader.u8()?;
    let code = reader.u8()?;
    let properties = properties(version, Context::Connack, reader)?;
    reader.finish()?;
    // 3.1 has no session present: the byte is unused there.
    if version == Version::V31 {
        return Ok(Connack { session_present: false, code, properties });
    }
    if flags & 0xFE != 0 {
        return Err(Fault::ConnackFlagsReserved);
    }
    if version == Version::V5 {
        defined(Context::Connack, code)?;
    }
    if flags != 0 && code != 0 {
        return Err(Fault::SessionPresentOnRefusal);
    }
    Ok(Connack { session_present: flags != 0, code, properties })
}

/// The four acknowledgements have one form (3.4 to 3.7).
#[inline]
fn ack<'a>(version: Version, context: Context, reader: &mut Reader<'a>) -> Result<Ack<'a>, Fault> {
    let packet_id = reader.packet_id()?;
    if version != Version::V5 {
        reader.finish()?;
        return Ok(Ack::new(packet_id, Reason::SUCCESS));
    }
    let (reason, properties) = reason_and_properties(context, reader)?;
    Ok(Ack { packet_id, reason, properties })
}

/// Reason and properties at the end of a packet of MQTT 5; both, or the properties alone, may be
/// left out.
#[inline]
fn reason_and_properties<'a>(
    context: Context,
    reader: &mut Reader<'a>,
) -> Result<(Reason, Properties<'a>), Fault> {
    if reader.is_empty() {
        return Ok((Reason::SUCCESS, Properties::EMPTY));
    }
    let reason = defined(context, reader.u8()?)?;
    if reader.is_empty() {
        return Ok((reason, Properties::EMPTY));
    }
    let properties = Properties::check(context, reader.sized()?)?;
    reader.finish()?;
    Ok((reason, properties))
}

fn defined(context: Context, code: u8) -> Result<Reason, Fault> {
    let reason = Reason(code);
    if reason.is_defined(context) { Ok(reason) } else { Err(Fault::ReasonUndefined) }
}

/// Walks and checks all filters; SUBSCRIBE has an options byte behind each.
fn filters<'a>(
    version: Version,
    options: bool,
    reader: &mut Reader<'a>,
) -> Result<Filters<'a>, Fault> {
    let bytes = reader.rest();
    let mut count = 0;
    while !reader.is_empty() {
        let filter = reader.string()?;
        let shared = version == Version::V5 && topic::is_shared(filter);
        if !topic::is_filter(filter) || (shared && topic::split_shared(filter).is_none()) {
            return Err(Fault::FilterInvalid);
        }
        if options {
            check_options(version, shared, reader.u8()?)?;
        }
        count += 1;
    }
    if count == 0 {
        return Err(Fault::FiltersEmpty);
    }
    Ok(Filters::from_encoded(bytes, options, count))
}

fn check_options(version: Version, shared: bool, byte: u8) -> Result<(), Fault> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if byte & reserved != 0 {
        return Err(Fault::SubscribeOptionsReserved);
    }
    if byte & 0x03 == 3 {
        return Err(Fault::SubscribeQosInvalid);
    }
    let options = SubscribeOptions::from_byte(byte);
    if options.retain_handling == 3 {
        return Err(Fault::RetainHandlingInvalid);
    }
    if options.no_local && shared {
        return Err(Fault::NoLocalOnShared);
    }
    Ok(())
}

fn suback<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Suback<'a>, Fault> {
    let packet_id = reader.packet_id()?;
    let properties = properties(version, Context::Suback, reader)?;
    let codes = reader.rest();
    if codes.is_empty() {
        return Err(Fault::CodesEmpty);
    }
    let right = |code: &u8| match version {
        Version::V5 => Reason(*code).is_defined(Context::Suback),
        Version::V31 | Version::V311 => matches!(code, 0..=2 | 0x80),
    };
    if !codes.iter().all(right) {
        return Err(Fault::GrantInvalid);
    }
    Ok(Suback { packet_id, properties, codes })
}

fn unsuback<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Suback<'a>, Fault> {
    let packet_id = reader.packet_id()?;
    let properties = properties(version, Context::Unsuback, reader)?;
    let codes = reader.rest();
    match version {
        Version::V31 | Version::V311 => reader.finish()?,
        Version::V5 if codes.is_empty() => return Err(Fault::CodesEmpty),
        Version::V5 => {
            for code in codes {
                defined(Context::Unsuback, *code)?;
            }
        }
    }
    Ok(Suback { packet_id, properties, codes })
}

fn disconnect<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Disconnect<'a>, Fault> {
    if version != Version::V5 {
        reader.finish()?;
    }
    let (reason, properties) = reason_and_properties(Context::Disconnect, reader)?;
    Ok(Disconnect { reason, properties })
}

fn auth<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Disconnect<'a>, Fault> {
    if version != Version::V5 {
        return Err(Fault::PacketTypeReserved);
    }
    if reader.is_empty() {
        return Ok(Disconnect { reason: Reason::SUCCESS, properties: Properties::EMPTY });
    }
    // Unlike elsewhere the property length may not be left out alone (3.15.2.1).
    let reason = defined(Context::Auth, reader.u8()?)?;
    let properties = Properties::check(Context::Auth, reader.sized()?)?;
    reader.finish()?;
    if properties.authentication_method().is_none() {
        return Err(Fault::AuthMethodMissing);
    }
    Ok(Disconnect { reason, properties })
}
