//! Request and response over two bridges: who asks and who answers are clients of two gateways with
//! a remote broker between them, and what ties answer to question passes everything on the way.

use crate::common::client::Client;
use crate::common::gateway::{Gateway, bridge};
use crate::common::mosquitto::Mosquitto;
use crate::common::proxy::{Mode, Proxy};
use crate::common::wire::{
    CONTENT_TYPE, CORRELATION_DATA, Connect, Message, PAYLOAD_FORMAT, Property, RESPONSE_TOPIC,
    find, prefixed, user_property,
};

/// Asks for and answers on topics that both bridges carry.
fn asking(port: u16) -> String {
    bridge("up", port, &["forward.1.local_topic = ask/#", "subscribe.1.remote_topic = answer/#"])
}

fn answering(port: u16) -> String {
    bridge("up", port, &["forward.1.local_topic = answer/#", "subscribe.1.remote_topic = ask/#"])
}

fn question(number: u8) -> Message {
    Message::new("ask/time", format!("question {number}"))
        .qos(1)
        .property((PAYLOAD_FORMAT, vec![1]))
        .property((CONTENT_TYPE, prefixed(b"text/plain")))
        .property((RESPONSE_TOPIC, prefixed(b"answer/near")))
        .property((CORRELATION_DATA, prefixed(&[number, 0, 255])))
        .property(user_property("b", "1"))
        .property(user_property("a", "2"))
        .property(user_property("b", "1"))
}

fn user(message: &Message) -> Vec<Property> {
    let user = |(id, _): &&Property| *id == user_property("", "").0;
    message.properties.iter().filter(user).cloned().collect()
}

/// Answers as any responder does: to the topic and with the data of the question.
fn answer(client: &mut Client) {
    let asked = client.next();
    let topic = find(&asked.properties, RESPONSE_TOPIC).expect("where to answer");
    let topic = String::from_utf8(topic[2..].to_vec()).expect("a topic");
    let data = find(&asked.properties, CORRELATION_DATA).expect("which question");
    let mut answer = Message::new(&topic, format!("answer to {}", asked.text()))
        .qos(1)
        .property((CORRELATION_DATA, data.to_vec()));
    answer.properties.extend(user(&asked));
    assert!(client.publish(&answer) < 0x80);
}

fn is_answered(client: &mut Client, number: u8) {
    let message = client.next();
    assert_eq!(message.topic, "answer/near");
    assert_eq!(message.text(), format!("answer to question {number}"));
    let data = find(&message.properties, CORRELATION_DATA).map(<[u8]>::to_vec);
    assert_eq!(data, Some(prefixed(&[number, 0, 255])));
    assert_eq!(user(&message), user(&question(number)));
}

#[test]
fn an_answer_finds_whoever_asked_over_two_gateways_and_a_broker() {
    let remote = Mosquitto::start();
    let near = Gateway::start(&asking(remote.port));
    let far = Gateway::start(&answering(remote.port));
    for gateway in [&near, &far] {
        gateway.wait("bridge_up");
    }
    let mut asks = Connect::v5("asks").open(near.port);
    asks.subscribe(&[("answer/near", 1)]);
    let mut answers = Connect::v5("answers").open(far.port);
    answers.subscribe(&[("ask/#", 1)]);
    // The bridges' own subscriptions are there when their remote has answered them.
    remote.wait_line_while("ask/# (QoS", || {});
    remote.wait_line_while("answer/# (QoS", || {});
    for number in 1..=3 {
        asks.publish(&question(number));
        answer(&mut answers);
        is_answered(&mut asks, number);
    }
}

#[test]
fn question_and_answer_wait_on_disk_and_still_belong_together() {
    let remote = Mosquitto::start_persistent();
    let [near_link, far_link] = [(); 2].map(|()| Proxy::start(remote.port));
    let mut near = Gateway::start(&asking(near_link.port));
    let mut far = Gateway::start(&answering(far_link.port));
    let asks = Connect::v5("asks").persistent();
    let answers = Connect::v5("answers").persistent();
    let mut asker = asks.open(near.port);
    asker.subscribe(&[("answer/near", 1)]);
    let mut answerer = answers.open(far.port);
    answerer.subscribe(&[("ask/#", 1)]);
    remote.wait_line_while("ask/# (QoS", || {});
    remote.wait_line_while("answer/# (QoS", || {});
    near_link.set(Mode::Refuse);
    for number in 1..=3 {
        asker.publish(&question(number));
    }
    near.kill();
    near.run();
    let mut asker = asks.open(near.port);
    far_link.set(Mode::Refuse);
    near_link.set(Mode::Pass);
    // The remote has them; its connection to the other gateway is cut.
    near.wait_bridge_stats("up", "nothing waiting", |event| event.number("store") == 0);
    far_link.set(Mode::Pass);
    for _ in 1..=3 {
        answer(&mut answerer);
    }
    far.kill();
    far.run();
    for number in 1..=3 {
        is_answered(&mut asker, number);
    }
}
