//! Who is let in, and what each client may do: the questions that the other files ask before they
//! act. The answers come from `broker::access` and `broker::logins`.
//!
//! A session has the user of its last CONNECT, over restarts too. Rules are asked when a message is
//! routed. What was queued under other rules or for another user is judged again when it leaves.

use super::Gateway;
use super::conn::{Role, Sending};
use super::ends::{Blame, Bound};
use super::receive::{Fatal, Step};
use crate::broker::access::Right;
use crate::broker::logins::Verdict;
use crate::broker::retained::Retained;
use crate::config::{Auth, Users};
use crate::limits::{LOGINS_WAITING_MAX, USER_BYTES_MAX};
use crate::mqtt::{Connect, Publish, Qos, Reason, topic};
use crate::note::{Note, Text, text};
use crate::queue::DropReason;
use crate::queue::outbox::DestId;
use crate::queue::pool::RecordId;
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// The place of messages that are kept from a subscriber, among the kinds of denials.
const RECEIVE: usize = 2;

/// One client's denials of one kind are told so often.
const DENIED_EVERY: Duration = Duration::from_secs(60);

impl Gateway {
    /// Other users and access rules from here on, or doors that are open to others (a reload). A
    /// password that is being looked at is compared with the new file, from the beginning.
    pub fn set_auth(&mut self, now: Instant, auth: Auth) {
        let old = self.access.replace(auth);
        for session in 0..self.sessions.count() {
            self.sessions[session].recheck = true;
        }
        self.logins.start_over();
        for slot in 0..self.client_slots {
            if !self.is_still_let_in(slot, old.users.as_deref()) {
                self.fail(now, slot, Reason::NOT_AUTHORIZED.into());
            }
        }
    }

    /// Would a client that is connected be let in again with what it has said? Its password is not
    /// known any more: a user with another line in the file has another one.
    fn is_still_let_in(&self, slot: u16, old: Option<&Users>) -> bool {
        let conn = self.conn(slot);
        let Role::Client { session } = conn.role else { return true };
        let listener = self.config.listeners.get(usize::from(conn.listener));
        let anonymous = listener.is_some_and(|listener| listener.anonymous);
        match (&self.sessions[session].user, self.access.users()) {
            (Some(name), Some(users)) => {
                let user = users.find(name);
                user.is_some() && user == old.and_then(|old| old.find(name))
            }
            (Some(_), None) | (None, _) => anonymous,
        }
    }

    /// Ok(false): its password is looked at later, and the CONNECT has to be presented again.
    pub(super) fn let_in(
        &mut self,
        now: Instant,
        slot: u16,
        connect: &Connect<'_>,
    ) -> Result<bool, Fatal> {
        let conn = self.conn(slot);
        let (id, from) = (conn.id(slot), conn.peer.ip());
        let listener = self.config.listeners.get(usize::from(conn.listener));
        let anonymous = listener.is_some_and(|listener| listener.anonymous);
        let Some(user) = connect.username else {
            let refused = Fatal::from(Reason::NOT_AUTHORIZED).by("listener.NAME.anonymous");
            return if anonymous { Ok(true) } else { Err(refused) };
        };
        if user.len() > USER_BYTES_MAX {
            // No key: users of the password file have no longer names either.
            let fatal = Fatal::new(Reason::BAD_CREDENTIALS, "user_too_long");
            return Err(fatal.over(user.len(), USER_BYTES_MAX, ""));
        }
        let wrong = Fatal::from(Reason::BAD_CREDENTIALS).by("auth.password_file");
        let Some(users) = self.access.users() else {
            return if anonymous { Ok(true) } else { Err(wrong) };
        };
        let password = connect.password.unwrap_or(b"");
        match self.logins.ask(now, id, from, users, user, password) {
            Verdict::Right => Ok(true),
            Verdict::Wait => Ok(false),
            Verdict::Wrong => Err(wrong),
            Verdict::Slowed => Err(Fatal::new(Reason::RATE_EXCEEDED, "login_slowed")),
            Verdict::Busy => {
                let busy = Fatal::new(Reason::SERVER_BUSY, "login_busy");
                Err(busy.full(LOGINS_WAITING_MAX, ""))
            }
        }
    }

    /// Goes on with the password at hand, and presents a CONNECT again whose turn it is.
    pub(super) fn expire_logins(&mut self, now: Instant) {
        let conns = &self.conns;
        let is_open = |id: crate::vocab::ConnId| {
            conns
                .get(usize::from(id.slot))
                .is_some_and(|conn| conn.generation == id.generation && conn.role == Role::Greeting)
        };
        if let Some(id) = self.logins.work(now, is_open) {
            self.conn_mut(id.slot).stalled = false;
            self.resume.set(id.slot);
        }
    }

    pub(super) fn may(&self, session: u16, right: Right, topic: &str) -> bool {
        self.access.may(self.sessions[session].who(), right, topic)
    }

    /// One that was taken already is only acknowledged again, whatever the rules say now.
    pub(super) fn may_publish(&self, session: u16, publish: &Publish<'_>) -> bool {
        let owner = self.session_dest(session);
        let again = publish.qos == Qos::ExactlyOnce
            && publish.packet_id.is_some_and(|id| self.queue.recv.contains(owner.0, id.raw()));
        again || self.may(session, Right::Write, publish.topic)
    }

    /// Acknowledged, in MQTT 5 with the reason, and not passed on.
    pub(super) fn deny(&mut self, slot: u16, publish: &Publish<'_>) -> Step {
        if let Role::Client { session } = self.conn(slot).role {
            self.denied(session, "publish", publish.topic);
        }
        self.swallow_as(slot, publish, DropReason::NotAuthorized.word(), Reason::NOT_AUTHORIZED)
    }

    /// The access rules keep a client from something. Told once a minute for each kind: rules that
    /// say no may do so for every message.
    pub(super) fn denied(&mut self, session: u16, what: &'static str, topic: &str) {
        let now = self.now;
        let kind = match what {
            "publish" => 0,
            "subscribe" => 1,
            "receive" => RECEIVE,
            _ => 3,
        };
        let entry = &mut self.sessions[session];
        let (count, told_at) = &mut entry.denied[kind];
        // A message that waits is judged again and again.
        *count = if kind == RECEIVE { 1 } else { *count + 1 };
        if *told_at != Instant::ZERO && now < told_at.plus(DENIED_EVERY) {
            return;
        }
        *told_at = now;
        let note = Note::Denied {
            count: core::mem::take(count),
            client: text(&entry.client_id),
            what,
            topic: text(topic),
            user: entry.user.as_deref().map(text),
            key: "auth.acl_file",
        };
        self.note(note);
    }

    /// Counts a will that goes nowhere.
    pub(super) fn count_lost(&mut self, reason: &'static str) {
        self.note_lost(reason, "local", None, None, None);
    }

    /// Counts and tells of one message that goes nowhere.
    pub(super) fn note_lost(
        &mut self,
        reason: &'static str,
        destination: &str,
        from: Option<Text>,
        bound: Option<Bound>,
        topic: Option<Text>,
    ) {
        self.queue.counters.drops += 1;
        let Blame { size, limit, key, topic, .. } = Blame::of(bound, destination, topic);
        let destination = text(destination);
        let note = Note::Drop { reason, destination, count: 1, topic, from, size, limit, key };
        self.note(note);
    }

    /// Drops a message that has no topic which its remote could be sent.
    pub(super) fn drop_unmapped(
        &mut self,
        dest: DestId,
        link: Option<BridgeId>,
        sending: &Sending,
    ) {
        let reason = self.why_unmapped(link, sending);
        self.queue.drop_entry(dest, sending.entry, reason);
    }

    fn why_unmapped(&mut self, link: Option<BridgeId>, sending: &Sending) -> DropReason {
        let Some(bridge) = link else { return DropReason::NoRule };
        let rules = &self.links[usize::from(bridge.0)].rules;
        let Some(rule) = rules.forward.get(usize::from(sending.rule)) else {
            return DropReason::NoRule;
        };
        let bytes = usize::from(self.queue.pool.head(sending.record).topic_bytes);
        let (local, mapped) = self.topic.split_at_mut(bytes);
        self.queue.pool.read(sending.record, 0, local);
        match core::str::from_utf8(local) {
            Ok(local) if rule.mapping.maps_to_nothing(local, mapped) => DropReason::TopicEmpty,
            Ok(_) | Err(_) => DropReason::TopicTooLong,
        }
    }

    /// Who is at the other end: a client or a bridge.
    pub(super) fn name_of(&self, slot: u16) -> Option<Text> {
        match self.conn(slot).role {
            Role::Client { session } => Some(text(&self.sessions[session].client_id)),
            Role::Link { bridge } => Some(self.bridge_name(bridge)),
            Role::Free | Role::Greeting | Role::Closing => None,
        }
    }

    pub(super) fn may_subscribe(&self, session: u16, filter: &str) -> bool {
        let inner = topic::split_shared(filter).map_or(filter, |(_, inner)| inner);
        self.access.may_subscribe(self.sessions[session].who(), inner)
    }

    /// May a message on this topic go to a destination? Bridges have their rules instead.
    pub(super) fn may_be_sent(&self, dest: DestId, topic: &str) -> bool {
        match self.session_of(dest) {
            Some(session) if self.access.has_rules() => self.may(session, Right::Read, topic),
            _ => true,
        }
    }

    fn session_of(&self, dest: DestId) -> Option<u16> {
        let session = usize::from(dest.0).checked_sub(self.links.len())?;
        u16::try_from(session).ok().filter(|session| *session < self.sessions.count())
    }

    pub(super) fn may_read_retained(&mut self, dest: DestId, message: &Retained) -> bool {
        if !self.access.has_rules() {
            return true;
        }
        let mut topics = core::mem::take(&mut self.topic);
        let mut at = 0;
        for piece in self.retained.pieces(message) {
            let take = piece.len().min(message.topic_bytes - at);
            topics[at..at + take].copy_from_slice(&piece[..take]);
            at += take;
        }
        let topic = core::str::from_utf8(&topics[..at]);
        let may = topic.is_ok_and(|topic| self.may_be_sent(dest, topic));
        self.topic = topics;
        may
    }

    /// Is a queued message not for this session any more?
    pub(super) fn is_withheld(&mut self, dest: DestId, record: RecordId) -> bool {
        let recheck = |session: u16| self.sessions[session].recheck;
        if !self.access.has_rules() || !self.session_of(dest).is_some_and(recheck) {
            return false;
        }
        let mut topics = core::mem::take(&mut self.topic);
        let bytes = usize::from(self.queue.pool.head(record).topic_bytes);
        self.queue.pool.read(record, 0, &mut topics[..bytes]);
        let topic = core::str::from_utf8(&topics[..bytes]);
        let may = topic.is_ok_and(|topic| self.may_be_sent(dest, topic));
        self.topic = topics;
        !may
    }
}
