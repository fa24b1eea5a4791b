//! A look at what lies at the store's path before SQLite gets it, which would change a foreign
//! file's log, apply a foreign log, and end a damaged one without a word.

use super::aside::beside;
use super::open::{APPLICATION_ID, FORMAT_VERSION, LOG_KEY, OpenError, random, refused};
use super::wal::{State, Wal};
use super::wreck::{KeyedRow, keyed_rows, keyed_rows_in};
use super::{EXTENT_BYTES, PAGE_BYTES};
use crate::queue::store::{SEAL_BYTES, Table};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8] = b"SQLite format 3\0";

/// Pages in which the number of the log has to be: the small tables were made first.
const FIRST_PAGES: u32 = 64;

/// No release will write a higher version: that is a flipped bit.
const FORMAT_VERSION_MAX: u32 = 255;

/// What to do with the file.
pub(super) enum Look {
    Absent,
    Ours,
    /// Ours; its head was lost and has been put back from its log.
    Mended,
    Damaged(&'static str),
    /// The database is ours, but not the log beside it.
    OtherLog,
}

/// The file that `path` means: SQLite follows links, and so do the files beside it.
pub(super) fn real_path(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    // The kernel follows no more either.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&real) else { break };
        real = match real.parent() {
            Some(parent) => parent.join(target),
            None => target,
        };
    }
    real
}

/// `synced`: every commit of the log was, before the next one. `mends`: what a power cut has left
/// is put right at once; without it nothing is changed.
pub(super) fn look(path: &Path, synced: bool, boot: u64, mends: bool) -> Result<Look, OpenError> {
    let wal = Wal::open(&beside(path, "-wal")).map_err(refused)?;
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let empty = wal.is_none_or(|wal| wal.state == State::Empty);
            return Ok(if empty { Look::Absent } else { Look::Damaged("the database is gone") });
        }
        Err(error) => return Err(refused(error)),
    };
    let data = file.metadata().map_err(refused)?;
    if !data.is_file() {
        return Err(OpenError::Foreign { what: "no regular file" });
    }
    let mut head = Vec::new();
    file.by_ref().take(100).read_to_end(&mut head).map_err(refused)?;
    let ours = head.len() == 100 && head.starts_with(MAGIC);
    if !ours && mend(path, wal.as_ref(), mends)? {
        return Ok(Look::Mended);
    }
    let begins = head.len() < 100 && head.starts_with(&MAGIC[..head.len().min(MAGIC.len())]);
    if begins && !head.is_empty() {
        return Ok(Look::Damaged("it ends in its head"));
    }
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Look::Damaged("its head is blank"));
    }
    if !ours || word(&head, 68) != APPLICATION_ID {
        let what = if ours { "another program's database" } else { "no database" };
        let extents = !ours && data.len().is_multiple_of(EXTENT_BYTES);
        return if extents || is_ours(path, u32::MAX)? {
            Ok(Look::Damaged("file is not a database"))
        } else {
            Err(OpenError::Foreign { what })
        };
    }
    match word(&head, 60) {
        version if version > FORMAT_VERSION_MAX => return Ok(Look::Damaged("its head is damaged")),
        version if version > FORMAT_VERSION => return Err(OpenError::Newer { version }),
        version if version < FORMAT_VERSION => return Ok(Look::Damaged("an unreleased layout")),
        _ => {}
    }
    let state = wal.as_ref().map_or(State::Empty, |wal| wal.state);
    match state {
        State::Empty => Ok(Look::Ours),
        State::Garbage => Ok(Look::Damaged("its write-ahead log is none")),
        State::Sound | State::Torn | State::Broken => {
            let look = own_log(path, state, synced, boot)?;
            if let (true, Look::Ours, State::Torn | State::Broken, Some(wal)) =
                (mends, &look, state, &wal)
            {
                wal.wipe_torn(&beside(path, "-wal")).map_err(refused)?;
            }
            Ok(look)
        }
    }
}

/// Every log begins with the number it has in its database's life.
fn own_log(path: &Path, state: State, synced: bool, boot: u64) -> Result<Look, OpenError> {
    let (database, log) = (log_number(path, false)?, log_number(path, true)?);
    // In the same boot nothing but damage breaks a log: what was written was written whole. A
    // power cut tears what was not synced, which is the last commit or, unsynced, any.
    let same_boot = [database, log].into_iter().flatten().any(|number| number.boot == boot);
    let damaged = match state {
        State::Torn => same_boot,
        State::Broken => same_boot || synced,
        State::Empty | State::Sound | State::Garbage => false,
    };
    if damaged {
        return Ok(Look::Damaged("its write-ahead log is damaged"));
    }
    let ours = match (database, log) {
        (Some(database), Some(log)) => log.follows(&database),
        // Of a torn log the frame that says whose it is may be missing.
        (Some(_), None) => state != State::Sound,
        // The page is damaged: SQLite will find out.
        (None, _) => true,
    };
    Ok(if ours { Look::Ours } else { Look::OtherLog })
}

/// What the database or the log has of [`LogNumber`].
pub(super) fn log_number(path: &Path, log: bool) -> Result<Option<LogNumber>, OpenError> {
    let mut number = None;
    keyed_rows(path, log, FIRST_PAGES, &mut |row| note_number(&row, &mut number))
        .map_err(refused)?;
    Ok(number)
}

/// What a database that is open has of it.
pub(super) fn log_number_in(database: Arc<File>) -> io::Result<Option<LogNumber>> {
    let mut number = None;
    keyed_rows_in(database, FIRST_PAGES, &mut |row| note_number(&row, &mut number))?;
    Ok(number)
}

fn note_number(row: &KeyedRow, number: &mut Option<LogNumber>) {
    if row.table == Table::Meta && row.key == LOG_KEY {
        *number = LogNumber::parse(&row.value[..row.value.len() - SEAL_BYTES]);
    }
}

/// Which log this is, in the row that every log begins with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogNumber {
    /// Identity of the store.
    pub(super) store: u64,
    /// Logs before this one.
    pub(super) log: u64,
    /// The system's boot in which it was begun.
    pub(super) boot: u64,
}

impl LogNumber {
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let numbers = value.as_chunks::<8>().0;
        let [store, log, boot] = <[[u8; 8]; 3]>::try_from(numbers).ok()?.map(u64::from_le_bytes);
        Some(Self { store, log, boot })
    }

    /// Is this the number of the log of a database that holds that one?
    pub(super) fn follows(&self, database: &Self) -> bool {
        // The next log begins when its predecessor is wholly in the database.
        let next = database.log.wrapping_add(1);
        self.store == database.store && (self.log == database.log || self.log == next)
    }

    /// The row's value.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.store, self.log, self.boot].map(u64::to_le_bytes).concat()
    }
}

/// The system's boot.
pub(super) fn boot() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    // One that is not known is none that was.
    u64::from_str_radix(&digits, 16).or_else(|_| random())
}

/// Is there a row that only we can have written?
fn is_ours(path: &Path, pages: u32) -> Result<bool, OpenError> {
    let mut found = false;
    keyed_rows(path, false, pages, &mut |_| found = true).map_err(refused)?;
    Ok(found)
}

/// Puts the first page back from the log, which has it when the file has grown since the last
/// checkpoint. It stays in the log, so a crash meanwhile changes nothing. The rest of the file has
/// to say that the log is its own.
fn mend(path: &Path, wal: Option<&Wal>, writes: bool) -> Result<bool, OpenError> {
    let mut page = [0; PAGE_BYTES];
    let Some(wal) = wal.filter(|wal| wal.state == State::Sound) else { return Ok(false) };
    let whole = wal.page(1, &mut page) && page.starts_with(MAGIC);
    let ours = word(&page, 68) == APPLICATION_ID && word(&page, 60) == FORMAT_VERSION;
    let (database, log) = (log_number(path, false)?, log_number(path, true)?);
    let its_own = database.zip(log).is_some_and(|(database, log)| log.follows(&database));
    if !whole || !ours || !its_own {
        return Ok(false);
    }
    if !writes {
        return Ok(true);
    }
    let file = fs::OpenOptions::new().write(true).open(path).map_err(refused)?;
    file.write_all_at(&page, 0).and_then(|()| file.sync_all()).map_err(refused)?;
    Ok(true)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    super::wal::word(bytes, at)
}
