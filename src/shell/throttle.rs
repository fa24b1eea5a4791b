//! Repeats of a log line: the first is printed, the rest of its second is summed up in one line.
//!
//! A bounded table; when it is full the oldest entry is printed and makes room. Never prints by
//! itself.

use crate::vocab::Instant;
use core::fmt::Write;
use core::time::Duration;

/// The longest text of a line behind its time and level; longer ones are cut.
pub(super) const LINE_BYTES_MAX: usize = 1024;

/// Lines remembered at once.
const ENTRIES_MAX: usize = 64;

/// How long a line stands for its repeats.
const QUIET_FOR: Duration = Duration::from_secs(1);

/// Keys that make two lines of one event different facts.
const MAIN_KEYS: [&str; 8] =
    ["client", "bridge", "destination", "reason", "listener", "filter", "operation", "file"];

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
    heading: Heading,
    since: Instant,
    suppressed: u64,
    /// Sum of the `count=` of what was suppressed.
    count: u64,
    /// The newest suppressed line.
    line: Line,
}

#[derive(Debug)]
pub(super) struct Throttle {
    entries: Vec<Entry>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self { entries: Vec::with_capacity(ENTRIES_MAX) }
    }

    pub(super) fn memory_bytes() -> usize {
        ENTRIES_MAX * size_of::<Entry>()
    }

    /// `true` = print `line` now. `print` gets sums that have to make room for it.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        heading: Heading,
        line: &Line,
        mut print: impl FnMut(Heading, &Line),
    ) -> bool {
        self.expire(now, &mut print);
        let key = key(line.as_str());
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.suppressed += 1;
            entry.count = entry.count.saturating_add(count(line.as_str()).unwrap_or(0));
            entry.line.clone_from(line);
            return false;
        }
        if self.entries.len() == ENTRIES_MAX {
            let oldest = self.entries.remove(0);
            oldest.print(&mut print);
        }
        self.entries.push(Entry {
            key,
            heading,
            since: now,
            suppressed: 0,
            count: 0,
            line: Line::default(),
        });
        true
    }

    /// Prints the sums whose second is over.
    pub(super) fn expire(&mut self, now: Instant, mut print: impl FnMut(Heading, &Line)) {
        self.entries.retain_mut(|entry| {
            if entry.since.plus(QUIET_FOR) > now {
                return true;
            }
            if entry.suppressed == 0 {
                return false;
            }
            entry.print(&mut print);
            // The sum was a line too: the next repeat waits for its second.
            entry.since = now;
            entry.suppressed = 0;
            entry.count = 0;
            true
        });
    }

    /// Prints every sum, for the end.
    pub(super) fn drain(&mut self, mut print: impl FnMut(Heading, &Line)) {
        for entry in self.entries.drain(..) {
            entry.print(&mut print);
        }
    }

    pub(super) fn poll_at(&self) -> Instant {
        let owing = self.entries.iter().filter(|entry| entry.suppressed > 0);
        owing.map(|entry| entry.since.plus(QUIET_FOR)).min().unwrap_or(Instant::NEVER)
    }
}

impl Entry {
    fn print(&self, print: &mut impl FnMut(Heading, &Line)) {
        if self.suppressed == 0 {
            return;
        }
        let text = self.line.as_str();
        let mut line = Line::default();
        // Writing to a line cannot fail.
        let _ = match count_at(text) {
            Some((from, to)) => write!(line, "{}{}{}", &text[..from], self.count, &text[to..]),
            None => line.write_str(text),
        };
        let _ = write!(line, " suppressed={}", self.suppressed);
        print(self.heading, &line);
    }
}

/// Where the digits of ` count=` are.
fn count_at(text: &str) -> Option<(usize, usize)> {
    let from = text.find(" count=")? + " count=".len();
    let digits = text[from..].bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some((from, from + digits))
}

fn count(text: &str) -> Option<u64> {
    let (from, to) = count_at(text)?;
    text[from..to].parse().ok()
}

/// FNV-1a over the event and its main keys.
fn key(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = text;
    // Each pass takes one word off.
    while !rest.is_empty() {
        let word;
        (word, rest) = first_word(rest);
        let name = word.split('=').next().unwrap_or("");
        if name != "event" && !MAIN_KEYS.contains(&name) {
            continue;
        }
        for byte in word.bytes().chain([b' ']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The first `key=value`, whose value may be quoted, and what follows it.
fn first_word(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: Heading = Heading { level: log::Level::Warn, part: "queue" };

    struct Bench {
        throttle: Throttle,
        printed: Vec<String>,
    }

    impl Bench {
        fn new() -> Self {
            Self { throttle: Throttle::new(), printed: Vec::new() }
        }

        fn line(&mut self, millis: u64, text: &str) {
            let mut line = Line::default();
            write!(line, "{text}").unwrap();
            let printed = &mut self.printed;
            let now = Instant::from_micros(millis * 1000);
            if self.throttle.admit(now, HEADING, &line, |_, sum| {
                printed.push(sum.as_str().to_owned());
            }) {
                self.printed.push(text.to_owned());
            }
        }

        fn expire(&mut self, millis: u64) {
            let printed = &mut self.printed;
            self.throttle.expire(Instant::from_micros(millis * 1000), |_, sum| {
                printed.push(sum.as_str().to_owned());
            });
        }
    }

    #[test]
    fn repeats_are_summed_up_when_their_second_is_over() {
        let mut bench = Bench::new();
        for at in 0..5 {
            bench.line(at, &format!("event=drop reason=expired destination=a count={at}0"));
        }
        assert_eq!(bench.throttle.poll_at(), Instant::from_micros(1_000_000));
        bench.expire(999);
        assert_eq!(bench.printed.len(), 1);
        bench.expire(1000);
        assert_eq!(
            bench.printed[1],
            "event=drop reason=expired destination=a count=100 suppressed=4"
        );
        // The sum is a line as well.
        bench.line(1500, "event=drop reason=expired destination=a count=1");
        assert_eq!(bench.printed.len(), 2);
        bench.expire(2000);
        assert_eq!(
            bench.printed[2],
            "event=drop reason=expired destination=a count=1 suppressed=1"
        );
        bench.expire(3000);
        bench.line(3001, "event=drop reason=expired destination=a count=1");
        assert_eq!(bench.printed.len(), 4);
    }

    #[test]
    fn other_main_keys_make_another_line_and_other_keys_do_not() {
        let mut bench = Bench::new();
        bench.line(0, "event=client_refused client=\"a b\" addr=1 reason=x");
        bench.line(0, "event=client_refused client=\"a c\" addr=1 reason=x");
        bench.line(0, "event=client_refused client=\"a b\" addr=1 reason=y");
        assert_eq!(bench.printed.len(), 3);
        bench.line(0, "event=client_refused client=\"a b\" addr=2 reason=x");
        assert_eq!(bench.printed.len(), 3);
    }

    #[test]
    fn a_full_table_prints_the_oldest_sum_and_goes_on() {
        let mut bench = Bench::new();
        bench.line(0, "event=e client=first");
        bench.line(0, "event=e client=first");
        for client in 0..ENTRIES_MAX {
            bench.line(1, &format!("event=e client=c{client}"));
        }
        assert!(bench.printed.contains(&"event=e client=first suppressed=1".to_owned()));
        assert_eq!(bench.printed.len(), ENTRIES_MAX + 2);
    }

    #[test]
    fn a_line_too_long_is_cut_not_lost() {
        let mut line = Line::default();
        write!(line, "{}", "ä".repeat(2000)).unwrap();
        assert_eq!(line.as_str().len(), LINE_BYTES_MAX);
    }
}
