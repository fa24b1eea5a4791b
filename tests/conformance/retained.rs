//! Retained messages: what is stored, what replaces it, who gets it.

use crate::common::client::Client;
use crate::common::gateway::Gateway;
use crate::common::wire::{Connect, Message};

/// What a new subscriber gets for `filter`: payload, QoS and RETAIN of each.
fn kept(gateway: &Gateway, filter: &str, qos: u8) -> Vec<(String, u8, bool)> {
    let mut client = Connect::v5("late").open(gateway.port);
    client.subscribe(&[(filter, qos), ("last", 1)]);
    client.publish(&Message::new("last", "last").qos(1));
    let messages = client.until("last");
    client.disconnect();
    messages.into_iter().map(|m| (m.text(), m.qos, m.retain)).collect()
}

fn one(text: &str, qos: u8) -> Vec<(String, u8, bool)> {
    vec![(text.to_owned(), qos, true)]
}

fn publisher(gateway: &Gateway, level: u8) -> Client {
    Connect::new(level, "publisher").open(gateway.port)
}

#[test]
fn a_message_is_kept_with_its_qos_and_the_next_one_replaces_it() {
    let gateway = Gateway::start("");
    for level in [3, 4, 5] {
        let mut publisher = publisher(&gateway, level);
        for qos in [1, 2, 0] {
            let text = format!("{level} {qos}");
            publisher.publish(&Message::new("state", &text).qos(qos).retained());
            publisher.ping();
            for granted in 0..=2 {
                assert_eq!(kept(&gateway, "state", granted), one(&text, qos.min(granted)));
            }
        }
    }
}

#[test]
fn only_a_retained_message_touches_what_is_kept() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let mut publisher = publisher(&gateway, level);
        publisher.publish(&Message::new("state", "kept").qos(1).retained());
        for qos in 0..=2 {
            publisher.publish(&Message::new("state", "passing").qos(qos));
            publisher.publish(&Message::new("state", "").qos(qos));
        }
        publisher.publish(&Message::new("other", "passing").qos(1));
        assert_eq!(kept(&gateway, "state", 1), one("kept", 1));
        assert_eq!(kept(&gateway, "other", 1), []);
        // An empty one clears, at every QoS, and is nothing that could be kept itself.
        for qos in 0..=2 {
            publisher.publish(&Message::new("state", "kept").qos(1).retained());
            publisher.publish(&Message::new("state", "").qos(qos).retained());
            publisher.ping();
            assert_eq!(kept(&gateway, "state", 1), [], "QoS {qos}");
        }
    }
}

#[test]
fn what_is_kept_outlives_the_session_of_its_publisher() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").persistent().open(gateway.port);
    publisher.publish(&Message::new("state", "kept").qos(1).retained());
    publisher.disconnect();
    // This begins a new session and ends it.
    Connect::v4("publisher").open(gateway.port).disconnect();
    gateway.wait_stats("no session", |stats| stats.number("sessions") == 0);
    assert_eq!(kept(&gateway, "#", 1), one("kept", 1));
}

#[test]
fn a_message_that_finds_no_room_leaves_no_older_one_behind() {
    let gateway = Gateway::start("limit.retained_bytes = 4KiB");
    let mut publisher = publisher(&gateway, 4);
    for qos in [0, 1] {
        publisher.publish(&Message::new("state", "old").qos(1).retained());
        publisher.publish(&Message::new("state", vec![b'x'; 8000]).qos(qos).retained());
        publisher.ping();
        assert_eq!(kept(&gateway, "state", 1), []);
    }
}

#[test]
fn subscribing_again_brings_what_is_kept_again_and_interrupts_nothing() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    publisher.publish(&Message::new("state/a", "kept").qos(1).retained());
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        for granted in [1, 0, 2] {
            client.subscribe(&[("state/#", granted)]);
            let message = client.next();
            assert_eq!((message.text(), message.retain), ("kept".to_owned(), true));
            publisher.publish(&Message::new("state/b", "live").qos(2));
            let message = client.next();
            assert_eq!((message.text(), message.qos), ("live".to_owned(), granted));
        }
        client.disconnect();
    }
}

#[test]
fn retain_handling_and_retain_as_published_decide_in_every_combination() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    publisher.publish(&Message::new("state", "kept").qos(1).retained());
    for as_published in [false, true] {
        for handling in 0..=2_u8 {
            let mut client = Connect::v5("client").open(gateway.port);
            let options = 1 | handling << 4 | u8::from(as_published) << 3;
            for there_already in [false, true] {
                client.subscribe(&[("state", options), ("last", 1)]);
                publisher.publish(&Message::new("last", "last").qos(1));
                let got: Vec<bool> = client.until("last").iter().map(|m| m.retain).collect();
                let expected = handling == 0 || handling == 1 && !there_already;
                let expected = vec![true; usize::from(expected)];
                assert_eq!(got, expected, "{handling} {there_already} {as_published}");
            }
            publisher.publish(&Message::new("state", "kept").qos(1).retained());
            assert_eq!(client.next().retain, as_published);
            publisher.publish(&Message::new("state", "passing").qos(1));
            assert!(!client.next().retain);
            client.disconnect();
        }
    }
}
