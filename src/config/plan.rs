//! The validated plan: a configuration in types that exclude invalid values.
//!
//! [`crate::config::parse`] makes one from a file and has then checked that names are unique, that indices are right and
//! that addresses fit together. Code that builds a network by itself (`exec`, cases) starts from [`Plan::new`] and
//! [`PortPlan::new`], which fill in the defaults.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;

pub use crate::pipeline::params::{
    IcmpParams as IcmpPlan, Identity, PathParams as PathPlan, RouteParams as RoutePlan, RouteTarget,
    SeatParams as SeatPlan,
};
use crate::pipeline::params::{ImpairmentParams, Mode, NatParams, StageParams};
use crate::pipeline::time::Duration;

/// Everything that `run` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Seed of every random decision; `None`: drawn at the start, and printed.
    pub seed: Option<u64>,
    /// Worker threads.
    pub workers: WorkerCount,
    /// Cores: worker i runs on `pin[i]`. Empty: not pinned. Otherwise as long as there are workers.
    pub pin: Vec<usize>,
    /// Entries of a worker's flow table.
    pub flows: usize,
    /// How a flow is identified for random draws.
    pub identity: Identity,
    /// Stop by itself after this time.
    pub duration: Option<Duration>,
    /// Which ICMP messages the router sends.
    pub icmp: IcmpPlan,
    /// The ports; other parts refer to them by index.
    pub ports: Vec<PortPlan>,
    /// Routes beside those of the ports' own prefixes.
    pub routes: Vec<RoutePlan>,
    /// Paths, at most one from one port to another. Without a path, packets pass unchanged.
    pub paths: Vec<PathPlan>,
    /// Translators of addresses; their places are in the paths.
    pub nats: Vec<NatParams>,
    /// Existing devices that faultwire did not create, each with its own faults; they take no part in routing.
    pub attached: Vec<AttachedPort>,
    /// Packets of attached devices and between veth ports to which nothing happens may stay in the kernel.
    pub flow_cache: bool,
    /// Settings that are allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Takes the netem lines among `stages` as `mode` says.
pub fn set_mode<'a>(stages: impl IntoIterator<Item = &'a mut StageParams>, mode: Mode) {
    for stage in stages {
        if let ImpairmentParams::Netem(netem) = &mut stage.impairment {
            netem.mode = mode;
        }
    }
}

impl Plan {
    /// Whether one of the devices has a single queue, so that there is one worker.
    pub fn has_single_queues(&self) -> bool {
        !self.attached.is_empty() || self.ports.iter().any(|port| port.kind == PortKind::Veth)
    }

    /// Entries of a worker's flow table.
    pub const DEFAULT_FLOWS: usize = 65_536;

    /// A plan with these ports and paths and all else at its default. The indices in `paths` must be those of `ports`.
    pub fn new(ports: Vec<PortPlan>, paths: Vec<PathPlan>) -> Self {
        Self {
            seed: None,
            workers: WorkerCount::Auto,
            pin: Vec::new(),
            flows: Self::DEFAULT_FLOWS,
            identity: Identity::default(),
            duration: None,
            icmp: IcmpPlan::default(),
            ports,
            routes: Vec::new(),
            paths,
            nats: Vec::new(),
            attached: Vec::new(),
            flow_cache: true,
            warnings: Vec::new(),
        }
    }
}

/// The number of worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkerCount {
    /// One per core that the process may use.
    #[default]
    Auto,
    /// This many.
    Exactly(NonZeroUsize),
}

/// The device of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortKind {
    /// A TUN device.
    #[default]
    Tun,
    /// A veth pair: packets to which nothing happens may stay in the kernel.
    Veth,
}

/// A device in a namespace, with the host's side of it.
#[derive(Debug, Clone, PartialEq)]
pub struct PortPlan {
    /// Name by which paths and routes refer to it.
    pub name: String,
    /// What device it is.
    pub kind: PortKind,
    /// Name of the device, at most 15 bytes.
    pub device: String,
    /// Where the device is.
    pub netns: NetnsRef,
    /// Create the namespace, which is then [`NetnsRef::Named`].
    pub create: bool,
    /// The host's addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The router's own addresses, one for each prefix of the host.
    pub router: Vec<IpAddr>,
    /// MTU of the device in bytes.
    pub mtu: u32,
    /// Queue of the device in packets.
    pub txqueuelen: u32,
    /// Routes of the host into this port.
    pub routes: Vec<IpNet>,
    /// Checksum, TSO and USO offload.
    pub offload: bool,
}

impl PortPlan {
    /// Bytes.
    pub const DEFAULT_MTU: u32 = 1_500;
    /// Packets.
    pub const DEFAULT_TXQUEUELEN: u32 = 1_000;

    /// A port with these addresses and all else at its default: device `fw-NAME`, the first usable address of each
    /// prefix for the router, no routes.
    pub fn new(name: impl Into<String>, netns: NetnsRef, addresses: Vec<IpNet>) -> Self {
        let name = name.into();
        Self {
            device: format!("fw-{name}"),
            name,
            kind: PortKind::default(),
            netns,
            create: false,
            router: default_routers(&addresses),
            addresses,
            mtu: Self::DEFAULT_MTU,
            txqueuelen: Self::DEFAULT_TXQUEUELEN,
            routes: Vec::new(),
            offload: true,
        }
    }
}

/// An existing device that faultwire did not create.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachedPort {
    /// Its name in the summary.
    pub name: String,
    /// The namespace of the device.
    pub target: AttachTarget,
    /// The device; `None`: that of the target's default route.
    pub device: Option<String>,
    /// Stages for what it sends.
    pub up: Vec<StageParams>,
    /// Stages for what it receives.
    pub down: Vec<StageParams>,
}

/// The target to which the device belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachTarget {
    /// That of a namespace.
    Netns(NetnsRef),
    /// That of the namespace of a process.
    Pid(u32),
    /// A container's, by its name or the beginning of its ID.
    Container(String),
}

impl Default for AttachTarget {
    fn default() -> Self {
        Self::Netns(NetnsRef::Own)
    }
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum NetnsRef {
    /// The one in which faultwire was started.
    #[default]
    Own,
    /// By its name in `/run/netns`.
    Named(String),
    /// By the path of a namespace file.
    Path(PathBuf),
}

/// The router's address in each prefix of a host that has room for one.
pub fn default_routers(addresses: &[IpNet]) -> Vec<IpAddr> {
    let mut routers: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if routers.iter().all(|router| !address.contains(router)) {
            routers.extend(default_router(address, addresses));
        }
    }
    routers
}

/// The first usable address in the prefix of `address` that no host has; `None` if there is none (/32 and /128).
pub(super) fn default_router(address: &IpNet, hosts: &[IpNet]) -> Option<IpAddr> {
    // The all-zeros address of an IPv6 prefix is the Subnet-Router anycast address (RFC 4291 section 2.6.1), except
    // in a /127 (RFC 6164).
    let anycast = |candidate: &IpAddr| {
        candidate.is_ipv6() && *candidate == address.network() && address.prefix_len() < 127
    };
    let taken = |candidate: &IpAddr| hosts.iter().any(|host| host.addr() == *candidate);
    // Each host excludes one candidate, so the search is short whatever the prefix.
    address.hosts().find(|candidate| !anycast(candidate) && !taken(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers(addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        default_routers(&addresses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_router_takes_the_first_usable_address() {
        assert_eq!(routers(&["10.0.1.2/24", "fd00:1::2/64"]), ["10.0.1.1", "fd00:1::1"]);
        assert_eq!(routers(&["10.0.1.1/24"]), ["10.0.1.2"]);
        assert_eq!(routers(&["10.0.1.1/24", "10.0.1.2/24"]), ["10.0.1.3"]);
    }

    #[test]
    fn small_prefixes_have_one_address_left_or_none() {
        assert_eq!(routers(&["10.0.0.0/31"]), ["10.0.0.1"]);
        assert_eq!(routers(&["10.0.0.6/30"]), ["10.0.0.5"]);
        assert_eq!(routers(&["fd00::1/127"]), ["fd00::"]);
        assert_eq!(routers(&["10.0.0.1/32", "fd00::1/128"]), [""; 0]);
    }

    #[test]
    fn a_port_names_its_device() {
        assert_eq!(PortPlan::new("left", NetnsRef::Own, Vec::new()).device, "fw-left");
    }
}
