//! The file of access rules, in mosquitto's words: `user NAME`, `topic [access] FILTER`, `pattern
//! [access] FILTER`, `#` comments. What stands before the first `user` is for clients without a
//! user name, patterns are for everybody. Knows what the lines are, not what follows from them.

use super::textfile;
use crate::limits::RULES_OF_ACCESS_MAX;
use crate::mqtt::text::first_unwelcome;
use crate::mqtt::topic;

/// Bytes of the longest string that MQTT can say (1.5.4).
const STRING_BYTES_MAX: usize = 65_535;

/// What may stand around a word; whatever else looks like a blank is a part of it.
const BLANKS: [char; 2] = [' ', '\t'];

/// What a rule gives or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    Read,
    Write,
    ReadWrite,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub grant: Grant,
    /// In a pattern `%u` and `%c` stand for user name and client id.
    pub filter: String,
}

/// The rules of one user, those that deny first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// `None`: clients without a user name.
    pub user: Option<String>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// By user name.
    lists: Vec<List>,
    /// Those that deny first.
    pub patterns: Vec<Rule>,
}

impl Acl {
    /// Reads a whole file. Errors have their line.
    pub fn parse(text: &str) -> Result<Self, Vec<(u32, String)>> {
        let (mut acl, mut errors) = (Self::default(), Vec::new());
        let (mut user, mut count) = (None, 0);
        for (number, line) in textfile::lines(text) {
            let line = line.trim_end_matches(BLANKS);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            count += 1;
            if count > RULES_OF_ACCESS_MAX {
                errors.push((number, format!("more than {RULES_OF_ACCESS_MAX} rules")));
                break;
            }
            match parse_line(line) {
                Ok(Line::User(name)) => user = Some(name.to_owned()),
                Ok(Line::Topic(rule)) => put(acl.list_mut(user.as_deref()), rule),
                Ok(Line::Pattern(rule)) => put(&mut acl.patterns, rule),
                Err(what) => errors.push((number, what.to_owned())),
            }
        }
        if errors.is_empty() { Ok(acl) } else { Err(errors) }
    }

    /// The rules of one user, those that deny first.
    pub fn rules_of(&self, user: Option<&str>) -> &[Rule] {
        let found = self.lists.binary_search_by(|list| list.user.as_deref().cmp(&user));
        found.ok().and_then(|at| self.lists.get(at)).map_or(&[], |list| &list.rules)
    }

    pub fn bytes(&self) -> usize {
        let of_rules = |rules: &[Rule]| {
            rules.iter().map(|rule| size_of::<Rule>() + rule.filter.len()).sum::<usize>()
        };
        let of_list = |list: &List| {
            size_of::<List>() + list.user.as_ref().map_or(0, String::len) + of_rules(&list.rules)
        };
        self.lists.iter().map(of_list).sum::<usize>() + of_rules(&self.patterns)
    }

    fn list_mut(&mut self, user: Option<&str>) -> &mut Vec<Rule> {
        let found = self.lists.binary_search_by(|list| list.user.as_deref().cmp(&user));
        let at = found.unwrap_or_else(|at| {
            self.lists.insert(at, List { user: user.map(str::to_owned), rules: Vec::new() });
            at
        });
        &mut self.lists[at].rules
    }
}

/// What denies goes before what grants.
fn put(rules: &mut Vec<Rule>, rule: Rule) {
    let denies = rules.iter().take_while(|rule| rule.grant == Grant::Deny).count();
    let at = if rule.grant == Grant::Deny { denies } else { rules.len() };
    rules.insert(at, rule);
}

enum Line<'a> {
    User(&'a str),
    Topic(Rule),
    Pattern(Rule),
}

fn parse_line(line: &str) -> Result<Line<'_>, &'static str> {
    let (word, rest) = first_word(line);
    let rest = rest.trim_matches(BLANKS);
    match word {
        "user" if rest.is_empty() => Err("a user name is missing"),
        "user" if first_unwelcome(rest).is_some() => {
            Err("a user name has no control character and nothing that is no character")
        }
        "user" if rest.len() > STRING_BYTES_MAX => Err("no client has a user name of that length"),
        "user" => Ok(Line::User(rest)),
        "topic" => Ok(Line::Topic(parse_rule(rest)?)),
        "pattern" => Ok(Line::Pattern(parse_rule(rest)?)),
        _ => Err("is none of user NAME, topic [ACCESS] FILTER, pattern [ACCESS] FILTER"),
    }
}

fn parse_rule(text: &str) -> Result<Rule, &'static str> {
    let (word, rest) = first_word(text);
    let rest = rest.trim_matches(BLANKS);
    let (grant, filter) = match word {
        // A filter alone may be of one word only.
        filter if rest.is_empty() => (Grant::ReadWrite, filter),
        "read" => (Grant::Read, rest),
        "write" => (Grant::Write, rest),
        "readwrite" => (Grant::ReadWrite, rest),
        "deny" => (Grant::Deny, rest),
        _ => return Err("the access must be read, write, readwrite or deny"),
    };
    if !topic::is_filter(filter) {
        return Err("is no topic filter: + and # stand for whole levels, # for the last");
    }
    if first_unwelcome(filter).is_some() {
        return Err("no topic has a control character, nor anything that is no character");
    }
    Ok(Rule { grant, filter: filter.to_owned() })
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Rng;

    const FILE: &str = "\
# everybody without a name
topic read public/#
topic public/hello world

user alice
topic readwrite a/#
topic deny a/secret
topic  write   b/+/c
pattern write d/%u/%c
user bob
topic read $SYS/#
user alice
topic deny a/other
pattern deny d/%u/x
";

    fn shown(rules: &[Rule]) -> Vec<String> {
        rules.iter().map(|rule| format!("{:?} {}", rule.grant, rule.filter)).collect()
    }

    #[test]
    fn rules_belong_to_their_user_and_denials_come_first() {
        let acl = Acl::parse(FILE.replace("topic public/hello world", "").as_str()).unwrap();
        assert_eq!(shown(acl.rules_of(None)), ["Read public/#"]);
        let alice = ["Deny a/secret", "Deny a/other", "ReadWrite a/#", "Write b/+/c"];
        assert_eq!(shown(acl.rules_of(Some("alice"))), alice);
        assert_eq!(shown(acl.rules_of(Some("bob"))), ["Read $SYS/#"]);
        assert_eq!(shown(&acl.patterns), ["Deny d/%u/x", "Write d/%u/%c"]);
        assert!(acl.rules_of(Some("carol")).is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (line, part) in [
            ("topic", "is no topic filter"),
            ("pattern ", "is no topic filter"),
            ("topic a/#/b", "is no topic filter"),
            ("topic read a+", "is no topic filter"),
            ("topic public/hello world", "access must be"),
            ("topic Read a", "access must be"),
            ("user", "user name is missing"),
            ("users x", "is none of"),
            ("topic\tread a", "is none of"),
            (" # indented", "is none of"),
            ("user a\u{1}", "no control character"),
            ("user a\u{85}", "no control character"),
            ("user \u{1FFFF}", "no control character"),
            ("topic read a/\u{7F}", "no topic has"),
            ("pattern a/%u/\u{FFFF}", "no topic has"),
            (&format!("user {}", "a".repeat(65_536)), "of that length"),
            (&format!("topic {}", "a".repeat(65_536)), "is no topic filter"),
        ] {
            let errors = Acl::parse(&format!("\n{line}\n")).unwrap_err();
            assert_eq!((errors.len(), errors[0].0), (1, 2), "{line}");
            assert!(errors[0].1.contains(part), "{line}: {errors:?}");
        }
        let longest = "a".repeat(65_535);
        let acl = Acl::parse(&format!("user {longest}\ntopic read {longest}")).unwrap();
        assert_eq!(acl.rules_of(Some(&longest)).len(), 1);
    }

    #[test]
    fn mutated_files_are_refused_with_their_lines_or_hold_valid_filters() {
        let mut rng = Rng::new(11);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = FILE.replace("hello world", "hello").into_bytes();
            for _ in 0..=rng.below(3) {
                let len = u64::try_from(bytes.len()).unwrap();
                let at = usize::try_from(rng.below(len)).unwrap();
                match rng.below(3) {
                    0 => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"+#/ \n%"[usize::try_from(rng.below(6)).unwrap()]),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            let lines = u32::try_from(textfile::lines(&text).count()).unwrap();
            match Acl::parse(&text) {
                Ok(acl) => {
                    taken += 1;
                    let rules = acl.lists.iter().flat_map(|list| &list.rules).chain(&acl.patterns);
                    assert!(rules.into_iter().all(|rule| topic::is_filter(&rule.filter)));
                }
                Err(errors) => {
                    refused += 1;
                    assert!(errors.iter().all(|(line, _)| (1..=lines).contains(line)));
                }
            }
        }
        assert!(taken > 1_000 && refused > 1_000, "{taken} {refused}");
    }
}
