//! Small questions and orders of the gateway to the queue.

use super::entry::{Chain, State};
use super::log::{FREE, Slot};
use super::outbox::{DestId, Outbox, Up};
use super::pool::{NONE, RecordId, widen};
use super::recv::Stage;
use super::store::Stock;
use super::{DropReason, Push, Queue};
use crate::fit::{fit, wide};
use crate::limits::{BLOCK_BYTES, QOS0_WAIT_MAX, SLOT_BYTES};
use crate::mqtt::Qos;
use crate::note::Note;
use crate::vocab::Instant;
use core::time::Duration;

/// Sums over all destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed and not settled.
    pub stored: u64,
    /// Not settled, wherever they are.
    pub pending: u64,
    pub inflight: u32,
}

/// What is taken of everything that is fixed at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub records: u32,
    pub blocks: u32,
    pub entries: u32,
    /// On the wire, and those that were left open at another server.
    pub packet_ids: u32,
    pub receive_ids: u32,
    /// The open end of a log is a slot, though nothing is in it any more.
    pub slots: u32,
}

/// Slots that so many bytes of log take.
pub fn slots_for(bytes: u64) -> u32 {
    let slot = wide(SLOT_BYTES);
    fit::<u32, _>(bytes / slot, "slots").max(1)
}

impl Queue {
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for outbox in self.boxes.iter().filter(|outbox| outbox.used) {
            totals.stored += outbox.stored;
            totals.pending += outbox.pending;
            totals.inflight += u32::from(outbox.inflight);
        }
        totals
    }

    pub fn in_use(&self) -> InUse {
        let mut packet_ids = 0;
        for outbox in &self.boxes {
            packet_ids += outbox.wire.iter().filter(|index| **index != NONE).count();
            packet_ids += outbox.parked.iter().map(|parked| parked.open.len()).sum::<usize>();
        }
        InUse {
            records: self.pool.record_count() - self.pool.free_records(),
            blocks: self.pool.block_count() - self.pool.free_blocks(),
            entries: self.entries.count() - self.entries.free_count(),
            packet_ids: fit(packet_ids, "packet identifiers"),
            receive_ids: self.recv.len(),
            slots: self.log.capacity - self.log.free_count,
        }
    }

    /// Messages in RAM, and bytes of blocks they take.
    pub fn ring(&self) -> (u32, u64) {
        let blocks = self.pool.block_count() - self.pool.free_blocks();
        (self.pool.record_count() - self.pool.free_records(), u64::from(blocks) * wide(BLOCK_BYTES))
    }

    pub fn slot_count(&self) -> u32 {
        self.log.capacity
    }

    pub fn wall_s(&self) -> u32 {
        self.wall_s
    }

    /// `at`, or when the store may be tried again.
    pub fn not_before(&self, at: Instant) -> Instant {
        at.max(self.retry_at).max(self.rest_until).max(self.full_until)
    }

    /// A slow store is not written to before then.
    pub fn rest(&mut self, until: Instant) {
        self.rest_until = until;
    }

    pub fn is_resting(&self, now: Instant) -> bool {
        now < self.rest_until
    }

    /// Grows with everything that may let a refused message in.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A destination that has something to send which it had not before.
    pub fn poll_sendable(&mut self) -> Option<DestId> {
        self.sendable.pop().map(DestId)
    }

    pub fn is_journalled(&self, dest: DestId) -> bool {
        self.outbox(dest).params.journal
    }

    /// Has the destination no row because it was lost, perhaps?
    pub fn is_in_doubt(&self, dest: DestId) -> bool {
        let lost = !self.outbox(dest).row_stored && (self.doubtful_rows || self.is_salvaging());
        lost || self.origin.is_some()
    }

    /// Packet identifiers this destination's peer has not released.
    pub fn received(&self, owner: DestId) -> u32 {
        self.outbox(owner).received
    }

    /// Notes a received QoS 2 identifier; `false` without room.
    pub fn receive_id(&mut self, owner: DestId, id: u16, record: Option<RecordId>) -> bool {
        let stage = record.map_or(Stage::Ready, Stage::Waits);
        match self.recv.insert(owner.0, id, stage) {
            Ok(fresh) => {
                self.outbox_mut(owner).received += u32::from(fresh);
                true
            }
            Err(_) => false,
        }
    }

    /// The peer released an identifier; `false` when it was not known.
    pub fn release_id(&mut self, owner: DestId, id: u16) -> bool {
        let known = self.recv.remove(owner.0, id);
        // Whoever was refused an identifier may have one now.
        self.changes += u64::from(known);
        let outbox = self.outbox_mut(owner);
        outbox.received = outbox.received.saturating_sub(u32::from(known));
        known
    }

    /// A received identifier has to be in the store before its PUBREC: with the message's own
    /// commit if there is one, else in the next flush.
    pub fn row_with(&mut self, owner: DestId, record: Option<RecordId>) {
        let settled = record.is_none_or(|record| self.pool.is_settled(record));
        let outbox = self.outbox_mut(owner);
        outbox.row_dirty = true;
        outbox.row_urgent |= settled;
        outbox.row_partial |= !settled;
    }

    /// Everything somebody waits for is committed in the next flush.
    pub fn commit_all(&mut self) {
        self.commit_all = true;
    }

    /// What a session that ends had in the store is another's now: it is committed with the end, on
    /// a full disk too, where it has the room that becomes free.
    pub fn commit_moved(&mut self) {
        self.commit_all = true;
        self.full_until = Instant::ZERO;
    }

    /// A message found no room in the pool: the next flush makes some, up to a quarter; where it
    /// `waits` for that, at the cost of what sessions without a place on disk have.
    pub fn press_now(&mut self, waits: bool) {
        self.pressed = true;
        self.squeezed |= waits;
    }

    /// From here on everything is committed as soon as can be.
    pub fn begin_stop(&mut self) {
        self.stopping = true;
        // With `ack = ring` identifiers are written only now, when they change no more.
        for outbox in &mut self.boxes {
            outbox.row_dirty |= outbox.used && outbox.params.persistent && !self.setup.safe;
        }
        self.rest_until = Instant::ZERO;
    }

    /// Is everything durable that has to survive?
    pub fn is_flushed(&self) -> bool {
        !self.setup.stored
            || (self.log.dirty_count == 0
                && self.boxes.iter().all(|outbox| {
                    !outbox.used
                        || !outbox.params.persistent
                        || ((outbox.custody.is_empty() || outbox.stuck) && !outbox.row_dirty)
                }))
    }

    /// What the next start finds in the store; `None` while not everything is in it.
    pub fn stock(&self) -> Option<Stock> {
        let outlives = |slot: &&Slot| slot.owner != FREE && !slot.fleeting;
        let slots = self.log.slots.iter().filter(outlives);
        let messages = slots.map(|slot| u64::from(slot.unsettled())).sum();
        let mut used = self.log.slots.iter().filter(|slot| slot.generation > 0);
        let all_open =
            used.all(|slot| outlives(&slot) && slot.generation == 1 && slot.settled == 0);
        (self.is_flushed() && !self.is_salvaging()).then_some(Stock { messages, all_open })
    }

    /// Accepted messages that a stop now would lose.
    pub fn unsaved(&self) -> u64 {
        if self.setup.safe {
            return 0;
        }
        let unsaved = |outbox: &Outbox| match self.setup.stored {
            true => u64::from(outbox.custody.len),
            false => outbox.pending,
        };
        self.boxes.iter().filter(|b| b.used && b.params.persistent).map(unsaved).sum()
    }

    /// Has a stream messages that wait, or that may have to wait again?
    pub fn is_stream_busy(&self, dest: DestId, stream: u8) -> bool {
        self.outbox(dest).is_unread()
            || self.stream_count(dest, stream) > 0
            || self.has_staged(dest, stream)
            || self.is_on_wire(dest, stream)
    }

    /// What is in flight goes back to the stream it came from when the peer has forgotten it.
    fn is_on_wire(&self, dest: DestId, stream: u8) -> bool {
        let outbox = self.outbox(dest);
        [outbox.flight, outbox.release].iter().any(|list| {
            let mut at = list.head;
            while at != NONE && self.entries[at].stream != stream {
                at = self.entries.next(Chain::Line, at);
            }
            at != NONE
        })
    }

    /// Is a message of the stream staged behind the disk backlog?
    fn has_staged(&self, dest: DestId, stream: u8) -> bool {
        self.outbox(dest).has_gap(stream)
    }

    /// Paced streams outside `streams` have no token now.
    pub fn grant(&mut self, dest: DestId, streams: u128) {
        self.outbox_mut(dest).granted = streams;
    }

    /// Marks a destination as blocking or not; returns since when it was.
    pub fn set_blocked(&mut self, dest: DestId, since: Option<Instant>) -> Option<Instant> {
        let outbox = self.outbox_mut(dest);
        let before = outbox.blocked_since;
        outbox.blocked_at = since.unwrap_or(Instant::ZERO);
        outbox.blocked_since = match since {
            Some(_) => before.or(since),
            None => None,
        };
        before
    }

    /// Does the peer take QoS 2?
    pub fn set_takes_qos2(&mut self, dest: DestId, takes: bool) {
        self.outbox_mut(dest).takes_qos2 = takes;
    }

    pub fn set_round_trip(&mut self, dest: DestId, smoothed: Duration) {
        self.outbox_mut(dest).srtt = smoothed;
    }

    /// The peer takes a message only at a lower QoS.
    pub fn lower_qos(&mut self, dest: DestId, index: u32, qos: Qos) {
        let entry = &mut self.entries[index];
        let before = core::mem::replace(&mut entry.qos, qos);
        let custody = entry.flags.custody;
        let flying = matches!(entry.state, State::Publish | State::Release);
        if before == Qos::ExactlyOnce && flying && qos != before {
            let outbox = self.outbox_mut(dest);
            // The row may name its identifier, and is to forget it before the record is settled.
            outbox.row_dirty |= outbox.params.journal;
        }
        if before == Qos::ExactlyOnce && custody && qos != before {
            self.outbox_mut(dest).custody_qos2 -= 1;
        }
    }

    /// Does this entry still stand for the packet with these bytes?
    pub fn is_sending(&self, index: u32, record: RecordId) -> bool {
        let entry = &self.entries[index];
        entry.state != State::Free && entry.record == Some(record)
    }

    /// QoS 0 messages of a destination whose link is gone are given up.
    pub fn drop_zero(&mut self, dest: DestId, reason: DropReason) -> u64 {
        let mut count = 0;
        while !self.outbox(dest).zero.is_empty() {
            let head = self.outbox(dest).zero.head;
            self.settle(dest, head);
            count += 1;
        }
        self.count_drop(dest, reason, count);
        count
    }

    /// QoS 0 found no room: may it wait? If the peer has kept up so far, within one turn, and for a
    /// bridge a moment longer; a peer that has not must not hold its publishers up.
    pub fn may_wait(&mut self, dest: DestId, now: Instant) -> bool {
        let outbox = self.outbox_mut(dest);
        if core::mem::take(&mut outbox.zero_drained) {
            outbox.zero_full_at = now;
        }
        let moment = if outbox.params.session { Duration::ZERO } else { QOS0_WAIT_MAX };
        outbox.up == Up::Up && now.since(outbox.zero_full_at) <= moment
    }

    /// Has it neither a message nor an exchange of QoS 2, its own or its peer's?
    pub fn is_vacant(&self, dest: DestId) -> bool {
        let outbox = self.outbox(dest);
        outbox.pending + u64::from(outbox.received) == 0
            && outbox.flight.is_empty()
            && outbox.release.is_empty()
            && outbox.left_open() == 0
    }

    /// What a session may leave to another, oldest first: what waits, and what is in flight but for
    /// QoS 2 that was sent.
    pub fn transferable(&self, dest: DestId) -> Vec<u32> {
        let outbox = self.outbox(dest);
        let mut found = Vec::new();
        let waiting = outbox.streams.iter().map(|stream| stream.list);
        for list in core::iter::once(outbox.flight).chain(waiting) {
            let mut at = list.head;
            while at != NONE {
                let entry = &self.entries[at];
                let sent =
                    entry.state == State::Publish && (entry.flags.dup || !entry.flags.unsent);
                if entry.qos != Qos::ExactlyOnce || !sent {
                    found.push(at);
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        let mut at = outbox.custody.head;
        while at != NONE {
            let entry = &self.entries[at];
            if entry.state == State::Waiting && !entry.flags.listed {
                found.push(at);
            }
            at = self.entries.next(Chain::Custody, at);
        }
        found
    }

    /// Messages on disk only, whether their slots have been read or not.
    pub fn disk_only(&self, dest: DestId) -> u64 {
        let mut count = 0;
        let mut at = self.outbox(dest).chain.head;
        while at != NONE {
            let slot = &self.log.slots[widen(at)];
            count += u64::from(slot.untaken());
            at = slot.next;
        }
        count
    }

    /// Messages of QoS 1 and 2 that the peer has not taken over, wherever they are: known also of
    /// what has not been read since the restart.
    pub fn undelivered(&self, dest: DestId) -> u64 {
        let outbox = self.outbox(dest);
        outbox.pending.saturating_sub(u64::from(outbox.release.len))
    }

    /// Gives a message with its bytes in RAM to another destination, which has room for it.
    /// `false`: it stays.
    pub fn move_entry(&mut self, from: DestId, index: u32, to: DestId, push: Push) -> bool {
        let Some(record) = self.entries[index].record.filter(|_| self.entries.free_count() > 0)
        else {
            return false;
        };
        self.push(to, record, push);
        self.settle(from, index);
        true
    }

    pub fn poll_note(&mut self) -> Option<Note> {
        if let Some(note) = self.notes.pop_front() {
            return Some(note);
        }
        let suppressed = core::mem::take(&mut self.notes_lost);
        (suppressed > 0).then_some(Note::LogLimited { of: "any", suppressed, count: None })
    }
}
