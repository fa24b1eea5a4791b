//! The thin shell around the core: sockets, names, signals, the clock and the log, in one loop.
//!
//! A turn: poll until the earliest deadline, one clock reading for the core, accept, read and
//! present, deadlines, one flush, write, work the core asks for, notes. Commits come before the
//! bytes they allow. Decides nothing about MQTT, never blocks but in the store.
//!
//! A slow disk: a turn does one slow thing with it, a commit or house-keeping; what needs no disk
//! is written before that, and turns without the disk follow. Time away from the sockets is held
//! against nobody (`away`).

mod away;
mod budget;
mod buffers;
pub mod clock;
mod conn;
mod core;
mod disk;
mod figures;
mod holder;
mod links;
mod listeners;
pub mod logging;
mod network;
mod places;
mod preflight;
mod probes;
mod reload;
mod resolver;
mod signals;
mod socket;
pub mod sqlite;
mod stats;
mod system;
mod throttle;
mod transport;

#[cfg(test)]
mod tests;

pub use self::buffers::memory_bytes;
pub use self::core::Core;
pub use self::holder::Holder;
pub use self::listeners::BindError;
pub use self::preflight::{Preflight, preflight};
pub use self::resolver::Paths;
pub use self::signals::hold_reload;
pub use self::system::program_bytes;

use crate::config::{Bridge, Config, Server};
use crate::gateway::verbs::{Action, Event};
use crate::note::{Note, text};
use crate::queue::store::SpillStore;
use crate::vocab::{BridgeId, ConnId, Instant};
use ::core::fmt;
use ::core::time::Duration;
use away::Away;
use clock::{Clock, WallWatch};
use figures::Figures;
use links::Links;
use listeners::{ADDRS_A_LISTENER, Listeners};
use logging::Logging;
use mio::{Events, Poll, Token};
use network::Network;
use probes::Probes;
use resolver::{Answer, Resolver};
use signals::{Signal, Signals};
use std::io;
use transport::Transport;

/// Readiness events taken from the system at once; the rest comes with the next turn.
const EVENTS_A_TURN: usize = 256;

/// Rounds of actions and their immediate answers a turn; the rest waits for the next.
const ACTION_ROUNDS_A_TURN: usize = 8;
const ACTIONS_A_ROUND: usize = 64;

/// Notes written a turn; the core keeps fewer.
const NOTES_A_TURN: usize = 1024;

/// Quiet that makes the store's house-keeping worth its time.
const IDLE_AFTER: Duration = Duration::from_millis(200);

/// A stop that takes longer ends the process the hard way.
const STOP_SECONDS_MAX: u32 = 5;

/// Why the loop could not be made.
#[derive(Debug)]
pub enum StartError {
    Bind(BindError),
    Io(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Io(what, error) => write!(f, "cannot set up {what}: {error}"),
        }
    }
}

/// What the shell needs to know of a bridge.
#[derive(Debug, Default, PartialEq, Eq)]
struct Target {
    servers: Vec<Server>,
    interface: Option<String>,
    connect_timeout: Duration,
    keepalive: Duration,
}

impl Target {
    fn of(bridge: &Bridge) -> Self {
        Self {
            servers: bridge.servers.clone(),
            interface: bridge.bind_interface.clone(),
            connect_timeout: bridge.connect_timeout,
            keepalive: bridge.keepalive,
        }
    }
}

/// Where each kind of poll token begins; connections come last.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    listeners: usize,
    resolver: usize,
    probes: usize,
    links: usize,
}

const SIGNALS: usize = 0;
const NETWORK: usize = 1;

#[derive(Debug)]
pub struct EventLoop<C, S> {
    core: C,
    store: Option<S>,
    clock: Clock,
    poll: Poll,
    events: Events,
    tokens: Tokens,
    targets: Box<[Target]>,
    signals: Signals,
    network: Network,
    source: reload::Source,
    listeners: Listeners,
    links: Links,
    resolver: Resolver,
    probes: Probes,
    logging: Logging,
    figures: Figures,
    away: Away,
    wall: WallWatch,
    /// The store rests until then.
    rest_until: Instant,
    /// Until then the store counts as slow.
    slow_until: Instant,
    stats_interval: Option<Duration>,
    stats_at: Instant,
    /// From here on something that has changed is worth the lines before their time.
    stats_changed_at: Instant,
    /// When quiet has lasted long enough for house-keeping; NEVER once it is done.
    idle_at: Instant,
    /// The last turn left work that needs no event.
    busy: bool,
    stopping: bool,
    /// Messages lost, once the core has stopped.
    exit: Option<u64>,
    /// The store turned out to be damaged.
    damaged: bool,
    maintain_at: Instant,
    watch: disk::Watch,
}

impl<C: Core, S: SpillStore> EventLoop<C, S> {
    /// Opens the listeners and allocates everything. `clock` is the one the core was restored
    /// with, `paths` say where names are looked up, `seed` is entropy.
    pub fn new(
        config: &Config,
        core: C,
        store: Option<S>,
        clock: Clock,
        mut logging: Logging,
        paths: Paths,
        seed: u64,
    ) -> Result<Self, StartError> {
        let poll = Poll::new().map_err(|error| StartError::Io("the poll", error))?;
        let registry = poll.registry();
        let signals = Signals::open()
            .and_then(|signals| signals.register(registry, Token(SIGNALS)).map(|()| signals))
            .map_err(|error| StartError::Io("signals", error))?;
        let bridges = config.bridge_room();
        let listeners = NETWORK + 1;
        let resolver = listeners + config.listeners.len() * ADDRS_A_LISTENER;
        let probes = resolver + Resolver::tokens(2 * bridges);
        let tokens = Tokens { listeners, resolver, probes, links: probes + bridges };
        let listeners = Listeners::bind(config, &paths, registry, tokens.listeners)
            .map_err(StartError::Bind)?;
        let now = clock.now();
        for (listener, addr) in listeners.addrs() {
            let name = config.listeners.get(usize::from(listener)).map_or("", |l| &l.name);
            logging.note(now, &Note::Listening { listener: text(name), addr });
        }
        logging.know_bridges(config.bridges.iter().map(|bridge| bridge.name.as_str()));
        let mut targets: Vec<Target> = config.bridges.iter().map(Target::of).collect();
        targets.resize_with(bridges, Target::default);
        Ok(Self {
            core,
            store,
            clock,
            events: Events::with_capacity(EVENTS_A_TURN),
            tokens,
            targets: targets.into_boxed_slice(),
            signals,
            network: Network::open(poll.registry(), Token(NETWORK)),
            source: reload::Source::default(),
            listeners,
            links: Links::new(config, tokens.links),
            resolver: Resolver::new(paths, 2 * bridges, tokens.resolver, seed),
            probes: Probes::new(bridges, tokens.probes),
            logging,
            figures: Figures::new(),
            away: Away::default(),
            wall: WallWatch::default(),
            rest_until: Instant::ZERO,
            slow_until: Instant::ZERO,
            stats_interval: config.stats_interval,
            stats_at: stats::first(now, config.stats_interval),
            stats_changed_at: now,
            idle_at: now.plus(IDLE_AFTER),
            busy: true,
            stopping: false,
            exit: None,
            damaged: false,
            maintain_at: now,
            watch: disk::Watch::new(now),
            poll,
        })
    }

    /// Ended because the store is damaged: a new loop over a new store goes on.
    pub fn is_store_damaged(&self) -> bool {
        self.damaged
    }

    /// The log, for the next loop, and the store, to be looked at.
    pub fn into_parts(self) -> (Logging, Option<S>) {
        (self.logging, self.store)
    }

    /// Turns until the core has stopped, or the store is damaged; the exit status of the process.
    pub fn run(&mut self) -> u8 {
        while self.exit.is_none() && !self.damaged {
            if let Err(error) = self.turn() {
                log::error!(target: "spillway::loop", "event=poll_failed reason={}",
                    crate::note::Value(&error.to_string()));
                self.exit = Some(1);
            }
        }
        if !self.damaged {
            self.bring_store_back();
            if let Some(store) = &mut self.store {
                store.close(self.core.stock());
            }
            self.logging.finish();
        }
        u8::from(self.exit != Some(0))
    }

    /// One turn. An error is one of the poll itself, which nothing can mend.
    pub fn turn(&mut self) -> io::Result<()> {
        let slept_at = self.clock.now();
        let wanted = if self.busy { Duration::ZERO } else { self.poll_at().since(slept_at) };
        let timeout = (wanted < POLL_MAX).then_some(wanted);
        let polled = self.poll.poll(&mut self.events, timeout);
        let now = self.clock.now();
        match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.away.missed(now),
            other => other?,
        }
        let slept = now.since(slept_at);
        let late = timeout.map_or(Duration::ZERO, |timeout| slept.saturating_sub(timeout));
        self.away.begin(now, late.max(self.figures.since_begin(slept_at)));
        self.figures.begin(now, late);
        self.look_at_wall(now);
        if !self.events.is_empty() {
            self.idle_at = now.plus(IDLE_AFTER);
        }

        self.dispatch(now);
        self.look_at_network(now);
        let Self { poll, listeners, links, core, logging, .. } = self;
        listeners.accept_all(now, poll.registry(), links, core, logging);
        links.read_all(now, core);
        self.lap("receive");
        self.expire(now);
        self.lap("expire");
        if now < self.slow_until {
            self.transmit(now);
        }
        let now = self.use_store(now);
        self.transmit(now);
        self.links.acknowledge(now, slept, &self.core);
        self.busy = self.act(now);
        self.busy |= self.resume(now);
        self.collect_ready();
        self.busy |= self.links.is_busy() || self.network.is_busy();
        self.lap("actions");
        // A stop goes on: what the store has is there for the next start.
        self.damaged = !self.stopping && (self.damaged || self.core.is_store_damaged());
        self.write_notes(now);
        self.lap("log");
        if let Some(note) = self.figures.end() {
            self.logging.note(now, &note);
        }
        Ok(())
    }

    fn look_at_wall(&mut self, now: Instant) {
        let wall_s = clock::wall();
        self.core.set_wall(wall_s);
        if let Some((from_s, to_s)) = self.wall.look(now, wall_s) {
            self.core.wall_jumped();
            self.logging.note(now, &Note::ClockJump { from_s, to_s });
        }
    }

    fn lap(&mut self, part: &'static str) {
        self.figures.lap(self.clock.now(), part);
    }

    /// The earliest of everybody's deadlines.
    fn poll_at(&self) -> Instant {
        [
            self.core.poll_at(),
            self.links.poll_at(),
            self.links.prompt_at(),
            self.listeners.poll_at(),
            self.resolver.poll_at(),
            self.probes.poll_at(),
            self.logging.poll_at(),
            self.stats_at,
            // House-keeping waits for the store's rest, too.
            self.idle_at.max(self.rest_until),
            self.look_at(),
        ]
        .into_iter()
        .min()
        .unwrap_or(Instant::NEVER)
    }

    /// Remembers readiness, answers what can be answered without bytes.
    fn dispatch(&mut self, now: Instant) {
        let tokens = self.tokens;
        let registry = self.poll.registry();
        let mut signalled = false;
        for event in &self.events {
            let Token(token) = event.token();
            if token >= tokens.links {
                self.links.event(now, token - tokens.links, event, &mut self.core);
            } else if token >= tokens.probes {
                let at = token - tokens.probes;
                let interface = self.targets.get(at).and_then(|t| t.interface.as_deref());
                self.probes.event(now, registry, at, interface, &mut self.core);
            } else if token >= tokens.resolver {
                self.resolver.ready(now, registry, token - tokens.resolver);
            } else if token >= tokens.listeners {
                self.listeners.event(token - tokens.listeners);
            } else if token == NETWORK {
                self.network.event();
            } else {
                signalled = true;
            }
        }
        if signalled {
            self.take_signals(now);
        }
    }

    fn take_signals(&mut self, now: Instant) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::Stop(_) if self.stopping => {}
                Signal::Stop(signal) => {
                    self.stopping = true;
                    self.watch.now();
                    self.listeners.close();
                    signals::guard_stop(STOP_SECONDS_MAX);
                    self.core.handle(now, Event::Stop { signal });
                }
                Signal::Reload => self.read_again(now),
            }
        }
    }

    /// Judges what is late, once everything that came in time was read.
    fn expire(&mut self, now: Instant) {
        let behind = self.links.is_reading() || self.events.iter().count() >= EVENTS_A_TURN;
        if !self.away.is_over(now, behind) && !self.stopping {
            return;
        }
        self.core.expire(now);
        self.links.expire(now, &mut self.core);
        self.probes.expire(now, &mut self.core);
        self.resolver.expire(now, self.poll.registry());
    }

    fn transmit(&mut self, now: Instant) {
        self.collect_ready();
        self.links.write_all(now, &mut self.core);
        self.lap("transmit");
    }

    fn collect_ready(&mut self) {
        while let Some(id) = self.core.poll_ready() {
            self.links.ready(id);
        }
    }

    /// Does what the core asks for; `true` = it may have more to say or to send now.
    fn act(&mut self, now: Instant) -> bool {
        let mut acted = false;
        for _ in 0..ACTION_ROUNDS_A_TURN {
            let mut quiet = true;
            for _ in 0..ACTIONS_A_ROUND {
                let Some(action) = self.core.poll_action() else { break };
                quiet = false;
                self.act_on(now, action);
            }
            while let Some(answer) = self.resolver.poll_answer() {
                quiet = false;
                self.deliver(now, &answer);
            }
            if quiet {
                break;
            }
            acted = true;
        }
        acted
    }

    fn act_on(&mut self, now: Instant, action: Action) {
        match action {
            Action::Resolve { bridge, server } => {
                if !self.look_up(now, bridge, server, 2 * usize::from(bridge.0)) {
                    let event = Event::Resolved { bridge, addrs: &[], reason: "no_server" };
                    self.core.handle(now, event);
                }
            }
            Action::CancelResolve { bridge } => {
                if usize::from(bridge.0) < self.targets.len() {
                    self.resolver.cancel(2 * usize::from(bridge.0));
                }
            }
            Action::Dial { conn, bridge, addr } => {
                let transport =
                    Transport::dial(addr, self.interface(bridge), self.keepalive(bridge));
                self.take_in(now, conn, transport);
            }
            Action::Close { conn, after_flush, deadline } => {
                self.links.close(now, conn, after_flush, deadline, &mut self.core);
            }
            Action::Probe { bridge, server } => {
                let at = usize::from(bridge.0);
                if self.look_up(now, bridge, server, 2 * at + 1) {
                    let span = self.targets.get(at).map_or(Duration::ZERO, |t| t.connect_timeout);
                    self.probes.begin(bridge, now.plus(span));
                } else {
                    self.core.handle(now, Event::Probed { bridge, ok: false });
                }
            }
            Action::Measure { conn } => {
                if let Some(bytes) = self.links.outstanding(conn) {
                    self.core.handle(now, Event::Outstanding { conn, bytes });
                }
            }
            Action::Reloaded => self.reloaded(now),
            Action::Exit { lost } => self.exit = Some(lost),
        }
    }

    fn keepalive(&self, bridge: BridgeId) -> Duration {
        self.targets.get(usize::from(bridge.0)).map_or(Duration::ZERO, |target| target.keepalive)
    }

    fn interface(&self, bridge: BridgeId) -> Option<&str> {
        self.targets.get(usize::from(bridge.0))?.interface.as_deref()
    }

    fn take_in(&mut self, now: Instant, conn: ConnId, transport: io::Result<Transport>) {
        let taken = self.links.insert(self.poll.registry(), conn, transport, true);
        if let Err(reason) = taken {
            self.core.handle(now, Event::Closed { conn, reason });
        }
    }

    /// Asks for the address of a server; `false` = there is no such server.
    fn look_up(&mut self, now: Instant, bridge: BridgeId, server: u16, key: usize) -> bool {
        let Some(target) = self.targets.get(usize::from(bridge.0)) else { return false };
        let Some(server) = target.servers.get(usize::from(server)) else { return false };
        let interface = target.interface.as_deref();
        let registry = self.poll.registry();
        self.resolver.resolve(now, registry, key, &server.host, server.port, interface);
        true
    }

    fn deliver(&mut self, now: Instant, answer: &Answer) {
        let Ok(bridge) = u16::try_from(answer.key / 2).map(BridgeId) else { return };
        if answer.key.is_multiple_of(2) {
            let Answer { addrs, reason, .. } = answer;
            self.core.handle(now, Event::Resolved { bridge, addrs, reason });
            return;
        }
        let interface =
            self.targets.get(usize::from(bridge.0)).and_then(|t| t.interface.as_deref());
        let registry = self.poll.registry();
        self.probes.resolved(now, registry, bridge, &answer.addrs, interface, &mut self.core);
    }

    /// Presents again what the core can take now; `true` = it took something.
    fn resume(&mut self, now: Instant) -> bool {
        let mut resumed = false;
        for _ in 0..self.links.count() {
            let Some(id) = self.core.poll_resume() else { break };
            resumed = true;
            self.links.resume(now, id, &mut self.core);
        }
        resumed
    }

    fn write_notes(&mut self, now: Instant) {
        for _ in 0..NOTES_A_TURN {
            let Some(note) = self.core.poll_note() else { break };
            if matches!(note, Note::Stopped { .. }) {
                // So that it is the last line.
                self.logging.sum_up();
            }
            if stats::is_change(&note) {
                self.stats_at = self.stats_at.min(self.stats_changed_at.max(now));
            }
            self.logging.note(now, &note);
        }
        if now >= self.stats_at {
            self.write_stats(now);
        }
        self.logging.turn(now);
    }
}

/// Longer waits have no limit at all.
const POLL_MAX: Duration = Duration::from_secs(24 * 3600);
