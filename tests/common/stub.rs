//! A remote that does exactly what a test tells it, packet by packet.

use super::client::Wire;
use super::place::free_port;
use super::wire::{self, Ack, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Property};
use super::{PATIENCE, proxy, wait_until};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a connection of the gateway to the stub brought.
#[derive(Clone, Debug)]
pub enum Seen {
    Connect(Connect),
    Subscribe(Vec<(String, u8)>),
    Unsubscribe(Vec<String>),
    Publish(Message),
    Release(u16),
    /// PUBREC for a message of ours.
    Received(u16),
    /// Another acknowledgement the script wrote down: its kind and identifier.
    Acked(u8, u16),
    Ping,
    Disconnect(u8),
    /// The connection ended.
    End,
}

type Journal = Arc<Mutex<Vec<Seen>>>;

pub struct Stub {
    pub port: u16,
    journal: Journal,
    ended: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Stub {
    /// Runs `script` for every connection, in a thread of its own. It gets the number of the
    /// connection; an error or its end closes the connection.
    pub fn start<S>(script: S) -> Self
    where
        S: Fn(&mut Session, usize) -> std::io::Result<()> + Send + Sync + 'static,
    {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let (journal, ended) = (Journal::default(), Arc::new(AtomicBool::new(false)));
        let open = Arc::new(Mutex::new(Vec::new()));
        let stub = Self { port, journal, ended, open };
        let (journal, ended) = (Arc::clone(&stub.journal), Arc::clone(&stub.ended));
        let (open, script) = (Arc::clone(&stub.open), Arc::new(script));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let clone = stream.try_clone().expect("a socket");
                open.lock().expect("no holder panics").push(clone);
                let (journal, script) = (Arc::clone(&journal), Arc::clone(&script));
                thread::spawn(move || {
                    let wire = Wire::new(stream, 5);
                    let mut session = Session { wire, journal: Arc::clone(&journal) };
                    let _ = script(&mut session, number);
                    let _ = session.wire.stream.shutdown(Shutdown::Both);
                    journal.lock().expect("no holder panics").push(Seen::End);
                });
            }
        });
        stub
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.journal.lock().expect("no holder panics").clone()
    }

    pub fn connects(&self) -> Vec<Connect> {
        let connect = |seen| match seen {
            Seen::Connect(connect) => Some(connect),
            _ => None,
        };
        self.seen().into_iter().filter_map(connect).collect()
    }

    pub fn published(&self) -> Vec<Message> {
        let message = |seen| match seen {
            Seen::Publish(message) => Some(message),
            _ => None,
        };
        self.seen().into_iter().filter_map(message).collect()
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut(&[Seen]) -> bool) {
        wait_until(what, || holds(&self.journal.lock().expect("no holder panics")));
    }

    pub fn wait_published(&self, count: usize) -> Vec<Message> {
        self.wait(&format!("{count} publishes"), |seen| {
            seen.iter().filter(|seen| matches!(seen, Seen::Publish(_))).count() >= count
        });
        self.published()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for stream in self.open.lock().expect("no holder panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// One connection of the gateway, seen from the stub.
pub struct Session {
    pub wire: Wire,
    journal: Journal,
}

impl Session {
    /// The next packet, written into the journal.
    pub fn read(&mut self) -> std::io::Result<Packet> {
        self.read_within(PATIENCE * 2)
    }

    pub fn read_within(&mut self, patience: Duration) -> std::io::Result<Packet> {
        let packet = self.wire.read(patience)?;
        let seen = match &packet {
            Packet::Connect(connect) => {
                self.wire.level = connect.level & 0x7F;
                Some(Seen::Connect(connect.clone()))
            }
            Packet::Subscribe { filters, .. } => Some(Seen::Subscribe(filters.clone())),
            Packet::Unsubscribe { filters, .. } => Some(Seen::Unsubscribe(filters.clone())),
            Packet::Publish(message) => Some(Seen::Publish(message.clone())),
            Packet::Ack(Ack { kind: PUBREL, id, .. }) => Some(Seen::Release(*id)),
            Packet::Ack(Ack { kind: PUBREC, id, .. }) => Some(Seen::Received(*id)),
            Packet::Pingreq => Some(Seen::Ping),
            Packet::Disconnect { code } => Some(Seen::Disconnect(*code)),
            _ => None,
        };
        self.journal.lock().expect("no holder panics").extend(seen);
        Ok(packet)
    }

    /// Writes an acknowledgement into the journal.
    pub fn note(&mut self, kind: u8, id: u16) {
        self.journal.lock().expect("no holder panics").push(Seen::Acked(kind, id));
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.wire.send(bytes)
    }

    /// Ends the connection with RST.
    pub fn reset(&mut self) {
        proxy::reset(&self.wire.stream);
    }

    /// Takes the CONNECT and answers it.
    pub fn greet(
        &mut self,
        session_present: bool,
        code: u8,
        properties: &[Property],
    ) -> std::io::Result<Connect> {
        self.greet_with(code, properties, |_| session_present)
    }

    /// The same; whether the session is present is decided between the two.
    pub fn greet_with(
        &mut self,
        code: u8,
        properties: &[Property],
        session_present: impl FnOnce(&Connect) -> bool,
    ) -> std::io::Result<Connect> {
        let Packet::Connect(connect) = self.read()? else { panic!("no CONNECT first") };
        let mut body = vec![u8::from(session_present(&connect)), code];
        if self.wire.level == 5 {
            body.extend(wire::properties(properties));
        }
        self.send(&wire::packet(0x20, &body))?;
        Ok(connect)
    }

    pub fn suback(&mut self, id: u16, codes: &[u8]) -> std::io::Result<()> {
        self.acknowledge(0x90, id, codes)
    }

    fn acknowledge(&mut self, first: u8, id: u16, codes: &[u8]) -> std::io::Result<()> {
        let mut body = id.to_be_bytes().to_vec();
        if self.wire.level == 5 {
            body.push(0);
        }
        body.extend(codes);
        self.send(&wire::packet(first, &body))
    }

    /// What any server answers to this packet.
    pub fn answer(&mut self, packet: &Packet) -> std::io::Result<()> {
        match packet {
            Packet::Publish(message) if message.qos == 1 => {
                self.send(&wire::ack(PUBACK, message.id))
            }
            Packet::Publish(message) if message.qos == 2 => {
                self.send(&wire::ack(PUBREC, message.id))
            }
            Packet::Ack(Ack { kind: PUBREL, id, .. }) => self.send(&wire::ack(PUBCOMP, *id)),
            Packet::Subscribe { id, filters, .. } => {
                let codes: Vec<u8> = filters.iter().map(|(_, options)| options & 3).collect();
                self.suback(*id, &codes)
            }
            Packet::Unsubscribe { id, filters } => {
                let codes: &[u8] = if self.wire.level == 5 { &vec![0; filters.len()] } else { &[] };
                self.acknowledge(0xB0, *id, codes)
            }
            Packet::Pingreq => self.send(&wire::PINGRESP),
            _ => Ok(()),
        }
    }

    /// Answers like a good server until a SUBSCRIBE comes, which is not answered.
    pub fn read_until_subscribed(&mut self) -> std::io::Result<Packet> {
        loop {
            let packet = self.read()?;
            if matches!(packet, Packet::Subscribe { .. }) {
                return Ok(packet);
            }
            self.answer(&packet)?;
        }
    }

    /// Answers everything like a good server until the connection ends.
    pub fn serve(&mut self) -> std::io::Result<()> {
        loop {
            let packet = self.read()?;
            self.answer(&packet)?;
        }
    }
}
