//! Configurations: any text.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../configuration.rs"]
mod configuration;

fuzz_target!(|text: &str| configuration::check_configuration(text));
