//! What goes wrong, and when it is well again. Each fault is a moment's deed or a state that ends.

use crate::disk::Death;
use crate::net::NEVER;
use crate::plan::{Fault, MINUTE, Plan};
use crate::shell::Kill;
use crate::world::World;
use spillway::queue::store::Table;
use spillway::vocab::Rng;

/// Wall clocks a router may wake up with.
const TEN_YEARS_S: u64 = 10 * 365 * 86_400;

pub struct Chaos {
    faults: Vec<Fault>,
    every_us: u64,
    next_at: u64,
    pub rng: Rng,
    pub calm: bool,
    /// When the process is started again.
    pub restarts_at: u64,
    pub kill: Option<Kill>,
    /// The process goes with its machine: no last word on any connection.
    pub dies_silently: bool,
    disk_heals_at: u64,
    remotes_heal_at: u64,
    names_heal_at: u64,
}

impl Chaos {
    pub fn new(plan: &Plan, mut rng: Rng) -> Self {
        let next_at = if plan.faults.is_empty() { NEVER } else { rng.below(plan.fault_every_us) };
        Self {
            faults: plan.faults.clone(),
            every_us: plan.fault_every_us,
            next_at,
            rng,
            calm: false,
            restarts_at: NEVER,
            kill: None,
            dies_silently: false,
            disk_heals_at: NEVER,
            remotes_heal_at: NEVER,
            names_heal_at: NEVER,
        }
    }

    pub fn next_at(&self) -> u64 {
        let heals = self.disk_heals_at.min(self.remotes_heal_at);
        self.next_at.min(self.restarts_at).min(heals)
    }

    /// No fault from here on; what waits for its end has it now.
    pub fn calm(&mut self, now: u64) {
        self.calm = true;
        self.next_at = NEVER;
        self.kill = None;
        self.disk_heals_at = NEVER;
        self.remotes_heal_at = NEVER;
        self.names_heal_at = 0;
        if self.restarts_at != NEVER {
            self.restarts_at = now;
        }
    }

    /// When a name is answered, and whether with an address.
    pub fn look_up(&mut self, now: u64, rng: &mut Rng) -> (u64, bool) {
        if self.names_heal_at == NEVER || self.names_heal_at <= now {
            return (now + 500, true);
        }
        match rng.below(2) {
            0 => (NEVER, false),
            _ => (now + 40_000, false),
        }
    }
}

impl World {
    pub fn act_chaos(&mut self) {
        if self.chaos.restarts_at <= self.now {
            self.chaos.restarts_at = NEVER;
            self.boot();
        }
        if self.chaos.disk_heals_at <= self.now {
            self.chaos.disk_heals_at = NEVER;
            self.disk.heal();
        }
        if self.chaos.remotes_heal_at <= self.now {
            self.chaos.remotes_heal_at = NEVER;
            for remote in &mut self.remotes {
                remote.listening = true;
                remote.refusing = false;
                remote.spell = None;
            }
        }
        if self.chaos.next_at > self.now {
            return;
        }
        let span = 2 * self.chaos.every_us;
        self.chaos.next_at = self.now + 1 + self.chaos.rng.below(span);
        let at = crate::client::pick(&mut self.chaos.rng, self.chaos.faults.len());
        let fault = self.chaos.faults[at];
        self.watch.trace(self.now, 3, &[u8::try_from(at).unwrap()]);
        self.ledger.tell(|| format!("-- {fault:?}"));
        self.strike(fault);
    }

    fn strike(&mut self, fault: Fault) {
        let span = 1 + self.chaos.rng.below(30_000_000);
        match fault {
            Fault::Cut | Fault::Stall | Fault::HalfOpen => self.strike_wire(fault, span),
            Fault::RemoteRestarts | Fault::RemoteForgets | Fault::RemoteAway => {
                let at = crate::client::pick(&mut self.chaos.rng, self.remotes.len());
                let forgets = fault == Fault::RemoteForgets;
                self.remotes[at].restart(forgets, &mut self.ledger);
                if fault == Fault::RemoteAway {
                    self.remotes[at].listening = false;
                    self.chaos.remotes_heal_at = self.now + span;
                }
            }
            Fault::RemoteRefuses => {
                let at = crate::client::pick(&mut self.chaos.rng, self.remotes.len());
                self.remotes[at].restart(false, &mut self.ledger);
                self.remotes[at].refusing = true;
                self.chaos.remotes_heal_at = self.now + span;
            }
            Fault::Spell => {
                let at = crate::client::pick(&mut self.chaos.rng, self.remotes.len());
                let spell = crate::refusing::spell(&mut self.chaos.rng);
                self.ledger.tell(|| format!("-- {spell:?} at remote {at}"));
                self.remotes[at].spell = Some(spell);
                self.ledger.spells += 1;
                // Long enough for several tries.
                self.chaos.remotes_heal_at = self.now + 3 * span;
            }
            Fault::NamesSilent => self.chaos.names_heal_at = self.now + span,
            Fault::DiskFull => {
                self.disk.full = true;
                self.chaos.disk_heals_at = self.now + span;
            }
            Fault::DiskErrors => {
                self.disk.io_error_in = 1 + self.chaos.rng.below(20);
                self.chaos.disk_heals_at = self.now + span;
            }
            Fault::CommitFails => {
                self.disk.fails_commit = true;
                self.chaos.disk_heals_at = self.now + span / 4;
            }
            Fault::DiskSlow => {
                self.disk.commit_us = 1000 + self.chaos.rng.below(800_000);
                self.chaos.disk_heals_at = self.now + span;
            }
            Fault::DieBefore => self.disk.dies_at = Some(Death::Before),
            Fault::DieAfter => self.disk.dies_at = Some(Death::After),
            Fault::Kill | Fault::PowerLoss => {
                let points =
                    [Kill::AfterReceive, Kill::AfterFlush, Kill::WithinTransmit, Kill::AtTheEnd];
                let at = crate::client::pick(&mut self.chaos.rng, points.len());
                self.chaos.kill = Some(points[at]);
                self.chaos.dies_silently = fault == Fault::PowerLoss;
            }
            Fault::Clock => self.strike_clock(),
            Fault::Rot => {
                self.ledger.damaged += u32::from(self.disk.rot());
            }
            Fault::RotRow => self.strike_row(),
            Fault::LoseCommit => {
                self.crash(true);
                self.disk.lose_last_commit();
                self.ledger.commit_lost = true;
                self.ledger.store_lost = true;
            }
            Fault::WipeStore => {
                self.crash(false);
                self.disk.wipe();
                self.ledger.store_lost = true;
            }
        }
    }

    fn strike_row(&mut self) {
        // The gateway reads its rows when it starts.
        self.crash(false);
        let Some((table, key)) = self.disk.rot_row() else { return };
        self.ledger.tell(|| format!("-- of {table:?} {}", String::from_utf8_lossy(&key)));
        self.ledger.damaged += 1;
        self.ledger.store_lost |= matches!(table, Table::Session | Table::Destination);
    }

    fn strike_wire(&mut self, fault: Fault, span: u64) {
        let open: Vec<usize> = (0..self.wires.len())
            .filter(|at| self.wires[*at].peer_open && self.wires[*at].shell.is_some())
            .collect();
        if open.is_empty() {
            return;
        }
        let at = open[crate::client::pick(&mut self.chaos.rng, open.len())];
        let ways = self.chaos.rng.below(3);
        let wire = &mut self.wires[at];
        wire.disturbed = true;
        let until = match fault {
            Fault::Stall => self.now + span,
            _ => NEVER,
        };
        if fault != Fault::Cut {
            if ways != 1 {
                wire.up.stalled_until = until;
            }
            if ways != 2 {
                wire.down.stalled_until = until;
            }
            return;
        }
        self.cut(at);
    }

    fn strike_clock(&mut self) {
        self.wall_s = match self.chaos.rng.below(6) {
            0 => 0,
            1 => 1_750_000_000,
            2 => 2_147_483_648 + self.chaos.rng.below(100),
            3 => 4_294_967_290 + self.chaos.rng.below(100),
            4 => self.wall_s.saturating_add(TEN_YEARS_S),
            _ => self.wall_s.saturating_sub(TEN_YEARS_S),
        };
        self.watch.trace(self.now, 4, &self.wall_s.to_le_bytes());
        assert!(self.now < 100 * 24 * 60 * MINUTE, "no run is that long");
    }
}
