//! What is acknowledged and goes no further. Among it a PUBLISH that is larger than
//! `limit.packet_size`, from a remote that could not be told: taken off the stream as it comes,
//! acknowledged like any other, counted `too_large`. The link stays up, or the remote would send it
//! again after every reconnect. Read MQTT 3.1.1 section 3.3 first.

use super::Gateway;
use super::conn::{Debt, Role};
use super::ends::{Bound, topic_of};
use super::kept::Refusal;
use super::receive::{Fatal, Step};
use crate::fit::wide;
use crate::limits::PROPERTIES_BYTES_MAX;
use crate::mqtt::{
    Fault, Frame, Malformed, PACKET_BYTES_MAX, PacketId, Publish, Qos, Reason, Version, frame,
};
use crate::note::text;

/// The first byte of a PUBLISH but for its flags.
const PUBLISH: u8 = 3;

/// What `buffer` begins with, as far as it has to be known to swallow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Oversized {
    packet_bytes: usize,
    qos: Qos,
    packet_id: Option<PacketId>,
}

/// Up to where a PUBLISH has to be here before it can be swallowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    At(Oversized),
    /// So many bytes say enough.
    Needs(usize),
}

pub(super) enum Swallowed {
    /// So many bytes of the buffer belong to it.
    Taken(usize),
    /// It has to be presented again with so many bytes.
    Incomplete(usize),
    /// It has to be presented again: so many acknowledgements are owed.
    Later,
}

impl Gateway {
    /// Acknowledges a message without passing it on; counted.
    pub(super) fn swallow(
        &mut self,
        slot: u16,
        publish: &Publish<'_>,
        reason: &'static str,
    ) -> Step {
        self.swallow_as(slot, publish, reason, Reason::SUCCESS)
    }

    /// The same with a reason for the publisher, which MQTT 5 knows how to say.
    pub(super) fn swallow_as(
        &mut self,
        slot: u16,
        publish: &Publish<'_>,
        reason: &'static str,
        said: Reason,
    ) -> Step {
        if let Some(packet_id) = publish.packet_id
            && !self.acknowledge_refusal(slot, packet_id, publish.qos, said)
        {
            let link = matches!(self.conn(slot).role, Role::Link { .. });
            return if link { Step::Stall } else { Step::Park };
        }
        let limit = self.config.limit.topic_bytes;
        let bytes = publish.topic.len();
        let bound = match reason {
            "topic_too_long" if bytes > limit => Some(Bound {
                size: Some(wide(bytes)),
                limit: Some(wide(limit)),
                key: "limit.topic_bytes",
            }),
            "properties_too_large" => {
                let size = Some(wide(publish.properties.as_bytes().len()));
                Some(Bound { size, limit: Some(wide(PROPERTIES_BYTES_MAX)), key: "" })
            }
            "unreleased" => {
                let limit = u64::from(self.config.limit.inflight);
                Some(Bound { size: None, limit: Some(limit), key: "limit.inflight" })
            }
            _ => None,
        };
        self.note_lost(reason, "local", self.name_of(slot), bound, Some(text(publish.topic)));
        Step::Done
    }

    /// Owes the acknowledgement of a message that goes nowhere. `false`: there is no room for that.
    fn acknowledge_refusal(
        &mut self,
        slot: u16,
        packet_id: PacketId,
        qos: Qos,
        reason: Reason,
    ) -> bool {
        match self.keep_refusal(slot, packet_id, qos, reason) {
            Refusal::InTurn => return true,
            Refusal::Later => return false,
            Refusal::Now => {}
        }
        let conn = self.conn_mut(slot);
        let exactly_once = qos == Qos::ExactlyOnce;
        let debts = if exactly_once { &mut conn.pubrecs } else { &mut conn.pubacks };
        if debts.is_full() {
            return false;
        }
        debts.push(Debt { packet_id, reason, record: None, after: 0, owner: None });
        self.ready.set(slot);
        true
    }

    /// A packet that does not fit: swallowed when it is a PUBLISH of a remote before MQTT 5, else
    /// the end of the connection.
    pub(super) fn swallow_oversized(
        &mut self,
        slot: u16,
        buffer: &[u8],
        fault: Malformed,
    ) -> Result<Swallowed, Fatal> {
        let Role::Link { bridge } = self.conn(slot).role else {
            return Err(self.too_large(fault, buffer));
        };
        let told = self.conn(slot).version == Version::V5;
        let publish = buffer.first().is_some_and(|first| first >> 4 == PUBLISH);
        if fault.fault != Fault::TooLarge || told || !publish || !self.link_is_up(bridge, slot) {
            return Err(self.too_large(fault, buffer));
        }
        let found = match look(buffer)? {
            Looked::Needs(bytes) if bytes <= self.config.limit.packet_bytes => {
                return Ok(Swallowed::Incomplete(bytes));
            }
            // A topic that nobody could take either.
            Looked::Needs(_) => return Err(self.too_large(fault, buffer)),
            Looked::At(found) => found,
        };
        if let Some(packet_id) = found.packet_id
            && !self.acknowledge_refusal(slot, packet_id, found.qos, Reason::SUCCESS)
        {
            return Ok(Swallowed::Later);
        }
        let here = found.packet_bytes.min(buffer.len());
        self.conn_mut(slot).swallow_left = found.packet_bytes - here;
        let fatal = self.too_large(fault, buffer);
        let topic = topic_of(buffer, self.conn(slot).version);
        self.note_lost("too_large", "local", self.name_of(slot), fatal.bound, topic);
        Ok(Swallowed::Taken(here))
    }

    /// Takes what belongs to a packet that is being swallowed off `buffer`, behind `parked` bytes;
    /// how many bytes are left in it.
    pub(super) fn swallow_rest(&mut self, slot: u16, buffer: &mut [u8], parked: usize) -> usize {
        let conn = self.conn_mut(slot);
        let here = conn.swallow_left.min(buffer.len() - parked);
        conn.swallow_left -= here;
        if here > 0 {
            buffer.copy_within(parked + here.., parked);
        }
        buffer.len() - here
    }
}

/// Reads the fixed header and the packet identifier of a PUBLISH of any size.
fn look(buffer: &[u8]) -> Result<Looked, Malformed> {
    let packet_bytes = match frame(buffer, PACKET_BYTES_MAX)? {
        Frame::Complete { packet_bytes } => packet_bytes,
        Frame::Incomplete { packet_bytes: Some(packet_bytes) } => packet_bytes,
        // `frame` knew the size a moment ago.
        Frame::Incomplete { packet_bytes: None } => return Ok(Looked::Needs(5)),
    };
    let qos = Qos::from_u8(buffer[0] >> 1 & 3).ok_or(Fault::QosInvalid)?;
    if qos == Qos::AtMostOnce {
        return Ok(Looked::At(Oversized { packet_bytes, qos, packet_id: None }));
    }
    let length_bytes = buffer[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let topic_at = 1 + length_bytes + 2;
    let Some(topic) = buffer.get(topic_at - 2..topic_at) else {
        return Ok(Looked::Needs(topic_at));
    };
    let id_at = topic_at + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
    if id_at + 2 > packet_bytes {
        return Err(Fault::Truncated.into());
    }
    let Some(id) = buffer.get(id_at..id_at + 2) else { return Ok(Looked::Needs(id_at + 2)) };
    let packet_id = PacketId::new(u16::from_be_bytes([id[0], id[1]]));
    if packet_id.is_none() {
        return Err(Fault::PacketIdZero.into()); // [MQTT-2.3.1-1]
    }
    Ok(Looked::At(Oversized { packet_bytes, qos, packet_id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PUBLISH at QoS 1, topic `t/a`, packet id 7, 300 bytes in all.
    fn publish(first: u8) -> Vec<u8> {
        let mut packet = vec![first, 0xA9, 0x02, 0, 3, b't', b'/', b'a', 0, 7];
        packet.resize(300, b'x');
        packet
    }

    #[test]
    fn the_identifier_is_found_as_soon_as_it_is_here_and_not_before() {
        let packet = publish(0x32);
        for len in 3..5 {
            assert_eq!(look(&packet[..len]), Ok(Looked::Needs(5)));
        }
        for len in 5..10 {
            assert_eq!(look(&packet[..len]), Ok(Looked::Needs(10)));
        }
        let id = PacketId::new(7);
        let found = Oversized { packet_bytes: 300, qos: Qos::AtLeastOnce, packet_id: id };
        for len in [10, 11, 299, 300] {
            assert_eq!(look(&packet[..len]), Ok(Looked::At(found)));
        }
        let zero = Oversized { packet_bytes: 300, qos: Qos::AtMostOnce, packet_id: None };
        assert_eq!(look(&publish(0x30)[..3]), Ok(Looked::At(zero)));
    }

    #[test]
    fn what_is_no_publish_after_all_is_refused() {
        let mut packet = publish(0x34);
        packet[8..10].fill(0);
        assert_eq!(look(&packet), Err(Fault::PacketIdZero.into()));
        // A topic that is longer than the packet.
        packet[3] = 2;
        assert_eq!(look(&packet), Err(Fault::Truncated.into()));
        assert!(look(&publish(0x36)).is_err());
    }
}
