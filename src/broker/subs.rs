//! Subscriptions of all sessions in fixed memory, and which of them match a topic.
//!
//! Every distinct filter is kept once: its text in a row of its own, found through a hash index.
//! Filters are grouped by *shape*: which levels are `+`, how many levels there are, whether a `#`
//! ends it. Given a topic and a shape there is exactly one filter that can match, so matching
//! hashes the topic's levels once and asks the index once a shape. An exact filter is the shape
//! without wildcards. A filter whose wildcards lie beyond level 64 has no shape; such filters are
//! compared one by one.
//!
//! Promises: nothing is allocated after `new`; a match is always confirmed on the text, never on
//! a hash alone; the order of matches depends on the operations only. Never checks that a filter
//! is well-formed (the decoder did).
//!
//! A shared subscription (`$share/NAME/FILTER`) is a filter like another with a prefix: it is
//! hashed and shaped by what stands behind the prefix, and its sessions are a [`Group`] of which
//! one gets the message. Which one is the caller's choice.
//!
//! Read MQTT 5 sections 4.7, 4.8.2 and 3.8.3.1 first.

mod groups;

use super::index::Index;
use super::shape::{Kind, Levels, Shape, fits};
use crate::fit::fit;
use crate::mqtt::{Qos, topic};
use core::mem::size_of;

pub use groups::{Group, PLAIN, PLAIN_OWN, Turn, is_way_shared, way_of};

/// What a session asked for with one filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// MQTT 5 Retain Handling: 0 send retained, 1 only for a new subscription, 2 never.
    pub retain_handling: u8,
    /// MQTT 5 Subscription Identifier; 0 = none.
    pub id: u32,
}

/// What matches a topic.
pub enum Match<'a> {
    /// A session's own subscription.
    Own(u16, &'a Subscription),
    /// One of these sessions gets the message.
    Group(Group<'a>),
}

/// What `subscribe` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// The session had this filter already; its options are the new ones now [MQTT-3.8.4-3].
    Replaced,
}

/// No room: `limit.subscriptions` is reached, or the filter is longer than `limit.topic_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

const NONE: u16 = u16::MAX;

/// All subscriptions. Sessions are named by their index in the session table.
pub struct Subs {
    topic_bytes: usize,
    /// Text of filter `i` at `i * topic_bytes`.
    texts: Box<[u8]>,
    filters: Box<[Filter]>,
    filter_free: u16,
    /// Filters from here on were never used; keeps the pages behind them untouched.
    filter_fresh: u16,
    links: Box<[Link]>,
    link_free: u16,
    link_fresh: u16,
    /// First link of each session.
    sessions: Box<[u16]>,
    index: Index,
    /// Shapes in use, `shapes[..shape_count]`, in no particular order.
    shapes: Box<[Shape]>,
    shape_count: usize,
    /// First of the filters without a shape, chained by `Filter::next`.
    odd: u16,
    count: usize,
    /// Distinct filters of shared subscriptions.
    shared_count: usize,
    levels: Levels,
}

/// A distinct filter.
#[derive(Clone, Copy)]
struct Filter {
    hash: u64,
    shape: Shape,
    text_bytes: u16,
    /// Bytes of `$share/NAME/` before the filter that topics are compared with; 0 = not shared.
    share_bytes: u16,
    /// Whose turn it is in a group; `NONE` = the first link's.
    turn: u16,
    /// First link of the sessions that have it; never `NONE` while the filter is in use.
    links: u16,
    /// The next free filter, or the next one without a shape.
    next: u16,
}

/// One session's subscription to one filter, in the filter's chain and in the session's.
#[derive(Clone, Copy)]
struct Link {
    sub: Subscription,
    session: u16,
    filter: u16,
    filter_prev: u16,
    /// Also chains the free links.
    filter_next: u16,
    session_prev: u16,
    session_next: u16,
}

impl Subs {
    /// Room for `limit_subscriptions` subscriptions (at most 65 534) of `sessions` sessions with
    /// filters of at most `topic_bytes`.
    pub fn new(limit_subscriptions: u16, topic_bytes: usize, sessions: u16) -> Self {
        let limit = limit_subscriptions.min(NONE - 1);
        let count = usize::from(limit);
        let filter = Filter {
            hash: 0,
            shape: Shape::NIL,
            text_bytes: 0,
            share_bytes: 0,
            turn: NONE,
            links: NONE,
            next: NONE,
        };
        let sub = Subscription {
            qos: Qos::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
            id: 0,
        };
        let link = Link {
            sub,
            session: 0,
            filter: NONE,
            filter_prev: NONE,
            filter_next: NONE,
            session_prev: NONE,
            session_next: NONE,
        };
        Self {
            topic_bytes: topic_bytes.min(usize::from(u16::MAX)),
            texts: vec![0; count * topic_bytes.min(usize::from(u16::MAX))].into_boxed_slice(),
            filters: vec![filter; count].into_boxed_slice(),
            filter_free: NONE,
            filter_fresh: 0,
            links: vec![link; count].into_boxed_slice(),
            link_free: NONE,
            link_fresh: 0,
            sessions: vec![NONE; usize::from(sessions)].into_boxed_slice(),
            index: Index::new(count),
            shapes: vec![Shape::NIL; count].into_boxed_slice(),
            shape_count: 0,
            odd: NONE,
            count: 0,
            shared_count: 0,
            levels: Levels::new(),
        }
    }

    /// What `new` with the same arguments allocates.
    pub fn bytes_planned(limit_subscriptions: u16, topic_bytes: usize, sessions: u16) -> usize {
        let limit = limit_subscriptions.min(NONE - 1);
        let each = topic_bytes.min(usize::from(u16::MAX))
            + size_of::<Filter>()
            + size_of::<Link>()
            + size_of::<Shape>();
        usize::from(limit) * each
            + usize::from(sessions) * size_of::<u16>()
            + Index::bytes_planned(usize::from(limit))
            + Levels::BYTES
    }

    /// Subscriptions there are, over all sessions.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a subscription, or replaces the options of the one with the same filter.
    ///
    /// Nothing has changed when it is `Full`.
    pub fn subscribe(
        &mut self,
        session: u16,
        filter: &str,
        sub: Subscription,
    ) -> Result<Added, Full> {
        let hash = self.hash_of(filter);
        let known = self.find(hash, filter);
        if let Some(link) = known.and_then(|id| self.link_of(id, session)) {
            self.links[usize::from(link)].sub = sub;
            return Ok(Added::Replaced);
        }
        if filter.len() > self.topic_bytes || self.count == self.links.len() {
            return Err(Full);
        }
        // Both slabs have as many places as there may be subscriptions, and no filter is kept
        // without one: there is room for both from here on.
        let id = known.unwrap_or_else(|| self.add_filter(hash, filter));
        self.add_link(id, session, sub);
        Ok(Added::New)
    }

    /// `false` when the session had no such subscription.
    pub fn unsubscribe(&mut self, session: u16, filter: &str) -> bool {
        let hash = self.hash_of(filter);
        let link = self.find(hash, filter).and_then(|id| self.link_of(id, session));
        if let Some(link) = link {
            self.remove_link(link);
        }
        link.is_some()
    }

    /// Drops every subscription of `session`.
    pub fn remove_session(&mut self, session: u16) {
        while self.sessions[usize::from(session)] != NONE {
            self.remove_link(self.sessions[usize::from(session)]);
        }
    }

    /// Calls `each` once for every subscription that matches `topic`: a session with overlapping
    /// filters is named once a filter, and a shared one once for all of its group.
    pub fn matches(&mut self, topic: &str, each: &mut impl FnMut(Match<'_>)) {
        if self.count == 0 {
            return;
        }
        let reserved = topic.as_bytes().first() == Some(&b'$');
        self.levels.hash_topic(topic.as_bytes());
        for shape in &self.shapes[..self.shape_count] {
            if reserved && shape.leads_with_wildcard() {
                continue;
            }
            let Some(hash) = self.levels.hash_as(shape) else { continue };
            // Only with groups can there be more than one filter.
            let _ = self.find_by(hash, |id| {
                let found = self.is_match(id, hash, shape, topic);
                if found {
                    self.visit(id, each);
                }
                found && self.shared_count == 0
            });
        }
        let mut id = self.odd;
        while id != NONE {
            if topic::matches(self.inner(id), topic) {
                self.visit(id, each);
            }
            id = self.filters[usize::from(id)].next;
        }
    }

    /// The filters and options of one session.
    pub fn of_session(&self, session: u16) -> impl Iterator<Item = (&str, &Subscription)> {
        let mut next = self.sessions[usize::from(session)];
        core::iter::from_fn(move || {
            let link = self.links.get(usize::from(next))?;
            next = link.session_next;
            Some((self.text(link.filter), &link.sub))
        })
    }

    /// Whether what a session publishes itself stays out of all its subscriptions, and RETAIN is
    /// passed on as it was published: what a bridge asks for before MQTT 5, with one bit for all of
    /// them. A group takes no part in it. `true`: some were otherwise.
    pub fn set_bridge(&mut self, session: u16, bridge: bool) -> bool {
        let mut changed = false;
        let mut next = self.sessions[usize::from(session)];
        while let Some(link) = self.links.get_mut(usize::from(next)) {
            let shared = self.filters[usize::from(link.filter)].share_bytes != 0;
            let asked = bridge && !shared;
            changed |= (link.sub.no_local, link.sub.retain_as_published) != (asked, asked);
            (link.sub.no_local, link.sub.retain_as_published) = (asked, asked);
            next = link.session_next;
        }
        changed
    }

    /// Subscriptions of one session.
    pub fn count_of(&self, session: u16) -> usize {
        self.of_session(session).count()
    }

    /// The options of the session's subscription to exactly this filter.
    pub fn find_in(&mut self, session: u16, filter: &str) -> Option<Subscription> {
        let hash = self.hash_of(filter);
        let link = self.find(hash, filter).and_then(|id| self.link_of(id, session))?;
        Some(self.links[usize::from(link)].sub)
    }

    /// A shared filter is hashed without its prefix, so that topics find it.
    fn hash_of(&mut self, filter: &str) -> u64 {
        self.levels.hash_filter(&filter.as_bytes()[usize::from(groups::share_bytes(filter))..])
    }

    fn visit(&self, id: u16, each: &mut impl FnMut(Match<'_>)) {
        if self.filters[usize::from(id)].share_bytes > 0 {
            return each(Match::Group(self.group(id)));
        }
        let mut at = self.filters[usize::from(id)].links;
        while at != NONE {
            let link = &self.links[usize::from(at)];
            each(Match::Own(link.session, &link.sub));
            at = link.filter_next;
        }
    }

    fn text_raw(&self, id: u16) -> &[u8] {
        let start = usize::from(id) * self.topic_bytes;
        &self.texts[start..start + usize::from(self.filters[usize::from(id)].text_bytes)]
    }

    fn text(&self, id: u16) -> &str {
        // Rows are only ever written from a whole `&str`, so the fall-back is never taken.
        core::str::from_utf8(self.text_raw(id)).unwrap_or("")
    }

    /// The text that topics are compared with.
    fn inner(&self, id: u16) -> &str {
        self.text(id).get(usize::from(self.filters[usize::from(id)].share_bytes)..).unwrap_or("")
    }

    fn inner_raw(&self, id: u16) -> &[u8] {
        &self.text_raw(id)[usize::from(self.filters[usize::from(id)].share_bytes)..]
    }

    /// The shape is compared too: a filter of another shape with the same hash is met again under
    /// its own and must not be reported twice.
    fn is_match(&self, id: u16, hash: u64, shape: &Shape, topic: &str) -> bool {
        let filter = &self.filters[usize::from(id)];
        if filter.hash != hash || !filter.shape.same(shape) {
            return false;
        }
        if shape.plus == 0 && shape.kind == Kind::Closed {
            return self.inner_raw(id) == topic.as_bytes();
        }
        fits(self.inner_raw(id), topic.bytes())
    }

    fn find(&self, hash: u64, filter: &str) -> Option<u16> {
        self.find_by(hash, |id| {
            self.filters[usize::from(id)].hash == hash && self.text_raw(id) == filter.as_bytes()
        })
    }

    fn find_by(&self, hash: u64, mut is_it: impl FnMut(u16) -> bool) -> Option<u16> {
        let id = self.index.find(hash, |id| u16::try_from(id).is_ok_and(&mut is_it))?;
        u16::try_from(id).ok()
    }

    fn link_of(&self, filter: u16, session: u16) -> Option<u16> {
        let mut at = self.filters[usize::from(filter)].links;
        while at != NONE && self.links[usize::from(at)].session != session {
            at = self.links[usize::from(at)].filter_next;
        }
        (at != NONE).then_some(at)
    }

    /// There is a free filter: the caller has checked.
    fn add_filter(&mut self, hash: u64, text: &str) -> u16 {
        let id = if self.filter_free == NONE {
            self.filter_fresh += 1;
            self.filter_fresh - 1
        } else {
            let id = self.filter_free;
            self.filter_free = self.filters[usize::from(id)].next;
            id
        };
        let start = usize::from(id) * self.topic_bytes;
        self.texts[start..start + text.len()].copy_from_slice(text.as_bytes());
        let share_bytes = groups::share_bytes(text);
        self.shared_count += usize::from(share_bytes > 0);
        let shape = Shape::of(&text.as_bytes()[usize::from(share_bytes)..]);
        // `text` is no longer than a row, and a row no longer than `u16::MAX`.
        let text_bytes = fit(text.len(), "bytes of a filter");
        let next = if shape.kind == Kind::Odd { self.odd } else { NONE };
        let (turn, links) = (NONE, NONE);
        self.filters[usize::from(id)] =
            Filter { hash, shape, text_bytes, share_bytes, turn, links, next };
        match shape.kind {
            Kind::Odd => self.odd = id,
            Kind::Closed | Kind::Multi => self.add_shape(&shape),
        }
        self.index.insert(hash, u32::from(id));
        id
    }

    fn remove_filter(&mut self, id: u16) {
        let Filter { hash, shape, next, share_bytes, .. } = self.filters[usize::from(id)];
        self.shared_count -= usize::from(share_bytes > 0);
        self.index.remove(hash, u32::from(id));
        match shape.kind {
            Kind::Odd if self.odd == id => self.odd = next,
            Kind::Odd => {
                let mut at = self.odd;
                while self.filters[usize::from(at)].next != id {
                    at = self.filters[usize::from(at)].next;
                }
                self.filters[usize::from(at)].next = next;
            }
            Kind::Closed | Kind::Multi => self.remove_shape(&shape),
        }
        self.filters[usize::from(id)].next = self.filter_free;
        self.filter_free = id;
    }

    fn add_shape(&mut self, shape: &Shape) {
        match self.shapes[..self.shape_count].iter_mut().find(|known| known.same(shape)) {
            Some(known) => known.filter_count += 1,
            None => {
                self.shapes[self.shape_count] = Shape { filter_count: 1, ..*shape };
                self.shape_count += 1;
            }
        }
    }

    fn remove_shape(&mut self, shape: &Shape) {
        let known = self.shapes[..self.shape_count].iter().position(|known| known.same(shape));
        if let Some(at) = known {
            self.shapes[at].filter_count -= 1;
            if self.shapes[at].filter_count == 0 {
                self.shape_count -= 1;
                self.shapes[at] = self.shapes[self.shape_count];
            }
        }
    }

    /// There is a free link: the caller has checked.
    fn add_link(&mut self, filter: u16, session: u16, sub: Subscription) {
        let at = if self.link_free == NONE {
            self.link_fresh += 1;
            self.link_fresh - 1
        } else {
            let at = self.link_free;
            self.link_free = self.links[usize::from(at)].filter_next;
            at
        };
        let filter_next = self.filters[usize::from(filter)].links;
        let session_next = self.sessions[usize::from(session)];
        self.links[usize::from(at)] = Link {
            sub,
            session,
            filter,
            filter_prev: NONE,
            filter_next,
            session_prev: NONE,
            session_next,
        };
        if filter_next != NONE {
            self.links[usize::from(filter_next)].filter_prev = at;
        }
        if session_next != NONE {
            self.links[usize::from(session_next)].session_prev = at;
        }
        self.filters[usize::from(filter)].links = at;
        self.sessions[usize::from(session)] = at;
        self.count += 1;
    }

    fn remove_link(&mut self, at: u16) {
        let link = self.links[usize::from(at)];
        let filter = &mut self.filters[usize::from(link.filter)];
        if filter.turn == at {
            filter.turn = link.filter_next;
        }
        match link.filter_prev {
            NONE => self.filters[usize::from(link.filter)].links = link.filter_next,
            prev => self.links[usize::from(prev)].filter_next = link.filter_next,
        }
        if link.filter_next != NONE {
            self.links[usize::from(link.filter_next)].filter_prev = link.filter_prev;
        }
        match link.session_prev {
            NONE => self.sessions[usize::from(link.session)] = link.session_next,
            prev => self.links[usize::from(prev)].session_next = link.session_next,
        }
        if link.session_next != NONE {
            self.links[usize::from(link.session_next)].session_prev = link.session_prev;
        }
        self.links[usize::from(at)].filter_next = self.link_free;
        self.link_free = at;
        self.count -= 1;
        if self.filters[usize::from(link.filter)].links == NONE {
            self.remove_filter(link.filter);
        }
    }
}

#[cfg(test)]
mod tests;
