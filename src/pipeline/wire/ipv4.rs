//! IPv4 (RFC 791 section 3.1).

use core::net::Ipv4Addr;

use super::{Malformed, array, be16, checksum, put16};

/// Length of the header without options.
pub const MIN_HEADER: usize = 20;
/// Largest length of the header.
pub const MAX_HEADER: usize = 60;

pub(super) mod field {
    pub(crate) const VERSION_IHL: usize = 0;
    pub(crate) const TOS: usize = 1;
    pub(crate) const TOTAL_LENGTH: usize = 2;
    pub(crate) const ID: usize = 4;
    pub(crate) const FLAGS_OFFSET: usize = 6;
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SOURCE: usize = 12;
    pub(crate) const DESTINATION: usize = 16;
    pub(crate) const OPTIONS: usize = 20;
}

/// "Don't fragment" in the flags word.
pub(super) const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the flags word.
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;
/// Fragment offset in the flags word, in units of 8 bytes.
pub(super) const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 packet in any byte buffer. Bytes behind its total length are no part of it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<T>(T);

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks version, header length and total length. Options and payload are not looked into, nor is the checksum.
    ///
    /// # Errors
    /// [`Malformed`] if the buffer is shorter than the packet says, the lengths contradict each other, or the version
    /// is not 4.
    #[inline]
    pub fn new(buffer: T) -> Result<Self, Malformed> {
        check(buffer.as_ref())?;
        Ok(Self(buffer))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Length of the header in bytes, options included: 20..=60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::VERSION_IHL] & 0x0f) * 4
    }

    /// Differentiated services codepoint (RFC 2474), 0..=63.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.bytes()[field::TOS] >> 2
    }

    /// ECN codepoint (RFC 3168): 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.bytes()[field::TOS] & 3
    }

    /// Length of the packet in bytes, header included.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.bytes(), field::TOTAL_LENGTH))
    }

    /// Identification: which datagram a fragment belongs to.
    #[inline]
    pub fn id(&self) -> u16 {
        be16(self.bytes(), field::ID)
    }

    #[inline]
    pub(super) fn flags_offset(&self) -> u16 {
        be16(self.bytes(), field::FLAGS_OFFSET)
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_offset() & DONT_FRAGMENT != 0
    }

    /// Whether more fragments of the datagram follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.flags_offset() & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the datagram, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_offset() & OFFSET_MASK) * 8
    }

    /// Whether this is a part of a datagram only.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Time to live, in hops.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes()[field::TTL]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes()[field::PROTOCOL]
    }

    /// Header checksum, as it stands.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), field::CHECKSUM)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn has_valid_checksum(&self) -> bool {
        checksum::is_valid(0, &self.bytes()[..self.header_len()])
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes(), field::SOURCE))
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(self.bytes(), field::DESTINATION))
    }

    /// The buffer, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<'a> Ipv4<&'a [u8]> {
    /// Options, padding included; empty for most packets.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        &self.0[field::OPTIONS..self.header_len()]
    }

    /// What the packet carries: from the end of the header to the total length.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[self.header_len()..self.total_len()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Replaces an aligned word of the header and adjusts the header checksum by the change (RFC 1624).
    #[inline]
    fn rewrite(&mut self, at: usize, new: u16) {
        let bytes = self.0.as_mut();
        let sum = checksum::update16(be16(bytes, field::CHECKSUM), be16(bytes, at), new);
        put16(bytes, at, new);
        put16(bytes, field::CHECKSUM, sum);
    }

    /// Sets the time to live; the header checksum follows.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let protocol = self.protocol();
        self.rewrite(field::TTL, u16::from_be_bytes([ttl, protocol]));
    }

    #[inline]
    fn set_tos(&mut self, tos: u8) {
        let first = self.bytes()[field::VERSION_IHL];
        self.rewrite(field::VERSION_IHL, u16::from_be_bytes([first, tos]));
    }

    /// Sets the ECN codepoint (the low two bits of `ecn`); the header checksum follows.
    #[inline]
    pub fn set_ecn(&mut self, ecn: u8) {
        self.set_tos(self.dscp() << 2 | ecn & 3);
    }

    /// Sets the differentiated services codepoint (the low six bits of `dscp`); the header checksum follows.
    #[inline]
    pub fn set_dscp(&mut self, dscp: u8) {
        self.set_tos(dscp << 2 | self.ecn());
    }

    /// Sets the identification; the header checksum follows.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.rewrite(field::ID, id);
    }

    /// Sets or clears "don't fragment"; the header checksum follows.
    #[inline]
    pub fn set_dont_fragment(&mut self, on: bool) {
        let rest = self.flags_offset() & !DONT_FRAGMENT;
        self.rewrite(field::FLAGS_OFFSET, if on { rest | DONT_FRAGMENT } else { rest });
    }

    /// Computes the header checksum anew, whatever it was.
    #[inline]
    pub fn fill_checksum(&mut self) {
        let end = self.header_len();
        fill_header_checksum(&mut self.0.as_mut()[..end]);
    }
}

/// Computes the checksum of a whole header.
#[inline]
pub(super) fn fill_header_checksum(header: &mut [u8]) {
    put16(header, field::CHECKSUM, 0);
    let sum = !checksum::sum(header);
    put16(header, field::CHECKSUM, sum);
}

/// Header length and total length of a well-formed packet.
#[inline]
pub(super) fn check(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    let header: &[u8; MIN_HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
    if header[field::VERSION_IHL] >> 4 != 4 {
        return Err(Malformed::BadVersion);
    }
    let length = usize::from(header[field::VERSION_IHL] & 0x0f) * 4;
    let total = usize::from(be16(header, field::TOTAL_LENGTH));
    if length < MIN_HEADER {
        return Err(Malformed::BadHeaderLength);
    }
    if total < length {
        return Err(Malformed::BadTotalLength);
    }
    if total > bytes.len() {
        return Err(Malformed::Truncated);
    }
    Ok((length, total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    #[test]
    fn fields_of_a_captured_packet() {
        let packet = Ipv4::new(samples::SYN_V4).unwrap();
        assert_eq!(packet.header_len(), 20);
        assert_eq!((packet.dscp(), packet.ecn()), (0, 0));
        assert_eq!(packet.total_len(), 60);
        assert_eq!(packet.id(), 0x678e);
        assert!(packet.dont_fragment() && !packet.more_fragments() && !packet.is_fragment());
        assert_eq!((packet.ttl(), packet.protocol()), (64, 6));
        assert_eq!(packet.source(), Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(packet.destination(), Ipv4Addr::new(10, 77, 0, 2));
        assert!(packet.has_valid_checksum());
        assert!(packet.options().is_empty());
        assert_eq!(packet.payload().len(), 40);
    }

    /// Every field, read back by an independent parser, and the other way round.
    #[test]
    fn agrees_with_etherparse() {
        let mut bytes = samples::fragment_with_options();
        let packet = Ipv4::new(&bytes[..]).unwrap();
        assert_eq!(packet.header_len(), 32);
        assert_eq!((packet.dscp(), packet.ecn()), (46, 2));
        assert_eq!((packet.more_fragments(), packet.fragment_offset()), (true, 1480));
        assert_eq!(packet.options(), &bytes[20..32]);
        assert!(packet.has_valid_checksum());

        let mut packet = Ipv4::new(&mut bytes).unwrap();
        packet.set_ttl(7);
        packet.set_ecn(3);
        packet.set_dscp(10);
        packet.set_id(0xbeef);
        packet.set_dont_fragment(true);
        let (header, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(header.time_to_live, 7);
        assert_eq!((header.ecn.value(), header.dscp.value()), (3, 10));
        assert_eq!(header.identification, 0xbeef);
        assert!(header.dont_fragment && header.more_fragments);
        assert_eq!(header.fragment_offset.value(), 185);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut bytes = samples::SYN_V4.to_vec();
        assert_eq!(Ipv4::new(&bytes[..19]).unwrap_err(), Malformed::Truncated);
        assert_eq!(Ipv4::new(&bytes[..59]).unwrap_err(), Malformed::Truncated);
        bytes[0] = 0x44;
        assert_eq!(Ipv4::new(&bytes).unwrap_err(), Malformed::BadHeaderLength);
        bytes[0] = 0x65;
        assert_eq!(Ipv4::new(&bytes).unwrap_err(), Malformed::BadVersion);
        bytes[0] = 0x46;
        bytes[3] = 23;
        assert_eq!(Ipv4::new(&bytes).unwrap_err(), Malformed::BadTotalLength);
        bytes[3] = 0;
        assert_eq!(Ipv4::new(&bytes).unwrap_err(), Malformed::BadTotalLength);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(mut bytes in samples::hostile(4)) {
            if let Ok(packet) = Ipv4::new(&bytes[..]) {
                prop_assert_eq!(packet.payload().len() + packet.header_len(), packet.total_len());
                prop_assert_eq!(packet.options().len() + 20, packet.header_len());
                let valid = packet.has_valid_checksum();
                let length = bytes.len();
                let mut packet = Ipv4::new(&mut bytes).unwrap();
                packet.set_ttl(3);
                packet.set_ecn(1);
                prop_assert_eq!(packet.has_valid_checksum(), valid);
                packet.fill_checksum();
                prop_assert!(packet.has_valid_checksum());
                prop_assert_eq!(bytes.len(), length);
            }
        }
    }

    #[test]
    fn setters_change_their_field_and_the_checksum_stays_right() {
        let mut bytes = samples::SYN_V4.to_vec();
        let mut ip = Ipv4::new(&mut bytes[..]).unwrap();
        assert!(ip.has_valid_checksum());
        ip.set_dscp(46);
        ip.set_ecn(3);
        assert_eq!((ip.dscp(), ip.ecn()), (46, 3));
        ip.set_ecn(1);
        assert_eq!((ip.dscp(), ip.ecn()), (46, 1));
        for on in [true, false, true] {
            ip.set_dont_fragment(on);
            assert_eq!(ip.dont_fragment(), on);
        }
        ip.set_ttl(7);
        ip.set_id(0x1234);
        assert_eq!((ip.ttl(), ip.id()), (7, 0x1234));
        assert!(ip.has_valid_checksum());
        let (header, _) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        bytes[9] ^= 1;
        assert!(!Ipv4::new(&bytes[..]).unwrap().has_valid_checksum());
    }
}
