//! SUBSCRIBE, UNSUBSCRIBE and their answers; which topics a filter matches.

use crate::common::client::Client;
use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, Ack, Connect, Message, PUBREC, PUBREL, Packet, packet, prefixed, subscribe,
};

/// UNSUBSCRIBE with several filters; the codes of its UNSUBACK.
fn unsubscribe(client: &mut Client, filters: &[&str]) -> Vec<u8> {
    let id = client.id();
    let mut body = id.to_be_bytes().to_vec();
    if client.wire.level == 5 {
        body.push(0);
    }
    filters.iter().for_each(|filter| body.extend(prefixed(filter.as_bytes())));
    client.send(&packet(0xA2, &body));
    client.wait("UNSUBACK", |packet| match packet {
        Packet::Suback { id: i, codes } if *i == id => Some(codes.clone()),
        _ => None,
    })
}

#[test]
fn every_filter_has_its_code_in_its_place_under_the_identifier_of_its_packet() {
    let gateway = Gateway::start("");
    for level in [3, 4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        let filters = [("a", 2), ("b", 0), ("c/#", 1), ("d/+", 2)];
        assert_eq!(client.subscribe(&filters), [2, 0, 1, 2], "version {level}");
        for id in [1, 255, 256, 65_535] {
            client.send(&subscribe(level, id, &[("a", 1)], &[]));
            let codes = client.wait("SUBACK", |packet| match packet {
                Packet::Suback { id: i, codes } => Some((*i, codes.clone())),
                _ => None,
            });
            assert_eq!(codes, (id, vec![1]));
        }
        // Before MQTT 5 an UNSUBACK has no codes.
        let codes: &[u8] = if level == 5 { &[0, 0x11, 0, 0x11] } else { &[] };
        assert_eq!(unsubscribe(&mut client, &["a", "nothing", "b", "a"]), codes);
        // Nothing deleted is an answer too.
        assert_eq!(unsubscribe(&mut client, &["a"]), if level == 5 { &[0x11][..] } else { &[] });
        client.publish(&Message::new("a", "unwanted").qos(1));
        client.publish(&Message::new("b", "unwanted").qos(1));
        client.publish(&Message::new("d/x", "last").qos(1));
        assert_eq!(client.until("last"), []);
    }
}

#[test]
fn several_filters_in_one_packet_are_as_many_packets() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        // The second one replaces the first.
        assert_eq!(client.subscribe(&[("a", 0), ("b", 1), ("a", 2)]), [0, 1, 2]);
        client.publish(&Message::new("a", "once").qos(2));
        assert_eq!(client.next().qos, 2);
        client.publish(&Message::new("b", "last").qos(1));
        assert_eq!(client.until("last"), []);
        // The second time it is not there any more.
        let codes: &[u8] = if level == 5 { &[0, 0x11] } else { &[] };
        assert_eq!(unsubscribe(&mut client, &["a", "a"]), codes);
    }
}

#[test]
fn filters_are_taken_off_by_their_letters_not_by_what_they_match() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        client.subscribe(&[("a/+", 1), ("last", 1)]);
        for other in ["a/b", "a/#", "#", "A/+", "a/", "a"] {
            let codes: &[u8] = if level == 5 { &[0x11] } else { &[] };
            assert_eq!(unsubscribe(&mut client, &[other]), codes, "{other}");
        }
        client.publish(&Message::new("a/b", "still").qos(1));
        assert_eq!(client.next().text(), "still");
        unsubscribe(&mut client, &["a/+"]);
        client.publish(&Message::new("a/b", "unwanted").qos(1));
        client.publish(&Message::new("last", "last").qos(1));
        assert_eq!(client.until("last"), []);
    }
}

#[test]
fn what_was_begun_before_an_unsubscribe_is_completed() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let kept = Connect::new(level, &format!("client-{level}")).persistent();
        let mut client = kept.open(gateway.port);
        client.subscribe(&[("a", 2)]);
        client.acknowledges = false;
        publisher.publish(&Message::new("a", "one").qos(1));
        publisher.publish(&Message::new("a", "two").qos(2));
        let begun = [client.next(), client.next()];
        unsubscribe(&mut client, &["a"]);
        client.vanish();
        let mut client = kept.open(gateway.port);
        client.acknowledges = false;
        for message in begun.clone() {
            assert_eq!(client.next(), Message { dup: true, ..message });
        }
        client.send(&wire::ack(wire::PUBACK, begun[0].id));
        client.send(&wire::ack(PUBREC, begun[1].id));
        client.wait("PUBREL", |packet| match packet {
            Packet::Ack(Ack { kind: PUBREL, id, .. }) => (*id == begun[1].id).then_some(()),
            packet => panic!("{packet:?}"),
        });
        publisher.publish(&Message::new("a", "unwanted").qos(1));
        client.send(&wire::ack(wire::PUBCOMP, begun[1].id));
        assert!(matches!(client.reaction(&[]), Some(Packet::Pingresp)));
    }
}

#[test]
fn topics_and_filters_are_compared_letter_by_letter_as_they_were_sent() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    // Composed and decomposed, the mark of byte order, blanks, levels without a name.
    let topics = [
        "\u{C5}",
        "A\u{30A}",
        "\u{FEFF}a",
        "a",
        "a\u{FEFF}",
        " a",
        "a ",
        "a/",
        "/a",
        "a//b",
        "a/b",
        "\u{1F600}/x",
        "\u{FFFD}",
        "$internal/a",
        "ACCOUNTS",
        "Accounts",
    ];
    for level in [4, 5] {
        for topic in topics {
            let mut client = Connect::new(level, "client").open(gateway.port);
            client.subscribe(&[(topic, 1), ("last", 1)]);
            for other in topics {
                publisher.publish(&Message::new(other, "x").qos(1));
            }
            publisher.publish(&Message::new("last", "last").qos(1));
            let got: Vec<String> = client.until("last").into_iter().map(|m| m.topic).collect();
            assert_eq!(got, [topic], "version {level}");
            client.disconnect();
        }
    }
}

#[test]
fn wildcards_never_see_topics_that_begin_with_a_dollar_sign() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    publisher.publish(&Message::new("$kept/a", "kept").qos(1).retained());
    for level in [4, 5] {
        for (filter, count) in [("#", 0), ("+/a", 0), ("+/#", 0), ("$kept/#", 2), ("$kept/+", 2)] {
            let mut client = Connect::new(level, "client").open(gateway.port);
            client.subscribe(&[(filter, 1), ("last/of/all", 1)]);
            publisher.publish(&Message::new("$kept/a", "live").qos(1));
            publisher.publish(&Message::new("last/of/all", "last").qos(1));
            assert_eq!(client.until("last").len(), count, "{filter} in version {level}");
            client.disconnect();
        }
    }
}
