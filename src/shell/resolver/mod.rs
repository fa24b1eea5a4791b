//! Names to addresses without ever blocking: literal addresses and `/etc/hosts` at once, the
//! rest from the name servers of `resolv.conf` over UDP (TCP when truncated). Read RFC 1035
//! section 7 and resolv.conf(5) first.
//!
//! Promises: one answer a question unless it is cancelled; `resolv.conf` is read again when it
//! has changed, also while a question waits; the last good addresses serve, marked `cached`,
//! while the name servers are silent or cannot say. Never calls getaddrinfo, never trusts an
//! answer by its port alone.

mod files;
mod lookup;
mod wire;

#[cfg(test)]
mod tests;

pub use files::Paths;

use super::socket::{self, Kind};
use crate::vocab::{Instant, Rng};
use core::time::Duration;
use files::{NameServers, Stamp};
use lookup::{Lookup, Outcome, SOCKETS_MAX};
use mio::Registry;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

/// Addresses kept of one name; further ones are ignored.
pub(crate) const ADDRS_MAX: usize = 8;

/// Silence after which the last good addresses serve.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Nobody waits longer than this; the core's own deadlines are shorter.
const LOOKUP_MAX: Duration = Duration::from_secs(30);

/// Names whose last good addresses are kept; the oldest is forgotten for one more.
const KEPT_MAX: usize = 32;

/// `resolv.conf` is looked at again while a question waits.
const FILE_CHECK_AFTER: Duration = Duration::from_secs(1);

pub(super) type Addrs = heapless::Vec<SocketAddr, ADDRS_MAX>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// As asked with.
    pub(super) key: usize,
    /// Empty = it failed.
    pub(super) addrs: Addrs,
    /// Where they come from (`literal`, `hosts`, `dns`, `cached`), or why there are none.
    pub(super) reason: &'static str,
}

#[derive(Debug)]
struct Asked {
    host: String,
    port: u16,
    interface: Option<String>,
    lookup: Lookup,
    began: Instant,
    check_at: Instant,
}

/// The last good addresses of a name, as seen through an interface.
#[derive(Debug)]
struct Kept {
    host: String,
    interface: Option<String>,
    addrs: heapless::Vec<IpAddr, ADDRS_MAX>,
}

#[derive(Debug)]
pub(super) struct Resolver {
    paths: Paths,
    servers: NameServers,
    /// Of the file `servers` was read from; the outer `None` = not read yet.
    stamp: Option<Option<Stamp>>,
    /// By key.
    asked: Box<[Option<Asked>]>,
    /// The newest last.
    kept: VecDeque<Kept>,
    answers: VecDeque<Answer>,
    /// Token of the first socket of key 0.
    token: usize,
    entropy: Entropy,
}

impl Resolver {
    /// For keys below `keys`; its sockets get tokens from `token` on, [`Resolver::tokens`] many.
    pub(super) fn new(paths: Paths, keys: usize, token: usize, seed: u64) -> Self {
        Self {
            servers: NameServers::read(&paths),
            paths,
            stamp: None,
            asked: (0..keys).map(|_| None).collect(),
            kept: VecDeque::with_capacity(KEPT_MAX),
            answers: VecDeque::with_capacity(keys),
            token,
            entropy: Entropy { file: File::open("/dev/urandom").ok(), rng: Rng::new(seed) },
        }
    }

    pub(super) fn tokens(keys: usize) -> usize {
        keys * SOCKETS_MAX
    }

    /// Asks for `host`; what the key asked for before is forgotten.
    pub(super) fn resolve(
        &mut self,
        now: Instant,
        registry: &Registry,
        key: usize,
        host: &str,
        port: u16,
        interface: Option<&str>,
    ) {
        self.cancel(key);
        if let Some(addr) = files::literal(host, port) {
            return self.answer(key, [addr].into_iter(), "literal");
        }
        let found = files::hosts(&self.paths.hosts, host);
        if !found.is_empty() {
            return self.answer(key, found.into_iter().map(|ip| (ip, port).into()), "hosts");
        }
        self.reread();
        let candidates = self.servers.candidates(host);
        if candidates.is_empty() {
            return self.answer(key, [].into_iter(), "bad_name");
        }
        let token = self.token + key * SOCKETS_MAX;
        let mut lookup = Lookup::new(candidates, &self.servers, interface, token);
        lookup.begin(now, registry, || self.entropy.word());
        self.asked[key] = Some(Asked {
            host: host.to_owned(),
            port,
            interface: interface.map(str::to_owned),
            lookup,
            began: now,
            check_at: now.plus(FILE_CHECK_AFTER),
        });
    }

    /// Nobody waits for this key any more.
    pub(super) fn cancel(&mut self, key: usize) {
        self.asked[key] = None;
        self.answers.retain(|answer| answer.key != key);
    }

    /// Something happened on the socket with token `token + code`.
    pub(super) fn ready(&mut self, now: Instant, registry: &Registry, code: usize) {
        let key = code / SOCKETS_MAX;
        let Some(Some(asked)) = self.asked.get_mut(key) else { return };
        asked.lookup.ready(now, registry, code % SOCKETS_MAX);
        self.conclude(now, registry, key);
    }

    /// Retries, deadlines, a changed `resolv.conf`.
    pub(super) fn expire(&mut self, now: Instant, registry: &Registry) {
        for key in 0..self.asked.len() {
            let Some(asked) = &mut self.asked[key] else { continue };
            if asked.poll_at() > now {
                continue;
            }
            if asked.check_at <= now {
                asked.check_at = now.plus(FILE_CHECK_AFTER);
                if self.reread() {
                    self.begin_again(now, registry, key);
                }
            }
            self.conclude(now, registry, key);
        }
    }

    /// The network has changed: whoever waits asks again at once.
    pub(super) fn ask_again(&mut self, now: Instant, registry: &Registry) {
        self.reread();
        for key in 0..self.asked.len() {
            if self.asked[key].is_some() {
                self.begin_again(now, registry, key);
                self.conclude(now, registry, key);
            }
        }
    }

    pub(super) fn poll_at(&self) -> Instant {
        self.asked.iter().flatten().map(Asked::poll_at).min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// Reads `resolv.conf` when it is not the one we know; `true` = it says something new.
    fn reread(&mut self) -> bool {
        let stamp = files::stamp(&self.paths.resolv_conf);
        if self.stamp == Some(stamp) {
            return false;
        }
        self.stamp = Some(stamp);
        let servers = NameServers::read(&self.paths);
        let changed = servers != self.servers;
        self.servers = servers;
        changed
    }

    fn begin_again(&mut self, now: Instant, registry: &Registry, key: usize) {
        let Some(asked) = &mut self.asked[key] else { return };
        let candidates = self.servers.candidates(&asked.host);
        if candidates.is_empty() {
            return;
        }
        let token = self.token + key * SOCKETS_MAX;
        let interface = asked.interface.as_deref();
        // The old sockets go first: their tokens are used again.
        asked.lookup = Lookup::new(candidates, &self.servers, interface, token);
        asked.lookup.begin(now, registry, || self.entropy.word());
    }

    fn conclude(&mut self, now: Instant, registry: &Registry, key: usize) {
        let Some(asked) = &mut self.asked[key] else { return };
        let outcome = asked.lookup.outcome(now, registry, || self.entropy.word());
        let waited = now.since(asked.began);
        let kept = self
            .kept
            .iter()
            .find(|kept| kept.host == asked.host && kept.interface == asked.interface)
            .map(|kept| kept.addrs.clone());
        let (addrs, reason) = match (outcome, kept) {
            (Some(Outcome::Found(found)), _) => {
                let addrs = reachable_first(&found, asked.interface.as_deref());
                keep(&mut self.kept, asked, &addrs);
                (addrs, "dns")
            }
            (Some(Outcome::Failed(_)), Some(kept)) => (kept, "cached"),
            (Some(Outcome::Failed(reason) | Outcome::Negative(reason)), _) => {
                (heapless::Vec::new(), reason)
            }
            (None, Some(kept)) if waited >= SILENCE_MAX => (kept, "cached"),
            (None, _) if waited >= LOOKUP_MAX => (heapless::Vec::new(), asked.lookup.trouble()),
            (None, _) => return,
        };
        let port = asked.port;
        self.answer(key, addrs.into_iter().map(|ip| (ip, port).into()), reason);
    }

    fn answer(
        &mut self,
        key: usize,
        addrs: impl Iterator<Item = SocketAddr>,
        reason: &'static str,
    ) {
        self.asked[key] = None;
        self.answers.push_back(Answer { key, addrs: addrs.take(ADDRS_MAX).collect(), reason });
    }
}

impl Asked {
    fn poll_at(&self) -> Instant {
        // The file checks are frequent enough for silence to be noticed.
        self.lookup.poll_at().min(self.check_at)
    }
}

fn keep(kept: &mut VecDeque<Kept>, asked: &Asked, addrs: &heapless::Vec<IpAddr, ADDRS_MAX>) {
    kept.retain(|kept| kept.host != asked.host || kept.interface != asked.interface);
    if kept.len() == KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(Kept {
        host: asked.host.clone(),
        interface: asked.interface.clone(),
        addrs: addrs.clone(),
    });
}

/// Addresses no route leads to go last; otherwise the order stays.
fn reachable_first(
    found: &heapless::Vec<IpAddr, ADDRS_MAX>,
    interface: Option<&str>,
) -> heapless::Vec<IpAddr, ADDRS_MAX> {
    let mut out = heapless::Vec::new();
    let routed: heapless::Vec<bool, ADDRS_MAX> = found
        .iter()
        .map(|ip| {
            // Connecting a datagram socket sends nothing, it only looks for a route.
            let addr = SocketAddr::new(*ip, 9);
            socket::open(addr, Kind::Datagram, interface)
                .and_then(|fd| socket::connect(&fd, addr))
                .is_ok()
        })
        .collect();
    for wanted in [true, false] {
        for (ip, _) in found.iter().zip(&routed).filter(|(_, routed)| **routed == wanted) {
            // As many come out as went in.
            let _ = out.push(*ip);
        }
    }
    out
}

/// The addresses of a local name, for listeners: a literal or a line of `/etc/hosts`.
pub(super) fn local(paths: &Paths, host: &str, port: u16) -> Vec<SocketAddr> {
    if let Some(addr) = files::literal(host, port) {
        return vec![addr];
    }
    files::hosts(&paths.hosts, host).into_iter().map(|ip| (ip, port).into()).collect()
}

/// Ids nobody can guess; where the system has no entropy device the seed must do.
#[derive(Debug)]
struct Entropy {
    file: Option<File>,
    rng: Rng,
}

impl Entropy {
    fn word(&mut self) -> u16 {
        let mut bytes = [0; 2];
        let read = self.file.as_mut().map(|file| file.read_exact(&mut bytes));
        if let Some(Ok(())) = read {
            return u16::from_ne_bytes(bytes);
        }
        let [_, _, _, a, b, ..] = self.rng.next_u64().to_le_bytes();
        u16::from_le_bytes([a, b])
    }
}
