//! CONNECT and CONNACK: what is let in, what is refused and how, what comes first.

use crate::common::client::{Wire, dial};
use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, ASSIGNED_CLIENT_ID, Connect, MAXIMUM_PACKET_SIZE, Message, PAYLOAD_FORMAT, Packet,
    Property, RECEIVE_MAXIMUM, RESPONSE_TOPIC, SERVER_KEEPALIVE, SESSION_EXPIRY, WILL_DELAY, find,
    packet, prefixed, properties, subscribe,
};
use std::io::{Read, Write};

const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;
const REQUEST_PROBLEMS: u8 = 0x17;
const REQUEST_RESPONSE: u8 = 0x19;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

/// A CONNECT from its raw parts: flags, properties (MQTT 5 only) and payload.
fn connect(level: u8, flags: u8, props: &[Property], payload: &[&[u8]]) -> Vec<u8> {
    let mut body = [b"\0\x04MQTT", &[level, flags, 0, 0][..]].concat();
    if level == 5 {
        body.extend(properties(props));
    }
    body.extend(payload.concat());
    packet(0x10, &body)
}

/// What a new connection hears until it is closed when it says `bytes`.
fn hears(gateway: &Gateway, level: u8, bytes: &[u8]) -> Vec<Packet> {
    let mut wire = Wire::new(dial(gateway.port).expect("a connection"), level);
    wire.send(bytes).expect("sent");
    wire.read_to_the_end()
}

/// Flags and payloads that break a CONNECT of every version from 3.1.1 on.
fn broken(level: u8) -> Vec<(&'static str, Vec<u8>)> {
    let id = prefixed(b"client");
    let none: &[u8] = if level == 5 { b"\0" } else { b"" };
    let with = |flags: u8, rest: &[&[u8]]| connect(level, flags, &[], &[&[&id[..]], rest].concat());
    let will = |topic: &[u8]| with(0x06, &[none, &prefixed(topic), &prefixed(b"gone")]);
    vec![
        ("the reserved flag", with(0x03, &[])),
        ("will QoS without a will", with(0x0A, &[])),
        ("will retain without a will", with(0x22, &[])),
        ("will QoS 3", with(0x1E, &[none, &prefixed(b"t"), &prefixed(b"gone")])),
        ("a will that is not there", with(0x06, &[])),
        ("a will without its flag", with(0x02, &[none, &prefixed(b"t"), &prefixed(b"gone")])),
        ("a will topic that is no UTF-8", will(b"a\xED\xA0\x80")),
        ("U+0000 in a will topic", will(b"a\0")),
        ("a wildcard in a will topic", will(b"a/+")),
        ("an empty will topic", will(b"")),
        ("a user name that is not there", with(0x82, &[])),
        ("a user name without its flag", with(0x02, &[&prefixed(b"user")])),
        ("a user name that is no UTF-8", with(0x82, &[&prefixed(b"\xC3")])),
        ("U+0000 in a user name", with(0x82, &[&prefixed(b"a\0")])),
        ("a password that is not there", with(0xC2, &[&prefixed(b"user")])),
        ("a password without its flag", with(0x82, &[&prefixed(b"user"), &prefixed(b"word")])),
        ("no client id", connect(level, 0x02, &[], &[])),
        ("a client id that is no UTF-8", connect(level, 0x02, &[], &[&prefixed(b"\xFF")])),
        ("U+0000 in a client id", connect(level, 0x02, &[], &[&prefixed(b"a\0")])),
        ("a surrogate in a client id", connect(level, 0x02, &[], &[&prefixed(b"\xED\xB0\x80")])),
        ("bytes behind the end", with(0x02, &[b"x"])),
    ]
}

#[test]
fn a_broken_connect_of_3_1_1_is_closed_without_a_word() {
    let gateway = Gateway::start("");
    for (case, bytes) in broken(4) {
        let said = hears(&gateway, 4, &bytes);
        assert!(said.is_empty(), "{case}: {said:?}");
    }
    // What every case was made from is let in.
    Connect::v4("client").will(Message::new("t", "gone")).open(gateway.port).ping();
}

#[test]
fn a_broken_connect_of_mqtt_5_is_refused_with_its_code() {
    let gateway = Gateway::start("");
    let either = &[MALFORMED, PROTOCOL_ERROR][..];
    let props = |props: &[Property]| connect(5, 0x02, props, &[&prefixed(b"client")]);
    let expiry = (SESSION_EXPIRY, vec![0, 0, 0, 9]);
    let window = (RECEIVE_MAXIMUM, vec![0, 9]);
    let will = |list: &[Property]| {
        let rest = [&properties(list)[..], &prefixed(b"t"), &prefixed(b"gone")].concat();
        connect(5, 0x06, &[], &[&prefixed(b"client"), &rest])
    };
    let delay = (WILL_DELAY, vec![0, 0, 0, 9]);
    let auth = (AUTHENTICATION_METHOD, prefixed(b"SCRAM-SHA-1"));
    let mut cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("session expiry twice", props(&[expiry.clone(), expiry]), &[PROTOCOL_ERROR]),
        ("receive maximum twice", props(&[window.clone(), window]), &[PROTOCOL_ERROR]),
        ("receive maximum 0", props(&[(RECEIVE_MAXIMUM, vec![0, 0])]), &[PROTOCOL_ERROR]),
        ("packet size 0", props(&[(MAXIMUM_PACKET_SIZE, vec![0; 4])]), &[PROTOCOL_ERROR]),
        ("problem information 2", props(&[(REQUEST_PROBLEMS, vec![2])]), &[PROTOCOL_ERROR]),
        ("response information 2", props(&[(REQUEST_RESPONSE, vec![2])]), &[PROTOCOL_ERROR]),
        ("a property of PUBLISH", props(&[(PAYLOAD_FORMAT, vec![1])]), either),
        ("an unknown property", props(&[(0x7E, vec![1])]), &[MALFORMED]),
        ("will delay twice", will(&[delay.clone(), delay]), &[PROTOCOL_ERROR]),
        ("will payload format 2", will(&[(PAYLOAD_FORMAT, vec![2])]), either),
        (
            "a wildcard in the response topic of a will",
            will(&[(RESPONSE_TOPIC, prefixed(b"a/#"))]),
            &[0x90, PROTOCOL_ERROR, MALFORMED],
        ),
        (
            "authentication data without a method",
            props(&[(AUTHENTICATION_DATA, prefixed(b"x"))]),
            &[PROTOCOL_ERROR],
        ),
        ("an authentication method that we do not know", props(&[auth]), &[0x8C]),
        ("level 6", connect(6, 0x02, &[], &[b"\0", &prefixed(b"client")]), &[0x84]),
    ];
    let any: &[u8] = &[MALFORMED, PROTOCOL_ERROR, 0x90];
    cases.extend(broken(5).into_iter().map(|(case, bytes)| (case, bytes, any)));
    // A session that is there is never said to be present in a refusal.
    let mut kept = Connect::v5("client").persistent().open(gateway.port);
    kept.subscribe(&[("t", 1)]);
    kept.disconnect();
    for (case, bytes, codes) in cases {
        match &hears(&gateway, 5, &bytes)[..] {
            [Packet::Connack(connack)] => {
                assert!(codes.contains(&connack.code), "{case}: {connack:x?}");
                assert!(!connack.session_present, "{case}");
            }
            said => panic!("{case}: {said:?}"),
        }
    }
    assert!(Connect::v5("client").persistent().open(gateway.port).connack.session_present);
}

#[test]
fn nothing_behind_a_refused_connect_is_processed() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 1)]);
    let method = (AUTHENTICATION_METHOD, prefixed(b"SCRAM-SHA-1"));
    let refused = [
        (4, Connect::v4("").persistent().bytes()),
        (5, Connect::v5("client").property(method).bytes()),
        (4, Connect { level: 2, ..Connect::v4("client") }.bytes()),
    ];
    for (level, bytes) in refused {
        let publish = Message::new("t", "unwanted").bytes(level);
        let said = hears(&gateway, level, &[bytes, publish].concat());
        assert!(matches!(&said[..], [Packet::Connack(c)] if c.code != 0), "{said:?}");
    }
    watcher.publish(&Message::new("t", "last").qos(1));
    assert_eq!(watcher.until("last"), []);
}

#[test]
fn a_connack_comes_first_and_once_whatever_waits_and_whatever_is_said_at_once() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let kept = Connect::new(level, &format!("kept-{level}")).persistent();
        let mut client = kept.open(gateway.port);
        client.subscribe(&[("t", 1)]);
        client.disconnect();
        let mut publisher = Connect::v4("publisher").open(gateway.port);
        publisher.publish(&Message::new("t", "waits").qos(1));
        let clean = Connect::new(level, "clean");
        // What is said of a session that is new has to be stored first.
        let fresh = Connect::new(level, &format!("fresh-{level}")).persistent();
        for (connect, messages) in [(kept, 2), (fresh.clone(), 1), (clean, 1)] {
            let mut wire = Wire::new(dial(gateway.port).expect("a connection"), level);
            let more = subscribe(level, 1, &[("u", 0)], &[]);
            let message = Message::new("u", "at once").bytes(level);
            let all = [&connect.bytes()[..], &wire::PINGREQ, &more, &message, &wire::PINGREQ];
            wire.send(&all.concat()).expect("sent");
            let mut said = Vec::new();
            while said.len() < 4 + messages {
                said.push(wire.read(crate::common::PATIENCE).expect("an answer"));
            }
            assert!(matches!(said[0], Packet::Connack(_)), "{}: {said:?}", connect.id);
            let count = said.iter().filter(|packet| matches!(packet, Packet::Connack(_))).count();
            assert_eq!(count, 1, "{}: {said:?}", connect.id);
        }
        // So it is when an error ends it at once.
        Connect::new(level, &fresh.id).open(gateway.port).disconnect();
        let said = hears(&gateway, level, &[fresh.bytes(), packet(0xC1, b"")].concat());
        match &said[..] {
            [Packet::Connack(_)] if level == 4 => {}
            [Packet::Connack(_), Packet::Disconnect { code: MALFORMED }] => {}
            said => panic!("version {level}: {said:?}"),
        }
    }
}

#[test]
fn a_connack_says_what_it_must_and_nothing_nobody_asked_for() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let kept = Connect::new(level, &format!("kept-{level}")).persistent();
        for present in [0, 1] {
            let mut stream = dial(gateway.port).expect("a connection");
            stream.write_all(&kept.bytes()).expect("sent");
            let mut head = [0; 4];
            stream.read_exact(&mut head).expect("a CONNACK");
            assert_eq!((head[0], head[2], head[3]), (0x20, present, 0), "version {level}");
            let mut rest = vec![0; usize::from(head[1]) - 2];
            stream.read_exact(&mut rest).expect("the rest of it");
            // Its session is certain to be there when this is answered.
            stream.write_all(&subscribe(level, 1, &[("t", 1)], &[])).expect("sent");
            stream.read_exact(&mut head).expect("a SUBACK");
            assert_eq!(head[0], 0x90);
        }
    }
    let information = (REQUEST_RESPONSE, vec![0]);
    let asks_nothing = Connect::v5("client").property(information).property((0x17, vec![0]));
    for connect in [asks_nothing, Connect::v5("other")] {
        let client = connect.open(gateway.port);
        for id in [0x12, 0x13, AUTHENTICATION_METHOD, AUTHENTICATION_DATA, 0x1A, 0x1C] {
            assert_eq!(find(&client.connack.properties, id), None, "{id:x}");
        }
    }
}

#[test]
fn client_ids_of_1_to_23_letters_and_digits_are_taken_and_told_apart() {
    let gateway = Gateway::start("");
    let all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for level in [3, 4, 5] {
        let mut open = Vec::new();
        for id in [&all[..1], &all[..23], &all[10..33], &all[23..46], &all[39..], "a", "A"] {
            open.push(Connect::new(level, id).open(gateway.port));
        }
        // Nobody took another's place.
        open.iter_mut().for_each(super::common::client::Client::ping);
    }
}

#[test]
fn user_name_and_password_are_read_where_their_flags_say() {
    let gateway = Gateway::start("");
    let named = |level: u8, password: Option<&[u8]>| Connect {
        username: Some("größe".to_owned()),
        password: password.map(<[u8]>::to_vec),
        ..Connect::new(level, "client").will(Message::new("t", "gone"))
    };
    for level in [3, 4, 5] {
        named(level, None).open(gateway.port).ping();
        named(level, Some(b"\0\xFF")).open(gateway.port).ping();
    }
    // Only MQTT 5 knows a password without a user name.
    let alone = Connect { username: None, ..named(5, Some(b"word")) };
    alone.open(gateway.port).ping();
}

#[test]
fn a_server_without_a_word_about_keepalive_takes_the_clients() {
    let gateway = Gateway::start("");
    let client = Connect::v5("client").keepalive(65_535).open(gateway.port);
    assert_eq!(find(&client.connack.properties, SERVER_KEEPALIVE), None);
}

#[test]
fn a_client_that_takes_less_than_the_connack_is_refused_within_its_size() {
    let gateway = Gateway::start("session.expiry = 1h\nlimit.keepalive_max = 30s");
    for bytes in [5_u8, 12] {
        let connect = Connect::v5("").property((MAXIMUM_PACKET_SIZE, vec![0, 0, 0, bytes]));
        match &hears(&gateway, 5, &connect.bytes())[..] {
            [Packet::Connack(connack)] => {
                assert_eq!((connack.code, connack.properties.len()), (0x83, 0));
            }
            said => panic!("{said:?}"),
        }
    }
    // Not even a CONNACK that refuses.
    let connect = Connect::v5("").property((MAXIMUM_PACKET_SIZE, vec![0, 0, 0, 4]));
    assert!(hears(&gateway, 5, &connect.bytes()).is_empty());
    // One that takes just enough is told everything.
    let all = Connect::v5("")
        .keepalive(600)
        .property((MAXIMUM_PACKET_SIZE, vec![0, 0, 0, 64]))
        .property((SESSION_EXPIRY, vec![0xFF; 4]))
        .property((REQUEST_RESPONSE, vec![1]));
    let client = all.open(gateway.port);
    for id in [SERVER_KEEPALIVE, SESSION_EXPIRY, ASSIGNED_CLIENT_ID, RECEIVE_MAXIMUM] {
        assert!(find(&client.connack.properties, id).is_some(), "{id:x}");
    }
    // A short one fits into a few bytes.
    let few = (MAXIMUM_PACKET_SIZE, vec![0, 0, 0, 20]);
    let mut client = Connect::v5("few").keepalive(30).property(few).open(gateway.port);
    assert_eq!(client.subscribe(&[("t", 2)]), [2]);
    client.publish(&Message::new("t", "fits").qos(2));
    assert_eq!(client.next().text(), "fits");
}
