//! Messages as large as the device list of a zigbee2mqtt hub: every way a message can take, on the
//! default configuration.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{Connect, Message};

/// The device list. The bytes tell where they lie.
fn list(name: &str) -> Vec<u8> {
    (0..200_000 / 20).flat_map(|n| format!("{name:>9} {n:09}\n").into_bytes()).collect()
}

fn expect(client: &mut Client, topic: &str, name: &str) {
    let got = client.next();
    assert_eq!(got.topic, topic);
    assert!(got.payload == list(name), "{name} of {} bytes", got.payload.len());
}

#[test]
fn a_device_list_reaches_every_subscriber_at_every_qos_in_every_version() {
    let gateway = Gateway::start("");
    let mut subscribers: Vec<Client> = (0..6)
        .map(|n| {
            let mut client = Connect::new(4 + n / 3, &format!("s{n}")).open(gateway.port);
            client.subscribe(&[("zigbee2mqtt/#", n % 3)]);
            client
        })
        .collect();
    for level in [4, 5] {
        let mut hub = Connect::new(level, "hub").open(gateway.port);
        for qos in 0..=2 {
            let name = format!("{level}-{qos}");
            let message = Message::new("zigbee2mqtt/bridge/devices", list(&name)).qos(qos);
            assert_eq!(hub.publish(&message.retained()), 0);
            for client in &mut subscribers {
                expect(client, "zigbee2mqtt/bridge/devices", &name);
            }
        }
        let mut late = Connect::new(level, "late").open(gateway.port);
        late.subscribe(&[("zigbee2mqtt/bridge/+", 2)]);
        expect(&mut late, "zigbee2mqtt/bridge/devices", &format!("{level}-2"));
    }
    assert!(gateway.events().iter().all(|event| event.name != "drop"));
}

#[test]
fn a_device_list_crosses_a_bridge_both_ways_and_outlives_a_kill() {
    for version in ["proto_ver = 5", "proto_ver = 4"] {
        let remote = Mosquitto::start_persistent();
        let link = Proxy::start(remote.port);
        let rules = ["forward.1.local_topic = up/#", "subscribe.1.remote_topic = down/#", version];
        let mut gateway = Gateway::start(&bridge("hub", link.port, &rules));
        gateway.wait("bridge_up");
        let far = Collector::start(remote.port, "far", "up/#");
        let mut near = Connect::v5("near").persistent().open(gateway.port);
        near.subscribe(&[("down/#", 2)]);
        let mut source = Connect::v5("source").open(remote.port);
        for qos in 0..=2 {
            let name = format!("up-{qos}");
            near.publish(&Message::new("up/list", list(&name)).qos(qos).retained());
            far.wait_count(usize::from(qos) + 1);
            let last = far.messages().last().expect("one came").payload.clone();
            assert!(last == list(&name), "{version}: {name} of {} bytes", last.len());
            let name = format!("down-{qos}");
            source.publish(&Message::new("down/list", list(&name)).qos(qos).retained());
            expect(&mut near, "down/list", &name);
        }
        // In the store, in flight and retained, when the process dies.
        link.set(Mode::Refuse);
        gateway.wait("bridge_down");
        for qos in 1..=2 {
            let message = Message::new("up/list", list(&format!("kept-{qos}"))).qos(qos);
            assert_eq!(near.publish(&message), 0, "{version}");
        }
        gateway.kill();
        link.set(Mode::Pass);
        gateway.run();
        far.wait(&format!("both of the store, {version}"), |messages| {
            let has = |name: &str| messages.iter().any(|message| message.payload == list(name));
            has("kept-1") && has("kept-2")
        });
        let count = far.messages().iter().filter(|m| m.payload == list("kept-2")).count();
        assert_eq!(count, 1, "QoS 2 comes once");
    }
}

#[test]
fn large_messages_that_are_begun_and_not_ended_take_only_their_part() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("t/#", 1)]);
    let whole = Message { id: 1, ..Message::new("t/slow", list("slow")).qos(1) }.bytes(5);
    let slow: Vec<Client> = (0..3)
        .map(|n| {
            let mut client = Connect::v5(&format!("slow-{n}")).open(gateway.port);
            client.send(&whole[..150_000.min(whole.len())]);
            client
        })
        .collect();
    // Small ones are not in their way, of whatever QoS.
    let mut client = Connect::v5("client").open(gateway.port);
    for qos in 0..=2 {
        client.publish(&Message::new("t/small", "small").qos(qos));
        assert_eq!(watcher.next().text(), "small");
    }
    // A large one gets its place when those that stand still are sent away.
    assert_eq!(client.publish(&Message::new("t/large", list("large")).qos(1)), 0);
    expect(&mut watcher, "t/large", "large");
    gateway.wait_with("client_disconnected", &[("reason", "slow_packet")]);
    // Who goes on in time is served; who has gone leaves nothing behind.
    drop(slow);
    let mut again = Connect::v5("again").open(gateway.port);
    again.send(&whole[..100_000]);
    again.send(&whole[100_000..]);
    expect(&mut watcher, "t/slow", "slow");
}

#[test]
fn a_large_message_behind_others_that_wait_keeps_its_order() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "n");
    let rules = ["forward.1.local_topic = n", "max_messages = 3"];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    gateway.wait("bridge_down");
    for level in [4, 5] {
        let mut client = Connect::new(level, &format!("client-{level}")).open(gateway.port);
        client.subscribe(&[("other", 1)]);
        let sizes = [1, 2, 3, 200_000, 1, 70_000, 3000, 5];
        for (n, bytes) in sizes.into_iter().enumerate() {
            let n = n + usize::from(level - 4) * sizes.len();
            client.publish_without_waiting(&Message::new("n", zeros(n, bytes)).qos(1));
        }
        link.set(Mode::Pass);
        // Closed with answers unread, what is on its way would be lost with the connection.
        for _ in sizes {
            client.wait("PUBACK", |packet| {
                matches!(packet, crate::common::wire::Packet::Ack(_)).then_some(())
            });
        }
    }
    assert_eq!(far.wait_all_in_order(16), 0);
}

/// A number with so many digits.
fn zeros(n: usize, digits: usize) -> String {
    let text = n.to_string();
    "0".repeat(digits.saturating_sub(text.len())) + &text
}
