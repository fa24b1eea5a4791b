//! A link that can be cut in every way a real one breaks, one or many times.

use super::place::free_port;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Nobody listens, connections end with FIN.
    Refuse,
    /// Connections end with RST, new ones too, right after they were accepted.
    Reset,
    /// Bytes are held back both ways and go on when the mode changes: packets dropped on the way
    /// and repeated by TCP. New connections are accepted and hear nothing.
    Stall,
    /// Bytes vanish both ways; a connection that met this never recovers. New connections are
    /// accepted and hear nothing.
    BlackHole,
    /// The remote's side of every connection is closed, ours is left open and mute.
    HalfOpen,
    /// What the gateway sends arrives, what the remote answers vanishes (until the connection
    /// ends).
    Deaf,
}

struct Link {
    near: TcpStream,
    far: TcpStream,
    /// Bytes towards the remote, and from it, vanish.
    up_lost: AtomicBool,
    down_lost: AtomicBool,
}

struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
    links: Mutex<Vec<Arc<Link>>>,
    /// Accepted while nothing passes, and kept open.
    mute: Mutex<Vec<TcpStream>>,
    delay_us: AtomicU64,
    /// Bytes a second that pass in each direction; 0 = as many as there are.
    rate: u64,
    /// Hardly anything is kept before the line.
    narrow: bool,
    ended: AtomicBool,
    target: u16,
}

/// Stands between the gateway and a server on this machine.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(target: u16) -> Self {
        Self::start_in(Mode::Pass, target)
    }

    /// A line that takes so many bytes a second each way, and hardly keeps any of its own.
    pub fn start_thin(target: u16, rate: u64) -> Self {
        Self::start_with(Mode::Pass, target, rate, true)
    }

    /// The same behind something that takes a lot at once and passes it on as it can.
    pub fn start_thin_behind(target: u16, rate: u64) -> Self {
        Self::start_with(Mode::Pass, target, rate, false)
    }

    /// Starts in a mode other than passing.
    pub fn start_in(mode: Mode, target: u16) -> Self {
        Self::start_with(mode, target, 0, false)
    }

    fn start_with(mode: Mode, target: u16, rate: u64, narrow: bool) -> Self {
        let port = free_port();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Refuse),
            changed: Condvar::new(),
            links: Mutex::new(Vec::new()),
            mute: Mutex::new(Vec::new()),
            delay_us: AtomicU64::new(0),
            rate,
            narrow,
            ended: AtomicBool::new(false),
            target,
        });
        let proxy = Self { port, shared };
        proxy.set(mode);
        proxy
    }

    /// Delays every byte by this much in each direction, from the next connection on.
    pub fn delay(&self, one_way: Duration) {
        let micros = u64::try_from(one_way.as_micros()).expect("a short delay");
        self.shared.delay_us.store(micros, Ordering::Relaxed);
    }

    /// Changes the mode; when it returns, connections and the listener are in the new one.
    pub fn set(&self, mode: Mode) {
        let shared = &self.shared;
        let before = std::mem::replace(&mut *shared.mode.lock().expect("no holder panics"), mode);
        if before == mode {
            return;
        }
        shared.changed.notify_all();
        if mode == Mode::Refuse {
            // Wakes the listening thread up, which ends and closes its socket.
            while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        } else if before == Mode::Refuse {
            self.listen();
        }
        if matches!(mode, Mode::Pass | Mode::Refuse | Mode::Reset) {
            for stream in shared.mute.lock().expect("no holder panics").drain(..) {
                reset(&stream);
            }
        }
        shared.links.lock().expect("no holder panics").retain(|link| link.enter(mode));
    }

    fn listen(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("our own port");
        if self.shared.narrow {
            // What it accepts has the same.
            narrow(&listener);
        }
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Held until the connection is in its list: a change of mode finds it there.
                let guard = shared.mode.lock().expect("no holder panics");
                let mode = *guard;
                if mode == Mode::Refuse || shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                match mode {
                    Mode::Pass | Mode::Deaf => shared.connect(stream, mode),
                    Mode::Reset => reset(&stream),
                    Mode::Stall | Mode::BlackHole | Mode::HalfOpen | Mode::Refuse => {
                        shared.mute.lock().expect("no holder panics").push(stream);
                    }
                }
                drop(guard);
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.set(Mode::Refuse);
    }
}

impl Link {
    /// Takes over a mode; `false` when the link is gone with it.
    fn enter(&self, mode: Mode) -> bool {
        match mode {
            Mode::Pass | Mode::Stall => return true,
            Mode::Refuse => {
                let _ = self.near.shutdown(Shutdown::Both);
                let _ = self.far.shutdown(Shutdown::Both);
                return false;
            }
            Mode::Reset => {
                reset(&self.near);
                reset(&self.far);
                return false;
            }
            Mode::BlackHole => {
                self.up_lost.store(true, Ordering::Relaxed);
                self.down_lost.store(true, Ordering::Relaxed);
            }
            Mode::HalfOpen => {
                self.up_lost.store(true, Ordering::Relaxed);
                self.down_lost.store(true, Ordering::Relaxed);
                let _ = self.far.shutdown(Shutdown::Both);
            }
            Mode::Deaf => self.down_lost.store(true, Ordering::Relaxed),
        }
        true
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, near: TcpStream, mode: Mode) {
        let Ok(far) = TcpStream::connect(("127.0.0.1", self.target)) else {
            reset(&near);
            return;
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let link = Arc::new(Link {
            near,
            far,
            up_lost: AtomicBool::new(false),
            down_lost: AtomicBool::new(mode == Mode::Deaf),
        });
        self.links.lock().expect("no holder panics").push(Arc::clone(&link));
        self.pump(&link, true);
        self.pump(&link, false);
    }

    /// Two threads: one reads and stamps, one writes when the time has come.
    fn pump(self: &Arc<Self>, link: &Arc<Link>, up: bool) {
        let delay = Duration::from_micros(self.delay_us.load(Ordering::Relaxed));
        let rate = self.rate;
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let reader = Arc::clone(link);
        thread::spawn(move || {
            let mut source = if up { &reader.near } else { &reader.far };
            let mut chunk = [0; 16 * 1024];
            // Of a thin line a twentieth of a second at a time.
            let most = match usize::try_from(rate / 20).expect("a rate") {
                0 => chunk.len(),
                bytes => bytes.min(chunk.len()),
            };
            loop {
                match source.read(&mut chunk[..most]) {
                    Ok(count) if count > 0 => {
                        let micros = u64::try_from(count).expect("a few") * 1_000_000;
                        if let Some(micros) = micros.checked_div(rate) {
                            thread::sleep(Duration::from_micros(micros));
                        }
                        let due = Instant::now() + delay;
                        if sender.send((due, chunk[..count].to_vec())).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => return,
                }
            }
        });
        let (shared, link) = (Arc::clone(self), Arc::clone(link));
        thread::spawn(move || {
            let mut sink = if up { &link.far } else { &link.near };
            let lost = if up { &link.up_lost } else { &link.down_lost };
            for (due, bytes) in receiver {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                shared.wait_while_stalled();
                if !lost.load(Ordering::Relaxed) && sink.write_all(&bytes).is_err() {
                    return;
                }
            }
            shared.wait_while_stalled();
            // The end travels like the bytes before it, unless the line is dead.
            if !lost.load(Ordering::Relaxed) {
                let _ = sink.shutdown(Shutdown::Write);
            }
        });
    }

    fn wait_while_stalled(&self) {
        let mode = self.mode.lock().expect("no holder panics");
        let stalled = |mode: &mut Mode| *mode == Mode::Stall;
        drop(self.changed.wait_while(mode, stalled).expect("no holder panics"));
    }
}

/// Little is on its way at once: small segments, a small buffer for what comes in.
fn narrow(socket: &impl AsRawFd) {
    let options = [
        (libc::SOL_SOCKET, libc::SO_RCVBUF, 4 * 1024),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1400),
    ];
    for (level, option, value) in options {
        let value: libc::c_int = value;
        let bytes = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("small");
        let at = (&raw const value).cast();
        // SAFETY: the pointer and the length describe `value`, which outlives the call.
        let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, at, bytes) };
        assert_eq!(answer, 0, "a socket option");
    }
}

/// Ends a connection with RST at once, whoever else holds the socket.
pub fn reset(stream: &TcpStream) {
    // SAFETY: an all-zero sockaddr is valid; its family is AF_UNSPEC, which disconnects.
    unsafe {
        let address: libc::sockaddr = std::mem::zeroed();
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).expect("small");
        libc::connect(stream.as_raw_fd(), &raw const address, size);
    }
}

/// A port that swallows SYNs: its queue of connections is full and nobody takes one.
pub struct SynHole {
    pub port: u16,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl SynHole {
    pub fn start() -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        // SAFETY: listen takes a socket of ours and an integer; again, with the smallest queue.
        let result = unsafe { libc::listen(listener.as_raw_fd(), 0) };
        assert_eq!(result, 0, "listen");
        let address = ([127, 0, 0, 1], port).into();
        let mut waiting = Vec::new();
        // Until one finds no answer: then the queue is full.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
            assert!(waiting.len() < 64, "the queue never fills");
        }
        Self { port, _listener: listener, _waiting: waiting }
    }
}
