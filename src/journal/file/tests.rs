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
    [&MAGIC[..], &framed(NAMES, &names), &framed(RECORDS, records), &framed(LAST, b"{\"lost\":0}")].concat()
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
    let all =
        format!("{}{}{}{}", names.ports[0], names.paths[0].name, names.paths[0].stages[0], names.reasons[0]);
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
