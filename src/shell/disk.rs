//! The store's part of a turn: the look whether it is still there, its house-keeping, and the one
//! flush. Time that a slow disk takes is known to the core. Decides nothing about what is stored.

use super::{Core, EventLoop};
use crate::fit::millis;
use crate::limits::{STORE_SLOW, STORE_SLOW_FOR};
use crate::note::Note;
use crate::queue::store::{SpillStore, StoreError};
use crate::vocab::Instant;
use core::time::Duration;

/// House-keeping that failed is tried again after this; a commit that needs it tries earlier.
const MAINTAIN_RETRY: Duration = Duration::from_secs(5);

/// How often it is looked whether the store still lies where it did.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// When to look at the store's files again.
#[derive(Debug)]
pub(super) struct Watch {
    at: Instant,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now.plus(LOOK_INTERVAL) }
    }

    /// What follows may be the last.
    pub(super) fn now(&mut self) {
        self.at = Instant::ZERO;
    }
}

impl<C: Core, S: SpillStore> EventLoop<C, S> {
    /// The store's part of a turn: one slow thing at most. Returns what time it is now.
    pub(super) fn use_store(&mut self, now: Instant) -> Instant {
        let mut now = now;
        if now >= self.look_at() {
            self.look_at_store(now);
            now = self.left_store(now, "look");
        }
        if now >= self.rest_until {
            self.maintain(now);
            now = self.left_store(now, "maintain");
        }
        match &mut self.store {
            Some(store) => self.core.flush(now, store),
            None => self.core.flush_ram(now),
        }
        self.left_store(now, "flush")
    }

    fn left_store(&mut self, entered: Instant, part: &'static str) -> Instant {
        let now = self.clock.now();
        self.figures.lap(now, part);
        let took = now.since(entered);
        if took < STORE_SLOW || self.store.is_none() {
            return entered;
        }
        self.slow_until = now.plus(STORE_SLOW_FOR);
        self.rest_until = self.core.store_took(now, took);
        now
    }

    /// When to look next; a slow disk is left alone.
    pub(super) fn look_at(&self) -> Instant {
        if self.store.is_some() { self.watch.at.max(self.rest_until) } else { Instant::NEVER }
    }

    /// Is it still there? What was taken away is put back, a piece a turn.
    fn look_at_store(&mut self, now: Instant) {
        let Some(store) = &mut self.store else { return };
        let looked = store.look();
        self.watch.at = if looked == Ok(false) { now } else { now.plus(LOOK_INTERVAL) };
        while let Some(note) = store.poll_note() {
            self.logging.note(now, &note);
        }
        self.damaged |= looked == Err(StoreError::Corrupt);
    }

    /// The process ends, and with it what is open and has no name. The alarm that guards a stop
    /// ends this too.
    pub(super) fn bring_store_back(&mut self) {
        self.look_at_store(self.clock.now());
        while self.store.is_some() && self.watch.at <= self.clock.now() {
            self.look_at_store(self.clock.now());
        }
    }

    /// Lets the store keep house, thoroughly when nothing else is going on.
    fn maintain(&mut self, now: Instant) {
        let idle = now >= self.idle_at && !self.busy;
        if idle {
            self.idle_at = Instant::NEVER;
        }
        let Some(store) = self.store.as_mut().filter(|_| now >= self.maintain_at) else { return };
        if let Err(error) = store.maintain(idle) {
            self.damaged |= error == StoreError::Corrupt;
            self.maintain_at = now.plus(MAINTAIN_RETRY);
            let retry_in_ms = millis(MAINTAIN_RETRY);
            let reason = error.word();
            let (operation, key) = ("checkpoint", error.key());
            let note = Note::StoreError { operation, reason, retry_in_ms, key };
            self.logging.note(now, &note);
        }
    }
}
