//! One look-up: a name's candidates asked one after the other, every name server asked side by
//! side for both families.
//!
//! Every candidate gets fresh sockets (hence source ports) and ids. Questions go out again every
//! second until they are answered; how long that may take is the caller's business. The kernel
//! lets only the asked server's datagrams through (the sockets are connected).

use super::ADDRS_MAX;
use super::files::NameServers;
use super::wire::{self, Family, Verdict};
use crate::fit::fit;
use crate::shell::socket::{self, Kind};
use crate::vocab::Instant;
use core::time::Duration;
use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// Unanswered questions are asked again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the other family is waited for when one has addresses: some servers never answer
/// AAAA.
const OTHER_FAMILY_AFTER: Duration = Duration::from_millis(250);

/// How long the other servers are waited for when one says no: it may not know all zones.
const NEGATIVE_AFTER: Duration = Duration::from_secs(1);

/// Datagrams read from one server a turn.
const DATAGRAMS_A_TURN: usize = 16;

/// Bytes read from one stream.
const STREAM_BYTES_MAX: usize = 2 * (2 + 65_535);

/// Sockets of one look-up: a UDP and a TCP one a server.
pub(super) const SOCKETS_MAX: usize = 2 * super::files::NAME_SERVERS_MAX;

/// Waiting for something better than what we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Untried,
    Until(Instant),
    Over,
}

impl Patience {
    fn begin(&mut self, until: Instant) {
        if *self == Self::Untried {
            *self = Self::Until(until);
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.until() <= now {
            *self = Self::Over;
        }
    }

    fn until(self) -> Instant {
        match self {
            Self::Until(at) => at,
            Self::Untried | Self::Over => Instant::NEVER,
        }
    }
}

/// How it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Found(heapless::Vec<IpAddr, ADDRS_MAX>),
    /// The name servers have spoken, and there is nothing.
    Negative(&'static str),
    /// The name servers cannot say.
    Failed(&'static str),
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    /// Per family.
    ids: [u16; 2],
    verdicts: [Option<Verdict>; 2],
    udp: Option<UdpSocket>,
    tcp: Option<Stream>,
}

/// Questions over TCP: two bytes of length before each message.
#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Lookup {
    candidates: Vec<String>,
    at: usize,
    interface: Option<String>,
    servers: Vec<Server>,
    /// Token of socket 0; the others follow.
    token: usize,
    retry_at: Instant,
    /// How long the other family, the other servers are still waited for.
    other_family: Patience,
    other_servers: Patience,
    /// The worst that happened to earlier candidates.
    no_address: bool,
    failed: bool,
    /// Why a socket could not be had, if none could.
    trouble: &'static str,
}

impl Lookup {
    /// `candidates` holds at least one name.
    pub(super) fn new(
        candidates: Vec<String>,
        name_servers: &NameServers,
        interface: Option<&str>,
        token: usize,
    ) -> Self {
        let servers = name_servers
            .addrs
            .iter()
            .map(|&addr| Server { addr, ids: [0; 2], verdicts: [None, None], udp: None, tcp: None })
            .collect();
        Self {
            candidates,
            at: 0,
            interface: interface.map(str::to_owned),
            servers,
            token,
            retry_at: Instant::ZERO,
            other_family: Patience::Untried,
            other_servers: Patience::Untried,
            no_address: false,
            failed: false,
            trouble: "dns_timeout",
        }
    }

    /// Why it is taking so long.
    pub(super) fn trouble(&self) -> &'static str {
        self.trouble
    }

    /// Asks for the current candidate on fresh sockets.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        registry: &Registry,
        mut random: impl FnMut() -> u16,
    ) {
        self.other_family = Patience::Untried;
        self.other_servers = Patience::Untried;
        for server in &mut self.servers {
            server.udp = None;
            server.tcp = None;
            server.verdicts = [None, None];
            server.ids[0] = random();
            server.ids[1] = random();
            // Two questions on one socket are told apart by their ids.
            if server.ids[0] == server.ids[1] {
                server.ids[1] = !server.ids[0];
            }
        }
        self.ask(now, registry);
    }

    /// Sends what is still unanswered.
    fn ask(&mut self, now: Instant, registry: &Registry) {
        self.retry_at = now.plus(RETRY_AFTER);
        let name = &self.candidates[self.at];
        for (index, server) in self.servers.iter_mut().enumerate() {
            if server.tcp.is_some() || server.verdicts.iter().all(Option::is_some) {
                continue;
            }
            let token = Token(self.token + 2 * index);
            if let Err(error) = server.ask(name, self.interface.as_deref(), registry, token) {
                self.trouble = match socket::reason(&error) {
                    "no_interface" => "no_interface",
                    "refused" => "dns_refused",
                    _ => "dns_unreachable",
                };
            }
        }
    }

    /// Something happened on socket `index` of this look-up.
    pub(super) fn ready(&mut self, now: Instant, registry: &Registry, index: usize) {
        let name = &self.candidates[self.at];
        let Some(server) = self.servers.get_mut(index / 2) else { return };
        let token = Token(self.token + (index | 1));
        if index.is_multiple_of(2) {
            server.receive(name, self.interface.as_deref(), registry, token);
        } else {
            server.advance_stream(name);
        }
        if server.verdicts.iter().any(Option::is_some) {
            self.trouble = "dns_timeout";
        }
        let verdicts = || self.servers.iter().flat_map(|server| server.verdicts.iter().flatten());
        if verdicts().any(|verdict| matches!(verdict, Verdict::Addresses(_))) {
            self.other_family.begin(now.plus(OTHER_FAMILY_AFTER));
        }
        if verdicts().any(|verdict| matches!(verdict, Verdict::NoSuchName | Verdict::NoAddress)) {
            self.other_servers.begin(now.plus(NEGATIVE_AFTER));
        }
    }

    /// The next time [`Lookup::outcome`] wants to be asked.
    pub(super) fn poll_at(&self) -> Instant {
        self.retry_at.min(self.other_family.until()).min(self.other_servers.until())
    }

    /// Concludes if it can, goes on to the next candidate, asks again when it is time.
    pub(super) fn outcome(
        &mut self,
        now: Instant,
        registry: &Registry,
        mut random: impl FnMut() -> u16,
    ) -> Option<Outcome> {
        self.other_family.expire(now);
        self.other_servers.expire(now);
        // Bounded by the number of candidates.
        while let Some(concluded) = self.conclude() {
            match concluded {
                Outcome::Found(_) => return Some(concluded),
                Outcome::Failed(_) => self.failed = true,
                Outcome::Negative(reason) => self.no_address |= reason == "no_address",
            }
            self.at += 1;
            if self.at == self.candidates.len() {
                self.at -= 1;
                return Some(if self.failed {
                    Outcome::Failed("servfail")
                } else if self.no_address {
                    Outcome::Negative("no_address")
                } else {
                    Outcome::Negative("nxdomain")
                });
            }
            self.begin(now, registry, &mut random);
        }
        if now >= self.retry_at {
            self.ask(now, registry);
        }
        None
    }

    fn conclude(&self) -> Option<Outcome> {
        let v4 = self.family(Family::V4);
        let v6 = self.family(Family::V6);
        let found = interleaved(v6.as_ref(), v4.as_ref());
        if !found.is_empty() {
            let enough = v4.is_some() && v6.is_some() || self.other_family == Patience::Over;
            return enough.then_some(Outcome::Found(found));
        }
        let both = [v4?, v6?];
        let failed = both.iter().any(|outcome| matches!(outcome, Outcome::Failed(_)));
        let exists = both.iter().any(|outcome| *outcome == Outcome::Negative("no_address"));
        Some(if failed {
            Outcome::Failed("servfail")
        } else if exists {
            Outcome::Negative("no_address")
        } else {
            Outcome::Negative("nxdomain")
        })
    }

    /// What the servers say about one family; `None` = somebody may still say something better.
    fn family(&self, family: Family) -> Option<Outcome> {
        let verdicts = || self.servers.iter().map(|server| &server.verdicts[family.index()]);
        for verdict in verdicts().flatten() {
            if let Verdict::Addresses(addrs) = verdict {
                return Some(Outcome::Found(addrs.clone()));
            }
        }
        let said = |wanted: Verdict| verdicts().flatten().any(|verdict| *verdict == wanted);
        let negative = said(Verdict::NoAddress) || said(Verdict::NoSuchName);
        let everybody = verdicts().all(Option::is_some);
        if !(everybody || negative && self.other_servers == Patience::Over) {
            return None;
        }
        Some(if said(Verdict::NoAddress) {
            Outcome::Negative("no_address")
        } else if negative {
            Outcome::Negative("nxdomain")
        } else {
            Outcome::Failed("servfail")
        })
    }
}

/// One of each in turn: the attempt after a failed one then tries the other family.
fn interleaved(
    first: Option<&Outcome>,
    second: Option<&Outcome>,
) -> heapless::Vec<IpAddr, ADDRS_MAX> {
    let addrs = |outcome: Option<&Outcome>, at: usize| match outcome {
        Some(Outcome::Found(addrs)) => addrs.get(at).copied(),
        _ => None,
    };
    let mut out = heapless::Vec::new();
    for at in 0..ADDRS_MAX {
        for addr in [addrs(first, at), addrs(second, at)].into_iter().flatten() {
            // Beyond what we can try the rest is of no use.
            let _ = out.push(addr);
        }
    }
    out
}

impl Server {
    /// Sends the open questions in datagrams, over a new socket when there is none.
    fn ask(
        &mut self,
        name: &str,
        interface: Option<&str>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let socket = match &self.udp {
            Some(socket) => socket,
            None => {
                let fd = socket::open(self.addr, Kind::Datagram, interface)?;
                socket::connect(&fd, self.addr)?;
                let mut socket = UdpSocket::from_std(std::net::UdpSocket::from(fd));
                registry.register(&mut socket, token, Interest::READABLE)?;
                self.udp.insert(socket)
            }
        };
        for family in Family::BOTH {
            if self.verdicts[family.index()].is_some() {
                continue;
            }
            if let Some(bytes) = wire::question(self.ids[family.index()], name, family) {
                match socket.send(&bytes) {
                    Ok(_) => {}
                    // A full queue is a lost datagram: the next second asks again.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        // The address we send from may be gone: the next try takes a new one.
                        self.udp = None;
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        name: &str,
        interface: Option<&str>,
        registry: &Registry,
        stream_token: Token,
    ) {
        let mut truncated = false;
        for _ in 0..DATAGRAMS_A_TURN {
            let mut bytes = [0; 1500];
            let Some(socket) = &self.udp else { return };
            match socket.recv(&mut bytes) {
                Ok(count) => truncated |= self.accept(&mut bytes[..count], name),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP message, told once: nobody listens there now. The next second asks
                // again.
                Err(_) => {}
            }
        }
        if truncated
            && self.tcp.is_none()
            && self.open_stream(name, interface, registry, stream_token).is_err()
        {
            self.fail_open();
        }
    }

    /// Takes a message; `true` = it was truncated.
    fn accept(&mut self, bytes: &mut [u8], name: &str) -> bool {
        for family in Family::BOTH {
            let at = family.index();
            if self.verdicts[at].is_some() || wire::id(bytes) != Some(self.ids[at]) {
                continue;
            }
            match wire::answer(bytes, self.ids[at], name, family) {
                None => {}
                Some(Verdict::Truncated) => return true,
                // A name that does not exist has no address of the other family either.
                Some(Verdict::NoSuchName) => {
                    for verdict in &mut self.verdicts {
                        verdict.get_or_insert(Verdict::NoSuchName);
                    }
                }
                Some(verdict) => self.verdicts[at] = Some(verdict),
            }
            return false;
        }
        false
    }

    /// The questions still open count as unanswerable by this server.
    fn fail_open(&mut self) {
        for verdict in &mut self.verdicts {
            verdict.get_or_insert(Verdict::Failed);
        }
    }

    fn open_stream(
        &mut self,
        name: &str,
        interface: Option<&str>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        let fd = socket::open(self.addr, Kind::Stream, interface)?;
        socket::connect(&fd, self.addr)?;
        let mut socket = TcpStream::from_std(std::net::TcpStream::from(fd));
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let mut out = Vec::new();
        for family in Family::BOTH {
            if self.verdicts[family.index()].is_some() {
                continue;
            }
            if let Some(bytes) = wire::question(self.ids[family.index()], name, family) {
                // A question has 300 bytes at most.
                out.extend_from_slice(
                    &fit::<u16, _>(bytes.len(), "bytes of a question").to_be_bytes(),
                );
                out.extend_from_slice(&bytes);
            }
        }
        self.tcp = Some(Stream { socket, out, written: 0, input: Vec::new() });
        Ok(())
    }

    fn advance_stream(&mut self, name: &str) {
        let Some(mut stream) = self.tcp.take() else { return };
        let alive = stream.advance();
        while let Some(mut message) = stream.message() {
            self.accept(&mut message, name);
        }
        if self.verdicts.iter().all(Option::is_some) {
            return;
        }
        if alive {
            self.tcp = Some(stream);
        } else {
            self.fail_open();
        }
    }
}

impl Stream {
    /// Writes and reads what can be now; `false` = the stream is at its end.
    fn advance(&mut self) -> bool {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Also what a socket still connecting says.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                    ) =>
                {
                    return true;
                }
                Err(_) => return false,
            }
        }
        // A message of each family at most: what is longer is no answer to us.
        while self.input.len() < STREAM_BYTES_MAX {
            let mut bytes = [0; 2048];
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        false
    }

    /// Takes the next whole message out of what was read.
    fn message(&mut self) -> Option<Vec<u8>> {
        let bytes = 2 + usize::from(wire::id(&self.input)?);
        if self.input.len() < bytes {
            return None;
        }
        let rest = self.input.split_off(bytes);
        let mut message = core::mem::replace(&mut self.input, rest);
        message.drain(..2);
        Some(message)
    }
}
