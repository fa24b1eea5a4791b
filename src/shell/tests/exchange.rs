//! Bytes there and back: order, large packets, back-pressure.

use super::*;

#[test]
fn many_small_packets_of_many_clients_come_back_in_order() {
    let (mut event_loop, addr) = quiet(&config(4));
    let clients = (0..10)
        .map(|client| {
            let bytes = (0..2000_usize)
                .flat_map(|number| {
                    packet(5 + number % 90, u8::try_from((number + client) % 256).unwrap())
                })
                .collect();
            echo_client(addr, bytes)
        })
        .collect();
    join_all(&mut event_loop, clients);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 10);
}

#[test]
fn more_large_packets_than_large_buffers_all_get_through() {
    for large_buffers in [1, 2, 4] {
        let (mut event_loop, addr) = quiet(&config(large_buffers));
        let clients = (0..8)
            .map(|client| {
                let bytes = (0..20_u8)
                    .flat_map(|number| {
                        packet(64 * 1024 - usize::from(number) * 3000, number ^ client)
                    })
                    .collect();
                echo_client(addr, bytes)
            })
            .collect();
        join_all(&mut event_loop, clients);
        assert!(event_loop.core.kept_max <= 64 * 1024);
    }
}

#[test]
fn a_client_that_is_not_served_stops_being_read_and_others_go_on() {
    for open in [true, false] {
        let (mut event_loop, addr) = quiet(&config(4));
        event_loop.core.parking = Some(open);
        let bytes: Vec<u8> =
            (0..40_000_usize).flat_map(|n| packet(100, u8::try_from(n % 251).unwrap())).collect();
        let blocked = echo_client(addr, bytes);
        turn_until(&mut event_loop, |event_loop| !event_loop.core.live.is_empty());
        // It is read until what it may keep is full, and then the loop has nothing to do.
        turn_until(&mut event_loop, |event_loop| !event_loop.busy && event_loop.core.kept_max > 0);
        for _ in 0..20 {
            event_loop.turn().unwrap();
            assert!(!event_loop.busy);
        }
        assert!(event_loop.core.kept_max <= 64 * 1024);
        assert!(!blocked.is_finished());
        event_loop.core.unpark();
        join_all(&mut event_loop, vec![blocked]);
    }
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut stream, _) = client(&mut event_loop, addr);
    stream.set_nodelay(true).unwrap();
    for byte in packet(40, 7) {
        stream.write_all(&[byte]).unwrap();
        event_loop.turn().unwrap();
    }
    turn_until(&mut event_loop, |event_loop| {
        event_loop.turn().unwrap();
        event_loop.core.ready.is_empty() && !event_loop.busy
    });
    let mut got = [0; 40];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got[..], packet(40, 7));
}

#[test]
fn a_bridge_reads_large_packets_while_clients_hold_all_buffers() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut lazy, _) = client(&mut event_loop, addr);
    lazy.write_all(&packet(50_000, 1)[..10_000]).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 10_000);
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let conn = event_loop.core.open();
    let addr = remote.local_addr().unwrap();
    event_loop.core.actions.push_back(Action::Dial { conn, bridge: BridgeId(0), addr });
    let (mut peer, _) = loop {
        remote.set_nonblocking(true).unwrap();
        match remote.accept() {
            Ok(peer) => break peer,
            Err(_) => event_loop.turn().unwrap(),
        }
    };
    peer.set_nonblocking(false).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.contains(&Seen::Connected(conn)));
    let peer = std::thread::spawn(move || {
        peer.write_all(&packet(60_000, 9)).unwrap();
        let mut got = vec![0; 60_000];
        peer.read_exact(&mut got).unwrap();
        got == packet(60_000, 9)
    });
    join_all(&mut event_loop, vec![peer]);
}

/// Does the kernel acknowledge this connection's input at once? Sets it to delay when asked to.
fn is_prompt(event_loop: &mut Loop, id: ConnId, delay: bool) -> bool {
    use std::os::fd::AsRawFd;
    let conn = event_loop.links.conn(id.slot).unwrap();
    let Transport::Tcp(stream) = &conn.transport;
    let (mut value, mut bytes) = (0, 4);
    // SAFETY: both calls get a pointer to an integer of ours and its length.
    unsafe {
        let (fd, at) = (stream.as_raw_fd(), (&raw mut value).cast());
        if delay {
            assert_eq!(libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, at, bytes), 0);
        }
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, at, &raw mut bytes);
    }
    value != 0
}

#[test]
fn what_gets_no_answer_is_acknowledged_by_the_kernel_before_long() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    assert!(!is_prompt(&mut event_loop, id, true));
    // Not a whole packet: there is nothing to be said.
    stream.write_all(&packet(100, 1)[..30]).unwrap();
    turn_until(&mut event_loop, |event_loop| is_prompt(event_loop, id, false));
    assert_eq!(event_loop.links.prompt_at(), Instant::NEVER);
    // Once for what was read, not with every turn.
    assert!(!is_prompt(&mut event_loop, id, true));
    event_loop.turn().unwrap();
    assert!(!is_prompt(&mut event_loop, id, false));
}

#[test]
fn what_is_answered_costs_no_call_and_a_busy_loop_waits_for_an_answer() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    assert!(!is_prompt(&mut event_loop, id, true));
    stream.write_all(&packet(100, 1)).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.echoed == 1);
    assert!(!is_prompt(&mut event_loop, id, false), "the answer carries it");
    let read = |event_loop: &mut Loop, now| {
        event_loop.links.ready(id);
        event_loop.links.conn(id.slot).unwrap().readable = true;
        event_loop.links.line_up(id.slot);
        event_loop.links.read_all(now, &mut event_loop.core);
        event_loop.links.conn(id.slot).unwrap().unanswered
    };
    stream.write_all(&packet(100, 1)[..30]).unwrap();
    let now = event_loop.clock.now();
    while read(&mut event_loop, now) == 0 {}
    event_loop.links.acknowledge(now, Duration::ZERO, &event_loop.core);
    assert!(!is_prompt(&mut event_loop, id, false), "the rest may come at once");
    let later = event_loop.links.prompt_at();
    assert!(later > now && later != Instant::NEVER);
    event_loop.links.acknowledge(later, Duration::ZERO, &event_loop.core);
    assert!(is_prompt(&mut event_loop, id, false));
}
