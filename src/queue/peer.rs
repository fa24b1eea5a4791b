//! Whose session a bridge's packet identifiers belong to. In-flight state is of one server and
//! client id; when the bridge goes to another, what was open stays reserved until it is back there:
//! its PUBRELs go out first, and an identifier is free again with its PUBCOMP or when the session
//! is found gone. Read MQTT 5 sections 4.1, 4.3.3 and 4.4 first.

use super::Queue;
use super::entry::{Chain, State};
use super::outbox::DestId;
use super::pool::NONE;
use crate::limits::SERVERS_MAX;
use crate::mqtt::{PacketId, Qos};
use crate::planted::{Bug, planted};
use crate::vocab::Instant;
use core::num::NonZeroU64;

/// A session at a peer: hash of its server and our client id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(pub NonZeroU64);

impl PeerId {
    pub fn new(hash: u64) -> Self {
        Self(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// What is still open in a peer's session since we left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    pub peer: PeerId,
    /// Identifiers of QoS 2 messages that went out again under others, elsewhere.
    pub open: Vec<u16>,
    /// Identifiers of the peer's QoS 2 messages that are here and not released.
    pub received: Vec<u16>,
}

impl Queue {
    /// Do we know what this session does? Without, it has to begin anew.
    pub fn knows_peer(&self, dest: DestId, peer: PeerId) -> bool {
        let outbox = self.outbox(dest);
        if planted(Bug::ReuseIdsOfLostStore) {
            return true;
        }
        let sure = !outbox.row_unsure || !self.setup.stored;
        sure && (outbox.peer == Some(peer) || outbox.parked.iter().any(|at| at.peer == peer))
    }

    /// A peer has accepted a connection. Returns how many QoS 2 messages are in doubt: they may
    /// arrive twice, because their session is gone or was left.
    pub fn greeted(
        &mut self,
        dest: DestId,
        peer: PeerId,
        session_present: bool,
        window: u16,
        now: Instant,
    ) -> u32 {
        let present = session_present && self.knows_peer(dest, peer);
        let same = self.outbox(dest).peer == Some(peer);
        if same && present {
            self.outbox_mut(dest).released = 0;
            return self.connected(dest, true, window, now);
        }
        if !same {
            self.park(dest, peer);
        }
        let in_doubt = self.connected(dest, false, window, now);
        let outbox = self.outbox_mut(dest);
        outbox.peer = Some(peer);
        outbox.released = 0;
        if !present {
            outbox.parked.retain(|at| at.peer != peer);
        }
        let back = outbox.parked.iter_mut().find(|at| at.peer == peer);
        let received = back.map(|at| core::mem::take(&mut at.received)).unwrap_or_default();
        for id in received {
            // A set too small for them forgets some: duplicates, never a loss.
            let fresh = self.recv.restore(dest.0, id) == Ok(true);
            self.outbox_mut(dest).received += u32::from(fresh);
        }
        if self.setup.stored {
            self.row_urgent(dest);
        }
        in_doubt
    }

    /// Keeps in mind what is open in the session that the bridge is about to leave for `next`.
    fn park(&mut self, dest: DestId, next: PeerId) {
        let Some(peer) = self.outbox(dest).peer else { return };
        let mut open: Vec<u16> = Vec::new();
        // PUBREL leaves in the order of PUBREC [MQTT-4.6.0-4]: what awaits PUBREC comes behind what
        // has it, and a peer that passes messages on at PUBREL passes them on in their order.
        for list in [self.outbox(dest).release, self.outbox(dest).flight] {
            let mut at = list.head;
            while at != NONE {
                let entry = &self.entries[at];
                let sent = entry.state == State::Release || entry.flags.dup || !entry.flags.unsent;
                if entry.qos == Qos::ExactlyOnce && sent {
                    open.push(entry.packet_id);
                }
                at = self.entries.next(Chain::Line, at);
            }
        }
        // One whose message is not safe yet is better received again than taken for safe.
        let recv = &self.recv;
        let received = recv.of(dest.0).filter(|id| recv.is_durable(dest.0, *id)).collect();
        // Their row goes with this one's commit.
        while !self.outbox(dest).done.is_empty() {
            let done = self.outbox(dest).done.head;
            self.free_done(dest, done);
        }
        let outbox = self.outbox_mut(dest);
        match outbox.parked.iter_mut().find(|at| at.peer == peer) {
            // It had some left from the time before.
            Some(at) => {
                open.retain(|id| !at.open.contains(id));
                at.open.extend(open);
                at.received = received;
            }
            None => {
                if outbox.parked.len() >= SERVERS_MAX {
                    // Of a server that is not configured any more, most likely: it begins anew.
                    let oldest = outbox.parked.iter().position(|at| at.peer != next);
                    outbox.parked.remove(oldest.unwrap_or(0));
                }
                outbox.parked.push(Parked { peer, open, received });
            }
        }
    }

    /// The peer has this identifier open from before, for another message than ours: it is released
    /// there before it is used again.
    pub fn leave_open(&mut self, dest: DestId, id: PacketId) {
        let outbox = self.outbox_mut(dest);
        let Some(peer) = outbox.peer else { return };
        match outbox.parked.iter_mut().find(|at| at.peer == peer) {
            Some(at) if at.open.contains(&id.raw()) => {}
            Some(at) => at.open.push(id.raw()),
            None => {
                if outbox.parked.len() > SERVERS_MAX {
                    outbox.parked.remove(0);
                }
                outbox.parked.push(Parked { peer, open: vec![id.raw()], received: Vec::new() });
            }
        }
        if outbox.params.journal {
            outbox.row_dirty = true;
            outbox.row_urgent = true;
        }
        self.sendable.set(dest.0);
    }

    /// The next PUBREL for what was open when this session was left; it counts as sent.
    pub fn next_left_open(&mut self, dest: DestId) -> Option<PacketId> {
        let outbox = self.outbox_mut(dest);
        let peer = outbox.peer?;
        let parked = outbox.parked.iter().find(|at| at.peer == peer)?;
        let id = parked.open.get(outbox.released)?;
        let id = PacketId::new(*id);
        outbox.released += 1;
        id
    }

    /// PUBCOMP for one of them: it is free. `false`: none of them.
    pub(super) fn close_left_open(&mut self, dest: DestId, id: PacketId, now: Instant) -> bool {
        let outbox = self.outbox_mut(dest);
        let Some(peer) = outbox.peer else { return false };
        let Some(parked) = outbox.parked.iter_mut().find(|at| at.peer == peer) else {
            return false;
        };
        let Some(at) = parked.open.iter().position(|open| *open == id.raw()) else { return false };
        if at < outbox.released {
            outbox.released -= 1;
        }
        parked.open.remove(at);
        outbox.parked.retain(|at| at.peer != peer || !at.open.is_empty());
        outbox.row_dirty |= outbox.params.persistent;
        outbox.progress = now;
        // There is room for one more in the window.
        self.sendable.set(dest.0);
        true
    }

    /// Is this identifier reserved by what was open in the session that we are in?
    pub(super) fn is_left_open(&self, dest: DestId, id: u16) -> bool {
        let outbox = self.outbox(dest);
        let mine = outbox.parked.iter().find(|at| Some(at.peer) == outbox.peer);
        mine.is_some_and(|at| at.open.contains(&id))
    }
}
