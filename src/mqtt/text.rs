//! Characters that a string may not have here: control characters and code points that are no
//! characters. A receiver may refuse them, and brokers that do close the connection (MQTT 5 section
//! 1.5.4): whoever took such a text in could not hand it on. U+0000 and what is no UTF-8 are faults
//! of every packet; this is about what is well-formed and unwelcome.
//!
//! What is passed on is looked at: topics, the properties of a PUBLISH and a will, client ids, user
//! names, filters. Strings that end here, such as a Reason String, are not.

use super::props::{Context, Properties, PropertyId};
use super::{Fault, Reason};
use core::fmt;

/// Which string it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Topic,
    WillTopic,
    ClientId,
    UserName,
    Property(PropertyId),
    Filter,
}

impl Place {
    /// For the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::WillTopic => "will_topic",
            Self::ClientId => "client_id",
            Self::UserName => "user_name",
            Self::Property(PropertyId::UserProperty) => "user_property",
            Self::Property(PropertyId::ResponseTopic) => "response_topic",
            Self::Property(PropertyId::ContentType) => "content_type",
            Self::Property(_) => "property",
            Self::Filter => "filter",
        }
    }

    /// What MQTT 5 calls it in the answer to whoever sent it: of one message or filter where there
    /// is a word for that, so that the connection goes on.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Topic | Self::WillTopic | Self::Property(PropertyId::ResponseTopic) => {
                Reason::TOPIC_NAME_INVALID
            }
            Self::ClientId => Reason::CLIENT_ID_INVALID,
            Self::UserName => Reason::BAD_CREDENTIALS,
            Self::Property(_) => Reason::PAYLOAD_FORMAT_INVALID,
            Self::Filter => Reason::FILTER_INVALID,
        }
    }
}

/// A character that is not taken, and where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwelcome {
    pub place: Place,
    pub character: char,
}

/// `U+0007`.
impl fmt::Display for Unwelcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "U+{:04X}", u32::from(self.character))
    }
}

/// The first character of a text that is not taken.
pub fn first_unwelcome(text: &str) -> Option<char> {
    if text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) {
        return None;
    }
    text.chars().find(|c| is_unwelcome(*c))
}

/// U+0000 is none of them: it is a fault of its own.
fn is_unwelcome(c: char) -> bool {
    let code = u32::from(c);
    matches!(code, 0x01..=0x1F | 0x7F..=0x9F | 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE
}

/// What is wrong with the text of a message as it was stored: of an earlier version, which took
/// what this one does not. `properties` are encoded, those of a PUBLISH.
pub fn of_message(topic: &str, properties: &[u8]) -> Result<(), Unwelcome> {
    if let Some(character) = first_unwelcome(topic) {
        return Err(Unwelcome { place: Place::Topic, character });
    }
    match Properties::new(Context::Publish, properties) {
        Err(malformed) => match malformed.fault {
            Fault::Character { found } => Err(found),
            Fault::ResponseTopicInvalid => {
                Err(Unwelcome { place: Place::Property(PropertyId::ResponseTopic), character: '#' })
            }
            // Sound by its checksum, and read as leniently as it always was.
            _ => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_what_is_unwelcome() {
        let bad = [
            '\u{1}',
            '\t',
            '\n',
            '\u{1f}',
            '\u{7f}',
            '\u{80}',
            '\u{9f}',
            '\u{fdd0}',
            '\u{fdef}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{1ffff}',
            '\u{10fffe}',
            '\u{10ffff}',
        ];
        let good = [
            ' ',
            '~',
            '\u{a0}',
            'ä',
            '\u{fdcf}',
            '\u{fdf0}',
            '\u{fefe}',
            '\u{feff}',
            '\u{fffd}',
            '\u{10000}',
            '\u{1fffd}',
            '\u{10fffd}',
            '€',
            '+',
            '#',
        ];
        for c in bad {
            assert_eq!(first_unwelcome(&format!("a/ü{c}b{c}")), Some(c), "{c:?}");
            assert_eq!(first_unwelcome(&c.to_string()), Some(c), "{c:?}");
        }
        for c in good {
            assert_eq!(first_unwelcome(&format!("a/ü{c}b")), None, "{c:?}");
        }
        assert_eq!(first_unwelcome(""), None);
    }

    #[test]
    fn a_stored_message_is_judged_by_all_of_its_text() {
        assert_eq!(of_message("a/b", b""), Ok(()));
        assert_eq!(of_message("a/b", b"\x26\0\x01k\0\x01v\x01\x01"), Ok(()));
        let found = |place, character| Err(Unwelcome { place, character });
        assert_eq!(of_message("a\tb", b""), found(Place::Topic, '\t'));
        let user = Place::Property(PropertyId::UserProperty);
        assert_eq!(of_message("a", b"\x26\0\x01k\0\x01\x07"), found(user, '\u{7}'));
        let answer = Place::Property(PropertyId::ResponseTopic);
        assert_eq!(of_message("a", b"\x08\0\x03a/+"), found(answer, '#'));
        let shown = Unwelcome { place: user, character: '\u{7}' }.to_string();
        assert_eq!(shown, "U+0007");
    }
}
