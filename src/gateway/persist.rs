//! The one flush a turn: rows of sessions and retained messages, the queue's log, one commit, and
//! then batches of the backlog back into RAM. The only place that gets the store.

use super::Gateway;
use crate::bridge::blame::Blame;
use crate::bridge::link::Link;
use crate::broker::retained::Change;
use crate::broker::subs::Subscription;
use crate::fit::{capped, fit};
use crate::limits::{PROPERTIES_BYTES_MAX, QOS0_RETRY, STREAMS_MAX};
use crate::mqtt::{Qos, Version};
use crate::queue::Queue;
use crate::queue::outbox::DestId;
use crate::queue::refill::Classify;
use crate::queue::store::{SpillStore, StoreError, Table, seal, unseal};
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// Row of the number that client ids are made of.
const NODE_ID_KEY: &[u8] = b"node_id";

/// Retained rows one commit writes at most; the rest follows in the next turns.
const RETAINED_ROWS: usize = 64;

/// Bit of a retained row's first byte: who published it is in the row.
const SIGNED: u8 = 0x80;

/// Windows smaller than this are not learned: their commits would be too small for the flash.
const WINDOW_LEARNED_MIN: usize = 8;

/// A publisher that is silent so long with acknowledgements owed waits for them.
const WINDOW_QUIET: Duration = Duration::from_millis(20);

/// Which stream a stored record belongs to, by the bridge's rules of today.
pub(super) struct Streams<'a> {
    links: &'a mut [Link],
    now: Instant,
    /// Streams lent meanwhile, to be told to the queue.
    lent: heapless::Vec<(BridgeId, u8, u8), STREAMS_MAX>,
}

impl Classify for Streams<'_> {
    fn classify(&mut self, dest: DestId, rule: u32, topic: &str) -> Option<(u8, u8)> {
        let Some(link) = self.links.get_mut(usize::from(dest.0)) else { return Some((0, 0)) };
        let rule = link.rules.of_stored(rule, topic)?;
        // What is stored keeps its stream busy, and the table gives a busy stream to nobody else.
        let lane = link.rules.stream(rule, topic, self.now, &mut |_| true);
        if lane.fresh {
            // Full only when all streams are lent in one turn; the queue learns it with the next.
            let _ = self.lent.push((BridgeId(dest.0), lane.stream, rule));
        }
        Some((lane.stream, rule))
    }

    fn max_age(&self, dest: DestId, rule: u8) -> Option<Duration> {
        let link = self.links.get(usize::from(dest.0))?;
        link.rules.forward.get(usize::from(rule))?.max_age
    }
}

impl Gateway {
    /// Makes durable what has to be, and loads what can be sent soon.
    pub fn flush(&mut self, now: Instant, store: &mut impl SpillStore) {
        self.now = now;
        self.search_on();
        self.reload_from(now, store);
        if !self.queue.store_due(now) {
            self.wake_destinations();
            return self.after_flush();
        }
        if self.queue.is_resting(now) {
            // Whether rows wait is found out after the rest.
            self.rows_due = true;
            self.load_backlog(now, store);
            return self.after_flush();
        }
        // On a full disk only what frees room is written.
        let full = self.queue.is_full(now);
        let rows = match self.put_rows(now, store, full) {
            Ok(rows) => rows,
            Err(error) => return self.flush_failed(now, store, "write", error),
        };
        let staged =
            self.with_streams(now, |queue, streams| queue.stage(now, store, rows.wrote, streams));
        match staged {
            Ok(true) => {
                let marked = self.mark.put(now, store);
                if let Err(error) = marked.and_then(|()| store.commit()) {
                    return self.flush_failed(now, store, "commit", error);
                }
            }
            Ok(false) => {}
            Err(error) => return self.flush_failed(now, store, "write", error),
        }
        let commits = self.queue.commits();
        if staged == Ok(true) {
            self.learn_windows(now);
        }
        self.queue.committed(now);
        self.tell_refused();
        self.rows_committed(&rows);
        self.rows_due = full;
        self.mark.committed(now);
        if self.queue.commits() != commits {
            self.rows_saved += u64::from(!full);
            self.wake_after_commit();
        }
        if self.load_backlog(now, store) {
            self.queue.works(now);
        }
        self.after_flush();
    }

    /// `false`: the store refused.
    fn load_backlog(&mut self, now: Instant, store: &mut impl SpillStore) -> bool {
        let refilled = self.with_streams(now, |queue, streams| queue.refill(now, store, streams));
        if let Err(error) = refilled {
            self.flush_failed(now, store, "read", error);
        }
        self.wake_destinations();
        refilled.is_ok()
    }

    /// Without a store: only what was parked is tried again.
    pub fn flush_ram(&mut self, now: Instant) {
        self.now = now;
        self.search_on();
        self.reload_in_ram(now);
        self.retained.saved(usize::MAX);
        self.retained_since = None;
        self.queue.press_in_ram(now);
        self.after_flush();
    }

    fn after_flush(&mut self) {
        if let Some(dest) = self.queue.take_unyielding() {
            self.make_yield(dest);
        }
        let changes = self.queue.changes();
        if self.parked > 0 {
            let shed = self.now >= self.shed_at;
            let changed = changes != self.parked_at || shed;
            self.parked_at = changes;
            if shed {
                self.shed_at = Instant::NEVER;
            }
            for slot in 0..self.conns.len() {
                let Ok(slot) = u16::try_from(slot) else { continue };
                if !self.conn(slot).waits {
                    continue;
                }
                if !changed {
                    if !self.conn(slot).zero_parked {
                        continue;
                    }
                    let at = self.zero_retry_at;
                    if self.now < at {
                        self.due_by(at);
                        continue;
                    }
                    self.zero_retry_at = self.now.plus(QOS0_RETRY);
                }
                self.resume.set(slot);
            }
        }
        self.collect();
    }

    pub(super) fn with_streams<T>(
        &mut self,
        now: Instant,
        run: impl FnOnce(&mut Queue, &mut Streams<'_>) -> T,
    ) -> T {
        let mut streams = Streams { links: &mut self.links, now, lent: heapless::Vec::new() };
        let result = run(&mut self.queue, &mut streams);
        let lent = streams.lent;
        for (bridge, stream, rule) in lent {
            self.lend_stream(bridge, stream, rule);
        }
        result
    }

    fn flush_failed(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        operation: &'static str,
        error: StoreError,
    ) {
        store.rollback();
        self.mark.failed();
        self.queue.failed(now, operation, error);
        self.tell_refused();
        self.rows_due = true;
        self.store_damaged |= error == StoreError::Corrupt;
        self.after_flush();
    }

    /// What found no room on disk after all is refused where the version has a word for it.
    fn tell_refused(&mut self) {
        while let Some((slot, record)) = self.queue.poll_refused() {
            let owner = self.owner_of(slot);
            let Some(conn) = self.conns.get_mut(usize::from(slot)) else { continue };
            if conn.version != Version::V5 {
                if let Some(owner) = owner.filter(|owner| self.queue.is_journalled(*owner)) {
                    // Its identifier was kept out of the store, and its PUBREC waits for that.
                    self.queue.row_urgent(owner);
                }
                continue;
            }
            conn.pubacks.refuse(record);
            if let (Some(packet_id), Some(owner)) = (conn.pubrecs.refuse(record), owner) {
                // The exchange ends with the refusal [MQTT-4.3.3].
                conn.unreleased = conn.unreleased.saturating_sub(1);
                self.queue.release_id(owner, packet_id.raw());
            }
        }
    }

    /// A publisher that has stopped with so many unacknowledged has used up its own window: from
    /// here on it is not made to wait for `store.flush_after` when it has.
    fn learn_windows(&mut self, now: Instant) {
        for conn in &mut self.conns {
            let count = conn.inbound_count();
            if count >= WINDOW_LEARNED_MIN && now.since(conn.received_at) >= WINDOW_QUIET {
                conn.window_learned = count;
            }
        }
    }

    /// Debts that wait for a commit may be payable.
    fn wake_after_commit(&mut self) {
        for slot in 0..self.conns.len() {
            if self.conns[slot].awaits_commit
                && let Ok(slot) = u16::try_from(slot)
            {
                let conn = self.conn_mut(slot);
                conn.awaits_commit = conn.waits_for_commit();
                self.ready.set(slot);
            }
        }
    }

    /// Connections whose destination has something to send that it had not before.
    fn wake_destinations(&mut self) {
        while let Some(dest) = self.queue.poll_sendable() {
            if let Some(slot) = self.conn_of(dest) {
                self.ready.set(slot);
            }
        }
    }

    /// Rows of sessions, retained messages and the gateway itself. `full`: only those that go.
    fn put_rows(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
        full: bool,
    ) -> Result<Rows, StoreError> {
        let mut rows = Rows::default();
        // First, for a client id may have a new session already, whose rows come in this commit.
        for key in &self.forgotten {
            store.delete(Table::Session, key.as_bytes())?;
            let mut dest = String::from("s:");
            dest.push_str(key);
            store.delete(Table::Destination, dest.as_bytes())?;
            rows.wrote = true;
            rows.forgotten = true;
        }
        if full {
            return Ok(rows);
        }
        rows.wrote |= self.mark.is_urgent();
        if self.meta_dirty {
            let mut value = self.node_id.to_le_bytes().to_vec();
            seal(Table::Meta, NODE_ID_KEY, &mut value);
            store.put(Table::Meta, NODE_ID_KEY, &value)?;
            rows.wrote = true;
            rows.meta = true;
        }
        for session in 0..self.sessions.count() {
            if !self.sessions[session].used || !self.sessions[session].dirty {
                continue;
            }
            rows.sessions = true;
            let key = self.sessions[session].client_id.as_bytes();
            if !self.sessions[session].expiry.is_zero() {
                store.put(Table::Session, key, &self.session_row(session))?;
            } else if self.sessions[session].stored {
                store.delete(Table::Session, key)?;
            } else {
                // It ends with its connection: the store never hears of it.
                continue;
            }
            rows.wrote = true;
        }
        rows.filters = self.put_filters(store)?;
        rows.wrote |= rows.filters;
        let due = self
            .retained_since
            .is_some_and(|since| now >= since.plus(self.config.store.retained_after))
            || self.retained.is_pressed()
            || self.stop.is_some();
        if due || rows.wrote {
            self.put_retained(store, &mut rows)?;
        }
        Ok(rows)
    }

    fn put_retained(
        &mut self,
        store: &mut impl SpillStore,
        rows: &mut Rows,
    ) -> Result<(), StoreError> {
        let mut cursor = 0;
        let mut body = Vec::new();
        for _ in 0..RETAINED_ROWS {
            let Some((next, change)) = self.retained.next_dirty(cursor) else { break };
            let (Change::Set(message) | Change::Cleared(message)) = change;
            body.clear();
            for piece in self.retained.pieces(&message) {
                body.extend_from_slice(piece);
            }
            let topic = &body[..message.topic_bytes];
            if matches!(change, Change::Cleared(_)) {
                store.delete(Table::Retained, topic)?;
            } else {
                if message.expires_at != Instant::NEVER {
                    // Or by an older mark it would be due later than it was to begin with.
                    self.mark.renew();
                }
                let mut value = Vec::with_capacity(24 + body.len());
                let signed = if message.publisher == 0 { 0 } else { SIGNED };
                value.push(message.qos.as_u8() | signed);
                value.extend_from_slice(&message.expires_at.as_micros().to_le_bytes());
                let props: u32 = fit(message.properties_bytes, "property bytes");
                value.extend_from_slice(&props.to_le_bytes());
                if message.publisher != 0 {
                    value.extend_from_slice(&message.publisher.to_le_bytes());
                }
                value.extend_from_slice(&body[message.topic_bytes..]);
                seal(Table::Retained, topic, &mut value);
                store.put(Table::Retained, topic, &value)?;
            }
            rows.wrote = true;
            rows.retained = Some(next);
            cursor = next;
        }
        Ok(())
    }

    fn rows_committed(&mut self, rows: &Rows) {
        if rows.forgotten {
            self.forgotten.clear();
        }
        if rows.meta {
            self.meta_dirty = false;
        }
        if rows.filters {
            self.filters_committed();
        }
        if rows.sessions {
            for session in 0..self.sessions.count() {
                let entry = &mut self.sessions[session];
                if entry.used && core::mem::take(&mut entry.dirty) {
                    entry.stored = !entry.expiry.is_zero();
                }
            }
        }
        if let Some(end) = rows.retained {
            self.retained.saved(end);
        }
        if self.retained.dirty() == 0 {
            self.retained_since = None;
        }
    }

    pub(super) fn forget_stored(&mut self, client_id: String) {
        self.forgotten.push(client_id);
    }

    fn session_row(&self, session: u16) -> Vec<u8> {
        let entry = &self.sessions[session];
        let mut row = Vec::new();
        let expiry: u32 = fit(entry.expiry.as_secs(), "seconds of a session");
        row.extend_from_slice(&expiry.to_le_bytes());
        let user = entry.user.as_deref();
        let flags = u8::from(entry.in_doubt) << 7 | u8::from(user.is_some()) << 6;
        row.push(entry.version.level() | flags);
        if let Some(user) = user {
            // `USER_BYTES_MAX` is less than a byte can say.
            row.push(fit(user.len(), "bytes of a user name"));
            row.extend_from_slice(user.as_bytes());
        }
        for (filter, sub) in self.subs.of_session(session) {
            let flags = sub.qos.as_u8()
                | u8::from(sub.no_local) << 2
                | u8::from(sub.retain_as_published) << 3;
            row.push(flags);
            row.extend_from_slice(&sub.id.to_le_bytes());
            let bytes: u16 = fit(filter.len(), "bytes of a filter");
            row.extend_from_slice(&bytes.to_le_bytes());
            row.extend_from_slice(filter.as_bytes());
        }
        seal(Table::Session, entry.client_id.as_bytes(), &mut row);
        row
    }

    /// Reads the store once, before the first turn: sessions, retained messages, the directory of
    /// the backlog. A row that fails its CRC is passed over and counted.
    pub fn restore(&mut self, now: Instant, store: &mut impl SpillStore) -> Result<(), StoreError> {
        self.now = now;
        let mut node_id = None;
        let mut damaged = 0;
        store.scan(Table::Meta, &mut |key, value| {
            if key == NODE_ID_KEY {
                let value = unseal(Table::Meta, key, value);
                node_id = value.and_then(|value| value.try_into().ok()).map(u64::from_le_bytes);
                damaged += u64::from(node_id.is_none());
            }
        })?;
        damaged += self.restore_filters(store)?;
        if let Some(node_id) = node_id {
            self.node_id = node_id;
            self.meta_dirty = false;
            self.name_links();
        }
        let mut sessions = Vec::new();
        store.scan(Table::Session, &mut |key, value| {
            sessions.push((key.to_vec(), value.to_vec()));
        })?;
        for (key, row) in sessions {
            let id = core::str::from_utf8(&key).ok();
            if id.and_then(|id| self.restore_session(now, id, &row)).is_some() {
                continue;
            }
            damaged += 1;
            // Its subscriptions are lost. If it was somebody's for sure, its queue is not.
            if let Some(id) = id
                && self.sessions.find(id).is_none()
                && Queue::has_row(store, &format!("s:{id}"))?
                && let Some(session) = self.reopen_session(now, id, self.config.session_expiry)
            {
                self.sessions[session].in_doubt = true;
                self.sessions[session].dirty = true;
            }
        }
        let mut retained = Vec::new();
        store.scan(Table::Retained, &mut |key, value| {
            retained.push((key.to_vec(), value.to_vec()));
        })?;
        for (key, row) in retained {
            let restored = core::str::from_utf8(&key)
                .ok()
                .and_then(|topic| self.restore_retained(now, topic, &row));
            damaged += u64::from(restored.is_none());
        }
        let unwelcome = self.unwelcome_retained();
        self.retained.saved(usize::MAX);
        self.retained_since = (!unwelcome.is_empty()).then_some(now);
        for topic in unwelcome {
            self.retained.clear(&topic);
        }
        self.with_streams(now, |queue, streams| queue.restore(now, store, streams))?;
        self.drop_unwelcome_sessions(now);
        for link in &mut self.links {
            link.blame = Blame::new(!self.queue.has_aside());
        }
        for session in 0..self.sessions.count() {
            let in_doubt = self.queue.is_in_doubt(self.session_dest(session));
            let entry = &mut self.sessions[session];
            if entry.used && in_doubt {
                entry.in_doubt = true;
                entry.dirty = true;
            }
        }
        if damaged > 0 {
            let nobody = crate::note::text("-");
            self.note(crate::note::Note::quarantined(nobody, "corrupt_row", damaged));
        }
        Ok(())
    }

    fn restore_session(&mut self, now: Instant, client_id: &str, row: &[u8]) -> Option<()> {
        let row = unseal(Table::Session, client_id.as_bytes(), row)?;
        let expiry = u32::from_le_bytes(row.get(..4)?.try_into().ok()?);
        let level = *row.get(4)?;
        let version = match level & 0x3F {
            3 => Version::V31,
            4 => Version::V311,
            _ => Version::V5,
        };
        let expiry = Duration::from_secs(u64::from(expiry)).min(self.config.session_expiry);
        let session = self.reopen_session(now, client_id, expiry)?;
        let entry = &mut self.sessions[session];
        entry.version = version;
        entry.in_doubt = level & 0x80 != 0;
        // The rules may have changed since.
        entry.recheck = true;
        let mut at = 5;
        if level & 0x40 != 0 {
            let bytes = usize::from(*row.get(at)?);
            let user = core::str::from_utf8(row.get(at + 1..at + 1 + bytes)?).ok()?;
            entry.user = Some(user.to_owned());
            at += 1 + bytes;
        }
        while at < row.len() {
            let flags = *row.get(at)?;
            let id = u32::from_le_bytes(row.get(at + 1..at + 5)?.try_into().ok()?);
            let bytes = usize::from(u16::from_le_bytes(row.get(at + 5..at + 7)?.try_into().ok()?));
            let filter = core::str::from_utf8(row.get(at + 7..at + 7 + bytes)?).ok()?;
            let sub = Subscription {
                qos: Qos::from_u8(flags & 3)?,
                no_local: flags & 4 != 0,
                retain_as_published: flags & 8 != 0,
                retain_handling: 2,
                id,
            };
            self.sessions[session].has_ids |= id != 0;
            // Limits may be lower than they were: what does not fit is gone, and said.
            self.subs.subscribe(session, filter, sub).ok()?;
            at += 7 + bytes;
        }
        Some(())
    }

    /// A session that was there before, without its subscriptions.
    fn reopen_session(&mut self, now: Instant, client_id: &str, expiry: Duration) -> Option<u16> {
        let session = self.sessions.add(client_id).ok()?;
        let dest = self.session_dest(session);
        let params = self.session_params(session, client_id, self.config.limit.inflight);
        self.queue.open(dest, params);
        self.queue.set_persistent(dest, true);
        let entry = &mut self.sessions[session];
        entry.expiry = expiry;
        // Downtime does not count: never expire early.
        entry.expires_at = now.plus(expiry);
        entry.stored = true;
        Some(session)
    }

    fn restore_retained(&mut self, now: Instant, topic: &str, row: &[u8]) -> Option<()> {
        let row = unseal(Table::Retained, topic.as_bytes(), row)?;
        let first = *row.first()?;
        let qos = Qos::from_u8(first & !SIGNED)?;
        let expires_at = u64::from_le_bytes(row.get(1..9)?.try_into().ok()?);
        let expires_at = Instant::from_micros(expires_at);
        let props = u32::from_le_bytes(row.get(9..13)?.try_into().ok()?);
        let props = usize::try_from(props).ok().filter(|props| *props <= PROPERTIES_BYTES_MAX)?;
        let mut body = row.get(13..)?;
        let mut publisher = 0;
        if first & SIGNED != 0 {
            let (signature, behind) = body.split_first_chunk::<8>()?;
            (publisher, body) = (u64::from_le_bytes(*signature), behind);
        }
        let (properties, payload) = (body.get(..props)?, body.get(props..)?);
        // Whole seconds, and not one too few.
        let left = expires_at.since(now).as_micros().div_ceil(1_000_000);
        // Beyond what a property can say: a row that is older than a mark of the clock.
        let left = capped(left);
        let expiry = (expires_at != Instant::NEVER).then_some(left);
        self.retained.set(topic, qos, properties, [payload], expiry, now).ok()?;
        self.retained.sign(topic, publisher);
        Some(())
    }
}

/// What a turn wrote beside the queue.
#[derive(Default)]
struct Rows {
    wrote: bool,
    meta: bool,
    filters: bool,
    forgotten: bool,
    sessions: bool,
    /// Retained changes before this cursor.
    retained: Option<usize>,
}
