//! What a remote sends, under the rules it comes in by: a copy for each, with the topic, the QoS
//! and the RETAIN flag that the rule says. Read MQTT 5 sections 3.3.4 and 3.8.4 first.
//!
//! One copy is a message like any other. Of several, which are one PUBLISH of the remote, none is
//! taken before there is room for all at once; then all of them are, at a bridge beyond its quota
//! if need be. Their records are one message for the store (`queue::together`) and for the
//! acknowledgement ([`Pool::follow`](crate::queue::pool::Pool::follow)): it leaves when every
//! destination of every copy has settled its own. So what is acknowledged is never half there.

use super::Gateway;
use super::ingest::{Message, Outcome, Payload, Source, What};
use super::sys;
use crate::bridge::rules::meant;
use crate::config::{RetainRule, SubscribeRule};
use crate::mqtt::props::{Properties, Property, PropertyId, Variable, copy_only};
use crate::mqtt::{PacketId, Publish, Qos, Reason};
use crate::note::text;
use crate::queue::outbox::DestId;
use crate::queue::pool::RecordId;
use crate::queue::room::Room;
use crate::queue::{DropReason, Reserve};
use crate::vocab::{BridgeId, Instant};

use super::receive::{Fatal, Step};

/// A PUBLISH of a remote, as the remote says it.
#[derive(Clone, Copy)]
pub(super) struct Brought<'a> {
    pub topic: &'a str,
    pub qos: Qos,
    pub retain: bool,
    /// Those that are passed on.
    pub properties: &'a [u8],
    /// Among these are its Subscription Identifiers.
    pub ids: Properties<'a>,
    pub expiry_s: Option<u32>,
    pub payload: Payload<'a>,
}

impl<'a> Brought<'a> {
    /// The rules it comes in by.
    fn rules(&self, rules: &'a [SubscribeRule]) -> impl Iterator<Item = &'a SubscribeRule> + 'a {
        let ids = self.ids.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(Variable(id)) => Some(id),
            _ => None,
        });
        meant(rules, self.topic, ids)
    }

    /// The copy for one of them; else why there is none, as a word for the log.
    fn copy<'m>(
        &self,
        rule: &SubscribeRule,
        topics: &'m mut [u8],
    ) -> Result<Message<'m>, &'static str>
    where
        'a: 'm,
    {
        let topic = if rule.mapping.is_identity() {
            self.topic
        } else if rule.mapping.maps_to_nothing(self.topic, topics) {
            return Err("topic_empty");
        } else {
            let mapped = rule.mapping.map(self.topic, topics).ok();
            let mapped = mapped.and_then(|n| core::str::from_utf8(&topics[..n]).ok());
            mapped.ok_or("topic_too_long")?
        };
        if sys::is_own(topic) {
            return Err("sys_topic");
        }
        Ok(Message {
            topic,
            // A subscription of another rule may have brought it at a higher one.
            qos: self.qos.min(rule.qos),
            retain: match rule.retain {
                RetainRule::Keep => self.retain,
                RetainRule::Always => true,
                RetainRule::Never => false,
            },
            properties: self.properties,
            expiry_s: self.expiry_s,
            payload: self.payload,
        })
    }
}

/// A PUBLISH that comes in by several rules, and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Each<'a> {
    pub source: Source,
    pub owner: DestId,
    pub all: &'a Brought<'a>,
    pub rules: &'a [SubscribeRule],
    pub packet_id: Option<PacketId>,
}

/// Splits encoded properties as `Gateway::bring` keeps them: what is passed on, and the identifiers
/// behind it.
pub(super) fn split_kept(properties: &[u8]) -> (&[u8], Properties<'_>) {
    let all = Properties::from_encoded(properties).iter();
    let passed_on = all.take_while(|p| p.id() != PropertyId::SubscriptionIdentifier);
    // They were encoded here.
    let bytes = passed_on.map(|property| property.encoded_len().unwrap_or(0)).sum();
    let (properties, ids) = properties.split_at(bytes);
    (properties, Properties::from_encoded(ids))
}

impl Gateway {
    /// Takes a PUBLISH of a remote in. The first `properties` bytes of `scratch` are those that are
    /// passed on; there is room behind them for the others. `false`: it has to wait as it is.
    #[expect(clippy::too_many_arguments, reason = "one publish, and memory for its parts")]
    pub(super) fn bring(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        publish: &Publish<'_>,
        waits: bool,
        scratch: &mut [u8],
        properties: usize,
        topics: &mut [u8],
    ) -> Result<bool, Fatal> {
        let source = Source::Link { slot, bridge };
        let waits = waits || publish.missing > 0;
        let all = Brought {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            properties: &scratch[..properties],
            ids: publish.properties,
            expiry_s: publish.properties.message_expiry(),
            payload: Payload::Here(publish.payload),
        };
        let rules = core::mem::take(&mut self.link_mut(bridge).rules.subscribe);
        let (first, second) = {
            let mut rules = all.rules(&rules);
            (rules.next(), rules.next())
        };
        let result = match (first, second) {
            // Not asked for: a subscription of an earlier configuration.
            (None, _) => Ok(self.swallow(slot, publish, "no_rule") == Step::Done),
            (Some(rule), None) => match all.copy(rule, topics) {
                Err(word) => Ok(self.swallow(slot, publish, word) == Step::Done),
                Ok(message) if waits => Ok(self.keep(now, slot, source, &message, publish, false)),
                Ok(message) => {
                    let what = What::One(&message);
                    let taken = self.publish_acknowledged(
                        now,
                        source,
                        what,
                        publish.packet_id,
                        publish.qos,
                    );
                    taken.map(|taken| {
                        taken || self.keep(now, slot, source, &message, publish, false)
                    })
                }
            },
            (Some(_), Some(_)) => {
                let what = What::Each(&all, &rules, topics);
                let (id, qos) = (publish.packet_id, publish.qos);
                let taken = !waits;
                let taken = if taken {
                    self.publish_acknowledged(now, source, what, id, qos)
                } else {
                    Ok(false)
                };
                taken.map(|taken| {
                    taken || self.keep_all(now, slot, source, publish, scratch, properties)
                })
            }
        };
        self.link_mut(bridge).rules.subscribe = rules;
        result
    }

    /// Puts a message with several copies aside, as the remote has sent it.
    fn keep_all(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        publish: &Publish<'_>,
        scratch: &mut [u8],
        properties: usize,
    ) -> bool {
        let ids = &mut scratch[properties..];
        // They are a part of what there is room for.
        let ids = copy_only(publish.properties, PropertyId::SubscriptionIdentifier, ids);
        let message = Message {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            properties: &scratch[..properties + ids.unwrap_or(0)],
            expiry_s: publish.properties.message_expiry(),
            payload: Payload::Here(publish.payload),
        };
        self.keep(now, slot, source, &message, publish, true)
    }

    /// Routes a copy for each rule, or none. `topics`: memory for their topics.
    pub(super) fn route_each(
        &mut self,
        now: Instant,
        each: &Each<'_>,
        topics: &mut [u8],
    ) -> Outcome {
        let Each { source, all, rules, .. } = *each;
        let reserve = match all.qos {
            Qos::AtMostOnce => Reserve::ForOthers,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Reserve::Nothing,
        };
        let mut need = Room::default();
        for rule in all.rules(rules) {
            let Ok(message) = all.copy(rule, topics) else { continue };
            if !self.plan_for(now, source, &message) || self.plan.wait {
                return Outcome::Parked;
            }
            if !self.plan.targets.is_empty() {
                need = need.and(Room::of(message.body_bytes(), self.plan.targets.len()));
            }
        }
        let mut refusal = None;
        if !self.queue.could_fit_all(need) {
            refusal = Some(DropReason::TooLarge);
        } else if need.records > 0 && !self.queue.fits_all(reserve, need) {
            let waits = all.qos != Qos::AtMostOnce || self.queue.can_squeeze(now);
            self.queue.press_now(waits);
            if waits {
                return Outcome::Parked;
            }
            refusal = Some(DropReason::QueueFull);
        }
        self.plan.surely = true;
        let outcome = self.take_each(now, each, topics, refusal);
        self.plan.surely = false;
        outcome
    }

    /// There is room for all copies, or `refusal` says why there is none.
    fn take_each(
        &mut self,
        now: Instant,
        each: &Each<'_>,
        topics: &mut [u8],
        refusal: Option<DropReason>,
    ) -> Outcome {
        let Each { source, owner, all, rules, packet_id } = *each;
        let mut lead: Option<RecordId> = None;
        let (mut said, mut taken) = (Reason::SUCCESS, 0_u32);
        for rule in all.rules(rules) {
            let message = match all.copy(rule, topics) {
                Ok(message) => message,
                Err(word) => {
                    let from = self.name_of(source.slot());
                    self.note_lost(word, "local", from, None, Some(text(all.topic)));
                    continue;
                }
            };
            // Nobody makes anybody wait now.
            let planned = self.plan_for(now, source, &message);
            let (body, targets) = (message.body_bytes(), self.plan.targets.len());
            let fits = targets == 0 || self.queue.fits(Reserve::Nothing, body, targets);
            if refusal.is_some() || !planned || !fits {
                let reason = refusal.unwrap_or(DropReason::QueueFull);
                self.drop_everywhere(message.topic, reason);
                continue;
            }
            self.plan.further = taken > 0;
            let outcome = self.take_in(now, source, &message, false);
            self.plan.further = false;
            self.passed(now, source, owner, &message, packet_id);
            taken += 1;
            let Outcome::Routed { reason, record } = outcome else { continue };
            if taken == 1 {
                said = reason;
            }
            lead = self.goes_with(lead, record);
        }
        if taken == 0 && refusal.is_some() {
            said = Reason::QUOTA_EXCEEDED;
        }
        Outcome::Routed { reason: said, record: lead }
    }

    /// A record joins those of its message that are not settled. The one that stands for all.
    fn goes_with(&mut self, lead: Option<RecordId>, record: Option<RecordId>) -> Option<RecordId> {
        let pool = &mut self.queue.pool;
        let open = |id: &RecordId| !pool.is_settled(*id);
        match (lead.filter(open), record.filter(open)) {
            (Some(lead), Some(record)) => {
                pool.follow(record, lead);
                Some(lead)
            }
            (lead, record) => lead.or(record),
        }
    }
}
