//! Every fault from bytes written by hand, each beside the nearest packet that is valid.

use crate::mqtt::text::{Place, Unwelcome};
use crate::mqtt::*;

/// A packet of up to 127 body bytes.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u8::try_from(body.len()).expect("short");
    assert!(length < 128);
    [&[first, length][..], &body].concat()
}

fn fault(version: Version, bytes: &[u8]) -> Fault {
    decode(version, bytes).expect_err("must be refused").fault
}

fn accepted(version: Version, bytes: &[u8]) {
    if let Err(malformed) = decode(version, bytes) {
        panic!("{malformed}: {bytes:02x?}");
    }
}

const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const OLD: [Version; 2] = [Version::V31, Version::V311];

/// A CONNECT of MQTT 5 with these flags and properties, client id `c`, then `rest`.
fn connect_5(flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(properties.len()).expect("short")];
    packet(0x10, &[b"\0\x04MQTT\x05", &[flags], b"\0\x3C", &length, properties, b"\0\x01c", rest])
}

fn connect_311(flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x04", &[flags], b"\0\x3C\0\x01c", rest])
}

fn connect_31(flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[b"\0\x06MQIsdp\x03", &[flags], b"\0\x3C\0\x01c", rest])
}

fn publish_5(first: u8, head: &[u8], properties: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(properties.len()).expect("short")];
    packet(first, &[head, &length, properties, b"payload"])
}

#[test]
fn the_example_of_the_specification_decodes() {
    // 3.1.1 and 5, figure 3-6 of CONNECT: name, level 4, flags 0xCE, keepalive 10.
    let bytes = packet(0x10, &[b"\0\x04MQTT\x04\xCE\0\x0A\0\x01c\0\x01w\0\x02hi\0\x01u\0\x02pw"]);
    let Ok(Packet::Connect(connect)) = decode(Version::V5, &bytes) else { panic!("{bytes:?}") };
    assert_eq!(connect.version, Version::V311);
    assert_eq!((connect.keepalive, connect.client_id), (10, "c"));
    assert!(connect.clean_start && !connect.bridge);
    let will = connect.will.expect("flag 2");
    assert_eq!((will.topic, will.payload), ("w", &b"hi"[..]));
    assert_eq!((will.qos, will.retain), (Qos::AtLeastOnce, false));
    assert_eq!((connect.username, connect.password), (Some("u"), Some(&b"pw"[..])));
}

#[test]
fn the_encoder_writes_these_very_bytes() {
    let id = PacketId::new(10).expect("not zero");
    let publish = Packet::Publish(Publish {
        dup: false,
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: "a/b",
        packet_id: Some(id),
        properties: Properties::from_encoded(b"\x01\x01"),
        payload: b"xy",
        missing: 0,
    });
    let written = |version, packet: &Packet<'_>| {
        let mut out = [0; 64];
        let len = encode(version, packet, &mut out).expect("fits");
        out[..len].to_vec()
    };
    assert_eq!(written(Version::V311, &publish), b"\x33\x09\0\x03a/b\0\x0Axy");
    assert_eq!(written(Version::V5, &publish), b"\x33\x0C\0\x03a/b\0\x0A\x02\x01\x01xy");
    let refused = Packet::Puback(Ack::new(id, Reason::QUOTA_EXCEEDED));
    assert_eq!(written(Version::V311, &refused), b"\x40\x02\0\x0A");
    assert_eq!(written(Version::V5, &refused), b"\x40\x03\0\x0A\x97");
    assert_eq!(
        written(Version::V5, &Packet::Pubrel(Ack::new(id, Reason::SUCCESS))),
        b"\x62\x02\0\x0A"
    );
    let bye = Disconnect { reason: Reason::SUCCESS, properties: Properties::EMPTY };
    assert_eq!(written(Version::V5, &Packet::Disconnect(bye)), b"\xE0\0");
    let bye = Disconnect { reason: Reason::TAKEN_OVER, properties: Properties::EMPTY };
    assert_eq!(written(Version::V5, &Packet::Disconnect(bye)), b"\xE0\x01\x8E");
    assert_eq!(written(Version::V31, &Packet::Disconnect(bye)), b"\xE0\0");
    assert_eq!(written(Version::V311, &Packet::Auth(bye)), b"");
}

#[test]
fn lengths_must_be_minimal_in_5_and_may_not_be_before() {
    // 9 as 0x89 0x00.
    let publish = b"\x30\x89\0\0\x03a/b\0abc";
    for version in OLD {
        accepted(version, publish);
    }
    assert_eq!(fault(Version::V5, publish), Fault::LengthNotMinimal);
    assert_eq!(fault(Version::V5, b"\xD0\x80\0"), Fault::LengthNotMinimal);
    accepted(Version::V311, b"\xD0\x80\0");
    let connect = connect_5(2, b"", b"");
    let padded = [&[0x10, connect[1] | 0x80, 0][..], &connect[2..]].concat();
    assert_eq!(fault(Version::V311, &padded), Fault::LengthNotMinimal);
    // A property length that is not minimal.
    let publish = packet(0x30, &[b"\0\x01a\x80\0payload"]);
    assert_eq!(fault(Version::V5, &publish), Fault::LengthNotMinimal);
    let long = packet(0x30, &[b"\0\x01a\xFF\xFF\xFF\xFF\x01"]);
    assert_eq!(fault(Version::V5, &long), Fault::VariableIntegerTooLong);
    assert_eq!(fault(Version::V5, b"\x30\xFF\xFF\xFF\xFF\x01"), Fault::RemainingLengthTooLong);
}

#[test]
fn fixed_header_faults() {
    for version in ALL {
        assert_eq!(fault(version, b""), Fault::Truncated);
        assert_eq!(fault(version, b"\0\0"), Fault::PacketTypeReserved);
        assert_eq!(fault(version, b"\x36\x05\0\x01a\0\x01"), Fault::QosInvalid);
        assert_eq!(fault(version, b"\x38\x03\0\x01a"), Fault::DupWithoutQos);
        assert_eq!(fault(version, b"\x41\x02\0\x01"), Fault::FlagsReserved);
        assert_eq!(fault(version, b"\xC0\x01\0"), Fault::TrailingBytes);
        assert_eq!(fault(version, b"\xC0\0\0"), Fault::TrailingBytes);
        accepted(version, b"\xC0\0");
    }
    for version in OLD {
        assert_eq!(fault(version, b"\xF0\0"), Fault::PacketTypeReserved);
        assert_eq!(fault(version, b"\xE0\x01\0"), Fault::TrailingBytes);
        assert_eq!(fault(version, b"\x40\x03\0\x01\0"), Fault::TrailingBytes);
    }
    accepted(Version::V5, b"\xF0\0");
}

#[test]
fn dup_on_pubrel_and_subscribe_is_a_notion_of_3_1() {
    for resent in [&b"\x6A\x02\0\x01"[..], b"\x8A\x06\0\x01\0\x01a\0", b"\xAA\x05\0\x01\0\x01a"] {
        accepted(Version::V31, resent);
        assert_eq!(fault(Version::V311, resent), Fault::FlagsReserved);
        assert_eq!(fault(Version::V5, resent), Fault::FlagsReserved);
    }
}

#[test]
fn unknown_protocols_say_which_connack_the_client_reads() {
    let answer = |name: &[u8], level: u8| {
        let length = u8::try_from(name.len()).expect("short");
        let bytes = packet(0x10, &[&[0, length], name, &[level], b"\x02\0\x3C\0\0"]);
        match decode(Version::V5, &bytes) {
            Err(Malformed { fault: Fault::UnsupportedVersion { answer } }) => Some(answer),
            _ => None,
        }
    };
    assert_eq!(answer(b"MQTT", 6), Some(Version::V5));
    assert_eq!(answer(b"MQTT", 0x85), Some(Version::V5));
    assert_eq!(answer(b"MQTX", 5), Some(Version::V5));
    assert_eq!(answer(b"MQTT", 3), Some(Version::V311));
    assert_eq!(answer(b"MQTT", 0x83), Some(Version::V311));
    assert_eq!(answer(b"MQIsdp", 4), Some(Version::V311));
    assert_eq!(answer(b"MQIsdp", 0x84), Some(Version::V311));
    assert_eq!(answer(b"mqtt", 4), Some(Version::V311));
    assert_eq!(answer(b"", 0), Some(Version::V311));
    assert_eq!(answer(b"MQTT", 4), None);
    assert_eq!(answer(b"MQTT", 0x84), None);
    assert_eq!(answer(b"MQIsdp", 0x83), None);
}

#[test]
fn connect_flags_must_agree_with_the_payload() {
    accepted(Version::V5, &connect_311(0x02, b""));
    assert_eq!(fault(Version::V5, &connect_311(0x03, b"")), Fault::ConnectFlagReserved);
    assert_eq!(fault(Version::V5, &connect_5(0x03, b"", b"")), Fault::ConnectFlagReserved);
    for flags in [0x08, 0x10, 0x20] {
        assert_eq!(fault(Version::V5, &connect_311(flags, b"")), Fault::WillFlagsWithoutWill);
        assert_eq!(fault(Version::V5, &connect_5(flags, b"", b"")), Fault::WillFlagsWithoutWill);
    }
    accepted(Version::V5, &connect_311(0x34, b"\0\x01w\0\0"));
    assert_eq!(fault(Version::V5, &connect_311(0x1C, b"\0\x01w\0\0")), Fault::QosInvalid);
    assert_eq!(fault(Version::V5, &connect_311(0x04, b"\0\0\0\0")), Fault::TopicEmpty);
    assert_eq!(fault(Version::V5, &connect_311(0x04, b"\0\x01#\0\0")), Fault::TopicWildcard);
    let password = connect_311(0x40, b"\0\x01p");
    assert_eq!(fault(Version::V5, &password), Fault::PasswordWithoutUsername);
    accepted(Version::V5, &connect_5(0x40, b"", b"\0\x01p"));
    assert_eq!(fault(Version::V5, &connect_311(0x80, b"")), Fault::Truncated);
    assert_eq!(fault(Version::V5, &connect_311(0x80, b"\0\x01\0")), Fault::NulInString);
    accepted(Version::V5, &connect_311(0xC0, b"\0\x01u\0\x01\0"));
    assert_eq!(fault(Version::V5, &connect_311(0x02, b"x")), Fault::TrailingBytes);
}

#[test]
fn connect_of_3_1_may_announce_what_it_leaves_out() {
    let decoded = |bytes: &[u8]| match decode(Version::V5, bytes) {
        Ok(Packet::Connect(Connect { version: Version::V31, username, password, .. })) => {
            (username.map(str::to_owned), password.map(<[u8]>::to_vec))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(decoded(&connect_31(0xC0, b"")), (None, None));
    assert_eq!(decoded(&connect_31(0xC0, b"\0\x01u")), (Some("u".into()), None));
    let both = (Some("u".into()), Some(b"p".to_vec()));
    assert_eq!(decoded(&connect_31(0xC0, b"\0\x01u\0\x01p")), both);
    // Bits that 3.1 does not use.
    assert_eq!(decoded(&connect_31(0x39, b"")), (None, None));
    assert_eq!(fault(Version::V5, &connect_31(0x80, b"\0")), Fault::Truncated);
    assert_eq!(fault(Version::V5, &connect_31(0x40, b"\0\0")), Fault::PasswordWithoutUsername);
}

#[test]
fn connack_flags() {
    for version in [Version::V311, Version::V5] {
        let tail: &[u8] = if version == Version::V5 { b"\0" } else { b"" };
        accepted(version, &packet(0x20, &[b"\x01\0", tail]));
        let reserved = packet(0x20, &[b"\x02\0", tail]);
        assert_eq!(fault(version, &reserved), Fault::ConnackFlagsReserved);
        let contrary = packet(0x20, &[b"\x01\x05", tail]);
        assert_eq!(fault(version, &contrary), Fault::SessionPresentOnRefusal);
    }
    let Ok(Packet::Connack(connack)) = decode(Version::V31, b"\x20\x02\x01\x00") else {
        panic!("the first byte is unused in 3.1");
    };
    assert!(!connack.session_present);
    assert_eq!(fault(Version::V5, b"\x20\x02\0\0"), Fault::Truncated);
}

#[test]
fn publish_faults() {
    for version in OLD {
        accepted(version, b"\x32\x05\0\x01a\0\x01");
        assert_eq!(fault(version, b"\x32\x05\0\x01a\0\0"), Fault::PacketIdZero);
        assert_eq!(fault(version, b"\x32\x04\0\x01a\0"), Fault::Truncated);
        assert_eq!(fault(version, b"\x30\x02\0\0"), Fault::TopicEmpty);
        assert_eq!(fault(version, b"\x30\x03\0\x01+"), Fault::TopicWildcard);
        assert_eq!(fault(version, b"\x30\x03\0\x01\0"), Fault::NulInString);
        assert_eq!(fault(version, b"\x30\x03\0\x01\x80"), Fault::Utf8Invalid);
        assert_eq!(fault(version, b"\x30\x03\0\x02a"), Fault::Truncated);
    }
    accepted(Version::V5, &publish_5(0x30, b"\0\0", b"\x23\0\x01"));
    assert_eq!(fault(Version::V5, &publish_5(0x30, b"\0\0", b"")), Fault::TopicEmpty);
    assert_eq!(
        fault(Version::V5, &publish_5(0x30, b"\0\x01a", b"\x23\0\0")),
        Fault::TopicAliasZero
    );
    assert_eq!(fault(Version::V5, &publish_5(0x32, b"\0\x01a\0\0", b"")), Fault::PacketIdZero);
    let response = |topic: &[u8]| publish_5(0x30, b"\0\x01a", &[b"\x08\0\x01", topic].concat());
    accepted(Version::V5, &response(b"r"));
    assert_eq!(fault(Version::V5, &response(b"#")), Fault::ResponseTopicInvalid);
    let empty = publish_5(0x30, b"\0\x01a", b"\x08\0\0");
    assert_eq!(fault(Version::V5, &empty), Fault::ResponseTopicInvalid);
}

#[test]
fn text_that_is_passed_on_has_no_character_that_others_close_over() {
    let character = |place| Fault::Character { found: Unwelcome { place, character: '\u{7}' } };
    for version in ALL {
        let publish =
            packet(0x32, &[b"\0\x01\x07\0\x01", if version == Version::V5 { b"\0" } else { b"" }]);
        assert_eq!(fault(version, &publish), character(Place::Topic));
        let answered = refused_publish(version, &publish).expect("nothing else is wrong");
        assert_eq!((answered.qos, answered.packet_id), (Qos::AtLeastOnce, PacketId::new(1)));
    }
    let property = |id| Place::Property(id);
    for (encoded, place) in [
        (&b"\x26\0\x01\x07\0\x01v"[..], property(PropertyId::UserProperty)),
        (b"\x26\0\x01k\0\x01\x07", property(PropertyId::UserProperty)),
        (b"\x03\0\x01\x07", property(PropertyId::ContentType)),
        (b"\x08\0\x01\x07", property(PropertyId::ResponseTopic)),
    ] {
        let publish = publish_5(0x30, b"\0\x01a", encoded);
        assert_eq!(fault(Version::V5, &publish), character(place));
        let answered = refused_publish(Version::V5, &publish).expect("nothing else is wrong");
        assert_eq!(answered.topic, "a");
        let length = [u8::try_from(encoded.len()).expect("short")];
        let will = connect_5(0x04, b"", &[&length[..], encoded, b"\0\x01w\0\0"].concat());
        assert_eq!(fault(Version::V5, &will), character(place));
        assert_eq!(refused_connect(&will).map(|connect| connect.client_id), Some("c"));
    }
    // Whatever else is wrong is the fault that counts, and there is nobody to answer.
    let broken = publish_5(0x32, b"\0\x01\x07\0\0", b"");
    assert_eq!(fault(Version::V5, &broken), character(Place::Topic));
    assert!(refused_publish(Version::V5, &broken).is_none());
    assert_eq!(
        fault(Version::V5, &connect_311(0x04, b"\0\x01\x07\0\0")),
        character(Place::WillTopic)
    );
    assert_eq!(fault(Version::V5, &connect_311(0x80, b"\0\x01\x07")), character(Place::UserName));
    let id = packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3C\0\x01\x07"]);
    assert_eq!(fault(Version::V5, &id), character(Place::ClientId));
    // Binary, or read by nobody else, or looked at one by one.
    accepted(Version::V5, &connect_311(0xC4, b"\0\x01w\0\x01\x07\0\x01u\0\x01\x07"));
    accepted(Version::V5, &publish_5(0x30, b"\0\x01a", b"\x09\0\x01\x07"));
    accepted(Version::V5, &connect_5(0x02, b"\x26\0\x01k\0\x01\x07", b""));
    accepted(Version::V5, &packet(0x40, &[b"\0\x01\x87\x04\x1F\0\x01\n"]));
    accepted(Version::V5, &packet(0x82, &[b"\0\x01\0\0\x01\x07\x01"]));
}

#[test]
fn acknowledgements_have_an_identifier_and_at_most_reason_and_properties() {
    for first in [0x40, 0x50, 0x62, 0x70] {
        for version in ALL {
            accepted(version, &packet(first, &[b"\0\x01"]));
            assert_eq!(fault(version, &packet(first, &[b"\0\0"])), Fault::PacketIdZero);
            assert_eq!(fault(version, &packet(first, &[b"\0"])), Fault::Truncated);
        }
        let code = if first < 0x60 { 0x80 } else { 0x92 };
        accepted(Version::V5, &packet(first, &[b"\0\x01", &[code]]));
        accepted(Version::V5, &packet(first, &[b"\0\x01", &[code], b"\0"]));
        accepted(Version::V5, &packet(first, &[b"\0\x01", &[code], b"\x04\x1F\0\x01r"]));
        let trailing = packet(first, &[b"\0\x01", &[code], b"\0\0"]);
        assert_eq!(fault(Version::V5, &trailing), Fault::TrailingBytes);
        let twice = packet(first, &[b"\0\x01", &[code], b"\x06\x1F\0\0\x1F\0\0"]);
        assert_eq!(fault(Version::V5, &twice), Fault::PropertyDuplicate);
        let short = packet(first, &[b"\0\x01", &[code], b"\x04\x1F\0\x01"]);
        assert_eq!(fault(Version::V5, &short), Fault::Truncated);
    }
}

#[test]
fn subscribe_faults() {
    let subscribe_5 = |filter: &[u8], options: u8| {
        let length = [0, u8::try_from(filter.len()).expect("short")];
        packet(0x82, &[b"\0\x01\0", &length, filter, &[options]])
    };
    let subscribe_311 = |filter: &[u8], options: u8| {
        let length = [0, u8::try_from(filter.len()).expect("short")];
        packet(0x82, &[b"\0\x01", &length, filter, &[options]])
    };
    accepted(Version::V5, &subscribe_5(b"a/#", 0x2E));
    accepted(Version::V311, &subscribe_311(b"a/#", 2));
    let v5 = |filter: &[u8], options| fault(Version::V5, &subscribe_5(filter, options));
    assert_eq!(v5(b"a", 0x03), Fault::SubscribeQosInvalid);
    assert_eq!(v5(b"a", 0x30), Fault::RetainHandlingInvalid);
    assert_eq!(v5(b"a", 0x40), Fault::SubscribeOptionsReserved);
    assert_eq!(v5(b"a", 0x80), Fault::SubscribeOptionsReserved);
    assert_eq!(v5(b"$share/g/a", 0x04), Fault::NoLocalOnShared);
    for filter in ["", "a#", "#/a", "a+", "+a/b", "$share/g", "$share//a", "$share/+/a"] {
        assert_eq!(v5(filter.as_bytes(), 0), Fault::FilterInvalid, "{filter}");
    }
    assert_eq!(v5(b"$share/g/", 0), Fault::FilterInvalid);
    assert_eq!(v5(b"$share/g/a#", 0), Fault::FilterInvalid);
    accepted(Version::V5, &subscribe_5(b"$share/g/#", 0));
    accepted(Version::V5, &subscribe_5(b"$shared/g", 0x04));
    // Before 5 it is a filter like any other.
    accepted(Version::V311, &subscribe_311(b"$share/g", 0));
    for options in [0x04, 0x08, 0x10, 0x40, 0x80] {
        let bytes = subscribe_311(b"a", options);
        assert_eq!(fault(Version::V311, &bytes), Fault::SubscribeOptionsReserved);
    }
    assert_eq!(fault(Version::V311, &subscribe_311(b"a", 3)), Fault::SubscribeQosInvalid);
    assert_eq!(v5(b"a\0", 0), Fault::NulInString);
    assert_eq!(v5(b"a\xFF", 0), Fault::Utf8Invalid);
    assert_eq!(fault(Version::V311, b"\x82\x02\0\x01"), Fault::FiltersEmpty);
    assert_eq!(fault(Version::V5, b"\x82\x03\0\x01\0"), Fault::FiltersEmpty);
    assert_eq!(fault(Version::V311, b"\x82\x07\0\0\0\x02ab\0"), Fault::PacketIdZero);
    assert_eq!(fault(Version::V311, b"\x82\x05\0\x01\0\x01a"), Fault::Truncated);
}

#[test]
fn unsubscribe_faults() {
    accepted(Version::V311, b"\xA2\x05\0\x01\0\x01a");
    assert_eq!(fault(Version::V311, b"\xA2\x02\0\x01"), Fault::FiltersEmpty);
    assert_eq!(fault(Version::V5, b"\xA2\x03\0\x01\0"), Fault::FiltersEmpty);
    assert_eq!(fault(Version::V311, b"\xA2\x06\0\x01\0\x02a#"), Fault::FilterInvalid);
    assert_eq!(fault(Version::V311, b"\xA2\x05\0\0\0\x01a"), Fault::PacketIdZero);
}

#[test]
fn suback_and_unsuback_codes() {
    accepted(Version::V311, b"\x90\x04\0\x01\x02\x80");
    accepted(Version::V5, b"\x90\x05\0\x01\0\x02\x97");
    assert_eq!(fault(Version::V311, b"\x90\x03\0\x01\x03"), Fault::GrantInvalid);
    assert_eq!(fault(Version::V5, b"\x90\x04\0\x01\0\x7F"), Fault::GrantInvalid);
    assert_eq!(fault(Version::V311, b"\x90\x02\0\x01"), Fault::CodesEmpty);
    assert_eq!(fault(Version::V5, b"\xB0\x03\0\x01\0"), Fault::CodesEmpty);
    accepted(Version::V5, b"\xB0\x04\0\x01\0\x11");
    accepted(Version::V311, b"\xB0\x02\0\x01");
    assert_eq!(fault(Version::V311, b"\xB0\x03\0\x01\0"), Fault::TrailingBytes);
    assert_eq!(fault(Version::V311, b"\x90\x03\0\0\0"), Fault::PacketIdZero);
}

#[test]
fn disconnect_and_auth() {
    accepted(Version::V5, b"\xE0\x01\x04");
    accepted(Version::V5, b"\xE0\x02\x04\0");
    assert_eq!(fault(Version::V5, b"\xE0\x03\x04\0\0"), Fault::TrailingBytes);
    accepted(Version::V5, b"\xF0\x06\x18\x04\x15\0\x01m");
    assert_eq!(fault(Version::V5, b"\xF0\x01\x18"), Fault::Truncated);
    assert_eq!(fault(Version::V5, b"\xF0\x02\x18\0"), Fault::AuthMethodMissing);
    assert_eq!(fault(Version::V5, b"\xF0\x05\x18\x03\x16\0\0"), Fault::AuthMethodMissing);
}

#[test]
fn connect_and_will_have_their_own_properties() {
    let session_expiry = b"\x11\0\0\0\x01";
    let will_delay = b"\x18\0\0\0\x01";
    let with_will = |connect: &[u8], will: &[u8]| {
        let length = [u8::try_from(will.len()).expect("short")];
        connect_5(0x04, connect, &[&length, will, b"\0\x01w\0\0"].concat())
    };
    let bytes = with_will(session_expiry, will_delay);
    let Ok(Packet::Connect(connect)) = decode(Version::V311, &bytes) else { panic!("{bytes:?}") };
    assert_eq!(connect.properties.session_expiry(), Some(1));
    assert_eq!(connect.properties.will_delay(), None);
    assert_eq!(connect.will.expect("there").properties.will_delay(), Some(1));
    let refused = |bytes: &[u8]| fault(Version::V5, bytes);
    assert_eq!(refused(&with_will(will_delay, b"")), Fault::PropertyMisplaced);
    assert_eq!(refused(&with_will(b"", session_expiry)), Fault::PropertyMisplaced);
    assert_eq!(refused(&connect_5(2, b"\x21\0\0", b"")), Fault::PropertyValueInvalid);
    assert_eq!(refused(&connect_5(2, b"\x16\0\0", b"")), Fault::AuthMethodMissing);
}

/// Of all 256 codes by packet, those of the tables of MQTT 5.
#[test]
fn a_packet_has_the_reason_codes_of_its_table_and_no_others() {
    const ACK: &[u8] = &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    const RELEASE: &[u8] = &[0, 0x92];
    type Row = (&'static str, fn(u8) -> Vec<u8>, &'static [u8], &'static [u8]);
    // 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1, 3.15.2.1; the last are
    // taken beside the table.
    let rows: [Row; 9] = [
        (
            "CONNACK",
            |code| vec![0x20, 3, 0, code, 0],
            &[
                0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
                0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
            ],
            &[1, 2, 3, 4, 5],
        ),
        ("PUBACK", |code| vec![0x40, 3, 0, 1, code], ACK, &[0x95]),
        ("PUBREC", |code| vec![0x50, 3, 0, 1, code], ACK, &[0x95]),
        ("PUBREL", |code| vec![0x62, 3, 0, 1, code], RELEASE, &[]),
        ("PUBCOMP", |code| vec![0x70, 3, 0, 1, code], RELEASE, &[]),
        (
            "SUBACK",
            |code| vec![0x90, 4, 0, 1, 0, code],
            &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2],
            &[],
        ),
        (
            "UNSUBACK",
            |code| vec![0xB0, 4, 0, 1, 0, code],
            &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
            &[],
        ),
        (
            "DISCONNECT",
            |code| vec![0xE0, 1, code],
            &[
                0, 4, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93,
                0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1,
                0xA2,
            ],
            &[],
        ),
        ("AUTH", |code| vec![0xF0, 6, code, 4, 0x15, 0, 1, b'm'], &[0, 0x18, 0x19], &[]),
    ];
    for (name, bytes, table, beside) in rows {
        for code in 0..=u8::MAX {
            let taken = decode(Version::V5, &bytes(code)).is_ok();
            let wanted = table.contains(&code) || beside.contains(&code);
            assert_eq!(taken, wanted, "{name} {code:#04x}");
        }
    }
    assert_eq!(fault(Version::V5, &[0x70, 3, 0, 1, 0x80]), Fault::ReasonUndefined);
    for version in OLD {
        for code in 0..=u8::MAX {
            let taken = decode(version, &[0x90, 3, 0, 1, code]).is_ok();
            assert_eq!(taken, matches!(code, 0 | 1 | 2 | 0x80), "SUBACK {code:#04x}");
        }
    }
}

#[test]
fn a_disconnect_says_what_its_side_may_say() {
    let both = [0, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let server = [
        0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1,
        0xA2,
    ];
    for code in 0..=u8::MAX {
        let (reason, shared) = (Reason(code), both.contains(&code));
        assert_eq!(reason.may_end(true), shared || server.contains(&code), "{code:#04x}");
        assert_eq!(reason.may_end(false), shared || code == 4, "{code:#04x}");
    }
}
