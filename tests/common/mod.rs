//! Real parts for the tests: the release binary, Debian's mosquitto and its clients, a client and
//! a server that speak MQTT byte by byte, a link that can be cut, a name server that can be mute.
//!
//! Every process is ended by its own id when its owner goes out of scope, every wait has a
//! deadline and a condition. Nothing here uses the product's code.

pub mod client;
pub mod collector;
mod decode;
pub mod faults;
pub mod gateway;
pub mod mosquitto;
pub mod names;
pub mod place;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod stub;
pub mod tmpfs;
pub mod turnstile;
pub mod wire;

use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what must come. Only a failing test ever waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at a condition that nobody announces until it holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The payload of message `n` of a numbered run.
pub fn numbered(n: usize) -> Vec<u8> {
    n.to_string().into_bytes()
}

/// The number [`numbered`] wrote.
pub fn number_of(payload: &[u8]) -> usize {
    let text = std::str::from_utf8(payload).expect("a numbered payload is text");
    text.parse().expect("a numbered payload is a number")
}
