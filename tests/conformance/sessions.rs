//! How long a session lives.

use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, Connect, Message, PUBACK, PUBREC, Packet, SESSION_EXPIRY, properties,
};

fn expiry(seconds: u32) -> wire::Property {
    (SESSION_EXPIRY, seconds.to_be_bytes().to_vec())
}

fn lasting(id: &str, seconds: u32) -> Connect {
    Connect { clean: false, ..Connect::v5(id) }.property(expiry(seconds))
}

/// DISCONNECT with a Session Expiry Interval.
fn goodbye(seconds: u32) -> Vec<u8> {
    wire::packet(0xE0, &[&[0][..], &properties(&[expiry(seconds)])].concat())
}

#[test]
fn a_goodbye_may_change_how_long_a_session_lasts_and_never_make_one_last() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    // From nothing to something: a protocol error, and the end is no goodbye.
    let mut client = lasting("client", 0).will(Message::new("will", "gone")).open(gateway.port);
    match client.reaction(&goodbye(10)) {
        Some(Packet::Disconnect { code }) => assert_eq!(code, 0x82),
        said => panic!("{said:?}"),
    }
    assert_eq!(watcher.next().text(), "gone");
    assert!(!lasting("client", 1000).open(gateway.port).connack.session_present);
    // Shorter, unchanged, longer.
    for seconds in [1000, 500, 2000] {
        let mut client = lasting("client", 1000).open(gateway.port);
        client.subscribe(&[("t", 1)]);
        client.send(&goodbye(seconds));
        assert!(client.wait_closed().is_empty());
        assert!(lasting("client", 1000).open(gateway.port).connack.session_present);
    }
    let mut client = lasting("client", 1000).open(gateway.port);
    client.send(&goodbye(0));
    client.wait_closed();
    assert!(!lasting("client", 1000).open(gateway.port).connack.session_present);
    let mut client = lasting("client", 1000).open(gateway.port);
    client.subscribe(&[("t", 1)]);
    client.send(&goodbye(1));
    client.wait_closed();
    gateway.wait_stats("the session has ended", |stats| stats.number("sessions") == 1);
    assert!(!lasting("client", 1000).open(gateway.port).connack.session_present);
}

#[test]
fn a_session_does_not_end_while_its_client_is_there() {
    let gateway = Gateway::start("");
    let mut client = lasting("client", 1).open(gateway.port);
    client.subscribe(&[("t", 1)]);
    // Longer than it would live without its client, by the gateway's own clock.
    for _ in 0..3 {
        gateway.wait_stats("time passes", |_| true);
        client.ping();
    }
    client.publish(&Message::new("t", "still here").qos(1));
    assert_eq!(client.next().text(), "still here");
    client.vanish();
    assert!(lasting("client", 1).open(gateway.port).connack.session_present);
}

#[test]
fn a_new_session_knows_nothing_of_the_one_before() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").persistent().open(gateway.port);
        client.subscribe(&[("t", 2)]);
        client.acknowledges = false;
        publisher.publish(&Message::new("t", "in flight").qos(2));
        let id = client.next().id;
        publisher.publish(&Message::new("t", "queued").qos(1));
        // An exchange of its own that is half done.
        let half = Message { id: 9, ..Message::new("u", "half").qos(2) };
        client.send(&half.bytes(level));
        client.wait_ack(PUBREC, 9);
        client.vanish();
        let mut client = Connect::new(level, "client").open(gateway.port);
        assert!(!client.connack.session_present);
        client.subscribe(&[("u", 1)]);
        // Its identifier 9 is a new message, and nothing of the old session comes.
        client.send(&half.bytes(level));
        client.wait_ack(PUBREC, 9);
        let message = client.next();
        assert_eq!((message.text(), message.dup), ("half".to_owned(), false));
        client.send(&wire::ack(PUBREC, id));
        client.publish(&Message::new("u", "last").qos(1));
        assert_eq!(client.until("last"), []);
        client.disconnect();
    }
}

#[test]
fn an_acknowledgement_of_nothing_harms_nobody() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        for kind in [PUBACK, wire::PUBCOMP] {
            assert!(matches!(client.reaction(&wire::ack(kind, 77)), Some(Packet::Pingresp)));
        }
        let code = if level == 5 { 0x92 } else { 0 };
        client.send(&wire::ack(wire::PUBREL, 77));
        assert_eq!(client.wait_ack(wire::PUBCOMP, 77).code, code, "version {level}");
        client.send(&wire::ack(PUBREC, 77));
        assert_eq!(client.wait_ack(wire::PUBREL, 77).code, code, "version {level}");
    }
}
