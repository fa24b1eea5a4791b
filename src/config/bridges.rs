//! The bridges of the configuration: everything below `bridge.NAME` but its rules.

use super::auth::no_text;
use super::check::{OVERFLOW, YEAR};
use super::parse::{Shown, Word};
use super::reader::{Reader, Scope};
use super::rules::{forwards, subscribes, topic_name};
use super::values::{
    Parsed, boolean, duration, duration_text, number, off_is_none, one_of, or_off, rate,
    same_server, seconds, servers, size, text, wire_text,
};
use super::{Bridge, Limits, Overflow, ServerPolicy, Will, textfile};
use crate::fit::wide;
use crate::limits::{BRIDGE_WINDOW, BRIDGE_WINDOW_UNTOLD, FORWARDS_MAX, SERVERS_MAX};
use crate::mqtt::{Qos, Version};
use core::time::Duration;

/// Messages one connection may have unacknowledged, either way.
pub(super) const INFLIGHT_MAX: u16 = 1024;

/// Bytes of a client id, user name or password towards a remote.
const CREDENTIAL_BYTES_MAX: usize = 4096;
/// The payload of a will has a length of two bytes (3.1.3.4).
const WILL_BYTES_MAX: usize = 65_535;
const CLIENT_ID_BYTES_MAX: usize = 256;

/// Linux' IFNAMSIZ without its closing zero.
const INTERFACE_BYTES_MAX: usize = 15;

/// The largest packet of the protocol: 256 MiB and its header.
const PACKET_BYTES_MAX: usize = 268_435_460;

pub(super) const QOS: &[(&str, Qos)] =
    &[("0", Qos::AtMostOnce), ("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce)];

type ReadFile<'f> = &'f mut dyn FnMut(&str) -> Result<Vec<u8>, String>;

pub(super) fn bridges(
    reader: &mut Reader<'_>,
    limit: &Limits,
    overflow: Overflow,
    read_file: ReadFile<'_>,
) -> Vec<Bridge> {
    let mut bridges: Vec<Bridge> = Vec::new();
    let mut rules = 0_usize;
    for name in reader.names("bridge") {
        let scope = Scope { name, rule: "" };
        let bridge = bridge(reader, scope, limit, overflow, read_file);
        if let Some(twin) = bridges.iter().find(|other| share_a_session(other, &bridge)) {
            let what = format!("bridge {} has this client id at the same server", twin.name);
            reader.error("bridge.NAME.clientid", scope, what);
        }
        if bridges.len() >= usize::from(limit.bridges) {
            let what = format!("more bridges than limit.bridges ({})", limit.bridges);
            reader.error("bridge.NAME.server", scope, what);
        }
        if bridge.forward.len() > FORWARDS_MAX {
            let what = format!("more than {FORWARDS_MAX} rules forward");
            reader.error("bridge.NAME.server", scope, what);
        }
        let before = rules;
        rules += bridge.forward.len() + bridge.subscribe.len();
        let room = usize::from(limit.rules);
        if before <= room && rules > room {
            let what = format!("with its rules there are more than limit.rules ({room})");
            reader.error("bridge.NAME.server", scope, what);
        }
        bridges.push(bridge);
    }
    bridges
}

/// The remote would take one for the other and end its connection, in turns for ever.
fn share_a_session(a: &Bridge, b: &Bridge) -> bool {
    a.client_id.is_some()
        && a.client_id == b.client_id
        && a.servers.iter().any(|x| b.servers.iter().any(|y| same_server(x, y)))
}

fn bridge(
    reader: &mut Reader<'_>,
    at: Scope<'_>,
    limit: &Limits,
    overflow: Overflow,
    read_file: ReadFile<'_>,
) -> Bridge {
    const POLICY: &[(&str, ServerPolicy)] =
        &[("failover", ServerPolicy::Failover), ("round_robin", ServerPolicy::RoundRobin)];
    const VERSIONS: &[(&str, Version)] =
        &[("5", Version::V5), ("4", Version::V311), ("3", Version::V31)];
    let second = Duration::from_secs(1);
    if !reader.is_written("bridge.NAME.server", at) {
        reader.error("bridge.NAME.server", at, "is missing");
    }
    let window = reader.maybe("bridge.NAME.max_inflight", at, number(1, INFLIGHT_MAX));
    let bridge = Bridge {
        name: at.name.to_owned(),
        servers: reader.maybe("bridge.NAME.server", at, servers(SERVERS_MAX)).unwrap_or_default(),
        server_policy: reader.take("bridge.NAME.server_policy", at, one_of(POLICY)),
        version: reader.take("bridge.NAME.proto_ver", at, one_of(VERSIONS)),
        bridge_bit: reader.take("bridge.NAME.bridge_bit", at, boolean),
        client_id: reader
            .maybe("bridge.NAME.clientid", at, off_is_none(wire_text(1, CLIENT_ID_BYTES_MAX)))
            .flatten(),
        clean_start: reader.take("bridge.NAME.clean_start", at, boolean),
        session_expiry: reader.take("bridge.NAME.session_expiry", at, seconds(0, YEAR.as_secs())),
        username: reader
            .maybe("bridge.NAME.username", at, off_is_none(wire_text(1, CREDENTIAL_BYTES_MAX)))
            .flatten(),
        password: password(reader, at, read_file),
        keepalive: reader.take("bridge.NAME.keepalive", at, seconds(0, 0xFFFF)),
        connect_timeout: reader.take(
            "bridge.NAME.connect_timeout",
            at,
            duration(second, second * 300),
        ),
        ack_timeout: reader.take("bridge.NAME.ack_timeout", at, duration(second, second * 3600)),
        backoff_min: reader.take(
            "bridge.NAME.backoff_min",
            at,
            duration(Duration::from_millis(10), second * 3600),
        ),
        backoff_max: reader.take(
            "bridge.NAME.backoff_max",
            at,
            duration(Duration::from_millis(10), second * 86_400),
        ),
        max_inflight: window.unwrap_or(BRIDGE_WINDOW),
        max_inflight_untold: window.unwrap_or(BRIDGE_WINDOW_UNTOLD),
        max_packet_bytes: reader
            .maybe("bridge.NAME.max_packet_size", at, or_off(size(128, PACKET_BYTES_MAX)))
            .flatten(),
        rate: reader.take("bridge.NAME.rate", at, rate),
        max_messages: reader.take("bridge.NAME.max_messages", at, or_off(number(1, 1 << 40))),
        max_bytes: reader
            .maybe("bridge.NAME.max_bytes", at, or_off(size(4 << 10, 1 << 40)))
            .flatten(),
        overflow: reader.maybe("bridge.NAME.overflow", at, one_of(OVERFLOW)).unwrap_or(overflow),
        queue_qos0: reader.take("bridge.NAME.queue_qos0", at, boolean),
        bind_interface: reader
            .maybe("bridge.NAME.bind_interface", at, off_is_none(interface))
            .flatten(),
        will: will(reader, at, limit),
        notify_topic: reader.take(
            "bridge.NAME.notify_topic",
            at,
            off_is_none(topic_name(limit.topic_bytes)),
        ),
        forward: forwards(reader, at, limit),
        subscribe: subscribes(reader, at, limit),
    };
    fits_together(reader, at, limit, &bridge);
    bridge
}

fn fits_together(reader: &mut Reader<'_>, at: Scope<'_>, limit: &Limits, bridge: &Bridge) {
    if bridge.password.is_some() && bridge.username.is_none() {
        // 3.1.1 has no password without a user name [MQTT-3.1.2-22], and 5 falls back to it.
        let keys = ["bridge.NAME.password", "bridge.NAME.password_file"];
        reader.error(reader.written(&keys, at), at, "needs a username beside it");
    }
    if bridge.backoff_min > bridge.backoff_max {
        let what = format!(
            "backoff_min ({}) is longer than backoff_max ({})",
            duration_text(bridge.backoff_min),
            duration_text(bridge.backoff_max)
        );
        let keys = ["bridge.NAME.backoff_min", "bridge.NAME.backoff_max"];
        reader.error(reader.written(&keys, at), at, what);
    }
    let block = bridge.overflow == Overflow::Block;
    let packet = wide(limit.packet_bytes);
    if block && bridge.max_bytes.is_some_and(|max| max < packet) {
        let what = "less than limit.packet_size: with overflow = block a message that never fits \
                    would block its publisher for ever";
        reader.error("bridge.NAME.max_bytes", at, what);
    }
    if bridge.notify_topic.is_some() && WILL.iter().any(|pattern| reader.is_written(pattern, at)) {
        let what = "cannot be used with will.*: it is the will at the remote itself";
        reader.error("bridge.NAME.notify_topic", at, what);
    }
    if bridge.forward.is_empty() && bridge.subscribe.is_empty() && bridge.notify_topic.is_none() {
        reader.warn("bridge.NAME.server", at, "no forward and no subscribe rule: nothing to do");
    }
}

const WILL: &[&str] = &[
    "bridge.NAME.will.topic",
    "bridge.NAME.will.payload",
    "bridge.NAME.will.qos",
    "bridge.NAME.will.retain",
];

fn will(reader: &mut Reader<'_>, at: Scope<'_>, limit: &Limits) -> Option<Will> {
    let topic =
        reader.maybe("bridge.NAME.will.topic", at, off_is_none(topic_name(limit.topic_bytes)));
    let payload = reader.maybe(
        "bridge.NAME.will.payload",
        at,
        text(0, WILL_BYTES_MAX.min(limit.packet_bytes / 2)),
    );
    let qos = reader.take("bridge.NAME.will.qos", at, one_of(QOS));
    let retain = reader.take("bridge.NAME.will.retain", at, boolean);
    if !reader.is_written("bridge.NAME.will.topic", at) {
        for pattern in WILL {
            if reader.is_written(pattern, at) {
                reader.error(pattern, at, "needs will.topic beside it");
            }
        }
    }
    let payload = payload.unwrap_or_default().into_bytes();
    topic.flatten().map(|topic| Will { topic, payload, qos, retain })
}

fn password(reader: &mut Reader<'_>, at: Scope<'_>, read_file: ReadFile<'_>) -> Option<Vec<u8>> {
    let written =
        reader.maybe("bridge.NAME.password", at, off_is_none(text(1, CREDENTIAL_BYTES_MAX)));
    let path = reader.maybe("bridge.NAME.password_file", at, off_is_none(text(1, 1024))).flatten();
    let Some(path) = path else { return written.flatten().map(String::into_bytes) };
    if reader.is_written("bridge.NAME.password", at) {
        let what = "cannot be used together with password";
        reader.error("bridge.NAME.password_file", at, what);
        return None;
    }
    let key = "bridge.NAME.password_file";
    let what = match read_file(&path) {
        Ok(bytes) => match textfile::password(&bytes) {
            Ok((secret, doubt)) if (1..=CREDENTIAL_BYTES_MAX).contains(&secret.len()) => {
                if let Some(doubt) = doubt {
                    reader.warn(key, at, format!("{} {doubt}", Shown(&path)));
                }
                return Some(secret.to_vec());
            }
            Ok((secret, _)) => format!(
                "{} holds {} bytes in its first line; a password has 1 to {CREDENTIAL_BYTES_MAX}",
                Shown(&path),
                secret.len()
            ),
            Err(why) => no_text(&path, &why),
        },
        Err(why) => format!("{} cannot be read: {}", Shown(&path), Shown(&why)),
    };
    reader.error(key, at, what);
    None
}

fn interface(word: &Word<'_>) -> Parsed<String> {
    let name = text(1, INTERFACE_BYTES_MAX)(word)?;
    if name.contains(|c: char| c.is_whitespace() || c == '/') {
        Err(format!("{} is no interface name", Shown(&name)))
    } else {
        Ok(name)
    }
}
