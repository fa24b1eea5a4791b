//! The record as the store's log holds it: a fixed head, then topic, properties and payload, the
//! same bytes as in RAM. A CRC-32 covers the content and its place, so that neither a flipped bit
//! nor a record of a slot's former life is ever taken for a message.

use super::pool::{Head, widen};
use crate::limits::{PROPERTIES_BYTES_MAX, SLOT_BYTES};
use crate::mqtt::Qos;
use crate::vocab::Instant;

/// Bytes before the body.
pub const HEAD_BYTES: usize = 40;

/// Bits of a payload's length: no packet of MQTT is larger. The four above them in the same field
/// are the upper ones of the properties' length; records of earlier versions have none there.
const PAYLOAD_BITS: u32 = 28;

const PAYLOAD_MASK: u32 = (1 << PAYLOAD_BITS) - 1;

const _: () = assert!(PROPERTIES_BYTES_MAX < 1 << (16 + 32 - PAYLOAD_BITS));

/// Where a record lies, as far as its CRC is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub slot: u32,
    /// How often the slot has been taken into use.
    pub generation: u32,
    /// Byte offset in the slot.
    pub at: u32,
}

/// What the log knows of a message beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    pub crc: u32,
    pub seq: u64,
    pub topic_bytes: u16,
    /// At most [`PROPERTIES_BYTES_MAX`].
    pub props_bytes: u32,
    pub payload_bytes: u32,
    /// As this destination shall get it.
    pub qos: Qos,
    pub retain: bool,
    /// Hash of bridge and rule, or of a session but for [`SESSION_RULE`]: tells whose it is when
    /// nothing else does.
    pub rule: u32,
    /// It is of a session: no bridge gets it, even when its session is gone.
    pub session: bool,
    /// Milliseconds of the gateway's own clock at arrival, which goes on over restarts.
    pub arrival_ms: u64,
    /// Low bits of its number in the slot, so that it can be found behind damage.
    pub ordinal: u8,
    /// Seconds since 1970 at arrival as the router believed; a label.
    pub wall_s: u32,
    pub expiry_s: Option<u32>,
}

/// Bits of a session's `rule` that are the entry's: by which way the message came.
pub const SESSION_RULE: u32 = 0xFF;

impl LogHead {
    /// The entry's rule, of a session's message.
    pub fn session_rule(&self) -> u8 {
        let [low, ..] = self.rule.to_le_bytes();
        low
    }

    pub fn body_bytes(&self) -> usize {
        // A damaged head may say anything, but no more than its fields have bits.
        usize::from(self.topic_bytes) + widen(self.props_bytes) + widen(self.payload_bytes)
    }

    /// Head and body.
    pub fn bytes(&self) -> usize {
        self.body_bytes() + HEAD_BYTES
    }

    /// Does its topic go on in the next slot, even when it begins its own?
    pub fn has_long_topic(&self) -> bool {
        HEAD_BYTES + usize::from(self.topic_bytes) > SLOT_BYTES
    }

    /// When it arrived. What a lost mark of the clock makes later than now has just come.
    pub fn arrival(&self, now: Instant) -> Instant {
        Instant::from_micros(self.arrival_ms.saturating_mul(1000)).min(now)
    }

    /// Writes the head with the given CRC.
    ///
    /// # Panics
    /// When a length is beyond its bits: what is so long is refused where it enters.
    pub fn encode(&self, out: &mut [u8; HEAD_BYTES]) {
        let [low, more, above, none] = self.props_bytes.to_le_bytes();
        assert!(above < 16 && none == 0, "properties of {} bytes", self.props_bytes);
        assert!(self.payload_bytes <= PAYLOAD_MASK, "payload of {} bytes", self.payload_bytes);
        let lengths = self.payload_bytes | u32::from(above) << PAYLOAD_BITS;
        let flags = self.qos.as_u8()
            | u8::from(self.retain) << 2
            | u8::from(self.expiry_s.is_some()) << 3
            | u8::from(self.session) << 4
            | 0x80;
        out[0..4].copy_from_slice(&self.crc.to_le_bytes());
        out[4] = flags;
        out[5] = self.ordinal;
        out[6..8].copy_from_slice(&self.topic_bytes.to_le_bytes());
        out[8..10].copy_from_slice(&[low, more]);
        out[10..14].copy_from_slice(&lengths.to_le_bytes());
        out[14..22].copy_from_slice(&self.seq.to_le_bytes());
        out[22..26].copy_from_slice(&self.rule.to_le_bytes());
        out[26..32].copy_from_slice(&self.arrival_ms.to_le_bytes()[..6]);
        out[32..36].copy_from_slice(&self.wall_s.to_le_bytes());
        out[36..40].copy_from_slice(&self.expiry_s.unwrap_or(0).to_le_bytes());
    }

    /// Reads a head; `None` when this cannot be one (a slot's unused end is zero).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let flags = bytes[4];
        if flags & 0xE0 != 0x80 {
            return None;
        }
        let mut arrival = [0; 8];
        arrival[..6].copy_from_slice(&bytes[26..32]);
        let lengths = u32_at(10);
        let mut seq = [0; 8];
        seq.copy_from_slice(&bytes[14..22]);
        Some(Self {
            crc: u32_at(0),
            seq: u64::from_le_bytes(seq),
            topic_bytes: u16_at(6),
            props_bytes: u32::from(u16_at(8)) | lengths >> PAYLOAD_BITS << 16,
            payload_bytes: lengths & PAYLOAD_MASK,
            qos: Qos::from_u8(flags & 3)?,
            retain: flags & 4 != 0,
            rule: u32_at(22),
            session: flags & 0x10 != 0,
            arrival_ms: u64::from_le_bytes(arrival),
            ordinal: bytes[5],
            wall_s: u32_at(32),
            expiry_s: (flags & 8 != 0).then(|| u32_at(36)),
        })
    }

    /// The head as the pool keeps it; `arrival` as the caller worked it out.
    pub fn pool_head(&self, arrival: Instant) -> Head {
        Head {
            topic_bytes: self.topic_bytes,
            props_bytes: self.props_bytes,
            payload_bytes: self.payload_bytes,
            qos: self.qos,
            retain: self.retain,
            arrival,
            wall_s: self.wall_s,
            expiry_s: self.expiry_s,
            source: u16::MAX,
        }
    }
}

/// A CRC-32 that has taken in the place; the head (without its CRC field) and the body follow.
pub fn crc_at(spot: Spot) -> crc32fast::Hasher {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&spot.slot.to_le_bytes());
    crc.update(&spot.generation.to_le_bytes());
    crc.update(&spot.at.to_le_bytes());
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LogHead {
        LogHead {
            crc: 0xDEAD_BEEF,
            seq: u64::MAX - 3,
            topic_bytes: 7,
            props_bytes: 300,
            payload_bytes: 70_000,
            qos: Qos::ExactlyOnce,
            retain: true,
            rule: 99,
            session: true,
            arrival_ms: (1 << 48) - 1,
            ordinal: 255,
            wall_s: u32::MAX,
            expiry_s: Some(0),
        }
    }

    #[test]
    fn head_round_trips() {
        let mut bytes = [0; HEAD_BYTES];
        let head = sample();
        head.encode(&mut bytes);
        assert_eq!(LogHead::decode(&bytes), Some(head));
        let head = LogHead { expiry_s: None, retain: false, session: false, ..head };
        head.encode(&mut bytes);
        assert_eq!(LogHead::decode(&bytes), Some(head));
    }

    #[test]
    fn lengths_at_their_borders_come_back() {
        let largest = u32::try_from(PROPERTIES_BYTES_MAX).unwrap();
        for props_bytes in [0, 65_535, 65_536, 131_071, largest] {
            for payload_bytes in [0, 65_535, 65_536, PAYLOAD_MASK] {
                let head = LogHead { topic_bytes: 65_535, props_bytes, payload_bytes, ..sample() };
                let mut bytes = [0; HEAD_BYTES];
                head.encode(&mut bytes);
                assert_eq!(LogHead::decode(&bytes), Some(head));
            }
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_reads_as_it_did() {
        let mut bytes = [0; HEAD_BYTES];
        sample().encode(&mut bytes);
        // Two bytes of properties, then four of payload, least first.
        assert_eq!(bytes[6..14], [7, 0, 0x2C, 0x01, 0x70, 0x11, 0x01, 0]);
    }

    #[test]
    #[should_panic(expected = "properties of 1048576 bytes")]
    fn a_length_beyond_its_bits_is_never_written() {
        LogHead { props_bytes: 1 << 20, ..sample() }.encode(&mut [0; HEAD_BYTES]);
    }

    #[test]
    fn zeros_and_short_input_are_no_record() {
        assert_eq!(LogHead::decode(&[0; HEAD_BYTES]), None);
        let mut bytes = [0; HEAD_BYTES];
        sample().encode(&mut bytes);
        assert_eq!(LogHead::decode(&bytes[..HEAD_BYTES - 1]), None);
    }

    #[test]
    fn crc_depends_on_the_place() {
        let spot = Spot { slot: 1, generation: 2, at: 3 };
        let other = Spot { generation: 3, ..spot };
        assert_ne!(crc_at(spot).finalize(), crc_at(other).finalize());
    }
}
