//! When the stats lines are written: soon after the start, every `log.stats_interval`, and when
//! something has changed that makes one look for them, never in a hurry.

use super::EventLoop;
use super::core::Core;
use crate::note::Note;
use crate::queue::store::SpillStore;
use crate::vocab::Instant;
use ::core::time::Duration;

impl<C: Core, S: SpillStore> EventLoop<C, S> {
    pub(super) fn write_stats(&mut self, now: Instant) {
        self.stats_at = self.stats_interval.map_or(Instant::NEVER, |span| now.plus(span));
        self.stats_changed_at = now.plus(STATS_SOON);
        let mut note = self.core.stats(now);
        let store = self.store.as_ref().map(|store| (store.bytes(), store.written_bytes()));
        let outside = self.figures.complete(&mut note, store);
        self.core.know_outside(outside);
        self.logging.note(now, &note);
        let mut bridge = 0;
        while let Some(note) = self.core.stats_bridge(now, bridge) {
            self.logging.note(now, &note);
            bridge += 1;
        }
    }
}

/// When the stats lines come for the first time.
pub(super) fn first(now: Instant, interval: Option<Duration>) -> Instant {
    interval.map_or(Instant::NEVER, |span| now.plus(span.min(STATS_SOON)))
}

/// A change of state that whoever reads the log wants the figures of.
pub(super) fn is_change(note: &Note) -> bool {
    matches!(
        note,
        Note::BridgeUp { .. }
            | Note::BridgeDown { .. }
            | Note::SpillStarted { .. }
            | Note::SpillDrained { .. }
            | Note::Drop { .. }
    )
}

/// The first stats lines come after this; those that something has brought about follow others at
/// no less.
const STATS_SOON: Duration = Duration::from_secs(10);
