//! How a line of tc-netem is meant.

use crate::pipeline::params::{Distribution, NetemParams};
use crate::pipeline::time::Duration;

/// Packets that wait at most where a line says nothing: tc's default.
pub const TC_LIMIT: u64 = 1_000;

impl NetemParams {
    /// Packets that may wait for the rate of a line that has no limit, in mode exact: those on the line do not count. `None`
    /// if there is no such queue.
    pub fn queue(&self) -> Option<u64> {
        (self.mode == Mode::Exact && self.rate.is_some() && self.limit.is_none()).then_some(TC_LIMIT)
    }

    /// Bytes of a packet's link layer that rate and slots count beside its IP length. Where nothing is said, mode netem
    /// counts as the kernel does on a veth or any other Ethernet device.
    pub fn link_header(&self) -> u32 {
        match (self.link_layer, self.mode) {
            (Some(LinkLayer::Ethernet), _) | (None, Mode::Netem) => ETHERNET,
            (Some(LinkLayer::Ip), _) | (None, Mode::Exact) => 0,
        }
    }
}

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

/// What rate and slots count as a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// Its IP length.
    Ip,
    /// Its IP length and the 14 bytes of an Ethernet header.
    Ethernet,
}

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
