//! Bits that flip on the wire.
//!
//! If a packet's checksum was left to the device, it gets its real checksum first. Otherwise the device would compute
//! a checksum over the damaged bytes, and the receiving kernel would accept them.

use rand::RngExt;

use crate::pipeline::packet::Packet;
use crate::pipeline::params::CorruptArea;
use crate::pipeline::random::rng::Stream;
use crate::pipeline::wire::protocol;

/// Flips `bits` different bits of `area` in a single packet; false if the area is empty. `fix` makes the checksums right
/// again.
/// The IP version is never changed: no device would take the packet.
/// The IP version is always spared: no device would take the packet.
///
/// The packet keeps its layout: later stages treat it as before, whatever the damaged fields say. With `fix`, the
/// bytes that say where the checksums are and what they cover are not changed: IP version, header and total lengths,
/// fragment fields, protocol, TCP data offset (addresses may be changed). Otherwise there would be no checksum that
/// could be made right.
pub(super) fn damage(packet: &mut Packet, area: CorruptArea, bits: u32, fix: bool, stream: Stream) -> bool {
    packet.complete_checksum();
    let transport = packet.layout.transport_offset();
    let payload = packet.layout.payload_offset();
    let length = packet.bytes().len();
    let range = match area {
        CorruptArea::Transport => transport..length,
        CorruptArea::Header => 0..payload.max(transport),
        CorruptArea::Payload => payload..length,
        CorruptArea::Any => 0..length,
    };
    let candidates = (range.len() as u32) * 8;
    if candidates == 0 {
        return false;
    }
    let mut rng = stream.generator(packet.index);
    let mut flipped = Flipped { bits: [0; MAX_BITS], count: 0 };
    // A draw that hits a protected or already flipped bit is repeated, up to a limit.
    for _ in 0..bits.min(candidates).saturating_mul(64) {
        if flipped.count == bits.min(candidates) as usize {
            break;
        }
        let bit = rng.random_range(0..candidates);
        let at = range.start + bit as usize / 8;
        let spared = at == 0 && bit % 8 >= 4 || fix && is_structure(packet, at);
        if !spared && flipped.add(range.start as u32 * 8 + bit) {
            packet.bytes_mut()[at] ^= 1 << (bit % 8);
        }
    }
    if fix {
        packet.fix_checksums();
    }
    flipped.count > 0
}

/// Whether byte `at` says where checksums are or what they cover.
fn is_structure(packet: &Packet, at: usize) -> bool {
    let transport = packet.layout.transport_offset();
    let in_ip = if packet.is_v4() {
        matches!(at, 0 | 2 | 3 | 6 | 7 | 9..=11) || (20..transport).contains(&at)
    } else {
        matches!(at, 0 | 4..=6) || (40..transport).contains(&at)
    };
    let in_transport = packet.is_tcp() && matches!(at.wrapping_sub(transport), 12 | 16 | 17)
        || packet.is_udp() && (4..8).contains(&at.wrapping_sub(transport))
        // SCTP's checksum; the coverage and checksum of UDP-Lite and DCCP, and how long DCCP's header is.
        || packet.layout.protocol() == protocol::SCTP && (8..12).contains(&at.wrapping_sub(transport))
        || matches!(packet.layout.protocol(), protocol::UDP_LITE | protocol::DCCP)
            && (4..8).contains(&at.wrapping_sub(transport))
        || packet.layout.protocol() == protocol::IGMP && matches!(at.wrapping_sub(transport), 2 | 3)
        || packet.is_icmp() && matches!(at.wrapping_sub(transport), 2 | 3);
    in_ip || in_transport
}

/// The bits that were flipped already. They are few, so a list serves as the set.
struct Flipped {
    bits: [u32; MAX_BITS],
    count: usize,
}

/// The largest number of bits that are flipped in one packet.
pub(crate) const MAX_BITS: usize = 64;

impl Flipped {
    fn add(&mut self, bit: u32) -> bool {
        if self.count == MAX_BITS || self.bits[..self.count].contains(&bit) {
            return false;
        }
        self.bits[self.count] = bit;
        self.count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::random::rng::StageKey;
    use crate::pipeline::testing::{Frame, Spec};
    use crate::pipeline::wire::samples;

    #[test]
    fn every_bit_of_an_area_can_flip() {
        let stream = StageKey::new(1, "damage").stream(1, 0);
        let frame = Spec::udp(4).frame();
        let mut packet = frame.parse().unwrap();
        assert!(damage(&mut packet, CorruptArea::Payload, MAX_BITS as u32, false, stream));
        let inverted: Vec<u8> = frame.bytes[28..].iter().map(|byte| !byte).collect();
        assert_eq!(packet.bytes()[..28], frame.bytes[..28]);
        assert_eq!(packet.bytes()[28..], inverted);
        let mut empty = Spec::udp(0).frame().parse().unwrap();
        assert!(!damage(&mut empty, CorruptArea::Payload, 1, false, stream));
    }

    /// Offsets from the tables of the RFCs: IP version and header length, total length, fragment fields, protocol, checksum;
    /// then what the transport's checksum needs.
    #[test]
    fn what_says_where_checksums_are_is_known() {
        const V4: [usize; 8] = [0, 2, 3, 6, 7, 9, 10, 11];
        let with_protocol = |protocol: u8| {
            let mut frame = Spec::udp(60).frame();
            frame.bytes[9] = protocol;
            // As a DCCP header: a data offset that fits.
            frame.bytes[24] = 5;
            frame
        };
        for (frame, in_transport) in [
            (Spec::tcp(9).frame(), &[32, 36, 37][..]),
            (Spec::udp(9).frame(), &[24, 25, 26, 27]),
            (Frame::plain(samples::PING_V4.to_vec()), &[22, 23]),
            (with_protocol(protocol::SCTP), &[28, 29, 30, 31]),
            (with_protocol(protocol::UDP_LITE), &[24, 25, 26, 27]),
            (with_protocol(protocol::DCCP), &[24, 25, 26, 27]),
            (with_protocol(protocol::IGMP), &[22, 23]),
            (with_protocol(250), &[]),
        ] {
            let packet = frame.parse().unwrap();
            let found: Vec<usize> = (0..40).filter(|&at| is_structure(&packet, at)).collect();
            assert_eq!(found, [&V4, in_transport].concat(), "protocol {}", packet.protocol());
        }
        let packet = Spec::udp(9).v6().frame().parse().unwrap();
        let found: Vec<usize> = (0..57).filter(|&at| is_structure(&packet, at)).collect();
        assert_eq!(found, [0, 4, 5, 6, 44, 45, 46, 47]);
    }
}
