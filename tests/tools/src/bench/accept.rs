//! How many messages a second are accepted while the link is down: each has to be in a commit, and
//! group commit decides. On the disk at hand, whose fsync is measured and printed, and on one in
//! RAM whose fsync is made to take a given time.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Options;
use super::compare::list;
use super::rig::{Rig, Wish, Work, median, spread};
use crate::args::Args;
use crate::clock;
use crate::faults::{Calls, Faults};
use crate::process::Kind;
use crate::setup::RunDir;

/// What a router's quota would not hold of some seconds at full rate.
const STORE_BYTES: &str = "store.max_bytes = 2GiB";
const PROBES: usize = 200;

struct Cell<'a> {
    disk: &'a Disk,
    kind: Kind,
    sync: &'a str,
    publishers: u32,
    window: u16,
    qos: u8,
    size: usize,
    inflight: u16,
    seconds: f64,
}

struct Disk {
    name: String,
    dir: PathBuf,
    /// What an fsync is made to take.
    slow: Option<Duration>,
    /// Keeps `dir` if it is one of our own.
    _own: Option<RunDir>,
}

struct Sample {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Messages that shared an fsync; NaN when nobody counts.
    group: f64,
}

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let seconds: f64 = args.value("seconds", 2.0)?;
    let repeats: usize = args.value("repeats", 3)?;
    let publishers: Vec<u32> = list(&args.value("publishers", "1,4,32".to_owned())?)?;
    let windows: Vec<u16> = list(&args.value("window", "100,1".to_owned())?)?;
    let qos: Vec<u8> = list(&args.value("qos", "1,2".to_owned())?)?;
    let syncs: Vec<String> = list(&args.value("sync", "full,normal".to_owned())?)?;
    let disks: Vec<String> = list(&args.value("disk", "real,100us".to_owned())?)?;
    let size: usize = args.value("size", 128)?;
    let inflight: u16 = args.value("inflight", 128)?;
    let mosquitto = args.flag("mosquitto");
    args.finish()?;
    if qos.iter().any(|qos| !(1..=2).contains(qos)) {
        return Err("QoS 0 is not acknowledged".into());
    }
    println!("link down, {size} B, limit.inflight {inflight}; median of {repeats}\n");
    for name in disks {
        let disk = Disk::of(&name, options)?;
        disk.describe()?;
        println!(
            "{:<10} {:<7}{:>4}{:>11}{:>7}{:>12}{:>8}{:>11}{:>11}{:>9}",
            "gateway",
            "sync",
            "QoS",
            "publishers",
            "window",
            "accepted/s",
            "spread",
            "p50 ms",
            "p99 ms",
            "a sync"
        );
        for sync in &syncs {
            for qos in &qos {
                for (window, publishers) in
                    windows.iter().flat_map(|w| publishers.iter().map(move |p| (*w, *p)))
                {
                    let kinds = [Kind::Spillway, Kind::Mosquitto];
                    for kind in &kinds[..1 + usize::from(mosquitto && sync == "full")] {
                        let cell = Cell {
                            disk: &disk,
                            kind: *kind,
                            sync,
                            publishers,
                            window,
                            qos: *qos,
                            size,
                            inflight,
                            seconds,
                        };
                        let samples: Result<Vec<Sample>, String> =
                            (0..repeats).map(|_| cell.sample(options)).collect();
                        cell.print(&samples?);
                    }
                }
            }
        }
        println!();
    }
    Ok(())
}

impl Disk {
    /// `real`, or the time an fsync shall take, as in `100us`.
    fn of(name: &str, options: &Options) -> Result<Disk, String> {
        let name = name.to_owned();
        if name == "real" {
            return Ok(Disk { name, dir: options.dir.clone(), slow: None, _own: None });
        }
        let micros = name.strip_suffix("us").and_then(|number| number.parse().ok());
        let micros = micros.ok_or(format!("--disk {name}: real, or as in 100us"))?;
        let slow = Some(sleep_that_takes(Duration::from_micros(micros)));
        let own = RunDir::new(Some("/dev/shm".into()), "spillway-bench", false)?;
        Ok(Disk { name, dir: own.path.clone(), slow, _own: Some(own) })
    }

    fn describe(&self) -> Result<(), String> {
        match self.slow {
            None => {
                let [p50, p99] = fsync_us(&self.dir).map_err(|e| e.to_string())?;
                println!("this disk: fsync of 64 KiB takes p50 {p50:.0} us, p99 {p99:.0} us");
            }
            Some(span) => {
                let span = median(&(0..PROBES).map(|_| slept_us(span)).collect::<Vec<f64>>());
                println!("{}: in RAM, every fsync made to take {span:.0} us", self.name);
            }
        }
        Ok(())
    }
}

impl Cell<'_> {
    fn sample(&self, options: &Options) -> Result<Sample, String> {
        let extra: &[&str] = match self.kind {
            Kind::Spillway => &[STORE_BYTES],
            Kind::Mosquitto => {
                &["persistence true", "autosave_interval 1", "autosave_on_changes true"]
            }
        };
        let mut extra: Vec<String> = extra.iter().map(|line| (*line).to_owned()).collect();
        match self.kind {
            Kind::Spillway => extra.push(format!("store.sync = {}", self.sync)),
            Kind::Mosquitto => {
                extra.push(format!("persistence_location {}/", self.disk.dir.display()));
            }
        }
        // Its stand-in counts the syncs as well, but costs system calls: only where it is needed.
        let shim = self.disk.dir.join(format!("shim-{:08x}", clock::run_number()));
        let faults = match self.disk.slow {
            Some(span) => {
                std::fs::create_dir_all(&shim).map_err(|e| e.to_string())?;
                let faults = Faults::new(&shim);
                faults.on(".db");
                faults.delay(Calls::Sync, span);
                Some(faults)
            }
            None => None,
        };
        let environment = faults.as_ref().map(|faults| faults.environment().to_vec());
        let own = match self.kind {
            Kind::Spillway => options.binary.clone(),
            Kind::Mosquitto => self.kind.binary(),
        };
        let wish = Wish {
            kind: self.kind,
            binary: &own,
            dir: &self.disk.dir,
            delay: 0,
            cuttable: true,
            inflight: self.inflight,
            extra: &extra,
            environment: environment.as_deref().unwrap_or_default(),
        };
        let mut rig = Rig::start(&wish)?;
        match self.kind {
            Kind::Spillway => rig.cut()?,
            Kind::Mosquitto => rig.cut_unseen()?,
        }
        let before = faults.as_ref().map_or(0, |faults| faults.calls(Calls::Sync));
        let work = Work {
            publishers: self.publishers,
            window: self.window,
            count: None,
            seconds: Some(self.seconds),
            ..Work::count(self.qos, self.size, 0)
        };
        let report = rig.load(&work)?;
        let syncs = faults.as_ref().map(|faults| faults.calls(Calls::Sync) - before);
        let ms = |share: f64| report.latency.percentile(share) as f64 / 1e6;
        let sample = Sample {
            per_second: report.counts.accepted as f64 / report.seconds,
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            group: syncs.map_or(f64::NAN, |n| report.counts.accepted as f64 / n.max(1) as f64),
        };
        drop(rig);
        for entry in std::fs::read_dir(&self.disk.dir).into_iter().flatten().flatten() {
            // What a cell leaves behind is large, and the next one begins anew.
            let _ = std::fs::remove_file(entry.path());
        }
        Ok(sample)
    }

    fn print(&self, samples: &[Sample]) {
        let of = |figure: fn(&Sample) -> f64| samples.iter().map(figure).collect::<Vec<f64>>();
        let rates = of(|s| s.per_second);
        let group = median(&of(|s| s.group));
        let group = if group.is_nan() { "-".into() } else { format!("{group:.0}") };
        println!(
            "{:<10} {:<7}{:>4}{:>11}{:>7}{:>12.0}{:>7.0}%{:>11.2}{:>11.2}{group:>9}",
            self.kind.name(),
            if self.kind == Kind::Spillway { self.sync } else { "save" },
            self.qos,
            self.publishers,
            self.window,
            median(&rates),
            spread(&rates),
            median(&of(|s| s.p50_ms)),
            median(&of(|s| s.p99_ms)),
        );
    }
}

/// Median and 99th percentile of an fsync behind 64 KiB written, in a file that does not grow.
fn fsync_us(dir: &Path) -> std::io::Result<[f64; 2]> {
    let path = dir.join("fsync-probe");
    let file = File::create(&path)?;
    let block = [1; 64 * 1024];
    (0..16).try_for_each(|at| file.write_all_at(&block, at * 65_536))?;
    file.sync_all()?;
    let mut spans = Vec::new();
    for at in 0..PROBES as u64 {
        file.write_all_at(&block, at % 16 * 65_536)?;
        let before = clock::now();
        file.sync_data()?;
        spans.push((clock::now() - before) as f64 / 1e3);
    }
    std::fs::remove_file(path)?;
    spans.sort_by(f64::total_cmp);
    Ok([spans[PROBES / 2], spans[PROBES * 99 / 100]])
}

/// A sleep comes back late by what the kernel's timers are coarse: how long to ask for.
fn sleep_that_takes(wanted: Duration) -> Duration {
    let late = median(&(0..PROBES).map(|_| slept_us(wanted)).collect::<Vec<f64>>())
        - wanted.as_nanos() as f64 / 1e3;
    wanted.saturating_sub(Duration::from_nanos((late.max(0.0) * 1e3) as u64))
}

fn slept_us(span: Duration) -> f64 {
    let before = clock::now();
    std::thread::sleep(span);
    (clock::now() - before) as f64 / 1e3
}
