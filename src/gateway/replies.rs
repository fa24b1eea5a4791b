//! One-off replies: encoded at once into the connection's small control buffer.

use super::Gateway;
use super::reasons::{encode, encode_because};
use super::receive::Step;
use crate::mqtt::props::{Properties, Property};
use crate::mqtt::{Ack, Disconnect, Packet, PacketId, Reason};

/// Encodes properties into `buffer`, which has room for them.
pub(super) fn properties<'a>(list: &[Property<'_>], buffer: &'a mut [u8]) -> Properties<'a> {
    // Numbers, and a client id of our own making: without them the peer would believe other limits.
    Properties::write(list, buffer).expect("callers give a buffer for what they write")
}

impl Gateway {
    /// Owes `packet`. [`Step::Stall`] when there is no room for it now.
    pub(super) fn reply(&mut self, slot: u16, packet: &Packet<'_>) -> Step {
        let conn = self.conn_mut(slot);
        let reader = conn.reader();
        let fits = conn.control(|out| encode(reader, packet, out).ok());
        self.counters.out_packets += u64::from(fits);
        self.ready.set(slot);
        if fits { Step::Done } else { Step::Stall }
    }

    /// The same for what is true only once the rows of sessions are committed again, if `durable`
    /// asks for that. `first`: the peer hears nothing before it.
    pub(super) fn reply_durable(
        &mut self,
        slot: u16,
        packet: &Packet<'_>,
        durable: bool,
        first: bool,
    ) -> Step {
        if !durable || !self.queue.is_safe() {
            return self.reply(slot, packet);
        }
        let after = self.rows_saved + 1;
        let conn = self.conn_mut(slot);
        let reader = conn.reader();
        let fits = conn.control_after(after, first, |out| encode(reader, packet, out).ok());
        self.counters.out_packets += u64::from(fits);
        self.ready.set(slot);
        if fits { Step::Done } else { Step::Stall }
    }

    /// DISCONNECT with a reason (MQTT 5); the caller closes.
    pub(super) fn say_goodbye(&mut self, slot: u16, reason: Reason) {
        self.say_goodbye_because(slot, reason, None);
    }

    /// The same with words for a reason that has none of its own.
    pub(super) fn say_goodbye_because(&mut self, slot: u16, reason: Reason, why: Option<&str>) {
        let packet = Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY });
        let conn = self.conn_mut(slot);
        let reader = conn.reader();
        // Without room the peer learns it from the close alone.
        let fits = conn.control(|out| encode_because(reader, &packet, why, out).ok());
        self.counters.out_packets += u64::from(fits);
        self.ready.set(slot);
    }

    /// PUBREL for an exchange that is over here. [`Step::Stall`]: not now, and the PUBREC has to
    /// wait with it, for a peer that never hears it takes the next message with this identifier for
    /// the one it has [MQTT-4.3.3].
    pub(super) fn release_unknown(&mut self, slot: u16, packet_id: PacketId) -> Step {
        let reason = match self.conn(slot).version {
            crate::mqtt::Version::V5 => Reason::PACKET_ID_NOT_FOUND,
            crate::mqtt::Version::V31 | crate::mqtt::Version::V311 => Reason::SUCCESS,
        };
        self.reply(slot, &Packet::Pubrel(Ack::new(packet_id, reason)))
    }
}
