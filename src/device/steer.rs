//! Both directions of a flow on the same queue of every port, so that one worker owns all of the flow.
//!
//! Left alone, the kernel puts a flow on the queue from which it last saw the reverse direction written, and guesses
//! until then. Instead a small eBPF program (`TUNSETSTEERINGEBPF`) hashes each packet symmetrically, and
//! [`hash`] computes the same, bit for bit:
//!
//! - sums of the source's and destination's address words, which do not tell the two ends apart, folded together;
//! - the sum of the ports too, for TCP, UDP and SCTP that is not a fragment. IPv6 extension headers are not walked: a
//!   packet that has some counts by addresses only, as do fragments, the first one too, or a datagram's parts would
//!   part ways;
//! - mixed by the finaliser of `MurmurHash3`, and cut to 16 bits, since the kernel keeps no more before it takes the
//!   remainder by the number of queues.
//!
//! What is neither IPv4 nor IPv6, or too short for the fields read, hashes to 0.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper in libc or nix")]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use crate::device::tun::Queue;

/// A bijective multiplier with well spread bits: 2^32 divided by the golden ratio.
const FOLD: u32 = 0x9e37_79b9;
/// The finaliser of `MurmurHash3`, 32 bits.
const FINAL: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];
/// The protocols whose ports are the first two words: TCP, UDP, SCTP.
const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// More-fragments flag and offset of IPv4 (RFC 791 section 3.1).
const FRAGMENT: u16 = 0x3fff;

/// The steering program cannot be used; the caller is left with one queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// bpf(2) refused the program for lack of privilege.
    #[error(
        "this user may not load the program that keeps both directions of a flow on one worker ({0}): it needs CAP_BPF \
         in the host's own user namespace. One worker will do all the work"
    )]
    NotPermitted(io::Error),
    /// bpf(2) refused the program.
    #[error("the kernel refuses the program that keeps both directions of a flow on one worker: {0}")]
    Load(io::Error),
    /// The device takes no program.
    #[error("the device takes no steering program: {0} (needs Linux 4.16)")]
    Attach(io::Error),
}

/// The loaded program. Devices that it is attached to keep it when this is dropped.
#[derive(Debug)]
pub struct Steering {
    program: OwnedFd,
}

impl Steering {
    /// Loads the program into the kernel, once for all devices.
    ///
    /// # Errors
    /// If the kernel or the lack of privilege forbids it.
    pub fn load() -> Result<Self, SteerError> {
        let loaded = load_socket_filter(&program::assemble()).map_err(|errno| match errno {
            Errno::EPERM | Errno::EACCES => SteerError::NotPermitted(errno.into()),
            _ => SteerError::Load(errno.into()),
        });
        Ok(Self { program: loaded? })
    }

    /// Lets the program choose the queue of each packet of the device that `queue` belongs to.
    ///
    /// # Errors
    /// If the device is gone or the kernel has no steering.
    pub fn attach(&self, queue: &Queue) -> Result<(), SteerError> {
        queue.steer_by(self.program.as_fd()).map_err(SteerError::Attach)
    }
}

/// The queue, of `queues`, on which a steered device delivers an IP packet.
///
/// # Panics
/// If there are no queues.
pub fn queue_of(packet: &[u8], queues: usize) -> usize {
    hash(packet) as usize % queues
}

/// What the program computes for an IP packet: 0 to 65535, the same for both directions of a flow.
pub fn hash(packet: &[u8]) -> u32 {
    let folded = match packet.first().map(|byte| byte >> 4) {
        Some(4) => fold_v4(packet),
        Some(6) => fold_v6(packet),
        _ => None,
    };
    folded.map_or(0, finish)
}

fn fold_v4(packet: &[u8]) -> Option<u32> {
    let addresses = fold(0, word(packet, 12)?.wrapping_add(word(packet, 16)?));
    let header = usize::from(packet[0] & 0xf) * 4;
    if header < 20 || half(packet, 6)? & FRAGMENT != 0 {
        return Some(addresses);
    }
    fold_ports(addresses, packet, *packet.get(9)?, header)
}

fn fold_v6(packet: &[u8]) -> Option<u32> {
    let mut addresses = 0;
    for at in (0..16).step_by(4) {
        addresses = fold(addresses, word(packet, 8 + at)?.wrapping_add(word(packet, 24 + at)?));
    }
    fold_ports(addresses, packet, *packet.get(6)?, 40)
}

fn fold_ports(addresses: u32, packet: &[u8], protocol: u8, header: usize) -> Option<u32> {
    if !WITH_PORTS.contains(&protocol) {
        return Some(addresses);
    }
    let ports = u32::from(half(packet, header)?) + u32::from(half(packet, header + 2)?);
    Some(fold(addresses, ports))
}

fn fold(state: u32, value: u32) -> u32 {
    let state = (state ^ value).wrapping_mul(FOLD);
    state ^ (state >> 15)
}

fn finish(state: u32) -> u32 {
    let state = (state ^ (state >> 16)).wrapping_mul(FINAL[0]);
    let state = (state ^ (state >> 13)).wrapping_mul(FINAL[1]);
    (state ^ (state >> 16)) & 0xffff
}

fn word(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

fn half(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// The same computation as eBPF (RFC 9669).
mod program {
    use super::{FINAL, FOLD, FRAGMENT, WITH_PORTS};

    /// One instruction of 8 bytes: opcode, registers, jump offset, immediate.
    #[derive(Clone, Copy, Debug)]
    #[repr(C)]
    pub(super) struct Instruction {
        opcode: u8,
        registers: u8,
        offset: i16,
        immediate: i32,
    }

    /// Result of loads, and of the program.
    const R0: u8 = 0;
    /// Holds the packet on entry.
    const R1: u8 = 1;
    /// Where loads expect the packet.
    const R6: u8 = 6;
    /// The state that is folded.
    const STATE: u8 = 7;
    /// Length of the IP header.
    const HEADER: u8 = 8;
    /// Scratch; loads leave registers 6 to 9 alone.
    const SCRATCH: u8 = 9;

    // 32-bit arithmetic: BPF_ALU | operation | BPF_K or BPF_X.
    const ADD: u8 = 0x00;
    const MUL: u8 = 0x20;
    const AND: u8 = 0x50;
    const LSH: u8 = 0x60;
    const RSH: u8 = 0x70;
    const XOR: u8 = 0xa0;
    const MOV: u8 = 0xb0;
    // Jumps: BPF_JMP | condition | BPF_K.
    const ALWAYS: u8 = 0x00;
    const EQUAL: u8 = 0x10;
    const NOT_EQUAL: u8 = 0x50;
    const LESS: u8 = 0xa0;
    // Loads from the packet: BPF_LD | BPF_ABS or BPF_IND | size. They end the program with 0 past its end.
    const WORD: u8 = 0x00;
    const HALF: u8 = 0x08;
    const BYTE: u8 = 0x10;

    /// Instructions so far, and jumps to be aimed at a label not yet placed.
    #[derive(Default)]
    struct Assembler {
        code: Vec<Instruction>,
    }

    /// A jump whose target is still open.
    #[must_use]
    #[derive(Clone, Copy)]
    struct Jump(usize);

    /// The program: version, addresses, then ports where there are some, then the finaliser.
    pub(super) fn assemble() -> Vec<Instruction> {
        let mut asm = Assembler::default();
        asm.push(0xbf, R6, R1, 0); // 64-bit move: it is a pointer
        asm.load(BYTE, 0);
        asm.constant(RSH, R0, 4);
        let v4 = asm.jump(EQUAL, R0, 4);
        let v6 = asm.jump(EQUAL, R0, 6);
        asm.constant(MOV, R0, 0);
        asm.exit();

        asm.land(v4);
        let (short_header, fragment) = asm.version_4();
        let ports_v4 = asm.jump(ALWAYS, R0, 0);

        asm.land(v6);
        asm.version_6();

        asm.land(ports_v4);
        let no_ports = asm.ports();
        for jump in [short_header, fragment, no_ports] {
            asm.land(jump);
        }
        asm.finish();
        asm.code
    }

    impl Assembler {
        /// Leaves the protocol in R0. Jumps away, done, if there are no ports to be found.
        fn version_4(&mut self) -> (Jump, Jump) {
            self.constant(MOV, STATE, 0);
            self.fold_sum(12, 16);
            self.load(BYTE, 0);
            self.constant(AND, R0, 0xf);
            self.constant(LSH, R0, 2);
            self.register(MOV, HEADER, R0);
            let short_header = self.jump(LESS, R0, 20);
            self.load(HALF, 6);
            self.constant(AND, R0, u32::from(FRAGMENT));
            let fragment = self.jump(NOT_EQUAL, R0, 0);
            self.load(BYTE, 9);
            (short_header, fragment)
        }

        /// Leaves the next header in R0.
        fn version_6(&mut self) {
            self.constant(MOV, STATE, 0);
            for at in (0..16).step_by(4) {
                self.fold_sum(8 + at, 24 + at);
            }
            self.constant(MOV, HEADER, 40);
            self.load(BYTE, 6);
        }

        /// Folds the ports in if the protocol in R0 has some; else jumps away.
        fn ports(&mut self) -> Jump {
            let with = WITH_PORTS.map(|protocol| self.jump(EQUAL, R0, u32::from(protocol)));
            let without = self.jump(ALWAYS, R0, 0);
            for jump in with {
                self.land(jump);
            }
            self.load_after_header(HALF, 0);
            self.register(MOV, SCRATCH, R0);
            self.load_after_header(HALF, 2);
            self.register(ADD, SCRATCH, R0);
            self.fold_scratch();
            without
        }

        fn finish(&mut self) {
            for (shift, multiplier) in [(16, Some(FINAL[0])), (13, Some(FINAL[1])), (16, None)] {
                self.xor_shifted(shift);
                if let Some(multiplier) = multiplier {
                    self.constant(MUL, STATE, multiplier);
                }
            }
            self.register(MOV, R0, STATE);
            self.constant(AND, R0, 0xffff);
            self.exit();
        }

        /// Folds the sum of two words of the packet into the state.
        fn fold_sum(&mut self, a: u32, b: u32) {
            self.load(WORD, a);
            self.register(MOV, SCRATCH, R0);
            self.load(WORD, b);
            self.register(ADD, SCRATCH, R0);
            self.fold_scratch();
        }

        fn fold_scratch(&mut self) {
            self.register(XOR, STATE, SCRATCH);
            self.constant(MUL, STATE, FOLD);
            self.xor_shifted(15);
        }

        fn xor_shifted(&mut self, shift: u32) {
            self.register(MOV, SCRATCH, STATE);
            self.constant(RSH, SCRATCH, shift);
            self.register(XOR, STATE, SCRATCH);
        }

        fn load(&mut self, size: u8, at: u32) {
            self.push(0x20 | size, 0, 0, at);
        }

        fn load_after_header(&mut self, size: u8, at: u32) {
            self.push(0x40 | size, 0, HEADER, at);
        }

        fn constant(&mut self, operation: u8, to: u8, value: u32) {
            self.push(0x04 | operation, to, 0, value);
        }

        fn register(&mut self, operation: u8, to: u8, from: u8) {
            self.push(0x0c | operation, to, from, 0);
        }

        fn jump(&mut self, condition: u8, register: u8, value: u32) -> Jump {
            self.push(0x05 | condition, register, 0, value);
            Jump(self.code.len() - 1)
        }

        /// Aims a jump at the next instruction.
        fn land(&mut self, jump: Jump) {
            let Jump(from) = jump;
            self.code[from].offset = (self.code.len() - from - 1) as i16;
        }

        fn exit(&mut self) {
            self.push(0x95, 0, 0, 0);
        }

        fn push(&mut self, opcode: u8, to: u8, from: u8, immediate: u32) {
            // Bit fields of C: which nibble comes first depends on the byte order.
            let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
            self.code.push(Instruction { opcode, registers, offset: 0, immediate: immediate as i32 });
        }
    }
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads here.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
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

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

fn load_socket_filter(code: &[program::Instruction]) -> nix::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_SOCKET_FILTER,
        instruction_count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"faultwire_steer\0",
    };
    // SAFETY: `attributes`, the instructions and the license live through the call; the kernel only reads them, within
    // the sizes given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    let descriptor = Errno::result(result)?;
    // SAFETY: a successful BPF_PROG_LOAD returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp_v4(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(from.0, to.0, 64).udp(from.1, to.1).write(&mut packet, b"payload").unwrap();
        packet
    }

    fn tcp_v6(from: ([u8; 16], u16), to: ([u8; 16], u16)) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6(from.0, to.0, 64)
            .tcp(from.1, to.1, 1, 1000)
            .write(&mut packet, b"payload")
            .unwrap();
        packet
    }

    #[test]
    fn both_directions_hash_alike() {
        let (a, b) = ([10, 1, 2, 3], [192, 168, 77, 8]);
        let (c, d) = ([0x20; 16], [0xfd; 16]);
        for port in 1024..2048 {
            assert_eq!(hash(&udp_v4((a, port), (b, 80))), hash(&udp_v4((b, 80), (a, port))));
            assert_eq!(hash(&tcp_v6((c, port), (d, 443))), hash(&tcp_v6((d, 443), (c, port))));
        }
    }

    /// 1024 flows on 4 queues: each count is binomial with mean 256 and a deviation of 13.9; 5 of those are 70.
    #[test]
    fn neighbouring_ports_and_addresses_spread_over_the_queues() {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let by_port: Vec<_> = (0..1024).map(|i| udp_v4((a, 40_000 + i), (b, 80))).collect();
        let by_address: Vec<_> =
            (0..1024_u16).map(|i| udp_v4(([10, 0, (i >> 8) as u8, i as u8], 5000), (b, 5000))).collect();
        for packets in [by_port, by_address] {
            let mut counts = [0_u32; 4];
            for packet in packets {
                counts[queue_of(&packet, 4)] += 1;
            }
            assert!(counts.iter().all(|count| (186..=326).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_hash_alike_whatever_their_ports_seem() {
        let mut first = udp_v4(([10, 0, 0, 1], 1111), ([10, 0, 0, 2], 2222));
        first[6] = 0x20; // more fragments
        let mut second = udp_v4(([10, 0, 0, 1], 3333), ([10, 0, 0, 2], 4444));
        second[7] = 0xb9; // offset 1480
        assert_eq!(hash(&first), hash(&second));
        let whole = udp_v4(([10, 0, 0, 1], 3333), ([10, 0, 0, 2], 4444));
        assert_ne!(hash(&second), hash(&whole), "the ports of a whole datagram count");
    }

    #[test]
    fn what_is_no_ip_or_too_short_hashes_to_zero() {
        let whole = udp_v4(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2));
        assert_ne!(hash(&whole), 0);
        for short in [0, 1, 19, 23] {
            assert_eq!(hash(&whole[..short]), 0, "{short} bytes");
        }
        assert_eq!(hash(&[0x50; 60]), 0);
    }
}
