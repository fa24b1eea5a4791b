//! Shared subscriptions: the sessions with one `$share/NAME/FILTER` are a group. Members are named
//! in turn, beginning with the one behind whoever was chosen last; new ones come first. Read MQTT 5
//! section 4.8.2 first.

use super::{NONE, Subs, Subscription};
use crate::fit::fit;
use crate::mqtt::topic;
use crate::queue::entry::NO_RULE_YET;

/// How a message came to a session: by subscriptions of its own, or by the group told by a higher
/// number.
pub const PLAIN: u8 = 0;

/// The same for what the session published itself: No Local subscriptions have no part in it.
pub const PLAIN_OWN: u8 = 1;

pub fn is_way_shared(way: u8) -> bool {
    way > PLAIN_OWN
}

/// The way of a group, told by its name and filter. It is kept with each message: when the session
/// ends its messages go to others of the group. Two groups of one session may share a way; then
/// the topic tells them apart as far as it can.
pub fn way_of(filter: &str) -> u8 {
    if share_bytes(filter) == 0 {
        return PLAIN;
    }
    // The queue takes it for a rule, and has a meaning of its own for the last ones.
    let [low, ..] = (2 + topic::topic_hash(filter) % u64::from(NO_RULE_YET - 2)).to_le_bytes();
    low
}

/// Bytes of `$share/NAME/`; 0 when the filter is not shared.
pub(super) fn share_bytes(filter: &str) -> u16 {
    let inner = topic::split_shared(filter).map_or(filter, |(_, inner)| inner);
    // A filter is no longer than the wire can say.
    fit(filter.len() - inner.len(), "bytes of a filter")
}

/// The sessions that share a subscription; never empty.
pub struct Group<'a> {
    subs: &'a Subs,
    filter: u16,
}

/// A member that was chosen; see [`Subs::chosen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    filter: u16,
    link: u16,
}

impl Group<'_> {
    /// Every member once, beginning with the one whose turn it is.
    pub fn members(&self) -> impl Iterator<Item = (Turn, u16, &Subscription)> {
        let filter = &self.subs.filters[usize::from(self.filter)];
        let first = if filter.turn == NONE { filter.links } else { filter.turn };
        let mut next = first;
        core::iter::from_fn(move || {
            let at = next;
            let link = self.subs.links.get(usize::from(at))?;
            next = if link.filter_next == NONE { filter.links } else { link.filter_next };
            if next == first {
                next = NONE;
            }
            Some((Turn { filter: self.filter, link: at }, link.session, &link.sub))
        })
    }

    pub fn way(&self) -> u8 {
        way_of(self.subs.text(self.filter))
    }
}

impl Subs {
    pub(super) fn group(&self, filter: u16) -> Group<'_> {
        Group { subs: self, filter }
    }

    /// The message goes to this member: the next one's turn comes. Nothing was unsubscribed since.
    pub fn chosen(&mut self, turn: Turn) {
        self.filters[usize::from(turn.filter)].turn =
            self.links[usize::from(turn.link)].filter_next;
    }

    /// The group by which a message came to a session.
    pub fn group_of(&self, session: u16, way: u8, topic: &str) -> Option<Group<'_>> {
        let link = self.by_way(session, way, topic).next()?;
        Some(self.group(self.links[usize::from(link)].filter))
    }

    /// Identifiers of the subscriptions by which a message came to a session: all that match for
    /// one that came by its own [MQTT-3.3.4-3] but No Local ones for what it published itself, the
    /// group's for one that was shared.
    pub fn ids(&self, session: u16, way: u8, topic: &str) -> impl Iterator<Item = u32> {
        let subs = self.by_way(session, way, topic).map(|link| self.links[usize::from(link)].sub);
        subs.filter(move |sub| sub.id != 0 && !(way == PLAIN_OWN && sub.no_local)).map(|sub| sub.id)
    }

    fn by_way(&self, session: u16, way: u8, topic: &str) -> impl Iterator<Item = u16> {
        let mut next = self.sessions[usize::from(session)];
        core::iter::from_fn(move || {
            loop {
                let at = next;
                let link = self.links.get(usize::from(at))?;
                next = link.session_next;
                let shared = self.filters[usize::from(link.filter)].share_bytes > 0;
                let same = shared == is_way_shared(way)
                    && (!shared || way_of(self.text(link.filter)) == way);
                if same && topic::matches(self.inner(link.filter), topic) {
                    return Some(at);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sub;
    use super::super::{Added, Match};
    use super::*;

    /// Sessions with subscriptions of their own, and the sessions of each group in turn.
    fn found(subs: &mut Subs, topic: &str) -> (Vec<u16>, Vec<Vec<u16>>) {
        let (mut own, mut groups) = (Vec::new(), Vec::new());
        subs.matches(topic, &mut |found| match found {
            Match::Own(session, _) => own.push(session),
            Match::Group(group) => {
                groups.push(group.members().map(|(_, session, _)| session).collect());
            }
        });
        groups.sort();
        (own, groups)
    }

    /// Who gets the next message of the only group when everyone can.
    fn next(subs: &mut Subs) -> u16 {
        let mut first = None;
        subs.matches("a/b", &mut |found| {
            let Match::Group(group) = found else { return };
            first = group.members().next().map(|(turn, session, _)| (turn, session));
        });
        let (turn, session) = first.unwrap();
        subs.chosen(turn);
        session
    }

    #[test]
    fn groups_are_told_from_each_other_and_from_plain_subscriptions() {
        for filter in ["a/b", "a/+", "a/#", "#"] {
            let mut subs = Subs::new(8, 40, 4);
            let shared = |name: &str| format!("$share/{name}/{filter}");
            for (session, filter) in
                [(0, filter.to_string()), (0, shared("g")), (1, shared("g")), (2, shared("h"))]
            {
                assert_eq!(subs.subscribe(session, &filter, sub(1)), Ok(Added::New));
            }
            let both = (vec![0], vec![vec![1, 0], vec![2]]);
            assert_eq!(found(&mut subs, "a/b"), both, "{filter}");
            assert!(subs.unsubscribe(0, filter));
            assert!(!subs.unsubscribe(2, &shared("g")));
            assert_eq!(found(&mut subs, "a/b"), (vec![], both.1), "{filter}");
            assert!(subs.unsubscribe(2, &shared("h")));
            subs.remove_session(1);
            assert_eq!(found(&mut subs, "a/b"), (vec![], vec![vec![0]]), "{filter}");
            subs.remove_session(0);
            assert_eq!(subs.shared_count, 0);
        }
    }

    #[test]
    fn topics_that_begin_with_a_dollar_are_not_for_a_shared_hash_sign() {
        let mut subs = Subs::new(2, 40, 1);
        subs.subscribe(0, "$share/g/#", sub(1)).unwrap();
        assert_eq!(found(&mut subs, "$SYS/x").1.len(), 0);
        assert_eq!(found(&mut subs, "$share/g/x").1.len(), 0);
        assert_eq!(found(&mut subs, "x").1.len(), 1);
    }

    #[test]
    fn every_member_has_its_turn_whoever_comes_and_goes() {
        let mut subs = Subs::new(8, 40, 4);
        for session in 0..3 {
            subs.subscribe(session, "$share/g/a/+", sub(0)).unwrap();
        }
        let turns: Vec<u16> = (0..6).map(|_| next(&mut subs)).collect();
        assert_eq!(turns, [2, 1, 0, 2, 1, 0]);
        assert_eq!(next(&mut subs), 2);
        subs.unsubscribe(1, "$share/g/a/+");
        assert_eq!([next(&mut subs), next(&mut subs), next(&mut subs)], [0, 2, 0]);
        subs.subscribe(3, "$share/g/a/+", sub(0)).unwrap();
        let mut turns: Vec<u16> = (0..3).map(|_| next(&mut subs)).collect();
        turns.sort_unstable();
        assert_eq!(turns, [0, 2, 3]);
    }

    #[test]
    fn identifiers_are_those_of_the_way_a_message_came() {
        let mut subs = Subs::new(8, 40, 2);
        let filters = ["a/b", "a/#", "x", "$share/g/a/b", "$share/h/a/b", "$share/g/x"];
        for (id, filter) in (1..).zip(filters) {
            subs.subscribe(0, filter, sub(id)).unwrap();
        }
        let ids = |way| {
            let mut ids: Vec<u32> = subs.ids(0, way, "a/b").collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(PLAIN), [1, 2]);
        assert_eq!(ids(way_of("$share/g/a/b")), [4]);
        assert_eq!(ids(way_of("$share/h/a/b")), [5]);
        assert!(subs.group_of(0, way_of("$share/h/a/b"), "a/b").is_some());
        assert!(subs.group_of(0, way_of("$share/h/a/b"), "b").is_none());
        assert!(subs.group_of(1, way_of("$share/h/a/b"), "a/b").is_none());
    }

    #[test]
    fn groups_of_one_session_that_share_a_way_are_told_apart_by_the_topic() {
        let mut names = (0..).map(|n| format!("$share/{n}/b"));
        let wanted = way_of("$share/g/a");
        let other = names.find(|name| way_of(name) == wanted).unwrap();
        let mut subs = Subs::new(8, 40, 1);
        subs.subscribe(0, "$share/g/a", sub(1)).unwrap();
        subs.subscribe(0, &other, sub(2)).unwrap();
        for (topic, id) in [("a", 1), ("b", 2)] {
            assert_eq!(subs.ids(0, wanted, topic).collect::<Vec<_>>(), [id]);
            let members = subs.group_of(0, wanted, topic).unwrap();
            assert_eq!(members.members().next().unwrap().2.id, id);
        }
    }
}
