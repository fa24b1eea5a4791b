//! Power cuts. The real store, and the real core on it, work under load while every call that
//! changes its files is recorded; from the record the files are rebuilt as a cut at any moment
//! could have left them; from each such image the next start has to find what was promised.
//!
//! Everything follows from a seed, which is in the message of a failure:
//!
//! - `SPILLWAY_IMAGES_SEED=N` tries this seed only,
//! - `SPILLWAY_IMAGES_SECONDS=N` goes on with further seeds for so long, in each test,
//! - `--nocapture` shows how many images were tried.

#[path = "../common/mod.rs"]
#[allow(clippy::disallowed_methods)]
#[expect(dead_code, reason = "only its packets are used: there is no other process here")]
mod common;

mod calls;
mod first;
mod gateway;
mod peer;
mod power;
mod raw;

use calls::Record;
use power::{Disk, Fate, Image};
use spillway::config::Sync;
use spillway::shell::sqlite::SqliteStore;
use spillway::vocab::Rng;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Smallest quota there is: images are small, and the log is full often.
const QUOTA: u64 = 1024 * 1024;

const NAME: &str = "spill.db";

/// A directory in memory, if the machine has one, that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("spillway-images-{}-{number}", process::id());
        let slow = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for parent in [Path::new("/dev/shm"), slow] {
            let path = parent.join(&name);
            if roomy(parent) && fs::create_dir(&path).is_ok() {
                return Self(path.canonicalize().expect("it was just made"));
            }
        }
        panic!("neither /dev/shm nor {} can be used", slow.display());
    }

    fn db(&self) -> PathBuf {
        self.0.join(NAME)
    }

    /// Makes the directory hold this image and nothing else.
    fn hold(&self, image: &Image) {
        for entry in fs::read_dir(&self.0).expect("our own directory") {
            let entry = entry.expect("a name");
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| image.contains_key(name)) {
                fs::remove_file(entry.path()).expect("our own file");
            }
        }
        for (name, bytes) in image {
            fs::write(self.0.join(name), bytes).expect("room for an image");
        }
    }

    /// A record rests on this: nothing that changed the directory has escaped it.
    fn assert_holds_all_of(&self, record: &Record) {
        let mut disk = Disk::new(record);
        disk.advance(record.calls.len());
        let image = disk.image(Fate::Kept, &mut Rng::new(0));
        for (name, bytes) in &image {
            let real = fs::read(self.0.join(name)).expect("a file of the record");
            assert!(real == *bytes, "the record misses something that was done to {name}");
        }
        let names = fs::read_dir(&self.0).expect("our own directory").count();
        assert_eq!(names, image.len(), "the record misses a name");
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Can a few images be held there?
fn roomy(parent: &Path) -> bool {
    let probe = parent.join(format!("spillway-images-probe-{}", process::id()));
    let fits = fs::write(&probe, vec![0; 8 << 20]).is_ok();
    let _ = fs::remove_file(probe);
    fits
}

fn open(dir: &Dir, sync: Sync) -> Result<SqliteStore, String> {
    let store = SqliteStore::open(&dir.db(), Some(QUOTA), sync, None)
        .map_err(|error| format!("does not open: {error}"))?;
    match &store.quarantined {
        Some(aside) => Err(format!("put aside: {}", aside.reason)),
        None => Ok(store),
    }
}

/// Runs `try_seed` for the seeds of a test: the first `count`, or as the environment says. It
/// gets a seed and says how many images it has tried.
#[expect(clippy::disallowed_methods, reason = "how long to go on is for people")]
fn each_seed(test: &str, count: u64, mut try_seed: impl FnMut(u64) -> usize) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    let begun = Instant::now();
    let mut images = 0;
    if let Some(seed) = number("SPILLWAY_IMAGES_SEED") {
        images += try_seed(seed);
        println!("{test}: {images} images of seed {seed}");
        return;
    }
    let longer = Duration::from_secs(number("SPILLWAY_IMAGES_SECONDS").unwrap_or(0));
    let mut seed = 0;
    while seed < count || begun.elapsed() < longer {
        images += try_seed(seed);
        seed += 1;
    }
    println!("{test}: {images} images of {seed} seeds in {} s", begun.elapsed().as_secs());
}

/// Where and how one image of a record was cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Calls made before.
    at: usize,
    fate: Fate,
}

/// How many images a record gives.
#[derive(Clone, Copy, Debug)]
struct Density {
    fates: &'static [Fate],
    /// Fates tried before every sync.
    at_syncs: usize,
    /// One of so many calls between is cut too.
    between: u64,
    /// Fates tried there.
    at_others: usize,
}

/// Cuts a record at its syncs and between and calls `look` with every image that is new.
fn cut_everywhere(
    record: &Record,
    from: usize,
    density: Density,
    rng: &mut Rng,
    mut look: impl FnMut(Cut, &Image),
) {
    let mut disk = Disk::new(record);
    let mut known = BTreeSet::new();
    for at in from..=record.calls.len() {
        disk.advance(at);
        let synced_next =
            record.calls.get(at).is_none_or(|call| matches!(call, calls::Call::Sync { .. }));
        let tries = if synced_next {
            density.at_syncs
        } else {
            density.at_others * usize::from(rng.below(density.between) == 0)
        };
        let first = power::below(rng, density.fates.len());
        for turn in 0..tries {
            let fate = density.fates[(first + turn) % density.fates.len()];
            let image = disk.image(fate, rng);
            if known.insert(digest(&image)) {
                calls::go_on(record, fate != Fate::Kept);
                look(Cut { at, fate }, &image);
            }
        }
    }
}

fn digest(image: &Image) -> u64 {
    let mut halves = [crc32fast::Hasher::new(), crc32fast::Hasher::new_with_initial(7)];
    for half in &mut halves {
        for (name, bytes) in image {
            half.update(name.as_bytes());
            half.update(&bytes.len().to_le_bytes());
            half.update(bytes);
        }
    }
    let [high, low] = halves.map(crc32fast::Hasher::finalize);
    u64::from(high) << 32 | u64::from(low)
}

/// Puts an image that failed where it stays.
fn kept(image: &Image) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images-failed");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("a directory of our own");
    for (name, bytes) in image {
        fs::write(place.join(name), bytes).expect("room for an image");
    }
    place
}
