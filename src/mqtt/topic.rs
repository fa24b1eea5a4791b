//! Topic names and filters: what is valid, what matches, and a hash. Mapping from one topic tree
//! to another is [`Mapping`]. Read MQTT 5 sections 4.7 and 4.8.2 first.

pub use super::mapping::{Mapping, MappingError};
pub use super::overlap::{covers, overlaps};
use crate::fit::wide;

/// Longest topic name or filter the wire can say.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Whether `s` can be published to: not empty, at most 65 535 bytes, no U+0000, no wildcard.
pub fn is_name(s: &str) -> bool {
    is_sized(s) && is_literal(s)
}

/// Whether `s` can be subscribed to: not empty, at most 65 535 bytes, no U+0000; `+` only as a
/// whole level [MQTT-4.7.1-2], `#` only as the whole last one [MQTT-4.7.1-1].
///
/// A share name is judged by [`split_shared`], not here.
pub fn is_filter(s: &str) -> bool {
    if !is_sized(s) {
        return false;
    }
    let mut levels = s.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let valid = match level {
            "+" => true,
            "#" => last,
            literal => is_literal(literal),
        };
        if !valid {
            return false;
        }
    }
    true
}

fn is_sized(s: &str) -> bool {
    !s.is_empty() && s.len() <= TOPIC_BYTES_MAX
}

/// No wildcard, no U+0000; may be empty.
pub(super) fn is_literal(s: &str) -> bool {
    !s.bytes().any(|b| matches!(b, 0 | b'+' | b'#'))
}

/// Whether the filter asks for a shared subscription, valid or not (4.8.2).
pub fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// Share name and inner filter of a shared subscription. `None` when `filter` is none, or when its
/// share name is empty or has a wildcard, or no filter follows [MQTT-4.8.2-1] [MQTT-4.8.2-2].
pub fn split_shared(filter: &str) -> Option<(&str, &str)> {
    let (name, inner) = filter.strip_prefix("$share/")?.split_once('/')?;
    (!name.is_empty() && is_literal(name) && is_filter(inner)).then_some((name, inner))
}

/// Whether a valid filter (of a shared subscription: the inner one) matches a valid topic name.
///
/// A wildcard in the first level never matches a topic that begins with `$` [MQTT-4.7.2-1];
/// `a/#` matches `a` too (4.7.1.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    matches_bytes(filter.bytes(), topic)
}

/// The same for a filter that comes byte by byte.
pub fn matches_bytes(mut filter: impl Iterator<Item = u8>, topic: &str) -> bool {
    let mut reserved = topic.starts_with('$');
    let mut topic = topic.as_bytes();
    // In a valid filter a wildcard is a whole level, so levels need no cutting.
    while let Some(wanted) = filter.next() {
        match wanted {
            b'#' | b'+' if reserved => return false,
            b'#' => return true,
            b'+' => {
                let end = topic.iter().position(|b| *b == b'/').unwrap_or(topic.len());
                (_, topic) = topic.split_at(end);
            }
            literal => match topic.split_first() {
                Some((&byte, topic_rest)) if byte == literal => topic = topic_rest,
                Some(_) => return false,
                None => return literal == b'/' && filter.eq(*b"#"),
            },
        }
        reserved = false;
    }
    topic.is_empty()
}

/// A 64-bit hash, the same on every machine and in every run. Not keyed: whoever chooses topics
/// can make them collide, so it may decide about fairness but never about identity.
pub fn topic_hash(topic: &str) -> u64 {
    bytes_hash(topic.as_bytes())
}

/// The same of any bytes.
pub fn bytes_hash(bytes: &[u8]) -> u64 {
    let length = wide(bytes.len());
    let Some(tail) = bytes.last_chunk::<8>() else {
        let word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        return stir(mix(length, word));
    };
    let mut hash = length;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = mix(hash, u64::from_le_bytes(*word));
        rest = after;
    }
    // The last word overlaps what was mixed in already; the length tells such topics apart.
    stir(mix(hash, u64::from_le_bytes(*tail)))
}

#[inline]
const fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The bijective finaliser of SplitMix64.
#[inline]
const fn stir(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_wildcards() {
        for name in ["a", "/", "a/b", "//", " ", "$SYS/x", "ü/€", "a b"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "#", "a/+", "a#", "a+b", "a\0b"] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name(&"x".repeat(65_535)));
        assert!(!is_name(&"x".repeat(65_536)));
    }

    #[test]
    fn filters_have_wildcards_as_whole_levels() {
        for filter in ["#", "+", "a/#", "+/+", "/+", "+/", "a/+/b/#", "/", "$SYS/#", "a"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "a/#/b", "#/", "##", "+a", "a+", "a/+b/c", "++", "a\0", "+/#/+"] {
            assert!(!is_filter(filter), "{filter}");
        }
        assert!(is_filter(&"/".repeat(65_535)));
        assert!(!is_filter(&"/".repeat(65_536)));
    }

    #[test]
    fn matching_follows_the_examples_of_the_specification() {
        let sport = "sport/tennis/player1/#";
        for topic in ["sport/tennis/player1", "sport/tennis/player1/ranking"] {
            assert!(matches(sport, topic));
        }
        assert!(matches(sport, "sport/tennis/player1/score/wimbledon"));
        assert!(!matches(sport, "sport/tennis/player10"));
        assert!(matches("sport/#", "sport"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(matches("+/monitor/#", "a/monitor"));
    }

    #[test]
    fn wildcards_in_the_first_level_do_not_see_dollar_topics() {
        for filter in ["#", "+/monitor/Clients", "+/#"] {
            assert!(!matches(filter, "$SYS/monitor/Clients"), "{filter}");
        }
        assert!(matches("$SYS/#", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
        assert!(matches("a/#", "a/$b"));
        assert!(!matches("$SYS", "$SYS/a"));
    }

    #[test]
    fn empty_levels_and_near_misses() {
        assert!(matches("a//b", "a//b"));
        assert!(!matches("a//b", "a/b"));
        assert!(matches("a/+/b", "a//b"));
        assert!(!matches("a/b", "a/b/"));
        assert!(!matches("a/b/", "a/b"));
        assert!(!matches("a/b", "A/b"));
        assert!(matches("a/b/#", "a/b/"));
        assert!(!matches("a/b/#", "a"));
        assert!(!matches("a/bc", "a/b"));
    }

    #[test]
    fn shared_subscriptions_are_split_or_refused() {
        assert_eq!(split_shared("$share/g/a/+"), Some(("g", "a/+")));
        assert_eq!(split_shared("$share/g//a"), Some(("g", "/a")));
        for bad in ["$share/g", "$share//a", "$share/g/", "$share/+/a", "$share/#", "$share/g/a#"] {
            assert_eq!(split_shared(bad), None, "{bad}");
            assert!(is_shared(bad));
        }
        assert!(!is_shared("$share"));
        assert!(!is_shared("a/$share/g/b"));
        assert_eq!(split_shared("a/b"), None);
    }

    #[test]
    fn hashes_are_fixed_and_spread() {
        // Fixed for good: a log written by one version may be read by the next.
        assert_eq!(topic_hash("a/b"), 0x6CCC_77DF_DCBC_2CE6);
        assert_eq!(topic_hash("plant/7/line/3/temperature"), 0x9F8F_FAD3_80B9_FB0F);
        let mut hashes: Vec<u64> = (0..10_000).map(|n| topic_hash(&format!("d/{n}/t"))).collect();
        let mut buckets = [0; 64];
        for hash in &hashes {
            buckets[usize::try_from(hash % 64).expect("small")] += 1;
        }
        assert!(buckets.iter().all(|count| (100..220).contains(count)), "{buckets:?}");
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 10_000);
        let mut lengths: Vec<u64> = (0..100).map(|n| topic_hash(&"a".repeat(n))).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!(lengths.len(), 100);
    }
}
