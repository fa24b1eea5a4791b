//! `proxy`: a TCP link on loopback that can be made bad without root. Near is who connects, far is
//! the address it leads to; `up` is near → far.
//!
//! - `cut`: existing connections are reset, new ones refused.
//! - `blackhole`: bytes are swallowed, nobody is told; new connections are accepted by nobody.
//!   What lost bytes is reset by the next `pass`.
//! - `stall`: nothing is read, so nothing is lost; `pass` lets all of it through.
//! - `halfopen`: the far ends of the existing connections are closed and the near ends are not
//!   told, ever; new connections work.
//! - `delay`: each byte takes so long, each way.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::net::{self, Poll, Waker};
use crate::witness::{Connection, Witness};

const LISTENER: u64 = 0;
/// Bytes on their way in one direction; at the bound the sender has to wait, as on a real link.
const PIPE_BYTES_MAX: usize = 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Pass,
    Cut,
    /// Pass so many more bytes up, then cut: a packet can be cut in the middle.
    CutAfter(u64),
    BlackHole([bool; 2]),
    Stall([bool; 2]),
    HalfOpen,
    /// Nanoseconds each way.
    Delay(u64),
    Status,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    pub connections: usize,
    /// Connections carried since the start.
    pub accepted: u64,
    pub bytes: [u64; 2],
}

pub struct Proxy {
    pub address: SocketAddr,
    commands: Option<Sender<(Command, Sender<Status>)>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(port: u16, far: SocketAddr) -> io::Result<Self> {
        Self::start_with(port, far, None)
    }

    /// The same, and somebody listens.
    pub fn start_with(port: u16, far: SocketAddr, witness: Option<Witness>) -> io::Result<Self> {
        // The kernel takes back a port it has chosen itself when the socket stops listening.
        let port = if port == 0 { net::free_port()? } else { port };
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER, true, false)?;
        let waker = poll.waker();
        let (commands, inbox) = channel();
        let mut link = Link {
            listener,
            far,
            poll,
            inbox,
            pairs: BTreeMap::new(),
            next: 1,
            listening: true,
            stalled: [false; 2],
            swallowing: [false; 2],
            delay: 0,
            cut_at: None,
            status: Status::default(),
            witness,
        };
        let thread = std::thread::spawn(move || {
            if let Err(error) = link.run() {
                eprintln!("proxy: {error}");
            }
        });
        Ok(Proxy { address, commands: Some(commands), waker, thread: Some(thread) })
    }

    /// Returns when it is done, with the figures after it.
    pub fn command(&self, command: Command) -> Status {
        let (reply, answer) = channel();
        if let Some(commands) = &self.commands {
            // A proxy that has died has printed why; its figures are zero.
            let _ = commands.send((command, reply));
        }
        self.waker.wake();
        answer.recv().unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that it has not printed.
            let _ = thread.join();
        }
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    chunks: VecDeque<(u64, Vec<u8>, usize)>,
    bytes: usize,
    ended: bool,
    end_passed: bool,
    blocked: bool,
}

struct Pair {
    /// Near and far.
    ends: [Option<TcpStream>; 2],
    /// Up (read from near) and down (read from far).
    pipes: [Pipe; 2],
    /// Bytes of that way were swallowed: it cannot go on.
    spoilt: [bool; 2],
    /// Half open: it stays like that for ever.
    forgotten: bool,
    interest: [Option<(bool, bool)>; 2],
    heard: Option<Connection>,
}

struct Link {
    listener: TcpListener,
    far: SocketAddr,
    poll: Poll,
    inbox: Receiver<(Command, Sender<Status>)>,
    pairs: BTreeMap<u64, Pair>,
    next: u64,
    listening: bool,
    stalled: [bool; 2],
    swallowing: [bool; 2],
    delay: u64,
    cut_at: Option<u64>,
    status: Status,
    witness: Option<Witness>,
}

impl Link {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::new();
        loop {
            let deadline = self.next_due();
            self.poll.wait(&mut events, deadline)?;
            loop {
                match self.inbox.try_recv() {
                    Ok((command, reply)) => {
                        self.obey(command)?;
                        self.status.connections = self.pairs.len();
                        // Whoever no longer waits for the answer does not need it.
                        let _ = reply.send(self.status);
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let now = clock::now();
            for event in &events {
                if event.token == LISTENER {
                    self.accept()?;
                    continue;
                }
                let (pair, end) = (event.token / 2, (event.token % 2) as usize);
                if let Some(pair) = self.pairs.get_mut(&pair).filter(|_| event.writable) {
                    pair.pipes[1 - end].blocked = false;
                }
                if event.readable {
                    self.read(now, pair, end)?;
                }
            }
            self.forward(now)?;
        }
    }

    fn next_due(&self) -> Option<u64> {
        let ways = self.pairs.values().flat_map(|pair| pair.pipes.iter().zip(self.stalled));
        let moving = ways.filter(|(pipe, stalled)| !pipe.blocked && !stalled);
        moving.filter_map(|(pipe, _)| pipe.chunks.front().map(|chunk| chunk.0)).min()
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Pass => {
                (self.stalled, self.swallowing, self.cut_at) = ([false; 2], [false; 2], None);
                self.reset_where(|pair| pair.spoilt != [false; 2] && !pair.forgotten);
                self.listen(true)?;
            }
            Command::Cut => self.cut()?,
            Command::CutAfter(bytes) => self.cut_at = Some(self.status.bytes[0] + bytes),
            Command::BlackHole(ways) => self.swallowing = ways,
            Command::Stall(ways) => {
                self.stalled = ways;
                // Nobody is let in either: a connection waits in the kernel until `pass`.
                self.watch_listener(self.listening && ways == [false; 2])?;
            }
            Command::HalfOpen => {
                for pair in self.pairs.values_mut() {
                    pair.ends[1] = None;
                    (pair.spoilt, pair.forgotten) = ([true; 2], true);
                }
            }
            Command::Delay(nanos) => self.delay = nanos,
            Command::Status => {}
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.cut_at = None;
        self.listen(false)?;
        self.reset_where(|_| true);
        Ok(())
    }

    fn reset_where(&mut self, is_meant: impl Fn(&Pair) -> bool) {
        let all = std::mem::take(&mut self.pairs);
        let (meant, kept) = all.into_iter().partition(|(_, pair)| is_meant(pair));
        self.pairs = kept;
        let meant: BTreeMap<u64, Pair> = meant;
        meant.into_values().for_each(Pair::reset);
    }

    /// A socket that stops listening keeps its port, so nobody else can get it meanwhile.
    fn listen(&mut self, on: bool) -> io::Result<()> {
        if on != self.listening {
            let fd = self.listener.as_raw_fd();
            // SAFETY: plain calls on a descriptor that this owns.
            let result = unsafe {
                if on { libc::listen(fd, 128) } else { libc::shutdown(fd, libc::SHUT_RD) }
            };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            self.listening = on;
        }
        self.watch_listener(on && self.stalled == [false; 2])
    }

    fn watch_listener(&self, on: bool) -> io::Result<()> {
        if !on {
            return self.poll.remove(&self.listener);
        }
        self.poll.remove(&self.listener)?;
        self.poll.add(&self.listener, LISTENER, true, false)
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((near, _)) = self.listener.accept() {
            near.set_nonblocking(true)?;
            near.set_nodelay(true)?;
            let dark = self.swallowing == [true; 2];
            let far = if dark { None } else { net::connect(self.far, PATIENCE).ok() };
            if far.is_none() && !dark {
                net::reset(near);
                continue;
            }
            self.status.accepted += 1;
            let pair = Pair {
                ends: [Some(near), far],
                pipes: Default::default(),
                spoilt: [dark; 2],
                forgotten: false,
                interest: [None; 2],
                heard: self.witness.as_ref().map(Witness::connection),
            };
            self.pairs.insert(self.next, pair);
            self.next += 1;
        }
        Ok(())
    }

    fn read(&mut self, now: u64, id: u64, end: usize) -> io::Result<()> {
        let Some(pair) = self.pairs.get_mut(&id) else { return Ok(()) };
        let Some(mut stream) = pair.ends[end].as_ref() else { return Ok(()) };
        let mut chunk = vec![0; CHUNK_BYTES];
        let swallowed = pair.spoilt[end] || self.swallowing[end];
        match stream.read(&mut chunk) {
            Ok(0) if swallowed => {
                // The other side is not told.
                pair.ends[end] = None;
                pair.spoilt = [true; 2];
            }
            Ok(0) => pair.pipes[end].ended = true,
            Ok(count) => {
                // What is swallowed on its way back was said all the same.
                if let Some(heard) = pair.heard.as_mut().filter(|_| end == 1 || !swallowed) {
                    heard.hear(end, &chunk[..count]);
                }
                if swallowed {
                    pair.spoilt[end] = true;
                    return Ok(());
                }
                let allowed = match self.cut_at {
                    Some(limit) if end == 0 => limit - self.status.bytes[0],
                    _ => u64::MAX,
                };
                let count = count.min(usize::try_from(allowed).unwrap_or(usize::MAX));
                chunk.truncate(count);
                self.status.bytes[end] += count as u64;
                let pipe = &mut pair.pipes[end];
                pipe.bytes += count;
                pipe.chunks.push_back((now + self.delay, chunk, 0));
                if self.cut_at.is_some_and(|limit| self.status.bytes[0] >= limit) {
                    self.forward(u64::MAX)?;
                    self.cut()?;
                }
            }
            Err(error) if net::retry(&error) => {}
            Err(_) => {
                pair.ends[end] = None;
                if !swallowed && !self.stalled[end] {
                    self.pairs.remove(&id).into_iter().for_each(Pair::reset);
                } else {
                    pair.spoilt = [true; 2];
                }
            }
        }
        Ok(())
    }

    /// Writes what is due, passes ends on, and asks for the events that are wanted next.
    fn forward(&mut self, now: u64) -> io::Result<()> {
        let mut over = Vec::new();
        for (id, pair) in &mut self.pairs {
            let mut broken = pair.ends.iter().all(Option::is_none);
            for way in 0..2 {
                if !self.stalled[way] && !pair.spoilt[way] {
                    broken |= pair.push(now, way).is_err();
                }
            }
            let finished = pair.pipes.iter().all(|pipe| pipe.end_passed);
            if broken || finished {
                over.push((*id, broken));
                continue;
            }
            for end in 0..2 {
                let Some(stream) = &pair.ends[end] else {
                    pair.interest[end] = None;
                    continue;
                };
                let quiet = pair.spoilt[end] || self.swallowing[end];
                let room = pair.pipes[end].bytes < PIPE_BYTES_MAX && !pair.pipes[end].ended;
                let read = (room || quiet) && !self.stalled[end];
                let write = pair.pipes[1 - end].blocked && !pair.spoilt[1 - end];
                // One that has ended is not watched: it would report its end for ever.
                let watched = write || !pair.pipes[end].ended;
                let wanted = watched.then_some((read, write));
                if pair.interest[end] == wanted {
                    continue;
                }
                let token = id * 2 + end as u64;
                match (pair.interest[end], wanted) {
                    (_, None) => self.poll.remove(stream)?,
                    (None, _) => self.poll.add(stream, token, read, write)?,
                    (Some(_), _) => self.poll.change(stream, token, read, write)?,
                }
                pair.interest[end] = wanted;
            }
        }
        for (id, broken) in over {
            if let Some(pair) = self.pairs.remove(&id).filter(|_| broken) {
                pair.reset();
            }
        }
        Ok(())
    }
}

impl Pair {
    fn reset(self) {
        self.ends.into_iter().flatten().for_each(net::reset);
    }

    fn push(&mut self, now: u64, way: usize) -> io::Result<()> {
        let Some(mut stream) = self.ends[1 - way].as_ref() else { return Ok(()) };
        let pipe = &mut self.pipes[way];
        while let Some((due, chunk, start)) = pipe.chunks.front_mut() {
            if *due > now || pipe.blocked {
                return Ok(());
            }
            match stream.write(&chunk[*start..]) {
                Ok(count) => {
                    *start += count;
                    pipe.bytes -= count;
                    if *start == chunk.len() {
                        pipe.chunks.pop_front();
                    }
                }
                Err(error) if net::retry(&error) => pipe.blocked = true,
                Err(error) => return Err(error),
            }
        }
        if pipe.ended && !pipe.end_passed {
            pipe.end_passed = true;
            // A peer that has closed already needs no FIN.
            let _ = stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }
}
