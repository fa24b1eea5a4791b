//! Lines that take long for what they carry are no dead lines: time runs from the last byte that
//! moved. Dead ones are noticed all the same.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{Connect, Message};

const RULES: [&str; 4] = [
    "forward.1.local_topic = up/#",
    "ack_timeout = 1s",
    "keepalive = 3s",
    "subscribe.1.remote_topic = down/#",
];

fn downs(gateway: &Gateway) -> usize {
    gateway.events().iter().filter(|event| event.name == "bridge_down").count()
}

/// A message that is on its way for five times as long as an acknowledgement may take, and small
/// ones behind it.
#[test]
fn one_message_that_takes_longer_than_its_acknowledgement_may() {
    let lines = [Proxy::start_thin, Proxy::start_thin_behind];
    for (version, line) in ["proto_ver = 5", "proto_ver = 4"].into_iter().zip(lines) {
        let remote = Mosquitto::start();
        let line = line(remote.port, 10_000);
        let rules: Vec<&str> = RULES.into_iter().chain([version]).collect();
        let gateway = Gateway::start(&bridge("up", line.port, &rules));
        gateway.wait("bridge_up");
        let far = Collector::start(remote.port, "far", "up/#");
        let mut client = Connect::v5("client").open(gateway.port);
        client.publish_without_waiting(&Message::new("up/large", vec![b'x'; 50_000]).qos(1));
        for number in 0..10 {
            client.publish_without_waiting(&Message::new("up/small", format!("{number}")).qos(1));
        }
        far.wait_count(11);
        let texts: Vec<String> = far.messages().iter().skip(1).map(Message::text).collect();
        assert_eq!(texts, (0..10).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(far.messages()[0].payload.len(), 50_000);
        assert_eq!(downs(&gateway), 0, "{version}");
    }
}

/// More than the line carries in the time of an acknowledgement, in many messages.
#[test]
fn a_backlog_that_takes_longer_than_an_acknowledgement_may() {
    let remote = Mosquitto::start();
    let line = Proxy::start_thin(remote.port, 100_000);
    let gateway = Gateway::start(&bridge("up", line.port, &RULES));
    gateway.wait("bridge_up");
    let far = Collector::start(remote.port, "far", "up/#");
    let mut client = Connect::v5("client").open(gateway.port);
    for _ in 0..50 {
        client.publish_without_waiting(&Message::new("up/t", vec![b'x'; 8000]).qos(1));
    }
    far.wait_count(50);
    assert_eq!((downs(&gateway), far.messages().len()), (0, 50));
}

/// The acknowledgement of a small message lies behind a large one that is coming in.
#[test]
fn an_acknowledgement_behind_a_message_that_comes_slowly() {
    let remote = Mosquitto::start();
    let line = Proxy::start_thin(remote.port, 10_000);
    let gateway = Gateway::start(&bridge("up", line.port, &RULES));
    gateway.wait("bridge_up");
    let mut near = Connect::v5("near").open(gateway.port);
    near.subscribe(&[("down/#", 1)]);
    let far = Collector::start(remote.port, "far", "up/#");
    remote.wait_line("Sending SUBACK to gw-up");
    let mut source = Connect::v5("source").open(remote.port);
    assert_eq!(source.publish(&Message::new("down/large", vec![b'y'; 50_000]).qos(1)), 0);
    assert_eq!(near.publish(&Message::new("up/small", "now").qos(1)), 0);
    far.wait_count(1);
    assert_eq!(near.next().payload.len(), 50_000);
    assert_eq!(downs(&gateway), 0);
}

/// The line dies in the middle of a large message.
#[test]
fn a_line_that_stops_moving_is_noticed() {
    let remote = Mosquitto::start();
    let line = Proxy::start_thin(remote.port, 10_000);
    let gateway = Gateway::start(&bridge("up", line.port, &RULES));
    gateway.wait("bridge_up");
    let far = Collector::start(remote.port, "far", "up/#");
    let mut client = Connect::v5("client").open(gateway.port);
    client.publish_without_waiting(&Message::new("up/large", vec![b'x'; 20_000]).qos(1));
    client.publish_without_waiting(&Message::new("up/small", "0").qos(1));
    line.set(Mode::BlackHole);
    let down = gateway.wait("bridge_down");
    let reason = down.text("reason");
    assert!(["ack_timeout", "keepalive_timeout"].contains(&reason), "{}", down.line);
    line.set(Mode::Pass);
    far.wait_count(2);
}
