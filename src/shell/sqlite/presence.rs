//! Whether what is written to is still what lies at the store's path, and how it gets back there.
//!
//! A file that was removed, moved away or replaced by another one takes every commit as before, and
//! all of it is gone with the process. So the files are looked at: device and inode, length, and
//! whether anybody else has written to the database. As long as they are open nothing is lost: the
//! log goes into the database, the database is copied to its path, a piece a call, and the store is
//! opened there. What lies there meanwhile is put aside. Nothing is written to the store until
//! then.
//!
//! What somebody else has cut or overwritten in place cannot be brought back: `Corrupt`.

use super::aside::{beside, put_aside};
use super::disk::{self, Extents};
use super::lock::LockFile;
use super::look::log_number_in;
use super::open::{Fault, connect};
use super::{PAGE_BYTES, SqliteStore, fault};
use crate::fit::{capped, wide};
use crate::note::{Lost, Note, text};
use crate::queue::store::{SpillStore, StoreError};
use rusqlite::Connection;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

/// When whoever looks comes again, in milliseconds.
const RETRY_MS: u64 = 1000;

/// Bytes copied at once: what a slow flash writes in a moment.
const PIECE_BYTES: usize = 256 * 1024;

/// A file as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(data: &Metadata) -> Identity {
        Identity { device: data.dev(), inode: data.ino() }
    }
}

/// Where the store stands.
#[derive(Default)]
pub(super) struct Presence {
    /// Why nothing is written.
    pub(super) away: Option<StoreError>,
    /// On its way back.
    copy: Option<Copy>,
    /// The connection is closed: what it had lies at the path.
    closed: bool,
    /// Somebody else has changed the file.
    pub(super) spoilt: bool,
    /// When the database was last written to, by us.
    written: Option<SystemTime>,
    /// What the log was told of since it was there.
    told: heapless::Vec<StoreError, 8>,
    notes: Vec<Note>,
}

/// A database that is written to its path again.
struct Copy {
    file: File,
    done: u64,
    total: u64,
    /// Nothing of it was found damaged.
    whole: bool,
}

impl SqliteStore {
    pub(super) fn look_now(&mut self) -> Result<bool, StoreError> {
        let found = if self.presence.closed { Err(StoreError::Gone) } else { self.compare() };
        let back = match found {
            Ok(()) => {
                // Or it was put back as it was by whoever took it away.
                self.give_up_copy();
                Ok(true)
            }
            Err(StoreError::Corrupt) => Err(StoreError::Corrupt),
            Err(reason) => {
                self.presence.away = Some(reason);
                self.tell("look", reason);
                self.bring_back(reason)
            }
        };
        match back {
            Ok(true) => {
                self.presence.away = None;
                if !self.presence.told.is_empty() {
                    self.presence.told.clear();
                    let lost = Lost(Some(0));
                    self.presence.notes.push(Note::StoreRecovered {
                        rescued: 0,
                        lost,
                        reason: None,
                    });
                }
            }
            Ok(false) => {}
            Err(reason) => {
                self.presence.spoilt |= reason == StoreError::Corrupt;
                let operation = if self.presence.away.is_some() { "put_back" } else { "look" };
                self.tell(operation, reason);
            }
        }
        back
    }

    /// One line for each reason in a row.
    fn tell(&mut self, operation: &'static str, error: StoreError) {
        let known = &mut self.presence.told;
        if !known.contains(&error) && known.push(error).is_ok() {
            let (reason, retry_in_ms) = (error.word(), RETRY_MS);
            let note = Note::StoreError { operation, reason, retry_in_ms, key: error.key() };
            self.presence.notes.push(note);
        }
    }

    pub(super) fn next_note(&mut self) -> Option<Note> {
        (!self.presence.notes.is_empty()).then(|| self.presence.notes.remove(0))
    }

    /// The database was just written to by us.
    pub(super) fn mark_written(&mut self) {
        self.presence.written = self.extents.database_data().and_then(|d| d.modified()).ok();
    }

    /// The files at the path against those in use.
    fn compare(&mut self) -> Result<(), StoreError> {
        let path = &self.place.path;
        let (database, log) = (self.extents.database_data(), self.extents.wal_data());
        // A file system that does not answer now tells nothing.
        let (Ok(database), Ok(log)) = (database, log) else { return Ok(()) };
        for (path, held) in [(path.clone(), &database), (beside(path, "-wal"), &log)] {
            match fs::metadata(&path) {
                Ok(found) if Identity::of(&found) == Identity::of(held) => {}
                Ok(_) => return Err(StoreError::Replaced),
                Err(error) if is_absent(&error) => return Err(StoreError::Gone),
                Err(_) => return Ok(()),
            }
        }
        if self.is_cut() {
            return Err(StoreError::Corrupt);
        }
        let written = database.modified().ok();
        if written != self.presence.written {
            // Touched, perhaps; another content has the number of another log.
            if !self.has_own_number() {
                return Err(StoreError::Corrupt);
            }
            self.presence.written = written;
        }
        self.keep_lock()
    }

    /// Is a file shorter than we have left it?
    pub(super) fn is_cut(&mut self) -> bool {
        let shorter = |data: io::Result<Metadata>, length| data.is_ok_and(|d| d.len() < length);
        let cut = shorter(self.extents.database_data(), self.extents.length())
            || shorter(self.extents.wal_data(), self.wal_end);
        self.presence.spoilt |= cut;
        cut
    }

    fn has_own_number(&self) -> bool {
        match log_number_in(self.extents.database()) {
            Ok(Some(number)) => self.log_number.follows(&number),
            Ok(None) | Err(_) => true,
        }
    }

    /// The lock may be gone with the rest, and another process may take it then.
    fn keep_lock(&mut self) -> Result<(), StoreError> {
        let path = beside(&self.place.path, ".lock");
        let held = self.lock.as_ref().and_then(|lock| lock.identity().ok());
        let there = fs::metadata(&path).ok().map(|data| Identity::of(&data));
        if held.is_some() && held == there {
            return Ok(());
        }
        match LockFile::take(&path) {
            Ok(Some(mut lock)) => {
                if let Some(record) = self.lock.as_ref().and_then(LockFile::record) {
                    self.written_bytes += lock.tell(record, false);
                }
                self.lock = Some(lock);
                Ok(())
            }
            // Another gateway is at this path.
            Ok(None) => Err(StoreError::Replaced),
            Err(_) => Err(StoreError::Gone),
        }
    }

    /// One step on the way back. `Ok(true)`: it is there.
    fn bring_back(&mut self, reason: StoreError) -> Result<bool, StoreError> {
        if !disk::directory(&self.place.path).is_dir() {
            return Err(reason);
        }
        self.keep_lock()?;
        if !self.presence.closed {
            if self.presence.copy.is_none() {
                self.rollback();
                // Everything is in the database then.
                let whole = match self.checkpoint() {
                    Err(StoreError::Corrupt) => false,
                    done => done.map(|()| true)?,
                };
                if self.is_there("", &self.extents.database_data()) {
                    if !whole {
                        return Err(StoreError::Corrupt);
                    }
                    if self.is_there("-wal", &self.extents.wal_data()) {
                        return Ok(true);
                    }
                    let log = beside(&self.place.path, "-wal");
                    self.clear(&log, reason)?;
                    return self.open_again();
                }
                self.presence.copy = Some(self.begin_copy(whole)?);
            }
            let Some(whole) = self.copy_piece()? else { return Ok(false) };
            self.put_in_place(whole, reason)?;
            self.presence.copy = None;
            if !whole {
                // It is salvaged where it lies now.
                return Err(StoreError::Corrupt);
            }
        }
        self.open_again()
    }

    /// Does the name mean the file that is held?
    fn is_there(&self, end: &str, held: &io::Result<Metadata>) -> bool {
        let there = fs::metadata(beside(&self.place.path, end));
        matches!((held, &there), (Ok(held), Ok(there)) if Identity::of(held) == Identity::of(there))
    }

    fn begin_copy(&mut self, whole: bool) -> Result<Copy, StoreError> {
        let total = if whole {
            self.number("PRAGMA page_count").map_err(fault)? * wide(PAGE_BYTES)
        } else {
            self.extents.database_data().map_err(disk::fault)?.len()
        };
        let new = self.new_path();
        match fs::remove_file(&new) {
            Err(error) if !is_absent(&error) => return Err(disk::fault(error)),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&new);
        let file = file.map_err(disk::fault)?;
        Ok(Copy { file, done: 0, total, whole })
    }

    /// Once all of it is there, and safe: is it whole?
    fn copy_piece(&mut self) -> Result<Option<bool>, StoreError> {
        let Some(copy) = &mut self.presence.copy else { return Ok(None) };
        // More than a piece is a piece.
        let rest: usize = capped(copy.total - copy.done);
        let mut piece = vec![0; rest.min(PIECE_BYTES)];
        let copied = self
            .extents
            .read_database(&mut piece, copy.done)
            .and_then(|()| copy.file.write_all_at(&piece, copy.done));
        let copied = match copied {
            Ok(()) if copy.done + wide(piece.len()) == copy.total => copy.file.sync_all(),
            done => done,
        };
        if let Err(error) = copied {
            self.give_up_copy();
            return Err(disk::fault(error));
        }
        copy.done += wide(piece.len());
        self.written_bytes += wide(piece.len());
        Ok((copy.done == copy.total).then_some(copy.whole))
    }

    fn give_up_copy(&mut self) {
        if self.presence.copy.take().is_some() {
            // One that stays takes room, no more: the next one begins with an empty file.
            let _ = fs::remove_file(self.new_path());
        }
    }

    fn new_path(&self) -> std::path::PathBuf {
        beside(&self.place.path, ".new")
    }

    /// Puts aside whatever lies there, and the copy in its place.
    fn put_in_place(&mut self, whole: bool, reason: StoreError) -> Result<(), StoreError> {
        let path = self.place.path.clone();
        let own_log = self.is_there("-wal", &self.extents.wal_data());
        if own_log && whole {
            // All of it is in the copy.
            fs::remove_file(beside(&path, "-wal")).map_err(disk::fault)?;
        }
        if !own_log || whole || path.exists() {
            self.clear(&path, reason)?;
        }
        fs::rename(self.new_path(), &path).map_err(disk::fault)?;
        disk::sync_directory(disk::directory(&path)).map_err(disk::fault)
    }

    /// Names what lies at `path` `*.corrupt-N`, with the log beside it.
    fn clear(&mut self, path: &Path, reason: StoreError) -> Result<(), StoreError> {
        let there = |end| fs::symlink_metadata(beside(path, end)).is_ok();
        if !there("") && !there("-wal") {
            return Ok(());
        }
        let aside = put_aside(path, reason.word(), true, false).map_err(disk::fault)?;
        let (file, reason) = (text(&aside.file), text(&aside.reason));
        self.presence.notes.push(Note::StoreQuarantined { file, reason });
        Ok(())
    }

    /// Opens what lies at the path. Its bytes are those that were in use.
    fn open_again(&mut self) -> Result<bool, StoreError> {
        // Its locks, and those of any other descriptor, would go with the old one's end.
        self.db = Connection::open_in_memory().map_err(fault)?;
        self.image_row = None;
        self.extents = Extents::none().map_err(disk::fault)?;
        self.presence.closed = true;
        let opened = connect(&self.place).and_then(|parts| {
            let lock = self.lock.take();
            parts.store(lock, self.place.clone(), self.log_number.boot, None, false)
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(Fault::Damaged(_)) => return Err(StoreError::Corrupt),
            Err(Fault::Refused(_)) => return Err(StoreError::Io),
        };
        let Presence { told, notes, .. } = core::mem::take(&mut self.presence);
        let (slots, written) = (self.slot_count_max, self.written_bytes);
        *self = opened;
        (self.presence.told, self.presence.notes) = (told, notes);
        // What the core reckons with.
        self.slot_count_max = self.slot_count_max.max(slots);
        self.written_bytes += written;
        Ok(true)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
