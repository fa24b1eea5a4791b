//! What a bridge forwards and brings in, and how topics, QoS and flags change on the way.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub, mosquitto_pub};
use crate::common::publisher::Publisher;
use crate::common::wait_until;
use crate::common::wire::{Connect, Message};

/// A remote, a gateway with one bridge `up` to it that stands, a client at each end.
struct Scene {
    far: Client,
    near: Client,
    gateway: Gateway,
    remote: Mosquitto,
}

fn scene(rules: &[&str]) -> Scene {
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("up", remote.port, rules));
    gateway.wait("bridge_up");
    // The remote has the bridge's subscriptions before it tells anybody that it has a message.
    for _ in rules.iter().filter(|rule| rule.contains("remote_topic") && rule.contains("subscr")) {
        remote.wait_line("Sending SUBACK");
    }
    let far = Connect::v5("far").open(remote.port);
    let near = Connect::v5("near").open(gateway.port);
    Scene { far, near, gateway, remote }
}

/// A message that is the last: what was published before it has arrived before it.
fn last(topic: &str) -> Message {
    Message::new(topic, "last").qos(1)
}

fn topics(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.topic.as_str()).collect()
}

#[test]
fn forward_rules_map_topics() {
    let mut scene = scene(&[
        "forward.1.local_topic = server/+/state",
        "forward.1.remote_topic = site7/+/s",
        "forward.2.local_topic = a/+/b/#",
        "forward.2.remote_topic = x/+/y/#",
        "forward.2.prefix = p/",
        "forward.3.local_topic = plain",
        "forward.3.suffix = /end",
        "forward.4.local_topic = many/#",
        "forward.4.remote_topic = one",
        "forward.5.local_topic = around/+",
        "forward.5.prefix = <",
        "forward.5.suffix = >",
        "forward.last.local_topic = last",
    ]);
    scene.far.subscribe(&[("#", 1)]);
    let published = [
        "server/web/state",
        "server/web/other",
        "a/1/b/c/d",
        "a/1/b",
        "plain",
        "plain/not",
        "many/a/b",
        "many",
        "around/me",
        "unmatched",
    ];
    for topic in published {
        scene.near.publish(&Message::new(topic, "x").qos(1));
    }
    scene.near.publish(&last("last"));
    let expected = ["site7/web/s", "p/x/1/y/c/d", "p/x/1/y", "plain/end", "one", "one"];
    let messages = scene.far.until("last");
    let got = topics(&messages);
    assert_eq!(got[..got.len() - 1], expected);
    assert_eq!(got.last(), Some(&"<around/me>"));
}

#[test]
fn subscribe_rules_map_topics() {
    let mut scene = scene(&[
        "subscribe.1.remote_topic = cmd/+/set",
        "subscribe.1.local_topic = device/+/command",
        "subscribe.2.remote_topic = news/#",
        "subscribe.2.prefix = remote/",
        "subscribe.3.remote_topic = one",
        "subscribe.3.suffix = /local",
        "subscribe.last.remote_topic = last",
    ]);
    scene.near.subscribe(&[("#", 1)]);
    for topic in ["cmd/7/set", "cmd/7/get", "news/a/b", "news", "one", "unmatched"] {
        scene.far.publish(&Message::new(topic, "x").qos(1));
    }
    scene.far.publish(&last("last"));
    let expected = ["device/7/command", "remote/news/a/b", "remote/news", "one/local"];
    assert_eq!(topics(&scene.near.until("last")), expected);
}

#[test]
fn the_first_rule_that_matches_wins() {
    let mut scene = scene(&[
        "forward.b.local_topic = a/b",
        "forward.b.prefix = first/",
        "forward.a.local_topic = a/+",
        "forward.a.prefix = second/",
        "forward.0.local_topic = #",
        "forward.0.prefix = third/",
    ]);
    scene.far.subscribe(&[("#", 1)]);
    for topic in ["a/b", "a/c", "b"] {
        scene.near.publish(&Message::new(topic, "x").qos(1));
    }
    scene.near.publish(&last("last"));
    assert_eq!(topics(&scene.far.until("last")), ["first/a/b", "second/a/c", "third/b"]);
}

#[test]
fn system_topics_never_match_a_leading_wildcard() {
    let mut scene = scene(&["forward.1.local_topic = #"]);
    scene.far.subscribe(&[("#", 1), ("$mine/#", 1)]);
    scene.near.publish(&Message::new("$mine/a", "x").qos(1));
    scene.near.publish(&last("a"));
    assert_eq!(scene.far.until("last"), []);
}

#[test]
fn a_rule_overrides_qos_and_retain() {
    let mut scene = scene(&[
        "forward.1.local_topic = keep/+",
        "forward.2.local_topic = zero/+",
        "forward.2.qos = 0",
        "forward.3.local_topic = two/+",
        "forward.3.qos = 2",
        "forward.4.local_topic = always/+",
        "forward.4.retain = true",
        "forward.5.local_topic = never/+",
        "forward.5.retain = false",
    ]);
    let as_published = 0x08;
    scene.far.subscribe(&[("#", 2 | as_published)]);
    let cases = [
        ("keep", 0, false, 0, false),
        ("keep", 1, true, 1, true),
        ("keep", 2, false, 2, false),
        ("zero", 2, false, 0, false),
        ("two", 0, false, 2, false),
        ("two", 1, true, 2, true),
        ("always", 1, false, 1, true),
        ("never", 1, true, 1, false),
    ];
    for (n, (rule, qos, retain, qos_there, retain_there)) in cases.into_iter().enumerate() {
        let topic = format!("{rule}/{n}");
        let message = Message { retain, ..Message::new(&topic, "x").qos(qos) };
        scene.near.publish(&message);
        let there = scene.far.next();
        assert_eq!((there.topic.as_str(), there.qos, there.retain), {
            (topic.as_str(), qos_there, retain_there)
        });
    }
}

#[test]
fn a_subscription_asks_for_its_qos_and_sets_the_retain_flag_it_says() {
    let remote = Mosquitto::start();
    let mut far = Connect::v5("far").open(remote.port);
    far.publish(&Message::new("keep/0", "was there").qos(1).retained());
    let rules = [
        "subscribe.0.remote_topic = zero/+",
        "subscribe.0.qos = 0",
        "subscribe.1.remote_topic = one/+",
        "subscribe.2.remote_topic = two/+",
        "subscribe.2.qos = 2",
        "subscribe.3.remote_topic = always/+",
        "subscribe.3.retain = true",
        "subscribe.4.remote_topic = never/+",
        "subscribe.4.retain = false",
        "subscribe.5.remote_topic = keep/+",
    ];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let mut near = Connect::v5("near").open(gateway.port);
    let as_published = 0x08;
    near.subscribe(&[("#", 2 | as_published)]);
    // What the remote had retained comes in first, and is retained here from then on.
    let first = near.next();
    assert_eq!((first.topic.as_str(), first.retain), ("keep/0", true));
    let cases = [
        ("zero/1", 2, false, 0, false),
        ("one/1", 2, false, 1, false),
        ("one/2", 0, false, 0, false),
        ("two/1", 2, false, 2, false),
        ("always/1", 1, false, 1, true),
        ("never/1", 1, true, 1, false),
        ("keep/1", 1, true, 1, true),
        ("keep/2", 1, false, 1, false),
    ];
    for (topic, qos, retain, qos_here, retain_here) in cases {
        far.publish(&Message { retain, ..Message::new(topic, "x").qos(qos) });
        let here = near.next();
        assert_eq!((here.topic.as_str(), here.qos, here.retain), (topic, qos_here, retain_here));
    }
    let mut late = Connect::v5("late").open(gateway.port);
    late.subscribe(&[("#", 1)]);
    let mut kept = [late.next().topic, late.next().topic, late.next().topic];
    kept.sort();
    assert_eq!(kept, ["always/1", "keep/0", "keep/1"]);
}

#[test]
fn retained_messages_that_exist_at_start_are_not_forwarded_again() {
    let mut scene = scene(&["forward.1.local_topic = #"]);
    scene.near.publish(&Message::new("state", "on").qos(1).retained());
    scene.gateway.wait_bridge_stats("up", "one acknowledged", |b| b.number("fwd_acked") == 1);
    scene.gateway.stop();
    scene.far.subscribe(&[("#", 1)]);
    assert_eq!(scene.far.next().text(), "on");
    scene.gateway.run();
    scene.gateway.wait("bridge_up");
    let mut near = Connect::v5("near").open(scene.gateway.port);
    near.subscribe(&[("state", 1)]);
    assert_eq!(near.next().text(), "on", "still here");
    near.publish(&last("other"));
    assert_eq!(scene.far.until("last"), []);
}

#[test]
fn a_retained_clear_reaches_the_remote() {
    let mut scene = scene(&["forward.1.local_topic = #"]);
    scene.far.subscribe(&[("#", 1)]);
    for payload in ["on", ""] {
        scene.near.publish(&Message::new("state", payload).qos(1).retained());
        assert_eq!(scene.far.next().text(), payload);
    }
    let mut late = Connect::v5("late").open(scene.remote.port);
    late.subscribe(&[("#", 1)]);
    scene.near.publish(&last("other"));
    assert_eq!(late.until("last"), []);
}

#[test]
fn one_message_goes_to_every_bridge_that_wants_it() {
    let (one, two) = (Mosquitto::start(), Mosquitto::start());
    let gateway = Gateway::start(&format!(
        "{}{}",
        bridge("one", one.port, &["forward.1.local_topic = #"]),
        bridge("two", two.port, &["forward.1.local_topic = a/#", "forward.1.prefix = two/"])
    ));
    gateway.wait_with("bridge_up", &[("bridge", "one")]);
    gateway.wait_with("bridge_up", &[("bridge", "two")]);
    let (mut at_one, mut at_two) =
        (Connect::v4("far").open(one.port), Connect::v4("far").open(two.port));
    at_one.subscribe(&[("#", 2)]);
    at_two.subscribe(&[("#", 2)]);
    let mut near = Connect::v4("near").open(gateway.port);
    for topic in ["a/1", "b", "a/2"] {
        near.publish(&Message::new(topic, "x").qos(2));
    }
    assert_eq!(
        [at_one.next().topic, at_one.next().topic, at_one.next().topic],
        ["a/1", "b", "a/2"]
    );
    assert_eq!([at_two.next().topic, at_two.next().topic], ["two/a/1", "two/a/2"]);
}

#[test]
fn mosquittos_clients_talk_across_the_bridge() {
    let scene = scene(&["forward.1.local_topic = up/#", "subscribe.1.remote_topic = down/#"]);
    let far = MosquittoSub::start(scene.remote.port, "%t %q %p", &["-t", "up/#", "-q", "2"]);
    let near = MosquittoSub::start(scene.gateway.port, "%t %q %p", &["-t", "down/#", "-q", "2"]);
    for qos in ["0", "1", "2"] {
        mosquitto_pub(scene.gateway.port, &["-t", "up/a", "-q", qos, "-m", "there"]);
    }
    mosquitto_pub(scene.remote.port, &["-t", "down/a", "-q", "1", "-m", "back"]);
    assert_eq!(far.take(3), ["up/a 0 there", "up/a 1 there", "up/a 2 there"]);
    assert_eq!(near.take(1), ["down/a 1 back"]);
}

/// A mosquitto sends one copy for each subscription that matches, and in MQTT 5 says for which.
#[test]
fn rules_that_overlap_bring_each_copy_of_a_message_where_it_belongs() {
    for qos in [1, 2] {
        let remote = Mosquitto::start();
        let rules = [
            "subscribe.1.remote_topic = data/#",
            "subscribe.1.local_topic = log/#",
            "subscribe.1.qos = 2",
            "subscribe.2.remote_topic = data/req/+",
            "subscribe.2.local_topic = req/+",
            "subscribe.2.qos = 2",
            "clientid = the-bridge",
        ];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        wait_until("both subscriptions", || {
            remote.count_lines("Sending SUBACK to the-bridge") == 2
        });
        let log = Collector::start(gateway.port, "log", "log/#");
        let requests = Collector::start(gateway.port, "req", "req/#");
        Publisher::numbered("publisher", "data/req/a", qos, 100).window(10).run(remote.port);
        assert_eq!(log.wait_all_in_order(100), 0, "QoS {qos}");
        assert_eq!(requests.wait_all_in_order(100), 0, "QoS {qos}");
        assert!(log.messages().iter().all(|message| message.topic == "log/req/a"));
        assert!(requests.messages().iter().all(|message| message.topic == "req/a"));
    }
}
