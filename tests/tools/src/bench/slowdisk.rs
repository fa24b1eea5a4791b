//! A disk whose syncs are slow, a backlog that drains and publishers that publish: how long does a
//! client that only pings wait for its PINGRESP, and does anybody lose a connection?
//!
//! The delay is put in front of every fsync and fdatasync of the store by a preloaded library.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Options;
use super::pinger::Pinger;
use super::rig::{Rig, Wish, Work};
use crate::args::Args;
use crate::faults::{Calls, Faults};
use crate::load::{self, Progress};

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let count: u64 = args.value("count", 100_000)?;
    let seconds: f64 = args.value("seconds", 15.0)?;
    let syncs: String = args.value("syncs", "0,50,200,2000".to_owned())?;
    args.finish()?;
    println!("backlog of {count} messages of 128 B, 4 publishers with a window of 64, {seconds} s");
    for sync in syncs.split(',') {
        let sync_ms: u64 = sync.parse().map_err(|_| format!("--syncs {syncs}: milliseconds"))?;
        measure(options, count, seconds, sync_ms)?;
    }
    Ok(())
}

fn measure(options: &Options, count: u64, seconds: f64, sync_ms: u64) -> Result<(), String> {
    let dir = options.dir.join(format!("sync-{sync_ms}"));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let faults = Faults::new(&dir);
    faults.on(".db");
    let wish = Wish {
        dir: &dir,
        delay: 20_000_000,
        environment: &faults.environment(),
        ..Wish::of(options)
    };
    let mut rig = Rig::start(&wish)?;
    rig.cut()?;
    let filled = rig.load(&Work { window: 64, ..Work::count(1, 128, count) })?;
    rig.reset();
    let mut pinger = Pinger::start(rig.listen)?;
    let connected = Figures::of(&rig, &faults);
    faults.delay(Calls::Sync, Duration::from_millis(sync_ms));
    rig.heal()?;
    let work = Work { window: 64, count: None, seconds: Some(seconds), ..Work::count(1, 128, 0) };
    let plan = rig.plan(&work);
    let load = thread::spawn(move || load::run(&plan, &Arc::<Progress>::default()));
    while !load.is_finished() {
        rig.pause()?;
    }
    let report = load.join().map_err(|_| "the load panicked")?.map_err(|e| e.to_string())?;
    let waits = pinger.stop()?;
    let ended = Figures::of(&rig, &faults);
    faults.heal();
    let ms = |share: f64| waits.percentile(share) as f64 / 1e6;
    println!(
        "sync {sync_ms:>4} ms: PINGRESP median {:.1} ms, p99 {:.0} ms, worst {:.0} ms; \
         accepted {:.0}/s (of {} in the backlog), drained {:.0}/s; {} syncs; reconnects {}; \
         stalls {:?}",
        ms(0.5),
        ms(0.99),
        waits.max() as f64 / 1e6,
        report.counts.accepted as f64 / report.seconds.max(1e-9),
        filled.counts.accepted,
        (ended.arrived - connected.arrived) as f64 / report.seconds.max(1e-9),
        ended.syncs - connected.syncs,
        report.counts.connects.saturating_sub(4),
        rig.gateway.log().stalls,
    );
    match &report.error {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    }
}

struct Figures {
    arrived: u64,
    syncs: i64,
}

impl Figures {
    fn of(rig: &Rig, faults: &Faults) -> Figures {
        Figures { arrived: rig.tally().totals(None).unique, syncs: faults.calls(Calls::Sync) }
    }
}
