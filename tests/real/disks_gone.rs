//! The store is taken away while the gateway runs: it says so, nobody is told that something is
//! safe meanwhile, and what was accepted survives a kill.

use super::disks::{Site, publisher};
use crate::common::gateway::{Event, Gateway};
use crate::common::wire::Connect;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::thread;

fn all(count: usize) -> BTreeSet<usize> {
    (0..count).collect()
}

fn file(site: &Site, end: &str) -> std::path::PathBuf {
    site.gateway.directory.file(&format!("spill.db{end}"))
}

/// Messages are accepted before, while and after something happens to the files; then a kill.
fn survives(happens: impl Fn(&Site), reason: &str, aside: bool) {
    let mut site = Site::start("");
    let port = site.gateway.port;
    publisher(0, 300, 2).run(port);
    let mark = site.gateway.mark();
    happens(&site);
    let meanwhile = thread::spawn(move || publisher(300, 300, 2).run(port));
    let error = site.gateway.wait_from(mark, "store_error", &[]);
    assert_eq!((error.text("operation"), error.text("reason")), ("look", reason));
    site.gateway.wait_from(mark, "store_recovered", &[("rescued", "0"), ("lost", "0")]);
    meanwhile.join().expect("everything is accepted in the end");
    publisher(600, 100, 2).run(port);
    let put_aside = |event: &Event| event.name == "store_quarantined";
    assert_eq!(site.gateway.events().iter().any(put_aside), aside);
    site.gateway.kill();
    site.gateway.run();
    assert_eq!(site.drained(), all(700));
    assert_eq!(site.far.count(), 701, "QoS 2: nothing twice");
}

#[test]
fn a_store_that_is_removed_is_put_back_before_anything_more_is_accepted() {
    let remove = |ends: &[&str], site: &Site| {
        ends.iter().for_each(|end| fs::remove_file(file(site, end)).expect("it is there"));
    };
    survives(|site| remove(&["", "-wal", ".lock"], site), "store_gone", false);
    survives(|site| remove(&[""], site), "store_gone", false);
    survives(|site| remove(&["-wal"], site), "store_gone", false);
}

#[test]
fn another_copy_that_is_moved_in_is_put_aside() {
    let copied = |site: &Site| {
        for end in ["", "-wal"] {
            let copy = file(site, &format!("{end}.copy"));
            fs::copy(file(site, end), &copy).expect("a copy");
            fs::rename(&copy, file(site, end)).expect("moved in");
        }
    };
    survives(copied, "store_replaced", true);
}

#[test]
fn a_directory_that_is_away_is_waited_for() {
    let gateway = Gateway::prepare("");
    let sub = gateway.directory.file("sub");
    fs::create_dir(&sub).expect("a directory");
    let path = format!("store.path = {}\n", sub.join("spill.db").display());
    let mut site = Site::start_in(gateway, &path);
    let port = site.gateway.port;
    publisher(0, 300, 1).run(port);
    let mark = site.gateway.mark();
    let old = site.gateway.directory.file("old");
    fs::rename(&sub, &old).expect("moved away");
    site.gateway.wait_from(mark, "store_error", &[("reason", "store_gone")]);
    let meanwhile = thread::spawn(move || publisher(300, 100, 1).run(port));
    // Others are served, and nobody is told that something is safe.
    Connect::v5("other").open(port).ping();
    let stats = site.gateway.wait_stats("figures", |_| true);
    assert_eq!(stats.number("store_msgs"), 300, "{}", stats.line);
    fs::create_dir(&sub).expect("a new one");
    meanwhile.join().expect("everything is accepted in the end");
    fs::remove_dir_all(&old).expect("the old one");
    site.gateway.kill();
    site.gateway.run();
    assert_eq!(site.drained(), all(400));
}

#[test]
fn a_store_that_somebody_cuts_is_salvaged_at_once() {
    for bytes in [0, 50, 100_000] {
        let mut site = Site::start("");
        publisher(0, 2000, 1).run(site.gateway.port);
        let mark = site.gateway.mark();
        let database = OpenOptions::new().write(true).open(file(&site, "")).expect("it is there");
        database.set_len(bytes).expect("it is cut");
        site.gateway.wait_from(mark, "store_error", &[("reason", "corrupt")]);
        site.gateway.wait_from(mark, "store_quarantined", &[]);
        site.gateway.wait_from(mark, "store_recovered", &[]);
        publisher(2000, 100, 1).run(site.gateway.port);
        let came = site.drained();
        assert!(came.is_superset(&(2000..2100).collect()), "{bytes}: it goes on");
    }
}

#[test]
fn a_stop_right_after_the_store_was_removed_loses_nothing() {
    let mut site = Site::start("");
    publisher(0, 300, 2).run(site.gateway.port);
    fs::remove_file(file(&site, "")).expect("it is there");
    site.gateway.stop();
    site.gateway.run();
    assert_eq!(site.drained(), all(300));
    assert_eq!(site.far.count(), 301, "QoS 2: nothing twice");
}
