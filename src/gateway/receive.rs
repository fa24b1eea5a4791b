//! Bytes from a connection: packet by packet, each to its handler. A PUBLISH that finds no room
//! stays in the buffer, the control packets behind it are served all the same.

use super::Gateway;
use super::conn::Role;
pub(super) use super::ends::Fatal;
use super::ingest::{Message, Payload, Source, What};
use super::kept::Begun;
use super::oversize::Swallowed;
use super::sys;
use super::verbs::Taken;
use crate::bridge::granted::Said;
use crate::fit::wide;
use crate::limits::{HOP_BYTES_MAX, PROPERTIES_BYTES_MAX, STREAM_BYTES};
use crate::mqtt::props::{Properties, PropertyId, copy_without};
use crate::mqtt::{
    Connack, Disconnect, Fault, Frame, Packet, Publish, Qos, Reason, Version, decode, frame,
};
use crate::queue::Reserve;
use crate::queue::window::{Acked, Answer};
use crate::vocab::{BridgeId, ConnId, Instant};

/// Packet types, the upper half of the first byte (2.1.2).
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;

/// So much of a packet at once is as good as a whole one for the keepalive: a large packet may take
/// its time over a thin line.
const PROGRESS_BYTES: usize = 256;

/// What became of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    /// A PUBLISH that waits for room.
    Park,
    /// The same, and every PUBLISH behind it waits too.
    ParkAll,
    /// It and everything behind it waits until replies have left.
    Stall,
}

/// A CONNACK without properties that refuses.
fn is_old_refusal(bytes: &[u8]) -> bool {
    matches!(bytes, [0x20, 2, _, 1..=5])
}

impl Gateway {
    /// Takes what it can of `buffer`; `buffer[..kept]` must be presented again.
    pub fn receive(&mut self, now: Instant, id: ConnId, buffer: &mut [u8]) -> Taken {
        self.now = now;
        let nothing = Taken {
            kept: 0,
            open: true,
            packet_bytes: None,
            later: false,
            short: false,
            parked: false,
            holder: 0,
        };
        let Some(slot) = self.live(id) else { return nothing };
        self.looks = self.looks_now();
        let conn = self.conn_mut(slot);
        let (parked, retry) = (core::mem::take(&mut conn.parked), core::mem::take(&mut conn.retry));
        if core::mem::take(&mut conn.waits) {
            self.parked -= 1;
        }
        let parked = parked.min(buffer.len());
        let conn = self.conn_mut(slot);
        let fresh = buffer.len().saturating_sub(parked + conn.begun_bytes);
        if fresh > 0 {
            conn.received_at = now;
        }
        let begun = conn.begun_bytes;
        let filling = self.conn(slot).inbound.is_filling();
        let bytes = self.fill(now, slot, buffer, parked);
        let bytes = self.swallow_rest(slot, &mut buffer[..bytes], parked);
        let buffer = &mut buffer[..bytes];
        if (retry || filling)
            && let Err(fatal) = self.take_kept(now, slot)
        {
            self.fail(now, slot, fatal);
            return nothing;
        }
        let mut read = if retry { 0 } else { parked };
        let mut kept = read;
        let mut open = true;
        let mut packet_bytes = None;
        let mut later = false;
        let mut publishes_wait = kept > 0 || self.conn(slot).inbound.has_whole();
        let mut subscribes_wait = kept > 0 && self.conn(slot).subscribing.is_some();
        let mut zero_waits = publishes_wait && self.conn(slot).zero_parked;
        let mut all_wait = publishes_wait && self.conn(slot).alias_parked;
        loop {
            if matches!(self.conn(slot).role, Role::Closing | Role::Free) {
                return nothing;
            }
            let limit = self.config.limit.packet_bytes;
            let total = match frame(&buffer[read..], limit) {
                Ok(Frame::Complete { packet_bytes }) => packet_bytes,
                Ok(Frame::Incomplete { packet_bytes: need }) => {
                    packet_bytes = need;
                    let large = need.filter(|need| *need > STREAM_BYTES);
                    let Some(total) = large.filter(|_| buffer[read] >> 4 == PUBLISH) else { break };
                    let here = &buffer[read..];
                    let waits = (publishes_wait, zero_waits || all_wait);
                    match self.begin_large(now, slot, here, total, waits, kept > 0) {
                        Ok(Begun::Taken) => {
                            self.counters.in_packets += 1;
                            self.counters.in_bytes += wide(total);
                            read = buffer.len();
                            packet_bytes = None;
                        }
                        Ok(Begun::Needs(bytes)) => packet_bytes = Some(bytes),
                        Ok(Begun::Later) => {
                            later = true;
                            // In one piece, if there is room for that.
                            open = total <= self.config.limit.large_bytes();
                        }
                        Err(fatal) => {
                            self.fail(now, slot, fatal);
                            return nothing;
                        }
                    }
                    break;
                }
                Err(malformed) => {
                    let here = &buffer[read..];
                    match self.swallow_oversized(slot, here, malformed) {
                        Ok(Swallowed::Taken(bytes)) => {
                            read += bytes;
                            continue;
                        }
                        Ok(Swallowed::Incomplete(bytes)) => {
                            packet_bytes = Some(bytes);
                            break;
                        }
                        Ok(Swallowed::Later) => {
                            open = false;
                            self.stall(slot);
                            break;
                        }
                        Err(fatal) => {
                            self.fail_over(now, slot, fatal, &buffer[read..]);
                            return nothing;
                        }
                    }
                }
            };
            let kind = buffer[read] >> 4;
            if subscribes_wait && matches!(kind, SUBSCRIBE | UNSUBSCRIBE) {
                buffer.copy_within(read..read + total, kept);
                kept += total;
                read += total;
                continue;
            }
            let bytes = &buffer[read..read + total];
            let step = self.packet(now, slot, bytes, publishes_wait, zero_waits || all_wait);
            match step {
                Ok(Step::Done) => {
                    self.counters.in_packets += 1;
                    self.counters.in_bytes += wide(total);
                    if let Some(last) = self.conn(slot).inbound.last_whole() {
                        publishes_wait = true;
                        zero_waits |= last == Qos::AtMostOnce;
                    }
                }
                Ok(step @ (Step::Park | Step::ParkAll)) => {
                    publishes_wait = true;
                    all_wait |= step == Step::ParkAll;
                    zero_waits |= self.plan.wait || buffer[read] & 0x06 == 0;
                    buffer.copy_within(read..read + total, kept);
                    kept += total;
                }
                // Its retained messages wait for acknowledgements that may lie behind it.
                Ok(Step::Stall) if kind == SUBSCRIBE && self.conn(slot).subscribing.is_some() => {
                    subscribes_wait = true;
                    buffer.copy_within(read..read + total, kept);
                    kept += total;
                }
                Ok(Step::Stall) => {
                    open = false;
                    self.stall(slot);
                    break;
                }
                Err(fatal) => {
                    self.fail_over(now, slot, fatal, &buffer[read..read + total]);
                    return nothing;
                }
            }
            read += total;
        }
        if matches!(self.conn(slot).role, Role::Closing | Role::Free) {
            return nothing;
        }
        let rest = buffer.len() - read;
        let conn = self.conn_mut(slot);
        conn.begun_bytes = rest;
        let filling = conn.inbound.is_filling();
        if fresh > 0 && (rest > 0 || filling || conn.swallow_left > 0) {
            conn.part_at = now;
        }
        if fresh >= PROGRESS_BYTES || fresh > 0 && !filling && rest < begun + fresh {
            conn.alive_at = now;
        }
        conn.parked = kept;
        if !later && matches!(conn.role, Role::Client { .. }) {
            conn.inbound.wants = None;
        }
        conn.waits = kept > 0 || later || conn.inbound.waits() || !open && !conn.stalled;
        conn.zero_parked = conn.waits && zero_waits;
        conn.alias_parked = kept > 0 && all_wait;
        if conn.waits {
            self.parked += 1;
        }
        buffer.copy_within(read.., kept);
        self.collect();
        // What is parked shares the room of the packet behind it.
        let most = self.config.limit.large_bytes();
        packet_bytes = packet_bytes.map(|bytes| (bytes + kept).min(bytes.max(most)));
        // Only of what is kept it matters whose that is.
        let in_full = kept + rest > 0 || matches!(self.conn(slot).role, Role::Greeting);
        let holder = if in_full { self.holder_of(slot) } else { 1 };
        let bytes = packet_bytes.unwrap_or(0);
        let short = later && (kept > 0 || !self.queue.fits(Reserve::ForRemotes, bytes, 0));
        Taken { kept: kept + rest, open, packet_bytes, later, short, parked: kept > 0, holder }
    }

    /// DISCONNECT of a remote, up or not.
    fn link_says_goodbye(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        disconnect: &Disconnect<'_>,
    ) -> Result<Step, Fatal> {
        let Disconnect { reason, properties } = *disconnect;
        if !reason.may_end(true) {
            return Err(Fault::ReasonUndefined.into());
        }
        let id = self.conn(slot).id(slot);
        if !self.link(bridge).is_candidate(id) {
            self.link_mut(bridge).said = Said::of(&properties);
        }
        self.link_disconnect(now, slot, bridge, reason);
        Ok(Step::Done)
    }

    /// Its input waits until replies or acknowledgements have left.
    fn stall(&mut self, slot: u16) {
        self.conn_mut(slot).stalled = true;
        self.ready.set(slot);
    }

    fn packet(
        &mut self,
        now: Instant,
        slot: u16,
        bytes: &[u8],
        publishes_wait: bool,
        zero_waits: bool,
    ) -> Result<Step, Fatal> {
        let conn = self.conn(slot);
        let role = conn.role;
        let packet = match decode(conn.version, bytes) {
            Ok(packet) => packet,
            Err(malformed) if role == Role::Greeting => {
                self.refuse_malformed_connect(slot, &malformed, bytes);
                return Err(malformed.into());
            }
            // A remote of 3.1.1 refuses version 5 in its own form.
            Err(_) if is_old_refusal(bytes) && matches!(role, Role::Link { .. }) => {
                Packet::Connack(Connack {
                    session_present: false,
                    code: bytes[3],
                    properties: Properties::EMPTY,
                })
            }
            Err(malformed) => {
                return self.refuse_publish(slot, bytes, malformed, publishes_wait, zero_waits);
            }
        };
        match role {
            Role::Greeting => match packet {
                Packet::Connect(connect) => self.connect(now, slot, &connect),
                _ => Err(Reason::PROTOCOL_ERROR.into()),
            },
            Role::Client { session } => {
                let source = Source::Client { slot, session };
                self.client_speaks(slot, session);
                match packet {
                    Packet::Publish(publish) => self.publish_aliased(
                        now,
                        slot,
                        source,
                        &publish,
                        publishes_wait,
                        zero_waits,
                    ),
                    Packet::Subscribe(subscribe) => self.subscribe(now, slot, session, &subscribe),
                    Packet::Unsubscribe(unsubscribe) => {
                        self.unsubscribe(slot, session, &unsubscribe)
                    }
                    Packet::Pingreq => Ok(self.reply(slot, &Packet::Pingresp)),
                    Packet::Disconnect(disconnect) if disconnect.reason.may_end(false) => {
                        self.client_disconnect(now, slot, session, &disconnect)
                    }
                    Packet::Disconnect(_) => Err(Fault::ReasonUndefined.into()),
                    Packet::Puback(_)
                    | Packet::Pubrec(_)
                    | Packet::Pubrel(_)
                    | Packet::Pubcomp(_) => self.acknowledgement(now, slot, &packet),
                    Packet::Connect(_)
                    | Packet::Connack(_)
                    | Packet::Suback(_)
                    | Packet::Unsuback(_)
                    | Packet::Pingresp
                    | Packet::Auth(_) => Err(Reason::PROTOCOL_ERROR.into()),
                }
            }
            Role::Link { bridge } if self.link_is_up(bridge, slot) => {
                let source = Source::Link { slot, bridge };
                match packet {
                    Packet::Publish(publish) => self.publish_aliased(
                        now,
                        slot,
                        source,
                        &publish,
                        publishes_wait,
                        zero_waits,
                    ),
                    Packet::Suback(suback) => self.link_suback(now, bridge, &suback),
                    Packet::Unsuback(unsuback) => self.link_unsuback(now, slot, bridge, &unsuback),
                    Packet::Pingresp => {
                        self.link_mut(bridge).ping_sent = None;
                        Ok(Step::Done)
                    }
                    Packet::Disconnect(disconnect) => {
                        self.link_says_goodbye(now, slot, bridge, &disconnect)
                    }
                    Packet::Puback(_)
                    | Packet::Pubrec(_)
                    | Packet::Pubrel(_)
                    | Packet::Pubcomp(_) => self.acknowledgement(now, slot, &packet),
                    Packet::Connect(_)
                    | Packet::Connack(_)
                    | Packet::Subscribe(_)
                    | Packet::Unsubscribe(_)
                    | Packet::Pingreq
                    | Packet::Auth(_) => Err(Reason::PROTOCOL_ERROR.into()),
                }
            }
            // Greeted, or a candidate for the way back: nothing it says but CONNACK counts, least
            // of all for the link that is up meanwhile.
            Role::Link { bridge } => {
                let id = self.conn(slot).id(slot);
                if !matches!(packet, Packet::Disconnect(_)) {
                    self.link_mut(bridge).hear(id);
                }
                match packet {
                    Packet::Connack(connack) => self.link_connack(now, slot, bridge, &connack),
                    Packet::Disconnect(disconnect) => {
                        self.link_says_goodbye(now, slot, bridge, &disconnect)
                    }
                    Packet::Connect(_)
                    | Packet::Publish(_)
                    | Packet::Puback(_)
                    | Packet::Pubrec(_)
                    | Packet::Pubrel(_)
                    | Packet::Pubcomp(_)
                    | Packet::Subscribe(_)
                    | Packet::Suback(_)
                    | Packet::Unsubscribe(_)
                    | Packet::Unsuback(_)
                    | Packet::Pingreq
                    | Packet::Pingresp
                    | Packet::Auth(_) => Err(Reason::PROTOCOL_ERROR.into()),
                }
            }
            Role::Closing | Role::Free => Ok(Step::Done),
        }
    }

    pub(super) fn publish(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        publish: &Publish<'_>,
        publishes_wait: bool,
        zero_waits: bool,
    ) -> Result<Step, Fatal> {
        if matches!(source, Source::Client { .. }) && publish.properties.subscription_id().is_some()
        {
            return Err(Reason::PROTOCOL_ERROR.into()); // [MQTT-3.3.4-6]
        }
        if self.passes_over(slot, publish) {
            return Ok(Step::Done);
        }
        let waits = publishes_wait && publish.qos != Qos::AtMostOnce || zero_waits;
        if waits && matches!(source, Source::Client { .. }) {
            return Ok(Step::Park);
        }
        let (size, limit) = (publish.topic.len(), self.config.limit.topic_bytes);
        if size > limit {
            // By itself: who would send it again on every connection would never get past it.
            let said = match source {
                Source::Client { .. } => Reason::TOPIC_NAME_INVALID,
                Source::Link { .. } | Source::Will { .. } | Source::Own => Reason::SUCCESS,
            };
            return Ok(self.swallow_as(slot, publish, "topic_too_long", said));
        }
        if let Source::Client { session, .. } = source
            && !self.may_publish(session, publish)
        {
            return Ok(self.deny(slot, publish));
        }
        if matches!(source, Source::Client { .. }) && sys::is_own(publish.topic) {
            // Read-only; before MQTT 5 there is no word for it.
            return Ok(self.swallow_as(slot, publish, "sys_topic", Reason::NOT_AUTHORIZED));
        }
        if let Source::Client { session, .. } = source
            && self.is_beyond_share(slot, session, publish)
        {
            self.tell_beyond_share(slot);
            return Ok(self.swallow_as(slot, publish, "unreleased", Reason::QUOTA_EXCEEDED));
        }
        if publish.properties.as_bytes().len() > PROPERTIES_BYTES_MAX + HOP_BYTES_MAX {
            return Ok(self.swallow_properties(slot, source, publish));
        }
        let mut scratch = core::mem::take(&mut self.scratch);
        let mut topics = core::mem::take(&mut self.topic);
        let mut large = Vec::new();
        let room = match publish.properties.as_bytes().len() {
            bytes if bytes <= scratch.len() => &mut scratch[..],
            // More than nearly all messages have.
            bytes => {
                large.resize(bytes, 0);
                &mut large[..]
            }
        };
        let result = self.publish_mapped(now, slot, source, publish, waits, room, &mut topics);
        self.scratch = scratch;
        self.topic = topics;
        match result {
            Ok(true) => Ok(Step::Done),
            // Of a remote nothing is left in the buffer: it waits for a moment, as it is.
            Ok(false) if matches!(source, Source::Link { .. }) => Ok(Step::Stall),
            Ok(false) => Ok(Step::Park),
            Err(fatal) => Err(fatal),
        }
    }

    fn swallow_properties(&mut self, slot: u16, source: Source, publish: &Publish<'_>) -> Step {
        let said = match source {
            Source::Client { .. } => Reason::QUOTA_EXCEEDED,
            Source::Link { .. } | Source::Will { .. } | Source::Own => Reason::SUCCESS,
        };
        self.swallow_as(slot, publish, "properties_too_large", said)
    }

    #[expect(clippy::too_many_arguments, reason = "one publish, and memory for its parts")]
    fn publish_mapped(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        publish: &Publish<'_>,
        waits: bool,
        scratch: &mut [u8],
        topics: &mut [u8],
    ) -> Result<bool, Fatal> {
        // A payload that is not the UTF-8 its Payload Format Indicator says is passed on: to look
        // for that is allowed to a receiver (3.3.2.3.2), and costs a pass over every payload here.
        let hop =
            [PropertyId::MessageExpiry, PropertyId::TopicAlias, PropertyId::SubscriptionIdentifier];
        let properties = if publish.properties.is_empty() {
            0
        } else {
            copy_without(publish.properties, &hop, scratch).map_err(|_| Reason::PACKET_TOO_LARGE)?
        };
        if properties > PROPERTIES_BYTES_MAX {
            return Ok(self.swallow_properties(slot, source, publish) == Step::Done);
        }
        if let Source::Link { bridge, .. } = source {
            return self.bring(now, slot, bridge, publish, waits, scratch, properties, topics);
        }
        let message = Message {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            properties: &scratch[..properties],
            expiry_s: publish.properties.message_expiry(),
            payload: Payload::Here(publish.payload),
        };
        if publish.missing > 0 || waits {
            return Ok(self.keep(now, slot, source, &message, publish, false));
        }
        let what = What::One(&message);
        self.publish_acknowledged(now, source, what, publish.packet_id, publish.qos)
    }

    /// The four acknowledgements, the same for sessions and links.
    fn acknowledgement(
        &mut self,
        now: Instant,
        slot: u16,
        packet: &Packet<'_>,
    ) -> Result<Step, Fatal> {
        let Some(dest) = self.dest_of(slot) else { return Ok(Step::Done) };
        let mistaken = match packet {
            Packet::Puback(ack) => self.queue.is_mistaken(dest, ack.packet_id, Answer::Puback),
            Packet::Pubrec(ack) => self.queue.is_mistaken(dest, ack.packet_id, Answer::Pubrec),
            Packet::Pubcomp(ack) => self.queue.is_mistaken(dest, ack.packet_id, Answer::Pubcomp),
            // Of a message that was not of QoS 2, or whose PUBREC is still owed. Before MQTT 5 a
            // peer may send a PUBLISH twice over one connection, and have one of two PUBRECs.
            Packet::Pubrel(ack) => {
                let conn = self.conn(slot);
                let owed =
                    conn.pubacks.contains(ack.packet_id) || conn.pubrecs.contains(ack.packet_id);
                owed && conn.version == Version::V5
            }
            _ => false,
        };
        if mistaken {
            // [MQTT-4.8.0-1] [MQTT-4.13.1-1]
            return Err(Fatal::new(Reason::PROTOCOL_ERROR, "wrong_acknowledgement"));
        }
        let answered = self.answered(slot, dest, packet);
        let acked = match packet {
            Packet::Puback(ack) | Packet::Pubrec(ack) if ack.reason.is_error() => {
                self.refused(now, slot, dest, ack)
            }
            Packet::Puback(ack) => self.queue.puback(dest, ack.packet_id, now),
            Packet::Pubrec(ack) => {
                let acked = self.queue.pubrec(dest, ack.packet_id, now);
                if acked == Acked::Unknown {
                    // The exchange is over here: let the peer forget it too [MQTT-4.3.3].
                    return Ok(self.release_unknown(slot, ack.packet_id));
                }
                acked
            }
            Packet::Pubcomp(ack) => self.queue.pubcomp(dest, ack.packet_id, now),
            Packet::Pubrel(ack) => {
                let taken = self.released(slot, ack.packet_id);
                return Ok(if taken { Step::Done } else { Step::Stall });
            }
            _ => return Ok(Step::Done),
        };
        if let (Acked::Yes { round_trip }, Role::Link { bridge }) = (acked, self.conn(slot).role) {
            let counts = !matches!(packet, Packet::Pubcomp(_));
            let link = self.link_mut(bridge);
            link.acked_at = now;
            link.acked += u64::from(counts);
            link.zero_at = Instant::ZERO;
            if let Some(round_trip) = round_trip {
                link.rtt.sample(round_trip);
                let smoothed = link.rtt.smoothed().unwrap_or_default();
                self.queue.set_round_trip(dest, smoothed);
            }
            self.counters.fwd_acked += u64::from(counts);
            if let Some((seq, stream)) = answered {
                self.taken(now, bridge, seq, stream);
            }
        }
        self.ready.set(slot);
        Ok(Step::Done)
    }
}
