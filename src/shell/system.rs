//! What the system gives this process: descriptors, and memory that is no allocation of ours.

use super::buffers::connection_count;
use super::resolver::ADDRS_MAX;
use crate::config::Config;
use core::fmt;
use std::fs;
use std::path::Path;

/// Descriptors for everything that is no connection: listeners, the store, name look-ups, probes.
const DESCRIPTORS_BESIDE: usize = 128;

/// Descriptors without which nothing works: the poll, signals, the log, the store and its files,
/// and one connection. The addresses of the listeners come on top.
const DESCRIPTORS_LEAST: usize = 24;

/// The system allows fewer descriptors than the configured connections need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub needed: libc::rlim_t,
    pub allowed: libc::rlim_t,
}

impl Shortage {
    /// Too few to start at all?
    pub fn is_fatal(&self, config: &Config) -> bool {
        let least = DESCRIPTORS_LEAST + config.listeners.len() * ADDRS_MAX;
        libc::rlim_t::try_from(least).is_ok_and(|least| self.allowed < least)
    }
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

/// What is wrong with the memory that the plan needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryDoubt {
    /// The system never gives so much.
    Refused(String),
    /// It has not so much free now.
    Short(String),
}

/// Compares a plan with what the system has and gives.
pub fn memory_doubt(needed: u64) -> Option<MemoryDoubt> {
    let kib = |bytes: u64| bytes / 1024;
    let refused = |most: u64, whose: &str| {
        let (needed, most) = (kib(needed), kib(most));
        let what = format!("the memory plan needs {needed} KiB, and {whose} {most} KiB");
        Some(MemoryDoubt::Refused(what))
    };
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name: &str| mem_info(&info, name);
    if let Some(total) = of("MemTotal").map(|ram| ram.saturating_add(of("SwapTotal").unwrap_or(0)))
        && needed > total
    {
        return refused(total, "this machine has");
    }
    if let Some(most) = group_bytes_max()
        && needed > most
    {
        return refused(most, "its control group may have");
    }
    if !gives(needed) {
        let what = format!(
            "the memory plan needs {} KiB, and the system does not give as much (ulimit -v)",
            kib(needed)
        );
        return Some(MemoryDoubt::Refused(what));
    }
    let free = of("MemAvailable").filter(|free| needed > *free)?;
    let (needed, free) = (kib(needed), kib(free));
    Some(MemoryDoubt::Short(format!("the memory plan needs {needed} KiB, {free} KiB are free now")))
}

/// A line of `/proc/meminfo`, in bytes.
fn mem_info(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control group of this process, and those around it, may have.
fn group_bytes_max() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let groups = Path::new(own).ancestors().map(|group| Path::new("/sys/fs/cgroup").join(group));
    let most = groups.filter_map(|group| {
        fs::read_to_string(group.join("memory.max")).ok()?.trim().parse::<u64>().ok()
    });
    most.min()
}

/// Does the system give so much address space at once? It is given back untouched.
fn gives(bytes: u64) -> bool {
    let Ok(length) = usize::try_from(bytes) else { return false };
    if length == 0 {
        return true;
    }
    let (read_write, private) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of our own at a place that the system chooses.
    let place = unsafe { libc::mmap(core::ptr::null_mut(), length, read_write, private, -1, 0) };
    if place == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: mapped a moment ago, and nobody knows of it.
    unsafe { libc::munmap(place, length) };
    true
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

    #[test]
    fn a_plan_beyond_the_machine_is_refused() {
        assert_eq!(
            mem_info("MemTotal:  64 kB\nMemAvailable: 32 kB\n", "MemAvailable"),
            Some(32768)
        );
        assert_eq!(mem_info("MemTotal:  64 kB\n", "Mem"), None);
        assert_eq!(memory_doubt(1024), None);
        let Some(MemoryDoubt::Refused(what)) = memory_doubt(1 << 50) else { panic!("refused") };
        assert!(what.contains("this machine has"), "{what}");
        assert!(gives(4096) && !gives(1 << 60));
    }
}
