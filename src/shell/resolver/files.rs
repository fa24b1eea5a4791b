//! `/etc/hosts` and `resolv.conf`: who answers, and what needs no answer.
//!
//! Files are read up to a bound, and lines that make no sense are passed over: a router must
//! come up with half a file. Never asks the network.

use crate::fit::index;
use crate::shell::socket;
use resolv_conf::ScopedIp;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Name servers asked side by side; further lines are ignored, as the C library does.
pub(crate) const NAME_SERVERS_MAX: usize = 3;

/// Bytes of a file that are read; the rest is ignored.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Suffixes tried; further ones are ignored.
const SEARCH_MAX: usize = 6;

/// Where the resolver looks.
#[derive(Clone, Debug)]
pub struct Paths {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    /// The name servers' port.
    pub port: u16,
}

impl Default for Paths {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

/// What says that a file is the one we have read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    seconds: i64,
    nanos: i64,
    bytes: u64,
    inode: u64,
}

/// `None` for a file that is not there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp {
        seconds: meta.mtime(),
        nanos: meta.mtime_nsec(),
        bytes: meta.len(),
        inode: meta.ino(),
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServers {
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) search: Vec<String>,
    pub(super) dots: usize,
}

impl NameServers {
    /// Reads `resolv.conf`; without one, or without a server in it, this machine is asked.
    pub(super) fn read(paths: &Paths) -> Self {
        Self::parse(&read_bounded(&paths.resolv_conf).unwrap_or_default(), paths.port)
    }

    fn parse(text: &[u8], port: u16) -> Self {
        let (config, _lines_that_make_no_sense) = resolv_conf::Config::parse_with_errors(text);
        let mut addrs: Vec<SocketAddr> = config
            .nameservers
            .iter()
            .filter_map(|server| scoped(server, port))
            .take(NAME_SERVERS_MAX)
            .collect();
        if addrs.is_empty() {
            addrs.push((Ipv4Addr::LOCALHOST, port).into());
        }
        let search = config
            .get_last_search_or_domain()
            .map(|suffix| suffix.trim_matches('.'))
            .filter(|suffix| !suffix.is_empty())
            .take(SEARCH_MAX)
            .map(str::to_owned)
            .collect();
        Self { addrs, search, dots: index(config.ndots).min(15) }
    }

    /// The names to ask for, in order. A name that ends with a dot is asked as it is.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> =
            self.search.iter().map(|suffix| format!("{name}.{suffix}")).collect();
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let at = if dots >= self.dots { 0 } else { names.len() };
        names.insert(at, name.to_owned());
        names.retain(|name| is_host_name(name));
        names
    }
}

fn scoped(server: &ScopedIp, port: u16) -> Option<SocketAddr> {
    match server {
        ScopedIp::V4(ip) => Some((*ip, port).into()),
        ScopedIp::V6(ip, None) => Some((*ip, port).into()),
        ScopedIp::V6(ip, Some(scope)) => Some(SocketAddrV6::new(*ip, port, 0, zone(scope)?).into()),
    }
}

/// A zone by number or by interface name.
fn zone(scope: &str) -> Option<u32> {
    scope.parse().ok().or_else(|| socket::interface_index(scope))
}

/// An address written out, IPv6 with a zone too (`fe80::1%eth0`).
pub(super) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some((ip, port).into());
    }
    let (ip, scope) = host.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    Some(SocketAddrV6::new(ip, port, 0, zone(scope)?).into())
}

/// What DNS can be asked for at all: labels of 1 to 63 printable bytes, 253 together.
pub(super) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The addresses `/etc/hosts` has for `name`; `localhost` is known without a file.
pub(super) fn hosts(path: &Path, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = find_host(&read_bounded(path).unwrap_or_default(), name);
    if found.is_empty() && name.eq_ignore_ascii_case("localhost") {
        found.push(Ipv4Addr::LOCALHOST.into());
        found.push(Ipv6Addr::LOCALHOST.into());
    }
    found
}

fn find_host(text: &[u8], name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(line) = core::str::from_utf8(line) else { continue };
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(addr) = words.next() else { continue };
        if !words.any(|word| word.eq_ignore_ascii_case(name)) {
            continue;
        }
        if let Ok(ip) = addr.parse::<IpAddr>()
            && !found.contains(&ip)
            && found.len() < super::ADDRS_MAX
        {
            found.push(ip);
        }
    }
    found
}

fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_search_and_ndots_are_read_past_lines_of_nonsense() {
        let text = b"nonsense here\nnameserver 192.0.2.1\nnameserver ::1\nnameserver x\n\
            search lan example.org\noptions ndots:2\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers = NameServers::parse(text, 53);
        let expected: Vec<SocketAddr> = ["192.0.2.1:53", "[::1]:53", "192.0.2.2:53"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        assert_eq!(servers.addrs, expected);
        assert_eq!(servers.search, ["lan", "example.org"]);
        assert_eq!(servers.candidates("a.b"), ["a.b.lan", "a.b.example.org", "a.b"]);
        assert_eq!(servers.candidates("a.b.c"), ["a.b.c", "a.b.c.lan", "a.b.c.example.org"]);
        assert_eq!(servers.candidates("a."), ["a"]);
    }

    #[test]
    fn without_a_server_this_machine_is_asked() {
        let servers = NameServers::parse(b"", 5353);
        assert_eq!(servers.addrs, ["127.0.0.1:5353".parse().unwrap()]);
        assert_eq!(servers.candidates("broker"), ["broker"]);
    }

    #[test]
    fn names_that_no_server_could_answer_are_not_asked() {
        for name in ["", "a..b", ".a", "a b", &"x".repeat(64), &"abc.".repeat(70), "a\\b", "ä"] {
            assert!(!is_host_name(name), "{name}");
        }
        for name in ["a", "a.b", "_mqtt._tcp.example", &"x".repeat(63)] {
            assert!(is_host_name(name), "{name}");
        }
    }

    #[test]
    fn literals_are_addresses_with_and_without_a_zone() {
        assert_eq!(literal("192.0.2.7", 1), Some("192.0.2.7:1".parse().unwrap()));
        assert_eq!(literal("::1", 1), Some("[::1]:1".parse().unwrap()));
        let Some(SocketAddr::V6(addr)) = literal("fe80::1%lo", 1) else { panic!("a zone") };
        assert_eq!(Some(addr.scope_id()), socket::interface_index("lo"));
        assert_eq!(literal("fe80::1%nosuchif0", 1), None);
        assert_eq!(literal("broker", 1), None);
    }

    #[test]
    fn hosts_lines_match_any_name_in_them_in_any_case() {
        let text = b"# 1.1.1.1 broker\n127.0.0.1\tlocalhost\n192.0.2.1 a Broker # b\n\
            ::2 broker\nbad broker\n192.0.2.1 broker\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "::2".parse().unwrap()];
        assert_eq!(find_host(text, "bRoker"), expected);
        assert!(find_host(text, "b").is_empty());
    }

    #[test]
    fn localhost_needs_no_file() {
        assert_eq!(hosts(Path::new("/nonexistent"), "LOCALHOST").len(), 2);
        assert!(hosts(Path::new("/nonexistent"), "broker").is_empty());
    }
}
