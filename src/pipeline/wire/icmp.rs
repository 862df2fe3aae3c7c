//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages that a router sends: errors and echo replies.

use core::net::IpAddr;

use super::{Ipv4, Ipv6, Layout, Version, be16, checksum, ipv4, ipv6, protocol, put16, put32, transport};

/// Length of the longest IPv4 error: it quotes as much as fits (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// Length of the longest IPv6 error: it quotes as much as fits into the minimum MTU (RFC 4443 section 3).
pub const MAX_ERROR_V6: usize = 1280;

/// TTL and hop limit of what the router sends itself.
const HOPS: u8 = 64;
/// Precedence 6, "internetwork control" (RFC 1812 section 4.3.2.5), as Linux does: an error is no use if it queues
/// behind the traffic it is about. IPv6 knows no precedence; its errors have class 0.
const TOS: u8 = 0xc0;
/// Type, code, checksum and the word after them.
const HEADER: usize = 8;

/// The ICMP error for a packet that the router did not forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// TTL or hop limit ran out: ICMP 11/0, ICMPv6 3/0.
    TimeExceeded,
    /// No route to the destination: ICMP 3/0, ICMPv6 1/0.
    NetUnreachable,
    /// The destination's own link does not reach it: ICMP 3/1, ICMPv6 1/3.
    HostUnreachable,
    /// The packet does not fit the next link: ICMP 3/4 (RFC 1191), ICMPv6 2/0.
    PacketTooBig {
        /// Largest IP packet that the next link takes, in bytes.
        mtu: u32,
    },
    /// Forbidden by policy: ICMP 3/13, ICMPv6 1/1.
    AdminProhibited,
}

impl IcmpError {
    /// Type, code, and the word behind the checksum.
    const fn fields(self, version: Version) -> (u8, u8, u32) {
        match version {
            Version::V4 => match self {
                Self::TimeExceeded => (11, 0, 0),
                Self::NetUnreachable => (3, 0, 0),
                Self::HostUnreachable => (3, 1, 0),
                // The field has 16 bits; no IPv4 packet is longer.
                Self::PacketTooBig { mtu } => (3, 4, if mtu > 0xffff { 0xffff } else { mtu }),
                Self::AdminProhibited => (3, 13, 0),
            },
            Version::V6 => match self {
                Self::TimeExceeded => (3, 0, 0),
                Self::NetUnreachable => (1, 0, 0),
                Self::HostUnreachable => (1, 3, 0),
                Self::PacketTooBig { mtu } => (2, 0, mtu),
                Self::AdminProhibited => (1, 1, 0),
            },
        }
    }
}

/// Writes an error about `original` to the start of `out` and returns its length: at most [`MAX_ERROR_V4`] or
/// [`MAX_ERROR_V6`]. None if `source`, an address of the router, is of the other IP version, or `out` is too short.
///
/// `original` is a wire packet cut to its length, never a train, with its transport checksum complete: what is quoted
/// should be what the sender sent. Ask [`must_not_answer`] first.
///
/// The IPv4 identification is the ICMP checksum: errors may have to be fragmented (DF is clear, as a small-MTU path
/// would otherwise swallow them), and it differs where what is quoted differs, without a state.
#[must_use]
pub fn write_error(
    error: IcmpError,
    source: IpAddr,
    original: &[u8],
    layout: Layout,
    out: &mut [u8],
) -> Option<usize> {
    let version = layout.version();
    let (header, longest) = match version {
        Version::V4 => (ipv4::MIN_HEADER, MAX_ERROR_V4),
        Version::V6 => (ipv6::HEADER, MAX_ERROR_V6),
    };
    let quoted = original.len().min(longest - header - HEADER);
    let length = header + HEADER + quoted;
    let out = out.get_mut(..length)?;
    let (ip, icmp) = out.split_at_mut(header);

    let (kind, code, rest) = error.fields(version);
    icmp[..4].copy_from_slice(&[kind, code, 0, 0]);
    put32(icmp, 4, rest);
    icmp[HEADER..].copy_from_slice(&original[..quoted]);
    match source {
        IpAddr::V4(source) => {
            let original = Ipv4::new(original).ok()?;
            let sum = checksum::transport_checksum(0, icmp);
            put16(icmp, 2, sum);
            ip.fill(0);
            ip[ipv4::field::VERSION_IHL] = 0x45;
            ip[ipv4::field::TOS] = TOS;
            put16(ip, ipv4::field::TOTAL_LENGTH, length as u16);
            put16(ip, ipv4::field::ID, sum);
            ip[ipv4::field::TTL] = HOPS;
            ip[ipv4::field::PROTOCOL] = protocol::ICMP;
            ip[ipv4::field::SOURCE..][..4].copy_from_slice(&source.octets());
            ip[ipv4::field::DESTINATION..][..4].copy_from_slice(&original.source().octets());
            ipv4::fill_header_checksum(ip);
        }
        IpAddr::V6(source) => {
            let destination = Ipv6::new(original).ok()?.source();
            let pseudo =
                checksum::pseudo_sum_v6(source, destination, protocol::ICMPV6, (HEADER + quoted) as u32);
            let sum = checksum::transport_checksum(pseudo, icmp);
            put16(icmp, 2, sum);
            ip.fill(0);
            ip[0] = 0x60;
            put16(ip, ipv6::field::PAYLOAD_LENGTH, (HEADER + quoted) as u16);
            ip[ipv6::field::NEXT_HEADER] = protocol::ICMPV6;
            ip[ipv6::field::HOP_LIMIT] = HOPS;
            ip[ipv6::field::SOURCE..][..16].copy_from_slice(&source.octets());
            ip[ipv6::field::DESTINATION..][..16].copy_from_slice(&destination.octets());
        }
    }
    Some(length)
}

/// Whether no error may be sent about this packet (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section
/// 2.4 (e)): it is an ICMP error itself or might be one, a later IPv4 fragment, was sent to many, or its source is not
/// one host.
///
/// Later IPv6 fragments are answered, as RFC 4443 asks, unless they are of ICMPv6. Packets to an IPv6 multicast group
/// are answered with "packet too big" only. The caller knows further reasons: directed broadcasts, rate limits.
///
/// `packet` is cut to its length.
pub fn must_not_answer(packet: &[u8], layout: Layout, error: IcmpError) -> bool {
    if !has_one_source(packet, layout) {
        return true;
    }
    let kind = (!layout.is_later_fragment()).then(|| packet.get(layout.transport_offset())).flatten();
    match layout.version() {
        Version::V4 => {
            let many = Ipv4::new(packet)
                .is_ok_and(|ip| ip.destination().is_multicast() || ip.destination().is_broadcast());
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            let error = || kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12));
            many || layout.is_later_fragment() || layout.protocol() == protocol::ICMP && error()
        }
        Version::V6 => {
            let many = Ipv6::new(packet).is_ok_and(|ip| ip.destination().is_multicast());
            // All errors have the high bit clear; 137 is the redirect.
            let is_error = || kind.is_none_or(|&kind| kind < 128 || kind == 137);
            many && !matches!(error, IcmpError::PacketTooBig { .. })
                || layout.protocol() == protocol::ICMPV6 && is_error()
        }
    }
}

/// Whether the source address is one that an answer can be sent to.
fn has_one_source(packet: &[u8], layout: Layout) -> bool {
    match layout.version() {
        // "This network" (0/8), loopback, multicast, reserved and broadcast (240/4).
        Version::V4 => Ipv4::new(packet).is_ok_and(|ip| !matches!(ip.source().octets()[0], 0 | 127 | 224..)),
        Version::V6 => Ipv6::new(packet).is_ok_and(|ip| {
            let source = ip.source();
            !(source.is_unspecified() || source.is_loopback() || source.is_multicast())
        }),
    }
}

/// Turns an echo request into its reply, in place: addresses swapped, TTL or hop limit 64, all else as it came (RFC
/// 1122 section 3.2.2.6, RFC 4443 section 4.2); a wrong ICMP checksum stays wrong. False, and nothing changed, if the
/// packet is no whole echo request from one host to one address.
///
/// IPv4 options become "no operation": a record of the way here is not the way back. A request with IPv6 extension
/// headers is not answered. `packet` is cut to its length; the caller has seen that it is addressed to the router.
pub fn echo_reply(packet: &mut [u8], layout: Layout) -> bool {
    let at = layout.transport_offset();
    if layout.is_fragment() || layout.is_transport_malformed() || !has_one_source(packet, layout) {
        return false;
    }
    match (layout.version(), layout.protocol()) {
        (Version::V4, protocol::ICMP) if packet[at] == 8 && packet[ipv4::field::DESTINATION] < 224 => {
            let (from, to) = (ipv4::field::SOURCE, ipv4::field::DESTINATION);
            packet[from..to + 4].rotate_left(4);
            packet[ipv4::MIN_HEADER..at].fill(1);
            packet[ipv4::field::TTL] = HOPS;
            ipv4::fill_header_checksum(&mut packet[..at]);
            set_type(packet, at, layout, 0);
        }
        (Version::V6, protocol::ICMPV6)
            if at == ipv6::HEADER && packet[at] == 128 && packet[ipv6::field::DESTINATION] != 0xff =>
        {
            let (from, to) = (ipv6::field::SOURCE, ipv6::field::DESTINATION);
            packet[from..to + 16].rotate_left(16);
            packet[ipv6::field::HOP_LIMIT] = HOPS;
            set_type(packet, at, layout, 129);
        }
        _ => return false,
    }
    true
}

/// Sets the type of an ICMP message; the checksum follows. (Swapped addresses leave the pseudo-header sum as it is.)
fn set_type(packet: &mut [u8], at: usize, layout: Layout, kind: u8) {
    let sum = at + transport::checksum_offset(layout.protocol()).unwrap_or(2);
    let (old, new) = (be16(packet, at), u16::from_be_bytes([kind, packet[at + 1]]));
    let updated = checksum::update16(be16(packet, sum), old, new);
    packet[at] = kind;
    put16(packet, sum, updated);
}

#[cfg(test)]
mod tests;
