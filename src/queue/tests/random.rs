//! Random steps with two peers, commits that fail, kills and lost sessions; then everything that
//! was accepted must have arrived, QoS 2 once, in order, and nothing may be left behind.

use super::*;
use crate::vocab::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a peer has on its way back.
#[derive(Clone, Copy)]
enum Answer {
    Puback(PacketId),
    Pubrec(PacketId),
    Pubcomp(PacketId),
}

#[derive(Default)]
struct Peer {
    up: bool,
    /// The queue has forgotten its session: the next one is clean.
    clean: bool,
    /// QoS 2 identifiers that are not released.
    received: BTreeSet<u16>,
    answers: VecDeque<Answer>,
    /// Deliveries of each message.
    counts: BTreeMap<u32, u32>,
    /// By QoS: after a kill what was in the window at QoS 2 goes before QoS 1 on disk.
    newest: [u32; 2],
    killed: bool,
    /// Messages that may come twice, for a session was lost.
    doubted: BTreeSet<u32>,
}

struct Play {
    world: World,
    peers: [Peer; 2],
    rng: Rng,
    /// By number: for whom, QoS, and the record its publisher waits for.
    sent: Vec<(bool, Qos, Option<RecordId>)>,
    accepted: BTreeSet<u32>,
    /// Queues that were away in the store alone.
    retired: u32,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let window = u16::try_from(1 + rng.below(8)).unwrap();
        let slot_count = u32::try_from(4 + rng.below(40)).unwrap();
        let bytes = usize::try_from(192 + rng.below(128)).unwrap() << 10;
        let world = World::with(|setup, params| {
            setup.slot_count = slot_count;
            setup.bytes = bytes;
            setup.messages = 128;
            for params in &mut params[..2] {
                params.window = window;
                params.blocks_ceiling = 100;
                params.records_ceiling = 32;
            }
        });
        let mut play = Self {
            world,
            peers: [Peer::default(), Peer::default()],
            rng,
            sent: Vec::new(),
            accepted: BTreeSet::new(),
            retired: 0,
        };
        for peer in &mut play.peers {
            peer.clean = true;
        }
        play
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.rng.below(count) == 0
    }

    fn publish(&mut self) {
        let bytes = match self.rng.below(12) {
            0 => 30_000 + self.rng.below(15_000),
            1..4 => self.rng.below(6000),
            _ => self.rng.below(100),
        };
        let bytes = usize::try_from(bytes).unwrap();
        let both = self.one_in(2);
        let dests: &[DestId] = if both { &[A, B] } else { &[A] };
        let queue = &mut self.world.queue;
        let qos = if self.rng.below(2) == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        let admitted = dests.iter().all(|dest| queue.admit(*dest, qos, bytes + 8).is_ok());
        if !admitted || !queue.fits(crate::queue::Reserve::Nothing, bytes + 8, 2) {
            queue.press_now(true);
            return;
        }
        let number = u32::try_from(self.sent.len()).unwrap();
        let topic = format!("{number:08}");
        let record = self.world.publish(A, &topic, qos, bytes);
        if both {
            self.world.queue.push(B, record, plain(qos));
        }
        self.sent.push((both, qos, Some(record)));
    }

    /// What the publishers are told after a flush.
    fn acknowledge(&mut self) {
        for (number, (_, _, record)) in (0..).zip(&mut self.sent) {
            if let Some(id) = *record
                && self.world.queue.pool.is_settled(id)
            {
                self.accepted.insert(number);
                *record = None;
            }
        }
    }

    fn transmit(&mut self, dest: DestId) {
        let peer = &mut self.peers[usize::from(dest.0)];
        let queue = &mut self.world.queue;
        while let Some(id) = queue.next_release(dest, self.world.now) {
            peer.received.remove(&id.raw());
            peer.answers.push_back(Answer::Pubcomp(id));
        }
        for _ in 0..self.rng.below(6) {
            let Some(next) = self.world.queue.next(dest, 0) else { break };
            let number: u32 = self.world.topic(next).parse().unwrap();
            let queue = &mut self.world.queue;
            let Some(id) = next.packet_id.or_else(|| queue.take(dest, next.entry)) else { break };
            queue.sent(dest, next.entry, self.world.now);
            let fresh = next.qos != Qos::ExactlyOnce || peer.received.insert(id.raw());
            if fresh {
                let count = peer.counts.entry(number).or_default();
                *count += 1;
                let of = usize::from(next.qos == Qos::ExactlyOnce);
                let newest = peer.newest[if peer.killed { of } else { 0 }];
                assert!(*count > 1 || number >= newest, "{number} overtook {newest}");
                peer.newest[of] = peer.newest[of].max(number);
                if !peer.killed {
                    peer.newest[0] = peer.newest[0].max(number);
                }
                let once = next.qos == Qos::ExactlyOnce && !peer.doubted.contains(&number);
                assert!(*count == 1 || !once, "{number} came twice");
            }
            peer.answers.push_back(match next.qos {
                Qos::ExactlyOnce => Answer::Pubrec(id),
                Qos::AtMostOnce | Qos::AtLeastOnce => Answer::Puback(id),
            });
        }
    }

    fn answer(&mut self, dest: DestId) {
        let (queue, now) = (&mut self.world.queue, self.world.now);
        match self.peers[usize::from(dest.0)].answers.pop_front() {
            Some(Answer::Puback(id)) => queue.puback(dest, id, now),
            Some(Answer::Pubrec(id)) => queue.pubrec(dest, id, now),
            Some(Answer::Pubcomp(id)) => queue.pubcomp(dest, id, now),
            None => return,
        };
    }

    fn connect(&mut self, dest: DestId, lost: bool) {
        let peer = &mut self.peers[usize::from(dest.0)];
        let present = !peer.clean && !lost;
        if !present {
            peer.received.clear();
            peer.doubted.extend(peer.counts.keys());
        }
        peer.up = true;
        peer.clean = false;
        self.world.connect(dest, present);
    }

    fn cut(&mut self, dest: DestId) {
        let peer = &mut self.peers[usize::from(dest.0)];
        peer.up = false;
        peer.answers.clear();
        self.world.queue.disconnected(dest);
    }

    fn kill(&mut self) {
        for dest in [A, B] {
            self.cut(dest);
        }
        self.world.disk.reads_failing = 0;
        self.world.restart();
        for (_, _, record) in &mut self.sent {
            // Its publisher would send it again.
            *record = None;
        }
        for (peer, dest) in self.peers.iter_mut().zip([A, B]) {
            peer.clean = !self.world.queue.knows_peer(dest, super::peer());
            peer.killed = true;
        }
    }

    /// The bridge is configured anew, with another window.
    fn rewire(&mut self, dest: DestId) {
        self.cut(dest);
        let window = u16::try_from(1 + self.rng.below(24)).unwrap();
        let World { queue, params, setup, .. } = &mut self.world;
        let (params, room) =
            (&mut params[usize::from(dest.0)], &mut setup.boxes[usize::from(dest.0)]);
        // After a restart there is room for what may be in the store.
        params.window = window.max(params.window);
        room.window = params.window;
        let params = Params { window, ..params.clone() };
        queue.rewire(dest, params, room, &mut OneRule);
    }

    /// The bridge is gone from the configuration for a while; `true`: its queue from memory, too.
    fn remove(&mut self, dest: DestId) -> bool {
        self.cut(dest);
        self.world.queue.orphan(dest);
        for _ in 0..self.rng.below(4) {
            self.turn();
        }
        let retired = self.world.queue.retire(dest, self.world.now);
        if retired {
            for _ in 0..self.rng.below(4) {
                self.turn();
            }
            self.take_up(dest);
            let peer = &mut self.peers[usize::from(dest.0)];
            peer.clean = !self.world.queue.knows_peer(dest, super::peer());
            // As after a restart.
            peer.killed = true;
        }
        self.rewire(dest);
        retired
    }

    fn take_up(&mut self, dest: DestId) {
        loop {
            let World { queue, disk, params, setup, now } = &mut self.world;
            let at = usize::from(dest.0);
            queue.take_up(dest, params[at].clone(), &setup.boxes[at]);
            if queue.restore_one(dest, *now, disk, &mut OneRule).is_ok() {
                return;
            }
            queue.detach(dest, *now);
        }
    }

    fn turn(&mut self) {
        self.world.pass(1);
        self.world.flush();
        self.acknowledge();
        for dest in [A, B] {
            if self.peers[usize::from(dest.0)].up {
                self.transmit(dest);
            }
        }
    }

    fn step(&mut self) {
        let dest = if self.one_in(2) { A } else { B };
        match self.rng.below(100) {
            0..35 => self.publish(),
            35..65 => self.answer(dest),
            65..70 if self.peers[usize::from(dest.0)].up => self.cut(dest),
            65..75 if !self.peers[usize::from(dest.0)].up => {
                let lost = self.one_in(10);
                self.connect(dest, lost);
            }
            75..79 => self.world.pass(self.rng.below(400)),
            79..82 => self.world.disk.commits_failing = 1,
            82..84 => self.world.disk.reads_failing = 1,
            84..86 => self.world.disk.full = !self.world.disk.full,
            86..89 => self.world.queue.outbox_mut(dest).evict = true,
            89 => self.kill(),
            90 => {
                // Killed between the commit and its consequences.
                let World { queue, disk, now, .. } = &mut self.world;
                if queue.store_due(*now) && queue.stage(*now, disk, false, &mut OneRule).is_ok() {
                    let _ = disk.commit();
                }
                self.kill();
            }
            91..93 => self.rewire(dest),
            93..95 => self.retired += u32::from(self.remove(dest)),
            _ => {}
        }
        self.turn();
    }

    /// No faults any more: everything arrives and nothing is left.
    fn finish(&mut self) {
        self.world.disk.commits_failing = 0;
        self.world.disk.reads_failing = 0;
        self.world.disk.full = false;
        for dest in [A, B] {
            if !self.peers[usize::from(dest.0)].up {
                self.connect(dest, false);
            }
        }
        for _ in 0..3000 {
            self.turn();
            for dest in [A, B] {
                while !self.peers[usize::from(dest.0)].answers.is_empty() {
                    self.answer(dest);
                }
            }
            self.world.run(10);
            let queue = &self.world.queue;
            if queue.outbox(A).pending + queue.outbox(B).pending == 0 {
                break;
            }
        }
        self.world.run(3000);
        self.acknowledge();
        for number in &self.accepted {
            let (both, _, _) = self.sent[usize::try_from(*number).unwrap()];
            assert!(self.peers[0].counts.contains_key(number), "{number} is lost");
            assert!(!both || self.peers[1].counts.contains_key(number), "{number} is lost at b");
        }
        assert!(self.sent.iter().all(|(_, _, record)| record.is_none()), "all are acknowledged");
        let queue = &self.world.queue;
        for dest in [A, B] {
            let outbox = queue.outbox(dest);
            assert_eq!((outbox.pending, outbox.pending_bytes, outbox.stored), (0, 0, 0));
            assert_eq!((outbox.inflight, outbox.gaps), (0, 0));
            assert_eq!((outbox.custody_bytes, outbox.custody_held, outbox.custody_qos2), (0, 0, 0));
            assert_eq!((outbox.blocks, outbox.records, outbox.unknown_slots), (0, 0, 0));
            assert!(outbox.chain.len <= 1, "all but the open slot are free");
        }
        assert_eq!(queue.entries.free_count(), queue.entries.count());
        assert_eq!(queue.pool.free_records(), queue.pool.record_count());
        assert_eq!(queue.counters.drops + queue.counters.corrupt, 0);
    }
}

#[test]
fn whatever_happens_what_was_accepted_arrives() {
    let mut retired = 0;
    for seed in 0..60 {
        let result = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed);
            for _ in 0..400 {
                play.step();
            }
            play.finish();
            play.retired
        });
        assert!(result.is_ok(), "seed {seed}");
        retired += result.unwrap_or(0);
    }
    assert!(retired > 10, "queues come back from the store: {retired}");
}
