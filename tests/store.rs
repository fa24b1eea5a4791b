//! The spill store on a real file system: what was committed is there after `kill -9`, a full
//! disk can be drained, and what is found damaged or foreign at start is treated as promised.

use spillway::config::Sync;
use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use spillway::shell::sqlite::{HEAP_BYTES, OpenError, SqliteStore};
use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
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
        store.maintain(round % 7 == 0).unwrap();
        assert!(store.written_bytes() > written, "a commit is counted");
        written = store.written_bytes();
    }
    assert_eq!(wal(), filled, "the log kept the size it was given at the start");
    assert_eq!(read(&mut store, 0, 0, 4000), pattern(1999, 4000));
    assert!(store.bytes() <= QUOTA);
}

#[test]
fn a_transaction_larger_than_the_page_cache_fits_the_heap_limit() {
    let dir = Dir::new("heap");
    let mut store = SqliteStore::open(&dir.db(), None, Sync::Full, Some(HEAP_BYTES)).unwrap();
    let all = pattern(5, SLOT_BYTES);
    for round in 0..4 {
        for slot in 0..16 {
            store.write_slot(SlotId(slot + round * 8), 0, &all).unwrap();
        }
        store.commit().unwrap();
    }
    assert_eq!(read(&mut store, 39, 0, SLOT_BYTES), all);
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

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = Dir::new("lock");
    let first = open(&dir.db());
    let second = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(second, Some(OpenError::InUse));
    drop(first);
    open(&dir.db());
}

#[test]
fn a_missing_directory_is_named() {
    let dir = Dir::new("missing");
    let path = dir.0.join("not/there/spill.db");
    let error = SqliteStore::open(&path, None, Sync::Full, None).err().unwrap();
    assert!(matches!(error, OpenError::NoDirectory(_)), "{error:?}");
    assert!(error.to_string().contains("not/there"), "{error}");
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = Dir::new("foreign");
    let other = rusqlite::Connection::open(dir.db()).unwrap();
    other.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE theirs(x)").unwrap();
    drop(other);
    let before = fs::read(dir.db()).unwrap();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(dir.db()).unwrap(), before);
    fs::write(dir.db(), "some text that is long enough ".repeat(9)).unwrap();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert_eq!(dir.names(), ["spill.db", "spill.db.lock"]);
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let dir = Dir::new("newer");
    drop(open(&dir.db()));
    let mut file = fs::OpenOptions::new().write(true).open(dir.db()).unwrap();
    file.seek(SeekFrom::Start(60)).unwrap();
    file.write_all(&77_u32.to_be_bytes()).unwrap();
    drop(file);
    let before = fs::read(dir.db()).unwrap();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(error, Some(OpenError::Newer { version: 77 }));
    assert_eq!(fs::read(dir.db()).unwrap(), before);
}

/// Overwrites `bytes` of the database at `at` with 0xa5, and empties its log, from which SQLite
/// would heal the page.
fn damage(path: &Path, at: u64, bytes: usize) {
    // Opening checkpoints the log.
    drop(open(path));
    let wal = path.with_extension("db-wal");
    fs::OpenOptions::new().write(true).open(wal).unwrap().write_all(&[0; 32]).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&vec![0xa5; bytes]).unwrap();
}

#[test]
fn a_damaged_file_is_put_aside_and_only_the_newest_is_kept() {
    let dir = Dir::new("damaged");
    // The head, the schema, a page of the keyed rows.
    for (round, (at, bytes)) in [(0, 100), (100, 200), (2048, 1024)].into_iter().enumerate() {
        let mut store = open(&dir.db());
        for key in 0..200_u32 {
            store.put(Table::Session, &key.to_be_bytes(), &[1; 300]).unwrap();
        }
        store.commit().unwrap();
        drop(store);
        damage(&dir.db(), at, bytes);
        let mut store = open(&dir.db());
        let found = store.quarantined.clone().expect("put aside");
        assert!(found.file.ends_with(&format!("spill.db.corrupt-{}", round + 1)), "{found:?}");
        assert!(found.reason.contains("database"), "{found:?}");
        assert_eq!(rows(&mut store, Table::Session), []);
        store.write_slot(SlotId(0), 0, b"goes on").unwrap();
        store.commit().unwrap();
        let aside: Vec<_> =
            dir.names().into_iter().filter(|name| name.contains("corrupt")).collect();
        let newest = format!("spill.db.corrupt-{}", round + 1);
        assert_eq!(aside, [newest.clone(), newest + "-wal"]);
        drop(store);
        assert_eq!(open(&dir.db()).quarantined, None);
    }
}

#[test]
fn a_log_without_its_database_is_not_applied_to_a_new_one() {
    let dir = Dir::new("orphan");
    let mut store = open(&dir.db());
    store.put(Table::Meta, b"old", b"1").unwrap();
    store.commit().unwrap();
    drop(store);
    fs::remove_file(dir.db()).unwrap();
    let mut store = open(&dir.db());
    assert!(store.quarantined.is_some());
    assert_eq!(rows(&mut store, Table::Meta), []);
}

#[test]
fn a_bad_page_of_the_log_is_an_error_of_its_slot_only() {
    let dir = Dir::new("page");
    let mut store = open(&dir.db());
    for slot in 0..20 {
        store.write_slot(SlotId(slot), 0, &pattern(u64::from(slot), SLOT_BYTES)).unwrap();
        store.commit().unwrap();
    }
    drop(store);
    damage(&dir.db(), 300 * 1024, 1024);
    let mut store = open(&dir.db());
    assert_eq!(store.quarantined, None);
    let mut out = vec![0; SLOT_BYTES];
    let bad: Vec<_> = (0..20)
        .filter(|&slot| match store.read_slot(SlotId(slot), 0, &mut out) {
            Ok(()) => {
                assert_eq!(out, pattern(u64::from(slot), SLOT_BYTES));
                false
            }
            Err(error) => {
                assert_eq!(error, StoreError::Corrupt);
                true
            }
        })
        .collect();
    assert_eq!(bad.len(), 1, "{bad:?}");
    store.write_slot(SlotId((bad[0] + 1) % 20), 0, b"others go on").unwrap();
    store.commit().unwrap();
}

const CHILD: &str = "SPILLWAY_TEST_STORE";

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
        store.maintain(n % 64 == 0).unwrap();
        println!("committed {n}");
    }
}

#[test]
fn committed_slots_survive_kill_9() {
    let dir = Dir::new("kill");
    let mut last = 0_u32;
    for round in 0..8_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
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
        let newest = newest(&mut store).unwrap();
        assert!(newest == last || newest == last + 1, "said {last}, found {newest}");
        for n in newest.saturating_sub(PARTS - 1)..=newest {
            let (slot, at) = place(n);
            assert_eq!(read(&mut store, slot, at, 4000), pattern(n.into(), 4000), "part {n}");
        }
    }
}

/// A small tmpfs; `None` (and a word why) without the right to mount.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(name: &str, bytes: u64) -> Option<(Tmpfs, Dir)> {
        let dir = Dir::new(name);
        let target = std::ffi::CString::new(dir.0.as_os_str().as_bytes()).unwrap();
        let data = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let kind = c"tmpfs".as_ptr();
        // SAFETY: strings that end with a zero and outlive the call.
        let done = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, data.as_ptr().cast()) };
        if done != 0 {
            println!("skipped: no tmpfs: {}", std::io::Error::last_os_error());
            return None;
        }
        Some((Tmpfs(dir.0.clone()), dir))
    }

    /// Writes until nothing fits any more.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[1; 512]).is_ok() {}
        path
    }

    fn read_only(&self) {
        let target = std::ffi::CString::new(self.0.as_os_str().as_bytes()).unwrap();
        let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
        let none = std::ptr::null();
        // SAFETY: as in `mount`; a remount takes no source.
        let done = unsafe { libc::mount(none, target.as_ptr(), none, flags, none.cast()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let target = std::ffi::CString::new(self.0.as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that ends with a zero and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
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
    let Some((tmpfs, dir)) = Tmpfs::mount("full", 4 * 1024 * 1024) else { return };
    let mut store = SqliteStore::open(&dir.db(), Some(64 << 20), Sync::Full, None).unwrap();
    let (slots, error) = store_until_refused(&mut store, 0);
    assert_eq!(error, StoreError::Full);
    assert!(slots > 40, "{slots}");
    let filler = tmpfs.fill();
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
        store.maintain(round % 3 == 0).unwrap();
    }
    assert_eq!(store_until_refused(&mut store, slots), (slots, StoreError::Full));
    assert_eq!(read(&mut store, round % slots, 0, 8000), pattern(round.into(), 8000));
    // A restart on the full disk changes nothing of that.
    drop(store);
    let mut store = SqliteStore::open(&dir.db(), Some(64 << 20), Sync::Full, None).unwrap();
    assert_eq!(store.quarantined, None);
    assert_eq!(read(&mut store, round % slots, 0, 8000), pattern(round.into(), 8000));
    store.put(Table::Slot, &0_u32.to_be_bytes(), &[9; 90]).unwrap();
    store.commit().unwrap();
    fs::remove_file(filler).unwrap();
}

#[test]
fn room_that_comes_back_is_used() {
    let Some((tmpfs, dir)) = Tmpfs::mount("back", 4 * 1024 * 1024) else { return };
    let mut store = SqliteStore::open(&dir.db(), Some(64 << 20), Sync::Full, None).unwrap();
    store.write_slot(SlotId(0), 0, b"first").unwrap();
    store.commit().unwrap();
    let filler = tmpfs.fill();
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
    let Some((tmpfs, dir)) = Tmpfs::mount("readonly", 4 * 1024 * 1024) else { return };
    drop(open(&dir.db()));
    tmpfs.read_only();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(error, Some(OpenError::ReadOnly));
    assert_eq!(dir.names(), ["spill.db", "spill.db-wal", "spill.db.lock"]);
}
