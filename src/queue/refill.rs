//! From the disk back to RAM: batches of a destination's backlog for the streams that can send,
//! messages in flight whose bytes left RAM, and the oldest that must be dropped on disk.
//!
//! A stream's records are loaded in the order of the log. A record that fails its CRC is counted
//! and passed over; the rest goes on.

use super::entry::{Chain, NO_RULE_YET, Place, State};
use super::outbox::{DestId, Outbox, Up};
use super::pool::{NONE, RecordId, blocks_for, widen};
use super::record::{HEAD_BYTES, LogHead, Spot, crc_at};
use super::store::{SlotId, SpillStore, StoreError};
use super::walk::Walk;
use super::{DropReason, Queue};
use crate::fit::{fit, wide};
use crate::limits::SLOT_BYTES;
use crate::mqtt::text::of_message;
use crate::note::{Note, text as text_of};
use crate::vocab::Instant;
use core::time::Duration;

/// Which stream and which rule (by index) a stored record belongs to now.
pub trait Classify {
    /// `None`: no rule of the destination wants it any more.
    fn classify(&mut self, dest: DestId, rule: u32, topic: &str) -> Option<(u8, u8)>;

    /// The longest a message of this rule (by index) may wait.
    fn max_age(&self, _dest: DestId, _rule: u8) -> Option<Duration> {
        None
    }
}

/// Slots one destination may have read in one turn.
const SLOTS_PER_TURN: usize = 8;

enum Loaded {
    Yes(RecordId),
    Corrupt,
    /// The whole pool is less.
    TooLarge,
    /// Its text is not taken any more; an earlier version took it.
    Unwelcome,
    PoolFull,
}

impl Queue {
    /// Brings what can be sent soon back into RAM.
    pub fn refill(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        let mut waiting = false;
        // What is in flight goes first: others could not be sent before it.
        for dest in self.dests() {
            let outbox = self.outbox(dest);
            if outbox.used && outbox.up == Up::Up && !outbox.reorder && outbox.load_wanted {
                // What cannot be read of one holds up no other.
                result = result.and(self.reload_flight(dest, now, store, classify));
                waiting |= self.wants_room(dest);
            }
        }
        for dest in self.dests() {
            if self.outbox(dest).used && self.outbox(dest).params.counts_rules {
                self.learn_some(dest, store, classify)?;
            }
            let outbox = self.outbox(dest);
            if !outbox.used || outbox.up == Up::Down || outbox.reorder {
                continue;
            }
            if waiting {
                // Nor does it find any before there is a change, as when that waits no more.
                self.outbox_mut(dest).refill_failed_at = self.changes;
            } else {
                result = result.and(self.refill_box(dest, now, store, classify));
            }
            self.spill_note(dest, now);
        }
        result
    }

    /// Does something in flight find no room in RAM? Once after each change others are spilled
    /// for it.
    fn wants_room(&mut self, dest: DestId) -> bool {
        let waits = self.outbox(dest).load_wanted;
        if waits && self.outbox(dest).refill_failed_at != self.changes {
            self.outbox_mut(dest).refill_failed_at = self.changes;
            self.press_now(true);
        }
        waits
    }

    fn refill_box(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        for _ in 0..SLOTS_PER_TURN {
            if !self.refill_slot(dest, now, store, classify)? {
                // Whatever is missing now, room or a slot, comes with a change.
                self.outbox_mut(dest).refill_failed_at = self.changes;
                break;
            }
        }
        Ok(())
    }

    /// Would `refill` find something to do?
    pub(super) fn can_refill(&self, outbox: &Outbox) -> bool {
        let unread = outbox.params.counts_rules && outbox.unknown_slots > 0;
        let changed = outbox.refill_failed_at != self.changes;
        let loads = outbox.load_wanted || self.loadable(outbox) != 0;
        unread || (outbox.up != Up::Down && !outbox.reorder && changed && loads)
    }

    /// Would a commit let messages of QoS 2 into the window?
    pub(super) fn can_admit(&self, outbox: &Outbox) -> bool {
        let wanted = outbox.qos2_wanted && outbox.journals() && !outbox.reorder;
        wanted && outbox.up != Up::Down && outbox.has_room()
    }

    /// More is free than QoS 0 wants to find: what is loaded must not be what it has to wait for,
    /// or the same messages leave and come back every turn.
    fn has_refill_room(&self) -> bool {
        let enough = |free: u32, count: u32| free > count / 8 * 3;
        enough(self.pool.free_blocks(), self.pool.block_count())
            && enough(self.pool.free_records(), self.pool.record_count())
            && enough(self.entries.free_count(), self.entries.count())
    }

    /// Streams that the next message may be loaded for: all, or where there is little room, those
    /// that could send it at once while RAM has nothing for the peer. Others may hold the ring for
    /// as long as they like, and a link that stands goes on.
    fn room_for(&self, outbox: &Outbox) -> u128 {
        let open = outbox.unpaced();
        // Whatever QoS the next one has.
        let in_window = outbox.has_room();
        // What could not be sent would have to leave again for whoever wants room, every turn.
        if self.is_held_back(outbox) {
            0
        } else if self.has_refill_room() {
            u128::MAX
        } else if outbox.starved && in_window && outbox.active & open == 0 {
            open
        } else {
            0
        }
    }

    fn loadable(&self, outbox: &Outbox) -> u128 {
        match self.room_for(outbox) {
            0 => 0,
            room => self.short_streams(outbox) & room,
        }
    }

    /// Streams with a backlog on disk and too little of it in RAM.
    fn short_streams(&self, outbox: &Outbox) -> u128 {
        let backlog = if outbox.unknown_slots > 0 { u128::MAX } else { outbox.gaps };
        if backlog == 0 {
            return 0;
        }
        let mut short = backlog;
        let mut active = outbox.active & backlog;
        while active != 0 {
            let stream = active.trailing_zeros();
            active &= active - 1;
            let enough = if outbox.paced >> stream & 1 == 1 { 1 } else { u32::from(outbox.window) };
            if outbox.streams[widen(stream)].list.len >= enough {
                short &= !(1 << stream);
            }
        }
        // Without exact knowledge one stream with enough is no reason to read on for others.
        let plain = !outbox.paced;
        if outbox.unknown_slots > 0 && outbox.streams.len() == 1 {
            short &= 1;
        } else if outbox.unknown_slots > 0 && outbox.gaps & plain & !short != 0 {
            short &= outbox.gaps | outbox.lanes[0];
        }
        short
    }

    /// Loads from the first slot that has something for a stream that is short.
    fn refill_slot(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<bool, StoreError> {
        let short = self.loadable(self.outbox(dest));
        if short == 0 {
            return Ok(false);
        }
        let mut at = self.outbox(dest).chain.head;
        while at != NONE && self.log.slots[widen(at)].streams & short == 0 {
            at = self.log.slots[widen(at)].next;
        }
        if at == NONE {
            // A damaged slot took the count with it: it is taken again, or the loop never rests.
            self.forget_streams(dest);
            return Ok(false);
        }
        if self.log.slots[widen(at)].first_seq >= self.held_from(dest) {
            return Ok(false);
        }
        self.read_slot(at, store)?;
        if !self.log.slots[widen(at)].known {
            self.learn(dest, at, classify);
            // Dropping what no rule wants may have freed the slot.
            let slot = &self.log.slots[widen(at)];
            if slot.owner != dest.0 || !slot.known || slot.streams & short == 0 {
                return Ok(true);
            }
        }
        self.load_slot(dest, at, short, now, store, classify)
    }

    fn load_slot(
        &mut self,
        dest: DestId,
        slot: u32,
        short: u128,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<bool, StoreError> {
        let mut left_over = 0u128;
        let mut walk = Walk::new(self.log.slots[widen(slot)].count);
        let mut progress = false;
        while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
            if self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                continue;
            }
            let place = Place { slot, ordinal };
            let Some((stream, rule)) = self.classified(dest, at, &head, classify) else {
                self.unwanted(dest, place, at, &head);
                self.forget_streams(dest);
                return Ok(true);
            };
            let bit = 1u128 << stream;
            let outbox = self.outbox(dest);
            let target =
                if outbox.paced & bit != 0 { 2 } else { u32::from(outbox.window).max(1) * 2 };
            let full = outbox.streams[usize::from(stream)].list.len >= target;
            let room = self.room_for(outbox) & bit != 0;
            if short & bit == 0 || left_over & bit != 0 || full || !room {
                left_over |= bit;
                continue;
            }
            match self.load(dest, slot, at, &head, now, store)? {
                Loaded::PoolFull => {
                    left_over |= bit;
                    // Once after each change others are spilled for it.
                    let outbox = self.outbox(dest);
                    if outbox.starved && outbox.refill_failed_at != self.changes {
                        self.press_now(true);
                    }
                }
                Loaded::Corrupt => {
                    // Neither its length is to be trusted nor what said which stream it is of.
                    self.give_up(dest, place, at, head.bytes());
                    self.forget_streams(dest);
                    return Ok(true);
                }
                Loaded::TooLarge => {
                    self.settle_stored(dest, place, None);
                    self.count_drop(dest, DropReason::TooLarge, 1);
                    self.forget_streams(dest);
                    return Ok(true);
                }
                Loaded::Unwelcome => {
                    self.settle_stored(dest, place, None);
                    self.count_drop(dest, DropReason::Text, 1);
                    self.forget_streams(dest);
                    return Ok(true);
                }
                Loaded::Yes(record) => {
                    self.enlist(dest, place, record, &head, stream, rule);
                    progress = true;
                }
            }
            if self.log.slots[widen(slot)].owner != dest.0 {
                return Ok(true);
            }
        }
        if !walk.is_complete() && self.mend(dest, slot) {
            // There is more behind, which is to be learned first.
            return Ok(true);
        }
        // After damage what the slot holds is found out again.
        let place = &mut self.log.slots[widen(slot)];
        if place.owner == dest.0 && place.known {
            // Nothing for them here, after all: the next slot may have it.
            progress |= place.streams & short != 0 && left_over & short == 0;
            place.streams = left_over;
        }
        Ok(progress)
    }

    /// A loaded record waits in its stream's list.
    fn enlist(
        &mut self,
        dest: DestId,
        place: Place,
        record: RecordId,
        head: &LogHead,
        stream: u8,
        rule: u8,
    ) {
        let Some(index) = self.entries.take() else {
            self.pool.release(record);
            return;
        };
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let pool_head = self.pool.head(record);
        let entry = &mut self.entries[index];
        entry.record = Some(record);
        entry.place = Some(place);
        entry.seq = head.seq;
        entry.arrival = pool_head.arrival;
        entry.body_bytes = fit(head.body_bytes(), "bytes of a record");
        entry.stream = stream;
        entry.rule = rule;
        entry.qos = head.qos;
        entry.flags.retain = head.retain;
        entry.flags.listed = true;
        entry.state = State::Waiting;
        outbox.blocks += pool_head.blocks();
        outbox.records += 1;
        outbox.spill_messages += 1;
        outbox.starved = false;
        for (row, at) in outbox.conflated.iter_mut().zip(0u16..) {
            if row.place == Some(place) {
                row.place = None;
                row.entry = index;
                entry.conflate = at;
            }
        }
        self.sendable.set(dest.0);
        self.log.slots[widen(place.slot)].taken_bits.set(place.ordinal);
        let list = &mut outbox.streams[usize::from(stream)].list;
        self.entries.push_back(list, Chain::Line, index);
        outbox.active |= 1 << stream;
        outbox.rule_enters(rule);
        self.close_gap(dest, stream, rule);
    }

    /// Reads on to where nothing of a destination is unknown, a few slots a turn.
    fn learn_some(
        &mut self,
        dest: DestId,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let mut left = SLOTS_PER_TURN;
        let mut at = self.outbox(dest).chain.head;
        while at != NONE && left > 0 && self.outbox(dest).unknown_slots > 0 {
            let next = self.slot_after(at);
            if !self.log.slots[widen(at)].known {
                self.read_slot(at, store)?;
                self.learn(dest, at, classify);
                left -= 1;
            }
            at = next;
        }
        Ok(())
    }

    /// After a restart: which streams have how much in this slot (which is in the buffer).
    pub(super) fn learn(&mut self, dest: DestId, slot: u32, classify: &mut impl Classify) {
        let mut walk = Walk::new(self.log.slots[widen(slot)].count);
        let mut streams = 0u128;
        // What was appended in this run is counted already.
        let unread = core::mem::take(&mut self.log.slots[widen(slot)].unread);
        while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
            if self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                continue;
            }
            match self.classified(dest, at, &head, classify) {
                Some((stream, rule)) => {
                    streams |= 1 << stream;
                    let outbox = self.outbox_mut(dest);
                    outbox.rule_found(rule);
                    outbox.streams[usize::from(stream)].gap += 1;
                    outbox.gaps |= 1 << stream;
                    if ordinal < unread {
                        let bytes = wide(head.body_bytes());
                        outbox.pending_bytes += bytes;
                    }
                }
                None => {
                    self.unwanted(dest, Place { slot, ordinal }, at, &head);
                    if self.log.slots[widen(slot)].owner != dest.0 {
                        return;
                    }
                }
            }
        }
        let entry = &mut self.log.slots[widen(slot)];
        entry.known = true;
        entry.streams = streams;
        let outbox = self.outbox_mut(dest);
        outbox.unknown_slots = outbox.unknown_slots.saturating_sub(1);
        if !walk.is_complete() {
            self.mend(dest, slot);
        }
        if self.outbox(dest).unknown_slots == 0 {
            self.join_staged(dest);
        }
    }

    pub(super) fn classified(
        &self,
        dest: DestId,
        at: usize,
        head: &LogHead,
        classify: &mut impl Classify,
    ) -> Option<(u8, u8)> {
        if self.outbox(dest).params.session {
            return Some((0, head.session_rule()));
        }
        let topic = self.topic_at(at, head)?;
        classify.classify(dest, head.rule, core::str::from_utf8(topic).unwrap_or(""))
    }

    /// Copies the record at `at` of the slot in the buffer into the pool.
    fn load(
        &mut self,
        dest: DestId,
        slot: u32,
        at: usize,
        head: &LogHead,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<Loaded, StoreError> {
        if blocks_for(head.body_bytes()) > self.pool.block_count() {
            return Ok(Loaded::TooLarge);
        }
        let arrival = head.arrival(now);
        let Ok(record) = self.pool.insert(head.pool_head(arrival)) else {
            return Ok(Loaded::PoolFull);
        };
        let generation = self.log.slots[widen(slot)].generation;
        let spot = Spot { slot, generation, at: fit(at, "bytes of a slot") };
        let mut crc = crc_at(spot);
        crc.update(&self.slot_buffer[at + 4..at + HEAD_BYTES]);
        let first = (head.bytes()).min(SLOT_BYTES - at) - HEAD_BYTES;
        let body = &self.slot_buffer[at + HEAD_BYTES..at + HEAD_BYTES + first];
        crc.update(body);
        self.pool.write(record, 0, body);
        let mut done = first;
        let mut next = slot;
        let mut chunk = [0; 1024];
        while done < head.body_bytes() {
            next = self.log.slots[widen(next)].next;
            if next == NONE || !self.log.slots[widen(next)].continuation {
                self.pool.release(record);
                return Ok(Loaded::Corrupt);
            }
            let here = (head.body_bytes() - done).min(SLOT_BYTES);
            let mut offset = 0;
            while offset < here {
                let take = (here - offset).min(chunk.len());
                let result = store.read_slot(SlotId(next), offset, &mut chunk[..take]);
                if let Err(error) = result {
                    self.pool.release(record);
                    return Err(error);
                }
                crc.update(&chunk[..take]);
                self.pool.write(record, done + offset, &chunk[..take]);
                offset += take;
            }
            done += here;
        }
        if crc.finalize() != head.crc {
            self.pool.release(record);
            return Ok(Loaded::Corrupt);
        }
        if !self.is_welcome(dest, record, at, first) {
            self.pool.release(record);
            return Ok(Loaded::Unwelcome);
        }
        Ok(Loaded::Yes(record))
    }

    /// Would others take the text of the record that was just loaded? `first` bytes of its body
    /// are in the slot that is in the buffer.
    fn is_welcome(&mut self, dest: DestId, record: RecordId, at: usize, first: usize) -> bool {
        let head = *self.pool.head(record);
        let mut rare;
        let text = if head.payload_at() <= first {
            &self.slot_buffer[at + HEAD_BYTES..][..head.payload_at()]
        } else {
            rare = vec![0; head.payload_at()];
            self.pool.read(record, 0, &mut rare);
            &rare[..]
        };
        let (topic, properties) = text.split_at(usize::from(head.topic_bytes));
        // What is no text at all is no topic of a rule, and is dropped for that.
        let Ok(topic) = core::str::from_utf8(topic) else { return true };
        let Err(found) = of_message(topic, properties) else { return true };
        let topic = text_of(topic);
        let name = self.outbox(dest).params.name.clone();
        self.note(Note::TextRefused {
            source: "store",
            name,
            string: found.place.word(),
            character: text_of(&found.to_string()),
            topic,
        });
        false
    }

    /// Messages in the window that have to be sent again and are on disk only; not those that are
    /// passed over.
    fn reload_flight(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let mut at = self.outbox(dest).unsent;
        // What is to go alone is read before the rest.
        let mut wanted_only = true;
        let mut waiting = false;
        loop {
            if at == NONE {
                if !core::mem::take(&mut wanted_only) {
                    break;
                }
                at = self.outbox(dest).unsent;
                continue;
            }
            let index = at;
            at = self.entries.next(Chain::Line, index);
            let entry = self.entries[index];
            if !entry.flags.wanted && (wanted_only || entry.flags.deferred) {
                continue;
            }
            let (Some(place), None) = (entry.place, entry.record) else { continue };
            self.read_slot(place.slot, store)?;
            let known = entry.rule != NO_RULE_YET;
            let loaded = match self.find_ordinal(dest, place) {
                Some((offset, head)) => {
                    if entry.rule == NO_RULE_YET
                        && let Some((stream, rule)) = self.classified(dest, offset, &head, classify)
                    {
                        self.belongs(dest, index, stream, rule);
                    }
                    self.load(dest, place.slot, offset, &head, now, store)?
                }
                None => Loaded::Corrupt,
            };
            match loaded {
                Loaded::Yes(record) => {
                    let blocks = self.pool.head(record).blocks();
                    let entry = &mut self.entries[index];
                    entry.record = Some(record);
                    // It was wanted for its topic only.
                    entry.flags.wanted &= known;
                    entry.arrival = self.pool.head(record).arrival;
                    entry.flags.retain = self.pool.head(record).retain;
                    let outbox = self.outbox_mut(dest);
                    outbox.blocks += blocks;
                    outbox.records += 1;
                    self.sendable.set(dest.0);
                }
                Loaded::Corrupt => {
                    self.give_up_sending(dest, index);
                    self.quarantine_corrupt(dest, 1);
                }
                Loaded::TooLarge => self.drop_entry(dest, index, DropReason::TooLarge),
                Loaded::Unwelcome => self.drop_entry(dest, index, DropReason::Text),
                Loaded::PoolFull => {
                    waiting = true;
                    break;
                }
            }
        }
        self.outbox_mut(dest).load_wanted = waiting;
        Ok(())
    }
}
