//! `spillway passwd FILE USER`: adds a user or changes a password. Lines of other users stay as
//! they are; the file is replaced as a whole, so that a reader sees the old one or the new one.
//! The password comes from the terminal, without echo and twice, or is the first line of stdin.

use super::files;
use super::replace::{self, Turn};
use crate::broker::secret;
use crate::config::{NoText, check_name, decode, lines_and_ends, name_in};
use crate::fit::wide;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// What a new password is hashed with. mosquitto_passwd takes 101; this is still a few
/// milliseconds for a router, and ten times the work for whoever has stolen the file.
const ITERATIONS: u32 = 1000;

/// As mosquitto_passwd's.
const SALT_BYTES: usize = 12;

/// The longest password that fits into a CONNECT.
const PASSWORD_BYTES_MAX: usize = 65_535;

/// Why nothing was changed.
#[derive(Debug)]
pub enum Error {
    /// The user name or the password cannot be.
    Unusable(String),
    Io(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// Asks for the password and writes the file.
pub fn passwd(file: &Path, user: &str) -> Result<(), Error> {
    check_name(user).map_err(|what| Error::Unusable(what.to_owned()))?;
    let said = |error: io::Error| Error::Io(format!("{}: {error}", file.display()));
    let real = replace::real(file);
    // Before anybody types in vain.
    content(&real).map_err(said)?;
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let first = hidden("Password: ", &stdin)?;
        if first != hidden("Again: ", &stdin)? {
            return Err(Error::Unusable("the two passwords differ".to_owned()));
        }
        first
    } else {
        first_line(&mut stdin.lock())?
    };
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        let what = format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes");
        return Err(Error::Unusable(what));
    }
    let mut salt = [0; SALT_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut salt)?;
    let line = secret::user(user, &password, &salt, ITERATIONS).line();
    let turn = Turn::take(&real).map_err(said)?;
    let before = content(&real).map_err(said)?;
    turn.replace(&real, with(&before, user, &line).as_bytes()).map_err(said)
}

/// A file that is not there is an empty one.
fn content(file: &Path) -> io::Result<String> {
    let bytes = match files::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let text = decode(&bytes).map_err(|NoText { line, what }| {
        let place = if line > 0 { format!("line {line}: ") } else { String::new() };
        io::Error::new(io::ErrorKind::InvalidData, format!("{place}{what}"))
    })?;
    Ok(text.to_owned())
}

/// The text with the line of this user in its old place, or at the end.
fn with(before: &str, user: &str, line: &str) -> String {
    let mut after = String::with_capacity(before.len() + line.len() + 4);
    let mut written = false;
    // As the file has them so far.
    let mut usual = "\n";
    for (old, end) in lines_and_ends(before) {
        usual = if end.is_empty() { usual } else { end };
        let is_user = name_in(old) == Some(user);
        // A second line of the same user would be an error.
        if !(is_user && written) {
            after += if is_user { line } else { old };
            after += usual;
        }
        written |= is_user;
    }
    if !written {
        after += line;
        after += usual;
    }
    after
}

/// Without its end.
fn first_line(input: &mut impl BufRead) -> Result<Vec<u8>, Error> {
    let mut line = Vec::new();
    let most = wide(PASSWORD_BYTES_MAX) + 3;
    input.take(most).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(line)
}

/// A terminal that gives every key at once and shows none, until it is dropped.
struct Silent<'t, T: AsFd> {
    terminal: &'t T,
    before: libc::termios,
}

impl<'t, T: AsFd> Silent<'t, T> {
    fn new(terminal: &'t T) -> io::Result<Self> {
        let fd = terminal.as_fd().as_raw_fd();
        // SAFETY: a termios is plain numbers; zeroes are one.
        let mut before: libc::termios = unsafe { core::mem::zeroed() };
        // SAFETY: the descriptor is open for as long as `terminal` is borrowed.
        if unsafe { libc::tcgetattr(fd, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut silent = before;
        // Without ISIG an interrupt comes as a key: the terminal is never left silent.
        silent.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
        silent.c_cc[libc::VMIN] = 1;
        silent.c_cc[libc::VTIME] = 0;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const silent) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for Silent<'_, T> {
    fn drop(&mut self) {
        let fd = self.terminal.as_fd().as_raw_fd();
        // SAFETY: the descriptor is open for as long as `terminal` is borrowed.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const self.before) };
    }
}

const INTERRUPT: u8 = 3;
const END: u8 = 4;
const ERASE: [u8; 2] = [8, 127];

/// A line of the terminal that is not shown.
fn hidden(prompt: &str, terminal: &impl AsFd) -> Result<Vec<u8>, Error> {
    let silent = Silent::new(terminal)?;
    let mut screen = io::stderr();
    screen.write_all(prompt.as_bytes())?;
    let mut keys = File::from(silent.terminal.as_fd().try_clone_to_owned()?);
    let mut line: Vec<u8> = Vec::new();
    let mut key = [0];
    while keys.read(&mut key)? > 0 && line.len() <= PASSWORD_BYTES_MAX {
        match key[0] {
            b'\n' | b'\r' | END => break,
            INTERRUPT => {
                screen.write_all(b"\n")?;
                return Err(Error::Unusable("nothing was changed".to_owned()));
            }
            key if ERASE.contains(&key) => {
                // All bytes of one character.
                while line.pop().is_some_and(|byte| byte & 0xC0 == 0x80) {}
            }
            key => line.push(key),
        }
    }
    screen.write_all(b"\n")?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd};

    #[test]
    fn other_lines_stay_as_they_are_and_in_their_place() {
        let before = "# mine\na:1\n\nbob:old\nbobby:2\nbob:older";
        assert_eq!(with(before, "bob", "bob:new"), "# mine\na:1\n\nbob:new\nbobby:2\n");
        assert_eq!(with("a:1", "bob", "bob:new"), "a:1\nbob:new\n");
        assert_eq!(with("", "bob", "bob:new"), "bob:new\n");
        assert_eq!(with("#bob:1\n", "bob", "bob:new"), "#bob:1\nbob:new\n");
        assert_eq!(with("a:1\r\nbob:1\r\nb:2", "bob", "bob:n"), "a:1\r\nbob:n\r\nb:2\r\n");
        assert_eq!(with("a:1\rbob:1\r", "bob", "bob:n"), "a:1\rbob:n\r");
    }

    #[test]
    fn a_line_ends_where_it_ends() {
        for (text, wanted) in [
            ("a b\nc\n", "a b"),
            ("a\r\n", "a"),
            ("a", "a"),
            ("", ""),
            ("\n", ""),
            (" a \n", " a "),
        ] {
            assert_eq!(first_line(&mut text.as_bytes()).unwrap(), wanted.as_bytes(), "{text:?}");
        }
    }

    /// Both ends of a terminal.
    fn terminal() -> (File, OwnedFd) {
        let (mut keyboard, mut terminal) = (0, 0);
        let null = core::ptr::null_mut();
        // SAFETY: two places for two descriptors; nothing else is asked for.
        let opened = unsafe {
            libc::openpty(&raw mut keyboard, &raw mut terminal, null, null.cast(), null.cast())
        };
        assert_eq!(opened, 0);
        // SAFETY: both were opened for us a moment ago.
        unsafe { (File::from_raw_fd(keyboard), OwnedFd::from_raw_fd(terminal)) }
    }

    /// Bytes that can be read from a terminal that gives every key at once.
    fn waiting(terminal: &OwnedFd) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: an open descriptor and a place for one number.
        let known = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        assert_eq!(known, 0);
        usize::try_from(count).unwrap()
    }

    #[test]
    fn what_is_typed_is_not_shown_and_can_be_mended() {
        let (mut keyboard, terminal) = terminal();
        // The second line comes while nothing is read: it must wait for its turn.
        let silent = Silent::new(&terminal).unwrap();
        let keys = "paé\x7fs\x08\x7fss\rtwo\n".as_bytes();
        keyboard.write_all(keys).unwrap();
        // The kernel brings them over in its own time: not after the terminal shows keys again.
        while waiting(&terminal) < keys.len() {
            std::thread::yield_now();
        }
        drop(silent);
        let before = Silent::new(&terminal).unwrap().before;
        assert_eq!(hidden("", &terminal).unwrap(), b"pss");
        assert_eq!(hidden("", &terminal).unwrap(), b"two");
        let after = Silent::new(&terminal).unwrap().before;
        assert_eq!(before.c_lflag, after.c_lflag);
        assert_ne!(after.c_lflag & libc::ECHO, 0, "it shows again what is typed");
        // Something to read, lest there be nothing.
        File::from(terminal).write_all(b"|").unwrap();
        let mut shown = [0; 16];
        let count = keyboard.read(&mut shown).unwrap();
        assert_eq!(&shown[..count], b"|");
    }

    #[test]
    fn an_interrupt_changes_nothing_and_leaves_the_terminal_as_it_was() {
        let (mut keyboard, terminal) = terminal();
        let silent = Silent::new(&terminal).unwrap();
        keyboard.write_all(b"abc\x03").unwrap();
        let flags = silent.before.c_lflag;
        assert!(matches!(hidden("", &terminal), Err(Error::Unusable(_))));
        drop(silent);
        assert_eq!(Silent::new(&terminal).unwrap().before.c_lflag, flags);
    }
}
