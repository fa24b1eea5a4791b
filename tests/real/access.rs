//! Users and access rules, side by side with mosquitto: the files are its own, and so is what they
//! mean.

use crate::common::client::Client;
use crate::common::gateway::{Gateway, binary};
use crate::common::mosquitto::{Mosquitto, mosquitto_passwd, mosquitto_pub, try_mosquitto_pub};
use crate::common::place::Directory;
use crate::common::wire::{Connect, Message, Packet};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A password file as mosquitto_passwd writes it: everybody's password is their name backwards.
fn users(directory: &Directory, names: &[&str]) -> String {
    let file = directory.write("users", "");
    for name in names {
        mosquitto_passwd(&["-b", &file.display().to_string(), name, &backwards(name)]);
    }
    file.display().to_string()
}

fn backwards(name: &str) -> String {
    name.chars().rev().collect()
}

fn connect(level: u8, id: &str, user: &str) -> Connect {
    let connect = Connect::new(level, id);
    if user.is_empty() { connect } else { connect.user(user, &backwards(user)) }
}

fn code(connect: &Connect, port: u16) -> u8 {
    connect.try_open(port).expect("an answer").connack.code
}

fn spillway_passwd(file: &Path, user: &str, input: &str) -> Output {
    let mut command = Command::new(binary());
    command.arg("passwd").arg(file).arg(user);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It may have ended already: then its status says why.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("our own child")
}

#[test]
fn only_the_users_of_the_file_are_let_in_with_their_passwords() {
    let directory = Directory::new();
    let file = users(&directory, &["alice", "bob"]);
    mosquitto_passwd(&["-H", "sha512", "-b", &file, "old", "dlo"]);
    let both = format!("auth.password_file = {file}\n");
    let open = Gateway::start(&both);
    let closed = Gateway::start(&format!("{both}listener.lan.anonymous = false\n"));
    for (level, wrong, nobody) in [(3, 4, 5), (4, 4, 5), (5, 0x86, 0x87)] {
        for port in [open.port, closed.port] {
            for user in ["alice", "bob", "old"] {
                assert_eq!(code(&connect(level, "c", user), port), 0, "{user} {level}");
            }
            assert_eq!(code(&Connect::new(level, "c").user("alice", "wrong"), port), wrong);
            let unknown = format!("unknown{level}");
            assert_eq!(code(&connect(level, "c", &unknown), port), wrong);
        }
        let without = Connect { password: None, ..connect(level, "c", "bob") };
        assert_eq!(code(&without, closed.port), wrong);
        assert_eq!(code(&Connect::new(level, "c"), open.port), 0);
        assert_eq!(code(&Connect::new(level, "c"), closed.port), nobody);
    }
    closed.wait_with("client_refused", &[("reason", "bad_credentials")]);
    closed.wait_with("client_refused", &[("reason", "not_authorized")]);
}

#[test]
fn a_reload_ends_the_connections_of_whoever_would_not_be_let_in_any_more() {
    let directory = Directory::new();
    let file = users(&directory, &["alice", "bob", "carol"]);
    let configuration = format!("auth.password_file = {file}\n");
    let gateway = Gateway::start(&configuration);
    let will = Message::new("gone", "bob");
    let mut alice = connect(5, "a", "alice").open(gateway.port);
    let mut bob = connect(5, "b", "bob").will(will).open(gateway.port);
    let mut carol = connect(4, "c", "carol").open(gateway.port);
    let mut nobody = Connect::v4("n").open(gateway.port);
    carol.subscribe(&[("gone", 1)]);
    mosquitto_passwd(&["-b", &file, "alice", "another"]);
    mosquitto_passwd(&["-D", &file, "bob"]);
    assert_eq!(gateway.reload(&configuration).text("changed"), "auth.password_file");
    let told = |client: &mut Client| {
        let closed = client.wait_closed();
        assert!(matches!(closed.last(), Some(Packet::Disconnect { code: 0x87 })), "{closed:?}");
    };
    told(&mut alice);
    told(&mut bob);
    gateway.wait_with("client_disconnected", &[("client", "b"), ("reason", "not_authorized")]);
    assert_eq!(carol.next().text(), "bob", "its will is published");
    carol.ping();
    nobody.ping();
    assert_eq!(code(&connect(5, "a", "alice"), gateway.port), 0x86);
    assert_eq!(code(&Connect::v5("a").user("alice", "another"), gateway.port), 0);
    let closed = format!("{configuration}listener.lan.anonymous = false\n");
    assert_eq!(gateway.reload(&closed).text("changed"), "listener.NAME.anonymous");
    assert_eq!(nobody.wait_closed().len(), 0);
    gateway.wait_with("client_disconnected", &[("client", "n"), ("reason", "not_authorized")]);
    carol.ping();
}

#[test]
fn a_refused_client_takes_nothing_over() {
    let directory = Directory::new();
    let file = users(&directory, &["alice"]);
    let gateway = Gateway::start(&format!("auth.password_file = {file}\n"));
    let mut alice = connect(5, "one", "alice").open(gateway.port);
    assert_eq!(code(&Connect::v5("one").user("alice", "guess"), gateway.port), 0x86);
    alice.ping();
}

#[test]
fn either_program_reads_the_file_that_the_other_has_written() {
    let directory = Directory::new();
    let file = users(&directory, &["alice"]);
    let path = Path::new(&file);
    let line = |name: &str| {
        let text = std::fs::read_to_string(path).expect("our own file");
        text.lines().find(|line| line.starts_with(&format!("{name}:"))).map(str::to_owned)
    };
    let alice = line("alice").expect("mosquitto_passwd has added her");
    // Readable for the group that the gateway is in.
    let shared = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(path, shared).expect("our own file");
    for (user, password) in [("carol", "first"), ("two words", "pass word"), ("carol", "lorac")] {
        let output = spillway_passwd(path, user, &format!("{password}\nnot this\n"));
        assert!(output.status.success(), "{output:?}");
        assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
    }
    assert_eq!(line("alice").as_ref(), Some(&alice), "others stay as they are");
    let mode = path.metadata().expect("our own file").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "as it was");
    mosquitto_passwd(&["-b", &file, "dave", "evad"]);
    let names = std::fs::read_dir(directory.path()).expect("our own directory").count();
    assert_eq!(names, 1, "nothing is left behind");

    let mosquitto = Mosquitto::start_with(&format!("password_file {file}\n"));
    let both = format!("auth.password_file = {file}\nlistener.lan.anonymous = false\n");
    let gateway = Gateway::start(&both);
    for port in [mosquitto.port, gateway.port] {
        let publish = |user, password| {
            let words = ["-u", user, "-P", password, "-t", "a", "-m", "x", "-q", "1"];
            try_mosquitto_pub(port, &words).status.success()
        };
        for (user, password) in
            [("alice", "ecila"), ("carol", "lorac"), ("two words", "pass word"), ("dave", "evad")]
        {
            assert!(publish(user, password), "{user} at {port}");
        }
        assert!(!publish("carol", "first"));
    }
}

#[test]
fn passwd_refuses_what_no_password_file_can_hold_and_changes_nothing() {
    let directory = Directory::new();
    let file = directory.write("users", "alice:$7$1$AA==$AA==\n");
    for (user, input) in
        [("a:b", "x\n"), ("", "x\n"), ("#a", "x\n"), (" a", "x\n"), ("a", ""), ("a", "\n")]
    {
        let output = spillway_passwd(&file, user, input);
        assert_eq!(output.status.code(), Some(2), "{user:?} {input:?}: {output:?}");
        assert!(output.stderr.starts_with(b"spillway: "), "{output:?}");
    }
    let nowhere = directory.file("no/users");
    assert_eq!(spillway_passwd(&nowhere, "a", "x\n").status.code(), Some(1));
    let text = std::fs::read_to_string(&file).expect("our own file");
    assert_eq!(text, "alice:$7$1$AA==$AA==\n");
}

#[test]
fn a_file_with_an_error_is_refused_at_start_with_its_line() {
    let directory = Directory::new();
    let users = directory.write("users", "# mine\nalice:plain\n").display().to_string();
    let rules = directory.write("rules", "user alice\n\ntopic all a/#\n").display().to_string();
    let mut gateway = Gateway::prepare(&format!(
        "auth.password_file = {users}\nauth.acl_file = {rules}\nlistener.lan.anonymous = false\n"
    ));
    let (status, lines) = gateway.run_to_the_end();
    assert_eq!(status.code(), Some(2));
    let said = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(said(&format!("auth.password_file: {users}:2: ")), "{lines:?}");
    assert!(said(&format!("auth.acl_file: {rules}:3: ")), "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn guessing_is_slowed_and_logged_and_others_are_let_in() {
    let directory = Directory::new();
    let file = users(&directory, &["alice", "bob"]);
    let gateway = Gateway::start(&format!("auth.password_file = {file}\n"));
    let codes: Vec<u8> = (0..10)
        .map(|n| code(&Connect::v5("c").user("alice", &format!("guess{n}")), gateway.port))
        .collect();
    assert_eq!(codes[..3], [0x86; 3]);
    // A machine that is slow enough gives it another try after a second.
    assert!(codes.iter().filter(|code| **code == 0x9F).count() >= 4, "{codes:x?}");
    gateway.wait_with("client_refused", &[("reason", "login_slowed")]);
    assert_eq!(code(&connect(5, "c", "bob"), gateway.port), 0);
}

/// `patience`, hashed as often as a line may ask for.
const SLOW: &str = "\
slow:$7$20000$dHdlbHZlIGJ5dGVz$VE5BdkhKHLiJy9Zgyuh1/u3N71ge7YmX3RVLOOkpcCjF\
fc9hApdC08GPC+T1irFGwtpQIBtN7auZ6rjv/viIKw==
";

#[test]
fn the_most_expensive_hash_holds_nobody_up() {
    let directory = Directory::new();
    let file = directory.write("users", SLOW).display().to_string();
    let gateway = Gateway::start(&format!("auth.password_file = {file}\n"));
    let mut other = Connect::v4("other").open(gateway.port);
    for level in [3, 4, 5] {
        let slow = std::thread::spawn({
            let port = gateway.port;
            move || code(&Connect::new(level, "slow").user("slow", "patience"), port)
        });
        let mut pings = 0;
        while !slow.is_finished() {
            other.ping();
            pings += 1;
        }
        assert_eq!(slow.join().expect("an answer"), 0);
        assert!(pings > 1, "the other client has been served meanwhile: {pings} pings");
    }
    assert!(gateway.events().iter().all(|event| event.name != "stall"));
}

/// Rules of every kind: the first line of a client is its user, or nothing.
const RULES: &str = "\
topic read public/#
user admin
topic #
topic $x/#
user alice
topic a/#
topic deny a/secret/+
topic write b/+/c
topic deny d/alice/closed
topic read e/#
topic write e/x
topic read g/open
user bob
topic read $x/#
topic deny a/b
topic read +/+
user b+b
topic read a/b
pattern write d/%u/#
pattern readwrite c/%c/%u
pattern read c/%c
pattern deny g/#
";

const TOPICS: [&str; 22] = [
    "public",
    "public/a",
    "a",
    "a/b",
    "a/b/c",
    "a/secret",
    "a/secret/x",
    "b/1/c",
    "b/1/d",
    "d/alice/open",
    "d/alice/closed",
    "d/bob",
    "d/bob/x",
    "e/x",
    "e/y",
    "g/open",
    "g/other",
    "c/one",
    "c/one/alice",
    "c/one/bob",
    "c/one/",
    "$x/y",
];

/// User and client id.
const CLIENTS: [(&str, &str); 5] =
    [("", "one"), ("alice", "one"), ("bob", "one"), ("bob", "+"), ("b+b", "one")];

/// What has come until the peer has answered twice: the first answer may overtake.
fn messages(client: &mut Client) -> Vec<Message> {
    client.ping();
    client.ping();
    std::iter::from_fn(|| client.next_within(std::time::Duration::ZERO)).collect()
}

fn heard(client: &mut Client) -> BTreeSet<String> {
    messages(client).into_iter().map(|message| message.topic).collect()
}

/// What a client may do, as it turns out: topics delivered, delivered from what is retained, passed
/// on for it, its will passed on, and the reason codes of its PUBLISHes.
#[derive(Debug, PartialEq, Eq)]
struct Findings {
    delivered: BTreeSet<String>,
    retained: BTreeSet<String>,
    passed_on: BTreeSet<String>,
    wills: BTreeSet<String>,
    codes: Vec<u8>,
}

fn findings(port: u16, level: u8, user: &str, id: &str, topics: &[&str]) -> Findings {
    let everything = [("#", 0), ("$x/#", 0)];
    let mut admin = connect(level, "admin", "admin").open(port);
    let mut client = connect(level, id, user).open(port);
    // Spillway refuses what would bring nothing, mosquitto grants it.
    client.subscribe(&everything);
    for topic in topics {
        admin.publish(&Message::new(topic, "live").qos(1));
    }
    let delivered = heard(&mut client);
    client.disconnect();
    for topic in topics {
        admin.publish(&Message::new(topic, "kept").qos(1).retained());
    }
    let mut client = connect(level, id, user).open(port);
    client.subscribe(&everything);
    let retained = heard(&mut client);
    for topic in topics {
        admin.publish(&Message::new(topic, "").qos(1).retained());
    }
    client.disconnect();
    let mut client = connect(level, id, user).open(port);
    admin.subscribe(&everything);
    let codes =
        topics.iter().map(|topic| client.publish(&Message::new(topic, "x").qos(1))).collect();
    for topic in topics {
        client.publish(&Message::new(topic, "x").qos(2));
        client.publish(&Message::new(topic, "x"));
    }
    client.ping();
    let passed_on = heard(&mut admin);
    client.disconnect();
    for topic in topics {
        let will = Message::new(topic, "will");
        connect(level, id, user).will(will).open(port).vanish();
    }
    // Each took over from the one before it: with this one they are all over.
    connect(level, id, user).open(port).disconnect();
    let wills = heard(&mut admin);
    Findings { delivered, retained, passed_on, wills, codes }
}

/// Plays it all against both; what both said, by client, first for 3.1.1 and then for 5.
fn compare(rules: &str, topics: &[&str]) -> Vec<Findings> {
    let directory = Directory::new();
    let users = users(&directory, &["admin", "alice", "bob", "b+b"]);
    let rules = directory.write("rules", rules).display().to_string();
    // With no bound on its queue it ends a connection whose PUBLISH it denies.
    let mosquitto = Mosquitto::start_with(&format!(
        "max_queued_messages 1000\npassword_file {users}\nacl_file {rules}\n"
    ));
    let gateway =
        Gateway::start(&format!("auth.password_file = {users}\nauth.acl_file = {rules}\n"));
    let mut found = Vec::new();
    for level in [4, 5] {
        for (user, id) in CLIENTS {
            let ours = findings(gateway.port, level, user, id, topics);
            let theirs = findings(mosquitto.port, level, user, id, topics);
            assert_eq!(ours, theirs, "user {user:?}, client {id:?}, version {level}");
            found.push(ours);
        }
    }
    found
}

#[test]
fn rights_are_the_same_as_at_mosquitto() {
    let found = compare(RULES, &TOPICS);
    // They agree on something, and not because nothing or everything is allowed.
    let alice = &found[CLIENTS.len() + 1];
    for topics in [&alice.delivered, &alice.retained, &alice.passed_on, &alice.wills] {
        assert!(topics.contains("a/b") && !topics.contains("a/secret/x"), "{alice:?}");
    }
    let denied = alice.codes.iter().filter(|code| **code == 0x87).count();
    assert!((5..TOPICS.len() - 5).contains(&denied), "{alice:x?}");
    assert!(found[1].codes.iter().all(|code| *code == 0), "3.1.1 has no word for it");
}

/// Rules from a seed.
fn random_rules(mut seed: u64) -> String {
    let mut pick = |words: &[&'static str]| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[usize::try_from(seed >> 33).expect("31 bits") % words.len()]
    };
    let levels = ["a", "b", "one", "alice", "+", "#"];
    let mut text = String::from("user admin\ntopic #\ntopic $x/#\nuser nobody\n");
    for _ in 0..24 {
        let access = pick(&["read", "write", "readwrite", "deny", "read", "write"]);
        let mut filter = pick(&["a", "b", "a", "$x", "+", "#"]).to_owned();
        for _ in 0..3 {
            if filter.ends_with('#') || pick(&["", "end"]) == "end" {
                break;
            }
            filter = format!("{filter}/{}", pick(&levels));
        }
        match pick(&["user", "topic", "topic", "topic", "pattern"]) {
            "user" => text += &format!("user {}\n", pick(&["alice", "bob", "b+b"])),
            "topic" => text += &format!("topic {access} {filter}\n"),
            _ if filter.ends_with('#') => text += &format!("pattern {access} {filter}\n"),
            _ => text += &format!("pattern {access} {filter}/{}\n", pick(&["%u", "%c"])),
        }
    }
    text
}

#[test]
fn rights_of_random_rules_are_the_same_as_at_mosquitto() {
    let topics =
        ["a", "a/b", "a/one", "a/alice", "a/b/one", "a/b/alice", "b", "b/a/one", "one/b", "$x/a"];
    for seed in 1..=6 {
        let rules = random_rules(seed);
        eprintln!("seed {seed}:\n{rules}");
        compare(&rules, &topics);
    }
}

#[test]
fn a_subscription_that_can_bring_nothing_is_refused() {
    let directory = Directory::new();
    let users = users(&directory, &["alice"]);
    let rules = directory.write("rules", RULES).display().to_string();
    let gateway =
        Gateway::start(&format!("auth.password_file = {users}\nauth.acl_file = {rules}\n"));
    for (level, refused) in [(4, 0x80), (5, 0x87)] {
        let mut alice = connect(level, "one", "alice").open(gateway.port);
        let codes = alice.subscribe(&[("a/#", 1), ("a/secret/x", 1), ("b/#", 2), ("#", 2)]);
        assert_eq!(codes, [1, refused, refused, 2], "version {level}");
    }
    let sub = ["-u", "alice", "-P", "ecila", "-i", "one", "-t", "a/b", "-m", "x"];
    mosquitto_pub(gateway.port, &sub);
}

#[test]
fn a_member_of_a_group_gets_only_what_it_may_read() {
    let directory = Directory::new();
    let users = users(&directory, &["alice", "bob", "admin"]);
    let rules = "user admin\ntopic #\nuser alice\ntopic read #\nuser bob\ntopic read b\n";
    let rules = directory.write("rules", rules).display().to_string();
    let gateway =
        Gateway::start(&format!("auth.password_file = {users}\nauth.acl_file = {rules}\n"));
    let mut alice = connect(5, "a", "alice").open(gateway.port);
    let mut bob = connect(5, "b", "bob").open(gateway.port);
    for member in [&mut alice, &mut bob] {
        assert_eq!(member.subscribe(&[("$share/g/+", 1)]), [1]);
    }
    let mut admin = connect(5, "admin", "admin").open(gateway.port);
    for n in 0..20 {
        let topic = if n % 2 == 0 { "a" } else { "b" };
        admin.publish(&Message::new(topic, format!("{n}")).qos(1));
    }
    let (for_alice, for_bob) = (messages(&mut alice), messages(&mut bob));
    assert_eq!(for_alice.len() + for_bob.len(), 20, "none is lost");
    assert_eq!(for_alice.iter().filter(|message| message.topic == "a").count(), 10);
    assert!(!for_bob.is_empty(), "both take their turns");
}

#[test]
fn what_is_denied_is_counted() {
    let directory = Directory::new();
    let rules = directory.write("rules", RULES).display().to_string();
    let gateway = Gateway::start(&format!("auth.acl_file = {rules}\n"));
    let mut client = Connect::v5("one").open(gateway.port);
    assert_eq!(client.publish(&Message::new("public", "x").qos(1)), 0x87);
    gateway.wait_with("drop", &[("reason", "not_authorized"), ("destination", "local")]);
    Connect::v4("two").will(Message::new("public", "x")).open(gateway.port).vanish();
    gateway.wait_stats("two drops", |stats| stats.number("drops") == 2);
}

#[test]
fn what_waits_in_a_session_is_judged_by_the_rules_and_the_user_that_it_leaves_under() {
    let directory = Directory::new();
    let users = users(&directory, &["alice", "bob", "admin"]);
    let rules = |text: &str| directory.write("rules", text).display().to_string();
    let before = rules("user admin\ntopic #\nuser alice\ntopic read #\nuser bob\ntopic read b\n");
    let mut gateway =
        Gateway::start(&format!("auth.password_file = {users}\nauth.acl_file = {before}\n"));
    let session = |user| connect(4, "kept", user).persistent();
    let fill = |gateway: &Gateway| {
        let mut admin = connect(4, "admin", "admin").open(gateway.port);
        for topic in ["a", "b", "c"] {
            assert_eq!(admin.publish(&Message::new(topic, "x").qos(1)), 0);
        }
        admin.publish(&Message::new("b", "end").qos(1));
    };
    let topics = |client: &mut Client| -> Vec<String> {
        client.until("end").into_iter().map(|message| message.topic).collect()
    };
    let mut alice = session("alice").open(gateway.port);
    alice.subscribe(&[("#", 1)]);
    alice.disconnect();
    fill(&gateway);
    let mut bob = session("bob").open(gateway.port);
    assert!(bob.connack.session_present);
    assert_eq!(topics(&mut bob), ["b"]);
    gateway.wait_with("drop", &[("reason", "not_authorized"), ("destination", "kept")]);
    bob.disconnect();
    // The session is bob's now, over a restart too: what he may not read waits for nobody.
    gateway.stop();
    gateway.run();
    fill(&gateway);
    let mut alice = session("alice").open(gateway.port);
    assert_eq!(topics(&mut alice), ["b"]);
    alice.disconnect();
    // Hers again, and the rules change meanwhile.
    fill(&gateway);
    gateway.stop();
    rules("user alice\ntopic read b\ntopic read c\n");
    gateway.run();
    let mut alice = session("alice").open(gateway.port);
    assert_eq!(topics(&mut alice), ["b", "c"]);
}
