//! Whose session the identifiers of a bridge belong to: another server, a store that is new, a
//! crash with `ack = ring`. An identifier is never used again under a session that still knows it.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge, bridge_to};
use crate::common::mosquitto::Mosquitto;
use crate::common::number_of;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::turnstile::{Side, Stop, Turnstile, When};
use crate::common::wire::{
    self, Ack, Connect, Message, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, numbered_plan,
};
use std::collections::BTreeMap;
use std::time::Duration;

const RULES: [&str; 4] = [
    "forward.1.local_topic = up/#",
    "subscribe.1.remote_topic = down/#",
    "subscribe.1.qos = 2",
    "clientid = the-bridge",
];

/// A server that can stop at a packet and be refused.
struct Server {
    mosquitto: Mosquitto,
    turnstile: Turnstile,
    link: Proxy,
    collector: Collector,
}

impl Server {
    fn start(mode: Mode) -> Self {
        let mosquitto = Mosquitto::start();
        let turnstile = Turnstile::start(mosquitto.port);
        let link = Proxy::start_in(mode, turnstile.port);
        let collector = Collector::start(mosquitto.port, "far", "up/#");
        Self { mosquitto, turnstile, link, collector }
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.link.port)
    }

    /// Waits until the bridge has been let in, with its session or without.
    fn wait_met(&self, session: &str) {
        self.mosquitto.wait_line(&format!("Sending CONNACK to the-bridge ({session}, 0)"));
    }

    fn refuse(&self) {
        self.link.set(Mode::Refuse);
        self.turnstile.cut();
    }
}

/// How often each number has come, at any of the servers.
fn arrivals(servers: [&Server; 2]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for message in servers.iter().flat_map(|server| server.collector.messages()) {
        *counts.entry(number_of(&message.payload)).or_default() += 1;
    }
    counts
}

/// Where the first server goes away with exchanges open: each packet, before and after it passed.
fn stops() -> impl Iterator<Item = Stop> {
    [(Side::Near, PUBLISH), (Side::Far, PUBREC), (Side::Near, PUBREL), (Side::Far, PUBCOMP)]
        .into_iter()
        .flat_map(|(from, kind)| {
            [When::Before, When::After].map(|when| Stop { from, kind, nth: 2, when })
        })
}

fn over_and_back(level: u8, kill: bool) {
    let version = format!("proto_ver = {level}");
    for stop in stops() {
        println!("{level} {kill} {stop:?}");
        let (a, b) = (Server::start(Mode::Pass), Server::start(Mode::Refuse));
        let servers = format!("mqtt://{}, mqtt://{}", a.name(), b.name());
        let rules = [&RULES[..], &[&version, "max_inflight = 6"]].concat();
        let mut gateway = Gateway::start(&bridge_to("up", &servers, &rules));
        let near = Collector::start(gateway.port, "near", "down/#");
        gateway.wait_with("bridge_up", &[("server", &a.name())]);
        a.mosquitto.wait_line("Sending SUBACK to the-bridge");

        a.turnstile.arm(stop);
        let plan = numbered_plan("up/t", 2, 60);
        let mut publisher =
            Publisher::new(Connect::v4("publisher").persistent(), 6, plan).resuming();
        let port = gateway.port;
        let publish = |publisher: &mut Publisher, count: usize| {
            publisher.run_until(port, count).expect("accepted");
        };
        publish(&mut publisher, 10);
        a.turnstile.wait_reached();
        a.refuse();
        b.link.set(Mode::Pass);
        b.wait_met("0");
        let mut remote = Connect::v4("remote").open(a.mosquitto.port);
        remote.publish(&Message::new("down/t", "0").qos(2));
        publish(&mut publisher, 30);
        // Left in the middle of an exchange as well; after a kill it begins at the first again.
        b.turnstile.arm(Stop { nth: 1, ..stop });
        publish(&mut publisher, 40);
        b.turnstile.wait_reached();
        if kill {
            gateway.kill();
        }
        b.refuse();
        a.link.set(Mode::Pass);
        if kill {
            gateway.run();
        }
        // With the session it had there, and so with what came there meanwhile.
        a.wait_met("1");
        near.wait_count(1);
        publish(&mut publisher, 50);
        // And over again, where the other half was left open.
        b.link.set(Mode::Pass);
        a.refuse();
        b.wait_met("1");
        publish(&mut publisher, 60);
        crate::common::wait_until("all have come", || arrivals([&a, &b]).len() == 60);
        // Everything that was in flight at a change may be at both servers, nothing else.
        let twice = arrivals([&a, &b]).values().filter(|count| **count > 1).count();
        assert!(twice <= 3 * 6, "{stop:?}: {twice} came twice");
        assert_eq!(near.count(), 1);
    }
}

#[test]
fn what_is_open_at_a_server_stays_reserved_while_the_bridge_is_at_another() {
    for level in [4, 5] {
        over_and_back(level, false);
    }
}

#[test]
fn what_is_open_at_two_servers_is_known_after_a_kill() {
    for level in [4, 5] {
        over_and_back(level, true);
    }
}

/// A session that a bridge of this name had in an earlier life: identifiers 1 to 3 were published
/// there and never released.
fn earlier_life(port: u16) {
    let mut ghost = Connect::v4("the-bridge").persistent().open(port);
    for id in 1..=3 {
        let message = Message { id, ..Message::new("elsewhere", "old").qos(2) };
        ghost.send(&message.bytes(4));
        ghost.wait_ack(PUBREC, id);
    }
    ghost.vanish();
}

#[test]
fn a_store_that_never_met_the_session_begins_a_new_one_also_after_a_kill() {
    for version in ["proto_ver = 4", "proto_ver = 5"] {
        let remote = Server::start(Mode::Refuse);
        earlier_life(remote.mosquitto.port);
        let rules = [&RULES[..], &[version]].concat();
        let mut gateway = Gateway::start(&bridge("up", remote.link.port, &rules));
        Publisher::new(Connect::v4("publisher"), 3, numbered_plan("up/t", 2, 3)).run(gateway.port);
        // What waits is in the store now, and still nobody has met the remote.
        gateway.kill();
        gateway.run();
        remote.link.set(Mode::Pass);
        assert_eq!(remote.collector.wait_all_in_order(3), 0, "{version}");
        assert_eq!(gateway.wait("bridge_up").text("session_present"), "false");
    }
}

#[test]
fn another_client_id_is_another_session() {
    let remote = Server::start(Mode::Pass);
    let mut gateway = Gateway::start(&bridge("up", remote.link.port, &RULES));
    gateway.wait("bridge_up");
    gateway.stop();
    let renamed = [&RULES[..3], &["clientid = another"]].concat();
    gateway.configure(&bridge("up", remote.link.port, &renamed));
    // A session of that name is there, and it is not ours.
    let mut ghost = Connect::v4("another").persistent().open(remote.mosquitto.port);
    ghost.publish_without_waiting(&Message::new("elsewhere", "old").qos(2));
    ghost.wait_ack(PUBREC, 1);
    ghost.vanish();
    gateway.run();
    assert_eq!(gateway.wait("bridge_up").text("session_present"), "false");
}

#[test]
fn with_ack_ring_the_session_is_kept_over_a_clean_stop_and_given_up_after_a_crash() {
    for level in [4, 5] {
        let remote = Server::start(Mode::Pass);
        let version = format!("proto_ver = {level}");
        let rules = [&RULES[..], &[&version]].concat();
        let text = format!("ack = ring\n{}", bridge("up", remote.link.port, &rules));
        let mut gateway = Gateway::start(&text);
        gateway.wait("bridge_up");
        // Stopped with an exchange open: it is completed later, not begun anew.
        remote.turnstile.arm(Stop { from: Side::Far, kind: PUBREC, nth: 1, when: When::Before });
        let mut client = Connect::v4("client").open(gateway.port);
        client.publish(&Message::new("up/t", "0").qos(2));
        remote.turnstile.wait_reached();
        assert_eq!(gateway.stop().number("lost"), 0);
        remote.turnstile.cut();
        gateway.run();
        assert_eq!(gateway.wait("bridge_up").text("session_present"), "true", "{level}");
        let mut client = Connect::v4("client").open(gateway.port);
        client.publish(&Message::new("up/t", "1").qos(2));
        assert_eq!(remote.collector.wait_all_in_order(2), 0);
        gateway.kill();
        gateway.run();
        assert_eq!(gateway.wait("bridge_up").text("session_present"), "false", "{level}");
        let mut client = Connect::v4("client").open(gateway.port);
        client.publish(&Message::new("up/t", "2").qos(2));
        remote.collector.wait_all_in_order(3);
    }
}

#[test]
fn an_identifier_left_open_is_released_before_it_is_used_again() {
    let (a, b) = (Server::start(Mode::Pass), Server::start(Mode::Refuse));
    let servers = format!("mqtt://{}, mqtt://{}", a.name(), b.name());
    let gateway = Gateway::start(&bridge_to("up", &servers, &RULES));
    let mut near = Connect::v4("near").open(gateway.port);
    near.subscribe(&[("down/#", 0)]);
    gateway.wait_with("bridge_up", &[("server", &a.name())]);
    a.turnstile.arm(Stop { from: Side::Far, kind: PUBREC, nth: 1, when: When::Before });
    // A slow link: what has passed the turnstile has not arrived for long.
    b.link.delay(Duration::from_millis(50));
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish(&Message::new("up/t", "0").qos(2));
    a.turnstile.wait_reached();
    a.refuse();
    b.link.set(Mode::Pass);
    b.collector.wait_count(1);
    b.turnstile.wait_idle(Side::Near);
    // The PUBCOMP has passed, and is still on its way: what comes behind it has arrived after it.
    // Without it the message would be in doubt, and go to the first server under a new identifier.
    b.mosquitto.wait_line("Sending SUBACK to the-bridge");
    Connect::v4("remote").open(b.mosquitto.port).publish(&Message::new("down/t", "behind"));
    assert_eq!(near.next().text(), "behind");
    b.refuse();
    a.link.set(Mode::Pass);
    // The first server had it, and passes it on with its PUBREL: once at each.
    a.collector.wait_count(1);
    a.turnstile.wait_idle(Side::Near);
    client.publish(&Message::new("up/t", "1").qos(2));
    a.collector.wait_count(2);
    let counts = arrivals([&a, &b]);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(0, 2), (1, 1)]);
    let doubts = gateway.events().into_iter().filter(|event| event.name == "qos2_in_doubt");
    let doubts: Vec<u64> = doubts.map(|event| event.number("count")).collect();
    assert_eq!(doubts, [1], "only what the first server had");
}

/// The bridge's session is taken by another client of its name, in the middle of exchanges.
#[test]
fn a_take_over_loses_and_repeats_nothing() {
    for level in [4, 5] {
        let remote = Server::start(Mode::Pass);
        let version = format!("proto_ver = {level}");
        let rules = [&RULES[..], &[&version, "max_inflight = 6"]].concat();
        let gateway = Gateway::start(&bridge("up", remote.link.port, &rules));
        let near = Collector::start(gateway.port, "near", "down/#");
        gateway.wait("bridge_up");
        remote.mosquitto.wait_line("Sending SUBACK to the-bridge");
        let mut sent = 0;
        for stop in stops() {
            remote.turnstile.arm(stop);
            let plan = numbered_plan("up/t", 2, sent + 20).split_off(sent);
            let mut publisher =
                Publisher::new(Connect::v4("publisher").persistent(), 10, plan.clone());
            let port = gateway.port;
            let publishing = std::thread::spawn(move || publisher.persist(port));
            let down = plan.iter().map(|m| Message { topic: "down/t".to_owned(), ..m.clone() });
            let mut back = Publisher::new(Connect::v4("remote"), 5, down.collect());
            let port = remote.mosquitto.port;
            let publishing_back = std::thread::spawn(move || back.persist(port));
            remote.turnstile.wait_reached();
            // It takes the session over and goes without having answered anything.
            let mut thief = Connect::new(level, "the-bridge").persistent();
            if level == 4 {
                thief.level = 0x84;
            }
            let mut thief = thief.try_open(remote.mosquitto.port).expect("a CONNACK");
            assert!(thief.connack.session_present);
            thief.acknowledges = false;
            // All that is open was sent to it: mosquitto forgets PUBRECs that it had before if a
            // connection ends sooner.
            thief.ping();
            thief.vanish();
            remote.turnstile.cut();
            publishing.join().expect("published");
            publishing_back.join().expect("published");
            sent += 20;
            assert_eq!(remote.collector.wait_all_in_order(sent), 0, "{level} {stop:?}");
            assert_eq!(near.wait_all_in_order(sent), 0, "{level} {stop:?}");
            remote.turnstile.wait_idle(Side::Near);
        }
    }
}

/// The remote stops cleanly with exchanges open and comes back with the sessions it has saved.
#[test]
fn a_restart_of_the_remote_repeats_nothing_when_it_keeps_the_session() {
    for level in [4, 5] {
        for stop in stops() {
            let mut remote = Mosquitto::start_persistent();
            let turnstile = Turnstile::start(remote.port);
            let far = Collector::start(remote.port, "far", "up/#");
            let version = format!("proto_ver = {level}");
            let rules = [&RULES[..], &[&version, "max_inflight = 6"]].concat();
            let gateway = Gateway::start(&bridge("up", turnstile.port, &rules));
            gateway.wait("bridge_up");
            turnstile.arm(stop);
            let mut publisher =
                Publisher::new(Connect::v4("publisher"), 10, numbered_plan("up/t", 2, 30));
            let port = gateway.port;
            let publishing = std::thread::spawn(move || publisher.persist(port));
            turnstile.wait_reached();
            let mark = gateway.mark();
            remote.stop();
            remote.run();
            turnstile.cut();
            publishing.join().expect("published");
            let twice = far.wait_all_in_order(30);
            let present =
                gateway.wait_from(mark, "bridge_up", &[]).text("session_present").to_owned();
            // mosquitto lets sessions of MQTT 5 clients that were connected expire as it starts.
            assert!(level == 5 || present == "true", "{stop:?}");
            let most = if present == "true" { 0 } else { 6 };
            assert!(twice <= most, "{level} {stop:?}: {twice} came twice");
        }
    }
}

/// A remote that says session present = 0: what was in flight comes again, nothing is lost.
#[test]
fn a_session_that_is_gone_repeats_at_most_a_window() {
    for level in [4, 5] {
        let remote = Server::start(Mode::Pass);
        let version = format!("proto_ver = {level}");
        let rules = [&RULES[..], &[&version, "max_inflight = 6"]].concat();
        let gateway = Gateway::start(&bridge("up", remote.link.port, &rules));
        gateway.wait("bridge_up");
        let (mut sent, mut before) = (0, 0);
        for stop in stops() {
            remote.turnstile.arm(stop);
            let plan = numbered_plan("up/t", 2, sent + 20).split_off(sent);
            let mut publisher = Publisher::new(Connect::v4("publisher"), 10, plan);
            let port = gateway.port;
            let publishing = std::thread::spawn(move || publisher.persist(port));
            remote.turnstile.wait_reached();
            // Somebody clears the session.
            let mut cleared = Connect::new(level, "the-bridge");
            if level == 4 {
                cleared.level = 0x84;
            }
            cleared.try_open(remote.mosquitto.port).expect("a CONNACK").vanish();
            remote.turnstile.cut();
            publishing.join().expect("published");
            sent += 20;
            let twice = remote.collector.wait_all_in_order(sent);
            assert!(twice - before <= 6, "{level} {stop:?}: {} came twice", twice - before);
            before = twice;
        }
    }
}

#[test]
fn a_released_identifier_is_no_new_message() {
    // PUBREL for an identifier that the gateway never saw is answered and delivers nothing.
    let gateway = Gateway::start("");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("#", 2)]);
    let mut client = Connect::v5("client").open(gateway.port);
    client.send(&wire::ack(PUBREL, 9));
    let code = client.wait("PUBCOMP", |packet| match packet {
        Packet::Ack(Ack { kind: PUBCOMP, id: 9, code }) => Some(*code),
        _ => None,
    });
    assert_eq!(code, 0x92);
    client.publish(&Message::new("t", "last").qos(2));
    assert_eq!(watcher.until("last"), []);
}
