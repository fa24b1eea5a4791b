//! Sockets the standard library cannot make: non-blocking from the first moment and bound to an
//! interface before anything is sent. Also the words for what can go wrong with a socket.
//!
//! Never blocks, never looks up a name.

use crate::fit::fit;
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Datagram,
}

/// A non-blocking socket of the family of `addr`, bound to `interface` when there is one.
pub(super) fn open(addr: SocketAddr, kind: Kind, interface: Option<&str>) -> io::Result<OwnedFd> {
    let family = match addr {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Datagram => libc::SOCK_DGRAM,
    };
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain integers in, a descriptor or -1 out.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(name) = interface {
        bind_to_device(&socket, name)?;
    }
    Ok(socket)
}

/// Questions without an answer after which the kernel takes the peer for dead.
const QUESTIONS: libc::c_int = 3;

/// The longest silence that Linux takes, in seconds.
const SILENCE_S_MAX: u64 = 32_767;

/// Lets the kernel ask after a peer of which nothing came for `silence`, three times.
pub(super) fn ask_after(socket: &impl AsRawFd, silence: Duration) -> io::Result<()> {
    let silence = silence.as_secs().clamp(1, SILENCE_S_MAX);
    let silence: libc::c_int = fit(silence, "seconds of a silence");
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, silence)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (silence / QUESTIONS).max(1))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, QUESTIONS)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Lets the kernel end a connection on which nothing that was sent is acknowledged for so long.
pub(super) fn give_up_after(socket: &impl AsRawFd, silence: Duration) -> io::Result<()> {
    let millis: libc::c_int = fit(silence.as_millis(), "milliseconds of a keepalive");
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

/// What an option is.
#[cfg(test)]
pub(super) fn option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut bytes: libc::socklen_t = fit(size_of::<libc::c_int>(), "bytes of a number");
    // SAFETY: the pointers show to an integer and to its length, which outlive the call.
    let answer = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut bytes)
    };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn bind_to_device(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let bytes = libc::socklen_t::try_from(name.len())
        .map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: the pointer and the length describe `name`, which outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            bytes,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // A name the kernel finds too long is a name no interface has.
    if error.raw_os_error() == Some(libc::EINVAL) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    Err(error)
}

/// Begins to connect; under way is success.
pub(super) fn connect(socket: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let (place, bytes) = raw(addr);
    // SAFETY: `place` is a complete sockaddr of `bytes` bytes and outlives the call.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), place.pointer(), bytes) };
    let answer = if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        answer => answer,
    }
}

/// Gives the socket its address; in use is an error.
pub(super) fn bind(socket: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    let (place, bytes) = raw(addr);
    // SAFETY: `place` is a complete sockaddr of `bytes` bytes and outlives the call.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), place.pointer(), bytes) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option of the socket, or switches it on or off.
pub(super) fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: impl Into<libc::c_int>,
) -> io::Result<()> {
    let value: libc::c_int = value.into();
    let bytes: libc::socklen_t = fit(size_of::<libc::c_int>(), "bytes of a number");
    let pointer = (&raw const value).cast();
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, bytes) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    fit(family, "an address family")
}

/// An address as the system reads it.
enum Raw {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Raw {
    fn pointer(&self) -> *const libc::sockaddr {
        match self {
            Self::V4(raw) => std::ptr::from_ref(raw).cast(),
            Self::V6(raw) => std::ptr::from_ref(raw).cast(),
        }
    }
}

/// The address and its length.
fn raw(addr: SocketAddr) -> (Raw, libc::socklen_t) {
    let (raw, bytes) = match addr {
        SocketAddr::V4(addr) => {
            let raw = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                sin_zero: [0; 8],
            };
            (Raw::V4(raw), size_of::<libc::sockaddr_in>())
        }
        SocketAddr::V6(addr) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            };
            (Raw::V6(raw), size_of::<libc::sockaddr_in6>())
        }
    };
    (raw, fit(bytes, "bytes of an address"))
}

/// How many connections the system keeps for a listening socket until they are accepted.
pub(super) fn set_backlog(socket: &impl AsRawFd, count: u16) -> io::Result<()> {
    // SAFETY: plain integers in and out; listening again only changes the number.
    let answer = unsafe { libc::listen(socket.as_raw_fd(), libc::c_int::from(count)) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the kernel acknowledge at once what was read; it goes on delaying afterwards.
pub(super) fn acknowledge(socket: &impl AsRawFd) {
    let on: libc::c_int = 1;
    let bytes = fit(size_of::<libc::c_int>(), "bytes of an option");
    // SAFETY: the pointer and the length describe `on`, which outlives the call. A refusal leaves
    // the delay as it is.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const on).cast(),
            bytes,
        );
    }
}

/// Bytes that were written and that the peer's system has not acknowledged yet. 0 also when the
/// kernel does not say.
pub(super) fn outstanding(socket: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one integer to where the pointer shows.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer == 0 { fit(bytes.max(0), "bytes") } else { 0 }
}

/// Bytes that have come and were not read yet. 0 also when the kernel does not say.
pub(super) fn available(socket: &impl AsRawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one integer to where the pointer shows.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    if answer == 0 { fit(bytes.max(0), "bytes") } else { 0 }
}

/// The index of an interface, for scoped IPv6 addresses.
pub(super) fn interface_index(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The word for an error in events and log lines.
pub(super) fn reason(error: &io::Error) -> &'static str {
    let Some(code) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused",
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
            io::ErrorKind::TimedOut => "timed_out",
            _ => "io_error",
        };
    };
    match code {
        libc::ECONNREFUSED => "refused",
        libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN => "reset",
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EAFNOSUPPORT => "unreachable",
        libc::ENETDOWN | libc::EHOSTDOWN => "network_down",
        libc::ETIMEDOUT => "timed_out",
        libc::ENODEV | libc::ENXIO => "no_interface",
        libc::EADDRNOTAVAIL => "no_source_address",
        libc::EADDRINUSE => "address_in_use",
        libc::EMFILE | libc::ENFILE => "no_file_descriptors",
        libc::ENOBUFS | libc::ENOMEM => "no_memory",
        libc::EACCES | libc::EPERM => "not_permitted",
        _ => "io_error",
    }
}

/// What there is too little of, and what sets that: the process' limit, or the system's.
pub(super) fn bound(error: &io::Error) -> (Option<u64>, Option<&'static str>) {
    match error.raw_os_error() {
        Some(libc::EMFILE) => (descriptors_max(), Some("ulimit -n")),
        Some(libc::ENFILE) => {
            let most = std::fs::read_to_string("/proc/sys/fs/file-max");
            (most.ok().and_then(|text| text.trim().parse().ok()), Some("fs.file-max"))
        }
        Some(_) | None => (None, None),
    }
}

/// Descriptors this process may have.
fn descriptors_max() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    // The width of the number is the platform's.
    #[allow(clippy::useless_conversion)]
    (done == 0).then(|| u64::from(limit.rlim_cur))
}

/// Short of something that others may free: to be tried again, not given up.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_exist_has_its_own_reason() {
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        for name in ["nosuchif0", "an-interface-name-longer-than-any"] {
            let error = open(addr, Kind::Stream, Some(name)).unwrap_err();
            // Without the right to bind at all the kernel may say that instead.
            assert!(["no_interface", "not_permitted"].contains(&reason(&error)), "{error}");
        }
    }

    #[test]
    fn loopback_has_an_index() {
        assert!(interface_index("lo").is_some());
        assert!(interface_index("nosuchif0").is_none());
        assert!(interface_index("a\0b").is_none());
    }

    #[test]
    fn reasons_are_told_apart() {
        for (code, word) in [
            (libc::ECONNREFUSED, "refused"),
            (libc::ECONNRESET, "reset"),
            (libc::ENETUNREACH, "unreachable"),
            (libc::ETIMEDOUT, "timed_out"),
            (libc::EMFILE, "no_file_descriptors"),
        ] {
            assert_eq!(reason(&io::Error::from_raw_os_error(code)), word);
        }
        assert!(is_shortage(&io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(!is_shortage(&io::Error::from_raw_os_error(libc::ECONNRESET)));
    }
}
