//! Memory of the connections: small buffers for whoever has bytes in them, large ones that are
//! lent. The large ones are allocated at start, the small ones at most as many as the plan says.
//!
//! Large buffers are lent in the order of asking, to packets that have to be in one piece: all but
//! large PUBLISHes that find room in the ring, of which that is only topic and properties. One more
//! than configured is kept for bridges alone: blocked clients may hold all others, and only what a
//! bridge reads unblocks them.

use crate::config::Config;
use crate::limits::REFUSAL_CONNECTIONS;
use std::collections::VecDeque;

/// What a connection can keep unread without a large buffer.
pub(super) const OWN_BYTES: usize = 2048;

/// Encoded bytes that wait for a client's socket.
pub(super) const CLIENT_OUT_BYTES: usize = 4096;

/// The same of a bridge.
pub(super) const BRIDGE_OUT_BYTES: usize = 32 * 1024;

/// Bytes one read takes at most, behind what was kept before it.
pub(super) const SCRATCH_BYTES: usize = 32 * 1024 + OWN_BYTES;

/// Connections the configuration allows at once, the refused ones included. An old bridge
/// connection may still be closing when the next is dialled.
pub(super) fn connection_count(config: &Config) -> usize {
    usize::from(config.limit.clients) + usize::from(REFUSAL_CONNECTIONS) + 2 * config.bridge_room()
}

/// Bridges with large write buffers at once; one that is dialled while others are closing still
/// may have to make do with a small one.
fn bridge_count(config: &Config) -> usize {
    match config.bridge_room() {
        0 => 0,
        count => count + 1,
    }
}

/// Bytes all connections take together, for the memory plan.
pub fn memory_bytes(config: &Config) -> usize {
    let bridges = bridge_count(config);
    let clients = connection_count(config) - bridges;
    let large = usize::from(config.limit.large_buffers.max(1)) + 1;
    clients * (OWN_BYTES + CLIENT_OUT_BYTES)
        + bridges * (OWN_BYTES + BRIDGE_OUT_BYTES)
        + large * config.limit.large_bytes()
        + SCRATCH_BYTES
}

/// The small buffers. A connection has one only while there are bytes in it, so that a thousand
/// idle clients cost none: they are made when so many are needed at once for the first time, used
/// again the last returned first, and never given up.
#[derive(Debug)]
pub(super) struct Smalls {
    rests: Vec<Box<[u8]>>,
    outs: Vec<Box<[u8]>>,
    bridge_outs: Vec<Box<[u8]>>,
    /// Of the large ones for bridges, how many may still be made.
    bridge_outs_left: usize,
}

impl Smalls {
    pub(super) fn new(config: &Config) -> Self {
        let count = connection_count(config);
        Self {
            rests: Vec::with_capacity(count),
            outs: Vec::with_capacity(count),
            bridge_outs: Vec::with_capacity(bridge_count(config)),
            bridge_outs_left: bridge_count(config),
        }
    }

    /// For what was read and not taken.
    pub(super) fn rest(&mut self) -> Box<[u8]> {
        self.rests.pop().unwrap_or_else(|| zeroed(OWN_BYTES))
    }

    pub(super) fn give_rest(&mut self, rest: Box<[u8]>) {
        self.rests.push(rest);
    }

    /// For what is to be written. A bridge makes do with a client's buffer when all of its kind are
    /// closing still.
    pub(super) fn out(&mut self, bridge: bool) -> Box<[u8]> {
        if bridge {
            if let Some(out) = self.bridge_outs.pop() {
                return out;
            }
            if self.bridge_outs_left > 0 {
                self.bridge_outs_left -= 1;
                return zeroed(BRIDGE_OUT_BYTES);
            }
        }
        self.outs.pop().unwrap_or_else(|| zeroed(CLIENT_OUT_BYTES))
    }

    pub(super) fn give_out(&mut self, out: Box<[u8]>) {
        if out.len() == BRIDGE_OUT_BYTES {
            self.bridge_outs.push(out);
        } else {
            self.outs.push(out);
        }
    }
}

fn zeroed(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}

/// A large buffer on loan.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) bytes: Box<[u8]>,
    /// The one for bridges.
    reserve: bool,
}

#[derive(Debug)]
pub(super) struct Loans {
    free: Vec<Large>,
    general_count: usize,
    reserve: Option<Large>,
    /// Slots that wait, the longest first, and whether each is a bridge.
    waiting: VecDeque<(u16, bool)>,
    large_bytes: usize,
}

impl Loans {
    pub(super) fn new(config: &Config) -> Self {
        let large_bytes = config.limit.large_bytes();
        let general_count = usize::from(config.limit.large_buffers.max(1));
        let large = |reserve| Large { bytes: zeroed(large_bytes), reserve };
        Self {
            free: (0..general_count).map(|_| large(false)).collect(),
            general_count,
            reserve: Some(large(true)),
            waiting: VecDeque::with_capacity(connection_count(config)),
            large_bytes,
        }
    }

    pub(super) fn large_bytes(&self) -> usize {
        self.large_bytes
    }

    /// May a connection read more than it can keep itself, in the hope that little of it has to
    /// be kept? The last buffer is left to those that have a large packet for certain.
    pub(super) fn may_gamble(&self, bridge: bool) -> bool {
        self.waiting.is_empty() && self.free.len() > usize::from(self.general_count > 1)
            || bridge && self.reserve.is_some()
    }

    /// A buffer for somebody who may not overtake those that wait.
    pub(super) fn borrow(&mut self, bridge: bool) -> Option<Large> {
        if self.waiting.is_empty()
            && let Some(large) = self.free.pop()
        {
            return Some(large);
        }
        if bridge { self.reserve.take() } else { None }
    }

    pub(super) fn give_back(&mut self, large: Large) {
        if large.reserve {
            self.reserve = Some(large);
        } else {
            self.free.push(large);
        }
    }

    pub(super) fn wait(&mut self, slot: u16, bridge: bool) {
        if !self.waiting.iter().any(|(waiting, _)| *waiting == slot) {
            self.waiting.push_back((slot, bridge));
        }
    }

    pub(super) fn forget(&mut self, slot: u16) {
        self.waiting.retain(|(waiting, _)| *waiting != slot);
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands a free buffer to who has waited longest.
    pub(super) fn next_served(&mut self) -> Option<(u16, Large)> {
        if let Some(&(slot, _)) = self.waiting.front()
            && let Some(large) = self.free.pop()
        {
            self.waiting.pop_front();
            return Some((slot, large));
        }
        let at = self.waiting.iter().position(|(_, bridge)| *bridge)?;
        let large = self.reserve.take()?;
        let (slot, _) = self.waiting.remove(at)?;
        Some((slot, large))
    }
}
