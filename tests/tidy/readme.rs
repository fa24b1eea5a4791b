//! What README.md must say: every configuration key, every log event with its keys, every
//! dependency with the reason why it is there.

use super::source::Finding;
use std::collections::BTreeSet;

fn missing(what: String) -> Finding {
    Finding { file: "README.md".to_owned(), line: 0, what }
}

/// What stands between backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Every key stands somewhere in backticks. A key that begins with a dot continues the one before
/// it in its line: `` `a.b.one` `.two` `` names `a.b.two` as well, and `` `a.x.one` `.y.two` ``
/// names `a.y.two`.
pub fn keys_are_documented<'a>(
    readme: &str,
    patterns: impl Iterator<Item = &'a str>,
) -> Vec<Finding> {
    let mut known = BTreeSet::new();
    for line in readme.lines() {
        let mut last = String::new();
        for word in quoted(line) {
            let key = match word.strip_prefix('.') {
                Some(tail) => {
                    let kept = last.split('.').count().saturating_sub(tail.split('.').count());
                    let head: Vec<&str> = last.split('.').take(kept).collect();
                    format!("{}.{tail}", head.join("."))
                }
                None => word.to_owned(),
            };
            last.clone_from(&key);
            known.insert(key);
        }
    }
    let unknown = patterns.filter(|pattern| !known.contains(*pattern));
    unknown.map(|pattern| missing(format!("configuration key `{pattern}` is missing"))).collect()
}

/// Every event has a line that begins with its name in backticks (as a list item or the first cell
/// of a table row) and names all its keys.
pub fn events_are_documented(readme: &str, events: &[(&str, &[&str])]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (event, keys) in events {
        let start = format!("`{event}`");
        let begins =
            |line: &&str| line.trim_start_matches(['|', '-', '*', ' ']).starts_with(&start);
        let Some(line) = readme.lines().find(begins) else {
            findings.push(missing(format!("no line about the log event `{event}`")));
            continue;
        };
        let rest = line.split_once(&start).map_or("", |(_, rest)| rest);
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let words: BTreeSet<&str> = rest.split(|c| !is_name(c)).collect();
        for key in keys.iter().filter(|key| !words.contains(**key)) {
            let what = format!("the line about the log event `{event}` leaves out its key `{key}`");
            findings.push(missing(what));
        }
    }
    findings
}

/// Every dependency of the manifest, also those for tests or one platform, stands in backticks in
/// a line that says more than its name.
pub fn dependencies_are_explained(readme: &str, manifest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in dependencies(manifest) {
        let explains = |line: &str| {
            let letters = line.chars().filter(|c| c.is_alphabetic()).count();
            quoted(line).any(|word| word == name) && letters >= name.len() + 10
        };
        if !readme.lines().any(explains) {
            findings.push(missing(format!("no line about the dependency `{name}`")));
        }
    }
    findings
}

/// Names of the dependencies in a manifest, `[x.dependencies.name]` tables too.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let (head, name) = table.rsplit_once('.').unwrap_or(("", table));
            inside = name.ends_with("dependencies");
            if head.ends_with("dependencies") {
                found.push(name);
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.']).next().unwrap_or("").trim().trim_matches('"');
            found.extend((!name.is_empty()).then_some(name));
        }
    }
    found
}

#[test]
fn a_planted_missing_key_is_found() {
    let readme = "| `limit.one` `.two` | `off` |\n| `bridge.NAME.will.topic` `.payload` `.tls.x` |";
    let find = |pattern| keys_are_documented(readme, [pattern].into_iter()).len();
    for known in ["limit.one", "limit.two", "bridge.NAME.will.payload", "bridge.NAME.tls.x"] {
        assert_eq!(find(known), 0, "{known}");
    }
    for unknown in ["limit.three", "limit", "two", "bridge.NAME.payload"] {
        assert_eq!(find(unknown), 1, "{unknown}");
    }
}

#[test]
fn a_planted_missing_event_or_key_is_found() {
    let readme =
        "see `up` in the log\n| `down` | reason=, retry_ms= | when |\n- `up`: bridge, since";
    let find = |event, keys| events_are_documented(readme, &[(event, keys)]).len();
    assert_eq!(find("down", &["reason", "retry_ms"]), 0);
    assert_eq!(find("up", &["bridge", "since"]), 0);
    assert_eq!(find("up", &["bridge", "until", "sinc"]), 2);
    assert_eq!(find("gone", &[]), 1);
}

#[test]
fn a_planted_unexplained_dependency_is_found() {
    let manifest = concat!(
        "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\nb.version = \"2\"\n# c = 1\n",
        "[target.'cfg(unix)'.dependencies]\nd = { version = \"1\" }\n",
        "[dev-dependencies.e]\nversion = \"1\"\n[profile.release]\nlto = true\n",
    );
    assert_eq!(dependencies(manifest), ["a", "b", "d", "e"]);
    let readme = "- `a`: reads the tables\n- `b`\n| `d` | speaks to the kernel |";
    let found = dependencies_are_explained(readme, manifest);
    let names: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(names, ["no line about the dependency `b`", "no line about the dependency `e`"]);
}
