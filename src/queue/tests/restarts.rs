//! The process begins again, perhaps with less room than it had.

use super::super::DropReason;
use super::*;
use crate::note::Note;

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
        // A bridge's table of identifiers is never that small.
        setup.streams = 1;
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

#[test]
fn identifiers_go_on_after_a_ring_was_killed() {
    let mut world = World::with(|setup, params| {
        setup.safe = false;
        params[0].journal = false;
    });
    world.queue.outbox_mut(A).next_id = 50_000;
    world.queue.row_urgent(A);
    world.run(1000);
    world.restart();
    let next = i32::from(world.queue.outbox(A).next_id);
    assert!((next - 50_000).abs() > 10_000, "far from those that may be open: {next}");
}

#[test]
fn identifiers_begin_again_after_the_last_and_pass_over_those_in_use() {
    let mut world = World::with(|_, params| params[0].window = 4);
    world.connect(A, true);
    world.publish(A, "0", Qos::AtLeastOnce, 10);
    let (_, open) = world.send(A).unwrap();
    world.queue.outbox_mut(A).next_id = crate::limits::PUBLISH_ID_MAX - 1;
    for topic in ["1", "2", "3"] {
        world.publish(A, topic, Qos::AtLeastOnce, 10);
    }
    let ids: Vec<u16> = (0..3).map(|_| world.send(A).unwrap().1.raw()).collect();
    assert_eq!((open.raw(), &ids[..]), (1, &[59_999, 60_000, 2][..]));
}

#[test]
fn a_rule_counts_what_was_put_back_before_the_window() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "1", Qos::AtLeastOnce, 10);
    world.publish(A, "2", Qos::ExactlyOnce, 10);
    world.run(1000);
    while world.send(A).is_some() {}
    world.restart();
    world.publish(A, "3", Qos::AtLeastOnce, 10);
    world.publish(A, "4", Qos::AtLeastOnce, 10);
    world.connect(A, true);
    assert_eq!(world.queue.rule_count(A, 0), 4);
    world.run(1000);
    let (_, id) = world.send_soon(A).unwrap();
    world.queue.puback(A, id, world.now);
    assert_eq!(world.queue.rule_count(A, 0), 3);
}

#[test]
fn an_identifier_whose_message_was_refused_is_not_stored() {
    let mut world = World::with(|setup, params| {
        setup.slot_count = 0;
        params[0].overflow = Overflow::DropNewest;
        params[1] = session("b");
    });
    let record = world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.queue.receive_id(B, 7, Some(record));
    world.queue.row_with(B, Some(record));
    world.pass(1000);
    // As the gateway does it: the refusal is told before the next turn.
    world.flush();
    assert_eq!(world.queue.poll_refused(), Some((0, record)));
    world.queue.release_id(B, 7);
    world.restart();
    assert!(!world.queue.recv.contains(B.0, 7), "its publisher may use it again");
}

#[test]
fn what_is_on_disk_is_counted_before_it_is_read() {
    let mut world = World::new();
    for topic in ["1", "2", "3"] {
        world.publish(A, topic, Qos::AtLeastOnce, 20_000);
    }
    world.evict(A);
    assert_eq!(world.queue.disk_only(A), 3);
    world.restart();
    assert_eq!(world.queue.disk_only(A), 3);
    world.connect(A, true);
    assert_eq!(world.drain(A), ["1", "2", "3"]);
    assert_eq!(world.queue.disk_only(A), 0);
}

#[test]
fn what_a_session_leaves_behind_is_known_to_the_message_read_or_not() {
    let mut world = World::with(|_, params| params[0] = session("a"));
    for topic in ["1", "2", "3", "4", "5", "6"] {
        world.publish(A, topic, Qos::AtLeastOnce, 20_000);
    }
    world.publish(A, "7", Qos::ExactlyOnce, 10);
    world.evict(A);
    assert_eq!((world.queue.undelivered(A), world.queue.disk_only(A)), (7, 7));
    world.restart();
    assert_eq!((world.queue.undelivered(A), world.queue.disk_only(A)), (7, 7));
    // One is in RAM only, and one is read and acknowledged.
    world.publish(A, "8", Qos::AtLeastOnce, 10);
    world.connect(A, true);
    let (_, id) = world.send_soon(A).unwrap();
    world.queue.puback(A, id, world.now);
    assert_eq!(world.queue.undelivered(A), 7);
    let (mut sent, mut last) = (0, None);
    while let Some((topic, id)) = world.send_soon(A) {
        sent += 1;
        last = (topic == "7").then_some(id).or(last);
    }
    // Received by the peer, and not released: it is the peer's.
    world.queue.pubrec(A, last.unwrap(), world.now);
    assert_eq!((sent, world.queue.undelivered(A), world.queue.disk_only(A)), (7, 6, 0));
    world.queue.close(A, world.now);
    assert_eq!((world.queue.undelivered(A), world.queue.disk_only(A)), (0, 0));
    world.run(3000);
    assert_eq!(world.queue.in_use(), Default::default());
}

#[test]
fn drops_are_told_of_under_the_name_of_whoever_had_the_messages() {
    let mut world = World::with(|_, params| params[0] = session("old"));
    world.queue.count_drop(A, DropReason::SessionEnded, 3);
    world.queue.close(A, world.now);
    world.queue.open(A, session("new"));
    world.queue.count_drop(A, DropReason::SessionEnded, 2);
    world.queue.report_drops();
    let notes = core::iter::from_fn(|| world.queue.poll_note());
    let drops = notes.filter_map(|note| match note {
        Note::Drop { destination, count, .. } => Some((destination.to_string(), count)),
        _ => None,
    });
    assert_eq!(drops.collect::<Vec<_>>(), [("old".to_owned(), 3), ("new".to_owned(), 2)]);
}
