//! Which server, and which of its addresses, a bridge tries next; and when to go back to the first.
//!
//! A *cycle* asks every server once, without a pause between servers; after a cycle without
//! success the caller backs off. An *attempt* is one server: name look-up, transport, TLS and
//! CONNACK within `connect_timeout`, its addresses in turn (see `addresses`; which of them failed
//! or worked is remembered for the server at hand only).
//!
//! With `failover` and a working secondary the first server is probed. Once it has answered for
//! the whole hold-down, [`Dial::wants_failback`] says so; the caller connects a *candidate* beside
//! the working link (with an [`Addresses`] of its own) and gives the secondary up only when the
//! candidate has its CONNACK. A first server that goes silent again, turns the candidate away or
//! loses the link within the hold-down, doubles it; a link to it that outlives it resets it.
//!
//! Pure: facts with their time in, decisions out. Opens nothing, resolves nothing.

use super::addresses::{Addresses, Attempt};
use super::pace::HoldDown;
use crate::config::ServerPolicy;
use crate::vocab::Instant;
use core::net::SocketAddr;
use core::time::Duration;

/// Servers one bridge may name; the bits of a mask.
pub const SERVER_COUNT_MAX: u16 = 64;
/// A link that lived this long was a success, a shorter one a failed attempt.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How long the first server must answer TCP before the bridge goes back to it.
pub const HOLD_DOWN_MIN: Duration = Duration::from_secs(30);
/// The hold-down doubles up to this.
pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(3600);
/// Probes follow each other at this distance.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try another address of the same server.
    Address(Attempt),
    /// Begin an attempt at this server at once.
    Server(u16),
    /// Every server has had its chance: back off, then [`Dial::begin`].
    Pause,
}

/// The servers of one bridge.
#[derive(Clone, Debug)]
pub struct Dial {
    server_count: u16,
    policy: ServerPolicy,
    connect_timeout: Duration,
    /// The server that is being tried or that the link goes to.
    current: u16,
    /// Bit `i`: server `i` has failed in this cycle.
    tried: u64,
    addresses: Addresses,
    /// When the link came up, while there is one.
    up_since: Option<Instant>,
    failback: Failback,
}

/// What is known of the first server while the link goes to another.
#[derive(Clone, Debug)]
struct Failback {
    hold: HoldDown,
    probe_at: Instant,
    /// It has answered every probe since then.
    answering_since: Option<Instant>,
    wanted: bool,
    /// The link came from a failback; its early death is the first server's failure.
    fresh: bool,
}

impl Dial {
    /// `server_count` is 1 to [`SERVER_COUNT_MAX`].
    pub fn new(server_count: u16, policy: ServerPolicy, connect_timeout: Duration) -> Self {
        assert!(server_count > 0, "a bridge has a server");
        assert!(server_count <= SERVER_COUNT_MAX, "a bridge has more servers than a mask has bits");
        Self {
            server_count,
            policy,
            connect_timeout,
            current: 0,
            tried: 0,
            addresses: Addresses::new(),
            up_since: None,
            failback: Failback {
                hold: HoldDown::new(HOLD_DOWN_MIN, HOLD_DOWN_MAX),
                probe_at: Instant::NEVER,
                answering_since: None,
                wanted: false,
                fresh: false,
            },
        }
    }

    /// The server that is being tried or that the link goes to.
    pub fn server(&self) -> u16 {
        self.current
    }

    /// An attempt at [`Dial::server`] begins: resolve it. Returns the deadline of all of it; a
    /// look-up that is not answered by then is a failure.
    pub fn begin(&mut self, now: Instant) -> Instant {
        self.addresses.begin(now, self.connect_timeout)
    }

    /// The look-up's answer; empty when it failed.
    pub fn resolved(&mut self, now: Instant, addrs: &[SocketAddr]) -> Next {
        match self.addresses.resolved(now, addrs) {
            Some(attempt) => Next::Address(attempt),
            None => self.next_server(),
        }
    }

    /// The look-up or the connection at hand failed before CONNACK accepted it, or ran into its
    /// deadline.
    pub fn failed(&mut self, now: Instant) -> Next {
        match self.addresses.failed(now) {
            Some(attempt) => Next::Address(attempt),
            None => self.next_server(),
        }
    }

    /// The server itself turned us away (CONNACK with a refusal): another address would not help.
    pub fn refused(&mut self) -> Next {
        self.addresses.did_not_last();
        self.next_server()
    }

    /// CONNACK accepted.
    pub fn up(&mut self, now: Instant) {
        self.addresses.worked();
        self.tried = 0;
        self.up_since = Some(now);
        self.failback.answering_since = None;
        self.failback.wanted = false;
        self.failback.probe_at = match self.policy {
            ServerPolicy::Failover if self.current != 0 => now.plus(PROBE_INTERVAL),
            ServerPolicy::Failover | ServerPolicy::RoundRobin => Instant::NEVER,
        };
    }

    /// When the link will have proved stable, for the caller's timer.
    pub fn stable_at(&self) -> Instant {
        self.up_since.map_or(Instant::NEVER, |since| since.plus(STABLE_AFTER))
    }

    /// The link was up and is gone. `true`: it had been stable, reset the backoff. Either way wait
    /// for the backoff, then [`Dial::begin`] at [`Dial::server`].
    ///
    /// A stable link that dies is tried again where it was (`round_robin`: at the next server); one
    /// that did not last counts as a failed attempt, so that a server which accepts and then closes
    /// does not keep the bridge from the others.
    pub fn lost(&mut self, now: Instant) -> bool {
        let lived = self.up_since.take().map(|since| now.since(since)).unwrap_or_default();
        let stable = lived >= STABLE_AFTER;
        let held = lived >= self.failback.hold.span();
        if self.current == 0 && held {
            self.failback.hold.reset();
        } else if self.failback.fresh {
            self.failback.hold.failed();
        }
        self.failback.probe_at = Instant::NEVER;
        self.failback.wanted = false;
        self.failback.answering_since = None;
        if !stable {
            self.addresses.did_not_last();
            // `Pause` and `Server` come to the same here: the caller waits in both cases.
            self.next_server();
        } else if self.policy == ServerPolicy::RoundRobin {
            self.move_to((self.current + 1) % self.server_count);
        }
        self.failback.fresh = false;
        stable
    }

    /// When the first server is to be probed next; `NEVER` when it is not to be.
    pub fn probe_at(&self) -> Instant {
        self.failback.probe_at
    }

    /// `true` when a probe of server 0 is due; the next one is then due an interval later, however
    /// long the answer takes.
    pub fn poll_probe(&mut self, now: Instant) -> bool {
        let due = self.failback.probe_at <= now;
        if due {
            self.failback.probe_at = now.plus(PROBE_INTERVAL);
        }
        due
    }

    /// The answer of a probe; late ones, for a link that is gone, change nothing.
    pub fn probed(&mut self, now: Instant, answered: bool) {
        if self.failback.probe_at == Instant::NEVER {
            return;
        }
        match (answered, self.failback.answering_since) {
            (true, None) => self.failback.answering_since = Some(now),
            (true, Some(since)) if now.since(since) >= self.failback.hold.span() => {
                self.failback.wanted = true;
                // Enough is known; the candidate tells the rest.
                self.failback.probe_at = Instant::NEVER;
            }
            (true, Some(_)) => {}
            // It came and went: trust it later. One that never came costs nothing more.
            (false, Some(_)) => {
                self.failback.hold.failed();
                self.failback.answering_since = None;
            }
            (false, None) => {}
        }
    }

    /// The first server has answered for the whole hold-down: connect a candidate to it, beside the
    /// link. True until [`Dial::failed_back`], [`Dial::failback_failed`] or [`Dial::lost`].
    pub fn wants_failback(&self) -> bool {
        self.failback.wanted
    }

    /// The candidate has its CONNACK and is the link now, over the addresses `candidate` has tried;
    /// the secondary can be given up.
    pub fn failed_back(&mut self, now: Instant, candidate: Addresses) {
        self.current = 0;
        self.addresses = candidate;
        self.failback.fresh = true;
        self.up(now);
    }

    /// The candidate did not make it: the secondary stays, the first server starts over with twice
    /// the hold-down.
    pub fn failback_failed(&mut self, now: Instant) {
        self.failback.hold.failed();
        self.failback.answering_since = None;
        self.failback.wanted = false;
        self.failback.probe_at = now.plus(PROBE_INTERVAL);
    }

    fn next_server(&mut self) -> Next {
        self.tried |= 1 << self.current;
        let count = self.server_count;
        let behind = (1..count).map(|step| (self.current + step) % count);
        let untried = |server: &u16| self.tried & (1 << *server) == 0;
        let next = match self.policy {
            ServerPolicy::Failover => (0..count).find(untried),
            ServerPolicy::RoundRobin => behind.into_iter().find(untried),
        };
        match next {
            Some(server) => {
                self.move_to(server);
                Next::Server(server)
            }
            None => {
                self.tried = 0;
                self.move_to(match self.policy {
                    ServerPolicy::Failover => 0,
                    ServerPolicy::RoundRobin => (self.current + 1) % count,
                });
                Next::Pause
            }
        }
    }

    fn move_to(&mut self, server: u16) {
        if server != self.current {
            self.addresses.forget();
            self.current = server;
        }
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

    fn dial(servers: u16, policy: ServerPolicy) -> Dial {
        Dial::new(servers, policy, TIMEOUT)
    }

    /// Brings a fail-over pair up on its secondary at `now`.
    fn on_secondary(now: Instant) -> Dial {
        let mut dial = dial(2, ServerPolicy::Failover);
        dial.begin(now);
        assert_eq!(dial.resolved(now, &[]), Next::Server(1));
        dial.begin(now);
        assert!(matches!(dial.resolved(now, &[addr(2)]), Next::Address(_)));
        dial.up(now);
        dial
    }

    /// Answers every probe that is due until `end`; when was fail-back wanted first?
    fn probe_until(dial: &mut Dial, end: Instant, answer: impl Fn(Instant) -> bool) -> Option<u64> {
        let mut now = dial.probe_at();
        while now <= end {
            assert!(dial.poll_probe(now));
            dial.probed(now, answer(now));
            if dial.wants_failback() {
                return Some(now.as_millis() / 1000);
            }
            now = dial.probe_at();
        }
        None
    }

    #[test]
    fn a_lookup_that_used_up_the_time_fails_the_attempt() {
        let mut dial = dial(1, ServerPolicy::Failover);
        assert_eq!(dial.begin(at(0)), at(10));
        assert_eq!(dial.resolved(at(10), &[addr(1)]), Next::Pause);
        dial.begin(at(20));
        assert_eq!(dial.failed(at(30)), Next::Pause);
    }

    #[test]
    fn failover_asks_each_server_once_in_order_and_then_pauses() {
        let mut dial = dial(3, ServerPolicy::Failover);
        for cycle in 0..3 {
            let now = at(cycle * 100);
            for expected in [Next::Server(1), Next::Server(2), Next::Pause] {
                dial.begin(now);
                assert!(matches!(dial.resolved(now, &[addr(1)]), Next::Address(_)));
                assert_eq!(dial.failed(now), expected);
            }
            assert_eq!(dial.server(), 0);
        }
    }

    #[test]
    fn a_stable_link_is_tried_again_where_it_was_and_then_from_the_first() {
        let mut dial = on_secondary(at(0));
        assert!(dial.lost(at(100)));
        assert_eq!(dial.server(), 1);
        dial.begin(at(101));
        assert_eq!(dial.resolved(at(101), &[]), Next::Server(0));
        dial.begin(at(101));
        assert_eq!(dial.resolved(at(101), &[]), Next::Pause);
        assert_eq!(dial.server(), 0);
    }

    #[test]
    fn a_server_that_accepts_and_closes_does_not_hold_the_bridge() {
        let mut dial = dial(2, ServerPolicy::Failover);
        dial.begin(at(0));
        dial.resolved(at(0), &[addr(1)]);
        dial.up(at(0));
        assert!(!dial.lost(at(9)));
        assert_eq!(dial.server(), 1);
        assert!(matches!(dial.refused(), Next::Pause));
        assert_eq!(dial.server(), 0);
    }

    #[test]
    fn round_robin_moves_on_after_every_link() {
        let mut dial = dial(3, ServerPolicy::RoundRobin);
        let mut seen = Vec::new();
        for round in 0..4 {
            let now = at(round * 100);
            seen.push(dial.server());
            dial.begin(now);
            dial.resolved(now, &[addr(1)]);
            dial.up(now);
            assert_eq!(dial.probe_at(), Instant::NEVER);
            assert!(dial.lost(now.plus(STABLE_AFTER)));
        }
        assert_eq!(seen, [0, 1, 2, 0]);
        // A whole cycle of failures begins at the next one as well.
        for expected in [Next::Server(2), Next::Server(0), Next::Pause] {
            assert_eq!(dial.refused(), expected);
        }
        assert_eq!(dial.server(), 1);
    }

    #[test]
    fn the_first_server_is_trusted_after_it_has_answered_for_the_hold_down() {
        let mut dial = on_secondary(at(0));
        // It comes back at 95 s, is seen at 100 s and trusted at 130 s.
        let wanted = probe_until(&mut dial, at(1000), |now| now >= at(95));
        assert_eq!(wanted, Some(130));
        let mut candidate = Addresses::new();
        candidate.begin(at(130), TIMEOUT);
        assert!(candidate.resolved(at(130), &[addr(1)]).is_some());
        dial.failed_back(at(131), candidate);
        assert_eq!((dial.server(), dial.wants_failback()), (0, false));
        assert_eq!(dial.probe_at(), Instant::NEVER);
    }

    #[test]
    fn a_first_server_that_comes_and_goes_is_trusted_later() {
        let mut dial = on_secondary(at(0));
        let flap = |now: Instant| now < at(30) || now >= at(50);
        assert_eq!(probe_until(&mut dial, at(1000), flap), Some(110));
        // The candidate is turned away: four times the hold-down.
        dial.failback_failed(at(111));
        assert!(!dial.wants_failback());
        assert_eq!(probe_until(&mut dial, at(1000), |_| true), Some(121 + 120));
        // It gets through but does not last: eight times.
        dial.failed_back(at(242), Addresses::new());
        assert!(!dial.lost(at(245)));
        assert_eq!(dial.server(), 1);
        dial.begin(at(246));
        dial.resolved(at(246), &[addr(2)]);
        dial.up(at(246));
        assert_eq!(probe_until(&mut dial, at(2000), |_| true), Some(256 + 240));
        // At last it outlives the hold-down: the next time thirty seconds do again.
        dial.failed_back(at(500), Addresses::new());
        assert!(dial.lost(at(1500)));
        dial.begin(at(1500));
        assert_eq!(dial.resolved(at(1500), &[]), Next::Server(1));
        dial.up(at(1500));
        assert_eq!(probe_until(&mut dial, at(3000), |_| true), Some(1540));
    }

    #[test]
    fn a_long_life_of_the_secondary_says_nothing_for_the_first_server() {
        let mut dial = on_secondary(at(0));
        let flap = |now: Instant| now < at(30);
        assert_eq!(probe_until(&mut dial, at(1000), flap), None);
        assert!(dial.lost(at(1000)));
        dial.begin(at(1000));
        dial.resolved(at(1000), &[addr(2)]);
        dial.up(at(1000));
        assert_eq!(probe_until(&mut dial, at(2000), |_| true), Some(1010 + 60));
    }

    #[test]
    fn a_long_outage_of_the_first_server_does_not_lengthen_the_hold_down() {
        let mut dial = on_secondary(at(0));
        assert_eq!(probe_until(&mut dial, at(9000), |now| now >= at(7200)), Some(7230));
    }

    #[test]
    fn a_late_probe_of_a_lost_link_changes_nothing() {
        let mut dial = on_secondary(at(0));
        assert!(dial.poll_probe(at(10)));
        dial.lost(at(11));
        dial.probed(at(12), true);
        dial.probed(at(100), true);
        assert!(!dial.wants_failback());
    }
}
