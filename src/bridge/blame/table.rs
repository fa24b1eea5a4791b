//! The table of reasons: what a close, a DISCONNECT, a PUBACK or PUBREC with an error is about.
//! README has it too. Read MQTT 5 sections 2.4, 3.4.2.1, 3.5.2.1 and 3.14.2.1 first.

use crate::mqtt::Reason;

/// What a reason, or a way of closing, is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Us, or the remote itself: no message is at fault, and the next try is as good as any.
    Us,
    /// Too much at once: no message is at fault, the next connection begins slowly.
    Pace,
    /// One message, perhaps.
    Message,
    /// The line: nothing was said at all.
    Line,
}

/// How a connection that was up has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The remote's DISCONNECT.
    Disconnect(Reason),
    /// FIN or RST.
    Closed,
    /// A message was not acknowledged in time.
    Unacknowledged,
    /// The line was silent or broken, or it was us who had enough of what the remote sent.
    Other,
}

impl Ending {
    /// The table of DISCONNECT reasons and ways of closing.
    pub fn about(self) -> About {
        match self {
            Self::Disconnect(reason) => about_disconnect(reason),
            // AWS IoT, mosquitto before MQTT 5 and others have no other word for a message they
            // do not take.
            Self::Closed | Self::Unacknowledged => About::Message,
            Self::Other => About::Line,
        }
    }
}

fn about_disconnect(reason: Reason) -> About {
    match reason {
        // Brokers say one of these when a packet is not to their taste (mosquitto: 0x82 at 200
        // levels of topic, 0x81 at a character it forbids), and some when they are out of order.
        Reason::UNSPECIFIED
        | Reason::MALFORMED
        | Reason::PROTOCOL_ERROR
        | Reason::IMPLEMENTATION_SPECIFIC
        | Reason::TOPIC_NAME_INVALID
        | Reason::TOPIC_ALIAS_INVALID
        | Reason::PACKET_TOO_LARGE
        | Reason::PAYLOAD_FORMAT_INVALID
        | Reason::RETAIN_NOT_SUPPORTED
        | Reason::QOS_NOT_SUPPORTED => About::Message,
        // They name our speed.
        Reason::RECEIVE_MAXIMUM_EXCEEDED | Reason::RATE_TOO_HIGH => About::Pace,
        // They name us, our rights and quota, or the remote's own state.
        Reason::UNSUPPORTED_VERSION
        | Reason::CLIENT_ID_INVALID
        | Reason::BAD_CREDENTIALS
        | Reason::NOT_AUTHORIZED
        | Reason::SERVER_UNAVAILABLE
        | Reason::SERVER_BUSY
        | Reason::BANNED
        | Reason::SHUTTING_DOWN
        | Reason::BAD_AUTH_METHOD
        | Reason::KEEPALIVE_TIMEOUT
        | Reason::TAKEN_OVER
        | Reason::FILTER_INVALID
        | Reason::QUOTA_EXCEEDED
        | Reason::ADMINISTRATIVE
        | Reason::USE_ANOTHER
        | Reason::SERVER_MOVED
        | Reason::SHARED_NOT_SUPPORTED
        | Reason::RATE_EXCEEDED
        | Reason::MAXIMUM_CONNECT_TIME
        | Reason::SUBSCRIPTION_IDS_NOT_SUPPORTED
        | Reason::WILDCARDS_NOT_SUPPORTED => About::Us,
        // DISCONNECT 0x00, and codes that say nothing: as good as a close without one.
        _ => About::Message,
    }
}

/// What PUBACK or PUBREC with an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not now: the message waits, and its topic behind it.
    Now,
    /// This message, for good: it is put aside.
    Message,
    /// It has the message already: as good as success.
    Has,
    /// The identifier is open there from before: it is released, another one is used.
    Identifier,
}

impl Refused {
    /// The table of PUBACK and PUBREC reasons. `known`: a QoS 2 message that went out before under
    /// this identifier.
    pub fn of(reason: Reason, known: bool) -> Self {
        match reason {
            Reason::UNSPECIFIED | Reason::IMPLEMENTATION_SPECIFIC | Reason::QUOTA_EXCEEDED => {
                Self::Now
            }
            Reason::PACKET_ID_IN_USE if known => Self::Has,
            Reason::PACKET_ID_IN_USE => Self::Identifier,
            // 0x87, 0x90, 0x95 and 0x99 name the message; there are no others.
            _ => Self::Message,
        }
    }
}
