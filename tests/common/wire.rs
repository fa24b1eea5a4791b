//! MQTT packets byte by byte, 3.1.1 and 5, both sides. Written from the specification for the
//! tests alone, so that a misunderstanding in the product's codec cannot hide in them.

pub use super::decode::{Packet, framed, take};

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
pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub const RESPONSE_INFORMATION: u8 = 0x1A;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const MAXIMUM_QOS: u8 = 0x24;
pub const RETAIN_AVAILABLE: u8 = 0x25;
pub const USER_PROPERTY: u8 = 0x26;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;

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
    /// 3, 4 or 5; 0x83 and 0x84 with the bridge bit.
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

    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.username = Some(name.to_owned());
        self.password = Some(password.as_bytes().to_vec());
        self
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
        let name: &[u8] = if self.level & 0x7F == 3 { b"MQIsdp" } else { b"MQTT" };
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

pub const PUBLISH: u8 = 3;
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
