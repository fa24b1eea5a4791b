//! Subscribe rules that overlap: whatever copies a remote makes of a message that matches several,
//! it comes in once by each.

use crate::common::collector::Collector;

use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wait_until;
use crate::common::wire::{
    Ack, Connect, Message, PUBACK, PUBREC, PUBREL, Packet, Property, SUBSCRIPTION_ID,
    SUBSCRIPTION_IDS_AVAILABLE, ack, find,
};
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The more general rule first, with less QoS than the other.
const COVERING: [&str; 6] = [
    "subscribe.1.remote_topic = data/#",
    "subscribe.1.local_topic = log/#",
    "subscribe.1.qos = 1",
    "subscribe.2.remote_topic = data/req/+",
    "subscribe.2.local_topic = req/+",
    "subscribe.2.qos = 2",
];

const CROSSING: [&str; 6] = [
    "subscribe.1.remote_topic = data/+/x",
    "subscribe.1.local_topic = log/+",
    "subscribe.1.qos = 2",
    "subscribe.2.remote_topic = data/req/+",
    "subscribe.2.local_topic = req/+",
    "subscribe.2.qos = 2",
];

fn with<'a>(rules: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [rules, more].concat()
}

/// A mosquitto sends one copy for each subscription that matches.
#[test]
fn a_stock_mosquitto_brings_everything_once_by_each_rule_in_every_version() {
    for version in ["proto_ver = 5", "proto_ver = 4", "proto_ver = 3"] {
        for qos in [1, 2] {
            let remote = Mosquitto::start();
            let rules = with(&COVERING, &[version, "clientid = the-bridge"]);
            let gateway = Gateway::start(&bridge("up", remote.port, &rules));
            gateway.wait("bridge_up");
            let subscriptions = if version.ends_with('5') { 2 } else { 1 };
            wait_until("the subscriptions", || {
                remote.count_lines("Sending SUBACK to the-bridge") == subscriptions
            });
            let log = Collector::start(gateway.port, "log", "log/#");
            let requests = Collector::start(gateway.port, "req", "req/#");
            Publisher::numbered("publisher", "data/req/a", qos, 100).window(10).run(remote.port);
            // So large that it is taken as it comes.
            let large = Message::new("data/req/large", vec![b'x'; 100_000]).qos(qos);
            Connect::v4("large").open(remote.port).publish(&large);
            Connect::v4("last").open(remote.port).publish(&Message::new("data/last", "").qos(1));
            log.wait("the last", |messages| messages.iter().any(|m| m.topic == "log/last"));
            requests.wait("the large", |messages| messages.iter().any(|m| m.topic == "req/large"));
            for (collector, topic, qos) in [(&log, "log/req", 1), (&requests, "req", qos)] {
                let messages = collector.messages();
                let numbered: Vec<String> = messages
                    .iter()
                    .filter(|m| m.topic == format!("{topic}/a") && m.qos == qos)
                    .map(Message::text)
                    .collect();
                let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
                assert_eq!(numbered, expected, "{version}, QoS {qos}, {topic}");
                let whole = |m: &&Message| {
                    m.topic == format!("{topic}/large") && m.payload == large.payload
                };
                assert_eq!(messages.iter().filter(whole).count(), 1, "{version} {topic}");
            }
            assert_eq!((log.count(), requests.count()), (102, 101), "{version}, QoS {qos}");
        }
    }
}

/// How a remote says what a message is sent for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Copies {
    /// One, with the identifiers of all subscriptions that match.
    OneWithAll,
    /// One a subscription, each with its own.
    EachWithIts,
    /// One, and nothing said.
    One,
}

/// Takes subscriptions until `count` are there, then sends numbered messages at QoS 2, and serves.
fn send_by(session: &mut Session, copies: Copies, topic: &str, count: usize) -> Result<()> {
    let says = [(SUBSCRIPTION_IDS_AVAILABLE, vec![u8::from(copies != Copies::One)])];
    session.greet(false, 0, &says)?;
    let mut ids: Vec<Vec<Property>> = Vec::new();
    while ids.len() < count {
        let packet = session.read()?;
        session.answer(&packet)?;
        if let Packet::Subscribe { properties, .. } = packet {
            let id = find(&properties, SUBSCRIPTION_ID).map(<[u8]>::to_vec);
            ids.push(id.map(|id| (SUBSCRIPTION_ID, id)).into_iter().collect());
        }
    }
    let level = session.wire.level;
    let mut next = 0;
    for number in 0..10 {
        let copies = match copies {
            Copies::One => vec![vec![]],
            Copies::OneWithAll => vec![ids.concat()],
            Copies::EachWithIts => ids.clone(),
        };
        for properties in copies {
            next += 1;
            let message = Message { id: next, properties, ..Message::new(topic, "").qos(2) };
            let message = Message { payload: number.to_string().into_bytes(), ..message };
            session.send(&message.bytes(level))?;
        }
    }
    session.serve()
}

#[test]
fn one_copy_comes_in_by_each_rule_that_it_is_for() {
    for (version, copies, rules, subscriptions) in [
        ("proto_ver = 5", Copies::OneWithAll, COVERING, 2),
        ("proto_ver = 5", Copies::EachWithIts, COVERING, 2),
        ("proto_ver = 5", Copies::One, COVERING, 1),
        ("proto_ver = 4", Copies::One, COVERING, 1),
        ("proto_ver = 5", Copies::OneWithAll, CROSSING, 2),
        ("proto_ver = 5", Copies::EachWithIts, CROSSING, 2),
        ("proto_ver = 5", Copies::One, CROSSING, 2),
        ("proto_ver = 4", Copies::One, CROSSING, 2),
    ] {
        let what = format!("{version} {copies:?} {}", rules[0]);
        let remote =
            Stub::start(move |session, _| send_by(session, copies, "data/req/x", subscriptions));
        // Both collectors are there before the bridge is: it has no server yet.
        let gateway = Gateway::start("");
        let log = Collector::start(gateway.port, "log", "log/#");
        let requests = Collector::start(gateway.port, "req", "req/#");
        gateway.reload(&bridge("up", remote.port, &with(&rules, &[version])));
        assert_eq!(log.wait_all_in_order(10), 0, "{what}");
        assert_eq!(requests.wait_all_in_order(10), 0, "{what}");
        // Each PUBREL has its PUBCOMP: all that could have come twice has.
        let sent = if copies == Copies::EachWithIts { 20 } else { 10 };
        remote.wait("each PUBREC", |seen| {
            seen.iter().filter(|seen| matches!(seen, Seen::Received(_))).count() == sent
        });
        assert_eq!((log.count(), requests.count()), (10, 10), "{what}");
        let asked: Vec<(String, u8)> = remote
            .seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Subscribe(filters) => Some(filters),
                _ => None,
            })
            .flatten()
            .map(|(filter, options)| (filter, options & 3))
            .collect();
        let expected: &[(&str, u8)] = match (rules == COVERING, subscriptions) {
            (true, 1) => &[("data/#", 2)],
            (true, _) => &[("data/#", 1), ("data/req/+", 2)],
            (false, _) => &[("data/+/x", 2), ("data/req/+", 2)],
        };
        let expected: Vec<_> = expected.iter().map(|(f, qos)| ((*f).to_owned(), *qos)).collect();
        assert_eq!(asked, expected, "{what}");
    }
}

/// Filters that were subscribed to and unsubscribed from, in order.
fn filters(seen: &[Seen]) -> Vec<String> {
    let name = |seen: &Seen| match seen {
        Seen::Subscribe(filters) => Some(format!("+{}", filters[0].0)),
        Seen::Unsubscribe(filters) => Some(format!("-{}", filters[0])),
        _ => None,
    };
    seen.iter().filter_map(name).collect()
}

#[test]
fn what_a_wider_rule_covers_is_asked_for_where_that_is_refused() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        loop {
            let packet = session.read()?;
            match &packet {
                Packet::Subscribe { id, filters, .. } if filters[0].0 == "data/#" => {
                    session.suback(*id, &[0x80])?;
                }
                Packet::Subscribe { .. } => {
                    session.answer(&packet)?;
                    let message = Message::new("data/req/a", "0").qos(0);
                    session.send(&message.bytes(4))?;
                }
                _ => session.answer(&packet)?,
            }
        }
    });
    let gateway = Gateway::start("");
    let requests = Collector::start(gateway.port, "req", "req/#");
    gateway.reload(&bridge("up", remote.port, &with(&COVERING, &["proto_ver = 4"])));
    requests.wait_count(1);
    gateway.wait_with("subscribe_refused", &[("filter", "data/#")]);
    assert_eq!(filters(&remote.seen()), ["+data/#", "+data/req/+"]);
}

/// The session at the remote has both filters, from when only one rule was there.
#[test]
fn a_covered_filter_that_the_remote_has_from_before_is_unsubscribed() {
    let remote = Mosquitto::start();
    let one = &COVERING[3..];
    let more = &["proto_ver = 4", "clientid = the-bridge"];
    let mut gateway = Gateway::start(&bridge("up", remote.port, &with(one, more)));
    gateway.wait("bridge_up");
    remote.wait_line("Sending SUBACK to the-bridge");
    let rules = with(&COVERING, more);
    gateway.reload(&bridge("up", remote.port, &rules));
    remote.wait_line("Sending UNSUBACK to the-bridge");
    let once = |gateway: &Gateway, name: &str| {
        let log = Collector::start(gateway.port, &format!("log{name}"), "log/#");
        let requests = Collector::start(gateway.port, &format!("req{name}"), "req/#");
        Publisher::numbered("publisher", "data/req/a", 2, 20).window(10).run(remote.port);
        assert_eq!(log.wait_all_in_order(20), 0);
        assert_eq!(requests.wait_all_in_order(20), 0);
    };
    once(&gateway, "1");
    // Known over a restart, too.
    gateway.stop();
    gateway.run();
    gateway.wait("bridge_up");
    wait_until("the filter is given up again", || {
        remote.count_lines("Sending UNSUBACK to the-bridge") == 2
    });
    once(&gateway, "2");
}

/// Bridge `b` takes one message and is down: of the first message both copies are there, which is
/// one beyond, and over `kill -9`; of the second none is, and it stays with the remote.
#[test]
fn of_a_message_that_finds_no_room_no_copy_is_taken() {
    for qos in [1, 2] {
        let taken = Arc::new(AtomicU16::new(0));
        let count = Arc::clone(&taken);
        let remote = Stub::start(move |session, _| keep_sending(session, qos, &count));
        let far = Mosquitto::start();
        let link = Proxy::start_in(Mode::Refuse, far.port);
        let log = Collector::start(far.port, "log", "log/#");
        let requests = Collector::start(far.port, "req", "req/#");
        let mut gateway = Gateway::start(&format!(
            "{}{}",
            bridge("a", remote.port, &with(&COVERING, &["proto_ver = 4"])),
            bridge("b", link.port, &["forward.1.local_topic = #", "max_messages = 1"])
        ));
        gateway.wait_with("backpressure_on", &[("destination", "b")]);
        gateway.wait_stats("both copies of one", |stats| stats.number("store_msgs") == 2);
        wait_until("the first is acknowledged", || taken.load(Ordering::Relaxed) == 1);
        gateway.kill();
        assert_eq!(taken.load(Ordering::Relaxed), 1, "QoS {qos}");
        link.set(Mode::Pass);
        gateway.run();
        let again = [log.wait_all_in_order(2), requests.wait_all_in_order(2)];
        wait_until("the second is acknowledged", || taken.load(Ordering::Relaxed) == 2);
        if qos == 2 {
            // The copy that comes in at QoS 1 may come twice.
            assert_eq!(again[1], 0);
        }
    }
}

/// Sends the two messages as far as they are not `taken`, in a session that lasts.
fn keep_sending(session: &mut Session, qos: u8, taken: &AtomicU16) -> Result<()> {
    session.greet_with(0, &[], |connect| !connect.clean)?;
    loop {
        let packet = session.read()?;
        session.answer(&packet)?;
        match packet {
            Packet::Subscribe { .. } => {
                for id in taken.load(Ordering::Relaxed) + 1..=2 {
                    let message = Message::new("data/req/x", (id - 1).to_string()).qos(qos);
                    session.send(&Message { id, ..message }.bytes(4))?;
                }
            }
            Packet::Ack(Ack { kind: PUBACK | PUBREC, id, .. }) => {
                taken.fetch_max(id, Ordering::Relaxed);
                if qos == 2 {
                    session.send(&ack(PUBREL, id))?;
                }
            }
            _ => {}
        }
    }
}
