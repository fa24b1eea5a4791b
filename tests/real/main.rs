//! The release binary against real parts: Debian's mosquitto, its clients, another client
//! library, and links that break in every way. One file a subject; run through `scripts/test`, or
//! one subject with `cargo test --release --test real SUBJECT::`.

// The tests watch the program from outside, in real time.
#![allow(clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;

mod absence;
mod access;
mod aliases;
mod backlog;
mod bridged;
mod chain;
mod characters;
mod circles;
mod clocks;
mod crossing;
mod crowds;
mod decoder;
mod delivery;
mod disks;
mod disks_gone;
mod disks_older;
mod disks_running;
mod disks_start;
mod dns;
mod failover;
mod faults;
mod files;
mod foreign;
mod granted;
mod independent;
mod init_script;
mod keys;
mod large;
mod leaks;
mod limits;
mod links;
mod long_texts;
mod malformed;
mod neighbours;
mod overflow;
mod overlaps;
mod pace;
mod parts;
mod peers;
mod plug;
mod preflight;
mod pressure;
mod process;
mod properties;
mod refusals;
mod reload;
mod requests;
mod resume;
mod retained;
mod rules;
mod sessions;
mod sessions_survive;
mod shared;
mod shares;
mod sizes;
mod slow_disk;
mod status;
mod steps;
mod sys;
mod thin;
mod versions;
mod wills;
mod window;
mod words;
