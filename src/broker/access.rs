//! What a client may publish, receive and subscribe to. The meaning of the rules is mosquitto's:
//! the rules of the user are tried before the patterns, in each those that deny before those that
//! grant, and what nothing grants is denied. A filter that begins with a wildcard says nothing
//! about topics that begin with `$`.
//!
//! Users and rules are one value that the gateway owns: [`Access::replace`] exchanges both at run
//! time. Nothing else remembers a verdict, so the next message is judged by the new rules.

use crate::config::{Acl, Auth, Grant, Rule, Users};
use crate::mqtt::topic;

#[derive(Clone, Debug, Default)]
pub struct Access {
    auth: Auth,
}

/// Whom the rules are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub user: Option<&'a str>,
    pub client_id: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Read,
    Write,
}

impl Grant {
    fn gives(self, right: Right) -> bool {
        match (self, right) {
            (Self::ReadWrite, _) | (Self::Read, Right::Read) | (Self::Write, Right::Write) => true,
            (Self::Read | Self::Write | Self::Deny, _) => false,
        }
    }
}

impl Access {
    pub fn new(auth: Auth) -> Self {
        Self { auth }
    }

    /// Other users and rules from here on; those until now. What may be published and delivered is
    /// judged anew, message by message.
    pub fn replace(&mut self, auth: Auth) -> Auth {
        core::mem::replace(&mut self.auth, auth)
    }

    /// `None`: names and passwords are not looked at.
    pub fn users(&self) -> Option<&Users> {
        self.auth.users.as_deref()
    }

    pub fn has_rules(&self) -> bool {
        self.auth.acl.is_some()
    }

    /// May it publish to this topic, or be sent what was? Allocates nothing.
    pub fn may(&self, who: Who<'_>, right: Right, topic: &str) -> bool {
        let Some(acl) = &self.auth.acl else { return true };
        for rule in acl.rules_of(who.user) {
            let decides = rule.grant == Grant::Deny || rule.grant.gives(right);
            if decides && topic::matches(&rule.filter, topic) {
                return rule.grant != Grant::Deny;
            }
        }
        for rule in patterns(acl, who) {
            let decides = rule.grant == Grant::Deny || rule.grant.gives(right);
            if decides && topic::matches_bytes(filled(&rule.filter, who), topic) {
                return rule.grant != Grant::Deny;
            }
        }
        false
    }

    /// Is there anything it may read among what this filter (of a shared subscription: the inner
    /// one) asks for? What of it may be read is decided for each message.
    pub fn may_subscribe(&self, who: Who<'_>, filter: &str) -> bool {
        let Some(acl) = &self.auth.acl else { return true };
        for rule in acl.rules_of(who.user) {
            if rule.grant == Grant::Deny && topic::covers(&rule.filter, filter) {
                return false;
            }
            if rule.grant.gives(Right::Read) && topic::overlaps(&rule.filter, filter) {
                return true;
            }
        }
        for rule in patterns(acl, who) {
            let bytes = filled(&rule.filter, who).collect();
            // Of two texts only whole ones are put together.
            let own = String::from_utf8(bytes).unwrap_or_default();
            if rule.grant == Grant::Deny && topic::covers(&own, filter) {
                return false;
            }
            if rule.grant.gives(Right::Read) && topic::overlaps(&own, filter) {
                return true;
            }
        }
        false
    }
}

/// The patterns that say something about a client. A name with a wildcard in it would make a
/// pattern say more than it was meant to: then none does.
fn patterns<'a>(acl: &'a Acl, who: Who<'a>) -> impl Iterator<Item = &'a Rule> {
    let wild = |name: &str| name.contains(['+', '#']);
    let none = who.user.is_some_and(wild) || wild(who.client_id);
    let rules: &[Rule] = if none { &[] } else { &acl.patterns };
    rules.iter().filter(move |rule| who.user.is_some() || !rule.filter.contains("%u"))
}

/// A pattern with its names filled in, byte by byte.
fn filled<'a>(pattern: &'a str, who: Who<'a>) -> impl Iterator<Item = u8> + 'a {
    let mut rest = pattern.as_bytes();
    let mut name: &[u8] = &[];
    core::iter::from_fn(move || {
        loop {
            if let Some((byte, behind)) = name.split_first() {
                name = behind;
                return Some(*byte);
            }
            let (byte, behind) = rest.split_first()?;
            let word = match (byte, behind.first()) {
                (b'%', Some(b'u')) => who.user,
                (b'%', Some(b'c')) => Some(who.client_id),
                _ => None,
            };
            let Some(word) = word else {
                rest = behind;
                return Some(*byte);
            };
            (name, rest) = (word.as_bytes(), &behind[1..]);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(acl: &str) -> Access {
        Access::new(Auth { users: None, acl: Some(Acl::parse(acl).unwrap().into()) })
    }

    fn who<'a>(user: &'a str, client_id: &'a str) -> Who<'a> {
        Who { user: (!user.is_empty()).then_some(user), client_id }
    }

    /// The rights a client has on a topic: `rw`, `r`, `w` or nothing.
    fn rights(access: &Access, who: Who<'_>, topic: &str) -> &'static str {
        match (access.may(who, Right::Read, topic), access.may(who, Right::Write, topic)) {
            (true, true) => "rw",
            (true, false) => "r",
            (false, true) => "w",
            (false, false) => "",
        }
    }

    const RULES: &str = "\
topic read public/#
user alice
topic a/#
topic deny a/secret/+
topic write b/+/c
topic deny d/alice/closed
topic read e/#
topic write e/x
topic read g/open
user wild
topic read $SYS/#
topic #
pattern write d/%u/#
pattern readwrite c/%c/%u
pattern read c/%c
pattern deny g/#
user sys%
topic read s/%u
";

    #[test]
    fn rights_are_those_that_mosquitto_gives() {
        let access = access(RULES);
        for (user, client, topic, wanted) in [
            ("", "x", "public/a", "r"),
            ("", "x", "public", "r"),
            ("", "x", "a", ""),
            ("alice", "x", "public/a", ""),
            ("bob", "x", "public/a", ""),
            ("alice", "x", "a", "rw"),
            ("alice", "x", "a/b/c", "rw"),
            ("alice", "x", "a/secret/b", ""),
            ("alice", "x", "a/secret", "rw"),
            ("alice", "x", "b/1/c", "w"),
            ("alice", "x", "b/1/d", ""),
            ("alice", "x", "d/alice/open", "w"),
            ("alice", "x", "d/alice/closed", ""),
            ("alice", "x", "e/y", "r"),
            ("alice", "x", "e/x", "rw"),
            // The user's own rules go before a pattern that denies.
            ("alice", "x", "g/open", "r"),
            ("alice", "x", "g/other", ""),
            ("bob", "x", "d/bob", "w"),
            ("bob", "x", "d/alice/open", ""),
            ("bob", "x", "c/x/bob", "rw"),
            ("bob", "x", "c/x", "r"),
            ("bob", "x", "c/y", ""),
            ("", "x", "c/x", "r"),
            // Without a name a pattern with %u says nothing, not even of an empty one.
            ("", "x", "c/x/", ""),
            ("", "x", "d//y", ""),
            ("wild", "x", "any/thing", "rw"),
            ("wild", "x", "g/open", "rw"),
            ("wild", "x", "$SYS/a", "r"),
            ("wild", "x", "$other", ""),
            // Names that would widen a pattern.
            ("b+b", "x", "c/x", ""),
            ("bob", "+", "c/+/bob", ""),
            ("bob", "#", "c/x/bob", ""),
            ("bob", "y/bob", "c/y/bob", "r"),
            // In a topic rule they stand for themselves.
            ("sys%", "x", "s/%u", "r"),
            ("sys%", "x", "s/sys%", ""),
        ] {
            assert_eq!(
                rights(&access, who(user, client), topic),
                wanted,
                "{user} {client} {topic}"
            );
        }
    }

    #[test]
    fn without_rules_everything_is_allowed_and_with_an_empty_file_nothing() {
        assert_eq!(rights(&Access::default(), who("", "x"), "a"), "rw");
        assert!(Access::default().may_subscribe(who("", "x"), "#"));
        let mut access = access("# nothing\n");
        assert_eq!(rights(&access, who("alice", "x"), "a"), "");
        assert!(!access.may_subscribe(who("alice", "x"), "a"));
        access.replace(Auth { users: None, acl: Some(Acl::parse("topic read a").unwrap().into()) });
        assert_eq!(rights(&access, who("", "x"), "a"), "r");
    }

    #[test]
    fn a_subscription_is_refused_when_nothing_it_asks_for_may_be_read() {
        let access = access(RULES);
        for (user, filter, wanted) in [
            ("alice", "#", true),
            ("alice", "a/+", true),
            ("alice", "a/secret/+", false),
            ("alice", "a/secret/x", false),
            ("alice", "a/secret/#", true),
            ("alice", "b/#", false),
            ("alice", "d/#", false),
            ("alice", "e/x", true),
            ("alice", "g/#", true),
            ("alice", "g/+/x", false),
            ("alice", "c/x/alice", true),
            ("alice", "c/y/alice", false),
            ("alice", "+/x", true),
            ("alice", "$SYS/#", false),
            ("wild", "$SYS/#", true),
            ("wild", "$SYS/+/x", true),
            ("wild", "$other/#", false),
            ("", "public", true),
            ("", "+", true),
            ("", "p/#", false),
        ] {
            assert_eq!(access.may_subscribe(who(user, "x"), filter), wanted, "{user} {filter}");
        }
    }

    #[test]
    fn a_pattern_without_names_matches_as_it_stands() {
        for pattern in ["a/+", "%/x", "%", "%x/%%", "#"] {
            let filled: Vec<u8> = filled(pattern, who("alice", "one")).collect();
            assert_eq!(filled, pattern.as_bytes());
        }
        let filled: Vec<u8> = filled("%u/+/%c/%", who("alice", "one")).collect();
        assert_eq!(filled, b"alice/+/one/%");
    }
}
