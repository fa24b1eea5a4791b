//! Shared subscriptions: each message to one of a group, evenly, to whoever can take it, and to
//! another one when that one's session ends.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::gateway::Gateway;
use crate::common::mosquitto::{MosquittoSub, mosquitto_pub};
use crate::common::publisher::Publisher;
use crate::common::wire::{
    Connect, Message, PUBREC, Packet, RECEIVE_MAXIMUM, SUBSCRIPTION_ID, ack, numbered_plan,
    subscribe,
};
use crate::common::{number_of, numbered};

fn member(gateway: &Gateway, connect: &Connect, filter: &str, qos: u8) -> Client {
    let mut client = connect.open(gateway.port);
    assert_eq!(client.subscribe(&[(filter, qos)]), [qos]);
    client
}

fn publish_all(gateway: &Gateway, plan: &[Message]) {
    let mut client = Connect::v5("publisher").open(gateway.port);
    for message in plan {
        assert!(client.publish(message) < 0x80);
    }
}

/// The numbers among `total` that have come to these clients, each client's apart.
fn taken(clients: &mut [Client], total: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = clients.iter().map(|_| Vec::new()).collect();
    let mut count = 0;
    while count < total {
        for (client, mine) in clients.iter_mut().zip(&mut all) {
            // What was sent before the answer has come before it.
            client.ping();
            while let Some(message) = client.next_within(std::time::Duration::from_millis(1)) {
                mine.push(number_of(&message.payload));
                count += 1;
            }
        }
    }
    all
}

fn is_everything(all: &[Vec<usize>], total: usize) -> bool {
    let mut numbers: Vec<usize> = all.concat();
    numbers.sort_unstable();
    numbers == (0..total).collect::<Vec<_>>()
}

#[test]
fn messages_are_spread_evenly_and_in_order_over_members_of_both_versions() {
    let gateway = Gateway::start("");
    let connects = [Connect::v4("a"), Connect::v5("b"), Connect::v4("c").persistent()];
    for qos in [0, 1, 2] {
        let filter = format!("$share/g/t/+/{qos}");
        let mut members: Vec<Client> =
            connects.iter().map(|connect| member(&gateway, connect, &filter, 2)).collect();
        publish_all(&gateway, &numbered_plan(&format!("t/x/{qos}"), qos, 60));
        let all = taken(&mut members, 60);
        assert!(is_everything(&all, 60), "{all:?}");
        for mine in all {
            assert_eq!(mine.len(), 20, "{mine:?}");
            assert!(mine.is_sorted(), "{mine:?}");
        }
    }
}

#[test]
fn every_group_and_every_subscription_of_its_own_gets_all_of_them() {
    let gateway = Gateway::start("");
    let mut own = member(&gateway, &Connect::v4("own"), "t/#", 1);
    // One that has both gets both.
    let mut both = member(&gateway, &Connect::v5("both"), "t/a", 1);
    both.subscribe(&[("$share/alone/t/a", 1)]);
    let mut one = member(&gateway, &Connect::v4("one"), "$share/one/t/#", 1);
    let mut two = member(&gateway, &Connect::v5("two"), "$share/two/t/a", 1);
    publish_all(&gateway, &numbered_plan("t/a", 1, 10));
    for client in [&mut own, &mut one, &mut two] {
        let numbers: Vec<usize> = (0..10).map(|_| number_of(&client.next().payload)).collect();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    }
    let all = taken(&mut [both], 20);
    let mut twice: Vec<usize> = (0..10).chain(0..10).collect();
    twice.sort_unstable();
    let mut all = all.concat();
    all.sort_unstable();
    assert_eq!(all, twice);
}

#[test]
fn a_member_whose_window_is_full_is_passed_over() {
    let gateway = Gateway::start("");
    let narrow = Connect::v5("narrow").property((RECEIVE_MAXIMUM, vec![0, 2]));
    let mut narrow = member(&gateway, &narrow, "$share/g/t", 1);
    narrow.acknowledges = false;
    let wide = member(&gateway, &Connect::v5("wide"), "$share/g/t", 1);
    publish_all(&gateway, &numbered_plan("t", 1, 30));
    let all = taken(&mut [narrow, wide], 30);
    assert!(is_everything(&all, 30), "{all:?}");
    assert_eq!(all[0].len(), 2, "{all:?}");
}

#[test]
fn members_that_are_away_are_passed_over_and_share_when_all_are() {
    let mut gateway = Gateway::start("");
    let connects = [Connect::v4("a").persistent(), Connect::v5("b").persistent()];
    let mut members: Vec<Client> =
        connects.iter().map(|connect| member(&gateway, connect, "$share/g/t", 1)).collect();
    members.remove(0).disconnect();
    publish_all(&gateway, &numbered_plan("t", 1, 10));
    assert_eq!(taken(&mut members, 10)[0], (0..10).collect::<Vec<_>>());
    members.remove(0).disconnect();
    publish_all(&gateway, &numbered_plan("t", 1, 20));
    gateway.kill();
    gateway.run();
    let mut back: Vec<Client> = connects.iter().map(|connect| connect.open(gateway.port)).collect();
    let all = taken(&mut back, 20);
    assert!(is_everything(&all, 20), "{all:?}");
    assert_eq!([all[0].len(), all[1].len()], [10, 10]);
    // The group itself has survived too.
    publish_all(&gateway, &numbered_plan("t", 1, 2));
    let all = taken(&mut back, 2);
    assert_eq!([all[0].len(), all[1].len()], [1, 1]);
}

#[test]
fn what_a_member_left_unacknowledged_goes_to_another_when_its_session_ends() {
    let gateway = Gateway::start("");
    let mut leaves = member(&gateway, &Connect::v4("leaves"), "$share/g/t", 1);
    leaves.acknowledges = false;
    publish_all(&gateway, &numbered_plan("t", 1, 100));
    // Some in flight, some waiting behind the window.
    assert_eq!(number_of(&leaves.next().payload), 0);
    let mut stays = member(&gateway, &Connect::v5("stays"), "$share/g/t", 1);
    leaves.vanish();
    let all = taken(std::slice::from_mut(&mut stays), 100);
    assert_eq!(all[0], (0..100).collect::<Vec<_>>());
    assert_eq!(gateway.dropped("session_ended"), 0);
}

#[test]
fn a_stored_session_that_ends_leaves_its_messages_to_the_group_durably() {
    let mut gateway = Gateway::start("");
    let stays = Connect::v5("stays").persistent();
    let leaves = Connect::v4("leaves").persistent();
    member(&gateway, &leaves, "$share/g/t", 1).disconnect();
    publish_all(&gateway, &numbered_plan("t", 1, 10));
    member(&gateway, &stays, "$share/g/t", 1).disconnect();
    // A clean session ends the stored one; its CONNACK says that this is durable.
    let again = Connect::v4("leaves").open(gateway.port);
    gateway.kill();
    again.vanish();
    gateway.run();
    let mut stays = stays.open(gateway.port);
    let all = taken(std::slice::from_mut(&mut stays), 10);
    assert_eq!(all[0], (0..10).collect::<Vec<_>>());
}

#[test]
fn what_no_other_member_takes_of_a_session_that_ends_is_counted() {
    // So few in flight stay in RAM when their session is left.
    let few = "ring.messages = 64\nlimit.inflight = 4\nstore.flush_after = 10ms";
    let gateway = Gateway::start(few);
    let leaves = Connect::v4("leaves").persistent();
    let mut leaves = member(&gateway, &leaves, "$share/g/t", 1);
    leaves.acknowledges = false;
    Publisher::numbered("publisher", "t", 1, 300).run(gateway.port);
    // Some of those behind come back from the disk for it.
    leaves.acknowledges = true;
    for number in 0..50 {
        assert_eq!(number_of(&leaves.next().payload), number);
    }
    leaves.acknowledges = false;
    leaves.ping();
    leaves.vanish();
    let stays = Connect::v4("stays").persistent();
    let stays = Collector::start_with(gateway.port, stays, "$share/g/t", 1);
    Connect::v4("leaves").open(gateway.port).disconnect();
    // What is in RAM is taken, what is on disk only is nobody's any more.
    let drop = gateway.wait_with("drop", &[("reason", "session_ended")]);
    let lost = usize::try_from(drop.number("count")).expect("not many");
    assert!((1..250).contains(&lost), "{lost}");
    stays.wait_count(250 - lost);
    publish_all(&gateway, &[Message::new("t", "300").qos(1)]);
    stays.wait("the last", |all| all.iter().any(|message| number_of(&message.payload) == 300));
    assert_eq!(stays.count(), 251 - lost);
    assert_eq!(gateway.dropped("session_ended"), drop.number("count"));
}

#[test]
fn a_message_of_qos_2_that_was_begun_is_for_nobody_else() {
    let gateway = Gateway::start("");
    let kept = Connect::v4("kept").persistent();
    let mut begun = member(&gateway, &kept, "$share/g/t", 2);
    begun.acknowledges = false;
    publish_all(&gateway, &[Message::new("t", "0").qos(2)]);
    let first = begun.next();
    begun.send(&ack(PUBREC, first.id));
    begun.ping();
    begun.vanish();
    let mut other = member(&gateway, &Connect::v4("other"), "$share/g/t", 2);
    // It is completed to the one that has begun it [MQTT-4.8.2-4] …
    let mut begun = kept.open(gateway.port);
    begun.wait("PUBREL", |packet| matches!(packet, Packet::Ack(a) if a.kind == 6).then_some(()));
    // … and ends with its session if that ends first [MQTT-4.8.2-5].
    begun.vanish();
    Connect::v4("kept").open(gateway.port).disconnect();
    publish_all(&gateway, &[Message::new("t", "1").qos(2)]);
    assert_eq!(other.next().text(), "1");
}

#[test]
fn retained_messages_are_not_for_groups() {
    let gateway = Gateway::start("");
    publish_all(&gateway, &[Message::new("t", "kept").qos(1).retained()]);
    let mut client = member(&gateway, &Connect::v5("client"), "$share/g/t", 1);
    publish_all(&gateway, &[Message::new("t", "live").qos(1)]);
    assert_eq!(client.next().text(), "live");
}

#[test]
fn identifiers_are_of_the_way_each_copy_came_even_after_a_restart() {
    let mut gateway = Gateway::start("");
    let kept = Connect::v5("kept").persistent();
    let mut client = kept.open(gateway.port);
    for (filter, id) in [("t", 1), ("#", 2), ("$share/g/t", 3), ("$share/h/+", 4)] {
        client.subscribe_with(&[(filter, 1)], &[(SUBSCRIPTION_ID, vec![id])]);
    }
    let publish = |gateway: &Gateway| publish_all(gateway, &[Message::new("t", "x").qos(1)]);
    let seen = |client: &mut Client| {
        let mut seen: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let message = client.next();
                assert_eq!(message.text(), "x");
                let mut ids = message.properties;
                ids.retain(|(id, _)| *id == SUBSCRIPTION_ID);
                ids.sort();
                ids.into_iter().flat_map(|(_, value)| value).collect()
            })
            .collect();
        seen.sort();
        seen
    };
    publish(&gateway);
    assert_eq!(seen(&mut client), [vec![1, 2], vec![3], vec![4]]);
    client.disconnect();
    publish(&gateway);
    gateway.kill();
    gateway.run();
    let mut client = kept.open(gateway.port);
    assert_eq!(seen(&mut client), [vec![1, 2], vec![3], vec![4]]);
}

#[test]
fn the_grant_of_whoever_is_chosen_counts() {
    let gateway = Gateway::start("");
    let mut members = [("zero", 0), ("two", 2)]
        .map(|(id, qos)| member(&gateway, &Connect::v5(id), "$share/g/t", qos));
    publish_all(&gateway, &numbered_plan("t", 1, 2));
    let qos = members.each_mut().map(|client| client.next().qos);
    assert_eq!(qos, [0, 1]);
}

#[test]
fn one_that_unsubscribes_is_out_of_the_group() {
    let gateway = Gateway::start("");
    let mut leaves = member(&gateway, &Connect::v4("leaves"), "$share/g/t", 1);
    let mut stays = member(&gateway, &Connect::v4("stays"), "$share/g/t", 1);
    leaves.unsubscribe("$share/g/t");
    publish_all(&gateway, &numbered_plan("t", 1, 6));
    let numbers: Vec<usize> = (0..6).map(|_| number_of(&stays.next().payload)).collect();
    assert_eq!(numbers, (0..6).collect::<Vec<_>>());
}

#[test]
fn what_is_no_shared_subscription_is_refused() {
    let gateway = Gateway::start("");
    for (filter, options, code) in [
        ("$share/g/t", 0x04, 0x82),
        ("$share//t", 0, 0x8F),
        ("$share/g+/t", 0, 0x8F),
        ("$share/g#/t", 0, 0x8F),
        ("$share/g/", 0, 0x8F),
        ("$share/g", 0, 0x8F),
    ] {
        let mut client = Connect::v5("client").open(gateway.port);
        client.send(&subscribe(5, 1, &[(filter, options)], &[]));
        let said = format!("{:?}", client.wait_closed());
        assert!(said.contains(&format!("Disconnect {{ code: {code} }}")), "{filter}: {said}");
    }
    let mut old = Connect::v4("old").open(gateway.port);
    let codes = old.subscribe(&[("$share//t", 1), ("$share/g", 1), ("$share/g/t", 1)]);
    assert_eq!(codes, [0x80, 0x80, 1]);
    assert!(!Connect::v5("new").open(gateway.port).connack.properties.contains(&(0x2A, vec![0])));
}

#[test]
fn mosquittos_clients_share_too() {
    let gateway = Gateway::start("");
    let arguments = |version| ["-V", version, "-t", "$share/g/t/#", "-q", "1", "-C", "5"];
    let subs = ["mqttv5", "mqttv311"]
        .map(|version| MosquittoSub::start(gateway.port, "%p", &arguments(version)));
    for n in 0..10 {
        let payload = String::from_utf8(numbered(n)).expect("digits");
        mosquitto_pub(gateway.port, &["-t", "t/x", "-q", "1", "-m", &payload]);
    }
    let mut all: Vec<usize> =
        subs.iter().flat_map(|sub| sub.take(5)).map(|text| number_of(text.as_bytes())).collect();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}
