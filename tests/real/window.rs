//! What the remote can take is its word: Receive Maximum, packet size, QoS, retain; and what it
//! refuses does not stop the rest.

use crate::common::client::Client;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wire::{
    self, Ack, Connect, MAXIMUM_PACKET_SIZE, MAXIMUM_QOS, Message, PUBACK, PUBREC, PUBREL, Packet,
    Property, RECEIVE_MAXIMUM, RETAIN_AVAILABLE, ack_with, numbered_plan,
};
use crate::common::{collector::Collector, number_of};
use std::time::Duration;

/// A remote that greets with these properties and then leaves PUBLISHes without an answer, but
/// everything else is answered.
fn mute(properties: Vec<Property>) -> Stub {
    Stub::start(move |session, _| {
        session.greet(false, 0, &properties)?;
        loop {
            match session.read()? {
                Packet::Publish(_) => {}
                packet => session.answer(&packet)?,
            }
        }
    })
}

fn serving(properties: Vec<Property>) -> Stub {
    Stub::start(move |session, _| {
        session.greet(false, 0, &properties)?;
        session.serve()
    })
}

/// Waits for two PINGREQs that came after `count` PUBLISHes, and for nothing else after them.
fn only(remote: &Stub, count: usize) {
    remote.wait_published(count);
    remote.wait("two pings after the window is full", |seen| {
        let from = seen.iter().rposition(|seen| matches!(seen, Seen::Publish(_))).unwrap_or(0);
        seen[from..].iter().filter(|seen| matches!(seen, Seen::Ping)).count() >= 2
    });
    assert_eq!(remote.published().len(), count);
}

fn flood(gateway: &Gateway, qos: u8, count: u16) -> Client {
    let mut client = Connect::v4("flood").open(gateway.port);
    for n in 0..count {
        client.publish_without_waiting(&Message::new("t", n.to_string()).qos(qos));
    }
    client
}

#[test]
fn the_remotes_receive_maximum_is_never_exceeded() {
    for qos in [1, 2] {
        let remote = mute(vec![(RECEIVE_MAXIMUM, vec![0, 3])]);
        let rules = ["forward.1.local_topic = t", "keepalive = 1s"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        assert_eq!(gateway.wait("bridge_up").number("receive_maximum"), 3);
        let _client = flood(&gateway, qos, 20);
        only(&remote, 3);
    }
}

#[test]
fn max_inflight_bounds_a_remote_that_says_nothing() {
    let remote = mute(vec![]);
    let rules =
        ["forward.1.local_topic = t", "keepalive = 1s", "max_inflight = 4", "proto_ver = 4"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let _client = flood(&gateway, 1, 20);
    only(&remote, 4);
}

#[test]
fn qos_0_does_not_wait_for_the_window() {
    let remote = mute(vec![(RECEIVE_MAXIMUM, vec![0, 1])]);
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
    gateway.wait("bridge_up");
    let mut client = flood(&gateway, 1, 3);
    remote.wait_published(1);
    client.publish(&Message::new("t", "at once"));
    let published = remote.wait_published(2);
    assert_eq!(published[1].text(), "at once");
}

#[test]
fn each_acknowledgement_opens_the_window_by_one_at_once() {
    // Acknowledges a PUBLISH when the next one is there, so that two are always under way.
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[(RECEIVE_MAXIMUM, vec![0, 2])])?;
        let mut last = None;
        loop {
            match session.read()? {
                Packet::Publish(message) => {
                    if let Some(id) = last.replace(message.id) {
                        session.send(&wire::ack(PUBACK, id))?;
                    }
                }
                packet => session.answer(&packet)?,
            }
        }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
    let _client = flood(&gateway, 1, 50);
    let published = remote.wait_published(50);
    let numbers: Vec<usize> = published.iter().map(|m| number_of(&m.payload)).collect();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
}

#[test]
fn packet_identifiers_in_use_are_not_used_again() {
    // Never completes the first QoS 2 exchange and serves everything else.
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        let mut stuck = None;
        loop {
            match session.read()? {
                Packet::Publish(message) if message.qos == 2 && stuck.is_none() => {
                    stuck = Some(message.id);
                    session.send(&wire::ack(PUBREC, message.id))?;
                }
                Packet::Ack(Ack { kind: PUBREL, id, .. }) if stuck == Some(id) => {}
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = ["forward.1.local_topic = t", "ack_timeout = 1h"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish_without_waiting(&Message::new("t", "stuck").qos(2));
    let stuck = remote.wait_published(1)[0].id;
    // Once around all identifiers and more.
    let plan = numbered_plan("t", 1, 70_000);
    Publisher::new(Connect::v4("publisher"), 60, plan).run(gateway.port);
    let published = remote.wait_published(70_001);
    assert!(published[1..].iter().all(|message| message.id != stuck && message.id != 0));
}

/// 300 numbered messages to a mosquitto with this configuration; how many came twice.
fn through_mosquitto(configuration: &str, version: &str, qos: u8) -> usize {
    let remote = Mosquitto::start_with(configuration);
    let far = Collector::start(remote.port, "far", "t");
    let proto = format!("proto_ver = {version}");
    let rules = ["forward.1.local_topic = t", &proto];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    Publisher::numbered("publisher", "t", qos, 300).run(gateway.port);
    far.wait_all_in_order(300)
}

#[test]
fn a_mosquitto_with_a_small_window_gets_everything_in_order() {
    for (version, qos) in [("5", 1), ("5", 2), ("4", 1)] {
        let again = through_mosquitto("max_inflight_messages 3\n", version, qos);
        assert_eq!(again, 0, "duplicates in version {version} at QoS {qos}");
    }
}

#[test]
fn a_3_1_1_mosquitto_that_cannot_say_its_window_gets_a_burst_at_qos_2() {
    // mosquitto 2 takes 20 at once unless told otherwise, and closes the connection at one more.
    assert_eq!(through_mosquitto("", "4", 2), 0, "duplicates at QoS 2");
}

/// With more than its `max_inflight_messages` on the wire a mosquitto acknowledges messages that it
/// never passes on, or passes on out of order, as soon as its subscriber does not keep up.
#[test]
fn a_3_1_1_mosquitto_as_it_is_out_of_the_package_passes_everything_on_in_order() {
    const COUNT: usize = 3000;
    for qos in [1, 2] {
        let remote = Mosquitto::start();
        // Its subscriber is far away; the bridge is not.
        let way = Proxy::start(remote.port);
        way.delay(Duration::from_millis(2));
        let far = Collector::start(way.port, "far", "t/#");
        let rules = ["forward.1.local_topic = t/#", "proto_ver = 4"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        assert_eq!(gateway.wait("bridge_up").number("receive_maximum"), 20);
        Publisher::numbered("publisher", "t/1", qos, COUNT).run(gateway.port);
        assert_eq!(far.wait_all_in_order(COUNT), 0, "duplicates at QoS {qos}");
    }
}

#[test]
fn the_window_before_mqtt_5_is_what_a_mosquitto_takes_unless_another_is_asked_for() {
    let windows = [("4", None, 20), ("3", None, 20), ("5", None, 64), ("4", Some(50), 50)];
    for (version, asked, window) in windows {
        let remote = mute(vec![]);
        let version = format!("proto_ver = {version}");
        let asked = asked.map(|window| format!("max_inflight = {window}"));
        let mut rules = vec!["forward.1.local_topic = t", "keepalive = 1s", &version];
        rules.extend(asked.as_deref());
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        assert_eq!(gateway.wait("bridge_up").number("receive_maximum"), window);
        let _client = flood(&gateway, 1, 80);
        only(&remote, usize::try_from(window).expect("small"));
    }
}

#[test]
fn what_the_remote_cannot_do_is_bent() {
    let remote = serving(vec![(MAXIMUM_QOS, vec![1]), (RETAIN_AVAILABLE, vec![0])]);
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish(&Message::new("t", "x").qos(2).retained());
    let there = remote.wait_published(1).remove(0);
    assert_eq!((there.qos, there.retain), (1, false));
}

#[test]
fn a_message_too_large_for_the_remote_is_put_aside_and_counted() {
    let remote = serving(vec![(MAXIMUM_PACKET_SIZE, vec![0, 0, 2, 0])]);
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    for text in ["before", &"x".repeat(600), "after"] {
        assert_eq!(client.publish(&Message::new("t", text).qos(1)), 0);
    }
    let texts: Vec<String> = remote.wait_published(2).iter().map(Message::text).collect();
    assert_eq!(texts, ["before", "after"]);
    let aside = gateway.wait("quarantined");
    assert_eq!((aside.text("reason"), aside.number("count")), ("packet_too_large", 1));
    assert_eq!((aside.text("topic"), aside.number("limit")), ("t", 512));
    assert!(aside.number("size") > 600);
}

/// Refuses messages that say `bad` with `code`, as MQTT 5 lets a server.
fn refusing(code: u8) -> Stub {
    Stub::start(move |session: &mut Session, _| {
        session.greet(false, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(message) if message.payload == b"bad" => {
                    let kind = if message.qos == 2 { PUBREC } else { PUBACK };
                    session.send(&ack_with(kind, message.id, Some(code)))?;
                }
                packet => session.answer(&packet)?,
            }
        }
    })
}

#[test]
fn a_message_the_remote_refuses_for_good_is_quarantined_and_the_rest_goes_on() {
    for code in [0x87, 0x90, 0x95, 0x99] {
        let remote = refusing(code);
        let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
        gateway.wait("bridge_up");
        let mut client = Connect::v5("client").open(gateway.port);
        for (qos, text) in [(1, "bad"), (2, "bad"), (1, "good"), (2, "good")] {
            assert_eq!(client.publish(&Message::new("t", text).qos(qos)), 0);
        }
        remote.wait("both good ones", |seen| {
            let good = |seen: &&Seen| matches!(seen, Seen::Publish(m) if m.payload == b"good");
            seen.iter().filter(good).count() == 2
        });
        gateway.wait("quarantined");
        let bad = remote.published().iter().filter(|m| m.payload == b"bad").count();
        assert_eq!(bad, 2, "each refused once with {code:#x}");
    }
}

#[test]
fn a_connection_the_remote_closes_over_one_message_goes_on_without_it() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(message) if message.payload == b"bad" => return Ok(()),
                packet => session.answer(&packet)?,
            }
        }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v5("client").open(gateway.port);
    for text in ["1", "bad", "2", "3"] {
        assert_eq!(client.publish(&Message::new("t", text).qos(1)), 0);
    }
    for text in ["1", "2", "3"] {
        remote.wait(text, |seen| {
            seen.iter().any(|s| matches!(s, Seen::Publish(m) if m.text() == text))
        });
    }
    gateway.wait("quarantined");
}

#[test]
fn a_remote_that_ignores_our_receive_maximum_is_taken_at_our_pace() {
    // More than anybody may have under way, parked behind a bridge that cannot take it.
    let remote = Stub::start(|session, number| {
        let connect = session.greet(false, 0, &[])?;
        let maximum = wire::find(&connect.properties, RECEIVE_MAXIMUM);
        let maximum = maximum.map_or(65_535, |two| u16::from_be_bytes([two[0], two[1]]));
        loop {
            let packet = session.read()?;
            session.answer(&packet)?;
            if number == 0 && matches!(packet, Packet::Subscribe { .. }) {
                for id in 1..=maximum.saturating_add(200) {
                    let message = Message { id, ..Message::new("in/a", "flood").qos(2) };
                    session.send(&message.bytes(5))?;
                }
            }
        }
    });
    let rules = ["subscribe.1.remote_topic = in/#", "subscribe.1.qos = 2"];
    let mut gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let near = Connect::v4("near").persistent();
    near.open(gateway.port).subscribe(&[("in/#", 2)]);
    let limit: u64 = 64;
    gateway.wait_stats("everything taken", |stats| stats.number("recv_msgs") == limit + 200);
    assert!(!gateway.events().iter().any(|event| event.is("bridge_down", &[])));
    assert!(gateway.is_running());
}

/// Without a limit of its own mosquitto sends what waited for a session all at once, whatever
/// Receive Maximum the returning client announces.
#[test]
fn a_remote_that_sends_more_than_it_was_told_is_not_turned_away() {
    for level in [4, 5] {
        let remote = Mosquitto::start_with("max_inflight_messages 0\nmax_queued_messages 0\n");
        let link = Proxy::start(remote.port);
        let rules = [
            &format!("proto_ver = {level}"),
            "subscribe.1.remote_topic = down",
            "subscribe.1.qos = 2",
            "clientid = the-bridge",
        ];
        let text =
            format!("limit.inflight = 16\n{ROOMY_SESSIONS}{}", bridge("up", link.port, &rules));
        let gateway = Gateway::start(&text);
        let near = Collector::start(gateway.port, "near", "down");
        gateway.wait("bridge_up");
        remote.wait_line("Sending SUBACK to the-bridge");
        link.set(Mode::Refuse);
        gateway.wait("bridge_down");
        Publisher::numbered("publisher", "down", 2, 2000).run(remote.port);
        link.set(Mode::Pass);
        assert_eq!(near.wait_all_in_order(2000), 0, "{level}");
    }
}
