//! Journal files: blocks with checksums, so that of a file that was cut short all whole blocks can be read.
//!
//! `FWJOURN1`, then blocks: kind, length and CRC-32 of the content (32 bits each, little endian), and the content. Kinds:
//! 1 names ([`Names`], JSON), first and once; 2 records, one after the other ([`Record::decode`]); 3 the end (JSON: `lost`).
//! Readers skip kinds that they do not know.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::journal::hub::Sink;
use crate::journal::names::{Names, VERSION};
use crate::journal::record::{FIXED, Record};
use crate::pipeline::router::Headers;

const MAGIC: &[u8; 8] = b"FWJOURN1";
const NAMES: u32 = 1;
const RECORDS: u32 = 2;
const END: u32 = 3;
/// A block of records is written when it has so many bytes ...
const BLOCK: usize = 64 << 10;
/// ... or after so many pauses of the hub, some 200 ms.
const PAUSES: u32 = 40;
/// Longest block that is read: a file that says more lies.
const LONGEST: usize = 16 << 20;

/// Why a file is no journal that can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be opened, read or made.
    #[error("{file}: {source}")]
    File {
        /// Its name.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It does not begin as journals do.
    #[error("{0}: not a journal of faultwire, or not even its first block is whole")]
    Foreign(PathBuf),
    /// Of another version.
    #[error("{0}: a journal of version {1}; this faultwire reads version {VERSION}")]
    Version(PathBuf, u32),
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    lost: u64,
}

/// Writes a journal.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    block: Vec<u8>,
    /// Pauses since the last block.
    pauses: u32,
    /// Length of the whole blocks in the file.
    good: u64,
    failed: Option<std::io::Error>,
    /// Records that could not be written.
    unwritten: u64,
    /// Records in the block.
    count: u64,
}

impl Writer {
    /// Makes the file, with the names.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, names: &Names) -> Result<Self, JournalError> {
        let broken = |source| JournalError::File { file: path.to_owned(), source };
        let mut file = File::create(path).map_err(broken)?;
        let header = serde_json::to_vec(names).map_err(|error| broken(error.into()))?;
        let start = [&MAGIC[..], &framed(NAMES, &header)].concat();
        file.write_all(&start).map_err(broken)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            block: Vec::with_capacity(BLOCK + 4096),
            pauses: 0,
            good: start.len() as u64,
            failed: None,
            unwritten: 0,
            count: 0,
        })
    }

    fn flush(&mut self, kind: u32) {
        if self.failed.is_none() {
            let framed = framed(kind, &self.block);
            match self.file.write_all(&framed) {
                Ok(()) => self.good += framed.len() as u64,
                Err(error) => {
                    // What is there of the block would only be read as damage. A pipe has no length to cut.
                    let _ = self.file.set_len(self.good);
                    self.failed = Some(error);
                }
            }
        }
        if self.failed.is_some() {
            self.unwritten += self.count;
        }
        self.block.clear();
        (self.count, self.pauses) = (0, 0);
    }
}

impl Sink for Writer {
    fn record(&mut self, record: &Record<'_>) {
        // Whole packets are for captures.
        let bytes = &record.bytes[..record.bytes.len().min(Headers::LEN)];
        let mut space = [0; FIXED + Headers::LEN];
        let record = Record { lanes: 0, bytes, ..*record };
        self.block.extend(record.encode(&mut space));
        self.block.extend(bytes);
        self.count += 1;
        if self.block.len() >= BLOCK {
            self.flush(RECORDS);
        }
    }

    fn pause(&mut self) {
        self.pauses += 1;
        if self.pauses >= PAUSES && !self.block.is_empty() {
            self.flush(RECORDS);
        }
    }

    fn finish(mut self: Box<Self>, lost: u64) -> Vec<String> {
        if !self.block.is_empty() {
            self.flush(RECORDS);
        }
        self.block.extend(format!("{{\"lost\":{lost}}}").as_bytes());
        self.flush(END);
        let mut said = Vec::new();
        if let Some(error) = &self.failed {
            said.push(format!(
                "{}: the journal ends early: {error}; {} records were not written",
                self.path.display(),
                self.unwritten
            ));
        }
        if lost > 0 {
            said.push(format!(
                "the journal lacks {lost} records: this host did not write them as fast as packets came"
            ));
        }
        said
    }
}

fn framed(kind: u32, content: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(content);
    let head = [kind, content.len() as u32, crc].map(u32::to_le_bytes);
    [&head.concat(), content].concat()
}

/// A journal that is being read.
pub struct Reader<R: Read> {
    input: R,
    /// The first block.
    pub names: Names,
    block: Vec<u8>,
    at: usize,
    /// Records that found no room, once the end has been read.
    pub lost: Option<u64>,
    /// Whether the file ends in the middle, or is damaged from here on.
    pub is_cut: bool,
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// Reads the names of a journal that is called `path`.
    ///
    /// # Errors
    /// If it is none.
    pub fn new(mut input: R, path: &Path) -> Result<Self, JournalError> {
        let foreign = || JournalError::Foreign(path.to_owned());
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(|_| foreign())?;
        let mut block = Vec::new();
        if magic != *MAGIC || read_block(&mut input, &mut block) != Some(NAMES) {
            return Err(foreign());
        }
        let value: serde_json::Value = serde_json::from_slice(&block).map_err(|_| foreign())?;
        let version = value["version"].as_u64().unwrap_or(0) as u32;
        if version != VERSION {
            return Err(JournalError::Version(path.to_owned(), version));
        }
        let names = serde_json::from_value(value).map_err(|_| foreign())?;
        block.clear();
        Ok(Self { input, names, block, at: 0, lost: None, is_cut: false })
    }

    /// Calls `each` with every record that is whole, until it says false.
    pub fn for_each(&mut self, mut each: impl FnMut(&Names, &Record<'_>) -> bool) {
        loop {
            while let Some((record, rest)) = Record::decode(&self.block[self.at..]) {
                let at = self.block.len() - rest.len();
                if !each(&self.names, &record) {
                    return;
                }
                self.at = at;
            }
            self.at = 0;
            match read_block(&mut self.input, &mut self.block) {
                Some(RECORDS) => {}
                Some(END) => {
                    self.lost = serde_json::from_slice(&self.block).ok().map(|end: End| end.lost);
                    return;
                }
                Some(_) => self.block.clear(),
                None => {
                    self.is_cut = true;
                    return;
                }
            }
        }
    }
}

/// The kind of the next block, whose content is in `block`; `None` if there is no whole one.
fn read_block(input: &mut impl Read, block: &mut Vec<u8>) -> Option<u32> {
    block.clear();
    let mut head = [0; 12];
    input.read_exact(&mut head).ok()?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = number(4) as usize;
    if length > LONGEST {
        return None;
    }
    // As much as there is, not as much as the file says.
    let is_whole = input.take(length as u64).read_to_end(block).is_ok() && block.len() == length;
    if is_whole && crc32fast::hash(block) == number(8) {
        return Some(number(0));
    }
    block.clear();
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::tests::record;
    use proptest::prelude::*;

    fn written(records: u64) -> Vec<u8> {
        let path = std::env::temp_dir().join(format!("fw-journal-{}-{records}", std::process::id()));
        let names = Names::new(5, vec!["a".into(), "b".into()], &[], &[]);
        let mut writer = Box::new(Writer::create(&path, &names).unwrap());
        for index in 0..records {
            writer.record(&Record { index, lanes: 3, ..record() });
        }
        assert_eq!(writer.finish(0), Vec::<String>::new());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(Vec<u64>, bool)> {
        let mut reader = Reader::new(bytes, Path::new("x")).ok()?;
        let mut found = Vec::new();
        reader.for_each(|_, record| {
            found.push(record.index);
            true
        });
        Some((found, reader.is_cut))
    }

    #[test]
    fn what_is_written_is_read_and_of_a_part_what_is_whole() {
        let file = written(2_000);
        let all: Vec<u64> = (0..2_000).collect();
        assert_eq!(read(&file), Some((all.clone(), false)));
        let mut lengths = Vec::new();
        for cut in (0..file.len()).step_by(997) {
            if let Some((found, is_cut)) = read(&file[..cut]) {
                assert!(is_cut && all.starts_with(&found));
                lengths.push(found.len());
            }
        }
        lengths.dedup();
        assert!(lengths.len() > 3, "{lengths:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_safely(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
            let _ = read(&[&MAGIC[..], &bytes].concat());
        }

        /// A changed byte costs its block and what follows, and never gives a record that was not written.
        #[test]
        fn damage_is_found(at in any::<proptest::sample::Index>(), change in 1_u8..) {
            let mut file = written(700);
            let at = at.index(file.len());
            file[at] ^= change;
            if let Some((found, _)) = read(&file) {
                prop_assert!((0..700).collect::<Vec<u64>>().starts_with(&found));
            }
        }
    }
}
