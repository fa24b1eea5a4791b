//! How messages leave: settled by the peer, by a commit, by a drop. The only place that releases
//! holds, bits and references, so that each is released once.

use super::entry::{Chain, Flags, Place, State};
use super::outbox::{Conflated, DestId};
use super::pool::{NONE, widen};
use super::{DropReason, Queue};
use crate::fit::fit;
use crate::mqtt::Qos;
use crate::planted::{Bug, planted};
use crate::vocab::Instant;

impl Queue {
    /// The destination has settled this entry: out of every list, bit set, references released.
    /// A journalled QoS 2 entry whose identifier was on the wire stays as `Done` until the commit.
    pub(crate) fn settle(&mut self, dest: DestId, index: u32) {
        self.changes += 1;
        let state = self.entries[index].state;
        self.unlink(dest, index);
        self.unhold(dest, index);
        if let Some(place) = self.entries[index].place.take() {
            self.settle_place(dest, place);
        }
        self.release_bytes(dest, index);
        let entry = &mut self.entries[index];
        let journalled = entry.qos == Qos::ExactlyOnce
            && entry.packet_id != 0
            && self.boxes[usize::from(dest.0)].params.journal;
        let bytes = u64::from(entry.body_bytes);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        if state != State::Zero {
            outbox.rule_leaves(entry.rule);
            outbox.pending = outbox.pending.saturating_sub(1);
            outbox.pending_bytes = outbox.pending_bytes.saturating_sub(bytes);
            if outbox.pending == 0 {
                outbox.pending_bytes = 0;
            }
        }
        if journalled {
            entry.state = State::Done;
            self.entries.push_back(&mut outbox.done, Chain::Line, index);
            outbox.row_dirty = true;
        } else {
            self.free_id(dest, index);
            self.entries.give(index);
        }
    }

    /// Drops an entry for a reason: counted and logged, and settled all the same.
    pub fn drop_entry(&mut self, dest: DestId, index: u32, reason: DropReason) {
        let topic = self.topic_of_entry(index);
        if reason == DropReason::Refused {
            // Its exchange ended with the refusal [MQTT-4.3.3].
            self.settle(dest, index);
        } else {
            self.give_up_sending(dest, index);
        }
        self.count_drop_of(dest, reason, 1, topic);
    }

    /// Drops everything a destination has, in RAM and on disk.
    pub(crate) fn drop_all(&mut self, dest: DestId) {
        loop {
            let outbox = self.outbox(dest);
            let lists = [outbox.zero, outbox.flight, outbox.release, outbox.custody];
            let streams = outbox.streams.iter().map(|stream| stream.list);
            let Some(list) = lists.into_iter().chain(streams).find(|list| !list.is_empty()) else {
                break;
            };
            // Never `Done`: the destination's identifiers end with it.
            self.entries[list.head].packet_id = self.forget_id(dest, list.head);
            self.settle(dest, list.head);
        }
        while !self.outbox(dest).done.is_empty() {
            let index = self.outbox(dest).done.head;
            self.free_done(dest, index);
        }
        while self.outbox(dest).chain.head != NONE {
            let slot = self.outbox(dest).chain.head;
            self.release_slot(dest, slot);
        }
        let outbox = self.outbox_mut(dest);
        for stream in &mut outbox.streams {
            stream.gap = 0;
        }
        for row in &mut outbox.conflated {
            row.place = None;
            row.entry = NONE;
        }
        outbox.rules.fill(super::trim::RuleCount::default());
        outbox.gaps = 0;
        outbox.active = 0;
    }

    /// Puts `index` into the conflation table; what waits there of the same topic is replaced.
    pub(super) fn conflate(&mut self, dest: DestId, index: u32, hash: u64) {
        let rule = self.entries[index].rule;
        let outbox = self.outbox_mut(dest);
        let mut free = None;
        let mut found = None;
        for (at, row) in outbox.conflated.iter().enumerate() {
            if row.entry == NONE && row.place.is_none() {
                free = free.or(Some(at));
            } else if row.hash == hash && row.rule == rule {
                found = Some((at, *row));
                break;
            }
        }
        let at = match found {
            Some((at, old)) => {
                if old.entry != NONE {
                    self.replace(dest, old.entry, index);
                } else if let Some(place) = old.place
                    && !self.replace_stored(dest, place, old, index)
                {
                    // It queues like others.
                    return;
                }
                self.counters.conflated += 1;
                at
            }
            // More topics than the table holds queue like others.
            None => match free {
                Some(at) => at,
                None => return,
            },
        };
        let stream = self.entries[index].stream;
        let bytes = self.entries[index].body_bytes;
        let outbox = self.outbox_mut(dest);
        outbox.conflated[at] = Conflated { hash, rule, entry: index, place: None, stream, bytes };
        self.entries[index].conflate = fit(at, "conflated topics");
    }

    /// `old` waits unsent and is replaced by `new`: settled when that one is, or is durable.
    pub(crate) fn replace(&mut self, dest: DestId, old: u32, new: u32) {
        self.unlink(dest, old);
        let bytes = u64::from(self.entries[old].body_bytes);
        let rule = self.entries[old].rule;
        let outbox = self.outbox_mut(dest);
        outbox.rule_leaves(rule);
        outbox.pending = outbox.pending.saturating_sub(1);
        outbox.pending_bytes = outbox.pending_bytes.saturating_sub(bytes);
        // The reference goes, the hold stays: the record's head lives on.
        let record = self.entries[old].record;
        self.release_bytes(dest, old);
        let older = core::mem::replace(&mut self.entries[old].replaced, NONE);
        self.entries[new].replaced = older;
        if self.entries[old].place.is_some() {
            // Durable, so that nobody waits for it, nor was it the last of others.
            self.keep_replaced(old, new);
        } else if self.entries[old].flags.hold && !planted(Bug::AcknowledgeReplaced) {
            let entry = &mut self.entries[old];
            entry.record = record;
            entry.state = State::Conflated;
            entry.replaced = older;
            if older != NONE {
                // Somebody has waited since then: updates must not put the commit off.
                self.entries[old].arrival = self.entries[older].arrival;
            }
            self.entries[new].replaced = old;
            self.hold_too(dest, new);
        } else {
            if planted(Bug::AcknowledgeReplaced) {
                self.entries[old].record = record.filter(|_| self.entries[old].flags.hold);
                self.unhold(dest, old);
                self.entries[old].record = None;
            }
            self.entries.give(old);
        }
    }

    /// What is on disk only is replaced by `new`. `false`: no entry is left to remember it by.
    fn replace_stored(&mut self, dest: DestId, place: Place, old: Conflated, new: u32) -> bool {
        let Some(kept) = self.entries.take() else { return false };
        self.entries[kept].place = Some(place);
        self.entries[kept].body_bytes = old.bytes;
        self.keep_replaced(kept, new);
        let slot = &mut self.log.slots[widen(place.slot)];
        slot.taken_bits.set(place.ordinal);
        let known = slot.known;
        let outbox = self.outbox_mut(dest);
        outbox.pending = outbox.pending.saturating_sub(1);
        outbox.pending_bytes = outbox.pending_bytes.saturating_sub(u64::from(old.bytes));
        if known {
            self.close_gap(dest, old.stream, old.rule);
        }
        true
    }

    /// The only durable message of its topic stays in the log until `new` is durable or settled: a
    /// commit in between must not leave neither.
    fn keep_replaced(&mut self, old: u32, new: u32) {
        // Nobody has waited before that one.
        self.entries[old].arrival = self.entries[new].arrival;
        self.entries[old].state = State::Conflated;
        self.entries[new].replaced = old;
    }

    /// Settles a message that finds no place after all. The durable one of its topic that it was to
    /// replace stays: it waits on disk as before, for it was accepted.
    pub(super) fn settle_unreplaced(&mut self, dest: DestId, index: u32) {
        let new = self.entries[index];
        let (mut before, mut at) = (index, new.replaced);
        while at != NONE && self.entries[at].place.is_none() {
            (before, at) = (at, self.entries[at].replaced);
        }
        if at == NONE {
            return self.settle(dest, index);
        }
        // It is the oldest of them: nothing is behind it.
        self.entries[before].replaced = NONE;
        let kept = self.entries[at];
        self.entries.give(at);
        self.settle(dest, index);
        let Some(place) = kept.place else { return };
        let slot = &mut self.log.slots[widen(place.slot)];
        slot.taken_bits.clear(place.ordinal);
        slot.streams |= 1 << new.stream;
        let known = slot.known;
        let outbox = &mut self.boxes[usize::from(dest.0)];
        // It goes before what waits in RAM.
        outbox.reorder |= !outbox.streams[usize::from(new.stream)].list.is_empty();
        outbox.pending += 1;
        outbox.pending_bytes += u64::from(kept.body_bytes);
        if known {
            outbox.rule_found(new.rule);
            outbox.streams[usize::from(new.stream)].gap += 1;
            outbox.gaps |= 1 << new.stream;
        }
        if let Some(row) = outbox.conflated.get_mut(usize::from(new.conflate)) {
            let bytes = kept.body_bytes;
            *row = Conflated { entry: NONE, place: Some(place), bytes, ..*row };
        }
        self.sendable.set(dest.0);
    }

    /// A replacement is waited for as what it replaced was.
    fn hold_too(&mut self, dest: DestId, index: u32) {
        let entry = &mut self.entries[index];
        if let (false, Some(record)) = (entry.flags.hold, entry.record) {
            entry.flags.hold = true;
            let custody = entry.flags.custody;
            self.pool.hold(record);
            self.outbox_mut(dest).custody_held += u32::from(custody);
        }
    }

    /// A record that is on disk only is settled. `class`: the stream whose gap it leaves and its
    /// rule, when known.
    pub(crate) fn settle_stored(&mut self, dest: DestId, place: Place, class: Option<(u8, u8)>) {
        for row in &mut self.outbox_mut(dest).conflated {
            if row.place == Some(place) {
                row.place = None;
            }
        }
        self.settle_place(dest, place);
        let outbox = self.outbox_mut(dest);
        outbox.pending = outbox.pending.saturating_sub(1);
        if outbox.pending == 0 {
            outbox.pending_bytes = 0;
        }
        if let Some((stream, rule)) = class {
            self.close_gap(dest, stream, rule);
        }
    }

    /// A record of a stream is not on disk only any more. The last one lets what is staged behind
    /// it into the stream's list.
    pub(crate) fn close_gap(&mut self, dest: DestId, stream: u8, rule: u8) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.rule_from_disk(rule);
        let gap = &mut outbox.streams[usize::from(stream)].gap;
        *gap = gap.saturating_sub(1);
        if *gap == 0 {
            outbox.gaps &= !(1 << stream);
            self.join_staged(dest);
        }
    }

    /// What is staged in streams without a gap follows its stream's list.
    pub(crate) fn join_staged(&mut self, dest: DestId) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let mut at = outbox.custody.head;
        while at != NONE {
            let entry = &mut self.entries[at];
            let stream = entry.stream;
            if entry.state == State::Waiting && !entry.flags.listed && !outbox.has_gap(stream) {
                entry.flags.listed = true;
                let list = &mut outbox.streams[usize::from(stream)].list;
                self.entries.push_back(list, Chain::Line, at);
                outbox.active |= 1 << stream;
                self.sendable.set(dest.0);
            }
            at = self.entries.next(Chain::Custody, at);
        }
    }

    /// Sets the settled bit; a slot that is wholly settled is free.
    pub(crate) fn settle_place(&mut self, dest: DestId, place: Place) {
        let slot = &mut self.log.slots[widen(place.slot)];
        if !slot.settled_bits.set(place.ordinal) {
            return;
        }
        slot.taken_bits.set(place.ordinal);
        slot.settled += 1;
        let empty = slot.settled == slot.count;
        let done = empty && slot.closed;
        self.log.mark(place.slot);
        let outbox = self.outbox_mut(dest);
        outbox.settled_dirty += 1;
        outbox.stored = outbox.stored.saturating_sub(1);
        if done {
            self.release_slot(dest, place.slot);
        } else if empty {
            // Whoever found no slot may have this one.
            self.unstick();
        }
    }

    /// Frees a slot and the continuations of the large record in it.
    pub(crate) fn release_slot(&mut self, dest: DestId, slot: u32) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let session = outbox.params.session;
        let unread = !self.log.slots[widen(slot)].known;
        if unread {
            outbox.unknown_slots = outbox.unknown_slots.saturating_sub(1);
        }
        let read_all = unread && outbox.unknown_slots == 0;
        let mut next = self.log.slots[widen(slot)].next;
        // What the open transaction has changed in it is not undone any more, whatever becomes of
        // that: it may be another's by then.
        self.txn.forget(slot);
        self.log.release(&mut outbox.chain, slot);
        let mut freed = 1;
        while next != NONE && self.log.slots[widen(next)].continuation {
            let after = self.log.slots[widen(next)].next;
            self.txn.forget(next);
            self.log.release(&mut outbox.chain, next);
            next = after;
            freed += 1;
        }
        self.slot_freed = true;
        if self.slot_in_buffer == slot {
            self.slot_in_buffer = NONE;
        }
        if session {
            self.session_slots = self.session_slots.saturating_sub(freed);
        }
        // Whoever found no slot may find one now.
        self.unstick();
        if read_all {
            self.join_staged(dest);
        }
    }

    /// Whoever found no slot tries again.
    pub(super) fn unstick(&mut self) {
        if core::mem::take(&mut self.any_stuck) {
            for outbox in &mut self.boxes {
                outbox.stuck = false;
            }
        }
    }

    /// The publisher need not wait for this entry any more, nor for those it replaced; what is left
    /// of them in the log is settled.
    pub(crate) fn unhold(&mut self, dest: DestId, index: u32) {
        self.unhold_one(index);
        let mut older = core::mem::replace(&mut self.entries[index].replaced, NONE);
        while older != NONE {
            self.unhold_one(older);
            if let Some(place) = self.entries[older].place.take() {
                // What was put aside has left another's log.
                let owner = self.log.slots[widen(place.slot)].owner;
                let of = if usize::from(owner) < self.boxes.len() { DestId(owner) } else { dest };
                self.settle_place(of, place);
            }
            let next = self.entries[older].replaced;
            self.entries.give(older);
            older = next;
        }
    }

    fn unhold_one(&mut self, index: u32) {
        let entry = &mut self.entries[index];
        if !core::mem::take(&mut entry.flags.hold) {
            return;
        }
        // A hold keeps the record's head alive, so the id is still good.
        if let Some(record) = entry.record
            && let Some(source) = self.pool.unhold(record)
        {
            self.settled_source = true;
            self.wake(source);
        }
    }

    /// The bytes are not needed in RAM any more (by this entry).
    pub(crate) fn release_bytes(&mut self, dest: DestId, index: u32) {
        let Some(record) = self.entries[index].record.take() else { return };
        self.changes += 1;
        let blocks = self.pool.head(record).blocks();
        let outbox = self.outbox_mut(dest);
        outbox.blocks -= blocks;
        outbox.records -= 1;
        self.pool.release(record);
    }

    /// Out of every list it is in.
    pub(crate) fn unlink(&mut self, dest: DestId, index: u32) {
        let entry = self.entries[index];
        if entry.state == State::Publish {
            self.leave_flight(dest, index);
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        if entry.flags.custody {
            outbox.custody_bytes -= u64::from(entry.body_bytes);
            outbox.custody_held -= u32::from(entry.flags.hold);
            outbox.custody_qos2 -= u32::from(entry.qos == Qos::ExactlyOnce);
            self.entries.unlink(&mut outbox.custody, Chain::Custody, index);
            self.entries[index].flags.custody = false;
            // Whatever found no slot is gone: the next message may find one.
            outbox.stuck &= !outbox.custody.is_empty();
        }
        match entry.state {
            State::Zero => self.entries.unlink(&mut outbox.zero, Chain::Line, index),
            State::Waiting if entry.flags.listed => {
                let stream = &mut outbox.streams[usize::from(entry.stream)];
                self.entries.unlink(&mut stream.list, Chain::Line, index);
                if stream.list.is_empty() {
                    outbox.active &= !(1 << entry.stream);
                }
                self.entries[index].flags.listed = false;
            }
            State::Publish => {
                self.entries.unlink(&mut outbox.flight, Chain::Line, index);
                outbox.inflight -= 1;
            }
            State::Release => {
                if outbox.unsent_release == index {
                    outbox.unsent_release = self.entries.next(Chain::Line, index);
                }
                self.entries.unlink(&mut outbox.release, Chain::Line, index);
                outbox.inflight -= 1;
            }
            State::Waiting | State::Free | State::Done | State::Conflated => {}
        }
        let conflate = usize::from(entry.conflate);
        if let Some(row) = outbox.conflated.get_mut(conflate)
            && row.entry == index
        {
            row.entry = NONE;
            row.place = None;
        }
        self.entries[index].conflate = u16::MAX;
    }

    fn free_id(&mut self, dest: DestId, index: u32) {
        let id = self.entries[index].packet_id;
        if id == 0 {
            return;
        }
        let outbox = self.outbox_mut(dest);
        let mask = outbox.wire.len() - 1;
        let place = &mut outbox.wire[usize::from(id) & mask];
        if *place == index {
            *place = NONE;
        }
    }

    fn forget_id(&mut self, dest: DestId, index: u32) -> u16 {
        self.free_id(dest, index);
        0
    }

    /// The commit that makes a completion durable is done: the identifier is free.
    pub(crate) fn free_done(&mut self, dest: DestId, index: u32) {
        self.free_id(dest, index);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.done, Chain::Line, index);
        self.entries.give(index);
    }

    /// Arrival of the oldest message that waits or is in flight in RAM.
    pub fn oldest_arrival(&self, dest: DestId) -> Option<Instant> {
        let outbox = self.outbox(dest);
        let heads = [outbox.flight.head, outbox.deferred, outbox.custody.head];
        let streams = outbox.streams.iter().map(|stream| stream.list.head);
        heads
            .into_iter()
            .chain(streams)
            .filter(|head| *head != NONE)
            .map(|head| self.entries[head].arrival)
            .min()
    }

    pub(crate) fn clear_flags(&mut self, index: u32) {
        let hold = self.entries[index].flags.hold;
        let custody = self.entries[index].flags.custody;
        let retain = self.entries[index].flags.retain;
        self.entries[index].flags = Flags { hold, custody, retain, ..Flags::default() };
    }
}
