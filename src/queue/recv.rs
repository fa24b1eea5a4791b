//! Packet identifiers of QoS 2 messages that were received and are not released yet, of all
//! sessions and bridges together: method of section 4.3.3, by identifier. A fixed open-addressing
//! set; never allocates after `new`.
//!
//! Every owner is sure of its share, whatever the others do: who has used up his own takes from
//! what is kept in common, and only he is refused when that is gone.

use super::pool::{RecordId, widen};

use crate::fit::fit;
const EMPTY: u32 = u32::MAX;

/// How far an identifier is on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its message is not safe yet, so the identifier must not be either: after a crash the
    /// publisher's second try would be taken for a duplicate and the message be lost.
    Waits(RecordId),
    /// May be written.
    Ready,
    /// In the open transaction, with the message it waits for: should that fail, both wait again.
    Staged(Option<RecordId>),
    Durable,
}

pub struct RecvIds {
    table: Box<[u32]>,
    stages: Box<[Stage]>,
    len: u32,
    /// How many each owner has: most have none, and the table need not be searched for them.
    counts: Box<[u16]>,
    /// What each is sure of.
    shares: Box<[u16]>,
    common_max: u32,
    /// What all have together beyond their shares. Restored ones count too, and may pass the bound.
    common: u32,
}

/// The set has no room for one more identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvFull;

/// Places of a table for so many identifiers: at most three quarters are taken, and half of what is
/// left is for those that a store of another configuration brings.
fn places(count: u32) -> usize {
    (widen(count.max(8)) * 4).div_ceil(3).next_power_of_two()
}

impl RecvIds {
    /// Room for each owner's share, and so many identifiers in common.
    pub fn new(common: u32, shares: &[u16]) -> Self {
        let sure: u32 = shares.iter().map(|share| u32::from(*share)).sum();
        let size = places(sure.saturating_add(common));
        Self {
            table: vec![EMPTY; size].into_boxed_slice(),
            stages: vec![Stage::Ready; size].into_boxed_slice(),
            len: 0,
            counts: vec![0; shares.len()].into_boxed_slice(),
            shares: shares.into(),
            common_max: common,
            common: 0,
        }
    }

    /// What `new` allocates.
    pub fn planned_bytes(common: u32, shares: &[u16]) -> usize {
        let sure: u32 = shares.iter().map(|share| u32::from(*share)).sum();
        places(sure.saturating_add(common)) * (4 + size_of::<Stage>())
            + shares.len() * 2 * size_of::<u16>()
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// May this owner have one more?
    pub fn has_room(&self, owner: u16) -> bool {
        let at = usize::from(owner);
        self.counts[at] < self.shares[at] || self.common < self.common_max
    }

    /// Has this owner as many as it is sure of?
    pub fn is_beyond_share(&self, owner: u16) -> bool {
        self.counts[usize::from(owner)] >= self.shares[usize::from(owner)]
    }

    pub fn contains(&self, owner: u16, id: u16) -> bool {
        self.find(key(owner, id)).is_ok()
    }

    /// Adds an identifier; `Ok(false)` when it was there.
    pub fn insert(&mut self, owner: u16, id: u16, stage: Stage) -> Result<bool, RecvFull> {
        match self.find(key(owner, id)) {
            Ok(_) => Ok(false),
            Err(_) if !self.has_room(owner) => Err(RecvFull),
            Err(at) => {
                self.put(at, owner, id, stage);
                Ok(true)
            }
        }
    }

    /// The same for one that the store has: it is taken beyond the owner's share too, as long as
    /// the table has places.
    pub fn restore(&mut self, owner: u16, id: u16) -> Result<bool, RecvFull> {
        match self.find(key(owner, id)) {
            Ok(_) => Ok(false),
            Err(_) if (widen(self.len) + 1) * 8 > self.table.len() * 7 => Err(RecvFull),
            Err(at) => {
                self.put(at, owner, id, Stage::Durable);
                Ok(true)
            }
        }
    }

    fn put(&mut self, at: usize, owner: u16, id: u16, stage: Stage) {
        self.common += u32::from(self.is_beyond_share(owner));
        self.table[at] = key(owner, id);
        self.stages[at] = stage;
        self.len += 1;
        self.counts[usize::from(owner)] += 1;
    }

    /// Removes an identifier; says whether it was there.
    pub fn remove(&mut self, owner: u16, id: u16) -> bool {
        let Ok(mut hole) = self.find(key(owner, id)) else { return false };
        let mask = self.table.len() - 1;
        self.len -= 1;
        self.counts[usize::from(owner)] -= 1;
        self.common -= u32::from(self.is_beyond_share(owner));
        // Close the hole: whatever probed past it moves back.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let value = self.table[at];
            if value == EMPTY {
                break;
            }
            let home = hash(value) & mask;
            let behind = at.wrapping_sub(home) & mask;
            if behind >= (at.wrapping_sub(hole) & mask) {
                self.table[hole] = value;
                self.stages[hole] = self.stages[at];
                hole = at;
            }
        }
        self.table[hole] = EMPTY;
        true
    }

    /// Removes everything of one owner.
    pub fn clear(&mut self, owner: u16) {
        let mut at = 0;
        while self.counts[usize::from(owner)] > 0 {
            let value = self.table[at];
            if value != EMPTY && value >> 16 == u32::from(owner) {
                self.remove(owner, fit(value & 0xFFFF, "a packet identifier"));
                // Another may have moved here.
                continue;
            }
            at += 1;
        }
    }

    /// The identifiers of one owner, in no particular order.
    pub fn of(&self, owner: u16) -> impl Iterator<Item = u16> + '_ {
        self.table
            .iter()
            .filter(move |value| **value != EMPTY && **value >> 16 == u32::from(owner))
            .filter_map(|value| u16::try_from(value & 0xFFFF).ok())
            .take(self.count(owner))
    }

    /// Is a commit done that has this identifier?
    pub fn is_durable(&self, owner: u16, id: u16) -> bool {
        self.find(key(owner, id)).is_ok_and(|at| self.stages[at] == Stage::Durable)
    }

    /// Calls `each` for every identifier of one owner; what it returns is the new stage.
    pub fn update(&mut self, owner: u16, each: &mut dyn FnMut(u16, Stage) -> Stage) {
        let mut left = self.count(owner);
        for (value, stage) in self.table.iter().zip(&mut self.stages) {
            if left == 0 {
                break;
            }
            if *value >> 16 == u32::from(owner) && *value != EMPTY {
                let id = fit(*value & 0xFFFF, "a packet identifier");
                *stage = each(id, *stage);
                left -= 1;
            }
        }
    }

    pub fn count(&self, owner: u16) -> usize {
        usize::from(self.counts[usize::from(owner)])
    }

    fn find(&self, key: u32) -> Result<usize, usize> {
        let mask = self.table.len() - 1;
        let mut at = hash(key) & mask;
        loop {
            if self.table[at] == key {
                return Ok(at);
            }
            if self.table[at] == EMPTY {
                return Err(at);
            }
            at = (at + 1) & mask;
        }
    }
}

fn key(owner: u16, id: u16) -> u32 {
    u32::from(owner) << 16 | u32::from(id)
}

fn hash(key: u32) -> usize {
    widen(key.wrapping_mul(0x9E37_79B1) >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Rng;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set_under_random_use() {
        let mut ids = RecvIds::new(64, &[0, 4, 30]);
        let mut model = BTreeSet::new();
        let mut rng = Rng::new(1);
        for _ in 0..20_000 {
            let (owner, id) = (u16::try_from(rng.below(3)).unwrap(), {
                u16::try_from(1 + rng.below(20)).unwrap()
            });
            match rng.below(20) {
                0 => {
                    ids.clear(owner);
                    model.retain(|(o, _)| *o != owner);
                }
                1..10 => {
                    assert_eq!(ids.insert(owner, id, Stage::Ready), Ok(model.insert((owner, id))))
                }
                _ => assert_eq!(ids.remove(owner, id), model.remove(&(owner, id))),
            }
            assert_eq!(ids.contains(owner, id), model.contains(&(owner, id)));
            let mut own: Vec<u16> = ids.of(owner).collect();
            own.sort_unstable();
            assert!(own.iter().eq(model.iter().filter(|(o, _)| *o == owner).map(|(_, id)| id)));
            let mut updated = 0;
            ids.update(owner, &mut |_, stage| {
                updated += 1;
                stage
            });
            assert_eq!((ids.count(owner), updated), (own.len(), own.len()));
        }
    }

    #[test]
    fn nobody_takes_what_another_is_sure_of() {
        let mut ids = RecvIds::new(3, &[2, 4, 0]);
        for id in 1..=5 {
            assert_eq!(ids.insert(0, id, Stage::Ready), Ok(true));
        }
        assert_eq!(ids.insert(0, 6, Stage::Ready), Err(RecvFull));
        assert_eq!(ids.insert(0, 5, Stage::Ready), Ok(false));
        assert_eq!(ids.insert(2, 1, Stage::Ready), Err(RecvFull));
        for id in 1..=4 {
            assert_eq!(ids.insert(1, id, Stage::Ready), Ok(true));
        }
        assert_eq!(ids.insert(1, 5, Stage::Ready), Err(RecvFull));
        // What goes back goes back to all.
        assert!(ids.remove(0, 1));
        assert_eq!(ids.insert(2, 1, Stage::Ready), Ok(true));
        assert_eq!(ids.insert(0, 6, Stage::Ready), Err(RecvFull));
        ids.clear(0);
        for id in 1..=4 {
            assert_eq!(ids.insert(0, id, Stage::Ready), Ok(true));
        }
        assert_eq!(ids.insert(0, 5, Stage::Ready), Err(RecvFull));
    }

    #[test]
    fn what_the_store_has_is_taken_beyond_a_share_and_takes_none_away() {
        let mut ids = RecvIds::new(2, &[2, 2]);
        let mut restored = 0;
        while ids.restore(0, restored + 1).is_ok() {
            restored += 1;
        }
        assert_eq!(restored, 14, "of sixteen places");
        let mut ids = RecvIds::new(2, &[2, 2]);
        for id in 1..=5 {
            assert_eq!(ids.restore(0, id), Ok(true));
        }
        assert_eq!(ids.insert(1, 1, Stage::Ready), Ok(true));
        assert_eq!(ids.insert(1, 2, Stage::Ready), Ok(true));
        assert_eq!(ids.insert(1, 3, Stage::Ready), Err(RecvFull));
        ids.clear(0);
        assert_eq!(ids.insert(1, 3, Stage::Ready), Ok(true));
    }
}
