//! Last wills of local clients, and the gateway's own words about its bridges.

use super::ingest::{Message, Outcome, Source};
use super::{Gateway, sys};
use crate::broker::access::Right;
use crate::mqtt::Qos;
use crate::queue::DropReason;
use crate::vocab::Instant;
use core::time::Duration;

/// A will that finds no room is tried again after this.
const WILL_RETRY: Duration = Duration::from_millis(200);

impl Gateway {
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
