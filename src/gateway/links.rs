//! The links of the bridges: resolve, dial, greet, keep alive, lose, back off and come back. There
//! is no terminal state. Read MQTT 5 sections 3.1, 3.2 and 4.4 first.

use super::clients::{seconds, version_word};
use super::conn::Role;
use super::receive::{Fatal, Step};
use super::replies::properties;
use super::verbs::Action;
use super::{Gateway, State};
use crate::bridge::addresses::{Addresses, Attempt};
use crate::bridge::dial::Next;
use crate::bridge::link::{Candidate, Remote, Subscribed};
use crate::limits::{REFUSED_RETRY, STABLE_AFTER};
use crate::mqtt::props::{Properties, Property};
use crate::mqtt::{
    Ack, Connack, Connect, Packet, PacketId, Qos, Reason, Suback, Subscribe, SubscribeOptions,
    Version, Will, encode,
};
use crate::note::{Note, Text, text};
use crate::queue::outbox::DestId;
use crate::queue::pool::Head;
use crate::queue::{DropReason, Push};
use crate::vocab::{BridgeId, ConnId, Instant};
use core::net::SocketAddr;
use core::time::Duration;

/// Packet identifiers of our SUBSCRIBEs start here; publishes stay below.
pub(super) const SUBSCRIBE_ID: u16 = crate::limits::PUBLISH_ID_MAX + 1;

/// Rule index of our own word: the topic is sent as it is.
pub(super) const NO_RULE: u8 = u8::MAX;

/// A version that was refused is tried again after this.
const UPGRADE_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Gateway {
    /// Client ids of bridges that have none of their own: node.name-NAME-random.
    pub(super) fn name_links(&mut self) {
        for (bridge, link) in self.config.bridges.iter().zip(&mut self.links) {
            if bridge.client_id.is_none() {
                let short = self.node_id & 0xFFFF_FFFF;
                link.client_id = format!("{}-{}-{short:08x}", self.config.node_name, bridge.name);
            }
        }
    }

    /// What is due at the links; the next time something may be.
    pub(super) fn expire_links(&mut self, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        for index in 0..self.links.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let bridge = BridgeId(index);
            match self.link(bridge).state {
                State::Backoff { until } if until <= now => self.begin_attempt(now, bridge),
                State::Resolving { deadline } if deadline <= now => {
                    self.actions.push_back(Action::CancelResolve { bridge });
                    self.attempt_failed(now, bridge, "dns_timeout");
                }
                State::Dialing { conn, deadline } if deadline <= now => {
                    self.close(now, conn.slot, false);
                    self.attempt_failed(now, bridge, "connect_timeout");
                }
                State::Greeting { conn, deadline } if deadline <= now => {
                    self.close(now, conn.slot, false);
                    self.attempt_failed(now, bridge, "connack_timeout");
                }
                State::Up { conn } => {
                    next = next.min(self.expire_up(now, bridge, conn.slot));
                }
                State::Backoff { .. }
                | State::Resolving { .. }
                | State::Dialing { .. }
                | State::Greeting { .. }
                | State::Stopped => {}
            }
            self.expire_candidate(now, bridge);
            next = next.min(self.link(bridge).due_at());
        }
        next
    }

    fn begin_attempt(&mut self, now: Instant, bridge: BridgeId) {
        let link = self.link_mut(bridge);
        if link.upgrade_at <= now {
            link.upgrade_at = Instant::NEVER;
            let config = &self.config.bridges[usize::from(bridge.0)];
            let (version, bit) = (config.version, config.bridge_bit);
            let link = self.link_mut(bridge);
            link.version = version;
            link.bridge_bit = bit;
        }
        let link = self.link_mut(bridge);
        link.attempts = link.attempts.saturating_add(1);
        let deadline = link.dial.begin(now);
        link.state = State::Resolving { deadline };
        let server = link.dial.server();
        self.actions.push_back(Action::Resolve { bridge, server });
    }

    pub(super) fn link_resolved(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        addrs: &[SocketAddr],
        reason: &'static str,
    ) {
        if usize::from(bridge.0) >= self.links.len() {
            return;
        }
        if let Some(candidate) = &mut self.link_mut(bridge).candidate
            && candidate.conn.is_none()
        {
            match candidate.addresses.resolved(now, addrs) {
                Some(attempt) => self.dial_candidate(now, bridge, attempt),
                None => self.candidate_failed(now, bridge),
            }
            return;
        }
        if !matches!(self.link(bridge).state, State::Resolving { .. }) {
            return;
        }
        if addrs.is_empty() {
            self.attempt_failed(now, bridge, reason);
            return;
        }
        let next = self.link_mut(bridge).dial.resolved(now, addrs);
        self.follow(now, bridge, next, "no_address");
    }

    /// An attempt before CONNACK failed: the next address, the next server, or a pause.
    fn attempt_failed(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        let next = self.link_mut(bridge).dial.failed(now);
        self.follow(now, bridge, next, reason);
    }

    fn follow(&mut self, now: Instant, bridge: BridgeId, next: Next, reason: &'static str) {
        match next {
            Next::Address(attempt) => self.dial(now, bridge, attempt),
            Next::Server(_) => self.begin_attempt(now, bridge),
            Next::Pause => self.back_off(now, bridge, reason),
        }
    }

    fn back_off(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        let Self { links, rng, .. } = self;
        let link = &mut links[usize::from(bridge.0)];
        let wait = link.backoff.next(rng);
        let until = now.plus(wait);
        link.state = State::Backoff { until };
        link.reason = reason;
        self.due_by(until);
        let note = Note::BridgeDown {
            bridge: self.bridge_name(bridge),
            server: self.server_name(bridge),
            reason: text(reason),
            retry_in_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            backlog: self.queue.outbox(Self::bridge_dest(bridge)).pending,
        };
        self.note(note);
    }

    fn dial(&mut self, now: Instant, bridge: BridgeId, attempt: Attempt) {
        let Some(conn) = self.open_link_conn(now, bridge, attempt.addr) else {
            // Both slots are still closing: very soon one will not be.
            self.back_off(now, bridge, "busy");
            return;
        };
        let attempts = self.link(bridge).attempts;
        let mut addr = Text::new();
        // An address is shorter than a note's text.
        let _ = core::fmt::Write::write_fmt(&mut addr, format_args!("{}", attempt.addr));
        let note = Note::BridgeConnecting {
            bridge: self.bridge_name(bridge),
            server: self.server_name(bridge),
            addr,
            attempt: attempts,
        };
        self.note(note);
        self.link_mut(bridge).state = State::Dialing { conn, deadline: attempt.deadline };
        self.due_by(attempt.deadline);
        self.actions.push_back(Action::Dial { conn, bridge, addr: attempt.addr });
    }

    fn open_link_conn(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        addr: SocketAddr,
    ) -> Option<ConnId> {
        let first = self.client_slots + bridge.0 * 2;
        let slot = (first..first + 2).find(|slot| self.conn(*slot).role == Role::Free)?;
        let conn = self.conn_mut(slot);
        conn.open(Role::Link { bridge }, addr, now);
        Some(conn.id(slot))
    }

    pub(super) fn link_connected(&mut self, now: Instant, id: ConnId) {
        let Some(slot) = self.live(id) else { return };
        let Role::Link { bridge } = self.conn(slot).role else { return };
        let candidate = self.link(bridge).is_candidate(id);
        if candidate {
            if let Some(candidate) = &mut self.link_mut(bridge).candidate {
                candidate.greeting = true;
            }
        } else if let State::Dialing { conn, deadline } = self.link(bridge).state
            && conn == id
        {
            self.link_mut(bridge).state = State::Greeting { conn, deadline };
            self.link_mut(bridge).heard = false;
        } else {
            return;
        }
        self.owe_connect(slot, bridge, candidate);
        let _ = now;
    }

    /// Does the link ask for a clean session because ours does not fit the remote's?
    fn asked_clean(&self, bridge: BridgeId) -> bool {
        let link = self.link(bridge);
        // What is in flight belongs to one server's session: another one starts afresh.
        link.clean || link.session_server.is_some_and(|session| session != link.dial.server())
    }

    /// CONNECT, as configured and as far as this remote went along before.
    fn owe_connect(&mut self, slot: u16, bridge: BridgeId, candidate: bool) {
        let config = self.config.bridges[usize::from(bridge.0)].clone();
        let link = self.link(bridge);
        let version = link.version;
        let server = if candidate { 0 } else { link.dial.server() };
        // What is in flight belongs to one server's session: another one starts afresh.
        let other = link.session_server.is_some_and(|session| session != server);
        let clean = config.clean_start || link.clean || other;
        let client_id = link.client_id.clone();
        let bridge_bit = link.bridge_bit && version == Version::V311;
        let mut buffer = [0; 64];
        let expiry = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let packet_bytes = u32::try_from(self.config.limit.packet_bytes).unwrap_or(u32::MAX);
        let list = [
            Property::SessionExpiry(expiry),
            Property::ReceiveMaximum(super::inbound_window(&self.config)),
            Property::MaximumPacketSize(packet_bytes),
        ];
        let properties = match version {
            Version::V5 => properties(&list, &mut buffer),
            Version::V31 | Version::V311 => Properties::EMPTY,
        };
        let will = match (&config.will, &config.notify_topic) {
            (Some(will), _) => Some(Will {
                topic: &will.topic,
                payload: &will.payload,
                qos: will.qos,
                retain: will.retain,
                properties: Properties::EMPTY,
            }),
            (None, Some(topic)) => Some(Will {
                topic,
                payload: b"0",
                qos: Qos::AtLeastOnce,
                retain: true,
                properties: Properties::EMPTY,
            }),
            (None, None) => None,
        };
        let connect = Connect {
            version,
            bridge: bridge_bit,
            clean_start: clean,
            keepalive: u16::try_from(config.keepalive.as_secs()).unwrap_or(u16::MAX),
            client_id: &client_id,
            will,
            username: config.username.as_deref(),
            password: config.password.as_deref(),
            properties,
        };
        let conn = self.conn_mut(slot);
        conn.version = version;
        // The slot's replies were sized for it.
        let _ = self.reply(slot, &Packet::Connect(connect));
    }

    pub(super) fn link_connack(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        connack: &Connack<'_>,
    ) -> Result<Step, Fatal> {
        let id = self.conn(slot).id(slot);
        let candidate = self.link(bridge).is_candidate(id);
        let greeting =
            matches!(self.link(bridge).state, State::Greeting { conn, .. } if conn == id);
        if !candidate && !greeting {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if connack.code != 0 {
            self.connect_refused(now, slot, bridge, candidate, connack.code);
            return Ok(Step::Done);
        }
        let keeps = !self.config.bridges[usize::from(bridge.0)].clean_start;
        if !candidate && keeps && self.asked_clean(bridge) && self.conn(slot).version != Version::V5
        {
            // Before MQTT 5 a clean session ends with its connection: this one has cleared what
            // the remote had, the next one asks for a session that lasts.
            self.say_goodbye(slot, Reason::SUCCESS);
            self.close(now, slot, true);
            let link = self.link_mut(bridge);
            link.clean = false;
            link.session_server = Some(link.dial.server());
            self.begin_attempt(now, bridge);
            return Ok(Step::Done);
        }
        if candidate {
            self.fail_back(now, bridge);
        } else {
            self.link_mut(bridge).dial.up(now);
        }
        self.take_limits(slot, bridge, connack);
        let dest = Self::bridge_dest(bridge);
        let server = self.link(bridge).dial.server();
        let clean = self.link(bridge).clean;
        let link = self.link_mut(bridge);
        link.state = State::Up { conn: id };
        link.clean = false;
        link.silent_closes = 0;
        link.session_server = Some(server);
        link.up_since = now;
        link.ping_sent = None;
        link.heard = true;
        link.held_until = Instant::ZERO;
        let (window, first) = (link.remote.receive_maximum, link.first);
        let _ = clean;
        let in_doubt = self.queue.connected(dest, connack.session_present, window, now);
        self.queue.remember(dest);
        if in_doubt > 0 {
            let bridge = self.bridge_name(bridge);
            self.note(Note::Qos2InDoubt { bridge, count: in_doubt, reason: "session_lost" });
        }
        if !connack.session_present || first {
            for subscribed in &mut self.link_mut(bridge).subscribed {
                *subscribed = Subscribed::Due { at: now };
            }
        }
        self.link_mut(bridge).first = false;
        self.send_subscribes(now, slot, bridge);
        self.announce(now, bridge, true);
        let note = Note::BridgeUp {
            bridge: self.bridge_name(bridge),
            server: self.server_name(bridge),
            version: version_word(self.link(bridge).version),
            session_present: connack.session_present,
            receive_maximum: window,
            backlog: self.queue.outbox(dest).pending,
        };
        self.note(note);
        let keepalive = self.config.bridges[usize::from(bridge.0)].keepalive;
        self.due_by(now.plus(keepalive / 4).min(now.plus(STABLE_AFTER)));
        self.ready.set(slot);
        Ok(Step::Done)
    }

    /// What the remote takes, by its CONNACK and by our configuration.
    fn take_limits(&mut self, slot: u16, bridge: BridgeId, connack: &Connack<'_>) {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let mut remote = Remote::unlimited(config);
        let props = &connack.properties;
        if let Some(receive_maximum) = props.receive_maximum() {
            remote.receive_maximum = receive_maximum;
        }
        if let Some(bytes) = props.maximum_packet_size() {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            remote.packet_bytes_max = remote.packet_bytes_max.min(bytes);
        }
        if let Some(qos) = props.maximum_qos().and_then(Qos::from_u8) {
            remote.qos_max = qos;
        }
        remote.retain_available = props.retain_available().unwrap_or(true);
        let mut keepalive = config.keepalive;
        if let Some(told) = props.server_keepalive() {
            keepalive = seconds(u32::from(told));
        }
        let max_inflight = config.max_inflight;
        remote.receive_maximum = remote.receive_maximum.min(max_inflight);
        if let Some(assigned) = props.assigned_client_id() {
            self.link_mut(bridge).client_id = assigned.to_string();
        }
        self.link_mut(bridge).remote = remote;
        let conn = self.conn_mut(slot);
        conn.packet_bytes_max = remote.packet_bytes_max;
        conn.keepalive = keepalive;
    }

    fn connect_refused(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        candidate: bool,
        code: u8,
    ) {
        let version = self.link(bridge).version;
        let word = refusal_word(version, code);
        self.close(now, slot, false);
        if candidate {
            self.candidate_failed(now, bridge);
            return;
        }
        let version_refused = match version {
            Version::V5 => matches!(code, 0x84 | 0x01 | 0x81 | 0x82),
            Version::V31 | Version::V311 => code == 1,
        };
        if version_refused && self.fall_back(now, bridge) {
            let next = self.link_mut(bridge).dial.begin(now);
            self.link_mut(bridge).state = State::Resolving { deadline: next };
            let server = self.link(bridge).dial.server();
            self.actions.push_back(Action::Resolve { bridge, server });
            return;
        }
        let next = self.link_mut(bridge).dial.refused();
        self.follow(now, bridge, next, word);
    }

    /// The next lower way to speak; remembered, and tried again daily. `false`: there is none.
    fn fall_back(&mut self, now: Instant, bridge: BridgeId) -> bool {
        let link = self.link_mut(bridge);
        let lower = match (link.version, link.bridge_bit) {
            (Version::V5, bit) => Some((Version::V311, bit)),
            (Version::V311, true) => Some((Version::V311, false)),
            (Version::V311 | Version::V31, _) => None,
        };
        let Some((version, bit)) = lower else { return false };
        link.version = version;
        link.bridge_bit = bit;
        link.upgrade_at = now.plus(UPGRADE_AFTER);
        true
    }

    /// The link's connection is gone, in whatever state it was.
    pub(super) fn link_lost(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        reason: &'static str,
    ) {
        let id = self.conn(slot).id(slot);
        if matches!(self.conn(slot).role, Role::Closing | Role::Free) {
            return;
        }
        self.close(now, slot, true);
        if self.link(bridge).is_candidate(id) {
            self.candidate_failed(now, bridge);
            return;
        }
        match self.link(bridge).state {
            State::Dialing { conn, .. } if conn == id => self.attempt_failed(now, bridge, reason),
            State::Greeting { conn, .. } if conn == id => {
                // Closed without a word to our CONNECT: it may not speak this version.
                let silent = !self.link(bridge).heard && reason != "timed_out";
                // Once may be a remote that is just stopping.
                let link = self.link_mut(bridge);
                link.silent_closes = if silent { link.silent_closes + 1 } else { 0 };
                if link.silent_closes >= 2 && self.fall_back(now, bridge) {
                    self.attempt_failed(now, bridge, "closed_before_connack");
                } else {
                    self.attempt_failed(now, bridge, "closed_before_connack");
                }
            }
            State::Up { conn } if conn == id => self.up_lost(now, bridge, reason),
            State::Backoff { .. }
            | State::Resolving { .. }
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::Up { .. }
            | State::Stopped => {}
        }
    }

    fn up_lost(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        let dest = Self::bridge_dest(bridge);
        self.suspect(now, bridge, reason);
        self.queue.disconnected(dest);
        let dropped = self.queue.drop_zero(dest, DropReason::Offline);
        let _ = dropped;
        if let Some(candidate) = self.link_mut(bridge).candidate.take()
            && let Some(conn) = candidate.conn
        {
            self.close(now, conn.slot, false);
        }
        let link = self.link_mut(bridge);
        if link.dial.lost(now) {
            link.backoff.reset();
        }
        link.reconnects += 1;
        link.down_since = now;
        link.ping_sent = None;
        self.announce(now, bridge, false);
        self.back_off(now, bridge, reason);
    }

    /// After two deaths with the same oldest message it is sent alone; three closes by the peer
    /// with it alone on the wire and it is set aside.
    fn suspect(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        let dest = Self::bridge_dest(bridge);
        if !matches!(reason, "peer_closed" | "reset" | "disconnected_by_peer") {
            return;
        }
        let Some((index, seq, alone)) = self.queue.oldest_on_wire(dest) else { return };
        let link = self.link_mut(bridge);
        let was_alone = link.alone && alone;
        let deaths = match link.suspect {
            Some((known, deaths)) if known == seq => {
                if link.alone && !was_alone {
                    deaths
                } else {
                    deaths + 1
                }
            }
            _ => 1,
        };
        link.suspect = Some((seq, deaths));
        link.alone = deaths >= 2;
        if deaths >= 5 && was_alone {
            link.suspect = None;
            link.alone = false;
            self.quarantine(now, dest, index, "remote_closes");
        }
    }

    /// Takes a message out of a queue and keeps it aside: counted and logged.
    fn quarantine(&mut self, _now: Instant, dest: DestId, index: u32, reason: &'static str) {
        let destination = self.queue.name(dest);
        self.queue.set_aside(dest, index);
        self.note(Note::Quarantined { destination, reason: text(reason), count: 1 });
    }

    /// PUBACK or PUBREC with an error: what the remote will never take is set aside, the rest waits
    /// and is tried again.
    pub(super) fn refused(&mut self, now: Instant, slot: u16, dest: DestId, ack: &Ack<'_>) {
        let Some(index) = self.queue.by_id(dest, ack.packet_id) else { return };
        let Role::Link { bridge } = self.conn(slot).role else {
            // A local subscriber that refuses a message has settled it [MQTT-4.3.3].
            self.queue.drop_entry(dest, index, DropReason::Refused);
            return;
        };
        match ack.reason {
            Reason::UNSPECIFIED | Reason::IMPLEMENTATION_SPECIFIC | Reason::QUOTA_EXCEEDED => {
                if self.queue.put_back(dest, index) {
                    let link = self.link_mut(bridge);
                    link.held_for =
                        (link.held_for * 2).clamp(Duration::from_secs(1), Duration::from_secs(60));
                    link.held_until = now.plus(link.held_for);
                    let until = link.held_until;
                    self.due_by(until);
                }
            }
            reason => self.quarantine(now, dest, index, reason.word()),
        }
    }

    pub(super) fn link_disconnect(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        reason: Reason,
    ) {
        let word = if reason == Reason::SUCCESS { "disconnected_by_peer" } else { reason.word() };
        if reason == Reason::TAKEN_OVER {
            let link = self.link_mut(bridge);
            link.takeovers += 1;
            if link.takeovers >= 3 {
                let note = Note::CloneSuspected {
                    takeovers: link.takeovers,
                    client: text(&link.client_id),
                    bridge: self.bridge_name(bridge),
                };
                self.note(note);
            }
        }
        self.link_lost(now, slot, bridge, word);
    }

    /// Keepalive, acknowledgement time-out, probes of the first server.
    fn expire_up(&mut self, now: Instant, bridge: BridgeId, slot: u16) -> Instant {
        let dest = Self::bridge_dest(bridge);
        let ack_timeout = self.config.bridges[usize::from(bridge.0)].ack_timeout;
        let mut next = Instant::NEVER;
        if let Some(sent) = self.queue.oldest_sent(dest) {
            let at = sent.plus(ack_timeout);
            if at <= now {
                self.link_lost(now, slot, bridge, "ack_timeout");
                return now;
            }
            next = next.min(at);
        }
        let conn = self.conn(slot);
        if !conn.keepalive.is_zero() {
            let keepalive = conn.keepalive;
            let asked = self.link(bridge).ping_sent;
            if let Some(asked) = asked {
                let heard = conn.received_at > asked;
                if !heard && asked.plus(keepalive) <= now {
                    self.link_lost(now, slot, bridge, "keepalive_timeout");
                    return now;
                }
                next = next.min(asked.plus(keepalive));
                if heard && asked.plus(keepalive) <= now {
                    self.link_mut(bridge).ping_sent = None;
                }
            }
            let conn = self.conn(slot);
            let quiet = conn.sent_at.min(conn.received_at).plus(keepalive * 3 / 4);
            if self.link(bridge).ping_sent.is_none() {
                if quiet <= now {
                    self.link_mut(bridge).ping_sent = Some(now);
                    let _ = self.reply(slot, &Packet::Pingreq);
                    next = next.min(now.plus(keepalive));
                } else {
                    next = next.min(quiet);
                }
            }
        }
        if self.link(bridge).stable_at() <= now {
            let link = self.link_mut(bridge);
            link.attempts = 0;
            link.backoff.reset();
            link.takeovers = 0;
        }
        next = next.min(self.send_subscribes(now, slot, bridge));
        if self.link_mut(bridge).dial.poll_probe(now) {
            self.actions.push_back(Action::Probe { bridge, server: 0 });
        }
        next
    }

    /// Sends the SUBSCRIBEs that are due; when the next is.
    fn send_subscribes(&mut self, now: Instant, slot: u16, bridge: BridgeId) -> Instant {
        let mut next = Instant::NEVER;
        for rule in 0..self.link(bridge).subscribed.len() {
            let Subscribed::Due { at } = self.link(bridge).subscribed[rule] else { continue };
            if at > now {
                next = next.min(at);
                continue;
            }
            if !self.owe_subscribe(slot, bridge, rule) {
                // No room among the replies: soon.
                next = next.min(now.plus(Duration::from_millis(10)));
                continue;
            }
            self.link_mut(bridge).subscribed[rule] = Subscribed::Asked;
        }
        self.due_by(next);
        next
    }

    fn owe_subscribe(&mut self, slot: u16, bridge: BridgeId, rule: usize) -> bool {
        let rules = &self.links[usize::from(bridge.0)].rules;
        let Some(subscribe) = rules.subscribe.get(rule) else { return true };
        let offset = u16::try_from(rule).unwrap_or(0);
        let Some(packet_id) = PacketId::new(SUBSCRIBE_ID + offset) else { return true };
        let qos = subscribe.qos;
        let options = SubscribeOptions {
            qos,
            // What we sent does not come back.
            no_local: true,
            retain_as_published: true,
            retain_handling: 0,
        };
        let conn = &mut self.conns[usize::from(slot)];
        let version = conn.version;
        if !conn.has_control_room(subscribe.remote_topic.len() + 16) {
            return false;
        }
        let filters = [(subscribe.remote_topic.as_str(), options)];
        let filters = crate::mqtt::Filters::from_list(&filters);
        let packet = Subscribe { packet_id, properties: Properties::EMPTY, filters };
        let fits = conn.control(|out| encode(version, &Packet::Subscribe(packet), out).ok());
        self.ready.set(slot);
        fits
    }

    pub(super) fn link_suback(&mut self, now: Instant, bridge: BridgeId, suback: &Suback<'_>) {
        let Some(rule) = suback.packet_id.raw().checked_sub(SUBSCRIBE_ID) else { return };
        let rule = usize::from(rule);
        let code = suback.codes.first().copied().unwrap_or(0x80);
        if rule >= self.link(bridge).subscribed.len() {
            return;
        }
        if code < 0x80 {
            self.link_mut(bridge).subscribed[rule] = Subscribed::Granted;
            return;
        }
        let at = now.plus(REFUSED_RETRY);
        self.link_mut(bridge).subscribed[rule] = Subscribed::Due { at };
        self.due_by(at);
        let filter = text(&self.link(bridge).rules.subscribe[rule].remote_topic);
        let note = Note::SubscribeRefused {
            bridge: self.bridge_name(bridge),
            filter,
            code: u16::from(code),
            retry_in_ms: u64::try_from(REFUSED_RETRY.as_millis()).unwrap_or(0),
        };
        self.note(note);
    }

    /// `notify_topic`: 1 locally and at the remote when the bridge is up; 0 locally when it is not
    /// (its will says so at the remote).
    fn announce(&mut self, now: Instant, bridge: BridgeId, up: bool) {
        let Some(topic) = self.config.bridges[usize::from(bridge.0)].notify_topic.clone() else {
            return;
        };
        let payload: &[u8] = if up { b"1" } else { b"0" };
        if up {
            self.say_to_remote(now, bridge, &topic, payload);
        }
        self.say_locally(now, &topic, payload);
    }

    fn say_to_remote(&mut self, now: Instant, bridge: BridgeId, topic: &str, payload: &[u8]) {
        if !self.queue.fits(Qos::AtLeastOnce, topic.len() + payload.len(), 1) {
            return;
        }
        let head = Head {
            topic_bytes: u16::try_from(topic.len()).unwrap_or(0),
            props_bytes: 0,
            payload_bytes: u32::try_from(payload.len()).unwrap_or(0),
            qos: Qos::AtMostOnce,
            retain: true,
            arrival: now,
            wall_s: self.queue.wall_s(),
            expiry_s: None,
            source: u16::MAX,
        };
        // `fits` said so.
        let Ok(record) = self.queue.pool.insert(head) else { return };
        self.queue.pool.write(record, 0, topic.as_bytes());
        self.queue.pool.write(record, topic.len(), payload);
        let push = Push {
            qos: Qos::AtMostOnce,
            retain: true,
            stream: 1,
            rule: NO_RULE,
            hold: false,
            conflate: None,
        };
        self.queue.push(Self::bridge_dest(bridge), record, push);
        self.queue.pool.release(record);
    }

    pub(super) fn link_probed(&mut self, now: Instant, bridge: BridgeId, ok: bool) {
        if usize::from(bridge.0) >= self.links.len() {
            return;
        }
        self.link_mut(bridge).dial.probed(now, ok);
        let link = self.link(bridge);
        if link.dial.wants_failback() && link.candidate.is_none() && link.is_up() {
            let timeout = self.config.bridges[usize::from(bridge.0)].connect_timeout;
            let mut addresses = Addresses::new();
            let deadline = addresses.begin(now, timeout);
            let candidate = Candidate { addresses, conn: None, greeting: false, deadline };
            self.link_mut(bridge).candidate = Some(candidate);
            self.due_by(deadline);
            self.actions.push_back(Action::Resolve { bridge, server: 0 });
        }
        self.due_by(self.link(bridge).dial.probe_at());
    }

    fn dial_candidate(&mut self, now: Instant, bridge: BridgeId, attempt: Attempt) {
        let Some(conn) = self.open_link_conn(now, bridge, attempt.addr) else {
            self.candidate_failed(now, bridge);
            return;
        };
        if let Some(candidate) = &mut self.link_mut(bridge).candidate {
            candidate.conn = Some(conn);
            candidate.deadline = attempt.deadline;
        }
        self.due_by(attempt.deadline);
        self.actions.push_back(Action::Dial { conn, bridge, addr: attempt.addr });
    }

    fn expire_candidate(&mut self, now: Instant, bridge: BridgeId) {
        let due = self.link(bridge).candidate.as_ref().is_some_and(|c| c.deadline <= now);
        if !due {
            return;
        }
        let conn = self.link(bridge).candidate.as_ref().and_then(|c| c.conn);
        match conn {
            Some(conn) => self.close(now, conn.slot, false),
            None => self.actions.push_back(Action::CancelResolve { bridge }),
        }
        self.candidate_failed(now, bridge);
    }

    fn candidate_failed(&mut self, now: Instant, bridge: BridgeId) {
        let link = self.link_mut(bridge);
        link.candidate = None;
        link.dial.failback_failed(now);
        let at = link.dial.probe_at();
        self.due_by(at);
    }

    /// The first server has accepted the candidate: the secondary is left now, not earlier.
    fn fail_back(&mut self, now: Instant, bridge: BridgeId) {
        let Some(candidate) = self.link_mut(bridge).candidate.take() else { return };
        let old = self.link(bridge).conn();
        self.queue.disconnected(Self::bridge_dest(bridge));
        if let Some(old) = old {
            self.say_goodbye(old.slot, Reason::SUCCESS);
            self.close(now, old.slot, true);
        }
        let link = self.link_mut(bridge);
        link.dial.failed_back(now, candidate.addresses);
        link.reconnects += 1;
    }

    pub(super) fn link_is_up(&self, bridge: BridgeId, slot: u16) -> bool {
        self.link(bridge).state == State::Up { conn: self.conn(slot).id(slot) }
    }

    pub(super) fn stop_links(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let bridge = BridgeId(index);
            let candidate = self.link_mut(bridge).candidate.take().and_then(|c| c.conn);
            if let Some(conn) = candidate {
                self.close(now, conn.slot, false);
            }
            match self.link(bridge).state {
                State::Up { conn } => {
                    self.say_goodbye(conn.slot, Reason::SUCCESS);
                    self.close(now, conn.slot, true);
                    self.queue.disconnected(Self::bridge_dest(bridge));
                }
                State::Dialing { conn, .. } | State::Greeting { conn, .. } => {
                    self.close(now, conn.slot, false);
                }
                State::Resolving { .. } => {
                    self.actions.push_back(Action::CancelResolve { bridge });
                }
                State::Backoff { .. } | State::Stopped => {}
            }
            self.link_mut(bridge).state = State::Stopped;
        }
    }

    pub(super) fn bridge_name(&self, bridge: BridgeId) -> Text {
        text(&self.config.bridges[usize::from(bridge.0)].name)
    }

    fn server_name(&self, bridge: BridgeId) -> Text {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let server = usize::from(self.link(bridge).dial.server());
        let mut name = Text::new();
        if let Some(server) = config.servers.get(server) {
            // A name that is too long is cut.
            let _ = core::fmt::Write::write_fmt(
                &mut name,
                format_args!("{}:{}", server.host, server.port),
            );
        }
        name
    }
}

/// Why a CONNECT was refused, as a word for the log.
fn refusal_word(version: Version, code: u8) -> &'static str {
    match (version, code) {
        (Version::V5, code) => Reason(code).word(),
        (_, 1) => "unsupported_version",
        (_, 2) => "client_id_invalid",
        (_, 3) => "server_unavailable",
        (_, 4) => "bad_credentials",
        (_, 5) => "not_authorized",
        _ => "refused_by_remote",
    }
}
