//! A Rust file as the rules see it: its lines, the same without comments and literals, and the
//! same without tests. A small lexer, no parser: it knows where text is code, and no more.

/// Where a rule is broken, and how. `line` counts from 1; 0 = the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    pub line: usize,
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

pub struct Source {
    /// Relative to the top of the tree, with `/`.
    pub path: String,
    pub text: String,
    /// As `text`, with every character of a comment, string or character literal made a space.
    pub code: String,
    /// As `code`, with what is behind `#[cfg(test)]` made space as well.
    pub shipped: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = mask(text);
        let is_test =
            path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
        let shipped = if is_test { blank(&code) } else { without_tests(&code) };
        Self { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    /// The file was declared as a module of tests by another one.
    pub fn ship_nothing(&mut self) {
        self.shipped = blank(&self.code);
    }

    /// Paths without `.rs` of the modules that this file declares behind `#[cfg(test)]`.
    pub fn test_modules(&self) -> Vec<String> {
        let home = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let folder = match home.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => home,
        };
        let behind = self.code.split("#[cfg(test)]").skip(1);
        let declared = behind.filter_map(|item| item.trim_start().strip_prefix("mod "));
        let ends = declared.filter_map(|item| item.split_once(';'));
        let plain = ends.filter(|(module, _)| module.bytes().all(is_name));
        plain.map(|(module, _)| format!("{folder}/{module}")).collect()
    }

    pub fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, what: what.into() }
    }

    /// The line of a byte position.
    pub fn line_of(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// `src/broker/subs.rs` → `broker`, `src/note.rs` → `note`; `None` outside `src`.
    pub fn top_module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// How many `super` lead from the file's module to the root of the crate.
    pub fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let named = inside.strip_suffix("/mod.rs").unwrap_or(inside);
        named.split('/').count()
    }
}

/// Places where `word` stands in `code` and is no part of a longer name.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let edge = |byte: Option<u8>| byte.is_some_and(is_name);
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let bytes = code.as_bytes();
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + word.len()).copied();
        let opens = edge(word.bytes().next()) && edge(before);
        let closes = edge(word.bytes().last()) && edge(after);
        !opens && !closes
    })
}

/// Where the call ends whose name begins at `at`: behind its closing parenthesis.
pub fn call_end(code: &str, at: usize) -> Option<usize> {
    let open = at + code[at..].find('(')?;
    let mut depth = 0;
    for (offset, byte) in code[open..].bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + offset + 1);
        }
    }
    None
}

/// The names that follow `root::` in `code`, with their places: `std::{fs, net::X}` gives `fs` and
/// `net`, `std::fs::read` gives `fs`.
pub fn below(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, root) {
        let start = at + root.len();
        let rest = code[start..].trim_start();
        let Some(rest) = rest.strip_prefix("::") else { continue };
        // `x::std::fs` is not `std`.
        if code[..at].trim_end().ends_with("::") && !code[..at].trim_end().ends_with("super::") {
            continue;
        }
        let rest = rest.trim_start();
        match rest.strip_prefix('{') {
            Some(group) => {
                for member in members(group) {
                    found.push((at, member));
                }
            }
            None => found.push((at, name(rest))),
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of the members of a `use` group, up to its closing brace.
fn members(group: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut depth = 0;
    let mut fresh = true;
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                found.push(name(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    found
}

fn blank(code: &str) -> String {
    code.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

/// Byte positions stay as they are: what is not code becomes as many spaces as it had bytes.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = literal(&bytes[at..], at > 0 && is_name(bytes[at - 1]));
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = (at + length).min(bytes.len());
        out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
        at = end;
    }
    // Only whole comments and literals were exchanged, for ASCII.
    String::from_utf8(out).expect("masked text is UTF-8")
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Bytes of the comment or literal that `rest` begins with; 0 = it begins with code.
fn literal(rest: &[u8], inside_name: bool) -> usize {
    if rest.starts_with(b"//") {
        return rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment(rest);
    }
    if inside_name {
        return 0;
    }
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count().min(2);
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let is_raw = rest[..prefix].contains(&b'r');
    match rest.get(prefix + hashes) {
        Some(b'"') if is_raw => {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = prefix + hashes + 1;
            let end = rest[body..].windows(close.len()).position(|window| window == close);
            end.map_or(rest.len(), |end| body + end + close.len())
        }
        Some(b'"') if hashes == 0 => quoted(rest, prefix, b'"'),
        Some(b'\'') if hashes == 0 && !is_raw => {
            // `'a` is a lifetime, `'a'` and `'\n'` are characters.
            let escaped = rest.get(prefix + 1) == Some(&b'\\');
            let wide = rest[prefix + 1..].iter().skip(1).take(3);
            let closes = wide.take_while(|byte| **byte != b' ').position(|byte| *byte == b'\'');
            let one = closes.is_some_and(|end| {
                let inner = &rest[prefix + 1..prefix + 2 + end];
                std::str::from_utf8(inner).is_ok_and(|inner| inner.chars().count() == 1)
            });
            if escaped || one { quoted(rest, prefix, b'\'') } else { 0 }
        }
        _ => 0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8], prefix: usize, quote: u8) -> usize {
    let mut at = prefix + 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Takes out the item behind every `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (at, mark) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0;
        for (offset, byte) in code.bytes().enumerate().skip(at + mark.len()) {
            if byte != b'\n' {
                out[offset] = b' ';
            }
            match byte {
                b'{' | b'(' | b'[' => depth += 1,
                b'}' | b')' | b']' => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(byte, b'}' | b';') {
                break;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = concat!(
        "let a = \"x.unwrap()\"; // y.unwrap()\n",
        "/* z /* .unwrap() */ .unwrap() */ let b = r#\"q\".unwrap()\"#;\n",
        "let c = ['\"', '\\'', 'é', b'\\n']; fn f<'a>(x: &'a str) { x.real() }\n",
        "let d = br\"\\\"; e.real()\n",
    );
    let source = Source::new("src/x.rs", text);
    assert!(!source.code.contains("unwrap"), "{}", source.code);
    assert_eq!(source.code.matches(".real()").count(), 2, "{}", source.code);
    assert_eq!(source.code.len(), text.len());
    assert_eq!(source.code.matches('\n').count(), 4);
}

#[test]
fn tests_are_not_shipped() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n\
                #[cfg(test)]\nmod more;\nfn d() {}\n\
                #[cfg(test)]\n#[test]\nfn e() { x(); }\nfn g() {}";
    let source = Source::new("src/x.rs", text);
    for (name, expected) in [("a", 1), ("b", 0), ("c", 1), ("d", 1), ("e", 0), ("g", 1)] {
        assert_eq!(source.shipped.matches(&format!("fn {name}(")).count(), expected, "{name}");
    }
    for path in ["src/x/tests.rs", "src/x/tests/y.rs", "tests/x.rs"] {
        assert!(Source::new(path, "fn a() {}").shipped.trim().is_empty(), "{path}");
    }
}

#[test]
fn modules_of_tests_are_found_where_they_are_declared() {
    let text = "#[cfg(test)]\nmod faults;\nmod frame;\n#[cfg(test)] mod x { mod y; }";
    let modules = |path| Source::new(path, text).test_modules();
    assert_eq!(modules("src/mqtt/mod.rs"), ["src/mqtt/faults"]);
    assert_eq!(modules("src/mqtt/props.rs"), ["src/mqtt/props/faults"]);
    assert_eq!(modules("src/lib.rs"), ["src/faults"]);
    let mut source = Source::new("src/mqtt/faults.rs", "fn a() { b() }");
    assert!(source.shipped.contains("b()"));
    source.ship_nothing();
    assert!(source.shipped.trim().is_empty());
}

#[test]
fn names_below_a_root_are_found_in_groups_too() {
    let code =
        "use std::{fs, io::{Read, Write}, net::X};\nlet x = std::env::args(); my_std::thread";
    let names: Vec<String> = below(code, "std").into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["fs", "io", "net", "env"]);
}
