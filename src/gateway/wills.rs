//! Last wills of local clients, and the gateway's own words about its bridges.

use super::clients::{quota, seconds};
use super::ingest::{Message, Outcome, Source};
use super::receive::Fatal;
use super::{Gateway, sys};
use crate::broker::access::Right;
use crate::broker::session::Will;
use crate::limits::PROPERTIES_BYTES_MAX;
use crate::mqtt::props::{PropertyId, copy_without};
use crate::mqtt::{self, Qos, Reason, topic};
use crate::queue::DropReason;
use crate::vocab::Instant;
use core::time::Duration;

/// A will that finds no room is tried again after this.
const WILL_RETRY: Duration = Duration::from_millis(200);

impl Gateway {
    /// Can the will of a CONNECT be kept, and published when its time comes?
    pub(super) fn check_will(&self, client_id: &str, will: &mqtt::Will<'_>) -> Result<(), Fatal> {
        let properties = will.properties.as_bytes().len();
        let bytes = will.topic.len() + will.payload.len() + properties;
        if properties > PROPERTIES_BYTES_MAX {
            let reason = Reason::PACKET_TOO_LARGE;
            return Err(Fatal { reason, word: "will_properties_too_large" });
        }
        if will.topic.len() > self.config.limit.topic_bytes || !topic::is_name(will.topic) {
            return Err(Reason::TOPIC_NAME_INVALID.into());
        }
        // The one it takes the place of makes room.
        let own = self.sessions.find(client_id);
        let own = own.and_then(|own| self.sessions[own].will.as_ref()).map_or(0, Will::bytes);
        if self.sessions.will_bytes() - own + bytes > self.config.limit.will_bytes {
            return Err(quota("limit_will_bytes"));
        }
        Ok(())
    }

    /// Publishes the session's will, if it still has one.
    pub(super) fn publish_will(&mut self, now: Instant, session: u16) {
        self.sessions[session].will_at = Instant::NEVER;
        let Some(will) = self.sessions[session].will.take() else { return };
        if !self.may(session, Right::Write, &will.topic) {
            self.count_lost(DropReason::NotAuthorized.word());
            return;
        }
        if sys::is_own(&will.topic) {
            self.count_lost("sys_topic");
            return;
        }
        let message = Message {
            topic: &will.topic,
            qos: will.qos,
            retain: will.retain,
            properties: &will.properties,
            expiry_s: will.expiry_s,
            payload: &will.payload,
        };
        let outcome = self.route(now, Source::Will { session }, &message);
        let alive = self.sessions[session].used
            && (self.sessions[session].conn.is_some() || self.sessions[session].expires_at > now);
        if outcome == Outcome::Parked && alive {
            self.sessions[session].will = Some(will);
            self.sessions[session].will_at = now.plus(WILL_RETRY);
            self.due_by(now.plus(WILL_RETRY));
        }
    }

    /// A retained message of our own, to local subscribers.
    pub(super) fn say_locally(&mut self, now: Instant, topic: &str, payload: &[u8]) {
        let message = Message {
            topic,
            qos: Qos::AtMostOnce,
            retain: true,
            properties: &[],
            expiry_s: None,
            payload,
        };
        // At QoS 0 it is never parked.
        let _ = self.route(now, Source::Own, &message);
    }
}

/// The will as it is kept.
pub(super) fn will_of(will: &mqtt::Will<'_>) -> Will {
    let hop = [PropertyId::WillDelay, PropertyId::MessageExpiry];
    let mut properties = vec![0; will.properties.as_bytes().len()];
    // Never more than there was.
    let bytes = copy_without(will.properties, &hop, &mut properties).unwrap_or(0);
    properties.truncate(bytes);
    Will {
        topic: will.topic.to_string(),
        payload: will.payload.to_vec(),
        properties,
        expiry_s: will.properties.message_expiry(),
        qos: will.qos,
        retain: will.retain,
        delay: seconds(will.properties.will_delay().unwrap_or(0)),
    }
}
