//! A commit that has not room for everything that waits. A message of QoS 2 goes into it for all
//! of its destinations or for none, for its publisher's identifier goes with it: were it durable
//! at some of them only when the power goes, these would get the publisher's second try too. The
//! records of one message (a copy for each rule it came in by) are of one age, and go as one.

use super::Queue;
use super::append::{Append, Beside, slots_at_most, slots_of};
use super::entry::Chain;
use super::outbox::DestId;
use super::pool::{NONE, widen};
use super::record::HEAD_BYTES;
use super::store::{SlotId, SpillStore, StoreError};
use crate::fit::fit;
use crate::limits::{COMMIT_BYTES_MAX, SLOT_BYTES};
use crate::mqtt::Qos;
use crate::vocab::Instant;

/// Free slots that are looked at for those the disk has room for.
const COVERED_TRIES: u32 = 64;

/// How far one destination's custody has been gone through.
pub(super) struct Cursor {
    dest: DestId,
    at: u32,
    appended: u32,
    /// What is left of it waits for the next commit.
    stopped: bool,
}

impl Queue {
    /// Does a destination's custody belong in this commit, if it holds a message of QoS 2?
    pub(super) fn goes_along(&self, dest: DestId, now: Instant) -> bool {
        let outbox = self.outbox(dest);
        let held = outbox.used && outbox.custody_held > 0 && !outbox.stuck;
        held || self.commit_due(dest, now)
    }

    /// May a commit that appends one destination after the other end amid a message?
    pub(super) fn may_end_early(&self, now: Instant) -> bool {
        let bytes = |dest: &DestId| {
            let outbox = self.outbox(*dest);
            let heads = widen(outbox.custody.len) * HEAD_BYTES;
            fit::<usize, _>(outbox.custody_bytes, "bytes in custody").saturating_add(heads)
        };
        let along = || self.dests().filter(|dest| self.goes_along(*dest, now));
        let total = along().map(|dest| bytes(&dest)).fold(0, usize::saturating_add);
        self.frugal || total > COMMIT_BYTES_MAX || self.may_lack_slots(along)
    }

    /// Is there perhaps no slot for somebody who is going to get one, as it gives up what is
    /// older?
    fn may_lack_slots<I: Iterator<Item = DestId>>(&self, along: impl Fn() -> I) -> bool {
        let need = |dest: DestId| {
            let outbox = self.outbox(dest);
            slots_at_most(outbox.custody.len, outbox.custody_bytes)
        };
        let mut all = Beside::default();
        along().for_each(|dest| all.add(self.outbox(dest).params.session, need(dest)));
        let lacks = |dest: DestId| {
            let (own, session) = (need(dest), self.outbox(dest).params.session);
            !self.slots_beside(dest, own, all.without(session, own))
        };
        along().any(|dest| self.outbox(dest).gives_way() && lacks(dest))
    }

    /// Appends what waits in the order of its arrival, message by message.
    pub(super) fn append_together(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let mut cursors = core::mem::take(&mut self.txn.cursors);
        cursors.clear();
        for dest in self.dests() {
            let outbox = self.outbox(dest);
            let stopped = outbox.waits_for_slot();
            if stopped || self.goes_along(dest, now) {
                cursors.push(Cursor { dest, at: outbox.custody.head, appended: 0, stopped });
            }
        }
        let result = self.append_oldest_first(&mut cursors, store);
        for cursor in cursors.iter().filter(|cursor| cursor.appended > 0) {
            self.txn.appended.push((cursor.dest.0, cursor.appended));
            self.txn.wrote = true;
        }
        self.txn.cursors = cursors;
        result
    }

    fn append_oldest_first(
        &mut self,
        cursors: &mut [Cursor],
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        while let Some(age) = cursors.iter().filter_map(|cursor| self.age_at(cursor.at)).max() {
            let here = |queue: &Self, cursor: &Cursor| queue.age_at(cursor.at) == Some(age);
            let (mut bytes, mut exactly_once, mut stopped) = (0, false, false);
            let (mut new_slots, mut largest) = (0, 0);
            self.make_room(cursors, age, store);
            for cursor in cursors.iter().filter(|cursor| here(self, cursor)) {
                let total = self.bytes_of(cursor.at, age);
                bytes += total;
                exactly_once |= self.is_exactly_once(cursor.at, age);
                stopped |= cursor.stopped;
                if !self.txn.may_grow && !self.fits_tail(cursor.dest, total, store) {
                    new_slots += total.div_ceil(SLOT_BYTES);
                    largest = largest.max(total.min(SLOT_BYTES));
                }
            }
            if self.txn.bytes > 0 && self.txn.bytes + bytes > COMMIT_BYTES_MAX {
                return Ok(());
            }
            let uncovered = !self.txn.may_grow && !self.has_covered(new_slots, largest, store);
            let none = exactly_once && (stopped || uncovered);
            for cursor in cursors.iter_mut() {
                if !here(self, cursor) {
                    continue;
                }
                let grows =
                    uncovered && !self.fits_tail(cursor.dest, self.bytes_of(cursor.at, age), store);
                cursor.stopped |= none || grows;
                while here(self, cursor) {
                    if !cursor.stopped {
                        match self.append(cursor.dest, cursor.at, store)? {
                            Append::Done => cursor.appended += 1,
                            Append::NoRoom => {
                                self.stop(cursor);
                                continue;
                            }
                        }
                    }
                    cursor.at = self.entries.next(Chain::Custody, cursor.at);
                }
            }
        }
        Ok(())
    }

    /// Whoever has no slot for a message of QoS 2 and gives up what is older does so before
    /// anybody has the message: it waits for that everywhere.
    fn make_room(&mut self, cursors: &mut [Cursor], age: u32, store: &mut impl SpillStore) {
        let here = |cursor: &&Cursor| self.age_at(cursor.at) == Some(age);
        let exactly_once = |cursor: &Cursor| self.is_exactly_once(cursor.at, age);
        if !cursors.iter().filter(here).any(exactly_once) {
            return;
        }
        let mut reclaimed = false;
        while let Some(at) = self.first_without_slot(cursors, age, store) {
            if core::mem::replace(&mut reclaimed, true) {
                self.stop(&mut cursors[at]);
            } else {
                self.reclaim();
            }
        }
    }

    /// The first of those who give up what is older that finds no slot for this message.
    fn first_without_slot(
        &self,
        cursors: &[Cursor],
        age: u32,
        store: &mut impl SpillStore,
    ) -> Option<usize> {
        let mut need = |cursor: &Cursor| {
            let here = self.age_at(cursor.at) == Some(age) && !cursor.stopped;
            let total = if here { self.bytes_of(cursor.at, age) } else { 0 };
            let fits = !here || self.fits_tail(cursor.dest, total, store);
            (self.outbox(cursor.dest), if fits { 0 } else { slots_of(total) })
        };
        let mut all = Beside::default();
        for (outbox, slots) in cursors.iter().map(&mut need) {
            all.add(outbox.params.session, slots);
        }
        cursors.iter().position(|cursor| {
            let (outbox, own) = need(cursor);
            let beside = all.without(outbox.params.session, own);
            own > 0 && outbox.gives_way() && !self.slots_beside(cursor.dest, own, beside)
        })
    }

    /// There is no slot for what comes next. What is behind it waits too, if it is to get one.
    fn stop(&mut self, cursor: &mut Cursor) {
        cursor.stopped = true;
        if !self.no_room(cursor.dest, cursor.at) {
            cursor.at = NONE;
        }
    }

    /// How many messages came after this one; `None` at the end.
    fn age_at(&self, index: u32) -> Option<u32> {
        let record = if index == NONE { None } else { self.entries[index].record };
        record.map(|record| self.pool.age(record))
    }

    /// The entries of one message that a destination has one after the other.
    fn of_age(&self, at: u32, age: u32) -> impl Iterator<Item = u32> + '_ {
        let next = move |at: &u32| (*at != NONE).then(|| self.entries.next(Chain::Custody, *at));
        core::iter::successors(Some(at), next).take_while(move |at| self.age_at(*at) == Some(age))
    }

    /// What they take in the log.
    fn bytes_of(&self, at: u32, age: u32) -> usize {
        self.of_age(at, age).map(|at| self.bytes_at(at)).sum()
    }

    fn is_exactly_once(&self, at: u32, age: u32) -> bool {
        self.of_age(at, age).any(|at| self.entries[at].qos == Qos::ExactlyOnce)
    }

    /// What its record takes in the log.
    pub(super) fn bytes_at(&self, index: u32) -> usize {
        HEAD_BYTES + widen(self.entries[index].body_bytes)
    }

    /// Would so many bytes in each of `count` new slots need no new room on the disk?
    pub(super) fn has_covered(
        &self,
        count: usize,
        bytes: usize,
        store: &mut impl SpillStore,
    ) -> bool {
        let covers = |slot: &u32| store.covers(SlotId(*slot), bytes);
        count == 0 || self.log.free_slots(COVERED_TRIES).filter(covers).count() >= count
    }

    /// On a disk that was full a slot is taken that its file has. `false`: there is none.
    pub(super) fn prefer_covered(&mut self, bytes: usize, store: &mut impl SpillStore) -> bool {
        if !self.frugal {
            return true;
        }
        let bytes = bytes.min(SLOT_BYTES);
        self.log.prefer(COVERED_TRIES, |slot| store.covers(SlotId(slot), bytes))
    }
}
