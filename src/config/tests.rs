//! Claims about whole files: every key with a good and the nearest bad value, what does not fit
//! together, the example files, and that no text makes it panic.

use super::keys::fill;
use super::*;
use crate::vocab::Rng;

fn load_text(text: &str) -> Result<(Config, Vec<Warning>), Vec<String>> {
    let mut read_file = |path: &str| match path {
        "/secret" => Ok(b"from file\r\n".to_vec()),
        "/empty" => Ok(b"\n".to_vec()),
        _ => Err("no such file".to_owned()),
    };
    let strings = |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect();
    load("f", text, &mut read_file, "router").map_err(strings)
}

fn good(text: &str) -> Config {
    load_text(text).unwrap_or_else(|errors| panic!("{text}\n{errors:?}")).0
}

fn errors(text: &str) -> Vec<String> {
    load_text(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"))
}

fn warnings(text: &str) -> Vec<String> {
    let (_, warnings) = load_text(text).expect("loads");
    warnings.iter().map(ToString::to_string).collect()
}

const HUB: &str = "bridge.b.server = mqtt://hub.example\n";

/// Every built key with values that are accepted and values that are refused.
#[rustfmt::skip]
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("node.name", &["a.B_c-1", "\"x\""], &["", "a/b", "a b", "é"]),
    ("log.level", &["error", "warn", "info", "debug", "trace", "off"], &["INFO", "", "warning"]),
    ("log.stats_interval", &["1s", "1h", "off", "0"], &["999ms", "61m", "10", ""]),
    ("limit.clients", &["1", "10000"], &["0", "10001", "off", "-1", "+1", "64x", "1e3", ""]),
    ("limit.sessions", &["1", "20000"], &["0", "20001"]),
    ("limit.subscriptions", &["1", "65535"], &["0", "65536"]),
    ("limit.bridges", &["1", "64", ], &["65", "a"]),
    ("limit.rules", &["0", "1024", "off"], &["1025", "a"]),
    ("limit.packet_size", &["1KiB", "512KiB", "2048"], &["1023", "17MiB", "64KB", "64 KiB", "513KiB"]),
    ("limit.large_buffers", &["1", "256"], &["0", "257"]),
    ("limit.topic_bytes", &["32", "1KiB", "65535"], &["31", "65536"]),
    ("limit.client_id_bytes", &["23", "1KiB"], &["22", "1025"]),
    ("limit.keepalive_max", &["1s", "65535s", "off", "0", "0s"], &["65536s", "1500ms", "30"]),
    ("limit.inflight", &["1", "1024"], &["0", "1025", "off"]),
    ("limit.retained", &["off", "0", "1048576"], &["1048577", "x"]),
    ("limit.retained_bytes", &["off", "512MiB"], &["513MiB", "x"]),
    ("limit.will_bytes", &["off", "16MiB"], &["17MiB", "x"]),
    ("ring.messages", &["16", "1048576"], &["15", "1048577", "off"]),
    ("ring.bytes", &["256KiB", "512MiB"], &["255KiB", "513MiB", "off"]),
    ("ack", &["safe", "ring"], &["fast", "", "Safe", "off"]),
    ("store.path", &["/a/b.db", "none", "off", "\"none\""], &["", "/a/"]),
    ("store.max_bytes", &["1MiB", "1024GiB"], &["1023KiB", "1025GiB", "off", "50%"]),
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
    ("listener.NAME.anonymous", &["true"], &["false", "off", "yes"]),
    ("listener.NAME.max_clients", &["1", "64"], &["0", "65", "off"]),
    ("bridge.NAME.server",
        &["mqtt://h", "mqtt-tcp://h:1", "mqtt://a , mqtt://b:2", "mqtt://[fe80::1]:1883",
          "mqtt://10.0.0.1", "mqtt://a_b.c-d.", "\"mqtt://h\""],
        &["", "h", "mqtt://h:0", "mqtt://h:", "mqtt://h:1883/", "mqtt://a,", "mqtt://a,mqtt://A:1883",
          "mqtt://10.0.0.256", "mqtt://[::1", "mqtt://[::1]1883", "mqtt://[h]", "mqtt://u:p@h",
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
    ("bridge.NAME.bind_interface", &["wan", "eth0.2", "off"], &["", "a b", "sixteen-letters-", "a/b"]),
    ("bridge.NAME.will.topic", &["a/b", "off"], &["", "a/+", "#"]),
    ("bridge.NAME.will.payload", &["gone", "\"\"", "off"], &["\"x"]),
    ("bridge.NAME.will.qos", &["0", "1", "2"], &["3", "", "off"]),
    ("bridge.NAME.will.retain", &["true", "false"], &["keep", ""]),
    ("bridge.NAME.notify_topic", &["a/b", "off"], &["", "a/#"]),
    ("bridge.NAME.forward.N.local_topic", &["#", "a/+/b", "$SYS/#", "+/+"], &["", "a#", "a/#/b", "a+", "off", "$share/g/a"]),
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
    let refused = errors("listener.a.url = mqtt://[::1]\nlistener.a.anonymous = false");
    assert!(refused[0].starts_with("f:2: listener.a.anonymous: false is not in this build"));
}

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let c = good("");
    assert_eq!(c.node_name, "router");
    assert_eq!((c.limit.clients, c.limit.sessions, c.limit.subscriptions), (64, 128, 1024));
    assert_eq!((c.limit.packet_bytes, c.limit.large_buffers), (65_536, 4));
    assert_eq!((c.ring_messages, c.ring_bytes, c.ack), (1024, 2 << 20, Ack::Safe));
    assert_eq!(c.store.path.as_deref(), Some("/var/lib/spillway/spill.db"));
    assert_eq!((c.store.max_bytes, c.store.sync, c.store.sessions_share), (None, Sync::Full, 25));
    assert_eq!(c.store.flush_after, Duration::from_millis(250));
    assert_eq!(c.limit.keepalive_max, None);
    assert_eq!(c.stats_interval, Some(Duration::from_secs(10)));
    assert_eq!(c.listeners.len(), 1);
    assert_eq!((c.listeners[0].host.as_str(), c.listeners[0].port), ("127.0.0.1", 1883));
    assert!(c.bridges.is_empty());
    assert!(warnings("").is_empty());
}

#[test]
fn a_bridge_has_the_documented_defaults() {
    let c = good(
        "bridge.b.server = mqtt://h\nbridge.b.forward.1.local_topic = a/#\n\
         bridge.b.subscribe.z.remote_topic = c\nstore.overflow = drop_newest",
    );
    let b = &c.bridges[0];
    assert_eq!(b.servers, [Server { host: "h".into(), port: 1883 }]);
    assert_eq!((b.version, b.bridge_bit, b.clean_start), (Version::V5, true, false));
    assert_eq!((b.keepalive, b.ack_timeout), (Duration::from_secs(30), Duration::from_secs(20)));
    assert_eq!((b.backoff_min, b.backoff_max), (Duration::from_secs(1), Duration::from_secs(60)));
    assert_eq!((b.max_inflight, b.rate, b.max_messages, b.max_bytes), (64, None, None, None));
    assert_eq!(b.overflow, Overflow::DropNewest);
    assert!(b.client_id.is_none() && b.will.is_none() && b.notify_topic.is_none());
    let f = &b.forward[0];
    assert_eq!((f.name.as_str(), f.qos, f.retain), ("1", None, RetainRule::Keep));
    assert_eq!((f.max_messages, f.overflow, f.max_age), (None, None, None));
    assert!(f.mapping.is_identity() && f.priority == Priority::Normal && !f.conflate);
    assert_eq!(b.subscribe[0].qos, Qos::AtLeastOnce);
}

#[test]
fn values_arrive_as_written() {
    let c = good(
        "bridge.b.server = mqtt://[fe80::1]:7, mqtt-tcp://k\nbridge.b.rate = 100/m\n\
         bridge.b.username = u\nbridge.b.password = \" p\\\"\\\\ \"\nbridge.b.max_bytes = 1MiB\n\
         bridge.b.will.topic = w\nbridge.b.will.payload = gone\nbridge.b.will.qos = 2\n\
         bridge.b.will.retain = true\nbridge.b.clientid = \"off\"\nbridge.b.proto_ver = 4",
    );
    let b = &c.bridges[0];
    assert_eq!(b.servers[0], Server { host: "fe80::1".into(), port: 7 });
    assert_eq!(b.servers[1], Server { host: "k".into(), port: 1883 });
    assert_eq!(b.rate, Some(Rate { count: 100, per: Duration::from_secs(60) }));
    assert_eq!(b.password.as_deref(), Some(&b" p\"\\ "[..]));
    assert_eq!((b.max_bytes, b.version), (Some(1 << 20), Version::V311));
    let w = b.will.as_ref().expect("will");
    assert_eq!(
        (w.topic.as_str(), w.payload.as_slice(), w.qos),
        ("w", &b"gone"[..], Qos::ExactlyOnce)
    );
    assert!(w.retain);
    assert_eq!(b.client_id.as_deref(), Some("off"));
}

#[test]
fn a_rule_with_a_rate_keeps_a_thousand_a_topic_and_drops_the_oldest() {
    let rule = |more: &str| {
        let text = format!("{HUB}bridge.b.forward.1.local_topic = a\nbridge.b.forward.1.{more}");
        let forward = good(&text).bridges[0].forward[0].clone();
        (forward.max_messages, forward.overflow)
    };
    assert_eq!(rule("rate = 1/s"), (Some(1000), Some(Overflow::DropOldest)));
    assert_eq!(
        rule("rate = 1/s\nbridge.b.forward.1.max_messages = 5"),
        (Some(5), Some(Overflow::DropOldest))
    );
    assert_eq!(rule("rate = 1/s\nbridge.b.forward.1.max_messages = off").0, None);
    assert_eq!(rule("rate = off"), (None, None));
}

#[test]
fn rules_and_bridges_stay_in_file_order() {
    let c = good(
        "bridge.z.server = mqtt://h\nbridge.z.forward.9.local_topic = a\n\
         bridge.a.server = mqtt://h\nbridge.z.forward.1.local_topic = b\n\
         bridge.z.forward.9.qos = 1\nbridge.a.notify_topic = n",
    );
    let names: Vec<&str> = c.bridges.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["z", "a"]);
    let rules: Vec<&str> = c.bridges[0].forward.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(rules, ["9", "1"]);
}

#[test]
fn a_password_file_is_read_through_the_caller_without_its_line_end() {
    let text = format!("{HUB}bridge.b.username = u\nbridge.b.password_file = /secret");
    assert_eq!(good(&text).bridges[0].password.as_deref(), Some(&b"from file"[..]));
    let both = errors(&format!("{text}\nbridge.b.password = hunter2"));
    assert!(both[0].starts_with("f:3: bridge.b.password_file: cannot be used"), "{both:?}");
    assert!(!both.concat().contains("hunter2"));
    let alone = errors(&format!("{HUB}bridge.b.password_file = /secret"));
    assert_eq!(alone, ["f:2: bridge.b.password_file: needs a username beside it"]);
}

#[test]
fn all_errors_come_in_one_run_in_the_order_of_the_lines() {
    let errors = errors(
        "bridge.a.servers = mqtt://h\nring.bytes = lots\nwhat\nack = perhaps\n\
         bridge.a.keepalive = 5",
    );
    let places: Vec<&str> = errors.iter().map(|e| e.split(' ').next().unwrap_or("")).collect();
    assert_eq!(places, ["f:1:", "f:2:", "f:3:", "f:4:", "f:5:", "f:5:"]);
    assert!(errors[0].contains("nearest known one is bridge.a.server"));
    assert!(errors.iter().any(|e| e == "f:5: bridge.a.server: is missing"), "{errors:?}");
}

#[test]
fn what_must_be_there_is_missed_where_its_section_begins() {
    assert_eq!(errors("\nbridge.b.rate = 1/s"), ["f:2: bridge.b.server: is missing"]);
    assert_eq!(errors("listener.l.max_clients = 1"), ["f:1: listener.l.url: is missing"]);
    assert_eq!(
        errors(&format!("{HUB}\nbridge.b.forward.1.qos = 1")),
        ["f:3: bridge.b.forward.1.local_topic: is missing"]
    );
    assert_eq!(
        errors(&format!("{HUB}\nbridge.b.subscribe.1.qos = 1\nbridge.b.subscribe.2.qos = 1")),
        [
            "f:3: bridge.b.subscribe.1.remote_topic: is missing",
            "f:4: bridge.b.subscribe.2.remote_topic: is missing"
        ]
    );
}

#[test]
fn two_bridges_never_share_a_client_id_at_one_server() {
    let pair = |server: &str, id: &str| {
        format!(
            "bridge.a.server = mqtt://x, mqtt://h\nbridge.a.clientid = one\n\
             bridge.a.notify_topic = n\nbridge.b.notify_topic = m\n\
             bridge.b.server = {server}\nbridge.b.clientid = {id}"
        )
    };
    let errors = errors(&pair("mqtt://H:1883", "one"));
    assert_eq!(errors, ["f:6: bridge.b.clientid: bridge a has this client id at the same server"]);
    good(&pair("mqtt://h:1884", "one"));
    good(&pair("mqtt://h", "two"));
    good(&pair("mqtt://h", "off"));
}

#[test]
fn notify_topic_and_a_will_exclude_each_other() {
    let text = format!("{HUB}bridge.b.notify_topic = n\nbridge.b.will.topic = w");
    let found = errors(&text);
    assert!(found[0].starts_with("f:2: bridge.b.notify_topic: cannot be used"), "{found:?}");
    let found = errors(&format!("{HUB}bridge.b.will.qos = 1"));
    assert_eq!(found, ["f:2: bridge.b.will.qos: needs will.topic beside it"]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let first = |text: &str| errors(text).remove(0);
    assert!(
        first("ring.bytes = 128KiB")
            .starts_with("f:1: ring.bytes: a packet (limit.packet_size 64KiB)")
    );
    assert!(
        first("limit.packet_size = 1MiB\nstore.max_bytes = 4MiB\nring.bytes = 8MiB")
            .starts_with("f:2: store.max_bytes")
    );
    assert!(first("ring.bytes = 512MiB\nlimit.retained_bytes = 512MiB").contains("of memory"));
    assert!(first("limit.topic_bytes = 1KiB\nlimit.packet_size = 1KiB").contains("topic_bytes"));
    assert!(first(&format!("{HUB}bridge.b.max_bytes = 8KiB")).starts_with("f:2: bridge.b.max_by"));
    let dropping = "bridge.b.overflow = drop_oldest\nbridge.b.max_bytes = 8KiB";
    good(&format!("{HUB}{dropping}"));
    assert!(first(&format!("{HUB}limit.bridges = 0")).contains("limit.bridges"));
    let rules =
        "limit.rules = 1\nbridge.b.forward.1.local_topic = a\nbridge.b.forward.2.local_topic = b";
    assert!(first(&format!("{HUB}{rules}")).contains("limit.rules (1)"));
    let listeners = "listener.a.url = mqtt://[::1]:1\nlistener.b.url = mqtt://[::1]:1";
    assert!(first(listeners).starts_with("f:2: listener.b.url: listener a"));
    let twice = "bridge.b.subscribe.1.remote_topic = a\nbridge.b.subscribe.2.remote_topic = a";
    assert!(first(&format!("{HUB}{twice}")).starts_with("f:3: bridge.b.subscribe.2"));
    let long = format!("{HUB}bridge.b.forward.1.local_topic = {}", "a".repeat(257));
    assert!(first(&long).contains("1 to 256 bytes"));
}

#[test]
fn what_is_allowed_but_doubtful_is_warned_about() {
    for (text, part) in [
        ("listener.l.url = mqtt://0.0.0.0:1883", "f:1: listener.l.url: warning: anonymous"),
        ("listener.l.url = mqtt://[fe80::1]", "anonymous"),
        ("store.path = none", "f:1: store.path: warning: no store"),
        ("store.sync = off", "power"),
        ("limit.clients = 200", "limit.sessions"),
        ("bridge.b.server = mqtt://h", "nothing to do"),
    ] {
        let warnings = warnings(text);
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{text}: {warnings:?}");
    }
    for quiet in ["listener.l.url = mqtt://127.3.2.1", "listener.l.url = mqtt://localhost"] {
        assert!(warnings(quiet).is_empty());
    }
}

#[test]
fn without_a_store_acknowledgements_come_from_the_ring() {
    let c = good("store.path = none\nack = safe");
    assert_eq!((c.ack, c.store.path), (Ack::Ring, None));
    assert!(warnings("store.path = none\nack = safe").iter().any(|w| w.contains("f:2: ack")));
    assert_eq!(good("store.path = \"none\"").store.path.as_deref(), Some("none"));
}

#[test]
fn the_host_name_is_made_to_fit() {
    let node = |host: &str| {
        let (config, _) = load("f", "", &mut |_| Err(String::new()), host).expect("loads");
        config.node_name
    };
    assert_eq!(node("OpenWrt"), "OpenWrt");
    assert_eq!(node("(none)"), "none");
    assert_eq!(node(""), "spillway");
    assert_eq!(node(&"é/".repeat(99)), "spillway");
    assert_eq!(node(&"a".repeat(99)).len(), 64);
}

const EXAMPLE: &str = include_str!("../../conf/spillway.conf");
const MINIMAL: &str = include_str!("../../conf/minimal.conf");

/// A line of the example that was a `key = value` before it was switched off.
fn switched_off(line: &str) -> Option<&str> {
    let bare = line.strip_prefix('#')?;
    let key = bare.split(" = ").next().filter(|_| bare.contains(" = "))?;
    (!key.is_empty() && !key.contains(' ')).then_some(bare)
}

#[test]
fn the_example_files_load() {
    let config = good(EXAMPLE);
    assert_eq!(config.bridges.len(), 2);
    assert_eq!(warnings(EXAMPLE), Vec::<String>::new());
    let config = good(MINIMAL);
    assert_eq!((config.bridges.len(), config.listeners.len()), (1, 1));
    assert_eq!(MINIMAL.lines().count(), 5);
}

#[test]
fn the_example_shows_every_key_and_switches_off_what_is_not_built() {
    let names = |pattern: &str, key: &str| matches!(keys::find(key), keys::Found::Known(k) if k.pattern == pattern);
    let key_of = |line: &str| line.split(" = ").next().unwrap_or("").to_owned();
    for key in KEYS {
        let live = EXAMPLE.lines().any(|line| names(key.pattern, &key_of(line)));
        let mut off = EXAMPLE.lines().enumerate().filter(|(_, line)| {
            switched_off(line).is_some_and(|bare| names(key.pattern, &key_of(bare)))
        });
        let off = off.next();
        if key.built {
            assert!(live || off.is_some(), "{} is not in the example", key.pattern);
        } else {
            assert!(!live, "{} is switched on", key.pattern);
            let (at, _) = off.unwrap_or_else(|| panic!("{} is not in the example", key.pattern));
            let lines: Vec<&str> = EXAMPLE.lines().take(at).collect();
            let comment = lines.iter().rev().find(|line| switched_off(line).is_none());
            let said = comment.is_some_and(|line| line.contains("Not in this build"));
            assert!(said, "the example does not say that {} is not built", key.pattern);
        }
    }
}

#[test]
fn what_the_example_switches_off_can_be_switched_on_if_it_is_built() {
    for (at, line) in EXAMPLE.lines().enumerate() {
        let Some(bare) = switched_off(line) else { continue };
        let mut lines: Vec<&str> = EXAMPLE.lines().collect();
        lines[at] = bare;
        let key = bare.split(" = ").next().unwrap_or("");
        let built = matches!(keys::find(key), keys::Found::Known(k) if k.built);
        let text = lines.join("\n").replace("/etc/spillway/cloud.password", "/secret");
        match load_text(&text) {
            Ok(_) => assert!(built, "{bare}"),
            Err(errors) => {
                assert!(!built && errors[0].ends_with("not in this build"), "{bare}: {errors:?}");
            }
        }
    }
}

#[test]
fn the_defaults_in_the_example_are_those_of_the_table() {
    // The top-level values of the example claim to be the defaults, all but the node's name.
    for line in EXAMPLE.lines().filter(|line| !line.starts_with('#')) {
        let Some((written, value)) = line.split_once(" = ") else { continue };
        let Some(key) = KEYS.iter().find(|key| key.pattern == written) else { continue };
        if written != "node.name" {
            assert!(key.default.starts_with(value), "{written}: {value} or {}", key.default);
        }
    }
}

#[test]
fn no_text_makes_it_panic() {
    const SEED: u64 = 0x5eed_c0f1;
    const ROUNDS: usize = 4000;
    let lines: Vec<&str> = EXAMPLE.lines().map(|l| l.trim_start_matches(['#', ' '])).collect();
    let pieces = [
        "",
        "=",
        "\"",
        "\\",
        "#",
        "off",
        "none",
        "-1",
        "99999999999999999999",
        "18446744073709551615",
        "1GiB",
        "16777216GiB",
        "5124095576030431d",
        "0/s",
        "4294967296/s",
        "mqtt://[::1]:65536",
        "mqtt://",
        "mqtt://a,,b",
        "bridge.",
        "....",
        "é",
        "\u{feff}",
        "\u{0}",
        "\r",
        "\t",
        "+/#",
        "bridge.x.forward.1.local_topic",
        "$share/a",
        "100%",
    ];
    let mut rng = Rng::new(SEED);
    let mut pick = |bound: usize| {
        let bound = u64::try_from(bound).expect("64 bits hold it");
        usize::try_from(rng.below(bound)).expect("less than the bound")
    };
    for _ in 0..ROUNDS {
        let mut text = String::new();
        for _ in 0..pick(12) {
            let mut line: Vec<char> = lines[pick(lines.len())].chars().collect();
            for _ in 0..pick(4) {
                let at = pick(line.len() + 1);
                match pick(3) {
                    0 => line.truncate(at),
                    1 => drop(line.splice(at..at, pieces[pick(pieces.len())].chars())),
                    _ => {
                        let to = pick(line.len() + 1);
                        if at < line.len() && to < line.len() {
                            line.swap(at, to);
                        }
                    }
                }
            }
            text.extend(line);
            text.push('\n');
        }
        if let Err(errors) = load_text(&text) {
            assert!(!errors.is_empty(), "refused without a reason (seed {SEED:#x}):\n{text}");
        }
    }
}
