//! Filters, topics and mappings: lines of text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spillway::mqtt;

#[allow(dead_code)]
#[path = "../property.rs"]
mod property;

fuzz_target!(|text: &str| property::check_topic(text));
