//! Last wills of local clients, and the gateway's own words about its bridges.
//!
//! Every client is sure of a share of `limit.will_bytes`: half of them all, divided by
//! `limit.clients`. The other half is for who comes first. When all is used up, wills of clients
//! that are away give way to those that are here, the largest first: they are published before
//! their delay is over, so that nobody who went away keeps others from coming.
//!
//! A will that finds no room at a destination that blocks waits for it, past the end of its session
//! too; what can wait no longer is counted as dropped.

use super::clients::{quota, seconds};
use super::ingest::{Message, Outcome, Payload, Source};
use super::receive::Fatal;
use super::{Gateway, sys};
use crate::broker::access::Right;
use crate::broker::session::Will;
use crate::fit::wide;
use crate::limits::PROPERTIES_BYTES_MAX;
use crate::mqtt::props::{PropertyId, copy_without};
use crate::mqtt::{self, Reason, topic};
use crate::note::{Note, text};
use crate::queue::DropReason;
use crate::vocab::Instant;
use core::time::Duration;

/// A will that finds no room is tried again after this.
const WILL_RETRY: Duration = Duration::from_millis(200);

/// Wills without room that are tried at a time.
const WILLS_A_TURN: usize = 64;

impl Gateway {
    /// Can the will of a CONNECT be kept, and published when its time comes?
    pub(super) fn check_will(&self, client_id: &str, will: &mqtt::Will<'_>) -> Result<(), Fatal> {
        let properties = will.properties.as_bytes().len();
        let bytes = will.topic.len() + will.payload.len() + properties;
        if properties > PROPERTIES_BYTES_MAX {
            let fatal = Fatal::new(Reason::PACKET_TOO_LARGE, "will_properties_too_large");
            return Err(fatal.over(properties, PROPERTIES_BYTES_MAX, ""));
        }
        let (size, limit) = (will.topic.len(), self.config.limit.topic_bytes);
        if size > limit {
            let fatal = Fatal::from(Reason::TOPIC_NAME_INVALID);
            return Err(fatal.over(size, limit, "limit.topic_bytes"));
        }
        if !topic::is_name(will.topic) {
            return Err(Reason::TOPIC_NAME_INVALID.into());
        }
        // The one it takes the place of makes room, and so do those of clients that are away.
        let own = self.sessions.find(client_id);
        let here = self.wills_here(own) + bytes.saturating_sub(self.will_share());
        let limit = self.wills_in_common();
        if here > limit {
            return Err(quota("limit_will_bytes").over(here, limit, "limit.will_bytes"));
        }
        Ok(())
    }

    /// Bytes of its will that each client is sure of.
    fn will_share(&self) -> usize {
        self.config.limit.will_bytes / 2 / usize::from(self.config.limit.clients.max(1))
    }

    /// Bytes that all wills may take beyond that.
    fn wills_in_common(&self) -> usize {
        let limit = &self.config.limit;
        limit.will_bytes - usize::from(limit.clients) * self.will_share()
    }

    /// What those who are connected take of it, but for one session.
    fn wills_here(&self, but: Option<u16>) -> usize {
        let share = self.will_share();
        self.sessions
            .iter()
            .filter(|(at, session)| session.conn.is_some() && Some(*at) != but)
            .filter_map(|(_, session)| session.will.as_ref())
            .map(|will| will.bytes().saturating_sub(share))
            .sum()
    }

    /// All wills, of those who are here, away and gone.
    fn will_bytes(&self) -> usize {
        let kept = self.sessions.iter().filter_map(|(_, session)| session.will.as_ref());
        kept.map(Will::bytes).sum::<usize>()
            + self.wills_waiting.iter().map(|(_, will)| will.bytes()).sum::<usize>()
    }

    /// When the wills are more than may be kept, those of clients that are away give way.
    pub(super) fn make_room_for_wills(&mut self, now: Instant) {
        // Each round one is published or dropped.
        for _ in 0..=self.sessions.len() {
            if self.will_bytes() <= self.config.limit.will_bytes {
                return;
            }
            let away = self.sessions.iter().filter(|(_, session)| session.conn.is_none());
            let largest = away
                .filter_map(|(at, session)| Some((at, session.will.as_ref()?.bytes())))
                .max_by_key(|(_, bytes)| *bytes);
            if let Some((session, bytes)) = largest {
                let client = text(&self.sessions[session].client_id);
                let (size, max) = (Some(wide(bytes)), wide(self.config.limit.will_bytes));
                let limit = "limit.will_bytes";
                self.note(Note::LimitReached { client, limit, filter: None, size, max });
                self.publish_or_leave(now, session);
            } else if self.wills_waiting.pop_front().is_some() {
                self.count_lost(DropReason::QueueFull.word());
            } else {
                return;
            }
        }
    }

    /// Publishes the session's will, if it still has one.
    pub(super) fn publish_will(&mut self, now: Instant, session: u16) {
        self.sessions[session].will_at = Instant::NEVER;
        let Some(will) = self.sessions[session].will.take() else { return };
        if !self.may(session, Right::Write, &will.topic) {
            self.denied(session, "will", &will.topic);
            self.count_lost(DropReason::NotAuthorized.word());
            return;
        }
        if sys::is_own(&will.topic) {
            self.count_lost("sys_topic");
            return;
        }
        let message = message_of(&will);
        if self.route(now, Source::Will { session }, &message) != Outcome::Parked {
            return;
        }
        let entry = &mut self.sessions[session];
        let alive = entry.used && (entry.conn.is_some() || entry.expires_at > now);
        if alive {
            entry.will = Some(will);
            entry.will_at = now.plus(WILL_RETRY);
            self.due_by(now.plus(WILL_RETRY));
        } else {
            self.leave_will(now, session, will);
        }
    }

    /// Publishes a will now; if there is no room for it, it waits apart from its session.
    pub(super) fn publish_or_leave(&mut self, now: Instant, session: u16) {
        self.publish_will(now, session);
        if let Some(will) = self.sessions[session].will.take() {
            self.sessions[session].will_at = Instant::NEVER;
            self.leave_will(now, session, will);
        }
    }

    /// A will outlives its session.
    fn leave_will(&mut self, now: Instant, session: u16, will: Will) {
        if self.wills_waiting.len() >= usize::from(self.sessions.count()) {
            self.wills_waiting.pop_front();
            self.count_lost(DropReason::QueueFull.word());
        }
        let client_id = self.sessions[session].client_id.clone();
        self.wills_waiting.push_back((client_id, will));
        self.wills_at = self.wills_at.min(now.plus(WILL_RETRY));
        self.due_by(self.wills_at);
    }

    /// Its client is back before the will found room: what it says now goes before what would have
    /// been said for it.
    pub(super) fn forget_will(&mut self, client_id: &str) {
        let before = self.wills_waiting.len();
        self.wills_waiting.retain(|(of, _)| of != client_id);
        for _ in self.wills_waiting.len()..before {
            self.count_lost(DropReason::QueueFull.word());
        }
    }

    /// Tries the wills that wait for room, oldest first; when it is due again.
    pub(super) fn expire_wills(&mut self, now: Instant) -> Instant {
        if now < self.wills_at {
            return self.wills_at;
        }
        for _ in 0..self.wills_waiting.len().min(WILLS_A_TURN) {
            let Some((client_id, will)) = self.wills_waiting.pop_front() else { break };
            let message = message_of(&will);
            if self.route(now, Source::Own, &message) == Outcome::Parked {
                // The next ones may go elsewhere.
                self.wills_waiting.push_back((client_id, will));
            }
        }
        let waits = !self.wills_waiting.is_empty();
        self.wills_at = if waits { now.plus(WILL_RETRY) } else { Instant::NEVER };
        self.wills_at
    }

    /// The gateway stops: wills that have found no room are lost, and counted.
    pub(super) fn give_up_wills(&mut self) {
        let kept = self.sessions.iter().filter(|(_, session)| session.will.is_some()).count();
        for _ in 0..self.wills_waiting.len() + kept {
            self.count_lost(DropReason::QueueFull.word());
        }
        self.wills_waiting.clear();
    }
}

fn message_of(will: &Will) -> Message<'_> {
    Message {
        topic: &will.topic,
        qos: will.qos,
        retain: will.retain,
        properties: &will.properties,
        expiry_s: will.expiry_s,
        payload: Payload::Here(&will.payload),
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
