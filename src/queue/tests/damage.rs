//! Records on disk that are damaged.

use super::*;

/// Bytes on disk of a record with a topic of one letter and 7000 of payload.
const RECORD: usize = 7041;

impl World {
    /// Makes the heads of these records of the first slot unreadable.
    fn damage(&mut self, ordinals: &[usize]) {
        let slot = self.queue.outbox(A).chain.head;
        let data = self.disk.content.slots.get_mut(&slot).unwrap();
        for ordinal in ordinals {
            data[ordinal * RECORD..][..HEAD_BYTES].fill(0);
        }
        self.disk.commit().unwrap();
    }
}

#[test]
fn damage_at_the_end_of_a_slot_stops_nobody() {
    for restarts in 0..3 {
        let mut world = World::new();
        for topic in ["1", "2", "3", "4"] {
            world.publish(A, topic, Qos::AtLeastOnce, 7000);
        }
        world.publish(A, "5", Qos::AtLeastOnce, 20_000);
        world.evict(A);
        world.damage(&[2, 3]);
        for _ in 0..restarts {
            world.restart();
            world.run(3000);
        }
        world.connect(A, true);
        assert_eq!(world.drain(A), ["1", "2", "5"], "{restarts}");
        world.run(10_000);
    }
}

#[test]
fn damage_in_what_is_in_flight_stops_nobody() {
    for (damaged, left) in [(&[2][..], &["1", "2", "4", "5"][..]), (&[2, 3], &["1", "2", "5"])] {
        let mut world = World::new();
        world.connect(A, true);
        for topic in ["1", "2", "3", "4"] {
            world.publish(A, topic, Qos::ExactlyOnce, 7000);
        }
        world.publish(A, "5", Qos::AtLeastOnce, 20_000);
        world.run(1000);
        world.damage(damaged);
        world.restart();
        world.run(3000);
        world.connect(A, world.queue.knows_peer(A, peer()));
        assert_eq!(world.drain(A), left);
        world.run(10_000);
    }
}

#[test]
fn damage_to_what_is_to_be_sent_again_stops_nobody() {
    let mut world = World::new();
    world.connect(A, true);
    for topic in ["1", "2", "3", "4"] {
        world.publish(A, topic, Qos::AtLeastOnce, 7000);
        world.send(A).unwrap();
    }
    world.publish(A, "5", Qos::AtLeastOnce, 20_000);
    world.queue.disconnected(A);
    world.evict(A);
    world.damage(&[2, 3]);
    world.connect(A, true);
    assert_eq!(world.drain(A), ["1", "2", "5"]);
}

#[test]
fn what_is_rescued_goes_before_what_is_new_at_every_destination() {
    let mut world = World::new();
    for dest in [A, B] {
        for _ in 0..6 {
            world.publish(dest, "old", Qos::AtLeastOnce, 30_000);
        }
        world.evict(dest);
    }
    world.disk.put_aside();
    world.start();
    for dest in [A, B] {
        world.connect(dest, true);
        world.publish(dest, "new", Qos::AtLeastOnce, 10);
    }
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..20 {
        world.pass(300);
        world.flush();
        got[0].append(&mut world.drain(A));
        got[1].append(&mut world.drain(B));
    }
    assert_eq!(got, [["old", "old", "old", "old", "old", "old", "new"]; 2]);
    assert!(!world.queue.is_salvaging());
}

#[test]
fn what_was_appended_last_and_is_damaged_is_counted() {
    let mut world = World::new();
    for topic in ["1", "2", "3"] {
        world.publish(A, topic, Qos::AtLeastOnce, 7000);
        world.evict(A);
    }
    let slot = world.queue.outbox(A).chain.head;
    // In the payload of the third, which no row of the slot knows of.
    world.disk.content.slots.get_mut(&slot).unwrap()[2 * RECORD + RECORD / 2] ^= 1;
    world.disk.commit().unwrap();
    world.restart();
    assert_eq!(world.queue.counters.corrupt, 1);
    world.connect(A, true);
    assert_eq!(world.drain(A), ["1", "2"]);
    // Of a former life of the slot nothing is counted.
    let mut world = World::new();
    world.connect(A, true);
    for _ in 0..5 {
        world.publish(A, "old", Qos::AtLeastOnce, 7000);
    }
    world.evict(A);
    assert_eq!(world.drain(A).len(), 5);
    world.queue.disconnected(A);
    world.run(1000);
    for _ in 0..4 {
        world.publish(A, "new", Qos::AtLeastOnce, 7000);
    }
    world.evict(A);
    assert_eq!(world.queue.outbox(A).chain.tail, slot, "it is used again");
    world.restart();
    assert_eq!(world.queue.counters.corrupt, 0);
}
