//! Files that are not what was here last: an older copy that was put back, another store, a store
//! that is gone or cut. The record in the lock's file tells, as far as it is there.

use crate::common::gateway::{Event, Gateway};
use crate::common::number_of;
use crate::common::proxy::Mode;
use crate::common::wire::{Connect, Message};
use crate::disks::{Site, publisher};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

fn file(gateway: &Gateway, end: &str) -> PathBuf {
    gateway.directory.file(&format!("spill.db{end}"))
}

fn cut_in_half(gateway: &Gateway) {
    let database = OpenOptions::new().write(true).open(file(gateway, "")).expect("a file");
    let length = database.metadata().expect("a file").len();
    database.set_len(length / 2).expect("a shorter file");
}

/// The database and its log, as `cp` takes them.
struct Copy(Vec<u8>, Vec<u8>);

impl Copy {
    fn of(site: &Site) -> Self {
        let read = |end| fs::read(file(&site.gateway, end)).expect("a file of the store");
        Self(read(""), read("-wal"))
    }

    fn put_back(&self, site: &Site) {
        fs::write(file(&site.gateway, ""), &self.0).expect("the database");
        fs::write(file(&site.gateway, "-wal"), &self.1).expect("the log");
    }
}

fn end(site: &mut Site, clean: bool) {
    if clean {
        site.gateway.stop();
    } else {
        site.gateway.kill();
    }
}

fn told(site: &Site) -> Vec<Event> {
    let events = site.gateway.events().into_iter();
    events.filter(|event| event.name == "store_recovered").collect()
}

#[test]
fn an_older_copy_is_told_and_its_sessions_begin_anew() {
    for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut site = Site::start("");
        let mut away = Connect::v5("away").persistent().open(site.gateway.port);
        away.subscribe(&[("n/0", 2)]);
        away.vanish();
        publisher(0, 60, 2).run(site.gateway.port);
        end(&mut site, first);
        let copy = Copy::of(&site);
        site.gateway.run();
        assert_eq!(told(&site).len(), 0, "nothing has changed");
        publisher(60, 30, 2).run(site.gateway.port);
        end(&mut site, second);
        copy.put_back(&site);
        site.gateway.run();
        let older = site.gateway.wait_with("store_recovered", &[("reason", "older_store")]);
        // 20 of them for the session as well.
        assert_eq!((older.number("rescued"), older.text("lost")), (80, "unknown"));
        let doubt = site.gateway.wait_with("qos2_in_doubt", &[("reason", "older_store")]);
        assert_eq!((doubt.text("bridge"), doubt.number("count")), ("up", 60));
        let mut away = Connect::v5("away").persistent().open(site.gateway.port);
        assert!(!away.connack.session_present, "its identifiers are of the past");
        let came: BTreeSet<String> = (0..20).map(|_| away.next().topic).collect();
        assert_eq!(came.len(), 1, "its messages are there");
        away.disconnect();
        // What it says from here on is true again.
        end(&mut site, first);
        site.gateway.run();
        assert_eq!(told(&site).len(), 0, "once");
        site.link.set(Mode::Pass);
        site.far.wait_count(60);
        let came: BTreeSet<usize> =
            site.far.messages().iter().map(|m| number_of(&m.payload)).collect();
        assert_eq!(came, (0..60).collect());
        assert_eq!(site.gateway.wait("bridge_up").text("session_present"), "false");
    }
}

#[test]
fn no_message_is_taken_for_an_older_one_with_its_identifier() {
    let mut site = Site::start("");
    publisher(0, 10, 2).run(site.gateway.port);
    site.gateway.stop();
    let copy = Copy::of(&site);
    site.gateway.run();
    site.link.set(Mode::Pass);
    site.far.wait_count(10);
    site.link.set(Mode::Refuse);
    site.gateway.kill();
    copy.put_back(&site);
    site.gateway.run();
    site.gateway.wait_with("store_recovered", &[("reason", "older_store")]);
    publisher(10, 200, 2).run(site.gateway.port);
    assert_eq!(site.drained(), (0..210).collect());
}

#[test]
fn a_store_without_the_end_of_its_log_is_an_older_one() {
    for cut in [None, Some(32 + 1048 * 12)] {
        let mut site = Site::start("");
        // So little that none of it is in the database yet.
        publisher(0, 20, 1).run(site.gateway.port);
        site.gateway.stop();
        let log = file(&site.gateway, "-wal");
        match cut {
            None => fs::remove_file(log).expect("the log"),
            Some(bytes) => {
                let log = OpenOptions::new().write(true).open(log).expect("the log");
                log.set_len(bytes).expect("a shorter log");
            }
        }
        site.gateway.run();
        let older = site.gateway.wait_with("store_recovered", &[("reason", "older_store")]);
        assert_eq!(older.text("lost"), "unknown", "{}", older.line);
        let came = site.drained();
        assert_eq!(came, (0..came.len()).collect(), "what is left of it goes");
    }
}

#[test]
fn how_many_are_gone_is_known_after_a_clean_stop() {
    let mut site = Site::start("");
    publisher(0, 1500, 1).run(site.gateway.port);
    site.gateway.stop();
    cut_in_half(&site.gateway);
    site.gateway.run();
    let came = site.drained();
    assert!(!came.is_empty() && came.len() < 1500, "{}", came.len());
    let recovered = site.gateway.wait("store_recovered");
    let count = u64::try_from(came.len()).expect("few");
    assert_eq!((recovered.number("rescued"), recovered.number("lost")), (count, 1500 - count));
}

#[test]
fn how_many_are_gone_is_known_when_the_salvage_was_killed() {
    let mut site = Site::start("");
    publisher(0, 3000, 1).run(site.gateway.port);
    site.gateway.stop();
    cut_in_half(&site.gateway);
    for _ in 0..3 {
        site.gateway.run();
        site.gateway.kill();
    }
    site.gateway.run();
    let came = site.drained();
    let recovered = site.gateway.wait("store_recovered");
    let count = u64::try_from(came.len()).expect("few");
    assert_eq!((recovered.number("rescued"), recovered.number("lost")), (count, 3000 - count));
}

#[test]
fn what_came_after_the_stop_makes_it_unknown_again() {
    let mut site = Site::start("");
    publisher(0, 1500, 1).run(site.gateway.port);
    site.gateway.stop();
    site.gateway.run();
    publisher(1500, 10, 1).run(site.gateway.port);
    site.gateway.kill();
    cut_in_half(&site.gateway);
    site.gateway.run();
    assert!(site.drained().len() < 1510);
    assert_eq!(site.gateway.wait("store_recovered").text("lost"), "unknown");
}

#[test]
fn a_store_that_is_gone_or_another_is_told() {
    for (clean, lost) in [(true, "70"), (false, "unknown")] {
        let mut site = Site::start("");
        publisher(0, 70, 1).run(site.gateway.port);
        end(&mut site, clean);
        for end in ["", "-wal"] {
            fs::remove_file(file(&site.gateway, end)).expect("a file of the store");
        }
        site.gateway.run();
        let gone = site.gateway.wait_with("store_recovered", &[("reason", "store_gone")]);
        assert_eq!((gone.number("rescued"), gone.text("lost")), (0, lost));
        publisher(0, 5, 1).run(site.gateway.port);
        end(&mut site, clean);
        site.gateway.run();
        assert_eq!(told(&site).len(), 0);
        assert_eq!(site.drained(), (0..5).collect());
    }
    let mut site = Site::start("");
    publisher(0, 5, 1).run(site.gateway.port);
    site.gateway.stop();
    let other = Site::stored(7, 1);
    Copy::of(&other).put_back(&site);
    site.gateway.run();
    let told = site.gateway.wait_with("store_recovered", &[("reason", "other_store")]);
    assert_eq!((told.number("rescued"), told.text("lost")), (7, "unknown"));
    assert_eq!(site.drained(), (0..7).collect());
    // An empty one that is removed is no loss.
    let mut site = Site::start("");
    site.gateway.stop();
    for end in ["", "-wal"] {
        fs::remove_file(file(&site.gateway, end)).expect("a file of the store");
    }
    site.gateway.run();
    assert!(!site.gateway.events().iter().any(|event| event.name == "store_recovered"));
}

#[test]
fn without_the_record_nothing_is_known_and_nothing_refused() {
    let spoil: [fn(&Path); 4] = [
        |lock| fs::remove_file(lock).expect("the lock's file"),
        // As an earlier version leaves it.
        |lock| fs::write(lock, []).expect("the lock's file"),
        // A power cut has torn it.
        |lock| {
            let mut bytes = fs::read(lock).expect("the lock's file");
            assert!(bytes.len() >= 64, "the record");
            bytes[20] ^= 1;
            fs::write(lock, bytes).expect("the lock's file");
        },
        |lock| fs::write(lock, [0xFF; 4096]).expect("the lock's file"),
    ];
    for spoil in spoil {
        let mut site = Site::start("");
        publisher(0, 50, 2).run(site.gateway.port);
        site.gateway.stop();
        let copy = Copy::of(&site);
        site.gateway.run();
        publisher(50, 10, 2).run(site.gateway.port);
        site.gateway.kill();
        copy.put_back(&site);
        spoil(&file(&site.gateway, ".lock"));
        site.gateway.run();
        assert_eq!(told(&site).len(), 0);
        assert_eq!(site.drained(), (0..50).collect());
        // And from here on it is known.
        site.gateway.kill();
        copy.put_back(&site);
        site.gateway.run();
        site.gateway.wait_with("store_recovered", &[("reason", "older_store")]);
    }
}

#[test]
fn a_lock_that_cannot_be_written_is_a_lock() {
    let mut site = Site::start("");
    publisher(0, 50, 1).run(site.gateway.port);
    site.gateway.stop();
    let lock = file(&site.gateway, ".lock");
    let read_only = ReadOnly::new(&lock);
    let before = fs::read(&lock).expect("the record");
    let check = site.gateway.check();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    site.gateway.run();
    assert_eq!(told(&site).len(), 0);
    let (status, lines) = {
        // Nobody else gets it meanwhile.
        let mut second = Gateway::prepare("");
        let store = format!("store.path = {}\n", file(&site.gateway, "").display());
        second.configure(&store);
        second.run_to_the_end()
    };
    assert_eq!(status.code(), Some(1));
    assert!(lines.iter().any(|line| line.contains("in use by")), "{lines:?}");
    let mut client = Connect::v4("client").open(site.gateway.port);
    client.publish(&Message::new("n/0", "50").qos(1));
    site.gateway.kill();
    site.gateway.run();
    assert_eq!(told(&site).len(), 0, "it is not behind what is known");
    assert_eq!(site.drained(), (0..51).collect());
    assert_eq!(fs::read(&lock).expect("the record"), before);
    site.gateway.kill();
    drop(read_only);
}

/// A file that is mounted over itself, to be read only.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(path: &Path) -> Self {
        let mount = |arguments: &[&str]| {
            let mut command = std::process::Command::new("mount");
            let status = command.args(arguments).status().expect("mount runs");
            assert!(status.success(), "mount {arguments:?}");
        };
        let name = path.to_str().expect("a plain name");
        mount(&["--bind", name, name]);
        mount(&["-o", "remount,bind,ro", name]);
        Self(path.to_path_buf())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}
