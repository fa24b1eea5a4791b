//! Appending records to a destination's log in the open transaction: slots taken into use, bytes
//! gathered so that a slot is written once, what has to be undone if the transaction fails.

use super::entry::{Chain, Place, State};
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::{HEAD_BYTES, LogHead, SESSION_RULE, Spot, crc_at};
use super::store::{SlotId, SpillStore, StoreError};
use super::{DropReason, Queue};
use crate::fit::{fit, wide};
use crate::limits::{COMMIT_BYTES_MAX, SLOT_BYTES, SLOT_RECORDS_MAX};
use crate::vocab::Overflow;

/// Slots that other destinations need.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside {
    pub bridges: u32,
    pub sessions: u32,
}

impl Beside {
    pub fn add(&mut self, session: bool, slots: u32) {
        let sum = if session { &mut self.sessions } else { &mut self.bridges };
        *sum = sum.saturating_add(slots);
    }

    pub fn without(mut self, session: bool, slots: u32) -> Self {
        let sum = if session { &mut self.sessions } else { &mut self.bridges };
        *sum -= slots;
        self
    }
}

pub(super) enum Append {
    Done,
    /// No slot for this destination.
    NoRoom,
}

impl Queue {
    /// Appends a destination's custody to its log. `false`: the transaction is full.
    pub(super) fn append_all(
        &mut self,
        dest: DestId,
        store: &mut impl SpillStore,
    ) -> Result<bool, StoreError> {
        let mut at = self.outbox(dest).custody.head;
        let mut count = 0;
        let mut room = true;
        while at != NONE {
            let total = self.bytes_at(at);
            if self.txn.bytes > 0 && self.txn.bytes + total > COMMIT_BYTES_MAX {
                room = false;
                break;
            }
            if !self.may_append(dest, total, store) {
                break;
            }
            match self.append(dest, at, store)? {
                Append::Done => count += 1,
                Append::NoRoom => {
                    let _ = self.no_room(dest, at);
                    break;
                }
            }
            at = self.entries.next(Chain::Custody, at);
        }
        if count > 0 {
            self.txn.appended.push((dest.0, count));
            self.txn.wrote = true;
        }
        Ok(room)
    }

    /// On a disk that was full: what fits without new room is not rolled back for what does not.
    fn may_append(&mut self, dest: DestId, total: usize, store: &mut impl SpillStore) -> bool {
        self.txn.may_grow
            || self.fits_tail(dest, total, store)
            || !self.slots_for(dest, slots_of(total))
            || if total > SLOT_BYTES {
                self.has_covered(total.div_ceil(SLOT_BYTES), SLOT_BYTES, store)
            } else {
                self.prefer_covered(total, store)
            }
    }

    /// Is there room for so many bytes in the destination's last slot, on disk too?
    pub(super) fn fits_tail(
        &self,
        dest: DestId,
        total: usize,
        store: &mut impl SpillStore,
    ) -> bool {
        let tail = self.outbox(dest).chain.tail;
        if tail == NONE {
            return false;
        }
        let slot = &self.log.slots[widen(tail)];
        let end = widen(slot.used) + total;
        !slot.closed
            && end <= SLOT_BYTES
            && usize::from(slot.count) < SLOT_RECORDS_MAX
            && (!self.frugal || store.covers(SlotId(tail), end))
    }

    /// No slot for a destination's custody from `at` on: the sessions' largest and `drop_oldest`
    /// give up their oldest slot in the next flush, `drop_newest` gives up what found no room, the
    /// others block. Says whether the next flush may find a slot for it.
    pub(super) fn no_room(&mut self, dest: DestId, at: u32) -> bool {
        self.any_stuck = true;
        let outbox = self.outbox_mut(dest);
        outbox.stuck = true;
        outbox.tight = true;
        outbox.evict = false;
        if dest == self.aside() {
            // Nothing is dropped for it, nor from it.
            return false;
        }
        let outbox = self.outbox(dest);
        let giver = match (outbox.params.session, outbox.params.overflow) {
            (true, _) => self.largest_session(dest),
            (false, Overflow::DropOldest) => dest,
            (false, Overflow::DropNewest) => {
                self.refuse_custody(dest, at);
                return false;
            }
            (false, Overflow::Block) => return false,
        };
        let head = self.outbox(giver).chain.head;
        if head == NONE {
            self.refuse_custody(dest, at);
            // Nobody waits any more: the next message asks again.
            let outbox = self.outbox_mut(dest);
            outbox.stuck = outbox.custody_held > 0;
            return false;
        }
        let unsettled = u32::from(self.log.slots[widen(head)].unsettled());
        self.outbox_mut(giver).trim += unsettled.max(1);
        // It is free once all of it is settled, and only a closed one is.
        self.save(head);
        self.log.slots[widen(head)].closed = true;
        self.log.mark(head);
        true
    }

    /// What was given up freed no slot: nobody waits for a destination that drops.
    pub(super) fn give_up_custody(&mut self, dest: DestId) {
        let outbox = self.outbox(dest);
        if outbox.waits_for_slot() && dest != self.aside() {
            self.refuse_custody(dest, outbox.custody.head);
        }
    }

    /// The session with the most slots, this one if it has as many.
    fn largest_session(&self, dest: DestId) -> DestId {
        let mut largest = dest;
        for (index, outbox) in (0u16..).zip(self.boxes.iter()) {
            let of_sessions = outbox.used && outbox.params.session && DestId(index) != self.aside();
            if of_sessions && outbox.chain.len > self.outbox(largest).chain.len {
                largest = DestId(index);
            }
        }
        largest
    }

    /// Gives up what waits in custody from `at` on: counted, and its publishers are told. Nobody
    /// waits for what a session has in flight.
    fn refuse_custody(&mut self, dest: DestId, mut at: u32) {
        let mut count = 0;
        while at != NONE {
            let next = self.entries.next(Chain::Custody, at);
            let entry = self.entries[at];
            if entry.state == State::Waiting {
                if let (true, Some(record)) = (entry.flags.hold, entry.record) {
                    let source = self.pool.head(record).source;
                    // Whoever finds no place here is acknowledged without the reason.
                    let _ = self.refused.push((source, record));
                }
                self.settle_unreplaced(dest, at);
                count += 1;
            }
            at = next;
        }
        self.count_drop(dest, DropReason::QueueFull, count);
        if self.outbox(dest).params.session {
            self.release_holds(dest);
        }
    }

    /// Appends one record.
    pub(super) fn append(
        &mut self,
        dest: DestId,
        index: u32,
        store: &mut impl SpillStore,
    ) -> Result<Append, StoreError> {
        let entry = self.entries[index];
        // An entry in custody has its bytes in RAM: they leave only after the commit.
        let Some(record) = entry.record else { unreachable!("custody implies bytes in RAM") };
        let head = *self.pool.head(record);
        let log_head = LogHead {
            crc: 0,
            seq: entry.seq,
            topic_bytes: head.topic_bytes,
            props_bytes: head.props_bytes,
            payload_bytes: head.payload_bytes,
            qos: entry.qos,
            retain: entry.flags.retain,
            rule: self.rule_hash(dest, entry.rule),
            session: self.outbox(dest).params.session,
            arrival_ms: head.arrival.as_millis(),
            ordinal: 0,
            wall_s: head.wall_s,
            expiry_s: head.expiry_s,
        };
        let total = log_head.bytes();
        if !self.fits_tail(dest, total, store) {
            let slots = slots_of(total);
            if !self.slots_for(dest, slots) {
                self.reclaim();
                if !self.slots_for(dest, slots) {
                    return Ok(Append::NoRoom);
                }
            }
            self.txn.grew |= !self.prefer_covered(total, store);
            self.write_buffer(store)?;
            let tail = self.outbox(dest).chain.tail;
            if tail != NONE {
                self.save(tail);
                self.log.slots[widen(tail)].closed = true;
                self.log.mark(tail);
            }
            self.allocate(dest, NONE, entry.seq);
        }
        let tail = self.outbox(dest).chain.tail;
        self.save(tail);
        let slot = &self.log.slots[widen(tail)];
        let spot = Spot { slot: tail, generation: slot.generation, at: slot.used };
        let place = Place { slot: tail, ordinal: slot.count };
        let log_head = LogHead { ordinal: slot.count.to_le_bytes()[0], ..log_head };
        let mut raw = [0; HEAD_BYTES];
        log_head.encode(&mut raw);
        let mut crc = crc_at(spot);
        crc.update(&raw[4..]);
        if total <= SLOT_BYTES {
            self.append_small(tail, record, raw, crc, store)?;
        } else {
            self.append_large(dest, tail, record, raw, crc, store)?;
        }
        self.txn.bytes += total;
        self.entries[index].place = Some(place);
        self.stage_holds(index, true);
        Ok(Append::Done)
    }

    /// The open transaction settles an entry and those it replaced, or it does not after all: what
    /// waits for their records may be in it.
    pub(super) fn stage_holds(&mut self, index: u32, staged: bool) {
        let mut at = index;
        while at != NONE {
            let entry = &self.entries[at];
            if let (true, Some(record)) = (entry.flags.hold, entry.record) {
                self.pool.stage(record, staged);
            }
            at = entry.replaced;
        }
    }

    pub(super) fn append_small(
        &mut self,
        tail: u32,
        record: super::pool::RecordId,
        mut raw: [u8; HEAD_BYTES],
        mut crc: crc32fast::Hasher,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let at = widen(self.log.slots[widen(tail)].used);
        if self.txn.buffer_slot != tail || self.txn.buffer_at + self.txn.buffer.len() != at {
            self.write_buffer(store)?;
            self.txn.buffer_slot = tail;
            self.txn.buffer_at = at;
        }
        let body = self.pool.head(record).body_bytes();
        let buffer = &mut self.txn.buffer;
        let start = buffer.len();
        buffer.extend_from_slice(&raw);
        buffer.resize(start + HEAD_BYTES + body, 0);
        self.pool.read(record, 0, &mut buffer[start + HEAD_BYTES..]);
        crc.update(&buffer[start + HEAD_BYTES..]);
        raw[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        buffer[start..start + 4].copy_from_slice(&raw[..4]);
        let slot = &mut self.log.slots[widen(tail)];
        slot.used += fit::<u32, _>(HEAD_BYTES + body, "bytes of a record");
        slot.count += 1;
        Ok(())
    }

    /// A record larger than a slot takes slots of its own, one after the other in its chain.
    pub(super) fn append_large(
        &mut self,
        dest: DestId,
        first: u32,
        record: super::pool::RecordId,
        mut raw: [u8; HEAD_BYTES],
        mut crc: crc32fast::Hasher,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        self.write_buffer(store)?;
        let body = self.pool.head(record).body_bytes();
        let seq = self.log.slots[widen(first)].first_seq;
        let mut done = 0;
        let mut slot = first;
        let mut skip = HEAD_BYTES;
        let mut part = 0;
        loop {
            let take = (body - done).min(SLOT_BYTES - skip);
            let mut chunk = core::mem::take(&mut self.txn.buffer);
            chunk.clear();
            chunk.resize(take, 0);
            self.pool.read(record, done, &mut chunk);
            crc.update(&chunk);
            let result = store.write_slot(SlotId(slot), skip, &chunk);
            chunk.clear();
            self.txn.buffer = chunk;
            result?;
            done += take;
            if done == body {
                break;
            }
            skip = 0;
            self.txn.grew |= !self.prefer_covered(body - done, store);
            slot = self.allocate(dest, NONE, seq);
            part += 1;
            self.log.slots[widen(slot)].part = part;
            self.log.slots[widen(slot)].continuation = true;
            self.log.slots[widen(slot)].closed = true;
        }
        raw[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        store.write_slot(SlotId(first), 0, &raw)?;
        let head = &mut self.log.slots[widen(first)];
        head.count = 1;
        head.used = fit(SLOT_BYTES, "bytes of a slot");
        head.closed = true;
        Ok(())
    }

    pub(super) fn rule_hash(&self, dest: DestId, rule: u8) -> u32 {
        let outbox = self.outbox(dest);
        if outbox.params.session {
            return outbox.short_number() & !SESSION_RULE | u32::from(rule);
        }
        let named = outbox.params.rules.get(usize::from(rule)).copied();
        named.unwrap_or(outbox.short_number())
    }

    /// The open end of a log whose records are all settled is a slot that nobody needs: it is
    /// given back when another destination finds none.
    pub(super) fn reclaim(&mut self) {
        for dest in self.dests() {
            let tail = self.outbox(dest).chain.tail;
            if tail == NONE {
                continue;
            }
            let slot = &self.log.slots[widen(tail)];
            let done = slot.count > 0 && slot.settled == slot.count && !slot.continuation;
            let written = self.txn.taken.iter().any(|(taken, _)| *taken == tail)
                || self.txn.saved.iter().any(|(saved, _)| *saved == tail);
            if done && !written {
                self.release_slot(dest, tail);
            }
        }
    }

    /// Is there perhaps no slot for all that waits for the disk and so many bytes more? A bridge
    /// that would block then is lent no RAM beyond its ceiling, or it is everybody's ring that is
    /// full when it turns out that there is none.
    pub(super) fn blocks_soon(&self, dest: DestId, body_bytes: u64) -> bool {
        let outbox = self.outbox(dest);
        let blocks = !outbox.params.session && outbox.params.overflow == Overflow::Block;
        if !blocks || outbox.custody.is_empty() {
            return false;
        }
        let slots = slots_at_most(outbox.custody.len + 1, outbox.custody_bytes + body_bytes);
        !self.slots_for(dest, slots)
    }

    /// Are there `count` slots more for this destination?
    pub(super) fn slots_for(&self, dest: DestId, count: u32) -> bool {
        self.slots_beside(dest, count, Beside::default())
    }

    pub(super) fn slots_beside(&self, dest: DestId, count: u32, beside: Beside) -> bool {
        let outbox = self.outbox(dest);
        let of_sessions = count.saturating_add(beside.sessions);
        let own = if outbox.params.session {
            self.session_slots.saturating_add(of_sessions) <= self.setup.session_slots_max
        } else {
            true
        };
        let within = outbox.chain.len.saturating_add(count) <= outbox.params.slots_max
            || (outbox.may_overdraw() && outbox.custody_qos2 > 0);
        own && within && self.log.free_count >= of_sessions.saturating_add(beside.bridges)
    }

    /// A slot in the destination's chain, before `before` (`NONE` = at its end).
    pub(super) fn allocate(&mut self, dest: DestId, before: u32, seq: u64) -> u32 {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let new = outbox.new_slot(dest, seq);
        // `slots_for` counted it.
        let Some(slot) = self.log.allocate(&mut outbox.chain, before, &new) else {
            unreachable!("slots_for reserved the slot")
        };
        if outbox.params.session {
            self.session_slots += 1;
        }
        if !outbox.row_stored && outbox.params.persistent {
            outbox.row_dirty = true;
            outbox.row_urgent = true;
        }
        self.txn.taken.push((slot, dest.0));
        slot
    }

    /// Remembers a slot as it is before this transaction changes it.
    pub(super) fn save(&mut self, slot: u32) {
        let fresh = self.txn.taken.iter().any(|(taken, _)| *taken == slot);
        if !fresh && !self.txn.saved.iter().any(|(saved, _)| *saved == slot) {
            self.txn.saved.push((slot, self.log.slots[widen(slot)]));
        }
    }

    pub(super) fn write_buffer(&mut self, store: &mut impl SpillStore) -> Result<(), StoreError> {
        if self.txn.buffer_slot != NONE && !self.txn.buffer.is_empty() {
            if self.slot_in_buffer == self.txn.buffer_slot {
                self.slot_in_buffer = NONE;
            }
            let slot = SlotId(self.txn.buffer_slot);
            store.write_slot(slot, self.txn.buffer_at, &self.txn.buffer)?;
        }
        self.txn.buffer.clear();
        self.txn.buffer_slot = NONE;
        Ok(())
    }
}

/// Slots that so many records need, of so many bytes without their heads.
pub(super) fn slots_at_most(records: u32, body_bytes: u64) -> u32 {
    let count = u64::from(records);
    let bytes = body_bytes.saturating_add(count * wide(HEAD_BYTES));
    // Of two slots in a row more than one is full.
    let slots = bytes.div_ceil(wide(SLOT_BYTES / 2)) + count / wide(SLOT_RECORDS_MAX);
    fit(slots, "slots")
}

/// Slots that a record of so many bytes needs, if it begins one.
pub(super) fn slots_of(total: usize) -> u32 {
    fit(total.div_ceil(SLOT_BYTES), "slots")
}
