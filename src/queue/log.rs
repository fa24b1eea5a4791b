//! The directory of the store's log in RAM: which slot belongs to whom, in which order, which of
//! its records are settled. Never touches the store itself.
//!
//! Each destination owns a chain of slots, oldest first. Records are appended to the last one and
//! settled in any order; a slot whose records are all settled is free again.

use super::pool::{NONE, widen};
use super::store::{SlotId, Table, seal, unseal};
use crate::fit::{fit, index};
use crate::limits::SLOT_RECORDS_MAX;

const WORDS: usize = SLOT_RECORDS_MAX / 64;

/// Owner of a free slot.
pub const FREE: u16 = u16::MAX;
/// Owner of a slot that belongs to a destination that is not configured any more.
pub const ORPHAN: u16 = u16::MAX - 1;

/// Sequence numbers are counted up from 1: a larger one is damage.
pub const SEQ_MAX: u64 = u64::MAX / 2;

/// Slots a store of any size has; a row with a higher number is damaged.
const SLOTS_MAX: u32 = 1 << 20;

/// One bit a record of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits([u64; WORDS]);

impl Bits {
    pub const NONE: Self = Self([0; WORDS]);

    pub fn get(&self, ordinal: u16) -> bool {
        self.0[usize::from(ordinal) / 64] >> (ordinal % 64) & 1 == 1
    }

    /// Sets the bit; says whether it was clear.
    pub fn set(&mut self, ordinal: u16) -> bool {
        let word = &mut self.0[usize::from(ordinal) / 64];
        let was = *word >> (ordinal % 64) & 1;
        *word |= 1 << (ordinal % 64);
        was == 0
    }

    pub fn clear(&mut self, ordinal: u16) {
        self.0[usize::from(ordinal) / 64] &= !(1 << (ordinal % 64));
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Clears every bit from `end` on.
    fn cut(&mut self, end: u16) {
        for (word, first) in self.0.iter_mut().zip((0u32..).step_by(64)) {
            let kept = u32::from(end).saturating_sub(first).min(64);
            *word &= u64::MAX.checked_shr(64 - kept).unwrap_or(0);
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Destination index, [`FREE`] or [`ORPHAN`].
    pub owner: u16,
    /// The owner's number in the store: a hash of its key, so that a slot finds its owner alone.
    pub owner_number: u64,
    /// The owner does not outlive the process: after a restart the slot is free.
    pub fleeting: bool,
    /// How often the slot was taken into use.
    pub generation: u32,
    pub first_seq: u64,
    pub prev: u32,
    pub next: u32,
    /// Bytes written.
    pub used: u32,
    /// Records in it.
    pub count: u16,
    /// Records settled. Invariant: settled <= count.
    pub settled: u16,
    /// Nothing is appended any more and the row in the store says how many records it has.
    pub closed: bool,
    /// Holds the rest of the large record that begins in the slot before it.
    pub continuation: bool,
    /// Which part of a large record; 0 unless `continuation`.
    pub part: u16,
    /// `streams` is exact (after a restart it is not until the slot has been read).
    pub known: bool,
    /// Records from before the restart whose bytes are not counted yet.
    pub unread: u16,
    pub dirty: bool,
    pub settled_bits: Bits,
    /// Settled, or in RAM.
    pub taken_bits: Bits,
    /// Streams that may have records here that are not taken.
    pub streams: u128,
}

impl Slot {
    pub(super) const FREE: Self = Self {
        owner: FREE,
        owner_number: 0,
        fleeting: false,
        generation: 0,
        first_seq: 0,
        prev: NONE,
        next: NONE,
        used: 0,
        count: 0,
        settled: 0,
        closed: false,
        continuation: false,
        part: 0,
        known: true,
        unread: 0,
        dirty: false,
        settled_bits: Bits::NONE,
        taken_bits: Bits::NONE,
        streams: 0,
    };

    /// Bytes of a slot's row in the store, without its CRC.
    const VALUE_BYTES: usize = 8 + 4 + 8 + 1 + 2 + 2 + WORDS * 8;

    /// The row of slot `index`, sealed.
    pub fn row(&self, index: u32, row: &mut Vec<u8>) {
        row.clear();
        row.extend_from_slice(&self.owner_number.to_le_bytes());
        row.extend_from_slice(&self.generation.to_le_bytes());
        row.extend_from_slice(&self.first_seq.to_le_bytes());
        row.push(
            u8::from(self.owner != FREE)
                | u8::from(self.closed) << 1
                | u8::from(self.continuation) << 2
                | u8::from(self.fleeting) << 3,
        );
        row.extend_from_slice(&self.count.to_le_bytes());
        row.extend_from_slice(&self.part.to_le_bytes());
        for word in self.settled_bits.0 {
            row.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert_eq!(row.len(), Self::VALUE_BYTES);
        seal(Table::Slot, &index.to_be_bytes(), row);
    }

    /// Reads the row of slot `index`; the owner's index is left [`ORPHAN`]. `None` when it is
    /// damaged.
    pub fn from_row(index: u32, row: &[u8]) -> Option<Self> {
        let row = unseal(Table::Slot, &index.to_be_bytes(), row)?;
        let row: &[u8; Self::VALUE_BYTES] = row.try_into().ok()?;
        let u64_at = |at: usize| {
            let mut raw = [0; 8];
            raw.copy_from_slice(&row[at..at + 8]);
            u64::from_le_bytes(raw)
        };
        let generation = u32::from_le_bytes([row[8], row[9], row[10], row[11]]);
        let mut slot = Self { owner_number: u64_at(0), generation, ..Self::FREE };
        slot.first_seq = u64_at(12);
        if row[20] & 1 == 0 {
            return Some(slot);
        }
        slot.owner = ORPHAN;
        slot.closed = row[20] & 2 != 0;
        slot.continuation = row[20] & 4 != 0;
        slot.fleeting = row[20] & 8 != 0;
        slot.count = u16::from_le_bytes([row[21], row[22]]);
        slot.part = u16::from_le_bytes([row[23], row[24]]);
        for (word, at) in slot.settled_bits.0.iter_mut().zip((25..).step_by(8)) {
            *word = u64_at(at);
        }
        slot.taken_bits = slot.settled_bits;
        slot.settled = u16::try_from(slot.settled_bits.count()).ok()?;
        slot.known = slot.continuation;
        slot.streams = if slot.continuation { 0 } else { u128::MAX };
        let mut inside = slot.settled_bits;
        inside.cut(slot.count);
        let fits = usize::from(slot.count) <= SLOT_RECORDS_MAX
            && slot.first_seq <= SEQ_MAX
            && inside == slot.settled_bits;
        fits.then_some(slot)
    }

    /// It has only so many records, whatever its row says.
    pub fn shorten(&mut self, count: u16) {
        self.count = count;
        self.settled_bits.cut(count);
        self.taken_bits.cut(count);
        self.settled = fit(self.settled_bits.count(), "records of a slot");
    }

    pub fn unsettled(&self) -> u16 {
        self.count - self.settled
    }

    /// Records that are here only.
    pub fn untaken(&self) -> u32 {
        u32::from(self.count).saturating_sub(self.taken_bits.count())
    }
}

/// Whose a slot is that is taken into use.
#[derive(Clone, Copy, Debug)]
pub struct NewSlot {
    pub owner: u16,
    pub number: u64,
    pub fleeting: bool,
    pub first_seq: u64,
}

/// One destination's slots, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct SlotChain {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl SlotChain {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };
}

/// The memory is reserved at start; a page of it is touched when it is first used.
pub struct Log {
    pub slots: Vec<Slot>,
    pub capacity: u32,
    free: u32,
    pub free_count: u32,
    dirty: Box<[u64]>,
    pub dirty_count: u32,
}

impl Log {
    pub fn new(slot_count: u32) -> Self {
        let count = widen(slot_count);
        Self {
            slots: Vec::with_capacity(count),
            capacity: slot_count,
            free: NONE,
            free_count: slot_count,
            dirty: vec![0; count.div_ceil(64)].into_boxed_slice(),
            dirty_count: 0,
        }
    }

    pub fn planned_bytes(slot_count: u32) -> usize {
        widen(slot_count) * size_of::<Slot>()
    }

    /// Puts the rows of the store in place: `row(slot)` for each. Rebuilds the free list.
    pub fn load(&mut self, rows: &[(u32, Slot)]) {
        // A smaller store than before: what is in use beyond its end is still there, and is used
        // until it is settled.
        let is_used = |index: u32, slot: &Slot| {
            index < self.capacity || (slot.owner != FREE && index < SLOTS_MAX)
        };
        let used = rows.iter().filter(|(index, slot)| is_used(*index, slot));
        let used = used.map(|(index, _)| index + 1).max().unwrap_or(0);
        self.slots.resize(widen(used), Slot::FREE);
        if widen(used) > self.dirty.len() * 64 {
            self.dirty = vec![0; widen(used).div_ceil(64)].into_boxed_slice();
        }
        for (index, slot) in rows {
            if let Some(place) = self.slots.get_mut(widen(*index)) {
                *place = *slot;
            }
        }
        self.free = NONE;
        self.free_count = self.capacity - used.min(self.capacity);
        for index in (0..used.min(self.capacity)).rev() {
            if self.slots[widen(index)].owner == FREE {
                self.slots[widen(index)].next = self.free;
                self.free = index;
                self.free_count += 1;
            }
        }
    }

    /// The next `count_max` free slots that were in use before.
    pub fn free_slots(&self, count_max: u32) -> impl Iterator<Item = u32> {
        let known = |at: u32| (at != NONE).then_some(at);
        core::iter::successors(known(self.free), move |at| known(self.slots[widen(*at)].next))
            .take(widen(count_max))
    }

    /// Looks at the next `count_max` free slots that were in use before; the first that is `wanted`
    /// is taken next. `false`: none is.
    pub fn prefer(&mut self, count_max: u32, mut wanted: impl FnMut(u32) -> bool) -> bool {
        let (mut before, mut at) = (NONE, self.free);
        for _ in 0..count_max {
            if at == NONE {
                return false;
            }
            let next = self.slots[widen(at)].next;
            if wanted(at) {
                if before != NONE {
                    self.slots[widen(before)].next = next;
                    self.slots[widen(at)].next = self.free;
                    self.free = at;
                }
                return true;
            }
            (before, at) = (at, next);
        }
        false
    }

    /// A free slot, put into `chain` before `before`; `NONE` = at its end.
    pub fn allocate(&mut self, chain: &mut SlotChain, before: u32, new: &NewSlot) -> Option<u32> {
        if self.free_count == 0 {
            return None;
        }
        let index = if self.free == NONE {
            self.slots.push(Slot::FREE);
            u32::try_from(self.slots.len() - 1).ok()?
        } else {
            self.free
        };
        let prev = if before == NONE { chain.tail } else { self.slots[widen(before)].prev };
        let slot = &mut self.slots[widen(index)];
        if self.free == index {
            self.free = slot.next;
        }
        self.free_count -= 1;
        let generation = slot.generation.wrapping_add(1);
        *slot = Slot {
            owner: new.owner,
            owner_number: new.number,
            fleeting: new.fleeting,
            generation,
            first_seq: new.first_seq,
            prev,
            next: before,
            ..Slot::FREE
        };
        match prev {
            NONE => chain.head = index,
            prev => self.slots[widen(prev)].next = index,
        }
        match before {
            NONE => chain.tail = index,
            before => self.slots[widen(before)].prev = index,
        }
        chain.len += 1;
        self.mark(index);
        Some(index)
    }

    /// Gives a slot back.
    pub fn release(&mut self, chain: &mut SlotChain, index: u32) {
        let Slot { prev, next, generation, .. } = self.slots[widen(index)];
        if prev == NONE {
            chain.head = next;
        } else {
            self.slots[widen(prev)].next = next;
        }
        if next == NONE {
            chain.tail = prev;
        } else {
            self.slots[widen(next)].prev = prev;
        }
        chain.len -= 1;
        self.slots[widen(index)] = Slot { generation, ..Slot::FREE };
        if index < self.capacity {
            self.slots[widen(index)].next = self.free;
            self.free = index;
            self.free_count += 1;
        }
        // The flag went with the old content, the bit may still be set.
        self.slots[widen(index)].dirty = self.dirty[widen(index) / 64] >> (index % 64) & 1 == 1;
        self.mark(index);
    }

    /// The slot's row must be written.
    pub fn mark(&mut self, index: u32) {
        let word = &mut self.dirty[widen(index) / 64];
        if *word >> (index % 64) & 1 == 0 {
            *word |= 1 << (index % 64);
            self.dirty_count += 1;
        }
        self.slots[widen(index)].dirty = true;
    }

    /// The first slot at or after `from` whose row must be written.
    pub fn next_dirty(&self, from: u32) -> Option<u32> {
        let mut word_index = widen(from) / 64;
        let mut mask = u64::MAX << (from % 64);
        while let Some(word) = self.dirty.get(word_index) {
            let bits = word & mask;
            if bits != 0 {
                let at = word_index * 64 + index(bits.trailing_zeros());
                return u32::try_from(at).ok();
            }
            mask = u64::MAX;
            word_index += 1;
        }
        None
    }

    /// Every dirty row was committed.
    pub fn clean(&mut self) {
        let mut at = 0;
        while let Some(index) = self.next_dirty(at) {
            self.slots[widen(index)].dirty = false;
            at = index + 1;
        }
        self.dirty.fill(0);
        self.dirty_count = 0;
    }

    pub fn id(index: u32) -> SlotId {
        SlotId(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_slot(first_seq: u64) -> NewSlot {
        NewSlot { owner: 5, number: 77, fleeting: false, first_seq }
    }

    #[test]
    fn row_round_trips_and_every_flipped_bit_is_noticed() {
        let mut log = Log::new(3);
        let mut chain = SlotChain::EMPTY;
        let index = log.allocate(&mut chain, NONE, &new_slot(1234)).unwrap();
        let slot = &mut log.slots[widen(index)];
        slot.count = 10;
        slot.closed = true;
        slot.settled_bits.set(3);
        slot.settled_bits.set(9);
        let mut row = Vec::new();
        slot.row(index, &mut row);
        let back = Slot::from_row(index, &row).unwrap();
        assert_eq!((back.owner, back.owner_number, back.first_seq), (ORPHAN, 77, 1234));
        assert_eq!((back.count, back.settled, back.closed), (10, 2, true));
        assert_eq!(back.settled_bits, slot.settled_bits);
        assert!(Slot::from_row(index, &row[1..]).is_none());
        assert!(Slot::from_row(index + 1, &row).is_none(), "the row of another slot");
        for bit in 0..row.len() * 8 {
            row[bit / 8] ^= 1 << (bit % 8);
            assert!(Slot::from_row(index, &row).is_none(), "bit {bit}");
            row[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_row_with_more_settled_than_there_is_counts_as_damaged() {
        let mut slot = Slot { owner: 5, count: 65, ..Slot::FREE };
        slot.settled_bits.set(64);
        let mut row = Vec::new();
        slot.row(0, &mut row);
        assert_eq!(Slot::from_row(0, &row).map(|slot| slot.settled), Some(1));
        slot.settled_bits.set(65);
        slot.row(0, &mut row);
        assert!(Slot::from_row(0, &row).is_none());
    }

    #[test]
    fn a_shortened_slot_forgets_what_lay_behind() {
        let mut slot = Slot { count: 130, settled: 3, ..Slot::FREE };
        for ordinal in [0, 63, 128] {
            slot.settled_bits.set(ordinal);
            slot.taken_bits.set(ordinal);
        }
        slot.shorten(64);
        assert_eq!((slot.settled, slot.unsettled()), (2, 62));
        slot.shorten(0);
        assert_eq!((slot.settled, slot.taken_bits), (0, Bits::NONE));
    }

    #[test]
    fn a_slot_taken_again_has_a_new_generation() {
        let mut log = Log::new(1);
        let mut chain = SlotChain::EMPTY;
        let index = log.allocate(&mut chain, NONE, &new_slot(1)).unwrap();
        let first = log.slots[0].generation;
        assert!(log.allocate(&mut chain, NONE, &new_slot(1)).is_none());
        log.release(&mut chain, index);
        assert_eq!((chain.len, log.free_count), (0, 1));
        log.allocate(&mut chain, NONE, &new_slot(1)).unwrap();
        assert_eq!(log.slots[0].generation, first + 1);
        log.slots[0].generation = u32::MAX;
        log.release(&mut chain, index);
        log.allocate(&mut chain, NONE, &new_slot(1)).unwrap();
        assert_eq!(log.slots[0].generation, 0, "it wraps");
    }

    #[test]
    fn a_preferred_slot_is_taken_next_and_no_other_is_lost() {
        let mut log = Log::new(4);
        let mut chain = SlotChain::EMPTY;
        let ids: Vec<u32> =
            (0..4).map(|seq| log.allocate(&mut chain, NONE, &new_slot(seq)).unwrap()).collect();
        for id in &ids {
            log.release(&mut chain, *id);
        }
        assert!(!log.prefer(4, |_| false));
        assert!(!log.prefer(1, |id| id == ids[1]), "beyond what is looked at");
        for wanted in [ids[1], ids[0], ids[3], ids[2]] {
            assert!(log.prefer(4, |id| id == wanted));
            assert_eq!(log.allocate(&mut chain, NONE, &new_slot(9)), Some(wanted));
        }
        assert!(!log.prefer(4, |_| true));
        assert_eq!(log.free_count, 0);
    }

    #[test]
    fn an_older_slot_goes_before_the_newer_ones() {
        let mut log = Log::new(4);
        let mut chain = SlotChain::EMPTY;
        let last = log.allocate(&mut chain, NONE, &new_slot(9)).unwrap();
        let first = log.allocate(&mut chain, last, &new_slot(1)).unwrap();
        let middle = log.allocate(&mut chain, last, &new_slot(5)).unwrap();
        let (mut at, mut order) = (chain.head, Vec::new());
        while at != NONE {
            order.push(at);
            at = log.slots[widen(at)].next;
        }
        assert_eq!(order, [first, middle, last]);
        assert_eq!((chain.tail, chain.len, log.slots[widen(last)].prev), (last, 3, middle));
    }

    #[test]
    fn the_middle_of_a_chain_can_go() {
        let mut log = Log::new(3);
        let mut chain = SlotChain::EMPTY;
        let ids: Vec<u32> =
            (0..3).map(|seq| log.allocate(&mut chain, NONE, &new_slot(seq)).unwrap()).collect();
        log.clean();
        log.release(&mut chain, ids[1]);
        assert_eq!(log.slots[widen(ids[0])].next, ids[2]);
        assert_eq!(log.slots[widen(ids[2])].prev, ids[0]);
        assert_eq!(log.next_dirty(0), Some(ids[1]));
        assert_eq!(log.dirty_count, 1);
    }
}
