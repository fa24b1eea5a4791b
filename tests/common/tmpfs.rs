//! A small file system in RAM that can be full or read-only. Mounting it needs root; a test that
//! cannot have it says so and ends.

#![allow(dead_code)]

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Mounted over a directory as long as it lives.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` (and a word why) without the right to mount.
    pub fn mount(directory: &Path, bytes: u64) -> Option<Tmpfs> {
        let tmpfs = Tmpfs(directory.to_path_buf());
        let data = CString::new(format!("size={bytes}")).expect("no zero in it");
        let (target, kind) = (tmpfs.target(), c"tmpfs".as_ptr());
        // SAFETY: strings that end with a zero and outlive the call.
        let done = unsafe { libc::mount(kind, target.as_ptr(), kind, 0, data.as_ptr().cast()) };
        if done != 0 {
            println!("skipped: no tmpfs: {}", io::Error::last_os_error());
            return None;
        }
        Some(tmpfs)
    }

    /// Writes into a file until not one byte fits any more; removing it makes room.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("a name is left");
        for bytes in [4096, 512, 1] {
            while file.write_all(&[1; 4096][..bytes]).is_ok() {}
        }
        path
    }

    /// From now on nothing is written (`true`), or again what is asked for.
    pub fn set_read_only(&self, read_only: bool) {
        let target = self.target();
        let flags = libc::MS_REMOUNT | if read_only { libc::MS_RDONLY } else { 0 };
        let none = std::ptr::null();
        // SAFETY: as in `mount`; a remount takes no source.
        let done = unsafe { libc::mount(none, target.as_ptr(), none, flags, none.cast()) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }

    fn target(&self) -> CString {
        CString::new(self.0.as_os_str().as_bytes()).expect("no zero in it")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let target = self.target();
        // SAFETY: a string that ends with a zero and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}
