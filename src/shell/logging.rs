//! Log lines through a fixed buffer to stderr, written only when stderr can take them.
//!
//! Promises: a reader that does not read never holds up the loop (lines that find no room are
//! counted and reported as `log_dropped=N`); a line is whole or not there; repeats are summed up
//! (`throttle`). stderr may be shared with other processes, so its mode is never changed: it is
//! asked with poll(2) and gets no more than it can take at once.

use super::clock;
use super::throttle::{Heading, Line, Throttle};
use crate::note::{Level, Note, text};
use crate::vocab::Instant;
use core::fmt::{self, Write as _};
use core::time::Duration;
use std::fs::File;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines waiting for stderr; what finds no room is dropped and counted.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a pipe takes whole when it is writable at all (PIPE_BUF).
const PIPE_CHUNK_BYTES: usize = 4096;
/// A terminal has less room.
const TERMINAL_CHUNK_BYTES: usize = 512;
/// Writes a turn.
const CHUNKS_A_TURN: usize = 4;

/// How soon a stderr that took nothing is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Room for time, level and part before a line's text.
const HEADING_BYTES_MAX: usize = 96;

/// The program's log. One is enough; it may also be installed for the `log` macros.
#[derive(Debug)]
pub struct Logging {
    shared: Arc<Shared>,
    throttle: Throttle,
    retry_at: Instant,
}

#[derive(Debug)]
struct Shared {
    /// Only decides which lines are wanted.
    filter: Mutex<env_logger::Logger>,
    /// RUST_LOG says what is wanted, not the configuration.
    fixed: bool,
    output: Mutex<Output>,
}

#[derive(Debug)]
struct Output {
    sink: File,
    chunk_bytes: usize,
    /// A ring of whole lines.
    ring: Box<[u8]>,
    start: usize,
    bytes: usize,
    /// Lines that found no room since the last report.
    dropped: u64,
    /// Nobody will ever read: the other end of stderr is gone.
    dead: bool,
}

impl Logging {
    /// Lines up to `level`, or what `filter` (the syntax of RUST_LOG) says, go to stderr.
    pub fn to_stderr(level: log::LevelFilter, filter: Option<&str>) -> io::Result<Self> {
        let sink = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self::to_file(sink, level, filter))
    }

    pub(super) fn to_file(sink: File, level: log::LevelFilter, filter: Option<&str>) -> Self {
        let chunk_bytes = if sink.is_terminal() { TERMINAL_CHUNK_BYTES } else { PIPE_CHUNK_BYTES };
        let output = Output {
            sink,
            chunk_bytes,
            ring: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            bytes: 0,
            dropped: 0,
            dead: false,
        };
        let shared = Shared {
            filter: Mutex::new(wanted(level, filter)),
            fixed: filter.is_some(),
            output: Mutex::new(output),
        };
        Self { shared: Arc::new(shared), throttle: Throttle::new(), retry_at: Instant::NEVER }
    }

    /// Takes the lines of the `log` macros as well. Does nothing when somebody else does already.
    pub fn install(&self) {
        if log::set_boxed_logger(Box::new(Macros(Arc::clone(&self.shared)))).is_ok() {
            log::set_max_level(self.shared.filter().filter());
        }
    }

    /// Lines up to this level from here on, unless RUST_LOG has a say.
    pub fn set_level(&self, level: log::LevelFilter) {
        if !self.shared.fixed {
            *self.shared.filter() = wanted(level, None);
            log::set_max_level(level);
        }
    }

    /// Bytes the log takes, for the memory plan.
    pub fn memory_bytes() -> usize {
        BUFFER_BYTES + Throttle::memory_bytes()
    }

    /// What is left to write when the loop and the store are gone.
    pub fn tail(&self) -> Tail {
        Tail(Arc::clone(&self.shared))
    }

    /// Writes a fact down, or counts it with those like it.
    pub fn note(&mut self, now: Instant, note: &Note) {
        let heading = Heading { level: level(note.level()), part: note.part() };
        if !self.shared.wants(heading) {
            return;
        }
        let shared = &self.shared;
        let mut print = |heading: Heading, line: &Line| shared.print(heading, line.as_str());
        // Each of these is the answer to a signal: whoever sent it waits for the line.
        let answer = matches!(note, Note::Reloaded { .. } | Note::ReloadRefused { .. });
        if answer || matches!(note, Note::Stats { .. } | Note::StatsBridge { .. }) {
            self.throttle.pass(now, heading, note, &mut print);
        } else {
            self.throttle.note(now, heading, note, &mut print);
        }
    }

    /// The names of all bridges there are from here on.
    pub(super) fn know_bridges<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.throttle.know_bridges(names.map(text));
    }

    /// Sums whose second is over, and as many bytes as stderr takes. Once a turn.
    pub(super) fn turn(&mut self, now: Instant) {
        let shared = &self.shared;
        self.throttle.expire(now, &mut |heading, line| shared.print(heading, line.as_str()));
        let mut output = shared.output();
        let mut chunks = 0;
        while chunks < CHUNKS_A_TURN && output.write_chunk(0) {
            chunks += 1;
        }
        let left = output.bytes > 0;
        self.retry_at = match (left, chunks) {
            (false, _) => Instant::NEVER,
            (true, CHUNKS_A_TURN) => now,
            (true, _) => now.plus(RETRY_AFTER),
        };
    }

    pub(super) fn poll_at(&self) -> Instant {
        self.retry_at.min(self.throttle.poll_at())
    }

    /// Prints every sum, over or not.
    pub(super) fn sum_up(&mut self) {
        let shared = &self.shared;
        self.throttle.drain(&mut |heading, line| shared.print(heading, line.as_str()));
    }

    /// The end: everything that stderr takes without keeping us long.
    pub(super) fn finish(&mut self) {
        self.sum_up();
        self.tail().finish();
    }
}

/// The way out for lines written after the loop has ended.
#[derive(Debug)]
pub struct Tail(Arc<Shared>);

impl Tail {
    /// Everything that stderr takes without keeping us long.
    pub fn finish(&self) {
        let mut output = self.0.output();
        // Bounded: each round writes something or ends it.
        while output.write_chunk(FINISH_POLL_MS) {}
    }
}

/// How long the last lines wait for stderr, each chunk of them.
const FINISH_POLL_MS: libc::c_int = 100;

fn level(level: Level) -> log::Level {
    match level {
        Level::Error => log::Level::Error,
        Level::Warn => log::Level::Warn,
        Level::Info => log::Level::Info,
        Level::Debug => log::Level::Debug,
    }
}

/// Only decides; never writes.
fn wanted(level: log::LevelFilter, filter: Option<&str>) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level);
    if let Some(filter) = filter {
        builder.parse_filters(filter);
    }
    builder.build()
}

impl Shared {
    fn filter(&self) -> MutexGuard<'_, env_logger::Logger> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, heading: Heading) -> bool {
        let mut target = heapless::String::<32>::new();
        // A longer part would be cut, and then filtered by what is left of it.
        let _ = write!(target, "spillway::{}", heading.part);
        let record = log::Record::builder()
            .level(heading.level)
            .target(&target)
            .args(format_args!(""))
            .build();
        self.filter().matches(&record)
    }

    fn print(&self, heading: Heading, text: &str) {
        self.output().line(heading.level, format_args!("spillway::{}", heading.part), text);
    }
}

/// The `log` macros' way in, for libraries and start-up code.
struct Macros(Arc<Shared>);

impl log::Log for Macros {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= self.0.filter().filter()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.0.filter().matches(record) {
            return;
        }
        let mut line = Line::default();
        // Writing to a line cannot fail.
        let _ = write!(line, "{}", record.args());
        self.0.output().line(record.level(), format_args!("{}", record.target()), line.as_str());
    }

    fn flush(&self) {}
}

impl Output {
    fn line(&mut self, level: log::Level, target: fmt::Arguments<'_>, text: &str) {
        if self.dead {
            return;
        }
        let mut heading = heapless::String::<HEADING_BYTES_MAX>::new();
        let time = Time(clock::wall_millis());
        // Targets are ours and short; a library's long one loses its end.
        let _ = write!(heading, "{time} {level} {target} ");
        if self.dropped > 0 {
            let mut report = heapless::String::<{ 2 * HEADING_BYTES_MAX }>::new();
            let _ = write!(
                report,
                "{time} WARN spillway::log event=log_dropped log_dropped={}",
                self.dropped
            );
            if self.push(&[report.as_bytes(), b"\n"]) {
                self.dropped = 0;
            }
        }
        // A line feed would make two lines of one.
        let clean = !text.bytes().any(|byte| byte == b'\n');
        let text = if clean { text } else { text.split('\n').next().unwrap_or("") };
        if self.dropped > 0 || !self.push(&[heading.as_bytes(), text.as_bytes(), b"\n"]) {
            self.dropped += 1;
        }
    }

    /// All parts or none.
    fn push(&mut self, parts: &[&[u8]]) -> bool {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > self.ring.len() - self.bytes {
            return false;
        }
        for part in parts {
            let at = (self.start + self.bytes) % self.ring.len();
            let first = part.len().min(self.ring.len() - at);
            self.ring[at..at + first].copy_from_slice(&part[..first]);
            self.ring[..part.len() - first].copy_from_slice(&part[first..]);
            self.bytes += part.len();
        }
        true
    }

    /// Writes what one call takes; `false` = there is nothing more to do now.
    fn write_chunk(&mut self, wait_ms: libc::c_int) -> bool {
        if self.bytes == 0 || !self.is_writable(wait_ms) {
            return false;
        }
        let end = (self.start + self.bytes.min(self.chunk_bytes)).min(self.ring.len());
        match self.sink.write(&self.ring[self.start..end]) {
            Ok(count) => {
                self.start = (self.start + count) % self.ring.len();
                self.bytes -= count;
                count > 0
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                // A full disk behind stderr may get room again, a closed pipe has no reader.
                self.dead = error.kind() == io::ErrorKind::BrokenPipe;
                self.bytes = 0;
                false
            }
        }
    }

    fn is_writable(&self, wait_ms: libc::c_int) -> bool {
        let mut ask = libc::pollfd { fd: self.sink.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one live pollfd, as the count says.
        let answered = unsafe { libc::poll(&raw mut ask, 1, wait_ms) };
        answered == 1
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant's days_from_civil turned round: eras of 400 years that begin in March,
        // so that the day of a leap year comes last.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (File::from(OwnedFd::from(reader)), File::from(OwnedFd::from(writer)))
    }

    fn drop_note(destination: &str) -> Note {
        Note::Drop {
            reason: "expired",
            destination: text(destination),
            count: 1,
            topic: None,
            from: None,
            size: None,
            limit: None,
            key: None,
        }
    }

    /// A line that nothing sums up.
    fn figures(fwd_acked: u64) -> Note {
        Note::StatsBridge {
            name: text("a"),
            up: true,
            inflight: 0,
            ring: 0,
            store: 0,
            oldest_ms: 0,
            rtt_ms: 0,
            reconnects: 0,
            fwd_acked,
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(millis).to_string(), text);
        }
    }

    #[test]
    fn a_note_is_one_line_with_time_level_and_part() {
        let (mut reader, writer) = pipe();
        let mut logging = Logging::to_file(writer, log::LevelFilter::Info, None);
        logging.note(Instant::ZERO, &drop_note("a"));
        logging.turn(Instant::ZERO);
        drop(logging);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        let (time, rest) = got.split_once(' ').unwrap();
        assert_eq!(time.len(), 24);
        assert_eq!(rest, "WARN spillway::queue event=drop reason=expired destination=a count=1\n");
    }

    #[test]
    fn a_filter_says_which_parts_are_wanted() {
        let (mut reader, writer) = pipe();
        let filter = Some("error,spillway::queue=warn");
        let mut logging = Logging::to_file(writer, log::LevelFilter::Info, filter);
        logging.note(Instant::ZERO, &drop_note("a"));
        logging.note(Instant::ZERO, &Note::Stall { part: "flush", duration_ms: 900 });
        logging.finish();
        drop(logging);
        let mut got = String::new();
        reader.read_to_string(&mut got).unwrap();
        assert_eq!(got.lines().count(), 1);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_not_time() {
        let (mut reader, writer) = pipe();
        let mut logging = Logging::to_file(writer, log::LevelFilter::Info, None);
        let lines = 5000_u64;
        for number in 0..lines {
            logging.note(Instant::ZERO, &figures(number));
            // Returns although the pipe has been full for long.
            logging.turn(Instant::ZERO);
        }
        let dropped = logging.shared.output().dropped;
        assert!(dropped > 0);
        let collected = std::thread::spawn(move || {
            let mut got = String::new();
            reader.read_to_string(&mut got).unwrap();
            got
        });
        while logging.shared.output().bytes > 0 {
            logging.finish();
        }
        logging.note(Instant::ZERO, &drop_note("last"));
        logging.finish();
        drop(logging);
        let got = collected.join().unwrap();
        let report = format!("event=log_dropped log_dropped={dropped}");
        assert!(got.lines().any(|line| line.ends_with(&report)), "{report}");
        assert!(got.ends_with("destination=last count=1\n"));
        assert_eq!(u64::try_from(got.lines().count()).unwrap(), lines - dropped + 2);
        assert!(got.lines().all(|line| line.contains(" spillway::")));
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let (reader, writer) = pipe();
        drop(reader);
        // SAFETY: sets a disposition, as the event loop does at start.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let mut logging = Logging::to_file(writer, log::LevelFilter::Info, None);
        for number in 0..10_000 {
            logging.note(Instant::ZERO, &figures(number));
            logging.turn(Instant::ZERO);
        }
        assert_eq!(logging.poll_at(), Instant::NEVER);
    }
}
