//! Passwords and their hashes: PBKDF2 with HMAC-SHA-512 in steps, so that nobody has to wait for a
//! whole one, and comparison in constant time. Reads and writes no file, draws no salt.

use crate::config::{HASH_BYTES, Scheme, User, Users};
use hmac::digest::CtOutput;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha512};

type Prf = Hmac<Sha512>;

/// RFC 8018, section 5.2, for one block, which is as long as a hash of ours.
struct Pbkdf2 {
    keyed: Prf,
    last: [u8; HASH_BYTES],
    sum: [u8; HASH_BYTES],
}

impl Pbkdf2 {
    /// The first iteration.
    fn begin(password: &[u8], salt: &[u8]) -> Self {
        // A key of any length is one (RFC 2104).
        let keyed = Prf::new_from_slice(password).expect("HMAC takes any key");
        let mut first = keyed.clone();
        first.update(salt);
        first.update(&1_u32.to_be_bytes());
        let last = first.finalize().into_bytes().into();
        Self { keyed, last, sum: last }
    }

    /// `count` more.
    fn go_on(&mut self, count: u32) {
        for _ in 0..count {
            let mut next = self.keyed.clone();
            next.update(&self.last);
            self.last = next.finalize().into_bytes().into();
            for (sum, byte) in self.sum.iter_mut().zip(self.last) {
                *sum ^= byte;
            }
        }
    }
}

/// A password that is being compared with what the file says. It takes as long for a name that is
/// not in the file, and for a user with fewer iterations than others have.
pub struct Check {
    known: bool,
    expected: [u8; HASH_BYTES],
    found: [u8; HASH_BYTES],
    hashing: Pbkdf2,
    /// Iterations up to the hash; `None` when it is there.
    left: Option<u32>,
    /// Iterations until the end.
    total: u32,
}

impl Check {
    pub fn begin(users: &Users, name: &str, password: &[u8]) -> Self {
        let user = users.find(name);
        let total = users.iterations();
        let salt = user.map_or(&[0; 12][..], |user| &user.salt);
        let mut check = Self {
            known: user.is_some(),
            expected: user.map_or([0; HASH_BYTES], |user| user.hash),
            found: [0; HASH_BYTES],
            hashing: Pbkdf2::begin(password, salt),
            left: Some(total - 1),
            total: total - 1,
        };
        match user.map(|user| user.scheme) {
            Some(Scheme::Pbkdf2(count)) => check.left = Some(count.min(total) - 1),
            Some(Scheme::Sha512) => {
                check.found =
                    Sha512::new().chain_update(password).chain_update(salt).finalize().into();
                check.left = None;
            }
            None => {}
        }
        check.go_on(0);
        check
    }

    /// Does at most `count` iterations; how many there were to do.
    pub fn go_on(&mut self, count: u32) -> u32 {
        let count = count.min(self.total);
        let mut rest = count;
        if let Some(left) = self.left {
            let now = left.min(rest);
            self.hashing.go_on(now);
            rest -= now;
            self.left = Some(left - now);
            if left == now {
                self.found = self.hashing.sum;
                self.left = None;
            }
        }
        self.hashing.go_on(rest);
        self.total -= count;
        count
    }

    pub fn iterations_left(&self) -> u32 {
        self.total
    }

    /// `None`: it is not known yet.
    pub fn is_right(&self) -> Option<bool> {
        if self.total > 0 || self.left.is_some() {
            return None;
        }
        let [found, expected] = [self.found, self.expected].map(|hash| {
            // Comparing these takes the same time wherever they differ.
            CtOutput::<Prf>::new(hash.into())
        });
        Some((found == expected) & self.known)
    }
}

/// A user with a new password.
pub fn user(name: &str, password: &[u8], salt: &[u8], iterations: u32) -> User {
    let mut hashing = Pbkdf2::begin(password, salt);
    hashing.go_on(iterations - 1);
    User {
        name: name.to_owned(),
        scheme: Scheme::Pbkdf2(iterations),
        salt: salt.to_vec(),
        hash: hashing.sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by mosquitto_passwd 2.0.11; the passwords are `secret` and `pw`.
    const FILE: &str = "\
alice:$7$101$mcE5JJ8SIOm2lzIk$bLl8Sr9GgQP+IDKyiLriRPEfx7SGqVVsW2+R2Kbb4n2PmShM8z9as8sXJE6Ave7uhj+\
VQUbawiFKJP3FC4MNxg==
bob:$6$Pnxo9wSoW4mbun01$s47JxLDt6Rmtj48lbEJL87js9xcfCQ3QV3NSWE0B+5BHPDRoIuTlpuIEw7AyAQ2ohcSRzWO4R2\
RWhymFRxVoOg==
";

    /// The verdict, and after how many iterations behind the first it was there.
    fn check(users: &Users, name: &str, password: &str, step: u32) -> (bool, u32) {
        let mut check = Check::begin(users, name, password.as_bytes());
        let mut done = 0;
        while check.is_right().is_none() {
            done += check.go_on(step);
        }
        (check.is_right() == Some(true), done)
    }

    #[test]
    fn only_the_password_of_the_file_is_right_however_it_is_cut() {
        let mut text = FILE.to_owned();
        for (name, iterations) in [("one", 1), ("two", 2), ("many", 777)] {
            text += &user(name, b"x y", &[9; 12], iterations).line();
            text.push('\n');
        }
        let users = Users::parse(&text).unwrap();
        for step in [1, 7, 100, 10_000] {
            for (name, password) in [
                ("alice", "secret"),
                ("bob", "pw"),
                ("one", "x y"),
                ("two", "x y"),
                ("many", "x y"),
            ] {
                assert_eq!(check(&users, name, password, step), (true, 776), "{name} {step}");
                for wrong in ["", "x", "secret ", "pw\0", "Secret"] {
                    assert_eq!(check(&users, name, wrong, step), (false, 776), "{name} {wrong}");
                }
            }
            assert_eq!(check(&users, "nobody", "secret", step), (false, 776));
            assert_eq!(check(&users, "", "", step), (false, 776));
        }
        let nobody = Users::parse("").unwrap();
        assert_eq!(check(&nobody, "alice", "secret", 1000), (false, 100));
    }
}
