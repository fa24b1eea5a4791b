//! A link that is up: keepalive, acknowledgements that do not come, subscriptions, and the word
//! that the bridge is up. Read MQTT 5 sections 3.8, 3.12, 4.9 first.

use super::Gateway;
use super::conn::Conn;
use super::links::SUBSCRIBE_ID;
use super::receive::{Fatal, Step};
use super::verbs::Action;
use crate::bridge::blame::Ending;
use crate::bridge::link::Subscribed;
use crate::bridge::rules::{qos_for_all, subscription_id};
use crate::fit::{fit, millis, wide};
use crate::limits::REFUSED_RETRY;
use crate::mqtt::props::{Properties, Property, Variable};
use crate::mqtt::{Packet, PacketId, Qos, Reason, Suback, Subscribe, SubscribeOptions, encode};
use crate::note::{Note, Text, named_rule, text};
use crate::queue::pool::{Head, RecordId};
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// What became of a packet with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Said,
    /// There is no room for it now.
    Later,
    /// It is larger than the remote takes: so many bytes.
    Never {
        bytes: usize,
    },
}

pub(super) fn owe(conn: &mut Conn, packet: &Packet<'_>) -> Owed {
    let (version, most) = (conn.version, conn.packet_bytes_max);
    let mut size = 0;
    let fits = conn.control(|out| {
        size = encode(version, packet, out).ok()?;
        Some(size)
    });
    match (fits, size > most) {
        (false, _) => Owed::Later,
        (true, false) => Owed::Said,
        (true, true) => Owed::Never { bytes: size },
    }
}

impl Gateway {
    /// Says goodbye, and closes.
    pub(super) fn leave(&mut self, now: Instant, bridge: BridgeId, slot: u16) {
        self.take_leave(bridge, slot);
        self.close(now, slot, true);
    }

    /// Keepalive, acknowledgement time-out, probes of the first server.
    pub(super) fn expire_up(&mut self, now: Instant, bridge: BridgeId, slot: u16) -> Instant {
        let mut next = Instant::NEVER;
        let by = self.acked_by(slot, bridge);
        if by <= now {
            self.link_lost(now, slot, bridge, "ack_timeout", Ending::Unacknowledged);
            return now;
        }
        next = next.min(by);
        let renew_at = self.renew_at(slot);
        if renew_at <= now {
            self.take_leave(bridge, slot);
            self.link_lost(now, slot, bridge, "fetch_again", Ending::Other);
            return now;
        }
        next = next.min(renew_at);
        let conn = self.conn(slot);
        if !conn.keepalive.is_zero() {
            let keepalive = conn.keepalive;
            let asked = self.link(bridge).ping_sent;
            if let Some(asked) = asked {
                let heard = conn.received_at > asked;
                let by = self.answered_by(slot, bridge, asked);
                if !heard && by <= now {
                    self.link_lost(now, slot, bridge, "keepalive_timeout", Ending::Other);
                    return now;
                }
                next = next.min(by);
                if heard && by <= now {
                    self.link_mut(bridge).ping_sent = None;
                }
            }
            let conn = self.conn(slot);
            // The remote gives up after 3/2: a slow disk must not come between.
            let ahead = (keepalive * 5 / 4).saturating_sub(self.absence(now));
            let span = ahead.clamp(keepalive / 4, keepalive * 3 / 4);
            let quiet = conn.sent_at.min(conn.received_at).plus(span);
            if self.link(bridge).ping_sent.is_none() {
                if quiet <= now {
                    self.link_mut(bridge).ping_sent = Some(now);
                    // Without room it is what waits there that the remote has to answer, or take.
                    self.reply(slot, &Packet::Pingreq);
                    next = next.min(now.plus(keepalive));
                } else {
                    next = next.min(quiet);
                }
            }
        }
        next = next.min(self.watch_progress(now, slot, bridge));
        if self.link(bridge).stable_at() <= now {
            let link = self.link_mut(bridge);
            link.attempts = 0;
            link.backoff.reset();
            link.takeovers = 0;
            link.window_cap = link.window_cap.saturating_mul(2);
        }
        next = next.min(self.send_subscribes(now, slot, bridge));
        if self.link_mut(bridge).dial.poll_probe(now) {
            self.actions.push_back(Action::Probe { bridge, server: 0 });
        }
        next
    }

    /// Sends the SUBSCRIBEs that are due, and an UNSUBSCRIBE; when the next is.
    pub(super) fn send_subscribes(&mut self, now: Instant, slot: u16, bridge: BridgeId) -> Instant {
        let mut next = self.send_unsubscribe(now, slot, bridge);
        for rule in 0..self.link(bridge).subscribed.len() {
            let Subscribed::Due { at } = self.link(bridge).subscribed[rule] else { continue };
            if at > now {
                next = next.min(at);
                continue;
            }
            if !self.takes_filter(bridge, rule) {
                let reason = Reason::WILDCARDS_NOT_SUPPORTED;
                self.not_subscribed(now, bridge, rule, reason, None, None);
                next = next.min(now.plus(REFUSED_RETRY));
                continue;
            }
            match self.owe_subscribe(slot, bridge, rule) {
                Owed::Said => self.link_mut(bridge).subscribed[rule] = Subscribed::Asked,
                // No room among the replies: soon.
                Owed::Later => next = next.min(now.plus(Duration::from_millis(10))),
                Owed::Never { bytes } => {
                    let bound = (wide(bytes), wide(self.conn(slot).packet_bytes_max));
                    let reason = Reason::PACKET_TOO_LARGE;
                    self.not_subscribed(now, bridge, rule, reason, Some(bound), None);
                    next = next.min(now.plus(REFUSED_RETRY));
                }
            }
        }
        self.due_by(next);
        next
    }

    /// A filter with wildcards is not sent to a remote that takes none (3.2.2.3.11).
    fn takes_filter(&self, bridge: BridgeId, rule: usize) -> bool {
        let link = self.link(bridge);
        link.remote.wildcards || !link.rules.subscribe[rule].remote_topic.contains(['+', '#'])
    }

    fn owe_subscribe(&mut self, slot: u16, bridge: BridgeId, rule: usize) -> Owed {
        let Self { links, conns, .. } = self;
        let link = &mut links[usize::from(bridge.0)];
        let rules = &link.rules.subscribe;
        let Some(subscribe) = rules.get(rule) else { return Owed::Said };
        let offset = fit::<u16, _>(rule, "rules");
        let Some(packet_id) = PacketId::new(SUBSCRIBE_ID + offset) else { return Owed::Said };
        let ids = link.remote.subscription_ids;
        let qos = if ids { subscribe.qos } else { qos_for_all(rules, rule) };
        let options = SubscribeOptions {
            qos,
            // What we sent does not come back.
            no_local: true,
            retain_as_published: true,
            retain_handling: 0,
        };
        let filters = [(subscribe.remote_topic.as_str(), options)];
        let filters = crate::mqtt::Filters::from_list(&filters);
        let mut buffer = [0; 8];
        // With one rule there is nothing to tell apart.
        link.with_id[rule] = ids && rules.len() > 1;
        let properties = if link.with_id[rule] {
            let id = Property::SubscriptionIdentifier(Variable(subscription_id(subscribe)));
            super::replies::properties(&[id], &mut buffer)
        } else {
            Properties::EMPTY
        };
        let packet = Subscribe { packet_id, properties, filters };
        let owed = owe(&mut conns[usize::from(slot)], &Packet::Subscribe(packet));
        self.counters.out_packets += u64::from(owed == Owed::Said);
        self.ready.set(slot);
        owed
    }

    pub(super) fn link_suback(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        suback: &Suback<'_>,
    ) -> Result<Step, Fatal> {
        let rule = suback.packet_id.raw().checked_sub(SUBSCRIBE_ID).map(usize::from);
        let subscribed = &mut self.link_mut(bridge).subscribed;
        let asked = rule.filter(|rule| subscribed.get(*rule) == Some(&Subscribed::Asked));
        // It answers a SUBSCRIBE that waits for it, filter by filter [MQTT-3.8.4-2] [MQTT-3.8.4-6].
        let (Some(rule), [code]) = (asked, suback.codes) else {
            return Err(Reason::PROTOCOL_ERROR.into());
        };
        let link = self.link_mut(bridge);
        if Reason(*code) == Reason::SUBSCRIPTION_IDS_NOT_SUPPORTED && link.with_id[rule] {
            // Which its CONNACK should have said: without, then.
            link.remote.subscription_ids = false;
            link.resumed = true;
            link.subscribed[rule] = Subscribed::Due { at: now };
            // Those that it has taken too, or their copies would say that they are for one alone.
            for (subscribed, with_id) in link.subscribed.iter_mut().zip(&link.with_id) {
                if *with_id && *subscribed == Subscribed::Granted {
                    *subscribed = Subscribed::Due { at: now };
                }
            }
        } else if Reason(*code).is_error() {
            let said = suback.properties.reason_string().map(text);
            self.not_subscribed(now, bridge, rule, Reason(*code), None, said);
        } else {
            link.subscribed[rule] = Subscribed::Granted;
        }
        self.choose_filters(now, bridge);
        Ok(Step::Done)
    }

    /// The remote did not take a subscription, or cannot: its bytes, and how many the remote takes.
    fn not_subscribed(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        rule: usize,
        reason: Reason,
        bound: Option<(u64, u64)>,
        said: Option<Text>,
    ) {
        let at = now.plus(REFUSED_RETRY);
        self.link_mut(bridge).subscribed[rule] = Subscribed::Due { at };
        self.due_by(at);
        let (name, rule) = (self.bridge_name(bridge), &self.link(bridge).rules.subscribe[rule]);
        let note = Note::SubscribeRefused {
            filter: text(&rule.remote_topic),
            code: u16::from(reason.0),
            retry_in_ms: millis(REFUSED_RETRY),
            // Before MQTT 5 there is only one.
            reason: if reason == Reason::UNSPECIFIED { "refused" } else { reason.word() },
            size: bound.map(|bound| bound.0),
            limit: bound.map(|bound| bound.1),
            key: named_rule("bridge.NAME.subscribe.N.remote_topic", &name, &rule.name),
            bridge: name,
            said,
        };
        self.note(note);
        // What it covers may be had by itself.
        self.choose_filters(now, bridge);
    }

    /// A retained QoS 0 message of our own, in the pool; `fits` was asked for room.
    pub(super) fn own_record(
        &mut self,
        now: Instant,
        topic: &str,
        payload: &[u8],
    ) -> Option<RecordId> {
        let head = Head {
            topic_bytes: fit(topic.len(), "topic bytes"),
            props_bytes: 0,
            payload_bytes: fit(payload.len(), "payload bytes"),
            qos: Qos::AtMostOnce,
            retain: true,
            arrival: now,
            wall_s: self.queue.wall_s(),
            expiry_s: None,
            source: u16::MAX,
        };
        // The caller has asked for room.
        let record = self.queue.pool.insert(head).ok()?;
        self.queue.pool.write(record, 0, topic.as_bytes());
        self.queue.pool.write(record, topic.len(), payload);
        Some(record)
    }
}
