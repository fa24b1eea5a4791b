//! A few bytes about each retained topic, so that a filter with wildcards passes over nearly all
//! that it does not match without touching their text.
//!
//! Promises: [`Probe::may_fit`] is true for every topic that the filter matches; what it lets
//! through beside them (topics whose levels have the same hash) the text decides. Read MQTT 5
//! section 4.7 first.

/// Levels from the front that are remembered.
const FRONT: usize = 3;

/// Levels are counted up to here.
const LEVELS_MAX: u16 = u16::MAX;

/// A topic's levels: how many, and hashes of the first ones and of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    /// 0 = no topic.
    levels: u16,
    front: [u16; FRONT],
    last: u16,
    /// It begins with `$`.
    reserved: bool,
}

impl Signature {
    pub(super) const NONE: Self = Self { levels: 0, front: [0; FRONT], last: 0, reserved: false };

    pub(super) fn of(topic: &[u8]) -> Self {
        let mut signature = Self { reserved: topic.first() == Some(&b'$'), ..Self::NONE };
        for (at, level) in topic.split(|byte| *byte == b'/').enumerate() {
            let hash = hash(level);
            if let Some(place) = signature.front.get_mut(at) {
                *place = hash;
            }
            signature.last = hash;
            // A topic of so many levels is compared by its text alone.
            signature.levels = signature.levels.saturating_add(1);
        }
        signature
    }
}

/// A filter with wildcards, as it is held against signatures.
pub(super) struct Probe {
    /// Levels before a trailing `#`, or all of them.
    levels: u16,
    /// It ends with `#`.
    open: bool,
    /// It begins with a wildcard: not for `$…` [MQTT-4.7.2-1].
    leads: bool,
    /// `None` = any.
    front: [Option<u16>; FRONT],
    last: Option<u16>,
}

impl Probe {
    pub(super) fn new(filter: &[u8]) -> Self {
        let mut probe = Self {
            levels: 0,
            open: false,
            leads: matches!(filter.first(), Some(b'+' | b'#')),
            front: [None; FRONT],
            last: None,
        };
        for (at, level) in filter.split(|byte| *byte == b'/').enumerate() {
            if level == b"#" {
                probe.open = true;
                probe.last = None;
                break;
            }
            let hash = (level != b"+").then(|| hash(level));
            if let Some(place) = probe.front.get_mut(at) {
                *place = hash;
            }
            probe.last = hash;
            probe.levels = probe.levels.saturating_add(1);
        }
        probe
    }

    /// May the filter match a topic of this signature?
    pub(super) fn may_fit(&self, of: &Signature) -> bool {
        if of.levels == LEVELS_MAX {
            return true;
        }
        // `a/#` matches `a` too.
        let count = if self.open { of.levels >= self.levels } else { of.levels == self.levels };
        if !count || of.levels == 0 || (self.leads && of.reserved) {
            return false;
        }
        let front = self.front.iter().zip(of.front);
        let fits = |wanted: Option<u16>, hash| wanted.is_none_or(|wanted| wanted == hash);
        fits(self.last, of.last) && front.into_iter().all(|(wanted, hash)| fits(*wanted, hash))
    }
}

fn hash(level: &[u8]) -> u16 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    let [.., high, higher] = level.iter().fold(0x9E37_79B9_7F4A_7C15, mix).to_le_bytes();
    u16::from_le_bytes([high, higher])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::topic;
    use crate::vocab::Rng;

    fn text(rng: &mut Rng, levels: &[&str]) -> String {
        let count = 1 + rng.below(5);
        let pick = |rng: &mut Rng| {
            levels[usize::try_from(rng.below(levels.len().try_into().unwrap())).unwrap()]
        };
        let picked: Vec<&str> = (0..count).map(|_| pick(rng)).collect();
        picked.join("/")
    }

    #[test]
    fn nothing_that_a_filter_matches_is_passed_over() {
        let mut rng = Rng::new(7);
        let mut let_through = 0;
        for _ in 0..50_000 {
            let name = text(&mut rng, &["a", "b", "", "$SYS", "cc"]);
            let mut filter = text(&mut rng, &["a", "b", "", "+", "+", "$SYS"]);
            match rng.below(3) {
                0 => filter.push_str("/#"),
                1 => filter = "#".to_string(),
                _ => {}
            }
            let may = Probe::new(filter.as_bytes()).may_fit(&Signature::of(name.as_bytes()));
            let does = topic::matches(&filter, &name);
            assert!(may || !does, "{filter} {name}");
            let_through += u32::from(may && !does);
        }
        assert!(let_through < 5_000, "{let_through} of those that do not match");
        assert!(!Probe::new(b"#").may_fit(&Signature::NONE));
        let deep = "/".repeat(65_535);
        assert!(Probe::new(b"a/+").may_fit(&Signature::of(deep.as_bytes())));
    }
}
