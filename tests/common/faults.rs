//! Faults of the system for the program under test: a slow or failing disk and wrong clocks, while
//! it runs. faults.c is built with `cc` once, preloaded, and reads what to do from a mapped file.
//!
//! Only a dynamically linked program can be served so. Uses nothing of the other helpers: the
//! benchmarks take this file as it is.

// Each of its users needs a part of it.
#![allow(dead_code)]

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a fault can touch: each class of calls has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// write, writev, pwrite, pwrite64.
    Write,
    /// fsync, fdatasync.
    Sync,
    /// ftruncate.
    Truncate,
    /// fallocate, posix_fallocate.
    Allocate,
    /// read, pread, pread64.
    Read,
    /// open.
    Open,
}

// The layout of `struct control` in faults.c.
const CLASSES: u64 = 6;
const CLASS_BYTES: u64 = 6 * 8;
const DELAY: u64 = 0;
const ERROR: u64 = 8;
const SKIP: u64 = 16;
const LEFT: u64 = 24;
const CALLS: u64 = 32;
const FAILED: u64 = 40;
const WALL_OFFSET: u64 = CLASSES * CLASS_BYTES;
const MONOTONIC_OFFSET: u64 = WALL_OFFSET + 8;
const PATH: u64 = MONOTONIC_OFFSET + 8;
const BOOT_ID: u64 = PATH + 256;
const BYTES: u64 = BOOT_ID + 256;

/// The faults of the processes that have its [`Faults::environment`].
#[derive(Debug)]
pub struct Faults {
    file: File,
    path: PathBuf,
}

impl Faults {
    /// No faults yet, controlled through a file in `directory`. They will touch files whose path
    /// holds `spill.db`.
    pub fn new(directory: &Path) -> Self {
        let path = directory.join("faults.control");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.expect("a fresh control file");
        file.set_len(BYTES).expect("room for the control file");
        let faults = Self { file, path };
        faults.on("spill.db");
        faults
    }

    /// Variables for the process.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let library = library().display().to_string();
        [("LD_PRELOAD", library), ("FAULTS_CONTROL", self.path.display().to_string())]
    }

    /// Touches files whose path holds `text` from now on.
    pub fn on(&self, text: &str) {
        self.put_text(PATH, text);
    }

    /// Every such call takes this much longer.
    pub fn delay(&self, calls: Calls, span: Duration) {
        self.put(at(calls, DELAY), i64::try_from(span.as_micros()).expect("a short span"));
    }

    /// Every such call fails with `error` (an errno) until [`Faults::heal`].
    pub fn fail(&self, calls: Calls, error: i32) {
        self.fail_some(calls, error, 0, -1);
    }

    /// After `skip` more calls the next `count` fail with `error`; -1 = all.
    pub fn fail_some(&self, calls: Calls, error: i32, skip: i64, count: i64) {
        self.put(at(calls, ERROR), 0);
        self.put(at(calls, SKIP), skip);
        self.put(at(calls, LEFT), count);
        self.put(at(calls, ERROR), i64::from(error));
    }

    /// No call fails and none is slow from now on. The clocks stay as they are.
    pub fn heal(&self) {
        use Calls::{Allocate, Open, Read, Sync, Truncate, Write};
        for calls in [Write, Sync, Truncate, Allocate, Read, Open] {
            self.put(at(calls, ERROR), 0);
            self.put(at(calls, DELAY), 0);
        }
    }

    /// Calls on the chosen files so far.
    pub fn calls(&self, calls: Calls) -> i64 {
        self.take(at(calls, CALLS))
    }

    /// Of them made to fail.
    pub fn failed(&self, calls: Calls) -> i64 {
        self.take(at(calls, FAILED))
    }

    /// The wall clock reads `seconds` since 1970 now, and goes on from there.
    pub fn set_wall(&self, seconds: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let now = i64::try_from(now.as_secs()).expect("a clock before the end");
        self.put(WALL_OFFSET, seconds - now);
    }

    /// The wall clock steps by so many seconds.
    pub fn step_wall(&self, seconds: i64) {
        self.put(WALL_OFFSET, self.take(WALL_OFFSET) + seconds);
    }

    /// The monotonic clock jumps ahead, as if the process had been away.
    pub fn step_monotonic(&self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).expect("a span that fits");
        self.put(MONOTONIC_OFFSET, self.take(MONOTONIC_OFFSET) + micros);
    }

    /// What the system's boot id reads from now on: another one is another boot.
    pub fn set_boot_id(&self, text: &str) {
        let path = self.path.with_extension("boot_id");
        fs::write(&path, text).expect("a file beside the control file");
        self.put_text(BOOT_ID, path.to_str().expect("a path in UTF-8"));
    }

    fn put(&self, at: u64, value: i64) {
        self.file.write_all_at(&value.to_ne_bytes(), at).expect("the control file");
    }

    fn take(&self, at: u64) -> i64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at).expect("the control file");
        i64::from_ne_bytes(bytes)
    }

    fn put_text(&self, at: u64, text: &str) {
        let mut bytes = [0; 256];
        assert!(text.len() < bytes.len(), "a path of at most 255 bytes");
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        self.file.write_all_at(&bytes, at).expect("the control file");
    }
}

fn at(calls: Calls, field: u64) -> u64 {
    let class = match calls {
        Calls::Write => 0,
        Calls::Sync => 1,
        Calls::Truncate => 2,
        Calls::Allocate => 3,
        Calls::Read => 4,
        Calls::Open => 5,
    };
    class * CLASS_BYTES + field
}

/// The library, built beside the running program unless that was done before from this source.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = include_str!("faults.c");
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let beside = std::env::current_exe().expect("our own path");
        let library = beside.with_file_name(format!("faults-{:016x}.so", hasher.finish()));
        if library.exists() {
            return library;
        }
        let fresh = library.with_extension(format!("{}.so", process::id()));
        let mut cc = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-x", "c", "-", "-ldl", "-o"])
            .arg(&fresh)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a C compiler");
        let mut input = cc.stdin.take().expect("stdin is piped");
        input.write_all(source.as_bytes()).expect("the compiler reads");
        drop(input);
        assert!(cc.wait().expect("our own child").success(), "faults.c does not compile");
        fs::rename(&fresh, &library).expect("a rename in one directory");
        library
    })
}
