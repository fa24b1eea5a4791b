//! The loop with real sockets on loopback and a few lines in the gateway's place: packets are
//! four bytes of length and a body, and come back as they are.

mod ends;
mod exchange;
mod service;

use super::*;
use crate::config::{Ack, Bridge, Limits, Listener, Overflow, Store, Sync};
use crate::gateway::verbs::Taken;
use crate::queue::store::{SlotId, StoreError, Table};
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
    Outstanding(ConnId, usize),
    Finished(ConnId),
    Slow(ConnId, usize),
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
    /// Packets sent back.
    echoed: usize,
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

    fn wall_jumped(&mut self) {}

    fn accept(&mut self, _: Instant, listener: u16, _: SocketAddr) -> Option<ConnId> {
        assert_eq!(listener, 0);
        Some(self.open())
    }

    fn handle(&mut self, _: Instant, event: Event<'_>) {
        self.seen.push(match event {
            Event::Resolved { addrs, reason, .. } => Seen::Resolved(addrs.to_vec(), reason),
            Event::Connected { conn } => Seen::Connected(conn),
            Event::Probed { ok, .. } => Seen::Probed(ok),
            Event::Outstanding { conn, bytes } => Seen::Outstanding(conn, bytes),
            Event::PeerFinished { conn } => Seen::Finished(conn),
            Event::Here { .. } => return,
            Event::Slow { conn, size, .. } => {
                let deadline = Instant::NEVER;
                self.actions.push_back(Action::Close { conn, after_flush: false, deadline });
                Seen::Slow(conn, size)
            }
            Event::Closed { conn, reason } => {
                assert!(self.live.contains(&conn), "closed twice");
                self.live.retain(|live| *live != conn);
                self.out[usize::from(conn.slot)] = None;
                Seen::Closed(conn, reason)
            }
            // This machine's network may change at any time.
            Event::NetworkChanged { .. } => return,
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
            self.echoed += 1;
            at += bytes;
        }
        buffer.copy_within(at.., 0);
        let kept = buffer.len() - at;
        self.kept_max = self.kept_max.max(kept);
        let parked = kept > 0 && self.parking.is_some();
        Taken { kept, open, packet_bytes, later: false, short: false, parked, holder: 1 }
    }

    fn expire(&mut self, _: Instant) {}
    fn flush<S: SpillStore>(&mut self, _: Instant, _: &mut S) {}
    fn flush_ram(&mut self, _: Instant) {}
    fn store_took(&mut self, now: Instant, _: Duration) -> Instant {
        now
    }

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

pub(super) fn config(large_buffers: u16) -> Config {
    Config {
        node_name: "node".into(),
        log_level: log::LevelFilter::Info,
        // So that a turn never sleeps for long while a test waits for something.
        stats_interval: Some(Duration::from_millis(20)),
        limit: Limits {
            clients: 16,
            sessions: 16,
            sessions_per_user: None,
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
        auth: crate::config::Auth::default(),
        listeners: vec![Listener {
            anonymous: true,
            name: "one".into(),
            line: 1,
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
        bridge_bit: true,
        session_expiry: Duration::from_secs(60),
        keepalive: Duration::from_secs(30),
        ack_timeout: Duration::from_secs(20),
        ..Bridge::vacant()
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
