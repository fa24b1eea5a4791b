//! The end of a trial: what the publishers were promised against what the subscriber has.

use std::fmt::Write;

use crate::bits::Bits;
use crate::load::Report;
use crate::publisher::Publisher;
use crate::screen::bytes;
use crate::tally::Tally;
use crate::witness::{Heard, Streams};

pub struct Outcome {
    pub tally: Tally,
    /// What the remote was sent and has acknowledged.
    pub heard: Streams,
    /// The remote is a Spillway too: what it loses is lost by us.
    pub own_remote: bool,
    pub run: u32,
    pub report: Report,
    pub rss_peak_kib: u64,
    pub write_bytes: u64,
    /// None when the gateway does not say.
    pub loop_max_ms: Option<u64>,
    pub drained_s: f64,
    pub stopped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub sent: u64,
    pub accepted: u64,
    pub arrived: u64,
    /// Accepted and not arrived.
    pub lost: u64,
    /// Of these, those that the remote had acknowledged.
    pub lost_there: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    /// Of these, those that the remote got in order.
    pub turned_there: u64,
}

impl Row {
    const NAMES: [&'static str; 8] = [
        "sent",
        "accepted",
        "arrived",
        "lost",
        "  by the remote",
        "duplicated",
        "out of order",
        "  by the remote",
    ];

    fn figures(self) -> [u64; 8] {
        let Row { sent, accepted, arrived, lost, duplicated, out_of_order, .. } = self;
        let Row { lost_there, turned_there, .. } = self;
        [sent, accepted, arrived, lost, lost_there, duplicated, out_of_order, turned_there]
    }
}

pub struct Verdict {
    /// QoS 1, QoS 2, both.
    pub rows: [Row; 3],
    pub passed: bool,
    pub faults: Vec<String>,
    /// What another broker did, which is no fault of ours.
    pub there: Vec<String>,
}

impl Verdict {
    pub fn of(outcome: &Outcome) -> Verdict {
        let tally = &outcome.tally;
        let row = |qos: Option<u8>| row(outcome, qos);
        let rows = [row(Some(1)), row(Some(2)), row(None)];
        let mut faults = Vec::new();
        let mut fault = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        let missing = missing_ranges(outcome);
        let all = rows[2];
        let (lost, turned) = match outcome.own_remote {
            true => (all.lost, all.out_of_order),
            false => (all.lost - all.lost_there, all.out_of_order - all.turned_there),
        };
        fault(lost, "accepted messages were lost");
        fault(rows[1].duplicated, "QoS 2 messages came twice");
        fault(turned, "messages came out of order");
        fault(tally.corrupt, "payloads were changed");
        fault(tally.misrouted, "messages came on another topic");
        fault(outcome.report.unacked, "messages were never accepted");
        fault(outcome.report.counts.refused, "messages were refused");
        fault(u64::from(rows[2].accepted == 0), "trial in which nothing was accepted");
        if lost > 0 {
            faults.extend(missing);
        }
        if let Some(error) = &outcome.report.error {
            faults.push(error.clone());
        }
        let mut there = Vec::new();
        if !outcome.own_remote {
            for (count, what) in [(all.lost_there, "lost"), (all.turned_there, "turned round")] {
                if count > 0 {
                    there.push(format!("the remote has {what} {count} that it had acknowledged"));
                }
            }
        }
        Verdict { rows, passed: faults.is_empty(), faults, there }
    }

    /// Accepted messages that have not arrived.
    pub fn missing(publishers: &[Publisher], tally: &Tally, run: u32) -> u64 {
        let lost = |publisher: u32, index: u16, accepted: &Bits| match tally
            .stream((run, publisher, index))
        {
            Some(seen) => accepted.missing_from(&seen.seen),
            None => accepted.count(),
        };
        let all = (0u32..).zip(publishers);
        all.flat_map(|(at, p)| (0u16..).zip(&p.streams).map(move |(index, s)| (at, index, s)))
            .map(|(at, index, stream)| lost(at, index, &stream.accepted))
            .sum()
    }

    pub fn table(&self, outcome: &Outcome) -> String {
        let mut text = format!("\n{:<16}{:>12}{:>12}{:>12}\n", "", "QoS 1", "QoS 2", "together");
        let columns = self.rows.map(Row::figures);
        // Writing to a String cannot fail.
        for (line, name) in Row::NAMES.iter().enumerate() {
            let [one, two, both] = columns.map(|figures| figures[line]);
            let _ = writeln!(text, "{name:<16}{one:>12}{two:>12}{both:>12}");
        }
        let counts = &outcome.report.counts;
        let turn = outcome.loop_max_ms.map_or("not said".into(), |ms| format!("{ms} ms"));
        let _ = writeln!(text);
        let _ = writeln!(text, "peak RSS          {}", bytes(outcome.rss_peak_kib * 1024));
        let _ = writeln!(text, "bytes written     {}", bytes(outcome.write_bytes));
        let _ = writeln!(text, "longest loop turn {turn}");
        let _ = writeln!(text, "drained           {:.1} s after the end", outcome.drained_s);
        let _ = writeln!(text, "resent by clients {}", counts.resent);
        if !outcome.stopped {
            let _ = writeln!(text, "the gateway did not stop cleanly within 10 s of SIGTERM");
        }
        for line in &self.there {
            let _ = writeln!(text, "\n{line}");
        }
        let _ = match self.passed {
            true if self.there.is_empty() => {
                writeln!(text, "\nPASSED: everything accepted arrived, QoS 2 once, in order")
            }
            true => writeln!(text, "\nPASSED: the remote has taken everything that was accepted"),
            false => writeln!(text, "\nFAILED: {}", self.faults.join("\n        ")),
        };
        text
    }
}

/// Which numbers were lost, a line a stream, so that the log can be searched for the moment.
fn missing_ranges(outcome: &Outcome) -> Vec<String> {
    const SHOWN: usize = 12;
    let mut lines = Vec::new();
    for (publisher, p) in (0u32..).zip(&outcome.report.publishers) {
        for (index, stream) in (0u16..).zip(&p.streams) {
            let none = Bits::default();
            let seen = outcome.tally.stream((outcome.run, publisher, index));
            let seen = seen.map_or(&none, |stream| &stream.seen);
            let ranges = stream.accepted.ranges_missing_from(seen);
            if ranges.is_empty() {
                continue;
            }
            let shown: Vec<String> =
                ranges.iter().take(SHOWN).map(|(first, last)| format!("{first}-{last}")).collect();
            let more = if ranges.len() > SHOWN { " ..." } else { "" };
            lines.push(format!(
                "publisher {publisher} (QoS {}) of 0-{}: {}{more}",
                stream.qos,
                stream.sent.saturating_sub(1),
                shown.join(" ")
            ));
        }
    }
    lines
}

fn row(outcome: &Outcome, qos: Option<u8>) -> Row {
    let mut row = Row::default();
    let none = (Bits::default(), Heard::default());
    for (publisher, p) in (0u32..).zip(&outcome.report.publishers) {
        for (index, stream) in (0u16..).zip(&p.streams) {
            if qos.is_some_and(|qos| qos != stream.qos) {
                continue;
            }
            let key = (outcome.run, publisher, index);
            let (seen, heard) = (outcome.tally.stream(key), outcome.heard.get(&key));
            let heard = heard.unwrap_or(&none.1);
            let arrived = seen.map_or(&none.0, |seen| &seen.seen);
            row.sent += stream.sent;
            row.accepted += stream.accepted.count();
            row.arrived += arrived.count();
            row.lost += stream.accepted.missing_from(arrived);
            row.lost_there +=
                stream.accepted.intersection(&heard.acknowledged).missing_from(arrived);
            if let Some(seen) = seen {
                row.duplicated += seen.duplicates;
                row.out_of_order += seen.out_of_order;
                row.turned_there += seen.late.missing_from(&heard.overtaken);
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publisher::{Options, StreamOptions};
    use crate::stamp::Stamp;

    /// Two accepted at QoS 2, of which `arrivals` arrive.
    fn outcome(arrivals: &[u64]) -> Outcome {
        let mut publisher = Publisher::new(Options {
            address: ([127, 0, 0, 1], 1).into(),
            client_id: "c".into(),
            version: 4,
            clean_start: false,
            reconnect: true,
            window: 1,
            batch: 1,
            run: 7,
            publisher: 0,
            streams: vec![StreamOptions { topic: "t".into(), qos: 2, payload_bytes: 64 }],
        });
        publisher.streams[0].sent = 2;
        publisher.streams[0].accepted.insert(0);
        publisher.streams[0].accepted.insert(1);
        let mut tally = Tally::default();
        let mut payload = [0; 64];
        for seq in arrivals {
            Stamp { run: 7, publisher: 0, stream: 0, qos: 2, seq: *seq, sent_at: 0 }
                .write(&mut payload);
            tally.receive(1, b"t", &payload);
        }
        let report = Report::of(vec![publisher], 0, 0, None);
        Outcome {
            tally,
            heard: Streams::default(),
            own_remote: true,
            run: 7,
            report,
            rss_peak_kib: 0,
            write_bytes: 0,
            loop_max_ms: None,
            drained_s: 0.0,
            stopped: true,
        }
    }

    #[test]
    fn all_of_it_once_and_in_order_passes() {
        assert!(Verdict::of(&outcome(&[0, 1])).passed);
    }

    #[test]
    fn a_lost_a_repeated_or_an_overtaken_message_fails() {
        let expected = [
            (&[1][..], Row { arrived: 1, lost: 1, ..ROW }),
            (&[], Row { lost: 2, ..ROW }),
            (&[0, 1, 1], Row { arrived: 2, duplicated: 1, ..ROW }),
            (&[1, 0], Row { arrived: 2, out_of_order: 1, turned_there: 1, ..ROW }),
        ];
        for (arrivals, row) in expected {
            let verdict = Verdict::of(&outcome(arrivals));
            assert!(!verdict.passed, "{arrivals:?}");
            assert_eq!(verdict.rows, [Row::default(), row, row], "{arrivals:?}");
        }
    }

    #[test]
    fn what_another_broker_acknowledged_and_lost_or_turned_round_is_its_own() {
        let there = |arrivals: &[u64], acknowledged: &[u64], overtaken: &[u64]| {
            let mut outcome = outcome(arrivals);
            outcome.own_remote = false;
            let mut heard = Heard::default();
            for seq in acknowledged {
                heard.acknowledged.insert(*seq);
            }
            for seq in overtaken {
                heard.overtaken.insert(*seq);
            }
            outcome.heard.insert((7, 0, 0), heard);
            let ours = Verdict::of(&outcome);
            outcome.own_remote = true;
            assert!(!Verdict::of(&outcome).passed, "a Spillway too: {arrivals:?}");
            ours
        };
        let lost = there(&[1], &[0, 1], &[]);
        assert!(lost.passed);
        assert_eq!((lost.rows[2].lost, lost.rows[2].lost_there), (1, 1));
        assert_eq!(lost.there, ["the remote has lost 1 that it had acknowledged"]);
        let turned = there(&[1, 0], &[0, 1], &[]);
        assert!(turned.passed);
        assert_eq!(turned.there, ["the remote has turned round 1 that it had acknowledged"]);
        // It never had it; it got it behind the other.
        let never = there(&[1], &[1], &[]);
        assert!(!never.passed && never.there.is_empty());
        let behind = there(&[1, 0], &[0, 1], &[0]);
        assert!(!behind.passed && behind.there.is_empty());
    }

    const ROW: Row = Row {
        sent: 2,
        accepted: 2,
        arrived: 0,
        lost: 0,
        lost_there: 0,
        duplicated: 0,
        out_of_order: 0,
        turned_there: 0,
    };
}
