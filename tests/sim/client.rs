//! A model client of the gateway: publishes, subscribes, goes offline, comes back and sends again
//! what the specification says. Some clients are not so polite: they flood, never read, or send
//! what is no MQTT at all.

use crate::fairness::{self, Foe, Greed};
use crate::ledger::{Dest, Ledger, Sender, Subscription, payload};
use crate::net::NEVER;
use crate::session::{Answer, Line, PUBACK, PUBCOMP, PUBREC, Session};
use spillway::mqtt::props::Variable;
use spillway::mqtt::topic;
use spillway::mqtt::{
    Connect, Disconnect, Filters, Packet, PacketId, Properties, Property, Publish, Qos, Reason,
    Subscribe, SubscribeOptions, Version, Will, decode,
};
use spillway::vocab::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    Polite,
    NeverReads,
    Hostile,
    Greedy(Greed),
}

impl Manners {
    /// Knows nothing of sessions and of what it is sent.
    pub fn is_wild(self) -> bool {
        matches!(self, Self::Hostile | Self::Greedy(_))
    }
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub name: String,
    pub version: Version,
    pub clean: bool,
    /// What was in flight when a session ended is not sent again.
    pub forgets: bool,
    pub keepalive_s: u16,
    pub window: usize,
    pub filters: Vec<(String, u8)>,
    pub topics: Vec<String>,
    /// QoS levels to choose from.
    pub qos: Vec<u8>,
    pub count: u32,
    /// Mean distance of its messages.
    pub every_us: u64,
    pub bytes_max: u64,
    /// Mean time between its absences; 0 = it stays.
    pub leaves_after_us: u64,
    pub absent_us: u64,
    pub answer_us: u64,
    /// Sizes its messages have, more or less; empty = any.
    pub edges: &'static [u64],
    /// It leaves a will, with every connection another.
    pub wills: bool,
    /// Its subscriptions have identifiers, from MQTT 5 on.
    pub identifies: bool,
    pub manners: Manners,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Offline { until: u64 },
    Connecting { since: u64 },
    Up,
}

pub struct Client {
    pub index: usize,
    pub plan: ClientPlan,
    pub state: State,
    pub line: Option<Line>,
    pub session: Session,
    /// Its session exists at the gateway, which has its word for that, and is durable since then.
    pub known_at: u64,
    /// It will be with the next commit.
    pub known_later: bool,
    pub left: u32,
    pub next_publish: u64,
    leaves_at: u64,
    pub ping_at: Option<u64>,
    asked: Vec<(u16, usize)>,
    /// Filters the gateway's session has, as far as this client knows.
    subscribed: bool,
    pub rng: Rng,
    /// What it wants of its connection.
    pub wish: Wish,
    /// When the last PINGRESP was late, by how much.
    pub ping_late_us: u64,
    pub calm: bool,
    pub foe: Foe,
    /// CONNACKs that let it in.
    pub greeted: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    Connect,
    /// Close after what was said has left.
    Finish,
    Abort,
}

impl Client {
    pub fn new(index: usize, plan: ClientPlan, mut rng: Rng) -> Self {
        let starts = rng.below(2_000_000);
        let mut session = Session::new(plan.window);
        session.forgets = plan.forgets;
        Self {
            index,
            session,
            state: State::Offline { until: starts },
            line: None,
            known_at: NEVER,
            known_later: false,
            left: plan.count,
            next_publish: starts + rng.below(1 + plan.every_us),
            leaves_at: NEVER,
            ping_at: None,
            asked: Vec::new(),
            subscribed: false,
            rng,
            wish: Wish::Nothing,
            ping_late_us: 0,
            calm: false,
            foe: Foe::default(),
            greeted: 0,
            plan,
        }
    }

    pub fn next_at(&self) -> u64 {
        let mut at = match self.state {
            State::Offline { until } => until,
            State::Connecting { since } => since + 20_000_000,
            State::Up if self.calm => self.ping_due(),
            State::Up => self.leaves_at.min(self.ping_due()),
        };
        if self.left > 0 && !self.plan.manners.is_wild() {
            at = at.min(self.next_publish);
        }
        if self.plan.manners.is_wild() && self.state == State::Up {
            at = at.min(self.next_publish);
        }
        if let Some(line) = &self.line {
            at = at.min(line.owed.front().map_or(NEVER, |owed| owed.at));
            if self.state == State::Up && self.session.can_fill(line) {
                return 0;
            }
        }
        at
    }

    fn ping_due(&self) -> u64 {
        let keepalive = u64::from(self.plan.keepalive_s) * 1_000_000;
        match (&self.line, self.ping_at) {
            (Some(_), Some(asked)) => asked + keepalive * 3 / 2,
            (Some(line), None) if keepalive > 0 => line.said_at + keepalive * 3 / 4,
            _ => NEVER,
        }
    }

    /// Everything it does by itself at this time.
    pub fn tick(&mut self, now: u64, ledger: &mut Ledger) {
        if self.plan.manners == Manners::Hostile {
            return self.tick_hostile(now);
        }
        if let Manners::Greedy(greed) = self.plan.manners {
            return fairness::tick(self, greed, now);
        }
        while self.left > 0 && self.next_publish <= now {
            self.next_publish = now + 1 + self.rng.below(2 * self.plan.every_us);
            self.make(ledger);
        }
        match self.state {
            State::Offline { until } if until <= now => self.connect(now),
            State::Connecting { since } if since + 20_000_000 <= now => self.give_up(now),
            State::Up if self.leaves_at <= now && !self.calm => return self.leave(now),
            State::Up if self.ping_due() <= now => self.ping(now, ledger),
            State::Offline { .. } | State::Connecting { .. } | State::Up => {}
        }
        if let Some(line) = &mut self.line
            && self.state == State::Up
        {
            line.pay(now, &mut self.session);
            self.session.fill(line, ledger, now);
        }
    }

    fn make(&mut self, ledger: &mut Ledger) {
        self.left -= 1;
        let qos = self.plan.qos[pick(&mut self.rng, self.plan.qos.len())];
        if qos == 0 && self.state != State::Up {
            return;
        }
        let topic = &self.plan.topics[pick(&mut self.rng, self.plan.topics.len())];
        let bytes = match self.rng.below(8) {
            _ if !self.plan.edges.is_empty() => {
                let edge = self.plan.edges[pick(&mut self.rng, self.plan.edges.len())];
                edge - 20 + self.rng.below(41)
            }
            0 => self.rng.below(self.plan.bytes_max),
            _ => self.rng.below(self.plan.bytes_max.min(200)),
        };
        let bytes = usize::try_from(bytes).unwrap();
        self.session.queue.push_back(ledger.make(Sender::Client(self.index), topic, qos, bytes));
    }

    pub fn connect(&mut self, now: u64) {
        self.state = State::Connecting { since: now };
        self.wish = Wish::Connect;
    }

    /// The connection is there: the first words.
    pub fn connected(&mut self, wire: usize, now: u64, ledger: &mut Ledger) {
        let mut line = Line::new(wire, self.plan.version, now);
        if let Manners::Greedy(greed) = self.plan.manners {
            fairness::greet(self, &mut line, greed);
            self.line = Some(line);
            self.state = State::Up;
            return;
        }
        let list = [
            Property::SessionExpiry(if self.plan.clean { 0 } else { 86_400 }),
            Property::ReceiveMaximum(20),
        ];
        let mut bytes = [0; 32];
        let properties = match self.plan.version {
            Version::V5 => Properties::write(&list, &mut bytes).expect("they fit"),
            Version::V31 | Version::V311 => Properties::EMPTY,
        };
        // Nobody promises that it arrives; once is the most, and as it was left.
        let topic = format!("up/w/{}", self.plan.name);
        let left = self.plan.wills.then(|| {
            let qos = self.plan.qos[pick(&mut self.rng, self.plan.qos.len())];
            let id = ledger.make(Sender::Client(self.index), &topic, qos, 100);
            ledger.message_mut(id).first_sent = now;
            (qos, payload(id, 100))
        });
        let will = left.as_ref().map(|(qos, payload)| Will {
            topic: &topic,
            payload,
            qos: Qos::from_u8(*qos).expect("0 to 2"),
            retain: false,
            properties: Properties::EMPTY,
        });
        line.say(&Packet::Connect(Connect {
            version: self.plan.version,
            bridge: false,
            clean_start: self.plan.clean,
            keepalive: self.plan.keepalive_s,
            client_id: &self.plan.name,
            will,
            username: None,
            password: None,
            properties,
        }));
        self.line = Some(line);
        self.ping_at = None;
    }

    pub fn give_up(&mut self, now: u64) {
        self.wish = Wish::Abort;
        self.gone(now);
    }

    fn leave(&mut self, now: u64) {
        if self.rng.below(2) == 0 {
            self.wish = Wish::Abort;
            self.gone(now);
        } else {
            let bye = Disconnect { reason: Reason::SUCCESS, properties: Properties::EMPTY };
            if let Some(line) = &mut self.line {
                line.say(&Packet::Disconnect(bye));
            }
            self.wish = Wish::Finish;
            self.leaves_at = NEVER;
        }
    }

    /// The connection is over, from whichever side.
    pub fn gone(&mut self, now: u64) {
        let absent = if self.calm { 200_000 } else { self.plan.absent_us };
        self.line = None;
        self.state = State::Offline { until: now + 1000 + self.rng.below(2 * absent + 1) };
        self.ping_at = None;
        self.leaves_at = NEVER;
        self.asked.clear();
    }

    fn ping(&mut self, now: u64, ledger: &mut Ledger) {
        if self.ping_at.is_some() {
            // The world knows whether the network is to blame.
            self.ping_late_us = u64::from(self.plan.keepalive_s) * 1_500_000;
            return self.give_up(now);
        }
        let _ = ledger;
        if let Some(line) = &mut self.line {
            line.say(&Packet::Pingreq);
            line.said_at = now;
            self.ping_at = Some(now);
        }
    }

    /// Bytes from the gateway.
    pub fn receive(&mut self, now: u64, bytes: &[u8], ledger: &mut Ledger, commits: Firm) {
        let Some(line) = &mut self.line else { return };
        line.heard_at = now;
        line.arrived(bytes);
        loop {
            let Some(line) = &mut self.line else { return };
            let packet = match line.packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return,
                Err(fault) => {
                    ledger.violate("wire", format!("{} got {fault}", self.plan.name));
                    return self.give_up(now);
                }
            };
            self.greeted += u32::from(packet.starts_with(&[0x20]) && packet[3] == 0);
            if self.plan.manners.is_wild() {
                continue;
            }
            let version = line.version;
            let decoded = match decode(version, &packet) {
                Ok(decoded) => decoded,
                Err(fault) => {
                    ledger.violate("wire", format!("{} got {fault:?}", self.plan.name));
                    return self.give_up(now);
                }
            };
            if let Err(fault) = self.on(now, &decoded, ledger, commits) {
                ledger.violate("acknowledgements", format!("{}: {fault}", self.plan.name));
                return self.give_up(now);
            }
        }
    }

    fn on(
        &mut self,
        now: u64,
        packet: &Packet<'_>,
        ledger: &mut Ledger,
        firm: Firm,
    ) -> Result<(), String> {
        if let Packet::Publish(publish) = packet {
            self.check_identifiers(publish, ledger);
        }
        let Some(mut line) = self.line.take() else { return Ok(()) };
        let dest = Dest::Session(self.index);
        if matches!(packet, Packet::Suback(_) | Packet::Pubrec(_) | Packet::Pubcomp(_)) {
            // The gateway has heard from it in its session, and written that down.
            self.heard_of(now, firm);
        }
        let mut answer = Answer {
            rng: &mut self.rng,
            delay_us: if self.calm { 1000 } else { self.plan.answer_us },
            refuse_in: 0,
            in_use_in: 0,
            says_in_use: false,
            codes: &[0x80],
            refused: None,
            server: 0,
        };
        let mut result = Ok(());
        match packet {
            Packet::Connack(connack) if connack.code == 0 => {
                if let Some(most) = connack.properties.receive_maximum() {
                    self.session.window = self.plan.window.min(usize::from(most));
                }
                self.greeted(now, connack.session_present, &mut line, ledger);
            }
            Packet::Connack(_) => {
                self.line = Some(line);
                self.give_up(now);
                return Ok(());
            }
            Packet::Suback(suback) => self.granted(now, suback.packet_id.raw(), ledger, firm),
            Packet::Publish(publish) => {
                let arrived = self.session.published(&mut line, ledger, publish, now, &mut answer);
                if let Some(arrived) = arrived {
                    let topic = ledger.message(arrived.id).topic.clone();
                    self.check_wanted(&arrived.topic, ledger);
                    let wanted = (topic.as_str(), ledger.message(arrived.id).qos);
                    ledger.deliver(dest, &arrived, wanted, now);
                }
            }
            Packet::Puback(ack) => {
                result = self.session.acknowledged(&mut line, ledger, PUBACK, ack);
            }
            Packet::Pubrec(ack) => {
                result = self.session.acknowledged(&mut line, ledger, PUBREC, ack);
            }
            Packet::Pubcomp(ack) => {
                result = self.session.acknowledged(&mut line, ledger, PUBCOMP, ack);
            }
            Packet::Pubrel(ack) => {
                let id = ack.packet_id.raw();
                self.session.released(&mut line, id, now, &mut answer);
            }
            Packet::Pingresp => {
                if let Some(asked) = self.ping_at.take() {
                    self.ping_late_us = self.ping_late_us.max(now - asked);
                }
            }
            Packet::Disconnect(_) | Packet::Unsuback(_) => {}
            other => result = Err(format!("{other:?} is nothing for a client")),
        }
        line.pay(now, &mut self.session);
        if self.state == State::Up {
            self.session.fill(&mut line, ledger, now);
        }
        self.line = Some(line);
        result
    }

    /// Every identifier is that of a filter that matches, and one is there [MQTT-3.3.4-3].
    fn check_identifiers(&self, publish: &Publish<'_>, ledger: &mut Ledger) {
        let mut ids = 0;
        for property in publish.properties.iter() {
            let Property::SubscriptionIdentifier(Variable(id)) = property else { continue };
            let at = usize::try_from(id).unwrap().checked_sub(1000);
            let filter = at.and_then(|at| self.plan.filters.get(at));
            if filter.is_some_and(|(filter, _)| topic::matches(filter, publish.topic)) {
                ids += 1;
            } else {
                let text = format!("{} got `{}` by {id}", self.plan.name, publish.topic);
                ledger.violate("identifiers", text);
            }
        }
        if ids == 0 && self.plan.identifies && self.plan.version == Version::V5 {
            let text = format!("{} got `{}` by no identifier", self.plan.name, publish.topic);
            ledger.violate("identifiers", text);
        }
    }

    fn check_wanted(&self, name: &str, ledger: &mut Ledger) {
        if !self.plan.filters.iter().any(|(filter, _)| topic::matches(filter, name)) {
            let text = format!("{} got `{name}`, which it never asked for", self.plan.name);
            ledger.violate("invented", text);
        }
    }

    /// CONNACK: the sessions of both sides are put together.
    fn greeted(&mut self, now: u64, present: bool, line: &mut Line, ledger: &mut Ledger) {
        self.state = State::Up;
        if self.plan.leaves_after_us > 0 {
            self.leaves_at = now + self.rng.below(2 * self.plan.leaves_after_us);
        }
        if present && self.plan.clean {
            ledger.violate("sessions", format!("{} asked for a clean one", self.plan.name));
        }
        if !present && self.known_at < now && !self.plan.clean && !ledger.store_lost {
            ledger.violate("sessions", format!("that of {} is gone", self.plan.name));
        }
        if present {
            self.session.resume(line, ledger);
        } else {
            for known in &mut ledger.subscriptions {
                if known.client == self.index {
                    known.ended_at = known.ended_at.min(now);
                }
            }
            self.subscribed = false;
            self.session.restart(ledger);
        }
        if !self.subscribed {
            self.asked.clear();
            for (at, (filter, qos)) in self.plan.filters.iter().enumerate() {
                let pid = u16::try_from(1000 + at).unwrap();
                let qos = Qos::from_u8(*qos).expect("0 to 2");
                let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
                let list = [(filter.as_str(), options)];
                let mut bytes = [0; 8];
                let identifier = Property::SubscriptionIdentifier(Variable(u32::from(pid)));
                let properties = match self.plan.version {
                    Version::V5 if self.plan.identifies => {
                        Properties::write(&[identifier], &mut bytes).expect("it fits")
                    }
                    Version::V5 | Version::V31 | Version::V311 => Properties::EMPTY,
                };
                line.say(&Packet::Subscribe(Subscribe {
                    packet_id: PacketId::new(pid).expect("not zero"),
                    properties,
                    filters: Filters::from_list(&list),
                }));
                self.asked.push((pid, at));
            }
        }
    }

    fn heard_of(&mut self, now: u64, firm: Firm) {
        if firm == Firm::Now && !self.plan.clean {
            self.known_at = self.known_at.min(now);
        } else {
            self.known_later = true;
        }
    }

    fn granted(&mut self, now: u64, pid: u16, ledger: &mut Ledger, firm: Firm) {
        let Some(place) = self.asked.iter().position(|(asked, _)| *asked == pid) else { return };
        let (_, at) = self.asked.remove(place);
        let (filter, qos) = self.plan.filters[at].clone();
        self.subscribed = self.asked.is_empty();
        ledger.subscriptions.push(Subscription {
            client: self.index,
            filter,
            qos,
            persistent: !self.plan.clean,
            since: now,
            firm_at: if firm == Firm::Now { now } else { NEVER },
            ended_at: NEVER,
        });
    }

    fn tick_hostile(&mut self, now: u64) {
        match self.state {
            State::Offline { until } if until <= now => {
                if self.calm {
                    self.state = State::Offline { until: NEVER };
                } else {
                    self.connect(now);
                }
            }
            State::Connecting { .. } if self.line.is_some() => self.state = State::Up,
            State::Connecting { since } if since + 20_000_000 <= now => self.give_up(now),
            State::Up if self.calm || self.rng.below(30) == 0 => self.give_up(now),
            State::Up if self.next_publish <= now => {
                self.next_publish = now + 1 + self.rng.below(2 * self.plan.every_us);
                let garbage = self.garbage();
                if let Some(line) = &mut self.line {
                    line.out.extend_from_slice(&garbage);
                }
            }
            State::Offline { .. } | State::Connecting { .. } | State::Up => {}
        }
    }

    /// Noise, or a packet with a few bits turned.
    fn garbage(&mut self) -> Vec<u8> {
        let mut bytes: Vec<u8> = match self.rng.below(6) {
            0 => (0..self.rng.below(64)).map(|_| self.rng.next_u64().to_le_bytes()[0]).collect(),
            1 => vec![0x32, 12, 0, 3, b'h', b'/', b'x', 0, 7, 1, 2, 3, 4, 5],
            2 => vec![0x34, 12, 0, 3, b'h', b'/', b'x', 0, 7, 1, 2, 3, 4, 5],
            3 => vec![0x82, 8, 0, 1, 0, 3, b'h', b'/', b'#', 1],
            4 => vec![0x62, 2, 0, 7, 0x40, 2, 0, 1, 0x50, 2, 0, 1, 0x70, 2, 0, 9],
            _ => vec![0xC0, 0, 0xE0, 0],
        };
        if !bytes.is_empty() && self.rng.below(2) == 0 {
            let at = pick(&mut self.rng, bytes.len());
            bytes[at] ^= 1 << self.rng.below(8);
        }
        bytes
    }
}

/// Is what the gateway says about a subscription known to be durable?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firm {
    Now,
    /// The store is failing: with the next commit.
    Later,
}

pub fn pick(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).unwrap()
}
