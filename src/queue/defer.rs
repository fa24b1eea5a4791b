//! What is in the window and must not be sent now: the remote is suspected to close on it, or a
//! message of its topic waits before it. It keeps its identifier [MQTT-4.4.0-1] and goes to the end
//! of the window, where others go past it. Which topics these are the gateway says, by stream.

use super::Queue;
use super::entry::{Chain, Entry, NO_RULE_YET, State};
use super::outbox::{DestId, Outbox};
use super::pool::{NONE, RecordId, widen};
use super::window::Next;
use crate::mqtt::Qos;
use crate::mqtt::topic::topic_hash;

/// What is on the wire to a peer, of QoS 1 and 2 and not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnWire {
    pub count: u16,
    /// Sequence of the oldest.
    pub oldest: Option<u64>,
}

/// A message that is to be sent alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Single {
    /// The one that was asked for.
    This(Next),
    /// Another one, for want of room in the peer's window.
    Other(Next),
}

impl Queue {
    /// Publishes that were sent over this connection and are not answered. `begun`: the record of
    /// one that is half written.
    pub fn on_wire(&self, dest: DestId, begun: Option<RecordId>) -> OnWire {
        let outbox = self.outbox(dest);
        let mut wire = OnWire::default();
        let mut at = outbox.flight.head;
        while at != NONE {
            let entry = &self.entries[at];
            if !entry.flags.unsent || (begun.is_some() && entry.record == begun) {
                wire.count += 1;
                wire.oldest = wire.oldest.or(Some(entry.seq));
            } else if at == outbox.unsent && begun.is_none() {
                break;
            }
            at = self.entries.next(Chain::Line, at);
        }
        wire
    }

    /// Passes over what is to be sent in the window and is of one of the streams that are
    /// `withheld`, or `held` and an older one of it waits.
    pub(super) fn defer(&mut self, dest: DestId, withheld: u128, held: u128) {
        let mut at = self.outbox(dest).unsent;
        while at != NONE && at != self.outbox(dest).deferred {
            let next = self.entries.next(Chain::Line, at);
            let Entry { rule, stream, flags, .. } = self.entries[at];
            // What the peer may have stands where it stood [MQTT-4.6.0-1].
            let older = held >> stream & 1 == 1 && !flags.dup && self.has_older(dest, at);
            if rule != NO_RULE_YET && (withheld >> stream & 1 == 1 || older) {
                self.defer_one(dest, at);
            }
            // The one moved just now may be the first of those that are passed over.
            at = if next == NONE { self.outbox(dest).deferred } else { next };
        }
    }

    /// Does an older message of its stream wait outside the window?
    fn has_older(&self, dest: DestId, index: u32) -> bool {
        let entry = &self.entries[index];
        let head = self.outbox(dest).streams[usize::from(entry.stream)].list.head;
        head != NONE && self.entries[head].seq < entry.seq
    }

    fn defer_one(&mut self, dest: DestId, at: u32) {
        self.leave_flight(dest, at);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.flight, Chain::Line, at);
        self.entries.push_back(&mut outbox.flight, Chain::Line, at);
        let entry = &mut self.entries[at];
        let known = entry.flags.dup && entry.qos == Qos::ExactlyOnce;
        entry.flags.deferred = true;
        entry.flags.light = !known || entry.flags.closed_upon;
        outbox.deferred_count += 1;
        outbox.light_count += u16::from(entry.flags.light);
        if outbox.deferred == NONE {
            outbox.deferred = at;
        }
        if outbox.unsent == NONE {
            outbox.unsent = outbox.deferred;
        }
    }

    /// What was passed over of these streams is sent again, after what is to be sent already, but
    /// for what came later; of a stream in which an older one waits only when that has gone.
    pub fn recall(&mut self, dest: DestId, streams: u128) {
        let mut at = self.outbox(dest).deferred;
        while at != NONE {
            let next = self.entries.next(Chain::Line, at);
            let Entry { stream, flags, .. } = self.entries[at];
            if streams >> stream & 1 == 1 && (flags.dup || !self.has_older(dest, at)) {
                self.recall_one(dest, at);
                self.sendable.set(dest.0);
            }
            at = next;
        }
    }

    fn recall_one(&mut self, dest: DestId, index: u32) {
        self.leave_flight(dest, index);
        let entry = self.entries[index];
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.flight, Chain::Line, index);
        let mut at = outbox.unsent;
        while at != NONE && at != outbox.deferred {
            let other = &self.entries[at];
            let alike = other.stream == entry.stream || other.rule == NO_RULE_YET;
            if alike && other.seq > entry.seq {
                break;
            }
            at = self.entries.next(Chain::Line, at);
        }
        self.entries.insert(&mut outbox.flight, Chain::Line, index, at);
        if outbox.unsent == at {
            outbox.unsent = index;
        }
    }

    /// A new connection: who is passed over is found out anew.
    pub(super) fn forget_deferred(&mut self, dest: DestId) {
        let mut at = self.outbox(dest).deferred;
        while at != NONE {
            let flags = &mut self.entries[at].flags;
            (flags.deferred, flags.light, flags.wanted) = (false, false, false);
            at = self.entries.next(Chain::Line, at);
        }
        let outbox = self.outbox_mut(dest);
        (outbox.deferred, outbox.deferred_count, outbox.light_count) = (NONE, 0, 0);
    }

    /// An entry is about to leave its place in the window.
    pub(super) fn leave_flight(&mut self, dest: DestId, index: u32) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        if outbox.unsent != index && !self.entries[index].flags.deferred {
            return;
        }
        let next = self.entries.next(Chain::Line, index);
        if outbox.unsent == index {
            outbox.unsent = next;
        }
        if core::mem::take(&mut self.entries[index].flags.deferred) {
            outbox.deferred_count -= 1;
            let light = core::mem::take(&mut self.entries[index].flags.light);
            outbox.light_count -= u16::from(light);
            if outbox.deferred == index {
                outbox.deferred = next;
            }
        }
    }

    /// The first message of a stream; with `behind`, the first that is before the one or behind the
    /// other. It is in the window and next to be sent; nothing is on the wire. Where the peer's
    /// window is taken up by what it may have from the connection before, one of those, or nothing
    /// ever could be. `None`: there is none, or it is to be loaded or made durable first.
    pub fn single_out(
        &mut self,
        dest: DestId,
        stream: u8,
        behind: Option<(u64, u64)>,
    ) -> Option<Single> {
        if self.outbox(dest).reorder {
            self.starve(dest);
            return None;
        }
        let Some(index) = self.first_of(dest, stream, behind) else {
            self.outbox_mut(dest).granted |= 1 << stream;
            self.starve(dest);
            return None;
        };
        if self.awaits_unknown(dest, self.entries[index].seq) {
            return None;
        }
        let entry = &self.entries[index];
        let enters = entry.state == State::Waiting;
        let journal = enters && entry.qos == Qos::ExactlyOnce && self.outbox(dest).journals();
        if !self.has_window(dest, index) || enters && !self.outbox(dest).has_room() {
            let outbox = self.outbox(dest);
            if !outbox.release.is_empty() || outbox.left_open() > 0 {
                return None;
            }
            // The peer has hardly all that it may have: one of its topic would change the order.
            if let Some(held) = self.first_held(dest, journal) {
                self.bring_up(dest, held);
                return self.if_ready(dest, held).map(Single::Other);
            }
        }
        if journal {
            // The flush puts it into the window.
            let outbox = &mut self.boxes[usize::from(dest.0)];
            outbox.granted |= 1 << stream;
            outbox.qos2_wanted = true;
            return None;
        }
        if enters {
            self.take(dest, index)?;
        }
        self.bring_up(dest, index);
        self.if_ready(dest, index).map(Single::This)
    }

    /// A message with this sequence, wherever it is in RAM, with its bytes. `None`: it has to be
    /// loaded first.
    pub fn look_up(&mut self, dest: DestId, stream: u8, seq: u64) -> Option<u32> {
        if let Some(index) = self.in_window(dest, seq) {
            if self.entries[index].record.is_none() {
                self.bring_up(dest, index);
                self.want_alone(dest, index);
                return None;
            }
            return Some(index);
        }
        let mut at = self.outbox(dest).streams.get(usize::from(stream))?.list.head;
        while at != NONE && self.entries[at].seq != seq {
            at = self.entries.next(Chain::Line, at);
        }
        if at == NONE {
            self.outbox_mut(dest).granted |= 1 << stream;
            self.starve(dest);
            return None;
        }
        Some(at)
    }

    /// Asks for what is in the window, came before this message, and has its topic on disk only:
    /// it may be of the same. `false`: there is nothing.
    fn awaits_unknown(&mut self, dest: DestId, seq: u64) -> bool {
        let mut at = self.outbox(dest).unsent;
        while at != NONE {
            let entry = &self.entries[at];
            if entry.rule == NO_RULE_YET && entry.seq < seq {
                break;
            }
            at = self.entries.next(Chain::Line, at);
        }
        if at == NONE {
            return false;
        }
        self.entries[at].flags.wanted = true;
        self.leave_room(dest, at);
        self.want_load(dest);
        true
    }

    /// First in the window, and next to be sent.
    fn bring_up(&mut self, dest: DestId, index: u32) {
        self.leave_flight(dest, index);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.flight, Chain::Line, index);
        let unsent = outbox.unsent;
        self.entries.insert(&mut outbox.flight, Chain::Line, index, unsent);
        outbox.unsent = index;
    }

    fn if_ready(&mut self, dest: DestId, index: u32) -> Option<Next> {
        let entry = &self.entries[index];
        if entry.flags.barrier {
            return None;
        }
        if entry.record.is_none() {
            self.want_alone(dest, index);
            return None;
        }
        self.describe(index)
    }

    /// The first of the window is to be read from the store, whatever is passed over by then.
    fn want_alone(&mut self, dest: DestId, index: u32) {
        self.entries[index].flags.wanted = true;
        self.leave_room(dest, index);
        self.want_load(dest);
    }

    /// A message that the peer may have from the connection before.
    /// `any`: one that would go before an older one of its topic, if there is no other.
    fn first_held(&self, dest: DestId, any: bool) -> Option<u32> {
        let some = |at: u32| (at != NONE).then_some(at);
        let first = some(self.outbox(dest).unsent);
        let line = || {
            core::iter::successors(first, |at| some(self.entries.next(Chain::Line, *at)))
                .filter(|at| self.is_held(*at) && !self.entries[*at].flags.closed_upon)
        };
        // One that was read for this goes before one that has to be.
        let in_order = || line().filter(|at| !self.stands_behind(dest, *at));
        let read = |at: &u32| self.entries[*at].flags.wanted;
        let found = in_order().find(read).or_else(|| in_order().next());
        found.or_else(|| line().find(|at| any && read(at))).or_else(|| line().find(|_| any))
    }

    /// Is there an older one of its stream?
    fn stands_behind(&self, dest: DestId, index: u32) -> bool {
        let Entry { seq, stream, .. } = self.entries[index];
        let mut at = self.outbox(dest).flight.head;
        while at != NONE {
            let other = &self.entries[at];
            if other.stream == stream && other.seq < seq {
                return true;
            }
            at = self.entries.next(Chain::Line, at);
        }
        self.has_older(dest, index)
    }

    /// A message in the window is to be read from the store: what is passed over and durable leaves
    /// RAM for it where there is no room, and then what else is to be sent.
    pub(super) fn leave_room(&mut self, dest: DestId, index: u32) {
        let bytes = widen(self.entries[index].body_bytes);
        for first in [self.outbox(dest).deferred, self.outbox(dest).unsent] {
            let mut at = first;
            while at != NONE && !self.pool.fits(bytes) {
                let Entry { place, flags, .. } = self.entries[at];
                if at != index && place.is_some() && !flags.wanted && !flags.custody {
                    self.release_bytes(dest, at);
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
    }

    fn first_of(&self, dest: DestId, stream: u8, behind: Option<(u64, u64)>) -> Option<u32> {
        let outbox = self.outbox(dest);
        let list = outbox.streams.get(usize::from(stream))?.list;
        let mut first = None;
        for head in [outbox.flight.head, list.head] {
            let mut at = head;
            while at != NONE {
                let entry = &self.entries[at];
                let mine = entry.stream == stream && entry.rule != NO_RULE_YET;
                let older = first.is_none_or(|first: u32| entry.seq < self.entries[first].seq);
                if mine
                    && older
                    && behind.is_none_or(|(one, last)| entry.seq < one || entry.seq > last)
                {
                    first = Some(at);
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        first
    }

    /// A message in the window with this sequence.
    pub fn in_window(&self, dest: DestId, seq: u64) -> Option<u32> {
        let mut at = self.outbox(dest).flight.head;
        while at != NONE && self.entries[at].seq != seq {
            at = self.entries.next(Chain::Line, at);
        }
        (at != NONE).then_some(at)
    }

    /// Does the peer certainly have none of what is passed over?
    pub fn set_closed_upon(&mut self, dest: DestId, closed: bool) {
        self.outbox_mut(dest).closed_upon = closed;
    }

    /// The peer closed on this message when nothing else was on the wire.
    pub fn note_closed_upon(&mut self, index: u32) {
        let flags = &mut self.entries[index].flags;
        flags.closed_upon |= core::mem::replace(&mut flags.closed_once, true);
    }

    pub fn seq_of(&self, index: u32) -> u64 {
        self.entries[index].seq
    }

    pub fn stream_of(&self, index: u32) -> u8 {
        self.entries[index].stream
    }

    pub fn rule_of(&self, index: u32) -> u8 {
        self.entries[index].rule
    }

    /// May the peer know a message of QoS 2 from an earlier connection?
    pub fn may_be_known(&self, index: u32) -> bool {
        self.is_held(index)
    }

    /// A stream is paced no more.
    pub fn unpace(&mut self, dest: DestId, stream: u8) {
        self.outbox_mut(dest).paced &= !(1 << stream);
        self.changes += 1;
    }

    /// May something of other streams than these be had soon, from the disk or with a commit?
    pub fn may_come(&self, dest: DestId, blocked: u128) -> bool {
        let outbox = self.outbox(dest);
        if outbox.unsent != outbox.deferred || outbox.reorder {
            return true;
        }
        let stored = outbox.is_unread() || outbox.gaps & !blocked != 0;
        outbox.has_room() && (outbox.active & !blocked != 0 || stored)
    }

    /// Does anything of other streams than these wait, whether it can be sent or not?
    pub fn has_others(&self, dest: DestId, blocked: u128) -> bool {
        let outbox = self.outbox(dest);
        outbox.unsent != outbox.deferred || (outbox.active | outbox.gaps) & !blocked != 0
    }

    pub fn record_of(&self, index: u32) -> Option<RecordId> {
        self.entries[index].record
    }

    /// The topic of a message, as far as it goes into `out`; `None` while it is on disk only.
    pub fn topic_of<'a>(&self, index: u32, out: &'a mut [u8]) -> Option<&'a str> {
        let record = self.entries[index].record?;
        let bytes = usize::from(self.pool.head(record).topic_bytes).min(out.len());
        self.pool.read(record, 0, &mut out[..bytes]);
        core::str::from_utf8(&out[..bytes]).ok()
    }

    /// Whatever there is of a topic belongs to this stream from here on, where nothing else is.
    /// What is on disk only is sorted when it is read.
    pub fn restream(&mut self, dest: DestId, hash: u64, stream: u8, scratch: &mut [u8]) {
        let mut moved = self.waiting(dest);
        moved.retain(|index| self.is_of(*index, hash, scratch));
        for index in moved {
            let entry = &mut self.entries[index];
            let old = core::mem::replace(&mut entry.stream, stream);
            if !entry.flags.listed || old == stream {
                continue;
            }
            let outbox = &mut self.boxes[usize::from(dest.0)];
            let list = &mut outbox.streams[usize::from(old)].list;
            self.entries.unlink(list, Chain::Line, index);
            if list.is_empty() {
                outbox.active &= !(1 << old);
            }
            let list = &mut outbox.streams[usize::from(stream)].list;
            self.entries.push_back(list, Chain::Line, index);
            outbox.active |= 1 << stream;
        }
        for index in self.window_of(dest) {
            if self.is_of(index, hash, scratch) {
                self.entries[index].stream = stream;
            } else if self.entries[index].record.is_none() && self.is_in_lane(index) {
                // Its topic is found out when it is loaded.
                let rule = core::mem::replace(&mut self.entries[index].rule, NO_RULE_YET);
                self.outbox_mut(dest).rule_leaves(rule);
            }
        }
        for row in &mut self.outbox_mut(dest).conflated {
            if row.hash == hash {
                row.stream = stream;
            }
        }
        if self.outbox(dest).has_stored() {
            self.forget_streams(dest);
        }
        self.changes += 1;
    }

    /// Is its stream one that many topics share?
    fn is_in_lane(&self, index: u32) -> bool {
        let entry = &self.entries[index];
        let lanes = Outbox::LANES.iter().fold(0, |all, lane| all | lane);
        entry.rule != NO_RULE_YET && lanes >> entry.stream & 1 == 1
    }

    fn is_of(&self, index: u32, hash: u64, scratch: &mut [u8]) -> bool {
        self.topic_of(index, scratch).is_some_and(|topic| topic_hash(topic) == hash)
    }
}
