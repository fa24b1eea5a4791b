//! What a subscriber gets, and how much of it at once.

use crate::common::client::Client;
use crate::common::gateway::Gateway;
use crate::common::wire::{
    self, Ack, Connect, MAXIMUM_PACKET_SIZE, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet,
    Property, RECEIVE_MAXIMUM, SUBSCRIPTION_ID, user_property,
};

fn subscription_id(id: usize) -> Property {
    (SUBSCRIPTION_ID, wire::varint(id))
}

#[test]
fn overlapping_subscriptions_bring_one_message_at_the_highest_qos_with_every_identifier() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let mut client = Connect::v5("client").open(gateway.port);
    for (n, filter) in ["a/b", "a/#", "+/b", "#", "a/+"].into_iter().enumerate() {
        let qos = u8::try_from(n % 3).expect("small");
        client.subscribe_with(&[(filter, qos)], &[subscription_id(100 + n)]);
    }
    client.subscribe(&[("+/+", 1)]);
    client.subscribe_with(&[("other/#", 2)], &[subscription_id(268_435_455)]);
    for qos in 0..=2 {
        publisher.publish(&Message::new("a/b", "once").qos(qos));
        let message = client.next();
        assert_eq!(message.qos, qos);
        // In the order of their numbers, as Paho's own tests want them.
        assert_eq!(message.properties, (100..105).map(subscription_id).collect::<Vec<_>>());
    }
    publisher.publish(&Message::new("other/x", "last").qos(2));
    // Nothing came twice.
    let last = client.next();
    assert_eq!(last.text(), "last");
    assert!(last.properties.contains(&subscription_id(268_435_455)));
    // Subscribing again without an identifier takes it off.
    for filter in ["a/#", "#", "a/+"] {
        client.subscribe(&[(filter, 0)]);
    }
    publisher.publish(&Message::new("a/b", "fewer").qos(1));
    assert_eq!(client.next().properties, [subscription_id(100), subscription_id(102)]);
    // In 3.1.1 the same without identifiers.
    let mut old = Connect::v4("old").open(gateway.port);
    old.subscribe(&[("a/b", 0), ("a/#", 2), ("#", 1)]);
    publisher.publish(&Message::new("a/b", "once").qos(2));
    publisher.publish(&Message::new("a/b", "last").qos(2));
    let messages = old.until("last");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].qos, 2);
}

#[test]
fn what_comes_together_leaves_in_its_order_whatever_its_qos() {
    let gateway = Gateway::start("");
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        client.subscribe(&[("t", 2)]);
        let mut publisher = Connect::new(level, "publisher").open(gateway.port);
        let messages: Vec<Message> = (0..30_u16)
            .map(|n| Message { id: n + 1, ..Message::new("t", n.to_string()) })
            .map(|message| {
                let qos = [1, 0, 2, 0, 0, 2][usize::from(message.id) % 6];
                message.qos(qos)
            })
            .collect();
        publisher.send(&messages.iter().flat_map(|m| m.bytes(level)).collect::<Vec<u8>>());
        for wanted in &messages {
            let got = client.next();
            assert_eq!((got.text(), got.qos), (wanted.text(), wanted.qos));
        }
    }
}

#[test]
fn more_identifiers_than_there_is_room_for_leave_the_message_whole() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    // All 64 filters of six levels that match, with the longest identifiers there are.
    for n in 0..64 {
        let levels = (0..6).map(|level| if n >> level & 1 == 1 { "+" } else { "a" });
        let filter = levels.collect::<Vec<_>>().join("/");
        client.subscribe_with(&[(&filter, 1)], &[subscription_id((1 << 21) + n)]);
    }
    client.publish(&Message::new("a/a/a/a/a/a", "whole").qos(1));
    let message = client.next();
    assert_eq!(message.text(), "whole");
    let mut ids = message.properties.clone();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), message.properties.len(), "each once");
    assert!((50..64).contains(&ids.len()), "{}", ids.len());
    client.publish(&Message::new("a/a/a/a/a/a", "next").qos(1));
    assert_eq!(client.next().text(), "next", "and once");
}

#[test]
fn ones_own_messages_stay_out_where_asked_and_only_there() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").persistent().open(gateway.port);
    let no_local = 0x04;
    client.subscribe_with(&[("a/#", 2 | no_local)], &[subscription_id(1)]);
    client.subscribe_with(&[("a/b", 0)], &[subscription_id(2)]);
    client.subscribe_with(&[("last", 1)], &[]);
    client.publish(&Message::new("a/b", "mine").qos(2));
    // As the subscription has it that wants it.
    let message = client.next();
    assert_eq!((message.text(), message.qos), ("mine".to_owned(), 0));
    assert_eq!(message.properties, [subscription_id(2)], "the other has no part in it");
    client.publish(&Message::new("a/c", "unwanted").qos(2));
    client.publish(&Message::new("last", "last").qos(1));
    assert_eq!(client.until("last"), []);
}

#[test]
fn ones_own_retained_messages_stay_out_where_asked_over_a_restart_too() {
    let mut gateway = Gateway::start("");
    let no_local = 0x04;
    let connect = Connect::v5("client");
    let kept = |client: &mut Client, options: u8| {
        client.subscribe(&[("kept/#", 1 | options)]);
        client.publish(&Message::new("kept/end", "end").qos(1));
        client.publish(&Message::new("last", "last").qos(1));
        client.until("last").iter().map(Message::text).collect::<Vec<_>>()
    };
    let mut other = Connect::v5("other").open(gateway.port);
    other.publish(&Message::new("kept/theirs", "theirs").qos(1).retained());
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("last", 1)]);
    client.publish(&Message::new("kept/mine", "mine").qos(1).retained());
    assert_eq!(kept(&mut client, no_local), ["theirs"]);
    let mut all = kept(&mut client, 0);
    all.sort();
    assert_eq!(all, ["end", "mine", "theirs"]);
    gateway.stop();
    gateway.run();
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("last", 1)]);
    assert_eq!(kept(&mut client, no_local), ["theirs"]);
}

#[test]
fn ones_own_will_stays_out_where_asked() {
    let gateway = Gateway::start("");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("will", 1)]);
    let connect = Connect::v5("client").persistent().will(Message::new("will", "mine").qos(1));
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("will", 1 | 0x04), ("last", 1)]);
    client.vanish();
    assert_eq!(watcher.next().text(), "mine");
    let mut client = connect.open(gateway.port);
    assert!(client.connack.session_present);
    client.publish(&Message::new("last", "last").qos(1));
    assert_eq!(client.until("last"), []);
}

#[test]
fn a_publisher_is_told_whether_anybody_listens() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("heard", 2)]);
    for qos in [1, 2] {
        assert_eq!(publisher.publish(&Message::new("unheard", "x").qos(qos)), 0x10);
        assert_eq!(publisher.publish(&Message::new("heard", "x").qos(qos)), 0);
    }
}

#[test]
fn what_is_too_large_for_a_client_is_left_out_for_it_alone() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let mut other = Connect::v5("other").open(gateway.port);
    other.subscribe(&[("t", 2)]);
    let small = (MAXIMUM_PACKET_SIZE, 100_u32.to_be_bytes().to_vec());
    let connect = Connect::v5("client").property(small).property((RECEIVE_MAXIMUM, vec![0, 1]));
    let mut client = connect.open(gateway.port);
    client.subscribe(&[("t", 2)]);
    for qos in 0..=2 {
        let head = if qos == 0 { 6 } else { 8 };
        let fits = vec![b'f'; 100 - head];
        let large = vec![b'x'; 101 - head];
        for payload in [&large, &fits] {
            assert_eq!(publisher.publish(&Message::new("t", payload).qos(qos)), 0);
            assert_eq!(other.next().payload, *payload);
        }
        // As if it had been delivered: with a window of one the next comes all the same.
        assert_eq!(client.next().payload, fits, "QoS {qos}");
        // Properties count too.
        let name = "n".repeat(90);
        let wide = Message::new("t", "wide").qos(qos).property(user_property(&name, ""));
        publisher.publish(&wide);
        assert_eq!(other.next().text(), "wide");
        publisher.publish(&Message::new("t", "next").qos(qos));
        assert_eq!(other.next().text(), "next");
        assert_eq!(client.next().text(), "next");
    }
    // An answer that is too large is not sent either.
    let filters: Vec<String> = (0..120).map(|n| format!("filter/{n}")).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    client.send(&wire::subscribe(5, 9, &filters, &[]));
    client.send(&wire::PINGREQ);
    client.wait("PINGRESP", |packet| match packet {
        Packet::Pingresp => Some(()),
        Packet::Suback { id: 9, .. } => panic!("larger than asked for"),
        _ => None,
    });
    publisher.publish(&Message::new("filter/7", "subscribed").qos(1));
    assert_eq!(client.next().text(), "subscribed");
}

#[test]
fn the_window_holds_until_pubcomp_and_holds_up_nothing_else() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let two = (RECEIVE_MAXIMUM, vec![0, 2]);
    let mut client = Connect::v5("client").property(two).open(gateway.port);
    client.subscribe(&[("t", 2), ("zero", 0)]);
    client.acknowledges = false;
    for n in 0..5 {
        publisher.publish(&Message::new("t", n.to_string()).qos(2));
    }
    let first = [client.next(), client.next()];
    client.send(&wire::ack(PUBREC, first[0].id));
    // PUBREL, answers, acknowledgements, QoS 0 go on; the third message waits.
    client.wait_ack(PUBREL, first[0].id);
    assert_eq!(client.subscribe(&[("u", 1)]), [1]);
    client.unsubscribe("u");
    client.publish(&Message::new("nobody", "x").qos(2));
    publisher.publish(&Message::new("zero", "zero"));
    assert_eq!(client.next().text(), "zero");
    client.ping();
    client.send(&wire::ack(PUBCOMP, first[0].id));
    assert_eq!(client.next().text(), "2");
    // A refusal ends its exchange as well, and it does not come again.
    client.send(&wire::ack_with(PUBREC, first[1].id, Some(0x80)));
    assert_eq!(client.next().text(), "3");
}

#[test]
fn what_is_in_flight_has_identifiers_of_its_own_and_no_dup() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        client.subscribe(&[("t", 2)]);
        client.acknowledges = false;
        let mut ids = std::collections::BTreeSet::new();
        for n in 0..60 {
            // The flag of the publisher is its own.
            let message = Message { dup: n % 3 == 1, ..Message::new("t", "x").qos(1 + n % 2) };
            publisher.publish(&message);
            publisher.publish(&Message::new("t", "zero"));
            let (one, two) = (client.next(), client.next());
            for message in [one, two] {
                assert!(!message.dup && (message.id != 0) == (message.qos > 0), "{message:?}");
                assert!(message.qos == 0 || ids.insert(message.id), "{message:?}");
            }
        }
        client.disconnect();
    }
}

#[test]
fn the_order_of_a_publisher_is_kept_per_topic_and_qos_on_every_way() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    client.subscribe(&[("t/#", 2)]);
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    for n in 0..60_u16 {
        let topic = format!("t/{}", n % 2);
        let qos = u8::try_from(n % 3).expect("small");
        publisher.publish_without_waiting(&Message::new(&topic, n.to_string()).qos(qos));
    }
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let message = client.next();
        let number: u16 = message.text().parse().expect("a number");
        let before = last.insert((message.topic.clone(), message.qos), number);
        assert!(before.is_none_or(|before| before < number), "{message:?} after {before:?}");
    }
}

#[test]
fn releases_follow_the_order_of_the_receipts() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    for level in [4, 5] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        client.subscribe(&[("t", 2)]);
        client.acknowledges = false;
        let mut ids = Vec::new();
        for n in 0..6 {
            publisher.publish(&Message::new("t", n.to_string()).qos(2));
            ids.push(client.next().id);
        }
        for (from, to) in [(0, 3), (3, 6)] {
            let receipts: Vec<u8> =
                ids[from..to].iter().flat_map(|id| wire::ack(PUBREC, *id)).collect();
            client.send(&receipts);
            for id in &ids[from..to] {
                client.wait("the next PUBREL", |packet| match packet {
                    Packet::Ack(Ack { kind: PUBREL, id: i, .. }) => {
                        assert_eq!(i, id, "version {level}");
                        Some(())
                    }
                    packet => panic!("{packet:?}"),
                });
            }
        }
        client.disconnect();
    }
}

#[test]
fn nothing_is_sent_twice_on_one_connection() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v4("publisher").open(gateway.port);
    let mut client = Connect::v4("client").open(gateway.port);
    client.subscribe(&[("t", 2)]);
    client.acknowledges = false;
    publisher.publish(&Message::new("t", "one").qos(1));
    publisher.publish(&Message::new("t", "two").qos(2));
    let first = [client.next(), client.next()];
    client.send(&wire::ack(PUBREC, first[1].id));
    client.wait_ack(PUBREL, first[1].id);
    // Longer than any flush or round trip, by the gateway's own clock.
    for _ in 0..3 {
        gateway.wait_stats("time passes", |_| true);
    }
    assert!(matches!(client.reaction(&[]), Some(Packet::Pingresp)));
    publisher.publish(&Message::new("t", "last").qos(1));
    assert_eq!(client.next().text(), "last");
    client.send(&wire::ack(PUBACK, first[0].id));
}

#[test]
fn what_a_member_of_a_group_refuses_goes_to_nobody_else() {
    let gateway = Gateway::start("");
    let mut publisher = Connect::v5("publisher").open(gateway.port);
    let mut members = ["one", "two"].map(|id| Connect::v5(id).open(gateway.port));
    for client in &mut members {
        client.subscribe(&[("$share/g/t", 2), ("last", 1)]);
        client.acknowledges = false;
    }
    for qos in [1, 2] {
        let kind = if qos == 1 { PUBACK } else { PUBREC };
        for n in 0..2 {
            publisher.publish(&Message::new("t", n.to_string()).qos(qos));
        }
        // Each has one of the two, and refuses it.
        for client in &mut members {
            let id = client.next().id;
            client.send(&wire::ack_with(kind, id, Some(0x83)));
            client.ping();
        }
        publisher.publish(&Message::new("last", "last").qos(1));
        for client in &mut members {
            let message = client.next();
            assert_eq!(message.text(), "last", "QoS {qos}");
            client.send(&wire::ack(PUBACK, message.id));
        }
    }
}
