//! What a remote refuses: by closing the connection, by PUBACK or PUBREC, by never answering. Who
//! is to blame `bridge::blame` decides; here is what it asks about, and what is done: a topic
//! waits, a message is put aside, the bridge holds everything. Read MQTT 5 sections 3.4, 3.5, 4.13
//! first.

use super::Gateway;
use super::conn::Role;
use super::ends::{Blame as Cause, Bound};
use super::subject::Subject;
use crate::bridge::blame::{Closed, Ending, Finding, Gate, Pick, Refused};
use crate::bridge::link::{Lone, Subscribed};
use crate::bridge::rules::{self, Rules};
use crate::fit::{fit, millis};
use crate::limits::{
    HELD_MAX, HELD_MIN, NEIGHBOUR_WITHIN, QOS2_LOWERED_AFTER, SINGLE_PATIENCE, SINGLE_RETRY,
    SUBACK_PATIENCE, ZERO_QUIET,
};
use crate::mqtt::topic::topic_hash;
use crate::mqtt::{Ack, Packet, Qos, Reason};
use crate::note::{Note, text};
use crate::queue::DropReason;
use crate::queue::aside::NotAside;
use crate::queue::defer::Single;
use crate::queue::outbox::DestId;
use crate::queue::window::{Acked, Barred, Next};
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// What is next for a bridge that something is held against.
pub(super) enum Turn {
    Send(Next),
    /// Something has changed: look again.
    Again,
    Nothing,
}

impl Gateway {
    /// Is a SUBSCRIBE or UNSUBSCRIBE of this connection unanswered? Not for ever: some never are.
    pub(super) fn awaits_suback(&self, now: Instant, bridge: BridgeId) -> bool {
        let link = self.link(bridge);
        let asked = |subscribed: &Subscribed| match subscribed {
            Subscribed::Asked => true,
            Subscribed::Due { at } => *at <= now,
            Subscribed::Granted | Subscribed::Covered { .. } => false,
        };
        now < link.up_since.plus(SUBACK_PATIENCE)
            && (link.left.is_asked() || link.subscribed.iter().any(asked))
    }

    /// What is known of a connection that is about to end.
    pub(super) fn evidence(
        &self,
        now: Instant,
        bridge: BridgeId,
        slot: u16,
        ending: Ending,
    ) -> Closed {
        let dest = Self::bridge_dest(bridge);
        let sending = self.conn(slot).sending.as_ref();
        let begun = sending.filter(|sending| sending.qos != Qos::AtMostOnce);
        let zero = sending.is_some_and(|sending| sending.qos == Qos::AtMostOnce);
        let wire = self.queue.on_wire(dest, begun.map(|sending| sending.record));
        Closed {
            now,
            ending,
            wire: wire.count,
            oldest: wire.oldest,
            zero: zero || now < self.link(bridge).zero_at.plus(ZERO_QUIET),
            unanswered: self.awaits_suback(now, bridge),
            waiting: self.queue.undelivered(dest),
        }
    }

    /// The remote's connection has ended: which message is it about, if it is about one?
    pub(super) fn judge(
        &mut self,
        bridge: BridgeId,
        reason: &'static str,
        closed: Closed,
    ) -> Subject {
        let dest = Self::bridge_dest(bridge);
        let one = closed.wire == 1 || closed.ending == Ending::Unacknowledged;
        let named = closed.oldest.filter(|_| one && closed.ending != Ending::Other);
        let index = named.and_then(|seq| self.queue.in_window(dest, seq));
        let mut subject = index.map_or_else(Subject::none, |index| self.subject(index));
        let lone = self.link_mut(bridge).lone.take().filter(|lone| named == Some(lone.seq));
        let hash = lone.as_ref().map(|lone| lone.hash);
        if let Some(Lone { topic, client, .. }) = lone {
            subject = Subject { topic, client };
        }
        self.shrink_window(bridge, closed.wire, reason);
        let link = self.link_mut(bridge);
        link.zero_at = Instant::ZERO;
        link.rules.holds.disconnected();
        let Finding { suspect, sentence, held } = link.blame.closed(closed);
        let sure = link.blame.is_sure();
        self.queue.set_closed_upon(dest, sure);
        if let (Some(_), Some(index)) = (suspect, index) {
            self.queue.note_closed_upon(index);
            self.name_suspect(bridge, index, hash);
        }
        if let (Some((_, word)), Some(index)) = (sentence, index) {
            self.execute(bridge, index, word);
        }
        let link = self.link(bridge);
        let mut idle = link.rules.holds.suspects() & !link.blame.streams();
        while idle != 0 {
            self.topic_goes(bridge, fit(idle.trailing_zeros(), "streams"));
            idle &= idle - 1;
        }
        if held {
            let bridge = self.bridge_name(bridge);
            let (reason, backlog) = (text(reason), closed.waiting);
            self.note(Note::BridgeHeld { bridge, reason, backlog });
        }
        subject
    }

    /// Before MQTT 5 a remote that has more on the wire than it takes can only close: the next
    /// connection tries half. It grows again with every connection that proves stable.
    fn shrink_window(&mut self, bridge: BridgeId, wire: u16, reason: &'static str) {
        let old = self.link(bridge).version != crate::mqtt::Version::V5;
        if old && wire >= 2 && matches!(reason, "peer_closed" | "reset") {
            let link = self.link_mut(bridge);
            link.window_cap = link.window_cap.min(wire).div_ceil(2);
        }
    }

    /// The topic of a suspect waits from here on.
    fn name_suspect(&mut self, bridge: BridgeId, index: u32, hash: Option<u64>) {
        let seq = self.queue.seq_of(index);
        let hash = self.topic_hash(index).or(hash);
        if let Some((hash, stream)) = self.topic_waits(bridge, index, hash, true) {
            let link = self.link_mut(bridge);
            link.rules.holds.suspect(stream);
            link.blame.name(seq, hash, stream);
        }
    }

    /// The hash of a message's topic; `None` while that is on disk only.
    fn topic_hash(&mut self, index: u32) -> Option<u64> {
        let mut scratch = core::mem::take(&mut self.scratch);
        let hash = self.queue.topic_of(index, &mut scratch).map(topic_hash);
        self.scratch = scratch;
        hash
    }

    /// Gives the topic of a message a stream for itself, with all that waits of it. `None`: too
    /// many have one, or the topic is on disk only.
    fn topic_waits(
        &mut self,
        bridge: BridgeId,
        index: u32,
        hash: Option<u64>,
        suspect: bool,
    ) -> Option<(u64, u8)> {
        let dest = Self::bridge_dest(bridge);
        let mut scratch = core::mem::take(&mut self.scratch);
        let old = self.queue.stream_of(index);
        let Self { links, queue, .. } = self;
        let link_rules = &mut links[usize::from(bridge.0)].rules;
        let busy = &mut |stream| queue.is_stream_busy(dest, stream);
        let stream = hash.and_then(|hash| link_rules.hold(hash, old, suspect, busy));
        let rule = usize::from(self.queue.rule_of(index));
        if let (Some(hash), Some(stream)) = (hash, stream)
            && !Rules::is_paced(stream)
        {
            let forward = self.link(bridge).rules.forward.get(rule);
            let lane = forward.map_or(1, |forward| rules::lane(forward.priority));
            self.queue.set_stream(dest, stream, lane, true);
            if stream != old {
                self.queue.restream(dest, hash, stream, &mut scratch);
            }
        }
        self.scratch = scratch;
        hash.zip(stream)
    }

    /// What waited in this stream waits for nothing any more.
    fn topic_goes(&mut self, bridge: BridgeId, stream: u8) {
        let dest = Self::bridge_dest(bridge);
        self.link_mut(bridge).rules.holds.free(stream);
        if !Rules::is_paced(stream) {
            self.queue.unpace(dest, stream);
        }
        self.queue.recall(dest, 1 << stream);
        if let Some(slot) = self.conn_of(dest) {
            self.ready.set(slot);
        }
    }

    /// Puts a sentenced message aside, or as soon as its bytes are there.
    fn execute(&mut self, bridge: BridgeId, index: u32, word: &'static str) -> bool {
        let dest = Self::bridge_dest(bridge);
        let seq = self.queue.seq_of(index);
        let hash = self.topic_hash(index);
        let stream = self.queue.stream_of(index);
        match self.quarantine(dest, index, word, None, false) {
            Ok(()) => {}
            Err(NotAside::NotLoaded) => return false,
            Err(NotAside::Full) => {
                self.link_mut(bridge).blame.no_room(seq, HELD_MAX);
                return false;
            }
        }
        let more = self.queue.is_stream_busy(dest, stream);
        let freed = self.link_mut(bridge).blame.put_aside(seq, hash.unwrap_or(0), more);
        if let Some(stream) = freed {
            self.topic_goes(bridge, stream);
        }
        true
    }

    /// Takes a message out of a queue and keeps it aside: counted and logged. `over`: the remote
    /// has ended its exchange.
    pub(super) fn quarantine(
        &mut self,
        dest: DestId,
        index: u32,
        reason: &'static str,
        bound: Option<Bound>,
        over: bool,
    ) -> Result<(), NotAside> {
        let Subject { topic, client } = self.subject(index);
        self.queue.set_aside(dest, index, over)?;
        if let Some(link) = self.links.get_mut(usize::from(dest.0)) {
            link.quarantined += 1;
        }
        let (destination, reason, count) = (self.queue.name(dest), text(reason), 1);
        let Cause { size, limit, key, .. } = Cause::of(bound, &destination, None);
        self.note(Note::Quarantined {
            destination,
            reason,
            count,
            topic,
            client,
            size,
            limit,
            key,
        });
        Ok(())
    }

    /// The same for one that cannot be sent. Without room it waits, and its topic with it.
    pub(super) fn keep_aside(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        index: u32,
        reason: &'static str,
        bound: Bound,
    ) {
        let dest = Self::bridge_dest(bridge);
        if self.quarantine(dest, index, reason, Some(bound), false).is_err() {
            self.hold_topic(now, bridge, index, reason);
        }
    }

    /// Which message of a bridge an acknowledgement is for, where that matters: sequence, stream.
    pub(super) fn answered(
        &self,
        slot: u16,
        dest: DestId,
        packet: &Packet<'_>,
    ) -> Option<(u64, u8)> {
        let Role::Link { bridge } = self.conn(slot).role else { return None };
        let link = self.link(bridge);
        let calm = link.blame.is_clear() && link.rules.holds.is_empty();
        if calm && link.held_for == Duration::ZERO {
            return None;
        }
        let (Packet::Puback(ack) | Packet::Pubrec(ack)) = packet else { return None };
        let index = self.queue.by_id(dest, ack.packet_id)?;
        Some((self.queue.seq_of(index), self.queue.stream_of(index)))
    }

    /// The remote took a message, or said that it has it.
    pub(super) fn taken(&mut self, now: Instant, bridge: BridgeId, seq: u64, stream: u8) {
        let dest = Self::bridge_dest(bridge);
        let window = self.queue.outbox(dest).window;
        let link = self.link_mut(bridge);
        if !link.blame.is_clear() {
            let relief = link.blame.acked(now, seq, window);
            let sure = link.blame.is_sure();
            // Something came of this connection: the next one need not wait.
            link.backoff.reset();
            self.queue.set_closed_upon(dest, sure);
            if let Some(stream) = relief.stream {
                self.topic_goes(bridge, stream);
            }
        }
        let link = self.link_mut(bridge);
        if link.held_for != Duration::ZERO {
            link.held_for = Duration::ZERO;
            link.held_until = Instant::ZERO;
            link.rules.holds.hurry(now);
        }
        if link.rules.holds.answered(stream) {
            self.topic_goes(bridge, stream);
        }
    }

    /// PUBACK or PUBREC with an error: what the remote will never take is set aside, the rest waits
    /// and is tried again.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        slot: u16,
        dest: DestId,
        ack: &Ack<'_>,
    ) -> Acked {
        let Some(index) = self.queue.by_id(dest, ack.packet_id) else { return Acked::Unknown };
        let Role::Link { bridge } = self.conn(slot).role else {
            // A local subscriber that refuses a message has settled it [MQTT-4.3.3].
            self.queue.drop_entry(dest, index, DropReason::Refused);
            return Acked::Yes { round_trip: None };
        };
        let (seq, stream) = (self.queue.seq_of(index), self.queue.stream_of(index));
        match Refused::of(ack.reason, self.queue.may_be_known(index)) {
            Refused::Has => return self.queue.pubrec(dest, ack.packet_id, now),
            Refused::Now => self.hold_message(now, bridge, index, ack.reason),
            Refused::Identifier => {
                self.queue.leave_open(dest, ack.packet_id);
                self.hold_message(now, bridge, index, ack.reason);
            }
            Refused::Message => {
                let word = ack.reason.word();
                match self.quarantine(dest, index, word, None, true) {
                    Ok(()) => {
                        if self.link_mut(bridge).rules.holds.answered(stream) {
                            self.topic_goes(bridge, stream);
                        }
                    }
                    // It is tried once more, with its bytes, or with room.
                    Err(_) => self.hold_message(now, bridge, index, ack.reason),
                }
            }
        }
        if let Some(stream) = self.link_mut(bridge).blame.refused(seq).stream {
            self.topic_goes(bridge, stream);
        }
        // It has taken nothing.
        Acked::Unknown
    }

    /// The remote has ended an exchange without taking the message: it waits, and its topic.
    fn hold_message(&mut self, now: Instant, bridge: BridgeId, index: u32, reason: Reason) {
        let dest = Self::bridge_dest(bridge);
        self.hold_topic(now, bridge, index, reason.word());
        self.queue.put_back(dest, index);
    }

    /// A topic waits for a while, for longer each time; when there are too many the bridge does.
    fn hold_topic(&mut self, now: Instant, bridge: BridgeId, index: u32, reason: &'static str) {
        let Subject { topic, client } = self.subject(index);
        let hash = self.topic_hash(index);
        let until = match self.topic_waits(bridge, index, hash, false) {
            Some((_, stream)) => self.link_mut(bridge).rules.holds.refused(stream, now),
            None => {
                let link = self.link_mut(bridge);
                if link.held_until <= now {
                    link.held_for = (link.held_for * 2).clamp(HELD_MIN, HELD_MAX);
                    link.held_until = now.plus(link.held_for);
                }
                link.held_until
            }
        };
        self.due_by(until);
        self.note(Note::MessageHeld {
            bridge: self.bridge_name(bridge),
            reason,
            topic,
            client,
            retry_in_ms: millis(until.since(now)),
        });
    }

    /// An exchange of QoS 2 is open, and this connection takes no such PUBLISH: it waits for one
    /// that does, or for so long that there will be none. `false`: it has waited long enough.
    pub(super) fn waits_for_qos2(&mut self, now: Instant, bridge: BridgeId, index: u32) -> bool {
        let at = self.link(bridge).up_since.plus(QOS2_LOWERED_AFTER);
        if at <= now {
            let bridge = self.bridge_name(bridge);
            self.note(Note::Qos2InDoubt { bridge, count: 1, reason: "qos_lowered" });
            return false;
        }
        let hash = self.topic_hash(index);
        match self.topic_waits(bridge, index, hash, false) {
            Some((_, stream)) => self.link_mut(bridge).rules.holds.until(stream, at),
            None => self.link_mut(bridge).held_until = at,
        }
        self.due_by(at);
        true
    }

    /// The next publish for a bridge that something is held against, and whether QoS 0 may go too.
    pub(super) fn next_turn(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        barred: Barred,
    ) -> (Turn, bool) {
        let (turn, zero) = self.next_held(now, slot, bridge, barred);
        if let Turn::Send(next) = &turn
            && self.queue.on_wire(Self::bridge_dest(bridge), None).count == 0
        {
            let (seq, hash) = (self.queue.seq_of(next.entry), self.topic_hash(next.entry));
            let Subject { topic, client } = self.subject(next.entry);
            let hash = hash.unwrap_or(0);
            self.link_mut(bridge).lone = Some(Lone { seq, hash, topic, client });
        }
        (turn, zero)
    }

    fn next_held(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        barred: Barred,
    ) -> (Turn, bool) {
        let dest = Self::bridge_dest(bridge);
        let link = self.link(bridge);
        if link.blame.is_careful() && self.awaits_suback(now, bridge) {
            self.pace(slot, self.link(bridge).up_since.plus(SUBACK_PATIENCE));
            return (Turn::Nothing, false);
        }
        let wire = self.queue.on_wire(dest, None).count;
        let (gate, due) = (link.blame.gate(now, wire), link.blame.due_at());
        if due > now && due != Instant::NEVER {
            self.pace(slot, due);
        }
        let most = match gate {
            Gate::Shut => return (Turn::Nothing, false),
            Gate::Alone(pick) => {
                // What cannot be had now is looked for again later: others may go meanwhile.
                let turn = self.alone(now, slot, bridge, pick, false);
                let missed = matches!(turn, Turn::Nothing);
                let due = self.link(bridge).blame.gate(now, wire) == gate;
                return (if missed && !due { Turn::Again } else { turn }, false);
            }
            Gate::Open(most) => most,
        };
        if wire >= most {
            return (Turn::Nothing, false);
        }
        let crowded = self.link(bridge).blame.is_crowded();
        let next = self.queue.next_but(dest, barred).filter(|_| !crowded);
        if let Some(next) = next {
            let seq = self.queue.seq_of(next.entry);
            if self.link(bridge).blame.is_nameless(seq) {
                self.name_suspect(bridge, next.entry, None);
                if !self.link(bridge).blame.is_nameless(seq) {
                    return (Turn::Again, false);
                }
            }
            let link = self.link_mut(bridge);
            if link.blame.is_suspect(seq) {
                // Nothing else goes while the peer may have it from before.
                let pick = Pick { stream: next.stream, behind: None };
                link.blame.trying(pick, seq, true);
            }
            return (Turn::Send(next), self.link(bridge).blame.takes_zero());
        }
        let link = self.link(bridge);
        let Some(pick) = link.blame.instead().filter(|_| wire == 0) else {
            return (Turn::Nothing, wire == 0 || link.blame.takes_zero());
        };
        let patience = link.up_since.plus(NEIGHBOUR_WITHIN);
        let comes = !crowded && now < patience && self.queue.may_come(dest, barred.blocked);
        let most = self.config.bridges[usize::from(bridge.0)].backoff_max;
        let rested = link.blame.rests_until(link.up_since, most);
        let from = if comes { patience } else { rested };
        if now < from {
            self.pace(slot, from);
            return (Turn::Nothing, !comes);
        }
        let again = self.link(bridge).single_at;
        if now < again {
            self.pace(slot, again);
            return (Turn::Nothing, true);
        }
        let shut = self.queue.has_others(dest, barred.blocked);
        let turn = self.alone(now, slot, bridge, pick, shut);
        if matches!(turn, Turn::Nothing) {
            let again = now.plus(SINGLE_RETRY);
            self.link_mut(bridge).single_at = again;
            self.pace(slot, again);
        }
        (turn, false)
    }

    /// A suspect, alone; one that is sentenced is put aside instead. `shut`: others wait, and
    /// cannot be sent.
    fn alone(&mut self, now: Instant, slot: u16, bridge: BridgeId, pick: Pick, shut: bool) -> Turn {
        let dest = Self::bridge_dest(bridge);
        let quiet = self.link(bridge).zero_at.plus(ZERO_QUIET);
        if now < quiet {
            // A close would say nothing.
            self.pace(slot, quiet);
            return Turn::Nothing;
        }
        let soon = now.plus(HELD_MIN);
        let waits = self.link(bridge).rules.holds.ready_at(pick.stream, now);
        if waits > now && waits != Instant::NEVER {
            // Its topic has to wait for something else, too.
            self.link_mut(bridge).blame.not_now(pick, waits);
            self.pace(slot, waits);
            return Turn::Nothing;
        }
        if let Some((seq, word)) = self.link(bridge).blame.sentenced(pick.stream) {
            let found = self.queue.look_up(dest, pick.stream, seq);
            if found.is_some_and(|index| self.execute(bridge, index, word)) {
                return Turn::Again;
            }
            self.link_mut(bridge).blame.not_now(pick, soon);
            self.pace(slot, soon);
            return Turn::Nothing;
        }
        let mut pick = pick;
        let mut found = self.queue.single_out(dest, pick.stream, pick.behind);
        if found.is_none() && pick.behind.is_some() {
            // It may have to be loaded, or made durable.
            let link = self.link_mut(bridge);
            let patience = link.behind_since.get_or_insert(now).plus(NEIGHBOUR_WITHIN);
            if now < patience {
                self.pace(slot, patience);
                return Turn::Nothing;
            }
            self.link_mut(bridge).blame.none_behind(pick);
            pick.behind = None;
            found = self.queue.single_out(dest, pick.stream, None);
        }
        let next = match found {
            Some(Single::This(next)) => next,
            Some(Single::Other(next)) => {
                let seq = self.queue.seq_of(next.entry);
                let link = self.link_mut(bridge);
                if link.blame.is_suspect(seq) {
                    let pick = Pick { stream: next.stream, behind: None };
                    link.blame.trying(pick, seq, true);
                } else {
                    link.blame.trying_other(seq);
                }
                return Turn::Send(next);
            }
            None if self.queue.is_stream_busy(dest, pick.stream) => {
                let link = self.link_mut(bridge);
                let known = link.single_since.filter(|(stream, _)| *stream == pick.stream);
                let (_, since) = *link.single_since.insert(known.unwrap_or((pick.stream, now)));
                let again = now.plus(SINGLE_RETRY);
                link.blame.wait(pick, again);
                if since.plus(SINGLE_PATIENCE) <= now {
                    link.single_since = None;
                    link.blame.not_now(pick, soon);
                }
                self.pace(slot, again);
                return Turn::Nothing;
            }
            None => {
                self.link_mut(bridge).blame.gone(pick.stream);
                self.topic_goes(bridge, pick.stream);
                return Turn::Again;
            }
        };
        let seq = self.queue.seq_of(next.entry);
        let link = self.link_mut(bridge);
        link.single_since = None;
        link.blame.trying(pick, seq, shut);
        Turn::Send(next)
    }
}
