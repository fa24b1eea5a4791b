//! The quarantine: what a peer will never take is kept, in a queue of its own that nobody drains,
//! with its bytes in the store. Nothing is dropped from it: when it is full the message stays where
//! it was. What is moved there is durable there before it is settled where it came from.

use super::Push;
use super::Queue;
use super::append::slots_at_most;
use super::entry::State;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::HEAD_BYTES;
use crate::fit::{fit, wide};
use crate::limits::{SLOT_BYTES, SLOT_RECORDS_MAX};
use crate::mqtt::Qos;

/// Why a message was not put aside; it is where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAside {
    /// Its bytes are on disk only: it has to be loaded first.
    NotLoaded,
    /// The quarantine has no room.
    Full,
}

impl Queue {
    /// Destination of what is set aside.
    pub fn aside(&self) -> DestId {
        DestId(fit(self.boxes.len() - 1, "destinations"))
    }

    /// Is anything in the quarantine?
    pub fn has_aside(&self) -> bool {
        self.outbox(self.aside()).pending > 0
    }

    /// Takes a message out of its queue and keeps it in the quarantine. `over`: its exchange has
    /// ended with the peer's refusal [MQTT-4.3.3].
    pub fn set_aside(&mut self, dest: DestId, index: u32, over: bool) -> Result<(), NotAside> {
        let aside = self.aside();
        let entry = self.entries[index];
        let record = entry.record.ok_or(NotAside::NotLoaded)?;
        let bytes = self.pool.head(record).body_bytes();
        if self.entries.free_count() < 2 || !self.has_aside_room(bytes) {
            return Err(NotAside::Full);
        }
        let push = Push {
            qos: entry.qos.max(Qos::AtLeastOnce),
            retain: entry.flags.retain,
            stream: 0,
            rule: 0,
            hold: true,
            conflate: None,
        };
        self.push(aside, record, push);
        self.outbox_mut(aside).evict |= self.setup.stored;
        let new = self.outbox(aside).custody.tail;
        if let Some(place) = self.entries[index].place.take_if(|_| new != NONE) {
            // The only durable copy stays in the log until the new one is durable.
            let Some(kept) = self.entries.take() else { unreachable!("two entries were free") };
            self.entries[kept].place = Some(place);
            self.entries[kept].state = State::Conflated;
            self.entries[new].replaced = kept;
        }
        if over {
            self.settle(dest, index);
        } else {
            self.give_up_sending(dest, index);
        }
        Ok(())
    }

    /// Room in the quarantine for a message of so many bytes?
    fn has_aside_room(&self, body_bytes: usize) -> bool {
        let aside = self.aside();
        let outbox = self.outbox(aside);
        if !self.setup.stored {
            return self.admit(aside, Qos::AtLeastOnce, body_bytes).is_ok();
        }
        let bytes = outbox.custody_bytes + wide(body_bytes);
        let slots = match self.fits_open_end(aside, outbox.custody.len + 1, bytes) {
            true => 0,
            false => slots_at_most(outbox.custody.len + 1, bytes),
        };
        !self.failing && !outbox.stuck && self.slots_for(aside, slots)
    }

    /// Do so many records of so many bytes together fit into the slot that is open?
    fn fits_open_end(&self, dest: DestId, records: u32, body_bytes: u64) -> bool {
        let tail = self.outbox(dest).chain.tail;
        if tail == NONE || self.log.slots[widen(tail)].closed {
            return false;
        }
        let slot = &self.log.slots[widen(tail)];
        let heads = u64::from(records) * wide(HEAD_BYTES);
        let end = u64::from(slot.used) + heads + body_bytes;
        end <= wide(SLOT_BYTES) && widen(u32::from(slot.count) + records) <= SLOT_RECORDS_MAX
    }
}
