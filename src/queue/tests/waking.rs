//! The queue says when it wants to be flushed: in time, and never for nothing.

use super::*;
use crate::queue::outbox::Up;

#[test]
fn a_received_identifier_is_stored_though_its_first_commit_failed() {
    let mut world = World::with(|_, params| params[1] = session("b"));
    world.connect(A, true);
    let record = world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.queue.receive_id(B, 7, Some(record));
    world.queue.row_with(B, Some(record));
    let (_, id) = world.send(A).unwrap();
    world.queue.puback(A, id, world.now);
    world.disk.commits_failing = 1;
    world.flush();
    world.run(1000);
    assert!(world.queue.recv.is_durable(B.0, 7));
}

#[test]
fn an_identifier_waits_again_for_a_message_whose_commit_failed() {
    let mut world = World::with(|_, params| params[1] = session("b"));
    let record = world.publish(A, "t", Qos::ExactlyOnce, 30_000);
    world.queue.receive_id(B, 7, Some(record));
    world.queue.row_with(B, Some(record));
    world.pass(1000);
    world.disk.commits_failing = 1;
    world.flush();
    // From here on there is room for rows, not for the message.
    world.disk.full = true;
    world.run(10_000);
    assert!(!world.is_settled(record));
    world.restart();
    assert!(!world.queue.recv.contains(B.0, 7), "its publisher has to send it again");
}

#[test]
fn a_failed_read_is_tried_again() {
    let mut world = World::new();
    world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.evict(A);
    world.connect(A, true);
    world.disk.reads_failing = 1;
    world.flush();
    assert!(world.send(A).is_none());
    world.run(1000);
    assert!(world.send(A).is_some());
}

/// The other destination has the ring but for five blocks on its wire; what its first goes by.
fn fill_with_flights(world: &mut World) -> PacketId {
    world.connect(B, true);
    let [first, _] = [6, 5].map(|blocks| {
        world.publish(B, "t", Qos::AtLeastOnce, blocks * 256 - 1);
        world.send(B).unwrap().1
    });
    first
}

#[test]
fn a_backlog_that_finds_no_room_in_ram_waits_quietly() {
    let mut world = World::with(|setup, _| setup.bytes = 16 * 256);
    world.publish(A, "t", Qos::AtLeastOnce, 6 * 256 - 1);
    world.evict(A);
    let in_flight = fill_with_flights(&mut world);
    world.connect(A, true);
    world.run(5000);
    assert!(world.send(A).is_none(), "there is no room");
    world.queue.puback(B, in_flight, world.now);
    world.run(10);
    assert!(world.send(A).is_some());
}

#[test]
fn a_message_in_flight_that_finds_no_room_in_ram_waits_quietly() {
    let mut world = World::with(|setup, _| setup.bytes = 16 * 256);
    world.connect(A, true);
    world.publish(A, "t", Qos::AtLeastOnce, 6 * 256 - 1);
    world.send(A).unwrap();
    world.queue.disconnected(A);
    world.evict(A);
    let in_flight = fill_with_flights(&mut world);
    world.connect(A, true);
    assert!(world.send(A).is_none(), "it has to be loaded");
    world.run(5000);
    world.queue.puback(B, in_flight, world.now);
    world.run(10);
    assert!(world.send(A).is_some());
}

#[test]
fn what_is_in_flight_after_a_restart_keeps_nobody_awake() {
    let mut world = World::with(|_, params| params[0] = session("a"));
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.run(1000);
    world.send(A).unwrap();
    world.restart();
    // At its quota: the oldest goes, and there is none that may.
    world.queue.outbox_mut(A).trim = 1;
    world.connect(A, true);
    world.send_soon(A).unwrap();
    world.run(5000);
    world.publish(A, "u", Qos::AtLeastOnce, 10);
    assert_eq!(world.send(A).unwrap().0, "u", "it is not staged for the disk");
}

#[test]
fn a_backlog_larger_than_a_commit_leaves_ram_without_being_asked() {
    let mut world = World::with(|setup, _| setup.safe = false);
    for _ in 0..25 {
        world.publish(A, "t", Qos::AtLeastOnce, 30_000);
    }
    world.evict(A);
    assert!(!world.queue.outbox(A).custody.is_empty(), "it is more than one commit takes");
    world.run(100);
    assert!(world.queue.outbox(A).custody.is_empty());
}

#[test]
fn a_message_of_qos_2_that_nobody_waits_for_is_sent_though_its_commit_failed() {
    let mut world = World::new();
    world.connect(A, true);
    let push = Push { hold: false, ..plain(Qos::ExactlyOnce) };
    world.publish_as(A, "t", 10, push);
    world.disk.commits_failing = 1;
    world.flush();
    world.run(1000);
    assert!(world.send(A).is_some());
}

#[test]
fn a_destination_that_is_not_stored_keeps_nobody_awake() {
    let mut world = World::with(|_, params| params[0] = session("a"));
    world.queue.row_urgent(A);
    world.queue.set_persistent(A, false);
    assert_eq!(world.queue.outbox(A).up, Up::Down);
    world.run(1000);
}

#[test]
fn what_is_in_flight_gets_the_room_of_what_waits() {
    let mut world = World::with(|setup, params| {
        setup.bytes = 64 * 256;
        params[0].window = 2;
    });
    world.connect(A, true);
    world.publish(A, "large", Qos::AtLeastOnce, 16 * 256 - 5);
    world.send(A).unwrap();
    world.queue.disconnected(A);
    world.evict(A);
    world.connect(B, true);
    for _ in 0..10 {
        world.publish(B, "small", Qos::AtLeastOnce, 5 * 256 - 5);
    }
    assert!(world.queue.pool.free_blocks() < 16);
    world.connect(A, true);
    assert_eq!(world.send_soon(A).unwrap().0, "large");
    assert_eq!(world.drain(B).len(), 10);
}

#[test]
fn pressing_makes_the_room_that_qos_0_has_to_find() {
    let mut world = World::with(|setup, _| setup.messages = 64);
    world.connect(A, true);
    for _ in 0..48 {
        world.publish(A, "t", Qos::AtMostOnce, 10);
    }
    assert!(!world.queue.fits(Reserve::ForOthers, 10, 1));
    world.queue.press_now(true);
    world.flush();
    assert!(world.queue.fits(Reserve::ForOthers, 10, 1));
    // With nothing left to go the loop rests.
    world.queue.press_now(true);
    let changes = world.queue.changes();
    world.flush();
    assert_eq!(world.queue.changes(), changes);
}

#[test]
fn a_window_larger_than_the_ring_keeps_nobody_awake() {
    let mut world = World::with(|setup, _| setup.bytes = 64 * 256);
    world.connect(A, true);
    for turn in 0..8 {
        world.publish(A, "t", Qos::AtLeastOnce, 12 * 256 - 1);
        world.send(A).unwrap();
        world.queue.disconnected(A);
        world.evict(A);
        world.queue.outbox_mut(A).up = crate::queue::outbox::Up::Up;
        assert_eq!(world.queue.outbox(A).inflight, turn + 1);
    }
    for _ in 0..3 {
        world.publish(A, "u", Qos::AtLeastOnce, 12 * 256 - 1);
    }
    world.queue.disconnected(A);
    world.evict(A);
    world.connect(A, true);
    assert!(world.send(A).is_none(), "it has to be loaded");
    // Nothing leaves: the socket is full.
    world.run(5000);
    assert_eq!(world.drain(A).len(), 11);
}

#[test]
fn others_wait_quietly_behind_what_is_in_flight() {
    let mut world = World::with(|setup, _| setup.bytes = 32 * 256);
    world.connect(A, true);
    world.publish(A, "large", Qos::AtLeastOnce, 16 * 256 - 6);
    world.send(A).unwrap();
    world.queue.disconnected(A);
    world.evict(A);
    world.publish(B, "u", Qos::AtLeastOnce, 10);
    world.evict(B);
    let aside = world.queue.aside();
    world.queue.connected(aside, true, 8, world.now);
    // Nobody waits for it, and it finds no room on disk.
    let push = Push { hold: false, ..plain(Qos::AtLeastOnce) };
    world.publish_as(aside, "w", 18 * 256 - 6, push);
    world.send(aside).unwrap();
    world.queue.outbox_mut(aside).stuck = true;
    world.connect(A, true);
    assert!(world.send(A).is_none());
    world.connect(B, true);
    assert!(world.queue.pool.free_blocks() > 12, "the other one would find room");
    world.run(5000);
    assert!(world.send(A).is_none() && world.send(B).is_none());
}

#[test]
fn what_is_in_flight_is_asked_for_after_a_flush_that_did_not_look_for_it() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "t", Qos::AtLeastOnce, 10);
    world.send(A).unwrap();
    world.queue.disconnected(A);
    world.evict(A);
    world.connect(A, true);
    world.flush();
    assert!(world.send(A).is_none(), "it has to be loaded");
    world.run(10);
    assert!(world.send(A).is_some());
}
