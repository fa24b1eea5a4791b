//! The listeners of the configuration, and which of their addresses are in each other's way.
//! Addresses are compared, not their text; what a name means is known only where it is looked up.

use super::reader::{Reader, Scope};
use super::values::{boolean, listen_url, number, same_server};
use super::{Limits, Listener, PORT_DEFAULT, Server};
use core::net::{IpAddr, SocketAddr};

pub(super) fn listeners(reader: &mut Reader<'_>, limit: &Limits, has_users: bool) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for name in reader.names("listener") {
        let scope = Scope { name, rule: "" };
        let anonymous = reader.take("listener.NAME.anonymous", scope, boolean);
        if !anonymous && !has_users {
            let what = "false lets nobody in without auth.password_file";
            reader.error("listener.NAME.anonymous", scope, what);
        }
        let max_clients =
            reader.maybe("listener.NAME.max_clients", scope, number(1, limit.clients));
        let Some(entry) = reader.entry("listener.NAME.url", scope) else {
            reader.error("listener.NAME.url", scope, "is missing");
            continue;
        };
        let line = entry.line;
        let Some(Server { host, port }) = reader.maybe("listener.NAME.url", scope, listen_url)
        else {
            continue;
        };
        if anonymous && !is_loopback(&host) {
            let what = "anonymous clients are let in from beyond this host";
            reader.warn("listener.NAME.url", scope, what);
        }
        let listener = Listener { name: name.to_owned(), line, host, port, max_clients, anonymous };
        if let Some(what) = listeners.iter().find_map(|other| taken(&listener, other)) {
            reader.error("listener.NAME.url", scope, what);
        }
        listeners.push(listener);
    }
    if listeners.is_empty() {
        listeners.push(Listener {
            name: "default".to_owned(),
            line: 0,
            host: "127.0.0.1".to_owned(),
            port: PORT_DEFAULT,
            max_clients: None,
            anonymous: true,
        });
    }
    listeners
}

/// Why the first of two listeners cannot be, as far as it is known without looking names up.
fn taken(listener: &Listener, other: &Listener) -> Option<String> {
    let addr =
        |listener: &Listener| Some(SocketAddr::new(listener.host.parse().ok()?, listener.port));
    match (addr(listener), addr(other)) {
        (Some(mine), Some(its)) => collides(mine, its).then(|| collision(mine, its, other)),
        _ => {
            let server = |l: &Listener| Server { host: l.host.clone(), port: l.port };
            let same = listener.port != 0 && same_server(&server(listener), &server(other));
            same.then(|| format!("listener.{}.url (line {}) is the same", other.name, other.line))
        }
    }
}

/// What is said of an address that another listener has already.
pub fn collision(mine: SocketAddr, its: SocketAddr, other: &Listener) -> String {
    let has = format!("listener.{}.url (line {})", other.name, other.line);
    if mine == its {
        format!("{has} listens at {its} already")
    } else {
        format!("{has} listens at {its} already, and {mine} is in its way")
    }
}

/// Can the system not listen at both? The same port, and the same address or one that stands for
/// all of its family: `0.0.0.0` and `[::]` can stand side by side.
pub fn collides(a: SocketAddr, b: SocketAddr) -> bool {
    // Port 0 is another one each time.
    if a.port() != b.port() || a.port() == 0 {
        return false;
    }
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            one == other || one.is_unspecified() || other.is_unspecified()
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            one == other || one.is_unspecified() || other.is_unspecified()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_each_others_way_or_not() {
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (a, b, wanted) in [
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("0.0.0.0:1883", "0.0.0.0:1883", true),
            ("0.0.0.0:1883", "0.0.0.0:1884", false),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("[::]:1883", "[::1]:1883", true),
            ("[0:0::1]:1883", "[::1]:1883", true),
            ("[::]:1883", "0.0.0.0:1883", false),
            ("[::]:1883", "127.0.0.1:1883", false),
            ("[::1]:1883", "127.0.0.1:1883", false),
            ("[::ffff:127.0.0.1]:1883", "127.0.0.1:1883", true),
            ("[::ffff:127.0.0.1]:1883", "0.0.0.0:1883", true),
            ("[::ffff:127.0.0.1]:1883", "[::]:1883", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            assert_eq!(collides(addr(a), addr(b)), wanted, "{a} {b}");
            assert_eq!(collides(addr(b), addr(a)), wanted, "{b} {a}");
        }
    }
}
