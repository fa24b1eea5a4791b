//! A disk that is full, or read-only: a small tmpfs, for which the tests have to run as root.

use super::tmpfs::Tmpfs;
use super::*;

/// A directory that is a small tmpfs.
struct Small(Tmpfs, Dir);

fn mount(name: &str, bytes: u64) -> Option<Small> {
    let dir = Dir::new(name);
    Tmpfs::mount(&dir.0, bytes).map(|tmpfs| Small(tmpfs, dir))
}

/// Fills the slots from `first` on until the store says no.
fn store_until_refused(store: &mut SqliteStore, first: u32) -> (u32, StoreError) {
    for slot in first..store.slot_count_max() {
        let done = store
            .write_slot(SlotId(slot), 0, &pattern(slot.into(), SLOT_BYTES))
            .and_then(|()| store.put(Table::Slot, &slot.to_be_bytes(), &[0; 90]))
            .and_then(|()| store.commit());
        if let Err(error) = done {
            store.rollback();
            return (slot, error);
        }
        store.maintain(false).unwrap();
    }
    panic!("the quota came before the disk");
}

#[test]
fn a_full_disk_refuses_growth_and_can_be_drained() {
    let Some(tmpfs) = mount("full", 4 * 1024 * 1024) else { return };
    let mut store = SqliteStore::open(&tmpfs.1.db(), Some(64 << 20), Sync::Full, None).unwrap();
    let (slots, error) = store_until_refused(&mut store, 0);
    assert_eq!(error, StoreError::Full);
    assert!(slots > 40, "{slots}");
    let filler = tmpfs.0.fill();
    for slot in 0..slots {
        assert_eq!(read(&mut store, slot, 0, SLOT_BYTES), pattern(slot.into(), SLOT_BYTES));
    }
    // Settling and writing over old slots, far more than the log holds: checkpoints included.
    let checkpointed = store.written_bytes() + 8 * 1024 * 1024;
    let mut round = 0_u32;
    while store.written_bytes() < checkpointed {
        round += 1;
        let slot = round % slots;
        store.put(Table::Slot, &slot.to_be_bytes(), &[round as u8; 90]).unwrap();
        store.write_slot(SlotId(slot), 0, &pattern(round.into(), 8000)).unwrap();
        store.commit().unwrap();
        store.maintain(round.is_multiple_of(3)).unwrap();
    }
    assert_eq!(store_until_refused(&mut store, slots), (slots, StoreError::Full));
    // The rows of a window that opens are larger than those of one that is closed.
    for key in 0..4_u8 {
        store.put(Table::Destination, &[key], &[key; 12_000]).unwrap();
        store.commit().unwrap();
        store.maintain(true).unwrap();
    }
    assert_eq!(read(&mut store, round % slots, 0, 8000), pattern(round.into(), 8000));
    // A restart on the full disk changes nothing of that.
    drop(store);
    let mut store = SqliteStore::open(&tmpfs.1.db(), Some(64 << 20), Sync::Full, None).unwrap();
    assert_eq!(store.quarantined, None);
    assert_eq!(read(&mut store, round % slots, 0, 8000), pattern(round.into(), 8000));
    store.put(Table::Slot, &0_u32.to_be_bytes(), &[9; 90]).unwrap();
    store.commit().unwrap();
    fs::remove_file(filler).unwrap();
}

#[test]
fn a_commit_the_full_disk_refuses_changes_nothing_and_the_next_one_works() {
    let Some(tmpfs) = mount("refused", 6 * 1024 * 1024) else { return };
    let mut store = SqliteStore::open(&tmpfs.1.db(), Some(64 << 20), Sync::Full, None).unwrap();
    let (slots, _) = store_until_refused(&mut store, 0);
    tmpfs.0.fill();
    // In one transaction more than the log has room for.
    let refused = (0..slots)
        .try_for_each(|slot| store.write_slot(SlotId(slot), 0, &[7; SLOT_BYTES]))
        .and_then(|()| store.commit());
    assert_eq!(refused, Err(StoreError::Full));
    store.rollback();
    for slot in 0..slots {
        assert_eq!(read(&mut store, slot, 0, SLOT_BYTES), pattern(slot.into(), SLOT_BYTES));
    }
    for slot in 0..slots {
        store.write_slot(SlotId(slot), 0, &[8; 4000]).unwrap();
        store.commit().unwrap();
    }
    assert_eq!(read(&mut store, slots - 1, 0, 4000), [8; 4000]);
}

#[test]
fn room_that_comes_back_is_used() {
    let Some(tmpfs) = mount("back", 4 * 1024 * 1024) else { return };
    let mut store = SqliteStore::open(&tmpfs.1.db(), Some(64 << 20), Sync::Full, None).unwrap();
    store.write_slot(SlotId(0), 0, b"first").unwrap();
    store.commit().unwrap();
    let filler = tmpfs.0.fill();
    let (slots, error) = store_until_refused(&mut store, 1);
    assert_eq!(error, StoreError::Full);
    fs::remove_file(filler).unwrap();
    let (more, error) = store_until_refused(&mut store, slots);
    assert_eq!(error, StoreError::Full);
    assert!(more > slots + 20, "{slots} slots on the full disk, then {more}");
    assert_eq!(read(&mut store, 0, 0, 5), b"first");
    assert_eq!(read(&mut store, more - 1, 0, 9), pattern((more - 1).into(), 9));
}

#[test]
fn a_read_only_file_system_is_named_and_nothing_is_put_aside() {
    let Some(tmpfs) = mount("readonly", 4 * 1024 * 1024) else { return };
    drop(open(&tmpfs.1.db()));
    tmpfs.0.set_read_only(true);
    let error = SqliteStore::open(&tmpfs.1.db(), None, Sync::Full, None).err();
    assert_eq!(error, Some(OpenError::ReadOnly));
    assert_eq!(tmpfs.1.names(), ["spill.db", "spill.db-wal", "spill.db.lock"]);
}
