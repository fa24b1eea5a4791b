//! Filters that a bridge has subscribed to and does not want any more. A server keeps them with the
//! session of the bridge, so every server that may have one is asked to forget it when the bridge
//! is there next: after a reload, and after a restart, for the store has what was subscribed.

use crate::config::{Bridge, Server};
use crate::fit::fit;
use crate::limits::FILTERS_LEFT_MAX;
use crate::mqtt::text::first_unwelcome;
use crate::mqtt::topic::topic_hash;

/// Every server.
const ALL: u8 = u8::MAX;

const _: () = assert!(crate::limits::SERVERS_MAX <= 8, "a server is a bit");

/// What the servers of a bridge may have, wanted or not: what the store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Stands for the list of servers that the bits are about.
    servers: u64,
    /// With a bit for each server that may have it.
    filters: Vec<(String, u8)>,
}

impl Known {
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut row = self.servers.to_le_bytes().to_vec();
        for (filter, servers) in &self.filters {
            row.push(*servers);
            // A filter is no longer than a topic may be.
            row.extend_from_slice(&fit::<u16, _>(filter.len(), "bytes of a filter").to_le_bytes());
            row.extend_from_slice(filter.as_bytes());
        }
        row
    }

    pub fn decode(row: &[u8]) -> Option<Self> {
        let (servers, mut rest) = row.split_first_chunk::<8>()?;
        let mut filters = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<3>() {
            let bytes = usize::from(u16::from_le_bytes([head[1], head[2]]));
            let (filter, behind) = behind.split_at_checked(bytes)?;
            let filter = core::str::from_utf8(filter).ok()?;
            // Of an earlier version: a server would close over it, not forget it.
            if first_unwelcome(filter).is_none() {
                filters.push((filter.to_owned(), head[0]));
            }
            rest = behind;
        }
        rest.is_empty().then_some(Self { servers: u64::from_le_bytes(*servers), filters })
    }
}

/// The filters of one bridge that are to be unsubscribed.
#[derive(Clone, Debug, Default)]
pub struct Left {
    known: Known,
    /// The first of them that is due has been asked for in this connection.
    asked: bool,
    /// What the store has is another.
    pub dirty: bool,
}

impl Left {
    /// What is left of `known` under the rules that `bridge` has now.
    pub fn new(known: Known, bridge: &Bridge) -> Self {
        let servers = hash(&bridge.servers);
        let same = known.servers == servers;
        let wanted = |filter: &str| bridge.subscribe.iter().any(|r| r.remote_topic == filter);
        let mut filters = known.filters;
        let count = fit(bridge.servers.len(), "servers");
        let all = !ALL.checked_shl(count).unwrap_or(0);
        for (_, servers) in &mut filters {
            *servers = if same { *servers & all } else { all };
        }
        filters.retain(|(filter, servers)| *servers != 0 && !wanted(filter));
        filters.drain(..filters.len().saturating_sub(FILTERS_LEFT_MAX));
        Self { known: Known { servers, filters }, asked: false, dirty: true }
    }

    /// All that the servers may have, those of the rules among it.
    pub fn known<'a>(&self, rules: impl Iterator<Item = &'a str>) -> Known {
        let mut known = self.known.clone();
        for filter in rules {
            // One that is covered may be among the others.
            known.filters.retain(|(known, _)| known != filter);
            known.filters.push((filter.to_owned(), ALL));
        }
        known
    }

    /// A connection to a server begins.
    pub fn connected(&mut self, server: u16, has_session: bool) {
        self.asked = false;
        if !has_session {
            self.forget(|servers| *servers &= !bit(server));
        }
    }

    /// What this server is to be asked to forget now.
    pub fn next(&self, server: u16) -> Option<&str> {
        let due = |(_, servers): &&(String, u8)| servers & bit(server) != 0;
        let next = if self.asked { None } else { self.known.filters.iter().find(due) };
        next.map(|(filter, _)| filter.as_str())
    }

    /// One that a rule asks for is not wanted of this server after all.
    pub fn leave(&mut self, filter: &str, server: u16) {
        let known = self.known.filters.iter_mut().find(|(known, _)| known == filter);
        match known {
            Some((_, servers)) => *servers |= bit(server),
            // A filter a rule at most.
            None => self.known.filters.push((filter.to_owned(), bit(server))),
        }
    }

    /// One is wanted.
    pub fn want(&mut self, filter: &str) {
        self.known.filters.retain(|(known, _)| known != filter);
    }

    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// Is an answer awaited?
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whatever it said, it has heard it. `false`: it was not asked.
    pub fn answered(&mut self, server: u16) -> bool {
        let asked = core::mem::take(&mut self.asked);
        let mut first = asked;
        self.forget(|servers| {
            if first && *servers & bit(server) != 0 {
                first = false;
                *servers &= !bit(server);
            }
        });
        asked
    }

    fn forget(&mut self, change: impl FnMut(&mut u8)) {
        let before: u32 = self.known.filters.iter().map(|(_, servers)| servers.count_ones()).sum();
        self.known.filters.iter_mut().map(|(_, servers)| servers).for_each(change);
        self.known.filters.retain(|(_, servers)| *servers != 0);
        let after: u32 = self.known.filters.iter().map(|(_, servers)| servers.count_ones()).sum();
        self.dirty |= before != after;
    }
}

fn bit(server: u16) -> u8 {
    1_u8.checked_shl(u32::from(server)).unwrap_or(0)
}

fn hash(servers: &[Server]) -> u64 {
    let names: Vec<String> = servers.iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
    topic_hash(&names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn bridge(servers: &str, filters: &[&str]) -> Bridge {
        let mut text = format!("store.path = /x\nbridge.b.server = {servers}\n");
        for (at, filter) in filters.iter().enumerate() {
            text += &format!("bridge.b.subscribe.{at}.remote_topic = {filter}\n");
        }
        let (config, _) = config::load("t", &text, &mut |_| Err(String::new()), "n").unwrap();
        config.bridges[0].clone()
    }

    fn known(of: &Left, bridge: &Bridge) -> Known {
        of.known(bridge.subscribe.iter().map(|rule| rule.remote_topic.as_str()))
    }

    const TWO: &str = "mqtt://a,mqtt://b";

    #[test]
    fn each_server_that_may_have_a_filter_is_asked_once_to_forget_it() {
        let old = bridge(TWO, &["x", "y", "z"]);
        let before = known(&Left::new(Known::default(), &old), &old);
        let new = bridge(TWO, &["y"]);
        let mut left = Left::new(Known::decode(&before.encode()).unwrap(), &new);
        left.connected(0, true);
        for filter in ["x", "z"] {
            assert_eq!(left.next(0), Some(filter));
            left.asked();
            assert_eq!(left.next(0), None, "one at a time");
            assert!(left.answered(0));
        }
        assert_eq!(left.next(0), None);
        assert!(!left.answered(0));
        // The other has lost the session.
        assert_eq!(left.next(1), Some("x"));
        left.connected(1, false);
        assert_eq!(left.next(1), None);
        assert!(known(&left, &bridge(TWO, &[])).is_empty());
    }

    #[test]
    fn what_is_wanted_again_and_what_was_never_asked_stays() {
        let old = bridge(TWO, &["x", "y"]);
        let first = Left::new(Known::default(), &old);
        let mut left = Left::new(known(&first, &old), &bridge(TWO, &[]));
        left.connected(0, true);
        left.asked();
        // It is wanted again before the answer comes.
        let again = bridge(TWO, &["x"]);
        let mut left = Left::new(left.known(core::iter::empty()), &again);
        left.connected(0, true);
        assert_eq!(left.next(0), Some("y"));
    }

    #[test]
    fn another_list_of_servers_may_have_everything() {
        let old = bridge(TWO, &["x"]);
        let none = bridge(TWO, &[]);
        let mut left = Left::new(known(&Left::new(Known::default(), &old), &old), &none);
        left.asked();
        left.answered(0);
        assert_eq!(left.next(0), None);
        let turned = bridge("mqtt://b,mqtt://a", &[]);
        let left = Left::new(left.known(core::iter::empty()), &turned);
        assert_eq!(left.next(0), Some("x"));
    }

    #[test]
    fn a_row_that_is_cut_is_none() {
        let old = bridge(TWO, &["x/#", "é"]);
        let known = known(&Left::new(Known::default(), &old), &old);
        let row = known.encode();
        assert_eq!(Known::decode(&row), Some(known));
        let whole = [8, 8 + 3 + 3];
        for bytes in 0..row.len() {
            assert_eq!(Known::decode(&row[..bytes]).is_some(), whole.contains(&bytes), "{bytes}");
        }
    }
}
