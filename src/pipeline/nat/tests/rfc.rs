//! Requirements of RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP) that the other tests do not show; docs/nat.md lists all.

use super::*;
use crate::pipeline::testing::frame::Extra;

use crate::pipeline::wire::tcp::flag::{ACK, RST, SYN};

/// RFC 4787 REQ-2: "paired".
#[test]
fn a_host_keeps_to_one_address_of_the_pool() {
    let addresses = (20..28).map(|last| format!("10.0.2.{last}").parse().unwrap()).collect();
    let mut run = run(NaptParams { addresses, ..napt() });
    let mut of_host = |host: u8, port: u16| {
        outer(&mut run, at(0), &format!("10.0.1.{host}:{port}"), "10.0.2.2:53").unwrap().ip()
    };
    let addresses: Vec<IpAddr> = (2..12).map(|host| of_host(host, 5_000)).collect();
    let again: Vec<IpAddr> = (2..12).map(|host| of_host(host, 6_000)).collect();
    assert_eq!(addresses, again);
    assert!(addresses.iter().collect::<BTreeSet<_>>().len() > 1, "the pool is used");
}

/// RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2: at least two minutes, four minutes, two hours and four minutes, one minute.
#[test]
fn what_is_not_said_keeps_sessions_as_long_as_the_rfcs_ask() {
    let timeouts = NatTimeouts::default();
    for (what, timeout, least) in [
        ("udp", timeouts.udp, 120),
        ("tcp_opening", timeouts.tcp_opening, 240),
        ("tcp_established", timeouts.tcp_established, 7_440),
        ("tcp_closing", timeouts.tcp_closing, 240),
        ("icmp", timeouts.icmp, 60),
    ] {
        assert!(timeout >= Duration::from_secs(least), "{what}: {timeout:?}, least {least} s");
    }
}

/// RFC 4787 REQ-11: what one run does every run does.
#[test]
fn conflicts_are_resolved_alike_each_time() {
    for allocation in [PortAllocation::Preserve, PortAllocation::Random, PortAllocation::Smallest] {
        let ports = || -> Vec<u16> {
            let mut run = run(NaptParams { allocation, ..napt() });
            let mut port = |host: u8| {
                outer(&mut run, at(0), &format!("10.0.1.{host}:5000"), "10.0.2.2:53").unwrap().port()
            };
            (2..30).map(&mut port).collect()
        };
        assert_eq!(ports(), ports());
    }
}

/// RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6: an error neither ends a session nor keeps it.
#[test]
fn errors_change_no_session() {
    let ten = Duration::from_secs(10);
    let timeouts = NatTimeouts { udp: ten, tcp_opening: ten, icmp: ten, ..NatTimeouts::default() };
    for kind in ["udp", "tcp", "echo"] {
        let mut run = run(NaptParams { timeouts, ..napt() });
        let packet = |back: bool| match (kind, back) {
            ("udp", false) => udp("10.0.1.2:5000", "10.0.2.2:53"),
            ("udp", true) => udp("10.0.2.2:53", "10.0.2.1:5000"),
            ("tcp", false) => tcp("10.0.1.2:5000", "10.0.2.2:53", SYN, (1, 0)),
            ("tcp", true) => tcp("10.0.2.2:53", "10.0.2.1:5000", RST | ACK, (1, 1)),
            (_, false) => echo(HOST, SERVER, 5_000, true),
            (_, true) => echo(SERVER, PUBLIC, 5_000, false),
        };
        run.feed(at(0), &packet(false));
        let out = run.wires()[0].bytes.clone();
        // A hard one and a soft one.
        for (time, code) in [(8_000, 3), (8_001, 1)] {
            let mut error = error("10.0.2.7", &out);
            error.bytes[20..22].copy_from_slice(&[3, code]);
            fix_checksums(&mut error.bytes);
            run.feed_by(1, at(time), &error);
        }
        assert_eq!((run.wires().len(), run.router.nats()[0].sessions()), (3, 1), "{kind}");
        assert!(after(&mut run, 1, at(9_000), &packet(true)).is_some(), "{kind}: it goes on");
        let mut silent = self::run(NaptParams { timeouts, ..napt() });
        silent.feed(at(0), &packet(false));
        silent.feed_by(1, at(8_000), &error("10.0.2.7", &out));
        assert!(after(&mut silent, 1, at(12_000), &packet(true)).is_none(), "{kind}: it was not kept");
    }
}

/// RFC 5382 REQ-1, REQ-3 and REQ-7: mappings and filters of TCP are those of UDP, and no port is given out twice.
#[test]
fn connections_share_the_port_of_their_endpoint_and_of_no_other() {
    let mut run = run(napt());
    let mut public = |from: &str, to: &str| after(&mut run, 0, at(0), &tcp(from, to, SYN, (1, 0))).unwrap().1;
    let first = public("10.0.1.2:5000", "10.0.2.2:80");
    assert_eq!(public("10.0.1.2:5000", "10.0.2.3:81"), first);
    assert_ne!(public("10.0.1.3:5000", "10.0.2.4:82"), first);
    let stranger = after(&mut run, 1, at(1), &tcp("10.0.2.9:80", "10.0.2.1:5000", SYN, (1, 0)));
    assert_eq!((stranger, run.dropped(Reason::NatFiltered)), (None, 1));
}

/// RFC 5382 REQ-2: both ends send a SYN, in either order, and the connection is established.
#[test]
fn both_sides_may_open_a_connection_at_once() {
    let (host, server, public) = ("10.0.1.2:5000", "10.0.2.2:80", "10.0.2.1:5000");
    let mut run = run(napt());
    let (out, back) = ((1, end(public), end(server)), (0, end(server), end(host)));
    let mut go = |time: u64, outward: bool, flags: u8| {
        let (port, from, to) = if outward { (0, host, server) } else { (1, server, public) };
        after(&mut run, port, at(time), &tcp(from, to, flags, (1, 0)))
    };
    assert_eq!(go(0, true, SYN), Some(out));
    assert_eq!(go(1, false, SYN), Some(back));
    assert_eq!(go(2, true, SYN | ACK), Some(out));
    assert_eq!(go(3, false, SYN | ACK), Some(back));
    // Established: silence longer than that for which an opening one is remembered.
    assert_eq!(go(7_000_000, false, ACK), Some(back));
}

/// RFC 5382 REQ-4: nobody is told, neither by a RST nor by an ICMP error; and a connection that the host then opens to there is
/// as any other.
#[test]
fn an_unasked_syn_is_dropped_in_silence() {
    let addresses = vec!["10.0.2.9".parse().unwrap()];
    for (napt, reason) in [
        (napt(), Reason::ToRouter),
        (NaptParams { addresses: addresses.clone(), ..napt() }, Reason::NatNoMapping),
    ] {
        let public = format!("{}:5000", napt.addresses[0]);
        let mut run = run(napt);
        let syn = tcp("10.0.2.2:80", &public, SYN, (1, 0));
        run.feed_by(1, at(0), &syn);
        assert_eq!((run.wires().len(), run.dropped(reason)), (0, 1));
        let out = after(&mut run, 0, at(100), &tcp("10.0.1.2:5000", "10.0.2.2:80", SYN, (1, 0)));
        assert_eq!(out, Some((1, end(&public), end("10.0.2.2:80"))));
        assert!(after(&mut run, 1, at(3_000), &syn).is_some());
    }
}

/// RFC 5382 REQ-8.
#[test]
fn connections_between_hosts_inside_are_hairpinned() {
    let forward = Forward { protocol: 6, address: 0, port: 8_080, to: ("10.0.1.3".parse().unwrap(), 80) };
    let mut run = run(NaptParams { forwards: vec![forward], ..napt() });
    let syn = after(&mut run, 0, at(0), &tcp("10.0.1.2:5000", "10.0.2.1:8080", SYN, (1, 0)));
    assert_eq!(syn, Some((0, end("10.0.2.1:5000"), end("10.0.1.3:80"))));
    let answer = after(&mut run, 0, at(1), &tcp("10.0.1.3:80", "10.0.2.1:5000", SYN | ACK, (1, 1)));
    assert_eq!(answer, Some((0, end("10.0.2.1:8080"), end("10.0.1.2:5000"))));
    check(&run);
}

/// RFC 5508 REQ-3 b: the quoted header may have options.
#[test]
fn errors_about_packets_with_options_find_whom_they_concern() {
    let mut run = run(NaptParams { allocation: PortAllocation::Random, ..napt() });
    let frame = Spec { extra: Extra::Options, ..Spec::udp(30) }.frame();
    run.feed(at(0), &frame);
    let out = run.wires()[0].bytes.clone();
    let header = usize::from(out[0] & 15) * 4;
    assert!(header > 20);
    let mut bytes = error("10.0.2.7", &out).bytes;
    bytes.truncate(28);
    bytes.extend(&out[..header + 8]);
    let length = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    fix_checksums(&mut bytes);
    run.feed_by(1, at(1), &Frame::plain(bytes));
    let wire = run.wires()[1].clone();
    assert_eq!((wire.port, flaw(&wire.bytes)), (0, None));
    assert_eq!(wire.bytes[28 + 12..], frame.bytes[12..header + 8]);
}

/// RFC 5508 REQ-4 and REQ-5: errors about nothing that is known go nowhere, from either side.
#[test]
fn errors_about_what_nobody_sent_are_dropped() {
    let addresses = vec!["10.0.2.9".parse().unwrap()];
    let mut run = run(NaptParams { addresses, ..napt() });
    run.feed_by(1, at(0), &error("10.0.2.7", &udp("10.0.2.9:5000", "10.0.2.2:53").bytes));
    run.feed(at(0), &error(HOST, &udp("10.0.2.2:53", "10.0.1.2:5000").bytes));
    assert_eq!((run.wires().len(), run.dropped(Reason::NatNoMapping)), (0, 2));
}
