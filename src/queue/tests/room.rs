//! A short pool: what sessions without a place on disk give up, and for whose sake.

use super::*;

/// Session A holds 49 of 64 records.
fn laggard(stored: bool) -> World {
    let mut world = World::with(|setup, params| {
        (setup.messages, setup.stored, setup.safe) = (64, stored, false);
        params[0] = session("a");
    });
    for _ in 0..49 {
        world.publish(A, "t", Qos::AtLeastOnce, 10);
    }
    world
}

#[test]
fn accepted_messages_are_squeezed_only_for_one_that_waits() {
    let mut world = laggard(false);
    assert!(world.queue.can_squeeze(world.now));
    world.queue.press_now(false);
    world.queue.press_in_ram(world.now);
    assert_eq!((world.queue.outbox(A).pending, world.queue.counters.drops), (49, 0));
    world.queue.press_now(true);
    world.queue.press_in_ram(world.now);
    assert!(world.queue.fits(Reserve::ForOthers, 10, 1), "the one that waits gets in");
    assert_eq!((world.queue.outbox(A).pending, world.queue.counters.drops), (47, 2));
    // Asked for once, done once.
    world.publish(B, "u", Qos::AtMostOnce, 10);
    world.queue.press_in_ram(world.now);
    assert_eq!(world.queue.counters.drops, 2);
}

#[test]
fn nothing_accepted_goes_while_the_disk_fails() {
    let mut world = laggard(true);
    for _ in 0..13 {
        world.publish(A, "t", Qos::AtLeastOnce, 10);
    }
    assert!(world.queue.is_free_below(8));
    world.disk.commits_failing = 3;
    for _ in 0..3 {
        world.queue.press_now(true);
        world.flush();
        world.pass(5000);
        assert!(!world.queue.can_squeeze(world.now));
    }
    assert_eq!((world.queue.outbox(A).pending, world.queue.counters.drops), (62, 0));
    world.run(10_000);
    assert!(world.queue.fits(Reserve::ForOthers, 10, 1), "it is on disk");
    assert_eq!((world.queue.outbox(A).pending, world.queue.counters.drops), (62, 0));
}
