//! `sink`: a cheap MQTT server that plays the remote. It acknowledges what one read brought with
//! one write, can answer late (a round trip), and judges what came by its stamps. It never
//! delivers anything and keeps no retained messages.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::clock;
use crate::net::{Event, Filled, Incoming, Outgoing, Poll, Waker};
use crate::receiver::{self, Owed, Session};
use crate::tally::Tally;
use crate::wire::{self, Fields, Frame, Malformed};

const LISTENER: u64 = 0;

#[derive(Clone, Copy)]
pub struct Options {
    pub port: u16,
    /// Every answer leaves so many nanoseconds after its question: the round trip.
    pub delay: u64,
    /// Announced to MQTT 5 clients.
    pub receive_maximum: Option<u16>,
    /// false: each CONNACK says session present = 0.
    pub keep_sessions: bool,
    /// Never acknowledge a PUBLISH.
    pub mute: bool,
}

/// What the sink has seen, readable while it runs.
#[derive(Default)]
pub struct Seen {
    pub tally: Tally,
    pub connects: u64,
    pub subscriptions: u64,
    pub pings: u64,
    /// PUBLISH packets with DUP.
    pub resent: u64,
    /// Most messages one connection had open at once.
    pub inflight_max: u64,
    pub malformed: u64,
    pub connected: u64,
}

impl Seen {
    pub fn line(&self) -> String {
        format!(
            "{} resent={} connects={} subscriptions={} pings={} inflight_max={} malformed={}",
            self.tally.line(),
            self.resent,
            self.connects,
            self.subscriptions,
            self.pings,
            self.inflight_max,
            self.malformed
        )
    }
}

struct Shared {
    seen: Mutex<Seen>,
    delay: AtomicU64,
    stop: AtomicBool,
}

/// A running sink; it ends when this is dropped.
pub struct Sink {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, true, false)?;
        let waker = poll.waker();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            delay: AtomicU64::new(options.delay),
            stop: AtomicBool::new(false),
        });
        let mut server = Server {
            options,
            listener,
            poll,
            shared: shared.clone(),
            connections: HashMap::new(),
            sessions: HashMap::new(),
            next_token: LISTENER + 1,
        };
        let thread = std::thread::spawn(move || {
            if let Err(error) = server.run() {
                eprintln!("sink: {error}");
            }
        });
        Ok(Sink { address, shared, waker, thread: Some(thread) })
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic in the server's thread has been printed; its figures are still the best we have.
        self.shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn set_delay(&self, nanos: u64) {
        self.shared.delay.store(nanos, Ordering::Relaxed);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that it has not printed.
            let _ = thread.join();
        }
    }
}

struct Connection {
    stream: TcpStream,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Answers that wait for their time.
    late: VecDeque<(u64, Owed)>,
    client: Option<Client>,
    open: u64,
    write_interest: bool,
}

struct Client {
    id: Vec<u8>,
    version: u8,
    session: Session,
}

struct Server {
    options: Options,
    listener: TcpListener,
    poll: Poll,
    shared: Arc<Shared>,
    connections: HashMap<u64, Connection>,
    sessions: HashMap<Vec<u8>, Session>,
    next_token: u64,
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        while !self.shared.stop.load(Ordering::SeqCst) {
            let due = self.connections.values().filter_map(|c| c.late.front().map(|l| l.0)).min();
            self.poll.wait(&mut events, due)?;
            let now = clock::now();
            for Event { token, readable, .. } in events.iter().copied() {
                if token == LISTENER {
                    self.accept()?;
                } else if readable {
                    self.readable(now, token);
                }
            }
            self.answer(now)?;
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let token = self.next_token;
            self.next_token += 1;
            self.poll.add(&stream, token, true, false)?;
            let connection = Connection {
                stream,
                incoming: Incoming::default(),
                outgoing: Outgoing::default(),
                late: VecDeque::new(),
                client: None,
                open: 0,
                write_interest: false,
            };
            self.connections.insert(token, connection);
        }
        Ok(())
    }

    fn readable(&mut self, now: u64, token: u64) {
        let Some(mut connection) = self.connections.remove(&token) else { return };
        let filled = connection.incoming.fill(&connection.stream);
        match self.parse(now, &mut connection) {
            Ok(true) if filled != Filled::Ended => {
                self.connections.insert(token, connection);
                return;
            }
            Ok(_) => {}
            Err(Malformed(what)) => {
                eprintln!("sink: {what}");
                self.seen().malformed += 1;
            }
        }
        self.part(connection);
    }

    /// The connection is over; its session is kept.
    fn part(&mut self, connection: Connection) {
        if let Some(client) = connection.client {
            self.sessions.insert(client.id, client.session);
            self.seen().connected -= 1;
        }
    }

    /// False when the client said goodbye.
    fn parse(&mut self, now: u64, connection: &mut Connection) -> Result<bool, Malformed> {
        let shared = self.shared.clone();
        let mut seen = lock(&shared);
        let mut owed = Owed::default();
        let mut going_on = true;
        while let Some(frame) = wire::frame(connection.incoming.data())? {
            let bytes = frame.bytes;
            match &mut connection.client {
                None => {
                    let client = self.connect(&frame, &mut owed, &mut seen)?;
                    connection.open = client.session.begun();
                    connection.client = Some(client);
                }
                Some(client) => {
                    let (version, tally) = (client.version, &mut seen.tally);
                    let session = &mut client.session;
                    if !receiver::receive(now, &frame, version, session, tally, &mut owed)? {
                        going_on &= other(&frame, version, &mut owed, &mut seen)?;
                    }
                }
            }
            connection.incoming.consume(bytes);
        }
        connection.open += u64::from(owed.begun);
        seen.inflight_max = seen.inflight_max.max(connection.open);
        seen.resent += owed.resent;
        if self.options.mute && owed.begun > 0 {
            return Ok(going_on);
        }
        let delay = self.shared.delay.load(Ordering::Relaxed);
        if !owed.bytes.is_empty() {
            connection.late.push_back((now + delay, owed));
        }
        Ok(going_on)
    }

    fn connect(
        &mut self,
        frame: &Frame<'_>,
        owed: &mut Owed,
        seen: &mut Seen,
    ) -> Result<Client, Malformed> {
        let mut fields = Fields(frame.body);
        let name = fields.text()?;
        if frame.kind != wire::CONNECT || (name != b"MQTT" && name != b"MQIsdp") {
            return Err(Malformed("the first packet is not CONNECT"));
        }
        // A bridge sets the top bit of the protocol level.
        let version = fields.u8()? & 0x7f;
        let clean = fields.u8()? & 2 != 0;
        fields.u16()?;
        if version == 5 {
            fields.properties()?;
        }
        let id = fields.text()?.to_vec();
        self.take_over(&id, seen);
        let kept = self.sessions.remove(&id).filter(|_| !clean && self.options.keep_sessions);
        let mut body = vec![u8::from(kept.is_some()), 0];
        if version == 5 {
            match self.options.receive_maximum {
                Some(maximum) => {
                    body.extend_from_slice(&[3, 0x21]);
                    body.extend_from_slice(&maximum.to_be_bytes());
                }
                None => body.push(0),
            }
        }
        wire::put_packet(&mut owed.bytes, wire::CONNACK << 4, &body);
        seen.connects += 1;
        seen.connected += 1;
        Ok(Client { id, version, session: kept.unwrap_or_default() })
    }

    /// An older connection of the same client gives way [MQTT-3.1.4-2].
    fn take_over(&mut self, id: &[u8], seen: &mut Seen) {
        let is_older = |c: &Connection| c.client.as_ref().is_some_and(|client| client.id == id);
        let older = self.connections.iter().find(|(_, c)| is_older(c)).map(|(token, _)| *token);
        if let Some(Connection { client: Some(client), .. }) =
            older.and_then(|token| self.connections.remove(&token))
        {
            self.sessions.insert(client.id, client.session);
            seen.connected -= 1;
        }
    }

    /// Writes the answers whose time has come, one write a connection.
    fn answer(&mut self, now: u64) -> io::Result<()> {
        let mut broken = Vec::new();
        for (token, connection) in &mut self.connections {
            while connection.late.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, owed)) = connection.late.pop_front() {
                    connection.open -= u64::from(owed.completed);
                    connection.outgoing.data.extend_from_slice(&owed.bytes);
                }
            }
            if !connection.outgoing.is_empty()
                && connection.outgoing.flush(&connection.stream).is_err()
            {
                broken.push(*token);
                continue;
            }
            let write = !connection.outgoing.is_empty();
            if write != connection.write_interest {
                connection.write_interest = write;
                self.poll.change(&connection.stream, *token, true, write)?;
            }
        }
        for token in broken {
            if let Some(connection) = self.connections.remove(&token) {
                self.part(connection);
            }
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.shared)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Seen> {
    // A reader that panicked has changed nothing.
    shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT. False for the last.
fn other(
    frame: &Frame<'_>,
    version: u8,
    owed: &mut Owed,
    seen: &mut Seen,
) -> Result<bool, Malformed> {
    match frame.kind {
        wire::SUBSCRIBE | wire::UNSUBSCRIBE => {
            let subscribing = frame.kind == wire::SUBSCRIBE;
            let mut fields = Fields(frame.body);
            let mut body = fields.u16()?.to_be_bytes().to_vec();
            if version == 5 {
                fields.properties()?;
                body.push(0);
            }
            while !fields.0.is_empty() {
                fields.text()?;
                if subscribing {
                    body.push(fields.u8()? & 3);
                    seen.subscriptions += 1;
                } else if version == 5 {
                    body.push(0);
                }
            }
            let kind = if subscribing { wire::SUBACK } else { wire::UNSUBACK };
            wire::put_packet(&mut owed.bytes, kind << 4, &body);
        }
        wire::PINGREQ => {
            seen.pings += 1;
            owed.bytes.extend_from_slice(&[wire::PINGRESP << 4, 0]);
        }
        wire::DISCONNECT => return Ok(false),
        _ => return Err(Malformed("a packet no client sends to this sink")),
    }
    Ok(true)
}
