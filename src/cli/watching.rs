//! `--journal` and what goes with it: who is told what happens to each packet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use crate::config::expression;
use crate::journal::file::{self, Writer};
use crate::journal::recent::Recent;
use crate::journal::{Hub, Kind, Lane, Names, Sink, Taps};

/// What is recorded of each packet.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recording")]
pub(super) struct Watching {
    /// Write what happened to each packet, and why, to this file; `faultwire journal FILE` prints it
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,
    /// What the journal has: drops, all, or 1/N for all about one in N packets
    #[arg(long, value_name = "MODE", requires = "journal", default_value = "drops")]
    pub(super) journal_mode: Mode,
    /// Only packets like these, in the words of `attach --match`
    #[arg(long, value_name = "EXPRESSION", requires = "journal")]
    pub(super) journal_match: Option<String>,
    /// Only what happens on this path: up or down, of `run` FROM>TO
    #[arg(long, value_name = "PATH", requires = "journal")]
    pub(super) journal_path: Option<String>,
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
        of.map(Self::All).ok_or_else(|| "it is drops, all, or 1/N with N at least 1 (as 1/100)".to_owned())
    }
}

/// What is asked for, with its file open.
pub(super) struct Opened<'a> {
    journal: Option<(Lane, File, &'a Path)>,
}

/// Whoever listens while a router runs.
pub(super) struct Watcher {
    hub: Hub,
    drops: Arc<Mutex<Vec<String>>>,
}

impl Watching {
    /// Reads the options for a router with these names, and opens the file, before anything else is made. What is in the file
    /// stays until [`Watcher::begin`].
    pub(super) fn open(&self, names: &Names) -> anyhow::Result<Opened<'_>> {
        let journal = match &self.journal {
            Some(path) => Some((self.lane(names)?, file::open(path)?, path.as_path())),
            None => None,
        };
        Ok(Opened { journal })
    }

    fn lane(&self, names: &Names) -> anyhow::Result<Lane> {
        let (kinds, sample) = match self.journal_mode {
            Mode::Drops => (&[Kind::Dropped][..], 1),
            Mode::All(sample) => (&Kind::ALL[..], sample),
        };
        let mut lane = Lane { follows: true, sample, ..Lane::of(kinds) };
        if let Some(text) = &self.journal_match {
            lane.select = Some(expression::parse(text).with_context(|| format!("--journal-match '{text}'"))?);
        }
        if let Some(name) = &self.journal_path {
            let own = names.paths.iter().filter(|path| !path.name.starts_with('*'));
            let known: Vec<&str> = own.map(|path| path.name.as_str()).collect();
            let path = names.path(name);
            let known = known.join(", ");
            lane.path =
                Some(path.with_context(|| {
                    format!("--journal-path: there is no path {name}; there are: {known}")
                })?);
        }
        Ok(lane)
    }
}

impl Opened<'_> {
    /// Makes ready to listen, if anything is asked for; the workers have to be given the taps.
    pub(super) fn start(&self, names: &Names) -> anyhow::Result<Option<(Watcher, Taps)>> {
        if self.journal.is_none() {
            Ok(None)
        } else {
            self.listen(names, Vec::new(), Arc::default()).map(Some)
        }
    }

    /// As [`Self::start`], but the most important drops are asked for in any case.
    pub(super) fn start_with_drops(&self, names: &Names) -> anyhow::Result<(Watcher, Taps)> {
        let (recent, drops) = Recent::new(names.clone());
        self.listen(names, vec![(Lane::of(&[Kind::Dropped]), Box::new(recent))], drops)
    }

    fn listen(
        &self,
        names: &Names,
        mut sinks: Vec<(Lane, Box<dyn Sink>)>,
        drops: Arc<Mutex<Vec<String>>>,
    ) -> anyhow::Result<(Watcher, Taps)> {
        if let Some((lane, file, path)) = &self.journal {
            sinks.push((lane.clone(), Box::new(Writer::new(file.try_clone()?, path, names))));
        }
        let (hub, taps) = Hub::start(sinks)?;
        Ok((Watcher { hub, drops }, taps))
    }
}

impl Watcher {
    /// The router runs: from now on the journal is written.
    pub(super) fn begin(&self) {
        self.hub.begin();
    }

    /// Once the workers have ended: what has to be said, and the most important drops.
    pub(super) fn finish(self) -> (Vec<String>, Vec<String>) {
        let said = self.hub.finish();
        let drops = std::mem::take(&mut *self.drops.lock().unwrap_or_else(PoisonError::into_inner));
        (said, drops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
