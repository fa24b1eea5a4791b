//! Names: a name server that is silent, denies and comes back; local clients notice nothing.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge_to};
use crate::common::mosquitto::Mosquitto;
use crate::common::names::{Answer, NameServer};
use crate::common::publisher::Publisher;
use crate::common::wait_until;
use crate::common::wire::{Connect, Message};
use std::time::{Duration, Instant};

fn bridged(port: u16) -> String {
    let server = format!("mqtt://broker.example:{port}");
    bridge_to("up", &server, &["forward.1.local_topic = n"])
}

/// Round trips through the local broker while `busy` holds; the longest of them.
fn round_trips(port: u16, mut busy: impl FnMut() -> bool) -> Duration {
    let mut client = Connect::v5("round-trips").open(port);
    client.subscribe(&[("local", 1)]);
    let mut longest = Duration::ZERO;
    let mut count = 0_u32;
    let deadline = Instant::now() + crate::common::PATIENCE;
    while count < 100 || busy() {
        assert!(Instant::now() < deadline, "never over");
        let before = Instant::now();
        client.publish(&Message::new("local", count.to_string()).qos(1));
        assert_eq!(client.next().text(), count.to_string());
        longest = longest.max(before.elapsed());
        count += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    longest
}

#[test]
fn a_name_is_resolved_and_the_bridge_comes_up() {
    let remote = Mosquitto::start();
    let names = NameServer::start(Answer::Loopback);
    let far = Collector::start(remote.port, "far", "n");
    let gateway = Gateway::start_with(&bridged(remote.port), &names.environment());
    let up = gateway.wait("bridge_up");
    assert_eq!(up.text("server"), format!("broker.example:{}", remote.port));
    Publisher::numbered("publisher", "n", 1, 10).run(gateway.port);
    assert_eq!(far.wait_all_in_order(10), 0);
}

#[test]
fn silence_and_denial_stop_nobody_and_are_got_over() {
    for answer in [Answer::Silence, Answer::NoSuchName] {
        let remote = Mosquitto::start();
        let names = NameServer::start(answer);
        let far = Collector::start(remote.port, "far", "n");
        let gateway = Gateway::start_with(&bridged(remote.port), &names.environment());
        // Accepted into the store: the remote has never been there.
        Publisher::numbered("publisher", "n", 2, 200).run(gateway.port);
        let down = |event: &crate::common::gateway::Event| event.name == "bridge_down";
        let longest = round_trips(gateway.port, || {
            gateway.events().iter().filter(|event| down(event)).count() < 2
        });
        assert!(longest < Duration::from_secs(1), "{answer:?}: {longest:?}");
        assert!(names.questions() > 0);
        names.set(Answer::Loopback);
        gateway.wait("bridge_up");
        assert_eq!(far.wait_all_in_order(200), 0, "{answer:?}");
    }
}

#[test]
fn a_server_that_falls_silent_does_not_matter_once_the_address_is_known() {
    let mut remote = Mosquitto::start_persistent();
    let names = NameServer::start(Answer::Loopback);
    let far = Collector::start(remote.port, "far", "n");
    // Time enough to find the server silent and then to connect to what it said before.
    let server = format!("mqtt://broker.example:{}", remote.port);
    let rules = ["forward.1.local_topic = n", "connect_timeout = 8s"];
    let gateway = Gateway::start_with(&bridge_to("up", &server, &rules), &names.environment());
    gateway.wait("bridge_up");
    names.set(Answer::Silence);
    remote.stop();
    gateway.wait("bridge_down");
    let mark = gateway.mark();
    remote.run();
    gateway.wait_from(mark, "bridge_up", &[]);
    Publisher::numbered("publisher", "n", 1, 10).run(gateway.port);
    assert_eq!(far.wait_all_in_order(10), 0);
}

#[test]
fn a_name_in_the_hosts_file_needs_no_server() {
    let remote = Mosquitto::start();
    let names = NameServer::start(Answer::Silence);
    let server = format!("mqtt://localhost:{}", remote.port);
    let configuration = bridge_to("up", &server, &["forward.1.local_topic = n"]);
    let gateway = Gateway::start_with(&configuration, &names.environment());
    gateway.wait("bridge_up");
    assert_eq!(names.questions(), 0);
}

#[test]
fn a_silent_server_does_not_delay_the_end() {
    let names = NameServer::start(Answer::Silence);
    let mut gateway = Gateway::start_with(&bridged(1883), &names.environment());
    wait_until("a question", || names.questions() > 0);
    assert_eq!(gateway.stop().number("lost"), 0);
}
