//! The process begins again, perhaps with less room than it had.

use super::*;

#[test]
fn fewer_slots_than_before_lose_nothing() {
    let mut world = World::new();
    for topic in ["1", "2", "3", "4"] {
        world.publish(A, topic, Qos::AtLeastOnce, 20_000);
    }
    world.evict(A);
    world.setup.slot_count = 1;
    world.restart();
    assert_eq!(world.queue.outbox(A).pending, 4);
    let more = world.publish(B, "5", Qos::AtLeastOnce, 20_000);
    world.run(1000);
    assert!(!world.is_settled(more), "no slot is to be had");
    world.connect(A, true);
    assert_eq!(world.drain(A), ["1", "2", "3", "4"]);
    world.run(1000);
    assert!(world.is_settled(more));
    world.restart();
    world.connect(B, true);
    assert_eq!(world.drain(B), ["5"]);
}

#[test]
fn a_smaller_ring_loses_nothing_that_fits_it() {
    let mut world = World::new();
    world.publish(A, "t", Qos::AtLeastOnce, 60_000);
    world.evict(A);
    world.setup.bytes = 64 << 10;
    world.restart();
    world.connect(A, true);
    assert_eq!(world.drain(A), ["t"]);
}

#[test]
fn a_smaller_window_doubts_the_session_and_loses_nothing() {
    let mut world = World::new();
    world.connect(A, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::ExactlyOnce, 10);
    }
    world.run(1000);
    while world.send(A).is_some() {}
    world.setup.messages = 16;
    world.params[0].window = 1;
    for setup in &mut world.setup.boxes {
        setup.window = 1;
    }
    // However often it starts before the peer is there.
    for _ in 0..2 {
        world.restart();
        assert!(!world.queue.knows_peer(A, peer()));
        world.publish(A, "u", Qos::AtLeastOnce, 10);
        world.run(1000);
    }
    world.connect(A, false);
    world.run(1000);
    assert!(world.queue.knows_peer(A, peer()));
    assert_eq!(world.drain(A).len(), 10);
}

#[test]
fn what_went_out_at_a_lower_qos_goes_out_again_before_what_came_after_it() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "1", Qos::ExactlyOnce, 10);
    world.publish(A, "2", Qos::ExactlyOnce, 10);
    world.run(1000);
    let first = world.queue.next(A, 0).unwrap();
    world.queue.lower_qos(A, first.entry, Qos::AtLeastOnce);
    world.queue.sent(A, first.entry, world.now);
    world.queue.row_urgent(A);
    world.flush();
    // A commit before the link stands must not leave its barrier behind.
    world.restart();
    world.run(1000);
    world.connect(A, true);
    assert_eq!(world.drain(A), ["1", "2"]);
}
