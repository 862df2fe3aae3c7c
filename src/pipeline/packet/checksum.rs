//! The checksums of a packet: the real ones, or the pseudo-header sum that a device must complete.

use super::{Checksum, Packet};
use crate::pipeline::wire::{Ipv4, Malformed, Update, checksum, transport};

impl Packet {
    /// Offset of the transport header, and of the checksum in it, where the protocol has one that can be offloaded.
    pub(super) fn checksum_at(&self) -> Option<(usize, usize)> {
        let offloadable = self.is_tcp() || self.is_udp();
        let offset = transport::checksum_offset(self.protocol()).filter(|_| offloadable)?;
        Some((self.layout.transport_offset(), offset))
    }

    /// Where the checksummed bytes start, and the offset of the checksum in them, for a device that must complete it.
    #[inline]
    pub fn partial(&self) -> Option<(u16, u16)> {
        match self.checksum {
            Checksum::Complete => None,
            Checksum::Partial => self.checksum_at().map(|(start, offset)| (start as u16, offset as u16)),
        }
    }

    /// How a setter of transport fields must update the checksum: a sum over the pseudo-header alone does not cover
    /// these fields.
    /// them.
    #[inline]
    pub const fn checksum_update(&self) -> Update {
        match self.checksum {
            Checksum::Complete => Update::Incremental,
            Checksum::Partial => Update::Leave,
        }
    }

    /// Makes the transport checksum the real one. A train is left as it is: its segments get theirs when it is cut.
    pub fn complete_checksum(&mut self) {
        if self.checksum == Checksum::Complete || self.segment > 0 {
            return;
        }
        if let Some((start, offset)) = self.checksum_at() {
            // Bounds were checked when the packet was read.
            let _ = self.finish_checksum(start, offset);
        }
    }

    pub(super) fn finish_checksum(&mut self, start: usize, offset: usize) -> Result<(), Malformed> {
        let is_udp = self.is_udp();
        let covered = self.bytes_mut().get_mut(start..).ok_or(Malformed::BadOffload)?;
        if offset + 2 > covered.len() {
            return Err(Malformed::BadOffload);
        }
        // The field holds the pseudo-header sum, so summing over it includes that.
        let sum = !checksum::sum(covered);
        let sum = if is_udp { checksum::udp(sum) } else { sum };
        covered[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        self.checksum = Checksum::Complete;
        Ok(())
    }

    /// Replaces the transport checksum by the pseudo-header sum.
    pub(super) fn set_partial(&mut self) {
        let Some((start, offset)) = self.checksum_at() else { return };
        let Some(sum) = transport::pseudo_sum(self.bytes(), self.layout) else { return };
        self.bytes_mut()[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        self.checksum = Checksum::Partial;
    }

    /// Makes the IP header checksum and the transport checksum of a single packet right for its bytes as they are.
    pub fn fix_checksums(&mut self) {
        let layout = self.layout;
        let is_v4 = self.is_v4();
        let bytes = self.bytes_mut();
        if is_v4 && let Ok(mut ip) = Ipv4::new(&mut *bytes) {
            ip.fill_checksum();
        }
        transport::fill_checksum(bytes, layout);
        self.checksum = Checksum::Complete;
    }
}

/// Sets a 16-bit word of an IPv4 header and adjusts the header checksum (RFC 1624).
pub(super) fn set_v4_word(bytes: &mut [u8], at: usize, new: u16) {
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let sum = u16::from_be_bytes([bytes[10], bytes[11]]);
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    bytes[10..12].copy_from_slice(&checksum::update16(sum, old, new).to_be_bytes());
}
