//! Circles of brokers: does what a bridge sends come back here, over another connection, and go out
//! by it again, for ever? MQTT has no word for that, and a mark in the message would change it for
//! everybody, so it is found by what passes.
//!
//! A *passage* is a message that comes from one connection (a client, or the remote of a bridge)
//! and goes out by a bridge. Three steps, each dearer and rarer than the one before:
//!
//! 1. Of one in eight, drawn by lot, a small table counts how often the same look passes (ends of
//!    topic and payload, lengths, from where, to where). That is all an ordinary message costs.
//! 2. What passes often is watched by a hash of all of it. Then all bridges hold their publishes
//!    back for a moment. What goes round is silent from then on, and comes back soon after the
//!    hold is over; a device that says `online` a hundred times a second goes on saying it. What
//!    the source may have been waiting for does not count: the hold is measured from when it has
//!    its acknowledgement, and one in which the source was sent anything else proves nothing.
//! 3. After three such proofs the *pair* of connection and bridge is a circle. From then on a
//!    message from that connection is not given to that bridge if the same one, topic, properties
//!    and payload, was given to it so shortly before that this is it, coming back: once for each
//!    time that it was sent. So nothing is kept from a bridge but what it was sent just before,
//!    and what is new from that connection passes. A pair that nothing comes back by for a while
//!    is none any more.
//!
//! Memory is fixed; `now` is a parameter. Not found: what changes on its way round (a topic that
//! grows by a prefix ends by itself at the longest topic), what takes longer than `GAP_MAX` each
//! time, and what goes round so many times at once that it does not fall silent within the hold.

use crate::fit::{fit, index, wide};
use crate::limits::{CIRCLE_PAIRS_MAX, CIRCLE_ROWS, CIRCLE_SENT};
use crate::mqtt::topic::bytes_hash;
use crate::vocab::{BridgeId, Instant, PacketId};
use core::time::Duration;

/// One of so many messages is looked at while nothing is watched: a power of two.
const DRAWN_OF: u32 = 8;
/// Drawn passages of one look, in as many turns, before anybody looks closer.
const LOOK_AFTER: u32 = 4;
/// The longest mean time between two passages that is looked at.
const GAP_MAX: Duration = Duration::from_millis(250);
/// Turns a watch measures the gap over, the first time and before each further hold.
const MEASURED_FIRST: u32 = 8;
const MEASURED: u32 = 4;
/// And how long, the first time: pauses are part of it (a window that is full, a commit).
const MEASURED_FOR: Duration = Duration::from_millis(500);
/// A source that brings more than so many in a turn does not wait for what we send.
const A_TURN_MAX: u32 = 4;
/// Silence that proves something: in mean gaps, in longest gaps, and at least. A source that is
/// silent for longer by itself is not asked.
const QUIET_GAPS: u32 = 4;
const QUIET_LONGEST: u32 = 2;
const QUIET_MIN: Duration = Duration::from_millis(10);
const QUIET_MAX: Duration = Duration::from_secs(1);
/// The longest hold, in times of that silence; the second number is for many copies at once.
const HOLD_QUIETS: [u32; 2] = [2, 8];
/// The first hold is over with so many turns in which it came all the same.
const HOLD_TURNS: u32 = 3;
/// No hold for many copies is longer.
const HOLD_MANY_MAX: Duration = Duration::from_millis(400);
/// The source gets its acknowledgement within this, or the hold proves nothing.
const PAID_WITHIN: Duration = Duration::from_millis(400);
/// What is held comes back within so many silences, and this, after the hold.
const BACK_QUIETS: u32 = 4;
const BACK_MIN: Duration = Duration::from_millis(50);
/// Proofs that make a circle, and holds that may prove nothing.
const PROOFS: u32 = 3;
const TRIES_MAX: u32 = 8;
/// A watch that sees nothing for so long ends.
const WATCH_IDLE: Duration = Duration::from_secs(5);
/// What was found to be no circle is not looked at again for so long.
const REST: Duration = Duration::from_secs(600);
/// The same where it could not be told.
const REST_UNSURE: Duration = Duration::from_secs(20);
/// Looks that rest at once; the oldest gives way.
const RESTS: usize = 16;
/// What comes back within so many rounds, and this, is what was sent.
const SPAN_ROUNDS: u32 = 4;
const SPAN_MIN: Duration = Duration::from_millis(50);
const SPAN_MAX: Duration = Duration::from_secs(2);
/// A pair that nothing comes back by is none any more after this.
const PAIR_IDLE: Duration = Duration::from_secs(60);
/// A circle is told about once in so long.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A message on its way through: from where, to where, what.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// Number of the destination that is at the other end of the connection it came by.
    pub source: u16,
    pub bridge: BridgeId,
    pub topic: &'a str,
    pub properties: &'a [u8],
    pub payload: &'a [u8],
}

impl Passage<'_> {
    /// Everything of the message that is the same when it comes back.
    fn content(&self) -> u64 {
        content(self.topic, self.properties, self.payload)
    }

    /// What can be had of it for little: lengths and ends.
    fn look(&self) -> u64 {
        let [head, tail] = ends(self.payload);
        let [_, topic] = ends(self.topic.as_bytes());
        let lengths = self.topic.len() << 16 ^ self.payload.len();
        let place = u64::from(self.source) << 48 | u64::from(self.bridge.0) << 40;
        let mut look = place ^ wide(lengths);
        for word in [head, tail, topic] {
            look = (look.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        look ^ look >> 32
    }
}

/// The first and the last eight bytes.
fn ends(bytes: &[u8]) -> [u64; 2] {
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return [u64::from_le_bytes(*head), u64::from_le_bytes(*tail)];
    }
    let word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word, word]
}

fn content(topic: &str, properties: &[u8], payload: &[u8]) -> u64 {
    let parts = [topic.as_bytes(), properties, payload];
    parts.iter().fold(0, |hash: u64, part| hash.rotate_left(21) ^ bytes_hash(part))
}

/// What a passage led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is being watched: whoever waits for acknowledgements should not have to wait for long,
    /// or goes round no faster than they come.
    Watched,
    /// A hold began: ask [`Circle::hold`].
    Hold,
    /// It goes round, and has done so this often at least: call [`Circle::convict`].
    Circle { count: u32 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    mark: u32,
    passes: u32,
    /// Low bits of the microsecond of the first and of the last turn.
    since: u32,
    turn: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// How often does it pass?
    Measure { since: Instant, turns: u32, passes: u32, want: u32, span: Duration },
    /// Bridges are silent: does the source fall silent too?
    Hold { since: Instant, paid: Option<Instant>, quiet_from: Instant, turns: u32 },
    /// They are not any more: does it come back?
    Back { since: Instant, until: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    look: u64,
    content: u64,
    source: u16,
    bridge: BridgeId,
    packet_id: Option<PacketId>,
    phase: Phase,
    turn: Instant,
    /// Mean time between two turns with it, and the longest, of what was measured.
    gap: Duration,
    gap_max: Duration,
    /// The longest it took to come back.
    round: Duration,
    count: u32,
    proofs: u32,
    tries: u32,
    /// Which of [`HOLD_QUIETS`].
    level: usize,
    /// The source was sent something else since the hold began.
    told: bool,
}

impl Watch {
    fn quiet(&self) -> Duration {
        (self.gap * QUIET_GAPS).max(self.gap_max * QUIET_LONGEST).max(QUIET_MIN)
    }

    /// The longest hold, from when the source has its acknowledgement.
    fn hold_max(&self) -> Duration {
        let [few, many] = HOLD_QUIETS.map(|times| self.quiet() * times);
        if self.level == 0 { few } else { many.min(HOLD_MANY_MAX).max(few) }
    }

    fn measure(&mut self, now: Instant, want: u32, span: Duration) {
        self.phase = Phase::Measure { since: now, turns: 0, passes: 0, want, span };
    }
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    /// Stands for the source over its connections.
    who: u64,
    bridge: BridgeId,
    /// What comes back later than this was not sent by us.
    span: Duration,
    /// When something came back.
    last: Instant,
    told_at: Instant,
    untold: u32,
}

/// What a bridge of a circle was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    key: u64,
    at: Instant,
    /// How often, less what came back of it.
    credit: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    look: u64,
    until: Instant,
}

pub struct Circle {
    rows: Box<[Row]>,
    watch: Option<Watch>,
    /// Decides who is drawn; the same in every run.
    lot: u64,
    rests: [Rest; RESTS],
    rest_at: usize,
    pairs: heapless::Vec<Pair, CIRCLE_PAIRS_MAX>,
    sent: Box<[Sent]>,
}

impl Default for Circle {
    fn default() -> Self {
        Self::new()
    }
}

impl Circle {
    pub fn new() -> Self {
        Self {
            rows: vec![Row::default(); CIRCLE_ROWS].into_boxed_slice(),
            watch: None,
            lot: 0,
            rests: [Rest::default(); RESTS],
            rest_at: 0,
            pairs: heapless::Vec::new(),
            sent: vec![Sent::default(); CIRCLE_SENT].into_boxed_slice(),
        }
    }

    /// What `new` allocates, in bytes.
    pub const fn planned_bytes() -> usize {
        CIRCLE_ROWS * size_of::<Row>() + CIRCLE_SENT * size_of::<Sent>()
    }

    /// Is the message at hand to be looked at by [`Circle::pass`]? To be asked once a message.
    #[inline]
    pub fn draws(&mut self) -> bool {
        self.lot = self.lot.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        self.watch.is_some() || self.lot >> (64 - DRAWN_OF.trailing_zeros()) == 0
    }

    /// A message was taken and given to a bridge. `packet_id`: what its source awaits an
    /// acknowledgement for.
    pub fn pass(
        &mut self,
        now: Instant,
        passage: &Passage<'_>,
        packet_id: Option<PacketId>,
    ) -> Option<Found> {
        let look = passage.look();
        let often = self.count(now, look);
        if self.watch.is_some() {
            return self.watched(now, look, passage, packet_id);
        }
        if often {
            self.consider(now, look, passage);
        }
        None
    }

    /// Counts a passage in its row; `true` when it is time to look closer.
    fn count(&mut self, now: Instant, look: u64) -> bool {
        // The lower half says where, the upper who.
        let mark = fit(look >> 32, "the upper half");
        let turn = micros_low(now);
        let row = &mut self.rows[place_of(look, CIRCLE_ROWS)];
        if row.mark != mark {
            // Whoever passes more often than all others of this row together stays in it.
            if row.passes > 0 {
                row.passes -= 1;
            } else {
                *row = Row { mark, passes: 1, since: turn, turn };
            }
            return false;
        }
        // What comes twice in a turn was not sent in between.
        if row.turn == turn {
            return false;
        }
        row.turn = turn;
        row.passes += 1;
        if row.passes < LOOK_AFTER {
            return false;
        }
        let span = Duration::from_micros(u64::from(turn.wrapping_sub(row.since)));
        let passes = core::mem::take(&mut row.passes);
        row.since = turn;
        span / (passes * DRAWN_OF) <= GAP_MAX
    }

    fn consider(&mut self, now: Instant, look: u64, passage: &Passage<'_>) {
        if self.rests.iter().any(|rest| rest.look == look && rest.until > now) {
            return;
        }
        let mut watch = Watch {
            look,
            content: passage.content(),
            source: passage.source,
            bridge: passage.bridge,
            packet_id: None,
            phase: Phase::Back { since: now, until: now },
            turn: now,
            gap: Duration::ZERO,
            gap_max: Duration::ZERO,
            round: Duration::ZERO,
            count: LOOK_AFTER * DRAWN_OF,
            proofs: 0,
            tries: 0,
            level: 0,
            told: false,
        };
        watch.measure(now, MEASURED_FIRST, MEASURED_FOR);
        self.watch = Some(watch);
    }

    /// Something passes while something is watched.
    fn watched(
        &mut self,
        now: Instant,
        look: u64,
        passage: &Passage<'_>,
        packet_id: Option<PacketId>,
    ) -> Option<Found> {
        let Some(watch) = &mut self.watch else { return None };
        if watch.look != look {
            if now.since(watch.turn) > WATCH_IDLE {
                self.watch = None;
            }
            return None;
        }
        if watch.content != passage.content() {
            // Its ends are alike, and it says something new each time.
            self.rest(now, REST);
            return None;
        }
        watch.count += 1;
        watch.packet_id = packet_id;
        let pause = now.since(core::mem::replace(&mut watch.turn, now));
        match &mut watch.phase {
            Phase::Measure { since, turns, passes, want, span } => {
                watch.gap_max = watch.gap_max.max(pause);
                *passes += 1;
                *turns += u32::from(!pause.is_zero());
                let measured = now.since(*since);
                if *turns < *want || measured < *span {
                    return Some(Found::Watched);
                }
                let many = *passes / *turns > A_TURN_MAX;
                watch.gap = measured / *turns;
                if many || watch.gap > GAP_MAX || watch.quiet() > QUIET_MAX {
                    self.rest(now, REST_UNSURE);
                    return None;
                }
                watch.told = false;
                watch.phase = Phase::Hold { since: now, paid: None, quiet_from: now, turns: 0 };
                Some(Found::Hold)
            }
            Phase::Hold { quiet_from, turns, .. } => {
                *quiet_from = now;
                *turns += u32::from(!pause.is_zero());
                Some(Found::Hold)
            }
            Phase::Back { since, until } => {
                if now > *until {
                    self.rest(now, REST_UNSURE);
                    return None;
                }
                watch.round = watch.round.max(now.since(*since));
                self.is_back(now)
            }
        }
    }

    /// What was held has come back.
    fn is_back(&mut self, now: Instant) -> Option<Found> {
        let watch = self.watch.as_mut()?;
        if watch.told {
            watch.tries += 1;
        } else {
            watch.proofs += 1;
        }
        let (proofs, tries, count) = (watch.proofs, watch.tries, watch.count);
        watch.measure(now, MEASURED, Duration::ZERO);
        if tries > TRIES_MAX {
            self.rest(now, REST_UNSURE);
        }
        (proofs == PROOFS).then_some(Found::Circle { count })
    }

    /// The watch is over without a finding.
    fn rest(&mut self, now: Instant, span: Duration) {
        let Some(watch) = self.watch.take() else { return };
        self.rests[self.rest_at] = Rest { look: watch.look, until: now.plus(span) };
        self.rest_at = (self.rest_at + 1) % RESTS;
    }

    /// Whose silence is listened for: its destination.
    pub fn listens_to(&self) -> Option<u16> {
        let watch = self.watch.as_ref()?;
        (!matches!(watch.phase, Phase::Measure { .. })).then_some(watch.source)
    }

    /// Whose acknowledgement the hold waits for: its destination and identifier.
    pub fn waits_for(&self) -> Option<(u16, PacketId)> {
        let watch = self.watch.as_ref()?;
        let holds = matches!(watch.phase, Phase::Hold { .. });
        watch.packet_id.filter(|_| holds).map(|id| (watch.source, id))
    }

    /// The source is sent a message: what it sends next may be its answer.
    pub fn tell(&mut self, topic: &str, properties: &[u8], payload: &[u8]) {
        if let Some(watch) = &mut self.watch {
            watch.told |= watch.content != content(topic, properties, payload);
        }
    }

    /// The source may have been sent something; nothing is known of what.
    pub fn spoil(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.told = true;
        }
    }

    /// Others wait for the room that what is held takes: not now.
    pub fn give_up(&mut self, now: Instant) {
        let holds = |watch: &Watch| matches!(watch.phase, Phase::Hold { .. });
        if self.watch.as_ref().is_some_and(holds) {
            self.rest(now, REST_UNSURE);
        }
    }

    /// Until when bridges hold their publishes back; `None`: they do not. `owes`: the source has
    /// not had its acknowledgement yet.
    pub fn hold(&mut self, now: Instant, owes: bool) -> Option<Instant> {
        let watch = self.watch.as_mut()?;
        let (quiet, longest) = (watch.quiet(), watch.hold_max());
        let few = watch.level == 0;
        let Phase::Hold { since, paid, quiet_from, turns } = &mut watch.phase else { return None };
        if owes {
            *quiet_from = now;
        } else {
            *paid = paid.or(Some(now));
        }
        let quiet_at = quiet_from.plus(quiet);
        let last = paid.map_or(since.plus(PAID_WITHIN), |paid| paid.plus(longest));
        if !owes && now >= quiet_at {
            watch.phase =
                Phase::Back { since: now, until: now.plus(quiet * BACK_QUIETS + BACK_MIN) };
            return None;
        }
        let comes_on = few && *turns >= HOLD_TURNS;
        if now < last && !comes_on {
            return Some(if owes { now.plus(QUIET_MIN / 4) } else { quiet_at }.min(last));
        }
        let unsure = paid.is_none() && !comes_on;
        if !few || watch.proofs > 0 || unsure || longest >= HOLD_MANY_MAX {
            self.rest(now, if unsure { REST_UNSURE } else { REST });
        } else {
            // Perhaps there is more than one of it.
            watch.level += 1;
            watch.measure(now, MEASURED_FIRST, MEASURED_FOR);
        }
        None
    }

    /// What is watched goes round: the pair is known from here on. `false`: it was before, and
    /// only takes longer now.
    pub fn convict(&mut self, now: Instant, who: u64) -> bool {
        let Some(watch) = self.watch.take() else { return false };
        let round = watch.gap.max(watch.round);
        let span = (round * SPAN_ROUNDS).clamp(SPAN_MIN, SPAN_MAX);
        self.record(now, watch.bridge, watch.content, true);
        self.pairs.retain(|pair| now.since(pair.last) <= PAIR_IDLE);
        let known = |pair: &&mut Pair| pair.who == who && pair.bridge == watch.bridge;
        if let Some(pair) = self.pairs.iter_mut().find(known) {
            pair.span = pair.span.max(span);
            return false;
        }
        let pair = Pair { who, bridge: watch.bridge, span, last: now, told_at: now, untold: 0 };
        // With all places taken this one is found, and told, again.
        let _ = self.pairs.push(pair);
        true
    }

    /// Bridges are others now.
    pub fn forget(&mut self) {
        self.watch = None;
        self.pairs.clear();
    }

    /// Is any circle known?
    #[inline]
    pub fn is_known(&self) -> bool {
        !self.pairs.is_empty()
    }

    /// Would this bridge be sent what it has just sent?
    pub fn comes_back(&mut self, now: Instant, who: u64, passage: &Passage<'_>) -> bool {
        self.pairs.retain(|pair| now.since(pair.last) <= PAIR_IDLE);
        let mut pairs = self.pairs.iter();
        let pair = pairs.find(|pair| pair.who == who && pair.bridge == passage.bridge);
        let Some(pair) = pair else { return false };
        let key = key_of(passage.bridge, passage.content());
        let sent = &self.sent[place_of(key, CIRCLE_SENT)];
        sent.key == key && sent.credit > 0 && now.since(sent.at) <= pair.span
    }

    /// A message was taken: given to its bridge, or kept from it (`back`). Returns how many were
    /// kept from it, when it is time to tell.
    pub fn taken(
        &mut self,
        now: Instant,
        who: u64,
        passage: &Passage<'_>,
        back: bool,
    ) -> Option<u32> {
        if self.pairs.iter().all(|pair| pair.bridge != passage.bridge) {
            return None;
        }
        self.record(now, passage.bridge, passage.content(), !back);
        if !back {
            return None;
        }
        let mut pairs = self.pairs.iter_mut();
        let pair = pairs.find(|pair| pair.who == who && pair.bridge == passage.bridge)?;
        pair.last = now;
        pair.untold += 1;
        if now.since(pair.told_at) < TELL_EVERY {
            return None;
        }
        pair.told_at = now;
        Some(core::mem::take(&mut pair.untold))
    }

    fn record(&mut self, now: Instant, bridge: BridgeId, content: u64, sent: bool) {
        let key = key_of(bridge, content);
        let row = &mut self.sent[place_of(key, CIRCLE_SENT)];
        let alive = row.key == key && now.since(row.at) <= SPAN_MAX;
        if !sent {
            row.credit -= u32::from(alive && row.credit > 0);
            return;
        }
        let credit = if alive { row.credit.saturating_add(1) } else { 1 };
        *row = Sent { key, at: now, credit };
    }
}

fn key_of(bridge: BridgeId, content: u64) -> u64 {
    content.wrapping_add(u64::from(bridge.0) << 48)
}

/// A place among so many, a power of two.
fn place_of(key: u64, count: usize) -> usize {
    // The low bits are the same in a narrower word.
    index(fit(key & u64::from(u32::MAX), "the lower half")) & (count - 1)
}

/// The low 32 bits of the microseconds.
fn micros_low(now: Instant) -> u32 {
    fit(now.as_micros() & u64::from(u32::MAX), "the lower half")
}

#[cfg(test)]
mod tests;
