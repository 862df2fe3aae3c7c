//! What can be said about a flow's next packets before they come: how many of them a stage will not touch.
//!
//! Another carrier (the kernel, by the flow cache) may then carry these packets past the core. It reports to the core
//! afterwards how many there were ([`crate::pipeline::router::Router::passed`]), and all counts continue as if the
//! packets had come through the core.
//!
//! Only *plain* packets pass in this way: whole datagrams with a correct transport header and without IPv6 extension
//! headers. TCP segments with SYN, FIN or RST are not plain. Where the router is a hop, packets whose TTL would
//! expire there are not plain either. All other packets of the flow are shown to the core.

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::random::rng::{Chance, StageKey, Stream};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;
use crate::pipeline::wire::FlowKey;

/// The flow that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// The flow itself.
    pub flow: FlowRef,
    /// Its addresses, ports and protocol.
    pub key: FlowKey,
    /// Index of its next wire packet.
    pub index: u64,
    /// The current time.
    pub now: Instant,
}

impl Ahead {
    /// The draws of a stage for this flow.
    #[inline]
    pub const fn stream(&self, key: StageKey) -> Stream {
        key.stream(self.flow.identity, 0)
    }

    /// How many wire packets pass before `chance` hits one, by its draws under `key`; looks at most [`Quiet::WINDOW`]
    /// packets ahead.
    pub fn next_hit(&self, chance: &Chance, key: StageKey) -> Quiet {
        if chance.probability() == Probability::ZERO {
            return Quiet::FOREVER;
        }
        match chance.run(self.stream(key), self.index, Quiet::WINDOW) {
            (_, true) => Quiet::NO_MORE,
            (count, false) => Quiet::packets(count.into()),
        }
    }
}

/// How many of a flow's next plain packets pass unchanged and without delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Wire packets.
    pub count: u64,
    /// Longest IP packet, in bytes, for which this holds; a longer one must be shown to the stage.
    pub longest: u32,
}

impl Quiet {
    /// The stage may act on the next packet.
    pub const NO_MORE: Self = Self::packets(0);
    /// The stage will never act on a packet of the flow.
    pub const FOREVER: Self = Self::packets(u64::MAX);
    /// How many packets ahead draws are computed: a search that finds nothing costs some microseconds.
    pub const WINDOW: u32 = 1 << 16;
    /// The same limit for stages that must look packet by packet.
    pub const STEPS: u32 = 1 << 10;

    /// The next `count`, whatever their length.
    pub const fn packets(count: u64) -> Self {
        Self { count, longest: u32::MAX }
    }

    /// What both answers allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count.min(other.count), longest: self.longest.min(other.longest) }
    }
}
