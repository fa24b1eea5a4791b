//! As much of MQTT 3.1.1 and 5 as these tools speak. Written apart from the gateway's codec on
//! purpose: two authors of one mistake would test nothing.

pub const CONNECT: u8 = 1;
pub const CONNACK: u8 = 2;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;
pub const SUBSCRIBE: u8 = 8;
pub const SUBACK: u8 = 9;
pub const UNSUBSCRIBE: u8 = 10;
pub const UNSUBACK: u8 = 11;
pub const PINGREQ: u8 = 12;
pub const PINGRESP: u8 = 13;
pub const DISCONNECT: u8 = 14;

/// The peer sent something that is not MQTT.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub body: &'a [u8],
    /// With the fixed header: what to consume.
    pub bytes: usize,
}

/// The first whole packet of `data`, or None while it is incomplete.
pub fn frame(data: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    if data.len() < 2 {
        return Ok(None);
    }
    let Some((length, used)) = varint(&data[1..])? else { return Ok(None) };
    let head = 1 + used;
    match data.get(head..head + length) {
        Some(body) => {
            let (kind, flags) = (data[0] >> 4, data[0] & 0x0f);
            Ok(Some(Frame { kind, flags, body, bytes: head + length }))
        }
        None => Ok(None),
    }
}

fn varint(data: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in data.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if data.len() >= 4 { Err(Malformed("length of more than four bytes")) } else { Ok(None) }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// Takes fields off the front of a packet's body.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.0.len() {
            return Err(Malformed("packet shorter than its fields"));
        }
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// The block of MQTT 5 properties, its length taken off.
    pub fn properties(&mut self) -> Result<&'a [u8], Malformed> {
        match varint(self.0)? {
            Some((length, used)) => {
                self.bytes(used)?;
                self.bytes(length)
            }
            None => Err(Malformed("no property length")),
        }
    }
}

/// The value of a two-byte property such as Receive Maximum (0x21), if it is there.
pub fn property_u16(block: &[u8], wanted: u8) -> Result<Option<u16>, Malformed> {
    let mut fields = Fields(block);
    while !fields.0.is_empty() {
        let id = fields.u8()?;
        match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => drop(fields.u8()?),
            0x13 | 0x21 | 0x22 | 0x23 => {
                let value = fields.u16()?;
                if id == wanted {
                    return Ok(Some(value));
                }
            }
            0x02 | 0x11 | 0x18 | 0x27 => drop(fields.bytes(4)?),
            0x0b => match varint(fields.0)? {
                Some((_, used)) => drop(fields.bytes(used)?),
                None => return Err(Malformed("subscription identifier")),
            },
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => drop(fields.text()?),
            0x26 => {
                fields.text()?;
                fields.text()?;
            }
            _ => return Err(Malformed("unknown property")),
        }
    }
    Ok(None)
}

pub struct Publish<'a> {
    pub dup: bool,
    pub qos: u8,
    pub topic: &'a [u8],
    /// 0 at QoS 0.
    pub id: u16,
    pub payload: &'a [u8],
}

pub fn publish<'a>(frame: &Frame<'a>, version: u8) -> Result<Publish<'a>, Malformed> {
    let mut fields = Fields(frame.body);
    let qos = (frame.flags >> 1) & 3;
    let topic = fields.text()?;
    let id = if qos > 0 { fields.u16()? } else { 0 };
    if qos == 3 || (qos > 0 && id == 0) {
        return Err(Malformed("QoS 3 or packet id 0"));
    }
    if version == 5 {
        fields.properties()?;
    }
    Ok(Publish { dup: frame.flags & 8 != 0, qos, topic, id, payload: fields.0 })
}

/// Packet id and reason code (0 where the packet leaves it out) of the four acknowledgements.
pub fn ack(body: &[u8]) -> Result<(u16, u8), Malformed> {
    let mut fields = Fields(body);
    let id = fields.u16()?;
    let reason = if fields.0.is_empty() { 0 } else { fields.u8()? };
    Ok((id, reason))
}

pub fn put_ack(out: &mut Vec<u8>, kind: u8, id: u16) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind << 4 | flags, 2, high, low]);
}

pub struct Connect<'a> {
    pub client_id: &'a str,
    pub version: u8,
    pub clean_start: bool,
    pub keepalive_s: u16,
}

pub fn put_connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let mut body = Vec::with_capacity(64);
    put_text(&mut body, b"MQTT");
    body.push(connect.version);
    body.push(if connect.clean_start { 2 } else { 0 });
    body.extend_from_slice(&connect.keepalive_s.to_be_bytes());
    if connect.version == 5 {
        if connect.clean_start {
            body.push(0);
        } else {
            // Session Expiry Interval: a day, so that the session outlives the connection.
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&86_400u32.to_be_bytes());
        }
    }
    put_text(&mut body, connect.client_id.as_bytes());
    put_packet(out, CONNECT << 4, &body);
}

/// Session present and the server's Receive Maximum (65535 when it does not say).
pub fn connack(body: &[u8], version: u8) -> Result<(bool, u8, u16), Malformed> {
    let mut fields = Fields(body);
    let (flags, code) = (fields.u8()?, fields.u8()?);
    let mut receive_maximum = None;
    if version == 5 && !fields.0.is_empty() {
        receive_maximum = property_u16(fields.properties()?, 0x21)?;
    }
    Ok((flags & 1 != 0, code, receive_maximum.unwrap_or(u16::MAX)))
}

pub fn put_subscribe(out: &mut Vec<u8>, id: u16, version: u8, filters: &[String], qos: u8) {
    let mut body = id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    for filter in filters {
        put_text(&mut body, filter.as_bytes());
        body.push(qos);
    }
    put_packet(out, SUBSCRIBE << 4 | 2, &body);
}

/// Everything of a PUBLISH up to its payload of `payload_bytes`; with QoS 0 no packet id.
pub fn put_publish_head(
    out: &mut Vec<u8>,
    version: u8,
    qos: u8,
    topic: &[u8],
    id: u16,
    payload_bytes: usize,
) {
    let id_bytes = if qos > 0 { 2 } else { 0 };
    let property_bytes = usize::from(version == 5);
    out.push(PUBLISH << 4 | qos << 1);
    put_varint(out, 2 + topic.len() + id_bytes + property_bytes + payload_bytes);
    put_text(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == 5 {
        out.push(0);
    }
}

pub fn put_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    put_varint(out, body.len());
    out.extend_from_slice(body);
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_as_it_was_written_and_never_early() {
        for (version, qos) in [(4, 0), (4, 2), (5, 1)] {
            let mut out = Vec::new();
            put_publish_head(&mut out, version, qos, b"a/b", 7, 200);
            out.extend_from_slice(&[9; 200]);
            for cut in 0..out.len() {
                assert!(matches!(frame(&out[..cut]), Ok(None)), "cut at {cut}");
            }
            let whole = frame(&out).unwrap().unwrap();
            let publish = publish(&whole, version).unwrap();
            assert_eq!(whole.bytes, out.len());
            assert_eq!((publish.qos, publish.topic), (qos, &b"a/b"[..]));
            assert_eq!(publish.id, if qos > 0 { 7 } else { 0 });
            assert_eq!(publish.payload, [9; 200]);
        }
    }

    #[test]
    fn receive_maximum_is_found_behind_other_properties() {
        let body = [1, 0, 8, 0x24, 1, 0x13, 0, 30, 0x21, 0, 20];
        assert_eq!(connack(&body, 5), Ok((true, 0, 20)));
        assert_eq!(connack(&[0, 0], 4), Ok((false, 0, u16::MAX)));
    }

    #[test]
    fn a_length_of_five_bytes_is_malformed() {
        assert!(frame(&[0x30, 0x80, 0x80, 0x80, 0x80, 1]).is_err());
        assert!(matches!(frame(&[0x30, 0x80, 0x80]), Ok(None)));
    }
}
