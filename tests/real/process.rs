//! The process as a supervisor and a script see it: exit codes, `--check`, errors, log lines.

use crate::common::gateway::{Event, Gateway, binary, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::place::Directory;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary runs")
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(&[&out[..], err].concat()).into_owned()
}

#[test]
fn version_and_help_go_to_stdout() {
    for (argument, part) in [("--version", "spillway "), ("--help", "--check")] {
        let output = run(&[argument]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(part), "{output:?}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let cases: &[&[&str]] =
        &[&[], &["--chek"], &["-c"], &["file"], &["--check"], &["-c", "/nonexistent/x.conf"]];
    for arguments in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_error_of_a_configuration_is_named_in_one_run() {
    let lines = [
        "node.name = has space",
        "ring.mesages = 100",
        "ring.messages = many",
        "store.flush_after = 3 parsecs",
        "store.flush_after = 1s",
        "limit.clients = 0",
        "ack = perhaps",
        "no equals sign",
        "bridge.up.server = ftp://host:1",
        "bridge.up.forward.1.local_topic = a/#/b",
        "bridge.up.forward.2.local_topic = a/+",
        "bridge.up.forward.2.remote_topic = b/+/+",
        "bridge.up.notify_topic = n",
        "bridge.up.will.topic = w",
        "bridge.up.max_inflight = 0",
        "bridge.Up.server = mqtt://host",
        "listener.lan.url = mqtts://0.0.0.0:8883",
        "http.bind = 127.0.0.1:8081",
    ];
    let directory = Directory::new();
    let file = directory.write("bad.conf", &lines.join("\n"));
    let file = file.to_str().expect("a plain path");
    let expected: [(usize, &str); 17] = [
        (1, "node.name"),
        (2, "ring.messages"),
        (3, "ring.messages"),
        (4, "store.flush_after"),
        (5, "store.flush_after"),
        (6, "limit.clients"),
        (7, "ack"),
        (8, ""),
        (9, "bridge.up.server"),
        (10, "bridge.up.forward.1.local_topic"),
        (12, "bridge.up.forward.2.remote_topic"),
        (13, "notify_topic"),
        (15, "bridge.up.max_inflight"),
        (16, "bridge"),
        (17, "listener.lan.url"),
        (18, "http.bind"),
        (18, "not in this build"),
    ];
    for arguments in [&["-c", file][..], &["--check", "-c", file]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let text = said(&output);
        for (line, part) in expected {
            let place = format!("{file}:{line}:");
            let named = text.lines().any(|l| l.starts_with(&place) && l.contains(part));
            assert!(named, "line {line} ({}) is not named with {part}:\n{text}", lines[line - 1]);
        }
    }
}

#[test]
fn check_of_a_good_configuration_prints_the_plan_and_changes_nothing() {
    let gateway = Gateway::prepare(&bridge("hub", 1883, &["forward.1.local_topic = #"]));
    let output = gateway.check();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in ["ack = safe", "kill -9", "memory plan", "flash plan", "hub", "100 messages/s"] {
        assert!(text.contains(part), "no {part}:\n{text}");
    }
    let files = std::fs::read_dir(gateway.directory.path()).expect("our directory").count();
    assert_eq!(files, 1, "only the configuration");
}

#[test]
fn check_warns_of_a_store_in_ram() {
    // Where /dev/shm is a tmpfs, as on every Linux with glibc.
    let store = format!("/dev/shm/spillway-test-{}.db", std::process::id());
    let gateway = Gateway::prepare(&format!("store.path = {store}"));
    let text = said(&gateway.check());
    assert!(text.contains("tmpfs") && text.contains("warning"), "{text}");
}

#[test]
fn an_unusable_store_is_status_1() {
    let mut gateway = Gateway::prepare("store.path = /proc/nowhere/spill.db");
    assert_eq!(gateway.check().status.code(), Some(1));
    let (status, lines) = gateway.run_to_the_end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("/proc/nowhere")), "{lines:#?}");
}

#[test]
fn a_port_in_use_is_status_1() {
    let gateway = Gateway::start("");
    let port = gateway.port;
    let mut second = Gateway::prepare(&format!("listener.lan.url = mqtt://127.0.0.1:{port}"));
    let (status, lines) = second.run_to_the_end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(&port.to_string())), "{lines:#?}");
}

#[test]
fn a_second_process_on_the_same_store_is_refused() {
    let first = Gateway::start("");
    let store = first.directory.file("spill.db").display().to_string();
    let mut second = Gateway::prepare(&format!("store.path = {store}"));
    let (status, lines) = second.run_to_the_end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(&store)), "{lines:#?}");
    let mut client = Connect::v4("client").open(first.port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
}

#[test]
fn the_lock_dies_with_its_process() {
    let mut gateway = Gateway::start("");
    for _ in 0..3 {
        gateway.kill();
        gateway.run();
    }
    assert_eq!(gateway.stop().number("lost"), 0);
}

#[test]
fn sigterm_and_sigint_stop_cleanly_whatever_is_going_on() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let remote = Mosquitto::start();
        let link = Proxy::start(remote.port);
        let mut gateway = Gateway::start(&bridge("up", link.port, &["forward.1.local_topic = n"]));
        gateway.wait("bridge_up");
        let mut client = Connect::v5("client").open(gateway.port);
        client.subscribe(&[("t", 1)]);
        link.set(Mode::BlackHole);
        Publisher::numbered("publisher", "n", 1, 200).run(gateway.port);
        let before = Instant::now();
        gateway.process().signal(signal);
        let status = gateway.wait_exit();
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        assert_eq!(status.code(), Some(0));
        let said = format!("{:?}", client.wait_closed());
        assert!(said.contains(&format!("Disconnect {{ code: {} }}", 0x8B)), "{said}");
        let stopping = gateway.last_events();
        let names: Vec<&str> = stopping.iter().map(|event| event.name.as_str()).collect();
        assert!(names.contains(&"stopping"), "{names:?}");
        assert_eq!(names.last(), Some(&"stopped"), "{names:?}");
        assert_eq!(stopping.last().expect("some").number("lost"), 0);
    }
}

#[test]
fn the_start_says_what_a_person_needs() {
    let gateway = Gateway::start("");
    let names: Vec<String> = gateway.events().into_iter().map(|event| event.name).collect();
    let expected = ["starting", "memory_plan", "durability", "listening"];
    let mut at = 0;
    for name in &names {
        if expected.get(at) == Some(&name.as_str()) {
            at += 1;
        }
    }
    assert_eq!(at, expected.len(), "{expected:?} in this order in {names:?}");
    let durability = gateway.wait("durability");
    assert_eq!((durability.text("ack"), durability.text("sync")), ("safe", "full"));
}

#[test]
fn every_line_has_the_format_of_the_contract() {
    let remote = Mosquitto::start();
    let link = Proxy::start(remote.port);
    let mut gateway = Gateway::start(&bridge("up", link.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v5("a client \"with\" quotes = and\u{2028}more").open(gateway.port);
    client.publish(&Message::new("t", "do-not-log-me").qos(1));
    link.set(Mode::Reset);
    gateway.wait("bridge_down");
    client.send(&[0, 0]);
    gateway.wait("client_disconnected");
    gateway.wait_stats("anything", |_| true);
    gateway.process().signal(libc::SIGTERM);
    gateway.wait_exit();
    for line in gateway.last_lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let time = words[0];
        assert!(time.len() >= 20 && time.ends_with('Z') && time.contains('T'), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&words[1]), "{line}");
        assert!(words[2].starts_with("spillway::"), "{line}");
        assert!(words[3].starts_with("event="), "{line}");
        let event = Event::parse(line).expect("an event");
        assert_eq!((event.level.as_str(), event.target.as_str()), (words[1], words[2]));
        let plain = |key: &&str| {
            key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        };
        assert!(event.keys().iter().all(plain), "{line}");
        assert!(!line.contains("do-not-log-me"), "{line}");
    }
    let connected = gateway.last_events().into_iter().find(|e| e.name == "client_connected");
    let client = connected.expect("an event").text("client").to_owned();
    assert!(client.starts_with("a client \"with\" quotes = and"), "{client}");
}

#[test]
fn the_stats_lines_carry_every_key_of_the_contract() {
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    client.subscribe(&[("t", 1)]);
    for _ in 0..5 {
        client.publish(&Message::new("t", "x").qos(1));
        client.next();
    }
    client.publish(&Message::new("t", "kept").qos(0).retained());
    let stats = gateway.wait_stats("all of it", |stats| {
        stats.number("fwd_acked") == 5 && stats.number("retained") == 1
    });
    let keys = "uptime_s clients sessions subs retained ring_msgs ring_cap ring_bytes store_msgs \
                store_bytes inflight in_msgs out_msgs fwd_sent fwd_acked recv_msgs drops conflated \
                dup_resent store_written_bytes loop_max_ms rss_kib";
    for key in keys.split_whitespace() {
        stats.number(key);
    }
    assert_eq!((stats.number("clients"), stats.number("subs")), (1, 1));
    assert_eq!((stats.number("in_msgs"), stats.number("fwd_sent")), (6, 6));
    assert!(stats.number("out_msgs") >= 6);
    assert_eq!((stats.number("drops"), stats.number("inflight")), (0, 0));
    assert!(stats.number("rss_kib") > 500 && stats.number("ring_cap") == 1024);
    let line = gateway.wait_bridge_stats("up", "five acknowledged", |b| b.number("fwd_acked") == 5);
    assert_eq!(line.text("up"), "true");
    for key in "inflight ring store oldest_ms rtt_ms reconnects".split_whitespace() {
        line.number(key);
    }
}

#[test]
fn a_flapping_link_does_not_flood_the_log() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let rules = ["forward.1.local_topic = n", "backoff_min = 10ms", "backoff_max = 10ms"];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    let line = gateway.wait_event(0, "a line that sums up", |event| event.has("suppressed"));
    assert!(line.number("suppressed") > 1, "{}", line.line);
    let uptime = gateway.wait_stats("three seconds", |s| s.number("uptime_s") >= 3);
    let downs = gateway.events().iter().filter(|event| event.name == "bridge_down").count();
    let most = usize::try_from(uptime.number("uptime_s")).expect("small") * 2 + 2;
    assert!(downs <= most, "{downs} lines in {} s", uptime.number("uptime_s"));
}

#[test]
fn nobody_reading_the_log_stops_nothing() {
    let gateway = Gateway::prepare("log.level = debug");
    let mut command = Command::new(binary());
    command.arg("-c").arg(gateway.configuration_file());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("the binary runs");
    // The pipe stays open and is never read: it fills up after 64 KiB.
    let port = gateway.port;
    crate::common::wait_until("it listens", || crate::common::client::dial(port).is_ok());
    for n in 0..600 {
        let mut client = Connect::v5(&format!("{n}-{}", "x".repeat(100))).open(port);
        client.ping();
    }
    let mut client = Connect::v4("last").open(port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
    child.kill().expect("our child");
    child.wait().expect("our child");
}

#[test]
fn figures_come_soon_after_the_start_and_after_a_change() {
    let remote = Mosquitto::start();
    let link = Proxy::start(remote.port);
    let bridge = bridge("up", link.port, &["forward.1.local_topic = #"]);
    let gateway = Gateway::start(&format!("log.stats_interval = 1h\n{bridge}"));
    gateway.wait("bridge_up");
    let first = gateway.wait("stats");
    assert!(first.number("uptime_s") <= 10, "{}", first.line);
    let mark = gateway.mark();
    link.set(Mode::Refuse);
    let second = gateway.wait_from(mark, "stats", &[]);
    gateway.wait_from(mark, "stats_bridge", &[("up", "false")]);
    // Not at once: a flapping link is no reason for a line each time.
    let between = second.number("uptime_s") - first.number("uptime_s");
    assert!(between >= 9, "{} {}", first.line, second.line);
    assert!(!second.has("http_429"), "{}", second.line);
}
