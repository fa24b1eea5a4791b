//! Shapes of topic filters and the hash that goes with them. Read `subs` first.
//!
//! The hash of a filter is the sum of one term a level. So from the sums over a topic's levels the
//! hash of the only filter of a given shape that can match it follows without reading the topic
//! again: exchange the terms of the `+` levels, leave out what a `#` covers.
//!
//! Pure arithmetic; never decides a match by hash alone (`fits` and the text do).

use crate::fit::fit;
use core::mem::size_of;

/// Levels whose wildcards a shape can describe: the bits of its mask. A filter with a wildcard
/// behind them is [`Kind::Odd`].
const SHAPE_LEVEL_COUNT: usize = 64;

/// Where the wildcards of a filter are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bit `i`: level `i` is `+`.
    pub plus: u64,
    /// Levels before a trailing `#`, or all of them.
    pub level_count: u32,
    pub kind: Kind,
    /// Filters that have this shape (only kept in `Subs::shapes`, zero elsewhere).
    pub filter_count: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ends with a level of its own.
    Closed,
    /// Ends with `#`.
    Multi,
    /// Wildcards beyond the mask.
    Odd,
}

impl Shape {
    pub const NIL: Self = Self { plus: 0, level_count: 0, kind: Kind::Closed, filter_count: 0 };

    /// The shape of a well-formed filter.
    pub fn of(filter: &[u8]) -> Self {
        let mut shape = Self::NIL;
        for (at, level) in filter.split(|byte| *byte == b'/').enumerate() {
            match level {
                b"#" if at <= SHAPE_LEVEL_COUNT => shape.kind = Kind::Multi,
                b"+" if at < SHAPE_LEVEL_COUNT => shape.plus |= 1 << at,
                b"#" | b"+" => shape.kind = Kind::Odd,
                _ => {}
            }
            if level != b"#" {
                shape.level_count += 1;
            }
        }
        shape
    }

    pub fn same(&self, other: &Self) -> bool {
        (self.plus, self.level_count, self.kind) == (other.plus, other.level_count, other.kind)
    }

    /// `$…` topics are not for filters that begin with a wildcard [MQTT-4.7.2-1].
    pub fn leads_with_wildcard(&self) -> bool {
        self.plus & 1 == 1 || (self.level_count == 0 && self.kind == Kind::Multi)
    }
}

/// Does a filter match a topic's bytes? What begins with `$` was looked at before.
pub(super) fn fits(filter: &[u8], mut topic: impl Iterator<Item = u8>) -> bool {
    let mut next = topic.next();
    let mut rest = filter;
    while let Some((byte, behind)) = rest.split_first() {
        match byte {
            b'#' => return true,
            b'+' => {
                while next.is_some_and(|byte| byte != b'/') {
                    next = topic.next();
                }
            }
            // `a/#` matches `a`.
            b'/' if next.is_none() => return rest == b"/#",
            _ if next == Some(*byte) => next = topic.next(),
            _ => return false,
        }
        rest = behind;
    }
    next.is_none()
}

/// The hash of a filter is the sum of a term a level, so that a level can be exchanged for `+` and
/// the levels behind a `#` be left out without looking at the topic again.
pub(super) struct Levels {
    /// `sums[i]`: terms of the topic's first `i` levels.
    sums: Box<[u64; SHAPE_LEVEL_COUNT + 1]>,
    total: u64,
    level_count: u32,
}

/// Odd, without structure (the golden ratio and a prime from xxHash).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
const STIR: u64 = 0xC2B2_AE3D_27D4_EB4F;
/// Added for a trailing `#`.
const MULTI_TERM: u64 = 0xA076_1D64_78BD_642F;

static PLUS_TERMS: [u64; SHAPE_LEVEL_COUNT] = plus_terms();

const fn plus_terms() -> [u64; SHAPE_LEVEL_COUNT] {
    let mut terms = [0; SHAPE_LEVEL_COUNT];
    let mut at = 0;
    let mut place = 0;
    while at < SHAPE_LEVEL_COUNT {
        terms[at] = term(stir(SPREAD, b'+'), place);
        place = next_place(place);
        at += 1;
    }
    terms
}

const fn stir(hash: u64, byte: u8) -> u64 {
    // `u64::from` is not const.
    let wide = u64::from_le_bytes([byte, 0, 0, 0, 0, 0, 0, 0]);
    (hash ^ wide).wrapping_mul(STIR)
}

/// What distinguishes the same level at different places.
const fn next_place(place: u64) -> u64 {
    place.wrapping_add(SPREAD)
}

const fn term(level: u64, place: u64) -> u64 {
    let mixed = (level ^ place).wrapping_mul(STIR);
    mixed ^ (mixed >> 29)
}

impl Levels {
    pub const BYTES: usize = size_of::<[u64; SHAPE_LEVEL_COUNT + 1]>();

    pub fn new() -> Self {
        Self { sums: Box::new([0; SHAPE_LEVEL_COUNT + 1]), total: 0, level_count: 0 }
    }

    pub fn hash_topic(&mut self, topic: &[u8]) {
        let mut level = SPREAD;
        let mut place = 0;
        let mut total: u64 = 0;
        let mut count = 0;
        for byte in topic {
            if *byte != b'/' {
                level = stir(level, *byte);
                continue;
            }
            total = total.wrapping_add(term(level, place));
            count += 1;
            if let Some(sum) = self.sums.get_mut(count) {
                *sum = total;
            }
            level = SPREAD;
            place = next_place(place);
        }
        total = total.wrapping_add(term(level, place));
        count += 1;
        if let Some(sum) = self.sums.get_mut(count) {
            *sum = total;
        }
        self.total = total;
        // A topic has at most 65 535 bytes and so at most 65 536 levels.
        self.level_count = fit(count, "levels");
    }

    /// The hash of a filter's text: `+` is a level like another, a trailing `#` a term of its own.
    pub fn hash_filter(&mut self, filter: &[u8]) -> u64 {
        match filter {
            b"#" => MULTI_TERM,
            [head @ .., b'/', b'#'] => {
                self.hash_topic(head);
                self.total.wrapping_add(MULTI_TERM)
            }
            whole => {
                self.hash_topic(whole);
                self.total
            }
        }
    }

    /// The hash of the one filter of this shape that can match the topic hashed last.
    pub fn hash_as(&self, shape: &Shape) -> Option<u64> {
        let mut hash = match shape.kind {
            Kind::Closed if shape.level_count == self.level_count => self.total,
            Kind::Multi if shape.level_count <= self.level_count => {
                let sum = self.sums.get(usize::try_from(shape.level_count).ok()?)?;
                sum.wrapping_add(MULTI_TERM)
            }
            Kind::Closed | Kind::Multi | Kind::Odd => return None,
        };
        let mut plus = shape.plus;
        while plus != 0 {
            let at = usize::try_from(plus.trailing_zeros()).ok()?;
            let own = self.sums[at + 1].wrapping_sub(self.sums[at]);
            hash = hash.wrapping_add(PLUS_TERMS[at]).wrapping_sub(own);
            plus &= plus - 1;
        }
        Some(hash)
    }
}
