//! What a power cut may leave of a directory: every name, every file and every sector of a file by
//! itself, as it was at the last sync or at any time since.

use super::calls::{Call, FileId, Names, Record};
use spillway::vocab::Rng;
use std::collections::BTreeMap;

pub const SECTOR_BYTES: usize = 512;

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// All of it is there: a kill, not a power cut.
    Kept,
    /// None of it is there.
    Lost,
    /// It was written in order up to some call, of which only some sectors are there.
    Torn,
    /// Any of the writes are there, whole.
    Some,
    /// Any writes are there, in pieces.
    Pieces,
    /// Every sector is as it was at some time since the last sync, by itself.
    Sectors,
    /// The same in pages of the database, or of the kernel.
    Pages(usize),
    /// One file is as it was at the last sync, everything else is there.
    OneLost,
    /// One file has everything, everything else is as it was at its last sync.
    OneKept,
    /// As `Sectors`, and what a file grew by without being written is what lay there before.
    Stale,
}

pub const FATES: [Fate; 11] = [
    Fate::Kept,
    Fate::Lost,
    Fate::Torn,
    Fate::Some,
    Fate::Pieces,
    Fate::Sectors,
    Fate::Pages(1024),
    Fate::Pages(4096),
    Fate::OneLost,
    Fate::OneKept,
    Fate::Stale,
];

/// The files of a directory after a cut.
pub type Image = BTreeMap<String, Vec<u8>>;

struct File {
    durable: Vec<u8>,
    /// Calls since the last sync, by their place in the record.
    pending: Vec<usize>,
}

/// The directory at one moment of a record: what is durable and what is not.
pub struct Disk<'a> {
    calls: &'a [Call],
    at: usize,
    files: Vec<File>,
    names: Names,
    names_pending: Vec<usize>,
}

impl<'a> Disk<'a> {
    pub fn new(record: &'a Record) -> Self {
        let files = record.files.iter();
        Self {
            calls: &record.calls,
            at: 0,
            files: files.map(|it| File { durable: it.clone(), pending: Vec::new() }).collect(),
            names: record.names.clone(),
            names_pending: Vec::new(),
        }
    }

    /// Goes on to the moment when `at` calls have been made.
    pub fn advance(&mut self, at: usize) {
        while self.at < at {
            match &self.calls[self.at] {
                Call::Create { .. } | Call::Rename { .. } | Call::Remove { .. } => {
                    self.names_pending.push(self.at);
                }
                Call::Pretended => {}
                Call::SyncNames => {
                    for call in self.names_pending.drain(..) {
                        rename(&mut self.names, &self.calls[call]);
                    }
                }
                Call::Write { file, .. }
                | Call::Resize { file, .. }
                | Call::Reserve { file, .. } => self.files[*file].pending.push(self.at),
                Call::Sync { file } => {
                    let File { durable, pending } = &mut self.files[*file];
                    for call in pending.drain(..) {
                        apply(durable, &self.calls[call]);
                    }
                }
            }
            self.at += 1;
        }
    }

    /// What the directory holds when the power goes now.
    pub fn image(&self, fate: Fate, rng: &mut Rng) -> Image {
        let names = self.names_after(fate, rng);
        let touched: Vec<FileId> =
            (0..self.files.len()).filter(|file| !self.files[*file].pending.is_empty()).collect();
        let one = touched.get(below(rng, touched.len())).copied();
        let first = touched.iter().filter_map(|file| self.files[*file].pending.first()).min();
        let first = first.copied().unwrap_or(self.at);
        let torn = first + below(rng, self.at - first);
        let image = names.into_iter().map(|(name, file)| {
            let seed = rng.next_u64();
            let mut rng = Rng::new(seed);
            let file_fate = match fate {
                Fate::OneLost if Some(file) == one => Fate::Lost,
                Fate::OneLost => Fate::Kept,
                Fate::OneKept if Some(file) == one => Fate::Kept,
                Fate::OneKept => Fate::Lost,
                other => other,
            };
            (name, self.content(file, file_fate, torn, &mut rng))
        });
        image.collect()
    }

    fn names_after(&self, fate: Fate, rng: &mut Rng) -> Names {
        let kept = match fate {
            Fate::Kept => self.names_pending.len(),
            Fate::Lost => 0,
            _ => below(rng, self.names_pending.len() + 1),
        };
        let mut names = self.names.clone();
        for call in &self.names_pending[..kept] {
            rename(&mut names, &self.calls[*call]);
        }
        names
    }

    fn content(&self, file: FileId, fate: Fate, torn: usize, rng: &mut Rng) -> Vec<u8> {
        let File { durable, pending } = &self.files[file];
        let mut bytes = durable.clone();
        if pending.is_empty() || fate == Fate::Lost {
            return bytes;
        }
        match fate {
            Fate::Lost | Fate::OneLost | Fate::OneKept => {}
            Fate::Kept => {
                for call in pending {
                    apply(&mut bytes, &self.calls[*call]);
                }
            }
            Fate::Torn => {
                for call in pending.iter().filter(|call| **call < torn) {
                    apply(&mut bytes, &self.calls[*call]);
                }
                if pending.contains(&torn) {
                    self.apply_pieces(&mut bytes, torn, rng);
                }
            }
            Fate::Some => {
                let likely = rng.below(9) + 1;
                for call in pending {
                    if rng.below(10) < likely {
                        apply(&mut bytes, &self.calls[*call]);
                    }
                }
            }
            Fate::Pieces => {
                for call in pending {
                    match rng.below(3) {
                        0 => apply(&mut bytes, &self.calls[*call]),
                        1 => self.apply_pieces(&mut bytes, *call, rng),
                        _ => {}
                    }
                }
            }
            Fate::Sectors => self.each_by_itself(&mut bytes, pending, SECTOR_BYTES, false, rng),
            Fate::Pages(size) => self.each_by_itself(&mut bytes, pending, size, false, rng),
            Fate::Stale => self.each_by_itself(&mut bytes, pending, SECTOR_BYTES, true, rng),
        }
        bytes
    }

    /// Applies one call, of a write only some sectors.
    fn apply_pieces(&self, bytes: &mut Vec<u8>, call: usize, rng: &mut Rng) {
        let Call::Write { at, bytes: written, .. } = &self.calls[call] else {
            return apply(bytes, &self.calls[call]);
        };
        let end = at + written.len();
        let mut from = *at;
        let only_first = rng.below(2) == 0;
        let cut = *at + below(rng, written.len() + 1);
        while from < end {
            let to = (from / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES).min(end);
            // Either the beginning of the write, or whichever sectors.
            if if only_first { to <= cut } else { rng.below(2) == 0 } {
                overwrite(bytes, from, &written[from - at..to - at]);
            }
            from = to;
        }
    }

    /// Every unit of the file, and its size, as after some of the pending calls: each by itself.
    fn each_by_itself(
        &self,
        bytes: &mut Vec<u8>,
        pending: &[usize],
        unit: usize,
        stale: bool,
        rng: &mut Rng,
    ) {
        let old = bytes.len();
        let seed = rng.next_u64();
        let moments = u64::try_from(pending.len()).expect("few calls") + 1;
        // How many of the calls the unit at this place has seen. A kernel that has begun to write
        // is mostly done with the older ones: one unit in four lags far behind.
        let seen = |place: usize| {
            let place = u64::try_from(place).expect("a place");
            let mut rng = Rng::new(seed ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            match rng.below(4) {
                0 => rng.below(moments),
                1 => moments - 1,
                _ => moments - 1 - rng.below(moments.min(4)),
            }
        };
        let mut sizes = vec![old];
        let mut zeros_to = old;
        let mut written: Vec<bool> = Vec::new();
        for (moment, call) in (1..).zip(pending) {
            let size = *sizes.last().expect("never empty");
            match &self.calls[*call] {
                Call::Write { at, bytes: data, .. } => {
                    let end = at + data.len();
                    let mut from = *at;
                    while from < end {
                        let place = from / unit;
                        let to = (place * unit + unit).min(end);
                        if seen(place) >= moment {
                            overwrite(bytes, from, &data[from - at..to - at]);
                            if written.len() <= place {
                                written.resize(place + 1, false);
                            }
                            written[place] = true;
                        }
                        from = to;
                    }
                    sizes.push(size.max(end));
                }
                Call::Resize { size, .. } => {
                    for place in size.div_ceil(unit)..bytes.len().div_ceil(unit) {
                        if seen(place) >= moment {
                            let to = (place * unit + unit).min(bytes.len());
                            bytes[place * unit..to].fill(0);
                        }
                    }
                    sizes.push(*size);
                }
                Call::Reserve { end, .. } => {
                    zeros_to = zeros_to.max(*end);
                    sizes.push(size.max(*end));
                }
                _ => unreachable!("other calls are not pending for a file"),
            }
        }
        let size = sizes[below(rng, sizes.len())];
        bytes.resize(size, 0);
        if stale {
            let mut noise = Rng::new(seed);
            for place in zeros_to.div_ceil(unit)..size.div_ceil(unit) {
                if !written.get(place).copied().unwrap_or(false) {
                    let to = (place * unit + unit).min(size);
                    bytes[place * unit..to].fill_with(|| noise.next_u64().to_le_bytes()[0]);
                }
            }
        }
    }
}

fn rename(names: &mut Names, call: &Call) {
    match call {
        Call::Create { name, file } => drop(names.insert(name.clone(), *file)),
        Call::Rename { from, to } => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Call::Remove { name } => drop(names.remove(name)),
        _ => unreachable!("not about names"),
    }
}

fn apply(bytes: &mut Vec<u8>, call: &Call) {
    match call {
        Call::Write { at, bytes: written, .. } => overwrite(bytes, *at, written),
        Call::Resize { size, .. } => bytes.resize(*size, 0),
        Call::Reserve { end, .. } => bytes.resize((*end).max(bytes.len()), 0),
        _ => unreachable!("not about a file's content"),
    }
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

pub fn below(rng: &mut Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound).expect("a count");
    usize::try_from(rng.below(bound)).expect("less than a count")
}
