//! Instructions a message costs in the core, path by path: deterministic, so that a regression
//! shows on a busy machine too. Needs valgrind.
//!
//!   scripts/bench instructions [PATH]...
//!
//! Only the calls of the core are counted (`world::measured`), with what they call: the store in
//! memory, or SQLite on a path that names it. The clients, the remote and the set-up are not.
//! Each path runs once with some and once with twice as many messages; the difference counts.

#[allow(dead_code)]
#[path = "../world/mod.rs"]
mod world;

use spillway::config::Sync;
use spillway::mqtt::{Packet, Properties, Publish, Qos, Version};
use spillway::queue::store::SpillStore;
use spillway::shell::sqlite::SqliteStore;
use spillway::vocab::{ConnId, Instant, PacketId};
use std::process::{Command, ExitCode};
use std::time::Duration;
use world::World;
use world::disk::Disk;

const CONFIG: &str = "\
store.path = /nowhere/spill.db
limit.inflight = 128
bridge.up.server = mqtt://127.0.0.1:1
bridge.up.clientid = up
bridge.up.proto_ver = 4
bridge.up.bridge_bit = false
bridge.up.max_inflight = 128
bridge.up.keepalive = off
bridge.up.forward.a.local_topic = t/#
";

/// Messages of the first run; the second has twice as many.
const MESSAGES: u32 = 4000;
/// Messages a turn, as of four publishers with a window of 100 each.
const BATCH: u16 = 100;
const PAYLOAD: [u8; 128] = [b'x'; 128];
const STORE_BYTES: u64 = 64 << 20;

/// Name, QoS, whether the messages go over the disk, and whether that is SQLite.
const PATHS: &[(&str, Qos, Way)] = &[
    ("qos0_forward", Qos::AtMostOnce, Way::Forward),
    ("qos1_forward", Qos::AtLeastOnce, Way::Forward),
    ("qos2_forward", Qos::ExactlyOnce, Way::Forward),
    ("qos1_spill", Qos::AtLeastOnce, Way::Spill),
    ("qos2_spill", Qos::ExactlyOnce, Way::Spill),
    ("qos1_spill_refill", Qos::AtLeastOnce, Way::SpillRefill),
    ("qos2_spill_refill", Qos::ExactlyOnce, Way::SpillRefill),
    ("qos2_forward_sqlite", Qos::ExactlyOnce, Way::ForwardSqlite),
    ("qos1_spill_sqlite", Qos::AtLeastOnce, Way::SpillSqlite),
    ("qos1_spill_refill_sqlite", Qos::AtLeastOnce, Way::SpillRefillSqlite),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Spill,
    SpillRefill,
    ForwardSqlite,
    SpillSqlite,
    SpillRefillSqlite,
}

fn main() -> ExitCode {
    // Cargo says --bench to what it runs.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [run, name, count] = &words[..]
        && run == "--run"
    {
        let path = PATHS.iter().find(|(known, ..)| known == name).expect("a path");
        run_path(path.1, path.2, count.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    println!("{:<26}{:>24}", "path", "instructions a message");
    for (name, ..) in PATHS {
        if !words.is_empty() && !words.iter().any(|word| word == name) {
            continue;
        }
        let counted =
            collected(name, MESSAGES).and_then(|once| Ok((once, collected(name, 2 * MESSAGES)?)));
        match counted {
            Ok((once, twice)) => {
                println!("{name:<26}{:>24}", twice.saturating_sub(once) / u64::from(MESSAGES));
            }
            Err(what) => {
                eprintln!("{name}: {what}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What callgrind has counted in a run of our own.
fn collected(name: &str, count: u32) -> Result<u64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured*"])
        .arg(own)
        .args(["--run", name, &count.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error} (apt-get install valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let counted = line.and_then(|(_, number)| number.trim().parse().ok());
    counted.filter(|_| output.status.success()).ok_or_else(|| said.into_owned())
}

fn run_path(qos: Qos, way: Way, count: u32) {
    match way {
        Way::Forward | Way::Spill | Way::SpillRefill => {
            drive(Disk::new(1000), qos, way, count);
        }
        Way::ForwardSqlite | Way::SpillSqlite | Way::SpillRefillSqlite => {
            let directory = std::env::temp_dir().join(format!("spillway-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("a directory");
            let path = directory.join("spill.db");
            let store = SqliteStore::open(&path, Some(STORE_BYTES), Sync::Normal, None);
            drive(store.expect("a new store"), qos, way, count);
            std::fs::remove_dir_all(&directory).expect("our own directory");
        }
    }
}

fn drive<S: SpillStore>(store: S, qos: Qos, way: Way, count: u32) {
    let Ok(mut world) = World::start(CONFIG, store, Instant::START) else {
        panic!("an empty store restores")
    };
    world.talk();
    let client = world.accept().expect("the first");
    world.give(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c']);
    world.talk();
    let forward = matches!(way, Way::Forward | Way::ForwardSqlite);
    if !forward {
        cut(&mut world);
    }
    let batch = batch(qos);
    let mut accepted = 0;
    while accepted < count {
        world.give(client, &batch);
        accepted += u32::from(BATCH);
        if forward {
            world.talk();
        } else {
            // The window is not used up: time makes it commit.
            world.wait(Duration::from_millis(260));
            take_all(&mut world, client);
        }
    }
    if matches!(way, Way::SpillRefill | Way::SpillRefillSqlite) {
        world.reachable = true;
        while world.arrived < u64::from(count) {
            world.wait(Duration::from_millis(100));
            world.talk();
        }
    }
    let wanted = if matches!(way, Way::Spill | Way::SpillSqlite) { 0 } else { count };
    assert_eq!(world.arrived, u64::from(wanted), "each message arrives once");
}

/// The client takes its acknowledgements, to the last PUBCOMP.
fn take_all<S: SpillStore>(world: &mut World<S>, client: ConnId) {
    for _ in 0..3 {
        world.answer(client);
        world.settle();
    }
}

fn cut<S: SpillStore>(world: &mut World<S>) {
    world.reachable = false;
    let remote = world.remote.as_ref().expect("the bridge is up").id;
    world.cut(remote);
    world.settle();
}

/// PUBLISH packets with identifiers 1 to `BATCH`.
fn batch(qos: Qos) -> Vec<u8> {
    let mut out = Vec::new();
    for id in 1..=BATCH {
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: "t/some/sensor",
            packet_id: PacketId::new(id).filter(|_| qos != Qos::AtMostOnce),
            properties: Properties::EMPTY,
            payload: &PAYLOAD,
            missing: 0,
        });
        world::put(Version::V311, &packet, &mut out);
    }
    out
}
