//! Bounds that are fixed at compile time: a name, a unit, and what happens at the bound.

use core::time::Duration;

/// Bytes of one block of the pool. A record takes whole blocks.
pub const BLOCK_BYTES: usize = 256;

/// Bytes of one slot of the store: eight rows that fill a 4 KiB page each.
pub const SLOT_BYTES: usize = 8 * 4032;

/// Records one slot may hold, the width of its bit maps. A slot with more small records closes
/// early.
pub const SLOT_RECORDS_MAX: usize = 448;

/// Bytes of the encoded MQTT 5 properties that are passed on with a message: as many as a record's
/// head can say. A PUBLISH or a will with more is refused.
pub const PROPERTIES_BYTES_MAX: usize = (1 << 20) - 1;

/// Bytes of the properties of one hop (Message Expiry, Topic Alias, Subscription Identifiers) that
/// a PUBLISH may have beside those that are passed on.
pub const HOP_BYTES_MAX: usize = 64 * 1024;

/// Streams (lanes, topics that wait, paced topics) of one bridge. Paced topics beyond share streams
/// by hash.
pub const STREAMS_MAX: usize = 128;

/// Bytes the records of one commit may have together; what is left waits for the next turn.
pub const COMMIT_BYTES_MAX: usize = 512 * 1024;

/// Unsettled bytes of one destination that make it commit before `store.flush_after`.
pub const COMMIT_EAGER_BYTES: usize = 32 * 1024;

/// The longest `store.flush_after` stretches while acknowledgements flow.
pub const FLUSH_AFTER_MAX: Duration = Duration::from_secs(2);

/// A store that keeps the loop longer at once is slow: it gets a rest before it is used again.
pub const STORE_SLOW: Duration = Duration::from_millis(20);

/// The rest of a slow store, as a part of what it has just taken: the sockets are served then.
pub const STORE_REST_SHARE: u32 = 4;

/// A slow store's rest is never longer.
pub const STORE_REST_MAX: Duration = Duration::from_millis(500);

/// So long the longest absence in a slow store is remembered.
pub const STORE_SLOW_FOR: Duration = Duration::from_secs(60);
/// Slots of a damaged store that are salvaged in one turn.
pub const SALVAGE_SLOTS: usize = 4;

/// The longest the bits of settled records wait for somebody else's commit. No more of them than
/// the destination's window do.
pub const LAZY_SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Slots of a destination's log that are read at start for what was in its window. Of an older
/// message that was sent just before the end the order is lost.
pub const WINDOW_SLOTS_READ: u32 = 64;

/// In-flight messages a local session is sure of. It gets its whole window only while more than
/// half of all entries are free: sessions that do not acknowledge never starve the others.
pub const SESSION_WINDOW_SURE: u16 = 8;

/// Beyond its first message a session has at most this part of the ring in flight while less than
/// half of the ring is free.
pub const SESSION_FLIGHT_SHARE: u32 = 32;

/// A session whose messages cannot be spilled takes no more of the ring than this part of what is
/// free of it, and nothing of the last eighth: the more of them there are the less each has, and
/// what bridges need is left.
pub const SESSION_FREE_SHARE: u32 = 4;

/// A client that acknowledged nothing for so long, while what it was sent keeps others waiting, is
/// closed.
pub const UNACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// What came within this of each other leaves in order though only one of them is of QoS 0.
pub const TOGETHER: Duration = Duration::from_secs(1);

/// QoS 0 messages one destination may hold; the newest is dropped and counted beyond.
pub const QOS0_QUEUE_MAX: u32 = 512;

/// Messages whose drop is reckoned with before a new one is taken; more make no more room.
pub const DROPS_FORESEEN_MAX: usize = 64;

/// A subscriber that has acknowledged something within this keeps up.
pub const KEEPS_UP_WITHIN: Duration = Duration::from_secs(1);

/// How long a burst of QoS 0 may hold its publishers up for a bridge whose socket is full.
pub const QOS0_WAIT_MAX: Duration = Duration::from_millis(100);

/// How soon a publisher that waits with QoS 0 is tried again if nothing else happens.
pub const QOS0_RETRY: Duration = Duration::from_millis(2);

/// Retained messages put into one session's queue at a time; the rest follows as it drains.
pub const RETAINED_BATCH: u32 = 32;

/// Retained messages that all searches of a turn pass over together (a text that is compared counts
/// as `broker::retained::TEXT_LOOKS` of them); what is left goes on in the next turn.
pub const SEARCH_LOOKS_A_TURN: u32 = 32 * 1024;

/// Encoded one-off replies (CONNACK, SUBACK, PINGRESP …) a connection may owe, in bytes. At the
/// bound its input waits.
pub const CONTROL_BYTES: usize = 1024;

/// Filters one SUBSCRIBE or UNSUBSCRIBE may carry; more and the connection is closed with 0x97.
pub const FILTERS_PER_PACKET_MAX: usize = 768;

/// Topic aliases of one connection, each way. A client that uses a higher one is closed with 0x94;
/// we use no more ourselves.
pub const TOPIC_ALIASES: u16 = 8;

/// Connections beyond `limit.clients` that are held only to be told why they are refused.
pub const REFUSAL_CONNECTIONS: u16 = 8;

/// From accepting a socket to its CONNECT.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The kernel asks after a client that was silent for so long: one without a keepalive that is gone
/// without a word would hold its place for ever.
pub const CLIENT_SILENCE: Duration = Duration::from_secs(300);

/// So long nobody who has yet to say CONNECT makes room for another.
pub const CONNECT_SURE: Duration = Duration::from_millis(250);

/// A line slower than this is as good as dead: what a remote's side has taken may take so long
/// until the remote itself has it.
pub const THIN_LINE_BYTES_A_SECOND: u64 = 2048;

/// So many `ack_timeout`s an acknowledgement is waited for beyond its time while packets come that
/// it may lie behind. Not counted while a single one is coming in.
pub const INBOUND_PARTS: u32 = 3;

/// So long one that is told why it is closed makes no room for another.
pub const CLOSE_SURE: Duration = Duration::from_millis(100);

/// What came in and is not routed yet (large messages that are still coming, those of remotes that
/// find no room) takes at most this part of the ring.
pub const INBOUND_SHARE: u32 = 4;

/// So long a message of a remote waits for room in the ring before it is left with the remote.
pub const ROOM_WITHIN: Duration = Duration::from_millis(250);

/// A store that takes nothing for so long, or a ring that has no room, is as good as a destination
/// that is full. Longer than [`UNACKNOWLEDGED_WITHIN`], after which there is room.
pub const STORED_WITHIN: Duration = Duration::from_secs(7);

/// What was left with a remote is fetched, by a new connection, no sooner than this.
pub const RENEW_AFTER: Duration = Duration::from_secs(1);

/// A large packet of a client that comes slower than a thin line makes room for who has waited for
/// so long.
pub const SLOW_GIVES_WAY: Duration = Duration::from_millis(250);

/// The same of one whose sender (a user, an address) has several under way, while who waits has
/// fewer.
pub const MANY_GIVE_WAY: Duration = Duration::from_secs(1);

/// The same of one that would take longer than [`FILL_SURE`] from then on.
pub const LONG_GIVES_WAY: Duration = Duration::from_secs(3);
pub const FILL_SURE: Duration = Duration::from_secs(10);

/// A remote's line is what it is: nothing may come of its large packet for so long while others
/// wait.
pub const FILL_STILL_MAX: Duration = Duration::from_secs(60);

/// Parts of four of the room for messages that are still coming that clients may have together;
/// one message may always have all of it.
pub const FILL_OF_CLIENTS: u32 = 3;

/// A PUBLISH larger than this goes into the ring as it comes, without being whole in a buffer.
pub const STREAM_BYTES: usize = 2048;

/// How long a closing connection may take to read what it is told.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Bytes a closing connection may still send: they are thrown away so that it reads what it is told
/// before the end. At the bound it is closed.
pub const CLOSE_BYTES: usize = 64 * 1024;

/// A clean stop takes no longer.
pub const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Identifiers of received QoS 2 messages beyond `limit.inflight` a session and the announced
/// window a bridge, for who comes first. When they are gone, who exceeds his own share waits
/// (before MQTT 5) or is refused the message (0x97).
pub const RECEIVE_IDS_IN_COMMON: u32 = 2048;

/// So long a session whose client has just gone keeps its place.
pub const SESSION_SURE: Duration = Duration::from_secs(60);

/// QoS 2 packet identifiers one session may leave unreleased; more and it is closed.
pub const UNRELEASED_MAX: u32 = 1024;

/// QoS 1/2 messages on the wire to a remote unless the configuration says; never over its Receive
/// Maximum.
pub const BRIDGE_WINDOW: u16 = 64;

/// The same before MQTT 5, where a remote cannot say what it takes. A mosquitto takes 20 by
/// default: of more it acknowledges some that it never passes on, or passes on out of order.
pub const BRIDGE_WINDOW_UNTOLD: u16 = 20;

/// Packet identifiers of publishes; those of our SUBSCRIBEs lie above.
pub const PUBLISH_ID_MAX: u16 = 60_000;

/// Bytes of a local client's user name; longer ones are refused.
pub const USER_BYTES_MAX: usize = 128;

/// Users the password file may have.
pub const USERS_MAX: usize = 10_000;

/// Lines of the file of access rules that are no comments.
pub const RULES_OF_ACCESS_MAX: usize = 10_000;

/// Iterations a line of the password file may ask for; more is an error at start. One login a
/// second is then possible.
pub const HASH_ITERATIONS_MAX: u32 = HASH_ITERATIONS_A_SECOND;

/// Iterations of password hashing in one turn of the loop: the longest that others wait for it.
pub const HASH_ITERATIONS_A_TURN: u32 = 500;

/// Iterations of password hashing in a second, all clients together.
pub const HASH_ITERATIONS_A_SECOND: u32 = 20_000;

/// Connections that wait until their password is looked at; further ones are told to come again.
pub const LOGINS_WAITING_MAX: usize = 64;

/// Rules of one bridge that forward: the queue keeps a message's rule in a byte, of which a
/// value stands for none yet.
pub const FORWARDS_MAX: usize = 254;

/// Servers one bridge may name.
pub const SERVERS_MAX: usize = 8;

/// Filters of one bridge that its servers are still to forget; beyond, those of longest ago stay.
pub const FILTERS_LEFT_MAX: usize = 256;

/// Bridges that are gone whose subscriptions are remembered until they are back.
pub const BRIDGES_GONE_MAX: usize = 64;

/// Rows that count what passes from a connection to a bridge, to find what goes round. Whoever
/// passes less often than all others of its row together is not counted.
pub const CIRCLE_ROWS: usize = 256;

/// Pairs of connection and bridge that are known to be a circle at once; further ones go on.
pub const CIRCLE_PAIRS_MAX: usize = 16;

/// Messages that the bridges of circles were sent and that may come back; of one that is pushed out
/// the next round is kept from it.
pub const CIRCLE_SENT: usize = 512;

/// Topics one rule can conflate; further topics queue like others.
pub const CONFLATED_TOPICS_MAX: usize = 256;

/// A connection that stood this long has proved stable: the backoff starts over.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Messages one flush may refuse after they were taken, and say so to MQTT 5 publishers; more are
/// acknowledged and counted.
pub const REFUSED_MAX: usize = 256;

/// How often the disk is searched for expired messages of a destination that is at its quota.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Topics of one bridge that wait, each by itself, because the remote has refused a message of
/// theirs for now. When more are refused the whole bridge waits until the remote takes something.
pub const HELD_TOPICS_MAX: usize = 8;

/// Messages of one bridge that may be suspected of making the remote close, each with its topic.
/// At the bound no further message is tried in their stead: they are tried in turn.
pub const SUSPECTS_MAX: usize = 32;

/// Streams of a bridge that are lent to topics which wait.
pub const HELD_STREAMS: usize = HELD_TOPICS_MAX + SUSPECTS_MAX;

/// The first and the longest wait of a message that the remote refused for now.
pub const HELD_MIN: Duration = Duration::from_secs(1);
pub const HELD_MAX: Duration = Duration::from_secs(60);

/// Closes on a message that was alone on the wire after which it is put aside, if the remote took
/// another message between any two of them.
pub const CLOSES_GUILTY: u8 = 3;

/// The same for one that is never acknowledged, and for a topic of which one was put aside before.
pub const CLOSES_KNOWN: u8 = 2;

/// The same for a message when there is no other to be tried.
pub const CLOSES_LONELY: u32 = 5;

/// Closes in a row, without anything taken between them, that are worth a line.
pub const CLOSES_SPOKEN: u32 = 3;

/// So long it counts against a suspect that the remote took another message.
pub const PROOF_FRESH: Duration = Duration::from_secs(60);

/// So long others flow before a suspect that is guilty already is tried again.
pub const SUSPECT_PAUSE: Duration = Duration::from_secs(1);

/// A close says nothing about another message for so long after one of QoS 0 went out.
pub const ZERO_QUIET: Duration = Duration::from_secs(1);

/// A SUBSCRIBE that is not answered for so long keeps no publish waiting.
pub const SUBACK_PATIENCE: Duration = Duration::from_secs(10);

/// So long after a connection stands its messages may take to come from the disk before a suspect
/// is tried for want of others.
pub const NEIGHBOUR_WITHIN: Duration = Duration::from_secs(5);

/// A remote whose Maximum QoS has become less than that of an open exchange, and stays so for so
/// long, gets its message at the lower QoS.
pub const QOS2_LOWERED_AFTER: Duration = Duration::from_secs(600);

/// Messages of one connection that are sent, dropped or passed over in one go, and how soon it goes
/// on after so many.
pub const ROUNDS_MAX: u32 = 4096;
pub const ROUNDS_PAUSE: Duration = Duration::from_millis(1);

/// How soon a message that is to be tried alone is looked for again while it is loaded, and for how
/// long before another one is.
pub const SINGLE_RETRY: Duration = Duration::from_millis(250);
pub const SINGLE_PATIENCE: Duration = Duration::from_secs(2);

/// Clients that are gone whose names are remembered for the log.
pub const CLIENTS_GONE_MAX: usize = 16;

/// Packet identifiers a bridge may have in use at least, however small its window: those of
/// messages that are passed over stay theirs.
pub const BRIDGE_IDS_MIN: usize = 256;

/// How long refused subscriptions wait.
pub const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// How often the gateway's own clock is written down beside other changes.
pub const MARK_AFTER: Duration = Duration::from_secs(60);

/// A router that seems to have been off for longer has a wrong clock.
pub const DOWNTIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A step of the wall clock that is worth a line.
pub const CLOCK_JUMP_MIN: Duration = Duration::from_secs(60);

/// Wall clock readings before 2024-01-01 are those of a router that does not know the time.
pub const WALL_PLAUSIBLE_S: u64 = 1_704_067_200;

const _: () = assert!(SLOT_RECORDS_MAX.is_multiple_of(64));
const _: () = assert!(CIRCLE_ROWS.is_power_of_two() && CIRCLE_SENT.is_power_of_two());
const _: () = assert!(COMMIT_EAGER_BYTES <= COMMIT_BYTES_MAX);
