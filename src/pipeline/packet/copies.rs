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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::pipeline::testing::Spec;

    /// Copies and fragments draw for themselves: no two of them are of one lineage, and none is of the original's.
    #[test]
    fn each_child_has_a_lineage_of_its_own() {
        let packet = Spec { dont_fragment: false, ..Spec::udp(1_000) }.frame().parse().unwrap();
        let mut pool = Pool::new();
        let mut plan = packet.fragments(100).unwrap();
        let fragments: Vec<_> = std::iter::from_fn(|| packet.next_fragment(&mut plan, &mut pool)).collect();
        assert!(fragments.len() > 10);
        let copies: Vec<_> = (0..100).map(|salt| packet.copy(&mut pool, salt)).collect();
        let children: Vec<_> = copies.iter().chain(&fragments).collect();
        let of_children: Vec<_> = (0..100).map(|salt| copies[7].copy(&mut pool, salt)).collect();
        let all: HashSet<u32> =
            children.into_iter().chain(&of_children).chain([&packet]).map(|packet| packet.lineage).collect();
        assert_eq!(all.len(), copies.len() + fragments.len() + of_children.len() + 1);
    }

    #[test]
    fn only_a_buffer_that_fits_goes_with_the_packet() {
        let mut pool = Pool::new();
        let frame = Spec::udp(100).frame();
        // Bytes that the packet does not need, and whether it goes in the buffer that it came in.
        for (more, goes) in [(0, true), (23, true), (24, false), (2_000, false)] {
            let buffer = [vec![0; HEADROOM], frame.bytes.clone(), vec![0; more]].concat();
            let mut packet =
                Packet::parse(buffer.into_boxed_slice(), frame.bytes.len(), Offload::default(), 0).unwrap();
            let taken = packet.take(&mut pool);
            assert_eq!(taken.bytes(), frame.bytes);
            assert_eq!(packet.into_buffer().is_empty(), goes, "{more}");
        }
    }

    #[test]
    fn a_copy_has_waited_like_its_original_and_what_is_derived_has_not() {
        let mut pool = Pool::new();
        let frame = Spec::udp(100).frame();
        let mut packet = frame.parse().unwrap();
        packet.set_phase(2);
        packet.set_phase(5);
        assert_eq!((packet.has_waited(), packet.phase()), (false, 5));
        packet.set_waited();
        let copy = packet.copy(&mut pool, 1);
        let derived =
            packet.derive(&mut pool, frame.bytes.len(), 1, |out| out.copy_from_slice(&frame.bytes)).unwrap();
        let facts = [&packet, &copy, &derived].map(|packet| (packet.has_waited(), packet.phase()));
        assert_eq!(facts, [(true, 5), (true, 5), (false, 5)]);
    }
}
