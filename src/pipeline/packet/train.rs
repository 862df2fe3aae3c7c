//! Cutting a train into a front part and the rest.

use super::checksum::set_v4_word;
use super::{Checksum, Flags, Packet};
use crate::pipeline::wire::Layout;
use crate::pipeline::wire::checksum;
use crate::pipeline::wire::tcp::flag;

/// Longest headers (IP and transport) of a train: longer ones do not come from any kernel.
pub(super) const MAX_TRAIN_HEADER: usize = 256;

/// The rest of a train while its front part is being handled.
#[derive(Debug)]
pub struct Rest {
    header: [u8; MAX_TRAIN_HEADER],
    start: u32,
    length: u32,
    skipped: u32,
    wires: u16,
    segment: u16,
    checksum: Checksum,
    flags: Flags,
    layout: Layout,
    lineage: u32,
    index: u64,
}

impl Packet {
    /// Cuts the train: `self` becomes its first `count` wire packets, and the rest waits for [`Self::attach`].
    ///
    /// # Panics
    /// If `count` is zero or not less than [`Self::wires`].
    pub fn detach(&mut self, count: u32) -> Rest {
        assert!(count > 0 && count < self.wires(), "a train is cut inside");
        let header_length = self.header_length();
        let cut = count * u32::from(self.segment);
        let mut rest = Rest {
            header: [0; MAX_TRAIN_HEADER],
            start: self.start + cut,
            length: self.length - cut,
            skipped: count,
            wires: self.wires() as u16 - count as u16,
            segment: self.segment,
            checksum: self.checksum,
            flags: self.flags,
            layout: self.layout,
            lineage: self.lineage,
            index: self.index + u64::from(count),
        };
        rest.header[..header_length].copy_from_slice(&self.bytes()[..header_length]);
        let before = self.length;
        self.length = header_length as u32 + cut;
        self.single_if(count == 1);
        self.flags = self.flags.with(Flags::LENT);
        self.refit(before);
        if self.is_tcp() {
            let at = self.layout.transport_offset() + 13;
            self.bytes_mut()[at] &= !(flag::FIN | flag::PSH);
        }
        rest
    }

    /// Turns `self` into the rest of the train whose front part it was, whatever was done to the bytes of the front
    /// part.
    pub fn attach(&mut self, rest: &Rest) {
        let before = rest.length + rest.skipped * u32::from(rest.segment);
        self.start = rest.start;
        self.length = rest.length;
        self.segment = rest.segment;
        self.single_if(rest.wires == 1);
        self.checksum = rest.checksum;
        self.flags = rest.flags;
        self.layout = rest.layout;
        self.lineage = rest.lineage;
        self.index = rest.index;
        let header_length = self.header_length();
        let transport = self.layout.transport_offset();
        let (is_tcp, is_v4) = (self.is_tcp(), self.is_v4());
        let bytes = self.bytes_mut();
        bytes[..header_length].copy_from_slice(&rest.header[..header_length]);
        if is_tcp {
            let sequence = &mut bytes[transport + 4..transport + 8];
            let old = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            let new = old.wrapping_add(rest.skipped * u32::from(rest.segment));
            sequence.copy_from_slice(&new.to_be_bytes());
            bytes[transport + 13] &= !flag::CWR;
        }
        if is_v4 {
            let id = u16::from_be_bytes([bytes[4], bytes[5]]).wrapping_add(rest.skipped as u16);
            set_v4_word(bytes, 4, id);
        }
        self.refit(before);
    }

    /// A train of one is a single packet.
    const fn single_if(&mut self, is_one: bool) {
        if is_one {
            self.segment = 0;
        }
    }

    /// Writes the length fields (and what depends on them) after the packet was cut from `before` bytes.
    fn refit(&mut self, before: u32) {
        let (transport, length) = (self.layout.transport_offset(), self.length);
        let partial = if self.checksum == Checksum::Partial { self.checksum_at() } else { None };
        let (is_v4, is_udp) = (self.is_v4(), self.is_udp());
        let bytes = self.bytes_mut();
        if is_v4 {
            set_v4_word(bytes, 2, length as u16);
        } else {
            bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        }
        if is_udp {
            bytes[transport + 4..transport + 6]
                .copy_from_slice(&((length as usize - transport) as u16).to_be_bytes());
        }
        if let Some((start, offset)) = partial {
            let field = start + offset;
            let old = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
            // A pseudo-header sum is not complemented: the new length is added and the old one subtracted.
            let (new_length, old_length) =
                ((length as usize - transport) as u16, (before as usize - transport) as u16);
            let sum = checksum::combine(checksum::combine(old, !old_length), new_length);
            bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }
}
