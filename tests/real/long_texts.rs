//! Every text of a packet that has two bytes of length, at its longest: it is passed on whole,
//! live, from the disk, after a restart, retained and as a will; or refused where it enters, by
//! name.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{
    CONTENT_TYPE, CORRELATION_DATA, Connect, Message, RESPONSE_TOPIC, prefixed, user_property,
};

/// Topics as long as there are any, and memory for them.
const ROOM: &str = "limit.topic_bytes = 65535\nlimit.clients = 8\nlimit.sessions = 8\n\
                    limit.subscriptions = 16\nlimit.packet_size = 1MiB\nring.bytes = 8MiB\n\
                    limit.retained_bytes = 4MiB\nlimit.will_bytes = 1MiB\n\
                    session.max_bytes = 16MiB\nstore.retained_after = 0s\n";

const LONGEST: usize = 65_535;

/// Around the lengths that a slot of the store takes, two of them, and the longest.
fn topics() -> Vec<String> {
    let lengths = [255, 256, 257, 32_215, 32_216, 32_217, 64_471, 64_472, 64_473, 65_534, LONGEST];
    lengths.into_iter().map(|bytes| format!("t/{}", "x".repeat(bytes - 2))).collect()
}

fn on(topic: &str) -> Message {
    Message::new(topic, format!("{} bytes of topic", topic.len()))
}

#[test]
fn topics_pass_live_offline_retained_as_wills_and_over_a_restart() {
    let mut gateway = Gateway::start(ROOM);
    let kept = Connect::v5("kept").persistent();
    let mut offline = kept.open(gateway.port);
    let longest = topics().pop().expect("there are some");
    // One filter as long as the longest topic, beside one that all match.
    assert_eq!(offline.subscribe(&[("t/+", 2), (&longest, 2)]), [2, 2]);
    offline.disconnect();
    let mut client = Connect::v5("client").open(gateway.port);
    let mut old = Connect::v4("old").open(gateway.port);
    client.subscribe(&[("t/+", 2)]);
    old.subscribe(&[("t/+", 2)]);
    for topic in topics() {
        for qos in [0, 1, 2] {
            let message = on(&topic).qos(qos).retained();
            assert_eq!(client.publish(&message), 0);
            client.expect(&message, "live");
            old.expect(&message, "live, before 5");
        }
        let will = on(&topic).qos(1);
        Connect::v5("mortal").will(will.clone()).open(gateway.port).vanish();
        client.expect(&will, "a will");
        old.expect(&will, "a will, before 5");
    }
    gateway.stop();
    gateway.run();
    let mut offline = kept.open(gateway.port);
    for topic in topics() {
        for _ in 0..3 {
            offline.expect(&on(&topic), "after a restart");
        }
    }
    offline.ping();
    let mut late = Connect::v5("late").open(gateway.port);
    for topic in topics() {
        late.subscribe(&[(&topic, 1)]);
        late.expect(&on(&topic), "retained");
    }
    assert_eq!(gateway.dropped("no_rule") + gateway.dropped("corrupt"), 0);
}

#[test]
fn topics_wait_on_the_disk_for_a_bridge_and_come_from_a_remote() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let rules = ["forward.1.local_topic = t/+", "subscribe.1.remote_topic = in/+"];
    let configuration = format!("{ROOM}{}", bridge("up", link.port, &rules));
    let mut gateway = Gateway::start(&configuration);
    let far = Collector::start_with(remote.port, Connect::v5("far").persistent(), "t/+", 2);
    let mut near = Connect::v5("near").open(gateway.port);
    for topic in topics() {
        for qos in [1, 2] {
            assert_eq!(near.publish(&on(&topic).qos(qos)), 0);
        }
    }
    gateway.kill();
    gateway.run();
    link.set(Mode::Pass);
    gateway.wait("bridge_up");
    far.wait_count(2 * topics().len());
    for topic in topics() {
        let count = far.messages().iter().filter(|got| got.topic == topic).count();
        assert_eq!(count, 2, "{}", topic.len());
    }
    let mut near = Connect::v5("near").open(gateway.port);
    near.subscribe(&[("in/+", 2)]);
    let mut there = Connect::v5("there").open(remote.port);
    for topic in topics() {
        let message = on(&format!("in/{}", &topic[3..])).qos(1);
        assert!(there.publish(&message) < 0x80);
        near.expect(&message, "from the remote");
    }
    assert_eq!(gateway.dropped("no_rule") + gateway.dropped("corrupt"), 0);
}

#[test]
fn a_rule_that_makes_a_topic_too_long_is_told_of_either_way() {
    let remote = Mosquitto::start();
    let rules = [
        "forward.1.local_topic = t/+",
        "forward.1.prefix = p",
        "subscribe.1.remote_topic = in/+",
        "subscribe.1.prefix = p",
    ];
    let gateway = Gateway::start(&format!("{ROOM}{}", bridge("up", remote.port, &rules)));
    gateway.wait("bridge_up");
    let far = Collector::start(remote.port, "far", "pt/+");
    let mut near = Connect::v5("near").open(gateway.port);
    near.subscribe(&[("pin/+", 1)]);
    let [fits, too_long] = [LONGEST - 1, LONGEST].map(|n| format!("t/{}", "x".repeat(n - 2)));
    for topic in [&too_long, &fits] {
        assert!(near.publish(&on(topic).qos(1)) < 0x80);
    }
    far.wait_count(1);
    assert!(far.messages()[0].topic == format!("p{fits}"));
    gateway.wait_with("drop", &[("reason", "topic_too_long"), ("destination", "up")]);
    let mut there = Connect::v5("there").open(remote.port);
    for topic in [&too_long, &fits] {
        there.publish(&on(&format!("in/{}", &topic[3..])).qos(1));
    }
    assert!(near.next().topic == format!("pin/{}", &fits[3..]));
    gateway.wait_event(0, "a topic too long from the remote", |event| {
        event.is("drop", &[("reason", "topic_too_long")]) && event.text("destination") != "up"
    });
}

#[test]
fn properties_of_the_longest_text_pass_on_every_way() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let rules = ["forward.1.local_topic = t"];
    let mut gateway = Gateway::start(&format!("{ROOM}{}", bridge("up", link.port, &rules)));
    let text = "x".repeat(LONGEST);
    let long = prefixed(text.as_bytes());
    let properties = [
        (RESPONSE_TOPIC, long.clone()),
        (CONTENT_TYPE, long.clone()),
        (CORRELATION_DATA, long),
        user_property(&text, &text),
    ];
    let message = Message { properties: properties.to_vec(), ..Message::new("t", "heavy") };
    let far = Collector::start_with(remote.port, Connect::v5("far").persistent(), "t", 2);
    let kept = Connect::v5("kept").persistent();
    let mut offline = kept.open(gateway.port);
    offline.subscribe(&[("t", 2)]);
    offline.disconnect();
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("t", 2)]);
    assert_eq!(client.publish(&message.clone().qos(2).retained()), 0);
    client.expect(&message, "live");
    Connect::v5("mortal").will(message.clone().qos(1)).open(gateway.port).vanish();
    client.expect(&message, "a will");
    gateway.stop();
    gateway.run();
    link.set(Mode::Pass);
    far.wait_count(2);
    let mut offline = kept.open(gateway.port);
    for got in far.messages() {
        assert!(got.properties == message.properties, "over the bridge");
        offline.expect(&message, "after a restart");
    }
    let mut late = Connect::v5("late").open(gateway.port);
    late.subscribe(&[("t", 1)]);
    late.expect(&message, "retained");
}

#[test]
fn what_names_a_client_is_refused_by_name_when_it_is_too_long() {
    let gateway = Gateway::start(ROOM);
    let refusals = [
        ("client_id", Connect::v5(&"i".repeat(LONGEST)), 0x85),
        ("client_id", Connect::v4(&"i".repeat(LONGEST)), 2),
        ("user", Connect::v5("u5").user(&"u".repeat(LONGEST), "secret"), 0x86),
        ("user", Connect::v4("u4").user(&"u".repeat(LONGEST), "secret"), 4),
    ];
    for (what, connect, code) in refusals {
        let mark = gateway.mark();
        let client = connect.try_open(gateway.port).expect("a CONNACK");
        assert_eq!(client.connack.code, code, "{what}");
        let refused = gateway.wait_from(mark, "client_refused", &[]);
        assert_eq!(refused.number("size"), 65_535, "{}", refused.line);
        assert!(refused.has("limit"), "{}", refused.line);
    }
    // The password of somebody anonymous is nobody's business, however long it is.
    for level in [4, 5] {
        let password = "p".repeat(LONGEST);
        Connect::new(level, "anonymous").user("name", &password).open(gateway.port).disconnect();
    }
}

#[test]
fn filters_and_will_topics_beyond_the_limit_are_refused_by_name() {
    let short = ROOM.replace("limit.topic_bytes = 65535", "limit.topic_bytes = 65534");
    let gateway = Gateway::start(&short);
    let [fits, too_long] = [LONGEST - 1, LONGEST].map(|bytes| "x".repeat(bytes));
    let mut client = Connect::v5("client").open(gateway.port);
    assert_eq!(client.subscribe(&[(&fits, 1), (&too_long, 1)]), [1, 0x8F]);
    let reached = gateway.wait_with("limit_reached", &[("limit", "limit.topic_bytes")]);
    assert_eq!((reached.number("size"), reached.number("max")), (65_535, 65_534));
    let will = |topic: &str| Connect::v5("mortal").will(on(topic)).try_open(gateway.port);
    assert_eq!(will(&fits).expect("a CONNACK").connack.code, 0);
    assert!(will(&too_long).expect("a CONNACK").connack.code >= 0x80);
    let refused = gateway.wait_with("client_refused", &[("key", "limit.topic_bytes")]);
    assert_eq!((refused.number("size"), refused.number("limit")), (65_535, 65_534));
    assert_eq!(client.publish(&on(&too_long).qos(1)), 0x90);
    let dropped = gateway.wait_with("drop", &[("reason", "topic_too_long")]);
    assert_eq!((dropped.number("size"), dropped.number("limit")), (65_535, 65_534));
    assert_eq!(dropped.text("key"), "limit.topic_bytes");
    client.ping();
}
