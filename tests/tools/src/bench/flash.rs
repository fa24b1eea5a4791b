//! What the flash pays: bytes the kernel wrote for the gateway per message, in each mode.

use std::time::Duration;

use super::Options;
use super::compare::list;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;

/// Messages a commit: one publisher's window, at which the gateway commits at once.
const WINDOW: u16 = 64;
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let count: u64 = args.value("count", 20_000)?;
    let size: usize = args.value("size", 128)?;
    let qos: Vec<u8> = list(&args.value("qos", "1,2".to_owned())?)?;
    let syncs: Vec<String> = list(&args.value("sync", "full,normal".to_owned())?)?;
    args.finish()?;
    if qos.iter().any(|qos| !(1..=2).contains(qos)) {
        return Err("QoS 0 writes nothing".into());
    }
    println!("{count} messages of {size} B, at most {WINDOW} a commit\n");
    for sync in &syncs {
        for qos in &qos {
            mode(options, sync, *qos, size, count)?;
        }
    }
    Ok(())
}

fn mode(options: &Options, sync: &str, qos: u8, size: usize, count: u64) -> Result<(), String> {
    let extra = [format!("store.sync = {sync}")];
    let wish = Wish { inflight: WINDOW, extra: &extra, ..Wish::of(options) };
    let mut rig = Rig::start(&wish)?;
    let work = Work { publishers: 1, window: WINDOW, ..Work::count(qos, size, count) };
    let prompt = Work { count: None, rate: Some(1000.0), seconds: Some(5.0), ..work.clone() };
    rig.sink.set_delay(5_000_000);
    let before = settled(&mut rig)?;
    let report = rig.load(&prompt)?;
    let written = settled(&mut rig)? - before;
    println!(
        "sync {sync}, QoS {qos}, link up and prompt, 1000/s: {:.0} B a message",
        written as f64 / report.counts.accepted.max(1) as f64
    );
    rig.sink.set_delay(0);
    for round in ["new store file", "the same file again"] {
        rig.reset();
        rig.cut()?;
        let before = settled(&mut rig)?;
        let report = rig.load(&work)?;
        let stored = settled(&mut rig)? - before;
        rig.heal()?;
        rig.wait_arrived(report.counts.accepted, Duration::from_secs(15))?;
        let drained = settled(&mut rig)? - before;
        let per_message = |bytes: u64| bytes as f64 / report.counts.accepted.max(1) as f64;
        println!(
            "sync {sync}, QoS {qos}, link down, {round}: {:.0} B a message stored ({:.2} times \
             its payload), {:.0} B drained as well ({:.2}); lost {}",
            per_message(stored),
            per_message(stored) / size as f64,
            per_message(drained),
            per_message(drained) / size as f64,
            lost(&report, &rig.tally(), qos)
        );
    }
    Ok(())
}

/// `write_bytes` once the gateway has had time for its last commit and checkpoint.
pub(super) fn settled(rig: &mut Rig) -> Result<u64, String> {
    let mut written = rig.figures().write_bytes;
    let mut since = crate::clock::now();
    while crate::clock::now() < since + SETTLE.as_nanos() as u64 {
        rig.pause()?;
        let now = rig.figures().write_bytes;
        if now != written {
            (written, since) = (now, crate::clock::now());
        }
    }
    Ok(written)
}
