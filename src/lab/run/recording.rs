//! Journals and captures of a case, besides its report.

use crate::journal::Taps;
use crate::pipeline::params::RouterParams;

/// A run of a case: each has its own network and router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunId {
    /// Number of the control, from 1; `None`: the case itself.
    pub control: Option<usize>,
    /// Value of the variable of a sweep.
    pub value: Option<i64>,
}

impl std::fmt::Display for RunId {
    /// As a part of a file's name: `control-1-value-1400`; nothing for the case itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(control) = self.control {
            write!(f, "control-{control}")?;
        }
        let dash = if self.control.is_some() { "-" } else { "" };
        self.value.map_or(Ok(()), |value| write!(f, "{dash}value-{value}"))
    }
}

/// Records runs of cases, one after the other.
pub trait Recorder {
    /// Called before the router of `run` is built from `params`; returns the taps for its workers.
    ///
    /// # Errors
    /// Why the recording is not possible; then the case is not run.
    fn prepare(&mut self, run: RunId, params: &RouterParams) -> Result<Vec<Taps>, String>;

    /// The router runs.
    fn begin(&mut self);

    /// Called when its workers have ended.
    fn finish(&mut self) -> Recorded;
}

/// What a recorder reports about a run.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The most important drops.
    pub drops: Vec<String>,
    /// What could not be recorded.
    pub notices: Vec<String>,
}

/// Records nothing.
pub(super) struct Nobody;

impl Recorder for Nobody {
    fn prepare(&mut self, _run: RunId, _params: &RouterParams) -> Result<Vec<Taps>, String> {
        Ok(Vec::new())
    }

    fn begin(&mut self) {}

    fn finish(&mut self) -> Recorded {
        Recorded::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_a_name_of_its_own() {
        let name = |control, value| RunId { control, value }.to_string();
        assert_eq!(name(None, None), "");
        assert_eq!(name(Some(2), None), "control-2");
        assert_eq!(name(None, Some(1400)), "value-1400");
        assert_eq!(name(Some(1), Some(-3)), "control-1-value--3");
    }
}
