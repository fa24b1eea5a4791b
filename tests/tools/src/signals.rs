//! SIGTERM and SIGINT end a tool in order, SIGUSR1 asks it for its figures.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int) {
    let flag = if signal == libc::SIGUSR1 { &ASKED } else { &STOP };
    flag.store(true, Ordering::SeqCst);
}

pub fn install() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        // SAFETY: the handler only stores an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

pub fn stop_wanted() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// True once for each SIGUSR1.
pub fn figures_wanted() -> bool {
    ASKED.swap(false, Ordering::SeqCst)
}
