//! Two gateways in a row: the listener of one is the remote of the other, so that both ends of
//! every hop are ours. Killed again and again, they bring QoS 2 through once and in order.

use crate::common::collector::Collector;
use crate::common::gateway::{Gateway, ROOMY_SESSIONS, bridge};
use crate::common::publisher::Publisher;
use crate::common::wait_until;
use crate::common::wire::{Connect, numbered_plan};
use std::thread;

const COUNT: usize = 2000;

#[test]
fn qos_2_goes_once_and_in_order_both_ways_through_two_gateways_that_are_killed() {
    for level in [4, 5] {
        let quick = format!("store.flush_after = 20ms\n{ROOMY_SESSIONS}");
        let mut far = Gateway::start(&quick);
        let version = format!("proto_ver = {level}");
        let rules = [
            &version,
            "backoff_min = 10ms",
            "backoff_max = 50ms",
            "forward.1.local_topic = up/#",
            "subscribe.1.remote_topic = down/#",
            "subscribe.1.qos = 2",
        ];
        let mut near = Gateway::start(&format!("{quick}{}", bridge("far", far.port, &rules)));
        near.wait("bridge_up");
        let subscriber = Connect::new(level, "subscriber").persistent();
        let up = Collector::start_with(far.port, subscriber.clone(), "up/#", 2);
        let down = Collector::start_with(near.port, subscriber, "down/#", 2);
        far.wait_stats("the bridge's subscription", |stats| stats.number("subs") == 2);
        let publishing = [("up/t", near.port), ("down/t", far.port)].map(|(topic, port)| {
            let connect = Connect::new(level, "publisher").persistent();
            let plan = numbered_plan(topic, 2, COUNT);
            let mut publisher = Publisher::new(connect, 20, plan).resuming();
            thread::spawn(move || publisher.persist(port))
        });
        let mut kills = 0;
        let come = || up.count() + down.count();
        while come() < 2 * COUNT {
            if kills % 3 != 1 {
                near.kill();
            }
            if kills % 3 != 0 {
                far.kill();
            }
            if kills % 3 != 1 {
                near.run();
            }
            if kills % 3 != 0 {
                far.run();
            }
            kills += 1;
            let before = come();
            wait_until("it goes on", || come() >= (before + 100).min(2 * COUNT));
        }
        for publishing in publishing {
            publishing.join().expect("accepted");
        }
        assert_eq!(up.wait_all_in_order(COUNT), 0, "{level}: up, after {kills} kills");
        assert_eq!(down.wait_all_in_order(COUNT), 0, "{level}: down, after {kills} kills");
        println!("{level}: {kills} kills");
        assert!(kills > 6, "only {kills} kills");
    }
}
