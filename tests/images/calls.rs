//! What a thread asks the kernel to change in one directory, in order: every write, truncation,
//! reservation and sync, every name made, renamed or removed.
//!
//! The system calls themselves are taken over, one floor below SQLite's VFS: so the store's own
//! reservations, renames and syncs are seen beside those of SQLite, and the product is unchanged.
//! A program's own symbol goes before the one of the C library; each definition does what the
//! kernel would and then notes it, if this thread records and the file lies in its directory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A file, whatever its name is at the moment.
pub type FileId = usize;

#[derive(Clone, Debug)]
pub enum Call {
    Create {
        name: String,
        file: FileId,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    Write {
        file: FileId,
        at: usize,
        bytes: Vec<u8>,
    },
    /// The file's size is set.
    Resize {
        file: FileId,
        size: usize,
    },
    /// Blocks are reserved; the file may grow by zeros.
    Reserve {
        file: FileId,
        end: usize,
    },
    Sync {
        file: FileId,
    },
    SyncNames,
    /// A sync that the disk only pretended.
    Pretended,
}

/// The names of a directory.
pub type Names = BTreeMap<String, FileId>;

/// What was in the directory at first and what happened to it since.
#[derive(Clone, Default)]
pub struct Record {
    pub names: Names,
    /// Content at first; of a file that was made later: nothing.
    pub files: Vec<Vec<u8>>,
    pub calls: Vec<Call>,
    /// The boot it happened in.
    boot: u64,
}

impl Record {
    /// The same on a disk that only says that it has synced these.
    pub fn with_lying_disk(mut self, lies: impl Fn(FileId) -> bool) -> Self {
        for call in &mut self.calls {
            if matches!(call, Call::Sync { file } if lies(*file)) {
                *call = Call::Pretended;
            }
        }
        self
    }

    /// The file that has, or had, this name; the last that was made under it.
    pub fn file(&self, name: &str) -> Option<FileId> {
        let made = self.calls.iter().rev().find_map(|call| match call {
            Call::Create { name: made, file } if made == name => Some(*file),
            _ => None,
        });
        made.or_else(|| self.names.get(name).copied())
    }
}

struct Recorder {
    directory: PathBuf,
    can_reserve: bool,
    open: BTreeMap<c_int, Option<FileId>>,
    names: Names,
    record: Record,
}

/// Where the kernel says which boot this is.
const BOOT_ID: &CStr = c"/proc/sys/kernel/random/boot_id";

thread_local! {
    /// Another boot than the machine's, if not 0.
    static BOOT: Cell<u64> = const { Cell::new(0) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Begins to record what this thread does to the files of `directory`. Without `can_reserve` its
/// file system does not know `fallocate`.
pub fn start(directory: &Path, can_reserve: bool) {
    let mut record = Record { boot: BOOT.get(), ..Record::default() };
    for entry in fs::read_dir(directory).expect("the directory is there") {
        let entry = entry.expect("a name");
        let name = entry.file_name().into_string().expect("names are text");
        record.names.insert(name, record.files.len());
        record.files.push(fs::read(entry.path()).expect("a file"));
    }
    let recorder = Recorder {
        directory: directory.to_owned(),
        can_reserve,
        open: BTreeMap::new(),
        names: record.names.clone(),
        record,
    };
    RECORDER.with(|place| {
        assert!(place.replace(Some(recorder)).is_none(), "one record at a time");
    });
}

/// What this thread opens next, it opens in the boot of this record, or after a power cut.
pub fn go_on(record: &Record, after_power_cut: bool) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let new = || LAST.fetch_add(1, Ordering::Relaxed) + 1;
    BOOT.set(if after_power_cut { new() } else { record.boot });
}

/// How many calls were recorded so far.
pub fn count() -> usize {
    RECORDER.with(|place| place.borrow().as_ref().map_or(0, |it| it.record.calls.len()))
}

/// Ends the record.
pub fn finish() -> Record {
    RECORDER.with(|place| place.take()).expect("a record was begun").record
}

impl Recorder {
    /// The name of a path in the directory.
    fn name(&self, path: &Path) -> Option<String> {
        (path.parent()? == self.directory).then(|| path.file_name()?.to_str().map(str::to_owned))?
    }

    fn opened(&mut self, fd: c_int, path: &Path, flags: c_int) {
        if path == self.directory {
            self.open.insert(fd, None);
            return;
        }
        let Some(name) = self.name(path) else { return };
        let known = self.names.get(&name).copied();
        let file = known.unwrap_or_else(|| {
            self.record.files.push(Vec::new());
            let file = self.record.files.len() - 1;
            self.names.insert(name.clone(), file);
            self.record.calls.push(Call::Create { name, file });
            file
        });
        if known.is_some() && flags & libc::O_TRUNC != 0 {
            self.record.calls.push(Call::Resize { file, size: 0 });
        }
        self.open.insert(fd, Some(file));
    }

    fn file(&self, fd: c_int) -> Option<FileId> {
        *self.open.get(&fd)?
    }
}

/// Hands the recorder of this thread to `note`, if there is one.
fn note(note: impl FnOnce(&mut Recorder)) {
    // A thread that ends has no recorder any more.
    let _ = RECORDER.try_with(|place| {
        if let Ok(mut place) = place.try_borrow_mut()
            && let Some(recorder) = place.as_mut()
        {
            note(recorder);
        }
    });
}

fn note_file(fd: c_int, call: impl FnOnce(FileId) -> Call) {
    note(|recorder| {
        if let Some(file) = recorder.file(fd) {
            recorder.record.calls.push(call(file));
        }
    });
}

unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: the caller of a system call passes a path that ends with a zero.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

fn narrow(result: libc::c_long) -> c_int {
    c_int::try_from(result).expect("a status or a descriptor")
}

fn wide(number: libc::off_t) -> usize {
    usize::try_from(number).expect("no offset is negative")
}

/// A file that holds another boot's name.
fn boot_file(boot: u64) -> c_int {
    let text = format!("{boot:016x}{boot:016x}\n");
    let length = libc::off_t::try_from(text.len()).expect("small");
    // SAFETY: the name ends with a zero; the text lives longer than the calls.
    unsafe {
        let fd = libc::memfd_create(c"boot_id".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "a file in memory");
        let data = text.as_ptr().cast::<c_void>();
        let written = libc::syscall(libc::SYS_pwrite64, fd, data, text.len(), 0);
        assert_eq!(written, length, "a few bytes");
        fd
    }
}

unsafe fn open_at(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller's path, as it is.
    if BOOT.get() != 0 && unsafe { CStr::from_ptr(path) } == BOOT_ID {
        return boot_file(BOOT.get());
    }
    // SAFETY: the caller's arguments, as they are.
    let fd = narrow(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) });
    if fd >= 0 {
        // SAFETY: the kernel has just read this path.
        let path = unsafe { path_of(path) };
        note(|recorder| recorder.opened(fd, path, flags));
    }
    fd
}

unsafe fn write_at(fd: c_int, data: *const c_void, count: usize, at: libc::off_t) -> isize {
    // SAFETY: the caller's arguments, as they are.
    let done = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, count, at) };
    if let Ok(done) = usize::try_from(done) {
        // SAFETY: the kernel has just read these bytes.
        let bytes = unsafe { core::slice::from_raw_parts(data.cast::<u8>(), done) };
        note_file(fd, |file| Call::Write { file, at: wide(at), bytes: bytes.to_vec() });
    }
    isize::try_from(done).expect("as wide as a pointer")
}

unsafe fn resize(fd: c_int, size: libc::off_t) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let done = narrow(unsafe { libc::syscall(libc::SYS_ftruncate, fd, size) });
    if done == 0 {
        note_file(fd, |file| Call::Resize { file, size: wide(size) });
    }
    done
}

unsafe fn reserve(fd: c_int, mode: c_int, from: libc::off_t, length: libc::off_t) -> c_int {
    let mut refused = false;
    note(|recorder| refused = !recorder.can_reserve && recorder.file(fd).is_some());
    if refused {
        // SAFETY: the place of this thread's error number.
        unsafe { *libc::__errno_location() = libc::EOPNOTSUPP };
        return -1;
    }
    assert_eq!(mode, 0, "only plain reservations are known here");
    // SAFETY: the caller's arguments, as they are.
    let done = narrow(unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, from, length) });
    if done == 0 {
        note_file(fd, |file| Call::Reserve { file, end: wide(from + length) });
    }
    done
}

unsafe fn sync(fd: c_int, call: libc::c_long) -> c_int {
    // Into the page cache is enough: nobody pulls the plug of this machine.
    let recorded = {
        let mut recorded = false;
        note(|recorder| match recorder.open.get(&fd) {
            Some(Some(file)) => {
                recorder.record.calls.push(Call::Sync { file: *file });
                recorded = true;
            }
            Some(None) => {
                recorder.record.calls.push(Call::SyncNames);
                recorded = true;
            }
            None => {}
        });
        recorded
    };
    // SAFETY: the caller's argument, as it is.
    if recorded { 0 } else { narrow(unsafe { libc::syscall(call, fd) }) }
}

/// Defines C functions over the ones above, under the names 64-bit Linux has for them.
macro_rules! takes_over {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            // SAFETY: whoever calls the C library's function keeps its contract.
            unsafe { $body }
        }
    )*};
}

takes_over! {
    open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int =
        open_at(path, flags, mode);
    open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int =
        open_at(path, flags, mode);
    pwrite(fd: c_int, data: *const c_void, count: usize, at: libc::off_t) -> isize =
        write_at(fd, data, count, at);
    pwrite64(fd: c_int, data: *const c_void, count: usize, at: libc::off_t) -> isize =
        write_at(fd, data, count, at);
    ftruncate(fd: c_int, size: libc::off_t) -> c_int = resize(fd, size);
    ftruncate64(fd: c_int, size: libc::off_t) -> c_int = resize(fd, size);
    fallocate(fd: c_int, mode: c_int, from: libc::off_t, length: libc::off_t) -> c_int =
        reserve(fd, mode, from, length);
    fallocate64(fd: c_int, mode: c_int, from: libc::off_t, length: libc::off_t) -> c_int =
        reserve(fd, mode, from, length);
    fsync(fd: c_int) -> c_int = sync(fd, libc::SYS_fsync);
    fdatasync(fd: c_int) -> c_int = sync(fd, libc::SYS_fdatasync);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, data: *const c_void, count: usize) -> isize {
    // SAFETY: the caller's arguments, as they are.
    let done = unsafe { libc::syscall(libc::SYS_write, fd, data, count) };
    if let Ok(done) = usize::try_from(done) {
        note_file(fd, |file| {
            // SAFETY: the descriptor is open: it was just written to.
            let end = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
            let end = usize::try_from(end).expect("no offset is negative");
            // SAFETY: the kernel has just read these bytes.
            let bytes = unsafe { core::slice::from_raw_parts(data.cast::<u8>(), done) };
            Call::Write { file, at: end - done, bytes: bytes.to_vec() }
        });
    }
    isize::try_from(done).expect("as wide as a pointer")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    note(|recorder| {
        recorder.open.remove(&fd);
    });
    // SAFETY: the caller's argument, as it is.
    narrow(unsafe { libc::syscall(libc::SYS_close, fd) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let at = libc::AT_FDCWD;
    // SAFETY: the caller's arguments, as they are.
    let done = narrow(unsafe { libc::syscall(libc::SYS_renameat2, at, from, at, to, 0) });
    if done == 0 {
        // SAFETY: the kernel has just read both paths.
        let (from, to) = unsafe { (path_of(from), path_of(to)) };
        note(|recorder| {
            let (Some(from), Some(to)) = (recorder.name(from), recorder.name(to)) else { return };
            if let Some(file) = recorder.names.remove(&from) {
                recorder.names.insert(to.clone(), file);
            }
            recorder.record.calls.push(Call::Rename { from, to });
        });
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let done = narrow(unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) });
    if done == 0 {
        // SAFETY: the kernel has just read the path.
        let path = unsafe { path_of(path) };
        note(|recorder| {
            if let Some(name) = recorder.name(path) {
                recorder.names.remove(&name);
                recorder.record.calls.push(Call::Remove { name });
            }
        });
    }
    done
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("offsets are one register wide here; run these tests on a 64-bit machine");
