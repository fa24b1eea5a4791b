//! The only clock of the program. Monotonic time drives everything, wall time only labels.
//!
//! Promises: [`Clock::now`] never goes back and is zero at start; wall readings are right past
//! 2038 on 32-bit systems whose kernel can say so, and 0 where nothing can be said. Never uses
//! `std::time::SystemTime`, which panics or wraps there.

use crate::vocab::Instant;

/// Seconds and nanoseconds of a clock, wide enough everywhere.
#[derive(Clone, Copy, Default)]
struct Reading {
    seconds: i64,
    nanos: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start_micros: u64,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Self {
        Self { start_micros: micros(monotonic()) }
    }

    /// Monotonic time since the start.
    pub fn now(&self) -> Instant {
        Instant::from_micros(micros(monotonic()).saturating_sub(self.start_micros))
    }
}

/// Seconds since 1970 as the system believes.
pub fn wall() -> u64 {
    u64::try_from(realtime().seconds).unwrap_or(0)
}

/// Milliseconds since 1970 as the system believes, for the log.
pub fn wall_millis() -> u64 {
    micros(realtime()) / 1000
}

fn micros(reading: Reading) -> u64 {
    let seconds = u64::try_from(reading.seconds).unwrap_or(0);
    let nanos = u64::try_from(reading.nanos).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)
}

/// Seconds since boot fit 32 bits for 68 years: the C library's call is good enough.
fn monotonic() -> Reading {
    library(libc::CLOCK_MONOTONIC)
}

fn library(clock: libc::clockid_t) -> Reading {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live, writable timespec for the length of the call.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    if failed {
        return Reading::default();
    }
    // The fields are as wide as the platform makes them.
    #[allow(clippy::useless_conversion)]
    Reading { seconds: i64::from(time.tv_sec), nanos: i64::from(time.tv_nsec) }
}

#[cfg(target_pointer_width = "64")]
fn realtime() -> Reading {
    library(libc::CLOCK_REALTIME)
}

/// musl's 32-bit `clock_gettime` fails past 2038: the kernel's 64-bit call is asked first, the
/// library only on kernels before 5.1, which have none.
#[cfg(not(target_pointer_width = "64"))]
fn realtime() -> Reading {
    #[cfg(target_arch = "mips")]
    const CLOCK_GETTIME64: libc::c_long = 4403;
    #[cfg(not(target_arch = "mips"))]
    const CLOCK_GETTIME64: libc::c_long = 403;
    let mut time = [0_i64; 2];
    // SAFETY: the kernel writes a `__kernel_timespec`: two 64-bit words, which `time` is.
    let answer = unsafe { libc::syscall(CLOCK_GETTIME64, libc::CLOCK_REALTIME, time.as_mut_ptr()) };
    if answer == 0 {
        return Reading { seconds: time[0], nanos: time[1] };
    }
    library(libc::CLOCK_REALTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_starts_near_zero_and_never_goes_back() {
        let clock = Clock::start();
        let mut last = clock.now();
        assert!(last < Instant::from_micros(1_000_000));
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn wall_readings_agree_with_each_other() {
        let seconds = wall();
        let millis = wall_millis();
        assert!(millis / 1000 - seconds <= 1);
    }

    #[test]
    fn a_time_past_2038_keeps_its_seconds() {
        let reading = Reading { seconds: 4_102_444_800, nanos: 5_000_000 };
        assert_eq!(micros(reading), 4_102_444_800_005_000);
    }
}
