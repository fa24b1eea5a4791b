//! The disk: a transactional store in memory. What is not committed vanishes with a rollback or a
//! crash, as it does in the real one. Faults are set from outside, a field each.

use spillway::limits::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use spillway::vocab::Rng;
use std::collections::BTreeMap;

/// How to take back one write.
enum Undo {
    Slot { slot: u32, at: usize, old: Vec<u8> },
    NewSlot { slot: u32 },
    Row { table: Table, key: Vec<u8>, old: Option<Vec<u8>> },
}

/// Whether the process dies at a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Before,
    After,
}

pub struct Disk {
    slots: BTreeMap<u32, Vec<u8>>,
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    undo: Vec<Undo>,
    /// How to take back the newest commit, for a disk that lied.
    last: Vec<Undo>,
    slot_count: u32,
    pub commits: u64,
    pub written_bytes: u64,
    /// The next commit is the process's last deed.
    pub dies_at: Option<Death>,
    /// The process has died in a commit.
    pub died: bool,
    /// Nothing can be written.
    pub full: bool,
    /// One of so many operations fails; 0 = none.
    pub io_error_in: u64,
    pub fails_commit: bool,
    /// Microseconds one commit takes.
    pub commit_us: u64,
    /// Microseconds spent since the world looked.
    pub spent_us: u64,
    /// The last operation failed.
    pub failing: bool,
    pub rng: Rng,
}

impl Disk {
    pub fn new(slot_count: u32, rng: Rng) -> Self {
        Self {
            slots: BTreeMap::new(),
            rows: BTreeMap::new(),
            undo: Vec::new(),
            last: Vec::new(),
            slot_count,
            commits: 0,
            written_bytes: 0,
            dies_at: None,
            died: false,
            full: false,
            io_error_in: 0,
            fails_commit: false,
            commit_us: 0,
            spent_us: 0,
            failing: false,
            rng,
        }
    }

    /// No fault from here on.
    pub fn heal(&mut self) {
        self.full = false;
        self.io_error_in = 0;
        self.fails_commit = false;
        self.commit_us = 0;
        self.dies_at = None;
    }

    /// The process is gone: so is what it had not committed.
    pub fn crash(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        self.take_back(undo);
        self.died = false;
        self.dies_at = None;
        self.failing = false;
    }

    /// The power went and the newest commit was still in the disk's own cache.
    pub fn lose_last_commit(&mut self) {
        let undo = std::mem::take(&mut self.last);
        self.take_back(undo);
    }

    /// A new disk, empty.
    pub fn wipe(&mut self) {
        self.slots.clear();
        self.rows.clear();
        self.undo.clear();
        self.last.clear();
    }

    /// Flips one bit somewhere in the used part of a slot.
    pub fn rot(&mut self) -> bool {
        let used: Vec<u32> = self.slots.keys().copied().collect();
        if used.is_empty() {
            return false;
        }
        let slot = used[at(&mut self.rng, used.len())];
        let Some(bytes) = self.slots.get_mut(&slot) else { return false };
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if end == 0 {
            return false;
        }
        let byte = at(&mut self.rng, end);
        bytes[byte] ^= 1 << self.rng.below(8);
        // Nothing of it can be taken back any more.
        self.last.clear();
        true
    }

    /// Flips one bit of a row; says of which.
    pub fn rot_row(&mut self) -> Option<(Table, Vec<u8>)> {
        let keys: Vec<(Table, Vec<u8>)> = self.rows.keys().cloned().collect();
        if keys.is_empty() {
            return None;
        }
        let key = &keys[at(&mut self.rng, keys.len())];
        let value = self.rows.get_mut(key)?;
        if value.is_empty() {
            return None;
        }
        let byte = at(&mut self.rng, value.len());
        value[byte] ^= 1 << self.rng.below(8);
        self.last.clear();
        Some(key.clone())
    }

    fn take_back(&mut self, undo: Vec<Undo>) {
        for step in undo.into_iter().rev() {
            match step {
                Undo::Slot { slot, at, old } => {
                    if let Some(bytes) = self.slots.get_mut(&slot) {
                        bytes[at..at + old.len()].copy_from_slice(&old);
                    }
                }
                Undo::NewSlot { slot } => {
                    self.slots.remove(&slot);
                }
                Undo::Row { table, key, old: Some(old) } => {
                    self.rows.insert((table, key), old);
                }
                Undo::Row { table, key, old: None } => {
                    self.rows.remove(&(table, key));
                }
            }
        }
    }

    fn fault(&mut self, writes: bool) -> Result<(), StoreError> {
        let result = if writes && self.full {
            Err(StoreError::Full)
        } else if self.io_error_in > 0 && self.rng.below(self.io_error_in) == 0 {
            Err(StoreError::Io)
        } else {
            Ok(())
        };
        self.failing |= result.is_err();
        result
    }
}

fn at(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).unwrap()
}

impl SpillStore for Disk {
    fn slot_count_max(&self) -> u32 {
        self.slot_count
    }

    fn write_slot(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError> {
        self.fault(true)?;
        assert!(at + bytes.len() <= SLOT_BYTES && slot.0 < self.slot_count, "in its bounds");
        let undo = &mut self.undo;
        let place = self.slots.entry(slot.0).or_insert_with(|| {
            undo.push(Undo::NewSlot { slot: slot.0 });
            vec![0; SLOT_BYTES]
        });
        let old = place[at..at + bytes.len()].to_vec();
        self.undo.push(Undo::Slot { slot: slot.0, at, old });
        place[at..at + bytes.len()].copy_from_slice(bytes);
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    fn covers(&mut self, slot: SlotId, _: usize) -> bool {
        self.slots.contains_key(&slot.0)
    }

    fn read_slot(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError> {
        self.fault(false)?;
        match self.slots.get(&slot.0) {
            Some(bytes) => out.copy_from_slice(&bytes[at..at + out.len()]),
            None => out.fill(0),
        }
        Ok(())
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.fault(true)?;
        let old = self.rows.insert((table, key.to_vec()), value.to_vec());
        self.undo.push(Undo::Row { table, key: key.to_vec(), old });
        self.written_bytes += value.len() as u64;
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.fault(true)?;
        let old = self.rows.remove(&(table, key.to_vec()));
        self.undo.push(Undo::Row { table, key: key.to_vec(), old });
        Ok(())
    }

    fn scan(&mut self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        for ((_, key), value) in self.rows.iter().filter(|((of, _), _)| *of == table) {
            row(key, value);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.undo.is_empty() {
            return Ok(());
        }
        self.spent_us += self.commit_us;
        let death = self.dies_at.take();
        self.died |= death.is_some();
        let failed = death == Some(Death::Before) || self.fails_commit;
        if failed || self.fault(true).is_err() {
            self.failing = true;
            self.rollback();
            return Err(if self.full { StoreError::Full } else { StoreError::Io });
        }
        self.last = std::mem::take(&mut self.undo);
        self.commits += 1;
        self.failing = false;
        Ok(())
    }

    fn rollback(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        self.take_back(undo);
    }

    fn maintain(&mut self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        (self.slots.len() * SLOT_BYTES) as u64
    }

    fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}
