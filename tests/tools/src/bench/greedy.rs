//! One kind of greedy client after the other, each against a gateway of its own whose bridge is
//! up and idle: what its neighbours wait for a PINGRESP, for the PUBACK of three bytes to the
//! bridge, and to be let in with a small will; what it costs, and how much is written to the log.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Options;
use super::pinger::Pinger;
use super::rig::{Rig, Wish};
use crate::clock;
use crate::histogram::Histogram;
use crate::wire;

/// Neighbours wait no longer for anything: that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Greedy clients look so often whether their time is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const SESSION_EXPIRY: u8 = 0x11;
const WILL_DELAY: u8 = 0x18;
const USER_PROPERTY: u8 = 0x26;

/// What one does over a connection of his own, again and again, until his time is over.
type Act = fn(&mut Greedy, u32) -> io::Result<()>;

struct Row {
    name: &'static str,
    clients: u32,
    act: Act,
    extra: &'static [&'static str],
}

const PACED: &[&str] = &[
    "bridge.remote.forward.2.local_topic = paced/#",
    "bridge.remote.forward.2.rate = 1/s",
    "bridge.remote.forward.2.max_messages = 100",
];

const ROWS: &[Row] = &[
    row("subscribers that acknowledge nothing", 13, acknowledge_nothing),
    row("QoS 2 that is never released", 8, release_nothing),
    row("wills of 65 KB of clients that are cut", 4, large_wills),
    row("kept sessions by the hundred", 4, keep_sessions),
    row("halves of a CONNECT", 8, half_connect),
    row("halves of a SUBSCRIBE", 8, half_subscribe),
    row("PUBLISHes of 200 KB that drip", 12, drip),
    row("wide subscriptions to 1024 values", 8, subscribe_widely),
    row("a slow reader that subscribes anew", 4, read_slowly),
    row("wills of clients that vanish", 8, vanish),
    row("64 KiB of properties", 4, properties),
    Row { extra: PACED, ..row("300 topics of a paced rule", 4, paced) },
];

const fn row(name: &'static str, clients: u32, act: Act) -> Row {
    Row { name, clients, act, extra: &[] }
}

pub fn run(options: &Options, seconds: f64) -> Result<(), String> {
    println!(
        "{:38}{:>10}{:>10}{:>10}{:>8}{:>7}{:>13}{:>7}",
        "", "PINGRESP", "PUBACK", "let in", "failed", "CPU", "memory", "log"
    );
    println!(
        "{:38}{:>10}{:>10}{:>10}{:>8}{:>7}{:>13}{:>7}",
        format!("greedy for {seconds} s each"),
        "p99 ms",
        "p99 ms",
        "p99 ms",
        "",
        "%",
        "% of plan",
        "lines"
    );
    for row in ROWS {
        let extra: Vec<String> = row.extra.iter().map(|line| (*line).to_owned()).collect();
        let wish = Wish { cuttable: false, extra: &extra, ..Wish::of(options) };
        one(row, &wish, seconds)?;
    }
    Ok(())
}

fn one(row: &Row, wish: &Wish<'_>, seconds: f64) -> Result<(), String> {
    let mut rig = Rig::start(wish)?;
    let planned = rig.gateway.log().planned_kib.ok_or("the gateway never said its plan")?;
    let ended = Arc::<AtomicBool>::default();
    let mut pinger = Pinger::start(rig.listen)?;
    let neighbours = [Neighbour::start(rig.listen, &ended, publish), {
        Neighbour::start(rig.listen, &ended, come_in)
    }];
    let (cpu, begun) = (rig.figures().cpu_ns, clock::now());
    let lines = rig.gateway.log().lines;
    let address = rig.listen;
    let crowd: Vec<JoinHandle<()>> = (0..row.clients)
        .map(|number| {
            let (ended, act) = (ended.clone(), row.act);
            thread::spawn(move || {
                let mut greedy = Greedy { address, ended, number, round: 0 };
                while !greedy.is_over() {
                    // Closed or refused: he comes again.
                    if act(&mut greedy, number).is_err() {
                        thread::sleep(Duration::from_millis(20));
                    }
                    greedy.round += 1;
                }
            })
        })
        .collect();
    while clock::now() < begun + (seconds * 1e9) as u64 {
        rig.pause()?;
    }
    let spent = (rig.figures().cpu_ns - cpu) as f64 / (clock::now() - begun) as f64;
    ended.store(true, Ordering::Relaxed);
    let mut failed = 0;
    let pings = pinger.stop().unwrap_or_else(|_| {
        failed += 1;
        Histogram::default()
    });
    let [acks, greetings] = neighbours.map(|neighbour| neighbour.thread.join());
    for greedy in crowd {
        greedy.join().map_err(|_| "a greedy client panicked")?;
    }
    rig.gateway.alive()?;
    let mut p99 = vec![pings.percentile(0.99) as f64 / 1e6];
    for waits in [acks, greetings] {
        let (waits, count) = waits.map_err(|_| "a neighbour panicked")?;
        failed += count;
        p99.push(waits.percentile(0.99) as f64 / 1e6);
    }
    let peak = rig.figures().rss_peak_kib as f64 * 100.0 / planned as f64;
    let lines = rig.gateway.log().lines - lines;
    println!(
        "{:38}{:>10.1}{:>10.1}{:>10.1}{:>8}{:>7.0}{:>13.0}{:>7}",
        row.name,
        p99[0],
        p99[1],
        p99[2],
        failed,
        spent * 100.0,
        peak,
        lines
    );
    Ok(())
}

/// Asks for something again and again, and counts how long that takes and how often it fails.
struct Neighbour {
    thread: JoinHandle<(Histogram, u64)>,
}

impl Neighbour {
    fn start(
        address: SocketAddr,
        ended: &Arc<AtomicBool>,
        ask: fn(SocketAddr, &mut Option<TcpStream>, u32) -> io::Result<()>,
    ) -> Self {
        let ended = ended.clone();
        let thread = thread::spawn(move || {
            let (mut waits, mut failed, mut stream) = (Histogram::default(), 0, None);
            let mut round = 0;
            while !ended.load(Ordering::Relaxed) {
                round += 1;
                let asked = clock::now();
                match ask(address, &mut stream, round) {
                    Ok(()) => waits.record(clock::now() - asked),
                    Err(_) => {
                        failed += 1;
                        stream = None;
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
            (waits, failed)
        });
        Neighbour { thread }
    }
}

/// Three bytes for the bridge, from one that stays connected.
fn publish(address: SocketAddr, stream: &mut Option<TcpStream>, _: u32) -> io::Result<()> {
    if stream.is_none() {
        *stream = Some(enter(address, &connect("neighbour", 4, &[], None))?);
    }
    let Some(stream) = stream else { return Ok(()) };
    stream.write_all(&message("load/n", 4, &[], b"abc"))?;
    stream.read_exact(&mut [0; 4])
}

/// One after the other, with a will of 100 bytes.
fn come_in(address: SocketAddr, _: &mut Option<TcpStream>, round: u32) -> io::Result<()> {
    let will = ("load/w", &[b'w'; 100][..], &[][..]);
    let mut guest = enter(address, &connect(&format!("guest-{round}"), 4, &[], Some(will)))?;
    guest.write_all(&[wire::DISCONNECT << 4, 0])
}

struct Greedy {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    number: u32,
    round: u32,
}

impl Greedy {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn name(&self) -> String {
        format!("greedy-{}-{}", self.number, self.round)
    }

    fn enter(&self, version: u8) -> io::Result<TcpStream> {
        enter(self.address, &connect(&self.name(), version, &[], None))
    }

    /// Does `act` from time to time, reads nothing, until the other side or his time ends it.
    fn stay(
        &self,
        stream: &mut TcpStream,
        mut act: impl FnMut(&mut TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        while !self.is_over() {
            act(stream)?;
            match stream.read(&mut [0; 4096]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn nothing(_: &mut TcpStream) -> io::Result<()> {
    Ok(())
}

fn acknowledge_nothing(greedy: &mut Greedy, number: u32) -> io::Result<()> {
    let mut stream = greedy.enter(4)?;
    if number > 0 {
        wire_subscribe(&mut stream, &["greedy/#".into()])?;
        return greedy.stay(&mut stream, nothing);
    }
    let large = message("greedy/x", 4, &[], &[b'x'; 60_000]);
    greedy.stay(&mut stream, |stream| stream.write_all(&large))
}

fn release_nothing(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut packet = connect(&format!("kept-{}", greedy.number), 4, &[], None);
    // Not a clean session.
    packet[9] &= !2;
    let mut stream = enter(greedy.address, &packet)?;
    let mut all = Vec::new();
    for id in 1..=1024 {
        wire::put_publish_head(&mut all, 4, 2, b"greedy/2", id, 0);
    }
    stream.write_all(&all)?;
    greedy.stay(&mut stream, nothing)
}

fn large_wills(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let for_ever = property(SESSION_EXPIRY, &[0xFF; 4]);
    let later = property(WILL_DELAY, &[0xFF; 4]);
    let will = ("greedy/will", &[b'w'; 65_000][..], &later[..]);
    drop(enter(greedy.address, &connect(&greedy.name(), 5, &for_ever, Some(will)))?);
    Ok(())
}

fn keep_sessions(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let day = property(SESSION_EXPIRY, &86_400_u32.to_be_bytes());
    let mut stream = enter(greedy.address, &connect(&greedy.name(), 5, &day, None))?;
    stream.write_all(b"\x82\x0B\0\x01\0\0\x05greed\x01")?;
    stream.read_exact(&mut [0; 6])
}

/// The beginning of a packet, of one that has been let in or not.
fn half(greedy: &Greedy, packet: &[u8], inside: bool) -> io::Result<()> {
    let mut stream = if inside { greedy.enter(4)? } else { TcpStream::connect(greedy.address)? };
    stream.write_all(&packet[..2100])?;
    greedy.stay(&mut stream, nothing)
}

fn half_connect(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let will = ("greedy/will", &[b'w'; 50_000][..], &[][..]);
    half(greedy, &connect("half", 5, &[], Some(will)), false)
}

fn half_subscribe(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let filters: Vec<String> = (0..400).map(|n| format!("{}/{n}", "f".repeat(90))).collect();
    let mut packet = Vec::new();
    wire::put_subscribe(&mut packet, 1, 4, &filters, 1);
    half(greedy, &packet, true)
}

fn drip(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut stream = greedy.enter(4)?;
    let large = message("greedy/drip", 4, &[], &[b'x'; 200_000]);
    stream.write_all(&large[..5000])?;
    greedy.stay(&mut stream, |stream| stream.write_all(b"x"))
}

fn subscribe_widely(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut stream = greedy.enter(4)?;
    for n in 0..1024 / 8 {
        let topic = format!("{}-{n}/v", greedy.number);
        let mut value = message(&topic, 4, &[], b"v");
        value[0] |= 1;
        stream.write_all(&value)?;
    }
    let filters: Vec<String> = (0..760).map(|n| format!("+/{n}")).collect();
    greedy.stay(&mut stream, |stream| wire_subscribe(stream, &filters))
}

fn read_slowly(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut stream = greedy.enter(4)?;
    let name = greedy.name();
    let large = message(&format!("{name}/x"), 4, &[], &[b'x'; 60_000]);
    greedy.stay(&mut stream, |stream| {
        wire_subscribe(stream, &[format!("{name}/#")])?;
        stream.write_all(&large)?;
        wire_subscribe(stream, &[format!("{name}/+")])
    })
}

fn vanish(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let will = ("load/will", &[b'w'; 500][..], &[][..]);
    drop(enter(greedy.address, &connect(&greedy.name(), 4, &[], Some(will)))?);
    Ok(())
}

fn properties(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut stream = greedy.enter(5)?;
    let mut text = vec![0, 1, b'k', 0xFA, 0];
    text.resize(5 + 0xFA00, b'v');
    let large = message("load/p", 5, &property(USER_PROPERTY, &text), b"x");
    greedy.stay(&mut stream, |stream| stream.write_all(&large))
}

fn paced(greedy: &mut Greedy, _: u32) -> io::Result<()> {
    let mut stream = greedy.enter(4)?;
    let mut topic = 0;
    greedy.stay(&mut stream, |stream| {
        for _ in 0..50 {
            topic = (topic + 1) % 300;
            stream.write_all(&message(&format!("paced/{topic}"), 4, &[], b"abc"))?;
        }
        Ok(())
    })
}

fn property(id: u8, value: &[u8]) -> Vec<u8> {
    [&[id], value].concat()
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn block(out: &mut Vec<u8>, version: u8, properties: &[u8]) {
    if version == 5 {
        wire::put_varint(out, properties.len());
        out.extend_from_slice(properties);
    }
}

/// A CONNECT with a clean session; a will is its topic, payload and properties.
fn connect(
    client_id: &str,
    version: u8,
    properties: &[u8],
    will: Option<(&str, &[u8], &[u8])>,
) -> Vec<u8> {
    let flags = if will.is_some() { 6 } else { 2 };
    let mut body = [&b"\0\x04MQTT"[..], &[version, flags, 0, 60]].concat();
    block(&mut body, version, properties);
    sized(&mut body, client_id.as_bytes());
    if let Some((topic, payload, properties)) = will {
        block(&mut body, version, properties);
        sized(&mut body, topic.as_bytes());
        sized(&mut body, payload);
    }
    let mut out = Vec::new();
    wire::put_packet(&mut out, wire::CONNECT << 4, &body);
    out
}

/// At QoS 1.
fn message(topic: &str, version: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    sized(&mut body, topic.as_bytes());
    body.extend_from_slice(&[0, 1]);
    block(&mut body, version, properties);
    body.extend_from_slice(payload);
    let mut out = Vec::new();
    wire::put_packet(&mut out, wire::PUBLISH << 4 | 2, &body);
    out
}

fn wire_subscribe(stream: &mut TcpStream, filters: &[String]) -> io::Result<()> {
    let mut packet = Vec::new();
    wire::put_subscribe(&mut packet, 1, 4, filters, 1);
    stream.write_all(&packet)
}

/// Sends a CONNECT and is let in.
fn enter(address: SocketAddr, connect: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Who does not read must not block him for ever.
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(connect)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    // In MQTT 5 properties follow.
    stream.read_exact(&mut vec![0; usize::from(head[1]).saturating_sub(2)])?;
    match head[3] {
        0 => Ok(stream),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}
