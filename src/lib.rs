//! Spillway: an MQTT gateway for a router. Local clients publish to it, it forwards to remote
//! brokers and brings back what it subscribed to there, and it loses no QoS 1/2 message that it
//! has acknowledged. This page is the plan of the house; README.md is the outside.
//!
//! # The problem
//!
//! A router with one slow core and little flash sits between devices that talk all the time and a
//! remote broker that is sometimes slow and sometimes away. What goes wrong there elsewhere: a
//! queue that drops, a queue that grows until the process is killed, a keepalive that waits behind
//! data, a loop that blocks on DNS, an acknowledgement for something that is only in RAM. Here:
//! one thread, one loop, memory fixed at start, a disk behind the RAM, and an acknowledgement that
//! is a promise.
//!
//! # Floors
//!
//! A module imports from lower floors only, never from its own floor; `tests/tidy.rs` enforces it.
//!
//! | floor | module | what | never |
//! |---|---|---|---|
//! | 0 | [`limits`] | bounds fixed at compile time, with unit and what happens there | logic |
//! | 0 | [`vocab`] | [`vocab::Instant`], ids, a seeded generator, the overflow policies | a clock |
//! | 0 | [`note`] | one variant a log event, with its keys | printing |
//! | 0 | [`fit`] | numbers from one width to another, and no wrong ones | a guess |
//! | 0 | [`planted`] | seven bugs for the simulator to find; nothing without the feature | effect |
//! | 1 | [`mqtt`] | frames, packets, properties, topics and their mapping, 3.1 to 5 | state |
//! | 2 | [`config`] | the table of keys; text → `Raw` → [`config::Config`] | reading files |
//! | 2 | [`queue`] | records in RAM, a queue a destination, the log on disk behind them | SQL |
//! | 3 | [`broker`] | sessions, subscriptions, retained messages, who may do what | bridges |
//! | 3 | [`bridge`] | which server is next, the state of a link, rules, paces | sessions |
//! | 4 | [`gateway`] | all of that behind a few verbs: the core | input and output |
//! | 5 | [`shell`] | sockets, names, signals, SQLite, the clock, the log | MQTT, policy |
//! | 6 | [`cli`] | arguments, `--check` | messages |
//! | 7 | `main.rs` | start-up and exit status | decisions about messages |
//!
//! Floors 0 to 4 are the *core*. It never reads a clock, opens a socket, touches a file, draws
//! entropy or writes a log line, so the same core runs in the program and in tests that have
//! no socket and no time. Floor 5 is the *shell*: thin, and the only one that knows `mio`,
//! `rusqlite` and `libc`. `shell::transport` is where TLS, WebSocket, Unix sockets and QUIC will
//! join; neither the connection table nor the core sees more than its verbs.
//!
//! # A turn
//!
//! Everything happens in turns of one loop (`shell::EventLoop`):
//!
//! 1. `poll` sleeps until a socket is ready or the earliest deadline is there
//!    ([`poll_at`](gateway::Gateway::poll_at)); then the clock is read once for the core.
//! 2. Sockets are read, a bounded number of bytes each, and presented:
//!    [`receive`](gateway::Gateway::receive) takes whole packets, and the payload of a large
//!    PUBLISH as it comes. A client's PUBLISH without room stays in its buffer, a remote's in the
//!    ring; control packets behind it are served all the same.
//! 3. [`expire`](gateway::Gateway::expire) does what is due: keepalives, time-outs, backoffs.
//! 4. [`flush`](gateway::Gateway::flush) gets the store: at most one bounded transaction, shared by
//!    all that wait for one, then batches of a backlog back into RAM.
//! 5. [`transmit`](gateway::Gateway::transmit) fills the write buffers: replies, then the
//!    acknowledgements that are true by now, then PUBREL, then publishes.
//! 6. [`poll_action`](gateway::Gateway::poll_action) is work for the shell (resolve, dial, close,
//!    probe), [`poll_note`](gateway::Gateway::poll_note) are facts for the log.
//!
//! Commits come before the bytes they allow. System calls are per turn and socket, not per message.
//!
//! # The way of a message
//!
//! `gateway::receive` decodes a PUBLISH in place. One of more than 2 KiB whose payload is still
//! coming gets its record in the pool at once and is filled there; one of a remote that finds no
//! room waits in the pool as well (`gateway::kept`: at most a quarter of it in all; what exceeds
//! that is left with the remote and fetched later). `gateway::ingest` asks every session and bridge
//! that must have it for room (`gateway::plan`), and only when all have room changes anything: one
//! record in the pool ([`queue::pool`]), one small reference in the outbox ([`queue::outbox`]) of
//! each destination, and a debt ("PUBACK 7") at the publisher's connection that names the record.
//! A destination's messages are, oldest first: in flight, waiting in RAM, on disk only. When its
//! share of the ring is used up, or the pool is short, [`queue::flush`] moves what waits to the
//! disk; [`queue::refill`] brings it back in batches as the peer acknowledges. The debt is paid
//! when every destination has settled the record: its peer acknowledged it, or it is committed, or
//! a policy dropped it and that was counted.
//!
//! # Decisions
//!
//! 1. **Bytes are pulled.** The core keeps no outgoing packets, only owed acknowledgements and
//!    positions in queues. A slow socket backs up into RAM, then the disk, then the publisher.
//! 2. **One message in RAM once**, however many destinations. A destination may fill a quarter of
//!    the pool ([`config::RING_SHARE`]); the laggard is spilled, the others do not notice.
//! 3. **Order by custody.** A commit takes the whole uncommitted prefix of a destination, so its
//!    log is always in sequence. Once something is on disk only, newer messages follow it there. A
//!    refilled record keeps its place on disk: nothing is written twice.
//! 4. **Streams.** A bridge's queue has three lanes (`priority`) and a stream for each topic of a
//!    rule with a `rate`; a stream without a token holds up no other. Order holds within a stream.
//! 5. **Five barriers make exactly once.** Durable before the byte that reveals it: the message and
//!    its identifier before PUBREC; the wire identifier before the first QoS 2 PUBLISH; that PUBREC
//!    came, before PUBREL; that the identifier is free, before PUBCOMP; completion, before the
//!    identifier is used again. A turn's barriers share its commit.
//! 6. **A session belongs to one server and client id.** With none in the store, or at another
//!    server, the bridge asks for a clean one, subscribes again, and says `qos2_in_doubt` for what
//!    it sends anew.
//! 7. **The store is slots.** Preallocated 32 KiB slots from one shared pool, chained per
//!    destination, written in place; small keyed rows for sessions, retained messages and cursors.
//!    Every record has a CRC. Checkpoints are ours: small, and when the loop is idle. Files that
//!    are taken away in use are noticed within a second and put back.
//! 8. **Fixed memory.** The configuration sizes everything and `--check` prints the sum by part.
//! 9. **Nothing blocks but the disk.** Own DNS stub, non-blocking connects, no `getaddrinfo`; log
//!    lines wait in a fixed buffer and are counted when it is full.
//! 10. **Monotonic time drives, wall time only labels**: a router boots in 1970 and then jumps.
//! 11. **Circles are proved, not guessed.** What goes round between brokers is told from what is
//!     only said often by an experiment: all bridges hold back for a moment, and the way back falls
//!     silent ([`bridge::circle`]). From then on what comes back is not sent again, once for each
//!     time it was. Nothing in a message is changed for it, and a hold that is wrong loses nothing.
//! 12. **A close blames us, a message, or the hour** ([`bridge::blame`] has the table of reasons).
//!     Only what was on the wire can be blamed, and nothing while the CONNECT or a SUBSCRIBE is
//!     unanswered. A message that was alone there is a suspect: its topic waits, and others are
//!     tried first. One with neighbours is put aside after three closes between which the remote
//!     took others, one without after five, and at most one until the remote has acknowledged
//!     something else. What is refused for now holds its topic only.
//!
//!     | what the remote does | is about | what follows |
//!     |---|---|---|
//!     | CONNACK or DISCONNECT that names us or itself | us | kept, tried again: `bridge_held` |
//!     | DISCONNECT 0x93, 0x96 | our pace | the next connection begins with one at a time |
//!     | other DISCONNECT, FIN, RST, no answer | a message? | one at a time, then the suspect |
//!     | silence, bytes that are no MQTT | the line | tried again |
//!     | PUBACK, PUBREC 0x80 0x83 0x97 | now | the topic waits: `message_held` |
//!     | PUBACK, PUBREC 0x91 | the identifier | success with DUP, else released and sent anew |
//!     | PUBACK, PUBREC with another error | the message | put aside: `quarantined` |
//! 13. **No terminal state.** A link resolves, dials, greets, is up, backs off, and begins again.
//!
//! # Promises
//!
//! Accepted = the sender has its PUBACK (QoS 1) or PUBREC (QoS 2).
//!
//! | | QoS 0 | QoS 1 | QoS 2 |
//! |---|---|---|---|
//! | reaches each bridge and persistent session | best effort | at least once | exactly once |
//! | … over link loss, remote restart, DNS loss | best effort | yes | yes |
//! | … over `kill -9`, and power loss with `store.sync = full` (`ack = safe`) | no | yes | yes |
//! | what must be dropped | counted, logged | same | same |
//!
//! Exactly once holds between sessions that survive; if one is gone, what was in flight is sent
//! again: at most a window of duplicates, never a loss.
//!
//! # Who may take how much
//!
//! Everything that is shared has a fixed size. Of each: how much one may take · what is kept back ·
//! what gives way when all is used up, in which order · what the refused one is told and the log
//! says. A holder is a user whose name was proved, or else an address. "Unbounded" marks where
//! nothing holds yet. README.md has the same as a table.
//!
//! - **Connections** (`limit.clients`): unbounded, but for a listener's `max_clients` ·
//!   [`limits::REFUSAL_CONNECTIONS`], only to refuse with · who is told why he is closed, then the
//!   oldest that has not said CONNECT, after [`limits::CONNECT_SURE`] · CONNACK 0x97 or 3,
//!   `client_refused`.
//! - **Sessions** (`limit.sessions`, `gateway::places`): `limit.sessions_per_user`, if set · an
//!   eighth for those that end with their connection, [`limits::SESSION_SURE`] for who has just
//!   gone unless his holder has over a quarter · who is away with nothing waiting: time over, no
//!   subscription, no proved name, the holder with most, longest away · CONNACK 0x97 or 3,
//!   `client_refused`, `session_gave_way`.
//! - **Blocks and records of the ring** (`queue::room`): a bridge [`config::RING_SHARE`], a session
//!   [`limits::SESSION_FLIGHT_SHARE`] in flight when the ring is short and
//!   [`limits::SESSION_FREE_SHARE`] of what is free if it cannot be spilled · a sixteenth for
//!   remotes, wills and our own words, a quarter from QoS 0 · what waits, to the disk; then what a
//!   session was sent and does not acknowledge: it is closed, or ends if it is away · the publisher
//!   waits; `spill_started`, `slow_reader`, `session_gave_way`.
//! - **Entries of windows**: [`limits::SESSION_WINDOW_SURE`], the whole window while half of all
//!   entries are free · nothing · nobody · it waits in its queue, without a line.
//! - **Room for messages that are coming** ([`limits::INBOUND_SHARE`], [`gateway::slow`]): a client
//!   one message, all clients [`limits::FILL_OF_CLIENTS`] quarters of it, a remote all of it ·
//!   nothing · slower than a thin line, one of several of its holder, what would take
//!   [`limits::FILL_SURE`] still; a remote's after [`limits::FILL_STILL_MAX`] without a byte ·
//!   DISCONNECT 0x89, `slow_packet` with size, rate, limit and key; a remote keeps its message.
//! - **Large buffers** (`limit.large_buffers`, `shell::buffers`): one packet, before CONNECT is
//!   accepted only one that lies in the socket · one for bridges, the last for whose packet lies
//!   in the socket · the same; one that is not let in at once · the same, `client_refused`.
//! - **QoS 2 identifiers** (`queue::recv`): [`limits::UNRELEASED_MAX`] · the window of every
//!   session and bridge · nobody · MQTT 5: 0x97, before: reading pauses; `limit_reached`, `drop`.
//! - **Wills** (`limit.will_bytes`, `gateway::wills`): half of all beside his share · a client's
//!   share: the other half by `limit.clients` · those of who is away, the largest first, by being
//!   published · CONNACK 0x97 or 3, `client_refused`, `limit_reached`.
//! - **Subscriptions** (`limit.subscriptions`): unbounded · nothing · nobody · SUBACK 0x97 or 0x80,
//!   `limit_reached`.
//! - **Retained messages** (`limit.retained`): unbounded · nothing · what has expired · PUBACK 0x97
//!   where nobody else takes it, `drop destination=retained`.
//! - **Streams of a bridge** ([`limits::STREAMS_MAX`]): a paced topic one; topics beyond share some
//!   by hash, at one level for all (`queue::crowd`) · its lanes · the oldest message of the topic,
//!   where topics share of the one that has most · nothing, `drop reason=queue_full`.
//! - **Time in a turn**: 32 KiB read from a connection, 64 KiB from all; all searches together
//!   [`limits::SEARCH_LOOKS_A_TURN`], all passwords [`limits::HASH_ITERATIONS_A_TURN`], a commit
//!   [`limits::COMMIT_BYTES_MAX`] · nothing · who was served goes to the back · nothing, `stall`
//!   beyond half a second.
//!
//! # Where to begin
//!
//! Read [`gateway`] (the verbs), `gateway/ingest.rs` (one message on its way in), [`queue`] (what
//! becomes of it), `gateway/egress.rs` (on its way out), then `shell/mod.rs` (the turn). A new log
//! event goes into [`note`], a new key into [`config::keys`]; both are then asked for in README.md
//! by a test.

pub mod bridge;
pub mod broker;
pub mod cli;
pub mod config;
pub mod fit;
pub mod gateway;
pub mod limits;
pub mod mqtt;
pub mod note;
pub mod planted;
pub mod queue;
pub mod shell;
pub mod vocab;
