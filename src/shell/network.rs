//! What the system says of its network: links that get a carrier, addresses, routes (rtnetlink),
//! read from a socket in the same poll as everything else. A kernel without it is no error: bridges
//! then wait as long as they say. Read rtnetlink(7) first.

use super::core::Core;
use super::{EventLoop, socket};
use crate::fit::fit;
use crate::gateway::verbs::Event;
use crate::queue::store::SpillStore;
use crate::vocab::{BridgeId, Instant};
use core::mem::size_of;
use core::time::Duration;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};

/// Bytes taken at once: more than one message of the kernel ever has.
const BUFFER_BYTES: usize = 8 * 1024;

/// Reads a turn; what is left waits for the next.
const READS_A_TURN: usize = 16;

/// Interfaces whose carrier is remembered; of others each word counts.
const LINKS_MAX: usize = 64;

/// Look-ups that wait ask again at most this often because of a change.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) what: &'static str,
    /// `None`: all of them, perhaps.
    pub(super) interface: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    socket: Option<File>,
    ready: bool,
    asked_at: Instant,
    links: Links,
}

/// Which interfaces had a carrier when they were last heard of.
#[derive(Debug, Default)]
struct Links(heapless::Vec<(u32, bool), LINKS_MAX>);

impl Network {
    /// Without a socket where the system gives none.
    pub(super) fn open(registry: &Registry, token: Token) -> Self {
        let socket = listen().and_then(|file| {
            registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::READABLE)?;
            Ok(file)
        });
        Self { socket: socket.ok(), ..Self::default() }
    }

    pub(super) fn event(&mut self) {
        self.ready = true;
    }

    /// There is more to read without another event.
    pub(super) fn is_busy(&self) -> bool {
        self.ready
    }

    /// The changes that were told since; one stands for others of its kind.
    fn changes(&mut self) -> heapless::Vec<Change, 8> {
        let mut changes = heapless::Vec::new();
        if !self.ready {
            return changes;
        }
        let Some(file) = &mut self.socket else { return changes };
        let mut add = |change: Change| {
            if !changes.contains(&change) && changes.push(change).is_err() {
                // Too many different ones to tell apart.
                changes.clear();
                let _ = changes.push(Change { what: "many", interface: None });
            }
        };
        let mut buffer = [0; BUFFER_BYTES];
        for _ in 0..READS_A_TURN {
            match file.read(&mut buffer) {
                Ok(0) => self.ready = false,
                Ok(bytes) => {
                    each_message(&buffer[..bytes], &mut |kind, body| {
                        if let Some(change) = self.links.judge(kind, body) {
                            add(change);
                        }
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    // It told more than fits: something has changed.
                    add(Change { what: "many", interface: None });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.ready = false,
            }
            if !self.ready {
                break;
            }
        }
        changes
    }
}

impl<C: Core, S: SpillStore> EventLoop<C, S> {
    /// Tells the bridges and the look-ups of what has changed.
    pub(super) fn look_at_network(&mut self, now: Instant) {
        let changes = self.network.changes();
        if changes.is_empty() {
            return;
        }
        for (target, bridge) in self.targets.iter().zip(0..) {
            if target.servers.is_empty() {
                continue;
            }
            // One that is bound to an interface cares for that one.
            let own = target.interface.as_deref().map(socket::interface_index);
            let concerns = |change: &&Change| match (own, change.interface) {
                (None, _) | (_, None) => true,
                (Some(own), Some(index)) => own == Some(index),
            };
            if let Some(change) = changes.iter().find(concerns) {
                let event = Event::NetworkChanged { bridge: BridgeId(bridge), what: change.what };
                self.core.handle(now, event);
            }
        }
        if now >= self.network.asked_at.plus(ASK_AGAIN_AFTER) {
            self.network.asked_at = now;
            self.resolver.ask_again(now, self.poll.registry());
        }
    }
}

/// A socket that is told of links, addresses and routes.
fn listen() -> io::Result<File> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid sockaddr_nl.
    let mut addr: libc::sockaddr_nl = unsafe { core::mem::zeroed() };
    addr.nl_family = fit(libc::AF_NETLINK, "an address family");
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV6_ROUTE;
    addr.nl_groups = fit(groups, "groups of rtnetlink");
    let bytes: libc::socklen_t = fit(size_of::<libc::sockaddr_nl>(), "a short struct");
    // SAFETY: `addr` is a live sockaddr_nl of `bytes` bytes.
    let answer = unsafe { libc::bind(fd, (&raw const addr).cast(), bytes) };
    if answer == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

/// Calls `see` with type and body of each message; one that is cut ends it.
fn each_message(bytes: &[u8], see: &mut dyn FnMut(u16, &[u8])) {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    let mut rest = bytes;
    // Each round takes at least a header off.
    while let Some(length) = number_32(rest, 0).and_then(|length| usize::try_from(length).ok()) {
        let (Some(kind), Some(body)) = (number_16(rest, 4), rest.get(HEADER..length)) else {
            return;
        };
        see(kind, body);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

impl Links {
    /// Does this message say that more can be reached than before?
    fn judge(&mut self, kind: u16, body: &[u8]) -> Option<Change> {
        match kind {
            libc::RTM_NEWLINK => {
                let (index, flags) = (number_32(body, 4)?, number_32(body, 8)?);
                let wanted: u32 = fit(libc::IFF_UP | libc::IFF_RUNNING, "flags of a link");
                let up = flags & wanted == wanted;
                let before = self.set(index, up);
                let change = Change { what: "link", interface: Some(index) };
                // Radios and bridges talk of a link that is as it was.
                (up && before != Some(true)).then_some(change)
            }
            libc::RTM_DELLINK => {
                let index = number_32(body, 4)?;
                self.0.retain(|(known, _)| *known != index);
                None
            }
            libc::RTM_NEWADDR => {
                let (scope, index) = (*body.get(3)?, number_32(body, 4)?);
                let change = Change { what: "address", interface: Some(index) };
                // Those of the machine itself and of one link lead nowhere.
                (scope < libc::RT_SCOPE_LINK).then_some(change)
            }
            libc::RTM_NEWROUTE => {
                let (table, route) = (*body.get(4)?, *body.get(7)?);
                let leads = route == libc::RTN_UNICAST && table != libc::RT_TABLE_LOCAL;
                let change = Change { what: "route", interface: attribute_oif(body) };
                leads.then_some(change)
            }
            _ => None,
        }
    }

    /// Remembers whether a link has its carrier; whether it had.
    fn set(&mut self, index: u32, up: bool) -> Option<bool> {
        if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| *known == index) {
            return Some(core::mem::replace(known, up));
        }
        // Without room each word of it counts.
        let _ = self.0.push((index, up));
        None
    }
}

/// The interface that a route goes by, behind its `rtmsg`.
fn attribute_oif(body: &[u8]) -> Option<u32> {
    let mut rest = body.get(12..)?;
    // Each round takes at least four bytes off.
    while let Some(length) = number_16(rest, 0).map(usize::from).filter(|length| *length >= 4) {
        if number_16(rest, 2) == Some(libc::RTA_OIF) {
            return number_32(rest, 4);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn number_16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes([bytes[0], bytes[1]]))
}

fn number_32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(index: u32, flags: libc::c_int) -> Vec<u8> {
        let flags = u32::try_from(flags).unwrap();
        let body =
            [&[0, 0, 1, 0], &index.to_ne_bytes()[..], &flags.to_ne_bytes(), &[0; 4]].concat();
        message(libc::RTM_NEWLINK, &body)
    }

    fn judged(links: &mut Links, bytes: &[u8]) -> Vec<Change> {
        let mut found = Vec::new();
        each_message(bytes, &mut |kind, body| found.extend(links.judge(kind, body)));
        found
    }

    #[test]
    fn a_link_counts_when_its_carrier_comes_back() {
        let mut links = Links::default();
        let up = libc::IFF_UP | libc::IFF_RUNNING;
        let change = Change { what: "link", interface: Some(3) };
        assert_eq!(judged(&mut links, &link(3, up)), [change]);
        assert_eq!(judged(&mut links, &link(3, up)), []);
        // No carrier, then down.
        assert_eq!(judged(&mut links, &link(3, libc::IFF_UP)), []);
        assert_eq!(judged(&mut links, &link(3, 0)), []);
        let both = [link(3, libc::IFF_UP), link(3, up)].concat();
        assert_eq!(judged(&mut links, &both), [change]);
        // It went and came again.
        let gone = message(libc::RTM_DELLINK, &[0, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(judged(&mut links, &[gone, link(3, up)].concat()).len(), 1);
    }

    #[test]
    fn addresses_and_routes_count_that_lead_somewhere() {
        let mut links = Links::default();
        let address = |scope| message(libc::RTM_NEWADDR, &[2, 24, 0, scope, 7, 0, 0, 0]);
        let here = if cfg!(target_endian = "little") { 7 } else { 7 << 24 };
        let change = Change { what: "address", interface: Some(here) };
        assert_eq!(judged(&mut links, &address(libc::RT_SCOPE_UNIVERSE)), [change]);
        assert_eq!(judged(&mut links, &address(libc::RT_SCOPE_LINK)), []);
        assert_eq!(judged(&mut links, &address(libc::RT_SCOPE_HOST)), []);
        let route = |table, kind, attributes: &[u8]| {
            let head = [2, 0, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
            message(libc::RTM_NEWROUTE, &[&head, attributes].concat())
        };
        let oif = [&8_u16.to_ne_bytes()[..], &libc::RTA_OIF.to_ne_bytes(), &9_u32.to_ne_bytes()];
        let other = [&6_u16.to_ne_bytes()[..], &libc::RTA_TABLE.to_ne_bytes(), &[1, 2, 0, 0]];
        let attributes = [other.concat(), oif.concat()].concat();
        let found = judged(&mut links, &route(libc::RT_TABLE_MAIN, libc::RTN_UNICAST, &attributes));
        assert_eq!(found, [Change { what: "route", interface: Some(9) }]);
        let found = judged(&mut links, &route(libc::RT_TABLE_MAIN, libc::RTN_UNICAST, &[]));
        assert_eq!(found, [Change { what: "route", interface: None }]);
        assert_eq!(judged(&mut links, &route(libc::RT_TABLE_LOCAL, libc::RTN_UNICAST, &[])), []);
        assert_eq!(judged(&mut links, &route(libc::RT_TABLE_MAIN, libc::RTN_BLACKHOLE, &[])), []);
    }

    #[test]
    fn cut_and_senseless_messages_end_quietly() {
        let mut links = Links::default();
        let whole = link(3, libc::IFF_UP | libc::IFF_RUNNING);
        for length in 0..whole.len() {
            judged(&mut links, &whole[..length]);
        }
        for length in [0_u32, 1, 15, 16, 17, u32::MAX] {
            let mut bytes = whole.clone();
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            judged(&mut links, &bytes);
        }
        let found = judged(&mut links, &message(libc::RTM_NEWROUTE, &[0; 13]));
        assert_eq!(found, []);
    }
}
