//! What a configuration makes the gateway allocate.

use super::*;
use crate::queue::slots_for;

/// The largest value of each key that memory grows with.
const MOST: &[&str] = &[
    "ring.messages = 1048576",
    "ring.bytes = 512MiB",
    "limit.clients = 10000",
    "limit.sessions = 20000",
    "limit.subscriptions = 65535",
    "limit.bridges = 64\nlimit.rules = 1024",
    "limit.topic_bytes = 65535",
    "limit.inflight = 1024",
    "limit.retained = 1048576",
    "limit.retained_bytes = 512MiB",
    "limit.large_buffers = 256",
    "limit.packet_size = 16MiB\nlimit.will_bytes = 16MiB",
    "store.max_bytes = 32GiB",
];

#[test]
fn what_is_not_refused_can_be_counted_and_allocated_with_32_bits() {
    let mut allowed = 0;
    for mask in 0..1_u32 << MOST.len() {
        let chosen = MOST.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
        let text: String = chosen.map(|(_, line)| format!("{line}\n")).collect();
        let text = format!("store.path = /nowhere/spill.db\n{text}");
        match config::load("test", &text, &mut |_| Err("no file".to_owned()), "node") {
            Ok((config, _)) => {
                let slots = slots_for(config.store.max_bytes.unwrap_or(64 << 20));
                let total: u64 = Gateway::plan(&config, slots).iter().map(|part| part.1).sum();
                assert!(total < 3 << 29, "{} MiB:\n{text}", total >> 20);
                allowed += 1;
            }
            Err(errors) => {
                let known = |what: &str| {
                    what.contains("MiB of memory; at most 1024") || what.contains("must")
                };
                assert!(errors.iter().all(|error| known(&error.what)), "{errors:?}\n{text}");
            }
        }
    }
    assert!(allowed > MOST.len(), "{allowed}");
}
