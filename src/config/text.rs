//! Reads files of a configuration, a case or a SPEC: only regular files, which are never written to, and with a
//! limited size.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Maximum size of a file.
const MOST: u64 = 1 << 30;
/// `O_NONBLOCK` of Linux's asm-generic/fcntl.h: opening a pipe without a writer does not wait for one.
const NONBLOCK: i32 = if cfg!(all(
    target_os = "linux",
    not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64"))
)) {
    0o4000
} else {
    0
};

/// The whole text of the file at `path`.
///
/// # Errors
/// If it cannot be opened or read, is not text, has more than 1 GiB, or is not a regular file: a pipe could block
/// forever, and opening a device can have effects.
pub(super) fn read(path: &Path) -> io::Result<String> {
    read_at_most(open(path)?, MOST)
}

/// The whole text of a file that the user named on the command line. It may be a pipe too, as of a shell's `<(...)`.
///
/// # Errors
/// If it cannot be opened or read, is not text, or does not end (such as `/dev/zero`).
pub(super) fn read_any(path: &Path) -> io::Result<String> {
    read_at_most(File::open(path)?, MOST)
}

/// Opens a regular file; never blocks on a FIFO or a device.
fn open(path: &Path) -> io::Result<File> {
    let check = |is_file: bool| {
        let other = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
        is_file.then_some(()).ok_or_else(other)
    };
    // Checked before opening, because opening has effects on some devices, and after it, because the name may lead to
    // another file by then.
    check(path.metadata()?.is_file())?;
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    check(file.metadata()?.is_file())?;
    Ok(file)
}

fn read_at_most(file: impl Read, most: u64) -> io::Result<String> {
    let mut text = String::new();
    if file.take(most + 1).read_to_string(&mut text)? as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_opened() {
        for path in ["/dev/zero", "/dev/null", "/"] {
            let error = read(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("not a regular file"), "{path}: {error}");
        }
    }

    #[test]
    fn a_file_without_end_is_an_error_and_not_a_full_memory() {
        assert_eq!(read_at_most(&b"12345"[..], 5).unwrap(), "12345");
        let error = read_at_most(io::repeat(b'1'), 5).unwrap_err().to_string();
        assert!(error.contains("more than 5 bytes"), "{error}");
    }
}
