//! The state of one bridge's link: what it is doing, what the remote allows, when something is
//! due. Idle → Resolving → Dialing → Greeting → Up → Backoff, and never a terminal state.

use super::addresses::Addresses;
use super::blame::Blame;
use super::dial::Dial;
use super::granted::{Said, WillLimits};
use super::left::{Known, Left};
use super::nudge::Nudges;
use super::pace::{Backoff, SmoothedRtt, TokenBucket};
use super::progress::{Progress, Wait};
use super::rules::Rules;
use crate::config::Bridge;
use crate::fit::fit;
use crate::limits::{SERVERS_MAX, STABLE_AFTER};
use crate::mqtt::{Qos, Version};
use crate::note::Text;
use crate::vocab::{ConnId, Instant};
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits until then for its next attempt.
    Backoff {
        until: Instant,
    },
    Resolving {
        deadline: Instant,
    },
    Dialing {
        conn: ConnId,
        deadline: Instant,
    },
    /// CONNECT is on its way.
    Greeting {
        conn: ConnId,
        deadline: Instant,
    },
    Up {
        conn: ConnId,
    },
    /// The gateway stops, or no bridge is configured in this place.
    Stopped,
}

/// A second connection, to the first server, while the link goes to another.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub addresses: Addresses,
    pub conn: Option<ConnId>,
    pub greeting: bool,
    pub deadline: Instant,
}

/// What the remote said it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub receive_maximum: u16,
    pub packet_bytes_max: usize,
    pub qos_max: Qos,
    pub retain_available: bool,
    /// It says which subscription a message is sent for.
    pub subscription_ids: bool,
    /// It takes filters with wildcards.
    pub wildcards: bool,
}

impl Remote {
    /// A 3.1.1 remote cannot say, an MQTT 5 remote says nothing when it has no limit.
    pub fn unlimited(bridge: &Bridge) -> Self {
        Self {
            receive_maximum: u16::MAX,
            packet_bytes_max: bridge.max_packet_bytes.unwrap_or(usize::MAX),
            qos_max: Qos::ExactlyOnce,
            retain_available: true,
            subscription_ids: false,
            wildcards: true,
        }
    }
}

/// A message by itself.
#[derive(Clone, Debug)]
pub struct Lone {
    pub seq: u64,
    /// Of its topic.
    pub hash: u64,
    pub topic: Text,
    pub client: Text,
}

/// Where one SUBSCRIBE stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// To be sent (again) at this time.
    Due {
        at: Instant,
    },
    Asked,
    Granted,
    /// The subscription of a wider rule brings it. `there`: the remote may have its own, too.
    Covered {
        there: bool,
    },
}

pub struct Link {
    pub state: State,
    pub dial: Dial,
    pub backoff: Backoff,
    pub rtt: SmoothedRtt,
    pub rate: Option<TokenBucket>,
    pub rules: Rules,
    pub client_id: String,
    /// The version of the next attempt: the configured one, or what it fell back to.
    pub version: Version,
    pub bridge_bit: bool,
    /// When the configured version is tried again.
    pub upgrade_at: Instant,
    pub candidate: Option<Candidate>,
    pub remote: Remote,
    pub subscribed: Vec<Subscribed>,
    /// Those that were asked for with an identifier, in this connection.
    pub with_id: Vec<bool>,
    /// Whether each server was last asked with identifiers, in this run.
    pub asked_with: [Option<bool>; SERVERS_MAX],
    /// The remote may have subscriptions of an earlier connection.
    pub resumed: bool,
    /// What it had subscribed to before.
    pub left: Left,
    /// The server whose session the last connection has cleared: the next one begins one that
    /// lasts.
    pub cleared: Option<u16>,
    /// Every rule is subscribed at the first connection of this run.
    pub first: bool,
    pub ping_sent: Option<Instant>,
    /// What has moved since something is late, and what is waited for.
    pub progress: Progress,
    pub awaits_ack: Wait,
    pub awaits_ping: Wait,
    /// When the last acknowledgement came.
    pub acked_at: Instant,
    pub up_since: Instant,
    pub down_since: Instant,
    pub attempts: u32,
    pub reconnects: u64,
    pub forwarded: u64,
    pub acked: u64,
    /// Packets from the remote in this connection: a peer that closes before the first may not
    /// speak our version.
    pub heard: bool,
    /// The version was lowered only because the peer closed without a word.
    pub guessed: bool,
    /// What a remote that cannot say its Receive Maximum seems to take.
    pub window_cap: u16,
    /// The reason the link went down is logged with.
    pub reason: &'static str,
    /// What the remote said to that, until it is logged.
    pub said: Said,
    pub will_limits: WillLimits,
    pub takeovers: u32,
    /// What is held against messages that the remote closed on.
    pub blame: Blame,
    /// When QoS 0 went out, if nothing was acknowledged since.
    pub zero_at: Instant,
    /// Since when this connection waits for one that is to be tried instead of a suspect.
    pub behind_since: Option<Instant>,
    /// A message that was to be tried alone and had to be loaded is looked for again then.
    pub single_at: Instant,
    /// Of which stream, and since when it is looked for.
    pub single_since: Option<(u8, Instant)>,
    /// The message that was last sent with nothing else on the wire, while something is held
    /// against messages: its bytes may have left RAM since.
    pub lone: Option<Lone>,
    /// Messages that were put aside since the start.
    pub quarantined: u64,
    /// So many topics were refused for now that everything waits until then.
    pub held_until: Instant,
    pub held_for: Duration,
    pub up_note_due: bool,
    /// Attempts that changes of the network bring about.
    pub nudges: Nudges,
}

impl Link {
    pub fn new(bridge: &Bridge, client_id: String) -> Self {
        let count = fit::<u16, _>(bridge.servers.len(), "servers").max(1);
        Self {
            state: State::Backoff { until: Instant::ZERO },
            dial: Dial::new(count, bridge.server_policy, bridge.connect_timeout),
            backoff: Backoff::new(bridge.backoff_min, bridge.backoff_max),
            rtt: SmoothedRtt::default(),
            rate: bridge.rate.map(TokenBucket::new),
            rules: Rules::new(bridge),
            client_id,
            version: bridge.version,
            bridge_bit: bridge.bridge_bit,
            upgrade_at: Instant::NEVER,
            candidate: None,
            remote: Remote::unlimited(bridge),
            subscribed: vec![Subscribed::Due { at: Instant::ZERO }; bridge.subscribe.len()],
            with_id: vec![false; bridge.subscribe.len()],
            asked_with: [None; SERVERS_MAX],
            resumed: false,
            left: Left::new(Known::default(), bridge),
            cleared: None,
            first: true,
            ping_sent: None,
            progress: Progress::default(),
            awaits_ack: Wait::default(),
            awaits_ping: Wait::default(),
            acked_at: Instant::ZERO,
            up_since: Instant::ZERO,
            down_since: Instant::ZERO,
            attempts: 0,
            reconnects: 0,
            forwarded: 0,
            acked: 0,
            heard: false,
            guessed: false,
            window_cap: u16::MAX,
            reason: "",
            said: Said::default(),
            will_limits: WillLimits::NONE,
            takeovers: 0,
            blame: Blame::new(true),
            zero_at: Instant::ZERO,
            behind_since: None,
            single_at: Instant::ZERO,
            single_since: None,
            lone: None,
            quarantined: 0,
            held_until: Instant::ZERO,
            held_for: Duration::ZERO,
            up_note_due: false,
            nudges: Nudges::default(),
        }
    }

    /// What the servers may have subscribed for it.
    pub fn known(&self) -> Known {
        self.left.known(self.rules.subscribe.iter().map(|rule| rule.remote_topic.as_str()))
    }

    pub fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Dialing { conn, .. } | State::Greeting { conn, .. } | State::Up { conn } => {
                Some(conn)
            }
            State::Backoff { .. } | State::Resolving { .. } | State::Stopped => None,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    pub fn is_candidate(&self, conn: ConnId) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| candidate.conn == Some(conn))
    }

    /// A packet came over a connection that has not been accepted yet. That of a candidate says
    /// nothing about the link.
    pub fn hear(&mut self, from: ConnId) {
        self.heard |= matches!(self.state, State::Greeting { conn, .. } if conn == from);
    }

    /// When this link has something to do, not counting keepalive and acknowledgements.
    pub fn due_at(&self) -> Instant {
        let own = match self.state {
            State::Backoff { until } => until,
            State::Resolving { deadline }
            | State::Dialing { deadline, .. }
            | State::Greeting { deadline, .. } => deadline,
            State::Up { .. } => self.dial.probe_at().min(self.stable_at()),
            State::Stopped => Instant::NEVER,
        };
        let candidate = self.candidate.as_ref().map_or(Instant::NEVER, |c| c.deadline);
        own.min(candidate)
    }

    /// When the backoff may start over.
    pub fn stable_at(&self) -> Instant {
        if self.attempts == 0 { Instant::NEVER } else { self.up_since.plus(STABLE_AFTER) }
    }
}
