//! The run that is served.

use crate::engine::Workers;
use crate::journal::Names;
use crate::net::Netns;
use crate::pipeline::params::RouterParams;

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

/// A run, as whoever serves it has to know it.
#[derive(Debug)]
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
}
