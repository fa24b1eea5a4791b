//! The links of a bridge, packet by packet: what a remote may say when, and what its CONNACK may
//! hold.

use super::*;
use crate::bridge::link::{State, Subscribed};
use crate::mqtt::{Packet, Version, decode};
use core::net::SocketAddr;

const PAIR: &str = "\
bridge.pair.server = mqtt://127.0.0.1:1,mqtt://127.0.0.1:2
bridge.pair.keepalive = 600s
bridge.pair.clientid = our-own
bridge.pair.forward.1.local_topic = out/#
bridge.pair.subscribe.1.remote_topic = in/#
";
const BRIDGE: BridgeId = BridgeId(1);

const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
const SUBACK: &[u8] = &[0x90, 4, 0xEA, 0x61, 0, 1];

/// One of every type, as a remote of MQTT 5 would write it.
const EVERY: [&[u8]; 16] = [
    &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0],
    CONNACK,
    &[0x30, 8, 0, 4, b'i', b'n', b'/', b'a', 0, b'x'],
    &[0x40, 2, 0, 1],
    &[0x50, 2, 0, 1],
    &[0x62, 2, 0, 1],
    &[0x70, 2, 0, 1],
    &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0],
    SUBACK,
    &[0xA2, 6, 0, 1, 0, 0, 1, b'a'],
    &[0xB0, 4, 0xFF, 0xFF, 0, 0],
    &[0xC0, 0],
    &[0xD0, 0],
    &[0xE0, 0],
    &[0xE0, 1, 0x8E],
    &[0xF0, 0],
];

impl World {
    fn actions(&mut self) -> Vec<Action> {
        core::iter::from_fn(|| self.gateway.poll_action()).collect()
    }

    /// Answers what the bridge wants to be looked up; the connection it then begins stands.
    fn dialled(&mut self, addr: &str) -> ConnId {
        let addr: SocketAddr = addr.parse().unwrap();
        let bridge = BRIDGE;
        self.gateway.handle(self.now, Event::Resolved { bridge, addrs: &[addr], reason: "" });
        let mut dials = self.actions().into_iter().filter_map(|action| match action {
            Action::Dial { conn, bridge: BRIDGE, .. } => Some(conn),
            _ => None,
        });
        let conn = dials.next_back().expect("it dials");
        self.gateway.handle(self.now, Event::Connected { conn });
        conn
    }

    /// A connection of the bridge that has just said CONNECT, and what that was.
    pub(super) fn greeting(&mut self, addr: &str) -> (ConnId, Vec<u8>) {
        while !matches!(self.gateway.link(BRIDGE).state, State::Resolving { .. }) {
            self.now = self.now.plus(Duration::from_secs(1));
            self.gateway.expire(self.now);
        }
        let conn = self.dialled(addr);
        let connect = self.sent(conn);
        assert!(matches!(decode(Version::V5, &connect), Ok(Packet::Connect(_))), "{connect:?}");
        (conn, connect)
    }

    pub(super) fn up(&mut self, addr: &str, connack: &[u8]) -> ConnId {
        let (conn, _) = self.greeting(addr);
        self.hear(conn, connack);
        assert!(self.gateway.link(BRIDGE).is_up());
        conn
    }

    pub(super) fn hear(&mut self, conn: ConnId, bytes: &[u8]) {
        self.gateway.receive(self.now, conn, &mut bytes.to_vec());
    }

    /// The link goes to the second server, and a connection to the first has said CONNECT.
    fn with_candidate() -> (Self, ConnId, ConnId) {
        Self::with_candidate_of(PAIR)
    }

    pub(super) fn with_candidate_of(pair: &str) -> (Self, ConnId, ConnId) {
        let mut world = Self::with(pair, 64);
        let (first, _) = world.greeting("127.0.0.1:1");
        world.gateway.link_mut(BRIDGE).heard = true;
        world.lose(first);
        let live = world.up("127.0.0.1:2", CONNACK);
        world.hear(live, SUBACK);
        let mut looked_up = false;
        while !looked_up {
            world.turn(live);
            for action in world.actions() {
                if let Action::Probe { bridge, .. } = action {
                    world.gateway.handle(world.now, Event::Probed { bridge, ok: true });
                }
            }
            looked_up = world.gateway.link(BRIDGE).candidate.is_some();
        }
        world.actions();
        let candidate = world.dialled("127.0.0.1:1");
        assert!(!world.sent(candidate).is_empty(), "CONNECT");
        (world, live, candidate)
    }

    pub(super) fn is_over(&self, conn: ConnId) -> bool {
        let roles = [Role::Closing, Role::Free];
        self.gateway.live(conn).is_none_or(|slot| roles.contains(&self.gateway.conn(slot).role))
    }

    /// All that says how the live link stands.
    fn standing(&self) -> String {
        let link = self.gateway.link(BRIDGE);
        let counts = (link.takeovers, link.acked, link.attempts, link.heard, link.version);
        let (state, subscribed) = (link.state, &link.subscribed);
        let asked = (link.ping_sent, &link.left, link.held_until, &link.client_id);
        format!("{state:?} {subscribed:?} {counts:?} {asked:?} {:?}", link.remote)
    }
}

#[test]
fn before_its_connack_a_remote_says_nothing_else() {
    for packet in EVERY.iter().filter(|packet| **packet != CONNACK) {
        let mut world = World::with(PAIR, 64);
        let (conn, _) = world.greeting("127.0.0.1:1");
        world.hear(conn, packet);
        assert!(!world.gateway.link(BRIDGE).is_up(), "{packet:?}");
        assert!(world.is_over(conn), "{packet:?} does not end it");
    }
}

#[test]
fn nothing_a_candidate_says_before_its_connack_touches_the_link_that_is_up() {
    for packet in EVERY.iter().filter(|packet| **packet != CONNACK) {
        let (mut world, live, candidate) = World::with_candidate();
        let link = world.gateway.link_mut(BRIDGE);
        link.ping_sent = Some(world.now);
        link.subscribed[0] = Subscribed::Asked;
        let before = world.standing();
        world.hear(candidate, packet);
        assert_eq!(world.standing(), before, "{packet:?}");
        assert!(world.gateway.link(BRIDGE).candidate.is_none(), "{packet:?} does not end it");
        assert!(world.is_over(candidate), "{packet:?}");
        assert!(!world.is_over(live));
    }
    let (mut world, live, candidate) = World::with_candidate();
    world.hear(candidate, CONNACK);
    assert_eq!(world.gateway.link(BRIDGE).state, State::Up { conn: candidate });
    assert!(world.is_over(live));
}

#[test]
fn once_up_a_remote_says_what_a_server_may_and_answers_what_was_asked() {
    // PUBLISH, the acknowledgements and PINGRESP.
    let taken = [0x30, 0x40, 0x50, 0x62, 0x70, 0xD0];
    for packet in EVERY {
        let mut world = World::with(PAIR, 64);
        let conn = world.up("127.0.0.1:1", CONNACK);
        world.hear(conn, SUBACK);
        assert_eq!(world.gateway.link(BRIDGE).subscribed[0], Subscribed::Granted);
        world.hear(conn, packet);
        let stays = taken.contains(&packet[0]);
        assert_eq!(world.gateway.link(BRIDGE).is_up(), stays, "{packet:?}");
    }
}

#[test]
fn a_suback_that_answers_no_subscribe_of_ours_filter_by_filter_ends_the_connection() {
    let wrong: [&[u8]; 4] = [
        &[0x90, 4, 0xEA, 0x62, 0, 1],
        &[0x90, 4, 0, 1, 0, 1],
        &[0x90, 5, 0xEA, 0x61, 0, 1, 1],
        &[0x90, 4, 0xFF, 0xFF, 0, 1],
    ];
    for suback in wrong {
        let mut world = World::with(PAIR, 64);
        let conn = world.up("127.0.0.1:1", CONNACK);
        world.hear(conn, suback);
        assert!(!world.gateway.link(BRIDGE).is_up(), "{suback:?}");
    }
    let mut world = World::with(PAIR, 64);
    let conn = world.up("127.0.0.1:1", CONNACK);
    world.hear(conn, &[0x90, 4, 0xEA, 0x61, 0, 0x87]);
    assert!(world.gateway.link(BRIDGE).is_up(), "a refusal is an answer");
    assert!(matches!(world.gateway.link(BRIDGE).subscribed[0], Subscribed::Due { .. }));
}

/// A variable byte integer.
fn variable(out: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        out.push(u8::try_from(value % 128).unwrap() | 0x80);
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A CONNACK of MQTT 5 with these properties.
fn connack(properties: &[u8]) -> Vec<u8> {
    let mut head = vec![0, 0];
    variable(&mut head, properties.len());
    let mut packet = vec![0x20];
    variable(&mut packet, head.len() + properties.len());
    packet.extend(head);
    packet.extend(properties);
    packet
}

/// A property that holds a string of so many bytes.
fn long(id: u8, bytes: u16) -> Vec<u8> {
    let [high, low] = bytes.to_be_bytes();
    let mut property = vec![id, high, low];
    property.resize(3 + usize::from(bytes), b'x');
    property
}

#[test]
fn whatever_a_connack_holds_the_next_connect_is_the_same() {
    const ASSIGNED: u8 = 0x12;
    let users: Vec<u8> = (0..1000).flat_map(|_| b"\x26\0\x01k\0\x01v".to_vec()).collect();
    let holds = [
        long(ASSIGNED, 5),
        long(ASSIGNED, 1500),
        long(ASSIGNED, 60_000),
        long(0x1F, 60_000),
        long(0x1A, 60_000),
        long(0x1C, 60_000),
        long(0x15, 60_000),
        users,
    ];
    for properties in holds {
        let mut world = World::with(&format!("limit.packet_size = 64KiB\n{PAIR}"), 64);
        let mut connects = Vec::new();
        for server in ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"] {
            let (conn, mut connect) = world.greeting(server);
            // Whether it wants a clean session may differ, nothing else.
            connect[9] &= !0x02;
            connects.push(connect);
            world.hear(conn, &connack(&properties));
            let state = world.gateway.link(BRIDGE).state;
            assert_eq!(
                state,
                State::Up { conn },
                "{:#x} {}",
                properties[0],
                world.gateway.link(BRIDGE).reason
            );
            world.lose(conn);
        }
        assert!(connects.iter().all(|connect| *connect == connects[0]), "{:#x}", properties[0]);
        assert!(connects[0].windows(7).any(|seven| seven == b"our-own"));
    }
}

#[test]
fn the_largest_connect_that_can_be_configured_has_room() {
    let long = |bytes: usize| "x".repeat(bytes);
    let (id, secret, topic) = (long(256), long(4096), long(256));
    let wills = [
        format!("will.topic = {topic}\nbridge.big.will.payload = {}", long(1000)),
        format!("notify_topic = {topic}"),
    ];
    for will in wills {
        let text = format!(
            "bridge.big.server = mqtt://h\nbridge.big.clientid = {id}\n\
             bridge.big.username = {secret}\nbridge.big.password = {secret}\nbridge.big.{will}\n"
        );
        let mut world = World::with(&text, 64);
        world.gateway.expire(world.now);
        let addrs: [SocketAddr; 1] = ["127.0.0.1:1".parse().unwrap()];
        let event = Event::Resolved { bridge: BRIDGE, addrs: &addrs, reason: "" };
        world.gateway.handle(world.now, event);
        let slot = world.gateway.link(BRIDGE).conn().expect("it dials").slot;
        let id = world.gateway.conn(slot).id(slot);
        world.gateway.handle(world.now, Event::Connected { conn: id });
        let mut out = vec![0; 20_000];
        let bytes = world.gateway.transmit(world.now, id, &mut out);
        assert!(matches!(decode(Version::V5, &out[..bytes]), Ok(Packet::Connect(_))), "{bytes}");
    }
}

/// Who is sent a message of this QoS, over a link or as a subscriber of 3.1.1, with its identifier.
fn sent(world: &mut World, link: bool, qos: u8) -> (ConnId, [u8; 2]) {
    let receiver = if link {
        world.up("127.0.0.1:1", CONNACK)
    } else {
        let subscriber = world.client(b'd');
        world.receive(subscriber, &[0x82, 10, 0, 1, 0, 5, b'o', b'u', b't', b'/', b'a', 2]);
        subscriber
    };
    world.turn(receiver);
    let publisher = world.client(b'c');
    let publish = [0x30 | qos << 1, 10, 0, 5, b'o', b'u', b't', b'/', b'a', 0, 9, b'x'];
    world.receive(publisher, &publish);
    let mut bytes = world.sent(receiver);
    while bytes.is_empty() {
        bytes = world.turn(receiver);
    }
    assert_eq!(bytes[0], publish[0], "{bytes:?}");
    (receiver, [bytes[9], bytes[10]])
}

#[test]
fn an_answer_of_the_wrong_kind_for_an_open_exchange_ends_the_connection() {
    const PUBACK: u8 = 0x40;
    const PUBREC: u8 = 0x50;
    const PUBCOMP: u8 = 0x70;
    // QoS, what was answered before, whether PUBREL was sent then, what may come next.
    let table: [(u8, &[u8], bool, &[u8]); 4] = [
        (1, &[], false, &[PUBACK]),
        (2, &[], false, &[PUBREC]),
        (2, &[PUBREC], false, &[PUBREC]),
        (2, &[PUBREC], true, &[PUBREC, PUBCOMP]),
    ];
    for link in [true, false] {
        for (qos, before, released, right) in table {
            for answer in [PUBACK, PUBREC, PUBCOMP] {
                let mut world = World::with(PAIR, 64);
                let (receiver, [high, low]) = sent(&mut world, link, qos);
                for kind in before {
                    world.receive(receiver, &[*kind, 2, high, low]);
                }
                if released {
                    assert_eq!(world.turn(receiver), [0x62, 2, high, low]);
                }
                world.hear(receiver, &[answer, 2, high, low]);
                let over = !right.contains(&answer);
                assert_eq!(world.is_over(receiver), over, "{link} {qos} {before:?} {answer:#x}");
                if over && link {
                    let last = world.sent(receiver);
                    assert_eq!((last[0], last[2]), (0xE0, 0x82));
                }
            }
        }
    }
}

#[test]
fn an_answer_to_what_was_sent_over_the_connection_before_is_none_of_the_wrong_kind() {
    let mut world = World::with(&PAIR.replace(",mqtt://127.0.0.1:2", ""), 64);
    let (first, [high, low]) = sent(&mut world, true, 2);
    world.lose(first);
    let present: &[u8] = &[0x20, 3, 1, 0, 0];
    let conn = world.up("127.0.0.1:1", present);
    // Before the PUBLISH has gone out again.
    world.hear(conn, &[0x50, 2, high, low]);
    assert!(!world.is_over(conn));
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == [0x62, 2, high, low]) {
        bytes.extend(world.turn(conn));
    }
    world.lose(conn);
    let conn = world.up("127.0.0.1:1", present);
    // Nor has PUBREL, that was sent before.
    world.hear(conn, &[0x70, 2, high, low]);
    assert!(!world.is_over(conn));
}

#[test]
fn a_pubrel_before_its_pubrec_is_none() {
    let mut world = World::with(PAIR, 64);
    let conn = world.up("127.0.0.1:1", CONNACK);
    world.hear(conn, SUBACK);
    for (qos, id) in [(1, 7), (2, 8)] {
        let mut world = World::with(PAIR, 64);
        let conn = world.up("127.0.0.1:1", CONNACK);
        world.hear(conn, &[0x30 | qos << 1, 8, 0, 4, b'i', b'n', b'/', b'a', 0, id, 0]);
        world.hear(conn, &[0x62, 2, 0, id]);
        assert!(world.is_over(conn), "{qos}");
    }
    world.hear(conn, &[0x62, 2, 0, 9]);
    assert!(!world.is_over(conn), "an identifier nobody knows");
}
