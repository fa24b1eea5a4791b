//! What was dropped: counted by destination and reason, with the topic of the last and the key that
//! decided, and told once a second at most. Costs nothing while nothing is dropped.

use super::outbox::DestId;
use super::{DropReason, Queue};
use crate::limits::QOS0_QUEUE_MAX;
use crate::note::{Note, Text, text};

/// Drops that no line told of yet.
#[derive(Clone, Debug)]
pub(super) struct Dropped {
    dest: DestId,
    reason: DropReason,
    count: u64,
    topic: Option<Text>,
    limit: Option<u64>,
    /// `NAME` in it stands for the destination.
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
        if count == 0 {
            return;
        }
        self.counters.drops += count;
        let known = self.drops.iter_mut().find(|drop| drop.dest == dest && drop.reason == reason);
        if let Some(known) = known {
            known.count += count;
            if topic.is_some() {
                known.topic = topic;
            }
            return;
        }
        let (limit, key) = self.bound_of(dest, reason);
        let dropped = Dropped { dest, reason, count, topic, limit, key };
        if let Err(dropped) = self.drops.push(dropped) {
            self.tell_of(dropped);
        }
    }

    /// The topic of a message whose bytes are in RAM.
    pub(super) fn topic_of_entry(&self, index: u32) -> Option<Text> {
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
            DropReason::QueueFull if self.rule_drops => {
                (None, "bridge.NAME.forward.N.max_messages")
            }
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
        let Dropped { dest, reason, count, topic, limit, key } = dropped;
        let destination = self.name(dest);
        let key = (!key.is_empty()).then(|| crate::note::named(key, &destination));
        let reason = reason.word();
        let note =
            Note::Drop { reason, destination, count, topic, from: None, size: None, limit, key };
        self.note(note);
    }
}
