//! The store is taken away while it is in use: noticed, and put back with everything in it.

use super::*;
use spillway::note::Note;
use std::os::unix::fs::MetadataExt;

/// A store with something in its database and something in its log alone.
fn in_use(dir: &Dir) -> SqliteStore {
    let mut store = open(&dir.db());
    for slot in 0..40 {
        store.write_slot(SlotId(slot), 0, &pattern(slot.into(), SLOT_BYTES)).unwrap();
        store.commit().unwrap();
    }
    store.maintain(true).unwrap();
    store.put(Table::Meta, b"a", b"in the log").unwrap();
    store.commit().unwrap();
    assert_eq!(store.look(), Ok(true));
    store
}

fn told(store: &mut SqliteStore) -> Vec<String> {
    core::iter::from_fn(|| store.poll_note())
        .map(|note| match note {
            Note::StoreError { operation, reason, .. } => format!("{operation} {reason}"),
            Note::StoreRecovered { .. } => "recovered".to_owned(),
            Note::StoreQuarantined { reason, .. } => format!("aside {reason}"),
            other => panic!("{other}"),
        })
        .collect()
}

/// Looks until it is back; what was said, and how many looks that took.
fn back(store: &mut SqliteStore) -> (Vec<String>, usize) {
    let mut looks = 1;
    while store.look() == Ok(false) {
        let refused = store.put(Table::Meta, b"b", b"2").unwrap_err();
        assert!([StoreError::Gone, StoreError::Replaced].contains(&refused), "{refused:?}");
        looks += 1;
    }
    assert_eq!(store.look(), Ok(true));
    (told(store), looks)
}

/// Everything is there: for whoever has it open, and after a kill for the next.
fn is_whole(mut store: SqliteStore, dir: &Dir) {
    store.put(Table::Meta, b"c", b"after").unwrap();
    store.commit().unwrap();
    for at_path in [false, true] {
        if at_path {
            drop(store);
            store = open(&dir.db());
            assert_eq!(store.quarantined, None);
        }
        for slot in 0..40 {
            let wanted = pattern(slot.into(), SLOT_BYTES);
            assert_eq!(read(&mut store, slot, 0, SLOT_BYTES), wanted, "slot {slot}");
        }
        let rows = rows(&mut store, Table::Meta);
        let wanted = [(&b"a"[..], &b"in the log"[..]), (b"c", b"after")];
        assert_eq!(rows, wanted.map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
}

#[test]
fn what_is_removed_is_put_back() {
    let files = ["spill.db", "spill.db-wal", "spill.db.lock"];
    for taken in 1..8_usize {
        let dir = Dir::new(&format!("removed-{taken}"));
        let mut store = in_use(&dir);
        let gone = |at: usize| taken >> at & 1 == 1;
        for (at, file) in files.iter().enumerate().filter(|(at, _)| gone(*at)) {
            fs::remove_file(dir.0.join(file)).unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        let (said, looks) = back(&mut store);
        if gone(0) || gone(1) {
            assert_eq!(said, ["look store_gone", "recovered"], "{taken}");
        } else {
            // The lock alone: nobody could have taken it meanwhile.
            assert_eq!(said, [""; 0]);
        }
        assert_eq!(looks > 1, gone(0), "copied in pieces: {looks}");
        let second = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
        assert_eq!(second, Some(OpenError::InUse), "{taken}");
        assert_eq!(dir.names(), files, "{taken}");
        is_whole(store, &dir);
    }
}

#[test]
fn what_was_moved_in_is_put_aside() {
    let dir = Dir::new("moved-in");
    let mut store = in_use(&dir);
    let other = Dir::new("moved-in-other");
    drop(open(&other.db()));
    for end in ["", "-wal"] {
        let name = format!("spill.db{end}");
        fs::rename(other.0.join(&name), dir.0.join(&name)).unwrap();
    }
    let theirs = fs::metadata(dir.db()).unwrap().ino();
    let (said, _) = back(&mut store);
    assert_eq!(said, ["look store_replaced", "aside store_replaced", "recovered"]);
    let aside = fs::metadata(dir.0.join("spill.db.corrupt-1")).unwrap().ino();
    assert_eq!(aside, theirs, "it is not lost");
    is_whole(store, &dir);
}

#[test]
fn another_log_beside_it_is_put_aside() {
    let dir = Dir::new("other-log");
    let mut store = in_use(&dir);
    fs::write(dir.0.join("new"), b"no log").unwrap();
    fs::rename(dir.0.join("new"), dir.0.join("spill.db-wal")).unwrap();
    let (said, _) = back(&mut store);
    assert_eq!(said, ["look store_replaced", "aside store_replaced", "recovered"]);
    is_whole(store, &dir);
}

#[test]
fn a_directory_that_is_replaced_gets_it_when_it_is_there() {
    let dir = Dir::new("replaced");
    let mut store = in_use(&dir);
    let old = dir.0.with_extension("old");
    let _ = fs::remove_dir_all(&old);
    fs::rename(&dir.0, &old).unwrap();
    for _ in 0..3 {
        assert_eq!(store.look(), Err(StoreError::Gone));
        assert_eq!(store.put(Table::Meta, b"b", b"2"), Err(StoreError::Gone));
        assert_eq!(read(&mut store, 7, 0, SLOT_BYTES), pattern(7, SLOT_BYTES));
    }
    assert_eq!(told(&mut store), ["look store_gone"], "once");
    fs::create_dir(&dir.0).unwrap();
    let (said, _) = back(&mut store);
    assert_eq!(said, ["recovered"]);
    is_whole(store, &dir);
    fs::remove_dir_all(&old).unwrap();
}

#[test]
fn what_comes_back_by_itself_is_taken_as_it_is() {
    let dir = Dir::new("comes-back");
    let mut store = in_use(&dir);
    fs::rename(dir.db(), dir.0.join("elsewhere")).unwrap();
    assert_eq!(store.look(), Ok(false));
    fs::rename(dir.0.join("elsewhere"), dir.db()).unwrap();
    let (said, looks) = back(&mut store);
    assert_eq!((said, looks), (vec!["look store_gone".to_owned(), "recovered".to_owned()], 1));
    assert_eq!(dir.names(), ["spill.db", "spill.db-wal", "spill.db.lock"]);
    is_whole(store, &dir);
}

#[test]
fn what_somebody_cuts_or_overwrites_is_damaged() {
    let other = Dir::new("overwritten-other");
    drop(open(&other.db()));
    let cut = |path: PathBuf, bytes: u64| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(bytes).unwrap();
    };
    for how in 0..4 {
        let dir = Dir::new(&format!("cut-{how}"));
        let mut store = in_use(&dir);
        let log = dir.0.join("spill.db-wal");
        match how {
            0 => cut(dir.db(), fs::metadata(dir.db()).unwrap().len() / 2),
            1 => cut(dir.db(), 0),
            2 => cut(log, 40),
            // As `cp` does it.
            _ => drop(fs::copy(other.db(), dir.db()).unwrap()),
        }
        assert_eq!(store.look(), Err(StoreError::Corrupt), "{how}");
        assert!(!store.is_sound(), "{how}");
        assert_eq!(told(&mut store), ["look corrupt"], "{how}");
    }
}

#[test]
fn who_touches_or_reads_it_does_no_harm() {
    let dir = Dir::new("touched");
    let mut store = in_use(&dir);
    let file = fs::File::options().append(true).open(dir.db()).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::copy(dir.db(), dir.0.join("backup")).unwrap();
    for _ in 0..3 {
        assert_eq!(store.look(), Ok(true));
        store.put(Table::Meta, b"c", b"after").unwrap();
        store.commit().unwrap();
        store.maintain(true).unwrap();
    }
    assert_eq!(told(&mut store), [""; 0]);
    fs::remove_file(dir.0.join("backup")).unwrap();
    is_whole(store, &dir);
}
