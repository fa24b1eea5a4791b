//! Mapping of topics from one tree to another, as a rule of a bridge says it.
//!
//! An empty target keeps the topic, a target without wildcards replaces it, and in a target with
//! wildcards each is filled from the same-numbered wildcard of the source filter; prefix and suffix
//! go around the result. All of it is checked and cut into pieces when the configuration is read;
//! mapping a topic walks the pieces and allocates nothing.

use super::codec::Full;
use super::topic::{TOPIC_BYTES_MAX, is_filter, is_literal, split_shared};
use core::fmt;

/// A checked rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    prefix: Box<str>,
    suffix: Box<str>,
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// The topic as it came.
    Keep,
    /// Each piece is a literal and what follows it; `tail` is the literal after the last.
    Fill { pieces: Box<[Piece]>, tail: Box<str> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    literal: Box<str>,
    fill: Fill,
}

/// Which part of the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// The level with this index.
    Level(usize),
    /// Everything from the level with this index on.
    Rest(usize),
}

/// Why a rule cannot work. Numbers count wildcards from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingError {
    /// The source is not a valid filter.
    SourceInvalid,
    /// The target is neither a valid topic nor a valid filter.
    TargetInvalid,
    /// The prefix has a wildcard or U+0000.
    PrefixInvalid,
    /// The suffix has a wildcard or U+0000.
    SuffixInvalid,
    /// What stands around the wildcards is longer than a topic can be.
    TooLong,
    /// The target's wildcard `number` has no counterpart: the source has fewer.
    NoCounterpart { wildcard: char, number: usize, source_count: usize },
    /// The target's `+` with this number would be filled from `#`, which is several levels.
    SeveralLevels { number: usize },
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceInvalid => f.write_str("the source is not a valid topic filter"),
            Self::TargetInvalid => f.write_str("the target is not a valid topic or filter"),
            Self::PrefixInvalid => f.write_str("the prefix must not contain `+`, `#` or NUL"),
            Self::SuffixInvalid => f.write_str("the suffix must not contain `+`, `#` or NUL"),
            Self::TooLong => write!(f, "the new topic exceeds {TOPIC_BYTES_MAX} bytes"),
            Self::NoCounterpart { wildcard, number, source_count } => write!(
                f,
                "wildcard {number} of the target (`{wildcard}`) has no counterpart: the source has \
                 {source_count}"
            ),
            Self::SeveralLevels { number } => write!(
                f,
                "wildcard {number} of the target is `+` but its counterpart in the source is `#`, \
                 which stands for several levels"
            ),
        }
    }
}

impl core::error::Error for MappingError {}

impl Mapping {
    /// Checks and prepares a rule. `source_filter` may be a shared subscription (`$share/…`): its
    /// inner filter is what topics match.
    pub fn new(
        source_filter: &str,
        target: Option<&str>,
        prefix: &str,
        suffix: &str,
    ) -> Result<Self, MappingError> {
        let source = split_shared(source_filter).map_or(source_filter, |(_, inner)| inner);
        if !is_filter(source) {
            return Err(MappingError::SourceInvalid);
        }
        if !is_literal(prefix) {
            return Err(MappingError::PrefixInvalid);
        }
        if !is_literal(suffix) {
            return Err(MappingError::SuffixInvalid);
        }
        let target_text = target.unwrap_or_default();
        if prefix.len() + suffix.len() + target_text.len() > TOPIC_BYTES_MAX {
            return Err(MappingError::TooLong);
        }
        // A target that repeats the source fills every level with itself.
        let target = if target_text.is_empty() || target_text == source {
            Target::Keep
        } else if is_filter(target_text) {
            cut(source, target_text)?
        } else {
            return Err(MappingError::TargetInvalid);
        };
        Ok(Self { prefix: prefix.into(), suffix: suffix.into(), target })
    }

    /// Keeps every topic as it is.
    pub fn identity() -> Self {
        Self { prefix: "".into(), suffix: "".into(), target: Target::Keep }
    }

    pub fn is_identity(&self) -> bool {
        self.target == Target::Keep && self.prefix.is_empty() && self.suffix.is_empty()
    }

    /// Writes the new topic of `topic`, which matches the source filter, to `out` and returns its
    /// length.
    ///
    /// The result is a valid topic name. Where the source's `#` stands for nothing (`a/#` matches
    /// `a`) the target's `/#` stands for nothing too.
    ///
    /// # Errors
    /// [`Full`]: `out` is too small, the result longer than a topic can be, or empty (`a/+` mapped
    /// to `+` has no room for the topic `a/`).
    pub fn map(&self, topic: &str, out: &mut [u8]) -> Result<usize, Full> {
        self.fill(topic, out).and_then(|bytes| if bytes == 0 { Err(Full) } else { Ok(bytes) })
    }

    /// Is nothing left of this topic?
    pub fn maps_to_nothing(&self, topic: &str, out: &mut [u8]) -> bool {
        self.fill(topic, out) == Ok(0)
    }

    fn fill(&self, topic: &str, out: &mut [u8]) -> Result<usize, Full> {
        let mut text = Text { out, len: 0 };
        text.push(&self.prefix)?;
        match &self.target {
            Target::Keep => text.push(topic)?,
            Target::Fill { pieces, tail } => {
                let mut levels = Levels { rest: Some(topic), index: 0 };
                for piece in pieces {
                    text.push(&piece.literal)?;
                    match piece.fill {
                        Fill::Level(index) => text.push(levels.level(index).ok_or(Full)?)?,
                        Fill::Rest(index) => match levels.from(index) {
                            Some(rest) => text.push(rest)?,
                            None => text.drop_separator(),
                        },
                    }
                }
                text.push(tail)?;
            }
        }
        text.push(&self.suffix)?;
        Ok(text.len)
    }
}

/// Cuts the target at its wildcards and finds the counterpart of each.
fn cut(source: &str, target: &str) -> Result<Target, MappingError> {
    let fills: Vec<Fill> = source
        .split('/')
        .enumerate()
        .filter_map(|(index, level)| match level {
            "+" => Some(Fill::Level(index)),
            "#" => Some(Fill::Rest(index)),
            _ => None,
        })
        .collect();
    let mut pieces = Vec::new();
    let mut rest = target;
    while let Some(at) = rest.find(['+', '#']) {
        let (literal, from_wildcard) = rest.split_at(at);
        let (wildcard, after) = from_wildcard.split_at(1);
        let number = pieces.len() + 1;
        let fill = *fills.get(pieces.len()).ok_or(MappingError::NoCounterpart {
            wildcard: if wildcard == "#" { '#' } else { '+' },
            number,
            source_count: fills.len(),
        })?;
        if matches!(fill, Fill::Rest(_)) && wildcard == "+" {
            return Err(MappingError::SeveralLevels { number });
        }
        pieces.push(Piece { literal: literal.into(), fill });
        rest = after;
    }
    Ok(Target::Fill { pieces: pieces.into(), tail: rest.into() })
}

/// Forward-only access to the levels of a topic: wildcards are asked for in their order.
struct Levels<'a> {
    /// From level `index` on; `None` when there are fewer.
    rest: Option<&'a str>,
    index: usize,
}

impl<'a> Levels<'a> {
    fn from(&mut self, index: usize) -> Option<&'a str> {
        while self.index < index {
            self.rest = self.rest?.split_once('/').map(|(_, after)| after);
            self.index += 1;
        }
        self.rest
    }

    fn level(&mut self, index: usize) -> Option<&'a str> {
        let rest = self.from(index)?;
        Some(rest.split_once('/').map_or(rest, |(level, _)| level))
    }
}

/// The topic being written.
struct Text<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Text<'_> {
    fn push(&mut self, part: &str) -> Result<(), Full> {
        let end = self.len.checked_add(part.len()).ok_or(Full)?;
        if end > TOPIC_BYTES_MAX {
            return Err(Full);
        }
        self.out.get_mut(self.len..end).ok_or(Full)?.copy_from_slice(part.as_bytes());
        self.len = end;
        Ok(())
    }

    fn drop_separator(&mut self) {
        if self.len > 0 && self.out[self.len - 1] == b'/' {
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(source: &str, target: &str, prefix: &str, suffix: &str) -> Mapping {
        Mapping::new(source, Some(target), prefix, suffix).expect("a valid rule")
    }

    fn map(mapping: &Mapping, topic: &str) -> Result<String, Full> {
        let mut out = [0; 128];
        let len = mapping.map(topic, &mut out)?;
        Ok(std::str::from_utf8(&out[..len]).expect("text").to_owned())
    }

    fn mapped(source: &str, target: &str, topic: &str) -> String {
        map(&mapping(source, target, "", ""), topic).expect("fits")
    }

    #[test]
    fn an_empty_target_keeps_the_topic() {
        assert_eq!(mapped("a/#", "", "a/b"), "a/b");
        let around = Mapping::new("a/#", None, "x/", "/y").expect("valid");
        assert_eq!(map(&around, "a/b"), Ok("x/a/b/y".into()));
        assert!(!around.is_identity());
        assert!(Mapping::new("a/#", None, "", "").expect("valid").is_identity());
        assert!(mapping("a/+", "a/+", "", "").is_identity());
        assert!(!mapping("a/+", "b/+", "", "").is_identity());
        assert!(Mapping::identity().is_identity());
        assert_eq!(map(&Mapping::identity(), "any/thing"), Ok("any/thing".into()));
    }

    #[test]
    fn a_target_without_wildcards_replaces_the_topic() {
        assert_eq!(mapped("a/#", "site/all", "a/b/c"), "site/all");
        assert_eq!(map(&mapping("+", "t", "p/", "/s"), "x"), Ok("p/t/s".into()));
    }

    #[test]
    fn wildcards_are_filled_from_the_same_numbered_ones() {
        assert_eq!(mapped("server/+/state", "site7/+/s", "server/3/state"), "site7/3/s");
        assert_eq!(mapped("+/x/+/#", "+/+/y/#", "a/x/b/c/d"), "a/b/y/c/d");
        assert_eq!(mapped("+/+/+", "+/only", "a/b/c"), "a/only");
        assert_eq!(mapped("a/+/b/+", "+/q/#", "a/1/b/2"), "1/q/2");
        assert_eq!(mapped("a/+/c", "+", "a/b/c"), "b");
        assert_eq!(mapped("+/a", "ü/+", "€/a"), "ü/€");
        assert_eq!(mapped("a/+/b", "x/+/y", "a//b"), "x//y");
        assert_eq!(map(&mapping("a/+", "b/+", "p/", "-s"), "a/1"), Ok("p/b/1-s".into()));
    }

    #[test]
    fn a_hash_stands_for_the_rest_or_for_nothing() {
        assert_eq!(mapped("a/#", "b/#", "a/x/y"), "b/x/y");
        assert_eq!(mapped("a/#", "#", "a/x/y"), "x/y");
        assert_eq!(mapped("#", "remote/#", "x/y"), "remote/x/y");
        assert_eq!(mapped("a/#", "b/#", "a"), "b");
        assert_eq!(mapped("a/#", "b/#", "a/"), "b/");
        assert_eq!(mapped("+/#", "x/+/#", "a"), "x/a");
        assert_eq!(map(&mapping("a/#", "#", "site/", "/up"), "a"), Ok("site/up".into()));
        assert_eq!(map(&mapping("a/#", "#", "site/", ""), "a"), Ok("site".into()));
    }

    #[test]
    fn the_inner_filter_of_a_shared_subscription_is_the_source() {
        assert_eq!(mapped("$share/group/a/+", "b/+", "a/1"), "b/1");
        assert!(mapping("$share/group/a/+", "a/+", "", "").is_identity());
    }

    #[test]
    fn an_empty_result_is_refused() {
        assert_eq!(map(&mapping("a/#", "#", "", ""), "a"), Err(Full));
        assert_eq!(map(&mapping("a/#", "#", "", ""), "a/"), Err(Full));
        assert_eq!(map(&mapping("a/+", "+", "", ""), "a/"), Err(Full));
        assert_eq!(map(&mapping("a/+", "+", "", "x"), "a/"), Ok("x".into()));
    }

    #[test]
    fn a_result_that_does_not_fit_is_full() {
        let rule = mapping("a/+", "bb/+", "p/", "/s");
        let mut out = [0; 16];
        assert_eq!(rule.map("a/123", &mut out), Ok(10));
        assert_eq!(&out[..10], b"p/bb/123/s");
        for len in 0..10 {
            assert_eq!(rule.map("a/123", &mut out[..len]), Err(Full), "{len}");
        }
        let mut out = vec![0; 70_000];
        let topic = format!("a/{}", "x".repeat(65_533));
        assert_eq!(mapping("a/+", "b/+", "", "").map(&topic, &mut out), Ok(65_535));
        assert_eq!(mapping("a/+", "bb/+", "", "").map(&topic, &mut out), Err(Full));
    }

    #[test]
    fn a_topic_the_filter_does_not_match_never_panics() {
        assert_eq!(map(&mapping("a/+/+", "x/+/+", "", ""), "a/b"), Err(Full));
        assert_eq!(map(&mapping("a/b/c/#", "x/#", "", ""), "a"), Ok("x".into()));
    }

    #[test]
    fn errors_name_the_wildcard_without_counterpart() {
        let error = |source, target| {
            Mapping::new(source, Some(target), "", "").expect_err("no counterpart")
        };
        let missing = error("a/+", "b/+/+");
        let expected = MappingError::NoCounterpart { wildcard: '+', number: 2, source_count: 1 };
        assert_eq!(missing, expected);
        let text = "wildcard 2 of the target (`+`) has no counterpart: the source has 1";
        assert_eq!(missing.to_string(), text);
        let expected = MappingError::NoCounterpart { wildcard: '#', number: 1, source_count: 0 };
        assert_eq!(error("a", "b/#"), expected);
        assert_eq!(error("a/#", "b/+"), MappingError::SeveralLevels { number: 1 });
        assert_eq!(error("+/#", "+/+"), MappingError::SeveralLevels { number: 2 });
    }

    #[test]
    fn invalid_parts_are_named() {
        let error = |source, target, prefix, suffix| {
            Mapping::new(source, target, prefix, suffix).expect_err("invalid")
        };
        assert_eq!(error("a/#/b", None, "", ""), MappingError::SourceInvalid);
        assert_eq!(error("", None, "", ""), MappingError::SourceInvalid);
        assert_eq!(error("$share/g/a#", None, "", ""), MappingError::SourceInvalid);
        assert_eq!(error("a/#", Some("b#"), "", ""), MappingError::TargetInvalid);
        assert_eq!(error("a/#", Some("b\0"), "", ""), MappingError::TargetInvalid);
        assert_eq!(error("a/#", None, "x/+/", ""), MappingError::PrefixInvalid);
        assert_eq!(error("a/#", None, "", "/#"), MappingError::SuffixInvalid);
        let long = "x".repeat(65_536);
        assert_eq!(error("a/#", None, &long, ""), MappingError::TooLong);
        assert_eq!(error("a/#", Some(&long), "", ""), MappingError::TooLong);
    }
}
