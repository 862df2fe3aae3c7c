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
/// Type, code, checksum and the word behind them.
const HEADER: usize = 8;

/// What a router tells the sender of a packet that it did not forward.
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
mod tests {
    use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, icmpv4, icmpv6};
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::wire::samples;

    const ALL: [IcmpError; 5] = [
        IcmpError::TimeExceeded,
        IcmpError::NetUnreachable,
        IcmpError::HostUnreachable,
        IcmpError::PacketTooBig { mtu: 1400 },
        IcmpError::AdminProhibited,
    ];

    fn layout(bytes: &[u8]) -> Layout {
        Layout::parse(bytes).unwrap().0
    }

    fn source(bytes: &[u8]) -> IpAddr {
        if bytes[0] >> 4 == 4 { "10.77.0.1".parse().unwrap() } else { "fd77::1".parse().unwrap() }
    }

    fn error(error: IcmpError, original: &[u8]) -> Vec<u8> {
        let mut out = vec![0xee; 2000];
        let length = write_error(error, source(original), original, layout(original), &mut out).unwrap();
        out.truncate(length);
        out
    }

    /// Type and quote as etherparse reads them, with all checksums right.
    fn read_v4(bytes: &[u8]) -> (Icmpv4Type, Vec<u8>) {
        let (ip, payload) = etherparse::Ipv4Header::from_slice(bytes).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(usize::from(ip.total_len), bytes.len());
        let icmp = Icmpv4Slice::from_slice(payload).unwrap();
        let kind = icmp.icmp_type();
        assert_eq!(icmp.checksum(), kind.calc_checksum(icmp.payload()));
        (kind, icmp.payload().to_vec())
    }

    fn read_v6(bytes: &[u8]) -> (Icmpv6Type, Vec<u8>) {
        let (ip, payload) = etherparse::Ipv6Header::from_slice(bytes).unwrap();
        assert_eq!(usize::from(ip.payload_length), payload.len());
        let icmp = Icmpv6Slice::from_slice(payload).unwrap();
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
        (icmp.icmp_type(), icmp.payload().to_vec())
    }

    /// The kernel's answer to a closed port differs from "host unreachable" in its code, checksums, and identification
    /// or flow label only.
    #[test]
    fn errors_look_like_those_of_the_kernel() {
        let mut ours = error(IcmpError::HostUnreachable, samples::CLOSED_V4);
        ours[4..6].copy_from_slice(&samples::UNREACHABLE_V4[4..6]);
        Ipv4::new(&mut ours).unwrap().fill_checksum();
        ours[21] = 3;
        assert!(transport::fill_checksum(&mut ours, layout(samples::UNREACHABLE_V4)));
        assert_eq!(ours, samples::UNREACHABLE_V4);

        let mut ours = error(IcmpError::HostUnreachable, samples::CLOSED_V6);
        ours[1..4].copy_from_slice(&samples::UNREACHABLE_V6[1..4]);
        ours[41] = 4;
        assert!(transport::fill_checksum(&mut ours, layout(samples::UNREACHABLE_V6)));
        assert_eq!(ours, samples::UNREACHABLE_V6);
    }

    #[test]
    fn etherparse_reads_every_v4_error() {
        use icmpv4::DestUnreachableHeader as Unreachable;
        let expected = [
            Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
            Icmpv4Type::DestinationUnreachable(Unreachable::Network),
            Icmpv4Type::DestinationUnreachable(Unreachable::Host),
            Icmpv4Type::DestinationUnreachable(Unreachable::FragmentationNeeded { next_hop_mtu: 1400 }),
            Icmpv4Type::DestinationUnreachable(Unreachable::FilterProhibited),
        ];
        for (kind, expected) in ALL.into_iter().zip(expected) {
            assert_eq!(read_v4(&error(kind, samples::UDP_V4)), (expected, samples::UDP_V4.to_vec()));
        }
        let huge = error(IcmpError::PacketTooBig { mtu: 70_000 }, samples::UDP_V4);
        assert_eq!(huge[24..28], [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn etherparse_reads_every_v6_error() {
        use icmpv6::DestUnreachableCode as Unreachable;
        let expected = [
            Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
            Icmpv6Type::DestinationUnreachable(Unreachable::NoRoute),
            Icmpv6Type::DestinationUnreachable(Unreachable::Address),
            Icmpv6Type::PacketTooBig { mtu: 1400 },
            Icmpv6Type::DestinationUnreachable(Unreachable::Prohibited),
        ];
        for (kind, expected) in ALL.into_iter().zip(expected) {
            assert_eq!(read_v6(&error(kind, samples::UDP_V6)), (expected, samples::UDP_V6.to_vec()));
        }
    }

    #[test]
    fn quotes_fill_576_and_1280_bytes() {
        let big = samples::padded(samples::FRAGMENT_V4_FIRST_HEAD);
        let bytes = error(IcmpError::TimeExceeded, &big);
        assert_eq!((bytes.len(), &read_v4(&bytes).1[..]), (576, &big[..548]));
        let big = samples::padded(samples::FRAGMENT_V6_FIRST_HEAD);
        let bytes = error(IcmpError::TimeExceeded, &big);
        assert_eq!((bytes.len(), &read_v6(&bytes).1[..]), (1280, &big[..1232]));
    }

    #[test]
    fn foreign_source_or_short_buffer_writes_no_error() {
        let (original, kind) = (samples::UDP_V4, IcmpError::TimeExceeded);
        let v6 = source(samples::UDP_V6);
        assert_eq!(write_error(kind, v6, original, layout(original), &mut [0; 1280]), None);
        let v4 = source(samples::UDP_V4);
        assert_eq!(write_error(kind, v4, samples::UDP_V6, layout(samples::UDP_V6), &mut [0; 1280]), None);
        assert_eq!(write_error(kind, v4, original, layout(original), &mut [0; 60]), None);
        assert_eq!(write_error(kind, v4, original, layout(original), &mut [0; 61]), Some(61));
    }

    fn refused(bytes: &[u8], error: IcmpError) -> bool {
        must_not_answer(bytes, layout(bytes), error)
    }

    /// `packet` with bytes replaced.
    fn with(packet: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
        let mut bytes = packet.to_vec();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    }

    #[test]
    fn ordinary_packets_are_answered() {
        for error in ALL {
            for packet in [samples::SYN_V4, samples::SYN_V6, samples::PING_V4, samples::PING_V6] {
                assert!(!refused(packet, error));
            }
            for first in [samples::FRAGMENT_V4_FIRST_HEAD, samples::FRAGMENT_V6_FIRST_HEAD] {
                assert!(!refused(&samples::padded(first), error));
            }
        }
    }

    #[test]
    fn errors_are_not_answered() {
        for error in ALL {
            assert!(refused(samples::UNREACHABLE_V4, error));
            assert!(refused(samples::UNREACHABLE_V6, error));
            for kind in [3, 4, 5, 11, 12] {
                assert!(refused(&with(samples::PING_V4, 20, &[kind]), error));
            }
            for kind in [1, 2, 3, 4, 100, 127, 137] {
                assert!(refused(&with(samples::PING_V6, 40, &[kind]), error));
            }
            // ICMP cut off before its type.
            assert!(refused(&with(&samples::PING_V4[..20], 2, &[0, 20]), error));
            assert!(refused(&with(&samples::PING_V6[..40], 4, &[0, 0]), error));
        }
    }

    #[test]
    fn later_fragments_are_answered_in_ipv6_only() {
        assert!(refused(samples::FRAGMENT_V4_LATER, IcmpError::TimeExceeded));
        assert!(!refused(samples::FRAGMENT_V6_LATER, IcmpError::TimeExceeded));
        assert!(refused(&with(samples::FRAGMENT_V6_LATER, 40, &[58]), IcmpError::TimeExceeded));
    }

    #[test]
    fn no_answer_to_many_or_to_nobody() {
        for address in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(
                refused(&with(samples::UDP_V4, 12, &address), IcmpError::TimeExceeded),
                "from {address:?}"
            );
        }
        for address in [[224, 0, 0, 1], [239, 255, 0, 1], [255; 4]] {
            assert!(refused(&with(samples::UDP_V4, 16, &address), IcmpError::TimeExceeded), "to {address:?}");
        }
        for address in ["::", "::1", "ff02::1"] {
            let octets = address.parse::<core::net::Ipv6Addr>().unwrap().octets();
            assert!(refused(&with(samples::UDP_V6, 8, &octets), IcmpError::TimeExceeded), "from {address}");
        }
    }

    #[test]
    fn multicast_of_ipv6_is_told_only_that_it_is_too_big() {
        let octets = "ff0e::1".parse::<core::net::Ipv6Addr>().unwrap().octets();
        for error in ALL {
            let too_big = matches!(error, IcmpError::PacketTooBig { .. });
            assert_eq!(refused(&with(samples::UDP_V6, 24, &octets), error), !too_big);
        }
    }

    #[test]
    fn ping_is_answered_with_its_own_data() {
        let mut reply = samples::PING_V4.to_vec();
        assert!(echo_reply(&mut reply, layout(samples::PING_V4)));
        let (kind, data) = read_v4(&reply);
        assert_eq!(
            kind,
            Icmpv4Type::EchoReply(etherparse::IcmpEchoHeader { id: samples::PING_V4_ID, seq: 1 })
        );
        assert_eq!(data, samples::PING_V4[28..]);
        assert_eq!([&reply[16..20], &reply[12..16]].concat(), samples::PING_V4[12..20]);

        let mut reply = with(samples::PING_V6, 7, &[3]);
        assert!(echo_reply(&mut reply, layout(samples::PING_V6)));
        let (kind, data) = read_v6(&reply);
        assert_eq!(
            kind,
            Icmpv6Type::EchoReply(etherparse::IcmpEchoHeader { id: samples::PING_V6_ID, seq: 1 })
        );
        assert_eq!(data, samples::PING_V6[48..]);
        assert_eq!(reply[7], 64);
        assert_eq!([&reply[24..40], &reply[8..24]].concat(), samples::PING_V6[8..40]);
    }

    #[test]
    fn options_of_a_ping_become_padding() {
        let mut ping = [&samples::PING_V4[..20], &[7, 4, 4, 0], &samples::PING_V4[20..]].concat();
        ping[0] = 0x46;
        ping[3] += 4;
        let parsed = layout(&ping);
        assert!(echo_reply(&mut ping, parsed));
        assert_eq!(ping[20..24], [1; 4]);
        assert!(matches!(read_v4(&ping).0, Icmpv4Type::EchoReply(_)));
    }

    #[test]
    fn no_reply_to_what_is_no_ping_to_one_address() {
        for packet in [
            samples::UDP_V4.to_vec(),
            samples::UNREACHABLE_V6.to_vec(),
            with(samples::PING_V4, 20, &[0]),
            with(samples::PING_V6, 40, &[129]),
            with(samples::PING_V4, 16, &[224, 0, 0, 1]),
            with(samples::PING_V6, 24, &[0xff, 2]),
            with(samples::PING_V4, 12, &[0; 4]),
            with(samples::PING_V4, 6, &[0x20, 0]),
            samples::v6_with_headers(&[(60, samples::options_header(0))], 58, &samples::PING_V6[40..]),
        ] {
            let mut bytes = packet.clone();
            assert!(!echo_reply(&mut bytes, layout(&packet)));
            assert_eq!(bytes, packet);
        }
    }

    #[test]
    fn a_damaged_ping_stays_damaged() {
        let mut ping = with(samples::PING_V4, 50, &[0xff]);
        assert!(echo_reply(&mut ping, layout(samples::PING_V4)));
        assert_eq!(transport::has_valid_checksum(&ping, layout(samples::PING_V4)), Some(false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(v4 in samples::hostile(4), v6 in samples::hostile(6), which in 0..5_usize) {
            for mut bytes in [v4, v6] {
                if let Ok((layout, length)) = Layout::parse(&bytes) {
                    bytes.truncate(length);
                    let answer = !must_not_answer(&bytes, layout, ALL[which]);
                    let message = error(ALL[which], &bytes);
                    let (answered, length) = Layout::parse(&message).unwrap();
                    prop_assert_eq!(length, message.len());
                    prop_assert_eq!(transport::has_valid_checksum(&message, answered), Some(true));
                    if answer {
                        // An error is never answered by another one.
                        prop_assert!(must_not_answer(&message, answered, ALL[which]));
                    }
                    let whole = transport::has_valid_checksum(&bytes, layout);
                    if echo_reply(&mut bytes, layout) {
                        prop_assert_eq!(transport::has_valid_checksum(&bytes, layout), whole);
                    }
                }
            }
        }
    }
}
