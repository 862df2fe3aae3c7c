//! The wire packets of a recorded train, as segmentation makes them. Each has its own headers, and a part of the train's payload, which
//! is not copied.

use crate::journal::{Cells, Record};
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{Layout, checksum, protocol, transport};

/// Longest headers. No kernel makes longer ones.
const MOST: usize = 256;

/// A train, or a packet whose checksum is to be completed.
#[derive(Debug)]
pub(super) struct Wires<'a> {
    headers: &'a [u8],
    /// The payloads of all wire packets in a row, or their cells.
    payload: &'a [u8],
    cells: Option<Cells>,
    /// Length of all payloads in bytes.
    length: usize,
    /// Offset of the transport header.
    transport: usize,
    is_v4: bool,
    is_tcp: bool,
    /// Payload of each wire packet but the last.
    segment: usize,
    /// Headers of the last wire packet that was made.
    made: [u8; MOST],
}

impl<'a> Wires<'a> {
    /// `None` if the packet of the record is one complete wire packet, or if its headers are inconsistent: they can have been damaged on
    /// purpose.
    pub(super) fn of(record: &Record<'a>) -> Option<Self> {
        if record.wires <= 1 && !record.is_partial {
            return None;
        }
        let first = record.bytes.first()? >> 4;
        let (transport, number, length) = if record.rest.is_empty() {
            let (layout, _) = Layout::parse(record.bytes).ok()?;
            (layout.transport_offset(), layout.protocol(), layout.payload_offset())
        } else {
            // Only packets without IP options are recorded in two parts.
            let (transport, at) = if first == 4 { (20, 9) } else { (40, 6) };
            (transport, *record.bytes.get(at)?, record.bytes.len())
        };
        let (headers, inside) = record.bytes.split_at_checked(length)?;
        let is_tcp = number == protocol::TCP;
        let shortest = if is_tcp { 20 } else { 8 };
        let is_known =
            (is_tcp || number == protocol::UDP) && length <= MOST && transport + shortest <= length;
        let payload = if record.rest.is_empty() { inside } else { record.rest };
        let segment = usize::from(record.segment);
        let whole = if record.cells.is_some() {
            let last = (record.last as usize).saturating_sub(length);
            (record.wires.max(1) as usize - 1) * segment + last
        } else {
            payload.len()
        };
        let segment = if record.wires > 1 { segment } else { whole };
        let is_right = record.wires <= 1 || segment > 0 && whole.div_ceil(segment) == record.wires as usize;
        (is_known && is_right).then_some(Self {
            headers,
            payload,
            cells: record.cells,
            length: whole,
            transport,
            is_v4: first == 4,
            is_tcp,
            segment,
            made: [0; MOST],
        })
    }

    /// Wire packet `wire`.
    pub(super) fn wire(&mut self, wire: u32) -> Wire<'_> {
        let start = (wire as usize * self.segment).min(self.length);
        let end = (start + self.segment).min(self.length);
        let (sum, payload) = if let Some(cells) = self.cells {
            cells.read(self.payload, wire)
        } else {
            let payload = &self.payload[start..end];
            (checksum::sum(payload), payload)
        };
        let (inside, is_last) = (end - start, end == self.length);
        let made = &mut self.made[..self.headers.len()];
        made.copy_from_slice(self.headers);
        let (length, whole) = (made.len() + inside, made.len() + self.length);
        if self.is_v4 {
            set_v4_word(made, 2, low(length));
            set_v4_word(made, 4, word(made, 4).wrapping_add(low(wire as usize)));
        } else {
            put(made, 4, low(length - 40));
        }
        let (at, behind) = (self.transport, length - self.transport);
        let number = if self.is_tcp { protocol::TCP } else { protocol::UDP };
        if self.is_tcp {
            let sequence = u32::from(word(made, at + 4)) << 16 | u32::from(word(made, at + 6));
            let sequence = sequence.wrapping_add(u32::try_from(start).unwrap_or(u32::MAX));
            made[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            let first = if wire > 0 { flag::CWR } else { 0 };
            let last = if is_last { 0 } else { flag::FIN | flag::PSH };
            made[at + 13] &= !(first | last);
        } else {
            put(made, at + 4, low(behind));
        }
        let field = at + transport::checksum_offset(number).unwrap_or(0);
        // The field has the sum of the pseudo-header with the length of the whole train.
        let pseudo = checksum::combine(word(made, field), !low(whole - at));
        put(made, field, checksum::combine(pseudo, low(behind)));
        let sum = !checksum::combine(checksum::sum(&made[at..]), sum);
        put(made, field, if self.is_tcp { sum } else { checksum::udp(sum) });
        Wire { headers: made, payload, length }
    }
}

/// A wire packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'a> {
    pub(super) headers: &'a [u8],
    /// The payload, as far as it was recorded.
    pub(super) payload: &'a [u8],
    /// Length of the whole packet in bytes, headers included.
    pub(super) length: usize,
}

impl<'a> Wire<'a> {
    /// For a record of one complete packet.
    pub(super) fn of(record: &Record<'a>) -> Self {
        let payload = record.cells.map_or(record.rest, |cells| cells.read(record.rest, 0).1);
        let known = record.bytes.len() + payload.len();
        Self { headers: record.bytes, payload, length: known.max(record.each as usize) }
    }
}

/// The lower 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "lengths of trains are told modulo 65,536")]
const fn low(number: usize) -> u16 {
    number as u16
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

/// Sets a word of an IPv4 header and corrects its checksum.
fn set_v4_word(bytes: &mut [u8], at: usize, new: u16) {
    let sum = checksum::update16(word(bytes, 10), word(bytes, at), new);
    put(bytes, 10, sum);
    put(bytes, at, new);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::journal::hub::Reader;
    use crate::journal::record::tests::record;
    use crate::journal::tap::Told;
    use crate::journal::{Finished, Kind, Lane, Sink};
    use crate::pipeline::packet::Packet;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;
    use crate::pipeline::time::Instant;

    /// The wire packets that the packet core cuts a train into.
    fn cut(mut packet: Packet) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let rest = (packet.wires() > 1).then(|| packet.detach(1));
            packet.complete_checksum();
            all.push(packet.bytes().to_vec());
            match rest {
                Some(rest) => packet.attach(&rest),
                None => return all,
            }
        }
    }

    fn parsed(spec: &Spec) -> Packet {
        let frame = spec.frame();
        let mut buffer = Pool::new().scratch();
        buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
        Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap()
    }

    /// Keeps the wire packets of each record, and their lengths.
    struct Cutter(Arc<Mutex<Vec<Cut>>>);

    /// The recorded bytes of a wire packet, and its length.
    type Cut = (Vec<u8>, usize);

    impl Sink for Cutter {
        fn record(&mut self, record: &Record<'_>) {
            let mut all = self.0.lock().unwrap();
            let mut keep = |wire: Wire<'_>| all.push(([wire.headers, wire.payload].concat(), wire.length));
            match Wires::of(record) {
                Some(mut wires) => (0..record.wires).for_each(|wire| keep(wires.wire(wire))),
                None => keep(Wire::of(record)),
            }
        }

        fn finish(self: Box<Self>, _lost: u64) -> Finished {
            Finished::default()
        }
    }

    proptest! {
        /// The same as those of the packet core, whether the payload follows the headers or is elsewhere.
        #[test]
        fn they_are_those_of_the_packet_core(
            payload in 1_usize..6_000, segment in 100_u16..1_500, is_tcp: bool, is_v6: bool, is_train: bool, flags: u8,
        ) {
            let spec = if is_tcp { Spec::tcp(payload) } else { Spec::udp(payload) };
            let spec = if is_v6 { spec.v6() } else { spec };
            let spec = if is_train { spec.train(segment) } else { spec };
            let mut packet = parsed(&spec);
            if is_tcp {
                let at = packet.layout.transport_offset() + 13;
                packet.bytes_mut()[at] = flags;
            }
            let bytes = packet.bytes().to_vec();
            let whole = Record {
                wires: packet.wires(), segment: packet.segment(), is_partial: packet.partial().is_some(), bytes: &bytes, ..record()
            };
            let (headers, behind) = bytes.split_at(packet.header_length());
            let parts = Record { bytes: headers, rest: behind, ..whole };
            let expected = cut(packet);
            for record in [whole, parts] {
                if let Some(mut wires) = Wires::of(&record) {
                    let made = (0..record.wires).map(|wire| {
                        let Wire { headers, payload, length } = wires.wire(wire);
                        assert_eq!(headers.len() + payload.len(), length);
                        [headers, payload].concat()
                    });
                    prop_assert_eq!(&made.collect::<Vec<_>>(), &expected);
                } else {
                    prop_assert!(record.wires == 1 && !record.is_partial);
                    prop_assert_eq!(&[record.bytes, record.rest].concat(), &expected[0]);
                }
            }
        }

        /// The same for a worker's records that have only the beginnings of payloads, or refer to an earlier record.
        #[test]
        fn they_begin_as_those_of_the_packet_core(
            payload in 0_usize..6_000, segment in 100_u16..1_500, snap in prop_oneof![1_u32..200, 200_u32..2_000],
            is_tcp: bool, is_v6: bool, is_train: bool, first in 1_u32..4,
        ) {
            let spec = if is_tcp { Spec::tcp(payload) } else { Spec::udp(payload) };
            let spec = if is_v6 { spec.v6() } else { spec };
            let spec = if is_train && payload > 0 { spec.train(segment) } else { spec };
            let mut packet = parsed(&spec);
            packet.flow.identity = 7;
            let kinds = [Kind::Received, Kind::Rewritten, Kind::Sent, Kind::Dropped];
            let lane = Lane { is_whole: true, snap, ..Lane::of(&kinds) };
            let seen = Arc::new(Mutex::new(Vec::new()));
            let (mut reader, taps) = Reader::new(vec![(lane, Box::new(Cutter(Arc::clone(&seen))))], 1 << 20);
            let mut tap = taps.tap(8);
            let mut tell = |kind, packet: &Packet| tap.tell(&Told::of(kind), packet, Instant::ZERO, &|| None);
            // It arrives. Then it leaves, or it is cut: one part leaves, the other one is dropped.
            tell(Kind::Received, &packet);
            let mut expected = cut(parsed(&spec));
            let wires = expected.len();
            expected.extend_from_within(..);
            if (first as usize) < wires {
                let rest = packet.detach(first);
                tell(Kind::Sent, &packet);
                packet.attach(&rest);
                tell(Kind::Dropped, &packet);
            } else {
                tell(Kind::Sent, &packet);
            }
            prop_assert!(reader.read());
            let seen = seen.lock().unwrap();
            prop_assert_eq!(seen.len(), expected.len());
            for ((bytes, length), expected) in seen.iter().zip(&expected) {
                prop_assert_eq!(*length, expected.len());
                prop_assert!(bytes.len() >= expected.len().min(snap as usize), "{} {}", bytes.len(), snap);
                prop_assert_eq!(bytes, &expected[..bytes.len()]);
            }
        }

        /// Inconsistent headers never lead to an access out of bounds.
        #[test]
        fn any_bytes_are_cut_safely(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), rest in proptest::collection::vec(any::<u8>(), 0..300),
            version: bool, wires in 0_u32..9, segment: u16,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if version { 0x45 } else { 0x60 };
            }
            let record = Record { wires, segment, is_partial: true, bytes: &bytes, rest: &rest, ..record() };
            if let Some(mut cut) = Wires::of(&record) {
                (0..wires).for_each(|wire| assert!(cut.wire(wire).headers.len() <= MOST));
            }
        }
    }
}
