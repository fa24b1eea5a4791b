//! Clients of other people, each in both versions: Eclipse Paho in Python, MQTT.js in Node,
//! Debian's mosquitto_pub and mosquitto_sub. What they do and expect is in `tests/foreign`;
//! `scripts/foreign` installs the libraries.

use crate::common::PATIENCE;
use crate::common::gateway::Gateway;
use crate::common::mosquitto::{MosquittoSub, mosquitto_pub};
use crate::common::process::Process;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `scripts/foreign` has put the libraries.
fn installed(part: &str) -> PathBuf {
    let named = std::env::var_os("SPILLWAY_FOREIGN").map(PathBuf::from);
    let root =
        named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/foreign"));
    let path = root.join(part);
    assert!(path.exists(), "{} is missing: run scripts/foreign", path.display());
    path
}

/// Runs a client through all it can do; what it found right.
fn run(mut command: Command, script: &str, version: &str) -> Vec<String> {
    let gateway = Gateway::start("");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(script);
    command.arg(script).arg(gateway.port.to_string()).arg(version);
    let mut process = Process::start_reading_stdout(command);
    let done = |line: &str| (line == "done").then_some(());
    let done = process.log.wait(0, 4 * PATIENCE, done);
    let mut lines = process.log.lines();
    assert!(done.is_some(), "after {lines:?} it went wrong");
    assert!(process.wait_exit(PATIENCE).success());
    lines.pop();
    lines
}

const EVERYTHING: [&str; 6] = [
    "ok every_qos",
    "ok retained",
    "ok will",
    "ok session",
    "ok shared",
    "ok request_and_response",
];

fn paho(version: &str) {
    let command = Command::new(installed("python/bin/python"));
    assert_eq!(run(command, "paho_client.py", version), EVERYTHING);
}

fn mqttjs(version: &str) {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed("node/node_modules"));
    let mut expected = EVERYTHING.to_vec();
    expected.insert(4, "ok reconnect");
    assert_eq!(run(command, "mqttjs_client.js", version), expected);
}

#[test]
fn paho_in_3_1_1() {
    paho("4");
}

#[test]
fn paho_in_5() {
    paho("5");
}

#[test]
fn mqttjs_in_3_1_1() {
    mqttjs("4");
}

#[test]
fn mqttjs_in_5() {
    mqttjs("5");
}

#[test]
fn mosquittos_clients_in_both_versions() {
    for version in ["mqttv311", "mqttv5"] {
        let gateway = Gateway::start("");
        let port = gateway.port;
        let watcher =
            MosquittoSub::start(port, "%t %q %r %p", &["-V", version, "-t", "#", "-q", "2"]);
        for qos in ["0", "1", "2"] {
            mosquitto_pub(port, &["-V", version, "-t", "t", "-q", qos, "-m", qos]);
        }
        mosquitto_pub(port, &["-V", version, "-t", "state", "-q", "1", "-r", "-m", "on"]);
        let will = ["--will-topic", "gone", "--will-payload", "it is", "--will-qos", "1"];
        let victim = [&["-V", version, "-t", "state", "-q", "1"][..], &will].concat();
        let victim = MosquittoSub::start(port, "%r %p", &victim);
        assert_eq!(victim.take(1), ["1 on"]);
        // Dropping it kills it.
        drop(victim);
        let expected = ["t 0 0 0", "t 1 0 1", "t 2 0 2", "state 1 0 on", "gone 1 0 it is"];
        assert_eq!(watcher.take(5), expected);
        // A session that is left and returned to.
        let kept = ["-V", version, "-i", "kept", "-c", "-t", "kept", "-q", "2"];
        let more: &[&str] = if version == "mqttv5" { &["-x", "3600"] } else { &[] };
        let kept = [&kept[..], more].concat();
        drop(MosquittoSub::start(port, "%p", &kept));
        gateway.wait_with("client_disconnected", &[("client", "kept")]);
        for n in ["0", "1", "2", "3"] {
            mosquitto_pub(port, &["-V", version, "-t", "kept", "-q", "2", "-m", n]);
        }
        assert_eq!(MosquittoSub::start(port, "%p", &kept).take(4), ["0", "1", "2", "3"]);
    }
}
