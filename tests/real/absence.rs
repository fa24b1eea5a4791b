//! The gateway was away (stopped, or the machine had no time for it): what came in meanwhile is
//! read before anybody is called dead. The clock jumps while it is stopped, as if it had been a
//! minute or more.

use crate::common::faults::Faults;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::stub::{Seen, Stub};
use crate::common::wire::{self, Connect, Message, PINGREQ, PUBACK, Packet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// More than the gateway reads from all clients in one turn.
const FLOOD_BYTES: usize = 100 * 1024;

fn flood() -> Vec<u8> {
    let one = Message::new("flood", [b'x'; 1000]).bytes(4);
    one.repeat(FLOOD_BYTES / one.len())
}

/// The gateway stops, `meanwhile` happens, and `span` has passed when it goes on.
fn away(gateway: &Gateway, faults: &Faults, span: Duration, meanwhile: impl FnOnce()) {
    gateway.process().freeze();
    meanwhile();
    faults.step_monotonic(span);
    gateway.process().signal(libc::SIGCONT);
}

#[test]
fn clients_whose_pings_lie_unread_stay_connected() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    gateway.run();
    let mut busy: Vec<_> =
        (0..6).map(|n| Connect::v4(&format!("busy-{n}")).open(gateway.port)).collect();
    let mut quiet: Vec<_> = (0..20)
        .map(|n| Connect::v4(&format!("quiet-{n}")).keepalive(10).open(gateway.port))
        .collect();
    let flood = flood();
    for _ in 0..3 {
        away(&gateway, &faults, Duration::from_secs(60), || {
            busy.iter_mut().for_each(|client| client.send(&flood));
            quiet.iter_mut().for_each(|client| client.send(&PINGREQ));
        });
        for client in &mut quiet {
            client.wait("PINGRESP", |packet| matches!(packet, Packet::Pingresp).then_some(()));
        }
        busy.iter_mut().for_each(crate::common::client::Client::ping);
    }
    gateway.wait("stall");
}

#[test]
fn a_client_that_was_silent_meanwhile_is_closed() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    gateway.run();
    let mut silent = Connect::v4("silent").keepalive(10).open(gateway.port);
    away(&gateway, &faults, Duration::from_secs(60), || ());
    gateway.wait_with("client_disconnected", &[("reason", "keepalive_timeout")]);
    silent.wait_closed();
}

#[test]
fn a_real_stop_longer_than_the_keepalive_costs_no_connection() {
    let remote = Mosquitto::start();
    let rules = ["forward.1.local_topic = #", "keepalive = 5s"];
    let gateway = Gateway::start(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").keepalive(1).open(gateway.port);
    gateway.process().freeze();
    client.send(&PINGREQ);
    // Real time is what this is about: 1 s × 3/2 is over, the remote's 5 s × 3/2 are not.
    std::thread::sleep(Duration::from_millis(2500));
    gateway.process().signal(libc::SIGCONT);
    client.wait("PINGRESP", |packet| matches!(packet, Packet::Pingresp).then_some(()));
    client.publish(&Message::new("a", "1").qos(1));
    assert_eq!(gateway.events().iter().filter(|event| event.name == "bridge_down").count(), 0);
}

#[test]
fn acknowledgements_and_pingresps_of_a_remote_that_lie_unread_count() {
    let phase = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&phase);
    let stub = Stub::start(move |session, _| {
        session.greet(false, 0, &[])?;
        loop {
            let packet = session.read()?;
            if let Packet::Publish(message) = &packet
                && message.topic == "held"
            {
                // Not before the gateway has stopped; and behind much else.
                while shared.load(Ordering::Relaxed) == 0 {
                    std::thread::yield_now();
                }
                let one = Message::new("in", [b'x'; 1000]).bytes(5);
                session.send(&one.repeat(FLOOD_BYTES / one.len()))?;
                session.send(&wire::ack(PUBACK, message.id))?;
                shared.store(2, Ordering::Relaxed);
                continue;
            }
            session.answer(&packet)?;
        }
    });
    let rules = [
        "forward.1.local_topic = held",
        "subscribe.1.remote_topic = in",
        "keepalive = 10s",
        "ack_timeout = 20s",
    ];
    let mut gateway = Gateway::prepare(&bridge("up", stub.port, &rules));
    let faults = gateway.with_faults();
    gateway.run();
    gateway.wait("bridge_up");
    let mut busy: Vec<_> =
        (0..6).map(|n| Connect::v4(&format!("busy-{n}")).open(gateway.port)).collect();
    let mut client = Connect::v4("client").open(gateway.port);
    let id = client.publish_without_waiting(&Message::new("held", "1").qos(1));
    stub.wait_published(1);
    let flood = flood();
    away(&gateway, &faults, Duration::from_secs(60), || {
        busy.iter_mut().for_each(|client| client.send(&flood));
        phase.store(1, Ordering::Relaxed);
        crate::common::wait_until("the remote has answered", || phase.load(Ordering::Relaxed) == 2);
    });
    client.wait_ack(PUBACK, id);
    busy.iter_mut().for_each(crate::common::client::Client::ping);
    client.publish(&Message::new("elsewhere", "1").qos(1));
    assert_eq!(gateway.events().iter().filter(|event| event.name == "bridge_down").count(), 0);
    assert!(!stub.seen().iter().any(|seen| matches!(seen, Seen::End)));
}
