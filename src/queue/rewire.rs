//! A destination changes while the gateway runs: its rules are others, it is not configured any
//! more, or is configured again. What it has stays in its order, with its identifiers and its
//! custody; only which stream and which rule a message belongs to is found out anew, as after a
//! restart: at once for what has its bytes in RAM, when it is read for what is on disk only.

use super::entry::{Chain, List, NO_RULE_YET, State};
use super::log::{ORPHAN, Slot};
use super::outbox::{Conflated, DestId, Outbox, Params, Stream, Up, places};
use super::pool::{NONE, widen};
use super::refill::Classify;
use super::trim::RuleCount;
use super::{BoxSetup, DropReason, Queue};
use crate::fit::fit;
use crate::limits::CONFLATED_TOPICS_MAX;
use crate::vocab::Instant;
use core::time::Duration;

/// Stream of what is in the window and has no rule yet: no lane but the normal one is sure.
const STREAM_UNSURE: u8 = 1;

impl Queue {
    /// Other rules, another quota, another window. The destination's link is down.
    pub fn rewire(
        &mut self,
        dest: DestId,
        params: Params,
        room: &BoxSetup,
        classify: &mut impl Classify,
    ) {
        debug_assert!(self.outbox(dest).up == Up::Down, "nothing is on its way meanwhile");
        let named = core::mem::take(&mut self.outbox_mut(dest).params.rules);
        self.forget_deferred(dest);
        let waiting = self.waiting(dest);
        let window = self.window_of(dest);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.enlarge(room);
        outbox.rules = vec![RuleCount::default(); params.rules.len()].into_boxed_slice();
        outbox.window = params.window;
        outbox.params = params;
        self.lay_wire(dest);
        for index in window {
            let class = self.class_of(dest, index, &named, classify);
            let (stream, rule) = class.unwrap_or((STREAM_UNSURE, NO_RULE_YET));
            self.belongs(dest, index, stream, rule);
        }
        let mut unwanted = Vec::new();
        for index in waiting {
            let class = self.class_of(dest, index, &named, classify);
            let (stream, rule) = class.unwrap_or((STREAM_UNSURE, NO_RULE_YET));
            self.belongs(dest, index, stream, rule);
            self.entries[index].conflate = u16::MAX;
            if class.is_none() {
                self.entries[index].flags.listed = false;
                unwanted.push(index);
            } else if self.entries[index].flags.listed {
                let outbox = &mut self.boxes[usize::from(dest.0)];
                let list = &mut outbox.streams[usize::from(stream)].list;
                self.entries.push_back(list, Chain::Line, index);
                outbox.active |= 1 << stream;
            }
        }
        self.forget_streams(dest);
        for index in unwanted {
            self.drop_entry(dest, index, DropReason::NoRule);
        }
        self.outbox_mut(dest).refill_failed_at = u64::MAX;
        self.changes += 1;
    }

    /// What waits in RAM, listed or staged, in the order of its sequence.
    pub(super) fn waiting(&self, dest: DestId) -> Vec<u32> {
        let outbox = self.outbox(dest);
        let mut waiting = Vec::new();
        for stream in &outbox.streams {
            waiting.extend(self.in_list(&stream.list, Chain::Line));
        }
        let staged = |index: &u32| {
            self.entries[*index].state == State::Waiting && !self.entries[*index].flags.listed
        };
        waiting.extend(self.in_list(&outbox.custody, Chain::Custody).filter(staged));
        waiting.sort_unstable_by_key(|index| self.entries[*index].seq);
        waiting
    }

    pub(super) fn window_of(&self, dest: DestId) -> Vec<u32> {
        let outbox = self.outbox(dest);
        let flight = self.in_list(&outbox.flight, Chain::Line);
        flight.chain(self.in_list(&outbox.release, Chain::Line)).collect()
    }

    fn in_list(&self, list: &List, chain: Chain) -> impl Iterator<Item = u32> {
        let known = |at: u32| (at != NONE).then_some(at);
        core::iter::successors(known(list.head), move |at| known(self.entries.next(chain, *at)))
    }

    pub(super) fn belongs(&mut self, dest: DestId, index: u32, stream: u8, rule: u8) {
        self.entries[index].stream = stream;
        self.entries[index].rule = rule;
        self.outbox_mut(dest).rule_enters(rule);
    }

    /// Stream and rule of an entry by its rule's name and its topic; `None` without its bytes.
    fn class_of(
        &self,
        dest: DestId,
        index: u32,
        named: &[u32],
        classify: &mut impl Classify,
    ) -> Option<(u8, u8)> {
        let entry = &self.entries[index];
        let record = entry.record?;
        let mut topic = vec![0; usize::from(self.pool.head(record).topic_bytes)];
        self.pool.read(record, 0, &mut topic);
        let name = named.get(usize::from(entry.rule)).copied().unwrap_or(0);
        classify.classify(dest, name, core::str::from_utf8(&topic).ok()?)
    }

    /// Identifiers on the wire, in a table that may have grown.
    fn lay_wire(&mut self, dest: DestId) {
        let outbox = self.outbox(dest);
        let lists = [outbox.flight, outbox.release, outbox.done];
        let used: Vec<u32> =
            lists.iter().flat_map(|list| self.in_list(list, Chain::Line)).collect();
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.wire.fill(NONE);
        let mask = outbox.wire.len() - 1;
        for index in used {
            outbox.wire[usize::from(self.entries[index].packet_id) & mask] = index;
        }
    }

    /// The destination is not configured any more: what it has goes to the disk and stays there,
    /// or in RAM without a store, until it is configured again.
    pub fn orphan(&mut self, dest: DestId) {
        let capacity = self.log.capacity;
        let stored = self.setup.stored;
        let outbox = self.outbox_mut(dest);
        // Nobody is there to drain it: the whole store may take it.
        outbox.params.slots_max = capacity;
        // Nothing of it is read, and dropped for want of a rule.
        outbox.params.counts_rules = false;
        outbox.forget_trims();
        outbox.sweep = false;
        outbox.stuck = false;
        outbox.evict |= stored && (outbox.records > 0 || !outbox.custody.is_empty());
        self.changes += 1;
    }

    /// Gives the place of an orphan to another if all that it has is in the store. `false`: not
    /// yet.
    pub fn retire(&mut self, dest: DestId, now: Instant) -> bool {
        let outbox = self.outbox(dest);
        let durable = outbox.custody.is_empty()
            && outbox.records == 0
            && !outbox.row_dirty
            && !outbox.salvaging
            && (outbox.row_stored || outbox.inflight == 0);
        let idle = outbox.used && outbox.up == Up::Down && outbox.done.is_empty();
        if idle && durable {
            self.detach(dest, now);
        }
        idle && durable
    }

    /// Forgets a destination whose log and row stay in the store.
    pub fn detach(&mut self, dest: DestId, now: Instant) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.wire.fill(NONE);
        outbox.inflight = 0;
        outbox.unsent = NONE;
        outbox.unsent_release = NONE;
        for list in [&mut outbox.flight, &mut outbox.release] {
            while !list.is_empty() {
                let index = list.head;
                self.entries.unlink(list, Chain::Line, index);
                self.entries.give(index);
            }
        }
        let mut at = core::mem::replace(&mut outbox.chain, super::log::SlotChain::EMPTY).head;
        while at != NONE {
            let slot = &mut self.log.slots[widen(at)];
            at = slot.next;
            *slot = slot.as_read();
        }
        self.close(dest, now);
    }

    /// Takes a destination into use that is configured now; `restore_one` reads what the store has
    /// of it before anything else is put there.
    pub fn take_up(&mut self, dest: DestId, params: Params, room: &BoxSetup) {
        self.tell_drops_of(dest);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let (streams, window) = (outbox.streams.len(), outbox.wire.len() / 2);
        let window = fit::<u16, _>(window, "messages of a window").max(room.window);
        let conflated = room.conflating_rules * CONFLATED_TOPICS_MAX;
        *outbox = Outbox::new(streams.max(room.streams), window, conflated);
        self.open(dest, params);
        let number = self.outbox(dest).number;
        for slot in &mut self.log.slots {
            if slot.owner == ORPHAN && slot.owner_number == number {
                slot.owner = dest.0;
            }
        }
    }

    /// What changes with the number of bridges.
    pub fn set_share(&mut self, dest: DestId, share: &Params) {
        let params = &mut self.outbox_mut(dest).params;
        params.slots_max = share.slots_max;
        params.blocks_ceiling = share.blocks_ceiling;
        params.records_ceiling = share.records_ceiling;
    }

    /// What a session's queue may take.
    pub fn set_quota(&mut self, dest: DestId, messages_max: u64, bytes_max: u64) {
        let params = &mut self.outbox_mut(dest).params;
        params.messages_max = messages_max;
        params.bytes_max = bytes_max;
    }

    pub fn set_flush_after(&mut self, span: Duration) {
        self.setup.flush_after = span;
    }

    pub fn is_used(&self, dest: DestId) -> bool {
        self.outbox(dest).used
    }
}

impl Outbox {
    /// Room for at least so many streams and so large a window; the streams and what is conflated
    /// begin anew.
    fn enlarge(&mut self, room: &BoxSetup) {
        let streams = self.streams.len().max(room.streams);
        self.streams = vec![Stream::EMPTY; streams].into_boxed_slice();
        let wire = places(streams, room.window);
        if wire > self.wire.len() {
            self.wire = vec![NONE; wire].into_boxed_slice();
        }
        let conflated = room.conflating_rules * CONFLATED_TOPICS_MAX;
        self.conflated = vec![Conflated::NONE; conflated].into_boxed_slice();
        self.active = 0;
        self.gaps = 0;
        self.paced = 0;
        self.lanes = Self::LANES;
        self.lane_turn = 0;
        self.last_stream = 0;
        self.granted = 0;
        self.forget_trims();
    }
}

impl Slot {
    /// As it would be read from the store, without its owner.
    fn as_read(&self) -> Self {
        let streams = if self.continuation { 0 } else { u128::MAX };
        Self {
            owner: ORPHAN,
            prev: NONE,
            next: NONE,
            known: self.continuation,
            unread: 0,
            taken_bits: self.settled_bits,
            streams,
            ..*self
        }
    }
}
