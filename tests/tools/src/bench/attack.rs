//! Everybody at once against a gateway whose link is dead: connections by the thousand, packets
//! that are none, a flood. Is it alive, does it stay within its memory plan, and how long does a
//! quiet client wait for its PINGRESP meanwhile?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Options;
use super::greedy;
use super::pinger::Pinger;
use super::rig::{Rig, Wish, Work};
use crate::args::Args;
use crate::clock;
use crate::load::{self, Progress};
use crate::wire;

const ATTACKERS: u64 = 4;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let packets: u64 = args.value("packets", 1_000_000)?;
    let connections: u32 = args.value("connections", 1000)?;
    let seconds: f64 = args.value("seconds", 20.0)?;
    let greedy: f64 = args.value("greedy", 5.0)?;
    let only = args.option::<String>("only")?;
    args.finish()?;
    if only.is_some_and(|only| only == "greedy") {
        return greedy::run(options, greedy);
    }
    let mut rig = Rig::start(&Wish::of(options))?;
    let planned = rig.gateway.log().planned_kib.ok_or("the gateway never said its plan")?;
    rig.cut()?;
    let address = rig.listen;
    let quiet = |rig: &Rig| Pinger::start(rig.listen);

    let mut pinger = quiet(&rig)?;
    let begun = clock::now();
    let sockets: Vec<_> = (0..connections)
        .map(|n| {
            let mut stream = TcpStream::connect(address).ok()?;
            stream.write_all(&connect_packet(&format!("crowd-{n}"))).ok()?;
            Some(stream)
        })
        .collect();
    let refused = sockets.iter().filter(|stream| stream.is_none()).count();
    let spent = (clock::now() - begun) as f64 / 1e9;
    say(&mut rig, &mut pinger, planned, &format!("{connections} connections in {spent:.2} s"))?;
    println!("    {refused} of them could not even be made");
    drop(sockets);

    let mut pinger = quiet(&rig)?;
    let sent = Arc::<AtomicU64>::default();
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|n| {
            let sent = sent.clone();
            std::thread::spawn(move || mutants(address, n, packets, &sent))
        })
        .collect();
    while attackers.iter().any(|attacker| !attacker.is_finished()) {
        rig.pause()?;
    }
    let count = sent.load(Ordering::Relaxed);
    say(&mut rig, &mut pinger, planned, &format!("{count} mutated packets"))?;

    let mut pinger = quiet(&rig)?;
    let work = Work {
        publishers: 32,
        window: 64,
        payload_bytes: (16, 4096),
        count: None,
        seconds: Some(seconds),
        drain_s: 1.0,
        ..Work::count(1, 128, 0)
    };
    let plan = rig.plan(&work);
    let load = std::thread::spawn(move || load::run(&plan, &Arc::<Progress>::default()));
    while !load.is_finished() {
        rig.pause()?;
    }
    let report = load.join().map_err(|_| "the load died")?.map_err(|e| e.to_string())?;
    let what = format!("flood into a dead link for {seconds} s, {} taken", report.counts.accepted);
    say(&mut rig, &mut pinger, planned, &what)?;
    drop(rig);
    println!();
    greedy::run(options, greedy)
}

fn say(rig: &mut Rig, pinger: &mut Pinger, planned: u64, what: &str) -> Result<(), String> {
    let waits = pinger.stop()?;
    rig.gateway.alive()?;
    let ms = |share: f64| waits.percentile(share) as f64 / 1e6;
    let peak = rig.figures().rss_peak_kib;
    println!(
        "{what}: alive; VmHWM {peak} KiB, {:.0} % of the plan's {planned}; PINGRESP median \
         {:.1} ms, p99 {:.1} ms, worst {:.1} ms",
        peak as f64 * 100.0 / planned as f64,
        ms(0.5),
        ms(0.99),
        waits.max() as f64 / 1e6
    );
    Ok(())
}

fn connect_packet(client_id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let connect = wire::Connect { version: 4, client_id, clean_start: true, keepalive_s: 60 };
    wire::put_connect(&mut out, &connect);
    out
}

/// Sound packets with some of their bytes changed, over one connection after the other, until all
/// attackers together have sent `packets`.
fn mutants(address: SocketAddr, number: u64, packets: u64, sent: &AtomicU64) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number + 1);
    let mut chance = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let sound: [&[u8]; 10] = [
        b"\x30\x05\0\x01tab",
        b"\x32\x07\0\x01t\0\x01ab",
        b"\x34\x07\0\x01t\0\x02ab",
        b"\x62\x02\0\x02",
        b"\x40\x02\0\x01",
        b"\x82\x06\0\x03\0\x01t\x02",
        b"\xA2\x05\0\x04\0\x01t",
        b"\xC0\0",
        b"\x33\x0A\0\x01r\0\x05\x02\x01\0xy",
        b"\xE0\0",
    ];
    while sent.load(Ordering::Relaxed) < packets {
        let Ok(mut stream) = TcpStream::connect(address) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        // Who does not read does not matter here, who blocks would.
        let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
        let mut connect = connect_packet(&format!("mutant-{number}"));
        if chance(4) == 0 {
            let at = chance(connect.len() as u64) as usize;
            connect[at] = chance(256) as u8;
        }
        let mut bytes = connect;
        let mut count = 1;
        for _ in 0..chance(40) {
            let mut packet = sound[chance(sound.len() as u64) as usize].to_vec();
            if chance(8) == 0 {
                let at = chance(packet.len() as u64) as usize;
                packet[at] = chance(256) as u8;
            }
            bytes.extend(packet);
            count += 1;
        }
        if stream.write_all(&bytes).is_ok() && chance(8) == 0 {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(2)));
            let _ = stream.read(&mut [0; 512]);
        }
        sent.fetch_add(count, Ordering::Relaxed);
    }
}
