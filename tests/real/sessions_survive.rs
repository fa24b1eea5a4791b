//! What a session was promised is there after a kill: its subscriptions as soon as the SUBACK left,
//! its queue in order, its end as well as its life. "Subscriptions wrongly deleted, offline
//! messages missing" is what people complain about elsewhere.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS};
use crate::common::publisher::Publisher;
use crate::common::turnstile::{Side, Stop, Turnstile, When};
use crate::common::wire::{
    self, Ack, Connect, Message, PUBREC, PUBREL, Packet, SESSION_EXPIRY, numbered_plan,
};
use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::thread;

const CONNACK: u8 = 2;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;

/// Kills the gateway right after it has said `kind` to a client that does `act`.
fn kill_after(
    gateway: &mut Gateway,
    link: &Turnstile,
    kind: u8,
    act: impl FnOnce(u16) + Send + 'static,
) {
    link.arm(Stop { from: Side::Far, kind, nth: 1, when: When::After });
    let port = link.port;
    let acting = thread::spawn(move || act(port));
    link.wait_reached();
    gateway.kill();
    link.cut();
    gateway.run();
    acting.join().expect("it heard the answer");
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::text).collect()
}

/// What waits for a session that must be there, up to a last message published now.
fn waiting_for(gateway: &Gateway, session: &Connect, last_topic: &str) -> Vec<String> {
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    publisher.publish(&Message::new(last_topic, "last").qos(1));
    let mut client = session.open(gateway.port);
    assert!(client.connack.session_present, "{session:?}");
    let waiting = texts(&client.until("last"));
    client.disconnect();
    waiting
}

#[test]
fn a_subscription_is_durable_before_its_suback() {
    let mut gateway = Gateway::start("store.flush_after = 20ms");
    let link = Turnstile::start(gateway.port);
    for level in [4, 5] {
        let session = Connect::new(level, &format!("client-{level}")).persistent();
        session.open(gateway.port).disconnect();
        for n in 0..8 {
            let (connect, topic) = (session.clone(), format!("topic/{n}"));
            let filter = topic.clone();
            kill_after(&mut gateway, &link, SUBACK, move |port| {
                connect.open(port).subscribe(&[(&filter, 1)]);
            });
            assert_eq!(waiting_for(&gateway, &session, &topic), Vec::<String>::new());
        }
        // None of them has pushed another one out.
        for n in 0..8 {
            waiting_for(&gateway, &session, &format!("topic/{n}"));
        }
    }
}

#[test]
fn an_unsubscription_is_durable_before_its_unsuback() {
    let mut gateway = Gateway::start("store.flush_after = 20ms");
    let link = Turnstile::start(gateway.port);
    for level in [4, 5] {
        let session = Connect::new(level, &format!("client-{level}")).persistent();
        let mut client = session.open(gateway.port);
        client.subscribe(&[("a/b", 2), ("a/+", 1), ("end", 1)]);
        client.disconnect();
        let connect = session.clone();
        kill_after(&mut gateway, &link, UNSUBACK, move |port| {
            connect.open(port).unsubscribe("a/b");
        });
        let mut publisher = Connect::v4("other").open(gateway.port);
        // The filter that overlaps is still there, with its own QoS.
        publisher.publish(&Message::new("a/b", "one").qos(2));
        assert_eq!(waiting_for(&gateway, &session, "end"), ["one"]);
        let connect = session.clone();
        kill_after(&mut gateway, &link, UNSUBACK, move |port| {
            connect.open(port).unsubscribe("a/+");
        });
        let mut publisher = Connect::v4("other").open(gateway.port);
        publisher.publish(&Message::new("a/b", "two").qos(2));
        assert_eq!(waiting_for(&gateway, &session, "end"), Vec::<String>::new());
    }
}

#[test]
fn a_session_is_durable_with_its_first_subscription_and_so_is_its_end() {
    let mut gateway = Gateway::start("store.flush_after = 20ms");
    let link = Turnstile::start(gateway.port);
    for level in [4, 5] {
        for n in 0..4 {
            let session = Connect::new(level, &format!("client-{level}-{n}")).persistent();
            let connect = session.clone();
            // A client that has not spoken yet may be told again that its session is new.
            kill_after(&mut gateway, &link, SUBACK, move |port| {
                let mut client = connect.open(port);
                assert!(!client.connack.session_present);
                client.subscribe(&[("t", 1)]);
            });
            let mut client = session.open(gateway.port);
            assert!(client.connack.session_present, "{session:?}");
            client.subscribe(&[("t", 1)]);
            client.disconnect();
            Connect::v4("publisher").open(gateway.port).publish(&Message::new("t", "old").qos(1));
            // A clean start ends it, and it does not come back from the dead.
            let connect = Connect::new(level, &session.id);
            kill_after(&mut gateway, &link, CONNACK, move |port| {
                assert!(!connect.open(port).connack.session_present);
            });
            let mut client = session.open(gateway.port);
            assert!(!client.connack.session_present);
            client.subscribe(&[("end", 1)]);
            client.publish(&Message::new("t", "none").qos(1));
            client.publish(&Message::new("end", "last").qos(1));
            assert_eq!(client.until("last"), []);
            client.disconnect();
        }
    }
}

#[test]
fn an_expiry_changed_at_the_end_counts_after_a_kill() {
    let mut gateway = Gateway::start("store.flush_after = 20ms");
    let session = |id: &str| Connect::v5(id).persistent();
    for id in ["ended", "kept"] {
        let mut client = session(id).open(gateway.port);
        client.subscribe(&[("t", 1)]);
        let expiry: u32 = if id == "ended" { 0 } else { 7200 };
        let property = (SESSION_EXPIRY, expiry.to_be_bytes().to_vec());
        client.send(&wire::packet(0xE0, &[&[0][..], &wire::properties(&[property])].concat()));
        client.wait_closed();
    }
    // The close above came from a turn whose commit is done.
    gateway.kill();
    gateway.run();
    assert!(!session("ended").open(gateway.port).connack.session_present);
    assert!(session("kept").open(gateway.port).connack.session_present);
}

#[test]
fn what_was_subscribed_before_costs_no_flash() {
    let gateway = Gateway::start("store.flush_after = 20ms");
    let session = Connect::v4("client").persistent();
    let subscribe = || {
        let mut client = session.open(gateway.port);
        client.subscribe(&[("a/#", 1), ("b/+", 2)]);
        client.disconnect();
        let mut clean = Connect::v4("clean").open(gateway.port);
        clean.subscribe(&[("c", 1)]);
        clean.disconnect();
    };
    subscribe();
    let written = || gateway.wait_stats("any", |_| true).number("store_written_bytes");
    // What the first subscription left for later is written as well.
    let mut before = written();
    crate::common::wait_until("the store is quiet", || {
        let now = written();
        std::mem::replace(&mut before, now) == now
    });
    for _ in 0..20 {
        subscribe();
    }
    assert_eq!(written(), before);
}

/// Subscribes `count` sessions of both versions, each to all of `all/#` and to its own topic.
fn many_sessions(gateway: &Gateway, count: usize) -> Vec<Connect> {
    let sessions = (0..count).map(|n| {
        let level = if n % 2 == 0 { 4 } else { 5 };
        Connect::new(level, &format!("session-{n:03}")).persistent()
    });
    let sessions: Vec<Connect> = sessions.collect();
    for (n, session) in sessions.iter().enumerate() {
        let mut client = session.open(gateway.port);
        assert!(!client.connack.session_present);
        client.subscribe(&[("all/#", 2), (&format!("own/{n}"), 1)]);
        client.disconnect();
    }
    sessions
}

#[test]
fn a_hundred_sessions_get_everything_in_order_over_kills() {
    const SESSIONS: usize = 100;
    const ROUNDS: usize = 4;
    let roomy = format!(
        "store.flush_after = 20ms\nlimit.inflight = 16\nring.messages = 256\n{ROOMY_SESSIONS}"
    );
    let mut gateway = Gateway::start(&roomy);
    let sessions = many_sessions(&gateway, SESSIONS);
    let publisher = Connect::v4("publisher").persistent();
    for round in 0..ROUNDS {
        let shared = (0..10).map(|n| {
            let qos = if n % 2 == 0 { 1 } else { 2 };
            Message::new("all/x", (round * 10 + n).to_string()).qos(qos)
        });
        let own =
            (0..SESSIONS).map(|n| Message::new(&format!("own/{n}"), format!("o{round}")).qos(2));
        let plan = shared.chain(own).collect();
        let mut publisher = Publisher::new(publisher.clone(), 16, plan);
        let port = gateway.port;
        let publishing = thread::spawn(move || publisher.persist(port));
        if round % 2 == 0 {
            gateway.wait_stats("something is stored", |stats| stats.number("store_msgs") > 0);
            gateway.kill();
            gateway.run();
        }
        publishing.join().expect("accepted");
        // The next round's kill comes when all were offline, this one's in the middle.
        gateway.kill();
        gateway.run();
    }
    Connect::v4("last").open(gateway.port).publish(&Message::new("all/x", "last").qos(2));
    for (n, session) in sessions.iter().enumerate() {
        let mut client = session.open(gateway.port);
        assert!(client.connack.session_present, "{session:?}");
        let mut got = client.until("last");
        // QoS 1 may come twice where its publisher had to ask again.
        let mut seen = BTreeSet::new();
        got.retain(|m| seen.insert((m.topic.clone(), m.payload.clone())) || m.qos == 2);
        let of = |topic: &str| -> Vec<String> {
            got.iter().filter(|m| m.topic == topic).map(Message::text).collect()
        };
        let all: Vec<String> = (0..ROUNDS * 10).map(|n| n.to_string()).collect();
        assert_eq!(of("all/x"), all, "session {n}");
        let own: Vec<String> = (0..ROUNDS).map(|round| format!("o{round}")).collect();
        assert_eq!(of(&format!("own/{n}")), own, "session {n}");
        client.disconnect();
    }
}

/// `mosquitto_sub` to its end, with a session that is kept.
fn sub(port: u16, version: &str, more: &[&str]) -> Output {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-V", version]);
    command.args(["-c", "-i", version, "-q", "2", "-t", "n"]);
    if version == "mqttv5" {
        command.args(["-x", "3600"]);
    }
    command.args(more).output().expect("mosquitto_sub is installed")
}

#[test]
fn mosquittos_own_client_gets_what_it_missed() {
    let mut gateway = Gateway::start(ROOMY_SESSIONS);
    for version in ["mqttv311", "mqttv5"] {
        // -E: subscribes and goes.
        assert!(sub(gateway.port, version, &["-E"]).status.success());
        // All at QoS 2: mosquitto_sub prints such a message with its PUBREL, one of QoS 1 at once.
        let mut plan = numbered_plan("n", 2, 300);
        let later = plan.split_off(150);
        Publisher::new(Connect::v4("p"), 20, plan).run(gateway.port);
        gateway.kill();
        gateway.run();
        Publisher::new(Connect::v4("p"), 20, later).run(gateway.port);
        gateway.kill();
        gateway.run();
        let output = sub(gateway.port, version, &["-C", "300", "-W", "30"]);
        let text = String::from_utf8(output.stdout).expect("numbers");
        let expected: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{version}");
    }
}

/// The subscriber is cut off, taken over by a client of its name and met by kills, again and again.
#[test]
fn a_storm_of_reconnects_loses_and_repeats_nothing() {
    for level in [4, 5] {
        let mut gateway = Gateway::start(&format!("store.flush_after = 20ms\n{ROOMY_SESSIONS}"));
        let link = Turnstile::start(gateway.port);
        let session = Connect::new(level, "subscriber").persistent();
        let collector = Collector::start_with(link.port, session.clone(), "n", 2);
        let count = 3000;
        let mut publisher = Publisher::new(
            Connect::new(level, "publisher").persistent(),
            20,
            numbered_plan("n", 2, count),
        )
        .resuming();
        let port = link.port;
        let publishing = thread::spawn(move || publisher.persist(port));
        let mut storms = 0;
        while !publishing.is_finished() {
            let before = collector.count();
            match storms % 8 {
                7 => {
                    gateway.kill();
                    link.cut();
                    gateway.run();
                }
                3 | 5 => {
                    // Takes the session, hears some of it and goes without a word.
                    if let Ok(mut thief) = session.try_open(gateway.port) {
                        thief.acknowledges = false;
                        assert!(thief.connack.session_present);
                        thief.vanish();
                    }
                }
                _ => link.cut(),
            }
            storms += 1;
            collector.wait("it goes on", |all| all.len() > before || all.len() == count);
        }
        publishing.join().expect("accepted");
        assert_eq!(collector.wait_all_in_order(count), 0, "{level}: after {storms} storms");
        assert!(storms > 16, "only {storms} storms");
    }
}

#[test]
fn a_queue_at_its_quota_keeps_its_newest_over_a_kill() {
    let mut gateway = Gateway::start("session.max_messages = 40");
    for level in [4, 5] {
        let session = Connect::new(level, "kept").persistent();
        let mut client = session.open(gateway.port);
        client.subscribe(&[("n", 2)]);
        client.disconnect();
        Publisher::new(Connect::v4("p"), 20, numbered_plan("n", 2, 100)).run(gateway.port);
        gateway.kill();
        gateway.run();
        let mut client = session.open(gateway.port);
        assert!(client.connack.session_present);
        let got: Vec<String> = (0..40).map(|_| client.next().text()).collect();
        assert_eq!(got, (60..100).map(|n| n.to_string()).collect::<Vec<_>>());
        client.disconnect();
        Connect::new(level, "kept").open(gateway.port).disconnect();
    }
}

#[test]
fn an_exchange_with_an_absent_session_is_completed_after_a_kill() {
    let mut gateway = Gateway::start("store.flush_after = 20ms");
    for level in [4, 5] {
        let session = Connect::new(level, &format!("client-{level}")).persistent();
        let mut client = session.open(gateway.port);
        client.subscribe(&[("n", 2)]);
        client.acknowledges = false;
        Connect::v4("p").open(gateway.port).publish(&Message::new("n", "x").qos(2));
        let message = client.next();
        client.send(&wire::ack(PUBREC, message.id));
        let released = |packet: &Packet| match packet {
            Packet::Ack(Ack { kind: PUBREL, id, .. }) => Some(*id),
            Packet::Publish(message) => panic!("again: {message:?}"),
            _ => None,
        };
        assert_eq!(client.wait("PUBREL", released), message.id);
        client.vanish();
        for _ in 0..2 {
            gateway.kill();
            gateway.run();
        }
        let mut client = session.open(gateway.port);
        assert!(client.connack.session_present);
        assert_eq!(client.wait("PUBREL", released), message.id);
    }
}

#[test]
fn retained_messages_and_sessions_come_back_together() {
    let mut gateway = Gateway::start("store.retained_after = 0s");
    let mut client = Connect::v4("p").open(gateway.port);
    for n in 0..50 {
        let message = Message::new(&format!("r/{n}"), n.to_string()).qos(1).retained();
        client.publish(&message);
    }
    client.publish(&Message::new("r/7", "").qos(1).retained());
    let session = Connect::v5("s").persistent();
    let mut subscriber = session.open(gateway.port);
    subscriber.subscribe(&[("r/#", 1)]);
    for _ in 0..49 {
        subscriber.next();
    }
    subscriber.disconnect();
    gateway.kill();
    gateway.run();
    let mut fresh = Connect::v4("fresh").open(gateway.port);
    fresh.subscribe(&[("r/#", 1)]);
    let mut got: Vec<usize> =
        (0..49).map(|_| fresh.next().text().parse().expect("a number")).collect();
    got.sort_unstable();
    assert_eq!(got, (0..50).filter(|n| *n != 7).collect::<Vec<_>>());
    // The session has them already: nothing comes twice by itself.
    assert_eq!(waiting_for(&gateway, &session, "r/new"), Vec::<String>::new());
}
