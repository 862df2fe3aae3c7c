//! The offsets of everything in a packet: one pass over the headers, then only offsets are used.

use super::{Malformed, be16, ipv4, ipv6, protocol, tcp, udp};

/// IP version of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Offsets and kind of a packet, 10 bytes; valid for the packet it was parsed from and for every rewrite of it that
/// moves nothing.
///
/// A router forwards IP whatever the transport says: a TCP, UDP, ICMP, SCTP or UDP-Lite header that is cut short or
/// contradicts itself does not refuse the packet. It has no ports then, its payload starts where the transport does,
/// and [`Layout::is_transport_malformed`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    version: Version,
    protocol: u8,
    flow_protocol: u8,
    flags: u8,
    transport: u16,
    payload: u16,
}

const FRAGMENT: u8 = 1;
const LATER: u8 = 2;
const PORTS: u8 = 4;
const MALFORMED: u8 = 8;
const ROUTED: u8 = 16;

impl Layout {
    /// Finds all offsets of the packet at the start of `buffer`, and its length in bytes; what is behind it is no part
    /// of it, and the caller cuts it off.
    ///
    /// A train has its full length in its length field, up to 65,535 (IPv4) or 65,575 bytes (IPv6); jumbograms are
    /// refused.
    ///
    /// # Errors
    /// [`Malformed`] if the IP headers are: wrong version, a length below the header's or beyond the buffer, an IPv6
    /// extension header that overruns the packet.
    #[inline]
    pub fn parse(buffer: &[u8]) -> Result<(Self, usize), Malformed> {
        match buffer.first() {
            Some(first) if first >> 4 == 4 => Self::parse_v4(buffer),
            Some(first) if first >> 4 == 6 => Self::parse_v6(buffer),
            Some(_) => Err(Malformed::BadVersion),
            None => Err(Malformed::Truncated),
        }
    }

    #[inline]
    fn parse_v4(buffer: &[u8]) -> Result<(Self, usize), Malformed> {
        let (header, total) = ipv4::check(buffer)?;
        let packet = &buffer[..total];
        let place = be16(packet, ipv4::field::FLAGS_OFFSET);
        let flags = if place & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) == 0 {
            0
        } else if place & ipv4::OFFSET_MASK == 0 {
            FRAGMENT
        } else {
            FRAGMENT | LATER
        };
        let protocol = packet[ipv4::field::PROTOCOL];
        Ok((Self::finish(Version::V4, packet, protocol, protocol, header, flags), total))
    }

    #[inline]
    fn parse_v6(buffer: &[u8]) -> Result<(Self, usize), Malformed> {
        let total = ipv6::check(buffer)?;
        let packet = &buffer[..total];
        let next = packet[ipv6::field::NEXT_HEADER];
        let layout = if ipv6::is_extension(next) {
            Self::behind_extensions(packet)?
        } else {
            Self::finish(Version::V6, packet, next, next, ipv6::HEADER, 0)
        };
        Ok((layout, total))
    }

    /// Out of line: few packets have extension headers.
    #[inline(never)]
    fn behind_extensions(packet: &[u8]) -> Result<Self, Malformed> {
        let found = ipv6::walk(packet)?;
        let mut flags = if found.routed { ROUTED } else { 0 };
        let mut flow_protocol = found.protocol;
        if let Some(fragment) = found.fragment {
            flags |= if fragment.offset == 0 { FRAGMENT } else { FRAGMENT | LATER };
            flow_protocol = fragment.protocol;
        }
        Ok(Self::finish(Version::V6, packet, found.protocol, flow_protocol, found.transport, flags))
    }

    /// Looks at the transport header, unless it is in another fragment.
    #[inline]
    fn finish(
        version: Version,
        packet: &[u8],
        protocol: u8,
        flow_protocol: u8,
        at: usize,
        mut flags: u8,
    ) -> Self {
        let mut payload = at;
        if flags & LATER == 0 {
            match transport(&packet[at..], protocol, flags & FRAGMENT != 0) {
                Some((length, ports)) => {
                    payload += length;
                    flags |= if ports { PORTS } else { 0 };
                }
                None => flags |= MALFORMED,
            }
        }
        Self { version, protocol, flow_protocol, flags, transport: at as u16, payload: payload as u16 }
    }

    /// IP version.
    #[inline]
    pub const fn version(self) -> Version {
        self.version
    }

    /// Protocol of the transport, behind all IPv6 extension headers; in a later IPv6 fragment, what its Fragment header
    /// names.
    #[inline]
    pub const fn protocol(self) -> u8 {
        self.protocol
    }

    /// As [`Layout::protocol`], but the same in all fragments of an IPv6 datagram even where extension headers are in
    /// the first one only.
    #[inline]
    pub(super) const fn flow_protocol(self) -> u8 {
        self.flow_protocol
    }

    /// Where the transport header starts: the length of the IP header with options and extension headers. In a later
    /// fragment, where its part of the datagram starts.
    #[inline]
    pub const fn transport_offset(self) -> usize {
        self.transport as usize
    }

    /// Where the payload starts: behind the TCP header with options, the UDP, UDP-Lite or ICMP header (8 bytes), or the
    /// SCTP common header (12). The transport offset for any other protocol, in a later fragment, and where the
    /// transport header is malformed.
    #[inline]
    pub const fn payload_offset(self) -> usize {
        self.payload as usize
    }

    /// Whether the packet is a part of a datagram only. An IPv6 "atomic fragment" (RFC 6946) is not.
    #[inline]
    pub const fn is_fragment(self) -> bool {
        self.flags & FRAGMENT != 0
    }

    /// Whether it is the first fragment of several.
    #[inline]
    pub const fn is_first_fragment(self) -> bool {
        self.flags & (FRAGMENT | LATER) == FRAGMENT
    }

    /// Whether it is a fragment but not the first: there is no transport header in it.
    #[inline]
    pub const fn is_later_fragment(self) -> bool {
        self.flags & LATER != 0
    }

    /// Whether it is a whole datagram with a transport header that is as it should be, to its final destination.
    #[inline]
    pub const fn is_plain(self) -> bool {
        self.flags & (FRAGMENT | LATER | MALFORMED | ROUTED) == 0
    }

    /// Whether the transport offset leads to a whole header with ports in its first four bytes (TCP, UDP, SCTP,
    /// UDP-Lite). True for a first fragment as well.
    #[inline]
    pub const fn has_ports(self) -> bool {
        self.flags & PORTS != 0
    }

    /// Whether the transport header is known but cut short or contradicts itself.
    #[inline]
    pub const fn is_transport_malformed(self) -> bool {
        self.flags & MALFORMED != 0
    }

    /// Whether an IPv6 Routing header sends the packet on to other destinations, which its transport checksum covers.
    #[inline]
    pub const fn is_source_routed(self) -> bool {
        self.flags & ROUTED != 0
    }

    /// Source and destination port, if the packet has ports.
    ///
    /// # Panics
    /// If `packet` is not the one the layout was parsed from, but shorter.
    #[inline]
    pub fn ports(self, packet: &[u8]) -> Option<(u16, u16)> {
        let at = self.transport_offset();
        self.has_ports().then(|| (be16(packet, at), be16(packet, at + 2)))
    }
}

/// Length of the transport header and whether it has ports; none if it is malformed.
#[inline]
fn transport(segment: &[u8], protocol: u8, fragment: bool) -> Option<(usize, bool)> {
    match protocol {
        protocol::TCP => Some((tcp::check(segment).ok()?, true)),
        // The length of a fragmented datagram counts the bytes of all fragments.
        protocol::UDP if fragment => (segment.len() >= udp::HEADER).then_some((udp::HEADER, true)),
        protocol::UDP => udp::check(segment).ok().map(|_| (udp::HEADER, true)),
        protocol::ICMP | protocol::ICMPV6 => (segment.len() >= 8).then_some((8, false)),
        protocol::UDP_LITE => (segment.len() >= 8).then_some((8, true)),
        protocol::SCTP => (segment.len() >= 12).then_some((12, true)),
        _ => Some((0, false)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    fn parse(bytes: &[u8]) -> Layout {
        Layout::parse(bytes).unwrap().0
    }

    #[test]
    fn captured_syns_have_ports_and_no_payload() {
        let (layout, length) = Layout::parse(samples::SYN_V4).unwrap();
        assert_eq!((layout.version(), layout.protocol(), length), (Version::V4, 6, 60));
        assert_eq!((layout.transport_offset(), layout.payload_offset()), (20, 60));
        assert_eq!(layout.ports(samples::SYN_V4), Some(samples::SYN_V4_PORTS));
        assert!(!layout.is_fragment() && !layout.is_transport_malformed() && !layout.is_source_routed());

        let (layout, length) = Layout::parse(samples::SYN_V6).unwrap();
        assert_eq!((layout.version(), layout.protocol(), length), (Version::V6, 6, 80));
        assert_eq!((layout.transport_offset(), layout.payload_offset()), (40, 80));
        assert_eq!(layout.ports(samples::SYN_V6), Some(samples::SYN_V6_PORTS));
    }

    #[test]
    fn trailing_bytes_are_no_part_of_the_packet() {
        let mut bytes = samples::SYN_V4.to_vec();
        bytes.extend_from_slice(&[0xff; 9]);
        assert_eq!(Layout::parse(&bytes).unwrap(), (parse(samples::SYN_V4), 60));
    }

    #[test]
    fn captured_fragments_are_told_apart() {
        for (first, later) in [
            (samples::FRAGMENT_V4_FIRST_HEAD, samples::FRAGMENT_V4_LATER),
            (samples::FRAGMENT_V6_FIRST_HEAD, samples::FRAGMENT_V6_LATER),
        ] {
            let first = samples::padded(first);
            let first_layout = parse(&first);
            assert!(first_layout.is_fragment() && !first_layout.is_later_fragment());
            assert_eq!(first_layout.ports(&first).map(|(_, to)| to), Some(53));
            assert_eq!(first_layout.payload_offset(), first_layout.transport_offset() + 8);
            let layout = parse(later);
            assert!(layout.is_fragment() && layout.is_later_fragment() && !layout.has_ports());
            assert_eq!(layout.payload_offset(), layout.transport_offset());
            assert_eq!(layout.protocol(), 17);
        }
    }

    #[test]
    fn broken_transport_is_still_ip() {
        let mut bytes = samples::SYN_V4.to_vec();
        bytes[32] = 0xf0; // Data offset beyond the packet.
        let layout = parse(&bytes);
        assert!(layout.is_transport_malformed() && !layout.has_ports());
        assert_eq!((layout.transport_offset(), layout.payload_offset()), (20, 20));

        let mut bytes = samples::udp_v6(b"hello");
        bytes[45] = 14; // UDP length beyond the packet.
        assert!(parse(&bytes).is_transport_malformed());
        bytes[45] = 7;
        assert!(parse(&bytes).is_transport_malformed());
        bytes[45] = 12;
        assert!(parse(&bytes).has_ports());
    }

    #[test]
    fn offsets_behind_options_and_extension_headers() {
        let mut bytes = samples::fragment_with_options();
        bytes[6..8].copy_from_slice(&[0, 0]);
        let layout = parse(&bytes);
        assert_eq!((layout.transport_offset(), layout.payload_offset()), (32, 40));

        let chain = [(0, samples::options_header(1)), (60, samples::options_header(0))];
        let bytes = samples::v6_with_headers(&chain, 6, &samples::SYN_V6[40..]);
        let layout = parse(&bytes);
        assert_eq!((layout.transport_offset(), layout.payload_offset()), (64, 104));
        assert_eq!(layout.ports(&bytes), Some(samples::SYN_V6_PORTS));
    }

    #[test]
    fn largest_train_parses() {
        let mut bytes = vec![0; 40 + 65_535];
        bytes[..80].copy_from_slice(samples::SYN_V6);
        bytes[4..6].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(Layout::parse(&bytes).unwrap().1, 65_575);
        let mut bytes = vec![0; 65_535];
        bytes[..60].copy_from_slice(samples::SYN_V4);
        bytes[2..4].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(Layout::parse(&bytes).unwrap().1, 65_535);
    }

    #[test]
    fn big_tcp_is_refused() {
        let mut bytes = vec![0; 40 + 65_536];
        bytes[..80].copy_from_slice(samples::SYN_V6);
        bytes[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(Layout::parse(&bytes).unwrap_err(), Malformed::Jumbo);
        bytes[..60].copy_from_slice(samples::SYN_V4);
        bytes[2..4].copy_from_slice(&[0, 0]);
        assert_eq!(Layout::parse(&bytes).unwrap_err(), Malformed::BadTotalLength);
    }

    #[test]
    fn neither_4_nor_6_nor_anything() {
        assert_eq!(Layout::parse(&[]).unwrap_err(), Malformed::Truncated);
        assert_eq!(Layout::parse(&[0; 64]).unwrap_err(), Malformed::BadVersion);
    }

    #[test]
    fn a_layout_is_small() {
        assert!(size_of::<Layout>() <= 12);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(v4 in samples::hostile(4), v6 in samples::hostile(6)) {
            for bytes in [v4, v6] {
                if let Ok((layout, length)) = Layout::parse(&bytes) {
                    prop_assert!(length <= bytes.len());
                    prop_assert!(layout.transport_offset() <= layout.payload_offset());
                    prop_assert!(layout.payload_offset() <= length);
                    prop_assert_eq!(layout.ports(&bytes[..length]).is_some(), layout.has_ports());
                }
            }
        }

        /// What etherparse reads strictly from arbitrary bytes, the layout reads the same.
        #[test]
        fn agrees_with_etherparse(bytes in samples::hostile(4)) {
            if let Ok(sliced) = etherparse::SlicedPacket::from_ip(&bytes) {
                let (layout, _) = Layout::parse(&bytes).unwrap();
                if let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport {
                    let ports = (tcp.source_port(), tcp.destination_port());
                    prop_assert_eq!(layout.ports(&bytes), Some(ports));
                    let length = layout.payload_offset() - layout.transport_offset();
                    prop_assert_eq!(length, tcp.header_len());
                }
            }
        }
    }
}
