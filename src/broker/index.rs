//! Hash → id: a fixed table with open addressing and linear probing, never more than half full.
//!
//! Allocates in `new` only. Knows the hashes it was given, not the keys: the caller confirms every
//! hit, and calls `insert` at most `count_max` times more often than `remove`.

use crate::fit::index;
use core::mem::size_of;

const NONE: u32 = u32::MAX;
/// The golden ratio: spreads sums of similar terms over the table (Fibonacci hashing).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

pub(super) struct Index {
    slots: Box<[Slot]>,
    /// `slots.len() == 1 << bits`.
    bits: u32,
}

#[derive(Clone, Copy)]
struct Slot {
    /// The stirred hash's upper half: where the slot's home is, and most of the comparison.
    mark: u32,
    id: u32,
}

impl Index {
    fn slot_count(count_max: usize) -> usize {
        (count_max.max(1) * 2).next_power_of_two()
    }

    pub fn bytes_planned(count_max: usize) -> usize {
        Self::slot_count(count_max) * size_of::<Slot>()
    }

    /// Room for `count_max` ids below `u32::MAX`.
    pub fn new(count_max: usize) -> Self {
        let slots = vec![Slot { mark: 0, id: NONE }; Self::slot_count(count_max)];
        assert!(slots.len() <= 1 << 31, "a mark has 32 bits");
        Self { bits: slots.len().trailing_zeros(), slots: slots.into_boxed_slice() }
    }

    fn mark(hash: u64) -> u32 {
        let [.., a, b, c, d] = hash.wrapping_mul(SPREAD).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn home(&self, mark: u32) -> usize {
        // `bits` is at least 1, and what is left is below `slots.len()`.
        index(mark >> (32 - self.bits))
    }

    /// The id inserted with `hash` for which `is_it`. Other hashes may be asked about, too.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mark = Self::mark(hash);
        let mut at = self.home(mark);
        // Ends: at least half of the slots are empty.
        loop {
            let slot = self.slots[at & mask];
            if slot.id == NONE {
                return None;
            }
            if slot.mark == mark && is_it(slot.id) {
                return Some(slot.id);
            }
            at += 1;
        }
    }

    pub fn insert(&mut self, hash: u64, id: u32) {
        let mask = self.slots.len() - 1;
        let mark = Self::mark(hash);
        let mut at = self.home(mark);
        while self.slots[at & mask].id != NONE {
            at += 1;
        }
        self.slots[at & mask] = Slot { mark, id };
    }

    /// Takes out `id`, which was inserted with `hash`, and moves those behind it forward, so that
    /// no chain of probes has a hole.
    pub fn remove(&mut self, hash: u64, id: u32) {
        let mask = self.slots.len() - 1;
        let mut hole = self.home(Self::mark(hash));
        while self.slots[hole].id != id {
            assert!(self.slots[hole].id != NONE, "an id is removed with the hash it came with");
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.id == NONE {
                break;
            }
            // It may move no further than its home: does the hole lie between home and here?
            let from_home = at.wrapping_sub(self.home(slot.mark)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot { mark: 0, id: NONE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Rng;

    /// Few different hashes, so that chains are long, wrap around and are cut in the middle.
    #[test]
    fn finds_exactly_what_was_inserted_and_not_removed() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut index = Index::new(16);
            let mut model: Vec<(u64, u32)> = Vec::new();
            for id in 0..400 {
                if model.len() == 16 || (rng.below(3) == 0 && !model.is_empty()) {
                    let at = usize::try_from(rng.below(model.len().try_into().unwrap())).unwrap();
                    let (hash, id) = model.swap_remove(at);
                    index.remove(hash, id);
                    assert_eq!(index.find(hash, |found| found == id), None);
                } else {
                    let hash = rng.below(6) << 60;
                    index.insert(hash, id);
                    model.push((hash, id));
                }
                for (hash, id) in &model {
                    assert_eq!(index.find(*hash, |found| found == *id), Some(*id));
                }
            }
        }
    }
}
