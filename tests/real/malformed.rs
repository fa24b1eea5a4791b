//! Broken packets from a raw socket: each ends its own connection, with the right code, and harms
//! nobody else.

use crate::common::client::{Client, Wire, dial};
use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, Connect, Message, PAYLOAD_FORMAT, Packet, RECEIVE_MAXIMUM, SESSION_EXPIRY, TOPIC_ALIAS,
    packet, prefixed, properties, subscribe,
};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_NAME_INVALID: u8 = 0x90;
const TOPIC_ALIAS_INVALID: u8 = 0x94;

/// A client of long standing that must not notice anything.
struct Witness(Client);

impl Witness {
    fn new(gateway: &Gateway) -> Self {
        let mut client = Connect::v5("witness").open(gateway.port);
        client.subscribe(&[("witness", 2)]);
        Self(client)
    }

    fn is_well(&mut self, after: &str) {
        self.0.publish(&Message::new("witness", after).qos(2));
        assert_eq!(self.0.next().text(), after);
    }
}

/// A PUBLISH at QoS 1 in version 5 from its raw parts.
fn publish(topic: &[u8], id: u16, props: &[wire::Property]) -> Vec<u8> {
    let body = [&prefixed(topic)[..], &id.to_be_bytes(), &properties(props), b"payload"].concat();
    packet(0x32, &body)
}

fn cases_of_5() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let malformed = &[MALFORMED][..];
    let error = &[PROTOCOL_ERROR][..];
    let either = &[MALFORMED, PROTOCOL_ERROR][..];
    let name = &[TOPIC_NAME_INVALID, MALFORMED, PROTOCOL_ERROR][..];
    let format = (PAYLOAD_FORMAT, vec![1]);
    vec![
        ("packet type 0", vec![0x00, 0], either),
        ("QoS 3", packet(0x36, b"\0\x01t\0\x01\0x"), malformed),
        ("packet id 0", publish(b"t", 0, &[]), either),
        ("DUP at QoS 0", packet(0x38, b"\0\x01t\0x"), either),
        ("+ in a topic", publish(b"a/+", 1, &[]), name),
        ("# in a topic", publish(b"a/#", 1, &[]), name),
        ("no topic and no alias", publish(b"", 1, &[]), name),
        ("U+0000 in a topic", publish(b"a\0b", 1, &[]), malformed),
        ("a surrogate in a topic", publish(b"a\xED\xA0\x80", 1, &[]), malformed),
        ("half a character in a topic", publish(b"a\xC3", 1, &[]), malformed),
        ("remaining length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], malformed),
        ("a topic longer than its packet", packet(0x30, b"\0\x09t"), malformed),
        ("PUBLISH that ends in its packet id", packet(0x32, b"\0\x01t\0"), malformed),
        ("properties longer than their packet", packet(0x30, b"\0\x01t\x05\x01"), malformed),
        ("an unknown property", publish(b"t", 1, &[(0x7E, vec![1])]), malformed),
        ("a property of CONNECT", publish(b"t", 1, &[(SESSION_EXPIRY, vec![0; 4])]), either),
        ("a property twice", publish(b"t", 1, &[format.clone(), format]), error),
        ("payload format 2", publish(b"t", 1, &[(PAYLOAD_FORMAT, vec![2])]), either),
        (
            "alias 0",
            publish(b"t", 1, &[(TOPIC_ALIAS, vec![0, 0])]),
            &[TOPIC_ALIAS_INVALID, PROTOCOL_ERROR],
        ),
        (
            "an alias nobody offered",
            publish(b"t", 1, &[(TOPIC_ALIAS, vec![0xFF, 0xFF])]),
            &[TOPIC_ALIAS_INVALID],
        ),
        ("a subscription id from a client", publish(b"t", 1, &[(0x0B, vec![1])]), error),
        ("SUBSCRIBE with flags 0", packet(0x80, b"\0\x01\0\0\x01t\x01"), malformed),
        ("SUBSCRIBE without filters", packet(0x82, b"\0\x01\0"), error),
        ("SUBSCRIBE with packet id 0", subscribe(5, 0, &[("t", 1)], &[]), either),
        ("SUBSCRIBE at QoS 3", subscribe(5, 1, &[("t", 3)], &[]), either),
        ("SUBSCRIBE with reserved options", subscribe(5, 1, &[("t", 0xC0)], &[]), either),
        ("retain handling 3", subscribe(5, 1, &[("t", 0x30)], &[]), either),
        ("UNSUBSCRIBE without filters", packet(0xA2, b"\0\x01\0"), error),
        ("UNSUBSCRIBE with flags 0", packet(0xA0, b"\0\x01\0\0\x01t"), malformed),
        ("PUBREL with flags 0", packet(0x60, b"\0\x01"), malformed),
        ("PUBACK with flags 1", packet(0x41, b"\0\x01"), malformed),
        ("PUBACK of one byte", packet(0x40, b"\0"), malformed),
        ("PUBACK with packet id 0", packet(0x40, b"\0\0"), either),
        ("PINGREQ with a body", packet(0xC0, b"x"), malformed),
        ("a second CONNECT", Connect::v5("again").bytes(), error),
        ("CONNACK from a client", packet(0x20, b"\0\0\0"), error),
        ("SUBACK from a client", packet(0x90, b"\0\x01\0\0"), error),
        ("PINGRESP from a client", wire::PINGRESP.to_vec(), error),
        ("AUTH without a method", packet(0xF0, b""), error),
        ("DISCONNECT with flags 1", packet(0xE1, b""), malformed),
    ]
}

#[test]
fn every_broken_packet_of_mqtt_5_is_answered_with_its_code() {
    let mut gateway = Gateway::start("");
    let mut witness = Witness::new(&gateway);
    let mut wrong = Vec::new();
    for (n, (case, bytes, codes)) in cases_of_5().into_iter().enumerate() {
        let mut client = Connect::v5(&format!("client-{n}")).open(gateway.port);
        match client.reaction(&bytes) {
            Some(Packet::Disconnect { code }) if codes.contains(&code) => {}
            said => wrong.push(format!("{case}: {said:x?}, not {codes:x?}")),
        }
        witness.is_well(case);
        assert!(gateway.is_running());
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_broken_packet_of_3_1_1_ends_its_connection() {
    let gateway = Gateway::start("");
    let mut witness = Witness::new(&gateway);
    let cases: &[(&str, &[u8])] = &[
        ("packet type 0", b"\x00\0"),
        ("packet type 15", b"\xF0\0"),
        ("QoS 3", b"\x36\x06\0\x01t\0\x01x"),
        ("packet id 0", b"\x32\x06\0\x01t\0\0x"),
        ("+ in a topic", b"\x30\x04\0\x01+x"),
        ("an empty topic", b"\x30\x03\0\0x"),
        ("U+0000 in a topic", b"\x30\x04\0\x01\0x"),
        ("bad UTF-8 in a topic", b"\x30\x04\0\x01\xFFx"),
        ("a topic longer than its packet", b"\x30\x03\0\x09t"),
        ("remaining length of five bytes", b"\x30\xFF\xFF\xFF\xFF\x01"),
        ("SUBSCRIBE with flags 0", b"\x80\x06\0\x01\0\x01t\x01"),
        ("SUBSCRIBE without filters", b"\x82\x02\0\x01"),
        ("SUBSCRIBE at QoS 3", b"\x82\x06\0\x01\0\x01t\x03"),
        ("SUBSCRIBE with an option of MQTT 5", b"\x82\x06\0\x01\0\x01t\x04"),
        ("# in the middle of a filter", b"\x82\x08\0\x01\0\x03#/a\x01"),
        ("DUP at QoS 0", b"\x38\x04\0\x01tx"),
        ("bad UTF-8 in a filter", b"\x82\x06\0\x01\0\x01\xFF\x01"),
        ("U+0000 in a filter", b"\x82\x06\0\x01\0\x01\0\x01"),
        ("an empty filter", b"\x82\x05\0\x01\0\0\x01"),
        ("+ as a part of a level", b"\x82\x07\0\x01\0\x02a+\x01"),
        ("UNSUBSCRIBE without filters", b"\xA2\x02\0\x01"),
        ("bad UTF-8 in a filter to take off", b"\xA2\x05\0\x01\0\x01\xFF"),
        ("PUBREL with flags 0", b"\x60\x02\0\x01"),
        ("PUBACK of three bytes", b"\x40\x03\0\x01\0"),
        ("DISCONNECT with a body", b"\xE0\x01\0"),
        ("SUBACK from a client", b"\x90\x03\0\x01\0"),
        ("a second CONNECT", b"\x10\x0E\0\x04MQTT\x04\x02\0\0\0\x02ab"),
    ];
    for (n, (case, bytes)) in cases.iter().enumerate() {
        let mut client = Connect::v4(&format!("client-{n}")).open(gateway.port);
        let said = client.reaction(bytes);
        assert!(said.is_none(), "{case}: a 3.1.1 server closes without a word: {said:?}");
        witness.is_well(case);
    }
}

#[test]
fn a_bad_first_packet_is_never_let_in() {
    let gateway = Gateway::start("");
    let mut witness = Witness::new(&gateway);
    let level = |level: u8| Connect { level, ..Connect::v4("client") }.bytes();
    let flags = |flags: u8| {
        let body = [b"\0\x04MQTT\x04", &[flags][..], b"\0\0\0\x02ab"].concat();
        packet(0x10, &body)
    };
    let receive_0 = Connect::v5("client").property((RECEIVE_MAXIMUM, vec![0, 0])).bytes();
    let no_name = Connect::v4("").persistent().bytes();
    // `None`: closed, with or without a CONNACK that refuses. A code: it must be said.
    type Case<'a> = (&'a str, Vec<u8>, Option<&'a [u8]>);
    let cases: Vec<Case<'_>> = vec![
        ("PINGREQ first", wire::PINGREQ.to_vec(), None),
        ("PUBLISH first", Message::new("t", "x").bytes(4), None),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), None),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), None),
        ("level 2", level(2), Some(&[1, 0x84])),
        ("level 6", level(6), Some(&[1, 0x84])),
        ("a wrong name", packet(0x10, b"\0\x04MQTX\x04\x02\0\0\0\x02ab"), None),
        ("the reserved flag", flags(0x03), None),
        ("will QoS without a will", flags(0x0A), None),
        ("will retain without a will", flags(0x22), None),
        ("will QoS 3", flags(0x1E), None),
        ("a password without a user name in 3.1.1", flags(0x42), None),
        ("a body that ends early", packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x09ab"), None),
        ("bytes behind the body", packet(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x02abc"), None),
        ("receive maximum 0", receive_0, Some(&[PROTOCOL_ERROR, MALFORMED])),
        ("no name and a session to keep", no_name, Some(&[2])),
    ];
    for (case, bytes, codes) in cases {
        let mut wire = Wire::new(dial(gateway.port).expect("a connection"), 4);
        if bytes[..].windows(5).any(|part| part == b"MQTT\x05") {
            wire.level = 5;
        }
        wire.send(&bytes).expect("sent");
        let code = match &wire.read_to_the_end()[..] {
            [] => None,
            [Packet::Connack(connack)] => Some(connack.code),
            said => panic!("{case}: {said:?}"),
        };
        assert_ne!(code, Some(0), "{case}: let in");
        if let Some(codes) = codes {
            assert!(code.is_some_and(|code| codes.contains(&code)), "{case}: {code:x?}");
        }
        witness.is_well(case);
    }
}

#[test]
fn a_connection_that_never_says_anything_is_closed() {
    let gateway = Gateway::start("");
    let mut silent = Wire::new(dial(gateway.port).expect("a connection"), 4);
    let mut half = Wire::new(dial(gateway.port).expect("a connection"), 4);
    half.send(&Connect::v4("client").bytes()[..7]).expect("sent");
    assert!(silent.read_to_the_end().is_empty());
    assert!(half.read_to_the_end().is_empty());
}

#[test]
fn packets_split_at_every_byte_are_whole_packets() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 1)]);
    let message = Message { id: 1, ..Message::new("t", "in pieces").qos(1) };
    let bytes = [Connect::v5("client").bytes(), message.bytes(5)].concat();
    let mut wire = Wire::new(dial(gateway.port).expect("a connection"), 5);
    for byte in bytes {
        // Without Nagle's algorithm every byte is a segment of its own.
        wire.send(&[byte]).expect("sent");
    }
    assert_eq!(watcher.next().text(), "in pieces");
}

#[test]
fn a_flood_of_garbage_leaves_the_gateway_serving() {
    let mut gateway = Gateway::start("");
    let mut witness = Witness::new(&gateway);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    println!("seed {state:#x}");
    for n in 0..300 {
        let garbage: Vec<u8> = (0..200)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        if n % 2 == 0 {
            let mut wire = Wire::new(dial(gateway.port).expect("a connection"), 4);
            let _ = wire.send(&garbage);
        } else {
            let mut client = Connect::v5("garbage").open(gateway.port);
            let _ = client.wire.send(&garbage);
        }
    }
    witness.is_well("garbage");
    assert!(gateway.is_running());
}
