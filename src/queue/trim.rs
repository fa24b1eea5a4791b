//! The oldest messages that have to make room: dropped at once when they wait in RAM, in the next
//! flush when they are on disk only. What is in flight is never touched.
//!
//! A scope says whose oldest: the destination's, one stream's (a paced topic) or one rule's. The
//! disk is read from its oldest slot on, a bounded number of slots a turn.

use super::crowd::Crowd;
use super::entry::{Chain, Place, State};
use super::outbox::{DestId, Outbox};
use super::pool::{NONE, widen};
use super::record::LogHead;
use super::refill::Classify;
use super::store::{SpillStore, StoreError};
use super::walk::Walk;
use super::{DropReason, Queue};
use crate::fit::wide;
use crate::limits::SWEEP_INTERVAL;
use crate::note::text;
use crate::planted::{Bug, planted};
use crate::vocab::Instant;
use core::time::Duration;

/// Whose oldest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Stream(u8),
    /// A stream that topics share: of the topic that has most in it.
    Crowd(u8),
    Rule(u8),
}

/// Messages of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// Those with an entry: waiting in RAM, staged or in flight.
    pub ram: u32,
    /// Those on disk only, as far as their slots have been read since the restart.
    pub disk: u32,
    /// Oldest ones to be dropped from the disk in the next flush.
    pub trim: u32,
}

/// Slots of one destination that one turn reads to drop from.
const SLOTS_PER_TURN: usize = 32;

impl Outbox {
    /// Is something on disk to be dropped in the next flush?
    pub(super) fn wants_trim(&self) -> bool {
        self.trim > 0 || self.trim_scoped > 0
    }

    /// Has the next flush to look at what is on disk?
    pub(super) fn wants_search(&self) -> bool {
        self.wants_trim() || self.sweep
    }

    fn count_rule(&mut self, rule: u8, ram: i8, disk: i8) {
        let Some(count) = self.rules.get_mut(usize::from(rule)) else { return };
        let step = |count: u32, by: i8| count.saturating_add_signed(i32::from(by));
        count.ram = step(count.ram, ram);
        count.disk = step(count.disk, disk);
    }

    /// An entry of this rule came into being.
    pub(super) fn rule_enters(&mut self, rule: u8) {
        self.count_rule(rule, 1, 0);
    }

    /// An entry of this rule is settled.
    pub(super) fn rule_leaves(&mut self, rule: u8) {
        self.count_rule(rule, -1, 0);
    }

    /// A message of this rule is on disk only from here on; counted if its slot is `known`.
    pub(super) fn rule_to_disk(&mut self, rule: u8, known: bool) {
        self.count_rule(rule, -1, i8::from(known));
    }

    /// A slot that was not read before has a message of this rule.
    pub(super) fn rule_found(&mut self, rule: u8) {
        self.count_rule(rule, 0, 1);
    }

    /// A message of this rule is not on disk only any more.
    pub(super) fn rule_from_disk(&mut self, rule: u8) {
        self.count_rule(rule, 0, -1);
    }

    pub(super) fn forget_trims(&mut self) {
        self.trim = 0;
        self.trim_scoped = 0;
        for stream in &mut self.streams {
            stream.trim = 0;
            stream.crowd = false;
        }
        for rule in &mut self.rules {
            rule.trim = 0;
        }
    }

    /// The scope by which a stored message of this stream and rule has to go, if it has to.
    fn trim_of(&mut self, class: Option<(u8, u8)>) -> Option<&mut u32> {
        if self.trim > 0 {
            return Some(&mut self.trim);
        }
        let (stream, rule) = class.filter(|_| self.trim_scoped > 0)?;
        let scopes = [
            self.streams.get_mut(usize::from(stream)).map(|stream| &mut stream.trim),
            self.rules.get_mut(usize::from(rule)).map(|rule| &mut rule.trim),
        ];
        let wanted = scopes.into_iter().flatten().find(|trim| **trim > 0)?;
        self.trim_scoped = self.trim_scoped.saturating_sub(1);
        Some(wanted)
    }
}

impl Queue {
    /// Messages of a rule that are not settled, in flight or waiting anywhere.
    pub fn rule_count(&self, dest: DestId, rule: u8) -> u32 {
        let count = self.outbox(dest).rules.get(usize::from(rule)).copied().unwrap_or_default();
        count.ram.saturating_add(count.disk)
    }

    /// Messages of a stream that wait, staged ones included.
    pub fn stream_waiting(&self, dest: DestId, stream: u8) -> u32 {
        let outbox = self.outbox(dest);
        let mut count = self.stream_count(dest, stream);
        if outbox.has_gap(stream) {
            let mut at = outbox.custody.head;
            while at != NONE {
                let entry = &self.entries[at];
                let staged = entry.state == State::Waiting && !entry.flags.listed;
                count += u32::from(staged && entry.stream == stream);
                at = self.entries.next(Chain::Custody, at);
            }
        }
        count
    }

    /// Is there a message in this scope that is not in flight?
    pub fn can_drop(&self, dest: DestId, scope: Scope) -> bool {
        let outbox = self.outbox(dest);
        let stored = outbox.has_stored();
        match scope {
            Scope::All => outbox.active != 0 || stored,
            Scope::Stream(stream) | Scope::Crowd(stream) => {
                outbox.active >> stream & 1 == 1 || outbox.has_gap(stream)
            }
            Scope::Rule(rule) => self.oldest_of_rule(dest, rule).is_some() || stored,
        }
    }

    /// Drops the oldest message of a scope that is not in flight: at once when it waits in RAM,
    /// else in the next flush.
    pub fn drop_oldest(&mut self, dest: DestId, scope: Scope, reason: DropReason) {
        let wire = self.outbox(dest).flight.head;
        if planted(Bug::DropOldestInFlight) && wire != NONE {
            return self.drop_entry(dest, wire, reason);
        }
        if let Some(index) = self.oldest_in_ram(dest, scope) {
            if scope == Scope::All {
                return self.drop_entry(dest, index, reason);
            }
            let (rule, topic) = (self.entries[index].rule, self.topic_of_entry(index));
            self.give_up_sending(dest, index);
            return self.count_rule_drop(dest, rule, topic);
        }
        let outbox = self.outbox_mut(dest);
        let stored = outbox.has_stored();
        match scope {
            Scope::All => outbox.trim += u32::from(stored),
            Scope::Stream(stream) | Scope::Crowd(stream) if outbox.has_gap(stream) => {
                let crowd = matches!(scope, Scope::Crowd(_));
                let stream = &mut outbox.streams[usize::from(stream)];
                stream.trim += 1;
                stream.crowd = crowd;
                outbox.trim_scoped += 1;
            }
            Scope::Rule(rule) if stored => {
                if let Some(count) = outbox.rules.get_mut(usize::from(rule)) {
                    count.trim += 1;
                    outbox.trim_scoped += 1;
                }
            }
            Scope::Stream(_) | Scope::Crowd(_) | Scope::Rule(_) => {}
        }
    }

    /// The oldest message of a scope, if it waits in RAM: an older one on disk goes before it.
    pub(super) fn oldest_in_ram(&self, dest: DestId, scope: Scope) -> Option<u32> {
        let outbox = self.outbox(dest);
        match scope {
            Scope::All => self
                .oldest_waiting(dest)
                .filter(|index| !outbox.has_stored() || self.entries[*index].place.is_some()),
            Scope::Stream(stream) => {
                let head = outbox.streams[usize::from(stream)].list.head;
                (head != NONE).then_some(head)
            }
            Scope::Crowd(stream) => self.oldest_of_crowd(dest, stream),
            Scope::Rule(rule) => self.oldest_of_rule(dest, rule),
        }
    }

    /// The oldest message at the head of a stream in RAM.
    fn oldest_waiting(&self, dest: DestId) -> Option<u32> {
        let outbox = self.outbox(dest);
        let heads = outbox.streams.iter().map(|stream| stream.list.head);
        heads.filter(|head| *head != NONE).min_by_key(|head| self.entries[*head].seq)
    }

    /// The oldest message of a rule that waits in RAM before what is on disk of its stream.
    fn oldest_of_rule(&self, dest: DestId, rule: u8) -> Option<u32> {
        let outbox = self.outbox(dest);
        let mut oldest: Option<u32> = None;
        let mut active = outbox.active;
        while active != 0 {
            let stream = widen(active.trailing_zeros());
            active &= active - 1;
            let mut at = outbox.streams[stream].list.head;
            while at != NONE && self.entries[at].rule != rule {
                at = self.entries.next(Chain::Line, at);
            }
            let older = |best: u32| self.entries[best].seq < self.entries[at].seq;
            if at != NONE && !oldest.is_some_and(older) {
                oldest = Some(at);
            }
        }
        oldest
    }

    /// Drops the oldest messages of destinations that are over a quota and have them on disk.
    pub(crate) fn trim(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        for dest in self.dests() {
            if !self.outbox(dest).used {
                continue;
            }
            if core::mem::take(&mut self.outbox_mut(dest).sweep) {
                self.sweep_stored(dest, now, store, classify)?;
            }
            if !self.outbox(dest).wants_trim() {
                continue;
            }
            let before = self.outbox(dest).pending;
            let mut dropped = 0;
            let mut slot = self.outbox(dest).chain.head;
            let mut read = 0;
            let from = core::mem::take(&mut self.outbox_mut(dest).trim_from);
            while slot != NONE && self.log.slots[widen(slot)].first_seq < from {
                slot = self.slot_after(slot);
            }
            let mut crowd = self.count_crowd(dest, slot, SLOTS_PER_TURN, store, classify)?;
            while slot != NONE && self.outbox(dest).wants_trim() && read < SLOTS_PER_TURN {
                let next = self.slot_after(slot);
                if self.log.slots[widen(slot)].streams != 0 {
                    read += 1;
                    match self.trim_slot(dest, slot, &mut crowd, store, classify) {
                        Ok(count) => dropped += count,
                        Err(error) => {
                            self.count_drop(dest, DropReason::QueueFull, dropped);
                            return Err(error);
                        }
                    }
                }
                slot = next;
            }
            if slot == NONE {
                dropped += self.trim_staged(dest, &mut crowd);
            } else if self.outbox(dest).wants_trim() {
                self.outbox_mut(dest).trim_from = self.log.slots[widen(slot)].first_seq;
            }
            self.count_drop(dest, DropReason::QueueFull, dropped);
            let outbox = self.outbox_mut(dest);
            if outbox.pending < before {
                // There may be a slot now, or there is more to give up.
                outbox.stuck = false;
            } else if outbox.stuck && outbox.params.session && !outbox.wants_trim() {
                self.release_holds(dest);
            }
        }
        Ok(())
    }

    /// A session has no slot for what is in flight: that stays, and nobody waits for it.
    pub(super) fn release_holds(&mut self, dest: DestId) {
        let mut at = self.outbox(dest).custody.head;
        while at != NONE {
            self.unhold(dest, at);
            at = self.entries.next(Chain::Custody, at);
        }
        self.outbox_mut(dest).custody_held = 0;
    }

    /// The next slot of a chain that begins with a record.
    pub(super) fn slot_after(&self, slot: u32) -> u32 {
        let mut next = self.log.slots[widen(slot)].next;
        while next != NONE && self.log.slots[widen(next)].continuation {
            next = self.log.slots[widen(next)].next;
        }
        next
    }

    /// Nothing on disk is left to be dropped: what waits in RAM is next, then nothing.
    fn trim_staged(&mut self, dest: DestId, crowd: &mut Option<Crowd>) -> u64 {
        let mut dropped = 0;
        while self.outbox(dest).trim > 0 {
            let Some(index) = self.oldest_waiting(dest) else { break };
            self.outbox_mut(dest).trim -= 1;
            self.settle(dest, index);
            dropped += 1;
        }
        let mut at = self.outbox(dest).custody.head;
        while at != NONE && self.outbox(dest).wants_trim() {
            let next = self.entries.next(Chain::Custody, at);
            let entry = self.entries[at];
            let class = Some((entry.stream, entry.rule));
            let of_all = self.outbox(dest).trim > 0;
            if entry.state == State::Waiting
                && !self.is_staged_spared(dest, crowd, at)
                && let Some(trim) = self.outbox_mut(dest).trim_of(class)
            {
                *trim -= 1;
                let topic = self.topic_of_entry(at);
                self.settle(dest, at);
                if of_all {
                    dropped += 1;
                } else {
                    self.count_rule_drop(dest, entry.rule, topic);
                }
            }
            at = next;
        }
        self.outbox_mut(dest).forget_trims();
        dropped
    }

    /// How many went for the quota of all; those for a rule's are counted.
    fn trim_slot(
        &mut self,
        dest: DestId,
        slot: u32,
        crowd: &mut Option<Crowd>,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<u64, StoreError> {
        self.read_slot(slot, store)?;
        if !self.log.slots[widen(slot)].known {
            self.learn(dest, slot, classify);
            if self.log.slots[widen(slot)].owner != dest.0 {
                return Ok(0);
            }
        }
        let known = self.log.slots[widen(slot)].known;
        let mut walk = Walk::new(self.log.slots[widen(slot)].count);
        let mut dropped = 0;
        let mut left = false;
        while self.outbox(dest).wants_trim() {
            let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) else {
                // Records that cannot be found make room as well, and are told of there.
                let mended = !walk.is_complete() && self.mend(dest, slot);
                if !mended && !left && self.log.slots[widen(slot)].owner == dest.0 {
                    self.log.slots[widen(slot)].streams = 0;
                }
                break;
            };
            if self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                continue;
            }
            let class = self.classified(dest, at, &head, classify);
            if self.is_spared(dest, crowd, class, at, &head) {
                left = true;
                continue;
            }
            let of_all = self.outbox(dest).trim > 0;
            let Some(trim) = self.outbox_mut(dest).trim_of(class) else {
                left = true;
                continue;
            };
            *trim -= 1;
            let topic = self.topic_at(at, &head).and_then(|topic| str::from_utf8(topic).ok());
            let topic = topic.map(text);
            self.drop_stored(dest, Place { slot, ordinal }, &head, class.filter(|_| known));
            match class.filter(|_| !of_all) {
                Some((_, rule)) => self.count_rule_drop(dest, rule, topic),
                None => dropped += 1,
            }
            if self.log.slots[widen(slot)].owner != dest.0 {
                break;
            }
        }
        Ok(dropped)
    }

    /// Settles a record that is on disk only and goes unsent; `class` as `settle_stored` has it.
    fn drop_stored(&mut self, dest: DestId, place: Place, head: &LogHead, class: Option<(u8, u8)>) {
        let outbox = self.outbox_mut(dest);
        let bytes = wide(head.body_bytes());
        outbox.pending_bytes = outbox.pending_bytes.saturating_sub(bytes);
        self.settle_stored(dest, place, class);
    }

    /// The oldest message of a stream in RAM that is not worth sending any more.
    pub fn expired_head(
        &self,
        dest: DestId,
        now: Instant,
        max_age: impl Fn(u8) -> Option<Duration>,
    ) -> Option<u32> {
        let heads = self.outbox(dest).streams.iter().map(|stream| stream.list.head);
        heads.filter(|head| *head != NONE).find(|head| {
            let entry = &self.entries[*head];
            let expiry = entry.record.and_then(|record| self.pool.head(record).expiry_s);
            is_expired(now.since(entry.arrival), expiry, max_age(entry.rule))
        })
    }

    /// Asks for the disk to be searched for expired messages.
    pub fn sweep(&mut self, dest: DestId, now: Instant) {
        let outbox = self.outbox_mut(dest);
        let stored = outbox.has_stored();
        if stored && now >= outbox.sweep_at {
            outbox.sweep = true;
            outbox.sweep_at = now.plus(SWEEP_INTERVAL);
        }
    }

    /// Drops what has expired from the oldest slots, up to the first that has nothing of the kind.
    fn sweep_stored(
        &mut self,
        dest: DestId,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let mut slot = self.outbox(dest).chain.head;
        let mut read = 0;
        let mut total = 0;
        while slot != NONE {
            let next = self.slot_after(slot);
            if self.log.slots[widen(slot)].streams != 0 {
                if read == SLOTS_PER_TURN {
                    self.outbox_mut(dest).sweep = true;
                    break;
                }
                read += 1;
                let dropped = self.sweep_slot(dest, slot, now, store, classify)?;
                if dropped == 0 {
                    break;
                }
                total += dropped;
            }
            slot = next;
        }
        if total > 0 {
            self.changes += 1;
        }
        self.count_drop(dest, DropReason::Expired, total);
        Ok(())
    }

    fn sweep_slot(
        &mut self,
        dest: DestId,
        slot: u32,
        now: Instant,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<u64, StoreError> {
        self.read_slot(slot, store)?;
        let known = self.log.slots[widen(slot)].known;
        let mut walk = Walk::new(self.log.slots[widen(slot)].count);
        let mut dropped = 0;
        while let Some((ordinal, at, head)) = walk.step(&self.slot_buffer) {
            if self.log.slots[widen(slot)].taken_bits.get(ordinal) {
                continue;
            }
            let class = self.classified(dest, at, &head, classify);
            let max_age = class.and_then(|(_, rule)| classify.max_age(dest, rule));
            let age = now.since(head.arrival(now));
            if !is_expired(age, head.expiry_s, max_age) {
                continue;
            }
            self.drop_stored(dest, Place { slot, ordinal }, &head, class.filter(|_| known));
            dropped += 1;
            if self.log.slots[widen(slot)].owner != dest.0 {
                break;
            }
        }
        Ok(dropped)
    }
}

/// Older than its publisher's expiry interval [MQTT-3.3.2-5] or than the rule allows?
fn is_expired(age: Duration, expiry_s: Option<u32>, max_age: Option<Duration>) -> bool {
    expiry_s.is_some_and(|expiry| age.as_secs() >= u64::from(expiry))
        || max_age.is_some_and(|max| age > max)
}
