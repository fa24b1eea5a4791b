//! Who has what we want: the process that holds a lock or listens at a port, as far as the system
//! tells (of other users' processes only root is told). Reads below `/proc`, touches nobody.

use core::fmt;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of one of the system's tables that are read.
const TABLE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of a command line that are looked at.
const LINE_BYTES_MAX: u64 = 8 * 1024;

/// Another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub program: String,
    /// The configuration it was started with, if it is one of us.
    pub config: Option<PathBuf>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}", self.pid, self.program)?;
        match &self.config {
            Some(config) => write!(f, " -c {})", config.display()),
            None => f.write_str(")"),
        }
    }
}

impl Holder {
    fn of(pid: u32) -> Self {
        let program = table(&format!("/proc/{pid}/comm"), LINE_BYTES_MAX).unwrap_or_default();
        let program = String::from_utf8_lossy(program.trim_ascii_end()).into_owned();
        let config = if program == "spillway" { config_of(pid) } else { None };
        Self { pid, program, config }
    }

    /// Does it run with this configuration?
    pub fn runs_with(&self, config: &Path) -> bool {
        let same = |one: &Path, other: &Path| match (fs::metadata(one), fs::metadata(other)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => one == other,
        };
        self.config.as_deref().is_some_and(|own| same(own, config))
    }
}

/// The file behind `-c` or `--config` of a process, from its own directory.
fn config_of(pid: u32) -> Option<PathBuf> {
    let line = table(&format!("/proc/{pid}/cmdline"), LINE_BYTES_MAX)?;
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let name = loop {
        let word = words.next()?;
        if matches!(word, b"-c" | b"--config") {
            break words.next()?;
        }
        let rest = word.strip_prefix(b"--config=").or_else(|| word.strip_prefix(b"-c="));
        if let Some(name) = rest.or_else(|| word.strip_prefix(b"-c").filter(|n| !n.is_empty())) {
            break name;
        }
    };
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    Some(directory.join(OsStr::from_bytes(name)))
}

/// Is there a lock on the file? `Some(None)`: there is, and the system does not say whose.
pub(super) fn of_lock(path: &Path) -> io::Result<Option<Option<Holder>>> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    if let Some(locks) = table("/proc/locks", TABLE_BYTES_MAX) {
        let locks = String::from_utf8_lossy(&locks).into_owned();
        let pids: Vec<u32> = locks.lines().filter_map(|line| lock_of(line, inode)).collect();
        let has_open = |pid: &u32| opens(*pid).any(|file| is_inode(&file, inode));
        if let Some(pid) = pids.iter().copied().find(has_open).or(pids.first().copied())
            && is_locked(&file)?
        {
            return Ok(Some(Some(Holder::of(pid))));
        }
        // Nobody's lock is there: it is not touched for a moment either.
        if pids.is_empty() {
            return Ok(None);
        }
    }
    Ok(is_locked(&file)?.then_some(None))
}

/// `1: FLOCK  ADVISORY  WRITE 7 fe:01:1234 0 EOF`: 7, if the file has this inode.
fn lock_of(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", pid, place, ..] = words.as_slice() else { return None };
    let its = place.rsplit(':').next()?.parse::<u64>().ok()?;
    (its == inode).then(|| pid.parse().ok()).flatten()
}

/// Asks for a share of the lock, which is given back at once.
fn is_locked(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
        // SAFETY: as above.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
        return Ok(false);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(true) } else { Err(error) }
}

/// Who listens where a listener at `addr` would be in the way; `None`: the system does not say.
pub(super) fn of_port(addr: SocketAddr) -> Option<Holder> {
    let tables = [("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)];
    let sockets: Vec<u64> = tables
        .iter()
        .filter_map(|(name, _)| table(name, TABLE_BYTES_MAX))
        .flat_map(|text| {
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().filter_map(|line| listening(line, addr)).collect::<Vec<_>>()
        })
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let is_one = |link: &Path| {
        let name = link.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        name.and_then(|inode| inode.parse().ok()).is_some_and(|inode| sockets.contains(&inode))
    };
    let processes = fs::read_dir("/proc").ok()?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut holders = pids.filter(|pid: &u32| {
        opens(*pid).any(|file| fs::read_link(file).is_ok_and(|link| is_one(&link)))
    });
    holders.next().map(Holder::of)
}

/// The inode of a listening socket that stands in the way of `addr`, from a line of the table:
/// `0: 0100007F:075B 00000000:0000 0A … 1234 …`, addresses as the machine has them in memory.
fn listening(line: &str, addr: SocketAddr) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    let (ip, port) = local.split_once(':')?;
    if *state != "0A" || u16::from_str_radix(port, 16).ok()? != addr.port() {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|at| u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<Vec<[u8; 4]>>>()
        .map(|words| words.concat());
    let bytes = bytes?;
    let ip: IpAddr = if let Ok(four) = <[u8; 4]>::try_from(&bytes[..]) {
        IpAddr::from(four)
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).to_canonical()
    };
    let mine = addr.ip().to_canonical();
    // `[::]` may have IPv4 as well; whether it does only the kernel knows.
    let wide = |ip: IpAddr| ip == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let same_family = ip.is_ipv4() == mine.is_ipv4();
    let meet = ip == mine || (same_family && (ip.is_unspecified() || mine.is_unspecified()));
    (meet || wide(ip) || wide(mine)).then(|| inode.parse().ok()).flatten()
}

/// What a process has open: links below `/proc`. None of them when we may not look.
fn opens(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok();
    entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn is_inode(link: &Path, inode: u64) -> bool {
    fs::metadata(link).is_ok_and(|data| data.ino() == inode)
}

fn table(name: &str, most: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(name).ok()?.take(most).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_lock_is_read_from_the_table() {
        let line = "3: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF";
        assert_eq!((lock_of(line, 1234), lock_of(line, 123)), (Some(4711), None));
        assert_eq!(lock_of("3: POSIX  ADVISORY  WRITE 4711 fe:01:1234 0 EOF", 1234), None);
        assert_eq!(lock_of("", 1), None);
    }

    #[test]
    fn who_listens_is_found_whatever_address_is_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            let addr = SocketAddr::new(host.parse().unwrap(), port);
            assert_eq!(of_port(addr).map(|holder| holder.pid), Some(std::process::id()), "{host}");
        }
        assert_eq!(of_port(SocketAddr::new("127.0.0.2".parse().unwrap(), port)), None);
        drop(listener);
        assert_eq!(of_port(SocketAddr::new("127.0.0.1".parse().unwrap(), port)), None);
    }

    #[test]
    fn whose_lock_it_is_is_found() {
        let path = std::env::temp_dir().join(format!("spillway-holder-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        assert!(of_lock(&path).unwrap().is_none());
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
        let holder = of_lock(&path).unwrap().expect("locked").expect("known");
        assert_eq!(holder.pid, std::process::id());
        drop(file);
        assert!(of_lock(&path).unwrap().is_none());
        fs::remove_file(&path).unwrap();
    }
}
