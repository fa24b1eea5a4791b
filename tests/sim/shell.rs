//! The gateway's end of the network, in the order of the real loop's turn: read and present,
//! deadlines, one flush, write, what the core asks for, notes. The process may die in between.

use crate::net::{End, NEVER, Read};
use crate::watch::Peers;
use crate::world::{Peer, Wire, World};
use spillway::gateway::{Action, Event, Gateway};
use spillway::vocab::{BridgeId, ConnId, Instant};
use std::net::SocketAddr;

/// What the buffers of one connection hold.
const OWN_BYTES: usize = 2048;
const LARGE_BYTES: usize = 16 * 1024 + 16;
const OUT_BYTES: usize = 4096;

/// Virtual time a turn takes.
const TURN_US: u64 = 20;

const ROUNDS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Connecting,
    Open,
    Flushing,
    Draining,
}

/// The gateway's end of one wire.
pub struct Shell {
    pub id: ConnId,
    pub state: State,
    rest: Vec<u8>,
    packet_bytes: Option<usize>,
    paused: bool,
    full: bool,
    finished: bool,
    wants: bool,
    out: Vec<u8>,
    deadline: u64,
}

/// Where in a turn the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    AfterReceive,
    AfterFlush,
    WithinTransmit,
    AtTheEnd,
}

impl Shell {
    pub fn new(id: ConnId, state: State) -> Self {
        Self {
            id,
            state,
            rest: Vec::new(),
            packet_bytes: None,
            paused: false,
            full: false,
            finished: false,
            wants: state == State::Open,
            out: Vec::new(),
            deadline: NEVER,
        }
    }

    fn may_read(&self) -> bool {
        match self.state {
            State::Connecting => false,
            State::Open => !self.paused && !self.full && !self.finished,
            State::Flushing | State::Draining => !self.finished,
        }
    }

    fn room(&self) -> usize {
        let large = self.packet_bytes.is_some_and(|bytes| bytes > OWN_BYTES);
        let most = if large || self.rest.len() > OWN_BYTES { LARGE_BYTES } else { OWN_BYTES };
        most.saturating_sub(self.rest.len())
    }
}

impl World {
    /// When the gateway has something to do.
    pub fn gateway_at(&self) -> u64 {
        let mut at = NEVER;
        for wire in &self.wires {
            if wire.opens_at > 0 {
                at = at.min(wire.opens_at);
            }
            let Some(shell) = &wire.shell else { continue };
            at = at.min(shell.deadline);
            if shell.may_read() {
                at = at.min(wire.up.next_at());
            }
            let writes = matches!(shell.state, State::Open | State::Flushing);
            if writes && (shell.wants || !shell.out.is_empty()) && wire.down.room() > 0 {
                at = self.now;
            }
        }
        let Some(gateway) = &self.gateway else { return at };
        if self.busy {
            return self.now;
        }
        at = at.min(self.world_time(gateway.poll_at()));
        at = at.min(self.names.iter().map(|(_, at, _)| *at).min().unwrap_or(NEVER));
        at.min(self.probes.iter().map(|(_, at, _)| *at).min().unwrap_or(NEVER))
    }

    /// One turn, if there is anything to do.
    pub fn turn(&mut self) {
        if self.gateway_at() > self.now {
            return;
        }
        let Some(mut gateway) = self.gateway.take() else { return self.refuse_all() };
        self.turns += 1;
        let now = self.core_now();
        gateway.set_wall(self.wall_s);
        self.answer(&mut gateway, now);
        self.open_wires(&mut gateway, now);
        for at in 0..self.wires.len() {
            self.read(&mut gateway, now, at);
        }
        let kill = self.chaos.kill.take();
        if kill == Some(Kill::AfterReceive) {
            return self.die(gateway);
        }
        gateway.expire(now);
        self.expire_wires(&mut gateway, now);
        if self.fair.is_stored {
            gateway.flush(now, &mut self.disk);
        } else {
            gateway.flush_ram(now);
        }
        let spent = std::mem::take(&mut self.disk.spent_us);
        self.watch.commit(self.now, self.disk.commits);
        if self.disk.died || kill == Some(Kill::AfterFlush) {
            return self.die(gateway);
        }
        self.firm_up();
        self.now += spent + TURN_US;
        self.collect_ready(&mut gateway);
        let first = self.rng.below(1 + self.wires.len() as u64);
        for at in 0..self.wires.len() {
            if kill == Some(Kill::WithinTransmit) && at as u64 == first {
                return self.die(gateway);
            }
            self.write(&mut gateway, now, at);
        }
        let acted = self.act(&mut gateway, now);
        let resumed = self.resume(&mut gateway, now);
        self.collect_ready(&mut gateway);
        self.busy = acted || resumed;
        self.take_notes(&mut gateway);
        self.watch.figures(&mut self.ledger, &gateway, now);
        self.gateway = Some(gateway);
        if kill == Some(Kill::AtTheEnd) {
            let silent = self.rng.below(2) == 0;
            self.crash(silent);
        }
    }

    fn die(&mut self, gateway: Gateway) {
        self.gateway = Some(gateway);
        let silent = self.chaos.dies_silently;
        self.crash(silent);
    }

    /// Nobody listens.
    fn refuse_all(&mut self) {
        for wire in &mut self.wires {
            if wire.opens_at > 0 && wire.opens_at <= self.now {
                wire.opens_at = 0;
                wire.down.finish(self.now + 50, End::Reset);
            }
        }
    }

    fn answer(&mut self, gateway: &mut Gateway, now: Instant) {
        let due: Vec<_> = self.names.iter().filter(|name| name.1 <= self.now).copied().collect();
        self.names.retain(|name| name.1 > self.now);
        for (bridge, _, server) in due {
            let bridge = BridgeId(bridge);
            match server {
                Some(server) => {
                    let addrs = [address(server)];
                    gateway.handle(now, Event::Resolved { bridge, addrs: &addrs, reason: "" });
                }
                None => {
                    let reason = "nxdomain";
                    gateway.handle(now, Event::Resolved { bridge, addrs: &[], reason });
                }
            }
        }
        let due: Vec<_> = self.probes.iter().filter(|p| p.1 <= self.now).copied().collect();
        self.probes.retain(|probe| probe.1 > self.now);
        for (bridge, _, ok) in due {
            gateway.handle(now, Event::Probed { bridge: BridgeId(bridge), ok });
        }
    }

    fn open_wires(&mut self, gateway: &mut Gateway, now: Instant) {
        for at in 0..self.wires.len() {
            let wire = &mut self.wires[at];
            if wire.opens_at == 0 || wire.opens_at > self.now {
                continue;
            }
            wire.opens_at = 0;
            match (wire.peer, &mut wire.shell) {
                (Peer::Client(client), None) => {
                    let host = u8::try_from(client + 1).unwrap();
                    let peer = SocketAddr::from(([192, 168, 1, host], 4000));
                    match gateway.accept(now, 0, peer) {
                        Some(id) => {
                            wire.shell = Some(Shell::new(id, State::Open));
                            self.fair.opened(client);
                        }
                        None => wire.down.finish(self.now + 50, End::Reset),
                    }
                }
                (Peer::Remote(remote), Some(shell)) if self.remotes[remote].listening => {
                    let conn = shell.id;
                    *shell = Shell::new(conn, State::Open);
                    wire.peer_open = true;
                    self.remotes[remote].connected(at, self.now);
                    gateway.handle(now, Event::Connected { conn });
                }
                (Peer::Remote(_), Some(_)) => self.close_now(gateway, now, at, "refused"),
                (Peer::Client(_), Some(_)) | (Peer::Remote(_), None) => {}
            }
        }
    }

    fn read(&mut self, gateway: &mut Gateway, now: Instant, at: usize) {
        for _ in 0..ROUNDS {
            let wire = &mut self.wires[at];
            let Some(shell) = &mut wire.shell else { return };
            if !shell.may_read() {
                wire.held_at = self.now;
                return;
            }
            if wire.up.next_at() > self.now {
                return;
            }
            let open = shell.state == State::Open;
            let room = if open { shell.room() } else { OWN_BYTES };
            if room == 0 {
                shell.full = true;
                return;
            }
            match wire.up.read(self.now, room, &mut self.rng) {
                Read::Nothing => return,
                Read::Bytes(bytes) => {
                    self.watch.trace(self.now, 2, &bytes);
                    if open {
                        shell.rest.extend_from_slice(&bytes);
                        self.present(gateway, now, at);
                    }
                }
                Read::End(End::Finished) => {
                    shell.finished = true;
                    match shell.state {
                        State::Open => {
                            let conn = shell.id;
                            gateway.handle(now, Event::PeerFinished { conn });
                        }
                        State::Draining => self.close_now(gateway, now, at, "closed"),
                        State::Connecting | State::Flushing => {}
                    }
                    return;
                }
                Read::End(End::Reset) => return self.close_now(gateway, now, at, "reset"),
            }
        }
        // The rest with the next turn, whose time is at once.
        self.busy = true;
    }

    fn present(&mut self, gateway: &mut Gateway, now: Instant, at: usize) {
        let Some(shell) = &mut self.wires[at].shell else { return };
        let taken = gateway.receive(now, shell.id, &mut shell.rest);
        assert!(taken.kept <= shell.rest.len(), "the core keeps no more than it was shown");
        shell.rest.truncate(taken.kept);
        shell.paused = !taken.open;
        shell.packet_bytes = taken.packet_bytes;
        shell.full = false;
    }

    fn expire_wires(&mut self, gateway: &mut Gateway, now: Instant) {
        for at in 0..self.wires.len() {
            let due = self.wires[at].shell.as_ref().is_some_and(|s| s.deadline <= self.now);
            if due {
                self.close_now(gateway, now, at, "closed");
            }
        }
    }

    fn collect_ready(&mut self, gateway: &mut Gateway) {
        while let Some(id) = gateway.poll_ready() {
            for wire in &mut self.wires {
                if let Some(shell) = &mut wire.shell
                    && shell.id == id
                {
                    shell.wants = true;
                }
            }
        }
    }

    fn write(&mut self, gateway: &mut Gateway, now: Instant, at: usize) {
        let latency = self.latency();
        let arrives = self.now + latency;
        let wire = &mut self.wires[at];
        let Some(shell) = &mut wire.shell else { return };
        if !matches!(shell.state, State::Open | State::Flushing) {
            return;
        }
        loop {
            while shell.wants && OUT_BYTES - shell.out.len() >= OUT_BYTES / 2 {
                let mut buffer = [0; OUT_BYTES];
                let room = OUT_BYTES - shell.out.len();
                let bytes = gateway.transmit(now, shell.id, &mut buffer[..room]);
                shell.out.extend_from_slice(&buffer[..bytes]);
                shell.wants = bytes > 0;
            }
            let take = shell.out.len().min(wire.down.room());
            if take == 0 {
                break;
            }
            wire.down.write(arrives, &shell.out[..take]);
            shell.out.drain(..take);
        }
        if shell.state == State::Flushing && !shell.wants && shell.out.is_empty() {
            shell.state = State::Draining;
            wire.down.finish(arrives, End::Finished);
            if shell.finished {
                self.close_now(gateway, now, at, "closed");
            }
        }
    }

    fn close_now(&mut self, gateway: &mut Gateway, now: Instant, at: usize, reason: &'static str) {
        let wire = &mut self.wires[at];
        let Some(shell) = wire.shell.take() else { return };
        let end = if shell.state == State::Draining { End::Finished } else { End::Reset };
        wire.down.finish(self.now + 50, end);
        wire.opens_at = 0;
        gateway.handle(now, Event::Closed { conn: shell.id, reason });
    }

    fn act(&mut self, gateway: &mut Gateway, now: Instant) -> bool {
        let mut acted = false;
        while let Some(action) = gateway.poll_action() {
            acted = true;
            match action {
                Action::Resolve { bridge, server } => {
                    let place = self.plan.bridges[usize::from(bridge.0)].servers.as_slice();
                    let server = place.get(usize::from(server)).copied();
                    let (at, found) = self.chaos.look_up(self.now, &mut self.rng);
                    self.names.push((bridge.0, at, server.filter(|_| found)));
                }
                Action::CancelResolve { bridge } => {
                    self.names.retain(|name| name.0 != bridge.0);
                }
                Action::Dial { conn, addr, .. } => {
                    let latency = self.latency();
                    let wire = self.lay_wire(Peer::Remote(server_of(addr)), latency);
                    self.wires[wire].shell = Some(Shell::new(conn, State::Connecting));
                }
                Action::Close { conn, after_flush, deadline } => {
                    let deadline = self.world_time(deadline);
                    self.close(gateway, now, conn, after_flush, deadline);
                }
                Action::Probe { bridge, server } => {
                    let place = self.plan.bridges[usize::from(bridge.0)].servers.as_slice();
                    let at = place[usize::from(server)];
                    let listening = self.remotes[at].listening;
                    self.probes.push((bridge.0, self.now + 30_000, listening));
                }
                Action::Measure { conn } => {
                    let of = |shell: &&Shell| shell.id == conn;
                    let wire = |wire: &Wire| {
                        let shell = wire.shell.as_ref().filter(of)?;
                        Some(shell.out.len() + wire.down.outstanding())
                    };
                    if let Some(bytes) = self.wires.iter().find_map(wire) {
                        gateway.handle(now, Event::Outstanding { conn, bytes });
                    }
                }
                Action::Reloaded | Action::Exit { .. } => {}
            }
        }
        acted
    }

    fn close(
        &mut self,
        gateway: &mut Gateway,
        now: Instant,
        conn: ConnId,
        after_flush: bool,
        deadline: u64,
    ) {
        let of = |shell: &Shell| shell.id == conn;
        let at = self.wires.iter().position(|wire| wire.shell.as_ref().is_some_and(of));
        let Some(at) = at else { return };
        let Some(shell) = &mut self.wires[at].shell else { return };
        if !after_flush || shell.state == State::Connecting {
            return self.close_now(gateway, now, at, "closed");
        }
        shell.state = State::Flushing;
        shell.wants = true;
        shell.rest.clear();
        shell.deadline = deadline;
    }

    fn resume(&mut self, gateway: &mut Gateway, now: Instant) -> bool {
        let mut resumed = false;
        for _ in 0..self.wires.len() {
            let Some(id) = gateway.poll_resume() else { break };
            resumed = true;
            let of = |shell: &Shell| shell.id == id && shell.state == State::Open;
            let at = self.wires.iter().position(|wire| wire.shell.as_ref().is_some_and(of));
            let Some(at) = at else { continue };
            let Some(shell) = &mut self.wires[at].shell else { continue };
            shell.paused = false;
            shell.full = false;
            // Also without a byte: what it waits with may be in the core.
            self.present(gateway, now, at);
        }
        resumed
    }

    fn take_notes(&mut self, gateway: &mut Gateway) {
        while let Some(note) = gateway.poll_note() {
            let peers = Peers { clients: &self.clients, wires: &self.wires };
            self.watch.note(self.now, &note, &mut self.ledger, &peers);
            if let Some(fault) = self.fair.note(&note, &mut self.clients) {
                self.ledger.violate("fairness", fault);
            }
        }
    }

    /// The process ends: what it would have said of its drops in a moment is said now.
    pub fn settle_accounts(&mut self) {
        let Some(mut gateway) = self.gateway.take() else { return };
        let soon = Instant::from_micros(self.core_now().as_micros() + 2_000_000);
        gateway.expire(soon);
        while let Some(note) = gateway.poll_note() {
            self.watch.account(&note, &mut self.ledger);
        }
        self.gateway = Some(gateway);
    }

    /// Subscriptions that waited for a commit.
    fn firm_up(&mut self) {
        if self.disk.failing {
            return;
        }
        for client in &mut self.clients {
            if std::mem::take(&mut client.known_later) && !client.plan.clean {
                client.known_at = client.known_at.min(self.now);
            }
        }
        for subscription in &mut self.ledger.subscriptions {
            subscription.firm_at = subscription.firm_at.min(self.now);
        }
    }
}

fn address(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(server + 1).unwrap()], 1883))
}

fn server_of(addr: SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(addr) => usize::from(addr.ip().octets()[3]) - 1,
        SocketAddr::V6(_) => unreachable!("no such address was given"),
    }
}
