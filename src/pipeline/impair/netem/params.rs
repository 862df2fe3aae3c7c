//! The parameters of a tc-netem line, and the mode in which it is carried out.

use crate::pipeline::params::{Correlated, DelayParams, Distribution, LossModel};
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// See [`crate::pipeline::params::ImpairmentParams::Netem`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NetemParams {
    /// Whether the stage does what the line says or what the kernel's netem does.
    pub mode: Mode,
    /// Largest number of packets held, delayed ones included; `None`: no limit.
    pub limit: Option<u64>,
    /// Delay, jitter, and correlation of the jitter.
    pub delay: Option<DelayParams>,
    /// Correlation of the jitter.
    pub delay_correlation: Probability,
    /// Loss.
    pub loss: LossModel,
    /// Mark instead of dropping.
    pub ecn: bool,
    /// Duplication.
    pub duplicate: Correlated,
    /// Corruption of one bit.
    pub corrupt: Correlated,
    /// Probability to leave at once instead of delayed.
    pub reorder: Correlated,
    /// Every gap-th packet is a candidate for reorder; 0 if there is no reorder.
    pub gap: u32,
    /// Serialisation.
    pub rate: Option<NetemRate>,
    /// Bursts.
    pub slot: Option<Slot>,
    /// The length of a packet for rate and slots; `None`: the mode's default.
    pub link_layer: Option<LinkLayer>,
}

/// The rate word of netem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetemRate {
    /// Bits per second.
    pub rate: Rate,
    /// Bytes added to each packet; may be negative.
    pub packet_overhead: i32,
    /// Bytes per cell; 0: no cells.
    pub cell_size: u32,
    /// Bytes added per cell.
    pub cell_overhead: i32,
}

/// Largest number of waiting packets if a line has no limit: tc's default.
pub const TC_LIMIT: u64 = 1_000;

impl NetemParams {
    /// Packets that may wait for the rate of a line without a limit, in mode exact; packets in propagation do not
    /// count. `None` if there is no such queue.
    pub fn queue(&self) -> Option<u64> {
        (self.mode == Mode::Exact && self.rate.is_some() && self.limit.is_none()).then_some(TC_LIMIT)
    }

    /// Bytes of a packet's link-layer header that rate and slots count beside its IP length. Without a setting, mode
    /// netem counts as the kernel does on a veth or another Ethernet device.
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

/// What to do where the kernel's netem does not do what its line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// What the line says: the requested probabilities whatever the correlation, jitter that keeps the order, rate
    /// and delay separate.
    #[default]
    Exact,
    /// What the kernel's netem does: its arithmetic, its order of decisions, one state for the whole path.
    Netem,
}

/// Packets gathered into bursts.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Time from one slot to the next.
    pub gap: SlotGap,
    /// Packets that a slot takes; `None`: any number.
    pub packets: Option<u64>,
    /// Bytes that a slot takes: it is full when they are reached; `None`: any number.
    pub bytes: Option<u64>,
}

/// Time between slots.
#[derive(Debug, Clone, PartialEq)]
pub enum SlotGap {
    /// Uniform between the two.
    Uniform(Duration, Duration),
    /// By a distribution with this mean and jitter.
    Distribution(Distribution, Duration, Duration),
}
