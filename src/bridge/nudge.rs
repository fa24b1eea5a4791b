//! How often a change of the network may make a bridge try again at once: an interface that comes
//! and goes must not hammer the remote.

use crate::vocab::Instant;
use core::time::Duration;

/// Two tries that a change brings about are so far apart at least.
const SPACING: Duration = Duration::from_secs(2);

/// So many may follow each other at that pace …
const BURST: u64 = 5;
/// … and a further one each time this has passed.
const REFILL: Duration = Duration::from_secs(10);

/// How far before a bridge's store of tries is full the next may begin.
const SLACK_MICROS: u64 = REFILL.as_secs() * 1_000_000 * (BURST - 1);

/// Attempts that one change asks for: the first may come before the network is really there (an
/// address that is looked at for doubles, a neighbour that is not asked yet).
const TRIES: u8 = 3;

#[derive(Clone, Debug, Default)]
pub struct Nudges {
    last: Option<Instant>,
    full_at: Instant,
    /// Attempts that a change still asks for.
    wanted: u8,
}

impl Nudges {
    /// The network has changed.
    pub fn want(&mut self) {
        self.wanted = TRIES;
    }

    /// One got through.
    pub fn done(&mut self) {
        self.wanted = 0;
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// When the next try may begin.
    pub fn next(&self, now: Instant) -> Instant {
        let spaced = self.last.map_or(now, |last| last.plus(SPACING));
        let saved = Instant::from_micros(self.full_at.as_micros().saturating_sub(SLACK_MICROS));
        now.max(spaced).max(saved)
    }

    /// One begins then.
    pub fn take(&mut self, at: Instant) {
        self.wanted = self.wanted.saturating_sub(1);
        self.last = Some(at);
        self.full_at = self.full_at.max(at).plus(REFILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_comes_at_once_and_a_flood_is_bounded() {
        let mut nudges = Nudges::default();
        let start = Instant::START;
        assert_eq!(nudges.next(start), start);
        let hour = start.plus(Duration::from_secs(3600));
        let mut now = start;
        let mut times = Vec::new();
        while now < hour {
            let at = nudges.next(now);
            nudges.take(at);
            times.push(at);
            now = at;
        }
        for pair in times.windows(2) {
            assert!(pair[1].since(pair[0]) >= SPACING);
        }
        let refills = u64::try_from(times.len()).unwrap() - BURST;
        assert_eq!(refills, 3600 / REFILL.as_secs());
    }

    #[test]
    fn what_was_quiet_for_long_is_tried_at_once_again() {
        let mut nudges = Nudges::default();
        for _ in 0..20 {
            nudges.take(nudges.next(Instant::START));
        }
        let later = Instant::START.plus(Duration::from_secs(3600));
        assert_eq!(nudges.next(later), later);
    }
}
