//! Repeats of a log line: the first is printed, what repeats it is summed up in one line.
//!
//! Promises:
//! - The lines that were printed and their `suppressed=` are together as many as there were facts.
//! - The order of lines is the order of facts: before another line about the same bridge, client or
//!   queue comes what was held back about it.
//! - A line that goes on repeating comes ever more rarely, at last once a minute; a flood of lines
//!   that are all different stays within a number of bytes (`budget`).
//!
//! A bounded table; when it is full the oldest entry is printed and makes room. Everything is
//! counted before it is written: nothing here reads a line.

use super::budget::{Bill, Budgets, Party};
use crate::note::{Note, Text, text};
use crate::vocab::Instant;
use core::fmt::Write;
use core::time::Duration;

/// The longest text of a line behind its time and level; longer ones are cut.
pub(super) const LINE_BYTES_MAX: usize = 1024;

/// Lines remembered at once.
const ENTRIES_MAX: usize = 64;

/// How long a line stands for its repeats at least.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// So many repeats may follow each other at that pace …
const REPEATS_MAX: u64 = 20;
/// … and a further one may come each time this has passed.
const REPEAT_EVERY: Duration = Duration::from_secs(60);

/// How long before it is rested an entry may be printed.
const SLACK_MICROS: u64 = REPEAT_EVERY.as_secs() * 1_000_000 * (REPEATS_MAX - 1);

/// Keys that make two lines of one event different facts.
const MAIN_KEYS: [&str; 10] = [
    "client",
    "bridge",
    "destination",
    "reason",
    "limit",
    "listener",
    "filter",
    "operation",
    "what",
    "file",
];

/// Keys that say whom or what a line is about; the first that is there counts.
const SUBJECT_KEYS: [&str; 5] = ["bridge", "name", "destination", "client", "listener"];

/// Destinations that are neither a bridge nor a session.
const OWN_DESTINATIONS: [&str; 3] = ["local", "retained", "-"];

/// Where a line goes.
pub(super) type Print<'a> = &'a mut dyn FnMut(Heading, &Line);

/// A line's text, cut to its bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(heapless::String<LINE_BYTES_MAX>);

impl Line {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for c in text.chars() {
            // The end of a line that is too long is lost, never the line.
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Where and how loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    pub(super) level: log::Level,
    pub(super) part: &'static str,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    subject: u64,
    party: Party,
    heading: Heading,
    /// When it was printed last.
    since: Instant,
    /// When it may repeat itself [`REPEATS_MAX`] times again.
    rested_at: Instant,
    /// Facts held back, and the sum of their `count=`.
    held: u64,
    count: Option<u64>,
    /// The newest of them, and when it came in the order of all.
    note: Note,
    serial: u64,
}

#[derive(Debug)]
pub(super) struct Throttle {
    entries: Vec<Entry>,
    budgets: Budgets,
    /// What is about these is bounded by the configuration: bridges, and places of the gateway.
    own: Vec<Text>,
    serial: u64,
}

/// What two facts are compared by.
struct Marks {
    key: u64,
    subject: u64,
    party: Party,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(ENTRIES_MAX),
            budgets: Budgets::new(),
            own: Vec::new(),
            serial: 0,
        }
    }

    pub(super) fn memory_bytes() -> usize {
        ENTRIES_MAX * size_of::<Entry>() + Budgets::memory_bytes()
    }

    /// The names of all bridges there are from here on.
    pub(super) fn know_bridges(&mut self, names: impl Iterator<Item = Text>) {
        self.own.clear();
        self.own.extend(OWN_DESTINATIONS.map(text));
        self.own.extend(names);
    }

    /// Prints `note` now, or counts it with those like it; before it what has to be printed first.
    pub(super) fn note(&mut self, now: Instant, heading: Heading, note: &Note, print: Print<'_>) {
        self.expire(now, print);
        let marks = self.marks(note);
        self.serial += 1;
        let known = self.entries.iter().position(|entry| entry.key == marks.key);
        if let Some(at) = known
            && (self.entries[at].held > 0 || self.entries[at].next_at() > now)
        {
            self.entries[at].hold(note, self.serial);
            return;
        }
        if self.budgets.is_shut(now, note.event(), marks.party) {
            self.budgets.skip(marks.party, note, heading);
            return;
        }
        let at = known.unwrap_or_else(|| {
            self.make_room(now, print);
            self.entries.push(Entry {
                key: marks.key,
                subject: marks.subject,
                party: marks.party,
                heading,
                since: now,
                rested_at: now,
                held: 0,
                count: None,
                note: note.clone(),
                serial: self.serial,
            });
            self.entries.len() - 1
        });
        self.tell(now, |entry| entry.subject == marks.subject, print);
        self.entries[at].hold(note, self.serial);
        self.entries[at].print(now, &mut self.budgets, print);
    }

    /// Prints `note` whatever else there is of its kind, behind what is held back about the same.
    pub(super) fn pass(&mut self, now: Instant, heading: Heading, note: &Note, print: Print<'_>) {
        let subject = self.marks(note).subject;
        self.tell(now, |entry| entry.subject == subject, print);
        let mut line = Line::default();
        // Writing to a line cannot fail.
        let _ = note.write(&mut line, None);
        print(heading, &line);
    }

    /// Prints the sums whose time has come.
    pub(super) fn expire(&mut self, now: Instant, print: Print<'_>) {
        if now < self.poll_at() {
            return;
        }
        // Each round empties at least one entry.
        while let Some(due) =
            self.entries.iter().find(|entry| entry.held > 0 && entry.next_at() <= now)
        {
            let subject = due.subject;
            self.tell(now, |entry| entry.subject == subject, print);
        }
        self.budgets.expire(now, print);
    }

    /// Prints every sum, for the end.
    pub(super) fn drain(&mut self, print: Print<'_>) {
        self.tell(Instant::NEVER, |_| true, print);
        self.entries.clear();
        self.budgets.drain(print);
    }

    pub(super) fn poll_at(&self) -> Instant {
        let owing = self.entries.iter().filter(|entry| entry.held > 0);
        let sums = owing.map(Entry::next_at).min().unwrap_or(Instant::NEVER);
        sums.min(self.budgets.poll_at())
    }

    /// Prints what was held back, in the order in which it came.
    fn tell(&mut self, now: Instant, of: impl Fn(&Entry) -> bool, print: Print<'_>) {
        // Each round empties an entry.
        loop {
            let held = self.entries.iter_mut().filter(|entry| entry.held > 0 && of(entry));
            let Some(next) = held.min_by_key(|entry| entry.serial) else { return };
            next.print(now, &mut self.budgets, print);
        }
    }

    /// One entry goes when all are taken: one that has nothing to tell, of strangers, and the
    /// oldest, where there is a choice.
    fn make_room(&mut self, now: Instant, print: Print<'_>) {
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        self.entries.retain(|entry| entry.held > 0 || !entry.is_rested(now));
        if self.entries.len() < ENTRIES_MAX {
            return;
        }
        let least = |entry: &&Entry| (entry.held > 0, entry.party == Party::Own, entry.since);
        let Some(key) = self.entries.iter().min_by_key(least).map(|entry| entry.key) else {
            return;
        };
        self.tell(now, |entry| entry.key == key, print);
        self.entries.retain(|entry| entry.key != key);
    }

    fn marks(&self, note: &Note) -> Marks {
        let mut key = Hash::NEW;
        key.word(note.event());
        let mut subjects = [None; SUBJECT_KEYS.len()];
        let mut party = Party::Own;
        // The closure never fails, nor does a hash.
        let _ = note.visit(&mut |name, value| {
            if MAIN_KEYS.contains(&name) {
                key.word(name);
                let _ = value.write(&mut key);
                key.word("");
            }
            if let Some(at) = SUBJECT_KEYS.iter().position(|known| *known == name) {
                let mut subject = Hash::NEW;
                let _ = value.write(&mut subject);
                subjects[at] = Some(subject.0);
            }
            if name == "client" || name == "destination" {
                let mut shown = Text::new();
                // A value longer than any name of a bridge is none.
                let _ = value.write(&mut shown);
                if !self.own.contains(&shown) {
                    party = Party::Strangers;
                }
            }
            if name == "bridge" {
                party = Party::Own;
            }
            Ok(())
        });
        // What is about nobody is about its part of the house.
        let mut part = Hash::NEW;
        part.word(note.part());
        let subject = subjects.into_iter().flatten().next().unwrap_or(part.0);
        Marks { key: key.0, subject, party }
    }
}

impl Entry {
    /// When it may be printed again.
    fn next_at(&self) -> Instant {
        let rested = Instant::from_micros(self.rested_at.as_micros().saturating_sub(SLACK_MICROS));
        self.since.plus(QUIET_FOR).max(rested)
    }

    /// Is it as if it had never been printed?
    fn is_rested(&self, now: Instant) -> bool {
        self.rested_at.max(self.since.plus(QUIET_FOR)) <= now
    }

    fn hold(&mut self, note: &Note, serial: u64) {
        self.held = self.held.saturating_add(1);
        if let Some(count) = note.count() {
            self.count = Some(self.count.unwrap_or(0).saturating_add(count));
        }
        self.note.clone_from(note);
        self.serial = serial;
    }

    /// The newest fact, for all that are held.
    fn print(&mut self, now: Instant, budgets: &mut Budgets, print: Print<'_>) {
        let held = core::mem::take(&mut self.held);
        let count = self.count.take();
        let mut line = Line::default();
        // Writing to a line cannot fail.
        let _ = self.note.write(&mut line, count);
        if held > 1 {
            let _ = write!(line, " suppressed={}", held - 1);
        }
        self.since = now;
        // Not more than all repeats are used up, though an order of lines may ask for one more.
        let most = now.plus(Duration::from_micros(SLACK_MICROS)).plus(REPEAT_EVERY);
        self.rested_at = self.rested_at.max(now).plus(REPEAT_EVERY).min(most);
        let bill = Bill {
            party: self.party,
            event: self.note.event(),
            heading: self.heading,
            line: &line,
            facts: held,
            count,
        };
        budgets.print(now, &bill, print);
    }
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    const NEW: Self = Self(0xcbf2_9ce4_8422_2325);

    fn word(&mut self, word: &str) {
        // Hashing cannot fail.
        let _ = self.write_str(word);
        let _ = self.write_str("\n");
    }
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
