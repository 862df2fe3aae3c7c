//! The programs of veth ports.

use std::os::fd::BorrowedFd;

use crate::bpf::flows::FlowTable;
use crate::bpf::loaded::{Loaded, Sizes};
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

/// The loaded programs of a router's veth ports, with their tables.
#[derive(Debug)]
pub struct PortPrograms {
    loaded: Loaded,
    ports: u32,
}

impl PortPrograms {
    /// What a packet that came from a host goes through.
    pub const FORWARD: &str = "forward";
    /// What a frame that was written to a TAP goes through.
    pub const DELIVER: &str = "deliver";

    /// Loads the programs for so many ports. Without a `cache` all packets are sent to the TAPs.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    pub fn load(ports: u16, cache: Option<CacheParams>) -> Result<Self, BpfError> {
        /// Devices that the kernel itself may put into a new namespace before those of the ports.
        const OTHERS: usize = 256;
        let devices = 2 * usize::from(ports) + OTHERS;
        let sizes = Sizes { directions: usize::from(ports).max(1), devices };
        let loaded = Loaded::load(&[Self::FORWARD, Self::DELIVER], sizes, cache)?;
        loaded.set([0; 4], cache)?;
        Ok(Self { loaded, ports: ports.into() })
    }

    /// Tells the programs the devices of a port.
    ///
    /// # Errors
    /// If there are too many devices.
    pub fn set(&self, number: u16, port: &PortDevices) -> Result<(), BpfError> {
        for device in [port.tap, port.inner] {
            self.loaded.update("ports", device, &value(number.into(), port))?;
        }
        Ok(())
    }

    /// The program of that name, one of [`Self::FORWARD`] and [`Self::DELIVER`].
    pub fn program(&self, name: &str) -> BorrowedFd<'_> {
        self.loaded.program(name)
    }

    /// The flow cache, if the programs have one.
    pub const fn flows(&self) -> Option<&FlowTable> {
        self.loaded.flows()
    }

    /// What came from each host, and what was written to it.
    pub fn counters(&self) -> Vec<HookCounters> {
        (0..self.ports).map(|number| self.loaded.counters(number)).collect()
    }
}

/// As `struct port` of `wire.c`.
fn value(number: u32, port: &PortDevices) -> Vec<u8> {
    let words = [number, port.tap, port.inner].into_iter().flat_map(u32::to_ne_bytes);
    words.chain(port.host).chain(port.router).collect()
}
