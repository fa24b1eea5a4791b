//! The gateway: codec, sessions, bridges and queue put together behind a few verbs.
//!
//! It takes `now`, bytes and events and yields bytes, actions, notes and the next deadline. It
//! never reads a clock, opens a socket, touches a file or draws entropy; the shell does. A turn of
//! the shell is: `receive` and `handle` → `expire` → `flush` → `transmit` → actions → notes.
//! An acknowledgement is emitted by `transmit` only when it is true: when every destination has
//! settled the message. That is an invariant of `egress`, not a calling convention.

mod admit;
mod alias;
mod brought;
mod circle;
mod clients;
mod conn;
mod counters;
mod covered;
mod egress;
mod ends;
mod failback;
mod greeting;
mod ingest;
mod kept;
mod links;
mod load;
mod login;
pub mod mark;
mod network;
mod notices;
mod open;
mod oversize;
mod pay;
mod persist;
mod places;
mod plan;
mod reasons;
mod receive;
mod refusals;
mod reload;
mod replies;
mod service;
mod share;
pub mod slow;
pub mod stats;
mod subject;
mod subscribe;
pub mod sys;
#[cfg(test)]
mod tests;
mod turns;
mod unsubscribe;
mod unwelcome;
pub mod verbs;
mod waiting;
mod wills;

use crate::bridge::circle::Circle;
use crate::bridge::link::{Link, State};
use crate::broker::access::Access;
use crate::broker::logins::Logins;
use crate::broker::retained::RetainedMessages;
use crate::broker::session::{Sessions, Will};
use crate::broker::subs::Subs;
use crate::config::{Bridge, Config};
use crate::fit::{fit, wide};
use crate::limits::{
    REFUSAL_CONNECTIONS, STOP_WITHIN, STORE_REST_MAX, STORE_REST_SHARE, STORE_SLOW, STORE_SLOW_FOR,
};
use crate::note::Note;
use crate::queue::Queue;
use crate::queue::marks::Marks;
use crate::queue::outbox::DestId;
use crate::vocab::{BridgeId, ConnId, Instant, Rng};
use conn::{Conn, Role};
use core::time::Duration;
use counters::Counters;
use ends::Blame;
use open::{SCRATCH_BYTES, connect_bytes, setup};
use std::collections::VecDeque;
pub use verbs::{Action, Event, Taken};

#[derive(Clone, Copy, Debug)]
struct Stop {
    since: Instant,
    deadline: Instant,
    exited: bool,
}

pub struct Gateway {
    config: Config,
    queue: Queue,
    sessions: Sessions,
    subs: Subs,
    /// Users and access rules; others go in by [`Gateway::set_auth`].
    access: Access,
    logins: Logins,
    retained: RetainedMessages,
    links: Vec<Link>,
    gone: unsubscribe::Gone,
    /// Clients that are gone, the last ones.
    clients_gone: subject::Departed,
    conns: Box<[Conn]>,
    /// Slots of local connections; those of links follow, two a bridge.
    client_slots: u16,
    clients: u16,
    ready: Marks,
    resume: Marks,
    /// Connections whose search for retained messages goes on in the next turn, how many there were
    /// in the last, and what the one at hand may still look at.
    later: Marks,
    searchers: u32,
    looks: u32,
    actions: VecDeque<Action>,
    notes: VecDeque<Note>,
    notes_lost: u64,
    rng: Rng,
    plan: plan::Plan,
    circle: Circle,
    /// Connections that waited for room when bridges began to hold back for it.
    parked_at_hold: u32,
    scratch: Box<[u8]>,
    topic: Box<[u8]>,
    /// Topic aliases of clients.
    heard: alias::Aliases,
    /// Ours, towards clients and remotes.
    told: alias::Aliases,
    now: Instant,
    started: Instant,
    due: Instant,
    counters: Counters,
    sys: sys::Sys,
    load: load::Load,
    stop: Option<Stop>,
    /// A configuration that was read again, until the next flush.
    reloading: Option<Box<Config>>,
    /// `queue` changes seen when parked publishes were last tried.
    parked_at: u64,
    parked: u32,
    /// Blocks and records of PUBLISHes that are not routed yet.
    kept_blocks: u32,
    kept_of_clients: u32,
    kept_records: u32,
    /// They are tried again then in any case: something may have expired that is in their way.
    shed_at: Instant,
    node_id: u64,
    meta_dirty: bool,
    /// The last flush failed or left them out: rows of sessions may wait for the next.
    rows_due: bool,
    /// Commits with the rows of all sessions; on a full disk there are others.
    rows_saved: u64,
    retained_since: Option<Instant>,
    drops_at: Instant,
    zero_retry_at: Instant,
    /// `notify_topic` of every bridge says something.
    announced: bool,
    notices: notices::Notices,
    /// Wills of sessions that have ended, or of clients that had to give way, that wait for room at
    /// a destination, and when they are tried next.
    wills_waiting: VecDeque<(String, Will)>,
    wills_at: Instant,
    /// Sessions that ended and whose rows have to go.
    forgotten: Vec<String>,
    /// Longest time away in the store, until when it is remembered.
    absence: Duration,
    absence_until: Instant,
    mark: mark::Mark,
    store_damaged: bool,
    /// Of the end at hand.
    blame: Blame,
}

impl Gateway {
    /// Allocates everything the configuration sizes. `seed` is entropy; `slot_count` is what the
    /// store can hold (0 = RAM only).
    pub fn new(mut config: Config, seed: u64, slot_count: u32, now: Instant) -> Self {
        config.bridges.resize_with(config.bridge_room(), Bridge::vacant);
        let mut rng = Rng::new(seed);
        let setup = setup(&config, slot_count);
        let client_slots = config.limit.clients.saturating_add(REFUSAL_CONNECTIONS);
        let link_slots = fit(config.bridges.len() * 2, "links");
        let mut conns: Vec<Conn> =
            (0..client_slots).map(|_| Conn::new(config.limit.inflight, 0)).collect();
        for slot in 0..link_slots {
            let bridge = &config.bridges[usize::from(slot / 2)];
            conns.push(Conn::new(inbound_window(&config), connect_bytes(bridge)));
        }
        let destinations = setup.boxes.len();
        let limit = &config.limit;
        let node_id = rng.next_u64();
        let mut gateway = Self {
            queue: Queue::new(setup),
            sessions: Sessions::new(limit.sessions),
            subs: Subs::new(limit.subscriptions, limit.topic_bytes, limit.sessions),
            retained: RetainedMessages::new(
                limit.retained,
                limit.retained_bytes,
                limit.topic_bytes,
            ),
            access: Access::new(config.auth.clone()),
            logins: Logins::new(),
            links: Vec::with_capacity(config.bridges.len()),
            gone: unsubscribe::Gone::new(),
            clients_gone: heapless::Deque::new(),
            heard: alias::Aliases::new(usize::from(client_slots), limit.topic_bytes),
            told: alias::Aliases::new(conns.len(), limit.topic_bytes),
            ready: Marks::new(conns.len()),
            resume: Marks::new(conns.len()),
            later: Marks::new(conns.len()),
            searchers: 0,
            looks: 0,
            conns: conns.into_boxed_slice(),
            client_slots,
            clients: 0,
            actions: VecDeque::with_capacity(4 * usize::from(client_slots + link_slots) + 16),
            notes: VecDeque::with_capacity(NOTES_MAX),
            notes_lost: 0,
            rng,
            plan: plan::Plan::new(destinations, usize::from(limit.subscriptions)),
            circle: Circle::new(),
            parked_at_hold: 0,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            topic: vec![0; 2 * TOPIC_BYTES].into_boxed_slice(),
            now,
            started: now,
            due: now,
            counters: Counters::default(),
            sys: sys::Sys::new(config.bridges.len()),
            load: load::Load::new(now),
            stop: None,
            reloading: None,
            parked_at: 0,
            parked: 0,
            kept_blocks: 0,
            kept_of_clients: 0,
            kept_records: 0,
            shed_at: Instant::NEVER,
            node_id,
            meta_dirty: true,
            rows_due: false,
            rows_saved: 0,
            retained_since: None,
            drops_at: Instant::NEVER,
            zero_retry_at: Instant::ZERO,
            announced: false,
            notices: notices::Notices::new(config.bridge_room()),
            wills_waiting: VecDeque::new(),
            wills_at: Instant::NEVER,
            forgotten: Vec::new(),
            absence: Duration::ZERO,
            absence_until: Instant::ZERO,
            mark: mark::Mark::default(),
            store_damaged: false,
            blame: Blame::default(),
            config,
        };
        gateway.open_bridges();
        gateway
    }

    /// Memory `new` takes, by part, in bytes.
    pub fn plan(config: &Config, slot_count: u32) -> Vec<(&'static str, u64)> {
        let setup = setup(config, slot_count);
        let [ring, entries, log] = Queue::planned_bytes(&setup);
        let limit = &config.limit;
        let clients = usize::from(limit.clients.saturating_add(REFUSAL_CONNECTIONS));
        let client = Conn::planned_bytes(limit.inflight, 0) + kept::Inbound::planned_bytes(1);
        let link = kept::Inbound::planned_bytes(inbound_window(config));
        let connections = clients * client
            + config
                .bridges
                .iter()
                .chain(core::iter::repeat(&Bridge::vacant()))
                .take(config.bridge_room())
                .map(|b| 2 * (link + Conn::planned_bytes(inbound_window(config), connect_bytes(b))))
                .sum::<usize>();
        let sessions = Sessions::planned_bytes(limit.sessions, limit.client_id_bytes)
            + Subs::bytes_planned(limit.subscriptions, limit.topic_bytes, limit.sessions)
            + plan::Plan::planned_bytes(setup.boxes.len(), usize::from(limit.subscriptions))
            + limit.will_bytes;
        let tables = 2 * clients + 2 * config.bridge_room();
        let aliases = alias::Aliases::planned_bytes(tables, limit.topic_bytes);
        let retained = RetainedMessages::bytes_planned(limit.retained, limit.retained_bytes);
        let scratch = SCRATCH_BYTES
            + open::passing_bytes(limit)
            + 2 * TOPIC_BYTES
            + sys::Sys::planned_bytes(config.bridge_room())
            + Circle::planned_bytes();
        let parts = [
            ("ring", ring),
            ("queues", entries),
            ("store directory", log),
            ("connections", connections),
            ("topic aliases", aliases),
            ("sessions and subscriptions", sessions),
            ("retained", retained),
            ("scratch", scratch),
            ("users and access rules", config.auth.bytes() + size_of::<Logins>()),
        ];
        parts.map(|(name, bytes)| (name, wide(bytes))).to_vec()
    }

    /// Seconds since 1970 as far as the router knows; once a turn.
    pub fn set_wall(&mut self, wall_s: u64) {
        self.mark.wall_s = wall_s;
        self.queue.set_wall(wall_s);
    }

    /// How the system's clocks stand at `now`: from here on the store remembers the gateway's.
    pub fn set_clocks(&mut self, now: Instant, readings: mark::Readings) {
        self.mark.know(now, readings);
        self.queue.set_wall(readings.wall_s);
    }

    /// The wall clock has jumped; before the next `flush`.
    pub fn wall_jumped(&mut self) {
        self.mark.outdated();
    }

    /// A fact from the shell.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) {
        self.now = now;
        match event {
            Event::Resolved { bridge, addrs, reason } => {
                self.link_resolved(now, bridge, addrs, reason);
            }
            Event::Connected { conn } => self.link_connected(now, conn),
            Event::Probed { bridge, ok } => self.link_probed(now, bridge, ok),
            Event::Outstanding { conn, bytes } => self.outstanding(now, conn, bytes),
            Event::PeerFinished { conn } => self.peer_finished(now, conn),
            Event::Slow { conn, size, rate } => self.is_slow(now, conn, size, rate),
            Event::Here { conn, bytes } => self.lies_here(now, conn, bytes),
            Event::Closed { conn, reason } => self.closed(now, conn, reason),
            Event::NetworkChanged { bridge, what } => self.network_changed(now, bridge, what),
            Event::Stop { signal } => self.begin_stop(now, signal),
        }
        self.collect();
    }

    /// Does what is due. Spurious calls do nothing.
    pub fn expire(&mut self, now: Instant) {
        self.now = now;
        if now >= self.drops_at {
            self.drops_at = if self.queue.report_drops() {
                now.plus(Duration::from_secs(1))
            } else {
                Instant::NEVER
            };
        }
        self.expire_logins(now);
        self.count_load(now);
        if now < self.due {
            return;
        }
        if !core::mem::replace(&mut self.announced, true) {
            self.announce_all_down(now);
        }
        let clients = self.expire_clients(now);
        let links = self.expire_links(now);
        let sessions = self.expire_sessions(now);
        self.due = clients.min(links).min(sessions).min(self.expire_wills(now));
        self.due = self.due.min(self.expire_notices(now)).min(self.expire_pressure(now));
        self.retained.expire(now);
        self.due = self.due.min(self.retained.expires_at()).min(self.tell_sys(now));
        self.due = self.due.min(self.expire_filling(now));
        self.expire_stop(now);
        self.collect();
    }

    /// When `expire` or `flush` has something to do if nothing else happens.
    pub fn poll_at(&self) -> Instant {
        if !self.later.is_empty() {
            return self.now;
        }
        let retained = self
            .retained_since
            .map_or(Instant::NEVER, |t| t.plus(self.config.store.retained_after));
        let retained =
            if retained == Instant::NEVER { retained } else { self.queue.not_before(retained) };
        if self.parked > 0 && self.queue.changes() != self.parked_at {
            return self.now;
        }
        let retained = if self.rows_due {
            retained.min(self.queue.not_before(Instant::ZERO))
        } else {
            retained
        };
        let parked = if self.parked > 0 { self.shed_at } else { Instant::NEVER };
        let flush = self.queue.flush_at(self.now);
        let logins = self.logins.due_at();
        self.due.min(self.drops_at).min(logins).min(flush).min(retained).min(parked)
    }

    /// A connection that may have bytes to transmit.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        loop {
            let slot = self.ready.pop()?;
            let conn = &self.conns[usize::from(slot)];
            if conn.role != Role::Free {
                return Some(conn.id(slot));
            }
        }
    }

    /// Nothing is owed on this connection, either way: the next word is the peer's own.
    pub fn is_over(&self, id: ConnId) -> bool {
        let Some(slot) = self.live(id) else { return true };
        let conn = self.conn(slot);
        let owed = conn.inbound_count() + conn.pubcomps.len() + conn.control_left();
        let pending = self.dest_of(slot).map_or(0, |dest| self.queue.outbox(dest).pending);
        owed == 0 && pending == 0
    }

    /// A connection whose kept bytes should be presented again.
    pub fn poll_resume(&mut self) -> Option<ConnId> {
        loop {
            let slot = self.resume.pop()?;
            let conn = &mut self.conns[usize::from(slot)];
            if conn.role != Role::Free {
                conn.retry = true;
                return Some(conn.id(slot));
            }
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub fn poll_note(&mut self) -> Option<Note> {
        if let Some(note) = self.notes.pop_front() {
            return Some(note);
        }
        let suppressed = core::mem::take(&mut self.notes_lost);
        if suppressed > 0 {
            return Some(Note::LogLimited { of: "any", suppressed, count: None });
        }
        self.queue.poll_note()
    }

    /// The store has kept the loop until `now`. It rests before it is written to again, in
    /// proportion: sockets are served meanwhile. Returns until when.
    pub fn store_took(&mut self, now: Instant, took: Duration) -> Instant {
        self.now = now;
        if took >= self.absence || now >= self.absence_until {
            self.absence = took;
            self.absence_until = now.plus(STORE_SLOW_FOR);
            // Links may have to ping sooner.
            self.due_by(now);
        }
        if took < STORE_SLOW || self.stop.is_some() {
            return now;
        }
        let until = now.plus((took / STORE_REST_SHARE).min(STORE_REST_MAX));
        self.queue.rest(until);
        until
    }

    /// The longest time that the loop has lately been away in the store.
    fn absence(&self, now: Instant) -> Duration {
        if now < self.absence_until { self.absence } else { Duration::ZERO }
    }

    /// The store is damaged: what is in it has to be salvaged by a new start.
    pub fn is_store_damaged(&self) -> bool {
        self.store_damaged
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    fn begin_stop(&mut self, now: Instant, signal: &'static str) {
        if self.stop.is_some() {
            return;
        }
        self.note(Note::Stopping { signal });
        self.stop = Some(Stop { since: now, deadline: now.plus(STOP_WITHIN), exited: false });
        self.queue.begin_stop();
        self.due_by(now);
    }

    fn note(&mut self, note: Note) {
        let room = if note.part() == "client" { NOTES_OF_CLIENTS_MAX } else { NOTES_MAX };
        if self.notes.len() < room {
            self.notes.push_back(note);
        } else {
            self.notes_lost += 1;
        }
    }

    fn due_by(&mut self, at: Instant) {
        self.due = self.due.min(at);
    }

    fn live(&self, id: ConnId) -> Option<u16> {
        let conn = self.conns.get(usize::from(id.slot))?;
        (conn.generation == id.generation && conn.role != Role::Free).then_some(id.slot)
    }

    fn conn(&self, slot: u16) -> &Conn {
        &self.conns[usize::from(slot)]
    }

    fn conn_mut(&mut self, slot: u16) -> &mut Conn {
        &mut self.conns[usize::from(slot)]
    }

    fn link(&self, bridge: BridgeId) -> &Link {
        &self.links[usize::from(bridge.0)]
    }

    fn link_mut(&mut self, bridge: BridgeId) -> &mut Link {
        &mut self.links[usize::from(bridge.0)]
    }

    fn bridge_dest(bridge: BridgeId) -> DestId {
        DestId(bridge.0)
    }

    fn session_dest(&self, session: u16) -> DestId {
        DestId(fit::<u16, _>(self.links.len(), "bridges") + session)
    }

    /// The destination that a connection's packets belong to.
    fn dest_of(&self, slot: u16) -> Option<DestId> {
        match self.conn(slot).role {
            Role::Client { session } => Some(self.session_dest(session)),
            Role::Link { bridge } => {
                let id = self.conn(slot).id(slot);
                let up = self.link(bridge).state == State::Up { conn: id };
                up.then_some(Self::bridge_dest(bridge))
            }
            Role::Free | Role::Greeting | Role::Closing => None,
        }
    }

    /// The connection of a destination, if it has one that stands.
    fn conn_of(&self, dest: DestId) -> Option<u16> {
        if dest == self.queue.aside() {
            return None;
        }
        match self.links.get(usize::from(dest.0)) {
            Some(link) => match link.state {
                State::Up { conn } => Some(conn.slot),
                _ => None,
            },
            None => self.sessions[dest.0 - fit::<u16, _>(self.links.len(), "bridges")].conn,
        }
    }

    /// Marks what the queue woke.
    fn collect(&mut self) {
        while let Some(slot) = self.queue.poll_woken() {
            self.ready.set(slot);
        }
        if self.drops_at == Instant::NEVER && self.queue.has_drops() {
            self.drops_at = self.now;
        }
    }
}

/// Notes the core keeps until the shell takes them; more are counted.
const NOTES_MAX: usize = 256;

/// So many of them may be about clients: a crowd of these leaves room for what else there is.
const NOTES_OF_CLIENTS_MAX: usize = 192;

/// Bytes of the longest topic MQTT knows.
const TOPIC_BYTES: usize = 65_535;

/// Messages of QoS 1/2 a remote may have unacknowledged towards us.
fn inbound_window(config: &Config) -> u16 {
    config.limit.inflight.max(16)
}
