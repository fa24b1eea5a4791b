//! The loop with real sockets on loopback and a few lines in the gateway's place: packets are
//! four bytes of length and a body, and come back as they are.

use super::*;
use crate::config::{Ack, Bridge, Limits, Listener, Overflow, ServerPolicy, Store, Sync};
use crate::gateway::verbs::Taken;
use crate::mqtt::Version;
use crate::queue::store::{SlotId, Table};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

#[derive(Debug)]
enum NoStore {}

impl SpillStore for NoStore {
    fn slot_count_max(&self) -> u32 {
        match *self {}
    }
    fn write_slot(&mut self, _: SlotId, _: usize, _: &[u8]) -> Result<(), StoreError> {
        match *self {}
    }
    fn read_slot(&mut self, _: SlotId, _: usize, _: &mut [u8]) -> Result<(), StoreError> {
        match *self {}
    }
    fn put(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), StoreError> {
        match *self {}
    }
    fn delete(&mut self, _: Table, _: &[u8]) -> Result<(), StoreError> {
        match *self {}
    }
    fn scan(&mut self, _: Table, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        match *self {}
    }
    fn commit(&mut self) -> Result<(), StoreError> {
        match *self {}
    }
    fn rollback(&mut self) {
        match *self {}
    }
    fn maintain(&mut self, _: bool) -> Result<(), StoreError> {
        match *self {}
    }
    fn bytes(&self) -> u64 {
        match *self {}
    }
    fn written_bytes(&self) -> u64 {
        match *self {}
    }
}

#[derive(Debug, PartialEq, Eq, Clone)]
enum Seen {
    Resolved(Vec<SocketAddr>, &'static str),
    Connected(ConnId),
    Probed(bool),
    Finished(ConnId),
    Closed(ConnId, &'static str),
    Stop(&'static str),
}

#[derive(Debug, Default)]
struct Echo {
    /// Bytes to be sent, by slot; `None` = a free slot.
    out: Vec<Option<VecDeque<u8>>>,
    generation: u16,
    /// Takes no packet while this is set, and says `open` with it.
    parking: Option<bool>,
    kept_max: usize,
    ready: VecDeque<ConnId>,
    resume: VecDeque<ConnId>,
    actions: VecDeque<Action>,
    seen: Vec<Seen>,
    /// When each was accepted or connected.
    live: Vec<ConnId>,
}

impl Echo {
    fn open(&mut self) -> ConnId {
        let slot = self.out.iter().position(Option::is_none).unwrap_or(self.out.len());
        if slot == self.out.len() {
            self.out.push(None);
        }
        self.out[slot] = Some(VecDeque::new());
        self.generation += 1;
        let id = ConnId { slot: u16::try_from(slot).unwrap(), generation: self.generation };
        self.live.push(id);
        id
    }

    fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.out[usize::from(id.slot)].as_mut().unwrap().extend(bytes);
        self.ready.push_back(id);
    }

    fn unpark(&mut self) {
        self.parking = None;
        self.resume.extend(self.live.iter().copied());
    }

    fn closed(&self) -> usize {
        self.seen.iter().filter(|seen| matches!(seen, Seen::Closed(..))).count()
    }
}

impl Core for Echo {
    fn set_wall(&mut self, wall_s: u64) {
        assert!(wall_s > 1_600_000_000);
    }

    fn accept(&mut self, _: Instant, listener: u16, _: SocketAddr) -> Option<ConnId> {
        assert_eq!(listener, 0);
        Some(self.open())
    }

    fn handle(&mut self, _: Instant, event: Event<'_>) {
        self.seen.push(match event {
            Event::Resolved { addrs, reason, .. } => Seen::Resolved(addrs.to_vec(), reason),
            Event::Connected { conn } => Seen::Connected(conn),
            Event::Probed { ok, .. } => Seen::Probed(ok),
            Event::PeerFinished { conn } => Seen::Finished(conn),
            Event::Closed { conn, reason } => {
                assert!(self.live.contains(&conn), "closed twice");
                self.live.retain(|live| *live != conn);
                self.out[usize::from(conn.slot)] = None;
                Seen::Closed(conn, reason)
            }
            Event::Stop { signal } => {
                self.actions.push_back(Action::Exit { lost: 0 });
                Seen::Stop(signal)
            }
        });
    }

    fn receive(&mut self, _: Instant, conn: ConnId, buffer: &mut [u8]) -> Taken {
        assert!(self.live.contains(&conn));
        let mut at = 0;
        let mut packet_bytes = None;
        let mut open = true;
        while let Some(head) = buffer[at..].first_chunk::<4>() {
            let bytes = 4 + usize::try_from(u32::from_be_bytes(*head)).unwrap();
            if buffer.len() - at < bytes {
                packet_bytes = Some(bytes);
                break;
            }
            if let Some(says_open) = self.parking {
                // Like the gateway: the size is that of the unfinished packet at the end.
                open = says_open;
                let mut end = at;
                while let Some(head) = buffer[end..].first_chunk::<4>() {
                    let bytes = 4 + usize::try_from(u32::from_be_bytes(*head)).unwrap();
                    if buffer.len() - end < bytes {
                        packet_bytes = Some(bytes);
                        break;
                    }
                    end += bytes;
                }
                break;
            }
            self.send(conn, &buffer[at..at + bytes]);
            at += bytes;
        }
        buffer.copy_within(at.., 0);
        let kept = buffer.len() - at;
        self.kept_max = self.kept_max.max(kept);
        Taken { kept, open, packet_bytes }
    }

    fn expire(&mut self, _: Instant) {}
    fn flush<S: SpillStore>(&mut self, _: Instant, _: &mut S) {}
    fn flush_ram(&mut self, _: Instant) {}

    fn transmit(&mut self, _: Instant, conn: ConnId, out: &mut [u8]) -> usize {
        assert!(self.live.contains(&conn));
        let queue = self.out[usize::from(conn.slot)].as_mut().unwrap();
        queue.read(out).unwrap()
    }

    fn poll_ready(&mut self) -> Option<ConnId> {
        self.ready.pop_front()
    }
    fn poll_resume(&mut self) -> Option<ConnId> {
        self.resume.pop_front()
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn poll_note(&mut self) -> Option<Note> {
        None
    }
    fn poll_at(&self) -> Instant {
        Instant::NEVER
    }

    fn stats(&self, _: Instant) -> Note {
        Note::Stall { part: "figures", duration_ms: 1 }
    }

    fn stats_bridge(&self, _: Instant, bridge: u16) -> Option<Note> {
        assert_eq!(bridge, 0);
        None
    }
}

fn config(large_buffers: u16) -> Config {
    Config {
        node_name: "node".into(),
        log_level: log::LevelFilter::Info,
        // So that a turn never sleeps for long while a test waits for something.
        stats_interval: Some(Duration::from_millis(20)),
        limit: Limits {
            clients: 16,
            sessions: 16,
            subscriptions: 16,
            bridges: 1,
            rules: 1,
            packet_bytes: 64 * 1024,
            large_buffers,
            topic_bytes: 256,
            client_id_bytes: 128,
            keepalive_max: None,
            inflight: 16,
            retained: 16,
            retained_bytes: 1024,
            will_bytes: 1024,
        },
        ring_messages: 16,
        ring_bytes: 16 * 1024,
        ack: Ack::Ring,
        store: Store {
            path: None,
            max_bytes: None,
            sync: Sync::Off,
            flush_after: Duration::from_millis(250),
            retained_after: Duration::from_secs(60),
            overflow: Overflow::Block,
            sessions_share: 25,
        },
        session_max_messages: 10,
        session_max_bytes: 1024,
        session_expiry: Duration::from_secs(60),
        listeners: vec![Listener {
            name: "one".into(),
            host: "127.0.0.1".into(),
            port: 0,
            max_clients: None,
        }],
        bridges: vec![bridge()],
    }
}

fn bridge() -> Bridge {
    Bridge {
        name: "up".into(),
        servers: vec![
            Server { host: "127.0.0.1".into(), port: 1 },
            Server { host: "no such name".into(), port: 2 },
        ],
        server_policy: ServerPolicy::Failover,
        version: Version::V5,
        bridge_bit: true,
        client_id: None,
        clean_start: false,
        session_expiry: Duration::from_secs(60),
        username: None,
        password: None,
        keepalive: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
        ack_timeout: Duration::from_secs(20),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        max_inflight: 64,
        max_packet_bytes: None,
        rate: None,
        max_messages: None,
        max_bytes: None,
        overflow: Overflow::Block,
        queue_qos0: false,
        bind_interface: None,
        will: None,
        notify_topic: None,
        forward: Vec::new(),
        subscribe: Vec::new(),
    }
}

type Loop = EventLoop<Echo, NoStore>;

fn start(config: &Config, log: File) -> (Loop, SocketAddr) {
    let logging = Logging::to_file(log, log::LevelFilter::Info, None);
    let clock = Clock::start();
    let event_loop =
        Loop::new(config, Echo::default(), None, clock, logging, Paths::default(), 1).unwrap();
    let (_, addr) = event_loop.listeners.addrs().next().unwrap();
    (event_loop, addr)
}

fn quiet(config: &Config) -> (Loop, SocketAddr) {
    start(config, File::options().write(true).open("/dev/null").unwrap())
}

/// Turns until `done`, 20 s at most.
fn turn_until(event_loop: &mut Loop, mut done: impl FnMut(&mut Loop) -> bool) {
    let limit = event_loop.clock.now().plus(Duration::from_secs(20));
    while !done(event_loop) {
        assert!(event_loop.clock.now() < limit, "waited in vain: {:?}", event_loop.core.seen);
        event_loop.turn().unwrap();
    }
}

fn packet(bytes: usize, fill: u8) -> Vec<u8> {
    let mut packet = u32::try_from(bytes - 4).unwrap().to_be_bytes().to_vec();
    packet.resize(bytes, fill);
    packet
}

/// A client that writes all of `bytes`, reads as many and closes.
fn echo_client(addr: SocketAddr, bytes: Vec<u8>) -> JoinHandle<bool> {
    std::thread::spawn(move || {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let expected = bytes.clone();
        let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
        let mut got = vec![0; expected.len()];
        let mut reader = stream;
        reader.read_exact(&mut got).unwrap();
        writing.join().unwrap();
        got == expected
    })
}

fn join_all(event_loop: &mut Loop, clients: Vec<JoinHandle<bool>>) {
    turn_until(event_loop, |_| clients.iter().all(JoinHandle::is_finished));
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
}

/// A client's socket that the loop has accepted.
fn client(event_loop: &mut Loop, addr: SocketAddr) -> (TcpStream, ConnId) {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let before = event_loop.core.live.len();
    turn_until(event_loop, |event_loop| event_loop.core.live.len() > before);
    (stream, *event_loop.core.live.last().unwrap())
}

#[test]
fn many_small_packets_of_many_clients_come_back_in_order() {
    let (mut event_loop, addr) = quiet(&config(4));
    let clients = (0..10)
        .map(|client| {
            let bytes = (0..2000_usize)
                .flat_map(|number| {
                    packet(5 + number % 90, u8::try_from((number + client) % 256).unwrap())
                })
                .collect();
            echo_client(addr, bytes)
        })
        .collect();
    join_all(&mut event_loop, clients);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 10);
}

#[test]
fn more_large_packets_than_large_buffers_all_get_through() {
    for large_buffers in [1, 2, 4] {
        let (mut event_loop, addr) = quiet(&config(large_buffers));
        let clients = (0..8)
            .map(|client| {
                let bytes = (0..20_u8)
                    .flat_map(|number| {
                        packet(64 * 1024 - usize::from(number) * 3000, number ^ client)
                    })
                    .collect();
                echo_client(addr, bytes)
            })
            .collect();
        join_all(&mut event_loop, clients);
        assert!(event_loop.core.kept_max <= 64 * 1024);
    }
}

#[test]
fn a_client_that_is_not_served_stops_being_read_and_others_go_on() {
    for open in [true, false] {
        let (mut event_loop, addr) = quiet(&config(4));
        event_loop.core.parking = Some(open);
        let bytes: Vec<u8> =
            (0..40_000_usize).flat_map(|n| packet(100, u8::try_from(n % 251).unwrap())).collect();
        let blocked = echo_client(addr, bytes);
        turn_until(&mut event_loop, |event_loop| !event_loop.core.live.is_empty());
        // It is read until what it may keep is full, and then the loop has nothing to do.
        turn_until(&mut event_loop, |event_loop| !event_loop.busy && event_loop.core.kept_max > 0);
        for _ in 0..20 {
            event_loop.turn().unwrap();
            assert!(!event_loop.busy);
        }
        assert!(event_loop.core.kept_max <= 64 * 1024);
        assert!(!blocked.is_finished());
        event_loop.core.unpark();
        join_all(&mut event_loop, vec![blocked]);
    }
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut stream, _) = client(&mut event_loop, addr);
    stream.set_nodelay(true).unwrap();
    for byte in packet(40, 7) {
        stream.write_all(&[byte]).unwrap();
        event_loop.turn().unwrap();
    }
    turn_until(&mut event_loop, |event_loop| {
        event_loop.turn().unwrap();
        event_loop.core.ready.is_empty() && !event_loop.busy
    });
    let mut got = [0; 40];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got[..], packet(40, 7));
}

#[test]
fn a_gentle_close_delivers_everything_first() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    // What the peer still says must not turn into a reset that eats what it is told.
    stream.write_all(&packet(3000, 1)).unwrap();
    let words = vec![42; 3 * 1024 * 1024];
    event_loop.core.send(id, &words);
    let deadline = event_loop.clock.now().plus(Duration::from_secs(30));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(b"too late").unwrap();
        got
    });
    turn_until(&mut event_loop, |_| reader.is_finished());
    let got = reader.join().unwrap();
    assert!(got.starts_with(&words) && got.len() <= words.len() + 3000, "{}", got.len());
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert_eq!(event_loop.core.seen.last(), Some(&Seen::Closed(id, "closed")));
}

#[test]
fn a_gentle_close_ends_at_its_deadline() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (stream, id) = client(&mut event_loop, addr);
    let deadline = event_loop.clock.now().plus(Duration::from_millis(50));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert!(event_loop.clock.now() >= deadline);
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
    drop(stream);
}

#[test]
fn a_hard_close_is_reported_at_once_and_its_slot_is_free() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (_stream, id) = client(&mut event_loop, addr);
    let deadline = Instant::NEVER;
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: false, deadline });
    event_loop.turn().unwrap();
    assert_eq!(event_loop.core.seen, [Seen::Closed(id, "closed")]);
    let (_stream, next) = client(&mut event_loop, addr);
    assert_eq!(next.slot, id.slot);
    // A late word about the old one is not taken for the new one.
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: false, deadline });
    event_loop.turn().unwrap();
    assert_eq!(event_loop.core.live, [next]);
}

#[test]
fn the_end_of_a_peer_is_told_after_everything_it_said() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    let bytes: Vec<u8> = (0..50).flat_map(|number| packet(5000, number)).collect();
    let expected = bytes.clone();
    let writer = std::thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).unwrap();
        (stream, got)
    });
    turn_until(&mut event_loop, |_| writer.is_finished());
    let (_stream, got) = writer.join().unwrap();
    assert!(got == expected);
    turn_until(&mut event_loop, |event_loop| !event_loop.core.seen.is_empty());
    assert_eq!(event_loop.core.seen, [Seen::Finished(id)]);
}

#[test]
fn a_paused_socket_still_notices_the_end_of_its_peer() {
    let (mut event_loop, addr) = quiet(&config(4));
    event_loop.core.parking = Some(false);
    let (mut stream, id) = client(&mut event_loop, addr);
    stream.write_all(&packet(100, 1)).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 100);
    drop(stream);
    turn_until(&mut event_loop, |event_loop| event_loop.links.poll_at() != Instant::NEVER);
    assert!(event_loop.core.seen.is_empty());
    let later = event_loop.links.poll_at();
    event_loop.links.expire(later, &mut event_loop.core);
    assert_eq!(event_loop.core.seen, [Seen::Finished(id)]);
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
}

#[test]
fn a_large_buffer_that_stands_still_is_taken_back_for_who_waits() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut lazy, lazy_id) = client(&mut event_loop, addr);
    lazy.write_all(&packet(50_000, 1)[..10_000]).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 10_000);
    // Alone it may take all the time of the world.
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
    let waiting = echo_client(addr, packet(30_000, 2));
    turn_until(&mut event_loop, |event_loop| event_loop.links.poll_at() != Instant::NEVER);
    let later = event_loop.links.poll_at();
    assert!(later > event_loop.clock.now().plus(Duration::from_secs(5)));
    event_loop.links.expire(later, &mut event_loop.core);
    assert_eq!(event_loop.core.seen, [Seen::Closed(lazy_id, "slow_packet")]);
    join_all(&mut event_loop, vec![waiting]);
}

#[test]
fn a_bridge_reads_large_packets_while_clients_hold_all_buffers() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut lazy, _) = client(&mut event_loop, addr);
    lazy.write_all(&packet(50_000, 1)[..10_000]).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 10_000);
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let conn = event_loop.core.open();
    let addr = remote.local_addr().unwrap();
    event_loop.core.actions.push_back(Action::Dial { conn, bridge: BridgeId(0), addr });
    let (mut peer, _) = loop {
        remote.set_nonblocking(true).unwrap();
        match remote.accept() {
            Ok(peer) => break peer,
            Err(_) => event_loop.turn().unwrap(),
        }
    };
    peer.set_nonblocking(false).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.contains(&Seen::Connected(conn)));
    let peer = std::thread::spawn(move || {
        peer.write_all(&packet(60_000, 9)).unwrap();
        let mut got = vec![0; 60_000];
        peer.read_exact(&mut got).unwrap();
        got == packet(60_000, 9)
    });
    join_all(&mut event_loop, vec![peer]);
}

#[test]
fn dials_that_fail_say_why() {
    let (mut event_loop, _) = quiet(&config(4));
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conn = event_loop.core.open();
    event_loop.core.actions.push_back(Action::Dial { conn, bridge: BridgeId(0), addr });
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert_eq!(event_loop.core.seen, [Seen::Closed(conn, "refused")]);
}

#[test]
fn names_and_probes_are_answered() {
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = remote.local_addr().unwrap();
    let mut config = config(4);
    config.bridges[0].servers[0].port = addr.port();
    let (mut event_loop, _) = quiet(&config);
    let bridge = BridgeId(0);
    event_loop
        .core
        .actions
        .extend([Action::Resolve { bridge, server: 0 }, Action::Probe { bridge, server: 0 }]);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 2);
    assert_eq!(event_loop.core.seen[0], Seen::Resolved(vec![addr], "literal"));
    assert_eq!(event_loop.core.seen[1], Seen::Probed(true));
    event_loop.core.seen.clear();
    drop(remote);
    event_loop.core.actions.extend([
        Action::Resolve { bridge, server: 1 },
        Action::Resolve { bridge, server: 2 },
        Action::Probe { bridge, server: 0 },
    ]);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 3);
    for seen in [
        Seen::Resolved(vec![], "bad_name"),
        Seen::Resolved(vec![], "no_server"),
        Seen::Probed(false),
    ] {
        assert!(event_loop.core.seen.contains(&seen), "{seen:?}");
    }
}

#[test]
fn a_stop_closes_the_doors_and_ends_the_run() {
    let (mut event_loop, addr) = quiet(&config(4));
    // SAFETY: the signal goes to this very thread, which has it blocked.
    unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
    assert_eq!(event_loop.run(), 0);
    // SAFETY: takes the guard of the stop off the process that runs the other tests.
    unsafe { libc::alarm(0) };
    assert_eq!(event_loop.core.seen, [Seen::Stop("SIGTERM")]);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn listening_and_figures_are_logged_and_a_reload_is_refused() {
    let (reader, writer) = io::pipe().unwrap();
    let (mut event_loop, addr) = start(&config(4), File::from(OwnedFd::from(writer)));
    // SAFETY: the signal goes to this very thread, which has it blocked.
    unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGHUP) };
    for _ in 0..5 {
        event_loop.turn().unwrap();
    }
    drop(event_loop);
    let text = io::read_to_string(reader).unwrap();
    for line in [
        format!("INFO spillway::listener event=listening listener=one addr={addr}\n"),
        "WARN spillway::loop event=stall part=figures duration_ms=1\n".to_owned(),
        "event=reload_refused reason=\"not in this build\"\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[test]
fn a_listener_whose_place_is_taken_is_an_error_with_its_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(4);
    config.listeners[0].port = taken.local_addr().unwrap().port();
    let logging = Logging::to_file(
        File::options().write(true).open("/dev/null").unwrap(),
        log::LevelFilter::Info,
        None,
    );
    let error =
        Loop::new(&config, Echo::default(), None, Clock::start(), logging, Paths::default(), 1)
            .unwrap_err();
    assert!(error.to_string().starts_with("listener one: cannot listen on 127.0.0.1 port"));
}
