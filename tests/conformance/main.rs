//! The normative statements of MQTT 3.1.1 and 5.0, one by one: `table.txt` names every one of them
//! and the test that shows it, or why none can. Tests that are not elsewhere already are here, from
//! outside, over TCP, against the real binary. `table.rs` keeps the table honest.

// The tests watch the program from outside, in real time.
#![allow(clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod common;

mod bridge;
mod connect;
mod delivery;
mod errors;
mod exchange;
mod retained;
mod sessions;
mod subscribe;
mod table;
mod wills;
