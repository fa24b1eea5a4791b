//! Why: the MQTT 5 reason codes, and what can be wrong with received bytes.
//!
//! Every [`Fault`] maps to the reason code that MQTT 5 wants for it. Of received reason codes each
//! packet has its own; others are a protocol error. Read MQTT 5 sections 2.4 and 4.13 first.

use super::Version;
use super::property::Context;
use super::text::{Place, Unwelcome};
use core::fmt;

/// An MQTT 5 reason code (section 2.4). `Display` prints a word such as `not_authorized`, or the
/// number when the code has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(pub u8);

macro_rules! reasons {
    ($($name:ident = $code:literal $word:literal)*) => {
        impl Reason {
            $(pub const $name: Self = Self($code);)*

            fn known(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($word),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00 "success"
    DISCONNECT_WITH_WILL = 0x04 "disconnect_with_will"
    NO_SUBSCRIBERS = 0x10 "no_subscribers"
    NO_SUBSCRIPTION_EXISTED = 0x11 "no_subscription_existed"
    CONTINUE_AUTHENTICATION = 0x18 "continue_authentication"
    REAUTHENTICATE = 0x19 "reauthenticate"
    UNSPECIFIED = 0x80 "unspecified"
    MALFORMED = 0x81 "malformed"
    PROTOCOL_ERROR = 0x82 "protocol_error"
    IMPLEMENTATION_SPECIFIC = 0x83 "implementation_specific"
    UNSUPPORTED_VERSION = 0x84 "unsupported_version"
    CLIENT_ID_INVALID = 0x85 "client_id_invalid"
    BAD_CREDENTIALS = 0x86 "bad_credentials"
    NOT_AUTHORIZED = 0x87 "not_authorized"
    SERVER_UNAVAILABLE = 0x88 "server_unavailable"
    SERVER_BUSY = 0x89 "server_busy"
    BANNED = 0x8A "banned"
    SHUTTING_DOWN = 0x8B "shutting_down"
    BAD_AUTH_METHOD = 0x8C "bad_auth_method"
    KEEPALIVE_TIMEOUT = 0x8D "keepalive_timeout"
    TAKEN_OVER = 0x8E "taken_over"
    FILTER_INVALID = 0x8F "filter_invalid"
    TOPIC_NAME_INVALID = 0x90 "topic_name_invalid"
    PACKET_ID_IN_USE = 0x91 "packet_id_in_use"
    PACKET_ID_NOT_FOUND = 0x92 "packet_id_not_found"
    RECEIVE_MAXIMUM_EXCEEDED = 0x93 "receive_maximum_exceeded"
    TOPIC_ALIAS_INVALID = 0x94 "topic_alias_invalid"
    PACKET_TOO_LARGE = 0x95 "packet_too_large"
    RATE_TOO_HIGH = 0x96 "rate_too_high"
    QUOTA_EXCEEDED = 0x97 "quota_exceeded"
    ADMINISTRATIVE = 0x98 "administrative"
    PAYLOAD_FORMAT_INVALID = 0x99 "payload_format_invalid"
    RETAIN_NOT_SUPPORTED = 0x9A "retain_not_supported"
    QOS_NOT_SUPPORTED = 0x9B "qos_not_supported"
    USE_ANOTHER = 0x9C "use_another"
    SERVER_MOVED = 0x9D "server_moved"
    SHARED_NOT_SUPPORTED = 0x9E "shared_not_supported"
    RATE_EXCEEDED = 0x9F "rate_exceeded"
    MAXIMUM_CONNECT_TIME = 0xA0 "maximum_connect_time"
    SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xA1 "subscription_ids_not_supported"
    WILDCARDS_NOT_SUPPORTED = 0xA2 "wildcards_not_supported"
}

impl Reason {
    /// 0x80 and above say that it failed.
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Is it one of those that this packet of MQTT 5 may carry? DISCONNECT has others from either
    /// side, see [`Reason::may_end`]. Always `true` for packets that carry none.
    pub(super) const fn is_defined(self, context: Context) -> bool {
        match context {
            // 1 to 5 are how a server of 3.1.1 refuses; it may not get further than that.
            Context::Connack => matches!(
                self.0,
                0..=5 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            // 0x95 is not among them (3.4.2.1), and says what a server cannot say otherwise.
            Context::Puback | Context::Pubrec => {
                matches!(self.0, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x95 | 0x97 | 0x99)
            }
            Context::Pubrel | Context::Pubcomp => matches!(self.0, 0 | 0x92),
            Context::Suback => matches!(
                self.0,
                0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
            ),
            Context::Unsuback => matches!(self.0, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            Context::Disconnect => self.may_end(true) || self.may_end(false),
            Context::Auth => matches!(self.0, 0 | 0x18 | 0x19),
            Context::Connect
            | Context::Will
            | Context::Publish
            | Context::Subscribe
            | Context::Unsubscribe => true,
        }
    }

    /// May a DISCONNECT from a server (else from a client) say so (3.14.2.1)?
    pub const fn may_end(self, from_server: bool) -> bool {
        match self.0 {
            0 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => true,
            0x04 => !from_server,
            0x87 | 0x89 | 0x8B..=0x8F | 0x9A..=0xA2 => from_server,
            _ => false,
        }
    }

    /// The word `Display` prints, for the log; `unknown_reason` for a code MQTT does not know.
    pub fn word(self) -> &'static str {
        self.known().unwrap_or("unknown_reason")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(word) => f.write_str(word),
            None => write!(f, "0x{:02x}", self.0),
        }
    }
}

/// The peer's bytes are not MQTT: close it with [`Malformed::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub fault: Fault,
}

impl Malformed {
    pub const fn reason(self) -> Reason {
        self.fault.reason()
    }
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        Self { fault }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl core::error::Error for Malformed {}

macro_rules! faults {
    ($(
        $(#[$doc:meta])*
        $fault:ident $({ $field:ident: $kind:ty })? = $reason:ident $word:literal
    )*) => {
        /// What was wrong with the bytes. `Display` prints a snake_case word for the log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $fault $({ $field: $kind })?,)* }

        impl Fault {
            /// What to answer an MQTT 5 peer.
            pub const fn reason(self) -> Reason {
                match self { $(Self::$fault { .. } => Reason::$reason,)* }
            }

            /// The word `Display` prints.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$fault { .. } => $word,)* }
            }

            /// Says which string the unwelcome character is in.
            pub(super) const fn at(self, place: Place) -> Self {
                match self {
                    Self::Character { found } => {
                        Self::Character { found: Unwelcome { place, ..found } }
                    }
                    other => other,
                }
            }

            #[cfg(test)]
            const WORDS: &'static [&'static str] = &[$($word),*];
        }
    };
}

faults! {
    /// Packet type 0, or AUTH before MQTT 5 (2.1.2).
    PacketTypeReserved = MALFORMED "packet_type_reserved"
    /// Fixed header flags other than the ones the packet type demands [MQTT-2.1.3-1].
    FlagsReserved = MALFORMED "flags_reserved"
    /// QoS 3 in a PUBLISH [MQTT-3.3.1-4] or a will [MQTT-3.1.2-12].
    QosInvalid = MALFORMED "qos_invalid"
    /// DUP set on a QoS 0 PUBLISH [MQTT-3.3.1-2].
    DupWithoutQos = MALFORMED "dup_without_qos"
    /// A remaining length of more than four bytes (1.5.5).
    RemainingLengthTooLong = MALFORMED "remaining_length_too_long"
    /// A variable byte integer in more bytes than it needs, MQTT 5 only [MQTT-1.5.5-1].
    LengthNotMinimal = MALFORMED "length_not_minimal"
    /// A variable byte integer of more than four bytes inside the packet (1.5.5).
    VariableIntegerTooLong = MALFORMED "variable_integer_too_long"
    /// The packet is larger than the receiver takes [MQTT-3.1.2-24].
    TooLarge = PACKET_TOO_LARGE "too_large"
    /// A field reaches past the end of the packet.
    Truncated = MALFORMED "truncated"
    /// Bytes are left over after the last field.
    TrailingBytes = MALFORMED "trailing_bytes"
    /// A string that is not UTF-8 [MQTT-1.5.4-1].
    Utf8Invalid = MALFORMED "utf8_invalid"
    /// U+0000 in a string [MQTT-1.5.4-2].
    NulInString = MALFORMED "nul_in_string"
    /// A character that is well-formed and not taken ([`super::text`]). Not a reason to close: see
    /// [`super::text::Place::reason`].
    Character { found: Unwelcome } = MALFORMED "text"
    /// A Response Topic that is empty or has a wildcard [MQTT-3.3.2-14].
    ResponseTopicInvalid = TOPIC_NAME_INVALID "response_topic_invalid"
    /// Packet identifier 0 [MQTT-2.2.1-3].
    PacketIdZero = PROTOCOL_ERROR "packet_id_zero"
    /// An unknown protocol name or level [MQTT-3.1.2-1] [MQTT-3.1.2-2]. `answer` is the wire form
    /// the peer can be expected to read: `V5` = CONNACK with reason 0x84 and properties, `V311` =
    /// CONNACK with return code 1.
    UnsupportedVersion { answer: Version } = UNSUPPORTED_VERSION "unsupported_version"
    /// The reserved bit of the connect flags is set [MQTT-3.1.2-3].
    ConnectFlagReserved = MALFORMED "connect_flag_reserved"
    /// Will QoS or will retain without a will [MQTT-3.1.2-11] [MQTT-3.1.2-13].
    WillFlagsWithoutWill = MALFORMED "will_flags_without_will"
    /// A password without a user name, before MQTT 5 (3.1.1: [MQTT-3.1.2-22]).
    PasswordWithoutUsername = MALFORMED "password_without_username"
    /// Reserved bits of the CONNACK flags are set [MQTT-3.2.2-1].
    ConnackFlagsReserved = MALFORMED "connack_flags_reserved"
    /// Session present in a CONNACK that refuses [MQTT-3.2.2-6].
    SessionPresentOnRefusal = PROTOCOL_ERROR "session_present_on_refusal"
    /// A topic name with a wildcard [MQTT-3.3.2-2].
    TopicWildcard = TOPIC_NAME_INVALID "topic_wildcard"
    /// An empty topic name [MQTT-4.7.3-1]; in a PUBLISH of MQTT 5 without Topic Alias.
    TopicEmpty = PROTOCOL_ERROR "topic_empty"
    /// An empty filter, a misplaced wildcard [MQTT-4.7.1-1] [MQTT-4.7.1-2], or a bad share name
    /// [MQTT-4.8.2-1] [MQTT-4.8.2-2].
    FilterInvalid = FILTER_INVALID "filter_invalid"
    /// SUBSCRIBE or UNSUBSCRIBE without a filter [MQTT-3.8.3-2] [MQTT-3.10.3-2].
    FiltersEmpty = PROTOCOL_ERROR "filters_empty"
    /// Reserved bits of the subscription options are set [MQTT-3.8.3-5].
    SubscribeOptionsReserved = MALFORMED "subscribe_options_reserved"
    /// QoS 3 asked for in a SUBSCRIBE (3.8.3.1).
    SubscribeQosInvalid = PROTOCOL_ERROR "subscribe_qos_invalid"
    /// Retain handling 3 (3.8.3.1).
    RetainHandlingInvalid = PROTOCOL_ERROR "retain_handling_invalid"
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    NoLocalOnShared = PROTOCOL_ERROR "no_local_on_shared"
    /// SUBACK or UNSUBACK without a code (3.9.3, 3.11.3).
    CodesEmpty = PROTOCOL_ERROR "codes_empty"
    /// A SUBACK code that neither grants QoS 0, 1, 2 nor refuses [MQTT-3.9.3-2].
    GrantInvalid = PROTOCOL_ERROR "grant_invalid"
    /// A reason code that this packet does not have (2.4, 4.13).
    ReasonUndefined = PROTOCOL_ERROR "reason_undefined"
    /// A property identifier that does not exist (2.2.2.2).
    PropertyUnknown = MALFORMED "property_unknown"
    /// A property this packet may not carry (2.2.2.2).
    PropertyMisplaced = MALFORMED "property_misplaced"
    /// A property that may come once came twice (2.2.2.2).
    PropertyDuplicate = PROTOCOL_ERROR "property_duplicate"
    /// A value out of range: a Receive Maximum, Maximum Packet Size or Subscription Identifier of
    /// zero, a boolean that is neither 0 nor 1.
    PropertyValueInvalid = PROTOCOL_ERROR "property_value_invalid"
    /// Topic Alias 0 [MQTT-3.3.2-8].
    TopicAliasZero = TOPIC_ALIAS_INVALID "topic_alias_zero"
    /// Authentication Data, or AUTH with properties, without Authentication Method (3.1.2.11.10,
    /// 3.15.2.2.2).
    AuthMethodMissing = PROTOCOL_ERROR "auth_method_missing"
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_word() {
        let mut words = Fault::WORDS.to_vec();
        words.sort_unstable();
        let count = words.len();
        words.dedup();
        assert_eq!(words.len(), count);
        let snake =
            |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b"_8".contains(&b));
        assert!(words.iter().all(snake), "{words:?}");
    }

    #[test]
    fn faults_map_to_failing_reasons_and_print() {
        let malformed = Malformed::from(Fault::TopicWildcard);
        assert_eq!(malformed.reason(), Reason::TOPIC_NAME_INVALID);
        assert_eq!(malformed.to_string(), "topic_wildcard");
        assert_eq!(Fault::TooLarge.reason(), Reason::PACKET_TOO_LARGE);
        let unsupported = Fault::UnsupportedVersion { answer: Version::V311 };
        assert_eq!(unsupported.reason(), Reason::UNSUPPORTED_VERSION);
        assert_eq!(unsupported.to_string(), "unsupported_version");
    }

    #[test]
    fn reasons_print_their_word_or_their_number() {
        assert_eq!(Reason::NOT_AUTHORIZED.to_string(), "not_authorized");
        assert_eq!(Reason(0xFE).to_string(), "0xfe");
        assert!(Reason::UNSPECIFIED.is_error());
        assert!(!Reason::REAUTHENTICATE.is_error());
    }
}
