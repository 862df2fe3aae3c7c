//! Parameters of the stages that know TCP.

use crate::pipeline::time::Duration;

/// See [`crate::pipeline::params::ImpairmentParams::Timestamps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampsParams {
    /// What becomes of `TSval`.
    pub set: TimestampSet,
    /// Whether `TSecr` of the other direction is translated back, so that the sender sees its own clock.
    pub translate: bool,
}

impl TimestampsParams {
    /// Whether anything is translated back.
    pub const fn translates(&self) -> bool {
        self.translate && !matches!(self.set, TimestampSet::Strip)
    }
}

/// What becomes of the `TSval` of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSet {
    /// This value; 0 as Linux 3.18 to 4.9 sent it in some RSTs.
    Constant(u32),
    /// So much later (or, wrapping, earlier), in the sender's ticks.
    Offset(u32),
    /// An offset drawn for each connection, all 32 bits of it.
    RandomOffset,
    /// That of the connection's first segment that the stage acted on.
    Freeze,
    /// No timestamps: the option becomes "no operation".
    Strip,
}

/// See [`crate::pipeline::params::ImpairmentParams::RstOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RstOrderParams {
    /// Who comes first.
    pub rst: RstPlace,
    /// Which ACKs a RST races.
    pub acks: HeldAcks,
    /// How long what is held waits for the other at most.
    pub timeout: Duration,
}

/// Where a RST goes in its sender's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RstPlace {
    /// Before the ACKs that were sent before it.
    #[default]
    First,
    /// Behind the next segment of its sender.
    Last,
}

/// Which ACKs wait for a RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeldAcks {
    /// The last one of the handshake, and those that come while it waits.
    #[default]
    Handshake,
    /// Every segment that only acknowledges.
    All,
}
