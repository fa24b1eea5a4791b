//! The small rows of the store: a destination's, with the packet identifiers its peer's session
//! knows, and a slot's, with the bits of what is settled.

use super::Queue;
use super::entry::Chain;
use super::log::Log;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::recv::Stage;
use super::store::{SpillStore, StoreError, Table};
use crate::limits::LAZY_SETTLED_AFTER;
use crate::mqtt::Qos;
use crate::vocab::Instant;

impl Queue {
    /// The rows of destinations and slots.
    pub(super) fn put_rows(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let waited = core::mem::take(&mut self.settled_source);
        let urgent = self
            .boxes
            .iter()
            .any(|outbox| outbox.used && (outbox.row_urgent || (waited && outbox.row_partial)));
        // What is done and not noted comes again after a crash: never more than a window of it.
        let done_full = self.boxes.iter().any(|outbox| {
            outbox.done.len > u32::from(outbox.window)
                || outbox.settled_dirty >= u32::from(outbox.params.window.max(1))
        });
        let lazy_due = (self.log.dirty_count > 0
            || self.boxes.iter().any(|outbox| outbox.used && outbox.row_dirty))
            && (self.stopping || now >= self.settled_since.plus(LAZY_SETTLED_AFTER));
        if !(self.txn.wrote || urgent || done_full || lazy_due) {
            return Ok(());
        }
        for index in 0..self.boxes.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let outbox = self.outbox(DestId(index));
            if outbox.used && outbox.row_dirty && outbox.params.persistent {
                self.encode_row(DestId(index));
                let key = &self.boxes[usize::from(index)].params.key;
                store.put(Table::Destination, key.as_bytes(), &self.txn.row)?;
                self.txn.wrote = true;
            } else if outbox.used && outbox.row_dirty && outbox.row_stored {
                let key = &self.boxes[usize::from(index)].params.key;
                store.delete(Table::Destination, key.as_bytes())?;
                self.txn.wrote = true;
            }
        }
        let mut at = 0;
        while let Some(slot) = self.log.next_dirty(at) {
            let row = self.log.slots[widen(slot)].row();
            store.put(Table::Slot, &Log::id(slot).0.to_be_bytes(), &row)?;
            self.txn.wrote = true;
            at = slot + 1;
        }
        Ok(())
    }

    /// A destination's row: its number, and the identifiers a peer's session may still know.
    pub(super) fn encode_row(&mut self, dest: DestId) {
        let outbox = &self.boxes[usize::from(dest.0)];
        let row = &mut self.txn.row;
        row.clear();
        row.extend_from_slice(&outbox.number.to_le_bytes());
        row.extend_from_slice(&outbox.next_id.to_le_bytes());
        let flights = row.len();
        row.extend_from_slice(&[0; 2]);
        let mut count = 0u16;
        for (list, release) in [(outbox.flight, 0u8), (outbox.release, 1u8)] {
            let mut at = list.head;
            while at != NONE {
                let entry = &self.entries[at];
                if entry.qos == Qos::ExactlyOnce && outbox.params.journal {
                    row.extend_from_slice(&entry.seq.to_le_bytes());
                    row.extend_from_slice(&entry.packet_id.to_le_bytes());
                    row.push(release);
                    count += 1;
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        row[flights..flights + 2].copy_from_slice(&count.to_le_bytes());
        let mut partial = false;
        if outbox.params.journal {
            let pool = &self.pool;
            self.recv.update(dest.0, &mut |id, stage| {
                let stage = match stage {
                    Stage::Waits(record) if !pool.will_be_settled(record) => {
                        partial = true;
                        return stage;
                    }
                    Stage::Durable => Stage::Durable,
                    Stage::Waits(_) | Stage::Ready | Stage::Staged => Stage::Staged,
                };
                row.extend_from_slice(&id.to_le_bytes());
                stage
            });
        }
        self.boxes[usize::from(dest.0)].row_partial = partial;
    }
}
