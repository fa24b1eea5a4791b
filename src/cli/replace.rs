//! A file's new content in place of the old: whole or not at all, whenever the process or the power
//! goes; with the old file's owner, mode, access list and other attributes, so that whoever could
//! read it still can and nobody else; a symbolic link to it stays one.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The mode of a file that was not there before: it holds secrets.
const MODE_NEW: u32 = 0o600;

/// Links followed; the kernel follows no more either.
const LINKS_MAX: usize = 40;

/// All names of a file's attributes, and one value, in bytes; Linux has no longer ones.
const ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;

/// The attribute that makes the group's bits of the mode mean something else.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// Where the file really is, whether it exists or not.
pub(super) fn real(path: &Path) -> PathBuf {
    let mut real = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&real) else { break };
        real = real.parent().map_or(target.clone(), |parent| parent.join(target));
    }
    real
}

/// Held while a file is read, changed and replaced: two that do so at once wait for each other.
pub(super) struct Turn(File);

impl Turn {
    /// Waits for it. `file` is where it really is.
    pub(super) fn take(file: &Path) -> io::Result<Self> {
        let directory = File::open(directory(file))?;
        // SAFETY: the descriptor is open; plain integers.
        while unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(Self(directory))
    }

    /// Puts `bytes` in the place of what is in `file`, on the disk before it has the name.
    pub(super) fn replace(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = file.with_file_name(name);
        // What a run that was killed has left is of no use to anybody.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let write = || {
            let options = OpenOptions::new().write(true).create_new(true).mode(MODE_NEW).clone();
            let mut out = options.open(&new)?;
            out.write_all(bytes)?;
            match File::open(file) {
                Ok(old) => take_after(&old, &out)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            out.sync_all()?;
            fs::rename(&new, file)
        };
        if let Err(error) = write() {
            // What is left of it is of no use; the error is the other one.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        self.0.sync_all()
    }
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Gives `new` the owner, mode and attributes of `old`; nobody gets a right he had not.
fn take_after(old: &File, new: &File) -> io::Result<()> {
    let (data, own) = (old.metadata()?, new.metadata()?);
    if (data.uid(), data.gid()) != (own.uid(), own.gid()) {
        fchown(new, Some(data.uid()), Some(data.gid())).map_err(|error| {
            let ids = format!("{}:{}", data.uid(), data.gid());
            let what = format!("it belongs to {ids} and must stay so: {error}");
            io::Error::new(error.kind(), what)
        })?;
    }
    for name in attributes(old)? {
        let Some(value) = attribute(old, &name)? else { continue };
        if let Err(error) = set_attribute(new, &name, &value)
            && name.as_c_str() == ACCESS_LIST
        {
            // Without it the mode would let the wrong people in.
            return Err(error);
        }
    }
    // Last: changing the owner takes bits away, an access list sets the group's.
    new.set_permissions(fs::Permissions::from_mode(data.permissions().mode() & 0o7777))
}

/// Names of the attributes; none where the file system has none.
fn attributes(file: &File) -> io::Result<Vec<CString>> {
    let mut names = vec![0_u8; ATTRIBUTE_BYTES_MAX];
    let (to, room) = (names.as_mut_ptr().cast(), names.len());
    // SAFETY: the descriptor is open, the pointer and the length describe `names`.
    let count = unsafe { libc::flistxattr(file.as_raw_fd(), to, room) };
    let Some(count) = known(count)? else { return Ok(Vec::new()) };
    names.truncate(count);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

fn attribute(file: &File, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; ATTRIBUTE_BYTES_MAX];
    let (to, room) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: as above; the name is a C string that outlives the call.
    let count = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), to, room) };
    let Some(count) = known(count)? else { return Ok(None) };
    value.truncate(count);
    Ok(Some(value))
}

fn set_attribute(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    let (from, bytes) = (value.as_ptr().cast(), value.len());
    // SAFETY: as above; the pointer and the length describe `value`.
    match unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), from, bytes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A length; `None` where the file system has no attributes or not this one.
fn known(count: libc::ssize_t) -> io::Result<Option<usize>> {
    if let Ok(count) = usize::try_from(count) {
        return Ok(Some(count));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOTSUP | libc::ENODATA | libc::ENOSYS | libc::EPERM | libc::EACCES) => Ok(None),
        Some(_) | None => Err(error),
    }
}
