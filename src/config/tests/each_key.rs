//! Every key with good values and the nearest bad ones; what is not built is refused.

use super::super::KEYS;
use super::super::keys::fill;
use super::{errors, good};

/// Every built key with values that are accepted and values that are refused.
#[rustfmt::skip]
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("node.name", &["a.B_c-1", "\"x\""], &["", "a/b", "a b", "é"]),
    ("log.level", &["error", "warn", "info", "debug", "trace", "off"], &["INFO", "", "warning"]),
    ("log.stats_interval", &["1s", "1h", "off", "0"], &["999ms", "61m", "10", ""]),
    ("limit.clients", &["1", "10000"], &["0", "10001", "off", "-1", "+1", "64x", "1e3", ""]),
    ("limit.sessions", &["1", "20000"], &["0", "20001"]),
    ("limit.sessions_per_user", &["1", "20000", "off", "0"], &["20001", "x"]),
    ("limit.subscriptions", &["1", "65535"], &["0", "65536"]),
    ("limit.bridges", &["1", "64", ], &["65", "a"]),
    ("limit.rules", &["0", "1024", "off"], &["1025", "a"]),
    ("limit.packet_size",
        &["1KiB", "512KiB", "2048"], &["1023", "17MiB", "64KB", "64 KiB", "513KiB", "4294969344"]),
    ("limit.large_buffers", &["1", "256"], &["0", "257"]),
    ("limit.topic_bytes", &["32", "1KiB", "65535"], &["31", "65536"]),
    ("limit.client_id_bytes", &["23", "1KiB"], &["22", "1025"]),
    ("limit.keepalive_max", &["1s", "65535s", "off", "0", "0s"], &["65536s", "1500ms", "30"]),
    ("limit.inflight", &["1", "1024"], &["0", "1025", "65537", "off"]),
    ("limit.retained", &["off", "0", "1048576"], &["1048577", "4294967297", "x"]),
    ("limit.retained_bytes", &["off", "512MiB"], &["513MiB", "x"]),
    ("limit.will_bytes", &["off", "16MiB"], &["17MiB", "x"]),
    ("ring.messages", &["16", "1048576"], &["15", "1048577", "off"]),
    ("ring.bytes", &["256KiB", "512MiB"], &["255KiB", "513MiB", "5GiB", "4295229440", "off"]),
    ("ack", &["safe", "ring"], &["fast", "", "Safe", "off"]),
    ("store.path", &["/a/b.db", "none", "off", "\"none\""], &["", "/a/"]),
    ("store.max_bytes", &["1MiB", "32GiB"], &["1023KiB", "33GiB", "off", "50%"]),
    ("store.sync", &["full", "normal", "off"], &["on", "FULL"]),
    ("store.flush_after", &["off", "0", "1m"], &["61s", "250"]),
    ("store.retained_after", &["off", "1h"], &["61m", "60"]),
    ("store.overflow", &["block", "drop_oldest", "drop_newest"], &["drop", "off"]),
    ("store.sessions_share", &["1%", "99%"], &["0%", "100%", "25", "off"]),
    ("session.max_messages", &["1", "100000"], &["0", "100001", "off"]),
    ("session.max_bytes", &["4KiB", "1GiB"], &["4095", "off"]),
    ("session.expiry", &["off", "365d", "1s"], &["366d", "1500ms", "7"]),
    ("listener.NAME.url",
        &["mqtt://127.0.0.1:1883", "mqtt-tcp://[::1]", "mqtt://localhost:0", "mqtt://0.0.0.0"],
        &["", "127.0.0.1:1883", "mqtt://", "mqtt://:1883", "mqtt://1.2.3.4:65536", "mqtt://::1",
          "mqtts://a:8883", "ws://a:80", "wss://a:443", "unix:/run/x", "tcp://a", "off"]),
    ("listener.NAME.anonymous", &["true", "false", "off"], &["yes"]),
    ("auth.password_file", &["/users", "/empty", "off"], &["", "/missing", "/secret"]),
    ("auth.acl_file", &["/rules", "/empty", "off"], &["", "/missing", "/secret"]),
    ("listener.NAME.max_clients", &["1", "64"], &["0", "65", "off"]),
    ("bridge.NAME.server",
        &["mqtt://h", "mqtt-tcp://h:1", "mqtt://a , mqtt://b:2", "mqtt://[fe80::1]:1883",
          "mqtt://10.0.0.1", "mqtt://a_b.c-d.", "\"mqtt://h\""],
        &["", "h", "mqtt://h:0", "mqtt://h:", "mqtt://h:1883/", "mqtt://a,",
          "mqtt://a,mqtt://A:1883", "mqtt://10.0.0.256", "mqtt://[::1",
          "mqtt://[::1]1883", "mqtt://[h]", "mqtt://u:p@h",
          "mqtts://h", "tls+mqtt-tcp://h", "mqtt-quic://h", "quic://h", "ws://h", "wss://h",
          "mqtt://a..b", "mqtt://-a", "off",
          "mqtt://a,mqtt://b,mqtt://c,mqtt://d,mqtt://e,mqtt://f,mqtt://g,mqtt://h,mqtt://i"]),
    ("bridge.NAME.server_policy", &["failover", "round_robin"], &["random", "off"]),
    ("bridge.NAME.proto_ver", &["5", "4", "3"], &["6", "3.1.1", "off"]),
    ("bridge.NAME.bridge_bit", &["true", "false", "off"], &["1", "yes", ""]),
    ("bridge.NAME.clientid", &["gw 1", "off", "\"off\""], &["", "\"\""]),
    ("bridge.NAME.clean_start", &["true", "false"], &["on", ""]),
    ("bridge.NAME.session_expiry", &["off", "7d"], &["366d", "1ms"]),
    ("bridge.NAME.username", &["u", "\" u \""], &["", "\"\""]),
    ("bridge.NAME.password", &["p", "\"p \\\" \\\\\"", "off"], &["", "\"p\\n\"", "\"p"]),
    ("bridge.NAME.password_file", &["/secret", "off"], &["", "/missing", "/empty"]),
    ("bridge.NAME.keepalive", &["off", "1s", "65535s"], &["65536s", "500ms", "30"]),
    ("bridge.NAME.connect_timeout", &["1s", "5m"], &["999ms", "301s", "off"]),
    ("bridge.NAME.ack_timeout", &["1s", "1h"], &["999ms", "3601s", "off"]),
    ("bridge.NAME.backoff_min", &["10ms", "60s"], &["9ms", "61s", "off"]),
    ("bridge.NAME.backoff_max", &["1s", "1d"], &["999ms", "86401s", "off"]),
    ("bridge.NAME.max_inflight", &["1", "1024"], &["0", "1025", "off"]),
    ("bridge.NAME.max_packet_size", &["128", "256MiB", "off", "0"], &["127", "257MiB"]),
    ("bridge.NAME.rate", &["1/s", "100/m", "5/h", "1000000/d", "off", "0", "0/s"],
        &["1/ms", "1", "/s", "1/", "1 /s", "1000001/s", "-1/s", ""]),
    ("bridge.NAME.max_messages", &["1", "off", "0"], &["-1", "1k"]),
    ("bridge.NAME.max_bytes", &["64KiB", "off", "0"], &["4095", "63KiB", "x"]),
    ("bridge.NAME.overflow", &["block", "drop_oldest", "drop_newest"], &["drop", "off"]),
    ("bridge.NAME.queue_qos0", &["true", "false"], &["0", "yes"]),
    ("bridge.NAME.bind_interface",
        &["wan", "eth0.2", "off"], &["", "a b", "sixteen-letters-", "a/b"]),
    ("bridge.NAME.will.topic", &["a/b", "off"], &["", "a/+", "#"]),
    ("bridge.NAME.will.payload", &["gone", "\"\"", "off"], &["\"x"]),
    ("bridge.NAME.will.qos", &["0", "1", "2"], &["3", "", "off"]),
    ("bridge.NAME.will.retain", &["true", "false"], &["keep", ""]),
    ("bridge.NAME.notify_topic", &["a/b", "off"], &["", "a/#"]),
    ("bridge.NAME.forward.N.local_topic",
        &["#", "a/+/b", "$SYS/#", "+/+"], &["", "a#", "a/#/b", "a+", "off", "$share/g/a"]),
    ("bridge.NAME.forward.N.remote_topic", &["x", "", "off", "y/+"], &["x+", "y/+/+", "#/a"]),
    ("bridge.NAME.forward.N.prefix", &["p/", "", "off"], &["+/", "#"]),
    ("bridge.NAME.forward.N.suffix", &["/s", "", "off"], &["/+", "#"]),
    ("bridge.NAME.forward.N.qos", &["0", "1", "2"], &["3", "", "off", "01"]),
    ("bridge.NAME.forward.N.retain", &["keep", "true", "false"], &["yes", "off"]),
    ("bridge.NAME.forward.N.rate", &["1/s", "off"], &["1", "1/w"]),
    ("bridge.NAME.forward.N.max_messages", &["1", "off"], &["x", "1000000001"]),
    ("bridge.NAME.forward.N.overflow", &["block", "drop_oldest", "drop_newest"], &["drop", "off"]),
    ("bridge.NAME.forward.N.max_age", &["1ms", "365d", "off"], &["366d", "5"]),
    ("bridge.NAME.forward.N.priority", &["high", "normal", "low"], &["1", "off"]),
    ("bridge.NAME.forward.N.conflate", &["true", "false"], &["yes", "1"]),
    ("bridge.NAME.subscribe.N.remote_topic", &["#", "a/+"], &["", "a#", "off", "$share/g/a"]),
    ("bridge.NAME.subscribe.N.local_topic", &["x", "", "off", "y/+"], &["x+", "y/+/+"]),
    ("bridge.NAME.subscribe.N.prefix", &["p/", ""], &["#/", "+"]),
    ("bridge.NAME.subscribe.N.suffix", &["/s", ""], &["/#", "+"]),
    ("bridge.NAME.subscribe.N.qos", &["0", "1", "2"], &["3", "off"]),
    ("bridge.NAME.subscribe.N.retain", &["keep", "true", "false"], &["yes", "off"]),
];

/// `key = value` with the neighbours without which it could not stand.
fn with_neighbours(pattern: &str, value: &str) -> String {
    let neighbours: &[(&str, &str)] = &[
        ("listener.NAME.url", "mqtt://127.0.0.1"),
        ("bridge.NAME.server", "mqtt://h"),
        ("bridge.NAME.username", "u"),
        ("bridge.NAME.will.topic", "w"),
        ("bridge.NAME.forward.N.local_topic", "a/+"),
        ("bridge.NAME.subscribe.N.remote_topic", "b/+"),
    ];
    let mut text = format!("{} = {value}\n", fill(pattern, "x", "1"));
    if pattern == "listener.NAME.anonymous" {
        text += "auth.password_file = /users\n";
    }
    if pattern == "limit.topic_bytes" {
        text += "limit.packet_size = 128KiB\n";
    }
    for (neighbour, value) in neighbours {
        let rule = neighbour.contains(".N.");
        let will = neighbour.contains(".will.");
        let wanted = match pattern.split('.').next() {
            Some("listener") => neighbour.starts_with("listener"),
            Some("bridge") if rule => {
                neighbour.rsplit_once('.').map(|n| n.0) == pattern.rsplit_once('.').map(|p| p.0)
            }
            Some("bridge") if will => pattern.contains(".will."),
            Some("bridge") => neighbour.starts_with("bridge"),
            _ => false,
        };
        if wanted && *neighbour != pattern {
            text += &format!("{} = {value}\n", fill(neighbour, "x", "1"));
        }
    }
    text
}

#[test]
fn every_built_key_has_its_cases() {
    for key in KEYS.iter().filter(|key| key.built) {
        assert!(CASES.iter().any(|case| case.0 == key.pattern), "{}", key.pattern);
    }
    for case in CASES {
        assert!(KEYS.iter().any(|key| key.built && key.pattern == case.0), "{}", case.0);
    }
}

#[test]
fn every_key_takes_good_values_and_names_the_line_of_bad_ones() {
    for (pattern, accepted, refused) in CASES {
        let key = fill(pattern, "x", "1");
        for value in *accepted {
            good(&with_neighbours(pattern, value));
        }
        for value in *refused {
            let text = with_neighbours(pattern, value);
            let errors = errors(&text);
            let here = format!("f:1: {key}: ");
            assert!(errors[0].starts_with(&here), "{text}{errors:?}");
        }
    }
}

#[test]
fn what_is_not_built_is_refused_and_never_ignored() {
    for key in KEYS.iter().filter(|key| !key.built) {
        let text = with_neighbours(key.pattern, "x");
        let errors = errors(&text);
        assert!(errors[0].ends_with(": not in this build"), "{errors:?}");
    }
    for url in ["mqtts://h", "ws://h", "wss://h", "quic://h", "mqtt-quic://h", "tls+mqtt-tcp://h"] {
        let errors = errors(&format!("bridge.b.server = {url}"));
        assert!(errors[0].ends_with(" is not in this build"), "{errors:?}");
    }
    assert!(errors("listener.a.url = unix:/run/s")[0].contains("not in this build"));
}
