//! The resolver against name servers made of a thread and a socket on loopback.

use super::wire::tests::{a, cname, reply};
use super::*;
use mio::{Events, Poll};
use simple_dns::rdata::RData;
use simple_dns::{Packet, RCODE};
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant as RealInstant;

static DIRS: AtomicU16 = AtomicU16::new(0);

/// A directory with a `resolv.conf` and a `hosts` file, gone at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(resolv_conf: &str) -> Self {
        let number = DIRS.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("spillway-dns-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("resolv.conf"), resolv_conf).unwrap();
        std::fs::write(dir.join("hosts"), "192.0.2.99 printer\n").unwrap();
        Self(dir)
    }

    fn paths(&self, port: u16) -> Paths {
        Paths { resolv_conf: self.0.join("resolv.conf"), hosts: self.0.join("hosts"), port }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a server says to a question: `None` = nothing.
type Script = fn(name: &str, query: &[u8]) -> Option<Vec<u8>>;

/// Answers datagrams and streams on one port until the process ends.
fn server(ip: &str, port: u16, script: Script) -> u16 {
    let (udp, tcp) = both(ip, port);
    let port = udp.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((count, from)) = udp.recv_from(&mut bytes) {
            if let Some(answer) = script(&name_of(&bytes[..count]), &bytes[..count]) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query).unwrap();
                let name = format!("tcp:{}", name_of(&query));
                if let Some(answer) = script(&name, &query) {
                    let bytes = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    // Split on purpose.
                    stream.write_all(&bytes).unwrap();
                    stream.write_all(&answer[..5]).unwrap();
                    stream.write_all(&answer[5..]).unwrap();
                }
            }
        }
    });
    port
}

/// A datagram socket and a listener of one number. One that is free for datagrams (0 = any) may be
/// somebody's for streams: then it is another one's turn.
fn both(ip: &str, port: u16) -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((ip, port)).unwrap();
        match TcpListener::bind((ip, udp.local_addr().unwrap().port())) {
            Ok(tcp) => return (udp, tcp),
            Err(error) => assert!(port == 0, "{ip}:{port} is taken: {error}"),
        }
    }
}

fn name_of(query: &[u8]) -> String {
    Packet::parse(query).unwrap().questions[0].qname.to_string()
}

/// A at 192.0.2.1 for A questions, nothing for AAAA.
fn one_address(query: &[u8], name: &str) -> Vec<u8> {
    let name = name.trim_start_matches("tcp:").to_owned();
    let wants_a = Packet::parse(query).unwrap().questions[0].qtype
        == simple_dns::QTYPE::TYPE(simple_dns::TYPE::A);
    let records: Vec<(&str, RData<'static>)> =
        if wants_a { vec![(name.as_str(), a([192, 0, 2, 1]))] } else { vec![] };
    reply(query, RCODE::NoError, &records)
}

struct Bench {
    poll: Poll,
    resolver: Resolver,
    real: RealInstant,
    /// Time skipped beside the real.
    skipped: Duration,
}

impl Bench {
    fn new(paths: Paths) -> Self {
        Self {
            poll: Poll::new().unwrap(),
            resolver: Resolver::new(paths, 2, 0, 1),
            #[allow(clippy::disallowed_methods)] // A test has to wait for real sockets.
            real: RealInstant::now(),
            skipped: Duration::ZERO,
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO.plus(self.real.elapsed() + self.skipped)
    }

    fn ask(&mut self, host: &str) -> Answer {
        let now = self.now();
        self.resolver.resolve(now, self.poll.registry(), 1, host, 1883, None);
        self.wait()
    }

    /// Runs until there is an answer; when nothing comes in for 50 ms time jumps to the next
    /// deadline.
    fn wait(&mut self) -> Answer {
        let mut events = Events::with_capacity(16);
        for _ in 0..200 {
            if let Some(answer) = self.resolver.poll_answer() {
                return answer;
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
            if events.is_empty() {
                self.skipped += self.resolver.poll_at().since(self.now());
            }
            let now = self.now();
            for event in &events {
                self.resolver.ready(now, self.poll.registry(), event.token().0);
            }
            self.resolver.expire(now, self.poll.registry());
        }
        panic!("no answer");
    }
}

fn addrs(list: &[&str]) -> Addrs {
    list.iter().map(|addr| addr.parse().unwrap()).collect()
}

#[test]
fn literals_and_hosts_are_answered_without_a_server() {
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(1));
    for (host, addr, reason) in [
        ("192.0.2.5", "192.0.2.5:1883", "literal"),
        ("::1", "[::1]:1883", "literal"),
        ("PRINTER", "192.0.2.99:1883", "hosts"),
    ] {
        let answer = bench.ask(host);
        assert_eq!((answer.addrs, answer.reason), (addrs(&[addr]), reason));
    }
    let answer = bench.ask("a b");
    assert_eq!((answer.key, answer.addrs.len(), answer.reason), (1, 0, "bad_name"));
}

#[test]
fn a_name_is_asked_for_and_found() {
    let port = server("127.0.0.1", 0, |name, query| Some(one_address(query, name)));
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let answer = Bench::new(dir.paths(port)).ask("broker.example");
    assert_eq!((answer.addrs, answer.reason), (addrs(&["192.0.2.1:1883"]), "dns"));
}

#[test]
fn the_search_list_is_tried_until_a_name_exists() {
    let port = server("127.0.0.1", 0, |name, query| {
        Some(match name {
            "broker.b.test" => one_address(query, name),
            _ => reply(query, RCODE::NameError, &[]),
        })
    });
    let dir = Dir::new("nameserver 127.0.0.1\nsearch a.test b.test\n");
    let mut bench = Bench::new(dir.paths(port));
    assert_eq!(bench.ask("broker").addrs, addrs(&["192.0.2.1:1883"]));
    let answer = bench.ask("nothing");
    assert_eq!((answer.addrs.len(), answer.reason), (0, "nxdomain"));
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let port = server("127.0.0.1", 0, |name, query| {
        let mut answer = one_address(query, name);
        if !name.starts_with("tcp:") {
            answer[2] |= 0b10;
        }
        Some(answer)
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let answer = Bench::new(dir.paths(port)).ask("broker.example");
    assert_eq!((answer.addrs, answer.reason), (addrs(&["192.0.2.1:1883"]), "dns"));
}

#[test]
fn wrong_ids_and_wrong_questions_are_ignored() {
    let port = server("127.0.0.1", 0, |name, query| {
        let mut answer = match name {
            // An answer to another question under the right id.
            "b.example" => {
                let mut other = query.to_vec();
                other[13] = b'x';
                let name = name_of(&other);
                return Some(reply(&other, RCODE::NoError, &[(&name, a([192, 0, 2, 66]))]));
            }
            _ => reply(query, RCODE::NoError, &[("a.example", a([192, 0, 2, 66]))]),
        };
        answer[0] ^= 0xFF;
        Some(answer)
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    for host in ["a.example", "b.example"] {
        let answer = bench.ask(host);
        assert_eq!((answer.addrs.len(), answer.reason), (0, "dns_timeout"));
    }
}

#[test]
fn a_server_that_cannot_say_does_not_hide_one_that_can() {
    let port = server("127.0.0.1", 0, |_, query| Some(reply(query, RCODE::ServerFailure, &[])));
    server("127.0.0.2", port, |name, query| Some(one_address(query, name)));
    let dir = Dir::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\n");
    assert_eq!(Bench::new(dir.paths(port)).ask("x.example").addrs, addrs(&["192.0.2.1:1883"]));
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let answer = Bench::new(dir.paths(port)).ask("x.example");
    assert_eq!((answer.addrs.len(), answer.reason), (0, "servfail"));
}

#[test]
fn a_lost_question_is_asked_again() {
    static SEEN: AtomicU16 = AtomicU16::new(0);
    let port = server("127.0.0.1", 0, |name, query| {
        // The first round of A and AAAA is lost.
        (SEEN.fetch_add(1, Ordering::Relaxed) >= 2).then(|| one_address(query, name))
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    assert_eq!(bench.ask("broker.example").addrs, addrs(&["192.0.2.1:1883"]));
    assert!(SEEN.load(Ordering::Relaxed) >= 3);
}

#[test]
fn a_server_silent_on_one_family_delays_little() {
    let port = server("127.0.0.1", 0, |name, query| {
        let wants_a = Packet::parse(query).unwrap().questions[0].qtype
            == simple_dns::QTYPE::TYPE(simple_dns::TYPE::A);
        wants_a.then(|| one_address(query, name))
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    let asked = bench.now();
    assert_eq!(bench.ask("broker.example").addrs, addrs(&["192.0.2.1:1883"]));
    assert!(bench.now().since(asked) < RETRY_AND_A_BIT, "{:?}", bench.now().since(asked));
}

const RETRY_AND_A_BIT: Duration = Duration::from_millis(1500);

#[test]
fn the_last_good_addresses_serve_while_servers_are_silent() {
    static ALIVE: AtomicU16 = AtomicU16::new(1);
    let port = server("127.0.0.1", 0, |name, query| {
        (ALIVE.load(Ordering::Relaxed) == 1).then(|| one_address(query, name))
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    assert_eq!(bench.ask("broker.example").reason, "dns");
    ALIVE.store(0, Ordering::Relaxed);
    let asked = bench.now();
    let answer = bench.ask("broker.example");
    assert_eq!((answer.addrs, answer.reason), (addrs(&["192.0.2.1:1883"]), "cached"));
    assert!(bench.now().since(asked) >= SILENCE_MAX);
    // Another name has nothing to fall back to.
    let answer = bench.ask("other.example");
    assert_eq!((answer.addrs.len(), answer.reason), (0, "dns_timeout"));
}

#[test]
fn a_changed_resolv_conf_is_noticed_while_a_question_waits() {
    let port = server("127.0.0.1", 0, |_, _| None);
    server("127.0.0.2", port, |name, query| Some(one_address(query, name)));
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    let now = bench.now();
    bench.resolver.resolve(now, bench.poll.registry(), 1, "broker.example", 1883, None);
    std::fs::write(dir.0.join("resolv.conf"), "nameserver 127.0.0.2 # new\n").unwrap();
    assert_eq!(bench.wait().addrs, addrs(&["192.0.2.1:1883"]));
}

#[test]
fn a_port_nobody_answers_on_is_named_as_the_reason() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    let answer = bench.ask("broker.example");
    assert_eq!((answer.addrs.len(), answer.reason), (0, "dns_refused"));
}

#[test]
fn a_cancelled_question_is_never_answered() {
    let port = server("127.0.0.1", 0, |name, query| Some(one_address(query, name)));
    let dir = Dir::new("nameserver 127.0.0.1\n");
    let mut bench = Bench::new(dir.paths(port));
    let now = bench.now();
    bench.resolver.resolve(now, bench.poll.registry(), 1, "first.example", 1883, None);
    bench.resolver.cancel(1);
    assert_eq!(bench.resolver.poll_at(), Instant::NEVER);
    bench.resolver.resolve(now, bench.poll.registry(), 0, "192.0.2.8", 1, None);
    assert_eq!(bench.wait().key, 0);
}

#[test]
fn a_chain_of_aliases_is_followed() {
    let port = server("127.0.0.1", 0, |_, query| {
        let records =
            [("broker.example", cname("real.example")), ("real.example", a([192, 0, 2, 7]))];
        Some(reply(query, RCODE::NoError, &records))
    });
    let dir = Dir::new("nameserver 127.0.0.1\n");
    assert_eq!(Bench::new(dir.paths(port)).ask("broker.example").addrs, addrs(&["192.0.2.7:1883"]));
}
