//! Where a test's processes live: a directory of its own and ports nobody else has.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Ports below what Linux hands out to outgoing connections (32768 up), so that no client socket
/// of another test sits on one while a server is away.
const PORT_FIRST: u16 = 10_000;
const PORT_COUNT: u16 = 20_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
static NEXT_DIRECTORY: AtomicU32 = AtomicU32::new(0);

/// A port nobody listens on now; every call gives another one.
pub fn free_port() -> u16 {
    let start = u16::try_from(process::id() % 199).expect("below 199") * 100;
    for _ in 0..PORT_COUNT {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + (start.wrapping_add(step)) % PORT_COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A directory that is gone with its owner. SPILLWAY_KEEP keeps it for a look.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let number = NEXT_DIRECTORY.fetch_add(1, Ordering::Relaxed);
        let name = format!("spillway-test-{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a fresh directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file into it and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, text).expect("a file in our own directory");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::env::var_os("SPILLWAY_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
