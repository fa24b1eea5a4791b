//! A store in memory with transactions: what is not committed is gone after `rollback`, and a
//! number of writes can be made to fail. No file, no SQL.

use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use std::collections::BTreeMap;

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;
type Slots = BTreeMap<u32, Box<[u8]>>;

#[derive(Clone, Debug)]
pub struct Disk {
    pub rows: Rows,
    pub slots: Slots,
    /// What the open transaction replaces; a row without a value is deleted.
    open_rows: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    open_slots: Slots,
    slot_count_max: u32,
    written_bytes: u64,
    /// So many operations from here on fail for this reason.
    pub failing: Option<(u32, StoreError)>,
}

impl Disk {
    pub fn new(slot_count_max: u32) -> Self {
        Self {
            rows: Rows::new(),
            slots: Slots::new(),
            open_rows: BTreeMap::new(),
            open_slots: Slots::new(),
            slot_count_max,
            written_bytes: 0,
            failing: None,
        }
    }

    fn try_it(&mut self) -> Result<(), StoreError> {
        match &mut self.failing {
            Some((0, _)) | None => Ok(()),
            Some((count, error)) => {
                *count -= 1;
                Err(*error)
            }
        }
    }
}

impl SpillStore for Disk {
    fn slot_count_max(&self) -> u32 {
        self.slot_count_max
    }

    fn write_slot(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError> {
        self.try_it()?;
        assert!(at + bytes.len() <= SLOT_BYTES, "a record ends inside its slot");
        assert!(slot.0 < self.slot_count_max, "the queue keeps to the slots there are");
        let before = self.slots.get(&slot.0);
        let content = self.open_slots.entry(slot.0).or_insert_with(|| {
            before.cloned().unwrap_or_else(|| vec![0; SLOT_BYTES].into_boxed_slice())
        });
        content[at..at + bytes.len()].copy_from_slice(bytes);
        self.written_bytes += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(())
    }

    fn read_slot(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError> {
        self.try_it()?;
        assert!(at + out.len() <= SLOT_BYTES, "a record ends inside its slot");
        match self.open_slots.get(&slot.0).or_else(|| self.slots.get(&slot.0)) {
            Some(content) => out.copy_from_slice(&content[at..at + out.len()]),
            None => out.fill(0),
        }
        Ok(())
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.try_it()?;
        self.open_rows.insert((table, key.to_vec()), Some(value.to_vec()));
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.try_it()?;
        self.open_rows.insert((table, key.to_vec()), None);
        Ok(())
    }

    fn scan(&mut self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.try_it()?;
        assert!(self.open_rows.is_empty(), "nothing scans in a transaction");
        for ((_, key), value) in self.rows.iter().filter(|((of, _), _)| *of == table) {
            row(key, value);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.try_it() {
            self.rollback();
            return Err(error);
        }
        self.slots.append(&mut self.open_slots);
        for (key, value) in core::mem::take(&mut self.open_rows) {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        Ok(())
    }

    fn rollback(&mut self) {
        self.open_rows.clear();
        self.open_slots.clear();
    }

    fn maintain(&mut self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        u64::try_from(self.slots.len() * SLOT_BYTES).unwrap_or(u64::MAX)
    }

    fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}
