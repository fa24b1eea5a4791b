//! The gateway's own time over a restart. Instants are kept in the store as they are (when a
//! message arrived, when a retained one expires), so the clock has to go on where it was: a mark
//! in the store says how it stood beside the system's clocks, and the next start adds the time the
//! gateway was off, as far as that can be known. Too little makes something expire late; too much
//! would make it expire early, so what is in doubt is not counted.
//!
//! Within one boot the monotonic clock knows. Over a reboot only the wall clock can: it counts when
//! both readings are plausible, it has gone forward, and not by more than a year (a router whose
//! clock is wrong by ten years has not been off for ten years).

use crate::fit::micros;
use crate::limits::{DOWNTIME_MAX, MARK_AFTER, WALL_PLAUSIBLE_S};
use crate::queue::store::{SpillStore, StoreError, Table, seal, unseal};
use crate::vocab::Instant;
use core::time::Duration;

const KEY: &[u8] = b"clock";
const MARK_BYTES: usize = 40;

/// How the system's clocks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// Another one after every boot; zero = unknown.
    pub boot_id: [u8; 16],
    /// Monotonic time since boot.
    pub up: Duration,
    /// Seconds since 1970 as the system believes.
    pub wall_s: u64,
}

/// When the gateway's clock is written down, and beside what.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// How the system's clocks stood at some time; without them nothing is written.
    known: Option<(Instant, Readings)>,
    pub(super) wall_s: u64,
    written_at: Option<Instant>,
    /// The wall clock has jumped since, or something that is written now needs it.
    urgent: bool,
    staged: bool,
}

impl Mark {
    pub(super) fn know(&mut self, now: Instant, readings: Readings) {
        self.known = Some((now, readings));
        self.wall_s = readings.wall_s;
    }

    /// The wall clock has jumped: the old mark would make the jump downtime.
    pub(super) fn outdated(&mut self) {
        self.urgent = self.written_at.is_some();
    }

    /// What the open transaction writes is told by the clock of now.
    pub(super) fn renew(&mut self) {
        self.urgent = self.known.is_some();
    }

    /// Must be written even if nothing else is.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Adds the mark to the open transaction when the last one is old.
    pub(super) fn put(
        &mut self,
        now: Instant,
        store: &mut impl SpillStore,
    ) -> Result<(), StoreError> {
        let Some((since, readings)) = self.known else { return Ok(()) };
        let young = self.written_at.is_some_and(|at| now.since(at) < MARK_AFTER);
        if young && !self.urgent {
            return Ok(());
        }
        let up = readings.up.saturating_add(now.since(since));
        let row = encode(now, &Readings { up, wall_s: self.wall_s, ..readings });
        store.put(Table::Meta, KEY, &row)?;
        self.staged = true;
        Ok(())
    }

    pub(super) fn committed(&mut self, now: Instant) {
        if core::mem::take(&mut self.staged) {
            self.written_at = Some(now);
            self.urgent = false;
        }
    }

    pub(super) fn failed(&mut self) {
        self.staged = false;
    }
}

/// Where the gateway's clock goes on, from the store's mark and the system's clocks.
pub fn resume(store: &mut impl SpillStore, readings: &Readings) -> Result<Instant, StoreError> {
    let mut mark = None;
    store.scan(Table::Meta, &mut |key, value| {
        if key == KEY {
            mark = decode(value);
        }
    })?;
    Ok(mark.map_or(Instant::START, |(at, before)| at.plus(downtime(&before, readings))))
}

fn downtime(before: &Readings, now: &Readings) -> Duration {
    let booted = before.boot_id != now.boot_id || now.boot_id == [0; 16];
    if !booted && now.up >= before.up {
        return now.up - before.up;
    }
    if before.wall_s < WALL_PLAUSIBLE_S {
        return Duration::ZERO;
    }
    let span = Duration::from_secs(now.wall_s.saturating_sub(before.wall_s));
    if span <= DOWNTIME_MAX { span } else { Duration::ZERO }
}

fn encode(at: Instant, readings: &Readings) -> Vec<u8> {
    let mut row = Vec::with_capacity(MARK_BYTES + 4);
    let up = micros(readings.up);
    row.extend_from_slice(&at.as_micros().to_le_bytes());
    row.extend_from_slice(&readings.boot_id);
    row.extend_from_slice(&up.to_le_bytes());
    row.extend_from_slice(&readings.wall_s.to_le_bytes());
    seal(Table::Meta, KEY, &mut row);
    row
}

fn decode(row: &[u8]) -> Option<(Instant, Readings)> {
    let row: &[u8; MARK_BYTES] = unseal(Table::Meta, KEY, row)?.try_into().ok()?;
    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&row[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let mut boot_id = [0; 16];
    boot_id.copy_from_slice(&row[8..24]);
    let readings = Readings { boot_id, up: Duration::from_micros(u64_at(24)), wall_s: u64_at(32) };
    Some((Instant::from_micros(u64_at(0)), readings))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u64 = 365 * 86_400;
    const NOW: u64 = 1_800_000_000;

    fn readings(boot: u8, up_s: u64, wall_s: u64) -> Readings {
        Readings { boot_id: [boot; 16], up: Duration::from_secs(up_s), wall_s }
    }

    #[test]
    fn within_one_boot_the_wall_clock_is_not_asked() {
        for wall in [0, NOW - 10 * YEAR, NOW, NOW + 10 * YEAR, u64::MAX] {
            let span = downtime(&readings(1, 100, NOW), &readings(1, 160, wall));
            assert_eq!(span, Duration::from_secs(60), "{wall}");
        }
    }

    #[test]
    fn over_a_reboot_a_plausible_wall_clock_counts() {
        let before = readings(1, 100_000, NOW);
        assert_eq!(downtime(&before, &readings(2, 10, NOW + 3600)), Duration::from_secs(3600));
        // Past 2038 and past 2106.
        for wall in [1 << 31, 1 << 32] {
            let before = readings(1, 5, wall - 10);
            assert_eq!(downtime(&before, &readings(2, 5, wall + 10)), Duration::from_secs(20));
        }
    }

    #[test]
    fn over_a_reboot_a_clock_in_doubt_counts_nothing() {
        let doubtful = [
            (NOW, NOW - 1),
            (NOW, 0),
            (NOW, NOW + 10 * YEAR),
            (0, NOW),
            (1000, 2000),
            (NOW, u64::MAX),
        ];
        for (before, now) in doubtful {
            let span = downtime(&readings(1, 100, before), &readings(2, 100, now));
            assert_eq!(span, Duration::ZERO, "{before} {now}");
        }
        // Without boot ids there is nothing to compare.
        let span = downtime(&readings(0, 100, NOW), &readings(0, 200, NOW - 1));
        assert_eq!(span, Duration::ZERO);
    }

    #[test]
    fn a_mark_round_trips_and_a_damaged_one_is_none() {
        let mark = (Instant::from_micros(1 << 60), readings(7, 1 << 33, 1 << 33));
        let mut row = encode(mark.0, &mark.1);
        assert_eq!(decode(&row), Some(mark));
        row[30] ^= 1;
        assert_eq!(decode(&row), None);
        assert_eq!(decode(&row[1..]), None);
    }
}
