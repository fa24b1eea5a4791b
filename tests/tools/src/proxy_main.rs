//! Command line of `proxy`: orders come on stdin or on a control port, one a line, each answered
//! by one line once it is done.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::args::Args;
use crate::net;
use crate::proxy::{Command, Proxy};
use crate::signals;
use crate::sink_main::{say, stdin_lines};

pub const USAGE: &str = "\
proxy --to HOST:PORT   a TCP link that can be made bad; prints listening port=N control=N
    --port 0  --control PORT (0 = any; orders over TCP, besides stdin)
    orders: pass | cut | cut-after BYTES | blackhole [up|down] | stall [up|down] | halfopen
            delay MS (each way) | status | quit       each is answered by `ok ...` once it is done";

pub fn main(mut args: Args) -> Result<bool, String> {
    let far = net::address(&args.text("to")?.ok_or("--to HOST:PORT is missing")?)?;
    let port: u16 = args.value("port", 0)?;
    let control: Option<u16> = args.option("control")?;
    args.finish()?;
    signals::install();
    let proxy = Proxy::start(port, far).map_err(|e| format!("port {port}: {e}"))?;
    let address = proxy.address;
    let proxy = Arc::new(Mutex::new(proxy));
    let mut line = format!("listening port={}", address.port());
    if let Some(port) = control {
        let listener = TcpListener::bind(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        line.push_str(&format!(" control={}", address.port()));
        let proxy = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let proxy = proxy.clone();
                std::thread::spawn(move || serve(&stream, &proxy));
            }
        });
    }
    say(&line);
    let lines = stdin_lines();
    while !signals::stop_wanted() {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) if line.trim() == "quit" => break,
            Ok(line) => say(&answer(&proxy, line.trim())),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(true)
}

fn serve(mut stream: &TcpStream, proxy: &Mutex<Proxy>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if writeln!(stream, "{}", answer(proxy, line.trim())).is_err() {
            return;
        }
    }
}

fn answer(proxy: &Mutex<Proxy>, line: &str) -> String {
    let command = match parse(line) {
        Ok(command) => command,
        Err(error) => return format!("error {error}"),
    };
    // A holder that panicked has not changed the proxy.
    let proxy = proxy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let status = proxy.command(command);
    format!(
        "ok connections={} accepted={} bytes_up={} bytes_down={}",
        status.connections, status.accepted, status.bytes[0], status.bytes[1]
    )
}

pub fn parse(line: &str) -> Result<Command, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let ways = match rest {
        "up" => [true, false],
        "down" => [false, true],
        _ => [true; 2],
    };
    let command = match word {
        "pass" => Command::Pass,
        "cut" => Command::Cut,
        "cut-after" => Command::CutAfter(rest.parse().map_err(|e| format!("{rest}: {e}"))?),
        "blackhole" => Command::BlackHole(ways),
        "stall" => Command::Stall(ways),
        "halfopen" => Command::HalfOpen,
        "delay" => {
            let millis: f64 = rest.parse().map_err(|e| format!("{rest}: {e}"))?;
            Command::Delay((millis * 1e6) as u64)
        }
        "status" => Command::Status,
        _ => return Err(format!("unknown order {word}")),
    };
    let takes_none = matches!(word, "pass" | "cut" | "halfopen" | "status");
    let way_is_wrong = matches!(word, "blackhole" | "stall") && !matches!(rest, "" | "up" | "down");
    if (takes_none && !rest.is_empty()) || way_is_wrong {
        return Err(format!("{word} does not take {rest}"));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_wrong_ones_refused() {
        assert_eq!(parse("cut"), Ok(Command::Cut));
        assert_eq!(parse("stall down"), Ok(Command::Stall([false, true])));
        assert_eq!(parse("delay 2.5"), Ok(Command::Delay(2_500_000)));
        for wrong in ["", "cutt", "cut 5", "stall sideways", "delay", "cut-after x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
