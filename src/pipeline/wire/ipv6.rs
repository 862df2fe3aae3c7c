//! IPv6 and its extension headers (RFC 8200).

use core::net::Ipv6Addr;

use super::{Malformed, array, be16, be32, protocol};

/// Length of the fixed header.
pub const HEADER: usize = 40;
/// Extension headers that are walked at most; a packet with more is refused (RFC 8504 section 5.3 allows a limit).
pub const MAX_EXTENSION_HEADERS: usize = 8;

pub(super) mod field {
    pub(crate) const PAYLOAD_LENGTH: usize = 4;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SOURCE: usize = 8;
    pub(crate) const DESTINATION: usize = 24;
}

/// An IPv6 packet in any byte buffer. Bytes behind its payload length are no part of it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<T>(T);

/// Where the extension headers of a packet lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extensions {
    /// The first next-header value that is no extension header: the transport, ESP, "no next header", or anything
    /// unknown. In a later fragment: what its Fragment header names, of which no header is there to be read.
    pub protocol: u8,
    /// Offset of that header, or of the payload of a later fragment.
    pub transport: usize,
    /// The Fragment header, unless it is "atomic" (a whole datagram, RFC 6946).
    pub fragment: Option<Fragment>,
    /// A Routing header has segments left: the address in the fixed header is not the final destination, and the
    /// transport checksum covers the final one (RFC 8200 section 8.1).
    pub routed: bool,
}

/// A Fragment header (RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Where the payload belongs in the fragmentable part, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Which datagram the fragment belongs to.
    pub id: u32,
    /// First header of the fragmentable part: the same in all fragments of a datagram.
    pub protocol: u8,
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks version and payload length. Extension headers are checked by [`Ipv6::extensions`].
    ///
    /// # Errors
    /// [`Malformed`] if the buffer is shorter than the packet says, the version is not 6, or it is a jumbogram.
    #[inline]
    pub fn new(buffer: T) -> Result<Self, Malformed> {
        check(buffer.as_ref())?;
        Ok(Self(buffer))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Traffic class: codepoint and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.bytes(), 0) >> 4) as u8
    }

    /// Differentiated services codepoint (RFC 2474), 0..=63.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// ECN codepoint (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        be32(self.bytes(), 0) & 0x000f_ffff
    }

    /// Length behind the fixed header, extension headers included.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(be16(self.bytes(), field::PAYLOAD_LENGTH))
    }

    /// Length of the packet in bytes, fixed header included: up to 65,575.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER + self.payload_len()
    }

    /// What follows the fixed header: an extension header or the transport.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes()[field::NEXT_HEADER]
    }

    /// Hops left.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[field::HOP_LIMIT]
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes(), field::SOURCE))
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(array::<16>(self.bytes(), field::DESTINATION))
    }

    /// Walks the extension headers.
    ///
    /// # Errors
    /// [`Malformed`] if one overruns the packet or there are more than [`MAX_EXTENSION_HEADERS`].
    #[inline]
    pub fn extensions(&self) -> Result<Extensions, Malformed> {
        walk(&self.bytes()[..self.total_len()])
    }

    /// The buffer, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<'a> Ipv6<&'a [u8]> {
    /// What lies behind the fixed header, extension headers included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER..self.total_len()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.0.as_mut()[field::HOP_LIMIT] = hops;
    }

    /// Sets codepoint and ECN; no checksum covers them.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let bytes = self.0.as_mut();
        bytes[0] = bytes[0] & 0xf0 | class >> 4;
        bytes[1] = bytes[1] & 0x0f | class << 4;
    }

    /// Sets the ECN codepoint (the low two bits of `ecn`); no checksum covers it.
    #[inline]
    pub fn set_ecn(&mut self, ecn: u8) {
        self.set_traffic_class(self.traffic_class() & !3 | ecn & 3);
    }
}

/// Total length of a well-formed packet.
#[inline]
pub(super) fn check(bytes: &[u8]) -> Result<usize, Malformed> {
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::BadVersion);
    }
    let length = usize::from(be16(header, field::PAYLOAD_LENGTH));
    // A jumbogram says zero; its Hop-by-Hop header carries the true length. Linux's BIG TCP may leave that header out.
    if length == 0
        && (header[field::NEXT_HEADER] == protocol::HOP_BY_HOP && bytes.len() > HEADER
            || bytes.len() > HEADER + 0xffff)
    {
        return Err(Malformed::Jumbo);
    }
    if HEADER + length > bytes.len() {
        return Err(Malformed::Truncated);
    }
    Ok(HEADER + length)
}

/// Walks the extension headers of a packet that [`check`] accepted, cut to its length.
pub(super) fn walk(packet: &[u8]) -> Result<Extensions, Malformed> {
    let mut found =
        Extensions { protocol: packet[field::NEXT_HEADER], transport: HEADER, fragment: None, routed: false };
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !step(packet, &mut found)? {
            return Ok(found);
        }
    }
    if is_extension(found.protocol) && !found.ends_at_fragment() {
        return Err(Malformed::TooManyExtensionHeaders);
    }
    Ok(found)
}

impl Extensions {
    /// Nothing more can be read: the payload of a later fragment, or a second Fragment header, which no host builds.
    fn ends_at_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0 || self.protocol == protocol::FRAGMENT)
    }
}

/// Whether the walk goes on behind a header of this kind.
#[inline]
pub(super) const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
    )
}

/// Steps over one extension header; false if there is none at this place.
fn step(packet: &[u8], found: &mut Extensions) -> Result<bool, Malformed> {
    if !is_extension(found.protocol) || found.ends_at_fragment() {
        return Ok(false);
    }
    // Every extension header is at least 8 bytes long.
    let header: &[u8; 8] = packet[found.transport..].first_chunk().ok_or(Malformed::BadExtensionHeader)?;
    let units = usize::from(header[1]);
    let length = match found.protocol {
        protocol::FRAGMENT => {
            let word = be16(header, 2);
            let (offset, more) = (word & 0xfff8, word & 1 != 0);
            if offset != 0 || more {
                found.fragment = Some(Fragment { offset, more, id: be32(header, 4), protocol: header[0] });
            }
            8
        }
        protocol::AUTHENTICATION => (units + 2) * 4,
        kind => {
            found.routed |= kind == protocol::ROUTING && header[3] != 0;
            (units + 1) * 8
        }
    };
    if found.transport + length > packet.len() {
        return Err(Malformed::BadExtensionHeader);
    }
    found.transport += length;
    found.protocol = header[0];
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    #[test]
    fn fields_of_a_foreign_packet() {
        let bytes = samples::udp_v6(b"hello");
        let packet = Ipv6::new(&bytes[..]).unwrap();
        assert_eq!((packet.dscp(), packet.ecn(), packet.flow_label()), (46, 2, 0xabcde));
        assert_eq!((packet.payload_len(), packet.total_len()), (13, 53));
        assert_eq!((packet.next_header(), packet.hop_limit()), (17, 9));
        assert_eq!(packet.source(), "2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.destination(), "2001:db8:1::2".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.payload(), &bytes[40..]);
    }

    #[test]
    fn setters_are_read_back_by_etherparse() {
        let mut bytes = samples::udp_v6(b"hello");
        let mut packet = Ipv6::new(&mut bytes).unwrap();
        packet.set_hop_limit(3);
        packet.set_ecn(3);
        let header = etherparse::Ipv6HeaderSlice::from_slice(&bytes).unwrap();
        assert_eq!((header.hop_limit(), header.traffic_class()), (3, 46 << 2 | 3));
        assert_eq!(header.flow_label().value(), 0xabcde);
    }

    /// All six kinds, each found by its own length rule.
    #[test]
    fn walk_crosses_every_extension_header() {
        let chain = [
            (protocol::HOP_BY_HOP, samples::options_header(1)),
            (protocol::DESTINATION_OPTIONS, samples::options_header(0)),
            (protocol::ROUTING, vec![0, 2, 4, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            (protocol::FRAGMENT, vec![0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef]),
            (
                protocol::AUTHENTICATION,
                vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
            ),
            (protocol::MOBILITY, vec![0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let bytes = samples::v6_with_headers(&chain, protocol::UDP, &[0; 12]);
        let found = Ipv6::new(&bytes).unwrap().extensions().unwrap();
        assert_eq!((found.protocol, found.transport), (protocol::UDP, 40 + 16 + 8 + 24 + 8 + 24 + 8));
        assert!(found.routed);
        let fragment =
            Fragment { offset: 0, more: true, id: 0xdead_beef, protocol: protocol::AUTHENTICATION };
        assert_eq!(found.fragment, Some(fragment));
    }

    #[test]
    fn walk_agrees_with_etherparse_on_a_later_fragment() {
        let mut raw = Vec::new();
        let header = etherparse::Ipv6FragmentHeader::new(
            etherparse::ip_number::UDP,
            etherparse::IpFragOffset::try_new(181).unwrap(),
            true,
            0x1234_5678,
        );
        raw.extend_from_slice(&header.to_bytes());
        let bytes = samples::v6_with_headers(&[(protocol::FRAGMENT, raw)], protocol::UDP, &[7; 16]);
        let found = Ipv6::new(&bytes).unwrap().extensions().unwrap();
        let fragment = Fragment { offset: 1448, more: true, id: 0x1234_5678, protocol: protocol::UDP };
        assert_eq!(
            found,
            Extensions { protocol: 17, transport: 48, fragment: Some(fragment), routed: false }
        );
    }

    #[test]
    fn atomic_fragment_is_a_whole_datagram() {
        let chain = [(protocol::FRAGMENT, vec![0, 0, 0, 0, 1, 2, 3, 4])];
        let bytes = samples::v6_with_headers(&chain, protocol::UDP, &[0; 8]);
        assert_eq!(Ipv6::new(&bytes).unwrap().extensions().unwrap().fragment, None);
    }

    #[test]
    fn payload_of_a_later_fragment_is_not_walked() {
        let chain = [(protocol::FRAGMENT, vec![0, 0, 0, 8, 0, 0, 0, 1])];
        let bytes = samples::v6_with_headers(&chain, protocol::DESTINATION_OPTIONS, &[0xff; 8]);
        let found = Ipv6::new(&bytes).unwrap().extensions().unwrap();
        assert_eq!((found.protocol, found.transport), (protocol::DESTINATION_OPTIONS, 48));
    }

    #[test]
    fn eight_headers_pass_and_nine_are_refused() {
        let mut chain = vec![(protocol::DESTINATION_OPTIONS, samples::options_header(0)); 8];
        let bytes = samples::v6_with_headers(&chain, protocol::TCP, &[]);
        assert_eq!(Ipv6::new(&bytes).unwrap().extensions().unwrap().transport, 40 + 64);
        chain.push(chain[0].clone());
        let bytes = samples::v6_with_headers(&chain, protocol::TCP, &[]);
        assert_eq!(Ipv6::new(&bytes).unwrap().extensions(), Err(Malformed::TooManyExtensionHeaders));
    }

    #[test]
    fn jumbograms_and_overruns_are_refused() {
        let mut bytes = samples::v6_with_headers(&[(0, samples::options_header(3))], protocol::UDP, &[]);
        bytes.truncate(40 + 31);
        assert_eq!(Ipv6::new(&bytes).unwrap_err(), Malformed::Truncated);
        bytes[5] = 31;
        assert_eq!(Ipv6::new(&bytes).unwrap().extensions(), Err(Malformed::BadExtensionHeader));
        bytes[5] = 0;
        assert_eq!(Ipv6::new(&bytes).unwrap_err(), Malformed::Jumbo);
        assert_eq!(Ipv6::new(&bytes[..39]).unwrap_err(), Malformed::Truncated);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(mut bytes in samples::hostile(6)) {
            let length = bytes.len();
            if let Ok(mut packet) = Ipv6::new(&mut bytes) {
                if let Ok(found) = packet.extensions() {
                    prop_assert!(found.transport <= packet.total_len());
                }
                packet.set_ecn(3);
                packet.set_hop_limit(1);
                prop_assert_eq!((packet.ecn(), packet.hop_limit()), (3, 1));
                prop_assert!(packet.total_len() <= length);
            }
        }
    }

    #[test]
    fn ecn_is_set_beside_the_codepoint() {
        let mut bytes = samples::udp_v6(b"hello");
        let mut packet = Ipv6::new(&mut bytes).unwrap();
        for ecn in [0, 1, 2, 3, 0] {
            // Only the low two bits count.
            packet.set_ecn(ecn | 0xf8);
            assert_eq!((packet.dscp(), packet.ecn(), packet.flow_label()), (46, ecn, 0xabcde));
        }
    }
}
