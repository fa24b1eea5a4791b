//! Wills: who may keep how much, and what becomes of those that find no room.

use super::*;

/// CONNECT of MQTT 5 with a will on `topic`, QoS 1, that is published `delay_s` after the client is
/// gone; its session lasts as long.
fn connect(name: u8, topic: &str, payload: usize, delay_s: u32) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\x0C\0\0".to_vec();
    body.extend([5, 0x11]);
    body.extend(delay_s.to_be_bytes());
    body.extend([0, 1, name]);
    body.extend([5, 0x18]);
    body.extend(delay_s.to_be_bytes());
    body.extend([0, u8::try_from(topic.len()).unwrap()]);
    body.extend(topic.as_bytes());
    body.extend(u16::try_from(payload).unwrap().to_be_bytes());
    body.resize(body.len() + payload, b'w');
    let mut packet = vec![0x10];
    length(&mut packet, body.len());
    packet.append(&mut body);
    packet
}

/// The reason code of the CONNACK.
fn greet(world: &mut World, connect: &[u8]) -> (ConnId, u8) {
    let peer = "127.0.0.1:9".parse().unwrap();
    let client = world.gateway.accept(world.now, 0, peer).unwrap();
    let mut buffer = connect.to_vec();
    world.gateway.receive(world.now, client, &mut buffer);
    let mut greeting = world.sent(client);
    if greeting.is_empty() {
        greeting = world.turn(client);
    }
    assert_eq!(greeting[0], 0x20);
    (client, greeting[3])
}

fn notes(world: &mut World) -> Vec<String> {
    core::iter::from_fn(|| world.gateway.poll_note()).map(|note| note.to_string()).collect()
}

const LIMITS: &str = "limit.will_bytes = 1000\nlimit.clients = 5\n";

#[test]
fn a_large_will_of_a_client_that_is_away_keeps_nobody_out() {
    let mut world = World::with(LIMITS, 64);
    let listener = world.client(b'l');
    world.receive(listener, &[0x82, 6, 0, 1, 0, 1, b'w', 0]);
    world.turn(listener);
    let (greedy, code) = greet(&mut world, &connect(b'g', "w", 590, 1000));
    assert_eq!(code, 0);
    world.lose(greedy);
    assert_eq!(world.turn(listener), [], "it has its time");
    let (_, code) = greet(&mut world, &connect(b'a', "w", 390, 0));
    assert_eq!((code, world.turn(listener)), (0, vec![]), "there is room");
    notes(&mut world);
    let (_, code) = greet(&mut world, &connect(b'b', "w", 99, 0));
    assert_eq!(code, 0, "who is here goes before who is away");
    let mut published = world.sent(listener);
    published.extend(world.turn(listener));
    assert_eq!(published.iter().filter(|byte| **byte == b'w').count(), 591, "topic and payload");
    let told = notes(&mut world);
    let expected = "event=limit_reached client=g limit=limit.will_bytes size=591 max=1000";
    assert!(told.iter().any(|note| note == expected), "{told:?}");
}

#[test]
fn what_those_have_who_are_here_is_not_taken_from_them() {
    let mut world = World::with(LIMITS, 64);
    let (_, code) = greet(&mut world, &connect(b'g', "w", 590, 0));
    assert_eq!(code, 0);
    let (_, code) = greet(&mut world, &connect(b'h', "w", 300, 0));
    assert_eq!(code, 0x97);
    for name in [b'a', b'b', b'c', b'd'] {
        let (_, code) = greet(&mut world, &connect(name, "w", 99, 0));
        assert_eq!(code, 0, "their share is theirs");
    }
}

/// A bridge that is full, with a message that expires after 5 s.
fn full() -> World {
    let mut world = World::with("bridge.up.max_messages = 1\n", 64);
    let (publisher, _) = greet(&mut world, &connect(b'p', "other", 1, 0));
    let publish = b"\x32\x0D\0\x03t/a\0\x01\x05\x02\0\0\0\x05x";
    let mut publish = publish.to_vec();
    publish[1] = u8::try_from(publish.len() - 2).unwrap();
    world.receive(publisher, &publish);
    assert_eq!(world.turn(publisher)[..4], [0x40, 2, 0, 1]);
    world
}

#[test]
fn a_will_that_finds_no_room_waits_for_it_past_the_end_of_its_session() {
    let mut world = full();
    let listener = world.client(b'l');
    world.receive(listener, &[0x82, 8, 0, 1, 0, 3, b't', b'/', b'b', 0]);
    world.turn(listener);
    let (client, _) = greet(&mut world, &connect(b'c', "t/b", 3, 0));
    world.lose(client);
    assert_eq!(world.turn(listener), []);
    assert!(world.gateway.sessions.find("c").is_none());
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(world.turn(listener));
    }
    assert_eq!(got, [0x30, 8, 0, 3, b't', b'/', b'b', b'w', b'w', b'w']);
    assert_eq!(world.gateway.queue.outbox(DestId(0)).pending, 1, "it took the other's place");
}

#[test]
fn a_will_without_room_goes_uncounted_neither_by_a_return_nor_by_a_stop() {
    let mut world = full();
    let drops = |world: &World| world.gateway.queue.counters.drops;
    let (client, _) = greet(&mut world, &connect(b'c', "t/b", 3, 0));
    world.lose(client);
    greet(&mut world, &connect(b'c', "t/b", 3, 0));
    assert_eq!((drops(&world), world.gateway.wills_waiting.len()), (1, 0));
    let (client, _) = greet(&mut world, &connect(b'd', "t/b", 3, 0));
    world.lose(client);
    world.gateway.handle(world.now, Event::Stop { signal: "SIGTERM" });
    for _ in 0..5 {
        world.now = world.now.plus(Duration::from_secs(1));
        world.gateway.expire(world.now);
        world.gateway.flush(world.now, &mut world.disk);
    }
    assert_eq!(drops(&world), 3, "of d, and of c that was still connected");
}
