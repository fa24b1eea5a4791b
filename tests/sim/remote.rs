//! A model broker at the far end: keeps sessions over disconnects, enforces what it announced,
//! forwards messages of its own down to the gateway, restarts, sometimes without its sessions.

use crate::ledger::{Dest, Doubt, Ledger, Sender};
use crate::net::NEVER;
use crate::plan::Plan;
use crate::refusing::{Does, Picky, Spell};
use crate::session::{Answer, Arrived, Line, PUBACK, PUBCOMP, PUBREC, Session};
use spillway::mqtt::topic;
use spillway::mqtt::{
    Connack, Connect, Disconnect, Packet, PacketId, Properties, Property, Reason, Suback, Version,
    decode,
};
use spillway::vocab::Rng;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub struct RemotePlan {
    /// Speaks MQTT 5; else it refuses that.
    pub v5: bool,
    pub receive_maximum: u16,
    pub answer_us: u64,
    /// One of so many messages is refused; 0 = none.
    pub refuse_in: u64,
    /// What it does not like.
    pub picky: Picky,
    pub codes: Vec<u8>,
    /// Messages of its own.
    pub topics: Vec<String>,
    pub count: u32,
    pub every_us: u64,
    pub at_release: bool,
    /// The largest QoS it says it takes.
    pub qos_max: u8,
}

/// A session by client id, and which bridge that is.
pub struct Held {
    pub session: Session,
    pub bridge: usize,
    filters: Vec<(String, u8)>,
    /// The gateway has sent it a message of QoS 2, so that it must remember it.
    used: bool,
    /// Some of what is open came over a connection before MQTT 5, which knows no Receive Maximum.
    unbounded: bool,
    /// The gateway may not have written down that it is new: nothing came from it since, or its
    /// disk takes nothing. If it dies now it goes on where the last session was, and MQTT has no
    /// word against that; this remote says it once more.
    untold: Option<u64>,
    /// Ends with this connection.
    ends_with: Option<usize>,
}

/// A connection of the gateway.
pub struct Link {
    pub line: Line,
    pub client: Option<String>,
    keepalive_us: u64,
    /// To be closed by the world: it is over for the model.
    pub over: bool,
    /// With RST.
    pub reset: bool,
}

pub struct Remote {
    pub index: usize,
    pub plan: RemotePlan,
    pub listening: bool,
    /// Refuses every CONNECT with "server unavailable".
    pub refusing: bool,
    pub sessions: BTreeMap<String, Held>,
    pub links: Vec<Link>,
    pub left: u32,
    next_publish: u64,
    pub rng: Rng,
    pub calm: bool,
    /// It takes even what it does not like.
    pub tolerant: bool,
    /// What it does at the moment to whatever comes.
    pub spell: Option<Spell>,
    /// Silence of the gateway longer than its keepalive: the wire it was on.
    pub silent: Option<usize>,
    /// A bridge has been greeted without a session so often.
    pub greeted: BTreeMap<usize, u32>,
}

impl Remote {
    pub fn new(index: usize, plan: RemotePlan, mut rng: Rng) -> Self {
        Self {
            index,
            listening: true,
            refusing: false,
            sessions: BTreeMap::new(),
            links: Vec::new(),
            left: plan.count,
            next_publish: 1_000_000 + rng.below(1 + plan.every_us),
            rng,
            calm: false,
            tolerant: false,
            spell: None,
            silent: None,
            greeted: BTreeMap::new(),
            plan,
        }
    }

    pub fn next_at(&self) -> u64 {
        let mut at = if self.left > 0 { self.next_publish } else { NEVER };
        for link in &self.links {
            at = at.min(link.line.owed.front().map_or(NEVER, |owed| owed.at));
            let held = link.client.as_ref().and_then(|id| self.sessions.get(id));
            if held.is_some_and(|held| !link.over && held.session.can_fill(&link.line)) {
                return 0;
            }
            if link.keepalive_us > 0 && !link.over {
                at = at.min(link.line.heard_at + link.keepalive_us * 3 / 2);
            }
        }
        at
    }

    pub fn tick(&mut self, now: u64, ledger: &mut Ledger) {
        while self.left > 0 && self.next_publish <= now {
            self.next_publish = now + 1 + self.rng.below(2 * self.plan.every_us);
            self.make(ledger);
        }
        for link in &mut self.links {
            let Some(held) = link.client.as_ref().and_then(|id| self.sessions.get_mut(id)) else {
                continue;
            };
            if link.keepalive_us > 0
                && !link.over
                && link.line.heard_at + link.keepalive_us * 3 / 2 <= now
            {
                link.over = true;
                link.line.out.clear();
                self.silent = Some(link.line.wire);
                continue;
            }
            link.line.pay(now, &mut held.session);
            if !link.over {
                held.session.fill(&mut link.line, ledger, now);
            }
        }
    }

    /// A message of its own, for every session that wants it.
    fn make(&mut self, ledger: &mut Ledger) {
        self.left -= 1;
        let topic = &self.plan.topics[crate::client::pick(&mut self.rng, self.plan.topics.len())];
        let qos = u8::try_from(self.rng.below(3)).unwrap();
        let bytes = usize::try_from(self.rng.below(300)).unwrap();
        for (id, held) in &mut self.sessions {
            let granted = held
                .filters
                .iter()
                .filter(|(filter, _)| topic::matches(filter, topic))
                .map(|(_, qos)| *qos)
                .max();
            let Some(granted) = granted else { continue };
            let connected = self.links.iter().any(|link| link.client.as_ref() == Some(id));
            let qos = qos.min(granted);
            if qos > 0 || connected {
                let message = ledger.make(Sender::Remote(self.index), topic, qos, bytes);
                held.session.queue.push_back(message);
            }
        }
    }

    pub fn connected(&mut self, wire: usize, now: u64) {
        let line = Line::new(wire, Version::V311, now);
        self.links.push(Link { line, client: None, keepalive_us: 0, over: false, reset: false });
    }

    /// A connection is over.
    pub fn gone(&mut self, wire: usize) {
        for link in self.links.iter().filter(|link| link.line.wire == wire) {
            if let Some(id) = &link.client
                && self.sessions.get(id).is_some_and(|held| held.ends_with == Some(wire))
            {
                self.sessions.remove(id);
            }
        }
        self.links.retain(|link| link.line.wire != wire);
    }

    /// The broker restarts; with `forget` its sessions are gone.
    pub fn restart(&mut self, forget: bool, ledger: &mut Ledger) {
        self.links.clear();
        if forget {
            for held in self.sessions.values_mut() {
                held.session.restart(ledger);
            }
            self.sessions.clear();
        }
    }

    pub fn receive(&mut self, now: u64, wire: usize, bytes: &[u8], world: &mut Facts<'_>) {
        let Some(at) = self.links.iter().position(|link| link.line.wire == wire) else { return };
        self.links[at].line.heard_at = now;
        self.links[at].line.arrived(bytes);
        while let Some(at) = self.links.iter().position(|link| link.line.wire == wire) {
            if self.links[at].over {
                return;
            }
            let packet = match self.links[at].line.packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                Err(fault) => {
                    let text = format!("remote {} got {fault}", self.index);
                    world.ledger.violate("wire", text);
                    self.links[at].over = true;
                    return;
                }
            };
            let decoded = match decode(self.links[at].line.version, &packet) {
                Ok(decoded) => decoded,
                Err(fault) => {
                    let text = format!("remote {} got {fault:?}", self.index);
                    world.ledger.violate("wire", text);
                    self.links[at].over = true;
                    return;
                }
            };
            if let Packet::Connect(connect) = decoded {
                self.connect(now, at, &connect, world);
            } else if let Err(fault) = self.on(now, at, &decoded, world) {
                let text = format!("remote {}: {fault}", self.index);
                world.ledger.violate("acknowledgements", text);
                self.links[at].over = true;
                return;
            }
        }
    }

    fn connect(&mut self, now: u64, at: usize, connect: &Connect<'_>, world: &mut Facts<'_>) {
        let link = &mut self.links[at];
        link.line.version = connect.version;
        link.keepalive_us = u64::from(connect.keepalive) * 1_000_000;
        let refusal = match connect.version {
            _ if self.refusing => Some(if connect.version == Version::V5 { 0x88 } else { 3 }),
            Version::V5 if !self.plan.v5 => Some(1),
            Version::V311 if connect.bridge && !self.plan.v5 => Some(1),
            // It could not say so, and a session that takes QoS 2 by one version only is nobody's.
            Version::V311 if self.plan.qos_max < 2 => Some(1),
            Version::V5 | Version::V311 | Version::V31 => None,
        };
        if let Some(code) = refusal {
            let connack = Connack { session_present: false, code, properties: Properties::EMPTY };
            if !self.plan.v5 {
                link.line.version = Version::V311;
            }
            link.line.say(&Packet::Connack(connack));
            link.over = true;
            return;
        }
        let id = connect.client_id.to_string();
        let Some(bridge) = world.plan.bridges.iter().position(|b| b.client_id == id) else {
            world.ledger.violate("wire", format!("a bridge called itself {id}"));
            return;
        };
        link.client = Some(id.clone());
        for (other, link) in self.links.iter_mut().enumerate() {
            // Taken over.
            link.over |= other != at && link.client.as_ref() == Some(&id);
        }
        let lasts = self.sessions.get(&id).is_some_and(|held| held.ends_with.is_none());
        let used = self.sessions.get(&id).is_some_and(|held| held.used);
        let untold = self.sessions.get(&id).is_some_and(|held| held.untold.is_some());
        let present = lasts && !connect.clean_start && !untold;
        let told = *self.greeted.entry(bridge).or_insert(0);
        let single = world.plan.bridges[bridge].servers.len() == 1;
        let excused = world.ledger.store_lost || !single;
        if connect.clean_start && used && lasts && !excused {
            world.ledger.violate("sessions", format!("bridge {bridge} threw its session away"));
        }
        let window = u32::from(world.plan.bridges[bridge].window);
        let last = world.ledger.servers.insert(bridge, self.index);
        let moved = last.is_some_and(|last| last != self.index);
        if !present {
            if let Some(held) = self.sessions.get_mut(&id) {
                held.session.restart(world.ledger);
            }
            let mut session = Session::new(20);
            session.at_release = self.plan.at_release;
            let clean = connect.clean_start && connect.version != Version::V5;
            let ends_with = clean.then_some(self.links[at].line.wire);
            let (filters, untold_at) = (Vec::new(), Some(world.commits));
            let (used, unbounded) = (false, false);
            let held =
                Held { session, bridge, filters, used, unbounded, untold: untold_at, ends_with };
            self.sessions.insert(id.clone(), held);
            if (told > 0 || moved) && !untold {
                world.ledger.doubts.push(Doubt { dest: Dest::Bridge(bridge), window });
            }
        } else if moved {
            // What the gateway had here is sent again elsewhere, and what it had not made durable
            // of ours comes again.
            world.ledger.doubts.push(Doubt { dest: Dest::Bridge(bridge), window });
            if let Some(held) = self.sessions.get_mut(&id) {
                held.session.doubt(world.ledger);
            }
        }
        let list = [
            Property::ReceiveMaximum(self.plan.receive_maximum),
            Property::MaximumQos(self.plan.qos_max),
        ];
        let list = if self.plan.qos_max < 2 { &list[..] } else { &list[..1] };
        let mut bytes = [0; 32];
        let properties = match connect.version {
            Version::V5 => Properties::write(list, &mut bytes).expect("they fit"),
            Version::V31 | Version::V311 => Properties::EMPTY,
        };
        let link = &mut self.links[at];
        world.ledger.tell(|| format!("wire {} {id} present={present}", link.line.wire));
        link.line.say(&Packet::Connack(Connack { session_present: present, code: 0, properties }));
        if let Some(held) = self.sessions.get_mut(&id) {
            if let Some(window) = connect.properties.receive_maximum() {
                held.session.window = usize::from(window);
            }
            held.session.resume(&mut link.line, world.ledger);
            held.session.fill(&mut link.line, world.ledger, now);
        }
    }

    fn on(
        &mut self,
        now: u64,
        at: usize,
        packet: &Packet<'_>,
        world: &mut Facts<'_>,
    ) -> Result<(), String> {
        let odd = match self.tolerant {
            true => None,
            false => self.plan.picky.to(packet, self.spell, world.ledger),
        };
        let link = &mut self.links[at];
        if !matches!(packet, Packet::Publish(_) | Packet::Puback(_) | Packet::Pubrec(_)) {
            world.ledger.tell(|| format!("wire {} < {packet:?}", link.line.wire));
        }
        let Some(held) = link.client.as_ref().and_then(|id| self.sessions.get_mut(id)) else {
            return Err(format!("{packet:?} before CONNECT"));
        };
        if held.untold.take_if(|at| *at < world.commits).is_some() {
            *self.greeted.entry(held.bridge).or_insert(0) += 1;
        }
        let v5 = link.line.version == Version::V5;
        let mut ends = false;
        match odd {
            None => {}
            Some((does, bad)) => {
                if let Some(id) = bad {
                    *world.ledger.turned_away.entry((held.bridge, id)).or_insert(0) += 1;
                }
                world.ledger.tell(|| format!("wire {} {does:?} {bad:?}", link.line.wire));
                match does {
                    Does::Nothing => {
                        // It may take others after it.
                        if let Packet::Publish(publish) = packet
                            && let Some(id) = world.ledger.identify(publish.payload)
                        {
                            world.ledger.put_off.insert((self.index, id));
                        }
                        return Ok(());
                    }
                    Does::TakesAndCloses => ends = true,
                    Does::Closes { code, reset } => {
                        if let Some(code) = code.filter(|_| v5 && !reset) {
                            link.line.say(&Packet::Disconnect(Disconnect {
                                reason: Reason(code),
                                properties: Properties::EMPTY,
                            }));
                        }
                        (link.over, link.reset) = (true, reset);
                        return Ok(());
                    }
                }
            }
        }
        let mut answer = Answer {
            rng: &mut self.rng,
            delay_us: if self.calm { 1000 } else { self.plan.answer_us },
            refuse_in: if self.calm || !v5 { 0 } else { self.plan.refuse_in },
            codes: &self.plan.codes,
            refused: None,
            server: self.index,
            in_use_in: if self.calm || !v5 { 0 } else { self.plan.picky.in_use_in },
            says_in_use: v5 && self.plan.picky.says_in_use,
        };
        let (bridge, ledger) = (held.bridge, &mut *world.ledger);
        let dest = Dest::Bridge(bridge);
        let line = &mut link.line;
        match packet {
            Packet::Publish(publish) => {
                held.used |= publish.qos.as_u8() == 2;
                held.unbounded = !v5 || (held.unbounded && !held.session.received.is_empty());
                let arrived = held.session.published(line, ledger, publish, now, &mut answer);
                if let Some(refused) = answer.refused {
                    *ledger.turned_away.entry((bridge, refused)).or_insert(0) += 1;
                }
                let pubacks = line.owed.iter().filter(|owed| owed.kind == PUBACK).count();
                let open = pubacks + held.session.received.len();
                // What a lost commit knew of counts here for ever. After damage more than a window
                // goes out again: what it had over another connection does not count by the word
                // of the specification, but here it does.
                // So does what it took in a spell and closed upon before anybody heard.
                let spells = ledger.spells > 0;
                let known =
                    !held.unbounded && !ledger.commit_lost && ledger.damaged == 0 && !spells;
                if known && open > usize::from(self.plan.receive_maximum) {
                    ledger.violate("window", format!("{open} at remote {}", self.index));
                }
                if let Some(arrived) = arrived {
                    let message = ledger.message(arrived.id);
                    let topic = world.plan.topic_at(bridge, &message.topic).unwrap_or_default();
                    // Before MQTT 5 it cannot say what it takes.
                    let rule = world.plan.rule(bridge, &message.topic).and_then(|rule| rule.qos);
                    let most = if v5 { self.plan.qos_max } else { 2 };
                    let qos = rule.unwrap_or(message.qos).min(most);
                    ledger.deliver(dest, &arrived, (&topic, qos), now);
                }
            }
            Packet::Pubrel(ack) => {
                let late = held.session.released(line, ack.packet_id.raw(), now, &mut answer);
                if let Some(id) = late {
                    let topic = ledger.message(id).topic.clone();
                    let topic = world.plan.topic_at(bridge, &topic).unwrap_or_default();
                    let server = self.index;
                    let arrived = Arrived { id, topic: topic.clone(), qos: 2, server };
                    ledger.deliver(dest, &arrived, (&topic, 2), now);
                }
            }
            Packet::Puback(ack) => held.session.acknowledged(line, ledger, PUBACK, ack)?,
            Packet::Pubrec(ack) => held.session.acknowledged(line, ledger, PUBREC, ack)?,
            Packet::Pubcomp(ack) => held.session.acknowledged(line, ledger, PUBCOMP, ack)?,
            Packet::Subscribe(subscribe) => {
                let mut codes = Vec::new();
                for (filter, options) in subscribe.filters.iter() {
                    held.filters.retain(|(known, _)| known != filter);
                    held.filters.push((filter.to_string(), options.qos.as_u8()));
                    codes.push(options.qos.as_u8());
                }
                let packet_id = PacketId::new(subscribe.packet_id.raw()).expect("not zero");
                line.say(&Packet::Suback(Suback {
                    packet_id,
                    properties: Properties::EMPTY,
                    codes: &codes,
                }));
            }
            Packet::Pingreq => line.say(&Packet::Pingresp),
            Packet::Disconnect(_) => link.over = true,
            other => return Err(format!("{other:?} is nothing for a server")),
        }
        if ends {
            // Whatever it had to say.
            link.over = true;
            link.line.out.clear();
            link.line.owed.clear();
            return Ok(());
        }
        link.line.pay(now, &mut held.session);
        held.session.fill(&mut link.line, world.ledger, now);
        Ok(())
    }
}

/// What a remote needs of the world.
pub struct Facts<'a> {
    pub plan: &'a Plan,
    pub ledger: &'a mut Ledger,
    /// Of the gateway's disk.
    pub commits: u64,
}
