//! Records of pending messages in fixed memory: one copy of a message however many destinations.
//!
//! A slab of fixed blocks, so that an old unacknowledged message pins only itself. A record lives
//! while a destination refers to it (`refs`); its head lives on while a publisher waits for it
//! (`holds`). Never grows, never allocates after [`Pool::new`].

use crate::fit::fit;
pub use crate::fit::index as widen;
use crate::limits::BLOCK_BYTES;
use crate::mqtt::Qos;
use crate::vocab::Instant;

/// No index: the end of a chain.
pub const NONE: u32 = u32::MAX;

/// A record by its place and generation; a freed record never answers to an old id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    pub index: u32,
    pub generation: u32,
}

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub topic_bytes: u16,
    /// Encoded MQTT 5 properties without Message Expiry, Topic Alias and Subscription Identifiers.
    pub props_bytes: u32,
    pub payload_bytes: u32,
    /// As the publisher sent it.
    pub qos: Qos,
    pub retain: bool,
    pub arrival: Instant,
    /// Wall clock at arrival, seconds since 1970; a label.
    pub wall_s: u32,
    /// MQTT 5 message expiry interval at arrival, seconds.
    pub expiry_s: Option<u32>,
    /// Slot of the connection that waits for its acknowledgement; `u16::MAX` = nobody.
    pub source: u16,
}

impl Head {
    /// Bytes of topic, properties and payload together.
    pub fn body_bytes(&self) -> usize {
        self.payload_at() + widen(self.payload_bytes)
    }

    /// Where the payload begins in the body, behind topic and properties.
    pub fn payload_at(&self) -> usize {
        usize::from(self.topic_bytes) + widen(self.props_bytes)
    }

    /// Blocks the body takes.
    pub fn blocks(&self) -> u32 {
        blocks_for(self.body_bytes())
    }
}

#[derive(Clone, Debug)]
struct Record {
    head: Head,
    generation: u32,
    /// Destinations (and packets being written) that need the bytes.
    refs: u32,
    /// Destinations that have not settled it yet.
    holds: u32,
    /// Holds that the open transaction will release.
    staged: u32,
    first: u32,
    /// Its number in the order of arrival, which wraps; of a free one the next in the free list.
    next: u32,
    /// The record that is settled no sooner than this one, by a hold of this one's.
    lead: u32,
    /// That hold is among those the open transaction will release.
    lead_staged: bool,
}

/// The memory is reserved at start; a page of it is touched when it is first used.
pub struct Pool {
    records: Vec<Record>,
    bytes: Box<[u8]>,
    next_block: Vec<u32>,
    record_count: u32,
    block_count: u32,
    free_record: u32,
    free_block: u32,
    free_records: u32,
    free_blocks: u32,
    /// Records there have been.
    arrived: u32,
}

/// The pool has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFull;

impl Pool {
    /// `messages` records over `bytes` of body.
    pub fn new(messages: u32, bytes: usize) -> Self {
        let blocks = fit::<u32, _>(bytes / BLOCK_BYTES, "blocks").max(1);
        Self {
            records: Vec::with_capacity(widen(messages)),
            bytes: vec![0; widen(blocks) * BLOCK_BYTES].into_boxed_slice(),
            next_block: Vec::with_capacity(widen(blocks)),
            record_count: messages,
            block_count: blocks,
            free_record: NONE,
            free_block: NONE,
            free_records: messages,
            free_blocks: blocks,
            arrived: 0,
        }
    }

    /// Bytes `new` allocates.
    pub fn planned_bytes(messages: u32, bytes: usize) -> usize {
        widen(messages) * size_of::<Record>() + bytes + bytes / BLOCK_BYTES * 4
    }

    pub fn free_records(&self) -> u32 {
        self.free_records
    }

    pub fn free_blocks(&self) -> u32 {
        self.free_blocks
    }

    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Room for one record with such a body?
    pub fn fits(&self, body_bytes: usize) -> bool {
        self.free_records > 0 && self.free_blocks >= blocks_for(body_bytes)
    }

    /// A record with room for its body and one reference; the body is filled by [`Pool::write`].
    pub fn insert(&mut self, head: Head) -> Result<RecordId, PoolFull> {
        let blocks = head.blocks();
        if self.free_records == 0 || self.free_blocks < blocks {
            return Err(PoolFull);
        }
        let mut first = NONE;
        for _ in 0..blocks {
            let block = self.take_block();
            self.next_block[widen(block)] = first;
            first = block;
        }
        self.free_blocks -= blocks;

        let index = self.take_record(head);
        self.arrived = self.arrived.wrapping_add(1);
        let record = &mut self.records[widen(index)];
        record.head = head;
        record.generation = record.generation.wrapping_add(1);
        record.refs = 1;
        record.holds = 0;
        record.staged = 0;
        record.first = first;
        record.next = self.arrived;
        record.lead = NONE;
        record.lead_staged = false;
        Ok(RecordId { index, generation: record.generation })
    }

    /// A free block; `insert` has counted them.
    fn take_block(&mut self) -> u32 {
        let block = self.free_block;
        if block == NONE {
            self.next_block.push(NONE);
            return fit(self.next_block.len() - 1, "blocks");
        }
        self.free_block = self.next_block[widen(block)];
        block
    }

    /// A free record; `insert` has counted them.
    fn take_record(&mut self, head: Head) -> u32 {
        self.free_records -= 1;
        let index = self.free_record;
        if index == NONE {
            self.records.push(Record {
                head,
                generation: 0,
                refs: 0,
                holds: 0,
                staged: 0,
                first: NONE,
                next: NONE,
                lead: NONE,
                lead_staged: false,
            });
            return fit(self.records.len() - 1, "records");
        }
        self.free_record = self.records[widen(index)].next;
        index
    }

    /// Writes `bytes` at `at` of the body.
    pub fn write(&mut self, id: RecordId, at: usize, bytes: &[u8]) {
        let (mut block, mut offset) = self.seek(id, at);
        let mut rest = bytes;
        while !rest.is_empty() {
            let take = rest.len().min(BLOCK_BYTES - offset);
            let start = widen(block) * BLOCK_BYTES + offset;
            self.bytes[start..start + take].copy_from_slice(&rest[..take]);
            rest = &rest[take..];
            offset = 0;
            block = self.next_block[widen(block)];
        }
    }

    /// Copies the payload of one record into another, which has room for it.
    pub fn copy_payload(&mut self, from: RecordId, to: RecordId) {
        let mut piece = [0; BLOCK_BYTES];
        let (mut at, mut end) = (self.head(from).payload_at(), self.head(to).payload_at());
        loop {
            match self.read(from, at, &mut piece) {
                0 => return,
                bytes => {
                    self.write(to, end, &piece[..bytes]);
                    at += bytes;
                    end += bytes;
                }
            }
        }
    }

    /// Copies from `at` of the body into `out`, as much as there is; says how much.
    pub fn read(&self, id: RecordId, at: usize, out: &mut [u8]) -> usize {
        let total = self.head(id).body_bytes();
        let want = out.len().min(total.saturating_sub(at));
        if want == 0 {
            return 0;
        }
        let (mut block, mut offset) = self.seek(id, at);
        let mut done = 0;
        while done < want {
            let take = (want - done).min(BLOCK_BYTES - offset);
            let start = widen(block) * BLOCK_BYTES + offset;
            out[done..done + take].copy_from_slice(&self.bytes[start..start + take]);
            done += take;
            offset = 0;
            block = self.next_block[widen(block)];
        }
        done
    }

    /// The payload, block by block.
    pub fn payload(&self, id: RecordId) -> impl Iterator<Item = &[u8]> + Clone {
        let at = self.head(id).payload_at();
        let (mut block, mut offset) = self.seek(id, at);
        let mut left = widen(self.head(id).payload_bytes);
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let take = left.min(BLOCK_BYTES - offset);
            let start = widen(block) * BLOCK_BYTES + offset;
            left -= take;
            offset = 0;
            block = self.next_block[widen(block)];
            Some(&self.bytes[start..start + take])
        })
    }

    /// The body when it lies in one block.
    pub fn contiguous(&self, id: RecordId) -> Option<&[u8]> {
        let record = self.at(id);
        let total = record.head.body_bytes();
        let start = widen(record.first) * BLOCK_BYTES;
        (total <= BLOCK_BYTES).then(|| &self.bytes[start..start + total])
    }

    pub fn head(&self, id: RecordId) -> &Head {
        &self.at(id).head
    }

    /// How many records came after it.
    pub fn age(&self, id: RecordId) -> u32 {
        self.arrived.wrapping_sub(self.at(id).next)
    }

    /// One more destination needs the bytes.
    pub fn retain(&mut self, id: RecordId) {
        self.at_mut(id).refs += 1;
    }

    /// One destination less needs the bytes.
    pub fn release(&mut self, id: RecordId) {
        let record = self.at_mut(id);
        assert!(record.refs > 0, "a record is released once per reference");
        record.refs -= 1;
        if record.refs == 0 {
            self.free_body(id.index);
            self.free_if_done(id.index);
        }
    }

    /// Would so many references and holds less free its bytes, and its head?
    pub fn would_free(&self, id: RecordId, refs: usize, holds: usize) -> (bool, bool) {
        let record = self.at(id);
        (widen(record.refs) <= refs, widen(record.holds) <= holds)
    }

    /// One more destination must settle it before it is acknowledged.
    pub fn hold(&mut self, id: RecordId) {
        self.at_mut(id).holds += 1;
    }

    /// One destination settled it. `Some(source)` when it was the last, of this record and of those
    /// that go with it.
    pub fn unhold(&mut self, id: RecordId) -> Option<u16> {
        let record = self.at_mut(id);
        assert!(record.holds > 0, "a hold is released once");
        record.holds -= 1;
        if record.holds > 0 {
            return None;
        }
        let source = record.head.source;
        let lead = core::mem::replace(&mut record.lead, NONE);
        let staged = core::mem::take(&mut record.lead_staged);
        self.free_if_done(id.index);
        if lead == NONE {
            return Some(source);
        }
        let record = &mut self.records[widen(lead)];
        record.holds -= 1;
        record.staged -= u32::from(staged);
        let last = record.holds == 0;
        self.free_if_done(lead);
        last.then_some(source)
    }

    /// Another record of the same message as `lead`, inserted just now and held: `lead` is settled
    /// when both are, and they are of one age. Neither may go with another one already.
    pub fn follow(&mut self, id: RecordId, lead: RecordId) {
        let first = self.at_mut(lead);
        assert!(first.lead == NONE, "a record that others go with goes with none");
        first.holds += 1;
        let arrived = first.next;
        let record = self.at_mut(id);
        assert!(
            record.lead == NONE && record.holds > 0,
            "a record goes with one that it waits for"
        );
        record.lead = lead.index;
        record.next = arrived;
    }

    /// The open transaction will release one more hold (or, after it failed, one less).
    pub fn stage(&mut self, id: RecordId, staged: bool) {
        let record = self.at_mut(id);
        record.staged = if staged { record.staged + 1 } else { record.staged.saturating_sub(1) };
        let all = record.holds == record.staged;
        let (lead, was) = (record.lead, record.lead_staged);
        if lead == NONE || was == all {
            return;
        }
        record.lead_staged = all;
        let first = &mut self.records[widen(lead)];
        first.staged = if all { first.staged + 1 } else { first.staged.saturating_sub(1) };
    }

    /// Will every destination have settled it once the open transaction is committed?
    pub fn will_be_settled(&self, id: RecordId) -> bool {
        let record = &self.records[widen(id.index)];
        record.generation != id.generation || record.holds == record.staged
    }

    /// Has every destination settled it? A record that is gone was settled.
    pub fn is_settled(&self, id: RecordId) -> bool {
        let record = &self.records[widen(id.index)];
        record.generation != id.generation || record.holds == 0
    }

    fn free_body(&mut self, index: u32) {
        let record = &mut self.records[widen(index)];
        let first = core::mem::replace(&mut record.first, NONE);
        if first == NONE {
            return;
        }
        let blocks = record.head.blocks();
        let mut last = first;
        for _ in 1..blocks {
            last = self.next_block[widen(last)];
        }
        self.next_block[widen(last)] = self.free_block;
        self.free_block = first;
        self.free_blocks += blocks;
    }

    fn free_if_done(&mut self, index: u32) {
        let record = &mut self.records[widen(index)];
        if record.refs == 0 && record.holds == 0 {
            record.generation = record.generation.wrapping_add(1);
            record.next = self.free_record;
            self.free_record = index;
            self.free_records += 1;
        }
    }

    fn seek(&self, id: RecordId, at: usize) -> (u32, usize) {
        let mut block = self.at(id).first;
        for _ in 0..at / BLOCK_BYTES {
            block = self.next_block[widen(block)];
        }
        (block, at % BLOCK_BYTES)
    }

    fn at(&self, id: RecordId) -> &Record {
        let record = &self.records[widen(id.index)];
        assert!(record.generation == id.generation, "a record id outlived its record");
        record
    }

    fn at_mut(&mut self, id: RecordId) -> &mut Record {
        let record = &mut self.records[widen(id.index)];
        assert!(record.generation == id.generation, "a record id outlived its record");
        record
    }
}

/// Blocks a body takes; an empty one takes one.
pub fn blocks_for(body_bytes: usize) -> u32 {
    fit(body_bytes.div_ceil(BLOCK_BYTES).max(1), "blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(payload_bytes: u32) -> Head {
        Head {
            topic_bytes: 3,
            props_bytes: 0,
            payload_bytes,
            qos: Qos::AtLeastOnce,
            retain: false,
            arrival: Instant::ZERO,
            wall_s: 0,
            expiry_s: None,
            source: 4,
        }
    }

    #[test]
    fn body_survives_crossing_blocks() {
        let mut pool = Pool::new(4, 4096);
        let id = pool.insert(head(1000)).unwrap();
        let body: Vec<u8> = (0..1003u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        pool.write(id, 0, &body[..300]);
        pool.write(id, 300, &body[300..]);
        let mut out = vec![0; 2000];
        assert_eq!(pool.read(id, 0, &mut out), 1003);
        assert_eq!(&out[..1003], &body[..]);
        assert_eq!(pool.read(id, 255, &mut out[..3]), 3);
        assert_eq!(&out[..3], &body[255..258]);
        assert!(pool.contiguous(id).is_none());
    }

    #[test]
    fn room_returns_when_the_last_reference_goes() {
        let mut pool = Pool::new(2, 1024);
        let (records, blocks) = (pool.free_records(), pool.free_blocks());
        let id = pool.insert(head(600)).unwrap();
        pool.retain(id);
        pool.release(id);
        assert_eq!(pool.free_blocks(), blocks - 3);
        pool.release(id);
        assert_eq!((pool.free_records(), pool.free_blocks()), (records, blocks));
    }

    #[test]
    fn a_held_record_frees_its_bytes_but_keeps_its_head() {
        let mut pool = Pool::new(2, 1024);
        let blocks = pool.free_blocks();
        let id = pool.insert(head(10)).unwrap();
        pool.hold(id);
        pool.release(id);
        assert_eq!(pool.free_blocks(), blocks);
        assert!(!pool.is_settled(id));
        assert_eq!(pool.unhold(id), Some(4));
        assert!(pool.is_settled(id));
        assert_eq!(pool.free_records(), 2);
    }

    #[test]
    fn the_records_of_one_message_are_settled_together() {
        let mut pool = Pool::new(4, 1024);
        let [lead, second, third] = [1, 2, 3].map(|_| pool.insert(head(1)).unwrap());
        for id in [lead, second, third] {
            pool.hold(id);
        }
        pool.follow(second, lead);
        pool.follow(third, lead);
        assert_eq!([pool.age(lead), pool.age(second), pool.age(third)], [2; 3]);
        // A transaction has two of them, and fails; the next has all.
        for id in [lead, second] {
            pool.stage(id, true);
        }
        assert!(!pool.will_be_settled(lead) && pool.will_be_settled(second));
        for id in [lead, second] {
            pool.stage(id, false);
        }
        for id in [lead, second, third] {
            pool.stage(id, true);
        }
        assert!(pool.will_be_settled(lead));
        for id in [lead, second, third] {
            pool.stage(id, false);
        }
        assert!(!pool.will_be_settled(lead));
        for id in [lead, second] {
            pool.release(id);
            assert_eq!(pool.unhold(id), None);
            assert!(!pool.is_settled(lead));
        }
        assert!(pool.is_settled(second));
        pool.release(third);
        assert_eq!(pool.unhold(third), Some(4));
        assert!(pool.is_settled(lead));
        assert_eq!(pool.free_records(), 4);
    }

    #[test]
    fn ids_and_ages_are_told_apart_across_the_wrap_of_their_counters() {
        let mut pool = Pool::new(4, 1024);
        let old = pool.insert(head(1)).unwrap();
        pool.release(old);
        pool.records[0].generation = u32::MAX - 1;
        pool.arrived = u32::MAX - 1;
        let first = pool.insert(head(1)).unwrap();
        pool.hold(first);
        assert_eq!((first.index, first.generation), (old.index, u32::MAX));
        pool.release(first);
        assert_eq!(pool.unhold(first), Some(4));
        let second = pool.insert(head(1)).unwrap();
        pool.hold(second);
        assert_eq!((second.index, second.generation), (first.index, 1));
        assert!(pool.is_settled(first) && !pool.is_settled(second));
        let third = pool.insert(head(1)).unwrap();
        assert_eq!((pool.age(second), pool.age(third)), (1, 0));
    }

    #[test]
    fn full_is_an_answer() {
        let mut pool = Pool::new(2, 512);
        assert!(pool.insert(head(600)).is_err());
        let first = pool.insert(head(1)).unwrap();
        let _second = pool.insert(head(1)).unwrap();
        assert_eq!(pool.insert(head(1)), Err(PoolFull));
        pool.release(first);
        assert!(pool.insert(head(1)).is_ok());
    }
}
