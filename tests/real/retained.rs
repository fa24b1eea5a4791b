//! Retained messages: set, replaced, cleared, kept over restarts.

use crate::common::gateway::Gateway;
use crate::common::mosquitto::{MosquittoSub, mosquitto_pub};
use crate::common::wire::{CONTENT_TYPE, Connect, Message, find, prefixed};

#[test]
fn a_late_subscriber_gets_the_newest_value_marked_as_retained() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let mut live = Connect::v4("live").open(gateway.port);
    live.subscribe(&[("state/#", 1)]);
    for (topic, value) in [("state/a", "old"), ("state/a", "new"), ("state/b", "b")] {
        publisher.publish(&Message::new(topic, value).qos(1).retained());
        let message = live.next();
        assert_eq!((message.text(), message.retain), (value.to_owned(), false));
    }
    for level in [4, 5] {
        let mut late = Connect::new(level, &format!("late-{level}")).open(gateway.port);
        late.subscribe(&[("state/+", 1)]);
        let mut got = [late.next(), late.next()];
        got.sort_by(|x, y| x.topic.cmp(&y.topic));
        let got = got.map(|m| (m.topic, String::from_utf8(m.payload).expect("text"), m.retain));
        let expected = [("state/a", "new"), ("state/b", "b")];
        assert_eq!(got, expected.map(|(t, p)| (t.to_owned(), p.to_owned(), true)));
    }
}

#[test]
fn an_empty_payload_clears_a_retained_message_and_is_delivered() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let mut live = Connect::v4("live").open(gateway.port);
    live.subscribe(&[("state", 1)]);
    publisher.publish(&Message::new("state", "on").qos(1).retained());
    publisher.publish(&Message::new("state", "").qos(1).retained());
    assert_eq!([live.next().text(), live.next().text()], ["on", ""]);
    let mut late = Connect::v4("late").open(gateway.port);
    late.subscribe(&[("state", 1), ("other", 1)]);
    publisher.publish(&Message::new("other", "last").qos(1));
    assert_eq!(late.until("last"), []);
}

#[test]
fn mqtt_5_subscribers_choose_when_and_how_they_get_retained_messages() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    client.publish(&Message::new("state", "kept").qos(1).retained());
    let (only_new, never, as_published) = (0x10, 0x20, 0x08);
    client.subscribe(&[("state", 1 | never)]);
    client.publish(&Message::new("state", "last").qos(1));
    assert_eq!(client.until("last"), []);
    client.subscribe(&[("state", 1 | only_new)]);
    client.publish(&Message::new("state", "last").qos(1));
    assert_eq!(client.until("last"), [], "the subscription was there already");
    client.unsubscribe("state");
    client.subscribe(&[("state", 1 | only_new | as_published)]);
    assert_eq!(client.next().text(), "kept");
    client.publish(&Message::new("state", "flagged").qos(1).retained());
    let message = client.next();
    assert_eq!((message.text(), message.retain), ("flagged".to_owned(), true));
}

#[test]
fn retained_messages_and_clears_outlive_stop_and_kill() {
    let mut gateway = Gateway::start("store.retained_after = 0s");
    let mut client = Connect::v5("client").open(gateway.port);
    let typed = (CONTENT_TYPE, prefixed(b"text/plain"));
    client.publish(&Message::new("state/a", "a").qos(1).retained().property(typed.clone()));
    client.publish(&Message::new("state/b", "b").qos(1).retained());
    client.publish(&Message::new("state/c", "c").qos(1).retained());
    gateway.wait_stats("three retained", |stats| stats.number("retained") == 3);
    assert_eq!(gateway.stop().number("lost"), 0);
    gateway.run();

    let mut client = Connect::v5("client").open(gateway.port);
    client.publish(&Message::new("state/b", "").qos(1).retained());
    client.publish(&Message::new("state/c", "newer").qos(1).retained());
    // The clear is in the store with the next commit; two figures later it is there.
    gateway.wait_stats("two retained", |stats| stats.number("retained") == 2);
    gateway.wait_stats("two retained", |stats| stats.number("retained") == 2);
    gateway.kill();
    gateway.run();

    let mut client = Connect::v5("late").open(gateway.port);
    client.subscribe(&[("state/#", 1), ("other", 1)]);
    let mut got = vec![client.next(), client.next()];
    client.publish(&Message::new("other", "last").qos(1));
    got.extend(client.until("last"));
    got.sort_by(|x, y| x.topic.cmp(&y.topic));
    let values: Vec<String> = got.iter().map(Message::text).collect();
    assert_eq!(values, ["a", "newer"]);
    assert_eq!(find(&got[0].properties, CONTENT_TYPE), Some(&typed.1[..]));
}

#[test]
fn more_topics_than_the_limit_are_not_retained_but_still_delivered() {
    let gateway = Gateway::start("limit.retained = 3");
    let mut client = Connect::v4("client").open(gateway.port);
    client.subscribe(&[("state/#", 1)]);
    for n in 0..5 {
        client.publish(&Message::new(&format!("state/{n}"), "x").qos(1).retained());
        assert_eq!(client.next().topic, format!("state/{n}"));
    }
    // Replacing and clearing need no room.
    client.publish(&Message::new("state/0", "y").qos(1).retained());
    let mut late = Connect::v4("late").open(gateway.port);
    late.subscribe(&[("state/#", 1), ("other", 1)]);
    let mut got = vec![late.next().text(), late.next().text(), late.next().text()];
    client.publish(&Message::new("other", "last").qos(1));
    got.extend(late.until("last").iter().map(Message::text));
    got.sort();
    assert_eq!(got, ["x", "x", "y"]);
}

#[test]
fn mosquittos_clients_see_retained_messages() {
    let gateway = Gateway::start("");
    mosquitto_pub(gateway.port, &["-t", "state", "-q", "1", "-r", "-m", "on"]);
    let sub = MosquittoSub::start(gateway.port, "%r %p", &["-t", "state", "-q", "1"]);
    assert_eq!(sub.take(1), ["1 on"]);
}
