//! What an earlier version has stored and this one would not take: it goes, by name, and no more.

use super::World;
use crate::broker::subs::Subscription;
use crate::gateway::Gateway;
use crate::mqtt::Qos;
use crate::note::Note;
use crate::queue::store::{SpillStore, Table};

const SUB: Subscription = Subscription {
    qos: Qos::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: 2,
    id: 0,
};

fn rows(world: &mut World, table: Table) -> Vec<String> {
    let mut keys = Vec::new();
    let taken = |keys: &mut Vec<String>, key: &[u8]| keys.push(String::from_utf8_lossy(key).into());
    world.disk.scan(table, &mut |key, _| taken(&mut keys, key)).unwrap();
    keys.sort();
    keys
}

/// The names of what was refused, and in which string.
fn refused(world: &mut World) -> Vec<(String, &'static str)> {
    let notes = core::iter::from_fn(|| world.gateway.poll_note());
    let mut found: Vec<_> = notes
        .filter_map(|note| match note {
            Note::TextRefused { source: "store", name, string, .. } => {
                Some((name.as_str().to_owned(), string))
            }
            _ => None,
        })
        .collect();
    found.sort();
    found
}

#[test]
fn sessions_filters_and_retained_messages_with_such_text_are_dropped_and_the_rest_stays() {
    let mut world = World::new();
    let now = world.now;
    let client = world.client(b'c');
    world.client(b'\x7E');
    let session = world.gateway.sessions.find("c").unwrap();
    for filter in ["good/#", "bad/\u{7}", "worse\u{ffff}/#"] {
        world.gateway.subs.subscribe(session, filter, SUB).unwrap();
    }
    world.gateway.sessions[session].dirty = true;
    let bad = world.gateway.sessions.find("~").unwrap();
    world.gateway.sessions[bad].client_id.replace_range(.., "\u{7f}");
    world.gateway.sessions[bad].dirty = true;
    let property: &[u8] = b"\x26\0\x01k\0\x01\x07";
    for (topic, properties) in [("good", &b""[..]), ("a\tb", b""), ("p", property)] {
        let payload = [&b"x"[..]];
        let set =
            world.gateway.retained.set(topic, Qos::AtLeastOnce, properties, payload, None, now);
        set.unwrap();
    }
    world.gateway.retained_since = Some(now);
    world.now = now.plus(core::time::Duration::from_secs(90));
    world.turn(client);
    assert_eq!(rows(&mut world, Table::Retained), ["a\tb", "good", "p"]);

    let text = super::CONFIG;
    let (config, _) =
        crate::config::load("test", text, &mut |_: &str| unreachable!(), "n").unwrap();
    world.gateway = Gateway::new(config, 7, 64, world.now);
    world.gateway.restore(world.now, &mut world.disk).unwrap();
    let names = [
        ("\u{7f}".to_owned(), "client_id"),
        ("c".to_owned(), "filter"),
        ("c".to_owned(), "filter"),
        ("retained".to_owned(), "topic"),
        ("retained".to_owned(), "user_property"),
    ];
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(refused(&mut world), expected);
    assert!(world.gateway.sessions.find("\u{7f}").is_none());
    let session = world.gateway.sessions.find("c").unwrap();
    let filters: Vec<_> =
        world.gateway.subs.of_session(session).map(|(f, _)| f.to_owned()).collect();
    assert_eq!(filters, ["good/#"]);
    assert_eq!(world.gateway.retained.len(), 1);

    let client = world.client(b'c');
    world.turn(client);
    world.turn(client);
    assert_eq!(rows(&mut world, Table::Retained), ["good"], "nothing is told again at each start");
    assert!(!rows(&mut world, Table::Session).contains(&"\u{7f}".to_owned()));
}
