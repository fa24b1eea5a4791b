//! What a value may be: numbers, durations, sizes, rates, booleans, words, addresses. One parser
//! a kind; an error says what would be right. Never shows a secret: the callers for passwords
//! check length only.

use super::parse::{Shown, Word};
use super::{Rate, Server};
use crate::fit::fit;
use crate::mqtt::text::first_unwelcome;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

pub(super) type Parsed<T> = Result<T, String>;

/// The port of `mqtt://` when none is written.
pub const PORT_DEFAULT: u16 = 1883;

const SECOND_MS: u64 = 1000;

/// A whole number of `min..=max`; a bare `off` is 0.
pub(super) fn number<T>(min: T, max: T) -> impl Fn(&Word<'_>) -> Parsed<T>
where
    T: TryFrom<u64> + PartialOrd + Copy + std::fmt::Display,
{
    move |word| {
        let value = if word.is_off() { Some(0) } else { digits(&word.text) };
        let value = value.and_then(|v| T::try_from(v).ok());
        value
            .filter(|v| (min..=max).contains(v))
            .ok_or_else(|| format!("must be a number from {min} to {max}, not {}", shown(word)))
    }
}

/// A size of `min..=max` bytes: `512`, `4KiB`, `2MiB`, `1GiB`.
pub(super) fn size<T>(min: T, max: T) -> impl Fn(&Word<'_>) -> Parsed<T>
where
    T: TryFrom<u64> + PartialOrd + Copy + std::fmt::Display,
    u64: TryFrom<T>,
{
    move |word| {
        let value = if word.is_off() { Some(0) } else { bytes(&word.text) };
        let value = value.and_then(|v| T::try_from(v).ok());
        value.filter(|v| (min..=max).contains(v)).ok_or_else(|| {
            let show = |v: T| size_text(fit::<u64, _>(v, "a size"));
            format!(
                "must be a size from {} to {} such as 512, 4KiB or 2MiB, not {}{}",
                show(min),
                show(max),
                shown(word),
                together(word, |text| bytes(text).is_some())
            )
        })
    }
}

/// A duration of `min..=max`: `250ms 3s 5m 1h 7d`; a bare `off` is zero.
pub(super) fn duration(min: Duration, max: Duration) -> impl Fn(&Word<'_>) -> Parsed<Duration> {
    move |word| {
        let value = if word.is_off() { Some(Duration::ZERO) } else { span(&word.text) };
        value.filter(|v| (min..=max).contains(v)).ok_or_else(|| {
            let unit = match digits(&word.text) {
                Some(count) if count > 0 => format!(" (without a unit: {count}s is seconds)"),
                Some(_) | None => together(word, |text| span(text).is_some()),
            };
            format!(
                "must be a duration from {} to {} such as 250ms, 3s, 5m, 1h or 7d, not {}{unit}",
                duration_text(min),
                duration_text(max),
                shown(word)
            )
        })
    }
}

/// Would the value do without its blanks?
fn together(word: &Word<'_>, good: impl Fn(&str) -> bool) -> String {
    let text: String = word.text.split_whitespace().collect();
    let helps = text != *word.text && good(&text);
    if helps { format!(" (without a blank: {})", Shown(&text)) } else { String::new() }
}

/// As [`duration`], of whole seconds: what goes into a packet as seconds.
pub(super) fn seconds(min_s: u64, max_s: u64) -> impl Fn(&Word<'_>) -> Parsed<Duration> {
    move |word| {
        let value = duration(Duration::from_secs(min_s), Duration::from_secs(max_s))(word)?;
        if value.subsec_nanos() == 0 {
            Ok(value)
        } else {
            Err(format!("must be whole seconds, not {}", shown(word)))
        }
    }
}

/// `50/s`, `100/m`: tokens a second, minute, hour or day. `off` and 0 are no limit.
pub(super) fn rate(word: &Word<'_>) -> Parsed<Option<Rate>> {
    if word.is_off() || word.text == "0" {
        return Ok(None);
    }
    let wrong = || format!("must be a rate such as 50/s or 100/m, or off, not {}", shown(word));
    let (count, per) = word.text.split_once('/').ok_or_else(wrong)?;
    let count = digits(count).and_then(|c| u32::try_from(c).ok()).ok_or_else(wrong)?;
    let per = unit_ms(per).filter(|ms| *ms >= SECOND_MS).ok_or_else(wrong)?;
    if count > RATE_COUNT_MAX {
        return Err(format!("must be at most {RATE_COUNT_MAX} in a rate, not {}", shown(word)));
    }
    Ok((count > 0).then_some(Rate { count, per: Duration::from_millis(per) }))
}

const RATE_COUNT_MAX: u32 = 1_000_000;

/// `true` or `false`; a bare `off` is `false`.
pub(super) fn boolean(word: &Word<'_>) -> Parsed<bool> {
    match &*word.text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if word.is_off() => Ok(false),
        _ => Err(format!("must be true or false, not {}", shown(word))),
    }
}

/// A share `1%` to `99%`.
pub(super) fn percent(word: &Word<'_>) -> Parsed<u8> {
    let value = word.text.strip_suffix('%').and_then(digits).filter(|v| (1..=99).contains(v));
    let value = value.and_then(|v| u8::try_from(v).ok());
    value.ok_or_else(|| format!("must be a share from 1% to 99%, not {}", shown(word)))
}

/// One of some words.
pub(super) fn one_of<T: Copy + 'static>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Word<'_>) -> Parsed<T> {
    move |word| {
        words.iter().find(|(name, _)| *name == word.text).map(|(_, value)| *value).ok_or_else(
            || {
                let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
                format!("must be one of {}, not {}", names.join(", "), shown(word))
            },
        )
    }
}

/// `None` for a bare `off` and for zero in any unit, which lies outside the parser's range.
pub(super) fn or_off<T>(
    parser: impl Fn(&Word<'_>) -> Parsed<T>,
) -> impl Fn(&Word<'_>) -> Parsed<Option<T>> {
    move |word| {
        let zero = bytes(&word.text) == Some(0) || span(&word.text) == Some(Duration::ZERO);
        if word.is_off() || zero { Ok(None) } else { parser(word).map(Some) }
    }
}

/// What a bare `off` turns into nothing.
pub(super) fn off_is_none<T>(
    parser: impl Fn(&Word<'_>) -> Parsed<T>,
) -> impl Fn(&Word<'_>) -> Parsed<Option<T>> {
    move |word| if word.is_off() { Ok(None) } else { parser(word).map(Some) }
}

/// Text of `min..=max` bytes; a bare `off` is the empty text.
pub(super) fn text(min: usize, max: usize) -> impl Fn(&Word<'_>) -> Parsed<String> {
    move |word| {
        let text = if word.is_off() { "" } else { &*word.text };
        if (min..=max).contains(&text.len()) {
            Ok(text.to_owned())
        } else {
            Err(format!("must be {min} to {max} bytes long, not {}", text.len()))
        }
    }
}

/// The same for text that goes over the wire: without what others close the connection over.
pub(super) fn wire_text(min: usize, max: usize) -> impl Fn(&Word<'_>) -> Parsed<String> {
    move |word| {
        let text = text(min, max)(word)?;
        match first_unwelcome(&text) {
            None => Ok(text),
            Some(c) => Err(format!(
                "holds U+{:04X}: brokers close the connection over control characters",
                u32::from(c)
            )),
        }
    }
}

/// Address and port of a listener. Port 0 lets the system choose.
pub(super) fn listen_url(word: &Word<'_>) -> Parsed<Server> {
    url(word.text.trim())
}

/// One or more remote addresses, comma-separated, no two the same.
pub(super) fn servers(max: usize) -> impl Fn(&Word<'_>) -> Parsed<Vec<Server>> {
    move |word| {
        let mut servers: Vec<Server> = Vec::new();
        for part in word.text.split(',') {
            let part = part.trim();
            let server = url(part)?;
            if server.port == 0 {
                return Err(format!("port 0 in {} cannot be connected to", Shown(part)));
            }
            if servers.iter().any(|s| same_server(s, &server)) {
                return Err(format!("{} is there twice", Shown(part)));
            }
            if servers.len() == max {
                return Err(format!("more than {max} servers"));
            }
            servers.push(server);
        }
        Ok(servers)
    }
}

pub(super) fn same_server(a: &Server, b: &Server) -> bool {
    a.port == b.port && a.host.eq_ignore_ascii_case(&b.host)
}

const ABSENT_SCHEMES: &[&str] =
    &["mqtts", "ws", "wss", "quic", "mqtt-quic", "tls+mqtt-tcp", "unix"];

fn url(text: &str) -> Parsed<Server> {
    if text.is_empty() {
        return Err("must be mqtt://host:port, not empty".to_owned());
    }
    let wrong = || format!("must be mqtt://host:port, not {}", Shown(text));
    let meant = |rest: &str| match url(&format!("mqtt://{rest}")) {
        Ok(_) => format!("{}: perhaps mqtt://{}", wrong(), Shown(rest)),
        Err(_) => wrong(),
    };
    if text.starts_with("unix:") {
        return Err("unix: is not in this build".to_owned());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| meant(text))?;
    match &*scheme.to_ascii_lowercase() {
        "mqtt" | "mqtt-tcp" => {}
        "tcp" | "mqtt-tls" | "http" => return Err(meant(rest)),
        scheme if ABSENT_SCHEMES.contains(&scheme) => {
            return Err(format!("{scheme}:// is not in this build"));
        }
        _ => return Err(wrong()),
    }
    if rest.contains('/') {
        let what = "a path belongs to WebSocket, which is not in this build";
        return Err(format!("{}: {what}", wrong()));
    }
    if rest.contains('@') {
        return Err("user name and password have their own keys, not the URL".to_owned());
    }
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
        host.parse::<Ipv6Addr>().map_err(|_| {
            let zone =
                if host.contains('%') { " (a zone such as %eth0 is not possible)" } else { "" };
            format!("{} is not an IPv6 address{zone}", Shown(host))
        })?;
        match port.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if port.is_empty() => (host, None),
            None => return Err(wrong()),
        }
    } else {
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        if port.is_some_and(|port| port.contains(':')) {
            return Err(format!("an IPv6 address goes in brackets: {}", Shown(text)));
        }
        if host.is_empty() {
            return Err(format!("{}: the host is missing", wrong()));
        }
        if host == "*" {
            return Err("* is no host: all addresses are 0.0.0.0, and [::] of IPv6".to_owned());
        }
        if !is_host(host) {
            return Err(format!("{} is no host name or address", Shown(host)));
        }
        (host, port)
    };
    let port = match port {
        None => PORT_DEFAULT,
        Some(port) => digits(port)
            .and_then(|p| u16::try_from(p).ok())
            .ok_or_else(|| format!("{} is not a port", Shown(port)))?,
    };
    Ok(Server { host: host.to_owned(), port })
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-')
    };
    let trimmed = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 || !trimmed.split('.').all(label) {
        return false;
    }
    // What ends in a number is an address or a typing error, never a name.
    let last = trimmed.rsplit('.').next().unwrap_or("");
    !last.bytes().all(|b| b.is_ascii_digit()) || host.parse::<Ipv4Addr>().is_ok()
}

fn digits(text: &str) -> Option<u64> {
    // `parse` alone would also take a plus sign.
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// A number and the unit behind it.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    Some((digits(text.get(..at)?)?, text.get(at..)?))
}

fn bytes(text: &str) -> Option<u64> {
    let (count, unit) = split_unit(text)?;
    let factor: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    count.checked_mul(factor)
}

fn unit_ms(unit: &str) -> Option<u64> {
    Some(match unit {
        "ms" => 1,
        "s" => SECOND_MS,
        "m" => 60 * SECOND_MS,
        "h" => 3600 * SECOND_MS,
        "d" => 86_400 * SECOND_MS,
        _ => return None,
    })
}

fn span(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (count, unit) = split_unit(text)?;
    count.checked_mul(unit_ms(unit)?).map(Duration::from_millis)
}

/// A size in the largest unit that divides it.
pub(super) fn size_text(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A duration in the largest unit that divides it.
pub(super) fn duration_text(span: Duration) -> String {
    let ms = span.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms >= unit && ms.is_multiple_of(unit) {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

fn shown<'a>(word: &'a Word<'_>) -> Shown<'a> {
    if word.text.is_empty() { Shown("empty") } else { Shown(&word.text) }
}
