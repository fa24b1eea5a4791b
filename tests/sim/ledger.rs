//! The ledger: every message that was ever made, who may have seen it, who did. The checkers read
//! nothing else about messages, so that what a message is worth is written down in one place.

use crate::net::NEVER;
use crate::session::Arrived;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    Client(usize),
    Remote(usize),
}

/// Where messages shall arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dest {
    /// A bridge: any of its servers.
    Bridge(usize),
    /// The session of a client.
    Session(usize),
}

#[derive(Clone, Debug)]
pub struct Message {
    pub sender: Sender,
    pub topic: String,
    pub qos: u8,
    pub bytes: usize,
    /// When its first byte left the sender.
    pub first_sent: u64,
    pub accepted: bool,
    pub accepted_at: u64,
    /// Turned away by an acknowledgement with an error.
    pub refused: bool,
    /// Sent again under a new identifier: its sender's session, or the gateway's, was gone.
    pub republished: u32,
    /// Sent again, under its identifier or a new one.
    pub sent_again: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub id: u32,
    pub at: u64,
    /// The server of a bridge.
    pub server: usize,
}

/// A subscription as its client may rely on it.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub client: usize,
    pub filter: String,
    pub qos: u8,
    pub persistent: bool,
    /// When it was granted.
    pub since: u64,
    /// Messages sent from here on must arrive; `NEVER` until it is known to be durable.
    pub firm_at: u64,
    pub ended_at: u64,
}

/// An event after which what was in flight may arrive twice.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    pub dest: Dest,
    pub window: u32,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub checker: &'static str,
    pub text: String,
}

/// What the log said of messages that were given up.
#[derive(Clone, Debug)]
pub struct Given {
    pub destination: String,
    pub reason: String,
    pub count: u64,
}

#[derive(Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    pub deliveries: BTreeMap<Dest, Vec<Delivery>>,
    pub subscriptions: Vec<Subscription>,
    pub doubts: Vec<Doubt>,
    /// The server that last greeted each bridge.
    pub servers: BTreeMap<usize, usize>,
    pub given: Vec<Given>,
    pub violations: Vec<Violation>,
    /// Messages the remote of a bridge turned away, with how often.
    pub turned_away: BTreeMap<(usize, u32), u32>,
    /// The store was lost or lost something: promises across a restart are off.
    pub store_lost: bool,
    /// Tells everything on stdout, for one who looks for a fault.
    pub verbose: bool,
    pub now: u64,
    /// Somebody publishes what is not in here.
    pub noisy: bool,
    /// It forgot a commit that it had made: identifiers may come twice.
    pub commit_lost: bool,
    /// Messages whose identifier was in use at a server: they came later than others.
    pub put_off: BTreeSet<(usize, u32)>,
    /// Spells in which a remote refused whatever came.
    pub spells: u32,
    /// When a process of the gateway ended.
    pub deaths: Vec<u64>,
    /// Records or rows of it were damaged.
    pub damaged: u32,
}

/// The bytes of a message: its number, and filler that follows from it.
pub fn payload(id: u32, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.push(0xA5);
    out.extend_from_slice(&id.to_be_bytes());
    let mut at = u32::try_from(out.len()).unwrap();
    while out.len() < bytes {
        out.push(id.wrapping_mul(31).wrapping_add(at).to_le_bytes()[0]);
        at += 1;
    }
    out
}

impl Ledger {
    pub fn make(&mut self, sender: Sender, topic: &str, qos: u8, bytes: usize) -> u32 {
        let id = u32::try_from(self.messages.len()).unwrap();
        self.messages.push(Message {
            sender,
            topic: topic.to_string(),
            qos,
            bytes: bytes.max(5),
            first_sent: NEVER,
            accepted: false,
            accepted_at: NEVER,
            refused: false,
            republished: 0,
            sent_again: false,
        });
        id
    }

    pub fn tell(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12.6} {}", self.now as f64 / 1e6, text());
        }
    }

    pub fn message(&self, id: u32) -> &Message {
        &self.messages[usize::try_from(id).unwrap()]
    }

    pub fn accept(&mut self, id: u32) {
        let now = self.now;
        let message = self.message_mut(id);
        message.accepted = true;
        message.accepted_at = message.accepted_at.min(now);
    }

    pub fn message_mut(&mut self, id: u32) -> &mut Message {
        &mut self.messages[usize::try_from(id).unwrap()]
    }

    /// The number a payload carries, if it is intact.
    pub fn identify(&self, bytes: &[u8]) -> Option<u32> {
        let raw: [u8; 4] = bytes.get(1..5)?.try_into().ok()?;
        let id = u32::from_be_bytes(raw);
        let message = self.messages.get(usize::try_from(id).ok()?)?;
        (payload(id, message.bytes) == bytes).then_some(id)
    }

    pub fn violate(&mut self, checker: &'static str, text: String) {
        // A fault repeats: the first few tell enough.
        if self.violations.len() < 16 {
            self.violations.push(Violation { checker, text });
        }
    }

    /// A message arrived where it shall. `wanted`: its topic there, and the most QoS it may have.
    pub fn deliver(&mut self, dest: Dest, arrived: &Arrived, wanted: (&str, u8), at: u64) {
        let Arrived { id, ref topic, qos, server } = *arrived;
        let (wanted, qos_max) = wanted;
        let message = self.message(id);
        if message.first_sent > at {
            self.violate("invented", format!("{dest:?} got message {id} before it was sent"));
        } else if topic != wanted {
            let text = format!("{dest:?} got message {id} as `{topic}`, not `{wanted}`");
            self.violate("invented", text);
        } else if qos > qos_max {
            self.violate("invented", format!("{dest:?} got message {id} at QoS {qos}"));
        }
        let delivery = Delivery { id, at, server };
        self.deliveries.entry(dest).or_default().push(delivery);
    }

    /// How often each message arrived at a destination.
    pub fn counts(&self, dest: Dest) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for delivery in self.deliveries.get(&dest).into_iter().flatten() {
            *counts.entry(delivery.id).or_insert(0) += 1;
        }
        counts
    }

    /// Messages of a destination the log says were given up, for a reason that starts so.
    pub fn given_up(&self, destination: &str, reasons: &[&str]) -> u64 {
        self.given
            .iter()
            .filter(|given| given.destination == destination || given.destination == "-")
            .filter(|given| reasons.contains(&given.reason.as_str()))
            .map(|given| given.count)
            .sum()
    }
}
