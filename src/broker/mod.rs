//! The broker's side: sessions, subscriptions and retained messages, each in fixed memory, and who
//! may do what.

pub mod access;
mod blocks;
mod index;
pub mod logins;
pub mod retained;
pub mod secret;
pub mod session;
mod shape;
pub mod subs;
