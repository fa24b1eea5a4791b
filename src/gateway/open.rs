//! What the configuration sizes: the queue's parts, and the destinations opened at start.

use super::Gateway;
use super::egress::HEAD_BYTES_MAX;
use crate::bridge::link::{Link, State};
use crate::bridge::rules::Rules;
use crate::config::{Bridge, Config, Forward, Limits, Overflow};
use crate::fit::fit;
use crate::limits::{
    HOP_BYTES_MAX, PROPERTIES_BYTES_MAX, RECEIVE_IDS_IN_COMMON, REFUSAL_CONNECTIONS, STREAMS_MAX,
};
use crate::note::text;
use crate::queue::drops::RuleQuota;
use crate::queue::outbox::{DestId, Params};
use crate::queue::{BoxSetup, Setup};

impl Gateway {
    pub(super) fn open_bridges(&mut self) {
        for index in 0..self.config.bridges.len() {
            let Ok(index) = u16::try_from(index) else { continue };
            let bridge = &self.config.bridges[usize::from(index)];
            let client_id = bridge.client_id.clone().unwrap_or_default();
            let mut link = Link::new(bridge, client_id);
            if bridge.is_vacant() {
                link.state = State::Stopped;
            } else {
                self.queue.open(DestId(index), self.bridge_params(bridge, &link.rules));
            }
            self.links.push(link);
        }
        self.open_quarantine();
        self.name_links();
    }

    /// What a bridge's queue may take, among so many others.
    pub(super) fn bridge_params(&self, bridge: &Bridge, rules: &Rules) -> Params {
        let slots = self.queue.slot_count();
        let share = u32::from(100 - self.config.store.sessions_share);
        let count = self.config.bridges.iter().filter(|bridge| !bridge.is_vacant()).count();
        let count = fit::<u32, _>(count, "bridges").max(1);
        // Bridges that cannot spill leave half of the ring to everybody else, all together.
        let parts = (2 * count).max(4);
        let largest = crate::queue::pool::blocks_for(self.config.limit.packet_bytes);
        let own_slots = match bridge.max_bytes {
            Some(bytes) => crate::queue::slots_for(bytes),
            None => percent(slots, share) / count,
        };
        Params {
            name: text(&bridge.name),
            key: format!("b:{}", bridge.name),
            rules: rules.hashes().to_vec(),
            counts_rules: rules.forward.iter().any(|rule| rule.max_messages.is_some()),
            rule_quotas: rules.forward.iter().map(quota_of).collect(),
            persistent: true,
            session: false,
            journal: self.queue.has_store() && self.queue.is_safe(),
            queue_qos0: bridge.queue_qos0,
            overflow: bridge.overflow,
            messages_max: bridge.max_messages.unwrap_or(u64::MAX),
            bytes_max: bridge.max_bytes.unwrap_or(u64::MAX),
            slots_max: own_slots,
            blocks_ceiling: (self.queue.pool.block_count() / parts).max(largest),
            records_ceiling: (self.queue.pool.record_count() / parts).max(1),
            window: bridge.max_inflight,
        }
    }

    /// Where messages go that a remote will never take.
    fn open_quarantine(&mut self) {
        let params = Params {
            name: text("quarantine"),
            key: "q:".to_string(),
            persistent: true,
            messages_max: if self.queue.has_store() { u64::MAX } else { 16 },
            bytes_max: u64::MAX,
            slots_max: (self.queue.slot_count() / 16).max(1),
            ..self.session_params(0, "", 1)
        };
        self.queue.open(self.queue.aside(), params);
    }

    pub(super) fn session_params(&self, _session: u16, client_id: &str, window: u16) -> Params {
        Params {
            name: text(client_id),
            key: format!("s:{client_id}"),
            rules: Vec::new(),
            counts_rules: false,
            rule_quotas: Vec::new(),
            persistent: false,
            session: true,
            journal: false,
            queue_qos0: false,
            overflow: Overflow::DropOldest,
            messages_max: u64::from(self.config.session_max_messages),
            bytes_max: self.config.session_max_bytes,
            slots_max: self.queue.slot_count(),
            blocks_ceiling: self.queue.pool.block_count() / 4,
            records_ceiling: self.queue.pool.record_count() / 4,
            window,
        }
    }
}

fn quota_of(rule: &Forward) -> Option<RuleQuota> {
    let messages = u64::from(rule.max_messages?);
    Some(RuleQuota { name: rule.name.clone(), messages })
}

/// Room for the CONNECT of a bridge.
pub(super) fn connect_bytes(bridge: &Bridge) -> usize {
    let will = bridge.will.as_ref().map_or(0, |will| will.topic.len() + will.payload.len());
    let secrets = bridge.username.as_ref().map_or(0, String::len)
        + bridge.password.as_ref().map_or(0, Vec::len);
    let filters: usize =
        bridge.subscribe.iter().map(|rule| rule.remote_topic.len() + 16).max().unwrap_or(0);
    let notify = bridge.notify_topic.as_ref().map_or(0, String::len);
    1024 + will + secrets + filters + notify
}

/// Room for the head of any PUBLISH that goes out, and for the properties of nearly all that come
/// in: who brings more gets memory for as long as its packet is looked at.
pub(super) const SCRATCH_BYTES: usize = HEAD_BYTES_MAX;

/// Memory that is there only while one message is looked at: properties that the scratch has no
/// room for, or a retained message on its way to the store.
pub(super) fn passing_bytes(limit: &Limits) -> usize {
    let properties = match limit.packet_bytes {
        bytes if bytes <= SCRATCH_BYTES => 0,
        bytes => bytes.min(PROPERTIES_BYTES_MAX + HOP_BYTES_MAX),
    };
    properties.max(limit.packet_bytes.min(limit.retained_bytes))
}

/// So many percent of `count`.
fn percent(count: u32, percent: u32) -> u32 {
    fit(u64::from(count) * u64::from(percent) / 100, "slots")
}

/// What is allocated for the queue of a bridge whose remote may have so many QoS 2 messages
/// unreleased towards us.
pub(super) fn box_setup(bridge: &Bridge, received: u16) -> BoxSetup {
    BoxSetup {
        streams: Rules::stream_count(bridge),
        window: bridge.max_inflight,
        conflating_rules: bridge.forward.iter().filter(|rule| rule.conflate).count(),
        session: false,
        receive_ids: received,
    }
}

pub(super) fn setup(config: &Config, slot_count: u32) -> Setup {
    let received = super::inbound_window(config);
    let vacant = config.bridge_room() - config.bridges.len();
    let vacant = core::iter::repeat_n(Bridge::vacant(), vacant)
        .map(|bridge| BoxSetup { streams: STREAMS_MAX, ..box_setup(&bridge, received) });
    let bridges = config.bridges.iter().map(|bridge| box_setup(bridge, received)).chain(vacant);
    let window = config.limit.inflight;
    let session =
        BoxSetup { streams: 1, window, conflating_rules: 0, session: true, receive_ids: window };
    let aside = BoxSetup { window: 1, receive_ids: 0, ..session };
    let boxes = bridges
        .chain(core::iter::repeat_n(session, usize::from(config.limit.sessions)))
        .chain([aside])
        .collect();
    let stored = config.store.path.is_some() && slot_count > 0;
    let links = fit::<u16, _>(config.bridge_room() * 2, "links");
    Setup {
        messages: config.ring_messages,
        bytes: config.ring_bytes,
        boxes,
        slot_count: if stored { slot_count } else { 0 },
        session_slots_max: percent(slot_count, u32::from(config.store.sessions_share)),
        safe: stored && config.ack == crate::config::Ack::Safe,
        stored,
        flush_after: config.store.flush_after,
        connections: config.limit.clients.saturating_add(REFUSAL_CONNECTIONS).saturating_add(links),
        receive_ids: RECEIVE_IDS_IN_COMMON,
        topic_bytes: config.limit.topic_bytes,
    }
}
