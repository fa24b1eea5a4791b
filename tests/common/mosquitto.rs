//! Debian's mosquitto as the remote, and its command line clients.

use super::place::{Directory, free_port};
use super::process::Process;
use super::{PATIENCE, wait_until};
use std::process::{Command, Output};

/// A mosquitto in a directory of its own, at a port it keeps over restarts.
pub struct Mosquitto {
    pub port: u16,
    directory: Directory,
    process: Option<Process>,
}

impl Mosquitto {
    /// One as it is out of the package: what it takes and keeps is what it takes by default. It
    /// forgets everything when it ends.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// One that writes every change down: sessions and retained messages outlive it.
    pub fn start_persistent() -> Self {
        Self::start_with("persistence true\nautosave_interval 1\nautosave_on_changes true\n")
    }

    /// One whose queues have no end, for tests in which more waits at the remote, for a bridge or a
    /// subscriber, than the 1000 messages that it keeps by default.
    pub fn start_roomy() -> Self {
        Self::start_with("max_queued_messages 0\n")
    }

    /// One with these lines in its configuration.
    pub fn start_with(configuration: &str) -> Self {
        let directory = Directory::new();
        let port = free_port();
        let user = "user root\n";
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\n\
             persistence_location {}/\nlog_dest stderr\nlog_type all\n{user}{configuration}",
            directory.path().display(),
        );
        directory.write("mosquitto.conf", &text);
        let mut mosquitto = Self { port, directory, process: None };
        mosquitto.run();
        mosquitto
    }

    /// Starts it (again) and waits until it serves.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new(program("mosquitto"));
        command.arg("-c").arg(self.directory.file("mosquitto.conf"));
        let process = Process::start(command);
        let running = |line: &str| line.contains(" running").then_some(());
        let ready = process.log.wait(0, PATIENCE, running);
        assert!(ready.is_some(), "mosquitto does not start: {:?}", process.log.lines());
        self.process = Some(process);
    }

    /// A clean end: a persistent one saves its sessions.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(libc::SIGTERM);
        process.wait_exit(PATIENCE);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// SIGSTOP: the kernel goes on accepting and acknowledging bytes, nobody answers.
    pub fn freeze(&self) {
        self.process.as_ref().expect("it runs").freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.as_ref().expect("it runs").signal(libc::SIGCONT);
    }

    /// Waits for a line of its log.
    pub fn wait_line(&self, part: &str) -> String {
        let log = &self.process.as_ref().expect("it runs").log;
        let found = log.wait(0, PATIENCE, |line| line.contains(part).then(|| line.to_owned()));
        found.unwrap_or_else(|| panic!("mosquitto never said {part}"))
    }

    /// The same, with something to do meanwhile.
    pub fn wait_line_while(&self, part: &str, mut meanwhile: impl FnMut()) {
        wait_until(part, || {
            meanwhile();
            self.count_lines(part) > 0
        });
    }

    /// How many of its lines hold `part`.
    pub fn count_lines(&self, part: &str) -> usize {
        let log = &self.process.as_ref().expect("it runs").log;
        log.lines().iter().filter(|line| line.contains(part)).count()
    }
}

/// Debian puts servers where not every PATH looks.
fn program(name: &str) -> String {
    let places = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    let paths = places.map(|place| format!("{place}/{name}"));
    let found = paths.into_iter().find(|path| std::path::Path::new(path).exists());
    found.unwrap_or_else(|| name.to_owned())
}

/// Runs `mosquitto_pub` to its end.
pub fn mosquitto_pub(port: u16, arguments: &[&str]) -> Output {
    let output = try_mosquitto_pub(port, arguments);
    assert!(output.status.success(), "mosquitto_pub {arguments:?}: {output:?}");
    output
}

/// Runs `mosquitto_pub` to its end, which need not be a good one.
pub fn try_mosquitto_pub(port: u16, arguments: &[&str]) -> Output {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
    command.output().expect("mosquitto_pub is installed")
}

/// Runs `mosquitto_passwd` to its end.
pub fn mosquitto_passwd(arguments: &[&str]) {
    let output = Command::new("mosquitto_passwd").args(arguments).output();
    let output = output.expect("mosquitto_passwd is installed");
    assert!(output.status.success(), "mosquitto_passwd {arguments:?}: {output:?}");
}

/// A running `mosquitto_sub`.
pub struct MosquittoSub(Process);

impl MosquittoSub {
    /// Starts it and returns once it has its SUBACK. Every message becomes one line by `format`
    /// (mosquitto_sub's `-F`).
    pub fn start(port: u16, format: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &port.to_string(), "-d"]);
        command.arg("-F").arg(format!("message {format}")).args(arguments);
        let process = Process::start_reading_stdout(command);
        let subscribed = |line: &str| line.starts_with("Subscribed").then_some(());
        let ready = process.log.wait(0, PATIENCE, subscribed);
        assert!(ready.is_some(), "mosquitto_sub: {:?}", process.log.lines());
        Self(process)
    }

    /// The first `count` messages as lines.
    pub fn take(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        self.0.log.wait(0, PATIENCE, |line| {
            lines.extend(line.strip_prefix("message ").map(str::to_owned));
            (lines.len() == count).then_some(())
        });
        assert_eq!(lines.len(), count, "messages mosquitto_sub printed: {lines:?}");
        lines
    }
}
