//! A disk that takes long for a sync: nobody loses a connection for it, neither side of a bridge
//! misses a keepalive, the backlog drains, nothing accepted is lost, and the log says what it was.

use crate::common::PATIENCE;
use crate::common::collector::Collector;
use crate::common::faults::{Calls, Faults};
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub};
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message, PINGREQ, PUBACK, numbered_plan};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PUBLISHERS: usize = 4;

/// Pings until told to stop; the waits for the answers.
fn ping(port: u16, id: &str, keepalive: u16, ended: &AtomicBool) -> Vec<Duration> {
    let mut client = Connect::v4(id).keepalive(keepalive).open(port);
    let mut waits = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let asked = Instant::now();
        client.ping();
        waits.push(asked.elapsed());
        // A client that only pings when it has to: the gap is part of the scene.
        thread::sleep(Duration::from_millis(50));
    }
    client.disconnect();
    waits
}

fn publish(port: u16, name: &str, count: usize) {
    let names: Vec<String> = (0..PUBLISHERS).map(|n| format!("{name}-{n}")).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || {
                let plan = numbered_plan(&format!("n/{name}"), 1, count);
                Publisher::new(Connect::v4(name).keepalive(5), 50, plan).run(port);
            });
        }
    });
}

/// A backlog of `backlog` drains while each of four publishers has `more` accepted.
fn nobody_is_lost(sync: Duration, backlog: usize, more: usize, keepalive: u16) {
    let remote = Mosquitto::start_with("max_keepalive 60\n");
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start_with(remote.port, Connect::v4("far").persistent(), "n/#", 1);
    let rules = ["forward.1.local_topic = n/#", "keepalive = 5s"];
    let mut gateway = Gateway::prepare(&bridge("up", link.port, &rules));
    let faults: Faults = gateway.with_faults();
    gateway.run();
    let port = gateway.port;
    publish(port, "early", backlog / PUBLISHERS);
    let sub = MosquittoSub::start(port, "%p", &["-t", "other", "-k", "5"]);
    let ended = AtomicBool::new(false);
    let mut waits = thread::scope(|scope| {
        let pinger = scope.spawn(|| ping(port, "pinger", keepalive, &ended));
        link.set(Mode::Pass);
        gateway.wait("bridge_up");
        let arrived = far.count();
        faults.delay(Calls::Sync, sync);
        publish(port, "late", more);
        println!("{} of the backlog drained meanwhile", far.count() - arrived);
        ended.store(true, Ordering::Relaxed);
        pinger.join().expect("no connection was lost")
    });
    waits.sort_unstable();
    println!(
        "sync {sync:?}: PINGRESP median {:?}, worst {:?}, {} pings, {} syncs",
        waits[waits.len() / 2],
        waits[waits.len() - 1],
        waits.len(),
        faults.calls(Calls::Sync)
    );
    faults.heal();
    far.wait_count(backlog + PUBLISHERS * more);
    // Everything was said by now that could have been said.
    let mut last = Connect::v4("last").open(port);
    last.publish(&Message::new("other", "the end").qos(1));
    assert_eq!(sub.take(1), ["the end"], "mosquitto_sub has kept its connection");
    for event in gateway.events() {
        assert!(!event.is("client_disconnected", &[("reason", "keepalive_timeout")]), "{event:?}");
    }
    let up = gateway.events().iter().filter(|event| event.name == "bridge_up").count();
    assert_eq!(up, 1, "the bridge has kept its connection");
    assert_eq!(remote.count_lines("exceeded timeout"), 0);
}

#[test]
fn nobody_loses_a_connection_while_100_000_drain_over_syncs_of_200_ms() {
    nobody_is_lost(Duration::from_millis(200), 100_000, 1000, 2);
}

#[test]
fn nobody_loses_a_connection_over_syncs_of_500_ms() {
    nobody_is_lost(Duration::from_millis(500), 20_000, 400, 2);
}

#[test]
fn nobody_loses_a_connection_over_syncs_of_2_s() {
    nobody_is_lost(Duration::from_secs(2), 20_000, 150, 5);
}

#[test]
fn a_stall_in_the_store_names_the_store() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    gateway.run();
    let mut away = Connect::v4("away").persistent().open(gateway.port);
    away.subscribe(&[("#", 1)]);
    away.disconnect();
    faults.delay(Calls::Sync, Duration::from_millis(700));
    let mark = gateway.mark();
    let mut publisher = Connect::v4("p").open(gateway.port);
    publisher.publish(&Message::new("a", "1").qos(1));
    let stall = gateway.wait_from(mark, "stall", &[("part", "flush")]);
    assert!(stall.number("duration_ms") >= 700, "{}", stall.line);
}

#[test]
fn what_needs_no_disk_is_not_behind_it() {
    let mut gateway = Gateway::prepare("limit.inflight = 4\n");
    let faults = gateway.with_faults();
    gateway.run();
    let mut away = Connect::v4("away").persistent().open(gateway.port);
    away.subscribe(&[("stored", 1)]);
    away.disconnect();
    faults.delay(Calls::Sync, Duration::from_millis(600));
    let mut publisher = Connect::v4("p").open(gateway.port);
    // From the first slow commit on the gateway knows the disk.
    publisher.publish(&Message::new("stored", "1").qos(1));
    let mut early = 0;
    for round in 1..6 {
        // In one segment: a whole window is committed at once, the ping need not wait for that.
        let ids = 10 * round..10 * round + 4;
        let one = |id| Message { id, ..Message::new("stored", "2").qos(1) }.bytes(4);
        let mut bytes: Vec<u8> = ids.clone().flat_map(one).collect();
        bytes.extend(PINGREQ);
        publisher.send(&bytes);
        let packet = publisher.wire.read(PATIENCE).expect("an answer");
        assert_eq!(format!("{packet:?}"), "Pingresp");
        // What is written together is there together.
        match publisher.wire.read(Duration::from_millis(50)) {
            Err(_) => early += 1,
            Ok(packet) => println!("with it came {packet:?}"),
        }
        publisher.wait_ack(PUBACK, ids.end - 1);
    }
    // This machine may have had no time for us once or twice, not always.
    assert!(early > 0, "every PINGRESP came with the acknowledgement");
}
