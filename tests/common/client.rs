//! A local client that does one thing at a time and sees every packet.

use super::PATIENCE;
use super::wire::{self, Ack, Connack, Connect, Message, Packet, Property};
use super::wire::{PUBACK, PUBCOMP, PUBREC, PUBREL};
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A socket that yields packets. Both clients and the scripted server read through it.
pub struct Wire {
    pub stream: TcpStream,
    pub level: u8,
    inbox: Vec<u8>,
}

impl Wire {
    pub fn new(stream: TcpStream, level: u8) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, level, inbox: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet: `TimedOut` when none came in time, another error when none will come.
    pub fn read(&mut self, patience: Duration) -> io::Result<Packet> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(packet) = wire::take(self.level, &mut self.inbox)? {
                return Ok(packet);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.inbox.extend(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Packets until the peer has closed the connection.
    pub fn read_to_the_end(&mut self) -> Vec<Packet> {
        let mut packets = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline.saturating_duration_since(Instant::now())) {
                Ok(packet) => packets.push(packet),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("the connection stays open after {packets:?}")
                }
                Err(_) => return packets,
            }
        }
    }
}

/// Opens a TCP connection without a word of MQTT.
pub fn dial(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port))
}

pub struct Client {
    pub wire: Wire,
    pub connack: Connack,
    /// Whether messages are acknowledged as they come.
    pub acknowledges: bool,
    /// Messages that came while something else was waited for.
    early: VecDeque<Message>,
    /// QoS 2 identifiers of messages already handed out and not yet released.
    unreleased: BTreeSet<u16>,
    next_id: u16,
}

impl Connect {
    /// Connects and must be let in.
    pub fn open(&self, port: u16) -> Client {
        let client = self.try_open(port).expect("a connection");
        assert_eq!(client.connack.code, 0, "{:?}", client.connack);
        client
    }

    /// Connects; the CONNACK may say anything.
    pub fn try_open(&self, port: u16) -> io::Result<Client> {
        let mut wire = Wire::new(dial(port)?, self.level);
        wire.send(&self.bytes())?;
        match wire.read(PATIENCE)? {
            Packet::Connack(connack) => Ok(Client {
                wire,
                connack,
                acknowledges: true,
                early: VecDeque::new(),
                unreleased: BTreeSet::new(),
                next_id: 0,
            }),
            packet => panic!("{packet:?} instead of a CONNACK"),
        }
    }
}

impl Client {
    pub fn id(&mut self) -> u16 {
        self.next_id = self.next_id % 65_535 + 1;
        self.next_id
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes).expect("the connection stands");
    }

    fn read(&mut self, patience: Duration) -> io::Result<Packet> {
        let packet = self.wire.read(patience)?;
        if self.acknowledges {
            match &packet {
                Packet::Publish(message) if message.qos == 1 => {
                    self.wire.send(&wire::ack(PUBACK, message.id))?;
                }
                Packet::Publish(message) if message.qos == 2 => {
                    self.wire.send(&wire::ack(PUBREC, message.id))?;
                }
                Packet::Ack(Ack { kind: PUBREL, id, .. }) => {
                    self.unreleased.remove(id);
                    self.wire.send(&wire::ack(PUBCOMP, *id))?;
                }
                _ => {}
            }
        }
        Ok(packet)
    }

    /// Whether a message counts: a QoS 2 message counts once until it is released.
    fn counts(&mut self, message: &Message) -> bool {
        message.qos < 2 || !self.acknowledges || self.unreleased.insert(message.id)
    }

    /// Reads until `wanted` takes something; messages on the way are kept for [`Client::next`].
    pub fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let packet = self.read(left).unwrap_or_else(|error| panic!("no {what}: {error}"));
            if let Some(found) = wanted(&packet) {
                return found;
            }
            if let Packet::Publish(message) = packet
                && self.counts(&message)
            {
                self.early.push_back(message);
            }
        }
    }

    /// Subscribes and returns the codes of the SUBACK.
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.subscribe_with(filters, &[])
    }

    pub fn subscribe_with(&mut self, filters: &[(&str, u8)], props: &[Property]) -> Vec<u8> {
        let id = self.id();
        let bytes = wire::subscribe(self.wire.level, id, filters, props);
        self.send(&bytes);
        self.wait("SUBACK", |packet| match packet {
            Packet::Suback { id: i, codes } if *i == id => Some(codes.clone()),
            _ => None,
        })
    }

    pub fn unsubscribe(&mut self, filter: &str) {
        let id = self.id();
        let bytes = wire::unsubscribe(self.wire.level, id, filter);
        self.send(&bytes);
        self.wait("UNSUBACK", |packet| match packet {
            Packet::Suback { id: i, .. } if *i == id => Some(()),
            _ => None,
        });
    }

    /// Publishes, through to the last acknowledgement; returns the first one's reason code.
    pub fn publish(&mut self, message: &Message) -> u8 {
        let id = self.publish_without_waiting(message);
        match message.qos {
            0 => 0,
            1 => self.wait_ack(PUBACK, id).code,
            _ => {
                let code = self.wait_ack(PUBREC, id).code;
                if code < 0x80 {
                    self.send(&wire::ack(PUBREL, id));
                    self.wait_ack(PUBCOMP, id);
                }
                code
            }
        }
    }

    /// Sends the PUBLISH only; returns the identifier it gave the message.
    pub fn publish_without_waiting(&mut self, message: &Message) -> u16 {
        let id = if message.qos > 0 { self.id() } else { 0 };
        let bytes = Message { id, ..message.clone() }.bytes(self.wire.level);
        self.send(&bytes);
        id
    }

    pub fn wait_ack(&mut self, kind: u8, id: u16) -> Ack {
        self.wait(&format!("acknowledgement {kind} of {id}"), |packet| match packet {
            Packet::Ack(ack) if ack.kind == kind && ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// A round trip: what was sent before it has been read by the other side.
    pub fn ping(&mut self) {
        self.send(&wire::PINGREQ);
        self.wait("PINGRESP", |packet| matches!(packet, Packet::Pingresp).then_some(()));
    }

    /// The next message.
    pub fn next(&mut self) -> Message {
        self.next_within(PATIENCE).expect("a message comes")
    }

    /// The next message is this one, which came by that `way`.
    pub fn expect(&mut self, sent: &Message, way: &str) {
        let got = self.next();
        assert_eq!(got.text(), sent.text(), "{way}");
        assert!(got.topic == sent.topic, "{way}: {}", sent.text());
        assert!(got.properties == sent.properties, "{way}: {}", sent.text());
    }

    /// The next message if one comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Option<Message> {
        if let Some(message) = self.early.pop_front() {
            return Some(message);
        }
        let deadline = Instant::now() + patience;
        loop {
            match self.read(deadline.saturating_duration_since(Instant::now())) {
                Ok(Packet::Publish(message)) => {
                    if self.counts(&message) {
                        return Some(message);
                    }
                }
                Ok(Packet::Disconnect { code }) => panic!("disconnected with {code:#x}"),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return None,
                Err(error) => panic!("no message: {error}"),
            }
        }
    }

    /// Messages up to the one whose payload is `last`, without it.
    pub fn until(&mut self, last: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next();
            if message.payload == last.as_bytes() {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Says goodbye and closes.
    pub fn disconnect(mut self) {
        self.send(&wire::DISCONNECT);
        self.wire.read_to_the_end();
    }

    /// Sends `bytes` and a PINGREQ behind them: the PINGRESP of a connection that goes on, or the
    /// last packet before its end.
    pub fn reaction(&mut self, bytes: &[u8]) -> Option<Packet> {
        self.send(&[bytes, &wire::PINGREQ].concat());
        let mut last = None;
        while let Ok(packet) = self.wire.read(PATIENCE) {
            let goes_on = matches!(packet, Packet::Pingresp);
            last = Some(packet);
            if goes_on {
                break;
            }
        }
        last
    }

    /// What is said until the other side closes the connection.
    pub fn wait_closed(&mut self) -> Vec<Packet> {
        self.wire.read_to_the_end()
    }

    /// Closes without a word, and waits until the other side has closed too.
    pub fn vanish(self) {
        drop(self);
    }
}
