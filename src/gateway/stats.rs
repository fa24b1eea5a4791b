//! The figures of the `stats` lines. What only the shell knows (process memory, bytes written, the
//! longest turn) it fills in itself.

use super::Gateway;
use super::conn::{Conn, Role};
use crate::fit::{fit, millis};
use crate::note::Note;
use crate::queue::facts;
use crate::queue::outbox::DestId;
use crate::queue::store::Stock;
use crate::vocab::{BridgeId, Instant};

/// What is taken of everything that is fixed at start, for who looks for what is not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    pub queue: facts::InUse,
    pub connections: usize,
    /// Connections with a PUBLISH that waits for room.
    pub parked: u32,
    /// Acknowledgements that are owed.
    pub debts: usize,
}

impl Gateway {
    pub fn in_use(&self) -> InUse {
        let open = self.conns.iter().filter(|conn| conn.role != Role::Free);
        let debts = |conn: &Conn| conn.pubacks.len() + conn.pubrecs.len() + conn.pubcomps.len();
        InUse {
            queue: self.queue.in_use(),
            connections: open.count(),
            parked: self.parked,
            debts: self.conns.iter().map(debts).sum(),
        }
    }

    /// What is in the store when a clean stop is over; `None`: not all that should be.
    pub fn stock(&self) -> Option<Stock> {
        let stopped = self.stop.as_ref().is_some_and(|stop| stop.exited);
        self.queue.stock().filter(|_| stopped && self.config.store.path.is_some())
    }

    pub fn stats(&self, now: Instant) -> Note {
        let (ring_msgs, ring_bytes) = self.queue.ring();
        let totals = self.queue.totals();
        Note::Stats {
            uptime_s: now.since(self.started).as_secs(),
            clients: u32::from(self.clients),
            sessions: self.sessions.len(),
            subs: fit(self.subs.len(), "subscriptions"),
            retained: fit(self.retained.len(), "retained messages"),
            ring_msgs,
            ring_cap: self.queue.pool.record_count(),
            ring_bytes,
            store_msgs: totals.stored,
            store_bytes: 0,
            inflight: totals.inflight,
            in_msgs: self.counters.in_msgs,
            out_msgs: self.counters.out_msgs,
            fwd_sent: self.counters.fwd_sent,
            fwd_acked: self.counters.fwd_acked,
            recv_msgs: self.counters.recv_msgs,
            drops: self.queue.counters.drops,
            conflated: self.queue.counters.conflated,
            dup_resent: self.queue.counters.resent,
            store_written_bytes: 0,
            loop_max_ms: 0,
            rss_kib: 0,
        }
    }

    /// One line a bridge; `None` past the last.
    pub fn stats_bridge(&self, now: Instant, index: u16) -> Option<Note> {
        let mut known = (0u16..).zip(&self.config.bridges).filter(|(_, b)| !b.is_vacant());
        let (index, _) = known.nth(usize::from(index))?;
        let link = self.links.get(usize::from(index))?;
        let dest = DestId(index);
        let outbox = self.queue.outbox(dest);
        let oldest = self.queue.oldest_arrival(dest);
        let oldest_ms = oldest.map_or(0, |at| millis(now.since(at)));
        let rtt_ms = millis(link.rtt.smoothed().unwrap_or_default());
        Some(Note::StatsBridge {
            name: self.bridge_name(BridgeId(index)),
            up: link.is_up(),
            inflight: u32::from(outbox.inflight),
            ring: outbox.ram_messages(),
            store: self.queue.disk_only(dest),
            oldest_ms,
            rtt_ms,
            reconnects: link.reconnects,
            fwd_acked: link.acked,
        })
    }
}
