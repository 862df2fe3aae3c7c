//! Files that a configuration, a case or a SPEC names: they are only read, wherever they are, and not without end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file at most.
const MOST: u64 = 1 << 30;

/// The whole text of the file at `path`.
///
/// # Errors
/// It cannot be opened or read, is no text, or does not end (such as `/dev/zero`).
pub(super) fn read(path: &Path) -> io::Result<String> {
    read_at_most(File::open(path)?, MOST)
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
    fn a_file_without_end_is_an_error_and_not_a_full_memory() {
        assert_eq!(read_at_most(&b"12345"[..], 5).unwrap(), "12345");
        let error = read_at_most(io::repeat(b'1'), 5).unwrap_err().to_string();
        assert!(error.contains("more than 5 bytes"), "{error}");
    }
}
