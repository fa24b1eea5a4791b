//! Back from the disk to RAM.

use super::*;
use crate::limits::SERVERS_MAX;

#[test]
fn a_full_disk_can_still_be_drained() {
    let mut world = World::new();
    for _ in 0..3 {
        world.publish(A, "old", Qos::AtLeastOnce, 20_000);
    }
    world.evict(A);
    world.disk.full = true;
    let waits = world.publish(B, "new", Qos::AtLeastOnce, 20_000);
    world.run(2000);
    assert!(!world.is_settled(waits), "there is no room for it");
    world.connect(A, true);
    assert_eq!(world.drain(A), ["old", "old", "old"]);
    world.run(6000);
    assert!(world.is_settled(waits), "a slot that was freed has it");
}

#[test]
fn on_a_full_disk_slots_that_are_there_take_what_the_open_end_cannot() {
    let mut world = World::new();
    for bytes in [30_000, 30_000, 5_000] {
        world.publish(A, "old", Qos::AtLeastOnce, bytes);
    }
    world.evict(A);
    world.disk.full = true;
    world.connect(A, true);
    assert_eq!(world.drain(A).len(), 3);
    world.queue.disconnected(A);
    let records: Vec<_> =
        (0..3).map(|_| world.publish(A, "new", Qos::AtLeastOnce, 20_000)).collect();
    world.run(20_000);
    let settled: Vec<_> = records.iter().map(|record| world.is_settled(*record)).collect();
    assert_eq!(settled, [true, true, false], "two slots are free, the third is too short");
    world.disk.full = false;
    world.run(6000);
    assert!(world.is_settled(records[2]));
    world.restart();
    world.connect(A, true);
    assert_eq!(world.drain(A), ["new", "new", "new"]);
}

#[test]
fn behind_a_slot_whose_end_is_lost_the_next_one_follows() {
    let mut world = World::new();
    for topic in ["0", "1", "2", "3", "4", "5"] {
        world.publish(A, topic, Qos::AtLeastOnce, 10_000);
    }
    world.evict(A);
    for content in [&mut world.disk.content, &mut world.disk.committed] {
        content.slots.get_mut(&0).unwrap()[20_050..].fill(0);
    }
    world.restart();
    world.connect(A, true);
    assert_eq!(world.drain(A), ["0", "1", "3", "4", "5"]);
    assert_eq!(world.queue.counters.corrupt, 1);
}

#[test]
fn what_is_staged_follows_when_the_last_unread_slot_is_gone() {
    for safe in [true, false] {
        let mut world = World::with(|setup, params| {
            setup.safe = safe;
            params[0].journal = safe;
        });
        // It fills its slot, and so frees it.
        world.publish(A, "gone", Qos::AtLeastOnce, 40_000);
        world.evict(A);
        world.restart();
        world.publish(A, "1", Qos::AtLeastOnce, 10);
        world.connect(A, true);
        world.flush();
        world.publish(A, "2", Qos::AtLeastOnce, 10);
        assert_eq!(world.drain(A), ["1", "2"]);
    }
}

#[test]
fn a_peer_may_acknowledge_what_was_sent_over_the_last_connection() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.run(1000);
    let (_, id) = world.send(A).unwrap();
    world.queue.disconnected(A);
    world.connect(A, true);
    world.queue.pubrec(A, id, world.now);
    assert!(world.send(A).is_none(), "its exchange has gone on");
    assert_eq!(world.queue.next_release(A, world.now), None, "that is not durable yet");
    world.run(100);
    assert_eq!(world.queue.next_release(A, world.now), Some(id));
}

#[test]
fn a_release_is_as_old_as_its_last_packet() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.run(1000);
    let (_, id) = world.send(A).unwrap();
    world.queue.pubrec(A, id, world.now);
    world.run(100);
    for restart in [false, true] {
        if restart {
            world.restart();
        }
        world.queue.disconnected(A);
        world.pass(60_000);
        world.connect(A, true);
        assert_eq!(world.queue.oldest_sent(A), None);
        assert_eq!(world.queue.next_release(A, world.now), Some(id));
        assert_eq!(world.queue.oldest_sent(A).map(|oldest| oldest.at), Some(world.now));
    }
}

#[test]
fn what_was_left_open_at_a_server_takes_its_part_of_the_window() {
    let mut world = World::new();
    world.connect(A, true);
    for _ in 0..10 {
        world.publish(A, "t", Qos::ExactlyOnce, 10);
    }
    world.run(1000);
    let sent = core::iter::from_fn(|| world.send(A)).count();
    world.queue.greeted(A, PeerId::new(2), false, 8, world.now);
    world.run(1000);
    world.queue.greeted(A, peer(), true, 8, world.now);
    world.run(1000);
    assert_eq!((sent, world.send(A)), (8, None));
    let id = world.queue.next_release(A, world.now).unwrap();
    assert!(world.queue.oldest_sent(A).is_some(), "its PUBCOMP is waited for");
    world.queue.pubcomp(A, id, world.now);
    assert!(world.send_soon(A).is_some() && world.send_soon(A).is_none());
}

#[test]
fn what_was_left_open_is_released_in_the_order_it_was_sent() {
    let mut world = World::new();
    world.connect(A, true);
    for _ in 0..8 {
        world.publish(A, "t", Qos::ExactlyOnce, 10);
    }
    world.run(1000);
    let sent: Vec<PacketId> = core::iter::from_fn(|| world.send(A)).map(|(_, id)| id).collect();
    for id in &sent[..3] {
        world.queue.pubrec(A, *id, world.now);
    }
    world.queue.greeted(A, PeerId::new(2), false, 8, world.now);
    world.run(1000);
    // Over a restart, too.
    world.restart();
    world.queue.greeted(A, peer(), true, 8, world.now);
    let released: Vec<PacketId> =
        core::iter::from_fn(|| world.queue.next_release(A, world.now)).collect();
    assert_eq!(released, sent);
}

#[test]
fn one_server_too_many_does_not_take_the_place_of_the_next() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish(A, "t", Qos::ExactlyOnce, 10);
    world.run(1000);
    let (_, id) = world.send(A).unwrap();
    let last = 1 + u64::try_from(SERVERS_MAX).unwrap();
    for server in (2..=last).chain([1]) {
        let known = world.queue.knows_peer(A, PeerId::new(server));
        world.queue.greeted(A, PeerId::new(server), known, 8, world.now);
        world.run(1000);
    }
    assert_eq!(world.queue.next_release(A, world.now), Some(id));
}

/// A backlog of A behind a link that stands; of 64 messages B holds all but 4 and has no room on
/// disk.
fn with_little_room() -> World {
    let mut world = World::with(|setup, params| {
        setup.messages = 64;
        params[1].slots_max = 0;
    });
    for n in 0..20 {
        world.publish(A, &n.to_string(), qos_of(n), 10);
    }
    world.evict(A);
    for _ in 0..60 {
        world.publish(B, "t", Qos::AtLeastOnce, 10);
    }
    world.run(1000);
    assert_eq!(world.queue.pool.free_records(), 4);
    world.connect(A, true);
    world
}

fn qos_of(n: u32) -> Qos {
    if n.is_multiple_of(3) { Qos::ExactlyOnce } else { Qos::AtLeastOnce }
}

#[test]
fn a_backlog_is_sent_however_little_of_the_ring_others_leave() {
    let mut world = with_little_room();
    let all: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(world.drain(A), all);
    assert_eq!(world.queue.pool.free_records(), 4);
}

#[test]
fn with_little_room_nothing_comes_back_that_nobody_can_send() {
    let mut world = with_little_room();
    // Its peer takes nothing more after it has asked once.
    assert!(world.send(A).is_none());
    world.run(1000);
    assert_eq!(world.queue.pool.free_records(), 3);
    for _ in 0..3 {
        world.queue.press_now(true);
        world.flush();
        world.run(1000);
        assert_eq!(world.queue.pool.free_records(), 4);
    }
    assert_eq!(world.drain(A).len(), 20);
}

#[test]
fn what_waits_in_ram_gives_way_to_a_backlog_too_large_for_what_is_free() {
    let mut world = World::with(|setup, _| setup.bytes = 64 * 256);
    world.publish(A, "large", Qos::AtLeastOnce, 16 * 256 - 5);
    world.evict(A);
    world.connect(B, true);
    for _ in 0..10 {
        world.publish(B, "small", Qos::AtLeastOnce, 5 * 256 - 5);
    }
    world.connect(A, true);
    assert_eq!(world.send_soon(A).unwrap().0, "large");
    assert_eq!(world.drain(B).len(), 10);
}

#[test]
fn a_stream_is_not_lent_to_another_topic_while_its_message_is_on_the_wire() {
    let mut world = World::new();
    world.connect(A, true);
    world.publish_as(A, "t", 10, Push { stream: 1, ..plain(Qos::AtLeastOnce) });
    let (_, id) = world.send(A).unwrap();
    assert!(world.queue.is_stream_busy(A, 1), "it is behind this if the peer forgets its session");
    assert!(!world.queue.is_stream_busy(A, 0));
    world.queue.puback(A, id, world.now);
    assert!(!world.queue.is_stream_busy(A, 1));
}

#[test]
fn a_session_that_is_sent_no_more_while_room_is_scarce_has_nothing_brought_back() {
    let mut world = World::with(|setup, params| {
        setup.messages = 64;
        params[0] = Params { window: 20, ..session("a") };
    });
    world.connect(A, true);
    for n in 0..14 {
        world.publish(A, &n.to_string(), Qos::AtLeastOnce, 10);
    }
    let ids: Vec<_> = (0..8).map(|_| world.send(A).unwrap().1).collect();
    world.connect(B, true);
    for _ in 0..36 {
        world.publish(B, "t", Qos::AtLeastOnce, 10);
    }
    world.evict(A);
    let free = world.queue.pool.free_records();
    assert!((25..32).contains(&free), "{free}");
    world.run(1000);
    assert!(world.send(A).is_none());
    assert_eq!(world.queue.outbox(A).active, 0, "it would leave again for whoever wants room");
    for id in ids {
        world.queue.puback(A, id, world.now);
    }
    let rest: Vec<_> = (8..14).map(|n| n.to_string()).collect();
    assert_eq!(world.drain(A), rest);
}
