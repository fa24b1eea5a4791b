//! A bridge at its quota: each policy does what it says, and nobody else pays for it.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{self, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet};
use std::thread;
use std::time::Duration;

struct Cut {
    far: Collector,
    link: Proxy,
    gateway: Gateway,
    _remote: Mosquitto,
}

/// A bridge whose link is down, with everything at the remote collected.
fn cut(rules: &[&str]) -> Cut {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "#");
    let rules: Vec<&str> = ["forward.1.local_topic = n"].iter().chain(rules).copied().collect();
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    gateway.wait("bridge_down");
    Cut { far, link, gateway, _remote: remote }
}

#[test]
fn block_parks_the_publish_and_goes_on_with_everything_else() {
    let cut = cut(&["max_messages = 20"]);
    let port = cut.gateway.port;
    let mut client = Connect::v4("client").keepalive(1).open(port);
    client.subscribe(&[("own", 1)]);
    for n in 0..20 {
        client.publish(&Message::new("n", n.to_string()).qos(1));
    }
    let parked: Vec<u16> = (20..23)
        .map(|n: u16| client.publish_without_waiting(&Message::new("n", n.to_string()).qos(1)))
        .collect();
    // The PINGRESP overtakes: what is before it in the stream was read and not acknowledged.
    client.send(&crate::common::wire::PINGREQ);
    match client.wire.read(crate::common::PATIENCE) {
        Ok(Packet::Pingresp) => {}
        other => panic!("{other:?} instead of a PINGRESP"),
    }
    let on = cut.gateway.wait("backpressure_on");
    assert_eq!(on.text("destination"), "up");
    // Others connect, subscribe, publish at QoS 0 and to other topics.
    let mut other = Connect::v5("other").open(port);
    other.subscribe(&[("free", 2), ("n", 2)]);
    for qos in 0..=2 {
        other.publish(&Message::new("free", qos.to_string()).qos(qos));
        assert_eq!(other.next().text(), qos.to_string());
    }
    other.publish(&Message::new("n", "best effort"));
    cut.link.set(Mode::Pass);
    for id in parked {
        client.wait_ack(PUBACK, id);
    }
    cut.gateway.wait("backpressure_off");
    cut.far.wait("all numbers", |all| all.iter().filter(|m| m.qos > 0).count() == 23);
    let numbers: Vec<String> =
        cut.far.messages().iter().filter(|m| m.qos > 0).map(Message::text).collect();
    assert_eq!(numbers, (0..23).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_blocked_client_is_not_thrown_out_for_its_silence() {
    let cut = cut(&["max_messages = 5"]);
    let mut client = Connect::v4("client").keepalive(1).open(cut.gateway.port);
    // More than its buffers hold: reading stops, so its PINGREQs are not read either.
    let bytes: Vec<u8> = (1..=500)
        .flat_map(|id| Message { id, ..Message::new("n", vec![b'x'; 1000]).qos(1) }.bytes(4))
        .collect();
    let mut writing = client.wire.stream.try_clone().expect("a socket");
    let writer = thread::spawn(move || std::io::Write::write_all(&mut writing, &bytes));
    cut.gateway.wait("backpressure_on");
    // The passing of more than 1.5 keepalives is what is tested.
    thread::sleep(Duration::from_millis(2500));
    cut.link.set(Mode::Pass);
    for id in 1..=500 {
        client.wait_ack(PUBACK, id);
    }
    writer.join().expect("no panic").expect("all is written");
    cut.far.wait_count(500);
}

#[test]
fn a_blocked_client_completes_what_it_has_begun_and_goes_on_receiving() {
    for level in [4, 5] {
        let cut = cut(&["max_messages = 5"]);
        let mut client = Connect::new(level, "client").open(cut.gateway.port);
        client.subscribe(&[("own", 2)]);
        let begun = client.publish_without_waiting(&Message::new("free", "x").qos(2));
        client.wait_ack(PUBREC, begun);
        for _ in 0..5 {
            client.publish(&Message::new("n", "x").qos(1));
        }
        let parked = client.publish_without_waiting(&Message::new("n", "x").qos(1));
        let too = client.publish_without_waiting(&Message::new("n", "x").qos(2));
        cut.gateway.wait("backpressure_on");
        client.send(&wire::ack(PUBREL, begun));
        client.wait_ack(PUBCOMP, begun);
        // Three times what it may have unacknowledged: its answers are read behind the parked.
        let mut other = Connect::new(level, "other").open(cut.gateway.port);
        for n in 0..200 {
            other.publish(&Message::new("own", n.to_string()).qos(1 + n % 2));
        }
        for n in 0..200 {
            assert_eq!(client.next().text(), n.to_string());
        }
        // Not acknowledged so far, or the waits above would have swallowed it.
        cut.link.set(Mode::Pass);
        client.wait_ack(PUBACK, parked);
        client.wait_ack(PUBREC, too);
    }
}

#[test]
fn drop_oldest_keeps_the_newest() {
    let cut = cut(&["max_messages = 20", "overflow = drop_oldest"]);
    Publisher::numbered("publisher", "n", 1, 50).run(cut.gateway.port);
    cut.gateway.wait_stats("30 drops", |stats| stats.number("drops") == 30);
    let drop = cut.gateway.wait("drop");
    assert_eq!(drop.text("destination"), "up");
    cut.link.set(Mode::Pass);
    cut.far.wait_count(20);
    let texts: Vec<String> = cut.far.messages().iter().map(Message::text).collect();
    assert_eq!(texts, (30..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn drop_newest_says_so_to_mqtt_5_publishers() {
    let cut = cut(&["max_messages = 20", "overflow = drop_newest"]);
    let mut new = Connect::v5("new").open(cut.gateway.port);
    for n in 0..20 {
        assert_eq!(new.publish(&Message::new("n", n.to_string()).qos(1 + n % 2)), 0);
    }
    assert_eq!(new.publish(&Message::new("n", "refused").qos(1)), 0x97);
    assert_eq!(new.publish(&Message::new("n", "refused").qos(2)), 0x97);
    // 3.1.1 has no word for it: acknowledged and counted.
    let mut old = Connect::v4("old").open(cut.gateway.port);
    assert_eq!(old.publish(&Message::new("n", "dropped").qos(1)), 0);
    assert_eq!(old.publish(&Message::new("n", "dropped").qos(2)), 0);
    cut.gateway.wait_stats("drops", |stats| stats.number("drops") >= 2);
    cut.link.set(Mode::Pass);
    cut.gateway.wait_bridge_stats("up", "an empty queue", |b| {
        b.number("ring") + b.number("store") + b.number("inflight") == 0
    });
    assert_eq!(new.publish(&Message::new("n", "room again").qos(1)), 0);
    cut.far.wait_count(21);
    // mosquitto passes a QoS 2 message on when it is released: order is per QoS.
    let texts = |qos: u8| -> Vec<String> {
        cut.far.messages().iter().filter(|m| m.qos == qos).map(Message::text).collect()
    };
    let (even, odd) = ((0..20).step_by(2), (1..20).step_by(2));
    let even = even.map(|n| n.to_string()).chain(["room again".to_owned()]);
    assert_eq!(texts(1), even.collect::<Vec<_>>());
    assert_eq!(texts(2), odd.map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_full_store_blocks_and_then_drains_wholly() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "#");
    let rules = ["forward.1.local_topic = n"];
    let small = "store.max_bytes = 1MiB\nring.messages = 64\nring.bytes = 256KiB\n";
    let gateway = Gateway::start(&format!("{small}{}", bridge("up", link.port, &rules)));
    let port = gateway.port;
    let plan: Vec<Message> =
        (0..3000_usize).map(|n| Message::new("n", format!("{n:0>1000}")).qos(1)).collect();
    let publisher = thread::spawn(move || {
        let mut publisher = Publisher::new(Connect::v4("publisher"), 50, plan);
        publisher.run(port);
    });
    gateway.wait("backpressure_on");
    // Local clients go on while it is full.
    let mut client = Connect::v5("client").open(port);
    client.subscribe(&[("free", 2)]);
    client.publish(&Message::new("free", "x").qos(2));
    assert_eq!(client.next().text(), "x");
    let written = std::fs::read_dir(gateway.directory.path()).expect("our directory");
    let written: u64 =
        written.filter_map(|entry| entry.ok()?.metadata().ok().map(|about| about.len())).sum();
    assert!(written < 1_100_000, "{written} bytes in the store's directory");
    link.set(Mode::Pass);
    assert_eq!(far.wait_all_in_order(3000), 0);
    publisher.join().expect("all is accepted");
    gateway.wait("backpressure_off");
}

#[test]
fn kills_while_ring_and_store_are_full_lose_and_repeat_nothing() {
    for level in [4, 5] {
        let remote = Mosquitto::start_roomy();
        let link = Proxy::start_in(Mode::Refuse, remote.port);
        let far = Collector::start(remote.port, "far", "#");
        let small = "store.max_bytes = 1MiB\nring.messages = 64\nring.bytes = 256KiB\n";
        let version = format!("proto_ver = {level}");
        let rules = ["forward.1.local_topic = n", &version];
        let mut gateway = Gateway::start(&format!("{small}{}", bridge("up", link.port, &rules)));
        let port = gateway.port;
        let publishing = thread::spawn(move || {
            let connect = Connect::new(level, "publisher").persistent();
            let plan = (0..1500).map(|n| Message::new("n", format!("{n:0>1000}")).qos(2));
            Publisher::new(connect, 30, plan.collect()).resuming().persist(port);
        });
        let full = |gateway: &Gateway| {
            gateway.wait_stats("a full store", |stats| stats.number("store_msgs") >= 400);
        };
        for _ in 0..4 {
            full(&gateway);
            gateway.kill();
            gateway.run();
        }
        full(&gateway);
        link.set(Mode::Pass);
        // Once more on its way out.
        far.wait_count(300);
        gateway.kill();
        gateway.run();
        publishing.join().expect("all is accepted");
        assert_eq!(far.wait_all_in_order(1500), 0, "{level}");
    }
}

#[test]
fn a_full_bridge_does_not_hold_up_another_bridge() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "#");
    let rules = ["forward.1.local_topic = dead/#", "max_messages = 10"];
    let live = ["forward.1.local_topic = live/#"];
    let gateway = Gateway::start(&format!(
        "{}{}",
        bridge("dead", link.port, &rules),
        bridge("live", remote.port, &live)
    ));
    gateway.wait_with("bridge_up", &[("bridge", "live")]);
    let mut stuck = Connect::v4("stuck").open(gateway.port);
    for _ in 0..30 {
        stuck.publish_without_waiting(&Message::new("dead/a", "x").qos(1));
    }
    gateway.wait("backpressure_on");
    Publisher::numbered("publisher", "live/n", 2, 1000).run(gateway.port);
    assert_eq!(far.wait_all_in_order(1000), 0);
}

#[test]
fn qos_0_waits_for_the_link_only_where_it_is_told_to() {
    for (rule, kept) in [("queue_qos0 = true", 20), ("queue_qos0 = false", 0)] {
        let cut = cut(&[rule]);
        let mut client = Connect::v4("client").open(cut.gateway.port);
        for n in 0..20 {
            client.publish(&Message::new("n", n.to_string()));
        }
        client.ping();
        client.publish(&Message::new("n", "last").qos(1));
        cut.link.set(Mode::Pass);
        cut.far.wait("the last", |all| all.iter().any(|m| m.payload == b"last"));
        if kept > 0 {
            cut.far.wait_count(21);
        }
        let mut texts: Vec<String> = cut.far.messages().iter().map(Message::text).collect();
        texts.retain(|text| text != "last");
        assert_eq!(texts, (0..kept).map(|n: u32| n.to_string()).collect::<Vec<_>>(), "{rule}");
    }
}
