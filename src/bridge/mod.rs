//! Bridges to remote brokers: the state of a link, which server is next, rules and paces.

pub mod addresses;
pub mod blame;
pub mod circle;
pub mod dial;
pub mod granted;
pub mod holds;
pub mod left;
pub mod link;
pub mod nudge;
pub mod pace;
pub mod progress;
pub mod rules;
