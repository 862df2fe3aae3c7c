//! The journal: what a running router did with each packet, told by the workers and written by a thread of its own.
//!
//! A worker puts a [`Record`] into a lock-free ring of its own ([`tap`]); a full ring loses records, which are counted, and never
//! packets. One thread empties the rings and hands the records to its sinks ([`hub`]): the journal file ([`file`]), a capture, the
//! drops that are told at the end ([`recent`]). What is done to the run meanwhile is told to the same sinks as notes
//! ([`note`]). `docs/journal.md` has the format.

pub mod file;
pub mod hub;
pub mod names;
pub mod note;
pub mod recent;
pub mod record;
pub mod tap;
pub mod text;
mod transmissions;

pub use hub::{Finished, Hub, Notes, Sink};
pub use names::Names;
pub use note::{Note, NoteKind};
pub use record::{Kind, Record};
pub use tap::{Lane, Tap, Taps};
