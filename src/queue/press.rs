//! The pool runs short: who gives up what. A laggard with room on disk is spilled; sessions that
//! have none lose their oldest messages, so that they can never take the bridges' part of the ring.
//! A bridge without room on disk keeps what it has, up to its ceiling. A session that holds what
//! nobody can take from it, and acknowledges nothing, is named: its connection ends, or it does.

use super::entry::Chain;
use super::outbox::{DestId, Outbox, Up};
use super::pool::NONE;
use super::trim::Scope;
use super::{DropReason, Queue};
use crate::limits::{KEEPS_UP_WITHIN, UNACKNOWLEDGED_WITHIN};
use crate::mqtt::Qos;
use crate::vocab::Instant;

impl Queue {
    /// Less than an eighth of anything is free.
    fn is_short(&self) -> bool {
        self.is_free_below(8)
    }

    /// Would anything of this destination leave RAM with a commit?
    fn can_leave(&self, outbox: &Outbox) -> bool {
        let staged = outbox.has_stored();
        // What a session was sent and does not acknowledge goes to the disk as well.
        let goes = outbox.up == Up::Down || staged || outbox.params.session;
        if outbox.active != 0 || !outbox.custody.is_empty() && goes {
            return true;
        }
        // What is in flight over a link that stands needs its bytes, unless it is durable.
        let mut at = outbox.flight.head;
        while at != NONE {
            let entry = &self.entries[at];
            if entry.place.is_some() && entry.record.is_some() && outbox.can_do_without(entry) {
                return true;
            }
            at = self.entries.next(Chain::Line, at);
        }
        false
    }

    /// Before a commit: marks the destinations whose messages shall leave RAM with it.
    pub(super) fn press(&mut self, now: Instant) {
        for outbox in &mut self.boxes {
            let over = outbox.blocks > outbox.params.blocks_ceiling
                || outbox.records > outbox.params.records_ceiling;
            if outbox.used && over && outbox.up == Up::Down && !outbox.stuck {
                outbox.evict = true;
            }
        }
        if self.pressed || self.is_short() {
            let laggard = (0usize..)
                .zip(self.boxes.iter())
                .filter(|(_, outbox)| outbox.used && !outbox.stuck && weight(outbox) > 0)
                .filter(|(_, outbox)| self.can_leave(outbox))
                .max_by_key(|(_, outbox)| weight(outbox));
            if let Some((index, _)) = laggard {
                self.boxes[index].evict = true;
            }
        }
        self.press_in_ram(now);
    }

    /// The same where there is no store at all.
    pub fn press_in_ram(&mut self, now: Instant) {
        let short = self.is_short();
        if core::mem::take(&mut self.pressed) || short {
            self.squeeze_zero();
        }
        // Nothing that was accepted goes for QoS 0 that is not there any more.
        self.mark_laggards(now, short);
        let waits = core::mem::take(&mut self.squeezed);
        if waits || short {
            self.squeeze(now);
        }
        if waits && self.is_short() {
            self.squeeze_absent();
            self.unyielding = self.find_unyielding(now).filter(|_| self.is_short());
        }
    }

    /// While room is short, and until it is not any more, sessions that do not keep up get less.
    fn mark_laggards(&mut self, now: Instant, short: bool) {
        if !short && !self.has_laggards {
            return;
        }
        self.has_laggards = false;
        for outbox in self.boxes.iter_mut().filter(|outbox| outbox.params.session) {
            outbox.lags = short && outbox.used && !goes_at_once(outbox, now);
            self.has_laggards |= outbox.lags;
        }
    }

    /// Would the next flush take something that waits in RAM from a session that has no place on
    /// disk?
    pub fn can_squeeze(&self, now: Instant) -> bool {
        !self.is_resting(now)
            && (!self.setup.stored || self.store_due(now))
            && self.boxes.iter().any(|outbox| self.is_squeezable(outbox))
    }

    /// While the disk fails what is accepted stays: whoever sends waits.
    fn is_squeezable(&self, outbox: &Outbox) -> bool {
        let session = outbox.used && outbox.params.session && outbox.active != 0;
        session && self.keeps_in_ram(outbox) && !self.box_waits_for_disk(outbox)
    }

    /// QoS 0 that its peers do not read goes first, the longest queue's oldest, until more than a
    /// quarter is free.
    fn squeeze_zero(&mut self) {
        self.drop_until_free(|queue| {
            let (index, outbox) = (0u16..)
                .zip(queue.boxes.iter())
                .filter(|(_, outbox)| !outbox.zero.is_empty())
                .max_by_key(|(_, outbox)| outbox.zero.len)?;
            let head = outbox.zero.head;
            queue.drop_entry(DestId(index), head, DropReason::SlowSubscriber);
            Some(())
        });
    }

    /// Sessions that cannot be spilled lose their oldest messages, the largest first, until more
    /// than a quarter is free. What is in flight stays, and what can go into the window of a
    /// subscriber that keeps up is the last to go.
    fn squeeze(&mut self, now: Instant) {
        self.drop_until_free(|queue| {
            let (index, _) = (0u16..)
                .zip(queue.boxes.iter())
                .filter(|(_, outbox)| queue.is_squeezable(outbox))
                .max_by_key(|(_, outbox)| (!goes_at_once(outbox, now), weight(outbox)))?;
            let before = queue.outbox(DestId(index)).records;
            queue.drop_oldest(DestId(index), Scope::All, DropReason::QueueFull);
            (queue.outbox(DestId(index)).records != before).then_some(())
        });
    }

    /// What absent sessions were sent, at QoS 1, and did not acknowledge: nobody knows that they
    /// have it, and where it cannot be spilled it goes after all that waits.
    fn squeeze_absent(&mut self) {
        self.drop_until_free(|queue| {
            let (index, _, entry) = (0u16..)
                .zip(queue.boxes.iter())
                .filter(|(_, outbox)| outbox.up == Up::Down && queue.holds_flight(outbox))
                .filter_map(|(at, outbox)| Some((at, weight(outbox), queue.first_of_qos1(outbox)?)))
                .max_by_key(|(_, weight, _)| *weight)?;
            queue.drop_entry(DestId(index), entry, DropReason::QueueFull);
            Some(())
        });
    }

    /// Drops one message after the other until more than a quarter is free, or there is none.
    fn drop_until_free(&mut self, mut drop_one: impl FnMut(&mut Self) -> Option<()>) {
        // There are no more than entries.
        for _ in 0..self.entries.count() {
            if self.is_free_above(4) || drop_one(self).is_none() {
                return;
            }
        }
    }

    fn first_of_qos1(&self, outbox: &Outbox) -> Option<u32> {
        let mut at = outbox.flight.head;
        while at != NONE {
            let entry = &self.entries[at];
            if entry.qos == Qos::AtLeastOnce && entry.record.is_some() {
                return Some(at);
            }
            at = self.entries.next(Chain::Line, at);
        }
        None
    }

    /// Does a session have bytes in flight that no commit takes from RAM?
    fn holds_flight(&self, outbox: &Outbox) -> bool {
        let session = outbox.used && outbox.params.session && !outbox.flight.is_empty();
        session && self.keeps_in_ram(outbox) && !self.box_waits_for_disk(outbox)
    }

    /// The session that holds most of those that acknowledge nothing.
    fn find_unyielding(&self, now: Instant) -> Option<DestId> {
        let late = |outbox: &Outbox| outbox.progress.plus(UNACKNOWLEDGED_WITHIN) <= now;
        let (index, _) = (0u16..)
            .zip(self.boxes.iter())
            .filter(|(_, outbox)| self.holds_flight(outbox) && outbox.records > 0)
            .filter(|(_, outbox)| outbox.up == Up::Down || late(outbox))
            .max_by_key(|(_, outbox)| weight(outbox))?;
        Some(DestId(index))
    }

    /// Who keeps others waiting for room, and will not give it: asked once after each flush.
    pub fn take_unyielding(&mut self) -> Option<DestId> {
        self.unyielding.take()
    }
}

/// Does what waits only wait for this turn's bytes?
fn goes_at_once(outbox: &Outbox, now: Instant) -> bool {
    let waiting: u32 = outbox.streams.iter().map(|stream| stream.list.len).sum();
    let keeps_up = outbox.flight.is_empty() || now.since(outbox.progress) <= KEEPS_UP_WITHIN;
    let fits = waiting + u32::from(outbox.inflight) <= u32::from(outbox.window);
    outbox.up == Up::Up && keeps_up && fits
}

/// How much of the pool a destination holds.
fn weight(outbox: &Outbox) -> u64 {
    u64::from(outbox.blocks) + u64::from(outbox.records)
}
