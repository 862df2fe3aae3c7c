//! Packets made from a packet: moved into a buffer of their own, copied, derived, fragmented.

use super::{Flags, Offload, Packet};
use crate::pipeline::pool::{Buffer, HEADROOM, Pool};
use crate::pipeline::wire::Malformed;
use crate::pipeline::wire::fragment::{self, CannotFragment, Fragments};

impl Packet {
    /// Moves the packet into a buffer of its own that fits it; where possible, `self` keeps no buffer.
    #[must_use]
    pub fn take(&mut self, pool: &mut Pool) -> Self {
        let tight = self.buffer.len() - HEADROOM - self.length as usize;
        let buffer = if !self.flags.has(Flags::LENT) && self.start as usize == HEADROOM && tight < 24 {
            std::mem::take(&mut self.buffer)
        } else {
            self.fitted(pool)
        };
        self.with_buffer(buffer)
    }

    /// A copy in a buffer of its own. `salt` must be unique among the copies and fragments that are made of this packet:
    /// it makes the copy's own lineage, and so its own draws.
    #[must_use]
    pub fn copy(&self, pool: &mut Pool, salt: u64) -> Self {
        let buffer = self.fitted(pool);
        Self { lineage: descend(self.lineage, salt), ..self.with_buffer(buffer) }
    }

    /// A single packet with the same place in the flow but other bytes: `length` bytes that `write` fills in.
    pub(crate) fn derive(
        &self,
        pool: &mut Pool,
        length: usize,
        salt: u64,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<Self, (Buffer, Malformed)> {
        let mut buffer = pool.fitted(length);
        write(&mut buffer[HEADROOM..HEADROOM + length]);
        let derived = Self::parse(buffer, length, Offload::default(), self.ingress)?;
        let lineage = descend(self.lineage, salt);
        Ok(Self {
            index: self.index,
            flow: self.flow,
            lineage,
            path: self.path,
            seat: self.seat,
            tag: self.tag,
            flags: Flags(self.flags.0 & !(Flags::LENT | Flags::WAITED)),
            ..derived
        })
    }

    fn fitted(&self, pool: &mut Pool) -> Buffer {
        let mut buffer = pool.fitted(self.length as usize);
        buffer[HEADROOM..HEADROOM + self.length as usize].copy_from_slice(self.bytes());
        buffer
    }

    const fn with_buffer(&self, buffer: Buffer) -> Self {
        Self {
            buffer,
            start: HEADROOM as u32,
            length: self.length,
            index: self.index,
            flow: self.flow,
            layout: self.layout,
            lineage: self.lineage,
            arrived: self.arrived,
            transmission: self.transmission,
            ingress: self.ingress,
            path: self.path,
            seat: self.seat,
            tag: self.tag,
            segment: self.segment,
            checksum: self.checksum,
            flags: self.flags.without(Flags::LENT),
        }
    }

    /// The buffer, for the pool.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// How this single packet is cut for a link of `mtu` bytes. Its checksum must be complete.
    ///
    /// # Errors
    /// Why it cannot be cut.
    pub fn fragments(&self, mtu: u32) -> Result<Fragments, CannotFragment> {
        Fragments::plan(self.bytes(), self.layout, mtu as usize)
    }

    /// The next fragment of the plan; `None` after the last.
    pub fn next_fragment(&self, plan: &mut Fragments, pool: &mut Pool) -> Option<Self> {
        let spec = plan.next()?;
        let write = |out: &mut [u8]| {
            fragment::write_fragment(self.bytes(), spec, out);
        };
        // Offsets are unique among the fragments, and far from the small numbers that count copies.
        let salt = FRAGMENT_SALT + spec.offset as u64;
        self.derive(pool, spec.total_len(), salt, write).map_err(|(buffer, _)| pool.give(buffer)).ok()
    }
}

const FRAGMENT_SALT: u64 = 1 << 32;

/// The lineage of a child: never zero, which is that of originals.
const fn descend(lineage: u32, salt: u64) -> u32 {
    let mixed = (lineage as u64 ^ salt.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 | 1
}
