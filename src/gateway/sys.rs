//! `$SYS/…`: the gateway's own figures as topics, under mosquitto's names where it has the figure,
//! else under `$SYS/spillway/`. To a new subscriber they are retained messages, but nothing is
//! kept of them: they are written when somebody asks, and while somebody listens those that have
//! changed are told once an interval. With nobody listening nothing is due. Clients cannot publish
//! there, and no wildcard at the first level matches them [MQTT-4.7.2-1].

use super::Gateway;
use super::conn::Role;
use super::ingest::{Message, Outcome, Payload, Source};
use super::load::LOADS;
use crate::fit::wide;
use crate::mqtt::{Qos, topic};
use crate::queue::outbox::DestId;
use crate::queue::{Push, Reserve};
use crate::vocab::{BridgeId, Instant};
use core::fmt::{Display, Write};
use core::time::Duration;

/// What all of them begin with.
pub(super) const SYS: &str = "$SYS/";

/// Is it a topic that only the gateway speaks on?
pub(super) fn is_own(topic: &str) -> bool {
    topic.strip_prefix("$SYS").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// How often what has changed is told; mosquitto's `sys_interval`.
pub const SYS_INTERVAL: Duration = Duration::from_secs(10);

/// Bytes of a topic: the longest name of a bridge is in it.
const TOPIC_BYTES: usize = 96;
const VALUE_BYTES: usize = 96;

pub(super) struct Sys {
    /// When somebody may listen; NEVER while nobody does.
    due: Instant,
    /// Hashes of the values as they were told last, by figure.
    told: Box<[u64]>,
    outside: Option<Outside>,
}

/// What only the shell knows, in bytes, as of the last `stats` line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outside {
    pub resident: u64,
    resident_max: u64,
    pub store: u64,
    pub store_written: u64,
}

impl Outside {
    pub fn new(resident: u64, store: u64, store_written: u64) -> Self {
        Self { resident, resident_max: resident, store, store_written }
    }
}

/// Figures of all kinds, in their order: `FIGURES`, loads, those of outside, those of bridges.
const ALL: usize = FIGURES.len() + LOADS + OUTSIDE.len();

impl Sys {
    pub(super) fn new(bridges: usize) -> Self {
        let count = ALL + bridges * BRIDGE_FIGURES.len();
        let told = vec![0; count].into_boxed_slice();
        Self { due: Instant::NEVER, told, outside: None }
    }

    /// Bytes `new` allocates.
    pub(super) fn planned_bytes(bridges: usize) -> usize {
        (ALL + bridges * BRIDGE_FIGURES.len()) * size_of::<u64>()
    }
}

/// A topic and what it says now.
#[derive(Default)]
pub(super) struct Figure {
    pub topic: heapless::String<TOPIC_BYTES>,
    pub value: heapless::String<VALUE_BYTES>,
}

type Value = heapless::String<VALUE_BYTES>;

fn number(out: &mut Value, count: impl Display) {
    // Twenty digits fit, and no figure has more than 64 bits.
    let _ = write!(out, "{count}");
}

/// Topic behind `$SYS/`, and how its value is written.
type Row = (&'static str, fn(&Gateway, Instant, &mut Value));

const FIGURES: &[Row] = &[
    ("broker/version", |_, _, out| {
        let _ = write!(out, "spillway version {}", env!("CARGO_PKG_VERSION"));
    }),
    ("broker/uptime", |of, now, out| {
        let _ = write!(out, "{} seconds", now.since(of.started).as_secs());
    }),
    ("broker/clients/total", |of, _, out| number(out, of.sessions.len())),
    ("broker/clients/connected", |of, _, out| number(out, of.clients)),
    ("broker/clients/active", |of, _, out| number(out, of.clients)),
    ("broker/clients/disconnected", |of, _, out| number(out, of.away())),
    ("broker/clients/inactive", |of, _, out| number(out, of.away())),
    ("broker/clients/maximum", |of, _, out| number(out, of.counters.clients_max)),
    ("broker/clients/expired", |of, _, out| number(out, of.counters.sessions_expired)),
    ("broker/subscriptions/count", |of, _, out| number(out, of.subs.len())),
    ("broker/retained messages/count", |of, _, out| number(out, of.retained.len())),
    ("broker/messages/received", |of, _, out| number(out, of.counters.in_packets)),
    ("broker/messages/sent", |of, _, out| number(out, of.counters.out_packets)),
    ("broker/messages/inflight", |of, _, out| number(out, of.queue.totals().inflight)),
    ("broker/messages/stored", |of, _, out| number(out, of.kept())),
    ("broker/store/messages/count", |of, _, out| number(out, of.kept())),
    ("broker/publish/messages/received", |of, _, out| {
        number(out, of.counters.in_msgs + of.counters.recv_msgs);
    }),
    ("broker/publish/messages/sent", |of, _, out| number(out, of.counters.out_msgs)),
    ("broker/publish/messages/dropped", |of, _, out| number(out, of.queue.counters.drops)),
    ("broker/publish/bytes/received", |of, _, out| number(out, of.counters.in_payload)),
    ("broker/publish/bytes/sent", |of, _, out| number(out, of.counters.out_payload)),
    ("broker/bytes/received", |of, _, out| number(out, of.counters.in_bytes)),
    ("broker/bytes/sent", |of, _, out| number(out, of.counters.out_bytes)),
    ("spillway/node", |of, _, out| {
        // A node's name has at most 64 bytes.
        let _ = out.push_str(&of.config.node_name);
    }),
    ("spillway/ring/messages", |of, _, out| number(out, of.queue.ring().0)),
    ("spillway/ring/capacity", |of, _, out| number(out, of.queue.pool.record_count())),
    ("spillway/ring/bytes", |of, _, out| number(out, of.queue.ring().1)),
    ("spillway/store/messages", |of, _, out| number(out, of.queue.totals().stored)),
    ("spillway/store/slots", |of, _, out| number(out, of.queue.in_use().slots)),
    ("spillway/store/capacity", |of, _, out| number(out, of.queue.slot_count())),
    ("spillway/conflated", |of, _, out| number(out, of.queue.counters.conflated)),
    ("spillway/resent", |of, _, out| number(out, of.queue.counters.resent)),
];

/// The same of what only the shell knows.
type OutsideRow = (&'static str, fn(&Outside) -> u64);

const OUTSIDE: &[OutsideRow] = &[
    ("broker/heap/current size", |of| of.resident),
    ("broker/heap/maximum size", |of| of.resident_max),
    ("spillway/store/bytes", |of| of.store),
    ("spillway/store/written bytes", |of| of.store_written),
];

/// Topic behind `$SYS/spillway/bridge/NAME/`.
type BridgeRow = (&'static str, fn(&Gateway, Instant, BridgeId, &mut Value));

const BRIDGE_FIGURES: &[BridgeRow] = &[
    ("up", |of, _, bridge, out| number(out, u64::from(of.link(bridge).is_up()))),
    ("inflight", |of, _, bridge, out| number(out, of.queue.outbox(of.to(bridge)).inflight)),
    ("ring", |of, _, bridge, out| number(out, of.queue.outbox(of.to(bridge)).ram_messages())),
    ("store", |of, _, bridge, out| number(out, of.queue.disk_only(of.to(bridge)))),
    ("waiting", |of, _, bridge, out| number(out, of.queue.outbox(of.to(bridge)).pending)),
    ("oldest_ms", |of, now, bridge, out| {
        let oldest = of.queue.oldest_arrival(of.to(bridge));
        number(out, oldest.map_or(0, |at| now.since(at).as_millis()));
    }),
    ("rtt_ms", |of, _, bridge, out| {
        number(out, of.link(bridge).rtt.smoothed().unwrap_or_default().as_millis());
    }),
    ("reconnects", |of, _, bridge, out| number(out, of.link(bridge).reconnects)),
    ("acked", |of, _, bridge, out| number(out, of.link(bridge).acked)),
    ("quarantined", |of, _, bridge, out| number(out, of.link(bridge).quarantined)),
];

impl Gateway {
    fn to(&self, bridge: BridgeId) -> DestId {
        Self::bridge_dest(bridge)
    }

    /// Sessions without a connection.
    fn away(&self) -> u32 {
        self.sessions.len().saturating_sub(u32::from(self.clients))
    }

    /// Messages that wait for somebody, and those that are retained.
    fn kept(&self) -> u64 {
        self.queue.totals().pending + wide(self.retained.len())
    }

    /// What the shell has just written into a `stats` line.
    pub fn know_outside(&mut self, outside: Outside) {
        let before = self.sys.outside.map_or(0, |outside| outside.resident_max);
        let resident_max = outside.resident_max.max(before);
        self.sys.outside = Some(Outside { resident_max, ..outside });
    }

    fn sys_count(&self) -> usize {
        self.sys.told.len()
    }

    /// The topic of figure `at`; `false` = there is no such figure now.
    fn sys_topic(&self, at: usize, out: &mut Figure) -> bool {
        out.topic.clear();
        // Names and prefixes are shorter than the room for them.
        if let Some((name, _)) = FIGURES.get(at) {
            return write!(out.topic, "{SYS}{name}").is_ok();
        }
        let at = at - FIGURES.len();
        if let Some((count, span, _)) = self.load.get(at) {
            return write!(out.topic, "{SYS}broker/load/{count}/{span}").is_ok();
        }
        let at = at - LOADS;
        if let Some((name, _)) = OUTSIDE.get(at) {
            return self.sys.outside.is_some() && write!(out.topic, "{SYS}{name}").is_ok();
        }
        let at = at - OUTSIDE.len();
        let (bridge, row) = (at / BRIDGE_FIGURES.len(), at % BRIDGE_FIGURES.len());
        let Some(config) = self.config.bridges.get(bridge) else { return false };
        let name = BRIDGE_FIGURES[row].0;
        !config.is_vacant()
            && write!(out.topic, "{SYS}spillway/bridge/{}/{name}", config.name).is_ok()
    }

    fn sys_value(&self, now: Instant, at: usize, out: &mut Figure) {
        out.value.clear();
        if let Some((_, write)) = FIGURES.get(at) {
            return write(self, now, &mut out.value);
        }
        let at = at - FIGURES.len();
        if let Some((_, _, average)) = self.load.get(at) {
            // No average has more digits than there is room for.
            let _ = write!(out.value, "{average:.2}");
            return;
        }
        let at = at - LOADS;
        if let (Some((_, value)), Some(outside)) = (OUTSIDE.get(at), &self.sys.outside) {
            return number(&mut out.value, value(outside));
        }
        let Some(at) = at.checked_sub(OUTSIDE.len()) else { return };
        let (bridge, row) = (at / BRIDGE_FIGURES.len(), at % BRIDGE_FIGURES.len());
        if let Ok(bridge) = u16::try_from(bridge) {
            (BRIDGE_FIGURES[row].1)(self, now, BridgeId(bridge), &mut out.value);
        }
    }

    /// The first figure at `cursor` or behind it whose topic matches, and the next cursor.
    pub(super) fn next_sys(
        &self,
        now: Instant,
        filter: &str,
        cursor: usize,
    ) -> Option<(usize, Figure)> {
        if !filter.starts_with(SYS) {
            return None;
        }
        let mut figure = Figure::default();
        let at = (cursor..self.sys_count())
            .find(|at| self.sys_topic(*at, &mut figure) && topic::matches(filter, &figure.topic))?;
        self.sys_value(now, at, &mut figure);
        Some((at + 1, figure))
    }

    /// Somebody may listen from here on, if this is a filter that matches figures.
    pub(super) fn hear_sys(&mut self, now: Instant, filter: &str) {
        let plain = topic::split_shared(filter).map_or(filter, |(_, plain)| plain);
        if plain.starts_with(SYS) {
            self.count_load(now);
            self.sys.due = self.sys.due.min(now.plus(SYS_INTERVAL));
            self.due_by(self.sys.due);
        }
    }

    /// The same for what a session that is resumed has subscribed to.
    pub(super) fn session_hears_sys(&mut self, now: Instant, session: u16) {
        if self.listens(session) {
            self.hear_sys(now, SYS);
        }
    }

    /// The same for the rules of a bridge.
    pub(super) fn bridge_hears_sys(&mut self, now: Instant, bridge: BridgeId) {
        if self.forwards_sys(bridge) {
            self.hear_sys(now, SYS);
        }
    }

    fn listens(&self, session: u16) -> bool {
        self.subs.of_session(session).any(|(filter, _)| {
            topic::split_shared(filter).map_or(filter, |(_, plain)| plain).starts_with(SYS)
        })
    }

    fn forwards_sys(&self, bridge: BridgeId) -> bool {
        self.link(bridge).rules.forward.iter().any(|rule| rule.local_topic.starts_with(SYS))
    }

    fn has_sys_listener(&self) -> bool {
        let listens = |role| match role {
            Role::Client { session } => self.listens(session),
            Role::Link { bridge } => self.link(bridge).is_up() && self.forwards_sys(bridge),
            Role::Free | Role::Greeting | Role::Closing => false,
        };
        self.conns.iter().any(|conn| listens(conn.role))
    }

    /// Tells those who listen what has changed; when it is due again.
    pub(super) fn tell_sys(&mut self, now: Instant) -> Instant {
        if now < self.sys.due {
            return self.sys.due;
        }
        if !self.has_sys_listener() || self.stop.is_some() {
            self.sys.due = Instant::NEVER;
            return Instant::NEVER;
        }
        self.sys.due = now.plus(SYS_INTERVAL);
        let mut figure = Figure::default();
        for at in 0..self.sys_count() {
            if !self.sys_topic(at, &mut figure) {
                continue;
            }
            self.sys_value(now, at, &mut figure);
            let hash = topic::topic_hash(&figure.value);
            if self.sys.told[at] == hash {
                continue;
            }
            let message = Message {
                topic: &figure.topic,
                qos: Qos::AtMostOnce,
                // Told to who has subscribed, and kept nowhere.
                retain: false,
                properties: &[],
                expiry_s: None,
                payload: Payload::Here(figure.value.as_bytes()),
            };
            if matches!(self.route(now, Source::Own, &message), Outcome::Routed { .. }) {
                self.sys.told[at] = hash;
            }
        }
        self.sys.due
    }

    /// Puts a figure into a session's queue as the retained message that it stands for. `false`:
    /// there is no room now.
    pub(super) fn queue_sys(&mut self, now: Instant, slot: u16, dest: DestId, of: &Figure) -> bool {
        if !self.may_be_sent(dest, &of.topic) {
            return true;
        }
        let bytes = of.topic.len() + of.value.len();
        if !self.queue.fits(Reserve::ForOthers, bytes, 1) {
            return false;
        }
        let Some(record) = self.own_record(now, &of.topic, of.value.as_bytes()) else {
            return false;
        };
        let qos = Qos::AtMostOnce;
        let push = Push { qos, retain: true, stream: 0, rule: 0, hold: false, conflate: None };
        self.queue.push(dest, record, push);
        self.queue.pool.release(record);
        self.ready.set(slot);
        true
    }
}
