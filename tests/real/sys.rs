//! `$SYS`: figures for who asks, as mosquitto's own tools expect them.

use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub, mosquitto_pub};
use crate::common::wire::{Connect, Message};
use std::collections::BTreeMap;

/// Values by topic, as they are told to a new subscriber.
fn figures(port: u16, filter: &str, wanted: &str) -> BTreeMap<String, String> {
    let mut client = Connect::v5("asks").open(port);
    assert_eq!(client.subscribe(&[(filter, 1)]), [1]);
    let mut figures = BTreeMap::new();
    while !figures.contains_key(wanted) {
        let message = client.next();
        assert!(message.retain && message.qos == 0, "{message:?}");
        figures.insert(message.topic.clone(), message.text());
    }
    figures
}

#[test]
fn mosquitto_sub_sees_the_figures_under_mosquittos_names() {
    let gateway = Gateway::start("");
    let arguments = ["-t", "$SYS/broker/uptime", "-t", "$SYS/broker/clients/connected"];
    let subscriber = MosquittoSub::start(gateway.port, "%t %r %p", &arguments);
    let lines = subscriber.take(2);
    let uptime = lines[0].strip_prefix("$SYS/broker/uptime 1 ").expect("retained");
    let seconds = uptime.strip_suffix(" seconds").expect("as mosquitto writes it");
    assert!(seconds.parse::<u64>().is_ok(), "{uptime}");
    assert_eq!(lines[1], "$SYS/broker/clients/connected 1 1");
}

#[test]
fn the_figures_tell_of_clients_messages_the_ring_and_each_bridge() {
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("far", remote.port, &["forward.1.local_topic = t/#"]));
    gateway.wait("bridge_up");
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("x", 0), ("y", 0)]);
    near.publish(&Message::new("kept", "value").qos(1).retained());
    for n in 0..5 {
        near.publish(&Message::new("t/a", n.to_string()).qos(1));
    }
    gateway.wait_bridge_stats("far", "everything acknowledged", |e| e.number("fwd_acked") == 5);
    // The first that is asked for: figures are messages too.
    let sent = "$SYS/broker/publish/messages/sent";
    assert_eq!(figures(gateway.port, sent, sent)[sent], "5");
    let last = "$SYS/spillway/bridge/far/acked";
    let figures = figures(gateway.port, "$SYS/#", last);
    let is = |topic: &str, value: &str| assert_eq!(figures[topic], value, "{topic}: {figures:?}");
    is("$SYS/broker/clients/total", "2");
    is("$SYS/broker/clients/connected", "2");
    is("$SYS/broker/clients/disconnected", "0");
    is("$SYS/broker/clients/maximum", "2");
    is("$SYS/broker/subscriptions/count", "3");
    is("$SYS/broker/retained messages/count", "1");
    is("$SYS/broker/publish/messages/received", "6");
    is("$SYS/broker/publish/bytes/received", "10");
    is("$SYS/broker/publish/messages/dropped", "0");
    is("$SYS/spillway/node", "gw");
    is("$SYS/spillway/bridge/far/up", "1");
    is("$SYS/spillway/bridge/far/waiting", "0");
    is(last, "5");
    let number = |topic: &str| -> f64 { figures[topic].parse().expect("a number") };
    assert!(number("$SYS/broker/bytes/sent") > 0.0);
    // They are known since the first `stats` line.
    assert!(number("$SYS/broker/heap/current size") > 100_000.0, "{figures:?}");
    assert!(number("$SYS/spillway/store/bytes") > 0.0, "{figures:?}");
    for count in ["messages/received", "bytes/sent", "publish/dropped", "connections"] {
        for span in ["1min", "5min", "15min"] {
            assert!(number(&format!("$SYS/broker/load/{count}/{span}")) >= 0.0);
        }
    }
}

#[test]
fn clients_cannot_publish_there_and_first_level_wildcards_do_not_match() {
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("far", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 1)]);
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("#", 1), ("+/broker/uptime", 1)]);
    let mut sys = Connect::v4("sys").open(gateway.port);
    sys.subscribe(&[("$SYS/broker/forged", 1)]);
    let forged = Message::new("$SYS/broker/forged", "x").retained();
    let mut new = Connect::v5("new").open(gateway.port);
    assert_eq!(new.publish(&forged.clone().qos(1)), 0x87);
    assert_eq!(new.publish(&forged.clone().qos(2)), 0x87);
    let mut old = Connect::v4("old").open(gateway.port);
    assert_eq!(old.publish(&forged.clone().qos(1)), 0);
    assert_eq!(old.publish(&forged.clone().qos(2)), 0);
    let output =
        mosquitto_pub(gateway.port, &["-V", "5", "-q", "1", "-t", "$SYS/broker/forged", "-m", "x"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Not authorized"), "{said}");
    // As will, too.
    Connect::v4("dying").will(forged).open(gateway.port).vanish();
    gateway.wait_with("client_disconnected", &[("client", "dying")]);
    new.publish(&Message::new("end", "end").qos(1));
    assert_eq!(far.until("end").len(), 0);
    assert_eq!(near.until("end").len(), 0);
    sys.ping();
    assert!(sys.next_within(std::time::Duration::ZERO).is_none());
}

#[test]
fn a_rule_that_names_sys_forwards_the_figures() {
    let remote = Mosquitto::start();
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("gw/#", 1)]);
    let rules = [
        "forward.1.local_topic = $SYS/broker/uptime",
        "forward.1.remote_topic = gw/uptime",
        "forward.2.local_topic = #",
    ];
    let gateway = Gateway::start(&bridge("far", remote.port, &rules));
    gateway.wait("bridge_up");
    let message = far.next();
    assert_eq!(message.topic, "gw/uptime");
    assert!(message.text().ends_with(" seconds"), "{}", message.text());
}
