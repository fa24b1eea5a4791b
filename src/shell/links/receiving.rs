//! Reading: from the sockets to the core, and what the core leaves back into memory.

use super::Links;
use crate::fit::wide;
use crate::gateway::verbs::{Event, Taken};
use crate::limits::SLOW_GIVES_WAY;
use crate::shell::buffers::{Claim, OWN_BYTES};
use crate::shell::conn::{Conn, Room, State};
use crate::shell::core::Core;
use crate::shell::socket;
use crate::vocab::{ConnId, Flow, Instant};
use std::io;

/// Bytes read from one connection a turn.
const READ_BYTES_A_TURN: usize = 32 * 1024;

/// Bytes read from all of them a turn: about what the ring takes in before something has to be
/// written. Who was not served is first in line in the next turn.
const READ_BYTES_A_ROUND: usize = 64 * 1024;

impl Links {
    /// One round over everybody who has something to be read.
    pub(in crate::shell) fn read_all(&mut self, now: Instant, core: &mut impl Core) {
        let mut budget = READ_BYTES_A_ROUND;
        for _ in 0..self.readers.slots.len() {
            if budget == 0 {
                return;
            }
            let Some(slot) = self.readers.next() else { return };
            let read = self.read(now, slot, budget.min(READ_BYTES_A_TURN), core);
            budget = budget.saturating_sub(read);
            self.line_up(slot);
        }
    }

    /// Reads up to `budget` bytes; how many there were.
    fn read(&mut self, now: Instant, slot: u16, budget: usize, core: &mut impl Core) -> usize {
        let mut total = 0;
        while total < budget {
            let Some(conn) = self.conn(slot) else { return total };
            if !conn.may_read() {
                break;
            }
            let outcome = match conn.state {
                State::Open => self.read_once(now, slot, budget - total, core),
                State::Connecting | State::Flushing | State::Draining => self.discard(slot),
            };
            match outcome {
                Ok(0) => {
                    self.peer_finished(now, slot, core);
                    return total;
                }
                Ok(count) => total += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.close_now(now, slot, socket::reason(&error), core);
                    return total;
                }
            }
        }
        if let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) {
            conn.tidy_up(&mut self.smalls);
        }
        if self.conn(slot).is_some_and(|conn| conn.has_poured()) {
            self.close_now(now, slot, "closed", core);
        } else if let Some(Conn { broken: Some(reason), readable: false, .. }) = self.conn(slot) {
            let reason = *reason;
            self.close_now(now, slot, reason, core);
        } else {
            self.watch_deaf(now, slot);
        }
        total
    }

    /// One read of up to `most` bytes and its presentation. `WouldBlock` = nothing more for now.
    fn read_once(
        &mut self,
        now: Instant,
        slot: u16,
        most: usize,
        core: &mut impl Core,
    ) -> io::Result<usize> {
        let idle = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return idle();
        };
        let known = conn.bridge || conn.holder != 0;
        let gamble = known && !conn.is_parked() && self.loans.may_gamble(conn.bridge);
        let rest = conn.rest;
        let (read, room, scratch) = match conn.room(gamble) {
            Room::Full => {
                conn.full = true;
                return idle();
            }
            Room::Needed => {
                let bytes = conn.packet_bytes.unwrap_or(0);
                let held = conn.loan.as_ref().map_or(0, |loan| loan.large.held());
                let (bridge, claim) = (conn.bridge, conn.claim(self.loans.large_bytes()));
                match self.loans.borrow(bridge, claim, bytes, held) {
                    Some(large) => self.loans.replaced(conn.lend(large, now)),
                    None => {
                        conn.waiting = true;
                        self.loans.wait(now, slot, bridge, claim, bytes, held);
                        self.look_at = self.look_at.min(now.plus(SLOW_GIVES_WAY));
                        // It may be before others.
                        self.serve_waiting(now);
                        return idle();
                    }
                }
                let room = most.min(conn.input().len() - rest);
                (read_into(conn, None, room)?, room, false)
            }
            Room::Own(room) => {
                if conn.loan.is_none() {
                    conn.own_up(&mut self.smalls);
                }
                let room = room.min(most);
                (read_into(conn, None, room)?, room, false)
            }
            Room::Scratch => {
                let room = most.min(self.scratch.len() - rest);
                (read_into(conn, Some(&mut self.scratch), room)?, room, true)
            }
        };
        if read == 0 {
            return Ok(0);
        }
        // A short read has emptied the socket; the next bytes are a new event. An announced end
        // has had its event and has to be read.
        if read < room && !conn.ending {
            conn.readable = false;
        }
        if let Some(loan) = &mut conn.loan {
            loan.flow.add(now, wide(read));
        }
        conn.unanswered += read;
        conn.read_at = now;
        self.unanswered.join(slot);
        self.present(now, slot, rest + read, scratch, core);
        Ok(read)
    }

    /// Shows the core `bytes` bytes, in the scratch or in the connection's memory, and stows
    /// away what it leaves.
    fn present(
        &mut self,
        now: Instant,
        slot: u16,
        bytes: usize,
        scratch: bool,
        core: &mut impl Core,
    ) {
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return;
        };
        let id = conn.id;
        let buffer = if scratch { &mut self.scratch[..] } else { conn.input() };
        let taken = core.receive(now, id, &mut buffer[..bytes]);
        let Taken { kept, open, packet_bytes, later, short, parked, holder } = taken;
        assert!(kept <= bytes, "the core keeps no more than it was shown");
        conn.rest = kept;
        conn.packet_bytes = packet_bytes;
        (conn.later, conn.short) = (later, short);
        (conn.parked, conn.holder) = (parked, holder);
        conn.paused = !open;
        conn.full = false;
        if later {
            let bytes = kept + conn.transport.available();
            core.handle(now, Event::Here { conn: id, bytes });
        }
        if scratch {
            if kept > OWN_BYTES {
                // `may_gamble` said that there is one, and nothing was lent since.
                let Some(mut large) = self.loans.borrow(conn.bridge, Claim::Here, kept, 0) else {
                    unreachable!("a read through the scratch is covered by a large buffer");
                };
                large.bytes[..kept].copy_from_slice(&self.scratch[..kept]);
                conn.lend_filled(large, now);
            } else {
                if kept > 0 {
                    let own = conn.own_up(&mut self.smalls);
                    own[..kept].copy_from_slice(&self.scratch[..kept]);
                }
            }
        } else if let Some(loan) = &mut conn.loan {
            if kept < bytes {
                // A packet is through: the next one has its own time.
                (loan.since, loan.flow) = (now, Flow::begin(now));
            }
            if let Some(large) = conn.unlend(&mut self.smalls) {
                if core::mem::take(&mut conn.waiting) {
                    // What it needed more is not needed any more.
                    self.loans.forget(slot);
                }
                conn.tidy_up(&mut self.smalls);
                self.loans.give_back(large);
                self.serve_waiting(now);
                return;
            }
        }
        if conn.waiting && conn.room(false) != Room::Needed {
            // The core has found room for it without.
            conn.waiting = false;
            self.loans.forget(slot);
        }
        conn.tidy_up(&mut self.smalls);
    }

    /// Hands out what was given back.
    pub(super) fn serve_waiting(&mut self, now: Instant) {
        while let Some((slot, large)) = self.loans.next_served() {
            match self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) {
                Some(conn) => self.loans.replaced(conn.lend(large, now)),
                None => self.loans.give_back(large),
            }
            self.line_up(slot);
        }
    }

    fn discard(&mut self, slot: u16) -> io::Result<usize> {
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return Ok(0);
        };
        let room = self.scratch.len().min(conn.discard_left);
        conn.rest = 0;
        let read = read_into(conn, Some(&mut self.scratch), room)?;
        conn.discard_left -= read;
        if read < room && read > 0 && !conn.ending {
            conn.readable = false;
        }
        Ok(read)
    }

    /// Shows the core again what it could not take before.
    pub(in crate::shell) fn resume(&mut self, now: Instant, id: ConnId, core: &mut impl Core) {
        let Some(conn) = self.known(id) else { return };
        if conn.state != State::Open {
            return;
        }
        let bytes = conn.rest;
        conn.paused = false;
        conn.full = false;
        // Also without a byte: what it waits with may be in the core.
        self.present(now, id.slot, bytes, false, core);
        self.watch_deaf(now, id.slot);
        self.line_up(id.slot);
    }
}

/// Reads behind what is kept: into the scratch (with what is kept copied in front), or into the
/// connection's own memory.
fn read_into(conn: &mut Conn, scratch: Option<&mut [u8]>, room: usize) -> io::Result<usize> {
    let rest = conn.rest;
    let transport = &mut conn.transport;
    let kept = match (&mut conn.loan, &mut conn.own) {
        (Some(loan), _) => &mut loan.large.bytes[..],
        (None, Some(own)) => &mut own[..],
        (None, None) => &mut [],
    };
    let answer = match scratch {
        Some(scratch) => {
            scratch[..rest].copy_from_slice(&kept[..rest]);
            transport.read(&mut scratch[rest..rest + room])
        }
        None => transport.read(&mut kept[rest..rest + room]),
    };
    if let Err(error) = &answer
        && error.kind() == io::ErrorKind::WouldBlock
    {
        conn.readable = false;
    }
    answer
}
