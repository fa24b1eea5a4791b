//! Framing: where the packet at the beginning of a buffer ends.
//!
//! Looks at the fixed header only and refuses at once what can never become a packet, before its
//! body has arrived. Read MQTT 5 section 2.1 first.

use super::reader::{Variable, variable};
use super::{Fault, Malformed, Qos};

/// Largest remaining length the wire can say (1.5.5).
pub const REMAINING_LENGTH_MAX: usize = 268_435_455;
/// Largest packet there can be: the type byte, four bytes of length and the rest.
pub const PACKET_BYTES_MAX: usize = 5 + REMAINING_LENGTH_MAX;

/// What is at the beginning of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed; how many the whole packet has, once that is known.
    Incomplete { packet_bytes: Option<usize> },
    /// `buffer[..packet_bytes]` is a packet for `decode`.
    Complete { packet_bytes: usize },
}

/// Finds the end of the packet at the beginning of `buffer`.
///
/// [`Fault::TooLarge`] comes as soon as the header says more than `packet_bytes_max`. A receiver
/// that wants to swallow such a packet learns its size by asking again with [`PACKET_BYTES_MAX`].
/// A remaining length that is not minimal is refused by `decode`, which knows the version.
#[inline]
pub fn frame(buffer: &[u8], packet_bytes_max: usize) -> Result<Frame, Malformed> {
    let Some((&first, rest)) = buffer.split_first() else {
        return Ok(Frame::Incomplete { packet_bytes: None });
    };
    check_first_byte(first)?;
    match variable(rest) {
        Variable::Value { value, bytes } => {
            let remaining = usize::try_from(value).map_err(|_| Fault::TooLarge)?;
            let packet_bytes = 1 + bytes + remaining;
            if packet_bytes > packet_bytes_max {
                return Err(Fault::TooLarge.into());
            }
            if buffer.len() < packet_bytes {
                return Ok(Frame::Incomplete { packet_bytes: Some(packet_bytes) });
            }
            Ok(Frame::Complete { packet_bytes })
        }
        Variable::Unfinished => Ok(Frame::Incomplete { packet_bytes: None }),
        Variable::TooLong => Err(Fault::RemainingLengthTooLong.into()),
    }
}

/// Packet type and flags, as far as they can be judged without the version.
#[inline]
pub(super) fn check_first_byte(first: u8) -> Result<(), Fault> {
    let flags = first & 0x0F;
    match first >> 4 {
        0 => Err(Fault::PacketTypeReserved),
        3 => match Qos::from_u8((flags >> 1) & 3) {
            None => Err(Fault::QosInvalid),
            Some(Qos::AtMostOnce) if flags & 0x08 != 0 => Err(Fault::DupWithoutQos),
            Some(_) => Ok(()),
        },
        // PUBREL, SUBSCRIBE, UNSUBSCRIBE; 3.1 sets DUP when it sends them again.
        6 | 8 | 10 if flags & 0x07 == 0x02 => Ok(()),
        6 | 8 | 10 => Err(Fault::FlagsReserved),
        _ if flags == 0 => Ok(()),
        _ => Err(Fault::FlagsReserved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> Fault {
        frame(bytes, 1000).expect_err("refused").fault
    }

    #[test]
    fn a_packet_is_complete_at_its_last_byte_and_not_before() {
        let packet = [0x40, 2, 0, 7];
        assert_eq!(frame(&[], 1000), Ok(Frame::Incomplete { packet_bytes: None }));
        assert_eq!(frame(&packet[..1], 1000), Ok(Frame::Incomplete { packet_bytes: None }));
        for len in 2..4 {
            let incomplete = Frame::Incomplete { packet_bytes: Some(4) };
            assert_eq!(frame(&packet[..len], 1000), Ok(incomplete));
        }
        assert_eq!(frame(&packet, 1000), Ok(Frame::Complete { packet_bytes: 4 }));
        let two = [0x40, 2, 0, 7, 0x40];
        assert_eq!(frame(&two, 1000), Ok(Frame::Complete { packet_bytes: 4 }));
    }

    #[test]
    fn a_size_beyond_the_limit_is_refused_from_the_header_on() {
        assert_eq!(frame(&[0x30, 98], 100), Ok(Frame::Incomplete { packet_bytes: Some(100) }));
        assert_eq!(frame(&[0x30, 99], 100), Err(Fault::TooLarge.into()));
        let largest = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
        assert_eq!(
            frame(&largest, PACKET_BYTES_MAX),
            Ok(Frame::Incomplete { packet_bytes: Some(PACKET_BYTES_MAX) })
        );
        assert_eq!(frame(&largest, PACKET_BYTES_MAX - 1), Err(Fault::TooLarge.into()));
    }

    #[test]
    fn a_fifth_length_byte_is_refused_and_an_unfinished_length_waits() {
        assert_eq!(fault(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]), Fault::RemainingLengthTooLong);
        let waiting = Ok(Frame::Incomplete { packet_bytes: None });
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF], 1000), waiting);
        assert_eq!(frame(&[0x30, 0x82, 0x00, 1, 2], 1000), Ok(Frame::Complete { packet_bytes: 5 }));
    }

    #[test]
    fn wrong_types_and_flags_are_refused_by_the_first_byte() {
        assert_eq!(fault(&[0x00]), Fault::PacketTypeReserved);
        assert_eq!(fault(&[0x36]), Fault::QosInvalid);
        assert_eq!(fault(&[0x3E]), Fault::QosInvalid);
        assert_eq!(fault(&[0x38]), Fault::DupWithoutQos);
        for first in [0x11, 0x28, 0x41, 0x52, 0x60, 0x70 | 2, 0x80, 0x81, 0x93, 0xA0, 0xB2] {
            assert_eq!(fault(&[first]), Fault::FlagsReserved, "{first:#x}");
        }
        for first in [0xC1, 0xD8, 0xE4, 0xF2] {
            assert_eq!(fault(&[first]), Fault::FlagsReserved, "{first:#x}");
        }
        for first in [0x10, 0x20, 0x30, 0x3B, 0x3D, 0x40, 0x50, 0x62, 0x6A, 0x70, 0x82, 0xF0] {
            assert!(frame(&[first], 1000).is_ok(), "{first:#x}");
        }
    }
}
