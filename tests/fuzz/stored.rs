//! A store that was written by the core and then damaged: the gateway starts with it, goes on, and
//! gives up everything it shows a sign of having, whatever the rows and records say.

use super::input::Input;
use super::world::World;
use super::world::disk::Disk;
use spillway::limits::SLOT_BYTES;
use spillway::mqtt::topic::is_name;
use spillway::note::Note;
use spillway::queue::log::Slot;
use spillway::queue::record::{HEAD_BYTES, LogHead, Spot, crc_at};
use spillway::queue::store::{Table, seal};
use spillway::vocab::Instant;
use std::sync::OnceLock;
use std::time::Duration;

pub const CONFIG: &str = "\
store.path = /nowhere/spill.db
limit.clients = 4
limit.sessions = 4
limit.retained = 8
limit.retained_bytes = 8KiB
limit.will_bytes = 4KiB
limit.packet_size = 4KiB
limit.inflight = 8
ring.messages = 64
ring.bytes = 64KiB
session.max_messages = 16
bridge.up.server = mqtt://127.0.0.1:1
bridge.up.clientid = up
bridge.up.proto_ver = 4
bridge.up.bridge_bit = false
bridge.up.max_inflight = 4
bridge.up.keepalive = off
bridge.up.forward.c.local_topic = c/#
bridge.up.forward.c.conflate = true
bridge.up.forward.p.local_topic = p/#
bridge.up.forward.p.priority = high
bridge.up.forward.a.local_topic = #
bridge.up.subscribe.d.remote_topic = d/#
";

pub const SLOT_COUNT: u32 = 24;

/// A CONNECT of 3.1.1 that keeps its session.
pub const CONNECT: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'c'];

/// A PUBLISH of 3.1.1.
pub fn publish(qos: u8, retain: bool, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let id_bytes = if qos > 0 { 2 } else { 0 };
    let mut rest = 2 + topic.len() + id_bytes + payload.len();
    let mut out = vec![0x30 | qos << 1 | u8::from(retain)];
    while rest >= 0x80 {
        out.push(0x80 | u8::try_from(rest % 0x80).expect("below 128"));
        rest /= 0x80;
    }
    out.push(u8::try_from(rest).expect("below 128"));
    out.extend_from_slice(&u16::try_from(topic.len()).expect("short topics").to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
    out
}

/// What the core leaves behind when it is killed with a backlog, a window of QoS 2 half
/// acknowledged, a session that is away and retained messages.
fn left_behind() -> &'static Disk {
    static LEFT: OnceLock<Disk> = OnceLock::new();
    LEFT.get_or_init(|| {
        let started = World::start(CONFIG, Disk::new(SLOT_COUNT), Instant::START);
        let Ok(mut world) = started else { panic!("an empty store restores") };
        world.talk();
        let client = world.accept().expect("the first");
        world.give(client, CONNECT);
        // SUBSCRIBE to everything below s/, QoS 2.
        world.give(client, &[0x82, 8, 0, 1, 0, 3, b's', b'/', b'#', 2]);
        world.talk();
        world.give(client, &[0xE0, 0]);
        world.talk();
        let client = world.accept().expect("the first is gone");
        let mut other = CONNECT.to_vec();
        other[14] = b'o';
        world.give(client, &other);
        world.talk();
        // These are on the wire, unanswered.
        for id in 1..=4u16 {
            world.give(client, &publish(2, false, "t/w", id, &[b'w'; 40]));
            world.wait(Duration::from_millis(300));
        }
        world.reachable = false;
        if let Some(remote) = &world.remote {
            let id = remote.id;
            world.cut(id);
        }
        world.settle();
        for (at, id) in (5..200u16).enumerate() {
            let qos = if at % 3 == 0 { 2 } else { 1 };
            let topic = ["t/a", "c/x", "p/u", "s/1", "t/b"][at % 5];
            let size = if at % 50 == 7 { 3000 } else { 30 + at };
            world.give(client, &publish(qos, at % 40 == 3, topic, id, &vec![b'm'; size]));
            world.answer(client);
            world.wait(Duration::from_millis(100));
        }
        world.wait(Duration::from_secs(61));
        world.wait(Duration::from_secs(2));
        let disk = world.killed();
        assert!(disk.slots.len() > 1 && disk.rows.len() > 6, "there is something to damage");
        disk
    })
}

pub fn check_stored(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mend = input.u8() & 1 == 1;
    let mut disk = left_behind().clone();
    while !input.is_empty() {
        damage(&mut input, &mut disk);
    }
    if mend {
        mend_rows(&mut disk);
        mend_records(&mut disk);
    }
    let Ok(mut world) = World::start(CONFIG, disk, Instant::START) else {
        panic!("the store in memory reads whatever is in it")
    };
    world.talk();
    // Somebody comes back for a damaged session, and somebody publishes behind the backlog.
    if let Some(client) = world.accept() {
        world.give(client, CONNECT);
        world.talk();
        world.give(client, &publish(1, false, "t/new", 1, b"new"));
        world.give(client, &publish(2, true, "s/new", 2, b"new"));
    }
    drains(&mut world);
    // What was repaired on the way is durable and sound.
    let now = world.now;
    let again = World::start(CONFIG, world.killed(), now);
    assert!(again.is_ok());
}

/// With a remote and a store that work the bridge's queue becomes empty.
pub fn drains(world: &mut World<Disk>) {
    world.reachable = true;
    world.store.failing = None;
    for _ in 0..400 {
        world.talk();
        let left = match world.gateway.stats_bridge(world.now, 0) {
            Some(Note::StatsBridge { ring, store, inflight, up: true, .. }) => {
                u64::from(ring) + store + u64::from(inflight)
            }
            _ => 1,
        };
        if left == 0 {
            return;
        }
        world.wait(Duration::from_secs(1));
    }
    panic!("never drained: {:?}", world.gateway.stats_bridge(world.now, 0));
}

fn damage(input: &mut Input<'_>, disk: &mut Disk) {
    let kind = input.u8();
    let at = input.u16();
    match kind % 8 {
        0..=2 => {
            let count = disk.slots.len();
            let Some(slot) = disk.slots.values_mut().nth(usize::from(at) % count.max(1)) else {
                return;
            };
            let place = input.below(SLOT_BYTES);
            // The beginning, where the heads of records are, more often than the rest.
            let place = if kind & 0x80 == 0 { place } else { place % 256 };
            if kind % 8 == 2 {
                let size = usize::from(input.u8()).min(SLOT_BYTES - place);
                let with = input.take(size);
                slot[place..place + with.len()].copy_from_slice(with);
            } else {
                slot[place] ^= input.u8();
            }
        }
        3..=5 => {
            let count = disk.rows.len();
            let Some(row) = disk.rows.values_mut().nth(usize::from(at) % count.max(1)) else {
                return;
            };
            let place = usize::from(input.u8()) % row.len().max(1);
            match kind % 8 {
                3 => row.truncate(place),
                4 if !row.is_empty() => row[place] ^= input.u8(),
                _ => {
                    let size = input.u8() % 32;
                    let with = input.take(usize::from(size));
                    let end = (place + with.len()).min(row.len());
                    row.splice(place.min(end)..end, with.iter().copied());
                }
            }
        }
        6 => {
            let key = disk.rows.keys().nth(usize::from(at) % disk.rows.len().max(1)).cloned();
            if let Some(key) = key {
                disk.rows.remove(&key);
            }
        }
        _ => {
            let tables =
                [Table::Slot, Table::Destination, Table::Session, Table::Retained, Table::Meta];
            let table = tables[usize::from(at) % tables.len()];
            let key_bytes = if table == Table::Slot { 4 } else { usize::from(input.u8() % 16) };
            let mut key = input.take(key_bytes).to_vec();
            // The store hands out slots' rows with keys of this size only.
            if table == Table::Slot {
                key.resize(4, 0);
            }
            let size = input.u8();
            disk.rows.insert((table, key), input.take(usize::from(size)).to_vec());
        }
    }
}

/// Makes the last four bytes of the rows that have one their CRC.
fn mend_rows(disk: &mut Disk) {
    for ((table, key), row) in &mut disk.rows {
        if row.len() >= 4 {
            row.truncate(row.len() - 4);
            seal(*table, key, row);
        }
    }
}

/// Gives every record that lies where its predecessor ends the CRC of what it is now.
fn mend_records(disk: &mut Disk) {
    for (index, slot) in &mut disk.slots {
        let key = (Table::Slot, index.to_be_bytes().to_vec());
        let Some(directory) = disk.rows.get(&key).and_then(|row| Slot::from_row(*index, row))
        else {
            continue;
        };
        let mut at = 0;
        while let Some(head) = slot.get(at..).and_then(LogHead::decode) {
            let Some(record) = slot.get_mut(at..at.saturating_add(head.bytes())) else { break };
            let spot = Spot {
                slot: *index,
                generation: directory.generation,
                at: u32::try_from(at).expect("a slot is small"),
            };
            // The core stores neither bad topics nor, in this store, properties.
            let topic = &record[HEAD_BYTES..HEAD_BYTES + usize::from(head.topic_bytes)];
            if head.props_bytes > 0 || !core::str::from_utf8(topic).is_ok_and(is_name) {
                break;
            }
            let mut crc = crc_at(spot);
            crc.update(&record[4..]);
            let crc = crc.finalize();
            record[..4].copy_from_slice(&crc.to_le_bytes());
            at += head.bytes();
        }
    }
}
