//! What a test message carries: who sent it, on which of its streams, its number there, when and
//! at which QoS. The rest of the payload is a fixed pattern that the receiver checks.

const MAGIC: [u8; 4] = *b"SPWT";

/// Smallest payload that holds a stamp.
pub const STAMP_BYTES: usize = 32;

/// One stream is one topic of one publisher; `seq` counts from 0 in it without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub run: u32,
    pub publisher: u32,
    pub stream: u16,
    pub qos: u8,
    pub seq: u64,
    pub sent_at: u64,
}

impl Stamp {
    /// Writes the stamp and the pattern over the whole of `payload`.
    pub fn write(&self, payload: &mut [u8]) {
        let (head, rest) = payload.split_at_mut(STAMP_BYTES);
        head[0..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&self.run.to_le_bytes());
        head[8..12].copy_from_slice(&self.publisher.to_le_bytes());
        head[12..14].copy_from_slice(&self.stream.to_le_bytes());
        head[14] = self.qos;
        head[15] = 0;
        for (index, byte) in rest.iter_mut().enumerate() {
            *byte = pattern(index);
        }
        patch(payload, self.seq, self.sent_at);
    }

    /// None when the payload is somebody else's.
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        if payload.len() < STAMP_BYTES || payload[0..4] != MAGIC {
            return None;
        }
        Some(Stamp {
            run: u32::from_le_bytes(payload[4..8].try_into().ok()?),
            publisher: u32::from_le_bytes(payload[8..12].try_into().ok()?),
            stream: u16::from_le_bytes(payload[12..14].try_into().ok()?),
            qos: payload[14],
            seq: u64::from_le_bytes(payload[16..24].try_into().ok()?),
            sent_at: u64::from_le_bytes(payload[24..32].try_into().ok()?),
        })
    }
}

/// Renews number and time in a payload that `write` has made: the cheap path of the load.
pub fn patch(payload: &mut [u8], seq: u64, sent_at: u64) {
    payload[16..24].copy_from_slice(&seq.to_le_bytes());
    payload[24..32].copy_from_slice(&sent_at.to_le_bytes());
}

/// Is what follows the stamp the pattern it was sent with?
pub fn intact(payload: &[u8]) -> bool {
    payload[STAMP_BYTES..].iter().enumerate().all(|(index, byte)| *byte == pattern(index))
}

fn pattern(index: usize) -> u8 {
    (index as u8).wrapping_mul(31).wrapping_add(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let stamp = Stamp { run: 9, publisher: 7, stream: 3, qos: 2, seq: 1 << 40, sent_at: 5 };
        let mut payload = vec![0; 300];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert!(intact(&payload));
        payload[299] ^= 1;
        assert!(!intact(&payload));
        assert_eq!(Stamp::read(&payload[..STAMP_BYTES - 1]), None);
        assert_eq!(Stamp::read(b"hello"), None);
    }
}
