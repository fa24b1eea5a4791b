//! How fast does a backlog leave once the link is back, with no new traffic to push it?

use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;

const WINDOW: u16 = 128;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let count: u64 = args.value("count", 100_000)?;
    let delay_ms: f64 = args.value("delay", 20.0)?;
    let qos: u8 = args.value("qos", 1)?;
    let size: usize = args.value("size", 128)?;
    args.finish()?;
    if !(1..=2).contains(&qos) {
        return Err("QoS 0 has no backlog".into());
    }
    let delay = (delay_ms * 1e6) as u64;
    let wish = Wish { delay, inflight: WINDOW, ..Wish::of(options) };
    let mut rig = Rig::start(&wish)?;
    rig.cut()?;
    let report = rig.load(&Work::count(qos, size, count))?;
    println!(
        "backlog of {} messages of {size} B at QoS {qos}, accepted at {:.0}/s with the link down",
        report.counts.accepted,
        report.counts.accepted as f64 / report.seconds
    );
    rig.heal()?;
    rig.wait_arrived(report.counts.accepted, Duration::from_secs(15))?;
    let tally = rig.tally();
    let totals = tally.totals(None);
    let seconds = (tally.last_at - tally.first_at) as f64 / 1e9;
    let rate = totals.unique as f64 / seconds.max(1e-9);
    // A QoS 2 message keeps its place in the window for two round trips.
    let bound = f64::from(WINDOW) / (delay_ms / 1e3 * f64::from(qos));
    println!("drained in {seconds:.1} s: {rate:.0}/s = {:.2} x window / round trip", rate / bound);
    println!(
        "lost {}, duplicates {}, out of order {}, peak RSS {} KiB, longest loop turn {} ms",
        lost(&report, &tally, qos),
        totals.duplicates,
        totals.out_of_order,
        rig.figures().rss_peak_kib,
        rig.gateway.log().loop_max_ms
    );
    Ok(())
}
