//! Words every floor speaks: time, ids, chance, policies. No logic beyond their own
//! arithmetic, no clock.

use core::num::NonZeroU16;
use core::time::Duration;

/// A point of the gateway's own time in microseconds: monotonic, and going on over restarts as far
/// as the store remembers.
///
/// The shell reads the clock once a turn; everything below gets it as a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const ZERO: Self = Self(0);
    /// Where the clock begins without a store that remembers.
    pub const START: Self = Self(1 << 50);
    /// Later than anything that happens: "no deadline".
    pub const NEVER: Self = Self(u64::MAX);

    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1000
    }

    /// `self + span`, saturating at [`Instant::NEVER`].
    pub fn plus(self, span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time that passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// How fast something comes: bytes a second, as of its last whole [`Flow::SPAN`].
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    since: Instant,
    bytes: u64,
    grown: Instant,
    before: u64,
}

impl Flow {
    pub const SPAN: Duration = Duration::from_millis(500);

    /// Until that has passed nobody is slow.
    pub const fn begin(now: Instant) -> Self {
        Self { since: now, bytes: 0, grown: now, before: u64::MAX }
    }

    pub fn add(&mut self, now: Instant, bytes: u64) {
        if now.since(self.since) >= Self::SPAN {
            (self.before, self.since, self.bytes) = (self.rate(now), now, 0);
        }
        self.bytes += bytes;
        self.grown = now;
    }

    /// When the last of it came.
    pub const fn grown(&self) -> Instant {
        self.grown
    }

    /// Bytes a second; 0 when nothing came of late.
    pub fn rate(&self, now: Instant) -> u64 {
        if now.since(self.grown) >= Self::SPAN {
            return 0;
        }
        if now.since(self.since) < Self::SPAN {
            return self.before;
        }
        self.bytes.saturating_mul(1_000_000) / (now.0 - self.since.0)
    }
}

/// A connection: a slot in the connection table and the slot's generation, so that a late event
/// for a closed connection never meets its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub slot: u16,
    pub generation: u16,
}

impl ConnId {
    /// The id as one word, e.g. for a poll token.
    pub fn packed(self) -> u32 {
        u32::from(self.slot) | u32::from(self.generation) << 16
    }

    pub fn unpacked(word: u32) -> Self {
        let [a, b, c, d] = word.to_le_bytes();
        Self { slot: u16::from_le_bytes([a, b]), generation: u16::from_le_bytes([c, d]) }
    }
}

/// A bridge, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId(pub u16);

/// An MQTT packet identifier, never zero [MQTT-2.2.1-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The greatest.
    pub const LAST: Self = Self(NonZeroU16::MAX);

    /// `None` for zero.
    pub const fn new(raw: u16) -> Option<Self> {
        match NonZeroU16::new(raw) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    pub const fn raw(self) -> u16 {
        self.0.get()
    }
}

/// Number of a message in one destination's queue; it only grows, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

/// A small seeded generator (SplitMix64): the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }
}

/// What happens to a message for a destination that is at its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The publisher waits for its acknowledgement.
    Block,
    /// The oldest that is not in flight makes room.
    DropOldest,
    /// The new one is not taken.
    DropNewest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_survives_packing() {
        let id = ConnId { slot: 513, generation: 65_535 };
        assert_eq!(ConnId::unpacked(id.packed()), id);
    }

    #[test]
    fn a_flow_is_as_fast_as_of_late() {
        let at = |ms: u64| Instant::from_micros(1_000_000 + 1000 * ms);
        let mut flow = Flow::begin(at(0));
        flow.add(at(0), 50_000);
        assert_eq!(flow.rate(at(499)), u64::MAX, "nobody is slow at once");
        // A burst and then nothing.
        assert_eq!(flow.rate(at(500)), 0);
        // A burst and then a little, often.
        for ms in (250..=4000).step_by(250) {
            flow.add(at(ms), 1);
        }
        assert_eq!(flow.rate(at(4249)), 4);
        flow.add(at(4250), 1);
        flow.add(at(4400), 6000);
        assert_eq!((flow.rate(at(4499)), flow.rate(at(4500))), (4, 12_004));
        assert_eq!(flow.grown(), at(4400));
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Instant::NEVER.plus(Duration::from_secs(1)), Instant::NEVER);
        assert_eq!(Instant::ZERO.since(Instant::from_micros(5)), Duration::ZERO);
    }

    #[test]
    fn packet_id_zero_does_not_exist() {
        assert!(PacketId::new(0).is_none());
        assert_eq!(PacketId::new(7).map(PacketId::raw), Some(7));
    }
}
