//! Links that break in every way while messages flow: nothing accepted is lost, QoS 2 comes once,
//! order holds.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy, SynHole};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};
use std::thread;
use std::time::{Duration, Instant};

/// A full window may be sent again after each break.
const WINDOW: usize = 64;

const RULES: [&str; 3] = ["forward.1.local_topic = n/#", "keepalive = 2s", "ack_timeout = 2s"];

/// Numbered messages at QoS 1 and at QoS 2 flow through a link that `harm` breaks and must heal
/// again; `breaks` is how often a connection may have been lost.
fn survives(version: &str, breaks: usize, harm: impl FnOnce(&Gateway, &Proxy, &Collector)) {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start(remote.port);
    let proto = format!("proto_ver = {version}");
    let rules: Vec<&str> = RULES.into_iter().chain([proto.as_str()]).collect();
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    gateway.wait("bridge_up");
    let one = Collector::start(remote.port, "far-1", "n/1");
    let two = Collector::start(remote.port, "far-2", "n/2");
    let port = gateway.port;
    let publish = |qos: u8| {
        thread::spawn(move || {
            let topic = format!("n/{qos}");
            Publisher::numbered(&format!("publisher-{qos}"), &topic, qos, 3000).run(port);
        })
    };
    let publishers = [publish(1), publish(2)];
    one.wait_count(100);
    harm(&gateway, &link, &two);
    for publisher in publishers {
        publisher.join().expect("all is accepted");
    }
    let again = one.wait_all_in_order(3000);
    assert!(again <= breaks * WINDOW, "{again} duplicates at QoS 1 after {breaks} breaks");
    assert_eq!(two.wait_all_in_order(3000), 0, "duplicates at QoS 2");
}

/// Breaks the link, waits until the gateway has noticed, heals it.
fn noticed(gateway: &Gateway, link: &Proxy, mode: Mode) {
    let mark = gateway.mark();
    link.set(mode);
    let down = gateway.wait_from(mark, "bridge_down", &[("bridge", "up")]);
    assert!(down.has("reason") && down.has("retry_in_ms"), "{}", down.line);
    link.set(Mode::Pass);
    gateway.wait_from(mark, "bridge_up", &[("bridge", "up")]);
}

#[test]
fn a_refused_link() {
    survives("5", 1, |gateway, link, _| noticed(gateway, link, Mode::Refuse));
}

#[test]
fn a_reset_link() {
    survives("4", 1, |gateway, link, _| noticed(gateway, link, Mode::Reset));
}

#[test]
fn a_black_holed_link() {
    survives("5", 1, |gateway, link, _| noticed(gateway, link, Mode::BlackHole));
}

#[test]
fn a_black_holed_link_to_a_3_1_1_remote() {
    survives("4", 1, |gateway, link, _| noticed(gateway, link, Mode::BlackHole));
}

#[test]
fn a_half_open_link() {
    survives("5", 1, |gateway, link, _| noticed(gateway, link, Mode::HalfOpen));
}

#[test]
fn a_link_whose_answers_are_lost() {
    survives("5", 1, |gateway, link, _| noticed(gateway, link, Mode::Deaf));
}

#[test]
fn a_link_that_stalls_and_goes_on() {
    survives("4", 1, |gateway, link, two| {
        link.set(Mode::Stall);
        let before = two.count();
        // Longer than a round trip, shorter than any time-out.
        thread::sleep(Duration::from_millis(500));
        link.set(Mode::Pass);
        two.wait_count(before + 200);
        assert!(gateway.events().iter().all(|event| event.name != "bridge_down"));
    });
}

#[test]
fn a_link_whose_packets_are_dropped_for_long() {
    survives("5", 1, |gateway, link, _| noticed(gateway, link, Mode::Stall));
}

#[test]
fn a_link_that_flaps() {
    let modes = [Mode::Reset, Mode::Refuse, Mode::Deaf, Mode::Reset];
    survives("5", 12, |gateway, link, _| {
        for n in 0..12 {
            noticed(gateway, link, modes[n % modes.len()]);
        }
    });
}

#[test]
fn what_comes_in_survives_too() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start(remote.port);
    let rules = [
        "subscribe.1.remote_topic = n/#",
        "subscribe.1.qos = 2",
        "keepalive = 2s",
        "ack_timeout = 2s",
    ];
    let gateway = Gateway::start(&(ROOMY_SESSIONS.to_owned() + &bridge("up", link.port, &rules)));
    gateway.wait("bridge_up");
    remote.wait_line("Sending SUBACK");
    let near = Collector::start(gateway.port, "near", "n/#");
    let port = remote.port;
    let publisher = thread::spawn(move || {
        Publisher::numbered("publisher", "n/2", 2, 3000).window(15).run(port)
    });
    near.wait_count(100);
    for mode in [Mode::Reset, Mode::BlackHole, Mode::Deaf] {
        noticed(&gateway, &link, mode);
    }
    publisher.join().expect("all is accepted");
    assert_eq!(near.wait_all_in_order(3000), 0, "duplicates at QoS 2");
}

#[test]
fn a_remote_that_is_stopped_and_goes_on() {
    let remote = Mosquitto::start_roomy();
    let far = Collector::start(remote.port, "far", "n/2");
    let gateway = Gateway::start(&bridge("up", remote.port, &RULES));
    gateway.wait("bridge_up");
    let port = gateway.port;
    let publisher =
        thread::spawn(move || Publisher::numbered("publisher", "n/2", 2, 3000).run(port));
    far.wait_count(100);
    remote.freeze();
    gateway.wait("bridge_down");
    publisher.join().expect("all is accepted while the remote is stopped");
    remote.thaw();
    assert_eq!(far.wait_all_in_order(3000), 0, "duplicates at QoS 2");
}

#[test]
fn a_remote_that_restarts_with_its_session() {
    for version in ["4", "5"] {
        let mut remote = Mosquitto::start_with("persistence true\nmax_queued_messages 0\n");
        let far = Collector::start(remote.port, "far", "n/2");
        let link = Proxy::start(remote.port);
        let proto = format!("proto_ver = {version}");
        let rules: Vec<&str> = RULES.into_iter().chain([proto.as_str()]).collect();
        let gateway = Gateway::start(&bridge("up", link.port, &rules));
        gateway.wait("bridge_up");
        // mosquitto 2.0 writes down only sessions whose last CONNECT had Clean Start = 0.
        noticed(&gateway, &link, Mode::Reset);
        let port = gateway.port;
        let publisher =
            thread::spawn(move || Publisher::numbered("publisher", "n/2", 2, 3000).run(port));
        far.wait_count(100);
        let mark = gateway.mark();
        // mosquitto has messages from us that it has not released, and it has nothing under way
        // to the subscriber: that it would deliver a second time after its restart.
        link.set(Mode::Deaf);
        gateway.wait_from(mark, "bridge_down", &[]);
        crate::common::wait_until("mosquitto has delivered what it had", || {
            let (out, done) = ("Sending PUBLISH to far", "Received PUBCOMP from far");
            remote.count_lines(out) == remote.count_lines(done)
        });
        remote.stop();
        remote.run();
        let mark = gateway.mark();
        link.set(Mode::Pass);
        let up = gateway.wait_from(mark, "bridge_up", &[]);
        assert_eq!(up.text("session_present"), "true");
        publisher.join().expect("all is accepted");
        assert_eq!(far.wait_all_in_order(3000), 0, "duplicates at QoS 2, version {version}");
    }
}

#[test]
fn a_remote_that_restarts_without_its_session() {
    let mut remote = Mosquitto::start_roomy();
    let link = Proxy::start(remote.port);
    let gateway = Gateway::start(&bridge("up", link.port, &RULES));
    gateway.wait("bridge_up");
    let far = Collector::start(remote.port, "far", "n/2");
    let port = gateway.port;
    // In two halves: what mosquitto had acknowledged and not delivered when it is killed is its
    // loss, so it is killed when it has delivered everything.
    Publisher::numbered("publisher", "n/2", 2, 500).run(port);
    assert_eq!(far.wait_all_in_order(500), 0);
    gateway.wait_bridge_stats("up", "all completed", |b| b.number("inflight") == 0);
    link.set(Mode::Deaf);
    // These arrive and are never acknowledged: when the session is gone nobody can tell.
    let plan: Vec<Message> =
        (500..520).map(|n: usize| Message::new("n/2", n.to_string()).qos(2)).collect();
    let mut publisher = Publisher::new(Connect::v4("publisher-2"), 20, plan);
    publisher.run(port);
    remote.kill();
    link.set(Mode::Refuse);
    remote.run();
    far.wait_subscribed(2);
    let mark = gateway.mark();
    link.set(Mode::Pass);
    let up = gateway.wait_from(mark, "bridge_up", &[]);
    assert_eq!(up.text("session_present"), "false");
    let doubt = gateway.wait("qos2_in_doubt");
    assert!(doubt.number("count") <= 20, "{}", doubt.line);
    let again = far.wait_all_in_order(520);
    assert!(again <= 20, "{again} duplicates after the session was lost");
}

#[test]
fn subscriptions_return_after_a_remote_lost_its_session() {
    let mut remote = Mosquitto::start_roomy();
    let gateway = Gateway::start(&bridge("up", remote.port, &["subscribe.1.remote_topic = in/#"]));
    gateway.wait("bridge_up");
    remote.wait_line("Sending SUBACK");
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("in/#", 1)]);
    remote.kill();
    gateway.wait("bridge_down");
    remote.run();
    remote.wait_line("Sending SUBACK");
    Connect::v4("far").open(remote.port).publish(&Message::new("in/a", "back").qos(1));
    assert_eq!(near.next().text(), "back");
}

/// Publishes to itself through the gateway, one round trip after the other, until `done`;
/// the longest one.
fn round_trips(port: u16, mut done: impl FnMut() -> bool) -> Duration {
    let mut client = Connect::v5("round-trips").open(port);
    client.subscribe(&[("local", 2)]);
    let mut longest = Duration::ZERO;
    let (mut count, began) = (0_u32, Instant::now());
    while count < 200 || !done() {
        assert!(began.elapsed() < crate::common::PATIENCE, "never done");
        let before = Instant::now();
        client.publish(&Message::new("local", count.to_string()).qos(if count % 2 == 0 {
            1
        } else {
            2
        }));
        let back = client.next_within(crate::common::PATIENCE).map(|message| message.text());
        assert_eq!(back, Some(count.to_string()), "round trip");
        longest = longest.max(before.elapsed());
        count += 1;
        if count % 4 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    println!("{count} round trips, the longest {longest:?}");
    longest
}

#[test]
fn a_dead_bridge_harms_neither_a_live_one_nor_local_clients() {
    let remote = Mosquitto::start_roomy();
    let hole = SynHole::start();
    let mute = Proxy::start_in(Mode::BlackHole, remote.port);
    let refused = Proxy::start_in(Mode::Refuse, remote.port);
    for (what, port) in [("SYN", hole.port), ("CONNACK", mute.port), ("refused", refused.port)] {
        let far = Collector::start(remote.port, &format!("far-{what}"), "n/#");
        let gateway = Gateway::start(&format!(
            "{}{}",
            bridge("dead", port, &["forward.1.local_topic = n/#", "connect_timeout = 1s"]),
            bridge("live", remote.port, &["forward.1.local_topic = n/#"])
        ));
        gateway.wait_with("bridge_up", &[("bridge", "live")]);
        let port = gateway.port;
        let publisher =
            thread::spawn(move || Publisher::numbered("publisher", "n/2", 2, 2000).run(port));
        let mut downs = 0;
        let longest = round_trips(port, || {
            downs = gateway.events().iter().filter(|e| e.name == "bridge_down").count();
            publisher.is_finished() && downs >= 2
        });
        assert!(longest < Duration::from_secs(1), "{what}: a local round trip took {longest:?}");
        publisher.join().expect("all is accepted");
        assert_eq!(far.wait_all_in_order(2000), 0, "{what}");
        let downs = gateway.events().into_iter().filter(|e| e.name == "bridge_down");
        assert!(downs.map(|e| e.text("bridge").to_owned()).all(|name| name == "dead"), "{what}");
    }
}

#[test]
fn a_flood_for_a_dead_bridge_takes_no_qos_0_from_local_clients() {
    let refused = Proxy::start_in(Mode::Refuse, 9);
    let gateway = Gateway::start(&bridge("dead", refused.port, &["forward.1.local_topic = n/#"]));
    let port = gateway.port;
    let publisher =
        thread::spawn(move || Publisher::numbered("publisher", "n/1", 1, 5000).run(port));
    let mut client = Connect::v4("client").open(port);
    client.subscribe(&[("local", 0)]);
    let mut lost = Vec::new();
    while !publisher.is_finished() {
        for n in 0..20 {
            client.publish(&Message::new("local", n.to_string()));
            if client.next_within(Duration::from_secs(5)).map(|m| m.text()) != Some(n.to_string()) {
                lost.push(n);
            }
        }
    }
    publisher.join().expect("all is accepted");
    assert!(lost.is_empty(), "lost at QoS 0: {lost:?}; {} dropped", gateway.dropped("queue_full"));
}

#[test]
fn a_connection_that_hangs_in_its_syn_or_its_connack_is_given_up() {
    let remote = Mosquitto::start_roomy();
    let hole = SynHole::start();
    let mute = Proxy::start_in(Mode::BlackHole, remote.port);
    for port in [hole.port, mute.port] {
        let rules = ["forward.1.local_topic = #", "connect_timeout = 1s"];
        let gateway = Gateway::start(&bridge("up", port, &rules));
        let before = Instant::now();
        let down = gateway.wait("bridge_down");
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        assert!(
            down.text("reason").contains("timed_out") || down.text("reason").contains("timeout")
        );
        // And tried again.
        gateway.wait_from(gateway.mark(), "bridge_connecting", &[]);
    }
}

#[test]
fn pings_and_subscriptions_do_not_wait_behind_a_backlog() {
    // A link so slow that the backlog takes far longer than the keepalive.
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    link.delay(Duration::from_millis(100));
    let rules = [
        "forward.1.local_topic = n/#",
        "subscribe.1.remote_topic = in/#",
        "keepalive = 1s",
        "max_inflight = 8",
    ];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    Publisher::numbered("publisher", "n/1", 1, 200).run(gateway.port);
    let far = Collector::start(remote.port, "far", "n/#");
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("in/#", 1)]);
    link.set(Mode::Pass);
    gateway.wait("bridge_up");
    remote.wait_line("Sending SUBACK to gw-up");
    Connect::v4("other").open(remote.port).publish(&Message::new("in/a", "x").qos(1));
    assert_eq!(near.next().text(), "x");
    assert!(far.count() < 200, "the backlog was through first");
    assert_eq!(far.wait_all_in_order(200), 0);
    let up = gateway.events().iter().filter(|event| event.name == "bridge_up").count();
    assert_eq!(up, 1, "the link was lost in between");
}
