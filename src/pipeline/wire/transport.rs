//! The transport checksum of a whole packet, IPv4 or IPv6: TCP, UDP, UDP-Lite, DCCP, SCTP, ICMP, ICMPv6, IGMP.
//!
//! No function here can serve a fragment, a malformed transport header, an IPv6 packet with segments left in a Routing
//! header (its checksum covers an address that is not the destination yet), or another protocol; each says so. `packet`
//! is always the packet that the layout was parsed from, cut to its length.

use super::{Ipv4, Ipv6, Layout, Version, be16, checksum, protocol, put16, tcp, udp};

/// Where the checksum field lies in the transport header: what `virtio_net_hdr.csum_offset` carries. Of the protocols with an
/// Internet checksum; that of SCTP is another.
#[inline]
pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(tcp::field::CHECKSUM),
        protocol::UDP | protocol::UDP_LITE | protocol::DCCP => Some(udp::field::CHECKSUM),
        protocol::ICMP | protocol::ICMPV6 | protocol::IGMP => Some(2),
        _ => None,
    }
}

/// Where SCTP's checksum lies in its header (RFC 9260 section 3.1), which ends behind it.
const SCTP_CHECKSUM: core::ops::Range<usize> = 8..12;

/// The CRC of iSCSI and SCTP (RFC 9260 appendix A).
const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// What a checksum is about.
struct Cover {
    /// Where its field lies in the packet.
    at: usize,
    /// Where the bytes that it covers end.
    end: usize,
    /// Where those end whose number the pseudo-header has.
    total: usize,
}

/// Whether there is a transport of which all is there, and which says where it goes.
fn is_whole(layout: Layout) -> bool {
    !layout.is_fragment() && !layout.is_transport_malformed() && !layout.is_source_routed()
}

#[inline]
fn cover(packet: &[u8], layout: Layout) -> Option<Cover> {
    if !is_whole(layout) {
        return None;
    }
    let start = layout.transport_offset();
    let at = start + checksum_offset(layout.protocol())?;
    let total = match layout.protocol() {
        protocol::UDP => start + usize::from(be16(packet, start + udp::field::LENGTH)),
        _ => packet.len(),
    };
    // The length field may have been damaged since the layout was parsed.
    if at + 2 > total || total > packet.len() {
        return None;
    }
    let covered = covered(&packet[start..total], layout.protocol())?;
    (at + 2 <= start + covered).then_some(Cover { at, end: start + covered, total })
}

/// How many bytes of a segment its checksum covers.
#[inline]
fn covered(segment: &[u8], protocol: u8) -> Option<usize> {
    let covered = match protocol {
        // RFC 3828 section 3.1: none means all.
        protocol::UDP_LITE => match usize::from(be16(segment, udp::field::LENGTH)) {
            0 => segment.len(),
            coverage => coverage,
        },
        // RFC 4340 sections 5.1 and 9.2: none means all, one the header, more than that so many words behind it.
        protocol::DCCP => match (usize::from(*segment.get(4)?) * 4, usize::from(segment.get(5)? & 15)) {
            (_, 0) => segment.len(),
            (header, coverage) => header + (coverage - 1) * 4,
        },
        _ => segment.len(),
    };
    (covered <= segment.len()).then_some(covered)
}

/// The pseudo-header sum for `length` bytes of transport header and payload; 0 where there is none, for ICMP of IPv4 and IGMP.
#[inline]
fn pseudo_sum_of(packet: &[u8], layout: Layout, length: usize) -> Option<u16> {
    let protocol = layout.protocol();
    match layout.version() {
        Version::V4 if matches!(protocol, protocol::ICMP | protocol::IGMP) => Some(0),
        Version::V4 => {
            let ip = Ipv4::new(packet).ok()?;
            Some(checksum::pseudo_sum_v4(ip.source(), ip.destination(), protocol, length as u16))
        }
        Version::V6 => {
            let ip = Ipv6::new(packet).ok()?;
            Some(checksum::pseudo_sum_v6(ip.source(), ip.destination(), protocol, length as u32))
        }
    }
}

/// The pseudo-header sum of the packet: what the checksum field of a `NEEDS_CSUM` packet carries.
#[inline]
pub fn pseudo_sum(packet: &[u8], layout: Layout) -> Option<u16> {
    let cover = cover(packet, layout)?;
    pseudo_sum_of(packet, layout, cover.total - layout.transport_offset())
}

/// Whether the checksum is right; none if the packet has no checksum (a zero in UDP) or none that can be checked.
#[inline]
pub fn has_valid_checksum(packet: &[u8], layout: Layout) -> Option<bool> {
    if layout.protocol() == protocol::SCTP {
        let segment = sctp(packet, layout)?;
        return Some(segment[SCTP_CHECKSUM] == crc32c(segment));
    }
    let Cover { at, end, total } = cover(packet, layout)?;
    if layout.protocol() == protocol::UDP && be16(packet, at) == 0 {
        return None;
    }
    let start = layout.transport_offset();
    Some(checksum::is_valid(pseudo_sum_of(packet, layout, total - start)?, &packet[start..end]))
}

/// Computes the checksum anew, whatever it was; false, and nothing changed, if that cannot be done.
#[inline]
pub fn fill_checksum(packet: &mut [u8], layout: Layout) -> bool {
    let start = layout.transport_offset();
    if layout.protocol() == protocol::SCTP {
        let Some(sum) = sctp(packet, layout).map(crc32c) else { return false };
        packet[start..][SCTP_CHECKSUM].copy_from_slice(&sum);
        return true;
    }
    let Some(Cover { at, end, total }) = cover(packet, layout) else { return false };
    let Some(pseudo) = pseudo_sum_of(packet, layout, total - start) else { return false };
    put16(packet, at, 0);
    let sum = checksum::transport_checksum(pseudo, &packet[start..end]);
    // Zero means none.
    let is_udp = matches!(layout.protocol(), protocol::UDP | protocol::UDP_LITE);
    put16(packet, at, if is_udp { checksum::udp(sum) } else { sum });
    true
}

/// The SCTP packet, if all of it is there.
fn sctp(packet: &[u8], layout: Layout) -> Option<&[u8]> {
    let segment = &packet[layout.transport_offset()..];
    (is_whole(layout) && segment.len() >= SCTP_CHECKSUM.end).then_some(segment)
}

/// The checksum of an SCTP packet as it is sent, over itself as zero (RFC 9260 section 6.8).
fn crc32c(segment: &[u8]) -> [u8; 4] {
    let mut digest = CRC32C.digest();
    digest.update(&segment[..SCTP_CHECKSUM.start]);
    digest.update(&[0; 4]);
    digest.update(&segment[SCTP_CHECKSUM.end..]);
    digest.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    fn layout(bytes: &[u8]) -> Layout {
        Layout::parse(bytes).unwrap().0
    }

    const CAPTURED: [&[u8]; 9] = [
        samples::SYN_V4,
        samples::SYN_V6,
        samples::UDP_V4,
        samples::UDP_V6,
        samples::CLOSED_V6,
        samples::PING_V4,
        samples::PING_V6,
        samples::UNREACHABLE_V4,
        samples::UNREACHABLE_V6,
    ];

    #[test]
    fn checksums_of_the_kernel_are_found_right_and_made_again() {
        for captured in CAPTURED {
            let layout = layout(captured);
            assert_eq!(has_valid_checksum(captured, layout), Some(true), "{captured:02x?}");
            let mut bytes = captured.to_vec();
            let at = layout.transport_offset() + checksum_offset(layout.protocol()).unwrap();
            bytes[at] ^= 0x5a;
            assert_eq!(has_valid_checksum(&bytes, layout), Some(false));
            assert!(fill_checksum(&mut bytes, layout));
            assert_eq!(bytes, captured);
        }
    }

    /// As Linux does for `NEEDS_CSUM`: the device adds up from the transport header on, pseudo sum included.
    #[test]
    fn pseudo_sum_completes_to_the_kernels_checksum() {
        for captured in CAPTURED {
            let layout = layout(captured);
            let (start, offset) = (layout.transport_offset(), checksum_offset(layout.protocol()).unwrap());
            let mut bytes = captured.to_vec();
            put16(&mut bytes, start + offset, pseudo_sum(captured, layout).unwrap());
            let completed = !checksum::sum(&bytes[start..]);
            assert_eq!(completed, be16(captured, start + offset));
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_is_none() {
        assert_eq!(has_valid_checksum(samples::CLOSED_V4, layout(samples::CLOSED_V4)), None);
    }

    /// The payload is chosen so that the sum comes out as zero.
    #[test]
    fn a_computed_zero_is_sent_as_ones() {
        let mut bytes = samples::UDP_V4.to_vec();
        let layout = layout(&bytes);
        bytes[28..30].copy_from_slice(&[0, 0]);
        assert!(fill_checksum(&mut bytes, layout));
        let rest = be16(&bytes, 26);
        put16(&mut bytes, 28, rest);
        assert!(fill_checksum(&mut bytes, layout));
        assert_eq!(be16(&bytes, 26), 0xffff);
        let (ip, rest) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        let (udp, payload) = etherparse::UdpHeader::from_slice(rest).unwrap();
        assert_eq!(udp.calc_checksum_ipv4(&ip, payload).unwrap(), 0xffff);
    }

    #[test]
    fn bytes_behind_the_udp_length_do_not_count() {
        let mut bytes = samples::UDP_V4.to_vec();
        bytes.extend_from_slice(b"surplus");
        bytes[3] += 7;
        assert_eq!(has_valid_checksum(&bytes, layout(&bytes)), Some(true));
    }

    #[test]
    fn what_cannot_be_checked_is_left_alone() {
        let routed = [(43, vec![0, 0, 0, 1, 0, 0, 0, 0])];
        let mut malformed = samples::SYN_V4.to_vec();
        malformed[32] = 0;
        for mut bytes in [
            samples::FRAGMENT_V4_LATER.to_vec(),
            samples::padded(samples::FRAGMENT_V6_FIRST_HEAD),
            samples::v6_with_headers(&routed, 6, &samples::SYN_V6[40..]),
            malformed,
        ] {
            let (before, layout) = (bytes.clone(), layout(&bytes));
            assert_eq!(has_valid_checksum(&bytes, layout), None);
            assert_eq!(pseudo_sum(&bytes, layout), None);
            assert!(!fill_checksum(&mut bytes, layout));
            assert_eq!(bytes, before);
        }
    }

    /// An IPv4 packet of this protocol.
    fn of(protocol: u8, segment: &[u8]) -> Vec<u8> {
        let header = etherparse::Ipv4Header::new(
            segment.len() as u16,
            64,
            protocol.into(),
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        );
        [&header.unwrap().to_bytes()[..], segment].concat()
    }

    /// A common header and a COOKIE ACK of scapy's.
    #[test]
    fn sctp_has_a_crc() {
        let segment = [0x13, 0x88, 0x17, 0x70, 0x0, 0x0, 0x0, 0x1, 0x29, 0xd7, 0x99, 0xa, 0xb, 0x0, 0x0, 0x4];
        let mut bytes = of(protocol::SCTP, &segment);
        assert_eq!(has_valid_checksum(&bytes, layout(&bytes)), Some(true));
        bytes[35] ^= 1;
        assert_eq!(has_valid_checksum(&bytes, layout(&bytes)), Some(false));
        let at = layout(&bytes);
        assert!(fill_checksum(&mut bytes, at));
        assert_eq!(has_valid_checksum(&bytes, at), Some(true));
    }

    /// What lies behind the coverage may change; what lies within may not.
    #[test]
    fn partial_checksums_cover_what_they_say() {
        let lite = |coverage: u8| [&[0, 1, 0, 2, 0, coverage, 0, 0][..], b"payload!"].concat();
        let dccp = |coverage: u8| {
            [&[0, 1, 0, 2, 4, coverage, 0, 0][..], &[0x05, 0, 0, 0, 0, 0, 0, 0], b"payload!"].concat()
        };
        for (protocol, segment, covered) in [
            (protocol::UDP_LITE, lite(0), 16),
            (protocol::UDP_LITE, lite(8), 8),
            (protocol::UDP_LITE, lite(11), 11),
            (protocol::DCCP, dccp(0), 24),
            (protocol::DCCP, dccp(1), 16),
            (protocol::DCCP, dccp(2), 20),
            (protocol::IGMP, vec![0x16, 0, 0, 0, 224, 0, 0, 9], 8),
        ] {
            let mut bytes = of(protocol, &segment);
            let layout = layout(&bytes);
            assert!(fill_checksum(&mut bytes, layout), "{protocol}");
            for at in 0..segment.len() {
                // The fields that say what is covered are another matter.
                if (2..8).contains(&at) {
                    continue;
                }
                let mut damaged = bytes.clone();
                damaged[20 + at] ^= 4;
                assert_eq!(has_valid_checksum(&damaged, layout), Some(at >= covered), "{protocol} {at}");
            }
        }
        let mut bytes = of(protocol::UDP_LITE, &lite(17));
        let layout = layout(&bytes);
        assert!(!fill_checksum(&mut bytes, layout), "more than there is");
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe_and_filled_is_valid(v4 in samples::hostile(4), v6 in samples::hostile(6)) {
            for mut bytes in [v4, v6] {
                if let Ok((layout, length)) = Layout::parse(&bytes) {
                    bytes.truncate(length);
                    let filled = fill_checksum(&mut bytes, layout);
                    prop_assert_eq!(has_valid_checksum(&bytes, layout), filled.then_some(true));
                }
            }
        }
    }
}
