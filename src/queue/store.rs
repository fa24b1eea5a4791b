//! What the queue needs of a disk: fixed-size slots written in place and small keyed rows, both
//! in one transaction. The SQLite store of the shell and the simulator's disk implement it.

/// A slot: `SLOT_BYTES` of record log that belongs to one destination at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

/// The keyed rows beside the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row a slot in use: owner, first sequence number, settled bits.
    Slot,
    /// One row a destination: packet identifiers in flight, received identifiers, next sequence.
    Destination,
    /// One row a persistent session: expiry, subscriptions.
    Session,
    /// One row a retained message, keyed by topic.
    Retained,
    /// Single values: format version, random part of client ids, boot marks.
    Meta,
}

/// Why the store could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The disk or the quota is full: try again when something was settled or freed.
    Full,
    /// An I/O error: try again later.
    Io,
    /// The file is damaged at this place.
    Corrupt,
}

/// A transactional store. The first write after a `commit` or `rollback` begins a transaction.
///
/// A failed write leaves the transaction open; the caller rolls back. After a failed `commit` the
/// store has rolled back by itself.
pub trait SpillStore {
    /// Slots the store may hold at most, from its byte quota.
    fn slot_count_max(&self) -> u32;

    /// Writes `bytes` at `at` of `slot`, creating the slot (zeroed) when it does not exist yet.
    /// `at + bytes.len() <= SLOT_BYTES`.
    fn write_slot(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError>;

    /// Reads `out.len()` bytes at `at` of `slot`; a part never written reads as zeros.
    fn read_slot(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError>;

    /// Inserts or replaces a row.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Deletes a row; one that is not there is no error.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;

    /// Calls `row(key, value)` for every row of `table`, in key order.
    fn scan(&mut self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;

    /// Makes everything since the last commit durable (as far as `store.sync` says).
    /// Without an open transaction it does nothing.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// Forgets everything since the last commit.
    fn rollback(&mut self);

    /// House-keeping between turns: a checkpoint when the WAL has reached its cap, or when `idle`.
    fn maintain(&mut self, idle: bool) -> Result<(), StoreError>;

    /// Bytes the store takes on disk now (database and WAL).
    fn bytes(&self) -> u64;

    /// Bytes handed to the file system for writing since start.
    fn written_bytes(&self) -> u64;
}
