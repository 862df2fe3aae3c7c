//! `faultwire journal`: prints and filters a journal.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use crate::cli::args::Journal;
use crate::cli::{WRONG, fail, out};
use crate::journal::file::{JournalError, Reader};
use crate::journal::text::Flows;
use crate::journal::{Kind, Names, Record};

/// Text is written in pieces of about this many bytes.
const PIECE: usize = 32 << 10;

/// Prints the records that are asked for.
pub(super) fn journal(args: &Journal) -> ExitCode {
    let opened = File::open(&args.file)
        .map_err(|source| JournalError::File { file: args.file.clone(), source })
        .and_then(|file| Reader::new(BufReader::new(file), &args.file));
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(error) => return fail(WRONG, error),
    };
    let (mut flows, mut text) = (Flows::default(), String::new());
    reader.for_each(|names, record| {
        flows.learn(record);
        if wanted(args, names, record, &flows) {
            let line =
                if args.json { flows.json(names, record).to_string() } else { flows.lines(names, record) };
            text.push_str(&line);
            text.push('\n');
            if text.len() >= PIECE {
                out::print(&text);
                text.clear();
            }
        }
        !out::is_closed()
    });
    out::print(&text);
    if let Some(lost) = reader.lost.filter(|lost| *lost > 0) {
        out::note_line(format_args!("faultwire: {lost} records were lost while it was written"));
    }
    if reader.is_cut {
        out::note_line(format_args!(
            "faultwire: {} ends in the middle, or is damaged: what is whole was read",
            args.file.display()
        ));
    }
    ExitCode::SUCCESS
}

fn wanted(args: &Journal, names: &Names, record: &Record<'_>, flows: &Flows) -> bool {
    let seconds = record.at as f64 / 1e9;
    let number = flows.of(record).map(|flow| flow.number);
    let covers =
        |packet: u64| (record.index + 1..=record.index + u64::from(record.wires.max(1))).contains(&packet);
    args.kind.is_none_or(|kind| kind == record.kind)
        && args.place.as_ref().is_none_or(|place| names.place(record).contains(place.as_str()))
        && args.reason.as_ref().is_none_or(|reason| names.reason(record) == Some(reason))
        && args.flow.is_none_or(|flow| number == Some(flow))
        && args.packet.is_none_or(covers)
        && args.from.is_none_or(|from| seconds >= from.as_secs_f64())
        && args.until.is_none_or(|until| seconds < until.as_secs_f64())
}

/// A kind as it is typed.
pub(super) fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("it is one of {}", names.join(", "))
    })
}
