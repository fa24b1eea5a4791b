//! `scripts/S60spillway` with the shell that is here, busybox's if there is one: what a router's
//! `/etc/init.d` asks for.

use crate::common::gateway::binary;
use crate::common::place::{Directory, free_port};
use crate::common::wait_until;
use crate::common::wire::Connect;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const LOG_BYTES: usize = 8000;

/// The script with its places below a directory of ours. Stops what it started.
struct Script {
    place: Directory,
    port: u16,
}

impl Script {
    fn new() -> Self {
        let (place, port) = (Directory::new(), free_port());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text = fs::read_to_string(root.join("scripts/S60spillway")).expect("the script");
        let program = fs::canonicalize(binary()).expect("the program");
        for (from, to) in [
            ("DAEMON=/usr/sbin/spillway\n", format!("DAEMON={}\n", program.display())),
            ("CONF=/etc", format!("CONF={}", place.path().display())),
            ("PIDFILE=/var/run", format!("PIDFILE={}", place.path().display())),
            ("LOG=/tmp", format!("LOG={}", place.path().display())),
            ("LOG_BYTES=262144", format!("LOG_BYTES={LOG_BYTES}")),
            ("/etc/default/", format!("{}/default-", place.path().display())),
            // As on a router without a syslogd.
            ("/dev/log", "/nowhere/log".to_owned()),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, &to);
        }
        place.write("S60spillway", &text);
        let script = Self { place, port };
        script.configure("");
        script
    }

    fn configure(&self, more: &str) {
        let store = self.place.file("spill.db");
        let text = format!(
            "listener.a.url = mqtt://127.0.0.1:{}\nstore.path = {}\n{more}",
            self.port,
            store.display()
        );
        self.place.write("spillway.conf", &text);
    }

    /// Its exit status and what it said.
    fn run(&self, action: &str) -> (i32, String) {
        let busybox = Command::new("busybox").arg("true").status().is_ok_and(|it| it.success());
        let mut shell = Command::new(if busybox { "busybox" } else { "sh" });
        if busybox {
            shell.arg("sh");
        }
        // What it leaves running must not keep our pipe open: a file.
        let said = self.place.file("said");
        let out = fs::File::create(&said).expect("a file");
        let status = shell
            .arg(self.place.file("S60spillway"))
            .arg(action)
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("a file"))
            .stdout(out)
            .status()
            .expect("a shell");
        (status.code().expect("it exits"), fs::read_to_string(said).expect("text"))
    }

    /// The number that is the last word.
    fn pid(said: &str) -> u32 {
        let word = said.split_whitespace().last().unwrap_or_default();
        word.parse().unwrap_or_else(|_| panic!("no number in {said:?}"))
    }

    fn log(&self) -> String {
        ["spillway.log.0", "spillway.log"]
            .map(|name| fs::read_to_string(self.place.file(name)).unwrap_or_default())
            .concat()
    }

    fn says(&self, wanted: &str) {
        wait_until(wanted, || self.log().contains(wanted));
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.run("stop");
    }
}

#[test]
fn start_status_restart_and_stop_do_what_they_say() {
    let script = Script::new();
    assert_eq!(script.run("status"), (3, "spillway does not run\n".to_owned()));
    assert_eq!(script.run("stop"), (0, "spillway does not run\n".to_owned()));
    let (status, said) = script.run("start");
    assert_eq!(status, 0, "{said}");
    let first = Script::pid(&said);
    Connect::v4("c").open(script.port).ping();
    assert_eq!(script.run("start"), (0, format!("spillway runs already, as {first}\n")));
    assert_eq!(script.run("status"), (0, format!("spillway runs, as {first}\n")));
    let (status, said) = script.run("restart");
    assert!(status == 0 && said.starts_with("spillway stopped\n"), "{said}");
    assert_ne!(Script::pid(&said), first);
    script.says("event=stopped");
    Connect::v4("c").open(script.port).ping();
    assert_eq!(script.run("stop"), (0, "spillway stopped\n".to_owned()));
    assert_eq!(script.run("status").0, 3);
    assert_eq!(script.run("dance").0, 2);
}

#[test]
fn reload_takes_a_good_file_and_refuses_a_bad_one_while_it_goes_on() {
    let script = Script::new();
    assert_eq!(script.run("reload"), (1, "spillway does not run\n".to_owned()));
    assert_eq!(script.run("start").0, 0);
    let mut client = Connect::v4("c").open(script.port);
    script.configure("session.max_messages = 17\n");
    assert_eq!(script.run("reload").0, 0);
    script.says("event=reloaded changed=");
    script.configure("session.max_mesages = 17\n");
    let (status, said) = script.run("reload");
    assert!(status != 0 && said.contains("session.max_messages"), "{said}");
    client.ping();
    let (status, said) = script.run("restart");
    assert!(status != 0 && said.contains("session.max_messages"), "{said}");
    client.ping();
}

#[test]
fn its_log_stays_below_twice_its_bound() {
    let script = Script::new();
    script.configure("log.level = debug\n");
    assert_eq!(script.run("start").0, 0);
    let parts = || {
        ["spillway.log", "spillway.log.0"]
            .map(|name| fs::metadata(script.place.file(name)).map_or(0, |data| data.len()))
    };
    let mut rounds = 0;
    wait_until("the log is turned over", || {
        for _ in 0..20 {
            Connect::v4("c").open(script.port).ping();
        }
        rounds += 1;
        parts()[1] > 0
    });
    assert!(rounds > 1, "{rounds}");
    // A line more than the bound at most.
    assert!(parts().iter().all(|bytes| *bytes < 8000 + 500), "{:?}", parts());
}
