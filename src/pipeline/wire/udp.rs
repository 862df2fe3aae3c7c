//! UDP (RFC 768).

use super::{Malformed, be16, put16};

/// Length of the header.
pub const HEADER: usize = 8;

pub(super) mod field {
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}

/// A UDP datagram in any byte buffer. Bytes behind its length are no part of it.
#[derive(Debug, Clone, Copy)]
pub struct Udp<T>(T);

impl<T: AsRef<[u8]>> Udp<T> {
    /// Checks the length; the checksum is not checked.
    ///
    /// # Errors
    /// [`Malformed`] if the buffer is shorter than the datagram says, or its length is below 8.
    #[inline]
    pub fn new(buffer: T) -> Result<Self, Malformed> {
        check(buffer.as_ref())?;
        Ok(Self(buffer))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Source port.
    #[inline]
    pub fn source_port(&self) -> u16 {
        be16(self.bytes(), field::SOURCE_PORT)
    }

    /// Destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        be16(self.bytes(), field::DESTINATION_PORT)
    }

    /// Length of header and payload in bytes, at least 8.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.bytes(), field::LENGTH))
    }

    /// Checksum, as it stands; zero means none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.bytes(), field::CHECKSUM)
    }

    /// The buffer, given back.
    #[inline]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<'a> Udp<&'a [u8]> {
    /// The data of the datagram.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER..self.total_len()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the checksum field as it is; see [`super::checksum::udp`] for the rule of zero.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put16(self.0.as_mut(), field::CHECKSUM, checksum);
    }
}

/// Length of a well-formed datagram.
#[inline]
pub(super) fn check(bytes: &[u8]) -> Result<usize, Malformed> {
    let header: &[u8; HEADER] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
    let length = usize::from(be16(header, field::LENGTH));
    if length < HEADER {
        Err(Malformed::BadTotalLength)
    } else if length > bytes.len() {
        Err(Malformed::Truncated)
    } else {
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn agrees_with_etherparse() {
        let header = etherparse::UdpHeader::with_ipv4_checksum(
            53,
            4000,
            &etherparse::Ipv4Header::new(3, 64, etherparse::ip_number::UDP, [10, 0, 0, 1], [10, 0, 0, 2])
                .unwrap(),
            b"abc",
        )
        .unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(b"abc and what is behind");
        let mut udp = Udp::new(&mut bytes).unwrap();
        assert_eq!((udp.source_port(), udp.destination_port(), udp.total_len()), (53, 4000, 11));
        assert_eq!(udp.checksum(), header.checksum);
        udp.set_checksum(0x1234);
        let (read, _) = etherparse::UdpHeader::from_slice(&bytes).unwrap();
        assert_eq!(read.checksum, 0x1234);
        assert_eq!(Udp::new(&bytes[..]).unwrap().payload(), b"abc");
    }

    #[test]
    fn lying_lengths_are_refused() {
        assert_eq!(Udp::new([0; 7]).unwrap_err(), Malformed::Truncated);
        assert_eq!(Udp::new([0, 1, 0, 2, 0, 7, 0, 0]).unwrap_err(), Malformed::BadTotalLength);
        assert_eq!(Udp::new([0, 1, 0, 2, 0, 9, 0, 0]).unwrap_err(), Malformed::Truncated);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(udp) = Udp::new(&bytes[..]) {
                prop_assert_eq!(udp.payload().len() + 8, udp.total_len());
            }
        }
    }
}
