//! What is found at the store's path at start: files that are not ours are left alone, and what
//! cannot be used at all is said, with status 1.

use crate::common::gateway::Gateway;
use crate::common::place::Directory;
use crate::common::tmpfs::Tmpfs;
use crate::common::wire::{Connect, Message};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A start that must end with status 1 and say all of these.
fn refused(gateway: &mut Gateway, said: &[&str]) {
    let (status, lines) = gateway.run_to_the_end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    let failed = lines.iter().find(|line| line.contains("event=start_failed"));
    let failed = failed.unwrap_or_else(|| panic!("no start_failed: {lines:#?}"));
    for part in said {
        assert!(failed.contains(part), "no {part:?} in {failed}");
    }
}

/// The files in a directory and what is in them.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a plain name");
        (name, fs::read(entry.path()).unwrap_or_default())
    };
    let files = fs::read_dir(directory).expect("our directory").map(read);
    let mut files: Vec<_> = files.filter(|(name, _)| !name.ends_with(".lock")).collect();
    files.sort();
    files
}

fn works(gateway: &Gateway) {
    let mut client = Connect::v4("client").open(gateway.port);
    assert_eq!(client.publish(&Message::new("t", "x").qos(2)), 0);
}

#[test]
fn foreign_files_are_left_alone() {
    let other = |gateway: &Gateway| {
        let db = Connection::open(gateway.directory.file("spill.db")).expect("a database");
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE theirs(x)").expect("SQL");
    };
    let text = |gateway: &Gateway, bytes: usize| {
        let text = "somebody's notes ".repeat(bytes / 17 + 1);
        fs::write(gateway.directory.file("spill.db"), &text[..bytes]).expect("a file");
    };
    // Of our page size, and of others.
    for bytes in [0, 50, 5000, 8192] {
        let mut gateway = Gateway::prepare("");
        let said = if bytes == 0 {
            other(&gateway);
            "another program's database"
        } else {
            text(&gateway, bytes);
            "no database"
        };
        let before = contents(gateway.directory.path());
        refused(&mut gateway, &["spill.db", said, "left alone"]);
        assert_eq!(contents(gateway.directory.path()), before);
    }
}

#[test]
fn a_store_of_a_newer_release_is_left_alone() {
    let mut gateway = Gateway::start("");
    works(&gateway);
    gateway.stop();
    let db = Connection::open(gateway.directory.file("spill.db")).expect("a store");
    db.pragma_update(None, "user_version", 99).expect("a newer version");
    drop(db);
    let before = contents(gateway.directory.path());
    refused(&mut gateway, &["newer release", "99"]);
    assert_eq!(contents(gateway.directory.path()), before);
}

#[test]
fn a_missing_directory_a_directory_and_a_lack_of_permission_are_said() {
    let mut gateway = Gateway::prepare("store.path = /nonexistent/deep/spill.db");
    refused(&mut gateway, &["/nonexistent/deep", "does not exist"]);
    let mut gateway = Gateway::prepare("");
    fs::create_dir(gateway.directory.file("spill.db")).expect("a directory");
    refused(&mut gateway, &["spill.db", "no regular file"]);
    assert!(gateway.directory.file("spill.db").is_dir());
    // Root may do everything, so it has to be somebody else.
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: not root");
        return;
    }
    let mut gateway = Gateway::start("");
    works(&gateway);
    gateway.stop();
    let locked = Directory::new();
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o755)).expect("our directory");
    let store = locked.file("spill.db");
    gateway.configure(&format!("store.path = {}", store.display()));
    let file = gateway.configuration_file();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    mode(gateway.directory.path(), 0o755);
    mode(&file, 0o644);
    // The directory may not be written; then a file of root's in a directory of everybody.
    for open in [false, true] {
        if open {
            mode(locked.path(), 0o777);
            fs::write(&store, "").expect("a file");
            mode(&store, 0o600);
        }
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(readable_binary(&locked))
            .arg("-c")
            .arg(&file)
            .output()
            .expect("setpriv");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("start_failed") && said.contains("ermission denied"), "{said}");
        assert!(said.contains("spill.db"), "{said}");
    }
}

/// The binary where everybody may run it.
fn readable_binary(directory: &Directory) -> std::path::PathBuf {
    let copy = directory.file("spillway");
    if !copy.exists() {
        fs::copy(crate::common::gateway::binary(), &copy).expect("a copy");
    }
    copy
}

#[test]
fn a_symbolic_link_leads_to_the_store_and_its_lock() {
    let mut gateway = Gateway::prepare("");
    let elsewhere = Directory::new();
    let (link, real) = (gateway.directory.file("spill.db"), elsewhere.file("real.db"));
    // It leads to nothing yet.
    symlink(&real, &link).expect("a link");
    gateway.run();
    works(&gateway);
    assert!(real.exists() && elsewhere.file("real.db-wal").exists());
    let mut second = Gateway::prepare(&format!("store.path = {}", real.display()));
    refused(&mut second, &["in use"]);
    gateway.kill();
    // Damage is put aside where the file is, and the link stays.
    fs::write(&real, vec![0; 8192]).expect("the store");
    gateway.run();
    let aside = gateway.wait("store_quarantined");
    assert!(aside.text("file").contains("real.db.corrupt-1"), "{}", aside.line);
    works(&gateway);
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
}

#[test]
fn a_file_system_in_ram_is_doubted_and_a_read_only_one_is_said_and_left_alone() {
    let place = Directory::new();
    let Some(tmpfs) = Tmpfs::mount(place.path(), 8 << 20) else { return };
    let store = place.file("spill.db");
    let mut gateway = Gateway::start(&format!("store.path = {}", store.display()));
    let doubt = gateway.wait("config_warning");
    assert!(doubt.text("text").contains("is tmpfs, which is RAM"), "{}", doubt.line);
    works(&gateway);
    gateway.stop();
    tmpfs.set_read_only(true);
    let before = contents(place.path());
    refused(&mut gateway, &["spill.db", "read-only"]);
    assert_eq!(contents(place.path()), before);
    tmpfs.set_read_only(false);
    gateway.run();
    works(&gateway);
}

#[test]
fn a_disk_without_room_for_a_store_is_said() {
    let place = Directory::new();
    let Some(tmpfs) = Tmpfs::mount(place.path(), 4 << 20) else { return };
    let filler = tmpfs.fill();
    let mut gateway =
        Gateway::prepare(&format!("store.path = {}", place.file("spill.db").display()));
    refused(&mut gateway, &["spill.db"]);
    fs::remove_file(filler).expect("the filler");
    gateway.run();
    works(&gateway);
}

#[test]
fn rubbish_in_the_place_of_the_log_and_of_an_unfinished_store_is_no_hindrance() {
    let mut gateway = Gateway::prepare("");
    fs::write(gateway.directory.file("spill.db.new"), "half a store").expect("a file");
    fs::write(gateway.directory.file("spill.db-wal"), "no log at all").expect("a file");
    gateway.run();
    works(&gateway);
    gateway.wait("store_quarantined");
    assert!(!gateway.directory.file("spill.db.new").exists());
}
