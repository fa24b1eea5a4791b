//! Monotonic nanoseconds, the same in every process of one machine, so that a time sent in a
//! payload can be compared where it arrives.

pub const SECOND: u64 = 1_000_000_000;
pub const MILLISECOND: u64 = 1_000_000;

pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec; CLOCK_MONOTONIC always exists.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC");
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

/// Different for each run of a tool, so that two runs cannot be taken for one.
pub fn run_number() -> u32 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = time.map(|t| t.as_nanos() as u64).unwrap_or(0);
    (nanos ^ (nanos >> 32) ^ (u64::from(std::process::id()) << 8)) as u32
}
