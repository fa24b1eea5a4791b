//! After the store refused: what the transaction did to RAM is undone, and when it is tried again.
//! A full disk is no reason not to drain it.

use super::Queue;
use super::entry::Chain;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::recv::Stage;
use super::store::StoreError;
use crate::fit::millis;
use crate::note::Note;
use crate::vocab::Instant;
use core::time::Duration;

impl Queue {
    /// May the store be written now? Not while it waits after an error.
    pub fn store_due(&self, now: Instant) -> bool {
        self.setup.stored && now >= self.retry_at
    }

    /// The disk was full a moment ago: nothing is appended for a while, so that what is there can
    /// still be drained, and its room be used again.
    pub fn is_full(&self, now: Instant) -> bool {
        now < self.full_until
    }

    /// The store refused: everything the transaction did to RAM is undone.
    pub fn failed(&mut self, now: Instant, operation: &'static str, error: StoreError) {
        self.salvage_failed();
        for dest in self.dests() {
            self.leave_window(dest);
        }
        let mut appended = core::mem::take(&mut self.txn.appended);
        // The destination that was being appended when it failed is not in the list.
        for index in 0..self.boxes.len() {
            let mut at = self.boxes[index].custody.head;
            while at != NONE && self.entries[at].place.is_some() {
                self.entries[at].place = None;
                self.stage_holds(at, false);
                at = self.entries.next(Chain::Custody, at);
            }
        }
        appended.clear();
        self.txn.appended = appended;
        while let Some((slot, owner)) = self.txn.taken.pop() {
            let outbox = &mut self.boxes[usize::from(owner)];
            self.log.release(&mut outbox.chain, slot);
            if outbox.params.session {
                self.session_slots -= 1;
            }
        }
        while let Some((slot, before)) = self.txn.saved.pop() {
            // Only what was appended: what was settled meanwhile is, and stays so.
            let place = &mut self.log.slots[widen(slot)];
            place.used = before.used;
            place.count = before.count;
            place.closed = before.closed;
        }
        self.unstick();
        self.slot_in_buffer = NONE;
        for dest in self.dests() {
            if self.outbox(dest).row_dirty {
                let mut waited = false;
                self.recv.update(dest.0, &mut |_, stage| match stage {
                    // A PUBREC waits for it. Its message is not safe by this transaction either.
                    Stage::Staged(record) => {
                        waited = true;
                        record.map_or(Stage::Ready, Stage::Waits)
                    }
                    other => other,
                });
                self.outbox_mut(dest).row_urgent |= waited;
            }
        }
        let reason = error.word();
        let after =
            (self.retry_after * 2).clamp(Duration::from_millis(100), Duration::from_secs(5));
        self.retry_after = after;
        self.frugal |= error == StoreError::Full;
        if error == StoreError::Full && !self.is_full(now) {
            self.full_until = now.plus(after);
        } else {
            self.retry_at = now.plus(after);
        }
        self.failing = true;
        let retry_in_ms = millis(after);
        self.note(Note::StoreError { operation, reason, retry_in_ms, key: error.key() });
    }

    /// What the failed transaction let into the window was never sent, nor was what is behind it:
    /// it waits again.
    fn leave_window(&mut self, dest: DestId) {
        if self.outbox(dest).custody_qos2 == 0 {
            return;
        }
        let mut first = NONE;
        let mut at = self.outbox(dest).flight.tail;
        while at != NONE && self.entries[at].flags.unsent {
            if self.entries[at].flags.barrier && self.entries[at].flags.custody {
                first = at;
            }
            at = self.entries.previous(Chain::Line, at);
        }
        let mut last = if first == NONE { NONE } else { self.outbox(dest).flight.tail };
        while last != NONE {
            let before = self.entries.previous(Chain::Line, last);
            // What is passed over came before, if it was sent: it keeps its identifier.
            if !(self.entries[last].flags.deferred && self.entries[last].flags.dup) {
                self.put_back(dest, last);
            }
            last = if last == first { NONE } else { before };
        }
    }
}
