//! Files that a person names, read up to a bound. What would never end, or keep us for ever, is
//! refused by its kind: a directory, a device, a FIFO that nobody may write to.

use crate::config::TEXT_BYTES_MAX;
use crate::fit::wide;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// What is in the file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    let other = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    if kind.is_dir() {
        return other("it is a directory");
    } else if kind.is_socket() {
        return other("it is a socket, not a file");
    } else if kind.is_block_device() {
        return other("it is a disk, not a file");
    }
    let mut bytes = Vec::new();
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if kind.is_fifo() && !begin(&mut file, &mut bytes)? {
        return other("it is a FIFO that nobody writes into, not a file");
    }
    // What has no end, such as /dev/zero, is cut at the bound as well.
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    // Half of a list of users would be another list.
    if wide(bytes.len()) > TEXT_BYTES_MAX {
        return other(&format!("it has more than {} KiB", TEXT_BYTES_MAX / 1024));
    }
    Ok(bytes)
}

/// Reads what a pipe has, and from here on waits for more; `false`: nobody is at its other end.
fn begin(file: &mut File, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut first = [0; 4096];
    match file.read(&mut first) {
        Ok(0) => return Ok(false),
        Ok(count) => bytes.extend_from_slice(&first[..count]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    // SAFETY: the descriptor is open; plain integers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::disk::tests::Scratch;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_what_has_an_end_is_read() {
        let scratch = Scratch::new("files");
        let at = |name: &str| scratch.0.join(name);
        let said = |path: &Path| read(path).expect_err("no file").to_string();
        fs::write(at("good"), b"text").unwrap();
        assert_eq!(read(&at("good")).unwrap(), b"text");
        assert_eq!(read(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(said(&scratch.0).contains("a directory"));
        drop(UnixListener::bind(at("socket")).unwrap());
        assert!(said(&at("socket")).contains("a socket"));
        let fifo = std::ffi::CString::new(at("fifo").into_os_string().into_encoded_bytes());
        // SAFETY: a C string that outlives the call.
        assert_eq!(unsafe { libc::mkfifo(fifo.unwrap().as_ptr(), 0o600) }, 0);
        assert!(said(&at("fifo")).contains("a FIFO"));
        // Somebody is there: what he writes is read to its end. It is more than a FIFO holds, so
        // that he is there until it is read.
        let mut writer = OpenOptions::new().read(true).write(true).open(at("fifo")).unwrap();
        io::Write::write_all(&mut writer, b"one\n").unwrap();
        let more = std::thread::spawn(move || io::Write::write_all(&mut writer, &[b'#'; 200_000]));
        assert_eq!(read(&at("fifo")).unwrap().len(), 200_004);
        more.join().unwrap().unwrap();
        assert!(said(Path::new("/dev/zero")).contains("more than 1024 KiB"));
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        let most = usize::try_from(TEXT_BYTES_MAX).unwrap();
        fs::write(at("most"), vec![b'#'; most]).unwrap();
        assert_eq!(read(&at("most")).unwrap().len(), most);
        fs::write(at("more"), vec![b'#'; most + 1]).unwrap();
        assert!(said(&at("more")).contains("more than"));
    }
}
