//! Another client library (rumqttc), in both its versions.

use crate::common::PATIENCE;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use rumqttc::v5;
use std::thread;
use std::time::{Duration, Instant};

/// Runs a connection until it has heard `count` messages; their payloads by topic.
macro_rules! hear {
    ($connection:expr, $client:expr, $publish:pat => $message:expr, $count:expr) => {{
        let mut heard: Vec<(String, String)> = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while heard.len() < $count {
            assert!(Instant::now() < deadline, "heard only {heard:?}");
            match $connection.recv_timeout(Duration::from_millis(200)) {
                Ok(Ok($publish)) => heard.push($message),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => {}
            }
        }
        $client.disconnect().expect("still there");
        heard
    }};
}

fn expected(count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (format!("t/{n}"), n.to_string())).collect()
}

#[test]
fn rumqttc_in_3_1_1_at_every_qos() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    let gateway = Gateway::start("");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut options = MqttOptions::new("rumqttc", "127.0.0.1", gateway.port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = Client::new(options, 100);
        client.subscribe("t/#", qos).expect("queued");
        for n in 0..50 {
            client.publish(format!("t/{n}"), qos, false, n.to_string()).expect("queued");
        }
        let heard = hear!(connection, client, Event::Incoming(Packet::Publish(p)) => {
            (p.topic.clone(), String::from_utf8_lossy(&p.payload).into_owned())
        }, 50);
        assert_eq!(heard, expected(50), "{qos:?}");
    }
}

#[test]
fn rumqttc_in_5_at_every_qos() {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::Packet;
    use v5::{Client, Event, MqttOptions};
    let gateway = Gateway::start("");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut options = MqttOptions::new("rumqttc", "127.0.0.1", gateway.port);
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut connection) = Client::new(options, 100);
        client.subscribe("t/#", qos).expect("queued");
        for n in 0..50 {
            client.publish(format!("t/{n}"), qos, false, n.to_string()).expect("queued");
        }
        let heard = hear!(connection, client, Event::Incoming(Packet::Publish(p)) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&p.topic), text(&p.payload))
        }, 50);
        assert_eq!(heard, expected(50), "{qos:?}");
    }
}

#[test]
fn rumqttc_talks_across_a_bridge() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    let remote = Mosquitto::start();
    let gateway = Gateway::start(&bridge("up", remote.port, &["forward.1.local_topic = t/#"]));
    gateway.wait("bridge_up");
    let (far, mut at_far) = Client::new(MqttOptions::new("far", "127.0.0.1", remote.port), 100);
    far.subscribe("t/#", QoS::ExactlyOnce).expect("queued");
    remote.wait_line_while("Sending SUBACK to far", || {
        let _ = at_far.recv_timeout(Duration::from_millis(20));
    });
    let (near, mut at_near) = Client::new(MqttOptions::new("near", "127.0.0.1", gateway.port), 100);
    for n in 0..50 {
        near.publish(format!("t/{n}"), QoS::ExactlyOnce, false, n.to_string()).expect("queued");
    }
    let publisher = thread::spawn(move || {
        let mut completed = 0;
        for notice in at_near.iter() {
            if matches!(notice, Ok(Event::Incoming(Packet::PubComp(_)))) {
                completed += 1;
                if completed == 50 {
                    return;
                }
            }
        }
    });
    let heard = hear!(at_far, far, Event::Incoming(Packet::Publish(p)) => {
        (p.topic.clone(), String::from_utf8_lossy(&p.payload).into_owned())
    }, 50);
    assert_eq!(heard, expected(50));
    publisher.join().expect("all are completed");
}
