//! Subscribe rules that another rule of their bridge covers, at a remote that does not say which
//! subscription a message is sent for (before MQTT 5, or without Subscription Identifiers).
//!
//! Whether such a remote sends one copy of what matches two subscriptions, or two, is its own
//! affair (MQTT 3.1.1 section 3.3.5), and the copies do not say. So only the widest filter is
//! subscribed to, at the highest QoS of all that it covers: one copy comes, and comes in by every
//! rule that matches it (`brought`). A covered filter that the remote has from before is
//! unsubscribed once the wider one is granted; where the wider one is refused, what it covers is
//! subscribed to by itself.

use super::Gateway;
use crate::bridge::link::Subscribed;
use crate::bridge::rules::covering;
use crate::vocab::{BridgeId, Instant};

impl Gateway {
    /// A connection is up. `again`: the remote has none of our subscriptions for sure;
    /// `has_session`: it may have any of an earlier connection.
    pub(super) fn subscribe_again(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        again: bool,
        has_session: bool,
    ) {
        let link = self.link_mut(bridge);
        let server = usize::from(link.dial.server());
        let ids = link.remote.subscription_ids;
        // What was asked for without identifiers is not what is asked for with them.
        let before = link.asked_with.get_mut(server).and_then(|with| with.replace(ids));
        let again = again || before != Some(ids);
        for subscribed in &mut link.subscribed {
            // One that was asked and not answered has to be asked again.
            if again || *subscribed == Subscribed::Asked {
                *subscribed = Subscribed::Due { at: now };
            }
        }
        link.resumed = has_session;
        self.choose_filters(now, bridge);
    }

    /// What is subscribed to now, of rules that cover others. To be called when it may be another.
    pub(super) fn choose_filters(&mut self, now: Instant, bridge: BridgeId) {
        let link = self.link_mut(bridge);
        let ids = link.remote.subscription_ids;
        let server = link.dial.server();
        let rules = &link.rules.subscribe;
        for at in 0..rules.len() {
            let refused =
                |at: usize| matches!(link.subscribed[at], Subscribed::Due { at } if at > now);
            let cover = if ids { None } else { covering(rules, at, refused) };
            let granted = cover.is_some_and(|at| link.subscribed[at] == Subscribed::Granted);
            let mut state = link.subscribed[at];
            match (state, cover) {
                (Subscribed::Due { .. }, Some(_)) => {
                    state = Subscribed::Covered { there: link.resumed };
                }
                (Subscribed::Granted, Some(_)) if granted => {
                    state = Subscribed::Covered { there: true };
                }
                (Subscribed::Covered { .. }, None) => state = Subscribed::Due { at: now },
                (
                    Subscribed::Due { .. }
                    | Subscribed::Asked
                    | Subscribed::Granted
                    | Subscribed::Covered { .. },
                    _,
                ) => {}
            }
            match state {
                Subscribed::Covered { there: true } if granted => {
                    link.left.leave(&rules[at].remote_topic, server);
                    state = Subscribed::Covered { there: false };
                }
                Subscribed::Covered { .. } => {}
                Subscribed::Due { .. } | Subscribed::Asked | Subscribed::Granted => {
                    link.left.want(&rules[at].remote_topic);
                }
            }
            link.subscribed[at] = state;
        }
        self.due_by(now);
    }
}
