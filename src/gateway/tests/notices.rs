//! `notify_topic`, when there is no room for its word.

use super::*;
use crate::bridge::link::State;
use crate::mqtt::Qos;
use crate::queue::pool::{Head, RecordId};

const PAIR: &str = "\
ring.messages = 64
bridge.pair.server = mqtt://127.0.0.1:1,mqtt://127.0.0.1:2
bridge.pair.keepalive = 600s
bridge.pair.clientid = our-own
bridge.pair.notify_topic = n/up
bridge.pair.subscribe.1.remote_topic = in/#
";
const BRIDGE: BridgeId = BridgeId(1);
const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
const SUBACK: &[u8] = &[0x90, 4, 0xEA, 0x61, 0, 1];

/// The word as a subscriber of 3.1.1 gets it.
fn word(up: u8) -> [u8; 9] {
    [0x30, 7, 0, 4, b'n', b'/', b'u', b'p', up]
}

fn retained(up: u8) -> [u8; 9] {
    let mut bytes = word(up);
    bytes[0] = 0x31;
    bytes
}

impl World {
    /// Nothing is free in the ring.
    fn fill_ring(&mut self) -> Vec<RecordId> {
        let head = Head {
            topic_bytes: 0,
            props_bytes: 0,
            payload_bytes: 1,
            qos: Qos::AtLeastOnce,
            retain: false,
            arrival: self.now,
            wall_s: 0,
            expiry_s: None,
            source: u16::MAX,
        };
        core::iter::from_fn(|| self.gateway.queue.pool.insert(head).ok()).collect()
    }

    fn free_ring(&mut self, records: Vec<RecordId>) {
        for record in records {
            self.gateway.queue.pool.release(record);
        }
    }

    fn subscribed(&mut self, name: u8) -> ConnId {
        let client = self.client(name);
        self.receive(client, &[0x82, 8, 0, 1, 0, 3, b'n', b'/', b'#', 0]);
        client
    }

    fn is_kept(&self, up: u8) -> bool {
        self.gateway.retained.holds("n/up", &[up])
    }
}

#[test]
fn the_last_word_is_said_at_home_once_there_is_room_and_known_to_others_at_once() {
    let mut world = World::with(PAIR, 64);
    world.gateway.expire(world.now);
    let near = world.subscribed(b'c');
    assert_eq!(world.turn(near)[5..], retained(b'0'));
    let ring = world.fill_ring();
    // Up, down, up, down.
    for addr in ["127.0.0.1:1", "127.0.0.1:2"] {
        let link = world.up(addr, CONNACK);
        assert!(world.is_kept(b'1'));
        assert!(world.sent(link).ends_with(&[0x31, 8, 0, 4, b'n', b'/', b'u', b'p', 0, b'1']));
        world.lose(link);
        assert!(world.is_kept(b'0'));
    }
    assert_eq!(world.turn(near), []);
    world.free_ring(ring);
    assert_eq!(world.turn(near), word(b'0'), "the last one alone");
    let link = world.up("127.0.0.1:1", CONNACK);
    assert_eq!(world.sent(near), word(b'1'));
    world.lose(link);
    assert_eq!(world.sent(near), word(b'0'));
    assert_eq!(world.gateway.queue.counters.drops, 0);
    assert_eq!(world.gateway.notices_owed(), 0);
}

#[test]
fn no_older_word_is_kept_where_there_is_no_room_for_the_newest() {
    let mut world = World::with(&format!("{PAIR}limit.retained = 1\n"), 64);
    world.gateway.expire(world.now);
    assert!(world.is_kept(b'0'));
    let near = world.subscribed(b'c');
    world.turn(near);
    // Somebody else's takes its place.
    world.gateway.retained.clear("n/up");
    let client = world.client(b'd');
    world.receive(client, &[0x31, 4, 0, 1, b'z', b'1']);
    let link = world.up("127.0.0.1:1", CONNACK);
    assert_eq!(world.sent(near), word(b'1'), "who is there hears of it");
    assert!(!world.is_kept(b'1'));
    world.lose(link);
    assert_eq!(world.sent(near), word(b'0'));
    for _ in 0..5 {
        assert_eq!(world.turn(near), [], "and once");
    }
    // Its place is free again.
    world.receive(client, &[0x31, 3, 0, 1, b'z']);
    world.turn(near);
    assert!(world.is_kept(b'0'));
    assert_eq!(world.gateway.notices_owed(), 0);
}

#[test]
fn the_remote_hears_it_behind_replies_that_have_no_room_for_it() {
    let mut world = World::with(PAIR, 64);
    let (conn, _) = world.greeting("127.0.0.1:1");
    // As many answers as there is room for.
    let slot = conn.slot;
    while world.gateway.reply(slot, &crate::mqtt::Packet::Pingresp) == receive::Step::Done {}
    world.hear(conn, CONNACK);
    assert_eq!(world.gateway.link(BRIDGE).state, State::Up { conn });
    assert_eq!(world.gateway.notices_owed(), 1);
    let mut said = Vec::new();
    while world.gateway.notices_owed() > 0 || !said.ends_with(b"n/up\x001") {
        said.append(&mut world.sent(conn));
        said.append(&mut world.turn(conn));
    }
    world.hear(conn, SUBACK);
    world.lose(conn);
    assert_eq!(world.gateway.notices_owed(), 0, "nothing is owed to who is gone");
}

#[test]
fn whoever_is_left_publishes_the_will() {
    let (mut world, live, candidate) = World::with_candidate_of(PAIR);
    world.hear(candidate, CONNACK);
    assert!(world.sent(live).ends_with(&[0xE0, 1, 0x04]), "the second server");
    assert!(world.is_over(live));
    assert!(world.is_kept(b'1'));
}

#[test]
fn at_a_clean_stop_the_store_says_that_no_bridge_is_up() {
    let mut world = World::with(PAIR, 64);
    let link = world.up("127.0.0.1:1", CONNACK);
    world.turn(link);
    world.gateway.handle(world.now, Event::Stop { signal: "SIGTERM" });
    world.turn(link);
    let mut last = None;
    let kept = |key: &[u8], value: &[u8]| (key == b"n/up").then(|| value.to_vec());
    world.disk.scan(Table::Retained, &mut |key, value| last = kept(key, value)).unwrap();
    let row = last.expect("it is retained");
    let value = crate::queue::store::unseal(Table::Retained, b"n/up", &row).unwrap();
    assert_eq!(value.last(), Some(&b'0'));
}
