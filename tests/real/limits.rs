//! What is too much is refused by name; what fits goes on.

use crate::common::client::{Wire, dial};
use crate::common::gateway::{Gateway, binary};
use crate::common::process::Process;
use crate::common::wire::{
    self, Connect, MAXIMUM_PACKET_SIZE, Message, PUBCOMP, PUBREC, PUBREL, Packet, RECEIVE_MAXIMUM,
    find, four_bytes,
};

fn disconnect_code(packets: &[Packet]) -> Option<u8> {
    match packets.last() {
        Some(Packet::Disconnect { code }) => Some(*code),
        _ => None,
    }
}

#[test]
fn one_client_too_many_is_told_so_until_there_is_room() {
    let gateway = Gateway::start("limit.clients = 2");
    let first = Connect::v4("first").open(gateway.port);
    let _second = Connect::v4("second").open(gateway.port);
    for (level, code) in [(5, 0x97), (4, 3)] {
        let connect = Connect::new(level, &format!("third-{level}"));
        let third = connect.try_open(gateway.port).expect("a CONNACK");
        assert_eq!(third.connack.code, code);
    }
    gateway.wait_with("client_refused", &[("reason", "limit_clients")]);
    first.disconnect();
    gateway.wait_with("client_disconnected", &[("client", "first")]);
    Connect::v4("third").open(gateway.port).ping();
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let gateway = Gateway::start("limit.clients = 2");
    let mut silent: Vec<_> =
        (0..30).map(|_| Wire::new(dial(gateway.port).expect("a connection"), 4)).collect();
    Connect::v4("client").open(gateway.port).ping();
    gateway.wait_with("client_refused", &[("reason", "place_needed")]);
    assert!(silent[0].read_to_the_end().is_empty(), "the oldest");
}

#[test]
fn a_listener_has_its_own_bound() {
    let second = crate::common::place::free_port();
    let gateway = Gateway::start(&format!(
        "listener.small.url = mqtt://127.0.0.1:{second}\nlistener.small.max_clients = 1"
    ));
    gateway.wait_with("listening", &[("listener", "small")]);
    let _only = Connect::v4("only").open(second);
    let refused = Connect::v4("refused").try_open(second).expect("a CONNACK");
    assert_eq!(refused.connack.code, 3);
    gateway.wait_with("client_refused", &[("reason", "listener_max_clients")]);
    Connect::v4("elsewhere").open(gateway.port).ping();
    // Whoever takes its own place over needs no other.
    Connect::v4("only").open(second).ping();
}

#[test]
fn a_client_that_takes_its_own_place_over_needs_no_room() {
    let gateway = Gateway::start("limit.clients = 1");
    let mut first = Connect::v5("same").open(gateway.port);
    let second = Connect::v5("same").try_open(gateway.port).expect("a CONNACK");
    // One connection more than the limit may be refused; then the first one goes on.
    if second.connack.code == 0 {
        assert_eq!(disconnect_code(&first.wait_closed()), Some(0x8E));
    } else {
        assert_eq!(second.connack.code, 0x97);
        first.ping();
    }
}

#[test]
fn the_largest_packet_is_announced_and_enforced() {
    let gateway = Gateway::start("limit.packet_size = 4KiB");
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    watcher.subscribe(&[("t", 1)]);
    let mut client = Connect::v5("client").open(gateway.port);
    let announced = find(&client.connack.properties, MAXIMUM_PACKET_SIZE).map(four_bytes);
    assert_eq!(announced, Some(4096));
    // Fixed header 3, topic 3, packet id 2, properties 1.
    let fits = vec![b'x'; 4096 - 9];
    let bytes = Message { id: 1, ..Message::new("t", &fits).qos(1) }.bytes(5);
    assert_eq!(bytes.len(), 4096);
    assert_eq!(client.publish(&Message::new("t", &fits).qos(1)), 0);
    assert_eq!(watcher.next().payload, fits);
    client.publish_without_waiting(&Message::new("t", [&fits[..], b"x"].concat()).qos(1));
    assert_eq!(disconnect_code(&client.wait_closed()), Some(0x95));
    // 3.1.1 has no word for it.
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish_without_waiting(&Message::new("t", vec![b'x'; 4096]).qos(1));
    assert!(client.wait_closed().is_empty());
    watcher.publish(&Message::new("t", "last").qos(1));
    assert_eq!(watcher.until("last"), []);
}

#[test]
fn the_header_alone_is_enough_to_refuse_a_giant() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(disconnect_code(&client.wait_closed()), Some(0x95));
    gateway.wait_with("client_disconnected", &[("reason", "too_large")]);
    let mut first = Wire::new(dial(gateway.port).expect("a connection"), 4);
    first.send(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).expect("sent");
    first.read_to_the_end();
}

#[test]
fn large_messages_of_more_clients_than_large_buffers_all_arrive() {
    let gateway = Gateway::start("limit.large_buffers = 2\nlog.level = debug");
    let mut watcher = Connect::v4("watcher").open(gateway.port);
    watcher.subscribe(&[("t/#", 1)]);
    let mut clients: Vec<_> =
        (0..6).map(|n| Connect::v4(&format!("client-{n}")).open(gateway.port)).collect();
    let payload = vec![b'x'; 60_000];
    for (n, client) in clients.iter_mut().enumerate() {
        client.publish_without_waiting(&Message::new(&format!("t/{n}"), &payload).qos(1));
    }
    let mut topics: Vec<String> = (0..6)
        .map(|_| {
            let message = watcher.next();
            assert_eq!(message.payload.len(), 60_000);
            message.topic
        })
        .collect();
    topics.sort();
    assert_eq!(topics, ["t/0", "t/1", "t/2", "t/3", "t/4", "t/5"]);
    for client in &mut clients {
        client.wait_ack(wire::PUBACK, 1);
    }
}

#[test]
fn a_topic_beyond_the_limit_is_refused() {
    let gateway = Gateway::start("limit.topic_bytes = 40");
    let (fits, long) = ("a".repeat(40), "a".repeat(41));
    let mut watcher = Connect::v5("watcher").open(gateway.port);
    assert_eq!(watcher.subscribe(&[("#", 1)]), [1]);
    for level in [5, 4] {
        let mut client = Connect::new(level, &format!("client-{level}")).open(gateway.port);
        assert_eq!(client.publish(&Message::new(&fits, "fits").qos(1)), 0);
        assert_eq!(watcher.next().topic, fits);
        // By itself: the connection goes on, and before MQTT 5 there is no word for it.
        for qos in [1, 2] {
            let code = client.publish(&Message::new(&long, "long").qos(qos));
            assert_eq!(code, if level == 5 { 0x90 } else { 0 }, "{level} {qos}");
        }
        client.publish_without_waiting(&Message::new(&long, "long"));
        client.ping();
        // As a filter: refused in the SUBACK or by closing.
        let mut client = Connect::new(level, "filter").open(gateway.port);
        client.send(&wire::subscribe(level, 1, &[(&long, 1), ("other", 1)], &[]));
        match client.wire.read(crate::common::PATIENCE) {
            Ok(Packet::Suback { codes, .. }) => {
                assert!(codes[0] >= 0x80 && codes[1] == 1, "{codes:x?}");
            }
            Ok(Packet::Disconnect { code }) => assert!([0x8F, 0x90].contains(&code), "{code:x}"),
            Ok(packet) => panic!("{packet:?} in version {level}"),
            Err(_) => assert_eq!(level, 4, "closed without a word"),
        }
    }
    watcher.publish(&Message::new("t", "last").qos(1));
    assert_eq!(watcher.until("last"), []);
    crate::common::wait_until("each is counted", || gateway.dropped("topic_too_long") == 6);
}

#[test]
fn a_client_id_beyond_the_limit_is_refused() {
    let gateway = Gateway::start("limit.client_id_bytes = 30");
    for (level, code) in [(5, 0x85), (4, 2)] {
        Connect::new(level, &"a".repeat(30)).open(gateway.port).disconnect();
        let refused = Connect::new(level, &"a".repeat(31)).try_open(gateway.port);
        assert_eq!(refused.expect("a CONNACK").connack.code, code);
    }
}

#[test]
fn one_subscription_too_many_is_refused_alone() {
    let gateway = Gateway::start("limit.subscriptions = 3");
    for (level, code) in [(5, 0x97), (4, 0x80)] {
        let mut client = Connect::new(level, "client").open(gateway.port);
        assert_eq!(client.subscribe(&[("a", 1), ("b", 1)]), [1, 1]);
        assert_eq!(client.subscribe(&[("c", 1), ("d", 1)]), [1, code]);
        let limit = ("limit", "limit.subscriptions");
        gateway.wait_with("limit_reached", &[("client", "client"), limit]);
        // Replacing one needs no room, and leaving one makes room.
        assert_eq!(client.subscribe(&[("a", 0)]), [0]);
        client.unsubscribe("a");
        assert_eq!(client.subscribe(&[("d", 2)]), [2]);
        client.publish(&Message::new("d", "x").qos(1));
        assert_eq!(client.next().text(), "x");
        client.disconnect();
    }
}

#[test]
fn one_session_too_many_is_refused() {
    let gateway = Gateway::start("limit.sessions = 2\nlimit.clients = 2");
    for n in 0..2 {
        let kept = Connect::v5(&format!("kept-{n}")).persistent();
        let mut client = kept.open(gateway.port);
        client.subscribe(&[("t", 1)]);
        client.disconnect();
    }
    let third = Connect::v5("third").try_open(gateway.port).expect("a CONNACK");
    assert_eq!(third.connack.code, 0x97);
    gateway.wait_with("client_refused", &[("reason", "limit_sessions")]);
    // Those that are kept can return, and one that ends makes room.
    assert!(Connect::v5("kept-0").persistent().open(gateway.port).connack.session_present);
    Connect::v5("kept-1").open(gateway.port).disconnect();
    Connect::v5("third").open(gateway.port).ping();
}

#[test]
fn a_session_with_nothing_in_it_makes_room_and_no_other_does() {
    let gateway = Gateway::start("limit.sessions = 3");
    let kept = |name: &str| Connect::v5(name).persistent();
    let mut open = kept("exchange").open(gateway.port);
    let message = Message { id: 7, ..Message::new("t", "x").qos(2) };
    open.send(&message.bytes(5));
    open.wait_ack(PUBREC, 7);
    open.disconnect();
    let mut subscriber = kept("subscriber").open(gateway.port);
    subscriber.subscribe(&[("t", 1)]);
    subscriber.disconnect();
    // As firmware does that takes a new name at every start.
    for n in 0..20 {
        let mut client = kept(&format!("random-{n}")).open(gateway.port);
        client.publish(&Message::new("other", "x").qos(2));
        client.disconnect();
    }
    Connect::v5("clean").open(gateway.port).ping();
    assert!(kept("exchange").open(gateway.port).connack.session_present);
    assert!(kept("subscriber").open(gateway.port).connack.session_present);
}

#[test]
fn more_in_flight_than_allowed_ends_an_mqtt_5_connection() {
    // A bridge that is never up and a store that may wait keep acknowledgements back.
    let dead = crate::common::gateway::bridge("up", 9, &["forward.1.local_topic = #"]);
    let gateway = Gateway::start(&format!("limit.inflight = 5\nstore.flush_after = 60s\n{dead}"));
    let mut client = Connect::v5("client").open(gateway.port);
    assert_eq!(find(&client.connack.properties, RECEIVE_MAXIMUM), Some(&[0, 5][..]));
    let mut bytes = Vec::new();
    for id in 1..=6 {
        bytes.extend(Message { id, ..Message::new("t", "x").qos(2) }.bytes(5));
    }
    client.send(&bytes);
    assert_eq!(disconnect_code(&client.wait_closed()), Some(0x93));
}

#[test]
fn qos_2_counts_against_the_receive_maximum_until_it_is_released() {
    let gateway = Gateway::start("limit.inflight = 5");
    let mut client = Connect::v5("client").open(gateway.port);
    let message = Message::new("t", "x").qos(2);
    for _ in 0..5 {
        let id = client.publish_without_waiting(&message);
        client.wait_ack(PUBREC, id);
    }
    client.send(&wire::ack(PUBREL, 3));
    client.wait_ack(PUBCOMP, 3);
    let id = client.publish_without_waiting(&message);
    client.wait_ack(PUBREC, id);
    client.send(&Message { id: 7, ..Message::new("t", "x").qos(1) }.bytes(5));
    assert_eq!(disconnect_code(&client.wait_closed()), Some(0x93));
}

#[test]
fn a_3_1_1_client_may_pipeline_more_than_the_limit_and_waits() {
    let gateway = Gateway::start("limit.inflight = 5");
    let mut client = Connect::v4("client").open(gateway.port);
    let mut bytes = Vec::new();
    for id in 1..=200 {
        bytes.extend(Message { id, ..Message::new("t", "x").qos(1) }.bytes(4));
    }
    client.send(&bytes);
    for id in 1..=200 {
        assert_eq!(client.wait_ack(wire::PUBACK, id).id, id);
    }
}

#[test]
fn wills_beyond_their_room_are_refused_and_those_that_end_make_room() {
    let gateway = Gateway::start("limit.will_bytes = 100");
    let with_will =
        |level: u8, id: &str| Connect::new(level, id).will(Message::new("gone", vec![b'x'; 90]));
    let first = with_will(5, "first").open(gateway.port);
    for (level, code) in [(5, 0x97), (4, 3)] {
        let second = with_will(level, "second").try_open(gateway.port).expect("a CONNACK");
        assert_eq!(second.connack.code, code);
        gateway.wait_with("client_refused", &[("reason", "limit_will_bytes")]);
        Connect::new(level, "without").open(gateway.port).ping();
    }
    first.disconnect();
    gateway.wait_with("client_disconnected", &[("client", "first")]);
    with_will(4, "second").open(gateway.port).ping();
}

#[test]
fn a_keepalive_beyond_the_longest_is_shortened_and_enforced() {
    let gateway = Gateway::start("limit.keepalive_max = 1s");
    let mut idle = Connect::v5("idle").keepalive(600).open(gateway.port);
    assert_eq!(disconnect_code(&idle.wait_closed()), Some(0x8D));
    gateway.wait_with("client_disconnected", &[("reason", "keepalive_timeout")]);
}

#[test]
fn a_thousand_connections_at_once_are_all_answered_and_a_client_does_not_notice() {
    let mut gateway = Gateway::start("limit.clients = 600\nlimit.sessions = 600");
    let mut quiet = Connect::v5("quiet").open(gateway.port);
    let mut wires = Vec::new();
    for n in 0..1000 {
        let mut wire = Wire::new(dial(gateway.port).expect("a place in the queue"), 4);
        // One that is closed for want of room may be so before it has said anything.
        let _ = wire.send(&Connect::v4(&format!("one-{n}")).bytes());
        wires.push(wire);
    }
    let mut let_in = 0;
    for wire in &mut wires {
        match wire.read(crate::common::PATIENCE) {
            Ok(Packet::Connack(connack)) if connack.code == 0 => let_in += 1,
            Ok(Packet::Connack(connack)) => assert_eq!(connack.code, 3),
            Ok(packet) => panic!("{packet:?}"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut),
        }
        quiet.ping();
    }
    assert_eq!(let_in, 599);
    quiet.ping();
    assert!(gateway.is_running());
}

#[test]
fn too_few_file_descriptors_are_said_before_a_client_is_refused() {
    let gateway = Gateway::prepare("limit.clients = 400");
    let limited = |options: &str| {
        let mut command = std::process::Command::new("sh");
        let script = format!("ulimit -n 200; exec \"$0\" {options} -c \"$1\"");
        command.arg("-c").arg(script).arg(binary()).arg(gateway.configuration_file());
        command
    };
    let told = "file descriptors are needed and 200 allowed";
    let checked = limited("--check").output().expect("sh runs it");
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && text.contains(told), "{text}");
    let running = Process::start(limited(""));
    let said = running.log.wait(0, crate::common::PATIENCE, |line| {
        (line.contains("config_warning") && line.contains(told)).then_some(())
    });
    assert!(said.is_some(), "{:?}", running.log.lines());
}

#[test]
fn a_giant_that_goes_on_after_it_was_refused_is_not_read_to_its_end() {
    let gateway = Gateway::start("");
    let mut client = Connect::v5("client").open(gateway.port);
    // The fixed header of 20 MiB and more, and what it promises.
    client.send(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    let chunk = [b'x'; 16 * 1024];
    let sent = (0..20 * 64).take_while(|_| client.wire.send(&chunk).is_ok()).count();
    assert!(sent < 20 * 64, "all of it was taken");
    assert_eq!(disconnect_code(&client.wait_closed()), Some(0x95));
    Connect::v5("other").open(gateway.port).ping();
}
