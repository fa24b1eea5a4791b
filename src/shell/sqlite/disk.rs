//! What the store asks of the file system beside SQLite: room before it is needed, the free
//! space, the lock, what was really written. No SQL.

use super::PAGE_BYTES;
use crate::fit::{capped, wide};
use crate::queue::store::StoreError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The database file grows by this many bytes at a time and never shrinks.
pub(super) const EXTENT_BYTES: u64 = 256 * 1024;

/// What the database has beyond its last page when slots are added to it: on a full disk the rows
/// beside them may still have to grow before anything can be drained.
const SPARE_BYTES: u64 = 64 * 1024;

/// What stays free for others where room cannot be reserved; the rows may take half of it.
const HEADROOM_BYTES: u64 = 2 * EXTENT_BYTES;

/// What the kernel writes at least.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Room taken from the file system for the database and its write-ahead log.
///
/// A checkpoint that has to grow the database on a full disk would fail, and with it everything
/// behind it: so blocks are reserved before the commit that needs them.
pub(super) struct Extents {
    /// Never opened once more while the store is open: closing that would drop SQLite's locks.
    database: Arc<File>,
    directory: PathBuf,
    database_bytes: u64,
    /// What the database file was not shorter than when it was last looked at or made longer.
    length: u64,
    /// The database's part of the quota.
    database_bytes_max: u64,
    wal: File,
    wal_bytes: u64,
    wal_bytes_wanted: u64,
    reservable: bool,
}

impl Extents {
    pub(super) fn open(
        path: &Path,
        wal_path: &Path,
        database_bytes_max: u64,
        wal_bytes: u64,
    ) -> io::Result<Extents> {
        let file = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (database, wal) = (Arc::new(file(path)?), file(wal_path)?);
        let mut extents = Extents {
            database_bytes: 0,
            length: 0,
            database_bytes_max,
            wal_bytes: 0,
            wal_bytes_wanted: wal_bytes,
            reservable: true,
            directory: directory(path).to_path_buf(),
            database,
            wal,
        };
        // What is there already is reserved again: in a file that was copied it is not. On a full
        // disk that fails, and the store may still be drained.
        let size = extents.database.metadata()?.len().next_multiple_of(EXTENT_BYTES);
        extents.reservable = reserve(&extents.database, 0, size).unwrap_or(true);
        extents.refresh();
        Ok(extents)
    }

    /// What the database file shall not be cut below, if the file system can reserve blocks.
    pub(super) fn reserved(&self) -> Option<u64> {
        self.reservable.then_some(self.database_bytes)
    }

    /// In place of a store that is closed.
    pub(super) fn none() -> io::Result<Extents> {
        let nothing = || File::open("/dev/null");
        Ok(Extents {
            database: Arc::new(nothing()?),
            directory: PathBuf::new(),
            database_bytes: 0,
            length: 0,
            database_bytes_max: 0,
            wal: nothing()?,
            wal_bytes: 0,
            wal_bytes_wanted: 0,
            reservable: false,
        })
    }

    pub(super) fn database(&self) -> Arc<File> {
        Arc::clone(&self.database)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn database_data(&self) -> io::Result<fs::Metadata> {
        self.database.metadata()
    }

    pub(super) fn wal_data(&self) -> io::Result<fs::Metadata> {
        self.wal.metadata()
    }

    /// Fills `out` from the database file at `at`.
    pub(super) fn read_database(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.database.read_exact_at(out, at)
    }

    /// Can the system read the file at all?
    pub(super) fn is_readable(&self) -> bool {
        self.database.read_exact_at(&mut [0; 100], 0).is_ok()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.database_bytes + self.wal_bytes
    }

    /// Reads the sizes again: where nothing was reserved, a checkpoint cuts the database.
    pub(super) fn refresh(&mut self) {
        if let Ok(data) = self.database.metadata() {
            self.database_bytes = data.len();
            self.length = data.len();
        }
        if let Ok(data) = self.wal.metadata() {
            self.wal_bytes = data.len();
        }
    }

    pub(super) fn wal_reached(&mut self, bytes: u64) {
        self.wal_bytes = self.wal_bytes.max(bytes);
    }

    /// Makes sure that a database of `pages` pages and its log have their blocks. `spare`: slots
    /// were added to it. Says whether it has more than before.
    pub(super) fn reserve(&mut self, pages: u64, spare: bool) -> Result<bool, StoreError> {
        let need = pages * wide(PAGE_BYTES);
        let more = if spare { need + SPARE_BYTES } else { need };
        let wanted = more.min(self.database_bytes_max).max(need);
        if wanted <= self.database_bytes {
            return Ok(false);
        }
        self.fill_wal().map_err(fault)?;
        let target = wanted.next_multiple_of(EXTENT_BYTES);
        if self.reservable {
            reserve(&self.database, self.database_bytes, target - self.database_bytes)
                .map_err(fault)?;
            self.length = target;
        } else {
            let headroom = if spare { HEADROOM_BYTES } else { HEADROOM_BYTES / 2 };
            if free_bytes(&self.directory).map_err(fault)? < headroom {
                return Err(StoreError::Full);
            }
        }
        self.database_bytes = target;
        Ok(true)
    }

    /// Gives the log all its blocks, once.
    pub(super) fn fill_wal(&mut self) -> io::Result<()> {
        if self.wal_bytes >= self.wal_bytes_wanted {
            return Ok(());
        }
        let length = self.wal_bytes_wanted - self.wal_bytes;
        if !reserve(&self.wal, self.wal_bytes, length)? {
            let (mut at, zeros) = (self.wal_bytes, [0; 4096]);
            self.wal.seek(SeekFrom::Start(at))?;
            while at < self.wal_bytes_wanted {
                // Cut to the zeros there are in any case.
                let bytes = capped::<usize, _>(self.wal_bytes_wanted - at);
                self.wal.write_all(&zeros[..bytes.min(zeros.len())])?;
                at += wide(bytes.min(zeros.len()));
            }
        }
        self.wal.sync_all()?;
        self.wal_bytes = self.wal_bytes_wanted;
        Ok(())
    }
}

/// The directory a file lies in.
pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What an unprivileged process may still take on a file system.
pub(super) struct Free {
    pub(super) bytes: u64,
    /// `None` where files are not counted.
    pub(super) files: Option<u64>,
}

/// Bytes an unprivileged process may still take on the file system of `directory`.
pub(super) fn free_bytes(directory: &Path) -> io::Result<u64> {
    free(directory).map(|free| free.bytes)
}

/// The longest name a file may have there, in bytes.
pub(super) fn name_bytes_max(directory: &Path) -> io::Result<usize> {
    // A longer bound than can be counted is none.
    status(directory).map(|status| capped(status.f_namemax))
}

/// May files be made and renamed in `directory`?
pub(super) fn may_write(directory: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    let (mode, flags) = (libc::W_OK | libc::X_OK, libc::AT_EACCESS);
    // SAFETY: the path is a C string that outlives the call; plain integers beside it.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is free on the file system of `directory`.
pub(super) fn free(directory: &Path) -> io::Result<Free> {
    let answer = status(directory)?;
    // The width of these numbers is the platform's.
    #[allow(clippy::useless_conversion)]
    let (blocks, size) = (u64::from(answer.f_bavail), u64::from(answer.f_frsize));
    #[allow(clippy::useless_conversion)]
    let (files, free_files) = (u64::from(answer.f_files), u64::from(answer.f_favail));
    let files = (files > 0).then_some(free_files);
    Ok(Free { bytes: blocks.saturating_mul(size), files })
}

fn status(directory: &Path) -> io::Result<libc::statvfs> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: `statvfs` is plain numbers, for which zeros are valid.
    let mut answer: libc::statvfs = unsafe { core::mem::zeroed() };
    // SAFETY: the path ends with a zero, the answer is a local of the right type.
    if unsafe { libc::statvfs(path.as_ptr(), &mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

/// Leaves nothing in a file.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(0)?;
    file.sync_all()
}

/// Makes the names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Bytes this thread has made the kernel write so far; `None` where the kernel does not count.
/// The calling thread is the only one that writes to the store.
pub(super) fn thread_written_bytes() -> Option<u64> {
    let mut text = [0; 256];
    let length = File::open("/proc/thread-self/io").ok()?.read(&mut text).ok()?;
    let text = core::str::from_utf8(&text[..length]).ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

/// Bytes of the file system's blocks that `from..to` touches.
pub(super) fn block_span(from: u64, to: u64) -> u64 {
    to.next_multiple_of(BLOCK_BYTES).saturating_sub(from / BLOCK_BYTES * BLOCK_BYTES)
}

/// False: the file system cannot reserve.
fn reserve(file: &File, from: u64, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let too_large = |_| io::Error::from(io::ErrorKind::StorageFull);
    let from = libc::off_t::try_from(from).map_err(too_large)?;
    let length = libc::off_t::try_from(length).map_err(too_large)?;
    // SAFETY: the descriptor is open; mode 0 changes no byte that is there.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, from, length) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(false),
        Some(_) | None => Err(error),
    }
}

pub(super) fn fault(error: io::Error) -> StoreError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StoreError::Full,
        Some(_) => StoreError::Io,
        None if error.kind() == io::ErrorKind::StorageFull => StoreError::Full,
        None => StoreError::Io,
    }
}
