//! Full to the brim: who waits, who loses what and how much, and that nobody else pays for it.
//! The plain cases are in `overflow`; here ring and disk are tiny and the counts exact.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::Stub;
use crate::common::wire::{self, Connect, Message, PUBACK, PUBREC, Packet};
use crate::common::{number_of, wait_until};
use std::thread;
use std::time::Duration;

/// A ring of 64 messages; 16 of them for one destination.
const SMALL_RING: &str = "ring.messages = 64\nring.bytes = 256KiB\n";

/// So that whoever publishes one message at a time need not wait long for each commit.
const QUICK: &str = "store.flush_after = 10ms\n";

/// Where the rest of a backlog goes, and how much of it.
const STORES: [&str; 2] = ["store.path = none\n", "store.max_bytes = 1MiB\n"];

struct Cut {
    far: Collector,
    link: Proxy,
    gateway: Gateway,
    _remote: Mosquitto,
}

/// A bridge `up` whose link is down, with everything at the remote collected.
fn cut(top: &str, rules: &[&str]) -> Cut {
    // With a window of its own mosquitto 2.0.11 sends what comes before what it has queued.
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "#");
    let gateway = Gateway::start(&format!("{QUICK}{top}{}", bridge("up", link.port, rules)));
    gateway.wait("bridge_down");
    Cut { far, link, gateway, _remote: remote }
}

/// `count` numbered messages of 1000 bytes.
fn heavy(topic: &str, qos: u8, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::new(topic, format!("{n:0>1000}")).qos(qos)).collect()
}

/// Drops so far, once the log has told of every one.
fn told_drops(gateway: &Gateway) -> u64 {
    // A line that is there already may be older than the newest drops, and so may be what was told.
    let mut mark = gateway.mark();
    let mut drops = 0;
    wait_until("the log tells of every drop", || {
        let stats = gateway.wait_from(mark, "stats", &[]);
        mark = gateway.mark();
        drops = stats.number("drops");
        let events = gateway.events();
        let told = events.iter().filter(|event| event.name == "drop");
        told.map(|event| event.number("count")).sum::<u64>() == drops
    });
    drops
}

fn numbers(messages: &[Message], topic: &str) -> Vec<usize> {
    messages.iter().filter(|m| m.topic == topic).map(|m| number_of(&m.payload)).collect()
}

#[test]
fn what_is_dropped_is_counted_to_the_message_in_ram_and_on_disk() {
    for store in STORES {
        for (policy, level) in
            [("drop_oldest", 4), ("drop_oldest", 5), ("drop_newest", 4), ("drop_newest", 5)]
        {
            let what = format!("{store}{policy} {level}");
            let overflow = format!("overflow = {policy}");
            let rules = ["forward.1.local_topic = n", &overflow];
            let cut = cut(&format!("{SMALL_RING}{store}"), &rules);
            let connect = Connect::new(level, "publisher").persistent();
            let mut publisher = Publisher::new(connect, 10, heavy("n", 1, 1500));
            publisher.run(cut.gateway.port);
            cut.gateway.wait_stats("drops", |stats| stats.number("drops") > 0);
            cut.link.set(Mode::Pass);
            // What waits is gone once the newest that was taken is there.
            cut.gateway.wait_bridge_stats("up", "an empty queue", |b| {
                b.number("ring") + b.number("store") + b.number("inflight") == 0
                    && b.number("fwd_acked") > 0
            });
            let dropped = usize::try_from(told_drops(&cut.gateway)).expect("not many");
            cut.far.wait_count(1500 - dropped);
            let arrived = numbers(&cut.far.messages(), "n");
            let expected: Vec<usize> = if policy == "drop_oldest" {
                (dropped..1500).collect()
            } else {
                (0..1500 - dropped).collect()
            };
            assert_eq!(arrived, expected, "{what}");
            let refused = publisher.codes.iter().filter(|code| **code == 0x97).count();
            let told = policy == "drop_newest" && level == 5;
            assert_eq!(refused, if told { dropped } else { 0 }, "{what}");
        }
    }
}

#[test]
fn a_full_destination_stops_its_publishers_alone_and_goes_on_with_all_of_it_in_order() {
    for store in STORES {
        let cut = cut(&format!("{SMALL_RING}{store}"), &["forward.1.local_topic = n/#"]);
        let port = cut.gateway.port;
        let publishers: Vec<_> = [(4, 1), (4, 2), (5, 1), (5, 2)]
            .map(|(level, qos)| {
                thread::spawn(move || {
                    let name = format!("{level}-{qos}");
                    let connect = Connect::new(level, &name).persistent();
                    let plan = heavy(&format!("n/{name}"), qos, 500);
                    Publisher::new(connect, 20, plan).run(port);
                })
            })
            .into_iter()
            .collect();
        cut.gateway.wait("backpressure_on");
        // A client that is blocked itself is served in everything else.
        let mut blocked = Vec::new();
        for level in [4, 5] {
            let mut client = Connect::new(level, &format!("blocked-{level}")).open(port);
            let parked = client.publish_without_waiting(&Message::new("n/more", "1").qos(1));
            let too = client.publish_without_waiting(&Message::new("n/more", "2").qos(2));
            client.ping();
            assert_eq!(client.subscribe(&[("free", 2)]), [2]);
            let mut other = Connect::new(level, &format!("other-{level}")).open(port);
            for qos in 1..=2 {
                other.publish(&Message::new("free", qos.to_string()).qos(qos));
                assert_eq!(client.next().text(), qos.to_string());
            }
            // Best effort: while a commit is under way it may find no room.
            wait_until("QoS 0 is served", || {
                other.publish(&Message::new("free", "0"));
                other.ping();
                client.next_within(Duration::from_millis(100)).is_some()
            });
            client.publish(&Message::new("free", "own"));
            client.unsubscribe("free");
            blocked.push((client, parked, too));
        }
        // Not acknowledged so far, or the round trips above would have swallowed it.
        cut.link.set(Mode::Pass);
        for (client, parked, too) in &mut blocked {
            client.wait_ack(PUBACK, *parked);
            client.wait_ack(PUBREC, *too);
        }
        for publisher in publishers {
            publisher.join().expect("all is accepted");
        }
        cut.far.wait("all of it", |all| all.iter().filter(|m| m.topic != "n/more").count() >= 2000);
        for (level, qos) in [(4, 1), (4, 2), (5, 1), (5, 2)] {
            let arrived = numbers(&cut.far.messages(), &format!("n/{level}-{qos}"));
            let mut first = Vec::new();
            for number in arrived {
                if !first.contains(&number) {
                    first.push(number);
                }
            }
            assert_eq!(first, (0..500).collect::<Vec<_>>(), "{store} {level} {qos}");
        }
        assert_eq!(told_drops(&cut.gateway), 0);
    }
}

#[test]
fn a_full_bridge_in_a_ring_without_a_store_leaves_room_to_every_other() {
    let remote = Mosquitto::start_roomy();
    let far = Collector::start(remote.port, "far", "live/#");
    let dead = Proxy::start_in(Mode::Refuse, remote.port);
    let mut text = format!("store.path = none\n{SMALL_RING}");
    for name in ["one", "two", "three"] {
        let topic = format!("forward.1.local_topic = {name}/#");
        text += &bridge(name, dead.port, &[&topic]);
    }
    text += &bridge("live", remote.port, &["forward.1.local_topic = live/#"]);
    let gateway = Gateway::start(&text);
    gateway.wait_with("bridge_up", &[("bridge", "live")]);
    let mut stuck = Vec::new();
    for name in ["one", "two", "three"] {
        let mut client = Connect::v4(name).open(gateway.port);
        for _ in 0..50 {
            client.publish_without_waiting(&Message::new(&format!("{name}/a"), "x").qos(1));
        }
        stuck.push(client);
        gateway.wait_with("backpressure_on", &[("destination", name)]);
    }
    Publisher::numbered("publisher", "live/n", 2, 500).run(gateway.port);
    assert_eq!(far.wait_all_in_order(500), 0);
    let mut local = Connect::v5("local").open(gateway.port);
    local.subscribe(&[("free", 2)]);
    for qos in 0..=2 {
        local.publish(&Message::new("free", qos.to_string()).qos(qos));
        assert_eq!(local.next().text(), qos.to_string());
    }
    for client in &mut stuck {
        client.ping();
    }
}

#[test]
fn a_full_ring_still_takes_what_a_remote_sends() {
    // Without a store nobody waits for a subscriber: as many as its share of the ring holds.
    const BURST: usize = 16;
    // Bridges that cannot get rid of anything, sessions that are away, and no store.
    let dead = Proxy::start_in(Mode::Refuse, 1);
    let mut text = format!("store.path = none\n{SMALL_RING}");
    text += &bridge("dead", dead.port, &["forward.1.local_topic = dead/#"]);
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        let mut next: u16 = 1;
        loop {
            let packet = session.read()?;
            session.answer(&packet)?;
            let Packet::Publish(message) = packet else { continue };
            if message.topic == "go" {
                for _ in 0..BURST {
                    let text = (next - 1).to_string();
                    let message = Message { id: next, ..Message::new("in/n", text).qos(1) };
                    session.send(&message.bytes(5))?;
                    next += 1;
                }
            }
        }
    });
    text += &bridge(
        "live",
        remote.port,
        &["subscribe.1.remote_topic = in/#", "forward.1.local_topic = go"],
    );
    let gateway = Gateway::start(&text);
    for n in 0..8 {
        let away = Connect::v4(&format!("away-{n}")).persistent();
        let mut away = away.open(gateway.port);
        away.subscribe(&[(&format!("away/{n}"), 1)]);
        away.disconnect();
    }
    let mut client = Connect::v4("client").open(gateway.port);
    for _ in 0..40 {
        client.publish_without_waiting(&Message::new("dead/a", "x").qos(1));
    }
    gateway.wait("backpressure_on");
    let mut filler = Connect::v5("filler").open(gateway.port);
    for n in 0..400 {
        filler.publish(&Message::new(&format!("away/{}", n % 8), "x").qos(1));
    }
    let near = Collector::start(gateway.port, "near", "in/#");
    gateway.wait_with("bridge_up", &[("bridge", "live")]);
    for round in 0..30 {
        filler.publish(&Message::new("go", "go").qos(1));
        near.wait_all_in_order((round + 1) * BURST);
    }
    assert!(gateway.wait_stats("anything", |_| true).number("drops") > 0, "sessions gave way");
}

#[test]
fn sessions_without_room_on_disk_never_take_the_part_of_the_bridges() {
    for store in STORES {
        let rules = ["forward.1.local_topic = out"];
        let cut = cut(&format!("{SMALL_RING}{store}"), &rules);
        for n in 0..12 {
            let mut away = Connect::v4(&format!("away-{n}")).persistent().open(cut.gateway.port);
            away.subscribe(&[(&format!("away/{n}"), 2)]);
            away.disconnect();
        }
        let mut filler = Connect::v4("filler").open(cut.gateway.port);
        for n in 0..600 {
            let message = Message::new(&format!("away/{}", n % 12), format!("{n:0>1000}"));
            filler.publish(&message.qos(1 + u8::from(n % 3 == 0)));
        }
        // The bridge's own: 16 in RAM, or its three quarters of the disk.
        let count = if store.contains("none") { 12 } else { 300 };
        Publisher::new(Connect::v4("publisher"), 5, heavy("out", 1, count)).run(cut.gateway.port);
        assert!(cut.gateway.events().iter().all(|event| event.name != "backpressure_on"));
        for n in 0..300 {
            filler.publish(&Message::new(&format!("away/{}", n % 12), format!("{n:0>900}")).qos(1));
        }
        cut.link.set(Mode::Pass);
        assert_eq!(cut.far.wait_all_in_order(count), 0, "{store}");
        let drops = told_drops(&cut.gateway);
        let of_bridge =
            cut.gateway.events().into_iter().any(|e| e.is("drop", &[("destination", "up")]));
        assert!(drops > 0 && !of_bridge, "{store}{drops}");
        // Their newest is still there.
        let mut back = Connect::v4("away-11").persistent().open(cut.gateway.port);
        assert!(back.connack.session_present);
        let mut last = back.next();
        while let Some(message) = back.next_within(Duration::from_millis(500)) {
            last = message;
        }
        assert_eq!(number_of(&last.payload), 299);
    }
}

#[test]
fn a_drop_never_hits_what_is_in_flight() {
    // Acknowledges nothing before the hundredth message was published.
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        let mut waiting = Vec::new();
        let mut serves = false;
        loop {
            match session.read()? {
                Packet::Publish(message) if message.payload == b"go" => {
                    serves = true;
                    for id in waiting.drain(..) {
                        session.send(&wire::ack(PUBACK, id))?;
                    }
                }
                Packet::Publish(message) if !serves => {
                    waiting.push(message.id);
                }
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = ["forward.1.local_topic = #", "max_messages = 20", "max_inflight = 10"];
    let text = bridge("up", remote.port, &[&rules[..], &["overflow = drop_oldest"]].concat());
    let gateway = Gateway::start(&format!("{QUICK}{text}"));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    for n in 0..100 {
        client.publish(&Message::new("n", n.to_string()).qos(1));
    }
    gateway.wait_stats("80 drops", |stats| stats.number("drops") == 80);
    client.publish(&Message::new("go", "go"));
    remote.wait_published(21);
    let arrived = numbers(&remote.published(), "n");
    assert_eq!(arrived, (0..10).chain(90..100).collect::<Vec<_>>());
}

#[test]
fn a_rule_counts_its_own_messages_in_ram_and_on_disk() {
    for top in ["", SMALL_RING] {
        let rules = [
            "forward.few.local_topic = few/#",
            "forward.few.max_messages = 5",
            "forward.few.overflow = drop_oldest",
            "forward.none.local_topic = newest/#",
            "forward.none.max_messages = 3",
            "forward.none.overflow = drop_newest",
            "forward.rest.local_topic = rest/#",
        ];
        let cut = cut(top, &rules);
        let mut client = Connect::v5("client").open(cut.gateway.port);
        for n in 0..200 {
            let number = n.to_string();
            assert_eq!(client.publish(&Message::new("rest/n", &number).qos(1)), 0);
            if n % 10 == 0 {
                client.publish(&Message::new("few/n", &number).qos(1));
                let code = client.publish(&Message::new("newest/n", &number).qos(1));
                assert_eq!(code, if n < 30 { 0 } else { 0x97 }, "{n}");
            }
        }
        cut.gateway.wait_stats("drops", |stats| stats.number("drops") == 15 + 17);
        assert_eq!(told_drops(&cut.gateway), 32);
        cut.link.set(Mode::Pass);
        cut.far.wait_count(200 + 5 + 3);
        let arrived = cut.far.messages();
        assert_eq!(numbers(&arrived, "rest/n"), (0..200).collect::<Vec<_>>());
        assert_eq!(numbers(&arrived, "few/n"), [150, 160, 170, 180, 190]);
        assert_eq!(numbers(&arrived, "newest/n"), [0, 10, 20]);
    }
}

#[test]
fn a_rule_that_blocks_holds_up_only_what_matches_it() {
    let rules = [
        "forward.few.local_topic = few/#",
        "forward.few.max_messages = 5",
        "forward.rest.local_topic = rest/#",
    ];
    let mut cut = cut("", &rules);
    let mut stuck = Connect::v4("stuck").persistent().open(cut.gateway.port);
    for n in 0..5 {
        stuck.publish(&Message::new("few/n", n.to_string()).qos(1));
    }
    let parked = stuck.publish_without_waiting(&Message::new("few/n", "5").qos(1));
    let on = cut.gateway.wait("backpressure_on");
    assert_eq!(on.text("reason"), "rule_quota");
    Publisher::numbered("publisher", "rest/n", 1, 300).run(cut.gateway.port);
    stuck.ping();
    // A restart forgets nothing of the count: the next one waits as well.
    drop(stuck);
    cut.gateway.kill();
    cut.gateway.run();
    let mut stuck = Connect::v4("stuck").persistent().open(cut.gateway.port);
    let again = Message { id: parked, dup: true, ..Message::new("few/n", "5").qos(1) };
    stuck.send(&again.bytes(4));
    cut.gateway.wait_with("backpressure_on", &[("reason", "rule_quota")]);
    cut.link.set(Mode::Pass);
    stuck.wait_ack(PUBACK, parked);
    cut.far.wait_count(306);
    assert_eq!(numbers(&cut.far.messages(), "few/n"), (0..6).collect::<Vec<_>>());
    assert_eq!(numbers(&cut.far.messages(), "rest/n"), (0..300).collect::<Vec<_>>());
}

#[test]
fn a_message_that_waits_for_one_bridge_costs_another_nothing_until_it_is_taken() {
    for (policy, drops) in [("drop_newest", 1), ("drop_oldest", 1)] {
        let remote = Mosquitto::start_roomy();
        let link = Proxy::start_in(Mode::Refuse, remote.port);
        let dead = Proxy::start_in(Mode::Refuse, remote.port);
        let far = Collector::start(remote.port, "far", "#");
        let rules = ["forward.1.local_topic = both", "max_messages = 5"];
        let overflow = format!("overflow = {policy}");
        let text = bridge("a", dead.port, &[&rules[..], &[&overflow]].concat())
            + &bridge("b", link.port, &rules);
        let gateway = Gateway::start(&format!("{QUICK}{text}"));
        let mut client = Connect::v5("client").open(gateway.port);
        for n in 0..5 {
            assert_eq!(client.publish(&Message::new("both", n.to_string()).qos(1)), 0);
        }
        let parked = client.publish_without_waiting(&Message::new("both", "5").qos(1));
        gateway.wait_with("backpressure_on", &[("destination", "b")]);
        // It is tried again with every turn.
        for _ in 0..200 {
            client.ping();
        }
        assert_eq!(gateway.wait_stats("anything", |_| true).number("drops"), 0, "{policy}");
        link.set(Mode::Pass);
        let code = client.wait_ack(PUBACK, parked).code;
        assert_eq!(code, if policy == "drop_newest" { 0x97 } else { 0 });
        far.wait_all_in_order(6);
        gateway.wait_stats("the drop", |stats| stats.number("drops") == drops);
        assert_eq!(told_drops(&gateway), drops);
    }
}

#[test]
fn what_has_expired_makes_room_before_anybody_waits_or_loses() {
    for top in ["", SMALL_RING] {
        for aged in ["forward.1.max_age = 1s", "forward.1.priority = normal"] {
            let rules = ["forward.1.local_topic = n", "max_messages = 100", aged];
            let cut = cut(top, &rules);
            let mut client = Connect::v5("client").open(cut.gateway.port);
            for n in 0..100 {
                let message = Message::new("n", n.to_string()).qos(1);
                let expiry = (wire::MESSAGE_EXPIRY, vec![0, 0, 0, 1]);
                let message = if aged.contains("age") { message } else { message.property(expiry) };
                client.publish(&message);
            }
            // The quota is used up; a second later all of it is worth nothing.
            for n in 100..150 {
                client.publish(&Message::new("n", n.to_string()).qos(1));
            }
            let drops = told_drops(&cut.gateway);
            // Of the others as many as this machine took longer than a second for.
            assert!(drops >= 50, "{top}{aged}: {drops}");
            assert_eq!(cut.gateway.dropped("expired"), drops, "{top}{aged}");
        }
    }
}
