//! A damaged store that was put aside, read page by page without SQLite: no tree, no schema and no
//! head is needed, for a row tells by its shape, its number and its CRC what it is. Deleted rows
//! are not found again (`secure_delete`). Never writes to it.
//! Read <https://www.sqlite.org/fileformat2.html#b_tree_pages> first.

use super::aside::beside;
use super::wal::{TABLE_LEAF, Wal, word};
use super::{PAGE_BYTES, ROW_BYTES, SLOT_ROWS};
use crate::fit::{capped, fit, index, wide};
use crate::queue::SLOT_BYTES;
use crate::queue::store::{SlotId, Table, unseal};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Page = [u8; PAGE_BYTES];

/// Bytes a row may have in all: no packet of MQTT is larger, nor is a retained message.
const PAYLOAD_BYTES_MAX: usize = 1 << 28;

const MAGIC: &[u8] = b"SQLite format 3\0";

/// First bytes of a page of a tree: index and table, inner and leaf.
const TREE_PAGES: [u8; 4] = [2, 5, 10, TABLE_LEAF];

/// A key in an index that is longer may need a page more.
const INDEX_KEY_BYTES: usize = 200;

/// Slots beyond what the file's size suggests that are believed in.
const SLOTS_SPARE: usize = 1024;

/// A keyed row that its CRC has proved.
pub(super) struct KeyedRow {
    pub(super) table: Table,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Database and log, the newest image of each page.
struct Pages {
    database: Option<Arc<File>>,
    count: u32,
    wal: Option<Wal>,
}

impl Pages {
    fn open(path: &Path, with_log: bool) -> io::Result<Pages> {
        let database = File::open(path).ok().map(Arc::new);
        let bytes = match &database {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        let wal = if with_log { Wal::open(&beside(path, "-wal"))? } else { None };
        // A larger file is no store of ours: what lies beyond is not looked at.
        let count = capped(bytes / wide(PAGE_BYTES));
        Ok(Pages { database, count, wal })
    }

    /// Bytes of all of them; some may be counted twice.
    fn bytes(&self) -> usize {
        let log = self.wal.as_ref().map_or(0, |wal| wal.pages().count());
        (index(self.count) + log).saturating_mul(PAGE_BYTES)
    }

    /// `false`: it cannot be read.
    fn read(&self, page: u32, out: &mut Page) -> bool {
        if self.wal.as_ref().is_some_and(|wal| wal.page(page, out)) {
            return true;
        }
        let Some(database) = self.database.as_ref().filter(|_| page > 0) else { return false };
        database.read_exact_at(out, u64::from(page - 1) * wide(PAGE_BYTES)).is_ok()
    }
}

/// See the head of this file.
pub(super) struct Wreck {
    pages: Pages,
    path: PathBuf,
    /// Page of each row of the log; 0 = not found.
    rows: Vec<u32>,
    /// Page of each slot's row; 0 = not found.
    slots: Vec<u32>,
    /// Every page that the head tells of is there, and what it is can be told.
    whole: bool,
}

impl Wreck {
    /// Reads the whole file once; `row` gets what can be proved of the small tables.
    pub(super) fn open(path: &Path, row: &mut dyn FnMut(KeyedRow)) -> io::Result<Wreck> {
        let pages = Pages::open(path, true)?;
        let mut wreck = Wreck {
            pages,
            path: path.to_path_buf(),
            rows: Vec::new(),
            slots: Vec::new(),
            whole: false,
        };
        wreck.whole = wreck.is_accounted();
        let beyond = wreck.pages.wal.iter().flat_map(Wal::pages);
        let mut numbers: Vec<u32> = beyond.filter(|page| *page > wreck.pages.count).collect();
        numbers.splice(0..0, 1..=wreck.pages.count);
        let slots_max = numbers.len() / SLOT_ROWS * 2 + SLOTS_SPARE;
        let mut page = [0; PAGE_BYTES];
        for number in numbers {
            // What cannot be read is not there.
            if !wreck.pages.read(number, &mut page) {
                continue;
            }
            for cell in cells(&page, number) {
                match cell.shape() {
                    Shape::Log if cell.row < slots_max * SLOT_ROWS => {
                        note(&mut wreck.rows, cell.row, number);
                    }
                    Shape::Slot if cell.row < slots_max => {
                        note(&mut wreck.slots, cell.row, number);
                    }
                    Shape::Keyed(key, data) => {
                        if let Some(keyed) = wreck.keyed(&cell, key, data) {
                            row(keyed);
                        }
                    }
                    Shape::Log | Shape::Slot | Shape::Other => {}
                }
            }
        }
        Ok(wreck)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole && !self.slots.contains(&0)
    }

    /// Are all pages there, and each one of a tree, of a long row or free? A store has a log.
    fn is_accounted(&self) -> bool {
        let mut page = [0; PAGE_BYTES];
        if self.pages.wal.is_none() || !self.pages.read(1, &mut page) || !page.starts_with(MAGIC) {
            return false;
        }
        let (pages, free) = (word(&page, 28), word(&page, 36));
        let (mut others, mut long_rows) = (0u64, 0u64);
        for number in 1..=pages {
            if !self.pages.read(number, &mut page) {
                return false;
            }
            let head = if number == 1 { 100 } else { 0 };
            if !TREE_PAGES.contains(&page[head]) {
                others += 1;
                continue;
            }
            for cell in cells(&page, number) {
                if let Shape::Keyed(key, data) = cell.shape() {
                    let rest = (cell.header + key + data).saturating_sub(cell.local.len());
                    // Its key is in an index too.
                    let index = if key > INDEX_KEY_BYTES { key } else { 0 };
                    let pages = [rest, index].map(|bytes| bytes.div_ceil(PAGE_BYTES - 4));
                    long_rows += wide(pages[0] + pages[1]);
                }
            }
        }
        others <= u64::from(free) + long_rows
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn slot_count(&self) -> u32 {
        let slots = self.slots.len().max(self.rows.len().div_ceil(SLOT_ROWS));
        fit::<u32, _>(slots, "slots").max(1)
    }

    /// The row of a slot as it was stored.
    pub(super) fn row(&self, slot: SlotId) -> Option<Vec<u8>> {
        let slot = usize::try_from(slot.0).ok()?;
        let (number, mut page) = (*self.slots.get(slot)?, [0; PAGE_BYTES]);
        if number == 0 || !self.pages.read(number, &mut page) {
            return None;
        }
        let mut found = cells(&page, number);
        let cell = found.find(|cell| cell.row == slot && matches!(cell.shape(), Shape::Slot))?;
        Some(cell.local[cell.header..].to_vec())
    }

    /// Reads a slot; `false`: nothing of it can be.
    pub(super) fn slot(&self, slot: SlotId, out: &mut [u8]) -> bool {
        let mut any = false;
        let mut page = [0; PAGE_BYTES];
        out[..SLOT_BYTES].fill(0);
        for (part, out) in out[..SLOT_BYTES].chunks_mut(ROW_BYTES).enumerate() {
            let row = index(slot.0) * SLOT_ROWS + part;
            let number = self.rows.get(row).copied().unwrap_or(0);
            if number == 0 || !self.pages.read(number, &mut page) {
                continue;
            }
            let mut found = cells(&page, number);
            let log = |cell: &Cell<'_>| cell.row == row && matches!(cell.shape(), Shape::Log);
            if let Some(cell) = found.find(log) {
                out.copy_from_slice(&cell.local[cell.header..][..out.len()]);
                any = true;
            }
        }
        any
    }

    /// A row of two blobs, if it is whole and one of ours.
    fn keyed(&self, cell: &Cell<'_>, key: usize, data: usize) -> Option<KeyedRow> {
        let end = cell.header.checked_add(key)?.checked_add(data)?;
        if end > self.pages.bytes() {
            // Damage says so.
            return None;
        }
        let mut payload = cell.local.to_vec();
        let (mut next, mut page) = (cell.overflow, [0; PAGE_BYTES]);
        while payload.len() < end {
            if next == 0 || !self.pages.read(next, &mut page) {
                return None;
            }
            payload.extend_from_slice(&page[4..]);
            next = word(&page, 0);
        }
        let (key, value) = payload[cell.header..end].split_at(key);
        let tables = [Table::Session, Table::Retained, Table::Meta, Table::Destination];
        let table = tables.into_iter().find(|table| unseal(*table, key, value).is_some())?;
        Some(KeyedRow { table, key: key.to_vec(), value: value.to_vec() })
    }
}

/// The keyed rows that can be proved, in place of a whole wreck.
///
/// `log`: those in the first commit of the log alone; else those in the first pages of the
/// database alone.
pub(super) fn keyed_rows(
    path: &Path,
    log: bool,
    pages_max: u32,
    row: &mut dyn FnMut(KeyedRow),
) -> io::Result<()> {
    let mut pages = Pages::open(path, log)?;
    pages.wal = pages.wal.map(Wal::at_first_commit);
    let numbers: Vec<u32> = match &pages.wal {
        Some(wal) => wal.pages().collect(),
        None if log => Vec::new(),
        None => (1..=pages.count.min(pages_max)).collect(),
    };
    pages.database = pages.database.filter(|_| !log);
    keyed_rows_of(pages, numbers, row);
    Ok(())
}

/// The same in the first pages of an open database.
pub(super) fn keyed_rows_in(
    database: Arc<File>,
    pages_max: u32,
    row: &mut dyn FnMut(KeyedRow),
) -> io::Result<()> {
    // SQLite has no more pages.
    let count = capped(database.metadata()?.len() / wide(PAGE_BYTES));
    let pages = Pages { database: Some(database), count, wal: None };
    keyed_rows_of(pages, (1..=count.min(pages_max)).collect(), row);
    Ok(())
}

fn keyed_rows_of(pages: Pages, numbers: Vec<u32>, row: &mut dyn FnMut(KeyedRow)) {
    let wreck =
        Wreck { pages, path: PathBuf::new(), rows: Vec::new(), slots: Vec::new(), whole: false };
    let mut page = [0; PAGE_BYTES];
    for number in numbers {
        if wreck.pages.read(number, &mut page) {
            for cell in cells(&page, number) {
                if let Shape::Keyed(key, data) = cell.shape()
                    && let Some(keyed) = wreck.keyed(&cell, key, data)
                {
                    row(keyed);
                }
            }
        }
    }
}

/// The keyed rows that can be proved in the newest images of all pages.
pub(super) fn keyed_rows_of_all(path: &Path, row: &mut dyn FnMut(KeyedRow)) -> io::Result<()> {
    Wreck::open(path, row).map(drop)
}

fn note(places: &mut Vec<u32>, at: usize, page: u32) {
    if places.len() <= at {
        places.resize(at + 1, 0);
    }
    places[at] = page;
}

/// One row of a leaf page.
struct Cell<'a> {
    row: usize,
    /// Bytes of the payload in this page; the rest is in a chain of others.
    local: &'a [u8],
    overflow: u32,
    /// Bytes of the payload in front of the columns.
    header: usize,
    types: [usize; 2],
}

enum Shape {
    Log,
    Slot,
    /// Bytes of key and data.
    Keyed(usize, usize),
    Other,
}

impl Cell<'_> {
    fn shape(&self) -> Shape {
        let blob = |kind: usize| (kind >= 12 && kind.is_multiple_of(2)).then(|| (kind - 12) / 2);
        match (self.types[0], blob(self.types[0]), blob(self.types[1])) {
            (0, _, Some(ROW_BYTES)) if self.local.len() >= self.header + ROW_BYTES => Shape::Log,
            (0, _, Some(bytes)) if self.local.len() == self.header + bytes => Shape::Slot,
            (_, Some(key), Some(data)) if key + data < PAYLOAD_BYTES_MAX => Shape::Keyed(key, data),
            _ => Shape::Other,
        }
    }
}

/// Rows of a page, if it is a leaf of a table.
fn cells(page: &Page, number: u32) -> impl Iterator<Item = Cell<'_>> {
    let head = if number == 1 { 100 } else { 0 };
    let leaf = page[head] == TABLE_LEAF;
    let cells =
        if leaf { usize::from(u16::from_be_bytes([page[head + 3], page[head + 4]])) } else { 0 };
    let cells = cells.min((PAGE_BYTES - head - 8) / 2);
    (0..cells).filter_map(move |at| {
        let pointer = head + 8 + at * 2;
        let at = usize::from(u16::from_be_bytes([page[pointer], page[pointer + 1]]));
        cell(page, at)
    })
}

fn cell(page: &Page, at: usize) -> Option<Cell<'_>> {
    let mut rest = page.get(at..)?;
    let payload = varint(&mut rest)?;
    let row = varint(&mut rest)?;
    // What of a payload stays in a leaf page.
    let (most, least) = (PAGE_BYTES - 35, (PAGE_BYTES - 12) * 32 / 255 - 23);
    let local = if payload <= most {
        payload
    } else {
        let fits = least + (payload - least) % (PAGE_BYTES - 4);
        if fits <= most { fits } else { least }
    };
    let overflow = if payload > local { word(rest.get(local..local + 4)?, 0) } else { 0 };
    let local = rest.get(..local)?;
    let mut types = local;
    let header = varint(&mut types)?;
    let types = [varint(&mut types)?, varint(&mut types)?];
    (header <= local.len()).then_some(Cell { row, local, overflow, header, types })
}

/// SQLite's variable-length number, if it is one that makes sense here.
fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    for _ in 0..4 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value = value << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
