//! Opening the store: the lock, whose file it is, its quota, a damaged file put aside, a new one
//! made whole before it gets its name. Nothing that is not ours is ever changed.

use super::aside::{aside, beside, corrupt_bytes, newest, put_aside};
use super::disk::{self, EXTENT_BYTES, Extents};
use super::lock::LockFile;
use super::look::{LogNumber, Look, boot, look, real_path};
use super::origin::Stand;
use super::presence::Presence;
use super::wreck::{Wreck, keyed_rows_of_all};
use super::{PAGE_BYTES, Quarantined, ROW_BYTES, SLOT_ROWS, SqliteStore, TABLES, fault, scan, sql};
use crate::config::Sync;
use crate::fit::{fit, wide};
use crate::queue::store::{Stock, StoreError, Table, seal, unseal};
use core::fmt;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// "Spil", in the head of every file of ours.
pub(super) const APPLICATION_ID: u32 = 0x5370_696c;

/// Version of the layout. 2: every row has a CRC, records carry their ordinal, slots the hash of
/// their owner's key, and the log its number. 1 was never released: it is put aside.
pub(super) const FORMAT_VERSION: u32 = 2;

/// Quota when the configuration gives none.
pub(super) const QUOTA_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// Smallest quota that holds a log, the small tables and a few slots.
pub const QUOTA_BYTES_MIN: u64 = 1024 * 1024;

/// The write-ahead log at its largest; a checkpoint is due a little before its middle, so that a
/// transaction of 512 KiB still fits.
const WAL_BYTES_MAX: u64 = 1024 * 1024;
const WAL_BYTES_MIN: u64 = 256 * 1024;

/// Page cache.
const CACHE_KIB: u32 = 256;

/// Statements kept prepared; there are fewer.
const STATEMENT_COUNT_MAX: usize = 32;

/// Bytes of the file that are kept from the slots for the keyed rows: an eighth, within these.
const ROWS_BYTES_MIN: u64 = 64 * 1024;
const ROWS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Row of `meta` with the quota that was chosen at first start.
const QUOTA_KEY: &[u8] = b"store.quota";

/// Row of `meta` that the first commit of every log writes: whose log it is, and which.
pub(super) const LOG_KEY: &[u8] = b"store.log";

/// Row of `meta` with the number of the file that was put aside and may have to be salvaged.
pub(super) const WRECK_KEY: &[u8] = b"store.wreck";

/// Row of `meta` with what that file had at its last clean stop, if that is known.
pub(super) const WRECK_STOCK_KEY: &[u8] = b"store.wreck_stock";

/// Rows of `meta` that are the store's own begin with this.
pub(super) const OWN_KEYS: &[u8] = b"store.";

/// Why the store cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Another process has it open.
    InUse,
    /// A newer release has written it.
    Newer { version: u32 },
    /// The file belongs to another program; it was not touched.
    Foreign { what: &'static str },
    /// The directory is not there.
    NoDirectory(String),
    /// The quota is less than the smallest store.
    NoRoom { bytes: u64 },
    /// What is free for it is less than the smallest store.
    NoSpace { free: u64, needed: u64 },
    /// SQLite, or the file system, takes no such name.
    TooLong { what: &'static str, bytes: usize, most: usize },
    /// It may be read, but not written.
    ReadOnly,
    /// The file system refuses.
    Io(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse => f.write_str("in use by another process"),
            OpenError::Newer { version } => {
                write!(f, "written by a newer release (format {version}, known {FORMAT_VERSION})")
            }
            OpenError::Foreign { what } => write!(f, "not a spill store but {what}; left alone"),
            OpenError::NoDirectory(path) => {
                write!(f, "the directory {path} does not exist: mkdir -p {path}")
            }
            OpenError::NoRoom { bytes } => {
                write!(f, "{bytes} bytes are too few, at least {QUOTA_BYTES_MIN} are needed")
            }
            OpenError::NoSpace { free, needed } => {
                write!(f, "{free} bytes are free on its file system, a new store needs {needed}")
            }
            OpenError::TooLong { what, bytes, most } => {
                write!(f, "{what} is {bytes} bytes long, at most {most} are possible")
            }
            OpenError::ReadOnly => f.write_str("the file or its file system is read-only"),
            OpenError::Io(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why an existing file of ours did not open.
pub(super) enum Fault {
    Damaged(String),
    Refused(OpenError),
}

impl SqliteStore {
    /// Opens the store at `path`, or makes it. `max_bytes` is the quota of database and
    /// write-ahead log together; `None` = the one chosen at first start. `heap_bytes` bounds
    /// SQLite's heap for the whole process (`HEAP_BYTES`; it can only be lowered); `None` = not.
    ///
    /// A file that is damaged is put aside (`quarantined`) and a new one made.
    pub fn open(
        path: &Path,
        max_bytes: Option<u64>,
        sync: Sync,
        heap_bytes: Option<u64>,
    ) -> Result<SqliteStore, OpenError> {
        Self::open_or_aside(path, max_bytes, sync, heap_bytes, None)
    }

    /// The same; `damaged` says why what is there is put aside though it may look good.
    pub fn open_or_aside(
        path: &Path,
        max_bytes: Option<u64>,
        sync: Sync,
        heap_bytes: Option<u64>,
        damaged: Option<&str>,
    ) -> Result<SqliteStore, OpenError> {
        let path = &real_path(path);
        let directory = disk::directory(path);
        if !directory.is_dir() {
            return Err(OpenError::NoDirectory(directory.display().to_string()));
        }
        let lock = LockFile::take(&beside(path, ".lock")).map_err(refused)?;
        let lock = lock.ok_or(OpenError::InUse)?;
        let stand = Stand::of(path);
        let origin = stand.judge(lock.record());
        if stand.has_cut_log(lock.record()) {
            // What is left of it would be taken for newer than the database.
            disk::empty(&beside(path, "-wal")).map_err(refused)?;
        }
        let boot = boot().map_err(refused)?;
        let looked = match look(path, sync == Sync::Full, boot, true) {
            // It was ours a moment ago.
            Err(OpenError::Foreign { .. } | OpenError::Newer { .. }) if damaged.is_some() => {
                Look::Damaged("it is no store any more")
            }
            looked => looked?,
        };
        let mended = matches!(looked, Look::Mended);
        let put = |reason: &str, own| put_aside(path, reason, own, true).map(Some).map_err(refused);
        let mut quarantined = match (looked, damaged) {
            (Look::OtherLog, _) => put("a write-ahead log of another database", false)?,
            (Look::Damaged(reason), _) => put(reason, true)?,
            (Look::Ours | Look::Mended, Some(reason)) => put(reason, true)?,
            (Look::Absent | Look::Ours | Look::Mended, _) => None,
        };
        let mut created = false;
        let mut salvages = false;
        // Twice at most: what is made new opens, or the file system refuses.
        loop {
            if !path.exists() {
                // One that was put aside just before a crash is not forgotten either.
                let wreck = quarantined.as_ref().map(|q| q.number).or_else(|| newest(path));
                let stock = quarantined.as_ref().and_then(|_| stand.stock(lock.record()));
                create(path, max_bytes, boot, wreck.map(|number| (number, stock)))?;
                (created, salvages) = (true, wreck.is_some());
            }
            let place = Place { path: path.clone(), max_bytes, sync, heap_bytes };
            match connect(&place) {
                Ok(parts) => {
                    let fresh = quarantined.is_some();
                    return match parts.store(Some(lock), place, boot, quarantined, mended) {
                        // Its lock is free again: once more, with the file put aside.
                        Err(Fault::Damaged(reason)) if !fresh => {
                            Self::open_or_aside(path, max_bytes, sync, heap_bytes, Some(&reason))
                        }
                        Err(Fault::Damaged(reason)) => Err(OpenError::Io(reason)),
                        Err(Fault::Refused(error)) => Err(error),
                        Ok(mut store) => {
                            if created {
                                store.tell_lock();
                            }
                            // What is salvaged is told of when that is done.
                            store.origin = origin.filter(|_| !salvages);
                            Ok(store)
                        }
                    };
                }
                Err(Fault::Damaged(reason)) if quarantined.is_none() => {
                    quarantined = put(&reason, true)?;
                }
                Err(Fault::Damaged(reason)) => return Err(OpenError::Io(reason)),
                Err(Fault::Refused(error)) => return Err(error),
            }
        }
    }
}

/// Where the store lies, and how it is opened.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The file itself, links followed.
    pub(super) path: PathBuf,
    pub(super) max_bytes: Option<u64>,
    pub(super) sync: Sync,
    pub(super) heap_bytes: Option<u64>,
}

/// An open and checked file.
pub(super) struct Parts {
    db: Connection,
    extents: Extents,
    wal_bytes: u64,
    slot_count_max: u32,
    log_number: LogNumber,
    wreck: Option<Wreck>,
    wreck_stock: Option<Stock>,
}

impl Parts {
    pub(super) fn store(
        self,
        lock: Option<LockFile>,
        place: Place,
        boot: u64,
        quarantined: Option<Quarantined>,
        mended: bool,
    ) -> Result<SqliteStore, Fault> {
        let wal_due = self.wal_bytes / 16 * 7;
        let mut store = SqliteStore {
            db: self.db,
            extents: self.extents,
            lock,
            image_row: None,
            image: Box::new([0; ROW_BYTES]),
            image_dirty: false,
            image_exists: false,
            slots_grow: false,
            in_transaction: false,
            slot_count_max: self.slot_count_max,
            wal_at: wal_due,
            wal_due,
            wal_end: 0,
            synced: place.sync == Sync::Full,
            place,
            presence: Presence::default(),
            written_bytes: 0,
            log_number: LogNumber { boot, ..self.log_number },
            wreck: self.wreck,
            wreck_stock: self.wreck_stock,
            origin: None,
            quarantined,
            mended,
        };
        store.frames_written();
        // Starts with an empty log. When the disk does not let it, the first write tries again.
        match store.checkpoint() {
            Err(StoreError::Corrupt) => {
                Err(Fault::Damaged("damage was found at the first checkpoint".into()))
            }
            Ok(()) | Err(_) => Ok(store),
        }
    }
}

/// Makes a new store under another name and renames it, so that a file of this name is whole. The
/// small rows of a wreck are in it from the beginning, but those that tell of its own life.
fn create(
    path: &Path,
    max_bytes: Option<u64>,
    boot: u64,
    wreck: Option<(u32, Option<Stock>)>,
) -> Result<(), OpenError> {
    let free = disk::free_bytes(disk::directory(path)).map_err(refused)?;
    let quota = max_bytes.unwrap_or_else(|| QUOTA_BYTES_DEFAULT.min(free / 2));
    if quota < QUOTA_BYTES_MIN {
        return Err(OpenError::NoRoom { bytes: quota });
    }
    let identity = random().map_err(refused)?;
    let new = beside(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        Ok(()) | Err(_) => {}
    }
    let fill = || -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&new, flags)?;
        db.pragma_update(None, "page_size", fit::<u32, _>(PAGE_BYTES, "bytes of a page"))?;
        db.pragma_update(None, "journal_mode", "off")?;
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        db.pragma_update(None, "user_version", FORMAT_VERSION)?;
        db.execute_batch(SCHEMA)?;
        // One transaction: row by row the wreck's would take a while.
        db.execute_batch("BEGIN")?;
        let meta = |key: &[u8], value: &[u8]| {
            let mut value = value.to_vec();
            seal(Table::Meta, key, &mut value);
            db.execute(sql(Table::Meta).put, (key, value)).map(drop)
        };
        meta(LOG_KEY, &LogNumber { store: identity, log: 0, boot }.bytes())?;
        if max_bytes.is_none() {
            meta(QUOTA_KEY, &quota.to_be_bytes())?;
        }
        if let Some((number, stock)) = wreck {
            meta(WRECK_KEY, &number.to_be_bytes())?;
            if let Some(Stock { messages, all_open }) = stock {
                let value = [&messages.to_be_bytes()[..], &[u8::from(all_open)]].concat();
                meta(WRECK_STOCK_KEY, &value)?;
            }
            take_rows(&db, &aside(path, number))?;
        }
        db.execute_batch("COMMIT")
    };
    fill().map_err(|error| refused_by_sqlite(&error))?;
    fs::rename(&new, path).map_err(refused)?;
    disk::sync_directory(disk::directory(path)).map_err(refused)
}

/// Sessions, retained messages and who we are: without them messages would have no way to go.
/// Identifiers of exchanges are left behind: what is not known for sure must not be used.
fn take_rows(db: &Connection, wreck: &Path) -> rusqlite::Result<()> {
    let mut done = Ok(());
    let read = keyed_rows_of_all(wreck, &mut |row| {
        let ours = row.key.starts_with(OWN_KEYS) || row.key.starts_with(b"salvage");
        let wanted = matches!(row.table, Table::Session | Table::Retained | Table::Meta);
        if wanted && !ours && done.is_ok() {
            done = db.execute(sql(row.table).put, (row.key, row.value)).map(drop);
        }
    });
    // A file that cannot be read has nothing to give.
    let _ = read;
    done
}

pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

const SCHEMA: &str = "
    CREATE TABLE log(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE slot(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE destination(key BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
    CREATE TABLE session(key BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
    CREATE TABLE retained(key BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
    CREATE TABLE meta(key BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
";

pub(super) fn connect(place: &Place) -> Result<Parts, Fault> {
    let path = &place.path;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(judge)?;
    prepare(&db, place.sync, place.heap_bytes).map_err(judge)?;
    if db.is_readonly("main").map_err(judge)? {
        return Err(Fault::Refused(OpenError::ReadOnly));
    }
    let quota_bytes = match place.max_bytes {
        Some(bytes) => bytes,
        None => stored_quota(&db).map_err(judge)?.unwrap_or(QUOTA_BYTES_DEFAULT),
    };
    if quota_bytes < QUOTA_BYTES_MIN {
        return Err(Fault::Refused(OpenError::NoRoom { bytes: quota_bytes }));
    }
    // The small tables are read at start anyway: a file damaged there is of no use.
    for table in TABLES {
        scan(&db, table, &mut |_, _| {}).map_err(judge)?;
    }
    db.query_row("SELECT max(id) FROM log", [], |_| Ok(())).map_err(judge)?;

    let wal_bytes = (quota_bytes / 4).clamp(WAL_BYTES_MIN, WAL_BYTES_MAX);
    db.pragma_update(None, "journal_size_limit", wal_bytes.cast_signed()).map_err(judge)?;
    let database_bytes = database_bytes_max(quota_bytes, wal_bytes, corrupt_bytes(path));
    let pages = database_bytes / wide(PAGE_BYTES);
    db.pragma_update(None, "max_page_count", pages.cast_signed()).map_err(judge)?;

    let refuse = |error: io::Error| Fault::Refused(refused(error));
    let mut extents =
        Extents::open(path, &beside(path, "-wal"), database_bytes, wal_bytes).map_err(refuse)?;
    keep_size(&db, &extents);
    // On a full disk: no room is no reason not to drain. A commit that grows asks again.
    let _ = extents.fill_wal();
    let slot_count_max = slot_count_max(database_bytes);
    let log_number = meta(&db, LOG_KEY).map_err(judge)?;
    let log_number = log_number.as_deref().and_then(LogNumber::parse).unwrap_or_default();
    let wreck = meta(&db, WRECK_KEY).map_err(judge)?.and_then(|n| n.try_into().ok());
    let wreck = wreck.map(|number| aside(path, u32::from_be_bytes(number)));
    let wreck = wreck.filter(|file| file.exists() || beside(file, "-wal").exists());
    let wreck = wreck.map(|file| Wreck::open(&file, &mut |_| {})).transpose().map_err(refuse)?;
    let wreck_stock = meta(&db, WRECK_STOCK_KEY).map_err(judge)?.filter(|_| wreck.is_some());
    let wreck_stock = wreck_stock.and_then(|row| {
        let (messages, rest) = row.split_first_chunk::<8>()?;
        Some(Stock { messages: u64::from_be_bytes(*messages), all_open: rest == [1] })
    });
    Ok(Parts { db, extents, wal_bytes, slot_count_max, log_number, wreck, wreck_stock })
}

/// Settings of the connection; the first read opens the log and recovers it.
fn prepare(db: &Connection, sync: Sync, heap_bytes: Option<u64>) -> rusqlite::Result<()> {
    db.set_prepared_statement_cache_capacity(STATEMENT_COUNT_MAX);
    // Closing would delete the log, and with it the room it has or what can still be salvaged.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Before the log is touched: no shared memory, its index on the heap.
    db.pragma_update(None, "locking_mode", "exclusive")?;
    db.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))?;
    db.pragma_update(None, "temp_store", "memory")?;
    // What was deleted must not be found when a damaged file is read page by page.
    db.pragma_update(None, "secure_delete", "on")?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    let word = match sync {
        Sync::Full => "full",
        Sync::Normal => "normal",
        Sync::Off => "off",
    };
    db.pragma_update(None, "synchronous", word)?;
    if let Some(bytes) = heap_bytes {
        let bytes = bytes.cast_signed();
        db.pragma_update(None, "hard_heap_limit", bytes)?;
    }
    Ok(())
}

/// A checkpoint cuts the file behind its last page, rounded up to a multiple of this: it keeps what
/// is reserved.
pub(super) fn keep_size(db: &Connection, extents: &Extents) {
    let Some(bytes) = extents.reserved() else { return };
    let extent = fit(EXTENT_BYTES, "bytes of an extent");
    let mut bytes = match i32::try_from(bytes) {
        Ok(bytes) => bytes,
        // More than the call can say: it is kept extent by extent.
        Err(_) => extent,
    };
    let pointer = (&raw mut bytes).cast();
    // SAFETY: the handle is open, the operation takes a pointer to an int and keeps none.
    unsafe {
        ffi::sqlite3_file_control(
            db.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_CHUNK_SIZE,
            pointer,
        );
    }
}

fn stored_quota(db: &Connection) -> rusqlite::Result<Option<u64>> {
    let quota = meta(db, QUOTA_KEY)?.and_then(|value| value.try_into().ok());
    Ok(quota.map(u64::from_be_bytes))
}

/// A row of the store's own, if it is there and whole.
fn meta(db: &Connection, wanted: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut found = None;
    scan(db, Table::Meta, &mut |key, row| {
        if key == wanted {
            found = unseal(Table::Meta, key, row).map(<[u8]>::to_vec);
        }
    })?;
    Ok(found)
}

/// Whole extents that are left for the database; a quarter of the quota even beside a large file
/// that was put aside.
fn database_bytes_max(quota_bytes: u64, wal_bytes: u64, corrupt_bytes: u64) -> u64 {
    let left = quota_bytes.saturating_sub(wal_bytes).saturating_sub(corrupt_bytes);
    left.max(quota_bytes / 4) / EXTENT_BYTES * EXTENT_BYTES
}

/// Slots that fit beside the keyed rows: a page a row, a hundredth for the tree above them and
/// 128 bytes for the slot's own row.
fn slot_count_max(database_bytes: u64) -> u32 {
    let rows = (database_bytes / 8).clamp(ROWS_BYTES_MIN, ROWS_BYTES_MAX);
    let slot = wide(SLOT_ROWS * PAGE_BYTES) * 101 / 100 + 128;
    fit(database_bytes.saturating_sub(rows) / slot, "slots")
}

fn judge(error: rusqlite::Error) -> Fault {
    let text = error.to_string();
    let refused = refused_by_sqlite(&error);
    match fault(error) {
        StoreError::Corrupt => Fault::Damaged(text),
        _ => Fault::Refused(refused),
    }
}

pub(super) fn refused(error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly,
        _ => OpenError::Io(error.to_string()),
    }
}

fn refused_by_sqlite(error: &rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ReadOnly) => OpenError::ReadOnly,
        _ => OpenError::Io(error.to_string()),
    }
}
