//! Characters that a reader does not see, or that change what he sees around them: controls, format
//! characters, line and paragraph separators, blanks that are no space, private use, what is not
//! assigned. Text of other people is never printed with one of them raw.
//!
//! The ranges are those of Unicode 16 (general categories Cc, Cf, Zl, Zp, Zs, Co, and what is
//! `Default_Ignorable_Code_Point`), beside the code points of planes that have no character yet.

use core::fmt::{self, Write as _};

/// From and to, both included, ascending.
const HIDDEN: &[(u32, u32)] = &[
    (0x00, 0x1F),
    // Controls, and the blank that does not break.
    (0x7F, 0xA0),
    // Soft hyphen.
    (0xAD, 0xAD),
    (0x034F, 0x034F),
    (0x0600, 0x0605),
    // Arabic letter mark: bidirectional.
    (0x061C, 0x061C),
    (0x06DD, 0x06DD),
    (0x070F, 0x070F),
    (0x0890, 0x0891),
    (0x08E2, 0x08E2),
    (0x115F, 0x1160),
    (0x1680, 0x1680),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    // Blanks, zero width, left-to-right and right-to-left marks.
    (0x2000, 0x200F),
    // Line and paragraph separator, bidirectional embeddings and overrides, a narrow blank.
    (0x2028, 0x202F),
    // A blank, word joiner, invisible operators, bidirectional isolates.
    (0x205F, 0x206F),
    (0x2800, 0x2800),
    (0x3000, 0x3000),
    (0x3164, 0x3164),
    // Private use.
    (0xE000, 0xF8FF),
    // Never characters.
    (0xFDD0, 0xFDEF),
    // Variation selectors.
    (0xFE00, 0xFE0F),
    // Byte order mark.
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    // Not assigned, and interlinear annotation.
    (0xFFF0, 0xFFFB),
    (0xFFFE, 0xFFFF),
    (0x110BD, 0x110BD),
    (0x110CD, 0x110CD),
    (0x13430, 0x1343F),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0x1FFFE, 0x1FFFF),
    (0x2FFFE, 0x2FFFF),
    // Planes without characters, tags, private use.
    (0x3FFFE, 0x10_FFFF),
];

/// Is this never to be printed as it is? A plain space is not hidden.
pub fn is_hidden(c: char) -> bool {
    let code = u32::from(c);
    let at = HIDDEN.partition_point(|(_, last)| *last < code);
    HIDDEN.get(at).is_some_and(|(first, _)| *first <= code)
}

/// `c`, or `\u{…}` in its place.
pub(super) fn write_char(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    if is_hidden(c) { write!(f, "\\u{{{:x}}}", u32::from(c)) } else { f.write_char(c) }
}

/// Text for a person on one line: what is hidden is written as `\u{…}`. For the log there is
/// [`Value`](super::Value), which quotes as well.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a>(pub &'a str);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| write_char(f, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_ascend() {
        assert!(HIDDEN.iter().all(|(first, last)| first <= last));
        assert!(HIDDEN.windows(2).all(|two| two[0].1 < two[1].0));
    }

    #[test]
    fn what_is_not_seen_or_moves_its_neighbours_is_escaped() {
        let one_by_one = "\0\t\n\r\u{1b}\u{7f}\u{85}\u{a0}\u{ad}\u{34f}\u{61c}\u{180e}\u{3164}\
            \u{feff}\u{fff9}\u{fffe}\u{fdd0}\u{1d173}\u{e000}\u{f8ff}\u{f0000}\
            \u{10ffff}\u{e0001}\u{e0100}\u{50000}";
        let ranges = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
        let ranges = ranges.into_iter().chain(['\u{e0020}'..='\u{e007f}', '\u{fe00}'..='\u{fe0f}']);
        for c in one_by_one.chars().chain(ranges.flatten()) {
            assert!(is_hidden(c), "{:x}", u32::from(c));
            let shown = Visible(&c.to_string()).to_string();
            assert_eq!(shown, format!("\\u{{{:x}}}", u32::from(c)));
        }
    }

    #[test]
    fn what_is_read_is_written_as_it_is() {
        // The neighbours of hidden ones among them.
        let text = " ~¡¬®aäßЖ؛عא\u{5d0}ก日本語한글€™‐―‧‰⁞₀⠁⡀、㊿ﬁ\u{fdcf}ﷰ\u{fffd}😀𝅘𠀀";
        assert_eq!(Visible(text).to_string(), text);
        assert_eq!(Visible("a\u{202e}b\nc").to_string(), r"a\u{202e}b\u{a}c");
    }
}
