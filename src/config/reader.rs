//! Values by key: looks an entry up, parses it or its default from the table, and collects what
//! is wrong. Decides nothing about the values themselves.

use super::keys::{self, KEYS};
use super::parse::{ConfigError, Entry, Raw, Warning, Word};
use super::values::Parsed;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

/// What NAME and N stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub name: &'a str,
    pub rule: &'a str,
}

/// No NAME, no N.
pub(super) const TOP: Scope<'static> = Scope { name: "", rule: "" };

pub(super) struct Reader<'a> {
    file: &'a str,
    raw: &'a Raw<'a>,
    /// Entries by key.
    places: BTreeMap<&'a str, usize>,
    /// The first line of every key and section.
    lines: BTreeMap<&'a str, u32>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, raw: &'a Raw<'a>, errors: Vec<ConfigError>) -> Self {
        let places = raw.entries.iter().enumerate().map(|(at, e)| (e.key, at)).collect();
        let mut lines = BTreeMap::new();
        for entry in &raw.entries {
            lines.entry(entry.key).or_insert(entry.line);
            let mut section = entry.key;
            // A whole kind, such as `bridge`, is no place.
            while let Some((outer, _)) = section.rsplit_once('.').filter(|o| o.0.contains('.')) {
                lines.entry(outer).or_insert(entry.line);
                section = outer;
            }
        }
        Self { file, raw, places, lines, errors, warnings: Vec::new() }
    }

    pub fn entry(&self, pattern: &str, scope: Scope<'_>) -> Option<&'a Entry<'a>> {
        let key = keys::fill(pattern, scope.name, scope.rule);
        self.places.get(key.as_str()).and_then(|at| self.raw.entries.get(*at))
    }

    pub fn is_written(&self, pattern: &str, scope: Scope<'_>) -> bool {
        self.entry(pattern, scope).is_some()
    }

    /// The first of some keys that the file has; the first of all when it has none.
    pub fn written(&self, patterns: &[&'static str], scope: Scope<'_>) -> &'static str {
        let written = patterns.iter().find(|pattern| self.is_written(pattern, scope));
        written.or(patterns.first()).copied().unwrap_or("")
    }

    /// The value, or the table's default when nothing or nothing right is written.
    pub fn take<T>(
        &mut self,
        pattern: &str,
        scope: Scope<'_>,
        parser: impl Fn(&Word<'_>) -> Parsed<T>,
    ) -> T {
        if let Some(value) = self.maybe(pattern, scope, &parser) {
            return value;
        }
        let key = KEYS.iter().find(|key| key.pattern == pattern);
        let text = key.map_or("", |key| key.default);
        // A default that its own parser refuses is our mistake, and the empty file, which a test
        // loads with one of everything, would show it.
        parser(&Word { text: Cow::Borrowed(text), quoted: false }).expect("default of the table")
    }

    /// The value, or `None` when nothing or nothing right is written.
    pub fn maybe<T>(
        &mut self,
        pattern: &str,
        scope: Scope<'_>,
        parser: impl Fn(&Word<'_>) -> Parsed<T>,
    ) -> Option<T> {
        let word = &self.entry(pattern, scope)?.word;
        let comment = !word.quoted && (word.text.contains(" #") || word.text.contains("\t#"));
        const ONLY: &str = "a # starts a comment only at the beginning of a line";
        let single = !word.quoted && word.text.len() > 1;
        let single = single && word.text.starts_with('\'') && word.text.ends_with('\'');
        const DOUBLE: &str = "only double quotes are taken off";
        match parser(word) {
            Ok(value) => {
                if comment {
                    let what = format!(
                        "ends with what looks like a comment: {ONLY}; if it is meant, \
                                        put the value in quotes"
                    );
                    self.warn(pattern, scope, what);
                }
                if single {
                    let what = format!("the single quotes are a part of the value: {DOUBLE}");
                    self.warn(pattern, scope, what);
                }
                Some(value)
            }
            Err(what) => {
                let what = match (comment, single) {
                    (true, _) => format!("{what}; {ONLY}"),
                    (false, true) => format!("{what}; {DOUBLE}"),
                    (false, false) => what,
                };
                self.error(pattern, scope, what);
                None
            }
        }
    }

    /// Reports at the key's line, or where its bridge, rule or listener begins.
    /// The value when a right one is written; nothing is said of a wrong one.
    pub fn peek<T>(
        &self,
        pattern: &str,
        scope: Scope<'_>,
        parser: impl Fn(&Word<'_>) -> Parsed<T>,
    ) -> Option<T> {
        parser(&self.entry(pattern, scope)?.word).ok()
    }

    pub fn error(&mut self, pattern: &str, scope: Scope<'_>, what: impl Into<String>) {
        let key = keys::fill(pattern, scope.name, scope.rule);
        let (file, line) = (self.file.to_owned(), self.line(&key));
        self.errors.push(ConfigError { file, line, key, what: what.into() });
    }

    pub fn warn(&mut self, pattern: &str, scope: Scope<'_>, what: impl Into<String>) {
        let key = keys::fill(pattern, scope.name, scope.rule);
        let (file, line) = (self.file.to_owned(), self.line(&key));
        self.warnings.push(Warning { file, line, key, what: what.into() });
    }

    /// The line of `key`; else of the first key that shares its section, and so on outwards;
    /// 0 when nothing does.
    fn line(&self, key: &str) -> u32 {
        let mut section = Some(key);
        while let Some(outer) = section {
            if let Some(line) = self.lines.get(outer) {
                return *line;
            }
            section = outer.rsplit_once('.').map(|(outer, _)| outer);
        }
        0
    }

    /// Where a key stands, for a message about another one: `bridge.b.server (line 3)`.
    pub fn place(&self, pattern: &str, scope: Scope<'_>) -> String {
        let key = keys::fill(pattern, scope.name, scope.rule);
        format!("{key} (line {})", self.line(&key))
    }

    /// The names `NAME` takes in `kind.NAME.…`, in file order.
    pub fn names(&self, kind: &str) -> Vec<&'a str> {
        self.below(&format!("{kind}."))
    }

    /// The names `N` takes in `bridge.NAME.kind.N.…`, in file order.
    pub fn rules(&self, name: &str, kind: &str) -> Vec<&'a str> {
        self.below(&format!("bridge.{name}.{kind}."))
    }

    /// The different parts that follow `prefix`, by the first entry that has them.
    fn below(&self, prefix: &str) -> Vec<&'a str> {
        let mut first: BTreeMap<&'a str, usize> = BTreeMap::new();
        for (key, at) in self.places.range::<str, _>((Included(prefix), Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let name = rest.split('.').next().unwrap_or(rest);
            let seen = first.entry(name).or_insert(*at);
            *seen = (*seen).min(*at);
        }
        let mut names: Vec<&'a str> = first.keys().copied().collect();
        names.sort_by_key(|name| first.get(name));
        names
    }
}
