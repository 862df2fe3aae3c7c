//! The form in which the bytes of a packet are recorded for lanes that want whole packets.
//!
//! A packet that leaves unchanged is recorded twice. The second record has only the headers, and refers to the payload of the first
//! record. Of packets that are longer than the lanes keep, only the part that they keep is recorded: see [`Cells`].

use crate::pipeline::packet::Packet;
use crate::pipeline::router::Headers;
use crate::pipeline::time::Instant;
use crate::pipeline::wire::{Version, checksum};

/// Shorter packets are always recorded whole. A record with at least so many bytes has a whole packet.
pub(super) const LEAST: usize = 256;

const _: () = assert!(Headers::LEN < LEAST, "headers alone are no whole packet");

/// The form in which a packet is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The first so many bytes.
    First(usize),
    /// Headers, and the beginning of each wire packet's payload.
    Cut(Cells),
    /// Headers; the payload is in the last packet that was recorded whole.
    Again(Part),
}

impl Form {
    /// For a packet, if lanes want `snap` bytes of each wire packet. `last` is the last packet that was recorded whole.
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
            // To make wire packets of it, its reader needs all of it.
            Self::First(length)
        }
    }

    /// Length of the part of the packet itself, which comes first in the record.
    #[inline]
    pub(super) fn length(self, packet: &Packet) -> usize {
        match self {
            Self::First(length) => length,
            Self::Cut(_) | Self::Again(_) => packet.header_length(),
        }
    }

    /// The cells that follow it.
    #[inline]
    pub(super) const fn cells(self) -> Option<Cells> {
        match self {
            Self::Cut(cells) => Some(cells),
            Self::First(_) | Self::Again(_) => None,
        }
    }

    /// Where the payload is, if it does not directly follow the headers.
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

/// The beginnings of the payloads of wire packets. A cell has two bytes with the sum of the whole payload of a wire packet, from which
/// its checksum can be completed, and the bytes of the payload that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cells {
    /// Most bytes that are kept of each payload.
    kept: u32,
}

/// Bytes of the sum of a payload.
const SUM: u32 = 2;

impl Cells {
    /// `None` if the payload is not longer than the part that is kept.
    fn of(packet: &Packet, snap: u32) -> Option<Self> {
        let kept = snap.saturating_sub(packet.header_length() as u32);
        (packet.wire_payload(0) > kept).then_some(Self { kept })
    }

    /// Offset of the cell of wire packet `wire`.
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

    /// Writes the cells of `packet`.
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

    /// The cell of wire packet `wire`: the sum of its payload, and the bytes that are kept. Both are empty if there is no such cell.
    #[cfg(feature = "capture")]
    pub(crate) fn read(self, cells: &[u8], wire: u32) -> (u16, &[u8]) {
        let stride = SUM as usize + self.kept as usize;
        let cell =
            (wire as usize).checked_mul(stride).and_then(|start| cells.get(start..)).unwrap_or_default();
        let Some((sum, kept)) = cell.split_first_chunk() else { return (0, &[]) };
        (u16::from_le_bytes(*sum), &kept[..kept.len().min(self.kept as usize)])
    }
}

/// The place of the payload of a record, if it does not directly follow the headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Whether it is in the last record with a whole packet; otherwise it is in this record.
    is_before: bool,
    offset: u32,
    length: u32,
    /// The cells that are there instead of the payload.
    cells: Option<Cells>,
}

impl Part {
    /// Its length in a record, in bytes.
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

    /// The headers and the payload of a record with these bytes; `packet` is the last packet that was recorded whole. The payload is
    /// empty if no tap writes such bytes.
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

/// The packet that was recorded whole last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    lanes: u16,
    /// Port and time of its arrival: the indices of a flow repeat if it is forwarded twice, or was forgotten in between.
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
    /// The form of its payload, if it was not recorded whole.
    cells: Option<Cells>,
}

impl Last {
    /// `None` if later records cannot refer to it.
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

    /// The place in it of the payload of `packet`, if that is the same packet or some of its wire packets.
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

/// Whether it is TCP or UDP directly behind an IP header without options: then the reader can find the headers without the payload.
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

    /// The numbers of packets in a flow begin again if the flow arrives at another port, or has been forgotten.
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

    /// A packet that was not recorded whole is not referred to.
    #[test]
    fn what_was_not_told_whole_is_not_referred_to() {
        let packet = packet(&Spec::tcp(500));
        assert!(Last::of(&packet, 1, Form::First(300)).is_none());
        assert!(Last::of(&packet, 1, Form::of(&packet, 1, 300, None)).is_some());
    }
}
