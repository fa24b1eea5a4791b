//! An accepted message of QoS 1 or 2 has arrived at every bridge and persistent session that must
//! have it, or the log has counted it as given up. Where nothing is sent twice and nobody dies the
//! count is exact. What is conflated is worth its newest message.

use super::{destinations, is_due, name, qos_at};
use crate::ledger::{Dest, Ledger, Message};
use crate::net::NEVER;
use crate::plan::Family;
use crate::world::World;

pub fn check(world: &mut World) {
    if world.ledger.store_lost {
        return;
    }
    for dest in destinations(&world.plan) {
        let counts = world.ledger.counts(dest);
        let messages = 0..u32::try_from(world.ledger.messages.len()).unwrap();
        let missing: Vec<u32> = messages
            .filter(|id| world.ledger.message(*id).accepted)
            .filter(|id| !counts.contains_key(id))
            .filter(|id| is_due(&world.plan, dest, &world.ledger, *id))
            .filter(|id| !is_replaced(world, dest, *id))
            .filter(|id| !is_turned_away(world, dest, *id))
            .collect();
        let mut given = world.ledger.given_up(name(&world.plan, dest), world.plan.drops);
        if matches!(dest, Dest::Session(_)) && !world.plan.drops.contains(&"queue_full") {
            // A session never holds anybody up, whatever the disk does.
            given += world.ledger.given_up(name(&world.plan, dest), &["queue_full"]);
        }
        // Which of them, `refusals` looks at.
        let aside: &[&str] = match world.plan.family {
            Family::Refusing => &["remote_closes", "never_acknowledged"],
            _ => &[],
        };
        given += world.ledger.given_up(name(&world.plan, dest), aside);
        let lost = missing.len() as u64;
        // Of what was dropped some may have arrived before: then nothing is missing.
        let exact = world.plan.exact && !matches!(dest, Dest::Session(_));
        // At QoS 0 some are counted and some are not: as room is short, or the link down.
        let never = never_arrived(world, dest, |qos, message| {
            qos > 0 && (message.accepted || message.refused)
        });
        if exact && !(never..=never_arrived(world, dest, |_, _| true)).contains(&given) {
            let text = format!("{never} never arrived at {dest:?}, {given} were counted");
            world.ledger.violate("at_least_once", text);
        }
        if lost > given {
            let first: Vec<&u32> = missing.iter().take(5).collect();
            let text = format!(
                "{lost} accepted messages are missing at {dest:?} ({}), {given} were given up; {}",
                name(&world.plan, dest),
                tell(&world.ledger, &first),
            );
            world.ledger.violate("at_least_once", text);
        }
    }
}

/// Every such message that was sent and did not arrive. One that was not answered is its sender's,
/// who may have been held up until it gave up.
fn never_arrived(world: &World, dest: Dest, such: fn(u8, &Message) -> bool) -> u64 {
    let counts = world.ledger.counts(dest);
    let messages = 0..u32::try_from(world.ledger.messages.len()).unwrap();
    let sent = messages.filter(|id| world.ledger.message(*id).first_sent != NEVER);
    let due = sent.filter(|id| {
        let qos = qos_at(&world.plan, dest, &world.ledger, *id);
        qos.is_some_and(|qos| such(qos, world.ledger.message(*id)))
    });
    due.filter(|id| !counts.contains_key(id)).count() as u64
}

fn tell(ledger: &Ledger, ids: &[&u32]) -> String {
    let one = |id: &&u32| format!("{id} {:?}", ledger.message(**id));
    ids.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A message of its topic that came later went to the same rule, which keeps only the newest. Which
/// of two was later nobody knows who saw them sent.
fn is_replaced(world: &World, dest: Dest, id: u32) -> bool {
    let Dest::Bridge(bridge) = dest else { return false };
    let message = world.ledger.message(id);
    let deaths = world.ledger.deaths.iter();
    let death = deaths.copied().find(|at| *at > message.accepted_at).unwrap_or(NEVER);
    let conflates = world.plan.rule(bridge, &message.topic).is_some_and(|rule| rule.conflate);
    conflates
        && world.ledger.deliveries.get(&dest).into_iter().flatten().any(|delivery| {
            let other = world.ledger.message(delivery.id);
            delivery.id != id
                && other.topic == message.topic
                // It may have been longer on its way.
                && other.accepted_at > message.first_sent
                && other.first_sent < death
        })
}

/// The remote refused it for good, and the log says it is kept aside.
fn is_turned_away(world: &World, dest: Dest, id: u32) -> bool {
    let Dest::Bridge(bridge) = dest else { return false };
    world.ledger.turned_away.contains_key(&(bridge, id))
}
