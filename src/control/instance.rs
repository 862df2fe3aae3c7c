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
    /// The namespace of the device.
    pub netns: Netns,
}

/// A device that faultwire did not create, and whose traffic passes this run.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The name of its port; the name of the other side ends in `/network`.
    pub port: String,
    /// The name of the device in its namespace.
    pub device: String,
    /// The target that the device belongs to, in words.
    pub target: String,
}

/// A run, as the control server sees it.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The command that started it: `run`, `exec` or `attach`.
    pub command: &'static str,
    /// The file of its configuration, if it has one.
    pub config: Option<String>,
    /// The parameters from which the router was built.
    pub params: RouterParams,
    /// Names of its ports, paths and stages.
    pub names: Names,
    /// The handle to its workers.
    pub workers: Workers,
    /// The devices of its ports.
    pub devices: Vec<Device>,
    /// The devices that it is attached to.
    pub attachments: Vec<Attachment>,
    /// The packets at which all its faults are aimed, including faults that are added later.
    pub aim: Aim,
    /// A journal or a capture is being written, whose stages have the numbers from the start of the run.
    pub is_recorded: bool,
    /// Whoever records the run, and is told what is done to it.
    pub notes: Vec<Notes>,
    /// How often its stages have been changed.
    pub version: u64,
    /// The paused stages with their normal parameters, each with the number of its path.
    pub paused: Vec<(usize, StageParams)>,
    /// Numbers of the paths that are frozen.
    pub frozen: Vec<usize>,
}

impl Instance {
    /// The path of this name, if it has stages or may have some.
    pub(super) fn path(&self, name: &str) -> Option<usize> {
        let configured = self.names.paths.iter().take(self.params.paths.len());
        configured.enumerate().find(|(_, path)| is_called(&path.name, name)).map(|(number, _)| number)
    }

    /// The names of the paths that may have stages.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.names.paths.iter().take(self.params.paths.len()).map(|path| path.name.as_str())
    }
}
