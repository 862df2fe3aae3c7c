//! Captures: sending them through a path in virtual time, with the same core as on devices; and recording a running router.
//!
//! - [`source`]: reads packets and metadata from pcap and pcapng files; [`link`]: finds the IP packet in a frame.
//! - [`sink`]: writes packets and metadata to such files.
//! - [`mahimahi`]: a log for plotting, of [`event`]s; [`live`]: such logs of a running router.
//! - [`recorder`]: a capture of a running router; [`files`]: its files.
//! - [`replay`]: sends the packets of a capture through a path; [`outcome`]: the totals.
//!
//! Everything streams: memory holds only the packets that stages hold.

// Numbers come from outside here: each conversion is checked, or says why it need not be.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod bytes;
pub mod event;
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
mod wires;

pub use link::LinkType;
pub use outcome::{Outcome, ReplayError};
pub use replay::{Outputs, Replay};
pub use sink::{Format, Sink, SinkError};
pub use source::{Frame, Item, Notes, Source, SourceError};
