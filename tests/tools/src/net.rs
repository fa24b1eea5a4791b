//! Sockets without blocking: epoll with a precise deadline, a wake-up from another thread, and
//! the two buffers of a connection. One system call moves as many packets as there are.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::clock;

const READ_BYTES: usize = 128 * 1024;
const EVENTS: usize = 256;
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

#[derive(Clone, Copy)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

pub struct Poll {
    epoll: OwnedFd,
    timer: OwnedFd,
    wake: Arc<OwnedFd>,
    raw: Vec<libc::epoll_event>,
}

/// Ends another thread's wait.
#[derive(Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: an eventfd takes eight bytes; a full counter has woken the reader already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system calls that make descriptors; each is checked and owned at once.
        let (epoll, timer, wake) = unsafe {
            (
                owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))?,
                owned(libc::timerfd_create(
                    libc::CLOCK_MONOTONIC,
                    libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
                ))?,
                owned(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?,
            )
        };
        let raw = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let poll = Poll { epoll, timer, wake: Arc::new(wake), raw };
        poll.control(libc::EPOLL_CTL_ADD, poll.timer.as_raw_fd(), TIMER, true, false)?;
        poll.control(libc::EPOLL_CTL_ADD, poll.wake.as_raw_fd(), WAKE, true, false)?;
        Ok(poll)
    }

    pub fn waker(&self) -> Waker {
        Waker(self.wake.clone())
    }

    pub fn add(&self, fd: &impl AsRawFd, token: u64, read: bool, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, read, write)
    }

    pub fn change(&self, fd: &impl AsRawFd, token: u64, read: bool, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, read, write)
    }

    /// What is not watched can be removed again.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        match self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0, false, false) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn control(&self, op: i32, fd: RawFd, token: u64, read: bool, write: bool) -> io::Result<()> {
        let mut events = 0;
        if read {
            events |= libc::EPOLLIN as u32;
        }
        if write {
            events |= libc::EPOLLOUT as u32;
        }
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives over the call; a bad descriptor is an error, not undefined.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &mut event) }).map(drop)
    }

    /// Waits for events, at most until `deadline` (monotonic nanoseconds; None = for ever).
    pub fn wait(&mut self, events: &mut Vec<Event>, deadline: Option<u64>) -> io::Result<()> {
        events.clear();
        let mut timeout = -1;
        if let Some(deadline) = deadline {
            if deadline <= clock::now() {
                timeout = 0;
            } else {
                self.arm(deadline)?;
            }
        }
        let capacity = self.raw.len() as i32;
        // SAFETY: `raw` has room for `capacity` events.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.raw.as_mut_ptr(), capacity, timeout)
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &self.raw[..count] {
            let (token, bits) = (event.u64, event.events as i32);
            if token == WAKE || token == TIMER {
                let fd = if token == WAKE { &*self.wake } else { &self.timer };
                let mut count = [0u8; 8];
                // SAFETY: both descriptors give eight bytes; nothing to read is no harm.
                unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
                continue;
            }
            let broken = bits & (libc::EPOLLHUP | libc::EPOLLERR) != 0;
            let readable = broken || bits & libc::EPOLLIN != 0;
            let writable = broken || bits & libc::EPOLLOUT != 0;
            events.push(Event { token, readable, writable });
        }
        Ok(())
    }

    fn arm(&self, deadline: u64) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: (deadline / clock::SECOND) as libc::time_t,
            tv_nsec: (deadline % clock::SECOND) as libc::c_long,
        };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: zero, it_value: value };
        let (fd, flags) = (self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME);
        // SAFETY: `spec` is a valid itimerspec; the old value is not wanted.
        check(unsafe { libc::timerfd_settime(fd, flags, &spec, std::ptr::null_mut()) }).map(drop)
    }
}

/// Takes ownership of a descriptor that a system call has just made.
///
/// # Safety
/// `fd` is an error or a descriptor that nobody else owns.
unsafe fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the caller's promise, and it is not negative.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What came in and is not parsed yet.
pub struct Incoming {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    /// There may be more.
    Full,
    /// The socket is empty now.
    Empty,
    /// The peer has finished or the connection broke.
    Ended,
}

impl Default for Incoming {
    fn default() -> Self {
        Incoming { data: vec![0; READ_BYTES], start: 0, end: 0 }
    }
}

impl Incoming {
    pub fn fill(&mut self, mut stream: &TcpStream) -> Filled {
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.data.len() {
            self.data.resize(self.data.len() * 2, 0);
        }
        let room = &mut self.data[self.end..];
        let wanted = room.len();
        match stream.read(room) {
            Ok(0) => Filled::Ended,
            Ok(count) => {
                self.end += count;
                if count == wanted { Filled::Full } else { Filled::Empty }
            }
            Err(error) if retry(&error) => Filled::Empty,
            Err(_) => Filled::Ended,
        }
    }

    pub fn data(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

/// What is to go out. Filled by the caller, written as far as the socket takes it.
#[derive(Default)]
pub struct Outgoing {
    pub data: Vec<u8>,
    start: usize,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.data.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&mut self) {
        self.data.clear();
        self.start = 0;
    }

    /// Err when the connection is broken; what did not fit stays.
    pub fn flush(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.data[self.start..]) {
                Ok(count) => self.start += count,
                Err(error) if retry(&error) => {
                    if self.start >= self.data.len() / 2 {
                        self.data.drain(..self.start);
                        self.start = 0;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(())
    }
}

pub fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// HOST:PORT or a bare port of this machine.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = if text.contains(':') { text.to_owned() } else { format!("127.0.0.1:{text}") };
    let mut found = text.to_socket_addrs().map_err(|e| format!("{text}: {e}"))?;
    found.next().ok_or_else(|| format!("{text}: no address"))
}

pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Closes with RST instead of FIN, as a broken link would.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` lives over the call and its size is right; failing leaves a plain close.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size,
        )
    };
}

/// A port of this machine that is free now.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
