//! Ends: the peer's, ours, and those that deadlines bring.
//!
//! A gentle close says everything, then reads on until the peer's end: bytes that lie unread in a
//! socket turn its close into a reset, which may overtake what was said. Bounded in time by the
//! core's deadline and in bytes by [`CLOSE_BYTES`](crate::limits::CLOSE_BYTES).

use super::Links;
use crate::fit::wide;
use crate::gateway::slow::Underway;
use crate::gateway::verbs::Event;
use crate::limits::{FILL_STILL_MAX, LONG_GIVES_WAY, SLOW_GIVES_WAY};
use crate::shell::buffers::{Claim, Waiting};
use crate::shell::conn::{Conn, Loan, State};
use crate::shell::core::Core;
use crate::vocab::{ConnId, Instant};
use core::time::Duration;

/// How long input behind parked packets may still be taken once its sender has gone.
const DEAF_FOR: Duration = Duration::from_secs(5);

impl Links {
    /// A read returned 0.
    pub(super) fn peer_finished(&mut self, now: Instant, slot: u16, core: &mut impl Core) {
        let Some(conn) = self.conn(slot) else { return };
        conn.finished = true;
        let id = conn.id;
        match (conn.state, conn.broken) {
            (State::Draining, _) => self.close_now(now, slot, "closed", core),
            (_, Some(reason)) => self.close_now(now, slot, reason, core),
            (State::Flushing, None) => {}
            (State::Open | State::Connecting, None) => {
                self.set_deadline(slot, Instant::NEVER);
                core.handle(now, Event::PeerFinished { conn: id });
            }
        }
    }

    /// An end that cannot be read because the core takes nothing is told after a while.
    pub(super) fn watch_deaf(&mut self, now: Instant, slot: u16) {
        let Some(conn) = self.conn(slot) else { return };
        if conn.state != State::Open {
            return;
        }
        let wanted = conn.ending && conn.is_deaf();
        if wanted && conn.deadline == Instant::NEVER {
            self.set_deadline(slot, now.plus(DEAF_FOR));
        } else if !wanted {
            self.set_deadline(slot, Instant::NEVER);
        }
    }

    /// What the peer said before it broke off may still be readable, and worth reading.
    pub(super) fn write_failed(
        &mut self,
        now: Instant,
        slot: u16,
        reason: &'static str,
        core: &mut impl Core,
    ) {
        let Some(conn) = self.conn(slot) else { return };
        if conn.state != State::Open || conn.is_deaf() || conn.finished {
            return self.close_now(now, slot, reason, core);
        }
        conn.broken = Some(reason);
        conn.ending = true;
        conn.readable = true;
    }

    /// Says the end once everything is written.
    pub(super) fn finish_flush(&mut self, now: Instant, slot: u16, core: &mut impl Core) {
        let Some(conn) = self.conn(slot) else { return };
        if conn.state != State::Flushing || conn.wants || conn.out_bytes() > 0 {
            return;
        }
        conn.state = State::Draining;
        conn.readable = true;
        if conn.transport.finish().is_err() || conn.finished || conn.has_poured() {
            self.close_now(now, slot, "closed", core);
        }
    }

    /// The core wants it closed.
    pub(in crate::shell) fn close(
        &mut self,
        now: Instant,
        id: ConnId,
        after_flush: bool,
        deadline: Instant,
        core: &mut impl Core,
    ) {
        let Some(conn) = self.known(id) else { return };
        if !after_flush || conn.state == State::Connecting || conn.broken.is_some() {
            return self.close_now(now, id.slot, "closed", core);
        }
        conn.state = State::Flushing;
        conn.wants = true;
        conn.readable = true;
        conn.rest = 0;
        conn.waiting = false;
        let loan = conn.loan.take();
        self.set_deadline(id.slot, deadline);
        self.loans.forget(id.slot);
        if let Some(loan) = loan {
            self.loans.give_back(loan.large);
        }
        self.serve_waiting(now);
        self.line_up(id.slot);
    }

    /// Ends a connection for good and tells the core.
    pub(super) fn close_now(
        &mut self,
        now: Instant,
        slot: u16,
        reason: &'static str,
        core: &mut impl Core,
    ) {
        let Some(mut conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            return;
        };
        let id = conn.id;
        conn.rest = 0;
        conn.out_end = conn.out_start;
        conn.tidy_up(&mut self.smalls);
        self.loans.forget(slot);
        if let Some(loan) = conn.loan {
            self.loans.give_back(loan.large);
        }
        self.serve_waiting(now);
        core.handle(now, Event::Closed { conn: id, reason });
    }

    /// Deadlines of closes, of ends nobody could read and of peers that do not read; large buffers
    /// that others wait for.
    pub(in crate::shell) fn expire(&mut self, now: Instant, core: &mut impl Core) {
        if self.loans.is_awaited() && now >= self.look_at {
            self.take_back(now, core);
        }
        if now < self.due {
            return;
        }
        for at in 0..self.slots.len() {
            let Ok(slot) = u16::try_from(at) else { return };
            let Some(conn) = self.conn(slot) else { continue };
            if conn.is_stuck(now) {
                self.close_now(now, slot, "slow_reader", core);
            } else if conn.deadline <= now {
                match conn.state {
                    State::Flushing | State::Draining => {
                        self.close_now(now, slot, "closed", core);
                    }
                    State::Open | State::Connecting => self.peer_finished(now, slot, core),
                }
            }
        }
        let deadlines = self.slots.iter().flatten().map(|c| c.deadline.min(c.write_until));
        self.due = deadlines.min().unwrap_or(Instant::NEVER);
    }

    pub(in crate::shell) fn poll_at(&self) -> Instant {
        if self.loans.is_awaited() { self.due.min(self.look_at) } else { self.due }
    }

    /// Large buffers that others wait for, from those whose packets hardly come: no more of them
    /// than wait. The core ends the connections.
    fn take_back(&mut self, now: Instant, core: &mut impl Core) {
        self.look_at = now.plus(SLOW_GIVES_WAY);
        for _ in 0..self.loans.waiting().count() {
            let due = self.slots.iter().flatten().filter_map(|conn| {
                let loan = conn.loan.as_ref().filter(|_| !conn.slow)?;
                let until = self.loan_until(now, conn, loan);
                (until <= now).then_some((conn, (until, loan.flow.rate(now))))
            });
            let Some((conn, (_, rate))) = due.min_by_key(|(_, rank)| *rank) else { return };
            let (id, size) = (conn.id, conn.packet_bytes.unwrap_or(conn.rest));
            if let Some(conn) = self.known(id) {
                conn.slow = true;
            }
            core.handle(now, Event::Slow { conn: id, size, rate });
        }
    }

    /// How long a large buffer may be held while others wait. One whose packets the core cannot
    /// take is not its sender's fault.
    fn loan_until(&self, now: Instant, conn: &Conn, loan: &Loan) -> Instant {
        let slot = conn.id.slot;
        let others = || self.loans.waiting().filter(|one| one.slot != slot);
        if conn.parked || loan.large.is_reserve() && !others().any(|one| one.bridge) {
            return Instant::NEVER;
        }
        let since = |wants: &dyn Fn(&Waiting) -> bool| {
            others().filter(|one| wants(one)).map(|one| one.since).min().unwrap_or(Instant::NEVER)
        };
        let known = since(&|one| one.claim < Claim::Stranger);
        if conn.bridge {
            return match known {
                Instant::NEVER => known,
                _ => loan.flow.grown().plus(FILL_STILL_MAX),
            };
        }
        if conn.waiting {
            // For a larger one, which those that wait for one as well may be in the way of.
            return known.plus(LONG_GIVES_WAY);
        }
        if conn.is_deaf() {
            return Instant::NEVER;
        }
        if conn.holder == 0 && known < Instant::NEVER {
            return known.max(loan.since.plus(SLOW_GIVES_WAY));
        }
        let packet_bytes = conn.packet_bytes.unwrap_or(conn.rest);
        let underway = Underway {
            since: loan.since,
            rate: loan.flow.rate(now),
            left: wide(packet_bytes.saturating_sub(conn.rest)),
            count: self.loans_of(conn.holder),
        };
        let wait = underway.gives_way(now, 1);
        // A stranger moves only what hardly comes.
        let stranger = since(&|one| one.claim == Claim::Stranger);
        let stranger = if wait == SLOW_GIVES_WAY { stranger } else { Instant::NEVER };
        if wait == Duration::MAX { Instant::NEVER } else { known.min(stranger).plus(wait) }
    }

    fn loans_of(&self, holder: u64) -> usize {
        let conns = self.slots.iter().flatten();
        conns.filter(|conn| conn.loan.is_some() && conn.holder == holder).count()
    }
}
