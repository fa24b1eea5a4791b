//! What was dropped: counted by destination and reason, with the topic of the last and the key that
//! decided, and told once a second at most. Costs nothing while nothing is dropped.

use super::outbox::DestId;
use super::{DropReason, Queue};
use crate::limits::QOS0_QUEUE_MAX;
use crate::note::{Note, Text, named_rule, text};

/// The key of a rule's quota.
const RULE_KEY: &str = "bridge.NAME.forward.N.max_messages";

/// The quota of a rule of its own.
#[derive(Clone, Debug)]
pub struct RuleQuota {
    /// As the configuration has it.
    pub name: String,
    pub messages: u64,
}

/// Drops that no line told of yet.
#[derive(Clone, Debug)]
pub(super) struct Dropped {
    dest: DestId,
    reason: DropReason,
    /// Whose quota decided.
    rule: Option<u8>,
    count: u64,
    topic: Option<Text>,
    /// Bytes of the last, where these decided.
    size: Option<u64>,
    limit: Option<u64>,
    /// `NAME` in it stands for the destination, `.N.` for the rule.
    key: &'static str,
}

impl Queue {
    /// Are there drops that no note told of yet?
    pub fn has_drops(&self) -> bool {
        !self.drops.is_empty()
    }

    /// Tells of the drops since the last report; `false` when there were none.
    pub fn report_drops(&mut self) -> bool {
        let any = self.has_drops();
        while !self.drops.is_empty() {
            let dropped = self.drops.remove(0);
            self.tell_of(dropped);
        }
        any
    }

    /// Tells of a destination's drops while it still has the name it had then.
    pub(super) fn tell_drops_of(&mut self, dest: DestId) {
        while let Some(at) = self.drops.iter().position(|drop| drop.dest == dest) {
            let dropped = self.drops.swap_remove(at);
            self.tell_of(dropped);
        }
    }

    pub fn count_drop(&mut self, dest: DestId, reason: DropReason, count: u64) {
        self.count_drop_of(dest, reason, count, None);
    }

    /// The same with the topic of the last of them.
    pub fn count_drop_of(
        &mut self,
        dest: DestId,
        reason: DropReason,
        count: u64,
        topic: Option<Text>,
    ) {
        let (limit, key) = self.bound_of(dest, reason);
        self.count(Dropped { dest, reason, rule: None, count, topic, size: None, limit, key });
    }

    /// One goes by the quota of its rule.
    pub fn count_rule_drop(&mut self, dest: DestId, rule: u8, topic: Option<Text>) {
        let (reason, key) = (DropReason::QueueFull, RULE_KEY);
        let limit = self.rule_quota(dest, rule).map(|quota| quota.messages);
        let rule = Some(rule);
        self.count(Dropped { dest, reason, rule, count: 1, topic, size: None, limit, key });
    }

    /// Drops a message whose packet is larger than its receiver takes; `key` sets that, if any.
    pub fn drop_too_large(
        &mut self,
        dest: DestId,
        index: u32,
        size: u64,
        limit: u64,
        key: &'static str,
    ) {
        let topic = self.topic_of_entry(index);
        self.give_up_sending(dest, index);
        let (reason, size, limit) = (DropReason::TooLarge, Some(size), Some(limit));
        self.count(Dropped { dest, reason, rule: None, count: 1, topic, size, limit, key });
    }

    fn count(&mut self, dropped: Dropped) {
        if dropped.count == 0 {
            return;
        }
        self.counters.drops += dropped.count;
        let (dest, reason, rule) = (dropped.dest, dropped.reason, dropped.rule);
        let same =
            |drop: &&mut Dropped| (drop.dest, drop.reason, drop.rule) == (dest, reason, rule);
        if let Some(known) = self.drops.iter_mut().find(same) {
            known.count += dropped.count;
            known.topic = dropped.topic.or(known.topic.take());
            known.size = dropped.size.or(known.size);
            return;
        }
        if let Err(dropped) = self.drops.push(dropped) {
            self.tell_of(dropped);
        }
    }

    fn rule_quota(&self, dest: DestId, rule: u8) -> Option<&RuleQuota> {
        self.outbox(dest).params.rule_quotas.get(usize::from(rule))?.as_ref()
    }

    /// What keeps a message from a destination that is full, by the quota of a rule or its own: the
    /// limit and its key.
    pub fn full_by(&self, dest: DestId, rule: Option<u8>) -> (Option<u64>, Option<Text>) {
        let (limit, key) = match rule {
            Some(rule) => (self.rule_quota(dest, rule).map(|quota| quota.messages), RULE_KEY),
            None => self.bound_of(dest, DropReason::QueueFull),
        };
        (limit, self.key_of(dest, rule, key))
    }

    fn key_of(&self, dest: DestId, rule: Option<u8>, key: &'static str) -> Option<Text> {
        let rule = rule.and_then(|rule| self.rule_quota(dest, rule));
        let rule = rule.map_or("N", |quota| quota.name.as_str());
        (!key.is_empty()).then(|| named_rule(key, &self.name(dest), rule))
    }

    /// The topic of a message whose bytes are in RAM, as far as a note holds it.
    pub fn topic_of_entry(&self, index: u32) -> Option<Text> {
        let record = self.entries[index].record?;
        let mut bytes = [0; 96];
        let length = usize::from(self.pool.head(record).topic_bytes).min(bytes.len());
        self.pool.read(record, 0, &mut bytes[..length]);
        let readable = match core::str::from_utf8(&bytes[..length]) {
            Ok(readable) => readable,
            // Cut within a character.
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
        };
        Some(text(readable))
    }

    /// The limit that a drop just now came of, and its key.
    fn bound_of(&self, dest: DestId, reason: DropReason) -> (Option<u64>, &'static str) {
        let outbox = self.outbox(dest);
        let params = &outbox.params;
        match reason {
            DropReason::SlowSubscriber => (Some(u64::from(QOS0_QUEUE_MAX)), ""),
            DropReason::Offline if !params.session => (None, "bridge.NAME.queue_qos0"),
            // The one that was dropped may be gone already.
            DropReason::QueueFull if outbox.pending.saturating_add(1) >= params.messages_max => {
                let key = if params.session {
                    "session.max_messages"
                } else {
                    "bridge.NAME.max_messages"
                };
                (Some(params.messages_max), key)
            }
            DropReason::QueueFull if outbox.stuck || outbox.chain.len >= params.slots_max => {
                let key = if params.session { "store.sessions_share" } else { "store.max_bytes" };
                (None, key)
            }
            DropReason::QueueFull if !self.is_free_above(8) => (None, "ring.bytes"),
            DropReason::QueueFull => {
                let key =
                    if params.session { "session.max_bytes" } else { "bridge.NAME.max_bytes" };
                (Some(params.bytes_max), key)
            }
            DropReason::Expired
            | DropReason::TooLarge
            | DropReason::Corrupt
            | DropReason::NoRule
            | DropReason::TopicEmpty
            | DropReason::TopicTooLong
            | DropReason::Offline
            | DropReason::SessionEnded
            | DropReason::Refused
            | DropReason::Loop
            | DropReason::Text
            | DropReason::NotAuthorized => (None, ""),
        }
    }

    fn tell_of(&mut self, dropped: Dropped) {
        let Dropped { dest, reason, rule, count, topic, size, limit, key } = dropped;
        let (destination, key) = (self.name(dest), self.key_of(dest, rule, key));
        let reason = reason.word();
        self.note(Note::Drop { reason, destination, count, topic, from: None, size, limit, key });
    }
}
