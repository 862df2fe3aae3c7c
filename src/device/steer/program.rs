//! The hash of [`steer`](super) as eBPF (RFC 9669), assembled by hand and loaded by bpf(2).
//!
//! It loads from the packet with the "legacy" instructions, which check the bounds themselves, see through paged
//! buffers and convert to the host's byte order. Offset 0 is the IP header: a TUN device has none below it.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper in libc or nix")]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::{FINAL, FOLD, FRAGMENT, WITH_PORTS};

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

/// Loads the program: the kernel checks it and gives a descriptor.
pub(super) fn load() -> nix::Result<OwnedFd> {
    let code = assemble();
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

/// One instruction of 8 bytes: opcode, registers, jump offset, immediate.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Instruction {
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
fn assemble() -> Vec<Instruction> {
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
