//! Remotes that refuse: one message, by closing or by never answering; us, for a while; a message
//! for now. The one message is found and put aside, everything else arrives in its order.

use crate::common::collector::Collector;
use crate::common::gateway::{Event, Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::stub::{Seen, Session, Stub};
use crate::common::wire::{
    self, Ack, Connect, MAXIMUM_PACKET_SIZE, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet,
    ack_with,
};
use crate::common::{number_of, numbered};
use std::collections::BTreeSet;
use std::io;

/// Deeper than the 200 levels mosquitto takes.
fn deep() -> String {
    format!("deep{}", "/".repeat(205))
}

/// Good messages 0 to `count - 1` on three topics, with a bad one after each `every`.
fn among(good: usize, every: usize, qos: u8, bad: &str) -> Vec<Message> {
    let mut plan = Vec::new();
    for number in 0..good {
        let topic = format!("good/{}", number % 3);
        plan.push(Message::new(&topic, numbered(number)).qos(qos));
        if number % every == every - 1 {
            plan.push(Message::new(bad, "bad").qos(qos));
        }
    }
    plan
}

fn publish(gateway: &Gateway, plan: &[Message]) {
    let mut client = Connect::v5("device").open(gateway.port);
    for message in plan {
        assert_eq!(client.publish(message), 0, "{message:?}");
    }
}

fn quarantined(gateway: &Gateway) -> Vec<Event> {
    gateway.events().into_iter().filter(|event| event.name == "quarantined").collect()
}

/// In the order of each topic, first arrivals; of QoS 2 there are no others.
fn check_order(messages: &[Message], good: usize) {
    let mut last = [None; 3];
    let mut seen = vec![0; good];
    for message in messages.iter().filter(|message| message.topic.starts_with("good/")) {
        let number = number_of(&message.payload);
        seen[number] += 1;
        if seen[number] == 1 {
            let last = &mut last[number % 3];
            assert!(last.is_none_or(|last| last < number), "{number} came after {last:?}");
            *last = Some(number);
        }
        assert!(message.qos < 2 || seen[number] == 1, "{number} came again");
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn topics_too_deep_for_mosquitto_stop_nothing() {
    for (version, qos) in [("5", 1), ("4", 2), ("5", 2), ("4", 1)] {
        let remote = Mosquitto::start_persistent();
        let far = Collector::start(remote.port, "far", "good/#");
        let version = format!("proto_ver = {version}");
        let text = bridge("up", remote.port, &["forward.all.local_topic = #", &version]);
        let mut gateway = Gateway::start(&text);
        gateway.wait("bridge_up");
        // It is the first, and there are more.
        publish(&gateway, &[Message::new(&deep(), "bad").qos(qos)]);
        publish(&gateway, &among(40, 20, qos, &deep()));
        if qos == 2 {
            // What is known of whom is to blame is gone.
            gateway.kill();
            gateway.run();
        }
        far.wait_count(40);
        check_order(&far.messages(), 40);
        // What comes later lets one after the other go.
        for number in 0..6 {
            publish(&gateway, &[Message::new("later", numbered(number)).qos(qos)]);
        }
        let aside = gateway.wait("quarantined");
        assert_eq!(aside.text("destination"), "up");
        assert_eq!(aside.text("reason"), "remote_closes");
        assert!(aside.text("topic").starts_with("deep////"), "{}", aside.line);
        let down = gateway.wait_event(0, "bridge_down with the topic", |event| {
            event.name == "bridge_down"
                && event.has("topic")
                && event.text("topic").starts_with("deep////")
        });
        assert!(down.text("reason") == "protocol_error" || down.text("reason") == "peer_closed");
        for event in quarantined(&gateway) {
            assert!(event.text("topic").starts_with("deep////"), "{}", event.line);
        }
    }
}

#[test]
fn a_message_that_waits_alone_is_put_aside_once_and_then_only_for_another() {
    let remote = Mosquitto::start_persistent();
    let far = Collector::start(remote.port, "far", "good/#");
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.all.local_topic = #"]));
    gateway.wait("bridge_up");
    publish(&gateway, &[Message::new(&deep(), "first").qos(1)]);
    let aside = gateway.wait("quarantined");
    assert_eq!((aside.text("reason"), aside.text("client")), ("remote_closes", "device"));
    publish(&gateway, &[Message::new(&format!("other{}", deep()), "second").qos(1)]);
    gateway.wait("bridge_held");
    assert_eq!(quarantined(&gateway).len(), 1, "nothing was taken since");
    publish(&gateway, &among(3, 9, 1, ""));
    far.wait_count(3);
    gateway.wait_with("quarantined", &[("topic", &format!("other{}", deep())[..96])]);
}

/// A way to end a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    Fin,
    Rst,
    Says(u8),
}

impl End {
    fn of(self, session: &mut Session) -> io::Result<()> {
        match self {
            Self::Fin => Ok(()),
            Self::Rst => {
                session.reset();
                Ok(())
            }
            Self::Says(code) => session.send(&wire::packet(0xE0, &[code])),
        }
    }
}

/// A remote that ends `closes` connections at the first packet of this kind, and takes everything
/// after that.
fn closing(closes: usize, at: fn(&Packet) -> bool, end: End) -> Stub {
    Stub::start(move |session: &mut Session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            let packet = session.read()?;
            if number < closes && at(&packet) {
                return end.of(session);
            }
            session.answer(&packet)?;
        }
    })
}

fn is_bad(packet: &Packet) -> bool {
    matches!(packet, Packet::Publish(message) if message.topic.starts_with("bad"))
}

/// Good messages have arrived; how many of the bad ones were put aside is counted.
fn goods(remote: &Stub, count: usize) -> Vec<Message> {
    let good = |seen: &[Seen]| -> Vec<Message> {
        let message = |seen: &Seen| match seen {
            Seen::Publish(message) if message.topic.starts_with("good/") => Some(message.clone()),
            _ => None,
        };
        seen.iter().filter_map(message).collect()
    };
    let mut all = Vec::new();
    remote.wait(&format!("{count} good ones"), |seen| {
        all = good(seen);
        let numbers: BTreeSet<usize> = all.iter().map(|m| number_of(&m.payload)).collect();
        numbers.len() == count
    });
    all
}

#[test]
fn whichever_way_a_remote_closes_on_one_message_it_is_found() {
    for (version, end) in [
        ("5", End::Fin),
        ("5", End::Rst),
        ("5", End::Says(0x81)),
        ("5", End::Says(0x95)),
        ("5", End::Says(0x80)),
        ("4", End::Fin),
        ("4", End::Rst),
    ] {
        let remote = closing(usize::MAX, is_bad, end);
        let version = format!("proto_ver = {version}");
        let rules = ["forward.all.local_topic = #", "max_inflight = 20", &version];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        publish(&gateway, &among(40, 20, 1, "bad"));
        publish(&gateway, &[Message::new("bad/too", "b").qos(2)]);
        for number in 40..52 {
            let topic = format!("good/{}", number % 3);
            publish(&gateway, &[Message::new(&topic, numbered(number)).qos(1)]);
        }
        check_order(&goods(&remote, 52), 52);
        let aside = gateway.wait("quarantined");
        assert!(aside.text("topic").starts_with("bad"), "{end:?}: {}", aside.line);
        assert_eq!(aside.text("reason"), "remote_closes");
        for event in quarantined(&gateway) {
            assert!(event.text("topic").starts_with("bad"), "{end:?}: {}", event.line);
        }
    }
}

#[test]
fn many_bad_topics_before_all_others_hold_up_none_of_them_for_good() {
    let remote = closing(usize::MAX, is_bad, End::Fin);
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.all.local_topic = #"]));
    gateway.wait("bridge_up");
    let bad: Vec<Message> =
        (0..20).map(|number| Message::new(&format!("bad/{number}"), "b").qos(1)).collect();
    publish(&gateway, &bad);
    publish(&gateway, &among(12, 100, 1, ""));
    check_order(&goods(&remote, 12), 12);
}

fn is_publish(packet: &Packet) -> bool {
    matches!(packet, Packet::Publish(_))
}

fn is_subscribe(packet: &Packet) -> bool {
    matches!(packet, Packet::Subscribe { .. })
}

#[test]
fn a_remote_that_refuses_us_for_a_while_gets_everything() {
    let rules = ["forward.all.local_topic = #", "subscribe.1.remote_topic = in/#"];
    let kinds: [fn(&Packet) -> bool; 2] = [is_publish, is_subscribe];
    for at in kinds {
        for (end, said) in [
            (End::Fin, "peer_closed"),
            (End::Rst, "reset"),
            (End::Says(0x83), "implementation_specific"),
            (End::Says(0x97), "quota_exceeded"),
        ] {
            let remote = closing(12, at, end);
            let gateway = Gateway::start(&bridge("up", remote.port, &rules));
            publish(&gateway, &among(15, 100, 1, ""));
            publish(&gateway, &[Message::new("twice", "t").qos(2)]);
            let held = gateway.wait("bridge_held");
            assert_eq!(held.text("reason"), said);
            let (mut ends, mut taken) = (0, Vec::new());
            remote.wait("everything after the last close", |seen| {
                (ends, taken) = (0, Vec::new());
                for seen in seen {
                    match seen {
                        Seen::End => ends += 1,
                        Seen::Publish(message) if ends >= 12 => taken.push(message.clone()),
                        _ => {}
                    }
                }
                taken.iter().filter(|message| message.topic.starts_with("good/")).count() >= 15
                    && taken.iter().any(|message| message.topic == "twice")
            });
            check_order(&taken, 15);
            assert!(quarantined(&gateway).is_empty(), "{end:?}");
            let held = gateway.events().iter().filter(|e| e.name == "bridge_held").count();
            assert_eq!(held, 1, "said once");
        }
    }
}

/// A remote that never acknowledges what `mute` says.
fn deaf(mute: fn(&Message) -> bool) -> Stub {
    Stub::start(move |session: &mut Session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(message) if mute(&message) => {}
                packet => session.answer(&packet)?,
            }
        }
    })
}

#[test]
fn a_message_that_is_never_acknowledged_is_named_and_put_aside() {
    for qos in [1, 2] {
        let remote = deaf(|message| message.topic == "mute");
        let rules = ["forward.all.local_topic = #", "ack_timeout = 1s"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        let mut client = Connect::v5("device").open(gateway.port);
        client.publish(&Message::new("mute", "bad").qos(qos));
        let down = gateway.wait_with("bridge_down", &[("reason", "ack_timeout")]);
        assert_eq!((down.text("topic"), down.text("client")), ("mute", "device"));
        for number in 0.. {
            client.publish(&Message::new("good/0", numbered(number)).qos(qos));
            if !quarantined(&gateway).is_empty() {
                break;
            }
            // One at a time: each is taken by itself.
            remote.wait("the good one", |seen| {
                let good = |m: &Message| m.topic == "good/0" && m.payload == numbered(number);
                seen.iter().any(|seen| matches!(seen, Seen::Publish(m) if good(m)))
            });
        }
        let aside = gateway.wait("quarantined");
        assert_eq!(aside.text("reason"), "never_acknowledged");
        assert_eq!((aside.text("topic"), aside.text("client")), ("mute", "device"));
    }
}

#[test]
fn a_remote_that_acknowledges_nothing_keeps_nothing_from_arriving_later() {
    let remote = Stub::start(|session: &mut Session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(_) if number < 6 => {}
                packet => session.answer(&packet)?,
            }
        }
    });
    let rules = ["forward.all.local_topic = #", "ack_timeout = 1s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    publish(&gateway, &among(9, 100, 2, ""));
    gateway.wait_bridge_stats("up", "everything taken", |stats| stats.number("fwd_acked") >= 9);
    assert!(quarantined(&gateway).is_empty());
    assert_eq!(gateway.wait("bridge_held").text("reason"), "ack_timeout");
}

/// Answers PUBLISHes as `answer` says: the reason code, or `None` for what any server says.
fn answering<F>(answer: F) -> Stub
where
    F: Fn(&Message, usize) -> Option<u8> + Send + Sync + 'static,
{
    Stub::start(move |session: &mut Session, number| {
        session.greet(number > 0, 0, &[])?;
        let mut count = 0;
        loop {
            let packet = session.read()?;
            if let Packet::Publish(message) = &packet {
                count += 1;
                if let Some(code) = answer(message, count) {
                    let kind = if message.qos == 2 { PUBREC } else { PUBACK };
                    session.send(&ack_with(kind, message.id, Some(code)))?;
                    continue;
                }
            }
            session.answer(&packet)?;
        }
    })
}

#[test]
fn a_message_refused_for_now_holds_up_its_topic_and_no_other() {
    for (code, word) in
        [(0x80, "unspecified"), (0x83, "implementation_specific"), (0x97, "quota_exceeded")]
    {
        for qos in [1, 2] {
            let remote = answering(move |message, _| (message.topic == "good/1").then_some(code));
            let gateway =
                Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
            gateway.wait("bridge_up");
            publish(&gateway, &among(30, 100, qos, ""));
            let took = |seen: &[Seen]| {
                let others = |m: &Message| m.topic != "good/1";
                let mine = seen.iter().filter(|s| matches!(s, Seen::Publish(m) if others(m)));
                mine.count()
            };
            remote.wait("all of the others", |seen| took(seen) == 20);
            let held = gateway.wait("message_held");
            assert_eq!((held.text("topic"), held.text("reason")), ("good/1", word));
            assert!(held.number("retry_in_ms") <= 1000, "the first wait is short");
            assert!(quarantined(&gateway).is_empty());
            assert!(!gateway.events().iter().any(|event| event.name == "bridge_down"));
        }
    }
}

#[test]
fn single_refusals_cost_single_waits() {
    // Each topic is refused once, and taken the second time.
    let known = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let remote = answering(move |message, _| {
        let first = known.lock().expect("no holder panics").insert(message.payload.clone());
        first.then_some(0x97)
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    publish(&gateway, &among(5, 100, 1, ""));
    gateway.wait_bridge_stats("up", "all taken", |stats| stats.number("fwd_acked") == 5);
    for held in gateway.events().iter().filter(|event| event.name == "message_held") {
        assert_eq!(held.number("retry_in_ms"), 1000, "no wait grows: {}", held.line);
    }
}

#[test]
fn refusals_of_more_topics_than_can_wait_lose_nothing() {
    let remote = answering(|_, count| (count <= 40).then_some(0x97));
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    let mut client = Connect::v5("device").open(gateway.port);
    for number in 0..40 {
        let topic = format!("many/{number}");
        client.publish(&Message::new(&topic, numbered(number)).qos(1));
    }
    gateway.wait_bridge_stats("up", "all taken", |stats| stats.number("fwd_acked") == 40);
    assert!(quarantined(&gateway).is_empty());
}

#[test]
fn an_identifier_in_use_of_a_message_sent_again_says_that_it_is_there() {
    let remote = Stub::start(|session: &mut Session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            match session.read()? {
                // It is taken and the connection ends before PUBREC.
                Packet::Publish(_) if number == 0 => return Ok(()),
                Packet::Publish(message) if message.dup => {
                    session.send(&ack_with(PUBREC, message.id, Some(0x91)))?;
                }
                packet => session.answer(&packet)?,
            }
        }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    publish(&gateway, &[Message::new("t", "once").qos(2)]);
    remote.wait("PUBREL", |seen| seen.iter().any(|seen| matches!(seen, Seen::Release(_))));
    let sent = remote.published();
    assert_eq!((sent.len(), sent[0].id, sent[1].dup), (2, sent[1].id, true));
    assert!(quarantined(&gateway).is_empty());
}

#[test]
fn an_identifier_in_use_of_a_new_message_is_released_and_another_one_used() {
    for qos in [1, 2] {
        let remote = answering(|_, count| (count == 1).then_some(0x91));
        let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
        gateway.wait("bridge_up");
        publish(&gateway, &[Message::new("t", "once").qos(qos)]);
        gateway.wait_bridge_stats("up", "it is taken", |stats| stats.number("fwd_acked") == 1);
        let seen = remote.seen();
        let ids: Vec<u16> = remote.published().iter().map(|message| message.id).collect();
        assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
        let released = seen.iter().position(|s| matches!(s, Seen::Release(id) if *id == ids[0]));
        let again = seen.iter().position(|s| matches!(s, Seen::Publish(m) if m.id == ids[1]));
        assert!(released.expect("it is released") < again.expect("it is sent"));
        assert!(quarantined(&gateway).is_empty());
    }
}

#[test]
fn what_is_too_large_for_the_remote_is_kept_aside() {
    for by_key in [false, true] {
        let remote = Stub::start(move |session: &mut Session, _| {
            let limit = (MAXIMUM_PACKET_SIZE, 128_u32.to_be_bytes().to_vec());
            let limits = if by_key { Vec::new() } else { vec![limit] };
            session.greet(false, 0, &limits)?;
            session.serve()
        });
        let mut rules = vec!["forward.1.local_topic = #"];
        if by_key {
            rules.push("max_packet_size = 128");
        }
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        publish(
            &gateway,
            &[
                Message::new("t", "x".repeat(200)).qos(1),
                Message::new("t", "small").qos(1),
                Message::new("t", "y".repeat(200)).qos(2),
            ],
        );
        remote.wait("the small one", |seen| {
            seen.iter().any(|s| matches!(s, Seen::Publish(m) if m.text() == "small"))
        });
        let aside = gateway.wait("quarantined");
        assert_eq!((aside.text("reason"), aside.text("topic")), ("packet_too_large", "t"));
        assert_eq!(aside.text("client"), "device");
        assert_eq!(gateway.dropped("too_large"), 0);
    }
}

/// A remote that takes QoS 2 at its first connection, at most QoS 1 at the second, and QoS 2 again
/// from the third on; each ends when it has read what it shall.
#[test]
fn a_maximum_qos_that_changes_repeats_nothing() {
    let remote = Stub::start(|session: &mut Session, number| -> io::Result<()> {
        let most = (wire::MAXIMUM_QOS, vec![1]);
        session.greet(
            number > 0,
            0,
            if number == 1 { std::slice::from_ref(&most) } else { &[] },
        )?;
        loop {
            let packet = session.read()?;
            match &packet {
                // It has the message; its PUBREC is lost.
                Packet::Publish(message) if number == 0 && message.qos == 2 => return Ok(()),
                Packet::Publish(message) if number == 1 && message.qos == 1 => {
                    session.answer(&packet)?;
                    return Ok(());
                }
                Packet::Ack(Ack { kind: PUBREL, id, .. }) => {
                    session.note(PUBCOMP, *id);
                    session.answer(&packet)?;
                }
                _ => session.answer(&packet)?,
            }
        }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    publish(&gateway, &[Message::new("two", "2").qos(2)]);
    publish(&gateway, &[Message::new("one", "1").qos(1)]);
    remote.wait("PUBCOMP", |seen| seen.iter().any(|seen| matches!(seen, Seen::Acked(PUBCOMP, _))));
    let two: Vec<Message> =
        remote.published().into_iter().filter(|message| message.topic == "two").collect();
    assert!(two.iter().all(|m| m.qos == 2 && m.id == two[0].id), "{two:?}");
    assert!(two.iter().skip(1).all(|message| message.dup), "{two:?}");
}
