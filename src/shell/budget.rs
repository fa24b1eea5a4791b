//! Bytes a minute that the lines of one event may take: a flood of one, however different its lines
//! are, neither fills the log nor hides another event.
//!
//! Every event has two purses: one for what strangers bring about (clients and their sessions) and
//! a larger one for what the configuration bounds (bridges, the store, the gateway itself). An
//! empty purse stays shut for a minute; what it would have paid for is counted, and told in one
//! line.

use super::throttle::{Heading, Line, Print};
use crate::fit::wide;
use crate::note::Note;
use crate::vocab::Instant;
use core::time::Duration;

/// What a full purse pays for.
pub(super) const STRANGERS_BYTES: u64 = 32 * 1024;
/// What comes into it in a minute.
pub(super) const STRANGERS_BYTES_A_MINUTE: u64 = 2 * 1024;

/// The purse of what the configuration bounds is so many times as large.
const OWN_SHARE: u64 = 4;

/// How long an empty purse stays shut.
const SHUT_FOR: Duration = Duration::from_secs(60);

const MINUTE_MICROS: u64 = 60_000_000;

/// How long an empty purse takes to be full.
const FULL_AFTER: Duration =
    Duration::from_micros(STRANGERS_BYTES * MINUTE_MICROS / STRANGERS_BYTES_A_MINUTE);

/// Who a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    Strangers,
    Own,
}

/// A line that wants to be printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bill<'a> {
    pub(super) party: Party,
    pub(super) event: &'static str,
    pub(super) heading: Heading,
    pub(super) line: &'a Line,
    /// Facts it stands for, and the sum of their `count=`.
    pub(super) facts: u64,
    pub(super) count: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Purse {
    heading: Heading,
    /// When it would be full again.
    full_at: Instant,
    shut_until: Instant,
    /// Lines it did not pay for, and the sum of their `count=`.
    suppressed: u64,
    count: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Budgets {
    /// Two an event.
    purses: Box<[Purse]>,
}

impl Budgets {
    pub(super) fn new() -> Self {
        let empty = Purse {
            heading: Heading { level: log::Level::Info, part: "log" },
            full_at: Instant::ZERO,
            shut_until: Instant::ZERO,
            suppressed: 0,
            count: None,
        };
        Self { purses: vec![empty; 2 * Note::EVENTS.len()].into_boxed_slice() }
    }

    pub(super) fn memory_bytes() -> usize {
        2 * Note::EVENTS.len() * size_of::<Purse>()
    }

    /// Is there nothing left for lines like this one?
    pub(super) fn is_shut(&self, now: Instant, event: &str, party: Party) -> bool {
        place(event, party).is_some_and(|at| now < self.purses[at].shut_until)
    }

    /// Prints a line if it can be paid for; else what it stands for is counted.
    pub(super) fn print(&mut self, now: Instant, bill: &Bill<'_>, print: Print<'_>) {
        // Every note is one of the events.
        let Some(at) = place(bill.event, bill.party) else { return };
        if now >= self.purses[at].shut_until {
            self.tell(at, print);
            if self.purses[at].pay(now, bill) {
                print(bill.heading, bill.line);
                return;
            }
        }
        self.purses[at].count_in(bill.heading, bill.facts, bill.count);
    }

    /// Counts lines that were not even written.
    pub(super) fn skip(&mut self, party: Party, note: &Note, heading: Heading) {
        if let Some(at) = place(note.event(), party) {
            self.purses[at].count_in(heading, 1, note.count());
        }
    }

    /// Tells what was not paid for, of every purse that is open again.
    pub(super) fn expire(&mut self, now: Instant, print: Print<'_>) {
        for at in 0..self.purses.len() {
            if now >= self.purses[at].shut_until {
                self.tell(at, print);
            }
        }
    }

    /// Tells everything, for the end; every purse is full again.
    pub(super) fn drain(&mut self, print: Print<'_>) {
        for at in 0..self.purses.len() {
            self.tell(at, print);
        }
        *self = Self::new();
    }

    pub(super) fn poll_at(&self) -> Instant {
        let owing = self.purses.iter().filter(|purse| purse.suppressed > 0);
        owing.map(|purse| purse.shut_until).min().unwrap_or(Instant::NEVER)
    }

    fn tell(&mut self, at: usize, print: Print<'_>) {
        let purse = &mut self.purses[at];
        if purse.suppressed == 0 {
            return;
        }
        let (event, _) = Note::EVENTS[at / 2];
        let suppressed = core::mem::take(&mut purse.suppressed);
        let note = Note::LogLimited { of: event, suppressed, count: purse.count.take() };
        let mut line = Line::default();
        // Writing to a line cannot fail.
        let _ = note.write(&mut line, None);
        print(purse.heading, &line);
    }
}

impl Purse {
    fn pay(&mut self, now: Instant, bill: &Bill<'_>) -> bool {
        let bytes = wide(bill.line.as_str().len());
        let share = if bill.party == Party::Own { OWN_SHARE } else { 1 };
        let price = bytes * MINUTE_MICROS / STRANGERS_BYTES_A_MINUTE / share;
        let full_at = self.full_at.max(now).plus(Duration::from_micros(price));
        if full_at.since(now) > FULL_AFTER {
            self.shut_until = now.plus(SHUT_FOR);
            return false;
        }
        self.full_at = full_at;
        true
    }

    fn count_in(&mut self, heading: Heading, facts: u64, count: Option<u64>) {
        self.heading = heading;
        self.suppressed = self.suppressed.saturating_add(facts);
        if let Some(count) = count {
            self.count = Some(self.count.unwrap_or(0).saturating_add(count));
        }
    }
}

fn place(event: &str, party: Party) -> Option<usize> {
    let at = Note::EVENTS.iter().position(|(name, _)| *name == event)?;
    Some(2 * at + usize::from(party == Party::Own))
}
