//! Payloads that are told once. A packet that leaves as it came is recorded twice, and most of both records would be the same payload:
//! the second one has only the headers and says where in the first one its payload is.

use crate::pipeline::packet::Packet;
use crate::pipeline::router::Headers;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::Version;

/// Shorter packets are always told whole. Records of more bytes than this have a whole packet.
pub(super) const LEAST: usize = 256;

const _: () = assert!(Headers::LEN < LEAST, "headers alone are no whole packet");

/// Where in the bytes of a record before a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    offset: u32,
    length: u32,
}

impl Part {
    /// Bytes of it in a record.
    pub(super) const LEN: usize = 8;

    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        (u64::from(self.offset) | u64::from(self.length) << 32).to_le_bytes()
    }

    /// The payload, in the bytes of the record before. Nothing if `part` or those are not what a tap writes.
    pub(super) fn find<'a>(part: &[u8], before: &'a [u8]) -> &'a [u8] {
        let Some(word) = part.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else { return &[] };
        let (offset, length) = (word as u32 as usize, (word >> 32) as usize);
        before.get(offset..offset + length).unwrap_or_default()
    }
}

/// The packet that was told whole last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    lanes: u16,
    /// Where and when it came in: a flow that is forwarded twice, or forgotten in between, has the same indices again.
    ingress: u16,
    arrived: Instant,
    flow: u64,
    lineage: u32,
    index: u64,
    wires: u32,
    segment: u16,
    /// Bytes of its headers and of its payload.
    headers: u32,
    payload: u32,
}

impl Last {
    /// `None` if no part of it can be told by it.
    pub(super) fn of(packet: &Packet, lanes: u16) -> Option<Self> {
        (packet.flow.identity != 0 && is_usual(packet)).then(|| Self {
            lanes,
            ingress: packet.ingress,
            arrived: packet.arrived,
            flow: packet.flow.identity,
            lineage: packet.lineage,
            index: packet.index,
            wires: packet.wires(),
            segment: packet.segment(),
            headers: packet.header_length() as u32,
            payload: packet.payload_length(),
        })
    }

    /// Where in it the payload of `packet` is: of the same packet, or of some of its wire packets.
    pub(super) fn part(&self, packet: &Packet, lanes: u16) -> Option<Part> {
        let is_of_it = (lanes, packet.flow.identity, packet.lineage) == (self.lanes, self.flow, self.lineage)
            && (packet.ingress, packet.arrived) == (self.ingress, self.arrived);
        let first = packet.index.checked_sub(self.index).filter(|_| is_of_it)?;
        let (wires, length) = (packet.wires(), packet.payload_length());
        if first + u64::from(wires) > u64::from(self.wires) || !is_usual(packet) {
            return None;
        }
        let before = first as u32 * u32::from(self.segment);
        let left = self.payload - before;
        // The last wire packet may be shorter.
        let expected = if self.segment == 0 { left } else { left.min(wires * u32::from(self.segment)) };
        let is_cut_alike = wires == 1 || packet.segment() == self.segment;
        (is_cut_alike && length == expected).then_some(Part { offset: self.headers + before, length })
    }
}

/// TCP or UDP right behind an IP header without options, so that the reader finds the headers without the payload.
fn is_usual(packet: &Packet) -> bool {
    let shortest = match packet.layout.version() {
        Version::V4 => 20,
        Version::V6 => 40,
    };
    let is_known = (packet.is_tcp() || packet.is_udp()) && !packet.layout.is_fragment();
    is_known && packet.layout.transport_offset() == shortest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::pool::HEADROOM;
    use crate::pipeline::testing::Spec;

    /// The number of a packet in its flow begins anew where the flow comes in by another port, or had been forgotten.
    #[test]
    fn another_packet_with_the_same_numbers_is_told_whole() {
        let frame = Spec::tcp(500).frame();
        let packet = || {
            let buffer = [vec![0; HEADROOM], frame.bytes.clone()].concat().into_boxed_slice();
            let mut packet = Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap();
            packet.flow.identity = 7;
            packet
        };
        let last = Last::of(&packet(), 1).unwrap();
        assert!(last.part(&packet(), 1).is_some());
        let (mut elsewhere, mut later) = (packet(), packet());
        (elsewhere.ingress, later.arrived) = (1, Instant::from_nanos(1));
        assert_eq!((last.part(&elsewhere, 1), last.part(&later, 1)), (None, None));
    }
}
