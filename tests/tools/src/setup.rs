//! Configurations of gateways and brokers, and the directory a run lives in.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::process::Kind;

pub struct Bridge {
    pub remote: SocketAddr,
    pub filter: String,
    /// None: the default.
    pub max_inflight: Option<u16>,
    pub version: u8,
    pub client_id: String,
    pub keepalive_s: u16,
}

pub struct Setup<'a> {
    pub name: &'a str,
    pub port: u16,
    /// Where its store is, with `NAME.db`.
    pub dir: &'a Path,
    /// false: RAM only.
    pub store: bool,
    /// None: the default, and for mosquitto that of all its limits.
    pub limit_inflight: Option<u16>,
    pub bridge: Option<&'a Bridge>,
    /// Lines of its own language.
    pub extra: &'a [String],
}

pub fn configuration(kind: Kind, setup: &Setup<'_>) -> String {
    let mut lines = match kind {
        Kind::Spillway => spillway(setup),
        Kind::Mosquitto => mosquitto(setup),
    };
    lines.extend_from_slice(setup.extra);
    lines.join("\n") + "\n"
}

fn spillway(setup: &Setup<'_>) -> Vec<String> {
    let store = setup.dir.join(format!("{}.db", setup.name));
    let store = if setup.store { store.display().to_string() } else { "none".into() };
    let mut lines = vec![
        format!("node.name = {}", setup.name),
        format!("listener.local.url = mqtt://127.0.0.1:{}", setup.port),
        format!("store.path = {store}"),
    ];
    lines.extend(setup.limit_inflight.map(|limit| format!("limit.inflight = {limit}")));
    if !setup.extra.iter().any(|line| line.starts_with("log.stats_interval ")) {
        lines.push("log.stats_interval = 1s".into());
    }
    if let Some(bridge) = setup.bridge {
        lines.extend([
            format!("bridge.remote.server = mqtt://{}", bridge.remote),
            format!("bridge.remote.proto_ver = {}", bridge.version),
            format!("bridge.remote.clientid = {}", bridge.client_id),
            format!("bridge.remote.forward.1.local_topic = {}", bridge.filter),
            format!("bridge.remote.keepalive = {}s", bridge.keepalive_s),
            "bridge.remote.backoff_min = 100ms".into(),
            "bridge.remote.backoff_max = 1s".into(),
        ]);
        let window = bridge.max_inflight;
        lines.extend(window.map(|window| format!("bridge.remote.max_inflight = {window}")));
    }
    lines
}

/// As a bridging gateway it queues without limit and keeps nothing on disk, unless told in `extra`;
/// without a `limit_inflight` it is as it is out of the package.
fn mosquitto(setup: &Setup<'_>) -> Vec<String> {
    let mut lines =
        vec![format!("listener {} 127.0.0.1", setup.port), "allow_anonymous true".into()];
    if let Some(limit) = setup.limit_inflight {
        lines.extend([
            "max_queued_messages 0".into(),
            "max_queued_bytes 0".into(),
            // It also limits what a publisher may have open at QoS 2, and closes on more.
            format!("max_inflight_messages {limit}"),
        ]);
    }
    if !setup.extra.iter().any(|line| line.starts_with("persistence ")) {
        lines.push("persistence false".into());
    }
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        lines.push("user root".into());
    }
    if let Some(bridge) = setup.bridge {
        let version = if bridge.version == 5 { "mqttv50" } else { "mqttv311" };
        lines.extend([
            "connection remote".into(),
            format!("address {}", bridge.remote),
            format!("topic {} out 2", bridge.filter),
            format!("remote_clientid {}", bridge.client_id),
            format!("bridge_protocol_version {version}"),
            "cleansession false".into(),
            "notifications false".into(),
            "try_private false".into(),
            format!("keepalive_interval {}", bridge.keepalive_s),
            "restart_timeout 1".into(),
        ]);
    }
    lines
}

/// A directory of one run; removed when dropped, unless it is to be kept.
pub struct RunDir {
    pub path: PathBuf,
    pub keep: bool,
}

impl RunDir {
    pub fn new(parent: Option<PathBuf>, name: &str, keep: bool) -> Result<Self, String> {
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("{name}-{:08x}", clock::run_number()));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(RunDir { path, keep })
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed is only litter.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
