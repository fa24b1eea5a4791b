//! Entries: what one destination knows of one message. Small, in a slab of fixed size, linked into
//! lists by index. Holds no bytes of the message; those are in the pool or in the store's log.

use super::pool::{NONE, RecordId, widen};
use crate::mqtt::Qos;
use crate::vocab::Instant;

/// Rule of what is in the window while its bytes, which tell, are on disk only.
pub const NO_RULE_YET: u8 = u8::MAX - 1;

/// Where the durable copy lies: the `ordinal`-th record of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub slot: u32,
    pub ordinal: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Free,
    /// QoS 0, in the destination's `zero` list.
    Zero,
    /// Not in the window: in its stream's list, or staged behind a disk backlog.
    Waiting,
    /// In the window, PUBLISH sent or about to be; awaits PUBACK or PUBREC.
    Publish,
    /// PUBREC came; awaits PUBCOMP.
    Release,
    /// Complete, but its packet identifier may not be used again before the next commit.
    Done,
    /// Replaced by a newer message of its topic; waits for that one to be settled.
    Conflated,
}

/// Facts of an entry that are yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags {
    /// A publisher waits for this destination to settle it.
    pub hold: bool,
    /// Not committed yet: in the destination's custody list.
    pub custody: bool,
    /// In its stream's list (as against staged).
    pub listed: bool,
    /// RETAIN as this destination shall see it.
    pub retain: bool,
    /// In the window, but its packet has to be sent (again).
    pub unsent: bool,
    /// Its packet may not leave before the next commit.
    pub barrier: bool,
    /// It was sent before in this session.
    pub dup: bool,
    /// In the window, and passed over for now: it is at the end of `flight`.
    pub deferred: bool,
    /// The same, and the peer has nothing of it: it takes no room in its window.
    pub light: bool,
    /// It is to be sent alone, and has to be read from the store for that; it stays in RAM then.
    pub wanted: bool,
    /// The peer closed on it when nothing else was on the wire.
    pub closed_once: bool,
    /// It did so again: it did not keep it.
    pub closed_upon: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NONE, next: NONE };

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The bytes in RAM; `None` when only the store has them (or nobody needs them any more).
    pub record: Option<RecordId>,
    pub place: Option<Place>,
    pub seq: u64,
    pub arrival: Instant,
    pub sent_at: Instant,
    pub body_bytes: u32,
    pub packet_id: u16,
    /// Index into the destination's conflation table; `u16::MAX` = none.
    pub conflate: u16,
    pub stream: u8,
    pub rule: u8,
    pub qos: Qos,
    pub state: State,
    pub flags: Flags,
    /// Older entries of its topic that are settled when it is.
    pub replaced: u32,
    custody: Link,
    line: Link,
}

/// Which of an entry's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// What is not committed yet, in order of sequence.
    Custody,
    /// Its stream, the window, or another list of its state.
    Line,
}

impl Entry {
    const FREE: Self = Self {
        record: None,
        place: None,
        seq: 0,
        arrival: Instant::ZERO,
        sent_at: Instant::ZERO,
        body_bytes: 0,
        packet_id: 0,
        conflate: u16::MAX,
        stream: 0,
        rule: 0,
        qos: Qos::AtMostOnce,
        state: State::Free,
        flags: Flags {
            hold: false,
            custody: false,
            listed: false,
            retain: false,
            unsent: false,
            barrier: false,
            dup: false,
            deferred: false,
            light: false,
            wanted: false,
            closed_once: false,
            closed_upon: false,
        },
        replaced: NONE,
        custody: UNLINKED,
        line: UNLINKED,
    };

    fn link(&mut self, chain: Chain) -> &mut Link {
        match chain {
            Chain::Custody => &mut self.custody,
            Chain::Line => &mut self.line,
        }
    }
}

/// All entries of all destinations.
///
/// The memory is reserved at start; a page of it is touched when it is first used.
pub struct Slab {
    entries: Vec<Entry>,
    count: u32,
    free: u32,
    free_count: u32,
}

impl Slab {
    pub fn new(count: u32) -> Self {
        Self { entries: Vec::with_capacity(widen(count)), count, free: NONE, free_count: count }
    }

    pub fn planned_bytes(count: u32) -> usize {
        widen(count) * size_of::<Entry>()
    }

    pub fn free_count(&self) -> u32 {
        self.free_count
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn take(&mut self) -> Option<u32> {
        if self.free_count == 0 {
            return None;
        }
        if self.free == NONE {
            let index = u32::try_from(self.entries.len()).ok()?;
            self.entries.push(Entry::FREE);
            self.free_count -= 1;
            return Some(index);
        }
        let index = self.free;
        let entry = &mut self.entries[widen(index)];
        self.free = entry.line.next;
        self.free_count -= 1;
        *entry = Entry::FREE;
        Some(index)
    }

    pub fn give(&mut self, index: u32) {
        let free = self.free;
        let entry = &mut self.entries[widen(index)];
        assert!(entry.state != State::Free, "an entry is freed once");
        *entry = Entry::FREE;
        entry.line.next = free;
        self.free = index;
        self.free_count += 1;
    }

    pub fn next(&self, chain: Chain, index: u32) -> u32 {
        let entry = &self.entries[widen(index)];
        match chain {
            Chain::Custody => entry.custody.next,
            Chain::Line => entry.line.next,
        }
    }

    pub fn previous(&self, chain: Chain, index: u32) -> u32 {
        let entry = &self.entries[widen(index)];
        match chain {
            Chain::Custody => entry.custody.prev,
            Chain::Line => entry.line.prev,
        }
    }

    pub fn push_back(&mut self, list: &mut List, chain: Chain, index: u32) {
        let tail = list.tail;
        *self[index].link(chain) = Link { prev: tail, next: NONE };
        if tail == NONE {
            list.head = index;
        } else {
            self[tail].link(chain).next = index;
        }
        list.tail = index;
        list.len += 1;
    }

    pub fn push_front(&mut self, list: &mut List, chain: Chain, index: u32) {
        let head = list.head;
        *self[index].link(chain) = Link { prev: NONE, next: head };
        if head == NONE {
            list.tail = index;
        } else {
            self[head].link(chain).prev = index;
        }
        list.head = index;
        list.len += 1;
    }

    /// Before `at`; `NONE` = at the end.
    pub fn insert(&mut self, list: &mut List, chain: Chain, index: u32, at: u32) {
        if at == NONE {
            return self.push_back(list, chain, index);
        }
        let prev = self[at].link(chain).prev;
        if prev == NONE {
            return self.push_front(list, chain, index);
        }
        *self[index].link(chain) = Link { prev, next: at };
        self[prev].link(chain).next = index;
        self[at].link(chain).prev = index;
        list.len += 1;
    }

    pub fn unlink(&mut self, list: &mut List, chain: Chain, index: u32) {
        let Link { prev, next } = *self[index].link(chain);
        if prev == NONE {
            assert!(list.head == index, "an entry is unlinked from the list it is in");
            list.head = next;
        } else {
            self[prev].link(chain).next = next;
        }
        if next == NONE {
            list.tail = prev;
        } else {
            self[next].link(chain).prev = prev;
        }
        *self[index].link(chain) = UNLINKED;
        list.len -= 1;
    }
}

impl core::ops::Index<u32> for Slab {
    type Output = Entry;
    fn index(&self, index: u32) -> &Entry {
        &self.entries[widen(index)]
    }
}

impl core::ops::IndexMut<u32> for Slab {
    fn index_mut(&mut self, index: u32) -> &mut Entry {
        &mut self.entries[widen(index)]
    }
}

/// A list of entries, first in first out.
#[derive(Clone, Copy, Debug)]
pub struct List {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl List {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_order_when_the_middle_goes() {
        let mut slab = Slab::new(4);
        let mut list = List::EMPTY;
        let ids: Vec<u32> = (0..4).map(|_| slab.take().unwrap()).collect();
        assert_eq!(slab.take(), None);
        for &id in &ids[..3] {
            slab[id].state = State::Waiting;
            slab.push_back(&mut list, Chain::Line, id);
        }
        slab.unlink(&mut list, Chain::Line, ids[1]);
        slab.push_front(&mut list, Chain::Line, ids[1]);
        let mut seen = Vec::new();
        let mut at = list.head;
        while at != NONE {
            seen.push(at);
            at = slab.next(Chain::Line, at);
        }
        assert_eq!(seen, [ids[1], ids[0], ids[2]]);
        assert_eq!((list.tail, list.len), (ids[2], 3));
    }
}
