//! The configuration as the gateway uses it. Text becomes `Raw` in `parse`, `Raw` becomes
//! [`Config`] in `check`; both report every error of the file in one run. Reads no files.

mod acl;
mod auth;
mod bridges;
mod check;
mod foreign;
pub mod keys;
mod listeners;
mod parse;
mod reader;
mod reload;
mod rules;
mod textfile;
mod users;
mod values;

#[cfg(test)]
mod tests;

pub use crate::vocab::Overflow;
pub use acl::{Acl, Grant, Rule};
pub use auth::Auth;
pub use check::{RING_SHARE, load};
pub use keys::{KEYS, Key, distance};
pub use listeners::{collides, collision};
pub use parse::{ConfigError, Warning};
pub use reload::{Reload, reload};
pub use textfile::{NoText, TEXT_BYTES_MAX, decode, lines_and_ends};
pub use users::{HASH_BYTES, Scheme, User, Users, check_name, name_in};
pub use values::PORT_DEFAULT;

use crate::limits::{BRIDGE_WINDOW, BRIDGE_WINDOW_UNTOLD};
use crate::mqtt::topic::Mapping;
use crate::mqtt::{Qos, Version};
use core::time::Duration;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    pub log_level: log::LevelFilter,
    pub stats_interval: Option<Duration>,
    pub limit: Limits,
    pub ring_messages: u32,
    pub ring_bytes: usize,
    pub ack: Ack,
    pub store: Store,
    pub session_max_messages: u32,
    pub session_max_bytes: u64,
    /// Upper bound of every session's expiry, 3.1.1 sessions too.
    pub session_expiry: Duration,
    pub listeners: Vec<Listener>,
    pub auth: Auth,
    pub bridges: Vec<Bridge>,
}

impl Config {
    /// Bridges there is room for at run time; fixed at start.
    pub fn bridge_room(&self) -> usize {
        self.bridges.len().max(usize::from(self.limit.bridges))
    }
}

/// A packet that has to be in one piece gets so much of the buffers for that; a larger one several
/// parts.
const LARGE_BYTES: usize = 64 * 1024;

impl Limits {
    /// Bytes of one of the `large_buffers`. Together they hold a packet of any size.
    pub fn large_bytes(&self) -> usize {
        let count = usize::from(self.large_buffers.max(1));
        self.packet_bytes.min(LARGE_BYTES).max(self.packet_bytes.div_ceil(count)).max(4096)
    }
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub clients: u16,
    pub sessions: u16,
    /// Of one user, or without a name that is proved of one address.
    pub sessions_per_user: Option<u16>,
    pub subscriptions: u16,
    pub bridges: u16,
    pub rules: u16,
    pub packet_bytes: usize,
    pub large_buffers: u16,
    pub topic_bytes: usize,
    pub client_id_bytes: usize,
    /// Longest keepalive granted; `None` = as asked.
    pub keepalive_max: Option<Duration>,
    pub inflight: u16,
    pub retained: u32,
    pub retained_bytes: usize,
    pub will_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    Safe,
    Ring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    Full,
    Normal,
    Off,
}

#[derive(Clone, Debug)]
pub struct Store {
    /// `None` = RAM only (`store.path = none`; then `ack` is `Ring`).
    pub path: Option<String>,
    /// `None` = the default (64 MiB, at most half of what is free at first start).
    pub max_bytes: Option<u64>,
    pub sync: Sync,
    pub flush_after: Duration,
    pub retained_after: Duration,
    pub overflow: Overflow,
    /// Percent of the store for local sessions, 1..=99.
    pub sessions_share: u8,
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: String,
    /// Of its URL in the file; 0 = it is not there.
    pub line: u32,
    /// An address literal or a name such as `localhost`; without the brackets of IPv6.
    pub host: String,
    pub port: u16,
    pub max_clients: Option<u16>,
    /// Clients without a user name are let in.
    pub anonymous: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerPolicy {
    Failover,
    RoundRobin,
}

/// `count` tokens a `per`: `50/s` is 50 and one second, `100/m` 100 and one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    pub name: String,
    pub servers: Vec<Server>,
    pub server_policy: ServerPolicy,
    pub version: Version,
    pub bridge_bit: bool,
    /// `None` = node.name-NAME-random, the random part kept in the store.
    pub client_id: Option<String>,
    pub clean_start: bool,
    pub session_expiry: Duration,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    /// Zero = off.
    pub keepalive: Duration,
    pub connect_timeout: Duration,
    pub ack_timeout: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Unacknowledged QoS 1/2 messages on the wire to an MQTT 5 remote, which says when it takes
    /// less.
    pub max_inflight: u16,
    /// The same before MQTT 5, where a remote cannot say; never more than `max_inflight`.
    pub max_inflight_untold: u16,
    pub max_packet_bytes: Option<usize>,
    pub rate: Option<Rate>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    /// `store.overflow` when the bridge says nothing.
    pub overflow: Overflow,
    pub queue_qos0: bool,
    pub bind_interface: Option<String>,
    pub will: Option<Will>,
    pub notify_topic: Option<String>,
    /// In file order; the first that matches wins.
    pub forward: Vec<Forward>,
    pub subscribe: Vec<SubscribeRule>,
}

impl Bridge {
    /// The place of a bridge that is not configured: no name, no server, no rule.
    pub fn vacant() -> Self {
        Self {
            name: String::new(),
            servers: Vec::new(),
            server_policy: ServerPolicy::Failover,
            version: Version::V5,
            bridge_bit: false,
            client_id: None,
            clean_start: false,
            session_expiry: Duration::ZERO,
            username: None,
            password: None,
            keepalive: Duration::ZERO,
            connect_timeout: Duration::from_secs(10),
            ack_timeout: Duration::MAX,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            max_inflight: BRIDGE_WINDOW,
            max_inflight_untold: BRIDGE_WINDOW_UNTOLD,
            max_packet_bytes: None,
            rate: None,
            max_messages: None,
            max_bytes: None,
            overflow: Overflow::Block,
            queue_qos0: false,
            bind_interface: None,
            will: None,
            notify_topic: None,
            forward: Vec::new(),
            subscribe: Vec::new(),
        }
    }

    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainRule {
    Keep,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    High,
    Normal,
    Low,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub name: String,
    pub local_topic: String,
    pub mapping: Mapping,
    pub qos: Option<Qos>,
    pub retain: RetainRule,
    /// Per topic.
    pub rate: Option<Rate>,
    /// Per topic with `rate` (then 1000 unless said), of the whole rule otherwise.
    pub max_messages: Option<u32>,
    pub overflow: Option<Overflow>,
    pub max_age: Option<Duration>,
    pub priority: Priority,
    pub conflate: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRule {
    pub name: String,
    pub remote_topic: String,
    pub mapping: Mapping,
    pub qos: Qos,
    pub retain: RetainRule,
}
