//! The programs of an attachment (`wire.c`, compiled to `wire.o`), and their loader.
//!
//! A program stays attached as long as the descriptor of its link is open. Nothing is pinned, so nothing remains after the
//! process ends, however it ends.

pub(crate) mod flows;
mod memory;
mod object;
mod sys;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;

use crate::bpf::flows::{FlowTable, RETURNED_WORDS, WAYS, WORDS};
use crate::bpf::memory::Memory;
use crate::bpf::object::Object;
use crate::bpf::sys::{Hook, MapShape};

/// The compiled programs. `.ci/bpf` compiles them again and compares.
const WIRE: &[u8] = include_bytes!("wire.o");

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
    #[error("the kernel refuses the table \"{name}\" of the attachment's programs: {errno}")]
    Map {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// A map could not be mapped into memory.
    #[error(
        "the kernel does not let faultwire see the table \"{name}\" of the attachment's programs: {errno}"
    )]
    Memory {
        /// Which.
        name: String,
        /// Why.
        errno: Errno,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refuses the program \"{name}\": {errno}; its verifier says: {log}")]
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

/// The loaded programs with their tables, not attached yet.
#[derive(Debug)]
pub struct Programs {
    loaded: Vec<(String, OwnedFd)>,
    maps: Vec<(String, OwnedFd)>,
    devices: Devices,
    flows: Option<FlowTable>,
}

/// Parameters of the flow cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSize {
    /// Flows that must fit, counting each direction of a connection; the table has at least twice as many entries.
    pub flows: usize,
    /// A random key, so that nobody can choose packets that collide in the table.
    pub seed: u64,
}

impl CacheSize {
    /// Maximum number of sets of a table: 512 MB.
    const MOST_SETS: usize = 1 << 20;

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
    /// Loads the programs for these devices. Frames that come back are recognised by `mark`, which must be unique among the
    /// attachments of the namespace. Without a `cache` all packets are sent to the TAPs.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    ///
    /// # Panics
    /// Never: the object is a part of the binary.
    pub fn load(devices: Devices, mark: u16, cache: Option<CacheSize>) -> Result<Self, BpfError> {
        if cfg!(target_endian = "big") {
            return Err(BpfError::ByteOrder);
        }
        let object = Object::read(WIRE).expect("the object of the tree is tested");
        let mut maps = Vec::new();
        for map in &object.maps {
            let [kind, key_size, value_size, mut max_entries, flags] = map.shape;
            if let ("flows", Some(cache)) = (map.name.as_str(), cache) {
                max_entries = cache.sets() as u32;
            }
            let shape = MapShape { kind, key_size, value_size, max_entries, flags };
            let made = sys::map_create(&map.name, shape).map_err(|errno| match errno {
                Errno::EPERM => BpfError::NotPermitted(errno),
                _ => BpfError::Map { name: map.name.clone(), errno },
            });
            maps.push((map.name.clone(), made?));
        }
        let descriptors: Vec<i32> = maps.iter().map(|(_, map)| map.as_raw_fd()).collect();
        let mut loaded = Vec::new();
        for program in &object.programs {
            let result = sys::program_load(&program.name, &program.linked(&descriptors));
            let result = result.map_err(|(errno, log)| match errno {
                Errno::EPERM => BpfError::NotPermitted(errno),
                _ => BpfError::Program { name: program.name.clone(), errno, log },
            });
            loaded.push((program.name.clone(), result?));
        }
        let mut programs = Self { loaded, maps, devices, flows: None };
        programs.flows = cache.map(|cache| programs.flow_table(cache)).transpose()?;
        programs.set(mark, cache)?;
        Ok(programs)
    }

    fn flow_table(&self, cache: CacheSize) -> Result<FlowTable, BpfError> {
        let memory = |name: &str, words| {
            let map = self.map(name).as_fd();
            Memory::of(map, words).map_err(|errno| BpfError::Memory { name: name.to_owned(), errno })
        };
        let flows = memory("flows", cache.sets() * WAYS * WORDS)?;
        let returned = memory("returned", 2 * RETURNED_WORDS)?;
        Ok(FlowTable::new(flows, returned, cache.sets(), cache.seed))
    }

    /// The flow cache, if the programs have one.
    pub const fn flows(&self) -> Option<&FlowTable> {
        self.flows.as_ref()
    }

    /// Fills in the settings.
    fn set(&self, mark: u16, cache: Option<CacheSize>) -> Result<(), BpfError> {
        const MARKS: u32 = 0xfa17_0000;
        let Devices { device, outer, inner } = self.devices;
        let (sets, seed) = cache.map_or((0, 0), |cache| (cache.sets() as u32, cache.seed));
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let words = [device, outer, inner, MARKS | u32::from(mark), sets, 0, low, high];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let map = |errno| BpfError::Map { name: "settings".to_owned(), errno };
        sys::map_update(self.map("settings").as_fd(), 0, &bytes).map_err(map)
    }

    /// Attaches all programs, those of the TAPs first. Call it in the namespace of the devices.
    ///
    /// # Errors
    /// If the kernel has no tcx, or a device is gone.
    pub fn attach(&self) -> Result<Links, BpfError> {
        let Devices { device, outer, inner } = self.devices;
        let taps =
            vec![self.link("left", outer, Hook::Ingress)?, self.link("arrived", inner, Hook::Ingress)?];
        let hooks =
            vec![self.link("arrive", device, Hook::Ingress)?, self.link("leave", device, Hook::Egress)?];
        Ok(Links { hooks, _taps: taps })
    }

    fn link(&self, name: &str, device: u32, hook: Hook) -> Result<OwnedFd, BpfError> {
        let program = self.loaded.iter().find(|(known, _)| known == name).expect("one of the object's");
        sys::link_create(program.1.as_fd(), device, hook).map_err(|errno| match errno {
            Errno::EPERM => BpfError::NotPermitted(errno),
            Errno::EINVAL | Errno::EOPNOTSUPP => BpfError::NoTcx,
            _ => BpfError::Attach { name: name.to_owned(), errno },
        })
    }

    fn map(&self, name: &str) -> &OwnedFd {
        let found = self.maps.iter().find(|(known, _)| known == name);
        &found.expect("one of the object's").1
    }

    /// The counters of the hooks: up (packets that the device sends), down (packets that it receives).
    pub fn counters(&self) -> [HookCounters; 2] {
        const FIELDS: usize = 4;
        let map = self.map("counters");
        [0, 1].map(|direction| {
            let mut values = vec![0_u64; FIELDS * possible_cpus()];
            // The map and the key exist.
            let _ = sys::map_lookup(map.as_fd(), direction, &mut values);
            let sum = |field| values.chunks_exact(FIELDS).map(|cpu| cpu[field]).sum();
            HookCounters { detoured: sum(0), returned: sum(1), foreign: sum(2), passed: sum(3) }
        })
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
    match programs.link("left", NO_DEVICE, Hook::Ingress) {
        // tcx looks up the device first.
        Err(BpfError::Attach { errno: Errno::ENODEV, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until no CPU runs a program that was detached before.
pub(crate) fn wait_for_programs() {
    sys::wait_for_programs();
}

/// CPUs that the kernel keeps values for.
fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    highest_cpu(&text).map_or(1, |highest| highest + 1)
}

/// The last number of a list such as `0-3,8-11`.
fn highest_cpu(list: &str) -> Option<usize> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cpu_ends_the_list() {
        assert_eq!(highest_cpu("0-3\n"), Some(3));
        assert_eq!(highest_cpu("0\n"), Some(0));
        assert_eq!(highest_cpu("0-3,8-11\n"), Some(11));
        assert_eq!(highest_cpu(""), None);
    }
}
