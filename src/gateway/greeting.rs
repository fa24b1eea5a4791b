//! CONNECT to a remote and its CONNACK: what we ask for, what it allows, and the next lower way to
//! speak when it refuses. Read MQTT 5 sections 3.1 and 3.2 first.

use super::clients::{seconds, version_word};
use super::receive::{Fatal, Step};
use super::replies::properties;
use super::verbs::Action;
use super::{Gateway, State};
use crate::bridge::granted::{Granted, Said};
use crate::bridge::link::Remote;
use crate::bridge::progress::{Progress, Wait};
use crate::fit::{fit, index};
use crate::limits::STABLE_AFTER;
use crate::mqtt::props::{Properties, Property};
use crate::mqtt::{Connack, Connect, Packet, Qos, Reason, Version, Will, topic};
use crate::note::Note;
use crate::queue::peer::PeerId;
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// A version that was refused is tried again after this.
const UPGRADE_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Gateway {
    /// The session that this bridge has at a server.
    fn peer(&self, bridge: BridgeId, server: u16) -> PeerId {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let client_id = &self.link(bridge).client_id;
        let (host, port) = match config.servers.get(usize::from(server)) {
            Some(server) => (server.host.as_str(), server.port),
            None => ("", 0),
        };
        PeerId::new(topic::topic_hash(&format!("{host}:{port} {client_id}")))
    }

    /// Does the link ask for a clean session because ours does not fit the remote's?
    fn asks_clean(&self, bridge: BridgeId, server: u16) -> bool {
        let peer = self.peer(bridge, server);
        // The connection before this one was there only to clear it.
        self.link(bridge).cleared != Some(server)
            && !self.queue.knows_peer(Self::bridge_dest(bridge), peer)
    }

    /// CONNECT, as configured and as far as this remote went along before. `false`: there is no
    /// room for it, which `connect_bytes` rules out.
    pub(super) fn owe_connect(&mut self, slot: u16, bridge: BridgeId, candidate: bool) -> bool {
        let config = self.config.bridges[usize::from(bridge.0)].clone();
        let link = self.link(bridge);
        let version = link.version;
        let server = if candidate { 0 } else { link.dial.server() };
        let clean = config.clean_start || self.asks_clean(bridge, server);
        let client_id = link.client_id.clone();
        let limits = link.will_limits;
        let bridge_bit = link.bridge_bit && version != Version::V5;
        let mut buffer = [0; 64];
        let expiry = fit(config.session_expiry.as_secs(), "seconds of a session");
        let packet_bytes = fit(self.config.limit.packet_bytes, "limit.packet_size");
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
                qos: will.qos.min(limits.qos),
                retain: will.retain && limits.retain,
                properties: Properties::EMPTY,
            }),
            (None, Some(notify)) => Some(Will {
                topic: notify,
                payload: b"0",
                qos: Qos::AtLeastOnce.min(limits.qos),
                retain: limits.retain,
                properties: Properties::EMPTY,
            }),
            (None, None) => None,
        };
        let connect = Connect {
            version,
            bridge: bridge_bit,
            clean_start: clean,
            keepalive: fit(config.keepalive.as_secs(), "a keepalive"),
            client_id: &client_id,
            will,
            username: config.username.as_deref(),
            password: config.password.as_deref(),
            properties,
        };
        let conn = self.conn_mut(slot);
        conn.version = version;
        self.reply(slot, &Packet::Connect(connect)) == Step::Done
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
            self.link_mut(bridge).said = Said::of(&connack.properties);
            let qos_max = Granted::of(&connack.properties).qos_max;
            self.connect_refused(now, slot, bridge, candidate, connack.code, qos_max);
            return Ok(Step::Done);
        }
        let keeps = !self.config.bridges[usize::from(bridge.0)].clean_start;
        let server = if candidate { 0 } else { self.link(bridge).dial.server() };
        if connack.session_present && (!keeps || self.asks_clean(bridge, server)) {
            // A session that we know nothing of [MQTT-3.2.2-4].
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let old = self.conn(slot).version != Version::V5;
        if !candidate && keeps && old && self.asks_clean(bridge, server) {
            // Before MQTT 5 a clean session ends with its connection: this one has cleared what
            // the remote had, the next one asks for a session that lasts.
            self.say_goodbye(slot, Reason::SUCCESS);
            self.close(now, slot, true);
            self.link_mut(bridge).cleared = Some(server);
            self.begin_attempt(now, bridge);
            return Ok(Step::Done);
        }
        if candidate {
            self.fail_back(now, bridge);
        } else {
            self.link_mut(bridge).dial.up(now);
        }
        let session_expiry = self.take_limits(slot, bridge, connack);
        let dest = Self::bridge_dest(bridge);
        let server = self.link(bridge).dial.server();
        let peer = self.peer(bridge, server);
        let link = self.link_mut(bridge);
        link.state = State::Up { conn: id };
        link.cleared = None;
        link.guessed = false;
        link.nudges.done();
        link.up_since = now;
        link.ping_sent = None;
        link.progress = Progress::default();
        link.awaits_ack = Wait::default();
        link.acked_at = now;
        link.held_until = Instant::ZERO;
        link.zero_at = Instant::ZERO;
        link.behind_since = None;
        link.blame.connected();
        link.rules.holds.hurry(now);
        let (window, first) = (link.remote.receive_maximum, link.first);
        let takes_qos2 = link.remote.qos_max == Qos::ExactlyOnce;
        self.queue.set_takes_qos2(dest, takes_qos2);
        let left = self.queue.outbox(dest).peer.is_some_and(|last| last != peer);
        let in_doubt = self.queue.greeted(dest, peer, connack.session_present, window, now);
        if in_doubt > 0 {
            let bridge = self.bridge_name(bridge);
            let reason = if left { "other_server" } else { "session_lost" };
            self.note(Note::Qos2InDoubt { bridge, count: in_doubt, reason });
        }
        let again = !connack.session_present || first;
        // MQTT 3.1 cannot say whether the session is there.
        let has_session = connack.session_present || self.conn(slot).version == Version::V31;
        let link = self.link_mut(bridge);
        link.left.connected(server, has_session);
        link.first = false;
        self.subscribe_again(now, bridge, again, has_session);
        self.send_subscribes(now, slot, bridge);
        self.announce(now, bridge, true);
        self.bridge_hears_sys(now, bridge);
        let note = Note::BridgeUp {
            bridge: self.bridge_name(bridge),
            server: self.server_name(bridge),
            version: version_word(self.link(bridge).version),
            session_present: connack.session_present,
            receive_maximum: window,
            backlog: self.queue.outbox(dest).pending,
            addr: self.conn(slot).peer,
            session_expiry_s: session_expiry,
        };
        self.note(note);
        let keepalive = self.config.bridges[usize::from(bridge.0)].keepalive;
        self.due_by(now.plus(keepalive / 4).min(now.plus(STABLE_AFTER)));
        self.ready.set(slot);
        Ok(Step::Done)
    }

    /// What the remote takes, by its CONNACK and by our configuration. Seconds our session lasts
    /// there, if that is less than we asked for.
    pub(super) fn take_limits(
        &mut self,
        slot: u16,
        bridge: BridgeId,
        connack: &Connack<'_>,
    ) -> Option<u64> {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let mut remote = Remote::unlimited(config);
        let Granted {
            session_expiry,
            receive_maximum,
            qos_max,
            retain_available,
            packet_bytes_max,
            topic_aliases_max,
            wildcards,
            subscription_ids,
            keepalive,
        } = Granted::of(&connack.properties);
        remote.receive_maximum = receive_maximum.unwrap_or(remote.receive_maximum);
        let bytes = packet_bytes_max.map_or(usize::MAX, index);
        remote.packet_bytes_max = remote.packet_bytes_max.min(bytes);
        remote.qos_max = qos_max.unwrap_or(remote.qos_max);
        remote.retain_available = retain_available != Some(false);
        remote.wildcards = wildcards != Some(false);
        let is_v5 = self.conn(slot).version == Version::V5;
        remote.subscription_ids = is_v5 && subscription_ids != Some(false);
        let keepalive = kept_alive(config.keepalive, keepalive);
        let shorter = session_expiry.map(u64::from);
        let shorter = shorter.filter(|seconds| *seconds < config.session_expiry.as_secs());
        let window = match self.conn(slot).version {
            Version::V5 => config.max_inflight,
            // Such a remote cannot say what it takes; how it ended before does.
            Version::V31 | Version::V311 => {
                config.max_inflight_untold.min(self.link(bridge).window_cap)
            }
        };
        remote.receive_maximum = remote.receive_maximum.min(window);
        self.link_mut(bridge).remote = remote;
        let conn = self.conn_mut(slot);
        conn.packet_bytes_max = remote.packet_bytes_max;
        conn.aliases_max = topic_aliases_max.unwrap_or(0);
        conn.keepalive = keepalive;
        shorter
    }

    pub(super) fn connect_refused(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        candidate: bool,
        code: u8,
        qos_max: Option<Qos>,
    ) {
        let version = self.link(bridge).version;
        let word = refusal_word(version, code);
        self.close(now, slot, false);
        let bent = version == Version::V5 && self.bend_will(bridge, Reason(code), qos_max);
        if candidate {
            self.candidate_failed(now, bridge);
            return;
        }
        let version_refused = match version {
            Version::V5 => matches!(code, 1 | 0x84 | 0x81 | 0x82),
            Version::V31 | Version::V311 => code == 1,
        };
        if bent || version_refused && self.fall_back(now, bridge) {
            let next = self.link_mut(bridge).dial.begin(now);
            self.link_mut(bridge).state = State::Resolving { deadline: next };
            let server = self.link(bridge).dial.server();
            self.actions.push_back(Action::Resolve { bridge, server });
            return;
        }
        let next = self.link_mut(bridge).dial.refused();
        self.follow(now, bridge, next, word);
    }

    /// A server that does not take the will as it is refuses the whole CONNECT [MQTT-3.2.2-12]
    /// [MQTT-3.2.2-13]: the next one has it without. `false`: it was not that, or is bent already.
    fn bend_will(&mut self, bridge: BridgeId, code: Reason, qos_max: Option<Qos>) -> bool {
        let config = &self.config.bridges[usize::from(bridge.0)];
        let (retain, qos) = match (&config.will, &config.notify_topic) {
            (Some(will), _) => (will.retain, will.qos),
            (None, Some(_)) => (true, Qos::AtLeastOnce),
            (None, None) => return false,
        };
        let limits = &mut self.link_mut(bridge).will_limits;
        match code {
            Reason::RETAIN_NOT_SUPPORTED if retain && limits.retain => limits.retain = false,
            Reason::QOS_NOT_SUPPORTED if qos.min(limits.qos) > qos_max.unwrap_or_default() => {
                limits.qos = qos_max.unwrap_or_default();
            }
            _ => return false,
        }
        true
    }

    /// The next lower way to speak; remembered, and the configured one tried again daily. `false`:
    /// there is none; then it was not the version, or it is a higher one that is wanted after all.
    pub(super) fn fall_back(&mut self, now: Instant, bridge: BridgeId) -> bool {
        let link = self.link_mut(bridge);
        let lower = match (link.version, link.bridge_bit) {
            (Version::V5, bit) => Some((Version::V311, bit)),
            (Version::V311 | Version::V31, true) => Some((link.version, false)),
            (Version::V311 | Version::V31, false) => None,
        };
        let Some((version, bit)) = lower else {
            self.speak_as_configured(bridge);
            return false;
        };
        link.version = version;
        link.bridge_bit = bit;
        link.upgrade_at = now.plus(UPGRADE_AFTER);
        true
    }
}

/// How long nothing may happen on a link: `own` by the configuration, `told` in seconds by the
/// CONNACK [MQTT-3.1.2-21]. Zero is off. Whoever asks more often than it must keeps to it too, so
/// that no remote can switch off what finds out that the link is dead.
fn kept_alive(own: Duration, told: Option<u16>) -> Duration {
    let told = seconds(u32::from(told.unwrap_or(0)));
    match (own.is_zero(), told.is_zero()) {
        (false, false) => own.min(told),
        (false, true) => own,
        (true, _) => told,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_keepalive_of_two_counts_and_off_never_switches_off() {
        let table = [
            (30, None, 30),
            (30, Some(0), 30),
            (30, Some(u16::MAX), 30),
            (30, Some(31), 30),
            (30, Some(5), 5),
            (0, None, 0),
            (0, Some(0), 0),
            (0, Some(60), 60),
        ];
        for (own, told, kept) in table {
            let own = Duration::from_secs(own);
            assert_eq!(kept_alive(own, told), Duration::from_secs(kept), "{own:?} {told:?}");
        }
    }
}
