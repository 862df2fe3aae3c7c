//! The programs of veth ports.

use std::os::fd::OwnedFd;

use crate::bpf::flows::FlowTable;
use crate::bpf::loaded::{Loaded, Sizes};
use crate::bpf::sys::Hook;
use crate::bpf::{BpfError, CacheParams, HookCounters};

/// The router's devices of a veth port, all in one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortDevices {
    /// Index of the TAP.
    pub tap: u32,
    /// Index of the router's end of the pair.
    pub inner: u32,
    /// Ethernet address of the host's end.
    pub host: [u8; 6],
    /// Ethernet address of the router's end.
    pub router: [u8; 6],
}

/// The loaded programs of a router's veth ports.
#[derive(Debug)]
pub struct PortPrograms {
    loaded: Loaded,
    ports: Vec<PortDevices>,
}

/// Attached programs. Dropping it detaches them.
#[derive(Debug)]
pub struct PortLinks(#[expect(dead_code, reason = "held, not read")] Vec<OwnedFd>);

impl PortPrograms {
    /// Loads the programs for these ports. Without a `cache` all packets are sent to the TAPs.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    pub fn load(ports: Vec<PortDevices>, cache: Option<CacheParams>) -> Result<Self, BpfError> {
        let indices = ports.iter().flat_map(|port| [port.tap, port.inner]);
        let devices = indices.max().map_or(1, |highest| highest as usize + 1);
        let sizes = Sizes { directions: ports.len().max(1), devices };
        let loaded = Loaded::load(&["forward", "deliver"], sizes, cache)?;
        loaded.set([0; 4], cache)?;
        for (number, port) in (0..).zip(&ports) {
            for device in [port.tap, port.inner] {
                loaded.update("ports", device, &value(number, port))?;
            }
        }
        Ok(Self { loaded, ports })
    }

    /// Attaches all programs, those of the TAPs first. Call it in the namespace of the devices.
    ///
    /// # Errors
    /// If the kernel has no tcx, or a device is gone.
    pub fn attach(&self) -> Result<PortLinks, BpfError> {
        let taps = self.ports.iter().map(|port| self.loaded.link("deliver", port.tap, Hook::Ingress));
        let pairs = self.ports.iter().map(|port| self.loaded.link("forward", port.inner, Hook::Ingress));
        taps.chain(pairs).collect::<Result<_, _>>().map(PortLinks)
    }

    /// The flow cache, if the programs have one.
    pub const fn flows(&self) -> Option<&FlowTable> {
        self.loaded.flows()
    }

    /// What came from each host, and what was written to it.
    pub fn counters(&self) -> Vec<HookCounters> {
        (0..).zip(&self.ports).map(|(number, _)| self.loaded.counters(number)).collect()
    }
}

/// As `struct port` of `wire.c`.
fn value(number: u32, port: &PortDevices) -> Vec<u8> {
    let words = [number, port.tap, port.inner].into_iter().flat_map(u32::to_ne_bytes);
    words.chain(port.host).chain(port.router).collect()
}
