//! The deterministic simulator: the real core in a world of virtual time, with model clients and
//! remotes, a network and a disk that fail on purpose. A seed is a run; the same seed is the same
//! run. First faults, then quiet until all is drained, then the checkers.

mod chaos;
mod check;
mod client;
mod day;
mod disk;
mod fairness;
#[cfg(feature = "planted")]
mod finds;
mod ledger;
mod net;
mod plan;
mod refusing;
mod remote;
mod session;
mod shell;
mod watch;
mod world;

use plan::{FAMILY, Family, Plan};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// Seeds of each family in an ordinary run.
const SEEDS: u64 = 400;

/// What became of a seed.
struct Outcome {
    digest: u64,
    /// Virtual microseconds.
    span: u64,
    violations: Vec<(String, String)>,
}

fn run(seed: u64) -> Outcome {
    let mut world = World::new(Plan::of(seed));
    let began = world.now;
    let result = catch_unwind(AssertUnwindSafe(|| {
        world.run();
        if world.ledger.violations.is_empty() {
            check::all(&mut world);
        }
    }));
    let mut violations: Vec<(String, String)> = world
        .ledger
        .violations
        .iter()
        .map(|violation| (violation.checker.to_string(), violation.text.clone()))
        .collect();
    if result.is_err() {
        violations.insert(0, ("panic".to_string(), "the core or its model panicked".to_string()));
    }
    if std::env::var_os("SPILLWAY_SIM_LOG").is_some() {
        println!("{} turns, {} s, {:?}", world.turns, world.now / 1_000_000, world.watch.events);
        println!("{}", world.what_is_left());
        println!("the worst wait is {} % of its bound", world.fair.worst);
    }
    Outcome { digest: world.watch.digest(), span: world.now - began, violations }
}

fn family(family: Family) {
    let first = plan::FAMILIES.iter().position(|known| *known == family).unwrap() as u64 * FAMILY;
    let count = std::env::var("SPILLWAY_SIM_SEEDS").ok().and_then(|count| count.parse().ok());
    all_clean(first..first + count.unwrap_or(SEEDS));
}

/// Fails with every seed that is not clean, and with the way to run just that one.
fn all_clean(seeds: impl Iterator<Item = u64>) {
    let mut faults = Vec::new();
    for seed in seeds {
        if let Some((checker, text)) = run(seed).violations.first() {
            faults.push(format!(
                "seed {seed}: {checker}: {text}\n  again: SPILLWAY_SIM_SEED={seed} cargo test \
                 --test sim one_seed -- --nocapture"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

macro_rules! families {
    ($($name:ident $family:ident)*) => { $(
        #[test]
        fn $name() {
            family(Family::$family);
        }
    )* };
}

families! {
    cut_links_lose_and_double_nothing Plain
    a_slow_full_or_failing_disk_loses_nothing SlowDisk
    crashes_lose_and_double_nothing Crashes
    two_bridges_do_not_hold_each_other_up TwoBridges
    sessions_survive_absence_and_crashes Sessions
    paces_and_conflation_keep_their_word Paces
    hostile_clients_hurt_only_themselves Hostile
    another_server_takes_over Failover
    quotas_drop_by_count_and_block_without_loss Quota
    a_rotten_disk_is_counted_and_invents_nothing BadDisk
    a_lost_store_starts_afresh LostStore
    sizes_wills_and_identifiers_come_through_whole Shapes
    remotes_that_refuse_get_all_they_take Refusing
    nobody_locks_anybody_out Fair
}

/// One seed by itself: `SPILLWAY_SIM_SEED=…`; `SPILLWAY_SIM_LOG=1` prints the gateway's log.
#[test]
fn one_seed() {
    let seed = std::env::var("SPILLWAY_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    all_clean(core::iter::once(seed.unwrap_or(0)));
}

#[test]
fn seeds_that_once_failed_stay_clean() {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    all_clean(lines.map(|line| line.split_whitespace().next().unwrap().parse().unwrap()));
}

/// New seeds of every family in turn until the time is over: `scripts/soak`.
#[test]
#[ignore = "runs for as long as it is told to"]
#[expect(clippy::disallowed_methods, reason = "how long to go on is for people")]
fn soak() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seconds: u64 = number("SPILLWAY_SOAK_SECONDS").unwrap_or(60);
    let first: u64 = number("SPILLWAY_SOAK_FIRST").unwrap_or(1_000_000);
    let step: u64 = number("SPILLWAY_SOAK_STEP").unwrap_or(1);
    let goes_on = std::env::var_os("SPILLWAY_SOAK_GOES_ON").is_some();
    let began = std::time::Instant::now();
    let (mut count, mut span, mut faults) = (0u64, 0u64, 0u32);
    for at in 0.. {
        if began.elapsed().as_secs() >= seconds || (faults > 0 && !goes_on) {
            break;
        }
        let families = plan::FAMILIES.len() as u64;
        let seed = at % families * FAMILY + first + at / families * step;
        let one = std::time::Instant::now();
        let outcome = run(seed);
        if one.elapsed().as_secs() >= 3 {
            println!("slow: {seed} took {} ms", one.elapsed().as_millis());
        }
        count += 1;
        span += outcome.span;
        if let Some((checker, text)) = outcome.violations.first() {
            faults += 1;
            println!("seed {seed}: {checker}: {text}");
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {:.1} a second, {:.1} virtual hours",
        count as f64 / elapsed,
        span as f64 / 3.6e9
    );
    assert_eq!(faults, 0, "SPILLWAY_SIM_SEED=… cargo test --test sim one_seed -- --nocapture");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for family in 0..plan::FAMILIES.len() as u64 {
        let seed = family * FAMILY + 3;
        assert_eq!(run(seed).digest, run(seed).digest, "seed {seed}");
        assert_ne!(run(seed).digest, run(seed + 1).digest, "seed {seed} and the next");
    }
}
