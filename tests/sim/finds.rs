//! A simulator that has never caught anything proves nothing: each of seven planted bugs is found,
//! by the checker it concerns, and the same seeds are clean without it. Needs the feature
//! `planted`.

use crate::plan::{FAMILIES, FAMILY, Family};
use crate::run;
use spillway::planted::{Bug, plant};

/// Seeds a bug may hide in.
const SEEDS: u64 = 4000;

/// Plants a bug and looks for it where it must show.
fn finds(bug: Bug, family: Family, checkers: &[&str]) {
    let first = FAMILIES.iter().position(|known| *known == family).unwrap() as u64 * FAMILY;
    let mut others = Vec::new();
    for seed in first..first + SEEDS {
        plant(Some(bug));
        let outcome = run(seed);
        plant(None);
        let Some((checker, text)) = outcome.violations.first() else { continue };
        if !checkers.contains(&checker.as_str()) {
            others.push(format!("seed {seed}: {checker}: {text}"));
            continue;
        }
        println!("{bug:?}: seed {seed}, {} seeds: {checker}: {text}", seed - first + 1);
        let clean = run(seed).violations;
        assert!(clean.is_empty(), "seed {seed} is not clean without {bug:?}: {clean:?}");
        return;
    }
    panic!("{bug:?} was not found in {SEEDS} seeds; beside it: {others:#?}");
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    finds(Bug::AcknowledgeBeforeCommit, Family::Crashes, &["at_least_once"]);
}

#[test]
fn dropping_what_is_in_flight_is_found() {
    finds(Bug::DropOldestInFlight, Family::Quota, &["at_least_once", "packet_ids"]);
}

#[test]
fn an_identifier_used_too_early_is_found() {
    finds(Bug::ReuseIdTooEarly, Family::Plain, &["packet_ids"]);
}

#[test]
fn a_forgotten_release_is_found() {
    finds(Bug::ForgetRelease, Family::Crashes, &["exactly_once", "packet_ids"]);
}

#[test]
fn overtaking_the_backlog_is_found() {
    finds(Bug::OvertakeBacklog, Family::Crashes, &["order"]);
}

#[test]
fn acknowledging_what_was_replaced_is_found() {
    finds(Bug::AcknowledgeReplaced, Family::Paces, &["at_least_once"]);
}

#[test]
fn identifiers_that_start_over_under_an_old_session_are_found() {
    // What the remote still holds of the old session counts against its Receive Maximum.
    let checkers = &["packet_ids", "exactly_once", "window"];
    finds(Bug::ReuseIdsOfLostStore, Family::LostStore, checkers);
}
