//! Frames of TAP devices: an Ethernet header, maybe with VLAN tags, before the IP packet.
//!
//! The packet core only knows IP packets. So the link header of a frame is stored in a table of the worker, and the
//! packet carries its number. The table is small: an interface has only as many different headers as it has
//! neighbours.

use std::collections::HashMap;
use std::io;

use crate::device::tun::Queue;
use crate::device::vnet;

/// Bytes of an Ethernet header without tags.
const PLAIN: usize = 14;
/// Bytes of a VLAN tag (IEEE 802.1Q).
const TAG: usize = 4;
/// Bytes of the longest header: two tags (IEEE 802.1ad).
pub const LINK_MAX: usize = PLAIN + 2 * TAG;
/// Both addresses.
const ADDRESSES: usize = 12;
const VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// The bytes before an IP packet on Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkHeader {
    bytes: [u8; LINK_MAX],
    length: u8,
}

impl LinkHeader {
    /// The header at the start of a frame; `None` if no IP packet follows.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut length = PLAIN;
        loop {
            let header = frame.get(..length)?;
            let kind = [header[length - 2], header[length - 1]];
            if kind == IPV4 || kind == IPV6 {
                let mut bytes = [0; LINK_MAX];
                bytes[..length].copy_from_slice(header);
                return Some(Self { bytes, length: length as u8 });
            }
            if !VLAN.contains(&kind) || length + TAG > LINK_MAX {
                return None;
            }
            length += TAG;
        }
    }

    /// The header without tags of a frame with an IP packet, from one Ethernet address to another.
    pub fn ethernet(to: [u8; 6], from: [u8; 6], is_v4: bool) -> Self {
        let mut bytes = [0; LINK_MAX];
        bytes[..ADDRESSES / 2].copy_from_slice(&to);
        bytes[ADDRESSES / 2..ADDRESSES].copy_from_slice(&from);
        bytes[ADDRESSES..PLAIN].copy_from_slice(if is_v4 { &IPV4 } else { &IPV6 });
        Self { bytes, length: PLAIN as u8 }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The header of an answer: the addresses change places.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut reversed = *self;
        reversed.bytes[..ADDRESSES].rotate_left(ADDRESSES / 2);
        reversed
    }
}

/// Link headers by number.
#[derive(Debug, Default)]
pub struct LinkHeaders {
    headers: Vec<LinkHeader>,
    numbers: HashMap<LinkHeader, u16>,
    /// The number that was returned last: most packets have the same header as the packet before.
    last: u16,
}

impl LinkHeaders {
    /// Room for this many; numbers are `0..MOST`.
    pub const MOST: usize = u16::MAX as usize;

    /// The number of `header`; a new number if it has none yet. `None` if no number is free.
    #[inline]
    pub fn number(&mut self, header: &LinkHeader) -> Option<u16> {
        if self.headers.get(usize::from(self.last)) == Some(header) {
            return Some(self.last);
        }
        self.last = self.look_up(header)?;
        Some(self.last)
    }

    fn look_up(&mut self, header: &LinkHeader) -> Option<u16> {
        if let Some(&number) = self.numbers.get(header) {
            return Some(number);
        }
        if self.headers.len() >= Self::MOST {
            return None;
        }
        let number = self.headers.len() as u16;
        self.headers.push(*header);
        self.numbers.insert(*header, number);
        Some(number)
    }

    /// The header with that number.
    ///
    /// # Panics
    /// If the number was never given.
    pub fn header(&self, number: u16) -> &LinkHeader {
        &self.headers[usize::from(number)]
    }

    /// Forgets all headers; only allowed while no packet carries a number.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.numbers.clear();
    }
}

/// Reads one frame into `buffer` as a TUN device would return it: a virtio header and an IP packet. Returns the link
/// header that was between them, `None` if the frame does not carry IP, and the length of what is in `buffer`.
///
/// # Errors
/// As [`Queue::recv`].
pub fn recv(queue: &Queue, buffer: &mut [u8]) -> io::Result<(Option<LinkHeader>, usize)> {
    const HEAD: usize = vnet::LEN + PLAIN;
    let mut head = [0; HEAD + 2 * TAG];
    let (header, packet) = buffer.split_at_mut(vnet::LEN);
    let read = queue.recv_split(&mut head[..HEAD], packet)?;
    header.copy_from_slice(&head[..vnet::LEN]);
    Ok(tidy(&mut head, buffer, read))
}

/// Moves the packet to its place if VLAN tags were read as a part of it, and adjusts the virtio header's offsets to
/// count from its start.
fn tidy(head: &mut [u8], buffer: &mut [u8], read: usize) -> (Option<LinkHeader>, usize) {
    const HEAD: usize = vnet::LEN + PLAIN;
    let Some(mut length) = read.checked_sub(HEAD) else { return (None, vnet::LEN) };
    let packet = &mut buffer[vnet::LEN..];
    let tagged = VLAN.contains(&[head[HEAD - 2], head[HEAD - 1]]);
    let extra = if tagged { (2 * TAG).min(length) } else { 0 };
    head[HEAD..HEAD + extra].copy_from_slice(&packet[..extra]);
    let link = LinkHeader::parse(&head[vnet::LEN..HEAD + extra]);
    if let Some(link) = &link {
        let tags = usize::from(link.length) - PLAIN;
        if tags > 0 {
            packet.copy_within(tags..length, 0);
            length -= tags;
        }
        let header = buffer.first_chunk_mut().expect("longer than a header");
        vnet::shift(header, -i32::from(link.length));
    }
    (link, vnet::LEN + length)
}

/// Writes one frame: `frame`, a virtio header and an IP packet, with `link` between them.
///
/// # Errors
/// As [`Queue::send`].
///
/// # Panics
/// If `frame` is shorter than a virtio header.
pub fn send(queue: &Queue, link: &LinkHeader, frame: &[u8]) -> io::Result<usize> {
    let mut head = [0; vnet::LEN + LINK_MAX];
    let end = vnet::LEN + usize::from(link.length);
    let (header, packet) = frame.split_at(vnet::LEN);
    head[..vnet::LEN].copy_from_slice(header);
    vnet::shift(head.first_chunk_mut().expect("longer than a header"), link.length.into());
    head[vnet::LEN..end].copy_from_slice(link.as_bytes());
    queue.send_split(&head[..end], packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn frame(vlan: Option<u16>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
        let written = match vlan {
            None => ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut bytes, b"x"),
            Some(id) => ethernet
                .single_vlan(id.try_into().unwrap())
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(1, 2)
                .write(&mut bytes, b"x"),
        };
        written.unwrap();
        bytes
    }

    #[test]
    fn a_header_ends_where_the_packet_begins() {
        for (vlan, length) in [(None, 14), (Some(7), 18)] {
            let frame = frame(vlan);
            let header = LinkHeader::parse(&frame).unwrap();
            assert_eq!(header.as_bytes(), &frame[..length]);
            assert_eq!(frame[length] >> 4, 4);
            assert_eq!(LinkHeader::parse(&frame[..length - 1]), None);
            let answer = header.reversed();
            assert_eq!(&answer.as_bytes()[..12], [MACS.0, MACS.1].concat());
            assert_eq!(answer.as_bytes()[12..], frame[12..length]);
            if vlan.is_none() {
                assert_eq!(LinkHeader::ethernet(MACS.1, MACS.0, true), header);
                assert_eq!(LinkHeader::ethernet(MACS.1, MACS.0, false).as_bytes()[12..], IPV6);
            }
        }
    }

    #[test]
    fn a_tagged_frame_is_read_as_an_untagged_one() {
        for vlan in [None, Some(7)] {
            let frame = frame(vlan);
            let link = if vlan.is_some() { 18 } else { 14 };
            // NEEDS_CSUM; the checksum's range starts at the UDP header.
            let mut vnet = [0; vnet::LEN];
            vnet[0] = 1;
            vnet[6..8].copy_from_slice(&(link as u16 + 20).to_ne_bytes());
            vnet[8..10].copy_from_slice(&6_u16.to_ne_bytes());
            let mut head = [0; vnet::LEN + LINK_MAX];
            head[..vnet::LEN].copy_from_slice(&vnet);
            head[vnet::LEN..vnet::LEN + PLAIN].copy_from_slice(&frame[..PLAIN]);
            let mut buffer = vec![0; 200];
            buffer[..vnet::LEN].copy_from_slice(&vnet);
            buffer[vnet::LEN..vnet::LEN + frame.len() - PLAIN].copy_from_slice(&frame[PLAIN..]);
            let (header, length) = tidy(&mut head, &mut buffer, vnet::LEN + frame.len());
            assert_eq!(header.unwrap().as_bytes(), &frame[..link]);
            assert_eq!(buffer[vnet::LEN..length], frame[link..]);
            let (header, _) = vnet::VnetHeader::parse(&buffer[..length]).unwrap();
            assert_eq!(header.checksum, vnet::Checksum::Partial { start: 20, offset: 6 });
        }
        let mut head = [0; vnet::LEN + LINK_MAX];
        assert_eq!(tidy(&mut head, &mut [0; 200], 23), (None, vnet::LEN), "shorter than a link header");
    }

    #[test]
    fn what_is_no_ip_has_no_header() {
        let mut arp = frame(None);
        (arp[12], arp[13]) = (0x08, 0x06);
        assert_eq!(LinkHeader::parse(&arp), None);
        let mut tags = vec![0; 12];
        for _ in 0..3 {
            tags.extend([0x81, 0x00, 0, 1]);
        }
        tags.extend([0x08, 0x00]);
        assert_eq!(LinkHeader::parse(&tags), None, "three tags");
    }

    #[test]
    fn numbers_are_given_once_and_end() {
        let mut headers = LinkHeaders::default();
        let header = |n: u32| {
            let mut frame = frame(None);
            frame[2..6].copy_from_slice(&n.to_be_bytes());
            LinkHeader::parse(&frame).unwrap()
        };
        for n in 0..LinkHeaders::MOST as u32 {
            assert_eq!(headers.number(&header(n)), Some(n as u16));
        }
        assert_eq!(headers.number(&header(u32::MAX)), None);
        assert_eq!(headers.number(&header(5)), Some(5));
        assert_eq!(*headers.header(5), header(5));
        headers.clear();
        assert_eq!(headers.number(&header(u32::MAX)), Some(0));
    }
}
