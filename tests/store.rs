//! The spill store on a real file system: what was committed is there after `kill -9`, a full
//! disk can be drained, and what is found damaged or foreign at start is treated as promised.

use spillway::config::Sync;
use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, Table};
use spillway::shell::sqlite::SqliteStore;
use std::fs;
use std::path::{Path, PathBuf};

const QUOTA: u64 = 4 * 1024 * 1024;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn db(&self) -> PathBuf {
        self.0.join("spill.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Some(QUOTA), Sync::Full, None).unwrap()
}

/// Bytes that tell their place.
fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn read(store: &mut SqliteStore, slot: u32, at: usize, bytes: usize) -> Vec<u8> {
    let mut out = vec![0xee; bytes];
    store.read_slot(SlotId(slot), at, &mut out).unwrap();
    out
}

fn rows(store: &mut SqliteStore, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store.scan(table, &mut |key, value| rows.push((key.to_vec(), value.to_vec()))).unwrap();
    rows
}

#[test]
fn what_was_written_is_read_before_and_after_the_commit_and_after_reopening() {
    let dir = Dir::new("roundtrip");
    let mut store = open(&dir.db());
    assert_eq!(store.quarantined, None);
    let all = pattern(1, SLOT_BYTES);
    // Odd pieces over every row border, two slots interleaved.
    let mut at = 0;
    while at < SLOT_BYTES {
        let bytes = (1 + at % 1500).min(SLOT_BYTES - at);
        store.write_slot(SlotId(3), at, &all[at..at + bytes]).unwrap();
        store.write_slot(SlotId(1), at, &all[at..at + bytes]).unwrap();
        at += bytes;
    }
    assert_eq!(read(&mut store, 3, 0, SLOT_BYTES), all);
    store.commit().unwrap();
    assert_eq!(read(&mut store, 1, 977, 3000), all[977..3977]);
    assert_eq!(read(&mut store, 0, 0, SLOT_BYTES), vec![0; SLOT_BYTES]);
    assert_eq!(read(&mut store, 3, SLOT_BYTES, 0), []);
    drop(store);
    let mut store = open(&dir.db());
    assert_eq!(read(&mut store, 1, 0, SLOT_BYTES), all);
    assert_eq!(read(&mut store, 3, 0, SLOT_BYTES), all);
}

#[test]
fn a_rollback_forgets_slots_and_rows_and_nothing_else() {
    let dir = Dir::new("rollback");
    let mut store = open(&dir.db());
    store.write_slot(SlotId(0), 10, b"kept").unwrap();
    store.put(Table::Meta, b"a", b"1").unwrap();
    store.commit().unwrap();
    store.write_slot(SlotId(0), 10, b"lost").unwrap();
    store.write_slot(SlotId(1), 0, b"lost").unwrap();
    store.put(Table::Meta, b"a", b"2").unwrap();
    store.delete(Table::Meta, b"a").unwrap();
    store.rollback();
    assert_eq!(read(&mut store, 0, 10, 4), b"kept");
    assert_eq!(read(&mut store, 1, 0, 4), [0; 4]);
    assert_eq!(rows(&mut store, Table::Meta), [(b"a".to_vec(), b"1".to_vec())]);
    // And the next transaction works.
    store.write_slot(SlotId(0), 14, b"too").unwrap();
    store.commit().unwrap();
    assert_eq!(read(&mut store, 0, 10, 7), b"kepttoo");
}

#[test]
fn rows_are_replaced_deleted_and_scanned_in_key_order() {
    let dir = Dir::new("rows");
    let mut store = open(&dir.db());
    for table in [Table::Destination, Table::Session, Table::Retained, Table::Meta] {
        for key in [&b"b"[..], b"a", b"", b"a\0", b"\xff"] {
            store.put(table, key, b"old").unwrap();
        }
        store.put(table, b"a", &[7; 5000]).unwrap();
        store.delete(table, b"b").unwrap();
        store.delete(table, b"never there").unwrap();
        store.commit().unwrap();
        let keys: Vec<_> = rows(&mut store, table).into_iter().map(|row| row.0).collect();
        assert_eq!(keys, [&b""[..], b"a", b"a\0", b"\xff"]);
        assert_eq!(rows(&mut store, table)[1].1, [7; 5000]);
    }
    for slot in [256_u32, 3, u32::MAX] {
        store.put(Table::Slot, &slot.to_be_bytes(), &slot.to_le_bytes()).unwrap();
    }
    store.commit().unwrap();
    let expected: Vec<_> = [3_u32, 256, u32::MAX]
        .map(|slot| (slot.to_be_bytes().to_vec(), slot.to_le_bytes().to_vec()))
        .into();
    assert_eq!(rows(&mut store, Table::Slot), expected);
}
