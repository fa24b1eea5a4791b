//! Facts for the log: one variant an event, one line each. The core yields them, the shell writes
//! them. Never a payload byte, never a secret.

mod hidden;

pub use hidden::{Visible, is_hidden};

use core::fmt;

/// Text cut to a bound, so that a note never allocates.
pub type Text = heapless::String<96>;

/// `text`, cut at a character boundary to what a note can hold.
pub fn text(text: &str) -> Text {
    let mut out = Text::new();
    for c in text.chars() {
        if out.push(c).is_err() {
            break;
        }
    }
    out
}

/// A key with a name in the place of its `NAME`.
pub fn named(key: &str, name: &str) -> Text {
    named_rule(key, name, "N")
}

/// The same with a rule's name in the place of its `N`.
pub fn named_rule(key: &str, name: &str, rule: &str) -> Text {
    let mut out = Text::new();
    let mut rest = key;
    while let Some((before, behind)) = rest.split_once("NAME") {
        // Keys and names are short.
        let _ = out.push_str(before);
        let _ = out.push_str(name);
        rest = behind;
    }
    if let Some((before, behind)) = rest.split_once(".N.") {
        let _ = out.push_str(before);
        let _ = out.push('.');
        let _ = out.push_str(rule);
        let _ = out.push('.');
        rest = behind;
    }
    let _ = out.push_str(rest);
    out
}

/// A value for the log: quoted when it is empty or holds spaces, quotes, `=` or what nobody sees
/// ([`is_hidden`]), which is written as `\u{…}`.
pub struct Value<'a>(pub &'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c != ' ' && !is_hidden(c) && c != '"' && c != '=';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c => hidden::write_char(f, c)?,
            }
        }
        f.write_str("\"")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Declares the notes: level, event name and keys in one place, so that the log, the README check
/// and the code cannot disagree.
macro_rules! notes {
    ($($(#[$doc:meta])* $variant:ident = $level:ident $name:literal $part:literal {
        $($key:ident : $kind:ty),* $(,)?
    })*) => {
        #[derive(Clone, Debug)]
        pub enum Note { $($(#[$doc])* $variant { $($key: $kind),* },)* }

        impl Note {
            /// Every event: name and keys, in the order of the source.
            pub const EVENTS: &'static [(&'static str, &'static [&'static str])] =
                &[$(($name, &[$(stringify!($key)),*])),*];

            pub fn event(&self) -> &'static str {
                match self { $(Note::$variant { .. } => $name,)* }
            }

            pub fn level(&self) -> Level {
                match self { $(Note::$variant { .. } => Level::$level,)* }
            }

            /// The part of the house it comes from: the log target is `spillway::PART`.
            pub fn part(&self) -> &'static str {
                match self { $(Note::$variant { .. } => $part,)* }
            }

            /// Shows every key with its value, in the order of the source, until one is an error.
            /// A key whose value is not known is left out.
            pub fn visit(
                &self,
                see: &mut dyn FnMut(&'static str, &dyn Field) -> fmt::Result,
            ) -> fmt::Result {
                match self {
                    $(Note::$variant { $($key),* } => {
                        $(if $key.is_known() { see(stringify!($key), $key)?; })*
                        Ok(())
                    })*
                }
            }
        }
    };
}

impl Note {
    /// Put aside, and nothing is known of them but how many they are.
    pub fn quarantined(destination: Text, reason: &str, count: u64) -> Self {
        let (topic, client) = (text("-"), text("-"));
        let (reason, size, limit, key) = (text(reason), None, None, None);
        Self::Quarantined { destination, reason, count, topic, client, size, limit, key }
    }

    /// How many things of its kind the line stands for, where it says that.
    pub fn count(&self) -> Option<u64> {
        let mut count = None;
        // The closure never fails.
        let _ = self.visit(&mut |key, value| {
            if key == "count" {
                count = value.number();
            }
            Ok(())
        });
        count
    }

    /// Writes the line with another `count=`: that of several lines together.
    pub fn write(&self, out: &mut dyn fmt::Write, count: Option<u64>) -> fmt::Result {
        write!(out, "event={}", self.event())?;
        self.visit(&mut |key, value| {
            write!(out, " {key}=")?;
            match count {
                Some(count) if key == "count" => write!(out, "{count}"),
                _ => value.write(out),
            }
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

/// A value in a line.
pub trait Field {
    /// As it looks in the line, quoted where that is needed.
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    fn number(&self) -> Option<u64> {
        None
    }

    /// `false`: its key is left out.
    fn is_known(&self) -> bool {
        true
    }
}

macro_rules! number_fields {
    ($($kind:ty),*) => { $(impl Field for $kind {
        fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
            write!(out, "{self}")
        }

        fn number(&self) -> Option<u64> {
            u64::try_from(*self).ok()
        }
    })* };
}
number_fields!(u16, u32, u64, usize);

macro_rules! word_fields {
    ($($kind:ty),*) => { $(impl Field for $kind {
        fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
            write!(out, "{self}")
        }
    })* };
}
word_fields!(bool, core::net::SocketAddr);

/// How many messages are gone; `None`: that cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost(pub Option<u64>);

impl Field for Lost {
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match self.0 {
            Some(count) => write!(out, "{count}"),
            None => out.write_str("unknown"),
        }
    }
}

impl Field for Text {
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{}", Value(self.as_str()))
    }
}

impl Field for &'static str {
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{}", Value(self))
    }
}

/// For what is seldom there.
impl<T: Field> Field for Box<T> {
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        (**self).write(out)
    }

    fn number(&self) -> Option<u64> {
        (**self).number()
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.as_ref().map_or(Ok(()), |value| value.write(out))
    }

    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(Field::number)
    }

    fn is_known(&self) -> bool {
        self.is_some()
    }
}

notes! {
    Starting = Info "starting" "main" { version: &'static str, node: Text, config: Text }
    MemoryPlan = Info "memory_plan" "main" {
        total_kib: u64, ring_kib: u64, connections_kib: u64, sessions_kib: u64, store_kib: u64,
        other_kib: u64,
    }
    Durability = Info "durability" "main" {
        ack: &'static str, store: Text, sync: &'static str, survives: &'static str,
    }
    Listening = Info "listening" "listener" { listener: Text, addr: core::net::SocketAddr }
    ClientConnected = Info "client_connected" "client" {
        client: Text, addr: core::net::SocketAddr, version: &'static str, clean_start: bool,
        session_present: bool, keepalive_s: u16,
    }
    ClientDisconnected = Info "client_disconnected" "client" {
        client: Text, addr: core::net::SocketAddr, reason: Text, size: Option<u64>,
        limit: Option<u64>, key: Option<Text>, topic: Option<Text>, rate: Option<u64>,
    }
    ClientRefused = Warn "client_refused" "client" {
        client: Text, addr: core::net::SocketAddr, reason: Text, user: Option<Text>,
        size: Option<u64>, limit: Option<u64>, key: Option<Text>, topic: Option<Text>,
        rate: Option<u64>,
    }
    LimitReached = Warn "limit_reached" "client" {
        client: Text, limit: &'static str, filter: Option<Text>, size: Option<u64>, max: u64,
    }
    SessionGaveWay = Warn "session_gave_way" "client" {
        client: Text, to: Text, limit: &'static str,
    }
    BridgeConnecting = Info "bridge_connecting" "bridge" {
        bridge: Text, server: Text, addr: Text, attempt: u32,
    }
    BridgeUp = Info "bridge_up" "bridge" {
        bridge: Text, server: Text, version: &'static str, session_present: bool,
        receive_maximum: u16, backlog: u64, addr: core::net::SocketAddr,
        session_expiry_s: Option<u64>,
    }
    BridgeDown = Warn "bridge_down" "bridge" {
        bridge: Text, server: Text, reason: Text, retry_in_ms: u64, backlog: u64,
        size: Option<u64>, limit: Option<u64>, key: Option<Text>, topic: Option<Text>,
        client: Option<Text>, said: Option<Box<Text>>, server_reference: Option<Box<Text>>,
    }
    BridgeHeld = Warn "bridge_held" "bridge" { bridge: Text, reason: Text, backlog: u64 }
    MessageHeld = Warn "message_held" "bridge" {
        bridge: Text, reason: &'static str, topic: Text, client: Text, retry_in_ms: u64,
    }
    NetworkChanged = Info "network_changed" "bridge" {
        bridge: Text, what: &'static str, spared_ms: u64,
    }
    SpillStarted = Info "spill_started" "store" {
        destination: Text, ring: u32, reason: &'static str,
    }
    SpillDrained = Info "spill_drained" "store" {
        destination: Text, messages: u64, duration_ms: u64,
    }
    TextRefused = Warn "text_refused" "queue" {
        source: &'static str, name: Text, string: &'static str, character: Text, topic: Text,
    }
    Drop = Warn "drop" "queue" {
        reason: &'static str, destination: Text, count: u64, topic: Option<Text>,
        from: Option<Text>, size: Option<u64>, limit: Option<u64>, key: Option<Text>,
    }
    /// A client may not do one thing, and stays.
    Denied = Info "denied" "client" {
        client: Text, what: &'static str, topic: Text, user: Option<Text>, count: u64,
        key: &'static str,
    }
    Quarantined = Warn "quarantined" "queue" {
        destination: Text, reason: Text, count: u64, topic: Text, client: Text,
        size: Option<u64>, limit: Option<u64>, key: Option<Text>,
    }
    Qos2InDoubt = Warn "qos2_in_doubt" "bridge" { bridge: Text, count: u32, reason: &'static str }
    BackpressureOn = Warn "backpressure_on" "queue" {
        destination: Text, reason: &'static str, backlog: u64, limit: Option<u64>,
        key: Option<Text>,
    }
    BackpressureOff = Info "backpressure_off" "queue" { destination: Text, duration_ms: u64 }
    StoreError = Error "store_error" "store" {
        operation: &'static str, reason: &'static str, retry_in_ms: u64, key: &'static str,
    }
    StoreRecovered = Info "store_recovered" "store" {
        rescued: u64, lost: Lost, reason: Option<&'static str>,
    }
    StoreQuarantined = Warn "store_quarantined" "store" { file: Text, reason: Text }
    LoopSuspected = Warn "loop_suspected" "bridge" { bridge: Text, topic: Text, count: u32 }
    SubscribeRefused = Warn "subscribe_refused" "bridge" {
        bridge: Text, filter: Text, code: u16, retry_in_ms: u64, reason: &'static str,
        size: Option<u64>, limit: Option<u64>, key: Text, said: Option<Text>,
    }
    CloneSuspected = Warn "clone_suspected" "bridge" {
        bridge: Text, client: Text, takeovers: u32, key: Text,
    }
    ClockJump = Warn "clock_jump" "main" { from_s: u64, to_s: u64 }
    Reloaded = Info "reloaded" "main" { changed: Text, restart: Text }
    ReloadRefused = Warn "reload_refused" "main" { reason: Text, errors: u32 }
    Stall = Warn "stall" "loop" { part: &'static str, duration_ms: u64 }
    Stopping = Info "stopping" "main" { signal: &'static str }
    Stopped = Info "stopped" "main" { lost: u64, duration_ms: u64 }
    LogLimited = Warn "log_limited" "log" {
        of: &'static str, suppressed: u64, count: Option<u64>,
    }
    Stats = Info "stats" "stats" {
        uptime_s: u64, clients: u32, sessions: u32, subs: u32, retained: u32, ring_msgs: u32,
        ring_cap: u32, ring_bytes: u64, store_msgs: u64, store_bytes: u64, inflight: u32,
        in_msgs: u64, out_msgs: u64, fwd_sent: u64, fwd_acked: u64, recv_msgs: u64, drops: u64,
        conflated: u64, dup_resent: u64, store_written_bytes: u64, loop_max_ms: u64, rss_kib: u64,
    }
    StatsBridge = Info "stats_bridge" "stats" {
        name: Text, up: bool, inflight: u32, ring: u32, store: u64, oldest_ms: u64, rtt_ms: u64,
        reconnects: u64, fwd_acked: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_its_name() {
        assert_eq!(named("listener.NAME.max_clients", "lan").as_str(), "listener.lan.max_clients");
        assert_eq!(named("limit.clients", "lan").as_str(), "limit.clients");
        let longest = "n".repeat(32);
        let key = named_rule("bridge.NAME.forward.N.max_messages", &longest, &longest);
        assert_eq!(key.as_str(), format!("bridge.{longest}.forward.{longest}.max_messages"));
    }

    #[test]
    fn values_with_spaces_and_quotes_are_quoted() {
        let note = Note::Drop {
            reason: "expired",
            destination: text("a \"b\""),
            count: 3,
            topic: None,
            from: None,
            size: None,
            limit: None,
            key: None,
        };
        assert_eq!(note.to_string(), r#"event=drop reason=expired destination="a \"b\"" count=3"#);
    }

    #[test]
    fn a_newline_from_a_peer_cannot_forge_a_line() {
        assert_eq!(Value("x\nevent=stopped").to_string(), r#""x\u{a}event=stopped""#);
    }

    #[test]
    fn a_value_shows_what_is_hidden_in_it_and_cannot_pretend_to() {
        assert_eq!(Value("a\u{2028}b\u{202e}").to_string(), r#""a\u{2028}b\u{202e}""#);
        assert_eq!(Value("\u{feff}\u{e0041}\u{ad}").to_string(), r#""\u{feff}\u{e0041}\u{ad}""#);
        assert_eq!(Value("\u{a0}").to_string(), r#""\u{a0}""#);
        // What a client writes itself is told from what was written for it.
        assert_eq!(Value("a \\u{2028}").to_string(), r#""a \\u{2028}""#);
        assert_eq!(Value("tür/日本").to_string(), "tür/日本");
    }
}
