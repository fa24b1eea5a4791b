//! Lines that repeat, lines that are all different, and in what order they come.

use super::super::budget::{STRANGERS_BYTES, STRANGERS_BYTES_A_MINUTE};
use super::*;

struct Bench {
    throttle: Throttle,
    printed: Vec<String>,
    facts: u64,
}

impl Bench {
    fn new() -> Self {
        let mut throttle = Throttle::new();
        throttle.know_bridges(["hub", "b2"].map(text).into_iter());
        Self { throttle, printed: Vec::new(), facts: 0 }
    }

    fn note(&mut self, millis: u64, note: &Note) {
        self.facts += 1;
        let printed = &mut self.printed;
        let heading = Heading { level: log::Level::Warn, part: note.part() };
        self.throttle.note(at(millis), heading, note, &mut |_, line| {
            printed.push(line.as_str().to_owned());
        });
    }

    fn expire(&mut self, millis: u64) {
        let printed = &mut self.printed;
        self.throttle.expire(at(millis), &mut |_, line| printed.push(line.as_str().to_owned()));
    }

    /// Ends, and counts what the lines stand for.
    fn stands_for(&mut self) -> u64 {
        let printed = &mut self.printed;
        self.throttle.drain(&mut |_, line| printed.push(line.as_str().to_owned()));
        let stands_for = |line: &String| {
            let suppressed = line.rsplit_once(" suppressed=").map_or(0, |(_, rest)| {
                let digits = rest.split(' ').next().unwrap();
                digits.parse::<u64>().unwrap()
            });
            suppressed + u64::from(!line.starts_with("event=log_limited"))
        };
        self.printed.iter().map(stands_for).sum()
    }

    fn bytes(&self) -> u64 {
        self.printed.iter().map(|line| u64::try_from(line.len()).unwrap()).sum()
    }
}

fn at(millis: u64) -> Instant {
    Instant::START.plus(Duration::from_millis(millis))
}

fn dropped(destination: &str, count: u64) -> Note {
    Note::Drop {
        reason: "expired",
        destination: text(destination),
        count,
        topic: None,
        from: None,
        size: None,
        limit: None,
        key: None,
    }
}

fn refused(client: &str, port: u16, reason: &str) -> Note {
    let addr = core::net::SocketAddr::from(([192, 0, 2, 1], port));
    Note::ClientRefused {
        client: text(client),
        addr,
        reason: text(reason),
        user: None,
        size: None,
        limit: None,
        key: None,
        topic: None,
        rate: None,
    }
}

fn down(bridge: &str, reason: &str) -> Note {
    Note::BridgeDown {
        bridge: text(bridge),
        server: text("x"),
        reason: text(reason),
        retry_in_ms: 5,
        backlog: 0,
        size: None,
        limit: None,
        key: None,
        topic: None,
        client: None,
        said: None,
        server_reference: None,
    }
}

fn up(bridge: &str) -> Note {
    Note::BridgeUp {
        bridge: text(bridge),
        server: text("x"),
        version: "5",
        session_present: true,
        receive_maximum: 1,
        backlog: 0,
        addr: core::net::SocketAddr::from(([192, 0, 2, 1], 1883)),
        session_expiry_s: None,
    }
}

#[test]
fn repeats_are_summed_up_when_their_second_is_over() {
    let mut bench = Bench::new();
    for at in 0..5 {
        bench.note(at, &dropped("a", 10 * at));
    }
    assert_eq!(bench.throttle.poll_at(), at(1000));
    bench.expire(999);
    assert_eq!(bench.printed.len(), 1);
    bench.expire(1000);
    // Four were held back, and one of them is this line.
    let sum = "event=drop reason=expired destination=a count=100 suppressed=3";
    assert_eq!(bench.printed[1], sum);
    // The sum is a line as well.
    bench.note(1500, &dropped("a", 1));
    assert_eq!(bench.printed.len(), 2);
    bench.expire(2000);
    // One that was held back and is printed stands for itself.
    assert_eq!(bench.printed[2], "event=drop reason=expired destination=a count=1");
    bench.expire(3000);
    bench.note(3001, &dropped("a", 1));
    assert_eq!(bench.printed.len(), 4);
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn what_a_client_calls_itself_is_not_counted_with() {
    let mut bench = Bench::new();
    let name = "x count=7 suppressed=9";
    for at in 0..3 {
        bench.note(at, &dropped(name, 2));
        bench.note(at, &refused(name, 1, "no"));
    }
    bench.expire(1000);
    let sum = format!("event=drop reason=expired destination=\"{name}\" count=4 suppressed=1");
    assert_eq!(bench.printed[2], sum);
    let sum =
        format!("event=client_refused client=\"{name}\" addr=192.0.2.1:1 reason=no suppressed=1");
    assert_eq!(bench.printed[3], sum);
}

#[test]
fn other_main_keys_make_another_line_and_other_keys_do_not() {
    let mut bench = Bench::new();
    bench.note(0, &refused("a b", 1, "x"));
    bench.note(0, &refused("a c", 1, "x"));
    bench.note(0, &refused("a b", 1, "y"));
    assert_eq!(bench.printed.len(), 3);
    bench.note(0, &refused("a b", 2, "x"));
    assert_eq!(bench.printed.len(), 3);
    // Two values are not one that holds both.
    bench.note(0, &refused("d\nreason\ny", 1, "x"));
    bench.note(0, &refused("d", 1, "y\nreason\nx"));
    assert_eq!(bench.printed.len(), 5);
}

#[test]
fn what_was_held_back_comes_before_the_next_line_about_the_same() {
    let mut bench = Bench::new();
    bench.note(0, &down("hub", "reset"));
    bench.note(1, &down("hub", "reset"));
    bench.note(2, &down("b2", "reset"));
    bench.note(3, &down("b2", "reset"));
    bench.note(4, &dropped("hub", 1));
    bench.note(5, &dropped("hub", 1));
    bench.note(6, &up("hub"));
    let events: Vec<&str> = bench.printed.iter().map(|line| &line[..17]).collect();
    let [down, drop, up] = ["event=bridge_down", "event=drop reason", "event=bridge_up b"];
    // The second one of b2 waits for its own time.
    assert_eq!(events, [down, down, down, drop, drop, up]);
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn the_last_line_of_a_flapping_link_says_how_it_stands() {
    let mut bench = Bench::new();
    for at in 0..100 {
        bench.note(4 * at, &down("hub", "reset"));
        bench.note(4 * at + 2, &up("hub"));
    }
    bench.note(400, &down("hub", "reset"));
    bench.expire(2000);
    let last: Vec<&str> = bench.printed.iter().rev().take(2).map(|line| &line[..17]).collect();
    assert_eq!(last, ["event=bridge_down", "event=bridge_up b"]);
    assert_eq!(bench.printed.len(), 4);
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn figures_of_a_bridge_come_behind_what_was_held_back_about_it() {
    let mut bench = Bench::new();
    bench.note(0, &down("hub", "reset"));
    bench.note(1, &down("hub", "reset"));
    let stats = Note::StatsBridge {
        name: text("hub"),
        up: false,
        inflight: 0,
        ring: 0,
        store: 0,
        oldest_ms: 0,
        rtt_ms: 0,
        reconnects: 2,
        fwd_acked: 0,
    };
    let heading = Heading { level: log::Level::Info, part: "stats" };
    let printed = &mut bench.printed;
    bench.throttle.pass(at(2), heading, &stats, &mut |_, line| {
        printed.push(line.as_str().to_owned());
    });
    assert!(bench.printed[1].starts_with("event=bridge_down"), "{:?}", bench.printed);
    assert!(bench.printed[2].starts_with("event=stats_bridge"), "{:?}", bench.printed);
}

#[test]
fn what_repeats_for_a_day_comes_once_a_minute() {
    let mut bench = Bench::new();
    let seconds = 24 * 3600;
    for second in 0..seconds {
        // Never twice within a second.
        bench.note(1010 * second, &refused("again", 1, "x"));
        bench.expire(1010 * second + 500);
    }
    let lines = u64::try_from(bench.printed.len()).unwrap();
    let minutes = seconds * 1010 / 60_000;
    assert!(lines <= minutes + REPEATS_MAX + 1, "{lines} lines in {minutes} minutes");
    assert!(lines >= minutes, "{lines} lines in {minutes} minutes");
    // Once it is quiet for long it may come as often as before.
    let later = 1010 * seconds + 3_600_000;
    bench.expire(later);
    let before = bench.printed.len();
    for second in 1..=10 {
        bench.note(later + 1010 * second, &refused("again", 1, "x"));
    }
    assert_eq!(bench.printed.len(), before + 10);
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn a_flood_of_names_stays_small_and_hides_nothing_else() {
    let mut bench = Bench::new();
    let minutes = 30;
    for millis in (0..minutes * 60_000).step_by(10) {
        bench.note(millis, &refused(&format!("{:>90}", millis), 1, "limit_clients"));
        bench.note(millis, &dropped(&format!("{millis}"), 3));
        if millis % 60_000 == 30_000 {
            bench.note(millis, &down("hub", "reset"));
            bench.note(millis, &dropped("hub", 1));
        }
    }
    let ours = |line: &&String| line.contains("=hub ");
    let expected = usize::try_from(2 * minutes).unwrap();
    assert_eq!(bench.printed.iter().filter(ours).count(), expected);
    // Two events, what they may take, and a line a minute about the rest.
    let most =
        2 * (STRANGERS_BYTES + minutes * (STRANGERS_BYTES_A_MINUTE + 100)) + 2 * minutes * 150;
    assert!(bench.bytes() <= most, "{} bytes of {most}", bench.bytes());
    let told = bench.printed.iter().filter(|line| line.starts_with("event=log_limited")).count();
    assert!(told > 0 && told <= expected, "{told} lines about what is not there");
    let drops = bench.printed.iter().find(|line| line.contains("of=drop")).unwrap();
    let (_, rest) = drops.split_once(" suppressed=").unwrap();
    let (suppressed, count) = rest.split_once(" count=").unwrap();
    assert_eq!(3 * suppressed.parse::<u64>().unwrap(), count.parse::<u64>().unwrap());
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn known_names_in_turn_stay_small_as_well() {
    let mut bench = Bench::new();
    let minutes = 60;
    for millis in (0..minutes * 60_000).step_by(100) {
        // Fewer than there are entries, so that each is known.
        bench.note(millis, &refused(&format!("name-{}", millis / 100 % 60), 1, "limit_clients"));
    }
    let most = STRANGERS_BYTES + minutes * (STRANGERS_BYTES_A_MINUTE + 100);
    assert!(bench.bytes() <= most, "{} bytes of {most}", bench.bytes());
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn a_full_table_tells_the_oldest_sum_and_goes_on() {
    let mut bench = Bench::new();
    for client in 0..ENTRIES_MAX {
        bench.note(0, &refused(&format!("c{client}"), 1, "x"));
    }
    for client in 0..ENTRIES_MAX {
        bench.note(1, &refused(&format!("c{client}"), 2, "x"));
    }
    assert_eq!(bench.printed.len(), ENTRIES_MAX);
    bench.note(2, &refused("new", 1, "x"));
    assert_eq!(bench.throttle.entries.len(), ENTRIES_MAX);
    let [.., oldest, new] = &bench.printed[..] else { panic!("{:?}", bench.printed) };
    assert_eq!(oldest, "event=client_refused client=c0 addr=192.0.2.1:2 reason=x");
    assert!(new.contains("client=new"), "{new}");
    assert_eq!(bench.stands_for(), bench.facts);
}

#[test]
fn a_line_too_long_is_cut_not_lost() {
    let mut line = Line::default();
    write!(line, "{}", "ä".repeat(2000)).unwrap();
    assert_eq!(line.as_str().len(), LINE_BYTES_MAX);
}
