//! Brokers that are wired in a circle: what goes round is found, told and stopped, what is new
//! passes; and what only looks alike is left alone.

use crate::common::client::Client;
use crate::common::collector::Collector;
use crate::common::gateway::{Event, Gateway, bridge};
use crate::common::mosquitto::{Mosquitto, mosquitto_pub};
use crate::common::place::free_port;
use crate::common::wait_until;
use crate::common::wire::{Connect, Message};
use std::thread;
use std::time::Duration;

const ALL: &str = "forward.all.local_topic = #";

/// A gateway at a port that is known before it runs.
fn at_port(port: u16, configuration: &str) -> Gateway {
    let mut gateway = Gateway::prepare(configuration);
    gateway.port = port;
    gateway.configure(configuration);
    gateway.run();
    gateway
}

/// Two gateways, each the remote of the other.
fn two_in_a_circle(level: u8) -> [Gateway; 2] {
    let ports = [free_port(), free_port()];
    let version = format!("proto_ver = {level}");
    let pair = [(0, "there"), (1, "back")].map(|(at, name)| {
        let rules = [version.as_str(), ALL];
        at_port(ports[at], &bridge(name, ports[1 - at], &rules))
    });
    pair.iter().for_each(|gateway| drop(gateway.wait("bridge_up")));
    pair
}

fn taken(gateway: &Gateway) -> u64 {
    gateway.wait_stats("what came in", |_| true).number("in_msgs")
}

/// Nothing comes in any more.
fn is_quiet(gateway: &Gateway) -> bool {
    let before = taken(gateway);
    taken(gateway) == before
}

fn suspicions(gateway: &Gateway) -> Vec<Event> {
    gateway.events().into_iter().filter(|event| event.name == "loop_suspected").collect()
}

#[test]
fn what_goes_round_two_gateways_is_told_and_stopped() {
    for (level, qos) in [(5, 1), (4, 2), (5, 0)] {
        let pair = two_in_a_circle(level);
        let mut client = Connect::v5("lamp").open(pair[0].port);
        client.publish_without_waiting(&Message::new("lamp/state", "ON").qos(qos));
        wait_until("one of them says so", || {
            pair.iter().any(|gateway| !suspicions(gateway).is_empty())
        });
        let told = pair.iter().flat_map(suspicions).next().expect("it was there");
        assert_eq!(told.text("topic"), "lamp/state");
        assert!(["there", "back"].contains(&told.text("bridge")));
        assert!(told.number("count") >= 16, "{}", told.line);
        wait_until("it is stopped", || pair.iter().any(|gateway| gateway.dropped("loop") > 0));
        wait_until("nothing goes round", || is_quiet(&pair[0]));
    }
}

/// Two gateways, each the remote of the other, and each puts a prefix before what it forwards: what
/// goes round is another message each time, and ends at the longest topic there is. Nobody is
/// disconnected over it, and what is behind it gets through.
#[test]
fn what_grows_on_its_way_round_ends_at_the_longest_topic() {
    for (version, qos) in [("proto_ver = 5", 1), ("proto_ver = 5", 2), ("proto_ver = 4", 1)] {
        let ports = [free_port(), free_port()];
        let rules = ["forward.all.local_topic = in/#", "forward.all.prefix = in/", version];
        let pair = [(0, "there"), (1, "back")]
            .map(|(at, name)| at_port(ports[at], &bridge(name, ports[1 - at], &rules)));
        pair.iter().for_each(|gateway| drop(gateway.wait("bridge_up")));
        let far = Collector::start_with(pair[1].port, Connect::v4("far"), "in/in/last", 1);
        let mut client = Connect::v5("lamp").open(pair[0].port);
        assert!(client.publish(&Message::new("in/x", "round").qos(qos)) < 0x80);
        let dropped = || pair.iter().map(|gateway| gateway.dropped("topic_too_long")).sum::<u64>();
        wait_until("it is too long", || dropped() == 1);
        assert!(client.publish(&Message::new("in/last", "straight").qos(qos)) < 0x80);
        far.wait_count(1);
        wait_until("that is too long too", || dropped() == 2);
        wait_until("nothing goes round", || is_quiet(&pair[0]) && is_quiet(&pair[1]));
        for gateway in &pair {
            // One of the two was first, and found nobody.
            let down =
                |event: &Event| event.name == "bridge_down" && event.text("reason") != "refused";
            assert!(!gateway.events().iter().any(down), "{version} {qos}");
            // 256 bytes, six more each round.
            assert!(taken(gateway) < 100, "{version} {qos}");
        }
    }
}

/// The same with a mosquitto, whose bridge would come back with it for ever.
#[test]
fn what_grows_on_its_way_round_a_mosquitto_ends_at_the_longest_topic() {
    for version in ["mqttv311", "mqttv50"] {
        let port = free_port();
        let mosquitto = Mosquitto::start_with(&format!(
            "connection back\naddress 127.0.0.1:{port}\ntopic # out 1 in/ in/in/\n\
             notifications false\nbridge_protocol_version {version}\nrestart_timeout 1\n\
             cleansession false\n"
        ));
        let rules = ["forward.all.local_topic = in/#"];
        let gateway = at_port(port, &bridge("up", mosquitto.port, &rules));
        gateway.wait("bridge_up");
        gateway.wait("client_connected");
        mosquitto_pub(port, &["-t", "in/x", "-m", "ON", "-q", "1"]);
        wait_until("it is too long", || gateway.dropped("topic_too_long") == 1);
        // What is behind it gets through, and ends like it.
        mosquitto_pub(port, &["-t", "in/y", "-m", "ON", "-q", "1"]);
        wait_until("that is too long too", || gateway.dropped("topic_too_long") == 2);
        wait_until("nothing goes round", || is_quiet(&gateway));
        assert!(taken(&gateway) < 250, "three bytes more each round");
        let down = |event: &Event| event.name == "bridge_down";
        assert!(!gateway.events().iter().any(down), "{version}");
        let ends = gateway.events().into_iter().filter(|event| event.name == "client_disconnected");
        assert_eq!(ends.filter(|event| event.text("reason") != "disconnect").count(), 0);
    }
}

#[test]
fn a_known_circle_carries_what_is_new() {
    let pair = two_in_a_circle(5);
    let mut client = Connect::v5("lamp").open(pair[0].port);
    client.publish(&Message::new("lamp/state", "ON").qos(1));
    wait_until("it is stopped", || pair.iter().any(|gateway| gateway.dropped("loop") > 0));
    let far = Collector::start_with(pair[1].port, Connect::v5("far"), "numbers/#", 1);
    let near = Collector::start_with(pair[0].port, Connect::v5("near"), "back/#", 1);
    let mut other = Connect::v5("other").open(pair[1].port);
    for n in 0..200 {
        let message = |topic: &str| Message::new(topic, n.to_string()).qos(1);
        assert!(client.publish(&message("numbers/n")) < 0x80);
        assert!(other.publish(&message("back/n")) < 0x80);
    }
    far.wait_count(200);
    near.wait_count(200);
    for collector in [&far, &near] {
        for n in 0..200 {
            let is = |message: &&Message| message.text() == n.to_string();
            assert!(collector.messages().iter().any(|message| is(&message)), "{n} is missing");
        }
    }
    wait_until("nothing goes round", || is_quiet(&pair[0]));
}

/// A mosquitto that has a bridge of its own to a gateway.
fn mosquitto_with_bridge(gateway: u16, version: &str) -> Mosquitto {
    Mosquitto::start_with(&format!(
        "connection back\naddress 127.0.0.1:{gateway}\ntopic # out 1\nnotifications false\n\
         bridge_protocol_version {version}\nrestart_timeout 1\n"
    ))
}

#[test]
fn what_goes_round_by_a_bridge_of_mosquitto_is_told_and_stopped() {
    for version in ["mqttv311", "mqttv50"] {
        for from_mosquitto in [false, true] {
            let port = free_port();
            let mosquitto = mosquitto_with_bridge(port, version);
            let gateway = at_port(port, &bridge("up", mosquitto.port, &[ALL]));
            gateway.wait("bridge_up");
            gateway.wait("client_connected");
            let at = if from_mosquitto { mosquitto.port } else { port };
            mosquitto_pub(at, &["-t", "lamp/state", "-m", "ON", "-q", "1"]);
            let told = gateway.wait_with("loop_suspected", &[("bridge", "up")]);
            assert_eq!(told.text("topic"), "lamp/state");
            wait_until("it is stopped", || gateway.dropped("loop") > 0);
            wait_until("nothing goes round", || is_quiet(&gateway));
        }
    }
}

#[test]
fn two_bridges_to_one_remote_are_a_circle_too() {
    let mosquitto = Mosquitto::start_roomy();
    let both = [ALL, "subscribe.all.remote_topic = #", "subscribe.all.qos = 1"];
    let rules =
        format!("{}{}", bridge("a", mosquitto.port, &both), bridge("b", mosquitto.port, &both));
    let gateway = Gateway::start(&rules);
    for name in ["a", "b"] {
        gateway.wait_with("bridge_up", &[("bridge", name)]);
    }
    mosquitto.wait_line("Sending SUBACK");
    let mut client = Connect::v5("lamp").open(gateway.port);
    client.publish(&Message::new("lamp/state", "ON").qos(1));
    gateway.wait("loop_suspected");
    let received = |gateway: &Gateway| gateway.wait_stats("any", |_| true).number("recv_msgs");
    wait_until("nothing goes round", || received(&gateway) == received(&gateway));
}

#[test]
fn a_device_that_repeats_itself_is_not_taken_for_a_circle() {
    let mosquitto = Mosquitto::start_roomy();
    let gateway = Gateway::start(&bridge("up", mosquitto.port, &[ALL]));
    gateway.wait("bridge_up");
    let far = Collector::start_with(mosquitto.port, Connect::v4("far"), "#", 1);
    let mut threads = Vec::new();
    for (qos, pause) in [(1, 10), (0, 10), (1, 0)] {
        let port = gateway.port;
        threads.push(thread::spawn(move || {
            let mut client = Connect::v5(&format!("device{qos}{pause}")).open(port);
            for _ in 0..400 {
                let message = Message::new(&format!("status/{qos}/{pause}"), "online").qos(qos);
                if qos == 0 {
                    client.publish_without_waiting(&message);
                } else {
                    // One that waits for its acknowledgement.
                    assert!(client.publish(&message) < 0x80);
                }
                thread::sleep(Duration::from_millis(pause));
            }
            client.disconnect();
        }));
    }
    threads.into_iter().for_each(|device| device.join().expect("it is done"));
    far.wait_count(1200);
    assert_eq!((suspicions(&gateway).len(), gateway.dropped("loop")), (0, 0));
}

/// Says the same as soon as it hears the same.
fn echo(client: &mut Client, topic: &str, rounds: usize) {
    for _ in 0..rounds {
        assert_eq!(client.next().text(), "ping");
        assert!(client.publish(&Message::new(topic, "ping").qos(1)) < 0x80);
    }
}

#[test]
fn an_echo_is_not_taken_for_a_circle() {
    const ROUNDS: usize = 300;
    let mosquitto = Mosquitto::start_roomy();
    let rules = ["forward.1.local_topic = ask/#", "subscribe.1.remote_topic = answer/#"];
    let gateway = Gateway::start(&bridge("up", mosquitto.port, &rules));
    gateway.wait("bridge_up");
    mosquitto.wait_line("Sending SUBACK");
    let mut far = Connect::v4("far").open(mosquitto.port);
    far.subscribe(&[("ask/#", 1)]);
    let mut near = Connect::v5("near").open(gateway.port);
    near.subscribe(&[("answer/#", 1)]);
    let answering = thread::spawn(move || echo(&mut far, "answer/a", ROUNDS));
    near.publish(&Message::new("ask/a", "ping").qos(1));
    echo(&mut near, "ask/a", ROUNDS - 1);
    answering.join().expect("it has answered");
    assert_eq!(near.next().text(), "ping");
    assert_eq!((suspicions(&gateway).len(), gateway.dropped("loop")), (0, 0));
}
