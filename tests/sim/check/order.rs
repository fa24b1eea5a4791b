//! Messages of one sender, topic and QoS arrive first in the order they were sent in
//! [MQTT-4.6.0-6]. The QoS is that of the sender: QoS 0 goes past what is parked for want of room,
//! whatever a rule makes of both. At QoS 0 that holds for one server: what is left in a connection
//! to another one may arrive at any time.

use super::{destinations, name, qos_at};
use crate::ledger::{Delivery, Dest, Sender};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};

/// Sender, topic, QoS there and here, server: what is in order.
type Sequence = (Sender, String, u8, u8, usize);

pub fn check(world: &mut World) {
    if world.ledger.store_lost {
        return;
    }
    for dest in destinations(&world.plan) {
        let mut newest: BTreeMap<Sequence, Delivery> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let deliveries = world.ledger.deliveries.get(&dest).cloned().unwrap_or_default();
        // In a spell one may be tried instead of the first of its topic, and be taken.
        let mut excused = world.ledger.spells;
        for delivery in deliveries {
            if !seen.insert(delivery.id) || is_held(world, dest, delivery.id) {
                continue;
            }
            let message = world.ledger.message(delivery.id);
            let qos = qos_at(&world.plan, dest, &world.ledger, delivery.id).unwrap_or(0);
            if message.sent_again && may_lack_first(world, dest, delivery.id, qos) {
                continue;
            }
            let server = if qos == 0 { delivery.server } else { 0 };
            let key = (message.sender, message.topic.clone(), message.qos, qos, server);
            let Some(before) = newest.insert(key, delivery) else { continue };
            // Where the row is lost that says what was dropped, it returns behind the window.
            let died = || {
                world.ledger.damaged > 0
                    || world.ledger.deaths.iter().any(|at| (before.at..delivery.at).contains(at))
            };
            if before.id > delivery.id && !(may_return(world, dest, delivery.id) && died()) {
                if excused > 0 {
                    excused -= 1;
                    continue;
                }
                let text = format!(
                    "{dest:?} ({}) got {} after {}: {message:?} at {}",
                    name(&world.plan, dest),
                    delivery.id,
                    before.id,
                    delivery.at
                );
                world.ledger.violate("order", text);
                break;
            }
        }
    }
}

/// May what arrives first have been sent again, after others had arrived? Where its first copy is
/// dropped, and counted, or replaced by a newer one, or damaged, or came before the subscription,
/// or went to a session that has ended.
fn may_lack_first(world: &World, dest: Dest, id: u32, qos: u8) -> bool {
    let clean = matches!(dest, Dest::Session(client) if world.plan.clients[client].clean);
    let first_sent = world.ledger.message(id).first_sent;
    let mut subscriptions = world.ledger.subscriptions.iter();
    let unknown = subscriptions.any(|subscription| {
        Dest::Session(subscription.client) == dest && subscription.since > first_sent
    });
    let lacks = qos == 0 || clean || unknown || conflates(world, dest, id);
    lacks || world.ledger.damaged > 0 || was_dropped(world, dest)
}

/// What was replaced by a message on the wire is what is left of both, if the power goes before
/// that one is durable or its acknowledgement is: as if it had been sent again. So is what was
/// dropped, and counted, and is still in the store.
fn may_return(world: &World, dest: Dest, id: u32) -> bool {
    was_dropped(world, dest) || conflates(world, dest, id) || was_released_unread(world, dest)
}

/// Of what was damaged on the wire only PUBREL is left to send. It does not wait for PUBREC of
/// those before it.
fn was_released_unread(world: &World, dest: Dest) -> bool {
    world.ledger.given_up(name(&world.plan, dest), &["corrupt"]) > 0
}

fn conflates(world: &World, dest: Dest, id: u32) -> bool {
    let Dest::Bridge(bridge) = dest else { return false };
    let rule = world.plan.rule(bridge, &world.ledger.message(id).topic);
    rule.is_some_and(|rule| rule.conflate)
}

fn was_dropped(world: &World, dest: Dest) -> bool {
    world.ledger.given_up(name(&world.plan, dest), &["queue_full", "expired"]) > 0
}

/// The remote refused it, so that it came later or not at all.
fn is_held(world: &World, dest: Dest, id: u32) -> bool {
    match dest {
        Dest::Bridge(bridge) => {
            let mut servers = world.plan.bridges[bridge].servers.iter();
            world.ledger.turned_away.contains_key(&(bridge, id))
                || servers.any(|server| world.ledger.put_off.contains(&(*server, id)))
        }
        Dest::Session(_) => false,
    }
}
