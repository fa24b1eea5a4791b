//! The table of connections: moves bytes between sockets and the core, fairly and batched.
//!
//! Readiness is edge-triggered and remembered; who may read or write stands in a queue once, is
//! served up to a bound a turn and goes to the back. A read never takes more than can be kept
//! should the core take nothing of it. Every connection the core knows ends with exactly one
//! `Closed`. Never allocates after start.

use super::buffers::{Loans, OWN_BYTES, Pairs, SCRATCH_BYTES, connection_count};
use super::conn::{Conn, Room, State};
use super::core::Core;
use super::socket;
use super::transport::Transport;
use crate::config::Config;
use crate::gateway::verbs::{Event, Taken};
use crate::vocab::{ConnId, Instant};
use core::time::Duration;
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::io;

/// Bytes read from one connection a turn.
const READ_BYTES_A_TURN: usize = 64 * 1024;

/// Bytes written to one connection a turn.
const WRITE_BYTES_A_TURN: usize = 128 * 1024;

/// How long input behind parked packets may still be taken once its sender has gone.
const DEAF_FOR: Duration = Duration::from_secs(5);

/// How long a large buffer stands still while others wait for it, and how long a packet may
/// take in all then.
const LOAN_STILL_MAX: Duration = Duration::from_secs(10);
const LOAN_TOTAL_MAX: Duration = Duration::from_secs(60);

/// Slots in line, each once.
#[derive(Debug)]
struct Line {
    slots: VecDeque<u16>,
    queued: Box<[bool]>,
}

impl Line {
    fn new(count: usize) -> Self {
        Self {
            slots: VecDeque::with_capacity(count),
            queued: vec![false; count].into_boxed_slice(),
        }
    }

    fn join(&mut self, slot: u16) {
        if let Some(queued) = self.queued.get_mut(usize::from(slot))
            && !*queued
        {
            *queued = true;
            self.slots.push_back(slot);
        }
    }

    fn next(&mut self) -> Option<u16> {
        let slot = self.slots.pop_front()?;
        self.queued[usize::from(slot)] = false;
        Some(slot)
    }
}

#[derive(Debug)]
pub(super) struct Links {
    slots: Box<[Option<Conn>]>,
    readers: Line,
    writers: Line,
    pairs: Pairs,
    loans: Loans,
    scratch: Box<[u8]>,
    /// Token of slot 0.
    token: usize,
    /// Connections with a deadline.
    timed_count: usize,
}

impl Links {
    pub(super) fn new(config: &Config, token: usize) -> Self {
        let count = connection_count(config);
        let loans = Loans::new(config);
        let scratch_bytes = SCRATCH_BYTES.min(loans.large_bytes());
        Self {
            slots: (0..count).map(|_| None).collect(),
            readers: Line::new(count),
            writers: Line::new(count),
            pairs: Pairs::new(config),
            loans,
            scratch: vec![0; scratch_bytes].into_boxed_slice(),
            token,
            timed_count: 0,
        }
    }

    fn conn(&mut self, slot: u16) -> Option<&mut Conn> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    fn known(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conn(id.slot).filter(|conn| conn.id == id)
    }

    /// Connections there is room for.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Work is left that needs no event.
    pub(super) fn is_busy(&self) -> bool {
        !self.readers.slots.is_empty() || !self.writers.slots.is_empty()
    }

    /// Takes a socket in. `Err` = it is closed already, for this reason.
    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        id: ConnId,
        transport: io::Result<Transport>,
        bridge: bool,
    ) -> Result<(), &'static str> {
        let mut transport = transport.map_err(|error| socket::reason(&error))?;
        let at = usize::from(id.slot);
        let vacant = self.slots.get(at).is_some_and(Option::is_none);
        if !vacant {
            return Err("no_slot");
        }
        transport
            .register(registry, Token(self.token + at))
            .map_err(|error| socket::reason(&error))?;
        let pair = self.pairs.take(bridge).ok_or("no_buffers")?;
        self.slots[at] = Some(Conn::new(id, transport, bridge, pair));
        Ok(())
    }

    /// An accepted socket is established from the start.
    pub(super) fn open(&mut self, id: ConnId) {
        if let Some(conn) = self.known(id) {
            conn.state = State::Open;
            conn.readable = true;
            conn.writable = true;
            self.line_up(id.slot);
        }
    }

    /// Remembers what the poll said about the connection of `slot`.
    pub(super) fn event(
        &mut self,
        now: Instant,
        slot: usize,
        event: &mio::event::Event,
        core: &mut impl Core,
    ) {
        let Ok(slot) = u16::try_from(slot) else { return };
        let Some(conn) = self.conn(slot) else { return };
        if conn.state == State::Connecting {
            let id = conn.id;
            match conn.transport.establish() {
                Ok(false) => return,
                Ok(true) => {
                    self.open(id);
                    core.handle(now, Event::Connected { conn: id });
                }
                Err(error) => return self.close_now(now, slot, socket::reason(&error), core),
            }
        }
        let Some(conn) = self.conn(slot) else { return };
        conn.readable |= event.is_readable() || event.is_error();
        conn.writable |= event.is_writable();
        if event.is_read_closed() || event.is_error() {
            conn.ending = true;
            conn.readable = true;
            self.watch_deaf(now, slot);
        }
        self.line_up(slot);
    }

    /// Puts the connection where its state lets it stand.
    fn line_up(&mut self, slot: u16) {
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return;
        };
        if conn.may_read() {
            self.readers.join(slot);
        }
        if conn.may_write() {
            self.writers.join(slot);
        }
    }

    /// One round over everybody who has something to be read.
    pub(super) fn read_all(&mut self, now: Instant, core: &mut impl Core) {
        for _ in 0..self.readers.slots.len() {
            let Some(slot) = self.readers.next() else { return };
            self.read(now, slot, core);
            self.line_up(slot);
        }
    }

    fn read(&mut self, now: Instant, slot: u16, core: &mut impl Core) {
        let mut budget = READ_BYTES_A_TURN;
        while budget > 0 {
            let Some(conn) = self.conn(slot) else { return };
            if !conn.may_read() {
                break;
            }
            let outcome = match conn.state {
                State::Open => self.read_once(now, slot, core),
                State::Connecting | State::Flushing | State::Draining => self.discard(slot),
            };
            match outcome {
                Ok(0) => return self.peer_finished(now, slot, core),
                Ok(count) => budget = budget.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    return self.close_now(now, slot, socket::reason(&error), core);
                }
            }
        }
        if let Some(Conn { broken: Some(reason), readable: false, .. }) = self.conn(slot) {
            let reason = *reason;
            return self.close_now(now, slot, reason, core);
        }
        self.watch_deaf(now, slot);
    }

    /// One read and its presentation. `WouldBlock` = nothing more for now.
    fn read_once(&mut self, now: Instant, slot: u16, core: &mut impl Core) -> io::Result<usize> {
        let idle = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return idle();
        };
        let gamble = !conn.is_parked() && self.loans.may_gamble(conn.bridge);
        let rest = conn.rest;
        let (read, room, scratch) = match conn.room(gamble) {
            Room::Full => {
                conn.full = true;
                return idle();
            }
            Room::Needed => {
                match self.loans.borrow(conn.bridge) {
                    Some(large) => conn.lend(large, now),
                    None => {
                        conn.waiting = true;
                        self.loans.wait(slot, conn.bridge);
                        return idle();
                    }
                }
                let room = conn.input().len() - rest;
                (read_into(conn, None, room)?, room, false)
            }
            Room::Own(room) => (read_into(conn, None, room)?, room, false),
            Room::Scratch => {
                let room = self.scratch.len() - rest;
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
            loan.grown = now;
        }
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
        let Taken { kept, open, packet_bytes } = core.receive(now, id, &mut buffer[..bytes]);
        assert!(kept <= bytes, "the core keeps no more than it was shown");
        conn.rest = kept;
        conn.packet_bytes = packet_bytes;
        conn.paused = !open;
        conn.full = false;
        if scratch {
            if kept > OWN_BYTES {
                // `may_gamble` said that there is one, and nothing was lent since.
                let Some(mut large) = self.loans.borrow(conn.bridge) else {
                    unreachable!("a read through the scratch is covered by a large buffer");
                };
                large.bytes[..kept].copy_from_slice(&self.scratch[..kept]);
                conn.lend_filled(large, now);
            } else {
                conn.pair.rest[..kept].copy_from_slice(&self.scratch[..kept]);
            }
        } else if let Some(loan) = &mut conn.loan {
            if kept < bytes {
                // A packet is through: the next one has its own time.
                loan.since = now;
            }
            if let Some(large) = conn.unlend() {
                self.loans.give_back(large);
                self.serve_waiting(now);
            }
        }
    }

    /// Hands out what was given back.
    fn serve_waiting(&mut self, now: Instant) {
        while let Some((slot, large)) = self.loans.next_served() {
            match self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) {
                Some(conn) => conn.lend(large, now),
                None => self.loans.give_back(large),
            }
            self.line_up(slot);
        }
    }

    fn discard(&mut self, slot: u16) -> io::Result<usize> {
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
            return Ok(0);
        };
        let room = self.scratch.len();
        conn.rest = 0;
        let read = read_into(conn, Some(&mut self.scratch), room)?;
        if read < room && read > 0 && !conn.ending {
            conn.readable = false;
        }
        Ok(read)
    }

    /// A read returned 0.
    fn peer_finished(&mut self, now: Instant, slot: u16, core: &mut impl Core) {
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
    fn watch_deaf(&mut self, now: Instant, slot: u16) {
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

    fn set_deadline(&mut self, slot: u16, deadline: Instant) {
        let Some(conn) = self.conn(slot) else { return };
        let before = conn.deadline != Instant::NEVER;
        conn.deadline = deadline;
        let after = deadline != Instant::NEVER;
        self.timed_count = self.timed_count + usize::from(after) - usize::from(before);
    }

    /// Shows the core again what it could not take before.
    pub(super) fn resume(&mut self, now: Instant, id: ConnId, core: &mut impl Core) {
        let Some(conn) = self.known(id) else { return };
        if conn.state != State::Open {
            return;
        }
        let bytes = conn.rest;
        conn.paused = false;
        conn.full = false;
        if bytes > 0 {
            self.present(now, id.slot, bytes, false, core);
        }
        self.watch_deaf(now, id.slot);
        self.line_up(id.slot);
    }

    /// The core may have bytes for this connection.
    pub(super) fn ready(&mut self, id: ConnId) {
        if let Some(conn) = self.known(id) {
            conn.wants = true;
            self.line_up(id.slot);
        }
    }

    /// One round over everybody who has something to be written.
    pub(super) fn write_all(&mut self, now: Instant, core: &mut impl Core) {
        for _ in 0..self.writers.slots.len() {
            let Some(slot) = self.writers.next() else { return };
            let Some(conn) = self.conn(slot) else { continue };
            if !conn.may_write() {
                continue;
            }
            match write(conn, now, core) {
                Ok(()) => self.finish_flush(now, slot, core),
                Err(error) => self.write_failed(now, slot, socket::reason(&error), core),
            }
            self.line_up(slot);
        }
    }

    /// What the peer said before it broke off may still be readable, and worth reading.
    fn write_failed(
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
    fn finish_flush(&mut self, now: Instant, slot: u16, core: &mut impl Core) {
        let Some(conn) = self.conn(slot) else { return };
        if conn.state != State::Flushing || conn.wants || conn.out_bytes() > 0 {
            return;
        }
        conn.state = State::Draining;
        conn.readable = true;
        if conn.transport.finish().is_err() || conn.finished {
            self.close_now(now, slot, "closed", core);
        }
    }

    /// The core wants it closed.
    pub(super) fn close(
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
    fn close_now(&mut self, now: Instant, slot: u16, reason: &'static str, core: &mut impl Core) {
        self.set_deadline(slot, Instant::NEVER);
        let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::take) else {
            return;
        };
        let id = conn.id;
        self.pairs.give(conn.pair);
        self.loans.forget(slot);
        if let Some(loan) = conn.loan {
            self.loans.give_back(loan.large);
        }
        self.serve_waiting(now);
        core.handle(now, Event::Closed { conn: id, reason });
    }

    /// Deadlines of closes, of ends nobody could read and of large buffers others wait for.
    pub(super) fn expire(&mut self, now: Instant, core: &mut impl Core) {
        if self.timed_count == 0 && !self.loans.is_awaited() {
            return;
        }
        for at in 0..self.slots.len() {
            let Ok(slot) = u16::try_from(at) else { return };
            let awaited = self.loans.is_awaited();
            let Some(conn) = self.conn(slot) else { continue };
            if awaited && loan_until(conn) <= now {
                self.close_now(now, slot, "slow_packet", core);
            } else if conn.deadline <= now {
                match conn.state {
                    State::Flushing | State::Draining => {
                        self.close_now(now, slot, "closed", core);
                    }
                    State::Open | State::Connecting => self.peer_finished(now, slot, core),
                }
            }
        }
    }

    pub(super) fn poll_at(&self) -> Instant {
        let mut at = Instant::NEVER;
        let awaited = self.loans.is_awaited();
        if self.timed_count == 0 && !awaited {
            return at;
        }
        for conn in self.slots.iter().flatten() {
            at = at.min(conn.deadline);
            if awaited {
                at = at.min(loan_until(conn));
            }
        }
        at
    }
}

/// How long a large buffer may be held while others wait. One whose packets the core cannot take
/// is not its sender's fault.
fn loan_until(conn: &Conn) -> Instant {
    match &conn.loan {
        Some(loan) if !conn.is_deaf() => {
            loan.grown.plus(LOAN_STILL_MAX).min(loan.since.plus(LOAN_TOTAL_MAX))
        }
        Some(_) | None => Instant::NEVER,
    }
}

/// Reads behind what is kept: into the scratch (with what is kept copied in front), or into the
/// connection's own memory.
fn read_into(conn: &mut Conn, scratch: Option<&mut [u8]>, room: usize) -> io::Result<usize> {
    let rest = conn.rest;
    let (kept, transport) = match &mut conn.loan {
        Some(loan) => (&mut loan.large.bytes, &mut conn.transport),
        None => (&mut conn.pair.rest, &mut conn.transport),
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

/// Takes bytes from the core and writes them, until one of the two has enough.
fn write(conn: &mut Conn, now: Instant, core: &mut impl Core) -> io::Result<()> {
    let mut budget = WRITE_BYTES_A_TURN;
    while budget > 0 {
        fill(conn, now, core);
        if conn.out_bytes() == 0 {
            return Ok(());
        }
        match conn.transport.write(&conn.pair.out[conn.out_start..conn.out_end]) {
            Ok(count) => {
                conn.out_start += count;
                budget = budget.saturating_sub(count);
                if conn.out_bytes() > 0 {
                    // A short write has filled the socket: room is a new event.
                    conn.writable = false;
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.writable = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks the core for bytes as long as there is decent room for them.
fn fill(conn: &mut Conn, now: Instant, core: &mut impl Core) {
    if conn.out_start > 0 {
        conn.pair.out.copy_within(conn.out_start..conn.out_end, 0);
        conn.out_end -= conn.out_start;
        conn.out_start = 0;
    }
    while conn.wants && conn.pair.out.len() - conn.out_end >= conn.pair.out.len() / 2 {
        let room = &mut conn.pair.out[conn.out_end..];
        let bytes = core.transmit(now, conn.id, room);
        assert!(bytes <= room.len(), "the core fills no more than it was given");
        conn.out_end += bytes;
        conn.wants = bytes > 0;
    }
}
