//! `bench`: whole processes, measured from outside: what the kernel charged the gateway, what the
//! sink received, what the load was promised. Nothing here asserts; the figures are for people.

mod accept;
mod attack;
mod compare;
mod drain;
mod flash;
mod greedy;
mod idle;
mod kills;
mod latency;
mod memory;
mod pinger;
mod rig;
mod slowdisk;
mod start;
mod wear;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use crate::args::Args;
use crate::process::Kind;
use crate::setup::RunDir;
use crate::signals;
use crate::wire;

pub const USAGE: &str = "\
bench [compare|accept|attack|drain|flash|idle|kills|rss|latency|slowdisk|start|wear]   needs
    the release binary
    compare  CPU, rate, loss, order and memory of spillway and mosquitto as bridging gateways,
             interleaved: --repeats 3  --scale 1.0 (times the counts)  --qos 0,1,2  --size 64,1024
             --only spillway|mosquitto  --mosquitto-inflight 128
    accept   messages accepted a second with the link down, by publishers, window, QoS, store.sync
             and disk: --seconds 2  --repeats 3  --publishers 1,4,32  --window 100,1  --qos 1,2
             --sync full,normal  --disk real,100us (this one, or one whose fsync takes so long)
             --size 128  --inflight 128  --mosquitto (as well, saving on every change)
    drain    a backlog leaves at window / round trip: --count 100000  --delay 20 (ms)  --qos 1
    flash    bytes written per message: --count 20000  --size 128  --qos 1,2  --sync full,normal
    wear     bytes written in an hour of typical loads, and the years of a small flash:
             --seconds 120  --size 128
    kills    random kill -9 with QoS 1 and 2 in both directions, and what became of the messages:
             --count 200  --rate 500 (messages a second each way)  --mqtt 5  --upstream mosquitto
    start    kill -9 and start with a backlog: --counts 1000,100000,1000000  --size 128
    rss      64 clients, full ring, long outage: --seconds 30
    latency  acknowledgement against round trip at half load: --seconds 10  --delay 20  --qos 1
    slowdisk PINGRESP while a backlog drains and publishers publish on a disk whose syncs are slow:
             --count 100000  --seconds 15  --syncs 0,50,200,2000 (ms)
    idle     wake-ups a second, memory of an idle client, time until all are connected:
             --seconds 120  --clients 5000
    attack   connections, mutated packets, a flood into a dead link, and how long a quiet client
             waits for its PINGRESP meanwhile: --connections 1000  --packets 1000000  --seconds 20;
             then one kind of greedy client after the other beside modest ones, as a table:
             --greedy 5 (seconds each)  --only greedy
    all:     --binary PATH (of spillway)  --dir DIR  --keep";

/// What all benchmarks are told.
struct Options {
    binary: PathBuf,
    dir: PathBuf,
}

pub fn main(mut args: Args) -> Result<bool, String> {
    let which = args.word().unwrap_or_else(|| "compare".into());
    let binary = args.option("binary")?.unwrap_or_else(|| Kind::Spillway.binary());
    let dir = RunDir::new(args.option("dir")?, "spillway-bench", args.flag("keep"))?;
    let options = Options { binary, dir: dir.path.clone() };
    signals::install();
    match which.as_str() {
        "compare" => compare::run(&options, args),
        "accept" => accept::run(&options, args),
        "start" => start::run(&options, args),
        "drain" => drain::run(&options, args),
        "flash" => flash::run(&options, args),
        "kills" => kills::run(&options, args),
        "rss" => memory::run(&options, args),
        "latency" => latency::run(&options, args),
        "idle" => idle::run(&options, args),
        "attack" => attack::run(&options, args),
        "slowdisk" => slowdisk::run(&options, args),
        "wear" => wear::run(&options, args),
        _ => Err(format!("unknown benchmark {which}")),
    }?;
    Ok(true)
}

/// A client of 3.1.1 with a clean session that has been let in.
fn connect(address: SocketAddr, client_id: &str, keepalive_s: u16) -> Result<TcpStream, String> {
    let mut out = Vec::new();
    wire::put_connect(
        &mut out,
        &wire::Connect { version: 4, client_id, clean_start: true, keepalive_s },
    );
    let greet = || -> std::io::Result<(TcpStream, [u8; 4])> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(&out)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        Ok((stream, connack))
    };
    match greet() {
        Ok((stream, [.., 0])) => Ok(stream),
        Ok((_, [.., code])) => Err(format!("{client_id} is refused with {code}")),
        Err(error) => Err(format!("{client_id}: {error}")),
    }
}
