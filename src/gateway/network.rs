//! The network has changed: a bridge that waits for its next attempt tries at once, a bounded
//! number of times. What is up stays up: TCP may survive an address that goes and comes back, and
//! keepalive finds out if it did not.

use super::{Gateway, State};
use crate::fit::millis;
use crate::note::Note;
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// Bridges that wait for the same change begin spread over this.
const SPREAD_MICROS: u64 = 250_000;

impl Gateway {
    pub(super) fn network_changed(&mut self, now: Instant, bridge: BridgeId, what: &'static str) {
        let Some(link) = self.links.get_mut(usize::from(bridge.0)) else { return };
        link.nudges.want();
        match link.state {
            State::Backoff { until } => {
                let at = self.hastened(now, bridge, until);
                if at < until {
                    self.link_mut(bridge).state = State::Backoff { until: at };
                    self.due_by(at);
                    let note = Note::NetworkChanged {
                        bridge: self.bridge_name(bridge),
                        what,
                        spared_ms: millis(until.since(at)),
                    };
                    self.note(note);
                }
            }
            // Should this attempt fail because it came a moment too early, the next does not wait.
            State::Resolving { .. } | State::Dialing { .. } | State::Greeting { .. } => {}
            State::Up { .. } | State::Stopped => link.nudges.done(),
        }
    }

    /// When a bridge that would wait until `until` may try because of a change.
    pub(super) fn hastened(&mut self, now: Instant, bridge: BridgeId, until: Instant) -> Instant {
        let Self { links, rng, .. } = self;
        let link = &mut links[usize::from(bridge.0)];
        let at = link.nudges.next(now).plus(Duration::from_micros(rng.below(SPREAD_MICROS)));
        if at >= until {
            return until;
        }
        link.nudges.take(at);
        // What failed over the network that was says nothing about this one.
        link.backoff.reset();
        at
    }
}
