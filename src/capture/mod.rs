//! Captures through a path, in virtual time: the same core as on devices, without any.
//!
//! - [`source`]: packets out of a pcap or pcapng file, and what else it says; [`link`]: where in them the IP packet is.
//! - [`sink`]: packets and the rest into such files.
//! - [`mahimahi`]: a log for plotting; [`live`]: such logs of a running router.
//! - [`recorder`]: a capture of a running router; [`files`]: the files that it goes to.
//! - [`replay`]: what goes through the path and what does not, what leaves and what is dropped; [`outcome`]: the sums.
//!
//! Everything streams: only what a stage holds is in memory.

// Numbers come from outside here: each conversion is checked, or says why it need not be.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod bytes;
pub mod files;
mod frame;
mod input;
pub mod link;
pub mod live;
pub mod mahimahi;
mod options;
pub mod outcome;
pub mod recorder;
pub mod replay;
pub mod sink;
pub mod source;
mod tags;

pub use link::LinkType;
pub use outcome::{Outcome, ReplayError};
pub use replay::{Outputs, Replay};
pub use sink::{Format, Sink, SinkError};
pub use source::{Frame, Item, Notes, Source, SourceError};
