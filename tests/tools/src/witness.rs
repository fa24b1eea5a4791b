//! What a remote was sent and has acknowledged, overheard on the link to it: so that what a remote
//! acknowledges and then loses, or turns round, is told from what the gateway did.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::bits::Bits;
use crate::stamp::Stamp;
use crate::tally::Key;
use crate::wire;

/// Of one stream.
#[derive(Clone, Default)]
pub struct Heard {
    /// Numbers that the remote has acknowledged: PUBACK, or PUBREC at QoS 2.
    pub acknowledged: Bits,
    /// Numbers that were sent, or released at QoS 2, behind a later one, which so came first.
    pub overtaken: Bits,
    sent: Bits,
    /// One past the highest number that is acknowledged.
    end: u64,
}

pub type Streams = HashMap<Key, Heard>;

/// All of it, over all connections.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    streams: Streams,
    /// What the remote has at QoS 2, by identifier: what is left is to release it.
    received: HashMap<u16, Stamp>,
}

impl Witness {
    pub fn streams(&self) -> Streams {
        self.0.lock().expect("no holder panics").streams.clone()
    }

    pub fn connection(&self) -> Connection {
        Connection { all: self.clone(), ..Connection::default() }
    }
}

/// One connection; told of its bytes as they are read, in order.
#[derive(Default)]
pub struct Connection {
    all: Witness,
    /// What is not a whole packet yet, up and down.
    rest: [Vec<u8>; 2],
    version: u8,
    open: BTreeMap<u16, Stamp>,
    /// The highest number of each stream that was sent over it.
    sent: HashMap<Key, u64>,
    released: HashMap<Key, u64>,
    /// It is not MQTT: nothing more is said of it.
    deaf: bool,
}

impl Connection {
    /// `way`: 0 to the remote, 1 from it.
    pub fn hear(&mut self, way: usize, bytes: &[u8]) {
        if self.deaf {
            return;
        }
        let mut rest = std::mem::take(&mut self.rest[way]);
        rest.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            match wire::frame(&rest[at..]) {
                Ok(Some(frame)) => {
                    at += frame.bytes;
                    self.deaf |= self.packet(way, &frame).is_err();
                }
                Ok(None) => break,
                Err(_) => {
                    self.deaf = true;
                    return;
                }
            }
        }
        rest.drain(..at);
        self.rest[way] = rest;
    }

    fn packet(&mut self, way: usize, frame: &wire::Frame<'_>) -> Result<(), wire::Malformed> {
        match (way, frame.kind) {
            (0, wire::CONNECT) => {
                let mut fields = wire::Fields(frame.body);
                fields.text()?;
                // Its highest bit is that of a bridge.
                self.version = fields.u8()? & 0x7f;
            }
            (0, wire::PUBLISH) => {
                let publish = wire::publish(frame, self.version)?;
                let Some(stamp) = Stamp::read(publish.payload) else { return Ok(()) };
                self.sent(stamp);
                if publish.qos > 0 {
                    self.open.insert(publish.id, stamp);
                }
            }
            (0, wire::PUBREL) => self.released(wire::ack(frame.body)?.0),
            (1, wire::PUBACK | wire::PUBREC) => {
                let (id, reason) = wire::ack(frame.body)?;
                if let Some(stamp) = self.open.remove(&id).filter(|_| reason < 0x80) {
                    self.acknowledged(id, stamp);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn sent(&mut self, stamp: Stamp) {
        let mut all = self.all.0.lock().expect("no holder panics");
        let heard = all.streams.entry(key(stamp)).or_default();
        let highest = self.sent.entry(key(stamp)).or_insert(stamp.seq);
        let fresh = heard.sent.insert(stamp.seq);
        // In one connection the remote gets them as they are sent; over several it has for sure
        // what it has acknowledged.
        let late = stamp.seq < *highest || fresh && stamp.seq < heard.end;
        if late && !heard.acknowledged.contains(stamp.seq) {
            heard.overtaken.insert(stamp.seq);
        }
        *highest = (*highest).max(stamp.seq);
    }

    /// At QoS 2 this is when a remote passes it on.
    fn released(&mut self, id: u16) {
        let mut all = self.all.0.lock().expect("no holder panics");
        let Some(stamp) = all.received.get(&id).copied() else { return };
        let highest = self.released.entry(key(stamp)).or_insert(stamp.seq);
        if stamp.seq < *highest {
            all.streams.entry(key(stamp)).or_default().overtaken.insert(stamp.seq);
        }
        *highest = (*highest).max(stamp.seq);
    }

    fn acknowledged(&mut self, id: u16, stamp: Stamp) {
        let mut all = self.all.0.lock().expect("no holder panics");
        if stamp.qos == 2 {
            all.received.insert(id, stamp);
        }
        let heard = all.streams.entry(key(stamp)).or_default();
        heard.acknowledged.insert(stamp.seq);
        heard.end = heard.end.max(stamp.seq + 1);
    }
}

fn key(stamp: Stamp) -> Key {
    (stamp.run, stamp.publisher, stamp.stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(version: u8) -> Vec<u8> {
        let mut out = Vec::new();
        let connect =
            wire::Connect { client_id: "c", version, clean_start: false, keepalive_s: 60 };
        wire::put_connect(&mut out, &connect);
        out
    }

    fn publish(version: u8, qos: u8, id: u16, seq: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        Stamp { run: 1, publisher: 2, stream: 3, qos, seq, sent_at: 0 }.write(&mut payload);
        let mut out = Vec::new();
        wire::put_publish_head(&mut out, version, qos, b"t", id, payload.len());
        out.extend(payload);
        out
    }

    fn ack(kind: u8, id: u16) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_ack(&mut out, kind, id);
        out
    }

    fn numbers(bits: &Bits) -> Vec<u64> {
        (0..64).filter(|number| bits.contains(*number)).collect()
    }

    fn heard(witness: &Witness) -> [Vec<u64>; 2] {
        let heard = witness.streams().remove(&(1, 2, 3)).unwrap_or_default();
        [numbers(&heard.acknowledged), numbers(&heard.overtaken)]
    }

    #[test]
    fn what_is_acknowledged_is_told_from_what_is_only_sent() {
        for version in [4, 5] {
            let witness = Witness::default();
            let mut connection = witness.connection();
            let up = [
                connect(version),
                publish(version, 1, 7, 0),
                publish(version, 2, 8, 1),
                publish(version, 1, 9, 2),
            ];
            // A byte at a time, as a link may bring them.
            up.concat().iter().for_each(|byte| connection.hear(0, &[*byte]));
            let down = [ack(wire::PUBACK, 7), ack(wire::PUBREC, 8), ack(wire::PUBCOMP, 8)];
            connection.hear(1, &down.concat());
            // Refused, and one that nobody has sent.
            connection.hear(1, &[wire::PUBACK << 4, 3, 0, 9, 0x97]);
            connection.hear(1, &ack(wire::PUBACK, 10));
            assert_eq!(heard(&witness), [vec![0, 1], vec![]], "version {version}");
        }
    }

    #[test]
    fn the_order_is_that_in_which_the_remote_got_them() {
        let witness = Witness::default();
        let mut first = witness.connection();
        first.hear(0, &[connect(4), publish(4, 1, 1, 0), publish(4, 1, 2, 1)].concat());
        first.hear(1, &ack(wire::PUBACK, 1));
        // Again from where it stopped, and what is new: all in order.
        let mut second = witness.connection();
        let again = [connect(4), publish(4, 1, 2, 1), publish(4, 1, 3, 2), publish(4, 1, 4, 4)];
        second.hear(0, &again.concat());
        assert_eq!(heard(&witness)[1], []);
        // One that is behind in its connection, and one that is behind what was acknowledged.
        second.hear(0, &publish(4, 1, 5, 3));
        second.hear(0, &publish(4, 1, 6, 9));
        second.hear(1, &ack(wire::PUBACK, 6));
        let mut third = witness.connection();
        third.hear(0, &[connect(4), publish(4, 1, 7, 8)].concat());
        assert_eq!(heard(&witness)[1], [3, 8]);
    }

    #[test]
    fn at_qos_2_they_are_released_in_order_too() {
        let witness = Witness::default();
        let mut first = witness.connection();
        first.hear(0, &[connect(4), publish(4, 2, 1, 0), publish(4, 2, 2, 1)].concat());
        first.hear(1, &[ack(wire::PUBREC, 1), ack(wire::PUBREC, 2)].concat());
        let mut second = witness.connection();
        second.hear(0, &[connect(4), ack(wire::PUBREL, 1), ack(wire::PUBREL, 2)].concat());
        assert_eq!(heard(&witness), [vec![0, 1], vec![]]);
        let mut third = witness.connection();
        third.hear(0, &[connect(4), ack(wire::PUBREL, 2), ack(wire::PUBREL, 1)].concat());
        assert_eq!(heard(&witness), [vec![0, 1], vec![0]]);
    }

    #[test]
    fn what_is_no_mqtt_is_let_pass() {
        let witness = Witness::default();
        let mut connection = witness.connection();
        connection.hear(0, &[0x10, 0xff, 0xff, 0xff, 0xff, 1]);
        connection.hear(1, &ack(wire::PUBACK, 1));
        assert!(witness.streams().is_empty());
    }
}
