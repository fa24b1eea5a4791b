//! The only clock of the program. Monotonic time drives everything, wall time only labels.
//!
//! Promises: [`Clock::now`] never goes back and begins where it is told to; wall readings are
//! right past 2038 on 32-bit systems whose kernel can say so, and 0 where nothing can be said.
//! Never uses `std::time::SystemTime`, which panics or wraps there.

use crate::fit::fit;
use crate::gateway::mark::Readings;
use crate::limits::CLOCK_JUMP_MIN;
use crate::vocab::Instant;
use core::time::Duration;

/// Seconds and nanoseconds of a clock, wide enough everywhere.
#[derive(Clone, Copy, Default)]
struct Reading {
    seconds: i64,
    nanos: i64,
}

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Monotonic time at which the clock was started, and what it read then.
    start_micros: u64,
    first: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self::start_at(Instant::START)
    }

    /// A clock that reads `first` now.
    pub fn start_at(first: Instant) -> Self {
        Self { start_micros: micros(monotonic()), first }
    }

    /// `first` and the monotonic time since the start.
    pub fn now(&self) -> Instant {
        let micros = micros(monotonic()).saturating_sub(self.start_micros);
        self.first.plus(Duration::from_micros(micros))
    }
}

/// How the system's clocks stand, and which boot this is.
pub fn readings() -> Readings {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let up = Duration::from_micros(micros(monotonic()));
    Readings { boot_id: boot_id(&text), up, wall_s: wall() }
}

/// The bytes of a UUID; zeros when it is none.
fn boot_id(text: &str) -> [u8; 16] {
    let digits = || text.trim().chars().filter(|c| *c != '-');
    let whole = digits().count() == 32 && digits().all(|digit| digit.is_ascii_hexdigit());
    if !whole {
        return [0; 16];
    }
    let number =
        digits().fold(0, |sum: u128, c| sum << 4 | u128::from(c.to_digit(16).unwrap_or(0)));
    number.to_be_bytes()
}

/// Watches the wall clock beside the monotonic one.
#[derive(Debug, Default)]
pub(super) struct WallWatch {
    /// Both clocks as they last agreed.
    last: Option<(Instant, u64)>,
    quiet_until: Instant,
}

impl WallWatch {
    /// The wall clock reads `wall_s` now. A step: what it should have read, and what it does. At
    /// most one a minute is told; what stepped back meanwhile was nothing.
    pub(super) fn look(&mut self, now: Instant, wall_s: u64) -> Option<(u64, u64)> {
        let (since, before) = *self.last.get_or_insert((now, wall_s));
        let expected = before.saturating_add(now.since(since).as_secs());
        let step = expected.abs_diff(wall_s);
        if step <= CLOCK_JUMP_MIN.as_secs() {
            // Also what NTP slews, little by little. Whole seconds only: the rest adds up.
            if now.since(since) >= Duration::from_secs(60) {
                self.last = Some((now, wall_s));
            }
            return None;
        }
        if now < self.quiet_until {
            return None;
        }
        self.quiet_until = now.plus(CLOCK_JUMP_MIN);
        self.last = Some((now, wall_s));
        Some((expected, wall_s))
    }
}

/// Seconds since 1970 as the system believes.
pub fn wall() -> u64 {
    fit(realtime().seconds.max(0), "seconds")
}

/// Milliseconds since 1970 as the system believes, for the log.
pub fn wall_millis() -> u64 {
    micros(realtime()) / 1000
}

fn micros(reading: Reading) -> u64 {
    let seconds = fit::<u64, _>(reading.seconds.max(0), "seconds");
    let nanos = fit::<u64, _>(reading.nanos.max(0), "nanoseconds");
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
        assert!(last.since(Instant::START) < Duration::from_secs(1));
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_clock_goes_on_where_it_is_told() {
        let first = Instant::from_micros(1 << 55);
        assert!(Clock::start_at(first).now().since(first) < Duration::from_secs(60));
        assert!(Clock::start_at(first).now() >= first);
    }

    #[test]
    fn a_boot_has_an_id() {
        assert_eq!(boot_id("no-uuid"), [0; 16]);
        assert_eq!(boot_id("00112233-4455-6677-8899-aabbccddeeff\n")[..3], [0x00, 0x11, 0x22]);
        let now = readings();
        assert_ne!(now.boot_id, [0; 16]);
        assert_eq!(now.boot_id, readings().boot_id);
        assert!(now.up > Duration::ZERO);
    }

    #[test]
    fn steps_of_the_wall_clock_are_told_once_and_slewing_is_none() {
        let at = |seconds: u64| Instant::START.plus(Duration::from_secs(seconds));
        let mut watch = WallWatch::default();
        let base = 1_800_000_000;
        let mut wall = base;
        for second in 0..100_000 {
            // A clock that is a thousandth too fast.
            wall = base + second + second / 1000;
            assert_eq!(watch.look(at(second), wall), None, "{second}");
        }
        let later = 5_000_000_000;
        assert_eq!(watch.look(at(100_000), later), Some((wall + 1, later)));
        assert_eq!(watch.look(at(100_001), later + 1), None);
        // Back within the minute: told when that is over.
        assert_eq!(watch.look(at(100_002), 5), None);
        assert_eq!(watch.look(at(100_061), 64), Some((later + 61, 64)));
        assert_eq!(watch.look(at(100_062), 65), None);
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
