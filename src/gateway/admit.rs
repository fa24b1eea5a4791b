//! Room at the destinations of a message, before anything changes: who takes it, who loses
//! something for it by policy, who makes its publisher wait.
//!
//! What a policy drops is noted in the plan and happens only when the message is taken: one that
//! stays parked is tried again many times, and must neither drop nor count anything each time.
//! Only what has expired is dropped on the way: it would not be sent in any case.

use super::Gateway;
use super::ingest::{Message, Source};
use super::plan::{Loss, Target};
use super::share::Members;
use crate::bridge::rules::Rules;
use crate::broker::subs::{Match, PLAIN, PLAIN_OWN, Subscription};
use crate::config::{Overflow, RetainRule};
use crate::fit::{fit, millis};
use crate::limits::SWEEP_INTERVAL;
use crate::mqtt::Qos;
use crate::note::Note;
use crate::queue::outbox::DestId;
use crate::queue::trim::Scope;
use crate::queue::{DropReason, Refusal};
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// How often it is looked whether a bridge's back-pressure is over.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);

impl Gateway {
    /// `Err`: the disk fails, and one has no room without it.
    pub(super) fn plan_sessions(
        &mut self,
        source: Source,
        message: &Message<'_>,
    ) -> Result<(), ()> {
        let own = match source {
            Source::Client { session, .. } | Source::Will { session } => Some(session),
            Source::Link { .. } | Source::Own => None,
        };
        let first = fit::<u16, _>(self.links.len(), "bridges");
        let body = message.body_bytes();
        let target = |session, sub: &Subscription, way| Target {
            dest: DestId(first + session),
            qos: message.qos.min(sub.qos),
            // A live message's RETAIN is passed on only when asked for [MQTT-3.3.1-12].
            retain: message.retain && sub.retain_as_published,
            stream: 0,
            rule: way,
            conflate: false,
            hold: true,
        };
        let Self { plan, subs, queue, sessions, access, .. } = self;
        let members = Members { queue, sessions, access, first };
        subs.matches(message.topic, &mut |found| match found {
            Match::Own(session, sub) if sub.no_local && own == Some(session) => {}
            Match::Own(session, sub) => {
                let way = if own == Some(session) { PLAIN_OWN } else { PLAIN };
                plan.add(target(session, sub, way));
            }
            Match::Group(group) => {
                if let Some(choice) = members.choose(&group, message.topic, message.qos, body, None)
                {
                    let target = target(choice.session, &choice.sub, group.way());
                    plan.add_shared(choice.turn, target);
                }
            }
        });
        let may_wait = matches!(source, Source::Client { .. } | Source::Link { .. });
        let mut at = 0;
        while at < self.plan.targets.len() {
            let Target { dest, qos, .. } = self.plan.targets[at];
            let may = self.may_be_sent(dest, message.topic);
            if !may {
                self.denied(dest.0 - first, "receive", message.topic);
            }
            if may && self.admit_session(dest, qos, body, may_wait)? {
                at += 1;
            } else {
                self.plan.targets.swap_remove(at);
            }
        }
        Ok(())
    }

    /// A session never blocks anyone: at its quota its oldest goes, and what is in flight stays.
    /// But for a disk that fails: whoever sends waits then, and nothing that is accepted goes.
    fn admit_session(
        &mut self,
        dest: DestId,
        qos: Qos,
        body: usize,
        may_wait: bool,
    ) -> Result<bool, ()> {
        let session = dest.0 - fit::<u16, _>(self.links.len(), "bridges");
        let connected = self.sessions[session].conn.is_some();
        if qos == Qos::AtMostOnce {
            if !connected {
                return Ok(false);
            }
            if self.queue.admit(dest, qos, body).is_err() {
                if self.queue.may_wait(dest, self.now) && !self.plan.surely {
                    self.plan.wait = true;
                } else {
                    self.plan.lose(dest, Loss::Newest(DropReason::SlowSubscriber));
                }
                return Ok(false);
            }
            return Ok(true);
        }
        if !connected && self.sessions[session].expiry == Duration::ZERO {
            return Ok(false);
        }
        if let Err(refusal) = self.admit(dest, None, qos, body) {
            if may_wait && refusal == Refusal::Short && self.queue.waits_for_disk(dest) {
                return if self.plan.surely { Ok(true) } else { Err(()) };
            }
            if !self.queue.can_drop(dest, Scope::All) {
                self.plan.lose(dest, Loss::Newest(DropReason::QueueFull));
                return Ok(false);
            }
            self.plan.lose(dest, Loss::Oldest(Scope::All));
        }
        Ok(true)
    }

    /// Adds the bridges that forward it. `Ok(true)`: one refused it by its policy. `Err`: one
    /// blocks.
    pub(super) fn plan_bridges(
        &mut self,
        now: Instant,
        source: Source,
        message: &Message<'_>,
    ) -> Result<bool, ()> {
        let body = message.body_bytes();
        let mut refused = false;
        for index in 0..self.links.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let bridge = BridgeId(index);
            // What came from a remote never goes back to it.
            if matches!(source, Source::Link { bridge: from, .. } if from == bridge) {
                continue;
            }
            let Some(rule) = self.link(bridge).rules.forwards(message.topic) else { continue };
            let dest = Self::bridge_dest(bridge);
            if self.circle.is_known() && self.comes_back(now, source, bridge, message) {
                self.plan.lose(dest, Loss::Newest(DropReason::Loop));
                continue;
            }
            let forward = &self.links[usize::from(index)].rules.forward[usize::from(rule)];
            let qos = forward.qos.unwrap_or(message.qos);
            let retain = match forward.retain {
                RetainRule::Keep => message.retain,
                RetainRule::Always => true,
                RetainRule::Never => false,
            };
            let conflate = forward.conflate;
            if qos == Qos::AtMostOnce && !self.config.bridges[usize::from(index)].queue_qos0 {
                let reason = if !self.link(bridge).is_up() {
                    Some(DropReason::Offline)
                } else if self.queue.admit(dest, qos, body).is_err() {
                    if self.queue.may_wait(dest, self.now) && !self.plan.surely {
                        self.plan.wait = true;
                        continue;
                    }
                    Some(DropReason::SlowSubscriber)
                } else {
                    None
                };
                if let Some(reason) = reason {
                    self.plan.lose(dest, Loss::Newest(reason));
                    continue;
                }
            } else {
                match self.admit_bridge(now, bridge, rule, message.topic, qos, body) {
                    Admitted::Yes => {}
                    Admitted::Dropped => {
                        refused = true;
                        continue;
                    }
                    Admitted::Blocked { .. } if self.plan.surely => {}
                    // At QoS 0 nobody can be made to wait.
                    Admitted::Blocked { by_rule } if message.qos == Qos::AtMostOnce => {
                        let newest = Loss::Newest(DropReason::QueueFull);
                        let loss = if by_rule { Loss::NewestOfRule(rule) } else { newest };
                        self.plan.lose(dest, loss);
                        continue;
                    }
                    Admitted::Blocked { .. } => return Err(()),
                }
            }
            let queue = &self.queue;
            let lane = self.links[usize::from(index)].rules.stream(
                rule,
                message.topic,
                now,
                &mut |stream| queue.is_stream_busy(dest, stream),
            );
            if lane.fresh {
                self.lend_stream(bridge, lane.stream, rule);
            }
            self.plan.add(Target {
                dest,
                qos,
                retain,
                stream: lane.stream,
                rule,
                conflate,
                hold: message.qos != Qos::AtMostOnce,
            });
        }
        Ok(refused)
    }

    pub(super) fn lend_stream(&mut self, bridge: BridgeId, stream: u8, rule: u8) {
        let forward = &self.link(bridge).rules.forward[usize::from(rule)];
        let lane = crate::bridge::rules::lane(forward.priority);
        let paced = forward.rate.is_some();
        self.queue.set_stream(Self::bridge_dest(bridge), stream, lane, paced);
    }

    /// Room at a destination. At its quota, what has expired there goes first.
    fn admit(
        &mut self,
        dest: DestId,
        bridge: Option<BridgeId>,
        qos: Qos,
        body: usize,
    ) -> Result<(), Refusal> {
        // Here QoS 0 queues with the others.
        let qos = qos.max(Qos::AtLeastOnce);
        let refusal = match self.queue.admit(dest, qos, body) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        if !self.shed_expired(dest, bridge) {
            return Err(refusal);
        }
        self.queue.admit(dest, qos, body)
    }

    /// Drops what has expired at the head of a destination's streams; `true` when something had.
    /// What is on disk is looked at in the next flush, at most once a `SWEEP_INTERVAL`; whoever is
    /// parked asks again then, for time passes without any other change.
    fn shed_expired(&mut self, dest: DestId, bridge: Option<BridgeId>) -> bool {
        let now = self.now;
        let Self { links, queue, .. } = self;
        let forward = bridge.map(|bridge| &links[usize::from(bridge.0)].rules.forward);
        let max_age = |rule: u8| forward.and_then(|rules| rules.get(usize::from(rule))?.max_age);
        let mut shed = false;
        while let Some(index) = queue.expired_head(dest, now, max_age) {
            queue.drop_entry(dest, index, DropReason::Expired);
            shed = true;
        }
        queue.sweep(dest, now);
        self.shed_at = self.shed_at.clamp(now, now.plus(SWEEP_INTERVAL));
        shed
    }

    /// Room at a bridge, by its quota and the rule's, and what their policies say without.
    fn admit_bridge(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        rule: u8,
        name: &str,
        qos: Qos,
        body: usize,
    ) -> Admitted {
        let dest = Self::bridge_dest(bridge);
        let policy = self.config.bridges[usize::from(bridge.0)].overflow;
        let mut loss = None;
        let mut full = self.full_scope(now, bridge, rule, name);
        if full.is_some() && self.shed_expired(dest, Some(bridge)) {
            full = self.full_scope(now, bridge, rule, name);
        }
        if let Some(scope) = full {
            let forward = &self.links[usize::from(bridge.0)].rules.forward[usize::from(rule)];
            let paced = forward.rate.is_some();
            let default = if paced { Overflow::DropOldest } else { policy };
            match forward.overflow.unwrap_or(default) {
                Overflow::Block => {
                    self.blocked(now, dest, Some(rule));
                    return Admitted::Blocked { by_rule: true };
                }
                Overflow::DropOldest if self.queue.can_drop(dest, scope) => {
                    loss = Some(Loss::Oldest(scope));
                }
                // All of it is in flight: as good as sent.
                Overflow::DropOldest => {}
                Overflow::DropNewest => {
                    self.plan.lose(dest, Loss::NewestOfRule(rule));
                    return Admitted::Dropped;
                }
            }
        }
        let admitted = match (self.admit(dest, Some(bridge), qos, body), policy) {
            (Ok(()), _) => {
                self.unblocked(now, dest);
                Admitted::Yes
            }
            // The rule's loss makes the room that the bridge lacks.
            (Err(_), _) if loss.is_some() => Admitted::Yes,
            // Nothing to tell of, unless it is still so after the commit.
            (Err(Refusal::Unsure), Overflow::Block) => return Admitted::Blocked { by_rule: false },
            (Err(_), Overflow::Block) => {
                self.blocked(now, dest, None);
                return Admitted::Blocked { by_rule: false };
            }
            (Err(_), Overflow::DropOldest) if self.queue.can_drop(dest, Scope::All) => {
                loss = Some(Loss::Oldest(Scope::All));
                Admitted::Yes
            }
            // A quota smaller than the window holds up nothing that can be sent at once.
            (Err(Refusal::Quota), Overflow::DropOldest) => Admitted::Yes,
            (Err(_), Overflow::DropOldest | Overflow::DropNewest) => {
                loss = Some(Loss::Newest(DropReason::QueueFull));
                Admitted::Dropped
            }
        };
        if let Some(loss) = loss {
            self.plan.lose(dest, loss);
        }
        admitted
    }

    /// The rule's own quota: whose oldest message has to go, when it is used up.
    fn full_scope(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        rule: u8,
        name: &str,
    ) -> Option<Scope> {
        let dest = Self::bridge_dest(bridge);
        let forward = &self.links[usize::from(bridge.0)].rules.forward[usize::from(rule)];
        let max = forward.max_messages?;
        if forward.conflate {
            return None;
        }
        if forward.rate.is_none() {
            return (self.queue.rule_count(dest, rule) >= max).then_some(Scope::Rule(rule));
        }
        let Self { links, queue, .. } = self;
        let rules = &mut links[usize::from(bridge.0)].rules;
        let busy = &mut |stream| queue.is_stream_busy(dest, stream);
        let lane = rules.stream(rule, name, now, busy);
        if lane.fresh {
            self.lend_stream(bridge, lane.stream, rule);
        }
        let full = self.queue.stream_waiting(dest, lane.stream) >= max;
        let crowd = Rules::is_shared(lane.stream);
        let scope = if crowd { Scope::Crowd(lane.stream) } else { Scope::Stream(lane.stream) };
        full.then_some(scope)
    }

    /// `rule`: by its quota.
    fn blocked(&mut self, now: Instant, dest: DestId, rule: Option<u8>) {
        if self.queue.set_blocked(dest, Some(now)).is_none() {
            let destination = self.queue.name(dest);
            let reason = if rule.is_some() { "rule_quota" } else { "quota" };
            let (limit, key) = self.queue.full_by(dest, rule);
            let backlog = self.queue.outbox(dest).pending;
            self.note(Note::BackpressureOn { destination, reason, backlog, limit, key });
        }
        self.due_by(now.plus(PRESSURE_INTERVAL));
    }

    /// Back-pressure ends with the next message that finds room, or here: whoever had to wait may
    /// be gone. Says when to look again.
    pub(super) fn expire_pressure(&mut self, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        for index in 0..self.links.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let dest = Self::bridge_dest(BridgeId(index));
            let outbox = self.queue.outbox(dest);
            if outbox.blocked_since.is_none() {
                continue;
            }
            let again = outbox.blocked_at.plus(PRESSURE_INTERVAL);
            if self.queue.admit(dest, Qos::AtLeastOnce, 0).is_ok() {
                if now >= again.plus(PRESSURE_INTERVAL) {
                    self.unblocked(now, dest);
                    continue;
                }
                // Whoever still waits asks once more before then.
                self.shed_at = self.shed_at.min(again);
            }
            next = now.plus(PRESSURE_INTERVAL);
        }
        next
    }

    pub(super) fn unblocked(&mut self, now: Instant, dest: DestId) {
        if self.queue.outbox(dest).blocked_since.is_none() {
            return;
        }
        if let Some(since) = self.queue.set_blocked(dest, None) {
            let destination = self.queue.name(dest);
            let duration_ms = millis(now.since(since));
            self.note(Note::BackpressureOff { destination, duration_ms });
        }
    }
}

enum Admitted {
    Yes,
    /// Not taken, by the policy.
    Dropped,
    Blocked {
        by_rule: bool,
    },
}
