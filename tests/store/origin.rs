//! What was last known of the store, in the file of its lock.

use super::*;
use spillway::queue::store::{Origin, Stock};

const STOCK: Option<Stock> = Some(Stock { messages: 1, all_open: true });

fn reason(store: &SqliteStore) -> Option<&'static str> {
    store.origin().map(|Origin { reason, .. }| reason)
}

fn write(store: &mut SqliteStore, text: &[u8]) {
    store.write_slot(SlotId(0), 0, text).unwrap();
    store.commit().unwrap();
}

fn take(dir: &Dir) -> [Vec<u8>; 2] {
    ["db", "db-wal"].map(|end| fs::read(dir.db().with_extension(end)).unwrap())
}

fn put_back(dir: &Dir, copy: &[Vec<u8>; 2]) {
    for (end, bytes) in ["db", "db-wal"].iter().zip(copy) {
        fs::write(dir.db().with_extension(end), bytes).unwrap();
    }
}

#[test]
fn a_copy_from_before_the_last_start_is_older() {
    for stops in [true, false] {
        let dir = Dir::new("older");
        let mut copies = Vec::new();
        for round in 0..4_u8 {
            let mut store = open(&dir.db());
            assert_eq!(store.origin(), None);
            write(&mut store, &[round; 9]);
            if stops {
                store.close(STOCK);
            }
            drop(store);
            copies.push(take(&dir));
        }
        let newest = copies.pop().unwrap();
        for copy in &copies {
            put_back(&dir, copy);
            // It stays so until something is in it that tells of it.
            for _ in 0..3 {
                let mut store = open(&dir.db());
                assert_eq!(reason(&store), Some("older_store"));
                store.close(STOCK);
            }
        }
        put_back(&dir, &newest);
        assert_eq!(open(&dir.db()).origin(), None);
        put_back(&dir, &copies[0]);
        write(&mut open(&dir.db()), b"goes on");
        let mut store = open(&dir.db());
        assert_eq!(store.origin(), None);
        assert_eq!(read(&mut store, 0, 0, 7), b"goes on");
    }
}

#[test]
fn after_a_clean_stop_its_last_commit_has_to_be_there() {
    let dir = Dir::new("last");
    let mut store = open(&dir.db());
    write(&mut store, b"first");
    let copy = take(&dir);
    write(&mut store, b"last");
    store.close(STOCK);
    drop(store);
    put_back(&dir, &copy);
    assert_eq!(reason(&open(&dir.db())), Some("older_store"));
}

#[test]
fn a_log_that_is_in_the_database_and_lost_its_end_changes_nothing() {
    for part in [1, 2, 3, 10] {
        let dir = Dir::new("leftover");
        let mut store = open(&dir.db());
        // Until all of the log is in the database.
        let mut copied = fs::metadata(dir.db()).unwrap().modified().unwrap();
        let start = copied;
        let mut round = 0_u64;
        while copied == start {
            round += 1;
            store.write_slot(SlotId(0), 0, &pattern(round, SLOT_BYTES)).unwrap();
            store.write_slot(SlotId(1), 0, &pattern(round + 1, SLOT_BYTES)).unwrap();
            store.commit().unwrap();
            copied = fs::metadata(dir.db()).unwrap().modified().unwrap();
            if copied == start {
                store.maintain(true).unwrap();
                copied = fs::metadata(dir.db()).unwrap().modified().unwrap();
            }
        }
        store.close(STOCK);
        drop(store);
        let log = fs::OpenOptions::new().write(true).open(dir.db().with_extension("db-wal"));
        log.unwrap().set_len(32 + 1048 * 40 * part).unwrap();
        let mut store = open(&dir.db());
        assert_eq!((store.origin(), store.quarantined.clone()), (None, None));
        assert_eq!(read(&mut store, 0, 0, SLOT_BYTES), pattern(round, SLOT_BYTES));
        assert_eq!(read(&mut store, 1, 0, SLOT_BYTES), pattern(round + 1, SLOT_BYTES));
    }
}

#[test]
fn the_lock_that_is_removed_while_it_runs_is_written_again() {
    let dir = Dir::new("relocked");
    let mut store = open(&dir.db());
    write(&mut store, b"first");
    drop(store);
    let copy = take(&dir);
    let mut store = open(&dir.db());
    write(&mut store, b"last");
    fs::remove_file(dir.db().with_extension("db.lock")).unwrap();
    assert_eq!(store.look(), Ok(true));
    drop(store);
    put_back(&dir, &copy);
    assert_eq!(reason(&open(&dir.db())), Some("older_store"));
}
