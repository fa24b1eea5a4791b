//! Start-up and the end: arguments, configuration, the store, the loop, the exit status. The only
//! place that reads the environment and ends the process. Decides nothing about messages.

use core::time::Duration;
use spillway::cli::{self, Arguments, EXIT_FAILURE, EXIT_USAGE, PasswdError};
use spillway::config::{self, Ack, Config, ConfigError, NoText, Sync, Warning};
use spillway::fit::wide;
use spillway::gateway::{Gateway, mark};
use spillway::note::{Note, Value, Visible, text};
use spillway::queue::slots_for;
use spillway::queue::store::{SpillStore, StoreError};
use spillway::shell::clock::{self, Clock};
use spillway::shell::logging::Logging;
use spillway::shell::sqlite::{HEAP_BYTES, SqliteStore};
use spillway::shell::{self, EventLoop, Paths, Preflight};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// What `store.max_bytes` is when the configuration does not say.
const STORE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// Times the store may be found damaged within so long; more and the process ends.
const DAMAGED_MAX: u32 = 3;
const DAMAGE_SPAN: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    // Before anything else: whoever starts it may say at once that the file has changed.
    if let Err(error) = shell::hold_reload() {
        complain(&format!("cannot block SIGHUP: {error}"));
        return ExitCode::from(EXIT_FAILURE);
    }
    let status = match Arguments::parse(std::env::args_os().skip(1)) {
        Err(usage) => {
            complain(&usage.to_string());
            EXIT_USAGE
        }
        Ok(Arguments::Help) => print(cli::HELP),
        Ok(Arguments::Version) => print(&format!("{}\n", cli::VERSION)),
        Ok(Arguments::Passwd { file, user }) => passwd(&file, &user),
        Ok(Arguments::Check { config: file }) => match load(&file) {
            Ok((config, warnings)) => check(&file, &config, &warnings),
            Err(status) => status,
        },
        Ok(Arguments::Run { config }) => match load(&config) {
            Ok((loaded, warnings)) => run(&config, loaded, &warnings),
            Err(status) => status,
        },
    };
    ExitCode::from(status)
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => EXIT_FAILURE,
    }
}

fn passwd(file: &Path, user: &str) -> u8 {
    let (what, status) = match cli::passwd(file, user) {
        Ok(()) => return 0,
        Err(PasswdError::Unusable(what)) => (what, EXIT_USAGE),
        Err(PasswdError::Io(what)) => (what, EXIT_FAILURE),
    };
    complain(&what);
    status
}

/// What went wrong, to stderr, on one line whatever is in it.
fn complain(what: &str) {
    eprintln!("spillway: {}", Visible(what));
}

/// Reads the configuration; every error in it is printed.
fn load(path: &Path) -> Result<(Config, Vec<Warning>), u8> {
    read_config(path).map_err(|errors| {
        for error in errors {
            eprintln!("{}", Visible(&error));
        }
        EXIT_USAGE
    })
}

/// The configuration and what is doubtful in it, or all errors that are in it.
fn read_config(path: &Path) -> Result<(Config, Vec<Warning>), Vec<String>> {
    let name = path.display().to_string();
    let bytes = cli::files::read(path)
        .map_err(|error| vec![format!("spillway: cannot read {name}: {error}")])?;
    let text = config::decode(&bytes).map_err(|NoText { line, what }| {
        let (file, key) = (name.clone(), String::new());
        vec![ConfigError { file, line, key, what }.to_string()]
    })?;
    config::load(&name, text, &mut read_file, &host_name())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// The same while the gateway runs, where the log gets what is doubtful.
fn read_again(path: &Path) -> Result<Config, Vec<String>> {
    let (config, warnings) = read_config(path)?;
    warn(&warnings);
    Ok(config)
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        let warning = warning.to_string();
        log::warn!(target: "spillway::config", "event=config_warning text={}", Value(&warning));
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, String> {
    cli::files::read(Path::new(path)).map_err(|error| error.to_string())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "spillway".to_owned(),
        name => name.to_owned(),
    }
}

fn check(file: &Path, config: &Config, warnings: &[Warning]) -> u8 {
    let (parts, found) = ask(file, config);
    cli::check(config, warnings, &cli::Plan { parts: &parts }, &found, &mut io::stdout())
}

/// The memory plan, and what this machine has to say to the configuration.
fn ask(file: &Path, config: &Config) -> (Vec<(&'static str, u64)>, Preflight) {
    let slots = match config.store.path {
        Some(_) => slots_for(config.store.max_bytes.unwrap_or(STORE_BYTES_DEFAULT)),
        None => 0,
    };
    let parts = memory_parts(config, slots);
    let own = parts.iter().filter(|(name, _)| *name != PROGRAM).map(|(_, bytes)| bytes).sum();
    let found = shell::preflight(config, file, &paths(), own);
    (parts, found)
}

/// The part of the memory plan that the system shares between processes.
const PROGRAM: &str = "program and libraries";

/// Everything that may be in RAM, by part, in bytes.
fn memory_parts(config: &Config, slot_count: u32) -> Vec<(&'static str, u64)> {
    let mut parts = Gateway::plan(config, slot_count);
    parts.push(("socket buffers", wide(shell::memory_bytes(config))));
    parts.push(("log", wide(Logging::memory_bytes())));
    if config.store.path.is_some() {
        parts.push(("sqlite", HEAP_BYTES));
    }
    parts.push((PROGRAM, shell::program_bytes()));
    parts
}

fn run(file: &Path, config: Config, warnings: &[Warning]) -> u8 {
    let filter = std::env::var("RUST_LOG").ok();
    let mut logging = match Logging::to_stderr(config.log_level, filter.as_deref()) {
        Ok(logging) => logging,
        Err(error) => {
            complain(&format!("cannot use stderr: {error}"));
            return EXIT_FAILURE;
        }
    };
    logging.install();
    let clock = Clock::start();
    let note = Note::Starting {
        version: env!("CARGO_PKG_VERSION"),
        node: text(&config.node_name),
        config: text(&file.display().to_string()),
    };
    logging.note(clock.now(), &note);
    warn(warnings);
    if let Some(doubt) = config.store.path.as_deref().and_then(cli::doubtful_place) {
        let doubt = format!("store.path: {doubt}");
        log::warn!(target: "spillway::config", "event=config_warning text={}", Value(&doubt));
    }
    let tail = logging.tail();
    let (_, Preflight { refusals, doubts, running }) = ask(file, &config);
    for doubt in &doubts {
        log::warn!(target: "spillway::config", "event=config_warning text={}", Value(doubt));
    }
    let path = config.store.path.as_deref().unwrap_or_default();
    let running = running.map(|holder| format!("cannot use the store {path}: in use by {holder}"));
    if !refusals.is_empty() || running.is_some() {
        for reason in refusals.iter().chain(&running) {
            log::error!(target: "spillway::main", "event=start_failed reason={}", Value(reason));
        }
        drop(logging);
        tail.finish();
        return EXIT_FAILURE;
    }
    let status = turn_for_good(file, config, clock, logging).unwrap_or_else(|reason| {
        log::error!(target: "spillway::main", "event=start_failed reason={}", Value(&reason));
        EXIT_FAILURE
    });
    // The store is closed by now; these are the last words.
    tail.finish();
    status
}

type Loop = EventLoop<Gateway, SqliteStore>;

/// Runs until the end. When the store turns out to be damaged everything begins anew as after a
/// crash, with the store put aside and salvaged: a router never stays down for its queue. If all of
/// it can be read now, the disk has failed to read it for a moment, and it stays in use.
fn turn_for_good(
    file: &Path,
    mut config: Config,
    mut clock: Clock,
    mut logging: Logging,
) -> Result<u8, String> {
    let (mut damaged, mut since, mut count) = (None, clock.now(), 0);
    loop {
        let mut event_loop = start(&config, &mut clock, logging, damaged)?;
        let again = file.to_owned();
        event_loop.on_reload(Box::new(move || read_again(&again)));
        let status = event_loop.run();
        if !event_loop.is_store_damaged() {
            return Ok(status);
        }
        if let Some(new) = event_loop.take_config() {
            // What needs a restart keeps its value: the store that is damaged is the old one.
            config = config::reload(&config, &new).config;
        }
        // Closes every connection.
        let (log, store) = event_loop.into_parts();
        logging = log;
        let now = clock.now();
        if now.since(since) > DAMAGE_SPAN {
            (since, count) = (now, 0);
        }
        count += 1;
        if count > DAMAGED_MAX {
            return Err("the store is damaged again and again".to_owned());
        }
        // What comes back is damage that reading does not show.
        let passed = count == 1 && store.is_some_and(|mut store| store.is_sound());
        damaged = (!passed).then_some("damage was found in use");
    }
}

/// Opens the store and the listeners and allocates everything else. `clock` goes on where the store
/// says it was.
fn start(
    config: &Config,
    clock: &mut Clock,
    mut logging: Logging,
    damaged: Option<&str>,
) -> Result<Loop, String> {
    let seed = seed().map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
    // Once more as it is, for a disk may fail to read for a moment; what is made new is whole.
    for damaged in [damaged, None, Some("damage was found at start")] {
        if let Some((gateway, store)) = restore(config, clock, &mut logging, seed, damaged)? {
            return EventLoop::new(config, gateway, store, *clock, logging, paths(), seed)
                .map_err(|error| error.to_string());
        }
    }
    Err("cannot read the store: it is damaged again".to_owned())
}

/// The core with what the store has for it. `None`: the store is damaged.
fn restore(
    config: &Config,
    clock: &mut Clock,
    logging: &mut Logging,
    seed: u64,
    damaged: Option<&str>,
) -> Result<Option<(Gateway, Option<SqliteStore>)>, String> {
    let mut store = match &config.store.path {
        Some(path) => Some(open_store(config, path, *clock, logging, damaged)?),
        None => None,
    };
    // What the store remembers of time goes on where it was.
    let readings = clock::readings();
    if let Some(store) = &mut store {
        let Some(resumed) = whole(mark::resume(store, &readings))? else { return Ok(None) };
        *clock = Clock::start_at(resumed.max(clock.now()));
    }
    let slots = store.as_ref().map_or(0, SpillStore::slot_count_max);
    logging.note(clock.now(), &memory_plan(config, slots));
    logging.note(clock.now(), &durability(config));
    let mut gateway = Gateway::new(config.clone(), seed, slots, clock.now());
    gateway.set_clocks(clock.now(), readings);
    if let Some(store) = &mut store {
        let Some(()) = whole(gateway.restore(clock.now(), store))? else { return Ok(None) };
    }
    Ok(Some((gateway, store)))
}

/// What was read at start. `None`: the store is damaged.
fn whole<T>(read: Result<T, StoreError>) -> Result<Option<T>, String> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::Corrupt) => Ok(None),
        Err(StoreError::Full) => Err("cannot read the store: it is full".to_owned()),
        Err(StoreError::Io) => Err("cannot read the store: an I/O error".to_owned()),
        Err(StoreError::Gone | StoreError::Replaced) => {
            Err("cannot read the store: it was taken away".to_owned())
        }
    }
}

fn open_store(
    config: &Config,
    path: &str,
    clock: Clock,
    logging: &mut Logging,
    damaged: Option<&str>,
) -> Result<SqliteStore, String> {
    let Config { store, .. } = config;
    let (file, heap) = (Path::new(path), Some(HEAP_BYTES));
    let opened = SqliteStore::open_or_aside(file, store.max_bytes, store.sync, heap, damaged)
        .map_err(|error| format!("cannot use the store {path}: {error}"))?;
    if opened.mended {
        let (operation, reason, key) = ("open", "head_put_back", "store.path");
        logging.note(clock.now(), &Note::StoreError { operation, reason, retry_in_ms: 0, key });
    }
    if let Some(aside) = &opened.quarantined {
        let note = Note::StoreQuarantined { file: text(&aside.file), reason: text(&aside.reason) };
        logging.note(clock.now(), &note);
    }
    Ok(opened)
}

fn memory_plan(config: &Config, slot_count: u32) -> Note {
    let kib = |wanted: &[&str]| {
        let parts = memory_parts(config, slot_count).into_iter();
        parts.filter(|(name, _)| wanted.contains(name)).map(|(_, bytes)| bytes).sum::<u64>() / 1024
    };
    let total: u64 = memory_parts(config, slot_count).iter().map(|(_, bytes)| bytes).sum();
    let (total_kib, ring_kib) = (total / 1024, kib(&["ring", "queues"]));
    let connections_kib = kib(&["connections", "socket buffers"]);
    let sessions_kib = kib(&["sessions and subscriptions", "retained"]);
    let store_kib = kib(&["store directory", "sqlite"]);
    let named = ring_kib + connections_kib + sessions_kib + store_kib;
    let other_kib = total_kib.saturating_sub(named);
    Note::MemoryPlan { total_kib, ring_kib, connections_kib, sessions_kib, store_kib, other_kib }
}

fn durability(config: &Config) -> Note {
    let ack = match config.ack {
        Ack::Safe => "safe",
        Ack::Ring => "ring",
    };
    let sync = match config.store.sync {
        Sync::Full => "full",
        Sync::Normal => "normal",
        Sync::Off => "off",
    };
    let Some(path) = &config.store.path else {
        return Note::Durability { ack, store: text("none"), sync: "off", survives: "nothing" };
    };
    let survives = match (config.ack, config.store.sync) {
        (_, Sync::Off) => "nothing",
        (Ack::Ring, Sync::Full | Sync::Normal) => "what_was_committed",
        (Ack::Safe, Sync::Normal) => "kill",
        (Ack::Safe, Sync::Full) => "power_loss",
    };
    Note::Durability { ack, store: text(path), sync, survives }
}

/// Entropy for client ids, jitter and question ids: another on every start.
fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Where names are looked up. Tests with real parts point these at a name server of their own.
fn paths() -> Paths {
    let mut paths = Paths::default();
    if let Some(file) = std::env::var_os("SPILLWAY_RESOLV_CONF") {
        paths.resolv_conf = file.into();
    }
    if let Some(file) = std::env::var_os("SPILLWAY_HOSTS") {
        paths.hosts = file.into();
    }
    if let Some(port) = std::env::var("SPILLWAY_DNS_PORT").ok().and_then(|port| port.parse().ok()) {
        paths.port = port;
    }
    paths
}
