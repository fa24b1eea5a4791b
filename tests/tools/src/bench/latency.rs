//! With the load at half of window / round trip, when does the publisher get its acknowledgement?

use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;

const WINDOW: u16 = 128;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let seconds: f64 = args.value("seconds", 10.0)?;
    let delay_ms: f64 = args.value("delay", 20.0)?;
    let qos: u8 = args.value("qos", 1)?;
    args.finish()?;
    if !(1..=2).contains(&qos) {
        return Err("QoS 0 is not acknowledged".into());
    }
    let delay = (delay_ms * 1e6) as u64;
    let wish = Wish { delay, cuttable: false, inflight: WINDOW, ..Wish::of(options) };
    let mut rig = Rig::start(&wish)?;
    // A QoS 2 message keeps its place in the window for two round trips.
    let rate = f64::from(WINDOW) / (delay_ms / 1e3 * f64::from(qos)) / 2.0;
    let work =
        Work { count: None, rate: Some(rate), seconds: Some(seconds), ..Work::count(qos, 64, 0) };
    let before = rig.figures().write_bytes;
    let report = rig.load(&work)?;
    rig.wait_arrived(report.counts.accepted, Duration::from_secs(10))?;
    let ms = |share: f64| report.latency.percentile(share) as f64 / 1e6;
    println!(
        "QoS {qos}, {rate:.0}/s, round trip {delay_ms} ms: acknowledged after p50 {:.2} ms, \
         p99 {:.2} ms (round trip {:+.2}), max {:.2} ms; {} accepted, lost {}, {} B written",
        ms(0.5),
        ms(0.99),
        ms(0.99) - delay_ms,
        report.latency.max() as f64 / 1e6,
        report.counts.accepted,
        lost(&report, &rig.tally(), qos),
        rig.figures().write_bytes - before
    );
    Ok(())
}
