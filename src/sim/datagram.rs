//! UDP datagrams to and from IP packets.

use std::net::{IpAddr, SocketAddr};

use crate::pipeline::wire::transport::{fill_checksum, has_valid_checksum};
use crate::pipeline::wire::{Ipv4, Ipv6, Layout, Udp, Version, checksum, ipv4, ipv6, protocol, udp};
use crate::sim::PushError;

/// A UDP datagram, as a protocol without I/O gives it to its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sends it.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
    /// The two ECN bits of the IP header (RFC 3168): 0 not ECN-capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
    pub ecn: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// A datagram that is not ECN-capable.
    pub const fn new(source: SocketAddr, destination: SocketAddr, payload: &'a [u8]) -> Self {
        Self { source, destination, ecn: 0, payload }
    }
}

/// Hop limit of new packets, as Linux sends them.
const TTL: u8 = 64;
/// Don't Fragment, in the byte of the flags.
const DF: u8 = 0x40;

/// The IP packet around `datagram`.
pub(super) fn write(datagram: &Datagram<'_>) -> Result<Vec<u8>, PushError> {
    let length = udp::HEADER + datagram.payload.len();
    let header = match (datagram.source, datagram.destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => ipv4::MIN_HEADER,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => ipv6::HEADER,
        _ => return Err(PushError::MixedFamilies),
    };
    // IPv4 counts its header in its length field, IPv6 does not.
    let counted = if header == ipv4::MIN_HEADER { header + length } else { length };
    let too_long = |_| PushError::TooLong(header + length);
    let counted = u16::try_from(counted).map_err(too_long)?.to_be_bytes();
    let ecn = datagram.ecn & 3;
    let mut packet = Vec::with_capacity(header + length);
    match (datagram.source.ip(), datagram.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, ecn, counted[0], counted[1], 0, 0, DF, 0, TTL, protocol::UDP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = !checksum::sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, ecn << 4, 0, 0, counted[0], counted[1], protocol::UDP, TTL]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => return Err(PushError::MixedFamilies),
    }
    packet.extend(datagram.source.port().to_be_bytes());
    packet.extend(datagram.destination.port().to_be_bytes());
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(datagram.payload);
    let (layout, _) = Layout::parse(&packet)?;
    fill_checksum(&mut packet, layout);
    Ok(packet)
}

/// The datagram in `packet`, if a host would hand it to an application.
pub(super) fn read(packet: &[u8]) -> Option<Datagram<'_>> {
    let (layout, length) = Layout::parse(packet).ok()?;
    let packet = &packet[..length];
    let is_whole =
        layout.protocol() == protocol::UDP && !layout.is_fragment() && !layout.is_transport_malformed();
    // No checksum at all is allowed over IPv4 (RFC 768).
    if !is_whole || has_valid_checksum(packet, layout) == Some(false) {
        return None;
    }
    let (source, destination, class) = match layout.version() {
        Version::V4 => {
            let ip = Ipv4::new(packet).ok().filter(|_| has_valid_header(packet))?;
            (IpAddr::V4(ip.source()), IpAddr::V4(ip.destination()), packet[1])
        }
        Version::V6 => {
            let ip = Ipv6::new(packet).ok()?;
            (IpAddr::V6(ip.source()), IpAddr::V6(ip.destination()), packet[1] >> 4)
        }
    };
    let udp = Udp::new(&packet[layout.transport_offset()..]).ok()?;
    Some(Datagram {
        source: SocketAddr::new(source, udp.source_port()),
        destination: SocketAddr::new(destination, udp.destination_port()),
        ecn: class & 3,
        payload: udp.payload(),
    })
}

/// Whether the checksum of an IPv4 header is right.
fn has_valid_header(packet: &[u8]) -> bool {
    let length = usize::from(packet[0] & 15) * 4;
    packet.get(..length).is_some_and(|header| checksum::sum(header) == 0xffff)
}
