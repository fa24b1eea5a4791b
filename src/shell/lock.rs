//! One process a store: an exclusive `flock` on a file beside it.
//!
//! The lock goes with the process, also when it is killed; the file stays and means nothing by
//! itself. It is never the database file, whose locks SQLite handles.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Held as long as the store is in use.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Held(PathBuf),
    Io(PathBuf, io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(path) => {
                write!(f, "the store is in use by another process ({} is locked)", path.display())
            }
            Self::Io(path, error) => write!(f, "cannot lock {}: {error}", path.display()),
        }
    }
}

impl Lock {
    /// Takes `STORE.lock` or says who is in the way; never waits.
    pub fn take(store: &Path) -> Result<Self, LockError> {
        let mut name = store.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let mut file = match open {
            Ok(file) => file,
            Err(error) => return Err(LockError::Io(path, error)),
        };
        // SAFETY: the descriptor belongs to `file`, which is open.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            return Err(if error.kind() == io::ErrorKind::WouldBlock {
                LockError::Held(path)
            } else {
                LockError::Io(path, error)
            });
        }
        // The number is for people who look into the file; the lock does not need it, so a disk
        // without room for it is no reason to stop.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let dir = std::env::temp_dir().join(format!("spillway-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let store = dir.join("spill.db");
        let first = Lock::take(&store).unwrap();
        assert!(matches!(Lock::take(&store), Err(LockError::Held(_))));
        drop(first);
        assert!(Lock::take(&store).is_ok());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_with_its_path() {
        let error = Lock::take(Path::new("/nonexistent-dir/spill.db")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent-dir/spill.db.lock"), "{error}");
    }
}
