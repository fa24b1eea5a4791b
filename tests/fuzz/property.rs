//! What must hold for any bytes at all. Included by the fuzz targets and by the tests of the
//! codec, which both have a module `mqtt` beside this one.

use super::mqtt::topic::{Mapping, is_filter, is_name, matches, split_shared};
use super::mqtt::{
    Fault, Frame, PACKET_BYTES_MAX, Packet, Properties, PropertyId, Version, decode, encode, frame,
    props,
};

pub const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Nothing panics; a packet is valid to its users; what decodes, encodes again and decodes to the
/// same; framing agrees with decoding.
pub fn check_packet(bytes: &[u8]) {
    let framed = frame(bytes, PACKET_BYTES_MAX);
    for version in VERSIONS {
        match decode(version, bytes) {
            Ok(packet) => {
                assert_eq!(framed, Ok(Frame::Complete { packet_bytes: bytes.len() }));
                check_fields(&packet);
                check_again(version, &packet, bytes.len());
            }
            Err(malformed) => {
                assert!(malformed.reason().is_error());
                // Framing never promises bytes that decoding finds missing or left over.
                if framed == Ok(Frame::Complete { packet_bytes: bytes.len() }) {
                    assert_ne!(malformed.fault, Fault::RemainingLengthTooLong);
                }
            }
        }
    }
}

fn check_again(version: Version, packet: &Packet<'_>, len: usize) {
    // The encoder only ever shortens: minimal lengths, short forms of acknowledgements.
    let mut out = vec![0; len];
    let written = encode(version, packet, &mut out).expect("never longer than it was");
    assert!(written > 0);
    assert_eq!(decode(version, &out[..written]).as_ref(), Ok(packet));
    // A buffer one byte too small is refused, whichever byte it is.
    assert!(encode(version, packet, &mut out[..written - 1]).is_err());
}

fn check_fields(packet: &Packet<'_>) {
    match packet {
        Packet::Connect(connect) => {
            check_properties(connect.properties);
            if let Some(will) = connect.will {
                assert!(is_name(will.topic));
                check_properties(will.properties);
            }
            assert!(!connect.client_id.contains('\0'));
        }
        Packet::Connack(connack) => {
            assert!(connack.code == 0 || !connack.session_present);
            check_properties(connack.properties);
        }
        Packet::Publish(publish) => {
            let aliased = publish.topic.is_empty() && publish.properties.topic_alias().is_some();
            assert!(aliased || is_name(publish.topic));
            assert_eq!(publish.packet_id.is_some(), publish.qos.as_u8() > 0);
            assert!(!publish.dup || publish.packet_id.is_some());
            check_properties(publish.properties);
        }
        Packet::Subscribe(subscribe) => {
            check_properties(subscribe.properties);
            assert!(!subscribe.filters.is_empty());
            assert_eq!(subscribe.filters.iter().count(), subscribe.filters.len());
            for (filter, options) in subscribe.filters.iter() {
                assert!(is_filter(filter));
                assert!(options.retain_handling < 3);
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            check_properties(unsubscribe.properties);
            assert!(!unsubscribe.filters.is_empty());
            assert_eq!(unsubscribe.filters.iter().count(), unsubscribe.filters.len());
            assert!(unsubscribe.filters.iter().all(|(filter, _)| is_filter(filter)));
        }
        Packet::Suback(suback) | Packet::Unsuback(suback) => check_properties(suback.properties),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            check_properties(ack.properties);
        }
        Packet::Disconnect(disconnect) | Packet::Auth(disconnect) => {
            check_properties(disconnect.properties);
        }
        Packet::Pingreq | Packet::Pingresp => {}
    }
}

/// All of it can be walked, copied whole, and copied without any one property.
fn check_properties(properties: Properties<'_>) {
    let raw = properties.as_bytes();
    let mut out = vec![0; raw.len()];
    let mut walked = 0;
    for property in properties.iter() {
        walked += property.encoded_len().expect("it was on the wire");
    }
    assert_eq!(walked, raw.len(), "the walk ended early: {properties:?}");
    assert_eq!(props::copy_without(properties, &[], &mut out), Ok(raw.len()));
    assert_eq!(out, raw);
    for dropped in properties.iter().map(|p| p.id()).chain([PropertyId::TopicAlias]) {
        let len = props::copy_without(properties, &[dropped], &mut out).expect("not longer");
        let kept = Properties::from_encoded(&out[..len]);
        assert!(kept.iter().eq(properties.iter().filter(|p| p.id() != dropped)));
    }
}

/// Matching agrees with the specification spelt out level by level, and mapping yields valid
/// topics or nothing. `text` is cut at newlines: filter, topic, target, prefix, suffix.
pub fn check_topic(text: &str) {
    let mut parts = text.split('\n');
    let mut part = || parts.next().unwrap_or_default();
    let (filter, topic, target, prefix, suffix) = (part(), part(), part(), part(), part());
    let mapping = Mapping::new(filter, Some(target), prefix, suffix);
    if mapping.is_ok() {
        assert!(is_filter(filter));
        assert!(target.is_empty() || is_filter(target));
    }
    let filter = split_shared(filter).map_or(filter, |(_, inner)| inner);
    if !is_filter(filter) || !is_name(topic) {
        return;
    }
    let matched = matches(filter, topic);
    assert_eq!(matched, matches_by_the_book(filter, topic), "{filter:?} {topic:?}");
    let Ok(mapping) = mapping else { return };
    let mut out = vec![0; text.len() + 1];
    match mapping.map(topic, &mut out) {
        Ok(len) if matched => {
            let mapped = std::str::from_utf8(&out[..len]).expect("text");
            assert!(is_name(mapped), "{text:?} → {mapped:?}");
            assert!(mapped.starts_with(prefix.trim_end_matches('/')), "{text:?} → {mapped:?}");
            assert!(mapped.ends_with(suffix), "{text:?} → {mapped:?}");
            assert!(!mapping.is_identity() || mapped == topic);
            assert!(mapping.map(topic, &mut out[..len - 1]).is_err());
        }
        // A topic the filter does not match is the caller's mistake: any answer but a panic.
        Ok(_) => {}
        Err(_) if matched => {
            // Only an empty result has no room in a buffer of this size.
            assert!(prefix.is_empty() || prefix == "/", "{text:?}");
            assert!(suffix.is_empty(), "{text:?}");
        }
        Err(_) => {}
    }
}

fn matches_by_the_book(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    if topic[0].starts_with('$') && matches!(filter[0], "+" | "#") {
        return false;
    }
    let (levels, any_end) = match filter.split_last() {
        Some((&"#", before)) => (before, true),
        _ => (&filter[..], false),
    };
    let enough = if any_end { topic.len() >= levels.len() } else { topic.len() == levels.len() };
    enough && levels.iter().zip(&topic).all(|(wanted, level)| *wanted == "+" || wanted == level)
}
