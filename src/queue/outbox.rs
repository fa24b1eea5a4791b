//! One destination's side of the queue: a bridge or a local session. Holds no bytes and no entry
//! of its own, only where its lists begin and what it may take.

use super::drops::RuleQuota;
use super::entry::{Entry, List, Place};
use super::log::{NewSlot, SlotChain};
use super::peer::{Parked, PeerId};
use super::pool::NONE;
use super::record::SESSION_RULE;
use super::trim::RuleCount;
use crate::fit::{fit, index};
use crate::limits::BRIDGE_IDS_MIN;
use crate::note::Text;
use crate::vocab::{Instant, Overflow};
use core::time::Duration;

/// A destination by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestId(pub u16);

/// What a destination may take and how it behaves at its bounds.
#[derive(Clone, Debug)]
pub struct Params {
    /// For the log.
    pub name: Text,
    /// Key of its row in the store.
    pub key: String,
    /// Hashes of its rules' names, by index.
    pub rules: Vec<u32>,
    /// A rule has a quota of its own: what is on disk is counted by rule after a restart.
    pub counts_rules: bool,
    /// Quotas of rules, by index.
    pub rule_quotas: Vec<Option<RuleQuota>>,
    /// Publishers wait for it, and it survives a restart.
    pub persistent: bool,
    /// A local session: never blocks, has its own share of the store.
    pub session: bool,
    /// Packet identifiers are journalled (exactly once over a crash).
    pub journal: bool,
    /// QoS 0 messages queue with the others instead of being best effort.
    pub queue_qos0: bool,
    pub overflow: Overflow,
    pub messages_max: u64,
    pub bytes_max: u64,
    /// Slots of the store it may own.
    pub slots_max: u32,
    /// Blocks of the pool it may hold when it cannot spill.
    pub blocks_ceiling: u32,
    pub records_ceiling: u32,
    /// QoS 1/2 packets on the wire, by our own word.
    pub window: u16,
}

/// The waiting messages of one lane or one paced topic, in order.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// In RAM and next to be sent.
    pub list: List,
    /// On disk only, behind `list`. While it is not zero newer messages are staged for the disk.
    pub gap: u32,
    /// Oldest ones to be dropped from the disk in the next flush.
    pub trim: u32,
    /// Topics share it: those are meant that have most.
    pub crowd: bool,
}

impl Stream {
    pub const EMPTY: Self = Self { list: List::EMPTY, gap: 0, trim: 0, crowd: false };
}

/// A topic of a conflating rule and its message that waits.
#[derive(Clone, Copy, Debug)]
pub struct Conflated {
    pub hash: u64,
    pub rule: u8,
    pub entry: u32,
    /// When `entry` is `NONE`.
    pub place: Option<Place>,
    pub stream: u8,
    pub bytes: u32,
}

/// What a destination has left on the wire when its identifiers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    Down,
    Up,
}

pub struct Outbox {
    pub used: bool,
    pub params: Params,
    /// Number in the store, a hash of its key; the slots carry it.
    pub number: u64,
    pub next_seq: u64,

    pub streams: Box<[Stream]>,
    /// Streams with a message in RAM.
    pub active: u128,
    /// Streams with a message on disk only.
    pub gaps: u128,
    /// Streams that are paced by topic: refilled sparingly.
    pub paced: u128,
    /// Streams by lane: high, normal, low.
    pub lanes: [u128; 3],
    pub lane_turn: u32,
    pub last_stream: u32,

    pub zero: List,
    /// `zero` was sent empty since it was last found full: its peer keeps up.
    pub zero_drained: bool,
    pub zero_full_at: Instant,
    pub custody: List,
    pub custody_bytes: u64,
    /// Entries in custody somebody waits for.
    pub custody_held: u32,
    /// QoS 2 entries in custody.
    pub custody_qos2: u32,
    pub flight: List,
    /// First entry of `flight` whose packet has to be sent.
    pub unsent: u32,
    /// First entry of `flight` that is passed over for now; all behind it are, too. Invariant: with
    /// nothing else to be sent `unsent` is this one.
    pub deferred: u32,
    /// How many they are.
    pub deferred_count: u16,
    /// How many of those the peer has nothing of.
    pub light_count: u16,
    /// The peer closed more than once on what is passed over, and so did not keep it: it takes no
    /// room in its window. (What a peer says to one too many, 0x97, is heard.)
    pub closed_upon: bool,
    pub release: List,
    /// First entry of `release` whose PUBREL has to be sent.
    pub unsent_release: u32,
    pub done: List,
    /// Packet identifiers to entries: index is the identifier modulo the length.
    pub wire: Box<[u32]>,
    pub next_id: u16,
    /// Entries in `flight` and `release`.
    pub inflight: u16,
    /// The peer takes QoS 2: else what is of it leaves at a lower one, and begins no exchange.
    pub takes_qos2: bool,
    /// `params.window` and the peer's Receive Maximum, whichever is less.
    pub window: u16,
    /// A QoS 2 message at the head of a stream waits for its barrier.
    pub qos2_wanted: bool,
    /// An entry in the window has to be read from the store.
    pub load_wanted: bool,
    /// Its peer would take a message now and RAM has none: the next one is loaded however little
    /// is free. Asked for again only by `next`: what has to leave RAM before it could be sent does
    /// not come back until somebody wants it.
    pub starved: bool,

    pub chain: SlotChain,
    /// Slots that have not been read since the restart.
    pub unknown_slots: u32,
    /// Older messages are being salvaged from a damaged store: what is new waits behind them.
    pub salvaging: bool,
    /// Identifiers of its peer's QoS 2 messages that are not released.
    pub received: u32,
    /// Committed and not settled.
    pub stored: u64,
    /// Settled since the last commit: after a crash they are sent again.
    pub settled_dirty: u32,
    /// Unsettled in all (without QoS 0).
    pub pending: u64,
    pub pending_bytes: u64,
    /// Blocks and records it refers to.
    pub blocks: u32,
    pub records: u32,
    /// No slot was to be had for its next record.
    pub stuck: bool,
    /// The same, until everything that waits for the disk has found room there.
    pub tight: bool,
    /// The disk is searched for expired messages in the next flush, and not again before then.
    pub sweep: bool,
    pub sweep_at: Instant,
    /// Oldest messages to be dropped in the next flush, whichever they are.
    pub trim: u32,
    /// The same of single streams and rules, all together.
    pub trim_scoped: u32,
    /// The first sequence number a drop that took more than one turn has not looked at.
    pub trim_from: u64,
    /// Messages by rule.
    pub rules: Box<[RuleCount]>,
    /// Commit all of custody and drop what waits from RAM.
    pub evict: bool,
    /// A session that did not keep up when room was short last.
    pub lags: bool,
    /// The same, because something on disk has to go before it; nothing is sent until then.
    pub reorder: bool,
    /// Paced streams that have a token now.
    pub granted: u128,
    /// The destination's row must be in the next commit: a packet waits for it.
    pub row_urgent: bool,
    pub row_dirty: bool,
    /// Identifiers are missing in it whose messages are not safe yet.
    pub row_partial: bool,
    /// The row is in the store.
    pub row_stored: bool,
    /// The row in the store says more than will be true soon: nothing may rely on it before it is
    /// written again.
    pub row_unsure: bool,
    /// The session that what is in flight belongs to; `None` when that is not known.
    pub peer: Option<PeerId>,
    /// What was left open in other sessions (and in this one, from the time before).
    pub parked: Vec<Parked>,
    /// How many of those of this session had their PUBREL in this connection.
    pub released: usize,
    /// `changes` of the queue when a refill found no room.
    pub refill_failed_at: u64,

    pub up: Up,
    pub progress: Instant,
    pub srtt: Duration,
    pub conflated: Box<[Conflated]>,
    pub spilling: bool,
    pub spill_since: Instant,
    pub spill_messages: u64,
    pub blocked_since: Option<Instant>,
    /// When a publisher was made to wait last.
    pub blocked_at: Instant,
}

impl Conflated {
    /// Nobody's.
    pub const NONE: Self = Self { hash: 0, rule: 0, entry: NONE, place: None, stream: 0, bytes: 0 };
}

impl Outbox {
    /// Streams that are lanes for good.
    pub const LANES: [u128; 3] = [0b001, 0b010, 0b100];

    /// Of what is in the window: what has left needs its bytes only if it has to be sent again, and
    /// what is passed over when its turn comes.
    pub fn can_do_without(&self, entry: &Entry) -> bool {
        let passed_over = entry.flags.deferred && !entry.flags.wanted;
        self.up == Up::Down || !entry.flags.unsent || passed_over
    }

    pub fn new(streams: usize, window: u16, conflated: usize) -> Self {
        let wire = places(streams, window);
        Self {
            used: false,
            params: Params {
                name: Text::new(),
                key: String::new(),
                rules: Vec::new(),
                counts_rules: false,
                rule_quotas: Vec::new(),
                persistent: false,
                session: true,
                journal: false,
                queue_qos0: false,
                overflow: Overflow::Block,
                messages_max: 0,
                bytes_max: 0,
                slots_max: 0,
                blocks_ceiling: 0,
                records_ceiling: 0,
                window,
            },
            number: 0,
            next_seq: 1,
            streams: vec![Stream::EMPTY; streams].into_boxed_slice(),
            active: 0,
            gaps: 0,
            paced: 0,
            lanes: Self::LANES,
            lane_turn: 0,
            last_stream: 0,
            zero: List::EMPTY,
            zero_drained: true,
            zero_full_at: Instant::ZERO,
            custody: List::EMPTY,
            custody_bytes: 0,
            custody_held: 0,
            custody_qos2: 0,
            flight: List::EMPTY,
            unsent: NONE,
            deferred: NONE,
            deferred_count: 0,
            light_count: 0,
            closed_upon: false,
            release: List::EMPTY,
            unsent_release: NONE,
            done: List::EMPTY,
            wire: vec![NONE; wire].into_boxed_slice(),
            next_id: 1,
            inflight: 0,
            takes_qos2: true,
            window,
            qos2_wanted: false,
            load_wanted: false,
            starved: false,
            chain: SlotChain::EMPTY,
            unknown_slots: 0,
            salvaging: false,
            received: 0,
            stored: 0,
            settled_dirty: 0,
            pending: 0,
            pending_bytes: 0,
            blocks: 0,
            records: 0,
            stuck: false,
            tight: false,
            sweep: false,
            sweep_at: Instant::ZERO,
            trim: 0,
            trim_scoped: 0,
            trim_from: 0,
            rules: Box::new([]),
            evict: false,
            lags: false,
            reorder: false,
            granted: 0,
            row_urgent: false,
            row_dirty: false,
            row_partial: false,
            row_stored: false,
            row_unsure: false,
            peer: None,
            parked: Vec::new(),
            released: 0,
            refill_failed_at: u64::MAX,
            up: Up::Down,
            progress: Instant::ZERO,
            srtt: Duration::ZERO,
            conflated: vec![Conflated::NONE; conflated].into_boxed_slice(),
            spilling: false,
            spill_since: Instant::ZERO,
            spill_messages: 0,
            blocked_since: None,
            blocked_at: Instant::ZERO,
        }
    }

    /// Bytes `new` allocates.
    pub fn planned_bytes(streams: usize, window: u16, conflated: usize) -> usize {
        size_of::<Self>()
            + streams * size_of::<Stream>()
            + places(streams, window) * 4
            + conflated * size_of::<Conflated>()
    }

    /// What a record without a rule carries to tell whose it is.
    pub fn short_number(&self) -> u32 {
        let [a, b, c, d, ..] = self.number.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Is it meant by what its record without a rule carries?
    pub fn is_named(&self, rule: u32) -> bool {
        let mask = if self.params.session { !SESSION_RULE } else { u32::MAX };
        self.short_number() & mask == rule & mask
    }

    /// Is a record its own that has this rule?
    pub fn owns(&self, rule: u32) -> bool {
        self.params.rules.contains(&rule) || self.is_named(rule)
    }

    /// A slot of its own that begins with this sequence number.
    pub fn new_slot(&self, own: DestId, first_seq: u64) -> NewSlot {
        let fleeting = !self.params.persistent;
        NewSlot { owner: own.0, number: self.number, fleeting, first_seq }
    }

    /// QoS 2 is stored everywhere at once, with its publisher's identifier: were it missing here
    /// alone, the others would get the publisher's second try too. What was taken is stored
    /// beyond the quota, and no more is taken until there is room.
    pub fn may_overdraw(&self) -> bool {
        let Params { journal, session, overflow, .. } = self.params;
        journal && !session && overflow == Overflow::Block
    }

    /// Does it give up its oldest messages for new ones?
    pub fn gives_way(&self) -> bool {
        self.params.session || self.params.overflow == Overflow::DropOldest
    }

    /// Do publishers wait until it has given up something, and a slot with it?
    pub fn waits_for_slot(&self) -> bool {
        self.used && self.stuck && self.gives_way() && self.custody_held > 0
    }

    /// Is there, or may there be, something on disk only that has not been looked at?
    pub fn is_unread(&self) -> bool {
        self.unknown_slots > 0 || self.salvaging
    }

    /// Is, or may be, anything on disk only?
    pub fn has_stored(&self) -> bool {
        self.gaps != 0 || self.is_unread()
    }

    /// Is something of this stream (or possibly of it) on disk only?
    pub fn has_gap(&self, stream: u8) -> bool {
        self.is_unread() || self.streams[usize::from(stream)].gap > 0
    }

    /// Has the identifier of a message of QoS 2 to be durable before it is sent?
    pub fn journals(&self) -> bool {
        self.params.journal && self.takes_qos2
    }

    /// May one more message enter the window? A peer counts what was left open in its session too,
    /// until its PUBCOMP.
    pub fn has_room(&self) -> bool {
        if index(self.done.len) + usize::from(self.inflight) >= self.wire.len() {
            // No identifier is left: those that are passed over have theirs.
            return false;
        }
        let less = if self.closed_upon { self.deferred_count } else { self.light_count };
        let taken = self.inflight.saturating_sub(less);
        taken.saturating_add(self.left_open()) < self.window
    }

    /// Streams that need no token, or have one.
    pub fn unpaced(&self) -> u128 {
        !self.paced | self.granted
    }

    /// Exchanges of the peer's session from the time before we left it.
    pub fn left_open(&self) -> u16 {
        let mine = self.parked.iter().find(|at| Some(at.peer) == self.peer);
        mine.map_or(0, |at| fit(at.open.len(), "packet identifiers"))
    }

    /// Messages in RAM that count against the ring, sent or not.
    pub fn ram_messages(&self) -> u32 {
        self.records
    }
}

/// Places in the table of identifiers: for two windows, and at a bridge for what is passed over.
pub(super) fn places(streams: usize, window: u16) -> usize {
    let least = if streams > 1 { BRIDGE_IDS_MIN } else { 1 };
    (usize::from(window) * 2).max(least).next_power_of_two()
}
