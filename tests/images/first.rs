//! The first start, and the start that puts a damaged file aside: a cut at any call leaves no
//! store or a whole one, never one that stops the next start, and loses no file that was put aside.

use super::calls::{self, Record};
use super::power::{FATES, Image};
use super::{Cut, Density, Dir, NAME, cut_everywhere, each_seed, kept};
use spillway::config::Sync;
use spillway::queue::store::{SpillStore, Table};
use spillway::shell::sqlite::SqliteStore;
use spillway::vocab::Rng;
use std::fs;

/// Every call, with every fate.
const EVERY: Density =
    Density { fates: &FATES, at_syncs: FATES.len(), at_others: FATES.len(), between: 1 };

const QUOTA_KEY: &[u8] = b"store.quota";

/// Records one opening of what is in `dir`, by a process that does nothing else.
fn opening(dir: &Dir, sync: Sync, quota: Option<u64>, can_reserve: bool) -> Record {
    calls::start(&dir.0, can_reserve);
    let store = SqliteStore::open(&dir.db(), quota, sync, None).map(drop);
    let record = calls::finish();
    store.expect("nothing was cut");
    dir.assert_holds_all_of(&record);
    record
}

/// Opens what a cut left, uses it, opens it again; says which quota was chosen at first.
fn goes_on(dir: &Dir, sync: Sync, quota: Option<u64>) -> Result<SqliteStore, String> {
    let start = || SqliteStore::open(&dir.db(), quota, sync, None).map_err(|e| e.to_string());
    let mut store = start()?;
    let mut rows = Vec::new();
    let mut row = |key: &[u8], _: &[u8]| rows.push(key.to_vec());
    store.scan(Table::Meta, &mut row).map_err(|error| format!("{error:?}"))?;
    if !rows.is_empty() {
        return Err(format!("a new store holds the rows {rows:?}"));
    }
    let bytes = fs::read(dir.db()).expect("a file");
    if bytes.windows(QUOTA_KEY.len()).any(|bytes| bytes == QUOTA_KEY) != quota.is_none() {
        return Err("the quota is remembered when it was given, or forgotten when chosen".into());
    }
    let used = store.put(Table::Meta, b"used", b"1").and_then(|()| store.commit());
    used.map_err(|error| format!("cannot be used: {error:?}"))?;
    drop(store);
    let mut again = start()?;
    let mut found = 0;
    let read = again.scan(Table::Meta, &mut |key, _| found += u32::from(key == b"used"));
    read.map_err(|error| format!("{error:?}"))?;
    if found == 1 { Ok(again) } else { Err("what was committed next is gone".into()) }
}

#[test]
fn a_cut_in_the_first_start_never_stops_the_next() {
    each_seed("first start", 1, |seed| {
        let mut rng = Rng::new(seed);
        let mut tried = 0;
        for sync in [Sync::Full, Sync::Normal] {
            for (quota, can_reserve) in
                [(Some(super::QUOTA), true), (Some(super::QUOTA), false), (None, true)]
            {
                let dir = Dir::new();
                let record = opening(&dir, sync, quota, can_reserve);
                cut_everywhere(&record, 0, EVERY, &mut rng, |cut, image| {
                    tried += 1;
                    dir.hold(image);
                    let done = goes_on(&dir, sync, quota).and_then(|store| {
                        let aside = store.quarantined.as_ref();
                        aside.map_or(Ok(()), |aside| Err(format!("put aside: {}", aside.reason)))
                    });
                    if let Err(what) = done {
                        fail(seed, cut, image, &what);
                    }
                });
            }
        }
        tried
    });
}

fn fail(seed: u64, cut: Cut, image: &Image, what: &str) -> ! {
    panic!("seed {seed}, {cut:?}: {what}; see {}", kept(image).display());
}

/// A store that is used and then damaged in its head, with a log that belongs to it.
fn damaged(dir: &Dir) -> (Vec<u8>, Vec<u8>) {
    let mut store = super::open(dir, Sync::Full).expect("a new store");
    for key in 0..20_u32 {
        store.put(Table::Session, &key.to_be_bytes(), &[1; 300]).expect("room");
        store.commit().expect("room");
    }
    drop(store);
    let mut bytes = fs::read(dir.db()).expect("a file");
    bytes[100..300].fill(0xA5);
    fs::write(dir.db(), &bytes).expect("a file");
    let log = fs::read(dir.0.join(format!("{NAME}-wal"))).expect("a file");
    (bytes, log)
}

#[test]
fn a_cut_while_a_damaged_file_is_put_aside_loses_neither_it_nor_the_next_start() {
    each_seed("put aside", 1, |seed| {
        let mut rng = Rng::new(seed);
        let mut tried = 0;
        let dir = Dir::new();
        let (database, log) = damaged(&dir);
        // Without the log nothing heals the head: what is put aside is what was damaged.
        let zeroed = vec![0; log.len()];
        fs::write(dir.0.join(format!("{NAME}-wal")), &zeroed).expect("a file");
        let record = opening(&dir, Sync::Full, Some(super::QUOTA), true);
        cut_everywhere(&record, 0, EVERY, &mut rng, |cut, image| {
            tried += 1;
            dir.hold(image);
            if let Err(what) = goes_on(&dir, Sync::Full, Some(super::QUOTA)) {
                fail(seed, cut, image, &what);
            }
            let mut names = fs::read_dir(&dir.0).expect("our own directory");
            let there = names.any(|entry| {
                let entry = entry.expect("a name");
                let name = entry.file_name().into_string().expect("text");
                name.contains(".corrupt-")
                    && fs::read(entry.path()).is_ok_and(|bytes| bytes == database)
            });
            if !there {
                fail(seed, cut, image, "the damaged file is gone");
            }
        });
        tried
    });
}
