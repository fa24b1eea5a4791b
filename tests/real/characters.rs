//! Text that one peer sends and another has to read: characters over which other brokers close the
//! connection are refused where they enter, the message alone, and everybody stays connected.

use crate::common::PATIENCE;
use crate::common::client::{Client, Wire, dial};
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub};
use crate::common::stub::{Session, Stub};
use crate::common::wire::{
    self, CONTENT_TYPE, CORRELATION_DATA, Connect, Message, PUBACK, PUBCOMP, PUBREC, Packet,
    Property, RESPONSE_TOPIC, TOPIC_ALIAS, prefixed, user_property,
};
use std::io;

/// The borders of what is refused, and how the log writes it.
const BAD: [(&str, &str); 12] = [
    ("\u{1}", "U+0001"),
    ("\t", "U+0009"),
    ("\n", "U+000A"),
    ("\u{1f}", "U+001F"),
    ("\u{7f}", "U+007F"),
    ("\u{80}", "U+0080"),
    ("\u{9f}", "U+009F"),
    ("\u{fdd0}", "U+FDD0"),
    ("\u{fdef}", "U+FDEF"),
    ("\u{fffe}", "U+FFFE"),
    ("\u{ffff}", "U+FFFF"),
    ("\u{10ffff}", "U+10FFFF"),
];

/// Their neighbours, and what else looks odd and is text.
const GOOD: &str = " ~\u{a0}äß€温\u{ad}\u{200b}\u{2028}\u{202e}\u{e000}\u{fdcf}\u{fdf0}\u{feff}\
                    \u{fffd}\u{10000}\u{1fffd}\u{e0001}\u{10fffd}";

/// A message with the text in each of its strings, and the code it is refused with.
fn each_place(text: &str) -> Vec<(&'static str, Message, u8)> {
    let plain = || Message::new("t/a", "refused");
    vec![
        ("topic", Message::new(&format!("t/{text}"), "refused"), 0x90),
        ("user_property", plain().property(user_property(&format!("k{text}"), "v")), 0x99),
        ("user_property", plain().property(user_property("k", &format!("{text}v"))), 0x99),
        ("response_topic", plain().property((RESPONSE_TOPIC, prefixed(text.as_bytes()))), 0x90),
        ("content_type", plain().property((CONTENT_TYPE, prefixed(text.as_bytes()))), 0x99),
    ]
}

fn rich(topic: &str, text: &str) -> Message {
    Message::new(topic, "taken")
        .property(user_property(text, text))
        .property((RESPONSE_TOPIC, prefixed(text.as_bytes())))
        .property((CONTENT_TYPE, prefixed(text.as_bytes())))
        .property((CORRELATION_DATA, prefixed(b"\0\x07\xFF")))
}

fn taken(watcher: &mut Client) {
    assert_eq!(watcher.next().text(), "taken");
}

#[test]
fn a_message_of_mqtt_5_is_refused_alone_and_named() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("#", 2)]);
    let mut client = Connect::v5("device 7").open(gateway.port);
    for (bad, shown) in BAD {
        for (string, message, code) in each_place(bad) {
            for qos in [0, 1, 2] {
                let said = client.publish(&message.clone().qos(qos));
                assert_eq!(said, if qos == 0 { 0 } else { code }, "{shown} in {string}, {qos}");
            }
            client.ping();
        }
    }
    for (_, shown) in [BAD[0], BAD[11]] {
        let with = [("source", "client"), ("name", "device 7"), ("character", shown)];
        gateway.wait_with("text_refused", &with);
    }
    gateway.wait_with("drop", &[("reason", "text"), ("destination", "local")]);
    client.publish(&Message::new("t", "taken").qos(2));
    taken(&mut watcher);
}

#[test]
fn odd_text_that_is_text_is_passed_on() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    assert_eq!(watcher.subscribe(&[(&format!("t/{GOOD}/#"), 2)]), [2]);
    let mut client = Connect::v5(GOOD).user(GOOD, "").open(gateway.port);
    let message = rich(&format!("t/{GOOD}/x"), GOOD).qos(2);
    client.publish(&message);
    let got = watcher.next();
    assert_eq!((got.topic, got.properties), (message.topic, message.properties));
}

#[test]
fn before_mqtt_5_a_message_is_acknowledged_and_dropped() {
    for level in [3, 4] {
        let gateway = Gateway::start("");
        let mut watcher = Connect::v4("watcher").open(gateway.port);
        watcher.subscribe(&[("#", 2)]);
        let mut client = Connect::new(level, "old").open(gateway.port);
        for (bad, _) in BAD {
            for qos in [0, 1, 2] {
                client.publish(&Message::new(&format!("t/{bad}"), "refused").qos(qos));
            }
        }
        gateway.wait_with("text_refused", &[("name", "old"), ("string", "topic")]);
        client.publish(&Message::new("t", "taken").qos(2));
        taken(&mut watcher);
    }
}

#[test]
fn an_alias_means_its_topic_though_its_first_message_was_refused() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 2)]);
    let mut client = Connect::v5("client").open(gateway.port);
    let alias: Property = (TOPIC_ALIAS, vec![0, 1]);
    let bad = user_property("k", "\u{7}");
    let first = Message::new("t", "refused").qos(1).property(alias.clone()).property(bad);
    assert_eq!(client.publish(&first), 0x99);
    assert_eq!(client.publish(&Message::new("", "taken").qos(1).property(alias)), 0);
    taken(&mut watcher);
}

#[test]
fn a_connect_is_refused_with_what_is_wrong() {
    let gateway = Gateway::start("");
    let will = |message: Message| Message { topic: "w".into(), ..message };
    for (bad, shown) in [("\u{7}", "U+0007"), ("\u{fffe}", "U+FFFE")] {
        let id = format!("c{bad}");
        let mut cases = vec![
            (5, "client_id", Connect::v5(&id), Some(0x85)),
            (4, "client_id", Connect::v4(&id), Some(2)),
            (5, "user_name", Connect::v5("c").user(&id, "p"), Some(0x86)),
            (4, "user_name", Connect::v4("c").user(&id, "p"), Some(4)),
            (5, "will_topic", Connect::v5("c").will(Message::new(&id, "x")), Some(0x90)),
            (4, "will_topic", Connect::v4("c").will(Message::new(&id, "x")), None),
        ];
        for (string, message, code) in each_place(bad).into_iter().skip(1) {
            cases.push((5, string, Connect::v5("c").will(will(message)), Some(code)));
        }
        for (level, string, connect, code) in cases {
            let mut wire = Wire::new(dial(gateway.port).expect("a connection"), level);
            wire.send(&connect.bytes()).expect("it stands");
            let said = wire.read_to_the_end();
            let told = match &said[..] {
                [Packet::Connack(connack)] => Some(connack.code),
                [] => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(told, code, "{shown} in {string} of {level}");
            let with = [("string", string), ("character", shown), ("source", "client")];
            gateway.wait_with("text_refused", &with);
        }
    }
    gateway.wait_with("client_refused", &[("reason", "text")]);
    // Binary, whatever it looks like.
    let will = Message::new("w", b"\x07\xFF\0").property((CORRELATION_DATA, prefixed(b"\x07")));
    Connect::v5("c").will(will).user("u", "\u{7}").open(gateway.port).ping();
}

#[test]
fn filters_are_refused_one_by_one() {
    let gateway = Gateway::start("");
    let filters = [("ok/+", 1), ("a\u{7}/#", 1), ("$share/g\u{7}/t", 1), ("t/\u{7f}", 0)];
    let mut client = Connect::v5("client").open(gateway.port);
    assert_eq!(client.subscribe(&filters), [1, 0x8F, 0x8F, 0x8F]);
    gateway.wait_with("text_refused", &[("string", "filter"), ("character", "U+0007")]);
    client.send(&wire::unsubscribe(5, 9, "a\u{7}/#"));
    let codes = client.wait("UNSUBACK", |packet| match packet {
        Packet::Suback { id: 9, codes } => Some(codes.clone()),
        _ => None,
    });
    assert_eq!(codes, [0x8F]);
    let mut old = Connect::v4("old").open(gateway.port);
    assert_eq!(old.subscribe(&filters[..2]), [1, 0x80]);
    old.publish(&Message::new("ok/x", "taken").qos(1));
    taken(&mut client);
    taken(&mut old);
}

/// Greets, takes the subscription, sends each message and waits for what it is answered.
fn script(session: &mut Session, level: u8) -> io::Result<()> {
    session.greet(false, 0, &[])?;
    loop {
        let packet = session.read()?;
        session.answer(&packet)?;
        if matches!(packet, Packet::Subscribe { .. }) {
            break;
        }
    }
    let mut messages: Vec<Message> = Vec::new();
    for (bad, _) in BAD {
        let places = each_place(bad).into_iter().take(if level == 5 { 5 } else { 1 });
        messages.extend(places.map(|(_, message, _)| message));
    }
    if level == 5 {
        for wild in ["a/+", "#", ""] {
            let answer = (RESPONSE_TOPIC, prefixed(wild.as_bytes()));
            messages.push(Message::new("t/a", "refused").property(answer));
        }
    }
    messages.push(Message::new("t/a", "taken"));
    let mut id = 0;
    for message in messages {
        for qos in [0, 1, 2] {
            id += 1;
            session.send(&Message { id, qos, ..message.clone() }.bytes(level))?;
            let Some(kind) = [None, Some(PUBACK), Some(PUBREC)][usize::from(qos)] else { continue };
            session.acknowledged(kind, id)?;
            if qos == 2 {
                session.send(&wire::ack(wire::PUBREL, id))?;
                session.acknowledged(PUBCOMP, id)?;
            }
        }
    }
    session.serve()
}

trait Acknowledged {
    fn acknowledged(&mut self, kind: u8, id: u16) -> io::Result<()>;
}

impl Acknowledged for Session {
    /// Waits for this acknowledgement, which must be one of success.
    fn acknowledged(&mut self, kind: u8, id: u16) -> io::Result<()> {
        loop {
            match self.read_within(PATIENCE)? {
                Packet::Ack(ack) if ack.kind == kind && ack.id == id => {
                    assert!(ack.code < 0x80 || kind == PUBCOMP, "{ack:?}");
                    return Ok(());
                }
                packet => self.answer(&packet)?,
            }
        }
    }
}

#[test]
fn what_a_remote_sends_is_dropped_and_acknowledged_and_the_link_stays() {
    for level in [4, 5] {
        let remote = Stub::start(move |session, _| script(session, level));
        let version = format!("proto_ver = {level}");
        let rules = ["subscribe.1.remote_topic = t/#", "subscribe.1.qos = 2", &version];
        let gateway = Gateway::start("");
        let mut watcher = Connect::v5("watcher").persistent().open(gateway.port);
        watcher.subscribe(&[("#", 2)]);
        gateway.reload(&bridge("up", remote.port, &rules));
        for _ in [0, 1, 2] {
            taken(&mut watcher);
        }
        gateway.wait_with("text_refused", &[("source", "bridge"), ("name", "up")]);
        gateway.wait_with("drop", &[("reason", "text")]);
        let downs = gateway.events().iter().filter(|event| event.name == "bridge_down").count();
        assert_eq!(downs, 0, "MQTT level {level}");
    }
}

#[test]
fn mosquitto_takes_all_that_passes_and_closes_over_the_rest() {
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t/#"]));
    gateway.wait("bridge_up");
    let mut far = Connect::v5("far").open(remote.port);
    far.subscribe(&[("t/#", 2)]);
    let mut client = Connect::v5("client").open(gateway.port);
    for (bad, _) in BAD {
        for (_, message, code) in each_place(bad) {
            assert_eq!(client.publish(&message.qos(1)), code);
        }
    }
    // One by one, so that none hides behind another.
    for good in GOOD.chars() {
        client.publish(&rich(&format!("t/{good}"), &good.to_string()).qos(1));
    }
    for good in GOOD.chars() {
        let got = far.next();
        let sent = rich(&format!("t/{good}"), &good.to_string());
        assert_eq!(got.topic, sent.topic, "{good:?}");
        let sorted = |mut list: Vec<Property>| {
            list.sort();
            list
        };
        assert_eq!(sorted(got.properties), sorted(sent.properties), "{good:?}");
    }
    let downs = gateway.events().iter().filter(|event| event.name == "bridge_down").count();
    assert_eq!(downs, 0);
    for (bad, shown) in BAD {
        let mut direct = Connect::v5("direct").open(remote.port);
        let message = Message::new(&format!("t/{bad}"), "x").qos(1);
        direct.publish_without_waiting(&message);
        let closes = direct.wait_closed().iter().all(|p| !matches!(p, Packet::Ack(_)));
        assert!(closes, "mosquitto takes {shown}, which is refused here");
    }
}

#[test]
fn a_subscriber_that_comes_back_is_not_shut_out() {
    let gateway = Gateway::start("");
    let session = ["-c", "-i", "kept", "-q", "1", "-t", "t/#"];
    drop(MosquittoSub::start(gateway.port, "%t %p", &session));
    gateway.wait_with("client_connected", &[("client", "kept")]);
    gateway.wait_with("client_disconnected", &[("client", "kept")]);
    let mut client = Connect::v4("client").open(gateway.port);
    for topic in ["t/\t", "t/a"] {
        client.publish(&Message::new(topic, "x").qos(1));
    }
    let back = MosquittoSub::start(gateway.port, "%t %p", &session);
    assert_eq!(back.take(1), ["t/a x"]);
}

#[test]
fn a_configuration_with_such_text_is_an_error() {
    let server = "bridge.up.server = mqtt://127.0.0.1:1\n";
    let rule = "bridge.up.forward.1.local_topic = t/#\n";
    for line in [
        "bridge.up.clientid = a\u{7}",
        "bridge.up.username = a\u{80}",
        "bridge.up.will.topic = a\tb",
        "bridge.up.notify_topic = a\u{ffff}b",
        "bridge.up.forward.2.local_topic = a\tb",
        "bridge.up.forward.1.prefix = a\u{1}",
        "bridge.up.forward.1.suffix = a\u{1}b",
        "bridge.up.forward.1.remote_topic = x\u{fdd0}/#",
        "bridge.up.subscribe.1.remote_topic = a\u{7}b",
        "bridge.up.subscribe.1.prefix = a\u{7}b",
    ] {
        let name = line.split(" = ").next().expect("a key");
        let rest = if name.contains("forward.1.") || name.contains("forward.2") {
            format!("{server}{rule}{line}")
        } else if name.contains("subscribe") && !name.contains("remote_topic") {
            format!("{server}bridge.up.subscribe.1.remote_topic = t\n{line}")
        } else {
            format!("{server}{rule}{line}")
        };
        let gateway = Gateway::prepare(&rest);
        let output = gateway.check();
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let why = ["U+", "control character"];
        assert!(why.iter().any(|why| said.contains(why)), "{line:?}: {said}");
        assert!(said.contains(name), "{line:?}: {said}");
    }
}
