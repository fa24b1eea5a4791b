//! Fair shares: worlds in which somebody takes as much as there is of one thing, beside clients and
//! a remote that want little. Here: what such a world looks like, and what the greedy do. What they
//! may not do to the others is asked in `check/fairness.rs`.

use crate::client::{Client, ClientPlan, Manners, State, pick};
use crate::plan::{BridgePlan, Family, MINUTE, Plan, RulePlan};
use crate::refusing::Picky;
use crate::remote::RemotePlan;
use crate::session::Line;
use crate::world::World;
use spillway::mqtt::{
    Connect, Filters, Packet, PacketId, Properties, Property, Publish, Qos, Subscribe,
    SubscribeOptions, Version, Will, encode,
};
use spillway::vocab::Rng;
use std::fmt::Write;

/// The largest packet, by `limit.packet_size` of these worlds.
const PACKET_BYTES: usize = 16 * 1024;

/// A store in which there is room for whatever sessions may have.
pub const ROOMY_SLOTS: u32 = 4000;

/// What somebody takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greed {
    /// A session with every connection.
    Sessions,
    /// Identifiers of QoS 2, of which none is released.
    Ids,
    /// The ring: reads everything and acknowledges nothing. Somebody else publishes for it.
    Mute,
    /// The ring: publishes as much as is taken, for the mute and for a link that is down.
    Flood,
}

pub const KINDS: [Greed; 4] = [Greed::Sessions, Greed::Ids, Greed::Mute, Greed::Flood];

/// What one of the greedy has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Foe {
    pub visit: u32,
    pub said: u32,
}

/// A world of this family.
pub fn plan(seed: u64, rng: &mut Rng) -> Plan {
    let rule = |filter: &str| RulePlan {
        filter: filter.to_string(),
        prefix: String::new(),
        qos: None,
        conflate: false,
    };
    let bridge = |at: usize, filter: &str| BridgePlan {
        name: format!("b{at}"),
        client_id: format!("gw-b{at}"),
        rules: vec![rule(filter)],
        servers: vec![at],
        window: 20,
    };
    let mut clients = Vec::new();
    for at in 0..2 + rng.below(2) {
        clients.push(modest(rng, &format!("pub{at}"), true));
    }
    for at in 0..1 + rng.below(2) {
        clients.push(modest(rng, &format!("sub{at}"), false));
    }
    // Each kind has its seeds.
    let first = usize::try_from(seed % KINDS.len() as u64).unwrap();
    let mut kinds = vec![KINDS[first]];
    if rng.below(3) == 0 {
        kinds.push(KINDS[pick(rng, KINDS.len())]);
    }
    if kinds.contains(&Greed::Mute) && !kinds.contains(&Greed::Flood) {
        kinds.push(Greed::Flood);
    }
    for kind in kinds {
        for _ in 0..1 + rng.below(6) {
            let name = format!("foe{}", clients.len());
            clients.push(greedy(rng, name, kind));
        }
    }
    let ring = [64, 256][pick(rng, 2)];
    let mut plan = Plan {
        seed,
        family: Family::Fair,
        config: String::new(),
        // The second one's server does not listen while the greedy are here.
        bridges: vec![bridge(0, "up/#"), bridge(1, "dead/#")],
        remotes: vec![remote(rng, 20, 0), remote(rng, 0, 1)],
        clients,
        slots: [60, ROOMY_SLOTS][pick(rng, 2)],
        faults: Vec::new(),
        fault_every_us: MINUTE,
        safety_us: MINUTE / 2,
        latency_us: (100 + rng.below(2_000), 1 + rng.below(20_000)),
        drops: &["queue_full"],
        exact: false,
        ring_bytes: ring * 1024,
    };
    plan.config = config(rng, &plan, ring);
    plan
}

/// Before the first turn.
pub fn begin(world: &mut World) {
    if world.plan.family == Family::Fair {
        world.remotes[1].listening = false;
    }
}

fn remote(rng: &mut Rng, count: u32, at: usize) -> RemotePlan {
    RemotePlan {
        v5: rng.below(3) > 0,
        receive_maximum: [20, 100][pick(rng, 2)],
        answer_us: [0, 2000, 20_000][pick(rng, 3)],
        refuse_in: 0,
        picky: Picky::NOT,
        codes: Vec::new(),
        topics: (0..2).map(|topic| format!("down/{at}/{topic}")).collect(),
        count,
        every_us: 1_000_000,
        at_release: rng.below(2) == 0,
        qos_max: 2,
    }
}

/// It says little, answers at once, goes and comes again.
fn modest(rng: &mut Rng, name: &str, publishes: bool) -> ClientPlan {
    let filters = match (publishes, rng.below(2)) {
        (true, _) => Vec::new(),
        (false, 0) => vec![("up/1/#".to_string(), 2)],
        (false, _) => vec![("down/#".to_string(), 2), ("up/1/a".to_string(), 1)],
    };
    ClientPlan {
        name: name.to_string(),
        version: [Version::V311, Version::V5][pick(rng, 2)],
        clean: rng.below(2) == 0,
        forgets: false,
        keepalive_s: 4,
        window: 8,
        filters,
        topics: vec!["up/1/a".to_string(), "up/1/b".to_string(), "local/a".to_string()],
        qos: vec![1, 2],
        count: if publishes { 40 } else { 0 },
        every_us: 500_000,
        bytes_max: 300,
        leaves_after_us: 15_000_000,
        absent_us: 500_000,
        answer_us: 2000,
        edges: &[],
        wills: false,
        identifies: false,
        manners: Manners::Polite,
    }
}

fn greedy(rng: &mut Rng, name: String, greed: Greed) -> ClientPlan {
    let every_us = match greed {
        Greed::Sessions => 10_000 + rng.below(100_000),
        Greed::Ids => 2_000 + rng.below(20_000),
        Greed::Mute => 1_000_000,
        Greed::Flood => 5_000 + rng.below(100_000),
    };
    ClientPlan {
        clean: rng.below(2) == 0,
        keepalive_s: 0,
        filters: Vec::new(),
        count: 0,
        every_us,
        leaves_after_us: [0, 5_000_000][pick(rng, 2)],
        absent_us: [10_000, 1_000_000][pick(rng, 2)],
        manners: Manners::Greedy(greed),
        ..modest(rng, &name, true)
    }
}

fn config(rng: &mut Rng, plan: &Plan, ring: u64) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(text, "{key} = {value}").expect("a string takes it");
    };
    line("node.name", "sim".to_string());
    let store = ["/nowhere/spill.db", "/nowhere/spill.db", "none"][pick(rng, 3)];
    line("store.path", store.to_string());
    line("limit.clients", "32".to_string());
    line("limit.sessions", "32".to_string());
    line("limit.subscriptions", "128".to_string());
    line("limit.packet_size", PACKET_BYTES.to_string());
    line("limit.inflight", "20".to_string());
    line("ring.messages", ring.to_string());
    line("ring.bytes", plan.ring_bytes.to_string());
    line("store.flush_after", format!("{}ms", [20, 250][pick(rng, 2)]));
    line("listener.lan.url", "mqtt://127.0.0.1:1883".to_string());
    for (at, bridge) in plan.bridges.iter().enumerate() {
        let key = |name: &str| format!("bridge.{}.{name}", bridge.name);
        line(&key("server"), format!("mqtt://10.0.0.{}:1883", at + 1));
        line(&key("clientid"), bridge.client_id.clone());
        line(&key("max_inflight"), bridge.window.to_string());
        line(&key("proto_ver"), if plan.remotes[at].v5 { "5" } else { "4" }.to_string());
        line(&key("backoff_max"), "5s".to_string());
        // What is drained in one go once its server listens.
        line(&key("max_messages"), "1000".to_string());
        line(&key("forward.r.local_topic"), bridge.rules[0].filter.clone());
        line(&key("subscribe.s.remote_topic"), "down/#".to_string());
        line(&key("subscribe.s.qos"), "2".to_string());
    }
    text
}

/// The first words of one of the greedy on a new connection.
pub fn greet(client: &mut Client, line: &mut Line, greed: Greed) {
    client.foe.visit += 1;
    client.foe.said = 0;
    let name = match greed {
        Greed::Sessions => format!("{}-{}", client.plan.name, client.foe.visit),
        Greed::Ids | Greed::Mute | Greed::Flood => client.plan.name.clone(),
    };
    let will: Option<Will<'_>> = None;
    let expiry = Property::SessionExpiry(if client.plan.clean { 0 } else { u32::MAX });
    let mut bytes = [0; 16];
    let properties = match client.plan.version {
        Version::V5 => Properties::write(&[expiry], &mut bytes).expect("it fits"),
        Version::V31 | Version::V311 => Properties::EMPTY,
    };
    let connect = Connect {
        version: client.plan.version,
        bridge: false,
        clean_start: client.plan.clean,
        keepalive: 0,
        client_id: &name,
        will,
        username: None,
        password: None,
        properties,
    };
    put(line, &Packet::Connect(connect));
    match greed {
        Greed::Sessions => subscribe(line, &["s/x"], 1),
        Greed::Mute => subscribe(line, &["g/#", "up/#"], 2),
        Greed::Ids | Greed::Flood => {}
    }
}

/// What one of the greedy does at this time.
pub fn tick(client: &mut Client, greed: Greed, now: u64) {
    match client.state {
        State::Offline { until } if until <= now && client.calm => {
            client.state = State::Offline { until: u64::MAX };
        }
        State::Offline { until } if until <= now => client.connect(now),
        State::Connecting { since } if since + 20_000_000 <= now => client.give_up(now),
        State::Up if client.calm => client.give_up(now),
        State::Up if client.next_publish <= now => {
            client.next_publish = now + 1 + client.rng.below(2 * client.plan.every_us);
            take(client, greed, now);
        }
        State::Offline { .. } | State::Connecting { .. } | State::Up => {}
    }
}

/// A little more of it.
fn take(client: &mut Client, greed: Greed, now: u64) {
    client.foe.said += 1;
    let (said, every_us) = (client.foe.said, client.plan.every_us);
    let leaves = client.plan.leaves_after_us;
    if greed == Greed::Sessions || leaves > 0 && client.rng.below(1 + leaves / every_us) == 0 {
        return client.give_up(now);
    }
    let size = [200, 2000, 8000, 15_000][pick(&mut client.rng, 4)];
    let dead = client.index.is_multiple_of(2);
    let Some(line) = client.line.as_mut().filter(|line| line.out.len() < 4 * PACKET_BYTES) else {
        return;
    };
    match greed {
        Greed::Ids => {
            for at in 0..16 {
                let pid = u16::try_from(1 + (said * 16 + at) % 2000).unwrap();
                publish(line, "g/ids", 2, pid, &[]);
            }
        }
        Greed::Flood => {
            let topic = if dead { "dead/x" } else { "g/x" };
            let pid = u16::try_from(1 + said % 60_000).unwrap();
            publish(line, topic, 1, pid, &vec![7; size]);
        }
        Greed::Mute | Greed::Sessions => {}
    }
}

fn publish(line: &mut Line, topic: &str, qos: u8, pid: u16, payload: &[u8]) {
    let publish = Publish {
        dup: false,
        qos: Qos::from_u8(qos).expect("0 to 2"),
        retain: false,
        topic,
        packet_id: PacketId::new(pid),
        properties: Properties::EMPTY,
        payload,
        missing: 0,
    };
    put(line, &Packet::Publish(publish));
}

fn subscribe(line: &mut Line, filters: &[&str], qos: u8) {
    let qos = Qos::from_u8(qos).expect("0 to 2");
    let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
    let list: Vec<_> = filters.iter().map(|filter| (*filter, options)).collect();
    let subscribe = Subscribe {
        packet_id: PacketId::new(60_001).expect("not zero"),
        properties: Properties::EMPTY,
        filters: Filters::from_list(&list),
    };
    put(line, &Packet::Subscribe(subscribe));
}

/// A packet of any size that is allowed.
fn put(line: &mut Line, packet: &Packet<'_>) {
    let mut bytes = vec![0; PACKET_BYTES];
    let taken = encode(line.version, packet, &mut bytes).expect("it is no larger");
    line.out.extend_from_slice(&bytes[..taken]);
}
