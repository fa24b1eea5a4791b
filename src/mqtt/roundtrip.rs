//! Round trips: every packet in every version with every property, each truncation and each
//! single-byte mutation of it, and random mutations from a fixed number of seeds.

use crate::mqtt::props::Variable;
use crate::mqtt::*;
use crate::vocab::Rng;
use property::{VERSIONS, check_packet, check_topic};
use std::path::PathBuf;

use crate::mqtt;
#[path = "../../tests/fuzz/property.rs"]
mod property;

/// Random packets per `cargo test`: each seed mutates each sample once.
const SEED_COUNT: u64 = 300;

const EVERY_PROPERTY: &[Property<'static>] = &[
    Property::PayloadFormat(true),
    Property::MessageExpiry(3600),
    Property::ContentType("text/plain"),
    Property::ResponseTopic("réponse/à"),
    Property::CorrelationData(&[0, 1, 255]),
    Property::SubscriptionIdentifier(Variable(268_435_455)),
    Property::SessionExpiry(u32::MAX),
    Property::AssignedClientId("assigned"),
    Property::ServerKeepalive(60),
    Property::AuthenticationMethod("SCRAM"),
    Property::AuthenticationData(b"\x00salt"),
    Property::RequestProblemInformation(false),
    Property::WillDelay(5),
    Property::RequestResponseInformation(true),
    Property::ResponseInformation("info"),
    Property::ServerReference("other:1883"),
    Property::ReasonString("because"),
    Property::ReceiveMaximum(1),
    Property::TopicAliasMaximum(0),
    Property::TopicAlias(65_535),
    Property::MaximumQos(1),
    Property::RetainAvailable(true),
    Property::UserProperty(("key", "value")),
    Property::UserProperty(("", "")),
    Property::MaximumPacketSize(1),
    Property::WildcardAvailable(false),
    Property::SubscriptionIdsAvailable(true),
    Property::SharedAvailable(false),
];

/// All properties that may stand there, encoded once for the rest of the process.
fn all_properties(context: Context) -> Properties<'static> {
    let list: Vec<_> =
        EVERY_PROPERTY.iter().filter(|p| p.id().is_allowed(context)).copied().collect();
    let out = Box::leak(vec![0; 1024].into_boxed_slice());
    Properties::write(&list, out).expect("1 KiB is plenty")
}

fn id(raw: u16) -> PacketId {
    PacketId::new(raw).expect("not zero")
}

/// Packets of a version; `context` gives the properties.
fn packets(
    version: Version,
    properties: impl Fn(Context) -> Properties<'static>,
) -> Vec<Packet<'static>> {
    const FILTERS: &[(&str, SubscribeOptions)] = &[
        (
            "a/+/#",
            SubscribeOptions {
                qos: Qos::ExactlyOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
            },
        ),
        (
            "$share/g/ü",
            SubscribeOptions {
                qos: Qos::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: 0,
            },
        ),
    ];
    const FILTERS_V5: &[(&str, SubscribeOptions)] = &[
        (
            "#",
            SubscribeOptions {
                qos: Qos::AtMostOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: 2,
            },
        ),
        (
            "$share/g/a/#",
            SubscribeOptions {
                qos: Qos::ExactlyOnce,
                no_local: false,
                retain_as_published: true,
                retain_handling: 1,
            },
        ),
    ];
    const PLAIN: &[(&str, SubscribeOptions)] = &[(
        "+",
        SubscribeOptions {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        },
    )];
    let five = version == Version::V5;
    let reason = |code| if five { Reason(code) } else { Reason::SUCCESS };
    let ack = |context, code| Ack {
        packet_id: id(0x1234),
        reason: reason(code),
        properties: properties(context),
    };
    let mut list = vec![
        Packet::Connack(Connack {
            session_present: version != Version::V31,
            code: 0,
            properties: properties(Context::Connack),
        }),
        Packet::Connack(Connack {
            session_present: false,
            code: if five { 0x87 } else { 5 },
            properties: properties(Context::Connack),
        }),
        Packet::Puback(ack(Context::Puback, 0)),
        Packet::Puback(ack(Context::Puback, 0x10)),
        Packet::Pubrec(ack(Context::Pubrec, 0x97)),
        Packet::Pubrel(ack(Context::Pubrel, 0x92)),
        Packet::Pubcomp(ack(Context::Pubcomp, 0x92)),
        Packet::Subscribe(Subscribe {
            packet_id: id(1),
            properties: properties(Context::Subscribe),
            filters: Filters::from_list(if five { FILTERS_V5 } else { FILTERS }),
        }),
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(65_535),
            properties: properties(Context::Unsubscribe),
            filters: Filters::from_list(PLAIN),
        }),
        Packet::Suback(Suback {
            packet_id: id(2),
            properties: properties(Context::Suback),
            codes: &[0, 1, 2, 0x80],
        }),
        Packet::Unsuback(Suback {
            packet_id: id(3),
            properties: properties(Context::Unsuback),
            codes: if five { &[0, 0x11] } else { &[] },
        }),
        Packet::Pingreq,
        Packet::Pingresp,
        Packet::Disconnect(Disconnect {
            reason: reason(0),
            properties: properties(Context::Disconnect),
        }),
        Packet::Disconnect(Disconnect {
            reason: reason(4),
            properties: properties(Context::Disconnect),
        }),
    ];
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        for flag in [false, true] {
            list.push(Packet::Publish(Publish {
                dup: flag && qos != Qos::AtMostOnce,
                qos,
                retain: flag,
                topic: if flag { "dépôt/3" } else { "plant/7/line/3/temperature" },
                packet_id: (qos != Qos::AtMostOnce).then(|| id(7)),
                properties: properties(Context::Publish),
                payload: if flag { b"" } else { b"\x00\xFFpayload" },
                missing: 0,
            }));
        }
    }
    let will = Will {
        topic: "last/will",
        payload: b"gone",
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: properties(Context::Will),
    };
    let connect = Connect {
        version,
        bridge: false,
        clean_start: true,
        keepalive: 60,
        client_id: "client",
        will: Some(will),
        username: Some("user"),
        password: Some(b"\x00secret"),
        properties: properties(Context::Connect),
    };
    list.push(Packet::Connect(connect));
    list.push(Packet::Connect(Connect { will: None, password: None, ..connect }));
    list.push(Packet::Connect(Connect {
        bridge: !five,
        clean_start: false,
        client_id: "",
        will: Some(Will { qos: Qos::ExactlyOnce, retain: false, payload: b"", ..will }),
        username: None,
        password: if five { Some(b"token") } else { None },
        ..connect
    }));
    if five {
        let properties = properties(Context::Auth);
        let code = if properties.is_empty() { 0 } else { 0x18 };
        list.push(Packet::Auth(Disconnect { reason: Reason(code), properties }));
    }
    list
}

/// Every sample with its bytes.
fn samples() -> Vec<(Version, Packet<'static>, Vec<u8>)> {
    let mut samples = Vec::new();
    for version in VERSIONS {
        let mut list = packets(version, |_| Properties::EMPTY);
        if version == Version::V5 {
            list.extend(packets(version, all_properties));
        }
        for packet in list {
            let mut out = vec![0; 2048];
            let len = encode(version, &packet, &mut out).expect("2 KiB is plenty");
            out.truncate(len);
            samples.push((version, packet, out));
        }
    }
    samples
}

#[test]
fn every_packet_of_every_version_comes_back() {
    for (version, packet, bytes) in samples() {
        let complete = Frame::Complete { packet_bytes: bytes.len() };
        assert_eq!(frame(&bytes, bytes.len()), Ok(complete), "{packet:?}");
        assert_eq!(decode(version, &bytes), Ok(packet), "{version:?} {bytes:02x?}");
        check_packet(&bytes);
    }
}

#[test]
fn samples_carry_every_property_and_every_packet_type() {
    let mut types = 0_u16;
    let mut properties = Vec::new();
    for (_, packet, bytes) in samples() {
        types |= 1 << (bytes[0] >> 4);
        if let Packet::Connect(Connect { will: Some(will), .. }) = packet {
            properties.extend(will.properties.iter().map(|p| p.id()));
        }
        for context in Context::ALL {
            properties.extend(all_properties(context).iter().map(|p| p.id()));
        }
    }
    assert_eq!(types, 0xFFFE);
    assert!(PropertyId::ALL.iter().all(|id| properties.contains(id)));
}

#[test]
fn every_truncation_is_refused() {
    for (version, packet, bytes) in samples() {
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            assert_eq!(decode(version, cut), Err(Fault::Truncated.into()), "{packet:?}");
            assert!(matches!(frame(cut, 4096), Ok(Frame::Incomplete { .. })), "{packet:?}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(version, &longer), Err(Fault::TrailingBytes.into()), "{packet:?}");
    }
}

/// The body is cut (or grows) and the remaining length is set to fit: only fields tell.
#[test]
fn every_truncation_inside_the_frame_is_refused_or_another_valid_packet() {
    for (version, packet, bytes) in samples() {
        let head = 1 + bytes[1..].iter().take_while(|b| **b & 0x80 != 0).count() + 1;
        let body = &bytes[head..];
        for len in 0..body.len() {
            check_packet(&reframed(bytes[0], &body[..len]));
        }
        let mut longer = body.to_vec();
        longer.push(0);
        let longer = reframed(bytes[0], &longer);
        check_packet(&longer);
        // A byte too much is a longer payload, a further code, a reason that may be left out, or
        // a fault.
        let grows = matches!(packet, Packet::Publish(_) | Packet::Suback(_))
            || (version == Version::V5 && may_grow(&packet, body.len()));
        if !grows {
            assert!(decode(version, &longer).is_err(), "{version:?} {packet:?}");
        }
    }
}

fn may_grow(packet: &Packet<'_>, body_bytes: usize) -> bool {
    match packet {
        Packet::Puback(_) | Packet::Pubrec(_) | Packet::Pubrel(_) | Packet::Pubcomp(_) => {
            body_bytes <= 3
        }
        Packet::Disconnect(_) => body_bytes <= 1,
        Packet::Unsuback(_) => true,
        _ => false,
    }
}

fn reframed(first: u8, body: &[u8]) -> Vec<u8> {
    let (length, length_bytes) = writer::variable_array(body.len()).expect("small");
    [&[first][..], &length[..length_bytes], body].concat()
}

#[test]
fn every_single_byte_mutation_is_refused_or_another_valid_packet() {
    for (_, _, mut bytes) in samples() {
        for at in 0..bytes.len() {
            let original = bytes[at];
            for value in 0..=255 {
                bytes[at] = value;
                check_packet(&bytes);
            }
            bytes[at] = original;
        }
    }
}

#[test]
fn random_mutations_never_panic_and_never_change_meaning() {
    let samples = samples();
    let mut decoded = 0;
    for seed in 0..SEED_COUNT {
        let mut rng = Rng::new(seed);
        for (version, _, sample) in &samples {
            let mut bytes = sample.clone();
            for _ in 0..=rng.below(3) {
                mutate(&mut rng, &mut bytes, &samples);
            }
            if rng.below(4) != 0 {
                let head = bytes.len().min(2);
                let first = bytes.first().copied().unwrap_or_default();
                bytes = reframed(first, &bytes[head..]);
            }
            check_packet(&bytes);
            decoded += usize::from(decode(*version, &bytes).is_ok());
        }
    }
    assert!(decoded > 1000, "only {decoded} mutants decoded: the test has lost its teeth");
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, samples: &[(Version, Packet<'_>, Vec<u8>)]) {
    let pick = |rng: &mut Rng, len: usize| -> usize {
        let bound = u64::try_from(len).expect("64 bits");
        usize::try_from(rng.below(bound)).expect("below a usize")
    };
    let at = pick(rng, bytes.len());
    match rng.below(6) {
        0 => bytes.truncate(at),
        1 => {
            let value = rng.next_u64().to_le_bytes()[0];
            bytes.insert(at.min(bytes.len()), value);
        }
        2 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
        3 if !bytes.is_empty() => {
            bytes.remove(at);
        }
        4 if !bytes.is_empty() => {
            let interesting = [0, 1, 2, 0x23, 0x26, 0x2B, 0x2F, 0x7F, 0x80, 0xFF];
            bytes[at] = interesting[pick(rng, interesting.len())];
        }
        _ => {
            let (_, _, other) = &samples[pick(rng, samples.len())];
            let from = pick(rng, other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "fuzz", "corpus", target].iter().collect();
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is committed")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

#[test]
fn the_fuzz_corpus_holds() {
    for bytes in corpus("decode") {
        check_packet(&bytes);
    }
    for bytes in corpus("topic") {
        check_topic(std::str::from_utf8(&bytes).expect("text"));
    }
}

#[test]
fn random_filters_topics_and_targets_agree_with_the_book() {
    let alphabet = ["a", "b", "/", "/", "+", "#", "$", "ü", "+/", "/#", "/+"];
    let mut mapped = 0;
    for seed in 0..SEED_COUNT * 100 {
        let mut rng = Rng::new(seed);
        let mut word = |wild: bool| {
            let mut text = String::new();
            for _ in 0..rng.below(6) {
                let bound = if wild { 11 } else { 4 };
                text += alphabet[usize::try_from(rng.below(bound)).expect("small")];
            }
            text
        };
        let parts = [word(true), word(false), word(true), word(false), word(false)];
        mapped += usize::from(
            topic::is_filter(&parts[0])
                && topic::is_name(&parts[1])
                && topic::matches(&parts[0], &parts[1])
                && topic::Mapping::new(&parts[0], Some(&parts[2]), "", "").is_ok(),
        );
        check_topic(&parts.join("\n"));
    }
    assert!(mapped > 500, "only {mapped} mappings: the test has lost its teeth");
}
