//! Writing into a fixed buffer, or only counting: the encoder describes each packet once and runs
//! that description twice, so that its length can never disagree with its bytes.

use super::reader::variable_bytes;

/// The buffer is too small, or the value does not fit what MQTT can say (a string of more than
/// 65 535 bytes, a packet of more than 268 435 455). Nothing is promised about what is in the
/// buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl core::fmt::Display for Full {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("full")
    }
}

impl core::error::Error for Full {}

/// Where encoded bytes go.
pub(super) trait Sink {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full>;

    #[inline]
    fn u8(&mut self, value: u8) -> Result<(), Full> {
        self.bytes(&[value])
    }

    #[inline]
    fn u16(&mut self, value: u16) -> Result<(), Full> {
        self.bytes(&value.to_be_bytes())
    }

    #[inline]
    fn u32(&mut self, value: u32) -> Result<(), Full> {
        self.bytes(&value.to_be_bytes())
    }

    /// A variable byte integer (1.5.5).
    #[inline]
    fn variable(&mut self, value: usize) -> Result<(), Full> {
        // One byte nearly always, and a copy of constant length is no call.
        if let Ok(byte @ 0..0x80) = u8::try_from(value) {
            return self.u8(byte);
        }
        let (bytes, len) = variable_array(value)?;
        self.bytes(&bytes[..len])
    }

    /// Binary data (1.5.6).
    #[inline]
    fn binary(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.u16(u16::try_from(bytes.len()).map_err(|_| Full)?)?;
        self.bytes(bytes)
    }

    /// A string (1.5.4).
    #[inline]
    fn string(&mut self, text: &str) -> Result<(), Full> {
        self.binary(text.as_bytes())
    }

    /// Bytes behind a variable byte integer that says their length.
    #[inline]
    fn sized(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.variable(bytes.len())?;
        self.bytes(bytes)
    }
}

/// The encoded variable byte integer and how many bytes of it count.
#[inline]
pub(super) fn variable_array(value: usize) -> Result<([u8; 4], usize), Full> {
    let value = u32::try_from(value).map_err(|_| Full)?;
    if value > 0x0FFF_FFFF {
        return Err(Full);
    }
    let len = variable_bytes(value);
    // Seven bits a byte, lowest first, the top bit set on all but the last.
    let spread = (value & 0x7F)
        | (value & 0x3F80) << 1
        | (value & 0x001F_C000) << 2
        | (value & 0x0FE0_0000) << 3;
    let continued: [u32; 5] = [0, 0, 0x80, 0x8080, 0x80_8080];
    Ok(((spread | continued[len]).to_le_bytes(), len))
}

/// Appends to a caller's buffer, for properties and their like.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    /// Bytes written so far.
    pub const fn len(&self) -> usize {
        self.at
    }

    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// What was written.
    pub fn into_bytes(self) -> &'a [u8] {
        let (written, _) = self.out.split_at(self.at);
        written
    }
}

impl Sink for Writer<'_> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.at.checked_add(bytes.len()).ok_or(Full)?;
        self.out.get_mut(self.at..end).ok_or(Full)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }
}

/// Counts what would be written.
#[derive(Default)]
pub(super) struct Counter(pub(super) usize);

impl Sink for Counter {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.0 = self.0.checked_add(bytes.len()).ok_or(Full)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::Reader;
    use super::*;

    #[test]
    fn variable_integers_come_back_at_every_border() {
        let borders = [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455];
        for value in borders {
            let (bytes, len) = variable_array(value).expect("in range");
            let mut reader = Reader::new(&bytes[..len]);
            let read = reader.variable().expect("minimal");
            assert_eq!(usize::try_from(read), Ok(value));
            assert!(reader.is_empty());
        }
        assert_eq!(variable_array(268_435_456), Err(Full));
        assert_eq!(variable_array(usize::MAX), Err(Full));
    }

    #[test]
    fn a_writer_takes_what_fits_and_not_one_byte_more() {
        let mut buffer = [0; 5];
        let mut writer = Writer::new(&mut buffer);
        writer.string("abc").expect("five bytes");
        assert_eq!(writer.u8(0), Err(Full));
        assert_eq!(writer.into_bytes(), b"\x00\x03abc");
        assert_eq!(Writer::new(&mut [0; 4]).string("abc"), Err(Full));
        let long = "x".repeat(65_536);
        assert_eq!(Counter::default().string(&long), Err(Full));
        assert_eq!(Counter::default().string(&long[1..]), Ok(()));
    }
}
