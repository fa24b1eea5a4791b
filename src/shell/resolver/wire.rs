//! DNS questions and answers as bytes. Read RFC 1035 sections 4.1 and 4.2 and RFC 5452 section 9
//! first.
//!
//! An answer counts only with our id and our question in it; what a hostile one makes us
//! allocate is bounded by its own length. Never touches a socket.

use super::ADDRS_MAX;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Links of a CNAME chain that are followed inside one answer.
const CHAIN_MAX: usize = 8;

const HEADER_BYTES: usize = 12;
/// The TC bit in the header's third byte.
const TRUNCATED: u8 = 0b10;
/// The least a question and a record take.
const QUESTION_BYTES_MIN: usize = 5;
const RECORD_BYTES_MIN: usize = 11;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }

    fn record(self) -> TYPE {
        match self {
            Self::V4 => TYPE::A,
            Self::V6 => TYPE::AAAA,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Addresses(heapless::Vec<IpAddr, ADDRS_MAX>),
    /// The name exists, without an address of this family.
    NoAddress,
    NoSuchName,
    /// To be asked again over TCP.
    Truncated,
    /// The server cannot say: SERVFAIL, REFUSED and the like.
    Failed,
}

/// A recursive question; `None` for a name that cannot be asked for.
pub(super) fn question(id: u16, name: &str, family: Family) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).ok()?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(family.record()),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().ok()
}

/// The answer's id, to find the question by.
pub(super) fn id(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

/// What `bytes` say to our question; `None` = they are no answer to it.
pub(super) fn answer(bytes: &mut [u8], id: u16, name: &str, family: Family) -> Option<Verdict> {
    if bytes.len() < HEADER_BYTES || self::id(bytes) != Some(id) {
        return None;
    }
    // A truncated message may end inside a record: only its question counts.
    let first = if bytes[2] & TRUNCATED != 0 { 6 } else { 8 };
    // The sections behind the answers are of no use here, and odd records in them would make
    // the whole message unreadable.
    bytes[first..HEADER_BYTES].fill(0);
    let word = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let least = word(4) * QUESTION_BYTES_MIN + word(6) * RECORD_BYTES_MIN;
    if least > bytes.len() - HEADER_BYTES {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    let ours = Name::new(name).ok()?;
    let asked = packet.questions.first()?;
    if !packet.has_flags(PacketFlag::RESPONSE)
        || packet.questions.len() != 1
        || asked.qname != ours
        || asked.qtype != QTYPE::TYPE(family.record())
    {
        return None;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Some(Verdict::Truncated);
    }
    Some(match packet.rcode() {
        RCODE::NoError => addresses(&packet, ours, family),
        RCODE::NameError => Verdict::NoSuchName,
        _other_codes_mean_ask_elsewhere => Verdict::Failed,
    })
}

fn addresses<'a>(packet: &Packet<'a>, mut name: Name<'a>, family: Family) -> Verdict {
    let mut found = heapless::Vec::new();
    for _ in 0..CHAIN_MAX {
        for record in packet.answers.iter().filter(|record| record.name == name) {
            let ip: IpAddr = match (&record.rdata, family) {
                (RData::A(a), Family::V4) => Ipv4Addr::from(a.address).into(),
                (RData::AAAA(a), Family::V6) => Ipv6Addr::from(a.address).into(),
                _ => continue,
            };
            // Beyond what we can try the rest is of no use.
            if !found.contains(&ip) {
                let _ = found.push(ip);
            }
        }
        let next = packet.answers.iter().find_map(|record| match &record.rdata {
            RData::CNAME(target) if record.name == name => Some(target.0.clone()),
            _ => None,
        });
        match next {
            Some(next) if found.is_empty() => name = next,
            _ => break,
        }
    }
    if found.is_empty() { Verdict::NoAddress } else { Verdict::Addresses(found) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, AAAA, CNAME};

    /// An answer to `query`, made like a name server makes it.
    pub(in crate::shell) fn reply(
        query: &[u8],
        code: RCODE,
        records: &[(&str, RData<'static>)],
    ) -> Vec<u8> {
        let query = Packet::parse(query).unwrap();
        let mut packet = Packet::new_reply(query.id());
        *packet.rcode_mut() = code;
        packet.questions = query.questions.clone();
        for (name, data) in records {
            let name = Name::new(name).unwrap();
            packet.answers.push(ResourceRecord::new(name, CLASS::IN, 60, data.clone()));
        }
        packet.build_bytes_vec().unwrap()
    }

    pub(in crate::shell) fn a(ip: [u8; 4]) -> RData<'static> {
        RData::A(A { address: u32::from_be_bytes(ip) })
    }

    pub(in crate::shell) fn cname(name: &'static str) -> RData<'static> {
        RData::CNAME(CNAME(Name::new(name).unwrap()))
    }

    fn ask(family: Family) -> Vec<u8> {
        question(77, "broker.example", family).unwrap()
    }

    fn ips(list: &[&str]) -> Verdict {
        Verdict::Addresses(list.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    #[test]
    fn addresses_are_read_for_the_family_asked() {
        let mut bytes =
            reply(&ask(Family::V4), RCODE::NoError, &[("Broker.Example", a([192, 0, 2, 1]))]);
        let verdict = answer(&mut bytes, 77, "broker.example", Family::V4);
        assert_eq!(verdict, Some(ips(&["192.0.2.1"])));
        let aaaa = RData::AAAA(AAAA { address: 2 });
        let mut bytes = reply(&ask(Family::V6), RCODE::NoError, &[("broker.example", aaaa)]);
        assert_eq!(answer(&mut bytes, 77, "broker.example", Family::V6), Some(ips(&["::2"])));
    }

    #[test]
    fn a_cname_chain_is_followed_in_any_order_and_a_loop_ends() {
        let records = [
            ("c.example", a([192, 0, 2, 3])),
            ("b.example", cname("c.example")),
            ("broker.example", cname("b.example")),
            ("other.example", a([192, 0, 2, 9])),
        ];
        let mut bytes = reply(&ask(Family::V4), RCODE::NoError, &records);
        let verdict = answer(&mut bytes, 77, "broker.example", Family::V4);
        assert_eq!(verdict, Some(ips(&["192.0.2.3"])));
        let circle =
            [("broker.example", cname("b.example")), ("b.example", cname("broker.example"))];
        let mut bytes = reply(&ask(Family::V4), RCODE::NoError, &circle);
        let verdict = answer(&mut bytes, 77, "broker.example", Family::V4);
        assert_eq!(verdict, Some(Verdict::NoAddress));
    }

    #[test]
    fn what_is_no_answer_to_our_question_is_ignored() {
        let good = reply(&ask(Family::V4), RCODE::NoError, &[]);
        let check = |mut bytes: Vec<u8>, id, name, family| answer(&mut bytes, id, name, family);
        assert!(check(good.clone(), 77, "broker.example", Family::V4).is_some());
        assert_eq!(check(good.clone(), 78, "broker.example", Family::V4), None);
        assert_eq!(check(good.clone(), 77, "broker.invalid", Family::V4), None);
        assert_eq!(check(good.clone(), 77, "broker.example", Family::V6), None);
        assert_eq!(check(ask(Family::V4), 77, "broker.example", Family::V4), None);
        for bytes in 0..good.len() {
            assert_eq!(check(good[..bytes].to_vec(), 77, "broker.example", Family::V4), None);
        }
    }

    #[test]
    fn a_count_larger_than_the_message_is_ignored_before_it_is_allocated() {
        let mut bytes = reply(&ask(Family::V4), RCODE::NoError, &[]);
        bytes[6..8].copy_from_slice(&[0xFF, 0xFF]);
        assert_eq!(answer(&mut bytes, 77, "broker.example", Family::V4), None);
    }

    #[test]
    fn codes_and_truncation_become_verdicts() {
        for (code, verdict) in [
            (RCODE::NameError, Verdict::NoSuchName),
            (RCODE::ServerFailure, Verdict::Failed),
            (RCODE::Refused, Verdict::Failed),
            (RCODE::NoError, Verdict::NoAddress),
        ] {
            let mut bytes = reply(&ask(Family::V4), code, &[]);
            assert_eq!(answer(&mut bytes, 77, "broker.example", Family::V4), Some(verdict));
        }
        let records = [("broker.example", a([192, 0, 2, 1]))];
        let mut bytes = reply(&ask(Family::V4), RCODE::NoError, &records);
        bytes[2] |= TRUNCATED;
        bytes.truncate(bytes.len() - 3);
        let verdict = answer(&mut bytes, 77, "broker.example", Family::V4);
        assert_eq!(verdict, Some(Verdict::Truncated));
    }
}
