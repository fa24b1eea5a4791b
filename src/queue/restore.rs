//! After a start: what the store holds is put back in place. Reads the small rows and the open end
//! of each destination's log, never the backlog itself: start time and memory do not depend on it.

use super::Queue;
use super::entry::{Chain, Place, State};
use super::log::{ORPHAN, SEQ_MAX, Slot, SlotChain};
use super::outbox::{DestId, Outbox};
use super::pool::{NONE, widen};
use super::record::LogHead;
use super::refill::Classify;
use super::rows::{Flight, Row, parse_row};
use super::salvage::generation_of;
use super::store::{Origin, SlotId, SpillStore, StoreError, Table, unseal};
use super::walk::{Walk, is_sound};
use crate::fit::{capped, fit, wide};
use crate::limits::{PUBLISH_ID_MAX, SLOT_BYTES};
use crate::mqtt::Qos;
use crate::note::{Lost, Note, text};
use crate::vocab::Instant;

/// Life of a slot about which nothing is known: far from any it can have had.
const GENERATION_UNKNOWN: u32 = 1 << 30;

impl Queue {
    /// Reads the store once, after the destinations were opened and before the first turn.
    pub fn restore(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        self.origin = store.origin();
        let rows = self.restore_rows(store)?;
        let found = self.restore_slots(store, classify)?;
        for dest in self.dests() {
            self.restore_box(dest, now, store)?;
        }
        match self.origin {
            Some(origin) => self.begin_anew(origin),
            None => {
                for row in rows {
                    if let Some(dest) = row.dest {
                        self.restore_window(dest, row, store, classify)?;
                    }
                }
            }
        }
        for index in found {
            self.doubt_slot(index);
        }
        self.begin_salvage(store)
    }

    /// The store is an older copy, or another one: what it says of sessions at the other ends is
    /// not true. An identifier that is taken for free, or for a message's second coming, would cost
    /// one; so they all begin anew, and what is in the store may be there already. It says so with
    /// its first commit.
    fn begin_anew(&mut self, origin: Origin) {
        let Origin { reason, lost } = origin;
        let mut rescued = 0;
        for dest in self.dests() {
            let outbox = self.outbox_mut(dest);
            if !outbox.used || !outbox.params.persistent {
                continue;
            }
            outbox.peer = None;
            outbox.parked.clear();
            outbox.row_dirty = true;
            outbox.row_urgent = true;
            rescued += outbox.stored;
            let (is_bridge, stored) = (!outbox.params.session, outbox.stored);
            if is_bridge && stored > 0 && dest != self.aside() {
                // More than can be said are as many as can be.
                let (bridge, count) = (self.name(dest), capped(stored));
                self.note(Note::Qos2InDoubt { bridge, count, reason });
            }
        }
        self.note(Note::StoreRecovered { rescued, lost: Lost(lost), reason: Some(reason) });
    }

    /// The same for a single destination that was taken up just now.
    pub fn restore_one(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let mut found = None;
        let key = self.outbox(dest).params.key.as_bytes();
        let outdated = self.origin.is_some();
        store.scan(Table::Destination, &mut |at, value| {
            if at == key && !outdated {
                found = unseal(Table::Destination, at, value).and_then(parse_row);
            }
        })?;
        if let Some(row) = &found {
            let safe = self.setup.safe;
            self.outbox_mut(dest).take_row(row, safe);
        }
        self.restore_box(dest, now, store)?;
        match found {
            Some(row) => self.restore_window(dest, row, store, classify),
            None => Ok(()),
        }
    }

    fn restore_window(
        &mut self,
        dest: DestId,
        row: Row,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        for flight in &row.flights {
            self.restore_flight(dest, flight, store, classify)?;
        }
        self.restore_sequence(dest, store, classify)?;
        for id in row.received {
            // A set too small for them forgets some: duplicates, never a loss.
            let fresh = self.recv.restore(dest.0, id) == Ok(true);
            self.outbox_mut(dest).received += u32::from(fresh);
        }
        Ok(())
    }

    /// Which records of a slot without a row were settled is not known: all go out again.
    fn doubt_slot(&mut self, index: u32) {
        let Slot { owner, count, .. } = self.log.slots[widen(index)];
        if owner == self.aside().0 {
            self.note_unowned(u64::from(count));
        } else if usize::from(owner) < self.boxes.len() && count > 0 {
            let (bridge, count) = (self.name(DestId(owner)), u32::from(count));
            self.note(Note::Qos2InDoubt { bridge, count, reason: "slot_row_lost" });
        }
    }

    /// Keys of destinations' rows that are whole, with what stands before the key of that kind.
    pub fn has_row(store: &mut impl SpillStore, wanted: &str) -> Result<bool, StoreError> {
        let mut found = false;
        store.scan(Table::Destination, &mut |key, row| {
            found |= key == wanted.as_bytes() && unseal(Table::Destination, key, row).is_some();
        })?;
        Ok(found)
    }

    fn restore_rows(&mut self, store: &mut impl SpillStore) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut damaged = 0u64;
        let (boxes, outdated) = (&self.boxes, self.origin.is_some());
        let mut stale = Vec::new();
        store.scan(Table::Destination, &mut |key, value| {
            let Some(mut row) = unseal(Table::Destination, key, value).and_then(parse_row) else {
                damaged += 1;
                return;
            };
            let owner = boxes.iter().position(|outbox| {
                outbox.used && outbox.params.persistent && outbox.params.key.as_bytes() == key
            });
            row.dest = owner.and_then(|at| u16::try_from(at).ok()).map(DestId);
            if outdated && row.dest.is_none() {
                stale.push(key.to_vec());
            }
            rows.push(row);
        })?;
        for (at, outbox) in self.boxes.iter_mut().enumerate() {
            let row = rows.iter().find(|row| row.dest.is_some_and(|d| usize::from(d.0) == at));
            if let Some(row) = row {
                outbox.take_row(row, self.setup.safe);
            }
        }
        self.stale_rows = stale;
        // The slots say themselves whose they are; only the identifiers are gone.
        self.doubtful_rows = damaged > 0;
        self.note_damaged("corrupt_destination_row", damaged);
        Ok(rows)
    }

    fn restore_slots(
        &mut self,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<Vec<u32>, StoreError> {
        let mut slots: Vec<(u32, Slot)> = Vec::new();
        let mut damaged = Vec::new();
        store.scan(Table::Slot, &mut |key, value| {
            let Ok(key) = <[u8; 4]>::try_from(key).map(u32::from_be_bytes) else { return };
            match Slot::from_row(key, value) {
                Some(slot) => slots.push((key, slot)),
                None => damaged.push(key),
            }
        })?;
        for &index in damaged.iter().filter(|index| **index < self.log.capacity) {
            store.read_slot(SlotId(index), 0, &mut self.slot_buffer)?;
            let found = generation_of(&self.slot_buffer, index);
            let generation = found.map_or(GENERATION_UNKNOWN, |(generation, _)| generation);
            let mut slot = Slot { generation, ..Slot::FREE };
            let first = found.and_then(|(_, at)| self.slot_buffer.get(at..));
            if let Some((first, head)) = first.and_then(|at| Some((at, LogHead::decode(at)?))) {
                let outbox = self.outbox(self.owner_of_record(first, classify));
                (slot.owner, slot.owner_number) = (ORPHAN, outbox.number);
                (slot.first_seq, slot.known, slot.streams) = (head.seq, false, u128::MAX);
            }
            slots.push((index, slot));
        }
        self.note_damaged("corrupt_slot_row", wide(damaged.len()));
        let mut ended = damaged.clone();
        for (index, slot) in &mut slots {
            if slot.owner != ORPHAN {
                continue;
            }
            if slot.fleeting {
                // A clean session's slots ended with it.
                *slot = Slot { generation: slot.generation, ..Slot::FREE };
                ended.push(*index);
            } else if let Some(dest) = self.owner_by_number(slot.owner_number) {
                slot.owner = dest.0;
            }
            // A bridge that is not configured now keeps its queue.
        }
        self.log.load(&slots);
        for index in ended {
            if widen(index) < self.log.slots.len() {
                self.log.mark(index);
            }
        }
        damaged.retain(|index| widen(*index) < self.log.slots.len());
        Ok(damaged)
    }

    /// Nobody is known whose they are: they are kept aside.
    pub(super) fn note_unowned(&mut self, count: u64) {
        let destination = self.name(self.aside());
        if count > 0 {
            self.note(Note::quarantined(destination, "owner_lost", count));
        }
    }

    fn note_damaged(&mut self, reason: &'static str, count: u64) {
        self.counters.corrupt += count;
        if count > 0 {
            self.note(Note::quarantined(text("-"), reason, count));
        }
    }

    /// Chains a destination's slots and counts what is in them.
    fn restore_box(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        if !self.outbox(dest).used {
            return Ok(());
        }
        let mut mine: Vec<(u64, u16, u32)> = (0..)
            .zip(self.log.slots.iter())
            .filter(|(_, slot)| slot.owner == dest.0)
            .map(|(index, slot)| (slot.first_seq, slot.part, index))
            .collect();
        mine.sort_unstable();
        let mut chain = SlotChain::EMPTY;
        for &(_, _, index) in &mine {
            let slot = &mut self.log.slots[widen(index)];
            slot.prev = chain.tail;
            slot.next = NONE;
            if chain.tail == NONE {
                chain.head = index;
            } else {
                self.log.slots[widen(chain.tail)].next = index;
            }
            chain.tail = index;
            chain.len += 1;
        }
        let outbox = self.outbox_mut(dest);
        outbox.chain = chain;
        if outbox.params.session {
            self.session_slots += chain.len;
        }
        let heads = mine.iter().rev();
        let last = heads
            .map(|(_, _, index)| *index)
            .find(|index| !self.log.slots[widen(*index)].continuation);
        let mut finished = Vec::new();
        for &(first_seq, _, index) in &mine {
            if self.log.slots[widen(index)].continuation {
                continue;
            }
            let open = !self.log.slots[widen(index)].closed;
            // Only the end of the log says where numbering goes on.
            let last_seq = if open {
                self.measure_open(index, Some(index) == last, store)?
            } else if Some(index) == last {
                self.last_seq_in(index, store)?
            } else {
                first_seq
            };
            let slot = self.log.slots[widen(index)];
            self.log.slots[widen(index)].unread = slot.count;
            let outbox = self.outbox_mut(dest);
            outbox.next_seq = outbox.next_seq.max(last_seq + 1).max(first_seq + 1);
            outbox.stored += u64::from(slot.unsettled());
            outbox.pending += u64::from(slot.unsettled());
            outbox.unknown_slots += 1;
            if slot.unsettled() == 0 {
                finished.push(index);
            }
        }
        for index in finished {
            self.release_slot(dest, index);
        }
        if self.outbox(dest).pending > 0 {
            self.outbox_mut(dest).spilling = true;
            self.outbox_mut(dest).spill_since = now;
        }
        Ok(())
    }

    /// How many records the open end of a log has. Returns the last sequence.
    fn measure_open(
        &mut self,
        index: u32,
        last: bool,
        store: &mut impl SpillStore,
    ) -> Result<u64, StoreError> {
        self.read_slot(index, store)?;
        let first_seq = self.log.slots[widen(index)].first_seq;
        let (count, used, last_seq, damaged) = self.measure(index);
        let broken = self.broken_end(index, used, count, last_seq);
        let place = &mut self.log.slots[widen(index)];
        let said = place.count;
        // A large record lies in more than this slot, and is proved when it is loaded.
        let large = LogHead::decode(&self.slot_buffer).is_some_and(|h| h.bytes() > SLOT_BYTES);
        place.count = count.max(u16::from(large && said == 1));
        place.used = fit(used, "bytes of a slot");
        if place.count < said || damaged > 0 || broken > 0 || !last {
            // Nothing may be appended over what might still be rescued.
            place.closed = true;
        }
        // The row may know settled records that are not to be found.
        let known = (place.count..said).filter(|ordinal| place.settled_bits.get(*ordinal)).count();
        let count = place.count;
        place.shorten(count);
        if place.closed {
            self.log.mark(index);
        }
        let tail = u64::from(said.saturating_sub(count)) - wide(known);
        let lost = tail.max(broken) + damaged;
        self.note_damaged("corrupt", lost);
        Ok(last_seq.unwrap_or(first_seq))
    }

    fn last_seq_in(&mut self, index: u32, store: &mut impl SpillStore) -> Result<u64, StoreError> {
        self.read_slot(index, store)?;
        let slot = &self.log.slots[widen(index)];
        let (generation, mut last_seq) = (slot.generation, slot.first_seq + u64::from(slot.count));
        let mut walk = Walk::new(slot.count);
        while let Some((_, at, head)) = walk.step(&self.slot_buffer) {
            if is_sound(&self.slot_buffer, index, generation, at, &head) {
                // Only damage has larger ones, and numbering must go on behind it.
                last_seq = last_seq.max(head.seq.min(SEQ_MAX));
            }
        }
        Ok(last_seq)
    }

    fn restore_flight(
        &mut self,
        dest: DestId,
        flight: &Flight,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let found = self.find_seq(dest, flight.seq, store, classify)?;
        let (place, body, stream, rule) = match found {
            Some((place, body, stream, rule)) => (Some(place), body, stream, rule),
            // Its record is settled or damaged; the exchange still has to be completed.
            None => (None, 0, 0, 0),
        };
        let release = flight.release || place.is_none();
        let outbox = self.outbox(dest);
        let mask = outbox.wire.len() - 1;
        if flight.packet_id == 0 || outbox.wire[usize::from(flight.packet_id) & mask] != NONE {
            self.doubt_session(dest);
            return Ok(());
        }
        let Some(index) = self.entries.take() else {
            self.doubt_session(dest);
            return Ok(());
        };
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let entry = &mut self.entries[index];
        entry.place = place;
        entry.seq = flight.seq;
        entry.body_bytes = body;
        entry.qos = Qos::ExactlyOnce;
        entry.stream = stream;
        entry.rule = rule;
        outbox.rule_enters(rule);
        entry.packet_id = flight.packet_id;
        outbox.wire[usize::from(flight.packet_id) & mask] = index;
        outbox.inflight += 1;
        if let Some(place) = place {
            self.log.slots[widen(place.slot)].taken_bits.set(place.ordinal);
        } else {
            outbox.pending += 1;
        }
        if release {
            entry.state = State::Release;
            // As far as anybody knows.
            entry.flags.dup = true;
            self.entries.push_back(&mut outbox.release, Chain::Line, index);
        } else {
            entry.state = State::Publish;
            self.entries.push_back(&mut outbox.flight, Chain::Line, index);
        }
        Ok(())
    }

    /// An identifier that the peer may know has no place here: its session must not be resumed, or
    /// the identifier would be used again under it.
    fn doubt_session(&mut self, dest: DestId) {
        self.outbox_mut(dest).peer = None;
    }

    /// Where the unsettled record with this sequence number lies.
    fn find_seq(
        &mut self,
        dest: DestId,
        seq: u64,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<Option<(Place, u32, u8, u8)>, StoreError> {
        let mut at = self.outbox(dest).chain.head;
        let mut slot = NONE;
        while at != NONE && self.log.slots[widen(at)].first_seq <= seq {
            if !self.log.slots[widen(at)].continuation {
                slot = at;
            }
            at = self.log.slots[widen(at)].next;
        }
        if slot == NONE {
            return Ok(None);
        }
        self.read_slot(slot, store)?;
        loop {
            let mut walk = Walk::new(self.log.slots[widen(slot)].count);
            while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
                if head.seq == seq && !self.log.slots[widen(slot)].settled_bits.get(ordinal) {
                    let body = fit(head.body_bytes(), "bytes of a record");
                    let classified = self.classified(dest, at, &head, classify);
                    let (stream, rule) = classified.unwrap_or((0, 0));
                    return Ok(Some((Place { slot, ordinal }, body, stream, rule)));
                }
            }
            if walk.is_complete() || !self.mend(dest, slot) {
                return Ok(None);
            }
        }
    }
}

impl Outbox {
    fn take_row(&mut self, row: &Row, safe: bool) {
        self.next_id = row.next_id.max(1);
        self.row_stored = true;
        self.peer = row.peer;
        self.parked.clone_from(&row.parked);
        if !row.sure {
            // How far identifiers went is not known: far from those that may be open.
            let most = u32::from(PUBLISH_ID_MAX);
            let far = (u32::from(row.next_id) + most / 2) % most + 1;
            self.next_id = fit(far, "a packet identifier");
        }
        if row.sure && !safe {
            // From here on it is not told of identifiers until the next clean stop.
            self.row_dirty = true;
            self.row_urgent = true;
            self.row_unsure = true;
        }
    }
}
