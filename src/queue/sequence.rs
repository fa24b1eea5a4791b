//! After a start: the window in its old order. A destination's row tells only of QoS 2 what was in
//! the window; what was sent beside it at QoS 1, or lowered to that, lies in the log before it, and
//! has to go out again before it. Read MQTT 5 section 4.6 first.

use super::Queue;
use super::entry::{Chain, List, Place, State};
use super::log::FREE;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::refill::Classify;
use super::store::{SpillStore, StoreError};
use super::walk::Walk;
use crate::fit::fit;
use crate::limits::WINDOW_SLOTS_READ;
use crate::mqtt::Qos;

/// A record that goes out before one that is in the window.
struct Before {
    seq: u64,
    qos: Qos,
    place: Place,
    body_bytes: u32,
    stream: u8,
    rule: u8,
}

impl Queue {
    /// Puts what lies before a message in the window, in its stream, into the window too. There are
    /// at most a window of those that were on the wire, and those acknowledged since the last
    /// commit: the table of identifiers has places for both.
    pub(super) fn restore_sequence(
        &mut self,
        dest: DestId,
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<(), StoreError> {
        let window = self.flight_of(dest);
        // The last sequence in the window of each stream that has one there.
        let mut lasts: Vec<(u8, u64)> = Vec::new();
        for index in &window {
            let entry = &self.entries[*index];
            match lasts.iter_mut().find(|(stream, _)| *stream == entry.stream) {
                Some((_, last)) => *last = entry.seq.max(*last),
                None => lasts.push((entry.stream, entry.seq)),
            }
        }
        let before = self.before(dest, &lasts, store, classify)?;
        if before.is_empty() {
            return Ok(());
        }
        let mut window = window;
        for record in &before {
            let Some(index) = self.restore_before(dest, record) else { break };
            window.push(index);
        }
        window.sort_by_key(|index| self.entries[*index].seq);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.flight = List::EMPTY;
        for index in window {
            self.entries.push_back(&mut outbox.flight, Chain::Line, index);
        }
        Ok(())
    }

    /// The entries that wait for an acknowledgement of their PUBLISH.
    fn flight_of(&self, dest: DestId) -> Vec<u32> {
        let mut window = Vec::new();
        let mut at = self.outbox(dest).flight.head;
        while at != NONE {
            window.push(at);
            at = self.entries.next(Chain::Line, at);
        }
        window
    }

    /// Unsettled records before the last one in the window of their stream, from the end
    /// of the log: those sent last lie there. In the order of the log.
    fn before(
        &mut self,
        dest: DestId,
        lasts: &[(u8, u64)],
        store: &mut impl SpillStore,
        classify: &mut impl Classify,
    ) -> Result<Vec<Before>, StoreError> {
        let mut found = Vec::new();
        let Some(end) = lasts.iter().map(|(_, seq)| *seq).max() else { return Ok(found) };
        let mut at = self.outbox(dest).chain.tail;
        let mut read = 0;
        while at != NONE && read < WINDOW_SLOTS_READ {
            let index = at;
            let slot = self.log.slots[widen(index)];
            at = slot.prev;
            if slot.owner == FREE || slot.continuation || slot.first_seq >= end {
                continue;
            }
            read += 1;
            self.read_slot(index, store)?;
            let mut walk = Walk::new(slot.count);
            while let Some((ordinal, offset, head)) = walk.step(&self.slot_buffer) {
                let queued = head.qos == Qos::AtMostOnce;
                if slot.taken_bits.get(ordinal) || queued || head.seq >= end {
                    continue;
                }
                let Some((stream, rule)) = self.classified(dest, offset, &head, classify) else {
                    continue;
                };
                if lasts.iter().any(|(mine, last)| *mine == stream && head.seq < *last) {
                    let body_bytes = fit(head.body_bytes(), "bytes of a record");
                    let place = Place { slot: index, ordinal };
                    let (seq, qos) = (head.seq, head.qos);
                    found.push(Before { seq, qos, place, body_bytes, stream, rule });
                }
            }
        }
        found.sort_by_key(|record| record.seq);
        Ok(found)
    }

    /// An entry of the window for a record; `None` when there is none, or no identifier for it.
    fn restore_before(&mut self, dest: DestId, record: &Before) -> Option<u32> {
        let id = self.free_packet_id(dest)?;
        let index = self.entries.take()?;
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let entry = &mut self.entries[index];
        entry.place = Some(record.place);
        entry.seq = record.seq;
        entry.body_bytes = record.body_bytes;
        entry.qos = record.qos;
        entry.stream = record.stream;
        entry.rule = record.rule;
        outbox.rule_enters(record.rule);
        entry.packet_id = id.raw();
        entry.state = State::Publish;
        // Under this identifier it was never sent.
        entry.flags.unsent = true;
        if record.qos == Qos::ExactlyOnce {
            // Nor is it in the store.
            entry.flags.barrier = true;
            outbox.row_dirty = true;
            outbox.row_urgent = true;
        }
        let mask = outbox.wire.len() - 1;
        outbox.wire[usize::from(id.raw()) & mask] = index;
        outbox.inflight += 1;
        let slot = &mut self.log.slots[widen(record.place.slot)];
        slot.taken_bits.set(record.place.ordinal);
        Some(index)
    }
}
