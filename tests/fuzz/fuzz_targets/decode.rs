//! Any bytes at all, as a packet of every version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::mqtt;

#[allow(dead_code)]
#[path = "../property.rs"]
mod property;

fuzz_target!(|bytes: &[u8]| property::check_packet(bytes));
