//! A broker or gateway under test as a child process: its configuration, its log and what the
//! kernel says of it. It is killed when it is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock;

const TAIL_LINES: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Spillway,
    Mosquitto,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spillway" => Ok(Kind::Spillway),
            "mosquitto" => Ok(Kind::Mosquitto),
            _ => Err("spillway or mosquitto".into()),
        }
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Spillway => "spillway",
            Kind::Mosquitto => "mosquitto",
        }
    }

    /// Beside this tool, where cargo puts both; or Debian's.
    pub fn binary(self) -> PathBuf {
        let beside = std::env::current_exe().ok().and_then(|tool| {
            let found = tool.parent()?.join("spillway");
            found.exists().then_some(found)
        });
        match self {
            Kind::Spillway => beside.unwrap_or_else(|| "spillway".into()),
            Kind::Mosquitto => {
                let debian = Path::new("/usr/sbin/mosquitto");
                if debian.exists() { debian.into() } else { "mosquitto".into() }
            }
        }
    }
}

/// What the log has said last.
#[derive(Default)]
pub struct Log {
    pub stats: BTreeMap<String, String>,
    pub link: String,
    pub loop_max_ms: u64,
    pub drops: u64,
    /// When the first line of each event was read.
    pub first_at: BTreeMap<String, u64>,
    /// Longest stall by the part that was away, milliseconds.
    pub stalls: BTreeMap<String, u64>,
    /// What the gateway says it will take.
    pub planned_kib: Option<u64>,
    /// Lines but for `stats`.
    pub lines: u64,
    pub tail: VecDeque<String>,
}

impl Log {
    pub fn stat(&self, key: &str) -> Option<u64> {
        self.stats.get(key)?.parse().ok()
    }

    fn take(&mut self, line: &str) {
        let values = key_values(line);
        let event = values.get("event").cloned().unwrap_or_default();
        self.first_at.entry(event.clone()).or_insert_with(clock::now);
        match event.as_str() {
            "stats" => {
                let turn = values.get("loop_max_ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
                self.loop_max_ms = self.loop_max_ms.max(turn);
                self.stats = values;
                return;
            }
            "stats_bridge" => {
                // Summed-up lines come late: this one knows the state.
                if values.get("up").is_some_and(|up| up == "true") {
                    self.link = "up".into();
                }

                return;
            }
            "memory_plan" => {
                self.planned_kib = values.get("total_kib").and_then(|kib| kib.parse().ok());
            }
            "bridge_up" => self.link = "up".into(),
            "bridge_connecting" => self.link = "connecting".into(),
            "bridge_down" => {
                let of = |key: &str| values.get(key).map_or("?", String::as_str);
                self.link = format!("down: {}, again in {} ms", of("reason"), of("retry_in_ms"));
            }
            "stall" => {
                let took = values.get("duration_ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
                let part = values.get("part").cloned().unwrap_or_default();
                let longest = self.stalls.entry(part).or_default();
                *longest = took.max(*longest);
            }
            "drop" => {
                let count = values.get("count").and_then(|count| count.parse().ok());
                self.drops += count.unwrap_or(1u64);
            }
            _ => {}
        }
        self.lines += 1;
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

/// `key=value` words of a line; a value may be in double quotes with `\` before `"` and `\`.
pub fn key_values(line: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut rest = line;
    while let Some(at) = rest.find('=') {
        let key = rest[..at].rsplit(' ').next().unwrap_or_default().to_owned();
        rest = &rest[at + 1..];
        let mut value = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = quoted.len();
            let mut letters = quoted.char_indices();
            while let Some((index, letter)) = letters.next() {
                match letter {
                    '"' => {
                        end = index + 1;
                        break;
                    }
                    '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
                    _ => value.push(letter),
                }
            }
            rest = &quoted[end..];
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            value.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        values.insert(key, value);
    }
    values
}

/// What the kernel knows of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub rss_peak_kib: u64,
    pub rss_kib: u64,
    /// How often it went to sleep of its own accord, and so was woken.
    pub switches: u64,
    /// Bytes it caused to be written to disks.
    pub write_bytes: u64,
    /// On a processor, user and system, of all its threads.
    pub cpu_ns: u64,
}

impl Figures {
    pub fn of(pid: u32) -> Figures {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let field = |text: String, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let spent = |path: PathBuf| -> Option<u64> {
            fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        Figures {
            rss_peak_kib: field(read("status").unwrap_or_default(), "VmHWM:"),
            rss_kib: field(read("status").unwrap_or_default(), "VmRSS:"),
            switches: field(read("status").unwrap_or_default(), "voluntary_ctxt_switches:"),
            write_bytes: field(read("io").unwrap_or_default(), "write_bytes:"),
            cpu_ns: tasks.filter_map(|task| spent(task.path())).sum(),
        }
    }
}

pub struct Process {
    child: Child,
    pub log: Arc<Mutex<Log>>,
}

impl Process {
    /// Starts it with `configuration` as `NAME.conf` in `dir`; its log is kept as `NAME.log`.
    pub fn start(
        kind: Kind,
        binary: &Path,
        dir: &Path,
        name: &str,
        configuration: &str,
    ) -> Result<Self, String> {
        Self::start_with(kind, binary, dir, name, configuration, &[])
    }

    /// The same with variables of its own.
    pub fn start_with(
        kind: Kind,
        binary: &Path,
        dir: &Path,
        name: &str,
        configuration: &str,
        environment: &[(&str, String)],
    ) -> Result<Self, String> {
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, configuration).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&path).env_remove("RUST_LOG");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| format!("cannot start {} ({}): {e}", kind.name(), binary.display()))?;
        let log = Arc::new(Mutex::new(Log { link: "-".into(), ..Log::default() }));
        if let Some(stderr) = child.stderr.take() {
            let log = log.clone();
            let path = dir.join(format!("{name}.log"));
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            let mut file = file.map_err(|e| e.to_string())?;
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    // The copy is for people; the figures come from `log`.
                    let _ = writeln!(file, "{line}");
                    lock(&log).take(&line);
                }
            });
        }
        Ok(Process { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub fn figures(&self) -> Figures {
        Figures::of(self.pid())
    }

    /// Err with its last words when it has ended.
    pub fn alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let tail: Vec<String> = self.log().tail.iter().cloned().collect();
                Err(format!("ended with {status}:\n{}", tail.join("\n")))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Until its listener answers.
    pub fn wait_listening(
        &mut self,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<(), String> {
        let deadline = clock::now() + patience.as_nanos() as u64;
        loop {
            self.alive()?;
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if clock::now() > deadline {
                return Err(format!("does not listen on {address} after {patience:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then at most `patience` for its end.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        // SAFETY: a signal to a child that is not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let deadline = clock::now() + patience.as_nanos() as u64;
        while clock::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    // The reader's thread cannot leave a line half taken that matters.
    log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_taken_apart() {
        let line = concat!(
            "2026-11-21T07:00:00Z WARN spillway::bridge event=bridge_down bridge=up ",
            r#"reason="connection \"refused\"" retry_in_ms=800 empty="" backlog=3"#
        );
        let values = key_values(line);
        assert_eq!(values["event"], "bridge_down");
        assert_eq!(values["reason"], r#"connection "refused""#);
        assert_eq!(values["empty"], "");
        assert_eq!(values["backlog"], "3");
    }

    #[test]
    fn the_longest_turn_and_the_link_are_remembered() {
        let mut log = Log::default();
        log.take("T INFO spillway::stats event=stats ring_msgs=5 loop_max_ms=9");
        log.take("T INFO spillway::stats event=stats_bridge name=b up=true");
        assert_eq!(log.link, "up");
        log.take("T INFO spillway::stats event=stats ring_msgs=6 loop_max_ms=2");
        log.take("T WARN spillway::bridge event=bridge_down reason=refused retry_in_ms=7");
        assert_eq!((log.loop_max_ms, log.stat("ring_msgs")), (9, Some(6)));
        assert_eq!(log.link, "down: refused, again in 7 ms");
        assert_eq!(log.tail.len(), 1);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = Figures::of(std::process::id());
        assert!(figures.rss_peak_kib > 100 && figures.cpu_ns > 0, "{figures:?}");
    }
}
