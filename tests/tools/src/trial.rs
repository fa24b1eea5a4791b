//! `trial`: five topics through a gateway whose link is cut and which is killed meanwhile, then
//! the count: was anything lost that was accepted, did QoS 2 come twice, did order hold? What
//! `scripts/demo` runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::args::Args;
use crate::clock;
use crate::load::{self, Plan, Progress, Report};
use crate::net;
use crate::process::{Figures, Kind, Process};
use crate::proxy::{Command, Proxy};
use crate::proxy_main;
use crate::publisher::{Options as PublisherOptions, StreamOptions};
use crate::screen::{Screen, View};
use crate::setup::{self, Bridge, RunDir, Setup};
use crate::signals;
use crate::subscribe::{self, Subscriber};
use crate::verdict::{Outcome, Verdict};
use crate::witness::Witness;

const QOS: [u8; 5] = [1, 1, 2, 2, 2];
/// What the publishers may have open each.
const WINDOW: u16 = 64;
const START: Duration = Duration::from_secs(20);
const FRAME: Duration = Duration::from_millis(100);
/// After the last arrival, how long the rest may be under way before it is called lost.
const QUIET: u64 = 20 * clock::SECOND;
/// And whatever comes, the end of the patience.
const DRAIN: u64 = 120 * clock::SECOND;

pub const USAGE: &str = "\
trial   publishers -> gateway -> proxy -> upstream broker -> subscriber, with a cut and a kill -9
    --seconds 30  --rate 900 (messages a second, together)  --size 128  --mqtt 5 (to the upstream)
    --remote HOST:PORT (another broker as the upstream)  --outage cut|stall|blackhole
    --gateway spillway|mosquitto  --upstream spillway|mosquitto  --binary PATH (of spillway)
    --gateway-config LINE  --dir DIR  --keep  --no-kill
    exit status 1 when an accepted message was lost, QoS 2 came twice or order broke; what another
    broker has acknowledged and then loses or turns round is told, and is not the gateway's";

struct Options {
    seconds: f64,
    rate: f64,
    payload_bytes: usize,
    version: u8,
    remote: Option<SocketAddr>,
    outage: Command,
    gateway: Kind,
    upstream: Kind,
    binary: Option<PathBuf>,
    extra: Vec<String>,
    kill: bool,
    run: u32,
}

pub fn main(mut args: Args) -> Result<bool, String> {
    let remote = args.text("remote")?.map(|text| net::address(&text)).transpose()?;
    let options = Options {
        seconds: args.value("seconds", 30.0)?,
        rate: args.value("rate", 900.0)?,
        payload_bytes: args.value("size", 128)?,
        version: args.value("mqtt", 5)?,
        remote,
        outage: proxy_main::parse(&args.value("outage", "cut".to_owned())?)?,
        gateway: args.value("gateway", Kind::Spillway)?,
        upstream: args.value("upstream", Kind::Spillway)?,
        binary: args.option("binary")?,
        extra: args.text("gateway-config")?.into_iter().collect(),
        kill: !args.flag("no-kill"),
        run: clock::run_number(),
    };
    let (parent, keep) = (args.option("dir")?, args.flag("keep"));
    args.finish()?;
    signals::install();
    let mut dir = RunDir::new(parent, "spillway-trial", keep)?;
    let outcome = Trial::start(&options, &dir).and_then(|mut trial| trial.play());
    if let Some(remote) = options.remote {
        // Leave no session behind at somebody else's broker.
        subscribe::forget(remote, &bridge_client_id(options.run));
        subscribe::forget(remote, &subscriber_client_id(options.run));
    }
    match outcome {
        Ok(outcome) => {
            let verdict = Verdict::of(&outcome);
            print!("{}", verdict.table(&outcome));
            dir.keep |= !verdict.passed;
            if dir.keep {
                println!("logs and configurations: {}", dir.path.display());
            }
            Ok(verdict.passed)
        }
        Err(error) => {
            dir.keep = true;
            eprintln!("\ntrial: {error}\nlogs and configurations: {}", dir.path.display());
            Ok(false)
        }
    }
}

struct Trial<'a> {
    options: &'a Options,
    dir: PathBuf,
    run: u32,
    configuration: String,
    listen: SocketAddr,
    // In the order in which they go, so that nobody misses anybody.
    gateway: Process,
    proxy: Proxy,
    witness: Witness,
    subscriber: Subscriber,
    /// None with `--remote`.
    upstream: Option<Process>,
    /// Of the lives that are over.
    past: Figures,
    past_loop_max_ms: u64,
    screen: Screen,
    progress: Arc<Progress>,
    started_at: u64,
    phase: &'static str,
}

impl<'a> Trial<'a> {
    fn start(options: &'a Options, dir: &RunDir) -> Result<Self, String> {
        let run = options.run;
        let dir = dir.path.clone();
        let port = || net::free_port().map_err(|e| e.to_string());
        let (upstream, remote) = match options.remote {
            Some(remote) => (None, remote),
            None => {
                let (process, address) = upstream(options, &dir, port()?)?;
                (Some(process), address)
            }
        };
        let subscriber = subscriber(remote, run)?;
        let witness = Witness::default();
        let proxy = Proxy::start_with(0, remote, Some(witness.clone()));
        let proxy = proxy.map_err(|e| e.to_string())?;
        let bridge = Bridge {
            remote: proxy.address,
            filter: format!("spillway-trial/{run:08x}/#"),
            // The default, as a user has it.
            max_inflight: None,
            version: options.version,
            client_id: bridge_client_id(run),
            keepalive_s: 5,
        };
        let port = port()?;
        let setup = Setup {
            name: "gateway",
            port,
            dir: &dir,
            store: true,
            limit_inflight: Some(WINDOW),
            bridge: Some(&bridge),
            extra: &options.extra,
        };
        let configuration = setup::configuration(options.gateway, &setup);
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let gateway = launch(options, &dir, &configuration, listen)?;
        Ok(Trial {
            options,
            dir,
            run,
            configuration,
            listen,
            upstream,
            subscriber,
            proxy,
            witness,
            gateway,
            past: Figures::default(),
            past_loop_max_ms: 0,
            screen: Screen::new(),
            progress: Arc::default(),
            started_at: clock::now(),
            phase: "link up",
        })
    }

    fn play(&mut self) -> Result<Outcome, String> {
        self.wait_for_link()?;
        self.started_at = clock::now();
        let load = self.publish();
        self.watch_until(0.2)?;
        self.phase = "link CUT";
        self.proxy.command(self.options.outage);
        self.watch_until(0.45)?;
        if self.options.kill {
            self.kill_and_restart()?;
        }
        self.watch_until(0.7)?;
        self.phase = "link healed";
        self.proxy.command(Command::Pass);
        self.watch_until(1.0)?;
        self.phase = "publishers stop, the rest drains";
        self.progress.stop.store(true, Ordering::Relaxed);
        while !load.is_finished() {
            self.watch()?;
        }
        let report = load.join().map_err(|_| "the publishers' thread died")??;
        let drained_s = self.drain(&report)?;
        self.phase = "done";
        self.watch()?;
        let figures = self.gateway.figures();
        let stopped = self.gateway.stop(Duration::from_secs(10));
        let loop_max_ms = self.past_loop_max_ms.max(self.gateway.log().loop_max_ms);
        let seen = self.subscriber.seen();
        Ok(Outcome {
            tally: seen.tally.clone(),
            heard: self.witness.streams(),
            own_remote: self.options.remote.is_none() && self.options.upstream == Kind::Spillway,
            run: self.run,
            report,
            rss_peak_kib: self.past.rss_peak_kib.max(figures.rss_peak_kib),
            write_bytes: self.past.write_bytes + figures.write_bytes,
            loop_max_ms: (self.options.gateway == Kind::Spillway).then_some(loop_max_ms),
            drained_s,
            stopped: stopped.is_some_and(|status| status.success()),
        })
    }

    fn wait_for_link(&mut self) -> Result<(), String> {
        let deadline = clock::now() + START.as_nanos() as u64;
        loop {
            self.gateway.alive()?;
            let bytes = self.proxy.command(Command::Status).bytes;
            let up = self.gateway.log().link == "up" || self.options.gateway == Kind::Mosquitto;
            // CONNACK has come through the proxy.
            if up && bytes[1] > 0 {
                return Ok(());
            }
            if clock::now() > deadline {
                let log = self.gateway.log();
                let tail: Vec<&str> = log.tail.iter().map(String::as_str).collect();
                return Err(format!("the bridge does not come up:\n{}", tail.join("\n")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn publish(&self) -> JoinHandle<Result<Report, String>> {
        let run = self.run;
        let publisher = |(index, qos): (usize, u8)| PublisherOptions {
            address: self.listen,
            client_id: format!("trial-{run:08x}-{index}"),
            version: 4,
            clean_start: false,
            reconnect: true,
            window: WINDOW,
            batch: 1,
            run,
            publisher: index as u32,
            streams: vec![StreamOptions {
                topic: format!("spillway-trial/{run:08x}/t{index}"),
                qos,
                payload_bytes: self.options.payload_bytes,
            }],
        };
        let plan = Plan {
            publishers: QOS.into_iter().enumerate().map(publisher).collect(),
            count: None,
            rate: Some(self.options.rate),
            seconds: None,
            drain_s: 30.0 + self.options.seconds,
        };
        let progress = self.progress.clone();
        std::thread::spawn(move || load::run(&plan, &progress).map_err(|e| e.to_string()))
    }

    fn kill_and_restart(&mut self) -> Result<(), String> {
        self.phase = "link CUT, gateway KILLED (-9)";
        let figures = self.gateway.figures();
        self.past_loop_max_ms = self.gateway.log().loop_max_ms;
        self.gateway.kill();
        self.past = figures;
        // Long enough to be seen on the screen.
        let until = clock::now() + clock::SECOND;
        while clock::now() < until {
            self.draw();
            std::thread::sleep(FRAME);
        }
        self.gateway = launch(self.options, &self.dir, &self.configuration, self.listen)?;
        self.phase = "link CUT, gateway is back";
        Ok(())
    }

    fn watch_until(&mut self, share: f64) -> Result<(), String> {
        let until = self.started_at + (self.options.seconds * share * 1e9) as u64;
        while clock::now() < until {
            self.watch()?;
        }
        Ok(())
    }

    fn watch(&mut self) -> Result<(), String> {
        self.gateway.alive().map_err(|e| format!("the gateway {e}"))?;
        if let Some(upstream) = &mut self.upstream {
            upstream.alive().map_err(|e| format!("the upstream {e}"))?;
        }
        if signals::stop_wanted() {
            return Err("interrupted".into());
        }
        self.draw();
        std::thread::sleep(FRAME);
        Ok(())
    }

    /// Until all that was accepted has arrived, or nothing comes any more. Seconds it took.
    fn drain(&mut self, report: &Report) -> Result<f64, String> {
        let begun = clock::now();
        let (mut arrived, mut since) = (0, begun);
        loop {
            let (missing, now_arrived) = {
                let seen = self.subscriber.seen();
                let missing = Verdict::missing(&report.publishers, &seen.tally, self.run);
                (missing, seen.tally.received)
            };
            if now_arrived > arrived {
                (arrived, since) = (now_arrived, clock::now());
            }
            let now = clock::now();
            if missing == 0 || now > since + QUIET || now > begun + DRAIN {
                return Ok((clock::now() - begun) as f64 / 1e9);
            }
            self.watch()?;
        }
    }

    fn draw(&mut self) {
        let (arrived, log) = {
            let seen = self.subscriber.seen();
            (seen.tally.totals(None).unique, self.gateway.log())
        };
        let pair = |a: &str, b: &str| Some((log.stat(a)?, log.stat(b)?));
        let view = View {
            elapsed: (clock::now() - self.started_at) as f64 / 1e9,
            seconds: self.options.seconds,
            phase: self.phase.into(),
            link: log.link.clone(),
            ring: pair("ring_msgs", "ring_cap"),
            store: pair("store_msgs", "store_bytes"),
            inflight: log.stat("inflight"),
            sent: self.progress.sent.load(Ordering::Relaxed),
            accepted: self.progress.accepted.load(Ordering::Relaxed),
            arrived,
            rss_kib: log.stat("rss_kib").unwrap_or(0),
            log: log.tail.iter().cloned().collect(),
        };
        drop(log);
        self.screen.draw(&view);
    }
}

fn bridge_client_id(run: u32) -> String {
    format!("spillway-trial-{run:08x}-bridge")
}

fn subscriber_client_id(run: u32) -> String {
    format!("spillway-trial-{run:08x}-subscriber")
}

fn launch(
    options: &Options,
    dir: &std::path::Path,
    configuration: &str,
    listen: SocketAddr,
) -> Result<Process, String> {
    let kind = options.gateway;
    let binary = options.binary.clone().filter(|_| kind == Kind::Spillway);
    let binary = binary.unwrap_or_else(|| kind.binary());
    let mut gateway = Process::start(kind, &binary, dir, "gateway", configuration)?;
    gateway.wait_listening(listen, START).map_err(|e| format!("the gateway {e}"))?;
    Ok(gateway)
}

fn upstream(
    options: &Options,
    dir: &std::path::Path,
    port: u16,
) -> Result<(Process, SocketAddr), String> {
    let kind = options.upstream;
    let binary = options.binary.clone().filter(|_| kind == Kind::Spillway);
    // The subscriber's queue must never be what loses a message: that would be laid at the
    // gateway's door.
    let extra: Vec<String> = match kind {
        Kind::Spillway => ["session.max_messages = 100000", "session.max_bytes = 256MiB"]
            .map(str::to_owned)
            .to_vec(),
        Kind::Mosquitto => Vec::new(),
    };
    // A mosquitto as it is out of the package: what it acknowledges and loses is told apart.
    let (name, limit_inflight) = ("upstream", (kind == Kind::Spillway).then_some(256));
    let setup = Setup { name, port, dir, store: true, limit_inflight, bridge: None, extra: &extra };
    let configuration = setup::configuration(kind, &setup);
    let binary = binary.unwrap_or_else(|| kind.binary());
    let mut process = Process::start(kind, &binary, dir, name, &configuration)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    process.wait_listening(address, START).map_err(|e| format!("the upstream {e}"))?;
    Ok((process, address))
}

fn subscriber(remote: SocketAddr, run: u32) -> Result<Subscriber, String> {
    let options = subscribe::Options {
        address: remote,
        client_id: subscriber_client_id(run),
        version: 4,
        clean_start: false,
        filters: vec![format!("spillway-trial/{run:08x}/#")],
        qos: 2,
    };
    let subscriber = Subscriber::start(options).map_err(|e| e.to_string())?;
    let deadline = clock::now() + START.as_nanos() as u64;
    while !subscriber.seen().subscribed {
        if clock::now() > deadline || subscriber.seen().refused {
            return Err(format!("cannot subscribe at {remote}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(subscriber)
}
