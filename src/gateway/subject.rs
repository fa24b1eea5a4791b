//! What a message is called in the log: its topic and who published it. Cut to a bound, never its
//! payload.

use super::Gateway;
use super::conn::Role;
use crate::limits::CLIENTS_GONE_MAX;
use crate::note::{Text, text};
use crate::vocab::Instant;

/// A client that is gone, and when it was there: whose message it was can still be said.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub slot: u16,
    pub opened_at: Instant,
    pub closed_at: Instant,
    pub client: Text,
}

/// The last clients that have gone.
pub(super) type Departed = heapless::Deque<Gone, CLIENTS_GONE_MAX>;

/// Which message a line of the log is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub topic: Text,
    /// Its publisher, if that is known.
    pub client: Text,
}

impl Subject {
    /// None in particular.
    pub(super) fn none() -> Self {
        Self { topic: text("-"), client: text("-") }
    }
}

impl Gateway {
    /// What a message is called in the log: its local topic and its publisher.
    pub(super) fn subject(&self, index: u32) -> Subject {
        let mut subject = Subject::none();
        let Some(record) = self.queue.record_of(index) else { return subject };
        subject.topic = self.queue.topic_of_entry(index).unwrap_or_default();
        let head = self.queue.pool.head(record);
        let (slot, arrival) = (head.source, head.arrival);
        if let Some(conn) = self.conns.get(usize::from(slot))
            && let Role::Client { session } = conn.role
            && conn.opened_at <= arrival
        {
            subject.client = text(&self.sessions[session].client_id);
        } else if let Some(gone) = self.clients_gone.iter().rev().find(|gone| {
            gone.slot == slot && gone.opened_at <= arrival && arrival <= gone.closed_at
        }) {
            subject.client = gone.client.clone();
        }
        subject
    }

    /// Remembers who it was, for what waits of its messages.
    pub(super) fn remember_client(&mut self, now: Instant, slot: u16, session: u16) {
        let gone = Gone {
            slot,
            opened_at: self.conn(slot).opened_at,
            closed_at: now,
            client: text(&self.sessions[session].client_id),
        };
        if self.clients_gone.is_full() {
            self.clients_gone.pop_front();
        }
        // There is room: that was made just now.
        let _ = self.clients_gone.push_back(gone);
    }
}
