//! The programs of attachments and of veth ports (`wire.c`, compiled to `wire.o`), and their loader.
//!
//! A program stays attached as long as the descriptor of its link is open. Nothing is pinned, so nothing remains after the
//! process ends, however it ends.

pub(crate) mod flows;
mod loaded;
mod memory;
mod object;
mod ports;
mod sys;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::bpf::flows::{FlowTable, WAYS};
use crate::bpf::loaded::{Loaded, Sizes};
use crate::bpf::sys::Hook;
pub use ports::{PortDevices, PortPrograms};

/// Why the programs cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BpfError {
    /// The kernel refused because privileges are missing.
    #[error(
        "this process may not load programs into the kernel ({0}): it needs CAP_BPF and CAP_NET_ADMIN in the host's own user \
         namespace; run faultwire as root"
    )]
    NotPermitted(Errno),
    /// A map could not be made.
    #[error("the kernel refuses the table \"{name}\" of its programs: {errno}")]
    Map {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// A map could not be mapped into memory.
    #[error("the kernel does not let faultwire see the table \"{name}\" of its programs: {errno}")]
    Memory {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refuses the program \"{name}\": {errno}{}", verdict(*errno, log))]
    Program {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
        /// The end of the verifier's log.
        log: String,
    },
    /// The kernel has no tcx.
    #[error("this kernel cannot attach programs to a device by tcx: it needs Linux 6.6 or newer")]
    NoTcx,
    /// A program could not be attached.
    #[error("cannot attach the program \"{name}\": {errno}")]
    Attach {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// The programs are for another byte order.
    #[error("attachments work on little-endian machines only")]
    ByteOrder,
}

/// What the verifier said, if it is what refused the program: not if memory or descriptors are scarce.
fn verdict(errno: Errno, log: &str) -> String {
    if [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].contains(&errno) {
        return String::new();
    }
    format!("; its verifier says: {log}")
}

/// The indices of the devices between which an attachment's programs send packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Devices {
    /// The device of the attachment.
    pub device: u32,
    /// The TAP for packets that the device sends.
    pub outer: u32,
    /// The TAP for packets that the device receives.
    pub inner: u32,
}

/// The loaded programs of an attachment with their tables, not attached yet.
#[derive(Debug)]
pub struct Programs {
    loaded: Loaded,
    devices: Devices,
}

/// Parameters of the flow cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheParams {
    /// Flows that must fit, counting each direction of a connection; the table has at least twice as many entries.
    pub flows: usize,
    /// Whether TCP data that is sent again is detoured to faultwire even if nothing happens to it; then the sequence
    /// number that each flow has reached is known. The table then needs an eighth more memory.
    pub follows: bool,
    /// A random hash key, so that nobody can choose packets that collide in the table.
    pub seed: u64,
}

impl CacheParams {
    /// Maximum number of sets of a table: 512 MB.
    const MOST_SETS: usize = 1 << 20;

    /// Parameters with a random seed.
    pub fn new(flows: usize, follows: bool) -> Self {
        Self { flows, follows, seed: RandomState::new().build_hasher().finish() }
    }

    /// Sets of the table, a power of two.
    fn sets(self) -> usize {
        (self.flows * 2).div_ceil(WAYS).next_power_of_two().min(Self::MOST_SETS)
    }
}

/// Attached programs. Dropping it detaches them.
#[derive(Debug)]
pub struct Links {
    /// The hooks of the device, which send packets to the TAPs.
    hooks: Vec<OwnedFd>,
    /// The hooks of the TAPs, which forward packets.
    _taps: Vec<OwnedFd>,
}

/// The counters of the hooks of one direction, in packets or trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HookCounters {
    /// Sent to faultwire.
    pub detoured: u64,
    /// Came back from it.
    pub returned: u64,
    /// Passed without faults, because another program had marked them.
    pub foreign: u64,
    /// Passed in the kernel, by the flow cache.
    pub passed: u64,
}

impl Programs {
    const NAMES: [&str; 4] = ["leave", "arrive", "left", "arrived"];

    /// Loads the programs for these devices. Frames that come back are recognised by `mark`, which must be unique among the
    /// attachments of the namespace. Without a `cache` all packets are sent to the TAPs.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    pub fn load(devices: Devices, mark: u16, cache: Option<CacheParams>) -> Result<Self, BpfError> {
        const MARKS: u32 = 0xfa17_0000;
        let loaded = Loaded::load(&Self::NAMES, Sizes { directions: 2, devices: 1 }, cache)?;
        let Devices { device, outer, inner } = devices;
        loaded.set([device, outer, inner, MARKS | u32::from(mark)], cache)?;
        Ok(Self { loaded, devices })
    }

    /// The flow cache, if the programs have one.
    pub const fn flows(&self) -> Option<&FlowTable> {
        self.loaded.flows()
    }

    /// Attaches all programs, those of the TAPs first. Call it in the namespace of the devices.
    ///
    /// # Errors
    /// If the kernel has no tcx, or a device is gone.
    pub fn attach(&self) -> Result<Links, BpfError> {
        let Devices { device, outer, inner } = self.devices;
        let link = |name, device, hook| self.loaded.link(name, device, hook);
        let taps = vec![link("left", outer, Hook::Ingress)?, link("arrived", inner, Hook::Ingress)?];
        let hooks = vec![link("arrive", device, Hook::Ingress)?, link("leave", device, Hook::Egress)?];
        Ok(Links { hooks, _taps: taps })
    }

    /// The counters of the hooks: up (packets that the device sends), down (packets that it receives).
    pub fn counters(&self) -> [HookCounters; 2] {
        [0, 1].map(|direction| self.loaded.counters(direction))
    }
}

impl Links {
    /// Detaches the hooks of the device: packets bypass the TAPs from now on. Packets in the TAPs are still forwarded.
    pub fn release_device(&mut self) {
        self.hooks.clear();
    }

    /// Whether the device still exists.
    pub fn is_attached(&self) -> bool {
        self.hooks.first().is_some_and(|link| sys::link_device(link.as_fd()).is_ok_and(|index| index != 0))
    }
}

/// Checks that the programs can be loaded and that the kernel has tcx. For this it tries to attach a program to a device that
/// does not exist: a kernel with tcx returns another error than one without.
///
/// # Errors
/// If the kernel or the lack of privilege forbids it.
pub fn probe() -> Result<(), BpfError> {
    const NO_DEVICE: u32 = i32::MAX as u32;
    let nowhere = Devices { device: NO_DEVICE, outer: NO_DEVICE, inner: NO_DEVICE };
    let programs = Programs::load(nowhere, 0, None)?;
    match programs.loaded.link("left", NO_DEVICE, Hook::Ingress) {
        // tcx looks up the device first.
        Err(BpfError::Attach { errno: Errno::ENODEV, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until no CPU runs a program that was detached before.
pub(crate) fn wait_for_programs() {
    sys::wait_for_programs();
}
