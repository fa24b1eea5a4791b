//! What is still good in a damaged store that was put aside, moved into the new one: a few slots a
//! turn, in the transaction of that turn, so that it goes on after another crash where it stopped.
//!
//! A record is taken when its CRC proves its content and its place. Whose it is says its slot's
//! row, else the record itself (bridge and rule, or session), else the rules of today, else it is
//! put aside. Rescued messages keep their sequence numbers and go before everything new; what is
//! new waits on disk behind them. Identifiers of exchanges are not taken over: exactly once is in
//! doubt for what was in flight, and said so.

use super::Queue;
use super::log::{FREE, Slot};
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::{HEAD_BYTES, LogHead, Spot, crc_at};
use super::refill::Classify;
use super::store::{SlotId, SpillStore, Stock, StoreError, Table, seal, unseal};
use super::walk::{Walk, is_sound, search};
use crate::fit::{fit, wide};
use crate::limits::{SALVAGE_SLOTS, SLOT_BYTES, SLOT_RECORDS_MAX};
use crate::mqtt::Qos;
use crate::note::{Lost, Note};
use crate::vocab::Instant;

/// Lives of a slot that are tried when its row is lost. More would let chance prove a record.
const GENERATION_TRIES: u32 = 4096;

/// Records of it that may prove in which life they were written.
const GENERATION_RECORDS: u16 = 8;

/// New messages are numbered so far behind the old ones that no slot of those reaches there.
const SEQ_DISTANCE: u64 = 1 << 40;

/// Slots one row of progress stands for.
const SLOTS_A_ROW: u32 = 1024;

const SUMMARY_KEY: &[u8] = b"salvage";

/// Bits of the last byte of the summary.
const FINISHED: u8 = 1;
const UNSURE: u8 = 2;
const UNPROVED: u8 = 4;

/// A slot of the wreck that has not been dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Old {
    /// 0: its row is lost. Those are first.
    owner: u64,
    first_seq: u64,
    part: u16,
    index: u32,
}

/// A slot taken into use in the open transaction: whose, which, records, those of QoS 2.
type Moved = (DestId, u32, u16, u32);

pub(super) struct Salvage {
    /// Sorted; what is dealt with leaves it.
    todo: Vec<Old>,
    /// A bit for each slot of the wreck.
    done: Vec<u8>,
    rescued: u64,
    /// As far as it is known.
    lost: u64,
    /// More may be gone: some of what tells is.
    unsure: bool,
    /// Some may have been settled before: the rows of their slots are lost.
    unproved: bool,
    /// What was in the wreck, where that was written down.
    stock: Option<Stock>,
    in_doubt: Vec<(DestId, u32)>,
    /// Sequence numbers from here on are those of new messages.
    new_from: u64,
    bytes: Vec<u8>,
    image: Vec<u8>,
    staged: Staged,
    /// Nothing found room when `changes` was this.
    stalled_at: Option<u64>,
    finished: bool,
}

impl Salvage {
    /// How many messages are gone, once everything was looked at; `None`: that cannot be told.
    fn all_lost(&self) -> Option<u64> {
        match self.stock.filter(|stock| stock.all_open || !self.unproved) {
            Some(stock) => Some(stock.messages.saturating_sub(self.rescued)),
            None => (!self.unsure).then_some(self.lost),
        }
    }
}

#[derive(Default)]
struct Staged {
    done: Vec<Old>,
    moved: Vec<Moved>,
    lost: u64,
    /// Slots without a row whose owner is known by now, and waits for room.
    named: Vec<(Old, u64, u64)>,
}

/// The records of a slot that can be trusted.
#[derive(Default)]
struct Sifted {
    /// Ordinal and offset.
    sound: Vec<(u16, usize)>,
    /// Records there were, as far as one can tell.
    count: u16,
}

/// In which life of the slot its records were written, when its row cannot say, and where the first
/// one lies that proves it.
pub(super) fn generation_of(bytes: &[u8], slot: u32) -> Option<(u32, usize)> {
    let mut walk = Walk::new(GENERATION_RECORDS);
    while let Some((_, at, head)) = walk.step(bytes) {
        let mut lives = 1..=GENERATION_TRIES;
        if let Some(life) = lives.find(|life| is_sound(bytes, slot, *life, at, &head)) {
            return Some((life, at));
        }
    }
    None
}

/// `bound`: no more records than these are there.
fn sift(bytes: &[u8], slot: u32, generation: u32, bound: u16) -> Sifted {
    let mut sifted = Sifted::default();
    let mut walk = Walk::new(bound);
    loop {
        let (ordinal, at) = match walk.step(bytes) {
            Some((ordinal, at, head)) => {
                if is_sound(bytes, slot, generation, at, &head) {
                    sifted.sound.push((ordinal, at));
                    sifted.count = ordinal + 1;
                    continue;
                }
                (ordinal, at)
            }
            None => (walk.ordinal, walk.at),
        };
        let (from, next) = (at + HEAD_BYTES, ordinal.saturating_add(1));
        let Some((at, ordinal)) = search(bytes, slot, generation, from, next, bound) else {
            return sifted;
        };
        (walk.at, walk.ordinal) = (at, ordinal);
    }
}

/// Is there something behind the last record that can be trusted?
fn has_more(bytes: &[u8], sifted: &Sifted) -> bool {
    let end = sifted
        .sound
        .last()
        .map_or(0, |(_, at)| at + LogHead::decode(&bytes[*at..]).map_or(0, |head| head.bytes()));
    bytes.iter().skip(end).take(HEAD_BYTES).any(|byte| *byte != 0)
}

impl Queue {
    /// Looks at what the wreck has, after the destinations were opened and restored.
    pub(super) fn begin_salvage(&mut self, store: &mut impl SpillStore) -> Result<(), StoreError> {
        let slots = store.wreck_slots();
        if slots == 0 {
            return Ok(());
        }
        let mut salvage = Salvage {
            todo: Vec::new(),
            done: vec![0; widen(slots.div_ceil(SLOTS_A_ROW) * SLOTS_A_ROW) / 8],
            rescued: 0,
            lost: 0,
            unsure: !store.is_wreck_whole(),
            unproved: false,
            stock: store.wreck_stock(),
            in_doubt: Vec::new(),
            new_from: u64::MAX,
            bytes: vec![0; SLOT_BYTES],
            image: Vec::with_capacity(SLOT_BYTES),
            staged: Staged::default(),
            stalled_at: None,
            finished: false,
        };
        store.scan(Table::Meta, &mut |key, row| {
            let Some(value) = unseal(Table::Meta, key, row) else { return };
            let Some(rest) = key.strip_prefix(SUMMARY_KEY) else { return };
            if let (true, Ok(value)) = (rest.is_empty(), <[u8; 17]>::try_from(value)) {
                let number =
                    |at| value[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
                (salvage.rescued, salvage.lost) = (number(0), number(8));
                salvage.finished = value[16] & FINISHED != 0;
                salvage.unsure |= value[16] & UNSURE != 0;
                salvage.unproved |= value[16] & UNPROVED != 0;
            } else if let Ok(row) = <[u8; 4]>::try_from(rest) {
                let at = widen(u32::from_be_bytes(row)) * widen(SLOTS_A_ROW) / 8;
                if let Some(bits) = salvage.done.get_mut(at..at + value.len()) {
                    bits.copy_from_slice(value);
                }
            }
        })?;
        for index in 0..slots {
            let is_done = salvage.done[widen(index) / 8] >> (index % 8) & 1 == 1;
            if is_done || salvage.finished {
                continue;
            }
            let row = store.wreck_row(SlotId(index));
            let old = match row.and_then(|row| Slot::from_row(index, &row)) {
                Some(slot) if slot.owner == FREE || slot.fleeting => continue,
                Some(Slot { owner_number: owner, first_seq, part, .. }) => {
                    Old { owner, first_seq, part, index }
                }
                None if store.wreck_slot(SlotId(index), &mut salvage.bytes) => {
                    // Which of its messages were settled went with its row.
                    salvage.unsure = true;
                    Old { owner: 0, first_seq: 0, part: 0, index }
                }
                None => continue,
            };
            salvage.todo.push(old);
        }
        salvage.todo.sort_unstable();
        let newest = salvage.todo.iter().map(|old| old.first_seq).max().unwrap_or(0);
        salvage.new_from = newest.saturating_add(SEQ_DISTANCE);
        for outbox in self.boxes.iter_mut().filter(|outbox| outbox.used) {
            outbox.next_seq = outbox.next_seq.max(salvage.new_from);
        }
        self.salvage = Some(salvage);
        self.hold_back();
        Ok(())
    }

    /// Is a damaged store being emptied?
    pub fn is_salvaging(&self) -> bool {
        self.salvage.is_some()
    }

    /// Is there something to salvage that may find room now?
    pub(super) fn wants_salvage(&self) -> bool {
        self.salvage.as_ref().is_some_and(|s| s.stalled_at != Some(self.changes))
    }

    /// From which sequence number on a destination's backlog waits for what may still be rescued.
    /// When that waits for room itself, what is new may have to make it.
    pub(super) fn held_from(&self, dest: DestId) -> u64 {
        let salvage = self.salvage.as_ref().filter(|salvage| salvage.stalled_at.is_none());
        salvage.filter(|_| self.outbox(dest).salvaging).map_or(u64::MAX, |s| s.new_from)
    }

    /// Moves a few slots into the open transaction.
    pub(super) fn salvage(
        &mut self,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let Some(mut salvage) = self.salvage.take() else { return Ok(()) };
        if salvage.finished {
            self.txn.wrote = true;
            let whole = salvage.rescued > 0 && salvage.all_lost() == Some(0);
            return store.wreck_done(whole);
        }
        let result = self.salvage_some(&mut salvage, store, classify);
        self.salvage = Some(salvage);
        result
    }

    fn salvage_some(
        &mut self,
        salvage: &mut Salvage,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        salvage.staged = Staged::default();
        let (mut full, mut at, mut dealt) = (None, 0, 0);
        while dealt < SALVAGE_SLOTS && at < salvage.todo.len() {
            let old = salvage.todo[at];
            let parts = salvage.todo[at + 1..].iter().take_while(|next| {
                (next.owner, next.first_seq) == (old.owner, old.first_seq) && next.part > 0
            });
            let group: Vec<Old> = core::iter::once(old).chain(parts.copied()).collect();
            at += group.len();
            // Whoever has no room keeps its order and waits; the others go on.
            if old.owner != 0 && full == Some(old.owner) {
                continue;
            }
            if self.move_group(salvage, &group, store, classify)? {
                dealt += group.len();
                salvage.staged.done.extend(&group);
            } else {
                full = Some(old.owner);
            }
        }
        for (old, owner, first_seq) in core::mem::take(&mut salvage.staged.named) {
            for known in salvage.todo.iter_mut().filter(|known| **known == old) {
                (known.owner, known.first_seq) = (owner, first_seq);
            }
        }
        salvage.todo.sort_unstable();
        let Staged { done, moved, lost, .. } = &salvage.staged;
        let all = done.len() == salvage.todo.len();
        if done.is_empty() && !all {
            salvage.stalled_at = Some(self.changes);
            return Ok(());
        }
        salvage.stalled_at = None;
        for old in done {
            salvage.done[widen(old.index) / 8] |= 1 << (old.index % 8);
            let row = old.index / SLOTS_A_ROW;
            let bytes = widen(SLOTS_A_ROW) / 8;
            let key = [SUMMARY_KEY, &row.to_be_bytes()].concat();
            let mut value = salvage.done[widen(row) * bytes..][..bytes].to_vec();
            seal(Table::Meta, &key, &mut value);
            store.put(Table::Meta, &key, &value)?;
        }
        let rescued: u64 = moved.iter().map(|moved| u64::from(moved.2)).sum();
        let mut value = (salvage.rescued + rescued).to_le_bytes().to_vec();
        value.extend_from_slice(&(salvage.lost + lost).to_le_bytes());
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let unsure = bit(salvage.unsure, UNSURE) | bit(salvage.unproved, UNPROVED);
        value.push(bit(all, FINISHED) | unsure);
        seal(Table::Meta, SUMMARY_KEY, &mut value);
        store.put(Table::Meta, SUMMARY_KEY, &value)?;
        self.txn.wrote = true;
        Ok(())
    }

    /// Moves one slot, or those of one large record. `false`: there is no room for it now.
    fn move_group(
        &mut self,
        salvage: &mut Salvage,
        group: &[Old],
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<bool, StoreError> {
        let index = group[0].index;
        let row = store.wreck_row(SlotId(index)).and_then(|row| Slot::from_row(index, &row));
        let said = row.map_or(0, |slot| u64::from(slot.count.saturating_sub(slot.settled)));
        if row.is_some_and(|slot| slot.continuation) {
            // Its beginning is gone.
            return Ok(true);
        }
        if !store.wreck_slot(SlotId(index), &mut salvage.bytes) {
            salvage.staged.lost += said;
            return Ok(true);
        }
        let generation = row.map(|slot| slot.generation);
        let found = || generation_of(&salvage.bytes, index).map(|(generation, _)| generation);
        let Some(generation) = generation.or_else(found) else {
            // Free in its last life, or the rest of a large record, or nothing but damage.
            return Ok(true);
        };
        let head = LogHead::decode(&salvage.bytes).filter(|head| head.bytes() > SLOT_BYTES);
        if let (Some(head), Some(_)) = (head, row) {
            return self.move_large(salvage, group, generation, &head, store);
        }
        let bound = fit(SLOT_RECORDS_MAX, "records of a slot");
        let closed = row.filter(|slot| slot.closed);
        let sifted = sift(&salvage.bytes, index, generation, closed.map_or(bound, |s| s.count));
        // Its row does not say how many an open one has.
        salvage.unsure |= closed.is_none() && has_more(&salvage.bytes, &sifted);
        let settled = |ordinal| row.is_some_and(|slot| slot.settled_bits.get(ordinal));
        let wanted: Vec<usize> =
            sifted.sound.iter().filter(|(o, _)| !settled(*o)).map(|(_, at)| *at).collect();
        // An open one may have more than its row says, but never had fewer.
        let count = row.map_or(0, |slot| slot.count).max(sifted.count);
        let open = (0..count).filter(|ordinal| !settled(*ordinal)).count();
        let missing = wide(open - wanted.len());
        let Some(first) = wanted.first() else {
            salvage.staged.lost += missing;
            return Ok(true);
        };
        let dest = match row {
            Some(slot) => self.owner_by_number(slot.owner_number),
            None => Some(self.owner_of_record(&salvage.bytes[*first..], classify)),
        };
        let records = wide(wanted.len());
        let Some(dest) = dest else {
            // Its bridge or its session is not there any more.
            salvage.staged.lost += missing + records;
            return Ok(true);
        };
        let first_seq = LogHead::decode(&salvage.bytes[*first..]).map_or(0, |head| head.seq);
        if !self.slots_for(dest, 1) {
            let drops = self.outbox(dest).params.session;
            salvage.staged.lost += if drops { missing + records } else { 0 };
            if row.is_none() {
                salvage.staged.named.push((group[0], self.outbox(dest).number, first_seq));
            }
            return Ok(drops);
        }
        salvage.staged.lost += missing;
        salvage.unproved |= row.is_none();
        let new = self.allocate_before(dest, first_seq);
        let generation = self.log.slots[widen(new)].generation;
        salvage.image.clear();
        let (mut ordinal, mut in_doubt) = (0u16, 0);
        for at in wanted {
            let Some(mut head) = LogHead::decode(&salvage.bytes[at..]) else { continue };
            let body = at + HEAD_BYTES..at.saturating_add(head.bytes());
            head.ordinal = ordinal.to_le_bytes()[0];
            let place = fit(salvage.image.len(), "bytes of a slot");
            let spot = Spot { slot: new, generation, at: place };
            let raw = encoded(&mut head, spot, &salvage.bytes[body.clone()]);
            salvage.image.extend_from_slice(&raw);
            salvage.image.extend_from_slice(&salvage.bytes[body]);
            in_doubt += u32::from(head.qos == Qos::ExactlyOnce);
            ordinal += 1;
        }
        store.write_slot(SlotId(new), 0, &salvage.image)?;
        let slot = &mut self.log.slots[widen(new)];
        slot.count = ordinal;
        slot.used = fit(salvage.image.len(), "bytes of a slot");
        salvage.staged.moved.push((dest, new, ordinal, in_doubt));
        Ok(true)
    }

    /// A record over several slots.
    fn move_large(
        &mut self,
        salvage: &mut Salvage,
        group: &[Old],
        generation: u32,
        head: &LogHead,
        store: &mut impl SpillStore,
    ) -> Result<bool, StoreError> {
        let total = head.bytes();
        let whole = group.len() == total.div_ceil(SLOT_BYTES)
            && (0u16..).zip(group).all(|(part, old)| old.part == part);
        if !whole {
            salvage.staged.lost += 1;
            return Ok(true);
        }
        let mut record = salvage.bytes.clone();
        for old in &group[1..] {
            // What cannot be read is zero, and the CRC says so.
            store.wreck_slot(SlotId(old.index), &mut salvage.bytes);
            record.extend_from_slice(&salvage.bytes);
        }
        record.truncate(total);
        let dest = self.owner_by_number(group[0].owner);
        let (true, Some(dest)) = (is_sound(&record, group[0].index, generation, 0, head), dest)
        else {
            salvage.staged.lost += 1;
            return Ok(true);
        };
        if !self.slots_for(dest, fit(group.len(), "slots")) {
            let drops = self.outbox(dest).params.session;
            salvage.staged.lost += u64::from(drops);
            return Ok(drops);
        }
        let mut first = NONE;
        for (part, bytes) in (0u16..).zip(record.chunks_mut(SLOT_BYTES)) {
            let new = self.allocate_before(dest, head.seq);
            let slot = &mut self.log.slots[widen(new)];
            slot.part = part;
            slot.continuation = part > 0;
            if part == 0 {
                first = new;
                continue;
            }
            store.write_slot(SlotId(new), 0, bytes)?;
        }
        let slot = &mut self.log.slots[widen(first)];
        (slot.count, slot.used) = (1, fit(SLOT_BYTES, "bytes of a slot"));
        let spot = Spot { slot: first, generation: slot.generation, at: 0 };
        let mut head = LogHead { ordinal: 0, ..*head };
        let raw = encoded(&mut head, spot, &record[HEAD_BYTES..]);
        record[..HEAD_BYTES].copy_from_slice(&raw);
        store.write_slot(SlotId(first), 0, &record[..SLOT_BYTES])?;
        let in_doubt = u32::from(head.qos == Qos::ExactlyOnce);
        salvage.staged.moved.push((dest, first, 1, in_doubt));
        Ok(true)
    }

    /// A closed slot in its place in the destination's chain, behind those that are older.
    fn allocate_before(&mut self, dest: DestId, first_seq: u64) -> u32 {
        let mut before = self.outbox(dest).chain.head;
        while before != NONE && self.log.slots[widen(before)].first_seq <= first_seq {
            before = self.log.slots[widen(before)].next;
        }
        let slot = self.allocate(dest, before, first_seq);
        self.log.slots[widen(slot)].closed = true;
        slot
    }

    /// Whose a record is that nothing else tells of.
    pub(super) fn owner_of_record(&self, bytes: &[u8], classify: &mut impl Classify) -> DestId {
        let found = LogHead::decode(bytes).and_then(|head| {
            let named = |outbox: &super::Outbox| {
                outbox.used && outbox.params.persistent && outbox.owns(head.rule)
            };
            let mut dests = (0u16..).zip(self.boxes.iter());
            let by_name = dests.find(|(_, outbox)| named(outbox)).map(|(at, _)| DestId(at));
            by_name.or_else(|| {
                if head.session {
                    return None;
                }
                let end = HEAD_BYTES + usize::from(head.topic_bytes);
                let topic = core::str::from_utf8(bytes.get(HEAD_BYTES..end)?).ok()?;
                let bridges = (0u16..).zip(self.boxes.iter());
                let mut bridges = bridges.filter(|(_, b)| b.used && !b.params.session);
                bridges
                    .find(|(at, _)| classify.classify(DestId(*at), head.rule, topic).is_some())
                    .map(|(at, _)| DestId(at))
            })
        });
        found.unwrap_or(self.aside())
    }

    /// The commit succeeded: what was moved is its destination's backlog.
    pub(super) fn salvage_committed(&mut self, now: Instant) {
        let Some(mut salvage) = self.salvage.take() else { return };
        let Staged { done, moved, lost, .. } = core::mem::take(&mut salvage.staged);
        salvage.todo.retain(|old| !done.contains(old));
        salvage.lost += lost;
        for (dest, index, count, in_doubt) in moved {
            salvage.rescued += u64::from(count);
            if dest == self.aside() {
                self.note_unowned(u64::from(count));
            }
            let slot = &mut self.log.slots[widen(index)];
            slot.known = false;
            slot.unread = count;
            slot.streams = u128::MAX;
            let outbox = self.outbox_mut(dest);
            outbox.unknown_slots += 1;
            outbox.stored += u64::from(count);
            outbox.pending += u64::from(count);
            if !core::mem::replace(&mut outbox.spilling, true) {
                outbox.spill_since = now;
                outbox.spill_messages = 0;
            }
            self.sendable.set(dest.0);
            match salvage.in_doubt.iter_mut().find(|doubt| doubt.0 == dest) {
                Some(doubt) => doubt.1 += in_doubt,
                None => salvage.in_doubt.push((dest, in_doubt)),
            }
        }
        if salvage.todo.is_empty() && !core::mem::replace(&mut salvage.finished, true) {
            for (dest, count) in salvage.in_doubt.drain(..).filter(|(_, count)| *count > 0) {
                // At most a window of them was on the wire.
                let count = count.min(u32::from(self.outbox(dest).params.window));
                self.note(Note::Qos2InDoubt {
                    bridge: self.name(dest),
                    count,
                    reason: "store_lost",
                });
            }
            let (rescued, lost) = (salvage.rescued, Lost(salvage.all_lost()));
            self.note(Note::StoreRecovered { rescued, lost, reason: None });
        }
        self.salvage = Some(salvage);
        self.hold_back();
    }

    /// The commit failed: what was staged has not happened.
    pub(super) fn salvage_failed(&mut self) {
        if let Some(salvage) = &mut self.salvage {
            let staged = core::mem::take(&mut salvage.staged);
            for old in staged.done {
                salvage.done[widen(old.index) / 8] &= !(1 << (old.index % 8));
            }
        }
    }

    /// What is new waits while something older of the same destination may still come.
    fn hold_back(&mut self) {
        for at in 0..self.boxes.len() {
            let Ok(index) = u16::try_from(at) else { continue };
            let outbox = &self.boxes[at];
            let waits = outbox.used
                && outbox.params.persistent
                && self.salvage.as_ref().is_some_and(|salvage| {
                    salvage.todo.iter().any(|old| old.owner == 0 || old.owner == outbox.number)
                });
            let before = core::mem::replace(&mut self.boxes[at].salvaging, waits);
            if before && !waits {
                self.join_staged(DestId(index));
            }
        }
    }
}

/// The head with its CRC for a new place.
fn encoded(head: &mut LogHead, spot: Spot, body: &[u8]) -> [u8; HEAD_BYTES] {
    let mut raw = [0; HEAD_BYTES];
    head.encode(&mut raw);
    let mut crc = crc_at(spot);
    crc.update(&raw[4..]);
    crc.update(body);
    head.crc = crc.finalize();
    raw[..4].copy_from_slice(&head.crc.to_le_bytes());
    raw
}
