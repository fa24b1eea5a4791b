//! What is decoded has a reader: every field of a packet and of the configuration is read outside
//! the module that makes it, every property of MQTT 5 by name or by its accessor, but for those
//! that are listed here with their reason.

use super::source::{Finding, Source, words};

/// Properties that nobody reads, and why.
const UNREAD: &[(&str, &str)] = &[
    ("PayloadFormat", "passed on; to look at the payload is allowed, not asked for (3.3.2.3.2)"),
    ("ContentType", "passed on"),
    ("ResponseTopic", "passed on; the codec has looked at it"),
    ("CorrelationData", "passed on"),
    ("UserProperty", "passed on with a message; elsewhere it means what was agreed on, so nothing"),
    ("AssignedClientId", "we always send a client id, and answer to no other"),
    ("ResponseInformation", "we do not ask for it"),
    ("SharedAvailable", "no rule is a shared subscription"),
    ("AuthenticationData", "never without its method, which is refused"),
    ("RequestResponseInformation", "none is given, which it leaves us free to do (3.1.2.11.6)"),
];

fn is_shipped_outside(source: &Source, module: &str) -> bool {
    source.top_module().is_some_and(|own| own != module)
}

/// Is `.name` read, or `name` taken out of a pattern or written in short, in one of them?
fn is_read(sources: &[&Source], name: &str) -> bool {
    sources.iter().any(|source| {
        let code = &source.shipped;
        words(code, name).any(|at| {
            let (before, behind) = (code[..at].trim_end(), code[at + name.len()..].trim_start());
            let read = before.ends_with('.') && !before.ends_with("..");
            // `Packet { name, .. }`, `Packet { name: other }`; not a literal that makes one.
            let taken = before.ends_with(['{', ',']) && behind.starts_with([',', '}']);
            read || taken
        })
    })
}

/// The `pub` fields of all structs of a file, with their lines.
fn fields(source: &Source) -> Vec<(String, usize)> {
    let mut fields = Vec::new();
    let mut inside = false;
    for (line, text) in (1..).zip(source.shipped.lines()) {
        let trimmed = text.trim_start();
        if trimmed.starts_with("pub struct ") {
            inside = trimmed.ends_with('{');
        } else if text == "}" {
            inside = false;
        } else if inside && let Some(rest) = trimmed.strip_prefix("pub ") {
            let name = rest.split(':').next().unwrap_or_default();
            fields.push((name.to_owned(), line));
        }
    }
    fields
}

/// Fields of the structs of `from` that nobody outside its module reads.
pub fn fields_are_read(from: &Source, all: &[Source]) -> Vec<Finding> {
    let module = from.top_module().unwrap_or_default();
    let others: Vec<&Source> = all.iter().filter(|s| is_shipped_outside(s, module)).collect();
    let unread = fields(from).into_iter().filter(|(name, _)| !is_read(&others, name));
    unread.map(|(name, line)| from.finding(line, format!("nobody reads `{name}`"))).collect()
}

/// Of the codec's own files: the table of properties, and the accessors.
pub fn properties_are_read(table: &Source, accessors: &Source, all: &[Source]) -> Vec<Finding> {
    let others: Vec<&Source> = all.iter().filter(|s| is_shipped_outside(s, "mqtt")).collect();
    let mut findings = Vec::new();
    let mut read: Vec<String> = Vec::new();
    for (line, text) in (1..).zip(accessors.shipped.lines()) {
        let Some((name, rest)) = text.split_once(" -> ") else { continue };
        let Some((_, rest)) = rest.split_once(": Property::") else { continue };
        let name = name.trim();
        let called = all.iter().any(|source| {
            let call = |at: usize| {
                source.shipped[..at].ends_with('.')
                    && source.shipped[at + name.len()..].starts_with("()")
            };
            words(&source.shipped, name).any(call)
        });
        if called {
            read.extend(rest.split('(').next().map(str::to_owned));
        } else {
            findings.push(accessors.finding(line, format!("nobody calls `{name}`")));
        }
    }
    for (line, text) in (1..).zip(table.shipped.lines()) {
        let Some((name, rest)) = text.trim_start().split_once(" = 0x") else { continue };
        // A pattern with its value; `(_)` is how one says that it does not count.
        let named = |source: &&Source| {
            let pattern = format!("Property::{name}(");
            source.shipped.match_indices(&pattern).any(|(at, _)| {
                let inner = &source.shipped[at + pattern.len()..];
                let arm = inner.split_once("=>").map(|(before, _)| before.len());
                !inner.starts_with('_') && arm.is_some_and(|bytes| bytes < 40)
            })
        };
        let is_read = read.iter().any(|known| known == name) || others.iter().any(named);
        let listed = UNREAD.iter().any(|(unread, _)| *unread == name);
        if !rest.is_empty() && is_read == listed {
            let what =
                if listed { "has a reader and is listed as unread" } else { "has no reader" };
            findings.push(table.finding(line, format!("property `{name}` {what}")));
        }
    }
    findings
}

#[test]
fn a_planted_field_without_a_reader_is_found() {
    let packet = "//! P.\npub struct Packet {\n    pub topic: u8,\n    pub flag: bool,\n    \
                  pub name: u8,\n    own: u8,\n}\n";
    let packet = Source::new("src/mqtt/packet.rs", packet);
    let reader =
        "fn f(packet: &Packet) {\n    g(packet.topic);\n    let P { name, .. } = *packet;\n}";
    let all = |text| vec![Source::new("src/gateway/a.rs", text)];
    let lines = |all: &[Source]| {
        fields_are_read(&packet, all).into_iter().map(|finding| finding.line).collect::<Vec<_>>()
    };
    assert_eq!(lines(&all(reader)), [4]);
    assert_eq!(lines(&all("let x = a.topic + b.name; if c.flag {}")), [0; 0]);
    // To write it, or to mention it, is not to read it.
    assert_eq!(lines(&all("P { topic: 1, flag: 2, name: 3 } // a.topic")), [3, 4, 5]);
    // Its own module does not count.
    let own = vec![Source::new("src/mqtt/a.rs", "a.topic; a.flag; a.name")];
    assert_eq!(lines(&own), [3, 4, 5]);
}

#[test]
fn a_planted_property_without_a_reader_is_found() {
    let table = Source::new(
        "src/mqtt/property.rs",
        "    One = 0x01 bool: Publish;\n    Two = 0x02 u16: Connack;\n    \
         Three = 0x03 u16: Connack;\n    ContentType = 0x04 u16: Publish;\n",
    );
    let accessors = Source::new("src/mqtt/props.rs", "    one -> bool: Property::One(v) => v;\n");
    let find = |text: &str| {
        let all = vec![Source::new("src/gateway/a.rs", text)];
        let found = properties_are_read(&table, &accessors, &all);
        found.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let (two, three) = ("property `Two` has no reader", "property `Three` has no reader");
    assert_eq!(
        find("p.one(); match p { Property::Two(v) => v, Property::Three(v) => v }"),
        [""; 0]
    );
    assert_eq!(find("p.one(); match p { Property::Two(_) => {} }"), [two, three]);
    let one = ["nobody calls `one`", "property `One` has no reader", two, three];
    assert_eq!(find("f(one, Property::One(3))"), one);
    let listed = "property `ContentType` has a reader and is listed as unread";
    let all = "p.one(); match p { Property::Two(v) => v, Property::Three(v) => v, \
               Property::ContentType(v) => v }";
    assert_eq!(find(all), [listed]);
}
