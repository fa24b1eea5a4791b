//! The faults the tests inject are real ones: what a test of a bad disk or a wrong clock rests on.

use crate::common::faults::Calls;
use crate::common::gateway::Gateway;
use crate::common::wire::{Connect, Message};
use std::time::{Duration, Instant};

/// A persistent session that is away: what is published for it has to be committed.
fn with_an_absent_session(gateway: &Gateway) {
    let mut away = Connect::v4("away").persistent().open(gateway.port);
    assert_eq!(away.subscribe(&[("#", 1)]), [1]);
    away.disconnect();
}

#[test]
fn a_sync_can_be_made_slow_while_it_runs() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    gateway.run();
    with_an_absent_session(&gateway);
    let mut publisher = Connect::v4("p").open(gateway.port);
    let syncs = faults.calls(Calls::Sync);
    let delay = Duration::from_millis(300);
    faults.delay(Calls::Sync, delay);
    let asked = Instant::now();
    publisher.publish(&Message::new("a", "1").qos(1));
    // The one time that may be asserted: an answer cannot come before the sync it waits for.
    assert!(asked.elapsed() >= delay, "{:?}", asked.elapsed());
    assert!(faults.calls(Calls::Sync) > syncs);
}

#[test]
fn writes_can_be_made_to_fail_while_it_runs() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    gateway.run();
    with_an_absent_session(&gateway);
    let mut publisher = Connect::v4("p").open(gateway.port);
    faults.fail(Calls::Write, libc::EIO);
    let id = publisher.publish_without_waiting(&Message::new("a", "1").qos(1));
    gateway.wait("store_error");
    assert!(faults.failed(Calls::Write) > 0);
    faults.heal();
    publisher.wait_ack(crate::common::wire::PUBACK, id);
}

#[test]
fn the_wall_clock_can_be_anywhere_from_the_start() {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    faults.set_wall(0);
    gateway.run();
    let starting = gateway.wait("starting");
    assert!(starting.line.starts_with("1970-01-01T00:00:"), "{}", starting.line);
    let mark = gateway.mark();
    faults.set_wall(4_102_444_800);
    let later = gateway.wait_event(mark, "2100", |event| event.line.starts_with("2100-01-01T"));
    assert!(!later.line.is_empty());
}
