//! What the store writes to the disk a payload byte, counted by the kernel, checkpoints included.
//!
//! Messages of 128 bytes are stored as records of 190, a commit every so many, then settled with
//! one slot row a commit of 64 acknowledgements; in a new file, then over the same slots again.
//! The whole table: `cargo test --release --test store -- --ignored --nocapture table`.

use super::*;

const RECORD_BYTES: usize = 190;
const PAYLOAD_BYTES: usize = 128;
const RECORDS_PER_SLOT: usize = SLOT_BYTES / RECORD_BYTES;

/// Bytes written a payload byte.
struct Ratio {
    stored: f64,
    drained: f64,
    /// By the store's own count.
    own: f64,
}

impl Ratio {
    fn all(&self) -> f64 {
        self.stored + self.drained
    }
}

/// `None` where the kernel does not count, or the file system is none of a disk.
fn kernel_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

fn turn(store: &mut SqliteStore) {
    store.commit().unwrap();
    store.maintain(false).unwrap();
}

fn measure(name: &str, sync: Sync, batch: usize, messages: usize) -> Option<[Ratio; 2]> {
    let dir = Dir::new(name);
    let before = kernel_bytes()?;
    let mut store = SqliteStore::open(&dir.db(), None, sync, None).unwrap();
    if kernel_bytes()? == before {
        return None;
    }
    let round = |round: usize| {
        let (before, own) = (kernel_bytes()?, store.written_bytes());
        for first in (0..messages).step_by(batch) {
            for n in first..messages.min(first + batch) {
                let slot = SlotId(u32::try_from(n / RECORDS_PER_SLOT).unwrap());
                let record = [u8::try_from((n + round) % 251).unwrap(); RECORD_BYTES];
                store.write_slot(slot, n % RECORDS_PER_SLOT * RECORD_BYTES, &record).unwrap();
            }
            turn(&mut store);
        }
        let stored = kernel_bytes()?;
        for n in (0..messages).step_by(64) {
            let slot = u32::try_from(n / RECORDS_PER_SLOT).unwrap();
            let row = [u8::try_from((n / 64 + round) % 251).unwrap(); 90];
            store.put(Table::Slot, &slot.to_be_bytes(), &row).unwrap();
            turn(&mut store);
        }
        let ratio = |bytes: u64| bytes as f64 / (messages * PAYLOAD_BYTES) as f64;
        Some(Ratio {
            stored: ratio(stored - before),
            drained: ratio(kernel_bytes()? - stored),
            own: ratio(store.written_bytes() - own),
        })
    };
    let [first, second] = [0, 1].map(round);
    Some([first?, second?])
}

#[test]
fn a_payload_byte_costs_less_than_five_on_the_disk() {
    for (sync, most_new, most_again) in [(Sync::Full, 5.1, 4.5), (Sync::Normal, 4.2, 3.6)] {
        let Some([new, again]) = measure("bytes", sync, 64, 20_000) else {
            println!("skipped: nobody counts what is written here");
            return;
        };
        assert!(new.all() < most_new, "{sync:?}, new file: {:.2}", new.all());
        assert!(again.all() < most_again, "{sync:?}, old slots: {:.2}", again.all());
        for ratio in [new, again] {
            // The last turns wait in the log, the kernel counts a block once more when it has
            // written it in between.
            let off = (ratio.own - ratio.all()).abs() / ratio.all();
            assert!(off < 0.05, "{sync:?}: own count {:.2}, {:.2}", ratio.own, ratio.all());
        }
    }
}

#[test]
#[ignore = "prints a table"]
fn table() {
    println!("sync    a commit   new: stored drained  all    again: stored drained  all");
    for sync in [Sync::Full, Sync::Normal] {
        for (batch, messages) in [(1, 10_000), (16, 40_000), (64, 40_000), (256, 40_000)] {
            let [new, again] = measure("table", sync, batch, messages).expect("a real disk");
            print!("{:7} {batch:8}", format!("{sync:?}"));
            for ratio in [new, again] {
                print!(" {:12.2} {:7.2} {:6.2}", ratio.stored, ratio.drained, ratio.all());
            }
            println!();
        }
    }
}
