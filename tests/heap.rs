//! The store under its heap limit, which is the whole process's: in a process of its own, or every
//! other store in it would run short too.

use spillway::config::Sync;
use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore};
use spillway::shell::sqlite::{HEAP_BYTES, SqliteStore};
use std::fs;
use std::path::Path;

#[test]
fn a_transaction_larger_than_the_page_cache_fits_the_heap_limit() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-heap");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("spill.db");
    let mut store = SqliteStore::open(&path, None, Sync::Full, Some(HEAP_BYTES)).unwrap();
    let all: Vec<u8> = (0..=255).cycle().take(SLOT_BYTES).collect();
    for round in 0..4 {
        for slot in 0..16 {
            store.write_slot(SlotId(slot + round * 8), 0, &all).unwrap();
        }
        store.commit().unwrap();
    }
    let mut out = vec![0; SLOT_BYTES];
    store.read_slot(SlotId(39), 0, &mut out).unwrap();
    assert!(out == all);
    drop(store);
    fs::remove_dir_all(&dir).unwrap();
}
