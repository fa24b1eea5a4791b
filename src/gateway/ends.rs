//! Places for connections, and ends by our hand: why a connection is closed or a CONNECT refused,
//! what it was about, how large that was, which limit it met and by which key that can be changed.
//! The peer hears it in its own version where that has a word for it, the log always.

use super::Gateway;
use super::conn::Role;
use super::receive::Step;
use super::verbs::Action;
use crate::bridge::blame::Ending;
use crate::fit::{capped, wide};
use crate::limits::{CLOSE_SURE, CLOSE_WITHIN, CONNECT_SURE, CONNECT_WITHIN};
use crate::mqtt::props::Properties;
use crate::mqtt::{
    Connack, Connect, Fault, Frame, Malformed, PACKET_BYTES_MAX, Packet, Reason, Version, frame,
};
use crate::note::{Note, Text, named, text};
use crate::vocab::{ConnId, Instant};
use core::net::SocketAddr;
use core::time::Duration;

/// Packet types, the upper half of the first byte (2.1.2).
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;

/// A limit that was met, what met it, and the key that sets it: empty when none does. `NAME` in it
/// stands for the name of a listener or bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub size: Option<u64>,
    pub limit: Option<u64>,
    pub key: &'static str,
}

/// Why a connection ends by our hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fatal {
    pub reason: Reason,
    pub word: &'static str,
    pub bound: Option<Bound>,
    /// Bytes a second, where that was too few.
    pub rate: Option<u64>,
}

impl Fatal {
    pub(super) fn new(reason: Reason, word: &'static str) -> Self {
        Self { reason, word, bound: None, rate: None }
    }

    /// `size` was more than `limit`, which `key` sets.
    pub(super) fn over(self, size: usize, limit: usize, key: &'static str) -> Self {
        let bound = Bound { size: Some(wide(size)), limit: Some(wide(limit)), key };
        Self { bound: Some(bound), ..self }
    }

    /// As many as `limit` are there already.
    pub(super) fn full(self, limit: usize, key: &'static str) -> Self {
        Self { bound: Some(Bound { size: None, limit: Some(wide(limit)), key }), ..self }
    }

    /// `key` decides, and it is no number.
    pub(super) fn by(self, key: &'static str) -> Self {
        Self { bound: Some(Bound { size: None, limit: None, key }), ..self }
    }

    /// It took longer than this, in whole seconds.
    pub(super) fn after(self, span: Duration, key: &'static str) -> Self {
        // Nothing is waited for longer than can be said.
        self.full(capped(span.as_secs()), key)
    }

    /// What the reason code does not say.
    fn why(&self) -> Option<&'static str> {
        (self.word != self.reason.word()).then_some(self.word)
    }
}

impl From<Reason> for Fatal {
    fn from(reason: Reason) -> Self {
        Self::new(reason, reason.word())
    }
}

impl From<Fault> for Fatal {
    fn from(fault: Fault) -> Self {
        Self::new(fault.reason(), fault.word())
    }
}

impl From<Malformed> for Fatal {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.reason(), malformed.fault.word())
    }
}

/// What a line about an end says of its cause.
#[derive(Clone, Debug, Default)]
pub(super) struct Blame {
    pub size: Option<u64>,
    pub limit: Option<u64>,
    pub key: Option<Text>,
    pub topic: Option<Text>,
    pub rate: Option<u64>,
}

impl Blame {
    pub(super) fn of(bound: Option<Bound>, name: &str, topic: Option<Text>) -> Self {
        let key = bound.map(|bound| bound.key).filter(|key| !key.is_empty());
        Self {
            size: bound.and_then(|bound| bound.size),
            limit: bound.and_then(|bound| bound.limit),
            key: key.map(|key| named(key, name)),
            topic,
            rate: None,
        }
    }
}

impl Gateway {
    /// A local client connected. `None`: there is not even a slot to refuse it with.
    pub fn accept(&mut self, now: Instant, listener: u16, peer: SocketAddr) -> Option<ConnId> {
        self.now = now;
        let slot = (0..self.client_slots)
            .find(|slot| self.conns[usize::from(*slot)].role == Role::Free)?;
        let conn = &mut self.conns[usize::from(slot)];
        conn.open(Role::Greeting, peer, now);
        conn.listener = listener;
        let id = conn.id(slot);
        self.counters.sockets += 1;
        self.heard.clear(slot);
        self.told.clear(slot);
        self.due_by(now.plus(CONNECT_WITHIN));
        Some(id)
    }

    /// Is there a place for one more client? Whoever was told why it is closed makes room first,
    /// then the oldest of those that have not said CONNECT. `Err`: when to ask again; NEVER when
    /// all are in use.
    pub fn room(&mut self, now: Instant) -> Result<(), Instant> {
        let slots = || (0..self.client_slots).map(|slot| (slot, self.conn(slot)));
        if slots().any(|(_, conn)| conn.role == Role::Free) {
            return Ok(());
        }
        let told = slots().filter(|(_, conn)| conn.role == Role::Closing);
        let told = told
            .map(|(slot, conn)| (conn.closing_at.plus(CLOSE_SURE), slot))
            .min_by_key(|(sure_until, _)| *sure_until);
        // One whose password is being looked at has said it.
        let silent = slots().filter(|(_, conn)| conn.role == Role::Greeting && !conn.greeted);
        let silent = silent
            .map(|(slot, conn)| (conn.opened_at.plus(CONNECT_SURE), slot))
            .min_by_key(|(sure_until, _)| *sure_until);
        let Some(sure_until) = [told, silent].into_iter().flatten().map(|(at, _)| at).min() else {
            return Err(Instant::NEVER);
        };
        if sure_until > now {
            return Err(sure_until);
        }
        if let Some((_, slot)) = told.filter(|(sure_until, _)| *sure_until <= now) {
            let conn = self.conn(slot).id(slot);
            self.actions.push_back(Action::Close { conn, after_flush: false, deadline: now });
        } else if let Some((_, slot)) = silent {
            let limit = usize::from(self.client_slots);
            let fatal = Fatal::new(Reason::SERVER_BUSY, "place_needed");
            self.turn_away(now, slot, None, None, fatal.full(limit, "limit.clients"));
        }
        Err(now)
    }

    /// Unpins the packet that is half written.
    pub(super) fn drop_sending(&mut self, slot: u16) {
        if let Some(sending) = self.conn_mut(slot).sending.take() {
            self.queue.pool.release(sending.record);
        }
    }

    /// Ends a connection for what the peer did, and says why.
    pub(super) fn fail(&mut self, now: Instant, slot: u16, fatal: Fatal) {
        self.fail_over(now, slot, fatal, &[]);
    }

    /// The same for a packet, as far as it is here.
    pub(super) fn fail_over(&mut self, now: Instant, slot: u16, fatal: Fatal, packet: &[u8]) {
        let version = self.conn(slot).version;
        let topic = topic_of(packet, version);
        match self.conn(slot).role {
            Role::Link { bridge } => {
                if version == Version::V5 && self.link_is_up(bridge, slot) {
                    self.say_goodbye_because(slot, fatal.reason, fatal.why());
                }
                let name = self.bridge_name(bridge);
                self.blame = Blame::of(fatal.bound, &name, topic);
                self.link_lost(now, slot, bridge, fatal.word, Ending::Other);
                self.blame = Blame::default();
            }
            Role::Client { .. } => {
                if version == Version::V5 {
                    self.say_goodbye_because(slot, fatal.reason, fatal.why());
                }
                self.blame = Blame { rate: fatal.rate, ..Blame::of(fatal.bound, "", topic) };
                self.client_gone(now, slot, fatal.word, true);
                self.blame = Blame::default();
            }
            Role::Greeting => {
                if fatal.reason == Reason::PACKET_TOO_LARGE {
                    self.refuse_unread_connect(slot, fatal.reason, packet);
                }
                self.turn_away(now, slot, None, None, fatal);
            }
            Role::Free | Role::Closing => {}
        }
    }

    /// A CONNECT that is refused: its sender is told in its own version.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        slot: u16,
        connect: &Connect<'_>,
        fatal: Fatal,
    ) -> Step {
        self.owe_refusal(slot, connect.version, fatal.reason);
        let will = connect.will.as_ref().filter(|_| fatal.reason == Reason::TOPIC_NAME_INVALID);
        self.blame.topic = will.map(|will| text(will.topic));
        self.turn_away(now, slot, Some(connect.client_id), connect.username, fatal);
        Step::Done
    }

    /// Closes a connection that has no session, when everything owed to it is written.
    pub(super) fn turn_away(
        &mut self,
        now: Instant,
        slot: u16,
        client: Option<&str>,
        user: Option<&str>,
        fatal: Fatal,
    ) {
        let topic = self.blame.topic.take();
        let conn = self.conn(slot);
        let addr = conn.peer;
        let listener = self.config.listeners.get(usize::from(conn.listener));
        let name = listener.map_or("", |listener| listener.name.as_str());
        let Blame { size, limit, key, .. } = Blame::of(fatal.bound, name, None);
        let note = Note::ClientRefused {
            client: text(client.or(conn.called.as_deref()).unwrap_or("-")),
            addr,
            reason: text(fatal.word),
            user: user.map(text),
            size,
            limit,
            key,
            topic,
            rate: fatal.rate,
        };
        self.note(note);
        self.close(now, slot, true);
    }

    pub(super) fn owe_refusal(&mut self, slot: u16, version: Version, reason: Reason) {
        let code = match version {
            Version::V5 => reason.0,
            Version::V31 | Version::V311 => match reason {
                Reason::UNSUPPORTED_VERSION => 1,
                Reason::CLIENT_ID_INVALID => 2,
                Reason::BAD_CREDENTIALS => 4,
                Reason::NOT_AUTHORIZED => 5,
                _ => 3,
            },
        };
        let connack = Connack { session_present: false, code, properties: Properties::EMPTY };
        // Nothing else is owed to one that is not let in.
        let _ = self.reply(slot, &Packet::Connack(connack));
    }

    /// A CONNECT that cannot be read is answered where the version says how.
    pub(super) fn refuse_malformed_connect(
        &mut self,
        slot: u16,
        malformed: &Malformed,
        bytes: &[u8],
    ) {
        if let Fault::Character { found } = malformed.fault {
            return self.refuse_unwelcome_connect(slot, found, bytes);
        }
        let version = match (malformed.fault, version_of(bytes)) {
            (Fault::UnsupportedVersion { answer }, _) => answer,
            // Only MQTT 5 has codes for it; others learn it from the close.
            (_, Some(Version::V5)) => Version::V5,
            _ => return,
        };
        self.conn_mut(slot).version = version;
        self.owe_refusal(slot, version, malformed.reason());
    }

    /// The same for one that is right, as far as it is here, and not read on.
    fn refuse_unread_connect(&mut self, slot: u16, reason: Reason, bytes: &[u8]) {
        if let Some(version) = version_of(bytes) {
            self.conn_mut(slot).version = version;
            self.owe_refusal(slot, version, reason);
        }
    }

    /// Lets the shell close a connection; nothing of it counts from here on.
    pub(super) fn close(&mut self, now: Instant, slot: u16, after_flush: bool) {
        let cut = self.conn(slot).sending.is_some();
        self.drop_sending(slot);
        let conn = self.conn_mut(slot);
        if matches!(conn.role, Role::Free | Role::Closing) {
            return;
        }
        if cut {
            // Last words inside a half-written PUBLISH would be its payload.
            conn.forget_control();
        }
        let after_flush = after_flush && !cut;
        conn.role = Role::Closing;
        conn.closing_at = now;
        conn.forget_debts();
        conn.parked = 0;
        let was_parked = core::mem::take(&mut conn.waits);
        conn.subscribing = None;
        let action =
            Action::Close { conn: conn.id(slot), after_flush, deadline: now.plus(CLOSE_WITHIN) };
        if was_parked {
            self.parked -= 1;
        }
        self.actions.push_back(action);
        self.forget_kept(slot);
        self.ready.set(slot);
    }

    /// A packet beyond `limit.packet_size`, of which only the beginning is here.
    pub(super) fn too_large(&self, fault: Malformed, bytes: &[u8]) -> Fatal {
        let fatal = Fatal::from(fault);
        if fault.fault != Fault::TooLarge {
            return fatal;
        }
        let size = match frame(bytes, PACKET_BYTES_MAX) {
            Ok(Frame::Complete { packet_bytes }) => packet_bytes,
            Ok(Frame::Incomplete { packet_bytes: Some(packet_bytes) }) => packet_bytes,
            Ok(Frame::Incomplete { packet_bytes: None }) | Err(_) => return fatal,
        };
        fatal.over(size, self.config.limit.packet_bytes, "limit.packet_size")
    }
}

/// Where a packet's variable header begins, when its length is here.
fn body_at(bytes: &[u8]) -> Option<usize> {
    let length_bytes = bytes.get(1..)?.iter().take(4).position(|byte| *byte < 0x80)? + 1;
    Some(1 + length_bytes)
}

/// The protocol version in the first bytes of a CONNECT.
fn version_of(bytes: &[u8]) -> Option<Version> {
    let body = &bytes[body_at(bytes)?..];
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Version::V5),
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Some(Version::V311),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, ..] => Some(Version::V31),
        _ => None,
    }
}

/// The topic of a PUBLISH, or the first filter of a SUBSCRIBE or UNSUBSCRIBE, as far as it is here
/// and can be read.
pub(super) fn topic_of(packet: &[u8], version: Version) -> Option<Text> {
    let mut at = body_at(packet)?;
    match packet.first()? >> 4 {
        PUBLISH => {}
        SUBSCRIBE | UNSUBSCRIBE => {
            at += 2;
            if version == Version::V5 {
                let bytes = packet.get(at..)?.iter().take(4).position(|byte| *byte < 0x80)?;
                let digits = packet[at..=at + bytes].iter().rev();
                at += digits.fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7F)) + bytes + 1;
            }
        }
        _ => return None,
    }
    let length = packet.get(at..at.checked_add(2)?)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let rest = &packet[at + 2..];
    let bytes = &rest[..length.min(rest.len())];
    let readable = match core::str::from_utf8(bytes) {
        Ok(readable) => readable,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?,
    };
    (!readable.is_empty()).then(|| text(readable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_is_found_in_what_is_here() {
        let publish = [0x32, 0xA9, 0x02, 0, 3, b't', b'/', b'a', 0, 7];
        let found = |packet: &[u8], version| topic_of(packet, version).map(|t| t.to_string());
        assert_eq!(found(&publish, Version::V5).as_deref(), Some("t/a"));
        assert_eq!(found(&publish[..7], Version::V5).as_deref(), Some("t/"));
        for len in 0..=5 {
            assert_eq!(found(&publish[..len], Version::V5), None, "{len}");
        }
        let not_text = [0x30, 6, 0, 4, b'o', b'k', 0xFF, 0xFE];
        assert_eq!(found(&not_text, Version::V311).as_deref(), Some("ok"));
        let subscribe = [0x82, 9, 0, 1, 2, 0x0B, 1, 0, 1, b'#', 0];
        assert_eq!(found(&subscribe, Version::V5).as_deref(), Some("#"));
        let subscribe = [0x82, 6, 0, 1, 0, 1, b'#', 0];
        assert_eq!(found(&subscribe, Version::V311).as_deref(), Some("#"));
        // Properties that reach past the end.
        assert_eq!(found(&[0x82, 9, 0, 1, 0xFF, 0xFF, 0x7F, 0], Version::V5), None);
        assert_eq!(found(&[0x82, 9, 0, 1, 0xFF, 0xFF], Version::V5), None);
        assert_eq!(found(&[0xC0, 0], Version::V5), None);
    }

    #[test]
    fn the_version_is_read_from_the_first_bytes() {
        let connect = |name: &[u8], level: u8| {
            let mut packet = vec![0x10, 0x80, 0x80, 0x04, 0, u8::try_from(name.len()).unwrap()];
            packet.extend_from_slice(name);
            packet.push(level);
            packet
        };
        assert_eq!(version_of(&connect(b"MQTT", 5)), Some(Version::V5));
        assert_eq!(version_of(&connect(b"MQTT", 4)), Some(Version::V311));
        assert_eq!(version_of(&connect(b"MQIsdp", 3)), Some(Version::V31));
        assert_eq!(version_of(&connect(b"MQTT", 6)), None);
        assert_eq!(version_of(&connect(b"MQTT", 5)[..9]), None);
    }
}
