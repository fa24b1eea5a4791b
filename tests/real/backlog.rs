//! Thousands of messages wait for the link: through stop and kill they all arrive, in order, QoS 2
//! once, and by themselves.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};
use crate::common::{number_of, wait_until};
use std::thread;
use std::time::{Duration, Instant};

struct Scene {
    far: Collector,
    link: Proxy,
    gateway: Gateway,
    _remote: Mosquitto,
}

/// A gateway with a bridge for `n` whose link is down.
fn cut(more: &str) -> Scene {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "n");
    let rules = ["forward.1.local_topic = n"];
    let configuration = format!("{more}{}", bridge("up", link.port, &rules));
    let gateway = Gateway::start(&configuration);
    gateway.wait("bridge_down");
    Scene { far, link, gateway, _remote: remote }
}

#[test]
fn a_backlog_outlives_a_clean_stop() {
    for qos in [1, 2] {
        let mut scene = cut("");
        Publisher::numbered("publisher", "n", qos, 5000).run(scene.gateway.port);
        assert_eq!(scene.gateway.stop().number("lost"), 0);
        scene.gateway.run();
        scene.link.set(Mode::Pass);
        // No new traffic: it drains by itself.
        assert_eq!(scene.far.wait_all_in_order(5000), 0, "QoS {qos}");
    }
}

#[test]
fn a_backlog_outlives_a_kill() {
    for qos in [1, 2] {
        let mut scene = cut("");
        Publisher::numbered("publisher", "n", qos, 5000).run(scene.gateway.port);
        scene.gateway.kill();
        scene.gateway.run();
        scene.link.set(Mode::Pass);
        assert_eq!(scene.far.wait_all_in_order(5000), 0, "QoS {qos}");
    }
}

#[test]
fn a_backlog_outlives_kills_while_it_drains() {
    for (qos, version) in [(1, "5"), (2, "5"), (2, "4")] {
        let remote = Mosquitto::start_roomy();
        let link = Proxy::start_in(Mode::Refuse, remote.port);
        link.delay(Duration::from_millis(2));
        let far = Collector::start(remote.port, "far", "n");
        let proto = format!("proto_ver = {version}");
        let rules = ["forward.1.local_topic = n", &proto];
        let mut gateway = Gateway::start(&bridge("up", link.port, &rules));
        Publisher::numbered("publisher", "n", qos, 3000).run(gateway.port);
        link.set(Mode::Pass);
        for n in 1..=4 {
            far.wait_count(500 * n);
            gateway.kill();
            gateway.run();
        }
        let again = far.wait_all_in_order(3000);
        println!("QoS {qos} version {version}: {again} duplicates after 4 kills");
        if qos == 2 {
            assert_eq!(again, 0, "duplicates at QoS 2, version {version}");
        }
    }
}

#[test]
fn a_kill_in_the_middle_of_everything_loses_nothing_accepted() {
    for qos in [1, 2] {
        let remote = Mosquitto::start_roomy();
        let far = Collector::start(remote.port, "far", "n");
        let rules = ["forward.1.local_topic = n"];
        let mut gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        let mut publisher = Publisher::numbered("publisher", "n", qos, 6000);
        for n in 1..=5 {
            let port = gateway.port;
            let so_far = far.count();
            thread::scope(|scope| {
                let run = scope.spawn(|| publisher.run_until(port, n * 1000));
                // In the middle of a flow that goes through.
                wait_until("a flow", || far.count() >= so_far + 300 || run.is_finished());
                gateway.kill();
                // Either it had what it wanted or the kill ended its connection.
                let _ = run.join().expect("no panic");
            });
            gateway.run();
        }
        publisher.run(gateway.port);
        let again = far.wait_all_in_order(6000);
        println!("QoS {qos}: {again} duplicates after 5 kills");
        if qos == 2 {
            assert_eq!(again, 0, "duplicates at QoS 2");
        }
    }
}

#[test]
fn what_comes_in_outlives_kills_on_its_way_to_a_persistent_session() {
    let remote = Mosquitto::start_roomy();
    let rules = ["subscribe.1.remote_topic = n", "subscribe.1.qos = 2"];
    let mut gateway =
        Gateway::start(&(ROOMY_SESSIONS.to_owned() + &bridge("up", remote.port, &rules)));
    gateway.wait("bridge_up");
    remote.wait_line("Sending SUBACK");
    let near = Collector::start(gateway.port, "near", "n");
    let port = remote.port;
    let publisher =
        thread::spawn(move || Publisher::numbered("publisher", "n", 2, 4000).window(15).run(port));
    for n in 1..=3 {
        near.wait_count(500 * n);
        gateway.kill();
        gateway.run();
    }
    publisher.join().expect("all is accepted by the remote");
    assert_eq!(near.wait_all_in_order(4000), 0, "duplicates at QoS 2");
}

#[test]
fn new_messages_do_not_overtake_the_backlog() {
    let scene = cut("ring.messages = 64\n");
    let half: Vec<Message> =
        (0..2000_usize).map(|n| Message::new("n", n.to_string()).qos(1)).collect();
    let rest: Vec<Message> =
        (2000..4000_usize).map(|n| Message::new("n", n.to_string()).qos(1)).collect();
    Publisher::new(Connect::v4("publisher"), 50, half).run(scene.gateway.port);
    scene.gateway.wait("spill_started");
    scene.link.set(Mode::Pass);
    Publisher::new(Connect::v4("publisher"), 50, rest).run(scene.gateway.port);
    assert_eq!(scene.far.wait_all_in_order(4000), 0);
    let drained = scene.gateway.wait("spill_drained");
    assert_eq!(drained.text("destination"), "up");
    assert!(drained.number("messages") > 0);
}

#[test]
fn ten_thousand_drain_over_a_20_ms_round_trip() {
    let scene = cut("");
    let plan: Vec<Message> =
        (0..10_000_usize).map(|n| Message::new("n", format!("{n:0>128}")).qos(1)).collect();
    Publisher::new(Connect::v4("publisher"), 60, plan).run(scene.gateway.port);
    scene.link.delay(Duration::from_millis(10));
    scene.link.set(Mode::Pass);
    scene.far.wait_count(1);
    let (first, before) = (scene.far.count(), Instant::now());
    assert_eq!(scene.far.wait_all_in_order(10_000), 0);
    let rate =
        f64::from(u32::try_from(10_000 - first).expect("fits")) / before.elapsed().as_secs_f64();
    println!("drained at {rate:.0} messages/s; window / round trip is {}", 64 * 50);
}

#[test]
fn several_publishers_keep_their_own_order_through_an_outage_and_a_kill() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "p/#");
    let mut gateway = Gateway::start(&bridge("up", link.port, &["forward.1.local_topic = p/#"]));
    let port = gateway.port;
    let publishers: Vec<_> = [1_u8, 1, 2, 2, 2]
        .into_iter()
        .enumerate()
        .map(|(n, qos)| {
            thread::spawn(move || {
                let (id, topic) = (format!("publisher-{n}"), format!("p/{n}"));
                Publisher::numbered(&id, &topic, qos, 1000).run(port);
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().expect("all is accepted");
    }
    gateway.kill();
    gateway.run();
    link.set(Mode::Pass);
    far.wait_count(5000);
    let messages = far.messages();
    for n in 0..5 {
        let of = messages.iter().filter(|message| message.topic == format!("p/{n}"));
        let numbers: Vec<usize> = of.map(|message| number_of(&message.payload)).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>(), "publisher {n}");
    }
}

#[test]
fn without_a_store_the_ring_carries_over_an_outage_and_says_what_a_stop_loses() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "n");
    let rules = ["forward.1.local_topic = n"];
    let configuration = format!("store.path = none\n{}", bridge("up", link.port, &rules));
    let mut gateway = Gateway::start(&configuration);
    assert_eq!(gateway.wait("durability").text("ack"), "ring");
    Publisher::numbered("publisher", "n", 2, 100).run(gateway.port);
    link.set(Mode::Pass);
    assert_eq!(far.wait_all_in_order(100), 0);
    gateway.wait_bridge_stats("up", "all completed", |b| {
        b.number("fwd_acked") == 100 && b.number("inflight") == 0
    });
    link.set(Mode::Refuse);
    gateway.wait_bridge_stats("up", "the link down", |b| b.text("up") == "false");
    let mut client = Connect::v4("client").open(gateway.port);
    for _ in 0..10 {
        client.publish(&Message::new("n", "lost").qos(1));
    }
    // Accepted messages of `ack = ring` that could not be stored at stop: exit status 1.
    gateway.process().signal(libc::SIGTERM);
    let stopped = gateway.wait("stopped");
    assert_eq!(stopped.number("lost"), 10);
    let status = gateway.wait_exit();
    assert_eq!(status.code(), Some(1));
}
