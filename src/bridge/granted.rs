//! What the properties of a CONNACK allow, and what a remote says in words. Every property has its
//! place here: a new one does not compile without. Read MQTT 5 section 3.2.2.3 first.

use crate::mqtt::Qos;
use crate::mqtt::props::{Properties, Property};
use crate::note::{Text, text};

/// `None`: the CONNACK does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Seconds our session lasts, instead of those we asked for.
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub qos_max: Option<Qos>,
    pub retain_available: Option<bool>,
    /// Bytes.
    pub packet_bytes_max: Option<u32>,
    pub topic_aliases_max: Option<u16>,
    pub wildcards: Option<bool>,
    pub subscription_ids: Option<bool>,
    /// Seconds.
    pub keepalive: Option<u16>,
}

impl Granted {
    pub fn of(properties: &Properties<'_>) -> Self {
        let mut granted = Self::default();
        for property in properties.iter() {
            match property {
                Property::SessionExpiry(seconds) => granted.session_expiry = Some(seconds),
                Property::ReceiveMaximum(count) => granted.receive_maximum = Some(count),
                Property::MaximumQos(qos) => granted.qos_max = Qos::from_u8(qos),
                Property::RetainAvailable(is) => granted.retain_available = Some(is),
                Property::MaximumPacketSize(bytes) => granted.packet_bytes_max = Some(bytes),
                Property::TopicAliasMaximum(count) => granted.topic_aliases_max = Some(count),
                Property::WildcardAvailable(is) => granted.wildcards = Some(is),
                Property::SubscriptionIdsAvailable(is) => granted.subscription_ids = Some(is),
                Property::ServerKeepalive(seconds) => granted.keepalive = Some(seconds),
                // Words: see `Said`.
                Property::ReasonString(_) | Property::ServerReference(_) => {}
                // We always send a client id, and answer to no other [MQTT-3.2.2-16].
                Property::AssignedClientId(_) => {}
                // No rule is a shared subscription.
                Property::SharedAvailable(_) => {}
                // We ask for neither.
                Property::ResponseInformation(_)
                | Property::AuthenticationMethod(_)
                | Property::AuthenticationData(_) => {}
                // Means something to whom it was agreed with (3.2.2.3.10).
                Property::UserProperty(_) => {}
                // Not in a CONNACK: the decoder refuses them.
                Property::PayloadFormat(_)
                | Property::MessageExpiry(_)
                | Property::ContentType(_)
                | Property::ResponseTopic(_)
                | Property::CorrelationData(_)
                | Property::SubscriptionIdentifier(_)
                | Property::RequestProblemInformation(_)
                | Property::WillDelay(_)
                | Property::RequestResponseInformation(_)
                | Property::TopicAlias(_) => {}
            }
        }
        granted
    }
}

/// What a remote says beside its reason code, cut to what a log line holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Reason String.
    pub words: Option<Text>,
    /// Server Reference: another server that it wants us to use. For whoever reads the log: where a
    /// bridge connects to is the configuration's affair (4.11 leaves it to the client).
    pub server: Option<Text>,
}

impl Said {
    pub fn of(properties: &Properties<'_>) -> Self {
        Self {
            words: properties.reason_string().map(text),
            server: properties.server_reference().map(text),
        }
    }
}

/// What of our will a server refuses to take: its RETAIN flag, and a QoS above this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WillLimits {
    pub retain: bool,
    pub qos: Qos,
}

impl WillLimits {
    pub const NONE: Self = Self { retain: true, qos: Qos::ExactlyOnce };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connack_says_is_taken_and_what_it_does_not_say_is_not() {
        assert_eq!(Granted::of(&Properties::EMPTY), Granted::default());
        let list = [
            Property::SessionExpiry(7),
            Property::ReceiveMaximum(3),
            Property::MaximumQos(1),
            Property::RetainAvailable(false),
            Property::MaximumPacketSize(9000),
            Property::TopicAliasMaximum(2),
            Property::WildcardAvailable(false),
            Property::SubscriptionIdsAvailable(false),
            Property::ServerKeepalive(11),
            Property::AssignedClientId("another"),
            Property::ReasonString("go away"),
            Property::ServerReference("b.example"),
        ];
        let mut buffer = [0; 128];
        let properties = Properties::write(&list, &mut buffer).unwrap();
        let granted = Granted {
            session_expiry: Some(7),
            receive_maximum: Some(3),
            qos_max: Some(Qos::AtLeastOnce),
            retain_available: Some(false),
            packet_bytes_max: Some(9000),
            topic_aliases_max: Some(2),
            wildcards: Some(false),
            subscription_ids: Some(false),
            keepalive: Some(11),
        };
        assert_eq!(Granted::of(&properties), granted);
        let said = Said { words: Some(text("go away")), server: Some(text("b.example")) };
        assert_eq!(Said::of(&properties), said);
    }
}
