//! Records of an earlier version whose text others close the connection over.

use super::*;

#[test]
fn they_are_dropped_on_their_way_back_from_the_disk_and_the_rest_goes_on() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut world = World::new();
        for (topic, bytes) in [("before", 10), ("a\tb", 10), ("l\u{7}", 40_000), ("after", 10)] {
            world.publish(A, topic, qos, bytes);
        }
        world.evict(A);
        world.restart();
        world.connect(A, true);
        assert_eq!(world.drain(A), ["before", "after"], "{qos:?}");
        assert_eq!(world.queue.counters.drops, 2);
        let notes = core::iter::from_fn(|| world.queue.poll_note());
        let named = notes.filter(|note| matches!(note, Note::TextRefused { source: "store", .. }));
        assert_eq!(named.count(), 2);
        world.run(6000);
        world.restart();
        assert_eq!(world.queue.outbox(A).pending, 0, "they do not come again");
    }
}

#[test]
fn what_was_in_flight_with_it_is_not_sent_again() {
    let mut world = World::new();
    for topic in ["before", "a\tb", "after"] {
        world.publish(A, topic, Qos::ExactlyOnce, 10);
    }
    world.connect(A, true);
    for topic in ["before", "a\tb"] {
        assert_eq!(world.send_soon(A).map(|(sent, _)| sent).as_deref(), Some(topic));
    }
    world.evict(A);
    world.run(2000);
    world.restart();
    world.connect(A, true);
    assert_eq!(world.drain(A), ["before", "after"]);
    assert_eq!(world.queue.counters.drops, 1);
}
