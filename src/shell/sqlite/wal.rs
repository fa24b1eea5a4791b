//! The write-ahead log without SQLite: whether it is one, whose it is, and which pages it holds.
//! SQLite ends its log at the first frame whose checksum is wrong, without a word: right after a
//! power cut, but after a flipped bit everything behind it would be gone.
//! Read <https://www.sqlite.org/fileformat2.html#the_write_ahead_log> first.

use super::{FRAME_BYTES, PAGE_BYTES, WAL_HEAD_BYTES};
use crate::fit::{capped, wide};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a frame before its page.
const FRAME_HEAD_BYTES: u64 = 24;

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
    /// Where what SQLite applies ends.
    end: u64,
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
        let mut wal = Wal { file, state: State::Empty, end: WAL_HEAD_BYTES, frames, first };
        wal.read()?;
        Ok(Some(wal))
    }

    /// Wipes what a power cut has left behind the last whole commit: it must not be found behind
    /// what is written over its beginning.
    pub(super) fn wipe_torn(&self, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        let length = file.metadata()?.len();
        let zeros = [0; 4096];
        let mut at = self.end;
        while at < length {
            // Cut to the zeros there are in any case.
            let rest = capped::<usize, _>(length - at);
            let written = file.write_at(&zeros[..rest.min(zeros.len())], at)?;
            at += wide(written).max(1);
        }
        file.sync_all()
    }

    /// The log as it was after its first commit.
    pub(super) fn at_first_commit(self) -> Wal {
        Wal { frames: self.first, first: BTreeMap::new(), ..self }
    }

    /// Where what SQLite applies of it ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == State::Empty
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

    /// The salts of a log whose head is lost: those of the first two frames that belong together.
    fn salts(&self, big: bool, length: u64) -> io::Result<(u32, u32)> {
        let mut last: Option<Frame> = None;
        for at in frames(length) {
            let frame = Frame::read(&self.file, at)?;
            let before = last.filter(|last| last.salts == frame.salts && frame.page != 0);
            if before.is_some_and(|last| frame.is_sound(big, last.sum)) {
                return Ok(frame.salts);
            }
            last = Some(frame);
        }
        Ok((0, 0))
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
        let big = if valid { big } else { cfg!(target_endian = "big") };
        let salts =
            if valid { (word(&head, 16), word(&head, 20)) } else { self.salts(big, length)? };
        let mut seed = sum;
        let (mut broken, mut torn) = (!valid, false);
        let (mut commits, mut late_commits) = (0, 0);
        let mut pending: Vec<(u32, u64)> = Vec::new();
        for at in frames(length) {
            let frame = Frame::read(&self.file, at)?;
            if frame.page == 0 || frame.salts != salts {
                // Of the log before this one, or damaged: then others follow.
                (broken, seed) = (true, frame.sum);
                continue;
            }
            let sound = frame.is_sound(big, seed);
            // The next one can still be judged by what this one says.
            seed = frame.sum;
            pending.push((frame.page, at + FRAME_HEAD_BYTES));
            if frame.commit != 0 && sound {
                late_commits += u32::from(broken);
                commits += 1;
                if !broken {
                    self.end = at + FRAME_BYTES;
                }
                if commits == 1 {
                    self.first.extend(pending.iter().copied());
                }
                self.frames.extend(pending.drain(..));
            }
            broken |= !sound;
            torn |= !sound;
        }
        if torn {
            // Behind damage what looks like a page is better than an older one.
            for (page, at) in pending {
                let mut kind = [0];
                if self.file.read_exact_at(&mut kind, at).is_ok() && kind[0] == TABLE_LEAF {
                    self.frames.insert(page, at);
                }
            }
        }
        let mut start = [0; 4096];
        let read = self.file.read_at(&mut start, 0)?;
        // A log that was begun when the power went has its frames before its head.
        let blank = start[..read].iter().all(|byte| *byte == 0);
        self.state = if !valid && !blank {
            State::Garbage
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

/// Where the frames of a log of this length begin.
fn frames(length: u64) -> impl Iterator<Item = u64> {
    let places = (0..).map(|number| WAL_HEAD_BYTES + number * FRAME_BYTES);
    places.take_while(move |at| at + FRAME_BYTES <= length)
}

/// A frame as its bytes say.
struct Frame {
    bytes: [u8; PAGE_BYTES + 24],
    page: u32,
    /// Not 0: it ends a commit.
    commit: u32,
    salts: (u32, u32),
    sum: (u32, u32),
}

impl Frame {
    fn read(file: &File, at: u64) -> io::Result<Frame> {
        let mut bytes = [0; PAGE_BYTES + 24];
        file.read_exact_at(&mut bytes, at)?;
        let pair = |at| (word(&bytes, at), word(&bytes, at + 4));
        let ((page, commit), salts, sum) = (pair(0), pair(8), pair(16));
        Ok(Frame { bytes, page, commit, salts, sum })
    }

    /// Has it the checksum of one that follows another with the checksum `seed`?
    fn is_sound(&self, big: bool, seed: (u32, u32)) -> bool {
        checksum(big, checksum(big, seed, &self.bytes[..8]), &self.bytes[24..]) == self.sum
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
