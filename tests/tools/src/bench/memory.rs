//! Peak memory of the release binary: 64 clients, small and large messages, everything full.

use std::sync::Arc;
use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;
use crate::clock;
use crate::load::{self, Progress};

const CLIENTS: u32 = 64;
const LOOKS: u32 = 6;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let seconds: f64 = args.value("seconds", 30.0)?;
    args.finish()?;
    // The defaults of limit.inflight and max_inflight.
    let wish = Wish { inflight: 64, ..Wish::of(options) };
    let mut rig = Rig::start(&wish)?;
    println!("idle, bridge up: VmHWM {} KiB", rig.figures().rss_peak_kib);
    rig.cut()?;
    let work = Work {
        publishers: CLIENTS,
        window: 20,
        payload_bytes: (128, 1024),
        count: None,
        seconds: Some(seconds),
        // Once the link is back.
        drain_s: seconds + 300.0,
        ..Work::count(1, 128, 0)
    };
    let plan = rig.plan(&work);
    let load = std::thread::spawn(move || load::run(&plan, &Arc::<Progress>::default()));
    let begun = clock::now();
    for look in 1..=LOOKS {
        let until = begun + (seconds * 1e9) as u64 / u64::from(LOOKS) * u64::from(look);
        while clock::now() < until {
            rig.pause()?;
        }
        let log = rig.gateway.log();
        let stat = |key: &str| log.stat(key).unwrap_or(0);
        println!(
            "link down for {:4.0} s: VmHWM {} KiB, ring {} of {}, store {} messages",
            (clock::now() - begun) as f64 / 1e9,
            rig.figures().rss_peak_kib,
            stat("ring_msgs"),
            stat("ring_cap"),
            stat("store_msgs")
        );
    }
    rig.heal()?;
    while !load.is_finished() {
        rig.pause()?;
    }
    let report = load.join().map_err(|_| "the load died")?.map_err(|e| e.to_string())?;
    rig.wait_arrived(report.counts.accepted, Duration::from_secs(15))?;
    let tally = rig.tally();
    println!(
        "drained: VmHWM {} KiB; {} accepted, lost {}, out of order {}, unacknowledged {}",
        rig.figures().rss_peak_kib,
        report.counts.accepted,
        lost(&report, &tally, 1),
        tally.totals(None).out_of_order,
        report.unacked
    );
    Ok(())
}
