//! Reason Strings: a few plain words where MQTT 5 is told no, for whoever looks for the cause at
//! the client. Read MQTT 5 sections 3.1.2.11.7 and 3.2.2.3.9 first.

use crate::mqtt::props::{Properties, Property};
use crate::mqtt::{
    Ack, Connack, Disconnect, Full, Packet, Reason, Suback, Version, encode as encode_plain,
};

/// Who is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub version: Version,
    /// Wants Reason Strings in every packet (Request Problem Information).
    pub problems: bool,
    pub packet_bytes_max: usize,
}

/// A Reason String with its identifier and length; longer ones are left out.
const PROPERTY_BYTES: usize = 128;

/// Encodes a reply, with a Reason String when it refuses, the reader wants to know [MQTT-3.1.2-29]
/// and there is room [MQTT-3.2.2-19] [MQTT-3.4.2-2] [MQTT-3.14.2-3].
pub(super) fn encode(reader: Reader, packet: &Packet<'_>, out: &mut [u8]) -> Result<usize, Full> {
    encode_because(reader, packet, None, out)
}

/// The same for what the packet itself does not say.
pub(super) fn encode_because(
    reader: Reader,
    packet: &Packet<'_>,
    why: Option<&str>,
    out: &mut [u8],
) -> Result<usize, Full> {
    if reader.version == Version::V5 {
        let mut buffer = [0; PROPERTY_BYTES];
        let explained = explain(packet, why, reader.problems, &mut buffer);
        let bytes = explained.and_then(|packet| encode_plain(reader.version, &packet, out).ok());
        if let Some(bytes) = bytes.filter(|bytes| *bytes <= reader.packet_bytes_max) {
            return Ok(bytes);
        }
    }
    encode_plain(reader.version, packet, out)
}

/// The packet with its reason in words, if there are any for it.
fn explain<'a>(
    packet: &Packet<'a>,
    why: Option<&str>,
    problems: bool,
    buffer: &'a mut [u8],
) -> Option<Packet<'a>> {
    let always = matches!(packet, Packet::Connack(_) | Packet::Disconnect(_));
    let text = why.or_else(|| sentence(packet)).filter(|_| always || problems)?;
    let properties = Properties::write(&[Property::ReasonString(text)], buffer).ok()?;
    Some(match *packet {
        Packet::Connack(connack) => Packet::Connack(Connack { properties, ..connack }),
        Packet::Puback(ack) => Packet::Puback(Ack { properties, ..ack }),
        Packet::Pubrec(ack) => Packet::Pubrec(Ack { properties, ..ack }),
        Packet::Suback(suback) => Packet::Suback(Suback { properties, ..suback }),
        Packet::Disconnect(end) => Packet::Disconnect(Disconnect { properties, ..end }),
        _ => return None,
    })
}

/// What a refusal means here, where its code alone leaves the user guessing.
fn sentence(packet: &Packet<'_>) -> Option<&'static str> {
    let text = match packet {
        Packet::Connack(connack) => match Reason(connack.code) {
            Reason::UNSUPPORTED_VERSION => "MQTT 3.1, 3.1.1 and 5 are spoken here",
            Reason::CLIENT_ID_INVALID => "the client id is too long or has a control character",
            Reason::BAD_AUTH_METHOD => "there is no enhanced authentication",
            Reason::TOPIC_NAME_INVALID => {
                "the topic of the will is too long or no topic, or has a control character"
            }
            Reason::QUOTA_EXCEEDED => "too many clients, sessions or bytes of wills",
            Reason::SERVER_UNAVAILABLE => "the gateway is stopping",
            Reason::NOT_AUTHORIZED => "the access rules do not allow it",
            _ => return None,
        },
        Packet::Suback(suback) => {
            let refused =
                suback.codes.iter().map(|code| Reason(*code)).find(|code| code.is_error());
            match refused? {
                Reason::FILTER_INVALID => {
                    "the filter is too long, no filter, or has a control character"
                }
                Reason::QUOTA_EXCEEDED => "there are as many subscriptions as there may be",
                Reason::NOT_AUTHORIZED => "the access rules do not allow it",
                _ => return None,
            }
        }
        Packet::Puback(ack) | Packet::Pubrec(ack) => match ack.reason {
            Reason::QUOTA_EXCEEDED => "a queue that must have it is full",
            Reason::NOT_AUTHORIZED => "the access rules do not allow it",
            Reason::TOPIC_NAME_INVALID => "a control character in a topic",
            Reason::PAYLOAD_FORMAT_INVALID => "a control character in a property",
            _ => return None,
        },
        Packet::Disconnect(end) => match end.reason {
            Reason::RECEIVE_MAXIMUM_EXCEEDED => "more unacknowledged messages than Receive Maximum",
            Reason::TOPIC_ALIAS_INVALID => "the alias is 0 or above Topic Alias Maximum",
            Reason::PACKET_TOO_LARGE => "the packet is larger than Maximum Packet Size",
            Reason::TOPIC_NAME_INVALID => "the topic is too long, or has what no topic may have",
            Reason::TAKEN_OVER => "another connection came with this client id",
            Reason::KEEPALIVE_TIMEOUT => "nothing came for one and a half keep alives",
            Reason::SHUTTING_DOWN => "the gateway is stopping",
            Reason::QUOTA_EXCEEDED => "too many filters at once, or QoS 2 messages not released",
            _ => return None,
        },
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{PacketId, decode};

    const ALL: Reader =
        Reader { version: Version::V5, problems: true, packet_bytes_max: usize::MAX };

    fn said(reader: Reader, packet: &Packet<'_>, why: Option<&str>) -> Option<String> {
        let mut out = [0; 256];
        let bytes = encode_because(reader, packet, why, &mut out).unwrap();
        let properties = match decode(reader.version, &out[..bytes]).unwrap() {
            Packet::Connack(connack) => connack.properties,
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubcomp(ack) => ack.properties,
            Packet::Suback(suback) => suback.properties,
            Packet::Disconnect(end) => end.properties,
            other => panic!("{other:?}"),
        };
        properties.reason_string().map(str::to_string)
    }

    fn disconnect(reason: Reason) -> Packet<'static> {
        Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY })
    }

    fn ack(reason: Reason) -> Ack<'static> {
        Ack::new(PacketId::new(7).unwrap(), reason)
    }

    fn refusals() -> Vec<Packet<'static>> {
        let (properties, codes) = (Properties::EMPTY, &[1, 0x97][..]);
        let packet_id = PacketId::new(7).unwrap();
        vec![
            Packet::Connack(Connack { session_present: false, code: 0x97, properties }),
            disconnect(Reason::TAKEN_OVER),
            Packet::Puback(ack(Reason::QUOTA_EXCEEDED)),
            Packet::Pubrec(ack(Reason::QUOTA_EXCEEDED)),
            Packet::Suback(Suback { packet_id, properties, codes }),
        ]
    }

    #[test]
    fn refusals_are_explained_and_nothing_else_is() {
        for packet in refusals() {
            assert!(said(ALL, &packet, None).is_some(), "{packet:?}");
        }
        let (properties, codes) = (Properties::EMPTY, &[0, 2][..]);
        let packet_id = PacketId::new(7).unwrap();
        for packet in [
            Packet::Connack(Connack { session_present: false, code: 0, properties }),
            disconnect(Reason::SUCCESS),
            Packet::Puback(ack(Reason::NO_SUBSCRIBERS)),
            Packet::Pubcomp(ack(Reason::PACKET_ID_NOT_FOUND)),
            Packet::Suback(Suback { packet_id, properties, codes }),
        ] {
            assert_eq!(said(ALL, &packet, None), None, "{packet:?}");
        }
    }

    #[test]
    fn who_wants_no_problem_information_gets_it_with_connack_and_disconnect_only() {
        let reader = Reader { problems: false, ..ALL };
        let told: Vec<bool> =
            refusals().iter().map(|packet| said(reader, packet, None).is_some()).collect();
        assert_eq!(told, [true, true, false, false, false]);
    }

    #[test]
    fn no_packet_becomes_too_large_by_its_reason() {
        for packet in refusals() {
            let mut out = [0; 256];
            let bytes = encode(ALL, &packet, &mut out).unwrap();
            let exact = Reader { packet_bytes_max: bytes, ..ALL };
            assert!(said(exact, &packet, None).is_some());
            let less = Reader { packet_bytes_max: bytes - 1, ..ALL };
            assert_eq!(said(less, &packet, None), None);
            // Nor does it cost a packet its room.
            let short = encode(ALL, &packet, &mut out[..bytes - 1]).unwrap();
            assert!(short < 12);
        }
    }

    #[test]
    fn old_versions_are_told_the_code_alone() {
        for version in [Version::V31, Version::V311] {
            let reader = Reader { version, ..ALL };
            let mut out = [0; 256];
            let packet = Packet::Puback(ack(Reason::QUOTA_EXCEEDED));
            assert_eq!(encode(reader, &packet, &mut out), Ok(4));
        }
    }

    #[test]
    fn what_was_malformed_is_named() {
        let packet = disconnect(Reason::MALFORMED);
        assert_eq!(said(ALL, &packet, Some("utf8_invalid")), Some("utf8_invalid".to_string()));
    }
}
