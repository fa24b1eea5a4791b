//! Local clients from CONNECT to the end of their session: sessions, take-over, keepalive.
//! Read MQTT 5 sections 3.1, 3.2, 3.14, 4.1 and 4.12 first.

use super::conn::Role;
use super::ends::Blame;
use super::places::{Asks, holder};
use super::receive::{Fatal, Step};
use super::replies::properties;
use super::wills::will_of;
use super::{Gateway, State};
use crate::fit::{fit, index, millis};
use crate::limits::{CONNECT_WITHIN, TOPIC_ALIASES};
use crate::mqtt::props::{Properties, Property};
use crate::mqtt::{Connack, Connect, Disconnect, Packet, Reason, Version};
use crate::note::{Note, text};
use crate::queue::DropReason;
use crate::vocab::{ConnId, Instant};
use core::time::Duration;

impl Gateway {
    pub(super) fn connect(
        &mut self,
        now: Instant,
        slot: u16,
        connect: &Connect<'_>,
    ) -> Result<Step, Fatal> {
        let conn = self.conn_mut(slot);
        // One that waits for its password is presented again.
        let again = core::mem::replace(&mut conn.greeted, true);
        conn.version = connect.version;
        if let Some(bytes) = connect.properties.maximum_packet_size() {
            conn.packet_bytes_max = index(bytes);
        }
        self.counters.connects += u64::from(!again);
        if let Err(fatal) = self.check_connect(connect) {
            return Ok(self.refuse(now, slot, connect, fatal));
        }
        match self.let_in(now, slot, connect) {
            Ok(true) => {}
            Ok(false) => {
                // Should its turn not come in time, it is refused by its name.
                self.conn_mut(slot).called = Some(connect.client_id.into());
                return Ok(Step::Stall);
            }
            Err(fatal) => return Ok(self.refuse(now, slot, connect, fatal)),
        }
        let assigned;
        let client_id = if connect.client_id.is_empty() {
            assigned = assigned_id(self.rng.next_u64());
            assigned.as_str()
        } else {
            connect.client_id
        };
        let taken_over = self.sessions.find(client_id).and_then(|s| self.sessions[s].conn);
        if self.clients >= self.config.limit.clients && taken_over.is_none() {
            let limit = usize::from(self.config.limit.clients);
            let fatal = quota("limit_clients").full(limit, "limit.clients");
            return Ok(self.refuse(now, slot, connect, fatal));
        }
        if let Some(limit) = self.listener_full(slot, taken_over) {
            let fatal = quota("listener_max_clients").full(limit, "listener.NAME.max_clients");
            return Ok(self.refuse(now, slot, connect, fatal));
        }
        if let Some(old) = taken_over {
            if self.conn(old).version == Version::V5 {
                self.say_goodbye(old, Reason::TAKEN_OVER);
            }
            self.client_gone(now, old, "taken_over", true);
        }
        if connect.clean_start
            && let Some(old) = self.sessions.find(client_id)
        {
            self.end_session(now, old);
        }
        let (session, present) = match self.sessions.find(client_id) {
            Some(session) => (session, true),
            None => {
                let proved = connect.username.filter(|_| self.access.users().is_some());
                let asks = Asks {
                    client_id,
                    holder: holder(proved, self.conn(slot).peer.ip()),
                    keeps: !self.granted_expiry(connect).is_zero(),
                };
                match self.open_session(now, &asks) {
                    Ok(session) => (session, false),
                    Err(word) => {
                        let fatal = self.no_session(word);
                        return Ok(self.refuse(now, slot, connect, fatal));
                    }
                }
            }
        };
        self.clients += 1;
        let conn = self.conn_mut(slot);
        conn.counted = true;
        conn.role = Role::Client { session };
        self.counters.clients_max = self.counters.clients_max.max(self.clients);
        self.begin_session(now, slot, session, connect, client_id, present)?;
        Ok(Step::Done)
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), Fatal> {
        if connect.client_id.is_empty() {
            let allowed = match connect.version {
                Version::V31 => false,
                Version::V311 => connect.clean_start,
                Version::V5 => true,
            };
            if !allowed {
                return Err(Reason::CLIENT_ID_INVALID.into());
            }
        }
        let (size, limit) = (connect.client_id.len(), self.config.limit.client_id_bytes);
        if size > limit {
            let fatal = Fatal::from(Reason::CLIENT_ID_INVALID);
            return Err(fatal.over(size, limit, "limit.client_id_bytes"));
        }
        if connect.properties.authentication_method().is_some() {
            return Err(Reason::BAD_AUTH_METHOD.into());
        }
        if let Some(takes) = connect.properties.maximum_packet_size()
            && let Ok(takes) = usize::try_from(takes)
            && takes < self.connack_bytes(connect)
        {
            let reason = Reason::IMPLEMENTATION_SPECIFIC;
            let fatal = Fatal::new(reason, "maximum_packet_size_too_small");
            // The limit is the client's own.
            return Err(fatal.over(self.connack_bytes(connect), takes, ""));
        }
        if let Some(will) = &connect.will {
            self.check_will(connect.client_id, will)?;
        }
        if self.stop.is_some() {
            return Err(Reason::SERVER_UNAVAILABLE.into());
        }
        Ok(())
    }

    /// How large the CONNACK of success will be.
    fn connack_bytes(&self, connect: &Connect<'_>) -> usize {
        let (expiry, keepalive) = (self.granted_expiry(connect), self.granted_keepalive(connect));
        let like = assigned_id(0);
        let mut buffer = [0; 256];
        let said = self.connack_properties(connect, &like, expiry, keepalive, &mut buffer);
        // Header, flags, code and the properties' length take a byte each, and Remaining Length.
        5 + said.as_bytes().len()
    }

    /// Has the listener all the clients it may have, whose place is taken over aside?
    /// Then how many.
    fn listener_full(&self, slot: u16, taken_over: Option<u16>) -> Option<usize> {
        let listener = self.conn(slot).listener;
        let max = usize::from(self.config.listeners.get(usize::from(listener))?.max_clients?);
        let mine = (0..self.client_slots)
            .filter(|at| Some(*at) != taken_over)
            .map(|at| self.conn(at))
            .filter(|conn| conn.counted && conn.listener == listener)
            .count();
        (mine >= max).then_some(max)
    }

    fn begin_session(
        &mut self,
        now: Instant,
        slot: u16,
        session: u16,
        connect: &Connect<'_>,
        client_id: &str,
        present: bool,
    ) -> Result<(), Fatal> {
        let is_v5 = connect.version == Version::V5;
        let expiry = self.granted_expiry(connect);
        let keepalive = self.granted_keepalive(connect);
        let will = connect.will.as_ref().map(will_of);
        let entry = &mut self.sessions[session];
        if entry.user.as_deref() != connect.username {
            entry.user = connect.username.map(str::to_owned);
            entry.recheck = present;
            entry.dirty = true;
        }
        let present = present && !entry.in_doubt;
        // One that resumes may have another in mind: should this CONNACK be lost, the next says it.
        entry.in_doubt |= !present && !connect.clean_start && !expiry.is_zero();
        entry.conn = Some(slot);
        let before = core::mem::replace(&mut entry.version, connect.version);
        entry.dirty |= entry.expiry != expiry || !present;
        entry.expiry = expiry;
        entry.expires_at = Instant::NEVER;
        // An older one that has found no room yet is what would have been said for a client that is
        // here again; one that was not due is over [MQTT-3.1.3-9].
        let unsaid = entry.will_at <= now && entry.will.is_some();
        entry.will = will;
        entry.will_at = Instant::NEVER;
        if unsaid {
            self.count_lost(DropReason::QueueFull.word());
        }
        self.forget_will(client_id);
        self.make_room_for_wills(now);
        // Before MQTT 5 there are no options but this bit, and it is the connection's: one that
        // comes back without it is no bridge any more. Those of an MQTT 5 session are its own.
        if connect.bridge || before != Version::V5 && !is_v5 {
            let changed = self.subs.set_bridge(session, connect.bridge);
            self.sessions[session].dirty |= changed;
        }
        let window = connect.properties.receive_maximum().unwrap_or(u16::MAX);
        let conn = self.conn_mut(slot);
        conn.bridge = connect.bridge;
        conn.keepalive = keepalive * 3 / 2;
        conn.wants_problems = connect.properties.request_problem_information() != Some(false);
        conn.aliases_max = connect.properties.topic_alias_maximum().unwrap_or(0);
        let addr = conn.peer;
        if keepalive > Duration::ZERO {
            let at = now.plus(keepalive * 3 / 2);
            self.due_by(at);
        }
        let dest = self.session_dest(session);
        self.queue.set_persistent(dest, expiry > Duration::ZERO);
        self.queue.connected(dest, present, window, now);
        self.session_hears_sys(now, session);
        let mut buffer = [0; 256];
        let properties = if is_v5 {
            self.connack_properties(connect, client_id, expiry, keepalive, &mut buffer)
        } else {
            Properties::EMPTY
        };
        let session_present = present && connect.version != Version::V31;
        let connack = Connack { session_present, code: 0, properties };
        // What it says of the session must be what the store says after a crash.
        let durable = self.has_promise(session) || !self.forgotten.is_empty();
        if self.reply_durable(slot, &Packet::Connack(connack), durable, true) == Step::Stall {
            return Err(Reason::UNSPECIFIED.into());
        }
        self.note(Note::ClientConnected {
            client: text(client_id),
            addr,
            version: version_word(connect.version),
            clean_start: connect.clean_start,
            session_present: present,
            keepalive_s: connect.keepalive,
        });
        Ok(())
    }

    /// A client speaks behind its CONNACK: it has heard that its session is a new one.
    pub(super) fn client_speaks(&mut self, slot: u16, session: u16) {
        if !self.sessions[session].in_doubt {
            return;
        }
        let conn = self.conn(slot);
        if conn.control_left() == 0 && !conn.is_mute(self.rows_saved) {
            let entry = &mut self.sessions[session];
            entry.in_doubt = false;
            entry.dirty = true;
        }
    }

    fn granted_expiry(&self, connect: &Connect<'_>) -> Duration {
        let bound = self.config.session_expiry;
        match connect.version {
            Version::V5 => {
                let asked = connect.properties.session_expiry().unwrap_or(0);
                if asked == u32::MAX { bound } else { bound.min(seconds(asked)) }
            }
            Version::V31 | Version::V311 if connect.clean_start => Duration::ZERO,
            Version::V31 | Version::V311 => bound,
        }
    }

    fn granted_keepalive(&self, connect: &Connect<'_>) -> Duration {
        let asked = seconds(u32::from(connect.keepalive));
        match self.config.limit.keepalive_max {
            Some(max) if connect.version == Version::V5 && (asked > max || asked.is_zero()) => max,
            _ => asked,
        }
    }

    fn connack_properties<'a>(
        &self,
        connect: &Connect<'_>,
        client_id: &str,
        expiry: Duration,
        keepalive: Duration,
        buffer: &'a mut [u8; 256],
    ) -> Properties<'a> {
        // No Response Information: nobody here knows by which topics a remote's answers come back,
        // and it may be left out even when asked for (3.1.2.11.6).
        let mut list: heapless::Vec<Property<'_>, 8> = heapless::Vec::new();
        let mut add = |property| {
            // Eight places for at most seven.
            let _ = list.push(property);
        };
        let granted = fit(expiry.as_secs(), "seconds of a session");
        if connect.properties.session_expiry().unwrap_or(0) != granted {
            add(Property::SessionExpiry(granted));
        }
        add(Property::ReceiveMaximum(self.config.limit.inflight));
        let packet_bytes = fit(self.config.limit.packet_bytes, "limit.packet_size");
        add(Property::MaximumPacketSize(packet_bytes));
        add(Property::TopicAliasMaximum(TOPIC_ALIASES));
        if keepalive != seconds(u32::from(connect.keepalive)) {
            add(Property::ServerKeepalive(fit(keepalive.as_secs(), "a keepalive")));
        }
        if connect.client_id.is_empty() {
            add(Property::AssignedClientId(client_id));
        }
        properties(&list, buffer)
    }

    pub(super) fn client_disconnect(
        &mut self,
        now: Instant,
        slot: u16,
        session: u16,
        disconnect: &Disconnect<'_>,
    ) -> Result<Step, Fatal> {
        if let Some(asked) = disconnect.properties.session_expiry() {
            let entry = &mut self.sessions[session];
            if entry.expiry.is_zero() && asked != 0 {
                return Err(Reason::PROTOCOL_ERROR.into()); // [MQTT-3.1.2-23]
            }
            let expiry = self.config.session_expiry.min(seconds(asked));
            entry.dirty |= expiry != entry.expiry;
            entry.expiry = expiry;
            if asked == 0 {
                let dest = self.session_dest(session);
                self.queue.set_persistent(dest, false);
            }
        }
        // With any other reason the client goes as if it were lost [MQTT-3.14.4-3].
        if disconnect.reason == Reason::SUCCESS {
            self.sessions[session].will = None;
        }
        self.client_gone(now, slot, "disconnect", false);
        Ok(Step::Done)
    }

    /// A client's connection is over; its session may live on.
    pub(super) fn client_gone(
        &mut self,
        now: Instant,
        slot: u16,
        reason: &'static str,
        flush: bool,
    ) {
        let Role::Client { session } = self.conn(slot).role else { return };
        self.clients -= 1;
        self.conn_mut(slot).counted = false;
        let dest = self.session_dest(session);
        self.remember_client(now, slot, session);
        self.close(now, slot, flush);
        self.queue.disconnected(dest);
        if !self.sessions[session].expiry.is_zero() {
            // Nobody may come back for them, and they are in RAM only.
            self.queue.drop_zero(dest, DropReason::Offline);
        }
        let addr = self.conn(slot).peer;
        let entry = &mut self.sessions[session];
        entry.conn = None;
        entry.left_at = now;
        entry.expires_at = now.plus(entry.expiry);
        if let Some(will) = &entry.will {
            entry.will_at = now.plus(will.delay.min(entry.expiry));
        }
        let at_once = entry.will_at <= now;
        let due = entry.expires_at.min(entry.will_at);
        let client = text(&entry.client_id);
        self.due_by(due);
        let Blame { size, limit, key, topic, rate } = core::mem::take(&mut self.blame);
        let reason = text(reason);
        let note = Note::ClientDisconnected { client, addr, reason, size, limit, key, topic, rate };
        self.note(note);
        if at_once {
            self.publish_will(now, session);
        }
        if self.sessions[session].expiry.is_zero() {
            self.end_session(now, session);
        }
    }

    pub(super) fn peer_finished(&mut self, now: Instant, id: ConnId) {
        let Some(slot) = self.live(id) else { return };
        match self.conn(slot).role {
            Role::Client { .. } => self.client_gone(now, slot, "peer_closed", false),
            Role::Link { bridge } => self.link_closed(now, slot, bridge, "peer_closed"),
            Role::Greeting => self.gone_unmet(now, slot, "closed_before_connect"),
            Role::Free | Role::Closing => {}
        }
    }

    /// One that never became a session is gone by itself.
    fn gone_unmet(&mut self, now: Instant, slot: u16, word: &'static str) {
        self.turn_away(now, slot, None, None, Fatal::new(Reason::SUCCESS, word));
    }

    pub(super) fn closed(&mut self, now: Instant, id: ConnId, reason: &'static str) {
        let Some(slot) = self.live(id) else { return };
        match self.conn(slot).role {
            Role::Client { .. } => self.client_gone(now, slot, reason, false),
            Role::Link { bridge } => self.link_closed(now, slot, bridge, reason),
            Role::Greeting => self.gone_unmet(now, slot, reason),
            Role::Free | Role::Closing => {}
        }
        self.drop_sending(slot);
        // `client_gone` and `link_lost` asked for a close that has happened already.
        let gone = self.conn(slot).id(slot);
        self.actions
            .retain(|action| !matches!(action, super::Action::Close { conn, .. } if *conn == gone));
        let conn = self.conn_mut(slot);
        conn.parked = 0;
        if core::mem::take(&mut conn.waits) {
            self.parked -= 1;
        }
        self.forget_kept(slot);
        self.conn_mut(slot).role = Role::Free;
    }

    /// Ends a session and everything it has.
    pub(super) fn end_session(&mut self, now: Instant, session: u16) {
        self.publish_or_leave(now, session);
        let dest = self.session_dest(session);
        self.hand_over(session);
        self.subs.remove_session(session);
        self.queue.close(dest, now);
        if self.sessions[session].stored {
            let id = self.sessions[session].client_id.clone();
            self.forget_stored(id);
        }
        self.sessions.remove(session);
    }

    /// Connections that are late; the next time one may be.
    pub(super) fn expire_clients(&mut self, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        for slot in 0..self.conns.len() {
            let Ok(slot) = u16::try_from(slot) else { continue };
            let conn = self.conn_mut(slot);
            if conn.pace_at <= now {
                conn.pace_at = Instant::NEVER;
                self.ready.set(slot);
            } else {
                next = next.min(conn.pace_at);
            }
            let conn = self.conn(slot);
            // What a client cannot send because we do not read, or does not send before it has its
            // CONNACK, is not its silence.
            let held = conn.waits || conn.stalled || conn.is_mute(self.rows_saved);
            let at = match conn.role {
                Role::Greeting => conn.opened_at.plus(CONNECT_WITHIN),
                Role::Client { .. } if !conn.keepalive.is_zero() && !held => {
                    conn.alive_at.plus(conn.keepalive)
                }
                Role::Client { .. } if !conn.keepalive.is_zero() => {
                    let keepalive = conn.keepalive;
                    self.conn_mut(slot).alive_at = now;
                    now.plus(keepalive)
                }
                Role::Client { .. } | Role::Link { .. } | Role::Free | Role::Closing => {
                    Instant::NEVER
                }
            };
            if at > now {
                next = next.min(at);
            } else if matches!(self.conn(slot).role, Role::Greeting) {
                // Only a CONNECT whose password was not looked at in time stalls here.
                let conn = self.conn(slot);
                let fatal = if conn.stalled {
                    let (version, reason) = (conn.version, Reason::SERVER_BUSY);
                    self.owe_refusal(slot, version, reason);
                    Fatal::new(reason, "login_busy")
                } else {
                    Fatal::new(Reason::UNSPECIFIED, "no_connect").after(CONNECT_WITHIN, "")
                };
                self.fail(now, slot, fatal);
            } else {
                let span = self.conn(slot).keepalive;
                self.fail(now, slot, Fatal::from(Reason::KEEPALIVE_TIMEOUT).after(span, ""));
            }
        }
        next
    }

    /// Sessions that end and wills that are due; the next time.
    pub(super) fn expire_sessions(&mut self, now: Instant) -> Instant {
        for session in 0..self.sessions.count() {
            if !self.sessions[session].used {
                continue;
            }
            if self.sessions[session].will_at <= now {
                self.publish_will(now, session);
            }
            if self.sessions[session].used && self.sessions[session].expires_at <= now {
                self.counters.sessions_expired += 1;
                self.end_session(now, session);
            }
        }
        self.sessions.due_at()
    }

    /// Drives the clean stop: everything is committed, then everyone is told, then it is over.
    pub(super) fn expire_stop(&mut self, now: Instant) {
        let Some(stop) = self.stop else { return };
        if stop.exited {
            return;
        }
        for slot in 0..self.client_slots {
            match self.conn(slot).role {
                Role::Client { .. } => {
                    if self.conn(slot).version == Version::V5 {
                        self.say_goodbye(slot, Reason::SHUTTING_DOWN);
                    }
                    self.client_gone(now, slot, "stopping", true);
                }
                Role::Greeting => self.gone_unmet(now, slot, "stopping"),
                Role::Link { .. } | Role::Free | Role::Closing => {}
            }
        }
        self.stop_links(now);
        let open = self.conns.iter().any(|conn| conn.role != Role::Free);
        let flushed = self.queue.is_flushed();
        if (open || !flushed) && now < stop.deadline {
            self.due_by(now.plus(Duration::from_millis(20)));
            return;
        }
        debug_assert!(self.links.iter().all(|link| link.state == State::Stopped));
        let lost = self.queue.unsaved();
        let duration_ms = millis(now.since(stop.since));
        self.give_up_wills();
        self.queue.report_drops();
        while let Some(note) = self.queue.poll_note() {
            self.note(note);
        }
        self.note(Note::Stopped { lost, duration_ms });
        self.actions.push_back(super::Action::Exit { lost });
        self.stop = Some(super::Stop { exited: true, ..stop });
    }
}

/// The client id of one that brought none.
fn assigned_id(number: u64) -> String {
    format!("auto-{number:016x}")
}

/// Refused because this limit leaves no room.
pub(super) fn quota(word: &'static str) -> Fatal {
    Fatal::new(Reason::QUOTA_EXCEEDED, word)
}

pub(super) fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

pub(super) fn version_word(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}
