//! Arithmetic of a link that sends one packet after the other.
//!
//! The time at which the link is free is a whole number of nanoseconds, which the workers share as one atomic number.
//! The fraction of a nanosecond that does not fit into it is kept as *work* by the worker that sent the packet, and
//! is added to its next packet. So a rate is exact over a run, however short a packet's time is.
//!
//! Work is counted in bits × nanoseconds per second: what a link of 1 bit/s does in a nanosecond is 1.

use crate::pipeline::time::Instant;
use crate::pipeline::units::Rate;

/// The work of sending `bytes`.
pub(crate) const fn work(bytes: u64) -> u128 {
    bytes as u128 * (8 * 1_000_000_000)
}

/// Whole nanoseconds that `work` takes at `rate`, and the work that is left; at most `u64::MAX` ns.
pub(crate) fn spend(rate: Rate, work: u128) -> (u64, u64) {
    let rate = u128::from(rate.bits_per_sec());
    // The remainder is less than the rate, which has 64 bits.
    (u64::try_from(work / rate).unwrap_or(u64::MAX), (work % rate) as u64)
}

/// A packet's time on the link, in nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// When its first bit was sent.
    pub(crate) start: u64,
    /// When its last one was, rounded down: when the link is free.
    pub(crate) end: u64,
    /// The work that rounding has carried over.
    pub(crate) carried: u64,
}

impl Turn {
    /// The transmission of `bytes` that come at `arrival` to a link that is free at `free`; `carried` is the work
    /// carried over.
    pub(crate) fn new(rate: Rate, free: u64, carried: u64, arrival: u64, bytes: u64) -> Self {
        let carried = carried_at(free, carried, arrival);
        let (time, carried) = spend(rate, work(bytes) + u128::from(carried));
        let start = free.max(arrival);
        Self { start, end: start.saturating_add(time), carried }
    }

    /// When its last bit has been sent, rounded up.
    pub(crate) const fn left(self) -> Instant {
        round_up(self.end, self.carried)
    }
}

/// What remains of the carried work at `arrival`: nothing, if the link has been idle since.
pub(crate) const fn carried_at(free: u64, carried: u64, arrival: u64) -> u64 {
    if arrival > free { 0 } else { carried }
}

/// The first whole nanosecond at which the work that ends at `end` is done, without `carried`.
pub(crate) const fn round_up(end: u64, carried: u64) -> Instant {
    Instant::from_nanos(end.saturating_add((carried > 0) as u64))
}
