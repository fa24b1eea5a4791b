//! One connection: its socket, what was read and not yet taken, what is encoded and not yet
//! written, and what is known of its readiness.
//!
//! Decides what may be done now; doing it is the table's business (`links`). Never talks to the
//! core.

use super::buffers::{Claim, Large, OWN_BYTES, Smalls};
use super::transport::Transport;
use crate::limits::CLOSE_BYTES;
use crate::vocab::{ConnId, Flow, Instant};
use core::time::Duration;

/// An MQTT fixed header with the longest length [MQTT 2.1.4].
const FIXED_HEADER_BYTES_MAX: usize = 5;

/// So much of a packet is as good as all of it, for who asks for a large buffer: a socket may hold
/// no more.
const HERE_BYTES: usize = 16 * 1024;

/// A client that takes not a single byte for so long, while bytes wait for it, does not read.
const READS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Dialled, not yet established.
    Connecting,
    Open,
    /// Closing: what the core still gives goes out first, input is discarded up to a bound.
    Flushing,
    /// Closing: all is said, the peer's end is awaited, input is discarded up to the same bound.
    Draining,
}

/// A large buffer and since when it is held for the packet in it.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) large: Large,
    pub(super) since: Instant,
    /// How fast its packet comes.
    pub(super) flow: Flow,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) transport: Transport,
    pub(super) bridge: bool,
    pub(super) state: State,
    /// Of the close or of a peer's end that waits to be told; NEVER when there is none.
    pub(super) deadline: Instant,
    /// Until then the peer has to take some of what was written; NEVER when nothing waits for it.
    pub(super) write_until: Instant,
    /// Bytes the peer's side had not confirmed when that was last set.
    pub(super) write_left: usize,
    /// The own buffer for what is kept unread; there when something is kept and no loan is.
    pub(super) own: Option<Box<[u8]>>,
    /// There while there are bytes to be written.
    pub(super) out: Option<Box<[u8]>>,
    pub(super) loan: Option<Loan>,
    /// Bytes kept unread, at the start of the loan's buffer or of the own one.
    /// Invariant: without a loan `rest <= OWN_BYTES`.
    pub(super) rest: usize,
    /// The unfinished packet at the end of the rest, as far as its size is known.
    pub(super) packet_bytes: Option<usize>,
    /// That packet finds no room for now, and would not find it either were it whole.
    pub(super) later: bool,
    pub(super) short: bool,
    /// Whole packets are kept that the core could not take yet, as the core says.
    pub(super) parked: bool,
    /// Whom it counts for; 0 = nobody, for it has not been let in.
    pub(super) holder: u64,
    /// The core has been told that its packet comes too slowly.
    pub(super) slow: bool,
    /// Bytes to be written: `out[out_start..out_end]`.
    pub(super) out_start: usize,
    pub(super) out_end: usize,
    /// Bytes read since the last write.
    pub(super) unanswered: usize,
    /// When it was last read from.
    pub(super) read_at: Instant,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer's end was announced: read on until it comes.
    pub(super) ending: bool,
    /// The peer's end was read or told to the core.
    pub(super) finished: bool,
    /// The core takes no input.
    pub(super) paused: bool,
    /// In line for a large buffer.
    pub(super) waiting: bool,
    /// No room for input until the core takes some.
    pub(super) full: bool,
    /// The core may have bytes.
    pub(super) wants: bool,
    /// Bytes of its input that may still be thrown away while it is closing.
    pub(super) discard_left: usize,
    /// Writing failed: whatever the peer said before is read, then it is over for this reason.
    pub(super) broken: Option<&'static str>,
}

/// Where the next read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// No room until the core takes something.
    Full,
    /// A large buffer is needed first, or a larger one.
    Needed,
    /// Into the connection's own memory, this many bytes.
    Own(usize),
    /// Through the shared scratch: a large buffer is at hand should much be kept.
    Scratch,
}

impl Conn {
    pub(super) fn new(id: ConnId, transport: Transport, bridge: bool) -> Self {
        Self {
            id,
            transport,
            bridge,
            state: State::Connecting,
            deadline: Instant::NEVER,
            write_until: Instant::NEVER,
            write_left: 0,
            own: None,
            out: None,
            loan: None,
            rest: 0,
            packet_bytes: None,
            later: false,
            short: false,
            parked: false,
            holder: 0,
            slow: false,
            out_start: 0,
            out_end: 0,
            unanswered: 0,
            read_at: Instant::ZERO,
            readable: false,
            writable: false,
            ending: false,
            finished: false,
            paused: false,
            waiting: false,
            full: false,
            wants: false,
            discard_left: CLOSE_BYTES,
            broken: None,
        }
    }

    /// Is there something to be read, and may it be?
    pub(super) fn may_read(&self) -> bool {
        self.readable
            && !self.finished
            && match self.state {
                State::Connecting => false,
                State::Open => !self.paused && !self.waiting && !self.full,
                State::Flushing | State::Draining => self.discard_left > 0,
            }
    }

    pub(super) fn may_write(&self) -> bool {
        let open = match self.state {
            State::Open => true,
            // Also when nothing is left: saying the end is a write.
            State::Flushing => return self.writable && self.broken.is_none(),
            State::Connecting | State::Draining => false,
        };
        open && self.writable && self.broken.is_none() && (self.wants || self.out_bytes() > 0)
    }

    /// The peer is at its end, and what it said before cannot be read for now.
    pub(super) fn is_deaf(&self) -> bool {
        self.state == State::Open && !self.finished && (self.paused || self.waiting || self.full)
    }

    /// It goes on sending though it was told everything, and has that: there is nothing left to
    /// wait for. While it has not, a close now would take back what is still on its way; that ends
    /// at the deadline.
    pub(super) fn has_poured(&self) -> bool {
        let told = self.state == State::Draining && self.discard_left == 0;
        told && self.transport.outstanding() == 0
    }

    /// The socket takes no more bytes. A bridge judges its link by what the remote answers.
    pub(super) fn blocked(&mut self, now: Instant) {
        self.writable = false;
        if !self.bridge && self.write_until == Instant::NEVER {
            self.write_until = now.plus(READS_WITHIN);
            self.write_left = self.transport.outstanding();
        }
    }

    /// Does a client take nothing at all of what waits for it? A system has room again only when a
    /// good part of its buffer is empty, which over a thin line takes its time.
    pub(super) fn is_stuck(&mut self, now: Instant) -> bool {
        if self.writable || self.write_until > now {
            return false;
        }
        let left = self.transport.outstanding();
        if left < self.write_left {
            self.write_until = now.plus(READS_WITHIN);
            self.write_left = left;
            return false;
        }
        true
    }

    pub(super) fn out_bytes(&self) -> usize {
        self.out_end - self.out_start
    }

    /// Where a read would go; `gamble` says whether the scratch may be used.
    pub(super) fn room(&self, gamble: bool) -> Room {
        if let Some(loan) = &self.loan {
            let most = loan.large.bytes.len();
            return match most - self.rest {
                0 if self.packet_bytes.is_some_and(|bytes| bytes > most) => Room::Needed,
                0 => Room::Full,
                room => Room::Own(room),
            };
        }
        if gamble {
            return Room::Scratch;
        }
        match OWN_BYTES - self.rest {
            0 if self.outgrows() => Room::Needed,
            0 => Room::Full,
            room => Room::Own(room),
        }
    }

    /// Whole packets are kept that the core could not take yet.
    pub(super) fn is_parked(&self) -> bool {
        match self.packet_bytes {
            Some(bytes) => self.rest >= bytes,
            // Less than a fixed header is kept while its length is not known.
            None => self.rest > FIXED_HEADER_BYTES_MAX - 1,
        }
    }

    /// What it may have of the large buffers.
    pub(super) fn claim(&self, large_bytes: usize) -> Claim {
        let needs = self.packet_bytes.unwrap_or(0).saturating_sub(self.rest);
        let available = self.transport.available();
        let here = available >= needs.min(HERE_BYTES);
        // One that takes several, or has no room in the ring either, has to be here as a whole.
        let most = if self.later || needs > large_bytes { needs } else { HERE_BYTES };
        match (self.bridge || self.holder != 0, here) {
            (true, true) if available >= needs.min(most) && !self.short => Claim::Here,
            (true, _) => Claim::Coming,
            (false, true) => Claim::Stranger,
            (false, false) => Claim::Nothing,
        }
    }

    /// Its packet is larger than its own buffer.
    pub(super) fn outgrows(&self) -> bool {
        self.packet_bytes.is_some_and(|bytes| bytes > OWN_BYTES)
    }

    /// Everything that is kept, and the room behind it. Nothing before `own_up`.
    pub(super) fn input(&mut self) -> &mut [u8] {
        match (&mut self.loan, &mut self.own) {
            (Some(loan), _) => &mut loan.large.bytes,
            (None, Some(own)) => own,
            (None, None) => &mut [],
        }
    }

    /// What is kept goes into a buffer of its own from here on.
    pub(super) fn own_up(&mut self, smalls: &mut Smalls) -> &mut [u8] {
        self.own.get_or_insert_with(|| smalls.rest())
    }

    /// Gives the small buffers back that hold nothing.
    pub(super) fn tidy_up(&mut self, smalls: &mut Smalls) {
        if self.rest == 0 || self.loan.is_some() {
            self.own.take().into_iter().for_each(|own| smalls.give_rest(own));
        }
        if self.out_bytes() == 0 {
            self.out_start = 0;
            self.out_end = 0;
            self.out.take().into_iter().for_each(|out| smalls.give_out(out));
        }
    }

    /// Moves what is kept into a large buffer; the one it was in before.
    #[must_use]
    pub(super) fn lend(&mut self, mut large: Large, now: Instant) -> Option<Large> {
        let kept = &self.input()[..];
        let bytes = kept.len().min(large.bytes.len());
        large.bytes[..bytes].copy_from_slice(&kept[..bytes]);
        let before = self.loan.take().map(|loan| loan.large);
        self.lend_filled(large, now);
        before
    }

    /// The same when what is kept is in the large buffer already.
    pub(super) fn lend_filled(&mut self, large: Large, now: Instant) {
        self.waiting = false;
        self.loan = Some(Loan { large, since: now, flow: Flow::begin(now) });
    }

    /// Moves what is kept back, when it fits.
    pub(super) fn unlend(&mut self, smalls: &mut Smalls) -> Option<Large> {
        if self.rest > OWN_BYTES {
            return None;
        }
        let loan = self.loan.take()?;
        let rest = self.rest;
        self.own_up(smalls)[..rest].copy_from_slice(&loan.large.bytes[..rest]);
        Some(loan.large)
    }
}
