//! Malformed packets and protocol errors beyond those of `tests/real/malformed.rs`.

use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, CONTENT_TYPE, Connect, MAXIMUM_QOS, Message, Packet, Property, RESPONSE_TOPIC,
    SERVER_KEEPALIVE, SESSION_EXPIRY, SUBSCRIPTION_ID, packet, prefixed, properties, subscribe,
    varint,
};
use std::io::Read;

const REASON_STRING: u8 = 0x1F;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

fn publish(props: &[Property]) -> Vec<u8> {
    let body = [&prefixed(b"t")[..], b"\0\x01", &properties(props), b"payload"].concat();
    packet(0x32, &body)
}

fn filter(first: u8, name: &[u8]) -> Vec<u8> {
    let options: &[u8] = if first == 0x82 { &[1] } else { &[] };
    packet(first, &[b"\0\x01\0", &prefixed(name)[..], options].concat())
}

fn with_code(first: u8, code: u8, props: &[Property]) -> Vec<u8> {
    let id: &[u8] = if matches!(first, 0xE0 | 0xF0) { b"" } else { b"\0\x01" };
    packet(first, &[id, &[code], &properties(props)].concat())
}

fn cases() -> Vec<(String, Vec<u8>, &'static [u8])> {
    let malformed = &[MALFORMED][..];
    let error = &[PROTOCOL_ERROR][..];
    let either = &[MALFORMED, PROTOCOL_ERROR][..];
    let id = |id: usize| (SUBSCRIPTION_ID, varint(id));
    let reason = (REASON_STRING, prefixed(b"because"));
    let method = (0x15, prefixed(b"SCRAM-SHA-1"));
    let no_text = |id: u8| (id, prefixed(b"\xED\xA0\x80"));
    let utf8 = (REASON_STRING, prefixed(b"\xED\xA0\x80"));
    let wildcard = (RESPONSE_TOPIC, prefixed(b"a/+"));
    let empty = (RESPONSE_TOPIC, prefixed(b""));
    let broken = (0x26, [prefixed(b"a"), prefixed(b"\xC3")].concat());
    let cut = (0x26, prefixed(b"a"));
    let cases: Vec<(&str, Vec<u8>, &'static [u8])> = vec![
        ("a remaining length that is not minimal", vec![0xC0, 0x80, 0], malformed),
        ("a property length that is not minimal", packet(0x30, b"\0\x01t\x80\0"), malformed),
        ("subscription id 0", subscribe(5, 1, &[("t", 1)], &[id(0)]), error),
        ("two subscription ids", subscribe(5, 1, &[("t", 1)], &[id(1), id(2)]), error),
        ("no local on a shared subscription", subscribe(5, 1, &[("$share/g/t", 5)], &[]), error),
        ("a wildcard in a response topic", publish(&[wildcard]), &[0x90, 0x82, 0x81]),
        ("an empty response topic", publish(&[empty]), &[0x90, 0x82, 0x81]),
        ("a user property that is no UTF-8", publish(&[broken]), malformed),
        ("a response topic that is no UTF-8", publish(&[no_text(RESPONSE_TOPIC)]), malformed),
        ("a content type that is no UTF-8", publish(&[no_text(CONTENT_TYPE)]), malformed),
        ("half a user property", publish(&[cut]), malformed),
        ("a reason string in PUBLISH", publish(std::slice::from_ref(&reason)), either),
        ("a reason string twice", with_code(0x40, 0, &[reason.clone(), reason]), error),
        ("a reason string that is no UTF-8", with_code(0x50, 0, &[utf8]), malformed),
        ("keepalive in PUBREL", with_code(0x62, 0, &[(SERVER_KEEPALIVE, vec![0, 1])]), either),
        ("maximum QoS in PUBCOMP", with_code(0x70, 0, &[(MAXIMUM_QOS, vec![1])]), either),
        (
            "session expiry in SUBSCRIBE",
            subscribe(5, 1, &[("t", 1)], &[(SESSION_EXPIRY, vec![0; 4])]),
            either,
        ),
        (
            "AUTH with a method nobody agreed on",
            with_code(0xF0, 0x18, std::slice::from_ref(&method)),
            error,
        ),
        ("a second authentication", with_code(0xF0, 0x19, &[method]), error),
        (
            "DISCONNECT with a property of CONNECT",
            with_code(0xE0, 0, &[(0x21, vec![0, 9])]),
            either,
        ),
        (
            "DISCONNECT that makes a session last",
            with_code(0xE0, 0, &[(SESSION_EXPIRY, vec![0, 0, 0, 9])]),
            error,
        ),
        ("DISCONNECT with bytes behind it", packet(0xE0, b"\0\0x"), malformed),
        ("UNSUBACK from a client", packet(0xB0, b"\0\x01\0\0"), error),
        ("PINGREQ in two bytes of length", vec![0xC0, 0x81, 0, b'x'], malformed),
    ];
    let mut cases: Vec<(String, Vec<u8>, &[u8])> =
        cases.into_iter().map(|(case, bytes, codes)| (case.to_owned(), bytes, codes)).collect();
    let any = &[MALFORMED, PROTOCOL_ERROR, 0x8F][..];
    let bad: [&[u8]; 10] =
        [b"", b"a#", b"a/#/b", b"#/a", b"a+", b"+a/b", b"a\0", b"\xFF", b"a\xED\xA0\x80", b"##"];
    for name in bad {
        for first in [0x82, 0xA2] {
            let case = format!("{first:x} of {:?}", String::from_utf8_lossy(name));
            cases.push((case, filter(first, name), any));
        }
    }
    for name in ["$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/a#/t", "$share/g/a#"] {
        cases.push((name.to_owned(), filter(0x82, name.as_bytes()), any));
    }
    cases
}

#[test]
fn each_is_answered_with_its_code_and_closed() {
    let gateway = Gateway::start("");
    let mut wrong = Vec::new();
    for (case, bytes, codes) in cases() {
        let mut client = Connect::v5("client").open(gateway.port);
        match client.reaction(&bytes) {
            Some(Packet::Disconnect { code }) if codes.contains(&code) => {}
            said => wrong.push(format!("{case}: {said:x?}, not {codes:x?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_acknowledgement_of_the_other_qos_ends_the_connection() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    for level in [4, 5] {
        for (qos, kind, begun) in
            [(1, wire::PUBREC, false), (2, wire::PUBACK, false), (2, wire::PUBACK, true)]
        {
            let mut client = Connect::new(level, "client").open(gateway.port);
            client.subscribe(&[("t", qos)]);
            client.acknowledges = false;
            publisher.publish_without_waiting(&Message::new("t", "x").qos(qos));
            let id = client.next().id;
            if begun {
                client.send(&wire::ack(wire::PUBREC, id));
                client.wait_ack(wire::PUBREL, id);
            }
            let said = client.reaction(&wire::ack(kind, id));
            match said {
                Some(Packet::Disconnect { code: PROTOCOL_ERROR }) if level == 5 => {}
                None if level == 4 => {}
                said => panic!("QoS {qos} in version {level}: {said:x?}"),
            }
        }
    }
}

#[test]
fn reserved_flags_of_every_packet_end_the_connection() {
    let gateway = Gateway::start("");
    // CONNECT is the second one here: its flags are judged first.
    let packets = |level: u8| {
        let none: &[u8] = if level == 5 { b"\0" } else { b"" };
        let t = prefixed(b"t");
        let mut all = vec![
            Connect::new(level, "again").bytes(),
            packet(0x40, b"\0\x01"),
            packet(0x50, b"\0\x01"),
            packet(0x62, b"\0\x01"),
            packet(0x70, b"\0\x01"),
            packet(0x82, &[b"\0\x01", none, &t, b"\x01"].concat()),
            packet(0xA2, &[b"\0\x01", none, &t].concat()),
            packet(0xC0, b""),
            packet(0xE0, b""),
        ];
        if level == 5 {
            all.push(packet(0xF0, b""));
        }
        all
    };
    for level in [4, 5] {
        for bytes in packets(level) {
            for bit in [1, 2, 4, 8] {
                let mut wrong = bytes.clone();
                wrong[0] ^= bit;
                let mut client = Connect::new(level, "client").open(gateway.port);
                match client.reaction(&wrong) {
                    Some(Packet::Disconnect { code: MALFORMED }) if level == 5 => {}
                    None if level == 4 => {}
                    said => panic!("{:x} in version {level}: {said:x?}", wrong[0]),
                }
            }
        }
    }
}

#[test]
fn nothing_follows_a_disconnect_of_the_server() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("t", 1)]);
    client.acknowledges = false;
    for n in 0..20 {
        publisher.publish(&Message::new("t", n.to_string()).qos(1));
    }
    // An error between packets that would be answered.
    let ping = packet(0xC0, b"");
    let more = subscribe(5, 1, &[("u", 1)], &[]);
    client.send(&[&ping[..], &packet(0xC1, b""), &ping, &more].concat());
    let said = client.wait_closed();
    assert!(matches!(said.last(), Some(Packet::Disconnect { code: MALFORMED })), "{said:?}");
    let count = |wanted: fn(&Packet) -> bool| said.iter().filter(|p| wanted(p)).count();
    assert_eq!(count(|packet| matches!(packet, Packet::Disconnect { .. })), 1);
    assert_eq!(count(|packet| matches!(packet, Packet::Pingresp)), 1);
    assert_eq!(count(|packet| matches!(packet, Packet::Suback { .. })), 0);
    publisher.ping();
}

#[test]
fn a_disconnect_of_the_server_has_a_code_and_no_session_expiry() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").persistent().open(gateway.port);
    client.send(&packet(0xC1, b""));
    let mut bytes = Vec::new();
    client.wire.stream.read_to_end(&mut bytes).expect("said and closed");
    let (header, length) = wire::framed(&bytes).expect("a whole packet");
    assert_eq!((bytes[0], bytes.len()), (0xE0, header + length), "one packet: {bytes:x?}");
    let body = &bytes[header..];
    assert_eq!(body[0], MALFORMED);
    // The length of the properties, and the first of them: a reason string or a user property.
    assert!(body.len() < 3 || [REASON_STRING, 0x26].contains(&body[2]), "{bytes:x?}");
}

#[test]
fn a_server_that_stops_says_so() {
    let mut gateway = Gateway::start("");
    let mut new = Connect::v5("new").open(gateway.port);
    let mut old = Connect::v4("old").open(gateway.port);
    gateway.stop();
    assert!(matches!(new.wait_closed()[..], [Packet::Disconnect { code: 0x8B }]));
    assert!(old.wait_closed().is_empty());
}
