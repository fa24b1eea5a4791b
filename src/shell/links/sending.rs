//! Writing: from the core to the sockets.

use super::Links;
use crate::shell::buffers::Smalls;
use crate::shell::conn::Conn;
use crate::shell::core::Core;
use crate::shell::socket;
use crate::vocab::Instant;
use std::io;

/// Bytes written to one connection a turn.
const WRITE_BYTES_A_TURN: usize = 128 * 1024;

impl Links {
    /// One round over everybody who has something to be written.
    pub(in crate::shell) fn write_all(&mut self, now: Instant, core: &mut impl Core) {
        for _ in 0..self.writers.slots.len() {
            let Some(slot) = self.writers.next() else { return };
            let Some(conn) = self.slots.get_mut(usize::from(slot)).and_then(Option::as_mut) else {
                continue;
            };
            if !conn.may_write() {
                continue;
            }
            let written = write(conn, now, &mut self.smalls, core);
            conn.tidy_up(&mut self.smalls);
            match written {
                Ok(()) => {
                    let until = conn.write_until;
                    self.due = self.due.min(until);
                    self.finish_flush(now, slot, core);
                }
                Err(error) => self.write_failed(now, slot, socket::reason(&error), core),
            }
            self.line_up(slot);
        }
    }
}

/// Takes bytes from the core and writes them, until one of the two has enough.
fn write(
    conn: &mut Conn,
    now: Instant,
    smalls: &mut Smalls,
    core: &mut impl Core,
) -> io::Result<()> {
    let mut budget = WRITE_BYTES_A_TURN;
    while budget > 0 {
        fill(conn, now, smalls, core);
        let Some(out) = conn.out.as_deref().filter(|_| conn.out_bytes() > 0) else {
            return Ok(());
        };
        match conn.transport.write(&out[conn.out_start..conn.out_end]) {
            Ok(count) => {
                conn.out_start += count;
                conn.unanswered = 0;
                budget = budget.saturating_sub(count);
                conn.write_until = Instant::NEVER;
                if conn.out_bytes() > 0 {
                    // A short write has filled the socket: room is a new event.
                    conn.blocked(now);
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                conn.blocked(now);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks the core for bytes as long as there is decent room for them.
fn fill(conn: &mut Conn, now: Instant, smalls: &mut Smalls, core: &mut impl Core) {
    let bridge = conn.bridge;
    let out = conn.out.get_or_insert_with(|| smalls.out(bridge));
    if conn.out_start > 0 {
        out.copy_within(conn.out_start..conn.out_end, 0);
        conn.out_end -= conn.out_start;
        conn.out_start = 0;
    }
    while conn.wants && out.len() - conn.out_end >= out.len() / 2 {
        let room = &mut out[conn.out_end..];
        let bytes = core.transmit(now, conn.id, room);
        assert!(bytes <= room.len(), "the core fills no more than it was given");
        conn.out_end += bytes;
        conn.wants = bytes > 0;
    }
}
