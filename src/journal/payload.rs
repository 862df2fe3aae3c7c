//! In which form the bytes of a packet are told to those who want whole packets.
//!
//! A packet that leaves as it came is recorded twice, and most of both records would be the same payload: the second one has only the
//! headers and says where in the first one its payload is. And of a packet that is longer than anybody keeps, only what is kept is told:
//! see [`Cells`].

use crate::pipeline::packet::Packet;
use crate::pipeline::router::Headers;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{Version, checksum};

/// Shorter packets are always told whole. Records of more bytes than this have a whole packet.
pub(super) const LEAST: usize = 256;

const _: () = assert!(Headers::LEN < LEAST, "headers alone are no whole packet");

/// In which form a packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The first so many bytes.
    First(usize),
    /// Headers, and the beginning of each wire packet's payload.
    Cut(Cells),
    /// Headers; the payload is in the last packet that was told whole.
    Again(Part),
}

impl Form {
    /// For a packet of whose wire packets `snap` bytes are wanted; `last` was told whole before it.
    #[inline]
    pub(super) fn of(packet: &Packet, lanes: u16, snap: u32, last: Option<&Last>) -> Self {
        if let Some(part) = last.and_then(|last| last.part(packet, lanes)) {
            return Self::Again(part);
        }
        let length = packet.bytes().len();
        if packet.wire_length(0) <= snap {
            Self::First(length)
        } else if is_usual(packet) {
            Cells::of(packet, snap).map_or(Self::First(length), Self::Cut)
        } else if packet.wires() == 1 && packet.partial().is_none() {
            Self::First(length.min(snap as usize))
        } else {
            // Whoever reads it needs all of it to make wire packets of it.
            Self::First(length)
        }
    }

    /// Bytes of the packet itself, which come first.
    #[inline]
    pub(super) fn length(self, packet: &Packet) -> usize {
        match self {
            Self::First(length) => length,
            Self::Cut(_) | Self::Again(_) => packet.header_length(),
        }
    }

    /// What follows them.
    #[inline]
    pub(super) const fn cells(self) -> Option<Cells> {
        match self {
            Self::Cut(cells) => Some(cells),
            Self::First(_) | Self::Again(_) => None,
        }
    }

    /// Where the payload is, if it is not simply behind the headers.
    #[inline]
    pub(super) fn part(self, packet: &Packet) -> Option<Part> {
        match self {
            Self::First(_) => None,
            Self::Cut(cells) => {
                let (offset, length) = (packet.header_length() as u32, cells.length(packet));
                Some(Part { is_before: false, offset, length, cells: Some(cells) })
            }
            Self::Again(part) => Some(part),
        }
    }
}

/// The beginnings of the payloads of wire packets: of each two bytes with the sum of its whole payload, from which its checksum can be
/// completed, and the bytes that are kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cells {
    /// Bytes that are kept of each payload, at most.
    kept: u32,
}

/// Bytes of the sum of a payload.
const SUM: u32 = 2;

impl Cells {
    /// `None` if the payload is not longer than what is kept.
    fn of(packet: &Packet, snap: u32) -> Option<Self> {
        let kept = snap.saturating_sub(packet.header_length() as u32);
        (packet.wire_payload(0) > kept).then_some(Self { kept })
    }

    /// Where the cell of wire packet `wire` begins.
    const fn start(self, wire: u32) -> u32 {
        wire * (SUM + self.kept)
    }

    /// Bytes of all cells of a packet.
    #[inline]
    pub(super) const fn length(self, packet: &Packet) -> u32 {
        let last = packet.wires() - 1;
        let rest = packet.wire_payload(last);
        self.start(last) + SUM + if rest < self.kept { rest } else { self.kept }
    }

    /// Writes them.
    pub(super) fn fill(self, packet: &Packet, out: &mut Vec<u8>) {
        out.clear();
        let payload = &packet.bytes()[packet.header_length()..];
        let each = if packet.segment() == 0 { payload.len() } else { packet.segment().into() };
        let is_partial = packet.partial().is_some();
        for payload in payload.chunks(each.max(1)) {
            let sum = if is_partial { checksum::sum(payload) } else { 0 };
            out.extend(sum.to_le_bytes());
            out.extend(&payload[..payload.len().min(self.kept as usize)]);
        }
    }

    /// The cell of wire packet `wire`: the sum of its payload, and what is kept of it. Nothing if there is none.
    #[cfg(feature = "capture")]
    pub(crate) fn read(self, cells: &[u8], wire: u32) -> (u16, &[u8]) {
        let stride = SUM as usize + self.kept as usize;
        let cell =
            (wire as usize).checked_mul(stride).and_then(|start| cells.get(start..)).unwrap_or_default();
        let Some((sum, kept)) = cell.split_first_chunk() else { return (0, &[]) };
        (u16::from_le_bytes(*sum), &kept[..kept.len().min(self.kept as usize)])
    }
}

/// Where the payload of a record is, which is not simply behind its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// In the bytes of this record, or of the last one with a whole packet.
    is_before: bool,
    offset: u32,
    length: u32,
    /// What is there instead of the payload.
    cells: Option<Cells>,
}

impl Part {
    /// Bytes of it in a record.
    pub(super) const LEN: usize = 16;

    #[inline]
    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let kept = self.cells.map_or(u32::MAX, |cells| cells.kept);
        let mut bytes = [0; Self::LEN];
        let numbers = [self.is_before.into(), self.offset, self.length, kept];
        for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let numbers: &[[u8; 4]; 4] = bytes.as_chunks().0.try_into().ok()?;
        let [is_before, offset, length, kept] = numbers.map(u32::from_le_bytes);
        let cells = (kept != u32::MAX).then_some(Cells { kept });
        Some(Self { is_before: is_before == 1, offset, length, cells })
    }

    /// The headers and the payload of a record that has these bytes; what was told whole before has those of `packet`. No payload if
    /// `part` or these are not what a tap writes.
    pub(super) fn find<'a>(
        part: &[u8],
        bytes: &'a [u8],
        packet: &'a [u8],
    ) -> (&'a [u8], &'a [u8], Option<Cells>) {
        let Some(part) = Self::read(part) else { return (bytes, &[], None) };
        let (offset, length) = (part.offset as usize, part.length as usize);
        let (headers, from) =
            if part.is_before { (bytes, packet) } else { (&bytes[..bytes.len().min(offset)], bytes) };
        (headers, from.get(offset..offset.saturating_add(length)).unwrap_or_default(), part.cells)
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
    /// How its payload was told, if not whole.
    cells: Option<Cells>,
}

impl Last {
    /// `None` if no part of it can be told by it.
    #[inline]
    pub(super) fn of(packet: &Packet, lanes: u16, form: Form) -> Option<Self> {
        let has_all = matches!(form, Form::Cut(_)) || form == Form::First(packet.bytes().len());
        (packet.flow.identity != 0 && has_all && is_usual(packet)).then(|| Self {
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
            cells: form.cells(),
        })
    }

    /// Where in it the payload of `packet` is: of the same packet, or of some of its wire packets.
    #[inline]
    fn part(&self, packet: &Packet, lanes: u16) -> Option<Part> {
        let is_of_it = (lanes, packet.flow.identity, packet.lineage) == (self.lanes, self.flow, self.lineage)
            && (packet.ingress, packet.arrived) == (self.ingress, self.arrived);
        let first = packet.index.checked_sub(self.index).filter(|_| is_of_it)?;
        let (wires, length) = (packet.wires(), packet.payload_length());
        if first + u64::from(wires) > u64::from(self.wires) || !is_usual(packet) {
            return None;
        }
        let first = first as u32;
        let before = first * u32::from(self.segment);
        let left = self.payload - before;
        // The last wire packet may be shorter.
        let expected = if self.segment == 0 { left } else { left.min(wires * u32::from(self.segment)) };
        let is_cut_alike = wires == 1 || packet.segment() == self.segment;
        let part = |offset, length| Part { is_before: true, offset, length, cells: self.cells };
        (is_cut_alike && length == expected).then(|| match self.cells {
            None => part(self.headers + before, length),
            Some(cells) => part(self.headers + cells.start(first), cells.length(packet)),
        })
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

    fn packet(spec: &Spec) -> Packet {
        let frame = spec.frame();
        let buffer = [vec![0; HEADROOM], frame.bytes.clone()].concat().into_boxed_slice();
        let mut packet = Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap();
        packet.flow.identity = 7;
        packet
    }

    /// The number of a packet in its flow begins anew where the flow comes in by another port, or had been forgotten.
    #[test]
    fn another_packet_with_the_same_numbers_is_told_whole() {
        let packet = || packet(&Spec::tcp(500));
        let whole = Form::First(packet().bytes().len());
        let last = Last::of(&packet(), 1, whole).unwrap();
        assert!(last.part(&packet(), 1).is_some());
        let (mut elsewhere, mut later) = (packet(), packet());
        (elsewhere.ingress, later.arrived) = (1, Instant::from_nanos(1));
        assert_eq!((last.part(&elsewhere, 1), last.part(&later, 1)), (None, None));
    }

    /// What was told of it does not have the payload of another form.
    #[test]
    fn what_was_not_told_whole_is_not_referred_to() {
        let packet = packet(&Spec::tcp(500));
        assert!(Last::of(&packet, 1, Form::First(300)).is_none());
        assert!(Last::of(&packet, 1, Form::of(&packet, 1, 300, None)).is_some());
    }
}
