//! Places for sessions when they run short.

use super::*;
use crate::limits::SESSION_SURE;

/// CONNECT of a client from an address; its CONNACK's code.
fn greet(world: &mut World, host: u8, name: &str, clean: bool) -> (Option<ConnId>, u8) {
    let peer = format!("10.0.0.{host}:9").parse().unwrap();
    let client = world.gateway.accept(world.now, 0, peer).unwrap();
    let mut packet = b"\x10\0\0\x04MQTT\x04\0\0\0\0".to_vec();
    packet[9] = u8::from(clean) << 1;
    packet.push(u8::try_from(name.len()).unwrap());
    packet.extend(name.as_bytes());
    packet[1] = u8::try_from(packet.len() - 2).unwrap();
    let mut buffer = packet;
    world.gateway.receive(world.now, client, &mut buffer);
    world.gateway.flush(world.now, &mut world.disk);
    let greeting = world.sent(client);
    assert_eq!(greeting[..2], [0x20, 2]);
    if greeting[3] != 0 {
        world.lose(client);
        return (None, greeting[3]);
    }
    (Some(client), 0)
}

/// One that subscribes, keeps its session and goes.
fn visit(world: &mut World, host: u8, name: &str) -> u8 {
    let (client, code) = greet(world, host, name, false);
    if let Some(client) = client {
        world.receive(client, &[0x82, 6, 0, 1, 0, 1, b'z', 1]);
        world.gateway.flush(world.now, &mut world.disk);
        assert_eq!(world.sent(client), [0x90, 3, 0, 1, 1]);
        world.lose(client);
    }
    code
}

fn gave_way(world: &mut World) -> Vec<String> {
    let notes = core::iter::from_fn(|| world.gateway.poll_note()).map(|note| note.to_string());
    notes.filter(|note| note.starts_with("event=session_gave_way")).collect()
}

fn world() -> World {
    World::with("limit.clients = 4\nlimit.sessions = 16\n", 64)
}

#[test]
fn sessions_that_are_kept_leave_an_eighth_to_the_others() {
    let mut world = world();
    for at in 0..14 {
        assert_eq!(visit(&mut world, at, &format!("k{at}")), 0);
    }
    let (one, code) = greet(&mut world, 100, "clean1", true);
    assert_eq!(code, 0);
    assert_eq!(greet(&mut world, 100, "clean2", true).1, 0);
    assert_eq!(gave_way(&mut world), [""; 0], "there was a place for both");
    // All were here a moment ago.
    assert_eq!(greet(&mut world, 101, "late", false).1, 3);
    world.lose(one.unwrap());
    assert_eq!(greet(&mut world, 101, "late", false).1, 3, "not in a clean one's place");
    world.now = world.now.plus(SESSION_SURE);
    assert_eq!(greet(&mut world, 101, "late", false).1, 0);
    let told = "event=session_gave_way client=k0 to=late limit=limit.sessions";
    assert_eq!(gave_way(&mut world), [told], "the one that was away longest");
}

#[test]
fn who_fills_all_places_from_one_address_gives_them_up_to_others_at_once() {
    let mut world = world();
    assert_eq!(visit(&mut world, 1, "modest"), 0);
    for at in 0..40 {
        assert_eq!(visit(&mut world, 2, &format!("g{at}")), 0, "only its own give way");
    }
    assert!(world.gateway.sessions.find("modest").is_some());
    for at in 10..22 {
        assert_eq!(visit(&mut world, at, &format!("d{at}")), 0);
    }
    let told = gave_way(&mut world);
    assert!(told.iter().all(|note| note.contains("client=g")), "{told:?}");
    assert!(world.gateway.sessions.find("modest").is_some());
    assert_eq!(visit(&mut world, 22, "d22"), 3, "everybody has as many as it would have");
}

#[test]
fn a_session_that_a_message_waits_for_gives_way_to_nobody() {
    let mut world = world();
    for at in 0..14 {
        visit(&mut world, 2, &format!("g{at}"));
    }
    let (publisher, _) = greet(&mut world, 3, "p", true);
    world.receive(publisher.unwrap(), &[0x32, 6, 0, 1, b'z', 0, 5, b'x']);
    assert_eq!(world.turn(publisher.unwrap()), [0x40, 2, 0, 5]);
    world.now = world.now.plus(SESSION_SURE * 2);
    assert_eq!(greet(&mut world, 4, "late", false).1, 3);
    assert_eq!(greet(&mut world, 4, "clean", true).1, 0);
    assert_eq!(world.gateway.queue.counters.drops, 0);
}

#[test]
fn a_bound_for_each_holder_is_kept() {
    let mut world = World::with("limit.clients = 4\nlimit.sessions_per_user = 2\n", 64);
    let here = greet(&mut world, 1, "a", true).0.unwrap();
    assert_eq!(visit(&mut world, 1, "b"), 0);
    assert_eq!(visit(&mut world, 1, "c"), 0, "in the place of b");
    let told = "event=session_gave_way client=b to=c limit=limit.sessions_per_user";
    assert_eq!(gave_way(&mut world), [told]);
    assert_eq!(visit(&mut world, 2, "d"), 0, "another address");
    let second = greet(&mut world, 1, "e", true).0.unwrap();
    assert_eq!(greet(&mut world, 1, "f", true).1, 3, "both are here");
    world.lose(second);
    world.lose(here);
    assert_eq!(greet(&mut world, 1, "f", true).1, 0);
}
