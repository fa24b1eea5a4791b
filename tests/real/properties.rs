//! MQTT 5 properties pass unchanged, wherever a message waits; only its expiry shrinks.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub, mosquitto_pub};
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{
    CONTENT_TYPE, CORRELATION_DATA, Connect, MESSAGE_EXPIRY, Message, PAYLOAD_FORMAT, Property,
    REQUEST_PROBLEM_INFORMATION, REQUEST_RESPONSE_INFORMATION, RESPONSE_INFORMATION,
    RESPONSE_TOPIC, find, four_bytes, prefixed, subscribe, user_property,
};
use std::io::Read;
use std::thread;
use std::time::Duration;

/// One of each that belongs to the message; user properties in an order and twice.
fn all() -> Vec<Property> {
    vec![
        (PAYLOAD_FORMAT, vec![1]),
        (CONTENT_TYPE, prefixed(b"application/json")),
        (RESPONSE_TOPIC, prefixed(b"answers/here")),
        (CORRELATION_DATA, prefixed(&[0, 255, 7])),
        user_property("b", "2"),
        user_property("a", "1"),
        user_property("b", "2"),
        user_property("", ""),
    ]
}

fn rich(topic: &str, payload: &str) -> Message {
    Message { properties: all(), ..Message::new(topic, payload).qos(1) }
}

fn sorted(mut properties: Vec<Property>) -> Vec<Property> {
    // The order among user properties means something, that of the others does not.
    properties.sort_by_key(|(id, _)| *id);
    properties
}

fn expiry(seconds: u32) -> Property {
    (MESSAGE_EXPIRY, seconds.to_be_bytes().to_vec())
}

#[test]
fn they_pass_live_retained_and_offline() {
    let mut gateway = Gateway::start("store.retained_after = 0s");
    let mut client = Connect::v5("client").open(gateway.port);
    let kept = Connect::v5("kept").persistent();
    let mut offline = kept.open(gateway.port);
    offline.subscribe(&[("t", 2)]);
    offline.disconnect();
    client.subscribe(&[("t", 2)]);
    for qos in [0, 1, 2] {
        client.publish(&rich("t", "live").qos(qos));
        assert_eq!(sorted(client.next().properties), sorted(all()), "QoS {qos}");
    }
    client.publish(&rich("retained", "retained").retained());
    gateway.stop();
    gateway.run();
    let mut offline = kept.open(gateway.port);
    for qos in [1, 2] {
        let message = offline.next();
        assert_eq!((message.text(), message.qos), ("live".to_owned(), qos));
        assert_eq!(sorted(message.properties), sorted(all()), "QoS {qos} after a restart");
    }
    offline.subscribe(&[("retained", 1)]);
    assert_eq!(sorted(offline.next().properties), sorted(all()));
}

#[test]
fn they_are_left_out_for_a_3_1_1_subscriber() {
    let gateway = Gateway::start("");
    let mut old = Connect::v4("old").open(gateway.port);
    old.subscribe(&[("t", 1)]);
    Connect::v5("client").open(gateway.port).publish(&rich("t", "plain"));
    assert_eq!(old.next().text(), "plain");
}

#[test]
fn they_pass_to_a_remote_and_back_from_it() {
    let remote = Mosquitto::start();
    let rules = ["forward.1.local_topic = out/#", "subscribe.1.remote_topic = in/#"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut far = Connect::v5("far").open(remote.port);
    let mut near = Connect::v5("near").open(gateway.port);
    far.subscribe(&[("out/#", 2)]);
    near.subscribe(&[("in/#", 2)]);
    near.publish(&rich("out/a", "there"));
    let message = far.next();
    assert_eq!((message.topic.as_str(), message.text()), ("out/a", "there".to_owned()));
    assert_eq!(sorted(message.properties), sorted(all()));
    far.publish(&rich("in/a", "back"));
    let message = near.next();
    assert_eq!((message.topic.as_str(), message.text()), ("in/a", "back".to_owned()));
    assert_eq!(sorted(message.properties), sorted(all()));
}

#[test]
fn they_survive_an_outage_and_a_kill_on_the_way_to_the_remote() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let connect = Connect::v5("far").persistent();
    let far = Collector::start_with(remote.port, connect, "t", 2);
    let mut gateway = Gateway::start(&bridge("up", link.port, &["forward.1.local_topic = t"]));
    Connect::v5("client").open(gateway.port).publish(&rich("t", "late"));
    gateway.kill();
    gateway.run();
    link.set(Mode::Pass);
    far.wait_count(1);
    assert_eq!(sorted(far.messages().remove(0).properties), sorted(all()));
}

#[test]
fn the_time_a_message_waited_is_taken_off_its_expiry() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let connect = Connect::v5("far").persistent();
    let far = Collector::start_with(remote.port, connect, "t", 2);
    let gateway = Gateway::start(&bridge("up", link.port, &["forward.1.local_topic = t"]));
    let kept = Connect::v5("kept").persistent();
    let mut client = kept.open(gateway.port);
    client.subscribe(&[("t", 1)]);
    client.disconnect();
    let mut client = Connect::v5("client").open(gateway.port);
    client.publish(&Message::new("t", "short").qos(1).property(expiry(1)));
    client.publish(&Message::new("t", "long").qos(1).property(expiry(100)));
    client.publish(&Message::new("t", "endless").qos(1));
    // What is tested is the passing of time itself.
    thread::sleep(Duration::from_millis(2100));
    link.set(Mode::Pass);
    let mut back = kept.open(gateway.port);
    let near = [back.next(), back.next()];
    far.wait_count(2);
    let far = far.messages();
    for (place, messages) in [("near", &near[..]), ("far", &far[..])] {
        let texts: Vec<String> = messages.iter().map(Message::text).collect();
        assert_eq!(texts, ["long", "endless"], "{place}");
        let left = find(&messages[0].properties, MESSAGE_EXPIRY).map(four_bytes);
        let left = left.expect("an expiry");
        assert!((60..=98).contains(&left), "{place}: {left} of 100 s left after 2.1 s");
        assert_eq!(find(&messages[1].properties, MESSAGE_EXPIRY), None, "{place}");
    }
    assert_eq!(gateway.wait_with("drop", &[("reason", "expired")]).number("count"), 1);
}

/// What a client of MQTT 5 with these properties hears of a subscription too many, as text.
fn refusal(gateway: &Gateway, properties: &[Property]) -> String {
    let mut connect = Connect::v5("client");
    connect.properties.extend_from_slice(properties);
    let mut client = connect.open(gateway.port);
    assert_eq!(client.subscribe(&[("one", 0)]), [0]);
    client.send(&subscribe(5, 7, &[("two", 0)], &[]));
    // One byte at a time, up to the code that ends it.
    let mut said = Vec::new();
    while said.last() != Some(&0x97) {
        let mut byte = [0];
        client.wire.stream.read_exact(&mut byte).expect("a SUBACK");
        said.push(byte[0]);
    }
    client.disconnect();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_refusal_says_why_to_whoever_wants_to_know() {
    let gateway = Gateway::start("limit.subscriptions = 1");
    let why = "as many subscriptions";
    let no_problems = (REQUEST_PROBLEM_INFORMATION, vec![0]);
    let problems = (REQUEST_PROBLEM_INFORMATION, vec![1]);
    assert!(refusal(&gateway, &[]).contains(why));
    assert!(refusal(&gateway, &[problems]).contains(why));
    assert!(!refusal(&gateway, &[no_problems]).contains(why));
}

#[test]
fn no_response_information_is_made_up() {
    let gateway = Gateway::start("");
    let asks = Connect::v5("client").property((REQUEST_RESPONSE_INFORMATION, vec![1]));
    let properties = asks.open(gateway.port).connack.properties;
    assert_eq!(find(&properties, RESPONSE_INFORMATION), None);
}

#[test]
fn mosquittos_clients_see_them() {
    let gateway = Gateway::start("");
    let arguments = ["-V", "mqttv5", "-t", "t", "-q", "1"];
    let sub = MosquittoSub::start(gateway.port, "%C %R %P %p", &arguments);
    let properties = "-D publish content-type text/plain -D publish response-topic r \
                      -D publish user-property k v";
    let arguments: Vec<&str> = arguments.into_iter().chain(["-m", "x"]).collect();
    let arguments: Vec<&str> = arguments.into_iter().chain(properties.split_whitespace()).collect();
    mosquitto_pub(gateway.port, &arguments);
    assert_eq!(sub.take(1), ["text/plain r k:v x"]);
}
