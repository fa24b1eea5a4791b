//! The binary under test: its configuration, its life, its log as events.

use super::PATIENCE;
use super::faults::Faults;
use super::place::{Directory, free_port};
use super::process::Process;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

/// The program: what SPILLWAY_BINARY names (the one that ships, in `scripts/test`), else what cargo
/// has built for this run.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("SPILLWAY_BINARY").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_spillway")))
}

/// One line of the log: `TIME LEVEL spillway::PART event=NAME key=value …`.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    pub level: String,
    pub target: String,
    pub line: String,
    fields: Vec<(String, String)>,
}

impl Event {
    /// `None` for a line that is not an event.
    pub fn parse(line: &str) -> Option<Self> {
        let (head, rest) = line.split_at(line.find("event=")?);
        let mut words = head.split_whitespace().rev();
        let target = words.next().unwrap_or_default().to_owned();
        let level = words.next().unwrap_or_default().to_owned();
        let fields = fields(rest);
        let name = fields.first()?.1.clone();
        Some(Self { name, level, target, line: line.to_owned(), fields })
    }

    pub fn keys(&self) -> Vec<&str> {
        self.fields.iter().map(|(key, _)| key.as_str()).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(k, _)| k == key)
    }

    /// The value of a key that must be there.
    pub fn text(&self, key: &str) -> &str {
        match self.fields.iter().find(|(k, _)| k == key) {
            Some((_, value)) => value,
            None => panic!("no {key}= in: {}", self.line),
        }
    }

    pub fn number(&self, key: &str) -> u64 {
        let text = self.text(key);
        text.parse().unwrap_or_else(|_| panic!("{key}={text} is no number: {}", self.line))
    }

    pub fn is(&self, name: &str, with: &[(&str, &str)]) -> bool {
        self.name == name && with.iter().all(|(k, v)| self.has(k) && self.text(k) == *v)
    }
}

/// `key=value` pairs; values may be quoted, with `\"` and `\\` inside.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut chars = text.trim().chars().peekable();
    while chars.peek().is_some() {
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && *c != ' ') {
            key.push(c);
        }
        let mut value = String::new();
        if chars.next_if_eq(&'=').is_some() {
            if chars.next_if_eq(&'"').is_some() {
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => value.extend(chars.next()),
                        c => value.push(c),
                    }
                }
            } else {
                while let Some(c) = chars.next_if(|c| *c != ' ') {
                    value.push(c);
                }
            }
        }
        fields.push((key, value));
        while chars.next_if_eq(&' ').is_some() {}
    }
    fields
}

/// A Spillway in a directory of its own.
pub struct Gateway {
    pub port: u16,
    pub directory: Directory,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    /// What was said until the last [`Gateway::wait_exit`].
    last: Vec<String>,
}

impl Gateway {
    /// Writes `configuration` beside what every test needs (a listener, a store, quick figures)
    /// and starts it. What `configuration` sets itself is left to it.
    pub fn start(configuration: &str) -> Self {
        let mut gateway = Self::prepare(configuration);
        gateway.run();
        gateway
    }

    /// The same, with variables in its environment.
    pub fn start_with(configuration: &str, environment: &[(&str, String)]) -> Self {
        let mut gateway = Self::prepare(configuration);
        gateway.environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        gateway.run();
        gateway
    }

    /// The same, not started yet.
    pub fn prepare(configuration: &str) -> Self {
        let directory = Directory::new();
        let port = free_port();
        let gateway =
            Self { port, directory, environment: Vec::new(), process: None, last: Vec::new() };
        gateway.configure(configuration);
        gateway
    }

    /// Faults for every process it starts from now on; to be called once, before it runs.
    pub fn with_faults(&mut self) -> Faults {
        let faults = Faults::new(self.directory.path());
        self.environment.extend(faults.environment().map(|(k, v)| (k.to_owned(), v)));
        faults
    }

    /// Another configuration for the next [`Gateway::run`].
    pub fn configure(&self, configuration: &str) {
        let store = self.directory.file("spill.db");
        let always = [
            ("node.name", "gw".to_owned()),
            ("listener.lan.url", format!("mqtt://127.0.0.1:{}", self.port)),
            ("store.path", store.display().to_string()),
            ("store.max_bytes", "32MiB".to_owned()),
            ("log.stats_interval", "1s".to_owned()),
        ];
        let mut text = String::new();
        for (key, value) in always {
            let set = |line: &str| line.split('=').next().is_some_and(|k| k.trim() == key);
            if !configuration.lines().any(set) {
                text += &format!("{key} = {value}\n");
            }
        }
        for line in configuration.lines() {
            text += line.trim_start();
            text.push('\n');
        }
        self.directory.write("spillway.conf", &text);
    }

    /// SIGHUP with another configuration; returns what it said to that.
    pub fn reload(&self, configuration: &str) -> Event {
        self.configure(configuration);
        let mark = self.mark();
        self.process().signal(libc::SIGHUP);
        self.wait_event(mark, "that it has read its configuration again", |event| {
            matches!(event.name.as_str(), "reloaded" | "reload_refused")
        })
    }

    pub fn configuration_file(&self) -> PathBuf {
        self.directory.file("spillway.conf")
    }

    /// Starts it and does not wait for anything.
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new(binary());
        command.arg("-c").arg(self.configuration_file()).env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        self.process = Some(Process::start(command));
    }

    /// Starts it (again) and waits until clients can connect.
    pub fn run(&mut self) {
        self.begin();
        self.wait("listening");
    }

    /// Starts it and waits for its end: a start that must fail.
    pub fn run_to_the_end(&mut self) -> (ExitStatus, Vec<String>) {
        self.begin();
        let mut process = self.process.take().expect("just started");
        let status = process.wait_exit(PATIENCE);
        (status, process.log.lines())
    }

    /// What `spillway --check` says about this configuration.
    pub fn check(&self) -> Output {
        let mut command = Command::new(binary());
        command.arg("--check").arg("-c").arg(self.configuration_file());
        command.output().expect("the binary runs")
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// SIGTERM and the clean end the contract promises; returns the `stopped` event.
    pub fn stop(&mut self) -> Event {
        let mut process = self.process.take().expect("it runs");
        process.signal(libc::SIGTERM);
        let status = process.wait_exit(Duration::from_secs(5));
        let events: Vec<Event> =
            process.log.lines().iter().filter_map(|line| Event::parse(line)).collect();
        assert_eq!(status.code(), Some(0), "exit status after SIGTERM");
        let stopped = events.into_iter().rfind(|event| event.name == "stopped");
        stopped.expect("the last event is stopped")
    }

    /// Waits for the end that something else brought about.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let status = process.wait_exit(PATIENCE);
        self.last = process.log.lines();
        status
    }

    /// What was said until the last [`Gateway::wait_exit`].
    pub fn last_lines(&self) -> &[String] {
        &self.last
    }

    pub fn last_events(&self) -> Vec<Event> {
        self.last.iter().filter_map(|line| Event::parse(line)).collect()
    }

    /// Lines said since this start; what to pass to the `_from` calls.
    pub fn mark(&self) -> usize {
        self.process().log.count()
    }

    pub fn lines(&self) -> Vec<String> {
        self.process().log.lines()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lines().iter().filter_map(|line| Event::parse(line)).collect()
    }

    /// The first `name` event since the start.
    pub fn wait(&self, name: &str) -> Event {
        self.wait_from(0, name, &[])
    }

    /// The first `name` event with these values since the start.
    pub fn wait_with(&self, name: &str, with: &[(&str, &str)]) -> Event {
        self.wait_from(0, name, with)
    }

    /// The first `name` event with these values after `mark`.
    pub fn wait_from(&self, mark: usize, name: &str, with: &[(&str, &str)]) -> Event {
        self.wait_event(mark, &format!("event={name} {with:?}"), |event| event.is(name, with))
    }

    /// The first event after `mark` that `wanted` accepts.
    pub fn wait_event(
        &self,
        mark: usize,
        what: &str,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Event {
        let found = self
            .process()
            .log
            .wait(mark, PATIENCE, |line| Event::parse(line).filter(|event| wanted(event)));
        found.unwrap_or_else(|| panic!("the log never said {what}"))
    }

    /// A `stats` line from now on that `wanted` accepts.
    pub fn wait_stats(&self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        self.wait_event(self.mark(), &format!("stats with {what}"), |event| {
            event.name == "stats" && wanted(event)
        })
    }

    /// A `stats_bridge` line of `bridge` from now on that `wanted` accepts.
    pub fn wait_bridge_stats(
        &self,
        bridge: &str,
        what: &str,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Event {
        self.wait_event(self.mark(), &format!("stats_bridge {bridge} with {what}"), |event| {
            event.is("stats_bridge", &[("name", bridge)]) && wanted(event)
        })
    }

    /// Counts of `drop` events by reason so far. A sum may still be held back for a second.
    pub fn dropped(&self, reason: &str) -> u64 {
        let drops = self.events().into_iter().filter(|e| e.is("drop", &[("reason", reason)]));
        drops.map(|event| event.number("count")).sum()
    }
}

/// Room for a subscriber that is slower than what comes in: its session would drop its oldest.
pub const ROOMY_SESSIONS: &str = "session.max_messages = 100000\nsession.max_bytes = 8MiB\n";

/// A bridge to `127.0.0.1:port` that reconnects quickly; `rules` are lines like
/// `forward.1.local_topic = #`.
pub fn bridge(name: &str, port: u16, rules: &[&str]) -> String {
    bridge_to(name, &format!("mqtt://127.0.0.1:{port}"), rules)
}

/// The same to any server.
pub fn bridge_to(name: &str, server: &str, rules: &[&str]) -> String {
    let mut text = format!("bridge.{name}.server = {server}\n");
    let quick = [("backoff_min", "50ms"), ("backoff_max", "400ms"), ("connect_timeout", "2s")];
    for (key, value) in quick {
        if !rules.iter().any(|rule| rule.starts_with(key)) {
            text += &format!("bridge.{name}.{key} = {value}\n");
        }
    }
    for rule in rules {
        text += &format!("bridge.{name}.{rule}\n");
    }
    text
}
