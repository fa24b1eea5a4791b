//! Any sequence of what clients, the remote, the network, the disk, time and `kill -9` do to the
//! core. Nothing panics, and once all of them behave the bridge's queue becomes empty.

use super::input::Input;
use super::stored::{CONFIG, CONNECT, SLOT_COUNT, drains, publish};
use super::world::World;
use super::world::disk::Disk;
use spillway::gateway::Event;
use spillway::mqtt::Version;
use spillway::queue::store::StoreError;
use spillway::vocab::{ConnId, Instant};
use std::time::Duration;

/// Longer inputs say nothing new.
const OPERATIONS_MAX: usize = 400;

/// Quarters of a second that a clean stop may take.
const STOP_TURNS_MAX: usize = 20;

const TOPICS: &[&str] = &["t/a", "t/b", "c/x", "c/y", "p/u", "s/1", "d/1", "$SYS/x"];

pub fn check_operations(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut text = CONFIG.to_owned();
    let choices = input.u8();
    if choices & 1 == 1 {
        text = text.replace("proto_ver = 4", "proto_ver = 5");
    }
    let overflow = ["block", "drop_oldest", "drop_newest", "block"][usize::from(choices >> 1 & 3)];
    text.push_str(&format!("store.overflow = {overflow}\n"));
    if choices & 8 == 8 {
        text.push_str("bridge.up.max_messages = 20\n");
    }
    if choices & 16 == 16 {
        text.push_str("bridge.up.forward.p.rate = 5/s\n");
    }
    if choices & 32 == 32 {
        text.push_str("ack = ring\n");
    }
    let slot_count = if choices & 64 == 64 { 3 } else { SLOT_COUNT };
    let Ok(mut world) = World::start(&text, Disk::new(slot_count), Instant::START) else {
        panic!("an empty store restores")
    };
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() || world.stopped {
            break;
        }
        world = step(&mut input, world, &text);
    }
    if world.stopped {
        return;
    }
    // Whoever is still there must not hold it up; what was parked may be gone with them.
    for id in ids(&world) {
        world.cut(id);
    }
    drains(&mut world);
}

fn ids(world: &World<Disk>) -> Vec<ConnId> {
    world.clients.iter().chain(&world.remote).map(|peer| peer.id).collect()
}

fn step(input: &mut Input<'_>, mut world: World<Disk>, text: &str) -> World<Disk> {
    let operation = input.u8();
    let client = |input: &mut Input<'_>, world: &World<Disk>| {
        let count = world.clients.len();
        (count > 0).then(|| world.clients[input.below(count)].id)
    };
    match operation % 18 {
        0 => {
            if let Some(id) = world.accept() {
                let kind = input.u8();
                let mut connect = CONNECT.to_vec();
                connect[14] = b'a' + (kind & 3);
                connect[9] = kind >> 1 & 2;
                if kind & 8 == 8 {
                    connect[8] = 5;
                    connect[1] += 1;
                    // No properties.
                    connect.insert(12, 0);
                    world.clients.last_mut().expect("just accepted").version = Version::V5;
                }
                world.give(id, &connect);
            }
        }
        1..=4 => {
            let Some(id) = client(input, &world) else { return world };
            let kind = input.u8();
            let topic = TOPICS[input.below(TOPICS.len())];
            let packet_id = u16::from(input.u8() % 20) + 1;
            let size = [3, 40, 700, 3900][usize::from(kind >> 3 & 3)];
            let qos = kind % 3;
            let mut packet = publish(qos, kind & 4 == 4, topic, packet_id, &vec![b'x'; size]);
            let five = world.clients.iter().any(|p| p.id == id && p.version == Version::V5);
            if five {
                packet = as_version_5(packet, qos > 0);
            }
            world.give(id, &packet);
        }
        5 => {
            let Some(id) = client(input, &world) else { return world };
            let filter = ["s/#", "t/+", "#", "+/1"][input.below(4)];
            let qos = input.u8() % 3;
            let mut packet = vec![0x82, 0, 0, 9];
            if world.clients.iter().any(|p| p.id == id && p.version == Version::V5) {
                packet.push(0);
            }
            packet.extend_from_slice(&[0, u8::try_from(filter.len()).expect("short")]);
            packet.extend_from_slice(filter.as_bytes());
            packet.push(qos);
            packet[1] = u8::try_from(packet.len() - 2).expect("short");
            world.give(id, &packet);
        }
        6 => {
            let all = ids(&world);
            if !all.is_empty() {
                let id = all[input.below(all.len())];
                let count = input.u8();
                let bytes = input.take(usize::from(count));
                world.give(id, bytes);
            }
        }
        7 | 8 => {
            let all = ids(&world);
            if !all.is_empty() {
                world.answer(all[input.below(all.len())]);
            }
        }
        9 => {
            // The remote answers what it was not asked, or with a reason of its own.
            if let Some(id) = world.remote.as_ref().map(|peer| peer.id) {
                let kind = [0x40, 0x50, 0x62, 0x70][input.below(4)];
                let packet_id = input.u8() % 12;
                match input.u8() % 4 {
                    0 => world.give(id, &[kind, 3, 0, packet_id, input.u8()]),
                    _ => world.give(id, &[kind, 2, 0, packet_id]),
                }
            }
        }
        10 => {
            let all = ids(&world);
            if !all.is_empty() {
                let id = all[input.below(all.len())];
                world.cut(id);
            }
        }
        11 => {
            let span = [1, 20, 250, 1000, 10_000, 61_000, 3_600_000, 700_000_000][input.below(8)];
            world.wait(Duration::from_millis(span));
        }
        12 => {
            let error = [StoreError::Io, StoreError::Full, StoreError::Corrupt][input.below(3)];
            world.store.failing = Some((u32::from(input.u8()), error));
        }
        13 => world.store.failing = None,
        14 => world.reachable = !world.reachable,
        15 => {
            // Killed, and started with what the disk has.
            let now = world.now;
            let mut disk = world.killed();
            disk.failing = None;
            world = match World::start(text, disk, now) {
                Ok(world) => world,
                Err(_) => panic!("what the core wrote it can read"),
            };
        }
        16 => {
            if let Some(id) = world.remote.as_ref().map(|peer| peer.id) {
                let packet_id = u16::from(input.u8() % 8) + 1;
                let qos = input.u8() % 3;
                let mut packet = publish(qos, false, "d/1", packet_id, b"down");
                if world.remote.as_ref().is_some_and(|peer| peer.version == Version::V5) {
                    packet = as_version_5(packet, qos > 0);
                }
                world.give(id, &packet);
            }
        }
        _ if operation == 251 => {
            world.gateway.handle(world.now, Event::Stop { signal: "SIGTERM" });
            for _ in 0..STOP_TURNS_MAX {
                world.wait(Duration::from_millis(250));
            }
            assert!(world.stopped, "a clean stop takes its time");
        }
        _ => world.settle(),
    }
    if operation & 0x80 == 0x80 {
        world.turn();
    }
    world
}

/// The same PUBLISH with empty properties.
fn as_version_5(mut packet: Vec<u8>, identified: bool) -> Vec<u8> {
    let head = 1 + packet[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let topic = usize::from(u16::from_be_bytes([packet[head], packet[head + 1]]));
    let at = head + 2 + topic + if identified { 2 } else { 0 };
    let first = packet[0];
    let mut rest = packet.split_off(head);
    rest.insert(at - head, 0);
    let mut out = vec![first];
    let mut length = rest.len();
    while length >= 0x80 {
        out.push(0x80 | u8::try_from(length % 0x80).expect("below 128"));
        length /= 0x80;
    }
    out.push(u8::try_from(length).expect("below 128"));
    out.append(&mut rest);
    out
}
