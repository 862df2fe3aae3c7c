//! `faultwire journal`: prints and filters a journal.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::json::{self, Json};
use crate::cli::{WRONG, fail, out, reasons};
use crate::config::suggest::hint;
use crate::journal::file::{End, Entry, JournalError, Reader};
use crate::journal::text::{Flows, numbers};
use crate::journal::{Kind, Names, Note, NoteKind, Record};
use crate::pipeline::time::Duration;

/// Text is written in pieces of about this many bytes.
const PIECE: usize = 32 << 10;

/// Options of `journal`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Times are seconds since the router started. Flows are numbered in the order in
which they appear, the packets of a flow from 1.

Examples:
  faultwire exec --both 'loss 1%' --journal j.fwj -- curl -s http://example.com
  faultwire journal j.fwj
  faultwire journal j.fwj --flow 1 --json | jq .draw

Exit code: 0 done, also if the journal ends in the middle; 2 the file is not a
journal, or has no such place, reason or flow.")]
pub(super) struct Journal {
    /// A file that --journal wrote; - for standard input
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) json: Json,
    /// Only received, held, released, rewritten, created, sent or dropped; or changed, marked or failed (by `ctl`)
    #[arg(long, value_parser = about)]
    pub(super) kind: Option<About>,
    /// Only at places with this in their name (PATH/STAGE)
    #[arg(long)]
    pub(super) place: Option<String>,
    /// Only packets dropped for this reason (such as loss or aqm)
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// Only the flow with this number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) flow: Option<u64>,
    /// Only the packet with this number in its flow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) packet: Option<u64>,
    /// Only from this time on (such as 1.5s)
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<Duration>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<Duration>,
}

/// The subject of a journal entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// What happened to packets.
    Packets(Kind),
    /// A change of the run.
    Run(NoteKind),
}

impl Journal {
    /// The same with the name of a path as the journal writes it.
    fn spelled(mut self, names: &Names) -> Self {
        let is_known = |place: &str| names.places().iter().any(|name| name.contains(place));
        if let Some(place) = &mut self.place
            && !is_known(place)
            && is_known(&place.replacen(':', ">", 1))
        {
            *place = place.replacen(':', ">", 1);
        }
        self
    }

    /// The filter in words.
    fn wanted(&self) -> &'static str {
        let is_filtered = self.kind.is_some()
            || self.place.is_some()
            || self.reason.is_some()
            || self.flow.is_some()
            || self.packet.is_some()
            || self.from.is_some()
            || self.until.is_some();
        if is_filtered { "record is as asked for" } else { "records" }
    }
}

/// Prints the records that the filter selects.
pub(super) fn journal(args: &Journal) -> ExitCode {
    if let (Some(from), Some(until)) = (args.from, args.until)
        && from >= until
    {
        return fail(WRONG, format!("--until {until} is not after --from {from}: nothing lies between"));
    }
    let mut reader = match open(&args.file).and_then(|file| Reader::new(file, &args.file)) {
        Ok(reader) => reader,
        Err(error) => return fail(WRONG, error),
    };
    let args = &args.clone().spelled(&reader.names);
    if let Some(unknown) = unknown(args, &reader.names) {
        return fail(WRONG, unknown);
    }
    let (mut flows, mut text, mut failed) = (Flows::default(), String::new(), None);
    let mut is_empty = true;
    reader.for_each(|names, entry| {
        let found = match entry {
            Entry::Record(record) => {
                flows.learn(record);
                let both = || (flows.json(names, record), flows.lines(names, record));
                wanted(args, names, record, &flows).then(both)
            }
            Entry::Note(note) => is_noted(args, note).then(|| (note.json(), note.line())),
        };
        if let Some((value, line)) = found {
            is_empty = false;
            if args.json.is_wanted() {
                failed = json::record(value).err();
            }
            if !args.json.is_on_stdout() {
                text.push_str(&line);
                text.push('\n');
            }
            if text.len() >= PIECE {
                out::print(&text);
                text.clear();
            }
        }
        !out::is_closed() && failed.is_none()
    });
    out::print(&text);
    if let Some(error) = failed {
        return fail(1, reasons(&error));
    }
    if let Some(lost) = reader.lost.filter(|lost| *lost > 0) {
        out::note_line(format_args!("faultwire: {lost} records were lost while it was written"));
    }
    match reader.end {
        End::Whole => {}
        End::Cut => out::note_line(format_args!(
            "faultwire: {} ends in the middle: all whole records were read",
            args.file.display()
        )),
        End::Damaged(at) => out::note_line(format_args!(
            "faultwire: {} is damaged from byte {at} on: the records before it were read",
            args.file.display()
        )),
    }
    if is_empty && args.flow.is_none_or(|flow| flows.has(flow)) {
        out::note_line(format_args!("faultwire: {}: no {}", args.file.display(), args.wanted()));
    }
    match args.flow.filter(|flow| !out::is_closed() && !flows.has(*flow)) {
        Some(flow) => fail(WRONG, format!("--flow: there is no flow {flow}; {}", flows.range())),
        None => ExitCode::SUCCESS,
    }
}

fn open(file: &Path) -> Result<Box<dyn Read>, JournalError> {
    if file == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let opened = File::open(file).map_err(|source| JournalError::File { file: file.to_owned(), source });
    Ok(Box::new(BufReader::new(opened?)))
}

/// Names in the filter that the file does not have.
fn unknown(args: &Journal, names: &Names) -> Option<String> {
    let places = names.places();
    if let Some(place) = args.place.as_ref().filter(|place| !places.iter().any(|name| name.contains(*place)))
    {
        let known: Vec<&str> = places.iter().map(String::as_str).collect();
        return Some(format!("--place: there is no place {place} ({})", hint(place, &known)));
    }
    let reason = args.reason.as_ref().filter(|reason| !names.reasons.contains(reason))?;
    let known: Vec<&str> = names.reasons.iter().map(String::as_str).collect();
    Some(format!("--reason: there is no reason {reason} ({})", hint(reason, &known)))
}

fn wanted(args: &Journal, names: &Names, record: &Record<'_>, flows: &Flows) -> bool {
    let seconds = record.at as f64 / 1e9;
    let number = flows.of(record).map(|flow| flow.number);
    let covers = |packet: u64| numbers(record).contains(&packet);
    args.kind.is_none_or(|kind| kind == About::Packets(record.kind))
        && args.place.as_ref().is_none_or(|place| names.place(record).contains(place.as_str()))
        && args.reason.as_ref().is_none_or(|reason| names.reason(record) == Some(reason))
        && args.flow.is_none_or(|flow| number == Some(flow))
        && args.packet.is_none_or(covers)
        && is_then(args, seconds)
}

/// A change of the run has no place, reason, flow or packet.
fn is_noted(args: &Journal, note: &Note) -> bool {
    let is_about_packets =
        args.place.is_some() || args.reason.is_some() || args.flow.is_some() || args.packet.is_some();
    !is_about_packets
        && args.kind.is_none_or(|kind| kind == About::Run(note.kind))
        && is_then(args, note.at_ns as f64 / 1e9)
}

fn is_then(args: &Journal, seconds: f64) -> bool {
    args.from.is_none_or(|from| seconds >= from.as_secs_f64())
        && args.until.is_none_or(|until| seconds < until.as_secs_f64())
}

/// A kind as it is typed.
fn about(text: &str) -> Result<About, String> {
    let notes = NoteKind::ALL.map(|kind| (kind.name(), About::Run(kind)));
    let packets = Kind::TOLD.map(|kind| (kind.name(), About::Packets(kind)));
    let known: Vec<(&str, About)> = packets.into_iter().chain(notes).collect();
    known.iter().find(|(name, _)| *name == text).map(|(_, about)| *about).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        format!("it must be one of {}", names.join(", "))
    })
}
