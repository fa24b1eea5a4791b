//! Spillway and mosquitto as bridging gateways under the same load, turn about, in one run.

use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish, Work, lost, median, spread};
use crate::args::Args;
use crate::process::Kind;

/// Messages of a cell before `--scale`: enough for seconds of work, few enough for mosquitto at
/// QoS 2, whose cost a message grows with what is queued.
const COUNTS: [u64; 3] = [400_000, 200_000, 20_000];
const WARM_UP: u64 = 2_000;
const QUIET: Duration = Duration::from_secs(5);

struct Sample {
    cpu_us: f64,
    per_second: f64,
    lost: u64,
    out_of_order: u64,
    duplicates: u64,
    rss_kib: u64,
}

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let repeats: usize = args.value("repeats", 3)?;
    let scale: f64 = args.value("scale", 1.0)?;
    let qos: Vec<u8> = list(&args.value("qos", "0,1,2".to_owned())?)?;
    let sizes: Vec<usize> = list(&args.value("size", "64,1024".to_owned())?)?;
    let only: Option<Kind> = args.option("only")?;
    let mosquitto_inflight: u16 = args.value("mosquitto-inflight", 128)?;
    args.finish()?;
    if qos.iter().any(|qos| *qos > 2) {
        return Err("QoS is 0 to 2".into());
    }
    let kinds: Vec<Kind> = match only {
        Some(kind) => vec![kind],
        None => vec![Kind::Spillway, Kind::Mosquitto],
    };
    println!(
        "4 publishers, window 100, saturated; median of {repeats}; CPU is user + system of the \
         gateway per message delivered;\nspread is (largest - smallest) / median of the CPU \
         figures: the noise of this machine.\n"
    );
    println!(
        "{:<4}{:>6} {:<10}{:>10}{:>8}{:>12}{:>8}{:>8}{:>6}{:>10}",
        "QoS",
        "bytes",
        "gateway",
        "CPU us",
        "spread",
        "messages/s",
        "lost",
        "order",
        "dup",
        "RSS KiB"
    );
    for qos in qos {
        for size in &sizes {
            let shrink = if *size > 256 { 0.5 } else { 1.0 };
            let count = (COUNTS[usize::from(qos)] as f64 * scale * shrink) as u64;
            let work = Work::count(qos, *size, count.max(1));
            let mut samples: Vec<Vec<Sample>> = kinds.iter().map(|_| Vec::new()).collect();
            for _ in 0..repeats {
                for (kind, samples) in kinds.iter().zip(&mut samples) {
                    samples.push(sample(options, *kind, &work, mosquitto_inflight)?);
                }
            }
            let rows: Vec<[f64; 2]> =
                kinds.iter().zip(&samples).map(|(kind, s)| row(qos, *size, *kind, s)).collect();
            if let [ours, theirs] = rows[..] {
                println!(
                    "{:<10} {:<10}{:>9.1}x{:>8}{:>11.1}x",
                    "",
                    "ratio",
                    theirs[0] / ours[0],
                    "",
                    ours[1] / theirs[1]
                );
            }
        }
    }
    Ok(())
}

fn sample(options: &Options, kind: Kind, work: &Work, inflight: u16) -> Result<Sample, String> {
    let binary = match kind {
        Kind::Spillway => options.binary.clone(),
        Kind::Mosquitto => kind.binary(),
    };
    let wish = Wish {
        kind,
        binary: &binary,
        cuttable: false,
        inflight: if kind == Kind::Mosquitto { inflight } else { 128 },
        ..Wish::of(options)
    };
    let mut rig = Rig::start(&wish)?;
    rig.load(&Work { count: Some(WARM_UP), ..work.clone() })?;
    rig.wait_arrived(WARM_UP, QUIET)?;
    rig.reset();
    let before = rig.figures();
    let report = rig.load(work)?;
    rig.wait_arrived(report.counts.sent, QUIET)?;
    let after = rig.figures();
    let tally = rig.tally();
    let totals = tally.totals(None);
    let seconds = tally.last_at.saturating_sub(report.started_at) as f64 / 1e9;
    Ok(Sample {
        cpu_us: (after.cpu_ns - before.cpu_ns) as f64 / 1000.0 / totals.unique.max(1) as f64,
        per_second: totals.unique as f64 / seconds.max(1e-9),
        lost: lost(&report, &tally, work.qos),
        out_of_order: totals.out_of_order,
        duplicates: totals.duplicates,
        rss_kib: after.rss_peak_kib,
    })
}

/// Prints it and gives CPU and rate for the ratio.
fn row(qos: u8, size: usize, kind: Kind, samples: &[Sample]) -> [f64; 2] {
    let of = |figure: fn(&Sample) -> f64| samples.iter().map(figure).collect::<Vec<f64>>();
    let worst = |figure: fn(&Sample) -> u64| samples.iter().map(figure).max().unwrap_or(0);
    let cpu = of(|s| s.cpu_us);
    let per_second = median(&of(|s| s.per_second));
    println!(
        "{qos:<4}{size:>6} {:<10}{:>10.3}{:>7.0}%{per_second:>12.0}{:>8}{:>8}{:>6}{:>10}",
        kind.name(),
        median(&cpu),
        spread(&cpu),
        worst(|s| s.lost),
        worst(|s| s.out_of_order),
        worst(|s| s.duplicates),
        worst(|s| s.rss_kib)
    );
    [median(&cpu), per_second]
}

pub(super) fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    let parse = |word: &str| word.trim().parse().map_err(|_| format!("{word} in {text}"));
    text.split(',').map(parse).collect()
}
