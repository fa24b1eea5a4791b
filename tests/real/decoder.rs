//! A decoder that is not ours: what the gateway says on its sockets, to clients and to its remote,
//! as Wireshark reads it.

use crate::common::client::{Wire, dial};
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, MosquittoSub, mosquitto_pub};
use crate::common::place::Directory;
use crate::common::process::Process;
use crate::common::wire::{Connect, MAXIMUM_PACKET_SIZE, Message, user_property};
use crate::common::{PATIENCE, wait_until};
use std::collections::BTreeSet;
use std::process::Command;

/// `tshark` listening on loopback.
struct Capture {
    process: Process,
    directory: Directory,
    ports: Vec<u16>,
}

impl Capture {
    fn start(ports: &[u16]) -> Self {
        let directory = Directory::new();
        let filter: Vec<_> = ports.iter().map(|port| format!("tcp port {port}")).collect();
        let mut command = Command::new("tshark");
        command.args(["-i", "lo", "-q", "-f", &filter.join(" or "), "-w"]);
        command.arg(directory.file("capture.pcapng"));
        let capture = Self { process: Process::start(command), directory, ports: ports.to_vec() };
        // It says that it captures before it does.
        wait_until("tshark captures (is it installed, and is this root?)", || {
            drop(dial(ports[0]));
            !capture.read("tcp", &["frame.number"]).is_empty()
        });
        capture
    }

    /// The packets a display filter takes, as their fields.
    fn read(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(self.directory.file("capture.pcapng"));
        for port in &self.ports {
            command.args(["-d", &format!("tcp.port=={port},mqtt")]);
        }
        command.args(["-Y", filter, "-T", "fields", "-E", "separator=;"]);
        command.args(fields.iter().flat_map(|field| ["-e", field]));
        let output = command.output().expect("tshark is installed (scripts/test does that)");
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(|line| line.split(';').map(str::to_owned).collect()).collect()
    }

    fn stop(&mut self) {
        self.process.signal(libc::SIGINT);
        self.process.wait_exit(PATIENCE);
    }
}

/// What only the bytes of our own tests' client bring about.
fn every_corner(port: u16, level: u8) {
    let kept = Connect::new(level, &format!("kept-{level}")).keepalive(30).persistent();
    kept.open(port).subscribe(&[("kept", 2)]);
    let mut client = Connect::new(level, &format!("client-{level}")).open(port);
    client.subscribe(&[("t/#", 2), ("$share", 0)]);
    for qos in 0..=2 {
        for bytes in [0, 1, 3000] {
            let message = Message::new("t/a", vec![b'x'; bytes]).qos(qos);
            let message = match level {
                5 => message.property(user_property("key", "value")),
                _ => message,
            };
            client.publish(&message);
            assert_eq!(client.next().payload.len(), bytes);
        }
        client.publish(&Message::new("kept", "later").qos(qos));
    }
    client.publish(&Message::new("t/retained", "on").qos(1).retained());
    client.next();
    client.publish(&Message::new("t/retained", "").qos(1).retained());
    client.next();
    client.publish(&Message::new("nobody/listens", "").qos(1));
    client.unsubscribe("t/#");
    client.unsubscribe("never/was");
    client.ping();
    let mut back = kept.open(port);
    assert_eq!([back.next().text(), back.next().text()], ["later", "later"]);
    // Take-over, refusals, ends for what was said.
    let _second = kept.open(port);
    back.wait_closed();
    let refused = Connect::new(level, &"a".repeat(200)).try_open(port).expect("a CONNACK");
    assert_ne!(refused.connack.code, 0);
    let small = Connect::new(level, "small").property((MAXIMUM_PACKET_SIZE, vec![0, 0, 0, 200]));
    let mut small = if level == 5 { small } else { Connect::new(level, "small") }.open(port);
    small.send(&[0x3E, 0]);
    small.wait_closed();
    client.disconnect();
}

#[test]
fn wireshark_finds_every_packet_of_ours_well_formed() {
    let remote = Mosquitto::start();
    let rules = |version: u8| {
        let version = format!("proto_ver = {version}");
        [
            "forward.1.local_topic = t/#",
            "subscribe.1.remote_topic = down/#",
            "subscribe.1.qos = 2",
            "keepalive = 2s",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([version])
        .collect::<Vec<_>>()
    };
    let bridges: String = [4, 5]
        .map(|version| {
            let rules = rules(version);
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            bridge(&format!("up{version}"), remote.port, &rules)
        })
        .concat();
    let mut gateway = Gateway::prepare(&bridges);
    let mut capture = Capture::start(&[remote.port, gateway.port]);
    gateway.run();
    gateway.wait_with("bridge_up", &[("bridge", "up4")]);
    gateway.wait_with("bridge_up", &[("bridge", "up5")]);
    let port = gateway.port;
    for (level, version) in [(4, "mqttv311"), (5, "mqttv5")] {
        every_corner(port, level);
        let sub = MosquittoSub::start(port, "%p", &["-V", version, "-t", "down/#", "-q", "2"]);
        for qos in ["1", "2"] {
            let to = ["-V", version, "-t", "down/a", "-q", qos, "-m", "x"];
            mosquitto_pub(remote.port, &to);
        }
        sub.take(2);
    }
    let ping = format!("mqtt.msgtype == 12 && tcp.dstport == {}", remote.port);
    wait_until("a link is probed", || !capture.read(&ping, &["frame.number"]).is_empty());
    // Something is malformed: the decoder would say so of ours too.
    let mut wire = Wire::new(dial(port).expect("a connection"), 4);
    wire.send(b"\x10\x06\0\x40MQTT").expect("sent");
    wire.read_to_the_end();
    gateway.stop();
    let malformed = "(_ws.malformed || _ws.expert.severity == error) && mqtt";
    wait_until("the last packet is in the file", || {
        !capture
            .read(&format!("{malformed} && tcp.dstport == {port}"), &["frame.number"])
            .is_empty()
    });
    capture.stop();
    let ours = format!("(tcp.srcport == {port} || tcp.dstport == {})", remote.port);
    let fields = ["frame.number", "mqtt.msgtype", "_ws.expert.message", "mqtt.msg"];
    assert_eq!(capture.read(&format!("{malformed} && {ours}"), &fields), [[""; 0]; 0]);
    // And it has seen them: every type a server and a client may send, in both versions.
    let types = |side: &str| -> BTreeSet<u8> {
        let rows = capture.read(&format!("mqtt && {side}"), &["mqtt.msgtype"]);
        let all = rows.iter().flatten().flat_map(|types| types.split(','));
        all.filter_map(|kind| kind.parse().ok()).collect()
    };
    let server = types(&format!("tcp.srcport == {port}"));
    assert_eq!(server, BTreeSet::from([2, 3, 4, 5, 6, 7, 9, 11, 13, 14]));
    let client = types(&format!("tcp.dstport == {}", remote.port));
    assert!(client.is_superset(&BTreeSet::from([1, 3, 4, 5, 6, 7, 8, 12, 14])), "{client:?}");
    for version in [4, 5] {
        let connects = format!("mqtt.ver == {version} && tcp.dstport == {}", remote.port);
        assert!(!capture.read(&connects, &["frame.number"]).is_empty(), "version {version}");
    }
}
