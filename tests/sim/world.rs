//! The world: one gateway, its disk, its clients, its remotes and the network between them, in
//! virtual time. A step jumps to whatever happens next. All chance comes from the plan's seed.

use crate::chaos::Chaos;
use crate::check::{self, fairness::Fair};
use crate::client::{Client, Firm, Manners, State, Wish};
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::net::{End, NEVER, Pipe, Read};
use crate::plan::{Family, MINUTE, Plan};
use crate::remote::{Facts, Remote};
use crate::session::Session;
use crate::shell::Shell;
use crate::watch::Watch;
use spillway::config;
use spillway::gateway::Gateway;
use spillway::queue::store::SpillStore;
use spillway::vocab::{Instant, Rng};

/// More turns than this in a second of virtual time are a loop that does not rest: nobody sends
/// more than 5000 packets in one.
const TURNS_A_SECOND_MAX: u64 = 20_000;

/// Whom a connection of the gateway goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Client(usize),
    Remote(usize),
}

/// One connection.
pub struct Wire {
    pub peer: Peer,
    /// To the gateway, to the peer.
    pub up: Pipe,
    pub down: Pipe,
    /// The gateway's end; `None` before it is there and once it is gone.
    pub shell: Option<Shell>,
    /// The peer's end stands.
    pub peer_open: bool,
    /// When a dialled or accepted connection stands.
    pub opens_at: u64,
    /// The network did something to it: time-outs say nothing about the gateway.
    pub disturbed: bool,
    /// When the gateway last read nothing of it because its buffer was full.
    pub held_at: u64,
    /// The peer closes it once what it said has left.
    pub finishing: bool,
}

impl Wire {
    /// Does the gateway hold it for this client?
    pub fn is_at_gateway(&self, client: usize) -> bool {
        self.peer == Peer::Client(client) && self.shell.is_some()
    }

    fn is_dead(&self) -> bool {
        !self.peer_open && self.shell.is_none() && self.opens_at == 0
    }
}

pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub rng: Rng,
    pub disk: Disk,
    pub gateway: Option<Gateway>,
    /// When the gateway's process began.
    pub born: u64,
    pub clients: Vec<Client>,
    pub remotes: Vec<Remote>,
    pub wires: Vec<Wire>,
    pub ledger: Ledger,
    pub chaos: Chaos,
    pub watch: Watch,
    pub fair: Fair,
    /// Answers of the name server: bridge, when, address of a server or none.
    pub names: Vec<(u16, u64, Option<usize>)>,
    pub probes: Vec<(u16, u64, bool)>,
    pub wall_s: u64,
    /// The gateway has more to do at once.
    pub busy: bool,
    pub turns: u64,
    pub runs: u32,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ 7);
        let clients = plan.clients.iter().enumerate();
        let clients = clients
            .map(|(at, client)| Client::new(at, client.clone(), Rng::new(rng.next_u64())))
            .collect();
        let remotes = plan.remotes.iter().enumerate();
        let remotes = remotes
            .map(|(at, remote)| Remote::new(at, remote.clone(), Rng::new(rng.next_u64())))
            .collect();
        let disk = Disk::new(plan.slots, Rng::new(rng.next_u64()));
        let chaos = Chaos::new(&plan, Rng::new(rng.next_u64()));
        let watch = Watch::new(&plan);
        let fair = Fair::new(&plan);
        let mut world = Self {
            plan,
            now: 1_000_000,
            disk,
            gateway: None,
            born: 0,
            clients,
            remotes,
            wires: Vec::new(),
            ledger: Ledger::default(),
            chaos,
            watch,
            fair,
            names: Vec::new(),
            probes: Vec::new(),
            wall_s: 1_750_000_000,
            busy: true,
            turns: 0,
            runs: 0,
            rng,
        };
        world.ledger.verbose = std::env::var_os("SPILLWAY_SIM_LOG").is_some();
        let hostile = |client: &Client| client.plan.manners.is_wild();
        world.ledger.noisy = world.clients.iter().any(hostile);
        crate::fairness::begin(&mut world);
        world.boot();
        world
    }

    /// The process starts, as `main` does it.
    pub fn boot(&mut self) {
        let load = config::load("sim", &self.plan.config, &mut |_| Err(String::new()), "sim");
        let (config, _) = match load {
            Ok(loaded) => loaded,
            Err(errors) => panic!("the plan's configuration: {errors:?}\n{}", self.plan.config),
        };
        self.born = self.now;
        self.runs += 1;
        let slots = self.disk.slot_count_max();
        let mut gateway = Gateway::new(config, self.rng.next_u64(), slots, self.core_now());
        gateway.set_wall(self.wall_s);
        let restored = gateway.restore(self.core_now(), &mut self.disk);
        self.busy = true;
        self.watch.born(self.runs);
        if restored.is_err() {
            // The process ends; init starts it again.
            self.chaos.restarts_at = self.now + 1_000_000;
            return;
        }
        self.gateway = Some(gateway);
    }

    /// The process is gone. Its kernel may still send what was written, or not even a word.
    pub fn crash(&mut self, silent: bool) {
        self.settle_accounts();
        self.gateway = None;
        self.ledger.deaths.push(self.now);
        self.disk.crash();
        self.names.clear();
        self.probes.clear();
        for wire in &mut self.wires {
            if wire.shell.take().is_none() && wire.opens_at == 0 {
                continue;
            }
            if silent {
                wire.disturbed = true;
                wire.down.stalled_until = NEVER;
            } else if self.rng.below(2) == 0 {
                wire.down.finish(self.now + 100, End::Finished);
            } else {
                wire.down.finish(self.now + 100, End::Reset);
            }
            wire.opens_at = 0;
        }
        self.chaos.restarts_at = self.now + 10_000 + self.rng.below(20_000_000);
    }

    /// The gateway's own clock: it starts anew with each process.
    pub fn core_now(&self) -> Instant {
        Instant::from_micros(Instant::START.as_micros() + self.now - self.born)
    }

    pub fn world_time(&self, at: Instant) -> u64 {
        if at == Instant::NEVER {
            return NEVER;
        }
        (at.as_micros().saturating_sub(Instant::START.as_micros())).saturating_add(self.born)
    }

    /// Faults, then quiet until everything is drained, then what the checkers find.
    pub fn run(&mut self) {
        let end = self.now + self.plan.safety_us;
        self.run_until(end, false);
        self.finish();
    }

    /// Quiet until everything is drained.
    pub fn finish(&mut self) {
        self.calm();
        if self.plan.family == Family::Refusing {
            // What a remote does not like holds up nothing that it does.
            // Each that is never acknowledged takes two acknowledgement timeouts and more.
            let limit = self.now + 240 * MINUTE;
            self.run_until(limit, true);
            if !check::has_all_it_takes(self) {
                let text = self.what_is_left();
                self.ledger.violate("wedge", text);
            }
            self.remotes.iter_mut().for_each(|remote| remote.tolerant = true);
        }
        let limit = self.now + 20 * MINUTE;
        self.run_until(limit, true);
        if !self.is_drained() {
            let text = self.what_is_left();
            self.ledger.violate("liveness", text);
        }
        // The last lazy writes, and the log's sums.
        let end = self.now + 7_000_000;
        self.run_until(end, false);
    }

    pub fn run_until(&mut self, end: u64, until_drained: bool) {
        let mut looked_at = self.now;
        let mut second = (self.now / 1_000_000, self.turns);
        while self.now < end && self.ledger.violations.is_empty() {
            let at = self.next_at().max(self.now).min(end);
            self.now = at;
            self.step();
            if until_drained && self.now >= looked_at + 250_000 {
                looked_at = self.now;
                let refusing = self.remotes.iter().any(|remote| !remote.tolerant)
                    && self.plan.family == Family::Refusing;
                if self.is_drained() || refusing && check::has_all_it_takes(self) {
                    return;
                }
            }
            let (at, before) = second;
            if self.turns - before > TURNS_A_SECOND_MAX {
                let text = format!("{} turns in second {at}", self.turns - before);
                return self.ledger.violate("rest", text);
            }
            if self.now / 1_000_000 != at {
                second = (self.now / 1_000_000, self.turns);
            }
        }
    }

    fn next_at(&self) -> u64 {
        let mut at = self.chaos.next_at();
        for client in &self.clients {
            at = at.min(client.next_at());
        }
        for remote in &self.remotes {
            at = at.min(remote.next_at());
        }
        for wire in &self.wires {
            if wire.peer_open {
                at = at.min(wire.down.next_at());
            }
        }
        at.min(self.gateway_at())
    }

    fn step(&mut self) {
        self.ledger.now = self.now;
        self.act_chaos();
        for at in 0..self.clients.len() {
            let now = self.now;
            if self.clients[at].next_at() <= now {
                self.clients[at].tick(now, &mut self.ledger);
            }
            self.obey(at);
        }
        for remote in &mut self.remotes {
            if remote.next_at() <= self.now {
                remote.tick(self.now, &mut self.ledger);
            }
        }
        self.read_peers();
        self.pump();
        self.turn();
        self.pump();
        self.watch_fairness();
    }

    /// What a client wants of its connection.
    fn obey(&mut self, at: usize) {
        let wish = std::mem::replace(&mut self.clients[at].wish, Wish::Nothing);
        match wish {
            Wish::Nothing => {}
            Wish::Connect => self.open_client(at),
            Wish::Finish => {
                if let Some(line) = &self.clients[at].line {
                    self.wires[line.wire].finishing = true;
                }
            }
            Wish::Abort => self.abort_client(at),
        }
    }

    fn open_client(&mut self, at: usize) {
        let latency = self.latency();
        let wire = self.lay_wire(Peer::Client(at), latency);
        let client = &mut self.clients[at];
        if client.plan.manners == Manners::NeverReads && !client.calm {
            self.wires[wire].down.deaf_after = Some(200);
        }
        client.connected(wire, self.now, &mut self.ledger);
    }

    /// A wire that nobody uses any more, or a new one.
    pub fn lay_wire(&mut self, peer: Peer, latency: u64) -> usize {
        let wire = Wire {
            peer,
            up: Pipe::default(),
            down: Pipe::default(),
            shell: None,
            peer_open: matches!(peer, Peer::Client(_)),
            opens_at: self.now + latency,
            disturbed: false,
            held_at: 0,
            finishing: false,
        };
        match self.wires.iter().position(Wire::is_dead) {
            Some(at) => {
                self.wires[at] = wire;
                at
            }
            None => {
                self.wires.push(wire);
                self.wires.len() - 1
            }
        }
    }

    /// The client's process is gone, or it has had enough.
    pub fn abort_client(&mut self, client: usize) {
        for wire in &mut self.wires {
            if wire.peer == Peer::Client(client) && wire.peer_open {
                wire.peer_open = false;
                wire.up.finish(self.now + 1000, End::Reset);
                if wire.shell.is_none() {
                    wire.opens_at = 0;
                }
                if self.clients[client].ping_late_us > 0 {
                    let client = &mut self.clients[client];
                    self.watch.ping(self.now, &mut self.ledger, client, wire);
                }
            }
        }
    }

    fn read_peers(&mut self) {
        for at in 0..self.wires.len() {
            // Bounded: what one wire has in its pipe.
            while self.wires[at].peer_open {
                let wire = &mut self.wires[at];
                let peer = wire.peer;
                match wire.down.read(self.now, 4096, &mut self.rng) {
                    Read::Nothing => break,
                    Read::Bytes(bytes) => {
                        self.watch.trace(self.now, 1, &bytes);
                        self.peer_reads(peer, at, &bytes);
                    }
                    Read::End(_) => {
                        self.wires[at].peer_open = false;
                        self.wires[at].up.finish(self.now + 100, End::Finished);
                        match peer {
                            Peer::Client(client) => self.clients[client].gone(self.now),
                            Peer::Remote(remote) => self.remotes[remote].gone(at),
                        }
                    }
                }
            }
        }
    }

    fn peer_reads(&mut self, peer: Peer, at: usize, bytes: &[u8]) {
        let Self { clients, remotes, ledger, plan, watch, disk, wires, .. } = self;
        match peer {
            Peer::Client(client) => {
                let firm = if disk.failing { Firm::Later } else { Firm::Now };
                clients[client].receive(self.now, bytes, ledger, firm);
                if clients[client].ping_late_us > 0 {
                    watch.ping(self.now, ledger, &mut clients[client], &wires[at]);
                }
            }
            Peer::Remote(remote) => {
                let mut facts = Facts { plan, ledger, commits: disk.commits };
                remotes[remote].receive(self.now, at, bytes, &mut facts);
            }
        }
    }

    /// Moves what the peers said into their pipes; closes what is over.
    fn pump(&mut self) {
        for at in 0..self.wires.len() {
            if !self.wires[at].peer_open {
                continue;
            }
            let latency = self.latency();
            let arrives = self.now + latency;
            let wire = &mut self.wires[at];
            let (mut over, mut reset) = (false, false);
            let line = match wire.peer {
                Peer::Client(client) => self.clients[client].line.as_mut(),
                Peer::Remote(remote) => {
                    let link = self.remotes[remote].links.iter_mut().find(|l| l.line.wire == at);
                    over = link.as_ref().is_none_or(|link| link.over);
                    reset = link.as_ref().is_some_and(|link| link.reset);
                    link.map(|link| &mut link.line)
                }
            };
            let Some(line) = line.filter(|line| line.wire == at) else {
                // Its owner has forgotten it.
                wire.peer_open = false;
                wire.up.finish(arrives, End::Reset);
                continue;
            };
            let take = line.out.len().min(wire.up.room());
            if take > 0 {
                wire.up.write(arrives, &line.out[..take]);
                line.out.drain(..take);
                line.said_at = self.now;
            }
            if line.out.is_empty() && (over || wire.finishing) {
                wire.peer_open = false;
                wire.up.finish(arrives, if reset { End::Reset } else { End::Finished });
                match wire.peer {
                    Peer::Client(client) => self.clients[client].gone(self.now),
                    Peer::Remote(remote) => {
                        let silent = self.remotes[remote].silent.take() == Some(at);
                        self.watch.silence(&mut self.ledger, remote, silent && !wire.disturbed);
                        self.remotes[remote].gone(at);
                    }
                }
            }
        }
    }

    pub fn latency(&mut self) -> u64 {
        let (least, spread) = self.plan.latency_us;
        if self.chaos.calm { 200 } else { least + self.rng.below(spread) }
    }

    /// No fault from here on; everybody does what is left to do.
    fn calm(&mut self) {
        self.chaos.calm(self.now);
        self.disk.heal();
        for client in &mut self.clients {
            client.calm = true;
            if client.plan.manners == Manners::NeverReads && client.state == State::Up {
                client.give_up(self.now);
            }
        }
        for remote in &mut self.remotes {
            remote.calm = true;
            remote.listening = true;
            remote.refusing = false;
            remote.spell = None;
        }
        for at in 0..self.wires.len() {
            let wire = &mut self.wires[at];
            // One that was opened to hear nothing and is not greeted yet.
            wire.down.deaf_after = None;
            if wire.down.stalled_until == NEVER || wire.up.stalled_until == NEVER {
                // Who has no keepalive would never learn it.
                self.cut(at);
            }
            let wire = &mut self.wires[at];
            wire.down.stalled_until = 0;
            wire.up.stalled_until = 0;
        }
    }

    /// Both ends find their connection reset.
    pub fn cut(&mut self, at: usize) {
        let wire = &mut self.wires[at];
        wire.disturbed = true;
        wire.up.stalled_until = 0;
        wire.up.finish(self.now, End::Reset);
        wire.down.finish(self.now, End::Reset);
        if std::mem::take(&mut wire.peer_open) {
            match wire.peer {
                Peer::Client(client) => self.clients[client].gone(self.now),
                Peer::Remote(remote) => self.remotes[remote].gone(at),
            }
        }
    }

    /// Does a session wait for the gateway? It never hears of what a lost commit knew.
    fn waits(&self, session: &Session) -> bool {
        !session.is_idle() || !(session.received.is_empty() || self.ledger.commit_lost)
    }

    /// Everything has arrived and nobody waits for anything.
    fn is_drained(&self) -> bool {
        let clients = self.clients.iter().all(|client| {
            client.plan.manners.is_wild()
                || (client.left == 0 && !self.waits(&client.session) && client.state == State::Up)
        });
        let remotes = self.remotes.iter().all(|remote| {
            remote.left == 0
                && remote.sessions.values().all(|held| {
                    // Nobody may come for what another server has.
                    self.plan.bridges[held.bridge].servers.len() > 1 || !self.waits(&held.session)
                })
        });
        // What the greedy left behind is nobody's.
        let empty = self.plan.family == Family::Fair || self.watch.is_empty(self);
        clients && remotes && empty
    }

    pub fn what_is_left(&self) -> String {
        let mut left = Vec::new();
        for client in &self.clients {
            let (name, session) = (&client.plan.name, &client.session);
            if client.state != State::Up || client.left > 0 || self.waits(session) {
                left.push(format!(
                    "{name} {:?} left={} queue={} flight={:?} received={:?}",
                    client.state,
                    client.left,
                    session.queue.len(),
                    session.flight,
                    session.received
                ));
            }
        }
        for remote in &self.remotes {
            for (id, held) in &remote.sessions {
                if self.waits(&held.session) {
                    let session = &held.session;
                    left.push(format!(
                        "remote {} {id} queue={} flight={:?} received={:?}",
                        remote.index,
                        session.queue.len(),
                        session.flight,
                        session.received
                    ));
                }
            }
        }
        if let Some(gateway) = &self.gateway {
            left.push(gateway.stats(self.core_now()).to_string());
            let bridges = 0..u16::try_from(self.plan.bridges.len()).unwrap();
            for bridge in bridges {
                let note = gateway.stats_bridge(self.core_now(), bridge);
                left.extend(note.map(|note| note.to_string()));
            }
        }
        left.join("; ")
    }
}
