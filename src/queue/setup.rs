//! What the queue is told once, at start: how much of everything there is, for each destination.

use crate::limits::SESSION_WINDOW_SURE;
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
    pub receive_ids: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct BoxSetup {
    pub streams: usize,
    pub window: u16,
    pub conflating_rules: usize,
    pub session: bool,
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
