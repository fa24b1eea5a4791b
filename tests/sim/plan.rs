//! What a seed stands for: the family of the scenario is the seed's upper part, everything else is
//! drawn from it. The gateway's configuration, its clients, its remotes, what may go wrong.

use crate::client::{ClientPlan, Manners, pick};
use crate::refusing::Picky;
use crate::remote::RemotePlan;
use spillway::mqtt::{Version, topic};
use spillway::vocab::Rng;
use std::fmt::Write;

/// Seeds of one family lie between its number times this and the next one's.
pub const FAMILY: u64 = 1_000_000_000;

pub const MINUTE: u64 = 60_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Plain,
    SlowDisk,
    Crashes,
    TwoBridges,
    Sessions,
    Paces,
    Hostile,
    Failover,
    Quota,
    BadDisk,
    LostStore,
    /// Sizes about every edge there is, wills, subscription identifiers.
    Shapes,
    Refusing,
    /// Somebody takes all there is of something.
    Fair,
}

pub const FAMILIES: [Family; 14] = [
    Family::Plain,
    Family::SlowDisk,
    Family::Crashes,
    Family::TwoBridges,
    Family::Sessions,
    Family::Paces,
    Family::Hostile,
    Family::Failover,
    Family::Quota,
    Family::BadDisk,
    Family::LostStore,
    Family::Shapes,
    Family::Refusing,
    Family::Fair,
];

/// Payloads about these have an edge near: a connection's own buffer, a block, a slot, the largest
/// packet.
const EDGES: &[u64] = &[20, 200, 500, 1010, 2020, 2040, 4030, 8060, 16_300];

/// One thing that may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Cut,
    Stall,
    HalfOpen,
    RemoteRestarts,
    RemoteForgets,
    RemoteAway,
    RemoteRefuses,
    NamesSilent,
    DiskFull,
    DiskErrors,
    CommitFails,
    DiskSlow,
    DieBefore,
    DieAfter,
    Kill,
    PowerLoss,
    Clock,
    Rot,
    RotRow,
    LoseCommit,
    WipeStore,
    /// A remote refuses us, whatever we send, for a while.
    Spell,
}

const NETWORK: &[Fault] = &[
    Fault::Cut,
    Fault::Cut,
    Fault::Stall,
    Fault::HalfOpen,
    Fault::RemoteRestarts,
    Fault::RemoteAway,
    Fault::RemoteRefuses,
    Fault::NamesSilent,
    Fault::Clock,
];

const DEATHS: &[Fault] = &[Fault::DieBefore, Fault::DieAfter, Fault::Kill, Fault::PowerLoss];

const DISK: &[Fault] = &[Fault::DiskFull, Fault::DiskErrors, Fault::CommitFails, Fault::DiskSlow];

#[derive(Clone, Debug)]
pub struct RulePlan {
    pub filter: String,
    pub prefix: String,
    pub qos: Option<u8>,
    pub conflate: bool,
}

#[derive(Clone, Debug)]
pub struct BridgePlan {
    pub name: String,
    pub client_id: String,
    pub rules: Vec<RulePlan>,
    pub servers: Vec<usize>,
    pub window: u16,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub family: Family,
    pub config: String,
    pub bridges: Vec<BridgePlan>,
    pub remotes: Vec<RemotePlan>,
    pub clients: Vec<ClientPlan>,
    pub slots: u32,
    pub faults: Vec<Fault>,
    /// Mean time between two of them.
    pub fault_every_us: u64,
    pub safety_us: u64,
    pub latency_us: (u64, u64),
    /// Reasons for which messages may be given up, counted.
    pub drops: &'static [&'static str],
    /// Every drop is counted exactly: nothing here sends twice or dies.
    pub exact: bool,
    pub ring_bytes: u64,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let family = FAMILIES[usize::try_from(seed / FAMILY).unwrap() % FAMILIES.len()];
        Self::build(seed, family, Rng::new(seed ^ 0x5349_4D55_4C41_5445))
    }

    /// The topic as the remotes of a bridge see it; `None` when it is not forwarded.
    pub fn topic_at(&self, bridge: usize, name: &str) -> Option<String> {
        let rule = self.rule(bridge, name)?;
        Some(format!("{}{name}", rule.prefix))
    }

    pub fn rule(&self, bridge: usize, name: &str) -> Option<&RulePlan> {
        let rules = &self.bridges[bridge].rules;
        rules.iter().find(|rule| topic::matches(&rule.filter, name))
    }

    /// The QoS a message reaches the remotes of a bridge with.
    pub fn qos_at(&self, bridge: usize, name: &str, qos: u8) -> u8 {
        let qos = self.rule(bridge, name).and_then(|rule| rule.qos).unwrap_or(qos);
        let servers = self.bridges[bridge].servers.iter();
        servers.map(|server| self.remotes[*server].qos_max).min().unwrap_or(2).min(qos)
    }

    fn build(seed: u64, family: Family, mut rng: Rng) -> Self {
        let rng = &mut rng;
        if family == Family::Fair {
            return crate::fairness::plan(seed, rng);
        }
        let chance = |rng: &mut Rng, of: u64| rng.below(of) == 0;
        let bridge_count = match family {
            Family::TwoBridges => 2,
            _ => 1 + usize::from(chance(rng, 4)),
        };
        let mut remotes = Vec::new();
        let mut bridges = Vec::new();
        for at in 0..bridge_count {
            let servers = if family == Family::Failover { 2 } else { 1 };
            let first = remotes.len();
            for _ in 0..servers {
                remotes.push(remote(rng, family, remotes.len()));
            }
            let (v5, most) = (remotes[first].v5, remotes[first].qos_max);
            let at_release = remotes[first].at_release;
            for remote in &mut remotes[first..] {
                remote.v5 = v5;
                remote.at_release = at_release;
                // Before MQTT 5 it cannot say so.
                remote.qos_max = if v5 { most } else { 2 };
            }
            bridges.push(bridge(rng, family, at, first..first + servers));
        }
        let mut clients = Vec::new();
        for at in 0..2 + rng.below(3) {
            clients.push(publisher(rng, family, at));
        }
        for at in 0..1 + rng.below(3) {
            clients.push(subscriber(rng, family, at));
        }
        if family == Family::Hostile {
            hostile(rng, &mut clients);
        }
        if family == Family::Shapes {
            for client in &mut clients {
                client.edges = EDGES;
                client.wills = chance(rng, 2);
                client.identifies = true;
            }
        }
        let slots = match family {
            Family::Quota => 6 + u32::try_from(rng.below(8)).unwrap(),
            // Room for what is large: a store without a slot for one of two bridges may repeat.
            Family::Shapes => 400 + u32::try_from(rng.below(40)).unwrap(),
            _ => 24 + u32::try_from(rng.below(40)).unwrap(),
        };
        let safety_us = MINUTE * (1 + rng.below(4));
        let ring = [32, 64, 256][pick(rng, 3)];
        // A quarter of it takes the largest.
        let ring = if family == Family::Shapes { 256 } else { ring };
        let ring_bytes = (ring * 1024).max(64 * 1024);
        let mut plan = Self {
            seed,
            family,
            config: String::new(),
            bridges,
            remotes,
            clients,
            slots,
            faults: faults(rng, family),
            fault_every_us: 1_000_000 + rng.below(20_000_000),
            safety_us,
            latency_us: (100 + rng.below(20_000), 1 + rng.below(60_000)),
            drops: drops(family),
            exact: family == Family::Quota,
            ring_bytes,
        };
        plan.config = config(rng, &plan, ring);
        plan
    }
}

fn faults(rng: &mut Rng, family: Family) -> Vec<Fault> {
    let mut kinds: Vec<Fault> = Vec::new();
    if family != Family::Quota {
        kinds.extend(NETWORK);
    }
    match family {
        Family::Plain if rng.below(3) == 0 => kinds.clear(),
        Family::Paces | Family::Shapes if rng.below(2) == 0 => kinds.extend(DEATHS),
        Family::Plain | Family::Paces | Family::Hostile | Family::Quota | Family::Shapes => {}
        Family::SlowDisk => kinds.extend(DISK),
        Family::Crashes | Family::TwoBridges | Family::Sessions | Family::Failover => {
            kinds.extend(DEATHS);
            if rng.below(2) == 0 {
                kinds.extend(DEATHS);
                kinds.extend(DISK);
            }
        }
        Family::Fair => {}
        Family::BadDisk => kinds.extend([DISK, DEATHS, &[Fault::Rot, Fault::RotRow]].concat()),
        Family::Refusing => kinds = vec![Fault::Spell, Fault::Spell, Fault::Cut, Fault::Kill],
        Family::LostStore => {
            kinds.extend(DEATHS);
            kinds.push([Fault::LoseCommit, Fault::WipeStore][pick(rng, 2)]);
        }
    }
    if matches!(family, Family::Crashes | Family::Failover | Family::SlowDisk) {
        kinds.push(Fault::RemoteForgets);
    }
    kinds
}

fn drops(family: Family) -> &'static [&'static str] {
    match family {
        Family::Quota | Family::Sessions => &["queue_full"],
        Family::Paces => &["queue_full", "expired"],
        Family::BadDisk => &["corrupt", "corrupt_row", "corrupt_slot_row", "no_rule"],
        Family::SlowDisk => &["queue_full"],
        _ => &[],
    }
}

fn remote(rng: &mut Rng, family: Family, at: usize) -> RemotePlan {
    RemotePlan {
        v5: rng.below(3) > 0,
        receive_maximum: [3, 10, 40, 100][pick(rng, 4)],
        answer_us: [0, 2000, 100_000, 900_000][pick(rng, 4)],
        refuse_in: match family {
            Family::SlowDisk | Family::Refusing if rng.below(2) == 0 => 20,
            _ => 0,
        },
        picky: if family == Family::Refusing { Picky::of(rng) } else { Picky::NOT },
        codes: vec![0x97, 0x80, 0x87, 0x90],
        topics: (0..2).map(|topic| format!("down/{at}/{topic}")).collect(),
        count: u32::try_from(rng.below(60)).unwrap(),
        every_us: 50_000 + rng.below(3_000_000),
        at_release: rng.below(2) == 0,
        qos_max: if rng.below(8) == 0 { 1 } else { 2 },
    }
}

fn bridge(rng: &mut Rng, family: Family, at: usize, servers: std::ops::Range<usize>) -> BridgePlan {
    let name = format!("b{at}");
    let plain = |filter: &str| RulePlan {
        filter: filter.to_string(),
        prefix: String::new(),
        qos: None,
        conflate: false,
    };
    let mut rules = Vec::new();
    if family == Family::Paces {
        rules.push(RulePlan { conflate: true, ..plain("up/c/#") });
        rules.push(RulePlan { prefix: "paced/".to_string(), ..plain("up/r/#") });
    }
    if rng.below(3) == 0 {
        let qos = [None, Some(0), Some(1), Some(2)][pick(rng, 4)];
        rules.push(RulePlan { prefix: format!("site{at}/"), qos, ..plain("up/0/#") });
    }
    rules.push(plain("up/#"));
    if family == Family::TwoBridges {
        // What one remote sends goes to the other.
        rules.push(plain("down/#"));
    }
    BridgePlan {
        client_id: format!("gw-{name}"),
        name,
        rules,
        servers: servers.collect(),
        window: [4, 16, 64][pick(rng, 3)],
    }
}

fn version(rng: &mut Rng) -> Version {
    [Version::V311, Version::V311, Version::V5, Version::V5][pick(rng, 4)]
}

fn publisher(rng: &mut Rng, family: Family, at: u64) -> ClientPlan {
    let family_topics: &[&str] = match family {
        Family::Paces => &["up/c/1", "up/c/2", "up/r/1", "up/r/2", "up/1/x"],
        Family::Refusing => &["up/0/a", "up/1/a", "up/1/b", "up/2/c", "up/3/bad"],
        _ => &["up/0/a", "up/1/a", "up/1/b", "local/a"],
    };
    let qos = [vec![1], vec![2], vec![0, 1, 2], vec![1, 2]][pick(rng, 4)].clone();
    let leaves = if family == Family::Quota { 0 } else { rng.below(3) * 20_000_000 };
    ClientPlan {
        name: format!("pub{at}"),
        version: version(rng),
        clean: rng.below(4) == 0,
        forgets: rng.below(2) == 0,
        keepalive_s: [0, 10, 60][pick(rng, 3)],
        window: [1, 4, 20, 60][pick(rng, 4)],
        filters: Vec::new(),
        topics: family_topics.iter().map(|topic| format!("{topic}{}", rng.below(2))).collect(),
        qos,
        count: 20 + u32::try_from(rng.below(200)).unwrap(),
        every_us: [1000, 30_000, 400_000][pick(rng, 3)],
        bytes_max: [300, 3000, 9000][pick(rng, 3)],
        leaves_after_us: leaves,
        absent_us: rng.below(20_000_000),
        answer_us: 0,
        edges: &[],
        wills: false,
        identifies: false,
        manners: Manners::Polite,
    }
}

fn subscriber(rng: &mut Rng, family: Family, at: u64) -> ClientPlan {
    let filters = [
        vec![("#".to_string(), 2)],
        vec![("up/1/#".to_string(), 2), ("down/#".to_string(), 1)],
        vec![("up/+/a0".to_string(), 1), ("local/#".to_string(), 2)],
        vec![("down/#".to_string(), 2)],
    ];
    let leaves = if family == Family::Quota { 0 } else { 10_000_000 + rng.below(60_000_000) };
    ClientPlan {
        name: format!("sub{at}"),
        version: version(rng),
        clean: rng.below(4) == 0,
        forgets: false,
        keepalive_s: [0, 10, 60][pick(rng, 3)],
        window: 10,
        filters: filters[pick(rng, filters.len())].clone(),
        topics: Vec::new(),
        qos: vec![0],
        count: 0,
        every_us: 1,
        bytes_max: 1,
        leaves_after_us: leaves,
        absent_us: rng.below(40_000_000),
        answer_us: [0, 3000, 300_000][pick(rng, 3)],
        edges: &[],
        wills: false,
        identifies: false,
        manners: Manners::Polite,
    }
}

fn hostile(rng: &mut Rng, clients: &mut Vec<ClientPlan>) {
    let base = publisher(rng, Family::Hostile, 90);
    for at in 0..1 + rng.below(2) {
        clients.push(ClientPlan {
            name: format!("foe{at}"),
            clean: true,
            count: 0,
            every_us: 20_000 + rng.below(400_000),
            absent_us: 500_000,
            manners: Manners::Hostile,
            ..base.clone()
        });
    }
    clients.push(ClientPlan {
        name: "deaf".to_string(),
        clean: rng.below(2) == 0,
        keepalive_s: 0,
        filters: vec![("up/#".to_string(), 1)],
        topics: Vec::new(),
        count: 0,
        leaves_after_us: 0,
        manners: Manners::NeverReads,
        ..base.clone()
    });
    clients.push(ClientPlan {
        name: "flood".to_string(),
        clean: true,
        version: Version::V311,
        window: 90,
        topics: vec!["up/1/f".to_string(), "local/f".to_string()],
        qos: vec![0, 0, 1],
        count: 1500,
        every_us: 200,
        bytes_max: 200,
        leaves_after_us: 0,
        ..base
    });
}

pub fn config(rng: &mut Rng, plan: &Plan, ring: u64) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(text, "{key} = {value}").expect("a string takes it");
    };
    line("node.name", "sim".to_string());
    line("store.path", "/nowhere/spill.db".to_string());
    line("limit.clients", "12".to_string());
    line("limit.sessions", "12".to_string());
    line("limit.subscriptions", "64".to_string());
    line("limit.packet_size", "16KiB".to_string());
    line("limit.retained", "16".to_string());
    line("limit.inflight", [8, 20, 64][pick(rng, 3)].to_string());
    line("ring.messages", ring.to_string());
    line("ring.bytes", plan.ring_bytes.to_string());
    line("store.flush_after", format!("{}ms", [20, 250][pick(rng, 2)]));
    line("listener.lan.url", "mqtt://127.0.0.1:1883".to_string());
    let narrow = matches!(plan.family, Family::Sessions | Family::Quota) && rng.below(2) == 0;
    let most = if narrow { 40 } else { 100_000 };
    line("session.max_messages", most.to_string());
    line("session.max_bytes", if narrow { "20KiB" } else { "64MiB" }.to_string());
    if plan.family != Family::Quota && plan.family != Family::Sessions {
        line("store.sessions_share", "50%".to_string());
    }
    for bridge in &plan.bridges {
        let key = |name: &str| format!("bridge.{}.{name}", bridge.name);
        let urls: Vec<String> =
            bridge.servers.iter().map(|at| format!("mqtt://10.0.0.{}:1883", at + 1)).collect();
        line(&key("server"), urls.join(","));
        line(&key("clientid"), bridge.client_id.clone());
        line(&key("max_inflight"), bridge.window.to_string());
        let v5 = plan.remotes[bridge.servers[0]].v5;
        line(&key("proto_ver"), if v5 || rng.below(4) == 0 { "5" } else { "4" }.to_string());
        line(&key("keepalive"), format!("{}s", [5, 30][pick(rng, 2)]));
        line(&key("ack_timeout"), format!("{}s", [5, 20][pick(rng, 2)]));
        line(&key("backoff_max"), format!("{}s", [2, 20][pick(rng, 2)]));
        if plan.family == Family::Quota {
            let overflow = ["block", "drop_oldest", "drop_newest"][pick(rng, 3)];
            line(&key("overflow"), overflow.to_string());
            line(&key("max_messages"), (20 + rng.below(60)).to_string());
        }
        if rng.below(6) == 0 && plan.family == Family::Paces {
            line(&key("rate"), "20/s".to_string());
        }
        for (at, rule) in bridge.rules.iter().enumerate() {
            let key = |name: &str| format!("bridge.{}.forward.r{at}.{name}", bridge.name);
            line(&key("local_topic"), rule.filter.clone());
            if !rule.prefix.is_empty() {
                line(&key("prefix"), rule.prefix.clone());
            }
            if let Some(qos) = rule.qos {
                line(&key("qos"), qos.to_string());
            }
            if rule.conflate {
                line(&key("conflate"), "true".to_string());
            }
            if rule.prefix == "paced/" {
                line(&key("rate"), "5/s".to_string());
                line(&key("max_messages"), "30".to_string());
            }
            if plan.family == Family::Paces && rng.below(3) == 0 {
                let lane = ["high", "low"][pick(rng, 2)];
                line(&key("priority"), lane.to_string());
            }
        }
        let key = |name: &str| format!("bridge.{}.subscribe.s.{name}", bridge.name);
        line(&key("remote_topic"), "down/#".to_string());
        line(&key("qos"), "2".to_string());
    }
    text
}
