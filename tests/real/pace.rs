//! Rules that slow down, thin out or reorder on purpose: rate, conflate, max_age, priority.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::stub::Stub;
use crate::common::wait_until;
use crate::common::wire::{Connect, Message};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Times = Arc<Mutex<Vec<(Instant, Message)>>>;

/// A good remote that notes when each PUBLISH came.
fn timing() -> (Stub, Times) {
    let times = Times::default();
    let stub = Stub::start({
        let times = Arc::clone(&times);
        move |session, _| {
            session.greet(false, 0, &[])?;
            loop {
                let packet = session.read()?;
                if let crate::common::wire::Packet::Publish(message) = &packet {
                    let entry = (Instant::now(), message.clone());
                    times.lock().expect("no holder panics").push(entry);
                }
                session.answer(&packet)?;
            }
        }
    });
    (stub, times)
}

/// A remote behind a link that is down, and a gateway that has just found that out.
fn cut(rules: &[&str]) -> (Mosquitto, Proxy, Gateway) {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let gateway = Gateway::start(&bridge("up", link.port, rules));
    gateway.wait("bridge_down");
    (remote, link, gateway)
}

#[test]
fn a_rate_per_topic_holds_its_topic_and_no_other() {
    let (remote, times) = timing();
    let rules = [
        "forward.slow.local_topic = slow/+",
        "forward.slow.rate = 2/s",
        "forward.rest.local_topic = #",
    ];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..6 {
        for topic in ["slow/a", "slow/b", "quick"] {
            client.publish_without_waiting(&Message::new(topic, n.to_string()).qos(1));
        }
    }
    remote.wait_published(18);
    let times = times.lock().expect("no holder panics").clone();
    let of = |topic: &str| -> Vec<(Instant, String)> {
        let of = times.iter().filter(|(_, message)| message.topic == topic);
        of.map(|(at, message)| (*at, message.text())).collect()
    };
    let (a, b, quick) = (of("slow/a"), of("slow/b"), of("quick"));
    for run in [&a, &b, &quick] {
        let texts: Vec<&str> = run.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4", "5"], "order per topic");
    }
    for slow in [&a, &b] {
        // Two may go at once, then one every half second; the clock of the bucket may be a
        // little ahead of ours.
        let span = slow[5].0.duration_since(slow[0].0);
        assert!(span >= Duration::from_millis(1900), "six at 2/s in {span:?}");
    }
    assert!(quick[5].0 < a[3].0, "the quick topic waited for the slow one");
    assert!(b[1].0 < a[3].0 && a[1].0 < b[3].0, "the slow topics waited for each other");
}

#[test]
fn the_rate_of_a_bridge_holds_all_of_it_and_loses_nothing() {
    let (remote, times) = timing();
    let rules = ["forward.1.local_topic = #", "rate = 10/s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..30 {
        client.publish_without_waiting(&Message::new("t", n.to_string()).qos(1));
    }
    let texts: Vec<String> = remote.wait_published(30).iter().map(Message::text).collect();
    assert_eq!(texts, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
    let times = times.lock().expect("no holder panics");
    let span = times[29].0.duration_since(times[0].0);
    assert!(span >= Duration::from_millis(1800), "30 at 10/s in {span:?}");
}

#[test]
fn conflate_keeps_only_the_newest_value_of_each_topic_while_it_waits() {
    let rules = [
        "forward.state.local_topic = state/+",
        "forward.state.conflate = true",
        "forward.rest.local_topic = #",
    ];
    let (remote, link, mut gateway) = cut(&rules);
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..10 {
        for topic in ["state/a", "state/b"] {
            assert_eq!(client.publish(&Message::new(topic, n.to_string()).qos(1)), 0);
        }
    }
    gateway.wait_stats("18 conflated", |stats| stats.number("conflated") == 18);
    // What was acknowledged is in the store, conflated or not. That a message is replaced is noted
    // once its replacement is durable: with the next commit.
    client.publish(&Message::new("last", "last").qos(1));
    gateway.kill();
    gateway.run();
    link.set(Mode::Pass);
    let mut got: Vec<(String, String)> = vec![];
    while got.len() < 3 {
        let message = far.next();
        got.push((message.topic.clone(), message.text()));
    }
    got.sort();
    let expected = [("last", "last"), ("state/a", "9"), ("state/b", "9")];
    assert_eq!(got, expected.map(|(topic, text)| (topic.to_owned(), text.to_owned())));
}

#[test]
fn conflate_changes_nothing_while_messages_flow() {
    let remote = Mosquitto::start();
    let rules = ["forward.1.local_topic = state", "forward.1.conflate = true"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..20 {
        client.publish(&Message::new("state", n.to_string()).qos(1));
        assert_eq!(far.next().text(), n.to_string());
    }
}

#[test]
fn max_age_drops_what_waited_too_long_and_counts_it() {
    let rules = ["forward.1.local_topic = t", "forward.1.max_age = 500ms"];
    let (remote, link, gateway) = cut(&rules);
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..5 {
        client.publish(&Message::new("t", n.to_string()).qos(1 + n % 2));
    }
    // The passing of time is what is tested.
    thread::sleep(Duration::from_millis(600));
    link.set(Mode::Pass);
    gateway.wait("bridge_up");
    client.publish(&Message::new("t", "fresh").qos(1));
    assert_eq!(far.next().text(), "fresh");
    gateway.wait_stats("five drops", |stats| stats.number("drops") == 5);
    // Repeats within a second are summed up in a line of their own.
    crate::common::wait_until("five expired", || gateway.dropped("expired") == 5);
}

#[test]
fn a_backlog_never_holds_up_a_higher_lane_and_a_lower_one_gets_its_share() {
    let rules = [
        "forward.h.local_topic = high",
        "forward.h.priority = high",
        "forward.l.local_topic = low",
        "forward.l.priority = low",
        "forward.n.local_topic = normal",
        "max_inflight = 2",
    ];
    let (remote, link, gateway) = cut(&rules);
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let mut client = Connect::v4("client").open(gateway.port);
    for (topic, count) in [("low", 200), ("normal", 200), ("high", 100)] {
        for n in 0..count {
            client.publish_without_waiting(&Message::new(topic, n.to_string()).qos(1));
        }
    }
    // All are accepted: the last one of a connection is the last acknowledged.
    client.wait_ack(crate::common::wire::PUBACK, 500);
    link.set(Mode::Pass);
    let messages: Vec<Message> = (0..500).map(|_| far.next()).collect();
    for topic in ["low", "normal", "high"] {
        let of = messages.iter().filter(|message| message.topic == topic);
        let numbers: Vec<usize> = of.map(|m| crate::common::number_of(&m.payload)).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "order of {topic}");
    }
    let place = |topic: &str| -> usize {
        messages.iter().rposition(|m| m.topic == topic).expect("some of each")
    };
    let first_low = messages.iter().position(|m| m.topic == "low").expect("some of each");
    assert!(place("high") < place("normal") && place("normal") <= place("low"));
    // A share for the lower lanes may stretch it, but not to the end of their backlog.
    assert!(place("high") < 250, "the last of 100 high ones came as number {}", place("high"));
    assert!(first_low < 400, "the low lane got nothing before number {first_low}");
}

/// More topics than have a stream of their own, and one that says little.
#[test]
fn a_busy_publisher_pushes_nobody_elses_messages_out_of_what_topics_share() {
    let rules = [
        "forward.slow.local_topic = slow/#",
        "forward.slow.rate = 1000/s",
        "forward.slow.max_messages = 100",
    ];
    let (remote, link, gateway) = cut(&rules);
    let mut busy = Connect::v4("busy").open(gateway.port);
    let far = Collector::start(remote.port, "far", "slow/sensor/#");
    let mut sensor = Connect::v4("sensor").open(gateway.port);
    for round in 0..40 {
        for topic in 0..300 {
            let message = Message::new(&format!("slow/busy/{topic}"), "x").qos(1);
            busy.publish_without_waiting(&message);
        }
        busy.ping();
        // Its first messages come when all streams are lent.
        if round < 4 {
            for n in 0..8 {
                let message = Message::new(&format!("slow/sensor/{n}"), round.to_string()).qos(1);
                assert_eq!(sensor.publish(&message), 0);
            }
        }
    }
    wait_until("the quota is used up", || gateway.dropped("queue_full") > 0);
    link.set(Mode::Pass);
    far.wait_count(32);
}
