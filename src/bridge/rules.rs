//! The rules of one bridge: which local topics go out and how, which remote ones come in, and
//! which stream of the queue a topic belongs to.
//!
//! Streams 0, 1 and 2 are the lanes high, normal and low. The next are lent to topics that wait
//! (see `holds`), the others to the topics of rules with a `rate`, one each, so that a topic
//! without a token holds up no other. The last 16 are shared by hash by what finds no other.

use super::holds::Holds;
use super::pace::TokenBucket;
use crate::config::{Bridge, Forward, Priority, SubscribeRule};
use crate::fit::fit;
use crate::limits::{HELD_STREAMS, STREAMS_MAX};
use crate::mqtt::{Qos, topic};
use crate::vocab::Instant;

/// Stream of the lane of a priority.
pub fn lane(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

const LANES: usize = 3;

/// The first stream of a paced topic.
const PACED: usize = LANES + HELD_STREAMS;

/// Streams that topics share when all others are lent.
const SHARED: usize = 16;

/// Streams that are lent to one topic each.
const LENT: usize = STREAMS_MAX - PACED - SHARED;

#[derive(Clone, Debug)]
struct Paced {
    hash: u64,
    rule: u8,
    bucket: TokenBucket,
}

pub struct Rules {
    pub forward: Vec<Forward>,
    pub subscribe: Vec<SubscribeRule>,
    hashes: Vec<u32>,
    /// Topics that wait.
    pub holds: Holds,
    /// By stream less those before; the last are shared.
    paced: Vec<Option<Paced>>,
    /// Shared streams that somebody was sent to since they were last idle.
    shared_used: [bool; SHARED],
}

/// The largest Subscription Identifier.
const ID_MAX: u64 = 268_435_455;

/// Where a topic belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub stream: u8,
    /// The stream was just lent: tell the queue its lane.
    pub fresh: bool,
}

impl Rules {
    pub fn new(bridge: &Bridge) -> Self {
        let paced = bridge.forward.iter().any(|rule| rule.rate.is_some());
        Self {
            hashes: bridge.forward.iter().map(|r| rule_hash(&bridge.name, &r.name)).collect(),
            forward: bridge.forward.clone(),
            subscribe: bridge.subscribe.clone(),
            shared_used: [false; SHARED],
            holds: Holds::default(),
            paced: if paced { vec![None; STREAMS_MAX - PACED] } else { Vec::new() },
        }
    }

    /// Streams the bridge's outbox needs.
    pub fn stream_count(bridge: &Bridge) -> usize {
        if bridge.forward.iter().any(|rule| rule.rate.is_some()) { STREAMS_MAX } else { PACED }
    }

    /// Hashes of the bridge's and the rules' names, by index.
    pub fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    /// The first rule that forwards this local topic.
    pub fn forwards(&self, topic: &str) -> Option<u8> {
        let at = self.forward.iter().position(|r| topic::matches(&r.local_topic, topic))?;
        u8::try_from(at).ok()
    }

    /// The rule of a stored record: by its name, else the first that matches its topic.
    pub fn of_stored(&self, hash: u32, topic: &str) -> Option<u8> {
        let named = self.hashes.iter().position(|own| *own == hash);
        named.and_then(|at| u8::try_from(at).ok()).or_else(|| self.forwards(topic))
    }

    /// The stream of a topic under a rule. `busy(stream)`: it has messages waiting.
    pub fn stream(
        &mut self,
        rule: u8,
        topic: &str,
        now: Instant,
        busy: &mut dyn FnMut(u8) -> bool,
    ) -> Lane {
        if !self.holds.is_empty() {
            self.holds.tidy(busy);
            if let Some(stream) = self.holds.stream_of(topic::topic_hash(topic)) {
                return Lane { stream, fresh: false };
            }
        }
        let Forward { rate, priority, .. } = &self.forward[usize::from(rule)];
        let Some(rate) = *rate else {
            let stream = fit(lane(*priority), "lanes");
            return Lane { stream, fresh: false };
        };
        let hash = topic::topic_hash(topic);
        let mut free = None;
        let nth: usize = fit(hash % 16, "a sixteenth");
        let shared = LENT + nth;
        // What shares a stream stays there until that is empty: order per topic.
        self.shared_used[nth] = self.shared_used[nth] && busy(stream_at(shared));
        for (at, paced) in self.paced[..LENT].iter().enumerate() {
            match paced {
                Some(paced) if paced.hash == hash && paced.rule == rule => {
                    return Lane { stream: stream_at(at), fresh: false };
                }
                Some(paced)
                    if free.is_none() && paced.bucket.is_full(now) && !busy(stream_at(at)) =>
                {
                    free = Some(at);
                }
                None if free.is_none() => free = Some(at),
                Some(_) | None => {}
            }
        }
        if self.shared_used[nth] {
            return Lane { stream: stream_at(shared), fresh: false };
        }
        if let Some(at) = free {
            self.paced[at] = Some(Paced { hash, rule, bucket: TokenBucket::per_topic(rate) });
            return Lane { stream: stream_at(at), fresh: true };
        }
        // All are lent: one of the shared streams, the same for the same topic.
        self.shared_used[nth] = true;
        self.paced[shared] = Some(Paced { hash, rule, bucket: TokenBucket::per_topic(rate) });
        Lane { stream: stream_at(shared), fresh: true }
    }

    /// A topic is to wait: the stream it does so in, which is `stream` if it has that for itself.
    /// `None`: too many do already.
    pub fn hold(
        &mut self,
        hash: u64,
        stream: u8,
        suspect: bool,
        busy: &mut dyn FnMut(u8) -> bool,
    ) -> Option<u8> {
        self.holds.tidy(busy);
        // Those who share a paced stream wait together.
        let own = (usize::from(stream) >= PACED).then_some(stream);
        self.holds.begin(hash, own, lent(), suspect)
    }

    /// Is this stream paced by the rate of a rule?
    pub fn is_paced(stream: u8) -> bool {
        usize::from(stream) >= PACED
    }

    /// Do several topics share this stream?
    pub fn is_shared(stream: u8) -> bool {
        usize::from(stream) >= PACED + LENT
    }

    /// When a stream may send next; `now` when it may.
    pub fn ready_at(&self, stream: u8, now: Instant) -> Instant {
        let ready = self.bucket(stream).map_or(now, |paced| paced.bucket.ready_at(now));
        ready.max(self.holds.ready_at(stream, now))
    }

    /// A message of this stream is sent.
    pub fn spend(&mut self, stream: u8, now: Instant) {
        let at = usize::from(stream).checked_sub(PACED);
        if let Some(Some(paced)) = at.and_then(|at| self.paced.get_mut(at)) {
            paced.bucket.take(now);
        }
    }

    fn bucket(&self, stream: u8) -> Option<&Paced> {
        self.paced.get(usize::from(stream).checked_sub(PACED)?)?.as_ref()
    }
}

fn stream_at(at: usize) -> u8 {
    fit(at + PACED, "streams")
}

/// The streams that are lent to topics that wait.
fn lent() -> core::ops::Range<u8> {
    fit(LANES, "streams")..fit(PACED, "streams")
}

/// The rules that a message of this remote topic comes in by, each once: those that match it, and
/// of these only those whose subscriptions the remote has sent it for, if it says so. Identifiers
/// that no such rule has are those of an earlier configuration.
pub fn meant<'a, I>(
    rules: &'a [SubscribeRule],
    topic: &'a str,
    ids: I,
) -> impl Iterator<Item = &'a SubscribeRule>
where
    I: Iterator<Item = u32> + Clone + 'a,
{
    let named = move |rule: &SubscribeRule| ids.clone().any(|id| id == subscription_id(rule));
    let matching = move || rules.iter().filter(|rule| topic::matches(&rule.remote_topic, topic));
    let all = !matching().any(&named);
    matching().filter(move |rule| all || named(rule))
}

/// The rule, among others, whose filter matches everything that this one's does: what a remote
/// sends for its subscription is for both. The widest of them all. `is_out(rule)`: its
/// subscription is not to be had.
pub fn covering(
    rules: &[SubscribeRule],
    at: usize,
    is_out: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut widest = at;
    // Whatever is wider than the widest so far is wider than all before it.
    for other in 0..rules.len() {
        if other != at && !is_out(other) && covers(rules, other, widest) {
            widest = other;
        }
    }
    (widest != at).then_some(widest)
}

/// Of two filters that match the same the first covers the other.
fn covers(rules: &[SubscribeRule], wide: usize, at: usize) -> bool {
    let covers = |one: usize, other: usize| {
        topic::covers(&rules[one].remote_topic, &rules[other].remote_topic)
    };
    wide != at && covers(wide, at) && (wide < at || !covers(at, wide))
}

/// The QoS to ask for where a rule's subscription is that of all it covers, too.
pub fn qos_for_all(rules: &[SubscribeRule], at: usize) -> Qos {
    let covered = (0..rules.len()).filter(|other| covers(rules, at, *other));
    covered.map(|other| rules[other].qos).fold(rules[at].qos, Qos::max)
}

/// The Subscription Identifier of a rule: of its filter, so that what waits in a session at the
/// remote finds it after other rules have come or gone. At most 28 bits, and not 0 (3.8.2.1.2).
pub fn subscription_id(rule: &SubscribeRule) -> u32 {
    let hash = topic::topic_hash(&rule.remote_topic) % (ID_MAX - 1);
    fit(hash + 1, "28 bits")
}

/// FNV-1a of the names of a bridge and its rule, never 0: how a stored record names its rule, and
/// by it its bridge.
pub fn rule_hash(bridge: &str, rule: &str) -> u32 {
    let mut hash = 0x811C_9DC5u32;
    for byte in bridge.bytes().chain([b'.']).chain(rule.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn rules() -> Rules {
        let text = "bridge.b.server = mqtt://h\nstore.path = /x\n\
                    bridge.b.forward.r.local_topic = p/#\nbridge.b.forward.r.rate = 1/s\n\
                    bridge.b.forward.h.local_topic = #\nbridge.b.forward.h.priority = high\n";
        let (config, _) = config::load("t", text, &mut |_| Err(String::new()), "n").unwrap();
        Rules::new(&config.bridges[0])
    }

    #[test]
    fn the_first_matching_rule_wins() {
        let rules = rules();
        assert_eq!(rules.forwards("p/1"), Some(0));
        assert_eq!(rules.forwards("q"), Some(1));
        assert_eq!(rules.of_stored(rule_hash("b", "h"), "p/1"), Some(1));
        assert_eq!(rules.of_stored(rule_hash("b", "gone"), "p/1"), Some(0));
    }

    fn subscribes(filters: &[(&str, u8)]) -> Vec<SubscribeRule> {
        let mut text = String::from("bridge.b.server = mqtt://h\nstore.path = /x\n");
        for (at, (filter, qos)) in filters.iter().enumerate() {
            text += &format!("bridge.b.subscribe.{at}.remote_topic = {filter}\n");
            text += &format!("bridge.b.subscribe.{at}.qos = {qos}\n");
        }
        let (config, _) = config::load("t", &text, &mut |_| Err(String::new()), "n").unwrap();
        config.bridges[0].subscribe.clone()
    }

    #[test]
    fn a_message_comes_in_once_by_each_rule_it_was_sent_for() {
        let rules = subscribes(&[("a/#", 1), ("a/b", 1), ("a/+", 1), ("c", 1)]);
        let ids: Vec<u32> = rules.iter().map(subscription_id).collect();
        let names = |topic: &str, ids: &[u32]| {
            let meant = meant(&rules, topic, ids.iter().copied());
            meant.map(|rule| rule.name.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("a/b", &[]), "0 1 2");
        assert_eq!(names("a/c", &[]), "0 2");
        assert_eq!(names("d", &[]), "");
        assert_eq!(names("a/b", &[ids[1]]), "1");
        assert_eq!(names("a/b", &[ids[2], ids[0], ids[2]]), "0 2");
        // Of an earlier configuration; of a rule that is for something else.
        assert_eq!(names("a/b", &[7]), "0 1 2");
        assert_eq!(names("a/b", &[7, ids[1]]), "1");
        assert_eq!(names("a/c", &[ids[3]]), "0 2");
    }

    #[test]
    fn the_widest_rule_that_is_to_be_had_covers_others() {
        let rules = subscribes(&[("a/b", 2), ("a/+", 0), ("#", 1), ("+/#", 0), ("+/b", 1)]);
        let covering = |at, out: &[usize]| covering(&rules, at, |other| out.contains(&other));
        assert_eq!([0, 1, 2, 3, 4].map(|at| covering(at, &[])), [2, 2, 9, 2, 2].map(not_nine));
        assert_eq!([0, 1, 3, 4].map(|at| covering(at, &[2])), [3, 3, 9, 3].map(not_nine));
        assert_eq!([0, 1, 4].map(|at| covering(at, &[2, 3])), [1, 9, 9].map(not_nine));
        assert_eq!(qos_for_all(&rules, 1), Qos::ExactlyOnce);
        assert_eq!(qos_for_all(&rules, 4), Qos::ExactlyOnce);
        assert_eq!(qos_for_all(&rules, 0), Qos::ExactlyOnce);
        let alone = subscribes(&[("a", 0), ("b", 2)]);
        assert_eq!(qos_for_all(&alone, 0), Qos::AtMostOnce);
    }

    fn not_nine(at: usize) -> Option<usize> {
        Some(at).filter(|at| *at != 9)
    }

    #[test]
    fn paced_topics_have_streams_of_their_own_until_all_are_lent() {
        let mut rules = rules();
        let mut seen = std::collections::BTreeSet::new();
        for topic in 0..LENT {
            let lane = rules.stream(0, &format!("p/{topic}"), Instant::START, &mut |_| true);
            assert!(lane.fresh && seen.insert(lane.stream));
        }
        let shared = rules.stream(0, "p/more", Instant::START, &mut |_| true);
        assert!(usize::from(shared.stream) >= PACED + LENT);
        // A stream that becomes free does not tear the topic from what it has waiting.
        let again = rules.stream(0, "p/more", Instant::START, &mut |stream| stream > 110);
        assert_eq!(again.stream, shared.stream);
        // Nor does somebody else's in it tear another from its own.
        for topic in 0..LENT {
            let lane = rules.stream(0, &format!("p/{topic}"), Instant::START, &mut |_| true);
            assert!(!lane.fresh && usize::from(lane.stream) < PACED + LENT);
        }
        assert_eq!(rules.stream(1, "x", Instant::START, &mut |_| true).stream, 0);
    }
}
