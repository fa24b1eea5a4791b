//! Topic names and filters: what is valid, what matches, and a hash. Mapping from one topic tree
//! to another is [`Mapping`]. Read MQTT 5 sections 4.7 and 4.8.2 first.

pub use super::mapping::{Mapping, MappingError};

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
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for filter_level in filter.split('/') {
        let wanted = match filter_level {
            "#" => return true,
            "+" => topic_levels.next().is_some(),
            literal => topic_levels.next() == Some(literal),
        };
        if !wanted {
            return false;
        }
    }
    topic_levels.next().is_none()
}

/// A 64-bit hash, the same on every machine and in every run. Not keyed: whoever chooses topics
/// can make them collide, so it may decide about fairness but never about identity.
pub fn topic_hash(topic: &str) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let bytes = topic.as_bytes();
    let mut hash = FACTOR ^ u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash = stir(hash ^ u64::from_le_bytes(*word));
        rest = after;
    }
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(rest) {
        *to = *from;
    }
    stir(stir(hash ^ u64::from_le_bytes(word)))
}

/// One bijective round of SplitMix64's finaliser.
#[inline]
const fn stir(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
