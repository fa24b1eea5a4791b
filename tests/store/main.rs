//! The spill store on a real file system: what was committed is there after `kill -9`, a full
//! disk can be drained, and what is found damaged or foreign at start is treated as promised.

mod bench;
mod damage;
mod disk;
mod large;
mod origin;
mod presence;
#[path = "../common/tmpfs.rs"]
mod tmpfs;

use spillway::config::Sync;
use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use spillway::shell::sqlite::{OpenError, SqliteStore};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
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

#[test]
fn a_log_at_its_cap_is_checkpointed_and_used_again() {
    let dir = Dir::new("cap");
    let mut store = open(&dir.db());
    let wal = || fs::metadata(dir.db().with_extension("db-wal")).unwrap().len();
    let filled = wal();
    let mut written = store.written_bytes();
    for round in 0..2000_u64 {
        store.write_slot(SlotId(0), 0, &pattern(round, 4000)).unwrap();
        store.commit().unwrap();
        store.maintain(round.is_multiple_of(7)).unwrap();
        assert!(store.written_bytes() > written, "a commit is counted");
        written = store.written_bytes();
    }
    assert_eq!(wal(), filled, "the log kept the size it was given at the start");
    assert_eq!(read(&mut store, 0, 0, 4000), pattern(1999, 4000));
    assert!(store.bytes() <= QUOTA);
}

#[test]
fn at_the_quota_growth_is_refused_and_everything_else_goes_on() {
    let dir = Dir::new("quota");
    let mut store = open(&dir.db());
    let all = pattern(9, SLOT_BYTES);
    let slots = store.slot_count_max();
    assert!(slots > 60, "most of the quota is for slots: {slots}");
    for slot in 0..slots {
        store.write_slot(SlotId(slot), 0, &all).unwrap();
        store.put(Table::Slot, &slot.to_be_bytes(), &[1; 90]).unwrap();
        store.commit().unwrap();
    }
    assert_eq!(store.write_slot(SlotId(slots), 0, b"more"), Err(StoreError::Full));
    store.rollback();
    // The keyed rows fill what is left, then they are refused too.
    let mut topics = 0_u32;
    while let Ok(()) = store.put(Table::Retained, &topics.to_be_bytes(), &[3; 900]) {
        store.commit().unwrap();
        topics += 1;
    }
    store.rollback();
    assert!(topics > 50, "{topics} rows beside the slots");
    assert!(store.bytes() <= QUOTA, "{} bytes", store.bytes());
    for slot in 0..slots {
        store.put(Table::Slot, &slot.to_be_bytes(), &[2; 90]).unwrap();
        store.write_slot(SlotId(slot), 100, b"again").unwrap();
        store.commit().unwrap();
    }
    assert_eq!(read(&mut store, slots - 1, 100, 5), b"again");
    store.delete(Table::Retained, &0_u32.to_be_bytes()).unwrap();
    store.commit().unwrap();
    store.put(Table::Retained, &0_u32.to_be_bytes(), &[4; 900]).unwrap();
    store.commit().unwrap();
    assert!(store.bytes() <= QUOTA, "{} bytes", store.bytes());
}

#[test]
fn the_default_quota_is_remembered_and_a_configured_one_wins() {
    let dir = Dir::new("default");
    let slots = |max: Option<u64>| {
        SqliteStore::open(&dir.db(), max, Sync::Normal, None).unwrap().slot_count_max()
    };
    let chosen = slots(None);
    assert!(slots(Some(QUOTA)) < chosen);
    assert_eq!(slots(None), chosen);
    let refused = SqliteStore::open(&dir.db(), Some(1000), Sync::Normal, None).err();
    assert_eq!(refused, Some(OpenError::NoRoom { bytes: 1000 }));
}

const CHILD: &str = "SPILLWAY_TEST_STORE";

/// This program once more; through the emulator that runs this one, if it is told.
fn ourselves() -> Command {
    let own = std::env::current_exe().unwrap();
    match std::env::var_os("SPILLWAY_TEST_EMULATOR") {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(own);
            command
        }
        None => Command::new(own),
    }
}

/// Parts the child writes before it starts over.
const PARTS: u32 = 40 * 8;

fn place(n: u32) -> (u32, usize) {
    (n / 8 % 40, (n % 8 * 4000) as usize)
}

/// The newest commit that the slots' rows tell of.
fn newest(store: &mut SqliteStore) -> Option<u32> {
    let rows = rows(store, Table::Slot);
    rows.into_iter().map(|(_, value)| u32::from_be_bytes(value.try_into().unwrap())).max()
}

/// Runs in a process of its own, for the next test: commits and says so until it is killed.
#[test]
#[ignore = "started by committed_slots_survive_kill_9"]
fn commits_until_killed() {
    let path = PathBuf::from(std::env::var_os(CHILD).expect("started by its parent"));
    let mut store = open(&path);
    let first = newest(&mut store).map_or(0, |n| n + 1);
    for n in first.. {
        let (slot, at) = place(n);
        store.write_slot(SlotId(slot), at, &pattern(n.into(), 4000)).unwrap();
        store.put(Table::Slot, &slot.to_be_bytes(), &n.to_be_bytes()).unwrap();
        store.commit().unwrap();
        store.maintain(n.is_multiple_of(64)).unwrap();
        println!("committed {n}");
    }
}

#[test]
fn committed_slots_survive_kill_9() {
    let dir = Dir::new("kill");
    let mut last = 0_u32;
    for round in 0..8_u32 {
        let mut child = ourselves()
            .args(["--exact", "commits_until_killed", "--ignored", "--nocapture"])
            .env(CHILD, dir.db())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Past the first checkpoints, and somewhere else every time.
        let wanted = last + 90 + round * 37;
        // Read to the end: what it said before it died counts too.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let number = line.strip_prefix("committed ").and_then(|n| n.parse().ok());
            last = number.unwrap_or(last);
            if last == wanted {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(last >= wanted, "the child died by itself at {last}");
        let mut store = open(&dir.db());
        assert_eq!(store.quarantined, None);
        assert_eq!(store.origin(), None, "it is not behind what is known of it");
        let newest = newest(&mut store).unwrap();
        assert!(newest == last || newest == last + 1, "said {last}, found {newest}");
        for n in newest.saturating_sub(PARTS - 1)..=newest {
            let (slot, at) = place(n);
            assert_eq!(read(&mut store, slot, at, 4000), pattern(n.into(), 4000), "part {n}");
        }
    }
}
