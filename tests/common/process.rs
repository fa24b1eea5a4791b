//! A child process whose lines can be waited for.

use super::{PATIENCE, wait_until};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Lines {
    text: Vec<String>,
    ended: bool,
}

/// What a process has said so far.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

impl Log {
    fn follow(self: &Arc<Self>, source: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                log.lines.lock().expect("no holder panics").text.push(line);
                log.grown.notify_all();
            }
            log.lines.lock().expect("no holder panics").ended = true;
            log.grown.notify_all();
        });
    }

    pub fn count(&self) -> usize {
        self.lines.lock().expect("no holder panics").text.len()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no holder panics").text.clone()
    }

    /// The first line from number `from` on that `wanted` takes something from; `None` when it
    /// does not come within `patience` or can no longer come.
    pub fn wait<T>(
        &self,
        from: usize,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut at = from;
        let mut lines = self.lines.lock().expect("no holder panics");
        loop {
            while let Some(line) = lines.text.get(at) {
                if let Some(found) = wanted(line) {
                    return Some(found);
                }
                at += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                return None;
            }
            lines = self.grown.wait_timeout(lines, left).expect("no holder panics").0;
        }
    }
}

/// A running child; killed by its id when dropped.
pub struct Process {
    child: Child,
    pub log: Arc<Log>,
    name: String,
}

impl Process {
    /// Starts `command` and follows its standard error.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().expect("stderr is piped"));
        Self { child, log, name }
    }

    /// Starts `command` and follows its standard output; what it says to stderr is let through.
    pub fn start_reading_stdout(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().expect("stdout is piped"));
        Self { child, log, name }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes two integers; the id is that of a child not yet waited for.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "cannot signal {} {id}", self.name);
    }

    /// SIGSTOP, and it has stopped: the kernel goes on accepting and acknowledging bytes.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", self.id());
        wait_until("it stops", || {
            let stat = std::fs::read_to_string(&stat).expect("procfs");
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the end and what was said until then.
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                // Lines written before the end are all there once the pipe has ended.
                let _ = self.log.wait(usize::MAX, PATIENCE, |_| None::<()>);
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// `kill -9` and wait.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        let status = self.wait_exit(PATIENCE);
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{} ended by itself", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() || std::env::var_os("SPILLWAY_LOUD").is_some() {
            eprintln!("--- what {} {} said", self.name, self.child.id());
            let lines = self.log.lines();
            let most = std::env::var("SPILLWAY_LINES").ok().and_then(|text| text.parse().ok());
            for line in &lines[lines.len().saturating_sub(most.unwrap_or(80))..] {
                eprintln!("{line}");
            }
        }
    }
}
