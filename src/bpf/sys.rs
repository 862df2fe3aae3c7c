//! bpf(2): maps, programs and links. The layouts are those of `union bpf_attr` in `uapi/linux/bpf.h`.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper in libc or nix")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;

/// Programs of tc hooks.
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// Attach before all programs that are already attached.
const BEFORE: u32 = 1 << 3;

/// The parameters of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapShape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// A hook of a device (`BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets that the device receives.
    Ingress = 46,
    /// Packets that the device sends.
    Egress = 47,
}

#[repr(C)]
#[derive(Default)]
struct MapAttributes {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ElementAttributes {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct LinkAttributes {
    program: u32,
    device: u32,
    hook: u32,
    flags: u32,
    relative: u32,
    _pad: u32,
    revision: u64,
}

#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// The part of `struct bpf_link_info` for a tcx link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _pad: u32,
    device: u32,
    hook: u32,
}

/// Calls bpf(2) with attributes of `T`.
fn call<T>(command: libc::c_int, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: `attributes` and everything that it points to live through the call; the kernel reads and writes within the
    // sizes given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    Errno::result(result)
}

fn descriptor(result: libc::c_long) -> OwnedFd {
    // SAFETY: the command that succeeded returns a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(result as libc::c_int) }
}

/// A kernel object's name: at most 15 bytes of it.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

pub(super) fn map_create(name: &str, shape: MapShape) -> nix::Result<OwnedFd> {
    let MapShape { kind, key_size, value_size, max_entries, flags } = shape;
    let name = object_name(name);
    let attributes =
        MapAttributes { kind, key_size, value_size, max_entries, flags, name, ..Default::default() };
    call(MAP_CREATE, &attributes).map(descriptor)
}

/// Reads the value of `key` into `value`, which must be as long as the kernel's (of a per-CPU map: one for each possible
/// CPU, each rounded up to 8 bytes).
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> nix::Result<()> {
    element(MAP_LOOKUP_ELEM, map, key, value.as_mut_ptr() as u64)
}

/// Sets the value of `key`; `value` must be as long as the map's values.
pub(super) fn map_update(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> nix::Result<()> {
    element(MAP_UPDATE_ELEM, map, key, value.as_ptr() as u64)
}

fn element(command: libc::c_int, map: BorrowedFd<'_>, key: u32, value: u64) -> nix::Result<()> {
    let attributes = ElementAttributes {
        map: map.as_raw_fd() as u32,
        _pad: 0,
        key: &raw const key as u64,
        value,
        flags: 0,
    };
    call(command, &attributes).map(drop)
}

/// Loads a tc program. If the kernel refuses it, returns the errno and the end of the verifier's log.
pub(super) fn program_load(name: &str, code: &[u64]) -> Result<OwnedFd, (Errno, String)> {
    match load(name, code, &mut []) {
        Ok(program) => Ok(program),
        // EPERM is not about the program.
        Err(Errno::EPERM) => Err((Errno::EPERM, String::new())),
        Err(_) => {
            let mut log = vec![0; 1 << 20];
            load(name, code, &mut log).map_err(|errno| (errno, last_lines(&log)))
        }
    }
}

fn load(name: &str, code: &[u64], log: &mut [u8]) -> nix::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: PROG_TYPE_SCHED_CLS,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buffer: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: 0,
        name: object_name(name),
    };
    call(PROG_LOAD, &attributes).map(descriptor)
}

/// The last lines of a verifier's log.
fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().rev().filter(|line| !line.is_empty()).take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Attaches `program` to a hook of the device with that index in this thread's network namespace. The program stays
/// attached as long as the descriptor is open.
pub(super) fn link_create(program: BorrowedFd<'_>, device: u32, hook: Hook) -> nix::Result<OwnedFd> {
    let attributes = LinkAttributes {
        program: program.as_raw_fd() as u32,
        device,
        hook: hook as u32,
        flags: BEFORE,
        relative: 0,
        _pad: 0,
        revision: 0,
    };
    call(LINK_CREATE, &attributes).map(descriptor)
}

/// Index of the device that a link is attached to; 0 if that device is gone.
pub(super) fn link_device(link: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut info = LinkInfo::default();
    let attributes = InfoAttributes {
        fd: link.as_raw_fd() as u32,
        length: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info.device)
}

/// Waits until no CPU runs a program that was detached before (`membarrier(2)` waits for an RCU grace period).
pub(super) fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is involved. Where the kernel refuses it, programs end within microseconds anyway.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_end_in_zero() {
        assert_eq!(object_name("leave"), *b"leave\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(object_name("a-name-of-over-15-bytes")[15], 0);
    }

    #[test]
    fn the_end_of_a_log_is_what_matters() {
        assert_eq!(last_lines(b"a\nb\nc\n\nd\n\0\0junk"), "b; c; d");
        assert_eq!(last_lines(b""), "");
    }
}
