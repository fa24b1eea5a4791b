//! Ends: the peer's, ours, and those that deadlines bring.
//!
//! A gentle close says everything, then reads on until the peer's end: bytes that lie unread in a
//! socket turn its close into a reset, which may overtake what was said. Bounded in time by the
//! core's deadline and in bytes by [`CLOSE_BYTES`](crate::limits::CLOSE_BYTES).

use super::Links;
use crate::gateway::verbs::Event;
use crate::shell::conn::{Conn, State};
use crate::shell::core::Core;
use crate::vocab::{ConnId, Instant};
use core::time::Duration;

/// How long input behind parked packets may still be taken once its sender has gone.
const DEAF_FOR: Duration = Duration::from_secs(5);

/// How long a large buffer stands still while others wait for it, and how long a packet may
/// take in all then.
const LOAN_STILL_MAX: Duration = Duration::from_secs(10);
const LOAN_TOTAL_MAX: Duration = Duration::from_secs(60);

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

    /// Deadlines of closes, of ends nobody could read, of peers that do not read and of large
    /// buffers others wait for.
    pub(in crate::shell) fn expire(&mut self, now: Instant, core: &mut impl Core) {
        if now < self.due && !self.loans.is_awaited() {
            return;
        }
        for at in 0..self.slots.len() {
            let Ok(slot) = u16::try_from(at) else { return };
            let awaited = self.loans.is_awaited();
            let Some(conn) = self.conn(slot) else { continue };
            if awaited && loan_until(conn) <= now {
                self.close_now(now, slot, "slow_packet", core);
            } else if conn.is_stuck(now) {
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
        if !self.loans.is_awaited() {
            return self.due;
        }
        let loans = self.slots.iter().flatten().map(loan_until);
        loans.fold(self.due, Instant::min)
    }
}

/// How long a large buffer may be held while others wait. One whose packets the core cannot take
/// is not its sender's fault. A remote may take its time as long as something comes: its line is
/// what it is.
fn loan_until(conn: &Conn) -> Instant {
    match &conn.loan {
        // For a larger one, which those that wait for one as well may be in the way of.
        Some(loan) if conn.waiting => loan.since.plus(LOAN_TOTAL_MAX),
        Some(loan) if !conn.is_deaf() && conn.bridge => loan.grown.plus(LOAN_TOTAL_MAX),
        Some(loan) if !conn.is_deaf() => {
            loan.grown.plus(LOAN_STILL_MAX).min(loan.since.plus(LOAN_TOTAL_MAX))
        }
        Some(_) | None => Instant::NEVER,
    }
}
