//! Pending messages: one copy in RAM, a small entry a destination, the store's log behind them.
//!
//! Promises: order per destination and stream over RAM → disk → RAM and restart; an acknowledgement
//! is owed only until every destination has settled the message; nothing grows. Never reads a
//! clock, never does I/O but through [`store::SpillStore`], which only `flush` and `restore` get.
//!
//! Custody: in flight → waiting in RAM → on disk only → staged for the disk, oldest first. A commit
//! takes a destination's whole uncommitted prefix, so its log is always in sequence.

mod append;
pub mod aside;
mod crowd;
pub mod defer;
pub mod drops;
pub mod entry;
pub mod facts;
mod failure;
pub mod flush;
pub mod log;
pub mod marks;
mod mend;
pub mod outbox;
pub mod peer;
pub mod pool;
mod press;
mod put_back;
pub mod record;
pub mod recv;
pub mod refill;
pub mod restore;
mod rewire;
pub mod room;
mod rows;
mod salvage;
mod sequence;
mod settle;
pub mod setup;
pub mod store;
#[cfg(test)]
pub(crate) mod tests;
mod together;
pub mod trim;
mod walk;
pub mod window;

use crate::fit::{capped, fit, wide};
use crate::limits::{CONFLATED_TOPICS_MAX, QOS0_QUEUE_MAX, REFUSED_MAX};
use crate::mqtt::Qos;
use crate::mqtt::topic::topic_hash;
use crate::note::{Note, Text};
use crate::planted::{Bug, planted};
use crate::vocab::{Instant, Overflow};
use core::time::Duration;
use entry::{Chain, Slab, State};
use log::Log;
use marks::Marks;
use outbox::{DestId, Outbox, Params, Up};
use pool::{NONE, Pool, RecordId, blocks_for};
use recv::RecvIds;
use store::Origin;
use trim::RuleCount;
use walk::{GAPS_MAX, Gap};

pub use crate::limits::SLOT_BYTES;
pub use facts::slots_for;
pub use room::Foreseen;
pub use setup::{BoxSetup, Setup};

/// Why a destination does not take a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The destination is at its quota (its overflow policy decides).
    Quota,
    /// It cannot be spilled, and what the destination may hold in RAM is used up.
    Short,
    /// The same, if the disk has no room for what waits: known with the next commit.
    Unsure,
}

/// What a message must leave free in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// From a remote: its socket is never paused, the room was kept for it.
    Nothing,
    /// From a local publisher: a sixteenth is kept for what remotes send.
    ForRemotes,
    /// Best effort: a quarter is kept for QoS 1 and 2.
    ForOthers,
}

/// How a destination shall get a message.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    pub qos: Qos,
    pub retain: bool,
    pub stream: u8,
    pub rule: u8,
    /// The publisher's acknowledgement waits for this destination.
    pub hold: bool,
    /// Hash of the topic, for a rule that conflates.
    pub conflate: Option<u64>,
}

/// Why a message left the queue without being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    QueueFull,
    Expired,
    TooLarge,
    Corrupt,
    NoRule,
    TopicEmpty,
    TopicTooLong,
    Offline,
    SessionEnded,
    SlowSubscriber,
    Refused,
    NotAuthorized,
    /// It is what the destination has just sent, coming back.
    Loop,
    /// A character that others close the connection over ([`crate::mqtt::text`]).
    Text,
}

impl DropReason {
    pub fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Corrupt => "corrupt",
            Self::NoRule => "no_rule",
            Self::TopicEmpty => "topic_empty",
            Self::TopicTooLong => "topic_too_long",
            Self::Offline => "offline",
            Self::SessionEnded => "session_ended",
            Self::SlowSubscriber => "slow_subscriber",
            Self::Refused => "refused",
            Self::NotAuthorized => "not_authorized",
            Self::Loop => "loop",
            Self::Text => "text",
        }
    }
}

/// Counts since start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub drops: u64,
    pub conflated: u64,
    pub resent: u64,
    pub corrupt: u64,
}

pub struct Queue {
    pub pool: Pool,
    pub(crate) entries: Slab,
    pub(crate) boxes: Box<[Outbox]>,
    pub(crate) log: Log,
    pub recv: RecvIds,
    setup: Setup,
    /// Commits that succeeded; a debt that needs a barrier names the number it waits for.
    commits: u64,
    /// Connections whose debts may have become payable, a bit each.
    woken: Marks,
    /// Destinations with something new to send.
    sendable: Marks,
    session_slots: u32,
    settled_since: Instant,
    retry_at: Instant,
    retry_after: Duration,
    /// Until then nothing is appended, for the disk was full.
    full_until: Instant,
    /// The disk was full: until the store has grown again, slots that the disk has room for are
    /// taken first.
    frugal: bool,
    /// A slow store is left alone until then.
    rest_until: Instant,
    /// The store failed last time.
    failing: bool,
    /// Since the last flush that went well.
    slot_freed: bool,
    /// Some destination may be `stuck`.
    any_stuck: bool,
    /// A publisher has used up what it may have in flight: do not wait for more.
    pub eager: bool,
    /// Somebody waits for a record that cannot be named.
    commit_all: bool,
    /// A message was settled that its publisher waits for.
    settled_source: bool,
    /// The next flush makes room in the pool.
    pressed: bool,
    /// Somebody waits for that whose message gets in then.
    squeezed: bool,
    /// Some sessions are marked as not keeping up.
    has_laggards: bool,
    /// A session that holds RAM for which others wait, and neither acknowledges nor can be spilled.
    unyielding: Option<DestId>,
    stopping: bool,
    changes: u64,
    drops: heapless::Vec<drops::Dropped, 64>,
    /// Publishers and their messages that were given up after they had been taken.
    refused: heapless::Vec<(u16, RecordId), REFUSED_MAX>,
    pub counters: Counters,
    txn: flush::Txn,
    slot_buffer: Box<[u8]>,
    /// See `walk.rs`.
    long_topic: Vec<u8>,
    /// A damaged store is being emptied.
    salvage: Option<salvage::Salvage>,
    /// Rows of destinations were damaged: one without a row may have had one.
    doubtful_rows: bool,
    /// The store was not what was there last when it was read.
    origin: Option<Origin>,
    /// Rows of destinations that are not there, and not true any more either.
    stale_rows: Vec<Vec<u8>>,
    /// Damaged places found since the start.
    gaps: heapless::Vec<Gap, GAPS_MAX>,
    slot_in_buffer: u32,
    notes: heapless::Deque<Note, 64>,
    notes_lost: u64,
    wall_s: u32,
}

impl Queue {
    pub fn new(setup: Setup) -> Self {
        let windows = setup.boxes.iter().map(BoxSetup::entries).sum();
        let boxes: Vec<Outbox> = setup
            .boxes
            .iter()
            .map(|b| Outbox::new(b.streams, b.window, b.conflating_rules * CONFLATED_TOPICS_MAX))
            .collect();
        let boxes_count = boxes.len();
        Self {
            pool: Pool::new(setup.messages, setup.bytes),
            entries: Slab::new(entry_count(setup.messages, windows)),
            txn: flush::Txn::new(boxes.len()),
            boxes: boxes.into_boxed_slice(),
            log: Log::new(setup.slot_count),
            recv: RecvIds::new(setup.receive_ids, &setup.receive_shares()),
            commits: 0,
            woken: Marks::new(usize::from(setup.connections)),
            sendable: Marks::new(boxes_count),
            session_slots: 0,
            settled_since: Instant::ZERO,
            retry_at: Instant::ZERO,
            retry_after: Duration::ZERO,
            full_until: Instant::ZERO,
            frugal: false,
            rest_until: Instant::ZERO,
            failing: false,
            slot_freed: false,
            any_stuck: false,
            eager: false,
            commit_all: false,
            settled_source: false,
            pressed: false,
            squeezed: false,
            has_laggards: false,
            unyielding: None,
            stopping: false,
            changes: 0,
            drops: heapless::Vec::new(),
            refused: heapless::Vec::new(),
            counters: Counters::default(),
            slot_buffer: vec![0; SLOT_BYTES].into_boxed_slice(),
            long_topic: Vec::with_capacity(setup.long_topic_bytes()),
            salvage: None,
            doubtful_rows: false,
            origin: None,
            stale_rows: Vec::new(),
            gaps: heapless::Vec::new(),
            slot_in_buffer: NONE,
            notes: heapless::Deque::new(),
            notes_lost: 0,
            wall_s: 0,
            setup,
        }
    }

    /// Bytes that `new` allocates, by part: ring, entries and windows, the store's directory.
    pub fn planned_bytes(setup: &Setup) -> [usize; 3] {
        let windows = setup.boxes.iter().map(BoxSetup::entries).sum();
        let boxes: usize = setup
            .boxes
            .iter()
            .map(|b| {
                let conflated = b.conflating_rules * CONFLATED_TOPICS_MAX;
                Outbox::planned_bytes(b.streams, b.window, conflated)
            })
            .sum();
        [
            Pool::planned_bytes(setup.messages, setup.bytes),
            Slab::planned_bytes(entry_count(setup.messages, windows))
                + boxes
                + RecvIds::planned_bytes(setup.receive_ids, &setup.receive_shares()),
            Log::planned_bytes(setup.slot_count) + 2 * SLOT_BYTES + setup.long_topic_bytes(),
        ]
    }

    /// Takes a destination into use. What the store has of it is put in place by `restore`.
    pub fn open(&mut self, dest: DestId, params: Params) {
        self.tell_drops_of(dest);
        let mut number = topic_hash(&params.key);
        // Bridges are opened first: nobody can choose a client id that takes one's messages.
        while self.boxes.iter().any(|outbox| outbox.used && outbox.number == number) {
            number = number.wrapping_add(1);
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        assert!(!outbox.used, "a destination is opened once");
        outbox.used = true;
        outbox.number = number;
        outbox.window = params.window;
        outbox.rules = vec![RuleCount::default(); params.rules.len()].into_boxed_slice();
        outbox.params = params;
    }

    /// A local session becomes persistent or stops being so.
    pub fn set_persistent(&mut self, dest: DestId, persistent: bool) {
        let journal = persistent && self.setup.stored && self.setup.safe;
        let outbox = self.outbox_mut(dest);
        let changed = outbox.params.persistent != persistent;
        outbox.row_dirty |= changed;
        let mut at = if changed { outbox.chain.head } else { NONE };
        while at != NONE {
            self.log.slots[pool::widen(at)].fleeting = !persistent;
            self.log.mark(at);
            at = self.log.slots[pool::widen(at)].next;
        }
        let outbox = self.outbox_mut(dest);
        // Nothing waits for a row that is not written.
        outbox.row_urgent &= persistent;
        outbox.params.persistent = persistent;
        outbox.params.journal = journal;
    }

    /// Gives a destination up with everything it still has; whoever misses that counts it first.
    pub fn close(&mut self, dest: DestId, now: Instant) {
        self.drop_all(dest);
        self.outbox_mut(dest).unknown_slots = 0;
        self.outbox_mut(dest).salvaging = false;
        self.spill_note(dest, now);
        self.recv.clear(dest.0);
        let outbox = self.outbox_mut(dest);
        let (streams, wire, conflated) =
            (outbox.streams.len(), outbox.wire.len(), outbox.conflated.len());
        outbox.used = false;
        outbox.stored = 0;
        outbox.settled_dirty = 0;
        outbox.pending = 0;
        outbox.pending_bytes = 0;
        outbox.stuck = false;
        outbox.tight = false;
        outbox.sweep = false;
        outbox.sweep_at = Instant::ZERO;
        outbox.trim = 0;
        outbox.trim_scoped = 0;
        outbox.trim_from = 0;
        outbox.evict = false;
        outbox.lags = false;
        outbox.reorder = false;
        outbox.granted = 0;
        outbox.qos2_wanted = false;
        outbox.starved = false;
        outbox.row_urgent = false;
        outbox.row_dirty = false;
        outbox.row_partial = false;
        outbox.row_stored = false;
        outbox.row_unsure = false;
        outbox.peer = None;
        outbox.parked.clear();
        outbox.received = 0;
        outbox.up = Up::Down;
        outbox.next_id = 1;
        outbox.next_seq = 1;
        outbox.spilling = false;
        outbox.blocked_since = None;
        outbox.gaps = 0;
        debug_assert_eq!(
            (outbox.streams.len(), outbox.wire.len(), outbox.conflated.len()),
            (streams, wire, conflated)
        );
    }

    /// May this destination take one more message of `body_bytes`?
    pub fn admit(&self, dest: DestId, qos: Qos, body_bytes: usize) -> Result<(), Refusal> {
        let outbox = self.outbox(dest);
        if qos == Qos::AtMostOnce && !outbox.params.queue_qos0 {
            return if outbox.zero.len < QOS0_QUEUE_MAX { Ok(()) } else { Err(Refusal::Quota) };
        }
        let bytes = wide(body_bytes);
        // One that is larger than the whole quota would block its publisher for ever: a quota that
        // was lowered while the largest packet stays what it was makes such.
        let blocks = !outbox.params.session && outbox.params.overflow == Overflow::Block;
        let alone = blocks && outbox.pending == 0;
        if outbox.pending >= outbox.params.messages_max
            || !alone && outbox.pending_bytes.saturating_add(bytes) > outbox.params.bytes_max
        {
            return Err(Refusal::Quota);
        }
        let over = outbox.blocks + blocks_for(body_bytes) > outbox.params.blocks_ceiling
            || outbox.records >= outbox.params.records_ceiling
            || outbox.lags && self.is_greedy(outbox, body_bytes);
        // It would be stored beyond the quota.
        let overdrawn = outbox.stuck || outbox.chain.len > outbox.params.slots_max;
        if qos == Qos::ExactlyOnce && outbox.may_overdraw() && overdrawn {
            return Err(Refusal::Short);
        }
        // What cannot be stored is not even kept in RAM where the newest is what goes.
        let newest_goes = outbox.stuck
            && !outbox.params.session
            && outbox.params.overflow == Overflow::DropNewest;
        if newest_goes || over && self.keeps_in_ram(outbox) {
            return Err(Refusal::Short);
        }
        // One beyond it is what makes the next flush commit.
        let beyond = outbox.blocks > outbox.params.blocks_ceiling
            || outbox.records > outbox.params.records_ceiling;
        if beyond && self.blocks_soon(dest, bytes) {
            return Err(Refusal::Unsure);
        }
        Ok(())
    }

    /// A publisher's connection and its message that is given up, though it was taken.
    pub fn poll_refused(&mut self) -> Option<(u16, RecordId)> {
        self.refused.pop()
    }

    /// The destination has what waits in RAM only: there is no store, or none for it.
    pub(crate) fn keeps_in_ram(&self, outbox: &Outbox) -> bool {
        let tight = outbox.tight && !outbox.custody.is_empty();
        tight || outbox.stuck || !self.setup.stored || self.failing
    }

    /// Has the destination no room only because the disk fails?
    pub fn waits_for_disk(&self, dest: DestId) -> bool {
        self.box_waits_for_disk(self.outbox(dest))
    }

    fn box_waits_for_disk(&self, outbox: &Outbox) -> bool {
        self.setup.stored && self.failing && outbox.params.persistent && !outbox.stuck
    }

    /// Gives `dest` a reference to `record`. Room was asked for by `admit` and `fits`.
    pub fn push(&mut self, dest: DestId, record: RecordId, push: Push) {
        // Room was reserved: `fits` counted one entry a destination.
        let Some(index) = self.entries.take() else { unreachable!("fits reserved the entry") };
        let head = *self.pool.head(record);
        self.pool.retain(record);
        let safe = self.setup.safe;
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let entry = &mut self.entries[index];
        entry.record = Some(record);
        entry.arrival = head.arrival;
        entry.body_bytes = fit(head.body_bytes(), "bytes of a record");
        entry.qos = push.qos;
        entry.rule = push.rule;
        entry.stream = push.stream;
        entry.flags.retain = push.retain;
        entry.seq = outbox.next_seq;
        outbox.blocks += head.blocks();
        outbox.records += 1;
        if push.qos == Qos::AtMostOnce && !outbox.params.queue_qos0 {
            entry.state = State::Zero;
            self.entries.push_back(&mut outbox.zero, Chain::Line, index);
            return;
        }
        entry.state = State::Waiting;
        outbox.next_seq += 1;
        outbox.pending += 1;
        outbox.pending_bytes += u64::from(entry.body_bytes);
        outbox.rule_enters(push.rule);
        let hold = push.hold && safe && outbox.params.persistent;
        entry.flags.hold = hold;
        if hold {
            self.pool.hold(record);
        }
        if self.setup.stored {
            let entry = &mut self.entries[index];
            entry.flags.custody = true;
            outbox.custody_bytes += u64::from(entry.body_bytes);
            outbox.custody_held += u32::from(hold);
            outbox.custody_qos2 += u32::from(push.qos == Qos::ExactlyOnce);
            self.entries.push_back(&mut outbox.custody, Chain::Custody, index);
        }
        if let Some(hash) = push.conflate {
            self.conflate(dest, index, hash);
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let behind = outbox.has_gap(push.stream) && !planted(Bug::OvertakeBacklog);
        if !self.entries[index].flags.listed && !behind {
            let stream = &mut outbox.streams[usize::from(push.stream)];
            self.entries[index].flags.listed = true;
            self.entries.push_back(&mut stream.list, Chain::Line, index);
            outbox.active |= 1 << push.stream;
        }
    }

    /// Is any message of this stream waiting, in RAM, staged or on disk?
    pub fn stream_count(&self, dest: DestId, stream: u8) -> u32 {
        let stream = &self.outbox(dest).streams[usize::from(stream)];
        stream.list.len + stream.gap
    }

    pub fn set_stream(&mut self, dest: DestId, stream: u8, lane: usize, paced: bool) {
        let outbox = self.outbox_mut(dest);
        let bit = 1u128 << stream;
        for lane in &mut outbox.lanes {
            *lane &= !bit;
        }
        outbox.lanes[lane] |= bit;
        outbox.paced &= !bit;
        if paced {
            outbox.paced |= bit;
        }
    }

    /// All destinations there may be, whether used or not.
    pub(super) fn dests(&self) -> impl Iterator<Item = DestId> + use<> {
        (0..fit(self.boxes.len(), "destinations")).map(DestId)
    }

    pub fn outbox(&self, dest: DestId) -> &Outbox {
        &self.boxes[usize::from(dest.0)]
    }

    pub(crate) fn outbox_mut(&mut self, dest: DestId) -> &mut Outbox {
        &mut self.boxes[usize::from(dest.0)]
    }

    /// Commits that succeeded so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    pub fn has_store(&self) -> bool {
        self.setup.stored
    }

    pub fn is_safe(&self) -> bool {
        self.setup.safe
    }

    /// Marks the destination's row: it must be in the next commit.
    pub fn row_urgent(&mut self, dest: DestId) {
        let outbox = self.outbox_mut(dest);
        outbox.row_urgent = true;
        outbox.row_dirty = true;
    }

    /// A connection whose debts may have become payable.
    pub fn poll_woken(&mut self) -> Option<u16> {
        self.woken.pop()
    }

    pub(crate) fn wake(&mut self, source: u16) {
        self.woken.set(source);
    }

    pub(crate) fn note(&mut self, note: Note) {
        if self.notes.push_back(note).is_err() {
            self.notes_lost += 1;
        }
    }

    pub fn name(&self, dest: DestId) -> Text {
        self.outbox(dest).params.name.clone()
    }

    pub fn set_wall(&mut self, wall_s: u64) {
        // A label: a clock that is beyond 2106 says that year.
        self.wall_s = capped(wall_s);
    }
}

/// Entries for a ring of so many messages: four destinations each, and those of windows.
fn entry_count(messages: u32, windows: u32) -> u32 {
    messages.saturating_mul(4).saturating_add(windows)
}
