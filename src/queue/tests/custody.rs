//! Between RAM and disk: commits that fail, slots that run out, entries in every state.

use super::*;
use crate::queue::entry::Place;
use crate::queue::pool::widen;

#[test]
fn an_exchange_that_awaits_pubcomp_outlives_the_commit_of_its_record() {
    let mut world = World::with(|_, params| {
        params[0] = Params { persistent: false, journal: false, ..session("a") };
    });
    world.connect(A, false);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    let (_, id) = world.send(A).unwrap();
    world.queue.pubrec(A, id, world.now);
    // The pool runs short.
    world.evict(A);
    assert_eq!(line_length(&world.queue, world.queue.outbox(A).release.head), 1);
    assert_eq!(world.queue.next_release(A, world.now), Some(id));
    world.queue.pubcomp(A, id, world.now);
    assert_eq!((world.queue.outbox(A).inflight, world.queue.outbox(A).pending), (0, 0));
    assert_eq!(world.queue.entries.free_count(), world.queue.entries.count());
}

#[test]
fn a_publish_of_qos_2_never_leaves_before_its_own_record_is_committed() {
    let mut world = World::with(|_, params| params[0].window = 1);
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.disk.commits_failing = 1;
    world.flush();
    assert!(world.send(A).is_none());
    // Somebody else's commit succeeds.
    world.pass(150);
    world.publish(B, "u", Qos::AtLeastOnce, 10);
    world.evict(B);
    if let Some((_, id)) = world.send(A) {
        let entry = world.queue.by_id(A, id).unwrap();
        assert!(!world.queue.entries[entry].flags.custody, "its record is committed");
        return;
    }
    assert_eq!(world.drain(A), ["t"]);
}

#[test]
fn order_is_kept_when_the_commit_that_lets_messages_into_the_window_fails() {
    let mut world = World::new();
    world.connect(A, true);
    for (topic, qos) in [("1", Qos::ExactlyOnce), ("2", Qos::AtLeastOnce), ("3", Qos::ExactlyOnce)]
    {
        world.publish(A, topic, qos, 10);
    }
    world.disk.commits_failing = 2;
    world.flush();
    world.run(1000);
    assert_eq!(world.drain(A), ["1", "2", "3"]);
}

#[test]
fn drop_oldest_never_makes_publishers_wait_for_a_slot() {
    let mut world = World::with(|_, params| {
        params[0] =
            Params { overflow: Overflow::DropOldest, slots_max: 2, window: 5, ..bridge("a") };
    });
    world.connect(A, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 7900);
    }
    world.evict(A);
    // One slot is in flight, and the beginning of the other.
    world.flush();
    while world.send(A).is_some() {}
    world.queue.disconnected(A);
    for turn in 0..8 {
        let record = world.publish(A, "t", Qos::AtLeastOnce, 7900);
        world.run(1000);
        assert!(world.is_settled(record), "message {turn} is stored or dropped");
    }
    assert!(world.queue.counters.drops > 0);
    assert_eq!(world.queue.outbox(A).inflight, 5, "what is in flight stays");
}

#[test]
fn a_session_that_gets_no_slot_makes_no_publisher_wait() {
    let mut world = World::with(|setup, params| {
        setup.session_slots_max = 0;
        params[0] = session("a");
    });
    let record = world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.run(1000);
    assert!(world.is_settled(record));
    assert_eq!(world.queue.counters.drops, 1, "it was dropped, and counted");
    // In flight it is not dropped, and nobody waits for it.
    world.connect(A, true);
    let record = world.publish(A, "t", Qos::AtLeastOnce, 10);
    let (_, id) = world.send(A).unwrap();
    world.run(3000);
    assert!(world.is_settled(record));
    world.queue.puback(A, id, world.now);
    assert_eq!(world.queue.outbox(A).pending, 0);
}

#[test]
fn the_session_with_the_most_slots_gives_one_to_another() {
    let mut world = World::with(|setup, params| {
        setup.session_slots_max = 1;
        params[0] = session("a");
        params[1] = session("b");
    });
    world.publish(B, "t", Qos::AtLeastOnce, 30_000);
    world.evict(B);
    let record = world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.run(1000);
    assert!(world.is_settled(record));
    assert_eq!(world.queue.counters.drops, 1);
    assert_eq!((world.queue.outbox(A).pending, world.queue.outbox(B).pending), (1, 0));
}

#[test]
fn updates_of_a_conflated_topic_do_not_put_the_commit_off() {
    let mut world = World::new();
    let mut first = None;
    for _ in 0..20 {
        let push = Push { conflate: Some(7), ..plain(Qos::AtLeastOnce) };
        let record = world.publish_as(A, "t", 10, push);
        first = first.or(Some(record));
        world.run(50);
    }
    assert!(world.is_settled(first.unwrap()));
}

#[test]
fn a_replacement_that_finds_no_slot_leaves_what_it_was_to_replace() {
    let conflated = Push { conflate: Some(7), ..plain(Qos::AtLeastOnce) };
    let whole = SLOT_BYTES - HEAD_BYTES - "large".len();
    for (evicted, failing) in [(false, 0), (true, 0), (false, 1), (true, 1), (true, 3)] {
        let mut world = World::with(|_, params| {
            params[0] = Params { overflow: Overflow::DropNewest, slots_max: 2, ..bridge("a") };
        });
        world.publish_as(A, "old", 10, conflated);
        world.run(1000);
        if evicted {
            world.evict(A);
        }
        // The first takes the last slot and closes the one before it, which has only the old one.
        world.publish(A, "large", Qos::AtLeastOnce, whole);
        let new = world.publish_as(A, "new", whole, conflated);
        world.disk.commits_failing = failing;
        world.run(5000);
        assert!(world.is_settled(new), "{evicted} {failing}: it was dropped, and counted");
        assert_eq!(world.queue.counters.drops, 1);
        assert_eq!((world.queue.outbox(A).chain.len, world.queue.in_use().slots), (2, 2));
        assert_eq!((world.queue.outbox(A).stored, world.queue.outbox(A).pending), (2, 2));
        // Somebody else's slots are not those.
        for _ in 0..4 {
            world.publish(B, "other", Qos::AtLeastOnce, 32_000);
        }
        world.evict(B);
        if evicted {
            world.restart();
        }
        world.connect(A, true);
        assert_eq!(world.drain(A), ["old", "large"], "{evicted} {failing}");
        world.connect(B, true);
        assert_eq!(world.drain(B).len(), 4);
        assert_eq!((world.queue.outbox(A).stored, world.queue.outbox(A).pending), (0, 0));
    }
}

#[test]
fn what_is_settled_and_freed_amid_a_commit_that_fails_stays_so() {
    let mut world = World::new();
    for topic in ["1", "2"] {
        world.publish(A, topic, Qos::AtLeastOnce, 32_000);
        world.evict(A);
    }
    let (first, last) = (world.queue.outbox(A).chain.head, world.queue.outbox(A).chain.tail);
    // As an append does it, and what may happen between its beginning and its end.
    for slot in [first, last] {
        world.queue.save(slot);
        world.queue.log.slots[widen(slot)].closed = true;
    }
    let slot = world.queue.log.slots[widen(first)];
    assert_eq!((slot.count, slot.settled), (1, 0));
    world.queue.settle_stored(A, Place { slot: first, ordinal: 0 }, Some((0, 0)));
    assert_eq!(world.queue.log.slots[widen(first)].owner, crate::queue::log::FREE);
    world.queue.settle_stored(A, Place { slot: last, ordinal: 0 }, Some((0, 0)));
    world.publish(B, "b", Qos::AtLeastOnce, 10);
    world.queue.failed(world.now, "commit", StoreError::Io);
    let chain = world.queue.outbox(A).chain;
    assert_eq!((chain.head, chain.tail, chain.len), (NONE, NONE, 0));
    assert_eq!(world.queue.in_use().slots, 0);
    assert_eq!(world.queue.outbox(A).stored, 0);
    world.run(5000);
    world.restart();
    assert_eq!(world.queue.outbox(A).pending, 0, "nor does a restart bring it back");
    world.connect(B, true);
    assert_eq!(world.drain(B), ["b"]);
}

#[test]
fn a_commit_between_a_stored_message_and_its_replacement_loses_neither() {
    let push = Push { conflate: Some(7), ..plain(Qos::AtLeastOnce) };
    for (evicted, killed) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut world = World::new();
        world.publish_as(A, "old", 10, push);
        world.run(1000);
        if evicted {
            world.evict(A);
        }
        world.publish_as(A, "new", 10, push);
        world.publish(B, "t", Qos::AtLeastOnce, 10);
        world.evict(B);
        assert_eq!(world.queue.outbox(A).custody.len, 1, "only the other one was committed");
        if killed {
            world.restart();
        }
        world.connect(A, true);
        assert_eq!(world.drain(A), [if killed { "old" } else { "new" }]);
        assert_eq!((world.queue.outbox(A).stored, world.queue.outbox(A).pending), (0, 0));
        // Nor does the older one come after the newer one.
        world.run(60_000);
        world.restart();
        world.connect(A, true);
        assert_eq!(world.drain(A), Vec::<String>::new());
    }
}

#[test]
fn a_refused_message_that_is_on_disk_only_is_kept() {
    let mut world = World::new();
    let aside = world.queue.aside();
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.run(1000);
    let (_, id) = world.send(A).unwrap();
    world.queue.pubrec(A, id, world.now);
    let entry = world.queue.by_id(A, id).unwrap();
    if world.queue.set_aside(A, entry, true).is_err() {
        world.queue.put_back(A, entry);
        world.run(1000);
        let (_, id) = world.send_soon(A).expect("it is tried once more");
        let entry = world.queue.by_id(A, id).unwrap();
        assert_eq!(world.queue.set_aside(A, entry, true), Ok(()));
    }
    assert_eq!((world.queue.outbox(A).pending, world.queue.outbox(aside).pending), (0, 1));
}

#[test]
fn what_a_destination_cannot_give_up_does_not_save_the_next_laggard() {
    let mut world = World::with(|setup, _| setup.bytes = 64 * 256);
    world.connect(A, true);
    world.connect(B, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 4 * 256 - 1);
        world.send(A).unwrap();
    }
    for _ in 0..7 {
        world.publish(B, "t", Qos::AtLeastOnce, 4 * 256 - 1);
    }
    // What is in flight over a link that stands needs its bytes.
    world.flush();
    world.flush();
    assert!(world.queue.pool.free_blocks() >= 16, "the other one left RAM");
}

#[test]
fn what_found_no_room_and_is_gone_makes_nobody_wait() {
    for overflow in [Overflow::Block, Overflow::DropNewest, Overflow::DropOldest] {
        let mut world = World::with(|setup, params| {
            setup.slot_count = 2;
            params[0].overflow = overflow;
        });
        world.publish(B, "t", Qos::AtLeastOnce, 30_000);
        world.evict(B);
        world.connect(A, true);
        let large = world.publish(A, "large", Qos::AtLeastOnce, 60_000);
        let (_, id) = world.send(A).unwrap();
        world.run(3000);
        assert!(!world.is_settled(large));
        world.queue.puback(A, id, world.now);
        world.queue.disconnected(A);
        assert_eq!(world.queue.admit(A, Qos::AtLeastOnce, 10), Ok(()));
        let record = world.publish(A, "small", Qos::AtLeastOnce, 10);
        world.run(3000);
        assert!(world.is_settled(record), "{overflow:?}");
        assert_eq!(world.queue.outbox(A).stored, 1, "{overflow:?}");
    }
}

#[test]
fn in_flight_behind_anothers_pinned_slot_makes_no_publisher_wait() {
    let mut world = World::with(|setup, params| {
        setup.session_slots_max = 1;
        params[0] = session("a");
        params[1] = session("b");
    });
    world.connect(B, true);
    world.publish(B, "t", Qos::AtLeastOnce, 30_000);
    world.evict(B);
    world.run(10);
    world.send(B).unwrap();
    world.connect(A, true);
    let record = world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.send(A).unwrap();
    world.run(10_000);
    assert!(world.is_settled(record));
}
