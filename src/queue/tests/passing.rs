//! What is in the window and passed over: it keeps its identifier and its order, leaves RAM when
//! there is need, and is there after a crash.

use super::super::defer::Single;
use super::*;
use crate::queue::window::Barred;

/// The stream that waits.
const HELD: u128 = 0b10;
const BARRED: Barred = Barred { blocked: HELD, withheld: HELD, held: HELD };

impl World {
    /// A message of the topic that will wait.
    fn publish_held(&mut self, topic: &str, qos: Qos) -> RecordId {
        self.publish_as(A, topic, 100, Push { stream: 1, ..plain(qos) })
    }

    /// Everything that goes while the stream waits.
    fn send_others(&mut self) -> Vec<(String, PacketId)> {
        let mut sent = Vec::new();
        for _ in 0..20 {
            let Some(next) = self.queue.next_but(A, BARRED) else {
                self.run(300);
                continue;
            };
            let id = next.packet_id.or_else(|| self.queue.take(A, next.entry)).unwrap();
            self.queue.sent(A, next.entry, self.now);
            sent.push((self.topic(next), id));
        }
        sent
    }

    /// Two messages of each kind have been on the wire, and the peer is back.
    fn with_two_of_each(qos: Qos) -> (Self, Vec<(String, PacketId)>) {
        let mut world = Self::new();
        for (held, other) in [("x1", "a"), ("x2", "b")] {
            world.publish_held(held, qos);
            world.publish(A, other, qos, 100);
        }
        world.run(1000);
        world.connect(A, true);
        let mut sent = Vec::new();
        for _ in 0..8 {
            sent.extend(world.send_soon(A));
        }
        sent.sort();
        world.queue.disconnected(A);
        world.connect(A, true);
        (world, sent)
    }

    fn alone(&mut self) -> Option<(String, Option<PacketId>)> {
        for _ in 0..4 {
            if let Some(Single::This(next)) = self.queue.single_out(A, 1, None) {
                return Some((self.topic(next), next.packet_id));
            }
            self.run(1000);
        }
        None
    }
}

#[test]
fn others_go_past_it_and_then_it_goes_under_its_own_identifier() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let (mut world, sent) = World::with_two_of_each(qos);
        let names = |sent: &[(String, PacketId)]| -> Vec<String> {
            sent.iter().map(|(topic, _)| topic.clone()).collect()
        };
        assert_eq!(names(&sent), ["a", "b", "x1", "x2"]);
        assert_eq!(world.send_others(), sent[..2], "{qos:?}");
        world.queue.recall(A, HELD);
        let later: Vec<_> = (0..2).filter_map(|_| world.send_soon(A)).collect();
        assert_eq!(later, sent[2..], "{qos:?}");
    }
}

#[test]
fn it_leaves_ram_when_there_is_need_and_is_read_for_its_trial() {
    let (mut world, sent) = World::with_two_of_each(Qos::AtLeastOnce);
    world.send_others();
    world.run(1000);
    let records = world.queue.outbox(A).records;
    world.evict(A);
    assert!(world.queue.outbox(A).records < records, "it is on disk only");
    assert_eq!(world.alone(), Some((sent[2].0.clone(), Some(sent[2].1))));
}

#[test]
fn after_a_crash_it_is_there_with_its_identifier() {
    let (mut world, sent) = World::with_two_of_each(Qos::ExactlyOnce);
    world.send_others();
    world.restart();
    world.connect(A, true);
    let mut again = Vec::new();
    for _ in 0..8 {
        again.extend(world.send_soon(A));
    }
    again.sort();
    assert_eq!(again, sent);
}

#[test]
fn put_aside_it_is_in_one_queue_or_the_other_whenever_the_process_ends() {
    for committed in [false, true] {
        let (mut world, _) = World::with_two_of_each(Qos::AtLeastOnce);
        world.send_others();
        world.run(1000);
        let (topic, id) = world.alone().unwrap();
        assert_eq!(topic, "x1");
        let entry = world.queue.by_id(A, id.unwrap()).unwrap();
        assert_eq!(world.queue.set_aside(A, entry, false), Ok(()));
        let aside = world.queue.aside();
        assert_eq!((world.queue.outbox(A).pending, world.queue.outbox(aside).pending), (3, 1));
        if committed {
            world.run(1000);
        }
        world.restart();
        let kept = (world.queue.outbox(A).pending, world.queue.outbox(aside).pending);
        assert_eq!(kept, if committed { (3, 1) } else { (4, 0) });
    }
}

#[test]
fn what_is_put_back_waits_in_its_order() {
    let (mut world, sent) = World::with_two_of_each(Qos::AtLeastOnce);
    world.send_others();
    for at in [3, 2] {
        let entry = world.queue.by_id(A, sent[at].1).unwrap();
        assert!(world.queue.put_back(A, entry));
    }
    world.run(1000);
    let later: Vec<String> =
        (0..2).filter_map(|_| world.send_soon(A)).map(|(topic, _)| topic).collect();
    assert_eq!(later, ["x1", "x2"]);
}

#[test]
fn one_that_has_to_wait_lets_none_of_its_topic_enter_before_it() {
    let (mut world, sent) = World::with_two_of_each(Qos::AtLeastOnce);
    world.send_others();
    let entry = world.queue.by_id(A, sent[2].1).unwrap();
    assert!(world.queue.put_back(A, entry));
    world.publish_held("x3", Qos::AtLeastOnce);
    world.run(1000);
    assert_eq!(world.send_others(), []);
    // What was on the wire before keeps its place there [MQTT-4.6.0-1].
    world.queue.recall(A, HELD);
    let later: Vec<String> =
        (0..3).filter_map(|_| world.send_soon(A)).map(|(topic, _)| topic).collect();
    assert_eq!(later, ["x2", "x1", "x3"]);
}
