//! Translators in a router, packets by etherparse. Inside is 10.0.1.0/24 (port 0), outside 10.0.2.0/24 (port 1); the
//! translator has 10.0.2.1 or 10.0.2.9.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;

use crate::pipeline::counters::Reason;
use crate::pipeline::params::{
    Dependence, DropParams, Forward, ImpairmentParams, InjectParams, InjectTo, Injected, MtuAction,
    MtuParams, NaptParams, NatClock, NatKind, NatParams, NatTimeouts, PathParams, PortAllocation,
    PrefixParams, Rebind, RouterParams, RstSequence, SeatParams, StageParams,
};
use crate::pipeline::testing::frame::{fix_checksums, in_fragments};
use crate::pipeline::testing::{Frame, Run, Spec, flaw, napt, stage, translator};
use crate::pipeline::time::{Duration, Instant};

const HOST: &str = "10.0.1.2";
const SERVER: &str = "10.0.2.2";
const PUBLIC: &str = "10.0.2.1";

mod around;
mod clock;
mod errors;
mod events;
mod rfc;
mod table;
mod work;

fn params(kind: NatKind, before: Vec<StageParams>, behind: Vec<StageParams>) -> RouterParams {
    let seats = |stages: Vec<StageParams>| stages.into_iter().map(SeatParams::Stage).collect();
    let mut params = Run::params(1, Vec::new());
    params.paths = vec![
        PathParams { from: 0, to: 1, seats: [seats(before), vec![translator(true)], seats(behind)].concat() },
        PathParams { from: 1, to: 0, seats: vec![translator(false)] },
    ];
    params.nats = vec![NatParams { name: "nat".to_owned(), kind }];
    params
}

fn run(napt: NaptParams) -> Run {
    Run::built(&params(NatKind::Napt(Box::new(napt)), Vec::new(), Vec::new()))
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A datagram.
fn udp(from: &str, to: &str) -> Frame {
    match (end(from), end(to)) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            built(PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64).udp(from.port(), to.port()))
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            built(PacketBuilder::ipv6(from.ip().octets(), to.ip().octets(), 64).udp(from.port(), to.port()))
        }
        _ => panic!("two families"),
    }
}

fn built(builder: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Frame {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload").unwrap();
    Frame::plain(bytes)
}

/// A segment with these flags, and timestamps.
fn tcp(from: &str, to: &str, flags: u8, clock: (u32, u32)) -> Frame {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (end(from), end(to)) else { panic!("IPv4") };
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
        .tcp(from.port(), to.port(), 7, 65_000)
        .options(&[etherparse::TcpOptionElement::Timestamp(clock.0, clock.1)])
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes[33] = flags;
    fix_checksums(&mut bytes);
    Frame::plain(bytes)
}

/// An echo request or reply.
fn echo(from: &str, to: &str, id: u16, request: bool) -> Frame {
    let [from, to] = [from, to].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let builder = PacketBuilder::ipv4(from, to, 64);
    let builder = if request { builder.icmpv4_echo_request(id, 1) } else { builder.icmpv4_echo_reply(id, 1) };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"ping").unwrap();
    Frame::plain(bytes)
}

/// Source and destination of a packet.
fn ends(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = PacketHeaders::from_ip_slice(bytes).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match packet.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Arp(_) => panic!("IP"),
    };
    let ports = match packet.transport {
        Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Icmpv4(_)) => (u16::from_be_bytes([bytes[24], bytes[25]]), 0),
        _ => (0, 0),
    };
    ((source, ports.0).into(), (destination, ports.1).into())
}

/// What became of a packet: the port that it left by, and its ends; `None` if it did not.
fn after(run: &mut Run, port: u16, time: Instant, frame: &Frame) -> Option<(u16, SocketAddr, SocketAddr)> {
    let before = run.wires().len();
    run.feed_by(port, time, frame);
    let wires = run.wires();
    let wire = wires.get(before)?;
    assert_eq!(flaw(&wire.bytes), None, "{:02x?}", wire.bytes);
    let (source, destination) = ends(&wire.bytes);
    Some((wire.port, source, destination))
}

/// The endpoint outside from which a datagram leaves.
fn outer(run: &mut Run, time: Instant, from: &str, to: &str) -> Option<SocketAddr> {
    let (port, source, destination) = after(run, 0, time, &udp(from, to))?;
    assert_eq!((port, destination), (1, end(to)));
    Some(source)
}

/// Which host inside a datagram reaches.
fn inner(run: &mut Run, time: Instant, from: &str, to: &str) -> Option<SocketAddr> {
    let (port, source, destination) = after(run, 1, time, &udp(from, to))?;
    assert_eq!((port, source), (0, end(from)));
    Some(destination)
}

/// An ICMP error about `packet`, as a router at `from` sends it.
fn error(from: &str, packet: &[u8]) -> Frame {
    let to = ends(packet).0.ip();
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from.parse().unwrap(), to) else { panic!("IPv4") };
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from.octets(), to.octets(), 64)
        .icmpv4(etherparse::Icmpv4Type::TimeExceeded(
            etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit,
        ))
        .write(&mut bytes, &packet[..28])
        .unwrap();
    Frame::plain(bytes)
}

/// Behind a translator a stage forges what the translator's address seems to hear.
#[test]
fn what_is_forged_for_the_sender_goes_to_the_host_inside() {
    let rst = InjectParams { kind: Injected::Rst(RstSequence::Exact), to: InjectTo::Sender, count: 1 };
    let forge = || vec![stage(ImpairmentParams::Inject(rst))];
    let napt = NaptParams { allocation: PortAllocation::Random, ..napt() };
    for (before, behind) in [(Vec::new(), forge()), (forge(), Vec::new())] {
        let mut run = Run::built(&params(NatKind::Napt(Box::new(napt.clone())), before, behind));
        run.feed(at(0), &tcp("10.0.1.2:4000", "10.0.2.2:80", 2, (5, 0)));
        let wires = run.wires();
        let (out, back): (Vec<_>, Vec<_>) = wires.iter().partition(|wire| wire.port == 1);
        assert_eq!((out.len(), back.len()), (1, 1));
        assert_eq!((ends(&out[0].bytes).0.ip(), flaw(&back[0].bytes)), (PUBLIC.parse().unwrap(), None));
        assert_ne!(ends(&out[0].bytes).0.port(), 4000);
        assert_eq!(ends(&back[0].bytes), (end("10.0.2.2:80"), end("10.0.1.2:4000")));
    }
}

/// A stage behind a translator is asked by its own match.
#[test]
fn stages_behind_a_translator_keep_their_match() {
    let mut drops = stage(ImpairmentParams::Drop(DropParams));
    drops.select.protocols = vec![6];
    let mut params = params(NatKind::Napt(Box::new(napt())), Vec::new(), Vec::new());
    params.paths[0].seats.push(drops.into());
    let mut run = Run::built(&params);
    run.feed(Instant::ZERO, &Spec::udp(10).frame());
    assert_eq!(run.wires().len(), 1);
}

#[test]
fn a_host_inside_hides_behind_the_router_and_is_answered() {
    for (host, server, public) in [
        ("10.0.1.2:5000", "10.0.2.2:53", "10.0.2.1:5000"),
        ("[fd00:1::2]:5000", "[fd00:2::2]:53", "[fd00:2::1]:5000"),
    ] {
        let mut run = run(napt());
        assert_eq!(outer(&mut run, at(0), host, server), Some(end(public)));
        assert_eq!(inner(&mut run, at(1), server, public), Some(end(host)));
        assert_eq!((run.stage(0).rewritten.packets, run.router.nats()[0].sessions()), (1, 1));
    }
}

/// RFC 4787 REQ-3 and the recommendation of section 4.2.2.
#[test]
fn two_hosts_with_one_port_get_two_of_one_parity() {
    let mut run = run(napt());
    let first = outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap();
    let second = outer(&mut run, at(0), "10.0.1.3:5000", "10.0.2.2:53").unwrap();
    assert!(first.port() == 5_000 && second.port() != 5_000 && second.port().is_multiple_of(2), "{second}");
    assert_eq!(inner(&mut run, at(1), "10.0.2.2:53", &second.to_string()), Some(end("10.0.1.3:5000")));
    // A host keeps its port while it talks (REQ-1).
    assert_eq!(outer(&mut run, at(2), "10.0.1.3:5000", "10.0.2.2:53"), Some(second));
}

/// RFC 4787 section 4.1.
#[test]
fn mappings_depend_on_what_they_should() {
    for (mapping, shared) in [
        (Dependence::Independent, [true, true]),
        (Dependence::Address, [true, false]),
        (Dependence::AddressAndPort, [false, false]),
    ] {
        let mut run = run(NaptParams { mapping, ..napt() });
        let mut to = |server| outer(&mut run, at(0), "10.0.1.2:5000", server).unwrap();
        let first = to("10.0.2.2:53");
        assert_eq!([to("10.0.2.2:54") == first, to("10.0.2.3:53") == first], shared, "{mapping:?}");
        assert_eq!(to("10.0.2.2:53"), first);
    }
}

/// RFC 4787 section 5.
#[test]
fn filters_depend_on_what_they_should() {
    for (filtering, passes) in [
        (Dependence::Independent, [true, true]),
        (Dependence::Address, [true, false]),
        (Dependence::AddressAndPort, [false, false]),
    ] {
        let mut run = run(NaptParams { filtering, ..napt() });
        outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap();
        let mut from = |server| inner(&mut run, at(1), server, "10.0.2.1:5000").is_some();
        assert_eq!([from("10.0.2.2:54"), from("10.0.2.3:53")], passes, "{filtering:?}");
        assert!(from("10.0.2.2:53"));
        let filtered = passes.iter().filter(|passes| !**passes).count() as u64;
        assert_eq!(run.dropped(Reason::NatFiltered), filtered);
        // No session has that port: the packet is for the router itself, which has no service there.
        assert_eq!(inner(&mut run, at(2), "10.0.2.2:53", "10.0.2.1:5001"), None);
        assert_eq!(run.dropped(Reason::ToRouter), 1);
    }
}

/// RFC 4787 REQ-9: by their outside addresses, and so the other sees them.
#[test]
fn hosts_inside_reach_each_other_by_their_outside_addresses() {
    let mut run = run(NaptParams { filtering: Dependence::Independent, ..napt() });
    outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap();
    outer(&mut run, at(0), "10.0.1.3:6000", "10.0.2.2:53").unwrap();
    let got = after(&mut run, 0, at(1), &udp("10.0.1.3:6000", "10.0.2.1:5000"));
    assert_eq!(got, Some((0, end("10.0.2.1:6000"), end("10.0.1.2:5000"))));
    let answer = after(&mut run, 0, at(2), &udp("10.0.1.2:5000", "10.0.2.1:6000"));
    assert_eq!(answer, Some((0, end("10.0.2.1:5000"), end("10.0.1.3:6000"))));

    let mut closed = self::run(NaptParams { hairpin: false, ..napt() });
    outer(&mut closed, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap();
    assert_eq!(after(&mut closed, 0, at(1), &udp("10.0.1.3:6000", "10.0.2.1:5000")), None);
    assert_eq!(closed.dropped(Reason::NatFiltered), 1);
}

#[test]
fn a_forward_leads_to_a_host_inside_and_back() {
    let forward = Forward { protocol: 17, address: 0, port: 8_080, to: (HOST.parse().unwrap(), 80) };
    for mapping in [Dependence::Independent, Dependence::AddressAndPort] {
        let mut run = run(NaptParams { forwards: vec![forward], mapping, ..napt() });
        assert_eq!(inner(&mut run, at(0), "10.0.2.2:999", "10.0.2.1:8080"), Some(end("10.0.1.2:80")));
        assert_eq!(outer(&mut run, at(1), "10.0.1.2:80", "10.0.2.2:999"), Some(end("10.0.2.1:8080")));
        // Also where the host speaks first.
        assert_eq!(outer(&mut run, at(1), "10.0.1.2:80", "10.0.2.7:7"), Some(end("10.0.2.1:8080")));
        check(&run);
    }
}

/// RFC 5508 REQ-1.
#[test]
fn pings_of_two_hosts_with_one_identifier_do_not_meet() {
    let mut run = run(napt());
    let mut ping = |host: &str| after(&mut run, 0, at(0), &echo(host, SERVER, 77, true)).unwrap().1;
    let (first, second) = (ping(HOST), ping("10.0.1.3"));
    assert_eq!((first, second.ip()), (end("10.0.2.1:77"), first.ip()));
    assert_ne!(second.port(), 77);
    for (id, host) in [(77, HOST), (second.port(), "10.0.1.3")] {
        let got = after(&mut run, 1, at(1), &echo(SERVER, PUBLIC, id, false)).unwrap();
        assert_eq!((got.1.port(), got.2), (77, end(&format!("{host}:0"))));
    }
    // The router's own address still answers pings from outside.
    let got = after(&mut run, 1, at(1), &echo(SERVER, PUBLIC, 5, true)).unwrap();
    assert_eq!((got.0, got.1.port(), got.2), (1, 5, end("10.0.2.2:0")));
}

/// RFC 4787 REQ-14, in whatever order they come.
#[test]
fn fragments_follow_their_first() {
    for (v6, first_at) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
        let mut run = run(napt());
        let whole =
            Spec { v6, dont_fragment: false, source_port: 5_000, destination_port: 53, ..Spec::udp(3_000) }
                .frame()
                .bytes;
        let fragments = in_fragments(&whole, 1_000);
        let mut came = fragments.clone();
        came[..=first_at].rotate_left(1);
        for (step, fragment) in came.iter().enumerate() {
            assert_eq!(
                (run.wires().is_empty(), run.router.held().packets),
                (step <= first_at, if step <= first_at { step as u64 } else { 0 })
            );
            run.feed(at(step as u64), &Frame::plain(fragment.clone()));
            run.advance(at(step as u64));
        }
        let wires = run.wires();
        assert_eq!((wires.len(), run.router.held().packets), (fragments.len(), 0));
        let public = if v6 { "fd00:2::1" } else { PUBLIC };
        assert!(wires.iter().all(|wire| ends(&wire.bytes).0.ip() == public.parse::<IpAddr>().unwrap()));
        // Together they are a datagram with a right checksum.
        let header = if v6 { 48 } else { 20 };
        let mut joined = whole[..if v6 { 40 } else { 20 }].to_vec();
        let source = if v6 { 8..24 } else { 12..16 };
        joined[source.clone()].copy_from_slice(&wires[0].bytes[source]);
        joined.extend(wires.iter().flat_map(|wire| wire.bytes[header..].to_vec()));
        let mut right = joined.clone();
        fix_checksums(&mut right);
        let transport = if v6 { 40 } else { 20 };
        assert_eq!(joined[transport..], right[transport..]);
    }
}

#[test]
fn rebinding_gives_every_session_another_port() {
    let rebind = Some(Rebind { at: Duration::from_secs(5), every: Some(Duration::from_secs(5)) });
    let mut run = run(NaptParams { rebind, ..napt() });
    let (host, server) = ("10.0.1.2:5000", "10.0.2.2:53");
    let first = outer(&mut run, at(0), host, server).unwrap();
    assert_eq!(inner(&mut run, at(4_999), server, &first.to_string()), Some(end(host)));
    assert_eq!(inner(&mut run, at(5_000), server, &first.to_string()), None, "forgotten");
    let second = outer(&mut run, at(5_001), host, server).unwrap();
    assert_eq!(inner(&mut run, at(6_000), server, &second.to_string()), Some(end(host)));
    let third = outer(&mut run, at(17_000), host, server).unwrap();
    let ports: BTreeSet<u16> = [first, second, third].iter().map(SocketAddr::port).collect();
    assert_eq!(ports.len(), 3);
}

#[test]
fn prefixes_are_translated_without_a_table() {
    let mut params = params(
        NatKind::Prefix(PrefixParams {
            inside: "fd00:1::".parse().unwrap(),
            outside: "fd00:2:0:7::".parse().unwrap(),
            length: 64,
        }),
        Vec::new(),
        Vec::new(),
    );
    params.routes.push(crate::pipeline::params::RouteParams {
        prefix: "fd00:1::/64".parse().unwrap(),
        target: crate::pipeline::params::RouteTarget::Port(0),
    });
    let mut run = Run::built(&params);
    let out = after(&mut run, 0, at(0), &udp("[fd00:1::2]:5000", "[fd00:2::2]:53")).unwrap();
    let public = out.1;
    assert!(public.ip().to_string().starts_with("fd00:2:0:7:") && public.port() == 5_000, "{public}");
    let back = after(&mut run, 1, at(0), &udp("[fd00:2::2]:53", &public.to_string())).unwrap();
    assert_eq!((back.0, back.2), (0, end("[fd00:1::2]:5000")));
    // IPv4 is not its business.
    assert_eq!(outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53"), Some(end("10.0.1.2:5000")));
}

fn check(run: &Run) {
    for nat in run.router.nats() {
        if let super::Kind::Napt(napt) = &nat.kind {
            napt.check();
        }
    }
}

fn dependence() -> impl Strategy<Value = Dependence> {
    prop_oneof![Just(Dependence::Independent), Just(Dependence::Address), Just(Dependence::AddressAndPort)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever hosts send and however the translator is set: what leaves is answered to whom it came from, no two
    /// endpoints inside share one outside, the table keeps its bound, and nothing is lost without a reason.
    #[test]
    fn answers_reach_whom_they_are_for(
        mapping in dependence(), filtering in dependence(), policy in 0..3_u8, table_size in 1..12_usize,
        steps in proptest::collection::vec((0..4_u8, 0..4_u16, 0..3_u8, 0..3_u16, 0..4_000_u64), 1..60),
        rebind: bool,
    ) {
        let allocation = [PortAllocation::Preserve, PortAllocation::Random, PortAllocation::Smallest][usize::from(policy)];
        let timeouts = NatTimeouts { udp: Duration::from_secs(5), ..NatTimeouts::default() };
        let rebind = rebind.then_some(Rebind { at: Duration::from_secs(20), every: None });
        let ports = 2_000..=2_006;
        let mut run = run(NaptParams { ports, allocation, mapping, filtering, table_size, timeouts, rebind, ..napt() });
        let mut now = 0;
        let mut owners: BTreeMap<SocketAddr, (String, u64)> = BTreeMap::new();
        for (host, port, server, to_port, wait) in steps {
            now += wait;
            let (from, to) = (format!("10.0.1.{}:{}", host + 2, port + 1_999), format!("10.0.2.{}:{}", server + 2, to_port + 1));
            let Some(public) = outer(&mut run, at(now), &from, &to) else { continue };
            prop_assert!((2_000..=2_006).contains(&public.port()));
            if let Some((owner, last)) = owners.get(&public) {
                prop_assert!(*owner == from || now >= last + 5_000 || now >= 20_000, "{public} is {owner}'s and {from}'s");
            }
            owners.insert(public, (from.clone(), now));
            prop_assert_eq!(inner(&mut run, at(now), &to, &public.to_string()), Some(end(&from)));
            prop_assert!(run.router.nats()[0].sessions() <= table_size);
            check(&run);
        }
        run.shut_down();
    }

    /// A train fares as its segments, and its pseudo-header sum follows.
    #[test]
    fn trains_are_translated_as_their_segments(v6: bool, is_udp: bool, payload in 1..5_000_usize, segment in 1..1_400_u16, one: bool) {
        let clock = if one { NatClock::One } else { NatClock::Pass };
        let options = if is_udp { Vec::new() } else { vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 3] };
        let spec = Spec { v6, udp: is_udp, options, ..Spec::tcp(payload) }.train(segment);
        let mut train = run(NaptParams { clock, ..napt() });
        train.feed(at(0), &spec.frame());
        let mut singles = run(NaptParams { clock, ..napt() });
        for wire in spec.frame().wires() {
            singles.feed(at(0), &Frame::plain(wire));
        }
        let bytes = |run: &Run| -> Vec<Vec<u8>> { run.wires().into_iter().map(|wire| wire.bytes).collect() };
        prop_assert_eq!(bytes(&train), bytes(&singles));
        prop_assert_eq!(train.stage(0).rewritten, singles.stage(0).rewritten);
        for wire in bytes(&train) {
            prop_assert_eq!(flaw(&wire), None);
        }
    }

    /// From both sides, with headers that lie.
    #[test]
    fn hostile_packets_do_no_harm(
        packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..60), 0..3_u8, any::<bool>(), 0..6_u8), 1..30),
    ) {
        let mut run = run(NaptParams { table_size: 4, clock: NatClock::One, ..napt() });
        for (tail, protocol, inside, kind) in packets {
            let template = match kind {
                0 => echo(HOST, SERVER, 1, true),
                1 => error("10.0.1.2", &udp("10.0.1.2:5000", "10.0.2.2:53").bytes),
                2 => Spec::udp(20).v6().frame(),
                3 => tcp("10.0.1.2:5000", "10.0.2.2:80", 2, (1, 1)),
                _ => udp("10.0.1.2:5000", "10.0.2.2:53"),
            };
            let mut bytes = template.bytes;
            let v6 = bytes[0] >> 4 == 6;
            let keep = if v6 { 40 } else { 20 };
            bytes.truncate(keep + usize::from(protocol) * 4);
            bytes.extend(&tail);
            let length = bytes.len();
            if v6 {
                bytes[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            } else {
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                if let Some(flags) = tail.first() {
                    bytes[6] = flags & 0x3f;
                }
                if !inside {
                    bytes[12..16].copy_from_slice(&[10, 0, 2, 2]);
                    bytes[16..20].copy_from_slice(&[10, 0, 2, 1]);
                }
            }
            run.feed_by(u16::from(!inside), at(0), &Frame::plain(bytes));
            check(&run);
        }
        prop_assert!(run.router.nats()[0].sessions() <= 4);
    }
}
