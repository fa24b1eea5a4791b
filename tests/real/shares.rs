//! Subscribers that take what they are sent and acknowledge nothing: what they hold is theirs, and
//! nobody else's QoS 1 waits for them.

use crate::common::client::{Client, Wire};
use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::wire::{Connect, Message};
use crate::common::{PATIENCE, wait_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A client that reads all that comes and says nothing to it.
struct Holder {
    taken: Arc<AtomicUsize>,
}

impl Holder {
    fn start(connect: &Connect, port: u16, filter: &str) -> Self {
        let Client { mut wire, .. } = {
            let mut client = connect.open(port);
            client.acknowledges = false;
            client.subscribe(&[(filter, 1)]);
            client
        };
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        thread::spawn(move || drain(&mut wire, &count));
        Self { taken }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

fn drain(wire: &mut Wire, count: &AtomicUsize) {
    // Ends with the connection.
    while wire.read(Duration::from_secs(60)).is_ok() {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Holders, each sent eight large messages of its own, and what a neighbour's small messages for an
/// idle remote meet meanwhile: the longest wait for a PUBACK.
fn beside_holders(configuration: &str, holders: usize, persistent: bool) -> (Gateway, Duration) {
    let remote = Mosquitto::start();
    let far = Collector::start(remote.port, "far", "up/#");
    let text = bridge("up", remote.port, &["forward.1.local_topic = up/#"]);
    let gateway = Gateway::start(&format!("{configuration}\n{text}"));
    gateway.wait("bridge_up");
    let all: Vec<Holder> = (0..holders)
        .map(|n| {
            let connect = Connect::v4(&format!("holder-{n}"));
            let connect = if persistent { connect.persistent() } else { connect };
            Holder::start(&connect, gateway.port, &format!("held/{n}"))
        })
        .collect();
    let port = gateway.port;
    let publisher = thread::spawn(move || {
        let mut client = Connect::v5("large").open(port);
        for round in 0..8 {
            for n in 0..holders {
                let large = Message::new(&format!("held/{n}"), vec![b'x'; 60_000]).qos(1);
                let code = client.publish(&large);
                // Nobody: its holder has as much as it may, or is closed.
                assert!([0, 0x10, 0x97].contains(&code), "round {round}: {code:#x}");
            }
        }
    });
    wait_until("a good part of the ring is held", || {
        all.iter().map(Holder::taken).sum::<usize>() >= 12
    });
    let mut client = Connect::v5("small").open(gateway.port);
    let mut longest = Duration::ZERO;
    let mut sent = 0;
    while !publisher.is_finished() || sent < 20 {
        let begun = Instant::now();
        assert_eq!(client.publish(&Message::new("up/n", sent.to_string()).qos(1)), 0);
        longest = longest.max(begun.elapsed());
        sent += 1;
    }
    publisher.join().expect("every message is answered");
    far.wait_count(sent);
    (gateway, longest)
}

#[test]
fn with_a_store_what_they_hold_leaves_the_ring() {
    for (holders, persistent) in [(12, false), (40, true)] {
        let (_gateway, longest) = beside_holders("", holders, persistent);
        assert!(longest < PATIENCE / 4, "{longest:?}");
    }
}

#[test]
fn without_a_store_they_lose_what_exceeds_their_share() {
    for (holders, persistent) in [(12, false), (40, true)] {
        let (gateway, longest) = beside_holders("store.path = none", holders, persistent);
        assert!(longest < PATIENCE / 4, "{longest:?}");
        gateway.wait_with("drop", &[("reason", "queue_full")]);
    }
}
