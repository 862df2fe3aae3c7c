//! Frames of a capture: finds the IP packet in a frame, and makes the frame of a packet that leaves.

use crate::capture::bytes::length32;
use crate::capture::source::Frame;
use crate::capture::tags::{Place, Surroundings};
use crate::pipeline::wire::{checksum, protocol};

/// Bytes of Ethernet's frame check sequence.
const FCS: usize = 4;
/// Bytes of the header of IPv6, and of the shortest one of TCP.
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

impl Place {
    /// For the packet at `offset` of `frame`. `packet` has it padded to its length on the wire; its header gets that length if it has
    /// none.
    pub(super) fn find(frame: &Frame<'_>, offset: usize, packet: &mut [u8]) -> Self {
        let fcs = right_fcs(frame);
        let whole = packet.len() - fcs;
        let is_untold = tell(&mut packet[..whole]);
        Self { offset, length: told(packet).min(whole), is_untold, fcs }
    }
}

/// The length of the frame check sequence at the end of `frame`, if it is there and right.
fn right_fcs(frame: &Frame<'_>) -> usize {
    let is_whole = frame.data.len() == frame.original as usize;
    if usize::from(frame.fcs) != FCS || !is_whole {
        return 0;
    }
    let parts = frame.data.split_last_chunk::<FCS>();
    let is_right = parts.is_some_and(|(covered, fcs)| fcs_of(covered) == *fcs);
    if is_right { FCS } else { 0 }
}

/// IEEE 802.3, 3.2.9.
fn fcs_of(covered: &[u8]) -> [u8; FCS] {
    crc32fast::hash(covered).to_le_bytes()
}

/// Writes the length into the header of a packet that was captured before segmentation, if it is zero there. True if it was.
fn tell(packet: &mut [u8]) -> bool {
    let length = packet.len();
    match packet.first().map(|first| first >> 4) {
        Some(4) if length >= 20 && packet[2..4] == [0, 0] => {
            // A length that does not fit into the header stays zero. No router accepts such a packet.
            let Ok(length) = u16::try_from(length) else { return false };
            set_total(packet, length);
        }
        // In IPv6, zero can also mean an empty packet, except for TCP.
        Some(6)
            if length >= IPV6_HEADER + TCP_HEADER && packet[4..6] == [0, 0] && packet[6] == protocol::TCP =>
        {
            let Ok(length) = u16::try_from(length - IPV6_HEADER) else { return false };
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        _ => return false,
    }
    true
}

/// Sets the total length of an IPv4 packet. A right header checksum stays right, a wrong one stays wrong.
fn set_total(packet: &mut [u8], length: u16) {
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let sum = checksum::update16(word(10), word(2), length);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The length in the packet's header, if it has one.
fn told(packet: &[u8]) -> usize {
    let (at, rest) =
        if packet.first().is_some_and(|first| first >> 4 == 4) { (2, 0) } else { (4, IPV6_HEADER) };
    packet.get(at..at + 2).map_or(0, |told| usize::from(u16::from_be_bytes([told[0], told[1]]))) + rest
}

impl Surroundings {
    /// Writes the frame of `packet` to `out`. Returns its length on the wire, and the number of bytes that the capture has of it.
    pub(super) fn frame(&self, packet: &[u8], out: &mut Vec<u8>) -> (u32, usize) {
        out.clear();
        out.extend(&self.header);
        out.extend(packet);
        // A header that had no length gets none, if the length is still the same.
        if self.untold == Some(length32(packet.len())) {
            let packet = &mut out[self.header.len()..];
            match packet[0] >> 4 {
                4 => set_total(packet, 0),
                _ => packet[4..6].fill(0),
            }
        }
        out.extend(&self.trailer);
        if self.has_fcs {
            out.extend(fcs_of(out));
        }
        let whole = out.len();
        (length32(whole).saturating_add(self.hidden), self.cut.map_or(whole, |cut| whole.min(cut as usize)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::link::{Link, LinkType};
    use crate::capture::source::Notes;

    fn frame(data: &[u8], fcs: u8) -> Frame<'_> {
        Frame {
            at: std::time::Duration::ZERO,
            original: data.len() as u32,
            data,
            interface: 0,
            number: LinkType::ETHERNET,
            link: Some(Link::Ethernet),
            fcs,
            notes: Notes::NONE,
        }
    }

    /// The check value of the CRC: of "123456789".
    #[test]
    fn a_frame_check_sequence_is_the_crc_of_ethernet() {
        assert_eq!(fcs_of(b"123456789"), 0xcbf4_3926_u32.to_le_bytes());
        let right = [&b"123456789"[..], &fcs_of(b"123456789")].concat();
        assert_eq!(right_fcs(&frame(&right, 4)), 4);
        assert_eq!(right_fcs(&frame(&right, 0)), 0, "none was announced");
        assert_eq!(right_fcs(&frame(&[0; 20], 4)), 0, "a wrong one is kept as it is");
        assert_eq!(right_fcs(&Frame { original: 99, ..frame(&right, 4) }), 0, "it was cut off");
    }
}
