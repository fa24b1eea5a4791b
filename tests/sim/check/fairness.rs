//! What the greedy may not do to the others: while they take what they can, whoever wants little is
//! let in, acknowledged and answered within a bound, a live bridge stays up and has what is for it,
//! and the log says of everybody who came and who went.

use crate::client::{Client, Manners, State};
use crate::fairness::ROOMY_SLOTS;
use crate::ledger::{Dest, Sender};
use crate::net::NEVER;
use crate::plan::{Family, Plan};
use crate::world::World;
use core::net::SocketAddr;
use spillway::note::Note;
use std::collections::BTreeMap;

/// A turn of the loop is short, and a commit waits `store.flush_after` (a quarter of a second, two
/// while acknowledgements flow): nothing else may come between a message and its acknowledgement.
const ACK_US: u64 = 2_500_000;

/// Without a store, or with one whose share for sessions is used up, nothing can be taken from who
/// was sent it: a session that acknowledges nothing
/// keeps its part of the ring for `UNACKNOWLEDGED_WITHIN`, which is five seconds.
const ACK_UNSTORED_US: u64 = 5_000_000 + ACK_US;

/// PINGRESP waits for no room and no commit.
const PING_US: u64 = 1_000_000;

/// A place is free or somebody gives way at once. Who is refused comes again within a second.
const LET_IN_US: u64 = 3_000_000;

/// The live remote answers within some milliseconds and takes more than anybody modest sends.
const BRIDGED_US: u64 = 5_000_000;

/// What is seen of one client.
#[derive(Default)]
struct Seen {
    /// Since when it wants in.
    knocks: Option<u64>,
    /// Since when its messages are on their way, in this connection.
    sent: BTreeMap<u32, u64>,
    /// Connections the gateway has taken, and lines about their beginnings and ends.
    opened: u32,
    let_in: u32,
    ended: u32,
}

pub struct Fair {
    on: bool,
    pub is_stored: bool,
    ack_us: u64,
    seen: Vec<Seen>,
    /// The longest anybody modest waited for anything, as a part of its bound in percent.
    pub worst: u64,
}

impl Fair {
    pub fn new(plan: &Plan) -> Self {
        let is_stored = !plan.config.contains("store.path = none");
        Self {
            on: plan.family == Family::Fair,
            is_stored,
            ack_us: if is_stored && plan.slots >= ROOMY_SLOTS { ACK_US } else { ACK_UNSTORED_US },
            seen: plan.clients.iter().map(|_| Seen::default()).collect(),
            worst: 0,
        }
    }

    pub fn opened(&mut self, client: usize) {
        self.seen[client].opened += 1;
    }

    /// A line of the log; it may be an offence.
    pub fn note(&mut self, note: &Note, clients: &mut [Client]) -> Option<String> {
        if !self.on {
            return None;
        }
        match note {
            Note::ClientConnected { addr, .. } => self.of(addr)?.let_in += 1,
            Note::ClientDisconnected { addr, .. } | Note::ClientRefused { addr, .. } => {
                self.of(addr)?.ended += 1;
            }
            Note::BridgeDown { bridge, .. } if bridge == "b0" => return Some(note.to_string()),
            // Who has subscribed to nothing and is away gives way, and begins afresh.
            Note::SessionGaveWay { client, .. } => {
                let one = clients.iter_mut().find(|one| one.plan.name == client.as_str())?;
                let polite = one.plan.manners == Manners::Polite;
                if polite && (!one.plan.filters.is_empty() || one.state == State::Up) {
                    return Some(note.to_string());
                }
                one.known_at = NEVER;
            }
            _ => {}
        }
        None
    }

    fn of(&mut self, addr: &SocketAddr) -> Option<&mut Seen> {
        let SocketAddr::V4(addr) = addr else { return None };
        self.seen.get_mut(usize::from(addr.ip().octets()[3]).checked_sub(1)?)
    }
}

impl World {
    /// Who waits, and for how long already.
    pub fn watch_fairness(&mut self) {
        if !self.fair.on {
            return;
        }
        let Self { fair, clients, ledger, now, .. } = self;
        for (client, seen) in clients.iter().zip(&mut fair.seen) {
            if matches!(client.plan.manners, Manners::Greedy(_)) {
                continue;
            }
            let mut waits = Vec::new();
            if client.state == State::Up {
                seen.knocks = None;
                let sent = client.session.unaccepted();
                seen.sent.retain(|id, _| sent.clone().any(|other| other == *id));
                for id in sent {
                    let since = *seen.sent.entry(id).or_insert(*now);
                    waits.push(("an acknowledgement", since, fair.ack_us));
                }
                waits.extend(client.ping_at.map(|asked| ("PINGRESP", asked, PING_US)));
            } else {
                seen.sent.clear();
                if matches!(client.state, State::Connecting { .. }) {
                    seen.knocks.get_or_insert(*now);
                }
                waits.extend(seen.knocks.map(|since| ("CONNACK", since, LET_IN_US)));
            }
            for (what, since, most) in waits {
                let waited = *now - since;
                fair.worst = fair.worst.max(waited * 100 / most);
                if waited > most {
                    let name = &client.plan.name;
                    let text = format!("{name} waits {} ms for {what}", waited / 1000);
                    ledger.violate("fairness", text);
                }
            }
        }
    }
}

/// Once everything is over.
pub fn check(world: &mut World) {
    if !world.fair.on {
        return;
    }
    let World { fair, ledger, plan, clients, .. } = world;
    let mut faults = Vec::new();
    for ((seen, client), at) in fair.seen.iter().zip(clients.iter()).zip(0..) {
        let name = &client.plan.name;
        let Seen { opened, let_in, ended, .. } = seen;
        let greeted = &client.greeted;
        let open = u32::from(world.wires.iter().any(|wire| wire.is_at_gateway(at)));
        if ended + open != *opened {
            faults.push(format!("{name} came {opened} times, {ended} ends were logged"));
        }
        if greeted > let_in {
            faults.push(format!("{name} was let in {greeted} times, {let_in} were logged"));
        }
    }
    let arrived: BTreeMap<u32, u64> = ledger
        .deliveries
        .get(&Dest::Bridge(0))
        .into_iter()
        .flatten()
        .rev()
        .map(|delivery| (delivery.id, delivery.at))
        .collect();
    for (id, message) in (0..).zip(&ledger.messages) {
        if message.qos == 0 || message.first_sent == NEVER {
            continue;
        }
        let (what, since, until, most) = match message.sender {
            Sender::Remote(_) => {
                ("acknowledged", message.first_sent, message.accepted_at, fair.ack_us)
            }
            Sender::Client(_) if plan.rule(0, &message.topic).is_some() => {
                let at = arrived.get(&id).copied().unwrap_or(NEVER);
                ("at the remote", message.accepted_at, at, BRIDGED_US)
            }
            Sender::Client(_) => continue,
        };
        if message.accepted && until > since.saturating_add(most) {
            let late = until.saturating_sub(since) / 1000;
            faults.push(format!("message {id} of {:?} is {what} {late} ms late", message.sender));
        }
    }
    for fault in faults {
        ledger.violate("fairness", fault);
    }
}
