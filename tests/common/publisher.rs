//! A publisher that keeps a window full and remembers what was accepted, over reconnects too.

use super::PATIENCE;
use super::client::Client;
use super::wire::{self, Ack, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet};
use std::collections::VecDeque;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

struct Inflight {
    index: usize,
    id: u16,
    /// PUBREC has come: from now on only PUBREL is sent.
    received: bool,
}

pub struct Publisher {
    connect: Connect,
    window: usize,
    plan: Vec<Message>,
    next: usize,
    next_id: u16,
    inflight: VecDeque<Inflight>,
    resumes: bool,
    met: bool,
    /// By message: whether PUBACK or PUBREC came for it.
    pub accepted: Vec<bool>,
    /// By message: the reason code it was accepted (or refused) with.
    pub codes: Vec<u8>,
}

impl Publisher {
    /// Will publish `plan` in order, `window` unacknowledged at a time.
    pub fn new(connect: Connect, window: usize, plan: Vec<Message>) -> Self {
        let count = plan.len();
        Self {
            connect,
            window,
            plan,
            next: 0,
            next_id: 0,
            inflight: VecDeque::new(),
            resumes: false,
            met: false,
            accepted: vec![false; count],
            codes: vec![0; count],
        }
    }

    /// `count` numbered messages on one topic.
    pub fn numbered(id: &str, topic: &str, qos: u8, count: usize) -> Self {
        Self::new(Connect::v4(id).persistent(), 50, wire::numbered_plan(topic, qos, count))
    }

    pub fn accepted_count(&self) -> usize {
        self.accepted.iter().filter(|accepted| **accepted).count()
    }

    /// The last connection's session must be there when it comes back.
    pub fn resuming(mut self) -> Self {
        self.resumes = true;
        self
    }

    /// Goes on over ends of the connection until all is accepted and completed.
    pub fn persist(&mut self, port: u16) {
        let deadline = Instant::now() + PATIENCE * 2;
        while let Err(error) = self.run_until(port, self.plan.len()) {
            assert!(Instant::now() < deadline, "still not accepted: {error}");
            // Whoever listens there may have to be started first.
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// Publishes everything; panics when the connection ends first.
    pub fn run(&mut self, port: u16) {
        self.run_until(port, self.plan.len()).expect("all is accepted");
    }

    /// Connects, repeats what was under way, and goes on until `count` messages are accepted and,
    /// if that is all, completed. An error is the end of the connection; what was accepted stays
    /// known and another call goes on from there.
    pub fn run_until(&mut self, port: u16, count: usize) -> io::Result<()> {
        let mut client = self.connect.try_open(port)?;
        assert_eq!(client.connack.code, 0, "{:?}", client.connack);
        if self.met && self.resumes {
            assert!(client.connack.session_present, "the session is gone: {:?}", client.connack);
        }
        let level = client.wire.level;
        let mut again = Vec::new();
        for flight in &self.inflight {
            if flight.received {
                again.extend(wire::ack(PUBREL, flight.id));
            } else {
                let message = &self.plan[flight.index];
                let message = Message { id: flight.id, dup: true, ..message.clone() };
                again.extend(message.bytes(level));
            }
        }
        client.wire.send(&again)?;
        while self.accepted_count() < count || (count == self.plan.len() && self.is_busy()) {
            self.fill(&mut client)?;
            let packet = client.wire.read(PATIENCE)?;
            // Until it has spoken, a client may be told again that its session is new.
            self.met = true;
            self.take(&mut client, &packet)?;
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        !self.inflight.is_empty() || self.next < self.plan.len()
    }

    fn fill(&mut self, client: &mut Client) -> io::Result<()> {
        let mut bytes = Vec::new();
        while self.inflight.len() < self.window && self.next < self.plan.len() {
            self.next_id = self.next_id % 65_535 + 1;
            let message = Message { id: self.next_id, ..self.plan[self.next].clone() };
            bytes.extend(message.bytes(client.wire.level));
            self.inflight.push_back(Inflight {
                index: self.next,
                id: self.next_id,
                received: false,
            });
            self.next += 1;
        }
        client.wire.send(&bytes)
    }

    fn take(&mut self, client: &mut Client, packet: &Packet) -> io::Result<()> {
        let Packet::Ack(Ack { kind, id, code }) = packet else {
            panic!("{packet:?} for a publisher")
        };
        let at = self.inflight.iter().position(|flight| flight.id == *id);
        let at = at.unwrap_or_else(|| panic!("{packet:?} for nothing in flight"));
        let index = self.inflight[at].index;
        match *kind {
            PUBACK => {
                self.accepted[index] = true;
                self.codes[index] = *code;
                self.inflight.remove(at);
            }
            PUBREC => {
                self.accepted[index] = true;
                self.codes[index] = *code;
                if *code < 0x80 {
                    self.inflight[at].received = true;
                    client.wire.send(&wire::ack(PUBREL, *id))?;
                } else {
                    self.inflight.remove(at);
                }
            }
            PUBCOMP => {
                assert!(self.inflight[at].received, "PUBCOMP before PUBREC");
                self.inflight.remove(at);
            }
            _ => panic!("{packet:?} for a publisher"),
        }
        Ok(())
    }
}
