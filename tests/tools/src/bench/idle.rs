//! What doing nothing costs: how often the gateway wakes, what an idle client takes, how long it
//! takes until all are connected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Options;
use super::rig::{Rig, Wish};
use crate::args::Args;
use crate::clock;
use crate::wire;

const KEEPALIVE_S: u16 = 60;

pub fn run(options: &Options, mut args: Args) -> Result<(), String> {
    let seconds: f64 = args.value("seconds", 120.0)?;
    let clients: u16 = args.value("clients", 5000)?;
    args.finish()?;
    crowd(options, clients)?;
    wake_ups(options, seconds)
}

/// Clients that connect one after the other and then say nothing.
fn crowd(options: &Options, clients: u16) -> Result<(), String> {
    let extra = [
        format!("limit.clients = {clients}"),
        format!("limit.sessions = {clients}"),
        "log.stats_interval = 10s".into(),
    ];
    let rig = Rig::start(&Wish { extra: &extra, cuttable: false, ..Wish::of(options) })?;
    let rss_kib = || rig.gateway.figures().rss_kib;
    let looks = [0, clients / 5, clients];
    let mut all = Vec::new();
    let mut before = 0;
    for look in looks {
        let begun = clock::now();
        while all.len() < usize::from(look) {
            all.push(connect(rig.listen, &format!("idle-{}", all.len()))?);
        }
        let resident = rss_kib();
        if all.is_empty() {
            println!("places for {clients} clients, none connected: {resident} KiB resident");
        } else {
            println!(
                "{} connected, the last ones in {:.2} s: {resident} KiB resident, {:.2} KiB a \
                 connected client, {:.2} with its place",
                all.len(),
                (clock::now() - begun) as f64 / 1e9,
                resident.saturating_sub(before) as f64 / all.len() as f64,
                resident as f64 / all.len() as f64,
            );
        }
        if before == 0 {
            before = resident;
        }
    }
    Ok(())
}

/// One idle bridge, ten idle clients that ping as they must.
fn wake_ups(options: &Options, seconds: f64) -> Result<(), String> {
    let extra = ["log.stats_interval = 10s".to_owned()];
    let mut rig = Rig::start(&Wish { extra: &extra, cuttable: false, ..Wish::of(options) })?;
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(connect(rig.listen, &format!("quiet-{n}"))?);
        std::thread::sleep(Duration::from_millis(100));
    }
    // Long enough for everything that follows a start.
    std::thread::sleep(Duration::from_secs(5));
    let switches = rig.gateway.figures().switches;
    let begun = clock::now();
    let mut pinged = begun;
    while ((clock::now() - begun) as f64) < seconds * 1e9 {
        if clock::now() - pinged > u64::from(KEEPALIVE_S) * 1_000_000_000 {
            pinged = clock::now();
            for client in &mut clients {
                client.write_all(&[wire::PINGREQ << 4, 0]).map_err(|e| e.to_string())?;
                client.read_exact(&mut [0; 2]).map_err(|e| e.to_string())?;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        rig.gateway.alive()?;
    }
    let spent = (clock::now() - begun) as f64 / 1e9;
    let woken = rig.gateway.figures().switches - switches;
    println!(
        "10 idle clients (keepalive {KEEPALIVE_S} s), one idle bridge (30 s), stats every 10 s: \
         {:.2} wake-ups a second over {spent:.0} s",
        woken as f64 / spent
    );
    Ok(())
}

fn connect(address: SocketAddr, client_id: &str) -> Result<TcpStream, String> {
    super::connect(address, client_id, KEEPALIVE_S)
}
