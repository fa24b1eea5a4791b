//! The manners of the house that a compiler does not check: which floor may import which, what the
//! core may never call, what needs a reason, how long a file may be, what the README must say.
//!
//! Reads the tree as text and names every fault as file:line. Each rule is also shown a planted
//! fault, so that a rule which finds nothing is known to have looked.

#[path = "tidy/readers.rs"]
mod readers;
#[path = "tidy/readme.rs"]
mod readme;
#[path = "tidy/source.rs"]
mod source;

use source::{Finding, Source, below, call_end, words};
use std::fs;
use std::path::{Path, PathBuf};

const LINE_COUNT_MAX: usize = 600;
const LINE_CHARS_MAX: usize = 100;

/// Every module of the crate's root and its floor. Imports go downwards only.
const FLOORS: &[(&str, u8)] = &[
    ("limits", 0),
    ("vocab", 0),
    ("fit", 0),
    ("note", 0),
    ("planted", 0),
    ("mqtt", 1),
    ("config", 2),
    ("queue", 2),
    ("broker", 3),
    ("bridge", 3),
    ("gateway", 4),
    ("shell", 5),
    ("cli", 6),
    ("main", 7),
];

/// The lowest floor that may know sockets, files, threads and the clock.
const SHELL: u8 = 5;

/// What the floors below the shell never name.
const BANNED_BELOW_SHELL: &[&str] =
    &["Instant::now", "SystemTime::now", "HashMap", "HashSet", "println!", "eprintln!", "print!"];
/// Crates and parts of std that only the shell and what is above it know.
const BANNED_ROOTS: &[(&str, &[&str])] =
    &[("std", &["net", "fs", "env", "thread", "os", "process"])];
const SHELL_CRATES: &[&str] =
    &["mio", "rusqlite", "libc", "simple_dns", "resolv_conf", "env_logger"];
/// What no floor calls: both end in the blocking resolver.
const BANNED_EVERYWHERE: &[&str] = &["getaddrinfo", "to_socket_addrs", "ToSocketAddrs"];
/// What is not finished is named in a header, not in the code.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

const INTEGERS: &[&str] =
    &["u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize"];

/// What may lie at the top of the tree, beside dotfiles, licences and what git ignores.
const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "README.md", "src", "conf", "cross", "tests", "scripts"];

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn imports_go_downwards(source: &Source) -> Vec<Finding> {
    // lib.rs only lists the modules.
    let Some(own) = source.top_module().filter(|own| *own != "lib") else { return Vec::new() };
    let Some(own_floor) = floor_of(own) else {
        return vec![source.finding(0, format!("module `{own}` has no floor in tests/tidy.rs"))];
    };
    let to_root = vec!["super"; source.depth()].join("::");
    let mut findings = Vec::new();
    for root in ["crate", "spillway", &to_root] {
        for (at, name) in below(&source.shipped, root) {
            let floor = floor_of(&name);
            // `super` is something else there when more of them, or another path, precede it.
            if root == to_root && floor.is_none() {
                continue;
            }
            let what = match floor {
                Some(floor) if floor < own_floor || name == own => continue,
                Some(floor) => format!(
                    "`{own}` (floor {own_floor}) imports `{name}` (floor {floor}): only downwards"
                ),
                None => format!("`{name}` has no floor in tests/tidy.rs"),
            };
            findings.push(source.finding(source.line_of(at), what));
        }
    }
    findings
}

fn nothing_banned_is_called(source: &Source) -> Vec<Finding> {
    let Some(own) = source.top_module() else { return Vec::new() };
    let mut findings = Vec::new();
    let mut ban = |words: &mut dyn Iterator<Item = usize>, name: &str, why: &str| {
        for at in words {
            findings.push(source.finding(source.line_of(at), format!("`{name}` {why}")));
        }
    };
    for name in BANNED_EVERYWHERE {
        ban(
            &mut words(&source.shipped, name),
            name,
            "blocks: resolve through the shell's resolver",
        );
    }
    for name in UNFINISHED {
        ban(&mut words(&source.shipped, name), name, "is not finished");
    }
    if floor_of(own).is_some_and(|floor| floor >= SHELL) {
        return findings;
    }
    let why = "is for the shell and above only";
    for name in BANNED_BELOW_SHELL {
        ban(&mut words(&source.shipped, name), name, why);
    }
    for (root, names) in BANNED_ROOTS {
        for (at, name) in below(&source.shipped, root) {
            if names.contains(&name.as_str()) {
                ban(&mut std::iter::once(at), &format!("{root}::{name}"), why);
            }
        }
    }
    for root in SHELL_CRATES {
        let mut places = below(&source.shipped, root).into_iter().map(|(at, _)| at);
        ban(&mut places, root, why);
    }
    findings
}

/// `.unwrap()` and `.expect(…)` have a comment with the reason on the line above.
fn panics_have_a_reason(source: &Source) -> Vec<Finding> {
    if source.top_module().is_none() {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let mut findings = Vec::new();
    for (at, line) in source.shipped.lines().enumerate() {
        let calls = [".unwrap()", ".expect(", ".unwrap_err()", ".expect_err("];
        let Some(call) = calls.iter().find(|call| line.contains(**call)) else { continue };
        let above = at.checked_sub(1).map_or("", |above| lines[above].trim_start());
        if !above.starts_with("// ") {
            let what = format!("`{call}` without a comment on the line above that says why not");
            findings.push(source.finding(at + 1, what));
        }
    }
    findings
}

fn integers_are_not_cast(source: &Source) -> Vec<Finding> {
    if source.top_module().is_none() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for at in words(&source.code, "as") {
        let target: String = source.code[at + 2..]
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if INTEGERS.contains(&target.as_str()) {
            let what = format!("`as {target}`: use `{target}::from` or `{target}::try_from`");
            findings.push(source.finding(source.line_of(at), what));
        }
    }
    findings
}

fn files_and_lines_are_short(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = source.text.lines().count();
    if count > LINE_COUNT_MAX {
        findings.push(source.finding(count, format!("{count} lines, at most {LINE_COUNT_MAX}")));
    }
    for (at, line) in source.text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters, at most {LINE_CHARS_MAX}");
            findings.push(source.finding(at + 1, what));
        }
    }
    findings
}

/// The header says what the file is, promises and never does.
fn files_have_a_header(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//!") || source.text.starts_with("#!/") {
        return Vec::new();
    }
    vec![source.finding(1, "no `//!` header")]
}

fn top_level_is_bare(names: &[String], gitignore: &str) -> Vec<Finding> {
    let ignored = |name: &str| {
        gitignore.lines().any(|line| line.trim_matches('/') == name && line.starts_with('/'))
    };
    let known = |name: &str| {
        TOP_LEVEL.contains(&name)
            || name.starts_with('.')
            || name.starts_with("LICENSE")
            || ignored(name)
    };
    let strangers = names.iter().filter(|name| !known(name));
    let what = "does not belong to the top of the tree";
    strangers.map(|name| Finding { file: name.clone(), line: 0, what: what.to_owned() }).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of the tree below `folder`, in the order of their names.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
            let path = entry.expect("directory entry").path();
            let is_build = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !is_build {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(&path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let tests: Vec<String> = found.iter().flat_map(Source::test_modules).collect();
    for source in &mut found {
        let home = source.path.strip_suffix(".rs").unwrap_or(&source.path);
        if tests.iter().any(|test| home == test || home.starts_with(&format!("{test}/"))) {
            source.ship_nothing();
        }
    }
    found
}

fn source(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let inside = path.strip_prefix(root()).expect("path is below the root");
    Source::new(&inside.to_string_lossy().replace('\\', "/"), &text)
}

/// No other number stands for one that does not fit: `fit`, `wide` and their like convert, and
/// `capped` says on the line above why the greatest will do.
fn no_number_is_made_up(source: &Source) -> Vec<Finding> {
    if source.top_module().is_none_or(|module| matches!(module, "fit" | "vocab")) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for at in words(&source.shipped, "try_from").chain(words(&source.shipped, "try_into")) {
        let behind = call_end(&source.shipped, at).map_or("", |end| &source.shipped[end..]);
        if behind.trim_start().starts_with(".unwrap_or") {
            let what = "a number in place of one that does not fit: see `src/fit.rs`";
            findings.push(source.finding(source.line_of(at), what));
        }
    }
    let lines: Vec<&str> = source.text.lines().collect();
    for at in words(&source.shipped, "capped") {
        let line = source.line_of(at);
        let called = source.shipped[at + 6..].starts_with(['(', ':']);
        let above = lines.get(line.wrapping_sub(2)).map_or("", |above| above.trim_start());
        if called && !above.starts_with("// ") {
            findings.push(source.finding(line, "`capped` without a comment that says why"));
        }
    }
    findings
}

type Rule = fn(&Source) -> Vec<Finding>;

fn check(folders: &[&str], rule: Rule) {
    let sources: Vec<Source> = folders.iter().flat_map(|folder| sources(folder)).collect();
    assert!(!sources.is_empty(), "no file in {folders:?}");
    report(sources.iter().flat_map(rule).collect());
}

fn report(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} faults:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn floors_are_kept() {
    check(&["src"], imports_go_downwards);
}

#[test]
fn the_core_names_no_clock_socket_file_or_thread() {
    check(&["src"], nothing_banned_is_called);
}

#[test]
fn every_panic_has_its_reason() {
    check(&["src"], panics_have_a_reason);
}

#[test]
fn no_integer_is_cast() {
    check(&["src"], integers_are_not_cast);
}

#[test]
fn no_impossible_number_becomes_a_wrong_one() {
    check(&["src"], no_number_is_made_up);
}

#[test]
fn every_file_is_short_enough_to_read() {
    check(&["src", "tests"], files_and_lines_are_short);
}

#[test]
fn every_file_says_what_it_is() {
    check(&["src", "tests"], files_have_a_header);
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let entries = fs::read_dir(root()).expect("the tree can be read");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("directory entry").file_name();
    let names: Vec<String> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    report(top_level_is_bare(&names, &read(".gitignore")));
}

#[test]
fn readme_documents_every_key_event_and_dependency() {
    let readme = read("README.md");
    let mut findings = readme::keys_are_documented(
        &readme,
        spillway::config::keys::KEYS.iter().map(|key| key.pattern),
    );
    findings.extend(readme::events_are_documented(&readme, spillway::note::Note::EVENTS));
    findings.extend(readme::dependencies_are_explained(&readme, &read("Cargo.toml")));
    report(findings);
}

#[test]
fn what_is_decoded_and_configured_is_read() {
    let all = sources("src");
    let at = |path: &str| {
        let found = all.iter().find(|source| source.path == path);
        found.unwrap_or_else(|| panic!("{path} is not there"))
    };
    let mut findings = readers::fields_are_read(at("src/mqtt/packet.rs"), &all);
    for source in all.iter().filter(|source| source.top_module() == Some("config")) {
        // What was made of the text; what lies between the two is the module's own affair.
        if ["src/config/mod.rs", "src/config/reload.rs"].contains(&source.path.as_str()) {
            findings.extend(readers::fields_are_read(source, &all));
        }
    }
    let (table, accessors) = (at("src/mqtt/property.rs"), at("src/mqtt/props.rs"));
    findings.extend(readers::properties_are_read(table, accessors, &all));
    report(findings);
}

/// The lines at which `rule` finds faults in a planted file.
fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
}

#[test]
fn planted_imports_upwards_and_sideways_are_found() {
    let find = |path, text| lines(imports_go_downwards, path, text);
    assert_eq!(find("src/mqtt/mod.rs", "use crate::vocab::Seq;\nuse crate::queue::X;"), [2]);
    assert_eq!(find("src/broker/subs.rs", "use crate::bridge::X;"), [1]);
    assert_eq!(find("src/bridge/mod.rs", "use crate::{mqtt::Qos, broker::Y};"), [1]);
    assert_eq!(find("src/config/a.rs", "\nuse super::super::queue::X;"), [2]);
    assert_eq!(find("src/config/a.rs", "use super::check::X; use super::super::mqtt::Y;"), [0; 0]);
    assert_eq!(find("src/config/mod.rs", "use super::gateway::X;"), [1]);
    assert_eq!(find("src/note.rs", "fn f(x: crate::vocab::Seq) {}"), [1]);
    assert_eq!(find("src/main.rs", "use spillway::cli; use spillway::shell;"), [0; 0]);
    assert_eq!(find("src/cli/mod.rs", "fn f() { spillway::main::x() }"), [1]);
    assert_eq!(find("src/attic.rs", ""), [0]);
    assert_eq!(find("src/shell/mod.rs", "use crate::attic::X;"), [1]);
    // Tests and comments may name what they like.
    let test = "// crate::shell::X\n#[cfg(test)]\nmod tests {\n    use crate::shell::X;\n}";
    assert_eq!(find("src/mqtt/mod.rs", test), [0; 0]);
}

#[test]
fn planted_calls_of_the_world_are_found() {
    let find = |path, text| lines(nothing_banned_is_called, path, text);
    let core = "src/gateway/mod.rs";
    assert_eq!(find(core, "use core::time::Duration;\nlet now = Instant::now();"), [2]);
    assert_eq!(find(core, "std::time::SystemTime::now()"), [1]);
    assert_eq!(find(core, "use std::collections::HashMap;"), [1]);
    assert_eq!(find(core, "use std::{fmt, net::TcpStream};"), [1]);
    assert_eq!(find(core, "std::fs::read(x);\nstd::env::args();\nstd::thread::sleep(y)").len(), 3);
    assert_eq!(find(core, "use mio::Poll;\nprintln!(\"x\")").len(), 2);
    assert_eq!(find(core, "use core::net::SocketAddr;\nlet x = \"std::fs\"; // HashMap"), [0; 0]);
    assert_eq!(find("src/shell/mod.rs", "use std::fs;\nInstant::now();\nmio::Poll::new()"), [0; 0]);
    assert_eq!(find("src/shell/mod.rs", "\n\nlibc::getaddrinfo(a)"), [3]);
    assert_eq!(find("src/cli/mod.rs", "name.to_socket_addrs()"), [1]);
    assert_eq!(find("src/main.rs", "fn main() { todo!() }"), [1]);
}

#[test]
fn planted_panics_without_a_reason_are_found() {
    let find = |text| lines(panics_have_a_reason, "src/queue/pool.rs", text);
    assert_eq!(find("let a = b.unwrap();\n// It was just pushed.\nlet c = d.expect(\"x\");"), [1]);
    assert_eq!(find("let a = b\n    .expect(\"x\");"), [2]);
    assert_eq!(find("/// Documentation is no reason.\na.unwrap()"), [2]);
    assert_eq!(find("a.unwrap_or(0); b.unwrap_or_default(); c.expect_some()"), [0; 0]);
    assert_eq!(find("#[cfg(test)]\nmod tests {\n    fn f() { a.unwrap(); }\n}"), [0; 0]);
}

#[test]
fn planted_casts_are_found() {
    let find = |text| lines(integers_are_not_cast, "src/queue/pool.rs", text);
    assert_eq!(find("let a = b as u32;\nlet c = d\n    as usize;"), [1, 3]);
    assert_eq!(find("use a as b; let c = d as f64; // e as u8\nlet s = \"f as u8\";"), [0; 0]);
}

#[test]
fn planted_numbers_are_found() {
    let find = |text| lines(no_number_is_made_up, "src/queue/pool.rs", text);
    assert_eq!(find("let a = u16::try_from(b.len()).unwrap_or(u16::MAX);"), [1]);
    assert_eq!(find("let a =\n    u16::try_from(f(b))\n    .unwrap_or_default();"), [2]);
    assert_eq!(find("let a: u8 = b.try_into().unwrap_or(0);\nlet c = capped(d);"), [1, 2]);
    assert_eq!(find("let a = u16::try_from(b).map_err(|_| Full)?.max(c.unwrap_or(0));"), [0; 0]);
    assert_eq!(find("use x::capped;\n// A label.\nlet a: u8 = capped(b);"), [0; 0]);
    assert_eq!(lines(no_number_is_made_up, "src/fit.rs", "u8::try_from(a).unwrap_or(0)"), [0; 0]);
}

#[test]
fn planted_length_is_found() {
    let find = |text: &str| lines(files_and_lines_are_short, "src/a.rs", text);
    assert_eq!(find(&"x\n".repeat(LINE_COUNT_MAX)), [0; 0]);
    assert_eq!(find(&"x\n".repeat(LINE_COUNT_MAX + 1)), [LINE_COUNT_MAX + 1]);
    assert_eq!(find(&"é".repeat(LINE_CHARS_MAX)), [0; 0]);
    assert_eq!(find(&format!("\n{}", "x".repeat(LINE_CHARS_MAX + 1))), [2]);
    assert_eq!(lines(files_have_a_header, "src/a.rs", "fn a() {}"), [1]);
    assert_eq!(lines(files_have_a_header, "src/a.rs", "//! A.\nfn a() {}"), [0; 0]);
}

#[test]
fn a_planted_stranger_at_the_top_is_found() {
    let names = ["Cargo.toml", "src", ".gitignore", "LICENSE-MIT", "target", "notes.txt", "docs"];
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let found = top_level_is_bare(&names, "/target\n*.txt\n");
    let files: Vec<&str> = found.iter().map(|finding| finding.file.as_str()).collect();
    assert_eq!(files, ["notes.txt", "docs"]);
}
