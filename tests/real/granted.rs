//! What a remote allows and says in its CONNACK, SUBACK and DISCONNECT is kept to, and logged.

use crate::common::gateway::{Gateway, bridge};
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wire::{Packet, Property, packet, prefixed, properties};
use std::io::Result;

const SESSION_EXPIRY: u8 = 0x11;
const SERVER_REFERENCE: u8 = 0x1C;
const REASON_STRING: u8 = 0x1F;
const MAXIMUM_QOS: u8 = 0x24;
const WILDCARDS_AVAILABLE: u8 = 0x28;

fn words(id: u8, text: &str) -> Property {
    (id, prefixed(text.as_bytes()))
}

/// The code and properties with which a will of this QoS and RETAIN flag is refused.
type Refuses = fn(u8, bool) -> Option<(u8, Vec<Property>)>;

/// Grants a connection with these properties, and serves.
fn granting(list: Vec<Property>) -> Stub {
    Stub::start(move |session, _| {
        session.greet(false, 0, &list)?;
        session.serve()
    })
}

#[test]
fn a_refusal_is_logged_in_the_remotes_own_words() {
    let remote = Stub::start(|session, _| {
        let said = "try\u{202E} \"the other\"\n";
        let list = [words(SERVER_REFERENCE, "b.example:1883"), words(REASON_STRING, said)];
        session.greet(false, 0x9C, &list).map(drop)
    });
    let rules = ["forward.1.local_topic = t", "proto_ver = 5"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let down = gateway.wait_with("bridge_down", &[("reason", "use_another")]);
    assert_eq!(down.text("server_reference"), "b.example:1883");
    // One line, and nothing in it that turns it round.
    assert!(down.line.contains("said=\"try") && !down.line.contains('\u{202E}'), "{}", down.line);
    assert!(down.line.contains("\\\"the other\\\""), "{}", down.line);
}

#[test]
fn a_disconnect_is_logged_in_the_remotes_own_words_once() {
    let remote = Stub::start(|session, number| {
        session.greet(false, 0, &[])?;
        session.read_until_subscribed()?;
        if number > 0 {
            return Ok(());
        }
        let list = [words(SERVER_REFERENCE, "c.example"), words(REASON_STRING, "moving")];
        session.send(&packet(0xE0, &[&[0x9D][..], &properties(&list)].concat()))
    });
    let rules = ["subscribe.1.remote_topic = t", "proto_ver = 5"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    let down = gateway.wait_with("bridge_down", &[("reason", "server_moved")]);
    assert_eq!((down.text("said"), down.text("server_reference")), ("moving", "c.example"));
    let next = gateway.wait_with("bridge_down", &[("reason", "peer_closed")]);
    assert!(!next.has("said") && !next.has("server_reference"), "{}", next.line);
}

#[test]
fn how_long_the_remote_keeps_our_session_is_told_where_it_is_shorter() {
    for (seconds, told) in [(None, None), (Some(60_u32), Some("60")), (Some(u32::MAX), None)] {
        let list = seconds.map(|seconds| (SESSION_EXPIRY, seconds.to_be_bytes().to_vec()));
        let remote = granting(list.into_iter().collect());
        let rules = ["forward.1.local_topic = t", "proto_ver = 5"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        let up = gateway.wait("bridge_up");
        assert_eq!(up.has("session_expiry_s").then(|| up.text("session_expiry_s")), told);
    }
}

#[test]
fn a_filter_with_wildcards_is_not_sent_to_a_remote_that_takes_none() {
    let remote = granting(vec![(WILDCARDS_AVAILABLE, vec![0])]);
    let rules = [
        "subscribe.1.remote_topic = a/#",
        "subscribe.2.remote_topic = a/b",
        "subscribe.3.remote_topic = +/c",
        "proto_ver = 5",
    ];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    for filter in ["a/#", "+/c"] {
        let refused = gateway.wait_with("subscribe_refused", &[("filter", filter)]);
        assert_eq!(refused.number("code"), 0xA2);
    }
    remote.wait("the one without", |seen| seen.iter().any(|s| matches!(s, Seen::Subscribe(_))));
    let mut asked = remote.seen();
    asked.retain(|seen| matches!(seen, Seen::Subscribe(_)));
    assert!(matches!(&asked[..], [Seen::Subscribe(filters)] if filters[0].0 == "a/b"), "{asked:?}");
}

#[test]
fn a_refused_subscription_is_logged_in_the_remotes_own_words() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        let packet = session.read_until_subscribed()?;
        let Packet::Subscribe { id, .. } = packet else { return Ok(()) };
        let list = properties(&[words(REASON_STRING, "not yours")]);
        let body = [&id.to_be_bytes()[..], &list, &[0x87]].concat();
        session.send(&crate::common::wire::packet(0x90, &body))?;
        session.serve()
    });
    let rules = ["subscribe.1.remote_topic = t", "proto_ver = 5"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    assert_eq!(gateway.wait("subscribe_refused").text("said"), "not yours");
}

/// A server that does not take such a will refuses the CONNECT: the bridge comes up without.
#[test]
fn a_will_is_bent_to_what_the_remote_takes() {
    let up = |rules: &[&str], refuses: Refuses| {
        let remote = Stub::start(move |session, _| take_will(session, refuses));
        let rules = [rules, &["forward.1.local_topic = t", "proto_ver = 5"]].concat();
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        assert!(!gateway.events().iter().any(|event| event.name == "bridge_down"));
        let connects = remote.connects();
        let wills = connects.into_iter().filter_map(|connect| connect.will);
        wills.map(|will| (will.qos, will.retain)).collect::<Vec<_>>()
    };
    let no_retain = |_: u8, retain: bool| retain.then(|| (0x9A, vec![]));
    let notify = ["notify_topic = state/gw"];
    assert_eq!(up(&notify, no_retain), [(1, true), (1, false)]);
    let no_qos = |qos: u8, _: bool| (qos > 0).then(|| (0x9B, vec![]));
    assert_eq!(up(&notify, no_qos), [(1, true), (0, true)]);
    let some_qos = |qos: u8, _: bool| (qos > 1).then(|| (0x9B, vec![(MAXIMUM_QOS, vec![1])]));
    let will = ["will.topic = gone", "will.qos = 2", "will.retain = true"];
    assert_eq!(up(&will, some_qos), [(2, true), (1, true)]);
}

fn take_will(session: &mut Session, refuses: Refuses) -> Result<()> {
    let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
    let will = connect.will.map_or((0, false), |will| (will.qos, will.retain));
    let (code, list) = refuses(will.0, will.1).unwrap_or_default();
    let body = [&[0, code][..], &properties(&list)].concat();
    session.send(&packet(0x20, &body))?;
    if code == 0 { session.serve() } else { Ok(()) }
}
