//! The transport checksum of a whole packet, IPv4 or IPv6: TCP, UDP, ICMP, ICMPv6.
//!
//! No function here can serve a fragment, a malformed transport header, an IPv6 packet with segments left in a Routing
//! header (its checksum covers an address that is not the destination yet), or another protocol; each says so. `packet`
//! is always the packet that the layout was parsed from, cut to its length.

use super::{Ipv4, Ipv6, Layout, Version, be16, checksum, protocol, put16, tcp, udp};

/// Where the checksum field lies in the transport header: what `virtio_net_hdr.csum_offset` carries.
#[inline]
pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(tcp::field::CHECKSUM),
        protocol::UDP => Some(udp::field::CHECKSUM),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Where the checksum field lies in the packet, and where the bytes that it covers end.
#[inline]
fn cover(packet: &[u8], layout: Layout) -> Option<(usize, usize)> {
    if layout.is_fragment() || layout.is_transport_malformed() || layout.is_source_routed() {
        return None;
    }
    let start = layout.transport_offset();
    let end = match layout.protocol() {
        protocol::UDP => start + usize::from(be16(packet, start + udp::field::LENGTH)),
        _ => packet.len(),
    };
    let at = start + checksum_offset(layout.protocol())?;
    // The length field may have been damaged since the layout was parsed.
    (at + 2 <= end && end <= packet.len()).then_some((at, end))
}

/// The pseudo-header sum for `length` bytes of transport header and payload; 0 for ICMP of IPv4, which has none.
#[inline]
fn pseudo_sum_of(packet: &[u8], layout: Layout, length: usize) -> Option<u16> {
    let protocol = layout.protocol();
    match layout.version() {
        Version::V4 if protocol == protocol::ICMP => Some(0),
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
    let (_, end) = cover(packet, layout)?;
    pseudo_sum_of(packet, layout, end - layout.transport_offset())
}

/// Whether the checksum is right; none if the packet has no checksum (a zero in UDP) or none that can be checked.
#[inline]
pub fn has_valid_checksum(packet: &[u8], layout: Layout) -> Option<bool> {
    let (at, end) = cover(packet, layout)?;
    if layout.protocol() == protocol::UDP && be16(packet, at) == 0 {
        return None;
    }
    let segment = &packet[layout.transport_offset()..end];
    Some(checksum::is_valid(pseudo_sum_of(packet, layout, segment.len())?, segment))
}

/// Computes the checksum anew, whatever it was; false, and nothing changed, if that cannot be done.
#[inline]
pub fn fill_checksum(packet: &mut [u8], layout: Layout) -> bool {
    let Some((at, end)) = cover(packet, layout) else { return false };
    let start = layout.transport_offset();
    let Some(pseudo) = pseudo_sum_of(packet, layout, end - start) else { return false };
    put16(packet, at, 0);
    let sum = checksum::transport_checksum(pseudo, &packet[start..end]);
    put16(packet, at, if layout.protocol() == protocol::UDP { checksum::udp(sum) } else { sum });
    true
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
