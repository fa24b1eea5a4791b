//! Topics of one bridge that wait while others flow: the remote refused a message of theirs for
//! now, or is suspected to close on it. Each has a stream of the queue for itself, so that its
//! order is kept and nobody stands behind it. Pure: which topic, which stream, until when.

use crate::limits::{HELD_MAX, HELD_MIN, HELD_STREAMS, HELD_TOPICS_MAX};
use crate::vocab::Instant;
use core::time::Duration;

/// What a topic waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Time; then one message is sent.
    Until(Instant),
    /// The answer to that one.
    Answer,
    /// A suspect, which is tried when its turn comes.
    Suspect,
    /// Nothing any more: it keeps its stream while something is in it.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    hash: u64,
    stream: u8,
    waits: Waits,
    /// How long it waited last.
    span: Duration,
}

/// The topics of one bridge that wait.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    holds: heapless::Vec<Hold, HELD_STREAMS>,
}

impl Holds {
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// The stream of a topic that waits, or did.
    pub fn stream_of(&self, hash: u64) -> Option<u8> {
        self.holds.iter().find(|hold| hold.hash == hash).map(|hold| hold.stream)
    }

    /// Gives back the streams of topics that wait for nothing and have nothing in them.
    pub fn tidy(&mut self, busy: &mut dyn FnMut(u8) -> bool) {
        self.holds.retain(|hold| hold.waits != Waits::Nothing || busy(hold.stream));
    }

    /// A topic is to wait in `own`, if it has a stream for itself already, or in one of `lent`.
    /// `None`: there is none left.
    pub fn begin(
        &mut self,
        hash: u64,
        own: Option<u8>,
        mut lent: core::ops::Range<u8>,
        suspect: bool,
    ) -> Option<u8> {
        if !suspect && self.stream_of(hash).is_none() {
            let for_now = |hold: &&Hold| matches!(hold.waits, Waits::Until(_) | Waits::Answer);
            if self.holds.iter().filter(for_now).count() >= HELD_TOPICS_MAX {
                return None;
            }
        }
        if let Some(stream) = self.stream_of(hash) {
            return Some(stream);
        }
        if let Some(own) = own.filter(|own| self.holds.iter().any(|hold| hold.stream == *own)) {
            // Topics that share a stream wait together.
            return Some(own);
        }
        let free = |stream: &u8| self.holds.iter().all(|hold| hold.stream != *stream);
        let stream = own.or_else(|| lent.find(free))?;
        let hold = Hold { hash, stream, waits: Waits::Nothing, span: Duration::ZERO };
        self.holds.push(hold).ok()?;
        Some(stream)
    }

    fn change(&mut self, stream: u8, change: impl FnOnce(&mut Hold)) {
        if let Some(hold) = self.holds.iter_mut().find(|hold| hold.stream == stream) {
            change(hold);
        }
    }

    /// The remote refused a message of it for now; when it is tried again.
    pub fn refused(&mut self, stream: u8, now: Instant) -> Instant {
        let mut until = now;
        self.change(stream, |hold| {
            // Several that were on the wire together are refused together.
            let waits = matches!(hold.waits, Waits::Until(at) if at > now);
            if !waits {
                hold.span = (hold.span * 2).clamp(HELD_MIN, HELD_MAX);
                hold.waits = Waits::Until(now.plus(hold.span));
            }
            if let Waits::Until(at) = hold.waits {
                until = at;
            }
        });
        until
    }

    /// It waits until then, whatever happened before.
    pub fn until(&mut self, stream: u8, at: Instant) {
        self.change(stream, |hold| hold.waits = Waits::Until(at));
    }

    /// It waits for a suspect.
    pub fn suspect(&mut self, stream: u8) {
        self.change(stream, |hold| hold.waits = Waits::Suspect);
    }

    /// A message of it is on its way.
    pub fn sent(&mut self, stream: u8) {
        self.change(stream, |hold| {
            if matches!(hold.waits, Waits::Until(_)) {
                hold.waits = Waits::Answer;
            }
        });
    }

    /// The remote took one, or said that it never will: `true` if the others of it need not wait
    /// any more.
    pub fn answered(&mut self, stream: u8) -> bool {
        let mut free = false;
        self.change(stream, |hold| {
            free = matches!(hold.waits, Waits::Until(_) | Waits::Answer);
            if free {
                hold.waits = Waits::Nothing;
                hold.span = Duration::ZERO;
            }
        });
        free
    }

    /// It waits for nothing any more.
    pub fn free(&mut self, stream: u8) {
        self.change(stream, |hold| {
            hold.waits = Waits::Nothing;
            hold.span = Duration::ZERO;
        });
    }

    /// Whoever waits for time may try now.
    pub fn hurry(&mut self, now: Instant) {
        for hold in &mut self.holds {
            if matches!(hold.waits, Waits::Until(_)) {
                hold.waits = Waits::Until(now);
            }
        }
    }

    /// No answer will come over this connection.
    pub fn disconnected(&mut self) {
        for hold in &mut self.holds {
            if hold.waits == Waits::Answer {
                hold.waits = Waits::Until(Instant::ZERO);
            }
        }
    }

    /// When a stream may send; `now` when it waits for nothing.
    pub fn ready_at(&self, stream: u8, now: Instant) -> Instant {
        let hold = self.holds.iter().find(|hold| hold.stream == stream);
        match hold.map(|hold| hold.waits) {
            Some(Waits::Until(at)) => at,
            Some(Waits::Answer | Waits::Suspect) => Instant::NEVER,
            Some(Waits::Nothing) | None => now,
        }
    }

    /// The streams of topics that wait for a suspect.
    pub fn suspects(&self) -> u128 {
        let waits = self.holds.iter().filter(|hold| hold.waits == Waits::Suspect);
        waits.fold(0, |streams, hold| streams | 1 << hold.stream)
    }

    /// The streams of all topics that wait, or did.
    pub fn streams(&self) -> u128 {
        self.holds.iter().fold(0, |streams, hold| streams | 1 << hold.stream)
    }

    /// The streams nothing may be sent of now, and when the first of them may be.
    pub fn withheld(&self, now: Instant) -> (u128, Instant) {
        let mut withheld = (0, Instant::NEVER);
        for hold in &self.holds {
            let at = self.ready_at(hold.stream, now);
            if at > now {
                withheld.0 |= 1 << hold.stream;
                withheld.1 = withheld.1.min(at);
            }
        }
        withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::START;

    #[test]
    fn a_topic_refused_again_and_again_waits_longer_and_forgets_it_when_taken() {
        let mut holds = Holds::default();
        let stream = holds.begin(7, None, 3..19, false).unwrap();
        let mut now = NOW;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let until = holds.refused(stream, now);
            assert_eq!(until.since(now), Duration::from_secs(seconds));
            assert_eq!(holds.withheld(now), (1 << stream, until));
            assert_eq!(holds.withheld(until).0, 0);
            holds.sent(stream);
            assert_eq!(holds.withheld(until), (1 << stream, Instant::NEVER), "one at a time");
            now = until;
        }
        assert!(holds.answered(stream));
        assert_eq!(holds.withheld(now).0, 0);
        assert_eq!(holds.refused(stream, now).since(now), Duration::from_secs(1));
    }

    #[test]
    fn refusals_of_one_moment_count_once() {
        let mut holds = Holds::default();
        let stream = holds.begin(7, None, 3..19, false).unwrap();
        let first = holds.refused(stream, NOW);
        assert_eq!(holds.refused(stream, NOW), first);
    }

    #[test]
    fn so_many_topics_wait_and_no_more_but_suspects_find_a_place() {
        let mut holds = Holds::default();
        for hash in 0..8 {
            let stream = holds.begin(hash, None, 3..19, false).unwrap();
            holds.refused(stream, NOW);
        }
        assert_eq!(holds.begin(8, None, 3..19, false), None);
        assert!(holds.begin(3, None, 3..19, false).is_some(), "it waits already");
        for hash in 8..16 {
            let stream = holds.begin(hash, None, 3..19, true).unwrap();
            holds.suspect(stream);
        }
        assert_eq!(holds.begin(16, None, 3..19, true), None);
        assert_eq!(holds.withheld(NOW).0.count_ones(), 16);
        holds.free(3);
        holds.tidy(&mut |_| true);
        assert_eq!(holds.begin(16, None, 3..19, true), None, "something is left in it");
        holds.tidy(&mut |_| false);
        assert_eq!(holds.begin(16, None, 3..19, true), Some(3));
    }
}
