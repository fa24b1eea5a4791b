//! Does a link still move? On a thin line what was written lies in the kernel for a long time, and
//! an answer cannot come before its question has left: time runs from the last progress.
//!
//! The shell tells now and then how many bytes of a connection its peer's side has not confirmed
//! ([`Progress::measured`]). From that follows when bytes last moved, and up to when everything
//! that was produced has arrived. Whoever waits for an answer ([`Wait`]) has all the time while its
//! question is on its way and bytes move, and from its arrival on the time that was agreed: a
//! remote that takes bytes and answers one of them never is noticed all the same.
//!
//! What has arrived may have done so at a proxy in front of a line that is thin: its bytes are
//! allowed for at [`THIN_LINE_BYTES_A_SECOND`]. Reads no clock.

use crate::limits::THIN_LINE_BYTES_A_SECOND;
use crate::queue::window::Asked;
use crate::vocab::Instant;
use core::time::Duration;

/// Into so many parts a time-out is divided: the shell is asked once in each, and only when an
/// answer is as late as one of them.
pub const PARTS: u32 = 8;

/// What is known of the bytes on their way to the peer of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes the peer's side had confirmed when the shell last said so.
    taken: Option<u64>,
    /// When that number was last seen to grow.
    moved_at: Instant,
    /// Everything that was produced by then is with the peer.
    arrived: Instant,
    /// Bytes produced until a time for which that is not known yet.
    mark: Option<(Instant, u64)>,
    /// The shell is not asked again before.
    ask_at: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            taken: None,
            moved_at: Instant::ZERO,
            arrived: Instant::ZERO,
            mark: None,
            ask_at: Instant::ZERO,
        }
    }
}

impl Progress {
    /// Of `produced` bytes in all so many are not confirmed. `all_said`: nothing that is owed waits
    /// to be produced behind a packet that is half written.
    pub fn measured(&mut self, now: Instant, produced: u64, outstanding: u64, all_said: bool) {
        let taken = produced.saturating_sub(outstanding);
        if self.taken.is_some_and(|before| taken > before) {
            self.moved_at = now;
        }
        self.taken = Some(taken);
        if let Some((at, bytes)) = self.mark
            && taken >= bytes
        {
            self.arrived = at;
            self.mark = None;
        }
        if outstanding == 0 && all_said {
            self.arrived = now;
            self.mark = None;
        } else if all_said && self.mark.is_none() {
            self.mark = Some((now, produced));
        }
    }

    /// Nobody waits: what moves until somebody does again is no sign of life.
    pub fn rest(&mut self) {
        self.taken = None;
        self.ask_at = Instant::ZERO;
    }

    /// Shall the shell be asked now? If not, when at the earliest.
    pub fn ask(&mut self, now: Instant, every: Duration) -> Result<(), Instant> {
        if self.ask_at > now {
            return Err(self.ask_at);
        }
        self.ask_at = now.plus(every);
        Ok(())
    }
}

/// One wait for an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait {
    of: Option<(Instant, u64)>,
    since: Instant,
    arrived: bool,
}

impl Wait {
    /// From when on the answer has the time that was agreed. `answered`: when the last answer to
    /// anything came.
    pub fn since(&mut self, asked: Asked, answered: Instant, progress: &Progress) -> Instant {
        let of = Some((asked.at, asked.number));
        if self.of != of {
            let arrived = asked.at <= progress.arrived;
            *self = Self { of, since: asked.at.max(answered), arrived };
        }
        if !self.arrived {
            self.since = self.since.max(progress.moved_at);
            self.arrived = asked.at <= progress.arrived;
        }
        if self.arrived { self.since.plus(line_time(asked.bytes)) } else { self.since }
    }
}

/// How long a thin line may take for so many bytes.
fn line_time(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / THIN_LINE_BYTES_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START.plus(Duration::from_secs(seconds))
    }

    fn asked(second: u64, number: u64, bytes: u64) -> Asked {
        Asked { at: at(second), number, bytes }
    }

    #[test]
    fn time_runs_from_the_last_byte_that_moved_until_all_have_arrived() {
        let (mut progress, mut wait) = (Progress::default(), Wait::default());
        let key = asked(10, 7, 0);
        assert_eq!(wait.since(key, at(3), &progress), at(10));
        // The first number says nothing: what moved before it was not ours.
        progress.measured(at(12), 60_000, 56_000, true);
        assert_eq!(wait.since(key, at(3), &progress), at(10));
        progress.measured(at(14), 60_000, 52_000, true);
        assert_eq!(wait.since(key, at(3), &progress), at(14));
        // It stands still.
        progress.measured(at(16), 60_000, 52_000, true);
        assert_eq!(wait.since(key, at(3), &progress), at(14));
        progress.measured(at(40), 60_000, 0, true);
        assert_eq!(wait.since(key, at(3), &progress), at(40));
        // It has arrived: whatever moves later is something else.
        progress.measured(at(42), 90_000, 20_000, true);
        progress.measured(at(44), 90_000, 10_000, true);
        assert_eq!(wait.since(key, at(3), &progress), at(40));
        // The next one has its own time, and an answer counts.
        assert_eq!(wait.since(asked(10, 8, 0), at(43), &progress), at(43));
        // What it has at its side may still have a thin line before it.
        let large = THIN_LINE_BYTES_A_SECOND * 5;
        assert_eq!(wait.since(asked(10, 9, large), at(43), &progress), at(48));
    }

    #[test]
    fn a_line_that_is_never_empty_tells_what_has_arrived_too() {
        let (mut progress, mut wait) = (Progress::default(), Wait::default());
        let key = asked(1, 0, 0);
        let mut since = at(0);
        // A kilobyte a second leaves, ten lie in the kernel all the time.
        for second in 1..60 {
            progress.measured(at(second), 10_000 + 1000 * second, 10_000, true);
            since = wait.since(key, at(0), &progress);
        }
        assert!(since >= at(11) && since <= at(25), "{since:?}");
    }

    #[test]
    fn what_waits_behind_half_a_packet_has_not_arrived() {
        let (mut progress, mut wait) = (Progress::default(), Wait::default());
        progress.measured(at(2), 5000, 0, false);
        assert_eq!(wait.since(asked(1, 0, 9000), at(0), &progress), at(1));
        progress.measured(at(4), 9000, 0, false);
        assert_eq!(wait.since(asked(1, 0, 9000), at(0), &progress), at(4));
        progress.measured(at(6), 9004, 0, true);
        assert_eq!(wait.since(asked(1, 0, 0), at(0), &progress), at(6));
        progress.measured(at(8), 9999, 0, true);
        assert_eq!(wait.since(asked(1, 0, 0), at(0), &progress), at(6));
    }

    #[test]
    fn the_shell_is_asked_once_in_a_while_and_from_the_start_after_a_rest() {
        let mut progress = Progress::default();
        let every = Duration::from_secs(2);
        assert_eq!(progress.ask(at(1), every), Ok(()));
        assert_eq!(progress.ask(at(2), every), Err(at(3)));
        progress.measured(at(2), 10, 10, true);
        progress.rest();
        assert_eq!(progress.ask(at(2), every), Ok(()));
        progress.measured(at(2), 20, 10, true);
        assert_eq!(progress.moved_at, Instant::ZERO);
    }
}
