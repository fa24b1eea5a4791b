//! A message of QoS 2 arrives once at every destination that gets it at QoS 2. More often only
//! after an event the contract names: its sender or its destination lost their session, the store
//! was lost. Such an event is worth one window of duplicates.

use super::{destinations, name, qos_at};
use crate::ledger::Dest;
use crate::world::World;

pub fn check(world: &mut World) {
    for dest in destinations(&world.plan) {
        let mut extra = 0;
        let doubts: Vec<_> =
            world.ledger.doubts.iter().filter(|doubt| doubt.dest == dest).copied().collect();
        let most: u32 = doubts.iter().map(|doubt| doubt.window).sum();
        let events = u32::try_from(doubts.len()).unwrap();
        for (id, count) in world.ledger.counts(dest) {
            let Some(qos) = qos_at(&world.plan, dest, &world.ledger, id) else {
                let text = format!("{dest:?} ({}) got {id}", name(&world.plan, dest));
                world.ledger.violate("invented", text);
                continue;
            };
            let qos = qos.min(world.ledger.message(id).qos);
            // The ledger's word: sent again under a new identifier, by its own sender.
            let sent = 1 + world.ledger.message(id).republished;
            if qos < 2 || world.ledger.store_lost || count <= sent || is_clean(world, dest) {
                continue;
            }
            extra += count - sent;
            // Each copy may come again.
            if count > sent + sent * events {
                let text = format!(
                    "{dest:?} ({}) got {id} {count} times, of which {events} are excused: {:?}",
                    name(&world.plan, dest),
                    world.ledger.message(id)
                );
                world.ledger.violate("exactly_once", text);
            }
        }
        if extra > most {
            let text = format!("{extra} duplicates at {dest:?}, {most} are excused");
            world.ledger.violate("exactly_once", text);
        }
    }
}

/// A clean session ends with its connection: what it gets in the next is another one's.
fn is_clean(world: &World, dest: Dest) -> bool {
    match dest {
        Dest::Session(client) => world.plan.clients[client].clean,
        Dest::Bridge(_) => false,
    }
}
