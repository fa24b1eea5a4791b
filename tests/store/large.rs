//! A store larger than 32 bits with a sign can count: offsets of the file beyond 2 GiB.

use super::*;
use std::os::unix::fs::FileExt;

const GIB: u64 = 1 << 30;

#[test]
#[ignore = "takes 5 GB of disk; scripts/test and cross/test run it where there is that much"]
fn what_lies_beyond_2_and_4_gib_is_written_and_found_again() {
    let dir = Dir::new("large");
    let open = || SqliteStore::open(&dir.db(), Some(6 * GIB), Sync::Full, None).unwrap();
    let mut slot = 0;
    for border in [2 * GIB, 4 * GIB] {
        drop(open());
        // All of it is in the database now.
        let _ = fs::remove_file(dir.db().with_extension("db-wal"));
        // As if all pages so far were in use; nobody looks at what is in them.
        let file = fs::OpenOptions::new().read(true).write(true).open(dir.db()).unwrap();
        let mut page = [0; 2];
        file.read_exact_at(&mut page, 16).unwrap();
        let page = u64::from(u16::from_be_bytes(page));
        file.set_len(border - page).unwrap();
        let pages = u32::try_from(border / page - 1).unwrap();
        file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
        drop(file);
        let mut store = open();
        assert!(slot + 16 < store.slot_count_max());
        for slot in slot..slot + 16 {
            store.write_slot(SlotId(slot), 0, &pattern(slot.into(), SLOT_BYTES)).unwrap();
            store.commit().unwrap();
        }
        store.maintain(true).unwrap();
        drop(store);
        slot += 16;
        assert!(fs::metadata(dir.db()).unwrap().len() > border + 15 * count(SLOT_BYTES));
    }
    let mut store = open();
    assert_eq!(store.quarantined, None);
    assert!(store.bytes() > 4 * GIB && store.bytes() < 6 * GIB, "{}", store.bytes());
    for slot in 0..slot {
        assert_eq!(read(&mut store, slot, 0, SLOT_BYTES), pattern(slot.into(), SLOT_BYTES));
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap()
}
