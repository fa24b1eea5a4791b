//! Whatever has a length, at the borders of the fields that say lengths: what is accepted is
//! passed on whole, on every way that a message can take, and the rest is refused by name.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{Connect, Message, Property, user_property};

/// Every message of these tests fits, and two of them into the ring.
const ROOM: &str = "limit.packet_size = 256KiB\nring.bytes = 4MiB\nlimit.retained_bytes = 4MiB\n\
                    session.max_bytes = 16MiB\nstore.retained_after = 0s\n\
                    limit.will_bytes = 1MiB\n";

/// User properties of `bytes` in all, as they are encoded.
fn user_properties(mut bytes: usize) -> Vec<Property> {
    let mut list = Vec::new();
    while bytes > 0 {
        // Never fewer left than the next one has to have.
        let here = if bytes > 40_010 { 40_000 } else { bytes };
        list.push(user_property("k", &"v".repeat(here - 6)));
        bytes -= here;
    }
    list
}

fn heavy(topic: &str, bytes: usize) -> Message {
    let payload = format!("{bytes} bytes of properties");
    Message { properties: user_properties(bytes), ..Message::new(topic, payload) }
}

/// The nearest to 16 bits of length, and nearly all of a packet.
fn lengths() -> Vec<usize> {
    let overhead = Message::new("t", format!("{} bytes of properties", 262_000)).bytes(5).len();
    // Remaining length and the properties' take three bytes there, one each without properties;
    // and a packet identifier.
    vec![65_534, 65_535, 65_536, 65_537, 131_072, 256 * 1024 - overhead - 4 - 2]
}

#[test]
fn properties_pass_live_offline_retained_and_over_a_restart() {
    let mut gateway = Gateway::start(ROOM);
    let kept = Connect::v5("kept").persistent();
    let mut offline = kept.open(gateway.port);
    offline.subscribe(&[("t", 2)]);
    offline.disconnect();
    let mut client = Connect::v5("client").open(gateway.port);
    let mut old = Connect::v4("old").open(gateway.port);
    client.subscribe(&[("t", 2)]);
    old.subscribe(&[("t", 2)]);
    for bytes in lengths() {
        for qos in [0, 1, 2] {
            let message = heavy("t", bytes).qos(qos);
            assert_eq!(client.publish(&message), 0);
            client.expect(&message, "live");
            assert_eq!(old.next().text(), message.text(), "live, without them");
        }
        let message = heavy(&format!("r/{bytes}"), bytes - 10).qos(1).retained();
        assert!(client.publish(&message) < 0x80, "{bytes}");
    }
    gateway.stop();
    gateway.run();
    let mut offline = kept.open(gateway.port);
    for bytes in lengths() {
        for qos in [1, 2] {
            offline.expect(&heavy("t", bytes).qos(qos), "after a restart");
        }
    }
    for bytes in lengths() {
        let topic = format!("r/{bytes}");
        offline.subscribe(&[(&topic, 1)]);
        offline.expect(&heavy(&topic, bytes - 10), "retained");
    }
}

#[test]
fn properties_pass_both_ways_over_a_bridge_that_makes_the_topic_longer() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let prefix = format!("{}/", "p".repeat(100));
    let rules = [
        "forward.1.local_topic = out/#",
        &format!("forward.1.prefix = {prefix}"),
        "subscribe.1.remote_topic = in/#",
        &format!("subscribe.1.prefix = {prefix}"),
    ];
    let gateway = Gateway::start(&format!("{ROOM}{}", bridge("up", link.port, &rules)));
    let far = Connect::v5("far").persistent();
    let far = Collector::start_with(remote.port, far, &format!("{prefix}out/#"), 2);
    let mut near = Connect::v5("near").open(gateway.port);
    for bytes in lengths() {
        // Waits on the disk while the remote is away.
        assert_eq!(near.publish(&heavy("out/t", bytes - 4).qos(1)), 0);
    }
    link.set(Mode::Pass);
    gateway.wait("bridge_up");
    for bytes in lengths() {
        assert_eq!(near.publish(&heavy("out/t", bytes - 4).qos(2)), 0);
    }
    far.wait_count(2 * lengths().len());
    for (got, bytes) in far.messages().iter().zip(lengths().into_iter().chain(lengths())) {
        let sent = heavy("out/t", bytes - 4);
        assert_eq!(got.text(), sent.text());
        assert!(got.properties == sent.properties, "{bytes}");
    }
    near.subscribe(&[("#", 2)]);
    let mut there = Connect::v5("there").open(remote.port);
    for bytes in lengths() {
        let message = heavy("in/t", bytes - 3).qos(1);
        assert!(there.publish(&message) < 0x80);
        let here = Message { topic: format!("{prefix}in/t"), ..message };
        near.expect(&here, "from the remote");
    }
}

#[test]
fn wills_of_every_length_are_published() {
    let gateway = Gateway::start(ROOM);
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    for bytes in [65_534, 65_535, 65_536, 131_072] {
        let will = heavy("will", bytes).qos(1);
        Connect::v5("mortal").will(will.clone()).open(gateway.port).vanish();
        watcher.expect(&will, "a will");
    }
    for bytes in [65_534, 65_535] {
        let will = Message::new("will", "x".repeat(bytes)).qos(1);
        Connect::v5("mortal").will(will.clone()).open(gateway.port).vanish();
        assert_eq!(watcher.next().payload.len(), bytes);
    }
}

#[test]
fn properties_that_no_record_can_hold_are_refused_alone() {
    const LARGEST: usize = (1 << 20) - 1;
    let room = "limit.packet_size = 2MiB\nring.bytes = 8MiB\nlimit.will_bytes = 4MiB\n\
                session.max_bytes = 16MiB";
    let gateway = Gateway::start(room);
    let kept = Connect::v5("kept").persistent();
    let mut offline = kept.open(gateway.port);
    offline.subscribe(&[("t", 2)]);
    offline.disconnect();
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("t", 2)]);
    for qos in [0, 1, 2] {
        let fits = heavy("t", LARGEST).qos(qos);
        assert_eq!(client.publish(&fits), 0, "QoS {qos}");
        client.expect(&fits, "the largest");
        let refused = if qos == 0 { 0 } else { 0x97 };
        assert_eq!(client.publish(&heavy("t", LARGEST + 1).qos(qos)), refused, "QoS {qos}");
        gateway.wait_with("drop", &[("reason", "properties_too_large")]);
    }
    client.ping();
    let mut offline = kept.open(gateway.port);
    for qos in [1, 2] {
        offline.expect(&heavy("t", LARGEST).qos(qos), "from the disk");
    }
    let will = |bytes| Connect::v5("mortal").will(heavy("will", bytes)).try_open(gateway.port);
    assert_eq!(will(LARGEST + 1).expect("a CONNACK").connack.code, 0x95);
    gateway.wait_with("client_refused", &[("reason", "will_properties_too_large")]);
    assert_eq!(will(LARGEST).expect("a CONNACK").connack.code, 0);
}

/// A PUBLISH at QoS 1 that is `total` bytes long, nearly all of them properties.
fn whole(topic: &str, total: usize) -> Message {
    let with =
        |properties| Message { properties, ..Message::new(topic, format!("{total} bytes")).qos(1) };
    let overhead = with(user_properties(60_000)).bytes(5).len() - 60_000;
    let message = with(user_properties(total - overhead));
    assert_eq!(message.bytes(5).len(), total);
    message
}

#[test]
fn a_packet_of_just_any_size_reaches_every_kind_of_reader_and_a_longer_topic_beyond_a_bridge() {
    let remote = Mosquitto::start();
    let prefix = "p".repeat(101);
    let rules = ["forward.1.local_topic = t/#", &format!("forward.1.prefix = {prefix}")];
    let gateway = Gateway::start(&format!("{ROOM}{}", bridge("up", remote.port, &rules)));
    gateway.wait("bridge_up");
    let far = Collector::start_with(remote.port, Connect::v5("far"), "#", 1);
    let mut shared = Connect::v5("shared").open(gateway.port);
    shared.subscribe(&[("$share/g/t/#", 1)]);
    let mut named = Connect::v5("named").open(gateway.port);
    // Its copies say the subscription besides.
    named.subscribe_with(&[("t/#", 1)], &[(0x0B, vec![0x80, 1])]);
    let mut old = Connect::v4("old").open(gateway.port);
    old.subscribe(&[("t/#", 1)]);
    let mut client = Connect::v5("client").open(gateway.port);
    let sizes = [65_500, 65_535, 65_536, 65_537, 131_072, 262_143, 262_144];
    for total in sizes {
        let message = whole("t/x", total);
        assert_eq!(client.publish(&message), 0, "{total}");
        shared.expect(&message, "shared");
        assert_eq!(named.next().text(), message.text(), "with an identifier");
        assert_eq!(old.next().text(), message.text(), "without properties");
    }
    far.wait_count(sizes.len());
    for (got, total) in far.messages().iter().zip(sizes) {
        let sent = whole("t/x", total);
        assert_eq!((got.topic.as_str(), got.text()), (&*format!("{prefix}t/x"), sent.text()));
        assert!(got.properties == sent.properties, "{total}");
    }
    client.send(&whole("t/x", 262_145).bytes(5));
    gateway.wait_with("client_disconnected", &[("reason", "too_large"), ("size", "262145")]);
    assert!(gateway.events().iter().all(|event| event.name != "drop"));
}
