//! What a path is made of: the parameters of every stage, as the configuration hands them over.
//!
//! Plain values whose types exclude what cannot be: whoever holds one may build the stage without checking again.

mod bottleneck;
pub mod limits;
mod listed;
mod loss;
mod model;
mod nat;
mod netem;
mod paws;
mod replay;
mod rewrite;
mod segment;
mod tcp;
mod when;

pub use bottleneck::{
    BottleneckParams, CoDelParams, Discipline, PeakParams, PieParams, RedParams, ServiceParams,
};
pub use listed::{ListedLossParams, NoNumbers, Numbers};
pub use model::{DelayModelParams, PatternFault, PatternParams, Timetable};
pub use nat::{
    Dependence, Forward, MidStream, NaptParams, NatClock, NatKind, NatParams, NatPlace, NatTimeouts,
    PortAllocation, PrefixParams, Rebind,
};
pub use paws::PawsPerHostParams;
pub use replay::{ReplayEnd, ReplayParams, ReplayRow};
pub use rewrite::{InjectParams, InjectTo, Injected, RstSequence, TcpParams, WindowRewrite};
pub use segment::{QuicSelect, Segment, Segments, Transmission};
pub use tcp::{HeldAcks, RstOrderParams, RstPlace, TimestampSet, TimestampsParams};
pub use when::{FragmentSelect, Phase, Scope, Select, Trigger};

pub use loss::{GilbertElliott, LossModel, StateLoss};
pub use netem::{LinkLayer, Mode, Slot, SlotGap, TC_LIMIT};

use std::net::IpAddr;

use ipnet::IpNet;

use crate::pipeline::distribution::Table;
use crate::pipeline::time::Duration;
use crate::pipeline::units::{Probability, Rate};

/// One stage of a path: which packets, when, and what is done to them.
#[derive(Debug, Clone, PartialEq)]
pub struct StageParams {
    /// Unique in its path; the draws of the stage depend on it, not on its place, so that adding a stage shifts no
    /// other's.
    pub name: String,
    /// Which packets the stage looks at; all others pass it untouched.
    pub select: Select,
    /// When, among the selected ones, it acts.
    pub trigger: Trigger,
    /// What it does.
    pub impairment: ImpairmentParams,
}

impl StageParams {
    /// Whether the stage must see the packets of the opposite path too.
    pub const fn works_both_ways(&self) -> bool {
        matches!(&self.impairment, ImpairmentParams::Timestamps(params) if params.translates())
    }
}

/// A fault or rewrite.
#[derive(Debug, Clone, PartialEq)]
pub enum ImpairmentParams {
    /// Independent random loss.
    Loss(LossParams),
    /// Loss of the packets of a list.
    ListedLoss(ListedLossParams),
    /// Every packet that the stage is aimed at is dropped.
    Drop,
    /// Losses or copies whose chance depends on how many there were in a row, and on the time.
    Pattern(PatternParams),
    /// Propagation delay by a timetable.
    DelayModel(DelayModelParams),
    /// Propagation delay, fixed or with jitter.
    Delay(DelayParams),
    /// Serialisation at a rate behind a bounded queue, or a policer.
    Rate(RateParams),
    /// A link with a queue of its own: a trace or changing rate, or a discipline other than tail drop.
    Bottleneck(Box<BottleneckParams>),
    /// A link whose delay, rate, loss and limit follow a table.
    Replay(ReplayParams),
    /// A hop whose link takes only small packets.
    Mtu(MtuParams),
    /// Rewrites the MSS option of SYN segments.
    Mss(MssParams),
    /// Extra copies.
    Duplicate(DuplicateParams),
    /// Damaged bits.
    Corrupt(CorruptParams),
    /// Packets that overtake others or are put behind them.
    Reorder(ReorderParams),
    /// Drops every fragment but the first of a datagram.
    FragmentFilter,
    /// The link is down by a schedule.
    Blackout(BlackoutParams),
    /// The peer that keeps one timestamp per source address and drops SYNs that are behind it.
    PawsPerHost(PawsPerHostParams),
    /// Changes TCP timestamps.
    Timestamps(TimestampsParams),
    /// A RST overtakes the ACKs of its sender, or the reverse.
    RstOrder(RstOrderParams),
    /// Where a translator of [`RouterParams::nats`] stands.
    Nat(NatPlace),
    /// Changes windows, options and ECN of TCP.
    Tcp(TcpParams),
    /// Forges TCP segments.
    Inject(InjectParams),
    /// A line of tc-netem, applied in netem's order of decisions.
    Netem(Box<NetemParams>),
}

/// See [`ImpairmentParams::Loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossParams {
    /// Of each wire packet, independently.
    pub probability: Probability,
    /// Mark ECN-capable packets CE instead of dropping them.
    pub ecn: bool,
}

/// See [`ImpairmentParams::Delay`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DelayParams {
    /// Mean of the delay.
    pub delay: Duration,
    /// Half-width (uniform) or standard deviation (normal) around it; zero means a fixed delay.
    pub jitter: Duration,
    /// Shape of the jitter.
    pub distribution: Distribution,
    /// Jitter may reorder packets of one flow: each draws for itself. Default: no; then the delay wanders.
    pub reorder: bool,
    /// How long the wandering delay takes to forget half of where it was; `None`: as long as the jitter needs to keep the
    /// order.
    pub half_life: Option<Duration>,
}

/// Shape of a jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// Uniform in delay ± jitter.
    #[default]
    Uniform,
    /// Normal with standard deviation jitter.
    Normal,
    /// By a table, in units of the jitter.
    Table(&'static Table),
}

/// See [`ImpairmentParams::Rate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateParams {
    /// Bits per second on the wire.
    pub rate: Rate,
    /// How the excess is treated.
    pub excess: Excess,
    /// Bytes that each packet costs on top of its IP length (14 + 4 + 20 for Ethernet with preamble and gap).
    pub overhead: i32,
}

/// What a rate limit does with packets above the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Excess {
    /// Waits in a tail-drop queue. A packet that would exceed any limit that is set is dropped; the packet being
    /// serialised counts.
    Queue {
        /// In wire packets.
        packets: Option<u64>,
        /// In bytes (with overhead).
        bytes: Option<u64>,
        /// In time that a packet would wait before its own serialisation starts.
        time: Option<Duration>,
    },
    /// Is dropped at once: a token bucket of `burst` bytes without a queue.
    Police {
        /// Depth of the bucket in bytes, at least one packet.
        burst: u64,
    },
}

/// See [`ImpairmentParams::Mtu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MtuParams {
    /// Largest packet of the link in bytes, overhead included.
    pub mtu: u32,
    /// Bytes that tunnels add on the way; the largest IP packet that passes is `mtu - overhead`.
    pub overhead: u32,
    /// What happens to larger ones.
    pub action: MtuAction,
}

/// What a small-MTU hop does with a packet that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtuAction {
    /// Drops it silently: a black hole.
    #[default]
    Drop,
    /// Drops it and answers ICMP "fragmentation needed" / ICMPv6 "packet too big".
    Icmp,
    /// Fragments IPv4 without DF, answers ICMP for the rest.
    Fragment,
}

/// See [`ImpairmentParams::Mss`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MssParams {
    /// Largest TCP payload in bytes that the SYN shall announce.
    pub mss: u16,
    /// Sets the value even where it raises it; otherwise only lowers (clamps). A SYN without the option announces 536
    /// (IPv4) or 1220 (IPv6) by RFC 9293 and is left as it is.
    pub set: bool,
}

/// See [`ImpairmentParams::Duplicate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DuplicateParams {
    /// Of each wire packet, independently.
    pub probability: Probability,
    /// Extra copies of one that is hit, at least 1.
    pub copies: u32,
}

/// See [`ImpairmentParams::Corrupt`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CorruptParams {
    /// Of each wire packet, independently.
    pub probability: Probability,
    /// Bits flipped in one that is hit, all different, at least 1.
    pub bits: u32,
    /// Where.
    pub area: CorruptArea,
    /// Make the checksums right again afterwards, so that the damage reaches the application.
    pub fix_checksum: bool,
}

/// Which bytes a corruption may hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CorruptArea {
    /// Transport header and payload: what the transport checksum covers.
    #[default]
    Transport,
    /// IP and transport headers.
    Header,
    /// Transport payload; a packet without payload is left alone.
    Payload,
    /// The whole packet.
    Any,
}

/// See [`ImpairmentParams::Reorder`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReorderParams {
    /// As netem: packets wait `delay`, but each `gap`-th, with the probability, leaves at once and so overtakes them.
    Overtake {
        /// Of a candidate to leave at once.
        probability: Probability,
        /// Every gap-th packet is a candidate, at least 1.
        gap: u32,
        /// Delay of all others.
        delay: Duration,
    },
    /// A packet that is hit is put behind the next `by` packets of its flow.
    Displace {
        /// Of each wire packet, independently.
        probability: Probability,
        /// How many packets pass it, at least 1.
        by: u32,
        /// It leaves at the latest this long after it came.
        timeout: Duration,
    },
}

/// See [`ImpairmentParams::Blackout`]. The link is down in `[start + k*period, start + k*period + down)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlackoutParams {
    /// First time the link goes down, since the start of the run.
    pub start: Duration,
    /// How long it stays down.
    pub down: Duration,
    /// How long it stays up between; `None`: it happens once.
    pub up: Option<Duration>,
    /// What comes while it is down waits until it is up again, instead of being dropped.
    pub hold: bool,
}

/// A probability with netem's correlation (0 = independent).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Correlated {
    /// Marginal probability.
    pub probability: Probability,
    /// P(hit | previous hit) = p + ρ(1 − p), P(hit | previous not) = p(1 − ρ): the marginal stays p.
    pub correlation: Probability,
}

/// See [`ImpairmentParams::Netem`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NetemParams {
    /// Whether the line or the kernel's netem is right.
    pub mode: Mode,
    /// Packets held at most, all of them counted, delayed ones too; `None`: no limit.
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
    /// What rate and slots count; `None`: what the mode does.
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

/// A whole router: what every worker builds its own copy of.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterParams {
    /// Seed of all draws.
    pub seed: u64,
    /// Flows that a worker remembers.
    pub flows: usize,
    /// What a flow is called by in the draws.
    pub identity: Identity,
    /// ICMP behaviour.
    pub icmp: IcmpParams,
    /// The ports; paths and routes name them by index.
    pub ports: Vec<PortParams>,
    /// Routes besides the connected ones.
    pub routes: Vec<RouteParams>,
    /// Paths with stages. A pair of ports that is not listed has an empty path.
    pub paths: Vec<PathParams>,
    /// Translators of addresses: all their packets must be one worker's.
    pub nats: Vec<NatParams>,
}

/// What a flow is called by in the draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// By the service that it belongs to, and its ordinal there: see [`crate::pipeline::identity`].
    #[default]
    Service,
    /// By its addresses and ports as they are: for clients that bind theirs.
    Tuple,
}

/// What the router says by ICMP and ICMPv6. Each can be switched off: that is a fault too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct IcmpParams {
    /// Time exceeded in transit.
    pub time_exceeded: bool,
    /// Destination unreachable.
    pub unreachable: bool,
    /// Fragmentation needed, packet too big.
    pub packet_too_big: bool,
    /// Answers to echo requests for the router's own addresses.
    pub echo: bool,
    /// Errors per second that each worker sends at most (with a burst of a tenth of it, at least 1).
    pub rate: u32,
}

impl Default for IcmpParams {
    fn default() -> Self {
        Self { time_exceeded: true, unreachable: true, packet_too_big: true, echo: true, rate: 1000 }
    }
}

/// A port as the core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortParams {
    /// Its name in reports.
    pub name: String,
    /// Largest IP packet that leaves by it.
    pub mtu: u32,
    /// Addresses of the host at the other end, with their prefixes: the connected routes.
    pub addresses: Vec<IpNet>,
    /// The router's own addresses on it.
    pub router: Vec<IpAddr>,
}

/// Where packets for a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTarget {
    /// Out by this port.
    Port(usize),
    /// Nowhere; the sender is told.
    Unreachable,
    /// Nowhere, silently.
    Blackhole,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteParams {
    /// Destinations.
    pub prefix: IpNet,
    /// Where they go.
    pub target: RouteTarget,
}

/// What packets go through from one port to another.
#[derive(Debug, Clone, PartialEq)]
pub struct PathParams {
    /// Index of the port they come in by.
    pub from: usize,
    /// Index of the port they leave by.
    pub to: usize,
    /// In order.
    pub stages: Vec<StageParams>,
}
