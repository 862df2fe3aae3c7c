//! Logs for Mahimahi's scripts of a link with two directions.

use std::path::Path;

use crate::capture::live::{LiveLog, LogError, Wanted};
use crate::config::plan::PathPlan;
use crate::journal::Taps;

/// Starts a log of each direction in `folder`: `up.log` and `down.log`, with `command` at their heads.
pub(super) fn start_log(
    folder: &Path,
    command: &str,
    [up, down]: &[PathPlan; 2],
) -> Result<(LiveLog, Taps), LogError> {
    let wanted = [("up", "Uplink", up), ("down", "Downlink", down)];
    let wanted = wanted.map(|(name, direction, path)| Wanted {
        file: format!("{name}.log"),
        direction: direction.into(),
        path,
    });
    LiveLog::start(folder, command, &wanted)
}
