//! A gateway between a load and the sink, with the proxy on its link.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Options;
use crate::clock;
use crate::load::{self, Plan, Progress, Report, Shape};
use crate::net;
use crate::process::{Figures, Kind, Process};
use crate::proxy::{Command, Proxy};
use crate::publisher::{Options as PublisherOptions, Publisher};
use crate::setup::{self, Bridge, Setup};
use crate::signals;
use crate::sink::{self, Sink};
use crate::tally::Tally;

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    // In the order in which they go.
    pub gateway: Process,
    pub proxy: Option<Proxy>,
    pub sink: Sink,
    pub listen: SocketAddr,
    name: String,
    configuration: String,
}

pub struct Wish<'a> {
    pub kind: Kind,
    pub binary: &'a Path,
    pub dir: &'a Path,
    /// Round trip of the remote, nanoseconds.
    pub delay: u64,
    /// With the proxy, so that the link can be cut.
    pub cuttable: bool,
    /// `limit.inflight` and `max_inflight`, and mosquitto's limit where that is compared: what is
    /// measured is one window for all, not the defaults.
    pub inflight: u16,
    pub extra: &'a [String],
    /// Variables of the gateway's process.
    pub environment: &'a [(&'a str, String)],
}

impl<'a> Wish<'a> {
    /// Spillway as it comes, next to its remote, with a link that can be cut.
    pub fn of(options: &'a Options) -> Self {
        Wish {
            kind: Kind::Spillway,
            binary: &options.binary,
            dir: &options.dir,
            delay: 0,
            cuttable: true,
            inflight: 64,
            extra: &[],
            environment: &[],
        }
    }
}

/// How long a start took, in milliseconds from the call that makes the process.
pub struct Started {
    pub listening_ms: f64,
    pub connack_ms: f64,
    pub connecting_ms: f64,
}

/// A load in the words of a benchmark.
#[derive(Clone)]
pub struct Work {
    pub publishers: u32,
    pub window: u16,
    pub qos: u8,
    pub payload_bytes: (usize, usize),
    pub count: Option<u64>,
    pub rate: Option<f64>,
    pub seconds: Option<f64>,
    /// Seconds to wait for the last acknowledgements.
    pub drain_s: f64,
}

impl Work {
    pub fn count(qos: u8, payload_bytes: usize, count: u64) -> Work {
        Work {
            publishers: 4,
            window: 100,
            qos,
            payload_bytes: (payload_bytes, payload_bytes),
            count: Some(count),
            rate: None,
            seconds: None,
            drain_s: 120.0,
        }
    }
}

impl Rig {
    pub fn start(wish: &Wish<'_>) -> Result<Rig, String> {
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", wish.kind.name());
        let sink = Sink::start(sink::Options {
            port: 0,
            delay: wish.delay,
            receive_maximum: None,
            keep_sessions: true,
            mute: false,
        });
        let sink = sink.map_err(|e| e.to_string())?;
        let proxy = wish.cuttable.then(|| Proxy::start(0, sink.address)).transpose();
        let proxy = proxy.map_err(|e| e.to_string())?;
        let bridge = Bridge {
            remote: proxy.as_ref().map_or(sink.address, |proxy| proxy.address),
            filter: "load/#".into(),
            max_inflight: Some(wish.inflight),
            version: 4,
            client_id: format!("bench-{name}"),
            keepalive_s: 30,
        };
        let port = net::free_port().map_err(|e| e.to_string())?;
        let setup = Setup {
            name: &name,
            port,
            dir: wish.dir,
            store: true,
            limit_inflight: Some(wish.inflight),
            bridge: Some(&bridge),
            extra: wish.extra,
        };
        let configuration = setup::configuration(wish.kind, &setup);
        let mut gateway = Process::start_with(
            wish.kind,
            wish.binary,
            wish.dir,
            &name,
            &configuration,
            wish.environment,
        )?;
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        gateway.wait_listening(listen, PATIENCE)?;
        let mut rig = Rig { gateway, proxy, sink, listen, name, configuration };
        rig.wait_for("the bridge is up", PATIENCE, |rig| rig.sink.seen().connected > 0)?;
        Ok(rig)
    }

    /// `kill -9`, then a new process with what the old one left.
    pub fn restart(&mut self, binary: &Path, dir: &Path) -> Result<Started, String> {
        self.gateway.kill();
        let begun = clock::now();
        let kind = Kind::Spillway;
        self.gateway = Process::start(kind, binary, dir, &self.name, &self.configuration)?;
        let mut probe = Publisher::new(self.plan(&Work::count(1, 64, 0)).publishers.remove(0));
        let deadline = begun + PATIENCE.as_nanos() as u64;
        while !probe.is_up() {
            probe.pump(clock::now(), 0);
            probe.readable(clock::now());
            // Nobody listens yet: what the kernel refuses is tried again at once.
            if probe.error.is_some() {
                probe = Publisher::new(self.plan(&Work::count(1, 64, 0)).publishers.remove(0));
            }
            if clock::now() > deadline {
                return Err(format!("no CONNACK within {PATIENCE:?}"));
            }
            self.gateway.alive()?;
        }
        let connack_at = clock::now();
        probe.disconnect();
        self.wait_for("the bridge connects", PATIENCE, |rig| {
            rig.gateway.log().first_at.contains_key("bridge_connecting")
        })?;
        let log = self.gateway.log();
        let ms = |at: u64| at.saturating_sub(begun) as f64 / 1e6;
        let event = |name: &str| log.first_at.get(name).map_or(f64::NAN, |at| ms(*at));
        Ok(Started {
            listening_ms: event("listening"),
            connack_ms: ms(connack_at),
            connecting_ms: event("bridge_connecting"),
        })
    }

    pub fn plan(&self, work: &Work) -> Plan {
        let run = clock::run_number();
        let first = PublisherOptions {
            address: self.listen,
            client_id: format!("load-{run:08x}"),
            version: 4,
            clean_start: true,
            reconnect: false,
            window: work.window,
            batch: 1,
            run,
            publisher: 0,
            streams: Vec::new(),
        };
        let shape = Shape {
            publishers: work.publishers,
            topics: 1,
            topic: "load/%p".into(),
            qos: work.qos,
            payload_bytes: work.payload_bytes,
        };
        Plan {
            publishers: load::spread(&shape, &first),
            count: work.count,
            rate: work.rate,
            seconds: work.seconds,
            drain_s: work.drain_s,
        }
    }

    /// Publishes, to the last acknowledgement.
    pub fn load(&mut self, work: &Work) -> Result<Report, String> {
        let report = load::run(&self.plan(work), &Arc::<Progress>::default());
        let report = report.map_err(|e| e.to_string())?;
        self.gateway.alive()?;
        match &report.error {
            Some(error) => Err(error.clone()),
            None => Ok(report),
        }
    }

    /// Until `count` different messages have arrived, or nothing comes for `quiet`.
    pub fn wait_arrived(&mut self, count: u64, quiet: Duration) -> Result<(), String> {
        let (mut before, mut since) = (0, clock::now());
        loop {
            let arrived = self.sink.seen().tally.totals(None).unique;
            if arrived != before {
                (before, since) = (arrived, clock::now());
            }
            if arrived >= count || clock::now() > since + quiet.as_nanos() as u64 {
                return Ok(());
            }
            self.pause()?;
        }
    }

    pub fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        mut is_so: impl FnMut(&mut Rig) -> bool,
    ) -> Result<(), String> {
        let deadline = clock::now() + patience.as_nanos() as u64;
        while !is_so(self) {
            if clock::now() > deadline {
                return Err(format!("waited {patience:?} in vain until {what}"));
            }
            self.pause()?;
        }
        Ok(())
    }

    /// A little while, in which the gateway must live.
    pub fn pause(&mut self) -> Result<(), String> {
        std::thread::sleep(Duration::from_millis(5));
        if signals::stop_wanted() {
            return Err("interrupted".into());
        }
        self.gateway.alive()
    }

    /// The link is gone and the gateway knows it.
    pub fn cut(&mut self) -> Result<(), String> {
        self.proxy.as_ref().ok_or("no proxy")?.command(Command::Cut);
        self.wait_for("the link is down", PATIENCE, |rig| {
            rig.sink.seen().connected == 0 && !rig.gateway.log().link.starts_with("up")
        })
    }

    /// The link is gone; whether the gateway says so or not.
    pub fn cut_unseen(&mut self) -> Result<(), String> {
        self.proxy.as_ref().ok_or("no proxy")?.command(Command::Cut);
        self.wait_for("the link is down", PATIENCE, |rig| rig.sink.seen().connected == 0)
    }

    pub fn heal(&mut self) -> Result<(), String> {
        self.proxy.as_ref().ok_or("no proxy")?.command(Command::Pass);
        Ok(())
    }

    pub fn figures(&self) -> Figures {
        self.gateway.figures()
    }

    /// Starts counting anew.
    pub fn reset(&mut self) {
        let mut seen = self.sink.seen();
        let connected = seen.connected;
        *seen = sink::Seen { connected, ..sink::Seen::default() };
    }

    pub fn tally(&self) -> Tally {
        self.sink.seen().tally.clone()
    }
}

/// What is missing of what was promised; at QoS 0 of what was sent.
pub fn lost(report: &Report, tally: &Tally, qos: u8) -> u64 {
    let promised = if qos == 0 { report.counts.sent } else { report.counts.accepted };
    promised.saturating_sub(tally.totals(None).unique)
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Largest less smallest, in percent of the median: how much to believe.
pub fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (high - low) / median(values) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(spread(&[9.0, 10.0, 11.0]), 20.0);
    }
}
