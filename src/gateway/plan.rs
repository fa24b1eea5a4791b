//! Where one message goes: collected before anything changes, so that a refused publish leaves no
//! trace.

use crate::broker::subs::Turn;
use crate::fit::fit;
use crate::mqtt::Qos;
use crate::queue::DropReason;
use crate::queue::outbox::DestId;
use crate::queue::trim::Scope;

#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub dest: DestId,
    pub qos: Qos,
    pub retain: bool,
    pub stream: u8,
    pub rule: u8,
    pub conflate: bool,
    /// The publisher waits for it.
    pub hold: bool,
}

/// What a destination loses when the message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The message itself, counted.
    Newest(DropReason),
    /// The same by the quota of its rule.
    NewestOfRule(u8),
    /// The oldest one that is not in flight.
    Oldest(Scope),
}

/// Targets of the message at hand; its memory is reused.
pub struct Plan {
    pub targets: Vec<Target>,
    pub losses: Vec<(DestId, Loss)>,
    /// Members of groups that were chosen.
    pub turns: Vec<Turn>,
    /// A QoS 0 burst: everything is to be tried again in the next turn.
    pub wait: bool,
    /// There is room for it: nobody makes it wait, nor is anything dropped for its sake that was
    /// accepted and cannot be on the disk.
    pub surely: bool,
    /// It is one more copy of a message that is counted already.
    pub further: bool,
    /// By destination: the target it has in this epoch.
    seen: Box<[(u32, u16)]>,
    epoch: u32,
}

impl Plan {
    /// Room for so many destinations and as many groups as there may be subscriptions.
    pub fn new(destinations: usize, groups: usize) -> Self {
        Self {
            targets: Vec::with_capacity(destinations + groups),
            losses: Vec::with_capacity(destinations + groups),
            turns: Vec::with_capacity(groups),
            wait: false,
            surely: false,
            further: false,
            seen: vec![(0, 0); destinations].into_boxed_slice(),
            epoch: 0,
        }
    }

    /// What `new` allocates.
    pub fn planned_bytes(destinations: usize, groups: usize) -> usize {
        (destinations + groups) * (size_of::<Target>() + size_of::<(DestId, Loss)>())
            + destinations * size_of::<(u32, u16)>()
            + groups * size_of::<Turn>()
    }

    /// Begins the next message.
    pub fn begin(&mut self) {
        self.targets.clear();
        self.losses.clear();
        self.turns.clear();
        self.wait = false;
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.seen.fill((0, 0));
            self.epoch = 1;
        }
    }

    /// Notes what a destination loses; at most one thing a target.
    pub fn lose(&mut self, dest: DestId, loss: Loss) {
        self.losses.push((dest, loss));
    }

    /// Adds a member of a group: it gets a message of its own by this way (4.8.2).
    pub fn add_shared(&mut self, turn: Turn, target: Target) {
        self.turns.push(turn);
        self.targets.push(target);
    }

    /// Adds a target; a destination that is there already gets the higher QoS [MQTT-3.3.5-1].
    pub fn add(&mut self, target: Target) {
        let seen = &mut self.seen[usize::from(target.dest.0)];
        if seen.0 == self.epoch {
            let known = &mut self.targets[usize::from(seen.1)];
            known.qos = known.qos.max(target.qos);
            known.retain |= target.retain;
            known.hold |= target.hold;
            return;
        }
        *seen = (self.epoch, fit(self.targets.len(), "destinations"));
        self.targets.push(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_subscriptions_give_one_target_at_the_highest_qos() {
        let mut plan = Plan::new(3, 0);
        let target = |dest, qos| Target {
            dest: DestId(dest),
            qos,
            retain: false,
            stream: 0,
            rule: 0,
            conflate: false,
            hold: false,
        };
        plan.begin();
        plan.add(target(2, Qos::AtMostOnce));
        plan.add(target(1, Qos::AtMostOnce));
        plan.add(target(2, Qos::ExactlyOnce));
        assert_eq!(plan.targets.len(), 2);
        assert_eq!(plan.targets[0].qos, Qos::ExactlyOnce);
        plan.begin();
        plan.add(target(2, Qos::AtLeastOnce));
        assert_eq!(plan.targets[0].qos, Qos::AtLeastOnce);
        // Four thousand million messages later nobody is taken for one who was there before.
        plan.epoch = u32::MAX;
        plan.seen[0] = (1, 5);
        plan.begin();
        plan.add(target(0, Qos::AtMostOnce));
        plan.add(target(0, Qos::AtLeastOnce));
        assert_eq!(plan.targets.len(), 1);
        assert_eq!(plan.targets[0].qos, Qos::AtLeastOnce);
    }
}
