//! Two servers: the second one while the first is away, and back without losing a working link.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, bridge_to};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::{Seen, Stub};
use crate::common::wire::{Connect, Message, Packet};
use std::time::Duration;

const RULE: &str = "forward.1.local_topic = #";

/// The contract's 30 s of answering and what a slow machine adds.
const HOLD_DOWN: Duration = Duration::from_secs(90);

fn servers(first: u16, second: u16) -> String {
    format!("mqtt://127.0.0.1:{first}, mqtt://127.0.0.1:{second}")
}

fn server(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[test]
fn a_dead_primary_is_replaced_and_taken_back_when_it_has_proved_itself() {
    let (primary, secondary) = (Mosquitto::start(), Mosquitto::start());
    let link = Proxy::start(primary.port);
    let at_primary = Collector::start(primary.port, "far", "t");
    let at_secondary = Collector::start(secondary.port, "far", "t");
    let both = servers(link.port, secondary.port);
    let rules = ["forward.1.local_topic = t", "notify_topic = n"];
    let gateway = Gateway::start(&bridge_to("up", &both, &rules));
    gateway.wait_with("bridge_up", &[("server", &server(link.port))]);
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish(&Message::new("t", "one").qos(1));
    at_primary.wait_count(1);
    let mut watch = Connect::v4("watch").open(secondary.port);
    watch.subscribe(&[("n", 1)]);

    link.set(Mode::Refuse);
    gateway.wait_with("bridge_up", &[("server", &server(secondary.port))]);
    client.publish(&Message::new("t", "two").qos(1));
    at_secondary.wait_count(1);
    assert_eq!(watch.next().text(), "1");

    let mark = gateway.mark();
    link.set(Mode::Pass);
    let back = gateway.process().log.wait(mark, HOLD_DOWN, |line| {
        (line.contains("event=bridge_up") && line.contains(&server(link.port))).then_some(())
    });
    assert!(back.is_some(), "never back at the primary");
    client.publish(&Message::new("t", "three").qos(2));
    at_primary.wait_count(2);
    let texts = |collector: &Collector| -> Vec<String> {
        collector.messages().iter().map(Message::text).collect()
    };
    assert_eq!(texts(&at_primary), ["one", "three"]);
    assert_eq!(texts(&at_secondary), ["two"]);
    assert_eq!(watch.next().text(), "0", "the one that was left knows it");
}

#[test]
fn a_working_secondary_is_not_left_for_a_primary_that_only_answers_tcp() {
    // Accepts, reads, never says CONNACK.
    let primary = Stub::start(|session, _| {
        loop {
            session.read()?;
        }
    });
    let secondary = Mosquitto::start();
    let far = Collector::start(secondary.port, "far", "#");
    let both = servers(primary.port, secondary.port);
    let gateway = Gateway::start(&bridge_to("up", &both, &[RULE, "connect_timeout = 1s"]));
    gateway.wait_with("bridge_up", &[("server", &server(secondary.port))]);
    let mark = gateway.mark();
    let before = primary.connects().len();
    let mut client = Connect::v4("client").open(gateway.port);
    let mut sent = 0;
    // Past the attempt to come back: its CONNECT has been seen and its connection has ended.
    let attempt_over = |seen: &[Seen]| {
        let connects = seen.iter().filter(|s| matches!(s, Seen::Connect(_))).count();
        connects > before && matches!(seen.last(), Some(Seen::End))
    };
    let deadline = std::time::Instant::now() + HOLD_DOWN;
    while !attempt_over(&primary.seen()) {
        assert!(std::time::Instant::now() < deadline, "the primary was never tried");
        client.publish(&Message::new("t", sent.to_string()).qos(1));
        sent += 1;
        far.wait_count(sent);
        std::thread::sleep(Duration::from_millis(50));
    }
    client.publish(&Message::new("t", sent.to_string()).qos(1));
    assert_eq!(far.wait_all_in_order(sent + 1), 0);
    let since = gateway.events().into_iter().filter(|event| event.name == "bridge_down").count();
    let earlier =
        gateway.lines()[..mark].iter().filter(|l| l.contains("event=bridge_down")).count();
    assert_eq!(since, earlier, "the secondary was left");
}

#[test]
fn a_backlog_goes_to_whichever_server_comes_up_first() {
    let (primary, secondary) = (Mosquitto::start(), Mosquitto::start());
    let first = Proxy::start_in(Mode::Refuse, primary.port);
    let second = Proxy::start_in(Mode::Refuse, secondary.port);
    let far = Collector::start(secondary.port, "far", "#");
    let both = servers(first.port, second.port);
    let gateway = Gateway::start(&bridge_to("up", &both, &[RULE]));
    Publisher::numbered("publisher", "n", 2, 500).run(gateway.port);
    second.set(Mode::Pass);
    assert_eq!(far.wait_all_in_order(500), 0);
}

#[test]
fn round_robin_goes_on_to_the_next_server() {
    let close = |session: &mut crate::common::stub::Session, _| {
        session.greet(false, 0, &[])?;
        loop {
            match session.read()? {
                Packet::Publish(_) => return Ok(()),
                packet => session.answer(&packet)?,
            }
        }
    };
    let (one, two) = (Stub::start(close), Stub::start(close));
    let both = servers(one.port, two.port);
    let rules = [RULE, "server_policy = round_robin"];
    let gateway = Gateway::start(&bridge_to("up", &both, &rules));
    gateway.wait("bridge_up");
    let mut client = Connect::v4("client").open(gateway.port);
    client.publish(&Message::new("t", "x").qos(1));
    for (name, stub) in [("one", &one), ("two", &two)] {
        stub.wait(&format!("a publish at {name}"), |seen| {
            seen.iter().any(|s| matches!(s, Seen::Publish(_)))
        });
    }
}
