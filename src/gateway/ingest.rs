//! A PUBLISH on its way in: where it goes, whether there is room everywhere, and only then one
//! record and its references. Read MQTT 5 sections 3.3 and 4.3 first.

use super::Gateway;
use super::brought::{Brought, Each};
use super::conn::{Debt, Role};
use super::ends::{Bound, Fatal};
use super::plan::Loss;
use crate::config::SubscribeRule;
use crate::fit::{fit, wide};
use crate::limits::{ROOM_WITHIN, UNRELEASED_MAX};
use crate::mqtt::{PacketId, Publish, Qos, Reason, Version, topic};
use crate::note::{Note, text};
use crate::queue::outbox::DestId;
use crate::queue::pool::{Head, RecordId};
use crate::queue::{DropReason, Foreseen, Push, Reserve};
use crate::vocab::{BridgeId, Instant};

/// A message as the gateway passes it on: local topic, properties without those of one hop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub topic: &'a str,
    pub qos: Qos,
    pub retain: bool,
    pub properties: &'a [u8],
    pub expiry_s: Option<u32>,
    pub payload: Payload<'a>,
}

/// Where its payload is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload<'a> {
    Here(&'a [u8]),
    /// In a record that has the whole message already, so many bytes of it.
    Kept(RecordId, usize),
    /// In a record that has it for another message, too, so many bytes of it.
    Beside(RecordId, usize),
}

/// What is routed.
pub(super) enum What<'a, 'b> {
    One(&'a Message<'b>),
    /// A copy for each of these rules that it comes in by; the memory is for their topics.
    Each(&'a Brought<'b>, &'a [SubscribeRule], &'a mut [u8]),
}

impl Message<'_> {
    pub fn payload_bytes(&self) -> usize {
        match self.payload {
            Payload::Here(bytes) => bytes.len(),
            Payload::Kept(_, bytes) | Payload::Beside(_, bytes) => bytes,
        }
    }

    /// Topic, properties and payload together.
    pub fn body_bytes(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload_bytes()
    }
}

/// Who published it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Client {
        slot: u16,
        session: u16,
    },
    Link {
        slot: u16,
        bridge: BridgeId,
    },
    /// The will of a session.
    Will {
        session: u16,
    },
    /// The gateway's own word.
    Own,
}

impl Source {
    pub(super) fn slot(self) -> u16 {
        match self {
            Self::Client { slot, .. } | Self::Link { slot, .. } => slot,
            Self::Will { .. } | Self::Own => u16::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is where it belongs; the reason for the publisher, and the record it waits for.
    Routed { reason: Reason, record: Option<RecordId> },
    /// No room now: present it again.
    Parked,
}

impl Gateway {
    /// A publish with its acknowledgement, which is that of `qos`. `false`: it stays parked.
    pub(super) fn publish_acknowledged(
        &mut self,
        now: Instant,
        source: Source,
        what: What<'_, '_>,
        packet_id: Option<PacketId>,
        qos: Qos,
    ) -> Result<bool, Fatal> {
        let slot = source.slot();
        let owner = match source {
            Source::Client { session, .. } => self.session_dest(session),
            Source::Link { bridge, .. } => Self::bridge_dest(bridge),
            Source::Will { .. } | Source::Own => return Ok(true),
        };
        let Some(id) = packet_id else {
            return Ok(self.route_what(now, source, owner, what, None) != Outcome::Parked);
        };
        let exactly_once = qos == Qos::ExactlyOnce;
        if exactly_once && self.queue.recv.contains(owner.0, id.raw()) {
            return Ok(self.received_again(owner, slot, id));
        }
        let conn = self.conn(slot);
        let limit = usize::from(self.inbound_limit(source));
        // A client that was told the limit has broken it. Others wait: one that was not told, and a
        // remote, for brokers forget our word over a reconnect (mosquitto without a limit of its
        // own does) and would be turned away for ever.
        let told = conn.version == Version::V5 && matches!(source, Source::Client { .. });
        if told && conn.receive_count() >= limit {
            let fatal = Fatal::from(Reason::RECEIVE_MAXIMUM_EXCEEDED);
            return Err(fatal.over(conn.receive_count() + 1, limit, "limit.inflight"));
        }
        if conn.inbound_count() >= limit {
            self.queue.eager = true;
            return Ok(false);
        }
        // Before it is routed: a message without its identifier would be routed twice.
        let unreleased = self.queue.received(owner);
        if exactly_once && unreleased >= UNRELEASED_MAX {
            let most = fit(UNRELEASED_MAX, "unreleased identifiers");
            return Err(Fatal::from(Reason::QUOTA_EXCEEDED).full(most, ""));
        }
        if exactly_once && !self.queue.recv.has_room(owner.0) {
            // It goes on when it has released some itself, or others have.
            self.tell_beyond_share(slot);
            return Ok(false);
        }
        let (reason, record) = match self.route_what(now, source, owner, what, packet_id) {
            Outcome::Parked => return Ok(false),
            Outcome::Routed { reason, record } => (reason, record),
        };
        let mut debt = Debt { packet_id: id, reason, record, after: 0, owner: None };
        if exactly_once && !reason.is_error() {
            if !self.queue.receive_id(owner, id.raw(), record) {
                return Err(Fatal::from(Reason::QUOTA_EXCEEDED).full(limit, "limit.inflight"));
            }
            if self.queue.is_journalled(owner) {
                self.queue.row_with(owner, record);
                debt.owner = Some(owner);
            }
        }
        let conn = self.conn_mut(slot);
        conn.awaits_commit |= debt.owner.is_some();
        conn.unreleased += usize::from(exactly_once && !reason.is_error());
        let debts = if exactly_once { &mut conn.pubrecs } else { &mut conn.pubacks };
        debts.push(debt);
        let conn = self.conn_mut(slot);
        let count = conn.inbound_count();
        if count > conn.window_learned {
            conn.window_learned = 0;
        }
        if count >= limit || count == conn.window_learned {
            self.queue.eager = true;
        }
        self.ready.set(slot);
        Ok(true)
    }

    fn route_what(
        &mut self,
        now: Instant,
        source: Source,
        owner: DestId,
        what: What<'_, '_>,
        packet_id: Option<PacketId>,
    ) -> Outcome {
        match what {
            What::One(message) => {
                let outcome = self.route(now, source, message);
                if outcome != Outcome::Parked {
                    self.passed(now, source, owner, message, packet_id);
                }
                outcome
            }
            What::Each(all, rules, topics) => {
                self.route_each(now, &Each { source, owner, all, rules, packet_id }, topics)
            }
        }
    }

    /// Who has more QoS 2 messages unreleased than he is sure of, and finds no more in common, is
    /// named once a connection.
    pub(super) fn tell_beyond_share(&mut self, slot: u16) {
        if core::mem::replace(&mut self.conn_mut(slot).beyond_share, true) {
            return;
        }
        if let Role::Client { session } = self.conn(slot).role {
            let client = text(&self.sessions[session].client_id);
            let max = u64::from(self.config.limit.inflight);
            let limit = "limit.inflight";
            self.note(Note::LimitReached { client, limit, filter: None, size: None, max });
        }
    }

    /// Is this a new QoS 2 message of somebody who can be told that there is no identifier left?
    pub(super) fn is_beyond_share(&self, slot: u16, session: u16, publish: &Publish<'_>) -> bool {
        let owner = self.session_dest(session).0;
        publish.qos == Qos::ExactlyOnce
            && self.conn(slot).version == Version::V5
            && !self.queue.recv.has_room(owner)
            && publish.packet_id.is_some_and(|id| !self.queue.recv.contains(owner, id.raw()))
    }

    fn inbound_limit(&self, source: Source) -> u16 {
        match source {
            Source::Link { .. } => super::inbound_window(&self.config),
            Source::Client { .. } | Source::Will { .. } | Source::Own => self.config.limit.inflight,
        }
    }

    /// A QoS 2 PUBLISH that is here already: PUBREC again, once everything is safe.
    /// `false`: so many are owed that it has to wait.
    pub(super) fn received_again(&mut self, owner: DestId, slot: u16, id: PacketId) -> bool {
        let journalled = self.queue.is_journalled(owner);
        let conn = self.conn(slot);
        if conn.pubrecs.contains(id) {
            return true;
        }
        if conn.pubrecs.is_full() {
            return false;
        }
        let mut after = 0;
        if journalled {
            // Which record it was is not known any more: everything is committed first.
            self.queue.commit_all();
            self.queue.row_urgent(owner);
            after = self.queue.commits() + 1;
        }
        let conn = self.conn_mut(slot);
        conn.awaits_commit |= after > 0;
        conn.pubrecs.push(Debt {
            packet_id: id,
            reason: Reason::SUCCESS,
            record: None,
            after,
            owner: journalled.then_some(owner),
        });
        self.ready.set(slot);
        true
    }

    /// Finds the destinations, reserves, and only then changes anything.
    pub(super) fn route(&mut self, now: Instant, source: Source, message: &Message<'_>) -> Outcome {
        self.plan.begin();
        let planned = self.plan_sessions(source, message);
        let Ok(refused) = planned.and_then(|()| self.plan_bridges(now, source, message)) else {
            return Outcome::Parked;
        };
        if self.plan.wait {
            return Outcome::Parked;
        }
        let body = message.body_bytes();
        let reserve = match (message.qos, source) {
            // What we say ourselves and keep is little, and seldom.
            (Qos::AtMostOnce, Source::Own) if message.retain => Reserve::Nothing,
            (Qos::AtMostOnce, _) => Reserve::ForOthers,
            (_, Source::Client { .. }) => Reserve::ForRemotes,
            (_, Source::Link { .. } | Source::Will { .. } | Source::Own) => Reserve::Nothing,
        };
        // What is in the ring already needs no more than its references.
        let in_place = matches!(message.payload, Payload::Kept(..));
        let fits = match self.plan.targets.len() {
            0 => true,
            count if in_place => self.queue.has_entries(count),
            count => self.queue.fits(reserve, body, count),
        };
        if !fits {
            if !self.queue.could_fit(body) {
                return self.drop_everywhere(message.topic, DropReason::TooLarge);
            }
            // What goes for it may be what it needs, and goes only if that is enough.
            if !self.makes_room(reserve, body) {
                return self.wait_for_room(now, source, message);
            }
        }
        self.take_in(now, source, message, refused)
    }

    /// Is there room once the oldest messages are dropped that go for this one?
    fn makes_room(&self, reserve: Reserve, body: usize) -> bool {
        let mut gone = Foreseen::new();
        for (dest, loss) in &self.plan.losses {
            if let Loss::Oldest(scope) = loss {
                self.queue.foresee(&mut gone, *dest, *scope);
            }
        }
        !gone.is_empty() && self.queue.fits_without(&gone, reserve, body, self.plan.targets.len())
    }

    /// The pool is short: the next flush makes room. QoS 0 waits for it for a moment where that
    /// helps; else it is dropped, and nothing that was accepted is for its sake.
    fn wait_for_room(&mut self, now: Instant, source: Source, message: &Message<'_>) -> Outcome {
        let mut wait = message.qos != Qos::AtMostOnce || self.queue.can_squeeze(now);
        self.queue.press_now(wait);
        for at in 0..self.plan.targets.len() {
            wait |= self.queue.may_wait(self.plan.targets[at].dest, now);
        }
        // What we say ourselves and keep is tried again.
        let own = source == Source::Own && message.retain;
        if wait || own {
            // Who is in the way may have to be late first.
            self.shed_at = self.shed_at.min(now.plus(ROOM_WITHIN));
            return Outcome::Parked;
        }
        self.drop_everywhere(message.topic, DropReason::QueueFull)
    }

    /// Plans where it goes, with nobody who refuses it by a policy. `false`: one blocks.
    pub(super) fn plan_for(&mut self, now: Instant, source: Source, message: &Message<'_>) -> bool {
        self.plan.begin();
        let planned = self.plan_sessions(source, message);
        planned.and_then(|()| self.plan_bridges(now, source, message)).is_ok()
    }

    /// There is room everywhere: what has to go for the message goes, and it is where it belongs.
    pub(super) fn take_in(
        &mut self,
        now: Instant,
        source: Source,
        message: &Message<'_>,
        refused: bool,
    ) -> Outcome {
        self.lose_oldest();
        if self.circle.is_known() {
            self.account_circles(now, source, message);
        }
        self.lose_newest(message.topic);
        for turn in &self.plan.turns {
            self.subs.chosen(*turn);
        }
        let kept = !message.retain || self.retain(now, source, message);
        if !self.plan.further {
            self.count_in(source);
        }
        if source != Source::Own {
            self.counters.in_payload += wide(message.payload_bytes());
        }
        if self.plan.targets.is_empty() {
            // Taken by nobody at all. Where it goes to somebody, that it is not kept is in the log
            // only: a reason that is an error would have it sent again.
            let refused = refused || !kept;
            let reason = if refused { Reason::QUOTA_EXCEEDED } else { Reason::NO_SUBSCRIBERS };
            return Outcome::Routed { reason, record: None };
        }
        let record = match message.payload {
            Payload::Here(_) | Payload::Beside(..) => self.insert(now, source, message, 0),
            Payload::Kept(record, _) => {
                self.queue.pool.retain(record);
                record
            }
        };
        for at in 0..self.plan.targets.len() {
            let target = self.plan.targets[at];
            let conflate = target.conflate.then(|| topic::topic_hash(message.topic));
            self.queue.push(
                target.dest,
                record,
                Push {
                    qos: target.qos,
                    retain: target.retain,
                    stream: target.stream,
                    rule: target.rule,
                    hold: target.hold,
                    conflate,
                },
            );
            if let Some(slot) = self.conn_of(target.dest) {
                self.ready.set(slot);
            }
        }
        self.queue.pool.release(record);
        let reason = if refused { Reason::QUOTA_EXCEEDED } else { Reason::SUCCESS };
        Outcome::Routed { reason, record: Some(record) }
    }

    /// Drops the oldest messages that go for this one, which has its room.
    fn lose_oldest(&mut self) {
        for at in 0..self.plan.losses.len() {
            if let (dest, Loss::Oldest(scope)) = self.plan.losses[at] {
                self.queue.drop_oldest(dest, scope, DropReason::QueueFull);
            }
        }
    }

    /// Counts the destinations that do not get the message.
    fn lose_newest(&mut self, topic: &str) {
        for at in 0..self.plan.losses.len() {
            let topic = || Some(text(topic));
            match self.plan.losses[at] {
                (dest, Loss::Newest(reason)) => self.queue.count_drop_of(dest, reason, 1, topic()),
                (dest, Loss::NewestOfRule(rule)) => {
                    self.queue.count_rule_drop(dest, rule, topic());
                }
                (_, Loss::Oldest(_)) => {}
            }
        }
        self.plan.losses.clear();
    }

    pub(super) fn drop_everywhere(&mut self, topic: &str, reason: DropReason) -> Outcome {
        self.lose_newest(topic);
        for at in 0..self.plan.targets.len() {
            let dest = self.plan.targets[at].dest;
            self.queue.count_drop_of(dest, reason, 1, Some(text(topic)));
        }
        self.collect();
        Outcome::Routed { reason: Reason::QUOTA_EXCEEDED, record: None }
    }

    fn count_in(&mut self, source: Source) {
        match source {
            Source::Client { .. } => self.counters.in_msgs += 1,
            Source::Link { .. } => self.counters.recv_msgs += 1,
            Source::Will { .. } | Source::Own => {}
        }
    }

    /// A record with what is here of the message, and room for `missing` bytes of payload more;
    /// room was asked for.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        source: Source,
        message: &Message<'_>,
        missing: usize,
    ) -> RecordId {
        let head = Head {
            topic_bytes: fit(message.topic.len(), "topic bytes"),
            props_bytes: fit(message.properties.len(), "property bytes"),
            payload_bytes: fit(message.payload_bytes() + missing, "payload bytes"),
            qos: message.qos,
            retain: message.retain,
            arrival: now,
            wall_s: self.queue.wall_s(),
            expiry_s: message.expiry_s,
            source: source.slot(),
        };
        // `fits` said there is room, and nothing was inserted since.
        let Ok(record) = self.queue.pool.insert(head) else { unreachable!("fits reserved it") };
        let pool = &mut self.queue.pool;
        pool.write(record, 0, message.topic.as_bytes());
        pool.write(record, message.topic.len(), message.properties);
        let at = message.topic.len() + message.properties.len();
        match message.payload {
            Payload::Here(payload) => pool.write(record, at, payload),
            Payload::Beside(other, _) => pool.copy_payload(other, record),
            // It is filled as it comes.
            Payload::Kept(..) => {}
        }
        record
    }

    /// `false`: there is no room for it.
    fn retain(&mut self, now: Instant, source: Source, message: &Message<'_>) -> bool {
        let Self { retained, queue, .. } = self;
        let Message { topic, qos, properties, expiry_s, .. } = *message;
        let set = match message.payload {
            Payload::Here(payload) => {
                retained.set(topic, qos, properties, [payload], expiry_s, now)
            }
            Payload::Kept(record, _) | Payload::Beside(record, _) => {
                let payload = queue.pool.payload(record);
                retained.set(topic, qos, properties, payload, expiry_s, now)
            }
        };
        if set.is_err() {
            // An older value would pass for the newest [MQTT-3.3.1-5].
            if self.retained.clear(message.topic) {
                self.retained_since = self.retained_since.or(Some(now));
            }
            let bound = self.retained_bound(message);
            let reason = DropReason::QueueFull.word();
            let from = match source {
                Source::Client { slot, .. } | Source::Link { slot, .. } => self.name_of(slot),
                Source::Will { session } => Some(text(&self.sessions[session].client_id)),
                Source::Own => None,
            };
            self.note_lost(reason, "retained", from, Some(bound), Some(text(message.topic)));
            return false;
        }
        if let Source::Client { session, .. } | Source::Will { session } = source {
            self.retained.sign(message.topic, self.signature(session));
        }
        self.retained_since = self.retained_since.or(Some(now));
        self.due_by(self.retained.expires_at());
        true
    }

    /// Which limit keeps a retained message out.
    fn retained_bound(&self, message: &Message<'_>) -> Bound {
        let limit = &self.config.limit;
        let body = message.topic.len() + message.properties.len() + message.payload_bytes();
        if message.topic.len() > limit.topic_bytes {
            let size = Some(wide(message.topic.len()));
            let limit = Some(wide(limit.topic_bytes));
            return Bound { size, limit, key: "limit.topic_bytes" };
        }
        if wide(self.retained.len()) >= u64::from(limit.retained) {
            let limit = Some(u64::from(limit.retained));
            return Bound { size: None, limit, key: "limit.retained" };
        }
        let bytes = wide(limit.retained_bytes);
        Bound { size: Some(wide(body)), limit: Some(bytes), key: "limit.retained_bytes" }
    }

    /// Stands for a client among the publishers of retained messages; never 0.
    pub(super) fn signature(&self, session: u16) -> u64 {
        topic::topic_hash(&self.sessions[session].client_id).max(1)
    }

    /// Whose packet identifiers come on this connection.
    pub(super) fn owner_of(&self, slot: u16) -> Option<DestId> {
        match self.conns.get(usize::from(slot))?.role {
            Role::Client { session } => Some(self.session_dest(session)),
            Role::Link { bridge } => Some(Self::bridge_dest(bridge)),
            Role::Free | Role::Greeting | Role::Closing => None,
        }
    }

    /// PUBREL: the identifier is free again, and PUBCOMP is owed once that is durable. `false`:
    /// so many are owed that it has to wait.
    pub(super) fn released(&mut self, slot: u16, id: PacketId) -> bool {
        if self.conn(slot).pubcomps.is_full() {
            return false;
        }
        let Some(owner) = self.owner_of(slot) else { return true };
        let known = self.queue.release_id(owner, id.raw());
        let mut after = 0;
        // Released over an earlier connection, it may not be free in the store yet.
        let pending = known || self.queue.outbox(owner).row_dirty;
        if pending && self.queue.is_journalled(owner) {
            self.queue.row_urgent(owner);
            after = self.queue.commits() + 1;
        }
        // A PUBCOMP for an unknown identifier is right in 3.1.1 and carries 0x92 in MQTT 5.
        let reason = if known { Reason::SUCCESS } else { Reason::PACKET_ID_NOT_FOUND };
        let conn = self.conn_mut(slot);
        conn.unreleased = conn.unreleased.saturating_sub(usize::from(known));
        conn.awaits_commit |= after > 0;
        conn.pubcomps.push(Debt { packet_id: id, reason, record: None, after, owner: None });
        self.ready.set(slot);
        true
    }
}
