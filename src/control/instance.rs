//! The run that is served.

use crate::config::Aim;
use crate::engine::Workers;
use crate::journal::names::is_called;
use crate::journal::{Names, Notes};
use crate::net::Netns;
use crate::pipeline::params::{RouterParams, StageParams};

/// A device whose counters the kernel keeps.
#[derive(Debug, Clone)]
pub struct Device {
    /// The port it belongs to.
    pub port: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub netns: Netns,
}

/// A device that somebody else made, and that is led through this run.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The port that it is; the name of its other side ends in `/network`.
    pub port: String,
    /// Its name where it is.
    pub device: String,
    /// Whose it is, in words.
    pub target: String,
}

/// A run, as whoever serves it has to know it.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The command that made it: `run`, `exec` or `attach`.
    pub command: &'static str,
    /// The file of its configuration, if it has one.
    pub config: Option<String>,
    /// What the router was built from.
    pub params: RouterParams,
    /// Names of its ports, paths and stages.
    pub names: Names,
    /// The way to its workers.
    pub workers: Workers,
    /// The devices of its ports.
    pub devices: Vec<Device>,
    /// The devices that it is attached to.
    pub attachments: Vec<Attachment>,
    /// What all its faults are aimed at, also those that come later.
    pub aim: Aim,
    /// A journal or a capture is written, whose stages have the numbers that they had at the start.
    pub is_recorded: bool,
    /// Whoever records the run, and is told what is done to it.
    pub notes: Vec<Notes>,
    /// How often its stages have been changed.
    pub version: u64,
    /// Stages that are paused, as they are when they are not; each with the number of its path.
    pub paused: Vec<(usize, StageParams)>,
    /// Numbers of the paths that are frozen.
    pub frozen: Vec<usize>,
}

impl Instance {
    /// The path that is called so, if it has or may have stages.
    pub(super) fn path(&self, name: &str) -> Option<usize> {
        let configured = self.names.paths.iter().take(self.params.paths.len());
        configured.enumerate().find(|(_, path)| is_called(&path.name, name)).map(|(number, _)| number)
    }

    /// The names of the paths that may have stages.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.names.paths.iter().take(self.params.paths.len()).map(|path| path.name.as_str())
    }
}
