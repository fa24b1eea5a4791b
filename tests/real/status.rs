//! How a bridge shows itself: notify topic, will, refused subscriptions.

use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::stub::{Seen, Stub};
use crate::common::wire::{Connect, MAXIMUM_PACKET_SIZE, Message, Packet};

#[test]
fn the_notify_topic_tells_both_ends_whether_the_bridge_is_up() {
    let remote = Mosquitto::start();
    let link = Proxy::start(remote.port);
    let rules = ["notify_topic = bridges/up", "keepalive = 2s"];
    let mut gateway = Gateway::start(&bridge("up", link.port, &rules));
    gateway.wait("bridge_up");
    let mut near = Connect::v4("near").open(gateway.port);
    let mut far = Connect::v4("far").open(remote.port);
    near.subscribe(&[("bridges/#", 1)]);
    far.subscribe(&[("bridges/#", 1)]);
    let message = near.next();
    assert_eq!((message.topic.as_str(), message.text()), ("bridges/up", "1".to_owned()));
    assert_eq!(far.next().text(), "1");
    link.set(Mode::Reset);
    assert_eq!(near.next().text(), "0");
    assert_eq!(far.next().text(), "0");
    link.set(Mode::Pass);
    assert_eq!(near.next().text(), "1");
    assert_eq!(far.next().text(), "1");
    // Retained at both ends.
    for port in [gateway.port, remote.port] {
        let mut late = Connect::v4("late").open(port);
        late.subscribe(&[("bridges/#", 1)]);
        let message = late.next();
        assert_eq!((message.text(), message.retain), ("1".to_owned(), true));
    }
    gateway.kill();
    assert_eq!(far.next().text(), "0");
    gateway.run();
    assert_eq!(far.next().text(), "1");
    // A clean stop sends no will, so it says it itself.
    gateway.stop();
    assert_eq!(far.next().text(), "0");
}

#[test]
fn the_notify_topic_is_0_at_home_before_the_first_connection() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let rules = ["notify_topic = bridges/up"];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    gateway.wait("bridge_down");
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("bridges/#", 1)]);
    assert_eq!(near.next().text(), "0");
}

#[test]
fn the_notify_topic_is_true_at_home_while_the_ring_is_full() {
    let remote = Mosquitto::start();
    let away = Proxy::start_in(Mode::Refuse, remote.port);
    let link = Proxy::start(remote.port);
    let full = bridge("full", away.port, &["forward.1.local_topic = full/#"]);
    let up = bridge("up", link.port, &["notify_topic = bridges/up"]);
    let ring = "store.path = none\nring.messages = 64\n";
    let gateway = Gateway::start(&format!("{ring}{full}{up}"));
    gateway.wait_with("bridge_up", &[("bridge", "up")]);
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("bridges/#", 1)]);
    assert_eq!(near.next().text(), "1");
    let mut client = Connect::v4("client").open(gateway.port);
    for number in 0..100 {
        let message = Message::new("full/x", number.to_string()).qos(1);
        client.publish_without_waiting(&message);
    }
    gateway.wait("backpressure_on");
    for round in 0..3 {
        let mark = gateway.mark();
        link.set(Mode::Reset);
        assert_eq!(near.next().text(), "0", "{round}");
        let mut late = Connect::v4("late").open(gateway.port);
        late.subscribe(&[("bridges/#", 1)]);
        assert_eq!(late.next().text(), "0", "{round}");
        link.set(Mode::Pass);
        gateway.wait_from(mark, "bridge_up", &[("bridge", "up")]);
        assert_eq!(near.next().text(), "1", "{round}");
    }
    assert_eq!(gateway.dropped("queue_full"), 0);
}

#[test]
fn after_a_stop_nothing_at_home_says_that_a_bridge_is_up() {
    let remote = Mosquitto::start();
    let mut gateway = Gateway::start(&bridge("up", remote.port, &["notify_topic = bridges/up"]));
    gateway.wait("bridge_up");
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("bridges/#", 1)]);
    assert_eq!(near.next().text(), "1");
    gateway.stop();
    // Nobody would say so from here on.
    gateway.configure("");
    gateway.run();
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("bridges/#", 1)]);
    assert_eq!(near.next().text(), "0");
}

#[test]
fn the_will_is_the_remotes_when_the_gateway_dies() {
    let remote = Mosquitto::start();
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("routers/#", 2)]);
    for version in ["proto_ver = 4", "proto_ver = 5"] {
        let rules = [
            "forward.1.local_topic = a",
            "will.topic = routers/7",
            "will.payload = gone",
            "will.qos = 1",
            version,
        ];
        let mut gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        gateway.kill();
        let message = far.next();
        assert_eq!((message.topic.as_str(), message.text()), ("routers/7", "gone".to_owned()));
    }
}

/// Answers subscriptions to topics that begin with `secret` with `code`.
fn refusing(level: u8, code: u8) -> Stub {
    Stub::start(move |session, _| {
        let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
        if connect.level != level {
            return session.send(&[0x20, 2, 0, 1]);
        }
        session.send(if level == 5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] })?;
        loop {
            match session.read()? {
                Packet::Subscribe { id, filters, .. } => {
                    let granted = |(filter, _): &(String, u8)| {
                        if filter.starts_with("secret") { code } else { 1 }
                    };
                    let codes: Vec<u8> = filters.iter().map(granted).collect();
                    session.suback(id, &codes)?;
                }
                packet => session.answer(&packet)?,
            }
        }
    })
}

#[test]
fn a_refused_subscription_is_named_and_the_rest_of_the_bridge_works() {
    for (level, code) in [(5, 0x87), (4, 0x80)] {
        let remote = refusing(level, code);
        let rules = [
            "subscribe.1.remote_topic = secret/#",
            "subscribe.2.remote_topic = open/#",
            "forward.1.local_topic = #",
        ];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        let refused = gateway.wait("subscribe_refused");
        assert_eq!(refused.text("filter"), "secret/#");
        assert_eq!(refused.number("code"), u64::from(code));
        assert!(refused.number("retry_in_ms") > 0);
        let mut near = Connect::v4("near").open(gateway.port);
        assert_eq!(near.publish(&Message::new("a", "x").qos(1)), 0);
        remote.wait_published(1);
        assert!(gateway.events().iter().all(|event| event.name != "bridge_down" || level == 4));
    }
}

#[test]
fn a_subscription_larger_than_the_remote_takes_is_named_and_the_others_are_made() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[(MAXIMUM_PACKET_SIZE, 40_u32.to_be_bytes().to_vec())])?;
        session.serve()
    });
    let long = format!("subscribe.1.remote_topic = {}/#", "long".repeat(10));
    let gateway =
        Gateway::start(&bridge("up", remote.port, &[&long, "subscribe.2.remote_topic = short/#"]));
    let refused = gateway.wait("subscribe_refused");
    assert!(refused.text("filter").starts_with("longlong"), "{}", refused.line);
    assert_eq!(refused.number("code"), 0x95);
    let asked = |seen: &Seen| match seen {
        Seen::Subscribe(filters) => filters[0].0 == "short/#",
        _ => false,
    };
    remote.wait("the other subscription", |seen| seen.iter().any(asked));
    gateway.wait_bridge_stats("up", "up", |stats| stats.text("up") == "true");
}

#[test]
fn a_remote_that_forgot_the_session_is_subscribed_again() {
    // Session present on odd connections only.
    let remote = Stub::start(|session, number| {
        session.greet(number % 2 == 1, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(_) => return Ok(()),
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = ["subscribe.1.remote_topic = in/#", "forward.1.local_topic = #"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    remote.wait("a subscription", |seen| seen.iter().any(|s| matches!(s, Seen::Subscribe(_))));
    // Each PUBLISH ends a connection: the message comes back on the next one.
    let mut near = Connect::v4("near").open(gateway.port);
    near.publish(&Message::new("a", "x").qos(1));
    remote.wait("a subscription on the third connection", |seen| {
        let connects = seen.iter().enumerate().filter(|(_, s)| matches!(s, Seen::Connect(_)));
        let third = connects.map(|(at, _)| at).nth(2);
        third.is_some_and(|at| seen[at..].iter().any(|s| matches!(s, Seen::Subscribe(_))))
    });
}
