//! Tools of Spillway's tests, demo and benchmarks. They speak MQTT with a codec of their own, so
//! that a mistake in the gateway's cannot hide behind itself.

mod args;
mod bench;
mod bits;
mod clock;
#[path = "../../common/faults.rs"]
mod faults;
mod histogram;
mod load;
mod net;
mod process;
mod proxy;
mod proxy_main;
mod publisher;
mod receiver;
mod screen;
mod setup;
mod signals;
mod sink;
mod sink_main;
mod stamp;
mod subscribe;
mod tally;
#[cfg(test)]
mod tests;
mod trial;
mod verdict;
mod wire;
mod witness;

use std::process::ExitCode;

use args::Args;

type Tool = (&'static str, &'static str, fn(Args) -> Result<bool, String>);

const TOOLS: &[Tool] = &[
    ("load", load::USAGE, load::main),
    ("sink", sink_main::USAGE, sink_main::main),
    ("proxy", proxy_main::USAGE, proxy_main::main),
    ("subscribe", subscribe::USAGE, subscribe::main),
    ("bench", bench::USAGE, bench::main),
    ("trial", trial::USAGE, trial::main),
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let name = words.next().unwrap_or_default();
    let Some((name, usage, tool)) = TOOLS.iter().find(|(known, ..)| *known == name) else {
        eprintln!("usage: spillway-tools TOOL [--OPTION VALUE]...\n");
        TOOLS.iter().for_each(|(_, usage, _)| eprintln!("{usage}\n"));
        return ExitCode::from(2);
    };
    if words.peek().is_some_and(|word| word == "--help") {
        println!("{usage}");
        return ExitCode::SUCCESS;
    }
    match tool(Args::new(words)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{name}: {error}\n\n{usage}");
            ExitCode::from(2)
        }
    }
}
