//! Clocks that are wrong: steps of ten years either way, a start in 1970, times past 2038 and past
//! 2106, while it runs and over restarts. Nobody is disconnected, nothing expires early, nothing
//! crashes; and where time can be known it counts.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::faults::Faults;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{Connect, Message, Property, find, four_bytes};
use std::time::Duration;

const YEAR: i64 = 365 * 86_400;
const BELIEVED: i64 = 1_790_000_000;
const ENDS_32_SIGNED: i64 = 1 << 31;
const ENDS_32: i64 = 1 << 32;
const MESSAGE_EXPIRY: u8 = 0x02;
const HOUR: u32 = 3600;

fn expiry(seconds: u32) -> Property {
    (MESSAGE_EXPIRY, seconds.to_be_bytes().to_vec())
}

fn seconds_left(message: &Message) -> u32 {
    four_bytes(find(&message.properties, MESSAGE_EXPIRY).expect("its expiry comes along"))
}

fn session() -> Connect {
    Connect::v5("session").persistent()
}

/// A gateway with a session that is away and a bridge whose remote is never there.
fn away(seconds: i64) -> (Gateway, Faults) {
    let rules = ["forward.1.local_topic = m", "forward.1.max_age = 1h"];
    let mut gateway = Gateway::prepare(&bridge("gone", 1, &rules));
    let faults = gateway.with_faults();
    faults.set_boot_id("00000000-0000-0000-0000-000000000001");
    faults.set_wall(seconds);
    gateway.run();
    let mut client = session().open(gateway.port);
    client.subscribe(&[("m", 1)]);
    client.disconnect();
    (gateway, faults)
}

fn publish(gateway: &Gateway, text: &str, seconds: u32) {
    let mut client = Connect::v5("publisher").open(gateway.port);
    let message = Message::new("m", text).qos(1).property(expiry(seconds));
    assert_eq!(client.publish(&message), 0);
    let retained = Message::new("retained", text).qos(1).retained().property(expiry(seconds));
    assert!(client.publish(&retained) < 0x80);
    client.disconnect();
}

fn retained(gateway: &Gateway) -> Option<Message> {
    let mut client = Connect::v5("looker").open(gateway.port);
    client.subscribe(&[("retained", 1), ("end", 1)]);
    client.publish(&Message::new("end", "end").qos(1));
    client.until("end").pop()
}

/// The session comes back, takes what waits for it and leaves again.
fn waiting(gateway: &Gateway) -> Vec<Message> {
    let mut client = session().open(gateway.port);
    assert!(client.connack.session_present, "the session is kept");
    client.publish(&Message::new("m", "end").qos(1));
    let messages = client.until("end");
    client.ping();
    client.disconnect();
    messages
}

#[test]
fn steps_while_it_runs_disconnect_nobody_and_expire_nothing() {
    let remote = Mosquitto::start();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "#");
    let live = bridge("live", remote.port, &["forward.1.local_topic = live", "keepalive = 5s"]);
    let rules = ["forward.1.local_topic = m", "forward.1.max_age = 1h"];
    let mut gateway = Gateway::prepare(&(live + &bridge("cut", link.port, &rules)));
    let faults = gateway.with_faults();
    faults.set_wall(BELIEVED);
    gateway.run();
    gateway.wait_with("bridge_up", &[("bridge", "live")]);
    session().open(gateway.port).subscribe(&[("m", 1)]);
    let mut client = Connect::v4("client").keepalive(2).open(gateway.port);
    let steps = [
        BELIEVED,
        BELIEVED + 10 * YEAR,
        BELIEVED - 10 * YEAR,
        0,
        ENDS_32_SIGNED - 1,
        ENDS_32_SIGNED + 10,
        ENDS_32 - 1,
        ENDS_32 + 10,
        BELIEVED,
    ];
    for (n, wall) in steps.into_iter().enumerate() {
        faults.set_wall(wall);
        client.ping();
        publish(&gateway, &n.to_string(), HOUR);
        client.publish(&Message::new("live", "1").qos(2));
        far.wait_count(n + 1);
    }
    link.set(Mode::Pass);
    far.wait_count(2 * steps.len());
    let held = waiting(&gateway);
    assert_eq!(held.len(), steps.len());
    assert!(held.iter().all(|message| seconds_left(message) > HOUR - 600), "{held:?}");
    assert!(seconds_left(&retained(&gateway).expect("it is kept")) > HOUR - 600);
    client.ping();
    let events = gateway.events();
    let count = |name: &str, with: &[(&str, &str)]| {
        events.iter().filter(|event| event.is(name, with)).count()
    };
    assert_eq!(count("client_disconnected", &[("reason", "keepalive_timeout")]), 0);
    assert_eq!(count("bridge_up", &[("bridge", "live")]), 1);
    assert_eq!(count("drop", &[]), 0);
    // The first step is told at once, the others at most once a minute.
    let jump = gateway.wait("clock_jump");
    let step = i64::try_from(jump.number("to_s") - jump.number("from_s")).expect("it fits");
    assert!((step - 10 * YEAR).abs() < 600, "{}", jump.line);
    assert_eq!(gateway.stop().number("lost"), 0);
}

#[test]
fn nothing_expires_early_whatever_the_clock_says_after_a_restart() {
    let cases = [
        (BELIEVED, BELIEVED + 10 * YEAR),
        (BELIEVED, BELIEVED - 10 * YEAR),
        (BELIEVED, 0),
        (0, BELIEVED),
        (0, 0),
        (BELIEVED, ENDS_32_SIGNED + 10),
        (ENDS_32_SIGNED - 60, ENDS_32_SIGNED + 60),
        (ENDS_32 - 60, ENDS_32 + 60),
        (ENDS_32 + 60, BELIEVED),
    ];
    let (mut gateway, faults) = away(BELIEVED);
    for (n, (before, after)) in cases.into_iter().enumerate() {
        for (reboot, kill) in [(false, false), (true, false), (true, true)] {
            faults.set_wall(before);
            let text = format!("{n}-{reboot}-{kill}");
            publish(&gateway, &text, HOUR);
            if kill {
                gateway.kill();
            } else {
                gateway.stop();
            }
            faults.set_wall(after);
            if reboot {
                let boot = u8::from(kill);
                faults.set_boot_id(&format!("00000000-0000-0000-000{boot}-1{n:011}"));
            }
            gateway.run();
            // A kill loses retained values that are younger than `store.retained_after`.
            if !kill {
                let left = seconds_left(&retained(&gateway).expect("it is kept"));
                assert!((HOUR - 900..=HOUR).contains(&left), "{left} of {before} to {after}");
            }
            let messages = waiting(&gateway);
            assert_eq!(messages.len(), 1, "{before} to {after}: {messages:?}");
            assert_eq!(messages[0].text(), text);
            let left = seconds_left(&messages[0]);
            assert!((HOUR - 900..=HOUR).contains(&left), "{left} of {before} to {after}");
            assert_eq!(gateway.dropped("expired"), 0);
        }
    }
}

#[test]
fn a_step_while_it_runs_is_no_downtime_at_the_next_start() {
    let (mut gateway, faults) = away(BELIEVED);
    publish(&gateway, "kept", HOUR);
    // Within the year that is believed, and longer than the message may wait.
    faults.step_wall(i64::from(HOUR) * 24);
    gateway.wait("clock_jump");
    // The mark is in the next commit.
    publish(&gateway, "later", HOUR);
    gateway.kill();
    faults.set_boot_id("00000000-0000-0000-0000-000000000002");
    gateway.run();
    let messages: Vec<String> = waiting(&gateway).iter().map(Message::text).collect();
    assert_eq!(messages, ["kept", "later"]);
}

#[test]
fn time_switched_off_counts_where_it_can_be_known() {
    let (mut gateway, faults) = away(BELIEVED);
    let reboot = |n: u32| faults.set_boot_id(&format!("00000000-0000-0000-0000-0000000001{n:02}"));
    for (n, down) in [(1, true), (2, false)] {
        // A reboot: the wall clock knows. None: the monotonic one does.
        let pass = |seconds: u32| {
            if down {
                faults.step_wall(i64::from(seconds));
                reboot(n * 10 + seconds / 1000);
            } else {
                faults.step_monotonic(Duration::from_secs(u64::from(seconds)));
            }
        };
        publish(&gateway, "kept", HOUR);
        gateway.stop();
        pass(1000);
        gateway.run();
        let left = seconds_left(&waiting(&gateway)[0]);
        assert!((HOUR - 1900..=HOUR - 990).contains(&left), "{left} s left");
        let left = seconds_left(&retained(&gateway).expect("it is kept"));
        assert!((HOUR - 1900..=HOUR - 990).contains(&left), "{left} s left");
        publish(&gateway, "late", HOUR);
        gateway.stop();
        pass(4000);
        gateway.run();
        assert_eq!(retained(&gateway), None);
        assert_eq!(waiting(&gateway), []);
        assert_eq!(gateway.wait_with("drop", &[("reason", "expired")]).number("count"), 1);
    }
}

#[test]
fn it_starts_and_serves_in_any_year() {
    for wall in [0, ENDS_32_SIGNED - 2, ENDS_32_SIGNED, ENDS_32 - 2, ENDS_32, 253_402_300_800] {
        let (mut gateway, _faults) = away(wall);
        publish(&gateway, "1", u32::MAX);
        let mut client: Client = Connect::v5("looker").open(gateway.port);
        client.ping();
        assert_eq!(waiting(&gateway).len(), 1, "{wall}");
        assert_eq!(gateway.stop().number("lost"), 0, "{wall}");
    }
}
