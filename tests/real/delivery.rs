//! Local clients among themselves: every QoS, both versions, wildcards, order.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS};
use crate::common::mosquitto::{MosquittoSub, mosquitto_pub};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message, SUBSCRIPTION_ID, find};

#[test]
fn a_message_arrives_at_the_lower_of_both_qos_in_every_version() {
    let gateway = Gateway::start("");
    for (from, to) in [(4, 4), (5, 5), (3, 5), (5, 3), (4, 5), (5, 4)] {
        let mut publisher = Connect::new(from, &format!("from-{from}-{to}")).open(gateway.port);
        let mut subscriber = Connect::new(to, &format!("to-{from}-{to}")).open(gateway.port);
        for granted in 0..=2 {
            assert_eq!(subscriber.subscribe(&[("t/x", granted)]), [granted]);
            for sent in 0..=2 {
                let text = format!("{from} {to} {granted} {sent}");
                assert_eq!(publisher.publish(&Message::new("t/x", &text).qos(sent)), 0, "{text}");
                let message = subscriber.next();
                assert_eq!(message.text(), text);
                assert_eq!(message.qos, granted.min(sent), "{text}");
                assert!(!message.retain && !message.dup, "{message:?}");
            }
        }
    }
}

#[test]
fn filters_match_as_the_specification_says() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let cases: &[(&str, &[&str])] = &[
        ("#", &["a", "a/b", "/", "/a", "a//c"]),
        ("a/#", &["a", "a/b", "a//c"]),
        ("+", &["a"]),
        ("+/+", &["a/b", "/", "/a"]),
        ("a/+", &["a/b"]),
        ("a/+/c", &["a//c"]),
        ("/+", &["/", "/a"]),
        ("a/b", &["a/b"]),
    ];
    for (n, (filter, expected)) in cases.iter().enumerate() {
        let mut subscriber = Connect::v4(&format!("subscriber-{n}")).open(gateway.port);
        subscriber.subscribe(&[(filter, 1), ("last/of/all", 1)]);
        for topic in ["a", "a/b", "A/b", "/", "/a", "a//c", "$internal/a"] {
            publisher.publish(&Message::new(topic, "x").qos(1));
        }
        publisher.publish(&Message::new("last/of/all", "last").qos(1));
        let mut topics: Vec<String> =
            subscriber.until("last").into_iter().map(|message| message.topic).collect();
        if *filter == "#" {
            topics.retain(|topic| topic != "A/b");
        } else if *filter == "+/+" {
            assert!(topics.contains(&"A/b".to_owned()), "{filter} {topics:?}");
            topics.retain(|topic| topic != "A/b");
        }
        assert_eq!(topics, *expected, "{filter}");
    }
}

#[test]
fn an_unsubscribed_filter_delivers_nothing_more() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        client.subscribe(&[("a", 1), ("b", 1)]);
        publisher.publish(&Message::new("a", "first").qos(1));
        assert_eq!(client.next().text(), "first");
        client.unsubscribe("a");
        publisher.publish(&Message::new("a", "unwanted").qos(1));
        publisher.publish(&Message::new("b", "last").qos(1));
        assert_eq!(client.until("last"), []);
    }
}

#[test]
fn mqtt_5_options_keep_ones_own_messages_out_and_name_the_subscription() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    let mut other = Connect::v5("other").open(gateway.port);
    let no_local = 0x04;
    client.subscribe_with(&[("a", 1 | no_local)], &[(SUBSCRIPTION_ID, vec![0xC8, 0x01])]);
    client.publish(&Message::new("a", "mine").qos(1));
    other.publish(&Message::new("a", "theirs").qos(1));
    let message = client.next();
    assert_eq!(message.text(), "theirs");
    assert_eq!(find(&message.properties, SUBSCRIPTION_ID), Some(&[0xC8, 0x01][..]));
}

#[test]
fn the_order_of_a_publisher_is_kept_at_every_qos() {
    let gateway = Gateway::start(ROOMY_SESSIONS);
    for qos in [1, 2] {
        let topic = format!("n/{qos}");
        let collector = Collector::start(gateway.port, &format!("collector-{qos}"), &topic);
        Publisher::numbered(&format!("publisher-{qos}"), &topic, qos, 3000).run(gateway.port);
        assert_eq!(collector.wait_all_in_order(3000), 0, "duplicates at QoS {qos}");
    }
}

#[test]
fn a_subscriber_that_does_not_read_holds_up_nobody() {
    let gateway = Gateway::start(ROOMY_SESSIONS);
    let mut lazy = Connect::v4("lazy").open(gateway.port);
    lazy.subscribe(&[("n", 0)]);
    lazy.acknowledges = false;
    let collector = Collector::start(gateway.port, "collector", "n");
    let plan = (0..2000).map(|n: usize| {
        let number = n.to_string();
        Message::new("n", format!("{number:0>1000}")).qos(1)
    });
    Publisher::new(Connect::v4("publisher"), 50, plan.collect()).run(gateway.port);
    assert_eq!(collector.wait_all_in_order(2000), 0);
}

#[test]
fn the_last_subscription_of_a_filter_decides_its_qos() {
    let gateway = Gateway::start("");
    let mut client = Connect::v4("client").open(gateway.port);
    client.subscribe(&[("a", 2)]);
    client.subscribe(&[("a", 0)]);
    client.publish(&Message::new("a", "once").qos(2));
    client.publish(&Message::new("a", "last").qos(2));
    let messages = client.until("last");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].qos, 0);
}

#[test]
fn mosquittos_clients_are_served_in_both_versions() {
    let gateway = Gateway::start("");
    for version in ["mqttv311", "mqttv5"] {
        let id = format!("sub-{version}");
        let arguments = ["-V", version, "-i", &id, "-t", "home/+/temperature", "-q", "2"];
        let sub = MosquittoSub::start(gateway.port, "%t %q %r %p", &arguments);
        for qos in ["0", "1", "2"] {
            let arguments =
                ["-V", version, "-t", "home/kitchen/temperature", "-q", qos, "-m", "21.5"];
            mosquitto_pub(gateway.port, &arguments);
        }
        let expected = [0, 1, 2].map(|qos| format!("home/kitchen/temperature {qos} 0 21.5"));
        assert_eq!(sub.take(3), expected);
    }
}
