//! Topics that do not end in the slot where they begin.

use super::*;
use crate::queue::DropReason;

/// Around the ends of the first and the second slot, and the longest.
fn topics() -> Vec<String> {
    let first = SLOT_BYTES - HEAD_BYTES;
    let second = first + SLOT_BYTES;
    let lengths = [first - 1, first, first + 1, second - 1, second, second + 1, 65_534, 65_535];
    lengths.into_iter().map(|bytes| "t".repeat(bytes)).collect()
}

fn world() -> World {
    World::with(|setup, params| {
        setup.bytes = 2 << 20;
        params[0].counts_rules = true;
        params[1].counts_rules = true;
    })
}

#[test]
fn they_come_back_from_the_disk_and_over_a_restart() {
    for (payload, restarts) in [(0, false), (0, true), (10, true), (40_000, false), (40_000, true)]
    {
        for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let mut world = world();
            for topic in topics() {
                world.publish(A, &topic, qos, payload);
            }
            // More than one commit takes.
            for _ in 0..3 {
                world.evict(A);
            }
            assert_eq!(world.queue.outbox(A).stored, 8);
            if restarts {
                world.restart();
            }
            world.connect(A, true);
            assert!(world.drain(A) == topics(), "{payload} bytes of payload");
            assert_eq!((world.queue.counters.corrupt, world.queue.counters.drops), (0, 0));
        }
    }
}

#[test]
fn what_was_in_the_window_is_sent_again() {
    let mut world = world();
    for topic in topics() {
        world.publish(A, &topic, Qos::ExactlyOnce, 10);
    }
    world.run(1000);
    world.connect(A, true);
    let mut sent = Vec::new();
    while sent.len() < 3 {
        world.run(300);
        sent.extend(world.send_soon(A).map(|(topic, _)| topic));
    }
    assert!(sent == topics()[..3]);
    world.restart();
    world.connect(A, true);
    assert!(world.drain(A) == topics());
}

#[test]
fn a_rule_is_found_by_all_of_one() {
    let mut world = world();
    let unwanted = format!("gone{}", "/".repeat(65_000));
    for topic in [&unwanted, "kept"] {
        world.publish(A, topic, Qos::AtLeastOnce, 10);
    }
    world.evict(A);
    world.restart();
    world.connect(A, true);
    assert_eq!(world.drain(A), ["kept"]);
    assert_eq!((world.queue.counters.corrupt, world.queue.counters.drops), (0, 1));
    assert!(world.queue.has_drops());
    world.queue.report_drops();
    let reason = DropReason::NoRule.word();
    let told = |note: &Note| matches!(note, Note::Drop { reason: r, .. } if *r == reason);
    assert!(core::iter::from_fn(|| world.queue.poll_note()).any(|note| told(&note)));
}

#[test]
fn one_whose_rest_is_damaged_or_gone_is_counted_and_the_others_go_on() {
    for (slot, gone) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut world = world();
        let topic = "t".repeat(65_535);
        world.publish(A, &topic, Qos::AtLeastOnce, 10);
        world.publish(A, "next", Qos::AtLeastOnce, 10);
        world.evict(A);
        for content in [&mut world.disk.content, &mut world.disk.committed] {
            if gone {
                content.rows.remove(&(Table::Slot, u32::to_be_bytes(slot).to_vec()));
            } else {
                content.slots.get_mut(&slot).unwrap()[100] ^= 1;
            }
        }
        world.restart();
        world.connect(A, true);
        assert_eq!(world.drain(A), ["next"], "{slot} {gone}");
        assert_eq!((world.queue.counters.corrupt, world.queue.counters.drops), (1, 0));
    }
}

#[test]
fn they_are_rescued_from_a_damaged_store() {
    let mut world = world();
    for topic in topics() {
        world.publish(A, &topic, Qos::AtLeastOnce, 10);
    }
    world.evict(A);
    world.disk.put_aside();
    world.start();
    world.connect(A, true);
    let mut got = Vec::new();
    for _ in 0..40 {
        world.pass(300);
        world.flush();
        got.append(&mut world.drain(A));
    }
    assert!(got == topics());
}
