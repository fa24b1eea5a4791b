//! The table of connections: moves bytes between sockets and the core, fairly and batched.
//!
//! Readiness is edge-triggered and remembered; who may read or write stands in a queue once, is
//! served up to a bound a turn and goes to the back. A read never takes more than can be kept
//! should the core take nothing of it. Every connection the core knows ends with exactly one
//! `Closed`. Never allocates after start.

mod closing;
mod prompt;
mod receiving;
mod sending;

use super::buffers::{Loans, SCRATCH_BYTES, Smalls, connection_count};
use super::conn::{Conn, State};
use super::core::Core;
use super::socket;
use super::transport::Transport;
use crate::config::Config;
use crate::gateway::verbs::Event;
use crate::vocab::{ConnId, Instant};
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::io;

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
    /// Those that were read from and not written to since.
    unanswered: Line,
    /// When the first of them is to be acknowledged.
    prompt_at: Instant,
    smalls: Smalls,
    loans: Loans,
    scratch: Box<[u8]>,
    /// Token of slot 0.
    token: usize,
    /// No deadline of a connection is earlier.
    due: Instant,
    /// When those that have large buffers are looked at, while others wait for one.
    look_at: Instant,
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
            unanswered: Line::new(count),
            prompt_at: Instant::NEVER,
            smalls: Smalls::new(config),
            loans,
            scratch: vec![0; scratch_bytes].into_boxed_slice(),
            token,
            due: Instant::NEVER,
            look_at: Instant::NEVER,
        }
    }

    pub(super) fn conn(&mut self, slot: u16) -> Option<&mut Conn> {
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

    /// Bytes may be left that were not read for want of time.
    pub(super) fn is_reading(&self) -> bool {
        !self.readers.slots.is_empty()
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
        self.slots[at] = Some(Conn::new(id, transport, bridge));
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
        if conn.later {
            let (id, bytes) = (conn.id, conn.rest + conn.transport.available());
            core.handle(now, Event::Here { conn: id, bytes });
        }
        let large_bytes = self.loans.large_bytes();
        let Some(conn) = self.conn(slot) else { return };
        if conn.waiting {
            let claim = conn.claim(large_bytes);
            self.loans.claims(slot, claim);
            self.serve_waiting(now);
        }
        let Some(conn) = self.conn(slot) else { return };
        conn.writable |= event.is_writable();
        if event.is_read_closed() || event.is_error() {
            conn.ending = true;
            conn.readable = true;
            self.watch_deaf(now, slot);
        }
        self.line_up(slot);
    }

    /// Puts the connection where its state lets it stand.
    pub(super) fn line_up(&mut self, slot: u16) {
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

    fn set_deadline(&mut self, slot: u16, deadline: Instant) {
        let Some(conn) = self.conn(slot) else { return };
        conn.deadline = deadline;
        self.due = self.due.min(deadline);
    }

    /// Bytes the core gave that the peer's side has not confirmed; `None` without a connection.
    pub(super) fn outstanding(&mut self, id: ConnId) -> Option<usize> {
        self.known(id).map(|conn| conn.out_bytes() + conn.transport.outstanding())
    }

    /// The core may have bytes for this connection.
    pub(super) fn ready(&mut self, id: ConnId) {
        if let Some(conn) = self.known(id) {
            conn.wants = true;
            self.line_up(id.slot);
        }
    }
}
