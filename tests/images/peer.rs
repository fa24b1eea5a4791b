//! One end of a session outside: what it has sent and got, and what the protocol makes it answer.
//! It survives every cut, and at the next connection it goes on where it was.

use super::common::wire::{
    self, Ack, Connack, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet,
};
use spillway::vocab::ConnId;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// Messages a peer has unacknowledged at most.
const WINDOW: usize = 12;

const UNKNOWN_ID: u8 = 0x92;

/// A message on its way out.
#[derive(Clone)]
struct Flight {
    id: u16,
    message: Rc<Message>,
    /// PUBREC came.
    received: bool,
}

#[derive(Clone)]
pub struct Peer {
    pub name: &'static str,
    level: u8,
    /// A broker: it is connected to, and does not connect.
    server: bool,
    pub conn: Option<ConnId>,
    /// Bytes from the gateway.
    pub inbox: Vec<u8>,
    /// Bytes for the gateway.
    pub outbox: Vec<u8>,
    /// What is still to be published.
    pub queue: VecDeque<Rc<Message>>,
    /// What was published, in order.
    pub sent: Vec<Rc<Message>>,
    flights: Vec<Flight>,
    /// Payloads that were acknowledged.
    pub accepted: BTreeSet<Vec<u8>>,
    next_id: u16,
    /// QoS 2 identifiers that are not released yet.
    unreleased: BTreeSet<u16>,
    /// What was delivered to whoever is behind this end, in order.
    pub got: Vec<Rc<Message>>,
    /// A connection stands and may be used.
    greeted: bool,
    /// There is a session from before.
    known: bool,
    pub subscription: Option<&'static str>,
    /// What went against the protocol, or against what was promised.
    pub fault: Option<String>,
}

impl Peer {
    pub fn new(name: &'static str, level: u8, server: bool) -> Self {
        Self {
            name,
            level,
            server,
            conn: None,
            inbox: Vec::new(),
            outbox: Vec::new(),
            queue: VecDeque::new(),
            sent: Vec::new(),
            flights: Vec::new(),
            accepted: BTreeSet::new(),
            next_id: 0,
            unreleased: BTreeSet::new(),
            got: Vec::new(),
            greeted: false,
            known: false,
            subscription: None,
            fault: None,
        }
    }

    pub fn connected(&mut self, conn: ConnId) {
        self.disconnected();
        self.conn = Some(conn);
        if !self.server {
            self.outbox = Connect::new(self.level, self.name).persistent().bytes();
        }
    }

    /// What was on the wire is gone.
    pub fn disconnected(&mut self) {
        self.conn = None;
        self.greeted = false;
        self.inbox.clear();
        self.outbox.clear();
    }

    /// Nothing is under way from here.
    pub fn is_quiet(&self) -> bool {
        self.greeted && self.flights.is_empty() && self.queue.is_empty() && self.outbox.is_empty()
    }

    /// Publishes what the window allows.
    pub fn publish(&mut self) {
        while self.greeted && self.flights.len() < WINDOW {
            let Some(message) = self.queue.pop_front() else { break };
            self.next_id = self.next_id % 40 + 1;
            while self.flights.iter().any(|flight| flight.id == self.next_id) {
                self.next_id = self.next_id % 40 + 1;
            }
            self.sent.push(Rc::clone(&message));
            self.flights.push(Flight { id: self.next_id, message, received: false });
            self.send(self.flights.len() - 1, false);
        }
    }

    fn send(&mut self, flight: usize, dup: bool) {
        let Flight { id, message, received } = &self.flights[flight];
        if *received {
            self.outbox.extend(wire::ack(PUBREL, *id));
        } else {
            let message = Message { id: *id, dup, ..Message::clone(message) };
            self.outbox.extend(message.bytes(self.level));
        }
    }

    /// Answers everything that came.
    pub fn answer(&mut self) {
        loop {
            match wire::take(self.level, &mut self.inbox) {
                Ok(Some(packet)) => self.packet(packet),
                Ok(None) => break,
                Err(error) => self.wrong(format!("cannot be read: {error}")),
            }
        }
    }

    fn wrong(&mut self, what: String) {
        let name = self.name;
        self.fault.get_or_insert(format!("{name}: {what}"));
    }

    fn packet(&mut self, packet: Packet) {
        match packet {
            Packet::Connect(connect) => self.take_connect(&connect),
            Packet::Connack(connack) => self.take_connack(&connack),
            Packet::Publish(message) => self.take_publish(message),
            Packet::Ack(ack) => self.take_ack(&ack),
            Packet::Subscribe { id, filters, .. } => {
                let properties: &[u8] = if self.level == 5 { &[0] } else { &[] };
                let codes: Vec<u8> = filters.iter().map(|(_, options)| options & 3).collect();
                let body = [&id.to_be_bytes()[..], properties, &codes[..]].concat();
                self.outbox.extend(wire::packet(0x90, &body));
            }
            Packet::Pingreq => self.outbox.extend(wire::PINGRESP),
            Packet::Suback { .. } | Packet::Pingresp => {}
            // A server of 3.1.1 that sends more than there is room for is left, and comes back to.
            Packet::Disconnect { code: 0 } if self.server && self.level == 4 => {}
            Packet::Unsubscribe { .. } | Packet::Disconnect { .. } => {
                self.wrong(format!("{packet:?} was not expected"));
            }
        }
    }

    fn take_connect(&mut self, connect: &Connect) {
        if connect.clean && self.known {
            self.wrong("the session of last time was not wanted".into());
        }
        let present = self.known && !connect.clean;
        let properties: &[u8] = if self.level == 5 { &[0] } else { &[] };
        let body = [&[u8::from(present), 0][..], properties].concat();
        self.outbox.extend(wire::packet(0x20, &body));
        self.greet();
    }

    fn take_connack(&mut self, connack: &Connack) {
        if connack.code != 0 || connack.session_present != self.known {
            self.wrong(format!("{connack:?}"));
        }
        if let Some(filter) = self.subscription.filter(|_| !self.known) {
            self.outbox.extend(wire::subscribe(self.level, 999, &[(filter, 2)], &[]));
        }
        self.greet();
    }

    /// The session goes on: what is unacknowledged is sent again, in order.
    fn greet(&mut self) {
        self.known = true;
        self.greeted = true;
        for flight in 0..self.flights.len() {
            self.send(flight, true);
        }
    }

    fn take_publish(&mut self, message: Message) {
        let id = message.id;
        let new = message.qos < 2 || self.unreleased.insert(id);
        match message.qos {
            1 => self.outbox.extend(wire::ack(PUBACK, id)),
            2 => self.outbox.extend(wire::ack(PUBREC, id)),
            _ => {}
        }
        if new {
            self.got.push(Rc::new(message));
        }
    }

    fn take_ack(&mut self, ack: &Ack) {
        let at = self.flights.iter().position(|flight| flight.id == ack.id);
        if ack.kind == PUBREL {
            self.unreleased.remove(&ack.id);
            self.outbox.extend(wire::ack(PUBCOMP, ack.id));
            return;
        }
        let Some(at) = at else {
            return self.wrong(format!("{ack:?} for nothing"));
        };
        let flight = &mut self.flights[at];
        self.accepted.insert(flight.message.payload.clone());
        let fits = match ack.kind {
            PUBACK => flight.message.qos == 1,
            PUBREC => flight.message.qos == 2,
            _ => flight.received,
        };
        // A release that was already complete when the power went is not known any more.
        let fine = ack.code == 0 || (ack.kind == PUBCOMP && ack.code == UNKNOWN_ID);
        if !fine || !fits {
            return self.wrong(format!("{ack:?} was not expected"));
        }
        if ack.kind == PUBREC {
            flight.received = true;
            self.send(at, false);
        } else {
            self.flights.remove(at);
        }
    }
}
