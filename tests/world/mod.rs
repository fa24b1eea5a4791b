//! The core without sockets, time or disk: a gateway, clients and the remote of its first bridge,
//! who get and give bytes by hand. Turns follow the shell's: receive, expire, flush, transmit,
//! act. A peer here reads everything it is sent and answers as a broker or a client must, unless
//! somebody makes it say something else. Used by the fuzz targets and by the instruction counts.

pub mod disk;

use spillway::config;
use spillway::gateway::{Action, Event, Gateway};
use spillway::mqtt::{Ack, Frame, Packet, Qos, Reason, Version, decode, encode, frame};
use spillway::queue::store::SpillStore;
use spillway::vocab::{ConnId, Instant};
use std::time::Duration;

/// Bytes a peer may leave unread by the gateway; the shell has a large buffer of this size.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Bytes a socket takes at a time.
const OUT_BYTES: usize = 16 * 1024;

/// The other end of a connection.
pub struct Peer {
    pub id: ConnId,
    /// What the gateway has not taken yet.
    pub kept: Vec<u8>,
    /// What the gateway has sent and nobody has answered yet.
    pub sent: Vec<u8>,
    pub version: Version,
    /// The gateway reads.
    pub open: bool,
}

impl Peer {
    fn new(id: ConnId) -> Self {
        Self { id, kept: Vec::new(), sent: Vec::new(), version: Version::V311, open: true }
    }
}

pub struct World<S> {
    pub gateway: Gateway,
    pub store: S,
    pub now: Instant,
    pub clients: Vec<Peer>,
    /// The connection to the remote.
    pub remote: Option<Peer>,
    /// Whether the remote lets connections be made.
    pub reachable: bool,
    /// Publishes the remote has taken, each as often as it came.
    pub arrived: u64,
    pub stopped: bool,
    out: Box<[u8]>,
}

pub fn load(text: &str) -> config::Config {
    let read = &mut |_: &str| Err("no file here".to_owned());
    let (config, _) = config::load("test", text, read, "node").expect("the test's own text");
    config
}

impl<S: SpillStore> World<S> {
    /// A process that starts with what `store` has. `Err`: the store could not be read.
    pub fn start(text: &str, mut store: S, now: Instant) -> Result<Self, S> {
        let mut gateway = Gateway::new(load(text), 7, store.slot_count_max(), now);
        if gateway.restore(now, &mut store).is_err() {
            return Err(store);
        }
        Ok(Self {
            gateway,
            store,
            now,
            clients: Vec::new(),
            remote: None,
            reachable: true,
            arrived: 0,
            stopped: false,
            out: vec![0; OUT_BYTES].into_boxed_slice(),
        })
    }

    /// `kill -9`: only the store is left.
    pub fn killed(mut self) -> S {
        self.store.rollback();
        self.store
    }

    pub fn wait(&mut self, span: Duration) {
        self.now = self.now.plus(span);
        self.turn();
    }

    /// Everything of a turn behind `receive`.
    pub fn turn(&mut self) {
        measured(|| self.gateway.expire(self.now));
        measured(|| self.gateway.flush(self.now, &mut self.store));
        self.transmit();
        // Bounded as in the shell.
        for _ in 0..256 {
            let Some(action) = self.gateway.poll_action() else { break };
            self.act(action);
        }
        for _ in 0..256 {
            let Some(id) = self.gateway.poll_resume() else { break };
            self.give(id, &[]);
        }
        while self.gateway.poll_note().is_some() {}
    }

    /// Turns until the gateway wants nothing before time passes.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            if self.gateway.poll_at() > self.now {
                self.transmit();
                return;
            }
            // A clock that stands still is not what a loop sees.
            self.now = self.now.plus(Duration::from_micros(20));
        }
        panic!("the gateway is busy for ever");
    }

    fn transmit(&mut self) {
        while let Some(id) = self.gateway.poll_ready() {
            let mut rounds = 0;
            loop {
                let out = &mut self.out;
                let bytes = measured(|| self.gateway.transmit(self.now, id, out));
                if bytes == 0 {
                    break;
                }
                rounds += 1;
                assert!(rounds < 100_000, "the gateway sends for ever");
                let peers = self.clients.iter_mut().chain(&mut self.remote);
                if let Some(peer) = peers.into_iter().find(|peer| peer.id == id) {
                    peer.sent.extend_from_slice(&self.out[..bytes]);
                }
            }
        }
    }

    fn act(&mut self, action: Action) {
        // A constant of the language of addresses.
        let addr = "127.0.0.1:9".parse().expect("an address");
        match action {
            Action::Resolve { bridge, .. } => {
                let event = Event::Resolved { bridge, addrs: &[addr], reason: "" };
                self.gateway.handle(self.now, event);
            }
            Action::CancelResolve { .. } => {}
            Action::Dial { conn, .. } if self.reachable => {
                self.remote = Some(Peer::new(conn));
                self.gateway.handle(self.now, Event::Connected { conn });
            }
            Action::Dial { conn, .. } => {
                self.gateway.handle(self.now, Event::Closed { conn, reason: "refused" });
            }
            Action::Close { conn, .. } => {
                self.clients.retain(|peer| peer.id != conn);
                if self.remote.as_ref().is_some_and(|peer| peer.id == conn) {
                    self.remote = None;
                }
                self.gateway.handle(self.now, Event::Closed { conn, reason: "closed" });
            }
            Action::Probe { bridge, .. } => {
                self.gateway.handle(self.now, Event::Probed { bridge, ok: self.reachable });
            }
            Action::Measure { .. } | Action::Reloaded => {}
            Action::Exit { .. } => self.stopped = true,
        }
    }

    fn peer(&mut self, id: ConnId) -> Option<&mut Peer> {
        self.clients.iter_mut().chain(&mut self.remote).find(|peer| peer.id == id)
    }

    /// A new local connection; `None` without a slot for it.
    pub fn accept(&mut self) -> Option<ConnId> {
        let addr = "127.0.0.1:9".parse().expect("an address");
        let id = self.gateway.accept(self.now, 0, addr)?;
        self.clients.push(Peer::new(id));
        Some(id)
    }

    /// The peer's end of the connection is gone.
    pub fn cut(&mut self, id: ConnId) {
        if self.peer(id).is_some() {
            self.clients.retain(|peer| peer.id != id);
            if self.remote.as_ref().is_some_and(|peer| peer.id == id) {
                self.remote = None;
            }
            self.gateway.handle(self.now, Event::Closed { conn: id, reason: "reset" });
        }
    }

    /// Presents `bytes` behind what the gateway has kept.
    pub fn give(&mut self, id: ConnId, bytes: &[u8]) {
        let now = self.now;
        let Some(peer) = self.peer(id) else { return };
        if peer.kept.len() + bytes.len() > KEPT_BYTES_MAX {
            return;
        }
        peer.kept.extend_from_slice(bytes);
        let mut buffer = core::mem::take(&mut peer.kept);
        let taken = measured(|| self.gateway.receive(now, id, &mut buffer));
        assert!(taken.kept <= buffer.len(), "it keeps no more than it was shown");
        buffer.truncate(taken.kept);
        if let Some(peer) = self.peer(id) {
            peer.kept = buffer;
            peer.open = taken.open;
        }
    }

    /// The peer answers everything it was sent: CONNECT, PUBLISH, PUBREC, PUBREL, PINGREQ,
    /// SUBSCRIBE.
    pub fn answer(&mut self, id: ConnId) {
        let Some(peer) = self.peer(id) else { return };
        let sent = core::mem::take(&mut peer.sent);
        let mut version = peer.version;
        let mut reply = Vec::new();
        let mut rest = &sent[..];
        let mut arrived = 0;
        while let Ok(Frame::Complete { packet_bytes }) = frame(rest, usize::MAX) {
            let (packet, after) = rest.split_at(packet_bytes);
            rest = after;
            if packet[0] >> 4 == 1 {
                version = level(packet);
            }
            let packet = decode(version, packet).expect("the gateway sends valid packets");
            arrived += u64::from(matches!(packet, Packet::Publish(_)));
            answer_to(version, &packet, &mut reply);
        }
        let rest = rest.to_vec();
        self.arrived += arrived;
        if let Some(peer) = self.peer(id) {
            peer.version = version;
            peer.sent = rest;
        }
        if !reply.is_empty() {
            self.give(id, &reply);
        }
    }

    /// Everybody answers until nobody has anything to say.
    pub fn talk(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            let peers = self.clients.iter().chain(&self.remote);
            let ids: Vec<ConnId> =
                peers.filter(|peer| !peer.sent.is_empty()).map(|peer| peer.id).collect();
            if ids.is_empty() {
                return;
            }
            ids.into_iter().for_each(|id| self.answer(id));
        }
        panic!("they talk for ever");
    }
}

/// Around every call of the core, so that a profiler can tell the core from the test.
#[inline(never)]
pub fn measured<T>(run: impl FnOnce() -> T) -> T {
    run()
}

/// The version a CONNECT asks for; the bridge's bit is not part of it.
fn level(connect: &[u8]) -> Version {
    // Behind the fixed header, which is two to five bytes, lies the protocol's name.
    let head = 1 + connect[1..].iter().take(4).take_while(|byte| **byte >= 0x80).count() + 1;
    let name = usize::from(connect[head + 1]);
    match connect[head + 2 + name] & 0x7F {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    }
}

fn answer_to(version: Version, packet: &Packet<'_>, reply: &mut Vec<u8>) {
    match packet {
        Packet::Connect(connect) => {
            let present = u8::from(!connect.clean_start && version != Version::V31);
            reply.extend_from_slice(&[0x20, 2, present, 0]);
            if version == Version::V5 {
                let at = reply.len() - 4;
                reply[at + 1] = 3;
                reply.push(0);
            }
        }
        Packet::Publish(publish) => {
            let Some(packet_id) = publish.packet_id else { return };
            let ack = Ack::new(packet_id, Reason::SUCCESS);
            match publish.qos {
                Qos::AtMostOnce => {}
                Qos::AtLeastOnce => put(version, &Packet::Puback(ack), reply),
                Qos::ExactlyOnce => put(version, &Packet::Pubrec(ack), reply),
            }
        }
        Packet::Pubrec(ack) => {
            if !ack.reason.is_error() {
                put(version, &Packet::Pubrel(Ack::new(ack.packet_id, Reason::SUCCESS)), reply);
            }
        }
        Packet::Pubrel(ack) => {
            put(version, &Packet::Pubcomp(Ack::new(ack.packet_id, Reason::SUCCESS)), reply);
        }
        Packet::Pingreq => reply.extend_from_slice(&[0xD0, 0]),
        Packet::Subscribe(subscribe) => {
            let codes = vec![0; subscribe.filters.len()];
            let properties = spillway::mqtt::Properties::EMPTY;
            let packet_id = subscribe.packet_id;
            let suback = spillway::mqtt::Suback { packet_id, properties, codes: &codes };
            put(version, &Packet::Suback(suback), reply);
        }
        Packet::Connack(_)
        | Packet::Puback(_)
        | Packet::Pubcomp(_)
        | Packet::Suback(_)
        | Packet::Unsubscribe(_)
        | Packet::Unsuback(_)
        | Packet::Pingresp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => {}
    }
}

pub fn put(version: Version, packet: &Packet<'_>, out: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    let bytes = encode(version, packet, &mut buffer).expect("small packets");
    out.extend_from_slice(&buffer[..bytes]);
}
