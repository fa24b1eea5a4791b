//! Bytes on their way out, pulled by the shell: one-off replies, then the acknowledgements that are
//! true, then PUBREL, then publishes as the window and the paces allow. Control never waits behind
//! data but for the packet that is half written.

use super::Gateway;
use super::alias::Alias;
use super::conn::{Conn, Role, Sending};
use super::ends::{Bound, Fatal};
use super::pay::{Kind, pay};
use super::reasons::encode;
use crate::bridge::progress::PARTS;
use crate::fit::{fit, index, wide};
use crate::limits::{ROUNDS_MAX, ROUNDS_PAUSE};
use crate::mqtt::codec::{PUBLISH_HEAD_OVERHEAD_MAX, PublishHead, encode_publish_head};
use crate::mqtt::props::{Properties, Property, Variable};
use crate::mqtt::{Ack, Packet, PacketId, Qos, Reason, Version, Writer};
use crate::queue::outbox::DestId;
use crate::queue::window::Next;
use crate::queue::{DropReason, Queue};
use crate::vocab::{BridgeId, ConnId, Instant};
use core::time::Duration;

/// Subscription identifiers one PUBLISH says; what a client has beyond is left out.
const IDS_MAX: usize = 50;

/// Bytes of the properties we add: expiry and alias, then the identifiers.
const OWN_PROPERTIES_BYTES: usize = 5 + 3 + IDS_MAX * 5;

/// Bytes of the longest head of a PUBLISH.
pub(super) const HEAD_BYTES_MAX: usize =
    PUBLISH_HEAD_OVERHEAD_MAX + super::TOPIC_BYTES + OWN_PROPERTIES_BYTES;

/// What became of one publish.
enum Wrote {
    /// So many bytes; the packet is whole.
    Whole(usize),
    /// The rest of the buffer is too small: it begins the next one.
    NoRoom,
    /// Larger than any buffer: `sending` goes on with it.
    Begun,
    /// It was not to be sent (expired, too large); the next may be.
    Skipped,
}

/// What the head of a PUBLISH is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Its size, and how it shall say its topic.
    Choose,
    /// Its size.
    Count,
    /// The wire.
    Write,
}

impl Gateway {
    /// Fills `out` with what this connection shall get now; 0 = nothing. Resumable inside a packet.
    pub fn transmit(&mut self, now: Instant, id: ConnId, out: &mut [u8]) -> usize {
        self.now = now;
        let Some(slot) = self.live(id) else { return 0 };
        let mut at = 0;
        if self.conn(slot).sending.is_some() {
            at += self.transmit_sending(now, slot, &mut out[at..]);
            if self.conn(slot).sending.is_some() {
                self.sent_something(slot, at, now);
                return at;
            }
        }
        let saved = self.rows_saved;
        at += self.conn_mut(slot).take_control(saved, &mut out[at..]);
        if self.conn(slot).has_control(saved) || self.conn(slot).is_mute(saved) {
            self.sent_something(slot, at, now);
            return at;
        }
        at += self.transmit_debts(slot, &mut out[at..]);
        if let Some(dest) = self.dest_of(slot) {
            at += self.transmit_releases(slot, dest, &mut out[at..]);
            at += self.transmit_publishes(now, slot, dest, &mut out[at..], at);
            // Only when something left: who is resumed asks again, and would be resumed for that.
            if at > 0 && self.parked > 0 && self.queue.next_zero(dest).is_none() {
                self.resume_zero();
            }
        }
        self.sent_something(slot, at, now);
        at
    }

    /// Publishers that wait with QoS 0 may go on.
    fn resume_zero(&mut self) {
        for slot in 0..self.conns.len() {
            if self.conns[slot].zero_parked
                && let Ok(slot) = u16::try_from(slot)
            {
                self.resume.set(slot);
            }
        }
    }

    fn sent_something(&mut self, slot: u16, bytes: usize, now: Instant) {
        let count = wide(bytes);
        self.counters.out_bytes += count;
        let conn = self.conn_mut(slot);
        conn.produced += count;
        if bytes > 0 {
            conn.sent_at = now;
            // What waited for room in the replies may go on.
            if conn.waits || conn.subscribing.is_some() || conn.stalled {
                conn.stalled = false;
                self.resume.set(slot);
            }
        }
    }

    fn transmit_debts(&mut self, slot: u16, out: &mut [u8]) -> usize {
        let commits = self.queue.commits();
        let Self { conns, queue, .. } = self;
        let conn = &mut conns[usize::from(slot)];
        let reader = conn.reader();
        let owed = |conn: &Conn| conn.pubacks.len() + conn.pubrecs.len() + conn.pubcomps.len();
        let before = owed(conn);
        let mut at = 0;
        at += pay(&mut conn.pubacks, Kind::Puback, reader, queue, commits, &mut out[at..]);
        at += pay(&mut conn.pubrecs, Kind::Pubrec, reader, queue, commits, &mut out[at..]);
        at += pay(&mut conn.pubcomps, Kind::Pubcomp, reader, queue, commits, &mut out[at..]);
        self.counters.out_packets += wide(before - owed(conn));
        at
    }

    fn transmit_releases(&mut self, slot: u16, dest: DestId, out: &mut [u8]) -> usize {
        let reader = self.conn(slot).reader();
        let mut at = 0;
        while out.len() - at >= 4 {
            let Some(packet_id) = self.queue.next_release(dest, self.now) else { break };
            let ack = Ack { packet_id, reason: Reason::SUCCESS, properties: Properties::EMPTY };
            // Four bytes fit: that was asked above.
            at += encode(reader, &Packet::Pubrel(ack), &mut out[at..]).unwrap_or(0);
            self.counters.out_packets += 1;
        }
        at
    }

    fn transmit_publishes(
        &mut self,
        now: Instant,
        slot: u16,
        dest: DestId,
        out: &mut [u8],
        before: usize,
    ) -> usize {
        let link = match self.conn(slot).role {
            Role::Link { bridge } => Some(bridge),
            Role::Client { .. } | Role::Free | Role::Greeting | Role::Closing => None,
        };
        if link.is_some()
            && let Some(until) = self.circle_holds(now)
        {
            self.pace(slot, until);
            return 0;
        }
        let mut at = 0;
        // Each round sends or drops one, or finds that one has to wait.
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rounds > ROUNDS_MAX {
                self.pace(slot, now.plus(ROUNDS_PAUSE));
                break;
            }
            if let Some(bridge) = link
                && let Some(until) = self.rate_closed(bridge, now)
            {
                self.pace(slot, until);
                break;
            }
            let (queued, zero) = match link {
                Some(bridge) => match self.next_of_bridge(now, slot, bridge, dest) {
                    Some(next) => next,
                    None => continue,
                },
                None => (self.queue.next(dest, 0), self.queue.next_zero(dest)),
            };
            let next = match (queued, zero) {
                (Some(queued), Some(zero)) => self.first_of(slot, queued, zero),
                (Some(next), None) | (None, Some(next)) => next,
                (None, None) => break,
            };
            let fresh = before + at == 0;
            match self.write_publish(now, slot, dest, link, next, &mut out[at..], fresh) {
                Wrote::Whole(bytes) => at += bytes,
                Wrote::Skipped => {}
                Wrote::NoRoom => break,
                Wrote::Begun => {
                    at += self.transmit_sending(now, slot, &mut out[at..]);
                    if self.conn(slot).sending.is_some() {
                        break;
                    }
                }
            }
        }
        at
    }

    #[expect(clippy::too_many_arguments, reason = "one publish, one buffer, one place to go")]
    fn write_publish(
        &mut self,
        now: Instant,
        slot: u16,
        dest: DestId,
        link: Option<BridgeId>,
        next: Next,
        out: &mut [u8],
        fresh: bool,
    ) -> Wrote {
        if self.is_withheld(dest, next.record) {
            self.queue.drop_entry(dest, next.entry, DropReason::NotAuthorized);
            return Wrote::Skipped;
        }
        let resend = next.dup;
        let Some(expiry_s) = remaining(&self.queue, next, now) else {
            if !resend {
                self.queue.drop_entry(dest, next.entry, DropReason::Expired);
                return Wrote::Skipped;
            }
            return self.write_it(now, slot, dest, link, next, Some(1), out, fresh);
        };
        if let Some(bridge) = link
            && !resend
            && self.is_too_old(bridge, next, now)
        {
            self.queue.drop_entry(dest, next.entry, DropReason::Expired);
            return Wrote::Skipped;
        }
        self.write_it(now, slot, dest, link, next, expiry_s, out, fresh)
    }

    #[expect(clippy::too_many_arguments, reason = "one publish, one buffer, one place to go")]
    fn write_it(
        &mut self,
        now: Instant,
        slot: u16,
        dest: DestId,
        link: Option<BridgeId>,
        next: Next,
        expiry_s: Option<u32>,
        out: &mut [u8],
        fresh: bool,
    ) -> Wrote {
        let mut qos = next.qos;
        let mut retain = next.retain;
        if let Some(bridge) = link {
            let remote = self.link(bridge).remote;
            if remote.qos_max < Qos::ExactlyOnce
                && next.dup
                && qos == Qos::ExactlyOnce
                && self.waits_for_qos2(now, bridge, next.entry)
            {
                return Wrote::Skipped;
            }
            qos = qos.min(remote.qos_max);
            retain &= remote.retain_available;
        }
        let mut sending = Sending {
            entry: next.entry,
            record: next.record,
            packet_id: next.packet_id,
            dup: next.dup && qos != Qos::AtMostOnce,
            qos,
            retain,
            rule: next.rule,
            alias: Alias::None,
            expiry_s,
            head: 0,
            done: 0,
        };
        let Some(total) = self.packet_bytes(slot, dest, link, &mut sending) else {
            self.drop_unmapped(dest, link, &sending);
            return Wrote::Skipped;
        };
        let most = self.conn(slot).packet_bytes_max;
        if total > most {
            let key = self.packet_key(link, most);
            match link.filter(|_| next.qos != Qos::AtMostOnce) {
                Some(bridge) => {
                    let bound = Bound { size: Some(wide(total)), limit: Some(wide(most)), key };
                    self.keep_aside(now, bridge, next.entry, "packet_too_large", bound);
                }
                None => {
                    self.queue.drop_too_large(dest, next.entry, wide(total), wide(most), key);
                }
            }
            return Wrote::Skipped;
        }
        if total > out.len() && !fresh {
            return Wrote::NoRoom;
        }
        if qos < next.qos {
            self.queue.lower_qos(dest, next.entry, qos);
        }
        if qos != Qos::AtMostOnce && next.packet_id.is_none() {
            let Some(id) = self.queue.take(dest, next.entry) else { return Wrote::NoRoom };
            sending.packet_id = Some(id);
        }
        if let Some(bridge) = link {
            let link = self.link_mut(bridge);
            link.forwarded += 1;
            if let Some(rate) = &mut link.rate {
                rate.take(now);
            }
            if !next.dup {
                link.rules.spend(next.stream, now);
            }
            if !link.rules.holds.is_empty() && qos != Qos::AtMostOnce {
                link.rules.holds.sent(next.stream);
            }
            self.counters.fwd_sent += 1;
        }
        self.counters.out_msgs += 1;
        self.counters.out_packets += 1;
        let payload = self.queue.pool.head(next.record).payload_bytes;
        self.counters.out_payload += u64::from(payload);
        if total <= out.len() {
            let head = self.write_head(slot, dest, link, &sending, out);
            let body_at = self.passed_on_at(slot, &sending);
            let rest = self.queue.pool.read(next.record, body_at, &mut out[head..total]);
            debug_assert_eq!(head + rest, total);
            self.finished(now, dest, &sending);
            return Wrote::Whole(total);
        }
        self.queue.pool.retain(next.record);
        self.conn_mut(slot).sending = Some(sending);
        Wrote::Begun
    }

    /// The packet left whole.
    fn finished(&mut self, now: Instant, dest: DestId, sending: &Sending) {
        if sending.qos == Qos::AtMostOnce {
            self.queue.sent_zero(dest, sending.entry);
            if let Some(link) = self.links.get_mut(usize::from(dest.0)) {
                link.zero_at = now;
            }
        } else {
            self.queue.sent(dest, sending.entry, now);
            let timeout = match self.links.get(usize::from(dest.0)) {
                Some(_) => self.config.bridges[usize::from(dest.0)].ack_timeout / PARTS,
                None => Duration::MAX,
            };
            self.due_by(now.plus(timeout));
        }
    }

    /// Goes on with the packet that is half written.
    fn transmit_sending(&mut self, now: Instant, slot: u16, out: &mut [u8]) -> usize {
        let Some(mut sending) = self.conn(slot).sending else { return 0 };
        let Some(dest) = self.dest_of(slot) else { return 0 };
        let link = match self.conn(slot).role {
            Role::Link { bridge } => Some(bridge),
            Role::Client { .. } | Role::Free | Role::Greeting | Role::Closing => None,
        };
        let mut scratch = core::mem::take(&mut self.scratch);
        // Behind its head a packet is as long as that has said, whatever is subscribed meanwhile.
        let mut head = sending.head;
        if sending.done < head || sending.done == 0 {
            head = self.write_head(slot, dest, link, &sending, &mut scratch);
            if sending.done > 0 && head != sending.head {
                self.scratch = scratch;
                let changed = Fatal::new(Reason::IMPLEMENTATION_SPECIFIC, "changed_amid_packet");
                self.fail(now, slot, changed);
                return 0;
            }
            sending.head = head;
        }
        let body_at = self.passed_on_at(slot, &sending);
        let body = self.queue.pool.head(sending.record).body_bytes();
        let total = head + body - body_at;
        let mut at = 0;
        if sending.done < head {
            let take = (head - sending.done).min(out.len());
            out[..take].copy_from_slice(&scratch[sending.done..sending.done + take]);
            at = take;
        }
        self.scratch = scratch;
        if sending.done + at >= head {
            let from = body_at + sending.done + at - head;
            at += self.queue.pool.read(sending.record, from, &mut out[at..]);
        }
        sending.done += at;
        if sending.done == total {
            self.conn_mut(slot).sending = None;
            self.queue.pool.release(sending.record);
            let still = self.queue.is_sending(sending.entry, sending.record);
            if still {
                self.finished(now, dest, &sending);
            }
        } else {
            self.conn_mut(slot).sending = Some(sending);
        }
        at
    }

    /// Where in the body begins what goes out as it came, right behind the head: the properties
    /// in MQTT 5, the payload before.
    fn passed_on_at(&self, slot: u16, sending: &Sending) -> usize {
        let head = self.queue.pool.head(sending.record);
        match self.conn(slot).version {
            Version::V5 => usize::from(head.topic_bytes),
            Version::V31 | Version::V311 => head.payload_at(),
        }
    }

    /// Bytes of the whole packet, and how it says its topic; `None` when that cannot be mapped.
    fn packet_bytes(
        &mut self,
        slot: u16,
        dest: DestId,
        link: Option<BridgeId>,
        sending: &mut Sending,
    ) -> Option<usize> {
        let passed_on =
            self.queue.pool.head(sending.record).body_bytes() - self.passed_on_at(slot, sending);
        let mut scratch = core::mem::take(&mut self.scratch);
        let mut probe = *sending;
        // The identifier is as long as any other.
        probe.packet_id = probe.packet_id.or(PacketId::new(1));
        let mut bytes = self.try_head(slot, dest, link, &mut probe, Pass::Choose, &mut scratch);
        let too_large = |head: usize| head + passed_on > self.conn(slot).packet_bytes_max;
        if probe.alias != Alias::None && bytes.is_some_and(too_large) {
            // Nothing is too large for its alias.
            probe.alias = Alias::None;
            bytes = self.try_head(slot, dest, link, &mut probe, Pass::Count, &mut scratch);
        }
        sending.alias = probe.alias;
        self.scratch = scratch;
        bytes.map(|head| head + passed_on)
    }

    fn write_head(
        &mut self,
        slot: u16,
        dest: DestId,
        link: Option<BridgeId>,
        sending: &Sending,
        out: &mut [u8],
    ) -> usize {
        // `packet_bytes` has tried it.
        self.try_head(slot, dest, link, &mut sending.clone(), Pass::Write, out).unwrap_or(0)
    }

    /// Everything before what goes out as it came, as this peer shall see it.
    fn try_head(
        &mut self,
        slot: u16,
        dest: DestId,
        link: Option<BridgeId>,
        sending: &mut Sending,
        pass: Pass,
        out: &mut [u8],
    ) -> Option<usize> {
        let version = self.conn(slot).version;
        let has_ids = link.is_none() && version == Version::V5 && self.has_ids(dest);
        let aliases_max = self.conn(slot).aliases_max;
        let Self { queue, topic: topics, links, subs, told, .. } = self;
        let head = *queue.pool.head(sending.record);
        let (local, mapped) = topics.split_at_mut(super::TOPIC_BYTES);
        let topic_bytes = usize::from(head.topic_bytes);
        let mut props = [0; OWN_PROPERTIES_BYTES];
        let local: &[u8] = match queue.pool.contiguous(sending.record) {
            Some(body) => &body[..topic_bytes],
            None => {
                let local = &mut local[..topic_bytes];
                queue.pool.read(sending.record, 0, local);
                local
            }
        };
        let local = core::str::from_utf8(local).ok()?;
        let topic = match link {
            Some(bridge) => {
                let rules = &links[usize::from(bridge.0)].rules;
                let mapping = &rules.forward.get(usize::from(sending.rule))?.mapping;
                if mapping.is_identity() {
                    local
                } else {
                    let bytes = mapping.map(local, mapped).ok()?;
                    core::str::from_utf8(&mapped[..bytes]).ok()?
                }
            }
            None => local,
        };
        match (pass, sending.alias) {
            (Pass::Choose, _) => sending.alias = told.choose(slot, topic, aliases_max),
            // The peer knows it by then.
            (Pass::Write, Alias::New(alias)) => told.set(slot, alias, topic),
            (Pass::Write | Pass::Count, _) => {}
        }
        let topic = if matches!(sending.alias, Alias::Known(_)) { "" } else { topic };
        let mut own = Writer::new(&mut props);
        if version == Version::V5 {
            if let Some(seconds) = sending.expiry_s {
                Property::MessageExpiry(seconds).encode(&mut own).ok()?;
            }
            if let Alias::New(alias) | Alias::Known(alias) = sending.alias {
                Property::TopicAlias(alias).encode(&mut own).ok()?;
            }
            if has_ids {
                let session = dest.0 - fit::<u16, _>(links.len(), "bridges");
                let mut ids: heapless::Vec<u32, IDS_MAX> = heapless::Vec::new();
                for id in subs.ids(session, sending.rule, local) {
                    // What does not fit is left out.
                    let _ = ids.push(id);
                }
                // Their order means nothing (3.3.2.3.8), and some clients' tests want this one.
                ids.sort_unstable();
                for id in ids {
                    Property::SubscriptionIdentifier(Variable(id)).encode(&mut own).ok()?;
                }
            }
        }
        let head = PublishHead {
            dup: sending.dup,
            qos: sending.qos,
            retain: sending.retain,
            topic,
            packet_id: if sending.qos == Qos::AtMostOnce { None } else { sending.packet_id },
            properties: own.into_bytes(),
            passed_on_bytes: index(head.props_bytes),
            payload_bytes: index(head.payload_bytes),
        };
        encode_publish_head(version, &head, out).ok()
    }

    /// The key that sets how large a packet may be; none does what a peer says itself.
    fn packet_key(&self, link: Option<BridgeId>, most: usize) -> &'static str {
        let config = link.map(|bridge| &self.config.bridges[usize::from(bridge.0)]);
        match config.and_then(|config| config.max_packet_bytes) {
            Some(bytes) if bytes == most => "bridge.NAME.max_packet_size",
            Some(_) | None => "",
        }
    }

    fn has_ids(&self, dest: DestId) -> bool {
        let first = fit(self.links.len(), "bridges");
        dest.0.checked_sub(first).is_some_and(|session| self.sessions[session].has_ids)
    }

    fn is_too_old(&self, bridge: BridgeId, next: Next, now: Instant) -> bool {
        let rules = &self.link(bridge).rules;
        let max = rules.forward.get(usize::from(next.rule)).and_then(|rule| rule.max_age);
        let arrival = self.queue.pool.head(next.record).arrival;
        max.is_some_and(|max| now.since(arrival) > max)
    }
}

/// Message expiry interval that is left [MQTT-3.3.2-6]: `Some(None)` when it has none, `None` when
/// it is over.
fn remaining(queue: &Queue, next: Next, now: Instant) -> Option<Option<u32>> {
    let head = queue.pool.head(next.record);
    let Some(expiry) = head.expiry_s else { return Some(None) };
    let spent = now.since(head.arrival).as_secs();
    let left = u64::from(expiry).checked_sub(spent).filter(|left| *left > 0)?;
    Some(Some(fit(left, "seconds to expiry")))
}
