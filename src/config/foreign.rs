//! What a file is that is no configuration of ours: somebody else's, or one of the files that ours
//! names. Asked only when a file does not make sense as what it should be, so that a few wrong
//! lines never turn it into something else. Shows no text of the file: it may hold passwords.

use super::parse::Raw;
use super::textfile::lines;

/// Lines that are looked at.
const LINES_MAX: usize = 2000;

/// Words that begin a line of mosquitto.conf and mean nothing in an access list.
const MOSQUITTO: &[&str] = &[
    "acl_file",
    "address",
    "addresses",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "autosave_interval",
    "autosave_on_changes",
    "bind_address",
    "bind_interface",
    "cafile",
    "certfile",
    "cleansession",
    "connection",
    "include_dir",
    "keepalive_interval",
    "keyfile",
    "listener",
    "local_clientid",
    "local_username",
    "log_dest",
    "log_timestamp",
    "log_type",
    "max_connections",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "max_queued_messages",
    "message_size_limit",
    "notifications",
    "password_file",
    "per_listener_settings",
    "persistence",
    "persistence_file",
    "persistence_location",
    "pid_file",
    "plugin",
    "port",
    "protocol",
    "queue_qos0_messages",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "require_certificate",
    "restart_timeout",
    "retain_available",
    "round_robin",
    "socket_domain",
    "start_type",
    "sys_interval",
    "try_private",
    "use_identity_as_username",
];

const FROM_MOSQUITTO: &str = "README.md, \"Coming from mosquitto\", says what each of its lines is \
                              here";
const FROM_NANOMQ: &str = "README.md, \"Coming from NanoMQ\", says what each of its keys is here";
const FLAT: &str = "here a file is flat, one key = value a line; conf/minimal.conf is one";

/// What lines of the text look like, counted.
#[derive(Debug, Default)]
struct Counts {
    lines: usize,
    sections: usize,
    pairs: usize,
    quoted: usize,
    mosquitto: usize,
    acl: usize,
    hashed: usize,
    plain_users: usize,
    colons: usize,
    braces: usize,
    uci: usize,
    nanomq: usize,
    emqx: usize,
}

/// What the text is, in a word and with what to read, if it can be told. `ours`: what of it made
/// sense; half of its lines and it is ours.
pub(super) fn recognize(text: &str, ours: &Raw<'_>) -> Option<String> {
    let trimmed = text.trim_start();
    let counts = count(text);
    if counts.lines == 0 || 2 * ours.entries.len() >= counts.lines {
        return None;
    }
    let (what, hint) = by_beginning(trimmed, &counts).or_else(|| by_lines(&counts))?;
    Some(format!("this looks like {what}: {hint}"))
}

fn by_beginning(text: &str, counts: &Counts) -> Option<(&'static str, &'static str)> {
    let first = text.lines().next().unwrap_or("");
    if first.starts_with("#!") {
        return Some(("a script", FLAT));
    }
    if first.starts_with("-----BEGIN ") {
        return Some(("a certificate or a key in PEM form", FLAT));
    }
    if first.starts_with('<') {
        return Some(("XML or HTML", FLAT));
    }
    let json = text.starts_with('{') || text.starts_with('[') && counts.sections == 0;
    if json && text.contains('"') && text.contains(':') {
        return Some(("JSON", FLAT));
    }
    first.starts_with("---").then_some(("YAML", FLAT))
}

fn by_lines(counts: &Counts) -> Option<(&'static str, &'static str)> {
    let half = |count: usize| 2 * count >= counts.lines;
    let found = if counts.hashed > 0 && half(counts.hashed) {
        ("a file of users and password hashes", "it belongs into auth.password_file")
    } else if counts.mosquitto > 0 && half(counts.mosquitto + counts.acl) {
        ("a mosquitto.conf", FROM_MOSQUITTO)
    } else if half(counts.acl) {
        ("a file of access rules", "it belongs into auth.acl_file")
    } else if half(counts.uci) {
        ("a UCI file of OpenWrt", FLAT)
    } else if counts.emqx > 0 && counts.emqx >= counts.nanomq {
        ("a configuration of EMQX", FLAT)
    } else if counts.nanomq > 0 {
        ("a nanomq.conf", FROM_NANOMQ)
    } else if counts.braces > 0 {
        ("a configuration in HOCON or another form with braces", FLAT)
    } else if counts.sections > 0 && counts.quoted > 0 {
        ("TOML", FLAT)
    } else if counts.sections > 0 && half(counts.sections + counts.pairs) {
        ("an INI file", FLAT)
    } else if half(counts.plain_users) {
        ("a file of users and passwords", "spillway passwd makes one that auth.password_file takes")
    } else if half(counts.colons) {
        ("YAML", FLAT)
    } else {
        return None;
    };
    Some(found)
}

fn count(text: &str) -> Counts {
    let mut counts = Counts::default();
    for (_, line) in lines(text).take(LINES_MAX) {
        let bare = line.trim();
        let comment = bare.starts_with('#') || bare.starts_with("//") || bare.starts_with(';');
        if !bare.is_empty() && !comment {
            counts.add(bare, line.starts_with([' ', '\t']));
        }
    }
    counts
}

impl Counts {
    fn add(&mut self, line: &str, indented: bool) {
        self.lines += 1;
        let word = line.split([' ', '\t']).next().unwrap_or("");
        let argument = line.len() > word.len();
        let pair = line.split_once('=');
        self.pairs += usize::from(pair.is_some());
        let value = pair.map_or("", |(_, value)| value.trim());
        self.quoted += usize::from(value.starts_with(['"', '\'', '[']));
        self.sections += usize::from(line.starts_with('[') && line.ends_with(']'));
        let braces = line.ends_with('{') || line == "}" || line.ends_with("[{");
        self.braces += usize::from(braces);
        // Those have no = between them.
        let argument = argument && !line[word.len()..].trim_start().starts_with('=');
        self.mosquitto += usize::from(argument && MOSQUITTO.contains(&word));
        self.acl += usize::from(argument && matches!(word, "user" | "topic" | "pattern"));
        self.uci += usize::from(matches!(word, "config" | "option" | "list") && pair.is_none());
        self.hashed += usize::from(line.contains(":$7$") || line.contains(":$6$"));
        let key = pair.map_or(line, |(key, _)| key).trim_end_matches(['{', ' ']);
        let any = |parts: &[&str]| parts.iter().any(|part| key.starts_with(part));
        self.nanomq += usize::from(
            line.contains("nmq-")
                || any(&[
                    "bridges.mqtt",
                    "bridge.mqtt.",
                    "bridge.sqlite",
                    "listeners.tcp",
                    "num_taskq_thread",
                    "max_taskq_thread",
                    "parallel",
                    "property_size",
                    "msq_len",
                    "http_server",
                    "sqlite",
                    "hook.",
                    "auth.http",
                    "webhook",
                ]),
        );
        self.emqx += usize::from(
            line.contains("emqx")
                || any(&[
                    "node.cookie",
                    "cluster",
                    "dashboard",
                    "listener.tcp.",
                    "listener.ssl.",
                    "zone.",
                    "rpc.",
                    "mnesia",
                    "listeners.tcp.default",
                ]),
        );
        match line.split_once(':') {
            // A dotted name is one of ours, with the wrong sign behind it.
            Some((name, rest)) if rest.is_empty() || rest.starts_with(' ') => {
                self.colons += usize::from(!name.contains('.'));
            }
            Some((name, _)) if !indented && !name.contains(' ') && !line.contains("://") => {
                self.plain_users += 1;
            }
            Some(_) => {}
            None => self.colons += usize::from(line.starts_with("- ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load;

    fn said(text: &str) -> Vec<String> {
        let loaded = load("f", text, &mut |_| Err(String::new()), "n");
        loaded.err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    const ACL: &str = "# rules\nuser alice\ntopic read a/#\n\npattern write d/%u\ntopic b\n";

    #[test]
    fn what_is_of_another_kind_is_said_in_one_line_with_what_to_read() {
        let mosquitto = "# mine\nlistener 1883 0.0.0.0\nallow_anonymous true\nuser mosquitto\n\n\
            connection up\naddress hub:1883\ntopic # out 1\nremote_password secret\n";
        let nanomq_old =
            "url=nmq-tcp://0.0.0.0:1883\nnum_taskq_thread=0\nbridge.mqtt.emqx.address=x\n";
        let nanomq = "mqtt {\n  max_packet_size = 1MB\n}\n\
            listeners.tcp {\n  bind = \"0.0.0.0:1883\"\n}\n\
            bridges.mqtt.emqx1 {\n  server = \"mqtt-tcp://h:1883\"\n  forwards = [\n    {\n  \
            local_topic = \"a\"\n }\n  ]\n}\n";
        let emqx = "node {\n  name = \"emqx@127.0.0.1\"\n  cookie = \"secret\"\n}\n\
            listeners.tcp.default {\n  bind = 1883\n}\ndashboard {\n}\n";
        let emqx_old = "node.name = emqx@127.0.0.1\ncluster.name = emqxcl\nnode.cookie = secret\n\
            listener.tcp.external = 0.0.0.0:1883\n";
        let toml = "[listener]\nurl = \"mqtt://127.0.0.1\"\n[bridge.hub]\nserver = \"mqtt://h\"\n";
        let yaml =
            "listener:\n  url: mqtt://127.0.0.1\nbridges:\n  - name: hub\n    topics:\n      - a\n";
        let json = "{\n  \"listener\": {\"url\": \"mqtt://127.0.0.1\"},\n  \"a\": [1]\n}\n";
        let ini = "; mine\n[listener]\nurl=mqtt://127.0.0.1\n[bridge]\nserver=mqtt://h\n";
        let uci = "config spillway 'main'\n\toption listen '1883'\n\tlist topic 'a'\n";
        let hashes = "alice:$7$101$mcE5JJ8S$bLl8Sr9GgQP==\nbob:$7$101$mcE5JJ8S$bLl8Sr9GgQP==\n";
        for (text, what) in [
            (mosquitto, "a mosquitto.conf: README.md, \"Coming from mosquitto\""),
            (nanomq_old, "a nanomq.conf: README.md, \"Coming from NanoMQ\""),
            (nanomq, "a nanomq.conf: README.md, \"Coming from NanoMQ\""),
            (emqx, "a configuration of EMQX: "),
            (emqx_old, "a configuration of EMQX: "),
            (toml, "TOML: "),
            (yaml, "YAML: "),
            (&format!("---\n{yaml}"), "YAML: "),
            (json, "JSON: "),
            (ini, "an INI file: "),
            (uci, "a UCI file of OpenWrt: "),
            (hashes, "a file of users and password hashes: "),
            ("alice:secret\nbob:word\n", "a file of users and passwords: "),
            (ACL, "a file of access rules: it belongs into auth.acl_file"),
            ("#!/bin/sh\necho 1\n", "a script: "),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n", "a certificate or a key"),
            ("<?xml version=\"1.0\"?>\n<a/>\n", "XML or HTML: "),
            ("server {\n  listen 80;\n}\n", "a configuration in HOCON"),
        ] {
            let said = said(text);
            assert_eq!(said.len(), 1, "{text}: {said:?}");
            assert!(said[0].starts_with(&format!("f: this looks like {what}")), "{text}: {said:?}");
            assert!(!said[0].contains("secret"), "{said:?}");
        }
    }

    #[test]
    fn a_file_of_ours_with_errors_stays_one() {
        let good = "listener.lan.url = mqtt://127.0.0.1\nbridge.hub.server = mqtt://h\n\
            bridge.hub.forward.all.local_topic = #\n";
        for bad in
            ["[bridge]", "topic # out 1", "listener 1883", "{", "a: b", "---", "cluster.x = 1"]
        {
            let said = said(&format!("{good}{bad}\n"));
            assert!(said.len() == 1 && said[0].starts_with("f:4: "), "{bad}: {said:?}");
        }
        // Nor is something else what nobody can tell.
        let own = ["listener = mqtt://h\n", "listener.l.url : mqtt://h\n", "ring.mesages = 1\n"];
        for text in own.iter().chain(&["what\nis this\n", "= 1\n"]) {
            assert!(said(text)[0].starts_with("f:1: "), "{text}: {:?}", said(text));
        }
    }
}
