//! A publisher's exchanges at QoS 1 and 2, step by step.

use crate::common::gateway::{Gateway, bridge};
use crate::common::wire::{
    self, Ack, Connect, MESSAGE_EXPIRY, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet,
};

#[test]
fn an_identifier_is_free_again_after_its_last_acknowledgement() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 2)]);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        let with = |text: &str, qos: u8, dup: bool| {
            Message { id: 7, dup, ..Message::new("t", text).qos(qos) }.bytes(level)
        };
        // Whatever DUP says: after its PUBACK it is a new message.
        for (text, dup) in [("first", false), ("second", true), ("third", false)] {
            client.send(&with(text, 1, dup));
            client.wait_ack(PUBACK, 7);
            let message = watcher.next();
            assert_eq!((message.text().as_str(), message.dup), (text, false));
        }
        for (text, dup) in [("fourth", false), ("fifth", true)] {
            client.send(&with(text, 2, dup));
            client.wait_ack(PUBREC, 7);
            client.send(&wire::ack(PUBREL, 7));
            client.wait_ack(PUBCOMP, 7);
            assert_eq!(watcher.next().text(), text);
        }
    }
}

#[test]
fn until_its_release_a_repeated_message_is_received_again_and_delivered_once() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 2)]);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        let message = Message { id: 7, ..Message::new("t", "once").qos(2) };
        for dup in [false, true, true, false] {
            client.send(&Message { dup, ..message.clone() }.bytes(level));
            assert_eq!(client.wait_ack(PUBREC, 7).code, 0);
        }
        client.send(&wire::ack(PUBREL, 7));
        client.wait_ack(PUBCOMP, 7);
        // A release of what is over is answered too.
        client.send(&wire::ack(PUBREL, 7));
        client.wait_ack(PUBCOMP, 7);
        watcher.publish(&Message::new("t", "last").qos(2));
        assert_eq!(watcher.until("last").len(), 1, "version {level}");
    }
}

#[test]
fn acknowledgements_leave_in_the_order_of_their_messages() {
    let gateway = Gateway::start("");
    for level in [3, 4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        let mut bytes = Vec::new();
        for id in (1..=40).rev() {
            let qos = if id % 2 == 0 { 1 } else { 2 };
            bytes.extend(Message { id, ..Message::new("t", "x").qos(qos) }.bytes(level));
        }
        client.send(&bytes);
        let (mut pubacks, mut pubrecs) = (Vec::new(), Vec::new());
        while pubacks.len() + pubrecs.len() < 40 {
            match client.wire.read(crate::common::PATIENCE).expect("an acknowledgement") {
                Packet::Ack(Ack { kind: PUBACK, id, .. }) => pubacks.push(id),
                Packet::Ack(Ack { kind: PUBREC, id, .. }) => pubrecs.push(id),
                packet => panic!("{packet:?}"),
            }
        }
        assert_eq!(pubacks, (1..=20).map(|n| 42 - 2 * n).collect::<Vec<u16>>());
        assert_eq!(pubrecs, (1..=20).map(|n| 41 - 2 * n).collect::<Vec<u16>>());
    }
}

#[test]
fn an_exchange_that_has_begun_is_not_ended_by_an_expiry() {
    let gateway = Gateway::start("");
    let one_second = (MESSAGE_EXPIRY, 1_u32.to_be_bytes().to_vec());
    let brief = |qos: u8| Message::new("t", "brief").qos(qos).property(one_second.clone());
    let kept = Connect::v5("kept").persistent();
    let mut client = kept.open(gateway.port);
    client.subscribe(&[("t", 2)]);
    client.acknowledges = false;
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let id = publisher.publish_without_waiting(&brief(2));
    publisher.wait_ack(PUBREC, id);
    let begun = client.next();
    client.vanish();
    // Longer than the message lives, by the gateway's own clock.
    for _ in 0..3 {
        gateway.wait_stats("time passes", |_| true);
    }
    publisher.send(&wire::ack(PUBREL, id));
    assert_eq!(publisher.wait_ack(PUBCOMP, id).code, 0);
    let mut client = kept.open(gateway.port);
    client.acknowledges = false;
    let again = client.next();
    assert_eq!((again.id, again.dup, again.text()), (begun.id, true, "brief".to_owned()));
    client.send(&wire::ack(PUBREC, begun.id));
    client.wait_ack(PUBREL, begun.id);
}

#[test]
fn an_identifier_whose_message_was_refused_is_free() {
    let rules = ["forward.1.local_topic = t", "max_messages = 2", "overflow = drop_newest"];
    // Nobody listens at this port.
    let gateway = Gateway::start(&bridge("up", 9, &rules));
    let mut client = Connect::v5("client").open(gateway.port);
    for n in 0..2 {
        assert_eq!(client.publish(&Message::new("t", n.to_string()).qos(1)), 0);
    }
    let refused = Message { id: 77, ..Message::new("t", "refused").qos(2) };
    for dup in [false, true] {
        client.send(&Message { dup, ..refused.clone() }.bytes(5));
        assert_eq!(client.wait_ack(PUBREC, 77).code, 0x97, "a new message, refused again");
    }
    // The same identifier for one that has room.
    client.send(&Message { topic: "u".to_owned(), dup: true, ..refused }.bytes(5));
    assert!(client.wait_ack(PUBREC, 77).code < 0x80);
    client.send(&wire::ack(PUBREL, 77));
    assert_eq!(client.wait_ack(PUBCOMP, 77).code, 0);
}

#[test]
fn a_message_that_is_not_allowed_is_acknowledged_and_goes_nowhere() {
    let mut gateway = Gateway::prepare("");
    let rules = gateway.directory.write("acl", "topic read #\ntopic write may/#\n");
    gateway.configure(&format!("auth.acl_file = {}", rules.display()));
    gateway.run();
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("#", 2)]);
    for level in [3, 4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        for qos in [0, 1, 2] {
            let code = client.publish(&Message::new("no", "unwanted").qos(qos).retained());
            // Only MQTT 5 has a word for it.
            let expected = if level == 5 && qos > 0 { 0x87 } else { 0 };
            assert_eq!(code, expected, "version {level} QoS {qos}");
            client.publish(&Message::new("may/x", "last").qos(qos));
            assert_eq!(watcher.until("last"), []);
        }
    }
}
