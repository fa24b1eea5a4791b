//! What arrived, judged by the stamps: per topic and publisher received once, again, out of order.
//! Order is that of first deliveries: a message that comes for the first time after a later one.

use std::collections::HashMap;

use crate::bits::Bits;
use crate::histogram::Histogram;
use crate::stamp::{self, Stamp};

/// Run, publisher and its stream.
pub type Key = (u32, u32, u16);

#[derive(Clone, Default)]
pub struct Stream {
    pub topic: Vec<u8>,
    pub qos: u8,
    pub seen: Bits,
    /// One past the highest number seen.
    pub end: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    /// Which they are.
    pub late: Bits,
}

#[derive(Clone, Default)]
pub struct Tally {
    streams: HashMap<Key, Stream>,
    /// PUBLISH packets with a stamp, duplicates included.
    pub received: u64,
    /// Messages without a stamp.
    pub foreign: u64,
    /// Payload changed on the way.
    pub corrupt: u64,
    /// A stream that changed its topic on the way.
    pub misrouted: u64,
    pub first_at: u64,
    pub last_at: u64,
    pub end_to_end: Histogram,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub unique: u64,
    pub gaps: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
}

impl Tally {
    pub fn receive(&mut self, now: u64, topic: &[u8], payload: &[u8]) {
        let Some(stamp) = Stamp::read(payload) else {
            self.foreign += 1;
            return;
        };
        if self.received == 0 {
            self.first_at = now;
        }
        self.last_at = now;
        self.received += 1;
        self.corrupt += u64::from(!stamp::intact(payload));
        let key = (stamp.run, stamp.publisher, stamp.stream);
        let stream = self.streams.entry(key).or_default();
        if stream.topic.is_empty() {
            stream.topic = topic.to_vec();
            stream.qos = stamp.qos;
        }
        self.misrouted += u64::from(stream.topic != topic);
        if !stream.seen.insert(stamp.seq) {
            stream.duplicates += 1;
            return;
        }
        self.end_to_end.record(now.saturating_sub(stamp.sent_at));
        if stamp.seq < stream.end {
            stream.out_of_order += 1;
            stream.late.insert(stamp.seq);
        } else {
            stream.end = stamp.seq + 1;
        }
    }

    pub fn stream(&self, key: Key) -> Option<&Stream> {
        self.streams.get(&key)
    }

    /// Over the streams of one QoS, or of all.
    pub fn totals(&self, qos: Option<u8>) -> Totals {
        let mut totals = Totals::default();
        for stream in self.streams.values().filter(|s| qos.is_none_or(|qos| s.qos == qos)) {
            totals.unique += stream.seen.count();
            totals.gaps += stream.end - stream.seen.count();
            totals.duplicates += stream.duplicates;
            totals.out_of_order += stream.out_of_order;
        }
        totals
    }

    /// `lost` counts numbers missing below the highest seen: what is missing at the end only the
    /// sender's own count shows.
    pub fn line(&self) -> String {
        let totals = self.totals(None);
        let seconds = (self.last_at - self.first_at) as f64 / 1e9;
        let rate = if seconds > 0.0 { totals.unique as f64 / seconds } else { 0.0 };
        format!(
            "received={} unique={} lost={} duplicates={} dup_qos1={} dup_qos2={} out_of_order={} \
             foreign={} corrupt={} misrouted={} seconds={seconds:.3} msgs_per_s={rate:.0} \
             e2e_p50_us={} e2e_p99_us={} e2e_max_us={}",
            self.received,
            totals.unique,
            totals.gaps,
            totals.duplicates,
            self.totals(Some(1)).duplicates,
            self.totals(Some(2)).duplicates,
            totals.out_of_order,
            self.foreign,
            self.corrupt,
            self.misrouted,
            self.end_to_end.percentile(0.5) / 1000,
            self.end_to_end.percentile(0.99) / 1000,
            self.end_to_end.max() / 1000,
        )
    }

    /// One line a topic and publisher, sorted, so that two runs can be compared.
    pub fn stream_lines(&self) -> Vec<String> {
        let mut streams: Vec<_> = self.streams.iter().collect();
        streams.sort_by_key(|(key, _)| **key);
        let line = |(key, s): (&Key, &Stream)| {
            format!(
                "topic={} publisher={} qos={} unique={} lost={} duplicates={} out_of_order={}",
                String::from_utf8_lossy(&s.topic),
                key.1,
                s.qos,
                s.seen.count(),
                s.end - s.seen.count(),
                s.duplicates,
                s.out_of_order
            )
        };
        streams.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(tally: &mut Tally, stream: u16, seqs: &[u64]) {
        let mut payload = vec![0; 64];
        for seq in seqs {
            Stamp { run: 1, publisher: 2, stream, qos: 1, seq: *seq, sent_at: 0 }
                .write(&mut payload);
            tally.receive(1000, b"t", &payload);
        }
    }

    #[test]
    fn in_order_without_gaps_is_clean() {
        let mut tally = Tally::default();
        receive(&mut tally, 0, &[0, 1, 2, 3]);
        receive(&mut tally, 1, &[0, 1]);
        assert_eq!(tally.totals(None), Totals { unique: 6, ..Totals::default() });
    }

    #[test]
    fn gaps_repeats_and_overtaking_are_seen() {
        let mut tally = Tally::default();
        receive(&mut tally, 0, &[0, 2, 1, 1, 2, 5]);
        let expected = Totals { unique: 4, gaps: 2, duplicates: 2, out_of_order: 1 };
        assert_eq!(tally.totals(None), expected);
        assert_eq!(tally.totals(Some(1)), expected);
        assert_eq!(tally.totals(Some(2)), Totals::default());
    }

    #[test]
    fn a_resend_after_later_ones_is_a_duplicate_and_not_out_of_order() {
        let mut tally = Tally::default();
        receive(&mut tally, 0, &[0, 1, 2, 0, 1, 2, 3]);
        let expected = Totals { unique: 4, gaps: 0, duplicates: 3, out_of_order: 0 };
        assert_eq!(tally.totals(None), expected);
    }

    #[test]
    fn changed_bytes_and_changed_topics_are_seen() {
        let mut tally = Tally::default();
        receive(&mut tally, 0, &[0]);
        let mut payload = vec![0; 64];
        Stamp { run: 1, publisher: 2, stream: 0, qos: 1, seq: 1, sent_at: 0 }.write(&mut payload);
        payload[40] ^= 1;
        tally.receive(1000, b"u", &payload);
        tally.receive(1000, b"u", b"hello");
        assert_eq!((tally.corrupt, tally.misrouted, tally.foreign), (1, 1, 1));
    }
}
