//! A link that knows MQTT packets and stands still at a chosen one: before it was passed on or
//! right after. Whoever waits for that then kills a process or cuts the link, exactly there.

use super::PATIENCE;
use super::wire::{self, PUBACK, PUBCOMP, PUBLISH};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Who sends a packet: the side that dials the turnstile or the one it dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Near,
    Far,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The packet vanishes.
    Before,
    /// It arrives, and nothing that answers it does.
    After,
}

/// The `nth` packet of a type from one side, counted from when the turnstile was armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub from: Side,
    pub kind: u8,
    pub nth: usize,
    pub when: When,
}

#[derive(Default)]
struct State {
    armed: Option<Stop>,
    count: usize,
    /// Nothing passes.
    held: bool,
    /// Connections of an earlier number are cut.
    cuts: u64,
    links: Vec<TcpStream>,
    /// Messages from each side whose last acknowledgement has not passed: identifier and QoS.
    open: [BTreeSet<(u16, u8)>; 2],
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct Turnstile {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Turnstile {
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for near in listener.incoming() {
                    if shared.lock().ended {
                        return;
                    }
                    let Ok(near) = near else { continue };
                    if let Ok(far) = TcpStream::connect(("127.0.0.1", target)) {
                        shared.connect(near, far);
                    }
                }
            }
        });
        Self { port, shared }
    }

    /// Stands still at this packet.
    pub fn arm(&self, stop: Stop) {
        let mut state = self.shared.lock();
        assert!(state.armed.is_none() && !state.held, "one stop at a time");
        state.armed = Some(stop);
        state.count = 0;
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let state = self.shared.lock();
        let waiting = |state: &mut State| !holds(state);
        let (state, _) =
            self.shared.changed.wait_timeout_while(state, PATIENCE, waiting).expect("no panics");
        let (done, open, armed) = (holds(&state), state.open.clone(), state.armed);
        drop(state);
        assert!(done, "never: {what}; open {open:?}, armed {armed:?}");
    }

    /// Waits until the packet is there.
    pub fn wait_reached(&self) {
        self.wait("the packet to stop at", |state| state.held);
    }

    /// Ends every connection both ways; what was held back is lost, new connections pass.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        state.held = false;
        for link in state.links.drain(..) {
            let _ = link.shutdown(Shutdown::Both);
        }
        // Nobody has to keep an identifier of QoS 1 over the end of a connection.
        for open in &mut state.open {
            open.retain(|(_, qos)| *qos == 2);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until every exchange that `from` has begun is complete.
    pub fn wait_idle(&self, from: Side) {
        self.wait("all exchanges complete", |state| state.open[index(from)].is_empty());
    }
}

impl Drop for Turnstile {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Far)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn connect(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let mut state = self.lock();
        let number = state.cuts;
        for stream in [&near, &far] {
            state.links.push(stream.try_clone().expect("a socket"));
        }
        drop(state);
        let (near, far) = (Arc::new(near), Arc::new(far));
        for (side, source, sink) in [
            (Side::Near, Arc::clone(&near), Arc::clone(&far)),
            (Side::Far, Arc::clone(&far), Arc::clone(&near)),
        ] {
            let shared = Arc::clone(self);
            thread::spawn(move || {
                shared.pump(number, side, &source, &sink);
                let _ = source.shutdown(Shutdown::Both);
                let _ = sink.shutdown(Shutdown::Both);
            });
        }
    }

    /// Passes packets on one by one until the connection ends or is cut.
    fn pump(&self, number: u64, from: Side, mut source: &TcpStream, sink: &TcpStream) {
        let mut inbox = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            inbox.extend(&chunk[..count]);
            while let Some((header, length)) = wire::framed(&inbox) {
                let packet: Vec<u8> = inbox.drain(..header + length).collect();
                if !self.pass(number, from, &packet, header, sink) {
                    return;
                }
            }
        }
    }

    /// `false`: the connection is over.
    fn pass(
        &self,
        number: u64,
        from: Side,
        packet: &[u8],
        header: usize,
        mut sink: &TcpStream,
    ) -> bool {
        let still = |state: &mut State| state.held && state.cuts == number;
        let state = self.lock();
        let mut state = self.changed.wait_while(state, still).expect("no holder panics");
        if state.cuts != number {
            return false;
        }
        let kind = packet[0] >> 4;
        let mut stops = None;
        if let Some(stop) = state.armed.filter(|stop| stop.from == from && stop.kind == kind) {
            state.count += 1;
            stops = (state.count == stop.nth).then_some(stop.when);
        }
        if stops != Some(When::Before) {
            state.note(from, packet, header);
            // Under the lock: nothing overtakes the packet at which everything stops.
            if sink.write_all(packet).is_err() {
                return false;
            }
        }
        if stops.is_some() {
            state.armed = None;
            state.held = true;
        }
        drop(state);
        self.changed.notify_all();
        true
    }
}

impl State {
    /// Keeps account of exchanges that are under way.
    fn note(&mut self, from: Side, packet: &[u8], header: usize) {
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        match packet[0] >> 4 {
            PUBLISH => {
                let qos = packet[0] >> 1 & 3;
                if qos > 0 {
                    let id = word(header + 2 + usize::from(word(header)));
                    self.open[index(from)].insert((id, qos));
                }
            }
            kind @ (PUBACK | PUBCOMP) => {
                let qos = if kind == PUBACK { 1 } else { 2 };
                self.open[index(from.other())].remove(&(word(header), qos));
            }
            _ => {}
        }
    }
}
