//! The lock beside the store, and in its file what was last known of the store: a copy of the
//! database that is put back, or a database that is cut, cannot take that with it. It tells an
//! older copy from what was here last, and how many messages there were at a clean stop.
//!
//! What it says is a lower bound: it is written after the commit that it tells of, and not synced
//! but at a clean stop. One that is missing, torn, of an earlier version or not to be written says
//! nothing; that is never a reason not to start.

use super::aside::beside;
use super::disk::{directory, may_write};
use super::look::LogNumber;
use super::presence::Identity;
use super::wal::Wal;
use super::{BLOCK_BYTES, SqliteStore};
use crate::queue::store::Stock;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the record: one sector, so that a power cut leaves the old one or the new one.
const RECORD_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"spillway";

/// How far the store had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Identity of the store.
    pub(super) store: u64,
    /// The log that was begun last; every start that commits begins one.
    pub(super) log: u64,
    /// Bytes of that log at least, up to its last commit.
    pub(super) end: u64,
    /// All of it is in the database.
    pub(super) whole: bool,
    /// What is in it: nothing was committed since.
    pub(super) stock: Option<Stock>,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(MAGIC);
        let messages = self.stock.map_or(u64::MAX, |stock| stock.messages);
        let numbers = [self.store, self.log, self.end, messages];
        for (number, out) in numbers.iter().zip(out[8..40].chunks_mut(8)) {
            out.copy_from_slice(&number.to_le_bytes());
        }
        let all_open = self.stock.is_some_and(|stock| stock.all_open);
        out[40] = u8::from(self.whole) | u8::from(all_open) << 1;
        let crc = crc32fast::hash(&out[..RECORD_BYTES - 4]);
        out[RECORD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// `None`: there is none, or it is torn.
    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (rest, crc) = bytes.split_last_chunk::<4>()?;
        if !rest.starts_with(MAGIC) || crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
            return None;
        }
        let numbers = rest[8..40].as_chunks::<8>().0;
        let numbers = <[[u8; 8]; 4]>::try_from(numbers).ok()?.map(u64::from_le_bytes);
        let [store, log, end, messages] = numbers;
        let stock = Stock { messages, all_open: rest[40] & 2 != 0 };
        let stock = Some(stock).filter(|stock| stock.messages < u64::MAX);
        Some(Self { store, log, end, whole: rest[40] & 1 != 0, stock })
    }
}

/// Held while the store is open; the kernel lets go when the process dies.
pub(super) struct LockFile {
    file: File,
    record: Option<Record>,
}

impl LockFile {
    /// `None`: another process has it.
    pub(super) fn take(path: &Path) -> io::Result<Option<LockFile>> {
        // Somebody may have put a FIFO there meanwhile, which would keep us until it is read.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let whole = options.clone().create(true).truncate(false).write(true).open(path);
        let file = match whole {
            // One that cannot be written can be locked all the same, where others can be written.
            Err(error) if is_read_only(&error) => {
                may_write(directory(path))?;
                options.open(path).map_err(|_| error)?
            }
            opened => opened?,
        };
        // SAFETY: the descriptor is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        let mut bytes = [0; RECORD_BYTES];
        let record = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| Record::decode(&bytes));
        Ok(Some(LockFile { file, record }))
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        self.file.metadata().map(|data| Identity::of(&data))
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.record
    }

    /// Writes the record, or leaves it as it was. Returns the bytes that a flash writes for it.
    pub(super) fn tell(&mut self, record: Record, synced: bool) -> u64 {
        if self.record == Some(record) {
            return 0;
        }
        let written = self.file.write_all_at(&record.encode(), 0);
        let written = written.and_then(|()| if synced { self.file.sync_data() } else { Ok(()) });
        if written.is_err() {
            // What it says from here on is still not more than was.
            return 0;
        }
        self.record = Some(record);
        BLOCK_BYTES
    }
}

impl SqliteStore {
    /// Writes beside the store that it has begun this log.
    pub(super) fn tell_lock(&mut self) {
        let LogNumber { store, log, .. } = self.log_number;
        if let Some(lock) = &mut self.lock {
            let record = Record { store, log, end: 0, whole: false, stock: None };
            self.written_bytes += lock.tell(record, false);
        }
    }

    /// Before the first commit since: how many messages there are is not known from here on.
    pub(super) fn not_as_at_the_stop(&mut self) {
        let Some(lock) = &mut self.lock else { return };
        if let Some(record) = lock.record().filter(|record| record.stock.is_some()) {
            self.written_bytes += lock.tell(Record { stock: None, ..record }, false);
        }
    }

    /// The same at a clean stop, to the last commit.
    pub(super) fn tell_last(&mut self, stock: Option<Stock>) {
        // What is not as it was here last is so only once that is in it.
        if self.in_transaction || self.presence.away.is_some() || self.origin.is_some() {
            return;
        }
        let wal = Wal::open(&beside(&self.place.path, "-wal")).ok().flatten();
        let end = wal.as_ref().map_or(0, Wal::end);
        let (LogNumber { store, log, .. }, whole) = (self.log_number, self.wal_at == 0);
        if let Some(lock) = &mut self.lock {
            let record = Record { store, log, end, whole, stock };
            self.written_bytes += lock.tell(record, self.synced);
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing is not enough: a process forked meanwhile has the descriptor, and with it the
        // lock, until it has become another program.
        // SAFETY: the descriptor is open. A lock that is not let go of goes with the descriptor.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_torn_one_is_none() {
        let stock = |messages, all_open| Some(Stock { messages, all_open });
        for (stock, whole) in
            [(None, false), (stock(0, true), true), (stock(1500, false), false), (None, true)]
        {
            let record = Record { store: 7, log: 1 << 40, end: 1080, whole, stock };
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Some(record));
            for at in 0..RECORD_BYTES {
                let mut torn = bytes;
                torn[at] ^= 1;
                assert_eq!(Record::decode(&torn), None, "{at}");
            }
        }
        assert_eq!(Record::decode(&[0; RECORD_BYTES]), None, "of an earlier version");
    }
}
