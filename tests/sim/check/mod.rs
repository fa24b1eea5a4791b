//! The checkers: what the contract promises, asked of the ledger when everything is drained. A
//! file each.

mod at_least_once;
mod exactly_once;
pub mod fairness;
mod notes;
mod order;
mod refusals;

use crate::ledger::{Dest, Ledger};
use crate::net::NEVER;
use crate::plan::Plan;
use crate::world::World;
use spillway::mqtt::topic;

pub use refusals::has_all_it_takes;

/// All of them.
pub fn all(world: &mut World) {
    at_least_once::check(world);
    exactly_once::check(world);
    order::check(world);
    notes::check(world);
    refusals::check(world);
    fairness::check(world);
}

/// Every destination there is.
fn destinations(plan: &Plan) -> Vec<Dest> {
    let bridges = (0..plan.bridges.len()).map(Dest::Bridge);
    bridges.chain((0..plan.clients.len()).map(Dest::Session)).collect()
}

/// The QoS a message has at a destination that wants it; `None` when it must not arrive.
fn qos_at(plan: &Plan, dest: Dest, ledger: &Ledger, id: u32) -> Option<u8> {
    let message = ledger.message(id);
    match dest {
        Dest::Bridge(bridge) => {
            let own = match message.sender {
                crate::ledger::Sender::Remote(remote) => {
                    plan.bridges[bridge].servers.contains(&remote)
                }
                crate::ledger::Sender::Client(_) => false,
            };
            let wanted = !own && plan.rule(bridge, &message.topic).is_some();
            wanted.then(|| plan.qos_at(bridge, &message.topic, message.qos))
        }
        Dest::Session(client) => plan.clients[client]
            .filters
            .iter()
            .filter(|(filter, _)| topic::matches(filter, &message.topic))
            .map(|(_, qos)| *qos)
            .max()
            .map(|qos| qos.min(message.qos)),
    }
}

/// Must this destination have got the message, if it was accepted?
fn is_due(plan: &Plan, dest: Dest, ledger: &Ledger, id: u32) -> bool {
    let message = ledger.message(id);
    match dest {
        Dest::Bridge(_) => qos_at(plan, dest, ledger, id).is_some_and(|qos| qos > 0),
        Dest::Session(client) => ledger.subscriptions.iter().any(|subscription| {
            subscription.client == client
                && subscription.persistent
                && subscription.qos.min(message.qos) > 0
                && subscription.firm_at < message.first_sent
                && message.first_sent != NEVER
                && subscription.ended_at == NEVER
                && topic::matches(&subscription.filter, &message.topic)
        }),
    }
}

/// As the log calls it.
fn name(plan: &Plan, dest: Dest) -> &str {
    match dest {
        Dest::Bridge(bridge) => &plan.bridges[bridge].name,
        Dest::Session(client) => &plan.clients[client].name,
    }
}
