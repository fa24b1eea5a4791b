//! Bytes to packets: what a client or a server reads off its socket.

use super::wire::{Ack, Connack, Connect, Message, Property};
use std::io;

#[derive(Clone, Debug)]
pub enum Packet {
    Connect(Connect),
    Connack(Connack),
    Publish(Message),
    Ack(Ack),
    Subscribe {
        id: u16,
        filters: Vec<(String, u8)>,
        properties: Vec<Property>,
    },
    /// SUBACK or UNSUBACK.
    Suback {
        id: u16,
        codes: Vec<u8>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    Pingreq,
    Pingresp,
    Disconnect {
        code: u8,
    },
}

/// Bytes of the packet at the front of `buffer`: its header and its body. `None` when it is not
/// whole yet.
pub fn framed(buffer: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    let mut header = 1;
    loop {
        let byte = buffer.get(header)?;
        length |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (buffer.len() >= header + length).then_some((header, length))
}

/// Takes one packet off the front of `buffer`; `None` when it is not whole yet.
pub fn take(level: u8, buffer: &mut Vec<u8>) -> io::Result<Option<Packet>> {
    let Some((header, length)) = framed(buffer) else { return Ok(None) };
    let whole: Vec<u8> = buffer.drain(..header + length).collect();
    let mut body = Body { bytes: &whole[header..], level };
    decode(whole[0], &mut body).map(Some)
}

struct Body<'a> {
    bytes: &'a [u8],
    level: u8,
}

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        if self.bytes.len() < count {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet ends early"));
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Ok(head)
    }

    fn skip(&mut self, count: usize) -> io::Result<()> {
        self.take(count).map(|_| ())
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> io::Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn prefixed(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::from(self.word()?);
        self.take(length)
    }

    fn string(&mut self) -> io::Result<String> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        String::from_utf8(self.prefixed()?.to_vec()).map_err(invalid)
    }

    fn varint(&mut self) -> io::Result<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(number)
    }

    fn properties(&mut self) -> io::Result<Vec<Property>> {
        if self.level != 5 || self.bytes.is_empty() {
            return Ok(Vec::new());
        }
        let length = self.varint()?;
        let mut inner = Body { bytes: self.take(length)?, level: 5 };
        let mut all = Vec::new();
        while !inner.bytes.is_empty() {
            let id = inner.byte()?;
            let before = inner.bytes;
            match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => inner.skip(1)?,
                0x13 | 0x21 | 0x22 | 0x23 => inner.skip(2)?,
                0x02 | 0x11 | 0x18 | 0x27 => inner.skip(4)?,
                0x0B => inner.varint().map(|_| ())?,
                0x26 => inner.prefixed().and_then(|_| inner.prefixed()).map(|_| ())?,
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => {
                    inner.prefixed().map(|_| ())?;
                }
                id => panic!("property {id:#x} does not exist"),
            }
            all.push((id, before[..before.len() - inner.bytes.len()].to_vec()));
        }
        Ok(all)
    }

    /// A reason code that may be left out.
    fn code(&mut self) -> io::Result<u8> {
        if self.bytes.is_empty() { Ok(0) } else { self.byte() }
    }
}

fn decode(first: u8, body: &mut Body<'_>) -> io::Result<Packet> {
    Ok(match first >> 4 {
        1 => Packet::Connect(connect(body)?),
        2 => Packet::Connack(Connack {
            session_present: body.byte()? & 1 == 1,
            code: body.byte()?,
            properties: body.properties()?,
        }),
        3 => {
            let qos = first >> 1 & 3;
            Packet::Publish(Message {
                topic: body.string()?,
                qos,
                retain: first & 1 == 1,
                dup: first & 8 == 8,
                id: if qos > 0 { body.word()? } else { 0 },
                properties: body.properties()?,
                payload: body.bytes.to_vec(),
            })
        }
        kind @ 4..=7 => Packet::Ack(Ack { kind, id: body.word()?, code: body.code()? }),
        8 => {
            let id = body.word()?;
            let properties = body.properties()?;
            let mut filters = Vec::new();
            while !body.bytes.is_empty() {
                filters.push((body.string()?, body.byte()?));
            }
            Packet::Subscribe { id, filters, properties }
        }
        9 | 11 => {
            let id = body.word()?;
            body.properties()?;
            Packet::Suback { id, codes: body.bytes.to_vec() }
        }
        10 => {
            let id = body.word()?;
            body.properties()?;
            let mut filters = Vec::new();
            while !body.bytes.is_empty() {
                filters.push(body.string()?);
            }
            Packet::Unsubscribe { id, filters }
        }
        12 => Packet::Pingreq,
        13 => Packet::Pingresp,
        14 => Packet::Disconnect { code: body.code()? },
        kind => panic!("packet type {kind} is not expected in these tests"),
    })
}

fn connect(body: &mut Body<'_>) -> io::Result<Connect> {
    body.string()?;
    let level = body.byte()?;
    body.level = level;
    let flags = body.byte()?;
    let keepalive = body.word()?;
    let properties = body.properties()?;
    let id = body.string()?;
    let will = if flags & 0x04 != 0 {
        Some(Message {
            qos: flags >> 3 & 3,
            retain: flags & 0x20 != 0,
            properties: body.properties()?,
            topic: body.string()?,
            payload: body.prefixed()?.to_vec(),
            ..Message::default()
        })
    } else {
        None
    };
    let username = if flags & 0x80 != 0 { Some(body.string()?) } else { None };
    let password = if flags & 0x40 != 0 { Some(body.prefixed()?.to_vec()) } else { None };
    let clean = flags & 0x02 != 0;
    Ok(Connect { level, id, clean, keepalive, will, username, password, properties })
}
