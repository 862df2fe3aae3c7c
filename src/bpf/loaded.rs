//! The loader: puts some programs of the object, and all its tables, into the kernel.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::bpf::flows::{FlowTable, RETURNED_WORDS, WAYS, WORDS};
use crate::bpf::memory::Memory;
use crate::bpf::object::Object;
use crate::bpf::sys::{self, Hook, MapShape};
use crate::bpf::{BpfError, CacheParams, HookCounters};

/// The compiled programs. `.ci/bpf` compiles them again and compares.
pub(super) const WIRE: &[u8] = include_bytes!("wire.o");

/// Sizes of the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Number of directions: two of an attachment, or one for each veth port.
    pub(super) directions: usize,
    /// One more than the highest index of a device of a veth port.
    pub(super) devices: usize,
}

/// Loaded programs, not attached yet.
#[derive(Debug)]
pub(super) struct Loaded {
    programs: Vec<(String, OwnedFd)>,
    maps: Vec<(String, OwnedFd)>,
    flows: Option<FlowTable>,
}

impl Loaded {
    /// Loads the programs of these names.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    ///
    /// # Panics
    /// Never: the object is a part of the binary.
    pub(super) fn load(names: &[&str], sizes: Sizes, cache: Option<CacheParams>) -> Result<Self, BpfError> {
        if cfg!(target_endian = "big") {
            return Err(BpfError::ByteOrder);
        }
        let object = Object::read(WIRE).expect("the object of the tree is tested");
        let mut maps = Vec::new();
        for map in &object.maps {
            let [kind, key_size, value_size, mut max_entries, flags] = map.shape;
            match (map.name.as_str(), cache) {
                ("flows", Some(cache)) => max_entries = cache.sets() as u32,
                ("ends", Some(cache)) if cache.follows => max_entries = cache.sets() as u32,
                ("counters" | "returned", _) => max_entries = sizes.directions as u32,
                ("ports", _) => max_entries = sizes.devices as u32,
                _ => {}
            }
            let shape = MapShape { kind, key_size, value_size, max_entries, flags };
            let made = sys::map_create(&map.name, shape).map_err(|errno| match errno {
                Errno::EPERM => BpfError::NotPermitted(errno),
                _ => BpfError::Map { name: map.name.clone(), errno },
            });
            maps.push((map.name.clone(), made?));
        }
        let descriptors: Vec<i32> = maps.iter().map(|(_, map)| map.as_raw_fd()).collect();
        let mut programs = Vec::new();
        for program in object.programs.iter().filter(|program| names.contains(&program.name.as_str())) {
            let result = sys::program_load(&program.name, &program.linked(&descriptors));
            let result = result.map_err(|(errno, log)| match errno {
                Errno::EPERM => BpfError::NotPermitted(errno),
                _ => BpfError::Program { name: program.name.clone(), errno, log },
            });
            programs.push((program.name.clone(), result?));
        }
        let mut loaded = Self { programs, maps, flows: None };
        loaded.flows = cache.map(|cache| loaded.flow_table(sizes, cache)).transpose()?;
        Ok(loaded)
    }

    fn flow_table(&self, sizes: Sizes, cache: CacheParams) -> Result<FlowTable, BpfError> {
        let memory = |name: &str, words| {
            let map = self.map(name).as_fd();
            Memory::of(map, words).map_err(|errno| BpfError::Memory { name: name.to_owned(), errno })
        };
        let flows = memory("flows", cache.sets() * WAYS * WORDS)?;
        let returned = memory("returned", sizes.directions * RETURNED_WORDS)?;
        let ends = cache.follows.then(|| memory("ends", cache.sets() * WAYS)).transpose()?;
        Ok(FlowTable::new(flows, returned, ends, cache.sets(), cache.seed))
    }

    /// The flow cache, if the programs have one.
    pub(super) const fn flows(&self) -> Option<&FlowTable> {
        self.flows.as_ref()
    }

    /// Fills in the settings: the four words of an attachment, and the cache.
    pub(super) fn set(&self, attachment: [u32; 4], cache: Option<CacheParams>) -> Result<(), BpfError> {
        let (sets, follows, seed) =
            cache.map_or((0, false, 0), |cache| (cache.sets() as u32, cache.follows, cache.seed));
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let words = attachment.into_iter().chain([sets, follows.into(), low, high]);
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        self.update("settings", 0, &bytes)
    }

    /// Sets the value of `key` in a table.
    pub(super) fn update(&self, map: &str, key: u32, value: &[u8]) -> Result<(), BpfError> {
        let error = |errno| BpfError::Map { name: map.to_owned(), errno };
        sys::map_update(self.map(map).as_fd(), key, value).map_err(error)
    }

    /// Attaches a program to a device of this thread's namespace.
    pub(super) fn link(&self, name: &str, device: u32, hook: Hook) -> Result<OwnedFd, BpfError> {
        sys::link_create(self.program(name), device, hook).map_err(|errno| match errno {
            Errno::EPERM => BpfError::NotPermitted(errno),
            Errno::EINVAL | Errno::EOPNOTSUPP => BpfError::NoTcx,
            _ => BpfError::Attach { name: name.to_owned(), errno },
        })
    }

    /// A program of those loaded.
    pub(super) fn program(&self, name: &str) -> BorrowedFd<'_> {
        let found = self.programs.iter().find(|(known, _)| known == name);
        found.expect("one of those loaded").1.as_fd()
    }

    fn map(&self, name: &str) -> &OwnedFd {
        let found = self.maps.iter().find(|(known, _)| known == name);
        &found.expect("one of the object's").1
    }

    /// The counters of a direction.
    pub(super) fn counters(&self, direction: u32) -> HookCounters {
        const FIELDS: usize = 4;
        let mut values = vec![0_u64; FIELDS * possible_cpus()];
        // The map and the key exist.
        let _ = sys::map_lookup(self.map("counters").as_fd(), direction, &mut values);
        let sum = |field| values.chunks_exact(FIELDS).map(|cpu| cpu[field]).sum();
        HookCounters { detoured: sum(0), returned: sum(1), foreign: sum(2), passed: sum(3) }
    }
}

/// CPUs that the kernel keeps values for.
fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    // If the number is unknown, there is room for the largest NR_CPUS of any kernel (x86): the kernel writes a value
    // for each CPU.
    highest_cpu(&text).map_or(8_192, |highest| highest + 1)
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
