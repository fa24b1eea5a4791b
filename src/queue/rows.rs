//! The small rows of the store: a destination's, with the packet identifiers its peer's session
//! knows, and a slot's, with the bits of what is settled.

use super::Queue;
use super::entry::Chain;
use super::log::Log;
use super::outbox::DestId;
use super::peer::{Parked, PeerId};
use super::pool::{NONE, widen};
use super::recv::Stage;
use super::store::{SpillStore, StoreError, Table, seal};
use crate::fit::fit;
use crate::limits::LAZY_SETTLED_AFTER;
use crate::mqtt::Qos;
use crate::planted::{Bug, planted};
use crate::vocab::Instant;
use core::num::NonZeroU64;

impl Queue {
    /// The rows of destinations and slots.
    pub(super) fn put_rows(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let waited = self.settled_source;
        let urgent = !self.stale_rows.is_empty()
            || self
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
        for key in &self.stale_rows {
            store.delete(Table::Destination, key)?;
            self.txn.wrote = true;
        }
        for dest in self.dests() {
            let outbox = self.outbox(dest);
            if outbox.used && outbox.row_dirty && outbox.params.persistent {
                self.encode_row(dest);
                let key = &self.boxes[usize::from(dest.0)].params.key;
                store.put(Table::Destination, key.as_bytes(), &self.txn.row)?;
                self.txn.wrote = true;
            } else if outbox.used && outbox.row_dirty && outbox.row_stored {
                let key = &self.boxes[usize::from(dest.0)].params.key;
                store.delete(Table::Destination, key.as_bytes())?;
                self.txn.wrote = true;
            }
        }
        let mut at = 0;
        while let Some(slot) = self.log.next_dirty(at) {
            self.log.slots[widen(slot)].row(slot, &mut self.txn.row);
            store.put(Table::Slot, &Log::id(slot).0.to_be_bytes(), &self.txn.row)?;
            self.txn.wrote = true;
            at = slot + 1;
        }
        Ok(())
    }

    /// A destination's row: the identifiers a peer's session may still know. With
    /// `ack = ring` those are known to the row only after a clean stop.
    pub(super) fn encode_row(&mut self, dest: DestId) {
        let outbox = &self.boxes[usize::from(dest.0)];
        let sure = self.setup.safe || self.stopping;
        let row = &mut self.txn.row;
        row.clear();
        row.extend_from_slice(&outbox.next_id.to_le_bytes());
        row.push(u8::from(sure));
        let peer = outbox.peer.filter(|_| sure).map_or(0, |peer| peer.0.get());
        row.extend_from_slice(&peer.to_le_bytes());
        let flights = open_list(row);
        let mut count = 0u16;
        for (list, release) in [(outbox.flight, 0u8), (outbox.release, 1u8)] {
            let mut at = list.head;
            while at != NONE {
                let entry = &self.entries[at];
                let forgotten = release == 1 && planted(Bug::ForgetRelease);
                if entry.qos == Qos::ExactlyOnce && sure && !forgotten {
                    row.extend_from_slice(&entry.seq.to_le_bytes());
                    row.extend_from_slice(&entry.packet_id.to_le_bytes());
                    row.push(release);
                    count += 1;
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        close_list(row, flights, count);
        let received = open_list(row);
        let mut count = 0u16;
        let mut partial = false;
        if sure && outbox.received > 0 {
            let (pool, refused) = (&self.pool, &self.refused);
            // Its publisher is going to be told, and free to use the identifier for another one.
            let is_refused = |record| refused.iter().any(|(_, refused)| *refused == record);
            self.recv.update(dest.0, &mut |id, stage| {
                let stage = match stage {
                    Stage::Waits(record) if !pool.will_be_settled(record) || is_refused(record) => {
                        partial = true;
                        return stage;
                    }
                    Stage::Durable | Stage::Staged(_) => stage,
                    Stage::Waits(record) => Stage::Staged(Some(record)),
                    Stage::Ready => Stage::Staged(None),
                };
                row.extend_from_slice(&id.to_le_bytes());
                count += 1;
                stage
            });
        }
        close_list(row, received, count);
        // At most as many as a bridge has servers, and then some of an earlier configuration.
        row.push(fit(outbox.parked.len(), "sessions left"));
        for parked in &outbox.parked {
            row.extend_from_slice(&parked.peer.0.get().to_le_bytes());
            for ids in [&parked.open, &parked.received] {
                let list = open_list(row);
                for id in ids {
                    row.extend_from_slice(&id.to_le_bytes());
                }
                close_list(row, list, fit(ids.len(), "packet identifiers"));
            }
        }
        let outbox = &mut self.boxes[usize::from(dest.0)];
        outbox.row_partial = partial;
        seal(Table::Destination, outbox.params.key.as_bytes(), row);
    }
}

/// Room for a count that is not known yet.
fn open_list(row: &mut Vec<u8>) -> usize {
    row.extend_from_slice(&[0; 2]);
    row.len()
}

fn close_list(row: &mut [u8], list: usize, count: u16) {
    row[list - 2..list].copy_from_slice(&count.to_le_bytes());
}

/// A packet identifier that a peer's session may still know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub seq: u64,
    pub packet_id: u16,
    pub release: bool,
}

/// A destination's row as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub dest: Option<DestId>,
    pub next_id: u16,
    /// Its identifiers are all of them.
    pub sure: bool,
    pub peer: Option<PeerId>,
    pub flights: Vec<Flight>,
    pub received: Vec<u16>,
    pub parked: Vec<Parked>,
}

/// `None` for a row that is damaged.
pub(super) fn parse_row(mut value: &[u8]) -> Option<Row> {
    let row = &mut value;
    let next_id = u16::from_le_bytes(take(row)?);
    let [sure] = take(row)?;
    let peer = NonZeroU64::new(u64::from_le_bytes(take(row)?)).map(PeerId);
    let mut flights = Vec::new();
    for _ in 0..u16::from_le_bytes(take(row)?) {
        let (seq, packet_id) = (u64::from_le_bytes(take(row)?), u16::from_le_bytes(take(row)?));
        let [release] = take(row)?;
        flights.push(Flight { seq, packet_id, release: release == 1 });
    }
    let received = ids(row)?;
    let mut parked = Vec::new();
    let [count] = take(row)?;
    for _ in 0..count {
        let peer = PeerId(NonZeroU64::new(u64::from_le_bytes(take(row)?))?);
        parked.push(Parked { peer, open: ids(row)?, received: ids(row)? });
    }
    let sure = sure == 1;
    Some(Row { dest: None, next_id, sure, peer, flights, received, parked })
}

fn take<const N: usize>(row: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = row.split_first_chunk::<N>()?;
    *row = rest;
    Some(*head)
}

fn ids(row: &mut &[u8]) -> Option<Vec<u16>> {
    let count = u16::from_le_bytes(take(row)?);
    (0..count).map(|_| take(row).map(u16::from_le_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whole_or_not_at_all() {
        let mut value = Vec::new();
        value.extend(9u16.to_le_bytes());
        value.push(1);
        value.extend(0xABCD_u64.to_le_bytes());
        value.extend(1u16.to_le_bytes());
        value.extend(1234u64.to_le_bytes());
        value.extend(5u16.to_le_bytes());
        value.push(1);
        value.extend([1, 0, 3, 0]);
        value.push(1);
        value.extend(0xEF_u64.to_le_bytes());
        value.extend([2, 0, 4, 0, 6, 0]);
        value.extend([1, 0, 8, 0]);
        let peer = |hash| PeerId::new(hash);
        let expected = Row {
            dest: None,
            next_id: 9,
            sure: true,
            peer: Some(peer(0xABCD)),
            flights: vec![Flight { seq: 1234, packet_id: 5, release: true }],
            received: vec![3],
            parked: vec![Parked { peer: peer(0xEF), open: vec![4, 6], received: vec![8] }],
        };
        assert_eq!(parse_row(&value), Some(expected));
        for cut in 0..value.len() {
            assert_eq!(parse_row(&value[..cut]), None, "{cut}");
        }
    }
}
