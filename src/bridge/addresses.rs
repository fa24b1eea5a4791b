//! The addresses of one server, each with its share of the time a connection may take.
//!
//! An attempt is: name look-up, transport, TLS and CONNACK within one deadline. Every address gets
//! an equal share of what is left of it. The next attempt at the server begins behind the address
//! that failed last, or with the one that worked, so that a dead address is not always the one that
//! uses up the time. Pure and bounded.

use crate::fit::fit;
use crate::vocab::Instant;
use core::net::SocketAddr;
use core::time::Duration;

/// Addresses kept of one look-up. Further ones are not tried.
pub const ADDRESS_COUNT_MAX: usize = 8;
/// The least share of an address: below this a slow path could never answer. Addresses that then
/// do not fit into `connect_timeout` come first in the next attempt.
const SHARE_MIN: Duration = Duration::from_millis(500);
/// One address to try, until `deadline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub addr: SocketAddr,
    pub deadline: Instant,
}

/// The addresses of one server, tried in turn within one deadline.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    addrs: heapless::Vec<SocketAddr, ADDRESS_COUNT_MAX>,
    /// Addresses of this attempt not yet tried.
    left: usize,
    /// Place of the address that is being tried.
    at: usize,
    deadline: Instant,
    /// Survives the attempt: where the next one begins.
    resume: Option<Resume>,
}

#[derive(Clone, Copy, Debug)]
struct Resume {
    addr: SocketAddr,
    /// `true`: it failed, begin with the one behind it. `false`: it worked, begin with it.
    behind: bool,
}

impl Addresses {
    pub fn new() -> Self {
        Self::default()
    }

    /// An attempt begins with the name look-up. Returns the deadline of all of it.
    pub fn begin(&mut self, now: Instant, connect_timeout: Duration) -> Instant {
        self.addrs.clear();
        self.left = 0;
        self.deadline = now.plus(connect_timeout);
        self.deadline
    }

    /// The look-up's answer. `None`: no address, the attempt has failed.
    pub fn resolved(&mut self, now: Instant, addrs: &[SocketAddr]) -> Option<Attempt> {
        self.addrs.clear();
        for addr in addrs.iter().take(ADDRESS_COUNT_MAX) {
            // Cannot be full: no more are taken than there is room for.
            let _ = self.addrs.push(*addr);
        }
        self.left = self.addrs.len();
        let last = self.resume.and_then(|resume| {
            let at = self.addrs.iter().position(|addr| *addr == resume.addr)?;
            Some(if resume.behind { at + 1 } else { at })
        });
        self.at = last.unwrap_or(0);
        self.attempt(now)
    }

    /// The address at hand failed or used up its share. `None`: so has the attempt.
    pub fn failed(&mut self, now: Instant) -> Option<Attempt> {
        if self.left == 0 {
            return None;
        }
        self.remember(true);
        self.left -= 1;
        self.at += 1;
        self.attempt(now)
    }

    /// The address at hand led to a working link: the next attempt begins with it.
    pub fn worked(&mut self) {
        self.remember(false);
    }

    /// The link over the address at hand did not last: the next attempt begins behind it.
    pub fn did_not_last(&mut self) {
        self.remember(true);
    }

    /// Another server: its addresses have nothing to do with these.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn remember(&mut self, behind: bool) {
        if let Some(addr) = self.current() {
            self.resume = Some(Resume { addr, behind });
        }
    }

    fn current(&self) -> Option<SocketAddr> {
        self.addrs.get(self.at.checked_rem(self.addrs.len())?).copied()
    }

    fn attempt(&self, now: Instant) -> Option<Attempt> {
        let remaining = self.deadline.since(now);
        if self.left == 0 || remaining.is_zero() {
            return None;
        }
        let parts = fit::<u32, _>(self.left, "addresses");
        let share = (remaining / parts).max(SHARE_MIN).min(remaining);
        Some(Attempt { addr: self.current()?, deadline: now.plus(share) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, Ipv4Addr};

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 1883)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn every_address_gets_its_share_of_what_is_left() {
        let mut addresses = Addresses::new();
        assert_eq!(addresses.begin(at(0), TIMEOUT), at(10));
        // The look-up took a second; nine are left for three.
        let all = [addr(1), addr(2), addr(3)];
        let first = addresses.resolved(at(1), &all);
        assert_eq!(first, Some(Attempt { addr: addr(1), deadline: at(4) }));
        // Refused at once: the others have more.
        let second = addresses.failed(at(2));
        assert_eq!(second, Some(Attempt { addr: addr(2), deadline: at(6) }));
        let third = addresses.failed(at(6));
        assert_eq!(third, Some(Attempt { addr: addr(3), deadline: at(10) }));
        assert_eq!(addresses.failed(at(7)), None);
        assert_eq!(addresses.failed(at(7)), None);
    }

    #[test]
    fn the_next_attempt_begins_behind_the_address_that_failed() {
        let mut addresses = Addresses::new();
        let short = Duration::from_millis(800);
        let all = [addr(1), addr(2), addr(3)];
        let mut seen = Vec::new();
        for round in 0..3 {
            let start = at(round * 60);
            addresses.begin(start, short);
            let mut next = addresses.resolved(start, &all);
            while let Some(attempt) = next {
                seen.push(attempt.addr);
                assert!(attempt.deadline <= start.plus(short));
                next = addresses.failed(attempt.deadline);
            }
        }
        // Half a second each: two fit into an attempt.
        assert_eq!(seen, [addr(1), addr(2), addr(3), addr(1), addr(2), addr(3)]);
    }

    #[test]
    fn an_address_that_worked_is_the_first_to_be_tried_again() {
        let mut addresses = Addresses::new();
        addresses.begin(at(0), TIMEOUT);
        addresses.resolved(at(0), &[addr(1), addr(2)]);
        addresses.failed(at(0));
        addresses.worked();
        addresses.begin(at(9), TIMEOUT);
        let again = addresses.resolved(at(9), &[addr(1), addr(2)]);
        assert_eq!(again.map(|attempt| attempt.addr), Some(addr(2)));
        // The name points elsewhere now.
        addresses.begin(at(20), TIMEOUT);
        let again = addresses.resolved(at(20), &[addr(7), addr(8)]);
        assert_eq!(again.map(|attempt| attempt.addr), Some(addr(7)));
    }

    #[test]
    fn more_addresses_than_there_is_room_for_are_left_out() {
        let mut addresses = Addresses::new();
        let all: Vec<SocketAddr> = (0..20).map(addr).collect();
        addresses.begin(at(0), TIMEOUT);
        let mut count = 0;
        let mut next = addresses.resolved(at(0), &all);
        while next.is_some() {
            count += 1;
            next = addresses.failed(at(0));
        }
        assert_eq!(count, ADDRESS_COUNT_MAX);
    }
}
