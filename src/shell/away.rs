//! Nobody is declared dead for silence while the loop was away: what came in meanwhile lies unread
//! in the sockets. After an absence deadlines wait until everything that can be read was read.
//!
//! An absence is time without a look at the sockets: a slow disk, a stopped process, a machine
//! that had no processor for us. Decides nothing else, reads no clock.

use crate::vocab::Instant;
use core::time::Duration;

/// Shorter absences are the ordinary course of things: MQTT counts keepalives in seconds.
const AWAY_AFTER: Duration = Duration::from_millis(250);

/// Deadlines wait no longer, however much there is to read.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Away {
    /// Deadlines may have to wait until here.
    until: Instant,
    /// Nothing was read since: not even what the poll has just told of.
    fresh: bool,
}

impl Away {
    /// The poll has returned, after so long without a look.
    pub(super) fn begin(&mut self, now: Instant, away: Duration) {
        if away >= AWAY_AFTER {
            self.until = now.plus(CATCH_UP_MAX);
            self.fresh = true;
        }
    }

    /// The poll was interrupted and has told of nothing.
    pub(super) fn missed(&mut self, now: Instant) {
        self.begin(now, AWAY_AFTER);
    }

    /// May deadlines be judged in this turn? `behind`: there is more to be read.
    pub(super) fn is_over(&mut self, now: Instant, behind: bool) -> bool {
        // The turn after this one reads what names and sockets have made of this one.
        let fresh = core::mem::take(&mut self.fresh);
        if now < self.until && (fresh || behind) {
            return false;
        }
        self.until = Instant::ZERO;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn deadlines_wait_for_what_came_in_during_an_absence() {
        let mut away = Away::default();
        away.begin(at(60_000), Duration::from_secs(50));
        assert!(!away.is_over(at(60_000), false), "the first turn only reads");
        away.begin(at(60_001), Duration::from_millis(1));
        assert!(!away.is_over(at(60_001), true), "there is more");
        assert!(away.is_over(at(60_002), false));
        assert!(away.is_over(at(60_003), true), "later there may always be more to read");
    }

    #[test]
    fn deadlines_do_not_wait_for_ever() {
        let mut away = Away::default();
        away.begin(at(1000), Duration::from_secs(1));
        for millis in (1000..6000).step_by(100) {
            assert!(!away.is_over(at(millis), true));
        }
        assert!(away.is_over(at(6000), true));
    }

    #[test]
    fn an_ordinary_turn_is_no_absence() {
        let mut away = Away::default();
        away.begin(at(1000), Duration::from_millis(249));
        assert!(away.is_over(at(1000), true));
    }
}
