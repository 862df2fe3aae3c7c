//! What happens anew is drawn anew: sessions that come back, rebindings; and segments of connections that were forgotten.

use super::*;
use crate::pipeline::params::MidStream;
use crate::pipeline::wire::tcp::flag::{ACK, RST, SYN};

/// What leaves from port 0 (inside) of a RST there.
fn resets(run: &Run) -> Vec<(SocketAddr, SocketAddr, u32, u32, u8)> {
    let of = |wire: crate::pipeline::testing::Wire| {
        let (from, to) = ends(&wire.bytes);
        assert_eq!((wire.port, flaw(&wire.bytes), wire.bytes[8]), (0, None, 64));
        let word = |at: usize| u32::from_be_bytes(wire.bytes[at..at + 4].try_into().unwrap());
        (from, to, word(24), word(28), wire.bytes[33])
    };
    run.wires().into_iter().map(of).collect()
}

#[test]
fn a_session_that_was_idle_comes_back_with_another_port() {
    let timeouts = NatTimeouts { udp: Duration::from_secs(10), ..NatTimeouts::default() };
    for (filtering, mapping) in
        [(Dependence::AddressAndPort, Dependence::Independent), (Dependence::Address, Dependence::Address)]
    {
        let mut run =
            run(NaptParams { timeouts, filtering, mapping, allocation: PortAllocation::Random, ..napt() });
        let ports: Vec<u16> = (0..50)
            .map(|round| {
                let time = at(round * 20_000);
                outer(&mut run, time, "10.0.1.2:5000", "10.0.2.2:53").unwrap().port()
            })
            .collect();
        // Two of 50 draws from 64,512 are the same with a probability of 1.9 %; two neighbours with 0.08 %. The seed is fixed.
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50, "{ports:?}");
        check(&run);
    }
}

/// How often an endpoint was given a port is its own business: others change nothing for it.
#[test]
fn draws_of_one_endpoint_do_not_depend_on_others() {
    let given = |others: u8| {
        let mut run = run(NaptParams { allocation: PortAllocation::Random, ..napt() });
        for host in 0..others {
            outer(&mut run, at(0), &format!("10.0.1.{}:77", host + 10), "10.0.2.2:53").unwrap();
        }
        outer(&mut run, at(1), "10.0.1.2:5000", "10.0.2.2:53").unwrap()
    };
    assert_eq!(given(0), given(20));
}

#[test]
fn rebinding_moves_every_host_to_another_address_of_the_pool() {
    let pool: Vec<IpAddr> = (10..26).map(|host| IpAddr::from([10, 0, 2, host])).collect();
    let rebind = Some(Rebind { at: Duration::from_secs(1), every: Some(Duration::from_secs(1)) });
    for count in [2, 3, 16] {
        let mut run = run(NaptParams { rebind, addresses: pool[..count].to_vec(), ..napt() });
        let mut seen = BTreeMap::new();
        for round in 0..40 {
            for host in 2..8 {
                let from = format!("10.0.1.{host}:5000");
                let public = outer(&mut run, at(500 + round * 1_000), &from, "10.0.2.2:53").unwrap().ip();
                let before = seen.insert(host, public);
                assert_ne!(before, Some(public), "host {host} in round {round}");
                // Within a round it keeps to it ("paired").
                let again = outer(&mut run, at(500 + round * 1_000), &from, "10.0.2.3:9").unwrap().ip();
                assert_eq!(again, public);
            }
            check(&run);
        }
        let drawn: BTreeSet<IpAddr> = run.wires().iter().map(|wire| ends(&wire.bytes).0.ip()).collect();
        assert_eq!(drawn.len(), count, "all addresses are used");
    }
}

/// Forwards are configured, not remembered: a rebinding keeps them, and their ports stay theirs.
#[test]
fn rebinding_keeps_forwards() {
    let forward = Forward { protocol: 17, address: 0, port: 2_000, to: (HOST.parse().unwrap(), 80) };
    let rebind = Some(Rebind { at: Duration::from_secs(5), every: None });
    let mut run = run(NaptParams {
        forwards: vec![forward],
        rebind,
        ports: 2_000..=2_003,
        allocation: PortAllocation::Smallest,
        ..napt()
    });
    for time in [0, 6_000] {
        assert_eq!(inner(&mut run, at(time), "10.0.2.2:999", "10.0.2.1:2000"), Some(end("10.0.1.2:80")));
        let public = outer(&mut run, at(time), "10.0.1.3:5000", "10.0.2.2:53");
        assert_eq!(public, Some(end("10.0.2.1:2001")), "the first that is nobody's");
        check(&run);
    }
}

const CLIENT: &str = "10.0.1.2:5000";
const WEB: &str = "10.0.2.2:80";

/// A connection that was idle for too long.
fn forgotten(mid_stream: MidStream) -> Run {
    let timeouts = NatTimeouts { tcp_established: Duration::from_secs(10), ..NatTimeouts::default() };
    let mut run = run(NaptParams { timeouts, mid_stream, ..napt() });
    assert!(after(&mut run, 0, at(0), &tcp(CLIENT, WEB, SYN, (1, 0))).is_some());
    assert!(after(&mut run, 1, at(0), &tcp(WEB, "10.0.2.1:5000", SYN | ACK, (1, 1))).is_some());
    assert!(after(&mut run, 0, at(9_000), &tcp(CLIENT, WEB, ACK, (1, 1))).is_some());
    run
}

#[test]
fn segments_of_a_forgotten_connection_fare_as_configured() {
    let mut open = forgotten(MidStream::Open);
    assert!(after(&mut open, 0, at(20_000), &tcp(CLIENT, WEB, ACK, (1, 1))).is_some());

    for mid_stream in [MidStream::Drop, MidStream::Reset] {
        let mut run = forgotten(mid_stream);
        let before = run.wires().len();
        run.feed(at(20_000), &tcp(CLIENT, WEB, ACK, (1, 1)));
        run.feed(at(20_000), &tcp(CLIENT, WEB, SYN | ACK, (1, 1)));
        // A packet that is not part of a TCP connection begins a session as always.
        assert!(after(&mut run, 0, at(20_000), &udp(CLIENT, "10.0.2.2:53")).is_some());
        assert_eq!(run.dropped(Reason::NatNoSession), 2);
        assert_eq!(run.stage(0).drops.of(Reason::NatNoSession).packets, 2);
        let answers = if mid_stream == MidStream::Reset { 2 } else { 0 };
        assert_eq!(run.wires().len() - before, 1 + answers, "{mid_stream:?}");
        assert_eq!(run.stage(0).answered.packets, answers as u64);
        assert_eq!(run.router.nats()[0].sessions(), 1, "the datagram's");
        // From outside: the port has no session any more.
        run.feed_by(1, at(20_001), &tcp(WEB, "10.0.2.1:5000", ACK, (1, 1)));
        assert_eq!(run.wires().len() - before, 1 + answers);
        // A new connection is welcome.
        assert!(after(&mut run, 0, at(20_002), &tcp(CLIENT, WEB, SYN, (2, 0))).is_some());
        check(&run);
    }
}

/// RFC 9293 section 3.10.7.1, in trains as in single packets, and never about a RST.
#[test]
fn a_reset_is_what_a_host_without_that_connection_sends() {
    let napt = || NaptParams { mid_stream: MidStream::Reset, ..napt() };
    let mut run = run(napt());
    let segment = |flags: u8, payload: usize| Spec {
        flags,
        sequence: 1_000,
        acknowledgement: 77,
        source_port: 5_000,
        destination_port: 80,
        ..Spec::tcp(payload)
    };
    run.feed(at(0), &segment(ACK, 100).frame());
    run.feed(at(0), &segment(0, 100).frame());
    run.feed(at(0), &segment(1, 100).frame());
    run.feed(at(0), &segment(RST, 0).frame());
    run.feed(at(0), &segment(RST | ACK, 0).frame());
    let (web, client) = (end(WEB), end(CLIENT));
    assert_eq!(
        resets(&run),
        [(web, client, 77, 0, RST), (web, client, 0, 1_100, RST | ACK), (web, client, 0, 1_101, RST | ACK),]
    );
    assert_eq!((run.dropped(Reason::NatNoSession), run.router.nats()[0].sessions()), (5, 0));
    for partial in [false, true] {
        let train = Spec { partial, ..segment(ACK, 3_000) }.train(1_000);
        let (mut whole, mut singles) = (self::run(napt()), self::run(napt()));
        whole.feed(at(0), &train.frame());
        for wire in train.frame().wires() {
            singles.feed(at(0), &Frame::plain(wire));
        }
        assert_eq!(resets(&whole), resets(&singles));
        assert_eq!(resets(&whole).len(), 3);
        assert_eq!(whole.stage(0), singles.stage(0));
    }
    // IPv6 alike.
    let mut run = self::run(napt());
    run.feed(at(0), &segment(ACK, 9).v6().frame());
    let wire = run.wires().remove(0);
    assert_eq!((wire.port, flaw(&wire.bytes), wire.bytes[7], wire.bytes[53]), (0, None, 64, RST));
}
