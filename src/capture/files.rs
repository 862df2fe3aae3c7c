//! The files of a capture of a running router: one file, or several with rotation.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::capture::bytes::Order;
use crate::capture::source::block;

/// The rules for starting another file, and the number of files that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Starts another file once this one has so many bytes.
    pub bytes: Option<u64>,
    /// Starts another file with the first packet after this time.
    pub time: Option<Duration>,
    /// Number of files that are kept, the latest ones; `None`: all.
    pub keep: Option<NonZeroU32>,
}

impl Rotation {
    /// Whether a file of this size and age is full, so that the next one is started.
    pub(super) fn is_due(&self, bytes: u64, age: Duration) -> bool {
        self.bytes.is_some_and(|most| bytes >= most) || self.time.is_some_and(|most| age >= most)
    }
}

/// Opens a file for writing. A new file can be read by its owner only; the content of an existing file stays for now.
///
/// # Errors
/// If it cannot be written.
pub fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct Files {
    /// Name of the first file.
    path: PathBuf,
    file: File,
    keep: Option<NonZeroU32>,
    /// Number of the file, from 1.
    number: u32,
    /// Length of the whole blocks in it.
    good: u64,
}

impl Files {
    /// Begins with `file`, whose name is `path`.
    pub(super) fn new(file: File, path: &Path, keep: Option<NonZeroU32>) -> Self {
        Self { path: path.to_owned(), file, keep, number: 1, good: 0 }
    }

    /// Name of the file.
    pub(super) fn name(&self) -> PathBuf {
        name(&self.path, self.number)
    }

    /// Number of files so far.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Bytes in the file.
    pub(super) const fn len(&self) -> u64 {
        self.good
    }

    /// Empties the file.
    ///
    /// # Errors
    /// If the system refuses it.
    pub(super) fn clear(&mut self) -> std::io::Result<()> {
        // A pipe has no length to cut.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
        }
        self.good = 0;
        Ok(())
    }

    /// Begins the next file, and removes the oldest one if there are too many.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn next(&mut self) -> std::io::Result<()> {
        self.number += 1;
        self.file = open(&self.name())?;
        self.clear()?;
        if let Some(old) = self.keep.and_then(|keep| self.number.checked_sub(keep.get()))
            && old > 0
        {
            // The file may have been moved away.
            let _ = std::fs::remove_file(name(&self.path, old));
        }
        Ok(())
    }

    /// Appends whole blocks. If they do not fit, the file ends with the last one that does.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn write(&mut self, blocks: &[u8]) -> Result<(), Short> {
        let mut written = 0;
        let error = loop {
            if written == blocks.len() {
                self.good += written as u64;
                return Ok(());
            }
            match self.file.write(&blocks[written..]) {
                Ok(0) => break ErrorKind::WriteZero.into(),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        let (length, packets) = whole(&blocks[..written]);
        self.good += length as u64;
        // A pipe has no length to cut.
        let _ = self.file.set_len(self.good);
        Err(Short { error, packets })
    }
}

/// Blocks that were not all written.
#[derive(Debug)]
pub(super) struct Short {
    /// Why.
    pub(super) error: std::io::Error,
    /// Packets in the blocks that were.
    pub(super) packets: u64,
}

/// The length of the blocks in `bytes` that are whole, and the packets among them.
fn whole(bytes: &[u8]) -> (usize, u64) {
    let (mut at, mut packets) = (0, 0);
    while at + 8 <= bytes.len() {
        let length = Order::Little.u32(bytes, at + 4) as usize;
        if length == 0 || at + length > bytes.len() {
            break;
        }
        packets += u64::from(Order::Little.u32(bytes, at) == block::ENHANCED);
        at += length;
    }
    (at, packets)
}

/// Name of file `number`: `a.pcapng`, `a-2.pcapng`, `a-3.pcapng`.
fn name(path: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return path.to_owned();
    }
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{number}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_before_their_ending() {
        let names = |path: &str| [1, 2, 13].map(|number| name(Path::new(path), number));
        assert_eq!(
            names("x/a.b.pcapng"),
            ["x/a.b.pcapng", "x/a.b-2.pcapng", "x/a.b-13.pcapng"].map(PathBuf::from)
        );
        assert_eq!(names("a")[1], PathBuf::from("a-2"));
    }

    #[test]
    fn only_whole_blocks_count() {
        let block = |kind: u32, words: u32| [kind, words * 4].into_iter().chain((2..words).map(|_| 0));
        let words = block(1, 5).chain(block(block::ENHANCED, 10)).chain(block(block::ENHANCED, 9));
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        for length in 0..=bytes.len() {
            let expected = match length {
                ..20 => (0, 0),
                20..60 => (20, 0),
                60..96 => (60, 1),
                _ => (96, 2),
            };
            assert_eq!(whole(&bytes[..length]), expected, "{length}");
        }
        // What is no block ends them.
        assert_eq!(whole(&[0; 64]), (0, 0));
    }

    #[test]
    fn a_file_is_followed_by_another_when_it_is_large_or_old_enough() {
        let second = Duration::from_secs(1);
        let by_size = Rotation { bytes: Some(10), ..Rotation::default() };
        assert!(!by_size.is_due(9, 9 * second) && by_size.is_due(10, second));
        let by_time = Rotation { time: Some(second), ..Rotation::default() };
        assert!(!by_time.is_due(99, second / 2) && by_time.is_due(0, second));
        assert!(!Rotation::default().is_due(u64::MAX, Duration::MAX));
    }
}
