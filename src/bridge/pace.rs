//! Paces: how fast to send, how long to wait before trying again, how long a round trip takes.
//!
//! Integers only, and `now` is a parameter: the same calls give the same answers everywhere, and
//! nothing drifts however often or seldom it is asked. Allocates nothing.

use crate::config::Rate;
use crate::fit::micros;
use crate::vocab::{Instant, Rng};
use core::time::Duration;

/// A token bucket: `rate.count` tokens a `rate.per`, saved up to a burst.
///
/// The level is counted in parts of a token: a token is `per` (in µs) parts, a microsecond brings
/// `count` of them. So 3/s stays 3/s: no interval is ever rounded.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    count: u64,
    per_micros: u64,
    /// Invariant: `level <= cap`.
    level: u64,
    cap: u64,
    filled_at: Instant,
}

impl TokenBucket {
    /// For the messages to one remote: a burst of `rate.count` after a pause. Begins full.
    pub fn new(rate: Rate) -> Self {
        Self::with_burst(rate, rate.count)
    }

    /// For one topic of a remote that takes no two messages closer than the rate says: a burst of
    /// one, so that `1/s` means a second between any two.
    pub fn per_topic(rate: Rate) -> Self {
        Self::with_burst(rate, 1)
    }

    /// Saves up to `burst` tokens, at least one. `rate` has a count and a period above zero: the
    /// configuration calls anything else off.
    pub fn with_burst(rate: Rate, burst: u32) -> Self {
        let count = u64::from(rate.count);
        let per_micros = micros(rate.per);
        assert!(count > 0 && per_micros > 0, "a rate of nothing is no rate");
        let cap = per_micros.saturating_mul(u64::from(burst.max(1)));
        Self { count, per_micros, level: cap, cap, filled_at: Instant::ZERO }
    }

    /// When there will be a token, if none is taken until then: `now` if there is one.
    pub fn ready_at(&self, now: Instant) -> Instant {
        let missing = self.per_micros.saturating_sub(self.level_at(now));
        now.plus(Duration::from_micros(missing.div_ceil(self.count)))
    }

    /// Takes a token; `false` if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let level = self.level_at(now);
        // A `now` before the last one brings nothing and must not bring the same time twice.
        self.filled_at = self.filled_at.max(now);
        self.level = level;
        match level.checked_sub(self.per_micros) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }

    /// `true` when a pause has filled it: a bucket of one topic may then be given to another.
    pub fn is_full(&self, now: Instant) -> bool {
        self.level_at(now) == self.cap
    }

    fn level_at(&self, now: Instant) -> u64 {
        let brought = micros(now.since(self.filled_at)).saturating_mul(self.count);
        self.level.saturating_add(brought).min(self.cap)
    }
}

/// Exponential backoff with full jitter: the ceiling doubles with every failure from `min` to
/// `max`, and the wait is uniform between half of `min` and the ceiling.
///
/// Full jitter would allow 0; half of `min` keeps a remote that refuses at once from being asked
/// in a tight loop, and still spreads the clients of a broker that restarts. `reset` it once the
/// connection has proved stable, not as soon as it stands.
#[derive(Clone, Debug)]
pub struct Backoff {
    min_micros: u64,
    max_micros: u64,
    ceiling_micros: u64,
}

impl Backoff {
    /// A `max` below `min` counts as `min`. Never waits less than a millisecond.
    pub fn new(min: Duration, max: Duration) -> Self {
        let min_micros = micros(min).max(2000);
        let max_micros = micros(max).max(min_micros);
        Self { min_micros, max_micros, ceiling_micros: min_micros }
    }

    /// The next wait.
    pub fn next(&mut self, rng: &mut Rng) -> Duration {
        let floor = self.min_micros / 2;
        let span = (self.ceiling_micros - floor).saturating_add(1);
        let wait = floor + rng.below(span);
        self.ceiling_micros = self.ceiling_micros.saturating_mul(2).min(self.max_micros);
        Duration::from_micros(wait)
    }

    pub fn reset(&mut self) {
        self.ceiling_micros = self.min_micros;
    }
}

/// Smoothed round trip and its deviation, after RFC 6298.
///
/// Give it only exchanges that were not sent twice (Karn's rule).
#[derive(Clone, Debug, Default)]
pub struct SmoothedRtt {
    /// Eight times the smoothed round trip in µs; 0 = no sample yet.
    srtt_8: u64,
    /// Four times the deviation in µs.
    deviation_4: u64,
}

impl SmoothedRtt {
    pub const fn new() -> Self {
        Self { srtt_8: 0, deviation_4: 0 }
    }

    /// One measured round trip; more than an hour counts as an hour.
    pub fn sample(&mut self, rtt: Duration) {
        let rtt = micros(rtt).clamp(1, 3_600_000_000);
        if self.srtt_8 == 0 {
            self.srtt_8 = rtt * 8;
            self.deviation_4 = rtt * 2;
            return;
        }
        // RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R|, then SRTT = 7/8 SRTT + 1/8 R.
        let error = (self.srtt_8 / 8).abs_diff(rtt);
        self.deviation_4 = self.deviation_4 - self.deviation_4 / 4 + error;
        self.srtt_8 = (self.srtt_8 - self.srtt_8 / 8 + rtt).max(8);
    }

    /// `None` before the first sample.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.srtt_8 > 0).then(|| Duration::from_micros(self.srtt_8 / 8))
    }

    /// RFC 6298's RTO: after this long without an answer something is probably wrong. `None`
    /// before the first sample.
    pub fn timeout(&self) -> Option<Duration> {
        self.smoothed().map(|srtt| srtt + Duration::from_micros(self.deviation_4))
    }

    /// Another server, another path.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// How long something must have held before it is trusted: doubles each time the trust was
/// misplaced.
#[derive(Clone, Debug)]
pub struct HoldDown {
    min: Duration,
    max: Duration,
    span: Duration,
}

impl HoldDown {
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, span: min }
    }

    pub const fn span(&self) -> Duration {
        self.span
    }

    /// It held and then failed after all.
    pub fn failed(&mut self) {
        self.span = self.span.saturating_mul(2).min(self.max);
    }

    pub fn reset(&mut self) {
        self.span = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, per: Duration) -> Rate {
        Rate { count, per }
    }

    /// Takes whenever `ready_at` says so; how many tokens until `end`?
    fn taken_until(bucket: &mut TokenBucket, end: Instant) -> u64 {
        let mut now = Instant::ZERO;
        let mut taken = 0;
        while now <= end {
            assert!(bucket.take(now), "ready_at promised a token at {now:?}");
            taken += 1;
            let next = bucket.ready_at(now);
            if next > now {
                assert!(!bucket.take(now), "there was a token before ready_at");
                let just_before = Instant::from_micros(next.as_micros() - 1);
                assert!(!bucket.clone().take(just_before), "ready_at is too late");
            }
            now = next;
        }
        taken
    }

    #[test]
    fn an_uneven_rate_does_not_drift_in_a_day() {
        let day = Instant::from_micros(86_400_000_000);
        // 1/3 s is no whole number of µs. One token at 0, then three a second.
        let mut bucket = TokenBucket::per_topic(rate(3, Duration::from_secs(1)));
        let taken = taken_until(&mut bucket, day);
        // Waking at the next whole µs each time costs less than 1 µs a token.
        assert!((259_199..=259_201).contains(&taken), "{taken}");
        let mut bucket = TokenBucket::new(rate(7, Duration::from_secs(60)));
        assert_eq!(taken_until(&mut bucket, day), 7 + 7 * 60 * 24);
    }

    #[test]
    fn asking_often_brings_no_more_than_asking_seldom() {
        let mut often = TokenBucket::new(rate(3, Duration::from_secs(1)));
        let mut seldom = often.clone();
        let mut rng = Rng::new(1);
        let mut now = Instant::ZERO;
        let (mut by_often, mut by_seldom) = (0, 0);
        while now < Instant::from_micros(20_000_000) {
            by_often += u64::from(often.take(now));
            // As soon as there is one, but asked at other times.
            if seldom.ready_at(now) <= now {
                by_seldom += u64::from(seldom.take(now));
            }
            now = now.plus(Duration::from_micros(rng.below(997)));
        }
        assert_eq!(by_often, by_seldom);
        assert_eq!(by_often, 3 + 3 * 20 - 1);
    }

    #[test]
    fn a_topic_saves_up_no_second_message() {
        let mut bucket = TokenBucket::per_topic(rate(1, Duration::from_secs(1)));
        let late = Instant::from_micros(3_600_000_000);
        assert!(bucket.take(late));
        assert!(!bucket.take(late.plus(Duration::from_micros(999_999))));
        assert!(bucket.take(late.plus(Duration::from_secs(1))));
    }

    #[test]
    fn a_remote_gets_a_burst_after_a_pause_and_no_more() {
        let mut bucket = TokenBucket::new(rate(5, Duration::from_secs(1)));
        let mut burst = |now| (0..100).filter(|_| bucket.take(now)).count();
        assert_eq!(burst(Instant::ZERO), 5);
        assert_eq!(burst(Instant::from_micros(1_000_000)), 5);
        assert_eq!(burst(Instant::from_micros(900_000_000)), 5);
        assert_eq!(burst(Instant::from_micros(900_200_000)), 1);
    }

    #[test]
    fn time_that_seems_to_run_backwards_brings_no_tokens() {
        let mut bucket = TokenBucket::per_topic(rate(1, Duration::from_secs(1)));
        assert!(bucket.take(Instant::from_micros(5_000_000)));
        assert!(!bucket.take(Instant::ZERO));
        assert!(!bucket.take(Instant::from_micros(5_500_000)));
        assert!(bucket.take(Instant::from_micros(6_000_000)));
    }

    #[test]
    fn the_largest_rates_neither_overflow_nor_stall() {
        let week = Duration::from_secs(7 * 86_400);
        let mut bucket = TokenBucket::new(rate(u32::MAX, week));
        assert!(bucket.take(Instant::ZERO));
        assert!(bucket.ready_at(Instant::from_micros(1_000_000)) < Instant::NEVER);
        let mut bucket = TokenBucket::per_topic(rate(1, week));
        assert!(bucket.take(Instant::ZERO));
        assert_eq!(bucket.ready_at(Instant::ZERO), Instant::ZERO.plus(week));
    }

    #[test]
    fn backoff_stays_between_half_the_minimum_and_its_ceiling() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut longest = [Duration::ZERO; 10];
        for seed in 0..500 {
            let mut backoff = Backoff::new(min, max);
            let mut rng = Rng::new(seed);
            let mut ceiling = min;
            for longest in &mut longest {
                let wait = backoff.next(&mut rng);
                assert!(wait >= min / 2 && wait <= ceiling, "{wait:?} {ceiling:?}");
                *longest = wait.max(*longest);
                ceiling = (ceiling * 2).min(max);
            }
            backoff.reset();
            assert!(backoff.next(&mut rng) <= min);
        }
        // The jitter reaches up to the ceiling, and the ceiling up to `max`.
        assert!(longest[0] > min * 9 / 10 && longest[9] > max * 9 / 10, "{longest:?}");
    }

    #[test]
    fn backoff_of_nothing_still_waits() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        let mut rng = Rng::new(3);
        for _ in 0..100 {
            assert!(backoff.next(&mut rng) >= Duration::from_millis(1));
        }
    }

    #[test]
    fn round_trip_follows_a_change_and_the_deviation_shrinks_when_steady() {
        let mut rtt = SmoothedRtt::new();
        assert_eq!((rtt.smoothed(), rtt.timeout()), (None, None));
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.timeout(), Some(Duration::from_millis(300)));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(100));
        }
        let timeout = rtt.timeout().unwrap();
        assert!(timeout >= Duration::from_millis(100) && timeout < Duration::from_millis(101));
        rtt.sample(Duration::from_millis(500));
        let smoothed = rtt.smoothed().unwrap();
        assert!(smoothed.abs_diff(Duration::from_millis(150)) < Duration::from_millis(1));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(500));
        }
        let smoothed = rtt.smoothed().unwrap();
        assert!(smoothed.abs_diff(Duration::from_millis(500)) < Duration::from_millis(1));
        rtt.sample(Duration::ZERO);
        rtt.sample(Duration::MAX);
        assert!(rtt.timeout().is_some());
    }

    #[test]
    fn misplaced_trust_doubles_the_hold_down_up_to_its_limit() {
        let mut hold = HoldDown::new(Duration::from_secs(30), Duration::from_secs(100));
        hold.failed();
        assert_eq!(hold.span(), Duration::from_secs(60));
        hold.failed();
        assert_eq!(hold.span(), Duration::from_secs(100));
        hold.reset();
        assert_eq!(hold.span(), Duration::from_secs(30));
    }
}
