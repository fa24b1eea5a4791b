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

#[test]
fn what_a_session_does_not_acknowledge_goes_to_the_disk_when_room_is_short() {
    let mut world = World::with(|setup, params| {
        (setup.bytes, setup.safe) = (64 * 256, false);
        params[0] = session("a");
    });
    world.connect(A, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 6 * 256 - 1);
        // By itself it would not be sent so much; it was when more was free.
        let next = world.queue.outbox(A).streams[0].list.head;
        world.queue.take(A, next).unwrap();
        world.queue.sent(A, next, world.now);
    }
    world.connect(B, true);
    for _ in 0..10 {
        world.publish(B, "u", Qos::AtLeastOnce, 10);
    }
    assert_eq!((world.queue.outbox(A).inflight, world.queue.outbox(A).records), (8, 8));
    for _ in 0..3 {
        world.queue.press_now(true);
        world.flush();
    }
    let outbox = world.queue.outbox(A);
    assert_eq!((outbox.inflight, outbox.records, outbox.pending), (8, 0, 8), "they need no RAM");
    world.queue.disconnected(A);
    world.connect(A, true);
    assert_eq!(world.drain(A).len(), 8, "and are sent again from there");
}

#[test]
fn without_a_disk_the_share_of_a_session_shrinks_with_what_is_free() {
    let mut world = World::with(|setup, params| {
        (setup.messages, setup.stored, setup.safe) = (64, false, false);
        (params[0], params[1]) = (session("a"), session("b"));
    });
    let fill = |world: &mut World, dest| {
        let mut count = 0;
        while world.queue.admit(dest, Qos::AtLeastOnce, 10).is_ok() {
            world.publish(dest, "t", Qos::AtLeastOnce, 10);
            count += 1;
        }
        count
    };
    world.queue.outbox_mut(A).lags = true;
    world.queue.outbox_mut(B).lags = true;
    let (first, second) = (fill(&mut world, A), fill(&mut world, B));
    assert!(first > second && second > 0, "{first} {second}");
    assert!(world.queue.fits(Reserve::ForRemotes, 10, 1), "others find room");
}

#[test]
fn who_keeps_up_is_no_laggard_though_room_is_short() {
    let mut world = laggard(false);
    for _ in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 10);
    }
    assert!(world.queue.is_free_below(8));
    world.queue.press_in_ram(world.now);
    assert!(world.queue.outbox(A).lags, "it is away");
    let mut world = laggard(false);
    world.connect(A, true);
    while world.queue.outbox(A).records > 8 {
        let (_, id) = world.send(A).unwrap();
        world.queue.puback(A, id, world.now);
    }
    for _ in 0..49 {
        world.publish(B, "u", Qos::AtLeastOnce, 10);
    }
    assert!(world.queue.is_free_below(8));
    world.queue.press_in_ram(world.now);
    assert!(!world.queue.outbox(A).lags);
}

#[test]
fn who_acknowledges_nothing_is_named_and_what_it_was_sent_goes_once_it_is_away() {
    let mut world = World::with(|setup, params| {
        (setup.messages, setup.stored, setup.safe) = (64, false, false);
        params[0] = session("a");
    });
    world.connect(A, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 10);
        world.send(A).unwrap();
    }
    world.connect(B, true);
    for _ in 0..49 {
        world.publish(B, "u", Qos::AtLeastOnce, 10);
    }
    let press = |world: &mut World| {
        world.queue.press_now(true);
        world.queue.press_in_ram(world.now);
        world.queue.take_unyielding()
    };
    assert_eq!(press(&mut world), None, "it may still answer");
    world.pass(5000);
    assert_eq!(press(&mut world), Some(A));
    world.queue.disconnected(A);
    assert_eq!(press(&mut world), None);
    assert_eq!(world.queue.outbox(A).records, 0);
    assert!(world.queue.fits(Reserve::ForRemotes, 10, 1));
}

#[test]
fn while_room_is_scarce_a_session_has_little_more_than_one_large_message_in_flight() {
    let mut world = World::with(|setup, params| {
        (setup.bytes, setup.stored, setup.safe) = (64 * 256, false, false);
        params[0] = session("a");
    });
    world.connect(A, true);
    world.connect(B, true);
    for _ in 0..4 {
        world.publish(A, "t", Qos::AtLeastOnce, 3 * 256 - 1);
        world.publish(B, "u", Qos::AtLeastOnce, 6 * 256 - 1);
    }
    assert!(world.queue.is_free_below(2));
    world.send(A).expect("one goes whatever its size");
    assert!(world.send(A).is_none());
    assert_eq!(world.drain(B).len(), 4, "a bridge has its window");
    assert_eq!(world.drain(A).len(), 3, "all come in time");
}

#[test]
fn a_message_larger_than_a_quota_that_blocks_is_taken_alone() {
    for overflow in [Overflow::Block, Overflow::DropOldest, Overflow::DropNewest] {
        let mut world = World::with(|_, params| {
            (params[0].bytes_max, params[0].overflow) = (1000, overflow);
        });
        let admits = |world: &World, bytes| world.queue.admit(A, Qos::AtLeastOnce, bytes).is_ok();
        assert!(admits(&world, 1000));
        assert_eq!(admits(&world, 1001), overflow == Overflow::Block, "{overflow:?}");
        world.publish(A, "t", Qos::AtLeastOnce, 10);
        assert!(!admits(&world, 1001) && !admits(&world, 1000) && admits(&world, 900));
    }
    let world = World::with(|_, params| {
        params[0] = Params { bytes_max: 1000, overflow: Overflow::Block, ..session("a") };
    });
    assert!(world.queue.admit(A, Qos::AtLeastOnce, 1001).is_err(), "a session blocks nobody");
}
