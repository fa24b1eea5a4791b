//! Files that a person names, read up to a bound. What would never end, or keep us for ever, is
//! refused by its kind: a directory, a device, a FIFO that nobody may write to.

use crate::config::TEXT_BYTES_MAX;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// What is in the file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    let other = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    // A pipe that is open already, as in `-c /dev/stdin`, has somebody at its other end.
    let open_already = path.starts_with("/dev") || path.starts_with("/proc");
    if kind.is_dir() {
        return other("it is a directory");
    } else if kind.is_socket() {
        return other("it is a socket, not a file");
    } else if kind.is_fifo() && !open_already {
        return other("it is a FIFO, not a file");
    } else if kind.is_block_device() {
        return other("it is a disk, not a file");
    }
    let mut bytes = Vec::new();
    // What has no end, such as /dev/zero, is cut at the bound as well.
    let count = File::open(path)?.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    // Half of a list of users would be another list.
    if u64::try_from(count).is_ok_and(|count| count > TEXT_BYTES_MAX) {
        return other(&format!("it has more than {} KiB", TEXT_BYTES_MAX / 1024));
    }
    Ok(bytes)
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
        assert!(said(Path::new("/dev/zero")).contains("more than 1024 KiB"));
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        let most = usize::try_from(TEXT_BYTES_MAX).unwrap();
        fs::write(at("most"), vec![b'#'; most]).unwrap();
        assert_eq!(read(&at("most")).unwrap().len(), most);
        fs::write(at("more"), vec![b'#'; most + 1]).unwrap();
        assert!(said(&at("more")).contains("more than"));
    }
}
