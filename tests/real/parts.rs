//! The instruments themselves, against mosquitto: what they say can be believed.

use crate::common::client::dial;
use crate::common::collector::Collector;
use crate::common::mosquitto::{Mosquitto, MosquittoSub, mosquitto_pub};
use crate::common::names::{Answer, NameServer};
use crate::common::proxy::{Mode, Proxy, SynHole};
use crate::common::publisher::Publisher;
use crate::common::stub::Stub;
use crate::common::wire::{Connect, Message, user_property};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

#[test]
fn the_client_speaks_both_versions_at_every_qos() {
    let broker = Mosquitto::start();
    for level in [4, 5] {
        let mut client = Connect::new(level, "both").open(broker.port);
        assert_eq!(client.subscribe(&[("t/#", 2)]), [2]);
        for qos in [0, 1, 2] {
            let message = Message::new("t/a", format!("{qos}")).qos(qos);
            let message =
                if level == 5 { message.property(user_property("k", "v")) } else { message };
            assert_eq!(client.publish(&message), 0);
            let back = client.next();
            assert_eq!((back.text(), back.qos), (qos.to_string(), qos));
            assert_eq!(back.properties, message.properties);
        }
        client.unsubscribe("t/#");
        client.ping();
        client.disconnect();
    }
}

#[test]
fn publisher_and_collector_carry_a_numbered_run() {
    let broker = Mosquitto::start();
    let collector = Collector::start(broker.port, "collector", "n");
    Publisher::numbered("publisher", "n", 2, 500).window(15).run(broker.port);
    assert_eq!(collector.wait_all_in_order(500), 0);
}

#[test]
fn mosquittos_own_clients_are_heard() {
    let broker = Mosquitto::start();
    let sub = MosquittoSub::start(broker.port, "%t %q %p", &["-t", "a/+", "-q", "2"]);
    mosquitto_pub(broker.port, &["-t", "a/b", "-q", "1", "-m", "hello"]);
    assert_eq!(sub.take(1), ["a/b 1 hello"]);
}

#[test]
fn a_collector_returns_to_its_session_after_a_restart() {
    let mut broker = Mosquitto::start_persistent();
    let collector = Collector::start(broker.port, "collector", "n");
    broker.kill();
    broker.run();
    collector.wait_subscribed(2);
    Publisher::numbered("publisher", "n", 1, 3).run(broker.port);
    collector.wait_all_in_order(3);
}

/// Sends a byte through the proxy to a stub that returns it, `None` when nothing comes back.
fn echo(stream: &mut TcpStream, patience: Duration) -> Result<u8, ErrorKind> {
    stream.write_all(b"x").map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(patience)).expect("a TCP socket");
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => Err(ErrorKind::UnexpectedEof),
        Ok(_) => Ok(byte[0]),
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn the_proxy_cuts_as_it_says() {
    let short = Duration::from_millis(100);
    let long = Duration::from_secs(10);
    let server = Stub::start(|session, _| {
        let mut byte = [0];
        while session.wire.stream.read(&mut byte)? > 0 {
            session.wire.stream.write_all(&byte)?;
        }
        Ok(())
    });
    let proxy = Proxy::start(server.port);
    let mut stream = dial(proxy.port).expect("passes");
    assert_eq!(echo(&mut stream, long), Ok(b'x'));

    proxy.set(Mode::Stall);
    assert_eq!(echo(&mut stream, short), Err(ErrorKind::WouldBlock));
    proxy.set(Mode::Pass);
    assert_eq!(echo(&mut stream, long), Ok(b'x'));

    proxy.set(Mode::BlackHole);
    let mut late = dial(proxy.port).expect("accepted and mute");
    // The answer to the byte repeated after the stall may still be on its way.
    while echo(&mut stream, short) == Ok(b'x') {}
    assert_eq!(echo(&mut late, short), Err(ErrorKind::WouldBlock));
    proxy.set(Mode::Pass);
    assert_eq!(echo(&mut stream, short), Err(ErrorKind::WouldBlock));

    let mut stream = dial(proxy.port).expect("passes again");
    assert_eq!(echo(&mut stream, long), Ok(b'x'));
    proxy.set(Mode::Reset);
    assert_eq!(echo(&mut stream, long), Err(ErrorKind::ConnectionReset));

    proxy.set(Mode::Refuse);
    let refused = dial(proxy.port).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    proxy.set(Mode::Pass);
    let mut stream = dial(proxy.port).expect("listens again");
    proxy.set(Mode::HalfOpen);
    assert_eq!(echo(&mut stream, short), Err(ErrorKind::WouldBlock));
}

#[test]
fn a_delayed_link_takes_its_time() {
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port);
    proxy.delay(Duration::from_millis(50));
    let before = std::time::Instant::now();
    Connect::v4("slow").open(proxy.port);
    assert!(before.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_syn_hole_lets_nobody_in() {
    let hole = SynHole::start();
    let address = ([127, 0, 0, 1], hole.port).into();
    let error = TcpStream::connect_timeout(&address, Duration::from_millis(200));
    assert_eq!(error.expect_err("no answer").kind(), ErrorKind::TimedOut);
}

#[test]
fn the_name_server_answers_as_told() {
    let server = NameServer::start(Answer::Loopback);
    let port: u16 = server.environment()[2].1.parse().expect("a port");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP port");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a UDP socket");
    let question = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1];
    let ask = || {
        let mut answer = [0; 512];
        socket.send_to(&question, ("127.0.0.1", port)).expect("sent");
        socket.recv(&mut answer).map(|count| answer[..count].to_vec())
    };
    let answer = ask().expect("an answer");
    assert_eq!((answer[3] & 15, answer[7]), (0, 1));
    assert!(answer.ends_with(&[127, 0, 0, 1]));
    server.set(Answer::NoSuchName);
    assert_eq!(ask().expect("an answer")[3] & 15, 3);
    server.set(Answer::Silence);
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a UDP socket");
    ask().expect_err("silence");
    assert_eq!(server.questions(), 3);
}
