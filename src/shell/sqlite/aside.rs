//! Damaged files are put aside beside the store, with their log, under a number: only the newest
//! is kept. Nothing is read in them here.

use super::{Quarantined, disk};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Renames the file and its log to `*.corrupt-N` and removes older ones. A log that belongs to
/// another database gets a name by which nobody takes it for this one's. `alone`: older ones go.
pub(super) fn put_aside(
    path: &Path,
    reason: &str,
    own_log: bool,
    alone: bool,
) -> io::Result<Quarantined> {
    let older = corrupt_files(path)?;
    let newest = older.iter().map(|(number, _)| *number).max().unwrap_or(0);
    // The database first: without it, its log is put aside at the next start, and to it.
    let last = aside(path, newest);
    let rest = !path.exists() && last.exists() && !beside(&last, "-wal").exists();
    let number = if rest { newest } else { newest + 1 };
    let target = aside(path, number);
    for (end, new) in [("", ""), ("-wal", if own_log { "-wal" } else { "-other" })] {
        match fs::rename(beside(path, end), beside(&target, new)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    disk::sync_directory(disk::directory(path))?;
    for (_, file) in older.iter().filter(|(old, _)| alone && *old < number) {
        // One that stays takes room, no more.
        let _ = fs::remove_file(file);
    }
    Ok(Quarantined { file: target.display().to_string(), reason: reason.to_owned(), number })
}

/// Where file `number` was put.
pub(super) fn aside(path: &Path, number: u32) -> PathBuf {
    beside(path, &format!(".corrupt-{number}"))
}

/// The newest file that was put aside, if there is one.
pub(super) fn newest(path: &Path) -> Option<u32> {
    corrupt_files(path).ok()?.into_iter().map(|(number, _)| number).max()
}

/// Removes a file that was put aside, with its log.
pub(super) fn remove(path: &Path) {
    for end in ["", "-wal", "-other"] {
        // One that stays takes room, no more.
        let _ = fs::remove_file(beside(path, end));
    }
}

/// Files put aside before, with their numbers; logs too.
fn corrupt_files(path: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in fs::read_dir(disk::directory(path))? {
        let entry = entry?;
        let file = entry.file_name();
        let number = file
            .to_str()
            .and_then(|file| file.strip_prefix(&name)?.strip_prefix(".corrupt-"))
            .and_then(|number| number.split('-').next()?.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

/// Bytes that files put aside take.
pub(super) fn corrupt_bytes(path: &Path) -> u64 {
    let files = corrupt_files(path).unwrap_or_default();
    files.iter().filter_map(|(_, file)| fs::metadata(file).ok()).map(|data| data.len()).sum()
}

/// `path` with something at its end.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    PathBuf::from(name)
}
