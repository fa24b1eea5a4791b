//! The in-flight window of one destination: what may be sent next, packet identifiers, the four
//! acknowledgements, resending. Read MQTT 5 sections 3.3.4, 4.3, 4.4 and 4.9 first.

use super::Queue;
use super::entry::{Chain, Entry, State};
use super::outbox::{DestId, Outbox, Up};
use super::pool::{NONE, RecordId, widen};
use crate::limits::PUBLISH_ID_MAX;
use crate::mqtt::{PacketId, Qos};
use crate::planted::{Bug, planted};
use crate::vocab::Instant;
use core::time::Duration;

/// One publish that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub entry: u32,
    pub record: RecordId,
    pub qos: Qos,
    pub retain: bool,
    pub rule: u8,
    pub stream: u8,
    pub dup: bool,
    /// `None`: it is not in the window yet (`take` puts it there), or QoS 0.
    pub packet_id: Option<PacketId>,
}

/// Something that was sent and is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub at: Instant,
    /// Tells it from others that were sent then.
    pub number: u64,
    /// How large it is, or what it lies behind.
    pub bytes: u64,
}

/// What a peer answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Puback,
    Pubrec,
    Pubcomp,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// It answered a message sent so long ago (`None` when that was a resend).
    Yes { round_trip: Option<Duration> },
    /// No such identifier in that state.
    Unknown,
}

/// Streams of which not everything may be sent now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Barred {
    /// Nothing enters the window.
    pub blocked: u128,
    /// What is in the window is passed over, too.
    pub withheld: u128,
    /// What came after something that waits is passed over.
    pub held: u128,
}

impl Queue {
    /// The next publish for `dest`; streams in `blocked` are passed over.
    pub fn next(&mut self, dest: DestId, blocked: u128) -> Option<Next> {
        self.next_but(dest, Barred { blocked, ..Barred::default() })
    }

    /// The same, whatever bars streams.
    pub fn next_but(
        &mut self,
        dest: DestId,
        Barred { blocked, withheld, held }: Barred,
    ) -> Option<Next> {
        if self.outbox(dest).reorder {
            self.starve(dest);
            return None;
        }
        if held != 0 {
            self.defer(dest, withheld, held);
        }
        if self.outbox(dest).deferred != NONE {
            self.recall(dest, !withheld);
        }
        let unsent = self.first_unsent(dest);
        if unsent != NONE {
            let entry = &self.entries[unsent];
            if entry.flags.barrier || !self.has_window(dest, unsent) {
                return None;
            }
            if entry.record.is_none() {
                self.leave_room(dest, unsent);
                self.want_load(dest);
                return None;
            }
            return self.describe(unsent);
        }
        let outbox = self.outbox(dest);
        if !outbox.has_room() || self.is_held_back(outbox) {
            return None;
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let journal = outbox.journals();
        let mut open = outbox.active & !blocked;
        while open != 0 {
            let stream = pick(outbox, open);
            let head = outbox.streams[widen(stream)].list.head;
            if journal && self.entries[head].qos == Qos::ExactlyOnce {
                // Its identifier has to be durable first: the flush puts it into the window.
                outbox.qos2_wanted = true;
                open &= !(1 << stream);
                continue;
            }
            return self.describe(head);
        }
        if self.outbox(dest).active & !blocked == 0 {
            self.starve(dest);
        }
        None
    }

    /// The next message in the window is on disk only.
    pub(super) fn want_load(&mut self, dest: DestId) {
        if !core::mem::replace(&mut self.outbox_mut(dest).load_wanted, true) {
            // A refill that found nothing before this looks again.
            self.changes += 1;
        }
    }

    /// A refill that found nothing before this looks again: a token may have come meanwhile.
    pub(super) fn starve(&mut self, dest: DestId) {
        let outbox = self.outbox_mut(dest);
        outbox.starved = true;
        outbox.refill_failed_at = u64::MAX;
    }

    /// The message in the window that goes out next. Where the peer's window is taken up by what it
    /// has from the connection before, that goes first, or nothing ever could.
    fn first_unsent(&mut self, dest: DestId) -> u32 {
        let outbox = self.outbox(dest);
        let first = outbox.unsent;
        if first == outbox.deferred {
            return NONE;
        }
        let idle = first != NONE
            && first == outbox.flight.head
            && outbox.release.is_empty()
            && outbox.left_open() == 0;
        if !idle || self.has_window(dest, first) {
            return first;
        }
        // What is passed over has its turn by itself.
        let deferred = outbox.deferred;
        let mut at = first;
        while at != deferred && !self.is_held(at) {
            at = self.entries.next(Chain::Line, at);
        }
        if at == deferred {
            return first;
        }
        self.leave_flight(dest, at);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.flight, Chain::Line, at);
        self.entries.push_front(&mut outbox.flight, Chain::Line, at);
        outbox.unsent = at;
        at
    }

    /// May the peer have this message from the connection before?
    pub(super) fn is_held(&self, index: u32) -> bool {
        let entry = &self.entries[index];
        entry.flags.dup && entry.qos == Qos::ExactlyOnce
    }

    /// May this packet be on the wire too? A peer may take less than the last one did, and counts
    /// what it has from the connection before.
    pub(super) fn has_window(&self, dest: DestId, next: u32) -> bool {
        let outbox = self.outbox(dest);
        // On the wire for certain, had from before, and closed upon since.
        let (mut sent, mut had, mut shed) = (outbox.left_open(), 0, 0);
        if outbox.inflight.saturating_add(sent) <= outbox.window {
            return true;
        }
        for list in [outbox.flight, outbox.release] {
            let mut at = list.head;
            while at != NONE && sent < outbox.window {
                let Entry { state, flags, .. } = self.entries[at];
                let had_it = self.is_held(at) && !self.is_held(next);
                if state == State::Release || !flags.unsent {
                    sent += 1;
                } else if flags.closed_upon || outbox.closed_upon && flags.deferred {
                    shed += u16::from(had_it);
                } else {
                    had += u16::from(had_it);
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        // What it closed upon it may have after all, so that one at a time goes beyond.
        let certain = sent.saturating_add(had);
        certain.saturating_add(shed) < outbox.window || sent == 0 && certain < outbox.window
    }

    pub(super) fn describe(&self, index: u32) -> Option<Next> {
        let entry = &self.entries[index];
        Some(Next {
            entry: index,
            record: entry.record?,
            qos: entry.qos,
            retain: entry.flags.retain,
            rule: entry.rule,
            stream: entry.stream,
            dup: entry.flags.dup,
            packet_id: PacketId::new(entry.packet_id),
        })
    }

    /// The next QoS 0 publish; `sent_zero` takes it out.
    pub fn next_zero(&self, dest: DestId) -> Option<Next> {
        let head = self.outbox(dest).zero.head;
        if head == NONE { None } else { self.describe(head) }
    }

    /// Did the first come before the second? One of them is of QoS 0, the other is not. `None` when
    /// there is more than `within` between them.
    pub fn came_before(&self, first: Next, second: Next, within: Duration) -> Option<bool> {
        let [one, other] = [first, second].map(|next| &self.entries[next.entry]);
        let apart = one.arrival.max(other.arrival).since(one.arrival.min(other.arrival));
        (apart <= within).then_some((one.seq, one.qos) < (other.seq, other.qos))
    }

    /// A publish at QoS 0 was written (or is given up): it is settled.
    pub fn sent_zero(&mut self, dest: DestId, index: u32) {
        self.settle(dest, index);
        let outbox = self.outbox_mut(dest);
        outbox.zero_drained |= outbox.zero.is_empty();
    }

    /// Puts a waiting message into the window, at its end, and gives it an identifier.
    /// `None` when no identifier is free.
    pub fn take(&mut self, dest: DestId, index: u32) -> Option<PacketId> {
        let id = self.free_packet_id(dest)?;
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let entry = &mut self.entries[index];
        let stream = &mut outbox.streams[usize::from(entry.stream)];
        outbox.last_stream = u32::from(entry.stream);
        entry.packet_id = id.raw();
        entry.state = State::Publish;
        entry.flags.listed = false;
        entry.flags.unsent = true;
        let conflate = usize::from(core::mem::replace(&mut entry.conflate, u16::MAX));
        if let Some(row) = outbox.conflated.get_mut(conflate) {
            row.entry = NONE;
            row.place = None;
        }
        self.entries.unlink(&mut stream.list, Chain::Line, index);
        if stream.list.is_empty() {
            outbox.active &= !(1 << self.entries[index].stream);
        }
        let deferred = outbox.deferred;
        self.entries.insert(&mut outbox.flight, Chain::Line, index, deferred);
        if outbox.unsent == deferred {
            outbox.unsent = index;
        }
        let mask = outbox.wire.len() - 1;
        outbox.wire[usize::from(id.raw()) & mask] = index;
        outbox.inflight += 1;
        Some(id)
    }

    /// The packet of an entry in the window was written whole.
    pub fn sent(&mut self, dest: DestId, index: u32, now: Instant) {
        let next = self.entries.next(Chain::Line, index);
        let entry = &mut self.entries[index];
        entry.flags.unsent = false;
        entry.flags.wanted = false;
        entry.sent_at = now;
        if entry.flags.dup {
            self.counters.resent += 1;
        }
        let outbox = self.outbox_mut(dest);
        if outbox.unsent == index {
            outbox.unsent = next;
        }
        if outbox.flight.head == index {
            outbox.progress = now;
        }
    }

    /// Was the message with this identifier sent, is its exchange not over, and is this not what it
    /// waits for? Where the packet has not been sent again yet its answer may be to the one of the
    /// connection before, and nothing is mistaken.
    pub fn is_mistaken(&self, dest: DestId, id: PacketId, answer: Answer) -> bool {
        self.by_id(dest, id).is_some_and(|index| {
            let entry = &self.entries[index];
            match (entry.state, entry.qos, answer) {
                // PUBREC may come twice [MQTT-4.3.3], PUBCOMP not before PUBREL.
                (State::Release, _, Answer::Pubrec) => false,
                (State::Release, _, Answer::Pubcomp) => !entry.flags.dup,
                (State::Release, _, Answer::Puback) => true,
                _ if entry.flags.unsent => false,
                (_, Qos::AtLeastOnce, answer) => answer != Answer::Puback,
                (_, _, answer) => answer != Answer::Pubrec,
            }
        })
    }

    /// PUBACK.
    pub fn puback(&mut self, dest: DestId, id: PacketId, now: Instant) -> Acked {
        let Some(index) = self.by_id(dest, id) else { return Acked::Unknown };
        let entry = &self.entries[index];
        if entry.state != State::Publish || entry.qos != Qos::AtLeastOnce || entry.flags.unsent {
            return Acked::Unknown;
        }
        let round_trip = (!entry.flags.dup).then(|| now.since(entry.sent_at));
        self.outbox_mut(dest).progress = now;
        self.settle(dest, index);
        Acked::Yes { round_trip }
    }

    /// PUBREC with success: the peer owns the message; PUBREL is owed.
    pub fn pubrec(&mut self, dest: DestId, id: PacketId, now: Instant) -> Acked {
        let Some(index) = self.by_id(dest, id) else { return Acked::Unknown };
        let entry = self.entries[index];
        match entry.state {
            // What it answers may have been sent over the connection before this one.
            State::Publish
                if entry.qos == Qos::ExactlyOnce && (entry.flags.dup || !entry.flags.unsent) => {}
            // It came twice: PUBREL goes out again [MQTT-4.3.3].
            State::Release => {
                if !entry.flags.unsent {
                    self.owe_release(dest, index);
                }
                return Acked::Yes { round_trip: None };
            }
            _ => return Acked::Unknown,
        }
        let round_trip = (!entry.flags.dup).then(|| now.since(entry.sent_at));
        self.outbox_mut(dest).progress = now;
        self.begin_release(dest, index);
        if self.entries[index].place.is_some() {
            // The store has it until the exchange is complete. Without, RAM keeps it: a peer that
            // loses its session before PUBREL may never have passed it on.
            self.release_bytes(dest, index);
        }
        Acked::Yes { round_trip }
    }

    /// A message in the window awaits PUBCOMP from here on; PUBREL is owed.
    fn begin_release(&mut self, dest: DestId, index: u32) {
        self.leave_flight(dest, index);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries.unlink(&mut outbox.flight, Chain::Line, index);
        let journal = outbox.params.journal;
        let entry = &mut self.entries[index];
        entry.state = State::Release;
        entry.flags.unsent = true;
        entry.flags.dup = false;
        entry.flags.barrier = journal;
        self.entries.push_back(&mut outbox.release, Chain::Line, index);
        if outbox.unsent_release == NONE {
            outbox.unsent_release = index;
        }
        if journal {
            outbox.row_urgent = true;
            outbox.row_dirty = true;
        }
    }

    /// A message cannot be sent, or not again. Its peer may know its identifier from the first
    /// time, and would take another message under it for this one: PUBREL ends the exchange
    /// before it is used again [MQTT-4.3.3].
    pub(super) fn give_up_sending(&mut self, dest: DestId, index: u32) {
        let entry = self.entries[index];
        let sent = entry.flags.dup || !entry.flags.unsent;
        let known = entry.state == State::Publish && sent;
        if !known || entry.qos != Qos::ExactlyOnce {
            return self.settle(dest, index);
        }
        self.unhold(dest, index);
        if let Some(place) = self.entries[index].place.take() {
            self.settle_place(dest, place);
        }
        self.release_bytes(dest, index);
        self.begin_release(dest, index);
    }

    /// PUBCOMP: the exchange is complete.
    pub fn pubcomp(&mut self, dest: DestId, id: PacketId, now: Instant) -> Acked {
        let Some(index) = self.by_id(dest, id) else {
            self.close_left_open(dest, id, now);
            return Acked::Unknown;
        };
        if self.entries[index].state != State::Release {
            return Acked::Unknown;
        }
        self.outbox_mut(dest).progress = now;
        self.settle(dest, index);
        Acked::Yes { round_trip: None }
    }

    /// The entry that an identifier on the wire belongs to.
    pub fn by_id(&self, dest: DestId, id: PacketId) -> Option<u32> {
        let outbox = self.outbox(dest);
        let index = outbox.wire[usize::from(id.raw()) & (outbox.wire.len() - 1)];
        let live = index != NONE
            && self.entries[index].packet_id == id.raw()
            && self.entries[index].state != State::Done;
        live.then_some(index)
    }

    /// PUBREL is owed (again) for an entry.
    fn owe_release(&mut self, dest: DestId, index: u32) {
        let outbox = &mut self.boxes[usize::from(dest.0)];
        self.entries[index].flags.unsent = true;
        self.entries.unlink(&mut outbox.release, Chain::Line, index);
        self.entries.push_back(&mut outbox.release, Chain::Line, index);
        if outbox.unsent_release == NONE {
            outbox.unsent_release = index;
        }
    }

    /// The next PUBREL to send; it counts as sent.
    pub fn next_release(&mut self, dest: DestId, now: Instant) -> Option<PacketId> {
        if let Some(id) = self.next_left_open(dest) {
            return Some(id);
        }
        let index = self.outbox(dest).unsent_release;
        if index == NONE || self.entries[index].flags.barrier {
            return None;
        }
        self.entries[index].flags.unsent = false;
        self.entries[index].flags.dup = true;
        self.entries[index].sent_at = now;
        let next = self.entries.next(Chain::Line, index);
        self.outbox_mut(dest).unsent_release = next;
        PacketId::new(self.entries[index].packet_id)
    }

    /// The transport is gone. What was on the wire stays in the window until `connected`.
    pub fn disconnected(&mut self, dest: DestId) {
        let outbox = self.outbox_mut(dest);
        outbox.up = Up::Down;
        outbox.starved = false;
        // Nobody waits for what it wanted in RAM.
        self.changes += 1;
    }

    /// A new transport stands. With the session kept, everything unacknowledged goes out again
    /// with its identifier [MQTT-4.4.0-1]. Without, the window is emptied: what was sent waits
    /// again. Returns how many QoS 2 messages are in doubt (may arrive twice).
    pub fn connected(
        &mut self,
        dest: DestId,
        session_present: bool,
        window: u16,
        now: Instant,
    ) -> u32 {
        self.forget_deferred(dest);
        let outbox = self.outbox_mut(dest);
        outbox.up = Up::Up;
        outbox.window = window.min(outbox.params.window);
        outbox.progress = now;
        self.changes += 1;
        self.sendable.set(dest.0);
        let outbox = self.outbox_mut(dest);
        if session_present {
            outbox.unsent = outbox.flight.head;
            outbox.unsent_release = outbox.release.head;
            for (list, publish) in [(outbox.flight, true), (outbox.release, false)] {
                let mut at = list.head;
                while at != NONE {
                    let entry = &mut self.entries[at];
                    // What never left, and waits for its barrier, is no duplicate.
                    entry.flags.dup |= publish && !entry.flags.unsent;
                    entry.flags.unsent = true;
                    at = self.entries.next(Chain::Line, at);
                }
            }
            return 0;
        }
        // Identifiers of a session that is gone mean other messages when they come again.
        self.recv.clear(dest.0);
        let outbox = self.outbox_mut(dest);
        outbox.received = 0;
        outbox.row_partial = false;
        if outbox.params.journal {
            outbox.row_dirty = true;
            outbox.row_urgent = true;
        }
        let mut in_doubt = 0;
        // From the last sent, so that each goes before those sent after it. What was released is
        // in doubt too: not every broker passes a message on before its PUBREL.
        loop {
            let outbox = self.outbox(dest);
            let tails = [outbox.flight.tail, outbox.release.tail];
            let last = tails.into_iter().filter(|tail| *tail != NONE);
            let Some(index) = last.max_by_key(|tail| self.entries[*tail].seq) else { break };
            let entry = &self.entries[index];
            let sent = entry.state == State::Release || !entry.flags.unsent;
            if entry.qos == Qos::ExactlyOnce && sent {
                in_doubt += 1;
            }
            self.put_back(dest, index);
        }
        self.outbox_mut(dest).unsent = NONE;
        self.outbox_mut(dest).unsent_release = NONE;
        in_doubt
    }

    /// The oldest message on the wire; `None` with nothing unacknowledged.
    pub fn oldest_sent(&self, dest: DestId) -> Option<Asked> {
        let outbox = self.outbox(dest);
        let left_open = Asked { at: outbox.progress, number: 0, bytes: 0 };
        let left_open = (outbox.released > 0).then_some(left_open);
        let asked = |head: u32| {
            let entry = &self.entries[head];
            Asked { at: entry.sent_at, number: entry.seq, bytes: u64::from(entry.body_bytes) }
        };
        [outbox.flight.head, outbox.release.head]
            .into_iter()
            .filter(|head| *head != NONE && !self.entries[*head].flags.unsent)
            .map(asked)
            .chain(left_open)
            .min_by_key(|asked| (asked.at, asked.number))
    }

    pub(super) fn free_packet_id(&mut self, dest: DestId) -> Option<PacketId> {
        let mask = self.outbox(dest).wire.len() - 1;
        // Twice round: those left open lie close together.
        for _ in 0..2 * (mask + 1) {
            let outbox = self.outbox_mut(dest);
            let soon = planted(Bug::ReuseIdTooEarly);
            let id = if soon { 1 + outbox.next_id % 4 } else { outbox.next_id };
            outbox.next_id = if id >= PUBLISH_ID_MAX { 1 } else { id + 1 };
            let free = outbox.wire[usize::from(id) & mask] == NONE;
            if soon || (free && !self.is_left_open(dest, id)) {
                return PacketId::new(id);
            }
        }
        None
    }
}

/// The stream to serve: by lane, with a share for the lower ones, in turn within a lane.
fn pick(outbox: &mut Outbox, open: u128) -> u32 {
    if open & (open - 1) == 0 {
        return open.trailing_zeros();
    }
    outbox.lane_turn = outbox.lane_turn.wrapping_add(1);
    let order: [usize; 3] = match outbox.lane_turn % 32 {
        31 => [2, 1, 0],
        7 | 15 | 23 => [1, 0, 2],
        _ => [0, 1, 2],
    };
    for lane in order {
        let mine = open & outbox.lanes[lane];
        if mine != 0 {
            let after = u128::MAX.checked_shl(outbox.last_stream + 1).unwrap_or(0);
            let later = mine & after;
            return if later != 0 { later.trailing_zeros() } else { mine.trailing_zeros() };
        }
    }
    open.trailing_zeros()
}
