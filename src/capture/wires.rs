//! The wire packets of a recorded train, as segmentation makes them: each with headers of its own, and a part of the payload where it
//! stands, which is not copied.

use crate::journal::Record;
use crate::pipeline::wire::tcp::flag;
use crate::pipeline::wire::{Layout, checksum, protocol, transport};

/// Longest headers: longer ones do not come from any kernel.
const MOST: usize = 256;

/// A train, or a packet whose checksum is to be completed.
#[derive(Debug)]
pub(super) struct Wires<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    /// Offset of the transport header.
    transport: usize,
    is_v4: bool,
    is_tcp: bool,
    /// Payload of each but the last.
    segment: usize,
    /// Headers of the wire packet that was made last.
    made: [u8; MOST],
}

impl<'a> Wires<'a> {
    /// `None` if the packet of the record is one wire packet and complete, or if its headers make no sense: they can have been damaged
    /// on purpose.
    pub(super) fn of(record: &Record<'a>) -> Option<Self> {
        if record.wires <= 1 && !record.is_partial {
            return None;
        }
        let first = record.bytes.first()? >> 4;
        let (transport, number, length) = if record.rest.is_empty() {
            let (layout, _) = Layout::parse(record.bytes).ok()?;
            (layout.transport_offset(), layout.protocol(), layout.payload_offset())
        } else {
            // Only packets without options of IP are told in two parts.
            let (transport, at) = if first == 4 { (20, 9) } else { (40, 6) };
            (transport, *record.bytes.get(at)?, record.bytes.len())
        };
        let (headers, inside) = record.bytes.split_at_checked(length)?;
        let is_tcp = number == protocol::TCP;
        let shortest = if is_tcp { 20 } else { 8 };
        let is_known =
            (is_tcp || number == protocol::UDP) && length <= MOST && transport + shortest <= length;
        let payload = if record.rest.is_empty() { inside } else { record.rest };
        let segment = if record.wires > 1 { record.segment.into() } else { payload.len() };
        let is_right =
            record.wires <= 1 || segment > 0 && payload.len().div_ceil(segment) == record.wires as usize;
        (is_known && is_right).then_some(Self {
            headers,
            payload,
            transport,
            is_v4: first == 4,
            is_tcp,
            segment,
            made: [0; MOST],
        })
    }

    /// Headers and payload of wire packet `wire`.
    pub(super) fn wire(&mut self, wire: u32) -> (&[u8], &'a [u8]) {
        let start = (wire as usize * self.segment).min(self.payload.len());
        let end = (start + self.segment).min(self.payload.len());
        let (payload, is_last) = (&self.payload[start..end], end == self.payload.len());
        let made = &mut self.made[..self.headers.len()];
        made.copy_from_slice(self.headers);
        let (length, whole) = (made.len() + payload.len(), made.len() + self.payload.len());
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
        // It has the sum of the pseudo-header with the length of the whole train.
        let pseudo = checksum::combine(word(made, field), !low(whole - at));
        put(made, field, checksum::combine(pseudo, low(behind)));
        let sum = !checksum::combine(checksum::sum(&made[at..]), checksum::sum(payload));
        put(made, field, if self.is_tcp { sum } else { checksum::udp(sum) });
        (made, payload)
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
    use proptest::prelude::*;

    use super::*;
    use crate::journal::record::tests::record;
    use crate::pipeline::packet::Packet;
    use crate::pipeline::pool::{HEADROOM, Pool};
    use crate::pipeline::testing::Spec;

    /// The wire packets of a train as the packet core cuts it.
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

    proptest! {
        /// The same as those of the packet core, whether the payload stands behind the headers or elsewhere.
        #[test]
        fn they_are_those_of_the_packet_core(
            payload in 1_usize..6_000, segment in 100_u16..1_500, is_tcp: bool, is_v6: bool, is_train: bool, flags: u8,
        ) {
            let spec = if is_tcp { Spec::tcp(payload) } else { Spec::udp(payload) };
            let spec = if is_v6 { spec.v6() } else { spec };
            let spec = if is_train { spec.train(segment) } else { spec };
            let frame = spec.frame();
            let mut buffer = Pool::new().scratch();
            buffer[HEADROOM..HEADROOM + frame.bytes.len()].copy_from_slice(&frame.bytes);
            let mut packet = Packet::parse(buffer, frame.bytes.len(), frame.offload, 0).unwrap();
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
                        let (headers, payload) = wires.wire(wire);
                        [headers, payload].concat()
                    });
                    prop_assert_eq!(&made.collect::<Vec<_>>(), &expected);
                } else {
                    prop_assert!(record.wires == 1 && !record.is_partial);
                    prop_assert_eq!(&[record.bytes, record.rest].concat(), &expected[0]);
                }
            }
        }

        /// Headers that make no sense are never followed out of bounds.
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
                (0..wires).for_each(|wire| assert!(cut.wire(wire).0.len() <= MOST));
            }
        }
    }
}
