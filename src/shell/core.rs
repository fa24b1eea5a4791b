//! What the event loop needs of the gateway, verb by verb, so that the loop can be tested with a
//! few lines in the gateway's place. No logic.

use crate::config::{Bridge, Config};
use crate::gateway::Gateway;
use crate::gateway::sys::Outside;
use crate::gateway::verbs::{Action, Event, Taken};
use crate::note::Note;
use crate::queue::store::{SpillStore, Stock};
use crate::vocab::{BridgeId, ConnId, Instant};
use core::time::Duration;
use std::net::SocketAddr;

pub trait Core {
    fn set_wall(&mut self, wall_s: u64);
    /// The wall clock has jumped.
    fn wall_jumped(&mut self);
    /// Is there a place for one more client? `Err`: when to ask again.
    fn room(&mut self, _now: Instant) -> Result<(), Instant> {
        Ok(())
    }
    /// A local client connected to a listener (by its place in the configuration). `None` = no
    /// slot, not even for a refusal.
    fn accept(&mut self, now: Instant, listener: u16, peer: SocketAddr) -> Option<ConnId>;
    fn handle(&mut self, now: Instant, event: Event<'_>);
    /// `buffer` is everything unread so far, old rest first.
    fn receive(&mut self, now: Instant, conn: ConnId, buffer: &mut [u8]) -> Taken;
    fn expire(&mut self, now: Instant);
    fn flush<S: SpillStore>(&mut self, now: Instant, store: &mut S);
    fn flush_ram(&mut self, now: Instant);
    /// The store has kept the loop until `now`; when it may be used again.
    fn store_took(&mut self, now: Instant, took: Duration) -> Instant;
    /// 0 = nothing (more) to send now.
    fn transmit(&mut self, now: Instant, conn: ConnId, out: &mut [u8]) -> usize;
    /// Is no exchange under way on it, so that the peer waits for nothing and we for nothing?
    fn is_over(&self, _conn: ConnId) -> bool {
        false
    }
    fn poll_ready(&mut self) -> Option<ConnId>;
    fn poll_resume(&mut self) -> Option<ConnId>;
    fn poll_action(&mut self) -> Option<Action>;
    fn poll_note(&mut self) -> Option<Note>;
    fn poll_at(&self) -> Instant;
    /// The store is of no more use to this core.
    fn is_store_damaged(&self) -> bool {
        false
    }
    /// A configuration that was read again.
    fn reload(&mut self, _now: Instant, _config: Config) {}
    /// What is in the store at the end of a clean stop; `None`: that is not known.
    fn stock(&self) -> Option<Stock> {
        None
    }
    /// The bridge in a place; `None` = vacant.
    fn bridge(&self, _bridge: BridgeId) -> Option<&Bridge> {
        None
    }
    fn stats(&self, now: Instant) -> Note;
    /// What the shell knows of itself.
    fn know_outside(&mut self, _outside: Outside) {}
    /// `None` past the last bridge.
    fn stats_bridge(&self, now: Instant, bridge: u16) -> Option<Note>;
}

impl Core for Gateway {
    fn set_wall(&mut self, wall_s: u64) {
        Gateway::set_wall(self, wall_s);
    }

    fn wall_jumped(&mut self) {
        Gateway::wall_jumped(self);
    }

    fn room(&mut self, now: Instant) -> Result<(), Instant> {
        Gateway::room(self, now)
    }

    fn accept(&mut self, now: Instant, listener: u16, peer: SocketAddr) -> Option<ConnId> {
        Gateway::accept(self, now, listener, peer)
    }

    fn handle(&mut self, now: Instant, event: Event<'_>) {
        Gateway::handle(self, now, event);
    }

    fn receive(&mut self, now: Instant, conn: ConnId, buffer: &mut [u8]) -> Taken {
        Gateway::receive(self, now, conn, buffer)
    }

    fn expire(&mut self, now: Instant) {
        Gateway::expire(self, now);
    }

    fn flush<S: SpillStore>(&mut self, now: Instant, store: &mut S) {
        Gateway::flush(self, now, store);
    }

    fn flush_ram(&mut self, now: Instant) {
        Gateway::flush_ram(self, now);
    }

    fn store_took(&mut self, now: Instant, took: Duration) -> Instant {
        Gateway::store_took(self, now, took)
    }

    fn transmit(&mut self, now: Instant, conn: ConnId, out: &mut [u8]) -> usize {
        Gateway::transmit(self, now, conn, out)
    }

    fn is_over(&self, conn: ConnId) -> bool {
        Gateway::is_over(self, conn)
    }

    fn poll_ready(&mut self) -> Option<ConnId> {
        Gateway::poll_ready(self)
    }

    fn poll_resume(&mut self) -> Option<ConnId> {
        Gateway::poll_resume(self)
    }

    fn poll_action(&mut self) -> Option<Action> {
        Gateway::poll_action(self)
    }

    fn poll_note(&mut self) -> Option<Note> {
        Gateway::poll_note(self)
    }

    fn poll_at(&self) -> Instant {
        Gateway::poll_at(self)
    }

    fn is_store_damaged(&self) -> bool {
        Gateway::is_store_damaged(self)
    }

    fn reload(&mut self, now: Instant, config: Config) {
        Gateway::reload(self, now, config);
    }

    fn stock(&self) -> Option<Stock> {
        Gateway::stock(self)
    }

    fn bridge(&self, bridge: BridgeId) -> Option<&Bridge> {
        Gateway::bridge(self, bridge)
    }

    fn know_outside(&mut self, outside: Outside) {
        Gateway::know_outside(self, outside);
    }

    fn stats(&self, now: Instant) -> Note {
        Gateway::stats(self, now)
    }

    fn stats_bridge(&self, now: Instant, bridge: u16) -> Option<Note> {
        Gateway::stats_bridge(self, now, bridge)
    }
}
