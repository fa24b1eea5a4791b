//! `--check`: what a good configuration means on this machine. Prints what is durable, the store's
//! place, the memory and flash plan and how long an outage fits. Looks at the file system, changes
//! nothing. Figures of the plan that depend on message sizes are called "about".

use super::EXIT_FAILURE;
use super::disk::{Disk, Medium, look};
use crate::config::{Ack, Bridge, Config, RING_SHARE, Sync, Warning};
use crate::fit::wide;
use crate::limits::{BLOCK_BYTES, SLOT_BYTES, SLOT_RECORDS_MAX};
use crate::note::Visible;
use crate::shell::Preflight;
use std::io::{self, Write};
use std::path::Path;

/// What the gateway will allocate, by part, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub parts: &'a [(&'static str, u64)],
}

/// The message the outage is reckoned with.
const PAYLOAD_BYTES: u64 = 128;
const TOPIC_BYTES: u64 = 32;
/// What the store puts before a record.
const RECORD_HEAD_BYTES: u64 = 40;

/// `store.max_bytes` when the configuration does not say.
const STORE_BYTES_DEFAULT: u64 = 64 << 20;

/// What of the store holds messages: the rest is for WAL, indexes and quarantine.
const STORE_FILL: (u64, u64) = (7, 8);

/// Messages a second an outage is reckoned for.
const RATES: [u64; 3] = [1, 10, 100];

/// Prints the report of `--check`; the exit status is 0, or 1 when the gateway would not start.
pub fn check(
    config: &Config,
    warnings: &[Warning],
    plan: &Plan<'_>,
    found: &Preflight,
    out: &mut dyn Write,
) -> u8 {
    let disk = config.store.path.as_ref().map(|path| look(Path::new(path)));
    match report(config, warnings, plan, found, disk.as_ref(), out) {
        Ok(()) if found.refusals.is_empty() => 0,
        // A report nobody could read is no success either.
        Ok(()) | Err(_) => EXIT_FAILURE,
    }
}

fn report(
    config: &Config,
    warnings: &[Warning],
    plan: &Plan<'_>,
    found: &Preflight,
    disk: Option<&Disk>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for warning in warnings {
        writeln!(out, "{warning}")?;
    }
    durability(config, disk, out)?;
    memory(plan, out)?;
    if let Some(disk) = disk {
        flash(config, disk, out)?;
    }
    outage(config, disk, out)?;
    if let Some(holder) = &found.running {
        let pid = holder.pid;
        writeln!(out, "process {pid} runs with this file: what it has taken counts as free")?;
    }
    for doubt in &found.doubts {
        writeln!(out, "warning: {}", Visible(doubt))?;
    }
    for refusal in &found.refusals {
        writeln!(out, "error: {}", Visible(refusal))?;
    }
    let good = found.refusals.is_empty();
    writeln!(out, "{}", if good { "ok" } else { "the gateway would not start" })
}

fn durability(config: &Config, disk: Option<&Disk>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "durability")?;
    let (ack, when) = match config.ack {
        Ack::Safe => ("safe", "once every destination has settled it or the store has it"),
        Ack::Ring => ("ring", "as soon as it is in RAM"),
    };
    writeln!(out, "  ack = {ack}: a QoS 1/2 message is acknowledged {when}")?;
    let Some((disk, path)) = disk.zip(config.store.path.as_deref()) else {
        writeln!(out, "  store.path = none: what is accepted and not yet forwarded is lost when")?;
        return writeln!(out, "    the gateway ends or the power fails");
    };
    writeln!(out, "  store.path = {} on {}", Visible(path), disk.file_system)?;
    let (sync, survives) = match (config.store.sync, disk.medium) {
        (Sync::Off, _) => ("off", "neither kill -9 nor power loss for certain"),
        (Sync::Normal, _) => ("normal", "kill -9, not power loss"),
        (Sync::Full, Medium::Ram) => ("full", "kill -9, but no restart of this machine"),
        (Sync::Full, _) => ("full", "kill -9 and power loss"),
    };
    let what = match config.ack {
        Ack::Safe => "every acknowledged message survives",
        Ack::Ring => "RAM is lost in a crash, what was committed survives",
    };
    writeln!(out, "  store.sync = {sync}: {what} {survives}")?;
    match doubt(disk) {
        Some(doubt) => writeln!(out, "  warning: {doubt}"),
        None => Ok(()),
    }
}

/// What is doubtful about the place of the store `path`: for the log, at every start.
pub fn doubtful_place(path: &str) -> Option<String> {
    doubt(&look(Path::new(path)))
}

fn doubt(disk: &Disk) -> Option<String> {
    let directory = disk.directory.to_string_lossy();
    let directory = Visible(&directory);
    match disk.medium {
        Medium::Ram => Some(format!(
            "{directory} is {}, which is RAM: the store is gone when this machine restarts",
            disk.file_system
        )),
        Medium::Overlay => Some(format!(
            "{directory} is an overlay: its upper layer must be flash (in a container it is not \
             kept)"
        )),
        Medium::Network => {
            Some(format!("{directory} is on the network: SQLite's WAL needs a local file system"))
        }
        Medium::Image | Medium::Disk | Medium::Unknown => None,
    }
}

fn memory(plan: &Plan<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "memory plan")?;
    let mut total: u64 = 0;
    for (part, bytes) in plan.parts {
        writeln!(out, "  {part:<24} {:>10}", kib(*bytes))?;
        total = total.saturating_add(*bytes);
    }
    writeln!(out, "  {:<24} {:>10}", "together", kib(total))
}

fn flash(config: &Config, disk: &Disk, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "flash plan")?;
    let max = store_bytes(config, disk);
    let from = if config.store.max_bytes.is_some() { "" } else { " (the default)" };
    writeln!(out, "  store.max_bytes = {}{from}", kib(max))?;
    writeln!(out, "  {:<24} {:>10}", "in use by the store", kib(disk.store_bytes))?;
    let Some(free) = disk.free_bytes else { return Ok(()) };
    writeln!(out, "  {:<24} {:>10}", "free beside it", kib(free))?;
    if max > free.saturating_add(disk.store_bytes) {
        writeln!(out, "  warning: the store may not grow to store.max_bytes")?;
    }
    Ok(())
}

fn outage(config: &Config, disk: Option<&Disk>, out: &mut dyn Write) -> io::Result<()> {
    if config.bridges.is_empty() {
        return writeln!(out, "no bridge: nothing waits for a remote");
    }
    writeln!(
        out,
        "an outage of a remote that fits, about, at {} messages/s of {PAYLOAD_BYTES} B",
        RATES.map(|rate| rate.to_string()).join(", ")
    )?;
    for bridge in &config.bridges {
        let ring = ring_messages(config);
        row(out, &bridge.name, "ring alone", ring.min(quota(bridge)))?;
        if let Some(disk) = disk {
            let store = store_messages(config, bridge, disk);
            row(out, &bridge.name, "ring and store", (ring + store).min(quota(bridge)))?;
        }
    }
    Ok(())
}

fn row(out: &mut dyn Write, bridge: &str, what: &str, messages: u64) -> io::Result<()> {
    write!(out, "  {bridge:<12} {what:<14} {messages:>9} messages:")?;
    for rate in RATES {
        write!(out, " {:>8}", span(messages / rate))?;
    }
    writeln!(out)
}

/// Messages of one bridge that RAM holds: a destination gets a share of the ring at most.
fn ring_messages(config: &Config) -> u64 {
    let blocks = (PAYLOAD_BYTES + TOPIC_BYTES).div_ceil(wide(BLOCK_BYTES));
    let by_bytes = wide(config.ring_bytes) / (blocks * wide(BLOCK_BYTES));
    by_bytes.min(u64::from(config.ring_messages)) / wide(RING_SHARE)
}

/// Messages of one bridge that the store holds, when all bridges have the same to keep.
fn store_messages(config: &Config, bridge: &Bridge, disk: &Disk) -> u64 {
    let of_bridges = 100 - u64::from(config.store.sessions_share.min(99));
    let (fill, of) = STORE_FILL;
    let count = wide(config.bridges.len()).max(1);
    let share = store_bytes(config, disk) / of * fill / 100 * of_bridges / count;
    let bytes = bridge.max_bytes.map_or(share, |max| max.min(share));
    let record = RECORD_HEAD_BYTES + PAYLOAD_BYTES + TOPIC_BYTES;
    let a_slot = (wide(SLOT_BYTES) / record).min(wide(SLOT_RECORDS_MAX));
    bytes / wide(SLOT_BYTES) * a_slot
}

fn quota(bridge: &Bridge) -> u64 {
    bridge.max_messages.unwrap_or(u64::MAX)
}

/// The configured bound, else the default: 64 MiB, at most half of what is free at first start.
fn store_bytes(config: &Config, disk: &Disk) -> u64 {
    let room = disk.free_bytes.map(|free| free.saturating_add(disk.store_bytes) / 2);
    let default = STORE_BYTES_DEFAULT.min(room.unwrap_or(u64::MAX));
    config.store.max_bytes.unwrap_or(default)
}

fn kib(bytes: u64) -> String {
    if bytes >= 100 << 20 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes.div_ceil(1024))
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const BRIDGE: &str = "bridge.hub.server = mqtt://h\nbridge.hub.forward.a.local_topic = #\n";

    fn config(text: &str) -> (Config, Vec<Warning>) {
        load("f", text, &mut |_| Err("no file".to_owned()), "node").expect("loads")
    }

    fn good_disk(medium: Medium, file_system: &'static str) -> Disk {
        Disk {
            directory: "/data".into(),
            medium,
            file_system,
            free_bytes: Some(1 << 30),
            store_bytes: 0,
        }
    }

    fn said(text: &str, disk: Option<&Disk>) -> String {
        let (config, warnings) = config(text);
        let plan = Plan { parts: &[("ring", 3 << 20), ("connections", 1025)] };
        let mut out = Vec::new();
        let found = Preflight::default();
        report(&config, &warnings, &plan, &found, disk, &mut out).expect("a Vec takes all");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_good_place_is_ok_and_the_plan_adds_up() {
        let disk = good_disk(Medium::Disk, "ubifs");
        let text = said(&format!("{BRIDGE}store.path = /data/spill.db"), Some(&disk));
        assert!(text.ends_with("ok\n"), "{text}");
        assert!(text.contains("store.path = /data/spill.db on ubifs"), "{text}");
        assert!(text.contains("message survives kill -9 and power loss"), "{text}");
        assert!(text.contains("  ring                       3072 KiB\n"), "{text}");
        assert!(text.contains("  together                   3074 KiB\n"), "{text}");
        assert!(text.contains("store.max_bytes = 65536 KiB (the default)"), "{text}");
        assert!(!text.contains("warning"), "{text}");
    }

    #[test]
    fn ram_and_overlays_are_warned_about() {
        let text = said(BRIDGE, Some(&good_disk(Medium::Ram, "tmpfs")));
        assert!(text.contains("is tmpfs, which is RAM"), "{text}");
        assert!(!text.contains("power loss"), "{text}");
        let text = said(BRIDGE, Some(&good_disk(Medium::Overlay, "overlayfs")));
        assert!(text.contains("is an overlay"), "{text}");
    }

    #[test]
    fn what_keeps_it_from_starting_is_the_last_that_is_said() {
        let (config, warnings) = config("store.path = none");
        let found = Preflight {
            refusals: vec!["no\nroom".to_owned(), "no port".to_owned()],
            doubts: vec!["perhaps".to_owned()],
            running: None,
        };
        let mut out = Vec::new();
        let plan = Plan { parts: &[] };
        assert_eq!(check(&config, &warnings, &plan, &found, &mut out), EXIT_FAILURE);
        let text = String::from_utf8(out).expect("UTF-8");
        let end = "warning: perhaps\nerror: no\\u{a}room\nerror: no port\n\
            the gateway would not start\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn without_a_store_the_ring_is_all_there_is() {
        let text = said(&format!("{BRIDGE}store.path = none"), None);
        assert!(text.contains("ack = ring"), "{text}");
        assert!(text.contains("ring alone") && !text.contains("ring and store"), "{text}");
        assert!(text.starts_with("f:3: store.path: warning:"), "{text}");
    }

    #[test]
    fn an_outage_is_reckoned_from_ring_and_store() {
        let (config, _) = config(&format!("{BRIDGE}store.max_bytes = 64MiB"));
        // One block a message, a quarter of 1024 records for one destination.
        assert_eq!(ring_messages(&config), 256);
        let disk = good_disk(Medium::Disk, "ext2/3/4");
        // 64 MiB x 7/8 x 75 % in slots of 32256 bytes with 161 records of 200 bytes.
        let slots: u64 = (64 << 20) / 8 * 7 / 100 * 75 / 32_256;
        assert_eq!(store_messages(&config, &config.bridges[0], &disk), slots * 161);
        let mut config = config;
        config.bridges[0].max_bytes = Some(2 * 32_256);
        assert_eq!(store_messages(&config, &config.bridges[0], &disk), 322);
        config.bridges[0].max_messages = Some(100);
        let mut out = Vec::new();
        outage(&config, Some(&disk), &mut out).expect("a Vec takes all");
        let text = String::from_utf8(out).expect("UTF-8");
        assert_eq!(text.matches("  100 messages:    100 s     10 s      1 s").count(), 2, "{text}");
    }

    #[test]
    fn the_default_bound_leaves_half_of_a_small_disk() {
        let (config, _) = config(BRIDGE);
        let small = Disk { free_bytes: Some(8 << 20), ..good_disk(Medium::Disk, "jffs2") };
        assert_eq!(store_bytes(&config, &small), 4 << 20);
        let (large, _) = super::tests::config("store.max_bytes = 16MiB");
        assert_eq!(store_bytes(&large, &small), 16 << 20);
        let text = said("store.max_bytes = 16MiB", Some(&small));
        assert!(text.contains("may not grow"), "{text}");
    }

    #[test]
    fn a_report_that_nobody_can_read_is_no_success() {
        let (config, warnings) = config("store.path = none");
        let (plan, found) = (Plan { parts: &[] }, Preflight::default());
        assert_eq!(check(&config, &warnings, &plan, &found, &mut Vec::new()), 0);
        let mut short = [0_u8; 3];
        assert_eq!(check(&config, &warnings, &plan, &found, &mut &mut short[..]), EXIT_FAILURE);
    }

    #[test]
    fn spans_are_short() {
        let spans = [119, 120, 7199, 7200, 172_800].map(span);
        assert_eq!(spans, ["119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
