//! `notify_topic`: is a bridge up, retained at home and at the remote. What is true and what was
//! said of it are two things: a word that finds no room is owed until it has been said, and is
//! then the last that became true. Whoever subscribes at home meanwhile is told the truth at once.
//!
//! At the remote `0` is the bridge's will, or what its DISCONNECT asks for; `1` goes out with the
//! replies of the connection, so that no queue can keep or drop it.

use super::Gateway;
use super::conn::Role;
use super::ends::Bound;
use super::ingest::{Message, Outcome, Payload, Source};
use super::service::{Owed, owe};
use crate::fit::wide;
use crate::mqtt::props::Properties;
use crate::mqtt::{Packet, Publish, Qos, Reason, Version};
use crate::note::text;
use crate::queue::DropReason;
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;
use std::collections::VecDeque;

/// How soon a word that found no room is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Topics at home that are owed a word, as a multiple of the bridges: reloads may leave some.
const TOPICS_A_BRIDGE: usize = 2;

/// What is owed.
pub(super) struct Notices {
    here: VecDeque<Notice>,
    /// By bridge: its remote is owed a `1`.
    there: Box<[bool]>,
    at: Instant,
}

struct Notice {
    topic: String,
    up: bool,
    /// Those who have subscribed know it; it may still not be kept.
    told: bool,
}

impl Notices {
    pub(super) fn new(bridges: usize) -> Self {
        let here = VecDeque::with_capacity(bridges * TOPICS_A_BRIDGE);
        Self { here, there: vec![false; bridges].into_boxed_slice(), at: Instant::NEVER }
    }
}

impl Gateway {
    /// The bridge is up from here on, or is not: with a `notify_topic` that is said.
    pub(super) fn announce(&mut self, now: Instant, bridge: BridgeId, up: bool) {
        let Some(topic) = self.config.bridges[usize::from(bridge.0)].notify_topic.clone() else {
            return;
        };
        self.notices.there[usize::from(bridge.0)] = up;
        // Only the last word counts.
        self.notices.here.retain(|notice| notice.topic != topic);
        if self.notices.here.len() >= self.notices.there.len() * TOPICS_A_BRIDGE {
            self.notices.here.pop_front();
            self.count_lost(DropReason::QueueFull.word());
        }
        self.notices.here.push_back(Notice { topic, up, told: false });
        self.say_notices(now);
    }

    /// Before the first connection no bridge is up.
    pub(super) fn announce_all_down(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            if let Ok(index) = u16::try_from(index) {
                self.announce(now, BridgeId(index), false);
            }
        }
    }

    /// The gateway stops: nobody is left to be told, and the store shall not say otherwise.
    pub(super) fn keep_all_down(&mut self, now: Instant) {
        for at in 0..self.links.len() {
            if let Some(topic) = self.config.bridges[at].notify_topic.clone() {
                self.keep_notice(now, &topic, false);
            }
        }
        while let Some(notice) = self.notices.here.pop_front() {
            self.keep_notice(now, &notice.topic, false);
        }
    }

    /// Tries what is owed; when it is due again.
    pub(super) fn expire_notices(&mut self, now: Instant) -> Instant {
        if now >= self.notices.at {
            self.say_notices(now);
        }
        self.notices.at
    }

    /// Words that are owed, at home and to remotes.
    #[cfg(test)]
    pub(super) fn notices_owed(&self) -> usize {
        self.notices.here.len() + self.notices.there.iter().filter(|owed| **owed).count()
    }

    fn say_notices(&mut self, now: Instant) {
        for _ in 0..self.notices.here.len() {
            let Some(mut notice) = self.notices.here.pop_front() else { break };
            if !self.say_here(now, &mut notice) {
                self.notices.here.push_back(notice);
            }
        }
        for bridge in 0..self.links.len() {
            if self.notices.there[bridge] {
                self.notices.there[bridge] = !self.say_there(bridge);
            }
        }
        let owed = !self.notices.here.is_empty() || self.notices.there.contains(&true);
        self.notices.at = if owed { now.plus(RETRY) } else { Instant::NEVER };
        self.due_by(self.notices.at);
    }

    /// To local subscribers, and kept for others. `false`: not everything of that yet.
    fn say_here(&mut self, now: Instant, notice: &mut Notice) -> bool {
        if !notice.told {
            let message = Message {
                topic: &notice.topic,
                qos: Qos::AtMostOnce,
                retain: true,
                properties: &[],
                expiry_s: None,
                payload: Payload::Here(word(notice.up)),
            };
            notice.told = self.route(now, Source::Own, &message) != Outcome::Parked;
        }
        self.keep_notice(now, &notice.topic, notice.up) && notice.told
    }

    /// Kept for who subscribes from here on. `false`: the retained store is full.
    fn keep_notice(&mut self, now: Instant, topic: &str, up: bool) -> bool {
        if self.retained.holds(topic, word(up)) {
            return true;
        }
        let set = self.retained.set(topic, Qos::AtMostOnce, &[], [word(up)], None, now);
        // An older value would pass for the newest [MQTT-3.3.1-5].
        if set.is_ok() || self.retained.clear(topic) {
            self.retained_since = self.retained_since.or(Some(now));
        }
        set.is_ok()
    }

    /// `1` to the remote. `false`: there is no room for it now.
    fn say_there(&mut self, at: usize) -> bool {
        let (link, config) = (&self.links[at], &self.config.bridges[at]);
        let (Some(conn), Some(topic)) = (link.conn(), &config.notify_topic) else { return true };
        if !link.is_up() {
            return true;
        }
        let publish = Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: link.remote.retain_available,
            topic,
            packet_id: None,
            properties: Properties::EMPTY,
            payload: word(true),
            missing: 0,
        };
        let owed = owe(&mut self.conns[usize::from(conn.slot)], &Packet::Publish(publish));
        match owed {
            Owed::Said => self.counters.out_packets += 1,
            Owed::Later => {}
            Owed::Never { bytes } => {
                let (topic, name) = (text(topic), config.name.clone());
                let limit = Some(wide(self.conns[usize::from(conn.slot)].packet_bytes_max));
                let key = "bridge.NAME.notify_topic";
                let bound = Bound { size: Some(wide(bytes)), limit, key };
                let reason = DropReason::TooLarge.word();
                self.note_lost(reason, &name, None, Some(bound), Some(topic));
            }
        }
        self.ready.set(conn.slot);
        owed != Owed::Later
    }

    /// The link is left for good or for a while: with a `notify_topic` the remote publishes the
    /// will, which says so. The caller closes.
    pub(super) fn take_leave(&mut self, bridge: BridgeId, slot: u16) {
        debug_assert!(matches!(self.conn(slot).role, Role::Link { .. }));
        let notify = self.config.bridges[usize::from(bridge.0)].notify_topic.is_some();
        match (notify, self.conn(slot).version) {
            (false, _) => self.say_goodbye(slot, Reason::SUCCESS),
            (true, Version::V5) => self.say_goodbye(slot, Reason::DISCONNECT_WITH_WILL),
            // Without DISCONNECT the remote publishes the will.
            (true, Version::V31 | Version::V311) => {}
        }
    }
}

fn word(up: bool) -> &'static [u8] {
    if up { b"1" } else { b"0" }
}
