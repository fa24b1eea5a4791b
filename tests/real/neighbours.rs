//! Nobody is dragged along: clients, remotes and readers of the log that do not behave, and what
//! everybody else notices of it.

use crate::common::client::{Wire, dial};
use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS, binary, bridge};
use crate::common::mosquitto::{Mosquitto, mosquitto_pub};
use crate::common::place::{Directory, free_port};
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::{Seen, Stub};
use crate::common::wire::{self, Ack, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet};
use crate::common::{number_of, wait_until};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// A remote that sends `count` bytes of payload at QoS 0, 1 and 2, then a small message, and goes
/// through every acknowledgement.
fn sending_large(count: usize) -> Stub {
    Stub::start(move |session, _| {
        session.greet(false, 0, &[])?;
        loop {
            let packet = session.read()?;
            session.answer(&packet)?;
            match packet {
                Packet::Subscribe { .. } => {
                    for qos in 0..=2 {
                        let large = Message::new("in/large", vec![b'x'; count]).qos(qos);
                        let message = Message { id: u16::from(qos), ..large };
                        session.send(&message.bytes(session.wire.level))?;
                    }
                    let last = Message { id: 3, ..Message::new("in/n", "small").qos(1) };
                    session.send(&last.bytes(session.wire.level))?;
                }
                Packet::Ack(Ack { kind: PUBREC, id, .. }) => {
                    session.send(&wire::ack(PUBREL, id))?
                }
                // Written down as a message, for the journal knows no PUBACK.
                Packet::Ack(Ack { kind, id, .. }) => session.note(kind, id),
                _ => {}
            }
        }
    })
}

#[test]
fn a_3_1_1_remote_is_rid_of_what_is_too_large_and_the_link_stays_up() {
    for (limit, count) in [("4KiB", 5000), ("4KiB", 300_000), ("64KiB", 70_000)] {
        let remote = sending_large(count);
        let rules = ["proto_ver = 4", "subscribe.1.remote_topic = in/#", "subscribe.1.qos = 2"];
        let text = bridge("up", remote.port, &rules);
        let gateway = Gateway::start(&format!("limit.packet_size = {limit}\n{text}"));
        let near = Connect::v4("near").persistent();
        near.open(gateway.port).subscribe(&[("in/#", 2)]);
        remote.wait("all acknowledgements", |seen| {
            let acked = |kind: u8, id: u16| {
                seen.iter().any(|s| matches!(s, Seen::Acked(k, i) if (*k, *i) == (kind, id)))
            };
            acked(PUBACK, 1) && acked(PUBCOMP, 2) && acked(PUBACK, 3)
        });
        gateway.wait_stats("drops", |stats| stats.number("drops") == 3);
        wait_until("the log tells of all three", || gateway.dropped("too_large") == 3);
        assert!(gateway.events().iter().all(|event| event.name != "bridge_down"));
    }
}

#[test]
fn an_mqtt_5_remote_that_was_told_the_limit_is_left() {
    let remote = sending_large(70_000);
    let text = bridge("up", remote.port, &["subscribe.1.remote_topic = in/#"]);
    let gateway = Gateway::start(&format!("limit.packet_size = 64KiB\n{text}"));
    assert_eq!(gateway.wait("bridge_down").text("reason"), "too_large");
    remote.wait("the reason", |seen| seen.iter().any(|s| matches!(s, Seen::Disconnect(0x95))));
}

#[test]
fn a_large_message_through_a_3_1_1_mosquitto_stops_nothing_behind_it() {
    let remote = Mosquitto::start_roomy();
    let rules = ["proto_ver = 4", "subscribe.1.remote_topic = in/#", "subscribe.1.qos = 2"];
    let text = bridge("up", remote.port, &rules);
    let gateway = Gateway::start(&format!("limit.packet_size = 64KiB\n{text}"));
    gateway.wait("bridge_up");
    let near = Collector::start(gateway.port, "near", "in/#");
    wait_until("the subscription", || remote.count_lines("Sending SUBACK to gw-up") > 0);
    let directory = Directory::new();
    let large = directory.write("large", &"x".repeat(100_000));
    let large = large.to_str().expect("a plain path");
    for qos in ["1", "2"] {
        mosquitto_pub(remote.port, &["-q", qos, "-t", "in/large", "-f", large]);
    }
    Publisher::numbered("far", "in/n", 2, 200).window(10).run(remote.port);
    assert_eq!(near.wait_all_in_order(200), 0);
    gateway.wait_stats("drops", |stats| stats.number("drops") == 2);
    assert!(gateway.events().iter().all(|event| event.name != "bridge_down"));
}

#[test]
fn two_gateways_that_forward_to_each_other_drain_when_both_were_full() {
    let ports = [free_port(), free_port()];
    let links = ports.map(|port| Proxy::start_in(Mode::Stall, port));
    // Each one's link ends at the other's listener.
    let small = format!("store.flush_after = 10ms\nring.messages = 64\n{ROOMY_SESSIONS}");
    let gateways = [(0, 1), (1, 0)].map(|(own, other)| {
        let topic = format!("forward.1.local_topic = from{own}/#");
        let listener = format!("listener.lan.url = mqtt://127.0.0.1:{}\n", ports[own]);
        let rules = [&topic[..], "max_messages = 50", "ack_timeout = 60s", "connect_timeout = 60s"];
        let text = bridge("peer", links[other].port, &rules);
        Gateway::start(&format!("{small}{listener}{text}"))
    });
    let near = [(0, 1), (1, 0)]
        .map(|(own, other)| Collector::start(ports[own], "near", &format!("from{other}/#")));
    let publishers: Vec<_> = (0..2)
        .flat_map(|own| [(own, 1), (own, 2)])
        .map(|(own, qos)| {
            let port = ports[own];
            let topic = format!("from{own}/{qos}");
            thread::spawn(move || Publisher::numbered(&topic, &topic, qos, 1000).run(port))
        })
        .collect();
    for gateway in &gateways {
        gateway.wait("backpressure_on");
    }
    // Blocked, and well.
    for port in ports {
        let mut client = Connect::v5("client").open(port);
        assert_eq!(client.subscribe(&[("free", 1)]), [1]);
        client.publish(&Message::new("free", "x").qos(1));
        assert_eq!(client.next().text(), "x");
    }
    for link in &links {
        link.set(Mode::Pass);
    }
    for publisher in publishers {
        publisher.join().expect("all is accepted");
    }
    for (own, other) in [(0, 1), (1, 0)] {
        near[own].wait_count(2000);
        for qos in 1..=2 {
            let topic = format!("from{other}/{qos}");
            let all = near[own].messages();
            let numbers = all.iter().filter(|m| m.topic == topic).map(|m| number_of(&m.payload));
            assert_eq!(numbers.collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>(), "{topic}");
        }
    }
}

#[test]
fn a_log_that_nobody_reads_is_counted_and_one_that_is_closed_stops_nothing() {
    let gateway = Gateway::prepare("log.level = debug\nlimit.subscriptions = 1");
    let mut command = Command::new(binary());
    command.arg("-c").arg(gateway.configuration_file()).env_remove("RUST_LOG");
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let port = gateway.port;
    let pipe = child.stderr.as_ref().expect("a pipe");
    // SAFETY: the descriptor is open; the pipe takes one page at a time from here on.
    assert!(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } >= 4096);
    wait_until("it listens", || dial(port).is_ok());
    // Three events, for each may fill the log up to a bound only.
    let noise = |round: usize| {
        for n in 0..600 {
            let mut client = Connect::v5(&format!("{round}-{n}-{}", "x".repeat(100))).open(port);
            client.subscribe(&[("a", 0), (&"b".repeat(90), 0)]);
        }
    };
    noise(0);
    let mut pipe = child.stderr.take().expect("a pipe");
    let (mut said, mut chunk) = (String::new(), [0; 4096]);
    wait_until("it says how much was lost", || {
        let count = pipe.read(&mut chunk).expect("it lives");
        said += &String::from_utf8_lossy(&chunk[..count]);
        said.contains("log_dropped=")
    });
    drop(pipe);
    noise(1);
    let mut client = Connect::v4("last").open(port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
    assert!(child.try_wait().expect("our child").is_none(), "it lives");
    child.kill().expect("our child");
    child.wait().expect("our child");
}

#[test]
fn a_window_of_1000_at_qos_2_is_served_and_one_that_is_never_released_ends() {
    let gateway = Gateway::start("store.flush_after = 10ms\nlimit.inflight = 64");
    let publish = |from: u16, to: u16| -> Vec<u8> {
        let one = |id| Message { id, ..Message::new("n", id.to_string()).qos(2) }.bytes(4);
        (from..=to).flat_map(one).collect()
    };
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("n", 1)]);
    let mut client = Connect::v4("client").persistent().open(gateway.port);
    client.send(&publish(1, 1000));
    for id in 1..=1000 {
        client.wait_ack(PUBREC, id);
    }
    for id in 1..=1000 {
        assert_eq!(watcher.next().text(), id.to_string());
    }
    client.send(&(1..=1000).flat_map(|id| wire::ack(PUBREL, id)).collect::<Vec<_>>());
    for id in 1..=1000 {
        client.wait_ack(PUBCOMP, id);
    }
    // Never released: so many and no more.
    client.send(&publish(1, 1024));
    for id in 1..=1024 {
        client.wait_ack(PUBREC, id);
    }
    client.send(&publish(1025, 1025));
    client.wait_closed();
    watcher.ping();
}

fn rss_kib(gateway: &Gateway) -> u64 {
    let status = format!("/proc/{}/status", gateway.process().id());
    let status = std::fs::read_to_string(status).expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn subscribers_that_never_read_cost_their_own_messages_and_nothing_else() {
    for store in ["store.max_bytes = 2MiB", "store.path = none"] {
        let quick = "store.flush_after = 10ms\nring.messages = 256\nring.bytes = 512KiB";
        let gateway = Gateway::start(&format!("{quick}\nlimit.packet_size = 16KiB\n{store}"));
        let mut deaf = Vec::new();
        for qos in 0..=2 {
            for n in 0..4 {
                let id = format!("deaf-{qos}-{n}");
                let mut client = Connect::new(4 + n % 2, &id).open(gateway.port);
                client.subscribe(&[("flood", qos)]);
                deaf.push(client);
            }
        }
        let mut reader = Connect::v4("reader").open(gateway.port);
        reader.subscribe(&[("free", 2)]);
        let flood = |count: usize| {
            for qos in 0..=2 {
                let plan = (0..count).map(|_| Message::new("flood", [b'x'; 2000]).qos(qos));
                if qos > 0 {
                    let connect = Connect::v4(&format!("flood-{qos}"));
                    Publisher::new(connect, 10, plan.collect()).run(gateway.port);
                } else {
                    let mut client = Connect::v4("flood-0").open(gateway.port);
                    plan.for_each(|message| client.send(&message.bytes(4)));
                    client.ping();
                }
            }
        };
        flood(2000);
        let before = rss_kib(&gateway);
        flood(1000);
        let after = rss_kib(&gateway);
        assert!(after <= before + 256, "{before} KiB, then {after} KiB");
        let mut other = Connect::v5("other").open(gateway.port);
        for qos in [1, 2] {
            other.publish(&Message::new("free", qos.to_string()).qos(qos));
            assert_eq!(reader.next().text(), qos.to_string());
        }
        // Best effort: the first may find no room, and makes some.
        wait_until("QoS 0 is served again", || {
            other.publish(&Message::new("free", "0"));
            other.ping();
            reader.next_within(Duration::from_millis(100)).is_some()
        });
        gateway.wait_stats("drops", |stats| stats.number("drops") > 0);
    }
}

#[test]
fn a_flood_of_silent_connections_passes_and_whoever_is_there_is_served() {
    let gateway = Gateway::start("limit.clients = 64");
    let mut here: Vec<_> =
        (0..63).map(|n| Connect::v4(&format!("here-{n}")).open(gateway.port)).collect();
    let mut silent: Vec<_> = (0..300).filter_map(|_| dial(gateway.port).ok()).collect();
    for stream in silent.iter_mut().step_by(3) {
        // A byte of a CONNECT, and never another.
        let _ = stream.write_all(&[0x10]);
    }
    for client in &mut here {
        client.ping();
    }
    here[0].subscribe(&[("t", 1)]);
    here[1].publish(&Message::new("t", "x").qos(1));
    assert_eq!(here[0].next().text(), "x");
    for stream in silent {
        Wire::new(stream, 4).read_to_the_end();
    }
    // They are gone: the place that is left can be had once the gateway knows, and it is the last.
    let mut last = None;
    wait_until("the last place is free", || {
        let opened = Connect::v4("last").try_open(gateway.port).ok();
        last = opened.filter(|client| client.connack.code == 0);
        last.is_some()
    });
    let mut last = last.expect("a client");
    last.ping();
    let refused = Connect::v5("refused").try_open(gateway.port).expect("a CONNACK");
    assert_eq!(refused.connack.code, 0x97);
}

#[test]
fn a_client_that_says_a_byte_at_a_time_holds_up_only_itself() {
    let gateway = Gateway::start("limit.large_buffers = 1");
    let mut slow = Connect::v4("slow").open(gateway.port);
    let message = Message { id: 7, ..Message::new("t", vec![b'x'; 40_000]).qos(1) }.bytes(4);
    let mut other = Connect::v4("other").open(gateway.port);
    other.subscribe(&[("t", 1)]);
    for byte in &message[..50] {
        slow.send(&[*byte]);
        other.ping();
    }
    // The one large buffer is not the slow one's while it has nothing to keep in it.
    assert_eq!(other.publish(&Message::new("t", vec![b'y'; 40_000]).qos(1)), 0);
    assert_eq!(other.next().payload.len(), 40_000);
    slow.send(&message[50..]);
    slow.wait_ack(PUBACK, 7);
    assert_eq!(other.next_within(Duration::from_secs(10)).expect("it came").payload[0], b'x');
}
