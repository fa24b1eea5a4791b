//! MQTT packets byte by byte, 3.1.1 and 5, both sides. Written from the specification for the
//! tests alone, so that a misunderstanding in the product's codec cannot hide in them.

use std::io;

/// A property: its identifier and its value as it is on the wire.
pub type Property = (u8, Vec<u8>);

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION_DATA: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0B;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub const SERVER_KEEPALIVE: u8 = 0x13;
pub const WILL_DELAY: u8 = 0x18;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const MAXIMUM_QOS: u8 = 0x24;
pub const RETAIN_AVAILABLE: u8 = 0x25;
pub const USER_PROPERTY: u8 = 0x26;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// UTF-8 string or binary data: two bytes of length, then the bytes.
pub fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("at most 65535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

pub fn user_property(name: &str, value: &str) -> Property {
    (USER_PROPERTY, [prefixed(name.as_bytes()), prefixed(value.as_bytes())].concat())
}

pub fn varint(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(number % 128).expect("below 128");
        number /= 128;
        out.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return out;
        }
    }
}

pub fn properties(properties: &[Property]) -> Vec<u8> {
    let mut all = Vec::new();
    for (id, value) in properties {
        all.push(*id);
        all.extend(value);
    }
    [varint(all.len()), all].concat()
}

/// A packet from its first byte and its body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &varint(body.len()), body].concat()
}

/// The number in a four-byte property.
pub fn four_bytes(value: &[u8]) -> u32 {
    u32::from_be_bytes(value.try_into().expect("four bytes"))
}

/// The value of the first property with this identifier.
pub fn find(properties: &[Property], id: u8) -> Option<&[u8]> {
    properties.iter().find(|(i, _)| *i == id).map(|(_, value)| value.as_slice())
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: u16,
    pub properties: Vec<Property>,
}

impl Message {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { topic: topic.to_owned(), payload: payload.as_ref().to_vec(), ..Self::default() }
    }

    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn bytes(&self, level: u8) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = prefixed(self.topic.as_bytes());
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if level == 5 {
            body.extend(properties(&self.properties));
        }
        body.extend(&self.payload);
        packet(first, &body)
    }
}

/// `count` numbered messages on one topic.
pub fn numbered_plan(topic: &str, qos: u8, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::new(topic, super::numbered(n)).qos(qos)).collect()
}

#[derive(Clone, Debug)]
pub struct Connect {
    /// 3, 4 or 5; 0x84 with the bridge bit.
    pub level: u8,
    pub id: String,
    pub clean: bool,
    pub keepalive: u16,
    pub will: Option<Message>,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub properties: Vec<Property>,
}

impl Connect {
    pub fn new(level: u8, id: &str) -> Self {
        Self {
            level,
            id: id.to_owned(),
            clean: true,
            keepalive: 0,
            will: None,
            username: None,
            password: None,
            properties: Vec::new(),
        }
    }

    pub fn v4(id: &str) -> Self {
        Self::new(4, id)
    }

    pub fn v5(id: &str) -> Self {
        Self::new(5, id)
    }

    /// A session that outlives its connection.
    pub fn persistent(mut self) -> Self {
        self.clean = false;
        if self.level == 5 {
            self.properties.push((SESSION_EXPIRY, 3600_u32.to_be_bytes().to_vec()));
        }
        self
    }

    pub fn keepalive(mut self, seconds: u16) -> Self {
        self.keepalive = seconds;
        self
    }

    pub fn will(mut self, will: Message) -> Self {
        self.will = Some(will);
        self
    }

    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let v5 = self.level == 5;
        let mut flags = u8::from(self.clean) << 1;
        let mut tail = prefixed(self.id.as_bytes());
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
            if v5 {
                tail.extend(properties(&will.properties));
            }
            tail.extend(prefixed(will.topic.as_bytes()));
            tail.extend(prefixed(&will.payload));
        }
        if let Some(name) = &self.username {
            flags |= 0x80;
            tail.extend(prefixed(name.as_bytes()));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            tail.extend(prefixed(password));
        }
        let name: &[u8] = if self.level == 3 { b"MQIsdp" } else { b"MQTT" };
        let mut body = prefixed(name);
        body.extend([self.level, flags]);
        body.extend(self.keepalive.to_be_bytes());
        if v5 {
            body.extend(properties(&self.properties));
        }
        body.extend(tail);
        packet(0x10, &body)
    }
}

#[derive(Clone, Debug)]
pub struct Connack {
    pub session_present: bool,
    pub code: u8,
    pub properties: Vec<Property>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// 4 PUBACK, 5 PUBREC, 6 PUBREL, 7 PUBCOMP.
    pub kind: u8,
    pub id: u16,
    pub code: u8,
}

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

/// An acknowledgement with reason 0.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    ack_with(kind, id, None)
}

/// An acknowledgement; the reason only where the level has one.
pub fn ack_with(kind: u8, id: u16, code: Option<u8>) -> Vec<u8> {
    let first = kind << 4 | if kind == PUBREL { 2 } else { 0 };
    packet(first, &[&id.to_be_bytes()[..], code.as_slice()].concat())
}

pub fn subscribe(level: u8, id: u16, filters: &[(&str, u8)], props: &[Property]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.extend(properties(props));
    }
    for (filter, options) in filters {
        body.extend(prefixed(filter.as_bytes()));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub fn unsubscribe(level: u8, id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    body.extend(prefixed(filter.as_bytes()));
    packet(0xA2, &body)
}

pub const PINGREQ: [u8; 2] = [0xC0, 0];
pub const PINGRESP: [u8; 2] = [0xD0, 0];
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

#[derive(Clone, Debug)]
pub enum Packet {
    Connect(Connect),
    Connack(Connack),
    Publish(Message),
    Ack(Ack),
    Subscribe {
        id: u16,
        filters: Vec<(String, u8)>,
    },
    /// SUBACK or UNSUBACK.
    Suback {
        id: u16,
        codes: Vec<u8>,
    },
    Unsubscribe {
        id: u16,
    },
    Pingreq,
    Pingresp,
    Disconnect {
        code: u8,
    },
}

/// Takes one packet off the front of `buffer`; `None` when it is not whole yet.
pub fn take(level: u8, buffer: &mut Vec<u8>) -> io::Result<Option<Packet>> {
    let mut length = 0;
    let mut header = 1;
    loop {
        let Some(byte) = buffer.get(header) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if buffer.len() < header + length {
        return Ok(None);
    }
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
            body.properties()?;
            let mut filters = Vec::new();
            while !body.bytes.is_empty() {
                filters.push((body.string()?, body.byte()?));
            }
            Packet::Subscribe { id, filters }
        }
        9 | 11 => {
            let id = body.word()?;
            body.properties()?;
            Packet::Suback { id, codes: body.bytes.to_vec() }
        }
        10 => Packet::Unsubscribe { id: body.word()? },
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
