//! Command line of `sink`: what it is asked on stdin or by SIGUSR1, it answers on stdout.

use std::io::{BufRead, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::args::Args;
use crate::clock;
use crate::signals;
use crate::sink::{Options, Seen, Sink};
use crate::tally::Tally;

pub const USAGE: &str = "\
sink   an MQTT server that counts what a bridge brings; prints listening port=N
    --port 0  --delay MS (round trip)  --receive-maximum N  --no-session  --mute (never acknowledge)
    --until N (end after N different messages)  --seconds S
    stdin: stats | streams | reset | delay MS | quit      SIGUSR1: stats      SIGTERM: quit
    the last line is the result; exit status 1 when something was out of order or corrupt";

pub fn main(mut args: Args) -> Result<bool, String> {
    let options = Options {
        port: args.value("port", 0)?,
        delay: (args.value("delay", 0.0f64)? * 1e6) as u64,
        receive_maximum: args.option("receive-maximum")?,
        keep_sessions: !args.flag("no-session"),
        mute: args.flag("mute"),
    };
    let until: Option<u64> = args.option("until")?;
    let seconds: Option<f64> = args.option("seconds")?;
    args.finish()?;
    signals::install();
    let sink = Sink::start(options).map_err(|e| format!("port {}: {e}", options.port))?;
    say(&format!("listening port={}", sink.address.port()));
    let deadline = seconds.map(|s| clock::now() + (s * 1e9) as u64);
    let lines = stdin_lines();
    loop {
        match lines.recv_timeout(Duration::from_millis(20)) {
            Ok(line) => {
                if !command(&sink, line.trim()) {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // Nobody speaks on stdin any more; signals still do.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(20)),
        }
        if signals::figures_wanted() {
            say(&sink.seen().line());
        }
        let enough = until.is_some_and(|n| sink.seen().tally.totals(None).unique >= n);
        if signals::stop_wanted() || enough || deadline.is_some_and(|d| clock::now() >= d) {
            break;
        }
    }
    let seen = sink.seen();
    say(&seen.line());
    let tally: &Tally = &seen.tally;
    Ok(tally.totals(None).out_of_order == 0 && tally.corrupt == 0 && tally.misrouted == 0)
}

/// False for `quit`.
fn command(sink: &Sink, line: &str) -> bool {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "" => {}
        "stats" => say(&sink.seen().line()),
        "streams" => {
            let lines = sink.seen().tally.stream_lines();
            lines.iter().for_each(|line| say(line));
            say("end");
        }
        "reset" => {
            let mut seen = sink.seen();
            let connected = seen.connected;
            *seen = Seen { connected, ..Seen::default() };
            say("ok");
        }
        "delay" => match rest.parse::<f64>() {
            Ok(millis) => {
                sink.set_delay((millis * 1e6) as u64);
                say("ok");
            }
            Err(error) => say(&format!("error {error}")),
        },
        "quit" => return false,
        _ => say("error: stats, streams, reset, delay MS or quit"),
    }
    true
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever closed stdout does not want to hear it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub fn stdin_lines() -> std::sync::mpsc::Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
