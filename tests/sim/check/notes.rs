//! What began in the log is over in the log once everything is drained: no destination spills or
//! blocks, every bridge is up.

use crate::watch::Pair;
use crate::world::World;

pub fn check(world: &mut World) {
    let open: Vec<(Pair, String)> = world.watch.open.keys().cloned().collect();
    for (pair, name) in open {
        if pair != Pair::Bridge && name != "quarantine" && !name.starts_with("foe") {
            world.ledger.violate("notes", format!("{pair:?} of {name} never ends"));
        }
    }
}
