//! Which publish is next: of QoS 0 or the others, as paces, topics that wait and suspects let it.
//! Decides and sends nothing. Read MQTT 5 sections 4.6 and 4.9 first.

use super::Gateway;
use super::refusals::Turn;
use crate::limits::{STREAMS_MAX, TOGETHER};
use crate::queue::outbox::DestId;
use crate::queue::window::{Barred, Next};
use crate::vocab::{BridgeId, Instant};

impl Gateway {
    /// What came together leaves in the order it came in, but for QoS 2 that waits for the store;
    /// else they take turns, so that neither waits for a backlog of the other.
    pub(super) fn first_of(&mut self, slot: u16, queued: Next, zero: Next) -> Next {
        let conn = &mut self.conns[usize::from(slot)];
        let zero_first = self.queue.came_before(zero, queued, TOGETHER).unwrap_or_else(|| {
            conn.zero_turn = !conn.zero_turn;
            conn.zero_turn
        });
        if zero_first { zero } else { queued }
    }

    /// When the bridge may send again, if it may not now: by its token bucket, or by the remote's
    /// word.
    pub(super) fn rate_closed(&self, bridge: BridgeId, now: Instant) -> Option<Instant> {
        let link = self.link(bridge);
        let at = link.rate.as_ref().map_or(Instant::ZERO, |rate| rate.ready_at(now));
        let at = at.max(link.held_until);
        (at > now).then_some(at)
    }

    /// The next messages for a remote: of QoS 1 or 2, and of QoS 0. `None`: something has changed.
    pub(super) fn next_of_bridge(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        dest: DestId,
    ) -> Option<(Option<Next>, Option<Next>)> {
        let blocked = self.blocked_streams(now, slot, bridge, dest);
        let mut barred = Barred { blocked, ..Barred::default() };
        if !self.link(bridge).rules.holds.is_empty() {
            let (streams, until) = self.link(bridge).rules.holds.withheld(now);
            barred.withheld = streams;
            barred.held = self.link(bridge).rules.holds.streams();
            barred.blocked |= streams;
            if until != Instant::NEVER {
                self.pace(slot, until);
            }
        }
        if self.link(bridge).blame.is_clear() {
            let queued = self.queue.next_but(dest, barred);
            return Some((queued, self.queue.next_zero(dest)));
        }
        let (turn, zero) = self.next_turn(now, slot, bridge, barred);
        let queued = match turn {
            Turn::Send(next) => Some(next),
            Turn::Nothing => None,
            Turn::Again => return None,
        };
        Some((queued, self.queue.next_zero(dest).filter(|_| zero)))
    }

    pub(super) fn pace(&mut self, slot: u16, until: Instant) {
        let conn = self.conn_mut(slot);
        conn.pace_at = conn.pace_at.min(until);
        self.due_by(until);
    }

    /// Streams that are paced and have no token; notes when the first will.
    fn blocked_streams(&mut self, now: Instant, slot: u16, bridge: BridgeId, dest: DestId) -> u128 {
        let outbox = self.queue.outbox(dest);
        // What is on disk only is loaded when there is a token for it, if there is little room.
        let mut paced = outbox.paced & (outbox.active | outbox.gaps);
        let mut blocked = 0;
        let mut first = Instant::NEVER;
        while paced != 0 {
            let stream = paced.trailing_zeros();
            paced &= paced - 1;
            let Ok(narrow) = u8::try_from(stream) else { continue };
            let ready = self.link(bridge).rules.ready_at(narrow, now);
            if ready > now {
                blocked |= 1 << stream;
                first = first.min(ready);
            }
        }
        debug_assert!(usize::from(u8::MAX) >= STREAMS_MAX);
        if first != Instant::NEVER {
            self.pace(slot, first);
        }
        self.queue.grant(dest, !blocked);
        blocked
    }
}
