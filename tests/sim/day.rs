//! A day of a link that goes up and down every minute: whatever is taken is given back, and the log
//! stays small.

use crate::check;
use crate::client::{ClientPlan, Manners};
use crate::ledger::Given;
use crate::net::NEVER;
use crate::plan::{self, BridgePlan, Family, MINUTE, Plan, RulePlan};
use crate::refusing::Picky;
use crate::remote::RemotePlan;
use crate::world::{Peer, World};
use spillway::gateway::stats::InUse;
use spillway::mqtt::Version;
use spillway::queue::facts;
use spillway::vocab::Rng;

const DAY_US: u64 = 24 * 60 * MINUTE;

/// Mean time between two messages of each publisher, and of the remote.
const EVERY_US: u64 = 10_000_000;

/// A flap is logged as down, some dials and up, of about 90 bytes each, and there are a thousand of
/// them: 1.1 MB. Twice that is a log that repeats itself, and more than a router keeps in RAM.
const LOG_BYTES_MAX: u64 = 2 * 1024 * 1024;

fn client(name: &str, version: Version, topics: &[&str], filters: &[(&str, u8)]) -> ClientPlan {
    let publishes = u32::from(!topics.is_empty());
    ClientPlan {
        name: name.to_string(),
        version,
        clean: false,
        forgets: false,
        keepalive_s: 60,
        window: 10,
        filters: filters.iter().map(|(filter, qos)| (filter.to_string(), *qos)).collect(),
        topics: topics.iter().map(|topic| topic.to_string()).collect(),
        qos: vec![0, 1, 2, 2],
        count: publishes * u32::try_from(DAY_US / EVERY_US).unwrap(),
        every_us: EVERY_US,
        bytes_max: 3000,
        leaves_after_us: 10 * MINUTE,
        absent_us: MINUTE,
        answer_us: 3000,
        edges: &[],
        wills: false,
        identifies: false,
        manners: Manners::Polite,
    }
}

fn a_day() -> Plan {
    let rule =
        RulePlan { filter: "up/#".to_string(), prefix: String::new(), qos: None, conflate: false };
    let remote = RemotePlan {
        v5: true,
        receive_maximum: 10,
        answer_us: 100_000,
        refuse_in: 0,
        picky: Picky::NOT,
        codes: Vec::new(),
        topics: vec!["down/0/a".to_string(), "down/0/b".to_string()],
        count: u32::try_from(DAY_US / EVERY_US).unwrap(),
        every_us: EVERY_US,
        at_release: false,
        qos_max: 2,
    };
    let bridge = BridgePlan {
        name: "b0".to_string(),
        client_id: "gw-b0".to_string(),
        rules: vec![rule],
        servers: vec![0],
        window: 16,
    };
    let leaving = client("leaving", Version::V5, &[], &[("down/#", 2), ("up/1/#", 1)]);
    let mut clean = client("clean", Version::V311, &[], &[("#", 2)]);
    clean.clean = true;
    let mut plan = Plan {
        seed: 24,
        family: Family::Plain,
        config: String::new(),
        bridges: vec![bridge],
        remotes: vec![remote],
        clients: vec![
            client("old", Version::V311, &["up/1/a", "up/1/b"], &[]),
            client("new", Version::V5, &["up/2/a", "local/a"], &[]),
            leaving,
            clean,
        ],
        slots: 32,
        faults: Vec::new(),
        fault_every_us: MINUTE,
        safety_us: DAY_US,
        latency_us: (5_000, 40_000),
        drops: &[],
        exact: false,
        ring_bytes: 64 * 1024,
    };
    let config = plan::config(&mut Rng::new(24), &plan, 64);
    // As it is by default: how often it dials is what the log's size depends on.
    let lines = config.lines().filter(|line| !line.contains("backoff"));
    plan.config = lines.map(|line| format!("{line}\n")).collect();
    plan
}

/// The link is gone: with a reset, with silence one way or both.
fn unplug(world: &mut World, rng: &mut Rng) {
    world.remotes[0].listening = false;
    let how = rng.below(4);
    for at in 0..world.wires.len() {
        if !matches!(world.wires[at].peer, Peer::Remote(_)) || !world.wires[at].peer_open {
            continue;
        }
        if how == 0 {
            world.cut(at);
            continue;
        }
        let wire = &mut world.wires[at];
        wire.disturbed = true;
        if how != 1 {
            wire.up.stalled_until = NEVER;
        }
        if how != 2 {
            wire.down.stalled_until = NEVER;
        }
    }
}

#[test]
fn a_day_of_a_flapping_link_leaves_nothing_behind() {
    let mut world = World::new(a_day());
    let mut rng = Rng::new(24);
    let end = world.now + DAY_US;
    let mut flaps = 0;
    while world.now < end && world.ledger.violations.is_empty() {
        let goes_at = world.now + rng.below(2 * MINUTE);
        world.run_until(goes_at, false);
        unplug(&mut world, &mut rng);
        let comes_at = world.now + rng.below(MINUTE);
        world.run_until(comes_at, false);
        world.remotes[0].listening = true;
        flaps += 1;
    }
    world.clients.iter_mut().for_each(|client| client.left = 0);
    world.remotes[0].left = 0;
    world.finish();
    // What is written lazily, and freed with it.
    let end = world.now + 5 * MINUTE;
    world.run_until(end, false);
    check::all(&mut world);
    assert!(world.ledger.violations.is_empty(), "{:?}", world.ledger.violations);

    let ups = world.watch.events["bridge_up"];
    assert!(ups >= flaps / 2, "{ups} times up, {flaps} flaps");
    // Of QoS 0 only: nobody was there for it.
    let qos0 = |given: &&Given| !matches!(given.reason.as_str(), "offline" | "slow_subscriber");
    assert_eq!(world.ledger.given.iter().filter(qos0).count(), 0, "{:?}", world.ledger.given);
    let gateway = world.gateway.as_ref().expect("nobody killed it");
    let InUse { queue, connections, parked, debts } = gateway.in_use();
    // As it began: the clients, the bridge, and at most the open end of a log for each of them.
    let destinations = u32::try_from(world.clients.len() + 1).unwrap();
    assert!(queue.slots <= destinations, "{} slots", queue.slots);
    assert_eq!(facts::InUse { slots: 0, ..queue }, facts::InUse::default());
    assert_eq!((connections, parked, debts), (world.clients.len() + 1, 0, 0));
    let logged = world.watch.log_bytes;
    println!("{flaps} flaps, {ups} up, {logged} bytes in {} lines", world.watch.log_lines);
    println!("{:?}, {} bytes written", world.watch.events, world.disk.written_bytes);
    assert!(logged <= LOG_BYTES_MAX, "{logged} bytes logged");
}
