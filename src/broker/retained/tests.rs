//! What `retained` promises, by hand and beside a map.

use super::*;
use crate::broker::blocks::BLOCK_BYTES;
use crate::mqtt::topic;
use crate::vocab::Rng;
use std::collections::BTreeMap;

const NOW: Instant = Instant::ZERO;

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn put(store: &mut RetainedMessages, topic: &str, payload: &[u8]) -> Result<(), Full> {
    store.set(topic, Qos::AtLeastOnce, b"pp", [payload], None, NOW)
}

fn body(store: &RetainedMessages, message: &Retained) -> (String, Vec<u8>, Vec<u8>) {
    let mut bytes = vec![0; message.body_bytes()];
    assert_eq!(store.read(message, 0, &mut bytes), Some(bytes.len()));
    let (topic, rest) = bytes.split_at(message.topic_bytes);
    let (properties, payload) = rest.split_at(message.properties_bytes);
    (String::from_utf8(topic.to_vec()).unwrap(), properties.to_vec(), payload.to_vec())
}

fn all(store: &RetainedMessages, filter: &str, now: Instant) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut cursor = 0;
    let mut later = 0;
    loop {
        // A few at a time come to the same.
        let mut looks = 3;
        match store.search(filter, cursor, now, &mut looks) {
            Search::Found(next, message) => {
                assert!(next > cursor);
                cursor = next;
                let (topic, _, payload) = body(store, &message);
                found.push((topic, payload));
            }
            Search::Later(next) => {
                assert!(next > cursor && looks == 0);
                cursor = next;
                later += 1;
            }
            Search::Done => break,
        }
    }
    assert!(later <= store.entries.len() / 3 + found.len());
    found.sort();
    found
}

/// The first message that a filter finds.
fn first(store: &RetainedMessages, filter: &str) -> Retained {
    match store.search(filter, 0, NOW, &mut 1000) {
        Search::Found(_, message) => message,
        other => panic!("{filter}: {other:?}"),
    }
}

fn topics(store: &RetainedMessages, filter: &str) -> Vec<String> {
    all(store, filter, NOW).into_iter().map(|(topic, _)| topic).collect()
}

#[test]
fn the_last_message_of_a_topic_is_the_one_retained() {
    let mut store = RetainedMessages::new(8, 4096, 64);
    assert_eq!(put(&mut store, "a/b", b"one"), Ok(()));
    assert_eq!(put(&mut store, "a/b", &[7; 300]), Ok(()));
    assert_eq!((store.len(), store.bytes()), (1, 3 * BLOCK_BYTES));
    assert_eq!(put(&mut store, "a/b", b"two"), Ok(()));
    assert_eq!((store.len(), store.bytes()), (1, BLOCK_BYTES));
    let message = first(&store, "a/b");
    assert_eq!(message.qos, Qos::AtLeastOnce);
    assert_eq!(body(&store, &message), ("a/b".into(), b"pp".to_vec(), b"two".to_vec()));
}

#[test]
fn what_was_read_before_a_change_is_known_to_be_old_when_the_stamps_wrap() {
    let mut store = RetainedMessages::new(8, 4096, 64);
    store.stamp = u32::MAX - 1;
    assert_eq!(put(&mut store, "a", b"one"), Ok(()));
    let before = first(&store, "a");
    assert_eq!(put(&mut store, "a", b"two"), Ok(()));
    let after = first(&store, "a");
    assert_eq!((before.stamp, after.stamp), (u32::MAX, 0));
    assert_eq!(store.read(&before, 0, &mut [0; 6]), None);
    assert_eq!(body(&store, &after).2, b"two");
}

#[test]
fn an_empty_payload_clears_and_costs_nothing_afterwards() {
    let mut store = RetainedMessages::new(8, 4096, 64);
    assert_eq!(put(&mut store, "a", b"x"), Ok(()));
    assert_eq!(put(&mut store, "a", b""), Ok(()));
    assert_eq!(put(&mut store, "never/there", b""), Ok(()));
    assert_eq!((store.len(), store.bytes(), store.dirty()), (0, 0, 0));
    assert_eq!(topics(&store, "#"), [""; 0]);
    assert!(!store.clear("a"));
}

#[test]
fn a_payload_may_come_in_pieces_and_be_read_in_others() {
    let mut store = RetainedMessages::new(2, 4096, 64);
    let payload: Vec<u8> = (0..=255).chain(0..=255).collect();
    let pieces: Vec<&[u8]> = payload.chunks(37).collect();
    assert_eq!(store.set("t", Qos::AtMostOnce, &[], pieces.iter().copied(), None, NOW), Ok(()));
    let message = first(&store, "+");
    for step in [1, 5, 127, 128, 129, 600] {
        let mut read = Vec::new();
        loop {
            let mut out = vec![0; step];
            let count = store.read(&message, read.len(), &mut out).unwrap();
            read.extend_from_slice(&out[..count]);
            if count < step {
                break;
            }
        }
        assert_eq!(read[1..], payload, "{step}");
    }
    assert_eq!(store.pieces(&message).flatten().skip(1).copied().collect::<Vec<u8>>(), payload);
}

#[test]
fn full_changes_nothing() {
    let mut store = RetainedMessages::new(2, 4 * BLOCK_BYTES, 8);
    assert_eq!(put(&mut store, "a", &[1; 200]), Ok(()));
    assert_eq!(put(&mut store, "b", b"x"), Ok(()));
    assert_eq!(put(&mut store, "c", b"x"), Err(Full), "count");
    assert_eq!(put(&mut store, "a", &[2; 400]), Err(Full), "bytes");
    assert!(store.clear("b"));
    assert_eq!(put(&mut store, "too/long/topic", b"x"), Err(Full), "topic");
    assert_eq!(all(&store, "#", NOW), [("a".to_owned(), vec![1; 200])]);
    // Its own blocks count as room: this fills the memory to the last byte.
    let rest = 4 * BLOCK_BYTES - 1 - 2;
    assert_eq!(put(&mut store, "a", &vec![3; rest + 1]), Err(Full));
    assert_eq!(put(&mut store, "a", &vec![3; rest]), Ok(()));
    assert_eq!(store.bytes(), 4 * BLOCK_BYTES);
}

#[test]
fn a_reader_notices_that_its_message_was_replaced() {
    let mut store = RetainedMessages::new(2, 4096, 8);
    assert_eq!(put(&mut store, "a", b"x"), Ok(()));
    let old = first(&store, "a");
    assert_eq!(put(&mut store, "a", b"y"), Ok(()));
    assert_eq!(store.read(&old, 0, &mut [0; 4]), None);
    let new = first(&store, "a");
    store.clear("a");
    assert_eq!(store.read(&new, 0, &mut [0; 4]), None);
    assert_eq!(store.pieces(&new).count(), 0);
}

#[test]
fn dollar_topics_and_long_topics_match_as_filters_say() {
    let mut store = RetainedMessages::new(8, 8192, 512);
    let long = format!("{}/end", "x".repeat(300));
    for topic in ["$SYS/up", "a", "a/b", "a/b/c", "/b", long.as_str()] {
        assert_eq!(put(&mut store, topic, b"1"), Ok(()));
    }
    assert_eq!(topics(&store, "$SYS/#"), ["$SYS/up"]);
    assert_eq!(topics(&store, "+/up"), [""; 0]);
    assert_eq!(topics(&store, "#").len(), 5);
    assert_eq!(topics(&store, "a/#"), ["a", "a/b", "a/b/c"]);
    assert_eq!(topics(&store, "+/b"), ["/b", "a/b"]);
    assert_eq!(topics(&store, "+/end"), [long.as_str()]);
    assert_eq!(topics(&store, &long), [long.as_str()]);
    assert_eq!(topics(&store, &long[1..]), [""; 0]);
}

#[test]
fn an_expired_message_is_neither_found_nor_kept() {
    let mut store = RetainedMessages::new(4, 4096, 8);
    assert_eq!(store.set("a", Qos::AtMostOnce, &[], [&b"x"[..]], Some(10), at(5)), Ok(()));
    assert_eq!(store.set("b", Qos::AtMostOnce, &[], [&b"x"[..]], Some(20), at(5)), Ok(()));
    assert_eq!(put(&mut store, "c", b"x"), Ok(()));
    assert_eq!(store.expires_at(), at(15));
    assert_eq!(all(&store, "+", Instant::from_micros(14_999_999)).len(), 3);
    assert_eq!(all(&store, "+", at(15)).len(), 2);
    assert_eq!(all(&store, "a", at(15)).len(), 0);
    assert_eq!(store.expire(at(14)), 0);
    assert_eq!((store.expire(at(15)), store.len(), store.expires_at()), (1, 2, at(25)));
    assert_eq!((store.expire(at(99)), store.len(), store.expires_at()), (1, 1, Instant::NEVER));
}

/// Saves what is dirty into `disk`, as the gateway does.
fn save(store: &mut RetainedMessages, disk: &mut BTreeMap<String, Vec<u8>>, at_most: usize) {
    let mut cursor = 0;
    for _ in 0..at_most {
        let Some((next, change)) = store.next_dirty(cursor) else { break };
        cursor = next;
        match change {
            Change::Set(message) => {
                let (topic, _, payload) = body(store, &message);
                disk.insert(topic, payload);
            }
            Change::Cleared(message) => {
                let (topic, ..) = body(store, &message);
                assert!(disk.remove(&topic).is_some(), "deleted what was never saved: {topic}");
            }
        }
    }
    store.saved(cursor);
}

#[test]
fn deletions_are_saved_too_and_an_unsaved_one_can_be_revived() {
    let mut store = RetainedMessages::new(4, 4096, 8);
    let mut disk = BTreeMap::new();
    assert_eq!(put(&mut store, "a", b"x"), Ok(()));
    save(&mut store, &mut disk, 9);
    assert_eq!((disk.len(), store.dirty()), (1, 0));
    store.clear("a");
    assert_eq!((store.len(), store.dirty(), store.bytes()), (0, 1, BLOCK_BYTES));
    assert_eq!(put(&mut store, "a", b"y"), Ok(()));
    save(&mut store, &mut disk, 9);
    assert_eq!(disk["a"], b"y");
    store.clear("a");
    save(&mut store, &mut disk, 9);
    assert_eq!((disk.len(), store.dirty(), store.bytes()), (0, 0, 0));
}

#[test]
fn unsaved_deletions_press_before_they_fill_the_table() {
    let mut store = RetainedMessages::new(64, 64 * 1024, 8);
    let mut pressed = 0;
    for round in 0..1000 {
        let topic = format!("t{round}");
        assert_eq!(put(&mut store, &topic, b"x"), Ok(()), "{round}");
        store.saved(usize::MAX);
        assert!(store.clear(&topic));
        if store.is_pressed() {
            pressed += 1;
            store.saved(usize::MAX);
        }
    }
    assert_eq!((pressed, store.len(), store.bytes()), (0, 0, BLOCK_BYTES));
    let topics: Vec<String> = (0..64).map(|n| format!("u{n}")).collect();
    for topic in &topics {
        assert_eq!(put(&mut store, topic, b"x"), Ok(()));
    }
    store.saved(usize::MAX);
    for topic in &topics[..8] {
        assert!(!store.is_pressed());
        assert!(store.clear(topic));
    }
    assert!(store.is_pressed());
    store.saved(usize::MAX);
    assert!(!store.is_pressed());
    // A deletion that is taken back presses no more.
    for _ in 0..50 {
        assert!(store.clear("u60"));
        assert_eq!(put(&mut store, "u60", b"x"), Ok(()));
    }
    assert!(!store.is_pressed());
}

/// Thousands of operations beside a map in memory and a map for the disk.
#[test]
fn agrees_with_a_map_in_memory_and_on_disk() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut below = |bound: u64| usize::try_from(rng.below(bound)).unwrap();
        let mut store = RetainedMessages::new(12, 40 * BLOCK_BYTES, 200);
        let mut model: BTreeMap<String, (Vec<u8>, Instant)> = BTreeMap::new();
        let mut disk: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for step in 0..2000_u64 {
            let now = at(step);
            let topic = format!("{}/{}", ["a", "$b", ""][below(3)], "y".repeat(below(7) * 30));
            match below(10) {
                0 => save(&mut store, &mut disk, below(6)),
                1 => {
                    let before = model.len();
                    model.retain(|_, (_, expires_at)| *expires_at > now);
                    assert_eq!(store.expire(now), before - model.len());
                }
                2 | 3 => assert_eq!(store.clear(&topic), model.remove(&topic).is_some()),
                4..=7 => {
                    let payload = vec![u8::try_from(step % 251).unwrap(); below(600)];
                    let expiry = (below(3) == 0).then_some(50);
                    let set = store.set(&topic, Qos::AtMostOnce, &[], [&payload[..]], expiry, now);
                    if payload.is_empty() {
                        model.remove(&topic);
                    } else if set.is_ok() {
                        let until = expiry.map_or(Instant::NEVER, |_| at(step + 50));
                        model.insert(topic, (payload, until));
                    }
                }
                _ => {
                    let filter = ["#", "a/#", "+/+", "$b/+", "/+", "a/"][below(6)];
                    let expected: Vec<(String, Vec<u8>)> = model
                        .iter()
                        .filter(|(topic, (_, until))| topic::matches(filter, topic) && *until > now)
                        .map(|(topic, (payload, _))| (topic.clone(), payload.clone()))
                        .collect();
                    assert_eq!(all(&store, filter, now), expected, "seed {seed} step {step}");
                }
            }
            assert_eq!(store.len(), model.len());
            assert!(store.bytes() <= 40 * BLOCK_BYTES);
        }
        save(&mut store, &mut disk, usize::MAX);
        let values = model.iter().map(|(topic, (payload, _))| (topic.clone(), payload.clone()));
        assert_eq!(disk, values.collect());
        // Nothing leaked: with all gone, all blocks are back.
        for topic in model.keys() {
            assert!(store.clear(topic));
        }
        save(&mut store, &mut disk, usize::MAX);
        assert_eq!((store.bytes(), store.dirty(), disk.len()), (0, 0, 0));
    }
}

#[test]
fn the_plan_is_what_new_allocates() {
    let store = RetainedMessages::new(100, 10_000, 64);
    let held = size_of_val(&*store.entries)
        + size_of_val(&*store.signatures)
        + Index::bytes_planned(store.entries.len())
        + Blocks::bytes_planned(10_000);
    assert_eq!(RetainedMessages::bytes_planned(100, 10_000), held);
}

#[test]
fn a_filter_with_wildcards_reads_few_texts() {
    let mut store = RetainedMessages::new(2000, 1 << 20, 64);
    for at in 0..2000 {
        put(&mut store, &format!("device{at}/state/{}", at % 7), b"x").unwrap();
    }
    for filter in ["+/q", "+/state/q", "device7/+", "other/#", "+/+"] {
        let mut looks = u32::MAX;
        assert_eq!(store.search(filter, 0, NOW, &mut looks), Search::Done);
        let texts = (u32::MAX - looks - 2000) / TEXT_LOOKS;
        assert!(texts <= 2, "{filter}: {texts}");
    }
}
