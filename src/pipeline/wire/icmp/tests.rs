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
        assert!(refused(&with(samples::UDP_V4, 12, &address), IcmpError::TimeExceeded), "from {address:?}");
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
    assert_eq!(kind, Icmpv4Type::EchoReply(etherparse::IcmpEchoHeader { id: samples::PING_V4_ID, seq: 1 }));
    assert_eq!(data, samples::PING_V4[28..]);
    assert_eq!([&reply[16..20], &reply[12..16]].concat(), samples::PING_V4[12..20]);

    let mut reply = with(samples::PING_V6, 7, &[3]);
    assert!(echo_reply(&mut reply, layout(samples::PING_V6)));
    let (kind, data) = read_v6(&reply);
    assert_eq!(kind, Icmpv6Type::EchoReply(etherparse::IcmpEchoHeader { id: samples::PING_V6_ID, seq: 1 }));
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
