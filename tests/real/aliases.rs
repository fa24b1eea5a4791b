//! Topic aliases both ways: a number stands for its topic on its own connection, in the order of
//! the wire, whatever waits.

use crate::common::client::Client;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{
    Connect, MAXIMUM_PACKET_SIZE, Message, Property, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, find,
};

fn alias(number: u8) -> Property {
    (TOPIC_ALIAS, vec![0, number])
}

fn said(client: &mut Client) -> (String, Option<Vec<u8>>, String) {
    let message = client.next();
    let alias = find(&message.properties, TOPIC_ALIAS).map(<[u8]>::to_vec);
    (message.topic.clone(), alias, message.text())
}

fn full(topic: &str, alias: u8, text: &str) -> (String, Option<Vec<u8>>, String) {
    (topic.to_owned(), Some(vec![0, alias]), text.to_owned())
}

#[test]
fn a_client_may_use_what_it_was_offered_and_no_more() {
    let gateway = Gateway::start("");
    let offered = Connect::v5("a").open(gateway.port).connack.properties;
    let offered = find(&offered, TOPIC_ALIAS_MAXIMUM).expect("some are offered")[1];
    for (number, topic, code) in [(0, "t", 0x94), (offered + 1, "t", 0x94), (1, "", 0x82)] {
        let mut client = Connect::v5("b").open(gateway.port);
        client.publish_without_waiting(&Message::new(topic, "x").property(alias(number)));
        let said = format!("{:?}", client.wait_closed());
        assert!(said.contains(&format!("Disconnect {{ code: {code} }}")), "{number}: {said}");
    }
    let mut client = Connect::v5("c").open(gateway.port);
    client.subscribe(&[("#", 0)]);
    for number in 1..=offered {
        let message = Message::new(&format!("t/{number}"), "new").property(alias(number));
        client.publish_without_waiting(&message);
    }
    for number in (1..=offered).rev() {
        client.publish_without_waiting(&Message::new("", "known").property(alias(number)));
    }
    // The same number for another topic.
    client.publish_without_waiting(&Message::new("other", "new").property(alias(1)));
    client.publish_without_waiting(&Message::new("", "known").property(alias(1)));
    let mut topics: Vec<String> = (1..=offered).map(|n| format!("t/{n}")).collect();
    topics.extend((1..=offered).rev().map(|n| format!("t/{n}")));
    topics.extend(["other".to_owned(), "other".to_owned()]);
    for topic in topics {
        let message = client.next();
        assert_eq!((message.topic, message.properties), (topic, vec![]));
    }
}

#[test]
fn aliases_of_a_client_end_with_its_connection() {
    let gateway = Gateway::start("");
    let kept = Connect::v5("kept").persistent();
    let mut client = kept.open(gateway.port);
    client.publish(&Message::new("t", "x").qos(1).property(alias(1)));
    client.disconnect();
    let mut client = kept.open(gateway.port);
    client.publish_without_waiting(&Message::new("", "x").property(alias(1)));
    assert!(format!("{:?}", client.wait_closed()).contains("Disconnect { code: 130 }"));
}

#[test]
fn a_message_that_waits_for_room_keeps_the_topic_of_its_alias() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let rules = ["forward.1.local_topic = out/#", "max_messages = 1"];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("#", 1)]);
    let mut client = Connect::v5("client").open(gateway.port);
    client.publish(&Message::new("out/first", "0").qos(1).property(alias(1)));
    // There is no room for this one …
    client.publish_without_waiting(&Message::new("", "1").qos(1).property(alias(1)));
    gateway.wait("backpressure_on");
    // … and what comes behind it gives its alias to another topic.
    client.publish_without_waiting(&Message::new("free/second", "2").property(alias(1)));
    client.publish_without_waiting(&Message::new("", "3").property(alias(1)));
    client.publish_without_waiting(&Message::new("", "4").qos(1).property(alias(1)));
    client.ping();
    assert_eq!(near.next().text(), "0");
    link.set(Mode::Pass);
    let came: Vec<(String, String)> = (0..4)
        .map(|_| {
            let message = near.next();
            (message.text(), message.topic)
        })
        .collect();
    let mut sorted = came.clone();
    sorted.sort();
    let topics = ["out/first", "free/second", "free/second", "free/second"];
    let expected: Vec<(String, String)> =
        (1..).zip(topics).map(|(n, topic): (u8, _)| (n.to_string(), topic.to_owned())).collect();
    assert_eq!(sorted, expected, "{came:?}");
}

#[test]
fn a_client_that_takes_aliases_is_told_a_topic_once_a_connection() {
    let gateway = Gateway::start("");
    let connect = Connect::v5("kept").persistent().property((TOPIC_ALIAS_MAXIMUM, vec![0, 1]));
    let mut client = connect.open(gateway.port);
    client.acknowledges = false;
    client.subscribe(&[("#", 1)]);
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for (topic, text) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
        publisher.publish_without_waiting(&Message::new(topic, text).qos(1));
    }
    assert_eq!(said(&mut client), full("a", 1, "1"));
    assert_eq!(said(&mut client), full("", 1, "2"));
    assert_eq!(said(&mut client), ("b".to_owned(), None, "3".to_owned()));
    assert_eq!(said(&mut client), full("", 1, "4"));
    client.vanish();
    // None was acknowledged: they come again, and the connection is another.
    let mut client = connect.open(gateway.port);
    assert_eq!(said(&mut client), full("a", 1, "1"));
    assert_eq!(said(&mut client), full("", 1, "2"));
}

#[test]
fn a_client_that_takes_none_is_told_every_topic() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("a", 0)]);
    for _ in 0..3 {
        client.publish(&Message::new("a", "x"));
        assert_eq!(said(&mut client), ("a".to_owned(), None, "x".to_owned()));
    }
}

#[test]
fn nothing_is_too_large_for_its_alias() {
    let gateway = Gateway::start("");
    // 2 bytes of header, 3 of topic, 1 of properties, the rest is payload.
    let connect = Connect::v5("client")
        .property((TOPIC_ALIAS_MAXIMUM, vec![0, 9]))
        .property((MAXIMUM_PACKET_SIZE, vec![0, 0, 0, 64]));
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("t", 0)]);
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let (largest, smaller) = ("x".repeat(58), "x".repeat(55));
    publisher.publish(&Message::new("t", &largest));
    publisher.publish(&Message::new("t", &smaller));
    assert_eq!(said(&mut client), ("t".to_owned(), None, largest));
    assert_eq!(said(&mut client), full("t", 1, &smaller));
}

#[test]
fn a_message_in_pieces_keeps_its_alias() {
    let gateway = Gateway::start("limit.packet_size = 256KiB\nring.bytes = 4MiB");
    let connect = Connect::v5("client").property((TOPIC_ALIAS_MAXIMUM, vec![0, 9]));
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("t", 1)]);
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let large = "x".repeat(200_000);
    publisher.publish_without_waiting(&Message::new("t", &large).qos(1));
    publisher.publish_without_waiting(&Message::new("t", &large).qos(1));
    assert_eq!(said(&mut client), full("t", 1, &large));
    assert_eq!(said(&mut client), full("", 1, &large));
}

#[test]
fn a_remote_that_takes_aliases_gets_every_message_under_its_topic() {
    let remote = Mosquitto::start_with("max_topic_alias 3\n");
    let rules = ["forward.1.local_topic = a/#", "forward.1.prefix = far/"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let topics = ["a/1", "a/2", "a/1", "a/3", "a/4", "a/5", "a/1", "a/4", "a/4", "a/2"];
    for (n, topic) in topics.iter().enumerate() {
        publisher.publish(&Message::new(topic, n.to_string()).qos(1));
    }
    for (n, topic) in topics.iter().enumerate() {
        let message = far.next();
        assert_eq!(
            (message.topic.clone(), message.text()),
            (format!("far/{topic}"), n.to_string())
        );
    }
}
