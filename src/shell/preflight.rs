//! What would keep the gateway from starting, and what is doubtful, on this machine and now. The
//! start asks this before it does anything, and `--check` asks the same: what one refuses the other
//! does. Changes nothing on the disk, listens nowhere, keeps nothing.
//!
//! What is left for the start to find is what changes between the two.

use super::holder::Holder;
use super::places;
use super::resolver::Paths;
use super::socket;
use super::sqlite::{Outlook, examine};
use super::system::{self, MemoryDoubt};
use crate::config::Config;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The answer.
#[derive(Debug, Default)]
pub struct Preflight {
    /// Each keeps the gateway from starting.
    pub refusals: Vec<String>,
    /// What may turn out to be wrong.
    pub doubts: Vec<String>,
    /// A gateway has this store open, with this configuration: another could start when it has
    /// ended. What it has taken counts as free.
    pub running: Option<Holder>,
}

/// `file` is the configuration's, `memory_bytes` what the plan comes to without the program's own.
pub fn preflight(config: &Config, file: &Path, paths: &Paths, memory_bytes: u64) -> Preflight {
    let mut found = Preflight::default();
    let mut byte = [0];
    let entropy = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut byte));
    if let Err(error) = entropy {
        found.refusals.push(format!("cannot read /dev/urandom: {error}"));
    }
    found.store(config, file);
    found.listeners(config, file, paths);
    found.limits(config, memory_bytes);
    for bridge in &config.bridges {
        if let Some(name) = &bridge.bind_interface
            && socket::interface_index(name).is_none()
        {
            let bridge = &bridge.name;
            found.doubts.push(format!(
                "bridge.{bridge}.bind_interface: there is no {name} now; the bridge waits for it"
            ));
        }
    }
    found
}

impl Preflight {
    fn store(&mut self, config: &Config, file: &Path) {
        let Some(path) = &config.store.path else { return };
        match examine(Path::new(path), config.store.max_bytes, config.store.sync) {
            Ok(Outlook::New | Outlook::Ours) => {}
            Ok(Outlook::PutAside(reason)) => {
                let what = format!("store.path: {path} is put aside at the start: {reason}");
                self.doubts.push(what);
            }
            Ok(Outlook::InUse(Some(holder))) if holder.runs_with(file) => {
                self.running = Some(holder);
            }
            Ok(Outlook::InUse(Some(holder))) => {
                self.refusals.push(format!("cannot use the store {path}: in use by {holder}"));
            }
            Ok(Outlook::InUse(None)) => {
                let what = format!("cannot use the store {path}: in use by another process");
                self.refusals.push(what);
            }
            Err(error) => self.refusals.push(format!("cannot use the store {path}: {error}")),
        }
    }

    fn listeners(&mut self, config: &Config, file: &Path, paths: &Paths) {
        let (places, mut wrong) = places::places(config, paths);
        let running = self.running.as_ref().map(|holder| holder.pid);
        let mine = |holder: &Holder| Some(holder.pid) == running || holder.runs_with(file);
        wrong.append(&mut places::refusals(config, &places, mine));
        self.refusals.append(&mut wrong);
        self.doubts.append(&mut places::doubts(config, &places));
        self.doubts.append(&mut places::circles(config, paths, &places));
    }

    fn limits(&mut self, config: &Config, memory_bytes: u64) {
        match system::claim_descriptors(config) {
            Some(shortage) if shortage.is_fatal(config) => {
                self.refusals.push(shortage.to_string());
            }
            Some(shortage) => self.doubts.push(shortage.to_string()),
            None => {}
        }
        match system::memory_doubt(memory_bytes) {
            Some(MemoryDoubt::Refused(what)) => self.refusals.push(what),
            Some(MemoryDoubt::Short(what)) => self.doubts.push(what),
            None => {}
        }
    }
}
