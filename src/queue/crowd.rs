//! Topics that share a stream: who of them loses messages when the stream is at its quota. Not the
//! one with the oldest message but those with most, or a single busy publisher would push
//! everybody else out.

use super::Queue;
use super::entry::{Chain, Entry, State};
use super::outbox::DestId;
use super::pool::{NONE, RecordId, widen};
use super::refill::Classify;
use super::store::{SpillStore, StoreError};
use super::walk::Walk;
use crate::fit::wide;
use crate::mqtt::topic::bytes_hash;

/// Messages in RAM that are looked at for the topic that has most.
const LOOKS: usize = 256;

/// Topics on disk that are told apart; those beyond are spared.
const TOPICS_MAX: usize = 512;

/// Bytes of a topic that are looked at.
const TOPIC_LOOKED_AT: usize = 128;

/// Tells topics apart, but for long ones that differ behind their beginning only.
fn hash(begin: &[u8], whole: usize) -> u64 {
    bytes_hash(begin) ^ wide(whole)
}

#[derive(Clone, Copy, Debug)]
struct Topic {
    stream: u8,
    hash: u64,
    count: u32,
}

/// The topics of shared streams with something on disk, and how many messages of each. After
/// [`Crowd::level`] the count is how many of them go.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    topics: heapless::Vec<Topic, TOPICS_MAX>,
}

impl Crowd {
    fn find(&mut self, stream: u8, hash: u64) -> Option<&mut Topic> {
        self.topics.iter_mut().find(|topic| (topic.stream, topic.hash) == (stream, hash))
    }

    fn add(&mut self, stream: u8, hash: u64) {
        match self.find(stream, hash) {
            Some(topic) => topic.count += 1,
            // One beyond the last is spared.
            None => drop(self.topics.push(Topic { stream, hash, count: 1 })),
        }
    }

    /// Takes `gone` messages of a stream from those topics that have most, down to one level.
    fn level(&mut self, stream: u8, gone: u32) {
        let mine = || self.topics.iter().filter(|topic| topic.stream == stream);
        let above = |level: u32| -> u64 {
            mine().map(|topic| u64::from(topic.count.saturating_sub(level))).sum()
        };
        let (mut low, mut high) = (0, mine().map(|topic| topic.count).max().unwrap_or(0));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if above(middle) >= u64::from(gone) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        for topic in self.topics.iter_mut().filter(|topic| topic.stream == stream) {
            topic.count = topic.count.saturating_sub(low);
        }
    }

    /// Does this one, the oldest of its topic that was not asked for, go?
    fn goes(&mut self, stream: u8, hash: u64) -> bool {
        let Some(topic) = self.find(stream, hash).filter(|topic| topic.count > 0) else {
            return false;
        };
        topic.count -= 1;
        true
    }
}

impl Queue {
    /// The oldest message in RAM of the topic that has most among the oldest ones of a stream.
    pub(super) fn oldest_of_crowd(&self, dest: DestId, stream: u8) -> Option<u32> {
        let mut topics: heapless::Vec<(u64, u32, u32), LOOKS> = heapless::Vec::new();
        let mut at = self.outbox(dest).streams[usize::from(stream)].list.head;
        for _ in 0..LOOKS {
            if at == NONE {
                break;
            }
            let hash = self.entries[at].record.map_or(0, |record| self.hash_in_ram(record));
            match topics.iter_mut().find(|(known, ..)| *known == hash) {
                Some((_, count, _)) => *count += 1,
                // There is a place for each that is looked at.
                None => drop(topics.push((hash, 1, at))),
            }
            at = self.entries.next(Chain::Line, at);
        }
        // Of several with as many the one with the oldest message.
        let (_, count, index) = topics.iter().rev().max_by_key(|(_, count, _)| *count)?;
        // Where none has much of it here it is found out on disk who has most.
        let much = count.saturating_mul(4) > self.stream_count(dest, stream);
        let decided = much || !self.outbox(dest).has_gap(stream);
        decided.then_some(*index)
    }

    fn hash_in_ram(&self, record: RecordId) -> u64 {
        let mut bytes = [0; TOPIC_LOOKED_AT];
        let whole = usize::from(self.pool.head(record).topic_bytes);
        let begin = &mut bytes[..whole.min(TOPIC_LOOKED_AT)];
        self.pool.read(record, 0, begin);
        hash(begin, whole)
    }

    /// Counts the topics of shared streams that have to lose something, on at most `slots` slots
    /// from `slot` on. `None`: no stream is of that kind.
    pub(super) fn count_crowd(
        &mut self,
        dest: DestId,
        mut slot: u32,
        slots: usize,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<Option<Crowd>, StoreError> {
        let outbox = self.outbox(dest);
        if outbox.trim > 0 || !outbox.streams.iter().any(|stream| stream.crowd) {
            return Ok(None);
        }
        let mut crowd = Crowd::default();
        let mut read = 0;
        while slot != NONE && read < slots {
            if self.log.slots[widen(slot)].streams != 0 {
                read += 1;
                self.read_slot(slot, store)?;
                let mut walk = Walk::new(self.log.slots[widen(slot)].count);
                while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
                    if self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                        continue;
                    }
                    let class = self.classified(dest, at, &head, classify);
                    let Some((stream, _)) = class.filter(|(at, _)| self.is_crowd(dest, *at)) else {
                        continue;
                    };
                    crowd.add(stream, self.hash_on_disk(at, &head));
                }
            }
            slot = self.slot_after(slot);
        }
        // What is staged behind them has most of those who say most.
        let mut at = self.outbox(dest).custody.head;
        while at != NONE {
            let entry = &self.entries[at];
            if let (State::Waiting, false, Some(record)) =
                (entry.state, entry.flags.listed, entry.record)
                && self.is_crowd(dest, entry.stream)
            {
                crowd.add(entry.stream, self.hash_in_ram(record));
            }
            at = self.entries.next(Chain::Custody, at);
        }
        for (at, stream) in (0u8..).zip(&self.outbox(dest).streams) {
            if stream.crowd {
                crowd.level(at, stream.trim);
            }
        }
        Ok(Some(crowd))
    }

    fn is_crowd(&self, dest: DestId, stream: u8) -> bool {
        self.outbox(dest).streams.get(usize::from(stream)).is_some_and(|stream| stream.crowd)
    }

    fn hash_on_disk(&self, at: usize, head: &super::record::LogHead) -> u64 {
        let topic = self.topic_at(at, head).unwrap_or_default();
        hash(&topic[..topic.len().min(TOPIC_LOOKED_AT)], topic.len())
    }

    /// Is a message that is staged spared, because others of its stream have more?
    pub(super) fn is_staged_spared(
        &self,
        dest: DestId,
        crowd: &mut Option<Crowd>,
        index: u32,
    ) -> bool {
        let (Some(crowd), Entry { record: Some(record), stream, .. }) =
            (crowd, &self.entries[index])
        else {
            return false;
        };
        self.is_crowd(dest, *stream) && !crowd.goes(*stream, self.hash_in_ram(*record))
    }

    /// The same of a stored record.
    pub(super) fn is_spared(
        &self,
        dest: DestId,
        crowd: &mut Option<Crowd>,
        class: Option<(u8, u8)>,
        at: usize,
        head: &super::record::LogHead,
    ) -> bool {
        let (Some(crowd), Some((stream, _))) = (crowd, class) else { return false };
        self.is_crowd(dest, stream) && !crowd.goes(stream, self.hash_on_disk(at, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_most_lose_down_to_one_level() {
        let mut crowd = Crowd::default();
        for (hash, count) in [(1, 10), (2, 7), (3, 1)] {
            for _ in 0..count {
                crowd.add(5, hash);
            }
        }
        crowd.add(6, 1);
        crowd.level(5, 8);
        let gone = |crowd: &mut Crowd, hash| (0..20).filter(|_| crowd.goes(5, hash)).count();
        // Down to 4 each, the next level would be too few.
        assert_eq!([1, 2, 3, 9].map(|hash| gone(&mut crowd, hash)), [6, 3, 0, 0]);
    }
}
