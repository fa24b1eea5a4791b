//! A message in the window that the peer did not take goes back to where it waited.

use super::Queue;
use super::entry::{Chain, NO_RULE_YET, State};
use super::outbox::DestId;
use super::pool::{NONE, widen};
use crate::mqtt::Qos;

impl Queue {
    /// Ends the exchange of an entry and lets it wait again, before those of its stream that came
    /// after it. `false`: it was not in the window (or its bytes are gone).
    pub fn put_back(&mut self, dest: DestId, index: u32) -> bool {
        if self.entries[index].state == State::Publish {
            self.leave_flight(dest, index);
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        match self.entries[index].state {
            State::Publish => {
                self.entries.unlink(&mut outbox.flight, Chain::Line, index);
            }
            State::Release => {
                if outbox.unsent_release == index {
                    outbox.unsent_release = self.entries.next(Chain::Line, index);
                }
                self.entries.unlink(&mut outbox.release, Chain::Line, index);
            }
            State::Free | State::Zero | State::Waiting | State::Done | State::Conflated => {
                return false;
            }
        }
        outbox.inflight -= 1;
        let mask = outbox.wire.len() - 1;
        let id = core::mem::replace(&mut self.entries[index].packet_id, 0);
        outbox.wire[usize::from(id) & mask] = NONE;
        self.clear_flags(index);
        let outbox = &mut self.boxes[usize::from(dest.0)];
        let entry = &mut self.entries[index];
        let stream = entry.stream;
        if entry.qos == Qos::ExactlyOnce && outbox.params.journal {
            outbox.row_urgent = true;
            outbox.row_dirty = true;
        }
        if entry.record.is_none() {
            // Only the store has it: it is one of its stream's backlog again, and comes first
            // because its slot does.
            let pending = entry.place.is_none();
            if pending {
                // An exchange of an earlier run whose message is gone.
                outbox.pending = outbox.pending.saturating_sub(1);
            }
            let known = entry.place.is_some_and(|place| self.log.slots[widen(place.slot)].known);
            outbox.rule_to_disk(entry.rule, known);
            if let Some(place) = entry.place {
                let slot = &mut self.log.slots[widen(place.slot)];
                slot.taken_bits.clear(place.ordinal);
                slot.streams |= 1 << stream;
                if slot.known {
                    outbox.streams[usize::from(stream)].gap += 1;
                    outbox.gaps |= 1 << stream;
                }
            }
            let unsure = entry.rule == NO_RULE_YET;
            outbox.reorder = true;
            self.entries.give(index);
            if unsure {
                // Its stream was a guess.
                self.forget_streams(dest);
            }
            return true;
        }
        entry.state = State::Waiting;
        entry.flags.listed = true;
        let list = &mut outbox.streams[usize::from(stream)].list;
        // Those before it were put back before it: few.
        let mut at = list.head;
        while at != NONE && self.entries[at].seq < self.entries[index].seq {
            at = self.entries.next(Chain::Line, at);
        }
        self.entries.insert(list, Chain::Line, index, at);
        outbox.active |= 1 << stream;
        true
    }
}
