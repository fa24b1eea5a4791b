//! One commit a turn: which destinations' records have to be durable now, the log they are
//! appended to, the rows beside it, and what becomes visible once the commit is done.
//!
//! `stage` writes into the store's open transaction, the caller commits, then `committed` or
//! `failed` follows. Nothing is released before `committed`.

use super::Queue;
use super::entry::{Chain, NO_RULE_YET, State};
use super::log::Slot;
use super::outbox::{DestId, Outbox, Up};
use super::pool::{NONE, widen};
use super::recv::Stage;
use super::refill::Classify;
use super::store::{SpillStore, StoreError};
use super::together::Cursor;
use crate::fit::{millis, wide};
use crate::limits::{
    COMMIT_BYTES_MAX, COMMIT_EAGER_BYTES, FLUSH_AFTER_MAX, LAZY_SETTLED_AFTER, SLOT_BYTES,
};
use crate::mqtt::Qos;
use crate::note::{Lost, Note};
use crate::vocab::Instant;
use core::time::Duration;

/// What the open transaction has done to RAM and must be undone if it fails.
pub struct Txn {
    /// Destination and how many entries of its custody were appended.
    pub(super) appended: Vec<(u16, u32)>,
    /// Slots as they were.
    pub(super) saved: Vec<(u32, Slot)>,
    /// Slots taken into use, with their destination.
    pub(super) taken: Vec<(u32, u16)>,
    pub(super) bytes: usize,
    pub(super) wrote: bool,
    /// It may take slots into use that the disk has perhaps no room for.
    pub(super) may_grow: bool,
    /// It does.
    pub(super) grew: bool,
    pub(super) buffer: Vec<u8>,
    pub(super) buffer_slot: u32,
    pub(super) buffer_at: usize,
    pub(super) row: Vec<u8>,
    pub(super) next_first: usize,
    pub(super) cursors: Vec<Cursor>,
}

impl Txn {
    pub fn new(destinations: usize) -> Self {
        let slots = COMMIT_BYTES_MAX / SLOT_BYTES * 4 + destinations;
        Self {
            appended: Vec::with_capacity(destinations),
            saved: Vec::with_capacity(slots),
            taken: Vec::with_capacity(slots),
            bytes: 0,
            wrote: false,
            may_grow: true,
            grew: false,
            buffer: Vec::with_capacity(SLOT_BYTES),
            buffer_slot: NONE,
            buffer_at: 0,
            row: Vec::with_capacity(16 * 1024),
            next_first: 0,
            cursors: Vec::with_capacity(destinations),
        }
    }

    /// A slot is given back amid the transaction.
    pub(super) fn forget(&mut self, slot: u32) {
        self.saved.retain(|(saved, _)| *saved != slot);
        self.taken.retain(|(taken, _)| *taken != slot);
    }

    fn clear(&mut self) {
        self.appended.clear();
        self.saved.clear();
        self.taken.clear();
        self.bytes = 0;
        self.wrote = false;
        self.grew = false;
        self.buffer.clear();
        self.buffer_slot = NONE;
    }
}

impl Queue {
    /// Writes what has to be durable. `wrote_before`: the caller has rows of its own in this
    /// transaction. Says whether there is anything to commit.
    pub fn stage(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        wrote_before: bool,
        classify: &mut impl Classify,
    ) -> Result<bool, StoreError> {
        self.txn.clear();
        self.txn.wrote = wrote_before;
        let full = self.is_full(now);
        if !full {
            self.salvage(store, classify)?;
        }
        self.trim(now, store, classify)?;
        self.press(now);
        for dest in self.dests() {
            self.give_up_custody(dest);
            if (self.outbox(dest).stuck || full) && self.outbox(dest).reorder {
                self.stand_back(dest);
            }
        }
        if !full {
            self.append_due(now, store)?;
        }
        self.write_buffer(store)?;
        for dest in self.dests() {
            self.admit_qos2(dest);
        }
        self.put_rows(now, store)?;
        Ok(self.txn.wrote)
    }

    /// Appends the custody of every destination it is time for.
    fn append_due(&mut self, now: Instant, store: &mut impl SpillStore) -> Result<(), StoreError> {
        // A QoS 2 message is durable everywhere at once, with its publisher's identifier: were it
        // only at one destination when the power goes, that one would get its second try too.
        let exactly_once = self
            .dests()
            .any(|dest| self.outbox(dest).custody_qos2 > 0 && self.commit_due(dest, now));
        let whole = exactly_once && self.may_end_early(now);
        for may_grow in [!self.frugal, true] {
            self.txn.may_grow = may_grow;
            if whole {
                self.append_together(now, store)?;
            } else {
                self.append_in_turn(now, exactly_once, store)?;
            }
            if may_grow || self.txn.bytes > 0 {
                break;
            }
        }
        Ok(())
    }

    fn append_in_turn(
        &mut self,
        now: Instant,
        exactly_once: bool,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let count = self.boxes.len();
        let first = self.txn.next_first;
        for turn in 0..count {
            let at = (first + turn) % count;
            let Ok(index) = u16::try_from(at) else { continue };
            let dest = DestId(index);
            let along = exactly_once && self.goes_along(dest, now);
            let due = along || self.commit_due(dest, now);
            if due && !self.append_all(dest, store)? {
                // The transaction is full: whoever had no turn begins the next one.
                self.txn.next_first = at;
                break;
            }
        }
        Ok(())
    }

    /// Must this destination's custody be committed in this turn?
    pub(super) fn commit_due(&self, dest: DestId, now: Instant) -> bool {
        now >= self.commit_at(self.outbox(dest), now)
    }

    /// When this destination's custody has to be committed.
    fn commit_at(&self, outbox: &Outbox, now: Instant) -> Instant {
        if !outbox.used || outbox.custody.is_empty() || outbox.stuck {
            return Instant::NEVER;
        }
        let asked = self.commit_all && outbox.custody_held > 0;
        let stopping = self.stopping && outbox.params.persistent;
        let window_open = outbox.params.journal
            && outbox.custody_qos2 > 0
            && outbox.up == Up::Up
            && outbox.has_room();
        if outbox.evict || outbox.reorder || asked || stopping || window_open {
            return Instant::ZERO;
        }
        // What is staged behind a backlog goes to the disk in any case.
        let staged = outbox.has_stored();
        if outbox.custody_held == 0 && !staged {
            return Instant::NEVER;
        }
        let head = &self.entries[outbox.custody.head];
        let oldest = match head.replaced {
            NONE => head.arrival,
            replaced => self.entries[replaced].arrival,
        };
        let most = FLUSH_AFTER_MAX.max(self.setup.flush_after);
        let stretched = (outbox.srtt * 2).clamp(self.setup.flush_after, most);
        let prompt = outbox.up == Up::Up
            && !staged
            && (outbox.flight.is_empty() || now.since(outbox.progress) <= stretched);
        if prompt {
            return oldest.plus(stretched);
        }
        let eager = wide(COMMIT_EAGER_BYTES);
        if outbox.custody_bytes >= eager || self.eager {
            return Instant::ZERO;
        }
        oldest.plus(self.setup.flush_after)
    }

    /// When the next flush has something to write for this destination.
    fn due_at(&self, outbox: &Outbox, now: Instant) -> Instant {
        if !outbox.used {
            return Instant::NEVER;
        }
        let leaves_ram = (outbox.evict || outbox.reorder) && outbox.custody.is_empty();
        let urgent = outbox.row_urgent || (self.settled_source && outbox.row_partial);
        let moves = outbox.wants_search() || outbox.reorder || leaves_ram;
        if moves || urgent || self.can_admit(outbox) {
            return Instant::ZERO;
        }
        let room_at = if self.slot_freed { Instant::ZERO } else { self.full_until };
        self.commit_at(outbox, now).max(room_at)
    }

    /// When the next flush has something to do, if nothing else happens.
    pub fn flush_at(&self, now: Instant) -> Instant {
        if !self.setup.stored {
            return Instant::NEVER;
        }
        let mut at = if self.pressed { Instant::ZERO } else { Instant::NEVER };
        if self.wants_salvage() {
            at = at.min(self.full_until);
        }
        if self.log.dirty_count > 0 {
            at = at.min(self.settled_since.plus(LAZY_SETTLED_AFTER));
        }
        let mut loads = false;
        for outbox in &self.boxes {
            at = at.min(self.due_at(outbox, now));
            loads |= outbox.used && self.can_refill(outbox);
        }
        // A store that rests is read from all the same.
        at = if loads { Instant::ZERO } else { at.max(self.rest_until) };
        at.max(self.retry_at)
    }

    /// QoS 2 messages whose record is (or is about to be) durable enter the window: their
    /// identifiers are in the same commit.
    fn admit_qos2(&mut self, dest: DestId) {
        let outbox = self.outbox(dest);
        if !outbox.used || !outbox.journals() || outbox.up == Up::Down || outbox.reorder {
            return;
        }
        if !core::mem::take(&mut self.outbox_mut(dest).qos2_wanted)
            && self.outbox(dest).custody_qos2 == 0
        {
            return;
        }
        let blocked = self.outbox(dest).paced;
        loop {
            let outbox = self.outbox(dest);
            if !outbox.has_room() {
                // The next acknowledgement asks again.
                return;
            }
            // Streams paced by topic take their turn one by one, in the order of their tokens.
            let mut open = outbox.active & !blocked;
            open |= outbox.active & outbox.granted;
            let mut taken = false;
            while open != 0 {
                let stream = open.trailing_zeros();
                open &= open - 1;
                let head = self.outbox(dest).streams[widen(stream)].list.head;
                let entry = &self.entries[head];
                if entry.qos == Qos::ExactlyOnce && entry.place.is_none() {
                    continue;
                }
                let qos2 = entry.qos == Qos::ExactlyOnce;
                if self.take(dest, head).is_none() {
                    return;
                }
                self.outbox_mut(dest).granted &= !(1 << stream);
                taken = true;
                if qos2 {
                    self.entries[head].flags.barrier = true;
                    let outbox = self.outbox_mut(dest);
                    outbox.row_dirty = true;
                    outbox.row_urgent = true;
                }
                break;
            }
            if !taken {
                return;
            }
        }
    }

    /// The commit succeeded: what it made durable may be seen.
    pub fn committed(&mut self, now: Instant) {
        let full = self.is_full(now);
        if !full {
            self.eager = false;
            self.commit_all = false;
        }
        self.settled_source = false;
        // What is committed is not undone, whatever fails next.
        self.txn.taken.clear();
        self.frugal &= !self.txn.grew;
        if !self.txn.wrote {
            self.txn.saved.clear();
            self.evict_committed(now);
            return;
        }
        self.commits += 1;
        self.changes += 1;
        self.stale_rows.clear();
        // What is settled from here on was not in it.
        self.log.clean();
        for outbox in &mut self.boxes {
            outbox.settled_dirty = 0;
        }
        self.salvage_committed(now);
        let mut appended = core::mem::take(&mut self.txn.appended);
        for (index, count) in appended.drain(..) {
            let dest = DestId(index);
            for _ in 0..count {
                self.entry_committed(dest);
            }
        }
        self.txn.appended = appended;
        self.evict_committed(now);
        for dest in self.dests() {
            let outbox = self.outbox_mut(dest);
            if !outbox.used {
                continue;
            }
            if outbox.row_dirty {
                outbox.row_stored = outbox.params.persistent;
                outbox.row_unsure = false;
            }
            let written = core::mem::replace(&mut outbox.row_dirty, outbox.row_partial);
            outbox.row_urgent = false;
            // The table is everybody's: it is gone through for those who have something in it.
            if written && outbox.params.journal && outbox.received > 0 {
                self.recv.update(dest.0, &mut |_, stage| match stage {
                    Stage::Staged(_) => Stage::Durable,
                    other => other,
                });
            }
            let outbox = self.outbox_mut(dest);
            outbox.tight &= !outbox.custody.is_empty();
            self.lift_barriers(dest);
            self.spill_note(dest, now);
        }
        self.settled_since = now;
        self.release_closed();
    }

    /// The store did all that was asked of it in this turn.
    pub fn works(&mut self, now: Instant) {
        let full = self.is_full(now);
        if core::mem::take(&mut self.slot_freed) {
            // What found no room may find some in the next flush.
            self.full_until = Instant::ZERO;
        }
        if !full && core::mem::take(&mut self.failing) {
            self.retry_after = Duration::ZERO;
            self.changes += 1;
            let lost = Lost(Some(0));
            self.note(Note::StoreRecovered { rescued: 0, lost, reason: None });
        }
    }

    /// Slots that were closed when all their records were settled already.
    fn release_closed(&mut self) {
        let mut saved = core::mem::take(&mut self.txn.saved);
        for (index, _) in saved.drain(..) {
            let slot = &self.log.slots[widen(index)];
            let owned = usize::from(slot.owner) < self.boxes.len();
            if owned && slot.closed && !slot.continuation && slot.settled == slot.count {
                self.release_slot(DestId(slot.owner), index);
            }
        }
        self.txn.saved = saved;
    }

    fn evict_committed(&mut self, now: Instant) {
        for dest in self.dests() {
            let outbox = self.outbox(dest);
            if outbox.used && (outbox.evict || outbox.reorder) && outbox.custody.is_empty() {
                self.evict(dest, now);
            }
        }
    }

    fn entry_committed(&mut self, dest: DestId) {
        let index = self.outbox(dest).custody.head;
        let entry = self.entries[index];
        // `append` has set it for every entry it counted.
        let Some(place) = entry.place else { unreachable!("appended entries have a place") };
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.custody_bytes -= u64::from(entry.body_bytes);
        outbox.custody_held -= u32::from(entry.flags.hold);
        outbox.custody_qos2 -= u32::from(entry.qos == Qos::ExactlyOnce);
        self.entries.unlink(&mut outbox.custody, Chain::Custody, index);
        self.entries[index].flags.custody = false;
        outbox.stored += 1;
        self.log.slots[widen(place.slot)].taken_bits.set(place.ordinal);
        self.stage_holds(index, false);
        self.unhold(dest, index);
        match entry.state {
            State::Waiting if !entry.flags.listed => self.leave_ram(dest, index),
            // Its PUBREC was quicker than the commit: from here on the store has it.
            State::Release => self.release_bytes(dest, index),
            State::Waiting
            | State::Publish
            | State::Free
            | State::Zero
            | State::Done
            | State::Conflated => {}
        }
    }

    /// The disk has no room for what waits, and something on disk goes before it: what is durable
    /// leaves RAM, the rest is staged behind.
    fn stand_back(&mut self, dest: DestId) {
        for stream in 0..self.outbox(dest).streams.len() {
            let Ok(narrow) = u8::try_from(stream) else { continue };
            if !self.outbox(dest).has_gap(narrow) {
                continue;
            }
            loop {
                let outbox = &mut self.boxes[usize::from(dest.0)];
                let list = &mut outbox.streams[stream].list;
                let index = list.head;
                if index == NONE {
                    outbox.active &= !(1 << stream);
                    break;
                }
                self.entries.unlink(list, Chain::Line, index);
                self.entries[index].flags.listed = false;
                if !self.entries[index].flags.custody {
                    self.leave_ram(dest, index);
                }
            }
        }
        self.outbox_mut(dest).reorder = false;
    }

    /// A waiting entry whose bytes are durable is on disk only from here on.
    fn leave_ram(&mut self, dest: DestId, index: u32) {
        self.release_bytes(dest, index);
        let entry = self.entries[index];
        let Some(place) = entry.place else { unreachable!("only committed entries leave") };
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let slot = &mut self.log.slots[widen(place.slot)];
        slot.taken_bits.clear(place.ordinal);
        slot.streams |= 1 << entry.stream;
        outbox.rule_to_disk(entry.rule, slot.known);
        // A slot that has not been read since the restart is counted when it is.
        if slot.known {
            outbox.streams[usize::from(entry.stream)].gap += 1;
            outbox.gaps |= 1 << entry.stream;
        }
        if let Some(row) = outbox.conflated.get_mut(usize::from(entry.conflate)) {
            row.entry = NONE;
            row.place = Some(place);
        }
        self.entries.give(index);
        if entry.rule == NO_RULE_YET {
            // Its stream was a guess.
            self.forget_streams(dest);
        }
    }

    /// Everything that waits leaves RAM, and the bytes of what is in flight: all of it is durable.
    fn evict(&mut self, dest: DestId, now: Instant) {
        let outbox = self.outbox_mut(dest);
        outbox.evict = false;
        // Refills go on. What leaves RAM counts by itself; when nothing does, nothing has changed.
        let reorder = core::mem::take(&mut outbox.reorder);
        self.changes += u64::from(reorder);
        let outbox = self.outbox_mut(dest);
        if !outbox.spilling {
            outbox.spilling = true;
            outbox.spill_since = now;
            outbox.spill_messages = 0;
            let reason = if outbox.up == Up::Up { "ring_full" } else { "link_down" };
            let (destination, ring) = (outbox.params.name.clone(), outbox.records);
            self.note(Note::SpillStarted { destination, ring, reason });
        }
        let mut active = self.outbox(dest).active;
        while active != 0 {
            let stream = widen(active.trailing_zeros());
            active &= active - 1;
            loop {
                let outbox = &mut self.boxes[usize::from(dest.0)];
                let list = &mut outbox.streams[stream].list;
                let index = list.head;
                if index == NONE {
                    outbox.active &= !(1 << stream);
                    break;
                }
                self.entries.unlink(list, Chain::Line, index);
                self.leave_ram(dest, index);
            }
        }
        let mut at = self.outbox(dest).flight.head;
        while at != NONE {
            let next = self.entries.next(Chain::Line, at);
            if self.entries[at].place.is_some()
                && self.outbox(dest).can_do_without(&self.entries[at])
            {
                self.release_bytes(dest, at);
            }
            at = next;
        }
    }

    fn lift_barriers(&mut self, dest: DestId) {
        for list in [self.outbox(dest).flight, self.outbox(dest).release] {
            // Entries with a barrier are always unsent, and those are at the end once it is known
            // which they are.
            let down = self.outbox(dest).up == Up::Down;
            let mut at = list.tail;
            while at != NONE && (down || self.entries[at].flags.unsent) {
                self.entries[at].flags.barrier = false;
                self.sendable.set(dest.0);
                at = self.entries.previous(Chain::Line, at);
            }
        }
        while !self.outbox(dest).done.is_empty() {
            let index = self.outbox(dest).done.head;
            self.free_done(dest, index);
        }
    }

    /// `spill_drained` once nothing is on disk only any more.
    pub(crate) fn spill_note(&mut self, dest: DestId, now: Instant) {
        let outbox = self.outbox_mut(dest);
        if !outbox.spilling || outbox.has_stored() {
            return;
        }
        outbox.spilling = false;
        let note = Note::SpillDrained {
            destination: outbox.params.name.clone(),
            messages: outbox.spill_messages,
            duration_ms: millis(now.since(outbox.spill_since)),
        };
        self.note(note);
    }
}
