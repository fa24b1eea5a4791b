//! A cursor over received bytes. Every read is bounded by the packet and either yields a valid
//! value or the fault. Always inlined, so that the cursor lives in registers. Read MQTT 5 section
//! 1.5 first.

use super::text::{Place, Unwelcome, first_unwelcome};
use super::{Fault, PacketId};

#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Text is passed on to others: unwelcome characters are a fault.
    careful: bool,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, careful: false }
    }

    /// The same, or one for text that is passed on.
    #[inline]
    pub(super) const fn careful(bytes: &'a [u8], careful: bool) -> Self {
        Self { rest: bytes, careful }
    }

    #[inline(always)]
    pub(super) const fn is_careful(&self) -> bool {
        self.careful
    }

    #[inline(always)]
    pub(super) const fn set_careful(&mut self, careful: bool) {
        self.careful = careful;
    }

    /// What was not read yet.
    #[inline(always)]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline(always)]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The packet must end here.
    #[inline]
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(Fault::TrailingBytes) }
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline(always)]
    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline(always)]
    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        PacketId::new(self.u16()?).ok_or(Fault::PacketIdZero)
    }

    #[inline(always)]
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A variable byte integer in its shortest form [MQTT-1.5.5-1]: inside a packet only MQTT 5
    /// has them.
    #[inline(always)]
    pub(super) fn variable(&mut self) -> Result<u32, Fault> {
        match variable(self.rest) {
            Variable::Value { value, bytes } => {
                if bytes != variable_bytes(value) {
                    return Err(Fault::LengthNotMinimal);
                }
                self.take(bytes)?;
                Ok(value)
            }
            Variable::Unfinished => Err(Fault::Truncated),
            Variable::TooLong => Err(Fault::VariableIntegerTooLong),
        }
    }

    /// A slice behind a variable byte integer that says its length.
    #[inline(always)]
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = self.variable()?;
        self.take(usize::try_from(bytes).map_err(|_| Fault::Truncated)?)
    }

    /// Binary data (1.5.6).
    #[inline(always)]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    /// A UTF-8 string (1.5.4) without U+0000, of a careful reader without what is unwelcome.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        match plain_text(bytes) {
            Some(text) => Ok(text),
            None => unusual_text(bytes, self.careful),
        }
    }

    /// A topic name, possibly empty: a string without wildcards.
    #[inline(always)]
    pub(super) fn topic(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        match plain_text(bytes) {
            Some(text) => Ok(text),
            None => unusual_topic(bytes, self.careful),
        }
    }
}

/// Text that is not plain ASCII without wildcards and control characters.
#[cold]
fn unusual_text(bytes: &[u8], careful: bool) -> Result<&str, Fault> {
    let text = core::str::from_utf8(bytes).map_err(|_| Fault::Utf8Invalid)?;
    if bytes.contains(&0) {
        return Err(Fault::NulInString);
    }
    match first_unwelcome(text) {
        Some(character) if careful => {
            Err(Fault::Character { found: Unwelcome { place: Place::Topic, character } })
        }
        _ => Ok(text),
    }
}

#[cold]
fn unusual_topic(bytes: &[u8], careful: bool) -> Result<&str, Fault> {
    let wildcard = bytes.iter().any(|b| matches!(b, b'+' | b'#'));
    let text = unusual_text(bytes, careful && !wildcard)?;
    if wildcard { Err(Fault::TopicWildcard) } else { Ok(text) }
}

/// The bytes as text if they are plain ASCII, as nearly all topics are: UTF-8, no wildcard and
/// nothing unwelcome. `None` says nothing.
#[inline]
fn plain_text(bytes: &[u8]) -> Option<&str> {
    if !is_plain_ascii(bytes) {
        return None;
    }
    // SAFETY: every byte is below 0x80, and ASCII is UTF-8.
    Some(unsafe { core::str::from_utf8_unchecked(bytes) })
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Whether every byte of the word is printable ASCII and none is `+` or `#`.
#[inline]
const fn is_plain_word(word: u64) -> bool {
    // `#` is 0x23 and `+` is 0x2B: without bit 3 they are the same byte.
    let wildcard = (word & (ONES * 0xF7)) ^ (ONES * 0x23);
    // The classic "has a byte below": exact about whether there is one.
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let wild = wildcard.wrapping_sub(ONES) & !wildcard;
    // Of bytes below 0x80 only 0x7F carries into the high bit.
    let delete = word.wrapping_add(ONES);
    (word | control | wild | delete) & HIGH == 0
}

/// Whether every byte is printable ASCII and none is `+` or `#`: the whole check of nearly every
/// topic.
#[inline]
pub(super) fn is_plain_ascii(bytes: &[u8]) -> bool {
    if let Some(tail) = bytes.last_chunk::<8>() {
        let mut rest = bytes;
        while let Some((word, after)) = rest.split_first_chunk::<8>() {
            if !is_plain_word(u64::from_le_bytes(*word)) {
                return false;
            }
            rest = after;
        }
        // The last word overlaps what was read already.
        return is_plain_word(u64::from_le_bytes(*tail));
    }
    is_plain_word(short_word(bytes))
}

/// Fewer than eight bytes as a word, the missing ones filled up with what is there or harmless.
/// Written so that no byte goes through memory: a store read back wider stalls.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u64 {
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32;
    }
    let (a, b, c) = match *bytes {
        [a, b, c] => (a, b, c),
        [a, b] => (a, b, b'a'),
        [a] => (a, b'a', b'a'),
        _ => (b'a', b'a', b'a'),
    };
    u64::from_le_bytes([a, b, c, b'a', b'a', b'a', b'a', b'a'])
}

/// A variable byte integer at the beginning of some bytes.
pub(super) enum Variable {
    Value {
        value: u32,
        bytes: usize,
    },
    Unfinished,
    /// A fourth byte that says there is a fifth.
    TooLong,
}

/// Reads one, minimal or not (1.5.5).
#[inline]
pub(super) fn variable(bytes: &[u8]) -> Variable {
    let mut value = 0;
    let mut shift = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Variable::Value { value, bytes: index + 1 };
        }
        shift += 7;
    }
    if bytes.len() >= 4 { Variable::TooLong } else { Variable::Unfinished }
}

/// Bytes of the shortest form; 4 for everything that is too large.
#[inline]
pub(super) const fn variable_bytes(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ascii_agrees_with_the_byte_by_byte_definition() {
        let plain = |b: u8| matches!(b, 0x20..0x7F) && !matches!(b, b'+' | b'#');
        for len in 0..40 {
            let mut bytes = vec![b'a'; len];
            assert!(is_plain_ascii(&bytes));
            for at in 0..len {
                for value in 0..=255 {
                    bytes[at] = value;
                    assert_eq!(is_plain_ascii(&bytes), plain(value), "{value:#x} at {at} of {len}");
                }
                bytes[at] = b'a';
            }
        }
    }

    #[test]
    fn plain_word_sees_neighbours_of_the_forbidden_bytes() {
        // The subtraction borrows across bytes: pairs are where such a trick would go wrong.
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                let word = [b'x', a, b, b'x', b, a, b'x', b'x'];
                let plain = |b: &u8| matches!(b, 0x20..0x7F) && !matches!(b, b'+' | b'#');
                assert_eq!(is_plain_ascii(&word), word.iter().all(plain), "{a:#x} {b:#x}");
            }
        }
    }

    #[test]
    fn variable_integers_at_their_borders() {
        let read = |bytes: &[u8]| Reader::new(bytes).variable();
        assert_eq!(read(&[0]), Ok(0));
        assert_eq!(read(&[0x7F]), Ok(127));
        assert_eq!(read(&[0x80, 0x01]), Ok(128));
        assert_eq!(read(&[0xFF, 0x7F]), Ok(16_383));
        assert_eq!(read(&[0x80, 0x80, 0x01]), Ok(16_384));
        assert_eq!(read(&[0xFF, 0xFF, 0x7F]), Ok(2_097_151));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x01]), Ok(2_097_152));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0x7F]), Ok(268_435_455));
        assert_eq!(read(&[0x80, 0x00]), Err(Fault::LengthNotMinimal));
        assert_eq!(read(&[0xFF, 0x80, 0x00]), Err(Fault::LengthNotMinimal));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF]), Err(Fault::Truncated));
        assert_eq!(read(&[0xFF, 0xFF, 0xFF, 0xFF]), Err(Fault::VariableIntegerTooLong));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x01]), Err(Fault::VariableIntegerTooLong));
    }

    #[test]
    fn strings_refuse_what_is_not_text() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).string();
        assert_eq!(read(b"\x00\x03a/b"), Ok("a/b"));
        assert_eq!(read(b"\x00\x00"), Ok(""));
        assert_eq!(read(b"\x00\x03\xE2\x82\xAC"), Ok("€"));
        assert_eq!(read(b"\x00\x03a\x00b"), Err(Fault::NulInString));
        assert_eq!(read(b"\x00\x02\xC0\x80"), Err(Fault::Utf8Invalid));
        assert_eq!(read(b"\x00\x03\xED\xA0\x80"), Err(Fault::Utf8Invalid));
        assert_eq!(read(b"\x00\x04abc"), Err(Fault::Truncated));
        assert_eq!(read(b"\x00"), Err(Fault::Truncated));
    }

    #[test]
    fn what_is_passed_on_has_no_character_that_others_close_over() {
        let found =
            |character| Fault::Character { found: Unwelcome { place: Place::Topic, character } };
        let careful = |bytes: &'static [u8]| Reader::careful(bytes, true).string();
        assert_eq!(careful(b"\x00\x03a\tb"), Err(found('\t')));
        assert_eq!(careful(b"\x00\x01\x7F"), Err(found('\u{7f}')));
        assert_eq!(careful(b"\x00\x02\xC2\x80"), Err(found('\u{80}')));
        assert_eq!(careful(b"\x00\x03\xEF\xBF\xBF"), Err(found('\u{ffff}')));
        assert_eq!(careful(b"\x00\x03\xEF\xBB\xBF"), Ok("\u{feff}"));
        assert_eq!(careful(b"\x00\x03a+b"), Ok("a+b"));
        assert_eq!(careful(b"\x00\x03a\x00\x07"), Err(Fault::NulInString));
        assert_eq!(Reader::new(b"\x00\x03a\tb").string(), Ok("a\tb"));
        let topic = |bytes: &'static [u8]| Reader::careful(bytes, true).topic();
        assert_eq!(topic(b"\x00\x03a\tb"), Err(found('\t')));
        assert_eq!(topic(b"\x00\x03+\tb"), Err(Fault::TopicWildcard));
        assert_eq!(Reader::new(b"\x00\x03a\tb").topic(), Ok("a\tb"));
    }

    #[test]
    fn topics_refuse_wildcards_too() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).topic();
        assert_eq!(read(b"\x00\x03a/b"), Ok("a/b"));
        assert_eq!(read(b"\x00\x04\xE2\x82\xACb"), Ok("€b"));
        assert_eq!(read(b"\x00\x03a/#"), Err(Fault::TopicWildcard));
        assert_eq!(read(b"\x00\x0a+234567890"), Err(Fault::TopicWildcard));
        assert_eq!(read(b"\x00\x04\xE2\x82\xAC+"), Err(Fault::TopicWildcard));
        assert_eq!(read(b"\x00\x04\xE2\x82\xAC\x00"), Err(Fault::NulInString));
        assert_eq!(read(b"\x00\x02a\xFF"), Err(Fault::Utf8Invalid));
    }
}
