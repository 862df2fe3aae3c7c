//! The result of a replay, and the errors that end one early.

use std::time::Duration;

use crate::capture::sink::SinkError;
use crate::capture::source::SourceError;
use crate::engine::Report;

/// The result of a replay.
#[derive(Debug)]
pub struct Outcome {
    /// The counters of the path.
    pub report: Report,
    /// Packets of the capture.
    pub packets: u64,
    /// Packets among them that did not enter the path because they are not IP.
    pub not_ip: u64,
    /// The same because their link type cannot be read.
    pub unknown_link: u64,
    /// The same because they come from other sources.
    pub elsewhere: u64,
    /// The same because they are longer than any IP packet.
    pub too_long: u64,
    /// Packets that were cut off in the capture and filled up with zeros.
    pub cut: u64,
    /// Packets with a time before that of an earlier one, taken at that one's time.
    pub backwards: u64,
    /// Blocks copied that are neither packets nor describe sections and interfaces: names, secrets, statistics, unknown ones.
    pub copied: u64,
    /// Custom blocks left out, because they ask not to be copied.
    pub private: u64,
    /// Packets, blocks and descriptions whose metadata the output's format cannot hold.
    pub unsaid: u64,
    /// Time from the first to the last packet of the capture.
    pub span: Duration,
    /// The capture was damaged after the packets that were read.
    pub broken: Option<SourceError>,
}

/// Errors that end a replay early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An output cannot hold a packet.
    #[error("{output} {source}")]
    Output {
        /// The output: `the output`, `the file of dropped packets`, `the file of answers`.
        output: &'static str,
        /// The reason.
        source: SinkError,
    },
    /// The log cannot be written.
    #[error("the log cannot be written: {0}")]
    Log(std::io::Error),
    /// The time of a packet is beyond the range of a run's clock.
    #[error(
        "packet {0} is more than 584 years after the first: cut the capture, or correct the packet's time"
    )]
    TooFar(u64),
}
