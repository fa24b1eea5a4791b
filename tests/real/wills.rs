//! Wills of local clients: sent when a connection breaks, not when it ends well.

use crate::common::gateway::Gateway;
use crate::common::wire::{self, Connect, Message, WILL_DELAY, user_property};
use std::time::{Duration, Instant};

fn will() -> Message {
    Message::new("will", "gone").qos(1)
}

#[test]
fn a_broken_connection_sends_the_will_and_a_goodbye_does_not() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 2), ("other", 2)]);
    for level in [4, 5] {
        let connect = Connect::new(level, "client").will(will());
        connect.open(gateway.port).disconnect();
        watcher.publish(&Message::new("other", "last").qos(1));
        assert_eq!(watcher.until("last"), [], "version {level}");
        connect.open(gateway.port).vanish();
        let message = watcher.next();
        assert_eq!((message.text(), message.qos, message.retain), ("gone".to_owned(), 1, false));
    }
}

#[test]
fn a_goodbye_with_will_sends_it() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 2)]);
    let will = will().property(user_property("why", "maintenance"));
    let mut client = Connect::v5("client").will(will.clone()).open(gateway.port);
    client.send(&wire::packet(0xE0, &[0x04, 0]));
    assert_eq!(watcher.next().properties, will.properties);
}

#[test]
fn a_protocol_error_sends_the_will() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 2)]);
    let mut client = Connect::v4("client").will(will()).open(gateway.port);
    client.send(&[0x00, 0x00]);
    client.wait_closed();
    assert_eq!(watcher.next().text(), "gone");
}

#[test]
fn a_retained_will_stays() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    Connect::v4("client").will(will().retained()).open(gateway.port).vanish();
    assert_eq!(watcher.next().text(), "gone");
    let mut late = Connect::v4("late").open(gateway.port);
    late.subscribe(&[("will", 1)]);
    let message = late.next();
    assert_eq!((message.text(), message.retain), ("gone".to_owned(), true));
}

#[test]
fn silence_beyond_the_keepalive_sends_the_will() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    let connect = Connect::v4("client").keepalive(1).will(will());
    let before = Instant::now();
    let mut client = connect.open(gateway.port);
    assert_eq!(watcher.next().text(), "gone");
    assert!(before.elapsed() >= Duration::from_millis(1400), "{:?}", before.elapsed());
    client.wait_closed();
}

#[test]
fn a_delayed_will_waits_and_a_return_calls_it_off() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1), ("other", 1)]);
    let delay = |seconds: u32| (WILL_DELAY, seconds.to_be_bytes().to_vec());
    let connect =
        |seconds| Connect::v5("client").persistent().will(will().property(delay(seconds)));
    // Back within the delay: nothing is sent, now or later.
    let mut client = connect(1).open(gateway.port);
    client.ping();
    client.vanish();
    gateway.wait_with("client_disconnected", &[("client", "client")]);
    let before = Instant::now();
    let back = connect(2).open(gateway.port);
    assert!(back.connack.session_present);
    back.vanish();
    let message = watcher.next();
    assert_eq!(message.text(), "gone");
    assert!(before.elapsed() >= Duration::from_millis(1900), "{:?}", before.elapsed());
    watcher.publish(&Message::new("other", "last").qos(1));
    assert_eq!(watcher.until("last"), []);
}

#[test]
fn a_take_over_sends_the_will_of_the_connection_that_was_taken() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    let mut first = Connect::v4("client").will(will()).open(gateway.port);
    let _second = Connect::v4("client").open(gateway.port);
    first.wait_closed();
    assert_eq!(watcher.next().text(), "gone");
}
