//! Topic aliases of MQTT 5, those of clients and ours: a few topics a connection and direction, in
//! memory fixed at start whose pages nobody touches who uses none. They end with the connection.
//! Read MQTT 5 section 3.3.2.3.4 first.

use super::Gateway;
use super::ingest::Source;
use super::receive::{Fatal, Step};
use crate::fit::fit;
use crate::limits::TOPIC_ALIASES;
use crate::mqtt::{Publish, Qos, Reason};
use crate::vocab::Instant;

/// How a PUBLISH says its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alias {
    /// In full.
    None,
    /// In full, and by this number from here on.
    New(u16),
    /// By this number alone.
    Known(u16),
}

/// The aliases of one direction, a table a connection.
#[derive(Default)]
pub struct Aliases {
    topic_bytes: usize,
    texts: Box<[u8]>,
    rows: Box<[Row]>,
}

#[derive(Clone, Copy, Default)]
struct Row {
    /// 0 = not in use.
    bytes: u16,
    /// Used since it was last asked to make room.
    recent: bool,
}

impl Aliases {
    pub fn new(tables: usize, topic_bytes: usize) -> Self {
        let rows = tables * usize::from(TOPIC_ALIASES);
        Self {
            topic_bytes,
            texts: vec![0; rows * topic_bytes].into_boxed_slice(),
            rows: vec![Row::default(); rows].into_boxed_slice(),
        }
    }

    pub fn planned_bytes(tables: usize, topic_bytes: usize) -> usize {
        tables * usize::from(TOPIC_ALIASES) * (topic_bytes + size_of::<Row>())
    }

    /// A new connection has none.
    pub fn clear(&mut self, table: u16) {
        let first = self.row(table, 1);
        if let Some(rows) = self.rows.get_mut(first..first + usize::from(TOPIC_ALIASES)) {
            rows.fill(Row::default());
        }
    }

    fn row(&self, table: u16, alias: u16) -> usize {
        usize::from(table) * usize::from(TOPIC_ALIASES) + usize::from(alias.max(1)) - 1
    }

    fn text(&self, row: usize) -> &[u8] {
        let start = row * self.topic_bytes;
        &self.texts[start..start + usize::from(self.rows[row].bytes)]
    }

    /// The topic of an alias, which is at most [`TOPIC_ALIASES`].
    pub fn get(&self, table: u16, alias: u16) -> Option<&str> {
        let text = self.text(self.row(table, alias));
        // Rows are only ever written from a whole `&str`.
        core::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    pub fn set(&mut self, table: u16, alias: u16, topic: &str) {
        let row = self.row(table, alias);
        let start = row * self.topic_bytes;
        // A topic that is too long is refused before, or not chosen for an alias.
        if let Some(text) = self.texts[start..start + self.topic_bytes].get_mut(..topic.len()) {
            text.copy_from_slice(topic.as_bytes());
            let bytes = fit(topic.len(), "topic bytes");
            self.rows[row] = Row { bytes, recent: true };
        }
    }

    /// How to say a topic to a peer that takes so many aliases. A topic replaces one that was not
    /// said since a topic last found no room.
    pub fn choose(&mut self, table: u16, topic: &str, max: u16) -> Alias {
        let max = max.min(TOPIC_ALIASES);
        if max == 0 || topic.len() > self.topic_bytes {
            return Alias::None;
        }
        let mut free = None;
        for alias in 1..=max {
            let row = self.row(table, alias);
            if self.text(row) == topic.as_bytes() {
                self.rows[row].recent = true;
                return Alias::Known(alias);
            }
            if !self.rows[row].recent {
                free = free.or(Some(alias));
            }
        }
        if let Some(alias) = free {
            return Alias::New(alias);
        }
        for alias in 1..=max {
            let row = self.row(table, alias);
            self.rows[row].recent = false;
        }
        Alias::None
    }
}

impl Gateway {
    /// A PUBLISH, by its topic or by the alias that its connection gave one.
    ///
    /// A topic gets its alias when the PUBLISH that says so is taken, and one with an alias that
    /// has to wait is overtaken by none: however often it is tried again, the number means what it
    /// meant in the order of the wire.
    pub(super) fn publish_aliased(
        &mut self,
        now: Instant,
        slot: u16,
        source: Source,
        publish: &Publish<'_>,
        publishes_wait: bool,
        zero_waits: bool,
    ) -> Result<Step, Fatal> {
        let Some(alias) = publish.properties.topic_alias() else {
            return self.publish(now, slot, source, publish, publishes_wait, zero_waits);
        };
        // Remotes are told of no Topic Alias Maximum [MQTT-3.2.2-17].
        if alias > TOPIC_ALIASES || !matches!(source, Source::Client { .. }) {
            let fatal = Fatal::from(Reason::TOPIC_ALIAS_INVALID);
            return Err(fatal.over(usize::from(alias), usize::from(TOPIC_ALIASES), ""));
        }
        if publishes_wait && publish.qos != Qos::AtMostOnce || zero_waits {
            return Ok(Step::ParkAll);
        }
        let mut heard = core::mem::take(&mut self.heard);
        let step = if !publish.topic.is_empty() {
            self.publish(now, slot, source, publish, publishes_wait, zero_waits)
        } else if let Some(topic) = heard.get(slot, alias) {
            let publish = Publish { topic, ..*publish };
            self.publish(now, slot, source, &publish, publishes_wait, zero_waits)
        } else {
            Err(Reason::PROTOCOL_ERROR.into())
        };
        if step == Ok(Step::Done) && !publish.topic.is_empty() {
            heard.set(slot, alias, publish.topic);
        }
        self.heard = heard;
        step.map(|step| if step == Step::Park { Step::ParkAll } else { step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says a topic as `transmit` does.
    fn say(aliases: &mut Aliases, table: u16, topic: &str, max: u16) -> Alias {
        let alias = aliases.choose(table, topic, max);
        if let Alias::New(alias) = alias {
            aliases.set(table, alias, topic);
        }
        alias
    }

    #[test]
    fn a_topic_is_said_in_full_once_a_connection() {
        let mut aliases = Aliases::new(2, 8);
        assert_eq!(say(&mut aliases, 1, "a", 9), Alias::New(1));
        assert_eq!(say(&mut aliases, 1, "b", 9), Alias::New(2));
        assert_eq!(say(&mut aliases, 1, "a", 9), Alias::Known(1));
        assert_eq!(say(&mut aliases, 0, "a", 9), Alias::New(1));
        assert_eq!(say(&mut aliases, 1, "too long for it", 9), Alias::None);
        assert_eq!(say(&mut aliases, 1, "a", 0), Alias::None);
        aliases.clear(1);
        assert_eq!(aliases.get(1, 1), None);
        assert_eq!(aliases.get(0, 1), Some("a"));
        assert_eq!(say(&mut aliases, 1, "a", 9), Alias::New(1));
    }

    #[test]
    fn a_topic_that_is_said_no_more_makes_room() {
        let mut aliases = Aliases::new(1, 8);
        for topic in ["a", "b"] {
            say(&mut aliases, 0, topic, 2);
        }
        assert_eq!(say(&mut aliases, 0, "c", 2), Alias::None);
        assert_eq!(say(&mut aliases, 0, "a", 2), Alias::Known(1));
        assert_eq!(say(&mut aliases, 0, "c", 2), Alias::New(2));
        assert_eq!(say(&mut aliases, 0, "b", 2), Alias::None);
        assert_eq!([aliases.get(0, 1), aliases.get(0, 2)], [Some("a"), Some("c")]);
    }
}
