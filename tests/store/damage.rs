//! What is found at start: damaged, foreign, newer or locked files.

use super::*;
use spillway::queue::store::seal;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = Dir::new("lock");
    let first = open(&dir.db());
    let second = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(second, Some(OpenError::InUse));
    drop(first);
    open(&dir.db());
}

/// Waits in a child between `fork` and `exec` until it is told to go on.
struct Forked {
    go_on: io::PipeWriter,
    child: std::thread::JoinHandle<std::process::Output>,
}

impl Forked {
    fn new(mut command: Command) -> Forked {
        let (told, go_on) = io::pipe().unwrap();
        let (mut here, is_here) = io::pipe().unwrap();
        // SAFETY: the child only reads and writes pipes.
        unsafe {
            command.pre_exec(move || {
                (&is_here).write_all(b"!")?;
                (&told).read_exact(&mut [0])
            });
        }
        let child = std::thread::spawn(move || command.output().unwrap());
        here.read_exact(&mut [0]).unwrap();
        Forked { go_on, child }
    }

    /// What it writes as the program that it becomes.
    fn go_on(mut self) -> String {
        self.go_on.write_all(b"!").unwrap();
        String::from_utf8(self.child.join().unwrap().stdout).unwrap()
    }
}

#[test]
fn a_forked_child_holds_neither_the_lock_nor_a_file_of_the_store() {
    let dir = Dir::new("forked");
    let mut store = open(&dir.db());
    store.put(Table::Meta, b"a", b"1").unwrap();
    store.commit().unwrap();
    let mut list = Command::new("ls");
    list.args(["-l", "/proc/self/fd"]);
    let child = Forked::new(list);
    let second = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(second, Some(OpenError::InUse), "the lock is held as before");
    drop(store);
    drop(open(&dir.db()));
    let files = child.go_on();
    assert!(files.contains("/proc/"), "{files}");
    assert!(!files.contains("spill.db"), "{files}");
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
    write_at(&dir.db(), 60, &77_u32.to_be_bytes());
    let before = fs::read(dir.db()).unwrap();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err();
    assert_eq!(error, Some(OpenError::Newer { version: 77 }));
    assert_eq!(fs::read(dir.db()).unwrap(), before);
}

#[test]
fn a_version_that_no_release_has_is_damage() {
    let dir = Dir::new("version");
    drop(open(&dir.db()));
    write_at(&dir.db(), 60, &(2_u32 | 1 << 20).to_be_bytes());
    let store = open(&dir.db());
    assert!(store.quarantined.as_ref().unwrap().reason.contains("head"));
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Overwrites `bytes` of the database at `at` with 0xa5, and empties its log, from which SQLite
/// would heal the page.
fn damage(path: &Path, at: u64, bytes: usize) {
    damage_with(path, at, bytes, QUOTA);
}

/// The same in a store that may have so many bytes.
fn damage_with(path: &Path, at: u64, bytes: usize, quota: u64) {
    // Opening checkpoints the log.
    drop(SqliteStore::open(path, Some(quota), Sync::Full, None).unwrap());
    let wal = path.with_extension("db-wal");
    let length = fs::metadata(&wal).unwrap().len();
    fs::write(wal, vec![0; usize::try_from(length).unwrap()]).unwrap();
    write_at(path, at, &vec![0xa5; bytes]);
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
fn a_file_that_its_log_no_longer_fits_is_put_aside_and_no_reason_not_to_start() {
    let dir = Dir::new("cut");
    let mut store = open(&dir.db());
    for slot in 0..32 {
        store.write_slot(SlotId(slot), 0, &pattern(u64::from(slot), SLOT_BYTES)).unwrap();
        store.commit().unwrap();
    }
    // As a kill leaves it, the last commit in its log.
    let killed = Dir::new("cut-killed");
    for end in ["db", "db-wal"] {
        fs::copy(dir.db().with_extension(end), killed.db().with_extension(end)).unwrap();
    }
    let file = fs::OpenOptions::new().write(true).open(killed.db()).unwrap();
    file.set_len(file.metadata().unwrap().len() / 4).unwrap();
    let store = open(&killed.db());
    let reason = &store.quarantined.as_ref().unwrap().reason;
    assert!(reason.contains("first checkpoint"), "{reason}");
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
fn a_log_of_ours_beside_a_foreign_file_does_not_change_it() {
    let dir = Dir::new("foreign-log");
    let mut store = open(&dir.db());
    for slot in 0..9 {
        // The file grows: the log has its head.
        store.write_slot(SlotId(slot), 0, &pattern(u64::from(slot), SLOT_BYTES)).unwrap();
        store.commit().unwrap();
    }
    drop(store);
    fs::write(dir.db(), "some text that is long enough ".repeat(900)).unwrap();
    let before = fs::read(dir.db()).unwrap();
    let error = SqliteStore::open(&dir.db(), None, Sync::Full, None).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(dir.db()).unwrap(), before);
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

#[test]
fn a_retained_message_of_any_size_is_found_in_what_was_put_aside() {
    const LARGE: u64 = 64 * 1024 * 1024;
    let dir = Dir::new("large-row");
    let open = || SqliteStore::open(&dir.db(), Some(LARGE), Sync::Full, None).unwrap();
    let topic = pattern(3, 65_535);
    let mut value = pattern(4, 3 * 1024 * 1024);
    seal(Table::Retained, &topic, &mut value);
    let mut store = open();
    store.put(Table::Retained, &topic, &value).unwrap();
    store.commit().unwrap();
    drop(store);
    // The head: nothing leads to the row any more.
    damage_with(&dir.db(), 0, 100, LARGE);
    let mut store = open();
    assert!(store.quarantined.is_some());
    assert!(rows(&mut store, Table::Retained) == [(topic, value)]);
}
