//! Stores that were damaged while the gateway was away: what the disk still holds is delivered,
//! what is damaged is counted, and the gateway starts in any case.

use crate::common::collector::Collector;
use crate::common::gateway::{Event, Gateway, ROOMY_SESSIONS, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::wire::{Connect, Message};
use crate::common::{number_of, wait_until};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A bridge whose backlog is in a store on disk, and everything at the remote collected.
pub struct Site {
    pub far: Collector,
    pub link: Proxy,
    pub gateway: Gateway,
    _remote: Mosquitto,
}

/// A payload that is found in a file, of 200 bytes.
fn payload(n: usize) -> String {
    format!("{n:0200}")
}

pub fn publisher(first: usize, count: usize, qos: u8) -> Publisher {
    let message = |n| Message::new(&format!("n/{}", n % 3), payload(n)).qos(qos);
    let plan = (first..first + count).map(message).collect();
    Publisher::new(Connect::v4(&format!("p{first}")).persistent(), 50, plan)
}

impl Site {
    pub fn start(extra: &str) -> Self {
        Self::start_in(Gateway::prepare(""), extra)
    }

    pub fn start_in(mut gateway: Gateway, extra: &str) -> Self {
        let remote = Mosquitto::start_roomy();
        let link = Proxy::start_in(Mode::Refuse, remote.port);
        let far = Collector::start(remote.port, "far", "n/#");
        let rules = ["forward.1.local_topic = n/#", "max_inflight = 20"];
        let text = bridge("up", link.port, &rules) + ROOMY_SESSIONS + extra;
        gateway.configure(&text);
        gateway.run();
        Self { far, link, gateway, _remote: remote }
    }

    /// A killed gateway with `count` accepted messages in its store.
    pub fn stored(count: usize, qos: u8) -> Self {
        let mut site = Self::start("");
        publisher(0, count, qos).run(site.gateway.port);
        site.gateway.kill();
        site
    }

    fn file(&self, end: &str) -> PathBuf {
        self.gateway.directory.file(&format!("spill.db{end}"))
    }

    /// Everything is in the database, nothing in its log.
    fn checkpoint(&self) {
        let db = Connection::open(self.file("")).expect("a store");
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    }

    fn write(&self, end: &str, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.file(end)).expect("the file is there");
        file.write_all_at(bytes, at).expect("a write");
    }

    /// Where in the database (behind a checkpoint) the payload of message `n` is.
    fn place_of(&self, n: usize) -> u64 {
        let bytes = fs::read(self.file("")).expect("the database");
        // Its end alone, for a payload may lie over two pages.
        let wanted = &payload(n)[180..];
        let at = bytes.windows(20).position(|window| window == wanted.as_bytes());
        u64::try_from(at.expect("the message is stored")).expect("a small file") - 180
    }

    /// The first message from `n` on whose record lies on one page, and where its payload is.
    fn whole_from(&self, n: usize) -> (usize, u64) {
        let places = (n..).map(|n| (n, self.place_of(n)));
        let mut whole = places.filter(|(_, at)| (100..1024 - 200).contains(&(at % 1024)));
        whole.next().expect("one of five does")
    }

    fn flip(&self, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(self.file("")).expect("a file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("a write");
    }

    /// Lets everything that is left drain; the numbers that came, each once or more.
    pub fn drained(&mut self) -> BTreeSet<usize> {
        self.link.set(Mode::Pass);
        self.gateway.wait_stats("nothing stored", |stats| {
            stats.number("store_msgs") == 0 && stats.number("ring_msgs") == 0
        });
        // The last of them all, for the far side is another process.
        let mut last = Connect::v4("last").open(self.gateway.port);
        last.publish(&Message::new("n/last", "999999").qos(1));
        self.far.wait("the last message", |all| all.iter().any(|m| m.text() == "999999"));
        let numbers = self.far.messages().iter().map(|m| number_of(&m.payload)).collect::<Vec<_>>();
        numbers.into_iter().filter(|n| *n != 999_999).collect()
    }

    fn aside(&self) -> Vec<String> {
        let files = fs::read_dir(self.gateway.directory.path()).expect("our directory");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().into_string().expect("a plain name")
        };
        let mut names: Vec<_> = files.map(name).filter(|name| name.contains("corrupt")).collect();
        names.sort();
        names
    }

    /// The first arrivals of each topic are in order.
    fn assert_order(&self) {
        let mut seen = BTreeSet::new();
        let mut newest = [None; 3];
        for message in self.far.messages() {
            let n = number_of(&message.payload);
            if n != 999_999 && seen.insert(n) {
                assert!(newest[n % 3] < Some(n), "{n} came after {:?}", newest[n % 3]);
                newest[n % 3] = Some(n);
            }
        }
    }
}

fn all(count: usize) -> BTreeSet<usize> {
    (0..count).collect()
}

#[test]
fn a_store_without_its_head_is_salvaged_in_order_before_what_is_new() {
    let mut site = Site::stored(3000, 1);
    site.checkpoint();
    site.write("", 0, &[0; 1024]);
    site.gateway.run();
    assert!(site.gateway.wait("store_quarantined").text("file").ends_with("spill.db.corrupt-1"));
    publisher(3000, 500, 1).run(site.gateway.port);
    assert_eq!(site.drained(), all(3500));
    site.assert_order();
    let recovered = site.gateway.wait("store_recovered");
    // How many pages it had was in the head.
    assert_eq!((recovered.number("rescued"), recovered.text("lost")), (3000, "unknown"));
    let drained = site.gateway.wait("spill_drained");
    assert!(drained.number("duration_ms") < 3_600_000, "since what was rescued was there");
    assert_eq!(site.gateway.wait("bridge_up").text("session_present"), "false");
    assert_eq!(site.aside(), ["spill.db.corrupt-1"], "something may be missing: it is kept");
    // A restart begins with the new store alone.
    site.gateway.kill();
    site.gateway.run();
    assert!(!site.gateway.events().iter().any(|e| e.name == "store_quarantined"));
}

#[test]
fn a_salvage_that_is_killed_again_and_again_goes_on_and_loses_nothing() {
    let mut site = Site::stored(6000, 1);
    site.checkpoint();
    site.write("", 0, &[0; 100]);
    for _ in 0..5 {
        site.gateway.run();
        site.gateway.kill();
    }
    site.gateway.run();
    assert_eq!(site.drained(), all(6000));
    site.assert_order();
    let recovered = site.gateway.wait("store_recovered");
    assert_eq!((recovered.number("rescued"), recovered.text("lost")), (6000, "unknown"));
    assert_eq!(site.far.count(), 6001, "nothing twice");
}

#[test]
fn a_head_that_its_log_still_has_is_put_back() {
    // Small enough for no checkpoint, and the file has grown since it was made.
    let mut site = Site::stored(500, 1);
    site.write("", 0, &[0; 100]);
    site.gateway.run();
    site.gateway.wait_with("store_error", &[("reason", "head_put_back")]);
    assert_eq!(site.drained(), all(500));
    assert_eq!(site.far.count(), 501, "nothing twice");
    assert_eq!(site.aside(), [""; 0]);
}

#[test]
fn exactly_once_is_in_doubt_for_a_window_when_the_store_is_lost() {
    let mut site = Site::start("");
    publisher(0, 1000, 2).run(site.gateway.port);
    // Some of them are under way when it happens.
    site.link.delay(std::time::Duration::from_millis(30));
    site.link.set(Mode::Pass);
    site.far.wait_count(100);
    site.link.set(Mode::Refuse);
    site.gateway.kill();
    site.checkpoint();
    site.write("", 0, &[0; 1024]);
    site.gateway.run();
    assert_eq!(site.drained(), all(1000));
    let doubt = site.gateway.wait_with("qos2_in_doubt", &[("reason", "store_lost")]);
    assert!(doubt.number("count") <= 20, "{}", doubt.line);
    let twice = site.far.count() - 1001;
    assert!(twice <= 20, "{twice} more than a window");
}

#[test]
fn sessions_and_retained_messages_survive_a_lost_store() {
    let mut site = Site::start("");
    let long = format!("long/{}", "x".repeat(200));
    let mut away = Connect::v5("away").persistent().open(site.gateway.port);
    away.subscribe(&[("news", 1), (&long, 1), (&format!("{long}/more"), 1)]);
    away.vanish();
    let mut client = Connect::v5("client").open(site.gateway.port);
    client.publish(&Message::new("kept", "k".repeat(5000)).qos(1).retained());
    Publisher::numbered("news", "news", 1, 300).run(site.gateway.port);
    site.gateway.wait_stats("the retained message", |s| s.number("retained") == 1);
    site.gateway.kill();
    site.checkpoint();
    site.write("", 0, &[0; 2048]);
    site.gateway.run();
    site.gateway.wait("store_recovered");
    let mut away = Connect::v5("away").persistent().open(site.gateway.port);
    assert!(!away.connack.session_present, "identifiers are lost, so its client starts anew");
    let got: Vec<String> = (0..300).map(|_| away.next().text()).collect();
    assert_eq!(got, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    away.subscribe(&[("kept", 1)]);
    assert_eq!(away.next().payload.len(), 5000);
    let mut client = Connect::v5("client").open(site.gateway.port);
    client.publish(&Message::new("news", "goes on").qos(1));
    assert_eq!(away.next().text(), "goes on");
}

#[test]
fn a_flipped_bit_costs_its_own_message_and_no_other() {
    let mut site = Site::stored(2000, 1);
    site.checkpoint();
    // In a payload; in a topic; in the lengths of a head, which lead to all that follow; in the
    // last slot, whose row does not know its count.
    let head = 40 + 3;
    let mut flipped = Vec::new();
    for (n, back) in [(100, 0), (700, 1), (1200, head - 10), (1300, head - 7), (1970, head - 11)] {
        let (n, at) = site.whole_from(n);
        site.flip(at - back);
        flipped.push(n);
    }
    site.gateway.run();
    let came = site.drained();
    let lost: Vec<usize> = all(2000).difference(&came).copied().collect();
    assert_eq!(lost, flipped);
    site.assert_order();
    assert_eq!(site.far.count(), 1996, "nothing twice");
    let counted = |event: &crate::common::gateway::Event| {
        if event.name == "quarantined" { event.number("count") } else { 0 }
    };
    let sum = || site.gateway.events().iter().map(counted).sum::<u64>();
    wait_until("five are counted", || sum() == 5);
    assert!(!site.gateway.events().iter().any(|e| e.name == "store_quarantined"));
}

#[test]
fn a_torn_page_costs_what_was_on_it() {
    let mut site = Site::stored(2000, 1);
    site.checkpoint();
    // The second half of a page: three or four records of 243 bytes.
    let at = site.place_of(1000) / 1024 * 1024;
    site.write("", at + 512, &[0; 512]);
    site.gateway.run();
    let came = site.drained();
    let lost: Vec<usize> = all(2000).difference(&came).copied().collect();
    assert!((2..=5).contains(&lost.len()), "{lost:?}");
    // A whole page, with what SQLite needs of it: the rest is moved into a new store.
    let mut site = Site::stored(2000, 1);
    site.checkpoint();
    let at = site.place_of(1000) / 1024 * 1024;
    site.write("", at, &[0xff; 1024]);
    site.gateway.run();
    let came = site.drained();
    let lost: Vec<usize> = all(2000).difference(&came).copied().collect();
    assert!((4..=7).contains(&lost.len()), "{lost:?}");
    let said = |e: &Event| e.name == "store_recovered" && e.number("rescued") > 0;
    let recovered = site.gateway.wait_event(0, "what was lost", said);
    // Its page may have been one that told of others, and its log is missing.
    assert_eq!(recovered.text("lost"), "unknown", "{}", recovered.line);
    assert!(site.aside().contains(&"spill.db.corrupt-1".to_owned()), "it is kept for a look");
}

/// Flips a bit in the data of every row of a table.
fn flip_rows(site: &Site, table: &str) {
    let db = Connection::open(site.file("")).expect("a store");
    let mut rows = Vec::new();
    let sql = format!("SELECT rowid, data FROM {table}");
    let mut statement = db.prepare(&sql).expect("the table");
    let mut found = statement.query([]).expect("rows");
    while let Some(row) = found.next().expect("a row") {
        let id: i64 = row.get(0).expect("a row id");
        rows.push((id, row.get::<_, Vec<u8>>(1).expect("data")));
    }
    for (id, mut data) in rows {
        data[0] ^= 4;
        let sql = format!("UPDATE {table} SET data = ?2 WHERE rowid = ?1");
        db.execute(&sql, (id, data)).expect("an update");
    }
}

#[test]
fn damaged_rows_lose_no_message() {
    for (table, settled_known) in [("destination", true), ("slot", false), ("meta", true)] {
        let mut site = Site::start("");
        publisher(0, 1000, 1).run(site.gateway.port);
        site.link.set(Mode::Pass);
        site.far.wait_count(100);
        site.link.set(Mode::Refuse);
        site.gateway.wait("bridge_down");
        site.gateway.kill();
        flip_rows(&site, table);
        site.gateway.run();
        assert_eq!(site.drained(), all(1000), "{table}");
        let twice = site.far.count() - 1001;
        // What the remote acknowledged just before may not be noted yet.
        assert!(!settled_known || twice <= 256 + 20, "{table}: {twice} came twice");
        let quarantined = site.gateway.wait("quarantined");
        assert!(quarantined.text("reason").starts_with("corrupt_"), "{}", quarantined.line);
        let present = site.gateway.wait("bridge_up").text("session_present").to_owned();
        assert!(table != "destination" || present == "false", "ids are not known");
        let doubt = site.gateway.events().iter().any(|e| e.name == "qos2_in_doubt");
        assert_eq!(doubt, table == "slot", "{table}");
    }
}

#[test]
fn a_session_whose_row_is_damaged_keeps_its_queue() {
    let mut site = Site::start("");
    let mut away = Connect::v4("away").persistent().open(site.gateway.port);
    away.subscribe(&[("news", 1)]);
    away.vanish();
    Publisher::numbered("news", "news", 1, 50).run(site.gateway.port);
    site.gateway.kill();
    flip_rows(&site, "session");
    site.gateway.run();
    let mut away = Connect::v4("away").persistent().open(site.gateway.port);
    assert!(!away.connack.session_present, "it has to subscribe again");
    let got: Vec<String> = (0..50).map(|_| away.next().text()).collect();
    assert_eq!(got, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_truncated_database_gives_what_is_left_of_it() {
    let mut site = Site::stored(3000, 1);
    site.checkpoint();
    let file = OpenOptions::new().write(true).open(site.file("")).expect("the database");
    let cut = site.place_of(1500) / 1024 * 1024;
    file.set_len(cut).expect("a shorter file");
    site.gateway.run();
    let came = site.drained();
    assert!(came.len() > 1400 && came.len() < 3000, "{}", came.len());
    assert!(came.contains(&0) && came.contains(&1400));
    let recovered = site.gateway.wait("store_recovered");
    assert_eq!(recovered.text("lost"), "unknown", "{}", recovered.line);
    assert_eq!(recovered.number("rescued"), u64::try_from(came.len()).expect("few"));
    publisher(3000, 10, 1).run(site.gateway.port);
}

#[test]
fn a_log_that_is_garbage_or_truncated_does_not_take_the_database_with_it() {
    // So much that a part is in the database already.
    let mut site = Site::stored(6000, 1);
    let length = fs::metadata(site.file("-wal")).expect("a log").len();
    let noise: Vec<u8> = (0..length).map(|n| (n * 7 % 251 + 1) as u8).collect();
    site.write("-wal", 0, &noise);
    site.gateway.run();
    site.gateway.wait("store_quarantined");
    let came = site.drained();
    assert!(came.len() > 1000 && came.contains(&0), "{}", came.len());
    // Only its head: the frames are there.
    let mut site = Site::stored(6000, 1);
    site.write("-wal", 0, &noise[..32]);
    site.gateway.run();
    site.gateway.wait("store_quarantined");
    assert_eq!(site.drained(), all(6000));
    // A bit in its middle, where SQLite would end it.
    let mut site = Site::stored(6000, 1);
    site.write("-wal", 32 + 24 + 500, &noise[..40]);
    site.gateway.run();
    site.gateway.wait("store_quarantined");
    let came = site.drained();
    assert!(came.len() >= 5995, "{}", came.len());
    // Cut in the middle: what was committed before the cut is delivered.
    let mut site = Site::stored(500, 1);
    let file = OpenOptions::new().write(true).open(site.file("-wal")).expect("the log");
    file.set_len(32 + 1048 * 60 + 100).expect("a shorter file");
    site.gateway.run();
    let came = site.drained();
    let count = came.len();
    assert_eq!(came, all(count), "a gap");
    publisher(500, 10, 1).run(site.gateway.port);
}

#[test]
fn a_log_of_another_database_is_not_applied() {
    let other = Site::stored(700, 1);
    let mut site = Site::stored(3000, 1);
    site.checkpoint();
    fs::copy(other.file("-wal"), site.file("-wal")).expect("a copy");
    site.gateway.run();
    let aside = site.gateway.wait("store_quarantined");
    assert!(aside.text("reason").contains("another database"), "{}", aside.line);
    assert_eq!(site.drained(), all(3000));
    site.assert_order();
    assert_eq!(site.far.count(), 3001, "nothing of the other's");
}

#[test]
fn a_log_without_its_database_gives_what_it_has() {
    let mut site = Site::stored(300, 1);
    fs::remove_file(site.file("")).expect("the database");
    site.gateway.run();
    site.gateway.wait("store_quarantined");
    assert_eq!(site.drained(), all(300));
}

#[test]
fn bytes_of_a_message_larger_than_a_slot_are_salvaged_too() {
    let mut site = Site::start("");
    let mut client = Connect::v4("client").open(site.gateway.port);
    for n in 0..20 {
        client.publish(&Message::new("n/0", format!("{n:050000}")).qos(1));
    }
    site.gateway.kill();
    site.checkpoint();
    site.write("", 0, &[0; 1024]);
    site.gateway.run();
    assert_eq!(site.drained(), all(20));
    assert!(site.far.messages().iter().filter(|m| m.payload.len() == 50_000).count() == 20);
}
