//! The whole core over a disk in memory: what a client is told, and when.

mod links;
mod notices;
mod places;
mod plan;
mod room;
mod search;
mod slow;
mod sys;
mod text;
mod wills;

use super::verbs::Event;
use super::*;
use crate::broker::secret::user;
use crate::config::{self, Acl, Auth};
use crate::limits::HASH_ITERATIONS_A_TURN;
use crate::queue::recv::Stage;
use crate::queue::store::{SpillStore, Table};
use crate::queue::tests::Disk;

const CONFIG: &str = "\
store.path = /nowhere/spill.db
bridge.up.server = mqtt://127.0.0.1:1
bridge.up.forward.a.local_topic = t/#
";

/// Of the only user: more than one turn does.
const ITERATIONS: u32 = 10 * HASH_ITERATIONS_A_TURN;

/// 3.1.1, keeps its session, client id `c` or `d`.
const CONNECT: [u8; 15] = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'c'];

struct World {
    gateway: Gateway,
    disk: Disk,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with("", 64)
    }

    fn with(more: &str, slots: u32) -> Self {
        let text = format!("{CONFIG}{more}");
        let mut users = |_: &str| Ok(user("u", b"p", b"salt", ITERATIONS).line().into_bytes());
        let (config, _) = config::load("test", &text, &mut users, "node").unwrap();
        let now = Instant::START;
        let mut disk = Disk::default();
        let mut gateway = Gateway::new(config, 7, slots, now);
        gateway.restore(now, &mut disk).unwrap();
        Self { gateway, disk, now }
    }

    fn client(&mut self, name: u8) -> ConnId {
        let client = self.connect(name, 0);
        // A new session is promised when it is durable.
        let mut greeting = self.sent(client);
        if greeting.is_empty() {
            greeting = self.turn(client);
        }
        assert_eq!(greeting[..2], [0x20, 2]);
        client
    }

    fn connect(&mut self, name: u8, flags: u8) -> ConnId {
        let peer = "127.0.0.1:9".parse().unwrap();
        let client = self.gateway.accept(self.now, 0, peer).unwrap();
        let mut connect = CONNECT;
        connect[9] = flags;
        connect[14] = name;
        self.receive(client, &connect);
        client
    }

    /// A disk that has just refused a new slot. The client given has QoS 2 identifier 9 open.
    fn full() -> (Self, ConnId) {
        let mut world = Self::new();
        let client = world.client(b'c');
        world.receive(client, &[0x34, 7, 0, 3, b't', b'/', b'a', 0, 9]);
        assert_eq!(world.turn(client), [0x50, 2, 0, 9]);
        world.disk.full = true;
        let mut large = vec![0x32, 0xF0, 0xAB, 2, 0, 3, b't', b'/', b'a', 0, 1];
        large.resize(4 + 0x95F0, b'x');
        world.receive(client, &large);
        assert_eq!(world.turn(client), []);
        assert!(world.gateway.queue.is_full(world.now));
        (world, client)
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut buffer = bytes.to_vec();
        let taken = self.gateway.receive(self.now, conn, &mut buffer);
        assert_eq!(taken.kept, 0);
    }

    /// Bytes that come behind what was kept; that stays kept.
    fn receive_behind(&mut self, conn: ConnId, kept: &[u8], bytes: &[u8]) {
        let mut buffer = [kept, bytes].concat();
        let taken = self.gateway.receive(self.now, conn, &mut buffer);
        assert_eq!(taken.kept, kept.len());
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

impl Disk {
    fn has_session(&mut self, client_id: &str) -> bool {
        let mut found = false;
        let wanted = |found: &mut bool, key: &[u8]| *found |= key == client_id.as_bytes();
        self.scan(Table::Session, &mut |key, _| wanted(&mut found, key)).unwrap();
        found
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

/// QoS 2 on `t/a` with this identifier.
fn exactly_once(id: u8) -> [u8; 9] {
    [0x34, 7, 0, 3, b't', b'/', b'a', 0, id]
}

#[test]
fn who_leaves_messages_unreleased_takes_no_identifier_from_others() {
    let mut world = World::with("limit.inflight = 4\nlimit.sessions = 8\n", 64);
    let greedy = world.client(b'c');
    let modest = world.client(b'd');
    let [greedy_dest, modest_dest] = [0, 1].map(|at| world.gateway.session_dest(at).0);
    for id in 100.. {
        if world.gateway.queue.recv.insert(greedy_dest, id, Stage::Durable).is_err() {
            break;
        }
    }
    let mut buffer = exactly_once(9);
    let kept = world.gateway.receive(world.now, greedy, &mut buffer).kept;
    assert_eq!((kept, world.gateway.queue.outbox(DestId(0)).pending), (9, 0), "it waits");
    assert_eq!(world.turn(greedy), []);
    for id in 1..=4 {
        world.receive(modest, &exactly_once(id));
        assert_eq!(world.turn(modest), [0x50, 2, 0, id]);
    }
    let mut buffer = exactly_once(5);
    let kept = world.gateway.receive(world.now, modest, &mut buffer).kept;
    assert_eq!(kept, 9, "beyond its share it waits too");
    world.receive_behind(modest, &buffer, &[0x62, 2, 0, 1]);
    assert_eq!(world.turn(modest), [0x70, 2, 0, 1]);
    let again: Vec<ConnId> = core::iter::from_fn(|| world.gateway.poll_resume()).collect();
    assert_eq!(again, [greedy, modest], "both are tried again");
    world.receive(modest, &buffer);
    assert_eq!(world.turn(modest), [0x50, 2, 0, 5]);
    assert!(!world.gateway.queue.recv.has_room(modest_dest));
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

#[test]
fn on_a_full_disk_no_session_is_promised_by_the_commit_of_something_else() {
    let (mut world, client) = World::full();
    let greeted = world.connect(b'd', 0);
    world.receive(client, &[0x62, 2, 0, 9]);
    world.gateway.flush(world.now, &mut world.disk);
    assert_eq!(world.sent(client), [0x70, 2, 0, 9], "what frees room is committed");
    assert_eq!(world.sent(greeted), []);
    assert!(!world.disk.has_session("d"));
    world.disk.full = false;
    let soon = world.now.plus(Duration::from_millis(200));
    assert!(world.gateway.poll_at() <= soon, "nothing else asks for the flush");
    world.now = soon;
    world.gateway.flush(world.now, &mut world.disk);
    assert_eq!(world.sent(greeted), [0x20, 2, 0, 0]);
    assert!(world.disk.has_session("d"));
}

#[test]
fn a_session_row_is_written_after_the_rest_of_a_slow_store() {
    let mut world = World::new();
    let client = world.client(b'c');
    let until = world.gateway.store_took(world.now, Duration::from_secs(1));
    world.receive(client, &[0x82, 6, 0, 1, 0, 1, b'z', 0]);
    world.gateway.flush(world.now, &mut world.disk);
    assert_eq!(world.sent(client), []);
    // Other deadlines aside.
    world.gateway.due = Instant::NEVER;
    assert_eq!(world.gateway.poll_at(), until);
    world.gateway.flush(until, &mut world.disk);
    assert_eq!(world.sent(client), [0x90, 3, 0, 1, 0]);
}

#[test]
fn the_end_of_a_session_does_not_take_the_identifiers_of_the_next() {
    let (mut world, client) = World::full();
    world.lose(client);
    let client = world.connect(b'c', 2);
    world.lose(client);
    let client = world.connect(b'c', 0);
    // Nobody waits for this one, so that its identifier is stored at once.
    world.receive(client, &[0x34, 5, 0, 1, b'z', 0, 5]);
    world.gateway.flush(world.now, &mut world.disk);
    assert!(Queue::has_row(&mut world.disk, "s:c").unwrap());
    world.disk.full = false;
    world.turn(client);
    assert!(Queue::has_row(&mut world.disk, "s:c").unwrap());
    assert!(world.disk.has_session("c"));
}

#[test]
fn a_message_of_qos_2_without_room_is_refused_or_acknowledged() {
    // One slot is less than the bridge's share.
    let mut world = World::with("bridge.up.overflow = drop_newest\n", 1);
    let client = world.client(b'c');
    world.receive(client, &[0x34, 7, 0, 3, b't', b'/', b'a', 0, 9]);
    assert_eq!(world.turn(client), [], "its identifier is not stored");
    world.gateway.due = Instant::NEVER;
    assert!(world.gateway.poll_at() <= world.now);
    world.gateway.flush(world.now, &mut world.disk);
    assert_eq!(world.sent(client), [0x50, 2, 0, 9], "3.1.1 has no word for it");
    assert_eq!(world.gateway.queue.counters.drops, 1);
}

#[test]
fn what_found_no_room_is_refused_though_the_commit_failed_too() {
    let mut world = World::with("bridge.up.overflow = drop_newest\n", 1);
    let peer = "127.0.0.1:9".parse().unwrap();
    let client = world.gateway.accept(world.now, 0, peer).unwrap();
    world.receive(client, &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, b'c']);
    assert_eq!(world.turn(client)[0], 0x20);
    world.receive(client, &[0x32, 8, 0, 3, b't', b'/', b'a', 0, 9, 0]);
    // Somebody's new session is in the same commit.
    world.connect(b'd', 0);
    world.disk.commits_failing = 1;
    let told = world.turn(client);
    assert_eq!((told[0], &told[2..5]), (0x40, &[0, 9, 0x97][..]));
    assert_eq!(world.gateway.queue.counters.drops, 1);
}

#[test]
fn what_was_refused_does_not_count_against_the_receive_maximum() {
    let more = "bridge.up.overflow = drop_newest\nlimit.inflight = 4\n";
    let mut world = World::with(more, 1);
    let peer = "127.0.0.1:9".parse().unwrap();
    let client = world.gateway.accept(world.now, 0, peer).unwrap();
    world.receive(client, &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, b'c']);
    assert_eq!(world.turn(client)[0], 0x20);
    for id in 1..=9 {
        world.receive(client, &[0x34, 8, 0, 3, b't', b'/', b'a', 0, id, 0]);
        let told = world.turn(client);
        assert_eq!((told[0], &told[2..5]), (0x50, &[0, id, 0x97][..]));
    }
}

#[test]
fn qos_2_is_stored_beyond_a_quota_only_as_far_as_it_was_taken() {
    // The bridge's share is one of them.
    let mut world = World::with("", 2);
    let client = world.client(b'c');
    let mut large = vec![0x34, 0xA7, 0x9C, 1, 0, 3, b't', b'/', b'a', 0, 0];
    large.resize(4 + 20_007, b'x');
    for id in 1..=2 {
        large[10] = id;
        world.receive(client, &large);
        assert_eq!(world.turn(client), [0x50, 2, 0, id]);
    }
    large[10] = 3;
    let mut buffer = large.clone();
    let taken = world.gateway.receive(world.now, client, &mut buffer);
    assert_eq!(taken.kept, large.len(), "it waits for room");
}

#[test]
fn single_bytes_of_a_packet_keep_no_client_alive_and_packets_do() {
    for (packet, survives) in [(&[0xC0, 0][..], true), (&[0x32, 100], false)] {
        let mut world = World::new();
        let peer = "127.0.0.1:9".parse().unwrap();
        let client = world.gateway.accept(world.now, 0, peer).unwrap();
        let mut connect = CONNECT;
        connect[11] = 4;
        world.receive(client, &connect);
        let mut kept = Vec::new();
        for second in 0..12 {
            kept.push(packet.get(kept.len()).copied().unwrap_or(0));
            let taken = world.gateway.receive(world.now, client, &mut kept);
            kept.truncate(taken.kept);
            world.turn(client);
            let there = world.gateway.clients == 1;
            assert!(there || !survives && second >= 4, "gone after {second} s");
        }
        assert_eq!(world.gateway.clients == 1, survives);
    }
}

#[test]
fn a_connect_waits_in_its_buffer_until_its_password_was_looked_at() {
    let mut world = World::with("auth.password_file = /users\n", 64);
    let client = world.gateway.accept(world.now, 0, "127.0.0.1:9".parse().unwrap()).unwrap();
    // With a clean session and a PINGREQ right behind it.
    let mut bytes = b"\x10\x13\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u\0\x01p\xC0\0".to_vec();
    let taken = world.gateway.receive(world.now, client, &mut bytes);
    assert_eq!((taken.kept, taken.open), (bytes.len(), false));
    let mut turns = 0;
    while world.gateway.poll_resume().is_none() {
        assert_eq!(world.sent(client), []);
        assert!(world.gateway.poll_at() <= world.now, "the hash goes on at once");
        world.gateway.expire(world.now);
        turns += 1;
    }
    assert_eq!(turns, 9);
    let taken = world.gateway.receive(world.now, client, &mut bytes);
    assert_eq!((taken.kept, taken.open), (0, true));
    assert_eq!(world.sent(client), [0x20, 2, 0, 0, 0xD0, 0]);
    assert!(world.gateway.poll_at() > world.now, "nothing is left to do");
}

#[test]
fn whoever_waits_too_long_for_its_password_is_told_to_the_log_as_that() {
    let mut world = World::with("auth.password_file = /users\n", 64);
    let client = world.gateway.accept(world.now, 0, "127.0.0.1:9".parse().unwrap()).unwrap();
    let mut bytes = b"\x10\x13\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u\0\x01p".to_vec();
    world.gateway.receive(world.now, client, &mut bytes);
    world.now = world.now.plus(crate::limits::CONNECT_WITHIN);
    world.gateway.expire(world.now);
    let notes = core::iter::from_fn(|| world.gateway.poll_note());
    let lines: Vec<String> = notes.map(|note| note.to_string()).collect();
    assert!(lines.iter().any(|line| line.ends_with("reason=login_busy")), "{lines:?}");
}

#[test]
fn what_was_dropped_just_before_a_stop_is_told_before_its_end() {
    let mut world = World::new();
    let publisher = world.client(b'd');
    let later = |world: &mut World| {
        world.now = world.now.plus(Duration::from_millis(100));
        world.gateway.expire(world.now);
    };
    // QoS 0 for a bridge that is down. The first is told at once, further ones once a second.
    for _ in 0..3 {
        world.receive(publisher, &[0x30, 5, 0, 3, b't', b'/', b'a']);
        later(&mut world);
    }
    world.lose(publisher);
    world.gateway.handle(world.now, Event::Stop { signal: "SIGTERM" });
    later(&mut world);
    let notes: Vec<Note> = core::iter::from_fn(|| world.gateway.poll_note()).collect();
    let dropped = notes.iter().map(|note| match note {
        Note::Drop { count, .. } => *count,
        _ => 0,
    });
    assert_eq!(dropped.sum::<u64>(), 3, "{notes:?}");
    assert!(matches!(notes.last(), Some(Note::Stopped { .. })), "{notes:?}");
}

#[test]
fn new_rules_judge_what_waits_and_what_comes() {
    let mut world = World::new();
    let subscriber = world.client(b'c');
    world.receive(subscriber, &[0x82, 6, 0, 1, 0, 1, b'z', 1]);
    assert_eq!(world.turn(subscriber), [0x90, 3, 0, 1, 1]);
    let publisher = world.client(b'd');
    world.receive(publisher, &[0x32, 6, 0, 1, b'z', 0, 5, b'x']);
    let rules = |text| Auth { users: None, acl: Some(Acl::parse(text).unwrap().into()) };
    world.gateway.set_auth(world.now, rules("topic write z"));
    assert_eq!(world.sent(subscriber), []);
    assert_eq!(world.gateway.queue.counters.drops, 1);
    world.turn(publisher);
    world.gateway.set_auth(world.now, rules("topic read z"));
    world.receive(publisher, &[0x32, 6, 0, 1, b'z', 0, 6, b'x']);
    assert_eq!(world.sent(publisher), [0x40, 2, 0, 6], "3.1.1 has no word for it");
    assert_eq!(world.turn(subscriber), []);
    assert_eq!(world.gateway.queue.counters.drops, 2);
    world.gateway.set_auth(world.now, Auth::default());
    world.receive(publisher, &[0x32, 6, 0, 1, b'z', 0, 7, b'x']);
    assert_eq!(world.sent(subscriber)[..5], [0x32, 6, 0, 1, b'z']);
}

/// A length of at most 16 383 (1.5.5).
fn length(out: &mut Vec<u8>, bytes: usize) {
    let low = u8::try_from(bytes % 128).unwrap();
    match u8::try_from(bytes / 128).unwrap() {
        0 => out.push(low),
        high => out.extend_from_slice(&[low | 0x80, high]),
    }
}

#[test]
fn the_properties_of_a_will_count_as_the_rest_of_it_does() {
    for (bytes, told) in [(20, 0), (200, 0x97)] {
        let mut world = World::with("limit.will_bytes = 100\n", 64);
        let client = world.gateway.accept(world.now, 0, "127.0.0.1:9".parse().unwrap()).unwrap();
        // One user property.
        let mut will = vec![0x26, 0, 0, 0, bytes];
        will.resize(5 + usize::from(bytes), b'p');
        let mut connect = b"\0\x04MQTT\x05\x06\0\0\0\0\x01c".to_vec();
        length(&mut connect, will.len());
        connect.extend_from_slice(&will);
        connect.extend_from_slice(b"\0\x01w\0\0");
        let mut packet = vec![0x10];
        length(&mut packet, connect.len());
        packet.extend_from_slice(&connect);
        let taken = world.gateway.receive(world.now, client, &mut packet);
        assert_eq!(taken.kept, 0);
        assert_eq!(world.sent(client)[3], told);
    }
}

#[test]
fn a_client_that_takes_its_session_over_needs_no_room_beside_its_own_will() {
    let mut world = World::with("limit.will_bytes = 100\n", 64);
    let connect = |world: &mut World, name: u8| {
        let peer = "127.0.0.1:9".parse().unwrap();
        let client = world.gateway.accept(world.now, 0, peer).unwrap();
        let mut packet = b"\x10\x52\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01w\0\x40".to_vec();
        packet[14] = name;
        packet.resize(2 + 0x52, b'x');
        world.receive(client, &packet);
        world.sent(client)
    };
    for (name, answer) in [(b'c', 0), (b'c', 0), (b'd', 3)] {
        assert_eq!(connect(&mut world, name), [0x20, 2, 0, answer]);
    }
}

#[test]
fn the_oldest_that_has_not_said_connect_makes_room() {
    let mut world = World::with("limit.clients = 1\nauth.password_file = /users\n", 64);
    let peer = "127.0.0.1:9".parse().unwrap();
    let accept = |world: &mut World| world.gateway.accept(world.now, 0, peer);
    let hashing = accept(&mut world).unwrap();
    let mut bytes = b"\x10\x13\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u\0\x01p".to_vec();
    world.gateway.receive(world.now, hashing, &mut bytes);
    let tick = Duration::from_millis(1);
    let mut silent = Vec::new();
    while world.gateway.room(world.now) == Ok(()) {
        silent.push(accept(&mut world).unwrap());
        world.now = world.now.plus(tick);
    }
    let sure_until = Instant::START.plus(crate::limits::CONNECT_SURE);
    assert_eq!(world.gateway.room(world.now), Err(sure_until), "not at once");
    assert!(accept(&mut world).is_none());
    world.now = sure_until;
    assert_eq!(world.gateway.room(world.now), Err(world.now));
    let closed = core::iter::from_fn(|| world.gateway.poll_action());
    let closed: Vec<ConnId> = closed
        .filter_map(|action| match action {
            Action::Close { conn, .. } => Some(conn),
            _ => None,
        })
        .collect();
    assert_eq!(closed, [silent[0]]);
    world.lose(closed[0]);
    assert_eq!(world.gateway.room(world.now), Ok(()));
}

#[test]
fn what_is_handed_over_on_a_full_disk_survives_a_crash() {
    let mut world = World::new();
    let subscribe = b"\x82\x0F\0\x01\0\x0A$share/g/z\x01";
    let other = world.client(b'd');
    world.receive(other, subscribe);
    world.turn(other);
    world.lose(other);
    let client = world.client(b'c');
    world.receive(client, subscribe);
    world.turn(client);
    let publisher = world.client(b'e');
    world.receive(publisher, &[0x32, 6, 0, 1, b'z', 0, 5, b'x']);
    assert_eq!(world.turn(client)[..5], [0x32, 6, 0, 1, b'z']);
    assert_eq!(world.turn(publisher), [0x40, 2, 0, 5]);
    world.lose(client);
    world.disk.full = true;
    let mut large = vec![0x32, 0xF0, 0xAB, 2, 0, 3, b't', b'/', b'a', 0, 1];
    large.resize(4 + 0x95F0, b'x');
    world.receive(publisher, &large);
    world.turn(publisher);
    assert!(world.gateway.queue.is_full(world.now));
    world.connect(b'c', 2);
    assert_eq!(world.gateway.queue.outbox(world.gateway.session_dest(0)).pending, 1);
    world.gateway.flush(world.now, &mut world.disk);
    assert!(!world.disk.has_session("c"), "it has ended");
    // A crash.
    let (config, _) = config::load("test", CONFIG, &mut |_| Err(String::new()), "node").unwrap();
    world.gateway = Gateway::new(config, 7, 64, world.now);
    world.gateway.restore(world.now, &mut world.disk).unwrap();
    let other = world.connect(b'd', 0);
    let mut told = world.turn(other);
    told.extend(world.turn(other));
    assert!(told.ends_with(b"\0\x01z\0\x01x"), "{told:?}");
}

#[test]
fn of_the_expiry_of_a_retained_message_whole_seconds_are_taken_off() {
    let mut world = World::new();
    let peer = "127.0.0.1:9".parse().unwrap();
    let client = world.gateway.accept(world.now, 0, peer).unwrap();
    world.receive(client, b"\x10\x0E\0\x04MQTT\x05\x02\0\0\0\0\x01c");
    world.sent(client);
    // RETAIN, 3 s.
    world.receive(client, b"\x31\x0A\0\x01r\x05\x02\0\0\0\x03x");
    let subscribe = b"\x82\x07\0\x01\0\0\x01r\0";
    for (millis, left) in [(0, 3), (900, 3), (1000, 2), (2999, 1)] {
        let passed = Duration::from_millis(millis);
        world.now = Instant::START.plus(passed);
        world.receive(client, subscribe);
        let sent = world.sent(client);
        assert_eq!(sent[..6], [0x90, 4, 0, 1, 0, 0], "after {passed:?}");
        let publish = *b"\x31\x0A\0\x01r\x05\x02\0\0\0\x03x";
        let expected = publish.map(|byte| if byte == 3 { left } else { byte });
        assert_eq!(sent[6..], expected, "after {passed:?}");
    }
    // Over, whether or not somebody has looked at the clock.
    world.now = Instant::START.plus(Duration::from_secs(3));
    world.receive(client, subscribe);
    assert_eq!(world.sent(client).len(), 6);
}
