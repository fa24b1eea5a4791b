//! The files in conf/ keep to the table of keys, and no mutation of them makes loading panic.

use super::super::{KEYS, keys, load};
use super::{good, load_text, warnings};
use crate::vocab::Rng;

const EXAMPLE: &str = include_str!("../../../conf/spillway.conf");
const MINIMAL: &str = include_str!("../../../conf/minimal.conf");

/// A line of the example that was a `key = value` before it was switched off.
fn switched_off(line: &str) -> Option<&str> {
    let bare = line.strip_prefix('#')?;
    let key = bare.split(" = ").next().filter(|_| bare.contains(" = "))?;
    (!key.is_empty() && !key.contains(' ')).then_some(bare)
}

#[test]
fn the_example_files_load() {
    let config = good(EXAMPLE);
    assert_eq!(config.bridges.len(), 2);
    assert_eq!(warnings(EXAMPLE), Vec::<String>::new());
    let config = good(MINIMAL);
    assert_eq!((config.bridges.len(), config.listeners.len()), (1, 1));
    assert_eq!(MINIMAL.lines().count(), 5);
}

#[test]
fn the_example_shows_every_key_and_switches_off_what_is_not_built() {
    let names = |pattern: &str, key: &str| match keys::find(key) {
        keys::Found::Known(known) => known.pattern == pattern,
        keys::Found::BadName(_) | keys::Found::Unknown => false,
    };
    let key_of = |line: &str| line.split(" = ").next().unwrap_or("").to_owned();
    for key in KEYS {
        let live = EXAMPLE.lines().any(|line| names(key.pattern, &key_of(line)));
        let mut off = EXAMPLE.lines().enumerate().filter(|(_, line)| {
            switched_off(line).is_some_and(|bare| names(key.pattern, &key_of(bare)))
        });
        let off = off.next();
        if key.built {
            assert!(live || off.is_some(), "{} is not in the example", key.pattern);
        } else {
            assert!(!live, "{} is switched on", key.pattern);
            let (at, _) = off.unwrap_or_else(|| panic!("{} is not in the example", key.pattern));
            let lines: Vec<&str> = EXAMPLE.lines().take(at).collect();
            let comment = lines.iter().rev().find(|line| switched_off(line).is_none());
            let said = comment.is_some_and(|line| line.contains("Not in this build"));
            assert!(said, "the example does not say that {} is not built", key.pattern);
        }
    }
}

#[test]
fn what_the_example_switches_off_can_be_switched_on_if_it_is_built() {
    for (at, line) in EXAMPLE.lines().enumerate() {
        let Some(bare) = switched_off(line) else { continue };
        let mut lines: Vec<&str> = EXAMPLE.lines().collect();
        lines[at] = bare;
        let key = bare.split(" = ").next().unwrap_or("");
        let built = matches!(keys::find(key), keys::Found::Known(k) if k.built);
        let text = lines
            .join("\n")
            .replace("/etc/spillway/cloud.password", "/secret")
            .replace("/etc/spillway/passwd", "/users")
            .replace("/etc/spillway/acl", "/rules");
        match load_text(&text) {
            Ok(_) => assert!(built, "{bare}"),
            Err(errors) => {
                assert!(!built && errors[0].ends_with("not in this build"), "{bare}: {errors:?}");
            }
        }
    }
}

#[test]
fn the_defaults_in_the_example_are_those_of_the_table() {
    // The top-level values of the example claim to be the defaults, all but the node's name.
    for line in EXAMPLE.lines().filter(|line| !line.starts_with('#')) {
        let Some((written, value)) = line.split_once(" = ") else { continue };
        let Some(key) = KEYS.iter().find(|key| key.pattern == written) else { continue };
        if written != "node.name" {
            assert!(key.default.starts_with(value), "{written}: {value} or {}", key.default);
        }
    }
}

#[test]
fn no_text_makes_it_panic() {
    const SEED: u64 = 0x5eed_c0f1;
    const ROUNDS: usize = 4000;
    let lines: Vec<&str> = EXAMPLE.lines().map(|l| l.trim_start_matches(['#', ' '])).collect();
    let pieces = [
        "",
        "=",
        "\"",
        "\\",
        "#",
        "off",
        "none",
        "-1",
        "99999999999999999999",
        "18446744073709551615",
        "1GiB",
        "16777216GiB",
        "5124095576030431d",
        "0/s",
        "4294967296/s",
        "mqtt://[::1]:65536",
        "mqtt://",
        "mqtt://a,,b",
        "bridge.",
        "....",
        "é",
        "\u{feff}",
        "\u{0}",
        "\r",
        "\t",
        "+/#",
        "bridge.x.forward.1.local_topic",
        "$share/a",
        "100%",
    ];
    let mut rng = Rng::new(SEED);
    let mut pick = |bound: usize| {
        let bound = u64::try_from(bound).expect("64 bits hold it");
        usize::try_from(rng.below(bound)).expect("less than the bound")
    };
    for _ in 0..ROUNDS {
        let mut text = String::new();
        for _ in 0..pick(12) {
            let mut line: Vec<char> = lines[pick(lines.len())].chars().collect();
            for _ in 0..pick(4) {
                let at = pick(line.len() + 1);
                match pick(3) {
                    0 => line.truncate(at),
                    1 => drop(line.splice(at..at, pieces[pick(pieces.len())].chars())),
                    _ => {
                        let to = pick(line.len() + 1);
                        if at < line.len() && to < line.len() {
                            line.swap(at, to);
                        }
                    }
                }
            }
            text.extend(line);
            text.push('\n');
        }
        if let Err(errors) = load_text(&text) {
            assert!(!errors.is_empty(), "refused without a reason (seed {SEED:#x}):\n{text}");
        }
    }
}

/// Whatever the router, these files are whole: what is written there is copied.
#[test]
fn every_configuration_in_the_readme_loads() {
    let readme = include_str!("../../../README.md");
    let mut count = 0;
    for block in readme.split("```conf\n").skip(1) {
        let text = block.split("```").next().expect("an end");
        count += 1;
        let loaded = load("README", text, &mut |_| Ok(Vec::new()), "node");
        let (_, warnings) = loaded.unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
        for warning in warnings {
            // The files of users and rules are somebody else's.
            let known = ["anonymous clients are let in", "says nothing"];
            let what = warning.to_string();
            assert!(known.iter().any(|part| what.contains(part)), "{text}\n{what}");
        }
    }
    assert!(count > 8, "{count}");
}
