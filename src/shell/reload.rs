//! SIGHUP: the configuration is read again by whoever started the loop, the core takes it, and what
//! the shell knows of it is taken anew.

use super::core::Core;
use super::{EventLoop, Target, stats};
use crate::config::{Bridge, Config};
use crate::fit::capped;
use crate::note::{Note, Text, Value, text};
use crate::queue::store::SpillStore;
use crate::vocab::{BridgeId, Instant};
use std::fmt;

/// Reads the configuration again; all errors when it cannot be used.
pub type Read = Box<dyn FnMut() -> Result<Config, Vec<String>>>;

/// Errors of one file that are told one by one.
const ERRORS_MAX: usize = 50;

/// How the configuration is read again.
#[derive(Default)]
pub(super) struct Source {
    read: Option<Read>,
    /// Read, and not yet in use.
    offered: Option<Config>,
    /// In use instead of the one that the loop began with.
    taken: Option<Config>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl<C: Core, S: SpillStore> EventLoop<C, S> {
    /// What SIGHUP calls from here on.
    pub fn on_reload(&mut self, read: Read) {
        self.source.read = Some(read);
    }

    /// The configuration that a SIGHUP has brought into use, if one did.
    pub fn take_config(&mut self) -> Option<Config> {
        self.source.taken.take()
    }

    pub(super) fn read_again(&mut self, now: Instant) {
        let read = match &mut self.source.read {
            Some(read) => read(),
            None => Err(vec!["there is no file to read".to_owned()]),
        };
        match read {
            Ok(config) => {
                self.core.reload(now, config.clone());
                self.source.offered = Some(config);
            }
            Err(errors) => self.refuse(now, &errors),
        }
    }

    /// Every error has a line of its own, for only there it is whole.
    fn refuse(&mut self, now: Instant, errors: &[String]) {
        for error in errors.iter().take(ERRORS_MAX) {
            log::error!(target: "spillway::config", "event=config_error text={}", Value(error));
        }
        let reason = match errors.len() {
            // Whole, or not at all.
            1 if errors[0].len() <= Text::new().capacity() => errors[0].clone(),
            1 => "the configuration has an error, see config_error".to_owned(),
            0..=ERRORS_MAX => "the configuration has errors, see config_error".to_owned(),
            _ => format!("the configuration has errors, see config_error for {ERRORS_MAX} of them"),
        };
        // More errors than that a file cannot have.
        let note = Note::ReloadRefused { reason: text(&reason), errors: capped(errors.len()) };
        self.logging.note(now, &note);
    }

    /// The core uses what it was offered.
    pub(super) fn reloaded(&mut self, now: Instant) {
        let Some(config) = self.source.offered.take() else { return };
        for (target, at) in self.targets.iter_mut().zip(0..) {
            let bridge: Option<&Bridge> = self.core.bridge(BridgeId(at));
            let new = bridge.map(Target::of).unwrap_or_default();
            if *target != new {
                // An answer for the first server of before says nothing about this one.
                self.resolver.cancel(2 * usize::from(at) + 1);
                self.probes.cancel(BridgeId(at));
                *target = new;
            }
        }
        self.logging.set_level(config.log_level);
        self.logging.know_bridges(config.bridges.iter().map(|bridge| bridge.name.as_str()));
        if self.stats_interval != config.stats_interval {
            self.stats_interval = config.stats_interval;
            self.stats_at = stats::first(now, config.stats_interval);
        }
        self.source.taken = Some(config);
    }
}
