//! Of what was accepted for a remote that refuses nothing is missing but what it refused by itself
//! while it took others, and that is kept aside. In a spell in which it takes nothing at most one
//! message a bridge may go that way: one that waited alone.

use super::{destinations, is_due, name};
use crate::ledger::Dest;
use crate::plan::Family;
use crate::world::World;

/// Words with which a message is put aside.
const ASIDE: &[&str] = &[
    "remote_closes",
    "never_acknowledged",
    "not_authorized",
    "topic_name_invalid",
    "packet_too_large",
];

/// Accepted messages that have not arrived at a bridge: those it does not like, and the others.
fn missing(world: &World, bridge: usize) -> (usize, usize) {
    let dest = Dest::Bridge(bridge);
    let counts = world.ledger.counts(dest);
    let messages = 0..u32::try_from(world.ledger.messages.len()).unwrap();
    let missing = messages
        .filter(|id| world.ledger.message(*id).accepted && !counts.contains_key(id))
        .filter(|id| is_due(&world.plan, dest, &world.ledger, *id));
    let away = |id: &u32| {
        let topic = world.ledger.message(*id).topic.as_str();
        let servers = &world.plan.bridges[bridge].servers;
        let mut pickies = servers.iter().map(|server| &world.plan.remotes[*server].picky);
        world.ledger.turned_away.contains_key(&(bridge, *id))
            || pickies.any(|picky| picky.dislikes(*id, topic))
    };
    let (bad, good): (Vec<u32>, Vec<u32>) = missing.partition(away);
    (bad.len(), good.len())
}

/// Every publisher is done, or may wait for room that is taken up by what a remote does not take;
/// and all that it takes has arrived.
pub fn has_all_it_takes(world: &World) -> bool {
    let done = world.clients.iter().all(|client| client.left == 0 && client.session.is_idle());
    let mut bridges = 0..world.plan.bridges.len();
    let full = bridges.clone().any(|bridge| missing(world, bridge).0 > 0);
    (done || full) && bridges.all(|bridge| missing(world, bridge).1 <= lonely(world))
}

/// Messages that may have been put aside with no other beside them.
fn lonely(world: &World) -> usize {
    usize::try_from(world.ledger.spells).unwrap() + world.ledger.deaths.len()
}

pub fn check(world: &mut World) {
    if world.plan.family != Family::Refusing {
        return;
    }
    for dest in destinations(&world.plan) {
        let Dest::Bridge(bridge) = dest else { continue };
        let (bad, good) = missing(world, bridge);
        let aside = world.ledger.given_up(name(&world.plan, dest), ASIDE);
        if u64::try_from(bad + good).unwrap() > aside || good > lonely(world) {
            let text = format!(
                "{good} good and {bad} bad ones are missing at bridge {bridge}; {aside} aside, {} \
                 spells",
                world.ledger.spells
            );
            world.ledger.violate("refusals", text);
        }
    }
}
