//! Other bridges connect to us: before MQTT 5 they say so with a bit of the protocol level, and
//! want neither what they published themselves nor RETAIN taken off.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};

const COUNT: usize = 200;

/// Both ends publish and collect; everything comes once at both. What is retained at one is
/// retained at the other.
fn once_at_both_ends(near: u16, far: u16) {
    let collectors = [("near", near), ("far", far)].map(|(name, port)| {
        (
            Collector::start(port, name, "n/near"),
            Collector::start(port, &format!("{name}-2"), "n/far"),
        )
    });
    Publisher::numbered("publisher", "n/near", 2, COUNT).window(10).run(near);
    Publisher::numbered("publisher", "n/far", 2, COUNT).window(10).run(far);
    let ends = [(near, far, "n/r/near"), (far, near, "n/r/far")];
    for (port, _, topic) in ends {
        let retained = Message::new(topic, "kept").qos(1).retained();
        Connect::v4("retainer").open(port).publish(&retained);
    }
    for (from_near, from_far) in &collectors {
        assert_eq!(from_near.wait_all_in_order(COUNT), 0);
        assert_eq!(from_far.wait_all_in_order(COUNT), 0);
    }
    for (_, other, topic) in ends {
        // It is behind everything else, so that all that could have come twice has.
        let watcher = Collector::start(other, "watcher", topic);
        watcher.wait_count(1);
        let kept = Collector::start(other, "late", topic);
        kept.wait("it is retained there", |messages| messages.iter().any(|m| m.retain));
    }
    for (from_near, from_far) in &collectors {
        assert_eq!((from_near.count(), from_far.count()), (COUNT, COUNT));
    }
}

#[test]
fn a_mosquitto_that_bridges_everything_both_ways_gets_nothing_of_its_own_back() {
    for protocol in ["mqttv31", "mqttv311"] {
        let gateway = Gateway::start("");
        let remote = Mosquitto::start_with(&format!(
            "connection to-us\naddress 127.0.0.1:{}\ntopic # both 2\ncleansession false\n\
             notifications false\nbridge_protocol_version {protocol}\n",
            gateway.port
        ));
        gateway.wait("client_connected");
        gateway.wait_stats("its subscription", |stats| stats.number("subs") == 1);
        once_at_both_ends(remote.port, gateway.port);
    }
}

#[test]
fn two_gateways_whose_rules_cross_bring_everything_once() {
    for version in ["3", "4", "5"] {
        let far = Gateway::start("");
        let version = format!("proto_ver = {version}");
        let rules = [
            &version,
            "forward.1.local_topic = #",
            "subscribe.1.remote_topic = #",
            "subscribe.1.qos = 2",
        ];
        let near = Gateway::start(&bridge("far", far.port, &rules));
        near.wait("bridge_up");
        far.wait_stats("its subscription", |stats| stats.number("subs") == 1);
        once_at_both_ends(near.port, far.port);
    }
}

/// The bit is the connection's: it counts for what the session has subscribed to before, after a
/// restart too, and not for a connection without it.
#[test]
fn the_bit_counts_for_a_stored_session_and_as_long_as_it_is_set() {
    for level in [3, 4] {
        let mut gateway = Gateway::start("");
        let plain = Connect::new(level, "bridge").persistent();
        let bit = Connect { level: 0x80 | level, ..plain.clone() };
        let publish = |client: &mut crate::common::client::Client, text: &str| {
            client.publish(&Message::new("t", text).qos(1).retained());
        };
        let other = Connect::v4("other");
        // What it hears when it and another publish, and how.
        let hears = |port: u16, connect: &Connect| {
            let mut client = connect.open(port);
            publish(&mut client, "own");
            let mut other = other.open(port);
            publish(&mut other, "other's");
            publish(&mut other, "last");
            let heard = client.until("last");
            client.disconnect();
            heard.iter().map(|m| (m.text(), m.retain)).collect::<Vec<_>>()
        };
        let as_client = [("own".to_owned(), false), ("other's".to_owned(), false)];
        let as_bridge = [("other's".to_owned(), true)];
        let mut client = plain.open(gateway.port);
        client.subscribe(&[("t", 0)]);
        client.disconnect();
        assert_eq!(hears(gateway.port, &plain), as_client);
        assert_eq!(hears(gateway.port, &bit), as_bridge);
        gateway.kill();
        gateway.run();
        assert_eq!(hears(gateway.port, &bit), as_bridge, "after a restart");
        assert_eq!(hears(gateway.port, &plain), as_client);
        let mut client = bit.open(gateway.port);
        client.subscribe(&[("t", 0)]);
        assert_eq!(client.next().text(), "last", "what others have retained");
        client.disconnect();
        assert_eq!(hears(gateway.port, &bit), as_bridge, "subscribed with the bit");
    }
}
