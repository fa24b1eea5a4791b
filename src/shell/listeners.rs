//! The doors: accepts local clients, a bounded number a turn, and survives being out of
//! descriptors without spinning.

use super::core::Core;
use super::links::Links;
use super::logging::Logging;
use super::places::{self, Place};
use super::resolver::{self, Paths};
use super::socket;
use super::transport::Transport;
use crate::config::Config;
use crate::fit::fit;
use crate::gateway::verbs::Event;
use crate::limits::CLIENT_SILENCE;
use crate::note::{Note, text};
use crate::vocab::Instant;
use core::fmt;
use core::time::Duration;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io;
use std::net::SocketAddr;

/// Sockets accepted from one listener a turn.
const ACCEPTS_A_TURN: usize = 32;

/// Connections that may stand before the door while the loop is elsewhere. Of those beyond it the
/// system forgets the first packet, and they try again a second later.
const BACKLOG: u16 = 1024;

/// How long the door stays shut when there is nothing to accept with.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);

/// How soon it is looked again whether there is a place for whoever waits.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// Addresses one listener's name may have.
pub(super) const ADDRS_A_LISTENER: usize = resolver::ADDRS_MAX;

#[derive(Debug)]
struct Door {
    socket: TcpListener,
    /// Place in the configuration.
    listener: u16,
    ready: bool,
    /// Let in next, and those behind it after it.
    waiting: Option<(TcpStream, SocketAddr)>,
}

#[derive(Debug)]
pub(super) struct Listeners {
    doors: Vec<Door>,
    /// Given up for a moment to tell a client that there is no descriptor for it.
    spare: Option<File>,
    open_at: Instant,
    clients_max: u64,
}

/// Why a listener could not be opened.
#[derive(Debug)]
pub struct BindError(String);

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Listeners {
    /// Opens every listener of the configuration, at every address its name has here. One that
    /// gets no address at all is an error, and so is an address that another process has.
    pub(super) fn bind(
        config: &Config,
        paths: &Paths,
        registry: &Registry,
        token: usize,
    ) -> Result<Self, BindError> {
        let (places, wrong) = places::places(config, paths);
        if let Some(wrong) = wrong.into_iter().next() {
            return Err(BindError(wrong));
        }
        let mut doors: Vec<Door> = Vec::new();
        for (at, listener) in config.listeners.iter().enumerate() {
            let mut last = None;
            let before = doors.len();
            for place in places.iter().filter(|place| place.listener == at) {
                let token = Token(token + doors.len());
                match open(place, registry, token) {
                    Ok(socket) => {
                        // The configuration has fewer listeners than a u16 counts.
                        let listener = fit(at, "listeners");
                        doors.push(Door { socket, listener, ready: true, waiting: None });
                    }
                    Err(error) => {
                        let why = places::why(place, listener, &error);
                        if places::is_in_use(&error) {
                            return Err(BindError(why));
                        }
                        last = Some(why);
                    }
                }
            }
            if let Some(why) = last.filter(|_| doors.len() == before) {
                return Err(BindError(why));
            }
        }
        let clients_max = u64::from(config.limit.clients);
        Ok(Self { doors, spare: spare(), open_at: Instant::ZERO, clients_max })
    }

    /// Where the doors really are, for the log and for port 0.
    pub(super) fn addrs(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        self.doors.iter().filter_map(|door| Some((door.listener, door.socket.local_addr().ok()?)))
    }

    /// Something knocked.
    pub(super) fn event(&mut self, at: usize) {
        if let Some(door) = self.doors.get_mut(at) {
            door.ready = true;
        }
    }

    pub(super) fn close(&mut self) {
        self.doors.clear();
    }

    /// When to try again without an event; NEVER when there is no reason to.
    pub(super) fn poll_at(&self) -> Instant {
        let knocked = self.doors.iter().any(|door| door.ready);
        if knocked { self.open_at } else { Instant::NEVER }
    }

    pub(super) fn accept_all(
        &mut self,
        now: Instant,
        registry: &Registry,
        links: &mut Links,
        core: &mut impl Core,
        logging: &mut Logging,
    ) {
        if now < self.open_at {
            return;
        }
        for door in self.doors.iter_mut().filter(|door| door.ready) {
            for _ in 0..ACCEPTS_A_TURN {
                let next = door.waiting.take().map_or_else(|| door.socket.accept(), Ok);
                match next {
                    Ok((stream, peer)) => {
                        // It waits until somebody silent has made room.
                        if let Err(again) = core.room(now)
                            && again != Instant::NEVER
                        {
                            door.waiting = Some((stream, peer));
                            self.open_at = again.min(now.plus(ROOM_RETRY));
                            return;
                        }
                        let Some(id) = core.accept(now, door.listener, peer) else {
                            let bound = (Some(self.clients_max), Some("limit.clients"));
                            refused(now, logging, peer, "connections_full", bound);
                            continue;
                        };
                        let transport = Ok(Transport::accepted(stream, CLIENT_SILENCE));
                        match links.insert(registry, id, transport, false) {
                            Ok(()) => links.open(id),
                            Err(reason) => core.handle(now, Event::Closed { conn: id, reason }),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        door.ready = false;
                        break;
                    }
                    Err(error) if socket::is_shortage(&error) => {
                        self.open_at = now.plus(SHORTAGE_PAUSE);
                        // With the spare descriptor the client gets an end instead of silence.
                        if self.spare.take().is_some()
                            && let Ok((stream, peer)) = door.socket.accept()
                        {
                            drop(stream);
                            let bound = socket::bound(&error);
                            refused(now, logging, peer, socket::reason(&error), bound);
                        }
                        self.spare = spare();
                        break;
                    }
                    // A client that was gone before it was accepted; anything else is tried
                    // again with the next one, a bounded number of times a turn.
                    Err(_) => {}
                }
            }
        }
    }
}

/// `bound`: the limit that was met, and what sets it.
fn refused(
    now: Instant,
    logging: &mut Logging,
    addr: SocketAddr,
    reason: &'static str,
    bound: (Option<u64>, Option<&'static str>),
) {
    let note = Note::ClientRefused {
        client: text("-"),
        addr,
        reason: text(reason),
        user: None,
        size: None,
        limit: bound.0,
        key: bound.1.map(text),
        topic: None,
        rate: None,
    };
    logging.note(now, &note);
}

fn open(place: &Place, registry: &Registry, token: Token) -> io::Result<TcpListener> {
    let socket = places::open(place)?;
    socket::set_backlog(&socket, BACKLOG)?;
    let mut socket = TcpListener::from_std(socket.into());
    registry.register(&mut socket, token, Interest::READABLE)?;
    Ok(socket)
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
