//! The journal: what a running router did with each packet, recorded by the workers and written by a separate thread.
//!
//! A worker puts each [`Record`] into its own lock-free ring ([`tap`]). If a ring is full, records are lost and counted; packets
//! are never lost. One thread empties the rings and gives the records to its sinks ([`hub`]): the journal file ([`file`]), a
//! capture, or the drops that are printed at the end ([`recent`]). Changes and marks of a run go to the same sinks as notes
//! ([`note`]). `docs/journal.md` describes the format.

pub mod file;
pub mod hub;
pub mod names;
pub mod note;
mod payload;
mod priority;
pub mod recent;
pub mod record;
pub mod tap;
pub mod text;
mod transmissions;

pub use hub::{Finished, Hub, Notes, Sink};
pub use names::Names;
pub use note::{Note, NoteKind};
#[cfg(feature = "capture")]
pub(crate) use payload::Cells;
pub use record::{Kind, Record};
pub use tap::{Lane, Start, Tap, Taps};
