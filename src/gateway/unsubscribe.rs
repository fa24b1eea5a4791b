//! UNSUBSCRIBE to remotes: what the rules of a bridge do not ask for any more, while the remote's
//! session still has it. What was subscribed is kept in the store, a row a bridge, and outlives the
//! bridge, for it may be back. Read MQTT 5 section 3.10 first.

use super::Gateway;
use super::receive::{Fatal, Step};
use super::service::Owed;
use crate::bridge::left::{Known, Left};
use crate::limits::BRIDGES_GONE_MAX;
use crate::mqtt::props::Properties;
use crate::mqtt::{Filters, Packet, PacketId, Reason, Suback, SubscribeOptions, Unsubscribe};
use crate::queue::store::{SpillStore, StoreError, Table, seal, unseal};
use crate::vocab::{BridgeId, Instant};
use core::time::Duration;

/// One at a time has the last of all packet identifiers.
const UNSUBSCRIBE_ID: PacketId = PacketId::LAST;

/// What the keys of the rows begin with; the name of the bridge follows.
const KEY: &str = "filters:";

/// What was subscribed for bridges that are not configured now, by name; the last are the newest.
pub(super) type Gone = Vec<(String, Known)>;

impl Gateway {
    /// Asks for the next filter to be forgotten; when to try again.
    pub(super) fn send_unsubscribe(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
    ) -> Instant {
        let server = self.link(bridge).dial.server();
        loop {
            let Self { links, conns, .. } = self;
            let left = &mut links[usize::from(bridge.0)].left;
            let Some(filter) = left.next(server) else { return Instant::NEVER };
            let filters = [(filter, SubscribeOptions::default())];
            let filters = Filters::from_list(&filters);
            let (packet_id, properties) = (UNSUBSCRIBE_ID, Properties::EMPTY);
            let packet = Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters });
            let owed = super::service::owe(&mut conns[usize::from(slot)], &packet);
            match owed {
                Owed::Later => return now.plus(Duration::from_millis(10)),
                Owed::Said => left.asked(),
                // Then it could not be subscribed either.
                Owed::Never { .. } => {
                    left.asked();
                    left.answered(server);
                    continue;
                }
            }
            self.counters.out_packets += 1;
            self.ready.set(slot);
            return Instant::NEVER;
        }
    }

    pub(super) fn link_unsuback(
        &mut self,
        now: Instant,
        slot: u16,
        bridge: BridgeId,
        unsuback: &Suback<'_>,
    ) -> Result<Step, Fatal> {
        let server = self.link(bridge).dial.server();
        let is_ours = unsuback.packet_id == UNSUBSCRIBE_ID && self.link_is_up(bridge, slot);
        if !is_ours || !self.link_mut(bridge).left.answered(server) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let next = self.send_unsubscribe(now, slot, bridge);
        self.due_by(next);
        Ok(Step::Done)
    }

    /// A bridge is about to be another, or none.
    pub(super) fn leave_filters(&mut self, bridge: BridgeId) {
        let name = self.config.bridges[usize::from(bridge.0)].name.clone();
        let known = self.link(bridge).known();
        if self.gone.len() == BRIDGES_GONE_MAX {
            self.gone.remove(0);
        }
        self.gone.push((name, known));
    }

    /// What was subscribed for a bridge of this name before.
    pub(super) fn left_by(&mut self, bridge: &crate::config::Bridge) -> Left {
        let at = self.gone.iter().position(|(name, _)| *name == bridge.name);
        let known = at.map(|at| self.gone.remove(at).1).unwrap_or_default();
        Left::new(known, bridge)
    }

    /// Reads the rows at start. Returns how many are damaged.
    pub(super) fn restore_filters(
        &mut self,
        store: &mut impl SpillStore,
    ) -> Result<u64, StoreError> {
        let (gone, mut damaged) = (&mut self.gone, 0);
        store.scan(Table::Meta, &mut |key, row| {
            let name = core::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(KEY));
            let Some(name) = name else { return };
            match unseal(Table::Meta, key, row).and_then(Known::decode) {
                Some(known) if gone.len() < BRIDGES_GONE_MAX => gone.push((name.to_owned(), known)),
                Some(_) => {}
                None => damaged += 1,
            }
        })?;
        for at in 0..self.links.len() {
            let bridge = self.config.bridges[at].clone();
            let stored = self.gone.iter().find(|(name, _)| *name == bridge.name);
            let stored = stored.map(|(_, known)| known.clone()).unwrap_or_default();
            self.links[at].left = self.left_by(&bridge);
            let known = self.links[at].known();
            let none = known.is_empty() && stored.is_empty();
            self.links[at].left.dirty = !none && known != stored;
        }
        Ok(damaged)
    }

    /// Writes the rows that have changed; `true` when there were some.
    pub(super) fn put_filters(&self, store: &mut impl SpillStore) -> Result<bool, StoreError> {
        let mut wrote = false;
        for (link, bridge) in self.links.iter().zip(&self.config.bridges) {
            if !link.left.dirty || bridge.is_vacant() {
                continue;
            }
            let (key, known) = (format!("{KEY}{}", bridge.name), link.known());
            if known.is_empty() {
                store.delete(Table::Meta, key.as_bytes())?;
            } else {
                let mut row = known.encode();
                seal(Table::Meta, key.as_bytes(), &mut row);
                store.put(Table::Meta, key.as_bytes(), &row)?;
            }
            wrote = true;
        }
        Ok(wrote)
    }

    pub(super) fn filters_committed(&mut self) {
        for link in &mut self.links {
            link.left.dirty = false;
        }
    }
}
