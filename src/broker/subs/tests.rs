//! What `subs` promises, by hand and beside the simplest model there is.

use super::*;
use crate::vocab::Rng;

pub(super) fn sub(id: u32) -> Subscription {
    Subscription {
        qos: Qos::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        id,
    }
}

fn matching(subs: &mut Subs, topic: &str) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    subs.matches(topic, &mut |found_here| match found_here {
        Match::Own(session, sub) => found.push((session, sub.id)),
        Match::Group(_) => unreachable!("nothing is shared here"),
    });
    found.sort_unstable();
    found
}

#[test]
fn wildcards_match_as_the_specification_says() {
    let cases = [
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("#", "a", true),
        ("#", "/", true),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("+/#", "$SYS", false),
        ("$SYS/#", "$SYS/x", true),
        ("$SYS/+", "$SYS/x", true),
        ("+", "a", true),
        ("+", "/a", false),
        ("/+", "/a", true),
        ("+/+", "/a", true),
        ("a/+", "a/", true),
        ("a/+", "a", false),
        ("a/+/#", "a", false),
        ("a/+/#", "a/", true),
        ("a//b", "a//b", true),
        ("a//b", "a/b", false),
        ("a/+/b", "a//b", true),
        ("/", "/", true),
        ("/#", "/", true),
        ("a/b", "b/a", false),
        ("sport/tennis/+/score/#", "sport/tennis/p1/score", true),
        ("a/+", "a/+x", true),
    ];
    for (filter, topic, expected) in cases {
        let mut subs = Subs::new(4, 64, 2);
        assert_eq!(subs.subscribe(1, filter, sub(7)), Ok(Added::New));
        let found = matching(&mut subs, topic);
        assert_eq!(found, if expected { vec![(1, 7)] } else { vec![] }, "{filter} {topic}");
    }
}

#[test]
fn the_same_filter_replaces_and_does_not_count_twice() {
    let mut subs = Subs::new(1, 16, 2);
    assert_eq!(subs.subscribe(0, "a/+", sub(1)), Ok(Added::New));
    assert_eq!(subs.subscribe(0, "a/+", sub(2)), Ok(Added::Replaced));
    assert_eq!(subs.subscribe(1, "a/+", sub(3)), Err(Full));
    assert_eq!(subs.len(), 1);
    assert_eq!(matching(&mut subs, "a/b"), [(0, 2)]);
    assert_eq!(subs.find_in(0, "a/+"), Some(sub(2)));
    assert_eq!(subs.find_in(1, "a/+"), None);
}

#[test]
fn a_filter_longer_than_its_row_is_refused() {
    let mut subs = Subs::new(2, 4, 1);
    assert_eq!(subs.subscribe(0, "abcd", sub(1)), Ok(Added::New));
    assert_eq!(subs.subscribe(0, "abcde", sub(1)), Err(Full));
    assert_eq!(subs.len(), 1);
}

#[test]
fn wildcards_beyond_the_mask_still_match() {
    for depth in [63, 64, 65, 66, 100] {
        let prefix = "x/".repeat(depth);
        let mut subs = Subs::new(4, 512, 4);
        for (session, tail) in [(0, "+"), (1, "#"), (2, "y"), (3, "+/#")] {
            assert!(subs.subscribe(session, &format!("{prefix}{tail}"), sub(1)).is_ok());
        }
        let found = matching(&mut subs, &format!("{prefix}y"));
        assert_eq!(found, [(0, 1), (1, 1), (2, 1), (3, 1)], "depth {depth}");
        assert_eq!(matching(&mut subs, &prefix[..prefix.len() - 1]), [(1, 1)]);
        assert!(subs.unsubscribe(1, &format!("{prefix}#")));
        assert!(subs.unsubscribe(0, &format!("{prefix}+")));
        assert_eq!(matching(&mut subs, &format!("{prefix}z")), [(3, 1)], "depth {depth}");
    }
}

#[test]
fn a_session_lists_its_own_filters_until_it_is_removed() {
    let mut subs = Subs::new(8, 16, 3);
    for filter in ["a", "b/+", "c/#"] {
        assert!(subs.subscribe(1, filter, sub(1)).is_ok());
        assert!(subs.subscribe(2, filter, sub(2)).is_ok());
    }
    let mut filters: Vec<&str> = subs.of_session(1).map(|(filter, _)| filter).collect();
    filters.sort_unstable();
    assert_eq!(filters, ["a", "b/+", "c/#"]);
    subs.remove_session(1);
    assert_eq!(subs.of_session(1).count(), 0);
    assert_eq!(subs.count_of(2), 3);
    assert_eq!(matching(&mut subs, "c/d"), [(2, 2)]);
    subs.remove_session(2);
    assert_eq!((subs.len(), subs.shape_count), (0, 0));
    assert_eq!(matching(&mut subs, "a"), []);
}

#[test]
fn two_filters_with_one_hash_are_told_apart_by_their_text() {
    // Forged: the index is asked with a hash that a filter of other text carries.
    let mut subs = Subs::new(4, 16, 1);
    assert!(subs.subscribe(0, "a/b", sub(1)).is_ok());
    let other = subs.levels.hash_filter(b"c/d");
    let id = subs.find(subs.filters[0].hash, "a/b").unwrap();
    let own = subs.filters[usize::from(id)].hash;
    subs.index.remove(own, u32::from(id));
    subs.filters[usize::from(id)].hash = other;
    subs.index.insert(other, u32::from(id));
    assert_eq!(matching(&mut subs, "c/d"), []);
    assert_eq!(subs.subscribe(0, "c/d", sub(2)), Ok(Added::New));
    assert_eq!(matching(&mut subs, "c/d"), [(0, 2)]);
}

fn random_text(rng: &mut Rng, filter: bool) -> String {
    let words = ["", "a", "b", "ab", "$SYS", "sensor", "é"];
    let count = 1 + usize::try_from(rng.below(4)).unwrap();
    let mut text = String::new();
    for at in 0..count {
        if at > 0 {
            text.push('/');
        }
        match rng.below(10) {
            0 | 1 if filter => text.push('+'),
            2 if filter => {
                text.push('#');
                return text;
            }
            _ => text.push_str(words[usize::try_from(rng.below(7)).unwrap()]),
        }
    }
    if text.is_empty() { "a".to_owned() } else { text }
}

/// Thousands of operations beside the simplest model there is.
#[test]
fn agrees_with_a_list_of_filters() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut subs = Subs::new(60, 64, 5);
        let mut model: Vec<(u16, String, u32)> = Vec::new();
        for step in 0..1500 {
            let session = u16::try_from(rng.below(5)).unwrap();
            match rng.below(20) {
                0 => {
                    subs.remove_session(session);
                    model.retain(|(owner, ..)| *owner != session);
                }
                1..=6 => {
                    let filter = random_text(&mut rng, true);
                    let at = model.iter().position(|(o, f, _)| (*o, f) == (session, &filter));
                    assert_eq!(subs.unsubscribe(session, &filter), at.is_some());
                    at.map(|at| model.swap_remove(at));
                }
                7..=14 => {
                    let filter = random_text(&mut rng, true);
                    let full = model.len() == 60;
                    let known = model.iter_mut().find(|(o, f, _)| *o == session && *f == filter);
                    let expected = match known {
                        Some(known) => {
                            known.2 = step;
                            Ok(Added::Replaced)
                        }
                        None if full => Err(Full),
                        None => {
                            model.push((session, filter.clone(), step));
                            Ok(Added::New)
                        }
                    };
                    assert_eq!(subs.subscribe(session, &filter, sub(step)), expected);
                }
                _ => {
                    let topic = random_text(&mut rng, false);
                    let mut expected: Vec<(u16, u32)> = model
                        .iter()
                        .filter(|(_, filter, _)| topic::matches(filter, &topic))
                        .map(|(session, _, id)| (*session, *id))
                        .collect();
                    expected.sort_unstable();
                    let found = matching(&mut subs, &topic);
                    assert_eq!(found, expected, "seed {seed} step {step} topic {topic:?}");
                }
            }
            assert_eq!(subs.len(), model.len());
        }
        for session in 0..5 {
            let own = model.iter().filter(|(owner, ..)| *owner == session).count();
            assert_eq!(subs.count_of(session), own);
        }
    }
}

#[test]
fn the_plan_is_what_new_allocates() {
    let subs = Subs::new(100, 256, 10);
    let held = subs.texts.len()
        + size_of_val(&*subs.filters)
        + size_of_val(&*subs.links)
        + size_of_val(&*subs.shapes)
        + size_of_val(&*subs.sessions)
        + Index::bytes_planned(100)
        + Levels::BYTES;
    assert_eq!(Subs::bytes_planned(100, 256, 10), held);
}
