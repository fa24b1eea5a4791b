//! Is what lies at the path what was here last? The record beside it says how far that had come.

use super::aside::beside;
use super::lock::Record;
use super::look::{LogNumber, log_number};
use super::wal::Wal;
use crate::queue::store::{Origin, Stock};
use std::path::Path;

/// A log that is in the database with all it had.
const WHOLE: u64 = u64::MAX;

/// How far what lies at the path has come.
pub(super) struct Stand {
    database: Option<LogNumber>,
    log: Option<LogNumber>,
    /// Up to where the log beside it can be read.
    end: u64,
    /// There is no database, nor anything in its log.
    absent: bool,
}

impl Stand {
    /// Reads the log and the first pages of the database. What cannot be read says nothing.
    pub(super) fn of(path: &Path) -> Stand {
        let number = |log| log_number(path, log).ok().flatten();
        let wal = Wal::open(&beside(path, "-wal")).ok().flatten();
        let end = wal.as_ref().filter(|wal| !wal.is_empty()).map_or(0, Wal::end);
        let absent = end == 0 && !path.exists();
        Stand { database: number(false), log: number(true), end, absent }
    }

    /// Identity, log, and how far that goes.
    fn position(&self) -> Option<(u64, u64, u64)> {
        let database = self.database?;
        match self.log.filter(|log| log.follows(&database)) {
            Some(log) if log.log != database.log => Some((log.store, log.log, self.end)),
            Some(_) | None => Some((database.store, database.log, WHOLE)),
        }
    }

    /// What is wrong with it, as far as the record can tell.
    pub(super) fn judge(&self, record: Option<Record>) -> Option<Origin> {
        let record = record?;
        if self.absent {
            let lost = record.stock.map(|stock| stock.messages);
            return (lost != Some(0)).then_some(Origin { reason: "store_gone", lost });
        }
        let (store, log, end) = self.position()?;
        if store != record.store {
            Some(Origin { reason: "other_store", lost: None })
        } else if (log, end) < (record.log, if record.whole { WHOLE } else { record.end }) {
            Some(Origin { reason: "older_store", lost: None })
        } else {
            None
        }
    }

    /// Has the log lost its end since the last clean stop, when all of it was in the database?
    pub(super) fn has_cut_log(&self, record: Option<Record>) -> bool {
        let Some(record) = record.filter(|record| record.whole) else { return false };
        let its = |number: &LogNumber| (number.store, number.log) == (record.store, record.log);
        self.database.as_ref().is_some_and(its)
            && self.log.as_ref().is_some_and(its)
            && self.end < record.end
    }

    /// What it had at its last clean stop, if it has not changed since but for damage.
    pub(super) fn stock(&self, record: Option<Record>) -> Option<Stock> {
        let record = record?;
        let numbers = [self.database, self.log].into_iter().flatten();
        let mut logs = numbers.filter(|number| number.store == record.store).map(|at| at.log);
        (logs.clone().max() == Some(record.log) && logs.all(|log| log <= record.log))
            .then_some(record.stock)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(store: u64, log: u64) -> Option<LogNumber> {
        Some(LogNumber { store, log, boot: 0 })
    }

    fn stand(database: Option<LogNumber>, log: Option<LogNumber>, end: u64) -> Stand {
        Stand { database, log, end, absent: false }
    }

    fn reason(stand: &Stand, record: Record) -> Option<&'static str> {
        stand.judge(Some(record)).map(|origin| origin.reason)
    }

    #[test]
    fn what_is_behind_the_record_is_older() {
        let record = Record { store: 1, log: 5, end: 3000, whole: false, stock: None };
        for (database, log, end, older) in [
            (number(1, 4), number(1, 5), 3000, false),
            (number(1, 4), number(1, 5), 4000, false),
            (number(1, 5), None, 0, false),
            (number(1, 5), number(1, 5), 100, false),
            (number(1, 5), number(1, 6), 100, false),
            (number(1, 4), number(1, 5), 2000, true),
            (number(1, 4), None, 0, true),
            (number(1, 4), number(1, 4), 9000, true),
            (number(1, 3), number(1, 4), 9000, true),
            // Of a log that is not its own nothing counts.
            (number(1, 4), number(2, 5), 9000, true),
            (number(1, 4), number(1, 7), 9000, true),
            // Nothing is known of it.
            (None, number(1, 3), 100, false),
            (None, None, 0, false),
        ] {
            let found = reason(&stand(database, log, end), record);
            assert_eq!(found, older.then_some("older_store"), "{database:?} {log:?} {end}");
        }
        let whole = Record { whole: true, ..record };
        let found = reason(&stand(number(1, 4), number(1, 5), 3000), whole);
        assert_eq!(found, Some("older_store"), "the database was put back alone");
        assert_eq!(reason(&stand(number(1, 5), number(1, 5), 9), whole), None);
        let other = stand(number(2, 9), None, 0);
        assert_eq!(reason(&other, record), Some("other_store"));
        assert!(other.judge(None).is_none(), "nothing to compare with");
    }

    #[test]
    fn a_store_that_is_gone_is_told_with_what_it_had() {
        let gone = Stand { absent: true, ..stand(None, None, 0) };
        for (messages, lost) in [(None, Some(None)), (Some(0), None), (Some(7), Some(Some(7)))] {
            let stock = messages.map(|messages| Stock { messages, all_open: false });
            let record = Record { store: 1, log: 5, end: 0, whole: false, stock };
            assert_eq!(gone.judge(Some(record)).map(|origin| origin.lost), lost);
        }
    }

    #[test]
    fn what_it_had_is_known_while_nothing_was_committed_since() {
        let stock = Some(Stock { messages: 7, all_open: true });
        let record = Record { store: 1, log: 5, end: 0, whole: true, stock };
        for (database, log, known) in [
            (number(1, 5), None, true),
            (number(1, 4), number(1, 5), true),
            (None, number(1, 5), true),
            (number(1, 4), None, false),
            (number(1, 5), number(1, 6), false),
            (number(2, 5), None, false),
            (None, None, false),
        ] {
            let found = stand(database, log, 100).stock(Some(record));
            assert_eq!(found, stock.filter(|_| known), "{database:?} {log:?}");
        }
    }
}
