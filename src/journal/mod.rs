//! The journal: what a running router did with each packet, told by the workers and written by a thread of its own.
//!
//! A worker puts a [`Record`] into a lock-free ring of its own ([`tap`]); a full ring loses records, which are counted, and never
//! packets. One thread empties the rings and hands the records to its sinks ([`hub`]): the journal file ([`file`]), a capture, the
//! drops that are told at the end ([`recent`]). `docs/journal.md` has the format.

pub mod file;
pub mod hub;
pub mod names;
pub mod recent;
pub mod record;
pub mod tap;
pub mod text;
mod transmissions;

pub use hub::{Finished, Hub, Sink};
pub use names::Names;
pub use record::{Kind, Record};
pub use tap::{Lane, Tap, Taps};
