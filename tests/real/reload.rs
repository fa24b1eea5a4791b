//! SIGHUP: another configuration while clients are connected and messages are under way.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::gateway::{Event, Gateway, ROOMY_SESSIONS, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::place::free_port;
use crate::common::proxy::{Mode, Proxy};
use crate::common::publisher::Publisher;
use crate::common::stub::{Seen, Stub};
use crate::common::wire::{Connect, Message, PUBACK, Packet};
use crate::common::{numbered, wait_until};
use std::ffi::CString;
use std::fs::OpenOptions;
use std::thread;

const ALL: &str = "forward.1.local_topic = t/#";

/// Publishes numbers to `topic` at QoS 2 until all are accepted.
fn publish(client: &mut Client, topic: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        client.publish(&Message::new(topic, numbered(number)).qos(2));
    }
}

/// How often it came up; a line may stand for others like it.
fn bridge_ups(gateway: &Gateway, name: &str) -> u64 {
    let ups = gateway.events().into_iter().filter(|e| e.is("bridge_up", &[("bridge", name)]));
    ups.map(|up| 1 + if up.has("suppressed") { up.number("suppressed") } else { 0 }).sum()
}

#[test]
fn what_changed_and_what_needs_a_restart_is_said() {
    let gateway = Gateway::start("");
    let said = gateway.reload("session.max_messages = 7\nring.messages = 99\nlimit.clients = 3");
    assert_eq!(said.text("changed"), "session.max_messages");
    assert_eq!(said.text("restart"), "limit.clients,ring.messages");
}

#[test]
fn a_reload_that_is_asked_for_during_the_start_is_done_after_it() {
    let mut gateway = Gateway::prepare("");
    let rules = gateway.directory.file("acl");
    let path = CString::new(rules.as_os_str().as_encoded_bytes()).expect("no zero in it");
    // SAFETY: the path is a string that ends.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    gateway.configure(&format!("auth.acl_file = {}", rules.display()));
    // Open both ways nobody has to wait for the other end.
    let pipe = OpenOptions::new().read(true).write(true).open(&rules).expect("our own pipe");
    gateway.begin();
    // It reads its configuration, and cannot go on before the pipe is closed.
    let open = format!("/proc/{}/fd", gateway.process().id());
    crate::common::wait_until("it reads the rules", || {
        let files = std::fs::read_dir(&open).expect("our own child");
        let mut links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link == rules)
    });
    gateway.process().signal(libc::SIGHUP);
    std::fs::remove_file(&rules).expect("our own pipe");
    gateway.directory.write("acl", "topic readwrite b\n");
    drop(pipe);
    assert_eq!(gateway.wait("reloaded").text("changed"), "auth.acl_file");
}

#[test]
fn a_quieter_log_is_quiet_at_once() {
    let gateway = Gateway::start("");
    let mark = gateway.mark();
    // What is doubtful in the file is told as before, and shows that it was read.
    gateway.configure("log.level = warn\nlimit.clients = 300");
    gateway.process().signal(libc::SIGHUP);
    gateway.wait_from(mark, "config_warning", &[]);
    let mark = gateway.mark();
    Connect::v4("quiet").open(gateway.port).disconnect();
    assert_eq!(gateway.reload("log.level = warm").name, "reload_refused");
    let said = gateway.lines().split_off(mark);
    assert!(!said.iter().any(|line| line.contains(" INFO ")), "{said:?}");
}

#[test]
fn a_file_with_an_error_is_refused_whole_and_everything_goes_on() {
    let remote = Mosquitto::start_roomy();
    let good = bridge("up", remote.port, &[ALL]);
    let gateway = Gateway::start(&good);
    gateway.wait("bridge_up");
    let far = Collector::start(remote.port, "far", "t/#");
    let mut client = Connect::v4("near").open(gateway.port);
    let other = bridge("other", remote.port, &["forward.1.local_topic = #"]);
    let said = gateway.reload(&format!("{other}bridge.up.server = mqtt://127.0.0.1\nnonsense = 1"));
    assert_eq!(said.name, "reload_refused");
    let errors: Vec<_> =
        gateway.events().into_iter().filter(|e| e.name == "config_error").collect();
    assert!(errors[0].text("text").contains("nonsense"), "{errors:?}");
    assert_eq!((errors.len(), said.number("errors")), (1, 1), "{}", said.line);
    // Each error whole on a line of its own, whatever their number and length.
    let key = "x".repeat(70);
    let many: String = (0..60).map(|at| format!("{key}{at:02} = 1\n")).collect();
    let mark = gateway.mark();
    let said = gateway.reload(&format!("{good}{many}"));
    assert_eq!(said.number("errors"), 60, "{}", said.line);
    assert!(said.text("reason").ends_with("see config_error for 50 of them"), "{}", said.line);
    let whole = |event: &&Event| {
        event.name == "config_error" && event.text("text").contains("the nearest known one is ")
    };
    let lines: Vec<Event> =
        gateway.lines()[mark..].iter().filter_map(|line| Event::parse(line)).collect();
    assert_eq!(lines.iter().filter(whole).count(), 50);
    publish(&mut client, "t/a", 0..20);
    assert_eq!(far.wait_all_in_order(20), 0);
    assert_eq!((bridge_ups(&gateway, "up"), bridge_ups(&gateway, "other")), (1, 0));
    assert_eq!(gateway.reload(&good).text("changed"), "");
    client.ping();
}

#[test]
fn bridges_come_and_go_and_all_else_stays_connected() {
    let (near, far) = (Mosquitto::start_roomy(), Mosquitto::start());
    let (first, second) = (bridge("a", near.port, &[ALL]), bridge("b", far.port, &[ALL]));
    let gateway = Gateway::start(&first);
    gateway.wait("bridge_up");
    let at_near = Collector::start(near.port, "near", "t/#");
    let at_far = Collector::start(far.port, "far", "t/#");
    let mut client = Connect::v4("client").open(gateway.port);
    publish(&mut client, "t/a", 0..10);
    assert_eq!(gateway.reload(&format!("{first}{second}")).text("changed"), "+b");
    gateway.wait_with("bridge_up", &[("bridge", "b")]);
    publish(&mut client, "t/a", 10..20);
    at_near.wait_count(20);
    at_far.wait_count(10);
    let mark = gateway.mark();
    assert_eq!(gateway.reload(&second).text("changed"), "-a");
    gateway.wait_from(mark, "bridge_down", &[("bridge", "a"), ("reason", "reload")]);
    publish(&mut client, "t/a", 20..30);
    at_far.wait_count(20);
    assert_eq!(at_near.count(), 20);
    // Its place is there for another.
    let third = bridge("c", near.port, &[ALL]);
    assert_eq!(gateway.reload(&format!("{second}{third}")).text("changed"), "+c");
    gateway.wait_with("bridge_up", &[("bridge", "c")]);
    publish(&mut client, "t/a", 30..40);
    at_near.wait_count(30);
    at_far.wait_count(30);
    assert_eq!(bridge_ups(&gateway, "b"), 1, "it is the same");
    client.ping();
}

#[test]
fn what_waits_for_a_server_that_was_wrong_goes_to_the_right_one() {
    for store in ["", "store.path = none\n"] {
        let remote = Mosquitto::start_roomy();
        let far = Collector::start(remote.port, "far", "t/#");
        let gateway = Gateway::start(&format!("{store}{}", bridge("up", free_port(), &[ALL])));
        let mut client = Connect::v4("near").open(gateway.port);
        publish(&mut client, "t/a", 0..200);
        gateway.wait("bridge_down");
        let said = gateway.reload(&format!("{store}{}", bridge("up", remote.port, &[ALL])));
        assert_eq!(said.text("changed"), "up");
        publish(&mut client, "t/a", 200..220);
        assert_eq!(far.wait_all_in_order(220), 0);
    }
}

#[test]
fn a_removed_bridge_keeps_its_queue_until_it_is_back() {
    for killed in [false, true] {
        let remote = Mosquitto::start_roomy();
        let far = Collector::start(remote.port, "far", "t/#");
        let mut gateway = Gateway::start(&bridge("up", free_port(), &[ALL]));
        let mut client = Connect::v4("near").persistent().open(gateway.port);
        publish(&mut client, "t/a", 0..100);
        assert_eq!(gateway.reload("").text("changed"), "-up");
        // Nobody's: it has no bridge.
        publish(&mut client, "t/b", 0..10);
        if killed {
            gateway.kill();
            gateway.run();
        }
        let back = bridge("up", remote.port, &[ALL]);
        assert_eq!(gateway.reload(&back).text("changed"), "+up");
        gateway.wait("bridge_up");
        let mut client = Connect::v4("other").open(gateway.port);
        publish(&mut client, "t/a", 100..110);
        assert_eq!(far.wait_all_in_order(110), 0);
        assert_eq!(far.count(), 110);
    }
}

#[test]
fn rules_of_access_change_for_who_is_connected() {
    let mut gateway = Gateway::prepare("");
    let file = gateway.directory.write("acl", "topic readwrite a\n");
    let configuration = format!("auth.acl_file = {}", file.display());
    gateway.configure(&configuration);
    gateway.run();
    let mut client = Connect::v5("near").open(gateway.port);
    client.subscribe(&[("a", 1)]);
    assert_eq!(client.publish(&Message::new("a", "1").qos(1)), 0);
    assert_eq!(client.publish(&Message::new("b", "1").qos(1)), 0x87);
    gateway.directory.write("acl", "topic readwrite b\n");
    assert_eq!(gateway.reload(&configuration).text("changed"), "auth.acl_file");
    assert_eq!(client.publish(&Message::new("a", "2").qos(1)), 0x87);
    assert!(client.publish(&Message::new("b", "2").qos(1)) < 0x80);
    // A file with an error changes nothing.
    gateway.directory.write("acl", "nonsense\n");
    assert_eq!(gateway.reload(&configuration).name, "reload_refused");
    assert_eq!(client.publish(&Message::new("a", "3").qos(1)), 0x87);
    assert!(client.publish(&Message::new("b", "3").qos(1)) < 0x80);
}

#[test]
fn more_bridges_than_there_is_room_for_are_refused_and_names_make_room_for_each_other() {
    let remote = Mosquitto::start_roomy();
    let of = |names: &[&str]| -> String {
        names.iter().map(|name| bridge(name, remote.port, &[ALL])).collect()
    };
    let gateway = Gateway::start(&format!("limit.bridges = 2\n{}", of(&["a"])));
    let said = gateway.reload(&format!("limit.bridges = 9\n{}", of(&["a", "b", "c"])));
    assert_eq!(said.name, "reload_refused", "{}", said.line);
    for at in 0..12 {
        let name = format!("n{at}");
        let said = gateway.reload(&format!("limit.bridges = 2\n{}", of(&["a", &name])));
        assert_eq!(said.name, "reloaded", "{}", said.line);
        gateway.wait_with("bridge_up", &[("bridge", &name)]);
        let said = gateway.reload(&format!("limit.bridges = 2\n{}", of(&["a"])));
        assert_eq!(said.text("changed"), format!("-{name}"));
        gateway.wait_bridge_stats("a", "a row that is written", |_| true);
    }
    assert_eq!(bridge_ups(&gateway, "a"), 1);
}

#[test]
fn what_waits_is_sorted_by_the_new_rules() {
    let remote = Mosquitto::start_roomy();
    let mut far = Connect::v4("far").open(remote.port);
    far.subscribe(&[("#", 2)]);
    let port = free_port();
    let rules = ["forward.1.local_topic = a/#", "forward.2.local_topic = b/#", ALL_OF_C];
    let gateway = Gateway::start(&bridge("up", port, &rules));
    let mut client = Connect::v4("near").open(gateway.port);
    for topic in ["a/1", "b/1", "c/1"] {
        for qos in [1, 2] {
            client.publish(&Message::new(topic, format!("{topic} {qos}")).qos(qos));
        }
    }
    // The first has another target, the second another name, the third is gone.
    let rules = [
        "forward.1.local_topic = a/#",
        "forward.1.prefix = site/",
        "forward.other.local_topic = b/#",
        "forward.other.priority = high",
    ];
    gateway.reload(&bridge("up", remote.port, &rules));
    gateway.wait("bridge_up");
    client.publish(&Message::new("a/end", "end").qos(2));
    let mut heard: Vec<(String, String)> =
        far.until("end").into_iter().map(|m| (m.topic.clone(), m.text())).collect();
    heard.sort();
    let expected =
        [("b/1", "b/1 1"), ("b/1", "b/1 2"), ("site/a/1", "a/1 1"), ("site/a/1", "a/1 2")];
    let expected = expected.map(|(topic, text)| (topic.to_owned(), text.to_owned()));
    assert_eq!(heard, expected);
    gateway.wait_with("drop", &[("reason", "no_rule")]);
    gateway.wait_stats("two drops", |stats| stats.number("drops") == 2);
}

#[test]
fn what_a_bridge_does_not_subscribe_any_more_is_unsubscribed() {
    for (version, killed) in [(5, false), (4, false), (5, true)] {
        let remote = Mosquitto::start_roomy();
        let version = format!("proto_ver = {version}");
        let of = |filters: &[&str]| {
            let rules: Vec<String> =
                filters.iter().map(|f| format!("subscribe.{f}.remote_topic = {f}/#")).collect();
            let rules: Vec<&str> = rules.iter().map(String::as_str).chain([&version[..]]).collect();
            bridge("up", remote.port, &rules)
        };
        let mut gateway = Gateway::start(&of(&["a", "b", "c"]));
        gateway.wait("bridge_up");
        let unsubscribed = |count| {
            wait_until("UNSUBSCRIBE", || remote.count_lines("Received UNSUBSCRIBE") == count);
        };
        // While it runs, ...
        gateway.reload(&of(&["b", "c"]));
        unsubscribed(1);
        // ... and while it does not.
        if killed {
            gateway.kill();
        } else {
            gateway.stop();
        }
        gateway.configure(&of(&["c"]));
        gateway.run();
        unsubscribed(2);
        gateway.wait_with("bridge_up", &[("session_present", "true")]);
        let mut near = Connect::v4("near").open(gateway.port);
        near.subscribe(&[("#", 1)]);
        let mut far = Connect::v4("far").open(remote.port);
        for topic in ["a/1", "b/1", "c/1"] {
            far.publish(&Message::new(topic, topic).qos(1));
        }
        assert_eq!(near.next().text(), "c/1");
        assert_eq!(gateway.dropped("no_rule"), 0);
        assert_eq!(remote.count_lines("Received UNSUBSCRIBE"), 2, "once is enough");
    }
}

#[test]
fn an_unsubscribe_that_is_not_answered_is_said_again_and_then_no_more() {
    let remote = Stub::start(|session, number| {
        session.greet(number > 0, 0, &[])?;
        loop {
            match session.read()? {
                // The answer is lost the first time, and the session lasts.
                Packet::Unsubscribe { .. } if number == 1 => return Ok(()),
                Packet::Publish(_) => return Ok(()),
                packet => session.answer(&packet)?,
            }
        }
    });
    let both = ["subscribe.1.remote_topic = a", "subscribe.2.remote_topic = b", ALL];
    let gateway = Gateway::start(&bridge("up", remote.port, &both));
    gateway.wait("bridge_up");
    gateway.reload(&bridge("up", remote.port, &both[1..]));
    let asked = |seen: &[Seen]| {
        let filters = |seen: &Seen| match seen {
            Seen::Unsubscribe(filters) => Some(filters.clone()),
            _ => None,
        };
        seen.iter().filter_map(filters).collect::<Vec<_>>()
    };
    remote.wait("it twice", |seen| asked(seen).len() == 2);
    let mut client = Connect::v4("near").open(gateway.port);
    let mark = gateway.mark();
    // The remote ends the connection.
    client.publish(&Message::new("t/1", "x"));
    gateway.wait_from(mark, "bridge_down", &[]);
    gateway.wait_from(mark, "bridge_up", &[]);
    client.publish(&Message::new("t/1", "x"));
    remote.wait_published(2);
    assert_eq!(asked(&remote.seen()), [["a"], ["a"]]);
}

const ALL_OF_C: &str = "forward.3.local_topic = c/#";

/// A configuration that takes everything below `t/` to the remote, one of many.
fn any(seed: &mut u64, port: u16, elsewhere: u16) -> String {
    let mut pick = |count: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 33) % count
    };
    let rules: &[&str] = match pick(6) {
        0 => &["forward.a.local_topic = t/#"],
        1 => &["forward.b.local_topic = t/#", "forward.b.priority = high"],
        2 => &["forward.q.local_topic = t/q1", "forward.a.local_topic = #"],
        3 => &["forward.a.local_topic = t/+", "forward.a.priority = low"],
        4 => &[
            "forward.a.local_topic = t/#",
            "forward.a.rate = 2000/s",
            "forward.a.overflow = block",
        ],
        _ => &["forward.q.local_topic = t/q2", "forward.r.local_topic = t/#"],
    };
    let window = format!("max_inflight = {}", 5 + pick(40));
    let keepalive = format!("keepalive = {}s", 20 + pick(3));
    let mut rules: Vec<&str> = rules.to_vec();
    rules.extend([window.as_str(), keepalive.as_str()]);
    let mut text = bridge("main", port, &rules);
    if pick(2) == 0 {
        text += &bridge("side", elsewhere, &["forward.1.local_topic = t/q1"]);
    }
    if pick(3) == 0 {
        text += &bridge("dead", 1, &["forward.1.local_topic = other/#"]);
    }
    format!("{ROOMY_SESSIONS}session.expiry = {}h\n{text}", 1 + pick(5))
}

#[test]
fn fifty_reloads_under_load_lose_nothing() {
    const COUNT: usize = 3000;
    let (remote, elsewhere) = (Mosquitto::start_roomy(), Mosquitto::start());
    let mut seed = 7;
    let gateway = Gateway::start(&any(&mut seed, remote.port, elsewhere.port));
    let far: Vec<Collector> =
        ["t/q1", "t/q2"].iter().map(|topic| Collector::start(remote.port, topic, topic)).collect();
    let near = Collector::start_with(gateway.port, Connect::v4("sub").persistent(), "t/q1", 1);
    let port = gateway.port;
    let publishers = [(1, "t/q1"), (2, "t/q2")].map(|(qos, topic)| {
        thread::spawn(move || Publisher::numbered(topic, topic, qos, COUNT).window(20).run(port))
    });
    let mut reloads = 0;
    while reloads < 50 || !publishers.iter().all(thread::JoinHandle::is_finished) {
        let said = gateway.reload(&any(&mut seed, remote.port, elsewhere.port));
        assert_eq!(said.name, "reloaded", "{}", said.line);
        reloads += 1;
    }
    for publisher in publishers {
        publisher.join().expect("nobody was disconnected");
    }
    far[0].wait_all_in_order(COUNT);
    assert_eq!(far[1].wait_all_in_order(COUNT), 0, "QoS 2 comes once");
    assert_eq!(near.wait_all_in_order(COUNT), 0, "local subscribers notice nothing");
    assert_eq!(gateway.dropped("no_rule"), 0);
    let ups = bridge_ups(&gateway, "main");
    assert!(ups > 20, "{reloads} reloads, up {ups} times");
}

/// What the largest packet is stays until a restart; a quota that is lowered below it does not.
#[test]
fn a_quota_that_is_lowered_below_the_largest_packet_blocks_nobody_for_ever() {
    let remote = Mosquitto::start_roomy();
    let link = Proxy::start_in(Mode::Refuse, remote.port);
    let far = Collector::start(remote.port, "far", "t/#");
    let rules = ["forward.1.local_topic = t/#", "proto_ver = 4"];
    let gateway = Gateway::start(&bridge("up", link.port, &rules));
    let lowered = [&rules[..], &["max_bytes = 64KiB"]].concat();
    let reloaded = gateway.reload(&bridge("up", link.port, &lowered));
    assert_eq!(reloaded.name, "reloaded", "{}", reloaded.line);
    let mut client = Connect::v5("client").open(gateway.port);
    let large = Message::new("t/large", vec![b'x'; 200_000]).qos(1);
    // Taken, for nothing else waits; its quota of the store has no room for it, the line has.
    let id = client.publish_without_waiting(&large);
    gateway.wait_stats("it is taken", |stats| stats.number("in_msgs") == 1);
    link.set(Mode::Pass);
    assert!(client.wait_ack(PUBACK, id).code < 0x80);
    far.wait("it arrives", |messages| messages.iter().any(|m| m.payload == large.payload));
    assert!(client.publish(&Message::new("t/small", "x").qos(1)) < 0x80);
}
