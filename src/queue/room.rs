//! Room in the pool: what is free, and what would be if some messages were dropped. Asked before
//! anything is dropped: an accepted message goes only when the one it goes for really gets in.

use super::entry::Chain;
use super::outbox::{DestId, Outbox};
use super::pool::{NONE, blocks_for, widen};
use super::trim::Scope;
use super::{Queue, Reserve};
use crate::fit::fit;
use crate::limits::{
    DROPS_FORESEEN_MAX, INBOUND_SHARE, SESSION_FLIGHT_SHARE, SESSION_FREE_SHARE,
    SESSION_WINDOW_SURE,
};

/// Parts of the pool and of the slab of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub blocks: u32,
    pub records: u32,
    pub entries: u32,
}

impl Room {
    /// A record with such a body, for so many destinations.
    pub fn of(body_bytes: usize, destinations: usize) -> Self {
        let entries = fit(destinations, "destinations");
        Self { blocks: blocks_for(body_bytes), records: 1, entries }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            records: self.records.saturating_add(other.records),
            entries: self.entries.saturating_add(other.entries),
        }
    }
}

/// Messages that would be dropped for another one: their destinations and entries, each once.
pub type Foreseen = heapless::Vec<(DestId, u32), DROPS_FORESEEN_MAX>;

impl Queue {
    /// Room in the pool for a message that goes to `destinations`? `reserve`: the part of it that
    /// is left free, as a divisor.
    pub fn fits(&self, reserve: Reserve, body_bytes: usize, destinations: usize) -> bool {
        self.fits_all(reserve, Room::of(body_bytes, destinations))
    }

    /// The same for several records at once.
    pub fn fits_all(&self, reserve: Reserve, need: Room) -> bool {
        self.fits_in(self.free(), reserve, need)
    }

    /// Can so much be free at once, beside what comes in meanwhile?
    pub fn could_fit_all(&self, need: Room) -> bool {
        let most = |all: u32| all - all / INBOUND_SHARE;
        need.blocks <= most(self.pool.block_count())
            && need.records <= most(self.pool.record_count())
            && need.entries <= most(self.entries.count())
    }

    /// Room for so many references to a record that is in the pool already?
    pub fn has_entries(&self, destinations: usize) -> bool {
        widen(self.entries.free_count()) >= destinations
    }

    /// The same as [`Queue::fits`], once these messages are dropped. What they free for sure is
    /// counted, no more.
    pub fn fits_without(
        &self,
        gone: &Foreseen,
        reserve: Reserve,
        body_bytes: usize,
        destinations: usize,
    ) -> bool {
        let mut free = self.free();
        for (at, (dest, index)) in gone.iter().enumerate() {
            let entry = &self.entries[*index];
            // One whose identifier was on the wire lives on until a commit.
            let lives_on = entry.packet_id != 0 && self.outbox(*dest).params.journal;
            free.entries += u32::from(!lives_on);
            let Some(record) = entry.record else { continue };
            let others = |(_, other): &&(DestId, u32)| self.entries[*other].record == Some(record);
            if gone[..at].iter().any(|other| others(&other)) {
                continue;
            }
            let going = || gone[at..].iter().filter(others);
            let holds = going().filter(|(_, other)| self.entries[*other].flags.hold).count();
            let (bytes, head) = self.pool.would_free(record, going().count(), holds);
            free.blocks += if bytes { self.pool.head(record).blocks() } else { 0 };
            free.records += u32::from(bytes && head);
        }
        self.fits_in(free, reserve, Room::of(body_bytes, destinations))
    }

    fn fits_in(&self, free: Room, reserve: Reserve, need: Room) -> bool {
        free.records >= need.records
            && free.blocks >= need.blocks
            && free.entries >= need.entries
            && match reserve {
                Reserve::Nothing => true,
                Reserve::ForRemotes => self.is_above(free, 16),
                Reserve::ForOthers => self.is_above(free, 4),
            }
    }

    /// Could the pool ever take a body of this size?
    pub fn could_fit(&self, body_bytes: usize) -> bool {
        blocks_for(body_bytes) <= self.pool.block_count() / 2
    }

    /// What `drop_oldest` would drop at once, added to what is foreseen already. What it would
    /// drop from the disk in the next flush makes no room in the pool.
    pub fn foresee(&self, gone: &mut Foreseen, dest: DestId, scope: Scope) {
        if let Some(index) = self.oldest_in_ram(dest, scope)
            && !gone.iter().any(|(_, known)| *known == index)
        {
            // What is beyond its end counts as not gone.
            let _ = gone.push((dest, index));
        }
    }

    /// Has a session so much in flight that it is sent no more while room is scarce? What is in
    /// flight stays in RAM, or in entries at least.
    pub(super) fn is_held_back(&self, outbox: &Outbox) -> bool {
        let sure = outbox.inflight < SESSION_WINDOW_SURE;
        let scarce = outbox.params.session && self.is_free_below(2);
        scarce && !(sure && self.flies_within_share(outbox))
    }

    /// Has a session little enough in flight for one more, whatever its size?
    fn flies_within_share(&self, outbox: &Outbox) -> bool {
        let mut blocks = 0;
        let mut at = outbox.flight.head;
        while at != NONE {
            let record = self.entries[at].record;
            blocks += record.map_or(0, |record| self.pool.head(record).blocks());
            at = self.entries.next(Chain::Line, at);
        }
        blocks <= self.pool.block_count() / SESSION_FLIGHT_SHARE
    }

    /// Would a session that cannot be spilled have more of the pool than its part of what is free?
    pub(super) fn is_greedy(&self, outbox: &Outbox, body_bytes: usize) -> bool {
        let free = self.free();
        outbox.blocks + blocks_for(body_bytes) > free.blocks / SESSION_FREE_SHARE
            || outbox.records >= free.records / SESSION_FREE_SHARE
            || !self.is_above(free, 8)
    }

    pub(super) fn is_free_below(&self, part: u32) -> bool {
        let free = self.free();
        free.blocks < self.pool.block_count() / part
            || free.records < self.pool.record_count() / part
            || free.entries < self.entries.count() / part
    }

    /// More than that part of everything is free: what `fits` keeps for others.
    pub(super) fn is_free_above(&self, part: u32) -> bool {
        self.is_above(self.free(), part)
    }

    fn is_above(&self, free: Room, part: u32) -> bool {
        free.blocks > self.pool.block_count() / part
            && free.records > self.pool.record_count() / part
            && free.entries > self.entries.count() / part
    }

    fn free(&self) -> Room {
        Room {
            blocks: self.pool.free_blocks(),
            records: self.pool.free_records(),
            entries: self.entries.free_count(),
        }
    }
}
