//! Places for sessions: who gets one when they run short, and who gives way.
//!
//! An eighth of `limit.sessions` is for sessions that end with their connection: those that are
//! kept can never shut them out. Only who is away and holds nothing gives way: no message waits for
//! it, no exchange of QoS 2 is open, so that nothing accepted is lost. Of those go first: one whose
//! time is over, one without a subscription, one without a user name that was proved, then one of
//! whoever holds most places (a user, or without one an address), the one that was away longest.
//! One that was here a moment ago stays, unless its holder has more than a quarter of all places,
//! or more than the holder of the one that comes would have.

use super::Gateway;
use super::clients::quota;
use super::ends::Fatal;
use crate::broker::session::Session;
use crate::fit::fit;
use crate::limits::{BLOCK_BYTES, SESSION_FLIGHT_SHARE, SESSION_SURE};
use crate::mqtt::{Reason, topic};
use crate::note::{Note, text};
use crate::queue::outbox::DestId;
use crate::queue::pool::widen;
use crate::vocab::Instant;
use core::cmp::Reverse;
use core::net::IpAddr;

/// Part of `limit.sessions` that sessions which are kept leave to the others.
const CLEAN_PART: u16 = 8;

/// Part of all places that one holder may have, and the least of it, before those of its clients
/// that have just gone give way as well.
const FAIR_PART: u16 = 4;
const FAIR_MIN: u16 = 8;

/// Holders are counted by a hash of so many values: two that share one pass for one.
const HOLDERS: usize = 1024;

/// Odd, without structure: the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Who asks for a session.
pub(super) struct Asks<'a> {
    pub client_id: &'a str,
    /// See [`Session::holder`].
    pub holder: u64,
    /// It outlives its connection.
    pub keeps: bool,
}

/// Who a session counts for: the user if the name was proved, else the address (of IPv6 the
/// network, within which a host has as many as it likes). Never 0, which stands for those of a time
/// before the start.
pub(super) fn holder(user: Option<&str>, from: IpAddr) -> u64 {
    let hash = match (user, from) {
        (Some(user), _) => topic::topic_hash(user),
        (None, IpAddr::V4(ip)) => u64::from(u32::from(ip)).wrapping_mul(SPREAD),
        (None, IpAddr::V6(ip)) => {
            let [network @ .., _, _, _, _, _, _, _, _] = ip.octets();
            u64::from_be_bytes(network).wrapping_mul(SPREAD)
        }
    };
    hash.max(1)
}

impl Gateway {
    /// A fresh session, if need be in the place of another. `Err`: the limit that leaves none.
    pub(super) fn open_session(
        &mut self,
        now: Instant,
        asks: &Asks<'_>,
    ) -> Result<u16, &'static str> {
        if let Some(most) = self.config.limit.sessions_per_user
            && self.sessions.iter().filter(|(_, of)| of.holder == asks.holder).count()
                >= usize::from(most)
        {
            let limit = "limit.sessions_per_user";
            let own = |of: &Session| of.holder == asks.holder;
            // What one takes from himself need not be spared.
            self.give_way(now, asks, own, 0, limit).ok_or("sessions_per_user")?;
        }
        let count = self.sessions.count();
        let kept = self.sessions.iter().filter(|(_, of)| !of.expiry.is_zero()).count();
        let beyond = asks.keeps && kept >= usize::from(count - count / CLEAN_PART);
        if beyond || self.sessions.is_full() {
            let fair = FAIR_MIN.max(count / FAIR_PART);
            self.give_way(now, asks, |_| true, fair, "limit.sessions").ok_or("limit_sessions")?;
        }
        let session = self.sessions.add(asks.client_id).map_err(|_| "limit_sessions")?;
        self.sessions[session].holder = asks.holder;
        let dest = self.session_dest(session);
        let params = self.session_params(session, asks.client_id, self.config.limit.inflight);
        self.queue.open(dest, params);
        Ok(session)
    }

    /// The refusal of one for whom [`Gateway::open_session`] has no place.
    pub(super) fn no_session(&self, word: &'static str) -> Fatal {
        let limit = &self.config.limit;
        let (most, key) = match (word, limit.sessions_per_user) {
            ("sessions_per_user", Some(most)) => (most, "limit.sessions_per_user"),
            _ => (limit.sessions, "limit.sessions"),
        };
        quota(word).full(usize::from(most), key)
    }

    /// Others wait for room in the ring, and a session holds most of what none can take back: what
    /// it was sent and did not acknowledge. Its connection is closed; once it is away it ends.
    pub(super) fn make_yield(&mut self, dest: DestId) {
        let now = self.now;
        let Some(session) = dest.0.checked_sub(fit(self.links.len(), "bridges")) else { return };
        if let Some(conn) = self.sessions[session].conn {
            let fatal = Fatal::new(Reason::QUOTA_EXCEEDED, "slow_reader");
            let held = widen(self.queue.outbox(dest).blocks) * BLOCK_BYTES;
            let share = widen(self.queue.pool.block_count() / SESSION_FLIGHT_SHARE) * BLOCK_BYTES;
            return self.fail(now, conn, fatal.over(held, share, "ring.bytes"));
        }
        let client = text(&self.sessions[session].client_id);
        self.note(Note::SessionGaveWay { client, to: text("-"), limit: "ring.bytes" });
        self.end_session(now, session);
    }

    /// Ends a session that makes room, of those that `may`. `None`: there is none. Those of a
    /// holder with at most `fair` places stay for a moment.
    fn give_way(
        &mut self,
        now: Instant,
        asks: &Asks<'_>,
        may: impl Fn(&Session) -> bool,
        fair: u16,
        limit: &'static str,
    ) -> Option<()> {
        let mut held = [0u16; HOLDERS];
        let place = |holder: u64| {
            let [.., low, high] = holder.to_le_bytes();
            usize::from(u16::from_le_bytes([low, high])) % HOLDERS
        };
        for (_, of) in self.sessions.iter() {
            let count = &mut held[place(of.holder)];
            *count = count.saturating_add(1);
        }
        // A few with a quarter each are all there is: nobody keeps more than who asks would have.
        let fair = fair.min(held[place(asks.holder)].saturating_add(1));
        let away = self.sessions.iter().filter(|(_, of)| of.conn.is_none() && may(of));
        let proves = self.access.users().is_some();
        let rank = |at: u16, of: &Session| {
            let over = of.expires_at <= now;
            let empty = self.subs.count_of(at) == 0 && of.will.is_none();
            let holds = held[place(of.holder)];
            let sure = holds <= fair && of.left_at.plus(SESSION_SURE) > now;
            let vacant = self.queue.is_vacant(self.session_dest(at));
            let goes = over || vacant && (empty || !sure);
            goes.then(|| {
                (over, empty, !(proves && of.user.is_some()), holds, Reverse((of.left_at, at)))
            })
        };
        let (old, _) = away
            .filter_map(|(at, of)| Some((at, rank(at, of)?)))
            .max_by(|(_, one), (_, other)| one.cmp(other))?;
        let client = text(&self.sessions[old].client_id);
        self.note(Note::SessionGaveWay { client, to: text(asks.client_id), limit });
        self.end_session(now, old);
        Some(())
    }
}
