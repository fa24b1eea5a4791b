//! The password file: lines of mosquitto_passwd, `user:$7$iterations$salt$hash` (PBKDF2 with
//! HMAC-SHA-512) and the older `user:$6$salt$hash` (SHA-512 of password and salt). Knows what a
//! line is; hashes nothing and reads no file.

use super::textfile;
use crate::limits::{HASH_ITERATIONS_MAX, USER_BYTES_MAX, USERS_MAX};
use crate::mqtt::text::first_unwelcome;
use base64ct::{Base64, Encoding};
use core::fmt;

/// Bytes of SHA-512.
pub const HASH_BYTES: usize = 64;

const SALT_BYTES_MAX: usize = 64;

/// What may stand around a name; whatever else looks like a blank is a part of it.
const BLANKS: [char; 2] = [' ', '\t'];

/// How often mosquitto_passwd hashes.
pub const ITERATIONS_USUAL: u32 = 101;

/// How a password becomes its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `$7$`, so many iterations.
    Pbkdf2(u32),
    /// `$6$`
    Sha512,
}

#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub scheme: Scheme,
    pub salt: Vec<u8>,
    pub hash: [u8; HASH_BYTES],
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({:?}, {:?})", self.name, self.scheme)
    }
}

impl User {
    /// The line of the file, without its end.
    pub fn line(&self) -> String {
        let salt = encoded(&self.salt);
        let hash = encoded(&self.hash);
        match self.scheme {
            Scheme::Pbkdf2(count) => format!("{}:$7${count}${salt}${hash}", self.name),
            Scheme::Sha512 => format!("{}:$6${salt}${hash}", self.name),
        }
    }
}

/// All users, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    sorted: Vec<User>,
}

impl Users {
    /// Reads a whole file. Errors have their line.
    pub fn parse(text: &str) -> Result<Self, Vec<(u32, String)>> {
        let (mut read, mut errors): (Vec<(User, u32)>, Vec<_>) = (Vec::new(), Vec::new());
        for (number, line) in textfile::lines(text) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok(_) if read.len() >= USERS_MAX => {
                    errors.push((number, format!("more than {USERS_MAX} users")));
                    break;
                }
                Ok(user) => read.push((user, number)),
                Err(what) => errors.push((number, what)),
            }
        }
        // Of the same name the first line stays first.
        read.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let again = read.windows(2).filter(|two| two[0].0.name == two[1].0.name);
        errors.extend(again.map(|two| (two[1].1, "this user is there already".to_owned())));
        errors.sort_by_key(|(number, _)| *number);
        let sorted = read.into_iter().map(|(user, _)| user).collect();
        if errors.is_empty() { Ok(Self { sorted }) } else { Err(errors) }
    }

    pub fn find(&self, name: &str) -> Option<&User> {
        let at = self.sorted.binary_search_by(|user| user.name.as_str().cmp(name)).ok()?;
        self.sorted.get(at)
    }

    /// What every login is made to cost: the most that one of the users asks for.
    pub fn iterations(&self) -> u32 {
        let asked = self.sorted.iter().map(|user| match user.scheme {
            Scheme::Pbkdf2(count) => count,
            Scheme::Sha512 => ITERATIONS_USUAL,
        });
        asked.max().unwrap_or(ITERATIONS_USUAL)
    }

    pub fn bytes(&self) -> usize {
        let each = |user: &User| size_of::<User>() + user.name.len() + user.salt.len();
        self.sorted.iter().map(each).sum()
    }
}

/// The user a line is about; `None` for a line that is about nobody.
pub fn name_in(line: &str) -> Option<&str> {
    let line = line.trim_end();
    if line.starts_with('#') {
        return None;
    }
    line.split_once(':').map(|(name, _)| name.trim_matches(BLANKS))
}

/// Whether a password file can hold such a name.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("a user name is empty");
    }
    if name.len() > USER_BYTES_MAX {
        return Err("a user name is too long");
    }
    if name.contains(':') || name.starts_with('#') {
        return Err("a user name has no : and does not begin with #");
    }
    if first_unwelcome(name).is_some() {
        return Err("a user name has no control character and nothing that is no character");
    }
    if name.trim() != name {
        return Err("a user name does not begin or end with a space");
    }
    Ok(())
}

fn parse_line(line: &str) -> Result<User, String> {
    let (name, secret) = line.split_once(':').ok_or("is no user:$7$… line")?;
    let name = name.trim_matches(BLANKS);
    check_name(name)?;
    let mut parts = secret.trim().split('$');
    let form = "is not user:$7$iterations$salt$hash; mosquitto_passwd -U hashes plain passwords";
    if parts.next() != Some("") {
        return Err(form.to_owned());
    }
    let scheme = match parts.next() {
        Some("7") => Scheme::Pbkdf2(iterations(parts.next().unwrap_or(""))?),
        Some("6") => Scheme::Sha512,
        _ => return Err(form.to_owned()),
    };
    let mut salt = [0; SALT_BYTES_MAX];
    let salt = decoded(parts.next().unwrap_or(""), &mut salt).filter(|salt| !salt.is_empty());
    let salt = salt.ok_or("the salt is no base64 of 1 to 64 bytes")?.to_vec();
    let mut hash = [0; HASH_BYTES];
    let bytes = decoded(parts.next().unwrap_or(""), &mut hash).map(<[u8]>::len);
    if bytes != Some(HASH_BYTES) || parts.next().is_some() {
        return Err("the hash is no base64 of 64 bytes".to_owned());
    }
    Ok(User { name: name.to_owned(), scheme, salt, hash })
}

fn iterations(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let count = if digits { text.parse().ok() } else { None };
    let count = count.filter(|count| (1..=HASH_ITERATIONS_MAX).contains(count));
    count.ok_or_else(|| format!("the iterations must be a number from 1 to {HASH_ITERATIONS_MAX}"))
}

fn decoded<'b>(text: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    Base64::decode(text, buffer).ok()
}

/// At most 64 bytes.
fn encoded(bytes: &[u8]) -> String {
    let mut buffer = [0; 4 * SALT_BYTES_MAX.div_ceil(3)];
    Base64::encode(bytes, &mut buffer).unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Rng;

    /// Written by mosquitto_passwd 2.0.11; the passwords are `secret` and `pw`.
    pub const FILE: &str = "\
# devices
alice:$7$101$mcE5JJ8SIOm2lzIk$bLl8Sr9GgQP+IDKyiLriRPEfx7SGqVVsW2+R2Kbb4n2PmShM8z9as8sXJE6Ave7uhj+\
VQUbawiFKJP3FC4MNxg==

bob:$6$Pnxo9wSoW4mbun01$s47JxLDt6Rmtj48lbEJL87js9xcfCQ3QV3NSWE0B+5BHPDRoIuTlpuIEw7AyAQ2ohcSRzWO4R2\
RWhymFRxVoOg==
";

    #[test]
    fn lines_of_mosquitto_passwd_are_read_and_written_as_they_are() {
        let users = Users::parse(FILE).unwrap();
        let alice = users.find("alice").unwrap();
        assert_eq!((alice.scheme, alice.salt.len()), (Scheme::Pbkdf2(101), 12));
        assert_eq!(users.find("bob").unwrap().scheme, Scheme::Sha512);
        assert_eq!(users.find("carol"), None);
        assert_eq!(users.iterations(), 101);
        for name in ["alice", "bob"] {
            assert!(FILE.lines().any(|line| line == users.find(name).unwrap().line()), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let alice = FILE.lines().nth(1).unwrap();
        for (line, part) in [
            ("alice", "is no user:"),
            ("alice:secret", "mosquitto_passwd -U"),
            ("alice:$5$101$x$y", "mosquitto_passwd -U"),
            ("alice:", "mosquitto_passwd -U"),
            (":$7$101$mcE5JJ8SIOm2lzIk$x", "empty"),
            (&alice.replace("$101$", "$0$"), "iterations"),
            (&alice.replace("$101$", "$+1$"), "iterations"),
            (&alice.replace("$101$", "$20001$"), "iterations"),
            (&alice.replace("$101$", "$99999999999$"), "iterations"),
            (&alice.replace("mcE5", "mc-5"), "salt"),
            (&alice.replace("mcE5JJ8SIOm2lzIk", ""), "salt"),
            (&alice.replace("==", ""), "hash"),
            (&alice.replace("bLl8", ""), "hash"),
            (&format!("{alice}$"), "hash"),
            (&format!("{}{alice}", "x".repeat(USER_BYTES_MAX)), "too long"),
        ] {
            let errors = Users::parse(&format!("\n{line}\n")).unwrap_err();
            assert_eq!((errors.len(), errors[0].0), (1, 2), "{line}");
            assert!(errors[0].1.contains(part), "{line}: {errors:?}");
        }
        let secret = alice.split_once(':').unwrap().1;
        for (name, part) in [
            ("a\u{7}b".to_owned(), "no control character"),
            ("a\u{85}".to_owned(), "no control character"),
            ("\u{FFFE}".to_owned(), "no control character"),
            ("a\u{FDD0}".to_owned(), "no control character"),
            ("a".repeat(USER_BYTES_MAX + 1), "too long"),
            ("a".repeat(65_536), "too long"),
        ] {
            let errors = Users::parse(&format!("\n{name}:{secret}\n")).unwrap_err();
            assert_eq!((errors.len(), errors[0].0), (1, 2), "{name:?}");
            assert!(errors[0].1.contains(part), "{name:?}: {errors:?}");
            assert_eq!(check_name(&name).unwrap_err(), errors[0].1);
        }
        let longest = "\u{10000}".repeat(USER_BYTES_MAX / 4);
        let users = Users::parse(&format!(" {longest}\t:{secret}")).unwrap();
        assert!(users.find(&longest).is_some());
        let twice = Users::parse(&format!("{alice}\r\n{alice}\r\n")).unwrap_err();
        assert_eq!(twice, [(2, "this user is there already".to_owned())]);
    }

    #[test]
    fn mutated_files_are_refused_or_hold_what_is_written_again_the_same() {
        let mut rng = Rng::new(7);
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = FILE.as_bytes().to_vec();
            for _ in 0..=rng.below(3) {
                let len = u64::try_from(bytes.len()).unwrap();
                let at = usize::try_from(rng.below(len)).unwrap();
                match rng.below(3) {
                    0 => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"$:\n#=A"[usize::try_from(rng.below(6)).unwrap()]),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            match Users::parse(&text) {
                Ok(users) => {
                    for user in &users.sorted {
                        let again = Users::parse(&user.line()).unwrap();
                        assert_eq!(again.find(&user.name), Some(user));
                    }
                }
                Err(errors) => {
                    refused += 1;
                    assert!(!errors.is_empty());
                }
            }
        }
        assert!((5_000..20_000).contains(&refused), "{refused}");
    }
}
