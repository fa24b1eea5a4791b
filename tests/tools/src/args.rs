//! Command line of the tools: `--name value` and `--flag`, nothing else. What is not known is an
//! error, never ignored.

use std::fmt::Display;
use std::str::FromStr;

pub struct Args {
    words: Vec<Option<String>>,
}

impl Args {
    pub fn new(words: impl Iterator<Item = String>) -> Self {
        Args { words: words.map(Some).collect() }
    }

    /// The first word that is not an option, such as the name of a benchmark.
    pub fn word(&mut self) -> Option<String> {
        match self.words.first() {
            Some(Some(word)) if !word.starts_with("--") => self.words[0].take(),
            _ => None,
        }
    }

    pub fn flag(&mut self, name: &str) -> bool {
        match self.find(name) {
            Some(at) => self.words[at].take().is_some(),
            None => false,
        }
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(at) = self.find(name) else { return Ok(None) };
        self.words[at] = None;
        match self.words.get_mut(at + 1).and_then(Option::take) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("--{name} wants a value")),
        }
    }

    pub fn option<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String>
    where
        T::Err: Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|e| format!("--{name} {text}: {e}"))
    }

    pub fn value<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String>
    where
        T::Err: Display,
    {
        Ok(self.option(name)?.unwrap_or(default))
    }

    /// Call last: whatever nobody asked for is an error.
    pub fn finish(self) -> Result<(), String> {
        match self.words.into_iter().flatten().next() {
            Some(word) => Err(format!("unknown argument {word}")),
            None => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.words.iter().position(|word| {
            word.as_deref().and_then(|word| word.strip_prefix("--")).is_some_and(|w| w == name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn values_flags_and_words_are_taken_once() {
        let mut args = args("drain --count 5 --verbose");
        assert_eq!(args.word().as_deref(), Some("drain"));
        assert_eq!(args.value("count", 1u32), Ok(5));
        assert!(args.flag("verbose"));
        assert_eq!(args.finish(), Ok(()));
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        let mut args = args("--count 5 --cuont 6");
        assert_eq!(args.value("count", 1u32), Ok(5));
        assert!(args.finish().is_err());
    }

    #[test]
    fn a_bad_number_is_an_error() {
        assert!(args("--count x").value("count", 1u32).is_err());
        assert!(args("--count").value("count", 1u32).is_err());
    }
}
