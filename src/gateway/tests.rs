//! The whole core over a disk in memory: what a client is told, and when.

use super::verbs::Event;
use super::*;
use crate::config;
use crate::queue::recv::Stage;
use crate::queue::tests::Disk;

const CONFIG: &str = "\
store.path = /nowhere/spill.db
bridge.up.server = mqtt://127.0.0.1:1
bridge.up.forward.a.local_topic = t/#
";

/// 3.1.1, keeps its session, client id `c` or `d`.
const CONNECT: [u8; 15] = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'c'];

struct World {
    gateway: Gateway,
    disk: Disk,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let (config, _) =
            config::load("test", CONFIG, &mut |_| Err(String::new()), "node").unwrap();
        let now = Instant::START;
        let mut disk = Disk::default();
        let mut gateway = Gateway::new(config, 7, 64, now);
        gateway.restore(now, &mut disk).unwrap();
        Self { gateway, disk, now }
    }

    fn client(&mut self, name: u8) -> ConnId {
        let peer = "127.0.0.1:9".parse().unwrap();
        let client = self.gateway.accept(self.now, 0, peer).unwrap();
        let mut connect = CONNECT;
        connect[14] = name;
        self.receive(client, &connect);
        // A new session is promised when it is durable.
        let mut greeting = self.sent(client);
        if greeting.is_empty() {
            greeting = self.turn(client);
        }
        assert_eq!(greeting[..2], [0x20, 2]);
        client
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut buffer = bytes.to_vec();
        let taken = self.gateway.receive(self.now, conn, &mut buffer);
        assert_eq!(taken.kept, 0);
    }

    /// A turn, a second later; what the connection is sent in it.
    fn turn(&mut self, conn: ConnId) -> Vec<u8> {
        self.now = self.now.plus(Duration::from_secs(1));
        self.gateway.expire(self.now);
        self.gateway.flush(self.now, &mut self.disk);
        self.sent(conn)
    }

    fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        let mut out = [0; 512];
        let bytes = self.gateway.transmit(self.now, conn, &mut out);
        out[..bytes].to_vec()
    }

    fn lose(&mut self, conn: ConnId) {
        self.gateway.handle(self.now, Event::Closed { conn, reason: "reset" });
    }
}

#[test]
fn pubcomp_waits_for_the_store_over_a_new_connection_too() {
    let mut world = World::new();
    let client = world.client(b'c');
    world.receive(client, &[0x34, 7, 0, 3, b't', b'/', b'a', 0, 9]);
    assert_eq!(world.turn(client), [0x50, 2, 0, 9]);
    world.disk.commits_failing = 1;
    world.receive(client, &[0x62, 2, 0, 9]);
    assert_eq!(world.turn(client), []);
    world.lose(client);
    let client = world.client(b'c');
    world.receive(client, &[0x62, 2, 0, 9]);
    assert_eq!(world.sent(client), [], "the store still has the identifier");
    assert_eq!(world.turn(client), [0x70, 2, 0, 9]);
}

#[test]
fn a_message_whose_identifier_finds_no_room_is_not_passed_on() {
    let mut world = World::new();
    let client = world.client(b'c');
    for id in 1.. {
        if world.gateway.queue.recv.insert(500, id, Stage::Durable).is_err() {
            break;
        }
    }
    let mut buffer = [0x34, 7, 0, 3, b't', b'/', b'a', 0, 9];
    world.gateway.receive(world.now, client, &mut buffer);
    assert_eq!(world.gateway.queue.outbox(DestId(0)).pending, 0);
}

#[test]
fn qos_0_of_a_client_that_went_away_leaves_the_ring() {
    let mut world = World::new();
    let subscriber = world.client(b'c');
    world.receive(subscriber, &[0x82, 6, 0, 1, 0, 1, b'z', 0]);
    assert_eq!(world.turn(subscriber), [0x90, 3, 0, 1, 0]);
    let publisher = world.client(b'd');
    for _ in 0..10 {
        world.receive(publisher, &[0x30, 3, 0, 1, b'z']);
    }
    assert_eq!(world.gateway.queue.ring().0, 10);
    world.lose(subscriber);
    assert_eq!(world.gateway.queue.ring().0, 0);
    assert_eq!(world.gateway.queue.counters.drops, 10);
}
