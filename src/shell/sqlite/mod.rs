//! The spill store over SQLite: the only SQL of the program, one connection, one file, WAL.
//!
//! Promises: what `commit` returned for is durable as far as `store.sync` says; a write that
//! fails changes nothing once rolled back, and the store stays usable; the write-ahead log and
//! the blocks a checkpoint needs are taken from the file system *before* a commit, so that
//! settling and draining go on when the disk is full. Never decides what is kept or dropped,
//! never reads a clock, never logs.
//!
//! Layout: a slot is `SLOT_ROWS` consecutive rows of `log`, each of which fills one leaf page and
//! is created when first touched; a row is always rewritten with its own length, which SQLite
//! does in place. Pages are 1 KiB: a commit writes whole pages twice (log and checkpoint) and the
//! last page of a commit is written again by the next one, so small pages waste least.
//! Read <https://www.sqlite.org/wal.html> first; `open` makes the file, `aside` puts
//! a damaged one away, `presence` notices when it is taken away, `disk` asks the kernel.

mod aside;
mod disk;
mod examine;
mod lock;
mod look;
mod open;
mod origin;
mod presence;
mod wal;
mod wreck;

pub use examine::{Outlook, examine};
pub use open::OpenError;

use crate::fit::{fit, wide};
use crate::note::Note;
use crate::queue::SLOT_BYTES;
use crate::queue::store::{Origin, SlotId, SpillStore, Stock, StoreError, Table, seal};
use disk::{BLOCK_BYTES, EXTENT_BYTES, Extents, block_span};
use lock::LockFile;
use look::LogNumber;
use open::{LOG_KEY, OWN_KEYS, Place, WRECK_KEY, WRECK_STOCK_KEY, keep_size};
use presence::Presence;
use rusqlite::{Connection, ErrorCode, OptionalExtension, ffi};
use wreck::Wreck;

/// Bytes of a database page.
const PAGE_BYTES: usize = 1024;

/// Bytes of slot data in one row: the row has to fill a page alone, and SQLite keeps at most
/// `PAGE_BYTES - 35` of a row in its leaf, 4 of them the row's own head.
const ROW_BYTES: usize = SLOT_BYTES.div_ceil(SLOT_ROWS);

/// Rows of a slot.
const SLOT_ROWS: usize = SLOT_BYTES.div_ceil(PAGE_BYTES - 39);

// Two rows in one page, or a row over two pages, would be written more than once a commit.
const _: () = assert!(ROW_BYTES <= PAGE_BYTES - 39 && ROW_BYTES > PAGE_BYTES / 2);

/// Bytes of a frame of the write-ahead log: a page and its head.
const FRAME_BYTES: u64 = 1024 + 24;

const WAL_HEAD_BYTES: u64 = 32;

/// Bytes of SQLite's own heap the shell should allow one store: page cache, index of the
/// write-ahead log, statements. At the bound SQLite answers with an error (`StoreError::Io`).
pub const HEAP_BYTES: u64 = 1024 * 1024;

/// A file that was put aside at start because it could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its new path.
    pub file: String,
    /// What was wrong, in SQLite's words or ours.
    pub reason: String,
    /// The number in its name.
    pub number: u32,
}

/// See the head of this file.
pub struct SqliteStore {
    // Dropped before `extents`: closing another descriptor of the file drops SQLite's locks.
    db: Connection,
    extents: Extents,
    /// `None` only while it is being taken anew.
    lock: Option<LockFile>,
    place: Place,
    presence: Presence,
    /// Row of `log` whose bytes `image` holds.
    image_row: Option<i64>,
    image: Box<[u8; ROW_BYTES]>,
    /// Invariant: dirty only in a transaction.
    image_dirty: bool,
    image_exists: bool,
    /// The transaction adds rows of slots.
    slots_grow: bool,
    in_transaction: bool,
    slot_count_max: u32,
    /// Bytes of the write-ahead log in front of the next frame; 0 = the next commit starts over.
    wal_at: u64,
    /// At this position of the write-ahead log a checkpoint is due.
    wal_due: u64,
    /// The log is at least so long since its last commit; 0 = all of it is in the database.
    wal_end: u64,
    /// Every commit is synced.
    synced: bool,
    written_bytes: u64,
    /// Identity of the store, and the number of its log.
    log_number: LogNumber,
    /// A store that was put aside and is being salvaged.
    wreck: Option<Wreck>,
    wreck_stock: Option<Stock>,
    /// Why it is not what was here last; until its first commit, with which it is.
    origin: Option<Origin>,
    /// The head of the file was lost and put back from its log.
    pub mended: bool,
    /// The file that was found damaged at start, if there was one.
    pub quarantined: Option<Quarantined>,
}

impl SpillStore for SqliteStore {
    fn slot_count_max(&self) -> u32 {
        self.slot_count_max
    }

    fn write_slot(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let done = self.write_slot_now(slot, at, bytes);
        self.judged(done)
    }

    fn read_slot(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let done = self.read_slot_now(slot, at, out);
        self.judged(done)
    }

    fn covers(&mut self, slot: SlotId, bytes: usize) -> bool {
        // Rows are made one after the other, up to the last that was needed.
        let row = row_id(slot, bytes.saturating_sub(1) / ROW_BYTES);
        let found = self.db.prepare_cached(HAS_ROW).and_then(|mut it| it.exists([row]));
        found.unwrap_or(false)
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let done = self.put_now(table, key, value);
        self.judged(done)
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let done = self.delete_now(table, key);
        self.judged(done)
    }

    fn scan(&mut self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let done = self.scan_now(table, row);
        self.judged(done)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let done = self.commit_now();
        self.judged(done)
    }

    fn rollback(&mut self) {
        if !self.in_transaction {
            return;
        }
        self.image_row = None;
        self.image_dirty = false;
        // Some errors make SQLite roll back by itself.
        if !self.db.is_autocommit() {
            // A rollback cannot fail for good: if the file is broken, the next write says so.
            let _ = self.execute("ROLLBACK");
        }
        self.in_transaction = false;
        // What the page cache has spilled was written, but the log's end has not moved.
        self.written_bytes += self.frames_written() * FRAME_BYTES;
    }

    fn maintain(&mut self, idle: bool) -> Result<(), StoreError> {
        let done = self.maintain_now(idle);
        self.judged(done)
    }

    fn look(&mut self) -> Result<bool, StoreError> {
        self.look_now()
    }

    fn poll_note(&mut self) -> Option<Note> {
        self.next_note()
    }

    fn bytes(&self) -> u64 {
        self.extents.bytes()
    }

    fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    fn origin(&self) -> Option<Origin> {
        self.origin
    }

    fn close(&mut self, stock: Option<Stock>) {
        self.tell_last(stock);
    }

    fn wreck_slots(&self) -> u32 {
        self.wreck.as_ref().map_or(0, Wreck::slot_count)
    }

    fn is_wreck_whole(&self) -> bool {
        self.wreck.as_ref().is_some_and(Wreck::is_whole)
    }

    fn wreck_stock(&self) -> Option<Stock> {
        self.wreck_stock
    }

    fn wreck_row(&mut self, slot: SlotId) -> Option<Vec<u8>> {
        self.wreck.as_ref()?.row(slot)
    }

    fn wreck_slot(&mut self, slot: SlotId, out: &mut [u8]) -> bool {
        self.wreck.as_ref().is_some_and(|wreck| wreck.slot(slot, out))
    }

    fn wreck_done(&mut self, whole: bool) -> Result<(), StoreError> {
        self.delete(Table::Meta, WRECK_KEY)?;
        self.delete(Table::Meta, WRECK_STOCK_KEY)?;
        if let Some(wreck) = self.wreck.take().filter(|_| whole) {
            aside::remove(wreck.path());
        }
        Ok(())
    }
}

impl SqliteStore {
    /// SQLite calls it corruption when the system cannot read a page. If it can read none, that is
    /// no damage of the file and may pass.
    fn judged<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        match done {
            Err(StoreError::Corrupt) if !self.presence.spoilt && !self.extents.is_readable() => {
                Err(StoreError::Io)
            }
            done => done,
        }
    }

    /// Reads the whole file: is nothing found damaged now? A page that could not be read a moment
    /// ago, which SQLite calls damage as well, may be readable again.
    pub fn is_sound(&mut self) -> bool {
        if self.presence.spoilt {
            return false;
        }
        self.rollback();
        let found = self.db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        found.is_ok_and(|word| word == "ok")
    }

    fn write_slot_now(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError> {
        assert!(at + bytes.len() <= SLOT_BYTES, "a record ends inside its slot");
        self.begin()?;
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (part, from) = (at / ROW_BYTES, at % ROW_BYTES);
            let count = rest.len().min(ROW_BYTES - from);
            self.load_image(slot, part)?;
            let (head, tail) = rest.split_at(count);
            self.image[from..from + count].copy_from_slice(head);
            self.image_dirty = true;
            (at, rest) = (at + count, tail);
        }
        Ok(())
    }

    fn read_slot_now(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError> {
        assert!(at + out.len() <= SLOT_BYTES, "a record ends inside its slot");
        let mut statement = self.db.prepare_cached(READ_ROW).map_err(fault)?;
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            let (part, from) = (at / ROW_BYTES, at % ROW_BYTES);
            let count = rest.len().min(ROW_BYTES - from);
            let (head, tail) = rest.split_at_mut(count);
            let row = row_id(slot, part);
            if self.image_row == Some(row) {
                head.copy_from_slice(&self.image[from..from + count]);
            } else {
                let copy = |row: &rusqlite::Row<'_>| copy_part(row, from, head);
                match statement.query_row([row], copy).optional().map_err(fault)? {
                    Some(true) => {}
                    Some(false) => return Err(StoreError::Corrupt),
                    None => head.fill(0),
                }
            }
            (at, rest) = (at + count, tail);
        }
        Ok(())
    }

    fn put_now(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.begin()?;
        let mut statement = self.db.prepare_cached(sql(table).put).map_err(fault)?;
        let done = match slot_key(table, key) {
            Some(id) => statement.execute((id, value)),
            None => statement.execute((key, value)),
        };
        done.map(drop).map_err(fault)
    }

    fn delete_now(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.begin()?;
        let mut statement = self.db.prepare_cached(sql(table).delete).map_err(fault)?;
        let done = match slot_key(table, key) {
            Some(id) => statement.execute([id]),
            None => statement.execute([key]),
        };
        done.map(drop).map_err(fault)
    }

    fn scan_now(
        &mut self,
        table: Table,
        row: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        let own = |key: &[u8]| table == Table::Meta && key.starts_with(OWN_KEYS);
        let mut others = |key: &[u8], value: &[u8]| {
            if !own(key) {
                row(key, value);
            }
        };
        scan(&self.db, table, &mut others).map_err(fault)
    }

    fn commit_now(&mut self) -> Result<(), StoreError> {
        if !self.in_transaction {
            return Ok(());
        }
        let done = self.try_commit();
        if done.is_err() {
            self.rollback();
        }
        done
    }

    fn maintain_now(&mut self, idle: bool) -> Result<(), StoreError> {
        // A page is rewritten by many small commits and checkpointed once: an idle turn that
        // checkpointed every commit would double what is written to flash.
        let due = if idle { self.wal_due / 2 } else { self.wal_due };
        let rests = self.in_transaction || self.presence.away.is_some();
        if rests || self.wal_at < due { Ok(()) } else { self.checkpoint() }
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        if self.in_transaction {
            return Ok(());
        }
        if let Some(reason) = self.presence.away {
            return Err(reason);
        }
        // The log has to have room for a whole transaction before it reaches its cap.
        if self.wal_at >= self.wal_due {
            self.checkpoint()?;
        }
        if self.wal_at == 0 {
            self.not_as_at_the_stop();
        }
        self.execute("BEGIN").map_err(fault)?;
        self.in_transaction = true;
        self.slots_grow = false;
        if self.wal_at == 0 {
            // A log that does not say so is not applied at the next start.
            let log = self.log_number.log.wrapping_add(1);
            let mut value = LogNumber { log, ..self.log_number }.bytes();
            seal(Table::Meta, LOG_KEY, &mut value);
            self.put_now(Table::Meta, LOG_KEY, &value)?;
        }
        Ok(())
    }

    fn try_commit(&mut self) -> Result<(), StoreError> {
        self.flush_image()?;
        let pages: u64 = self.number("PRAGMA page_count").map_err(fault)?;
        if self.extents.reserve(pages, self.slots_grow)? {
            keep_size(&self.db, &self.extents);
            self.mark_written();
        }
        if let Err(error) = self.execute("COMMIT") {
            // All of it may be in the log. It must not be found behind what is written over its
            // beginning: the log starts over first.
            self.wal_at = self.wal_at.max(self.wal_due);
            return Err(fault(error));
        }
        self.in_transaction = false;
        let bytes = self.frames_written() * FRAME_BYTES;
        if self.wal_at == 0 {
            self.log_number.log = self.log_number.log.wrapping_add(1);
            self.origin = None;
            self.tell_lock();
        }
        if bytes > 0 {
            let from = self.wal_at;
            self.wal_at = from.max(WAL_HEAD_BYTES) + bytes;
            // The block in which the last commit ended is written again if it was synced.
            let again = if self.synced { from } else { from.next_multiple_of(BLOCK_BYTES) };
            self.written_bytes += block_span(again, self.wal_at);
            self.extents.wal_reached(self.wal_at);
            // Pages that the cache had to write early count twice, and are there once.
            let length = self.extents.wal_data().map_or(0, |data| data.len());
            self.wal_end = self.wal_at.min(length);
        }
        Ok(())
    }

    /// Copies what the log holds into the database; the next commit then starts the log over.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        // It would be as long as before again, with nothing in what is missing.
        if self.is_cut() {
            return Err(StoreError::Corrupt);
        }
        let before = disk::thread_written_bytes();
        let run = |db: &Connection| {
            db.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
                .query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        };
        let done = run(&self.db).map_err(fault);
        self.written_bytes += match (before, disk::thread_written_bytes()) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            // At most every frame is a page of its own.
            _ => self.wal_at,
        };
        self.mark_written();
        let (frames, copied) = done?;
        self.extents.refresh();
        if frames != copied {
            return Err(StoreError::Io);
        }
        (self.wal_at, self.wal_end) = (0, 0);
        Ok(())
    }

    fn load_image(&mut self, slot: SlotId, part: usize) -> Result<(), StoreError> {
        let row = row_id(slot, part);
        if self.image_row == Some(row) {
            return Ok(());
        }
        self.flush_image()?;
        self.image_row = None;
        let mut statement = self.db.prepare_cached(READ_ROW).map_err(fault)?;
        let image = &mut self.image[..];
        let found = statement.query_row([row], |row| copy_part(row, 0, image)).optional();
        self.image_exists = match found.map_err(fault)? {
            Some(true) => true,
            Some(false) => return Err(StoreError::Corrupt),
            None if slot.0 >= self.slot_count_max => return Err(StoreError::Full),
            None => false,
        };
        if !self.image_exists {
            self.image.fill(0);
        }
        self.image_row = Some(row);
        Ok(())
    }

    fn flush_image(&mut self) -> Result<(), StoreError> {
        let (Some(row), true) = (self.image_row, self.image_dirty) else { return Ok(()) };
        let sql = if self.image_exists { UPDATE_ROW } else { INSERT_ROW };
        let mut statement = self.db.prepare_cached(sql).map_err(fault)?;
        statement.execute((row, &self.image[..])).map_err(fault)?;
        self.slots_grow |= !self.image_exists;
        self.image_dirty = false;
        self.image_exists = true;
        Ok(())
    }

    /// Frames written to the log since the last call.
    fn frames_written(&self) -> u64 {
        let (mut now, mut highest) = (0, 0);
        let operation = ffi::SQLITE_DBSTATUS_CACHE_WRITE;
        // SAFETY: the handle is open as long as `self.db` lives, the two pointers are to locals.
        unsafe {
            ffi::sqlite3_db_status(self.db.handle(), operation, &mut now, &mut highest, 1);
        }
        fit(now.max(0), "pages")
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn number(&self, sql: &str) -> rusqlite::Result<u64> {
        self.db.prepare_cached(sql)?.query_row([], |row| row.get(0))
    }
}

const READ_ROW: &str = "SELECT data FROM log WHERE id = ?1";
const HAS_ROW: &str = "SELECT 1 FROM log WHERE id = ?1";
const UPDATE_ROW: &str = "UPDATE log SET data = ?2 WHERE id = ?1";
const INSERT_ROW: &str = "INSERT INTO log(id, data) VALUES(?1, ?2)";

/// Statements of a keyed table.
struct Sql {
    put: &'static str,
    delete: &'static str,
    scan: &'static str,
}

/// The name of the key column is the only difference between `slot` and the others.
macro_rules! sql {
    ($table:literal, $key:literal) => {
        Sql {
            put: concat!(
                "INSERT INTO ",
                $table,
                "(",
                $key,
                ", data) VALUES(?1, ?2) ",
                "ON CONFLICT(",
                $key,
                ") DO UPDATE SET data = excluded.data"
            ),
            delete: concat!("DELETE FROM ", $table, " WHERE ", $key, " = ?1"),
            scan: concat!("SELECT ", $key, ", data FROM ", $table, " ORDER BY ", $key),
        }
    };
}

const fn sql(table: Table) -> Sql {
    match table {
        Table::Slot => sql!("slot", "id"),
        Table::Destination => sql!("destination", "key"),
        Table::Session => sql!("session", "key"),
        Table::Retained => sql!("retained", "key"),
        Table::Meta => sql!("meta", "key"),
    }
}

/// Every keyed table, for the checks at start.
const TABLES: [Table; 5] =
    [Table::Slot, Table::Destination, Table::Session, Table::Retained, Table::Meta];

fn scan(db: &Connection, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(sql(table).scan)?;
    let mut rows = statement.query([])?;
    while let Some(found) = rows.next()? {
        let value = found.get_ref(1)?.as_blob()?;
        match table {
            Table::Slot => row(&found.get::<_, u32>(0)?.to_be_bytes(), value),
            Table::Destination | Table::Session | Table::Retained | Table::Meta => {
                row(found.get_ref(0)?.as_blob()?, value);
            }
        }
    }
    Ok(())
}

/// The key of a slot's row is its number; other keys are bytes.
fn slot_key(table: Table, key: &[u8]) -> Option<u32> {
    let slot = matches!(table, Table::Slot);
    let number = <[u8; 4]>::try_from(key).map(u32::from_be_bytes).ok();
    assert!(!slot || number.is_some(), "a slot's key has four bytes");
    number.filter(|_| slot)
}

/// Row of `log` that holds part `part` of `slot`.
fn row_id(slot: SlotId, part: usize) -> i64 {
    let id = u64::from(slot.0) * wide(SLOT_ROWS) + wide(part);
    // 2^32 slots of 33 rows stay far below 2^63.
    i64::try_from(id).expect("row numbers fit")
}

/// False: the row has not the length of a part.
fn copy_part(row: &rusqlite::Row<'_>, from: usize, out: &mut [u8]) -> rusqlite::Result<bool> {
    let data = row.get_ref(0)?.as_blob()?;
    let whole = data.len() == ROW_BYTES;
    if whole {
        out.copy_from_slice(&data[from..from + out.len()]);
    }
    Ok(whole)
}

fn fault(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt,
        Some(_) => StoreError::Io,
        // A column of another type than was written.
        None => StoreError::Corrupt,
    }
}
