//! The store alone: random transactions beside a model of what is in it after each commit. Every
//! image must hold exactly what one commit left: one that was not before the last that had
//! returned (as far as `store.sync` promises), and not after the last that had begun.

use super::calls::{self, Call, Record};
use super::power::{FATES, Fate, Image, below};
use super::{Cut, Density, Dir, NAME, cut_everywhere, each_seed, kept, open};
use spillway::config::Sync;
use spillway::queue::SLOT_BYTES;
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use spillway::shell::sqlite::SqliteStore;
use spillway::vocab::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

const TABLES: [Table; 5] =
    [Table::Slot, Table::Destination, Table::Session, Table::Retained, Table::Meta];

/// The row that tells which commit it was; part of every transaction.
const COMMIT: &[u8] = b"commit";

const META: usize = TABLES.len() - 1;

/// Slots in use.
const SLOTS: u32 = 12;

/// What is done and how often it is cut.
#[derive(Clone, Copy, Debug)]
struct Plan {
    sync: Sync,
    can_reserve: bool,
    commits: usize,
    /// How many starts in a row may be cut.
    lives: u32,
    density: Density,
}

/// What is in the store after a commit.
#[derive(Clone, Default)]
struct State {
    rows: [BTreeMap<Vec<u8>, Rc<[u8]>>; TABLES.len()],
    slots: BTreeMap<u32, Rc<Vec<u8>>>,
}

/// A run of the store from its opening to the end of its record.
struct Life {
    record: Record,
    /// Number of the commit it began with; 0 = there was no store.
    base: usize,
    /// State at the beginning and after each commit.
    states: Vec<State>,
    /// Calls made before and after each commit.
    commits: Vec<(usize, usize)>,
    sync: Sync,
}

impl Life {
    /// Opens the store in `dir`, which shows commit `base`, and commits `count` times.
    fn live(dir: &Dir, base: (usize, State), plan: Plan, rng: &mut Rng) -> Result<Self, String> {
        calls::start(&dir.0, plan.can_reserve);
        let lived = Self::commit_often(dir, base, plan, rng);
        let life = Self { record: calls::finish(), ..lived? };
        dir.assert_holds_all_of(&life.record);
        Ok(life)
    }

    fn commit_often(
        dir: &Dir,
        (base, state): (usize, State),
        plan: Plan,
        rng: &mut Rng,
    ) -> Result<Self, String> {
        let mut store = open(dir, plan.sync)?;
        let mut states = vec![state];
        let mut commits = Vec::new();
        while commits.len() < plan.commits {
            let mut state = states[commits.len()].clone();
            let number = base + commits.len() + 1;
            let done = transaction(&mut store, &mut state, number, rng);
            let begun = calls::count();
            if done.is_err() || rng.below(12) == 0 {
                if let Err(error) = done
                    && error != StoreError::Full
                {
                    return Err(format!("commit {number}: {error:?}"));
                }
                store.rollback();
            } else {
                store.commit().map_err(|error| format!("commit {number}: {error:?}"))?;
                commits.push((begun, calls::count()));
                states.push(state);
            }
            let kept = store.maintain(rng.below(3) == 0);
            kept.map_err(|error| format!("checkpoint after {number}: {error:?}"))?;
        }
        Ok(Self { record: Record::default(), base, states, commits, sync: plan.sync })
    }

    /// Which commits an image may show.
    fn allowed(&self, cut: Cut) -> (usize, usize) {
        let begun = self.commits.iter().filter(|(begun, _)| *begun < cut.at).count();
        let least = match self.sync {
            Sync::Full => self.acked(cut.at),
            Sync::Normal | Sync::Off if cut.fate == Fate::Kept => self.acked(cut.at),
            Sync::Normal => self.acked(self.log_synced(cut.at)),
            Sync::Off => 0,
        };
        (self.base + least, self.base + begun)
    }

    /// Commits that had returned when `at` calls were made.
    fn acked(&self, at: usize) -> usize {
        self.commits.iter().filter(|(_, done)| *done <= at).count()
    }

    /// Calls made when the write-ahead log was last synced.
    fn log_synced(&self, at: usize) -> usize {
        let log = self.record.file(&format!("{NAME}-wal"));
        let calls = self.record.calls[..at].iter();
        let synced = |call: &Call| matches!(call, Call::Sync { file } if Some(*file) == log);
        calls.rev().position(synced).map_or(0, |back| at - back)
    }

    /// Opens an image and compares; says which commit it shows.
    fn check(&self, dir: &Dir, image: &Image, cut: Cut) -> Result<usize, String> {
        dir.hold(image);
        let mut store = open(dir, self.sync)?;
        self.compare(&mut store, self.allowed(cut))
    }

    /// Compares a store with the commit it shows, which has to be one of `least..=most`.
    fn compare(
        &self,
        store: &mut SqliteStore,
        (least, most): (usize, usize),
    ) -> Result<usize, String> {
        let mut found: [BTreeMap<Vec<u8>, Vec<u8>>; TABLES.len()] = Default::default();
        for (rows, table) in found.iter_mut().zip(TABLES) {
            let mut row = |key: &[u8], value: &[u8]| drop(rows.insert(key.into(), value.into()));
            let read = store.scan(table, &mut row);
            read.map_err(|error| format!("{table:?} cannot be read: {error:?}"))?;
        }
        let shows = found[META].get(COMMIT).map_or(Ok(0), |number| {
            let number = <[u8; 8]>::try_from(&number[..]).map_err(|_| "no number")?;
            usize::try_from(u64::from_be_bytes(number)).map_err(|_| "a strange number")
        })?;
        if shows < least || shows > most {
            return Err(format!("shows commit {shows}, not one of {least} to {most}"));
        }
        let wrong = |what: String| Err(format!("commit {shows}: {what}"));
        let state = &self.states[shows - self.base];
        for ((found, expected), table) in found.iter().zip(&state.rows).zip(TABLES) {
            for (key, value) in expected {
                match found.get(key) {
                    Some(found) if found[..] == value[..] => {}
                    Some(_) => return wrong(format!("{table:?} {key:?} has another value")),
                    None => return wrong(format!("{table:?} {key:?} is lost")),
                }
            }
            if let Some(key) = found.keys().find(|key| !expected.contains_key(*key)) {
                return wrong(format!("{table:?} {key:?} is invented"));
            }
        }
        let mut bytes = vec![0; SLOT_BYTES];
        for slot in 0..SLOTS {
            if let Err(error) = store.read_slot(SlotId(slot), 0, &mut bytes) {
                return wrong(format!("slot {slot} cannot be read: {error:?}"));
            }
            let same = match state.slots.get(&slot) {
                Some(expected) => **expected == bytes,
                None => bytes.iter().all(|byte| *byte == 0),
            };
            if !same {
                return wrong(format!("slot {slot} has other bytes"));
            }
        }
        Ok(shows)
    }
}

/// One transaction, not committed yet; `number` is the commit it will be.
fn transaction(
    store: &mut SqliteStore,
    state: &mut State,
    number: usize,
    rng: &mut Rng,
) -> Result<(), StoreError> {
    // Now and then one that is larger than the page cache: SQLite writes before the commit.
    let large = rng.below(25) == 0;
    let writes = if large { 40 } else { 1 + below(rng, 6) };
    for _ in 0..writes {
        let at = below(rng, TABLES.len());
        let key = match TABLES[at] {
            Table::Slot => u32::try_from(below(rng, 40)).expect("small").to_be_bytes().to_vec(),
            _ => format!("key {}", rng.below(12)).into_bytes(),
        };
        match rng.below(10) {
            0..4 => {
                let bytes = if rng.below(20) == 0 { 5000 } else { below(rng, 700) };
                let value = noise(rng, bytes);
                store.put(TABLES[at], &key, &value)?;
                state.rows[at].insert(key, value.into());
            }
            4 => {
                store.delete(TABLES[at], &key)?;
                state.rows[at].remove(&key);
            }
            _ => {
                let slot = u32::try_from(rng.below(SLOTS.into())).expect("small");
                let bytes = if large || rng.below(20) == 0 { SLOT_BYTES } else { below(rng, 3000) };
                let from = below(rng, SLOT_BYTES - bytes + 1);
                let bytes = noise(rng, bytes);
                store.write_slot(SlotId(slot), from, &bytes)?;
                let place = state.slots.entry(slot).or_insert_with(|| Rc::new(vec![0; SLOT_BYTES]));
                Rc::make_mut(place)[from..from + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    let number = u64::try_from(number).expect("small").to_be_bytes();
    store.put(Table::Meta, COMMIT, &number)?;
    state.rows[META].insert(COMMIT.to_vec(), number[..].into());
    Ok(())
}

fn noise(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// Tries all images of one run; those that fail are told to `failed`.
fn try_images(
    life: &Life,
    plan: Plan,
    dir: &Dir,
    rng: &mut Rng,
    failed: &mut dyn FnMut(Cut, &Image, String),
) -> usize {
    let mut tried = 0;
    let mut again = Rng::new(rng.next_u64());
    cut_everywhere(&life.record, 0, plan.density, rng, |cut, image| {
        tried += 1;
        let shows = match life.check(dir, image, cut) {
            Ok(shows) => shows,
            Err(what) => return failed(cut, image, what),
        };
        if plan.lives < 2 || again.below(60) > 0 {
            return;
        }
        // The start after the cut is cut too, and so is what follows it.
        dir.hold(image);
        let base = (shows, life.states[shows - life.base].clone());
        let density = Density { at_syncs: 2, fates: plan.density.fates, between: 20, at_others: 1 };
        let next = Plan { commits: 3, lives: plan.lives - 1, density, ..plan };
        match Life::live(dir, base, next, &mut again) {
            Ok(second) => {
                let mut failed_later = |later: Cut, image: &Image, what: String| {
                    failed(cut, image, format!("then {later:?}: {what}"));
                };
                tried += try_images(&second, next, dir, &mut again, &mut failed_later);
            }
            Err(what) => failed(cut, image, format!("then: {what}")),
        }
    });
    tried
}

const DENSE: Density = Density { fates: &FATES, at_syncs: 11, between: 2, at_others: 1 };

/// Enough to find what is broken.
const SPARSE: Density = Density { at_syncs: 3, between: 12, ..DENSE };

const PLAN: Plan =
    Plan { sync: Sync::Full, can_reserve: true, commits: 30, lives: 3, density: DENSE };

fn try_seed(seed: u64, plan: Plan) -> usize {
    let mut rng = Rng::new(seed);
    let dir = Dir::new();
    let life = Life::live(&dir, (0, State::default()), plan, &mut rng)
        .unwrap_or_else(|what| panic!("seed {seed}: without any cut: {what}"));
    try_images(&life, plan, &dir, &mut rng, &mut |cut, image, what| {
        panic!("seed {seed}, {plan:?}, {cut:?}: {what}; see {}", kept(image).display());
    })
}

#[test]
fn a_synced_store_loses_no_commit_in_a_power_cut() {
    each_seed("full", 1, |seed| {
        try_seed(seed, PLAN) + try_seed(seed, Plan { can_reserve: false, ..PLAN })
    });
}

#[test]
fn a_store_with_normal_sync_keeps_a_prefix_of_the_commits_and_all_of_them_when_killed() {
    let plan = Plan { sync: Sync::Normal, ..PLAN };
    each_seed("normal", 1, |seed| {
        try_seed(seed, plan) + try_seed(seed, Plan { can_reserve: false, ..plan })
    });
}

#[test]
fn a_killed_store_keeps_every_commit_whatever_is_synced() {
    let density = Density { fates: &[Fate::Kept], at_syncs: 1, between: 6, at_others: 1 };
    each_seed("killed", 1, |seed| {
        let off = try_seed(seed, Plan { sync: Sync::Off, density, ..PLAN });
        off + try_seed(seed, Plan { sync: Sync::Full, density, ..PLAN })
    });
}

/// What the checker says of all images of a run that breaks its promise.
fn faults(plan: Plan, spoil: impl FnOnce(&mut Life)) -> Vec<String> {
    let (mut rng, dir) = (Rng::new(11), Dir::new());
    let mut life = Life::live(&dir, (0, State::default()), plan, &mut rng).expect("uncut");
    spoil(&mut life);
    let mut faults = Vec::new();
    try_images(&life, plan, &dir, &mut rng, &mut |_, _, what| faults.push(what));
    faults
}

fn assert_lost(faults: &[String]) {
    let lost = faults.iter().filter(|what| what.contains("not one of")).count();
    assert!(lost > 0, "no image without an acknowledged commit: {faults:?}");
}

#[test]
fn commits_lost_by_a_disk_that_lies_are_found() {
    let plan = Plan { lives: 1, density: SPARSE, ..PLAN };
    let log = format!("{NAME}-wal");
    // Of everything, of the log, of the database (it is made under another name).
    assert_lost(&faults(plan, |life| {
        life.record = core::mem::take(&mut life.record).with_lying_disk(|_| true);
    }));
    assert_lost(&faults(plan, |life| {
        let log = life.record.file(&log);
        life.record = core::mem::take(&mut life.record).with_lying_disk(|it| Some(it) == log);
    }));
    let found = faults(plan, |life| {
        let database = life.record.file(&format!("{NAME}.new"));
        life.record = core::mem::take(&mut life.record).with_lying_disk(|it| Some(it) == database);
    });
    assert!(!found.is_empty(), "a database that was never synced goes unnoticed");
}

#[test]
fn commits_lost_by_a_store_that_does_not_sync_are_found() {
    for sync in [Sync::Normal, Sync::Off] {
        let found =
            faults(Plan { sync, lives: 1, density: SPARSE, ..PLAN }, |life| life.sync = Sync::Full);
        assert_lost(&found);
    }
}

#[test]
fn half_a_commit_and_an_invented_row_are_found() {
    let dir = Dir::new();
    let plan = Plan { commits: 6, ..PLAN };
    let life = Life::live(&dir, (0, State::default()), plan, &mut Rng::new(3)).expect("uncut");
    let mut store = open(&dir, Sync::Full).expect("uncut");
    assert_eq!(life.compare(&mut store, (6, 6)), Ok(6));
    type Spoil = fn(&mut SqliteStore) -> Result<(), StoreError>;
    let spoils: [(Spoil, &str); 4] = [
        (|it| it.put(Table::Meta, COMMIT, &5_u64.to_be_bytes()), "not one of"),
        (|it| it.put(Table::Session, b"nobody's", b"row"), "invented"),
        (|it| it.write_slot(SlotId(SLOTS - 1), 5, b"a byte"), "other bytes"),
        (|it| it.delete(Table::Meta, COMMIT), "not one of"),
    ];
    for (spoil, expected) in spoils {
        spoil(&mut store).expect("a write");
        let what = life.compare(&mut store, (6, 6)).expect_err(expected);
        assert!(what.contains(expected), "{what}");
        store.rollback();
    }
    let first = life.states[6].rows.iter().zip(TABLES).find_map(|(rows, table)| {
        let key = rows.keys().find(|key| &key[..] != COMMIT)?;
        Some((table, key.clone()))
    });
    let (table, key) = first.expect("six commits put a row");
    store.delete(table, &key).expect("a write");
    let what = life.compare(&mut store, (6, 6)).expect_err("a row is gone");
    assert!(what.contains("is lost"), "{what}");
}
