//! The fuzz targets without a fuzzer: their corpus, and some mutations of it from fixed seeds, so
//! that what was found once stays found. `scripts/fuzz TARGET SECONDS` looks for more.

mod configuration;
mod input;
mod operations;
mod property;
mod stored;
#[path = "../world/mod.rs"]
mod world;

use spillway::mqtt;
use spillway::vocab::Rng;
use std::fs;
use std::path::Path;

/// Mutations of each file of the corpus.
const MUTATIONS: u64 = 8;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
}

/// Runs `check` on the corpus and on mutations of it; says which input it was when it panics.
fn check_corpus(target: &str, check: fn(&[u8])) {
    for (name, bytes) in corpus(target) {
        for seed in 0..=MUTATIONS {
            let mut mutated = bytes.clone();
            let mut rng = Rng::new(seed);
            // The first time as it is.
            for _ in 0..seed.min(4) {
                mutate(&mut rng, &mut mutated);
            }
            let checked = std::panic::catch_unwind(|| check(&mutated));
            assert!(checked.is_ok(), "{name}, seed {seed}: {mutated:02x?}");
        }
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let len = u64::try_from(bytes.len()).unwrap();
    let at = usize::try_from(rng.below(len + 1)).unwrap();
    let value = u8::try_from(rng.below(256)).unwrap();
    match rng.below(3) {
        0 => bytes.insert(at, value),
        1 if at < bytes.len() => drop(bytes.remove(at)),
        _ if at < bytes.len() => bytes[at] = value,
        _ => bytes.push(value),
    }
}

/// As the fuzzer hands text over: what is no text is no input.
fn with_text(check: impl Fn(&str), bytes: &[u8]) {
    if let Ok(text) = core::str::from_utf8(bytes) {
        check(text);
    }
}

#[test]
fn packets_decode_to_what_they_encode_to() {
    check_corpus("decode", property::check_packet);
}

#[test]
fn topics_match_and_map_by_the_book() {
    check_corpus("topic", |bytes| with_text(property::check_topic, bytes));
}

#[test]
fn any_configuration_is_refused_with_its_lines_or_starts() {
    check_corpus("configuration", |bytes| with_text(configuration::check_configuration, bytes));
}

#[test]
fn any_damaged_store_restores_and_drains() {
    check_corpus("stored", stored::check_stored);
}

#[test]
fn any_sequence_of_operations_ends_drained() {
    check_corpus("operations", operations::check_operations);
}
