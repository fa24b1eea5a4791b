//! The end of a trial: what the publishers were promised against what the subscriber has.

use std::fmt::Write;

use crate::load::Report;
use crate::publisher::Publisher;
use crate::screen::bytes;
use crate::tally::Tally;

pub struct Outcome {
    pub tally: Tally,
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
    pub duplicated: u64,
    pub out_of_order: u64,
}

pub struct Verdict {
    /// QoS 1, QoS 2, both.
    pub rows: [Row; 3],
    pub passed: bool,
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn of(outcome: &Outcome) -> Verdict {
        let (publishers, tally) = (&outcome.report.publishers, &outcome.tally);
        let row = |qos: Option<u8>| row(publishers, tally, outcome.run, qos);
        let rows = [row(Some(1)), row(Some(2)), row(None)];
        let mut faults = Vec::new();
        let mut fault = |count: u64, what: &str| {
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        };
        fault(rows[2].lost, "accepted messages were lost");
        fault(rows[1].duplicated, "QoS 2 messages came twice");
        fault(rows[2].out_of_order, "messages came out of order");
        fault(tally.corrupt, "payloads were changed");
        fault(tally.misrouted, "messages came on another topic");
        fault(outcome.report.unacked, "messages were never accepted");
        fault(outcome.report.counts.refused, "messages were refused");
        fault(u64::from(rows[2].accepted == 0), "trial in which nothing was accepted");
        if let Some(error) = &outcome.report.error {
            faults.push(error.clone());
        }
        Verdict { rows, passed: faults.is_empty(), faults }
    }

    /// Accepted messages that have not arrived.
    pub fn missing(publishers: &[Publisher], tally: &Tally, run: u32) -> u64 {
        row(publishers, tally, run, None).lost
    }

    pub fn table(&self, outcome: &Outcome) -> String {
        let mut text = format!("\n{:<14}{:>12}{:>12}{:>12}\n", "", "QoS 1", "QoS 2", "together");
        let figures: [(&str, fn(&Row) -> u64); 6] = [
            ("sent", |row| row.sent),
            ("accepted", |row| row.accepted),
            ("arrived", |row| row.arrived),
            ("lost", |row| row.lost),
            ("duplicated", |row| row.duplicated),
            ("out of order", |row| row.out_of_order),
        ];
        // Writing to a String cannot fail.
        for (name, figure) in figures {
            let [one, two, both] = self.rows.each_ref().map(figure);
            let _ = writeln!(text, "{name:<14}{one:>12}{two:>12}{both:>12}");
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
        let _ = match self.passed {
            true => writeln!(text, "\nPASSED: everything accepted arrived, QoS 2 once, in order"),
            false => writeln!(text, "\nFAILED: {}", self.faults.join("; ")),
        };
        text
    }
}

fn row(publishers: &[Publisher], tally: &Tally, run: u32, qos: Option<u8>) -> Row {
    let mut row = Row::default();
    for (publisher, p) in (0u32..).zip(publishers) {
        for (index, stream) in (0u16..).zip(&p.streams) {
            if qos.is_some_and(|qos| qos != stream.qos) {
                continue;
            }
            row.sent += stream.sent;
            row.accepted += stream.accepted.count();
            match tally.stream((run, publisher, index)) {
                Some(seen) => {
                    row.arrived += seen.seen.count();
                    row.lost += stream.accepted.missing_from(&seen.seen);
                    row.duplicated += seen.duplicates;
                    row.out_of_order += seen.out_of_order;
                }
                None => row.lost += stream.accepted.count(),
            }
        }
    }
    row
}
