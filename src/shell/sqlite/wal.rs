//! The write-ahead log without SQLite: whether it is one, whose it is, and which pages it holds.
//! SQLite ends its log at the first frame whose checksum is wrong, without a word: right after a
//! power cut, but after a flipped bit everything behind it would be gone. Never writes.
//! Read <https://www.sqlite.org/fileformat2.html#the_write_ahead_log> first.

use super::{FRAME_BYTES, PAGE_BYTES, WAL_HEAD_BYTES};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u32 = 0x377f_0682;

/// Byte of a leaf page of a table.
pub(super) const TABLE_LEAF: u8 = 0x0d;

/// What a log is, as far as its own bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing is in it.
    Empty,
    /// Everything up to its end, or to a tail that no commit covers.
    Sound,
    /// Its head is not that of a log of ours.
    Garbage,
    /// One commit lies behind a place where the checksums break: a power cut may have torn it.
    Torn,
    /// Several commits do: each was synced after the one before.
    Broken,
}

/// A log and where the newest committed image of each page lies in it.
#[derive(Debug)]
pub(super) struct Wal {
    file: File,
    pub(super) state: State,
    frames: BTreeMap<u32, u64>,
    /// Frames up to the end of the first commit: the only ones no other can have replaced.
    first: BTreeMap<u32, u64>,
}

impl Wal {
    /// `None`: there is no log.
    pub(super) fn open(path: &Path) -> io::Result<Option<Wal>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (frames, first) = (BTreeMap::new(), BTreeMap::new());
        let mut wal = Wal { file, state: State::Empty, frames, first };
        wal.read()?;
        Ok(Some(wal))
    }

    /// The log as it was after its first commit.
    pub(super) fn at_first_commit(self) -> Wal {
        Wal { frames: self.first, first: BTreeMap::new(), ..self }
    }

    /// Pages with an image in it.
    pub(super) fn pages(&self) -> impl Iterator<Item = u32> {
        self.frames.keys().copied()
    }

    /// Reads the newest image of a page; `false` when it has none.
    pub(super) fn page(&self, page: u32, out: &mut [u8; PAGE_BYTES]) -> bool {
        let at = self.frames.get(&page);
        at.is_some_and(|at| self.file.read_exact_at(out, *at).is_ok())
    }

    fn read(&mut self) -> io::Result<()> {
        let mut head = [0; 32];
        let length = self.file.metadata()?.len();
        if length >= WAL_HEAD_BYTES {
            self.file.read_exact_at(&mut head, 0)?;
        }
        let whole = word(&head, 0) & !1 == MAGIC && word(&head, 8) == 1024;
        let big = word(&head, 0) & 1 == 1;
        let sum = checksum(big, (0, 0), &head[..24]);
        let valid = whole && sum == (word(&head, 24), word(&head, 28));
        let mut salts = valid.then_some((word(&head, 16), word(&head, 20)));
        let mut seed = sum;
        let mut frame = [0; 1024 + 24];
        let (mut at, mut broken) = (WAL_HEAD_BYTES, !valid);
        let (mut commits, mut late_commits) = (0, 0);
        let mut pending: Vec<(u32, u64)> = Vec::new();
        while at + FRAME_BYTES <= length {
            self.file.read_exact_at(&mut frame, at)?;
            let (page, commit) = (word(&frame, 0), word(&frame, 4));
            let own = (word(&frame, 8), word(&frame, 12));
            if page == 0 || salts.is_some_and(|salts| salts != own) {
                break;
            }
            salts = Some(own);
            let stored = (word(&frame, 16), word(&frame, 20));
            let sum = checksum(big, checksum(big, seed, &frame[..8]), &frame[24..]);
            broken |= sum != stored;
            // The next one can still be judged by what this one says.
            seed = stored;
            pending.push((page, at + 24));
            if commit != 0 && sum == stored {
                late_commits += u32::from(broken);
                commits += 1;
                if commits == 1 {
                    self.first.extend(pending.iter().copied());
                }
                self.frames.extend(pending.drain(..));
            }
            at += FRAME_BYTES;
        }
        if broken {
            // Behind damage what looks like a page is better than an older one.
            for (page, at) in pending {
                let mut kind = [0];
                if self.file.read_exact_at(&mut kind, at).is_ok() && kind[0] == TABLE_LEAF {
                    self.frames.insert(page, at);
                }
            }
        }
        self.state = if !valid {
            let mut rest = [0; 4096];
            let read = self.file.read_at(&mut rest, 0)?;
            let zero = rest[..read].iter().all(|byte| *byte == 0);
            if zero { State::Empty } else { State::Garbage }
        } else if late_commits > 1 {
            State::Broken
        } else if late_commits == 1 {
            State::Torn
        } else if commits == 0 {
            State::Empty
        } else {
            State::Sound
        };
        Ok(())
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn checksum(big: bool, seed: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    let order = |value: u32| if big { value } else { value.swap_bytes() };
    let (mut a, mut b) = seed;
    for at in (0..bytes.len()).step_by(8) {
        a = a.wrapping_add(order(word(bytes, at))).wrapping_add(b);
        b = b.wrapping_add(order(word(bytes, at + 4))).wrapping_add(a);
    }
    (a, b)
}
