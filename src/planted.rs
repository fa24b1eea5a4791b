//! Known bugs, planted on purpose, so that the simulator can show that it finds them. Without the
//! feature `planted` every question is answered with a constant `false` and nothing is left of it.

/// A bug that such a program has been known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The publisher is acknowledged although the commit is still to come.
    AcknowledgeBeforeCommit,
    /// A destination at its quota drops what is on the wire.
    DropOldestInFlight,
    /// An identifier is used again although the peer has not completed its exchange.
    ReuseIdTooEarly,
    /// PUBREC is not written down: after a restart the exchange begins again.
    ForgetRelease,
    /// What arrives now is sent before what is on disk.
    OvertakeBacklog,
    /// A message that is replaced by a newer one is acknowledged at once.
    AcknowledgeReplaced,
    /// After the store was lost identifiers start over under the remote's old session.
    ReuseIdsOfLostStore,
}

/// Is this one planted?
#[cfg(not(feature = "planted"))]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use choice::{plant, planted};

#[cfg(feature = "planted")]
mod choice {
    use super::Bug;
    use core::cell::Cell;

    std::thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Is this one planted?
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Plants a bug in this thread, or takes it out.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}
