//! Acknowledgements that are owed leave in the order of their PUBLISHes, and none before it is true
//! [MQTT-4.6.0].

use super::conn::Debts;
use super::reasons::{Reader, encode};
use crate::mqtt::props::Properties;
use crate::mqtt::{Ack, Packet};
use crate::planted::{Bug, planted};
use crate::queue::Queue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Puback,
    Pubrec,
    Pubcomp,
}

/// Writes the acknowledgements that are true, in order, until one is not or there is no room.
pub(super) fn pay(
    debts: &mut Debts,
    kind: Kind,
    reader: Reader,
    queue: &Queue,
    commits: u64,
    out: &mut [u8],
) -> usize {
    let mut at = 0;
    while let Some(debt) = debts.front() {
        let settled = debt.record.is_none_or(|record| queue.pool.is_settled(record));
        let durable =
            debt.owner.is_none_or(|owner| queue.recv.is_durable(owner.0, debt.packet_id.raw()));
        let is_true = settled && durable && commits >= debt.after;
        if !(is_true || planted(Bug::AcknowledgeBeforeCommit)) || out.len() - at < 8 {
            break;
        }
        let ack =
            Ack { packet_id: debt.packet_id, reason: debt.reason, properties: Properties::EMPTY };
        let packet = match kind {
            Kind::Puback => Packet::Puback(ack),
            Kind::Pubrec => Packet::Pubrec(ack),
            Kind::Pubcomp => Packet::Pubcomp(ack),
        };
        // Eight bytes are room for an acknowledgement without properties.
        at += encode(reader, &packet, &mut out[at..]).unwrap_or(0);
        debts.pop();
    }
    at
}
