//! A subscriber in a thread of its own that keeps its session, comes back by itself and remembers
//! every message in the order of arrival.

use super::client::Client;
use super::wire::{self, Ack, Connect, Message, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet};
use super::{PATIENCE, number_of};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// SUBACKs so far: one a connection.
    subscribed: usize,
}

pub struct Collector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Subscribes to `filter` at QoS 2 with a session that is kept.
    pub fn start(port: u16, id: &str, filter: &str) -> Self {
        Self::start_with(port, Connect::v4(id).persistent(), filter, 2)
    }

    /// Subscribes and returns once the SUBACK is there.
    pub fn start_with(port: u16, connect: Connect, filter: &str, qos: u8) -> Self {
        let shared = Arc::new(Shared::default());
        let filter = filter.to_owned();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || follow(&shared, port, &connect, &filter, qos)
        });
        let collector = Self { shared, thread: Some(thread) };
        collector.wait_subscribed(1);
        collector
    }

    /// Waits until it has subscribed for the `count`th time (once a connection).
    pub fn wait_subscribed(&self, count: usize) {
        self.wait_state(&format!("subscription {count}"), |state| state.subscribed >= count);
    }

    fn wait_state(&self, what: &str, holds: impl FnMut(&State) -> bool) {
        if !self.state_within_patience(holds) {
            let messages = self.messages();
            let last: Vec<String> = messages.iter().rev().take(5).map(Message::text).collect();
            panic!("never: {what}; {} messages, the newest first: {last:?}", messages.len());
        }
    }

    fn state_within_patience(&self, mut holds: impl FnMut(&State) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE * 2;
        let mut state = self.shared.state.lock().expect("no holder panics");
        while !holds(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).expect("no holder panics").0;
        }
        true
    }

    fn wait_quietly(&self, mut holds: impl FnMut(&[Message]) -> bool) -> bool {
        self.state_within_patience(|state| holds(&state.messages))
    }

    pub fn messages(&self) -> Vec<Message> {
        self.shared.state.lock().expect("no holder panics").messages.clone()
    }

    pub fn count(&self) -> usize {
        self.shared.state.lock().expect("no holder panics").messages.len()
    }

    pub fn wait(&self, what: &str, mut holds: impl FnMut(&[Message]) -> bool) {
        self.wait_state(what, |state| holds(&state.messages));
    }

    pub fn wait_count(&self, count: usize) {
        self.wait(&format!("{count} messages"), |messages| messages.len() >= count);
    }

    /// Waits until each of the numbers below `count` has come, then requires that their first
    /// arrivals are in order. Returns how many came more than once.
    pub fn wait_all_in_order(&self, count: usize) -> usize {
        let mut seen = vec![false; count];
        let (mut distinct, mut at) = (0, 0);
        let all = self.wait_quietly(|messages| {
            for message in &messages[at..] {
                let number = number_of(&message.payload);
                if !std::mem::replace(&mut seen[number], true) {
                    distinct += 1;
                }
            }
            at = messages.len();
            distinct == count
        });
        if !all {
            let missing: Vec<usize> = (0..count).filter(|n| !seen[*n]).collect();
            panic!("{} of {count} never came: {missing:?}", missing.len());
        }
        let mut expected = 0;
        for message in self.messages() {
            let number = number_of(&message.payload);
            assert!(number <= expected, "{number} came before {expected}");
            expected = expected.max(number + 1);
        }
        self.count() - count
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long the thread listens before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

fn follow(shared: &Shared, port: u16, connect: &Connect, filter: &str, qos: u8) {
    let mut unreleased = BTreeSet::new();
    while !shared.ended.load(Ordering::Relaxed) {
        match connect.try_open(port) {
            Ok(client) if client.connack.code == 0 => {
                if !client.connack.session_present {
                    unreleased.clear();
                }
                let _ = listen(shared, client, filter, qos, &mut unreleased);
            }
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn listen(
    shared: &Shared,
    mut client: Client,
    filter: &str,
    qos: u8,
    unreleased: &mut BTreeSet<u16>,
) -> io::Result<()> {
    let level = client.wire.level;
    client.wire.send(&wire::subscribe(level, 1, &[(filter, qos)], &[]))?;
    while !shared.ended.load(Ordering::Relaxed) {
        let packet = match client.wire.read(LOOK) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => continue,
            other => other?,
        };
        match packet {
            Packet::Suback { .. } => {
                shared.state.lock().expect("no holder panics").subscribed += 1;
            }
            Packet::Publish(message) => {
                let (id, qos) = (message.id, message.qos);
                if qos < 2 || unreleased.insert(id) {
                    shared.state.lock().expect("no holder panics").messages.push(message);
                }
                match qos {
                    1 => client.wire.send(&wire::ack(PUBACK, id))?,
                    2 => client.wire.send(&wire::ack(PUBREC, id))?,
                    _ => {}
                }
            }
            Packet::Ack(Ack { kind: PUBREL, id, .. }) => {
                unreleased.remove(&id);
                client.wire.send(&wire::ack(PUBCOMP, id))?;
            }
            _ => {}
        }
        shared.changed.notify_all();
    }
    Ok(())
}
