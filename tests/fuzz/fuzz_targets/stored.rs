//! Damage to a store.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../input.rs"]
mod input;
#[path = "../stored.rs"]
mod stored;
#[allow(dead_code)]
#[path = "../../world/mod.rs"]
mod world;

fuzz_target!(|bytes: &[u8]| stored::check_stored(bytes));
