//! Every key of the configuration: its pattern, its default, what it means, and whether this
//! build has it. The parser, the error messages, the example file and the README check all read
//! this table; a key that is not in it does not exist.
//!
//! In a pattern `NAME` (a listener or bridge) and `N` (a rule) stand for `[a-z0-9_-]{1,32}`.

/// Bytes a NAME or N may have.
pub const NAME_BYTES_MAX: usize = 32;

/// One key. A default that is a value is parsed by the same code as the user's; the others say in
/// words where the value comes from, and an empty one says that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub pattern: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
    /// `false`: the key is refused as not in this build.
    pub built: bool,
}

const fn key(pattern: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { pattern, default, meaning, built: true }
}

const fn absent(pattern: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { pattern, default, meaning, built: false }
}

/// All keys, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("node.name", "host name", "in log lines, $SYS and default client ids"),
    key("log.level", "info", "error, warn, info, debug, trace or off; RUST_LOG overrides"),
    key("log.stats_interval", "60s", "period of the stats lines; off = none"),
    key("limit.clients", "64", "local connections at once; one more is refused and logged"),
    key("limit.sessions", "128", "sessions kept, connected or not"),
    key("limit.sessions_per_user", "off", "sessions of one user, or of one address without"),
    key("limit.subscriptions", "1024", "subscriptions over all sessions"),
    key("limit.bridges", "4", "room kept for bridges"),
    key("limit.rules", "64", "room kept for rules, over all bridges"),
    key("limit.packet_size", "256KiB", "largest MQTT packet; announced to MQTT 5 clients"),
    key("limit.large_buffers", "4", "64 KiB each, for packets that have to be in one piece"),
    key("limit.topic_bytes", "256", "longer topics are refused"),
    key("limit.client_id_bytes", "128", "longer client ids are refused"),
    key("limit.keepalive_max", "off", "longest keepalive granted"),
    key("limit.inflight", "64", "QoS 1/2 messages in flight, per local client each way"),
    key("limit.retained", "1024", "retained messages"),
    key("limit.retained_bytes", "512KiB", "bytes of all retained messages together"),
    key("limit.will_bytes", "64KiB", "bytes of all wills together"),
    key("ring.messages", "1024", "pending QoS 1/2 messages in RAM"),
    key("ring.bytes", "2MiB", "bytes of them, whole records"),
    key("ack", "safe", "safe: acknowledge what is settled or stored; ring: what is in RAM"),
    key("store.path", "/var/lib/spillway/spill.db", "the SQLite file; none = RAM only"),
    key("store.max_bytes", "64MiB, at most half of what is free", "everything the store keeps"),
    key("store.sync", "full", "survives: full = power loss, normal = kill -9, off = neither"),
    key("store.flush_after", "250ms", "longest wait of an unsettled message for its commit"),
    key("store.retained_after", "60s", "longest wait of a changed retained value for its commit"),
    key("store.overflow", "block", "bridge at its quota: block, drop_oldest or drop_newest"),
    key("store.sessions_share", "25%", "of the store for local sessions"),
    key("session.max_messages", "1000", "messages in the queue of one local session"),
    key("session.max_bytes", "1MiB", "bytes in the queue of one local session"),
    key("session.expiry", "7d", "upper bound of a session's expiry, 3.1.1 sessions too"),
    key("listener.NAME.url", "one: mqtt://127.0.0.1:1883", "where local clients connect"),
    key("listener.NAME.anonymous", "true", "allow clients without a user name"),
    key("listener.NAME.max_clients", "limit.clients", "connections of this listener at once"),
    absent("listener.NAME.certfile", "", "TLS: certificate chain of the listener"),
    absent("listener.NAME.keyfile", "", "TLS: its private key"),
    absent("listener.NAME.cafile", "", "TLS: who signs client certificates"),
    absent("listener.NAME.require_certificate", "false", "TLS: clients must have one"),
    key("auth.password_file", "", "local users, in mosquitto_passwd's $7$ form"),
    key("auth.acl_file", "", "access rules, in mosquitto's acl_file form"),
    absent("http.bind", "off", "address and port of the HTTP publish API"),
    absent("http.username", "", "basic authentication; required beyond loopback"),
    absent("http.password", "", "basic authentication; required beyond loopback"),
    absent("http.rate", "200/s", "token bucket over publishes; beyond it 429"),
    absent("http.burst", "400", "size of that bucket"),
    absent("http.max_connections", "8", "HTTP connections at once"),
    absent("http.max_body", "64KiB", "largest request body"),
    key("bridge.NAME.server", "", "one or more URLs mqtt://host:port, comma-separated"),
    key("bridge.NAME.server_policy", "failover", "failover or round_robin"),
    key("bridge.NAME.proto_ver", "5", "5, 4 (3.1.1) or 3 (3.1); 5 falls back to 4"),
    key("bridge.NAME.bridge_bit", "true", "before MQTT 5: ask for no-local by protocol level 0x84"),
    key("bridge.NAME.clientid", "node.name-NAME-random", "the random part is kept in the store"),
    key("bridge.NAME.clean_start", "false", "begin without the session of last time"),
    key("bridge.NAME.session_expiry", "7d", "MQTT 5: how long the remote keeps the session"),
    key("bridge.NAME.username", "", "user name at the remote"),
    key("bridge.NAME.password", "", "password at the remote"),
    key("bridge.NAME.password_file", "", "a file that holds the password"),
    key("bridge.NAME.keepalive", "30s", "the link is probed when silent for 3/4 of this"),
    key("bridge.NAME.connect_timeout", "10s", "for name look-up, TCP and CONNACK together"),
    key("bridge.NAME.ack_timeout", "20s", "a message unacknowledged for longer = link dead"),
    key("bridge.NAME.backoff_min", "1s", "first wait before connecting again"),
    key("bridge.NAME.backoff_max", "60s", "longest wait before connecting again"),
    key(
        "bridge.NAME.max_inflight",
        "64; before MQTT 5, where a remote cannot say, 20",
        "unacknowledged QoS 1/2 messages on the wire",
    ),
    key("bridge.NAME.max_packet_size", "the remote's word", "never send larger packets"),
    key("bridge.NAME.rate", "off", "token bucket on messages to this remote"),
    key("bridge.NAME.max_messages", "off", "quota of its queue in messages"),
    key("bridge.NAME.max_bytes", "its share", "quota of its queue in bytes"),
    key("bridge.NAME.overflow", "store.overflow", "what happens at that quota"),
    key("bridge.NAME.queue_qos0", "false", "keep QoS 0 messages while the link is down"),
    key("bridge.NAME.bind_interface", "", "network interface to use, for DNS too"),
    absent("bridge.NAME.cafile", "system roots", "TLS: who signs the remote's certificate"),
    absent("bridge.NAME.certfile", "", "TLS: our certificate chain"),
    absent("bridge.NAME.keyfile", "", "TLS: its private key"),
    absent("bridge.NAME.alpn", "", "TLS: application protocol to ask for"),
    absent("bridge.NAME.insecure", "false", "TLS: do not check the remote's certificate"),
    key("bridge.NAME.will.topic", "", "topic of the last will at the remote"),
    key("bridge.NAME.will.payload", "", "its payload"),
    key("bridge.NAME.will.qos", "0", "its QoS"),
    key("bridge.NAME.will.retain", "false", "whether the remote retains it"),
    key("bridge.NAME.notify_topic", "off", "retained 1/0, here and there: is the bridge up"),
    key("bridge.NAME.forward.N.local_topic", "", "filter of what goes out"),
    key("bridge.NAME.forward.N.remote_topic", "same topic", "topic at the remote"),
    key("bridge.NAME.forward.N.prefix", "", "put before the remote topic"),
    key("bridge.NAME.forward.N.suffix", "", "put behind the remote topic"),
    key("bridge.NAME.forward.N.qos", "publisher's", "QoS towards the remote"),
    key("bridge.NAME.forward.N.retain", "keep", "keep, true or false"),
    key("bridge.NAME.forward.N.rate", "off", "token bucket per topic"),
    key(
        "bridge.NAME.forward.N.max_messages",
        "with rate: 1000 per topic; else the bridge's",
        "quota in messages",
    ),
    key(
        "bridge.NAME.forward.N.overflow",
        "with rate: drop_oldest; else the bridge's",
        "what happens at that quota",
    ),
    key("bridge.NAME.forward.N.max_age", "off", "older and not yet sent: dropped and counted"),
    key("bridge.NAME.forward.N.priority", "normal", "high, normal or low: lanes"),
    key("bridge.NAME.forward.N.conflate", "false", "keep only the newest unsent per topic"),
    key("bridge.NAME.subscribe.N.remote_topic", "", "filter of what comes in"),
    key("bridge.NAME.subscribe.N.local_topic", "same topic", "topic here"),
    key("bridge.NAME.subscribe.N.prefix", "", "put before the local topic"),
    key("bridge.NAME.subscribe.N.suffix", "", "put behind the local topic"),
    key("bridge.NAME.subscribe.N.qos", "1", "largest QoS asked for"),
    key("bridge.NAME.subscribe.N.retain", "keep", "keep, true or false"),
];

/// What a written key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Known(&'static Key),
    /// The key would be known if this part were a NAME.
    BadName(&'static Key),
    Unknown,
}

/// Looks a written key up.
pub(super) fn find(written: &str) -> Found {
    let mut near = Found::Unknown;
    for key in KEYS {
        match fit(key.pattern, written) {
            Fit::Whole => return Found::Known(key),
            Fit::ButName => near = Found::BadName(key),
            Fit::Not => {}
        }
    }
    near
}

enum Fit {
    Whole,
    ButName,
    Not,
}

fn fit(pattern: &str, written: &str) -> Fit {
    let (mut patterns, mut parts) = (pattern.split('.'), written.split('.'));
    let mut result = Fit::Whole;
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return result,
            (Some("NAME" | "N"), Some(part)) => {
                if !is_name(part) {
                    result = Fit::ButName;
                }
            }
            (Some(word), Some(part)) if word == part => {}
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => return Fit::Not,
        }
    }
}

pub(super) fn is_name(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=NAME_BYTES_MAX).contains(&part.len()) && part.bytes().all(plain)
}

/// `pattern` with its NAME and N filled in.
pub(super) fn fill(pattern: &str, name: &str, rule: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + name.len() + rule.len());
    for part in pattern.split('.') {
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(match part {
            "NAME" => name,
            "N" => rule,
            word => word,
        });
    }
    out
}

/// The known key that takes the fewest changed letters to get to from `written`, with the names
/// that were written.
pub(super) fn nearest(written: &str) -> String {
    if let Some(meant) = meant(written) {
        return meant;
    }
    let count = written.split('.').count();
    // A part is taken for a name only where enough parts follow: `listener.url` lacks its name.
    let part = |at: usize, word| {
        let part = written.split('.').nth(at).filter(|p| is_name(p) && count > at + 1);
        part.unwrap_or(word)
    };
    let (name, rule) = (part(1, "NAME"), part(3, "N"));
    let candidates = KEYS.iter().map(|key| fill(key.pattern, name, rule));
    candidates.min_by_key(|candidate| distance(candidate, written)).unwrap_or_default()
}

/// What other programs call it, by its last part below `bridge.NAME`.
const SYNONYMS: &[(&str, &str)] = &[
    ("address", "server"),
    ("addresses", "server"),
    ("host", "server"),
    ("hostname", "server"),
    ("port", "server"),
    ("url", "server"),
    ("user", "username"),
    ("pass", "password"),
    ("interface", "bind_interface"),
    ("cleansession", "clean_start"),
    ("clean_session", "clean_start"),
    ("version", "proto_ver"),
    ("protocol", "proto_ver"),
    ("keepalive_interval", "keepalive"),
    ("tls", "cafile"),
    ("ssl", "cafile"),
];

/// What is meant by a key that lacks a part or has another program's word.
fn meant(written: &str) -> Option<String> {
    let parts: Vec<&str> = written.split('.').collect();
    let topic = |kind: &str| match kind {
        "forward" => Some("local_topic"),
        "subscribe" => Some("remote_topic"),
        _ => None,
    };
    match parts.as_slice() {
        // Not said of which bridge.
        [kind, _, _] if topic(kind).is_some() => Some(format!("bridge.NAME.{written}")),
        ["bridge", name, kind, rule] => topic(kind)
            .filter(|_| is_name(rule))
            .filter(|_| find(written) == Found::Unknown)
            .map(|topic| match *rule {
                "local_topic" | "remote_topic" => format!("bridge.{name}.{kind}.N.{rule}"),
                _ => format!("{written}.{topic}"),
            }),
        ["bridge", name, kind, rule, "topic"] => {
            topic(kind).map(|topic| format!("bridge.{name}.{kind}.{rule}.{topic}"))
        }
        ["bridge", name, last] => {
            let known = SYNONYMS.iter().find(|(other, _)| other == last);
            known.map(|(_, own)| format!("bridge.{name}.{own}"))
        }
        _ => None,
    }
}

/// Edit distance (Levenshtein) in bytes.
pub fn distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pattern_is_there_twice() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|k| k.pattern != key.pattern), "{}", key.pattern);
        }
    }

    #[test]
    fn names_are_short_and_lower_case() {
        assert!(is_name("lan-2_a") && is_name(&"a".repeat(32)));
        assert!(!is_name("") && !is_name("Lan") && !is_name("a b") && !is_name(&"a".repeat(33)));
    }

    #[test]
    fn a_key_is_found_with_its_names_only() {
        let is_qos = |key: &Key| key.pattern.ends_with("qos");
        assert!(matches!(find("bridge.hub.forward.7.qos"), Found::Known(key) if is_qos(key)));
        assert!(matches!(find("bridge.Hub.server"), Found::BadName(_)));
        for wrong in ["bridge.hub", "bridge.hub.forward.qos", "ack.", ".ack", "", "NAME"] {
            assert_eq!(find(wrong), Found::Unknown, "{wrong}");
        }
    }

    #[test]
    fn the_nearest_key_keeps_the_names_that_were_written() {
        assert_eq!(nearest("bridge.hub.sever"), "bridge.hub.server");
        assert_eq!(
            nearest("bridge.hub.forward.a.locale_topic"),
            "bridge.hub.forward.a.local_topic"
        );
        assert_eq!(nearest("ring.mesages"), "ring.messages");
        assert_eq!(nearest("listener.url"), "listener.NAME.url");
        for (written, meant) in [
            ("bridge.hub.host", "bridge.hub.server"),
            ("bridge.hub.ssl", "bridge.hub.cafile"),
            ("forward.all.local_topic", "bridge.NAME.forward.all.local_topic"),
            ("bridge.hub.forward.all", "bridge.hub.forward.all.local_topic"),
            ("bridge.hub.forward.local_topic", "bridge.hub.forward.N.local_topic"),
            ("bridge.hub.subscribe.all.topic", "bridge.hub.subscribe.all.remote_topic"),
        ] {
            assert_eq!(nearest(written), meant);
        }
    }

    #[test]
    fn distance_counts_single_changes() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
