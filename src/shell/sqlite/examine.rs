//! What opening the store will come to, before it is opened: `--check` and the start ask the same.
//! Changes nothing on the disk, takes no lock, reads nothing of a store that is in use.

use super::aside::{beside, corrupt_bytes};
use super::disk;
use super::look::{Look, boot, look, real_path};
use super::open::{OpenError, QUOTA_BYTES_DEFAULT, QUOTA_BYTES_MIN, refused};
use crate::config::Sync;
use crate::shell::holder::{self, Holder};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What the longest name beside the store's has more: a log that was put aside.
const NAME_BYTES_MORE: usize = ".corrupt-4294967295-other".len();

/// The longest path that SQLite opens, with what it and we put behind it.
const PATH_BYTES_MAX: usize = 512 - "-journal".len() - ".new".len();

/// What will become of the store, if nothing changes until then.
#[derive(Debug)]
pub enum Outlook {
    /// There is none; one is made.
    New,
    /// It is used as it is.
    Ours,
    /// It is put aside for this reason, and a new one is made.
    PutAside(&'static str),
    /// Another process has it open.
    InUse(Option<Holder>),
}

/// Why the store at `path` could not be used, or what becomes of it. As
/// [`SqliteStore::open`](super::SqliteStore::open) would decide with the same values.
pub fn examine(path: &Path, max_bytes: Option<u64>, sync: Sync) -> Result<Outlook, OpenError> {
    let path = &real_path(path);
    let directory = disk::directory(path);
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NoDirectory(directory.display().to_string()));
        }
        Err(error) => return Err(refused(error)),
        Ok(data) if !data.is_dir() => {
            return Err(OpenError::Io(format!("{} is no directory", directory.display())));
        }
        Ok(_) => {}
    }
    names_fit(path)?;
    let database = usable(path)?;
    let lock = usable_lock(&beside(path, ".lock"))?;
    if lock && let Some(holder) = holder::of_lock(&beside(path, ".lock")).map_err(refused)? {
        return Ok(Outlook::InUse(holder));
    }
    let log = usable(&beside(path, "-wal"))?;
    if !(database && lock && log) {
        disk::may_write(directory).map_err(refused)?;
    }
    if fs::symlink_metadata(beside(path, ".new")).is_ok_and(|data| data.is_dir()) {
        return Err(OpenError::Io("beside it, .new is a directory".to_owned()));
    }
    let boot = boot().map_err(refused)?;
    let outlook = match look(path, sync == Sync::Full, boot, false)? {
        Look::Absent => Outlook::New,
        Look::Ours | Look::Mended => Outlook::Ours,
        Look::Damaged(reason) => Outlook::PutAside(reason),
        Look::OtherLog => Outlook::PutAside("a write-ahead log of another database"),
    };
    match outlook {
        Outlook::New => has_room(path, max_bytes, QUOTA_BYTES_MIN, 0)?,
        // What was put aside before goes, and a new one is not refused for a little.
        Outlook::PutAside(_) => {
            disk::may_write(directory).map_err(refused)?;
            has_room(path, max_bytes, 0, corrupt_bytes(path))?;
        }
        Outlook::Ours | Outlook::InUse(_) => {}
    }
    Ok(outlook)
}

/// Names beside the store's are longer than its own.
fn names_fit(path: &Path) -> Result<(), OpenError> {
    let directory = disk::directory(path);
    let name = path.file_name().unwrap_or_default().as_bytes().len();
    let most = disk::name_bytes_max(directory).map_err(refused)?.saturating_sub(NAME_BYTES_MORE);
    if name > most {
        return Err(OpenError::TooLong { what: "the file's name", bytes: name, most });
    }
    let whole = fs::canonicalize(directory).map_err(refused)?.as_os_str().as_bytes().len();
    let (bytes, most) = (whole + 1 + name, PATH_BYTES_MAX);
    if bytes > most {
        return Err(OpenError::TooLong { what: "its whole path", bytes, most });
    }
    Ok(())
}

/// Is the file there, and can it be written? What is no file is refused before it is opened: a FIFO
/// would keep us for ever.
fn usable(path: &Path) -> Result<bool, OpenError> {
    match fs::metadata(path) {
        Ok(data) if !data.is_file() => return Err(OpenError::Foreign { what: "no regular file" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(refused(error)),
        Ok(_) => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).map(|_| true).map_err(refused)
}

/// The same for the lock, which may be read-only.
fn usable_lock(path: &Path) -> Result<bool, OpenError> {
    let found = usable(path);
    match found {
        Err(OpenError::ReadOnly | OpenError::Io(_)) if fs::File::open(path).is_ok() => Ok(true),
        found => found,
    }
}

/// As for a new store: its quota when nothing else is said is half of what is free.
fn has_room(path: &Path, max_bytes: Option<u64>, least: u64, back: u64) -> Result<(), OpenError> {
    let free = disk::free(disk::directory(path)).map_err(refused)?;
    if free.files == Some(0) {
        return Err(OpenError::Io("its file system has no file left (inodes)".to_owned()));
    }
    let bytes = free.bytes.saturating_add(back);
    match max_bytes {
        Some(quota) if quota < QUOTA_BYTES_MIN => Err(OpenError::NoRoom { bytes: quota }),
        Some(_) if bytes < least => Err(OpenError::NoSpace { free: bytes, needed: least }),
        Some(_) => Ok(()),
        None if QUOTA_BYTES_DEFAULT.min(bytes / 2) < QUOTA_BYTES_MIN => {
            let needed = 2 * QUOTA_BYTES_MIN;
            Err(OpenError::NoSpace { free: bytes, needed })
        }
        None => Ok(()),
    }
}
