//! When a password may be looked at: hashing is work, and the loop has one thread.
//!
//! One hash at a time, a few iterations a turn, and a token bucket of iterations over all of them;
//! connections beyond wait for their turn in a bounded line, those beyond that are told to come
//! again. A name that failed from an address several times waits longer each time, and so does an
//! address that failed with many names. Nothing here knows a clock or logs.

use super::secret::Check;
use crate::config::Users;
use crate::fit::{fit, micros};
use crate::limits::{
    HASH_ITERATIONS_A_SECOND, HASH_ITERATIONS_A_TURN, LOGINS_WAITING_MAX, USER_BYTES_MAX,
};
use crate::mqtt::topic::topic_hash;
use crate::vocab::{ConnId, Instant};
use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

/// Wrong passwords of one name from one address, or of all names, before it has to wait.
const FREE_OF_NAME: u32 = 3;
const FREE_OF_ADDRESS: u32 = 20;

/// The longest wait of a name; an address waits a second.
const NAME_WAITS_MAX: Duration = Duration::from_secs(64);

/// What was longer ago is forgotten.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Names and addresses that are remembered at once.
const FAILURES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// Ask again when [`Logins::work`] names the connection.
    Wait,
    /// It failed too often.
    Slowed,
    /// Too many wait already.
    Busy,
}

struct Job {
    conn: ConnId,
    check: Check,
}

pub struct Logins {
    job: Option<Job>,
    /// In the order in which they came.
    waiting: VecDeque<ConnId>,
    /// Iterations that may still be done in this turn.
    turn: u32,
    /// Iterations in the bucket; less than none after an expensive hash.
    tokens: i64,
    filled_at: Instant,
    failures: [Failure; FAILURES_MAX],
}

#[derive(Clone, Copy)]
struct Failure {
    key: u64,
    count: u32,
    at: Instant,
    until: Instant,
}

impl Logins {
    pub fn new() -> Self {
        let none = Failure { key: 0, count: 0, at: Instant::ZERO, until: Instant::ZERO };
        Self {
            job: None,
            waiting: VecDeque::with_capacity(LOGINS_WAITING_MAX + 1),
            turn: HASH_ITERATIONS_A_TURN,
            tokens: i64::from(HASH_ITERATIONS_A_SECOND),
            filled_at: Instant::ZERO,
            failures: [none; FAILURES_MAX],
        }
    }

    /// Is this the user's password? Asked with the same words until it is not [`Verdict::Wait`].
    pub fn ask(
        &mut self,
        now: Instant,
        conn: ConnId,
        from: IpAddr,
        users: &Users,
        name: &str,
        password: &[u8],
    ) -> Verdict {
        let keys = keys(from, name);
        if let Some(job) = self.job.take_if(|job| job.conn == conn) {
            return self.conclude(now, keys, job);
        }
        if keys.iter().any(|key| self.is_slowed(now, *key)) {
            self.waiting.retain(|waiting| *waiting != conn);
            return Verdict::Slowed;
        }
        let place = self.waiting.iter().position(|waiting| *waiting == conn);
        let first = place.unwrap_or(self.waiting.len()) == 0;
        self.fill(now);
        if !first || self.job.is_some() || self.turn == 0 || self.tokens <= 0 {
            if place.is_none() {
                if self.waiting.len() >= LOGINS_WAITING_MAX {
                    return Verdict::Busy;
                }
                self.waiting.push_back(conn);
            }
            return Verdict::Wait;
        }
        if place.is_some() {
            self.waiting.pop_front();
        }
        // A name that is too long for the file is as unknown as any other.
        let name = if name.len() <= USER_BYTES_MAX { name } else { "" };
        let mut job = Job { conn, check: Check::begin(users, name, password) };
        // The key is hashed first: a block of SHA-512 is half an iteration.
        let key = fit::<i64, _>(password.len() / 256, "blocks of a password");
        self.tokens -= i64::from(users.iterations()) + key;
        self.turn -= job.check.go_on(self.turn - 1) + 1;
        self.conclude(now, keys, job)
    }

    /// This turn's share of the hash at hand; a connection that shall ask again, if there is one.
    pub fn work(&mut self, now: Instant, is_open: impl Fn(ConnId) -> bool) -> Option<ConnId> {
        self.turn = HASH_ITERATIONS_A_TURN;
        self.job.take_if(|job| !is_open(job.conn));
        if let Some(job) = &mut self.job {
            self.turn -= job.check.go_on(self.turn);
            return job.check.is_right().map(|_| job.conn);
        }
        while self.waiting.front().is_some_and(|conn| !is_open(*conn)) {
            self.waiting.pop_front();
        }
        let first = *self.waiting.front()?;
        self.fill(now);
        (self.tokens > 0).then_some(first)
    }

    /// There are other users: whose password is being looked at asks again, before the others.
    pub fn start_over(&mut self) {
        if let Some(job) = self.job.take() {
            self.waiting.push_front(job.conn);
        }
    }

    /// When [`Logins::work`] has something to do.
    pub fn due_at(&self) -> Instant {
        match &self.job {
            Some(job) if job.check.is_right().is_none() => Instant::ZERO,
            // Its connection has been named and will ask.
            Some(_) => Instant::NEVER,
            None if self.waiting.is_empty() => Instant::NEVER,
            None if self.tokens > 0 => Instant::ZERO,
            None => {
                let missing = fit::<u64, _>(1 - self.tokens, "iterations");
                let micros = missing * 1_000_000 / u64::from(HASH_ITERATIONS_A_SECOND);
                self.filled_at.plus(Duration::from_micros(micros + 1))
            }
        }
    }

    fn conclude(&mut self, now: Instant, keys: [u64; 2], job: Job) -> Verdict {
        match job.check.is_right() {
            None => {
                self.job = Some(job);
                Verdict::Wait
            }
            Some(true) => {
                for failure in self.failures.iter_mut().filter(|failure| failure.key == keys[0]) {
                    failure.count = 0;
                }
                Verdict::Right
            }
            Some(false) => {
                self.failed(now, keys[0], FREE_OF_NAME, NAME_WAITS_MAX);
                self.failed(now, keys[1], FREE_OF_ADDRESS, Duration::from_secs(1));
                Verdict::Wrong
            }
        }
    }

    fn fill(&mut self, now: Instant) {
        let micros = micros(now.since(self.filled_at));
        let rate = u64::from(HASH_ITERATIONS_A_SECOND);
        let count = micros.saturating_mul(rate) / 1_000_000;
        if count > 0 {
            let most = i64::from(HASH_ITERATIONS_A_SECOND);
            // More than any wait brings, and no longer than a number.
            let more: i64 = fit(count.min(1 << 40), "iterations");
            self.tokens = self.tokens.saturating_add(more).min(most);
            self.filled_at = now;
        }
    }

    fn is_slowed(&self, now: Instant, key: u64) -> bool {
        self.failures
            .iter()
            .any(|failure| failure.key == key && failure.count > 0 && now < failure.until)
    }

    fn failed(&mut self, now: Instant, key: u64, free: u32, longest: Duration) {
        let is_old = |failure: &Failure| now.since(failure.at) > REMEMBERED_FOR;
        let known = self.failures.iter().position(|f| f.key == key && f.count > 0);
        let at = known.unwrap_or_else(|| {
            let places = self.failures.iter().enumerate();
            // The one of longest ago makes room.
            places.min_by_key(|(_, f)| (f.count > 0, f.at)).map_or(0, |(at, _)| at)
        });
        let failure = &mut self.failures[at];
        let count = if known.is_some() && !is_old(failure) { failure.count } else { 0 };
        let count = count.saturating_add(1);
        let wait = match count.checked_sub(free) {
            Some(beyond) => Duration::from_secs(1 << beyond.min(16)).min(longest),
            None => Duration::ZERO,
        };
        *failure = Failure { key, count, at: now, until: now.plus(wait) };
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self::new()
    }
}

/// What a name from an address, and the address, are remembered by. Whoever has one address of
/// IPv6 has the whole /64.
fn keys(from: IpAddr, name: &str) -> [u64; 2] {
    let address = match from.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => {
            v6.octets().first_chunk::<8>().map_or(0, |half| u64::from_be_bytes(*half))
        }
    };
    let spread = address.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [spread ^ topic_hash(name), spread ^ 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::secret::user;

    fn users(iterations: u32) -> Users {
        Users::parse(&user("alice", b"secret", b"salt", iterations).line()).unwrap()
    }

    fn conn(slot: u16) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    struct World {
        logins: Logins,
        users: Users,
        now: Instant,
    }

    impl World {
        fn new(iterations: u32) -> Self {
            Self { logins: Logins::new(), users: users(iterations), now: Instant::START }
        }

        fn ask(&mut self, slot: u16, address: u8, name: &str, password: &str) -> Verdict {
            let Self { logins, users, now } = self;
            logins.ask(*now, conn(slot), from(address), users, name, password.as_bytes())
        }

        fn after(&mut self, millis: u64) {
            self.now = self.now.plus(Duration::from_millis(millis));
        }
    }

    #[test]
    fn an_expensive_hash_is_spread_over_turns() {
        let mut world = World::new(10 * HASH_ITERATIONS_A_TURN);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Wait);
        assert_eq!(world.ask(2, 2, "alice", "secret"), Verdict::Wait);
        let mut turns = 0;
        let named = loop {
            assert_eq!(world.logins.due_at(), Instant::ZERO);
            turns += 1;
            if let Some(named) = world.logins.work(world.now, |_| true) {
                break named;
            }
        };
        assert_eq!((named, turns), (conn(1), 9));
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Right);
        assert_eq!(world.logins.work(world.now, |_| true), Some(conn(2)), "the next in line");
    }

    #[test]
    fn a_turn_hashes_no_more_than_its_share_however_many_ask() {
        let mut world = World::new(100);
        let answers: Vec<Verdict> = (0..100).map(|n| world.ask(n, 1, "alice", "secret")).collect();
        let count = |verdict| answers.iter().filter(|answer| **answer == verdict).count();
        assert_eq!(count(Verdict::Right), usize::try_from(HASH_ITERATIONS_A_TURN / 100).unwrap());
        // The one whose hash is begun and those behind it.
        assert!(count(Verdict::Wait) >= LOGINS_WAITING_MAX, "{answers:?}");
        assert!(count(Verdict::Busy) > 0);
    }

    #[test]
    fn the_bucket_bounds_the_hashing_of_a_second_and_everybody_gets_their_turn() {
        let mut world = World::new(1000);
        let mut right = Vec::new();
        for slot in 0..60 {
            if world.ask(slot, 1, "alice", "secret") == Verdict::Right {
                right.push(slot);
            }
        }
        let mut within_a_second = 0;
        for turn in 0..60_000 {
            if let Some(named) = world.logins.work(world.now, |_| true)
                && world.ask(named.slot, 1, "alice", "secret") == Verdict::Right
            {
                right.push(named.slot);
            }
            world.after(1);
            if turn == 1000 {
                within_a_second = right.len();
            }
        }
        assert_eq!(right, (0..60).collect::<Vec<u16>>(), "in the order in which they came");
        let rate = usize::try_from(HASH_ITERATIONS_A_SECOND / 1000).unwrap();
        assert!((rate..=2 * rate + 2).contains(&within_a_second), "{within_a_second}");
        assert_eq!(world.logins.due_at(), Instant::NEVER);
    }

    #[test]
    fn a_hash_that_was_begun_is_not_compared_with_users_of_before() {
        let mut world = World::new(2 * HASH_ITERATIONS_A_TURN);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Wait);
        assert_eq!(world.ask(2, 2, "alice", "new"), Verdict::Wait);
        world.users = Users::parse(&user("alice", b"new", b"salt", 1).line()).unwrap();
        world.logins.start_over();
        let mut answers = Vec::new();
        while let Some(named) = world.logins.work(world.now, |_| true) {
            let password = ["secret", "new"][usize::from(named.slot - 1)];
            answers.push((named.slot, world.ask(named.slot, 1, "alice", password)));
        }
        assert_eq!(answers, [(1, Verdict::Wrong), (2, Verdict::Right)]);
    }

    #[test]
    fn whoever_left_holds_nobody_up() {
        let mut world = World::new(10 * HASH_ITERATIONS_A_TURN);
        for slot in 1..4 {
            assert_eq!(world.ask(slot, 1, "alice", "secret"), Verdict::Wait);
        }
        let open = |conn: ConnId| conn.slot == 3;
        assert_eq!(world.logins.work(world.now, open), Some(conn(3)));
    }

    #[test]
    fn a_name_that_fails_waits_longer_each_time_and_others_do_not() {
        let mut world = World::new(1);
        for _ in 0..FREE_OF_NAME {
            assert_eq!(world.ask(1, 1, "alice", "guess"), Verdict::Wrong);
        }
        let mut waits = Vec::new();
        for _ in 0..8 {
            let mut wait = 0;
            while world.ask(1, 1, "alice", "guess") == Verdict::Slowed {
                world.after(1000);
                wait += 1;
            }
            waits.push(wait);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Slowed, "not even then");
        assert_eq!(world.ask(1, 2, "alice", "secret"), Verdict::Right, "from elsewhere");
        world.after(64_000);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Right);
        assert_eq!(world.ask(1, 1, "alice", "guess"), Verdict::Wrong);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Right, "all is forgiven");
    }

    #[test]
    fn an_address_that_tries_many_names_is_slowed_too() {
        let mut world = World::new(1);
        for n in 0..FREE_OF_ADDRESS {
            assert_eq!(world.ask(1, 1, &format!("user{n}"), "guess"), Verdict::Wrong);
        }
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Slowed);
        world.after(1000);
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Right);
        // Many names more than are remembered.
        for n in 0..1000 {
            world.ask(1, 1, &format!("more{n}"), "guess");
        }
        assert_eq!(world.ask(1, 1, "alice", "secret"), Verdict::Slowed);
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_are_one() {
        let [a, b, c] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"]
            .map(|text| keys(text.parse().unwrap(), "n"));
        assert!(a == b && a != c);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(keys(mapped, "n"), keys(from(1), "n"));
    }
}
