//! Large packets that hardly come: whose gives way to who waits for the room it takes.
//!
//! Room for messages that are still coming ([`INBOUND_SHARE`] of the ring) goes first to who has
//! more than a beginning of his message to show, then to who has least of the room (a user, or
//! without one an address), then to who has been here longest: one that was sent away and comes
//! again is behind the others. Nobody who is under way gives way while nobody waits, however thin
//! his line. When somebody does, first goes
//! what comes slower than a thin line, then what is one of several of its sender, then what would
//! take long still: each after a time of waiting that `limits` names. A remote's line is what it
//! is: of its message only nothing at all for a minute counts.
//!
//! The same rules hold for the large buffers of the shell, which asks for the end by
//! [`Event::Slow`](super::verbs::Event::Slow).

use super::Gateway;
use super::conn::Role;
use super::kept::{Filling, Want};
use super::places::holder;
use super::receive::Fatal;
use crate::fit::{fit, wide};
use crate::limits::{
    BLOCK_BYTES, FILL_OF_CLIENTS, FILL_STILL_MAX, FILL_SURE, INBOUND_SHARE, LONG_GIVES_WAY,
    MANY_GIVE_WAY, SLOW_GIVES_WAY, THIN_LINE_BYTES_A_SECOND,
};
use crate::mqtt::Reason;
use crate::queue::Reserve;
use crate::queue::pool::widen;
use crate::vocab::{ConnId, Flow, Instant};
use core::cmp::Reverse;
use core::time::Duration;

/// Who has not asked again within this waits no more.
const ASKS_WITHIN: Duration = Duration::from_secs(1);

/// So much of a message is more than a beginning.
const HERE_BYTES: usize = 16 * 1024;

/// A message that takes no more than this part of the room need not wait for others that do not
/// fit.
const SMALL_PART: u32 = 16;

/// A large packet that is under way, as far as it matters for who gives way.
#[derive(Clone, Copy, Debug)]
pub struct Underway {
    pub since: Instant,
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that are to come.
    pub left: u64,
    /// Its sender has as many under way.
    pub count: usize,
}

impl Underway {
    /// How long somebody who has `count` under way himself waits until this one gives way.
    pub fn gives_way(&self, now: Instant, count: usize) -> Duration {
        if now.since(self.since) < Flow::SPAN {
            return Duration::MAX;
        }
        if self.rate < THIN_LINE_BYTES_A_SECOND {
            SLOW_GIVES_WAY
        } else if self.count > count.max(1) {
            MANY_GIVE_WAY
        } else if self.left / self.rate > FILL_SURE.as_secs() {
            LONG_GIVES_WAY
        } else {
            Duration::MAX
        }
    }
}

impl Gateway {
    /// Whom a connection counts for; 0 = nobody yet.
    pub(super) fn holder_of(&self, slot: u16) -> u64 {
        let conn = self.conn(slot);
        let Role::Client { session } = conn.role else { return 0 };
        let user = self.sessions[session].user.as_deref();
        holder(user.filter(|_| self.access.users().is_some()), conn.peer.ip())
    }

    /// Messages of a holder that are coming.
    fn held_by(&self, holder: u64) -> usize {
        let slots = (0..self.client_slots).filter(|slot| self.conn(*slot).inbound.is_filling());
        slots.filter(|slot| self.holder_of(*slot) == holder).count()
    }

    /// May one begin a message of so many blocks? Not before others that have waited for longer.
    pub(super) fn may_begin(&self, now: Instant, slot: u16, blocks: u32) -> bool {
        if !self.is_within_room(blocks) {
            return false;
        }
        if matches!(self.conn(slot).role, Role::Link { .. }) {
            return true;
        }
        if !self.is_within_part_of_clients(blocks) {
            return false;
        }
        let Some((first, want)) = self.first_want(now) else { return true };
        let own = self.conn(slot).inbound.wants.unwrap_or(Want {
            since: now,
            asked: now,
            blocks,
            here: 0,
        });
        blocks <= self.room_for_coming() / SMALL_PART
            || first == slot
            || self.turn_of(slot, &own) < self.turn_of(first, &want)
    }

    /// Blocks for messages that are coming, and for those of remotes that wait.
    fn room_for_coming(&self) -> u32 {
        self.queue.pool.block_count() / INBOUND_SHARE
    }

    fn is_within_room(&self, blocks: u32) -> bool {
        self.kept_blocks + blocks <= self.room_for_coming()
    }

    /// One message may be as large as it likes.
    fn is_within_part_of_clients(&self, blocks: u32) -> bool {
        let clients = self.kept_of_clients;
        clients == 0 || clients + blocks <= self.room_for_coming() / 4 * FILL_OF_CLIENTS
    }

    /// The least is first.
    fn turn_of(&self, slot: u16, want: &Want) -> (bool, usize, Instant) {
        let bytes = widen(want.blocks) * BLOCK_BYTES;
        let begun_only = want.here < bytes.min(HERE_BYTES);
        (begun_only, self.held_by(self.holder_of(slot)), self.conn(slot).opened_at)
    }

    /// So many bytes of what finds no room have come.
    pub(super) fn lies_here(&mut self, now: Instant, conn: ConnId, bytes: usize) {
        let Some(slot) = self.live(conn) else { return };
        if let Some(want) = &mut self.conn_mut(slot).inbound.wants
            && want.here != bytes
        {
            want.here = bytes;
            // It may be before others now.
            self.shed_at = self.shed_at.min(now);
        }
    }

    /// The client that is to have room first.
    fn first_want(&self, now: Instant) -> Option<(u16, Want)> {
        let wants = (0..self.client_slots)
            .filter_map(|slot| Some((slot, self.conn(slot).inbound.wants?)))
            .filter(|(_, want)| want.asked.plus(ASKS_WITHIN) >= now);
        wants.min_by_key(|(slot, want)| self.turn_of(*slot, want))
    }

    /// Large messages that give way to others that wait. When to look again.
    pub(super) fn expire_filling(&mut self, now: Instant) -> Instant {
        loop {
            let of_links = self.conns.get(usize::from(self.client_slots)..).unwrap_or_default();
            let links = of_links.iter().filter_map(|conn| conn.inbound.wants);
            let links = links.filter(|want| want.asked.plus(ASKS_WITHIN) >= now);
            let first = self.first_want(now);
            let wants = first.map(|(_, want)| want).into_iter().chain(links);
            let Some(want) = wants.min_by_key(|want| want.since) else { return Instant::NEVER };
            let count = first.map_or(0, |(slot, _)| self.held_by(self.holder_of(slot)));
            if self.has_room(&want) {
                // It takes it when it is asked again.
                self.shed_at = self.shed_at.min(now);
                return now.plus(SLOW_GIVES_WAY);
            }
            let ends = |slot: &u16| {
                let filling = self.conn(*slot).inbound.filling?;
                Some((self.fills_until(now, *slot, &filling, count, &want), filling))
            };
            let slots =
                (0..fit(self.conns.len(), "slots")).filter_map(|slot| Some((slot, ends(&slot)?)));
            let last = slots.min_by_key(|(_, (until, filling))| {
                (*until, filling.flow.rate(now), Reverse(filling.since))
            });
            let Some((slot, (until, filling))) = last else { return now.plus(SLOW_GIVES_WAY) };
            if until > now {
                return until.min(now.plus(Duration::from_secs(1)));
            }
            let room = widen(self.room_for_coming()) * BLOCK_BYTES;
            let size = self.conn(slot).inbound.filling_bytes();
            let fatal = self.slow_packet(slot, filling.flow.rate(now));
            self.fail(now, slot, fatal.over(size, room, "ring.bytes"));
        }
    }

    fn has_room(&self, want: &Want) -> bool {
        let bytes = widen(want.blocks) * BLOCK_BYTES;
        self.is_within_part_of_clients(want.blocks)
            && self.is_within_room(want.blocks)
            && self.queue.fits(Reserve::ForRemotes, bytes, 0)
    }

    /// Until when a large message may go on coming while `want` waits for its room.
    fn fills_until(
        &self,
        now: Instant,
        slot: u16,
        filling: &Filling,
        count: usize,
        want: &Want,
    ) -> Instant {
        if matches!(self.conn(slot).role, Role::Link { .. }) {
            return filling.flow.grown().plus(FILL_STILL_MAX);
        }
        let underway = Underway {
            since: filling.since,
            rate: filling.flow.rate(now),
            left: wide(filling.left),
            count: self.held_by(self.holder_of(slot)),
        };
        match underway.gives_way(now, count) {
            Duration::MAX => Instant::NEVER,
            wait => want.since.plus(wait).max(filling.since.plus(Flow::SPAN)),
        }
    }

    /// The end of one whose packet comes so slowly that it gives way.
    fn slow_packet(&self, slot: u16, rate: u64) -> Fatal {
        let reason = match self.conn(slot).role {
            Role::Link { .. } => Reason::UNSPECIFIED,
            _ => Reason::SERVER_BUSY,
        };
        Fatal { rate: Some(rate), ..Fatal::new(reason, "slow_packet") }
    }

    /// The shell takes back a large buffer, in which so many bytes were to come.
    pub(super) fn is_slow(&mut self, now: Instant, conn: ConnId, size: usize, rate: u64) {
        let Some(slot) = self.live(conn) else { return };
        let limit = usize::from(self.config.limit.large_buffers);
        let fatal = self.slow_packet(slot, rate);
        self.fail(now, slot, fatal.over(size, limit, "limit.large_buffers"));
    }
}
