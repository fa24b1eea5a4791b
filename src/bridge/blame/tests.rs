//! The machine against remotes that close, over a queue as small as can be: a list of messages,
//! each with its topic, of which one at a time or several go out.

use super::*;
use crate::limits::CLOSES_LONELY;
use crate::mqtt::Reason;

const WINDOW: u16 = 8;

/// What a remote does with a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Takes,
    Closes(Ending),
}

struct Play {
    blame: Blame,
    now: Instant,
    /// Sequence and topic of what waits, oldest first.
    waiting: Vec<(u64, u8)>,
    taken: Vec<u64>,
    aside: Vec<u64>,
    held: u32,
    /// The remote took something since the last message was put aside.
    credit: bool,
    connections: u32,
    up_since: Instant,
    /// A SUBSCRIBE is never answered.
    mute: bool,
}

impl Play {
    /// Messages of these topics.
    fn new(topics: &[u8]) -> Self {
        Self {
            blame: Blame::new(true),
            now: Instant::START,
            waiting: (1..).zip(topics.iter().copied()).collect(),
            taken: Vec::new(),
            aside: Vec::new(),
            held: 0,
            credit: true,
            connections: 0,
            up_since: Instant::START,
            mute: false,
        }
    }

    /// Which messages go out together now, as the gateway would choose.
    fn next(&mut self) -> Vec<u64> {
        let suspects = self.blame.streams();
        let free = |topic: u8| suspects >> topic & 1 == 0;
        let pick = match self.blame.gate(self.now, 0) {
            Gate::Shut => unreachable!("nothing is on the wire"),
            Gate::Open(most) => {
                let others = self.waiting.iter().filter(|(_, topic)| free(*topic));
                let most = usize::from(most.min(WINDOW));
                let next: Vec<u64> = others.take(most).map(|(seq, _)| *seq).collect();
                if !next.is_empty() {
                    return next;
                }
                let rested =
                    self.now >= self.blame.rests_until(self.up_since, Duration::from_secs(60));
                match self.blame.instead().filter(|_| rested) {
                    Some(pick) => pick,
                    None => return Vec::new(),
                }
            }
            Gate::Alone(pick) => pick,
        };
        let mut of_topic = self.waiting.iter().filter(|(_, topic)| *topic == pick.stream);
        let chosen = of_topic.find(|(seq, _)| pick.behind.is_none_or(|(_, last)| *seq > last));
        let (pick, seq) = match chosen {
            Some((seq, _)) => (pick, *seq),
            None => {
                self.blame.none_behind(pick);
                let mut first = self.waiting.iter().filter(|(_, topic)| *topic == pick.stream);
                let Some((seq, _)) = first.next() else {
                    self.blame.gone(pick.stream);
                    return Vec::new();
                };
                (Pick { behind: None, ..pick }, *seq)
            }
        };
        if let Some((seq, _)) = self.blame.sentenced(pick.stream) {
            self.put_aside(seq);
            return self.next();
        }
        self.blame.trying(pick, seq, false);
        vec![seq]
    }

    fn topic(&self, seq: u64) -> u8 {
        self.waiting.iter().find(|(other, _)| *other == seq).unwrap().1
    }

    fn put_aside(&mut self, seq: u64) {
        let topic = self.topic(seq);
        self.waiting.retain(|(other, _)| *other != seq);
        self.aside.push(seq);
        let more = self.waiting.iter().any(|(_, other)| *other == topic);
        assert!(self.credit, "one at a time");
        self.credit = false;
        self.blame.put_aside(seq, u64::from(topic), more);
    }

    /// One connection, until the remote closes it or nothing is left; `false`: nothing is.
    fn connection(&mut self, mut remote: impl FnMut(u64) -> Does) -> bool {
        self.connections += 1;
        self.blame.connected();
        self.up_since = self.now;
        for _ in 0..2000 {
            let sent = self.next();
            if sent.is_empty() {
                if self.waiting.is_empty() {
                    return false;
                }
                self.now = self.now.plus(Duration::from_millis(100));
                continue;
            }
            for (at, seq) in sent.iter().enumerate() {
                match remote(*seq) {
                    Does::Takes => {
                        self.blame.acked(self.now, *seq, WINDOW);
                        self.waiting.retain(|(other, _)| other != seq);
                        self.taken.push(*seq);
                        self.credit = true;
                    }
                    Does::Closes(ending) => {
                        self.close(ending, &sent[at..]);
                        return true;
                    }
                }
            }
        }
        panic!("a connection that never ends");
    }

    fn close(&mut self, ending: Ending, wire: &[u64]) {
        let waiting = u64::try_from(self.waiting.len()).unwrap();
        let finding = self.blame.closed(Closed {
            now: self.now,
            ending,
            wire: u16::try_from(wire.len()).unwrap(),
            oldest: wire.first().copied(),
            zero: false,
            unanswered: self.mute,
            waiting,
        });
        self.held += u32::from(finding.held);
        if let Some(seq) = finding.suspect {
            let topic = self.topic(seq);
            self.blame.name(seq, u64::from(topic), topic);
        }
        if let Some((seq, _)) = finding.sentence {
            self.put_aside(seq);
        }
        self.now = self.now.plus(Duration::from_secs(1));
    }

    fn run(&mut self, most: u32, mut remote: impl FnMut(u64) -> Does) {
        while self.connection(&mut remote) {
            assert!(self.connections < most, "{} connections", self.connections);
        }
    }

    /// In the order of each topic?
    fn in_order(&self, topics: &[u8]) -> bool {
        let topic = |seq: u64| topics[usize::try_from(seq - 1).unwrap()];
        let mut last = [0u64; 128];
        self.taken.iter().all(|seq| {
            let last = &mut last[usize::from(topic(*seq))];
            core::mem::replace(last, *seq) < *seq
        })
    }
}

const SAYS: Ending = Ending::Disconnect(Reason::PROTOCOL_ERROR);

fn closes_on(bad: &[u64], ending: Ending) -> impl Fn(u64) -> Does {
    move |seq| if bad.contains(&seq) { Does::Closes(ending) } else { Does::Takes }
}

#[test]
fn every_reason_has_its_meaning() {
    let message = [0x00, 0x80, 0x81, 0x82, 0x83, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B, 0x05, 0xFF];
    let pace = [0x93, 0x96];
    for code in 0..=0xFF {
        let about = Ending::Disconnect(Reason(code)).about();
        let expected = match code {
            code if pace.contains(&code) => About::Pace,
            code if message.contains(&code) => About::Message,
            0x84..=0x8F | 0x97 | 0x98 | 0x9C..=0xA2 => About::Us,
            _ => About::Message,
        };
        assert_eq!(about, expected, "{code:#x}");
    }
    assert_eq!(Ending::Closed.about(), About::Message);
    assert_eq!(Ending::Unacknowledged.about(), About::Message);
    assert_eq!(Ending::Other.about(), About::Line);
}

#[test]
fn every_refusal_has_its_meaning() {
    for code in 0x80..=0xFF {
        let expected = match code {
            0x80 | 0x83 | 0x97 => Refused::Now,
            0x91 => Refused::Identifier,
            _ => Refused::Message,
        };
        assert_eq!(Refused::of(Reason(code), false), expected, "{code:#x}");
        let expected = if code == 0x91 { Refused::Has } else { expected };
        assert_eq!(Refused::of(Reason(code), true), expected, "{code:#x}");
    }
}

#[test]
fn one_bad_message_is_found_wherever_it_is_and_all_others_arrive() {
    for ending in [SAYS, Ending::Closed] {
        for bad in 1..=30 {
            let topics: Vec<u8> = (0..30).collect();
            let mut play = Play::new(&topics);
            play.run(8, closes_on(&[bad], ending));
            assert_eq!(play.aside, [bad]);
            assert_eq!(play.taken.len(), 29);
            assert_eq!(play.held, 0);
        }
    }
}

#[test]
fn many_bad_ones_among_good_ones_that_go_on_coming() {
    let mut play = Play::new(&[1, 2, 1, 3, 1, 4, 1, 2]);
    let mut all = vec![1, 2, 1, 3, 1, 4, 1, 2];
    let bad = |seq: u64| seq % 2 == 1 && seq < 9;
    for _ in 0..60 {
        play.connection(|seq| if bad(seq) { Does::Closes(SAYS) } else { Does::Takes });
        // One more of another topic.
        let seq = u64::try_from(all.len()).unwrap() + 1;
        all.push(2);
        play.waiting.push((seq, 2));
    }
    assert_eq!(play.aside, [1, 3, 5, 7]);
    assert_eq!(play.waiting.len(), 1);
    assert!(play.in_order(&all));
}

#[test]
fn several_bad_ones_in_a_row_hold_up_no_good_one() {
    for topics in [[1, 1, 1, 2], [1, 3, 4, 2]] {
        let mut play = Play::new(&topics);
        let remote = |seq| if seq < 4 { Does::Closes(SAYS) } else { Does::Takes };
        for _ in 0..5 {
            play.connection(remote);
        }
        assert_eq!(play.taken, [4]);
        // From here on each good one lets one bad one go.
        for seq in 5..9 {
            play.waiting.push((seq, 5));
            for _ in 0..8 {
                play.connection(remote);
            }
        }
        play.aside.sort_unstable();
        assert_eq!(play.aside, [1, 2, 3], "{topics:?}");
        assert_eq!(play.taken, [4, 5, 6, 7, 8]);
    }
}

#[test]
fn a_bad_one_at_the_head_of_the_only_topic_gives_way() {
    let mut play = Play::new(&[1, 1, 1, 1, 1]);
    play.run(12, closes_on(&[1], SAYS));
    assert_eq!(play.aside, [1]);
    assert_eq!(play.taken, [2, 3, 4, 5]);
}

#[test]
fn a_message_without_any_other_is_put_aside_once_and_then_no_more() {
    let mut play = Play::new(&[1]);
    play.run(CLOSES_LONELY + 2, |_| Does::Closes(SAYS));
    assert_eq!((play.aside.as_slice(), play.connections), (&[1][..], CLOSES_LONELY + 1));
    play.waiting = vec![(2, 1)];
    for _ in 0..100 {
        play.connection(|_| Does::Closes(SAYS));
    }
    assert_eq!(play.aside, [1], "nothing was taken since");
    assert_eq!(play.held, 1, "said once");
    play.connection(|_| Does::Takes);
    assert_eq!(play.taken, [2]);
}

#[test]
fn a_remote_that_refuses_us_for_hours_gets_everything_in_the_end() {
    let endings = [SAYS, Ending::Closed, Ending::Disconnect(Reason::QUOTA_EXCEEDED)];
    let shapes: [&[u8]; 3] = [&[1; 30], &[1, 2], &[1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11]];
    for ending in endings {
        for topics in shapes {
            let mut swapped = 0;
            for closes in (1..20).chain([40, 80]) {
                let mut play = Play::new(topics);
                for _ in 0..closes {
                    assert!(play.connection(|_| Does::Closes(ending)));
                }
                assert!(play.aside.is_empty(), "{ending:?} {closes}");
                if !(CLOSES_SPOKEN..6).contains(&closes) {
                    // With one suspect it may still be that.
                    assert_eq!(play.held, u32::from(closes >= 6), "{ending:?} {closes}");
                }
                play.run(closes + 20, |_| Does::Takes);
                assert_eq!((play.taken.len(), play.aside.len()), (topics.len(), 0));
                swapped += usize::from(!play.in_order(topics));
            }
            // The next of a topic goes first only where nothing else is there to be tried.
            assert!(swapped <= 4, "{swapped} of 21");
        }
    }
}

#[test]
fn nothing_is_blamed_while_a_subscribe_is_unanswered() {
    let mut play = Play::new(&[1, 2, 3]);
    play.mute = true;
    for _ in 0..50 {
        play.connection(|_| Does::Closes(SAYS));
        assert!(play.blame.is_careful());
    }
    assert_eq!((play.aside.len(), play.blame.seqs().len(), play.held), (0, 0, 1));
    play.mute = false;
    play.run(52, |_| Does::Takes);
    assert_eq!(play.taken, [1, 2, 3]);
}

#[test]
fn what_is_never_acknowledged_is_put_aside_only_if_others_are() {
    let mut play = Play::new(&[1, 2, 3, 4]);
    play.run(6, closes_on(&[2], Ending::Unacknowledged));
    assert_eq!((play.aside.as_slice(), play.taken.len()), (&[2][..], 3));
    for topics in [&[1][..], &[1, 2, 3]] {
        let mut play = Play::new(topics);
        for _ in 0..50 {
            play.connection(|_| Does::Closes(Ending::Unacknowledged));
        }
        assert_eq!((play.aside.len(), play.held), (0, 1));
    }
}

#[test]
fn a_broken_line_blames_nobody() {
    let mut play = Play::new(&[1, 2, 3]);
    for _ in 0..50 {
        play.connection(|_| Does::Closes(Ending::Other));
    }
    assert_eq!((play.aside.len(), play.held), (0, 0));
    assert!(play.blame.is_clear());
}

#[test]
fn qos_0_beside_a_message_takes_the_blame_off_it() {
    let mut blame = Blame::new(true);
    blame.connected();
    let closed = Closed {
        now: Instant::START,
        ending: SAYS,
        wire: 1,
        oldest: Some(1),
        zero: true,
        unanswered: false,
        waiting: 5,
    };
    assert_eq!(blame.closed(closed), Finding::default());
    assert!(!blame.takes_zero(), "the next connection tells");
    blame.connected();
    assert_eq!(blame.gate(Instant::START, 0), Gate::Open(1));
    assert_eq!(blame.closed(Closed { zero: false, ..closed }).suspect, Some(1));
}

#[test]
fn a_topic_that_was_bad_before_is_known_sooner() {
    let mut play = Play::new(&[1, 2, 3]);
    play.run(8, closes_on(&[1], SAYS));
    let before = play.connections;
    play.waiting = vec![(4, 1), (5, 2), (6, 3)];
    play.run(before + 6, closes_on(&[4], SAYS));
    assert_eq!(play.aside, [1, 4]);
    assert!(play.connections - before < before, "{} {before}", play.connections);
}
