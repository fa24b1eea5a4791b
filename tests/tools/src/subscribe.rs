//! `subscribe`: a client that counts what a broker delivers to it, by the same stamps as the sink.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::args::Args;
use crate::clock;
use crate::net::{self, Filled, Incoming, Outgoing, Poll, Waker};
use crate::receiver::{self, Owed, Session};
use crate::signals;
use crate::sink_main::say;
use crate::tally::Tally;
use crate::wire::{self, Malformed};

const RETRY_EVERY: u64 = 100 * clock::MILLISECOND;
const PING_EVERY: u64 = 10 * clock::SECOND;
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct Options {
    pub address: SocketAddr,
    pub client_id: String,
    pub version: u8,
    pub clean_start: bool,
    pub filters: Vec<String>,
    pub qos: u8,
}

#[derive(Default)]
pub struct Seen {
    pub tally: Tally,
    pub connects: u64,
    /// The SUBACK has come on this connection.
    pub subscribed: bool,
    pub refused: bool,
    pub resent: u64,
}

impl Seen {
    pub fn line(&self) -> String {
        format!("{} resent={} connects={}", self.tally.line(), self.resent, self.connects)
    }
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

/// A running subscriber that comes back after a lost connection; it ends when this is dropped.
pub struct Subscriber {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber {
    pub fn start(options: Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = poll.waker();
        let shared = Arc::new(Shared::default());
        let mut client = Client {
            options,
            poll,
            shared: shared.clone(),
            session: Session::default(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
        };
        let thread = std::thread::spawn(move || client.run());
        Ok(Subscriber { shared, waker, thread: Some(thread) })
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.shared)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that it has not printed.
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Seen> {
    // Whoever panicked has said so; the figures are still the best there are.
    shared.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Client {
    options: Options,
    poll: Poll,
    shared: Arc<Shared>,
    session: Session,
    incoming: Incoming,
    outgoing: Outgoing,
}

impl Client {
    fn run(&mut self) {
        while !self.stopped() {
            if let Ok(stream) = net::connect(self.options.address, PATIENCE) {
                if let Err(error) = self.serve(&stream) {
                    eprintln!("subscribe: {error}");
                }
                lock(&self.shared).subscribed = false;
            }
            let mut events = Vec::new();
            if self.poll.wait(&mut events, Some(clock::now() + RETRY_EVERY)).is_err() {
                return;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// One connection, from CONNECT to its end.
    fn serve(&mut self, stream: &TcpStream) -> Result<(), String> {
        self.incoming.clear();
        self.outgoing.clear();
        let (client_id, version) = (self.options.client_id.clone(), self.options.version);
        let clean_start = self.options.clean_start;
        let connect =
            wire::Connect { client_id: &client_id, version, clean_start, keepalive_s: 60 };
        wire::put_connect(&mut self.outgoing.data, &connect);
        self.poll.add(stream, 1, true, true).map_err(|e| e.to_string())?;
        let mut events = Vec::new();
        let (mut write_interest, mut written_at) = (true, clock::now());
        loop {
            if self.stopped() {
                self.outgoing.data.extend_from_slice(&[wire::DISCONNECT << 4, 0]);
                return self.outgoing.flush(stream).map_err(|e| e.to_string());
            }
            let now = clock::now();
            if now > written_at + PING_EVERY {
                self.outgoing.data.extend_from_slice(&[wire::PINGREQ << 4, 0]);
            }
            if !self.outgoing.is_empty() {
                written_at = now;
                self.outgoing.flush(stream).map_err(|e| e.to_string())?;
            }
            let write = !self.outgoing.is_empty();
            if write != write_interest {
                write_interest = write;
                self.poll.change(stream, 1, true, write).map_err(|e| e.to_string())?;
            }
            let deadline = written_at + PING_EVERY + clock::MILLISECOND;
            self.poll.wait(&mut events, Some(deadline)).map_err(|e| e.to_string())?;
            if !events.iter().any(|event| event.readable) {
                continue;
            }
            let filled = self.incoming.fill(stream);
            self.parse(clock::now()).map_err(|Malformed(what)| what.to_owned())?;
            if filled == Filled::Ended {
                return Err("the broker closed the connection".to_owned());
            }
        }
    }

    fn parse(&mut self, now: u64) -> Result<(), Malformed> {
        let version = self.options.version;
        let mut seen = lock(&self.shared);
        let mut owed = Owed::default();
        while let Some(frame) = wire::frame(self.incoming.data())? {
            let tally = &mut seen.tally;
            if !receiver::receive(now, &frame, version, &mut self.session, tally, &mut owed)? {
                match frame.kind {
                    wire::CONNACK => {
                        let (present, code, _) = wire::connack(frame.body, version)?;
                        if code != 0 {
                            seen.refused = true;
                            return Err(Malformed("CONNACK refuses"));
                        }
                        if !present {
                            self.session = Session::default();
                        }
                        seen.connects += 1;
                        let (filters, qos) = (&self.options.filters, self.options.qos);
                        wire::put_subscribe(&mut owed.bytes, 1, version, filters, qos);
                    }
                    wire::SUBACK => {
                        // Behind the id and, in MQTT 5, the empty properties: a code a filter.
                        let codes = frame.body.iter().rev().take(self.options.filters.len());
                        seen.refused |= codes.copied().any(|code| code >= 0x80);
                        seen.subscribed = true;
                    }
                    wire::PINGRESP => {}
                    _ => return Err(Malformed("the broker said goodbye or spoke out of turn")),
                }
            }
            let bytes = frame.bytes;
            self.incoming.consume(bytes);
        }
        seen.resent += owed.resent;
        self.outgoing.data.extend_from_slice(&owed.bytes);
        Ok(())
    }
}

/// Ends the session that a broker keeps for `client_id`; best effort.
pub fn forget(address: SocketAddr, client_id: &str) {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else { return };
    let mut out = Vec::new();
    let connect = wire::Connect { client_id, version: 4, clean_start: true, keepalive_s: 10 };
    wire::put_connect(&mut out, &connect);
    let mut connack = [0; 4];
    // A broker that does not answer has no session to end.
    let _ = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(&out))
        .and_then(|()| stream.read_exact(&mut connack))
        .and_then(|()| stream.write_all(&[wire::DISCONNECT << 4, 0]));
}

pub const USAGE: &str = "\
subscribe --connect HOST:PORT   count what a broker delivers; prints subscribed when it is
    --filter load/# (comma-separated)  --qos 2  --mqtt 4|5  --client-id ID  --persistent
    --until N (end after N different messages)  --seconds S
    SIGUSR1: figures   SIGTERM: end   exit status 1 when out of order, corrupt, refused or short";

pub fn main(mut args: Args) -> Result<bool, String> {
    let address = args.text("connect")?.ok_or("--connect HOST:PORT is missing")?;
    let filters: String = args.value("filter", "load/#".to_owned())?;
    let options = Options {
        address: net::address(&address)?,
        client_id: args.value("client-id", format!("subscribe-{:08x}", clock::run_number()))?,
        version: args.value("mqtt", 4)?,
        clean_start: !args.flag("persistent"),
        filters: filters.split(',').map(str::to_owned).collect(),
        qos: args.value("qos", 2)?,
    };
    let until: Option<u64> = args.option("until")?;
    let seconds: Option<f64> = args.option("seconds")?;
    args.finish()?;
    signals::install();
    let subscriber = Subscriber::start(options).map_err(|e| e.to_string())?;
    let deadline = seconds.map(|s| clock::now() + (s * 1e9) as u64);
    let mut announced = false;
    loop {
        std::thread::sleep(Duration::from_millis(5));
        let seen = subscriber.seen();
        if seen.subscribed && !announced {
            announced = true;
            say("subscribed");
        }
        if signals::figures_wanted() {
            say(&seen.line());
        }
        let enough = until.is_some_and(|n| seen.tally.totals(None).unique >= n);
        let over = deadline.is_some_and(|d| clock::now() >= d);
        if enough || over || signals::stop_wanted() || seen.refused {
            break;
        }
    }
    let seen = subscriber.seen();
    say(&seen.line());
    let (totals, tally) = (seen.tally.totals(None), &seen.tally);
    let clean = totals.out_of_order == 0 && tally.corrupt == 0 && tally.misrouted == 0;
    Ok(clean && !seen.refused && until.is_none_or(|n| totals.unique >= n))
}
