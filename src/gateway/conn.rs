//! One connection as the core sees it: who it is, what it is owed, what is half written. No
//! socket, no buffer of packets: owed acknowledgements are a few bytes each and bounded.

use super::alias::Alias;
use super::kept::Inbound;
use super::reasons::Reader;
use crate::limits::CONTROL_BYTES;
use crate::mqtt::{PacketId, Reason, Version};
use crate::queue::outbox::DestId;
use crate::queue::pool::RecordId;
use crate::vocab::{BridgeId, ConnId, Instant};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Free,
    /// A local connection whose CONNECT has not come.
    Greeting,
    /// A local client with its session.
    Client {
        session: u16,
    },
    /// The link of a bridge (or the one that may become it).
    Link {
        bridge: BridgeId,
    },
    /// Says its last words.
    Closing,
}

/// An acknowledgement that is owed for a received PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debt {
    pub packet_id: PacketId,
    pub reason: Reason,
    /// Payable when every destination has settled it; `None` = at once.
    pub record: Option<RecordId>,
    /// Payable after this many commits.
    pub after: u64,
    /// Payable when this owner's row in the store has the identifier.
    pub owner: Option<DestId>,
}

/// Debts of one kind, in the order of their PUBLISHes [MQTT-4.6.0]. Memory comes with the first and
/// stays until the connection ends: who never publishes costs nothing.
pub struct Debts {
    ring: VecDeque<Debt>,
    count_max: usize,
}

impl Debts {
    pub fn new(count: u16) -> Self {
        let count_max = usize::from(count.max(1));
        Self { ring: VecDeque::new(), count_max }
    }

    pub fn planned_bytes(count: u16) -> usize {
        usize::from(count.max(1)) * size_of::<Debt>()
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    pub fn is_full(&self) -> bool {
        self.ring.len() == self.count_max
    }

    /// Room was asked for by `is_full`.
    pub fn push(&mut self, debt: Debt) {
        assert!(!self.is_full(), "the window of a publisher bounds its debts");
        let count = self.ring.len();
        if count == self.ring.capacity() {
            // Never more than was planned.
            self.ring.reserve_exact(count.max(4).min(self.count_max - count));
        }
        self.ring.push_back(debt);
    }

    pub fn front(&self) -> Option<&Debt> {
        self.ring.front()
    }

    pub fn pop(&mut self) {
        self.ring.pop_front();
    }

    pub fn contains(&self, id: PacketId) -> bool {
        self.ring.iter().any(|debt| debt.packet_id == id)
    }

    /// The message of a debt was given up: it is refused. Its identifier, if there is such a debt.
    pub fn refuse(&mut self, record: RecordId) -> Option<PacketId> {
        let debt = self.ring.iter_mut().find(|debt| debt.record == Some(record))?;
        debt.reason = Reason::QUOTA_EXCEEDED;
        debt.owner = None;
        Some(debt.packet_id)
    }

    pub fn clear(&mut self) {
        self.ring = VecDeque::new();
    }
}

/// A PUBLISH that is larger than the buffer it is written into: resumed where it stopped.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    pub entry: u32,
    /// Pinned until the packet is written.
    pub record: RecordId,
    pub packet_id: Option<PacketId>,
    pub dup: bool,
    pub qos: crate::mqtt::Qos,
    pub retain: bool,
    pub rule: u8,
    pub alias: Alias,
    /// Message expiry interval as the first bytes said it.
    pub expiry_s: Option<u32>,
    /// Bytes of its head, once some of it is written.
    pub head: usize,
    /// Bytes written so far.
    pub done: usize,
}

/// Where a SUBSCRIBE whose retained messages are being delivered stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub filter: usize,
    pub cursor: usize,
    /// The same among the gateway's own figures.
    pub sys: usize,
}

/// Replies that promise what is not in the store yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    /// Where in `control` they begin.
    at: usize,
    /// They may leave after this many commits of the rows of sessions.
    after: u64,
    /// Nothing else may leave before them.
    all: bool,
}

pub struct Conn {
    pub role: Role,
    pub generation: u16,
    pub peer: SocketAddr,
    pub listener: u16,
    pub version: Version,
    pub opened_at: Instant,
    pub closing_at: Instant,
    pub received_at: Instant,
    /// When it last sent a whole packet, or a good part of one: single bytes keep nobody alive.
    pub alive_at: Instant,
    /// Bytes of an unfinished packet it has sent.
    pub begun_bytes: usize,
    pub sent_at: Instant,
    /// When it last sent part of a packet that was not whole then.
    pub part_at: Instant,
    /// Bytes it was given in all.
    pub produced: u64,
    /// Zero = none. For clients one and a half times what was agreed.
    pub keepalive: Duration,
    /// One-off replies, encoded. Without memory while there are none.
    pub control: Vec<u8>,
    pub control_sent: usize,
    gate: Option<Gate>,
    control_bytes: usize,
    pub pubacks: Debts,
    pub pubrecs: Debts,
    pub pubcomps: Debts,
    /// QoS 2 messages taken over this connection and not released.
    pub unreleased: usize,
    /// It was told that it has more of them than it is sure of.
    pub beyond_share: bool,
    /// A debt waits for a commit.
    pub awaits_commit: bool,
    /// Bytes at the start of its buffer that are PUBLISHes which found no room.
    pub parked: usize,
    /// Unacknowledged publishes at which it stops by itself; 0 = not known.
    pub window_learned: usize,
    /// One of them is of QoS 0: those behind it wait too, for the order.
    pub zero_parked: bool,
    /// One of them has a topic alias: what is behind it waits too.
    pub alias_parked: bool,
    /// PUBLISHes in the ring that are not routed yet.
    pub inbound: Inbound,
    /// It counts among those that wait for room.
    pub waits: bool,
    /// What waits should be tried again.
    pub retry: bool,
    /// Bytes to come of a packet that is acknowledged already and passed over.
    pub swallow_left: usize,
    pub subscribing: Option<Progress>,
    /// A packet waits for room among the replies or debts.
    pub stalled: bool,
    pub sending: Option<Sending>,
    /// Alternates between QoS 0 and the others.
    pub zero_turn: bool,
    /// Largest packet the peer takes.
    pub packet_bytes_max: usize,
    /// Topic aliases the peer takes.
    pub aliases_max: u16,
    /// Reason Strings may be in every packet (MQTT 5 Request Problem Information).
    pub wants_problems: bool,
    /// When a paced stream may send again.
    pub pace_at: Instant,
    /// It has said CONNECT.
    pub greeted: bool,
    /// It is a bridge of 3.1 or 3.1.1 and said so: no-local and retain-as-published for all it
    /// subscribes to.
    pub bridge: bool,
    /// What it called itself then, while its password is looked at.
    pub called: Option<Box<str>>,
    /// A local connection counts against `limit.clients`.
    pub counted: bool,
}

impl Conn {
    pub fn new(inflight: u16, control_bytes: usize) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let control_bytes = control_bytes.max(CONTROL_BYTES);
        Self {
            role: Role::Free,
            generation: 0,
            peer: nowhere,
            listener: 0,
            version: Version::V311,
            opened_at: Instant::ZERO,
            closing_at: Instant::ZERO,
            received_at: Instant::ZERO,
            alive_at: Instant::ZERO,
            begun_bytes: 0,
            sent_at: Instant::ZERO,
            part_at: Instant::ZERO,
            produced: 0,
            keepalive: Duration::ZERO,
            control: Vec::new(),
            control_sent: 0,
            gate: None,
            control_bytes,
            pubacks: Debts::new(inflight),
            pubrecs: Debts::new(inflight),
            pubcomps: Debts::new(inflight),
            awaits_commit: false,
            parked: 0,
            zero_parked: false,
            alias_parked: false,
            inbound: Inbound::default(),
            waits: false,
            window_learned: 0,
            unreleased: 0,
            beyond_share: false,
            retry: false,
            swallow_left: 0,
            subscribing: None,
            stalled: false,
            sending: None,
            zero_turn: false,
            packet_bytes_max: usize::MAX,
            aliases_max: 0,
            wants_problems: true,
            pace_at: Instant::NEVER,
            greeted: false,
            bridge: false,
            called: None,
            counted: false,
        }
    }

    pub fn planned_bytes(inflight: u16, control_bytes: usize) -> usize {
        size_of::<Self>() + control_bytes.max(CONTROL_BYTES) + 3 * Debts::planned_bytes(inflight)
    }

    /// A fresh connection in this slot.
    pub fn open(&mut self, role: Role, peer: SocketAddr, now: Instant) {
        assert!(self.role == Role::Free, "a slot is opened when it is free");
        self.role = role;
        self.generation = self.generation.wrapping_add(1);
        self.peer = peer;
        self.version = Version::V311;
        self.opened_at = now;
        self.received_at = now;
        self.alive_at = now;
        self.begun_bytes = 0;
        self.sent_at = now;
        self.part_at = Instant::ZERO;
        self.produced = 0;
        self.keepalive = Duration::ZERO;
        self.forget_control();
        self.forget_debts();
        self.parked = 0;
        self.zero_parked = false;
        self.alias_parked = false;
        assert!(self.inbound.is_empty() && !self.waits, "a connection ends with what it waits for");
        self.window_learned = 0;
        self.unreleased = 0;
        self.beyond_share = false;
        self.retry = false;
        self.swallow_left = 0;
        self.subscribing = None;
        self.stalled = false;
        self.zero_turn = false;
        self.packet_bytes_max = usize::MAX;
        self.aliases_max = 0;
        self.wants_problems = true;
        self.pace_at = Instant::NEVER;
        self.greeted = false;
        self.bridge = false;
        self.called = None;
        self.counted = false;
    }

    pub fn forget_debts(&mut self) {
        self.pubacks.clear();
        self.pubrecs.clear();
        self.pubcomps.clear();
        self.awaits_commit = false;
    }

    /// The peer, as far as it matters for what it is told.
    pub fn reader(&self) -> Reader {
        Reader {
            version: self.version,
            problems: self.wants_problems,
            packet_bytes_max: self.packet_bytes_max,
        }
    }

    pub fn id(&self, slot: u16) -> ConnId {
        ConnId { slot, generation: self.generation }
    }

    /// Room for one more one-off reply of so many bytes?
    pub fn has_control_room(&self, bytes: usize) -> bool {
        let used = if self.control_left() == 0 { 0 } else { self.control.len() };
        used + bytes <= self.control_bytes
    }

    /// Appends an encoded packet; `write` gets the room there is and says how much it took. It goes
    /// before those that wait for a commit. `false`: it did not fit.
    pub fn control(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let start = self.control.len();
        self.control.reserve_exact(self.control_bytes - start);
        self.control.resize(self.control_bytes, 0);
        // What is too large for the peer counts as sent [MQTT-3.1.2-24] [MQTT-3.2.2-15].
        let taken = write(&mut self.control[start..])
            .map(|bytes| if bytes > self.packet_bytes_max { 0 } else { bytes });
        self.control.truncate(start + taken.unwrap_or(0));
        // It passes what waits for a commit, unless that is to be heard first.
        if let (Some(gate), Some(taken)) = (&mut self.gate, taken)
            && !gate.all
        {
            self.control[gate.at..].rotate_right(taken);
            gate.at += taken;
        }
        taken.is_some()
    }

    /// The same for a reply that is true only after so many commits. `all`: it is the first that
    /// the peer hears.
    pub fn control_after(
        &mut self,
        after: u64,
        all: bool,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let gate = self.gate.take();
        let before = self.control_left();
        let fits = self.control(write);
        let (at, all) = match gate {
            Some(gate) => (gate.at, gate.all || all),
            None => (self.control.len().min(self.control_sent + before), all),
        };
        self.gate = Some(Gate { at, after, all });
        self.awaits_commit = true;
        fits
    }

    /// Room for replies so large, from here on.
    pub fn grow_control(&mut self, bytes: usize) {
        self.control_bytes = self.control_bytes.max(bytes);
    }

    /// Nothing more is to be said.
    pub fn forget_control(&mut self) {
        self.control = Vec::new();
        self.control_sent = 0;
        self.gate = None;
    }

    pub fn control_left(&self) -> usize {
        self.control.len() - self.control_sent
    }

    /// Where the replies end that are true after so many commits.
    fn control_end(&self, commits: u64) -> usize {
        self.gate.filter(|gate| gate.after > commits).map_or(self.control.len(), |gate| gate.at)
    }

    /// Is there a reply that may leave, and has no room?
    pub fn has_control(&self, commits: u64) -> bool {
        self.control_end(commits) > self.control_sent
    }

    /// Must everything wait for a reply that is not true yet?
    pub fn is_mute(&self, commits: u64) -> bool {
        self.gate.is_some_and(|gate| gate.all && gate.after > commits)
    }

    /// Is a debt or a reply waiting for a commit?
    pub fn waits_for_commit(&self) -> bool {
        self.pubrecs.len() + self.pubcomps.len() > 0 || self.gate.is_some()
    }

    /// Moves encoded replies into `out` as far as they are true after so many commits.
    pub fn take_control(&mut self, commits: u64, out: &mut [u8]) -> usize {
        let end = self.control_end(commits);
        if end == self.control.len() {
            self.gate = None;
        }
        let left = &self.control[self.control_sent..end];
        let take = left.len().min(out.len());
        out[..take].copy_from_slice(&left[..take]);
        self.control_sent += take;
        if self.control_left() == 0 {
            self.forget_control();
        }
        take
    }

    pub fn inbound_count(&self) -> usize {
        self.pubacks.len() + self.pubrecs.len()
    }

    /// What counts against the Receive Maximum that an MQTT 5 client was told: QoS 2 until it is
    /// released (4.9).
    pub fn receive_count(&self) -> usize {
        self.pubacks.len() + self.pubrecs.len().max(self.unreleased)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(conn: &mut Conn, bytes: &'static [u8], after: Option<u64>) {
        let write = |out: &mut [u8]| {
            out[..bytes.len()].copy_from_slice(bytes);
            Some(bytes.len())
        };
        let fits = match after {
            Some(after) => conn.control_after(after, false, write),
            None => conn.control(write),
        };
        assert!(fits);
    }

    #[test]
    fn a_reply_waits_for_its_commit_and_others_pass_it() {
        let mut conn = Conn::new(1, 0);
        let mut out = [0; 8];
        let take = |conn: &mut Conn, commits, out: &mut [u8]| {
            let count = conn.take_control(commits, out);
            String::from_utf8(out[..count].to_vec()).unwrap()
        };
        say(&mut conn, b"a", None);
        say(&mut conn, b"BB", Some(1));
        say(&mut conn, b"c", None);
        say(&mut conn, b"DD", Some(2));
        assert_eq!(take(&mut conn, 0, &mut out), "ac");
        assert!(!conn.has_control(0) && conn.control_left() == 4);
        say(&mut conn, b"e", None);
        assert_eq!(take(&mut conn, 1, &mut out), "e");
        assert_eq!(take(&mut conn, 2, &mut out[..3]), "BBD");
        assert_eq!(take(&mut conn, 2, &mut out), "D");
        assert_eq!(conn.control_left(), 0);
        say(&mut conn, b"f", None);
        assert_eq!(take(&mut conn, 2, &mut out), "f");
    }

    #[test]
    fn nothing_passes_the_reply_that_is_to_be_heard_first() {
        let mut conn = Conn::new(1, 0);
        let mut out = [0; 8];
        let first = |out: &mut [u8]| {
            out[..2].copy_from_slice(b"AA");
            Some(2)
        };
        assert!(conn.control_after(1, true, first));
        say(&mut conn, b"b", None);
        say(&mut conn, b"CC", Some(2));
        assert!(conn.is_mute(1) && !conn.has_control(1));
        assert_eq!(conn.take_control(1, &mut out), 0);
        assert_eq!(conn.take_control(2, &mut out), 5);
        assert_eq!(&out[..5], b"AAbCC");
    }

    #[test]
    fn a_slot_that_is_opened_again_is_another_connection_after_65536_times_too() {
        let peer = "127.0.0.1:1".parse().unwrap();
        let mut conn = Conn::new(1, 0);
        conn.generation = u16::MAX - 1;
        let mut ids = Vec::new();
        for _ in 0..3 {
            conn.role = Role::Free;
            conn.open(Role::Greeting, peer, Instant::START);
            ids.push(conn.id(3));
        }
        assert_eq!(ids.iter().map(|id| id.generation).collect::<Vec<_>>(), [u16::MAX, 0, 1]);
        assert!(ids.iter().all(|id| ConnId::unpacked(id.packed()) == *id));
    }

    #[test]
    fn debts_leave_in_order_round_the_ring() {
        let mut debts = Debts::new(2);
        let id = |raw| PacketId::new(raw).unwrap();
        for raw in 1..10 {
            debts.push(Debt {
                packet_id: id(raw),
                reason: Reason(0),
                record: None,
                after: 0,
                owner: None,
            });
            assert!(debts.contains(id(raw)));
            assert_eq!(debts.front().unwrap().packet_id, id(raw));
            debts.pop();
        }
        assert!(debts.front().is_none());
    }
}
