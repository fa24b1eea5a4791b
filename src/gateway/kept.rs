//! PUBLISHes in the ring that are not routed yet: those whose payload is still coming, and those of
//! a remote that find no room at their destination. Read MQTT 5 sections 3.3 and 4.9 first.
//!
//! **A large payload** goes straight into the blocks of its record as it comes: with the head
//! (topic, properties) everything is decided that can be, the record is reserved whole, and when
//! its last byte is here it is routed like any other, without being copied. A connection has one
//! such record at a time. Its sender going away gives the blocks back.
//!
//! **What a remote sends** is never left in the buffer of its connection: acknowledgements of what
//! we sent lie behind it, and whoever waits for them may be what is in the way. It is kept here, in
//! order, until its destination has room. [`INBOUND_SHARE`] bounds all of it together. What finds
//! no place even here is passed over without an acknowledgement, and so is everything of QoS 1 and
//! 2 behind it: the remote keeps it. Once the rest has been taken in, the link is renewed, and the
//! remote sends it again. So a destination that is full never stands in the way of what the other
//! destinations, or that remote, are owed.
//!
//! Clients' messages that find no room stay in the buffers of their connections (`receive`).

use super::Gateway;
use super::brought::{Brought, split_kept};
use super::conn::{Debt, Role};
use super::ingest::{Message, Payload, Source, What};
use super::receive::{Fatal, Step};
use crate::fit::{micros, wide};
use crate::limits::{INBOUND_SHARE, RENEW_AFTER, ROOM_WITHIN, STORED_WITHIN};
use crate::mqtt::{PacketId, Partial, Publish, Qos, Reason, partial};
use crate::queue::Reserve;
use crate::queue::pool::{RecordId, blocks_for, widen};
use crate::vocab::{BridgeId, Flow, Instant};
use std::collections::VecDeque;

/// A PUBLISH that waits in its turn.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// `None`: it goes nowhere, and is acknowledged in its turn [MQTT-4.6.0].
    record: Option<RecordId>,
    packet_id: Option<PacketId>,
    qos: Qos,
    /// What its publisher is told then.
    said: Reason,
    /// Its record is as the remote has sent it, and comes in by several rules.
    each: bool,
    /// It counts for the clients' part of the room.
    client: bool,
}

/// How far the last of them has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    /// Where in the body the next byte goes.
    at: usize,
    pub left: usize,
    pub since: Instant,
    pub flow: Flow,
}

/// Room that somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub since: Instant,
    /// When it last asked.
    pub asked: Instant,
    pub blocks: u32,
    /// Bytes of it that have come.
    pub here: usize,
}

/// The PUBLISHes of one connection. Memory comes with the first.
#[derive(Debug, Default)]
pub struct Inbound {
    list: VecDeque<Kept>,
    pub(super) filling: Option<Filling>,
    /// There is no room to begin the next one.
    pub(super) wants: Option<Want>,
    /// When something was first left with the remote: it has to send it again.
    passed_over: Option<Instant>,
    /// One has no place here, and nothing has moved since then.
    short_since: Option<Instant>,
}

impl Inbound {
    pub fn planned_bytes(count: u16) -> usize {
        usize::from(count) * size_of::<Kept>()
    }

    /// Is one of them whole, or is there one that has no place here yet?
    pub fn waits(&self) -> bool {
        self.has_whole() || self.short_since.is_some()
    }

    pub fn has_whole(&self) -> bool {
        self.list.len() > usize::from(self.filling.is_some())
    }

    /// The last of them when it is whole: those behind it come after it.
    pub fn last_whole(&self) -> Option<Qos> {
        self.list.back().filter(|_| self.filling.is_none()).map(|kept| kept.qos)
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn is_filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Bytes of the body that is coming.
    pub fn filling_bytes(&self) -> usize {
        self.filling.map_or(0, |filling| filling.at + filling.left)
    }
}

/// What becomes of a message that goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may be acknowledged at once.
    Now,
    /// It is acknowledged in its turn, or stays with its remote.
    InTurn,
    /// It waits as it is.
    Later,
}

/// What became of the beginning of a large PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Everything that is here of it.
    Taken,
    /// So many bytes are needed.
    Needs(usize),
    /// There is no room for it now.
    Later,
}

impl Gateway {
    /// Begins the PUBLISH of `total` bytes that `bytes` ends with. `parked`: others of its
    /// connection are in its buffer.
    pub(super) fn begin_large(
        &mut self,
        now: Instant,
        slot: u16,
        bytes: &[u8],
        total: usize,
        waits: (bool, bool),
        parked: bool,
    ) -> Result<Begun, Fatal> {
        let source = match self.conn(slot).role {
            Role::Client { session } => Source::Client { slot, session },
            Role::Link { bridge } if self.link_is_up(bridge, slot) => Source::Link { slot, bridge },
            Role::Link { .. } | Role::Free | Role::Greeting | Role::Closing => {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
        };
        let publish = match partial(self.conn(slot).version, bytes, total)? {
            Partial::Needs(bytes) => return Ok(Begun::Needs(bytes)),
            Partial::Head(publish) => publish,
        };
        if let Source::Client { session, .. } = source {
            self.client_speaks(slot, session);
            if parked || !self.conn(slot).inbound.is_empty() {
                return Ok(Begun::Later);
            }
        }
        let (publishes_wait, zero_waits) = waits;
        match self.publish_aliased(now, slot, source, &publish, publishes_wait, zero_waits)? {
            Step::Done => {}
            Step::Park | Step::ParkAll | Step::Stall => return Ok(Begun::Later),
        }
        if !self.conn(slot).inbound.is_filling() {
            // Its head was enough to know that it goes nowhere.
            self.conn_mut(slot).swallow_left = publish.missing;
        }
        Ok(Begun::Taken)
    }

    /// Puts a message aside until its payload is here, or its destination has room. `false`: there
    /// is none in the ring for now.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        message: &Message<'_>,
        publish: &Publish<'_>,
        each: bool,
    ) -> bool {
        let body = message.body_bytes() + publish.missing;
        let link = matches!(source, Source::Link { .. });
        let pool = &self.queue.pool;
        let blocks = blocks_for(body);
        let within = self.kept_records < pool.record_count() / INBOUND_SHARE
            && self.conn(slot).inbound.list.len() < self.kept_max(link)
            && self.may_begin(now, slot, blocks);
        let reserve = if link { Reserve::Nothing } else { Reserve::ForRemotes };
        let fits = self.queue.fits(reserve, body, 0);
        if within && fits {
            self.insert_kept(now, slot, source, message, publish, each);
            return true;
        }
        if !fits || !link {
            // Room is made in the flush of this turn; a remote's has a part of the ring in reserve.
            self.queue.press_now(true);
            self.shed_at = self.shed_at.min(now.plus(ROOM_WITHIN));
            self.due_by(now);
        }
        let wants = &mut self.conn_mut(slot).inbound.wants;
        let (since, here) = wants.map_or((now, 0), |want| (want.since, want.here));
        *wants = Some(Want { since, asked: now, blocks, here });
        let Source::Link { bridge, .. } = source else { return false };
        if self.may_wait(now, slot, bridge, !fits) {
            return false;
        }
        if publish.qos == Qos::AtMostOnce {
            let inbound = &mut self.conn_mut(slot).inbound;
            (inbound.short_since, inbound.wants) = (None, None);
            self.swallow_as(slot, publish, "queue_full", Reason::SUCCESS);
        } else {
            self.pass_over(now, slot);
        }
        true
    }

    /// May the next PUBLISH of a remote stay in its connection's buffer, with all that is behind
    /// it? As long as those before it move on, and nothing behind it may be what we wait for. A
    /// store that is slow to take them, and a `ring` without room, which somebody has to give back,
    /// get more time than a destination that is full.
    fn may_wait(&mut self, now: Instant, slot: u16, bridge: BridgeId, ring: bool) -> bool {
        let timeout = self.config.bridges[usize::from(bridge.0)].ack_timeout;
        let window = usize::from(super::inbound_window(&self.config));
        let conn = self.conn_mut(slot);
        let owed = conn.inbound_count() >= window;
        // An answer to our PINGREQ may lie behind it.
        let keepalive = Some(conn.keepalive).filter(|keepalive| !keepalive.is_zero());
        let stored_within = STORED_WITHIN.min(keepalive.unwrap_or(timeout).min(timeout) / 3);
        let within = if owed || ring { stored_within } else { ROOM_WITHIN };
        let moved_at = *conn.inbound.short_since.get_or_insert(now);
        let acked_by = self.acked_by(slot, bridge);
        let half = Instant::from_micros(acked_by.as_micros().saturating_sub(micros(timeout) / 2));
        let until = moved_at.plus(within).min(half);
        if now < until {
            self.shed_at = self.shed_at.min(until);
        }
        now < until
    }

    /// From here on everything of QoS 1 and 2 stays with the remote.
    fn pass_over(&mut self, now: Instant, slot: u16) {
        let inbound = &mut self.conn_mut(slot).inbound;
        (inbound.short_since, inbound.wants) = (None, None);
        inbound.passed_over.get_or_insert(now);
        self.due_by(now);
    }

    fn kept_max(&self, link: bool) -> usize {
        usize::from(if link { super::inbound_window(&self.config) } else { 1 })
    }

    fn insert_kept(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        message: &Message<'_>,
        publish: &Publish<'_>,
        each: bool,
    ) {
        let record = self.insert(now, source, message, publish.missing);
        let blocks = self.queue.pool.head(record).blocks();
        let client = matches!(source, Source::Client { .. });
        self.kept_blocks += blocks;
        self.kept_of_clients += if client { blocks } else { 0 };
        self.kept_records += 1;
        let inbound = &mut self.conn_mut(slot).inbound;
        (inbound.short_since, inbound.wants) = (None, None);
        let (packet_id, qos, said) = (publish.packet_id, publish.qos, Reason::SUCCESS);
        inbound.push(Kept { record: Some(record), packet_id, qos, said, each, client });
        if publish.missing > 0 {
            let at = message.body_bytes();
            let flow = Flow::begin(now);
            inbound.filling = Some(Filling { at, left: publish.missing, since: now, flow });
        }
    }

    /// A message of a remote that goes nowhere is acknowledged behind those before it [MQTT-4.6.0].
    pub(super) fn keep_refusal(
        &mut self,
        slot: u16,
        packet_id: PacketId,
        qos: Qos,
        said: Reason,
    ) -> Refusal {
        let conn = self.conn(slot);
        let Role::Link { bridge } = conn.role else { return Refusal::Now };
        let debts = if qos == Qos::ExactlyOnce { &conn.pubrecs } else { &conn.pubacks };
        if conn.inbound.passed_over.is_some() {
            return Refusal::InTurn;
        }
        if conn.inbound.is_empty() && !debts.is_full() {
            return Refusal::Now;
        }
        if self.conn(slot).inbound.list.len() < self.kept_max(true) {
            let inbound = &mut self.conn_mut(slot).inbound;
            inbound.short_since = None;
            let packet_id = Some(packet_id);
            inbound.push(Kept { record: None, packet_id, qos, said, each: false, client: false });
            return Refusal::InTurn;
        }
        if self.may_wait(self.now, slot, bridge, false) {
            return Refusal::Later;
        }
        self.pass_over(self.now, slot);
        Refusal::InTurn
    }

    /// Takes what belongs to a message that is coming off `buffer`, behind `parked` bytes; how many
    /// bytes are left in it.
    pub(super) fn fill(
        &mut self,
        now: Instant,
        slot: u16,
        buffer: &mut [u8],
        parked: usize,
    ) -> usize {
        let Self { conns, queue, .. } = self;
        let inbound = &mut conns[usize::from(slot)].inbound;
        let (Some(filling), Some(kept)) = (&mut inbound.filling, inbound.list.back()) else {
            return buffer.len();
        };
        let here = filling.left.min(buffer.len() - parked);
        if here == 0 {
            return buffer.len();
        }
        if let Some(record) = kept.record {
            queue.pool.write(record, filling.at, &buffer[parked..parked + here]);
        }
        filling.at += here;
        filling.left -= here;
        filling.flow.add(now, wide(here));
        if filling.left == 0 {
            inbound.filling = None;
        }
        buffer.copy_within(parked + here.., parked);
        buffer.len() - here
    }

    /// Routes what is whole, in order, until one finds no room.
    pub(super) fn take_kept(&mut self, now: Instant, slot: u16) -> Result<(), Fatal> {
        loop {
            let source = match self.conn(slot).role {
                Role::Client { session } => Source::Client { slot, session },
                Role::Link { bridge } => Source::Link { slot, bridge },
                Role::Free | Role::Greeting | Role::Closing => return Ok(()),
            };
            let inbound = &self.conn(slot).inbound;
            let whole = inbound.list.len() > usize::from(inbound.is_filling());
            let Some(kept) = inbound.list.front().copied().filter(|_| whole) else {
                return Ok(());
            };
            let taken = match kept.record {
                Some(record) => self.route_kept(now, source, record, &kept)?,
                None => self.acknowledge_kept(slot, &kept),
            };
            if !taken {
                return Ok(());
            }
            let inbound = &mut self.conn_mut(slot).inbound;
            inbound.list.pop_front();
            if let Some(moved_at) = &mut inbound.short_since {
                *moved_at = now;
            }
            self.let_go(kept);
            // What was left with the remote is next.
            self.due_by(now);
        }
    }

    fn route_kept(
        &mut self,
        now: Instant,
        source: Source,
        record: RecordId,
        kept: &Kept,
    ) -> Result<bool, Fatal> {
        let mut scratch = core::mem::take(&mut self.scratch);
        let mut topics = core::mem::take(&mut self.topic);
        let mut large = Vec::new();
        let head = *self.queue.pool.head(record);
        let text = match scratch.get_mut(..head.payload_at()) {
            Some(room) => room,
            // More than nearly all messages have.
            None => {
                large.resize(head.payload_at(), 0);
                &mut large[..]
            }
        };
        self.queue.pool.read(record, 0, text);
        let (topic, properties) = text.split_at(usize::from(head.topic_bytes));
        // It was a `&str` when it was put there.
        let topic = core::str::from_utf8(topic).unwrap_or("");
        let bytes = widen(head.payload_bytes);
        let (id, qos) = (kept.packet_id, kept.qos);
        let result = if let (true, Source::Link { bridge, .. }) = (kept.each, source) {
            let (properties, ids) = split_kept(properties);
            let all = Brought {
                topic,
                qos: head.qos,
                retain: head.retain,
                properties,
                ids,
                expiry_s: head.expiry_s,
                payload: Payload::Beside(record, bytes),
            };
            let rules = core::mem::take(&mut self.link_mut(bridge).rules.subscribe);
            let what = What::Each(&all, &rules, &mut topics);
            let result = self.publish_acknowledged(now, source, what, id, qos);
            self.link_mut(bridge).rules.subscribe = rules;
            result
        } else {
            let message = Message {
                topic,
                qos: head.qos,
                retain: head.retain,
                properties,
                expiry_s: head.expiry_s,
                payload: Payload::Kept(record, bytes),
            };
            self.publish_acknowledged(now, source, What::One(&message), id, qos)
        };
        self.scratch = scratch;
        self.topic = topics;
        result
    }

    fn acknowledge_kept(&mut self, slot: u16, kept: &Kept) -> bool {
        let Some(packet_id) = kept.packet_id else { return true };
        let conn = self.conn_mut(slot);
        let exactly_once = kept.qos == Qos::ExactlyOnce;
        let debts = if exactly_once { &mut conn.pubrecs } else { &mut conn.pubacks };
        if debts.is_full() {
            return false;
        }
        debts.push(Debt { packet_id, reason: kept.said, record: None, after: 0, owner: None });
        self.ready.set(slot);
        true
    }

    /// Our own reference to it; its destinations have theirs.
    fn let_go(&mut self, kept: Kept) {
        let Some(record) = kept.record else { return };
        let blocks = self.queue.pool.head(record).blocks();
        self.kept_blocks -= blocks;
        self.kept_of_clients -= if kept.client { blocks } else { 0 };
        self.kept_records -= 1;
        self.queue.pool.release(record);
    }

    /// The connection ends: whatever it has not been told of is its sender's.
    pub(super) fn forget_kept(&mut self, slot: u16) {
        let inbound = core::mem::take(&mut self.conn_mut(slot).inbound);
        for kept in inbound.list {
            self.let_go(kept);
        }
    }

    /// When a link is to be renewed because something was left with its remote, which sends it
    /// again over a new connection only: once nothing that came before it waits any more.
    pub(super) fn renew_at(&self, slot: u16) -> Instant {
        let inbound = &self.conn(slot).inbound;
        match inbound.passed_over {
            Some(since) if inbound.is_empty() => since.plus(RENEW_AFTER),
            Some(_) | None => Instant::NEVER,
        }
    }

    /// Is this one to be left with the remote, behind another?
    pub(super) fn passes_over(&self, slot: u16, publish: &Publish<'_>) -> bool {
        publish.qos != Qos::AtMostOnce && self.conn(slot).inbound.passed_over.is_some()
    }
}

impl Inbound {
    fn push(&mut self, kept: Kept) {
        self.list.push_back(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_what_is_whole() {
        let mut inbound = Inbound::default();
        assert!(!inbound.waits() && inbound.is_empty());
        inbound.push(Kept {
            record: None,
            packet_id: None,
            qos: Qos::AtMostOnce,
            said: Reason(0),
            each: false,
            client: false,
        });
        assert!(inbound.waits() && inbound.last_whole() == Some(Qos::AtMostOnce));
        let (since, flow) = (Instant::ZERO, Flow::begin(Instant::ZERO));
        inbound.filling = Some(Filling { at: 0, left: 1, since, flow });
        assert!(!inbound.waits() && inbound.is_filling() && inbound.last_whole().is_none());
    }
}
