//! Journal files: blocks with checksums, so that of a file that was cut short all whole blocks can be read.
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

/// What files of all versions begin with; one digit, the version, follows.
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
    #[error("{0}: not a journal of faultwire")]
    Foreign(PathBuf),
    /// Its first block is cut short or damaged.
    #[error("{0}: the journal's first block is cut short or damaged, so that nothing of it can be read")]
    Headless(PathBuf),
    /// Of another version.
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

/// What is said of a file that could not be written to its end, and how much is missing in it.
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

/// Of a block: its kind and length, and its content.
fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

/// How the file of a [`Reader`] ends, as far as it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing is missing so far.
    Whole,
    /// In the middle: the writer was killed, or its disk was full.
    Cut,
    /// The block that begins at this byte is not what was written. Nothing behind a damaged block is read; behind a damaged record
    /// in a whole block the next block is.
    Damaged(u64),
}

/// What a journal has.
#[derive(Debug)]
pub enum Entry<'a> {
    /// What happened to packets.
    Record(Record<'a>),
    /// What was done to the run.
    Note(Note),
}

/// A journal that is being read.
pub struct Reader<R: Read> {
    input: R,
    /// The first block.
    pub names: Names,
    block: Vec<u8>,
    /// How much of the block has been handed on.
    at: usize,
    /// Where in the file the block begins, and where the next one does.
    place: u64,
    next: u64,
    /// Records that found no room, once the end has been read.
    pub lost: Option<u64>,
    /// Whether what has been read so far is what was written.
    pub end: End,
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

    /// Calls `each` with every record and note that is whole, until it says false.
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
                    // One of a kind that is not known is skipped.
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
mod tests {
    use super::*;
    use crate::folder::Folder;
    use crate::journal::names::tests::names;
    use crate::journal::record::Kind;
    use crate::journal::record::tests::record;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn writer(path: &Path) -> Box<Writer> {
        Box::new(Writer::new(open(path).unwrap(), path, &names()))
    }

    fn written(records: u64) -> Vec<u8> {
        let folder = Folder::new();
        let path = folder.file("journal");
        let mut writer = writer(&path);
        writer.begin();
        for index in 0..records {
            writer.record(&Record { index, lanes: 3, ..record() });
        }
        assert_eq!(writer.finish(0), Finished::default());
        std::fs::read(&path).unwrap()
    }

    /// Only its owner may read it, and an old one stays until the router runs.
    #[test]
    fn a_journal_is_private_and_replaces_an_old_one_when_it_begins() {
        let folder = Folder::new();
        let path = folder.file("journal");
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

    /// What only rings have is not in the file, whose format does not know it.
    #[test]
    fn a_record_of_a_ring_is_written_as_the_format_says() {
        let folder = Folder::new();
        let mut writer = writer(&folder.file("journal"));
        let sent = Record { kind: Kind::Sent, draw: None, ..record() };
        writer.record(&Record { lanes: 3, ingress: Some(7), is_partial: true, ..sent });
        assert_eq!(Record::decode(&writer.block), Some((Some(sent), &[][..])));
        assert_eq!(writer.block[80..96], [0; 16], "no draw");
    }

    #[test]
    fn a_pause_writes_what_there_is() {
        let folder = Folder::new();
        let mut writer = writer(&folder.file("journal"));
        writer.begin();
        writer.record(&record());
        writer.pause(OFTEN);
        let file = std::fs::read(folder.file("journal")).unwrap();
        assert_eq!(read(&file), Some((vec![4101], true)));
    }

    /// A note stands between the records that were told before and after it, and readers know it from them.
    #[test]
    fn notes_stand_among_the_records() {
        let folder = Folder::new();
        let mut writer = writer(&folder.file("f"));
        writer.begin();
        let note = crate::journal::note::tests::note;
        for step in ["a", "b"] {
            writer.record(&record());
            writer.note(&note(step));
        }
        writer.record(&record());
        assert_eq!(writer.finish(0), Finished::default());
        let file = std::fs::read(folder.file("f")).unwrap();
        let mut reader = Reader::new(&file[..], Path::new("x")).unwrap();
        let mut found = Vec::new();
        reader.for_each(|_, entry| {
            found.push(match entry {
                Entry::Record(record) => record.index.to_string(),
                Entry::Note(read) => {
                    assert_eq!(*read, note(&read.text));
                    read.text.clone()
                }
            });
            true
        });
        assert_eq!((found.join(" "), reader.end), ("4101 a 4101 b 4101".to_owned(), End::Whole));
        // Of kinds that are not known yet nothing is said, and what follows is read.
        let mut other = note("x").json();
        other["kind"] = "dreamt".into();
        let middle = file.len() - framed(LAST, b"{\"lost\":0}").len();
        let file = [&file[..middle], &framed(NOTE, other.to_string().as_bytes()), &file[middle..]].concat();
        assert_eq!(read(&file), Some((vec![4101; 3], false)));
    }

    #[test]
    fn a_device_that_is_full_is_told_once() {
        let path = Path::new("/dev/full");
        let mut writer = writer(path);
        writer.begin();
        for _ in 0..2_000 {
            writer.record(&record());
        }
        let Finished { said, has_failed } = writer.finish(0);
        assert!(has_failed && said.len() == 1, "{said:?}");
        assert!(said[0].contains("2000 records were not written"), "{said:?}");
    }

    fn read(bytes: &[u8]) -> Option<(Vec<u64>, bool)> {
        let mut reader = Reader::new(bytes, Path::new("x")).ok()?;
        let mut found = Vec::new();
        reader.for_each(|_, entry| {
            if let Entry::Record(record) = entry {
                found.push(record.index);
            }
            true
        });
        Some((found, reader.end != End::Whole))
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
        [&MAGIC[..], &framed(NAMES, &names), &framed(RECORDS, records), &framed(LAST, b"{\"lost\":0}")]
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

    /// Of every block, its header and its content, whatever it holds.
    #[test]
    fn no_changed_bit_goes_unnoticed() {
        let file = written(3);
        assert_eq!(read(&file), Some((vec![0, 1, 2], false)));
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut changed = file.clone();
                changed[at] ^= 1 << bit;
                let found = read(&changed);
                let is_noticed = found.as_ref().is_none_or(|(_, is_damaged)| *is_damaged);
                assert!(is_noticed, "bit {bit} of byte {at}: {found:?}");
            }
        }
        assert_eq!(read(&[&file[..], b"more"].concat()), Some((vec![0, 1, 2], true)));
    }

    /// What ends in the middle is told from what is damaged, and where that is.
    #[test]
    fn damage_is_told_with_its_place() {
        let end = |file: &[u8]| {
            let mut reader = Reader::new(file, Path::new("x")).unwrap();
            let mut records = 0;
            reader.for_each(|_, _| {
                records += 1;
                true
            });
            (reader.end, records)
        };
        let file = written(3);
        assert_eq!(end(&file), (End::Whole, 3));
        let size = FIXED + record().before.len() + record().bytes.len();
        let last = file.len() - HEAD - "{\"lost\":0}".len();
        let records = last - HEAD - 3 * size;
        assert_eq!(end(&file[..last]), (End::Cut, 3));
        assert_eq!(end(&file[..last - 1]), (End::Cut, 0));
        let mut damaged = file.clone();
        damaged[records + HEAD + 50] ^= 1;
        assert_eq!(end(&damaged), (End::Damaged(records as u64), 0));
        // Its checksum is right, and what it says is not.
        let mut space = [0; FIXED + 8];
        let mut known = record().encode(&mut space).to_vec();
        known.extend(record().bytes);
        let blocks = [framed(RECORDS, &[&known[..], &[3; 9]].concat()), framed(RECORDS, &known)].concat();
        let file = [&file[..records], &blocks, &framed(LAST, b"{\"lost\":0}")].concat();
        assert_eq!(end(&file), (End::Damaged(records as u64), 2));
        let broken_end = [&file[..records], &framed(LAST, b"{\"lo")].concat();
        assert_eq!(end(&broken_end), (End::Damaged(records as u64), 0));
    }

    #[test]
    fn a_journal_of_another_version_is_told_from_other_files() {
        let mut file = written(1);
        file[FAMILY.len()] = b'1';
        let told = |bytes: &[u8]| Reader::new(bytes, Path::new("x")).unwrap_err().to_string();
        assert_eq!(told(&file), format!("x: a journal of version 1; this faultwire reads version {VERSION}"));
        assert_eq!(told(b"FWJOURNA and more"), "x: not a journal of faultwire");
        assert!(told(b"FWJOURN2 and more").contains("first block"));
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
