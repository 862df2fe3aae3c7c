//! Journals of cases, and their most important drops: one router after the other.

use crate::cli::watching::{Watcher, Watching};
use crate::journal::{Names, Taps};
use crate::lab::run::{Recorded, Recorder, RunId};
use crate::pipeline::params::RouterParams;

/// Records each run into files of its own.
pub(super) struct Recording<'a> {
    watching: &'a Watching,
    /// Name of the case, if there are several.
    case: Option<String>,
    watcher: Option<Watcher>,
    has_failed: bool,
}

impl<'a> Recording<'a> {
    /// The options of `watching`.
    pub(super) const fn new(watching: &'a Watching) -> Self {
        Self { watching, case: None, watcher: None, has_failed: false }
    }

    /// Begins the next case, whose files have this name.
    pub(super) fn case(&mut self, name: Option<&str>) {
        self.case = name.map(str::to_owned);
    }

    /// Whether a file could not be written completely.
    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl Recorder for Recording<'_> {
    fn prepare(&mut self, run: RunId, params: &RouterParams) -> Result<Vec<Taps>, String> {
        let run = run.to_string();
        let parts = self.case.iter().chain(Some(&run).filter(|run| !run.is_empty()));
        let watching = self.watching.labelled(&parts.cloned().collect::<Vec<_>>().join("-"));
        let names = Names::of(params, &[]);
        let started = watching.open(&names).and_then(|opened| opened.start_with_drops(&names));
        let (watcher, taps) = started.map_err(|error| crate::cli::reasons(&error))?;
        self.watcher = Some(watcher);
        Ok(taps)
    }

    fn begin(&mut self) {
        self.watcher.iter().for_each(Watcher::begin);
    }

    fn finish(&mut self) -> Recorded {
        let Some(watcher) = self.watcher.take() else { return Recorded::default() };
        let (finished, drops) = watcher.finish();
        self.has_failed |= finished.has_failed;
        Recorded { drops, notices: finished.said }
    }
}
