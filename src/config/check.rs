//! [`Raw`](super::parse::Raw) → [`Config`]: what a value may be, what fits together, all errors
//! of the file in one run. The file as text comes from the caller, the files it may name
//! (passwords, users, access rules) through the caller's closure: nothing is read here.

use super::reader::{Reader, Scope, TOP};
use super::values::{duration, number, one_of, or_off, percent, seconds, size, size_text, text};
use super::{
    Ack, Config, ConfigError, Limits, Overflow, Store, Sync, Warning, auth, bridges, foreign,
    listeners, parse,
};
use crate::fit::{capped, wide};
use crate::limits::{SLOT_BYTES, TOPIC_ALIASES};
use core::time::Duration;

/// Everything the configuration may make the gateway allocate together.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// What a connection owns: its buffers each way and what is known about it.
const CONNECTION_BYTES: u64 = 6 * 1024;

/// What a session and its queue take beside their texts and windows, roughly.
const SESSION_BYTES: u64 = 1024;

/// What one message of a client's window takes in the tables of its connection and its session.
const WINDOW_BYTES: u64 = 64;

/// What a bridge's place takes.
const BRIDGE_BYTES: u64 = 128 * 1024;

/// What a message in the ring takes beside its bytes: its record, and an entry at four queues.
const MESSAGE_BYTES: u64 = 512;

/// What a subscription, a retained message or an alias takes beside its texts, roughly.
const ROW_BYTES: u64 = 128;

/// What the directory of the store takes for a slot.
const SLOT_ROW_BYTES: u64 = 256;

const PACKET_BYTES_MAX: usize = 16 << 20;
const RING_BYTES_MAX: usize = 512 << 20;
const STORE_BYTES_MIN: u64 = 1 << 20;
/// As many slots as the store's directory can tell apart.
const STORE_BYTES_MAX: u64 = 32 << 30;
const NODE_NAME_BYTES_MAX: usize = 64;

/// One destination may fill one part in this many of the ring: the largest packet must fit into it.
pub const RING_SHARE: usize = 4;

/// The longest any duration may be.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) const OVERFLOW: &[(&str, Overflow)] = &[
    ("block", Overflow::Block),
    ("drop_oldest", Overflow::DropOldest),
    ("drop_newest", Overflow::DropNewest),
];

/// Reads a whole configuration. `read_file` gets the path of a file the configuration names and
/// returns what is in it, or why it cannot be read. `default_node_name` is the host name.
///
/// The errors are all there are, by line.
pub fn load(
    file: &str,
    text: &str,
    read_file: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    default_node_name: &str,
) -> Result<(Config, Vec<Warning>), Vec<ConfigError>> {
    let mut errors = Vec::new();
    let raw = parse::parse(file, text, &mut errors);
    // Of another kind of file every line would be an error.
    if !errors.is_empty()
        && let Some(what) = foreign::recognize(text, &raw)
    {
        return Err(vec![ConfigError { file: file.to_owned(), line: 0, key: String::new(), what }]);
    }
    let mut reader = Reader::new(file, &raw, errors);
    let config = config(&mut reader, read_file, default_node_name);
    let Reader { mut errors, mut warnings, .. } = reader;
    if errors.is_empty() {
        warnings.sort_by_key(|warning| warning.line);
        Ok((config, warnings))
    } else {
        errors.sort_by_key(|error| error.line);
        Err(errors)
    }
}

fn config(
    reader: &mut Reader<'_>,
    read_file: &mut dyn FnMut(&str) -> Result<Vec<u8>, String>,
    default_node_name: &str,
) -> Config {
    const LEVELS: &[(&str, log::LevelFilter)] = &[
        ("error", log::LevelFilter::Error),
        ("warn", log::LevelFilter::Warn),
        ("info", log::LevelFilter::Info),
        ("debug", log::LevelFilter::Debug),
        ("trace", log::LevelFilter::Trace),
        ("off", log::LevelFilter::Off),
    ];
    let limit = limits(reader);
    let store = store(reader);
    let has_users = auth::is_named(reader, "auth.password_file");
    let config = Config {
        node_name: reader
            .maybe("node.name", TOP, node_name)
            .unwrap_or_else(|| node_name_from(default_node_name)),
        log_level: reader.take("log.level", TOP, one_of(LEVELS)),
        stats_interval: reader.take(
            "log.stats_interval",
            TOP,
            or_off(duration(Duration::from_secs(1), HOUR)),
        ),
        ring_messages: reader.take("ring.messages", TOP, number(16, 1 << 20)),
        ring_bytes: reader.take("ring.bytes", TOP, size(64 << 10, RING_BYTES_MAX)),
        ack: ack(reader, &store),
        session_max_messages: reader.take("session.max_messages", TOP, number(1, 100_000)),
        session_max_bytes: reader.take("session.max_bytes", TOP, size(4 << 10, STORE_BYTES_MAX)),
        session_expiry: reader.take("session.expiry", TOP, seconds(0, YEAR.as_secs())),
        listeners: listeners::listeners(reader, &limit, has_users),
        auth: auth::auth(reader, read_file),
        bridges: bridges::bridges(reader, &limit, store.overflow, read_file),
        limit,
        store,
    };
    fits_together(reader, &config);
    config
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    Limits {
        clients: reader.take("limit.clients", TOP, number(1, 10_000)),
        sessions: reader.take("limit.sessions", TOP, number(1, 20_000)),
        sessions_per_user: reader.take("limit.sessions_per_user", TOP, or_off(number(1, 20_000))),
        subscriptions: reader.take("limit.subscriptions", TOP, number(1, u16::MAX)),
        bridges: reader.take("limit.bridges", TOP, number(0, 64)),
        rules: reader.take("limit.rules", TOP, number(0, 1024)),
        packet_bytes: packet_bytes(reader),
        large_buffers: reader.take("limit.large_buffers", TOP, number(1, 256)),
        topic_bytes: reader.take("limit.topic_bytes", TOP, size(32, 0xFFFF)),
        // Ids of 23 bytes must be taken [MQTT-3.1.3-5].
        client_id_bytes: reader.take("limit.client_id_bytes", TOP, size(23, 1024)),
        keepalive_max: reader.take("limit.keepalive_max", TOP, or_off(seconds(1, 0xFFFF))),
        inflight: reader.take("limit.inflight", TOP, number(1, bridges::INFLIGHT_MAX)),
        retained: reader.take("limit.retained", TOP, number(0, 1 << 20)),
        retained_bytes: reader.take("limit.retained_bytes", TOP, size(0, RING_BYTES_MAX)),
        will_bytes: reader.take("limit.will_bytes", TOP, size(0, PACKET_BYTES_MAX)),
    }
}

/// The default gives way, down to a quarter of itself, to what is written of the room that a packet
/// needs elsewhere: who has made that small was not to be bothered.
fn packet_bytes(reader: &mut Reader<'_>) -> usize {
    const KEY: &str = "limit.packet_size";
    let packet = reader.take(KEY, TOP, size(1 << 10, PACKET_BYTES_MAX));
    if reader.is_written(KEY, TOP) {
        return packet;
    }
    let ring = reader.peek("ring.bytes", TOP, size(64 << 10, RING_BYTES_MAX));
    let store = reader.peek("store.max_bytes", TOP, size(0, STORE_BYTES_MAX));
    let mut most = ring.map_or(u64::MAX, |ring: usize| bytes(ring / RING_SHARE));
    most = most.min(store.map_or(u64::MAX, |store: u64| store / 8));
    for name in reader.names("bridge") {
        let at = Scope { name, rule: "" };
        let queue = reader.peek("bridge.NAME.max_bytes", at, size(1, STORE_BYTES_MAX));
        most = most.min(queue.unwrap_or(u64::MAX));
    }
    // What is more than memory can hold is no bound here.
    packet.min(capped::<usize, _>(most).max(packet / 4))
}

fn store(reader: &mut Reader<'_>) -> Store {
    const SYNC: &[(&str, Sync)] =
        &[("full", Sync::Full), ("normal", Sync::Normal), ("off", Sync::Off)];
    let path = reader.take("store.path", TOP, |word| {
        if word.is_off() || (!word.quoted && word.text == "none") {
            return Ok(None);
        }
        let path = text(1, 1024)(word)?;
        if path.ends_with('/') {
            return Err(format!(
                "must name a file, not a directory such as {}",
                parse::Shown(&path)
            ));
        }
        Ok(Some(path))
    });
    let sync = reader.take("store.sync", TOP, one_of(SYNC));
    if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        let what = "is relative: it lies wherever the gateway is started";
        reader.warn("store.path", TOP, what);
    }
    if path.is_none() {
        reader.warn("store.path", TOP, "no store: what is accepted is lost when the gateway ends");
    } else if sync == Sync::Off {
        let what = "off: acknowledged messages may be lost when the power or the gateway fails";
        reader.warn("store.sync", TOP, what);
    }
    Store {
        path,
        sync,
        max_bytes: reader.maybe("store.max_bytes", TOP, size(STORE_BYTES_MIN, STORE_BYTES_MAX)),
        flush_after: reader.take("store.flush_after", TOP, duration(Duration::ZERO, MINUTE)),
        retained_after: reader.take("store.retained_after", TOP, duration(Duration::ZERO, HOUR)),
        overflow: reader.take("store.overflow", TOP, one_of(OVERFLOW)),
        sessions_share: reader.take("store.sessions_share", TOP, percent),
    }
}

fn ack(reader: &mut Reader<'_>, store: &Store) -> Ack {
    let ack = reader.take("ack", TOP, one_of(&[("safe", Ack::Safe), ("ring", Ack::Ring)]));
    if store.path.is_some() {
        return ack;
    }
    if ack == Ack::Safe && reader.is_written("ack", TOP) {
        reader.warn("ack", TOP, "without a store ack is ring");
    }
    Ack::Ring
}

fn is_node_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
}

fn node_name(word: &parse::Word<'_>) -> Result<String, String> {
    let name = text(1, NODE_NAME_BYTES_MAX)(word)?;
    // It becomes a topic level and a part of client ids.
    if name.bytes().all(is_node_byte) {
        Ok(name)
    } else {
        Err(format!("must be of a-z A-Z 0-9 . _ - only, not {}", parse::Shown(&name)))
    }
}

/// A host name made to fit; `spillway` when nothing of it does.
fn node_name_from(host: &str) -> String {
    let fits = |b: &u8| is_node_byte(*b);
    let name: String =
        host.bytes().filter(fits).take(NODE_NAME_BYTES_MAX).map(char::from).collect();
    if name.is_empty() { "spillway".to_owned() } else { name }
}

/// What no single value shows.
fn fits_together(reader: &mut Reader<'_>, config: &Config) {
    let limit = &config.limit;
    if limit.packet_bytes > config.ring_bytes / RING_SHARE {
        let what = format!(
            "a packet (limit.packet_size {}) must fit into a quarter of ring.bytes ({})",
            shown(limit.packet_bytes),
            shown(config.ring_bytes)
        );
        reader.error(reader.written(&["ring.bytes", "limit.packet_size"], TOP), TOP, what);
    }
    if limit.topic_bytes >= limit.packet_bytes {
        let key = reader.written(&["limit.topic_bytes", "limit.packet_size"], TOP);
        reader.error(key, TOP, "limit.topic_bytes must be less than limit.packet_size");
    }
    if limit.sessions < limit.clients {
        let what = format!(
            "limit.sessions ({}) is less than limit.clients ({}): every client needs one",
            limit.sessions, limit.clients
        );
        reader.warn(reader.written(&["limit.sessions", "limit.clients"], TOP), TOP, what);
    }
    if let Some(max) = config.store.max_bytes
        && max / 8 < bytes(limit.packet_bytes)
    {
        reader.error("store.max_bytes", TOP, "must be at least eight times limit.packet_size");
    }
    if config.session_max_bytes < bytes(limit.packet_bytes) {
        let what = "session.max_bytes is less than limit.packet_size: the largest messages for \
                    an absent client are dropped";
        reader.warn(reader.written(&["session.max_bytes", "limit.packet_size"], TOP), TOP, what);
    }
    let total = memory_bytes(config);
    if total > MEMORY_BYTES_MAX {
        let what = format!(
            "this and the other limits would take {} MiB of memory; at most {} are allowed",
            total >> 20,
            MEMORY_BYTES_MAX >> 20
        );
        reader.error(reader.written(MEMORY_KEYS, TOP), TOP, what);
    }
}

/// What a too large sum is reported at: the first of these that is written.
const MEMORY_KEYS: &[&str] = &[
    "ring.bytes",
    "limit.retained_bytes",
    "limit.packet_size",
    "limit.large_buffers",
    "limit.topic_bytes",
    "limit.retained",
    "limit.subscriptions",
    "limit.inflight",
    "limit.clients",
    "limit.sessions",
    "ring.messages",
    "store.max_bytes",
];

/// A rough sum, to refuse what no router has: the exact plan is the gateway's. What passes here
/// is counted in 32 bits without a thought.
fn memory_bytes(config: &Config) -> u64 {
    let limit = &config.limit;
    let topic = bytes(limit.topic_bytes) + ROW_BYTES;
    let bridges = bytes(config.bridge_room());
    let (clients, inflight) = (u64::from(limit.clients), u64::from(limit.inflight));
    let slots = config.store.max_bytes.unwrap_or(0) / bytes(SLOT_BYTES);
    let parts = [
        bytes(config.ring_bytes),
        u64::from(config.ring_messages) * MESSAGE_BYTES,
        bytes(limit.large_bytes()) * u64::from(limit.large_buffers),
        clients * (CONNECTION_BYTES + inflight * WINDOW_BYTES),
        u64::from(limit.sessions) * (bytes(limit.client_id_bytes) + SESSION_BYTES),
        u64::from(limit.sessions) * inflight * WINDOW_BYTES / 4,
        // Each way.
        2 * (clients + bridges) * u64::from(TOPIC_ALIASES) * topic,
        bridges * BRIDGE_BYTES,
        slots * SLOT_ROW_BYTES,
        u64::from(limit.subscriptions) * topic,
        u64::from(limit.retained) * topic,
        bytes(limit.retained_bytes),
        bytes(limit.will_bytes),
    ];
    parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part))
}

fn bytes(count: usize) -> u64 {
    wide(count)
}

fn shown(count: usize) -> String {
    size_text(bytes(count))
}
