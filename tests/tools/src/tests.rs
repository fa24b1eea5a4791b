//! The tools against each other over real sockets: a tool that misses what it is to find would
//! make every test that uses it worthless.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock;
use crate::load::{self, Plan, Progress, Report};
use crate::proxy::{Command, Proxy};
use crate::publisher::{Options, StreamOptions};
use crate::sink::{self, Sink};

fn sink(keep_sessions: bool) -> Sink {
    let options =
        sink::Options { port: 0, delay: 0, receive_maximum: Some(7), keep_sessions, mute: false };
    Sink::start(options).unwrap()
}

fn plan(address: std::net::SocketAddr, version: u8, count: Option<u64>) -> Plan {
    let stream = |qos| StreamOptions { topic: format!("load/{qos}"), qos, payload_bytes: 64 };
    let publishers = (0..3).map(|publisher| Options {
        address,
        client_id: format!("p{publisher}"),
        version,
        clean_start: false,
        reconnect: true,
        window: 20,
        batch: 1,
        run: 5,
        publisher,
        streams: vec![stream(1), stream(2)],
    });
    Plan { publishers: publishers.collect(), count, rate: None, seconds: None, drain_s: 20.0 }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::now() + 20 * clock::SECOND;
    while !is_so() {
        assert!(clock::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Publishes at a steady rate while `during` plays with the link, then stops.
fn load_while(address: std::net::SocketAddr, during: impl FnOnce(&Progress)) -> Report {
    let progress = Arc::<Progress>::default();
    let plan = Plan { rate: Some(2000.0), ..plan(address, 4, None) };
    let shared = progress.clone();
    let load = std::thread::spawn(move || load::run(&plan, &shared).unwrap());
    until("the load runs", || progress.accepted.load(Ordering::Relaxed) > 50);
    during(&progress);
    progress.stop.store(true, Ordering::Relaxed);
    load.join().unwrap()
}

#[test]
fn what_the_load_was_promised_the_sink_has() {
    for version in [4, 5] {
        let sink = sink(true);
        let report = load::run(&plan(sink.address, version, Some(3000)), &Arc::default()).unwrap();
        assert_eq!((report.counts.accepted, report.unacked, report.error), (3000, 0, None));
        let seen = sink.seen();
        let totals = seen.tally.totals(None);
        assert_eq!((totals.unique, totals.gaps, totals.duplicates), (3000, 0, 0));
        assert_eq!(totals.out_of_order, 0);
        // A Receive Maximum is a word of MQTT 5.
        let window = if version == 5 { 7 } else { 20 };
        assert!(seen.inflight_max <= window, "{} open", seen.inflight_max);
    }
}

#[test]
fn a_link_that_is_cut_refuses_and_comes_back_at_its_port() {
    let sink = sink(true);
    let proxy = Proxy::start(0, sink.address).unwrap();
    let report = load_while(proxy.address, |progress| {
        assert_eq!(proxy.command(Command::Cut).connections, 0);
        assert!(TcpStream::connect(proxy.address).is_err(), "a cut link lets nobody in");
        proxy.command(Command::Pass);
        let before = progress.accepted.load(Ordering::Relaxed);
        until("it goes on", || progress.accepted.load(Ordering::Relaxed) > before + 50);
    });
    let totals = sink.seen().tally.totals(None);
    assert_eq!((report.unacked, report.counts.connects), (0, 6));
    assert_eq!((totals.unique, totals.gaps), (report.counts.sent, 0));
    assert_eq!((totals.out_of_order, sink.seen().tally.totals(Some(2)).duplicates), (0, 0));
}

#[test]
fn a_black_hole_swallows_acknowledgements_and_the_resend_is_a_duplicate_at_qos_1_only() {
    let sink = sink(true);
    let proxy = Proxy::start(0, sink.address).unwrap();
    let report = load_while(proxy.address, |progress| {
        proxy.command(Command::BlackHole([false, true]));
        let accepted = progress.accepted.load(Ordering::Relaxed);
        let open = || sink.seen().tally.totals(None).unique;
        until("messages arrive unanswered", || open() > accepted + 30);
        proxy.command(Command::Pass);
    });
    let tally = &sink.seen().tally;
    assert_eq!((report.unacked, tally.totals(None).gaps), (0, 0));
    assert!(tally.totals(Some(1)).duplicates > 0, "resent and seen before");
    assert_eq!(tally.totals(Some(2)).duplicates, 0);
    assert_eq!(tally.totals(None).out_of_order, 0);
}

#[test]
fn a_remote_without_its_session_gets_qos_2_twice_and_the_tally_says_so() {
    let sink = sink(false);
    let proxy = Proxy::start(0, sink.address).unwrap();
    let report = load_while(proxy.address, |progress| {
        proxy.command(Command::BlackHole([false, true]));
        let accepted = progress.accepted.load(Ordering::Relaxed);
        until("messages arrive unanswered", || {
            sink.seen().tally.totals(None).unique > accepted + 30
        });
        proxy.command(Command::Pass);
    });
    assert!(report.counts.sessions_lost > 0);
    assert!(sink.seen().tally.totals(Some(2)).duplicates > 0);
}

#[test]
fn a_stalled_link_loses_nothing_and_breaks_nothing() {
    let sink = sink(true);
    let proxy = Proxy::start(0, sink.address).unwrap();
    let report = load_while(proxy.address, |progress| {
        proxy.command(Command::Stall([true; 2]));
        let (mut before, mut since) = (0, clock::now());
        until("nothing moves", || {
            let accepted = progress.accepted.load(Ordering::Relaxed);
            if accepted != before {
                (before, since) = (accepted, clock::now());
            }
            clock::now() > since + 100 * clock::MILLISECOND
        });
        proxy.command(Command::Pass);
        until("it goes on", || progress.accepted.load(Ordering::Relaxed) > before + 50);
    });
    let totals = sink.seen().tally.totals(None);
    assert_eq!((report.unacked, report.counts.connects, totals.duplicates), (0, 3, 0));
    assert_eq!(totals.unique, report.counts.sent);
}

#[test]
fn a_packet_can_be_cut_in_the_middle() {
    let sink = sink(true);
    let proxy = Proxy::start(0, sink.address).unwrap();
    let report = load_while(proxy.address, |progress| {
        let before = proxy.command(Command::CutAfter(1001)).bytes[0];
        until("it is cut", || proxy.command(Command::Status).connections == 0);
        assert_eq!(proxy.command(Command::Pass).bytes[0], before + 1001);
        let before = progress.accepted.load(Ordering::Relaxed);
        until("it goes on", || progress.accepted.load(Ordering::Relaxed) > before + 50);
    });
    let totals = sink.seen().tally.totals(None);
    assert_eq!((totals.unique, totals.gaps, report.unacked), (report.counts.sent, 0, 0));
}

#[test]
fn a_delayed_link_takes_its_time() {
    let sink = sink(true);
    let proxy = Proxy::start(0, sink.address).unwrap();
    proxy.command(Command::Delay(10 * clock::MILLISECOND));
    let report = load::run(&plan(proxy.address, 4, Some(60)), &Arc::default()).unwrap();
    assert_eq!((report.counts.accepted, report.unacked), (60, 0));
    let fastest = report.latency.percentile(0.0);
    assert!(fastest >= 20 * clock::MILLISECOND, "{fastest} ns there and back");
}
