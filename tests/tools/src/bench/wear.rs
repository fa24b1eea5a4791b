//! What typical loads write to the flash in an hour, and how long a small one lasts at that. All
//! loads run at once, a gateway each: they are slow, and bytes do not depend on the machine's.

use std::sync::Arc;
use std::time::Duration;

use super::Options;
use super::flash::settled;
use super::rig::{Rig, Wish, Work, lost};
use crate::args::Args;
use crate::load::{self, Progress};
use crate::proxy::Command;

/// What a flash of 128 MB takes in its life when every block may be erased 10 000 times.
const LIFE_BYTES: f64 = 128e6 * 10_000.0;

const HOURS_A_YEAR: f64 = 365.25 * 24.0;

/// One publisher's; with fewer messages on the way the time makes the gateway commit.
const WINDOW: u16 = 64;

/// A link that flaps is up for so many seconds, then down for so many.
const UP_S: u64 = 20;
const DOWN_S: u64 = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// With a remote that answers after so many milliseconds.
    Up(u64),
    Down,
    Flaps,
}

struct Hour {
    name: &'static str,
    qos: u8,
    rate: f64,
    link: Link,
}

const HOURS: &[Hour] = &[
    Hour { name: "link up", qos: 1, rate: 100.0, link: Link::Up(5) },
    Hour { name: "link up, round trip 400 ms", qos: 1, rate: 100.0, link: Link::Up(400) },
    Hour { name: "link up, round trip 3 s", qos: 1, rate: 10.0, link: Link::Up(3000) },
    Hour { name: "link down", qos: 1, rate: 10.0, link: Link::Down },
    Hour { name: "link down", qos: 1, rate: 100.0, link: Link::Down },
    Hour { name: "link flaps, 20 s up, 10 s down", qos: 1, rate: 100.0, link: Link::Flaps },
    Hour { name: "link up", qos: 2, rate: 10.0, link: Link::Up(5) },
    Hour { name: "link up", qos: 2, rate: 100.0, link: Link::Up(5) },
    Hour { name: "link down", qos: 2, rate: 100.0, link: Link::Down },
];

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let seconds: f64 = args.value("seconds", 120.0)?;
    let size: usize = args.value("size", 128)?;
    args.finish()?;
    println!(
        "{size} B a message, {seconds} s each; write_bytes of the process: what it made the kernel \
         write, in pages, write-ahead log included\n"
    );
    println!("| load | QoS | messages/s | B a message | MB an hour | years of 128 MB × 10 000 |");
    println!("|---|---|---|---|---|---|");
    let lines: Vec<Result<String, String>> = std::thread::scope(|scope| {
        let start = |hour| scope.spawn(move || measured(options, hour, size, seconds));
        let threads: Vec<_> = HOURS.iter().map(start).collect();
        let panicked = |_| Err("a measurement panicked".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    for line in lines {
        println!("{}", line?);
    }
    Ok(())
}

fn measured(options: &Options, hour: &Hour, size: usize, seconds: f64) -> Result<String, String> {
    let mut rig = Rig::start(&Wish { inflight: WINDOW, ..Wish::of(options) })?;
    match hour.link {
        Link::Up(delay_ms) => rig.sink.set_delay(delay_ms * 1_000_000),
        Link::Down => rig.cut()?,
        Link::Flaps => rig.sink.set_delay(5_000_000),
    }
    let before = settled(&mut rig)?;
    let work = Work {
        publishers: 1,
        window: WINDOW,
        count: None,
        rate: Some(hour.rate),
        seconds: Some(seconds),
        ..Work::count(hour.qos, size, 0)
    };
    let plan = rig.plan(&work);
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| load::run(&plan, &Arc::<Progress>::default()));
        let proxy = rig.proxy.as_ref().filter(|_| hour.link == Link::Flaps);
        let mut since = crate::clock::now();
        let mut up = true;
        while let (Some(proxy), false) = (proxy, load.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            let span = Duration::from_secs(if up { UP_S } else { DOWN_S });
            if crate::clock::now() - since >= span.as_nanos() as u64 {
                proxy.command(if up { Command::Cut } else { Command::Pass });
                (up, since) = (!up, crate::clock::now());
            }
        }
        load.join().map_err(|_| "the load panicked".to_owned())
    })?;
    let report = report.map_err(|error| error.to_string())?;
    if let Some(error) = &report.error {
        return Err(error.clone());
    }
    let accepted = report.counts.accepted;
    let mut written = settled(&mut rig)? - before;
    if hour.link != Link::Down {
        rig.heal()?;
        rig.wait_arrived(accepted, Duration::from_secs(15))?;
        written = settled(&mut rig)? - before;
        let lost = lost(&report, &rig.tally(), hour.qos);
        if lost > 0 {
            return Err(format!("{}: {lost} messages lost", hour.name));
        }
    }
    let an_hour = written as f64 / report.seconds * 3600.0;
    let years = LIFE_BYTES / an_hour / HOURS_A_YEAR;
    let years = match years {
        years if years > 1000.0 => "more than 1000".to_owned(),
        years if years >= 10.0 => format!("{years:.0}"),
        years if years >= 1.0 => format!("{years:.1}"),
        years => format!("{:.0} days", years * 365.25),
    };
    Ok(format!(
        "| {} | {} | {:.0} | {:.0} | {:.1} | {years} |",
        hour.name,
        hour.qos,
        accepted as f64 / report.seconds,
        written as f64 / accepted.max(1) as f64,
        an_hour / 1e6,
    ))
}
