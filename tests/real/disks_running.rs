//! A disk that fails while the gateway runs: publishers wait, nothing accepted is lost, and it goes
//! on by itself when the disk does.

use super::disks::{Site, publisher};
use crate::common::faults::{Calls, Faults};
use crate::common::gateway::{Event, Gateway};
use crate::common::place::Directory;
use crate::common::proxy::Mode;
use crate::common::tmpfs::Tmpfs;
use crate::common::wire::{Connect, Message};
use crate::common::{number_of, wait_until};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;

fn all(count: usize) -> BTreeSet<usize> {
    (0..count).collect()
}

/// A site whose link is down and whose disk can be made to fail.
fn site() -> (Site, Faults) {
    let mut gateway = Gateway::prepare("");
    let faults = gateway.with_faults();
    (Site::start_in(gateway, ""), faults)
}

fn is_error(event: &Event) -> bool {
    event.name == "store_error"
}

/// Publishes while the disk fails, lets it work again, and expects everything at the remote.
fn survives(fail: impl Fn(&Faults), reason: &str) {
    let (mut site, faults) = site();
    let port = site.gateway.port;
    publisher(0, 200, 1).run(port);
    let mark = site.gateway.mark();
    fail(&faults);
    let waiting = thread::spawn(move || publisher(200, 300, 1).run(port));
    let error = site.gateway.wait_event(mark, "a store_error", is_error);
    assert_eq!(error.text("reason"), reason, "{}", error.line);
    let first = site.gateway.mark();
    // Others are served, and nobody is told that something is safe.
    let mut client = Connect::v5("other").open(port);
    client.subscribe(&[("own", 0)]);
    client.publish(&Message::new("own", "x"));
    assert_eq!(client.next().text(), "x");
    client.ping();
    site.gateway.wait_event(first, "a second look", is_error);
    let stats = site.gateway.wait_stats("figures", |_| true);
    assert_eq!(stats.number("store_msgs"), 200, "nothing more is safe: {}", stats.line);
    faults.heal();
    waiting.join().expect("everything is accepted in the end");
    site.gateway.wait_from(mark, "store_recovered", &[]);
    let errors = site.gateway.events().into_iter().filter(is_error).count();
    assert!(errors < 20, "{errors} lines");
    assert_eq!(site.drained(), all(500));
}

#[test]
fn writes_that_fail_are_waited_out() {
    survives(|faults| faults.fail(Calls::Write, libc::EIO), "io_error");
}

#[test]
fn syncs_that_fail_are_waited_out() {
    survives(|faults| faults.fail(Calls::Sync, libc::EIO), "io_error");
}

#[test]
fn a_disk_that_says_full_is_waited_out() {
    survives(|faults| faults.fail(Calls::Write, libc::ENOSPC), "disk_full");
}

#[test]
fn what_fails_now_and_then_loses_nothing() {
    let (mut site, faults) = site();
    let port = site.gateway.port;
    let publishing = thread::spawn(move || publisher(0, 2000, 2).run(port));
    let mut skip = 3;
    while !publishing.is_finished() {
        for calls in [Calls::Write, Calls::Sync] {
            let failed = faults.failed(calls);
            faults.fail_some(calls, libc::EIO, skip % 23, 1);
            wait_until("it has failed", || {
                faults.failed(calls) > failed || publishing.is_finished()
            });
            skip += 7;
        }
    }
    publishing.join().expect("everything is accepted");
    faults.heal();
    assert_eq!(site.drained(), all(2000));
    assert_eq!(site.far.count(), 2001, "QoS 2: nothing twice");
}

#[test]
fn reads_that_fail_are_waited_out() {
    let (mut site, faults) = site();
    publisher(0, 3000, 1).run(site.gateway.port);
    let mark = site.gateway.mark();
    faults.fail(Calls::Read, libc::EIO);
    site.link.set(Mode::Pass);
    let error = site.gateway.wait_event(mark, "a store_error", is_error);
    // SQLite calls it damage: that would have put the whole store aside.
    assert_eq!(error.text("reason"), "io_error", "{}", error.line);
    Connect::v5("other").open(site.gateway.port).ping();
    faults.heal();
    site.gateway.wait_from(mark, "store_recovered", &[]);
    assert_eq!(site.drained(), all(3000));
}

#[test]
fn a_page_that_cannot_be_read_once_is_no_damage() {
    let (mut site, faults) = site();
    let session = Connect::v5("absent").persistent();
    session.open(site.gateway.port).subscribe(&[("other", 1)]);
    publisher(0, 3000, 2).run(site.gateway.port);
    faults.fail_some(Calls::Read, libc::EIO, 0, 1);
    site.link.set(Mode::Pass);
    site.gateway.wait("store_error");
    assert_eq!(site.drained(), all(3000));
    let came = site.far.messages().len();
    assert_eq!(came, 3001, "each once");
    assert!(session.open(site.gateway.port).connack.session_present);
    let aside = site.gateway.events().into_iter().find(|e| e.name == "store_quarantined");
    assert!(aside.is_none(), "{aside:?}");
}

#[test]
fn a_crash_while_the_disk_fails_loses_nothing_accepted() {
    let (mut site, faults) = site();
    let port = site.gateway.port;
    publisher(0, 500, 1).run(port);
    faults.fail_some(Calls::Write, libc::EIO, 2, -1);
    let mut late = publisher(500, 100, 1);
    let late = thread::spawn(move || {
        let _ = late.run_until(port, 100);
        late.accepted
    });
    site.gateway.wait("store_error");
    site.gateway.kill();
    faults.heal();
    site.gateway.run();
    let accepted = late.join().expect("it counts");
    let came = site.drained();
    let lost = |n: &usize| !came.contains(n);
    assert_eq!((0..500).filter(lost).count(), 0);
    assert_eq!((500..600).filter(|n| accepted[n - 500] && lost(n)).count(), 0);
}

#[test]
fn a_disk_that_fails_costs_an_absent_session_nothing() {
    let (site, faults) = site();
    site.link.set(Mode::Pass);
    let port = site.gateway.port;
    let absent = Connect::v5("absent").persistent();
    absent.open(port).subscribe(&[("n/#", 1)]);
    publisher(0, 300, 1).run(port);
    let mut late: Vec<_> = (3..13).map(|n| publisher(n * 100, 100, 1)).collect();
    // A new session would wait for the disk.
    for publisher in &mut late {
        publisher.run_until(port, 1).expect("the disk works");
    }
    faults.fail(Calls::Write, libc::EIO);
    let late: Vec<_> =
        late.into_iter().map(|mut late| thread::spawn(move || late.run(port))).collect();
    // A quarter of the ring: the session may have no more, and cannot be spilled.
    site.gateway.wait_stats("its share is used up", |stats| stats.number("ring_msgs") >= 256);
    Connect::v5("other").open(port).ping();
    faults.heal();
    for publisher in late {
        publisher.join().expect("everything is accepted in the end");
    }
    let mut last = Connect::v5("last").open(port);
    last.publish(&Message::new("n/0", "999999").qos(1));
    let came = absent.open(port).until("999999");
    assert_eq!(came.iter().map(|m| number_of(&m.payload)).collect::<BTreeSet<_>>(), all(1300));
    let stats = site.gateway.wait_stats("figures", |_| true);
    assert_eq!(stats.number("drops"), 0, "{}", stats.line);
}

/// Fills the disk while publishers are at work, and lets everything drain over it.
fn full_disk(qos: u8) {
    let place = Directory::new();
    let Some(tmpfs) = Tmpfs::mount(place.path(), 4 << 20) else { return };
    let file = place.file("spill.db");
    let store = format!("store.path = {}\nstore.max_bytes = 16MiB\n", file.display());
    let mut site = Site::start_in(Gateway::prepare(""), &(store + "ring.messages = 256\n"));
    let port = site.gateway.port;
    publisher(0, 3000, qos).run(port);
    let filler = tmpfs.fill();
    // More than there is room for: some of it is accepted, the rest waits.
    let waiting = thread::spawn(move || publisher(3000, 6000, qos).run(port));
    let error = site.gateway.wait("store_error");
    assert_eq!(error.text("reason"), "disk_full", "{}", error.line);
    assert_eq!(error.text("key"), "store.max_bytes", "{}", error.line);
    let mut client = Connect::v5("other").open(port);
    client.ping();
    assert!(!waiting.is_finished());
    // It drains: nothing but the blocks it has is needed. What drained makes room for the rest.
    site.link.set(Mode::Pass);
    waiting.join().expect("everything is accepted once there is room");
    assert!(filler.exists(), "the disk was full all the time");
    assert_eq!(site.drained(), all(9000));
    if qos == 2 {
        assert_eq!(site.far.count(), 9001, "nothing twice");
    }
}

#[test]
fn a_full_disk_drains_and_goes_on_when_there_is_room() {
    full_disk(1);
}

#[test]
fn a_full_disk_drains_exactly_once_and_goes_on_without_a_new_block() {
    // Every step of QoS 2 needs a commit.
    full_disk(2);
}

#[test]
fn a_full_disk_is_no_hindrance_for_a_start_and_a_drain() {
    let place = Directory::new();
    let Some(tmpfs) = Tmpfs::mount(place.path(), 4 << 20) else { return };
    let store = format!("store.path = {}\n", place.file("spill.db").display());
    let mut site = Site::start_in(Gateway::prepare(""), &store);
    publisher(0, 5000, 1).run(site.gateway.port);
    let _filler = tmpfs.fill();
    site.gateway.kill();
    site.gateway.run();
    assert_eq!(site.drained(), all(5000));
}

#[test]
fn a_file_system_that_turns_read_only_is_waited_out() {
    // Like a flash file system after an error. Only a bind mount may turn so under open files.
    let (mut site, faults) = site();
    let port = site.gateway.port;
    publisher(0, 200, 1).run(port);
    let mark = site.gateway.mark();
    faults.fail(Calls::Write, libc::EROFS);
    faults.fail(Calls::Sync, libc::EROFS);
    faults.fail(Calls::Allocate, libc::EROFS);
    let waiting = thread::spawn(move || publisher(200, 300, 1).run(port));
    site.gateway.wait_event(mark, "a store_error", is_error);
    faults.heal();
    waiting.join().expect("everything is accepted in the end");
    assert_eq!(site.drained(), all(500));
}

#[test]
fn damage_that_is_found_in_use_is_put_aside_and_the_rest_is_delivered() {
    let mut site = Site::start("");
    publisher(0, 3000, 1).run(site.gateway.port);
    // Everything is checkpointed by another start, which reads nothing of the backlog.
    site.gateway.kill();
    site.gateway.run();
    let path = site.gateway.directory.file("spill.db");
    let bytes = fs::read(&path).expect("the database");
    let wanted = format!("{:0200}", 1500);
    let at = bytes.windows(20).position(|window| window == &wanted.as_bytes()[180..]);
    let page = u64::try_from(at.expect("it is stored")).expect("a small file") / 1024 * 1024;
    let file = OpenOptions::new().write(true).open(&path).expect("the database");
    file.write_all_at(&[0x5a; 3 * 1024], page).expect("a write");
    site.link.set(Mode::Pass);
    let error = site.gateway.wait("store_error");
    assert_eq!(error.text("reason"), "corrupt", "{}", error.line);
    let aside = site.gateway.wait("store_quarantined");
    assert!(aside.text("reason").contains("in use"), "{}", aside.line);
    let came = site.drained();
    let lost: Vec<usize> = all(3000).difference(&came).copied().collect();
    assert!((9..=17).contains(&lost.len()), "{lost:?}");
    let recovered = site.gateway.wait("store_recovered");
    // What a page was that is overwritten cannot be told.
    assert_eq!(recovered.text("lost"), "unknown", "{}", recovered.line);
    publisher(3000, 10, 1).run(site.gateway.port);
}
