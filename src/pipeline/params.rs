//! The parameters of every stage of a path, as the configuration hands them over.
//!
//! Plain values whose types exclude invalid ones: a stage can be built from them without further checks.

pub mod limits;
mod listed;
mod loss;
mod model;
mod nat;
mod path;
mod segment;
mod share;
mod when;

pub use listed::{NoNumbers, Numbers};
pub use loss::{GilbertElliott, LossModel, StateLoss};
pub use model::Timetable;
pub use nat::{
    Dependence, Forward, MidStream, NaptParams, NatClock, NatKind, NatParams, NatPlace, NatTimeouts,
    PortAllocation, PrefixParams, Rebind,
};
pub use path::{PathParams, SeatParams};
pub use segment::{QuicSelect, Segment, Segments, Transmission};
pub use share::{Share, Way};
pub use when::{FragmentSelect, Opened, Phase, Scope, Select, Trigger};

pub use crate::pipeline::impair::{
    BlackoutParams, BottleneckParams, CoDelParams, CorruptArea, CorruptParams, CustomParams,
    DelayModelParams, DelayParams, Discipline, DropParams, DuplicateParams, Excess, FragmentFilterParams,
    HeldAcks, ImpairmentParams, InjectParams, InjectTo, Injected, LinkLayer, ListedLossParams, LossParams,
    Mode, MssParams, MtuAction, MtuParams, NetemParams, NetemRate, PatternFault, PatternParams,
    PawsPerHostParams, PeakParams, PieParams, RateParams, RedParams, ReorderParams, ReplayEnd, ReplayParams,
    ReplayRow, RstOrderParams, RstPlace, RstSequence, ServiceParams, Slot, SlotGap, TC_LIMIT, TcpParams,
    TimestampSet, TimestampsParams, WindowRewrite,
};

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::pipeline::impair::Directions;
use crate::pipeline::random::distribution::Table;
use crate::pipeline::units::Probability;

/// One stage of a path: which packets, when, and what is done to them.
#[derive(Debug, Clone, PartialEq)]
pub struct StageParams {
    /// Unique in its path. The draws of the stage depend on the name, not on the place, so that adding a stage
    /// changes the draws of no other stage.
    pub name: String,
    /// Which packets the stage acts on; all others pass unchanged.
    pub select: Select,
    /// Which of the selected packets it acts on.
    pub trigger: Trigger,
    /// What it does.
    pub impairment: ImpairmentParams,
}

impl StageParams {
    /// The shared link that this stage belongs to, if any.
    pub fn share(&self) -> Option<Share> {
        match &self.impairment {
            ImpairmentParams::Rate(rate) => rate.share,
            ImpairmentParams::Bottleneck(link) => link.share,
            _ => None,
        }
    }

    /// Whether the stage must see the packets of the opposite path too.
    pub fn works_both_ways(&self) -> bool {
        self.impairment.directions() == Directions::Both
    }
}

/// How many packets the stages of a path make of one on average while `phase` lasts, with each trigger met as often as its
/// probability allows. What is dropped is not subtracted. Stages of different phases never meet.
pub fn growth<'a>(stages: impl IntoIterator<Item = &'a StageParams>, phase: Option<Phase>) -> f64 {
    let together = |stage: &&StageParams| stage.trigger.phase.is_none() || stage.trigger.phase == phase;
    let of = |stage: &StageParams| {
        let share = stage.trigger.probability.map_or(1.0, Probability::as_f64);
        1.0 + share * stage.impairment.extra_packets()
    };
    stages.into_iter().filter(together).map(of).product()
}

/// Shape of a jitter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Distribution {
    /// Uniform in delay ± jitter.
    #[default]
    Uniform,
    /// Normal with standard deviation jitter.
    Normal,
    /// From a table, in units of the jitter.
    Table(Arc<Table>),
}

/// A probability with netem's correlation (0 = independent).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Correlated {
    /// Marginal probability.
    pub probability: Probability,
    /// P(hit | previous hit) = p + ρ(1 − p), P(hit | previous not) = p(1 − ρ): the marginal stays p.
    pub correlation: Probability,
}

/// A whole router: each worker builds its own copy from this.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterParams {
    /// Seed of all draws.
    pub seed: u64,
    /// Flows that a worker remembers.
    pub flows: usize,
    /// How flows are identified for random draws.
    pub identity: Identity,
    /// ICMP behaviour.
    pub icmp: IcmpParams,
    /// The ports; paths and routes name them by index.
    pub ports: Vec<PortParams>,
    /// Routes besides the connected ones.
    pub routes: Vec<RouteParams>,
    /// Paths with stages. A pair of ports that is not listed has an empty path.
    pub paths: Vec<PathParams>,
    /// Address translators. One worker must handle all their packets.
    pub nats: Vec<NatParams>,
}

/// How a flow is identified for random draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// By the service that it belongs to, and its ordinal there: see [`crate::pipeline::aim::identity`].
    #[default]
    Service,
    /// By its addresses and ports as they are: for clients that bind fixed ports.
    Tuple,
}

/// Which ICMP and ICMPv6 messages the router sends. Each can be switched off: a silent router is a fault too.
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

/// A port, as the packet core sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortParams {
    /// Its name in reports.
    pub name: String,
    /// The largest IP packet that leaves by it.
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
    /// Nowhere; the sender gets an ICMP error.
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
