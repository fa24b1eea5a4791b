//! Messages of one sender, topic and QoS arrive first in the order they were sent in
//! [MQTT-4.6.0-6].

use super::{destinations, name, qos_at};
use crate::ledger::{Dest, Sender};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};

pub fn check(world: &mut World) {
    if world.ledger.store_lost {
        return;
    }
    for dest in destinations(&world.plan) {
        let mut newest: BTreeMap<(Sender, String, u8), u32> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let deliveries = world.ledger.deliveries.get(&dest).cloned().unwrap_or_default();
        for delivery in deliveries {
            if !seen.insert(delivery.id) || is_held(world, dest, delivery.id) {
                continue;
            }
            let message = world.ledger.message(delivery.id);
            let qos = qos_at(&world.plan, dest, &world.ledger, delivery.id).unwrap_or(0);
            let key = (message.sender, message.topic.clone(), qos);
            let before = newest.insert(key, delivery.id);
            if before.is_some_and(|before| before > delivery.id) {
                let text = format!(
                    "{dest:?} ({}) got {} after {before:?}: {message:?} at {}",
                    name(&world.plan, dest),
                    delivery.id,
                    delivery.at
                );
                world.ledger.violate("order", text);
                break;
            }
        }
    }
}

/// The remote refused it, so that it came later or not at all.
fn is_held(world: &World, dest: Dest, id: u32) -> bool {
    match dest {
        Dest::Bridge(bridge) => world.ledger.turned_away.contains_key(&(bridge, id)),
        Dest::Session(_) => false,
    }
}
