//! The links of the bridges: resolve, dial, greet, keep alive, lose, back off and come back. There
//! is no terminal state. Read MQTT 5 sections 3.1, 3.2 and 4.4 first.

use super::conn::Role;
use super::subject::Subject;
use super::verbs::Action;
use super::{Gateway, State};
use crate::bridge::addresses::Attempt;
use crate::bridge::blame::{Closed, Ending};
use crate::bridge::dial::Next;
use crate::config::Bridge;
use crate::fit::millis;
use crate::mqtt::Reason;
use crate::note::{Note, Text, named, text};
use crate::queue::DropReason;
use crate::vocab::{BridgeId, ConnId, Instant};
use core::net::SocketAddr;

/// Packet identifiers of our SUBSCRIBEs start here; publishes stay below.
pub(super) const SUBSCRIBE_ID: u16 = crate::limits::PUBLISH_ID_MAX + 1;

impl Gateway {
    /// Client ids of bridges that have none of their own: node.name-NAME-random.
    pub(super) fn name_links(&mut self) {
        for at in 0..self.links.len() {
            self.links[at].client_id = self.client_id(&self.config.bridges[at]);
        }
    }

    pub(super) fn client_id(&self, bridge: &Bridge) -> String {
        let short = self.node_id & 0xFFFF_FFFF;
        let made = || format!("{}-{}-{short:08x}", self.config.node_name, bridge.name);
        bridge.client_id.clone().unwrap_or_else(made)
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

    pub(super) fn begin_attempt(&mut self, now: Instant, bridge: BridgeId) {
        if self.link(bridge).upgrade_at <= now {
            self.speak_as_configured(bridge);
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
    pub(super) fn attempt_failed(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        let next = self.link_mut(bridge).dial.failed(now);
        self.follow(now, bridge, next, reason);
    }

    pub(super) fn follow(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        next: Next,
        reason: &'static str,
    ) {
        match next {
            Next::Address(attempt) => self.dial(now, bridge, attempt),
            Next::Server(_) => self.begin_attempt(now, bridge),
            Next::Pause => self.back_off(now, bridge, reason),
        }
    }

    pub(super) fn back_off(&mut self, now: Instant, bridge: BridgeId, reason: &'static str) {
        self.back_off_from(now, bridge, reason, Subject::none());
    }

    /// The same, if a message is concerned.
    fn back_off_from(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        reason: &'static str,
        subject: Subject,
    ) {
        let Self { links, rng, .. } = self;
        let link = &mut links[usize::from(bridge.0)];
        let mut until = now.plus(link.backoff.next(rng));
        link.reason = reason;
        if link.nudges.is_wanted() {
            until = self.hastened(now, bridge, until);
        }
        let wait = until.since(now);
        self.link_mut(bridge).state = State::Backoff { until };
        self.due_by(until);
        let blame = core::mem::take(&mut self.blame);
        let said = core::mem::take(&mut self.link_mut(bridge).said);
        let known = |word: Text| Some(word).filter(|word| word != "-");
        let note = Note::BridgeDown {
            bridge: self.bridge_name(bridge),
            server: self.server_name(bridge),
            reason: text(reason),
            retry_in_ms: millis(wait),
            backlog: self.queue.outbox(Self::bridge_dest(bridge)).pending,
            size: blame.size,
            limit: blame.limit,
            key: blame.key,
            topic: known(subject.topic).or(blame.topic),
            client: known(subject.client),
            said: said.words.map(Box::new),
            server_reference: said.server.map(Box::new),
        };
        self.note(note);
    }

    pub(super) fn dial(&mut self, now: Instant, bridge: BridgeId, attempt: Attempt) {
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

    pub(super) fn open_link_conn(
        &mut self,
        now: Instant,
        bridge: BridgeId,
        addr: SocketAddr,
    ) -> Option<ConnId> {
        let first = self.client_slots + bridge.0 * 2;
        let slot = (first..first + 2).find(|slot| self.conn(*slot).role == Role::Free)?;
        let conn = self.conn_mut(slot);
        conn.open(Role::Link { bridge }, addr, now);
        let id = conn.id(slot);
        self.told.clear(slot);
        Some(id)
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
        if self.owe_connect(slot, bridge, candidate) {
            return;
        }
        // Said, and tried again like any other failure: a link that waits for the answer to
        // nothing would wait for ever.
        if candidate {
            self.close(now, slot, false);
            self.candidate_failed(now, bridge);
        } else {
            self.link_mut(bridge).heard = true;
            self.link_lost(now, slot, bridge, "connect_too_large", Ending::Other);
        }
    }

    /// The shell says that the link's connection is gone.
    pub(super) fn link_closed(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        reason: &'static str,
    ) {
        let closed = matches!(reason, "peer_closed" | "reset");
        let ending = if closed { Ending::Closed } else { Ending::Other };
        self.link_lost(now, slot, bridge, reason, ending);
    }

    /// The link's connection is gone, in whatever state it was.
    pub(super) fn link_lost(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        reason: &'static str,
        ending: Ending,
    ) {
        let id = self.conn(slot).id(slot);
        if matches!(self.conn(slot).role, Role::Closing | Role::Free) {
            return;
        }
        // What is half written counts, and is forgotten with the connection.
        let evidence = self.evidence(now, bridge, slot, ending);
        self.close(now, slot, true);
        if self.link(bridge).is_candidate(id) {
            self.candidate_failed(now, bridge);
            return;
        }
        match self.link(bridge).state {
            State::Dialing { conn, .. } if conn == id => {
                self.take_guess_back(bridge);
                self.attempt_failed(now, bridge, reason);
            }
            State::Greeting { conn, .. } if conn == id => {
                // Closed without a word to our CONNECT: it may not speak this version.
                let heard = self.link(bridge).heard;
                let silent = !heard && reason != "timed_out";
                if silent && self.fall_back(now, bridge) {
                    self.link_mut(bridge).guessed = true;
                }
                // What we closed it for is better known than that.
                let by_peer = matches!(reason, "peer_closed" | "reset" | "timed_out");
                let reason = if heard || !by_peer { reason } else { "closed_before_connack" };
                self.attempt_failed(now, bridge, reason);
            }
            State::Up { conn } if conn == id => self.up_lost(now, bridge, reason, evidence),
            State::Backoff { .. }
            | State::Resolving { .. }
            | State::Dialing { .. }
            | State::Greeting { .. }
            | State::Up { .. }
            | State::Stopped => {}
        }
    }

    /// A remote that closed and now does not even take connections was stopping: what it closed
    /// says nothing about its version.
    fn take_guess_back(&mut self, bridge: BridgeId) {
        if core::mem::take(&mut self.link_mut(bridge).guessed) {
            self.speak_as_configured(bridge);
        }
    }

    pub(super) fn speak_as_configured(&mut self, bridge: BridgeId) {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let link = &mut self.links[usize::from(bridge.0)];
        link.version = config.version;
        link.bridge_bit = config.bridge_bit;
        link.upgrade_at = Instant::NEVER;
    }

    fn up_lost(&mut self, now: Instant, bridge: BridgeId, reason: &'static str, evidence: Closed) {
        let dest = Self::bridge_dest(bridge);
        let subject = self.judge(bridge, reason, evidence);
        self.queue.disconnected(dest);
        self.queue.drop_zero(dest, DropReason::Offline);
        if let Some(candidate) = self.link_mut(bridge).candidate.take()
            && let Some(conn) = candidate.conn
        {
            self.close(now, conn.slot, false);
        }
        let link = self.link_mut(bridge);
        // What was passed over is fetched at once: the remote has done nothing wrong.
        if link.dial.lost(now) || reason == "fetch_again" {
            link.backoff.reset();
        }
        link.reconnects += 1;
        link.down_since = now;
        link.ping_sent = None;
        self.announce(now, bridge, false);
        self.back_off_from(now, bridge, reason, subject);
    }

    pub(super) fn link_disconnect(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        reason: Reason,
    ) {
        let word = if reason == Reason::SUCCESS { "disconnected_by_peer" } else { reason.word() };
        if reason == Reason::TAKEN_OVER && self.link_is_up(bridge, slot) {
            let link = self.link_mut(bridge);
            link.takeovers += 1;
            if link.takeovers >= 3 {
                let note = Note::CloneSuspected {
                    takeovers: link.takeovers,
                    client: text(&link.client_id),
                    key: named("bridge.NAME.clientid", &self.bridge_name(bridge)),
                    bridge: self.bridge_name(bridge),
                };
                self.note(note);
            }
        }
        self.link_lost(now, slot, bridge, word, Ending::Disconnect(reason));
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
                    self.leave(now, bridge, conn.slot);
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
        self.keep_all_down(now);
    }

    pub(super) fn bridge_name(&self, bridge: BridgeId) -> Text {
        text(&self.config.bridges[usize::from(bridge.0)].name)
    }

    pub(super) fn server_name(&self, bridge: BridgeId) -> Text {
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
