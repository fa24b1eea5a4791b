//! Another configuration while the gateway runs. Bridges that are the same keep their connections;
//! one that changed leaves its remote, and what it has in its queue is sorted by the new rules; one
//! that is gone leaves its queue behind, on disk, until it is configured again. All of it happens
//! at the beginning of a flush, where the store is at hand, and before anything is changed it is
//! known that everything fits: a reload happens whole or not at all.

use super::open::{box_setup, connect_bytes};
use super::verbs::Action;
use super::{Gateway, State};
use crate::bridge::blame::Blame;
use crate::bridge::link::Link;
use crate::bridge::rules::Rules;
use crate::config::{self, Bridge, Config};
use crate::fit::fit;
use crate::note::{Note, Text, text};
use crate::queue::DropReason;
use crate::queue::outbox::{DestId, Params};
use crate::queue::store::{SpillStore, StoreError};
use crate::vocab::{BridgeId, Instant};
use core::fmt::Write;

/// What becomes of the place of a bridge.
enum Change {
    Keep,
    /// It was vacant, or has the queue of a bridge of this name that was removed.
    Add(Bridge),
    Alter(Bridge),
    Remove,
}

impl Gateway {
    /// Takes a configuration that was read again: it is in use with the next flush.
    pub fn reload(&mut self, now: Instant, config: Config) {
        if self.stop.is_none() {
            self.reloading = Some(Box::new(config));
            self.due_by(now);
        }
    }

    /// The bridge in a place; `None` = vacant.
    pub fn bridge(&self, bridge: BridgeId) -> Option<&Bridge> {
        self.config.bridges.get(usize::from(bridge.0)).filter(|bridge| !bridge.is_vacant())
    }

    pub(super) fn reload_from(&mut self, now: Instant, store: &mut impl SpillStore) {
        self.reload_with(now, &mut |gateway, dest| {
            gateway.with_streams(now, |queue, streams| queue.restore_one(dest, now, store, streams))
        });
    }

    pub(super) fn reload_in_ram(&mut self, now: Instant) {
        self.reload_with(now, &mut |_, _| Ok(()));
    }

    fn reload_with(
        &mut self,
        now: Instant,
        restore: &mut dyn FnMut(&mut Self, DestId) -> Result<(), StoreError>,
    ) {
        let Some(new) = self.reloading.take() else { return };
        let reload = config::reload(&self.config, &new);
        let refused = match self.changes_to(now, &reload.config.bridges) {
            Ok(changes) => self.take_changes(now, changes, &reload, restore),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = refused {
            self.note(Note::ReloadRefused { reason, errors: 1 });
        }
        self.collect();
    }

    /// What becomes of each place; the reason when there are too few.
    fn changes_to(&mut self, now: Instant, bridges: &[Bridge]) -> Result<Vec<Change>, Text> {
        let mut changes: Vec<Change> = Vec::new();
        let named = |name: &str| bridges.iter().find(|bridge| bridge.name == name);
        for (at, old) in self.config.bridges.iter().enumerate() {
            let dest = DestId(fit(at, "bridges"));
            changes.push(match named(&old.name) {
                Some(new) if new == old => Change::Keep,
                Some(new) => Change::Alter(new.clone()),
                None if !old.is_vacant() => Change::Remove,
                None => match named(&self.queue.name(dest)) {
                    Some(back) if self.queue.is_used(dest) => Change::Add(back.clone()),
                    _ => Change::Keep,
                },
            });
        }
        let known = |changes: &[Change], config: &Config, name: &str| {
            changes.iter().zip(&config.bridges).any(|(change, old)| match change {
                Change::Add(new) | Change::Alter(new) => new.name == name,
                Change::Keep => old.name == name,
                Change::Remove => false,
            })
        };
        for bridge in bridges {
            if known(&changes, &self.config, &bridge.name) {
                continue;
            }
            let place = self.vacant_place(now, &changes).ok_or_else(|| {
                let mut reason = Text::new();
                // A name is short; what does not fit is cut.
                let _ = write!(
                    reason,
                    "no place for bridge {} before a restart (limit.bridges = {})",
                    bridge.name, self.config.limit.bridges
                );
                reason
            })?;
            changes[place] = Change::Add(bridge.clone());
        }
        Ok(changes)
    }

    /// A place that nobody has, or that only the queue of a removed bridge has, if all of that is
    /// in the store.
    fn vacant_place(&mut self, now: Instant, changes: &[Change]) -> Option<usize> {
        let vacant = |at: &usize| {
            matches!(changes[*at], Change::Keep) && self.config.bridges[*at].is_vacant()
        };
        let places: Vec<usize> = (0..changes.len()).filter(vacant).collect();
        let dest = |at: usize| DestId(fit(at, "bridges"));
        let free = places.iter().copied().find(|at| !self.queue.is_used(dest(*at)));
        free.or_else(|| places.into_iter().find(|at| self.queue.retire(dest(*at), now)))
    }

    fn take_changes(
        &mut self,
        now: Instant,
        changes: Vec<Change>,
        reload: &config::Reload,
        restore: &mut dyn FnMut(&mut Self, DestId) -> Result<(), StoreError>,
    ) -> Result<(), Text> {
        self.take_up_queues(now, &changes, restore)?;
        let mut told = Told::default();
        let mut bridges = self.config.bridges.clone();
        for (change, bridge) in changes.iter().zip(&mut bridges) {
            match change {
                Change::Keep => {}
                Change::Add(new) => {
                    told.say(format_args!("+{}", new.name));
                    *bridge = new.clone();
                }
                Change::Alter(new) => {
                    told.say(format_args!("{}", new.name));
                    *bridge = new.clone();
                }
                Change::Remove => {
                    told.say(format_args!("-{}", bridge.name));
                    *bridge = Bridge::vacant();
                }
            }
        }
        for (change, at) in changes.iter().zip(0u16..) {
            if matches!(change, Change::Alter(_) | Change::Remove) {
                self.leave_for_good(now, BridgeId(at));
                self.leave_filters(BridgeId(at));
            }
        }
        self.config = Config { bridges, ..reload.config.clone() };
        for (change, at) in changes.iter().zip(0u16..) {
            match change {
                Change::Keep => self.share_anew(at),
                Change::Add(_) | Change::Alter(_) => self.begin_bridge(now, at),
                Change::Remove => self.end_bridge(now, at),
            }
        }
        self.take_limits_of_sessions();
        let lets_in = |key: &&str| key.starts_with("auth.") || key.ends_with(".anonymous");
        if reload.changed.iter().any(lets_in) {
            self.set_auth(now, self.config.auth.clone());
        }
        self.actions.push_back(Action::Reloaded);
        for key in &reload.changed {
            told.say(format_args!("{key}"));
        }
        let mut restart = Told::default();
        for key in &reload.restart {
            restart.say(format_args!("{key}"));
        }
        self.note(Note::Reloaded { changed: told.text, restart: restart.text });
        self.due_by(now);
        Ok(())
    }

    /// Queues of bridges that were not there: what the store has of them comes first. Whatever
    /// cannot be read is left where it is.
    fn take_up_queues(
        &mut self,
        now: Instant,
        changes: &[Change],
        restore: &mut dyn FnMut(&mut Self, DestId) -> Result<(), StoreError>,
    ) -> Result<(), Text> {
        let mut taken = Vec::new();
        let received = super::inbound_window(&self.config);
        for (change, at) in changes.iter().zip(0u16..) {
            let Change::Add(new) = change else { continue };
            let dest = DestId(at);
            if self.queue.is_used(dest) {
                continue;
            }
            // What is found in the store is sorted by these.
            self.links[usize::from(at)].rules = Rules::new(new);
            let params = self.bridge_params(new, &self.links[usize::from(at)].rules);
            self.queue.take_up(dest, params, &box_setup(new, received));
            taken.push(dest);
            if restore(self, dest).is_err() {
                for dest in taken {
                    self.queue.detach(dest, now);
                    self.links[usize::from(dest.0)].rules = Rules::new(&Bridge::vacant());
                }
                return Err(text("the store cannot be read"));
            }
        }
        Ok(())
    }

    /// The link goes down, to come up as another or not at all.
    fn leave_for_good(&mut self, now: Instant, bridge: BridgeId) {
        let dest = Self::bridge_dest(bridge);
        if let Some(conn) = self.link_mut(bridge).candidate.take().and_then(|c| c.conn) {
            self.close(now, conn.slot, false);
        }
        self.actions.push_back(Action::CancelResolve { bridge });
        match self.link(bridge).state {
            State::Up { conn } => {
                let note = Note::BridgeDown {
                    bridge: self.bridge_name(bridge),
                    server: self.server_name(bridge),
                    reason: text("reload"),
                    retry_in_ms: 0,
                    backlog: self.queue.outbox(dest).pending,
                    size: None,
                    limit: None,
                    key: None,
                    topic: None,
                    client: None,
                    said: None,
                    server_reference: None,
                };
                self.note(note);
                self.leave(now, bridge, conn.slot);
            }
            State::Dialing { conn, .. } | State::Greeting { conn, .. } => {
                self.close(now, conn.slot, false);
            }
            State::Resolving { .. } | State::Backoff { .. } | State::Stopped => {}
        }
        self.queue.disconnected(dest);
        self.queue.drop_zero(dest, DropReason::Offline);
        self.link_mut(bridge).state = State::Stopped;
        self.announce(now, bridge, false);
    }

    /// A bridge that is new or another begins.
    fn begin_bridge(&mut self, now: Instant, at: u16) {
        let (bridge, dest) = (BridgeId(at), DestId(at));
        let config = self.config.bridges[usize::from(at)].clone();
        let mut link = Link::new(&config, self.client_id(&config));
        link.state = State::Backoff { until: now };
        link.left = self.left_by(&config);
        let old = &self.links[usize::from(at)];
        (link.reconnects, link.acked) = (old.reconnects, old.acked);
        link.quarantined = old.quarantined;
        link.blame = Blame::new(!self.queue.has_aside());
        let params = self.bridge_params(&config, &link.rules);
        self.links[usize::from(at)] = link;
        self.circle.forget();
        let room = box_setup(&config, super::inbound_window(&self.config));
        self.with_streams(now, |queue, streams| queue.rewire(dest, params, &room, streams));
        let first = self.client_slots + at * 2;
        for slot in first..first + 2 {
            self.conn_mut(slot).grow_control(connect_bytes(&config));
        }
        self.announce(now, bridge, false);
    }

    /// A bridge is not configured any more: its queue waits, if there is anything in it.
    fn end_bridge(&mut self, now: Instant, at: u16) {
        let dest = DestId(at);
        let mut link = Link::new(&self.config.bridges[usize::from(at)], String::new());
        link.state = State::Stopped;
        self.links[usize::from(at)] = link;
        self.circle.forget();
        self.unblocked(now, dest);
        self.queue.orphan(dest);
    }

    /// The same bridge, among more or fewer others.
    fn share_anew(&mut self, at: u16) {
        let bridge = &self.config.bridges[usize::from(at)];
        if !bridge.is_vacant() {
            let params: Params = self.bridge_params(bridge, &self.links[usize::from(at)].rules);
            self.queue.set_share(DestId(at), &params);
        }
    }

    fn take_limits_of_sessions(&mut self) {
        self.queue.set_flush_after(self.config.store.flush_after);
        let messages = u64::from(self.config.session_max_messages);
        let bytes = self.config.session_max_bytes;
        for session in 0..self.sessions.count() {
            if self.sessions[session].used {
                let dest = self.session_dest(session);
                self.queue.set_quota(dest, messages, bytes);
            }
        }
    }
}

/// Words with commas between them, as far as there is room.
#[derive(Default)]
struct Told {
    text: Text,
}

impl Told {
    fn say(&mut self, word: core::fmt::Arguments<'_>) {
        let comma = if self.text.is_empty() { "" } else { "," };
        // What does not fit is left out.
        let _ = write!(self.text, "{comma}{word}");
    }
}
