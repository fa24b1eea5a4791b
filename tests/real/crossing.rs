//! Bridges whose rules cross: what one brings, another forwards. The outage of the second takes
//! nothing from the first but what cannot be kept for it, and that only until it is back.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};

struct Crossing {
    near: Mosquitto,
    far: Collector,
    link: Proxy,
    gateway: Gateway,
    _remote: Mosquitto,
}

/// Bridge `a` brings `down/#` and forwards `up/#`; bridge `b` forwards `down/#`, is down, and takes
/// no more than ten messages.
fn crossing(version: &str, configuration: &str) -> Crossing {
    // More is under way to us at once than `b` has room for, and than is kept by default.
    let near = Mosquitto::start_with("max_inflight_messages 100\nmax_queued_messages 0");
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "down/#");
    let a = bridge(
        "a",
        near.port,
        &[
            "forward.1.local_topic = up/#",
            "subscribe.1.remote_topic = down/#",
            "ack_timeout = 2s",
            "keepalive = 2s",
            version,
        ],
    );
    let b = bridge("b", link.port, &["forward.1.local_topic = down/#", "max_messages = 10"]);
    let gateway = Gateway::start(&format!("{configuration}\n{a}\n{b}"));
    gateway.wait_with("bridge_up", &[("bridge", "a")]);
    gateway.wait_with("bridge_down", &[("bridge", "b")]);
    Crossing { near, far, link, gateway, _remote: remote }
}

fn downs(gateway: &Gateway) -> Vec<String> {
    let events = gateway.events().into_iter();
    let of_a = events.filter(|event| event.is("bridge_down", &[("bridge", "a")]));
    of_a.map(|event| event.text("reason").to_owned()).collect()
}

impl Crossing {
    /// Numbers from `a`'s remote, `bytes` each, and meanwhile numbers the other way, which all
    /// arrive though `b` takes none of the first.
    fn both_ways(&self, qos: u8, count: usize, bytes: usize) {
        let plan = (0..count).map(|n| Message::new("down/n", zeros(n, bytes)).qos(qos)).collect();
        let seen = Collector::start(self.near.port, "seen", "up/#");
        Publisher::new(Connect::v4("source"), 20, plan).run(self.near.port);
        self.gateway.wait_with("backpressure_on", &[("destination", "b")]);
        // Longer than `ack_timeout`: each of them waits for the one before.
        Publisher::new(
            Connect::v4("up"),
            1,
            (0..200).map(|n| Message::new("up/n", n.to_string()).qos(1)).collect(),
        )
        .run(self.gateway.port);
        assert_eq!(seen.wait_all_in_order(200), 0);
    }

    fn and_then_everything(&self, qos: u8, count: usize) {
        self.link.set(Mode::Pass);
        let again = self.far.wait_all_in_order(count);
        assert!(qos < 2 || again == 0, "{again} came twice");
    }
}

#[test]
fn a_window_of_mqtt_5_is_kept_and_the_uplink_stands() {
    for qos in [1, 2] {
        let crossing = crossing("proto_ver = 5", "");
        crossing.both_ways(qos, 60, 4000);
        crossing.and_then_everything(qos, 60);
        assert_eq!(downs(&crossing.gateway), Vec::<String>::new());
    }
}

#[test]
fn a_window_before_mqtt_5_is_kept_and_the_uplink_stands() {
    for qos in [1, 2] {
        let crossing = crossing("proto_ver = 4", "");
        crossing.both_ways(qos, 16, 9000);
        crossing.and_then_everything(qos, 16);
        assert_eq!(downs(&crossing.gateway), Vec::<String>::new());
    }
}

/// More than the ring may keep of it: what is left stays with the remote, and is fetched when the
/// rest is through. The uplink stands until then.
#[test]
fn a_window_that_cannot_be_kept_stays_with_its_remote_and_nothing_else_suffers() {
    for version in ["proto_ver = 5", "proto_ver = 4"] {
        let crossing = crossing(version, "");
        crossing.both_ways(2, 90, 40_000);
        assert_eq!(downs(&crossing.gateway), Vec::<String>::new(), "{version}");
        crossing.and_then_everything(2, 90);
        let downs = downs(&crossing.gateway);
        assert!(!downs.is_empty() && downs.iter().all(|r| r == "fetch_again"), "{downs:?}");
    }
}

/// Messages of every size, more of them than one large buffer held.
#[test]
fn large_and_small_ones_wait_in_their_order() {
    let crossing = crossing("proto_ver = 5", "");
    let sizes = [10, 3000, 100_000, 1, 50_000, 2000, 2100, 200_000, 5];
    let plan = (0..60)
        .map(|n| {
            let bytes = sizes[n % sizes.len()];
            Message::new("down/n", zeros(n, bytes)).qos(1)
        })
        .collect();
    Publisher::new(Connect::v4("source"), 20, plan).run(crossing.near.port);
    crossing.gateway.wait_with("backpressure_on", &[("destination", "b")]);
    let mut client = Connect::v5("client").open(crossing.gateway.port);
    assert_eq!(client.publish(&Message::new("up/n", "0").qos(1)), 0);
    crossing.and_then_everything(1, 60);
}

/// A number with so many digits.
fn zeros(n: usize, digits: usize) -> String {
    let text = n.to_string();
    "0".repeat(digits.saturating_sub(text.len())) + &text
}
