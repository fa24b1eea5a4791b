//! Crowds that take what all share and do not use it: what everybody else notices of it.

use crate::common::client::{Client, dial};
use crate::common::gateway::Gateway;
use crate::common::wire::{self, Connect, Message, Packet};
use std::io::Write;

fn subscription(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{}/{n}", "f".repeat(90))).collect()
}

fn subscribe_large(client: &mut Client) {
    let filters = subscription(40);
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    assert_eq!(client.subscribe(&filters).len(), 40);
}

/// A CONNECT with a password of so many bytes.
fn large_connect(id: &str, bytes: usize) -> Connect {
    Connect::v5(id).user("u", &"p".repeat(bytes))
}

fn refusals(gateway: &Gateway, reason: &str) -> usize {
    gateway
        .events()
        .iter()
        .filter(|event| event.has("reason") && event.text("reason") == reason)
        .count()
}

#[test]
fn half_of_a_large_connect_takes_nothing_from_those_who_are_in() {
    for large_buffers in [1, 2, 4] {
        let gateway = Gateway::start(&format!("limit.large_buffers = {large_buffers}"));
        let mut inside = Connect::v5("inside").open(gateway.port);
        // Some of them with as much as a socket may hold.
        let crowd: Vec<_> = (0..8)
            .map(|n| {
                let mut stream = dial(gateway.port).expect("it listens");
                let bytes = large_connect(&format!("half-{n}"), 50_000).bytes();
                let here = if n < 7 || large_buffers == 1 { 2100 } else { 18_000 };
                stream.write_all(&bytes[..here]).expect("it reads");
                stream
            })
            .collect();
        inside.ping();
        subscribe_large(&mut inside);
        inside.publish(&Message::new("t", vec![b'x'; 4000]).qos(1));
        large_connect("whole", 20_000).open(gateway.port).ping();
        subscribe_large(&mut inside);
        assert_eq!(refusals(&gateway, "no_connect"), 0, "nobody waited until they were gone");
        drop(crowd);
    }
}

#[test]
fn half_of_a_large_packet_gives_way_to_whole_ones_and_is_told_why() {
    let gateway = Gateway::start("limit.large_buffers = 1");
    let mut honest = Connect::v5("honest").open(gateway.port);
    let filters = subscription(300);
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    let subscribe = wire::subscribe(5, 1, &filters, &[]);
    let mut half = Connect::v5("half").open(gateway.port);
    half.send(&subscribe[..20_000]);
    subscribe_large(&mut honest);
    let gone = gateway.wait_with("client_disconnected", &[("reason", "slow_packet")]);
    assert_eq!((gone.text("client"), gone.text("key")), ("half", "limit.large_buffers"));
    assert_eq!(gone.number("size"), u64::try_from(subscribe.len()).expect("small"));
    assert!(gone.number("rate") < 2048);
    let told = |packet: &Packet| matches!(packet, Packet::Disconnect { code: 0x89 }).then_some(());
    half.wait("DISCONNECT", told);
}

#[test]
fn a_crowd_of_half_messages_gives_way_one_by_one_to_who_has_a_whole_one() {
    let gateway = Gateway::start("");
    let crowd: Vec<Client> = (0..12)
        .map(|n| {
            let mut client = Connect::v5(&format!("half-{n}")).open(gateway.port);
            let large = Message::new("t", vec![b'x'; 200_000]).qos(1);
            client.send(&Message { id: 1, ..large }.bytes(5)[..5000]);
            client
        })
        .collect();
    for (count, gone) in [(4000, 0), (60_000, 0), (200_000, 1)] {
        let mut late = Connect::v5("late").open(gateway.port);
        assert!(late.publish(&Message::new("t", vec![b'x'; count]).qos(1)) < 0x80);
        // Of the twelve some may go for each other meanwhile.
        let went = refusals(&gateway, "slow_packet");
        assert!((gone..6).contains(&went), "{went} went for one of {count} bytes");
    }
    let gone = gateway.wait_with("client_disconnected", &[("reason", "slow_packet")]);
    assert_eq!((gone.text("key"), gone.number("limit")), ("ring.bytes", 524_288));
    drop(crowd);
}
