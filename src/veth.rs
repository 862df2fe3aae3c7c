//! Ports that are veth pairs: one end is the host's device, the other is in a namespace of the router, beside a TAP device.
//!
//! ```text
//! host ──► DEV ──► router's end ──► TAP ──► worker ──► another port
//! host ◄── DEV ◄──────────────────── TAP ◄── worker ◄── another port
//! ```
//!
//! A program at the router's end redirects what the host sends to the TAP. A program at the TAP gives what faultwire
//! writes to the host's device directly, without the router's end. With a flow cache, the first program gives packets
//! directly to the host's device of another veth port. It does what a router would: it decrements the hop limit and
//! writes the addresses of that link.
//!
//! The router's namespace has no name. It ends with the process, and the pairs end with it.

use std::thread::JoinHandle;
use std::{panic, thread};

use nix::errno::Errno;

use crate::bpf::flows::FlowTable;
use crate::bpf::{BpfError, CacheParams, HookCounters, PortDevices, PortPrograms};
use crate::device::tap::LinkHeader;
use crate::device::{DeviceError, Granted, Offload, Queue, Tun, TunOptions};
use crate::net::hook::{self, Hook};
use crate::net::veth::{self, End};
use crate::net::{LinkSetup, LinkStats, NetError, Netns, link, lookup};

/// MTU of the TAP devices, the maximum of a TAP. Packets that are redirected to a TAP are not checked against it.
const TAP_MTU: u32 = 65_521;

/// Why a veth port cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VethError {
    /// A namespace or a link.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The programs.
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// The host's device of a port.
#[derive(Debug, Clone, Copy)]
pub struct HostEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace of the device.
    pub netns: &'a Netns,
    /// Size of the TAP's queue: packets or trains that wait for faultwire.
    pub queue: u32,
    /// Whether the host may send trains and unfinished checksums.
    pub offload: bool,
}

/// The veth ports of a router.
#[derive(Debug)]
pub struct VethPorts {
    loading: Option<Loading>,
    programs: Option<PortPrograms>,
    netns: Netns,
    count: usize,
}

/// The kernel takes tens of milliseconds to verify the programs. Meanwhile the devices are made.
type Loading = JoinHandle<Result<PortPrograms, BpfError>>;

/// What a worker needs to know about a port, beside the queue of its TAP.
#[derive(Debug)]
pub struct VethEnd {
    /// The link headers of frames for the host: of IPv4 and of IPv6 packets.
    pub headers: [LinkHeader; 2],
    /// The flow cache of all ports, if there is one.
    pub flows: Option<FlowTable>,
    /// The port's number among the veth ports.
    pub number: u16,
    /// The index of the router's end, by which the programs identify the port where a flow leaves.
    pub device: u32,
}

impl VethPorts {
    /// A router for `ports` ports, none of which exists yet; with a flow cache if there is a `cache`.
    ///
    /// # Errors
    /// If the namespace or the thread cannot be created.
    pub fn new(ports: u16, cache: Option<CacheParams>) -> Result<Self, NetError> {
        let label = "of the router";
        let load = move || PortPrograms::load(ports, cache);
        let broken = |source| NetError::Thread { netns: label.to_owned(), source };
        let loading = thread::Builder::new().name("programs".to_owned()).spawn(load).map_err(broken)?;
        Ok(Self { loading: Some(loading), programs: None, netns: Netns::of_devices(label)?, count: 0 })
    }

    /// Creates a port, and returns the queue of its TAP. The host's device is still down.
    ///
    /// # Errors
    /// If the device exists, or something cannot be created.
    pub fn add(&mut self, host: HostEnd<'_>) -> Result<(Queue, Granted), VethError> {
        let number = self.count;
        let (inner, tap) = (inner_name(number), tap_name(number));
        let router = End { netns: &self.netns, name: &inner, address: address(number, ROUTER) };
        let device = End { netns: host.netns, name: host.name, address: address(number, HOST) };
        veth::create(router, device).map_err(|error| taken(error, host))?;
        self.count += 1;
        if !host.offload {
            link::segment_trains(host.netns, host.name)?;
        }
        let offload = if host.offload { Offload::Uso } else { Offload::None };
        let options = TunOptions { name: &tap, netns: &self.netns, queues: 1, offload };
        let (mut queues, granted) = Tun::open_tap_of_netns(&options)?;
        let queue = Some(host.queue);
        let setup =
            LinkSetup { mtu: TAP_MTU, tx_queue_len: queue, addresses: Vec::new(), routes: Vec::new() };
        link::configure(&self.netns, &tap, &setup)?;
        Ok((queues.remove(0), granted))
    }

    /// Starts forwarding between the hosts' devices and the TAPs. Returns the ends in the order in which the ports were
    /// made.
    ///
    /// # Errors
    /// If the kernel refuses the programs, or the privilege is missing.
    ///
    /// # Panics
    /// If it is called twice.
    pub fn attach(&mut self) -> Result<Vec<VethEnd>, VethError> {
        let devices = lookup::devices(&self.netns)?;
        let index = |name: String| {
            let found = devices.iter().find(|device| device.name == name);
            found.map(|device| device.index).ok_or_else(|| NetError::NotFound(name.into()))
        };
        let port = |number| {
            Ok::<_, NetError>(PortDevices {
                tap: index(tap_name(number))?,
                inner: index(inner_name(number))?,
                host: address(number, HOST),
                router: address(number, ROUTER),
            })
        };
        let ports = (0..self.count).map(port).collect::<Result<Vec<_>, _>>()?;
        let loading = self.loading.take().expect("attached once");
        let programs = loading.join().unwrap_or_else(|panic| panic::resume_unwind(panic))?;
        for (number, port) in (0..).zip(&ports) {
            programs.set(number, port)?;
        }
        let hook = |name, device| Hook { device, program: programs.program(name), name };
        let taps = ports.iter().map(|port| hook(PortPrograms::DELIVER, port.tap));
        let pairs = ports.iter().map(|port| hook(PortPrograms::FORWARD, port.inner));
        hook::add(&self.netns, &taps.chain(pairs).collect::<Vec<_>>())?;
        let flows = programs.flows().cloned();
        self.programs = Some(programs);
        let end = |(number, port): (u16, &PortDevices)| VethEnd {
            headers: [true, false].map(|v4| LinkHeader::ethernet(port.host, port.router, v4)),
            flows: flows.clone(),
            number,
            device: port.inner,
        };
        Ok((0..).zip(&ports).map(end).collect())
    }

    /// The counters of the programs, for each port.
    pub fn counters(&self) -> Vec<HookCounters> {
        self.programs.as_ref().map(PortPrograms::counters).unwrap_or_default()
    }

    /// Adds the packets that were lost on the way to faultwire to the kernel's counters of a port's host device.
    ///
    /// # Errors
    /// If the TAP is gone.
    pub fn add_lost(&self, number: usize, stats: LinkStats) -> Result<LinkStats, NetError> {
        let lost = link::stats(&self.netns, &tap_name(number))?.tx_dropped;
        Ok(LinkStats { tx_dropped: stats.tx_dropped + lost, ..stats })
    }
}

impl Drop for VethPorts {
    fn drop(&mut self) {
        // They may be gone with the hosts' namespaces, or have been removed by someone else. The rest ends with the
        // namespace.
        let _ = veth::remove_all(&self.netns);
    }
}

fn inner_name(number: usize) -> String {
    format!("port{number}")
}

fn tap_name(number: usize) -> String {
    format!("tap{number}")
}

const ROUTER: u8 = 1;
const HOST: u8 = 2;

/// A locally administered address.
const fn address(number: usize, side: u8) -> [u8; 6] {
    [0x02, 0x66, 0x77, (number >> 8) as u8, number as u8, side]
}

/// Turns an "exists" error into the kernel's message for a device of that name.
fn taken(error: NetError, host: HostEnd<'_>) -> VethError {
    match error {
        NetError::Netlink { source, .. } if source.raw_os_error() == Some(Errno::EEXIST as i32) => {
            DeviceError::Exists { name: host.name.to_owned(), netns: host.netns.label().to_owned() }.into()
        }
        error => error.into(),
    }
}
