//! What the system gives this process: descriptors, and memory that is no allocation of ours.

use super::buffers::connection_count;
use crate::config::Config;
use core::fmt;
use std::fs;

/// Descriptors for everything that is no connection: listeners, the store, name look-ups, probes.
const DESCRIPTORS_BESIDE: usize = 128;

/// The system allows fewer descriptors than the configured connections need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub needed: libc::rlim_t,
    pub allowed: libc::rlim_t,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, allowed } = self;
        write!(
            f,
            "{needed} file descriptors are needed and {allowed} allowed: clients beyond them are \
             refused; raise the hard limit (ulimit -Hn) or lower limit.clients"
        )
    }
}

/// Raises the number of descriptors this process may have, as far as the system lets it, so that
/// all configured connections fit. What is missing shows up as refused clients.
pub fn claim_descriptors(config: &Config) -> Option<Shortage> {
    let needed = libc::rlim_t::try_from(connection_count(config) + DESCRIPTORS_BESIDE).ok()?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit for the length of the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return None;
    }
    if limit.rlim_cur < needed {
        limit.rlim_cur = limit.rlim_max.min(needed);
        // SAFETY: the call reads the live rlimit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    let allowed = limit.rlim_cur;
    (allowed < needed).then_some(Shortage { needed, allowed })
}

/// Bytes of the program and its libraries that may be in RAM: all that is mapped from files. The
/// system shares them between processes and takes them back when it has to. 0 when it does not say.
pub fn program_bytes() -> u64 {
    fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().filter_map(mapped).sum())
}

/// The size of a mapping, if it is one of a file.
fn mapped(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let may = words.next()?;
    let inode = words.nth(2)?;
    if inode == "0" || may.starts_with("---") {
        return None;
    }
    let at = |text| u64::from_str_radix(text, 16).ok();
    at(end)?.checked_sub(at(start)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_from_files_is_counted_and_nothing_else() {
        let text = "55d0c8a00000-55d0c8a05000 r-xp 00002000 08:01 1234   /usr/bin/spillway";
        assert_eq!(mapped(text), Some(0x5000));
        assert_eq!(mapped("7f0000000000-7f0000021000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(mapped("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0   [stack]"), None);
        assert_eq!(mapped("7f01-7f02 ---p 00000000 08:01 99   /lib/libc.so.6"), None);
        assert!(program_bytes() > 100 * 1024);
    }
}
