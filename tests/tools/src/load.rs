//! `load`: many publishers on one thread against one broker, by count, by rate or for a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::args::Args;
use crate::clock;
use crate::histogram::Histogram;
use crate::net::{self, Poll};
use crate::publisher::{Counts, Options, Publisher, StreamOptions};
use crate::signals;

/// How often pings, pacing and the end are looked at when nothing happens.
const TICK: u64 = 20 * clock::MILLISECOND;

pub struct Plan {
    pub publishers: Vec<Options>,
    /// Messages of all publishers together.
    pub count: Option<u64>,
    /// Messages a second of all publishers together.
    pub rate: Option<f64>,
    pub seconds: Option<f64>,
    /// Seconds to wait for the last acknowledgements.
    pub drain_s: f64,
}

/// Figures to look at while it runs, and the way to end it.
#[derive(Default)]
pub struct Progress {
    pub sent: AtomicU64,
    pub accepted: AtomicU64,
    pub stop: AtomicBool,
}

pub struct Report {
    pub publishers: Vec<Publisher>,
    pub counts: Counts,
    pub unacked: u64,
    pub started_at: u64,
    /// From all connections being up to the last acknowledgement.
    pub seconds: f64,
    pub latency: Histogram,
    pub error: Option<String>,
}

impl Report {
    pub fn of(publishers: Vec<Publisher>, start: u64, end: u64, error: Option<String>) -> Self {
        let counts = Counts {
            sent: sum(&publishers, |c| c.sent),
            accepted: sum(&publishers, |c| c.accepted),
            refused: sum(&publishers, |c| c.refused),
            resent: sum(&publishers, |c| c.resent),
            connects: sum(&publishers, |c| c.connects),
            sessions_lost: sum(&publishers, |c| c.sessions_lost),
        };
        let mut latency = Histogram::default();
        publishers.iter().for_each(|p| latency.add(&p.latency));
        Report {
            unacked: publishers.iter().map(|p| p.unacked() as u64).sum(),
            counts,
            started_at: start,
            seconds: end.saturating_sub(start) as f64 / 1e9,
            latency,
            error,
            publishers,
        }
    }

    pub fn line(&self) -> String {
        let done = self.counts.accepted.max(self.qos0_sent());
        format!(
            "sent={} accepted={} refused={} unacked={} resent={} reconnects={} sessions_lost={} \
             seconds={:.3} msgs_per_s={:.0} ack_p50_us={} ack_p99_us={} ack_max_us={}",
            self.counts.sent,
            self.counts.accepted,
            self.counts.refused,
            self.unacked,
            self.counts.resent,
            self.counts.connects.saturating_sub(self.publishers.len() as u64),
            self.counts.sessions_lost,
            self.seconds,
            done as f64 / self.seconds.max(1e-9),
            self.latency.percentile(0.5) / 1000,
            self.latency.percentile(0.99) / 1000,
            self.latency.max() / 1000,
        )
    }

    fn qos0_sent(&self) -> u64 {
        let streams = self.publishers.iter().flat_map(|p| &p.streams);
        streams.filter(|s| s.qos == 0).map(|s| s.sent).sum()
    }
}

pub fn run(plan: &Plan, progress: &Arc<Progress>) -> std::io::Result<Report> {
    let mut poll = Poll::new()?;
    let mut publishers: Vec<_> = plan.publishers.iter().cloned().map(Publisher::new).collect();
    let mut interest = vec![false; publishers.len()];
    let mut events = Vec::new();
    let greeting_since = clock::now();
    let (mut started_at, mut last_at) = (None, greeting_since);
    let mut stopping_at = None;
    let mut report_error = None;
    loop {
        let now = clock::now();
        if started_at.is_none() && publishers.iter().all(Publisher::is_up) {
            started_at = Some(now);
        }
        let ended = progress.stop.load(Ordering::Relaxed) || finished(plan, started_at, now);
        let mut busy = false;
        for (index, publisher) in publishers.iter_mut().enumerate() {
            let target = match (ended, started_at) {
                (true, _) | (_, None) => publisher.counts.sent,
                (false, Some(start)) => target(plan, index, now - start),
            };
            busy |= publisher.pump(now, target);
            register(&poll, publisher, index, &mut interest[index])?;
            if report_error.is_none() {
                report_error = publisher.error.clone();
            }
        }
        publish_progress(&publishers, progress);
        let all_sent = plan.count.is_some_and(|count| sum(&publishers, |c| c.sent) >= count);
        let unacked: usize = publishers.iter().map(Publisher::unacked).sum();
        let unsent = publishers.iter().any(Publisher::wants_write);
        if ended || all_sent {
            let since = *stopping_at.get_or_insert(now);
            let patience = (plan.drain_s * 1e9) as u64;
            if (unacked == 0 && !unsent) || now > since + patience {
                break;
            }
        }
        if report_error.is_some() || (signals::stop_wanted() && stopping_at.is_some()) {
            break;
        }
        if started_at.is_none() && now > greeting_since + (plan.drain_s * 1e9) as u64 {
            report_error = Some("not all publishers could connect".to_owned());
            break;
        }
        let mut deadline = if busy { now } else { now + TICK };
        if let (Some(rate), Some(start), false) = (plan.rate, started_at, ended) {
            let due = next_due(&publishers, rate, start).max(now + clock::MILLISECOND / 2);
            deadline = deadline.min(due);
        }
        if let Some(retry_at) = publishers.iter().filter_map(Publisher::retry_at).min() {
            deadline = deadline.min(retry_at);
        }
        poll.wait(&mut events, Some(deadline))?;
        let now = clock::now();
        for event in &events {
            if event.readable {
                let publisher = &mut publishers[event.token as usize];
                let before = publisher.counts.accepted;
                publisher.readable(now);
                if publisher.counts.accepted > before {
                    last_at = now;
                }
            }
        }
    }
    let end = if sum(&publishers, |c| c.accepted) > 0 { last_at } else { clock::now() };
    publishers.iter_mut().for_each(Publisher::disconnect);
    Ok(Report::of(publishers, started_at.unwrap_or(end), end, report_error))
}

/// Messages that publisher `index` may have sent after `elapsed` nanoseconds.
fn target(plan: &Plan, index: usize, elapsed: u64) -> u64 {
    let share = |total: u64| {
        let count = plan.publishers.len() as u64;
        total / count + u64::from((index as u64) < total % count)
    };
    let by_rate = plan.rate.map(|rate| share((elapsed as f64 * rate / 1e9) as u64 + 1));
    by_rate.unwrap_or(u64::MAX).min(plan.count.map_or(u64::MAX, share))
}

fn next_due(publishers: &[Publisher], rate: f64, start: u64) -> u64 {
    start + (sum(publishers, |c| c.sent) as f64 / rate * 1e9) as u64
}

fn finished(plan: &Plan, started_at: Option<u64>, now: u64) -> bool {
    let (Some(seconds), Some(start)) = (plan.seconds, started_at) else {
        return signals::stop_wanted();
    };
    (now - start) as f64 / 1e9 >= seconds || signals::stop_wanted()
}

fn register(
    poll: &Poll,
    p: &mut Publisher,
    index: usize,
    interest: &mut bool,
) -> std::io::Result<()> {
    let (fresh, write) = (std::mem::take(&mut p.fresh), p.wants_write());
    let Some(socket) = p.socket() else { return Ok(()) };
    if fresh {
        poll.add(socket, index as u64, true, write)?;
    } else if *interest != write {
        poll.change(socket, index as u64, true, write)?;
    }
    *interest = write;
    Ok(())
}

fn sum(publishers: &[Publisher], figure: impl Fn(&Counts) -> u64) -> u64 {
    publishers.iter().map(|p| figure(&p.counts)).sum()
}

fn publish_progress(publishers: &[Publisher], progress: &Progress) {
    progress.sent.store(sum(publishers, |c| c.sent), Ordering::Relaxed);
    progress.accepted.store(sum(publishers, |c| c.accepted), Ordering::Relaxed);
}

pub struct Shape {
    pub publishers: u32,
    pub topics: u16,
    pub topic: String,
    pub qos: u8,
    /// Smallest and largest payload; publishers are spread between them.
    pub payload_bytes: (usize, usize),
}

/// `shape.publishers` clients like `first`; `%p` and `%t` in the topic are publisher and number.
pub fn spread(shape: &Shape, first: &Options) -> Vec<Options> {
    let one = |publisher: u32| {
        let (low, high) = shape.payload_bytes;
        let steps = shape.publishers.saturating_sub(1).max(1) as usize;
        let payload_bytes = low + (high - low) * publisher as usize / steps;
        let topic = |t: u16| {
            shape.topic.replace("%p", &publisher.to_string()).replace("%t", &t.to_string())
        };
        let stream = |t| StreamOptions { topic: topic(t), qos: shape.qos, payload_bytes };
        Options {
            client_id: format!("{}-{publisher}", first.client_id),
            publisher,
            streams: (0..shape.topics).map(stream).collect(),
            ..first.clone()
        }
    };
    (0..shape.publishers).map(one).collect()
}

fn sizes(text: &str) -> Result<(usize, usize), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.parse(), high.parse()) {
        (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
        _ => Err(format!("--size {text}: BYTES or LOW-HIGH")),
    }
}

pub const USAGE: &str = "\
load --connect HOST:PORT   publish and count the acknowledgements
    --publishers 4  --qos 1  --window 100  --batch 1  --size 64 (or 128-1024, over the publishers)
    --topic load/%p/%t  --topics 1 (a publisher)  --mqtt 4|5  --client-id PREFIX
    --count N | --seconds S   --rate MESSAGES_PER_S   --drain 30 (wait for the last ones)
    --persistent (clean_session = false)   --reconnect (send again what was not acknowledged)
    exit status 1 when something was left unacknowledged or refused";

pub fn main(args: Args) -> Result<bool, String> {
    let plan = plan(args)?;
    signals::install();
    let report = run(&plan, &Arc::default()).map_err(|e| e.to_string())?;
    println!("{}", report.line());
    if let Some(error) = &report.error {
        eprintln!("load: {error}");
    }
    Ok(report.error.is_none() && report.unacked == 0 && report.counts.refused == 0)
}

fn plan(mut args: Args) -> Result<Plan, String> {
    let address = args.text("connect")?.ok_or("--connect HOST:PORT is missing")?;
    let run: u32 = args.value("run", clock::run_number())?;
    let window: u16 = args.value("window", 100)?;
    let shape = Shape {
        publishers: args.value("publishers", 4)?,
        topics: args.value("topics", 1)?,
        topic: args.value("topic", "load/%p/%t".to_owned())?,
        qos: args.value("qos", 1)?,
        payload_bytes: sizes(&args.value("size", "64".to_owned())?)?,
    };
    let first = Options {
        address: net::address(&address)?,
        client_id: args.value("client-id", format!("load-{run:08x}"))?,
        version: args.value("mqtt", 4)?,
        clean_start: !args.flag("persistent"),
        reconnect: args.flag("reconnect"),
        window,
        batch: args.value("batch", 1)?,
        run,
        publisher: 0,
        streams: Vec::new(),
    };
    let plan = Plan {
        publishers: spread(&shape, &first),
        count: args.option("count")?,
        rate: args.option("rate")?,
        seconds: args.option("seconds")?,
        drain_s: args.value("drain", 30.0)?,
    };
    args.finish()?;
    if shape.qos > 2 || window == 0 || shape.publishers == 0 || shape.topics == 0 {
        return Err("QoS is 0 to 2; window, publishers and topics are at least 1".into());
    }
    if plan.count.is_none() && plan.seconds.is_none() {
        return Err("--count or --seconds is missing".into());
    }
    Ok(plan)
}
