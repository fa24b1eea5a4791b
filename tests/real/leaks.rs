//! What comes and goes leaves nothing behind: memory and open files after many connections, and a
//! log that stays small. `scripts/bench leaks` does the same with ten times as many.

use crate::common::client::dial;
use crate::common::gateway::{Gateway, bridge, bridge_to};
use crate::common::mosquitto::Mosquitto;
use crate::common::names::{Answer, NameServer};
use crate::common::wait_until;
use crate::common::wire::{self, Connect, Message};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Reconnects after which memory has to be steady.
const WARM: usize = 500;

/// Reconnects of each kind.
fn count() -> usize {
    let text = std::env::var("SPILLWAY_RECONNECTS").unwrap_or_else(|_| "10000".to_owned());
    text.parse().expect("SPILLWAY_RECONNECTS is a number")
}

/// Resident memory in KiB, and open files.
fn held(gateway: &Gateway) -> (i64, usize) {
    let proc = format!("/proc/{}", gateway.process().id());
    let status = std::fs::read_to_string(format!("{proc}/status")).expect("procfs");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let rss = rss.trim().trim_end_matches(" kB").parse().expect("a number");
    let files = std::fs::read_dir(format!("{proc}/fd")).expect("procfs").count();
    (rss, files)
}

fn report(what: &str, count: usize, before: (i64, usize), after: (i64, usize), log: usize) {
    let grown = after.0 - before.0;
    println!("{what}: {count} reconnects, {grown} KiB, files {} -> {}", before.1, after.1);
    println!("{what}: {log} bytes of log");
    assert!(grown < 64, "{grown} KiB more after {count} {what} reconnects");
    assert_eq!(before.1, after.1, "open files after {count} {what} reconnects");
}

fn log_bytes(gateway: &Gateway) -> usize {
    gateway.lines().iter().map(|line| line.len() + 1).sum()
}

/// What a process has open beside its standard streams that a program it becomes would have too.
fn kept_over_exec(id: u32) -> (usize, Vec<String>) {
    let proc = format!("/proc/{id}");
    let (mut count, mut kept) = (0, Vec::new());
    for entry in std::fs::read_dir(format!("{proc}/fd")).expect("procfs") {
        let entry = entry.expect("procfs");
        let number = entry.file_name().into_string().expect("a number");
        let target = std::fs::read_link(entry.path());
        let info = std::fs::read_to_string(format!("{proc}/fdinfo/{number}"));
        // One that is closed meanwhile is none.
        let (Ok(target), Ok(info)) = (target, info) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("an octal number");
        if !["0", "1", "2"].contains(&number.as_str()) {
            count += 1;
            if flags & libc::O_CLOEXEC == 0 {
                kept.push(format!("{number} {}", target.display()));
            }
        }
    }
    (count, kept)
}

#[test]
fn every_descriptor_is_closed_on_exec() {
    let remote = Mosquitto::start();
    // The name is asked for as long as nobody answers, so that its sockets are open.
    let names = NameServer::start(Answer::Silence);
    let rules = ["forward.1.local_topic = n"];
    let unnamed = bridge_to("unnamed", "mqtt://broker.example:1883", &rules);
    let configuration = format!("{}{unnamed}", bridge("up", remote.port, &rules));
    let gateway = Gateway::start_with(&configuration, &names.environment());
    gateway.wait_with("bridge_up", &[("bridge", "up")]);
    let mut client = Connect::v5("c").open(gateway.port);
    client.publish(&Message::new("n", "x").qos(2));
    wait_until("a question", || names.questions() > 0);
    // What we were given ourselves it was given, too.
    let (_, given) = kept_over_exec(std::process::id());
    let (count, mut kept) = kept_over_exec(gateway.process().id());
    kept.retain(|kept| !given.contains(kept));
    // The poll, signals, a listener, the log's end, a client, a bridge, a name, the store.
    assert!(count >= 9, "{count} descriptors");
    assert_eq!(kept, [""; 0], "of {count}");
}

#[test]
fn clients_that_come_and_go_leave_nothing() {
    let gateway = Gateway::start("store.flush_after = 10ms");
    let port = gateway.port;
    let run = |count: usize| {
        let next = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let next = Arc::clone(&next);
                thread::spawn(move || {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return;
                        }
                        // Half say goodbye; some leave a subscription, a will, a message.
                        let mut client =
                            Connect::new(4 + u8::from(n.is_multiple_of(3)), &format!("c{n}"));
                        client.will = (n.is_multiple_of(5)).then(|| Message::new("will", "x"));
                        let mut client = client.open(port);
                        if n.is_multiple_of(7) {
                            client.subscribe(&[("some/+/topic", 2)]);
                            client.publish(&Message::new("some/new/topic", "x").qos(1));
                        }
                        if n.is_multiple_of(2) {
                            client.disconnect();
                        } else {
                            client.vanish();
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no client fails");
        }
    };
    let settled = || {
        // Nobody is there any more, and the sockets are closed.
        wait_until("everybody is gone", || {
            let fds = held(&gateway).1;
            thread::sleep(std::time::Duration::from_millis(50));
            held(&gateway).1 == fds
        });
        Connect::v4("probe").open(port).disconnect();
        held(&gateway)
    };
    run(WARM);
    let before = settled();
    run(count());
    report("client", count(), before, settled(), log_bytes(&gateway));
}

/// A remote that greets every connection and closes it at once; counts them.
fn brief() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let met = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&met);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut connect = [0; 512];
            // A CONNECT is small and comes whole.
            if stream.read(&mut connect).is_ok_and(|count| count > 0) {
                let connack = wire::packet(0x20, &[0, 0, 0]);
                let _ = stream.write_all(&connack);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    (port, met)
}

#[test]
fn bridges_that_come_and_go_leave_nothing_and_little_log() {
    // The shortest backoff there is 10 ms: many bridges at once make many reconnects a second.
    const BRIDGES: usize = 16;
    let (port, met) = brief();
    let mut text = format!("limit.bridges = {BRIDGES}\n");
    for n in 0..BRIDGES {
        let rules = ["forward.1.local_topic = n", "backoff_min = 10ms", "backoff_max = 10ms"];
        text += &bridge(&format!("b{n}"), port, &rules);
    }
    let gateway = Gateway::start(&text);
    let reach = |wanted: usize| {
        while met.load(Ordering::Relaxed) < wanted {
            let before = met.load(Ordering::Relaxed);
            wait_until("the bridges come back", || met.load(Ordering::Relaxed) > before);
        }
    };
    // Every bridge keeps at most two sockets: the lowest of some looks is what is held.
    let lowest = || {
        let looks = (0..200).map(|_| {
            thread::sleep(std::time::Duration::from_millis(2));
            held(&gateway)
        });
        looks.reduce(|a, b| (a.0.min(b.0), a.1.min(b.1))).expect("some")
    };
    reach(WARM * 2);
    let (start, lines) = (lowest(), gateway.mark());
    let begun = met.load(Ordering::Relaxed);
    reach(begun + count());
    let end = lowest();
    // Which sockets are open at the moment is chance, up to one a bridge.
    let files = if end.1.abs_diff(start.1) <= BRIDGES { start.1 } else { end.1 };
    let log: usize = gateway.lines()[lines..].iter().map(|line| line.len() + 1).sum();
    report("bridge", count(), start, (end.0, files), log);
    let stats = gateway.wait_stats("anything", |_| true);
    let uptime = usize::try_from(stats.number("uptime_s")).expect("small");
    // Three kinds of lines a bridge, one of each a second and its sum, beside the figures.
    let most = (uptime + 2) * (BRIDGES * 8 + 4) * 300;
    assert!(log_bytes(&gateway) < most, "{} bytes in {uptime} s", log_bytes(&gateway));
    // A last one works.
    assert!(dial(gateway.port).is_ok());
}
