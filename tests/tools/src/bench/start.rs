//! How long a start takes with a backlog on disk, and how much memory: both shall not depend on how
//! much is stored. Then how the backlog leaves.

use std::time::Duration;

use super::Options;
use super::compare::list;
use super::rig::{Rig, Wish, Work, lost, median, spread};
use crate::args::Args;

/// Starts of each backlog.
const STARTS: usize = 3;
const WINDOW: u16 = 128;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let counts: Vec<u64> = list(&args.value("counts", "1000,100000,1000000".to_owned())?)?;
    let size: usize = args.value("size", 128)?;
    let qos: u8 = args.value("qos", 1)?;
    args.finish()?;
    if !(1..=2).contains(&qos) {
        return Err("QoS 0 is not stored".into());
    }
    println!("messages of {size} B at QoS {qos}, kill -9, then {STARTS} starts (median, spread)\n");
    for count in counts {
        let extra = ["store.max_bytes = 1GiB".to_owned()];
        let wish = Wish { inflight: WINDOW, extra: &extra, ..Wish::of(options) };
        let mut rig = Rig::start(&wish)?;
        rig.cut()?;
        let report = rig.load(&Work::count(qos, size, count))?;
        println!(
            "{} stored in {:.1} s ({:.0}/s)",
            report.counts.accepted,
            report.seconds,
            report.counts.accepted as f64 / report.seconds
        );
        let mut starts = Vec::new();
        let mut rss = 0;
        for _ in 0..STARTS {
            starts.push(rig.restart(&options.binary, &options.dir)?);
            rss = rss.max(rig.figures().rss_peak_kib);
        }
        for (name, ms) in [
            ("listening", starts.iter().map(|s| s.listening_ms).collect::<Vec<f64>>()),
            ("CONNACK", starts.iter().map(|s| s.connack_ms).collect()),
            ("bridge_connecting", starts.iter().map(|s| s.connecting_ms).collect()),
        ] {
            println!("  {name:<18} after {:7.1} ms {:>4.0}%", median(&ms), spread(&ms));
        }
        println!("  VmHWM then         {rss} KiB");
        rig.heal()?;
        rig.wait_arrived(report.counts.accepted, Duration::from_secs(15))?;
        let tally = rig.tally();
        let totals = tally.totals(None);
        let seconds = (tally.last_at - tally.first_at) as f64 / 1e9;
        println!(
            "  drained            in {seconds:.1} s ({:.0}/s), lost {}, duplicates {}, out of \
             order {}, VmHWM {} KiB, longest loop turn {} ms\n",
            totals.unique as f64 / seconds.max(1e-9),
            lost(&report, &tally, qos),
            totals.duplicates,
            totals.out_of_order,
            rig.figures().rss_peak_kib,
            rig.gateway.log().loop_max_ms
        );
    }
    Ok(())
}
