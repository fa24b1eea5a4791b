//! Shared subscriptions: which member of a group gets a message, and who gets it instead when that
//! one's session ends first. Read MQTT 5 section 4.8.2 first.

use super::Gateway;
use crate::broker::access::{Access, Right};
use crate::broker::session::Sessions;
use crate::broker::subs::{Group, Subscription, Turn, is_way_shared};
use crate::mqtt::Qos;
use crate::mqtt::topic::is_shared;
use crate::queue::outbox::DestId;
use crate::queue::{DropReason, Push, Queue};

/// How well a member can take a message now, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    AtOnce,
    /// Connected, and its window is full.
    Later,
    /// It may be long until it is back.
    Offline,
    /// Its oldest message has to go for it.
    Full,
}

/// The member that gets a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub turn: Turn,
    pub session: u16,
    /// What it asked for, which is what it gets [MQTT-4.8.2-3].
    pub sub: Subscription,
    pub fit: Fit,
}

/// What has to be known of the sessions to choose among them.
pub(super) struct Members<'a> {
    pub queue: &'a Queue,
    pub sessions: &'a Sessions,
    pub access: &'a Access,
    /// Destination of the first session.
    pub first: u16,
}

impl Members<'_> {
    /// The next member in turn that can take the message at once, else the one that can best. Those
    /// that may not read it are none.
    pub fn choose(
        &self,
        group: &Group<'_>,
        topic: &str,
        qos: Qos,
        body_bytes: usize,
        except: Option<u16>,
    ) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        for (turn, session, sub) in group.members() {
            let may_read = || self.access.may(self.sessions[session].who(), Right::Read, topic);
            if Some(session) == except || !may_read() {
                continue;
            }
            let Some(fit) = self.fit(session, qos.min(sub.qos), body_bytes) else { continue };
            if best.is_none_or(|best| fit < best.fit) {
                best = Some(Choice { turn, session, sub: *sub, fit });
            }
            if fit == Fit::AtOnce {
                break;
            }
        }
        best
    }

    /// `None`: it would not keep the message.
    fn fit(&self, session: u16, qos: Qos, body_bytes: usize) -> Option<Fit> {
        let dest = DestId(self.first + session);
        let entry = &self.sessions[session];
        let connected = entry.conn.is_some();
        if !connected && (qos == Qos::AtMostOnce || entry.expiry.is_zero()) {
            return None;
        }
        if self.queue.admit(dest, qos, body_bytes).is_err() {
            return Some(Fit::Full);
        }
        let outbox = self.queue.outbox(dest);
        Some(match connected {
            true if outbox.pending < u64::from(outbox.window) => Fit::AtOnce,
            true => Fit::Later,
            false => Fit::Offline,
        })
    }
}

impl Gateway {
    /// A session ends: what it has as a member of a group goes to another one, but for a message
    /// of QoS 2 that it may have begun to take [MQTT-4.8.2-5]. What is left ends with it, on disk
    /// too, and is counted: all that was kept for a session that was to outlive its connection, of
    /// another only what its groups lose.
    pub(super) fn hand_over(&mut self, session: u16) {
        let dest = self.session_dest(session);
        let first = dest.0 - session;
        let mut topics = core::mem::take(&mut self.topic);
        let (mut moved, mut lost) = (false, 0);
        for index in self.queue.transferable(dest) {
            let entry = &self.queue.entries[index];
            let (way, record) = (entry.rule, entry.record);
            if !is_way_shared(way) {
                continue;
            }
            let Self { queue, subs, sessions, access, .. } = self;
            let choice = record.and_then(|record| {
                let head = queue.pool.head(record);
                let topic = &mut topics[..usize::from(head.topic_bytes)];
                queue.pool.read(record, 0, topic);
                let topic = core::str::from_utf8(topic).unwrap_or("");
                let group = subs.group_of(session, way, topic)?;
                let members = Members { queue, sessions, access, first };
                members
                    .choose(&group, topic, head.qos, head.body_bytes(), Some(session))
                    .filter(|choice| choice.fit < Fit::Full)
            });
            let Some(choice) = choice else {
                lost += 1;
                continue;
            };
            let to = DestId(first + choice.session);
            if !self.pass_on(dest, index, to, &choice.sub) {
                lost += 1;
                continue;
            }
            moved = true;
            self.subs.chosen(choice.turn);
            if let Some(slot) = self.conn_of(to) {
                self.ready.set(slot);
            }
        }
        self.topic = topics;
        let entry = &self.sessions[session];
        if entry.stored || !entry.expiry.is_zero() {
            lost = self.queue.undelivered(dest);
        } else if self.subs.of_session(session).any(|(filter, _)| is_shared(filter)) {
            // By which way it came is not known of what is on disk only.
            lost += self.queue.disk_only(dest);
        }
        self.queue.count_drop(dest, DropReason::SessionEnded, lost);
        if moved && self.sessions[session].stored {
            // With the commit that forgets the session, or a crash after it would lose them.
            self.queue.commit_moved();
        }
    }

    fn pass_on(&mut self, from: DestId, index: u32, to: DestId, sub: &Subscription) -> bool {
        let entry = self.queue.entries[index];
        let Some(record) = entry.record else { return false };
        let head = self.queue.pool.head(record);
        let push = Push {
            qos: head.qos.min(sub.qos),
            retain: head.retain && sub.retain_as_published,
            stream: 0,
            rule: entry.rule,
            hold: true,
            conflate: None,
        };
        self.queue.move_entry(from, index, to, push)
    }
}
