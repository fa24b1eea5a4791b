//! Remotes of every version: what the bridge asks for, what it falls back to, and that nothing it
//! brought in goes back.

use crate::common::client::Client;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::stub::Stub;
use crate::common::wire::{
    Connect, Message, Packet, SESSION_EXPIRY, USER_PROPERTY, find, four_bytes, user_property,
};

const BOTH: [&str; 2] = ["forward.1.local_topic = #", "subscribe.1.remote_topic = #"];

fn with<'a>(rules: &[&'a str], more: &'a str) -> Vec<&'a str> {
    rules.iter().copied().chain([more]).collect()
}

#[test]
fn every_version_carries_every_qos_both_ways() {
    for version in ["3", "4", "5"] {
        let remote = Mosquitto::start();
        let proto = format!("proto_ver = {version}");
        let rules = [
            "forward.1.local_topic = out/#",
            "subscribe.1.remote_topic = in/#",
            "subscribe.1.qos = 2",
            &proto,
        ];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        remote.wait_line("Sending SUBACK");
        let mut far = Connect::v4("far").open(remote.port);
        let mut near = Connect::v4("near").open(gateway.port);
        far.subscribe(&[("out/#", 2)]);
        near.subscribe(&[("in/#", 2)]);
        for qos in 0..=2 {
            near.publish(&Message::new("out/a", "x").qos(qos));
            assert_eq!(far.next().qos, qos, "out, version {version}");
            far.publish(&Message::new("in/a", "x").qos(qos));
            assert_eq!(near.next().qos, qos, "in, version {version}");
        }
    }
}

/// Publishes at both ends of a bridge with `#` both ways and requires that everything is heard
/// once at each end.
fn once_everywhere(near: &mut Client, far: &mut Client, case: &str) {
    near.subscribe(&[("#", 2)]);
    far.subscribe(&[("#", 2)]);
    for qos in 0..=2 {
        near.publish(&Message::new("a/near", "from near").qos(qos));
        far.publish(&Message::new("a/far", "from far").qos(qos));
    }
    // What circles would have come round before these two have crossed one after the other.
    near.publish(&Message::new("b", "across").qos(1));
    let mut at_far = far.until("across");
    far.publish(&Message::new("b", "back").qos(1));
    let mut at_near = near.until("back");
    near.publish(&Message::new("b", "end").qos(1));
    at_near.extend(near.until("end"));
    at_far.extend(far.until("end"));
    at_far.retain(|message| message.text() != "back");
    at_near.retain(|message| message.text() != "across");
    for (end, messages) in [("near", at_near), ("far", at_far)] {
        let of = |topic: &str| messages.iter().filter(|m| m.topic == topic).count();
        assert_eq!((of("a/near"), of("a/far"), messages.len()), (3, 3, 6), "{case}, {end} end");
    }
}

#[test]
fn nothing_circles_with_everything_forwarded_both_ways() {
    for version in ["proto_ver = 5", "proto_ver = 4"] {
        let remote = Mosquitto::start();
        let gateway = Gateway::start(&bridge("up", remote.port, &with(&BOTH, version)));
        gateway.wait("bridge_up");
        remote.wait_line("Sending SUBACK");
        let mut near = Connect::v4("near").open(gateway.port);
        let mut far = Connect::v4("far").open(remote.port);
        once_everywhere(&mut near, &mut far, version);
    }
}

#[test]
fn nothing_circles_between_two_gateways_at_one_remote() {
    let remote = Mosquitto::start();
    let named = |name: &str, version: &str| {
        let rules = with(&BOTH, version);
        format!("node.name = {name}\n{}", bridge("up", remote.port, &rules))
    };
    let one = Gateway::start(&named("one", "proto_ver = 5"));
    let two = Gateway::start(&named("two", "proto_ver = 4"));
    one.wait("bridge_up");
    two.wait("bridge_up");
    crate::common::wait_until("both have subscribed", || remote.count_lines("Sending SUBACK") == 2);
    let mut at_one = Connect::v4("client").open(one.port);
    let mut at_two = Connect::v4("client").open(two.port);
    once_everywhere(&mut at_one, &mut at_two, "through the remote");
}

#[test]
fn nothing_circles_between_a_gateway_and_its_upstream_gateway() {
    let upstream = Gateway::start("node.name = upstream");
    let gateway = Gateway::start(&bridge("up", upstream.port, &BOTH));
    gateway.wait("bridge_up");
    upstream.wait_stats("the bridge's subscription", |stats| stats.number("subs") == 1);
    let mut near = Connect::v4("near").open(gateway.port);
    let mut far = Connect::v4("far").open(upstream.port);
    once_everywhere(&mut near, &mut far, "Spillway to Spillway");
}

/// Refuses level 5 in one way, greets level 4 and serves it.
fn only_3_1_1(refuse: impl Fn(&mut crate::common::stub::Session) + Send + Sync + 'static) -> Stub {
    Stub::start(move |session, _| {
        let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
        if connect.level == 5 {
            refuse(session);
            return Ok(());
        }
        session.send(&[0x20, 2, 0, 0])?;
        session.serve()
    })
}

#[test]
fn a_remote_that_refuses_version_5_is_spoken_to_in_3_1_1() {
    // A close without a word may be that of a remote that is just stopping: that is tried twice.
    let refusals: [(&str, &[u8], usize); 3] = [
        ("return code 1, in the form of 3.1.1", &[0x20, 2, 0, 1], 1),
        ("reason 0x84", &[0x20, 3, 0, 0x84, 0], 1),
        ("closed before CONNACK", &[], 2),
    ];
    for (case, answer, attempts) in refusals {
        let remote = only_3_1_1(|session| session.send(answer).expect("sent"));
        let rules = ["forward.1.local_topic = #"];
        let gateway = Gateway::start(&bridge("up", remote.port, &rules));
        gateway.wait("bridge_up");
        let mut near = Connect::v5("near").open(gateway.port);
        let message = Message::new("a", "x").qos(1).property(user_property("k", "v"));
        assert_eq!(near.publish(&message), 0);
        let there = remote.wait_published(1);
        assert_eq!((there[0].text(), there[0].properties.len()), ("x".to_owned(), 0), "{case}");
        let levels: Vec<u8> = remote.connects().iter().map(|connect| connect.level).collect();
        let (fives, rest) = levels.split_at(levels.iter().filter(|level| **level == 5).count());
        assert!((1..=attempts).contains(&fives.len()), "{case}: {levels:?}");
        assert!(fives.iter().all(|level| *level == 5), "{case}: {levels:?}");
        assert!(rest.iter().all(|level| level & 0x7F == 4), "{case}: {levels:?}");
    }
}

#[test]
fn a_fallback_is_remembered_over_reconnects() {
    let remote = Stub::start(|session, number| {
        let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
        if connect.level == 5 {
            return session.send(&[0x20, 3, 0, 0x84, 0]);
        }
        session.send(&[0x20, 2, 0, 0])?;
        // The third connection is the one that may stay.
        if number >= 3 { session.serve() } else { Ok(()) }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    assert_eq!(Connect::v5("near").open(gateway.port).publish(&Message::new("a", "x").qos(1)), 0);
    remote.wait_published(1);
    let levels: Vec<u8> = remote.connects().iter().map(|connect| connect.level).collect();
    assert_eq!(levels.iter().filter(|level| **level == 5).count(), 1, "{levels:?}");
}

#[test]
fn a_remote_that_once_seemed_too_old_is_asked_for_mqtt_5_again_when_it_refuses_less() {
    let remote = Stub::start(|session, number| {
        let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
        match (connect.level, number) {
            // It is starting, or what is in front of it has nobody behind it yet.
            (5, 0) => Ok(()),
            (5, _) => {
                session.send(&[0x20, 3, 0, 0, 0])?;
                session.serve()
            }
            _ => session.send(&[0x20, 2, 0, 1]),
        }
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait_with("bridge_up", &[("version", "5")]);
    let levels: Vec<u8> = remote.connects().iter().map(|connect| connect.level).collect();
    assert_eq!(levels, [5, 0x84, 4, 5]);
}

#[test]
fn a_3_1_1_remote_is_asked_for_no_local_by_the_bridge_bit() {
    let plain = Stub::start(|session, _| {
        let Packet::Connect(connect) = session.read()? else { panic!("no CONNECT first") };
        if connect.level != 4 {
            return session.send(&[0x20, 2, 0, 1]);
        }
        session.send(&[0x20, 2, 0, 0])?;
        session.serve()
    });
    let rules = ["forward.1.local_topic = #", "proto_ver = 4"];
    let gateway = Gateway::start(&bridge("up", plain.port, &rules));
    gateway.wait("bridge_up");
    let levels: Vec<u8> = plain.connects().iter().map(|connect| connect.level).collect();
    assert_eq!(levels[..2], [0x84, 4]);
    let rules = with(&rules, "bridge_bit = false");
    let gateway = Gateway::start(&bridge("up", plain.port, &rules));
    gateway.wait("bridge_up");
    assert!(plain.connects()[2..].iter().all(|connect| connect.level == 4));
}

#[test]
fn the_connect_says_what_the_configuration_says() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        session.serve()
    });
    let rules = [
        "forward.1.local_topic = #",
        "clientid = router-7",
        "username = user",
        "password = secret \"word\"",
        "keepalive = 17s",
        "session_expiry = 1h",
        "will.topic = routers/7",
        "will.payload = gone",
        "will.qos = 1",
        "will.retain = true",
    ];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let connect = remote.connects().remove(0);
    assert_eq!(connect.id, "router-7");
    assert_eq!(connect.username.as_deref(), Some("user"));
    assert_eq!(connect.password.as_deref(), Some(&b"secret \"word\""[..]));
    assert_eq!(connect.keepalive, 17);
    assert_eq!(find(&connect.properties, SESSION_EXPIRY).map(four_bytes), Some(3600));
    let will = connect.will.expect("a will");
    assert_eq!((will.topic.as_str(), will.text()), ("routers/7", "gone".to_owned()));
    assert_eq!((will.qos, will.retain), (1, true));
    // Nothing of the password in the log.
    assert!(gateway.lines().iter().all(|line| !line.contains("secret")));
}

#[test]
fn a_generated_client_id_is_kept_over_restarts_and_differs_between_routers() {
    let remote = Stub::start(|session, _| {
        session.greet_with(0, &[], |connect| !connect.clean)?;
        session.serve()
    });
    let configuration = bridge("up", remote.port, &["forward.1.local_topic = #"]);
    let mut gateway = Gateway::start(&configuration);
    gateway.wait("bridge_up");
    gateway.kill();
    gateway.run();
    gateway.wait("bridge_up");
    let other = Gateway::start(&configuration);
    other.wait("bridge_up");
    let ids: Vec<String> = remote.connects().into_iter().map(|connect| connect.id).collect();
    assert_eq!(ids.len(), 3);
    assert!(ids[0].starts_with("gw-up-"), "{ids:?}");
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
}

#[test]
fn user_properties_reach_a_version_5_remote() {
    let remote = Stub::start(|session, _| {
        session.greet(false, 0, &[])?;
        session.serve()
    });
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = #"]));
    gateway.wait("bridge_up");
    let message = Message::new("a", "x").qos(1).property(user_property("k", "v"));
    Connect::v5("near").open(gateway.port).publish(&message);
    let there = remote.wait_published(1).remove(0);
    assert!(find(&there.properties, USER_PROPERTY).is_some(), "{there:?}");
}
