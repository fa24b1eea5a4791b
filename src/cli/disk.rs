//! Where the store lies: its directory, the file system below it and what is free there. Looks
//! only, writes nothing.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What keeps the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// RAM under a file system's name.
    Ram,
    /// Layers: the upper one decides.
    Overlay,
    /// Never written: an image.
    Image,
    /// Another machine.
    Network,
    /// A disk or flash.
    Disk,
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub directory: PathBuf,
    pub medium: Medium,
    pub file_system: &'static str,
    /// Bytes free for us on the file system; `None` when it does not say.
    pub free_bytes: Option<u64>,
    /// Bytes the store and its WAL take now.
    pub store_bytes: u64,
}

/// Looks at the place of the store `path`.
pub(super) fn look(path: &Path) -> Disk {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    // What does not exist yet lies on the file system of what does.
    let there = directory.ancestors().find(|ancestor| ancestor.is_dir());
    let status = status(there.unwrap_or(Path::new(".")));
    let (medium, file_system) = status.map_or((Medium::Unknown, "unknown"), |s| kind(s.magic));
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let length = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    Disk {
        directory,
        medium,
        file_system,
        free_bytes: status.map(|s| s.free_bytes),
        store_bytes: length(path) + length(Path::new(&wal)),
    }
}

#[derive(Clone, Copy)]
struct Status {
    /// The low 32 bits of the type: 32-bit systems sign what 64-bit ones do not.
    magic: u32,
    free_bytes: u64,
}

fn status(path: &Path) -> Option<Status> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut out = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `path` is a C string and `out` has room for the whole answer; both outlive the call.
    if unsafe { libc::statfs(path.as_ptr(), out.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: zeroed before, and filled by the call that succeeded: every field is an integer.
    let out = unsafe { out.assume_init() };
    let magic = u32::try_from(wide(out.f_type)? & 0xFFFF_FFFF).ok()?;
    let free = wide(out.f_bavail)?.checked_mul(wide(out.f_bsize)?)?;
    Some(Status { magic, free_bytes: u64::try_from(free).ok()? })
}

/// The fields' types differ from system to system.
fn wide(value: impl TryInto<i128>) -> Option<i128> {
    value.try_into().ok()
}

/// Names of statfs(2)'s types, as far as a router meets them.
fn kind(magic: u32) -> (Medium, &'static str) {
    match magic {
        0x0102_1994 => (Medium::Ram, "tmpfs"),
        0x8584_58f6 => (Medium::Ram, "ramfs"),
        0x794c_7630 => (Medium::Overlay, "overlayfs"),
        0x7371_7368 => (Medium::Image, "squashfs"),
        0xe0f5_e1e2 => (Medium::Image, "erofs"),
        0x28cd_3d45 => (Medium::Image, "cramfs"),
        0x6969 => (Medium::Network, "nfs"),
        0xff53_4d42 | 0xfe53_4d42 => (Medium::Network, "cifs"),
        0xef53 => (Medium::Disk, "ext2/3/4"),
        0x72b6 => (Medium::Disk, "jffs2"),
        0x2405_1905 => (Medium::Disk, "ubifs"),
        0xf2f5_2010 => (Medium::Disk, "f2fs"),
        0x9123_683e => (Medium::Disk, "btrfs"),
        0x5846_5342 => (Medium::Disk, "xfs"),
        0x4d44 => (Medium::Disk, "vfat"),
        _ => (Medium::Unknown, "unknown"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory of its own that goes with the test.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Self {
            let name = format!("spillway-cli-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("temporary directory");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn what_the_store_takes_and_what_is_free_is_told_of_places_that_are_not_there_yet() {
        let scratch = Scratch::new("place");
        let at = |name: &str| look(&scratch.0.join(name));
        fs::write(scratch.0.join("file"), b"12345").expect("write");
        fs::write(scratch.0.join("file-wal"), b"123").expect("write");
        assert_eq!((at("file").store_bytes, at("none").store_bytes), (8, 0));
        assert!(at("no/spill.db").free_bytes.is_some());
    }

    #[test]
    fn a_relative_path_lies_here() {
        assert_eq!(look(Path::new("spill.db")).directory, Path::new("."));
        assert_eq!(look(Path::new("/spill.db")).directory, Path::new("/"));
    }

    #[test]
    fn ram_is_told_from_disks() {
        assert_eq!(kind(0x0102_1994).0, Medium::Ram);
        assert_eq!(kind(0xef53).0, Medium::Disk);
        // The constant agrees with the system's header, whatever its type there.
        let tmpfs = wide(libc::TMPFS_MAGIC).expect("an integer");
        assert_eq!(tmpfs, 0x0102_1994);
        let overlay = wide(libc::OVERLAYFS_SUPER_MAGIC).expect("an integer");
        assert_eq!(overlay, 0x794c_7630);
    }
}
