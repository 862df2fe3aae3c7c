//! Hostile packets against whole routers: any chain of stages in both directions, with every kind of translator between
//! them. No panic, no endless work, and every packet counted.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::pipeline::packet::Offload;
use crate::pipeline::params::{
    Dependence, Forward, MidStream, NaptParams, NatClock, NatKind, NatParams, NatTimeouts, PathParams,
    PortAllocation, PrefixParams, Rebind, RouteParams, RouteTarget, RouterParams,
};
use crate::pipeline::testing::laws::{packet, stages};
use crate::pipeline::testing::{Frame, Run, translator};
use crate::pipeline::time::{Duration, Instant};
use crate::pipeline::wire::samples;

/// Addresses that matter in [`network`]: hosts inside and outside, the router, the translators' own.
const V4: [[u8; 4]; 6] =
    [[10, 0, 1, 2], [10, 0, 1, 3], [10, 0, 2, 2], [10, 0, 2, 1], [10, 0, 2, 9], [10, 0, 3, 3]];
const V6: [&str; 6] = ["fd00:1::2", "fd00:1::3", "fd00:2::2", "fd00:2::1", "fd00:2::9", "fd00:2:0:7::2"];

fn dependence() -> impl Strategy<Value = Dependence> {
    select(vec![Dependence::Independent, Dependence::Address, Dependence::AddressAndPort])
}

fn napt() -> impl Strategy<Value = NatKind> {
    let allocation = select(vec![PortAllocation::Preserve, PortAllocation::Random, PortAllocation::Smallest]);
    let shape = (1..9_usize, 1..6_u16, 1..3_usize, 1..4_u64);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let mid_stream = select(vec![MidStream::Open, MidStream::Drop, MidStream::Reset]);
    (dependence(), dependence(), allocation, shape, flags, mid_stream).prop_map(
        |(mapping, filtering, allocation, (table_size, ports, addresses, seconds), flags, mid_stream)| {
            let (hairpin, inbound_refresh, one_clock, forwards, rebinds) = flags;
            let every = Duration::from_secs(seconds);
            let forward =
                Forward { protocol: 6, address: 0, port: 443, to: (IpAddr::from([10, 0, 1, 3]), 40_000) };
            let first = if addresses == 1 { [10, 0, 2, 9] } else { [10, 0, 2, 1] };
            let mut pool: Vec<IpAddr> = vec![IpAddr::from(first), "fd00:2::9".parse().unwrap()];
            if addresses == 2 {
                pool.push(IpAddr::from([10, 0, 2, 9]));
            }
            NatKind::Napt(Box::new(NaptParams {
                addresses: pool,
                ports: 40_000..=40_000 + ports,
                allocation,
                mapping,
                filtering,
                hairpin,
                table_size,
                timeouts: NatTimeouts { udp: every, icmp: every, ..NatTimeouts::default() },
                inbound_refresh,
                mid_stream,
                clock: if one_clock { NatClock::One } else { NatClock::Pass },
                forwards: if forwards { vec![forward] } else { Vec::new() },
                rebind: rebinds.then_some(Rebind { at: every, every: Some(every) }),
            }))
        },
    )
}

fn prefix() -> impl Strategy<Value = NatKind> {
    select(vec![48_u8, 60, 64]).prop_map(|length| {
        NatKind::Prefix(PrefixParams {
            inside: "fd00:1::".parse().unwrap(),
            outside: "fd00:2:0:7::".parse::<std::net::Ipv6Addr>().unwrap(),
            length,
        })
    })
}

/// A router between two ports: stages both ways, and none or one translator, anywhere among them.
fn network() -> impl Strategy<Value = RouterParams> {
    let kind = prop_oneof![
        1 => Just(None),
        2 => napt().prop_map(Some),
        2 => prefix().prop_map(Some),
    ];
    let places = (any::<Index>(), any::<Index>());
    (option::of(stages()), option::of(stages()), kind, places).prop_map(|(out, back, kind, places)| {
        let path = |from, to, stages: Option<_>| PathParams::new(from, to, stages.unwrap_or_default());
        let (mut out, mut back) = (path(0, 1, out), path(1, 0, back));
        let mut params = Run::params(1, Vec::new());
        if let Some(kind) = kind {
            if let NatKind::Prefix(prefix) = &kind {
                let outside = ipnet::Ipv6Net::new(prefix.outside, prefix.length).unwrap().trunc();
                params.routes.push(RouteParams { prefix: outside.into(), target: RouteTarget::Port(0) });
            }
            out.seats.insert(places.0.index(out.seats.len() + 1), translator(true));
            back.seats.insert(places.1.index(back.seats.len() + 1), translator(false));
            params.nats = vec![NatParams { name: "nat".to_owned(), kind }];
        }
        params.paths = vec![out, back];
        params
    })
}

/// An IP header of these addresses, and whatever behind it: no bytes at all, an echo, an error that quotes whatever.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let protocol = select(vec![0_u8, 1, 1, 6, 17, 43, 44, 50, 58, 58, 59, 60, 132, 136, 253]);
    let icmp = select(vec![0_u8, 1, 2, 3, 4, 5, 8, 11, 12, 128, 129]);
    let payload = prop_oneof![1 => Just(Vec::new()), 4 => vec(any::<u8>(), 0..100)];
    (any::<bool>(), protocol, option::of(icmp), payload).prop_map(|(v6, protocol, icmp, mut payload)| {
        if let (Some(kind), Some(first)) = (icmp, payload.first_mut()) {
            *first = kind;
        }
        if let Some(quoted) = payload.get_mut(8) {
            *quoted = if v6 { 0x60 } else { 0x45 };
        }
        let mut bytes = if v6 { vec![0; 40] } else { vec![0; 20] };
        if v6 {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            (bytes[6], bytes[7]) = (protocol, 64);
        } else {
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            (bytes[8], bytes[9]) = (64, protocol);
        }
        bytes.extend(payload);
        bytes
    })
}

/// One of the router's, changed; an IP header and more or less behind it; noise that looks like IP.
fn frame() -> impl Strategy<Value = Frame> {
    let changed = (packet(), vec((any::<Index>(), any::<u8>()), 0..8), option::of(any::<Index>())).prop_map(
        |(spec, changes, cut)| {
            let mut bytes = spec.frame().bytes;
            for (at, byte) in changes {
                let at = at.index(bytes.len().min(80));
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len() + 1));
            }
            bytes
        },
    );
    let noise = vec(any::<u8>(), 0..120).prop_map(|mut bytes| {
        if let Some(first) = bytes.first_mut() {
            // Half of it looks like IP at least.
            *first = if *first & 0x80 == 0 { 0x40 | (*first & 0x0f) } else { *first };
        }
        bytes
    });
    let bytes = prop_oneof![3 => changed, 4 => datagram(), 1 => samples::hostile(4), 1 => samples::hostile(6), 1 => noise];
    let offload = (any::<u16>(), option::of((any::<u16>(), any::<u16>())))
        .prop_map(|(segment, partial)| Offload { segment, partial });
    let offload = prop_oneof![Just(Offload::default()), offload];
    let ends = option::of((0..V4.len(), 0..V4.len()));
    (bytes, offload, ends).prop_map(|(mut bytes, offload, ends)| {
        if let Some((from, to)) = ends {
            set_ends(&mut bytes, from, to);
        }
        Frame { offload, ..Frame::plain(bytes) }
    })
}

fn set_ends(bytes: &mut [u8], from: usize, to: usize) {
    let v6 = |at: usize| V6[at].parse::<std::net::Ipv6Addr>().unwrap().octets();
    match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= 20 => bytes[12..20].copy_from_slice(&[V4[from], V4[to]].concat()),
        Some(6) if bytes.len() >= 40 => bytes[8..40].copy_from_slice(&[v6(from), v6(to)].concat()),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    /// `feed_by` checks after each packet that everything is accounted for; what leaves is not cut here, for it may lie.
    #[test]
    fn hostile_packets_are_counted(
        network in network(),
        frames in vec((frame(), any::<bool>(), prop_oneof![Just(0), 0..2_000_000_000_u64]), 1..30),
    ) {
        let mut run = Run::built(&network);
        let mut now = Instant::ZERO;
        for (frame, back, gap) in frames {
            now += Duration::from_nanos(gap);
            run.feed_by(back.into(), now, &frame);
        }
        run.finish();
        run.shut_down();
    }
}

/// The packet that once stopped a router: IPv6 that ends with its header, to a translator of prefixes.
#[test]
fn a_packet_that_ends_with_its_header_passes_every_translator() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let kinds: Vec<NatKind> = vec![
        napt().new_tree(&mut runner).unwrap().current(),
        prefix().new_tree(&mut runner).unwrap().current(),
    ];
    for kind in kinds {
        let mut params = Run::params(1, Vec::new());
        params.paths = vec![
            PathParams { from: 0, to: 1, seats: vec![translator(true)] },
            PathParams { from: 1, to: 0, seats: vec![translator(false)] },
        ];
        params.nats = vec![NatParams { name: "nat".to_owned(), kind }];
        let mut run = Run::built(&params);
        for protocol in 0..=u8::MAX {
            for (port, from, to) in [(0, 0, 2), (1, 2, 4), (1, 2, 5), (0, 0, 4)] {
                let mut bytes = vec![0; 40];
                (bytes[0], bytes[6], bytes[7]) = (0x60, protocol, 64);
                set_ends(&mut bytes, from, to);
                run.feed_by(port, Instant::ZERO, &Frame::plain(bytes));
            }
        }
        run.shut_down();
    }
}
