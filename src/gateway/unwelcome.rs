//! Messages, clients and filters whose text nobody else would take: each is refused by itself,
//! answered, counted and named, and whoever sent it stays connected. From a client MQTT 5 has a
//! reason code for it; before, and from a remote, the message is acknowledged so that it does not
//! come again. Read MQTT 5 sections 1.5.4 and 3.4.2.1 first.

use super::Gateway;
use super::conn::Role;
use super::ends::Fatal;
use super::receive::Step;
use crate::limits::TOPIC_ALIASES;
use crate::mqtt::text::{Place, Unwelcome, first_unwelcome, of_message};
use crate::mqtt::{
    Fault, Malformed, PropertyId, Publish, Qos, Reason, Version, refused_connect, refused_publish,
};
use crate::note::{Note, Text, text};
use crate::queue::DropReason;
use crate::vocab::Instant;
use core::fmt::Write;

impl Gateway {
    /// A packet that cannot be taken as it is. A PUBLISH whose text alone is at fault is refused
    /// by itself; everything else ends the connection.
    pub(super) fn refuse_publish(
        &mut self,
        slot: u16,
        bytes: &[u8],
        malformed: Malformed,
        publishes_wait: bool,
        zero_waits: bool,
    ) -> Result<Step, Fatal> {
        let conn = self.conn(slot);
        let (role, version) = (conn.role, conn.version);
        let serves = match role {
            Role::Client { .. } => true,
            Role::Link { bridge } => self.link_is_up(bridge, slot),
            Role::Free | Role::Greeting | Role::Closing => false,
        };
        let from_remote = matches!(role, Role::Link { .. });
        let found = match malformed.fault {
            Fault::Character { found } if serves => found,
            // A client is told by the close; a remote would send it again and again.
            Fault::ResponseTopicInvalid if serves && from_remote => {
                Unwelcome { place: Place::Property(PropertyId::ResponseTopic), character: '#' }
            }
            _ => return Err(malformed.into()),
        };
        let Some(publish) = refused_publish(version, bytes) else { return Err(malformed.into()) };
        if let Role::Client { session } = role {
            self.client_speaks(slot, session);
        }
        self.refuse_text(slot, &publish, found, publishes_wait, zero_waits)
    }

    fn refuse_text(
        &mut self,
        slot: u16,
        publish: &Publish<'_>,
        found: Unwelcome,
        publishes_wait: bool,
        zero_waits: bool,
    ) -> Result<Step, Fatal> {
        let from_remote = matches!(self.conn(slot).role, Role::Link { .. });
        if !from_remote && publish.properties.subscription_id().is_some() {
            return Err(Reason::PROTOCOL_ERROR.into()); // [MQTT-3.3.4-6]
        }
        let alias = publish.properties.topic_alias();
        if alias.is_some_and(|alias| alias > TOPIC_ALIASES || from_remote) {
            return Err(Reason::TOPIC_ALIAS_INVALID.into());
        }
        let park = match alias {
            // Of a remote nothing is left behind in the buffer.
            _ if from_remote => Step::Stall,
            Some(_) => Step::ParkAll,
            None => Step::Park,
        };
        let waits = publishes_wait && publish.qos != Qos::AtMostOnce || zero_waits;
        if waits && !from_remote {
            return Ok(park);
        }
        if let (Some(id), Qos::ExactlyOnce, Some(owner)) =
            (publish.packet_id, publish.qos, self.owner_of(slot))
            && self.queue.recv.contains(owner.0, id.raw())
        {
            // Taken by a version that did not look; its publisher has not heard.
            let taken = self.received_again(owner, slot, id);
            return Ok(if taken { Step::Done } else { park });
        }
        let said = if from_remote { Reason::SUCCESS } else { found.place.reason() };
        if self.swallow_as(slot, publish, DropReason::Text.word(), said) != Step::Done {
            return Ok(park);
        }
        if let (Some(alias), None) = (alias, first_unwelcome(publish.topic))
            && !publish.topic.is_empty()
            && publish.topic.len() <= self.config.limit.topic_bytes
        {
            // The message is refused, not what its alias means from here on.
            self.heard.set(slot, alias, publish.topic);
        }
        self.name_unwelcome(slot, found, publish.topic);
        Ok(Step::Done)
    }

    /// Says in the log what was not taken from a connection.
    pub(super) fn name_unwelcome(&mut self, slot: u16, found: Unwelcome, topic: &str) {
        let (source, name) = match self.conn(slot).role {
            Role::Client { session } => ("client", text(&self.sessions[session].client_id)),
            Role::Link { bridge } => ("bridge", self.bridge_name(bridge)),
            Role::Free | Role::Greeting | Role::Closing => return,
        };
        self.note_unwelcome(source, name, found, topic);
    }

    fn note_unwelcome(&mut self, source: &'static str, name: Text, found: Unwelcome, topic: &str) {
        self.note(Note::TextRefused {
            source,
            name,
            string: found.place.word(),
            character: shown(found),
            topic: text(topic),
        });
    }

    /// A CONNECT that is sound but for its text: the answer in its own version, where that has a
    /// word for it.
    pub(super) fn refuse_unwelcome_connect(&mut self, slot: u16, found: Unwelcome, bytes: &[u8]) {
        let Some(connect) = refused_connect(bytes) else { return };
        self.conn_mut(slot).version = connect.version;
        let topic = connect.will.as_ref().map_or("", |will| will.topic);
        self.note_unwelcome("client", text(connect.client_id), found, topic);
        let before_5 = connect.version != Version::V5;
        if before_5 && !matches!(found.place, Place::ClientId | Place::UserName) {
            // No return code fits: the client learns it from the close.
            return;
        }
        self.owe_refusal(slot, connect.version, found.place.reason());
    }

    /// The filter's first character that is not taken, said in the log.
    pub(super) fn is_unwelcome_filter(&mut self, slot: u16, filter: &str) -> bool {
        let Some(character) = first_unwelcome(filter) else { return false };
        self.name_unwelcome(slot, Unwelcome { place: Place::Filter, character }, filter);
        true
    }

    /// Retained messages of an earlier version that nobody could be sent; to be asked before they
    /// are marked as saved.
    pub(super) fn unwelcome_retained(&mut self) -> Vec<String> {
        let mut topics = Vec::new();
        let (mut cursor, mut body) = (0, Vec::new());
        while let Some((next, change)) = self.retained.next_dirty(cursor) {
            cursor = next;
            let (crate::broker::retained::Change::Set(message)
            | crate::broker::retained::Change::Cleared(message)) = change;
            body.clear();
            for piece in self.retained.pieces(&message) {
                body.extend_from_slice(piece);
            }
            let (topic, rest) = body.split_at(message.topic_bytes);
            let Ok(topic) = core::str::from_utf8(topic) else { continue };
            if let Err(found) = of_message(topic, &rest[..message.properties_bytes]) {
                topics.push(topic.to_owned());
                self.drop_stored("retained", found, topic);
            }
        }
        topics
    }

    /// Filters and sessions of an earlier version with text that is not taken any more.
    pub(super) fn drop_unwelcome_sessions(&mut self, now: Instant) {
        for session in 0..self.sessions.count() {
            if !self.sessions[session].used {
                continue;
            }
            let id = self.sessions[session].client_id.clone();
            if let Some(character) = first_unwelcome(&id) {
                // Nobody can come back for it.
                self.drop_stored(&id, Unwelcome { place: Place::ClientId, character }, "");
                self.end_session(now, session);
                continue;
            }
            let filters = self.subs.of_session(session).map(|(filter, _)| filter.to_owned());
            for filter in filters.collect::<Vec<_>>() {
                if let Some(character) = first_unwelcome(&filter) {
                    let found = Unwelcome { place: Place::Filter, character };
                    self.drop_stored(&id, found, &filter);
                    self.subs.unsubscribe(session, &filter);
                    self.sessions[session].dirty = true;
                }
            }
        }
    }

    fn drop_stored(&mut self, name: &str, found: Unwelcome, topic: &str) {
        self.count_lost(DropReason::Text.word());
        self.note_unwelcome("store", text(name), found, topic);
    }
}

/// `U+0007`.
pub(crate) fn shown(found: Unwelcome) -> Text {
    let mut out = Text::new();
    // `U+10FFFF` at most.
    let _ = write!(out, "{found}");
    out
}
