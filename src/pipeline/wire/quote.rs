//! The packet that an ICMP error is about, as far as the error quotes it (RFC 792, RFC 4443 section 3).

use super::{
    End, FlowKey, Host, Layout, Version, array, be16, checksum, ipv4, ipv6, protocol, put16, tcp, transport,
    udp,
};

/// Bytes of transport header that every error quotes.
const LEAST: usize = 8;

/// Where the quoted packet stands in an error, and which flow it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The flow of the quoted packet.
    pub key: FlowKey,
    at: usize,
    transport: usize,
}

/// Whether a packet is an ICMP or ICMPv6 error that quotes another.
pub fn is_error(packet: &[u8], layout: Layout) -> bool {
    if layout.is_fragment() || layout.is_transport_malformed() {
        return false;
    }
    // Only ICMP is known to have bytes here: a packet of another protocol may end with its IP header.
    let kind = || packet.get(layout.transport_offset());
    match layout.protocol() {
        protocol::ICMP => matches!(kind(), Some(3 | 4 | 5 | 11 | 12)),
        protocol::ICMPV6 => matches!(kind(), Some(1..=4)),
        _ => false,
    }
}

impl Quote {
    /// What the error `packet` quotes; `None` if it is no error, or quotes no whole IP header with eight bytes of TCP, UDP or
    /// an echo directly behind it, or a later fragment.
    pub fn read(packet: &[u8], layout: Layout) -> Option<Self> {
        if !is_error(packet, layout) {
            return None;
        }
        let at = layout.payload_offset();
        let quoted = packet.get(at..)?;
        let version = layout.version();
        let (header, protocol) = match version {
            Version::V4 => {
                if quoted.len() < ipv4::MIN_HEADER || quoted[0] >> 4 != 4 {
                    return None;
                }
                let later = be16(quoted, ipv4::field::FLAGS_OFFSET) & ipv4::OFFSET_MASK != 0;
                let header = usize::from(quoted[0] & 15) * 4;
                (header >= ipv4::MIN_HEADER && !later).then_some((header, quoted[ipv4::field::PROTOCOL]))?
            }
            Version::V6 => {
                if quoted.len() < ipv6::HEADER || quoted[0] >> 4 != 6 {
                    return None;
                }
                (ipv6::HEADER, quoted[ipv6::field::NEXT_HEADER])
            }
        };
        let segment = quoted.get(header..).filter(|segment| segment.len() >= LEAST)?;
        let ports = match (protocol, segment[0]) {
            (protocol::TCP | protocol::UDP, _) => (be16(segment, 0), be16(segment, 2)),
            (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129) => (be16(segment, 4), 0),
            _ => return None,
        };
        let [source, destination] = [End::Source, End::Destination].map(|end| match version {
            Version::V4 => Host::from(core::net::IpAddr::from(array::<4>(quoted, end.address(version)))),
            Version::V6 => Host::from(core::net::IpAddr::from(array::<16>(quoted, end.address(version)))),
        });
        let key = FlowKey::of(protocol, version, (source, ports.0), (destination, ports.1));
        Some(Self { key, at, transport: at + header })
    }

    /// Puts another endpoint in place of one of the quoted packet's. All checksums that are there follow by the difference:
    /// those of the quoted packet, and that of the error.
    ///
    /// # Panics
    /// If `packet` is not the one that this was read from.
    pub fn set(self, packet: &mut [u8], layout: Layout, end: End, address: Host, port: Option<u16>) {
        // Everything that changes, an even number of bytes where there are more.
        let region = self.at..packet.len().min(self.transport + tcp::field::CHECKSUM + 2);
        let before = checksum::sum(&packet[region.clone()]);
        self.change(packet, end, address, port);
        let after = checksum::sum(&packet[region]);
        let field = layout.transport_offset() + 2;
        let sum = checksum::update16(be16(packet, field), before, after);
        put16(packet, field, sum);
    }

    fn change(self, packet: &mut [u8], end: End, address: Host, port: Option<u16>) {
        let (version, protocol) = (self.key.version(), self.key.protocol());
        let at = self.at + end.address(version);
        let new = address.bytes(version);
        let mut old_sum = checksum::sum(&packet[at..at + new.len()]);
        let mut new_sum = checksum::sum(new);
        packet[at..at + new.len()].copy_from_slice(new);
        if version == Version::V4 {
            let field = self.at + ipv4::field::CHECKSUM;
            let sum = checksum::update16(be16(packet, field), old_sum, new_sum);
            put16(packet, field, sum);
        }
        if matches!(protocol, protocol::ICMP | protocol::IGMP) {
            (old_sum, new_sum) = (0, 0);
        }
        if let Some(port) = port {
            let at = self.transport
                + match (protocol, end) {
                    (protocol::ICMP | protocol::ICMPV6, _) => 4,
                    (_, End::Source) => udp::field::SOURCE_PORT,
                    (_, End::Destination) => udp::field::DESTINATION_PORT,
                };
            old_sum = checksum::combine(old_sum, be16(packet, at));
            new_sum = checksum::combine(new_sum, port);
            put16(packet, at, port);
        }
        let Some(offset) = transport::checksum_offset(protocol) else { return };
        let field = self.transport + offset;
        let none = protocol == protocol::UDP && be16(packet, field) == 0;
        if field + 2 <= packet.len() && !none {
            let sum = checksum::update16(be16(packet, field), old_sum, new_sum);
            let is_udp = matches!(protocol, protocol::UDP | protocol::UDP_LITE);
            put16(packet, field, if is_udp { checksum::udp(sum) } else { sum });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::testing::flaw;
    use crate::pipeline::wire::samples;
    use core::net::IpAddr;

    #[test]
    fn errors_of_the_kernel_are_translated_and_stay_right() {
        for (sample, address) in
            [(samples::UNREACHABLE_V4, "203.0.113.77"), (samples::UNREACHABLE_V6, "2001:db8::77")]
        {
            let mut bytes = sample.to_vec();
            let layout = Layout::parse(&bytes).unwrap().0;
            let quote = Quote::read(&bytes, layout).unwrap();
            // The quoted packet is what was sent: the flow from the receiver of the error.
            let error = FlowKey::new(&bytes, layout);
            assert_eq!(quote.key.source(), error.destination());
            let address: IpAddr = address.parse().unwrap();
            quote.set(&mut bytes, layout, End::Source, address.into(), Some(4_242));
            assert_eq!(flaw(&bytes), None);
            // The quoted packet by itself, too.
            let inner = &bytes[layout.payload_offset()..];
            assert_eq!(flaw(inner), None, "{inner:02x?}");
            let again = Quote::read(&bytes, layout).unwrap();
            assert_eq!((again.key.source(), again.key.source_port()), (address, 4_242));
            assert_eq!(again.key.destination(), quote.key.destination());
        }
    }

    /// What ends with its IP headers has no transport byte to look at, whatever protocol it names.
    #[test]
    fn packets_without_a_transport_header_quote_nothing() {
        for protocol in 0..=u8::MAX {
            let v4 = &mut samples::UNREACHABLE_V4[..20].to_vec();
            (v4[3], v4[9]) = (20, protocol);
            let v6 = &mut samples::UNREACHABLE_V6[..40].to_vec();
            (v6[5], v6[6]) = (0, protocol);
            for bytes in [v4, v6] {
                if let Ok((layout, _)) = Layout::parse(bytes) {
                    assert_eq!(Quote::read(bytes, layout), None, "{protocol}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(v4 in samples::hostile(4), v6 in samples::hostile(6)) {
            for mut bytes in [v4, v6] {
                let Ok((layout, length)) = Layout::parse(&bytes) else { continue };
                bytes.truncate(length);
                if let Some(quote) = Quote::read(&bytes, layout) {
                    quote.set(&mut bytes, layout, End::Source, Host::NONE, Some(1));
                }
            }
        }

        /// Whatever a forged error quotes, and however little.
        #[test]
        fn hostile_quotes_do_no_harm(mut quoted in proptest::collection::vec(any::<u8>(), 0..70), v6: bool, first in 0..4_u8) {
            if let Some(byte) = quoted.first_mut() {
                *byte = [0x45, 0x60, 0x4f, *byte][usize::from(first)];
            }
            let sample = if v6 { samples::UNREACHABLE_V6 } else { samples::UNREACHABLE_V4 };
            let whole = Layout::parse(sample).unwrap().0;
            let mut bytes = [&sample[..whole.payload_offset()], &quoted].concat();
            let length = bytes.len() as u16;
            if v6 {
                bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
            } else {
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            crate::pipeline::testing::frame::fix_checksums(&mut bytes);
            let layout = Layout::parse(&bytes).unwrap().0;
            if let Some(quote) = Quote::read(&bytes, layout) {
                quote.set(&mut bytes, layout, End::Destination, Host::NONE, Some(9));
                prop_assert_eq!(flaw(&bytes), None);
            }
        }
    }
}
