//! What a bridge says after a reconnect, packet by packet: the same identifier, DUP, PUBREL alone;
//! through a kill as well.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wire::{self, Ack, Connect, Message, PUBREC, PUBREL, Packet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const RULE: &str = "forward.1.local_topic = t";

/// Where a connection is closed: at the first packet of this kind.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Publish,
    Release,
    Never,
}

/// Serves a connection until `cut`, without an answer to the packet it closes at.
fn serve_until(session: &mut Session, cut: Cut) -> io::Result<()> {
    loop {
        match session.read()? {
            Packet::Publish(_) if cut == Cut::Publish => return Ok(()),
            Packet::Ack(Ack { kind: PUBREL, .. }) if cut == Cut::Release => return Ok(()),
            packet => session.answer(&packet)?,
        }
    }
}

/// What was said about messages, as `publish ID DUP`, `release ID` and `|` for each connection's
/// end; pings and greetings left out.
fn said(stub: &Stub) -> Vec<String> {
    let word = |seen: &Seen| match seen {
        Seen::Publish(m) => Some(format!("publish {} {}", m.id, if m.dup { "dup" } else { "new" })),
        Seen::Release(id) => Some(format!("release {id}")),
        Seen::End => Some("|".to_owned()),
        Seen::Connect(_)
        | Seen::Subscribe(_)
        | Seen::Unsubscribe(_)
        | Seen::Received(_)
        | Seen::Acked(..)
        | Seen::Ping
        | Seen::Disconnect(_) => None,
    };
    stub.seen().iter().filter_map(word).collect()
}

fn publish_one(gateway: &Gateway, qos: u8) {
    let mut client = Connect::v4("client").open(gateway.port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(qos)), 0);
}

/// A remote that keeps sessions (or never does) and cuts its connections in turn as `cuts` says.
fn remote(keeps_sessions: bool, cuts: &'static [Cut]) -> Stub {
    let (kept, used) = (AtomicBool::new(false), AtomicUsize::new(0));
    Stub::start(move |session, _| {
        session.greet_with(0, &[], |connect| {
            // A 3.1.1 session that begins clean ends with its connection. Said before the answer:
            // the next connection may be there as soon as that is read.
            let ends = connect.clean && connect.level != 5;
            kept.swap(!ends, Ordering::Relaxed) && keeps_sessions
        })?;
        let cut = cuts.get(used.load(Ordering::Relaxed)).copied().unwrap_or(Cut::Never);
        serve_until(session, cut)?;
        used.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

fn wait_idle(gateway: &Gateway) {
    gateway.wait_bridge_stats("up", "all acknowledged", |b| {
        b.text("up") == "true" && b.number("ring") + b.number("store") + b.number("inflight") == 0
    });
}

#[test]
fn an_unacknowledged_publish_comes_again_with_dup_and_its_identifier() {
    for version in ["proto_ver = 4", "proto_ver = 5"] {
        let remote = remote(true, &[Cut::Publish, Cut::Publish]);
        let gateway =
            Gateway::start(&bridge("up", remote.port, &[RULE, version, "bridge_bit = false"]));
        gateway.wait("bridge_up");
        publish_one(&gateway, 1);
        wait_idle(&gateway);
        let mut said = said(&remote);
        said.retain(|word| word != "|");
        let id = said[0].split(' ').nth(1).expect("an id").to_owned();
        let again = format!("publish {id} dup");
        assert_eq!(said, [format!("publish {id} new"), again.clone(), again], "{version}");
    }
}

#[test]
fn after_pubrec_only_the_release_is_repeated() {
    let remote = remote(true, &[Cut::Release, Cut::Release]);
    let gateway = Gateway::start(&bridge("up", remote.port, &[RULE]));
    gateway.wait("bridge_up");
    publish_one(&gateway, 2);
    wait_idle(&gateway);
    let said = said(&remote);
    let id = said[0].split(' ').nth(1).expect("an id").to_owned();
    let release = format!("release {id}");
    assert_eq!(
        said[..],
        [
            format!("publish {id} new"),
            release.clone(),
            "|".to_owned(),
            release.clone(),
            "|".to_owned(),
            release
        ]
    );
}

#[test]
fn a_kill_changes_nothing_about_what_is_repeated() {
    // The connections that a kill ends are the stub's first ones: they wait for ever.
    let silent_at = |kind: Cut| {
        let waits = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&waits);
        let stub = Stub::start(move |session, number| {
            session.greet(number > 0, 0, &[])?;
            loop {
                let packet = session.read()?;
                let cut = match &packet {
                    Packet::Publish(_) => kind == Cut::Publish,
                    Packet::Ack(Ack { kind: PUBREL, .. }) => kind == Cut::Release,
                    _ => false,
                };
                if number == 0 && cut {
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    session.answer(&packet)?;
                }
            }
        });
        (stub, waits)
    };
    for (kind, expected) in [
        (Cut::Publish, &["publish N new", "|", "publish N dup", "release N"][..]),
        (Cut::Release, &["publish N new", "release N", "|", "release N"][..]),
    ] {
        let (remote, waits) = silent_at(kind);
        let mut gateway = Gateway::start(&bridge("up", remote.port, &[RULE]));
        gateway.wait("bridge_up");
        publish_one(&gateway, 2);
        crate::common::wait_until("the remote has it", || waits.load(Ordering::Relaxed) == 1);
        gateway.kill();
        gateway.run();
        wait_idle(&gateway);
        let said = said(&remote);
        let id = said[0].split(' ').nth(1).expect("an id").to_owned();
        let expected: Vec<String> = expected.iter().map(|word| word.replace('N', &id)).collect();
        assert_eq!(said, expected);
    }
}

#[test]
fn a_remote_without_the_session_gets_it_as_new() {
    let remote = remote(false, &[Cut::Publish]);
    let gateway = Gateway::start(&bridge("up", remote.port, &[RULE]));
    gateway.wait("bridge_up");
    publish_one(&gateway, 2);
    wait_idle(&gateway);
    let said = said(&remote);
    let second = said.iter().skip_while(|word| *word != "|").nth(1).expect("sent again");
    assert!(second.starts_with("publish") && second.ends_with("new"), "{said:?}");
    assert_eq!(gateway.wait("qos2_in_doubt").number("count"), 1);
}

#[test]
fn an_acknowledgement_that_never_comes_ends_the_connection() {
    let remote = Stub::start(|session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(_) if number == 0 => {}
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = [RULE, "ack_timeout = 1s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    publish_one(&gateway, 1);
    assert_eq!(gateway.wait("bridge_down").text("reason"), "ack_timeout");
    wait_idle(&gateway);
    assert_eq!(remote.published().len(), 2);
}

#[test]
fn a_repeated_qos_2_message_from_the_remote_is_delivered_once_through_a_kill() {
    // Publishes identifier 7, hears PUBREC, never releases; on the next connection again with DUP.
    let remote = Stub::start(|session, number| {
        session.greet(number > 0, 0, &[])?;
        let message = Message { id: 7, dup: number > 0, ..Message::new("in", "once").qos(2) };
        if number > 0 {
            session.send(&message.bytes(5))?;
        }
        loop {
            match session.read()? {
                packet @ Packet::Subscribe { .. } => {
                    session.answer(&packet)?;
                    if number == 0 {
                        session.send(&message.bytes(5))?;
                    }
                }
                Packet::Ack(Ack { kind: PUBREC, id: 7, .. }) if number > 0 => {
                    session.send(&wire::ack(PUBREL, 7))?;
                    let last = Message { id: 8, ..Message::new("in", "last").qos(2) };
                    session.send(&last.bytes(5))?;
                }
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = ["subscribe.1.remote_topic = in", "subscribe.1.qos = 2"];
    let mut gateway = Gateway::start(&bridge("up", remote.port, &rules));
    // The first delivery may come before this subscription: then it is not for us.
    let near = Collector::start(gateway.port, "near", "in");
    remote.wait("PUBREC", |seen| seen.iter().any(|s| matches!(s, Seen::Received(7))));
    gateway.kill();
    gateway.run();
    near.wait("the last", |all| all.iter().any(|message| message.payload == b"last"));
    let texts: Vec<String> = near.messages().iter().map(Message::text).collect();
    assert!(texts.len() <= 2 && texts.last().is_some_and(|text| text == "last"), "{texts:?}");
}

#[test]
fn a_clean_stop_says_goodbye_to_the_remote() {
    let remote = remote(true, &[]);
    let mut gateway = Gateway::start(&bridge("up", remote.port, &[RULE]));
    gateway.wait("bridge_up");
    gateway.stop();
    remote.wait("DISCONNECT", |seen| seen.iter().any(|s| matches!(s, Seen::Disconnect(0))));
}

#[test]
fn a_subscription_asks_for_what_its_rule_says() {
    let remote = remote(true, &[]);
    let rules = [
        "subscribe.1.remote_topic = a/#",
        "subscribe.1.qos = 2",
        "subscribe.2.remote_topic = b/+",
        "subscribe.2.qos = 0",
    ];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    remote.wait("both filters", |seen| asked(seen).len() == 2);
    let (qos, no_local, as_published) = (0x03, 0x04, 0x08);
    let asked = asked(&remote.seen());
    let names: Vec<&str> = asked.iter().map(|(filter, _)| filter.as_str()).collect();
    assert_eq!(names, ["a/#", "b/+"]);
    assert_eq!([asked[0].1 & qos, asked[1].1 & qos], [2, 0]);
    for (filter, options) in &asked {
        assert_eq!(options & no_local, no_local, "{filter}: our own messages would come back");
        assert_eq!(options & as_published, as_published, "{filter}: `retain = keep` needs it");
    }
}

fn asked(seen: &[Seen]) -> Vec<(String, u8)> {
    let filters = |seen: &Seen| match seen {
        Seen::Subscribe(filters) => filters.clone(),
        _ => Vec::new(),
    };
    seen.iter().flat_map(filters).collect()
}

#[test]
fn an_idle_link_is_probed_within_its_keepalive() {
    let remote = remote(true, &[]);
    let rules = [RULE, "keepalive = 1s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    remote.wait("three pings", |seen| seen.iter().filter(|s| matches!(s, Seen::Ping)).count() >= 3);
    assert!(gateway.events().iter().all(|event| event.name != "bridge_down"));
}
