//! One side of an MQTT session as the specification wants it: what is in flight from here, what was
//! received and not released, what is owed. Model clients and model remotes are made of it.
//! Read MQTT 5 sections 4.3, 4.4 and 4.6 first.

use crate::ledger::{Ledger, payload};
use spillway::mqtt::{
    Ack, Frame, Packet, PacketId, Properties, Publish, Qos, Reason, Version, encode, frame,
};
use spillway::vocab::Rng;
use std::collections::{BTreeMap, VecDeque};

/// The largest packet a model takes or makes.
const PACKET_BYTES_MAX: usize = 256 * 1024;

/// The peer's end of one connection.
pub struct Line {
    pub wire: usize,
    pub version: Version,
    input: Vec<u8>,
    pub out: Vec<u8>,
    pub owed: VecDeque<Owed>,
    pub heard_at: u64,
    pub said_at: u64,
}

/// An acknowledgement that leaves later.
#[derive(Clone, Copy, Debug)]
pub struct Owed {
    pub at: u64,
    pub kind: u8,
    pub pid: u16,
    pub id: u32,
    pub reason: u8,
}

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

/// Packet Identifier in use.
const IN_USE: u8 = 0x91;

impl Line {
    pub fn new(wire: usize, version: Version, now: u64) -> Self {
        Self {
            wire,
            version,
            input: Vec::new(),
            out: Vec::new(),
            owed: VecDeque::new(),
            heard_at: now,
            said_at: now,
        }
    }

    pub fn arrived(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole packet; an error is one of the gateway's bytes.
    pub fn packet(&mut self) -> Result<Option<Vec<u8>>, String> {
        match frame(&self.input, PACKET_BYTES_MAX) {
            Ok(Frame::Complete { packet_bytes }) => {
                let rest = self.input.split_off(packet_bytes);
                Ok(Some(std::mem::replace(&mut self.input, rest)))
            }
            Ok(Frame::Incomplete { .. }) => Ok(None),
            Err(malformed) => Err(format!("{malformed:?}")),
        }
    }

    pub fn say(&mut self, packet: &Packet<'_>) {
        let start = self.out.len();
        let bytes = match packet {
            Packet::Publish(publish) => publish.payload.len() + publish.topic.len() + 64,
            _ => 1024,
        };
        self.out.resize(start + bytes, 0);
        let taken = encode(self.version, packet, &mut self.out[start..]).expect("room was made");
        self.out.truncate(start + taken);
    }

    fn say_ack(&mut self, kind: u8, pid: u16, reason: u8) {
        let ack = Ack::new(PacketId::new(pid).expect("not zero"), Reason(reason));
        self.say(&match kind {
            PUBACK => Packet::Puback(ack),
            PUBREC => Packet::Pubrec(ack),
            PUBREL => Packet::Pubrel(ack),
            _ => Packet::Pubcomp(ack),
        });
    }

    /// Owed acknowledgements leave in order, none before its time.
    pub fn pay(&mut self, now: u64, session: &mut Session) {
        while let Some(owed) = self.owed.front().copied().filter(|owed| owed.at <= now) {
            self.owed.pop_front();
            let over = owed.reason >= 0x80 && owed.reason != IN_USE;
            if owed.kind == PUBCOMP || owed.kind == PUBREC && over {
                session.received.remove(&owed.pid);
            }
            self.say_ack(owed.kind, owed.pid, owed.reason);
        }
    }

    pub fn owe(&mut self, at: u64, kind: u8, pid: u16, id: u32, reason: u8) {
        let at = self.owed.back().map_or(at, |last| last.at.max(at));
        self.owed.push_back(Owed { at, kind, pid, id, reason });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Publish,
    Release,
}

/// A message on its way from here.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    pub id: u32,
    pub pid: u16,
    pub qos: u8,
    pub stage: Stage,
    /// In this connection, and not acknowledged in it.
    awaited: bool,
}

pub struct Session {
    pub queue: VecDeque<u32>,
    pub flight: Vec<Out>,
    next_pid: u16,
    pub window: usize,
    /// Received at QoS 2 and not released: identifier, message, passed on already.
    pub received: BTreeMap<u16, (u32, bool)>,
    /// Pass messages on at PUBREL instead of at PUBLISH.
    pub at_release: bool,
    /// What was in flight is not sent again under a new session.
    pub forgets: bool,
    /// The largest QoS messages leave with.
    pub qos_max: u8,
}

/// A message the gateway sent, as far as the session says it counts.
pub struct Arrived {
    pub id: u32,
    pub topic: String,
    pub qos: u8,
    /// The server that it arrived at.
    pub server: usize,
}

impl Session {
    pub fn new(window: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            flight: Vec::new(),
            next_pid: 1,
            window,
            received: BTreeMap::new(),
            at_release: false,
            forgets: false,
            qos_max: 2,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flight.is_empty()
    }

    /// What is on its way in this connection and not accepted yet.
    pub fn unaccepted(&self) -> impl Iterator<Item = u32> + Clone {
        let waits = |out: &&Out| out.awaited && out.stage == Stage::Publish;
        self.flight.iter().filter(waits).map(|out| out.id)
    }

    fn qos_of(&self, ledger: &Ledger, id: u32) -> u8 {
        ledger.message(id).qos.min(self.qos_max)
    }

    fn free_pid(&mut self) -> u16 {
        loop {
            let pid = self.next_pid;
            // A small range, so that identifiers come back soon.
            self.next_pid = if pid >= 97 { 1 } else { pid + 1 };
            if self.flight.iter().all(|out| out.pid != pid) {
                return pid;
            }
        }
    }

    /// Would `fill` send something?
    pub fn can_fill(&self, line: &Line) -> bool {
        !self.queue.is_empty() && self.flight.len() < self.window.min(90) && line.out.len() < 8192
    }

    /// Sends what the window allows.
    pub fn fill(&mut self, line: &mut Line, ledger: &mut Ledger, now: u64) {
        while self.can_fill(line) {
            let Some(id) = self.queue.pop_front() else { return };
            let qos = self.qos_of(ledger, id);
            let message = ledger.message_mut(id);
            message.first_sent = message.first_sent.min(now);
            if qos == 0 {
                publish(line, ledger, id, 0, 0, false);
                continue;
            }
            let pid = self.free_pid();
            self.flight.push(Out { id, pid, qos, stage: Stage::Publish, awaited: true });
            publish(line, ledger, id, qos, pid, false);
        }
    }

    /// A new connection of the same session: everything unacknowledged again [MQTT-4.4.0-1].
    pub fn resume(&mut self, line: &mut Line, ledger: &mut Ledger) {
        for out in &mut self.flight {
            out.awaited = true;
            match out.stage {
                Stage::Publish => {
                    ledger.message_mut(out.id).sent_again = true;
                    publish(line, ledger, out.id, out.qos, out.pid, true);
                }
                Stage::Release => line.say_ack(PUBREL, out.pid, 0),
            }
        }
    }

    /// The session is gone at the other side: what was not accepted is new again.
    pub fn restart(&mut self, ledger: &mut Ledger) {
        for out in std::mem::take(&mut self.flight).into_iter().rev() {
            if out.stage == Stage::Publish && !self.forgets {
                let message = ledger.message_mut(out.id);
                message.republished += 1;
                message.sent_again = true;
                self.queue.push_front(out.id);
            }
        }
        self.received.clear();
    }

    /// The other side has been elsewhere: what it has not accepted may be new to it.
    pub fn doubt(&self, ledger: &mut Ledger) {
        for out in self.flight.iter().filter(|out| out.stage == Stage::Publish) {
            ledger.message_mut(out.id).republished += 1;
        }
    }

    /// PUBACK, PUBREC or PUBCOMP for what left here. `Err`: it answers nothing, or out of order.
    pub fn acknowledged(
        &mut self,
        line: &mut Line,
        ledger: &mut Ledger,
        kind: u8,
        ack: &Ack<'_>,
    ) -> Result<(), String> {
        let (pid, error) = (ack.packet_id.raw(), ack.reason.is_error());
        let Some(at) = self.flight.iter().position(|out| out.pid == pid) else {
            return Err(format!("acknowledgement {kind} of {pid}, which is not in flight"));
        };
        let out = self.flight[at];
        ledger.tell(|| format!("wire {} < ack {kind} {pid} error={error} {out:?}", line.wire));
        let fits = match kind {
            PUBACK => out.qos == 1,
            PUBREC => out.qos == 2,
            _ => out.qos == 2 && out.stage == Stage::Release,
        };
        if !fits {
            return Err(format!("acknowledgement {kind} of {pid}, which is {out:?}"));
        }
        let alike =
            |other: &&Out| other.qos == out.qos && other.stage == out.stage && other.awaited;
        let first = self.flight.iter().find(alike).map(|out| out.pid);
        if kind != PUBCOMP && out.stage == Stage::Publish && first != Some(pid) {
            return Err(format!("acknowledgement {kind} of {pid} before that of {first:?}"));
        }
        match kind {
            PUBREC if !error => {
                ledger.accept(out.id);
                self.flight[at].stage = Stage::Release;
                line.say_ack(PUBREL, pid, 0);
            }
            PUBACK | PUBREC if error => {
                ledger.message_mut(out.id).refused = true;
                self.flight.remove(at);
            }
            PUBACK => {
                ledger.accept(out.id);
                self.flight.remove(at);
            }
            _ => {
                self.flight.remove(at);
            }
        }
        Ok(())
    }

    /// A PUBLISH of the gateway. What counts as arrived now is returned.
    pub fn published(
        &mut self,
        line: &mut Line,
        ledger: &mut Ledger,
        publish: &Publish<'_>,
        now: u64,
        answer: &mut Answer<'_>,
    ) -> Option<Arrived> {
        let Some(id) = ledger.identify(publish.payload) else {
            if ledger.noisy && publish.payload.first() != Some(&0xA5) {
                return self.noise(line, publish, now);
            }
            let head: Vec<u8> = publish.payload.iter().take(8).copied().collect();
            let text = format!("`{}` carries {head:?}, which nobody sent", publish.topic);
            ledger.violate("invented", text);
            return None;
        };
        let qos = publish.qos.as_u8();
        let (wire, dup) = (line.wire, publish.dup);
        let (name, topic) = (publish.packet_id.map(PacketId::raw), publish.topic);
        ledger.tell(|| {
            format!("wire {wire} < PUBLISH {name:?} q{qos} dup={dup} message {id} {topic}")
        });
        let server = answer.server;
        let arrived = Arrived { id, topic: publish.topic.to_string(), qos, server };
        let Some(pid) = publish.packet_id.map(PacketId::raw) else { return Some(arrived) };
        if publish.dup && self.received.get(&pid).is_some_and(|(id, _)| *id == u32::MAX) {
            // Nobody has heard that there is something else under it.
            self.received.remove(&pid);
        }
        let other = line.owed.iter().find(|owed| owed.pid == pid && owed.kind == PUBACK);
        let other = other.map(|owed| owed.id).or(self.received.get(&pid).map(|(id, _)| *id));
        if other.is_some_and(|other| other != id) && !ledger.commit_lost {
            let text = format!("{pid} is {other:?} and now also {id}, dup={}", publish.dup);
            ledger.violate("packet_ids", text);
        }
        let at = now + answer.delay();
        let again = qos == 2 && self.received.contains_key(&pid);
        if !publish.dup && !again && answer.is_in_use() {
            // There is something else under it.
            if qos == 2 {
                self.received.insert(pid, (u32::MAX, true));
            }
            let kind = if qos == 2 { PUBREC } else { PUBACK };
            ledger.put_off.insert((server, id));
            line.owe(at, kind, pid, u32::MAX, IN_USE);
            return None;
        }
        let refusal = if again { 0 } else { answer.refusal(id) };
        match qos {
            1 => {
                line.owe(at, PUBACK, pid, id, refusal);
                (refusal < 0x80).then_some(arrived)
            }
            _ if again => {
                let reason = if answer.says_in_use && publish.dup { IN_USE } else { 0 };
                line.owe(at, PUBREC, pid, id, reason);
                None
            }
            _ if refusal >= 0x80 => {
                line.owe(at, PUBREC, pid, id, refusal);
                None
            }
            _ => {
                self.received.insert(pid, (id, !self.at_release));
                line.owe(at, PUBREC, pid, id, 0);
                (!self.at_release).then_some(arrived)
            }
        }
    }

    /// What a hostile client managed to publish.
    fn noise(&mut self, line: &mut Line, publish: &Publish<'_>, now: u64) -> Option<Arrived> {
        let pid = publish.packet_id.map(PacketId::raw)?;
        if publish.qos == Qos::ExactlyOnce {
            self.received.insert(pid, (u32::MAX, true));
            line.owe(now, PUBREC, pid, u32::MAX, 0);
        } else {
            line.owe(now, PUBACK, pid, u32::MAX, 0);
        }
        None
    }

    /// PUBREL. The number of a message that is passed on only now.
    pub fn released(
        &mut self,
        line: &mut Line,
        pid: u16,
        now: u64,
        answer: &mut Answer<'_>,
    ) -> Option<u32> {
        let at = now + answer.delay();
        let Some((id, passed)) = self.received.get_mut(&pid) else {
            let unknown = if line.version == Version::V5 { 0x92 } else { 0 };
            line.owe(at, PUBCOMP, pid, u32::MAX, unknown);
            return None;
        };
        let late = !std::mem::replace(passed, true);
        let id = *id;
        line.owe(at, PUBCOMP, pid, id, 0);
        late.then_some(id)
    }
}

/// How a model answers.
pub struct Answer<'a> {
    pub rng: &'a mut Rng,
    /// Microseconds, at most.
    pub delay_us: u64,
    /// One of so many messages is refused; 0 = none.
    pub refuse_in: u64,
    pub codes: &'a [u8],
    /// The message that was refused.
    pub refused: Option<u32>,
    /// Which server it is.
    pub server: usize,
    /// One of so many new identifiers is in use; 0 = none.
    pub in_use_in: u64,
    /// What it has already it answers so.
    pub says_in_use: bool,
}

impl Answer<'_> {
    fn delay(&mut self) -> u64 {
        if self.delay_us == 0 { 0 } else { self.rng.below(self.delay_us) }
    }

    fn is_in_use(&mut self) -> bool {
        self.in_use_in > 0 && self.rng.below(self.in_use_in) == 0
    }

    fn refusal(&mut self, id: u32) -> u8 {
        if self.refuse_in == 0 || self.rng.below(self.refuse_in) != 0 {
            return 0;
        }
        let at = usize::try_from(self.rng.below(self.codes.len() as u64)).unwrap();
        self.refused = Some(id);
        self.codes[at]
    }
}

fn publish(line: &mut Line, ledger: &Ledger, id: u32, qos: u8, pid: u16, dup: bool) {
    let message = ledger.message(id);
    let wire = line.wire;
    ledger.tell(|| format!("wire {wire} > PUBLISH {pid} q{qos} dup={dup} message {id}"));
    line.say(&Packet::Publish(Publish {
        dup,
        qos: Qos::from_u8(qos).expect("0 to 2"),
        retain: false,
        topic: &message.topic,
        packet_id: PacketId::new(pid),
        properties: Properties::EMPTY,
        payload: &payload(id, message.bytes),
        missing: 0,
    }));
}
