//! Signals as bytes of a descriptor in the same poll as everything else.
//!
//! SIGTERM, SIGINT and SIGHUP are blocked and read from a signalfd; SIGPIPE is ignored, a broken
//! socket answers with an error instead. Nothing runs in a signal handler but the last guard of
//! a stop that hangs.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::fs::File;
use std::io::{self, Read};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Stop cleanly; the name is for the log.
    Stop(&'static str),
    /// SIGHUP.
    Reload,
}

#[derive(Debug)]
pub(super) struct Signals {
    file: File,
}

/// SIGHUP from here on waits for the loop: it must not end a process that is still starting. The
/// others end it as they always do, and lose nothing. To be called before any other thread is made.
pub fn hold_reload() -> io::Result<()> {
    block(&[libc::SIGHUP]).map(drop)
}

/// Blocks signals in the calling thread; the set of them.
fn block(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset makes the set whole before anything reads it; the rest passes the live
    // set, plain numbers and a null pointer where one is allowed.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) {
            0 => Ok(set.assume_init()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Signals {
    /// Blocks the signals in the calling thread and opens the descriptor. To be called before
    /// any other thread is made.
    pub(super) fn open() -> io::Result<Self> {
        // SAFETY: plain numbers.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        let set = block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
        // SAFETY: the set is live and whole, the rest are plain numbers.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else owns it.
        Ok(Self { file: unsafe { File::from_raw_fd(fd) } })
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.file.as_raw_fd()), token, Interest::READABLE)
    }

    /// The next signal that came, if one did.
    pub(super) fn next(&mut self) -> Option<Signal> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let bytes = self.file.read(&mut info).ok()?;
        if bytes != info.len() {
            return None;
        }
        // The first field is the number, 32 bits.
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        let is = |signal: libc::c_int| u32::try_from(signal) == Ok(number);
        Some(if is(libc::SIGHUP) {
            Signal::Reload
        } else if is(libc::SIGINT) {
            Signal::Stop("SIGINT")
        } else {
            Signal::Stop("SIGTERM")
        })
    }
}

/// Ends the process with status 1 in `seconds`, whatever the loop is stuck in by then.
pub(super) fn guard_stop(seconds: u32) {
    extern "C" fn give_up(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(1) }
    }
    let handler: extern "C" fn(libc::c_int) = give_up;
    // SAFETY: the handler calls nothing but _exit; its address is what signal(2) wants.
    unsafe {
        libc::signal(libc::SIGALRM, (handler as *const ()).addr());
        libc::alarm(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_once() {
        // Signals sent to this very thread reach only the descriptor read in it.
        let mut signals = Signals::open().unwrap();
        assert_eq!(signals.next(), None);
        for (number, expected) in [
            (libc::SIGTERM, Signal::Stop("SIGTERM")),
            (libc::SIGHUP, Signal::Reload),
            (libc::SIGINT, Signal::Stop("SIGINT")),
        ] {
            // SAFETY: the calling thread is alive and has the signal blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), number) };
            assert_eq!(signals.next(), Some(expected));
            assert_eq!(signals.next(), None);
        }
    }
}
