//! QUIC as an on-looker sees it: what never changes between versions (RFC 8999), and the types of long headers in
//! versions 1 (RFC 9000 section 17.2) and 2 (RFC 9369 section 3.2).
//!
//! Nothing is decrypted. A datagram can carry several packets (RFC 9000 section 12.2): those of long headers that say how
//! long they are, and whatever comes last. What does not parse ends the walk.

const LONG: u8 = 0x80;
/// Set in every packet of versions 1 and 2, unless both sides agreed to grease it (RFC 9287).
const FIXED: u8 = 0x40;

const NEGOTIATION: u32 = 0;
const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;

/// What a QUIC packet can be (RFC 9000 section 17, RFC 9369 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum QuicPacket {
    /// Long header, type Initial.
    Initial = 1 << 0,
    /// Long header, type 0-RTT.
    ZeroRtt = 1 << 1,
    /// Long header, type Handshake.
    Handshake = 1 << 2,
    /// Long header, type Retry.
    Retry = 1 << 3,
    /// Long header, version 0 (RFC 8999 section 6).
    VersionNegotiation = 1 << 4,
    /// Short header: 1-RTT.
    Short = 1 << 5,
}

/// One packet of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic<'a> {
    /// What it is; `None` for a long header of a version whose types are not known.
    pub packet: Option<QuicPacket>,
    /// Its destination connection ID. Of a short header, which does not tell its length: everything from where it begins.
    pub destination: &'a [u8],
}

/// The packets of a datagram that begins with a long header, or the one with a short header that it begins with.
#[derive(Debug, Clone)]
pub struct Packets<'a> {
    left: &'a [u8],
    is_first: bool,
}

/// The packets in the payload of a UDP datagram. A short header behind a long one is not among them.
pub const fn packets(datagram: &[u8]) -> Packets<'_> {
    Packets { left: datagram, is_first: true }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Quic<'a>;

    fn next(&mut self) -> Option<Quic<'a>> {
        let mut reader = Reader(std::mem::take(&mut self.left));
        let is_first = std::mem::replace(&mut self.is_first, false);
        let form = reader.byte()?;
        if form & LONG == 0 {
            let is_short = is_first && form & FIXED != 0;
            return is_short.then_some(Quic { packet: Some(QuicPacket::Short), destination: reader.0 });
        }
        let version = u32::from_be_bytes(*reader.0.first_chunk()?);
        reader.take(4)?;
        let destination = reader.counted()?;
        // The source connection ID.
        reader.counted()?;
        let packet = packet_type(form, version);
        self.left = match packet {
            Some(QuicPacket::Initial) => behind_initial(reader),
            Some(QuicPacket::ZeroRtt | QuicPacket::Handshake) => behind(reader),
            _ => None,
        }
        .unwrap_or_default();
        Some(Quic { packet, destination })
    }
}

const fn packet_type(form: u8, version: u32) -> Option<QuicPacket> {
    // In version 2 the numbers are one further.
    let kind = match version {
        NEGOTIATION => return Some(QuicPacket::VersionNegotiation),
        VERSION_1 => form >> 4,
        VERSION_2 => (form >> 4).wrapping_sub(1),
        _ => return None,
    };
    Some(match kind & 3 {
        0 => QuicPacket::Initial,
        1 => QuicPacket::ZeroRtt,
        2 => QuicPacket::Handshake,
        _ => QuicPacket::Retry,
    })
}

/// What follows an Initial, from its token on.
fn behind_initial(mut reader: Reader<'_>) -> Option<&[u8]> {
    let token = reader.number()?;
    reader.take(token)?;
    behind(reader)
}

/// What follows a packet, from its length on.
fn behind(mut reader: Reader<'_>) -> Option<&[u8]> {
    let length = reader.number()?;
    reader.take(length)?;
    Some(reader.0)
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// Bytes behind one that counts them.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = (1_u64 << (first >> 6)) - 1;
        let rest = self.take(more)?;
        Some(rest.iter().fold(u64::from(first & 0x3f), |number, &byte| number << 8 | u64::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// Types and connection IDs of the packets of a datagram.
    fn read(datagram: &[u8]) -> Vec<(Option<QuicPacket>, Vec<u8>)> {
        packets(datagram).map(|quic| (quic.packet, quic.destination.to_vec())).collect()
    }

    /// RFC 9001 appendix A.2, as it is on the wire; the frames are not read here and are blank.
    fn client_initial() -> Vec<u8> {
        let mut datagram = bytes("c000000001088394c8f03e5157080000449e7b9aec34");
        datagram.resize(1_200, 0);
        datagram
    }

    /// RFC 9001 appendix A.3, whole.
    const SERVER_INITIAL: &str = "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a\
        5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3\
        dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84\
        022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4\
        2158407dd074ee";

    #[test]
    fn samples_of_version_1_are_what_the_standard_calls_them() {
        let client = bytes("8394c8f03e515708");
        assert_eq!(read(&client_initial()), [(Some(QuicPacket::Initial), client)]);
        assert_eq!(read(&bytes(SERVER_INITIAL)), [(Some(QuicPacket::Initial), vec![])]);
        // Appendix A.4 and A.5.
        let retry = bytes("ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba");
        assert_eq!(read(&retry), [(Some(QuicPacket::Retry), vec![])]);
        let short = bytes("4cfe4189655e5cd55c41f69080575d7999c25a5bfb");
        assert_eq!(read(&short), [(Some(QuicPacket::Short), short[1..].to_vec())]);
    }

    /// RFC 9369 appendix A.
    #[test]
    fn samples_of_version_2_are_what_the_standard_calls_them() {
        let client = bytes("d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485");
        assert_eq!(read(&client), [(Some(QuicPacket::Initial), bytes("8394c8f03e515708"))]);
        let server = bytes("dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698");
        assert_eq!(read(&server), [(Some(QuicPacket::Initial), vec![])]);
        let retry = bytes("cf6b3343cf0008f067a5502a4262b5746f6b656ec8646ce8bfe33952d955543665dcc7b6");
        assert_eq!(read(&retry), [(Some(QuicPacket::Retry), vec![])]);
    }

    /// The other types by hand: 0x10 is 0-RTT in version 1 and Initial in version 2, and so on (RFC 9369 section 3.2).
    #[test]
    fn each_version_has_its_types() {
        use QuicPacket::{Handshake, Initial, Retry, ZeroRtt};
        for (version, types) in [
            ("00000001", [Initial, ZeroRtt, Handshake, Retry]),
            ("6b3343cf", [Retry, Initial, ZeroRtt, Handshake]),
        ] {
            for (form, packet) in ["c0", "d0", "e0", "f0"].into_iter().zip(types) {
                assert_eq!(
                    read(&bytes(&format!("{form}{version}01aa00"))),
                    [(Some(packet), vec![0xaa])],
                    "{form}"
                );
            }
        }
        // Version negotiation, whatever else is in its first byte; and a version of which only the invariants are known.
        assert_eq!(
            read(&bytes("80000000000155020102000000016b3343cf")),
            [(Some(QuicPacket::VersionNegotiation), vec![0x55])]
        );
        assert_eq!(read(&bytes("c0ff00001d02abcd00")), [(None, vec![0xab, 0xcd])]);
    }

    #[test]
    fn coalesced_packets_are_all_there() {
        // Initial with a token of 2 and a length of 3, Handshake with a length of 4 (written in two bytes), short header.
        let datagram = bytes("c00000000101aa0002999903000000e00000000101bb00400400000000451122334455");
        assert_eq!(
            read(&datagram),
            [(Some(QuicPacket::Initial), vec![0xaa]), (Some(QuicPacket::Handshake), vec![0xbb])]
        );
        let server = bytes(SERVER_INITIAL);
        let twice = [&server[..], &server[..]].concat();
        assert_eq!(read(&twice).len(), 2);
        // Nothing can be told of what comes behind a packet whose length lies.
        assert_eq!(read(&bytes("c00000000101aa000041000000e00000000101bb000000")).len(), 1);
    }

    #[test]
    fn what_is_cut_short_or_something_else_is_no_quic() {
        let whole = bytes("e0000000010311223304aabbccdd00");
        for length in 0..14 {
            assert_eq!(read(&whole[..length]), [], "{length}");
        }
        assert_eq!(read(&whole[..14]).len(), 1);
        // A DNS query, STUN, DTLS: neither the long form nor the fixed bit (RFC 9443).
        for first in [0x12, 0x00, 0x16] {
            assert_eq!(read(&[first; 40]), []);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(
            form in prop_oneof![any::<u8>(), Just(0xc0), Just(0xe0)],
            version in prop_oneof![Just([0, 0, 0, 1]), Just([0x6b, 0x33, 0x43, 0xcf]), Just([0; 4]), any::<[u8; 4]>()],
            rest in proptest::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..200),
        ) {
            let datagram = [&[form][..], &version, &rest].concat();
            let mut count = 0;
            for quic in packets(&datagram) {
                prop_assert!(quic.destination.len() < datagram.len());
                count += 1;
            }
            prop_assert!(count <= datagram.len() / 7 + 1, "every one takes bytes");
            for length in 0..datagram.len() {
                prop_assert!(packets(&datagram[..length]).count() <= count.max(1));
            }
        }
    }
}
