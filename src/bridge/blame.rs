//! Whose fault it is when a remote closes or refuses: ours, one message's, or the hour's. The table
//! of reasons, and for one bridge a small machine that finds the one message a remote closes on.
//!
//! Promises: only what was on the wire at a close can be blamed, and nothing while the CONNECT or a
//! SUBSCRIBE is unanswered; a message is sentenced only after the remote closed on it several
//! times with nothing else on the wire; one that has a neighbour only when the remote took another
//! message between those closes; one that has none at most once before the remote has taken
//! something else. Everything else waits for the hour to pass.
//!
//! Pure: knows no queue, no clock and no link. Read MQTT 5 sections 3.14.2.1 and 4.13 first.
//!
//! How it narrows the suspects down: after a close with several on the wire the next connection
//! begins with one at a time and grows by one with every acknowledgement; closed upon again before
//! it has grown up, it passes all that was on the wire strictly one by one. A message that was
//! alone is a suspect: its topic waits, and the next connection tries something else first, its
//! neighbour, alone. When that is taken the others flow, and the suspect is tried again, alone.
//! When the remote closes on the neighbour as well it is a suspect too, and yet another is tried.

mod table;

use crate::limits::{
    CLOSES_GUILTY, CLOSES_KNOWN, CLOSES_LONELY, CLOSES_SPOKEN, HELD_MIN, PROOF_FRESH,
    SUSPECT_PAUSE, SUSPECTS_MAX,
};
use crate::vocab::Instant;
use core::time::Duration;

pub use table::{About, Ending, Refused};

/// No stream is known for a suspect yet.
const NO_STREAM: u8 = u8::MAX;

/// A message the remote has closed on when nothing else was on the wire.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// `None`: whatever is first of its stream.
    seq: Option<u64>,
    /// What waits with it: its topic's stream.
    stream: u8,
    /// Closes that count.
    guilty: u8,
    /// All closes on it alone.
    closes: u32,
    /// When something else was taken, if it was since the last of them.
    proof: Option<Instant>,
    /// It was not closed upon, it was never acknowledged.
    never: bool,
    /// One of its topic was put aside before.
    known: bool,
    pause: Duration,
    /// Not tried before then, while others flow.
    try_at: Instant,
    /// When it was tried last, in tries.
    tried: u32,
    /// The last one of its topic that was tried instead of it.
    passed: u64,
    sentence: Option<&'static str>,
}

impl Suspect {
    /// Who is to be put aside goes first, then who was not tried for the longest.
    fn turn(&self) -> (bool, u32) {
        (self.sentence.is_none(), self.tried)
    }

    /// Did the remote close on it often enough, taking others meanwhile?
    fn is_guilty(&self) -> bool {
        let enough = if self.known || self.never { CLOSES_KNOWN } else { CLOSES_GUILTY };
        self.guilty >= enough
    }

    fn condemn(&mut self) -> Option<&'static str> {
        self.sentence = Some(if self.never { "never_acknowledged" } else { "remote_closes" });
        self.sentence
    }
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Publishes until so many are on the wire.
    Open(u16),
    /// One message, alone.
    Alone(Pick),
    /// Nothing: an answer comes first.
    Shut,
}

/// Which message is tried alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    pub stream: u8,
    /// Not this one of the stream, but what is before it or else behind the other, which was the
    /// last that was tried so.
    pub behind: Option<(u64, u64)>,
}

/// What the gateway knows of a connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    pub now: Instant,
    pub ending: Ending,
    /// Publishes of QoS 1 and 2 that were sent, in part at least, and not answered.
    pub wire: u16,
    /// The oldest of them.
    pub oldest: Option<u64>,
    /// One of QoS 0 was sent too, and may be at fault.
    pub zero: bool,
    /// A SUBSCRIBE or UNSUBSCRIBE was not answered.
    pub unanswered: bool,
    /// Messages that wait for this remote, those on the wire included.
    pub waiting: u64,
}

/// What follows from a close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The message the remote closed on, if it was just one.
    pub suspect: Option<u64>,
    /// This message is put aside, for this reason.
    pub sentence: Option<(u64, &'static str)>,
    /// The remote refuses us: to be said now.
    pub held: bool,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relief {
    /// This stream waits for no suspect any more.
    pub stream: Option<u8>,
}

/// What is held against the messages of one bridge.
#[derive(Debug)]
pub struct Blame {
    suspects: heapless::Vec<Suspect, SUSPECTS_MAX>,
    /// Publishes on the wire; grows with acknowledgements.
    cap: u16,
    /// So many messages more go strictly one by one.
    strict: u16,
    /// A close came while a SUBSCRIBE was unanswered: publishes wait for the answer.
    careful: bool,
    /// Something was taken in this connection.
    proof: bool,
    /// What is tried alone now, and whether it is for want of anything else.
    trial: Option<u64>,
    lonely: bool,
    /// It is tried instead of the one before it in its topic.
    behind: bool,
    tries: u32,
    /// A message without a neighbour may be put aside.
    credit: bool,
    /// Closes by the remote since it took something last.
    fruitless: u32,
    held: bool,
    /// Topics of what was put aside, the last ones.
    known: heapless::Deque<u64, SUSPECTS_MAX>,
}

impl Blame {
    /// `credit`: nothing was put aside for which the remote owes an acknowledgement.
    pub fn new(credit: bool) -> Self {
        Self {
            suspects: heapless::Vec::new(),
            cap: u16::MAX,
            strict: 0,
            careful: false,
            proof: false,
            trial: None,
            lonely: false,
            behind: false,
            tries: 0,
            credit,
            fruitless: 0,
            held: false,
            known: heapless::Deque::new(),
        }
    }

    /// Nothing is held against anything: the flow is as it always is.
    pub fn is_clear(&self) -> bool {
        self.suspects.is_empty()
            && self.cap == u16::MAX
            && !self.careful
            && self.credit
            && self.fruitless == 0
    }

    /// Do publishes wait until every SUBSCRIBE is answered?
    pub fn is_careful(&self) -> bool {
        self.careful || self.cap < u16::MAX || self.wants_proof()
    }

    /// May QoS 0 go beside the others? It would blur what a close says.
    pub fn takes_zero(&self) -> bool {
        self.cap == u16::MAX && self.trial.is_none() && (self.proof || !self.wants_proof())
    }

    /// When a connection that stands since then may be used to try a suspect for want of others. A
    /// remote that refuses us is left in peace for a while, at most for `most`, so that the link is
    /// good for the rest.
    pub fn rests_until(&self, up_since: Instant, most: Duration) -> Instant {
        if !self.held {
            return up_since;
        }
        let doublings = self.fruitless.saturating_sub(CLOSES_SPOKEN).min(16);
        up_since.plus((HELD_MIN * (1 << doublings)).min(most))
    }

    fn wants_proof(&self) -> bool {
        self.suspects.iter().any(|suspect| suspect.guilty > 0)
    }

    /// A new connection stands.
    pub fn connected(&mut self) {
        self.proof = false;
        self.trial = None;
    }

    /// Is nothing further tried, for there are as many suspects as may be?
    pub fn is_crowded(&self) -> bool {
        self.suspects.is_full() && !self.proof && self.fruitless % 2 == 1
    }

    /// What may be sent, with so many publishes on the wire.
    pub fn gate(&self, now: Instant, wire: u16) -> Gate {
        if self.trial.is_some() && wire > 0 {
            return Gate::Shut;
        }
        if !self.proof && self.wants_proof() {
            // The neighbour, alone.
            return if wire > 0 { Gate::Shut } else { Gate::Open(1) };
        }
        let due = |suspect: &&Suspect| suspect.try_at <= now && suspect.stream != NO_STREAM;
        match self.first_suspects().filter(due).min_by_key(|suspect| suspect.turn()) {
            Some(_) if wire > 0 => Gate::Shut,
            Some(suspect) => Gate::Alone(Pick { stream: suspect.stream, behind: None }),
            None => Gate::Open(self.cap),
        }
    }

    /// When the next suspect is to be tried.
    pub fn due_at(&self) -> Instant {
        let at = self.suspects.iter().map(|suspect| suspect.try_at);
        at.min().unwrap_or(Instant::NEVER)
    }

    /// There is no neighbour to be sent: who is tried instead? Those who were not for the longest;
    /// now and then, ever more rarely, the next one of the same topic, which else waits for it.
    pub fn instead(&self) -> Option<Pick> {
        let named = |suspect: &&Suspect| suspect.stream != NO_STREAM;
        let suspect = self.first_suspects().filter(named).min_by_key(|suspect| suspect.turn())?;
        let often = (suspect.known || suspect.never) && suspect.closes.is_multiple_of(2);
        let turn =
            often && suspect.closes > 1 || suspect.closes >= 4 && suspect.closes.is_power_of_two();
        // One that is guilty without doubt waits for nothing but that something is taken.
        let behind = suspect.seq.filter(|_| turn || suspect.is_guilty());
        let behind = behind.map(|seq| (seq, seq.max(suspect.passed)));
        Some(Pick { stream: suspect.stream, behind })
    }

    /// The oldest suspect of each stream: those behind it must not go before it.
    fn first_suspects(&self) -> impl Iterator<Item = &Suspect> {
        self.suspects.iter().filter(|suspect| {
            let older =
                |other: &&Suspect| other.stream == suspect.stream && other.seq < suspect.seq;
            suspect.stream == NO_STREAM || !self.suspects.iter().any(|other| older(&other))
        })
    }

    /// Is this message a suspect whose topic is not known yet?
    pub fn is_nameless(&self, seq: u64) -> bool {
        self.suspects.iter().any(|s| s.seq == Some(seq) && s.stream == NO_STREAM)
    }

    pub fn is_suspect(&self, seq: u64) -> bool {
        self.suspects.iter().any(|suspect| suspect.seq == Some(seq))
    }

    /// The message of a stream that is to be put aside as soon as it can be, and why.
    pub fn sentenced(&self, stream: u8) -> Option<(u64, &'static str)> {
        let mut mine = self.suspects.iter().filter(|suspect| suspect.stream == stream);
        mine.find_map(|suspect| suspect.seq.zip(suspect.sentence))
    }

    /// The topic of a suspect, by its hash and the stream that now is its own.
    pub fn name(&mut self, seq: u64, hash: u64, stream: u8) {
        let known = self.known.iter().any(|known| *known == hash);
        for suspect in self.suspects.iter_mut().filter(|suspect| suspect.seq == Some(seq)) {
            suspect.stream = stream;
            suspect.known = known;
        }
        // The oldest of a topic: the others wait behind it in any case.
        let mine = self.suspects.iter().filter(|suspect| suspect.stream == stream);
        let oldest = mine.filter_map(|suspect| suspect.seq).min();
        self.suspects.retain(|suspect| suspect.stream != stream || suspect.seq == oldest);
    }

    /// A message that is no suspect is about to be sent alone, for the peer may have it from before
    /// and takes no others meanwhile.
    pub fn trying_other(&mut self, seq: u64) {
        self.trial = Some(seq);
        (self.lonely, self.behind) = (false, false);
    }

    /// A message is about to be sent alone. `shut`: others wait, and cannot be sent beside those
    /// that are suspected.
    pub fn trying(&mut self, pick: Pick, seq: u64, shut: bool) {
        self.trial = Some(seq);
        self.behind = pick.behind.is_some();
        let one = self.suspects.len() == 1 && self.suspects.iter().all(|one| one.passed == 0);
        self.lonely = shut || one;
        self.tries = self.tries.wrapping_add(1);
        let tries = self.tries;
        let known = self.suspects.iter().position(|suspect| suspect.seq == Some(seq));
        let first = known.or_else(|| {
            let mine = self.suspects.iter().enumerate().filter(|(_, s)| s.stream == pick.stream);
            mine.min_by_key(|(_, suspect)| suspect.seq).map(|(at, _)| at)
        });
        let Some(suspect) = first.and_then(|at| self.suspects.get_mut(at)) else { return };
        suspect.tried = tries;
        if suspect.seq == Some(seq) {
            return;
        }
        if self.behind {
            // Its turn, not that of the one before it.
            suspect.closes = suspect.closes.saturating_add(1);
            suspect.passed = seq;
        } else {
            // What was suspected is gone: this one is new.
            suspect.seq = Some(seq);
            (suspect.guilty, suspect.closes, suspect.sentence) = (0, 0, None);
        }
    }

    /// What was to be tried is not to be had before then; it stays the next one.
    pub fn wait(&mut self, pick: Pick, until: Instant) {
        for suspect in self.suspects.iter_mut().filter(|s| s.stream == pick.stream) {
            suspect.try_at = until;
        }
    }

    /// What was to be tried is not to be had now: others first, for a while.
    pub fn not_now(&mut self, pick: Pick, until: Instant) {
        self.tries = self.tries.wrapping_add(1);
        let tries = self.tries;
        for suspect in self.suspects.iter_mut().filter(|s| s.stream == pick.stream) {
            suspect.try_at = until;
            if suspect.sentence.is_none() {
                suspect.tried = tries;
            }
        }
    }

    /// Nothing is left behind a suspect: it begins with the first one again.
    pub fn none_behind(&mut self, pick: Pick) {
        for suspect in self.suspects.iter_mut().filter(|s| s.stream == pick.stream) {
            suspect.passed = 0;
        }
    }

    /// Nothing is left of a stream that waited for a suspect.
    pub fn gone(&mut self, stream: u8) {
        self.suspects.retain(|suspect| suspect.stream != stream);
    }

    /// The remote took a message.
    pub fn acked(&mut self, now: Instant, seq: u64, window: u16) -> Relief {
        self.credit = true;
        self.fruitless = 0;
        self.held = false;
        self.careful = false;
        let first = !core::mem::replace(&mut self.proof, true);
        let relief = self.refused(seq);
        let condemned = self.suspects.iter().any(|suspect| suspect.sentence.is_some());
        if let Some(guilty) = self.suspects.iter_mut().find(|s| s.is_guilty() && !condemned) {
            // There was no credit for it before.
            guilty.condemn();
            guilty.pause = Duration::ZERO;
        }
        for suspect in &mut self.suspects {
            suspect.proof = Some(now);
            if first {
                suspect.try_at = now.plus(suspect.pause);
            }
        }
        if self.strict > 0 {
            self.strict -= 1;
        } else if self.cap < u16::MAX {
            self.cap += 1;
            if self.cap >= window {
                self.cap = u16::MAX;
            }
        }
        relief
    }

    /// The remote answered a message with a refusal: it did not close on it.
    pub fn refused(&mut self, seq: u64) -> Relief {
        if self.trial == Some(seq) {
            self.trial = None;
        }
        let Some(at) = self.suspects.iter().position(|suspect| suspect.seq == Some(seq)) else {
            return Relief::default();
        };
        let stream = self.suspects.remove(at).stream;
        let waits = self.suspects.iter().any(|other| other.stream == stream);
        Relief { stream: Some(stream).filter(|stream| *stream != NO_STREAM && !waits) }
    }

    /// A connection has ended.
    pub fn closed(&mut self, closed: Closed) -> Finding {
        let trial = self.trial.take();
        self.lonely &= trial.is_some() && !self.proof;
        self.behind &= trial.is_some() && trial == closed.oldest;
        let mut finding = Finding::default();
        let about = closed.ending.about();
        if about == About::Line {
            return finding;
        }
        if closed.waiting > 0 {
            self.fruitless = self.fruitless.saturating_add(1);
        }
        if about == About::Message && closed.unanswered {
            self.careful = true;
        } else if about == About::Message && closed.wire == 1 && !closed.zero {
            finding.sentence = closed.oldest.and_then(|seq| self.closed_on(seq, &closed));
            finding.suspect = closed.oldest.filter(|seq| self.is_suspect(*seq));
            self.cap = 1;
        } else if about != About::Us && closed.wire > 0 {
            let grown = self.cap == u16::MAX;
            self.strict = if grown { 0 } else { closed.wire };
            self.cap = 1;
        }
        // A single suspect may be the only one that is not taken.
        let may_be = |one: &Suspect| !one.never && one.passed == 0 && one.closes <= CLOSES_LONELY;
        let undecided = self.suspects.len() == 1
            && (self.credit || finding.sentence.is_some())
            && self.suspects.iter().all(may_be);
        if self.fruitless >= CLOSES_SPOKEN && !undecided && !self.held {
            self.held = true;
            finding.held = true;
        }
        finding
    }

    /// The remote closed on this message alone. Is it to be put aside?
    fn closed_on(&mut self, seq: u64, closed: &Closed) -> Option<(u64, &'static str)> {
        let lonely = self.lonely;
        let never = closed.ending == Ending::Unacknowledged;
        if self.behind {
            // The one before it is the suspect of its topic.
            return None;
        }
        let Some(at) = self.suspects.iter().position(|suspect| suspect.seq == Some(seq)) else {
            // Who only stands for others of a bad topic leaves; with no place left nothing new is
            // tried: what is known goes round.
            if self.suspects.is_full()
                && let Some(at) = self.suspects.iter().position(|suspect| suspect.seq.is_none())
            {
                self.suspects.remove(at);
            }
            let _ = self.suspects.push(Suspect {
                seq: Some(seq),
                stream: NO_STREAM,
                guilty: 1,
                closes: 1,
                proof: None,
                never,
                known: false,
                pause: Duration::ZERO,
                try_at: Instant::NEVER,
                tried: self.tries,
                passed: 0,
                sentence: None,
            });
            return None;
        };
        let credit = self.credit;
        let suspect = &mut self.suspects[at];
        suspect.closes = suspect.closes.saturating_add(1);
        suspect.never = never;
        suspect.try_at = Instant::NEVER;
        // What was taken long ago says nothing of now.
        let fresh = |at: Instant| closed.now.since(at) <= PROOF_FRESH;
        let proven = suspect.proof.take().is_some_and(fresh) || suspect.guilty == 0;
        suspect.guilty = suspect.guilty.saturating_add(u8::from(proven));
        suspect.pause = if suspect.guilty > 1 { SUSPECT_PAUSE } else { Duration::ZERO };
        let lonely = lonely && !never && suspect.closes >= CLOSES_LONELY;
        if credit && (suspect.is_guilty() || lonely) {
            return suspect.condemn().map(|word| (seq, word));
        }
        None
    }

    /// A sentenced message was put aside. `more`: others of its topic wait, and are tried alone
    /// first. `true`: they do not wait any more.
    pub fn put_aside(&mut self, seq: u64, hash: u64, more: bool) -> Option<u8> {
        let at = self.suspects.iter().position(|suspect| suspect.seq == Some(seq))?;
        let suspect = self.suspects.remove(at);
        self.credit = false;
        if !self.known.iter().any(|known| *known == hash) {
            if self.known.is_full() {
                self.known.pop_front();
            }
            // There is room: that was made just now.
            let _ = self.known.push_back(hash);
        }
        let waits = self.suspects.iter().any(|other| other.stream == suspect.stream);
        if waits || suspect.stream == NO_STREAM {
            return None;
        }
        if !more {
            return Some(suspect.stream);
        }
        let next = Suspect {
            seq: None,
            guilty: 0,
            closes: 0,
            proof: None,
            known: true,
            pause: SUSPECT_PAUSE,
            try_at: Instant::NEVER,
            sentence: None,
            ..suspect
        };
        let _ = self.suspects.push(next);
        None
    }

    /// There is no room to put a sentenced message aside: it goes on being tried, seldom.
    pub fn no_room(&mut self, seq: u64, pause: Duration) {
        for suspect in self.suspects.iter_mut().filter(|suspect| suspect.seq == Some(seq)) {
            suspect.sentence = None;
            suspect.pause = pause;
        }
    }

    /// Streams that wait for a suspect.
    pub fn streams(&self) -> u128 {
        let named = self.suspects.iter().filter(|suspect| suspect.stream != NO_STREAM);
        named.fold(0, |streams, suspect| streams | 1 << suspect.stream)
    }

    /// Did the remote close more than once on a message alone? Then it does not have it.
    pub fn is_sure(&self) -> bool {
        self.held || self.suspects.iter().any(|suspect| suspect.closes > 1)
    }

    /// Messages that are suspected.
    pub fn seqs(&self) -> heapless::Vec<u64, SUSPECTS_MAX> {
        self.suspects.iter().filter_map(|suspect| suspect.seq).collect()
    }
}

#[cfg(test)]
mod tests;
