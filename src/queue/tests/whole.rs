//! A message of QoS 2 is durable for all of its destinations or for none.

use super::*;

impl World {
    fn publish_to_both(&mut self, topic: &str, bytes: usize) {
        let record = self.publish(A, topic, Qos::ExactlyOnce, bytes);
        self.queue.push(B, record, plain(Qos::ExactlyOnce));
    }

    fn stored(&self) -> [u64; 2] {
        [A, B].map(|dest| self.queue.outbox(dest).stored)
    }
}

#[test]
fn a_commit_that_cannot_take_everything_tears_no_message_apart() {
    let mut world = World::with(|setup, _| {
        setup.bytes = 2 << 20;
        setup.slot_count = 512;
    });
    for _ in 0..100 {
        world.publish_to_both("t", 7900);
    }
    let mut commits = 0;
    while world.stored() != [100, 100] {
        let before = world.stored();
        world.pass(300);
        world.flush();
        let [a, b] = world.stored();
        assert_eq!(a, b);
        assert!(a > before[0]);
        commits += 1;
    }
    assert!(commits > 1, "it was too much for one commit");
}

/// Copies of one message under two topics, both for one destination and the second for another.
#[test]
fn the_copies_of_a_message_are_durable_together() {
    let mut world = World::with(|setup, _| {
        setup.bytes = 2 << 20;
        setup.slot_count = 512;
    });
    let mut last = None;
    for _ in 0..60 {
        let lead = world.publish(A, "t", Qos::ExactlyOnce, 7900);
        let copy = world.publish(A, "u", Qos::ExactlyOnce, 7900);
        world.queue.push(B, copy, plain(Qos::ExactlyOnce));
        world.queue.pool.follow(copy, lead);
        last = Some(lead);
    }
    let mut commits = 0;
    while world.stored() != [120, 60] {
        assert!(!world.is_settled(last.unwrap()));
        let before = world.stored();
        world.pass(300);
        world.flush();
        let [a, b] = world.stored();
        assert_eq!(a, 2 * b);
        assert!(a > before[0]);
        commits += 1;
    }
    assert!(world.is_settled(last.unwrap()));
    assert!(commits > 1, "it was too much for one commit");
}

#[test]
fn a_disk_with_room_for_one_destination_tears_no_message_apart() {
    let mut world = World::new();
    world.connect(A, true);
    // Two slots, one of them free again.
    for _ in 0..5 {
        world.publish(A, "t", Qos::AtLeastOnce, 7900);
    }
    world.evict(A);
    assert_eq!(world.drain(A).len(), 5);
    world.queue.disconnected(A);
    world.disk.full = true;
    world.publish_to_both("u", 7900);
    world.run(10_000);
    assert_eq!(world.stored(), [0, 0]);
    world.disk.full = false;
    world.run(10_000);
    assert_eq!(world.stored(), [1, 1]);
    assert!(!world.queue.frugal, "the disk has room again");
}

#[test]
fn on_a_full_disk_whoever_has_room_there_goes_on() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut world = World::new();
        world.connect(B, true);
        for _ in 0..5 {
            world.publish(B, "t", Qos::AtLeastOnce, 7900);
        }
        world.evict(B);
        assert_eq!(world.drain(B).len(), 5);
        world.queue.disconnected(B);
        world.disk.full = true;
        // More than the one slot that the file has.
        world.publish(A, "t", qos, 40_000);
        world.publish(B, "u", qos, 7900);
        world.run(10_000);
        assert_eq!(world.stored(), [0, 1], "{qos:?}");
    }
}

#[test]
fn a_session_gives_up_its_oldest_before_a_bridge_has_the_message() {
    let mut world = World::with(|setup, params| {
        setup.session_slots_max = 1;
        params[1] = session("b");
    });
    world.publish(B, "old", Qos::AtLeastOnce, 30_000);
    world.evict(B);
    let record = world.publish(A, "new", Qos::ExactlyOnce, 7900);
    world.queue.push(B, record, plain(Qos::ExactlyOnce));
    world.pass(1000);
    while !world.is_settled(record) {
        assert_eq!(world.stored(), [0, 1], "the bridge has not got it yet");
        world.flush();
    }
    assert_eq!(world.stored(), [1, 1]);
    assert_eq!(world.queue.counters.drops, 1);
    world.connect(B, true);
    assert_eq!(world.drain(B), ["new"]);
}
