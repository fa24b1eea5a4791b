//! One publishing client: keeps a window of messages unacknowledged, and after a lost connection
//! comes back and sends again, with DUP, what nobody has acknowledged. Read MQTT 3.1.1 sections
//! 4.3 and 4.4 first. Never sends a message twice on one connection.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::bits::Bits;
use crate::clock;
use crate::histogram::Histogram;
use crate::net::{self, Filled, Incoming, Outgoing};
use crate::stamp::{self, STAMP_BYTES, Stamp};
use crate::wire::{self, Malformed};

const OUT_BYTES_MAX: usize = 64 * 1024;
const RETRY_EVERY: u64 = 50 * clock::MILLISECOND;
const PING_AFTER: u64 = 10 * clock::SECOND;
const KEEPALIVE_S: u16 = 60;
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct StreamOptions {
    pub topic: String,
    pub qos: u8,
    pub payload_bytes: usize,
}

#[derive(Clone)]
pub struct Options {
    pub address: SocketAddr,
    pub client_id: String,
    pub version: u8,
    pub clean_start: bool,
    pub reconnect: bool,
    pub window: u16,
    /// Send again only when so many of the window are free: fewer, larger writes.
    pub batch: u16,
    pub run: u32,
    pub publisher: u32,
    /// Messages go to these in turn.
    pub streams: Vec<StreamOptions>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// PUBLISH is out, PUBACK or PUBREC awaited.
    Published,
    /// PUBREL is out, PUBCOMP awaited.
    Released,
}

/// An entry of the window; the packet id is its index + 1.
#[derive(Clone, Copy)]
struct Slot {
    state: State,
    stream: u16,
    seq: u64,
    sent_at: u64,
    order: u64,
}

pub struct Stream {
    pub qos: u8,
    pub sent: u64,
    pub accepted: Bits,
    template: Vec<u8>,
    id_at: usize,
    payload_at: usize,
}

#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub resent: u64,
    pub connects: u64,
    pub sessions_lost: u64,
}

enum Link {
    Down { retry_at: u64 },
    Greeting(TcpStream),
    Up(TcpStream),
}

pub struct Publisher {
    options: Options,
    link: Link,
    incoming: Incoming,
    outgoing: Outgoing,
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    window: usize,
    order: u64,
    written_at: u64,
    /// The connection changed: the owner must register the new socket.
    pub fresh: bool,
    pub streams: Vec<Stream>,
    pub counts: Counts,
    pub latency: Histogram,
    pub error: Option<String>,
}

impl Publisher {
    pub fn new(options: Options) -> Self {
        let streams = (0u16..).zip(&options.streams).map(|(i, s)| stream(&options, i, s)).collect();
        let empty = Slot { state: State::Free, stream: 0, seq: 0, sent_at: 0, order: 0 };
        Publisher {
            slots: vec![empty; usize::from(options.window)],
            free: (0..options.window).collect(),
            window: usize::from(options.window),
            link: Link::Down { retry_at: 0 },
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            order: 0,
            written_at: 0,
            fresh: false,
            streams,
            counts: Counts::default(),
            latency: Histogram::default(),
            error: None,
            options,
        }
    }

    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.link {
            Link::Down { .. } => None,
            Link::Greeting(stream) | Link::Up(stream) => Some(stream),
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    pub fn unacked(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub fn retry_at(&self) -> Option<u64> {
        match self.link {
            Link::Down { retry_at } if self.error.is_none() => Some(retry_at),
            _ => None,
        }
    }

    /// Connects when it is time, sends until `target` messages were sent in all, the window or
    /// the socket is full. True when more could be sent at once.
    pub fn pump(&mut self, now: u64, target: u64) -> bool {
        if let Link::Down { retry_at } = self.link {
            if retry_at <= now && self.error.is_none() {
                self.dial(now);
            }
            return false;
        }
        let mut more = false;
        if self.is_up() {
            more = self.fill_window(now, target);
            if now > self.written_at + PING_AFTER && self.outgoing.is_empty() {
                self.outgoing.data.extend_from_slice(&[wire::PINGREQ << 4, 0]);
            }
        }
        if !self.outgoing.is_empty() {
            self.written_at = now;
            self.flush(now);
        }
        more && self.outgoing.is_empty()
    }

    pub fn readable(&mut self, now: u64) {
        loop {
            let (Link::Greeting(stream) | Link::Up(stream)) = &self.link else { return };
            let filled = self.incoming.fill(stream);
            if let Err(Malformed(what)) = self.parse(now) {
                return self.down(now, what);
            }
            match filled {
                Filled::Full => {}
                Filled::Empty => return,
                Filled::Ended => return self.down(now, "the broker closed the connection"),
            }
        }
    }

    /// Says goodbye; a clean end for brokers that count.
    pub fn disconnect(&mut self) {
        if let Link::Up(stream) = &self.link {
            self.outgoing.data.extend_from_slice(&[wire::DISCONNECT << 4, 0]);
            // A peer that is gone needs no goodbye.
            let _ = self.outgoing.flush(stream);
        }
        self.link = Link::Down { retry_at: u64::MAX };
    }

    fn dial(&mut self, now: u64) {
        match net::connect(self.options.address, PATIENCE) {
            Ok(stream) => {
                self.incoming.clear();
                self.outgoing.clear();
                wire::put_connect(
                    &mut self.outgoing.data,
                    &wire::Connect {
                        client_id: &self.options.client_id,
                        version: self.options.version,
                        clean_start: self.options.clean_start,
                        keepalive_s: KEEPALIVE_S,
                    },
                );
                self.link = Link::Greeting(stream);
                self.fresh = true;
                self.written_at = now;
                self.flush(now);
            }
            Err(error) => self.down(now, &error.to_string()),
        }
    }

    fn flush(&mut self, now: u64) {
        let (Link::Greeting(stream) | Link::Up(stream)) = &self.link else { return };
        if let Err(error) = self.outgoing.flush(stream) {
            self.down(now, &error.to_string());
        }
    }

    fn down(&mut self, now: u64, why: &str) {
        self.link = Link::Down { retry_at: now + RETRY_EVERY };
        self.outgoing.clear();
        if !self.options.reconnect {
            self.error = Some(format!("{}: {why}", self.options.client_id));
        }
    }

    fn fill_window(&mut self, now: u64, target: u64) -> bool {
        let room = self.window.saturating_sub(self.unacked());
        if self.unacked() > 0 && room < usize::from(self.options.batch) {
            return false;
        }
        while self.counts.sent < target && self.outgoing.len() < OUT_BYTES_MAX {
            let stream = (self.counts.sent % self.streams.len() as u64) as u16;
            let mut index = 0;
            if self.streams[usize::from(stream)].qos > 0 {
                if self.unacked() >= self.window {
                    return false;
                }
                let Some(free) = self.free.pop_front() else { return false };
                index = free;
                let seq = self.streams[usize::from(stream)].sent;
                self.order += 1;
                self.slots[usize::from(index)] =
                    Slot { state: State::Published, stream, seq, sent_at: now, order: self.order };
            }
            let Stream { sent, .. } = &mut self.streams[usize::from(stream)];
            let seq = *sent;
            *sent += 1;
            self.counts.sent += 1;
            self.put_publish(stream, index + 1, seq, now, false);
        }
        self.counts.sent < target
    }

    fn put_publish(&mut self, stream: u16, id: u16, seq: u64, sent_at: u64, dup: bool) {
        let stream = &self.streams[usize::from(stream)];
        let out = &mut self.outgoing.data;
        let start = out.len();
        out.extend_from_slice(&stream.template);
        let packet = &mut out[start..];
        if dup {
            packet[0] |= 8;
        }
        if stream.qos > 0 {
            packet[stream.id_at..stream.id_at + 2].copy_from_slice(&id.to_be_bytes());
        }
        stamp::patch(&mut packet[stream.payload_at..], seq, sent_at);
    }

    fn parse(&mut self, now: u64) -> Result<(), Malformed> {
        while let Some(frame) = wire::frame(self.incoming.data())? {
            let (kind, bytes) = (frame.kind, frame.bytes);
            match kind {
                wire::CONNACK => {
                    let (present, code, maximum) = wire::connack(frame.body, self.options.version)?;
                    self.incoming.consume(bytes);
                    self.greeted(now, present, code, maximum)?;
                    continue;
                }
                wire::PUBACK | wire::PUBREC | wire::PUBCOMP => {
                    let (id, reason) = wire::ack(frame.body)?;
                    self.acknowledged(now, kind, id, reason)?;
                }
                wire::PINGRESP => {}
                wire::DISCONNECT => return Err(Malformed("the broker sent DISCONNECT")),
                _ => return Err(Malformed("a packet no broker sends to a publisher")),
            }
            self.incoming.consume(bytes);
        }
        Ok(())
    }

    fn greeted(&mut self, now: u64, present: bool, code: u8, max: u16) -> Result<(), Malformed> {
        if code != 0 {
            return Err(Malformed("CONNACK refuses"));
        }
        match std::mem::replace(&mut self.link, Link::Down { retry_at: now }) {
            Link::Greeting(stream) => self.link = Link::Up(stream),
            _ => return Err(Malformed("CONNACK out of place")),
        }
        self.window = usize::from(self.options.window.min(max));
        self.counts.connects += 1;
        if !present && self.counts.connects > 1 && !self.options.clean_start {
            self.counts.sessions_lost += 1;
        }
        self.resend(present);
        Ok(())
    }

    /// Everything unacknowledged, in the order it was first sent [MQTT-4.6.0-1].
    fn resend(&mut self, present: bool) {
        let busy = (0u16..).zip(&self.slots).filter(|(_, slot)| slot.state != State::Free);
        let mut busy: Vec<(u16, Slot)> = busy.map(|(index, slot)| (index, *slot)).collect();
        busy.sort_by_key(|(_, slot)| slot.order);
        for (index, slot) in busy {
            match slot.state {
                State::Released if present => {
                    wire::put_ack(&mut self.outgoing.data, wire::PUBREL, index + 1);
                }
                // A broker without the session cannot know the id; the message was accepted.
                State::Released => self.release(index),
                State::Published | State::Free => {
                    self.counts.resent += 1;
                    self.put_publish(slot.stream, index + 1, slot.seq, slot.sent_at, present);
                }
            }
        }
    }

    fn acknowledged(&mut self, now: u64, kind: u8, id: u16, reason: u8) -> Result<(), Malformed> {
        let index = id.wrapping_sub(1);
        let Some(slot) = self.slots.get(usize::from(index)).copied() else {
            return Err(Malformed("acknowledgement of an id never used"));
        };
        let qos = self.streams[usize::from(slot.stream)].qos;
        match (kind, slot.state, qos) {
            (wire::PUBACK, State::Published, 1) => {
                self.settle(now, slot, reason);
                self.release(index);
            }
            (wire::PUBREC, State::Published, 2) => {
                self.settle(now, slot, reason);
                if reason >= 0x80 {
                    self.release(index);
                } else {
                    self.slots[usize::from(index)].state = State::Released;
                    wire::put_ack(&mut self.outgoing.data, wire::PUBREL, id);
                }
            }
            (wire::PUBREC, State::Released, 2) => {
                wire::put_ack(&mut self.outgoing.data, wire::PUBREL, id);
            }
            (wire::PUBCOMP, State::Released, 2) => self.release(index),
            _ => return Err(Malformed("acknowledgement of what was not sent")),
        }
        Ok(())
    }

    fn settle(&mut self, now: u64, slot: Slot, reason: u8) {
        if reason >= 0x80 {
            self.counts.refused += 1;
            return;
        }
        self.counts.accepted += 1;
        self.streams[usize::from(slot.stream)].accepted.insert(slot.seq);
        self.latency.record(now.saturating_sub(slot.sent_at));
    }

    fn release(&mut self, index: u16) {
        self.slots[usize::from(index)].state = State::Free;
        self.free.push_back(index);
    }
}

fn stream(options: &Options, index: u16, stream: &StreamOptions) -> Stream {
    let (version, qos) = (options.version, stream.qos);
    let payload_bytes = stream.payload_bytes.max(STAMP_BYTES);
    let mut template = Vec::new();
    wire::put_publish_head(&mut template, version, qos, stream.topic.as_bytes(), 1, payload_bytes);
    let payload_at = template.len();
    template.resize(payload_at + payload_bytes, 0);
    let (run, publisher) = (options.run, options.publisher);
    Stamp { run, publisher, stream: index, qos, seq: 0, sent_at: 0 }
        .write(&mut template[payload_at..]);
    Stream {
        qos,
        sent: 0,
        accepted: Bits::default(),
        template,
        id_at: payload_at - usize::from(version == 5) - 2,
        payload_at,
    }
}
