//! What a link waits for, and until when: the acknowledgement of its oldest message, the answer to
//! a PINGREQ. Time runs from the last progress (`bridge::progress`), so that a thin line is not
//! taken for a dead one; a dead one is noticed within the time that was agreed.

use super::Gateway;
use super::verbs::Action;
use crate::bridge::progress::PARTS;
use crate::fit::wide;
use crate::limits::INBOUND_PARTS;
use crate::queue::window::Asked;
use crate::vocab::{BridgeId, ConnId, Instant};
use core::time::Duration;

impl Gateway {
    /// How many bytes of a connection its peer's side has not confirmed.
    pub(super) fn outstanding(&mut self, now: Instant, id: ConnId, bytes: usize) {
        let Some(slot) = self.live(id) else { return };
        let super::conn::Role::Link { bridge } = self.conn(slot).role else { return };
        if !self.link_is_up(bridge, slot) {
            return;
        }
        let conn = self.conn(slot);
        let said = conn.sending.is_none() && conn.control_left() == 0;
        let produced = conn.produced;
        let outstanding = wide(bytes);
        self.link_mut(bridge).progress.measured(now, produced, outstanding, said);
    }

    /// Until when the oldest message on the wire may wait for its acknowledgement; NEVER when there
    /// is none.
    pub(super) fn acked_by(&mut self, slot: u16, bridge: BridgeId) -> Instant {
        let dest = Self::bridge_dest(bridge);
        let timeout = self.config.bridges[usize::from(bridge.0)].ack_timeout;
        let Some(oldest) = self.queue.oldest_sent(dest) else { return Instant::NEVER };
        let link = self.link_mut(bridge);
        let since = link.awaits_ack.since(oldest, link.acked_at, &link.progress);
        self.heard_since(slot, since, timeout).plus(timeout)
    }

    /// The acknowledgement may lie behind a packet that is still coming, however long that takes.
    /// One packet after the other excuses it for a while only.
    fn heard_since(&self, slot: u16, since: Instant, timeout: Duration) -> Instant {
        let conn = self.conn(slot);
        let coming = conn.begun_bytes > 0 || conn.inbound.is_filling() || conn.swallow_left > 0;
        let heard = if coming {
            conn.received_at
        } else {
            conn.part_at.min(since.plus(timeout * INBOUND_PARTS))
        };
        since.max(heard)
    }

    /// Until when the answer to a PINGREQ of `asked` may come.
    pub(super) fn answered_by(&mut self, slot: u16, bridge: BridgeId, asked: Instant) -> Instant {
        let keepalive = self.conn(slot).keepalive;
        // It lies behind the oldest message.
        let oldest = self.queue.oldest_sent(Self::bridge_dest(bridge));
        let bytes = oldest.map_or(0, |oldest| oldest.bytes);
        let asked = Asked { at: asked, number: 0, bytes };
        let link = self.link_mut(bridge);
        link.awaits_ping.since(asked, asked.at, &link.progress).plus(keepalive)
    }

    /// Asks the shell what has moved, while something is late; the next time to do so.
    pub(super) fn watch_progress(&mut self, now: Instant, slot: u16, bridge: BridgeId) -> Instant {
        let dest = Self::bridge_dest(bridge);
        let ack_timeout = self.config.bridges[usize::from(bridge.0)].ack_timeout;
        let keepalive = self.conn(slot).keepalive;
        let sent = self.queue.oldest_sent(dest).map(|oldest| (oldest.at, ack_timeout / PARTS));
        let asked = self.link(bridge).ping_sent.map(|asked| (asked, keepalive / PARTS));
        let waits = [sent, asked].into_iter().flatten();
        let Some(late_at) = waits.clone().map(|(since, part)| since.plus(part)).min() else {
            self.link_mut(bridge).progress.rest();
            return Instant::NEVER;
        };
        if late_at > now {
            self.link_mut(bridge).progress.rest();
            return late_at;
        }
        let every = waits.map(|(_, part)| part).min().unwrap_or(ack_timeout);
        let every = every.max(Duration::from_millis(1));
        let conn = self.conn(slot).id(slot);
        match self.link_mut(bridge).progress.ask(now, every) {
            Ok(()) => {
                self.actions.push_back(Action::Measure { conn });
                now.plus(every)
            }
            Err(at) => at,
        }
    }
}
