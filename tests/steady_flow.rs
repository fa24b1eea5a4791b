//! A steady flow through a prompt bridge allocates nothing in the core and writes nothing to the
//! store. The whole core, without sockets: a client, a bridge, a remote that acknowledges at once.

use spillway::config;
use spillway::gateway::{Action, Event, Gateway};
use spillway::queue::store::{SlotId, SpillStore, StoreError, Table};
use spillway::vocab::{ConnId, Instant};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

struct Counting;

thread_local! {
    /// Of this thread: the other test does not count.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A store that counts what it is asked to write and keeps nothing.
#[derive(Default)]
struct Counter {
    writes: u64,
}

impl SpillStore for Counter {
    fn slot_count_max(&self) -> u32 {
        64
    }

    fn write_slot(&mut self, _: SlotId, _: usize, _: &[u8]) -> Result<(), StoreError> {
        self.writes += 1;
        Ok(())
    }

    fn read_slot(&mut self, _: SlotId, _: usize, out: &mut [u8]) -> Result<(), StoreError> {
        out.fill(0);
        Ok(())
    }

    fn put(&mut self, _: Table, _: &[u8], _: &[u8]) -> Result<(), StoreError> {
        self.writes += 1;
        Ok(())
    }

    fn delete(&mut self, _: Table, _: &[u8]) -> Result<(), StoreError> {
        self.writes += 1;
        Ok(())
    }

    fn scan(&mut self, _: Table, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn rollback(&mut self) {}

    fn maintain(&mut self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn written_bytes(&self) -> u64 {
        0
    }
}

const CONFIG: &str = "\
store.path = /nowhere/spill.db
bridge.up.server = mqtt://127.0.0.1:1
bridge.up.proto_ver = 4
bridge.up.bridge_bit = false
bridge.up.clean_start = true
bridge.up.forward.a.local_topic = t/#
bridge.up.forward.a.remote_topic = site/#
";

/// The publisher may publish. A subscriber may not be sent that, which takes all rules to find out.
const RULES: &str = "\
topic deny t/b
topic write t/+
pattern deny t/%c/a
pattern read t/%c/#
";

struct World {
    gateway: Gateway,
    store: Counter,
    now: Instant,
    client: ConnId,
    link: ConnId,
    count: u8,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let text = format!("{CONFIG}{more}");
        let mut rules = |_: &str| Ok(RULES.into());
        let (config, _) = config::load("test", &text, &mut rules, "node").unwrap();
        let mut now = Instant::START;
        let mut store = Counter::default();
        let mut gateway = Gateway::new(config, 7, store.slot_count_max(), now);
        gateway.restore(now, &mut store).unwrap();
        let peer = "127.0.0.1:9".parse().unwrap();
        let mut link = None;
        while link.is_none() {
            now = now.plus(Duration::from_millis(1));
            gateway.expire(now);
            while let Some(action) = gateway.poll_action() {
                match action {
                    Action::Resolve { bridge, .. } => {
                        let reason = "";
                        gateway.handle(now, Event::Resolved { bridge, addrs: &[peer], reason });
                    }
                    Action::Dial { conn, .. } => {
                        gateway.handle(now, Event::Connected { conn });
                        link = Some(conn);
                    }
                    other => panic!("{other:?} was not expected"),
                }
            }
        }
        let link = link.unwrap();
        let client = gateway.accept(now, 0, peer).unwrap();
        let mut world = Self { gateway, store, now, client, link, count: 0 };
        assert!(world.sent(link)[0] == 0x10, "the link greets");
        world.receive(link, &[0x20, 2, 0, 0]);
        world.receive(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c']);
        assert_eq!(world.sent(client), [0x20, 2, 0, 0]);
        world
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut buffer = [0; 256];
        buffer[..bytes.len()].copy_from_slice(bytes);
        let taken = self.gateway.receive(self.now, conn, &mut buffer[..bytes.len()]);
        assert_eq!(taken.kept, 0);
    }

    fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        let mut out = [0; 512];
        let bytes = self.gateway.transmit(self.now, conn, &mut out);
        out[..bytes].to_vec()
    }

    /// One message from the client to the remote and its acknowledgement back, `qos` 0 or 1.
    fn message(&mut self, qos: u8) {
        let mut out = [0; 512];
        // Each says something new: who says the same all the time is asked whether it goes round.
        self.count = self.count.wrapping_add(1);
        let new = self.count;
        let mut publish = [0x30 | qos << 1, 10, 0, 3, b't', b'/', b'a', 0, 7, b'x', b'y', new];
        let length = if qos == 0 {
            publish.copy_within(9.., 7);
            publish[1] = 8;
            10
        } else {
            12
        };
        self.now = self.now.plus(Duration::from_millis(1));
        self.receive(self.client, &publish[..length]);
        self.turn();
        let bytes = self.gateway.transmit(self.now, self.link, &mut out);
        assert_eq!(&out[2..10], b"\0\x06site/a", "it is forwarded under its mapped topic");
        if qos == 1 {
            assert_eq!(bytes, 15);
            assert_eq!(self.gateway.transmit(self.now, self.client, &mut out[100..]), 0);
            let puback = [0x40, 2, out[10], out[11]];
            self.receive(self.link, &puback);
            self.turn();
            let bytes = self.gateway.transmit(self.now, self.client, &mut out);
            assert_eq!(&out[..bytes], [0x40, 2, 0, 7], "acknowledged once the remote has it");
        }
    }

    fn turn(&mut self) {
        self.gateway.expire(self.now);
        self.gateway.flush(self.now, &mut self.store);
        while self.gateway.poll_ready().is_some() {}
        while self.gateway.poll_note().is_some() {}
    }
}

#[test]
fn a_steady_flow_allocates_nothing_and_writes_nothing() {
    let mut world = World::new();
    for qos in [0, 1, 0, 1] {
        world.message(qos);
    }
    let (allocations, writes) = (ALLOCATIONS.get(), world.store.writes);
    for _ in 0..1000 {
        world.message(0);
        world.message(1);
    }
    assert_eq!(ALLOCATIONS.get() - allocations, 0, "allocations");
    assert_eq!(world.store.writes - writes, 0, "store writes");
}

#[test]
fn asking_the_access_rules_allocates_nothing() {
    let mut world = World::with("auth.acl_file = /rules\n");
    let subscriber = world.gateway.accept(world.now, 0, "127.0.0.1:9".parse().unwrap()).unwrap();
    let greeting = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'd'];
    world.receive(subscriber, &greeting);
    world.receive(subscriber, &[0x82, 8, 0, 1, 0, 3, b't', b'/', b'#', 1]);
    assert_eq!(world.sent(subscriber), [0x20, 2, 0, 0, 0x90, 3, 0, 1, 1]);
    for qos in [0, 1, 0, 1] {
        world.message(qos);
    }
    let allocations = ALLOCATIONS.get();
    for _ in 0..1000 {
        world.message(0);
        world.message(1);
    }
    assert_eq!(ALLOCATIONS.get() - allocations, 0, "allocations");
    assert_eq!(world.sent(subscriber), []);
}

#[test]
fn without_acknowledgements_the_store_gets_the_message_before_its_publisher_hears() {
    let mut world = World::new();
    world.message(1);
    let writes = world.store.writes;
    world.receive(world.client, &[0x32, 10, 0, 3, b't', b'/', b'a', 0, 8, b'x', b'y', b'z']);
    world.turn();
    assert_eq!(world.sent(world.client), [], "nothing is acknowledged that is only in RAM");
    world.now = world.now.plus(Duration::from_secs(2));
    world.turn();
    assert!(world.store.writes > writes);
    assert_eq!(world.sent(world.client), [0x40, 2, 0, 8]);
}
