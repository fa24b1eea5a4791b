//! What goes in and out of the gateway beside bytes: facts from the shell, work for the shell.

use crate::vocab::{BridgeId, ConnId, Instant};
use core::net::SocketAddr;

/// A fact the shell reports.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Answer to [`Action::Resolve`]; no address = it failed for `reason` (`nxdomain`,
    /// `dns_timeout`, …).
    Resolved { bridge: BridgeId, addrs: &'a [SocketAddr], reason: &'static str },
    /// Answer to [`Action::Dial`]: the transport is established.
    Connected { conn: ConnId },
    /// Answer to [`Action::Probe`].
    Probed { bridge: BridgeId, ok: bool },
    /// Answer to [`Action::Measure`]: so many of the bytes that `transmit` gave have not been
    /// confirmed by the peer's side.
    Outstanding { conn: ConnId, bytes: usize },
    /// The peer has shut down its writing side; everything before it was presented.
    PeerFinished { conn: ConnId },
    /// A packet of `size` bytes comes with so few of them a second that the large buffer it takes
    /// is needed for others: its connection is to end.
    Slow { conn: ConnId, size: usize, rate: u64 },
    /// So many bytes have come of a message that finds no room ([`Taken::later`]).
    Here { conn: ConnId, bytes: usize },
    /// The socket is gone, by the peer, by an error or by [`Action::Close`].
    Closed { conn: ConnId, reason: &'static str },
    /// More can be reached than before, perhaps: a link has its carrier, an address or a route is
    /// there.
    NetworkChanged { bridge: BridgeId, what: &'static str },
    /// Stop cleanly.
    Stop { signal: &'static str },
}

/// Work the shell shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up a server of a bridge (index into its `servers`).
    Resolve {
        bridge: BridgeId,
        server: u16,
    },
    CancelResolve {
        bridge: BridgeId,
    },
    /// Begin a non-blocking connect.
    Dial {
        conn: ConnId,
        bridge: BridgeId,
        addr: SocketAddr,
    },
    /// Close. With `after_flush` what is still to be transmitted goes out first, then writing is
    /// shut down and input discarded until the peer closes or `deadline` passes: an RST would eat
    /// the packet that says why.
    Close {
        conn: ConnId,
        after_flush: bool,
        deadline: Instant,
    },
    /// Try TCP to a server of a bridge without touching its link.
    Probe {
        bridge: BridgeId,
        server: u16,
    },
    /// Say how many bytes of a connection are on their way ([`Event::Outstanding`]).
    Measure {
        conn: ConnId,
    },
    /// Another configuration is in use: what the shell took from the old one is to be taken anew.
    Reloaded,
    /// The clean stop is complete.
    Exit {
        lost: u64,
    },
}

/// What became of presented bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// `buffer[..kept]` must be presented again, with newer bytes behind it.
    pub kept: usize,
    /// `false`: do not read this socket until `poll_resume` names it.
    pub open: bool,
    /// Size of the unfinished packet at the end of the buffer, when its header is known.
    pub packet_bytes: Option<usize>,
    /// It is a message that finds no room among those that are coming.
    pub later: bool,
    /// Nor would it, were it whole: a large buffer for it may not be the last.
    pub short: bool,
    /// Whole packets are among what is kept: that they stay there is not their sender's fault.
    pub parked: bool,
    /// Whom the connection counts for; 0 = nobody: it has not been let in.
    pub holder: u64,
}
