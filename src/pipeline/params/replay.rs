//! A link that is replayed from a table.

use std::sync::Arc;

use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// See [`super::ImpairmentParams::Replay`].
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayParams {
    /// At least one; the first begins at zero.
    pub rows: Arc<Vec<ReplayRow>>,
    /// How long all rows together last, above zero.
    pub period: Duration,
    /// What comes after that.
    pub end: ReplayEnd,
}

/// A part of the time, from the first packet on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplayRow {
    /// When it begins.
    pub from: Duration,
    /// Propagation delay.
    pub latency: Duration,
    /// Half-width of a uniform jitter around it.
    pub jitter: Duration,
    /// Rate of the link; `None`: as fast as it comes.
    pub rate: Option<Rate>,
    /// Of each packet.
    pub loss: Probability,
    /// Packets held at most; `None`: any number.
    pub limit: Option<u64>,
    /// Probability of a copy.
    pub duplicate: Probability,
    /// How much later than the packet the copy leaves.
    pub duplicate_delay: Duration,
    /// Packets of one route keep their order; those of route 0 need not.
    pub route: u32,
}

/// What comes after the last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReplayEnd {
    /// The first one again.
    #[default]
    Loop,
    /// The last one stays.
    Hold,
    /// Nothing is done any more.
    Clear,
}
