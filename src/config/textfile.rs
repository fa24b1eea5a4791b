//! Text files as people write them: the configuration, the files of users and of access rules, the
//! password of a bridge. One reader for all: a byte order mark is no part of the text, a line ends
//! with LF, CRLF or CR, or with the file; what is no text is refused with its line. Reads no file.

use crate::fit::fit;
use core::iter;

/// Bytes a file that the configuration names may have.
pub const TEXT_BYTES_MAX: u64 = 1024 * 1024;

const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why a file is no text. `line` 0 is the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoText {
    pub line: u32,
    pub what: String,
}

impl NoText {
    fn whole(what: &str) -> Self {
        Self { line: 0, what: what.to_owned() }
    }
}

/// How files that are no text begin, and what they are.
const KINDS: &[(&[u8], &str)] = &[
    (b"SQLite format 3\0", "is a SQLite database, perhaps the store itself"),
    (b"\x7FELF", "is a program"),
    (b"\x1F\x8B", "is compressed"),
    (b"PK\x03\x04", "is compressed"),
    (b"\xFD7zXZ", "is compressed"),
];

/// The text in a file, without a byte order mark.
pub fn decode(bytes: &[u8]) -> Result<&str, NoText> {
    if let Some((_, what)) = KINDS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Err(NoText::whole(&format!("{what}, no text")));
    }
    let bytes = plain(bytes)?;
    core::str::from_utf8(bytes).map_err(|error| {
        let (before, rest) = bytes.split_at(error.valid_up_to());
        let byte = rest.first().copied().unwrap_or(0);
        let what = format!("is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8");
        NoText { line: line_of(before), what }
    })
}

/// Bytes that may be text in some code of one byte a character or in UTF-8; without the mark.
fn plain(bytes: &[u8]) -> Result<&[u8], NoText> {
    let wide = "is UTF-16 or UTF-32: save the file as UTF-8";
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(NoText::whole(wide));
    }
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    let Some(at) = bytes.iter().position(|byte| *byte == 0) else { return Ok(bytes) };
    if bytes.iter().all(|byte| *byte == 0) {
        // What a power cut leaves of a file that was being written.
        return Err(NoText::whole("holds nothing but zero bytes: write it again"));
    }
    // Every other byte of Latin text is zero there.
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    if at < 4 && zeros >= bytes.len() / 3 {
        return Err(NoText::whole(wide));
    }
    let what = "holds a zero byte: this is no text file".to_owned();
    Err(NoText { line: line_of(&bytes[..at]), what })
}

/// The line that begins behind the last line end of `before`.
fn line_of(before: &[u8]) -> u32 {
    let ends = before.iter().zip(before.iter().skip(1).map(Some).chain([None]));
    // Of CRLF only the LF counts.
    let ends = ends.filter(|(byte, next)| match byte {
        b'\n' => true,
        b'\r' => *next != Some(&b'\n'),
        _ => false,
    });
    // A file has at most TEXT_BYTES_MAX of them.
    fit::<u32, usize>(ends.count(), "lines of a file").saturating_add(1)
}

/// The lines of a text by number from 1, without their ends.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    (1..).zip(lines_and_ends(text).map(|(line, _)| line))
}

/// The lines of a text and what ends each: `\n`, `\r\n`, `\r`, or nothing at the end of the file.
pub fn lines_and_ends(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let (line, behind) = rest.split_at(at);
        let end = if behind.starts_with("\r\n") { 2 } else { behind.len().min(1) };
        let (end, after) = behind.split_at(end);
        rest = after;
        Some((line, end))
    })
}

/// The password that is alone in a file: its first line as it stands, blanks too, for a password
/// may have them. Also what is doubtful about it. Its bytes need not be UTF-8: MQTT does not ask.
pub(super) fn password(bytes: &[u8]) -> Result<(&[u8], Option<&'static str>), NoText> {
    let bytes = plain(bytes)?;
    let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(bytes.len());
    let (secret, rest) = bytes.split_at(end);
    if let Some(more) = rest.iter().position(|byte| !byte.is_ascii_whitespace()) {
        let what = "holds something below the password, which is the first line alone".to_owned();
        return Err(NoText { line: line_of(&bytes[..end + more]), what });
    }
    let blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let doubt = if blank(secret.first()) || blank(secret.last()) {
        Some("begins or ends with a blank, which is taken for a part of the password")
    } else if core::str::from_utf8(secret).is_err() {
        Some("is not UTF-8: the password is sent byte by byte as it is")
    } else {
        None
    };
    Ok((secret, doubt))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(bytes: &[u8]) -> (u32, String) {
        let NoText { line, what } = decode(bytes).expect_err("no text");
        (line, what)
    }

    #[test]
    fn lines_end_as_any_system_ends_them() {
        for text in ["a\nb\n\nc", "a\r\nb\r\n\r\nc", "a\rb\r\rc", "a\nb\r\n\rc", "a\nb\n\nc\n"] {
            let read: Vec<_> = lines(text).collect();
            assert_eq!(read, [(1, "a"), (2, "b"), (3, ""), (4, "c")], "{text:?}");
            let whole: String = lines_and_ends(text).flat_map(|(line, end)| [line, end]).collect();
            assert_eq!(whole, text);
        }
        assert_eq!(lines("").count(), 0);
        assert_eq!(lines("\n").collect::<Vec<_>>(), [(1, "")]);
    }

    #[test]
    fn a_mark_is_no_text_and_other_codes_are_named() {
        assert_eq!(decode(b"\xEF\xBB\xBFa"), Ok("a"));
        assert_eq!((decode(b""), decode(b"\xEF\xBB\xBF")), (Ok(""), Ok("")));
        let wide: Vec<u8> = "ack = safe\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "ack = safe\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let four: Vec<u8> = "ack".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
        for bytes in [&wide[..], &big, &four, &[b"\xFF\xFE", &wide[..]].concat()] {
            let (line, what) = wrong(bytes);
            assert!(line == 0 && what.contains("UTF-16"), "{what}");
        }
    }

    #[test]
    fn what_is_no_text_is_said_with_its_line() {
        assert_eq!(wrong(b"a\r\nb\rc\nd\xE4").0, 4);
        assert!(wrong(b"a\r\nb\xE4").1.contains("0xe4"));
        assert_eq!(wrong(b"\xEF\xBB\xBFone\ntwo\nth\0ree"), (3, wrong(b"abcdefg\0").1));
        assert!(wrong(&[0; 100]).1.contains("nothing but zero bytes"));
        assert_eq!(wrong(b"good text\n\xFE").0, 2);
        assert!(wrong(b"\x7FELF\x01\x01").1.contains("a program"));
        assert!(wrong(b"SQLite format 3\0\x10").1.contains("perhaps the store"));
        assert!(wrong(b"\x1F\x8B\x08").1.contains("compressed"));
    }

    #[test]
    fn a_password_is_the_first_line_as_it_stands() {
        let marked = b"\xEF\xBB\xBFsecret\r\n";
        for bytes in
            [&b"secret"[..], b"secret\n", b"secret\r\n", b"secret\r", b"secret\n\n \n", marked]
        {
            assert_eq!(password(bytes), Ok((&b"secret"[..], None)), "{bytes:?}");
        }
        for bytes in [&b" secret\n"[..], b"secret \n", b"secret\t"] {
            let (secret, doubt) = password(bytes).unwrap();
            assert!(secret.len() == 7 && doubt.unwrap().contains("blank"));
        }
        assert!(password(b"s\xE4cret").unwrap().1.unwrap().contains("not UTF-8"));
        let NoText { line, what } = password(b"one\r\n\r\ntwo\n").unwrap_err();
        assert!(line == 3 && what.contains("first line alone"), "{line} {what}");
        assert!(password(b"a\0b").is_err() && password(b"\xFF\xFEa\0").is_err());
        assert_eq!(password(b"\n").unwrap().0, b"");
    }
}
