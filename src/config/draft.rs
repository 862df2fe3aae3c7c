//! Paths between being read and being resolved: which translator a stage of type `nat` stands for is known when all of them are
//! read (`config::nat`).

use crate::pipeline::params::{PathParams, SeatParams};

/// Where a path says that its translator stands, whichever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark;

/// A path as it is written.
pub type PathDraft = PathParams<Mark>;

/// A stage as it is written, or the mark of a translator.
pub type SeatDraft = SeatParams<Mark>;
