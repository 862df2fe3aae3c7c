//! How a line of tc-netem is meant.

use crate::pipeline::params::Distribution;
use crate::pipeline::time::Duration;

/// Where netem does not do what its line says: the line, or netem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// What the line says: the rates asked for whatever the correlation, jitter that keeps the order, rate and delay apart.
    #[default]
    Exact,
    /// What the kernel's netem makes of it: its arithmetic, its order of decisions, one state for the whole path.
    Netem,
}

/// Packets gathered into bursts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Time from one slot to the next.
    pub gap: SlotGap,
    /// Packets that a slot takes; `None`: any number.
    pub packets: Option<u64>,
    /// Bytes that a slot takes: it is full when they are reached; `None`: any number.
    pub bytes: Option<u64>,
}

/// Time between slots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SlotGap {
    /// Uniform between the two.
    Uniform(Duration, Duration),
    /// By a distribution with this mean and jitter.
    Distribution(Distribution, Duration, Duration),
}
