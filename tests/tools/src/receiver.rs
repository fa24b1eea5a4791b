//! The receiving half of a connection, the same for the sink and the subscriber: judges PUBLISH
//! packets and owes their acknowledgements.

use crate::bits::Bits;
use crate::tally::Tally;
use crate::wire::{self, Frame, Malformed};

/// What of a session outlives its connection.
#[derive(Default)]
pub struct Session {
    /// QoS 2 ids received and not yet released.
    received: Bits,
}

impl Session {
    /// QoS 2 exchanges that an earlier connection has begun.
    pub fn begun(&self) -> u64 {
        self.received.count()
    }
}

/// Acknowledgements owed for what was read in one go.
#[derive(Default)]
pub struct Owed {
    pub bytes: Vec<u8>,
    /// Messages whose exchange ends with these bytes.
    pub completed: u32,
    /// Messages whose exchange has begun with what was read.
    pub begun: u32,
    pub resent: u64,
}

/// Handles PUBLISH and PUBREL; false for any other packet.
pub fn receive(
    now: u64,
    frame: &Frame<'_>,
    version: u8,
    session: &mut Session,
    tally: &mut Tally,
    owed: &mut Owed,
) -> Result<bool, Malformed> {
    match frame.kind {
        wire::PUBLISH => {
            let publish = wire::publish(frame, version)?;
            owed.resent += u64::from(publish.dup);
            match publish.qos {
                0 => tally.receive(now, publish.topic, publish.payload),
                1 => {
                    tally.receive(now, publish.topic, publish.payload);
                    wire::put_ack(&mut owed.bytes, wire::PUBACK, publish.id);
                    owed.begun += 1;
                    owed.completed += 1;
                }
                _ => {
                    if session.received.insert(u64::from(publish.id)) {
                        tally.receive(now, publish.topic, publish.payload);
                        owed.begun += 1;
                    }
                    wire::put_ack(&mut owed.bytes, wire::PUBREC, publish.id);
                }
            }
        }
        wire::PUBREL => {
            let (id, _) = wire::ack(frame.body)?;
            if session.received.contains(u64::from(id)) {
                session.received.remove(u64::from(id));
                owed.completed += 1;
            }
            wire::put_ack(&mut owed.bytes, wire::PUBCOMP, id);
        }
        _ => return Ok(false),
    }
    Ok(true)
}
