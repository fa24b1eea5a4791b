//! The queue over a disk in memory that fills up, fails, and forgets what was not committed.

mod crowd;
mod custody;
mod damage;
mod long_topics;
mod passing;
mod random;
mod refills;
mod restarts;
mod room;
mod text;
mod waking;
mod whole;

use super::entry::Chain;
use super::outbox::{DestId, Params};
use super::peer::PeerId;
use super::pool::{Head, NONE, RecordId};
use super::record::HEAD_BYTES;
use super::refill::Classify;
use super::store::{SlotId, SpillStore, StoreError, Table};
use super::window::Next;
use super::{BoxSetup, Push, Queue, Reserve, Setup};
use crate::limits::SLOT_BYTES;
use crate::mqtt::{PacketId, Qos};
use crate::note::{Note, text};
use crate::vocab::{Instant, Overflow};
use core::time::Duration;
use std::collections::BTreeMap;

#[derive(Clone, Default)]
struct Content {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    slots: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Disk {
    content: Content,
    committed: Content,
    /// What was put aside as damaged.
    wreck: Content,
    /// The next commits that fail.
    pub commits_failing: u32,
    /// The next reads that fail.
    reads_failing: u32,
    /// No slot can be written beyond where it was before.
    pub full: bool,
}

impl Disk {
    fn put_aside(&mut self) {
        self.wreck = core::mem::take(&mut self.committed);
        self.content = Content::default();
    }
}

impl SpillStore for Disk {
    fn slot_count_max(&self) -> u32 {
        u32::MAX
    }

    fn write_slot(&mut self, slot: SlotId, at: usize, bytes: &[u8]) -> Result<(), StoreError> {
        let end = at + bytes.len();
        assert!(end <= SLOT_BYTES);
        if self.full && !self.covers(slot, end) {
            return Err(StoreError::Full);
        }
        let data = self.content.slots.entry(slot.0).or_default();
        data.resize(data.len().max(end), 0);
        data[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn covers(&mut self, slot: SlotId, bytes: usize) -> bool {
        self.content.slots.get(&slot.0).is_some_and(|data| data.len() >= bytes)
    }

    fn read_slot(&mut self, slot: SlotId, at: usize, out: &mut [u8]) -> Result<(), StoreError> {
        if self.reads_failing > 0 {
            self.reads_failing -= 1;
            return Err(StoreError::Io);
        }
        let data =
            self.content.slots.get(&slot.0).map_or(&[][..], |data| data.get(at..).unwrap_or(&[]));
        let count = out.len().min(data.len());
        out[..count].copy_from_slice(&data[..count]);
        out[count..].fill(0);
        Ok(())
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.content.rows.insert((table, key.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.content.rows.remove(&(table, key.to_vec()));
        Ok(())
    }

    fn scan(&mut self, table: Table, row: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        for ((_, key), value) in self.content.rows.iter().filter(|((of, _), _)| *of == table) {
            row(key, value);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.commits_failing > 0 {
            self.commits_failing -= 1;
            self.rollback();
            return Err(StoreError::Io);
        }
        self.committed = self.content.clone();
        Ok(())
    }

    fn rollback(&mut self) {
        self.content = self.committed.clone();
    }

    fn maintain(&mut self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn wreck_slots(&self) -> u32 {
        self.wreck.slots.keys().last().map_or(0, |last| last + 1)
    }

    fn wreck_row(&mut self, slot: SlotId) -> Option<Vec<u8>> {
        self.wreck.rows.get(&(Table::Slot, slot.0.to_be_bytes().to_vec())).cloned()
    }

    fn wreck_slot(&mut self, slot: SlotId, out: &mut [u8]) -> bool {
        let Some(data) = self.wreck.slots.get(&slot.0) else { return false };
        out.fill(0);
        out[..data.len()].copy_from_slice(data);
        true
    }

    fn wreck_done(&mut self, _: bool) -> Result<(), StoreError> {
        self.wreck = Content::default();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn written_bytes(&self) -> u64 {
        0
    }
}

/// One rule, one stream; topics that begin with `gone` have no rule any more.
struct OneRule;

impl Classify for OneRule {
    fn classify(&mut self, _: DestId, _: u32, topic: &str) -> Option<(u8, u8)> {
        (!topic.starts_with("gone")).then_some((0, 0))
    }
}

const A: DestId = DestId(0);
const B: DestId = DestId(1);

/// Two destinations, both bridges until a test says otherwise, and the quarantine.
struct World {
    queue: Queue,
    disk: Disk,
    now: Instant,
    setup: Setup,
    params: Vec<Params>,
}

fn bridge(name: &str) -> Params {
    Params {
        counts_rules: false,
        rule_quotas: Vec::new(),
        name: text(name),
        key: format!("b:{name}"),
        rules: vec![1],
        persistent: true,
        session: false,
        journal: true,
        queue_qos0: false,
        overflow: Overflow::Block,
        messages_max: u64::MAX,
        bytes_max: u64::MAX,
        slots_max: 1000,
        blocks_ceiling: 1000,
        records_ceiling: 1000,
        window: 8,
    }
}

fn session(name: &str) -> Params {
    let overflow = Overflow::DropOldest;
    Params { session: true, overflow, key: format!("s:{name}"), ..bridge(name) }
}

impl World {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut Setup, &mut Vec<Params>)) -> Self {
        let mut params = vec![bridge("a"), bridge("b"), session("q")];
        let mut setup = Setup {
            messages: 256,
            bytes: 1 << 20,
            boxes: Vec::new(),
            slot_count: 64,
            session_slots_max: 16,
            safe: true,
            stored: true,
            flush_after: Duration::from_millis(250),
            connections: 8,
            receive_ids: 64,
            topic_bytes: 65_535,
        };
        change(&mut setup, &mut params);
        setup.boxes = params
            .iter()
            .map(|params| BoxSetup {
                receive_ids: 16,
                streams: if params.session { 1 } else { 2 },
                window: params.window,
                conflating_rules: usize::from(!params.session),
                session: params.session,
            })
            .collect();
        let disk = Disk::default();
        let queue = Queue::new(setup.clone());
        let mut world = Self { queue, disk, now: Instant::START, setup, params };
        world.start();
        world
    }

    fn start(&mut self) {
        self.queue = Queue::new(self.setup.clone());
        for (index, params) in (0..).zip(&self.params) {
            self.queue.open(DestId(index), params.clone());
        }
        self.queue.restore(self.now, &mut self.disk, &mut OneRule).unwrap();
    }

    /// The process is killed and begins again with what was committed.
    fn restart(&mut self) {
        self.disk.rollback();
        self.start();
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.plus(Duration::from_millis(millis));
    }

    fn publish_as(&mut self, dest: DestId, topic: &str, bytes: usize, push: Push) -> RecordId {
        let head = Head {
            topic_bytes: u16::try_from(topic.len()).unwrap(),
            props_bytes: 0,
            payload_bytes: u32::try_from(bytes).unwrap(),
            qos: push.qos,
            retain: false,
            arrival: self.now,
            wall_s: 0,
            expiry_s: None,
            source: 0,
        };
        let record = self.queue.pool.insert(head).unwrap();
        self.queue.pool.write(record, 0, topic.as_bytes());
        self.queue.push(dest, record, push);
        self.queue.pool.release(record);
        record
    }

    fn publish(&mut self, dest: DestId, topic: &str, qos: Qos, bytes: usize) -> RecordId {
        self.publish_as(dest, topic, bytes, plain(qos))
    }

    /// As the gateway does it.
    fn flush(&mut self) {
        let Self { queue, disk, now, .. } = self;
        if !queue.store_due(*now) {
            return;
        }
        let staged = queue.stage(*now, disk, false, &mut OneRule);
        let done = match staged {
            Ok(true) => disk.commit(),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            disk.rollback();
            queue.failed(*now, "write", error);
            return;
        }
        queue.committed(*now);
        if let Err(error) = queue.refill(*now, disk, &mut OneRule) {
            disk.rollback();
            queue.failed(*now, "read", error);
            return;
        }
        queue.works(*now);
    }

    /// Flushes whenever the queue asks for it, for so long; says how often that was.
    fn run(&mut self, millis: u64) -> u32 {
        let end = self.now.plus(Duration::from_millis(millis));
        for turn in 0..1000 {
            let at = self.queue.flush_at(self.now);
            if at > end {
                self.now = end;
                return turn;
            }
            self.now = self.now.max(at);
            self.flush();
        }
        panic!("the queue asks for a flush again and again");
    }

    fn connect(&mut self, dest: DestId, present: bool) {
        let window = self.params[usize::from(dest.0)].window;
        if self.params[usize::from(dest.0)].session {
            self.queue.connected(dest, present, window, self.now);
        } else {
            self.queue.greeted(dest, peer(), present, window, self.now);
        }
    }

    /// Sends the next publish, whatever its QoS is.
    fn send(&mut self, dest: DestId) -> Option<(String, PacketId)> {
        let next = self.queue.next(dest, 0)?;
        let id = match next.packet_id {
            Some(id) => id,
            None => self.queue.take(dest, next.entry)?,
        };
        self.queue.sent(dest, next.entry, self.now);
        Some((self.topic(next), id))
    }

    /// The same, when it has to be loaded or let into the window first.
    fn send_soon(&mut self, dest: DestId) -> Option<(String, PacketId)> {
        let sent = self.send(dest);
        if sent.is_some() {
            return sent;
        }
        self.run(1000);
        self.send(dest)
    }

    fn topic(&self, next: Next) -> String {
        let mut topic = vec![0; usize::from(self.queue.pool.head(next.record).topic_bytes)];
        self.queue.pool.read(next.record, 0, &mut topic);
        String::from_utf8(topic).unwrap()
    }

    /// Everything a prompt peer gets from now on, in order.
    fn drain(&mut self, dest: DestId) -> Vec<String> {
        let mut topics = Vec::new();
        for _ in 0..500 {
            self.run(300);
            while let Some((topic, id)) = self.send(dest) {
                topics.push(topic);
                self.queue.puback(dest, id, self.now);
                self.queue.pubrec(dest, id, self.now);
            }
            self.run(300);
            while let Some(id) = self.queue.next_release(dest, self.now) {
                self.queue.pubcomp(dest, id, self.now);
            }
            if self.queue.outbox(dest).pending == 0 {
                break;
            }
        }
        topics
    }

    fn is_settled(&self, record: RecordId) -> bool {
        self.queue.pool.is_settled(record)
    }

    fn evict(&mut self, dest: DestId) {
        self.queue.outbox_mut(dest).evict = true;
        self.flush();
    }
}

/// The one server.
fn peer() -> PeerId {
    PeerId::new(1)
}

fn plain(qos: Qos) -> Push {
    Push { qos, retain: false, stream: 0, rule: 0, hold: true, conflate: None }
}

fn line_length(queue: &Queue, head: u32) -> usize {
    let next = |at: &u32| Some(queue.entries.next(Chain::Line, *at)).filter(|at| *at != NONE);
    core::iter::successors(Some(head).filter(|at| *at != NONE), next).count()
}
