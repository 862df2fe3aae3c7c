//! A wire: an existing device, with a path for what it sends and a path for what it receives.

use crate::attach::{AttachError, Attachment, Taps};
use crate::bpf::flows::FlowTable;
use crate::bpf::{CacheParams, HookCounters};
use crate::engine::control::{Engine, EngineError, EngineOptions, total};
use crate::engine::network::Summary;
use crate::engine::report::Report;
use crate::engine::tun::Port;
use crate::journal;
use crate::net::lookup::Device;
use crate::net::{NetError, Netns, link};
use crate::pipeline::params::{IcmpParams, Identity, PathParams, PortParams, RouterParams, StageParams};

/// Port of a wire: the side of the device.
pub const TARGET: usize = 0;
/// Port of a wire: the side of the network.
pub const NETWORK: usize = 1;

/// Larger than any packet: a wire rejects no packet for its size.
pub(super) const NO_MTU: u32 = 1 << 17;

/// The settings of a wire.
#[derive(Debug, Clone)]
pub struct WirePlan {
    /// Stages for what the device sends.
    pub up: Vec<StageParams>,
    /// Stages for what it receives.
    pub down: Vec<StageParams>,
    /// Seed of all draws.
    pub seed: u64,
    /// How many flows are remembered.
    pub flows: usize,
    /// How a flow is identified for random draws.
    pub identity: Identity,
    /// Which ICMP errors stages may send.
    pub icmp: IcmpParams,
    /// Packets to which nothing happens may stay in the kernel, unless a receiver of records needs every packet.
    pub flow_cache: bool,
}

/// The cache of an attachment or of veth ports, if it may have one: whoever is told of every packet has to see every packet.
pub(super) fn flow_cache(is_wanted: bool, flows: usize, taps: &[journal::Taps]) -> Option<CacheParams> {
    let (sees, follows) = (journal::Taps::sees_packets, journal::Taps::follows_flows);
    (is_wanted && !taps.iter().any(sees)).then(|| CacheParams::new(flows, taps.iter().any(follows)))
}

/// Why a wire cannot be made, or what ended it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The worker.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The counters of a TAP cannot be read.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No more file descriptors are available.
    #[error("cannot open a device twice: {0}")]
    Descriptors(std::io::Error),
}

/// A wire with traffic on it.
#[derive(Debug)]
pub struct Wire {
    engine: Engine,
    attachment: Attachment,
    /// Requested features that the kernel did not grant, one sentence each.
    pub notices: Vec<String>,
}

impl Wire {
    /// Leads the traffic of `device` through the paths of `plan`, recorded by `recording`.
    ///
    /// # Errors
    /// If something cannot be made; then nothing has changed.
    pub fn start(
        netns: &Netns,
        device: &Device,
        plan: &WirePlan,
        recording: Vec<journal::Taps>,
    ) -> Result<Self, WireError> {
        let cache = flow_cache(plan.flow_cache, plan.flows, &recording);
        let (mut attachment, taps) = Attachment::prepare(netns, device, 1, cache)?;
        let notices = std::mem::take(&mut attachment.notices);
        let flows = attachment.flows().cloned();
        let ends = ends(taps, flows, 0).map_err(WireError::Descriptors)?.into();
        let options = EngineOptions { pin: Vec::new(), taps: recording };
        let engine = Engine::start(&plan.router(), vec![ends], &options)?;
        attachment.attach()?;
        Ok(Self { engine, attachment, notices })
    }

    /// The worker.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether the device still exists.
    pub fn is_attached(&self) -> bool {
        self.attachment.is_attached()
    }

    /// What the hooks did: up (what the device sends), down (what it receives).
    pub fn hooks(&self) -> [HookCounters; 2] {
        self.attachment.counters()
    }

    /// The names of the TAPs: outer, inner.
    pub const fn taps(&self) -> &[String; 2] {
        self.attachment.taps()
    }

    /// The namespace of the TAPs.
    pub const fn netns(&self) -> &Netns {
        self.attachment.netns()
    }

    /// The numbers so far.
    ///
    /// # Errors
    /// If the worker or a TAP is gone.
    pub fn summary(&self) -> Result<Summary, WireError> {
        let workers = self.engine.reports()?;
        let total = sum(&workers);
        let stats = |tap: &String| link::stats(self.attachment.netns(), tap);
        let links = self.attachment.taps().iter().map(stats).collect::<Result<_, _>>()?;
        Ok(Summary { total, workers, links, unlogged: 0 })
    }

    /// Releases the packets that wait, in order, and then removes everything.
    ///
    /// # Errors
    /// What ended the worker, if it had ended.
    pub fn stop(mut self) -> Result<(Summary, [HookCounters; 2]), WireError> {
        let released = self.engine.release();
        self.attachment.detach();
        let links = self.summary().map(|summary| summary.links);
        let workers = self.engine.stop()?;
        released?;
        let total = sum(&workers);
        let hooks = self.attachment.counters();
        let links = links.unwrap_or_default();
        Ok((Summary { total, workers, links, unlogged: 0 }, hooks))
    }
}

/// The ends of one worker's queues: packets that the device sends take the path `first`, packets that it receives the
/// next path.
pub(super) fn ends(taps: Taps, flows: Option<FlowTable>, first: u16) -> std::io::Result<[Port; 2]> {
    let [outer, inner] = taps.map(|mut queues| queues.remove(0));
    let (to_network, to_target) = (outer.try_clone()?, inner.try_clone()?);
    Ok([
        Port::Wire { reads: outer, writes: to_target, path: first, flows },
        Port::Wire { reads: inner, writes: to_network, path: first + 1, flows: None },
    ])
}

fn sum(workers: &[Report]) -> Report {
    total(workers).expect("there is one worker")
}

impl WirePlan {
    /// The core's view of a wire: up is path 0, down is path 1.
    pub fn router(&self) -> RouterParams {
        let port = |name: &str| PortParams {
            name: name.to_owned(),
            mtu: NO_MTU,
            addresses: Vec::new(),
            router: Vec::new(),
        };
        let path = |from, to, stages: &[StageParams]| PathParams::new(from, to, stages.to_vec());
        RouterParams {
            seed: self.seed,
            flows: self.flows,
            identity: self.identity,
            icmp: self.icmp,
            ports: vec![port("target"), port("network")],
            routes: Vec::new(),
            paths: vec![path(TARGET, NETWORK, &self.up), path(NETWORK, TARGET, &self.down)],
            nats: Vec::new(),
        }
    }
}
