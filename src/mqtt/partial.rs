//! The head of a PUBLISH whose payload is still to come: everything before the payload, decoded
//! and checked as `decode` does it, as soon as it is here. Read MQTT 5 section 3.3 first.

use super::decode::publish;
use super::reader::{Reader, Variable, variable, variable_bytes};
use super::{Fault, Malformed, Packet, Publish, Qos, Version};

/// What the beginning of a PUBLISH says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Partial<'a> {
    /// Its payload is what of it is here, and says how much is missing.
    Head(Publish<'a>),
    /// So many bytes of the packet say more.
    Needs(usize),
}

/// Decodes the head of the PUBLISH of `packet_bytes` bytes that `bytes` begins with. `frame` has
/// found its length; none of it may be missing or too much.
///
/// # Errors
/// As those of `decode`; also when the head is longer than the packet.
pub fn partial(
    version: Version,
    bytes: &[u8],
    packet_bytes: usize,
) -> Result<Partial<'_>, Malformed> {
    let (first, length_bytes) = match bytes.split_first() {
        Some((first, rest)) => match variable(rest) {
            Variable::Value { value, bytes } => {
                if bytes != variable_bytes(value) && version == Version::V5 {
                    return Err(Fault::LengthNotMinimal.into());
                }
                (*first, bytes)
            }
            Variable::Unfinished | Variable::TooLong => return Err(Fault::Truncated.into()),
        },
        None => return Err(Fault::Truncated.into()),
    };
    let needs = |end: usize| {
        // It would have to end after the packet does.
        if end > packet_bytes { Err(Fault::Truncated.into()) } else { Ok(Partial::Needs(end)) }
    };
    let topic_at = 1 + length_bytes + 2;
    let Some(length) = bytes.get(topic_at - 2..topic_at) else { return needs(topic_at) };
    let mut end = topic_at + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if Qos::from_u8(first >> 1 & 3) != Some(Qos::AtMostOnce) {
        end += 2;
    }
    if version == Version::V5 {
        match variable(bytes.get(end..).unwrap_or_default()) {
            Variable::Value { value, bytes } => {
                end += bytes + usize::try_from(value).map_err(|_| Fault::Truncated)?;
            }
            Variable::Unfinished => return needs(end.max(bytes.len()) + 1),
            Variable::TooLong => return Err(Fault::VariableIntegerTooLong.into()),
        }
    }
    if bytes.len() < end || end > packet_bytes {
        return needs(end);
    }
    let here = bytes.len().min(packet_bytes);
    let body = Reader::new(&bytes[1 + length_bytes..here]);
    match publish(version, first, body)? {
        Packet::Publish(publish) => {
            Ok(Partial::Head(Publish { missing: packet_bytes - here, ..publish }))
        }
        // `publish` makes nothing else.
        _ => Err(Fault::PacketTypeReserved.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;
    use crate::mqtt::Properties;

    fn packets() -> Vec<(Version, Vec<u8>)> {
        let mut packets = Vec::new();
        for version in [Version::V31, Version::V311, Version::V5] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let publish = Publish {
                    dup: false,
                    qos,
                    retain: true,
                    topic: "some/topic",
                    packet_id: (qos != Qos::AtMostOnce)
                        .then(|| crate::mqtt::PacketId::new(7).unwrap()),
                    properties: Properties::EMPTY,
                    payload: &[b'x'; 300],
                    missing: 0,
                };
                let mut out = vec![0; 1000];
                let bytes = encode(version, &Packet::Publish(publish), &mut out).unwrap();
                out.truncate(bytes);
                packets.push((version, out));
            }
        }
        // Content Type and a User Property.
        let properties = b"\x03\0\x04text\x26\0\x01k\0\x01v";
        let mut packet = vec![0x30, 0, 0, 1, b't', u8::try_from(properties.len()).unwrap()];
        packet.extend(properties);
        packet.extend([b'y'; 60]);
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        packets.push((Version::V5, packet));
        packets
    }

    #[test]
    fn the_head_is_known_as_soon_as_it_is_here_and_is_that_of_the_whole_packet() {
        for (version, packet) in packets() {
            let Packet::Publish(whole) = decode(version, &packet).unwrap() else { panic!() };
            let head = packet.len() - whole.payload.len();
            let mut needed = 0;
            for here in 3..=packet.len() {
                match partial(version, &packet[..here], packet.len()).unwrap() {
                    Partial::Needs(bytes) => {
                        assert!(here < head && bytes > here && bytes <= head, "{here} of {head}");
                        needed = needed.max(bytes);
                    }
                    Partial::Head(publish) => {
                        assert!(here >= head);
                        assert_eq!(publish.missing, packet.len() - here);
                        assert_eq!(publish.payload, &whole.payload[..here - head]);
                        let whole = Publish { payload: publish.payload, ..whole };
                        assert_eq!(Publish { missing: 0, ..publish }, whole);
                    }
                }
            }
            assert_eq!(needed, head);
        }
    }

    #[test]
    fn what_follows_the_packet_is_none_of_it() {
        let (version, mut packet) = packets().remove(0);
        let bytes = packet.len();
        packet.extend([0xC0, 0]);
        let Partial::Head(publish) = partial(version, &packet, bytes).unwrap() else { panic!() };
        assert_eq!((publish.payload.len(), publish.missing), (300, 0));
    }

    #[test]
    fn a_head_that_is_longer_than_its_packet_is_refused_at_once() {
        for (version, mut packet) in packets() {
            let at = packet.iter().position(|byte| matches!(byte, b's' | b't')).unwrap();
            packet[at - 2] = 0xFF;
            let refused = partial(version, &packet[..at], packet.len());
            assert!(matches!(refused, Err(_) | Ok(Partial::Needs(_))));
            assert!(partial(version, &packet, packet.len()).is_err(), "{version:?}");
        }
    }
}
