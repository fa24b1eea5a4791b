//! Killed or cut at every step: on each hop of a message (client to gateway, gateway to remote,
//! remote to gateway, gateway to a local session) the gateway is killed, or the link is cut, before
//! and after each packet of the exchange. Everything that was accepted arrives, in order; at QoS 2
//! once.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::numbered;
use crate::common::publisher::Publisher;
use crate::common::turnstile::{Side, Stop, Turnstile, When};
use crate::common::wire::{Connect, Message, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL};
use std::thread;

/// Messages of one case, and how many of them are unacknowledged at a time.
const BATCH: usize = 10;
const WINDOW: usize = 6;

/// The hop at which something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    ClientToGateway,
    GatewayToRemote,
    RemoteToGateway,
    GatewayToSession,
}

impl Hop {
    /// Who publishes, as the turnstile of this hop sees it.
    fn sender(self) -> Side {
        match self {
            Self::ClientToGateway | Self::GatewayToRemote => Side::Near,
            Self::RemoteToGateway | Self::GatewayToSession => Side::Far,
        }
    }
}

impl Hop {
    /// What may be unacknowledged on this hop.
    fn window(self) -> usize {
        match self {
            Self::ClientToGateway | Self::GatewayToRemote => WINDOW,
            // The Receive Maximum that the gateway announces, at least; the subscriber's own.
            Self::RemoteToGateway | Self::GatewayToSession => 16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Cut,
}

/// Everything between a publisher and a subscriber, with one turnstile on each side of the gateway.
struct Rig {
    hop: Hop,
    level: u8,
    remote: Mosquitto,
    gateway: Gateway,
    near: Turnstile,
    far: Turnstile,
    collector: Collector,
    sent: usize,
    duplicates: usize,
}

impl Rig {
    fn start(hop: Hop, level: u8) -> Self {
        let remote = Mosquitto::start();
        let far = Turnstile::start(remote.port);
        let rules = [
            format!("proto_ver = {level}"),
            "backoff_min = 10ms".to_owned(),
            "backoff_max = 50ms".to_owned(),
            format!("max_inflight = {WINDOW}"),
            "forward.1.local_topic = up/#".to_owned(),
            "subscribe.1.remote_topic = down/#".to_owned(),
            "subscribe.1.qos = 2".to_owned(),
        ];
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let gateway = Gateway::start(&format!(
            "store.flush_after = 20ms\nlimit.inflight = 16\n{}",
            bridge("up", far.port, &rules)
        ));
        gateway.wait("bridge_up");
        let near = Turnstile::start(gateway.port);
        let (port, filter) = match hop {
            Hop::ClientToGateway | Hop::GatewayToRemote => (remote.port, "up/#"),
            Hop::RemoteToGateway => (gateway.port, "down/#"),
            Hop::GatewayToSession => (near.port, "local/#"),
        };
        let subscriber = Connect::new(level, "subscriber").persistent();
        let collector = Collector::start_with(port, subscriber, filter, 2);
        // The bridge's own subscription is granted before anything is published there.
        remote.wait_line("SUBACK");
        Self { hop, level, remote, gateway, near, far, collector, sent: 0, duplicates: 0 }
    }

    fn turnstile(&self) -> &Turnstile {
        match self.hop {
            Hop::ClientToGateway | Hop::GatewayToSession => &self.near,
            Hop::GatewayToRemote | Hop::RemoteToGateway => &self.far,
        }
    }

    /// Will publish the next `count` numbers.
    fn publisher(&self, qos: u8, count: usize) -> Publisher {
        let topic = match self.hop {
            Hop::ClientToGateway | Hop::GatewayToRemote => "up/t",
            Hop::RemoteToGateway => "down/t",
            Hop::GatewayToSession => "local/t",
        };
        let plan =
            (self.sent..self.sent + count).map(|n| Message::new(topic, numbered(n)).qos(qos));
        let connect = Connect::new(self.level, "publisher").persistent();
        Publisher::new(connect, WINDOW, plan.collect()).resuming()
    }

    fn publish_port(&self) -> u16 {
        match self.hop {
            Hop::ClientToGateway => self.near.port,
            Hop::GatewayToRemote | Hop::GatewayToSession => self.gateway.port,
            Hop::RemoteToGateway => self.remote.port,
        }
    }

    /// Publishes a batch, does `fault` where `stop` says, and waits until all have arrived.
    fn case(&mut self, qos: u8, stop: Stop, fault: Fault) {
        let what = format!("{:?} {} qos {qos} {stop:?} {fault:?}", self.hop, self.level);
        println!("{what}");
        self.turnstile().arm(stop);
        let (mut publisher, port) = (self.publisher(qos, BATCH), self.publish_port());
        let publishing = thread::spawn(move || publisher.persist(port));
        self.turnstile().wait_reached();
        if fault == Fault::Kill {
            self.gateway.kill();
        }
        self.turnstile().cut();
        if fault == Fault::Kill {
            // The other side of the gateway went with it.
            self.near.cut();
            self.far.cut();
            self.gateway.run();
        }
        publishing.join().unwrap_or_else(|_| panic!("{what}: the publisher"));
        self.sent += BATCH;
        self.collector.wait_all_in_order(self.sent);
        self.turnstile().wait_idle(self.hop.sender());
        // What comes again comes before what is new: with one more it is all there.
        self.publisher(qos, 1).run(self.publish_port());
        self.sent += 1;
        let duplicates = self.collector.wait_all_in_order(self.sent);
        let fresh = duplicates - self.duplicates;
        // A kill is the end of both hops at once, and of what was settled and not noted yet.
        let most = match (qos, fault) {
            (2, _) => 0,
            (_, Fault::Cut) => self.hop.window(),
            (_, Fault::Kill) => 2 * WINDOW + self.hop.window(),
        };
        assert!(fresh <= most, "{what}: {fresh} duplicates");
        self.duplicates = duplicates;
        self.turnstile().wait_idle(self.hop.sender());
    }

    /// Every step of an exchange, both faults; the first packet of its kind and one in the middle
    /// of a full window.
    fn all_steps(mut self, qos: u8) {
        let sender = self.hop.sender();
        let steps: &[(Side, u8)] = match qos {
            1 => &[(sender, PUBLISH), (sender.other(), PUBACK)],
            _ => &[
                (sender, PUBLISH),
                (sender.other(), PUBREC),
                (sender, PUBREL),
                (sender.other(), PUBCOMP),
            ],
        };
        for &(from, kind) in steps {
            for when in [When::Before, When::After] {
                for nth in [1, 4] {
                    self.case(qos, Stop { from, kind, nth, when }, Fault::Kill);
                    self.case(qos, Stop { from, kind, nth, when }, Fault::Cut);
                }
            }
        }
        assert_eq!(self.gateway.stop().number("lost"), 0);
    }
}

#[test]
fn qos_2_from_a_client_is_taken_once_whatever_happens_at_any_step() {
    for level in [4, 5] {
        Rig::start(Hop::ClientToGateway, level).all_steps(2);
    }
}

#[test]
fn qos_2_to_the_remote_arrives_once_whatever_happens_at_any_step() {
    for level in [4, 5] {
        Rig::start(Hop::GatewayToRemote, level).all_steps(2);
    }
}

#[test]
fn qos_2_from_the_remote_is_taken_once_whatever_happens_at_any_step() {
    for level in [4, 5] {
        Rig::start(Hop::RemoteToGateway, level).all_steps(2);
    }
}

#[test]
fn qos_2_to_a_session_arrives_once_whatever_happens_at_any_step() {
    for level in [4, 5] {
        Rig::start(Hop::GatewayToSession, level).all_steps(2);
    }
}

#[test]
fn qos_1_arrives_with_at_most_a_window_of_duplicates_whatever_happens_at_any_step() {
    let hops =
        [Hop::ClientToGateway, Hop::GatewayToRemote, Hop::RemoteToGateway, Hop::GatewayToSession];
    for level in [4, 5] {
        for hop in hops {
            Rig::start(hop, level).all_steps(1);
        }
    }
}
