//! Large messages that are coming: whose gives way, and to whom.

use super::*;

/// The beginning of a PUBLISH at QoS 1 of so many bytes in all.
fn begun(total: usize, here: usize) -> Vec<u8> {
    let mut packet = vec![0x32];
    let mut left = total - 4;
    for digit in 0..3 {
        packet.push(u8::try_from(left % 128).unwrap() | if digit < 2 { 0x80 } else { 0 });
        left /= 128;
    }
    packet.extend([0, 3, b'n', b'/', b'a', 0, 1]);
    packet.resize(here, b'x');
    packet
}

struct Crowd {
    world: World,
    refused: Vec<Note>,
}

impl Crowd {
    fn new(more: &str) -> Self {
        Self { world: World::with(more, 64), refused: Vec::new() }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.world.now = self.world.now.plus(Duration::from_millis(50));
            self.world.gateway.expire(self.world.now);
            let Self { world, .. } = self;
            world.gateway.flush(world.now, &mut world.disk);
            while let Some(note) = self.world.gateway.poll_note() {
                self.refused
                    .extend(matches!(note, Note::ClientDisconnected { .. }).then_some(note));
            }
        }
    }

    /// `true`: its message may come.
    fn begin(&mut self, client: ConnId, total: usize, here: usize) -> bool {
        let mut buffer = begun(total, here);
        let taken = self.world.gateway.receive(self.world.now, client, &mut buffer);
        assert_eq!(taken.later, taken.kept > 0);
        !taken.later
    }

    fn is_gone(&self, client: ConnId) -> bool {
        !matches!(self.world.gateway.conn(client.slot).role, Role::Client { .. })
    }

    /// How long until the one that waits may begin, at most 20 s; every `drip` ms some bytes come
    /// of the others.
    fn waits(&mut self, client: ConnId, others: &[ConnId], drip: usize) -> u64 {
        let ids = |crowd: &Self| others.iter().copied().filter(|id| !crowd.is_gone(*id)).collect();
        for ms in (0..20_000).step_by(50) {
            if self.begin(client, 200_000, 3000) {
                return ms;
            }
            if ms % 100 == 0 && drip > 0 {
                let here: Vec<ConnId> = ids(self);
                for other in here {
                    let filling = self.world.gateway.conn(other.slot).inbound.filling;
                    let left = filling.map_or(0, |filling| filling.left);
                    self.world.receive(other, &vec![b'x'; drip.min(left)]);
                }
            }
            self.pass(50);
        }
        panic!("it waits for ever")
    }
}

#[test]
fn a_message_that_stands_still_or_drips_gives_way_when_another_waits_and_says_why() {
    // Nothing at all, a byte now and then, and nearly a thin line.
    for drip in [0, 1, 150] {
        let mut crowd = Crowd::new("");
        let slow = crowd.world.client(b's');
        let fresh = crowd.world.client(b'c');
        assert!(crowd.begin(slow, 200_000, 150_000));
        let waits = crowd.waits(fresh, &[slow], drip);
        assert!((250..=1500).contains(&waits), "{drip}: {waits} ms");
        assert!(crowd.is_gone(slow) && !crowd.is_gone(fresh));
        let Some(Note::ClientDisconnected { client, reason, size, limit, key, rate, .. }) =
            crowd.refused.first()
        else {
            panic!("nothing was said")
        };
        assert_eq!((client.as_str(), reason.as_str()), ("s", "slow_packet"));
        let key = key.as_ref().map(|key| key.as_str());
        assert_eq!((*size, *limit, key), (Some(199_992), Some(524_288), Some("ring.bytes")));
        assert!(rate.unwrap() < 2048);
    }
}

#[test]
fn a_thin_line_is_no_reason_while_nobody_waits() {
    let mut crowd = Crowd::new("");
    let slow = crowd.world.client(b's');
    assert!(crowd.begin(slow, 60_000, 3000));
    for _ in 0..57 {
        crowd.pass(1000);
        crowd.world.receive(slow, &[b'x'; 1000]);
    }
    assert_eq!(crowd.world.turn(slow), [0x40, 2, 0, 1]);
}

#[test]
fn one_that_is_under_way_at_speed_is_waited_for() {
    let mut crowd = Crowd::new("");
    let quick = crowd.world.client(b's');
    let fresh = crowd.world.client(b'c');
    assert!(crowd.begin(quick, 200_000, 3000));
    // 30 kB/s: done in less than seven seconds.
    let waits = crowd.waits(fresh, &[quick], 3000);
    assert!(!crowd.is_gone(quick) && (6000..7500).contains(&waits), "{waits} ms");
    // 5 kB/s: that would take 40 s.
    let mut crowd = Crowd::new("");
    let thin = crowd.world.client(b's');
    let fresh = crowd.world.client(b'c');
    assert!(crowd.begin(thin, 200_000, 3000));
    let waits = crowd.waits(fresh, &[thin], 500);
    assert!(crowd.is_gone(thin) && (3000..4000).contains(&waits), "{waits} ms");
}

#[test]
fn a_crowd_that_comes_again_is_behind_who_has_been_here() {
    let mut crowd = Crowd::new("limit.clients = 64");
    let honest = crowd.world.client(b'h');
    let slow: Vec<ConnId> = (b'0'..b'8').map(|name| crowd.world.client(name)).collect();
    let begun = slow.iter().filter(|id| crowd.begin(**id, 200_000, 3000)).count();
    assert_eq!(begun, 1);
    let waits = crowd.waits(honest, &slow, 1);
    assert!(waits <= 1500, "{waits} ms");
    assert_eq!(slow.iter().filter(|id| crowd.is_gone(**id)).count(), 1);
}

#[test]
fn who_has_more_to_show_than_a_beginning_comes_first_and_small_ones_do_not_wait() {
    let mut crowd = Crowd::new("limit.clients = 64");
    let slow: Vec<ConnId> = (b'0'..b'8').map(|name| crowd.world.client(name)).collect();
    let [small, late] = [b'x', b'y'].map(|name| crowd.world.client(name));
    for id in &slow {
        crowd.begin(*id, 200_000, 3000);
    }
    assert!(crowd.begin(small, 20_000, 3000), "a small one fits beside them");
    assert!(!crowd.begin(late, 200_000, 3000));
    crowd.world.gateway.handle(crowd.world.now, Event::Here { conn: late, bytes: 40_000 });
    let waits = crowd.waits(late, &slow, 1);
    assert!(waits <= 1500, "{waits} ms");
}
