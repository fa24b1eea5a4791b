//! What was read and gets no answer is acknowledged at TCP's level.
//!
//! The kernel delays its acknowledgement by 40 ms in the hope of an answer that carries it. A peer
//! that does not set TCP_NODELAY holds its next small packet back until then (Nagle): the message
//! behind a PUBCOMP, a PUBACK or a QoS 0 publish comes 40 ms late. `TCP_QUICKACK` ends that, for
//! once: it does not stick.
//!
//! A system call, so it is made where it helps: when an exchange is over by what was read, when the
//! loop was idle before, else when nothing more was read or written for a while. Where packets
//! follow each other they carry the acknowledgements, and none is made.

use super::Links;
use crate::shell::core::Core;
use crate::vocab::Instant;
use core::time::Duration;

/// So long an answer may still come that carries the acknowledgement.
const ANSWER_WITHIN: Duration = Duration::from_millis(1);

/// A loop that slept so long before it read has nothing else to do.
const IDLE: Duration = Duration::from_millis(1);

/// The longest read that is no more than an acknowledgement or two.
const FEW_BYTES: usize = 16;

impl Links {
    /// When [`Links::acknowledge`] has something to do if nothing else happens.
    pub(in crate::shell) fn prompt_at(&self) -> Instant {
        self.prompt_at
    }

    /// Once a turn, after everything was written; `slept`: how long the turn began with waiting.
    pub(in crate::shell) fn acknowledge(
        &mut self,
        now: Instant,
        slept: Duration,
        core: &impl Core,
    ) {
        self.prompt_at = Instant::NEVER;
        for _ in 0..self.unanswered.slots.len() {
            let Some(slot) = self.unanswered.next() else { return };
            let Some(conn) = self.conn(slot) else { continue };
            if conn.unanswered == 0 {
                continue;
            }
            let over = conn.unanswered <= FEW_BYTES && core.is_over(conn.id);
            let at = conn.read_at.plus(ANSWER_WITHIN);
            if over || slept >= IDLE || at <= now {
                conn.unanswered = 0;
                conn.transport.acknowledge();
            } else {
                self.unanswered.join(slot);
                self.prompt_at = self.prompt_at.min(at);
            }
        }
    }
}
