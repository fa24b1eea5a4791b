//! What the log says of refusals, closes and drops: whom, how large, by which limit, and the key
//! that changes it. And what the peer hears.

use crate::common::client::{Wire, dial};
use crate::common::gateway::{Event, Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, mosquitto_pub};
use crate::common::wait_until;
use crate::common::wire::{Connect, Message, Packet, packet, prefixed};
use std::collections::BTreeSet;

/// An event's keys have these values.
fn says(event: &Event, with: &[(&str, &str)]) {
    for (key, value) in with {
        assert!(event.has(key), "no {key}= in {}", event.line);
        assert_eq!(event.text(key), *value, "{}", event.line);
    }
}

/// A PUBLISH of QoS 1 with a body of so many bytes, cut where `keep` says.
fn large(topic: &str, body: usize, keep: usize) -> Vec<u8> {
    let mut content = prefixed(topic.as_bytes());
    content.extend([0, 1]);
    content.resize(body, b'x');
    let mut bytes = packet(0x32, &content);
    bytes.truncate(keep);
    bytes
}

#[test]
fn a_packet_that_is_too_large_is_named_with_its_topic_and_the_key() {
    let gateway = Gateway::start("limit.packet_size = 64KiB");
    let topic = "zigbee2mqtt/bridge/devices";
    let size = large(topic, 200_000, usize::MAX).len().to_string();
    // The whole of it, and its first segment.
    for (name, keep) in [("whole", usize::MAX), ("begun", 500)] {
        for level in [4, 5] {
            let client_id = format!("{name}-{level}");
            let mut hub = Connect::new(level, &client_id).open(gateway.port);
            // It may be closed before it has said everything.
            let _ = hub.wire.send(&large(topic, 200_000, keep));
            let end = gateway.wait_with("client_disconnected", &[("client", &client_id)]);
            says(&end, &[("reason", "too_large"), ("size", &size), ("limit", "65536")]);
            says(&end, &[("key", "limit.packet_size"), ("topic", topic)]);
        }
    }
}

#[test]
fn whoever_finds_no_place_hears_it_and_is_named() {
    let gateway = Gateway::start("limit.clients = 1");
    let _first = Connect::v4("first").open(gateway.port);
    // Many more at once than there are places to refuse somebody in.
    let count = 60;
    let mut wires: Vec<(u8, Wire)> = (0..count)
        .map(|number| {
            let level = if number % 2 == 0 { 4 } else { 5 };
            let mut wire = Wire::new(dial(gateway.port).expect("a connection"), level);
            let connect = Connect::new(level, &format!("late-{number}")).user("somebody", "x");
            wire.send(&connect.bytes()).expect("it is written");
            (level, wire)
        })
        .collect();
    for (level, wire) in &mut wires {
        let said = wire.read_to_the_end();
        let [Packet::Connack(connack)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(connack.code, if *level == 5 { 0x97 } else { 3 });
    }
    let refused = gateway.wait_with("client_refused", &[("reason", "limit_clients")]);
    says(&refused, &[("limit", "1"), ("key", "limit.clients"), ("user", "somebody")]);
    let named = |event: &Event| event.name == "client_refused";
    wait_until("all of them are named", || {
        let events = gateway.events();
        let names = events.iter().filter(|event| named(event)).map(|event| event.text("client"));
        names.collect::<BTreeSet<_>>().len() == count
    });
}

#[test]
fn a_connect_that_is_not_read_whole_is_answered_too() {
    let gateway = Gateway::start("limit.packet_size = 4KiB");
    for (level, code) in [(4, 3), (5, 0x95)] {
        let mut wire = Wire::new(dial(gateway.port).expect("a connection"), level);
        let will = Message::new("gone", "x".repeat(20_000));
        // It may be closed before it has said everything.
        let _ = wire.send(&Connect::new(level, "large").will(will).bytes());
        let said = wire.read_to_the_end();
        let [Packet::Connack(connack)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(connack.code, code);
    }
    let refused = gateway.wait_with("client_refused", &[("reason", "too_large")]);
    says(&refused, &[("limit", "4096"), ("key", "limit.packet_size")]);
    assert!(refused.number("size") > 20_000, "{}", refused.line);
}

#[test]
fn names_that_are_too_long_say_by_how_much() {
    let gateway = Gateway::start("limit.client_id_bytes = 30\nlimit.topic_bytes = 40");
    let refused = Connect::v4(&"i".repeat(31)).try_open(gateway.port).expect("a CONNACK");
    assert_eq!(refused.connack.code, 2);
    let line = gateway.wait_with("client_refused", &[("reason", "client_id_invalid")]);
    says(&line, &[("size", "31"), ("limit", "30"), ("key", "limit.client_id_bytes")]);

    let will = Message::new(&"w".repeat(41), "x");
    let refused = Connect::v5("will").will(will).try_open(gateway.port).expect("a CONNACK");
    assert_eq!(refused.connack.code, 0x90);
    let line = gateway.wait_with("client_refused", &[("client", "will")]);
    says(&line, &[("reason", "topic_name_invalid"), ("size", "41"), ("limit", "40")]);
    says(&line, &[("key", "limit.topic_bytes"), ("topic", &"w".repeat(41))]);

    let mut client = Connect::v5("topic").open(gateway.port);
    assert_eq!(client.publish(&Message::new(&"t".repeat(41), "x").qos(1)), 0x90);
    let line = gateway.wait_with("drop", &[("from", "topic")]);
    says(&line, &[("reason", "topic_too_long"), ("size", "41"), ("limit", "40")]);
    says(&line, &[("key", "limit.topic_bytes"), ("topic", &"t".repeat(41))]);

    let mut client = Connect::v5("filter").open(gateway.port);
    assert_eq!(client.subscribe(&[(&"f".repeat(41), 0)]), [0x8F]);
    let line = gateway.wait_with("limit_reached", &[("client", "filter")]);
    says(&line, &[("limit", "limit.topic_bytes"), ("size", "41"), ("max", "40")]);
    says(&line, &[("filter", &"f".repeat(41))]);
}

#[test]
fn whoever_goes_before_its_connect_is_not_passed_over() {
    let gateway = Gateway::start("");
    let wire = Wire::new(dial(gateway.port).expect("a connection"), 4);
    let addr = wire.stream.local_addr().expect("its own address").to_string();
    drop(wire);
    let line = gateway.wait_with("client_refused", &[("addr", &addr)]);
    says(&line, &[("client", "-"), ("reason", "closed_before_connect")]);
}

#[test]
fn a_full_store_of_retained_messages_names_its_key() {
    let gateway = Gateway::start("limit.retained = 1");
    let mut client = Connect::v5("keeper").open(gateway.port);
    // Kept, and nobody subscribed.
    assert_eq!(client.publish(&Message::new("first", "x").qos(1).retained()), 0x10);
    assert_eq!(client.publish(&Message::new("second", "x").qos(1).retained()), 0x97);
    let line = gateway.wait_with("drop", &[("destination", "retained")]);
    says(&line, &[("reason", "queue_full"), ("topic", "second"), ("from", "keeper")]);
    says(&line, &[("limit", "1"), ("key", "limit.retained")]);
    // Whoever subscribed gets it all the same, and then it is no error.
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("third", 1)]);
    assert_eq!(client.publish(&Message::new("third", "y").qos(1).retained()), 0);
    assert_eq!(watcher.next().text(), "y");
    let gateway = Gateway::start("limit.retained_bytes = 4KiB");
    let mut client = Connect::v5("keeper").open(gateway.port);
    let large = Message::new("large", "x".repeat(8000)).qos(2).retained();
    assert_eq!(client.publish(&large), 0x97);
    let line = gateway.wait_with("drop", &[("destination", "retained")]);
    says(&line, &[("size", "8005"), ("limit", "4096"), ("key", "limit.retained_bytes")]);
}

#[test]
fn what_the_access_rules_deny_is_told_with_client_user_and_topic() {
    let mut gateway = Gateway::prepare("");
    let rules = gateway.configuration_file().with_file_name("rules");
    std::fs::write(&rules, "user somebody\ntopic read seen\ntopic write told\n").expect("written");
    gateway.configure(&format!("auth.acl_file = {}", rules.display()));
    gateway.run();
    let connect = Connect::v5("curious").user("somebody", "x");
    let mut client = connect.will(Message::new("last", "x")).open(gateway.port);
    assert_eq!(client.publish(&Message::new("secret", "x").qos(1)), 0x87);
    client.publish(&Message::new("secret/2", "x").qos(1));
    client.subscribe(&[("#", 0), ("hidden", 0)]);
    client.publish(&Message::new("told", "x").qos(1));
    let denied = |what: &str| {
        let line = gateway.wait_with("denied", &[("what", what)]);
        says(&line, &[("client", "curious"), ("user", "somebody"), ("count", "1")]);
        line.text("topic").to_owned()
    };
    assert_eq!(denied("publish"), "secret");
    assert_eq!(denied("subscribe"), "hidden");
    assert_eq!(denied("receive"), "told");
    client.vanish();
    assert_eq!(denied("will"), "last");
    let line = gateway.wait_with("drop", &[("reason", "not_authorized"), ("topic", "secret")]);
    says(&line, &[("from", "curious"), ("destination", "local")]);
}

#[test]
fn a_quota_names_itself_and_the_topic_of_what_it_cost() {
    let gateway = Gateway::start("session.max_messages = 2");
    let mut away = Connect::v4("away").persistent().open(gateway.port);
    away.subscribe(&[("t/#", 1)]);
    away.disconnect();
    let mut client = Connect::v5("publisher").open(gateway.port);
    for number in 0..3 {
        client.publish(&Message::new(&format!("t/{number}"), "x").qos(1));
    }
    let line = gateway.wait_with("drop", &[("destination", "away")]);
    says(&line, &[("reason", "queue_full"), ("topic", "t/0"), ("limit", "2")]);
    says(&line, &[("key", "session.max_messages")]);
}

#[test]
fn a_topic_of_which_nothing_is_left_has_one_word_both_ways() {
    let remote = Mosquitto::start();
    let rules = [
        "forward.out.local_topic = out/+",
        "forward.out.remote_topic = +",
        "subscribe.in.remote_topic = in/+",
        "subscribe.in.local_topic = +",
    ];
    let gateway = Gateway::start(&bridge("hub", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut client = Connect::v5("publisher").open(gateway.port);
    client.publish(&Message::new("out/", "x").qos(1));
    let line = gateway.wait_with("drop", &[("destination", "hub")]);
    says(&line, &[("reason", "topic_empty"), ("topic", "out/")]);
    remote.wait_line("SUBACK");
    mosquitto_pub(remote.port, &["-q", "1", "-t", "in/", "-m", "x"]);
    let line = gateway.wait_with("drop", &[("destination", "local")]);
    says(&line, &[("reason", "topic_empty"), ("topic", "in/"), ("from", "hub")]);
}
