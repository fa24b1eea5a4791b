//! Everything that keeps the gateway from starting, thrown at `--check` and at the start: both
//! refuse it, in the same words, and `--check` leaves everything as it was.

use crate::common::client::dial;
use crate::common::gateway::{Event, Gateway, binary};
use crate::common::place::{Directory, free_port};
use crate::common::process::Process;
use crate::common::tmpfs::Tmpfs;
use crate::common::wire::{Connect, Message};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A configuration in a directory of its own, and what the program is started with.
struct Trial {
    directory: Directory,
    port: u16,
    lines: String,
    /// Words before the program's name.
    before: Vec<String>,
    /// Where everybody may run it.
    binary: PathBuf,
    /// What has to be there until the end.
    kept: Vec<Box<dyn std::any::Any>>,
}

impl Trial {
    fn new() -> Self {
        let (directory, port) = (Directory::new(), free_port());
        let lines = format!("listener.lan.url = mqtt://127.0.0.1:{port}\n");
        let binary = binary();
        Self { directory, port, lines, before: Vec::new(), binary, kept: Vec::new() }
    }

    /// With a store at a name in its directory, and other lines.
    fn at(name: &str, lines: &str) -> Self {
        let mut trial = Self::new();
        let store = trial.directory.file(name);
        trial.lines += &format!("store.path = {}\n{lines}\n", store.display());
        trial
    }

    /// In a file system of its own.
    fn on_tmpfs(bytes: u64, lines: &str) -> Option<(Self, Tmpfs)> {
        let trial = Self::at("spill.db", lines);
        let tmpfs = Tmpfs::mount(trial.directory.path(), bytes)?;
        Some((trial, tmpfs))
    }

    fn store(&self) -> PathBuf {
        self.directory.file("spill.db")
    }

    /// As somebody who may nothing. `None`: we are not root.
    fn by_nobody(mut self) -> Option<Self> {
        // SAFETY: no memory is involved.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: not root");
            return None;
        }
        let elsewhere = Directory::new();
        self.binary = elsewhere.file("spillway");
        fs::copy(binary(), &self.binary).expect("a copy");
        for place in [self.directory.path(), elsewhere.path()] {
            mode(place, 0o755);
        }
        self.kept.push(Box::new(elsewhere));
        let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        self.before = words.map(str::to_owned).to_vec();
        Some(self)
    }

    /// With a limit of the shell's `ulimit`.
    fn limited(mut self, limit: &str) -> Self {
        let script = format!("ulimit {limit}; exec \"$@\"");
        self.before = vec!["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()];
        self
    }

    /// The configuration lies beside the store's directory: that may be a full or foreign one.
    fn command(&self, check: bool, file: &Path) -> Command {
        let mut words = self.before.iter().map(String::as_str).chain(self.binary.to_str());
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).env_remove("RUST_LOG");
        if check {
            command.arg("--check");
        }
        command.arg("-c").arg(file);
        command
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
}

fn fifo(path: &Path) {
    let name = CString::new(path.display().to_string()).expect("a plain path");
    // SAFETY: a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

/// Names, kinds, sizes, times and contents below a directory.
fn picture(directory: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("our directory");
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let data = fs::symlink_metadata(&path).expect("it is there");
            let bytes =
                if data.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
            (path, data.mode(), data.mtime(), data.mtime_nsec(), bytes)
        })
        .collect();
    all.sort();
    all
}

/// Both refuse it with the same words, among which are these.
fn both_refuse(name: &str, trial: &Trial, part: &str) {
    let place = Directory::new();
    mode(place.path(), 0o755);
    let file = place.write("spillway.conf", &trial.lines);
    mode(&file, 0o644);
    let before = picture(trial.directory.path());
    let output = trial.command(true, &file).output().expect("it runs");
    assert_eq!(picture(trial.directory.path()), before, "{name}: --check changed something");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{name}: {text}");
    assert!(text.ends_with("the gateway would not start\n"), "{name}: {text}");
    let checked: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("error: ")).map(str::to_owned).collect();
    let mut process = Process::start(trial.command(false, &file));
    let status = process.wait_exit(Duration::from_secs(20));
    let lines = process.log.lines();
    assert_eq!(status.code(), Some(1), "{name}: {lines:#?}");
    let failed = lines.iter().filter_map(|line| Event::parse(line));
    let failed = failed.filter(|event| event.name == "start_failed");
    let started: BTreeSet<String> = failed.map(|event| event.text("reason").to_owned()).collect();
    // A port that another test's program takes for a moment is its matter, unless it is this one's.
    let own = |line: &String| part.contains("in use") || !line.contains("in use by another");
    let [checked, started]: [BTreeSet<String>; 2] =
        [checked, started].map(|lines| lines.into_iter().filter(own).collect());
    assert_eq!(checked, started, "{name}");
    assert!(checked.iter().any(|line| line.contains(part)), "{name}: no {part:?} in {checked:#?}");
}

fn a_store(trial: &Trial) {
    let file = trial.directory.write("first.conf", &trial.lines);
    let mut process = Process::start(trial.command(false, &file));
    let up = |line: &str| line.contains("event=listening").then_some(());
    process.log.wait(0, Duration::from_secs(20), up).expect("it starts");
    process.signal(libc::SIGTERM);
    process.wait_exit(Duration::from_secs(10));
}

#[test]
fn what_is_wrong_with_the_stores_place_is_refused_by_both() {
    let none = Trial::at("no/such/spill.db", "");
    both_refuse("no directory", &none, "does not exist");
    let file = Trial::at("file/spill.db", "");
    fs::write(file.directory.file("file"), "").expect("ours");
    both_refuse("a file in the way", &file, "directory");
    for (end, name) in [("", "store"), (".lock", "lock"), ("-wal", "log")] {
        let other = Trial::at("spill.db", "");
        fs::create_dir(other.directory.file(&format!("spill.db{end}"))).expect("ours");
        both_refuse(&format!("the {name} is a directory"), &other, "no regular file");
        let other = Trial::at("spill.db", "");
        fifo(&other.directory.file(&format!("spill.db{end}")));
        both_refuse(&format!("the {name} is a FIFO"), &other, "no regular file");
    }
    let new = Trial::at("spill.db", "");
    fs::create_dir(new.directory.file("spill.db.new")).expect("ours");
    both_refuse("a directory has the name of a new store", &new, ".new is a directory");
    both_refuse("a long name", &Trial::at(&"n".repeat(240), ""), "the file's name is 240 bytes");
    let long = Trial::at(&format!("{0}/{0}/{0}/spill.db", "d".repeat(200)), "");
    let deep = vec!["d".repeat(200); 3].join("/");
    fs::create_dir_all(long.directory.file(&deep)).expect("ours");
    both_refuse("a long path", &long, "its whole path is");
}

#[test]
fn what_lies_in_the_stores_place_is_refused_by_both() {
    let text = Trial::at("spill.db", "");
    fs::write(text.store(), "somebody's notes").expect("ours");
    both_refuse("notes", &text, "no database; left alone");
    let other = Trial::at("spill.db", "");
    let db = Connection::open(other.store()).expect("a database");
    db.execute_batch("CREATE TABLE theirs(x)").expect("SQL");
    drop(db);
    both_refuse("another database", &other, "another program's database; left alone");
    let newer = Trial::at("spill.db", "");
    a_store(&newer);
    let db = Connection::open(newer.store()).expect("a store");
    db.pragma_update(None, "user_version", 99).expect("a newer version");
    drop(db);
    both_refuse("a newer store", &newer, "newer release (format 99");
}

#[test]
fn a_file_system_without_room_is_refused_by_both() {
    let Some((small, _tmpfs)) = Trial::on_tmpfs(1 << 20, "") else { return };
    both_refuse("1 MiB, nothing said", &small, "a new store needs 2097152");
    let Some((full, tmpfs)) = Trial::on_tmpfs(4 << 20, "store.max_bytes = 2MiB") else { return };
    let filler = tmpfs.fill();
    both_refuse("a full one", &full, "0 bytes are free");
    fs::remove_file(filler).expect("ours");
    tmpfs.set_read_only(true);
    both_refuse("a read-only one", &full, "read-only");
    tmpfs.set_read_only(false);
    a_store(&full);
    // A store that is there is drained though the disk is full.
    let _filler = tmpfs.fill();
    a_store(&full);
    // A damaged one is put aside, and then a new one has no room.
    let Some((damaged, tmpfs)) = Trial::on_tmpfs(4 << 20, "") else { return };
    fs::write(damaged.store(), vec![0; 256 * 1024]).expect("ours");
    let _filler = tmpfs.fill();
    both_refuse("a damaged store on a full disk", &damaged, "bytes are free");
}

#[test]
fn what_the_system_forbids_is_refused_by_both() {
    let Some(directory) = Trial::at("spill.db", "").by_nobody() else { return };
    both_refuse("a directory of root's", &directory, "ermission denied");
    let Some(file) = Trial::at("spill.db", "").by_nobody() else { return };
    mode(file.directory.path(), 0o777);
    fs::write(file.store(), "").expect("ours");
    mode(&file.store(), 0o600);
    both_refuse("a file of root's", &file, "ermission denied");
    let Some(mut low) = Trial::at("spill.db", "").by_nobody() else { return };
    mode(low.directory.path(), 0o777);
    low.lines = low.lines.replace(&format!(":{}", low.port), ":883");
    let open = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if open.is_ok_and(|first| first.trim().parse().is_ok_and(|first: u16| first > 883)) {
        both_refuse("a low port", &low, "CAP_NET_BIND_SERVICE");
    }
}

#[test]
fn limits_of_the_process_are_refused_by_both() {
    let few = Trial::at("spill.db", "").limited("-n 16");
    both_refuse("few descriptors", &few, "file descriptors are needed and 16 allowed");
    let mut small = Trial::at("spill.db", "ring.bytes = 256MiB").limited("-v 200000");
    both_refuse("little address space", &small, "ulimit -v");
    // Just enough to be warned and to run.
    small = Trial::at("spill.db", "limit.clients = 8").limited("-n 64");
    let file = small.directory.write("spillway.conf", &small.lines);
    let output = small.command(true, &file).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("64 allowed"), "{text}");
    a_store(&small);
}

#[test]
fn what_is_wrong_with_listeners_is_refused_by_both() {
    let theirs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = theirs.local_addr().expect("bound").port();
    let me = format!("in use by process {} (", std::process::id());
    for host in ["127.0.0.1", "0.0.0.0", "[::]", "localhost", "[::ffff:127.0.0.1]"] {
        let mut trial = Trial::at("spill.db", "");
        trial.lines =
            trial.lines.replace(&format!("127.0.0.1:{}", trial.port), &format!("{host}:{port}"));
        both_refuse(&format!("a port in use, at {host}"), &trial, &me);
    }
    for (host, part) in [
        ("192.0.2.77", "(line 1): cannot listen on 192.0.2.77:1883: this machine has no such"),
        ("no.such.name.invalid", "(line 1): no.such.name.invalid is no address"),
    ] {
        let mut trial = Trial::at("spill.db", "");
        trial.lines =
            trial.lines.replace(&format!("127.0.0.1:{}", trial.port), &format!("{host}:1883"));
        both_refuse(host, &trial, part);
    }
    for (other, place) in [("localhost", "127.0.0.1"), ("LOCALHOST.", "127.0.0.1")] {
        let mut trial = Trial::at("spill.db", "");
        trial.lines += &format!("listener.b.url = mqtt://{other}:{}\n", trial.port);
        let line = trial.lines.lines().count();
        let part = format!(
            "listener.b.url (line {line}): listener.lan.url (line 1) listens at {place}:{} already",
            trial.port
        );
        both_refuse(&format!("{other} beside {place}"), &trial, &part);
    }
}

#[test]
fn a_store_in_use_is_refused_by_both_unless_it_is_the_same_gateway() {
    let mut first = Gateway::start("");
    let store = first.directory.file("spill.db").display().to_string();
    let mut trial = Trial::new();
    trial.lines += &format!("store.path = {store}\n");
    let part = format!("cannot use the store {store}: in use by process ");
    both_refuse("a store in use", &trial, &part);
    let file = first.configuration_file();
    both_refuse("a store in use", &trial, &format!("spillway -c {})", file.display()));
    // With the file it runs with, it is told how it stands for a reload or a restart.
    let mut client = Connect::v4("client").open(first.port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
    let names = |picture: Vec<(PathBuf, u32, i64, i64, Vec<u8>)>| -> Vec<PathBuf> {
        picture.into_iter().map(|(path, ..)| path).collect()
    };
    let before = names(picture(first.directory.path()));
    for _ in 0..5 {
        let output = first.check();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let pid = first.process().id();
        assert!(text.contains(&format!("process {pid} runs with this file")), "{text}");
        assert!(text.ends_with("ok\n"), "{text}");
        assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
    }
    assert_eq!(names(picture(first.directory.path())), before);
    assert_eq!(first.reload("session.max_messages = 7").name, "reloaded");
    // A second one with the same file is refused all the same.
    let mut second = Process::start(trial.command(false, &file));
    assert_eq!(second.wait_exit(Duration::from_secs(20)).code(), Some(1));
    assert!(second.log.lines().iter().any(|line| line.contains(&part)));
    // A store that is not in use is only looked at, however it was left.
    for kill in [false, true] {
        if kill {
            first.run();
            Connect::v4("client")
                .open(first.port)
                .publish(&Message::new("t", "x").qos(2).retained());
            first.kill();
        } else {
            first.stop();
        }
        let before = picture(first.directory.path());
        let output = first.check();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(picture(first.directory.path()), before);
    }
}

#[test]
fn check_says_that_a_damaged_store_will_be_put_aside_and_leaves_it() {
    let mut gateway = Gateway::start("");
    gateway.stop();
    let store = gateway.directory.file("spill.db");
    fs::write(&store, vec![0; 64 * 1024]).expect("ours");
    let before = picture(gateway.directory.path());
    let output = gateway.check();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("is put aside at the start"), "{text}");
    assert_eq!(picture(gateway.directory.path()), before);
    gateway.run();
    gateway.wait("store_quarantined");
}

#[test]
fn all_of_ipv4_and_all_of_ipv6_stand_side_by_side() {
    let reach = |host: &str, port: u16| TcpStream::connect((host, port)).is_ok();
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6");
        return;
    }
    for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["[::]", "127.0.0.1"]] {
        let mut gateway = Gateway::prepare("");
        let port = gateway.port;
        let [a, b] = order;
        let lines =
            format!("listener.lan.url = mqtt://{a}:{port}\nlistener.b.url = mqtt://{b}:{port}\n");
        gateway.configure(&lines);
        let output = gateway.check();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{order:?}: {text}");
        assert_eq!(text.contains("takes IPv6 alone"), b == "127.0.0.1", "{text}");
        gateway.run();
        gateway.wait_with("listening", &[("listener", "b")]);
        assert!(reach("127.0.0.1", port) && reach("::1", port), "{order:?}");
    }
    // Alone, `[::]` takes both.
    let mut gateway = Gateway::prepare("");
    let port = gateway.port;
    gateway.configure(&format!("listener.lan.url = mqtt://[::]:{port}\n"));
    gateway.run();
    assert!(reach("127.0.0.1", port) && reach("::1", port));
    assert!(dial(port).is_ok());
}

#[test]
fn addresses_that_collide_are_errors_of_the_file_with_both_lines() {
    for (a, b) in [
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("[::]", "[::1]"),
        ("[::1]", "[0:0:0::1]"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ] {
        let directory = Directory::new();
        let lines = format!("listener.a.url = mqtt://{a}:7\n\nlistener.b.url = mqtt://{b}:7\n");
        let file = directory.write("spillway.conf", &lines);
        for check in [false, true] {
            let mut command = Command::new(binary());
            command.args(check.then_some("--check")).arg("-c").arg(&file);
            let output = command.output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{a} {b}: {text}");
            let place = format!("{}:3: listener.b.url: listener.a.url (line 1)", file.display());
            assert!(text.starts_with(&place) && text.lines().count() == 1, "{text}");
        }
    }
}
