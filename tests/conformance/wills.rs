//! Wills: when they are sent, as what, and when they are not.

use crate::common::client::Client;
use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, Connect, MESSAGE_EXPIRY, Message, SESSION_EXPIRY, WILL_DELAY, find, four_bytes,
};

fn watcher(gateway: &Gateway) -> Client {
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    // Its own flag is kept, so that a retained will can be told.
    watcher.subscribe(&[("will/#", 2 | 0x08), ("last", 1)]);
    watcher
}

fn nothing_came(watcher: &mut Client) {
    watcher.publish(&Message::new("last", "last").qos(1));
    assert_eq!(watcher.until("last"), []);
}

fn seconds(id: u8, seconds: u32) -> wire::Property {
    (id, seconds.to_be_bytes().to_vec())
}

#[test]
fn a_will_is_sent_as_its_flags_say() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    for level in [3, 4, 5] {
        for qos in 0..=2 {
            for retain in [false, true] {
                let will = Message { retain, ..Message::new("will/a", "gone").qos(qos) };
                Connect::new(level, "client").will(will).open(gateway.port).vanish();
                let message = watcher.next();
                assert_eq!((message.qos, message.retain), (qos, retain), "version {level}");
                let mut late = Connect::v4("late").open(gateway.port);
                late.subscribe(&[("will/a", 0), ("last", 1)]);
                late.publish(&Message::new("last", "last").qos(1));
                assert_eq!(watcher.next().text(), "last");
                let kept = late.until("last");
                assert_eq!(kept.len(), usize::from(retain), "version {level} qos {qos}");
                late.publish(&Message::new("will/a", "").qos(1).retained());
                assert_eq!(watcher.next().text(), "");
                late.disconnect();
            }
        }
    }
}

#[test]
fn a_disconnect_with_any_code_but_0_sends_the_will() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    for code in [0x04, 0x80, 0x81, 0x83, 0x93, 0x98] {
        let will = Message::new("will/a", format!("{code:x}")).qos(1);
        let mut client = Connect::v5("client").will(will).open(gateway.port);
        client.send(&wire::packet(0xE0, &[code, 0]));
        client.wait_closed();
        assert_eq!(watcher.next().text(), format!("{code:x}"));
    }
    let connect = Connect::v5("client").will(Message::new("will/a", "unwanted").qos(1));
    for goodbye in [&[][..], &[0], &[0, 0]] {
        let mut client = connect.open(gateway.port);
        client.send(&wire::packet(0xE0, goodbye));
        client.wait_closed();
    }
    nothing_came(&mut watcher);
}

#[test]
fn a_will_that_was_sent_or_called_off_is_gone() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    let with = Connect::v5("client").persistent().will(Message::new("will/a", "gone").qos(1));
    let without = Connect::v5("client").persistent();
    with.open(gateway.port).vanish();
    assert_eq!(watcher.next().text(), "gone");
    // The session goes on without it, and so it does after a goodbye.
    without.open(gateway.port).vanish();
    with.open(gateway.port).disconnect();
    without.open(gateway.port).vanish();
    gateway.wait_stats("only the watcher", |stats| stats.number("clients") == 1);
    nothing_came(&mut watcher);
}

#[test]
fn the_end_of_a_session_sends_a_will_that_was_to_wait_longer() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    let will =
        |text: &str| Message::new("will/a", text).qos(1).property(seconds(WILL_DELAY, 100_000));
    let lasting = |text: &str, expiry| {
        Connect { clean: false, ..Connect::v5("client") }
            .property(seconds(SESSION_EXPIRY, expiry))
            .will(will(text))
    };
    lasting("expired", 1).open(gateway.port).vanish();
    assert_eq!(watcher.next().text(), "expired");
    // A session that ends with its connection.
    lasting("at once", 0).open(gateway.port).vanish();
    assert_eq!(watcher.next().text(), "at once");
    // One that a goodbye shortens.
    let mut client = lasting("shortened", 1000).open(gateway.port);
    let list = wire::properties(&[seconds(SESSION_EXPIRY, 0)]);
    client.send(&wire::packet(0xE0, &[&[0x04][..], &list].concat()));
    client.wait_closed();
    assert_eq!(watcher.next().text(), "shortened");
    // One that is thrown away for a new one.
    lasting("thrown away", 1000).open(gateway.port).vanish();
    gateway.wait_stats("only the watcher", |stats| stats.number("clients") == 1);
    Connect::v5("client").open(gateway.port).ping();
    assert_eq!(watcher.next().text(), "thrown away");
}

#[test]
fn a_take_over_within_the_delay_sends_no_will() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    let delayed = Message::new("will/a", "unwanted").qos(1).property(seconds(WILL_DELAY, 1));
    let mut first = Connect::v5("client").persistent().will(delayed).open(gateway.port);
    first.ping();
    let mut second = Connect::v5("client").persistent().open(gateway.port);
    first.wait_closed();
    // Longer than the delay, by the gateway's own clock.
    for _ in 0..3 {
        gateway.wait_stats("time passes", |_| true);
    }
    second.ping();
    nothing_came(&mut watcher);
}

#[test]
fn a_will_has_the_properties_of_its_message() {
    let gateway = Gateway::start("");
    let mut watcher = watcher(&gateway);
    let own = vec![
        wire::user_property("b", "2"),
        wire::user_property("a", "1"),
        wire::user_property("b", "2"),
        (wire::CONTENT_TYPE, wire::prefixed(b"text/plain")),
        (wire::RESPONSE_TOPIC, wire::prefixed(b"answers")),
        (wire::CORRELATION_DATA, wire::prefixed(&[0, 255])),
        (wire::PAYLOAD_FORMAT, vec![1]),
    ];
    let mut will = Message { properties: own.clone(), ..Message::new("will/a", "gone").qos(1) };
    will.properties.push(seconds(WILL_DELAY, 0));
    will.properties.push(seconds(MESSAGE_EXPIRY, 1000));
    Connect::v5("client").will(will).open(gateway.port).vanish();
    let mut got = watcher.next().properties;
    let expiry = find(&got, MESSAGE_EXPIRY).map(four_bytes).expect("an expiry");
    assert!((900..=1000).contains(&expiry), "{expiry}");
    got.retain(|(id, _)| *id != MESSAGE_EXPIRY);
    assert_eq!(got, own);
}
