//! Averages of the last one, five and fifteen minutes, of what the gateway counts: mosquitto's
//! `$SYS/broker/load/…`, weighted as there. They are brought up to date when the loop turns anyway:
//! nobody is woken for them, for without a turn nothing is counted.

use super::Gateway;
use super::sys::SYS_INTERVAL;
use crate::fit::capped;
use crate::vocab::Instant;

/// Topic behind `$SYS/broker/load/`, and what is counted.
type Row = (&'static str, fn(&Gateway) -> u64);

const COUNTS: &[Row] = &[
    ("messages/received", |of| of.counters.in_packets),
    ("messages/sent", |of| of.counters.out_packets),
    ("publish/received", |of| of.counters.in_msgs + of.counters.recv_msgs),
    ("publish/sent", |of| of.counters.out_msgs),
    ("publish/dropped", |of| of.queue.counters.drops),
    ("bytes/received", |of| of.counters.in_bytes),
    ("bytes/sent", |of| of.counters.out_bytes),
    ("sockets", |of| of.counters.sockets),
    ("connections", |of| of.counters.connects),
];

/// And behind those, with the seconds they are about.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// How many averages there are.
pub(super) const LOADS: usize = COUNTS.len() * SPANS.len();

#[derive(Default)]
pub(super) struct Load {
    counted_at: Instant,
    counts: [u64; COUNTS.len()],
    /// A minute.
    averages: [[f64; SPANS.len()]; COUNTS.len()],
}

impl Load {
    pub(super) fn new(now: Instant) -> Self {
        Self { counted_at: now, ..Self::default() }
    }

    /// The two ends of a topic, and the average.
    pub(super) fn get(&self, at: usize) -> Option<(&'static str, &'static str, f64)> {
        let (count, span) = (at / SPANS.len(), at % SPANS.len());
        Some((COUNTS.get(count)?.0, SPANS[span].0, self.averages[count][span]))
    }

    /// Is the last count old enough for another?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.since(self.counted_at) >= SYS_INTERVAL
    }

    fn count(&mut self, now: Instant, counts: [u64; COUNTS.len()]) {
        let seconds = now.since(self.counted_at).as_secs_f64();
        for ((averages, before), count) in self.averages.iter_mut().zip(&self.counts).zip(counts) {
            // More than any router sees between two looks.
            let more = capped::<u32, _>(count.saturating_sub(*before));
            let rate = f64::from(more) * 60.0 / seconds;
            for (average, (_, span)) in averages.iter_mut().zip(SPANS) {
                *average = rate + (-seconds / span).exp() * (*average - rate);
            }
        }
        (self.counts, self.counted_at) = (counts, now);
    }
}

impl Gateway {
    pub(super) fn count_load(&mut self, now: Instant) {
        if self.load.is_due(now) {
            let counts = core::array::from_fn(|at| COUNTS[at].1(self));
            self.load.count(now, counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn shown(load: &Load) -> Vec<String> {
        (0..SPANS.len()).map(|at| format!("{:.2}", load.get(at).unwrap().2)).collect()
    }

    #[test]
    fn averages_are_those_of_mosquitto() {
        let mut load = Load::new(at(0));
        assert!(!load.is_due(at(9)) && load.is_due(at(10)));
        let mut counts = [0; COUNTS.len()];
        for ten in 1..=6 {
            counts[0] += 10;
            load.count(at(ten * 10), counts);
        }
        // 60 a minute for one minute: by its formula, exp(-10/60) a step, and so on.
        assert_eq!(shown(&load), ["37.93", "10.88", "3.87"]);
        // Nothing for ten minutes, whether it is looked at in between or not.
        let mut looked = Load { ..load };
        for ten in 7..=66 {
            looked.count(at(ten * 10), counts);
        }
        load.count(at(660), counts);
        assert_eq!(shown(&load), ["0.00", "1.47", "1.99"]);
        assert_eq!(shown(&looked), shown(&load));
    }
}
