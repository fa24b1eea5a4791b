//! The bridge as a client: what it says first, what it does with what a remote says, and how it
//! ends.

use crate::common::gateway::{Gateway, bridge};
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wire::{
    self, Ack, CONTENT_TYPE, Connect, MAXIMUM_QOS, MESSAGE_EXPIRY, Message, PAYLOAD_FORMAT, PUBACK,
    PUBCOMP, PUBREC, PUBREL, Packet, Property, RESPONSE_TOPIC, SERVER_KEEPALIVE, SESSION_EXPIRY,
    SUBSCRIPTION_ID, TOPIC_ALIAS, USER_PROPERTY, packet, prefixed, properties,
};
use std::io;
use std::sync::{Arc, Mutex};

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;

const BOTH: [&str; 4] = [
    "forward.1.local_topic = up/#",
    "subscribe.1.remote_topic = down/#",
    "subscribe.1.qos = 2",
    "bridge_bit = false",
];

fn configured(port: u16, level: u8) -> String {
    let version = format!("proto_ver = {level}");
    let rules: Vec<&str> = BOTH.into_iter().chain([version.as_str()]).collect();
    bridge("up", port, &rules)
}

/// Greets and takes the subscription.
fn welcome(session: &mut Session, props: &[Property]) -> io::Result<Connect> {
    let connect = session.greet(false, 0, props)?;
    loop {
        let packet = session.read()?;
        session.answer(&packet)?;
        if matches!(packet, Packet::Subscribe { .. }) {
            return Ok(connect);
        }
    }
}

#[test]
fn a_connection_begins_with_the_one_connect_and_ends_with_a_disconnect() {
    for level in [3, 4, 5] {
        // A script that is greeted by anything else panics, and the gateway never comes up.
        let remote = Stub::start(|session, _| {
            session.greet(false, 0, &[])?;
            session.serve()
        });
        let mut gateway = Gateway::start(&configured(remote.port, level));
        gateway.wait("bridge_up");
        Connect::v4("client").open(gateway.port).publish(&Message::new("up/a", "x").qos(1));
        remote.wait_published(1);
        gateway.stop();
        remote.wait("the end", |seen| matches!(seen[..], [.., Seen::Disconnect(0), Seen::End]));
        // Before MQTT 5 a first connection only clears what the remote had of us.
        let seen = remote.seen();
        let count = |wanted: fn(&Seen) -> bool| seen.iter().filter(|seen| wanted(seen)).count();
        let ends = count(|seen| matches!(seen, Seen::End));
        assert_eq!(ends, if level == 5 { 1 } else { 2 }, "{seen:?}");
        assert_eq!(count(|seen| matches!(seen, Seen::Connect(_))), ends, "{seen:?}");
        assert_eq!(count(|seen| matches!(seen, Seen::Disconnect(0))), ends, "{seen:?}");
    }
}

/// The keepalive is what finds out that the remote is gone: nothing it says switches that off.
#[test]
fn a_server_that_names_a_longer_keepalive_or_none_is_asked_after_at_our_pace() {
    for told in [[0, 0], [0xFF, 0xFF]] {
        let remote = Stub::start(move |session, number| {
            session.greet(false, 0, &[(SERVER_KEEPALIVE, told.to_vec())])?;
            // The first time nothing is answered.
            if number > 0 {
                return session.serve();
            }
            loop {
                session.read()?;
            }
        });
        let rules = ["forward.1.local_topic = up/#", "keepalive = 1s"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        assert_eq!(gateway.wait("bridge_down").text("reason"), "keepalive_timeout");
        remote.wait("a ping", |seen| seen.iter().any(|seen| matches!(seen, Seen::Ping)));
    }
}

#[test]
fn a_client_id_that_a_server_assigns_is_not_ours() {
    const ASSIGNED_CLIENT_ID: u8 = 0x12;
    for bytes in [3, 1500] {
        let id = vec![b'x'; bytes];
        let remote = Stub::start(move |session, _| {
            let assigned = prefixed(&id);
            session.greet(false, 0, &[(ASSIGNED_CLIENT_ID, assigned)])?;
            let packet = session.read()?;
            session.answer(&packet)
        });
        let rules = ["clientid = our-own", "forward.1.local_topic = up/#", "backoff_max = 50ms"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        for text in ["1", "2", "3"] {
            Connect::v4("client").open(gateway.port).publish(&Message::new("up/a", text).qos(1));
        }
        remote.wait_published(3);
        assert!(remote.connects().iter().all(|connect| connect.id == "our-own"));
    }
}

#[test]
fn the_servers_keepalive_replaces_a_longer_one_of_ours() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[(SERVER_KEEPALIVE, vec![0, 1])])?;
        session.serve()
    });
    let rules = ["forward.1.local_topic = up/#", "keepalive = 600s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    assert_eq!(remote.connects()[0].keepalive, 600);
    remote.wait("pings at the server's pace", |seen| {
        seen.iter().filter(|seen| matches!(seen, Seen::Ping)).count() >= 2
    });
}

#[test]
fn a_session_that_we_know_nothing_of_ends_the_connection() {
    let remote = Stub::start(|session, number| {
        let connect = session.greet(number == 0, 0, &[])?;
        assert!(connect.clean, "a new store has no session");
        session.serve()
    });
    let rules = ["forward.1.local_topic = up/#"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait_with("bridge_up", &[("session_present", "false")]);
    assert_eq!(remote.connects().len(), 2);
    let first = remote.seen().into_iter().take_while(|seen| !matches!(seen, Seen::End));
    assert!(!first.into_iter().any(|seen| matches!(seen, Seen::Publish(_) | Seen::Subscribe(_))));
}

/// PUBLISH at QoS 1 of MQTT 5 from its raw parts.
fn publish(topic: &[u8], id: u16, props: &[Property]) -> Vec<u8> {
    let body = [&prefixed(topic)[..], &id.to_be_bytes(), &properties(props), b"payload"].concat();
    packet(0x32, &body)
}

fn broken_of_5() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let malformed = &[MALFORMED][..];
    let error = &[PROTOCOL_ERROR][..];
    let either = &[MALFORMED, PROTOCOL_ERROR][..];
    let name = &[0x90, MALFORMED, PROTOCOL_ERROR][..];
    let format = (PAYLOAD_FORMAT, vec![1]);
    let alias = |n: u8| (TOPIC_ALIAS, vec![n, n]);
    let pair = (USER_PROPERTY, [prefixed(b"a"), prefixed(b"\xC3")].concat());
    let no_text = |id: u8| publish(b"down/t", 1, &[(id, prefixed(b"\xED\xA0\x80"))]);
    vec![
        ("a user property that is no UTF-8", publish(b"down/t", 1, &[pair]), malformed),
        ("a response topic that is no UTF-8", no_text(RESPONSE_TOPIC), malformed),
        ("a content type that is no UTF-8", no_text(CONTENT_TYPE), malformed),
        ("a second CONNACK", packet(0x20, b"\0\0\0"), error),
        ("CONNECT", Connect::v5("remote").bytes(), error),
        ("SUBSCRIBE", wire::subscribe(5, 1, &[("t", 1)], &[]), error),
        ("UNSUBSCRIBE", wire::unsubscribe(5, 1, "t"), error),
        ("PINGREQ", wire::PINGREQ.to_vec(), error),
        ("AUTH without a method", packet(0xF0, b""), error),
        ("AUTH with flags 1", packet(0xF1, b""), malformed),
        ("packet type 0", vec![0, 0], either),
        ("QoS 3", packet(0x36, b"\0\x06down/t\0\x01\0x"), malformed),
        ("DUP at QoS 0", packet(0x38, b"\0\x06down/t\0x"), either),
        ("packet id 0", publish(b"down/t", 0, &[]), either),
        ("a wildcard in a topic", publish(b"down/+", 1, &[]), name),
        ("no topic", publish(b"", 1, &[]), name),
        ("U+0000 in a topic", publish(b"down/\0", 1, &[]), malformed),
        ("a surrogate in a topic", publish(b"down/\xED\xA0\x80", 1, &[]), malformed),
        ("a property twice", publish(b"down/t", 1, &[format.clone(), format]), error),
        ("a property of CONNECT", publish(b"down/t", 1, &[(SESSION_EXPIRY, vec![0; 4])]), either),
        ("an unknown property", publish(b"down/t", 1, &[(0x7E, vec![0])]), malformed),
        ("alias 0", publish(b"down/t", 1, &[alias(0)]), &[0x94, PROTOCOL_ERROR]),
        ("an alias beyond what we took", publish(b"down/t", 1, &[alias(0xFF)]), &[0x94]),
        ("subscription id 0", publish(b"down/t", 1, &[(SUBSCRIPTION_ID, vec![0])]), error),
        ("a length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], malformed),
        ("a length that is not minimal", vec![0xD0, 0x80, 0], malformed),
        ("PUBACK with flags 1", packet(0x41, b"\0\x01"), malformed),
        ("PUBREL with flags 0", packet(0x60, b"\0\x01"), malformed),
        ("SUBACK with flags 2", packet(0x92, b"\0\x01\0\0"), malformed),
        ("PINGRESP with a body", packet(0xD0, b"x"), malformed),
        ("DISCONNECT with flags 1", packet(0xE1, b""), malformed),
        ("a packet larger than it was told", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F], &[0x95]),
    ]
}

#[test]
fn what_a_remote_may_not_say_ends_the_connection_with_its_code() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&said);
    let remote = Stub::start(move |session, number| {
        welcome(session, &[])?;
        let cases = broken_of_5();
        let Some((_, bytes, _)) = cases.get(number) else { return session.serve() };
        session.send(bytes)?;
        let mut code = None;
        while let Ok(packet) = session.read() {
            code = match packet {
                Packet::Disconnect { code } => Some(code),
                _ => None,
            };
        }
        notes.lock().expect("no holder panics").push((number, code));
        Ok(())
    });
    let config = configured(remote.port, 5).replace("backoff_max = 400ms", "backoff_max = 50ms");
    let gateway = Gateway::start(&config);
    let cases = broken_of_5();
    remote.wait("every case", |_| said.lock().expect("no holder panics").len() == cases.len());
    let mut wrong = Vec::new();
    for (number, code) in said.lock().expect("no holder panics").iter() {
        let (case, _, codes) = &cases[*number];
        if !code.is_some_and(|code| codes.contains(&code)) {
            wrong.push(format!("{case}: {code:x?}, not {codes:x?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // After all of that it is up and serves.
    gateway.wait_bridge_stats("up", "up", |stats| stats.text("up") == "true");
}

#[test]
fn what_a_3_1_1_remote_may_not_say_ends_the_connection() {
    let cases = || -> Vec<&'static [u8]> {
        vec![
            b"\x20\x02\0\0",
            b"\x10\x0E\0\x04MQTT\x04\x02\0\0\0\x02ab",
            b"\x82\x06\0\x01\0\x01t\x01",
            b"\xC0\x00",
            b"\xF0\x00",
            b"\x36\x0B\0\x06down/t\0\x01x",
            b"\x32\x0B\0\x06down/t\0\0x",
            b"\x30\x09\0\x06down/+x",
            b"\x30\x03\0\0x",
            b"\x30\x04\0\x01\0x",
            b"\x30\x04\0\x01\xFFx",
            b"\x30\xFF\xFF\xFF\xFF\x01",
            b"\x41\x02\0\x01",
            b"\x60\x02\0\x01",
            b"\x90\x03\0\x01\x03",
            b"\xD1\x00",
        ]
    };
    let count = Arc::new(Mutex::new(0));
    let (counted, all) = (Arc::clone(&count), cases());
    let remote = Stub::start(move |session, _| {
        let connect = session.greet_with(0, &[], |_| false)?;
        if connect.clean {
            return session.serve();
        }
        let number = *counted.lock().expect("no holder panics");
        let Some(bytes) = all.get(number) else { return session.serve() };
        session.send(bytes)?;
        while session.read().is_ok() {}
        *counted.lock().expect("no holder panics") += 1;
        Ok(())
    });
    let config = configured(remote.port, 4).replace("backoff_max = 400ms", "backoff_max = 50ms");
    let gateway = Gateway::start(&config);
    remote.wait("every case", |_| *count.lock().expect("no holder panics") == cases().len());
    gateway.wait_bridge_stats("up", "up", |stats| stats.text("up") == "true");
}

#[test]
fn what_a_remote_sends_is_acknowledged_in_its_order_and_delivered_once() {
    for level in [4, 5] {
        let remote = Stub::start(move |session, _| {
            let connect = session.greet(false, 0, &[])?;
            if level == 4 && connect.clean {
                return session.serve();
            }
            // The client's word that it listens.
            loop {
                let packet = session.read()?;
                session.answer(&packet)?;
                if matches!(packet, Packet::Publish(_)) {
                    break;
                }
            }
            let message = |id: u16| {
                let qos = if id.is_multiple_of(2) { 1 } else { 2 };
                Message { id, ..Message::new("down/t", id.to_string()).qos(qos) }
            };
            let mut bytes: Vec<u8> =
                (1..=10).rev().flat_map(|id| message(id).bytes(level)).collect();
            // A rule that nobody asked for: acknowledged like any other.
            bytes.extend(Message { id: 20, ..Message::new("stray", "x").qos(1) }.bytes(level));
            session.send(&bytes)?;
            let mut answers = Vec::new();
            while answers.len() < 12 {
                if answers.len() == 11 {
                    // One of them again, as after a lost PUBREC.
                    session.send(&Message { dup: true, ..message(5) }.bytes(level))?;
                }
                match session.read()? {
                    Packet::Ack(Ack { kind, id, code: 0 | 0x10 }) => answers.push((kind, id)),
                    packet => session.answer(&packet)?,
                }
            }
            for id in [9, 7, 5, 3, 1, 33] {
                session.send(&wire::ack(PUBREL, id))?;
            }
            while answers.len() < 18 {
                match session.read()? {
                    Packet::Ack(Ack { kind, id, code: 0 | 0x92 }) => answers.push((kind, id)),
                    packet => session.answer(&packet)?,
                }
            }
            for (kind, id) in answers {
                session.note(kind, id);
            }
            // These identifiers are free: new messages, whatever DUP says.
            let again = Message { id: 10, dup: true, ..Message::new("down/t", "again").qos(1) };
            let last = Message { id: 5, ..Message::new("down/t", "last").qos(2) };
            session.send(&[again.bytes(level), last.bytes(level)].concat())?;
            session.serve()
        });
        let gateway = Gateway::start(&configured(remote.port, level));
        let mut client = Connect::v4("client").open(gateway.port);
        client.subscribe(&[("down/#", 2)]);
        client.publish(&Message::new("up/go", "go").qos(1));
        remote.wait("every acknowledgement", |seen| {
            seen.iter().filter(|seen| matches!(seen, Seen::Acked(..))).count() == 18
        });
        let acked: Vec<(u8, u16)> = remote
            .seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Acked(kind, id) => Some((kind, id)),
                _ => None,
            })
            .collect();
        let of = |kind: u8| -> Vec<u16> {
            acked.iter().filter(|(k, _)| *k == kind).map(|(_, id)| *id).collect()
        };
        assert_eq!(of(PUBACK), [10, 8, 6, 4, 2, 20], "version {level}");
        assert_eq!(of(PUBREC), [9, 7, 5, 3, 1, 5], "version {level}");
        assert_eq!(of(PUBCOMP), [9, 7, 5, 3, 1, 33], "version {level}");
        let texts: Vec<String> = client.until("last").iter().map(Message::text).collect();
        assert_eq!(texts, ["10", "9", "8", "7", "6", "5", "4", "3", "2", "1", "again"]);
    }
}

#[test]
fn an_exchange_with_the_remote_is_answered_step_by_step() {
    for level in [4, 5] {
        let remote = Stub::start(move |session, _| {
            let connect = session.greet(false, 0, &[])?;
            if level == 4 && connect.clean {
                return session.serve();
            }
            // A receipt of nothing is released, so that the remote can forget it.
            session.send(&wire::ack(PUBREC, 999))?;
            // Acknowledgements of nothing are nothing.
            session.send(&wire::ack(PUBACK, 998))?;
            session.send(&wire::ack(PUBCOMP, 997))?;
            session.serve()
        });
        let gateway = Gateway::start(&configured(remote.port, level));
        gateway.wait_with("bridge_up", &[]);
        remote.wait("the release of nothing", |seen| {
            seen.iter().any(|seen| matches!(seen, Seen::Release(999)))
        });
        let mut client = Connect::v4("client").open(gateway.port);
        for n in 0..10 {
            client.publish(&Message::new("up/t", n.to_string()).qos(2));
        }
        remote.wait("ten releases", |seen| {
            seen.iter().filter(|seen| matches!(seen, Seen::Release(id) if *id != 999)).count() == 10
        });
        let published = remote.published();
        let released: Vec<u16> = remote
            .seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Release(id) if id != 999 => Some(id),
                _ => None,
            })
            .collect();
        assert!(published.iter().all(|m| m.qos == 2 && !m.dup && m.id != 0));
        assert_eq!(released, published.iter().map(|m| m.id).collect::<Vec<_>>());
    }
}

#[test]
fn a_remote_gets_a_message_as_it_was_and_no_alias_it_did_not_allow() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        session.serve()
    });
    let gateway = Gateway::start(&configured(remote.port, 5));
    gateway.wait("bridge_up");
    let mut client = Connect::v5("client").open(gateway.port);
    let properties = vec![wire::user_property("b", "2"), wire::user_property("a", "1")];
    let topics = ["up/a", "up/\u{FEFF}a", "up/A\u{30A}", "up/\u{C5}", "up/ ", "up//", "up/a"];
    for topic in topics {
        let message = Message { properties: properties.clone(), ..Message::new(topic, "x") };
        client.publish(&message.qos(1));
    }
    let published = remote.wait_published(topics.len());
    assert_eq!(published.iter().map(|m| m.topic.as_str()).collect::<Vec<_>>(), topics);
    assert!(published.iter().all(|message| message.properties == properties), "{published:?}");
}

#[test]
fn a_remote_without_qos_1_is_asked_for_it_and_sent_qos_0() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[(MAXIMUM_QOS, vec![0])])?;
        session.serve()
    });
    let gateway = Gateway::start(&configured(remote.port, 5));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    for qos in 0..=2 {
        client.publish(&Message::new("up/t", "x").qos(qos));
    }
    assert!(remote.wait_published(3).iter().all(|message| message.qos == 0 && message.id == 0));
    let asked = |seen: &Seen| matches!(seen, Seen::Subscribe(filters) if filters[0].1 & 3 == 2);
    assert!(remote.seen().iter().any(asked));
}

#[test]
fn an_exchange_with_a_remote_is_not_ended_by_an_expiry() {
    let remote = Stub::start(|session, number| {
        session.greet_with(0, &[], |connect| !connect.clean)?;
        let brief = (MESSAGE_EXPIRY, 1_u32.to_be_bytes().to_vec());
        if number == 0 {
            let message = Message { id: 9, ..Message::new("down/t", "brief").qos(2) };
            session.send(&message.property(brief).bytes(5))?;
        }
        loop {
            match session.read()? {
                // The answer to its own message keeps the first connection waiting.
                Packet::Publish(_) if number == 0 => {}
                Packet::Ack(Ack { kind: PUBCOMP, id, code: 0 }) => session.note(PUBCOMP, id),
                packet => session.answer(&packet)?,
            }
            if number == 1 {
                session.send(&wire::ack(PUBREL, 9))?;
            }
        }
    });
    // Longer than the messages live.
    let config = configured(remote.port, 5) + "bridge.up.ack_timeout = 2s\n";
    let gateway = Gateway::start(&config);
    gateway.wait("bridge_up");
    let mut client = Connect::v5("client").open(gateway.port);
    let brief = (MESSAGE_EXPIRY, 1_u32.to_be_bytes().to_vec());
    client.publish(&Message::new("up/t", "brief").qos(2).property(brief));
    let published = remote.wait_published(2);
    assert_eq!((published[0].dup, published[1].dup), (false, true));
    assert_eq!(published[0].id, published[1].id);
    remote.wait("the end of both exchanges", |seen| {
        let released = |seen: &Seen| matches!(seen, Seen::Release(id) if *id == published[0].id);
        seen.iter().any(|seen| matches!(seen, Seen::Acked(PUBCOMP, 9))) && seen.iter().any(released)
    });
}

#[test]
fn a_subscription_identifier_of_one_remote_goes_no_further() {
    let from = Stub::start(|session, _| {
        welcome(session, &[])?;
        let message = Message { id: 1, ..Message::new("down/t", "x").qos(1) };
        let named = (SUBSCRIPTION_ID, vec![5]);
        session.send(&message.property(named).property(wire::user_property("a", "1")).bytes(5))?;
        session.serve()
    });
    let to = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        session.serve()
    });
    let second = bridge("on", to.port, &["forward.1.local_topic = down/#"]);
    let _gateway = Gateway::start(&(configured(from.port, 5) + &second));
    let message = to.wait_published(1).remove(0);
    assert_eq!(
        (message.text(), message.properties),
        ("x".to_owned(), vec![wire::user_property("a", "1")])
    );
}
