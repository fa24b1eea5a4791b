//! What was refused, dropped or held up is told with the key that decides it, by its whole name,
//! and with the limit that was met.

use crate::common::client::{Wire, dial};
use crate::common::gateway::{Event, Gateway, bridge};
use crate::common::mosquitto::mosquitto_passwd;
use crate::common::place::{Directory, free_port};
use crate::common::stub::Stub;
use crate::common::wire;
use crate::common::wire::{Connect, MAXIMUM_PACKET_SIZE, Message};
use std::process::Command;

/// An event's keys have these values.
fn says(event: &Event, with: &[(&str, &str)]) {
    for (key, value) in with {
        assert!(event.has(key), "no {key}= in {}", event.line);
        assert_eq!(event.text(key), *value, "{}", event.line);
    }
}

/// A bridge whose remote is away, with one rule.
fn full(rule: &[&str]) -> Gateway {
    let rule: Vec<String> = rule.iter().map(|line| format!("forward.fast-one.{line}")).collect();
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    Gateway::start(&bridge("up", free_port(), &rule))
}

const RULE_KEY: (&str, &str) = ("key", "bridge.up.forward.fast-one.max_messages");

#[test]
fn the_quota_of_a_rule_is_named_by_the_rule() {
    for policy in ["drop_oldest", "drop_newest"] {
        for more in ["conflate = false", "rate = 1/m"] {
            let overflow = format!("overflow = {policy}");
            let rules = ["local_topic = t", "max_messages = 3", &overflow, more];
            let gateway = full(&rules);
            let mut client = Connect::v5("client").open(gateway.port);
            for n in 0..6 {
                client.publish(&Message::new("t", n.to_string()).qos(1));
                // On the disk, where others are dropped than in RAM.
                if n == 3 {
                    gateway.wait_stats("the first are stored", |s| s.number("store_msgs") >= 3);
                }
            }
            let with = [("reason", "queue_full"), ("destination", "up"), RULE_KEY];
            let dropped = gateway.wait_with("drop", &with);
            says(&dropped, &[("limit", "3"), ("topic", "t")]);
            gateway.wait_stats("three drops", |stats| stats.number("drops") == 3);
            let others = gateway.events().into_iter().filter(|event| event.name == "drop");
            others.for_each(|event| says(&event, &with));
        }
    }
}

#[test]
fn who_is_held_up_reads_which_quota_it_is() {
    let gateway = full(&["local_topic = t", "max_messages = 3", "overflow = block"]);
    let mut client = Connect::v5("client").open(gateway.port);
    for n in 0..6 {
        client.publish_without_waiting(&Message::new("t", n.to_string()).qos(1));
    }
    let held = gateway.wait("backpressure_on");
    says(&held, &[("destination", "up"), ("reason", "rule_quota"), ("limit", "3"), RULE_KEY]);
    says(&held, &[("backlog", "3")]);
    let text = bridge("up", free_port(), &["forward.1.local_topic = t", "max_messages = 3"]);
    let gateway = Gateway::start(&text);
    let mut client = Connect::v5("client").open(gateway.port);
    for n in 0..6 {
        client.publish_without_waiting(&Message::new("t", n.to_string()).qos(1));
    }
    let held = gateway.wait("backpressure_on");
    says(&held, &[("reason", "quota"), ("limit", "3"), ("key", "bridge.up.max_messages")]);
}

#[test]
fn a_subscription_that_is_refused_is_named_by_its_rule() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[(MAXIMUM_PACKET_SIZE, 40_u32.to_be_bytes().to_vec())])?;
        loop {
            match session.read()? {
                wire::Packet::Subscribe { id, .. } => session.suback(id, &[0x87])?,
                packet => session.answer(&packet)?,
            }
        }
    });
    let long = format!("subscribe.long.remote_topic = {}/#", "long".repeat(10));
    let short = "subscribe.short.remote_topic = short/#";
    let gateway = Gateway::start(&bridge("up", remote.port, &[&long, short]));
    let refused = gateway.wait_with("subscribe_refused", &[("reason", "packet_too_large")]);
    says(&refused, &[("limit", "40"), ("key", "bridge.up.subscribe.long.remote_topic")]);
    assert!(refused.number("size") > 40, "{}", refused.line);
    let refused = gateway.wait_with("subscribe_refused", &[("reason", "not_authorized")]);
    says(&refused, &[("code", "135"), ("key", "bridge.up.subscribe.short.remote_topic")]);
}

#[test]
fn a_message_that_its_receiver_cannot_take_is_told_with_its_size() {
    let gateway = Gateway::start("");
    let small = (MAXIMUM_PACKET_SIZE, 100_u32.to_be_bytes().to_vec());
    let mut subscriber = Connect::v5("small").property(small).open(gateway.port);
    subscriber.subscribe(&[("t", 1)]);
    let mut client = Connect::v5("client").open(gateway.port);
    client.publish(&Message::new("t", "x".repeat(200)).qos(1));
    let dropped = gateway.wait_with("drop", &[("reason", "too_large")]);
    says(&dropped, &[("destination", "small"), ("limit", "100"), ("topic", "t")]);
    assert!(dropped.number("size") > 200 && !dropped.has("key"), "{}", dropped.line);
}

#[test]
fn a_client_without_a_descriptor_is_told_with_the_limit() {
    let gateway = Gateway::start("");
    let id = gateway.process().id();
    // Those it was born with have higher numbers, perhaps.
    let open = 40;
    let limit = |count: usize| {
        let mut command = Command::new("prlimit");
        let status = command.arg("--pid").arg(id.to_string()).arg(format!("--nofile={count}:"));
        assert!(status.status().expect("prlimit runs").success());
    };
    limit(open);
    // The first find numbers that are free.
    let mut wires: Vec<Wire> = (0..45).map(|_| Wire::new(dial(gateway.port).unwrap(), 5)).collect();
    let refused = gateway.wait_with("client_refused", &[("reason", "no_file_descriptors")]);
    says(&refused, &[("limit", &open.to_string()), ("key", "ulimit -n")]);
    let last = wires.last_mut().expect("some");
    assert!(last.read_to_the_end().is_empty(), "there is nobody to say a word");
    limit(1024);
    drop(wires);
    Connect::v5("client").open(gateway.port).disconnect();
}

#[test]
fn a_client_that_is_refused_reads_in_the_log_what_would_let_it_in() {
    let directory = Directory::new();
    let users = directory.write("users", "").display().to_string();
    mosquitto_passwd(&["-b", &users, "somebody", "secret"]);
    let closed = format!("listener.lan.anonymous = false\nauth.password_file = {users}\n");
    let gateway = Gateway::start(&closed);
    for level in [4, 5] {
        let client = Connect::new(level, "nobody").try_open(gateway.port).expect("a CONNACK");
        assert_ne!(client.connack.code, 0);
    }
    let refused = gateway.wait_with("client_refused", &[("reason", "not_authorized")]);
    says(&refused, &[("key", "listener.lan.anonymous")]);
    let client = Connect::v5("u").user("name", "secret").try_open(gateway.port);
    assert_ne!(client.expect("a CONNACK").connack.code, 0);
    let refused = gateway.wait_with("client_refused", &[("reason", "bad_credentials")]);
    says(&refused, &[("key", "auth.password_file"), ("user", "name")]);
    let gateway = Gateway::start("");
    let mut silent = Connect::v5("silent").keepalive(1).open(gateway.port);
    silent.wait_closed();
    let gone = gateway.wait_with("client_disconnected", &[("reason", "keepalive_timeout")]);
    says(&gone, &[("limit", "1")]);
}
