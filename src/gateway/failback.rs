//! Back to the first server: probed while the link goes to another, tried with a connection of its
//! own, and taken only when it has accepted that.

use super::Gateway;
use super::verbs::Action;
use crate::bridge::addresses::{Addresses, Attempt};
use crate::bridge::link::Candidate;
use crate::vocab::{BridgeId, Instant};

impl Gateway {
    pub(super) fn link_probed(&mut self, now: Instant, bridge: BridgeId, ok: bool) {
        if usize::from(bridge.0) >= self.links.len() {
            return;
        }
        self.link_mut(bridge).dial.probed(now, ok);
        let link = self.link(bridge);
        if link.dial.wants_failback() && link.candidate.is_none() && link.is_up() {
            let timeout = self.config.bridges[usize::from(bridge.0)].connect_timeout;
            let mut addresses = Addresses::new();
            let deadline = addresses.begin(now, timeout);
            let candidate = Candidate { addresses, conn: None, greeting: false, deadline };
            self.link_mut(bridge).candidate = Some(candidate);
            self.due_by(deadline);
            self.actions.push_back(Action::Resolve { bridge, server: 0 });
        }
        self.due_by(self.link(bridge).dial.probe_at());
    }

    pub(super) fn dial_candidate(&mut self, now: Instant, bridge: BridgeId, attempt: Attempt) {
        let Some(conn) = self.open_link_conn(now, bridge, attempt.addr) else {
            self.candidate_failed(now, bridge);
            return;
        };
        if let Some(candidate) = &mut self.link_mut(bridge).candidate {
            candidate.conn = Some(conn);
            candidate.deadline = attempt.deadline;
        }
        self.due_by(attempt.deadline);
        self.actions.push_back(Action::Dial { conn, bridge, addr: attempt.addr });
    }

    pub(super) fn expire_candidate(&mut self, now: Instant, bridge: BridgeId) {
        let due = self.link(bridge).candidate.as_ref().is_some_and(|c| c.deadline <= now);
        if !due {
            return;
        }
        let conn = self.link(bridge).candidate.as_ref().and_then(|c| c.conn);
        match conn {
            Some(conn) => self.close(now, conn.slot, false),
            None => self.actions.push_back(Action::CancelResolve { bridge }),
        }
        self.candidate_failed(now, bridge);
    }

    pub(super) fn candidate_failed(&mut self, now: Instant, bridge: BridgeId) {
        let link = self.link_mut(bridge);
        link.candidate = None;
        link.dial.failback_failed(now);
        let at = link.dial.probe_at();
        self.due_by(at);
    }

    /// The first server has accepted the candidate: the secondary is left now, not earlier.
    pub(super) fn fail_back(&mut self, now: Instant, bridge: BridgeId) {
        let Some(candidate) = self.link_mut(bridge).candidate.take() else { return };
        let old = self.link(bridge).conn();
        self.queue.disconnected(Self::bridge_dest(bridge));
        if let Some(old) = old {
            self.leave(now, bridge, old.slot);
        }
        let link = self.link_mut(bridge);
        link.dial.failed_back(now, candidate.addresses);
        link.reconnects += 1;
    }
}
