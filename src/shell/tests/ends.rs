//! Ends of connections: gentle, hard, by the peer, by a deadline.

use super::*;

#[test]
fn a_gentle_close_delivers_everything_first() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    // What the peer still says must not turn into a reset that eats what it is told.
    stream.write_all(&packet(3000, 1)).unwrap();
    let words = vec![42; 3 * 1024 * 1024];
    event_loop.core.send(id, &words);
    let deadline = event_loop.clock.now().plus(Duration::from_secs(30));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        stream.write_all(b"too late").unwrap();
        got
    });
    turn_until(&mut event_loop, |_| reader.is_finished());
    let got = reader.join().unwrap();
    assert!(got.starts_with(&words) && got.len() <= words.len() + 3000, "{}", got.len());
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert_eq!(event_loop.core.seen.last(), Some(&Seen::Closed(id, "closed")));
}

#[test]
fn a_gentle_close_ends_at_its_deadline() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (stream, id) = client(&mut event_loop, addr);
    let deadline = event_loop.clock.now().plus(Duration::from_millis(50));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert!(event_loop.clock.now() >= deadline);
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
    drop(stream);
}

#[test]
fn a_hard_close_is_reported_at_once_and_its_slot_is_free() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (_stream, id) = client(&mut event_loop, addr);
    let deadline = Instant::NEVER;
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: false, deadline });
    event_loop.turn().unwrap();
    assert_eq!(event_loop.core.seen, [Seen::Closed(id, "closed")]);
    let (_stream, next) = client(&mut event_loop, addr);
    assert_eq!(next.slot, id.slot);
    // A late word about the old one is not taken for the new one.
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: false, deadline });
    event_loop.turn().unwrap();
    assert_eq!(event_loop.core.live, [next]);
}

#[test]
fn the_end_of_a_peer_is_told_after_everything_it_said() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    let bytes: Vec<u8> = (0..50).flat_map(|number| packet(5000, number)).collect();
    let expected = bytes.clone();
    let writer = std::thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).unwrap();
        (stream, got)
    });
    turn_until(&mut event_loop, |_| writer.is_finished());
    let (_stream, got) = writer.join().unwrap();
    assert!(got == expected);
    turn_until(&mut event_loop, |event_loop| !event_loop.core.seen.is_empty());
    assert_eq!(event_loop.core.seen, [Seen::Finished(id)]);
}

#[test]
fn a_paused_socket_still_notices_the_end_of_its_peer() {
    let (mut event_loop, addr) = quiet(&config(4));
    event_loop.core.parking = Some(false);
    let (mut stream, id) = client(&mut event_loop, addr);
    stream.write_all(&packet(100, 1)).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 100);
    drop(stream);
    turn_until(&mut event_loop, |event_loop| event_loop.links.poll_at() != Instant::NEVER);
    assert!(event_loop.core.seen.is_empty());
    let later = event_loop.links.poll_at();
    event_loop.links.expire(later, &mut event_loop.core);
    assert_eq!(event_loop.core.seen, [Seen::Finished(id)]);
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
}

#[test]
fn a_large_buffer_that_stands_still_is_taken_back_for_who_waits() {
    let (mut event_loop, addr) = quiet(&config(1));
    let (mut lazy, lazy_id) = client(&mut event_loop, addr);
    lazy.write_all(&packet(50_000, 1)[..10_000]).unwrap();
    turn_until(&mut event_loop, |event_loop| event_loop.core.kept_max == 10_000);
    // Alone it may take all the time of the world.
    assert_eq!(event_loop.links.poll_at(), Instant::NEVER);
    let waiting = echo_client(addr, packet(30_000, 2));
    turn_until(&mut event_loop, |event_loop| event_loop.links.poll_at() != Instant::NEVER);
    assert!(event_loop.core.seen.is_empty(), "not at once");
    // A byte now and then is not enough.
    let mut next = event_loop.clock.now();
    turn_until(&mut event_loop, |event_loop| {
        if event_loop.clock.now() >= next {
            next = event_loop.clock.now().plus(Duration::from_millis(50));
            let _ = lazy.write_all(b"x");
        }
        event_loop.core.closed() > 0
    });
    assert_eq!(
        event_loop.core.seen,
        [Seen::Slow(lazy_id, 50_000), Seen::Closed(lazy_id, "closed")]
    );
    join_all(&mut event_loop, vec![waiting]);
}

#[test]
fn a_client_that_takes_nothing_of_what_waits_for_it_is_closed() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut lazy, lazy_id) = client(&mut event_loop, addr);
    // More than the system keeps for a socket.
    let words = vec![42; 32 * 1024 * 1024];
    event_loop.core.send(lazy_id, &words);
    turn_until(&mut event_loop, |event_loop| event_loop.links.poll_at() != Instant::NEVER);
    // Whatever it takes gives it all the time again.
    let first = event_loop.links.poll_at();
    let reader = std::thread::spawn(move || {
        lazy.read_exact(&mut vec![0; 8 * 1024 * 1024]).unwrap();
        lazy
    });
    turn_until(&mut event_loop, |_| reader.is_finished());
    let _lazy = reader.join().unwrap();
    turn_until(&mut event_loop, |event_loop| {
        let links = &mut event_loop.links;
        links.conn(lazy_id.slot).is_some_and(|conn| !conn.writable && conn.write_until > first)
    });
    event_loop.links.expire(first, &mut event_loop.core);
    assert_eq!(event_loop.core.closed(), 0);
    let later = event_loop.links.poll_at();
    assert!(later > event_loop.clock.now().plus(Duration::from_secs(20)));
    // What the system has still moved by then gives it time once more.
    while event_loop.core.closed() == 0 {
        let at = event_loop.links.poll_at();
        assert_ne!(at, Instant::NEVER);
        event_loop.links.expire(at, &mut event_loop.core);
    }
    assert_eq!(event_loop.core.seen, [Seen::Closed(lazy_id, "slow_reader")]);
}

/// A writer that counts what it is rid of until the other end refuses more.
fn pour(mut stream: TcpStream) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let chunk = [7; 16 * 1024];
        (0..20 * 64).take_while(|_| stream.write_all(&chunk).is_ok()).count() * chunk.len()
    })
}

#[test]
fn what_a_closing_peer_still_sends_is_thrown_away_up_to_a_bound() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    event_loop.core.send(id, b"the last word");
    let deadline = event_loop.clock.now().plus(Duration::from_secs(3600));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    let pouring = pour(stream.try_clone().unwrap());
    turn_until(&mut event_loop, |event_loop| {
        event_loop.links.conn(id.slot).is_none_or(|conn| conn.discard_left == 0)
    });
    // What it was told may still be on its way.
    event_loop.links.expire(deadline, &mut event_loop.core);
    assert_eq!(event_loop.core.seen, [Seen::Closed(id, "closed")]);
    assert!(pouring.join().unwrap() < 20 * 1024 * 1024, "not all of it was read");
    let mut got = [0; 13];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"the last word");
}

#[test]
fn a_closing_peer_that_reads_late_hears_everything_however_much_it_sends() {
    let (mut event_loop, addr) = quiet(&config(4));
    let (mut stream, id) = client(&mut event_loop, addr);
    // More than the system keeps for a socket.
    let words = vec![42; 32 * 1024 * 1024];
    event_loop.core.send(id, &words);
    let deadline = event_loop.clock.now().plus(Duration::from_secs(3600));
    event_loop.core.actions.push_back(Action::Close { conn: id, after_flush: true, deadline });
    let pouring = pour(stream.try_clone().unwrap());
    turn_until(&mut event_loop, |event_loop| {
        event_loop.links.conn(id.slot).is_some_and(|conn| conn.discard_left == 0)
    });
    // Nothing is left to do but to write: no turn is spent on what it sends.
    assert!(!event_loop.links.is_reading());
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 32 * 1024 * 1024];
        stream.read_exact(&mut got).unwrap();
        got
    });
    turn_until(&mut event_loop, |_| reader.is_finished());
    assert!(reader.join().unwrap() == words);
    event_loop.links.expire(deadline, &mut event_loop.core);
    assert_eq!(event_loop.core.seen, [Seen::Closed(id, "closed")]);
    assert!(pouring.join().unwrap() < 20 * 1024 * 1024);
}
