//! Over the records of a slot, one after the other by their lengths, and on behind a place where
//! damage has broken that chain. Nothing here changes the store.

use super::Queue;
use super::log::FREE;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::{HEAD_BYTES, LogHead, Spot, crc_at};
use super::store::{SlotId, SpillStore, StoreError};
use crate::fit::fit;
use crate::limits::{SLOT_BYTES, SLOT_RECORDS_MAX};
use crate::mqtt::Qos;

/// Damaged places whose extent is remembered; what lies behind a further one is given up.
pub(super) const GAPS_MAX: usize = 32;

/// Bytes that may be summed up in search of the next record: a payload full of heads must not
/// hold up the loop.
const SEARCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A damaged place of a slot: from where to where, and which records were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) at: usize,
    pub(super) bytes: usize,
    pub(super) records: u16,
}

/// First byte of a gap where a record has its CRC.
const GAP_MARK: [u8; 5] = [b'g', b'a', b'p', 0, 0x90];

impl Gap {
    /// Writes into a slot's bytes what a walk understands.
    pub(super) fn mark(&self, slot: &mut [u8]) {
        let bytes: u32 = fit(self.bytes, "bytes of a slot");
        let at = self.at;
        slot[at..at + 5].copy_from_slice(&GAP_MARK);
        slot[at + 6..at + 8].copy_from_slice(&self.records.to_le_bytes());
        slot[at + 8..at + 12].copy_from_slice(&bytes.to_le_bytes());
    }

    /// Bytes and records of a gap that begins here.
    fn read(bytes: &[u8]) -> Option<(usize, u16)> {
        let head = bytes.get(..12)?;
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        head.starts_with(&GAP_MARK)
            .then_some((widen(length), u16::from_le_bytes([head[6], head[7]])))
    }
}

/// A walk over the records of a slot.
pub(super) struct Walk {
    pub(super) at: usize,
    pub(super) ordinal: u16,
    pub(super) count: u16,
}

impl Walk {
    pub(super) fn new(count: u16) -> Self {
        Self { at: 0, ordinal: 0, count }
    }

    /// Were all records seen?
    pub(super) fn is_complete(&self) -> bool {
        self.ordinal >= self.count
    }

    /// Ordinal, offset and head of the next record; `None` at the end, or where no record can be
    /// (then `ordinal` is less than `count`).
    pub(super) fn step(&mut self, slot: &[u8]) -> Option<(u16, usize, LogHead)> {
        while let Some((bytes, records)) = Gap::read(slot.get(self.at..)?) {
            // A gap is never empty, so this ends.
            self.at = self.at.saturating_add(bytes.max(1));
            self.ordinal = self.ordinal.saturating_add(records);
        }
        if self.ordinal >= self.count {
            return None;
        }
        let head = LogHead::decode(slot.get(self.at..)?)?;
        if head.ordinal != self.ordinal.to_le_bytes()[0] {
            // The length of the one before led astray.
            return None;
        }
        // One that is larger than a slot is alone in it.
        let fits = head.bytes() <= SLOT_BYTES - self.at || (self.at == 0 && self.count == 1);
        if !fits || head.qos == Qos::AtMostOnce && head.bytes() < HEAD_BYTES {
            return None;
        }
        let here = (self.ordinal, self.at, head);
        self.at += head.bytes();
        self.ordinal += 1;
        Some(here)
    }
}

/// Has the record at `at`, which lies in this slot alone, the right CRC?
pub(super) fn is_sound(
    bytes: &[u8],
    slot: u32,
    generation: u32,
    at: usize,
    head: &LogHead,
) -> bool {
    let Some(record) = bytes.get(at..at.saturating_add(head.bytes())) else { return false };
    let mut crc = crc_at(Spot { slot, generation, at: fit(at, "bytes of a slot") });
    crc.update(&record[4..]);
    crc.finalize() == head.crc
}

/// The next record of this generation at or behind `from` that its CRC proves: offset and
/// ordinal. Its ordinal is below `count` and not below `ordinal`.
pub(super) fn search(
    bytes: &[u8],
    slot: u32,
    generation: u32,
    from: usize,
    ordinal: u16,
    count: u16,
) -> Option<(usize, u16)> {
    let mut summed = 0;
    for at in from..bytes.len().saturating_sub(HEAD_BYTES) {
        let Some(head) = LogHead::decode(&bytes[at..]) else { continue };
        let low = ordinal.to_le_bytes()[0];
        let found = ordinal.saturating_add(u16::from(head.ordinal.wrapping_sub(low)));
        if found >= count || at.saturating_add(head.bytes()) > bytes.len() {
            continue;
        }
        summed += head.bytes();
        if summed > SEARCH_BYTES_MAX {
            return None;
        }
        if is_sound(bytes, slot, generation, at, &head) {
            return Some((at, found));
        }
    }
    None
}

impl Queue {
    pub(super) fn read_slot(
        &mut self,
        slot: u32,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        if self.slot_in_buffer != slot {
            self.slot_in_buffer = NONE;
            store.read_slot(SlotId(slot), 0, &mut self.slot_buffer)?;
            let generation = self.log.slots[widen(slot)].generation;
            for gap in self.gaps.iter().filter(|g| g.slot == slot && g.generation == generation) {
                gap.mark(&mut self.slot_buffer);
            }
            self.read_long_topic(slot, store)?;
            self.slot_in_buffer = slot;
        }
        Ok(())
    }

    /// The topic of the record in the buffer that goes on beyond its slot: its rule is found by
    /// the whole of it. Empty when there is none, or when its other slots are not there.
    fn read_long_topic(
        &mut self,
        slot: u32,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        self.long_topic.clear();
        let Some(head) = LogHead::decode(&self.slot_buffer).filter(LogHead::has_long_topic) else {
            return Ok(());
        };
        self.long_topic.extend_from_slice(&self.slot_buffer[HEAD_BYTES..]);
        let mut next = slot;
        while self.long_topic.len() < usize::from(head.topic_bytes) {
            next = self.log.slots[widen(next)].next;
            if next == NONE || !self.log.slots[widen(next)].continuation {
                self.long_topic.clear();
                break;
            }
            let done = self.long_topic.len();
            let end = usize::from(head.topic_bytes).min(done + SLOT_BYTES);
            self.long_topic.resize(end, 0);
            store.read_slot(SlotId(next), 0, &mut self.long_topic[done..])?;
        }
        Ok(())
    }

    /// The topic of the record at `at` of the slot in the buffer; `None` when it is not there.
    pub(super) fn topic_at(&self, at: usize, head: &LogHead) -> Option<&[u8]> {
        let bytes = usize::from(head.topic_bytes);
        if at == 0 && head.has_long_topic() {
            return self.long_topic.get(..bytes);
        }
        self.slot_buffer.get(at + HEAD_BYTES..)?.get(..bytes)
    }

    /// The slot in the buffer is damaged at `at`, where record `ordinal` should be. If a sound one
    /// follows, what lies between is a gap from here on, and the ordinal it reaches to is returned.
    pub(super) fn bridge_gap(
        &mut self,
        slot: u32,
        at: usize,
        ordinal: u16,
        count: u16,
    ) -> Option<u16> {
        let generation = self.log.slots[widen(slot)].generation;
        let from = at + HEAD_BYTES;
        let (next, reached) =
            search(&self.slot_buffer, slot, generation, from, ordinal.saturating_add(1), count)?;
        let slots = &self.log.slots;
        self.gaps.retain(|gap| {
            let slot = &slots[widen(gap.slot)];
            slot.generation == gap.generation && slot.owner != FREE
        });
        let gap = Gap { slot, generation, at, bytes: next - at, records: reached - ordinal };
        self.gaps.push(gap).ok()?;
        gap.mark(&mut self.slot_buffer);
        Some(reached)
    }

    /// Where the slot in the buffer is damaged so that it hides what follows: ordinal and offset.
    pub(super) fn first_break(&self, slot: u32) -> Option<(u16, usize)> {
        let super::log::Slot { generation, count, .. } = self.log.slots[widen(slot)];
        let mut walk = Walk::new(count);
        let mut suspect = None;
        while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
            // One that leads to a sound one may be damaged, but hides nothing.
            let sound = is_sound(&self.slot_buffer, slot, generation, at, &head);
            suspect = if sound { None } else { suspect.or(Some((ordinal, at))) };
        }
        (!walk.is_complete()).then(|| suspect.unwrap_or((walk.ordinal, walk.at)))
    }

    /// How far the records of the slot in the buffer reach that its row does not count yet: they
    /// are there up to the last with the right CRC (what a former life of the slot left has
    /// another). Damaged ones among them are settled. Returns how many are there, the bytes they
    /// take and the last sequence number, and how many are damaged.
    pub(super) fn measure(&mut self, slot: u32) -> (u16, usize, Option<u64>, u64) {
        let bound = fit(SLOT_RECORDS_MAX, "records of a slot");
        let generation = self.log.slots[widen(slot)].generation;
        let (mut count, mut used, mut last, mut lost) = (0, 0, None, 0);
        let mut walk = Walk::new(bound);
        loop {
            let (ordinal, at) = match walk.step(&self.slot_buffer) {
                Some((ordinal, at, head)) => {
                    if is_sound(&self.slot_buffer, slot, generation, at, &head) {
                        (count, used) = (ordinal + 1, at.saturating_add(head.bytes()));
                        last = last.max(Some(head.seq));
                        continue;
                    }
                    (ordinal, at)
                }
                None => (walk.ordinal, walk.at),
            };
            let reached =
                if ordinal < bound { self.bridge_gap(slot, at, ordinal, bound) } else { None };
            let Some(reached) = reached else { return (count, used, last, lost) };
            for gone in ordinal..reached {
                let slot = &mut self.log.slots[widen(slot)];
                lost += u64::from(slot.settled_bits.set(gone));
                slot.taken_bits.set(gone);
            }
            walk.at = at;
            walk.ordinal = ordinal;
        }
    }

    /// How many records at the open end of the slot in the buffer go on with its numbering and are
    /// damaged: its row does not count them yet. What a former life of the slot left there has
    /// smaller numbers, or is another destination's.
    pub(super) fn broken_end(&self, slot: u32, at: usize, count: u16, last: Option<u64>) -> u64 {
        let super::log::Slot { owner, first_seq, .. } = self.log.slots[widen(slot)];
        let Some(outbox) = self.boxes.get(usize::from(owner)) else { return 0 };
        let bound = fit(SLOT_RECORDS_MAX, "records of a slot");
        let mut walk = Walk { at, ordinal: count, count: bound };
        let (mut next, mut broken) = (last.map_or(first_seq, |last| last.saturating_add(1)), 0);
        while let Some((_, _, head)) = walk.step(&self.slot_buffer) {
            if head.seq < next || !outbox.owns(head.rule) {
                break;
            }
            next = head.seq.saturating_add(1);
            broken += 1;
        }
        broken
    }

    /// The configured destination that a slot's row or record names.
    pub(super) fn owner_by_number(&self, number: u64) -> Option<DestId> {
        let named = |outbox: &super::Outbox| outbox.used && outbox.number == number;
        let at = self.boxes.iter().position(|outbox| named(outbox) && outbox.params.persistent)?;
        u16::try_from(at).ok().map(DestId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot with records of these payload lengths; where each begins.
    fn slot(payloads: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SLOT_BYTES];
        let (mut at, mut places) = (0, Vec::new());
        for (ordinal, payload) in (0u8..).zip(payloads) {
            let mut head = LogHead {
                crc: 0,
                seq: u64::from(ordinal) + 100,
                topic_bytes: 3,
                props_bytes: 0,
                payload_bytes: u32::try_from(*payload).unwrap(),
                qos: Qos::AtLeastOnce,
                retain: false,
                rule: 1,
                session: false,
                arrival_ms: 5,
                ordinal,
                wall_s: 0,
                expiry_s: None,
            };
            let mut raw = [0; HEAD_BYTES];
            head.encode(&mut raw);
            let end = at + head.bytes();
            bytes[at..at + HEAD_BYTES].copy_from_slice(&raw);
            bytes[at + HEAD_BYTES..end].fill(b'x');
            let place = u32::try_from(at).unwrap();
            let mut crc = crc_at(Spot { slot: 7, generation: 3, at: place });
            crc.update(&bytes[at + 4..end]);
            head.crc = crc.finalize();
            bytes[at..at + 4].copy_from_slice(&head.crc.to_le_bytes());
            places.push(at);
            at = end;
        }
        (bytes, places)
    }

    #[test]
    fn a_broken_length_hides_only_its_own_record() {
        let (mut bytes, places) = slot(&[10, 20, 30, 40]);
        bytes[places[1] + 11] ^= 0x40;
        let found = search(&bytes, 7, 3, places[1] + HEAD_BYTES, 2, 4);
        assert_eq!(found, Some((places[2], 2)));
        let gap =
            Gap { slot: 7, generation: 3, at: places[1], bytes: places[2] - places[1], records: 1 };
        gap.mark(&mut bytes);
        let mut walk = Walk::new(4);
        let mut seen = Vec::new();
        while let Some((ordinal, at, head)) = walk.step(&bytes) {
            assert!(is_sound(&bytes, 7, 3, at, &head));
            seen.push((ordinal, at));
        }
        assert_eq!(seen, [(0, places[0]), (2, places[2]), (3, places[3])]);
    }

    #[test]
    fn records_of_another_place_or_life_are_not_found() {
        let (bytes, places) = slot(&[10, 20]);
        assert_eq!(search(&bytes, 7, 3, 0, 0, 2), Some((0, 0)));
        assert_eq!(search(&bytes, 7, 4, 0, 0, 2), None);
        assert_eq!(search(&bytes, 8, 3, 0, 0, 2), None);
        assert_eq!(search(&bytes, 7, 3, 1, 1, 2), Some((places[1], 1)));
        assert_eq!(search(&bytes, 7, 3, 1, 0, 1), None, "beyond the count");
    }
}
