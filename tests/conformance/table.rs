//! Keeps `table.txt` honest: every statement of both specifications stands in it once, every test
//! it names exists, and README's counts are the table's.
//!
//! A line is `VERSION | ID | what it asks, in our words | server | client`. Server is what local
//! clients meet, client is the bridge. Under each of them stands `-` (the statement does not bind
//! that side), the tests that show it (`file.rs::name`, below `tests/` unless it begins with
//! `src/`), or one of `void: why` (it cannot apply here), `unshown: why` (no test from outside can
//! show it) and `unmet: why`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A section and the numbers of its statements, from and to, after Appendix B.
type Section = (&'static str, u32, u32);

const OF_3_1_1: &[Section] = &[
    ("1.5.3", 1, 3),
    ("2.2.2", 1, 2),
    ("2.3.1", 1, 7),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 24),
    ("3.1.3", 1, 11),
    ("3.1.4", 1, 5),
    ("3.2.0", 1, 1),
    ("3.2.2", 1, 6),
    ("3.3.1", 1, 12),
    ("3.3.2", 1, 3),
    ("3.3.4", 1, 1),
    ("3.3.5", 1, 2),
    ("3.6.1", 1, 1),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 4),
    ("3.8.4", 1, 6),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.12.4", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.4", 1, 3),
    ("4.1.0", 1, 2),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 2),
    ("4.3.3", 1, 2),
    ("4.4.0", 1, 1),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.1", 1, 3),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.0", 1, 2),
    ("6.0.0", 1, 4),
    ("7.0.0", 1, 2),
    ("7.1.1", 1, 1),
    ("7.1.2", 1, 1),
];

const OF_5_0: &[Section] = &[
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

const VERSIONS: [(&str, &[Section]); 2] = [("3.1.1", OF_3_1_1), ("5.0", OF_5_0)];

const BEGIN: &str = "<!-- conformance: written by scripts/conformance -->";
const END: &str = "<!-- end of conformance -->";

/// What stands under a side.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// The statement does not bind this side.
    Unbound,
    Shown(Vec<String>),
    Void,
    Unshown,
    Unmet,
}

#[derive(Clone, Debug)]
struct Row {
    version: String,
    id: String,
    sides: [Proof; 2],
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn proof(cell: &str) -> Result<Proof, String> {
    let has_reason = |rest: &str| rest.trim().len() >= 10;
    if cell == "-" {
        return Ok(Proof::Unbound);
    }
    for (word, proof) in
        [("void:", Proof::Void), ("unshown:", Proof::Unshown), ("unmet:", Proof::Unmet)]
    {
        if let Some(rest) = cell.strip_prefix(word) {
            return if has_reason(rest) { Ok(proof) } else { Err(format!("no reason: {cell}")) };
        }
    }
    let tests: Vec<String> = cell.split(", ").map(str::to_owned).collect();
    if tests.iter().any(|test| !test.contains(".rs::") || test.contains(' ')) {
        return Err(format!("neither tests nor a reason: {cell}"));
    }
    Ok(Proof::Shown(tests))
}

fn row(line: &str) -> Result<Row, String> {
    let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
    let [version, id, asks, server, client] = cells[..] else {
        return Err(format!("not five cells: {line}"));
    };
    if asks.is_empty() || (server, client) == ("-", "-") {
        return Err(format!("asks nothing of nobody: {line}"));
    }
    let sides = [proof(server)?, proof(client)?];
    Ok(Row { version: version.to_owned(), id: id.to_owned(), sides })
}

fn rows(text: &str) -> Result<Vec<Row>, String> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(row).collect()
}

fn table() -> Vec<Row> {
    rows(&read("tests/conformance/table.txt")).expect("table.txt can be read")
}

/// What is missing, unknown or there twice.
fn faults(rows: &[Row], version: &str, sections: &[Section]) -> Vec<String> {
    let mut missing: BTreeSet<String> = sections
        .iter()
        .flat_map(|(section, from, to)| (*from..=*to).map(move |n| format!("{section}-{n}")))
        .collect();
    let mut faults = Vec::new();
    for row in rows.iter().filter(|row| row.version == version) {
        if !missing.remove(&row.id) {
            faults.push(format!("{version} {}: unknown, or there twice", row.id));
        }
    }
    faults.extend(missing.into_iter().map(|id| format!("{version} {id}: missing")));
    faults
}

/// Is there a test of this name in the file?
fn has_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let mut before = text[..at].lines().rev();
    let is_said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    before.find(is_said).is_some_and(|line| line.trim() == "#[test]")
}

fn block(rows: &[Row]) -> String {
    let mut text = String::from(
        "| version | side | statements | shown by a test | cannot apply here | cannot be shown | \
         not met |\n|---|---|---|---|---|---|---|\n",
    );
    for (version, _) in VERSIONS {
        for (at, side) in ["server", "client (bridge)"].into_iter().enumerate() {
            let proofs: Vec<&Proof> = rows
                .iter()
                .filter(|row| row.version == version)
                .map(|row| &row.sides[at])
                .filter(|proof| **proof != Proof::Unbound)
                .collect();
            let count = |wanted: fn(&Proof) -> bool| proofs.iter().filter(|p| wanted(p)).count();
            text += &format!(
                "| {version} | {side} | {} | {} | {} | {} | {} |\n",
                proofs.len(),
                count(|proof| matches!(proof, Proof::Shown(_))),
                count(|proof| *proof == Proof::Void),
                count(|proof| *proof == Proof::Unshown),
                count(|proof| *proof == Proof::Unmet),
            );
        }
    }
    text
}

/// README with the block between its marks replaced.
fn renewed(readme: &str, block: &str) -> Option<String> {
    let (head, rest) = readme.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    Some(format!("{head}{BEGIN}\n\n{block}\n{END}{tail}"))
}

#[test]
fn every_statement_of_both_versions_stands_in_the_table_once() {
    let rows = table();
    let mut all = Vec::new();
    for (version, sections) in VERSIONS {
        all.extend(faults(&rows, version, sections));
    }
    let known = |row: &&Row| VERSIONS.iter().all(|(version, _)| *version != row.version);
    all.extend(rows.iter().filter(known).map(|row| format!("{}: which version?", row.id)));
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn every_test_the_table_names_exists() {
    let mut missing = BTreeSet::new();
    for row in table() {
        for proof in row.sides {
            let Proof::Shown(tests) = proof else { continue };
            for test in tests {
                let (path, name) = test.split_once("::").expect("the parser has looked");
                let path = if path.starts_with("src/") {
                    path.to_owned()
                } else {
                    format!("tests/{path}")
                };
                let there = root().join(&path).is_file() && has_test(&read(&path), name);
                if !there {
                    missing.insert(format!("{} {}: {test}", row.version, row.id));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// With SPILLWAY_WRITE_README set (`scripts/conformance`) the counts are written instead.
#[test]
fn readmes_counts_are_the_tables() {
    let readme = read("README.md");
    let renewed = renewed(&readme, &block(&table())).expect("README has both marks");
    if std::env::var_os("SPILLWAY_WRITE_README").is_some() {
        fs::write(root().join("README.md"), renewed).expect("README can be written");
        return;
    }
    assert!(readme == renewed, "README's counts are stale: run scripts/conformance");
}

#[test]
fn planted_faults_in_the_table_are_found() {
    assert!(row("3.1.1 | 1-1 | asks | - | -").is_err());
    assert!(row("3.1.1 | 1-1 | asks | real/a.rs::b").is_err());
    assert!(row("3.1.1 | 1-1 | asks | void: | -").is_err());
    assert!(row("3.1.1 | 1-1 | asks | somewhere | -").is_err());
    let good =
        |id: &str| row(&format!("5.0 | {id} | asks | a.rs::b, a.rs::c | void: no such thing"));
    let rows: Vec<Row> = ["9.9.9-1", "9.9.9-1", "9.9.9-4"].map(|id| good(id).unwrap()).into();
    assert_eq!(faults(&rows, "5.0", &[("9.9.9", 1, 2)]).len(), 3);
    assert_eq!(faults(&rows[..1], "5.0", &[("9.9.9", 1, 1)]).len(), 0);
    let text = "#[test]\nfn shown() {}\n\nfn helper() {}\n// #[test]\nfn other() {}\n\
                mod tests {\n    #[test]\n    fn inside() {}\n}";
    assert!(has_test(text, "shown") && has_test(text, "inside"));
    assert!(!has_test(text, "helper") && !has_test(text, "other"));
    assert!(!has_test(text, "show"));
    assert!(block(&rows).contains("| 5.0 | server | 3 | 3 | 0 | 0 | 0 |"));
    assert!(block(&rows).contains("| 5.0 | client (bridge) | 3 | 0 | 3 | 0 | 0 |"));
    assert_eq!(renewed("no marks", ""), None);
}
