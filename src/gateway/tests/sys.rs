//! `$SYS` over the whole core: who gets the figures, and that nothing happens without listeners.

use super::*;
use crate::gateway::sys::SYS_INTERVAL;

const SUBSCRIBE_SYS: [u8; 13] = [0x82, 11, 0, 1, 0, 6, b'$', b'S', b'Y', b'S', b'/', b'#', 0];

/// Topics of the publishes in what a connection was sent, with the first byte of each.
fn publishes(mut bytes: &[u8]) -> Vec<(u8, String)> {
    let mut found = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (body, behind) = rest.split_at(usize::from(*length));
        if first >> 4 == 3 {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            found.push((*first, String::from_utf8(body[2..2 + topic].to_vec()).unwrap()));
        }
        bytes = behind;
    }
    found
}

impl World {
    /// What a connection is sent until it is sent nothing more, its kept bytes presented again.
    fn drain(&mut self, conn: ConnId, mut kept: Vec<u8>) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let some = self.sent(conn);
            while self.gateway.poll_resume().is_some() {}
            if !kept.is_empty() {
                self.gateway.conns[usize::from(conn.slot)].retry = true;
                let taken = self.gateway.receive(self.now, conn, &mut kept);
                kept.truncate(taken.kept);
            }
            if some.is_empty() && kept.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    fn ask(&mut self, conn: ConnId, packet: &[u8]) -> Vec<(u8, String)> {
        let mut buffer = packet.to_vec();
        let taken = self.gateway.receive(self.now, conn, &mut buffer);
        buffer.truncate(taken.kept);
        publishes(&self.drain(conn, buffer))
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.plus(span);
        self.gateway.expire(self.now);
        self.gateway.flush(self.now, &mut self.disk);
    }
}

#[test]
fn a_subscriber_gets_every_figure_as_retained_and_the_changed_ones_later() {
    let mut world = World::new();
    let client = world.client(b'c');
    let first = world.ask(client, &SUBSCRIBE_SYS);
    let topics: std::collections::BTreeSet<&str> =
        first.iter().map(|(_, topic)| topic.as_str()).collect();
    assert_eq!(topics.len(), first.len(), "each once");
    assert!(first.iter().all(|(head, _)| *head == 0x31), "retained, at QoS 0: {first:?}");
    for topic in ["$SYS/broker/uptime", "$SYS/spillway/ring/messages"] {
        assert!(topics.contains(topic), "{topic}");
    }
    assert!(topics.contains("$SYS/spillway/bridge/up/up"));
    assert!(topics.contains("$SYS/spillway/bridge/up/quarantined"));
    assert_eq!(world.gateway.retained.len(), 0);
    world.wait(SYS_INTERVAL);
    let client_got = publishes(&world.drain(client, Vec::new()));
    assert!(client_got.iter().all(|(head, _)| *head == 0x30), "news: {client_got:?}");
    world.wait(SYS_INTERVAL);
    let news = publishes(&world.drain(client, Vec::new()));
    let has = |topic: &str| news.iter().any(|(_, at)| at == topic);
    assert!(has("$SYS/broker/uptime") && has("$SYS/broker/bytes/sent"), "{news:?}");
    assert!(!has("$SYS/broker/version") && !has("$SYS/broker/clients/total"), "{news:?}");
    assert_eq!(world.gateway.retained.len(), 0);
}

#[test]
fn figures_are_due_only_while_somebody_listens() {
    let mut world = World::new();
    let client = world.client(b'c');
    assert_eq!(world.gateway.tell_sys(world.now), Instant::NEVER);
    // Everything, but what begins with a dollar sign.
    assert_eq!(world.ask(client, &[0x82, 6, 0, 1, 0, 1, b'#', 0]), []);
    assert_eq!(world.gateway.tell_sys(world.now), Instant::NEVER);
    world.ask(client, &SUBSCRIBE_SYS);
    assert_eq!(world.gateway.tell_sys(world.now), world.now.plus(SYS_INTERVAL));
    world.lose(client);
    world.wait(SYS_INTERVAL);
    assert_eq!(world.gateway.tell_sys(world.now), Instant::NEVER);
    assert_eq!(world.gateway.queue.ring().0, 0, "nothing is kept for who is away");
    // The session is back, with its subscription.
    world.client_back(b'c');
    assert_eq!(world.gateway.tell_sys(world.now), world.now.plus(SYS_INTERVAL));
}

impl World {
    fn client_back(&mut self, name: u8) -> ConnId {
        let client = self.connect(name, 0);
        assert_eq!(self.sent(client)[..4], [0x20, 2, 1, 0]);
        client
    }
}

#[test]
fn what_a_client_publishes_there_is_acknowledged_and_goes_nowhere() {
    let mut world = World::new();
    let listener = world.client(b'd');
    world.ask(listener, &SUBSCRIBE_SYS);
    let client = world.client(b'c');
    let publishes_to: [&[u8]; 2] = [b"\x33\x0B\0\x06$SYS/x\0\x091", b"\x33\x09\0\x04$SYS\0\x091"];
    for publish in publishes_to {
        world.receive(client, publish);
        assert_eq!(world.sent(client), [0x40, 2, 0, 9]);
    }
    let sent = world.sent(listener);
    assert_eq!(publishes(&sent), []);
    assert_eq!((world.gateway.retained.len(), world.gateway.queue.counters.drops), (0, 2));
    // Not every dollar sign is ours.
    world.receive(client, b"\x33\x0C\0\x07$SYSTEM\0\x091");
    assert_eq!((world.gateway.retained.len(), world.gateway.queue.counters.drops), (1, 2));
}
