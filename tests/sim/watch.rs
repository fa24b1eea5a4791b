//! Watches the gateway while it runs: its log, its figures, its manners on the wire, and a hash of
//! everything that happens, by which two runs are compared.

use crate::client::{Client, State};
use crate::ledger::{Dest, Doubt, Given, Ledger};
use crate::plan::Plan;
use crate::world::{Peer, Wire, World};
use spillway::gateway::Gateway;
use spillway::note::Note;
use spillway::vocab::Instant;
use std::collections::BTreeMap;

/// A PINGRESP may take this long beside the network and the disk.
const PING_US: u64 = 5_000_000;

/// A pair of events: what begins is over in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    Bridge,
    Spill,
    Pressure,
}

/// Who is at the other ends.
pub struct Peers<'a> {
    pub clients: &'a [Client],
    pub wires: &'a [Wire],
}

pub struct Watch {
    hash: u64,
    ring_bytes: u64,
    /// What has begun and is not over, by kind and name.
    pub open: BTreeMap<(Pair, String), u64>,
    failover: bool,
    /// Destinations as the log calls them.
    names: Vec<(String, Dest)>,
    run: u32,
    pub log_bytes: u64,
    pub log_lines: u64,
    pub events: BTreeMap<&'static str, u64>,
    pub ring_most: u64,
    /// Messages in quarantine.
    pub set_aside: u64,
    pub commits: u64,
}

impl Watch {
    pub fn new(plan: &Plan) -> Self {
        let bridges = plan.bridges.iter().map(|bridge| &bridge.name).zip((0..).map(Dest::Bridge));
        let clients = plan.clients.iter().map(|client| &client.name).zip((0..).map(Dest::Session));
        let names = bridges.chain(clients).map(|(name, dest)| (name.clone(), dest));
        Self {
            hash: 0xCBF2_9CE4_8422_2325,
            ring_bytes: plan.ring_bytes,
            open: BTreeMap::new(),
            names: names.collect(),
            failover: plan.bridges.iter().any(|bridge| bridge.servers.len() > 1),
            run: 0,
            log_bytes: 0,
            log_lines: 0,
            events: BTreeMap::new(),
            ring_most: 0,
            set_aside: 0,
            commits: 0,
        }
    }

    /// A new process: it knows nothing of what the last one began.
    pub fn born(&mut self, run: u32) {
        self.run = run;
        self.open.clear();
    }

    /// The run so far, in one word.
    pub fn digest(&self) -> u64 {
        self.hash
    }

    pub fn trace(&mut self, now: u64, kind: u8, bytes: &[u8]) {
        let words = now.to_le_bytes();
        for byte in words.iter().chain([&kind]).chain(bytes) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    pub fn commit(&mut self, now: u64, commits: u64) {
        if commits != self.commits {
            self.commits = commits;
            self.trace(now, 5, &commits.to_le_bytes());
        }
    }

    pub fn ping(&mut self, now: u64, ledger: &mut Ledger, client: &mut Client, wire: &Wire) {
        let late = std::mem::take(&mut client.ping_late_us);
        // Nothing is read of one whose buffer is full of messages that wait for room.
        let held = wire.held_at + late >= now;
        if late > PING_US && !wire.disturbed && !held {
            let text = format!("{} waited {} ms for PINGRESP", client.plan.name, late / 1000);
            ledger.violate("keepalive", text);
        }
    }

    pub fn silence(&mut self, ledger: &mut Ledger, remote: usize, silent: bool) {
        if silent {
            ledger.violate("keepalive", format!("the gateway was silent towards remote {remote}"));
        }
    }

    /// Memory under the plan, at every turn.
    pub fn figures(&mut self, ledger: &mut Ledger, gateway: &Gateway, now: Instant) {
        if let Note::Stats { ring_msgs, ring_cap, ring_bytes, .. } = gateway.stats(now) {
            self.ring_most = self.ring_most.max(ring_bytes);
            if ring_msgs > ring_cap || ring_bytes > self.ring_bytes {
                let text = format!("{ring_msgs} of {ring_cap} messages, {ring_bytes} bytes");
                ledger.violate("memory", text);
            }
        }
    }

    /// A line of the log.
    pub fn note(&mut self, now: u64, note: &Note, ledger: &mut Ledger, peers: &Peers<'_>) {
        let text = note.to_string();
        self.trace(now, 6, text.as_bytes());
        self.log_bytes += text.len() as u64;
        self.log_lines += 1;
        *self.events.entry(note.event()).or_insert(0) += 1;
        ledger.tell(|| text.clone());
        self.account(note, ledger);
        match note {
            Note::BridgeUp { bridge, .. } => {
                let up = self.open.insert((Pair::Bridge, bridge.to_string()), now).is_some();
                if up && !self.failover {
                    ledger.violate("notes", format!("{bridge} is up twice"));
                }
            }
            Note::BridgeDown { bridge, .. } => {
                self.open.remove(&(Pair::Bridge, bridge.to_string()));
            }
            Note::SpillStarted { destination, .. } => {
                let key = (Pair::Spill, destination.to_string());
                if self.open.insert(key, now).is_some() {
                    ledger.violate("notes", format!("{destination} spills twice"));
                }
            }
            Note::SpillDrained { destination, .. } => {
                let key = (Pair::Spill, destination.to_string());
                if self.open.remove(&key).is_none() && self.run == 1 {
                    ledger.violate("notes", format!("{destination} drained what never spilled"));
                }
            }
            Note::BackpressureOn { destination, .. } => {
                let key = (Pair::Pressure, destination.to_string());
                if self.open.insert(key, now).is_some() {
                    ledger.violate("notes", format!("{destination} blocks twice"));
                }
            }
            Note::BackpressureOff { destination, .. } => {
                let key = (Pair::Pressure, destination.to_string());
                if self.open.remove(&key).is_none() {
                    ledger.violate("notes", format!("{destination} unblocks unblocked"));
                }
            }
            Note::ClientDisconnected { client, addr, reason, .. }
                if reason.as_str() == "keepalive_timeout" =>
            {
                let host = addr.ip().to_string();
                let host = host.rsplit('.').next().and_then(|host| host.parse::<usize>().ok());
                let Some(at) = host.map(|at| at - 1) else { return };
                let disturbed =
                    peers.wires.iter().any(|wire| wire.disturbed && wire.peer == Peer::Client(at));
                // One that was not greeted, for the disk was full, does not ping yet.
                let greeted = !matches!(peers.clients[at].state, State::Connecting { .. });
                if greeted
                    && !disturbed
                    && !client.starts_with("foe")
                    && !client.starts_with("deaf")
                {
                    ledger.violate("keepalive", format!("{client} was turned out, not silent"));
                }
            }
            _ => {}
        }
    }

    /// What a line says of messages that are given up.
    pub fn account(&mut self, note: &Note, ledger: &mut Ledger) {
        let given = match note {
            Note::Drop { reason, destination, count, .. } => {
                (destination.to_string(), (*reason).to_string(), *count)
            }
            // The settled bits of a slot are gone with its row: all of it goes out again.
            Note::Qos2InDoubt { bridge, count, reason: "slot_row_lost" } if ledger.damaged > 0 => {
                if let Some((_, dest)) = self.names.iter().find(|(name, _)| name == bridge.as_str())
                {
                    ledger.doubts.push(Doubt { dest: *dest, window: *count });
                }
                return;
            }
            Note::Quarantined { destination, reason, count, .. } => {
                self.set_aside += count;
                (destination.to_string(), reason.to_string(), *count)
            }
            _ => return,
        };
        let (destination, reason, count) = given;
        ledger.given.push(Given { destination, reason, count });
    }

    /// The gateway has nothing left but what it keeps aside.
    pub fn is_empty(&self, world: &World) -> bool {
        let Some(gateway) = &world.gateway else { return false };
        let Note::Stats { ring_msgs, store_msgs, inflight, .. } = gateway.stats(world.core_now())
        else {
            return false;
        };
        ring_msgs <= self.set_aside.try_into().unwrap_or(u32::MAX)
            && store_msgs <= self.set_aside
            && inflight == 0
    }
}
