//! Sessions of local clients: take-over, keepalive, what waits for an absent client.

use crate::common::collector::Collector;
use crate::common::gateway::Gateway;
use crate::common::publisher::Publisher;
use crate::common::wire::{
    self, ASSIGNED_CLIENT_ID, Ack, Connect, Message, PUBCOMP, PUBREC, PUBREL, Packet,
    RECEIVE_MAXIMUM, SERVER_KEEPALIVE, SESSION_EXPIRY, find,
};
use std::time::{Duration, Instant};

fn disconnect_code(packets: &[Packet]) -> Option<u8> {
    packets.iter().find_map(|packet| match packet {
        Packet::Disconnect { code } => Some(*code),
        _ => None,
    })
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let connect = Connect::new(level, &format!("client-{level}")).persistent();
        let mut first = connect.open(gateway.port);
        assert!(!first.connack.session_present);
        first.subscribe(&[("t", 1)]);
        let mut second = connect.open(gateway.port);
        assert!(second.connack.session_present);
        let code = disconnect_code(&first.wait_closed());
        assert_eq!(code, if level == 5 { Some(0x8E) } else { None });
        second.publish(&Message::new("t", "x").qos(1));
        assert_eq!(second.next().text(), "x");
    }
}

#[test]
fn silence_beyond_the_keepalive_ends_the_connection_and_pings_keep_it() {
    let gateway = Gateway::start("");
    // Before its CONNECT: on a slow machine it may be silent for a while when the next is let in.
    let before = Instant::now();
    let mut idle = Connect::v5("idle").keepalive(1).open(gateway.port);
    let mut alive = Connect::v5("alive").keepalive(1).open(gateway.port);
    // Half of one and a half keepalives between two pings, until the idle one is thrown out.
    let code = loop {
        alive.ping();
        match idle.wire.read(Duration::from_millis(700)) {
            Ok(Packet::Disconnect { code }) => break code,
            Ok(packet) => panic!("{packet:?}"),
            Err(_) => assert!(before.elapsed() < Duration::from_secs(10), "still there"),
        }
    };
    assert_eq!(code, 0x8D);
    assert!(before.elapsed() >= Duration::from_millis(1400), "{:?}", before.elapsed());
    alive.ping();
    gateway.wait_with("client_disconnected", &[("client", "idle")]);
}

#[test]
fn the_longest_keepalive_is_the_servers_word() {
    let gateway = Gateway::start("limit.keepalive_max = 30s");
    let client = Connect::v5("client").keepalive(600).open(gateway.port);
    assert_eq!(find(&client.connack.properties, SERVER_KEEPALIVE), Some(&[0, 30][..]));
}

#[test]
fn what_an_absent_session_missed_waits_and_a_clean_one_missed_it() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let kept = Connect::new(level, &format!("kept-{level}")).persistent();
        let clean = Connect::new(level, &format!("clean-{level}"));
        for connect in [&kept, &clean] {
            let mut client = connect.open(gateway.port);
            client.subscribe(&[("n", 2)]);
            client.disconnect();
        }
        for n in 0..20 {
            publisher.publish(&Message::new("n", n.to_string()).qos(1 + n % 2));
        }
        let mut back = kept.open(gateway.port);
        assert!(back.connack.session_present);
        for n in 0..20 {
            let message = back.next();
            assert_eq!((message.text(), message.qos), (n.to_string(), 1 + n % 2));
        }
        let mut back = clean.open(gateway.port);
        assert!(!back.connack.session_present);
        back.subscribe(&[("n", 1)]);
        publisher.publish(&Message::new("n", "last").qos(1));
        assert_eq!(back.until("last"), []);
    }
}

#[test]
fn a_clean_start_forgets_the_session_that_was_kept() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let kept = Connect::new(level, "client").persistent();
        let mut client = kept.open(gateway.port);
        client.subscribe(&[("n", 1)]);
        client.disconnect();
        let fresh = Connect::new(level, "client").open(gateway.port);
        assert!(!fresh.connack.session_present);
        fresh.disconnect();
        assert!(!kept.open(gateway.port).connack.session_present);
        // Leave nothing for the next version.
        Connect::new(level, "client").open(gateway.port).disconnect();
    }
}

#[test]
fn a_session_ends_when_its_expiry_says() {
    let gateway = Gateway::start("session.expiry = 1s");
    let expiring = |id: &str, seconds: u32| {
        Connect { clean: false, ..Connect::v5(id) }
            .property((SESSION_EXPIRY, seconds.to_be_bytes().to_vec()))
    };
    // Zero: it ends with the connection.
    expiring("now", 0).open(gateway.port).disconnect();
    assert!(!expiring("now", 0).open(gateway.port).connack.session_present);
    // The gateway's bound is shorter than what is asked for, and it says so.
    let client = expiring("later", 3600).open(gateway.port);
    let granted = find(&client.connack.properties, SESSION_EXPIRY).map(wire::four_bytes);
    assert_eq!(granted, Some(1));
    client.disconnect();
    assert!(expiring("later", 3600).open(gateway.port).connack.session_present);
    gateway.wait_stats("no session is left", |stats| stats.number("sessions") == 0);
    assert!(!expiring("later", 3600).open(gateway.port).connack.session_present);
}

#[test]
fn an_offline_queue_outlives_kill_and_stop() {
    let mut gateway = Gateway::start("");
    let kept = Connect::v4("kept").persistent();
    let mut client = kept.open(gateway.port);
    client.subscribe(&[("n", 2)]);
    client.disconnect();
    Publisher::numbered("first", "n", 1, 300).run(gateway.port);
    gateway.kill();
    gateway.run();
    assert_eq!(gateway.stop().number("lost"), 0);
    gateway.run();
    let collector = Collector::start(gateway.port, "kept", "n");
    assert_eq!(collector.wait_all_in_order(300), 0);
}

#[test]
fn a_session_at_its_quota_loses_its_oldest_and_blocks_nobody() {
    let gateway = Gateway::start("session.max_messages = 10");
    let kept = Connect::v4("kept").persistent();
    let mut client = kept.open(gateway.port);
    client.subscribe(&[("n", 1)]);
    client.disconnect();
    Publisher::numbered("publisher", "n", 1, 25).run(gateway.port);
    gateway.wait_stats("15 drops", |stats| stats.number("drops") == 15);
    let mut back = kept.open(gateway.port);
    for n in 15..25 {
        assert_eq!(back.next().text(), n.to_string());
    }
}

/// A kept session with more than fits in RAM, before or after a restart.
fn with_backlog(filter: &str, expiry: &str, killed: bool) -> Gateway {
    let mut gateway = Gateway::start(&format!("ring.messages = 64\nsession.expiry = {expiry}"));
    let mut client = Connect::v4("kept").persistent().open(gateway.port);
    client.subscribe(&[(filter, 1)]);
    client.acknowledges = false;
    Publisher::numbered("publisher", "n", 1, 500).run(gateway.port);
    if killed {
        gateway.kill();
        gateway.run();
    }
    client.vanish();
    gateway
}

#[test]
fn what_ends_with_a_session_is_counted_wherever_it_is() {
    for (filter, killed) in [("n", false), ("n", true), ("$share/g/n", false), ("$share/g/n", true)]
    {
        for expiry in ["1s", "1h"] {
            let gateway = with_backlog(filter, expiry, killed);
            if expiry == "1h" {
                let clean = Connect::v4("kept").open(gateway.port);
                assert!(!clean.connack.session_present);
            }
            let drop = gateway.wait_with("drop", &[("reason", "session_ended")]);
            let told = (drop.text("destination"), drop.number("count"));
            assert_eq!(told, ("kept", 500), "{filter} {killed} {expiry}");
            gateway.wait_stats("nothing is left", |stats| stats.number("store_msgs") == 0);
        }
    }
}

#[test]
fn what_was_not_acknowledged_comes_again_with_dup_and_its_identifier() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let connect = Connect::new(level, &format!("client-{level}")).persistent();
        let mut client = connect.open(gateway.port);
        client.subscribe(&[("n", 2)]);
        client.acknowledges = false;
        publisher.publish(&Message::new("n", "one").qos(1));
        publisher.publish(&Message::new("n", "two").qos(2));
        let first = [client.next(), client.next()];
        assert!(first.iter().all(|message| !message.dup));
        client.vanish();
        let mut client = connect.open(gateway.port);
        for message in first {
            assert_eq!(client.next(), Message { dup: true, ..message });
        }
    }
}

#[test]
fn a_qos_2_message_is_released_once_however_often_the_client_returns() {
    let gateway = Gateway::start("");
    let connect = Connect::v4("client").persistent();
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("n", 2)]);
    client.acknowledges = false;
    client.publish_without_waiting(&Message::new("n", "x").qos(2));
    let id = client.wait("the message", |packet| match packet {
        Packet::Publish(message) => Some(message.id),
        _ => None,
    });
    client.send(&wire::ack(PUBREC, id));
    let release = |packet: &Packet| match packet {
        Packet::Publish(message) => panic!("again: {message:?}"),
        Packet::Ack(Ack { kind: PUBREL, id: released, .. }) if *released == id => Some(()),
        _ => None,
    };
    client.wait("PUBREL", release);
    client.vanish();
    let mut client = connect.open(gateway.port);
    client.acknowledges = false;
    client.wait("PUBREL again", release);
    client.send(&wire::ack(PUBCOMP, id));
    client.ping();
    client.vanish();
    let mut client = connect.open(gateway.port);
    client.acknowledges = false;
    client.send(&wire::PINGREQ);
    client.wait("only PINGRESP", |packet| match packet {
        Packet::Pingresp => Some(()),
        // Its own unfinished publish is acknowledged again.
        Packet::Ack(Ack { kind: PUBREC, .. }) => None,
        packet => panic!("{packet:?}"),
    });
}

#[test]
fn a_repeated_qos_2_publish_is_delivered_once() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("n", 2)]);
    let connect = Connect::v4("client").persistent();
    let mut client = connect.open(gateway.port);
    let message = Message { id: 7, ..Message::new("n", "once").qos(2) };
    client.send(&message.bytes(4));
    client.wait_ack(PUBREC, 7);
    client.vanish();
    let mut client = connect.open(gateway.port);
    client.send(&Message { dup: true, ..message }.bytes(4));
    client.wait_ack(PUBREC, 7);
    client.send(&wire::ack(PUBREL, 7));
    client.wait_ack(PUBCOMP, 7);
    client.publish(&Message::new("n", "last").qos(2));
    let texts: Vec<String> = watcher.until("last").iter().map(Message::text).collect();
    assert_eq!(texts, ["once"]);
}

#[test]
fn no_more_is_sent_than_a_client_can_receive() {
    let gateway = Gateway::start("");
    let two = (RECEIVE_MAXIMUM, vec![0, 2]);
    let mut client = Connect::v5("client").property(two).open(gateway.port);
    client.subscribe(&[("n", 1)]);
    client.acknowledges = false;
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    for n in 0..5 {
        publisher.publish_without_waiting(&Message::new("n", n.to_string()).qos(1));
    }
    let first = [client.next(), client.next()];
    assert_eq!(first.each_ref().map(Message::text), ["0", "1"]);
    assert_eq!(client.next_within(Duration::from_millis(500)), None);
    client.send(&wire::ack(wire::PUBACK, first[0].id));
    assert_eq!(client.next().text(), "2");
}

#[test]
fn a_client_without_a_name_is_given_one() {
    let gateway = Gateway::start("");
    let names = [0, 1].map(|_| {
        let client = Connect::v5("").open(gateway.port);
        find(&client.connack.properties, ASSIGNED_CLIENT_ID).expect("a client id").to_vec()
    });
    assert_ne!(names[0], names[1]);
    Connect::v4("").open(gateway.port).ping();
    // 3.1.1: a session that is to be kept needs a name [MQTT-3.1.3-8].
    let refused = Connect::v4("").persistent().try_open(gateway.port).expect("a CONNACK");
    assert_eq!(refused.connack.code, 2);
}
