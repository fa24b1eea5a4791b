//! What goes round between brokers: tells [`crate::bridge::circle`] what passes, holds the bridges'
//! publishes back while it listens, and keeps from a bridge what comes back to it.

use super::Gateway;
use super::ingest::{Message, Payload, Source};
use super::plan::Loss;
use crate::bridge::circle::{Found, Passage};
use crate::fit::wide;
use crate::limits::STREAM_BYTES;
use crate::mqtt::PacketId;
use crate::note::{Note, text};
use crate::queue::DropReason;
use crate::queue::outbox::DestId;
use crate::vocab::{BridgeId, Instant};

/// Acknowledgements owed to a source that is watched before they are worth a commit.
const OWED_WATCHED: usize = 8;

/// What stands for a large payload.
const DIGEST_BYTES: usize = 16;

impl Gateway {
    /// A message of a connection was taken, and is where it belongs.
    #[inline]
    pub(super) fn passed(
        &mut self,
        now: Instant,
        source: Source,
        owner: DestId,
        message: &Message<'_>,
        packet_id: Option<PacketId>,
    ) {
        if self.circle.draws() {
            self.look_at(now, source, owner, message, packet_id);
        }
    }

    #[inline(never)]
    fn look_at(
        &mut self,
        now: Instant,
        source: Source,
        owner: DestId,
        message: &Message<'_>,
        packet_id: Option<PacketId>,
    ) {
        let mut digest = [0; DIGEST_BYTES];
        let payload = self.digest(message, &mut digest);
        if let Some(listened) = self.circle.listens_to()
            && self.plan.targets.iter().any(|target| target.dest.0 == listened)
        {
            self.circle.tell(message.topic, message.properties, payload);
        }
        // Bridges are the last of the targets.
        for at in (0..self.plan.targets.len()).rev() {
            let dest = self.plan.targets[at].dest;
            if usize::from(dest.0) >= self.links.len() {
                break;
            }
            let bridge = BridgeId(dest.0);
            let passage = passage(owner.0, bridge, message, payload);
            match self.circle.pass(now, &passage, packet_id) {
                None => {}
                Some(Found::Watched) => {
                    let owed = self.conn(source.slot()).inbound_count();
                    if owed >= OWED_WATCHED {
                        self.queue.commit_all();
                    }
                }
                Some(Found::Hold) => self.hold_bridges(owner),
                Some(Found::Circle { count }) => {
                    let who = self.who(source);
                    if self.circle.convict(now, who) {
                        self.tell_of_circle(bridge, message.topic, count);
                    }
                }
            }
        }
    }

    /// Bridges hold their publishes back from here on.
    fn hold_bridges(&mut self, source: DestId) {
        // Whoever waits for an acknowledgement gets it, and shows whether that was all.
        self.queue.commit_all();
        let outbox = self.queue.outbox(source);
        if outbox.active != 0 || !outbox.zero.is_empty() {
            self.circle.spoil();
        }
        self.parked_at_hold = self.parked;
    }

    /// Until when bridges hold their publishes back.
    pub(super) fn circle_holds(&mut self, now: Instant) -> Option<Instant> {
        self.circle.listens_to()?;
        if self.parked > self.parked_at_hold {
            self.circle.give_up(now);
        }
        let waits_for = self.circle.waits_for();
        let owes = waits_for.is_some_and(|(source, id)| self.owes(DestId(source), id));
        self.circle.hold(now, owes)
    }

    /// Does a source wait for an acknowledgement of this message?
    fn owes(&self, source: DestId, id: PacketId) -> bool {
        let Some(slot) = self.conn_of(source) else { return false };
        let conn = self.conn(slot);
        let debts = [&conn.pubacks, &conn.pubrecs, &conn.pubcomps];
        debts.iter().any(|debts| debts.contains(id)) || self.queue.recv.contains(source.0, id.raw())
    }

    /// Is the message, from there, what this bridge has just sent?
    pub(super) fn comes_back(
        &mut self,
        now: Instant,
        source: Source,
        bridge: BridgeId,
        message: &Message<'_>,
    ) -> bool {
        let who = self.who(source);
        let mut digest = [0; DIGEST_BYTES];
        let payload = self.digest(message, &mut digest);
        self.circle.comes_back(now, who, &passage(0, bridge, message, payload))
    }

    /// A message is taken while circles are known: what the bridges of them get, and what not.
    pub(super) fn account_circles(&mut self, now: Instant, source: Source, message: &Message<'_>) {
        let mut digest = [0; DIGEST_BYTES];
        let payload = self.digest(message, &mut digest);
        let who = self.who(source);
        for at in 0..self.plan.targets.len() {
            let dest = self.plan.targets[at].dest;
            if usize::from(dest.0) < self.links.len() {
                let passage = passage(0, BridgeId(dest.0), message, payload);
                self.circle.taken(now, who, &passage, false);
            }
        }
        for at in 0..self.plan.losses.len() {
            let (dest, loss) = self.plan.losses[at];
            if loss != Loss::Newest(DropReason::Loop) {
                continue;
            }
            let bridge = BridgeId(dest.0);
            let told = self.circle.taken(now, who, &passage(0, bridge, message, payload), true);
            if let Some(count) = told {
                self.tell_of_circle(bridge, message.topic, count);
            }
        }
    }

    /// What stands for the payload: itself, or of a large one, which may lie in pieces, its length
    /// and a sum over it.
    fn digest<'a>(&self, message: &Message<'a>, out: &'a mut [u8; DIGEST_BYTES]) -> &'a [u8] {
        let mut sum = crc32fast::Hasher::new();
        match message.payload {
            Payload::Here(payload) if payload.len() <= STREAM_BYTES => return payload,
            Payload::Here(payload) => sum.update(payload),
            Payload::Kept(record, _) | Payload::Beside(record, _) => {
                self.queue.pool.payload(record).for_each(|piece| sum.update(piece));
            }
        }
        out[..8].copy_from_slice(&wide(message.payload_bytes()).to_le_bytes());
        out[8..].copy_from_slice(&u64::from(sum.finalize()).to_le_bytes());
        out
    }

    fn tell_of_circle(&mut self, bridge: BridgeId, topic: &str, count: u32) {
        let (bridge, topic) = (self.bridge_name(bridge), text(topic));
        self.note(Note::LoopSuspected { bridge, topic, count });
    }

    /// Stands for a source, over its connections.
    fn who(&self, source: Source) -> u64 {
        match source {
            Source::Client { session, .. } | Source::Will { session } => self.signature(session),
            Source::Link { bridge, .. } => u64::from(bridge.0),
            Source::Own => u64::MAX,
        }
    }
}

fn passage<'a>(
    source: u16,
    bridge: BridgeId,
    message: &Message<'a>,
    payload: &'a [u8],
) -> Passage<'a> {
    Passage { source, bridge, topic: message.topic, properties: message.properties, payload }
}
