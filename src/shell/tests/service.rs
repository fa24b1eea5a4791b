//! Everything beside bytes: dials, names, probes, signals, the log, listeners.

use super::*;

#[test]
fn dials_that_fail_say_why() {
    let (mut event_loop, _) = quiet(&config(4));
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conn = event_loop.core.open();
    event_loop.core.actions.push_back(Action::Dial { conn, bridge: BridgeId(0), addr });
    turn_until(&mut event_loop, |event_loop| event_loop.core.closed() == 1);
    assert_eq!(event_loop.core.seen, [Seen::Closed(conn, "refused")]);
}

#[test]
fn names_and_probes_are_answered() {
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = remote.local_addr().unwrap();
    let mut config = config(4);
    config.bridges[0].servers[0].port = addr.port();
    let (mut event_loop, _) = quiet(&config);
    let bridge = BridgeId(0);
    event_loop
        .core
        .actions
        .extend([Action::Resolve { bridge, server: 0 }, Action::Probe { bridge, server: 0 }]);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 2);
    assert_eq!(event_loop.core.seen[0], Seen::Resolved(vec![addr], "literal"));
    assert_eq!(event_loop.core.seen[1], Seen::Probed(true));
    event_loop.core.seen.clear();
    drop(remote);
    event_loop.core.actions.extend([
        Action::Resolve { bridge, server: 1 },
        Action::Resolve { bridge, server: 2 },
        Action::Probe { bridge, server: 0 },
    ]);
    turn_until(&mut event_loop, |event_loop| event_loop.core.seen.len() == 3);
    for seen in [
        Seen::Resolved(vec![], "bad_name"),
        Seen::Resolved(vec![], "no_server"),
        Seen::Probed(false),
    ] {
        assert!(event_loop.core.seen.contains(&seen), "{seen:?}");
    }
}

#[test]
fn a_stop_closes_the_doors_and_ends_the_run() {
    let (mut event_loop, addr) = quiet(&config(4));
    // SAFETY: the signal goes to this very thread, which has it blocked.
    unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
    assert_eq!(event_loop.run(), 0);
    // SAFETY: takes the guard of the stop off the process that runs the other tests.
    unsafe { libc::alarm(0) };
    assert_eq!(event_loop.core.seen, [Seen::Stop("SIGTERM")]);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn listening_and_figures_are_logged_and_a_reload_is_refused() {
    let (reader, writer) = io::pipe().unwrap();
    let (mut event_loop, addr) = start(&config(4), File::from(OwnedFd::from(writer)));
    // SAFETY: the signal goes to this very thread, which has it blocked.
    unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGHUP) };
    for _ in 0..5 {
        event_loop.turn().unwrap();
    }
    drop(event_loop);
    let text = io::read_to_string(reader).unwrap();
    for line in [
        format!("INFO spillway::listener event=listening listener=one addr={addr}\n"),
        "WARN spillway::loop event=stall part=figures duration_ms=1\n".to_owned(),
        "event=reload_refused reason=\"there is no file to read\" errors=1\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[test]
fn a_listener_whose_place_is_taken_is_an_error_with_its_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(4);
    config.listeners[0].port = taken.local_addr().unwrap().port();
    let logging = Logging::to_file(
        File::options().write(true).open("/dev/null").unwrap(),
        log::LevelFilter::Info,
        None,
    );
    let error =
        Loop::new(&config, Echo::default(), None, Clock::start(), logging, Paths::default(), 1)
            .unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("listener.one.url (line 1): cannot listen on 127.0.0.1:"), "{said}");
}
