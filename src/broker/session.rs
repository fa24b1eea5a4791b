//! Local sessions: who they are, whether they are connected, when they end. Their subscriptions
//! are in `subs`, their messages in the queue. Read MQTT 5 sections 3.1.2.4, 3.1.2.11.2 and 4.1
//! first.

use super::access::Who;
use crate::fit::fit;
use crate::limits::USER_BYTES_MAX;
use crate::mqtt::{Qos, Version};
use crate::vocab::Instant;
use core::time::Duration;

/// A last will, kept until its connection ends.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    /// Encoded properties for the PUBLISH (without Will Delay and Message Expiry).
    pub properties: Vec<u8>,
    pub expiry_s: Option<u32>,
    pub qos: Qos,
    pub retain: bool,
    pub delay: Duration,
}

impl Will {
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}

#[derive(Debug)]
pub struct Session {
    pub used: bool,
    pub client_id: String,
    /// The name its client has given, and proved if there are users.
    pub user: Option<String>,
    /// Whom its place counts for, as a hash: the user that was proved, or the address. 0 =
    /// restored.
    pub holder: u64,
    /// When its client was last here; ZERO before the start.
    pub left_at: Instant,
    /// What is queued was judged by other rules, or for another user.
    pub recheck: bool,
    /// The connection's slot.
    pub conn: Option<u16>,
    pub version: Version,
    /// How long it is kept without a connection; zero = it ends with it.
    pub expiry: Duration,
    /// When it ends; `NEVER` while connected.
    pub expires_at: Instant,
    pub will: Option<Will>,
    /// When the will is published; `NEVER` = not due.
    pub will_at: Instant,
    /// A subscription has an identifier.
    pub has_ids: bool,
    /// Its row in the store has to be written (or deleted).
    pub dirty: bool,
    pub stored: bool,
    /// What its client may know of exchanges under way is not here: it is told of a new session
    /// until it has heard.
    pub in_doubt: bool,
    /// What the access rules denied it (publish, subscribe, receive, will) since that was told.
    pub denied: [(u64, Instant); 4],
}

impl Session {
    /// Whom the access rules are asked about.
    pub fn who(&self) -> Who<'_> {
        Who { user: self.user.as_deref(), client_id: &self.client_id }
    }
}

/// No room for one more session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionsFull;

pub struct Sessions {
    table: Box<[Session]>,
    used: u32,
}

impl Sessions {
    pub fn new(count: u16) -> Self {
        let table = (0..count).map(|_| Session {
            used: false,
            client_id: String::new(),
            user: None,
            holder: 0,
            left_at: Instant::ZERO,
            recheck: false,
            conn: None,
            version: Version::V311,
            expiry: Duration::ZERO,
            expires_at: Instant::NEVER,
            will: None,
            will_at: Instant::NEVER,
            has_ids: false,
            dirty: false,
            stored: false,
            in_doubt: false,
            denied: [(0, Instant::ZERO); 4],
        });
        Self { table: table.collect(), used: 0 }
    }

    pub fn planned_bytes(count: u16, client_id_bytes: usize) -> usize {
        usize::from(count) * (size_of::<Session>() + client_id_bytes + USER_BYTES_MAX)
    }

    pub fn find(&self, client_id: &str) -> Option<u16> {
        let at = self.table.iter().position(|s| s.used && s.client_id == client_id)?;
        u16::try_from(at).ok()
    }

    /// A fresh session.
    pub fn add(&mut self, client_id: &str) -> Result<u16, SessionsFull> {
        let at = self.table.iter().position(|session| !session.used).ok_or(SessionsFull)?;
        let session = &mut self.table[at];
        session.used = true;
        session.client_id.clear();
        session.client_id.push_str(client_id);
        session.user = None;
        session.holder = 0;
        session.left_at = Instant::ZERO;
        session.recheck = false;
        session.conn = None;
        session.expiry = Duration::ZERO;
        session.expires_at = Instant::NEVER;
        session.will = None;
        session.will_at = Instant::NEVER;
        session.has_ids = false;
        session.dirty = false;
        session.stored = false;
        session.in_doubt = false;
        session.denied = [(0, Instant::ZERO); 4];
        self.used += 1;
        u16::try_from(at).map_err(|_| SessionsFull)
    }

    pub fn remove(&mut self, at: u16) {
        let session = &mut self[at];
        assert!(session.used, "a session ends once");
        session.used = false;
        session.will = None;
        self.used -= 1;
    }

    pub fn len(&self) -> u32 {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Is there no place for one more?
    pub fn is_full(&self) -> bool {
        self.used == u32::from(self.count())
    }

    pub fn count(&self) -> u16 {
        fit(self.table.len(), "sessions")
    }

    /// Sessions in use, with their index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Session)> {
        (0..).zip(self.table.iter()).filter(|(_, session)| session.used)
    }

    /// The next time something of a session is due.
    pub fn due_at(&self) -> Instant {
        self.iter()
            .map(|(_, session)| session.expires_at.min(session.will_at))
            .min()
            .unwrap_or(Instant::NEVER)
    }
}

impl core::ops::Index<u16> for Sessions {
    type Output = Session;
    fn index(&self, at: u16) -> &Session {
        &self.table[usize::from(at)]
    }
}

impl core::ops::IndexMut<u16> for Sessions {
    fn index_mut(&mut self, at: u16) -> &mut Session {
        &mut self.table[usize::from(at)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_given_again() {
        let mut sessions = Sessions::new(2);
        let a = sessions.add("a").unwrap();
        sessions[a].holder = 7;
        sessions.add("b").unwrap();
        assert_eq!(sessions.add("c"), Err(SessionsFull));
        assert!(sessions.is_full());
        sessions.remove(a);
        assert_eq!(sessions.find("a"), None);
        assert_eq!(sessions.add("c"), Ok(a));
        assert_eq!(sessions[a].holder, 0);
    }
}
