//! Circles, and what only looks like one, with a model of a gateway and its far end.

use super::*;
use std::collections::VecDeque;

const SOURCE: u16 = 7;
const WHO: u64 = 0x1234;
const STEP: Duration = Duration::from_micros(100);

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
enum Far {
    /// What the bridge sends comes back after so long.
    Round(Duration),
    /// A device that says the same every so often, whatever we send.
    Device(Duration),
    /// A client that waits for its acknowledgement, and goes on after so long.
    Window(Duration),
    /// A client that asks again as soon as it has been answered.
    Asks(Duration),
    /// So many at once, and then nothing for so long.
    Bursts(u32, Duration),
}

/// A gateway with one bridge, and the far end of it.
struct World {
    circle: Circle,
    now: Instant,
    far: Far,
    /// Arrives at the gateway then.
    coming: VecDeque<(Instant, &'static str)>,
    /// Waits for the bridge.
    waiting: VecDeque<&'static str>,
    /// The source gets its acknowledgement then.
    paid_at: Instant,
    sent: u32,
    kept: u32,
    found: Vec<u32>,
    longest_hold: Duration,
    held_since: Option<Instant>,
    next: Instant,
}

impl World {
    fn new(far: Far) -> Self {
        let now = Instant::START;
        Self {
            circle: Circle::new(),
            now,
            far,
            coming: VecDeque::new(),
            waiting: VecDeque::new(),
            paid_at: now,
            sent: 0,
            kept: 0,
            found: Vec::new(),
            longest_hold: Duration::ZERO,
            held_since: None,
            next: now,
        }
    }

    fn passage(payload: &'static str) -> Passage<'static> {
        Passage {
            source: SOURCE,
            bridge: BridgeId(0),
            topic: "lamp/state",
            properties: b"",
            payload: payload.as_bytes(),
        }
    }

    fn arrive(&mut self, payload: &'static str) {
        let passage = Self::passage(payload);
        let back = self.circle.is_known() && self.circle.comes_back(self.now, WHO, &passage);
        if self.circle.is_known() {
            self.circle.taken(self.now, WHO, &passage, back);
        }
        if back {
            self.kept += 1;
            return;
        }
        self.waiting.push_back(payload);
        if !self.circle.draws() {
            return;
        }
        match self.circle.pass(self.now, &passage, PacketId::new(1)) {
            None | Some(Found::Watched) => {}
            // A commit later, on a slow disk.
            Some(Found::Hold) => self.paid_at = self.now.plus(60 * MILLI),
            Some(Found::Circle { count }) => {
                if self.circle.convict(self.now, WHO) {
                    self.found.push(count);
                }
            }
        }
    }

    fn step(&mut self) {
        self.now = self.now.plus(STEP);
        while let Some((at, payload)) = self.coming.front().copied()
            && at <= self.now
        {
            self.coming.pop_front();
            self.arrive(payload);
        }
        match self.far {
            Far::Device(every) if self.next <= self.now => {
                self.next = self.now.plus(every);
                self.arrive("online");
            }
            Far::Bursts(count, every) if self.next <= self.now => {
                self.next = self.now.plus(every);
                for at in 0..count {
                    self.coming.push_back((self.now.plus(STEP * 8 * at), "online"));
                }
            }
            _ => {}
        }
        if self.circle.hold(self.now, self.paid_at > self.now).is_some() {
            let since = *self.held_since.get_or_insert(self.now);
            self.longest_hold = self.longest_hold.max(self.now.since(since));
            if let Far::Window(pause) = self.far
                && self.paid_at <= self.now
                && self.next <= self.now
            {
                // It has its acknowledgement of the store.
                self.next = self.now.plus(pause);
                self.coming.push_back((self.next, "online"));
            }
            return;
        }
        self.held_since = None;
        while let Some(payload) = self.waiting.pop_front() {
            self.sent += 1;
            match self.far {
                Far::Round(span) => self.coming.push_back((self.now.plus(span), payload)),
                Far::Window(span) => self.coming.push_back((self.now.plus(span), payload)),
                Far::Asks(span) => {
                    if self.circle.listens_to() == Some(SOURCE) {
                        self.circle.tell("answer", b"", b"ok");
                    }
                    self.coming.push_back((self.now.plus(span), payload));
                }
                Far::Device(_) | Far::Bursts(..) => {}
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while self.now < end {
            self.step();
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

#[test]
fn what_goes_round_is_found_and_goes_round_no_more() {
    for round in [MILLI / 2, MILLI, 7 * MILLI, 40 * MILLI, 240 * MILLI] {
        for copies in [1, 2, 3] {
            let mut world = World::new(Far::Round(round));
            for _ in 0..copies {
                world.arrive("ON");
                world.run(round / 5);
            }
            world.run(round * 150 + SECOND * 4);
            assert_eq!(world.found.len(), 1, "{round:?} x {copies}");
            assert!(world.kept >= copies, "{round:?}: each of {copies} is kept back");
            let before = world.sent;
            world.run(SECOND);
            assert_eq!(world.sent, before, "{round:?}: and nothing is left");
        }
    }
}

#[test]
fn in_a_known_circle_what_is_new_passes_once() {
    let mut world = World::new(Far::Round(MILLI));
    world.arrive("ON");
    world.run(SECOND);
    assert_eq!(world.found.len(), 1);
    for payload in ["OFF", "ON", "OFF", "OFF", "ON"] {
        let before = (world.sent, world.kept);
        world.arrive(payload);
        world.run(200 * MILLI);
        assert_eq!((world.sent, world.kept), (before.0 + 1, before.1 + 1), "{payload}");
    }
    // The wire is gone: so is the circle, and everything passes.
    world.far = Far::Device(SECOND);
    world.run(PAIR_IDLE + 2 * SECOND);
    let kept = world.kept;
    world.far = Far::Device(5 * MILLI);
    world.run(MILLI * 100);
    assert_eq!(world.kept, kept);
}

#[test]
fn a_device_that_repeats_itself_is_no_circle_and_is_hardly_held_up() {
    for every in [MILLI / 5, MILLI, 10 * MILLI, 50 * MILLI, 249 * MILLI, SECOND] {
        let mut world = World::new(Far::Device(every));
        world.run(60 * SECOND);
        assert_eq!((world.found.len(), world.kept), (0, 0), "{every:?}");
        let most = (every * (HOLD_TURNS + 1)).max(HOLD_MANY_MAX + PAID_WITHIN);
        assert!(world.longest_hold <= most, "{every:?}: {:?}", world.longest_hold);
    }
}

#[test]
fn whoever_waits_for_us_is_no_circle() {
    for pause in [MILLI / 2, 3 * MILLI, 30 * MILLI] {
        for far in [Far::Window(pause), Far::Asks(pause)] {
            let mut world = World::new(far);
            world.arrive("online");
            world.run(30 * SECOND);
            assert_eq!((world.found.len(), world.kept), (0, 0), "{pause:?}");
        }
    }
    for count in [3, 17, 30, 60] {
        let mut world = World::new(Far::Bursts(count, 700 * MILLI));
        world.run(120 * SECOND);
        assert_eq!((world.found.len(), world.kept), (0, 0), "{count}");
    }
}

#[test]
fn what_says_something_new_between_the_same_ends_is_not_held() {
    let mut circle = Circle::new();
    let mut now = Instant::START;
    for n in 0..20_000 {
        now = now.plus(MILLI);
        let payload = format!("{{\"temperature\":{},\"unit\":\"celsius\"}}", 10_000 + n);
        let passage = Passage {
            source: SOURCE,
            bridge: BridgeId(0),
            topic: "t",
            properties: b"",
            payload: payload.as_bytes(),
        };
        if !circle.draws() {
            continue;
        }
        let found = circle.pass(now, &passage, None);
        assert!(matches!(found, None | Some(Found::Watched)), "{n}: {found:?}");
        assert_eq!(circle.hold(now, false), None);
    }
}

#[test]
fn one_that_goes_round_is_found_among_many() {
    let mut circle = Circle::new();
    let mut now = Instant::START;
    let mut held = false;
    for n in 0..3000u32 {
        now = now.plus(MILLI);
        // Ten others between two rounds.
        for other in 0..10 {
            let payload = (n * 10 + other).to_le_bytes();
            let passage = Passage { payload: &payload, ..World::passage("") };
            if circle.draws() {
                circle.pass(now, &passage, None);
            }
        }
        held |=
            circle.draws() && circle.pass(now, &World::passage("ON"), None) == Some(Found::Hold);
    }
    assert!(held);
}
