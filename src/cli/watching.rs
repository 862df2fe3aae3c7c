//! `--journal`, `--pcap` and their options: what is recorded about packets, and where.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::capture::files::{self, Rotation};
use crate::capture::recorder::{Recorder, Style};
use crate::cli::signals::Signals;
use crate::cli::{is_same, json, out};
use crate::config::expression;
use crate::journal::file::{self, Writer};
use crate::journal::recent::Recent;
use crate::journal::{Finished, Hub, Kind, Lane, Names, Notes, Sink, Taps};
use crate::pipeline::params::Select;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Bytes, UnitError};

/// Time between two looks for signals while files are written to their end.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);
/// Looks after a signal until nobody waits for that any more: a second.
const GRACE: u32 = 20;
/// Looks until it is said what is waited for: three seconds.
const LONG: u32 = 60;

/// What is recorded of each packet.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Recording")]
pub(super) struct Watching {
    /// Write what happened to each packet, and why, to this file; `faultwire journal FILE` prints it
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
    /// What to record: drops, all, or 1/N for everything about one in N packets
    #[arg(long, value_name = "MODE", requires = "journal", default_value = "drops")]
    pub(super) journal_mode: Mode,
    /// Only packets that match, in the grammar of `attach --match`
    #[arg(long, value_name = "EXPRESSION", requires = "journal")]
    pub(super) journal_match: Option<String>,
    /// Only events on this path: up or down; for `run` and cases FROM:TO or FROM>TO
    #[arg(long, value_name = "PATH", requires = "journal")]
    pub(super) journal_path: Option<String>,
    /// Capture packets into this pcapng file: where they came in, and where they left or were dropped, with the reason
    #[arg(long, value_name = "FILE")]
    pub(super) pcap: Option<PathBuf>,
    /// Which packets to capture: all or drops
    #[arg(long, value_name = "MODE", requires = "pcap", default_value = "all")]
    pub(super) pcap_mode: PcapMode,
    /// Only packets that match, in the grammar of `attach --match`
    #[arg(long, value_name = "EXPRESSION", requires = "pcap")]
    pub(super) pcap_match: Option<String>,
    /// Capture only this many bytes of each packet
    #[arg(long, value_name = "BYTES", requires = "pcap", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pcap_snaplen: u32,
    /// Start a new file (FILE with -2, -3 ... before the extension) at this size or age: 100MB, 60s
    #[arg(long, value_name = "SIZE|TIME", requires = "pcap")]
    pub(super) pcap_rotate: Option<Rotate>,
    /// Keep at most this many files: remove the oldest
    #[arg(long, value_name = "N", requires = "pcap_rotate")]
    pub(super) pcap_keep: Option<NonZeroU32>,
}

/// Which packets a capture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PcapMode {
    /// Every packet where it came in, and where it left or was dropped
    All,
    /// Those that were dropped
    Drops,
}

/// When another file is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotate {
    /// Once it has so many bytes.
    Size(u64),
    /// Once it is so old.
    Age(std::time::Duration),
}

impl std::str::FromStr for Rotate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let age = |age: Duration| std::time::Duration::from_nanos(age.as_nanos());
        let read = text
            .parse()
            .map(|Bytes(size)| Self::Size(size))
            .or_else(|_| text.parse().map(|time| Self::Age(age(time))));
        match read {
            Ok(Self::Size(1..)) => read.map_err(|error: UnitError| error.to_string()),
            Ok(Self::Age(age)) if !age.is_zero() => Ok(Self::Age(age)),
            _ => Err("it must be a size or a time, such as 100MB or 60s".to_owned()),
        }
    }
}

/// Which packets a journal tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Those that were dropped.
    Drops,
    /// One in so many.
    All(u64),
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drops => f.write_str("drops"),
            Self::All(1) => f.write_str("all"),
            Self::All(of) => write!(f, "1/{of}"),
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "drops" => return Ok(Self::Drops),
            "all" => return Ok(Self::All(1)),
            _ => {}
        }
        let of = text.strip_prefix("1/").and_then(|of| of.parse().ok()).filter(|&of| of > 0);
        of.map(Self::All)
            .ok_or_else(|| "it must be drops, all, or 1/N with N at least 1 (such as 1/100)".to_owned())
    }
}

/// The requested recording, with its file open.
pub(super) struct Opened<'a> {
    journal: Option<(Lane, File, &'a Path)>,
    pcap: Option<(Lane, File, &'a Path, Style)>,
}

/// The recorder while a router runs.
pub(super) struct Watcher {
    hubs: Vec<Hub>,
    drops: Arc<Mutex<Vec<String>>>,
}

impl Watching {
    /// Reads the options for a router with these names, and opens the file, before anything else is made. What is in the file
    /// stays until [`Watcher::begin`].
    pub(super) fn open(&self, names: &Names) -> anyhow::Result<Opened<'_>> {
        self.are_distinct()?;
        let journal = match &self.journal {
            Some(path) => Some((self.lane(names)?, file::open(named(path)?)?, path.as_path())),
            None => None,
        };
        let pcap = match &self.pcap {
            Some(path) => {
                Some((self.pcap_lane()?, open_capture(named(path)?)?, path.as_path(), self.style()))
            }
            None => None,
        };
        Ok(Opened { journal, pcap })
    }

    /// A journal, a capture and the document of `--json` are not one file.
    fn are_distinct(&self) -> anyhow::Result<()> {
        if let (Some(journal), Some(pcap)) = (&self.journal, &self.pcap) {
            let file = pcap.display();
            anyhow::ensure!(
                !is_same(journal, pcap),
                "{file} is given twice: --journal and --pcap need a file each"
            );
        }
        for (option, path) in [("--journal", &self.journal), ("--pcap", &self.pcap)] {
            if let Some(path) = path.as_ref().filter(|path| json::goes_to(path)) {
                let file = path.display();
                anyhow::bail!("{file} is given twice: {option} and --json need a file each");
            }
        }
        Ok(())
    }

    fn pcap_lane(&self) -> anyhow::Result<Lane> {
        let select = selection("--pcap-match", self.pcap_match.as_ref())?;
        Ok(Lane { select, ..Recorder::lane(self.pcap_mode == PcapMode::Drops, self.pcap_snaplen) })
    }

    const fn style(&self) -> Style {
        let (bytes, time) = match self.pcap_rotate {
            Some(Rotate::Size(bytes)) => (Some(bytes), None),
            Some(Rotate::Age(age)) => (None, Some(age)),
            None => (None, None),
        };
        Style { snaplen: self.pcap_snaplen, rotation: Rotation { bytes, time, keep: self.pcap_keep } }
    }

    /// The checks of the options that need no router.
    pub(super) fn check(&self) -> Result<(), String> {
        let check = || -> anyhow::Result<()> {
            for path in self.journal.iter().chain(&self.pcap) {
                named(path)?;
            }
            self.are_distinct()?;
            selection("--journal-match", self.journal_match.as_ref())?;
            selection("--pcap-match", self.pcap_match.as_ref()).map(drop)
        };
        check().map_err(|error| crate::cli::reasons(&error))
    }

    /// The same for files with `label` before their ending.
    pub(super) fn labelled(&self, label: &str) -> Self {
        let labelled = |path: &PathBuf| if label.is_empty() { path.clone() } else { beside(path, label) };
        Self {
            journal: self.journal.as_ref().map(labelled),
            pcap: self.pcap.as_ref().map(labelled),
            ..self.clone()
        }
    }

    fn lane(&self, names: &Names) -> anyhow::Result<Lane> {
        let (kinds, sample) = match self.journal_mode {
            Mode::Drops => (&[Kind::Dropped][..], 1),
            Mode::All(sample) => (&Kind::TOLD[..], sample),
        };
        let select = selection("--journal-match", self.journal_match.as_ref())?;
        let mut lane = Lane { follows: true, sample, select, ..Lane::of(kinds) };
        if let Some(name) = &self.journal_path {
            let own = names.paths.iter().filter(|path| !path.name.starts_with('*'));
            let known: Vec<&str> = own.map(|path| path.name.as_str()).collect();
            let path = names.path(name);
            let known = known.join(", ");
            let path =
                path.with_context(|| format!("--journal-path: there is no path {name}; there are: {known}"))?;
            lane.paths = Some(path..=path);
        }
        Ok(lane)
    }
}

impl Opened<'_> {
    /// Starts to record, if anything is requested; the workers need to get the taps.
    pub(super) fn start(&self, names: &Names) -> anyhow::Result<(Watcher, Vec<Taps>)> {
        self.listen(names, Vec::new(), Arc::default())
    }

    /// As [`Self::start`], but the most important drops are collected in any case.
    pub(super) fn start_with_drops(&self, names: &Names) -> anyhow::Result<(Watcher, Vec<Taps>)> {
        let (recent, drops) = Recent::new(names.clone());
        self.listen(names, vec![(Lane::of(&[Kind::Dropped]), Box::new(recent))], drops)
    }

    fn listen(
        &self,
        names: &Names,
        mut sinks: Vec<(Lane, Box<dyn Sink>)>,
        drops: Arc<Mutex<Vec<String>>>,
    ) -> anyhow::Result<(Watcher, Vec<Taps>)> {
        if let Some((lane, file, path)) = &self.journal {
            sinks.push((lane.clone(), Box::new(Writer::new(file.try_clone()?, path, names))));
        }
        let (mut hubs, mut taps) = (Vec::new(), Vec::new());
        let mut captures: Vec<(Lane, Box<dyn Sink>)> = Vec::new();
        if let Some((lane, file, path, style)) = &self.pcap {
            let recorder = Recorder::new(file.try_clone()?, path, *style, names)?;
            captures.push((lane.clone(), Box::new(recorder)));
        }
        // One thread each: the journal does not wait for the disk of the capture.
        for sinks in [sinks, captures].into_iter().filter(|sinks| !sinks.is_empty()) {
            let (hub, tap) = Hub::start(sinks)?;
            hubs.push(hub);
            taps.push(tap);
        }
        Ok((Watcher { hubs, drops }, taps))
    }
}

impl Watcher {
    /// The router runs: from now on the journal is written.
    pub(super) fn begin(&self) {
        self.hubs.iter().for_each(Hub::begin);
    }

    /// Tells whoever records the run what is done to it.
    pub(super) fn notes(&self) -> Vec<Notes> {
        self.hubs.iter().map(Hub::notes).collect()
    }

    /// Once the workers have ended: what came of it, and the most important drops.
    pub(super) fn finish(self) -> (Finished, Vec<String>) {
        let mut finished = Finished::default();
        self.hubs.into_iter().for_each(|hub| finished.add(hub.finish()));
        let drops = std::mem::take(&mut *self.drops.lock().unwrap_or_else(PoisonError::into_inner));
        (finished, drops)
    }

    /// The same, but for [`GRACE`] at most after a signal that ends a run: a pipe may have a reader that does not read, and a disk
    /// in the network may be gone.
    pub(super) fn finish_or(self, signals: &Signals) -> (Finished, Vec<String>) {
        // What has come until now has ended the run.
        while matches!(signals.came(), Ok(Some(_))) {}
        let (ended, ends) = bounded(1);
        let thread = std::thread::spawn(move || {
            // After a signal nobody waits for it.
            let _ = ended.send(self.finish());
        });
        let (mut looks, mut left) = (0, u32::MAX);
        loop {
            match ends.recv_timeout(LOOK) {
                Ok(finished) => return finished,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return (Finished::default(), Vec::new()),
                },
            }
            while let Ok(Some(received)) = signals.came() {
                left = if received.ends() { left.min(GRACE) } else { left };
            }
            (looks, left) = (looks + 1, left - 1);
            if looks == LONG {
                out::note_line("the journal or the capture is still being written; Ctrl-C ends that");
            }
            if left == 0 {
                let said =
                    "the journal or the capture was not written to its end: a signal came first".into();
                return (Finished { said: vec![said], has_failed: true }, Vec::new());
            }
        }
    }
}

/// Which packets an option chooses, in words.
fn selection(option: &str, text: Option<&String>) -> anyhow::Result<Option<Select>> {
    let parse = |text: &String| expression::parse(text).with_context(|| format!("{option} '{text}'"));
    text.map(parse).transpose()
}

fn open_capture(path: &Path) -> anyhow::Result<File> {
    files::open(path).with_context(|| format!("{} cannot be written", path.display()))
}

/// The file `path` with `-label` before its ending.
pub(super) fn beside(path: &Path, label: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-{label}"));
    if let Some(ending) = path.extension() {
        name.push(".");
        name.push(ending);
    }
    path.with_file_name(name)
}

/// A file that is not standard output: that has the summary or belongs to the command.
fn named(path: &Path) -> anyhow::Result<&Path> {
    anyhow::ensure!(
        path != Path::new("-"),
        "-: what is recorded goes to a file: name one, or a named pipe (mkfifo); ./- is a file of that name"
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_before_the_ending() {
        let names = ["a/b.fwj", "b", "a.b/c.d.e"].map(|path| beside(Path::new(path), "x-1"));
        assert_eq!(names, ["a/b-x-1.fwj", "b-x-1", "a.b/c.d-x-1.e"].map(PathBuf::from));
    }

    #[test]
    fn files_are_rotated_by_size_or_time() {
        assert_eq!("2MB".parse(), Ok(Rotate::Size(2_000_000)));
        assert_eq!("1.5s".parse(), Ok(Rotate::Age(std::time::Duration::from_millis(1_500))));
        for wrong in ["", "0s", "0 MB", "7", "often"] {
            assert!(wrong.parse::<Rotate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [Mode::Drops, Mode::All(1), Mode::All(100)] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for wrong in ["", "1/0", "1/", "2/3", "none"] {
            assert!(wrong.parse::<Mode>().is_err(), "{wrong}");
        }
    }
}
