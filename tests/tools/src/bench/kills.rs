//! Random kills: the gateway is killed again and again, every third time with its link cut, while
//! QoS 1 and 2 flow through it in both directions; then the count of what arrived.
//!
//! To an MQTT 5 gateway with a Receive Maximum mosquitto 2.0.11 sends some of what waited in an
//! order other than it came in (seen on the wire, DUP not set), and that is counted here: for order
//! take `--mqtt 4` or `--upstream spillway`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Options;
use crate::args::Args;
use crate::clock;
use crate::load::{self, Plan, Progress, Report};
use crate::net;
use crate::process::{Kind, Process};
use crate::proxy::{Command, Proxy};
use crate::publisher::{Options as PublisherOptions, StreamOptions};
use crate::setup::{self, Bridge, Setup};
use crate::signals;
use crate::subscribe::{self, Subscriber};
use crate::verdict::{Outcome, Verdict};
use crate::witness::Streams;

const QOS: [u8; 4] = [1, 1, 2, 2];
const WINDOW: u16 = 32;
const START: Duration = Duration::from_secs(20);
/// How long after a start the next kill comes: from here on, and up to so much later.
const LIFE_MIN: u64 = 30 * clock::MILLISECOND;
const LIFE_SPAN: u64 = 400 * clock::MILLISECOND;
/// After the last kill, how long the rest may be under way before it is called lost.
const DRAIN: u64 = 60 * clock::SECOND;

/// One way through the gateway: what is published at one end and counted at the other.
struct Way {
    name: &'static str,
    run: u32,
    subscriber: Subscriber,
    progress: Arc<Progress>,
    load: std::thread::JoinHandle<Result<Report, String>>,
}

impl Way {
    fn start(
        name: &'static str,
        topics: &str,
        rate: f64,
        version: u8,
        [from, to]: [SocketAddr; 2],
    ) -> Result<Self, String> {
        let run = clock::run_number();
        let subscriber = Subscriber::start(subscribe::Options {
            address: to,
            client_id: format!("kills-{name}-subscriber"),
            version,
            clean_start: false,
            filters: vec![format!("{topics}/#")],
            qos: 2,
        })
        .map_err(|e| e.to_string())?;
        let deadline = clock::now() + START.as_nanos() as u64;
        while !subscriber.seen().subscribed {
            if clock::now() > deadline {
                return Err(format!("cannot subscribe at {to}"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let publisher = |(index, qos): (usize, u8)| PublisherOptions {
            address: from,
            client_id: format!("kills-{name}-{index}"),
            version,
            clean_start: false,
            reconnect: true,
            window: WINDOW,
            batch: 1,
            run,
            publisher: index as u32,
            streams: vec![StreamOptions {
                topic: format!("{topics}/{index}"),
                qos,
                payload_bytes: 128,
            }],
        };
        let plan = Plan {
            publishers: QOS.into_iter().enumerate().map(publisher).collect(),
            count: None,
            rate: Some(rate),
            seconds: None,
            drain_s: 60.0,
        };
        let progress = Arc::<Progress>::default();
        let load = std::thread::spawn({
            let progress = progress.clone();
            move || load::run(&plan, &progress).map_err(|e| e.to_string())
        });
        Ok(Way { name, run, subscriber, progress, load })
    }

    /// Ends the load, waits for what is under way and counts.
    fn finish(self) -> Result<bool, String> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let report = self.load.join().map_err(|_| "the publishers' thread died")??;
        let begun = clock::now();
        loop {
            let seen = self.subscriber.seen();
            let missing = Verdict::missing(&report.publishers, &seen.tally, self.run);
            if missing == 0 || clock::now() > begun + DRAIN {
                break;
            }
            drop(seen);
            std::thread::sleep(Duration::from_millis(20));
        }
        let outcome = Outcome {
            tally: self.subscriber.seen().tally.clone(),
            // Whoever loses anything here: it is looked into.
            heard: Streams::default(),
            own_remote: true,
            run: self.run,
            report,
            rss_peak_kib: 0,
            write_bytes: 0,
            loop_max_ms: None,
            drained_s: (clock::now() - begun) as f64 / 1e9,
            stopped: true,
        };
        let verdict = Verdict::of(&outcome);
        println!("\n{}:", self.name);
        for (name, row) in ["QoS 1", "QoS 2"].iter().zip(&verdict.rows) {
            println!(
                "  {name}  accepted={} arrived={} lost={} duplicated={} out_of_order={}",
                row.accepted, row.arrived, row.lost, row.duplicated, row.out_of_order
            );
        }
        verdict.faults.iter().for_each(|fault| println!("  FAULT {fault}"));
        Ok(verdict.passed)
    }
}

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let kills: u32 = args.value("count", 200)?;
    let rate: f64 = args.value("rate", 500.0)?;
    let version: u8 = args.value("mqtt", 5)?;
    let upstream_kind: Kind = args.value("upstream", Kind::Mosquitto)?;
    args.finish()?;
    let port = || net::free_port().map_err(|e| e.to_string());
    let (_upstream, remote) = upstream(upstream_kind, options, port()?)?;
    let proxy = Proxy::start(0, remote).map_err(|e| e.to_string())?;
    let bridge = Bridge {
        remote: proxy.address,
        filter: "kills/up/#".into(),
        // The default, as a user has it.
        max_inflight: None,
        version,
        client_id: "kills-bridge".into(),
        keepalive_s: 5,
    };
    let port = port()?;
    let extra = [
        "bridge.remote.subscribe.1.remote_topic = kills/down/#",
        "bridge.remote.subscribe.1.qos = 2",
        "session.max_messages = 100000",
        "session.max_bytes = 64MiB",
    ]
    .map(str::to_owned);
    let setup = Setup {
        name: "gateway",
        port,
        dir: &options.dir,
        store: true,
        limit_inflight: Some(WINDOW),
        bridge: Some(&bridge),
        extra: &extra,
    };
    let configuration = setup::configuration(Kind::Spillway, &setup);
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let start = || launch(&options.binary, &options.dir, &configuration, listen);
    let mut gateway = start()?;
    wait_for_link(&mut gateway)?;
    let ways = [
        Way::start("up", "kills/up", rate, version, [listen, remote])?,
        Way::start("down", "kills/down", rate, version, [remote, listen])?,
    ];
    let mut chance = u64::from(clock::run_number()) | 1;
    let begun = clock::now();
    for kill in 1..=kills {
        // Xorshift: where a kill falls has to be arbitrary, not good.
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        std::thread::sleep(Duration::from_nanos(LIFE_MIN + chance % LIFE_SPAN));
        let cut = kill % 3 == 0;
        if cut {
            proxy.command(Command::Cut);
            std::thread::sleep(Duration::from_nanos(chance % LIFE_SPAN));
        }
        gateway.alive().map_err(|e| format!("before kill {kill} the gateway {e}"))?;
        gateway.kill();
        gateway = start()?;
        if cut {
            proxy.command(Command::Pass);
        }
        if signals::stop_wanted() {
            return Err("interrupted".into());
        }
    }
    println!("{kills} kills in {:.0} s", (clock::now() - begun) as f64 / 1e9);
    let mut passed = true;
    for way in ways {
        passed &= way.finish()?;
    }
    passed.then_some(()).ok_or_else(|| "messages were lost, repeated or out of order".into())
}

fn launch(
    binary: &Path,
    dir: &Path,
    configuration: &str,
    listen: SocketAddr,
) -> Result<Process, String> {
    let mut gateway = Process::start(Kind::Spillway, binary, dir, "gateway", configuration)?;
    gateway.wait_listening(listen, START).map_err(|e| format!("the gateway {e}"))?;
    Ok(gateway)
}

/// Until the bridge has subscribed: before that nothing comes down.
fn wait_for_link(gateway: &mut Process) -> Result<(), String> {
    let deadline = clock::now() + START.as_nanos() as u64;
    while gateway.log().link != "up" {
        gateway.alive()?;
        if clock::now() > deadline {
            return Err("the bridge does not come up".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its SUBSCRIBE went out behind the CONNACK; the first kill must not be what repeats it.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn upstream(kind: Kind, options: &Options, port: u16) -> Result<(Process, SocketAddr), String> {
    let extra: Vec<String> = match kind {
        Kind::Spillway => ["session.max_messages = 100000", "session.max_bytes = 64MiB"]
            .map(str::to_owned)
            .to_vec(),
        Kind::Mosquitto => Vec::new(),
    };
    // What goes down waits at the upstream while the gateway is killed: a stock mosquitto keeps
    // 1000 messages of that, and its losses would be laid at the gateway's door.
    let limit_inflight = Some(if kind == Kind::Spillway { 256 } else { 0 });
    let (dir, name) = (&*options.dir, "upstream");
    let setup = Setup { name, port, dir, store: true, limit_inflight, bridge: None, extra: &extra };
    let configuration = setup::configuration(kind, &setup);
    let binary = match kind {
        Kind::Spillway => options.binary.clone(),
        Kind::Mosquitto => kind.binary(),
    };
    let mut process = Process::start(kind, &binary, dir, name, &configuration)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address, START).map_err(|e| format!("the upstream {e}"))?;
    Ok((process, address))
}
