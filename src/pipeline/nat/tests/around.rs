//! Fragments, packets between hosts inside, ICMP errors about them, and what became of bugs.

use super::*;
use crate::pipeline::params::{DelayParams, Distribution};

/// The first one goes first, and the others in the order in which they came: also on the way in, also between hosts inside.
#[test]
fn fragments_before_their_first_wait_for_it_wherever_they_go() {
    for late in [0, 5] {
        let mut params = params(
            NatKind::Napt(Box::new(NaptParams { filtering: Dependence::Independent, ..napt() })),
            Vec::new(),
            Vec::new(),
        );
        params.paths[1].seats.insert(0, delay(late).into());
        for (port, from, to, leaves, reached) in
            [(1, "10.0.2.2", PUBLIC, 0, HOST), (0, "10.0.1.3", PUBLIC, 0, HOST)]
        {
            let mut run = Run::built(&params);
            outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap();
            let fragments = fragments(&format!("{from}:53"), &format!("{to}:5000"), 7);
            for (step, at_place) in [3, 1, 0, 2].into_iter().enumerate() {
                run.feed_by(port, at(10 + step as u64), &Frame::plain(fragments[at_place].clone()));
            }
            run.finish();
            let wires = run.wires()[1..].to_vec();
            let offsets: Vec<usize> = wires.iter().map(|wire| offset(&wire.bytes) / 1_000).collect();
            assert_eq!(offsets, [0, 3, 1, 2], "{from}");
            let reached: IpAddr = reached.parse().unwrap();
            assert!(
                wires.iter().all(|wire| (wire.port, ends(&wire.bytes).1.ip()) == (leaves, reached)),
                "{from}"
            );
            let source: IpAddr = if port == 0 { PUBLIC } else { from }.parse().unwrap();
            assert!(wires.iter().all(|wire| ends(&wire.bytes).0.ip() == source));
        }
    }
}

fn delay(millis: u64) -> StageParams {
    stage(ImpairmentParams::Delay(DelayParams {
        delay: Duration::from_millis(millis),
        jitter: Duration::ZERO,
        distribution: Distribution::Uniform,
        reorder: false,
        half_life: None,
    }))
}

/// Fragments of a datagram, of a thousand bytes each.
fn fragments(from: &str, to: &str, id: u16) -> Vec<Vec<u8>> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (end(from), end(to)) else { panic!("IPv4") };
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source.ip().octets(), destination.ip().octets(), 64)
        .udp(source.port(), destination.port())
        .write(&mut bytes, &[9; 3_500])
        .unwrap();
    bytes[4..6].copy_from_slice(&id.to_be_bytes());
    bytes[6..8].fill(0);
    fix_checksums(&mut bytes);
    in_fragments(&bytes, 1_000)
}

/// Where a fragment belongs.
fn offset(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff) * 8
}

/// Hostile fragments cost no more than the bound, and no packet waits for ever.
#[test]
fn fragments_without_a_first_are_given_up() {
    let mut run = run(napt());
    for id in 0..100 {
        run.feed(at(0), &Frame::plain(fragments("10.0.1.2:5", "10.0.2.2:53", id)[1].clone()));
    }
    assert_eq!((run.router.held().packets, run.dropped(Reason::NatFragment)), (64, 36));
    run.advance(at(1_999));
    assert_eq!(run.router.held().packets, 64);
    run.advance(at(2_000));
    assert_eq!((run.router.held().packets, run.dropped(Reason::NatFragment)), (0, 100));
    assert_eq!(run.stage(0).drops.of(Reason::NatFragment).packets, 100);
    assert_eq!(run.stage(0).seen.packets, 100);
    run.feed(at(2_001), &Frame::plain(fragments("10.0.1.2:5", "10.0.2.2:53", 1)[1].clone()));
    run.shut_down();
    assert_eq!((run.router.held().packets, run.dropped(Reason::Shutdown)), (0, 1));
}

/// RFC 5508 REQ-7: errors of hosts inside about what other hosts inside sent.
#[test]
fn errors_about_hairpins_find_whom_they_concern() {
    let mut run =
        run(NaptParams { filtering: Dependence::Independent, allocation: PortAllocation::Random, ..napt() });
    let public = outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").unwrap().to_string();
    let sent = udp("10.0.1.3:6000", &public);
    run.feed(at(1), &sent);
    let got = run.wires()[1].bytes.clone();
    assert_eq!(ends(&got).1, end("10.0.1.2:5000"));
    run.feed(at(2), &error("10.0.1.2", &got));
    let wire = run.wires()[2].clone();
    assert_eq!((wire.port, flaw(&wire.bytes)), (0, None));
    // From the other host's address outside, about the packet as it was sent.
    assert_eq!(
        (ends(&wire.bytes).0.ip(), ends(&wire.bytes).1.ip()),
        (PUBLIC.parse().unwrap(), end("10.0.1.3:0").ip())
    );
    assert_eq!(wire.bytes[28 + 12..], sent.bytes[12..28]);
    check(&run);
}

/// A hop limit that ends at the router, and an MTU behind it: the router tells the host that sent, not its address outside.
#[test]
fn the_router_s_errors_about_hairpins_name_what_the_sender_knows() {
    let mtu = MtuParams { mtu: 600, overhead: 0, action: MtuAction::Icmp };
    let mut params = params(NatKind::Napt(Box::new(napt())), Vec::new(), Vec::new());
    params.paths.push(PathParams::new(0, 0, vec![stage(ImpairmentParams::Mtu(mtu))]));
    let forward = Forward { protocol: 17, address: 0, port: 8_080, to: ("10.0.1.3".parse().unwrap(), 80) };
    params.nats[0].kind = NatKind::Napt(Box::new(NaptParams { forwards: vec![forward], ..napt() }));
    let mut run = Run::built(&params);
    let mut short = udp("10.0.1.2:5000", "10.0.2.1:8080");
    short.bytes[8] = 1;
    fix_checksums(&mut short.bytes);
    let mut long = Spec::udp(1_000).frame();
    long.bytes[16..20].copy_from_slice(&[10, 0, 2, 1]);
    long.bytes[22..24].copy_from_slice(&8_080_u16.to_be_bytes());
    fix_checksums(&mut long.bytes);
    for frame in [short, long] {
        let before = run.wires().len();
        run.feed(at(0), &frame);
        let wire = run.wires()[before].clone();
        assert_eq!((wire.port, flaw(&wire.bytes)), (0, None));
        assert_eq!(ends(&wire.bytes).1.ip(), ends(&frame.bytes).0.ip());
        assert_eq!(wire.bytes[28 + 12..28 + 24], frame.bytes[12..24]);
    }
}

/// What no translator touches is told so all the same, of a family that it has no address of.
#[test]
fn errors_about_what_was_not_translated_are_sent() {
    let mtu = MtuParams { mtu: 1_280, overhead: 0, action: MtuAction::Icmp };
    let only_v4 = NaptParams { addresses: vec![PUBLIC.parse().unwrap()], ..napt() };
    let behind = vec![stage(ImpairmentParams::Mtu(mtu))];
    let mut run = Run::built(&params(NatKind::Napt(Box::new(only_v4)), Vec::new(), behind));
    run.feed(at(0), &Spec::udp(1_400).v6().frame());
    assert_eq!((run.wires().len(), run.wires()[0].port), (1, 0));
}

/// RFC 5508 section 3.1: echoes are asked for from inside. A request from outside is for the router, whatever its identifier.
#[test]
fn echo_requests_from_outside_are_the_router_s() {
    let mut run = run(NaptParams { filtering: Dependence::Independent, ..napt() });
    run.feed(at(0), &echo(HOST, SERVER, 77, true));
    for (port, from) in [(1, SERVER), (1, "10.0.2.3"), (0, HOST), (0, "10.0.1.3")] {
        let got = after(&mut run, port, at(1), &echo(from, PUBLIC, 77, true)).unwrap();
        assert_eq!((got.0, got.1, got.2.ip()), (port, end("10.0.2.1:77"), from.parse::<IpAddr>().unwrap()));
    }
}

/// A remote host that the filter admits to one port of a host does not take over the sessions that the host has with it by another port.
#[test]
fn a_stranger_does_not_move_a_session_to_another_port() {
    let dependent = NaptParams {
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::Independent,
        allocation: PortAllocation::Random,
        ..napt()
    };
    let mut run = run(dependent);
    let (host, server, other) = ("10.0.1.2:5000", "10.0.2.2:53", "10.0.2.3:53");
    let with_server = outer(&mut run, at(0), host, server).unwrap();
    let with_other = outer(&mut run, at(0), host, other).unwrap();
    assert_ne!(with_server, with_other);
    assert_eq!(inner(&mut run, at(1), other, &with_server.to_string()), None);
    assert_eq!(run.dropped(Reason::NatFiltered), 1);
    assert_eq!(outer(&mut run, at(2), host, other), Some(with_other));
    check(&run);
}

/// A silence of a day costs no longer than one of a second.
#[test]
fn rebindings_that_were_missed_are_one() {
    let rebind = Some(Rebind { at: Duration::from_nanos(1), every: Some(Duration::from_nanos(2)) });
    let mut run = run(NaptParams { rebind, ..napt() });
    for time in [0, 1, 86_400_000] {
        assert!(outer(&mut run, at(time), "10.0.1.2:5000", "10.0.2.2:53").is_some());
        assert_eq!(run.router.nats()[0].sessions(), 1);
    }
}

/// A packet that waited before the translator is dropped if its outside port was given to a host behind another port in the meantime.
#[test]
fn what_waited_does_not_reach_another_port_s_host() {
    let mut params = params(
        NatKind::Napt(Box::new(NaptParams {
            filtering: Dependence::Independent,
            ports: 2_000..=2_000,
            timeouts: NatTimeouts { udp: Duration::from_millis(50), ..NatTimeouts::default() },
            ..napt()
        })),
        Vec::new(),
        Vec::new(),
    );
    params.paths[1].seats.insert(0, delay(100).into());
    let mut third = params.ports[0].clone();
    third.name = "c".to_owned();
    third.addresses = vec!["10.0.3.2/24".parse().unwrap()];
    third.router = vec!["10.0.3.1".parse().unwrap()];
    params.ports.push(third);
    params.paths.push(PathParams { from: 2, to: 1, seats: vec![translator(true)] });
    params.paths.push(PathParams { from: 1, to: 2, seats: vec![translator(false)] });
    let mut run = Run::built(&params);
    assert!(outer(&mut run, at(0), "10.0.1.2:5000", "10.0.2.2:53").is_some());
    run.feed_by(1, at(1), &udp("10.0.2.2:53", "10.0.2.1:2000"));
    run.feed_by(2, at(60), &udp("10.0.3.2:5000", "10.0.2.2:53"));
    assert_eq!(ends(&run.wires()[1].bytes).0, end("10.0.2.1:2000"));
    run.finish();
    assert_eq!((run.wires().len(), run.dropped(Reason::NatNoMapping)), (2, 1));
}
