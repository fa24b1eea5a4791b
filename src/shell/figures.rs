//! What only the shell can measure: how long turns take and with what, and how much memory the
//! process has.

use crate::fit::millis;
use crate::gateway::sys::Outside;
use crate::note::Note;
use crate::vocab::Instant;
use core::time::Duration;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longer turns are reported.
const STALL_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Figures {
    began: Instant,
    lap: Instant,
    longest: (&'static str, Duration),
    /// Longest turn since the figures were taken last.
    turn_max: Duration,
    statm: Option<File>,
    page_kib: u64,
}

impl Figures {
    pub(super) fn new() -> Self {
        // SAFETY: asks for a constant of the system.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Self {
            began: Instant::ZERO,
            lap: Instant::ZERO,
            longest: ("", Duration::ZERO),
            turn_max: Duration::ZERO,
            statm: File::open("/proc/self/statm").ok(),
            page_kib: match u64::try_from(page_bytes) {
                Ok(bytes) => bytes / 1024,
                // The system does not say, and this is the size nearly everywhere.
                Err(_) => 4,
            },
        }
    }

    /// A turn begins. `late` is how much later than wanted the system let us wake up.
    pub(super) fn begin(&mut self, now: Instant, late: Duration) {
        self.began = now;
        self.lap = now;
        self.longest = ("asleep", late);
    }

    /// How long the turn that is over has taken, in all.
    pub(super) fn since_begin(&self, now: Instant) -> Duration {
        now.since(self.began)
    }

    /// The part that began with the last lap is over.
    pub(super) fn lap(&mut self, now: Instant, part: &'static str) {
        let took = now.since(self.lap);
        self.lap = now;
        if took > self.longest.1 {
            self.longest = (part, took);
        }
    }

    /// The turn is over; a long one is worth a note.
    pub(super) fn end(&mut self) -> Option<Note> {
        let took = self.lap.since(self.began);
        self.turn_max = self.turn_max.max(took);
        let worst = took.max(self.longest.1);
        (worst > STALL_AFTER)
            .then(|| Note::Stall { part: self.longest.0, duration_ms: millis(worst) })
    }

    /// Adds what the shell knows to the core's figures, which is returned, and begins a new longest
    /// turn.
    pub(super) fn complete(&mut self, note: &mut Note, store: Option<(u64, u64)>) -> Outside {
        let turn_max = core::mem::take(&mut self.turn_max);
        let resident = self.resident_kib();
        if let Note::Stats { loop_max_ms, rss_kib, store_bytes, store_written_bytes, .. } = note {
            *loop_max_ms = millis(turn_max);
            *rss_kib = resident;
            (*store_bytes, *store_written_bytes) = store.unwrap_or((0, 0));
        }
        let (store, written) = store.unwrap_or((0, 0));
        Outside::new(resident * 1024, store, written)
    }

    /// 0 when the system does not say.
    fn resident_kib(&self) -> u64 {
        let mut text = [0; 128];
        let Some(Ok(bytes)) = self.statm.as_ref().map(|file| file.read_at(&mut text, 0)) else {
            return 0;
        };
        let pages = core::str::from_utf8(&text[..bytes])
            .ok()
            .and_then(|text| text.split_whitespace().nth(1))
            .and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * self.page_kib
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1000)
    }

    #[test]
    fn a_stall_names_the_part_that_took_longest() {
        let mut figures = Figures::new();
        figures.begin(at(1000), Duration::ZERO);
        figures.lap(at(1100), "receive");
        figures.lap(at(1550), "flush");
        figures.lap(at(1560), "transmit");
        let note = figures.end().unwrap();
        assert_eq!(note.to_string(), "event=stall part=flush duration_ms=560");
        figures.begin(at(2000), Duration::ZERO);
        figures.lap(at(2499), "receive");
        assert!(figures.end().is_none());
    }

    #[test]
    fn a_process_that_was_not_woken_has_stalled_too() {
        let mut figures = Figures::new();
        figures.begin(at(1000), Duration::from_millis(700));
        figures.lap(at(1001), "receive");
        let note = figures.end().unwrap();
        assert_eq!(note.to_string(), "event=stall part=asleep duration_ms=700");
    }

    #[test]
    fn this_process_takes_memory() {
        assert!(Figures::new().resident_kib() > 100);
    }
}
