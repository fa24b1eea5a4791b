//! A short pool: an accepted message goes only when the one it goes for really gets in.

use super::*;

/// A second bridge that keeps one message, QoS 0 too, and gives it up for a newer one.
const SMALL: &str = "\
ack = ring
ring.messages = 64
limit.inflight = 1024
bridge.small.server = mqtt://127.0.0.1:1
bridge.small.max_messages = 1
bridge.small.overflow = drop_oldest
bridge.small.queue_qos0 = true
bridge.small.forward.a.local_topic = s/#
";

const UP: DestId = DestId(0);
const SMALL_BRIDGE: DestId = DestId(1);

impl World {
    /// Publishes at QoS 1 to bridge `up` until just so many records are free.
    fn fill(&mut self, client: ConnId, free: u32) {
        while self.gateway.queue.pool.free_records() > free {
            self.publish_1(client, b"t/a");
        }
    }

    fn publish_1(&mut self, client: ConnId, topic: &[u8; 3]) {
        let [a, b, c] = *topic;
        self.receive(client, &[0x32, 7, 0, 3, a, b, c, 0, 1]);
        assert_eq!(self.sent(client), [0x40, 2, 0, 1]);
    }

    fn pending(&self) -> (u64, u64) {
        let pending = |dest| self.gateway.queue.outbox(dest).pending;
        (pending(UP), pending(SMALL_BRIDGE))
    }
}

#[test]
fn qos_0_evicts_nothing_accepted_when_it_is_dropped_itself() {
    let mut world = World::with(SMALL, 64);
    let client = world.client(b'c');
    world.publish_1(client, b"s/a");
    // A quarter of 64 is kept from QoS 0: one that goes makes no room for it.
    world.fill(client, 15);
    let oldest = world.gateway.queue.oldest_arrival(SMALL_BRIDGE);
    world.now = world.now.plus(Duration::from_secs(1));
    world.receive(client, &[0x30, 5, 0, 3, b's', b'/', b'b']);
    assert_eq!(world.gateway.queue.counters.drops, 1, "it was dropped");
    assert_eq!(world.gateway.queue.oldest_arrival(SMALL_BRIDGE), oldest, "what was accepted stays");
    assert_eq!(world.pending(), (48, 1));
}

#[test]
fn the_oldest_goes_when_that_is_room_enough() {
    let mut world = World::with(SMALL, 64);
    let client = world.client(b'c');
    world.publish_1(client, b"s/a");
    world.fill(client, 16);
    world.now = world.now.plus(Duration::from_secs(1));
    world.receive(client, &[0x30, 5, 0, 3, b's', b'/', b'b']);
    assert_eq!(world.gateway.queue.oldest_arrival(SMALL_BRIDGE), Some(world.now));
    assert_eq!(world.gateway.queue.counters.drops, 1, "the older one");
    assert_eq!(world.gateway.queue.pool.free_records(), 16);
}

#[test]
fn a_message_that_another_destination_keeps_makes_no_room() {
    let both = "bridge.up.forward.b.local_topic = s/#\n";
    let mut world = World::with(&format!("{SMALL}{both}"), 64);
    let client = world.client(b'c');
    world.publish_1(client, b"s/a");
    // A sixteenth of 64 is kept from clients.
    world.fill(client, 4);
    let mut publish = [0x32, 7, 0, 3, b's', b'/', b'b', 0, 2];
    for _ in 0..3 {
        let taken = world.gateway.receive(world.now, client, &mut publish);
        assert_eq!(taken.kept, publish.len(), "it waits");
    }
    assert_eq!(world.gateway.queue.counters.drops, 0);
    assert_eq!(world.pending(), (60, 1));
    // Once nobody else keeps it, it does.
    let drop = (UP, crate::queue::trim::Scope::All, crate::queue::DropReason::Expired);
    world.gateway.queue.drop_oldest(drop.0, drop.1, drop.2);
    world.gateway.conns[usize::from(client.slot)].retry = true;
    let taken = world.gateway.receive(world.now, client, &mut publish);
    assert_eq!(taken.kept, 0);
    assert_eq!((world.pending(), world.gateway.queue.counters.drops), ((60, 1), 2));
}
