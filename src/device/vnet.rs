//! The header in front of each frame of a TUN device: it says which checksum and segmentation are still to be done.
//!
//! `struct virtio_net_hdr`, virtio 1.2 section 5.1.6, without `num_buffers`, in the host's byte order:
//!
//! ```text
//!  0       flags        NEEDS_CSUM 1, DATA_VALID 2
//!  1       gso_type     NONE 0, TCPV4 1, UDP 3, TCPV6 4, UDP_L4 5; ECN 0x80
//!  2..4    hdr_len      bytes of all headers of a train: a hint
//!  4..6    gso_size     bytes of payload of each of its segments
//!  6..8    csum_start   where the checksum's range starts
//!  8..10   csum_offset  where it is stored, from there
//! ```

use std::ops::Range;

/// Bytes of the header.
pub const LEN: usize = 10;

mod field {
    use super::Range;
    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const HDR_LEN: Range<usize> = 2..4;
    pub(super) const GSO_SIZE: Range<usize> = 4..6;
    pub(super) const CSUM_START: Range<usize> = 6..8;
    pub(super) const CSUM_OFFSET: Range<usize> = 8..10;
}

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const ECN: u8 = 0x80;

/// Why a frame's header is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadFrame {
    /// Shorter than the header.
    #[error("the frame is shorter than its {LEN}-byte virtio header")]
    Short,
    /// A segmentation type that was not negotiated, or is no such type.
    #[error("the virtio header has the unknown segmentation type {0:#04x}")]
    GsoType(u8),
    /// A train whose segments would be empty.
    #[error("the virtio header tells of segments without payload")]
    GsoSize,
    /// The checksum lies outside the packet.
    #[error("the virtio header puts the checksum outside the packet")]
    Checksum,
}

/// How a train is to be cut into wire packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// One UDP datagram to be cut into IP fragments (UFO). Faultwire never asks for it.
    UdpFragments,
    /// UDP datagrams, over IPv4 or IPv6 (USO).
    Udp,
}

/// A train: its segments' kind and payload size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// How to cut.
    pub segmentation: Segmentation,
    /// Payload bytes of each segment but the last, which may be shorter; at least 1.
    pub size: u16,
    /// Bytes of the IP and transport headers, as the sender believes: a hint, to be checked against the packet.
    pub hdr_len: u16,
    /// The first segment alone carries CWR.
    pub ecn: bool,
}

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: it is complete in the packet, right or wrong.
    #[default]
    Complete,
    /// The field holds the sum of the pseudo-header only; the sum over `start..` of the packet is to be added and
    /// stored at `start + offset`.
    Partial {
        /// Where its range starts, in bytes from the start of the packet.
        start: u16,
        /// Where it is stored, in bytes from `start`.
        offset: u16,
    },
    /// It was checked and is right.
    Valid,
}

/// A parsed header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum.
    pub checksum: Checksum,
    /// Set for trains.
    pub gso: Option<Gso>,
}

impl VnetHeader {
    /// Splits a frame into its header and its packet.
    ///
    /// A header that passes puts the checksum inside the packet and has segments with payload; nothing else of the
    /// packet has been looked at.
    ///
    /// # Errors
    /// [`BadFrame`] if not.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), BadFrame> {
        let (header, packet) = frame.split_first_chunk::<LEN>().ok_or(BadFrame::Short)?;
        let checksum = parse_checksum(header, packet.len())?;
        Ok((Self { checksum, gso: parse_gso(header)? }, packet))
    }

    /// The header's bytes, to be written in front of a packet.
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        match self.checksum {
            Checksum::Complete => {}
            Checksum::Valid => bytes[field::FLAGS] = DATA_VALID,
            Checksum::Partial { start, offset } => {
                bytes[field::FLAGS] = NEEDS_CSUM;
                bytes[field::CSUM_START].copy_from_slice(&start.to_ne_bytes());
                bytes[field::CSUM_OFFSET].copy_from_slice(&offset.to_ne_bytes());
            }
        }
        if let Some(gso) = self.gso {
            bytes[field::GSO_TYPE] = gso.segmentation.code() | if gso.ecn { ECN } else { 0 };
            bytes[field::HDR_LEN].copy_from_slice(&gso.hdr_len.to_ne_bytes());
            bytes[field::GSO_SIZE].copy_from_slice(&gso.size.to_ne_bytes());
        }
        bytes
    }
}

/// Moves the offsets that count from the start of the packet by `bytes`, for a device whose frames have more in front of it.
pub(super) fn shift(header: &mut [u8; LEN], bytes: i32) {
    let mut moved = |at: Range<usize>| {
        let value = i32::from(word(header, at.clone())) + bytes;
        header[at].copy_from_slice(&(value.max(0) as u16).to_ne_bytes());
    };
    moved(field::HDR_LEN);
    moved(field::CSUM_START);
}

impl Segmentation {
    const fn code(self) -> u8 {
        match self {
            Self::TcpV4 => 1,
            Self::UdpFragments => 3,
            Self::TcpV6 => 4,
            Self::Udp => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::TcpV4),
            3 => Some(Self::UdpFragments),
            4 => Some(Self::TcpV6),
            5 => Some(Self::Udp),
            _ => None,
        }
    }
}

fn parse_checksum(header: &[u8; LEN], packet_len: usize) -> Result<Checksum, BadFrame> {
    let flags = header[field::FLAGS];
    if flags & NEEDS_CSUM == 0 {
        return Ok(if flags & DATA_VALID == 0 { Checksum::Complete } else { Checksum::Valid });
    }
    let (start, offset) = (word(header, field::CSUM_START), word(header, field::CSUM_OFFSET));
    if usize::from(start) + usize::from(offset) + 2 > packet_len {
        return Err(BadFrame::Checksum);
    }
    Ok(Checksum::Partial { start, offset })
}

fn parse_gso(header: &[u8; LEN]) -> Result<Option<Gso>, BadFrame> {
    let kind = header[field::GSO_TYPE];
    if kind & !ECN == 0 {
        return Ok(None);
    }
    let segmentation = Segmentation::from_code(kind & !ECN).ok_or(BadFrame::GsoType(kind))?;
    let size = word(header, field::GSO_SIZE);
    if size == 0 {
        return Err(BadFrame::GsoSize);
    }
    Ok(Some(Gso { segmentation, size, hdr_len: word(header, field::HDR_LEN), ecn: kind & ECN != 0 }))
}

fn word(header: &[u8; LEN], at: Range<usize>) -> u16 {
    u16::from_ne_bytes([header[at.start], header[at.start + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Linux hands over a TCP train of 1448-byte segments, IPv4 with timestamps: laid out by hand from the
    /// specification.
    fn tcp_train() -> Vec<u8> {
        let mut frame = vec![1, 1];
        for word in [52_u16, 1448, 20, 16] {
            frame.extend(word.to_ne_bytes());
        }
        frame.resize(LEN + 52 + 2 * 1448, 0xab);
        frame
    }

    #[test]
    fn a_tcp_train_parses_to_its_fields() {
        let frame = tcp_train();
        let (header, packet) = VnetHeader::parse(&frame).unwrap();
        assert_eq!(header.checksum, Checksum::Partial { start: 20, offset: 16 });
        let gso = Gso { segmentation: Segmentation::TcpV4, size: 1448, hdr_len: 52, ecn: false };
        assert_eq!(header.gso, Some(gso));
        assert_eq!(packet.len(), 52 + 2 * 1448);
        assert_eq!(header.emit(), frame[..LEN]);
    }

    #[test]
    fn the_ecn_bit_and_every_type_have_the_specified_codes() {
        for (code, segmentation) in [
            (1, Segmentation::TcpV4),
            (3, Segmentation::UdpFragments),
            (4, Segmentation::TcpV6),
            (5, Segmentation::Udp),
        ] {
            let gso = Gso { segmentation, size: 100, hdr_len: 40, ecn: true };
            let header = VnetHeader { checksum: Checksum::Complete, gso: Some(gso) };
            assert_eq!(header.emit()[1], code | 0x80);
            assert_eq!(VnetHeader::parse(&header.emit()).unwrap().0, header);
        }
        assert_eq!(VnetHeader { checksum: Checksum::Valid, gso: None }.emit()[0], 2);
        assert_eq!(VnetHeader::default().emit(), [0; LEN]);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let mut frame = tcp_train();
        assert_eq!(VnetHeader::parse(&frame[..LEN - 1]), Err(BadFrame::Short));
        assert_eq!(VnetHeader::parse(&frame[..LEN + 37]), Err(BadFrame::Checksum));
        assert!(VnetHeader::parse(&frame[..LEN + 38]).is_ok());
        frame[4..6].fill(0);
        assert_eq!(VnetHeader::parse(&frame), Err(BadFrame::GsoSize));
        frame[1] = 2;
        assert_eq!(VnetHeader::parse(&frame), Err(BadFrame::GsoType(2)));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_and_what_parses_is_safe_to_use(frame: Vec<u8>) {
            if let Ok((header, packet)) = VnetHeader::parse(&frame) {
                if let Checksum::Partial { start, offset } = header.checksum {
                    prop_assert!(packet.get(usize::from(start) + usize::from(offset) + 1).is_some());
                }
                prop_assert_ne!(header.gso.map(|gso| gso.size), Some(0));
                let again = [&header.emit(), packet].concat();
                prop_assert_eq!(VnetHeader::parse(&again), Ok((header, packet)));
            }
        }
    }
}
