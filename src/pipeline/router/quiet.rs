//! What can be said of a flow's next packets before they come: until when a stage does nothing to them.
//!
//! Somebody else (the kernel, by the flow cache) may then carry them past the core. It tells the core afterwards how many
//! there were ([`crate::pipeline::router::Router::passed`]), and all counts go on as if they had come through it.
//!
//! Only *plain* packets pass so: whole datagrams with a transport header that is as it should be, no IPv6 extension header,
//! of TCP no SYN, FIN or RST, and where the router is a hop, none that
//! would expire there. All others of the flow are shown to the core.

use crate::pipeline::aim::flow::FlowRef;
use crate::pipeline::random::rng::{Chance, StageKey, Stream};
use crate::pipeline::time::Instant;
use crate::pipeline::units::Probability;
use crate::pipeline::wire::FlowKey;

/// The flow that is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// Which it is.
    pub flow: FlowRef,
    /// Its addresses, ports and protocol.
    pub key: FlowKey,
    /// Index of its next wire packet.
    pub index: u64,
    /// The time.
    pub now: Instant,
}

impl Ahead {
    /// The draws of a stage for this flow.
    #[inline]
    pub const fn stream(&self, key: StageKey) -> Stream {
        key.stream(self.flow.identity, 0)
    }

    /// The first wire packet that `chance` hits, by its draws under `key`.
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

/// How many of a flow's next plain packets pass without that anything happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Wire packets.
    pub count: u64,
    /// Of an IP length up to this, in bytes; a longer one has to be shown.
    pub longest: u32,
}

impl Quiet {
    /// Something may happen to the next one.
    pub const NO_MORE: Self = Self::packets(0);
    /// Nothing will ever happen.
    pub const FOREVER: Self = Self::packets(u64::MAX);
    /// How far draws are looked ahead: a search that finds nothing costs some microseconds.
    pub const WINDOW: u32 = 1 << 16;
    /// The same for what can only be found packet by packet.
    pub const STEPS: u32 = 1 << 10;

    /// The next `count`, whatever their length.
    pub const fn packets(count: u64) -> Self {
        Self { count, longest: u32::MAX }
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count.min(other.count), longest: self.longest.min(other.longest) }
    }
}
