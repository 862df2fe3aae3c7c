//! The devices of a plan: namespaces, TUN devices with their addresses and routes, and the engine that runs on them.
//!
//! Everything created here is removed when [`Network`] is dropped. After SIGKILL, devices and anonymous namespaces end with the
//! process, and named namespaces are removed at the next start (see [`crate::net::cleanup`]).

mod open;

use std::num::NonZeroUsize;

use crate::attach::{AttachError, Attachment};
use crate::config::Plan;
use crate::config::plan::{AttachedPort, NetnsRef, PortKind, PortPlan, WorkerCount};
use crate::device::DeviceError;
use crate::device::steer::{SteerError, Steering};
use crate::engine::control::{Engine, EngineError, EngineOptions, total};
use crate::engine::report::Report;
use crate::engine::tun::Port as End;
use crate::engine::wire::{self, NO_MTU};
use crate::journal::Taps;
use crate::net::target::{Target, TargetError};
use crate::net::{LinkSetup, LinkStats, NamedNetns, NetError, Netns, link};
use crate::pipeline::params::{PathParams, PortParams, RouterParams, StageParams};
use crate::veth::{VethError, VethPorts};

/// Why the network of a plan cannot be created. Nothing of it remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A namespace or a link.
    #[error("port {port}: {source}")]
    Net {
        /// Name of the port.
        port: String,
        /// The error.
        source: NetError,
    },
    /// A device.
    #[error("port {port}: {source}")]
    Device {
        /// Name of the port.
        port: String,
        /// The error.
        source: DeviceError,
    },
    /// Flows could not be steered to workers, though the program was loaded.
    #[error("port {port}: {source}; set `workers = 1` to do without steering")]
    Steer {
        /// Name of the port.
        port: String,
        /// The error.
        source: SteerError,
    },
    /// The target of an attached port.
    #[error("port {port}: {source}")]
    Target {
        /// Name of the port.
        port: String,
        /// The error.
        source: TargetError,
    },
    /// The device of an attached port.
    #[error("port {port}: {source}")]
    Attach {
        /// Name of the port.
        port: String,
        /// The error.
        source: AttachError,
    },
    /// A veth port.
    #[error("port {port}: {source}")]
    Veth {
        /// Name of the port.
        port: String,
        /// The error.
        source: VethError,
    },
    /// More paths than a path number can count, including those of attached ports.
    #[error("the plan has more than 65,536 paths, two of each attached port included")]
    TooManyPaths,
    /// The workers.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A port that exists.
#[derive(Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: String,
    /// The namespace of the device.
    pub netns: Netns,
    /// Its number among the veth ports, if it is one.
    veth: Option<usize>,
    _named: Option<NamedNetns>,
}

/// A device that faultwire did not create, with its attachment.
#[derive(Debug)]
pub struct Attached {
    /// Its name in the plan.
    pub name: String,
    target: Target,
    attachment: Attachment,
}

impl Attached {
    /// The name of the target for reports.
    pub fn label(&self) -> &str {
        &self.target.label
    }

    /// The name of the device in its namespace.
    pub fn device(&self) -> &str {
        self.attachment.device()
    }

    /// The names of the TAPs beside it: outer, inner.
    pub const fn taps(&self) -> &[String; 2] {
        self.attachment.taps()
    }

    /// The namespace of the TAPs.
    pub const fn netns(&self) -> &Netns {
        self.attachment.netns()
    }

    /// Whether the target or the device is gone.
    pub fn has_ended(&self) -> bool {
        self.target.has_ended() || !self.attachment.is_attached()
    }
}

/// A running router with its devices.
#[derive(Debug)]
pub struct Network {
    // Dropped in this order: devices go with the engine's queues, then veth pairs, then the namespaces.
    engine: Engine,
    veths: Option<Box<VethPorts>>,
    /// The ports, in the order of the plan.
    pub ports: Vec<Port>,
    /// The attached ports, in the order of the plan.
    pub attached: Vec<Attached>,
    /// Requested features that the kernel did not grant, one sentence each.
    pub notices: Vec<String>,
    /// Settings of created namespaces that the kernel refused, one sentence each.
    pub refused: Vec<String>,
    /// Seed of all draws.
    pub seed: u64,
    /// Number of workers.
    pub workers: usize,
}

/// The result of a run.
#[derive(Debug)]
pub struct Summary {
    /// Sum over the workers.
    pub total: Report,
    /// Each worker by itself.
    pub workers: Vec<Report>,
    /// The kernel's counters of each port's device.
    pub links: Vec<LinkStats>,
    /// Events that the logs lack, if there are logs: their rings were full.
    pub unlogged: u64,
}

impl Network {
    /// Makes the plan's devices and starts forwarding, recorded by `taps`. `seed` is used where the plan has none.
    ///
    /// `netns` finds the namespace of a port; [`open_netns`] does for plans from files.
    ///
    /// # Errors
    /// The first error; everything that was created before it has been removed.
    pub fn start(
        plan: &Plan,
        seed: u64,
        taps: Vec<Taps>,
        netns: impl Fn(usize, &PortPlan) -> Result<(Netns, Option<NamedNetns>), NetError>,
    ) -> Result<Self, NetworkError> {
        let (mut notices, mut refused) = (Vec::new(), Vec::new());
        // TAPs have one queue.
        let mut workers = if plan.has_single_queues() { 1 } else { worker_count(plan.workers) };
        let steering = (workers > 1).then(Steering::load);
        if let Some(Err(error)) = &steering {
            notices.push(format!(
                "one worker instead of {workers}: flows cannot be steered to workers: {error}"
            ));
            workers = 1;
        }
        let steering = steering.and_then(Result::ok);
        let cache = wire::flow_cache(plan.flow_cache, plan.flows, &taps);
        let mut veths = open::veths(plan, cache)?;
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        let mut ends: Vec<Vec<End>> = std::iter::repeat_with(Vec::new).take(workers).collect();
        for (index, port) in plan.ports.iter().enumerate() {
            let net = |source| NetworkError::Net { port: port.name.clone(), source };
            let (netns, named) = netns(index, port).map_err(net)?;
            refused.extend(refusals(&netns, &refused));
            open::rivals(port, &netns, &mut notices).map_err(net)?;
            let mut veth = None;
            if let Some(veths) = veths.as_mut().filter(|_| port.kind == PortKind::Veth) {
                veth = Some(queues.len());
                let queue = open::again(port, &netns, || open::open_veth(port, &netns, veths, &mut notices))?;
                queues.push((index, queue));
            } else {
                let open = || open::open_device(port, &netns, workers, steering.as_ref(), &mut notices);
                let opened = open::again(port, &netns, open)?;
                for (worker, queue) in ends.iter_mut().zip(opened) {
                    worker.push(End::Routed(queue));
                }
            }
            link::configure(&netns, &port.device, &setup(port)).map_err(net)?;
            let (name, device) = (port.name.clone(), port.device.clone());
            ports.push(Port { name, device, netns, veth, _named: named });
        }
        let mut attached = Vec::new();
        if let Some(veths) = &mut veths {
            let veth = |source| NetworkError::Veth { port: plan.ports[queues[0].0].name.clone(), source };
            let attached = veths.attach().map_err(veth)?;
            for ((index, queue), end) in queues.into_iter().zip(attached) {
                ends[0].insert(index, End::Veth { queue, end });
            }
        }
        for (index, port) in plan.attached.iter().enumerate() {
            let (port, both) = open::open_attached(port, plan.paths.len() + 2 * index, cache, &mut notices)?;
            ends[0].extend(both);
            attached.push(port);
        }
        let seed = plan.seed.unwrap_or(seed);
        let options = EngineOptions { pin: plan.pin.clone(), taps };
        let engine = Engine::start(&router_params(plan, seed), ends, &options)?;
        let mut network = Self { engine, veths, ports, attached, notices, refused, seed, workers };
        if let Err(error) = network.attach() {
            // Packets of attached devices must leave in order.
            let _ = network.stop();
            return Err(error);
        }
        Ok(network)
    }

    fn attach(&mut self) -> Result<(), NetworkError> {
        for port in &mut self.attached {
            let name = &port.name;
            let attach = |source| NetworkError::Attach { port: name.clone(), source };
            port.attachment.attach().map_err(attach)?;
        }
        Ok(())
    }

    /// Wire packets that stages hold, without asking the devices.
    ///
    /// # Errors
    /// If a worker is gone.
    pub fn held(&self) -> Result<u64, NetworkError> {
        Ok(self.engine.reports()?.iter().map(|report| report.held.packets).sum())
    }

    /// The workers.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The numbers so far.
    ///
    /// # Errors
    /// If a worker or a device is gone.
    pub fn summary(&self) -> Result<Summary, NetworkError> {
        Ok(summarize(self.engine.reports()?, self.link_stats()?))
    }

    /// Stops forwarding and removes everything.
    ///
    /// # Errors
    /// The failure of a worker, if one had ended.
    pub fn stop(mut self) -> Result<Summary, NetworkError> {
        // Packets of attached devices must not be lost.
        let released = if self.attached.is_empty() { Ok(Vec::new()) } else { self.engine.release() };
        for port in &mut self.attached {
            port.attachment.detach();
        }
        // The devices' counters have to be read while the devices exist.
        let links = self.link_stats();
        let workers = self.engine.stop()?;
        released?;
        Ok(summarize(workers, links?))
    }

    fn link_stats(&self) -> Result<Vec<LinkStats>, NetworkError> {
        let stats = |name: &String, netns: &Netns, device: &str| {
            let net = |source| NetworkError::Net { port: name.clone(), source };
            link::stats(netns, device).map_err(net)
        };
        let own = self.ports.iter().map(|port| {
            let stats = stats(&port.name, &port.netns, &port.device)?;
            let (Some(number), Some(veths)) = (port.veth, &self.veths) else { return Ok(stats) };
            let net = |source| NetworkError::Net { port: port.name.clone(), source };
            veths.add_lost(number, stats).map_err(net)
        });
        let taps = self
            .attached
            .iter()
            .flat_map(|port| port.taps().iter().map(|tap| stats(&port.name, port.netns(), tap)));
        own.chain(taps).collect()
    }
}

/// The namespace that a plan from a file names; created if the plan says so.
///
/// # Errors
/// If it does not exist, or exists although it is to be made.
pub fn open_netns(port: &PortPlan) -> Result<(Netns, Option<NamedNetns>), NetError> {
    match &port.netns {
        NetnsRef::Own => Ok((Netns::own()?, None)),
        NetnsRef::Path(path) => Ok((Netns::path(path)?, None)),
        NetnsRef::Named(name) if port.create => {
            let made = Netns::create_named(name)?;
            Ok((made.netns().clone(), Some(made)))
        }
        NetnsRef::Named(name) => Ok((Netns::named(name)?, None)),
    }
}

/// Settings of a created namespace that the kernel refused and that have not been reported yet.
fn refusals(netns: &Netns, told: &[String]) -> Vec<String> {
    let refused = netns.refused().iter().filter(|refused| {
        // There the routes say it.
        !(refused.is_congestion_control() && netns.names_congestion_control())
    });
    refused.map(ToString::to_string).filter(|notice| !told.contains(notice)).collect()
}

/// The core's view of a plan.
pub fn router_params(plan: &Plan, seed: u64) -> RouterParams {
    let port = |port: &PortPlan| PortParams {
        name: port.name.clone(),
        mtu: port.mtu,
        addresses: port.addresses.clone(),
        router: port.router.clone(),
    };
    // Each attached device has two ports, and a path from either to the other.
    let first = plan.ports.len();
    let wire = |port: &AttachedPort| {
        let side = |name: String| PortParams { name, mtu: NO_MTU, addresses: Vec::new(), router: Vec::new() };
        [side(port.name.clone()), side(format!("{}/network", port.name))]
    };
    let paths = |(index, port): (usize, &AttachedPort)| {
        let (target, network) = (first + 2 * index, first + 2 * index + 1);
        let path = |from, to, stages: &[StageParams]| PathParams::new(from, to, stages.to_vec());
        [path(target, network, &port.up), path(network, target, &port.down)]
    };
    RouterParams {
        seed,
        flows: plan.flows,
        identity: plan.identity,
        icmp: plan.icmp,
        ports: plan.ports.iter().map(port).chain(plan.attached.iter().flat_map(wire)).collect(),
        routes: plan.routes.clone(),
        paths: plan.paths.iter().cloned().chain(plan.attached.iter().enumerate().flat_map(paths)).collect(),
        nats: plan.nats.clone(),
    }
}

fn worker_count(count: WorkerCount) -> usize {
    match count {
        WorkerCount::Exactly(count) => count.get(),
        WorkerCount::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

fn setup(port: &PortPlan) -> LinkSetup {
    LinkSetup {
        mtu: port.mtu,
        tx_queue_len: Some(port.txqueuelen),
        addresses: port.addresses.clone(),
        routes: port.routes.clone(),
    }
}

/// The number of an attached port's first path; the next path has the next number.
fn path_number(first: usize) -> Result<u16, NetworkError> {
    let number = u16::try_from(first).ok().filter(|first| *first < u16::MAX);
    number.ok_or(NetworkError::TooManyPaths)
}

fn summarize(workers: Vec<Report>, links: Vec<LinkStats>) -> Summary {
    let total = total(&workers).expect("there is at least one worker");
    Summary { total, workers, links, unlogged: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_paths_of_an_attached_port_have_a_number() {
        assert_eq!(path_number(65_534).unwrap(), 65_534);
        for first in [65_535, 65_536, usize::MAX] {
            assert!(matches!(path_number(first), Err(NetworkError::TooManyPaths)), "{first}");
        }
    }
}
