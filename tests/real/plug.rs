//! The plug is out, and in again: a bridge that waits does not wait for its pause to end. The link
//! is a pair of virtual interfaces whose other end, with the remote, is in a network namespace.

use crate::common::PATIENCE;
use crate::common::gateway::{Gateway, bridge_to};
use crate::common::place::Directory;
use crate::common::process::Process;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is there");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A cable to a namespace in which a mosquitto listens.
struct Cable {
    /// Of our end, and of the namespace.
    name: String,
    far: String,
    _remote: Process,
    _directory: Directory,
}

impl Cable {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("sp{}n{number}", process % 1_000_000);
        // Of the addresses for trials between networks (RFC 2544), four for each cable.
        let host = process % 64 * 1024 + number * 4;
        let address = |end| format!("198.18.{}.{}", (host + end) / 256, (host + end) % 256);
        let (near, far) = (address(1), address(2));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name far netns {name}"));
        ip(&format!("-n {name} addr add {far}/30 dev far"));
        ip(&format!("-n {name} link set far up"));
        ip(&format!("addr add {near}/30 dev {name}"));
        ip(&format!("link set {name} up"));
        let directory = Directory::new();
        let text = format!("listener 1883 {far}\nallow_anonymous true\nuser root\n");
        directory.write("mosquitto.conf", &text);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name, "mosquitto", "-v", "-c"]);
        command.arg(directory.file("mosquitto.conf")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let remote = Process::start(command);
        let running = |line: &str| line.contains(" running").then_some(());
        assert!(remote.log.wait(0, PATIENCE, running).is_some(), "{:?}", remote.log.lines());
        Self { name, far, _remote: remote, _directory: directory }
    }

    /// Our end: its addresses stay, its routes go.
    fn near(&self, state: &str) {
        ip(&format!("link set {} {state}", self.name));
    }

    /// The other end: ours loses its carrier and keeps everything else.
    fn far(&self, state: &str) {
        ip(&format!("-n {} link set far {state}", self.name));
    }

    fn bridge(&self, name: &str, rules: &[&str]) -> String {
        let always = [
            "forward.1.local_topic = up",
            "keepalive = 2s",
            "backoff_min = 1h",
            "backoff_max = 1h",
        ];
        bridge_to(name, &format!("mqtt://{}:1883", self.far), &[&always, rules].concat())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The other end goes with ours; the namespace once its last process is gone.
        for arguments in [["link", "del"], ["netns", "del"]] {
            let _ = Command::new("ip").args(arguments).arg(&self.name).output();
        }
    }
}

/// Out, and in again while the bridge waits for an hour.
fn comes_back(cable: &Cable, change: impl Fn(&Cable, &str)) {
    let gateway = Gateway::start(&cable.bridge("hub", &[]));
    gateway.wait("bridge_up");
    change(cable, "down");
    // It tries once more after the link is lost, or not: then it waits.
    let hours = |line: &crate::common::gateway::Event| {
        line.name == "bridge_down" && line.number("retry_in_ms") > 1_000_000
    };
    gateway.wait_event(0, "a long pause", hours);
    let mark = gateway.mark();
    change(cable, "up");
    let told = gateway.wait_from(mark, "network_changed", &[("bridge", "hub")]);
    assert!(told.number("spared_ms") > 1_000_000, "{}", told.line);
    gateway.wait_from(mark, "bridge_up", &[]);
}

#[test]
fn a_bridge_tries_at_once_when_its_interface_is_up_again() {
    comes_back(&Cable::new(), Cable::near);
}

#[test]
fn a_bridge_tries_at_once_when_the_carrier_is_back() {
    comes_back(&Cable::new(), Cable::far);
}

#[test]
fn a_bridge_of_one_interface_does_not_care_for_another() {
    let (own, other) = (Cable::new(), Cable::new());
    let bound = own.bridge("bound", &[&format!("bind_interface = {}", own.name)]);
    let gateway = Gateway::start(&(bound + &other.bridge("free", &[])));
    gateway.wait_with("bridge_up", &[("bridge", "bound")]);
    gateway.wait_with("bridge_up", &[("bridge", "free")]);
    own.far("down");
    other.far("down");
    gateway.wait_with("bridge_down", &[("bridge", "bound")]);
    gateway.wait_with("bridge_down", &[("bridge", "free")]);
    let mark = gateway.mark();
    other.far("up");
    gateway.wait_from(mark, "bridge_up", &[("bridge", "free")]);
    let told = |name: &str| {
        let told = |event: &&crate::common::gateway::Event| event.name == "network_changed";
        gateway.events().iter().filter(told).any(|event| event.text("bridge") == name)
    };
    assert!(!told("bound"));
    own.far("up");
    gateway.wait_from(mark, "network_changed", &[("bridge", "bound")]);
    gateway.wait_from(mark, "bridge_up", &[("bridge", "bound")]);
}

#[test]
fn a_flapping_interface_does_not_hammer_the_remote() {
    let cable = Cable::new();
    let gateway = Gateway::start(&cable.bridge("hub", &[]));
    gateway.wait("bridge_up");
    cable.near("down");
    gateway.wait("bridge_down");
    let mark = gateway.mark();
    for _ in 0..100 {
        cable.near("up");
        cable.near("down");
    }
    let begun = gateway.wait_stats("the time", |_| true).number("uptime_s");
    cable.near("up");
    gateway.wait_from(mark, "bridge_up", &[]);
    let connecting = |event: &&crate::common::gateway::Event| event.name == "bridge_connecting";
    let tries = gateway.events().iter().skip(1).filter(connecting).count();
    let seconds = gateway.wait_stats("the time", |_| true).number("uptime_s");
    // Five in a row, then one in ten seconds.
    let most = 5 + usize::try_from(seconds.max(begun)).expect("small") / 10 + 2;
    assert!(tries <= most, "{tries} tries in {seconds} s");
}
