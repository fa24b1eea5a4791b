//! Text → [`Raw`]: lines, keys and values, each with its place. Knows which keys exist, nothing
//! of what their values mean. Reports every bad line and goes on with the next; never panics,
//! whatever the text. Reads no files.

use super::keys::{self, Found, Key, NAME_BYTES_MAX};
use super::textfile;
use crate::note::Visible;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of a configuration file; a longer one is refused whole.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

/// Bytes of one line; a longer one is refused.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// What is wrong, and where. `line` 0 is the file as a whole; `key` may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: String,
    pub line: u32,
    pub key: String,
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, &self.file, self.line, &self.key)?;
        f.write_str(&self.what)
    }
}

impl std::error::Error for ConfigError {}

/// Allowed, but perhaps not what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub file: String,
    pub line: u32,
    pub key: String,
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, &self.file, self.line, &self.key)?;
        write!(f, "warning: {}", self.what)
    }
}

fn place(f: &mut fmt::Formatter<'_>, file: &str, line: u32, key: &str) -> fmt::Result {
    write!(f, "{}:", Visible(file))?;
    if line > 0 {
        write!(f, "{line}:")?;
    }
    f.write_str(" ")?;
    if !key.is_empty() {
        write!(f, "{}: ", Shown(key))?;
    }
    Ok(())
}

/// Text from the file in a message: cut, and with everything that would forge a line or hide
/// something written out.
pub(super) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 80;
        match self.0.char_indices().nth(CHARS_MAX) {
            Some((at, _)) => write!(f, "{}…", Visible(self.0.get(..at).unwrap_or(""))),
            None => write!(f, "{}", Visible(self.0)),
        }
    }
}

/// A value as written. Only a bare `off` or `none` is a word; in quotes it is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: Cow<'a, str>,
    pub quoted: bool,
}

impl Word<'_> {
    pub fn is_off(&self) -> bool {
        !self.quoted && self.text == "off"
    }
}

/// One `key = value` that is built, known and there for the first time.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub line: u32,
    pub key: &'a str,
    pub word: Word<'a>,
}

/// The file's entries in file order.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw<'a> {
    pub entries: Vec<Entry<'a>>,
}

/// Splits `text`. What is wrong goes to `errors`, in file order.
pub(super) fn parse<'a>(file: &str, text: &'a str, errors: &mut Vec<ConfigError>) -> Raw<'a> {
    let mut raw = Raw::default();
    let mut report = |line: u32, key: &str, what: String| {
        errors.push(ConfigError { file: file.to_owned(), line, key: key.to_owned(), what });
    };
    if text.len() > FILE_BYTES_MAX {
        let what = format!("{} bytes long; at most {FILE_BYTES_MAX} are read", text.len());
        report(0, "", what);
        return raw;
    }
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    // Text that did not come through `decode`.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in textfile::lines(text) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.len() > LINE_BYTES_MAX {
            report(number, "", format!("the line is longer than {LINE_BYTES_MAX} bytes"));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            // The text is not shown: half of a password line may stand here.
            report(number, "", no_pair(line));
            continue;
        };
        let (key, value) = (key.trim_end(), value.trim_start());
        if let Err(what) = known(key) {
            report(number, key, what);
            continue;
        }
        if let Some(first) = seen.get(key) {
            report(number, key, format!("is already there in line {first}"));
            continue;
        }
        seen.insert(key, number);
        match unquote(value) {
            Ok(word) => raw.entries.push(Entry { line: number, key, word }),
            Err(what) => report(number, key, what.to_owned()),
        }
    }
    raw
}

/// What is wrong with a line without a `=`.
fn no_pair(line: &str) -> String {
    let form = "not of the form key = value";
    let word = line.split([' ', '\t', ':']).next().unwrap_or("");
    match keys::find(word) {
        Found::Known(_) => format!("{form}: behind {} there is no =", Shown(word)),
        Found::BadName(_) | Found::Unknown if line.starts_with('[') => {
            format!("{form}: there are no sections here, every key is written whole")
        }
        Found::BadName(_) | Found::Unknown => form.to_owned(),
    }
}

fn known(key: &str) -> Result<&'static Key, String> {
    match keys::find(key) {
        Found::Known(found) if found.built => Ok(found),
        Found::Known(_) => Err("not in this build".to_owned()),
        Found::BadName(found) => Err(format!(
            "a name must be 1 to {NAME_BYTES_MAX} of a-z 0-9 _ - (in {})",
            found.pattern
        )),
        Found::Unknown if key.is_empty() => Err("there is no key before the =".to_owned()),
        Found::Unknown => {
            let compared: String = key.chars().take(KEY_CHARS_COMPARED).collect();
            let nearest = keys::nearest(&compared);
            Err(format!("unknown key; the nearest known one is {nearest}"))
        }
    }
}

/// Longer unknown keys are compared by their beginning, so that a hostile file costs little.
const KEY_CHARS_COMPARED: usize = 128;

/// Takes the quotes and escapes off a value.
fn unquote(value: &str) -> Result<Word<'_>, &'static str> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("the value holds a control character");
    }
    let Some(inside) = value.strip_prefix('"') else {
        return Ok(Word { text: Cow::Borrowed(value), quoted: false });
    };
    let mut text = String::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if chars.as_str().is_empty() => {
                return Ok(Word { text: Cow::Owned(text), quoted: true });
            }
            '"' => return Err("there is something behind the closing quote"),
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                Some(_) | None => return Err("in quotes only \\\" and \\\\ may follow a \\"),
            },
            plain => text.push(plain),
        }
    }
    Err("the closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::is_hidden;

    fn parse_error(file: &str, key: &str) -> String {
        let mut errors = Vec::new();
        parse(file, &format!("{key} = 1"), &mut errors);
        errors[0].to_string()
    }

    fn read(text: &str) -> (Vec<(u32, String, String)>, Vec<String>) {
        let mut errors = Vec::new();
        let raw = parse("f", text, &mut errors);
        let entries = raw.entries.iter();
        let entries = entries.map(|e| (e.line, e.key.to_owned(), e.word.text.to_string()));
        (entries.collect(), errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_comment_starts_only_a_line() {
        let (entries, errors) =
            read("# one\n  # two\nbridge.a.forward.1.local_topic = #\nnode.name=a # b\n");
        assert!(errors.is_empty());
        assert_eq!(entries[0], (3, "bridge.a.forward.1.local_topic".into(), "#".into()));
        assert_eq!(entries[1], (4, "node.name".into(), "a # b".into()));
    }

    #[test]
    fn quotes_keep_blanks_and_escapes() {
        let (entries, errors) = read(r#"bridge.a.password = " a\"b\\ ""#);
        assert!(errors.is_empty());
        assert_eq!(entries[0].2, r#" a"b\ "#);
        let (entries, _) = read("bridge.a.password = a\"b\\n");
        assert_eq!(entries[0].2, "a\"b\\n");
    }

    #[test]
    fn bad_quotes_are_errors() {
        for (value, part) in [
            ("\"a", "missing"),
            ("\"", "missing"),
            ("\"a\" b", "behind"),
            ("\"a\"\"", "behind"),
            ("\"a\\n\"", "only"),
            ("\"a\\", "only"),
            ("\"a\\\"", "missing"),
            ("a\u{7}b", "control"),
        ] {
            let (entries, errors) = read(&format!("node.name = {value}"));
            assert!(entries.is_empty());
            assert!(errors.len() == 1 && errors[0].contains(part), "{value}: {errors:?}");
        }
    }

    #[test]
    fn off_in_quotes_is_text() {
        assert!(unquote("off").is_ok_and(|w| w.is_off()));
        assert!(unquote("\"off\"").is_ok_and(|w| !w.is_off()));
        assert!(unquote("Off").is_ok_and(|w| !w.is_off()));
    }

    #[test]
    fn every_bad_line_is_reported_with_its_place() {
        let text = "ack safe\n= 1\nring.mesages = 1\nack = safe\nack = ring\n\
                    bridge.Hub.server = x\nhttp.bind = x\nnode.name = \"\n";
        let (entries, errors) = read(text);
        assert_eq!(entries.len(), 1);
        assert_eq!(
            errors,
            [
                "f:1: not of the form key = value: behind ack there is no =",
                "f:2: there is no key before the =",
                "f:3: ring.mesages: unknown key; the nearest known one is ring.messages",
                "f:5: ack: is already there in line 4",
                "f:6: bridge.Hub.server: a name must be 1 to 32 of a-z 0-9 _ - \
                 (in bridge.NAME.server)",
                "f:7: http.bind: not in this build",
                "f:8: node.name: the closing quote is missing",
            ]
        );
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_no_part_of_the_text() {
        let (entries, errors) = read("\u{feff}ack = safe\r\nnode.name = x\r\n");
        assert!(errors.is_empty());
        assert_eq!(entries[1], (2, "node.name".into(), "x".into()));
    }

    #[test]
    fn a_huge_file_and_a_huge_line_are_refused() {
        let (_, errors) = read(&"#\n".repeat(FILE_BYTES_MAX));
        assert!(errors.len() == 1 && errors[0].starts_with("f: "), "{errors:?}");
        let (entries, errors) = read(&format!("node.name = {}\nack = ring", "a".repeat(9000)));
        assert!(errors[0].contains("longer than") && entries.len() == 1);
    }

    #[test]
    fn a_message_cannot_forge_a_line() {
        let (_, errors) = read("a\u{1b}[2J\u{85}\u{2028}\u{202e}b = 1");
        assert!(errors[0].contains(r"a\u{1b}[2J\u{85}\u{2028}\u{202e}b"), "{errors:?}");
        assert!(errors[0].chars().all(|c| !is_hidden(c)), "{errors:?}");
        let error = parse_error("f\ng", &"x\u{feff}".repeat(100));
        assert!(error.starts_with(r"f\u{a}g:1: x\u{feff}x") && error.contains('…'), "{error}");
    }
}
