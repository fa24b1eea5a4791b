//! The broker's side: sessions, subscriptions and retained messages, each in fixed memory.

mod blocks;
mod index;
pub mod retained;
pub mod session;
mod shape;
pub mod subs;
