//! SUBSCRIBE and UNSUBSCRIBE of local clients, and the retained messages a subscription brings.
//!
//! Retained messages are put into the session's queue in batches; until the last is there the
//! SUBSCRIBE stays in the connection's buffer, so that nothing has to be remembered but two
//! numbers. Read MQTT 5 sections 3.8 to 3.11 first.

use super::Gateway;
use super::conn::Progress;
use super::receive::{Fatal, Step};
use crate::broker::retained::{Retained, Search};
use crate::broker::subs::{Added, Subscription};
use crate::fit::{fit, wide};
use crate::limits::{FILTERS_PER_PACKET_MAX, RETAINED_BATCH, SEARCH_LOOKS_A_TURN};
use crate::mqtt::props::Properties;
use crate::mqtt::{
    Packet, Qos, Reason, Suback, Subscribe, SubscribeOptions, Unsubscribe, Version, topic,
};
use crate::note::{Note, text};
use crate::queue::pool::Head;
use crate::queue::{Push, Reserve};
use crate::vocab::Instant;

/// Retained messages that are not to be sent again because the subscription was there already.
const SKIP: u8 = 2;

impl Gateway {
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        slot: u16,
        session: u16,
        subscribe: &Subscribe<'_>,
    ) -> Result<Step, Fatal> {
        if self.conn(slot).subscribing.is_none() {
            let filters = subscribe.filters.len();
            if filters > FILTERS_PER_PACKET_MAX {
                let fatal = Fatal::from(Reason::QUOTA_EXCEEDED);
                return Err(fatal.over(filters, FILTERS_PER_PACKET_MAX, ""));
            }
            if !self.conn(slot).has_control_room(subscribe.filters.len() + 16) {
                return Ok(Step::Stall);
            }
            self.add_subscriptions(slot, session, subscribe);
            for (filter, _) in subscribe.filters.iter() {
                self.hear_sys(now, filter);
            }
            self.conn_mut(slot).subscribing = Some(Progress::default());
        }
        let done = self.send_retained(now, slot, session, subscribe);
        if done {
            self.conn_mut(slot).subscribing = None;
        }
        Ok(if done { Step::Done } else { Step::Stall })
    }

    fn add_subscriptions(&mut self, slot: u16, session: u16, subscribe: &Subscribe<'_>) {
        let id = subscribe.properties.subscription_id().unwrap_or(0);
        let version = self.conn(slot).version;
        let mut codes: heapless::Vec<u8, FILTERS_PER_PACKET_MAX> = heapless::Vec::new();
        let bridge = self.conn(slot).bridge;
        for (filter, mut options) in subscribe.filters.iter() {
            if bridge && !topic::is_shared(filter) {
                (options.no_local, options.retain_as_published) = (true, true);
            }
            let code = if self.is_unwelcome_filter(slot, filter) {
                Err(Reason::FILTER_INVALID)
            } else {
                self.add_subscription(session, filter, options, id)
            };
            let code = match code {
                Ok(qos) => qos.as_u8(),
                Err(_) if version != Version::V5 => 0x80,
                Err(reason) => reason.0,
            };
            // The caller has bounded the number of filters.
            let _ = codes.push(code);
        }
        self.sessions[session].has_ids |= id != 0;
        let suback =
            Suback { packet_id: subscribe.packet_id, properties: Properties::EMPTY, codes: &codes };
        // The caller has asked for room. What was subscribed before costs no commit.
        let durable = self.has_promise(session);
        let _ = self.reply_durable(slot, &Packet::Suback(suback), durable, false);
    }

    fn add_subscription(
        &mut self,
        session: u16,
        filter: &str,
        options: SubscribeOptions,
        id: u32,
    ) -> Result<Qos, Reason> {
        // The decoder has refused it in MQTT 5 [MQTT-4.8.2-1] [MQTT-4.8.2-2].
        let shared = topic::is_shared(filter);
        if shared && topic::split_shared(filter).is_none() {
            return Err(Reason::FILTER_INVALID);
        }
        if filter.len() > self.config.limit.topic_bytes {
            let client = text(&self.sessions[session].client_id);
            let (size, max) = (Some(wide(filter.len())), wide(self.config.limit.topic_bytes));
            let limit = "limit.topic_bytes";
            self.note(Note::LimitReached { client, limit, filter: Some(text(filter)), size, max });
            return Err(Reason::FILTER_INVALID);
        }
        if !self.may_subscribe(session, filter) {
            self.denied(session, "subscribe", filter);
            return Err(Reason::NOT_AUTHORIZED);
        }
        let known = self.subs.find_in(session, filter);
        let handling = match options.retain_handling {
            // A group is sent no retained messages (4.8.2).
            _ if shared => SKIP,
            1 if known.is_some() => SKIP,
            1 => 0,
            other => other,
        };
        let sub = Subscription {
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            retain_handling: handling,
            id,
        };
        match self.subs.subscribe(session, filter, sub) {
            Ok(Added::New | Added::Replaced) => {
                let same = |old: Subscription| Subscription { retain_handling: handling, ..old };
                self.sessions[session].dirty |= known.map(same) != Some(sub);
                Ok(options.qos)
            }
            Err(_) => {
                let client = text(&self.sessions[session].client_id);
                let max = u64::from(self.config.limit.subscriptions);
                let limit = "limit.subscriptions";
                let note = Note::LimitReached {
                    client,
                    limit,
                    filter: Some(text(filter)),
                    size: None,
                    max,
                };
                self.note(note);
                Err(Reason::QUOTA_EXCEEDED)
            }
        }
    }

    /// From here on `retain_handling` of the stored subscription says nothing more; the same filter
    /// once more in the packet brings nothing twice.
    fn settle_handling(&mut self, session: u16, filter: &str) {
        if let Some(sub) = self.subs.find_in(session, filter)
            && sub.retain_handling != SKIP
        {
            // It was there a moment ago, so there is room.
            let _ =
                self.subs.subscribe(session, filter, Subscription { retain_handling: SKIP, ..sub });
        }
    }

    /// Queues retained messages as far as the session takes them, and as far as this turn may
    /// search. `true`: all are queued.
    fn send_retained(
        &mut self,
        now: Instant,
        slot: u16,
        session: u16,
        subscribe: &Subscribe<'_>,
    ) -> bool {
        let dest = self.session_dest(session);
        let start = self.conn(slot).subscribing.unwrap_or_default();
        let mut progress = start;
        for (filter, _) in subscribe.filters.iter().skip(start.filter) {
            let Some(sub) = self.subs.find_in(session, filter) else {
                progress = Progress { filter: progress.filter + 1, ..Progress::default() };
                continue;
            };
            if sub.retain_handling != SKIP {
                loop {
                    let (cursor, looks) = (progress.cursor, &mut self.looks);
                    let (next, message) = match self.retained.search(filter, cursor, now, looks) {
                        Search::Found(next, message) => (next, message),
                        Search::Later(next) => {
                            progress.cursor = next;
                            self.conn_mut(slot).subscribing = Some(progress);
                            self.search_later(slot);
                            return false;
                        }
                        Search::Done => break,
                    };
                    let outbox = self.queue.outbox(dest);
                    let waiting = outbox.zero.len + outbox.records;
                    let fits = self.queue.fits(Reserve::ForOthers, message.body_bytes(), 1);
                    if (waiting >= RETAINED_BATCH || !fits) && waiting > 0 {
                        self.conn_mut(slot).subscribing = Some(progress);
                        return false;
                    }
                    // One's own stay out where asked, kept ones too [MQTT-3.8.3-3].
                    if !sub.no_local || message.publisher != self.signature(session) {
                        self.queue_retained(now, slot, dest, &message, &sub);
                    }
                    progress.cursor = next;
                }
                while let Some((next, figure)) = self.next_sys(now, filter, progress.sys) {
                    let outbox = self.queue.outbox(dest);
                    let waiting = outbox.zero.len + outbox.records;
                    let later = waiting >= RETAINED_BATCH;
                    if later || !self.queue_sys(now, slot, dest, &figure) && waiting > 0 {
                        self.conn_mut(slot).subscribing = Some(progress);
                        return false;
                    }
                    progress.sys = next;
                }
                self.settle_handling(session, filter);
            }
            progress = Progress { filter: progress.filter + 1, ..Progress::default() };
        }
        self.ready.set(slot);
        true
    }

    /// What this connection searches for goes on in the next turn.
    fn search_later(&mut self, slot: u16) {
        self.later.set(slot);
    }

    /// A turn has served everybody: who has used up what one connection may search goes on.
    pub(super) fn search_on(&mut self) {
        self.searchers = self.later.len();
        while let Some(slot) = self.later.pop() {
            self.resume.set(slot);
        }
    }

    /// What one connection may look at when its bytes are presented: who searches shares a turn.
    pub(super) fn looks_now(&self) -> u32 {
        SEARCH_LOOKS_A_TURN / self.searchers.max(1)
    }

    fn queue_retained(
        &mut self,
        now: Instant,
        slot: u16,
        dest: crate::queue::outbox::DestId,
        message: &Retained,
        sub: &Subscription,
    ) {
        if !self.queue.fits(Reserve::ForRemotes, message.body_bytes(), 1)
            || !self.may_read_retained(dest, message)
        {
            return;
        }
        // A second that has begun is not over [MQTT-3.3.2-6].
        let left = message.expires_at.since(now).as_micros().div_ceil(1_000_000);
        if left == 0 {
            return; // It is over, and goes with the next look at the clock.
        }
        let expiry_s =
            (message.expires_at != Instant::NEVER).then(|| fit(left, "seconds to expiry"));
        let head = Head {
            topic_bytes: fit(message.topic_bytes, "topic bytes"),
            props_bytes: fit(message.properties_bytes, "property bytes"),
            payload_bytes: fit(message.payload_bytes, "payload bytes"),
            qos: message.qos,
            retain: true,
            arrival: now,
            wall_s: self.queue.wall_s(),
            expiry_s,
            source: u16::MAX,
        };
        // `fits` said so.
        let Ok(record) = self.queue.pool.insert(head) else { return };
        let mut at = 0;
        for piece in self.retained.pieces(message) {
            self.queue.pool.write(record, at, piece);
            at += piece.len();
        }
        let qos = message.qos.min(sub.qos);
        let push = Push { qos, retain: true, stream: 0, rule: 0, hold: false, conflate: None };
        self.queue.push(dest, record, push);
        self.queue.pool.release(record);
        self.ready.set(slot);
    }

    pub(super) fn unsubscribe(
        &mut self,
        slot: u16,
        session: u16,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<Step, Fatal> {
        let filters = unsubscribe.filters.len();
        if filters > FILTERS_PER_PACKET_MAX {
            let fatal = Fatal::from(Reason::QUOTA_EXCEEDED);
            return Err(fatal.over(filters, FILTERS_PER_PACKET_MAX, ""));
        }
        if !self.conn(slot).has_control_room(unsubscribe.filters.len() + 16) {
            return Ok(Step::Stall);
        }
        let mut codes: heapless::Vec<u8, FILTERS_PER_PACKET_MAX> = heapless::Vec::new();
        for (filter, _) in unsubscribe.filters.iter() {
            let existed = self.subs.unsubscribe(session, filter);
            self.sessions[session].dirty |= existed;
            let code = match existed {
                true => Reason::SUCCESS,
                false if self.is_unwelcome_filter(slot, filter) => Reason::FILTER_INVALID,
                false => Reason::NO_SUBSCRIPTION_EXISTED,
            };
            // The number of filters is bounded above.
            let _ = codes.push(code.0);
        }
        let unsuback = Suback {
            packet_id: unsubscribe.packet_id,
            properties: Properties::EMPTY,
            codes: &codes,
        };
        let durable = self.has_promise(session);
        Ok(self.reply_durable(slot, &Packet::Unsuback(unsuback), durable, false))
    }

    /// Does the next commit change what the store has of this session?
    pub(super) fn has_promise(&self, session: u16) -> bool {
        let entry = &self.sessions[session];
        entry.dirty && (entry.stored || !entry.expiry.is_zero())
    }
}
