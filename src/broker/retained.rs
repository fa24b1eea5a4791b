//! Retained messages in fixed memory.
//!
//! A message's *body* is topic, properties and payload, one behind the other, in a chain of fixed
//! blocks: the memory cannot fragment, and a small message costs one block. Reading copies pieces
//! of the body out, or walks over them with `pieces`.
//!
//! Promises: nothing is allocated after `new`; at most `count_max` messages in at most `bytes_max`
//! bytes of blocks; a `set` that is `Full` has changed nothing. What has changed is marked until
//! `saved`: a message that was on disk and is cleared stays behind as its topic alone, so that the
//! deletion can be saved too. Never looks at the clock, and never at a property.
//!
//! Read MQTT 5 section 3.3.1.3 first.

use crate::fit::{capped, fit};
mod search;

use super::blocks::{Blocks, NONE, index};
use super::index::Index;
use super::shape::fits;
use crate::mqtt::Qos;
use crate::vocab::Instant;
use core::mem::size_of;
use core::time::Duration;
use search::{Probe, Signature};

/// What comparing a text costs of what a search may look at.
pub const TEXT_LOOKS: u32 = 32;

/// No room for the message; the value there was stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A retained message as it was when it was found. The body is read with it until it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    id: u32,
    stamp: u32,
    pub qos: Qos,
    /// The body's three parts, in their order.
    pub topic_bytes: usize,
    pub properties_bytes: usize,
    pub payload_bytes: usize,
    /// `NEVER` without a message expiry interval.
    pub expires_at: Instant,
    /// What was given to `sign`; 0 = nothing.
    pub publisher: u64,
}

impl Retained {
    pub fn body_bytes(&self) -> usize {
        self.topic_bytes + self.properties_bytes + self.payload_bytes
    }
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// A message whose topic matches, and the cursor for the next call.
    Found(usize, Retained),
    /// It has used up what it may look at; the cursor to go on from.
    Later(usize),
    Done,
}

/// What has to be saved about one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Set(Retained),
    /// Only the topic is left of the body.
    Cleared(Retained),
}

pub struct RetainedMessages {
    count_max: usize,
    topic_bytes_max: usize,
    entries: Box<[Entry]>,
    /// Of each entry's topic, while it is live.
    signatures: Box<[Signature]>,
    entry_free: u32,
    /// Entries from here on were never used.
    entry_fresh: u32,
    index: Index,
    blocks: Blocks,
    live_count: usize,
    /// Topics of deletions that are not saved.
    cleared_count: usize,
    dirty_count: usize,
    stamp: u32,
    /// No message expires before.
    expires_next: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Live,
    /// Its topic waits for the deletion to be saved.
    Cleared,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    expires_at: Instant,
    publisher: u64,
    /// First block of the body; `NONE` only while free.
    first: u32,
    topic_bytes: u32,
    properties_bytes: u32,
    payload_bytes: u32,
    stamp: u32,
    /// The next free entry.
    next: u32,
    qos: Qos,
    state: State,
    /// Not saved as it is now.
    dirty: bool,
    /// The store has a row for the topic.
    stored: bool,
}

const EMPTY: Entry = Entry {
    hash: 0,
    expires_at: Instant::NEVER,
    publisher: 0,
    first: NONE,
    topic_bytes: 0,
    properties_bytes: 0,
    payload_bytes: 0,
    stamp: 0,
    next: NONE,
    qos: Qos::AtMostOnce,
    state: State::Free,
    dirty: false,
    stored: false,
};

/// Room for deletions that are not saved yet, beside `count_max` messages.
fn entry_count(count_max: u32) -> usize {
    index(count_max.saturating_add((count_max / 4).max(16)).min(NONE - 1))
}

impl RetainedMessages {
    pub fn new(count_max: u32, bytes_max: usize, topic_bytes_max: usize) -> Self {
        let entries = entry_count(count_max);
        Self {
            count_max: index(count_max),
            topic_bytes_max: topic_bytes_max.min(usize::from(u16::MAX)),
            entries: vec![EMPTY; entries].into_boxed_slice(),
            signatures: vec![Signature::NONE; entries].into_boxed_slice(),
            entry_free: NONE,
            entry_fresh: 0,
            index: Index::new(entries),
            blocks: Blocks::new(bytes_max),
            live_count: 0,
            cleared_count: 0,
            dirty_count: 0,
            stamp: 0,
            expires_next: Instant::NEVER,
        }
    }

    /// What `new` with the same arguments allocates.
    pub fn bytes_planned(count_max: u32, bytes_max: usize) -> usize {
        let entries = entry_count(count_max);
        entries * (size_of::<Entry>() + size_of::<Signature>())
            + Index::bytes_planned(entries)
            + Blocks::bytes_planned(bytes_max)
    }

    /// Messages retained now, those that have expired but were not yet collected included.
    pub fn len(&self) -> usize {
        self.live_count
    }

    pub fn is_empty(&self) -> bool {
        self.live_count == 0
    }

    /// Bytes of blocks in use, topics of unsaved deletions included.
    pub fn bytes(&self) -> usize {
        self.blocks.used_bytes()
    }

    /// Retains a message, or clears the topic when the payload is empty [MQTT-3.3.1-6].
    ///
    /// `payload` may come in pieces. `expiry` is in seconds.
    pub fn set<'a>(
        &mut self,
        topic: &str,
        qos: Qos,
        properties: &[u8],
        payload: impl IntoIterator<Item = &'a [u8]> + Clone,
        expiry: Option<u32>,
        now: Instant,
    ) -> Result<(), Full> {
        let payload_bytes: usize = payload.clone().into_iter().map(<[u8]>::len).sum();
        if payload_bytes == 0 {
            self.clear(topic);
            return Ok(());
        }
        let body_bytes = topic.len() + properties.len() + payload_bytes;
        let (Ok(properties_len), Ok(payload_len)) =
            (u32::try_from(properties.len()), u32::try_from(payload_bytes))
        else {
            return Err(Full);
        };
        let hash = hash(topic.as_bytes());
        let known = self.find(hash, topic.as_bytes());
        let known_bytes = known.map_or(0, |id| self.entries[index(id)].body_bytes());
        let is_live = known.is_some_and(|id| self.entries[index(id)].state == State::Live);
        let room = self.blocks.free_count() + Blocks::count_for(known_bytes);
        if topic.len() > self.topic_bytes_max
            || Blocks::count_for(body_bytes) > room
            || (!is_live && self.live_count == self.count_max)
        {
            return Err(Full);
        }
        let id = match known {
            Some(id) => id,
            None => self.add_entry(hash).ok_or(Full)?,
        };
        self.resize(id, body_bytes);
        let head = [topic.as_bytes(), properties];
        let body = head.into_iter().chain(payload.into_iter().map(shorten));
        self.blocks.write(self.entries[index(id)].first, body);
        self.live_count += usize::from(!is_live);
        self.cleared_count -= usize::from(known.is_some() && !is_live);
        self.stamp = self.stamp.wrapping_add(1);
        let span = expiry.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let entry = &mut self.entries[index(id)];
        entry.expires_at = span.map_or(Instant::NEVER, |span| now.plus(span));
        entry.publisher = 0;
        // No longer than `topic_bytes_max`, which is at most 65 535.
        entry.topic_bytes = fit(topic.len(), "topic bytes");
        entry.properties_bytes = properties_len;
        entry.payload_bytes = payload_len;
        entry.stamp = self.stamp;
        entry.qos = qos;
        entry.state = State::Live;
        self.signatures[index(id)] = Signature::of(topic.as_bytes());
        self.dirty_count += usize::from(!entry.dirty);
        entry.dirty = true;
        self.expires_next = self.expires_next.min(entry.expires_at);
        Ok(())
    }

    /// Says who has published the topic's message that was just set.
    pub fn sign(&mut self, topic: &str, publisher: u64) {
        if let Some(id) = self.find(hash(topic.as_bytes()), topic.as_bytes()) {
            self.entries[index(id)].publisher = publisher;
        }
    }

    /// Is this the topic's message?
    pub fn holds(&self, topic: &str, payload: &[u8]) -> bool {
        self.find(hash(topic.as_bytes()), topic.as_bytes()).is_some_and(|id| {
            let entry = &self.entries[index(id)];
            let before = index(entry.topic_bytes) + index(entry.properties_bytes);
            let kept = self.body(id).flatten().skip(before);
            entry.state == State::Live && kept.eq(payload)
        })
    }

    /// Forgets the topic's message. `false` when there was none.
    pub fn clear(&mut self, topic: &str) -> bool {
        let id = self.find(hash(topic.as_bytes()), topic.as_bytes());
        let live = id.filter(|id| self.entries[index(*id)].state == State::Live);
        if let Some(id) = live {
            self.clear_entry(id);
        }
        live.is_some()
    }

    /// The first message at `cursor` or behind it whose topic matches; begin with 0. What is set or
    /// cleared meanwhile may or may not be met, all else is met exactly once.
    ///
    /// `looks` is what the caller has left for comparisons: an entry passed over costs 1, a text
    /// that is compared and a message that is found [`TEXT_LOOKS`] each.
    pub fn search(&self, filter: &str, cursor: usize, now: Instant, looks: &mut u32) -> Search {
        let wanted = |id: u32| {
            let entry = &self.entries[index(id)];
            entry.state == State::Live && entry.expires_at > now
        };
        if !filter.contains(['+', '#']) {
            *looks = looks.saturating_sub(TEXT_LOOKS);
            let exact =
                (cursor == 0).then(|| self.find(hash(filter.as_bytes()), filter.as_bytes()));
            return match exact.flatten().filter(|id| wanted(*id)) {
                Some(id) => Search::Found(self.entries.len(), self.view(id)),
                None => Search::Done,
            };
        }
        let probe = Probe::new(filter.as_bytes());
        let end = index(self.entry_fresh);
        let mut at = cursor;
        while at < end {
            if *looks == 0 {
                return Search::Later(at);
            }
            *looks -= 1;
            let here = at;
            at += 1;
            if !probe.may_fit(&self.signatures[here]) {
                continue;
            }
            *looks = looks.saturating_sub(TEXT_LOOKS);
            // There are no more entries than an id can name.
            let Ok(id) = u32::try_from(here) else { return Search::Done };
            if wanted(id) && fits(filter.as_bytes(), self.topic(id)) {
                return Search::Found(at, self.view(id));
            }
        }
        Search::Done
    }

    /// Copies the body from `at` on into `out`; the number of bytes is less than `out.len()` only
    /// at the body's end. `None`: the message was replaced, cleared or has expired since.
    pub fn read(&self, message: &Retained, at: usize, out: &mut [u8]) -> Option<usize> {
        let entry = &self.entries[index(message.id)];
        if entry.stamp != message.stamp || entry.state == State::Free {
            return None;
        }
        let mut skip = at;
        let mut done = 0;
        for piece in self.body(message.id) {
            let from = skip.min(piece.len());
            skip -= from;
            let count = (piece.len() - from).min(out.len() - done);
            out[done..done + count].copy_from_slice(&piece[from..from + count]);
            done += count;
            if done == out.len() {
                break;
            }
        }
        Some(done)
    }

    /// The body in pieces, without copying; nothing when it has changed since.
    pub fn pieces(&self, message: &Retained) -> impl Iterator<Item = &[u8]> {
        let entry = &self.entries[index(message.id)];
        let current = entry.stamp == message.stamp && entry.state != State::Free;
        current.then(|| self.body(message.id)).into_iter().flatten()
    }

    /// Nothing expires before this.
    pub fn expires_at(&self) -> Instant {
        self.expires_next
    }

    /// Clears what has expired; how many were there?
    pub fn expire(&mut self, now: Instant) -> usize {
        if now < self.expires_next {
            return 0;
        }
        let mut count = 0;
        self.expires_next = Instant::NEVER;
        for id in 0..self.entry_fresh {
            let entry = &self.entries[index(id)];
            if entry.state != State::Live {
                continue;
            }
            if entry.expires_at <= now {
                self.clear_entry(id);
                count += 1;
            } else {
                self.expires_next = self.expires_next.min(entry.expires_at);
            }
        }
        count
    }

    /// Changes that are not saved.
    pub fn dirty(&self) -> usize {
        self.dirty_count
    }

    /// Unsaved deletions take so much room that they should be saved before their time.
    pub fn is_pressed(&self) -> bool {
        self.cleared_count >= (self.entries.len() - self.count_max) / 2
    }

    /// The first change at `cursor` or behind it, and the cursor for the next call; begin with 0.
    pub fn next_dirty(&self, cursor: usize) -> Option<(usize, Change)> {
        if self.dirty_count == 0 {
            return None;
        }
        let id = (u32::try_from(cursor).ok()?..self.entry_fresh)
            .find(|id| self.entries[index(*id)].dirty)?;
        let change = match self.entries[index(id)].state {
            State::Live => Change::Set(self.view(id)),
            State::Cleared | State::Free => Change::Cleared(self.view(id)),
        };
        Some((index(id) + 1, change))
    }

    /// Everything `next_dirty` gave for cursors in `0..end` is durable now, and nothing was set or
    /// cleared in between. `end` is the last cursor it returned; after a restore, or without a
    /// store, `usize::MAX`.
    pub fn saved(&mut self, end: usize) {
        // `usize::MAX` is all of them, as is every end beyond.
        let end = capped::<u32, _>(end).min(self.entry_fresh);
        for id in 0..end {
            if self.dirty_count == 0 {
                return;
            }
            let entry = &mut self.entries[index(id)];
            if !entry.dirty {
                continue;
            }
            entry.dirty = false;
            entry.stored = entry.state == State::Live;
            self.dirty_count -= 1;
            if entry.state == State::Cleared {
                self.cleared_count -= 1;
                self.free_entry(id);
            }
        }
    }

    fn view(&self, id: u32) -> Retained {
        let entry = &self.entries[index(id)];
        Retained {
            id,
            stamp: entry.stamp,
            qos: entry.qos,
            topic_bytes: index(entry.topic_bytes),
            properties_bytes: index(entry.properties_bytes),
            payload_bytes: index(entry.payload_bytes),
            expires_at: entry.expires_at,
            publisher: entry.publisher,
        }
    }

    fn body(&self, id: u32) -> impl Iterator<Item = &[u8]> {
        let entry = &self.entries[index(id)];
        self.blocks.read(entry.first, entry.body_bytes())
    }

    fn topic(&self, id: u32) -> impl Iterator<Item = u8> {
        let entry = &self.entries[index(id)];
        self.blocks.read(entry.first, index(entry.topic_bytes)).flatten().copied()
    }

    fn find(&self, hash: u64, topic: &[u8]) -> Option<u32> {
        self.index.find(hash, |id| {
            let entry = &self.entries[index(id)];
            entry.hash == hash
                && index(entry.topic_bytes) == topic.len()
                && self.topic(id).eq(topic.iter().copied())
        })
    }

    fn add_entry(&mut self, hash: u64) -> Option<u32> {
        let id = if self.entry_free != NONE {
            let id = self.entry_free;
            self.entry_free = self.entries[index(id)].next;
            id
        } else if index(self.entry_fresh) < self.entries.len() {
            self.entry_fresh += 1;
            self.entry_fresh - 1
        } else {
            return None;
        };
        self.entries[index(id)] = Entry { hash, ..EMPTY };
        self.index.insert(hash, id);
        Some(id)
    }

    /// The message goes; its topic stays if the store still has a row for it.
    fn clear_entry(&mut self, id: u32) {
        self.live_count -= 1;
        self.stamp = self.stamp.wrapping_add(1);
        let entry = &mut self.entries[index(id)];
        entry.stamp = self.stamp;
        entry.properties_bytes = 0;
        entry.payload_bytes = 0;
        entry.expires_at = Instant::NEVER;
        entry.state = State::Cleared;
        self.signatures[index(id)] = Signature::NONE;
        if entry.stored {
            self.dirty_count += usize::from(!entry.dirty);
            entry.dirty = true;
            self.cleared_count += 1;
            let topic_bytes = index(entry.topic_bytes);
            self.resize(id, topic_bytes);
        } else {
            self.dirty_count -= usize::from(entry.dirty);
            self.free_entry(id);
        }
    }

    fn free_entry(&mut self, id: u32) {
        self.resize(id, 0);
        self.index.remove(self.entries[index(id)].hash, id);
        self.entries[index(id)] = Entry { next: self.entry_free, ..EMPTY };
        self.entry_free = id;
    }

    /// Gives an entry the blocks for a body of `bytes`. There are enough: the caller has checked.
    fn resize(&mut self, id: u32, bytes: usize) {
        let entry = &mut self.entries[index(id)];
        entry.first = self.blocks.resize(entry.first, Blocks::count_for(bytes));
    }
}

impl Entry {
    fn body_bytes(&self) -> usize {
        index(self.topic_bytes) + index(self.properties_bytes) + index(self.payload_bytes)
    }
}

/// Pieces of a payload usually live longer than the topic they are chained to.
fn shorten<'short, 'long: 'short>(piece: &'long [u8]) -> &'short [u8] {
    piece
}

fn hash(topic: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    topic.iter().fold(0x9E37_79B9_7F4A_7C15, mix)
}

#[cfg(test)]
mod tests;
