//! Where the listeners of a configuration listen: every address that their names have here. Decides
//! what is in whose way, and tries an address before anybody can connect to it.
//!
//! `[::]` takes IPv4 as well, unless another listener has an IPv4 address at its port: then each
//! family has its own socket (IPV6_V6ONLY), whatever the system's default is.

use super::holder::{self, Holder};
use super::resolver::{self, Paths};
use super::socket::{self, Kind};
use crate::config::{Config, Listener, collides, collision};
use crate::note::Visible;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::io;
use std::os::fd::OwnedFd;

/// One socket of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Place in the configuration.
    pub(super) listener: usize,
    pub(super) addr: SocketAddr,
    /// IPv4 has a socket of its own.
    pub(super) v6_only: bool,
}

/// Every place, by listener. Those with which there is something wrong are not among them.
pub(super) fn places(config: &Config, paths: &Paths) -> (Vec<Place>, Vec<String>) {
    let (mut places, mut wrong): (Vec<Place>, Vec<String>) = (Vec::new(), Vec::new());
    for (at, listener) in config.listeners.iter().enumerate() {
        let addrs = resolver::local(paths, &listener.host, listener.port);
        if addrs.is_empty() {
            let host = Visible(&listener.host);
            let what = match socket::interface_index(&listener.host) {
                Some(_) => "is an interface: its address is wanted",
                None => "is no address and not in /etc/hosts",
            };
            wrong.push(said(listener, &format!("{host} {what}")));
        }
        for addr in addrs {
            // An IPv4 address in IPv6's clothes is one of IPv4.
            let addr = match addr.ip().to_canonical() {
                IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
                IpAddr::V6(_) => addr,
            };
            let first = places.iter().find(|place| collides(place.addr, addr));
            let other =
                first.and_then(|first| Some((first, config.listeners.get(first.listener)?)));
            match other {
                // Two names of one host in /etc/hosts.
                Some((first, _)) if first.listener == at => {}
                Some((first, other)) => {
                    wrong.push(said(listener, &collision(addr, first.addr, other)));
                }
                None => places.push(Place { listener: at, addr, v6_only: true }),
            }
        }
    }
    let four: Vec<u16> =
        places.iter().filter(|p| p.addr.is_ipv4()).map(|p| p.addr.port()).collect();
    for place in &mut places {
        let wide = place.addr.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
        // At port 0 nobody is in anybody's way.
        place.v6_only = !wide || (place.addr.port() != 0 && four.contains(&place.addr.port()));
    }
    (places, wrong)
}

/// What is doubtful: `[::]` beside IPv4 addresses that are not all of them.
pub(super) fn doubts(config: &Config, places: &[Place]) -> Vec<String> {
    let wide = places.iter().filter(|place| place.v6_only && place.addr.ip().is_unspecified());
    let wide = wide.filter(|place| place.addr.is_ipv6());
    let mut doubts = Vec::new();
    for place in wide {
        let four = |p: &&Place| p.addr.is_ipv4() && p.addr.port() == place.addr.port();
        let mut four = places.iter().filter(four);
        if let Some(other) = four.clone().next()
            && four.all(|place| !place.addr.ip().is_unspecified())
            && let Some(listener) = config.listeners.get(place.listener)
            && let Some(other) = config.listeners.get(other.listener)
        {
            let what = format!(
                "takes IPv6 alone, because listener.{}.url (line {}) has an IPv4 address at this \
                 port; a listener at 0.0.0.0 takes all of IPv4",
                other.name, other.line
            );
            doubts.push(said(listener, &what));
        }
    }
    doubts
}

/// Bridges whose server is one of our own listeners: what they send comes back for ever.
pub(super) fn circles(config: &Config, paths: &Paths, places: &[Place]) -> Vec<String> {
    let own = |addr: &SocketAddr| {
        let place = |place: &Place| {
            let all = place.addr.ip().is_unspecified() && addr.ip().is_loopback();
            let same = all || place.addr.ip() == addr.ip().to_canonical();
            same && place.addr.port() == addr.port()
        };
        places.iter().any(place)
    };
    let mut found = Vec::new();
    for bridge in &config.bridges {
        for server in &bridge.servers {
            let addrs = resolver::local(paths, &server.host, server.port);
            if let Some(addr) = addrs.iter().find(|addr| own(addr)) {
                let name = &bridge.name;
                found.push(format!("bridge.{name}.server: {addr} is a listener of this gateway"));
            }
        }
    }
    found
}

/// A socket at this place; nobody can connect to it yet.
pub(super) fn open(place: &Place) -> io::Result<OwnedFd> {
    let socket = socket::open(place.addr, Kind::Stream, None)?;
    // What an earlier connection has left of the port is in nobody's way.
    socket::set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, true)?;
    if place.addr.is_ipv6() {
        socket::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, place.v6_only)?;
    }
    socket::bind(&socket, place.addr)?;
    Ok(socket)
}

/// Which listeners could not listen, and why. `mine`: whom we would follow there.
pub(super) fn refusals(
    config: &Config,
    places: &[Place],
    mine: impl Fn(&Holder) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    // Kept until all are tried.
    let mut sockets = Vec::new();
    for (at, listener) in config.listeners.iter().enumerate() {
        let (mut good, mut bad) = (false, Vec::new());
        for place in places.iter().filter(|place| place.listener == at) {
            match open(place) {
                Ok(socket) => {
                    good = true;
                    sockets.push(socket);
                }
                Err(error) if is_in_use(&error) => match holder::of_port(place.addr) {
                    Some(holder) if mine(&holder) => good = true,
                    holder => wrong.push(said(listener, &in_use(place.addr, holder.as_ref()))),
                },
                Err(error) => bad.push(said(listener, &cannot(place.addr, &error))),
            }
        }
        // Of a name with several addresses one that this machine has is enough.
        if !good {
            wrong.append(&mut bad);
        }
    }
    wrong
}

/// Why a listener cannot be opened at one of its addresses. What another process has is always
/// an error: whoever connects there would reach the other one.
pub(super) fn why(place: &Place, listener: &Listener, error: &io::Error) -> String {
    let what = if is_in_use(error) {
        in_use(place.addr, holder::of_port(place.addr).as_ref())
    } else {
        cannot(place.addr, error)
    };
    said(listener, &what)
}

pub(super) fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

fn said(listener: &Listener, what: &str) -> String {
    match listener.line {
        0 => format!("the listener that is there when none is configured: {what}"),
        line => format!("listener.{}.url (line {line}): {what}", listener.name),
    }
}

fn in_use(addr: SocketAddr, holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("cannot listen on {addr}: in use by {holder}"),
        None => format!("cannot listen on {addr}: in use by another process"),
    }
}

fn cannot(addr: SocketAddr, error: &io::Error) -> String {
    let why = match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address now".to_owned(),
        Some(libc::EACCES | libc::EPERM) if addr.port() < 1024 => {
            format!("{error}: ports below 1024 need root or CAP_NET_BIND_SERVICE")
        }
        Some(libc::EAFNOSUPPORT) if addr.is_ipv6() => "the kernel has no IPv6".to_owned(),
        Some(_) | None => error.to_string(),
    };
    format!("cannot listen on {addr}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use std::fs;

    fn config(text: &str) -> Config {
        load("f", text, &mut |_| Err(String::new()), "n").expect("loads").0
    }

    fn placed(hosts: &str, text: &str) -> (Vec<(String, bool)>, Vec<String>, Vec<String>) {
        let path = std::env::temp_dir().join(format!("spillway-places-{}", std::process::id()));
        fs::write(&path, hosts).expect("a file");
        let config = config(text);
        let (places, wrong) = places(&config, &Paths { hosts: path.clone(), ..Paths::default() });
        fs::remove_file(path).expect("our file");
        let doubts = doubts(&config, &places);
        (places.iter().map(|p| (p.addr.to_string(), p.v6_only)).collect(), wrong, doubts)
    }

    #[test]
    fn wide_ipv6_takes_ipv4_unless_somebody_else_does() {
        let alone = placed("", "listener.a.url = mqtt://[::]:7");
        assert_eq!(alone.0, [("[::]:7".to_owned(), false)]);
        let (places, wrong, doubts) =
            placed("", "listener.a.url = mqtt://[::]:7\nlistener.b.url = mqtt://0.0.0.0:7");
        assert_eq!(places, [("[::]:7".to_owned(), true), ("0.0.0.0:7".to_owned(), true)]);
        assert!(wrong.is_empty() && doubts.is_empty());
        let (places, _, doubts) =
            placed("", "listener.a.url = mqtt://[::]:7\nlistener.b.url = mqtt://127.0.0.1:7");
        assert!(places[0].1);
        assert!(doubts[0].contains("listener.a.url (line 1): takes IPv6 alone"), "{doubts:?}");
        assert!(doubts[0].contains("listener.b.url (line 2)"), "{doubts:?}");
    }

    #[test]
    fn a_bridge_to_itself_is_doubted() {
        for (listener, server, wanted) in [
            ("0.0.0.0:7", "127.0.0.1:7", 1),
            ("127.0.0.1:7", "localhost:7", 1),
            ("[::1]:7", "[::1]:7", 1),
            ("127.0.0.1:7", "127.0.0.1:8", 0),
            ("0.0.0.0:7", "192.0.2.1:7", 0),
        ] {
            let text =
                format!("listener.a.url = mqtt://{listener}\nbridge.b.server = mqtt://{server}\n");
            let (config, paths) = (config(&text), Paths::default());
            let (places, _) = places(&config, &paths);
            let found = circles(&config, &paths, &places);
            assert_eq!(found.len(), wanted, "{listener} {server}: {found:?}");
        }
    }

    #[test]
    fn names_that_mean_the_same_address_are_told_with_both_keys_and_lines() {
        let hosts = "192.0.2.1 lan router\n192.0.2.1 lan\n";
        let text = "listener.a.url = mqtt://lan:7\nlistener.b.url = mqtt://router:7\n\
            listener.c.url = mqtt://0.0.0.0:7\nlistener.d.url = mqtt://[::ffff:192.0.2.1]:8";
        let (places, wrong, _) = placed(hosts, text);
        let addrs: Vec<&str> = places.iter().map(|(addr, _)| addr.as_str()).collect();
        assert_eq!(addrs, ["192.0.2.1:7", "192.0.2.1:8"]);
        let a = "listener.a.url (line 1) listens at 192.0.2.1:7 already";
        assert_eq!(wrong.len(), 2);
        assert_eq!(wrong[0], format!("listener.b.url (line 2): {a}"));
        let way = format!("listener.c.url (line 3): {a}, and 0.0.0.0:7 is in its way");
        assert_eq!(wrong[1], way);
        let (_, wrong, _) = placed("", "listener.a.url = mqtt://lo:7");
        assert!(wrong[0].contains("lo is an interface"), "{wrong:?}");
        let (_, wrong, _) = placed("", "listener.a.url = mqtt://nowhere:7");
        assert!(wrong[0].contains("(line 1): nowhere is no address and not in"), "{wrong:?}");
    }
}
