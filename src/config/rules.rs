//! The rules of a bridge: what it forwards, what it subscribes to, and how topics change.

use super::bridges::QOS;
use super::check::{OVERFLOW, YEAR};
use super::parse::{Shown, Word};
use super::reader::{Reader, Scope};
use super::values::{Parsed, boolean, duration, number, one_of, or_off, rate, wire_text};
use super::{Forward, Limits, Overflow, Priority, RetainRule, SubscribeRule};
use crate::mqtt::topic::{self, Mapping};
use core::time::Duration;

/// Messages per topic that a rule with a rate keeps when nothing is said.
const PACED_MESSAGES_DEFAULT: u32 = 1000;

const WILD: &str = "+ and # stand for whole levels, # for the last";

const RETAIN: &[(&str, RetainRule)] =
    &[("keep", RetainRule::Keep), ("true", RetainRule::Always), ("false", RetainRule::Never)];

pub(super) fn forwards(reader: &mut Reader<'_>, at: Scope<'_>, limit: &Limits) -> Vec<Forward> {
    const PRIORITY: &[(&str, Priority)] =
        &[("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];
    let mut rules: Vec<Forward> = Vec::new();
    for rule in reader.rules(at.name, "forward") {
        let at = Scope { rule, ..at };
        let (local_topic, mapping) = topics(
            reader,
            at,
            limit,
            &[
                "bridge.NAME.forward.N.local_topic",
                "bridge.NAME.forward.N.remote_topic",
                "bridge.NAME.forward.N.prefix",
                "bridge.NAME.forward.N.suffix",
            ],
        );
        let earlier = rules.iter().map(|rule| (rule.name.as_str(), rule.local_topic.as_str()));
        in_the_shade(reader, at, &local_topic, earlier);
        let pace = reader.take("bridge.NAME.forward.N.rate", at, rate);
        let messages = reader.maybe(
            "bridge.NAME.forward.N.max_messages",
            at,
            or_off(number(1, 1_000_000_000)),
        );
        let overflow = reader.maybe("bridge.NAME.forward.N.overflow", at, one_of(OVERFLOW));
        rules.push(Forward {
            name: rule.to_owned(),
            local_topic,
            mapping,
            qos: reader.maybe("bridge.NAME.forward.N.qos", at, one_of(QOS)),
            retain: reader.take("bridge.NAME.forward.N.retain", at, one_of(RETAIN)),
            rate: pace,
            max_messages: messages.unwrap_or(pace.map(|_| PACED_MESSAGES_DEFAULT)),
            overflow: overflow.or(pace.map(|_| Overflow::DropOldest)),
            max_age: reader.take(
                "bridge.NAME.forward.N.max_age",
                at,
                or_off(duration(Duration::from_millis(1), YEAR)),
            ),
            priority: reader.take("bridge.NAME.forward.N.priority", at, one_of(PRIORITY)),
            conflate: reader.take("bridge.NAME.forward.N.conflate", at, boolean),
        });
    }
    rules
}

pub(super) fn subscribes(
    reader: &mut Reader<'_>,
    at: Scope<'_>,
    limit: &Limits,
) -> Vec<SubscribeRule> {
    let mut rules: Vec<SubscribeRule> = Vec::new();
    for rule in reader.rules(at.name, "subscribe") {
        let at = Scope { rule, ..at };
        let (remote_topic, mapping) = topics(
            reader,
            at,
            limit,
            &[
                "bridge.NAME.subscribe.N.remote_topic",
                "bridge.NAME.subscribe.N.local_topic",
                "bridge.NAME.subscribe.N.prefix",
                "bridge.NAME.subscribe.N.suffix",
            ],
        );
        let same = |r: &&SubscribeRule| !remote_topic.is_empty() && r.remote_topic == remote_topic;
        if let Some(first) = rules.iter().find(same) {
            let what = format!("subscribe {} has the same filter already", first.name);
            reader.error("bridge.NAME.subscribe.N.remote_topic", at, what);
        }
        let earlier = rules.iter().map(|rule| (rule.name.as_str(), rule.remote_topic.as_str()));
        asked_twice(reader, at, &remote_topic, earlier);
        rules.push(SubscribeRule {
            name: rule.to_owned(),
            remote_topic,
            mapping,
            qos: reader.take("bridge.NAME.subscribe.N.qos", at, one_of(QOS)),
            retain: reader.take("bridge.NAME.subscribe.N.retain", at, one_of(RETAIN)),
        });
    }
    rules
}

/// Warns of a forward rule that an earlier one, by name and filter, keeps from some or all of what
/// it is for: the first that matches wins. An exception before the general rule is how it is meant.
fn in_the_shade<'r>(
    reader: &mut Reader<'_>,
    at: Scope<'_>,
    own: &str,
    earlier: impl Iterator<Item = (&'r str, &'r str)> + Clone,
) {
    const KEY: &str = "bridge.NAME.forward.N.local_topic";
    let mut earlier = earlier.filter(|(_, filter)| !filter.is_empty() && !own.is_empty());
    let covering = earlier.clone().find(|(_, filter)| topic::covers(filter, own));
    let crossing = |filter: &str| topic::overlaps(filter, own) && !topic::covers(own, filter);
    let (rule, filter, why) = if let Some((rule, filter)) = covering {
        (rule, filter, "is first and matches all of this: this rule is never reached")
    } else if let Some((rule, filter)) = earlier.find(|(_, filter)| crossing(filter)) {
        (rule, filter, "is first and matches some of this: what matches both goes by that one")
    } else {
        return;
    };
    let place = reader.place(KEY, Scope { rule, ..at });
    reader.warn(KEY, at, format!("{place} = {} {why}", Shown(filter)));
}

/// Warns of a subscribe rule that asks for what an earlier one, by name and filter, asks for too.
fn asked_twice<'r>(
    reader: &mut Reader<'_>,
    at: Scope<'_>,
    own: &str,
    earlier: impl Iterator<Item = (&'r str, &'r str)> + Clone,
) {
    const KEY: &str = "bridge.NAME.subscribe.N.remote_topic";
    // The same filter is an error of its own.
    let mut earlier = earlier.filter(|(_, filter)| !filter.is_empty() && !own.is_empty());
    let covering = earlier.clone().find(|(_, filter)| topic::covers(filter, own));
    let covered = |filter: &str| topic::covers(own, filter);
    let (rule, filter, why) = if let Some((rule, filter)) = covering {
        (rule, filter, "asks for all of this already: what matches both comes in by both rules")
    } else if let Some((rule, filter)) = earlier.clone().find(|(_, filter)| covered(filter)) {
        (rule, filter, "is asked for by this, too: what matches both comes in by both rules")
    } else if let Some((rule, filter)) = earlier.find(|(_, filter)| topic::overlaps(filter, own)) {
        let why = "asks for some of this: what matches both comes in by both rules, and before \
                   MQTT 5 perhaps twice";
        (rule, filter, why)
    } else {
        return;
    };
    if filter != own {
        let place = reader.place(KEY, Scope { rule, ..at });
        reader.warn(KEY, at, format!("{place} = {} {why}", Shown(filter)));
    }
}

/// A rule's source filter and its mapping, from its four keys: source, target, prefix, suffix.
fn topics(
    reader: &mut Reader<'_>,
    at: Scope<'_>,
    limit: &Limits,
    keys: &[&'static str; 4],
) -> (String, Mapping) {
    let [source_key, target_key, prefix_key, suffix_key] = *keys;
    let max = limit.topic_bytes;
    if !reader.is_written(source_key, at) {
        reader.error(source_key, at, "is missing");
    }
    let source = reader.maybe(source_key, at, filter(max));
    let target = reader.maybe(target_key, at, |word| {
        let target = wire_text(0, max)(word)?;
        if target.is_empty() || topic::is_filter(&target) {
            Ok(target)
        } else {
            Err(format!("{} is no topic: {WILD}", Shown(&target)))
        }
    });
    let prefix = reader.maybe(prefix_key, at, around(max)).unwrap_or_default();
    let suffix = reader.maybe(suffix_key, at, around(max)).unwrap_or_default();
    let target = target.filter(|target| !target.is_empty());
    let source = source.unwrap_or_default();
    for (key, filter) in [(source_key, Some(&source)), (target_key, target.as_ref())] {
        if filter.is_some_and(|filter| filter.split('/').any(|level| level == "*")) {
            let what = "* is no wildcard: + stands for one level, # for all that follow";
            reader.warn(key, at, what);
        }
    }
    if source.is_empty() {
        return (source, Mapping::identity());
    }
    match Mapping::new(&source, target.as_deref(), &prefix, &suffix) {
        Ok(mapping) => (source, mapping),
        Err(why) => {
            let key = if target.is_some() { target_key } else { source_key };
            reader.error(key, at, format!("cannot be made from the source filter: {why}"));
            (source, Mapping::identity())
        }
    }
}

fn filter(max: usize) -> impl Fn(&Word<'_>) -> Parsed<String> {
    move |word| {
        let filter = wire_text(1, max)(word)?;
        if filter.starts_with("$share/") {
            let shown = Shown(&filter);
            return Err(format!("{shown} is a shared subscription, which is not in this build"));
        }
        if topic::is_filter(&filter) {
            Ok(filter)
        } else {
            Err(format!("{} is no topic filter: {WILD}", Shown(&filter)))
        }
    }
}

pub(super) fn topic_name(max: usize) -> impl Fn(&Word<'_>) -> Parsed<String> {
    move |word| {
        let name = wire_text(1, max)(word)?;
        if topic::is_name(&name) {
            Ok(name)
        } else {
            Err(format!("{} is no topic: + and # belong into filters", Shown(&name)))
        }
    }
}

fn around(max: usize) -> impl Fn(&Word<'_>) -> Parsed<String> {
    move |word| {
        let part = wire_text(0, max)(word)?;
        if part.is_empty() || topic::is_name(&part) {
            Ok(part)
        } else {
            Err(format!("{} holds a wildcard: + and # belong into filters", Shown(&part)))
        }
    }
}
