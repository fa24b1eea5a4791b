//! Searching for retained messages: in pieces that nobody has to wait for.

use super::*;
use crate::limits::SEARCH_LOOKS_A_TURN;

const RETAINED: u32 = 1000;

/// SUBSCRIBE to so many filters `+/DIGITS/LAST`, none of which is in the packet twice.
fn subscribe(count: u32, last: char) -> Vec<u8> {
    let mut body = vec![0, 1];
    for at in 0..count {
        let filter = format!("+/{at:03}/{last}");
        body.extend([0, u8::try_from(filter.len()).unwrap()]);
        body.extend(filter.as_bytes());
        body.push(0);
    }
    let bytes = u32::try_from(body.len()).unwrap();
    let low = u8::try_from(bytes % 128).unwrap() | 0x80;
    let mut packet = vec![0x82, low, u8::try_from(bytes / 128).unwrap()];
    packet.append(&mut body);
    packet
}

fn world() -> World {
    let mut world = World::with("limit.retained = 2000\nlimit.subscriptions = 4000\n", 64);
    let publisher = world.client(b'd');
    for at in 0..RETAINED {
        let topic = format!("{at:04}/{:03}/q", at % 300);
        let mut packet = vec![0x31, u8::try_from(topic.len() + 3).unwrap(), 0];
        packet.push(u8::try_from(topic.len()).unwrap());
        packet.extend(topic.as_bytes());
        packet.push(b'x');
        world.receive(publisher, &packet);
    }
    world.turn(publisher);
    world
}

/// Presents bytes, and what is kept of them again, until they are taken: how often, and everything
/// that was sent.
fn present(world: &mut World, client: ConnId, mut bytes: Vec<u8>) -> (u32, Vec<u8>) {
    let mut sent = Vec::new();
    for turns in 1.. {
        let taken = world.gateway.receive(world.now, client, &mut bytes);
        bytes.truncate(taken.kept);
        world.gateway.flush(world.now, &mut world.disk);
        loop {
            let more = world.sent(client);
            if more.is_empty() {
                break;
            }
            sent.extend(more);
        }
        if bytes.is_empty() {
            return (turns, sent);
        }
        assert!(turns < 10_000, "it never ends");
        while world.gateway.poll_resume().is_some() {}
    }
    unreachable!("it ends")
}

#[test]
fn many_filters_are_searched_for_in_pieces_and_find_everything() {
    let mut world = world();
    let client = world.client(b'c');
    let filters = 300;
    let (turns, sent) = present(&mut world, client, subscribe(filters, 'q'));
    assert!(turns > filters * RETAINED / SEARCH_LOOKS_A_TURN, "{turns}");
    let delivered = sent.windows(2).filter(|pair| pair == b"qx").count();
    assert_eq!(u32::try_from(delivered).unwrap(), RETAINED);
}

#[test]
fn one_that_searches_leaves_time_to_the_others_and_is_not_left_behind() {
    let mut world = world();
    let clients = [b'e', b'f', b'g'].map(|name| world.client(name));
    let mut left = clients.map(|_| subscribe(200, 'z'));
    let mut taken_in = [0_u32; 3];
    for turn in 1..1000 {
        for (at, client) in clients.iter().enumerate() {
            if left[at].is_empty() {
                continue;
            }
            let taken = world.gateway.receive(world.now, *client, &mut left[at]);
            let looks = world.gateway.looks;
            left[at].truncate(taken.kept);
            assert!(left[at].is_empty() || looks == 0, "it stops only where it has to");
            if left[at].is_empty() {
                taken_in[at] = turn;
            }
        }
        world.gateway.flush(world.now, &mut world.disk);
        while world.gateway.poll_resume().is_some() {}
    }
    let [first, .., last] = taken_in;
    assert!(first > 0 && last - first <= 1, "{taken_in:?}");
}

#[test]
fn a_filter_that_is_repeated_in_a_packet_brings_its_messages_once() {
    let mut world = world();
    let client = world.client(b'c');
    let one = subscribe(1, 'q');
    let filter = &one[5..];
    let mut packet = vec![0x82, 0, 0, 1];
    for _ in 0..12 {
        packet.extend(filter);
    }
    packet[1] = u8::try_from(packet.len() - 2).unwrap();
    let (_, sent) = present(&mut world, client, packet);
    assert_eq!(sent.windows(7).filter(|seen| *seen == b"/000/qx").count(), 4);
}
