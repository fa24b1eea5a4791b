//! How long a quiet client waits for its PINGRESP while others do what they do.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock;
use crate::histogram::Histogram;
use crate::wire;

const KEEPALIVE_S: u16 = 10;
const PING_EVERY: Duration = Duration::from_millis(10);

/// A client that pings, waits for the answer and pings again.
pub struct Pinger {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<Histogram>>>,
}

impl Pinger {
    pub fn start(address: SocketAddr) -> Result<Pinger, String> {
        let mut stream = super::connect(address, "pinger", KEEPALIVE_S)?;
        let ended = Arc::<AtomicBool>::default();
        let flag = ended.clone();
        let thread = Some(thread::spawn(move || {
            let mut waits = Histogram::default();
            while !flag.load(Ordering::Relaxed) {
                let asked = clock::now();
                stream.write_all(&[wire::PINGREQ << 4, 0])?;
                stream.read_exact(&mut [0; 2])?;
                waits.record(clock::now() - asked);
                thread::sleep(PING_EVERY);
            }
            Ok(waits)
        }));
        Ok(Pinger { ended, thread })
    }

    pub fn stop(&mut self) -> Result<Histogram, String> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("stopped twice")?;
        let waits = thread.join().map_err(|_| "the pinger panicked")?;
        waits.map_err(|error| format!("the pinger lost its connection: {error}"))
    }
}
