//! Values by key: looks an entry up, parses it or its default from the table, and collects what
//! is wrong. Decides nothing about the values themselves.

use super::keys::{self, KEYS};
use super::parse::{ConfigError, Entry, Raw, Warning, Word};
use super::values::Parsed;
use std::borrow::Cow;
use std::collections::BTreeMap;

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
    places: BTreeMap<&'a str, usize>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, raw: &'a Raw<'a>, errors: Vec<ConfigError>) -> Self {
        let places = raw.entries.iter().enumerate().map(|(at, e)| (e.key, at)).collect();
        Self { file, raw, places, errors, warnings: Vec::new() }
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
        match parser(&self.entry(pattern, scope)?.word) {
            Ok(value) => Some(value),
            Err(what) => {
                self.error(pattern, scope, what);
                None
            }
        }
    }

    /// Reports at the key's line, or where its bridge, rule or listener begins.
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
        let mut section = key;
        if let Some(at) = self.places.get(key) {
            return self.raw.entries.get(*at).map_or(0, |entry| entry.line);
        }
        // Every step drops one part of the key.
        while let Some((outer, _)) = section.rsplit_once('.') {
            let inside = |entry: &&Entry<'_>| {
                entry.key.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
            };
            // A whole kind, such as `bridge`, is no place.
            if outer.contains('.')
                && let Some(entry) = self.raw.entries.iter().find(inside)
            {
                return entry.line;
            }
            section = outer;
        }
        0
    }

    /// The names `NAME` takes in `kind.NAME.…`, in file order.
    pub fn names(&self, kind: &str) -> Vec<&'a str> {
        self.distinct(|key| {
            let mut parts = key.split('.');
            (parts.next() == Some(kind)).then(|| parts.next()).flatten()
        })
    }

    /// The names `N` takes in `bridge.NAME.kind.N.…`, in file order.
    pub fn rules(&self, name: &str, kind: &str) -> Vec<&'a str> {
        self.distinct(|key| {
            let mut parts = key.split('.');
            let fits = parts.next() == Some("bridge")
                && parts.next() == Some(name)
                && parts.next() == Some(kind);
            fits.then(|| parts.next()).flatten()
        })
    }

    fn distinct(&self, part: impl Fn(&'a str) -> Option<&'a str>) -> Vec<&'a str> {
        let mut seen = std::collections::BTreeSet::new();
        let parts = self.raw.entries.iter().filter_map(|entry| part(entry.key));
        parts.filter(|name| seen.insert(*name)).collect()
    }
}
