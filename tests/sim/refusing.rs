//! Remotes that refuse: what they do not like among the messages and what they do about it, and the
//! spells in which they refuse whatever comes. Decides; `remote` does it.

use crate::ledger::Ledger;
use spillway::mqtt::Packet;
use spillway::vocab::Rng;

/// What a remote does instead of taking a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Closes, with DISCONNECT and this code if it can say so; `reset` with RST.
    Closes { code: Option<u8>, reset: bool },
    /// Takes it and closes before anybody hears of that.
    TakesAndCloses,
    /// Says nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spell {
    /// At every PUBLISH.
    Publish(Does),
    /// At SUBSCRIBE.
    Subscribe(Does),
}

#[derive(Clone, Debug)]
pub struct Picky {
    /// Topics with `bad` in them are bad.
    by_topic: bool,
    /// So is one of so many messages; 0 = none.
    one_of: u32,
    does: Does,
    /// One of so many identifiers of QoS 2 is in use already; 0 = none.
    pub in_use_in: u64,
    /// It answers what it has already with 0x91.
    pub says_in_use: bool,
}

const CODES: [u8; 6] = [0x80, 0x81, 0x82, 0x83, 0x90, 0x95];

fn closes(rng: &mut Rng) -> Does {
    let code = CODES[crate::client::pick(rng, CODES.len())];
    let code = Some(code).filter(|_| rng.below(2) == 0);
    Does::Closes { code, reset: rng.below(3) == 0 }
}

impl Picky {
    pub const NOT: Self =
        Self { by_topic: false, one_of: 0, does: Does::Nothing, in_use_in: 0, says_in_use: false };

    pub fn of(rng: &mut Rng) -> Self {
        Self {
            by_topic: rng.below(3) == 0,
            one_of: [0, 40, 97][crate::client::pick(rng, 3)],
            does: if rng.below(5) == 0 { Does::Nothing } else { closes(rng) },
            in_use_in: [0, 10][crate::client::pick(rng, 2)],
            says_in_use: rng.below(2) == 0,
        }
    }

    pub fn dislikes(&self, id: u32, topic: &str) -> bool {
        self.by_topic && topic.contains("bad") || self.one_of > 0 && id % self.one_of == 7
    }

    /// What it does to this packet, if not what any server does; and the message it does not like.
    pub fn to(
        &self,
        packet: &Packet<'_>,
        spell: Option<Spell>,
        ledger: &Ledger,
    ) -> Option<(Does, Option<u32>)> {
        match (packet, spell) {
            (Packet::Subscribe(_), Some(Spell::Subscribe(does))) => Some((does, None)),
            (Packet::Publish(publish), spell) => {
                let id = ledger.identify(publish.payload);
                let bad = id.filter(|id| self.dislikes(*id, publish.topic));
                match (spell, bad) {
                    (Some(Spell::Publish(does)), _) => Some((does, None)),
                    (_, Some(id)) => Some((self.does, Some(id))),
                    (_, None) => None,
                }
            }
            _ => None,
        }
    }
}

/// What a spell is like.
pub fn spell(rng: &mut Rng) -> Spell {
    let does = match rng.below(6) {
        0 => Does::TakesAndCloses,
        1 => Does::Nothing,
        2 => Does::Closes { code: Some(0x97), reset: false },
        _ => closes(rng),
    };
    match (rng.below(3), does) {
        (0, Does::Closes { .. }) => Spell::Subscribe(does),
        _ => Spell::Publish(does),
    }
}
