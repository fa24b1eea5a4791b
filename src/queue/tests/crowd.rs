//! Topics that share a stream which is at its quota.

use super::*;
use crate::queue::DropReason;
use crate::queue::trim::Scope;

/// A sensor's two messages, the oldest of all, and forty of two busy topics.
fn crowded() -> World {
    let mut world = World::new();
    for _ in 0..2 {
        world.publish(A, "sensor", Qos::AtLeastOnce, 10);
    }
    for _ in 0..20 {
        world.publish(A, "busy/1", Qos::AtLeastOnce, 10);
        world.publish(A, "busy/2", Qos::AtLeastOnce, 10);
    }
    world
}

fn drop_some(world: &mut World, count: usize) {
    for _ in 0..count {
        world.queue.drop_oldest(A, Scope::Crowd(0), DropReason::QueueFull);
    }
}

fn sent(mut world: World) -> Vec<String> {
    world.connect(A, true);
    world.drain(A)
}

fn count(sent: &[String], topic: &str) -> usize {
    sent.iter().filter(|sent| *sent == topic).count()
}

fn left(sent: &[String]) -> [usize; 3] {
    ["sensor", "busy/1", "busy/2"].map(|topic| count(sent, topic))
}

#[test]
fn those_with_most_in_ram_lose_their_oldest() {
    let mut world = crowded();
    drop_some(&mut world, 30);
    assert_eq!(world.queue.counters.drops, 30);
    assert_eq!(left(&sent(world)), [2, 5, 5]);
}

#[test]
fn those_with_most_on_disk_lose_their_oldest() {
    for restart in [false, true] {
        let mut world = crowded();
        world.evict(A);
        if restart {
            world.restart();
            // Which stream they are of is known once they have been read.
            world.connect(A, true);
            world.send_soon(A).unwrap();
            world.queue.disconnected(A);
            world.evict(A);
        }
        drop_some(&mut world, 30);
        world.run(1000);
        assert_eq!(world.queue.counters.drops, 30);
        assert_eq!(left(&sent(world)), [2, 5, 5], "{restart}");
    }
}

#[test]
fn a_stream_of_single_messages_loses_the_oldest() {
    let mut world = World::new();
    let topics: Vec<String> = (0..8).map(|n| format!("t/{n}")).collect();
    for topic in &topics {
        world.publish(A, topic, Qos::AtLeastOnce, 10);
    }
    drop_some(&mut world, 1);
    world.evict(A);
    drop_some(&mut world, 2);
    world.run(1000);
    assert_eq!(sent(world), topics[3..]);
}

#[test]
fn what_is_staged_counts_for_those_who_say_it() {
    let mut world = World::new();
    for _ in 0..10 {
        world.publish(A, "sensor", Qos::AtLeastOnce, 10);
        world.publish(A, "busy", Qos::AtLeastOnce, 10);
    }
    world.evict(A);
    for _ in 0..30 {
        world.publish(A, "busy", Qos::AtLeastOnce, 10);
    }
    drop_some(&mut world, 30);
    world.run(1000);
    let sent = sent(world);
    assert_eq!((count(&sent, "sensor"), count(&sent, "busy")), (10, 10));
}
