//! Journal files. They consist of blocks with checksums, so that all whole blocks of a truncated file can be read.
//!
//! `FWJOURN2`, then blocks: kind, length and CRC-32 of kind, length and content (32 bits each, little endian), and the content.
//! Kinds: 1 names ([`Names`], JSON), first and once; 2 records, one after the other ([`Record::decode`]); 3 the end (JSON: `lost`);
//! 4 a note ([`Note`], JSON).
//! Readers skip kinds that they do not know.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::journal::hub::{Finished, Sink};
use crate::journal::names::{Names, VERSION};
use crate::journal::note::Note;
use crate::journal::record::{FIXED, Record};
use crate::pipeline::router::Headers;

/// The first bytes of files of all versions. One digit follows: the version.
const FAMILY: &[u8; 7] = b"FWJOURN";
const MAGIC: &[u8; 8] = b"FWJOURN2";
const NAMES: u32 = 1;
const RECORDS: u32 = 2;
const LAST: u32 = 3;
const NOTE: u32 = 4;
/// Bytes of a block before its content.
const HEAD: usize = 12;
/// A block of records is written when it has so many bytes ...
const BLOCK: usize = 64 << 10;
/// ... or after so much time.
const OFTEN: Duration = Duration::from_millis(200);
/// Longest block that is read: a longer length is treated as damage.
const LONGEST: usize = 16 << 20;

/// Errors of reading a journal.
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
    /// It is no journal.
    #[error("{0}: not a journal of faultwire")]
    Foreign(PathBuf),
    /// Its first block is cut short or damaged.
    #[error("{0}: the journal's first block is cut short or damaged, so that nothing of it can be read")]
    Headless(PathBuf),
    /// It has another version.
    #[error("{0}: a journal of version {1}; this faultwire reads version {VERSION}")]
    Version(PathBuf, u32),
}

/// Content of the last block.
#[derive(Debug, Serialize, Deserialize)]
struct Last {
    lost: u64,
}

/// Writes a journal.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    names: Names,
    block: Vec<u8>,
    /// Time since the last block.
    waited: Duration,
    /// Length of the whole blocks in the file.
    good: u64,
    failed: Option<std::io::Error>,
    /// Records that could not be written.
    unwritten: u64,
    /// Records in the block.
    count: u64,
}

/// Opens a journal for writing. A new file can be read by its owner only. An existing file keeps its content until the [`Writer`]
/// begins.
///
/// # Errors
/// If it cannot be written.
pub fn open(path: &Path) -> Result<File, JournalError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|source| JournalError::File { file: path.to_owned(), source })
}

impl Writer {
    /// Writes to `file`, which is called `path`, from [`Sink::begin`] on.
    pub fn new(file: File, path: &Path, names: &Names) -> Self {
        Self {
            path: path.to_owned(),
            file,
            names: names.clone(),
            block: Vec::with_capacity(BLOCK + 4096),
            waited: Duration::ZERO,
            good: 0,
            failed: None,
            unwritten: 0,
            count: 0,
        }
    }

    /// Replaces the content of the file by the names.
    fn start(&mut self) -> std::io::Result<()> {
        // A pipe has no length to cut.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
        }
        let start = [&MAGIC[..], &framed(NAMES, &serde_json::to_vec(&self.names)?)].concat();
        self.file.write_all(&start)?;
        self.good = start.len() as u64;
        Ok(())
    }

    fn flush(&mut self, kind: u32) {
        if self.failed.is_none() {
            let framed = framed(kind, &self.block);
            match self.file.write_all(&framed) {
                Ok(()) => self.good += framed.len() as u64,
                Err(error) => self.fail(error),
            }
        }
        if self.failed.is_some() {
            self.unwritten += self.count;
        }
        self.block.clear();
        (self.count, self.waited) = (0, Duration::ZERO);
    }

    fn fail(&mut self, error: std::io::Error) {
        // A part of a block would be reported as damage. A pipe has no length to cut.
        let _ = self.file.set_len(self.good);
        self.failed = Some(error);
    }
}

impl Sink for Writer {
    fn begin(&mut self) {
        if let Err(error) = self.start() {
            self.fail(error);
        }
    }

    fn record(&mut self, record: &Record<'_>) {
        // Whole packets are for captures.
        let bytes = &record.bytes[..record.bytes.len().min(Headers::LEN)];
        let mut space = [0; FIXED + Headers::LEN];
        let record = Record {
            lanes: 0,
            is_partial: false,
            has_part: false,
            ingress: None,
            bytes,
            rest: &[],
            ..*record
        };
        self.block.extend(record.encode(&mut space));
        self.block.extend(bytes);
        self.count += 1;
        if self.block.len() >= BLOCK {
            self.flush(RECORDS);
        }
    }

    fn note(&mut self, note: &Note) {
        if !self.block.is_empty() {
            self.flush(RECORDS);
        }
        self.block.extend(note.json().to_string().as_bytes());
        self.count = 1;
        self.flush(NOTE);
    }

    fn pause(&mut self, length: Duration) {
        self.waited += length;
        if self.waited >= OFTEN && !self.block.is_empty() {
            self.flush(RECORDS);
        }
    }

    fn finish(mut self: Box<Self>, lost: u64) -> Finished {
        if !self.block.is_empty() {
            self.flush(RECORDS);
        }
        self.block.extend(format!("{{\"lost\":{lost}}}").as_bytes());
        self.flush(LAST);
        let mut said = Vec::new();
        if let Some(error) = &self.failed {
            said.push(ends_early(&self.path, "journal", error, (self.unwritten, "records")));
        }
        if lost > 0 {
            said.push(format!(
                "the journal lacks {lost} records: this host did not write them as fast as packets came"
            ));
        }
        Finished { said, has_failed: self.failed.is_some() }
    }
}

/// The message about a file that could not be written completely, with the number of missing items.
pub(crate) fn ends_early(path: &Path, what: &str, error: &std::io::Error, missing: (u64, &str)) -> String {
    let said = format!("{}: the {what} ends early: {error}", path.display());
    match missing {
        (0, _) => said,
        (count, unit) => format!("{said}; {count} {unit} were not written"),
    }
}

fn framed(kind: u32, content: &[u8]) -> Vec<u8> {
    let head = [kind, content.len() as u32].map(u32::to_le_bytes).concat();
    [&head, &checksum(&head, content).to_le_bytes()[..], content].concat()
}

/// The kind, length and content of a block.
fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

/// The state of the file of a [`Reader`], as far as it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing is missing so far.
    Whole,
    /// It ends within a block: the writer was killed, or its disk was full.
    Cut,
    /// The block that begins at this byte is damaged. Nothing behind a damaged block is read. Behind a damaged record in a whole block,
    /// reading continues with the next block.
    Damaged(u64),
}

/// An item of a journal.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A record of packets.
    Record(Record<'a>),
    /// A note about the run.
    Note(Note),
}

/// A journal that is being read.
pub struct Reader<R: Read> {
    input: R,
    /// The first block.
    pub names: Names,
    block: Vec<u8>,
    /// Bytes of the block that have been passed on.
    at: usize,
    /// Offsets in the file of this block and of the next one.
    place: u64,
    next: u64,
    /// The number of lost records, once the end has been read.
    pub lost: Option<u64>,
    /// The state of the file so far.
    pub end: End,
}

impl<R: Read> std::fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// Reads the names in a journal with the file name `path`.
    ///
    /// # Errors
    /// If the file is no journal of this version, or its first block is not whole.
    pub fn new(mut input: R, path: &Path) -> Result<Self, JournalError> {
        let mut magic = [0; MAGIC.len()];
        let is_read = input.read_exact(&mut magic).is_ok();
        if !is_read || !magic.starts_with(FAMILY) || !magic[FAMILY.len()].is_ascii_digit() {
            return Err(JournalError::Foreign(path.to_owned()));
        }
        let version = |version: u32| JournalError::Version(path.to_owned(), version);
        if magic != *MAGIC {
            return Err(version((magic[FAMILY.len()] - b'0').into()));
        }
        let headless = || JournalError::Headless(path.to_owned());
        let mut block = Vec::new();
        let Ok((NAMES, length)) = read_block(&mut input, &mut block) else { return Err(headless()) };
        let value: serde_json::Value = serde_json::from_slice(&block).map_err(|_| headless())?;
        let told = value["version"].as_u64().unwrap_or(0) as u32;
        if told != VERSION {
            return Err(version(told));
        }
        let names = serde_json::from_value::<Names>(value).map_err(|_| headless())?.escaped();
        block.clear();
        let next = MAGIC.len() as u64 + length;
        Ok(Self { input, names, block, at: 0, place: next, next, lost: None, end: End::Whole })
    }

    /// Calls `each` with each whole record and note, until it returns false.
    pub fn for_each(&mut self, mut each: impl FnMut(&Names, &Entry<'_>) -> bool) {
        loop {
            while let Some((record, rest)) = Record::decode(&self.block[self.at..]) {
                let at = self.block.len() - rest.len();
                if record.is_some_and(|record| !each(&self.names, &Entry::Record(record))) {
                    return;
                }
                self.at = at;
            }
            if self.at < self.block.len() {
                self.damaged();
            }
            self.at = 0;
            self.place = self.next;
            match read_block(&mut self.input, &mut self.block) {
                Ok((RECORDS, length)) => self.next += length,
                Ok((LAST, length)) => return self.read_last(length),
                Ok((NOTE, length)) => {
                    // A record of an unknown kind is skipped.
                    let note = serde_json::from_slice(&self.block).ok();
                    self.next += length;
                    self.block.clear();
                    if note.is_some_and(|note| !each(&self.names, &Entry::Note(note))) {
                        return;
                    }
                }
                Ok((_, length)) => {
                    self.next += length;
                    self.block.clear();
                }
                Err(End::Cut) => {
                    self.end = if self.end == End::Whole { End::Cut } else { self.end };
                    return;
                }
                Err(_) => return self.damaged(),
            }
        }
    }

    fn read_last(&mut self, length: u64) {
        match serde_json::from_slice(&self.block) {
            Ok(Last { lost }) => self.lost = Some(lost),
            Err(_) => self.damaged(),
        }
        self.block.clear();
        self.place += length;
        if matches!(self.input.read(&mut [0]), Ok(1..)) {
            self.damaged();
        }
    }

    /// Remembers the first place that is damaged.
    fn damaged(&mut self) {
        if !matches!(self.end, End::Damaged(_)) {
            self.end = End::Damaged(self.place);
        }
    }
}

/// The kind of the next block, whose content is in `block`, and its length in the file.
fn read_block(input: &mut impl Read, block: &mut Vec<u8>) -> Result<(u32, u64), End> {
    block.clear();
    let mut head = [0; HEAD];
    input.read_exact(&mut head).map_err(|_| End::Cut)?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = number(4) as usize;
    if length > LONGEST {
        return Err(End::Damaged(0));
    }
    // As much as there is, not as much as the file says.
    let is_read = input.take(length as u64).read_to_end(block).is_ok();
    let is_right = checksum(&head[..8], block) == number(8);
    if is_read && block.len() == length && is_right {
        return Ok((number(0), (HEAD + length) as u64));
    }
    let is_short = !is_read || block.len() < length;
    block.clear();
    Err(if is_short { End::Cut } else { End::Damaged(0) })
}

#[cfg(test)]
mod tests;
