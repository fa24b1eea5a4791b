//! What the queue needs of a disk: fixed-size slots written in place and small keyed rows, both
//! in one transaction. The SQLite store of the shell and the simulator's disk implement it.

use crate::fit::wide;
use crate::note::Note;

/// A slot: `SLOT_BYTES` of record log that belongs to one destination at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

/// The keyed rows beside the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row a slot in use: owner, first sequence number, settled bits.
    Slot,
    /// One row a destination: packet identifiers in flight and received.
    Destination,
    /// One row a persistent session: expiry, subscriptions.
    Session,
    /// One row a retained message, keyed by topic.
    Retained,
    /// Single values: format version, random part of client ids, boot marks.
    Meta,
}

impl Table {
    /// What stands for the table in a row's CRC.
    fn tag(self) -> u8 {
        match self {
            Self::Slot => 1,
            Self::Destination => 2,
            Self::Session => 3,
            Self::Retained => 4,
            Self::Meta => 5,
        }
    }
}

/// Bytes of the CRC at the end of a row.
pub const SEAL_BYTES: usize = 4;

/// The CRC of a row covers its table and its key: a row is never taken for another, wherever it
/// is found.
fn row_crc(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    let length = wide(key.len());
    crc.update(&[table.tag()]);
    crc.update(&length.to_le_bytes());
    crc.update(key);
    crc.update(value);
    crc.finalize()
}

/// Puts the CRC behind a row's value.
pub fn seal(table: Table, key: &[u8], value: &mut Vec<u8>) {
    let crc = row_crc(table, key, value);
    value.extend_from_slice(&crc.to_le_bytes());
}

/// A row's value without its CRC; `None` when it is damaged.
pub fn unseal<'a>(table: Table, key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = row.split_last_chunk::<SEAL_BYTES>()?;
    (row_crc(table, key, value) == u32::from_le_bytes(*crc)).then_some(value)
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
    /// The file, or its log, is not at its path any more.
    Gone,
    /// Another file is there.
    Replaced,
}

impl StoreError {
    /// The key that says where the store lies, or how large it may be.
    pub fn key(self) -> &'static str {
        match self {
            Self::Full => "store.max_bytes",
            Self::Io | Self::Corrupt | Self::Gone | Self::Replaced => "store.path",
        }
    }

    /// The reason as the log has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "disk_full",
            Self::Io => "io_error",
            Self::Corrupt => "corrupt",
            Self::Gone => "store_gone",
            Self::Replaced => "store_replaced",
        }
    }
}

/// Why a store is not what was at its path last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The reason as the log has it: `older_store`, `other_store`, `store_gone`.
    pub reason: &'static str,
    /// Messages that are gone with what was there; `None`: that cannot be told.
    pub lost: Option<u64>,
}

/// What is in a store at the end of a clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    pub messages: u64,
    /// No other was ever in it: what is found there is one of them.
    pub all_open: bool,
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

    /// Has the slot been written so far that its first `bytes` need no new room on the disk?
    fn covers(&mut self, slot: SlotId, bytes: usize) -> bool {
        let _ = (slot, bytes);
        true
    }

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

    /// Looks whether what is written to is what lies at the store's path. `Ok(false)`: it is on its
    /// way back there, a piece a call. While it is not there nothing can be written. `Corrupt`:
    /// somebody else has changed it.
    fn look(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// What the log has to tell of a `look`.
    fn poll_note(&mut self) -> Option<Note> {
        None
    }

    /// Bytes the store takes on disk now (database and WAL).
    fn bytes(&self) -> u64;

    /// Bytes handed to the file system for writing since start.
    fn written_bytes(&self) -> u64;

    /// Is it another than was there last, or an older copy? What it says of its peers' sessions is
    /// not true any more then.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// The end of a clean stop, with what is in it, if that is known.
    fn close(&mut self, stock: Option<Stock>) {
        let _ = stock;
    }

    /// Slots of a damaged store that was put aside and has not been wholly salvaged; 0 = there is
    /// none.
    fn wreck_slots(&self) -> u32 {
        0
    }

    /// Can nothing be missing in the wreck but what its slots' rows tell of? A file that was cut,
    /// or a page that is blank, may have had any number of messages.
    fn is_wreck_whole(&self) -> bool {
        true
    }

    /// What was in the wreck at its last clean stop, if it had only damage since.
    fn wreck_stock(&self) -> Option<Stock> {
        None
    }

    /// The row of a slot of the wreck, with its CRC. `None`: it has none, or it is damaged.
    fn wreck_row(&mut self, slot: SlotId) -> Option<Vec<u8>> {
        let _ = slot;
        None
    }

    /// Reads a whole slot of the wreck; what cannot be read is zero. `false`: nothing of it can.
    fn wreck_slot(&mut self, slot: SlotId, out: &mut [u8]) -> bool {
        let _ = (slot, out);
        false
    }

    /// Everything in the wreck that can be rescued is committed; this is a write like others.
    /// `whole`: nothing is missing, the file is of no more use.
    fn wreck_done(&mut self, whole: bool) -> Result<(), StoreError> {
        let _ = whole;
        Ok(())
    }
}
