//! What the queue is told once, at start: how much of everything there is, for each destination.

use super::record::HEAD_BYTES;
use crate::limits::{SESSION_WINDOW_SURE, SLOT_BYTES};
use core::time::Duration;

/// What the queue is told once.
#[derive(Clone, Debug)]
pub struct Setup {
    pub messages: u32,
    pub bytes: usize,
    /// Streams, window and conflation table entries of each destination.
    pub boxes: Vec<BoxSetup>,
    pub slot_count: u32,
    pub session_slots_max: u32,
    /// Publishers wait for a commit (`ack = safe`).
    pub safe: bool,
    /// There is a store.
    pub stored: bool,
    pub flush_after: Duration,
    pub connections: u16,
    /// Identifiers of received QoS 2 messages beyond what each destination is sure of.
    pub receive_ids: u32,
    /// The longest topic.
    pub topic_bytes: usize,
}

impl Setup {
    /// Room for a topic that does not end in the slot where it begins.
    pub(super) fn long_topic_bytes(&self) -> usize {
        if HEAD_BYTES + self.topic_bytes > SLOT_BYTES { self.topic_bytes } else { 0 }
    }

    pub(super) fn receive_shares(&self) -> Vec<u16> {
        self.boxes.iter().map(|of| of.receive_ids).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct BoxSetup {
    pub streams: usize,
    pub window: u16,
    pub conflating_rules: usize,
    pub session: bool,
    /// Identifiers of received QoS 2 messages that its peer may always have unreleased.
    pub receive_ids: u16,
}

impl BoxSetup {
    /// Entries its window is sure of.
    pub(super) fn entries(&self) -> u32 {
        if self.session {
            u32::from(SESSION_WINDOW_SURE)
        } else {
            u32::from(self.window).saturating_mul(2)
        }
    }
}
