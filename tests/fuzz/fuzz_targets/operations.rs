//! What the world does to a gateway.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../input.rs"]
mod input;
#[path = "../operations.rs"]
mod operations;
#[allow(dead_code)]
#[path = "../stored.rs"]
mod stored;
#[allow(dead_code)]
#[path = "../../world/mod.rs"]
mod world;

fuzz_target!(|bytes: &[u8]| operations::check_operations(bytes));
