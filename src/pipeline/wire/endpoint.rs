//! Replaces the address and port of a packet's source or destination, as a translator does (RFC 3022 section 4.2).

use super::{Host, Layout, Update, Version, be16, checksum, ipv4, ipv6, protocol, put16, transport, udp};

/// One end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

impl End {
    /// The offset of the address.
    pub(super) const fn address(self, version: Version) -> usize {
        match (version, self) {
            (Version::V4, Self::Source) => ipv4::field::SOURCE,
            (Version::V4, Self::Destination) => ipv4::field::DESTINATION,
            (Version::V6, Self::Source) => ipv6::field::SOURCE,
            (Version::V6, Self::Destination) => ipv6::field::DESTINATION,
        }
    }
}

/// Sets an end of `packet`: its address, and its port, if one is given and the packet has ports (of an ICMP echo the
/// identifier, at either end). Header and transport checksums follow by the difference (RFC 1624): right ones stay right, wrong ones wrong, and
/// a UDP datagram without one stays without. `update` says whether the transport checksum is a pseudo-header sum only.
///
/// A later fragment has only its address changed; the first one carries checksum and ports of the whole datagram.
/// `packet` is the one that the layout was parsed from; its transport header is not malformed.
#[inline]
pub fn set_endpoint(
    packet: &mut [u8],
    layout: Layout,
    end: End,
    address: Host,
    port: Option<u16>,
    update: Update,
) {
    let version = layout.version();
    let at = end.address(version);
    let new = address.bytes(version);
    let old_sum = address_sum(&packet[at..at + new.len()]);
    let new_sum = address_sum(new);
    packet[at..at + new.len()].copy_from_slice(new);
    if version == Version::V4 {
        let sum = checksum::update16(be16(packet, ipv4::field::CHECKSUM), old_sum, new_sum);
        put16(packet, ipv4::field::CHECKSUM, sum);
    }
    if layout.is_later_fragment() || layout.is_transport_malformed() {
        return;
    }
    let Some(field) = transport::checksum_offset(layout.protocol()) else { return };
    let start = layout.transport_offset();
    let field = start + field;
    // The layout vouches for TCP, UDP and ICMP only.
    if field + 2 > packet.len() {
        return;
    }
    // ICMP of IPv4 and IGMP have no pseudo-header.
    let covered = !matches!(layout.protocol(), protocol::ICMP | protocol::IGMP);
    let (old_sum, new_sum) = if covered { (old_sum, new_sum) } else { (0, 0) };
    let port = port.and_then(|port| Some((port_at(packet, layout, end)?, port)));
    if update == Update::Leave {
        // A sum that is not complemented, over the pseudo-header alone.
        let sum = checksum::combine(checksum::combine(be16(packet, field), !old_sum), new_sum);
        put16(packet, field, sum);
    } else if layout.protocol() != protocol::UDP || be16(packet, field) != 0 {
        let mut sum = checksum::update16(be16(packet, field), old_sum, new_sum);
        if let Some((at, port)) = port {
            sum = checksum::update16(sum, be16(packet, at), port);
        }
        let is_udp = matches!(layout.protocol(), protocol::UDP | protocol::UDP_LITE);
        put16(packet, field, if is_udp { checksum::udp(sum) } else { sum });
    }
    if let Some((at, port)) = port {
        put16(packet, at, port);
    }
}

/// The sum of an address, of which that of IPv4 takes no loop.
#[inline]
fn address_sum(bytes: &[u8]) -> u16 {
    match *bytes {
        [a, b, c, d] => checksum::combine(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        _ => checksum::sum(bytes),
    }
}

/// The offset of the port, or of an echo's identifier.
#[inline]
fn port_at(packet: &[u8], layout: Layout, end: End) -> Option<usize> {
    let start = layout.transport_offset();
    match layout.protocol() {
        protocol::TCP | protocol::UDP => Some(match end {
            End::Source => start + udp::field::SOURCE_PORT,
            End::Destination => start + udp::field::DESTINATION_PORT,
        }),
        protocol::ICMP if matches!(packet[start], 0 | 8) => Some(start + 4),
        protocol::ICMPV6 if matches!(packet[start], 128 | 129) => Some(start + 4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::testing::{Frame, Spec, flaw};
    use crate::pipeline::wire::samples;
    use core::net::IpAddr;

    fn set(bytes: &mut [u8], end: End, address: &str, port: u16) {
        let layout = Layout::parse(bytes).unwrap().0;
        let address: IpAddr = address.parse().unwrap();
        set_endpoint(bytes, layout, end, address.into(), Some(port), Update::Incremental);
    }

    #[test]
    fn packets_of_the_kernel_stay_right_to_an_independent_parser() {
        for (sample, source, destination) in [
            (samples::SYN_V4, "203.0.113.9", "198.51.100.255"),
            (samples::UDP_V4, "203.0.113.9", "255.254.253.252"),
            (samples::PING_V4, "0.0.0.1", "198.51.100.1"),
            (samples::SYN_V6, "2001:db8::9", "2001:db8:ffff::1"),
            (samples::UDP_V6, "::1", "2001:db8:ffff::1"),
            (samples::PING_V6, "2001:db8::9", "2001:db8:ffff::1"),
        ] {
            let mut bytes = sample.to_vec();
            set(&mut bytes, End::Source, source, 0xabcd);
            set(&mut bytes, End::Destination, destination, 0x1234);
            assert_eq!(flaw(&bytes), None, "{bytes:02x?}");
            assert_ne!(bytes, sample);
        }
    }

    #[test]
    fn a_datagram_without_checksum_stays_without() {
        let mut bytes = Spec::udp(5).frame().bytes;
        bytes[26..28].fill(0);
        set(&mut bytes, End::Source, "203.0.113.9", 7);
        assert_eq!(
            (&bytes[12..16], &bytes[20..22], &bytes[26..28]),
            (&[203, 0, 113, 9][..], &[0, 7][..], &[0, 0][..])
        );
    }

    proptest! {
        #[test]
        fn there_and_back_is_where_it_was(
            v6: bool, udp: bool, partial: bool, a: u128, b: u128, port: u16, other: u16, payload in 0..50_usize,
        ) {
            let spec = Spec { v6, udp, partial, source_port: other, ..Spec::tcp(payload) };
            let frame = spec.frame();
            let update = if partial { Update::Leave } else { Update::Incremental };
            let layout = Layout::parse(&frame.bytes).unwrap().0;
            let host = |bits: u128| -> Host {
                let v4 = IpAddr::from((bits as u32).to_be_bytes());
                (if v6 { IpAddr::from(bits.to_be_bytes()) } else { v4 }).into()
            };
            let key = crate::pipeline::wire::FlowKey::new(&frame.bytes, layout);
            let mut bytes = frame.bytes.clone();
            set_endpoint(&mut bytes, layout, End::Source, host(a), Some(port), update);
            set_endpoint(&mut bytes, layout, End::Destination, host(b), Some(port), update);
            for wire in (Frame { bytes: bytes.clone(), ..frame.clone() }).wires() {
                prop_assert_eq!(flaw(&wire), None);
            }
            set_endpoint(&mut bytes, layout, End::Source, key.source_host(), Some(other), update);
            set_endpoint(&mut bytes, layout, End::Destination, key.destination_host(), Some(443), update);
            // Zero has two forms in one's complement.
            for wire in (Frame { bytes: bytes.clone(), ..frame.clone() }).wires() {
                prop_assert_eq!(flaw(&wire), None);
            }
            prop_assert_eq!(crate::pipeline::wire::FlowKey::new(&bytes, layout), key);
        }
    }
}
