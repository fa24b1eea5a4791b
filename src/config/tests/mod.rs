//! Claims about whole files: defaults, places of errors, what does not fit together.

mod each_key;
mod examples;

use super::*;

fn load_text(text: &str) -> Result<(Config, Vec<Warning>), Vec<String>> {
    let mut read_file = |path: &str| match path {
        "/secret" => Ok(b"from file\r\n".to_vec()),
        "/empty" => Ok(b"\n".to_vec()),
        "/users" => Ok(ALICE.as_bytes().to_vec()),
        "/rules" => Ok(b"user alice\ntopic read a/#\n".to_vec()),
        "/wrong" => Ok(b"# all of it\nalice\nuser\n\nbob\n".to_vec()),
        "/bytes" => Ok(vec![b'a', 0xFF]),
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

/// Written by mosquitto_passwd.
const ALICE: &str = "\
alice:$7$101$mcE5JJ8SIOm2lzIk$bLl8Sr9GgQP+IDKyiLriRPEfx7SGqVVsW2+R2Kbb4n2PmShM8z9as8sXJE6Ave7uhj+\
VQUbawiFKJP3FC4MNxg==
";

const HUB: &str = "bridge.b.server = mqtt://hub.example\n";

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let c = good("");
    assert_eq!(c.node_name, "router");
    assert_eq!((c.limit.clients, c.limit.sessions, c.limit.subscriptions), (64, 128, 1024));
    assert_eq!((c.limit.packet_bytes, c.limit.large_buffers), (262_144, 4));
    assert_eq!((c.ring_messages, c.ring_bytes, c.ack), (1024, 2 << 20, Ack::Safe));
    assert_eq!(c.store.path.as_deref(), Some("/var/lib/spillway/spill.db"));
    assert_eq!((c.store.max_bytes, c.store.sync, c.store.sessions_share), (None, Sync::Full, 25));
    assert_eq!(c.store.flush_after, Duration::from_millis(250));
    assert_eq!(c.limit.keepalive_max, None);
    assert_eq!(c.stats_interval, Some(Duration::from_secs(60)));
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
    assert_eq!((b.max_inflight, b.max_inflight_untold), (64, 20));
    assert_eq!((b.rate, b.max_messages, b.max_bytes), (None, None, None));
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
fn a_mapping_is_checked_when_it_is_read() {
    let rule = |kind: &str, source: &str, target: &str| {
        let (from, to) = match kind {
            "forward" => ("local_topic", "remote_topic"),
            _ => ("remote_topic", "local_topic"),
        };
        format!("{HUB}bridge.b.{kind}.1.{to} = {target}\nbridge.b.{kind}.1.{from} = {source}")
    };
    let mapped = |mapping: &crate::mqtt::topic::Mapping, topic: &str| {
        let mut out = [0; 64];
        let length = mapping.map(topic, &mut out).expect("fits");
        String::from_utf8(out[..length].to_vec()).expect("UTF-8")
    };
    let around = "\nbridge.b.forward.1.prefix = p/\nbridge.b.forward.1.suffix = /s";
    let c = good(&(rule("forward", "server/+/state", "site7/+") + around));
    assert_eq!(mapped(&c.bridges[0].forward[0].mapping, "server/x/state"), "p/site7/x/s");
    let c = good(&rule("subscribe", "site7/#", "here/#"));
    assert_eq!(mapped(&c.bridges[0].subscribe[0].mapping, "site7/a/b"), "here/a/b");
    for (kind, source, target, place) in [
        ("forward", "server/+", "a/+/+", "f:2: bridge.b.forward.1.remote_topic: "),
        ("subscribe", "server/#", "a/+", "f:2: bridge.b.subscribe.1.local_topic: "),
        ("subscribe", "server", "a/#", "f:2: bridge.b.subscribe.1.local_topic: "),
    ] {
        let errors = errors(&rule(kind, source, target));
        assert!(errors.len() == 1 && errors[0].starts_with(place), "{errors:?}");
        assert!(errors[0].contains("wildcard"), "{errors:?}");
    }
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
fn the_largest_packet_is_as_large_as_what_is_written_elsewhere_allows() {
    let packet = |text: &str| good(text).limit.packet_bytes >> 10;
    for (text, kib) in [
        ("ring.bytes = 4MiB", 256),
        ("ring.bytes = 512KiB", 128),
        ("ring.bytes = 256KiB", 64),
        ("store.max_bytes = 1MiB", 128),
        ("ring.bytes = 512KiB\nlimit.packet_size = 100KiB", 100),
        ("limit.packet_size = 4KiB", 4),
    ] {
        assert_eq!(packet(text), kib, "{text}");
    }
    assert_eq!(packet(&format!("{HUB}bridge.b.max_bytes = 96KiB")), 96);
    assert_eq!(packet(&format!("{HUB}bridge.b.max_bytes = 1MiB")), 256);
    assert!(errors("ring.bytes = 512KiB\nlimit.packet_size = 256KiB")[0].contains("packet_size"));
    // What has to be in one piece takes no more memory than before, whatever its size.
    for (text, large) in [
        ("", 64 << 10),
        ("limit.packet_size = 4KiB", 4 << 10),
        ("limit.packet_size = 512KiB", 128 << 10),
        ("limit.large_buffers = 1", 256 << 10),
    ] {
        assert_eq!(good(text).limit.large_bytes(), large, "{text}");
    }
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
    let rule = |at| format!("bridge.b.forward.{at}.local_topic = t/{at}\n");
    let rules = |count: u32| (0..count).map(rule).collect::<String>();
    good(&format!("{HUB}limit.rules = 1024\n{}", rules(254)));
    let more = format!("{HUB}limit.rules = 1024\n{}", rules(255));
    assert!(first(&more).contains("more than 254 rules forward"));
    let listeners = "listener.a.url = mqtt://[::1]:1\nlistener.b.url = mqtt://[::1]:1";
    let both = "f:2: listener.b.url: listener.a.url (line 1) listens at [::1]:1 already";
    assert_eq!(first(listeners), both);
    let names = "listener.a.url = mqtt://lan:1\nlistener.b.url = mqtt://LAN:1";
    assert_eq!(first(names), "f:2: listener.b.url: listener.a.url (line 1) is the same");
    let twice = "bridge.b.subscribe.1.remote_topic = a\nbridge.b.subscribe.2.remote_topic = a";
    assert!(first(&format!("{HUB}{twice}")).starts_with("f:3: bridge.b.subscribe.2"));
    let long = format!("{HUB}bridge.b.forward.1.local_topic = {}", "a".repeat(257));
    assert!(first(&long).contains("1 to 256 bytes"));
}

#[test]
fn what_is_meant_is_said_where_it_can_be_told() {
    let hub = "bridge.b.server = mqtt://h\n";
    for (line, part) in [
        ("bridge.c.server = h.example.com:1883", ": perhaps mqtt://h.example.com:1883"),
        ("bridge.c.server = tcp://h:1883", ": perhaps mqtt://h:1883"),
        ("bridge.c.server = ftp://h:1883", "must be mqtt://host:port, not ftp://h:1883"),
        ("bridge.c.server = mqtt://h:1883/mqtt", "a path belongs to WebSocket"),
        ("bridge.c.server = mqtt://[fe80::1%eth0]", "a zone such as %eth0"),
        ("listener.l.url = mqtt://:1883", "the host is missing"),
        ("listener.l.url = mqtt://*:1883", "all addresses are 0.0.0.0"),
        ("limit.packet_size = 256 KiB", "not 256 KiB (without a blank: 256KiB)"),
        ("session.expiry = 7 d", "(without a blank: 7d)"),
        ("bridge.b.keepalive = 60", "not 60 (without a unit: 60s is seconds)"),
        ("bridge.b.forward.x.local_topic = '#'", "only double quotes are taken off"),
        ("ack safe", "behind ack there is no ="),
        ("listener.l.url : mqtt://h", "behind listener.l.url there is no ="),
        ("[bridge]", "there are no sections here"),
    ] {
        let said = errors(&format!("{hub}{line}"));
        assert!(said[0].starts_with("f:2: ") && said[0].contains(part), "{line}: {said:?}");
    }
    assert_eq!(good("bridge.c.server = MQTT://h").bridges[0].servers[0].host, "h");
    for (line, part) in [
        ("bridge.b.forward.x.local_topic = a/*", "* is no wildcard"),
        ("bridge.b.username = 'u'", "single quotes are a part of the value"),
        ("store.path = spill.db", "is relative"),
    ] {
        let said = warnings(&format!("{hub}bridge.b.subscribe.y.remote_topic = y\n{line}"));
        assert!(said.len() == 1 && said[0].contains(part), "{line}: {said:?}");
    }
}

#[test]
fn a_comment_behind_a_value_is_named_as_such() {
    const ONLY: &str = "a # starts a comment only at the beginning of a line";
    let hub = "bridge.b.server = mqtt://h\n";
    for line in [
        "listener.l.url = mqtt://127.0.0.1:1883 # lan",
        "limit.clients = 8 # enough",
        "store.flush_after = 1s\t# soon",
        "store.max_bytes = 8MiB # small",
        "ack = safe # of course",
        "node.name = here # there",
        "bridge.b.clean_start = true # yes",
        "bridge.b.rate = 5/s # slow",
        "bridge.b.forward.x.local_topic = a/b # out",
        "bridge.b.forward.x.local_topic = # # all",
        "bridge.b.notify_topic = a # b",
    ] {
        let said = errors(&format!("{hub}{line}"));
        assert!(said[0].starts_with("f:2: ") && said[0].ends_with(ONLY), "{line}: {said:?}");
    }
    // What is a value all the same is doubted, unless it is in quotes.
    let text = |value| format!("{hub}bridge.b.username = u\nbridge.b.password = {value}\n");
    let doubted = warnings(&text("secret # mine"));
    assert!(doubted.iter().any(|w| w.contains(ONLY) && !w.contains("secret")), "{doubted:?}");
    assert!(!warnings(&text("\"secret # mine\"")).iter().any(|w| w.contains(ONLY)));
    for filter in ["#", "a/#", "+/a/#", "$SYS/#"] {
        let rule = format!("{hub}bridge.b.forward.x.local_topic = {filter}");
        assert!(warnings(&rule).is_empty(), "{filter}");
    }
}

#[test]
fn rules_that_overlap_are_warned_about_with_both_keys_and_lines() {
    const REACHED: &str = "matches all of this: this rule is never reached";
    const SOME: &str = "matches some of this: what matches both goes by that one";
    let rules = |kind: &str, key: &str, one: &str, other: &str| {
        let rule = |at, filter| format!("bridge.b.{kind}.{at}.{key} = {filter}\n");
        warnings(&format!("{HUB}{}{}", rule("x", one), rule("y", other)))
    };
    for (one, other, wanted) in [
        ("#", "a/b", Some(REACHED)),
        ("a/#", "a", Some(REACHED)),
        ("a/+", "a/b", Some(REACHED)),
        ("+/#", "#", Some(REACHED)),
        ("a", "a", Some(REACHED)),
        ("$SYS/#", "$SYS/broker/+", Some(REACHED)),
        ("a/+", "+/b", Some(SOME)),
        ("+/alarm/#", "a/+", Some(SOME)),
        // The exception first, and what has nothing in common.
        ("a/b", "#", None),
        ("a/+/#", "a/#", None),
        ("#", "$SYS/#", None),
        ("+/x", "$SYS/x", None),
        ("a/b", "A/B", None),
        ("a/+", "a", None),
        ("a/b", "a/b/", None),
    ] {
        let said = rules("forward", "local_topic", one, other);
        let place = format!(
            "f:3: bridge.b.forward.y.local_topic: warning: bridge.b.forward.x.local_topic (line 2) \
             = {one} is first and "
        );
        let wanted: Vec<String> = wanted.iter().map(|why| format!("{place}{why}")).collect();
        assert_eq!(said, wanted, "{one} {other}");
    }
    for (one, other, wanted) in [
        ("#", "a/b", Some("asks for all of this already")),
        ("a/b", "#", Some("is asked for by this, too")),
        ("a/+", "+/b", Some("asks for some of this")),
        ("data/#", "data/req/+", Some("asks for all of this already")),
        ("#", "$SYS/#", None),
        ("a/+", "a", None),
    ] {
        let said = rules("subscribe", "remote_topic", one, other);
        let place = "f:3: bridge.b.subscribe.y.remote_topic: warning: \
                     bridge.b.subscribe.x.remote_topic (line 2) = ";
        assert_eq!(said.len(), wanted.iter().count(), "{one} {other}: {said:?}");
        let good = |said: &str| wanted.is_some_and(|part| said.contains(part));
        assert!(said.iter().all(|s| s.starts_with(place) && good(s)), "{said:?}");
    }
    // Each bridge has its own, and each direction.
    let apart = "bridge.b.forward.x.local_topic = #\nbridge.b.subscribe.x.remote_topic = a\n\
                 bridge.c.server = mqtt://h\nbridge.c.forward.x.local_topic = a\n";
    assert!(warnings(&format!("{HUB}{apart}")).is_empty());
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

#[test]
fn users_and_rules_are_read_through_the_caller() {
    let auth = good("auth.password_file = /users\nauth.acl_file = /rules").auth;
    assert!(auth.users.unwrap().find("alice").is_some());
    assert_eq!(auth.acl.unwrap().rules_of(Some("alice")).len(), 1);
    assert_eq!(good("").auth, Auth::default());
    let warned = warnings("auth.acl_file = /rules");
    assert!(warned[0].starts_with("f:1: auth.acl_file: warning: without auth.password_file"));
}

#[test]
fn errors_in_them_name_the_key_and_their_own_file_and_line() {
    let wrong = errors("\nauth.password_file = /wrong\nauth.acl_file = /wrong");
    for (at, start) in [
        "f:2: auth.password_file: /wrong:2: ",
        "f:2: auth.password_file: /wrong:3: ",
        "f:2: auth.password_file: /wrong:5: ",
        "f:3: auth.acl_file: /wrong:2: ",
        "f:3: auth.acl_file: /wrong:3: ",
        "f:3: auth.acl_file: /wrong:5: ",
    ]
    .iter()
    .enumerate()
    {
        assert!(wrong[at].starts_with(start), "{wrong:?}");
    }
    let bytes = errors("auth.acl_file = /bytes");
    assert!(bytes[0].starts_with("f:1: auth.acl_file: /bytes:1: is not UTF-8"), "{bytes:?}");
}

#[test]
fn a_listener_without_anonymous_clients_needs_users() {
    let text = "listener.a.url = mqtt://0.0.0.0\nlistener.a.anonymous = false\n";
    let refused = errors(text);
    assert!(refused[0].starts_with("f:2: listener.a.anonymous: false lets nobody in"));
    assert!(errors(&format!("{text}auth.password_file = off"))[0].contains("lets nobody in"));
    let text = format!("{text}auth.password_file = /users");
    assert!(!good(&text).listeners[0].anonymous);
    assert!(warnings(&text).is_empty(), "nobody is anonymous");
}
