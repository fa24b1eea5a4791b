//! Files as people write them and programs leave them: marks, line ends, other codes, no text at
//! all, and what `spillway passwd` makes of the one it changes.

use crate::common::gateway::{Gateway, binary, bridge};
use crate::common::mosquitto::{Mosquitto, mosquitto_passwd};
use crate::common::place::Directory;
use crate::common::wire::{Connect, Message};
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn written(directory: &Directory, name: &str, bytes: &[u8]) -> String {
    let file = directory.file(name);
    fs::write(&file, bytes).expect("our directory");
    file.display().to_string()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn passwd(file: &Path, user: &str, password: &str) -> Output {
    let mut command = Command::new(binary());
    command.arg("passwd").arg(file).arg(user);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It may have ended already: then its status says why.
    let _ = writeln!(stdin, "{password}");
    drop(stdin);
    child.wait_with_output().expect("our own child")
}

/// One text in every form in which it means the same.
fn forms(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let mark = "\u{feff}";
    let trimmed = text.trim_end().to_owned();
    let blanks = text.replace('\n', " \t\n");
    vec![
        ("plain", text.into()),
        ("with a mark", format!("{mark}{text}").into()),
        ("CRLF", text.replace('\n', "\r\n").into()),
        ("CRLF with a mark", format!("{mark}{}", text.replace('\n', "\r\n")).into()),
        ("CR", text.replace('\n', "\r").into()),
        ("no last line end", trimmed.into()),
        ("blanks behind the lines", blanks.into()),
    ]
}

#[test]
fn every_text_file_is_read_in_every_form() {
    let directory = Directory::new();
    let users = directory.write("users", "");
    mosquitto_passwd(&["-b", &users.display().to_string(), "alice", "secret"]);
    let users = fs::read_to_string(&users).expect("our own file");
    let rules = "# mine\nuser alice\ntopic readwrite a/#\n";
    let remote_users = directory.write("remote", "");
    mosquitto_passwd(&["-b", &remote_users.display().to_string(), "gw", "pass word"]);
    let remote_users = remote_users.display();
    let remote = format!("allow_anonymous false\npassword_file {remote_users}\n");
    let remote = Mosquitto::start_with(&remote);
    for (at, (form, users)) in forms(&users).into_iter().enumerate() {
        let users = written(&directory, "users", &users);
        let rules = written(&directory, "rules", &forms(rules)[at].1);
        // Blanks at the end of a password would be a part of it.
        let secret = if form.starts_with("blanks") {
            "pass word\n\n".into()
        } else {
            forms("pass word\n")[at].1.clone()
        };
        let secret = written(&directory, "secret", &secret);
        let rule = ["username = gw".to_owned(), format!("password_file = {secret}")];
        let rule: Vec<&str> =
            rule.iter().map(String::as_str).chain(["forward.1.local_topic = a/#"]).collect();
        let mut gateway = Gateway::prepare("");
        gateway.configure(&format!(
            "{}auth.password_file = {users}\nauth.acl_file = {rules}\n",
            bridge("up", remote.port, &rule)
        ));
        let configuration = fs::read_to_string(gateway.configuration_file()).expect("written");
        fs::write(gateway.configuration_file(), &forms(&configuration)[at].1).expect("written");
        let check = gateway.check();
        assert_eq!(check.status.code(), Some(0), "{form}: {}", said(&check));
        gateway.run();
        gateway.wait("bridge_up");
        let alice = |password| Connect::v5("a").user("alice", password);
        let mut client = alice("secret").open(gateway.port);
        assert_eq!(alice("wrong").try_open(gateway.port).expect("an answer").connack.code, 0x86);
        assert_eq!(client.subscribe(&[("a/b", 1), ("c", 1)]), [1, 0x87], "{form}");
    }
}

#[test]
fn what_is_no_text_is_said_with_file_and_line() {
    let directory = Directory::new();
    let wide: Vec<u8> = "\u{feff}a:b\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let huge = "# much\n".repeat(200_000).into_bytes();
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("wide", &wide, "", "UTF-16"),
        ("latin", b"# x\r\n# \xFC\n", ":2", "not UTF-8 (byte 0xfc)"),
        ("zero", b"# x\n# y\n# \0\n", ":3", "zero byte"),
        ("zeros", &[0; 4096], "", "nothing but zero bytes"),
        ("huge", &huge, "", "more than 1024 KiB"),
    ];
    for (name, bytes, line, part) in cases {
        let file = written(&directory, name, bytes);
        // As the configuration itself, and as each of the files that it names.
        let output = Command::new(binary()).args(["--check", "-c", &file]).output().expect("runs");
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(text.contains(&format!("{file}{line}")) && text.contains(part), "{name}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        let secret = "bridge.b.server = mqtt://h\nbridge.b.username = u\nbridge.b.password_file";
        for key in ["auth.password_file", "auth.acl_file", secret] {
            // A password in any code of one byte is one.
            if key == secret && *name == "latin" {
                continue;
            }
            let gateway = Gateway::prepare(&format!("{key} = {file}"));
            let output = gateway.check();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{name}: {text}");
            let named =
                text.contains(&file) && text.contains("password_file") | text.contains("acl_file");
            let line = if key == secret && *name == "zero" { ":3" } else { *line };
            assert!(named && text.contains(part), "{name} {key}: {text}");
            assert!(text.contains(&format!("{file}{line}")), "{name} {key}: {text}");
        }
    }
}

#[test]
fn a_file_that_would_never_end_is_no_configuration() {
    let directory = Directory::new();
    let fifo = directory.file("fifo");
    let name = CString::new(fifo.display().to_string()).expect("a plain path");
    // SAFETY: a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let fifo = fifo.display().to_string();
    let place = directory.path().display().to_string();
    for (file, part) in [(fifo.as_str(), "FIFO"), (&place, "directory"), ("/dev/zero", "1024 KiB")]
    {
        let output = Command::new(binary()).args(["-c", file]).output().expect("runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(part), "{}", said(&output));
    }
}

/// A reload with names and filters that no client can have: refused whole, each with its file and
/// line, and everybody goes on under what was read before.
#[test]
fn names_that_are_no_text_are_refused_with_file_and_line_and_nothing_is_lost() {
    let directory = Directory::new();
    let users = directory.write("users", "");
    let rules = directory.write("rules", "user alice\ntopic readwrite a/#\n");
    mosquitto_passwd(&["-b", &users.display().to_string(), "alice", "secret"]);
    let sound = fs::read_to_string(&users).expect("our own file");
    let secret = sound.split_once(':').expect("a line of mosquitto_passwd").1.trim_end();
    let configuration =
        format!("auth.password_file = {}\nauth.acl_file = {}", users.display(), rules.display());
    let gateway = Gateway::start(&configuration);
    let alice = || Connect::v5("alice").user("alice", "secret");
    let mut client = alice().open(gateway.port);
    assert_eq!(client.subscribe(&[("a/#", 1)]), [1]);
    let names = ["a\u{1}b", "\u{FFFE}", &"n".repeat(65_536), "\u{85}"];
    let bad: String = names.iter().map(|name| format!("{name}:{secret}\n")).collect();
    fs::write(&users, format!("{sound}{bad}")).expect("our own file");
    let bad: String = names.iter().map(|name| format!("user {name}\n")).collect();
    fs::write(&rules, format!("{bad}topic read \u{7F}\n")).expect("our own file");
    assert_eq!(gateway.reload(&configuration).name, "reload_refused");
    let texts: Vec<String> = gateway.events().iter().map(|event| event.line.clone()).collect();
    for place in (2..=5).map(|line| format!("users:{line}: ")) {
        assert!(texts.iter().any(|text| text.contains(&place)), "{place}: {texts:?}");
    }
    for place in (1..=5).map(|line| format!("rules:{line}: ")) {
        assert!(texts.iter().any(|text| text.contains(&place)), "{place}: {texts:?}");
    }
    // Bytes that are no UTF-8 at all.
    fs::write(&users, [sound.as_bytes(), b"b\xFFb:x\n"].concat()).expect("our own file");
    assert_eq!(gateway.reload(&configuration).name, "reload_refused");
    let texts: Vec<String> = gateway.events().iter().map(|event| event.line.clone()).collect();
    assert!(texts.iter().any(|text| text.contains("users:2: is not UTF-8")), "{texts:?}");
    // Who is here goes on, and who comes is let in.
    assert_eq!(client.publish(&Message::new("a/b", "x").qos(1)), 0);
    assert_eq!(client.next().text(), "x");
    client.disconnect();
    assert_eq!(alice().open(gateway.port).subscribe(&[("a/#", 1)]), [1]);
}

#[test]
fn an_empty_file_of_users_or_rules_is_warned_about() {
    let directory = Directory::new();
    let file = written(&directory, "empty", b"\xEF\xBB\xBF\r\n# nobody\r\n");
    let text = format!("auth.password_file = {file}\nauth.acl_file = {file}");
    let text = said(&Gateway::prepare(&text).check());
    assert!(text.contains("nobody has a password"), "{text}");
    assert!(text.contains("everything is denied"), "{text}");
}

#[test]
fn a_changed_password_file_keeps_owner_mode_attributes_and_its_link() {
    let directory = Directory::new();
    let file = written(&directory, "users", b"bob:$7$1$AA==$AA==\r\n");
    let (file, link) = (Path::new(&file), directory.file("link"));
    symlink("users", &link).expect("a link");
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).expect("our file");
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if root {
        chown(file, Some(12), Some(34)).expect("root may");
    }
    let attributes: Vec<(&str, Vec<u8>)> =
        [("user.note", b"mine".to_vec()), ("system.posix_acl_access", access_list())]
            .into_iter()
            .filter(|(name, value)| set_attribute(file, name, value))
            .collect();
    let before = fs::metadata(file).expect("our file");
    assert!(passwd(&link, "bob", "secret").status.success());
    let first = fs::metadata(file).expect("our file");
    assert_ne!(before.ino(), first.ino(), "replaced as a whole");
    assert!(passwd(&link, "eve", "secret").status.success());
    let after = fs::metadata(file).expect("our file");
    assert_eq!(before.mode(), after.mode());
    assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
    for (name, value) in attributes {
        assert_eq!(attribute(file, name), value, "{name}");
    }
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    let text = fs::read_to_string(file).expect("our file");
    assert!(text.starts_with("bob:$7$1000$") && text.contains("\r\neve:"), "{text}");
    assert_eq!(fs::read_dir(directory.path()).expect("ours").count(), 2, "nothing is left");
}

#[test]
fn a_new_password_file_is_for_its_owner_alone_wherever_a_link_leads() {
    let directory = Directory::new();
    let (file, link) = (directory.file("real"), directory.file("link"));
    symlink("real", &link).expect("a link");
    // What a run that was killed has left, and a mark, are no hindrance.
    directory.write("real.new", "half");
    assert!(passwd(&link, "bob", "secret").status.success());
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_eq!(fs::metadata(&file).expect("made").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).expect("made");
    fs::write(&file, format!("\u{feff}{text}")).expect("our file");
    assert!(passwd(&file, "bob", "another").status.success());
    let text = fs::read_to_string(&file).expect("made");
    assert!(text.lines().count() == 1 && text.starts_with("bob:"), "{text}");
    fs::write(&file, b"bob:\xE4\n").expect("our file");
    let output = passwd(&file, "eve", "secret");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("line 1: is not UTF-8"), "{}", said(&output));
}

#[test]
fn a_password_file_is_the_old_or_the_new_one_whenever_its_writer_is_killed() {
    let directory = Directory::new();
    let file = directory.file("users");
    assert!(passwd(&file, "bob", "secret").status.success());
    let mut texts = vec![fs::read_to_string(&file).expect("made")];
    for step in 0..60 {
        let mut command = Command::new(binary());
        command.arg("passwd").arg(&file).arg("bob").stdin(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        drop(writeln!(child.stdin.take().expect("stdin is piped"), "again"));
        // Wherever that is in its life: later with each step.
        let until = std::time::Instant::now() + std::time::Duration::from_micros(200 * step);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        let text = fs::read_to_string(&file).expect("never gone");
        assert!(text.lines().count() == 1 && text.starts_with("bob:$7$1000$"), "{text}");
        assert_eq!(text.len(), texts[0].len(), "whole");
        texts.push(text);
    }
    assert!(passwd(&file, "bob", "last").status.success(), "nothing that was left is in the way");
    assert_eq!(fs::read_dir(directory.path()).expect("ours").count(), 1);
}

/// `rw-` for the owner, `r--` for user 12345, nothing for the group, the mask `r--`.
fn access_list() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 12345), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend([tag.to_le_bytes(), may.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `false` where the file system has none of these.
fn set_attribute(file: &Path, name: &str, value: &[u8]) -> bool {
    let (file, plain) = (path(file), CString::new(name).expect("plain"));
    let (from, bytes) = (value.as_ptr().cast(), value.len());
    // SAFETY: C strings that outlive the call; the pointer and the length describe `value`.
    let set = unsafe { libc::setxattr(file.as_ptr(), plain.as_ptr(), from, bytes, 0) } == 0;
    if !set {
        println!("skipped: {name}: {}", std::io::Error::last_os_error());
    }
    set
}

fn attribute(file: &Path, name: &str) -> Vec<u8> {
    let (file, name) = (path(file), CString::new(name).expect("plain"));
    let mut value = vec![0_u8; 256];
    let to = value.as_mut_ptr().cast();
    // SAFETY: as above.
    let count = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), to, value.len()) };
    value.truncate(usize::try_from(count).unwrap_or(0));
    value
}

fn path(file: &Path) -> CString {
    CString::new(file.display().to_string()).expect("a plain path")
}
