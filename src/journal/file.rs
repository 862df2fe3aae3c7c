//! Journal files: blocks with checksums, so that of a file that was cut short all whole blocks can be read.
//!
//! `FWJOURN1`, then blocks: kind, length and CRC-32 of the content (32 bits each, little endian), and the content. Kinds:
//! 1 names ([`Names`], JSON), first and once; 2 records, one after the other ([`Record::decode`]); 3 the end (JSON: `lost`).
//! Readers skip kinds that they do not know.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
/// ... or after so much time.
const OFTEN: Duration = Duration::from_millis(200);
/// Longest block that is read: a longer length is treated as damage.
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

/// Opens a journal to be written, and makes one that only its owner may read if there is none; what is in it stays until the
/// [`Writer`] begins.
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

    /// Puts the names in place of what the file held.
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
        // What is there of the block would only be read as damage. A pipe has no length to cut.
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
        let record = Record { lanes: 0, bytes, ..*record };
        self.block.extend(record.encode(&mut space));
        self.block.extend(bytes);
        self.count += 1;
        if self.block.len() >= BLOCK {
            self.flush(RECORDS);
        }
    }

    fn pause(&mut self, length: Duration) {
        self.waited += length;
        if self.waited >= OFTEN && !self.block.is_empty() {
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
        let names = serde_json::from_value::<Names>(value).map_err(|_| foreign())?.escaped();
        block.clear();
        Ok(Self { input, names, block, at: 0, lost: None, is_cut: false })
    }

    /// Calls `each` with every record that is whole, until it says false.
    pub fn for_each(&mut self, mut each: impl FnMut(&Names, &Record<'_>) -> bool) {
        loop {
            while let Some((record, rest)) = Record::decode(&self.block[self.at..]) {
                let at = self.block.len() - rest.len();
                if record.is_some_and(|record| !each(&self.names, &record)) {
                    return;
                }
                self.at = at;
            }
            self.is_cut |= self.at < self.block.len();
            self.at = 0;
            match read_block(&mut self.input, &mut self.block) {
                Some(RECORDS) => {}
                Some(END) => {
                    self.lost = serde_json::from_slice(&self.block).ok().map(|end: End| end.lost);
                    self.block.clear();
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
    use crate::journal::names::tests::names;
    use crate::journal::record::tests::record;
    use proptest::prelude::*;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder of this test's own: nobody can have put a file or a link in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("fw-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            // Fails if there is anything of that name.
            std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("journal")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn writer(path: &Path) -> Box<Writer> {
        Box::new(Writer::new(open(path).unwrap(), path, &names()))
    }

    fn written(records: u64) -> Vec<u8> {
        let folder = Folder::new();
        let path = folder.file();
        let mut writer = writer(&path);
        writer.begin();
        for index in 0..records {
            writer.record(&Record { index, lanes: 3, ..record() });
        }
        assert_eq!(writer.finish(0), Vec::<String>::new());
        std::fs::read(&path).unwrap()
    }

    /// Only its owner may read it, and an old one stays until the router runs.
    #[test]
    fn a_journal_is_private_and_replaces_an_old_one_when_it_begins() {
        let folder = Folder::new();
        let path = folder.file();
        let mut first = writer(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        first.begin();
        first.record(&record());
        first.finish(0);
        let old = std::fs::read(&path).unwrap();
        drop(writer(&path));
        assert_eq!(std::fs::read(&path).unwrap(), old);
        let mut next = writer(&path);
        next.begin();
        next.finish(0);
        assert_eq!(read(&std::fs::read(&path).unwrap()), Some((vec![], false)));
    }

    #[test]
    fn a_pause_writes_what_there_is() {
        let folder = Folder::new();
        let mut writer = writer(&folder.file());
        writer.begin();
        writer.record(&record());
        writer.pause(OFTEN);
        let file = std::fs::read(folder.file()).unwrap();
        assert_eq!(read(&file), Some((vec![4101], true)));
    }

    #[test]
    fn a_device_that_is_full_is_told_once() {
        let path = Path::new("/dev/full");
        let mut writer = writer(path);
        writer.begin();
        for _ in 0..2_000 {
            writer.record(&record());
        }
        let said = writer.finish(0);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("2000 records were not written"), "{said:?}");
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

    fn file_of(names: &Names, records: &[u8]) -> Vec<u8> {
        let names = serde_json::to_vec(names).unwrap();
        [&MAGIC[..], &framed(NAMES, &names), &framed(RECORDS, records), &framed(END, b"{\"lost\":0}")]
            .concat()
    }

    #[test]
    fn records_of_unknown_kinds_hide_nothing_and_damaged_ones_are_told() {
        let names = names();
        let mut space = [0; FIXED + 8];
        let mut known = record().encode(&mut space).to_vec();
        known.extend(record().bytes);
        let mut unknown = known.clone();
        unknown[4] = 77;
        let records = [&known[..], &unknown, &known].concat();
        assert_eq!(read(&file_of(&names, &records)), Some((vec![4101, 4101], false)));
        assert_eq!(read(&file_of(&names, &records[..records.len() - 1])), Some((vec![4101], true)));
    }

    #[test]
    fn names_of_a_file_cannot_command_a_terminal() {
        let evil = "a\u{1b}]0;title\u{7}\n\u{9b}31m";
        let mut names = names();
        (names.ports[0], names.reasons[0]) = (evil.into(), evil.into());
        (names.paths[0].name, names.paths[0].stages[0]) = (evil.into(), evil.into());
        let file = file_of(&names, &[]);
        let names = Reader::new(&file[..], Path::new("x")).unwrap().names;
        let all = format!(
            "{}{}{}{}",
            names.ports[0], names.paths[0].name, names.paths[0].stages[0], names.reasons[0]
        );
        assert!(!all.contains(char::is_control), "{all}");
        assert!(all.starts_with("a\\u{1b}]0;title"), "{all}");
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
