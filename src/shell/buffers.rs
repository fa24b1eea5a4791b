//! Memory of the connections: small buffers for whoever has bytes in them, large ones that are
//! lent. The large ones are allocated at start, the small ones at most as many as the plan says.
//!
//! Large buffers are lent to packets that have to be in one piece: all but large PUBLISHes, of
//! which that is only topic and properties. One that is larger than a buffer gets several as one.
//!
//! Whose packet lies in the socket already comes first, for he gives the buffer back at once; the
//! last one is his alone. Then come those whose packet is still on its way, in the order of asking,
//! and messages that find no room in the ring. Who has not been let in waits behind all of them,
//! with what his own buffer holds, until his CONNECT lies in the socket. One more than configured
//! is kept for bridges alone: blocked clients may hold all others, and only what a bridge reads
//! unblocks them.

use crate::config::Config;
use crate::limits::REFUSAL_CONNECTIONS;
use crate::vocab::Instant;
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
    /// As many as this one stands for.
    count: usize,
}

/// What somebody who asks for a large buffer may have, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// His packet is here: any.
    Here,
    /// It is on its way: all but the last.
    Coming,
    /// The same for one that is not let in.
    Stranger,
    /// None yet.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) slot: u16,
    pub(super) bridge: bool,
    pub(super) claim: Claim,
    pub(super) since: Instant,
    /// So many as one.
    count: usize,
    /// Those among them that it has.
    held: usize,
}

impl Large {
    /// How many may become part of a larger one.
    pub(super) fn held(&self) -> usize {
        if self.reserve { 0 } else { self.count }
    }

    pub(super) fn is_reserve(&self) -> bool {
        self.reserve
    }
}

#[derive(Debug)]
pub(super) struct Loans {
    free: Vec<Large>,
    general_count: usize,
    reserve: Option<Large>,
    /// Those that wait, the longest first.
    waiting: VecDeque<Waiting>,
    large_bytes: usize,
}

impl Loans {
    pub(super) fn new(config: &Config) -> Self {
        let large_bytes = config.limit.large_bytes();
        let general_count = usize::from(config.limit.large_buffers.max(1));
        let large = |reserve| Large { bytes: zeroed(large_bytes), reserve, count: 1 };
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
    /// be kept? Half of the buffers are left to those that have a large packet for certain.
    pub(super) fn may_gamble(&self, bridge: bool) -> bool {
        self.waiting.is_empty() && self.free.len() > self.general_count / 2
            || bridge && self.reserve.is_some()
    }

    /// How many a packet of so many bytes takes; never more than there are.
    fn count_for(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.large_bytes).clamp(1, self.general_count)
    }

    /// A buffer for `bytes` for somebody who may not overtake those that wait. `held`: as many as
    /// that one has already, which become part of it ([`Loans::replaced`]).
    pub(super) fn borrow(
        &mut self,
        bridge: bool,
        claim: Claim,
        bytes: usize,
        held: usize,
    ) -> Option<Large> {
        let count = self.count_for(bytes);
        if self.waiting.is_empty()
            && let Some(large) = self.take(claim, count, held)
        {
            return Some(large);
        }
        if bridge && count == 1 { self.reserve.take() } else { None }
    }

    /// So many as one, `held` of which are with who asks. Several are given up for a larger one:
    /// together never more.
    fn take(&mut self, claim: Claim, count: usize, held: usize) -> Option<Large> {
        let left = (self.free.len() + held).checked_sub(count)?;
        let may = match claim {
            Claim::Here => true,
            // What takes all of them cannot leave one.
            Claim::Coming | Claim::Stranger => left > 0 || count == self.general_count,
            Claim::Nothing => false,
        };
        if !may {
            return None;
        }
        if count == 1 {
            return self.free.pop();
        }
        self.free.truncate(left);
        Some(Large { bytes: zeroed(count * self.large_bytes), reserve: false, count })
    }

    /// What somebody had before it got a larger one.
    pub(super) fn replaced(&mut self, old: Option<Large>) {
        if let Some(large) = old
            && large.reserve
        {
            self.reserve = Some(large);
        }
    }

    pub(super) fn give_back(&mut self, large: Large) {
        if large.reserve {
            self.reserve = Some(large);
        } else if large.count == 1 {
            self.free.push(large);
        } else {
            let count = large.count;
            drop(large);
            let one = || Large { bytes: zeroed(self.large_bytes), reserve: false, count: 1 };
            let all: Vec<Large> = (0..count).map(|_| one()).collect();
            self.free.extend(all);
        }
    }

    pub(super) fn wait(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: bool,
        claim: Claim,
        bytes: usize,
        held: usize,
    ) {
        if !self.waiting.iter().any(|waiting| waiting.slot == slot) {
            let count = self.count_for(bytes);
            self.waiting.push_back(Waiting { slot, bridge, claim, since: now, count, held });
        }
    }

    /// More of its packet is here.
    pub(super) fn claims(&mut self, slot: u16, claim: Claim) {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.slot == slot);
        waiting.into_iter().for_each(|waiting| waiting.claim = claim);
    }

    /// Those that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    pub(super) fn forget(&mut self, slot: u16) {
        self.waiting.retain(|waiting| waiting.slot != slot);
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hands free buffers to who comes first.
    pub(super) fn next_served(&mut self) -> Option<(u16, Large)> {
        let first = self.waiting.iter().enumerate().min_by_key(|(at, one)| (one.claim, *at));
        if let Some((at, &Waiting { slot, claim, count, held, .. })) = first
            && let Some(large) = self.take(claim, count, held)
        {
            self.waiting.remove(at);
            return Some((slot, large));
        }
        let small = |waiting: &Waiting| waiting.bridge && waiting.count == 1;
        let at = self.waiting.iter().position(small)?;
        let large = self.reserve.take()?;
        let waiting = self.waiting.remove(at)?;
        Some((waiting.slot, large))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loans() -> Loans {
        let mut config = crate::shell::tests::config(4);
        config.limit.packet_bytes = 256 * 1024;
        Loans::new(&config)
    }

    #[test]
    fn a_packet_of_any_size_gets_as_many_as_it_takes_and_no_memory_beside_them() {
        let mut loans = loans();
        assert_eq!(loans.large_bytes(), 64 * 1024);
        let one = loans.borrow(false, Claim::Here, 3000, 0).unwrap();
        let three = loans.borrow(false, Claim::Here, 150_000, 0).unwrap();
        assert_eq!((one.bytes.len(), three.bytes.len()), (64 * 1024, 192 * 1024));
        assert!(loans.borrow(false, Claim::Here, 1, 0).is_none());
        let reserved = loans.borrow(true, Claim::Here, 1, 0).unwrap();
        assert!(loans.borrow(true, Claim::Here, 1, 0).is_none());
        loans.wait(Instant::ZERO, 7, false, Claim::Here, 256 * 1024, 0);
        loans.wait(Instant::ZERO, 8, true, Claim::Here, 1, 0);
        loans.give_back(reserved);
        assert_eq!(loans.next_served().map(|(slot, _)| slot), Some(8));
        loans.give_back(one);
        assert!(loans.next_served().is_none(), "one is not enough");
        loans.give_back(three);
        let (slot, all) = loans.next_served().unwrap();
        assert_eq!((slot, all.bytes.len()), (7, 256 * 1024));
        loans.give_back(all);
        assert_eq!(loans.free.len(), 4);
    }

    #[test]
    fn who_has_his_packet_here_comes_first_and_has_the_last_one_and_strangers_come_last() {
        let now = Instant::ZERO;
        let mut loans = loans();
        let taken: Vec<Large> =
            (0..3).map(|_| loans.borrow(false, Claim::Coming, 3000, 0).unwrap()).collect();
        for (slot, claim) in
            [(1, Claim::Nothing), (2, Claim::Stranger), (3, Claim::Coming), (4, Claim::Coming)]
        {
            assert!(loans.borrow(false, claim, 3000, 0).is_none(), "the last one");
            loans.wait(now, slot, false, claim, 3000, 0);
        }
        assert!(loans.next_served().is_none());
        loans.claims(4, Claim::Here);
        let (slot, last) = loans.next_served().unwrap();
        assert_eq!(slot, 4);
        loans.give_back(last);
        for large in taken {
            loans.give_back(large);
        }
        let served: Vec<u16> =
            core::iter::from_fn(|| loans.next_served()).map(|(slot, _)| slot).collect();
        assert_eq!(served, [3, 2], "a beginning of a CONNECT gets none");
    }

    #[test]
    fn one_that_outgrows_its_buffer_gets_the_rest_beside_it() {
        let mut loans = loans();
        let mut one = loans.borrow(false, Claim::Here, 3000, 0).unwrap();
        let other = loans.borrow(false, Claim::Here, 3000, 0).unwrap();
        assert!(
            loans.borrow(false, Claim::Here, 256 * 1024, one.held()).is_none(),
            "one is with another"
        );
        loans.wait(Instant::ZERO, 1, false, Claim::Here, 256 * 1024, one.held());
        loans.give_back(other);
        let (slot, all) = loans.next_served().unwrap();
        loans.replaced(Some(one));
        assert_eq!((slot, all.bytes.len(), loans.free.len()), (1, 256 * 1024, 0));
        loans.give_back(all);
        assert_eq!(loans.free.len(), 4);
        // The one for bridges is no part of a larger one.
        one = loans.reserve.take().unwrap();
        let two = loans.borrow(true, Claim::Here, 128 * 1024, one.held()).unwrap();
        loans.replaced(Some(one));
        assert_eq!((two.bytes.len(), loans.free.len()), (128 * 1024, 2));
        assert!(loans.reserve.is_some());
    }
}
