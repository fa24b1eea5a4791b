//! Records on disk that are damaged: counted and settled, so that the others go on, also those in
//! the same slot behind a length that is not true any more.

use super::entry::Place;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::LogHead;
use super::walk::{Walk, is_sound};
use super::{DropReason, Queue};
use crate::limits::SLOT_BYTES;
use crate::note::Note;
use core::ops::Range;

impl Queue {
    /// A record that no rule wants any more, or that only looks so.
    pub(super) fn unwanted(&mut self, dest: DestId, place: Place, at: usize, head: &LogHead) {
        let generation = self.log.slots[widen(place.slot)].generation;
        // One that is larger than a slot is judged when it is read, which it never will be.
        let large = at.saturating_add(head.bytes()) > SLOT_BYTES;
        let readable = self.topic_at(at, head).is_some();
        if large && readable || is_sound(&self.slot_buffer, place.slot, generation, at, head) {
            self.settle_stored(dest, place, None);
            self.count_drop(dest, DropReason::NoRule, 1);
        } else {
            self.give_up(dest, place, at, head.bytes());
        }
    }

    /// A damaged record of the slot in the buffer: counted and settled, with those that its false
    /// length hides.
    pub(super) fn give_up(&mut self, dest: DestId, place: Place, at: usize, bytes: usize) {
        let Place { slot, ordinal } = place;
        let count = self.log.slots[widen(slot)].count;
        let next = Walk { at: at.saturating_add(bytes), ordinal: ordinal + 1, count }
            .step(&self.slot_buffer);
        let generation = self.log.slots[widen(slot)].generation;
        let follows = ordinal + 1 == count
            || next.is_some_and(|(_, at, head)| {
                is_sound(&self.slot_buffer, slot, generation, at, &head)
            });
        let reached = if follows { None } else { self.bridge_gap(slot, at, ordinal, count) };
        self.settle_lost(dest, slot, ordinal..reached.unwrap_or(ordinal + 1));
    }

    /// The walk over the slot in the buffer ended too early: what hides the rest is counted and
    /// settled. `false`: nothing does, or nothing is left behind it.
    pub(super) fn mend(&mut self, dest: DestId, slot: u32) -> bool {
        if self.log.slots[widen(slot)].owner != dest.0 {
            return false;
        }
        let Some((ordinal, at)) = self.first_break(slot) else { return false };
        let count = self.log.slots[widen(slot)].count;
        let reached = self.bridge_gap(slot, at, ordinal, count);
        let taken = &self.log.slots[widen(slot)].taken_bits;
        if reached.is_none() && (ordinal..count).all(|ordinal| taken.get(ordinal)) {
            return false;
        }
        self.forget_streams(dest);
        self.settle_lost(dest, slot, ordinal..reached.unwrap_or(count));
        true
    }

    /// Where in the slot in the buffer a record is, also behind damage.
    pub(super) fn find_ordinal(&mut self, dest: DestId, place: Place) -> Option<(usize, LogHead)> {
        loop {
            let mut walk = Walk::new(self.log.slots[widen(place.slot)].count);
            while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
                if ordinal == place.ordinal {
                    return Some((at, head));
                }
            }
            // Every round bridges a gap or settles the rest, so this ends.
            if walk.is_complete() || !self.mend(dest, place.slot) {
                return None;
            }
        }
    }

    /// Records that are damaged: counted, and settled.
    fn settle_lost(&mut self, dest: DestId, slot: u32, ordinals: Range<u16>) {
        let mut lost = 0;
        for ordinal in ordinals {
            if self.log.slots[widen(slot)].owner != dest.0 {
                break;
            }
            if !self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                self.settle_stored(dest, Place { slot, ordinal }, None);
                lost += 1;
            }
        }
        if lost > 0 {
            self.forget_streams(dest);
            self.quarantine_corrupt(dest, lost);
        }
    }

    /// After damage: which streams have something on disk is found out again, slot by slot.
    pub(super) fn forget_streams(&mut self, dest: DestId) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        for stream in &mut outbox.streams {
            stream.gap = 0;
        }
        for rule in &mut outbox.rules {
            rule.disk = 0;
        }
        outbox.gaps = 0;
        outbox.unknown_slots = 0;
        let mut at = outbox.chain.head;
        while at != NONE {
            let slot = &mut self.log.slots[widen(at)];
            if !slot.continuation {
                slot.known = false;
                slot.streams = u128::MAX;
                outbox.unknown_slots += 1;
            }
            at = slot.next;
        }
        if outbox.unknown_slots == 0 {
            self.join_staged(dest);
        }
    }

    pub(super) fn quarantine_corrupt(&mut self, dest: DestId, count: u64) {
        self.counters.corrupt += count;
        let destination = self.name(dest);
        self.note(Note::quarantined(destination, "corrupt", count));
    }
}
