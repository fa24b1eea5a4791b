//! What the flash pays: bytes the kernel wrote for the gateway per payload byte spilled.

use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;
use crate::process::Kind;

/// Messages a commit: one publisher's window, at which the gateway commits at once.
const WINDOW: u16 = 64;
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let count: u64 = args.value("count", 20_000)?;
    let size: usize = args.value("size", 128)?;
    args.finish()?;
    let wish = Wish {
        kind: Kind::Spillway,
        binary: &options.binary,
        dir: &options.dir,
        delay: 0,
        cuttable: true,
        inflight: WINDOW,
        extra: &[],
    };
    let mut rig = Rig::start(&wish)?;
    let work = Work { publishers: 1, window: WINDOW, ..Work::count(1, size, count) };
    let prompt = Work { count: None, rate: Some(1000.0), seconds: Some(5.0), ..work.clone() };
    rig.sink.set_delay(5_000_000);
    let before = settled(&mut rig)?;
    let report = rig.load(&prompt)?;
    let written = settled(&mut rig)? - before;
    println!(
        "link up and prompt, QoS 1: {written} B written for {} messages",
        report.counts.accepted
    );
    rig.sink.set_delay(0);
    for round in ["new store file", "the same file again"] {
        rig.reset();
        rig.cut()?;
        let before = settled(&mut rig)?;
        let report = rig.load(&work)?;
        let stored = rig.figures().write_bytes - before;
        let payload = report.counts.accepted * size as u64;
        rig.heal()?;
        rig.wait_arrived(report.counts.accepted, Duration::from_secs(15))?;
        let drained = settled(&mut rig)? - before;
        let per_byte = |bytes: u64| bytes as f64 / payload as f64;
        println!(
            "{round}: {} messages of {size} B, {WINDOW} a commit: {:.2} B written per payload \
             byte when stored, {:.2} when drained and checkpointed; lost {}",
            report.counts.accepted,
            per_byte(stored),
            per_byte(drained),
            lost(&report, &rig.tally(), 1)
        );
    }
    Ok(())
}

/// `write_bytes` once the gateway has had time for its last commit and checkpoint.
fn settled(rig: &mut Rig) -> Result<u64, String> {
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
